//! What is an edit to do? Said once more, on what a policy shows instead of on its text.

use crate::broker::access::{HIDDEN_BY_DEFAULT, Policy};
use muster_protocol::policy::{
    BrokerShown, CollectiveShown, EntryShown, GroupShown, PAGE_MOST, Part, ShowAnswer, ShowQuery, UserShown,
};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// All that a policy shows, and the hashes, which it does not.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    users: BTreeMap<String, (UserShown, String)>,
    groups: BTreeMap<String, GroupShown>,
    acl: Vec<EntryShown>,
    hidden: Vec<String>,
    collectives: Vec<CollectiveShown>,
    brokers: BTreeMap<String, BrokerShown>,
}

impl Shown {
    /// Read in pages of this size.
    pub(super) fn of(policy: &Policy, page: u32) -> Shown {
        let all = |what: Part| {
            let (mut pages, mut after) = (Vec::<ShowAnswer>::new(), None);
            loop {
                let query = ShowQuery { what, name: None, after, limit: Some(page) };
                let answer = policy.show(&query).unwrap();
                assert!(answer.len() <= page.min(PAGE_MOST) as usize && (!answer.is_empty() || pages.is_empty()));
                after = answer.next.clone();
                pages.push(answer);
                if after.is_none() {
                    return pages;
                }
            }
        };
        let hash = |name: &str| policy.user(name).unwrap().password.as_str().to_owned();
        let users = all(Part::Users).into_iter().flat_map(|page| page.users);
        let groups = all(Part::Groups).into_iter().flat_map(|page| page.groups);
        let acl = all(Part::Acl).into_iter().flat_map(|page| page.acl);
        let brokers = all(Part::Brokers).into_iter().flat_map(|page| page.brokers);
        Shown {
            users: users.map(|user| (user.name.clone(), (user.clone(), hash(&user.name)))).collect(),
            groups: groups.map(|group| (group.name.clone(), group)).collect(),
            // On which line it stands is another matter.
            acl: acl.map(|entry| EntryShown { line: 0, ..entry }).collect(),
            hidden: all(Part::Hidden).into_iter().flat_map(|page| page.hidden).map(|hidden| hidden.pattern).collect(),
            collectives: all(Part::Collectives).into_iter().flat_map(|page| page.collectives).collect(),
            brokers: brokers.map(|broker| (broker.name.clone(), broker)).collect(),
        }
    }

    /// Does an edit; false if it does not fit. Names of groups that are not there count as names.
    pub(super) fn apply(&mut self, edit: &Json) -> bool {
        let fits = self.done(edit).is_some();
        for user in self.users.values_mut() {
            user.0.groups.sort();
            user.0.groups.dedup();
        }
        for (name, group) in &mut self.groups {
            group.members = self.users.values().filter(|(user, _)| user.groups.contains(name)).count() as u64;
            group.shows.sort_by_key(|pattern| self.hidden.iter().position(|it| it == pattern));
        }
        fits
    }

    /// Whether a user or an entry names a group that is not there: such a policy is refused.
    pub(super) fn names_nobody(&self) -> bool {
        let of_users = self.users.values().flat_map(|(user, _)| &user.groups);
        let of_entries = self.acl.iter().flat_map(|entry| (0..3).flat_map(|right| granted(entry, right)));
        of_users.chain(of_entries).any(|group| !self.groups.contains_key(group))
    }

    fn done(&mut self, edit: &Json) -> Option<()> {
        let text = |field: &str| edit[field].as_str().unwrap_or_default().to_owned();
        let list = |field: &str| texts(&edit[field]);
        let unset = list("unset");
        let (name, group) = (text("name"), text("group"));
        match edit["edit"].as_str()? {
            "user-add" => {
                let mut user = UserShown { name: name.clone(), kind: text("kind"), ..UserShown::default() };
                user.collective = (user.kind == "agent").then(|| self.collectives[0].name.clone());
                set_user(&mut user, edit, &[]);
                (!self.users.contains_key(&name)).then_some(())?;
                self.users.insert(name, (user, text("password")));
            }
            "user-set" => {
                let (user, _) = self.users.get_mut(&name)?;
                let given = ["groups", "networks", "disabled", "expires", "certificate", "revoked-before", "facts"];
                (!given.iter().any(|field| edit.get(field).is_some() && unset.contains(&(*field).to_owned())))
                    .then_some(())?;
                set_user(user, edit, &unset);
            }
            "user-remove" => _ = self.users.remove(&name)?,
            "group-add" | "group-set" => {
                let is_new = edit["edit"] == "group-add";
                (self.groups.contains_key(&name) != is_new).then_some(())?;
                let limits = edit["limits"].as_object().cloned().unwrap_or_default();
                let given = |field: &String| edit.get(field).is_some() || limits.contains_key(field);
                (!unset.iter().any(given)).then_some(())?;
                let group = self.groups.entry(name.clone()).or_default();
                group.name = name;
                if let Some(scope) = edit["scope"].as_str() {
                    group.scope = Some(scope.to_owned());
                }
                group.all = edit["all"].as_bool().unwrap_or(group.all);
                group.limits.extend(limits.iter().map(|(limit, most)| (limit.clone(), most.as_u64().unwrap())));
                for field in unset {
                    match field.as_str() {
                        "scope" => group.scope = None,
                        "all" => group.all = false,
                        _ => _ = group.limits.remove(&field),
                    }
                }
            }
            "group-remove" => {
                self.groups.remove(&name)?;
                self.users.values_mut().for_each(|(user, _)| user.groups.retain(|group| *group != name));
                self.revoke(|_, _, group| group == name);
            }
            "group-add-member" => {
                self.groups.get(&group)?;
                self.users.get_mut(&text("user"))?.0.groups.push(group);
            }
            "group-remove-member" => {
                self.groups.get(&group)?;
                let groups = &mut self.users.get_mut(&text("user"))?.0.groups;
                groups.contains(&group).then_some(())?;
                groups.retain(|it| *it != group);
            }
            "acl-add" => {
                let destination = text("destination");
                let mut all: Vec<&mut EntryShown> =
                    self.acl.iter_mut().filter(|entry| entry.destination == destination).collect();
                let rights = [list("read"), list("write"), list("admin")];
                rights.iter().any(|groups| !groups.is_empty()).then_some(())?;
                if all.is_empty() {
                    let [read, write, admin] = rights;
                    self.acl.push(EntryShown { line: 0, destination, read, write, admin });
                    return Some(());
                }
                for (right, groups) in rights.into_iter().enumerate() {
                    for group in groups {
                        if !all.iter().any(|entry| granted(entry, right).contains(&group)) {
                            grants(all.first_mut().unwrap(), right).push(group);
                        }
                    }
                }
            }
            "acl-remove" => {
                let destination = text("destination");
                let rights = [list("read"), list("write"), list("admin")];
                let is_it = |entry: &EntryShown| entry.destination == destination;
                self.acl.iter().any(is_it).then_some(())?;
                if rights.iter().all(Vec::is_empty) {
                    self.acl.retain(|entry| !is_it(entry));
                    return Some(());
                }
                for (right, groups) in rights.iter().enumerate() {
                    let has = |group: &String| {
                        self.acl.iter().any(|entry| is_it(entry) && granted(entry, right).contains(group))
                    };
                    groups.iter().all(has).then_some(())?;
                }
                self.revoke(|of, right, group| of == destination && rights[right].iter().any(|it| it == group));
            }
            "scope-set" => self.groups.get_mut(&group)?.scope = Some(text("filter")),
            "scope-remove" => _ = self.groups.get_mut(&name)?.scope.take()?,
            "hidden-add" => {
                let pattern = text("pattern");
                if !self.hidden.contains(&pattern) {
                    self.hidden.push(pattern);
                }
            }
            "hidden-remove" => {
                let pattern = text("pattern");
                self.hidden.contains(&pattern).then_some(())?;
                self.hidden.retain(|it| *it != pattern);
                self.groups.values_mut().for_each(|group| group.shows.retain(|it| *it != pattern));
            }
            "limit-set" => _ = self.groups.get_mut(&group)?.limits.insert(text("limit"), edit["most"].as_u64()?),
            "limit-remove" => _ = self.groups.get_mut(&group)?.limits.remove(&text("limit"))?,
            "collective-add" => {
                (!self.collectives.iter().any(|it| it.name == name)).then_some(())?;
                self.collectives.push(CollectiveShown { name, targeted: edit["targeted"].as_bool()? });
            }
            "collective-set" => {
                self.collectives.iter_mut().find(|it| it.name == name)?.targeted = edit["targeted"].as_bool()?;
            }
            "collective-remove" => {
                let place = self.collectives.iter().position(|it| it.name == name)?;
                self.collectives.remove(place);
                let first = self.collectives.first().map(|it| it.name.clone()).unwrap_or_default();
                self.users
                    .values_mut()
                    .for_each(|(user, _)| user.collective.iter_mut().for_each(|it| *it = first.clone()));
            }
            "broker-set" => {
                let shown = BrokerShown { name: name.clone(), link: Some(text("link")), stomp: list("stomp") };
                self.brokers.insert(name, shown);
            }
            "broker-remove" => _ = self.brokers.remove(&name)?,
            other => panic!("what is {other}?"),
        }
        Some(())
    }

    fn revoke(&mut self, is_gone: impl Fn(&str, usize, &str) -> bool) {
        self.acl.retain_mut(|entry| {
            let mut lost = false;
            for right in 0..3 {
                let destination = entry.destination.clone();
                let groups = grants(entry, right);
                let before = groups.len();
                groups.retain(|group| !is_gone(&destination, right, group));
                lost |= groups.len() < before;
            }
            !lost || (0..3).any(|right| !granted(entry, right).is_empty())
        });
    }
}

/// Whether a line may be another one after an edit: by what it belongs to, and what it says.
pub(super) fn concerned(edit: &Json, before: &Shown) -> impl Fn(&str, &str) -> bool {
    let kind = edit["edit"].as_str().unwrap_or_default().to_owned();
    let text = |field: &str| edit[field].as_str().unwrap_or_default().to_owned();
    let (name, user, group, pattern) = (text("name"), text("user"), text("group"), text("pattern"));
    let destination = text("destination");
    // Entries by their places: those that grant this group something and nobody else, and those for the pattern.
    let of_group = |entry: &EntryShown| {
        let mut groups = (0..3).flat_map(|right| granted(entry, right)).peekable();
        groups.peek().is_some() && groups.all(|group| *group == name)
    };
    let places = before.acl.iter().enumerate().filter(|(_, entry)| of_group(entry));
    let gone: Vec<String> = places.map(|(place, _)| format!("acl.{place}")).collect();
    let of_pattern: Vec<String> = before
        .acl
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.destination == destination)
        .map(|(place, _)| format!("acl.{place}"))
        .collect();
    let place = before.collectives.iter().position(|it| it.name == name);
    move |owner, line| {
        let names = |what: &str| line.contains(&format!("\"{what}\"")) || line.contains(&format!("'{what}'"));
        match kind.as_str() {
            "user-add" => owner == "users",
            "user-set" | "user-remove" => owner == "users" || owner == format!("users.{name}"),
            "group-add-member" | "group-remove-member" => owner == "users" || owner == format!("users.{user}"),
            "group-add" => owner == "groups",
            "group-remove" => {
                let listed = (owner.starts_with("users") || owner.starts_with("acl")) && names(&name);
                listed || owner == "groups" || owner == format!("groups.{name}") || gone.iter().any(|it| it == owner)
            }
            "group-set" | "scope-remove" => owner == "groups" || owner == format!("groups.{name}"),
            "scope-set" | "limit-set" | "limit-remove" => owner == "groups" || owner == format!("groups.{group}"),
            "acl-add" => owner == "acl" || of_pattern.first().is_some_and(|it| it == owner),
            "acl-remove" => owner == "acl" || of_pattern.iter().any(|it| it == owner),
            "hidden-add" => owner == "hidden",
            "hidden-remove" => owner == "hidden" || owner.starts_with("groups") && names(&pattern),
            "collective-set" | "collective-remove" => place.is_some_and(|place| owner == format!("collective.{place}")),
            "broker-set" | "broker-remove" => owner == "brokers" || owner == format!("brokers.{name}"),
            _ => false,
        }
    }
}

/// Whether no comment can go with what an edit takes away.
pub(super) fn only_adds(edit: &Json) -> bool {
    match edit["edit"].as_str().unwrap_or_default() {
        "group-set" => texts(&edit["unset"]).is_empty(),
        kind => {
            !kind.ends_with("remove") && !kind.ends_with("remove-member") && !matches!(kind, "user-set" | "broker-set")
        }
    }
}

/// The edit that takes another one back, where one can.
pub(super) fn inverse(edit: &Json, before: &Shown) -> Option<Json> {
    let (name, group) = (edit["name"].clone(), edit["group"].clone());
    match edit["edit"].as_str()? {
        "user-add" => Some(json!({"edit": "user-remove", "name": name})),
        "group-add" => Some(json!({"edit": "group-remove", "name": name})),
        "collective-add" => Some(json!({"edit": "collective-remove", "name": name})),
        "broker-set" if !before.brokers.contains_key(name.as_str()?) => {
            Some(json!({"edit": "broker-remove", "name": name}))
        }
        "group-add-member" => {
            let user = edit["user"].clone();
            let is_new = !before.users[user.as_str()?].0.groups.iter().any(|it| *it == group);
            is_new.then(|| json!({"edit": "group-remove-member", "group": group, "user": user}))
        }
        "group-remove-member" => Some(json!({"edit": "group-add-member", "group": group, "user": edit["user"]})),
        "acl-add" => {
            let destination = edit["destination"].clone();
            let is_new = !before.acl.iter().any(|entry| *entry.destination == destination);
            is_new.then(|| json!({"edit": "acl-remove", "destination": destination}))
        }
        "scope-set" => match &before.groups[group.as_str()?].scope {
            Some(scope) => Some(json!({"edit": "scope-set", "group": group, "filter": scope})),
            None => Some(json!({"edit": "scope-remove", "name": group})),
        },
        "scope-remove" => {
            Some(json!({"edit": "scope-set", "group": name, "filter": before.groups[name.as_str()?].scope}))
        }
        "limit-set" => match before.groups[group.as_str()?].limits.get(edit["limit"].as_str()?) {
            Some(most) => Some(json!({"edit": "limit-set", "group": group, "limit": edit["limit"], "most": most})),
            None => Some(json!({"edit": "limit-remove", "group": group, "limit": edit["limit"]})),
        },
        "hidden-add" if !before.hidden.iter().any(|it| edit["pattern"] == *it) => {
            // The list that is written out then stays.
            (before.hidden != HIDDEN_BY_DEFAULT).then(|| json!({"edit": "hidden-remove", "pattern": edit["pattern"]}))
        }
        _ => None,
    }
}

fn set_user(user: &mut UserShown, edit: &Json, unset: &[String]) {
    let is_gone = |field: &str| unset.iter().any(|it| it == field);
    if edit.get("groups").is_some() || is_gone("groups") {
        user.groups = texts(&edit["groups"]);
    }
    if edit.get("networks").is_some() || is_gone("networks") {
        // What stays keeps its order.
        let wanted = texts(&edit["networks"]);
        user.networks.retain(|network| wanted.contains(network));
        let new: Vec<String> = wanted.into_iter().filter(|network| !user.networks.contains(network)).collect();
        user.networks.extend(new);
    }
    if is_gone("disabled") {
        user.disabled = false;
    }
    user.disabled = edit["disabled"].as_bool().unwrap_or(user.disabled);
    for (field, shown) in [("expires", &mut user.expires), ("revoked-before", &mut user.revoked_before)] {
        match edit[field].as_str() {
            Some(date) => *shown = Some(if date.len() == 10 { format!("{date}T00:00:00Z") } else { date.to_owned() }),
            None if is_gone(field) => *shown = None,
            None => {}
        }
    }
    match edit["certificate"].as_str() {
        Some(name) => user.certificate = Some(name.to_owned()),
        None if is_gone("certificate") => user.certificate = None,
        None => {}
    }
    if let Some(facts) = edit["facts"].as_object() {
        user.facts = facts.clone();
    }
}

fn texts(list: &Json) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|it| it.as_str()).map(str::to_owned).collect()
}

fn granted(entry: &EntryShown, right: usize) -> &Vec<String> {
    [&entry.read, &entry.write, &entry.admin][right]
}

fn grants(entry: &mut EntryShown, right: usize) -> &mut Vec<String> {
    match right {
        0 => &mut entry.read,
        1 => &mut entry.write,
        _ => &mut entry.admin,
    }
}

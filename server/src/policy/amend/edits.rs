//! What does each edit take out of the text, and what does it put in? First the one, then the other.

use super::bad_edit;
use super::outline::{Element, Field, Outline, Path};
use super::splice::Splice;
use crate::broker::access::{HIDDEN_BY_DEFAULT, Limit, Right, check_name, shorten};
use muster_protocol::error::Refusal;
use muster_protocol::facts::PathPattern;
use muster_protocol::policy::{BrokerFields, CollectiveFields, Edit, Grants, GroupFields, UserFields};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};
use toml_edit::{Array, Datetime, InlineTable, Key, Value};

type Splices = Result<Vec<Splice>, Refusal>;

/// Fields that users can be without.
const OPTIONAL_OF_USERS: [&str; 8] =
    ["disabled", "expires", "revoked-before", "networks", "groups", "collective", "facts", "certificate"];
/// The same of groups, beside limits.
const OPTIONAL_OF_GROUPS: [&str; 3] = ["scope", "all", "shows"];

/// Checks that an edit fits, and says what it takes out.
pub(super) fn removals(outline: &Outline<'_>, edit: &Edit) -> Splices {
    match edit {
        Edit::UserAdd(user) => {
            absent(outline, "users", &user.name)?;
            if user.kind.is_none() || user.password.is_none() {
                return Err(bad_edit(format!("the new user `{}` lacks its kind or password; give both", user.name)));
            }
            no_unset(&user.unset)
        }
        Edit::UserSet(user) => {
            present(outline, "users", &user.name)?;
            let path = ["users", user.name.as_str()];
            let given = user_fields(user)?
                .into_iter()
                .map(|(name, _)| name)
                .chain(user_lists(user).map(|(name, _)| name.to_owned()));
            let mut given: BTreeSet<String> = given.collect();
            given.extend(user.facts.iter().map(|_| "facts".to_owned()));
            let mut splices = unset(outline, &path, &user.unset, &OPTIONAL_OF_USERS, &given)?;
            for (name, wanted) in user_lists(user) {
                splices.extend(drop_others(outline, &within(&path, name), wanted)?);
            }
            if let Some(facts) = &user.facts {
                splices.extend(drop_facts(outline, &within(&path, "facts"), facts));
            }
            Ok(splices)
        }
        Edit::UserRemove(user) => remove(outline, "users", &user.name),
        Edit::GroupAdd(group) => {
            absent(outline, "groups", &group.name)?;
            no_unset(&group.unset)
        }
        Edit::GroupSet(group) => {
            present(outline, "groups", &group.name)?;
            let path = ["groups", group.name.as_str()];
            let mut given: BTreeSet<String> = group_fields(group)?.into_iter().map(|(name, _)| name).collect();
            given.extend(group.shows.iter().map(|_| "shows".to_owned()));
            let known: Vec<&str> = OPTIONAL_OF_GROUPS.into_iter().chain(Limit::ALL.map(Limit::as_str)).collect();
            let mut splices = unset(outline, &path, &group.unset, &known, &given)?;
            if let Some(shows) = &group.shows {
                splices.extend(drop_others(outline, &within(&path, "shows"), shows)?);
            }
            Ok(splices)
        }
        Edit::GroupRemove(group) => remove_group(outline, &group.name),
        Edit::GroupAddMember(member) => {
            present(outline, "groups", &member.group)?;
            present(outline, "users", &member.user)?;
            Ok(Vec::new())
        }
        Edit::GroupRemoveMember(member) => {
            present(outline, "groups", &member.group)?;
            present(outline, "users", &member.user)?;
            let path = ["users", member.user.as_str(), "groups"];
            let splices = drop_from(outline, outline.value(&path), &|name| name == member.group);
            if splices.is_empty() {
                let (user, group) = (&member.user, &member.group);
                return Err(bad_edit(format!("the user `{user}` is not in the group `{group}`; nothing to remove")));
            }
            Ok(splices)
        }
        Edit::AclAdd(entry) => {
            if Right::ALL.into_iter().all(|right| granted(entry, right).is_empty()) {
                return Err(bad_edit("the entry grants nothing; name groups in read, write or admin"));
            }
            Ok(Vec::new())
        }
        Edit::AclRemove(entry) => remove_grants(outline, entry),
        Edit::ScopeSet(scope) => present(outline, "groups", &scope.group).map(|()| Vec::new()),
        Edit::ScopeRemove(group) => {
            present(outline, "groups", &group.name)?;
            take_out(
                outline,
                &["groups", &group.name, "scope"],
                format!("the group `{}` has no scope", shorten(&group.name)),
            )
        }
        Edit::HiddenAdd(_) => Ok(Vec::new()),
        Edit::HiddenRemove(hidden) => remove_hidden(outline, &hidden.pattern),
        Edit::LimitSet(limit) => {
            present(outline, "groups", &limit.group)?;
            known_limit(&limit.limit)?;
            Ok(Vec::new())
        }
        Edit::LimitRemove(limit) => {
            present(outline, "groups", &limit.group)?;
            known_limit(&limit.limit)?;
            let what = format!("the group `{}` has no limit {}", shorten(&limit.group), limit.limit);
            take_out(outline, &["groups", &limit.group, &limit.limit], what)
        }
        Edit::CollectiveAdd(collective) => {
            checked("collective", &collective.name)?;
            match self::collective(outline, &collective.name) {
                Some(_) => Err(is_there("collective", &collective.name)),
                None => Ok(Vec::new()),
            }
        }
        Edit::CollectiveSet(CollectiveFields { name, .. }) => match collective(outline, name) {
            Some(_) => Ok(Vec::new()),
            None => Err(is_absent("collective", name)),
        },
        Edit::CollectiveRemove(named) => {
            let found = collective(outline, &named.name).ok_or_else(|| is_absent("collective", &named.name))?;
            Ok(outline.remove_elements(&[found]))
        }
        Edit::BrokerSet(broker) => {
            let path = ["brokers", broker.name.as_str(), "stomp"];
            match &broker.stomp {
                Some(stomp) => drop_others(outline, &path, stomp),
                None => Ok(Vec::new()),
            }
        }
        Edit::BrokerRemove(broker) => remove(outline, "brokers", &broker.name),
        Edit::Text(_) | Edit::Revert(_) => Ok(Vec::new()),
    }
}

/// Says what an edit puts in, once what it takes out is gone.
pub(super) fn additions(outline: &Outline<'_>, edit: &Edit) -> Splices {
    match edit {
        Edit::UserAdd(user) => {
            let mut fields = user_fields(user)?;
            fields.extend(user_lists(user).map(|(name, list)| (name.to_owned(), array(list))));
            if let Some(facts) = &user.facts {
                fields.push(("facts".to_owned(), Value::InlineTable(table(facts)?)));
            }
            Ok(outline.add_table("users", &user.name, fields))
        }
        Edit::UserSet(user) => {
            let path = ["users", user.name.as_str()];
            let mut fields = user_fields(user)?;
            let mut splices = Vec::new();
            for (name, wanted) in user_lists(user) {
                match add_to(outline, &within(&path, name), wanted)? {
                    Some(added) => splices.extend(added),
                    None => fields.push((name.to_owned(), array(wanted))),
                }
            }
            if let Some(facts) = &user.facts {
                match set_facts(outline, &within(&path, "facts"), facts)? {
                    Some(set) => splices.extend(set),
                    None => fields.push(("facts".to_owned(), Value::InlineTable(table(facts)?))),
                }
            }
            splices.extend(set(outline, &path, fields)?);
            Ok(splices)
        }
        Edit::GroupAdd(group) => {
            let mut fields = group_fields(group)?;
            fields.extend(group.shows.iter().map(|list| ("shows".to_owned(), array(list))));
            Ok(outline.add_table("groups", &group.name, fields))
        }
        Edit::GroupSet(group) => {
            let path = ["groups", group.name.as_str()];
            let mut fields = group_fields(group)?;
            let mut splices = Vec::new();
            if let Some(shows) = &group.shows {
                match add_to(outline, &within(&path, "shows"), shows)? {
                    Some(added) => splices.extend(added),
                    None => fields.push(("shows".to_owned(), array(shows))),
                }
            }
            splices.extend(set(outline, &path, fields)?);
            Ok(splices)
        }
        Edit::GroupAddMember(member) => {
            let path = ["users", member.user.as_str()];
            let group = std::slice::from_ref(&member.group);
            match add_to(outline, &within(&path, "groups"), group)? {
                Some(splices) => Ok(splices),
                None => set(outline, &path, vec![("groups".to_owned(), array(group))]),
            }
        }
        Edit::AclAdd(entry) => add_grants(outline, entry),
        Edit::ScopeSet(scope) => {
            set(outline, &["groups", &scope.group], vec![("scope".to_owned(), scope.filter.as_str().into())])
        }
        Edit::HiddenAdd(hidden) => add_hidden(outline, &hidden.pattern),
        Edit::LimitSet(limit) => {
            set(outline, &["groups", &limit.group], vec![(limit.limit.clone(), number(&limit.limit, limit.most)?)])
        }
        Edit::CollectiveAdd(collective) => {
            let mut fields = vec![("name".to_owned(), collective.name.as_str().into())];
            fields.extend(collective.targeted.map(|targeted| ("targeted".to_owned(), targeted.into())));
            Ok(outline.add_element("collective", fields))
        }
        Edit::CollectiveSet(fields) => match (collective(outline, &fields.name), fields.targeted) {
            (Some(element), Some(targeted)) => Ok(match outline.field(element, "targeted") {
                Some(old) => outline.replace(old, &targeted.into()),
                None => outline.insert(&outline.body_of(element), &[("targeted".to_owned(), targeted.into())]),
            }),
            _ => Ok(Vec::new()),
        },
        Edit::BrokerSet(broker) => set_broker(outline, broker),
        Edit::UserRemove(_)
        | Edit::GroupRemove(_)
        | Edit::GroupRemoveMember(_)
        | Edit::AclRemove(_)
        | Edit::ScopeRemove(_)
        | Edit::HiddenRemove(_)
        | Edit::LimitRemove(_)
        | Edit::CollectiveRemove(_)
        | Edit::BrokerRemove(_)
        | Edit::Text(_)
        | Edit::Revert(_) => Ok(Vec::new()),
    }
}

/// Sets a field above all tables.
pub(super) fn set_root(outline: &Outline<'_>, name: &str, value: Value) -> Splices {
    match outline.value(&[name]) {
        Some(old) => Ok(outline.replace(old, &value)),
        None if outline.has(&[name]) => Err(bad_edit(format!("`{name}` is a table; correct the file"))),
        None => Ok(outline.add_root((name.to_owned(), value))),
    }
}

// ---- What is there, and what is not. ----

fn what(kind: &str) -> &str {
    kind.strip_suffix('s').unwrap_or(kind)
}

fn checked(what: &str, name: &str) -> Result<(), Refusal> {
    check_name(what, name).map_err(bad_edit)
}

fn absent(outline: &Outline<'_>, kind: &str, name: &str) -> Result<(), Refusal> {
    checked(what(kind), name)?;
    if outline.has(&[kind, name]) { Err(is_there(what(kind), name)) } else { Ok(()) }
}

fn present(outline: &Outline<'_>, kind: &str, name: &str) -> Result<(), Refusal> {
    if outline.has(&[kind, name]) { Ok(()) } else { Err(is_absent(what(kind), name)) }
}

fn is_there(what: &str, name: &str) -> Refusal {
    bad_edit(format!("the {what} `{}` is there already; set its fields, or choose another name", shorten(name)))
}

fn is_absent(what: &str, name: &str) -> Refusal {
    bad_edit(format!("there is no {what} `{}`; correct the name, or add it first", shorten(name)))
}

fn known_limit(name: &str) -> Result<(), Refusal> {
    if Limit::ALL.into_iter().any(|limit| limit.as_str() == name) {
        return Ok(());
    }
    let known = Limit::ALL.map(Limit::as_str).join(", ");
    Err(bad_edit(format!("there is no limit `{}`; use one of {known}", shorten(name))))
}

fn no_unset(unset: &[String]) -> Splices {
    match unset.first() {
        None => Ok(Vec::new()),
        Some(name) => Err(bad_edit(format!("`{}` cannot be unset in what is new; leave it out", shorten(name)))),
    }
}

fn within<'p>(path: &Path<'p>, name: &'p str) -> Vec<&'p str> {
    path.iter().copied().chain([name]).collect()
}

fn collective<'d>(outline: &Outline<'d>, name: &str) -> Option<Element<'d>> {
    let named = |element: &Element<'d>| outline.field(*element, "name").and_then(Value::as_str) == Some(name);
    outline.elements("collective").into_iter().find(named)
}

// ---- Taking out. ----

fn remove(outline: &Outline<'_>, kind: &str, name: &str) -> Splices {
    present(outline, kind, name)?;
    Ok(outline.remove(&[kind, name]))
}

fn take_out(outline: &Outline<'_>, path: &Path<'_>, absent: String) -> Splices {
    match outline.has(path) {
        true => Ok(outline.remove(path)),
        false => Err(bad_edit(format!("{absent}; nothing to remove"))),
    }
}

fn unset(
    outline: &Outline<'_>,
    path: &Path<'_>,
    names: &[String],
    known: &[&str],
    given: &BTreeSet<String>,
) -> Splices {
    let mut splices = Vec::new();
    for name in names {
        if !known.contains(&name.as_str()) {
            let known = known.join(", ");
            return Err(bad_edit(format!("`{}` cannot be unset; what can be is {known}", shorten(name))));
        }
        if given.contains(name) {
            return Err(bad_edit(format!("`{name}` is both set and unset; do one of the two")));
        }
        splices.extend(outline.remove(&within(path, name)));
    }
    Ok(splices)
}

/// Takes the texts for which `is_gone` holds out of a list, if it is one.
fn drop_from(outline: &Outline<'_>, list: Option<&Value>, is_gone: &dyn Fn(&str) -> bool) -> Vec<Splice> {
    let Some(array) = list.and_then(Value::as_array) else { return Vec::new() };
    let gone: BTreeSet<usize> =
        array.iter().enumerate().filter(|(_, it)| it.as_str().is_some_and(is_gone)).map(|(place, _)| place).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    outline.list(array).map_or_else(Vec::new, |list| list.remove(&gone))
}

/// Takes everything else out of a list that is there.
fn drop_others(outline: &Outline<'_>, path: &Path<'_>, wanted: &[String]) -> Splices {
    Ok(drop_from(outline, outline.value(path), &|text| !wanted.iter().any(|it| it == text)))
}

fn remove_group(outline: &Outline<'_>, name: &str) -> Splices {
    let mut splices = remove(outline, "groups", name)?;
    let is_it = |text: &str| text == name;
    outline.each(&mut |path, value| {
        if let ["users", _, "groups"] = path {
            splices.extend(drop_from(outline, Some(value), &is_it));
        }
    });
    splices.extend(without(outline, &|_, _, group| group == name));
    Ok(splices)
}

/// Takes grants out of the entries: those of a destination, right and group for which `is_gone` holds. What then grants nothing
/// goes too.
fn without(outline: &Outline<'_>, is_gone: &dyn Fn(&str, Right, &str) -> bool) -> Vec<Splice> {
    let (mut splices, mut empty) = (Vec::new(), Vec::new());
    for element in outline.elements("acl") {
        let destination = outline.field(element, "destination").and_then(Value::as_str).unwrap_or_default();
        let (mut cuts, mut rest) = (Vec::new(), 0);
        for right in Right::ALL {
            let Some(list) = outline.field(element, right.as_str()) else { continue };
            let gone = |group: &str| is_gone(destination, right, group);
            cuts.extend(drop_from(outline, Some(list), &gone));
            rest += texts(list).filter(|group| !gone(group)).count();
        }
        match (cuts.is_empty(), rest) {
            (true, _) => {}
            (false, 0) => empty.push(element),
            (false, _) => splices.extend(cuts),
        }
    }
    splices.extend(outline.remove_elements(&empty));
    splices
}

fn remove_grants(outline: &Outline<'_>, entry: &Grants) -> Splices {
    let of_pattern = |element: &Element<'_>| {
        outline.field(*element, "destination").and_then(Value::as_str) == Some(entry.destination.as_str())
    };
    let entries: Vec<Element<'_>> = outline.elements("acl").into_iter().filter(of_pattern).collect();
    let shown = shorten(&entry.destination);
    if entries.is_empty() {
        return Err(bad_edit(format!("there is no entry for `{shown}`; give a pattern exactly as it stands in one")));
    }
    if Right::ALL.into_iter().all(|right| granted(entry, right).is_empty()) {
        return Ok(outline.remove_elements(&entries));
    }
    for right in Right::ALL {
        for group in granted(entry, right) {
            let mut lists = entries.iter().filter_map(|element| outline.field(*element, right.as_str()));
            if !lists.any(|list| texts(list).any(|it| it == group)) {
                let group = shorten(group);
                return Err(bad_edit(format!(
                    "`{group}` has no {right} in the entry for `{shown}`; nothing to remove"
                )));
            }
        }
    }
    Ok(without(outline, &|destination, right, group| {
        destination == entry.destination && granted(entry, right).iter().any(|it| it == group)
    }))
}

fn remove_hidden(outline: &Outline<'_>, pattern: &str) -> Splices {
    let absent =
        || bad_edit(format!("`{}` is not in the hidden list; give a member as it stands there", shorten(pattern)));
    let is_it = |text: &str| means(text, pattern);
    let mut splices = match outline.value(&["hidden"]) {
        Some(list) => drop_from(outline, Some(list), &is_it),
        None if HIDDEN_BY_DEFAULT.into_iter().any(is_it) => {
            let rest: Vec<&str> = HIDDEN_BY_DEFAULT.into_iter().filter(|text| !is_it(text)).collect();
            set_root(outline, "hidden", array(&rest))?
        }
        None => Vec::new(),
    };
    if splices.is_empty() {
        return Err(absent());
    }
    // What is not hidden is shown to nobody in particular.
    outline.each(&mut |path, value| {
        if let ["groups", _, "shows"] = path {
            splices.extend(drop_from(outline, Some(value), &|text| text != "**" && is_it(text)));
        }
    });
    Ok(splices)
}

/// Whether two texts are the same pattern of facts.
fn means(text: &str, pattern: &str) -> bool {
    text == pattern || matches!((PathPattern::parse(text), PathPattern::parse(pattern)), (Ok(a), Ok(b)) if a == b)
}

// ---- Putting in. ----

/// Sets fields of a table that is there, in place where they are.
fn set(outline: &Outline<'_>, path: &Path<'_>, fields: Vec<Field>) -> Splices {
    let (mut splices, mut new) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        let own = within(path, &name);
        match outline.value(&own) {
            Some(old) => splices.extend(outline.replace(old, &value)),
            None if outline.has(&own) => {
                return Err(bad_edit(format!("`{}` is a table; correct the file", own.join("."))));
            }
            None => new.push((name, value)),
        }
    }
    match (outline.body(path), path) {
        (Some(body), _) => splices.extend(outline.insert(&body, &new)),
        // There are only tables below it.
        (None, [kind, name]) => splices.extend(outline.add_table(kind, name, new)),
        (None, _) => {}
    }
    Ok(splices)
}

/// Adds what is not there to a list; `None` if there is no list.
fn add_to(outline: &Outline<'_>, path: &Path<'_>, wanted: &[String]) -> Result<Option<Vec<Splice>>, Refusal> {
    let Some(value) = outline.value(path) else {
        return match outline.has(path) {
            true => Err(bad_edit(format!("`{}` is a table; correct the file", path.join(".")))),
            false => Ok(None),
        };
    };
    let list = value.as_array().and_then(|array| outline.list(array));
    let list = list.ok_or_else(|| bad_edit(format!("`{}` is no list; correct the file", path.join("."))))?;
    let known: BTreeSet<&str> = texts(value).collect();
    Ok(Some(list.append(&missing(wanted, &known))))
}

/// What is wanted and not known, each once, as it is written.
fn missing(wanted: &[String], known: &BTreeSet<&str>) -> Vec<String> {
    let mut seen = known.clone();
    wanted.iter().filter(|text| seen.insert(text)).map(|text| Value::from(text.as_str()).to_string()).collect()
}

fn add_grants(outline: &Outline<'_>, entry: &Grants) -> Splices {
    let of_pattern = |element: &Element<'_>| {
        outline.field(*element, "destination").and_then(Value::as_str) == Some(entry.destination.as_str())
    };
    let entries: Vec<Element<'_>> = outline.elements("acl").into_iter().filter(of_pattern).collect();
    let Some(first) = entries.first() else {
        let mut fields = vec![("destination".to_owned(), entry.destination.as_str().into())];
        let given = Right::ALL.into_iter().filter(|right| !granted(entry, *right).is_empty());
        fields.extend(given.map(|right| (right.as_str().to_owned(), array(&unique(granted(entry, right))))));
        return Ok(outline.add_element("acl", fields));
    };
    let (mut splices, mut new) = (Vec::new(), Vec::new());
    for right in Right::ALL {
        let lists = entries.iter().filter_map(|element| outline.field(*element, right.as_str()));
        let known: BTreeSet<&str> = lists.flat_map(texts).collect();
        let missing = missing(granted(entry, right), &known);
        if missing.is_empty() {
            continue;
        }
        match outline.field(*first, right.as_str()) {
            Some(value) => {
                let list = value.as_array().and_then(|array| outline.list(array));
                let list =
                    list.ok_or_else(|| bad_edit(format!("`{right}` of the entry is no list; correct the file")))?;
                splices.extend(list.append(&missing));
            }
            None => {
                let groups: Vec<String> = unique(granted(entry, right));
                let groups: Vec<&String> = groups.iter().filter(|group| !known.contains(group.as_str())).collect();
                new.push((right.as_str().to_owned(), array(&groups)));
            }
        }
    }
    splices.extend(outline.insert(&outline.body_of(*first), &new));
    Ok(splices)
}

fn add_hidden(outline: &Outline<'_>, pattern: &str) -> Splices {
    let Some(value) = outline.value(&["hidden"]) else {
        if HIDDEN_BY_DEFAULT.into_iter().any(|text| means(text, pattern)) {
            return Ok(Vec::new());
        }
        let list: Vec<&str> = HIDDEN_BY_DEFAULT.into_iter().chain([pattern]).collect();
        return set_root(outline, "hidden", array(&list));
    };
    if texts(value).any(|text| means(text, pattern)) {
        return Ok(Vec::new());
    }
    let list = value.as_array().and_then(|array| outline.list(array));
    let list = list.ok_or_else(|| bad_edit("`hidden` is no list; correct the file"))?;
    Ok(list.append(&[Value::from(pattern).to_string()]))
}

fn set_broker(outline: &Outline<'_>, broker: &BrokerFields) -> Splices {
    let path = ["brokers", broker.name.as_str()];
    let mut fields = Vec::new();
    fields.extend(broker.link.iter().map(|link| ("link".to_owned(), link.as_str().into())));
    if !outline.has(&path) {
        fields.extend(broker.stomp.iter().map(|list| ("stomp".to_owned(), array(list))));
        return Ok(outline.add_table("brokers", &broker.name, fields));
    }
    let mut splices = Vec::new();
    if let Some(stomp) = &broker.stomp {
        let own = within(&path, "stomp");
        let kept = outline.value(&own).map(|value| texts(value).collect::<Vec<_>>());
        // Here the order counts.
        let is_begun =
            kept.as_ref().is_none_or(|kept| stomp.iter().map(String::as_str).take(kept.len()).eq(kept.iter().copied()));
        match (is_begun, outline.value(&own).and_then(Value::span)) {
            (false, Some(span)) => splices.push(Splice::new(span, array(stomp).to_string())),
            _ => match add_to(outline, &own, stomp)? {
                Some(added) => splices.extend(added),
                None => fields.push(("stomp".to_owned(), array(stomp))),
            },
        }
    }
    splices.extend(set(outline, &path, fields)?);
    Ok(splices)
}

// ---- Asserted facts: those that stay the same stay as they are written. ----

fn drop_facts(outline: &Outline<'_>, path: &Path<'_>, wanted: &Map<String, Json>) -> Vec<Splice> {
    if wanted.is_empty() {
        return outline.remove(path);
    }
    let changed = facts(outline, path).into_iter().filter(|(name, old)| wanted.get(name) != Some(old));
    let gone = changed.filter(|(name, _)| !(wanted.contains_key(name) && outline.value(&within(path, name)).is_some()));
    gone.flat_map(|(name, _)| outline.remove(&within(path, &name))).collect()
}

/// `None` if there is no table of facts.
fn set_facts(
    outline: &Outline<'_>,
    path: &Path<'_>,
    wanted: &Map<String, Json>,
) -> Result<Option<Vec<Splice>>, Refusal> {
    if wanted.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let Some(body) = outline.body(path) else { return Ok(None) };
    let known = facts(outline, path);
    let (mut splices, mut new) = (Vec::new(), Vec::new());
    for (name, fact) in wanted.iter().filter(|(name, fact)| known.get(*name) != Some(fact)) {
        let value = toml(name, fact)?;
        match outline.value(&within(path, name)).and_then(Value::span) {
            Some(span) => splices.push(Splice::new(span, value.to_string())),
            None => new.push((name.clone(), value)),
        }
    }
    splices.extend(outline.insert(&body, &new));
    Ok(Some(splices))
}

/// The facts that stand at a path, by name.
fn facts(outline: &Outline<'_>, path: &Path<'_>) -> BTreeMap<String, Json> {
    let mut facts = Map::new();
    outline.each_below(path, &mut |rest, value| {
        let Some((name, above)) = rest.split_last() else {
            if let Json::Object(members) = json(value) {
                facts.extend(members);
            }
            return;
        };
        let mut table = &mut facts;
        for name in above {
            let inner = table.entry((*name).to_owned()).or_insert_with(|| Json::Object(Map::new()));
            let Json::Object(inner) = inner else { return };
            table = inner;
        }
        table.insert((*name).to_owned(), json(value));
    });
    facts.into_iter().collect()
}

fn json(value: &Value) -> Json {
    match value {
        Value::String(text) => text.value().as_str().into(),
        Value::Integer(number) => (*number.value()).into(),
        Value::Float(number) => (*number.value()).into(),
        Value::Boolean(yes) => (*yes.value()).into(),
        Value::Datetime(date) => date.value().to_string().into(),
        Value::Array(array) => array.iter().map(json).collect(),
        Value::InlineTable(table) => {
            let member = |(name, value): (&str, &Value)| (name.to_owned(), json(value));
            Json::Object(table.iter().map(member).collect())
        }
    }
}

// ---- Values as they are written. ----

fn user_fields(user: &UserFields) -> Result<Vec<Field>, Refusal> {
    let mut fields: Vec<Field> = Vec::new();
    let mut text = |name: &str, value: &Option<String>| {
        fields.extend(value.iter().map(|value| (name.to_owned(), value.as_str().into())));
    };
    text("kind", &user.kind);
    text("password", &user.password);
    text("collective", &user.collective);
    text("certificate", &user.certificate);
    for (name, value) in [("expires", &user.expires), ("revoked-before", &user.revoked_before)] {
        if let Some(value) = value {
            fields.push((name.to_owned(), date(name, value)?));
        }
    }
    fields.extend(user.disabled.map(|disabled| ("disabled".to_owned(), disabled.into())));
    Ok(fields)
}

fn user_lists(user: &UserFields) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
    let lists = [("groups", &user.groups), ("networks", &user.networks)];
    lists.into_iter().filter_map(|(name, list)| Some((name, list.as_ref()?)))
}

fn group_fields(group: &GroupFields) -> Result<Vec<Field>, Refusal> {
    let mut fields: Vec<Field> = Vec::new();
    fields.extend(group.scope.iter().map(|scope| ("scope".to_owned(), scope.as_str().into())));
    fields.extend(group.all.map(|all| ("all".to_owned(), all.into())));
    for (name, most) in &group.limits {
        known_limit(name)?;
        fields.push((name.clone(), number(name, *most)?));
    }
    Ok(fields)
}

fn granted(entry: &Grants, right: Right) -> &[String] {
    match right {
        Right::Read => &entry.read,
        Right::Write => &entry.write,
        Right::Admin => &entry.admin,
    }
}

fn unique(names: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.iter().filter(|name| seen.insert(name.as_str())).cloned().collect()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flat_map(|array| array.iter().filter_map(Value::as_str))
}

fn array<T: AsRef<str>>(texts: &[T]) -> Value {
    Value::Array(texts.iter().map(AsRef::as_ref).collect::<Array>())
}

fn number(name: &str, number: u64) -> Result<Value, Refusal> {
    match i64::try_from(number) {
        Ok(number) => Ok(number.into()),
        Err(_) => Err(bad_edit(format!("{name}: {number} is too large; leave a limit out to lift it"))),
    }
}

fn date(name: &str, text: &str) -> Result<Value, Refusal> {
    let date: Datetime = text.trim().parse().map_err(|_| {
        let form = "write a day (2027-01-31) or a time with its offset (2027-01-31T18:00:00Z)";
        bad_edit(format!("{name}: `{}` is no date; {form}", shorten(text)))
    })?;
    Ok(date.into())
}

fn toml(name: &str, fact: &Json) -> Result<Value, Refusal> {
    Ok(match fact {
        Json::Null => {
            return Err(bad_edit(format!(
                "the fact `{}` is null, which policy.toml cannot hold; leave it out",
                shorten(name)
            )));
        }
        Json::Bool(yes) => (*yes).into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) if fact.is_f64() => number.into(),
            _ => {
                return Err(bad_edit(format!(
                    "the fact `{}` is too large a number; write it as a text",
                    shorten(name)
                )));
            }
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(members) => {
            Value::Array(members.iter().map(|member| toml(name, member)).collect::<Result<Array, _>>()?)
        }
        Json::Object(members) => Value::InlineTable(table(members)?),
    })
}

fn table(members: &Map<String, Json>) -> Result<InlineTable, Refusal> {
    members.iter().map(|(name, member)| Ok((Key::new(name), toml(name, member)?))).collect()
}

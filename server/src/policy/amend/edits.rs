//! What does each edit take out of the text, and what does it put in? First the one, then the other.

use super::bad_edit;
use super::outline::{Element, Field, Outline, Path};
use super::splice::Splice;
use super::written::{array, granted, known_limit, limit, lists_of_user, of_group, of_user, texts};
use super::{facts, written};
use crate::broker::access::{HIDDEN_BY_DEFAULT, Limit, Right, check_name, shorten};
use muster_protocol::error::Refusal;
use muster_protocol::facts::PathPattern;
use muster_protocol::policy::{BrokerFields, CollectiveFields, Edit, Grants, GroupFields, UserFields};
use std::collections::BTreeSet;
use toml_edit::Value;

type Splices = Result<Vec<Splice>, Refusal>;

/// Fields that a user can be without.
const OPTIONAL_OF_USERS: [&str; 8] =
    ["groups", "networks", "collective", "certificate", "expires", "disabled", "revoked-before", "facts"];
/// The same of a group, beside limits.
const OPTIONAL_OF_GROUPS: [&str; 3] = ["scope", "all", "shows"];

/// Checks that an edit fits, and says what it takes out.
pub(super) fn removals(outline: &Outline<'_>, edit: &Edit) -> Splices {
    let nothing = Ok(Vec::new());
    match edit {
        Edit::UserAdd(user) => {
            absent(outline, "user", &user.name)?;
            if user.kind.is_none() || user.password.is_none() {
                return Err(bad_edit(format!(
                    "the new user `{}` lacks its kind or its password; give both",
                    user.name
                )));
            }
            no_unset(&user.unset)
        }
        Edit::UserSet(user) => {
            present(outline, "user", &user.name)?;
            removals_from_user(outline, user)
        }
        Edit::UserRemove(user) => remove(outline, "user", &user.name),
        Edit::GroupAdd(group) => {
            absent(outline, "group", &group.name)?;
            no_unset(&group.unset)
        }
        Edit::GroupSet(group) => {
            present(outline, "group", &group.name)?;
            removals_from_group(outline, group)
        }
        Edit::GroupRemove(group) => remove_group(outline, &group.name),
        Edit::GroupAddMember(member) => {
            present(outline, "group", &member.group)?;
            present(outline, "user", &member.user)?;
            nothing
        }
        Edit::GroupRemoveMember(member) => {
            present(outline, "group", &member.group)?;
            present(outline, "user", &member.user)?;
            let groups = outline.value(&["users", &member.user, "groups"]);
            let splices = drop_from(outline, groups, &|name| name == member.group);
            if splices.is_empty() {
                let (user, group) = (shorten(&member.user), shorten(&member.group));
                return Err(bad_edit(format!("the user `{user}` is not in the group `{group}`; nothing to remove")));
            }
            Ok(splices)
        }
        Edit::AclAdd(entry) if names_nobody(entry) => {
            Err(bad_edit("the entry grants nothing; name groups in read, write or admin"))
        }
        Edit::AclAdd(_) => nothing,
        Edit::AclRemove(entry) => remove_grants(outline, entry),
        Edit::ScopeSet(scope) => {
            present(outline, "group", &scope.group)?;
            nothing
        }
        Edit::ScopeRemove(group) => take_out(outline, &group.name, "scope", "scope"),
        Edit::HiddenAdd(_) => nothing,
        Edit::HiddenRemove(hidden) => remove_hidden(outline, &hidden.pattern),
        Edit::LimitSet(limit) => {
            present(outline, "group", &limit.group)?;
            nothing
        }
        Edit::LimitRemove(limit) => {
            known_limit(&limit.limit)?;
            take_out(outline, &limit.group, &limit.limit, &format!("limit {}", limit.limit))
        }
        Edit::CollectiveAdd(new) => {
            check_name("collective", &new.name).map_err(bad_edit)?;
            match collective(outline, &new.name) {
                Some(_) => Err(is_there("collective", &new.name)),
                None => nothing,
            }
        }
        Edit::CollectiveSet(CollectiveFields { name, .. }) => match collective(outline, name) {
            Some(_) => nothing,
            None => Err(is_absent("collective", name)),
        },
        Edit::CollectiveRemove(named) => {
            let found = collective(outline, &named.name).ok_or_else(|| is_absent("collective", &named.name))?;
            Ok(outline.remove_elements(&[found]))
        }
        Edit::BrokerSet(broker) => {
            check_name("broker", &broker.name).map_err(bad_edit)?;
            let stomp = outline.value(&["brokers", &broker.name, "stomp"]);
            Ok(broker.stomp.as_deref().map_or_else(Vec::new, |wanted| drop_others(outline, stomp, wanted)))
        }
        Edit::BrokerRemove(broker) => remove(outline, "broker", &broker.name),
        Edit::Text(_) | Edit::Revert(_) => nothing,
    }
}

/// Says what an edit puts in, once what it takes out is gone.
pub(super) fn additions(outline: &Outline<'_>, edit: &Edit) -> Splices {
    match edit {
        Edit::UserAdd(user) => {
            let mut fields = of_user(user)?;
            // Behind kind and password.
            let at = fields.len().min(2);
            let lists = lists_of_user(user).into_iter().map(|(name, list)| (name.to_owned(), array(list)));
            fields.splice(at..at, lists);
            if let Some(facts) = &user.facts {
                fields.push(("facts".to_owned(), written::facts(facts)?.into()));
            }
            outline.add_table("users", &user.name, fields)
        }
        Edit::UserSet(user) => {
            let path = ["users", user.name.as_str()];
            let mut fields = of_user(user)?;
            let mut splices = Vec::new();
            for (name, wanted) in lists_of_user(user) {
                splices.extend(complete(outline, &path, name, wanted, &mut fields)?);
            }
            if let Some(wanted) = &user.facts {
                match facts::additions(outline, &within(&path, "facts"), wanted)? {
                    Some(added) => splices.extend(added),
                    None => fields.push(("facts".to_owned(), written::facts(wanted)?.into())),
                }
            }
            splices.extend(set(outline, &path, fields)?);
            Ok(splices)
        }
        Edit::GroupAdd(group) => {
            let mut fields = of_group(group)?;
            fields.extend(group.shows.iter().map(|list| ("shows".to_owned(), array(list))));
            outline.add_table("groups", &group.name, fields)
        }
        Edit::GroupSet(group) => {
            let path = ["groups", group.name.as_str()];
            let mut fields = of_group(group)?;
            let mut splices = Vec::new();
            if let Some(shows) = &group.shows {
                splices.extend(complete(outline, &path, "shows", shows, &mut fields)?);
            }
            splices.extend(set(outline, &path, fields)?);
            Ok(splices)
        }
        Edit::GroupAddMember(member) => {
            let path = ["users", member.user.as_str()];
            let mut fields = Vec::new();
            let group = std::slice::from_ref(&member.group);
            let mut splices = complete(outline, &path, "groups", group, &mut fields)?;
            splices.extend(set(outline, &path, fields)?);
            Ok(splices)
        }
        Edit::AclAdd(entry) => add_grants(outline, entry),
        Edit::ScopeSet(scope) => {
            set(outline, &["groups", &scope.group], vec![("scope".to_owned(), scope.filter.as_str().into())])
        }
        Edit::HiddenAdd(hidden) => add_hidden(outline, &hidden.pattern),
        Edit::LimitSet(it) => {
            set(outline, &["groups", &it.group], vec![(it.limit.clone(), limit(&it.limit, it.most)?)])
        }
        Edit::CollectiveAdd(new) => {
            let mut fields = vec![("name".to_owned(), new.name.as_str().into())];
            fields.extend(new.targeted.map(|targeted| ("targeted".to_owned(), targeted.into())));
            outline.add_element("collective", fields)
        }
        Edit::CollectiveSet(fields) => match (collective(outline, &fields.name), fields.targeted) {
            (Some(element), Some(targeted)) => Ok(match outline.field(element, "targeted") {
                Some(old) => outline.replace(old, &targeted.into()),
                None => outline.insert(&outline.body_of(element), &[("targeted".to_owned(), targeted.into())]),
            }),
            _ => Ok(Vec::new()),
        },
        Edit::BrokerSet(broker) => set_broker(outline, broker),
        _ => Ok(Vec::new()),
    }
}

/// Whether an edit puts nothing in.
pub(super) fn only_takes(edit: &Edit) -> bool {
    matches!(
        edit,
        Edit::UserRemove(_)
            | Edit::GroupRemove(_)
            | Edit::GroupRemoveMember(_)
            | Edit::AclRemove(_)
            | Edit::ScopeRemove(_)
            | Edit::HiddenRemove(_)
            | Edit::LimitRemove(_)
            | Edit::CollectiveRemove(_)
            | Edit::BrokerRemove(_)
    )
}

/// Sets a field above all tables.
pub(super) fn set_root(outline: &Outline<'_>, name: &str, value: Value) -> Splices {
    match outline.value(&[name]) {
        Some(old) => Ok(outline.replace(old, &value)),
        None if outline.has(&[name]) => Err(is_odd(&[name], "a table")),
        None => Ok(outline.add_root((name.to_owned(), value))),
    }
}

// ---- What is there, and what is not. ----

fn within<'p>(path: &Path<'p>, name: &'p str) -> Vec<&'p str> {
    path.iter().copied().chain([name]).collect()
}

fn table(what: &str) -> &'static str {
    match what {
        "user" => "users",
        "group" => "groups",
        _ => "brokers",
    }
}

fn present(outline: &Outline<'_>, what: &str, name: &str) -> Result<(), Refusal> {
    if outline.has(&[table(what), name]) { Ok(()) } else { Err(is_absent(what, name)) }
}

fn absent(outline: &Outline<'_>, what: &str, name: &str) -> Result<(), Refusal> {
    check_name(what, name).map_err(bad_edit)?;
    if outline.has(&[table(what), name]) { Err(is_there(what, name)) } else { Ok(()) }
}

fn is_there(what: &str, name: &str) -> Refusal {
    bad_edit(format!("the {what} `{}` is there already; set its fields, or choose another name", shorten(name)))
}

fn is_absent(what: &str, name: &str) -> Refusal {
    bad_edit(format!("there is no {what} `{}`; correct the name, or add it first", shorten(name)))
}

/// A policy that is enforced holds nothing of the kind.
fn is_odd(path: &Path<'_>, what: &str) -> Refusal {
    bad_edit(format!("`{}` is {what}; correct the file", shorten(&path.join("."))))
}

fn no_unset(unset: &[String]) -> Splices {
    match unset.first() {
        None => Ok(Vec::new()),
        Some(name) => Err(bad_edit(format!("`{}` cannot be unset in what is new; leave it out", shorten(name)))),
    }
}

fn collective<'d>(outline: &Outline<'d>, name: &str) -> Option<Element<'d>> {
    let named = |element: &Element<'d>| outline.field(*element, "name").and_then(Value::as_str) == Some(name);
    outline.elements("collective").into_iter().find(named)
}

/// The entries for exactly this pattern.
fn entries<'d>(outline: &Outline<'d>, destination: &str) -> Vec<Element<'d>> {
    let of_it =
        |element: &Element<'d>| outline.field(*element, "destination").and_then(Value::as_str) == Some(destination);
    outline.elements("acl").into_iter().filter(of_it).collect()
}

fn names_nobody(entry: &Grants) -> bool {
    Right::ALL.into_iter().all(|right| granted(entry, right).is_empty())
}

/// Whether two texts are the same pattern of facts.
fn means(text: &str, pattern: &str) -> bool {
    text == pattern || matches!((PathPattern::parse(text), PathPattern::parse(pattern)), (Ok(a), Ok(b)) if a == b)
}

// ---- Taking out. ----

fn remove(outline: &Outline<'_>, what: &str, name: &str) -> Splices {
    present(outline, what, name)?;
    Ok(outline.remove(&[table(what)], &[name]))
}

/// A field of a group that is to be there.
fn take_out(outline: &Outline<'_>, group: &str, field: &str, what: &str) -> Splices {
    present(outline, "group", group)?;
    if outline.has(&["groups", group, field]) {
        Ok(outline.remove_fields(&["groups", group], &[field]))
    } else {
        Err(bad_edit(format!("the group `{}` has no {what}; nothing to remove", shorten(group))))
    }
}

fn removals_from_user(outline: &Outline<'_>, user: &UserFields) -> Splices {
    let path = ["users", user.name.as_str()];
    let mut given: BTreeSet<String> = of_user(user)?.into_iter().map(|(name, _)| name).collect();
    given.extend(lists_of_user(user).into_iter().map(|(name, _)| name.to_owned()));
    given.extend(user.facts.iter().map(|_| "facts".to_owned()));
    let mut splices = unset(outline, &path, &user.unset, &OPTIONAL_OF_USERS, &given)?;
    for (name, wanted) in lists_of_user(user) {
        splices.extend(drop_others(outline, outline.value(&within(&path, name)), wanted));
    }
    if let Some(wanted) = &user.facts {
        splices.extend(facts::removals(outline, &path, wanted));
    }
    Ok(splices)
}

fn removals_from_group(outline: &Outline<'_>, group: &GroupFields) -> Splices {
    let path = ["groups", group.name.as_str()];
    let mut given: BTreeSet<String> = of_group(group)?.into_iter().map(|(name, _)| name).collect();
    given.extend(group.shows.iter().map(|_| "shows".to_owned()));
    let known: Vec<&str> = OPTIONAL_OF_GROUPS.into_iter().chain(Limit::ALL.map(Limit::as_str)).collect();
    let mut splices = unset(outline, &path, &group.unset, &known, &given)?;
    if let Some(wanted) = &group.shows {
        splices.extend(drop_others(outline, outline.value(&within(&path, "shows")), wanted));
    }
    Ok(splices)
}

fn unset(
    outline: &Outline<'_>,
    path: &Path<'_>,
    names: &[String],
    known: &[&str],
    given: &BTreeSet<String>,
) -> Splices {
    for name in names {
        if !known.contains(&name.as_str()) {
            let known = known.join(", ");
            return Err(bad_edit(format!("`{}` cannot be unset; what can be is {known}", shorten(name))));
        }
        if given.contains(name) {
            return Err(bad_edit(format!("`{name}` is both set and unset; do one of the two")));
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Ok(if names.is_empty() { Vec::new() } else { outline.remove_fields(path, &names) })
}

/// Takes the texts for which `is_gone` holds out of a list, if it is one.
fn drop_from(outline: &Outline<'_>, list: Option<&Value>, is_gone: &dyn Fn(&str) -> bool) -> Vec<Splice> {
    let Some(array) = list.and_then(Value::as_array) else { return Vec::new() };
    let members = array.iter().enumerate().filter(|(_, member)| member.as_str().is_some_and(is_gone));
    let gone: BTreeSet<usize> = members.map(|(place, _)| place).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    outline.list(array).map_or_else(Vec::new, |list| list.remove(&gone))
}

/// Takes everything else out of a list, if it is one.
fn drop_others(outline: &Outline<'_>, list: Option<&Value>, wanted: &[String]) -> Vec<Splice> {
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    drop_from(outline, list, &|text| !wanted.contains(text))
}

fn remove_group(outline: &Outline<'_>, name: &str) -> Splices {
    let mut splices = remove(outline, "group", name)?;
    outline.each(&mut |path, value| {
        if let ["users", _, "groups"] = path {
            splices.extend(drop_from(outline, Some(value), &|text| text == name));
        }
    });
    splices.extend(revoke(outline, &outline.elements("acl"), &|_, group| group == name));
    Ok(splices)
}

fn remove_grants(outline: &Outline<'_>, entry: &Grants) -> Splices {
    let entries = entries(outline, &entry.destination);
    let shown = shorten(&entry.destination);
    if entries.is_empty() {
        return Err(bad_edit(format!("there is no entry for `{shown}`; give a pattern exactly as it stands in one")));
    }
    if names_nobody(entry) {
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
    Ok(revoke(outline, &entries, &|right, group| granted(entry, right).iter().any(|it| it == group)))
}

/// Takes grants out of entries: those of a right and group for which `is_gone` holds. An entry that then grants nothing goes too.
fn revoke(outline: &Outline<'_>, entries: &[Element<'_>], is_gone: &dyn Fn(Right, &str) -> bool) -> Vec<Splice> {
    let (mut splices, mut empty) = (Vec::new(), Vec::new());
    for element in entries {
        let (mut cuts, mut rest) = (Vec::new(), 0);
        for right in Right::ALL {
            let Some(list) = outline.field(*element, right.as_str()) else { continue };
            cuts.extend(drop_from(outline, Some(list), &|group| is_gone(right, group)));
            rest += texts(list).filter(|group| !is_gone(right, group)).count();
        }
        match (cuts.is_empty(), rest) {
            (true, _) => {}
            (false, 0) => empty.push(*element),
            (false, _) => splices.extend(cuts),
        }
    }
    splices.extend(outline.remove_elements(&empty));
    splices
}

fn remove_hidden(outline: &Outline<'_>, pattern: &str) -> Splices {
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
        let shown = shorten(pattern);
        return Err(bad_edit(format!("`{shown}` is not in the hidden list; give a member as it stands there")));
    }
    // What is not hidden is shown to nobody in particular.
    outline.each(&mut |path, value| {
        if let ["groups", _, "shows"] = path {
            splices.extend(drop_from(outline, Some(value), &|text| text != "**" && is_it(text)));
        }
    });
    Ok(splices)
}

// ---- Putting in. ----

/// Sets fields of a table that is there, in place where they are.
fn set(outline: &Outline<'_>, path: &[&str; 2], fields: Vec<Field>) -> Splices {
    let (mut splices, mut new) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        let own = within(path, &name);
        match outline.value(&own) {
            Some(old) => splices.extend(outline.replace(old, &value)),
            None if outline.has(&own) => return Err(is_odd(&own, "a table")),
            None => new.push((name, value)),
        }
    }
    match outline.body(path) {
        _ if new.is_empty() => {}
        Some(body) => splices.extend(outline.insert(&body, &new)),
        // There are only tables below it.
        None => splices.extend(outline.add_table(path[0], path[1], new)?),
    }
    Ok(splices)
}

/// Adds what is not there to a list of a table; what is to be a new field is left in `fields`.
fn complete(
    outline: &Outline<'_>,
    path: &[&str; 2],
    name: &str,
    wanted: &[String],
    fields: &mut Vec<Field>,
) -> Splices {
    let own = within(path, name);
    match outline.value(&own) {
        Some(list) => append(outline, list, wanted, &texts(list).collect(), &own),
        None if outline.has(&own) => Err(is_odd(&own, "a table")),
        None => {
            fields.push((name.to_owned(), array(wanted)));
            Ok(Vec::new())
        }
    }
}

/// Adds what is wanted and not known to the end of a list.
fn append(outline: &Outline<'_>, list: &Value, wanted: &[String], known: &BTreeSet<&str>, path: &Path<'_>) -> Splices {
    let list = list.as_array().and_then(|array| outline.list(array)).ok_or_else(|| is_odd(path, "no list"))?;
    let mut seen = known.clone();
    let missing = wanted.iter().filter(|text| seen.insert(text));
    let missing: Vec<String> = missing.map(|text| Value::from(text.as_str()).to_string()).collect();
    Ok(list.append(&missing))
}

fn add_grants(outline: &Outline<'_>, entry: &Grants) -> Splices {
    let entries = entries(outline, &entry.destination);
    let given = Right::ALL.into_iter().filter(|right| !granted(entry, *right).is_empty());
    let Some(first) = entries.first() else {
        let mut fields = vec![("destination".to_owned(), entry.destination.as_str().into())];
        fields.extend(given.map(|right| (right.as_str().to_owned(), array(granted(entry, right)))));
        return outline.add_element("acl", fields);
    };
    let (mut splices, mut new) = (Vec::new(), Vec::new());
    for right in given {
        let lists = entries.iter().filter_map(|element| outline.field(*element, right.as_str()));
        let known: BTreeSet<&str> = lists.flat_map(texts).collect();
        let groups = granted(entry, right);
        match outline.field(*first, right.as_str()) {
            Some(list) => splices.extend(append(outline, list, groups, &known, &["acl", right.as_str()])?),
            None => {
                let missing: Vec<&str> =
                    groups.iter().map(String::as_str).filter(|group| !known.contains(group)).collect();
                if !missing.is_empty() {
                    new.push((right.as_str().to_owned(), array(&missing)));
                }
            }
        }
    }
    splices.extend(outline.insert(&outline.body_of(*first), &new));
    Ok(splices)
}

fn add_hidden(outline: &Outline<'_>, pattern: &str) -> Splices {
    let Some(list) = outline.value(&["hidden"]) else {
        if HIDDEN_BY_DEFAULT.into_iter().any(|text| means(text, pattern)) {
            return Ok(Vec::new());
        }
        let whole: Vec<&str> = HIDDEN_BY_DEFAULT.into_iter().chain([pattern]).collect();
        return set_root(outline, "hidden", array(&whole));
    };
    if texts(list).any(|text| means(text, pattern)) {
        return Ok(Vec::new());
    }
    append(outline, list, &[pattern.to_owned()], &BTreeSet::new(), &["hidden"])
}

fn set_broker(outline: &Outline<'_>, broker: &BrokerFields) -> Splices {
    let path = ["brokers", broker.name.as_str()];
    let mut fields: Vec<Field> = Vec::new();
    fields.extend(broker.link.iter().map(|link| ("link".to_owned(), link.as_str().into())));
    let mut splices = Vec::new();
    if let Some(stomp) = &broker.stomp {
        // Here the order counts: where it is another one, the list is written anew.
        let list = outline.value(&within(&path, "stomp"));
        let is_begun =
            list.is_none_or(|list| stomp.iter().map(String::as_str).take(texts(list).count()).eq(texts(list)));
        match list.and_then(Value::span) {
            Some(span) if !is_begun => splices.push(Splice::new(span, array(stomp).to_string())),
            _ => splices.extend(complete(outline, &path, "stomp", stomp, &mut fields)?),
        }
    }
    if outline.has(&path) {
        splices.extend(set(outline, &path, fields)?);
        Ok(splices)
    } else {
        outline.add_table("brokers", &broker.name, fields)
    }
}

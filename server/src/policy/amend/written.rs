//! How is a value written in policy.toml? The fields of users, groups and entries, from what an edit says.

use super::bad_edit;
use super::outline::Field;
use crate::broker::access::{Limit, Right, shorten};
use muster_protocol::error::Refusal;
use muster_protocol::policy::{Grants, GroupFields, UserFields};
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;
use toml_edit::{Array, Datetime, InlineTable, Key, Value};

/// What an edit says of a user, in the order in which it is written: lists beside them, which are changed member by member.
pub(super) fn of_user(user: &UserFields) -> Result<Vec<Field>, Refusal> {
    let text = |name: &str, value: &Option<String>| Some((name.to_owned(), value.as_deref()?.into()));
    let moment = |name: &str, value: &Option<String>| match value {
        Some(value) => date(name, value).map(|date| Some((name.to_owned(), date))),
        None => Ok(None),
    };
    let fields = [
        text("kind", &user.kind),
        text("password", &user.password),
        text("collective", &user.collective),
        text("certificate", &user.certificate),
        moment("expires", &user.expires)?,
        user.disabled.map(|disabled| ("disabled".to_owned(), disabled.into())),
        moment("revoked-before", &user.revoked_before)?,
    ];
    Ok(fields.into_iter().flatten().collect())
}

/// The lists of a user that an edit gives.
pub(super) fn lists_of_user(user: &UserFields) -> Vec<(&'static str, &[String])> {
    let lists = [("groups", &user.groups), ("networks", &user.networks)];
    lists.into_iter().filter_map(|(name, list)| Some((name, list.as_deref()?))).collect()
}

/// What an edit says of a group, but for the list of what it is shown.
pub(super) fn of_group(group: &GroupFields) -> Result<Vec<Field>, Refusal> {
    let mut fields: Vec<Field> = Vec::new();
    fields.extend(group.scope.iter().map(|scope| ("scope".to_owned(), scope.as_str().into())));
    fields.extend(group.all.map(|all| ("all".to_owned(), all.into())));
    for (name, most) in &group.limits {
        fields.push((name.clone(), limit(name, *most)?));
    }
    Ok(fields)
}

/// The groups that an edit names for a right.
pub(super) fn granted(entry: &Grants, right: Right) -> &[String] {
    match right {
        Right::Read => &entry.read,
        Right::Write => &entry.write,
        Right::Admin => &entry.admin,
    }
}

/// The value of a limit of this name.
pub(super) fn limit(name: &str, most: u64) -> Result<Value, Refusal> {
    known_limit(name)?;
    i64::try_from(most)
        .map(Value::from)
        .map_err(|_| bad_edit(format!("{name}: {most} is too large; remove the limit to have none")))
}

/// Refuses what is no name of a limit.
pub(super) fn known_limit(name: &str) -> Result<(), Refusal> {
    if Limit::ALL.into_iter().any(|limit| limit.as_str() == name) {
        return Ok(());
    }
    let known = Limit::ALL.map(Limit::as_str).join(", ");
    Err(bad_edit(format!("there is no limit `{}`; use one of {known}", shorten(name))))
}

/// A list of texts, each once.
pub(super) fn array<T: AsRef<str>>(texts: &[T]) -> Value {
    let mut seen = BTreeSet::new();
    Value::Array(texts.iter().map(AsRef::as_ref).filter(|text| seen.insert(*text)).collect::<Array>())
}

/// The texts of a list; none if it is no list.
pub(super) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flat_map(|array| array.iter().filter_map(Value::as_str))
}

/// A fact that the policy asserts.
pub(super) fn fact(name: &str, value: &Json) -> Result<Value, Refusal> {
    let cannot = |what: &str, cure: &str| bad_edit(format!("the fact `{}` {what}; {cure}", shorten(name)));
    Ok(match value {
        Json::Null => return Err(cannot("is null, which policy.toml cannot hold", "leave it out")),
        Json::Bool(yes) => (*yes).into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) if value.is_f64() => number.into(),
            _ => return Err(cannot("is too large a number", "write it as a text")),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(members) => {
            Value::Array(members.iter().map(|member| fact(name, member)).collect::<Result<Array, _>>()?)
        }
        Json::Object(members) => Value::InlineTable(facts(members)?),
    })
}

/// Facts that the policy asserts.
pub(super) fn facts(members: &Map<String, Json>) -> Result<InlineTable, Refusal> {
    members.iter().map(|(name, value)| Ok((Key::new(name), fact(name, value)?))).collect()
}

fn date(name: &str, text: &str) -> Result<Value, Refusal> {
    let date: Datetime = text.trim().parse().map_err(|_| {
        let form = "write a day (2027-01-31) or a time with its offset (2027-01-31T18:00:00Z)";
        bad_edit(format!("{name}: `{}` is no date; {form}", shorten(text)))
    })?;
    Ok(date.into())
}

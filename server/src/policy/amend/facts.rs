//! How do the asserted facts of a user become others? Those that stay the same stay as they are written.

use super::outline::{Outline, Path};
use super::splice::Splice;
use super::written;
use muster_protocol::error::Refusal;
use serde_json::{Map, Value as Json};
use toml_edit::Value;

/// Takes out what is not wanted, and what is to be written in another way, of the user at a path.
pub(super) fn removals(outline: &Outline<'_>, user: &Path<'_>, wanted: &Map<String, Json>) -> Vec<Splice> {
    if wanted.is_empty() {
        return outline.remove(user, &["facts"]);
    }
    let path = [user, &["facts"]].concat();
    let known = known(outline, &path);
    let changed = known.iter().filter(|(name, old)| wanted.get(*name) != Some(old)).map(|(name, _)| name.as_str());
    // A value is replaced where it stands.
    let is_replaced = |name: &str| wanted.contains_key(name) && outline.value(&[&path, &[name][..]].concat()).is_some();
    let gone: Vec<&str> = changed.filter(|name| !is_replaced(name)).collect();
    if gone.is_empty() { Vec::new() } else { outline.remove(&path, &gone) }
}

/// Writes what is not there so; `None` if there is no table of facts.
pub(super) fn additions(
    outline: &Outline<'_>,
    path: &Path<'_>,
    wanted: &Map<String, Json>,
) -> Result<Option<Vec<Splice>>, Refusal> {
    if wanted.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let Some(body) = outline.body(path) else { return Ok(None) };
    let known = known(outline, path);
    let (mut splices, mut new) = (Vec::new(), Vec::new());
    for (name, value) in wanted.iter().filter(|(name, value)| known.get(*name) != Some(value)) {
        let value = written::fact(name, value)?;
        let own: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
        match outline.value(&own).and_then(Value::span) {
            Some(span) => splices.push(Splice::new(span, value.to_string())),
            None => new.push((name.clone(), value)),
        }
    }
    splices.extend(outline.insert(&body, &new));
    Ok(Some(splices))
}

/// The facts that stand at a path.
fn known(outline: &Outline<'_>, path: &Path<'_>) -> Map<String, Json> {
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
    facts
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
            Json::Object(table.iter().map(|(name, value)| (name.to_owned(), json(value))).collect())
        }
    }
}

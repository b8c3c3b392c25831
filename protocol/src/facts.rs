//! What does a node say about itself, and how do such documents change, combine and travel?

mod document;
mod path;
mod pattern;
mod scalar;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use document::{MAX_CLASSES, MAX_MODULES, NodeDocument};
pub(crate) use path::{KEYWORDS, is_bare, scan_quoted, write_quoted};
pub use path::{Path, PathError};
pub use pattern::PathPattern;
pub use scalar::{Number, Scalar, ScalarRef};

/// Largest facts document, in bytes of canonical JSON.
pub const MAX_BYTES: usize = 256 * 1024;
/// Most distinct paths in a document, those of objects and lists included: each costs the index something.
pub const MAX_PATHS: usize = 4096;
/// Most values of a document, each element of a list counted: each may cost its place in an index.
pub const MAX_VALUES: usize = 16_384;
/// Deepest nesting of objects and lists, the document itself included.
pub const MAX_DEPTH: usize = 32;
/// Longest name of a fact, class or module, in bytes.
pub const MAX_NAME: usize = 255;

/// Why a document is not accepted. The facts known before stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// Not JSON.
    #[error("the document is not JSON: {0}")]
    Json(String),
    /// JSON, but not an object where one is needed.
    #[error("{0} must be a JSON object")]
    NotAnObject(&'static str),
    /// Over [`MAX_BYTES`] (or the document's own limit).
    #[error("the document has {0} bytes, more than {1}")]
    TooLarge(usize, usize),
    /// Over [`MAX_DEPTH`].
    #[error("the document is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Over [`MAX_PATHS`], or over [`MAX_VALUES`].
    #[error("the document has more than {MAX_PATHS} fact paths, or {MAX_VALUES} values in them")]
    TooManyPaths,
    /// A name that is empty, too long, or holds control characters.
    #[error("{0} {1:?} is empty, longer than {MAX_NAME} bytes or holds a control character")]
    Name(&'static str, String),
    /// Too many classes or modules.
    #[error("the document has {1} {0}, more than {2}")]
    TooMany(&'static str, usize, usize),
    /// A field that no version of this document has, or one of the wrong type.
    #[error("the field `{0}` {1}")]
    Field(String, &'static str),
}

/// A validated facts document: a JSON object within the limits, without nulls (null means missing). Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts(Arc<Value>);

impl Default for Facts {
    fn default() -> Facts {
        Facts(Arc::new(Value::Object(Map::new())))
    }
}

impl Facts {
    /// Reads JSON text. The length is checked first.
    pub fn parse(bytes: &[u8]) -> Result<Facts, FactsError> {
        if bytes.len() > MAX_BYTES {
            return Err(FactsError::TooLarge(bytes.len(), MAX_BYTES));
        }
        Facts::from_value(serde_json::from_slice(bytes).map_err(|error| FactsError::Json(error.to_string()))?)
    }

    /// Takes a JSON value: nulls are dropped, then the limits are checked.
    pub fn from_value(mut value: Value) -> Result<Facts, FactsError> {
        if !value.is_object() {
            return Err(FactsError::NotAnObject("the facts document"));
        }
        normalize(&mut value, MAX_DEPTH)?;
        let bytes = canonical(&value).len();
        if bytes > MAX_BYTES {
            return Err(FactsError::TooLarge(bytes, MAX_BYTES));
        }
        if has_too_many_paths(&value) {
            return Err(FactsError::TooManyPaths);
        }
        Ok(Facts(Arc::new(value)))
    }

    /// The value at a path, through objects only; a list is found whole.
    pub fn get(&self, path: &Path) -> Option<&Value> {
        path.find_in(self.as_value())
    }

    /// The document as JSON, always an object.
    pub fn as_value(&self) -> &Value {
        &self.0
    }

    /// The same, shared.
    pub fn shared(&self) -> Arc<Value> {
        self.0.clone()
    }

    /// Hexadecimal SHA-256 of the canonical JSON: what a delta names as its base.
    pub fn hash(&self) -> String {
        hash(&self.0)
    }

    /// The document with an RFC 7386 merge patch applied; all limits are checked again.
    pub fn merge_patch(&self, patch: &Value) -> Result<Facts, FactsError> {
        let mut value = (*self.0).clone();
        json_patch::merge(&mut value, patch);
        Facts::from_value(value)
    }

    /// The merge patch that turns this document into `new`: changed members only, lists whole, `{}` if equal.
    pub fn diff(&self, new: &Facts) -> Value {
        diff(&self.0, &new.0)
    }

    /// This document with `over` laid on top: objects merge member by member, anything else in `over` replaces.
    /// The result may exceed the limits, which hold for what arrives and not for what the broker puts together.
    pub fn overlay(&self, over: &Facts) -> Facts {
        let mut value = (*self.0).clone();
        overlay(&mut value, &over.0);
        Facts(Arc::new(value))
    }

    /// The document without what `hidden` names (with all that is below it). An object or list of which nothing is
    /// left goes too, so that its emptiness tells nothing. Ask [`PathPattern::matches`] here, not `touches`.
    pub fn redact(&self, hidden: impl Fn(&Path) -> bool) -> Value {
        let mut names = Vec::new();
        redact(&self.0, &mut names, &hidden).unwrap_or_else(|| Value::Object(Map::new()))
    }
}

/// What [`walk`] meets at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf<'a> {
    /// An object or a list stands here: the path is present (`has os`), without a value of its own.
    Present,
    /// A value; a list announces one for each element.
    Value(ScalarRef<'a>),
}

/// Visits every path of a document: the one definition of what is present where, shared by evaluator and index.
///
/// Lists are walked through (no index in the path; the same path may be visited many times), objects and lists announce
/// their own path as present before their members, nulls are skipped, and so are members whose names hold control
/// characters, since no [`Path`] can name them (validated facts have none). Segments are given outermost first.
pub fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&[&'a str], Leaf<'a>)) {
    let mut names = Vec::new();
    if let Value::Object(members) = value {
        walk_members(members, &mut names, visit);
    }
}

/// [`walk`] as a list, for where convenience matters more than allocations.
pub fn leaves(value: &Value) -> Vec<(Path, Leaf<'_>)> {
    let mut all = Vec::new();
    walk(value, &mut |names, leaf| {
        if let Some(path) = Path::from_segments(names.iter().copied()) {
            all.push((path, leaf));
        }
    });
    all
}

fn walk_members<'a>(
    members: &'a Map<String, Value>,
    names: &mut Vec<&'a str>,
    visit: &mut impl FnMut(&[&'a str], Leaf<'a>),
) {
    for (name, value) in members {
        if name.chars().any(char::is_control) {
            continue;
        }
        names.push(name);
        walk_below(value, names, visit);
        names.pop();
    }
}

/// [`walk`] for the value that stands at a path in a document; `names` is that path, and is left as it was.
pub fn walk_below<'a>(value: &'a Value, names: &mut Vec<&'a str>, visit: &mut impl FnMut(&[&'a str], Leaf<'a>)) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            visit(names, Leaf::Present);
            walk_members(members, names, visit);
        }
        Value::Array(elements) => {
            visit(names, Leaf::Present);
            for element in elements {
                walk_below(element, names, visit);
            }
        }
        leaf => {
            if let Some(scalar) = ScalarRef::from_json(leaf) {
                visit(names, Leaf::Value(scalar));
            }
        }
    }
}

/// serde_json keeps members sorted by name and writes the shortest form of numbers: one document, one text.
fn canonical(value: &Value) -> String {
    value.to_string()
}

fn hash(value: &Value) -> String {
    HEXLOWER.encode(&Sha256::digest(canonical(value)))
}

fn check_name(what: &'static str, name: &str) -> Result<(), FactsError> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let shown = name.chars().take(64).collect();
        return Err(FactsError::Name(what, shown));
    }
    Ok(())
}

/// Drops nulls and checks depth and names; never goes deeper than `levels`.
fn normalize(value: &mut Value, levels: usize) -> Result<(), FactsError> {
    match value {
        Value::Object(members) => {
            let levels = levels.checked_sub(1).ok_or(FactsError::TooDeep)?;
            members.retain(|_, member| !member.is_null());
            for (name, member) in members {
                check_name("the fact name", name)?;
                normalize(member, levels)?;
            }
        }
        Value::Array(elements) => {
            let levels = levels.checked_sub(1).ok_or(FactsError::TooDeep)?;
            elements.retain(|element| !element.is_null());
            for element in elements {
                normalize(element, levels)?;
            }
        }
        // -0.0 equals 0.0 and is written otherwise: a difference would not see it, and the hashes of both sides would part.
        Value::Number(number) if number.is_f64() && number.as_f64() == Some(0.0) => *value = Value::from(0.0),
        _ => {}
    }
    Ok(())
}

/// Counts visits first: only a document with long lists has to be looked at path by path.
fn has_too_many_paths(value: &Value) -> bool {
    let mut visits = 0;
    walk(value, &mut |_, _| visits += 1);
    if visits <= MAX_PATHS || visits > MAX_VALUES {
        return visits > MAX_VALUES;
    }
    let mut paths = HashSet::new();
    walk(value, &mut |names, _| {
        if paths.len() <= MAX_PATHS {
            let mut path = String::new();
            for name in names {
                let _ = write!(path, "\u{1f}{name}");
            }
            paths.insert(path);
        }
    });
    paths.len() > MAX_PATHS
}

fn diff(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            Some(before) if before == value => {}
            // A non-object that becomes an object is patched from nothing, which RFC 7386 does by itself.
            Some(before) => {
                patch.insert(name.clone(), diff(before, value));
            }
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    Value::Object(patch)
}

fn overlay(value: &mut Value, over: &Value) {
    match (value, over) {
        (Value::Object(members), Value::Object(over)) => {
            for (name, value) in over {
                overlay(members.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (value, over) => *value = over.clone(),
    }
}

fn redact<'a>(value: &'a Value, names: &mut Vec<&'a str>, hidden: &impl Fn(&Path) -> bool) -> Option<Value> {
    match value {
        Value::Object(members) if !members.is_empty() => {
            let mut kept = Map::new();
            for (name, member) in members {
                names.push(name);
                let seen = Path::from_segments(names.iter().copied()).is_some_and(|path| !hidden(&path));
                if seen && let Some(member) = redact(member, names, hidden) {
                    kept.insert(name.clone(), member);
                }
                names.pop();
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(elements) if !elements.is_empty() => {
            let kept: Vec<Value> = elements.iter().filter_map(|element| redact(element, names, hidden)).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests;

//! What can a module do? Its description: actions, inputs, impact.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A module's description, as the agent announces it by hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the module, one destination segment.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Actions by name.
    pub actions: BTreeMap<String, Action>,
}

/// One action of a module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// One line for people.
    pub description: String,
    /// How much it can do to the node.
    pub impact: Impact,
    /// Arguments by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, Input>,
}

/// How much an action can do to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Impact {
    /// Looks only.
    Read,
    /// Changes the node.
    Change,
    /// Can lose data or service.
    Destructive,
}

/// One argument of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// One line for people.
    pub description: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: InputKind,
    /// Whether it must be there.
    #[serde(default)]
    pub required: bool,
    /// Longest text, in bytes; 0 is 4,096.
    #[serde(default)]
    pub max_length: usize,
    /// Whether its value stays out of logs and audit.
    #[serde(default)]
    pub sensitive: bool,
}

/// The type of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// UTF-8 without control characters but tab and line feed.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list of texts.
    List,
}

/// Arguments that the manifest does not allow; the text names the argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// The module has no such action.
    #[error("module `{module}` has no action `{action}`; it has: {known}")]
    UnknownAction {
        /// The module.
        module: String,
        /// What was asked for.
        action: String,
        /// What there is.
        known: String,
    },
    /// An argument that the action does not take.
    #[error("unknown argument `{name}`; the action takes: {known}")]
    Unknown {
        /// The argument.
        name: String,
        /// What it takes.
        known: String,
    },
    /// A required argument is not there.
    #[error("argument `{0}` is missing")]
    Missing(String),
    /// A value of another type, too long, or with control characters.
    #[error("argument `{name}` must be {expected}")]
    Wrong {
        /// The argument.
        name: String,
        /// What it must be.
        expected: String,
    },
}

impl Manifest {
    /// SHA-256 of the canonical JSON, lowercase hex.
    pub fn hash(&self) -> String {
        let canonical = serde_json::to_vec(&serde_json::to_value(self).unwrap_or_default()).unwrap_or_default();
        data_encoding::HEXLOWER.encode(&Sha256::digest(canonical))
    }

    /// Checks the arguments of an action: all known, all required there, each of its type.
    /// Texts are converted to integer, boolean or a one-element list where the type asks for it, since a command line has only texts.
    pub fn check(&self, action: &str, arguments: &Map<String, Value>) -> Result<Map<String, Value>, ArgumentError> {
        let Some(known) = self.actions.get(action) else {
            return Err(ArgumentError::UnknownAction {
                module: self.name.clone(),
                action: crate::message::shown(action),
                known: list(self.actions.keys()),
            });
        };
        if let Some(name) = arguments.keys().find(|name| !known.inputs.contains_key(*name)) {
            return Err(ArgumentError::Unknown { name: crate::message::shown(name), known: list(known.inputs.keys()) });
        }
        let mut checked = Map::new();
        for (name, input) in &known.inputs {
            match arguments.get(name) {
                Some(value) => {
                    checked.insert(name.clone(), input.check(name, value)?);
                }
                None if input.required => return Err(ArgumentError::Missing(name.clone())),
                None => {}
            }
        }
        Ok(checked)
    }
}

impl Input {
    fn check(&self, name: &str, value: &Value) -> Result<Value, ArgumentError> {
        let longest = if self.max_length == 0 { 4096 } else { self.max_length };
        let wrong = |expected: String| ArgumentError::Wrong { name: name.to_owned(), expected };
        let is_text =
            |text: &str| text.len() <= longest && !text.chars().any(|c| c.is_control() && c != '\t' && c != '\n');
        match (self.kind, value) {
            (InputKind::Text, Value::String(text)) if is_text(text) => Ok(value.clone()),
            (InputKind::Text, Value::Number(number)) => Ok(Value::String(number.to_string())),
            (InputKind::Text, _) => Err(wrong(format!("text of at most {longest} bytes without control characters"))),
            (InputKind::Integer, Value::Number(number)) if number.is_i64() => Ok(value.clone()),
            (InputKind::Integer, Value::String(text)) => {
                text.parse::<i64>().map(Value::from).map_err(|_| wrong("a whole number".into()))
            }
            (InputKind::Integer, _) => Err(wrong("a whole number".into())),
            (InputKind::Boolean, Value::Bool(_)) => Ok(value.clone()),
            (InputKind::Boolean, Value::String(text)) if text == "true" || text == "false" => {
                Ok(Value::Bool(text == "true"))
            }
            (InputKind::Boolean, _) => Err(wrong("true or false".into())),
            (InputKind::List, Value::Array(items)) if items.iter().all(|i| i.as_str().is_some_and(is_text)) => {
                Ok(value.clone())
            }
            (InputKind::List, Value::String(text)) if is_text(text) => Ok(Value::Array(vec![value.clone()])),
            (InputKind::List, _) => Err(wrong(format!("a list of texts of at most {longest} bytes"))),
        }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Manifest {
        serde_json::from_value(json!({
            "name": "service", "description": "services", "actions": {
                "status": {"description": "state", "impact": "read", "inputs": {
                    "name": {"description": "unit", "type": "text", "required": true, "max_length": 16},
                    "lines": {"description": "log lines", "type": "integer"}}}}
        }))
        .expect("a manifest")
    }

    #[test]
    fn arguments_are_checked_by_name_and_type() {
        let check =
            |args: Value| service().check("status", args.as_object().expect("object")).map_err(|e| e.to_string());
        assert_eq!(
            check(json!({"name": "ssh", "lines": "3"})).map(Value::Object),
            Ok(json!({"name": "ssh", "lines": 3}))
        );
        assert_eq!(check(json!({})), Err("argument `name` is missing".into()));
        assert_eq!(
            check(json!({"name": "ssh", "x": 1})),
            Err("unknown argument `x`; the action takes: lines, name".into())
        );
        assert!(check(json!({"name": "a\u{0}b"})).is_err());
        assert!(check(json!({"name": "seventeen letters"})).is_err());
        assert!(check(json!({"name": "ssh", "lines": "three"})).is_err());
        let unknown = service().check("explode", &Map::new()).map_err(|e| e.to_string());
        assert_eq!(unknown, Err("module `service` has no action `explode`; it has: status".into()));
    }

    #[test]
    fn the_hash_follows_the_content() {
        let mut other = service();
        assert_eq!(other.hash(), service().hash());
        other.description.push('!');
        assert_ne!(other.hash(), service().hash());
    }
}

//! What does an agent register: its facts, its classes, and the modules it can run?

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Facts, FactsError, MAX_BYTES, check_name, diff, hash};

/// Most classes of a node.
pub const MAX_CLASSES: usize = 1024;
/// Most modules of a node.
pub const MAX_MODULES: usize = 256;
/// Largest whole document, in bytes as it arrives: facts at their limit, and as much again for classes and modules.
const MAX_DOCUMENT: usize = 2 * MAX_BYTES;

/// A node's registered document; on the wire
/// `{"facts": {…}, "classes": ["webserver"], "modules": {"service": "<manifest hash>"}}`, each part optional.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeDocument {
    /// Reported facts.
    pub facts: Facts,
    /// Role labels.
    pub classes: BTreeSet<String>,
    /// Module name to the hash of its manifest.
    pub modules: BTreeMap<String, String>,
}

impl NodeDocument {
    /// Reads JSON text; all limits are checked, unknown fields refused.
    pub fn parse(bytes: &[u8]) -> Result<NodeDocument, FactsError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(FactsError::TooLarge(bytes.len(), MAX_DOCUMENT));
        }
        NodeDocument::from_value(serde_json::from_slice(bytes).map_err(|error| FactsError::Json(error.to_string()))?)
    }

    /// Takes a JSON value; all limits are checked, unknown fields refused.
    pub fn from_value(value: Value) -> Result<NodeDocument, FactsError> {
        let Value::Object(fields) = value else {
            return Err(FactsError::NotAnObject("a node's document"));
        };
        let mut document = NodeDocument::default();
        for (field, value) in fields {
            match field.as_str() {
                "facts" => document.facts = Facts::from_value(value)?,
                "classes" => document.classes = classes(value)?,
                "modules" => document.modules = modules(value)?,
                _ => return Err(FactsError::Field(field, "is unknown")),
            }
        }
        Ok(document)
    }

    /// The document as JSON, with all three parts.
    pub fn to_value(&self) -> Value {
        json!({ "facts": self.facts.as_value(), "classes": self.classes, "modules": self.modules })
    }

    /// Hexadecimal SHA-256 of the canonical JSON: what a delta names as its base.
    pub fn hash(&self) -> String {
        hash(&self.to_value())
    }

    /// The document with an RFC 7386 merge patch applied; all limits are checked again.
    pub fn merge_patch(&self, patch: &Value) -> Result<NodeDocument, FactsError> {
        let mut value = self.to_value();
        json_patch::merge(&mut value, patch);
        NodeDocument::from_value(value)
    }

    /// The merge patch that turns this document into `new`; `{}` if they are equal.
    pub fn diff(&self, new: &NodeDocument) -> Value {
        diff(&self.to_value(), &new.to_value())
    }
}

fn classes(value: Value) -> Result<BTreeSet<String>, FactsError> {
    let Value::Array(list) = value else {
        return Err(FactsError::Field("classes".into(), "must be a list of texts"));
    };
    let mut classes = BTreeSet::new();
    for class in list {
        let Value::String(class) = class else {
            return Err(FactsError::Field("classes".into(), "must be a list of texts"));
        };
        check_name("the class", &class)?;
        classes.insert(class);
    }
    at_most("classes", classes.len(), MAX_CLASSES)?;
    Ok(classes)
}

fn modules(value: Value) -> Result<BTreeMap<String, String>, FactsError> {
    let Value::Object(map) = value else {
        return Err(FactsError::NotAnObject("the field `modules`"));
    };
    let modules: Map<String, Value> = map;
    at_most("modules", modules.len(), MAX_MODULES)?;
    let mut checked = BTreeMap::new();
    for (name, hash) in modules {
        let Value::String(hash) = hash else {
            return Err(FactsError::Field("modules".into(), "must map each name to the hash of its manifest"));
        };
        check_name("the module", &name)?;
        check_name("the manifest hash", &hash)?;
        checked.insert(name, hash);
    }
    Ok(checked)
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), FactsError> {
    if count > limit { Err(FactsError::TooMany(what, count, limit)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_survives_the_wire_and_its_deltas() {
        let old = NodeDocument::parse(
            br#"{"facts":{"os":{"family":"Debian"}},"classes":["web"],"modules":{"service":"ab12"}}"#,
        )
        .unwrap();
        assert_eq!(NodeDocument::from_value(old.to_value()).unwrap(), old);
        assert_eq!(old.diff(&old), json!({}));
        let new =
            NodeDocument::parse(br#"{"facts":{"os":{"family":"RedHat"},"up":1},"classes":["db","web"]}"#).unwrap();
        let patch = old.diff(&new);
        assert_eq!(patch["modules"], json!({"service": null}));
        let merged = old.merge_patch(&patch).unwrap();
        assert_eq!(merged, new);
        assert_eq!(merged.hash(), new.hash());
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        let many: Vec<String> = (0..=MAX_CLASSES).map(|i| format!("c{i}")).collect();
        for value in [
            json!([]),
            json!({"facts": 1}),
            json!({"fact": {}}),
            json!({"classes": "web"}),
            json!({"classes": [1]}),
            json!({"classes": ["a\nb"]}),
            json!({"classes": [""]}),
            json!({"classes": ["x".repeat(256)]}),
            json!({"classes": many}),
            json!({"modules": {"service": 1}}),
            json!({"modules": {"": "x"}}),
        ] {
            assert!(NodeDocument::from_value(value.clone()).is_err(), "{value}");
        }
        assert!(NodeDocument::parse(&vec![b' '; MAX_DOCUMENT + 1]).is_err());
    }
}

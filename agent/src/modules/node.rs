//! Is the node there, what is it, what can it do? Module `node`.

use super::{Answer, Arguments, Context, Failure, Module, Running, action, input, manifest};
use muster_protocol::facts::Path;
use muster_protocol::manifest::{Impact, InputKind, Manifest};
use muster_protocol::message::NodeId;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Module `node`.
#[derive(Debug)]
pub(super) struct Node {
    manifest: Manifest,
    node: NodeId,
    actions: BTreeMap<String, Vec<String>>,
}

impl Node {
    /// `actions`: what the node can do, by module.
    pub(super) fn new(node: NodeId, actions: BTreeMap<String, Vec<String>>) -> Node {
        let path = input(InputKind::Text, "fact path, such as os.family; everything unless given");
        let manifest = manifest(
            "node",
            "The node itself.",
            vec![
                ("ping", action(Impact::Read, "Answers with the node's clock.", vec![])),
                ("inventory", action(Impact::Read, "Modules, classes and state of the agent.", vec![])),
                ("facts", action(Impact::Read, "Facts as last collected.", vec![("path", path)])),
            ],
        );
        Node { manifest, node, actions }
    }

    fn answer(&self, action: &str, arguments: &Arguments, context: &Context) -> Answer {
        let snapshot = &context.snapshot;
        match action {
            "ping" => Ok(json!({ "time": jiff::Timestamp::now().as_millisecond() })),
            "inventory" => Ok(json!({
                "node": self.node,
                "version": env!("CARGO_PKG_VERSION"),
                "modules": self.actions,
                "classes": snapshot.document.classes,
                "facts": { "collected_at": snapshot.collected_at, "failed": snapshot.failed },
            })),
            _ => facts(arguments.get("path").and_then(Value::as_str), snapshot.document.facts.as_value()),
        }
    }
}

impl Module for Node {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn run<'a>(&'a self, action: &'a str, arguments: Arguments, context: Context) -> Running<'a> {
        Box::pin(async move { self.answer(action, &arguments, &context) })
    }
}

fn facts(path: Option<&str>, facts: &Value) -> Answer {
    let Some(text) = path else { return Ok(json!({ "facts": facts })) };
    let path = Path::parse(text).map_err(|e| Failure::new("bad-argument", format!("argument `path`: {e}")))?;
    let found = path.segments().try_fold(facts, |value, segment| value.get(segment));
    match found {
        Some(value) => Ok(json!({ "path": text, "value": value })),
        None => Err(Failure::new(
            "no-such-fact",
            format!("the node has no fact `{}`", muster_protocol::message::shown(text)),
        )),
    }
}

//! `muster inventory`: what is known of one node?

use super::output::{self, Table};
use super::{Context, Failure, text};
use crate::summary::EXIT_OK;
use clap::Args;
use muster_protocol::facts::Path;
use muster_protocol::message::NodeId;
use muster_protocol::request::{NodeAnswer, NodeQuery};
use serde_json::Value;

/// `inventory`.
#[derive(Debug, Args)]
pub(crate) struct Inventory {
    /// The node, as `muster find` prints it
    #[arg(value_name = "NODE-ID", value_parser = NodeId::parse)]
    node: NodeId,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Inventory {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let client = context.client().await?;
        let answer = client.node(&NodeQuery { node: self.node, explain: None }).await?;
        let shown = if self.json {
            text::pretty_json(&serde_json::to_value(&answer).unwrap_or_default()) + "\n"
        } else {
            page(&answer)
        };
        context.surface.out(&shown)?;
        Ok(EXIT_OK)
    }
}

fn page(node: &NodeAnswer) -> String {
    let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
    let mut out = format!("node        {}\nstate       {}\n", node.id, text::clean(&node.state));
    if !node.broker.is_empty() {
        out.push_str(&format!("broker      {}\n", text::clean(&node.broker)));
    }
    if let Some(gone) = &node.gone {
        out.push_str(&format!("gone since  {} ({})\n", output::time(gone.at), text::clean(&gone.reason)));
    }
    out.push_str(&format!("collective  {}\nsince       {}\n", text::clean(&node.collective), output::time(node.since)));
    out.push_str(&format!("classes     {}\n", list(node.classes.iter().map(|class| text::clean(class)).collect())));
    out.push_str(&format!("modules     {}\n\n", list(node.modules.keys().map(|module| text::clean(module)).collect())));
    let mut table = Table::new(["FACT", "VALUE", "SOURCE"].map(str::to_owned));
    let mut rows = Vec::new();
    flatten(&node.facts, &mut Vec::new(), &mut rows);
    for (segments, value) in rows {
        let first = segments.first().copied().unwrap_or_default();
        let source = if node.asserted.iter().any(|path| path == first) {
            "asserted"
        } else if first == "broker" {
            "observed"
        } else {
            "reported"
        };
        let path =
            Path::from_segments(segments.iter().copied()).map_or_else(|| segments.join("."), |path| path.to_string());
        table.row([text::clean(&path), text::scalar(value), source.to_owned()]);
    }
    out + &table.to_string()
}

/// Every leaf with its path; lists are leaves, as paths walk through them.
fn flatten<'a>(value: &'a Value, path: &mut Vec<&'a str>, rows: &mut Vec<(Vec<&'a str>, &'a Value)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                path.push(name);
                flatten(value, path, rows);
                path.pop();
            }
        }
        leaf => rows.push((path.clone(), leaf)),
    }
}

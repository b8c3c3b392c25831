//! `muster mesh`: which brokers are there, how are they linked, and who cannot be reached?

use super::output::{self, Table};
use super::{Context, Failure, text};
use crate::summary::{EXIT_MISSING, EXIT_OK};
use clap::Args;
use muster_protocol::request::{MeshAnswer, MeshBroker, MeshLink, Reach};
use std::collections::BTreeSet;

/// `mesh`.
#[derive(Debug, Args)]
pub(crate) struct Mesh {
    /// Print a graph for Graphviz: `muster mesh --dot | dot -Tsvg`
    #[arg(long, conflicts_with = "json", help_heading = "Output")]
    dot: bool,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Mesh {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let client = context.client().await?;
        let answer = client.mesh().await?;
        let surface = &mut context.surface;
        let shown = if self.json {
            text::pretty_json(&serde_json::to_value(&answer).unwrap_or_default()) + "\n"
        } else if self.dot {
            dot(&answer)
        } else {
            table(&answer)
        };
        surface.out(&shown)?;
        let away = answer.brokers.iter().filter(|broker| is_away(broker)).count();
        if !self.json && !self.dot {
            surface.note(&summary(&answer, away));
        }
        answer.alarms.iter().for_each(|alarm| surface.note(&format!("Alarm: {}", text::clean(alarm))));
        Ok(if away > 0 { EXIT_MISSING } else { EXIT_OK })
    }
}

fn is_away(broker: &MeshBroker) -> bool {
    matches!(broker.reach, Reach::Unreachable | Reach::Unknown)
}

fn summary(answer: &MeshAnswer, away: usize) -> String {
    let brokers = match answer.brokers.len() {
        1 => "1 broker".to_owned(),
        count => format!("{count} brokers"),
    };
    let away = match away {
        0 => "all can be reached".to_owned(),
        count => format!("{count} cannot be reached"),
    };
    text::clean(&format!("{brokers} as {} sees them; {away}. Epoch {}.", answer.broker, answer.epoch))
}

fn table(answer: &MeshAnswer) -> String {
    let header = ["BROKER", "REACH", "INSTANCE", "NODES", "COST", "WAY", "LINKS"];
    let mut table = Table::new(header.map(str::to_owned));
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let joined = |parts: Vec<String>, with: &str| if parts.is_empty() { "-".to_owned() } else { parts.join(with) };
    for broker in &answer.brokers {
        let draining = if broker.draining { ", draining" } else { "" };
        table.row([
            text::clean(&broker.name),
            format!("{}{draining}", broker.reach),
            number((broker.instance > 0).then_some(broker.instance)),
            number(broker.nodes),
            number(broker.cost),
            joined(broker.path.iter().map(|name| text::clean(name)).collect(), " > "),
            joined(broker.links.iter().map(link).collect(), ", "),
        ]);
    }
    table.to_string()
}

/// `dc1 10 (2 ms, filtered)`.
fn link(link: &MeshLink) -> String {
    let rtt = link.rtt_ms.map(|ms| format!("{ms} ms"));
    let filtered = link.send.is_some().then(|| "filtered".to_owned());
    let one_way = (!link.two_way).then(|| "one-way".to_owned());
    let remarks: Vec<String> = [rtt, filtered, one_way].into_iter().flatten().collect();
    let remarks = if remarks.is_empty() { String::new() } else { format!(" ({})", remarks.join(", ")) };
    format!("{} {}{remarks}", text::clean(&link.to), link.cost)
}

/// Brokers are nodes, dashed if they cannot be reached. A link is one edge with its cost; an end that the other side does not
/// list is a dashed arrow.
fn dot(answer: &MeshAnswer) -> String {
    let mut out = String::from("graph mesh {\n  node [shape=box];\n");
    for broker in &answer.brokers {
        let nodes = broker.nodes.map_or_else(String::new, |count| format!("\\n{}", output::nodes(count)));
        let draining = if broker.draining { "\\ndraining" } else { "" };
        let style = match broker.reach {
            Reach::Here => ", style=bold",
            Reach::Reachable => "",
            Reach::Unreachable | Reach::Unknown => ", style=dashed",
        };
        let name = escaped(&broker.name);
        out.push_str(&format!("  \"{name}\" [label=\"{name}{nodes}{draining}\"{style}];\n"));
    }
    let mut drawn = BTreeSet::new();
    for (broker, link) in answer.brokers.iter().flat_map(|broker| broker.links.iter().map(move |link| (broker, link))) {
        let (from, to) = (broker.name.as_str(), link.to.as_str());
        if link.two_way && !drawn.insert((from.min(to), from.max(to))) {
            continue;
        }
        let style = if link.two_way { "" } else { ", dir=forward, style=dashed" };
        out.push_str(&format!("  \"{}\" -- \"{}\" [label=\"{}\"{style}];\n", escaped(from), escaped(to), link.cost));
    }
    out + "}\n"
}

/// A name inside a quoted string of Graphviz.
fn escaped(name: &str) -> String {
    text::clean(name).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(name: &str, reach: Reach, links: &[(&str, u32, bool)]) -> MeshBroker {
        let link = |&(to, cost, two_way): &(&str, u32, bool)| MeshLink {
            to: to.to_owned(),
            cost,
            two_way,
            send: None,
            rtt_ms: None,
        };
        MeshBroker {
            name: name.into(),
            reach,
            instance: 7,
            draining: false,
            nodes: None,
            path: Vec::new(),
            cost: None,
            links: links.iter().map(link).collect(),
        }
    }

    #[test]
    fn a_graph_has_each_link_once_and_shows_what_is_away() {
        let mut noc = broker("noc1", Reach::Here, &[("dc1", 10, true), ("dc2", 5, false)]);
        noc.nodes = Some(1);
        let mut dc1 = broker("dc1", Reach::Reachable, &[("noc1", 10, true)]);
        dc1.draining = true;
        let odd = broker("x\"\\\u{1b}", Reach::Unknown, &[]);
        let answer = MeshAnswer { brokers: vec![noc, dc1, odd], ..MeshAnswer::default() };
        let expected = r#"graph mesh {
  node [shape=box];
  "noc1" [label="noc1\n1 node", style=bold];
  "dc1" [label="dc1\ndraining"];
  "x\"\\␛" [label="x\"\\␛", style=dashed];
  "noc1" -- "dc1" [label="10"];
  "noc1" -- "dc2" [label="5", dir=forward, style=dashed];
}
"#;
        assert_eq!(dot(&answer), expected);
    }

    #[test]
    fn links_show_what_is_special_about_them() {
        let plain = MeshLink { to: "dc1".into(), cost: 10, two_way: true, send: None, rtt_ms: None };
        assert_eq!(link(&plain), "dc1 10");
        let special = MeshLink { send: Some(vec!["prod.>".into()]), rtt_ms: Some(2), two_way: false, ..plain };
        assert_eq!(link(&special), "dc1 10 (2 ms, filtered, one-way)");
    }
}

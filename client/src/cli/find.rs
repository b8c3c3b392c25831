//! `muster find`: which nodes match, and which that matched are gone, since when and why?

use super::output::{self, Table};
use super::target::TargetOptions;
use super::{Context, Failure, Format, text};
use crate::summary::{EXIT_NONE, EXIT_OK};
use crate::without::Without;
use clap::Args;
use muster_protocol::facts::Path;
use muster_protocol::request::{FindAnswer, FindQuery, FoundNode, GoneNode};
use serde_json::json;

/// Gone nodes that are listed for people; JSON has all.
const GONE_SHOWN: usize = 20;

/// `find`.
#[derive(Debug, Args)]
pub(crate) struct Find {
    #[command(flatten)]
    target: TargetOptions,
    /// Show these facts too, separated by commas or repeated
    #[arg(short = 'f', long = "facts", value_name = "PATH", value_delimiter = ',', help_heading = "Output")]
    facts: Vec<String>,
    /// List no more than this many nodes
    #[arg(long, value_name = "N", help_heading = "Output")]
    limit: Option<u64>,
    /// Print the number of nodes only
    #[arg(long, conflicts_with_all = ["json", "ndjson", "facts", "limit"], help_heading = "Output")]
    count: bool,
    #[command(flatten)]
    format: Format,
}

impl Find {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let target = self.target.resolve()?;
        check_paths(&self.facts)?;
        let most = if self.count { Some(1) } else { self.limit };
        let client = context.client().await?;
        let query = FindQuery { facts: self.facts.clone(), ..FindQuery::default() };
        let answer = client.find_all(&target, query, most).await?;
        let without: Without = answer.without.iter().collect();
        let surface = &mut context.surface;
        if self.count {
            surface.out(&format!("{}\n", answer.count))?;
            output::note_without(surface, &without);
        } else if self.format.json {
            surface.out(&(text::pretty_json(&document(&answer)) + "\n"))?;
        } else if self.format.ndjson {
            surface.out(&lines(&answer))?;
        } else {
            surface.out(&table(&answer.nodes, &self.facts))?;
            surface.note(&summary(&answer));
            output::note_without(surface, &without);
        }
        Ok(exit_code(answer.count, &without))
    }
}

/// Nothing matches: 1; unless it may be otherwise where a broker is missing.
pub(super) fn exit_code(count: u64, without: &Without) -> u8 {
    without.exit_code(if count == 0 { EXIT_NONE } else { EXIT_OK })
}

/// Refuses what is no path before anything is sent.
pub(super) fn check_paths(paths: &[String]) -> Result<(), Failure> {
    let wrong = paths
        .iter()
        .find_map(|path| Path::parse(path).err().map(|error| format!("`{path}` is not a fact path: {error}")));
    wrong.map_or(Ok(()), |text| Err(Failure::Usage(text)))
}

/// A row a node: its id, the display facts, the facts asked for.
pub(super) fn table(nodes: &[FoundNode], paths: &[String]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let mut columns = output::display_columns(nodes.iter().map(|node| &node.display));
    columns.retain(|column| !paths.contains(column));
    let header = columns.iter().chain(paths).map(|path| text::clean(path));
    let mut table = Table::new(std::iter::once("NODE".to_owned()).chain(header));
    for node in nodes {
        let display = columns.iter().map(|path| output::cell(&node.display, path));
        let facts = paths.iter().map(|path| output::cell(&node.facts, path));
        table.row(std::iter::once(node.id.to_string()).chain(display).chain(facts));
    }
    table.to_string()
}

pub(super) fn document(answer: &FindAnswer) -> serde_json::Value {
    json!({
        "count": answer.count,
        "nodes": answer.nodes,
        "registering": answer.registering,
        "gone": answer.gone,
        "without": answer.without,
    })
}

pub(super) fn lines(answer: &FindAnswer) -> String {
    let nodes = answer.nodes.iter().map(|node| json!({"event": "node", "node": node}));
    let gone = answer.gone.iter().map(|node| json!({"event": "gone", "node": node}));
    let (count, registering, without) = (answer.count, answer.registering, &answer.without);
    let end = json!({"event": "end", "count": count, "registering": registering, "without": without});
    nodes.chain(gone).chain([end]).map(|line| text::json(&line) + "\n").collect()
}

fn summary(answer: &FindAnswer) -> String {
    let mut out = match answer.count {
        0 => "No node matches.".to_owned(),
        1 => "1 node matches".to_owned(),
        count => format!("{count} nodes match"),
    };
    let shown = answer.nodes.len() as u64;
    if answer.count > 0 {
        out.push_str(&if shown < answer.count { format!("; the first {shown} are shown.") } else { ".".to_owned() });
    }
    if answer.registering > 0 {
        out.push_str(&format!(
            "\n{} registering: connected, and not yet to be matched.",
            output::nodes(answer.registering)
        ));
    }
    if !answer.gone.is_empty() {
        out.push_str(&gone(&answer.gone));
    }
    out
}

fn gone(gone: &[GoneNode]) -> String {
    let mut table = Table::new(["NODE", "SINCE", "REASON", "FACTS"].map(str::to_owned));
    for node in gone.iter().take(GONE_SHOWN) {
        table.row([node.id.to_string(), output::time(node.at), text::clean(&node.reason), text::facts(&node.display)]);
    }
    let rows: Vec<String> = table.to_string().lines().map(|line| format!("\n  {line}")).collect();
    let more = gone.len().saturating_sub(GONE_SHOWN);
    let more = if more > 0 { format!("\n  … and {more} more; --json lists all") } else { String::new() };
    let verb = if gone.len() == 1 {
        "matched when it was last seen and is gone"
    } else {
        "matched when they were last seen and are gone"
    };
    format!("\n{} {verb}:{}{more}", output::nodes(gone.len() as u64), rows.concat())
}

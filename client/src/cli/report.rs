//! `muster report`: how often does each value of a fact occur?

use super::output::{self, Table};
use super::target::TargetOptions;
use super::{Context, Failure, find, text};
use crate::without::Without;
use clap::Args;
use muster_protocol::request::{ReportAnswer, ReportQuery};
use serde_json::json;

/// `report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Path of the fact, such as os.family
    #[arg(value_name = "PATH")]
    path: String,
    #[command(flatten)]
    target: TargetOptions,
    /// List no more than this many values, 1 to 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Output")]
    limit: Option<u32>,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Report {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let target = self.target.resolve()?;
        find::check_paths(std::slice::from_ref(&self.path))?;
        let client = context.client().await?;
        let answer = client.report(&target, &ReportQuery { fact: self.path.clone(), limit: self.limit }).await?;
        let without: Without = answer.without.iter().collect();
        let surface = &mut context.surface;
        if self.json {
            let mut value = serde_json::to_value(&answer).unwrap_or_default();
            value["without"] = json!(without);
            surface.out(&(text::pretty_json(&value) + "\n"))?;
        } else {
            if answer.count > 0 {
                surface.out(&histogram(&self.path, &answer))?;
                surface.note(&format!("{}.", output::nodes(answer.count)));
            } else {
                surface.note("No node matches.");
            }
            output::note_without(surface, &without);
        }
        Ok(find::exit_code(answer.count, &without))
    }
}

fn histogram(path: &str, answer: &ReportAnswer) -> String {
    let mut table = Table::new([text::clean(path), "NODES".into(), "SHARE".into()]);
    for entry in &answer.values {
        table.row([text::scalar(&entry.value), entry.count.to_string(), share(entry.count, answer.count)]);
    }
    if answer.missing > 0 {
        table.row(["(missing)".into(), answer.missing.to_string(), share(answer.missing, answer.count)]);
    }
    let more =
        if answer.more > 0 { format!("({} more values; --limit shows more)\n", answer.more) } else { String::new() };
    format!("{table}{more}")
}

fn share(count: u64, of: u64) -> String {
    format!("{:.1} %", count as f64 * 100.0 / of.max(1) as f64)
}

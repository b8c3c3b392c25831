//! `muster admin history`: how did the policy come to be what it is?

use super::list::page;
use super::shown;
use crate::cli::output::{self, Table};
use crate::cli::{Context, Failure, text};
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::Args;
use muster_protocol::policy::{EditionShown, Generation, HistoryAnswer, HistoryQuery};

/// `admin history`.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Show this one, with what it changed [default: list all that the broker keeps, the newest first]
    #[arg(value_name = "TERM.NUMBER")]
    generation: Option<Generation>,
    /// List the newest N
    #[arg(long, value_name = "N", conflicts_with = "generation")]
    limit: Option<u64>,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl History {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let client = context.client().await?;
        let answer = match self.generation {
            Some(generation) => {
                client.history(&HistoryQuery { generation: Some(generation), ..HistoryQuery::default() }).await?
            }
            None => client.history_all(self.limit).await?,
        };
        let words = match self.generation {
            Some(_) => answer.editions.iter().map(described).collect(),
            None => table(&answer),
        };
        let surface = &mut context.surface;
        if answer.editions.is_empty() && !self.json {
            let broker = text::clean(client.broker());
            surface.note(&match self.generation {
                Some(generation) => format!("{broker} keeps no generation {generation}."),
                None => format!("{broker} keeps no generations: its policy has none."),
            });
        } else {
            surface.out(&shown(self.json, &answer, &words))?;
        }
        Ok(if answer.editions.is_empty() { EXIT_NONE } else { EXIT_OK })
    }
}

fn table(answer: &HistoryAnswer) -> String {
    let mut table = Table::new(["GENERATION", "TIME", "BY", "WHAT", "REASON"].map(str::to_owned));
    for edition in &answer.editions {
        let EditionShown { generation, by, at, what, reason, .. } = edition;
        let reason = if reason.is_empty() { "-" } else { reason };
        let cells = [text::clean(by), text::clean(what), text::clean(reason)];
        let [by, what, reason] = cells;
        table.row([generation.to_string(), output::time(*at), by, what, reason]);
    }
    table.to_string()
}

fn described(edition: &EditionShown) -> String {
    let EditionShown { generation, authority, by, via, at, what, reason, sha256, changes } = edition;
    let mut out = page([
        ("generation", generation.to_string()),
        ("authority", authority.clone()),
        ("time", output::time(*at)),
        ("by", if via.is_empty() { by.clone() } else { format!("{by} at {via}") }),
        ("what", what.clone()),
        ("reason", if reason.is_empty() { "-".into() } else { reason.clone() }),
        ("sha256", sha256.clone()),
    ]);
    match changes {
        Some(changes) if changes.is_empty() => out.push_str("\nIt grants the same as the one before.\n"),
        Some(changes) => out.push_str(&format!("\n{changes}")),
        None => {}
    }
    out
}

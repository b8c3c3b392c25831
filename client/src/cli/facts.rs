//! `muster facts`: what values do these facts have on the nodes that match?

use super::target::TargetOptions;
use super::{Context, Failure, Format, find, output, text};
use crate::without::Without;
use clap::Args;
use muster_protocol::request::FindQuery;

/// `facts`.
#[derive(Debug, Args)]
pub(crate) struct Facts {
    /// Paths of facts, such as os.family or mountpoints."/var".size
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    target: TargetOptions,
    /// Show no more than this many nodes
    #[arg(long, value_name = "N", help_heading = "Output")]
    limit: Option<u64>,
    #[command(flatten)]
    format: Format,
}

impl Facts {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let target = self.target.resolve()?;
        find::check_paths(&self.paths)?;
        let client = context.client().await?;
        let query = FindQuery { facts: self.paths.clone(), ..FindQuery::default() };
        let answer = client.find_all(&target, query, self.limit).await?;
        let without: Without = answer.without.iter().collect();
        let surface = &mut context.surface;
        if self.format.json {
            surface.out(&(text::pretty_json(&find::document(&answer)) + "\n"))?;
        } else if self.format.ndjson {
            surface.out(&find::lines(&answer))?;
        } else {
            surface.out(&find::table(&answer.nodes, &self.paths))?;
            surface.note(&match answer.count {
                0 => "No node matches.".into(),
                count => format!("{} of {}.", answer.nodes.len(), output::nodes(count)),
            });
            for path in &self.paths {
                let missing = answer.nodes.iter().filter(|node| !node.facts.contains_key(path)).count();
                if missing > 0 {
                    surface.note(&format!("{} without {path}.", output::nodes(missing as u64)));
                }
            }
            output::note_without(surface, &without);
        }
        Ok(find::exit_code(answer.count, &without))
    }
}

//! `muster admin hidden`: which facts does nobody see, but for the groups that are shown them?

use super::edit::{Asked, Options};
use super::list::{List, Output, fetch, joined};
use crate::cli::{Context, Failure};
use clap::Subcommand;
use muster_protocol::facts::PathPattern;
use muster_protocol::policy::{Edit, FactPattern, Part};

/// `admin hidden`.
#[derive(Debug, Subcommand)]
pub(crate) enum Hidden {
    /// Hide facts
    Add {
        /// Such as hostname, ipaddress* or dmi.**
        #[arg(value_parser = pattern)]
        pattern: String,
        #[command(flatten)]
        options: Options,
    },
    /// Hide facts no more
    Remove {
        /// The pattern, as it stands there
        #[arg(value_parser = pattern)]
        pattern: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// List the patterns, and the groups that see what they hide
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Hidden {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Hidden::Add { pattern, options } => {
                options.carry_out(context, Edit::HiddenAdd(FactPattern { pattern: pattern.clone() })).await
            }
            Hidden::Remove { pattern, asked } => {
                asked.carry_out(context, Edit::HiddenRemove(FactPattern { pattern: pattern.clone() })).await
            }
            Hidden::List { output } => {
                let answer = fetch(context, Part::Hidden, None).await?;
                let words = ["pattern", "patterns", "hidden"];
                let list = List { words, name: None, generation: answer.generation, members: &answer.hidden };
                list.table(context, output.json, ["PATTERN", "SHOWN TO"], |hidden| {
                    [hidden.pattern.clone(), joined(&hidden.shown_to)]
                })
            }
        }
    }
}

fn pattern(text: &str) -> Result<String, String> {
    PathPattern::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

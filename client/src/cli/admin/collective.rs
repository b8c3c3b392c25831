//! `muster admin collective`: which collectives are there, and do commands to them need a target?

use super::edit::{Asked, Options};
use super::group::yes_or_no;
use super::list::{List, Output, fetch};
use crate::cli::{Context, Failure};
use clap::{ArgAction, Subcommand};
use muster_protocol::policy::{CollectiveFields, Edit, Named, Part};

/// `admin collective`.
#[derive(Debug, Subcommand)]
pub(crate) enum Collective {
    /// Add a collective
    Add {
        /// The first segment of its topics
        name: String,
        /// Whether a command needs a target [default: true]
        #[arg(long, value_name = "true|false", action = ArgAction::Set)]
        targeted: Option<bool>,
        #[command(flatten)]
        options: Options,
    },
    /// Say whether commands to a collective need a target
    Set {
        /// Which collective
        name: String,
        /// Whether a command needs a target
        #[arg(long, value_name = "true|false", action = ArgAction::Set)]
        targeted: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Remove a collective
    Remove {
        /// Which collective
        name: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show a collective
    Show {
        /// Which collective
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the collectives; the first one is the default of agents
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Collective {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Collective::Add { name, targeted, options } => {
                let fields = CollectiveFields { name: name.clone(), targeted: *targeted };
                options.carry_out(context, Edit::CollectiveAdd(fields)).await
            }
            Collective::Set { name, targeted, options } => {
                let fields = CollectiveFields { name: name.clone(), targeted: Some(*targeted) };
                options.carry_out(context, Edit::CollectiveSet(fields)).await
            }
            Collective::Remove { name, asked } => {
                asked.carry_out(context, Edit::CollectiveRemove(Named { name: name.clone() })).await
            }
            Collective::Show { name, output } => collectives(context, Some(name), output).await,
            Collective::List { output } => collectives(context, None, output).await,
        }
    }
}

async fn collectives(context: &mut Context, name: Option<&str>, output: &Output) -> Result<u8, Failure> {
    let answer = fetch(context, Part::Collectives, name).await?;
    let words = ["collective", "collectives", "collectives"];
    let list = List { words, name, generation: answer.generation, members: &answer.collectives };
    list.table(context, output.json, ["NAME", "TARGETED"], |collective| {
        [collective.name.clone(), yes_or_no(collective.targeted)]
    })
}

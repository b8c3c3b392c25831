//! `muster admin acl`: which groups may read, write or administer which destinations?

use super::edit::{Asked, Options};
use super::list::{List, Output, fetch, joined};
use crate::cli::{Context, Failure};
use clap::{Args, Subcommand};
use muster_protocol::destination::Pattern;
use muster_protocol::policy::{Edit, EntryShown, Grants, Part, ShowAnswer};

/// `admin acl`.
#[derive(Debug, Subcommand)]
pub(crate) enum Acl {
    /// Give groups rights at a destination: in the entry for exactly that pattern, or in a new one
    Add {
        /// Such as /topic/prod.*.status or /muster/find
        #[arg(value_parser = pattern)]
        destination: String,
        #[command(flatten)]
        groups: Groups,
        #[command(flatten)]
        options: Options,
    },
    /// Take rights from groups in the entry for exactly that pattern; without any group, remove the entry
    Remove {
        /// The pattern, as it stands there
        #[arg(value_parser = pattern)]
        destination: String,
        #[command(flatten)]
        groups: Groups,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show the entry for exactly this pattern; `muster admin explain` says what a user may do
    Show {
        /// The pattern, as it stands there
        #[arg(value_parser = pattern)]
        destination: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the entries, in the order of the file
    List {
        #[command(flatten)]
        output: Output,
    },
}

/// Which groups, for which right.
#[derive(Debug, Args)]
pub(crate) struct Groups {
    /// A group that may subscribe; repeat for more
    #[arg(long, value_name = "GROUP")]
    read: Vec<String>,
    /// A group that may send; repeat for more
    #[arg(long, value_name = "GROUP")]
    write: Vec<String>,
    /// A group that may delete, purge and move; repeat for more
    #[arg(long, value_name = "GROUP")]
    admin: Vec<String>,
}

impl Acl {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Acl::Add { destination, groups, options } => {
                let grants = groups.at(destination);
                if grants.read.is_empty() && grants.write.is_empty() && grants.admin.is_empty() {
                    let what = format!("acl add {destination}: for whom? Give --read, --write or --admin with a GROUP");
                    return Err(Failure::Usage(what));
                }
                options.carry_out(context, Edit::AclAdd(grants)).await
            }
            Acl::Remove { destination, groups, asked } => {
                asked.carry_out(context, Edit::AclRemove(groups.at(destination))).await
            }
            Acl::Show { destination, output } => {
                let answer = fetch(context, Part::Acl, Some(destination)).await?;
                table(context, &answer, Some(destination), output)
            }
            Acl::List { output } => {
                let answer = fetch(context, Part::Acl, None).await?;
                table(context, &answer, None, output)
            }
        }
    }
}

impl Groups {
    fn at(&self, destination: &str) -> Grants {
        Grants {
            destination: destination.to_owned(),
            read: self.read.clone(),
            write: self.write.clone(),
            admin: self.admin.clone(),
        }
    }
}

fn table(context: &mut Context, answer: &ShowAnswer, name: Option<&str>, output: &Output) -> Result<u8, Failure> {
    let list = List { words: ["entry", "entries", "acl"], name, generation: answer.generation, members: &answer.acl };
    let header = ["LINE", "DESTINATION", "READ", "WRITE", "ADMIN"];
    list.table(context, output.json, header, |EntryShown { line, destination, read, write, admin }| {
        [line.to_string(), destination.clone(), joined(read), joined(write), joined(admin)]
    })
}

fn pattern(text: &str) -> Result<String, String> {
    Pattern::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

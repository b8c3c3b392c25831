//! `muster admin scope`: which nodes do the members of a group address and see?

use super::edit::{Asked, Options};
use super::list::{List, Output, fetch};
use crate::cli::{Context, Failure};
use clap::Subcommand;
use muster_protocol::filter::Filter;
use muster_protocol::policy::{Edit, GroupShown, Named, Part, ScopeOf};

/// `admin scope`.
#[derive(Debug, Subcommand)]
pub(crate) enum Scope {
    /// Give a group a scope, in place of the one that it has
    Set {
        /// Which group
        group: String,
        /// Such as 'customer = acmeinc'; over asserted and observed facts
        #[arg(value_parser = filter)]
        filter: String,
        #[command(flatten)]
        options: Options,
    },
    /// Take its scope from a group: its members then address and see all nodes that no other group of theirs keeps from them
    Remove {
        /// Which group
        group: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show the scope of a group
    Show {
        /// Which group
        group: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the groups that have a scope
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Scope {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Scope::Set { group, filter, options } => {
                let scope = ScopeOf { group: group.clone(), filter: filter.clone() };
                options.carry_out(context, Edit::ScopeSet(scope)).await
            }
            Scope::Remove { group, asked } => {
                asked.carry_out(context, Edit::ScopeRemove(Named { name: group.clone() })).await
            }
            Scope::Show { group, output } => scopes(context, Some(group), output).await,
            Scope::List { output } => scopes(context, None, output).await,
        }
    }
}

async fn scopes(context: &mut Context, group: Option<&str>, output: &Output) -> Result<u8, Failure> {
    let answer = fetch(context, Part::Groups, group).await?;
    let scope = |group: GroupShown| Some(ScopeOf { filter: group.scope?, group: group.name });
    let scopes: Vec<ScopeOf> = answer.groups.into_iter().filter_map(scope).collect();
    let words = [if group.is_some() { "scope of" } else { "scope" }, "scopes", "scopes"];
    let list = List { words, name: group, generation: answer.generation, members: &scopes };
    list.table(context, output.json, ["GROUP", "SCOPE"], |scope| [scope.group.clone(), scope.filter.clone()])
}

/// A filter as the operator wrote it: so it stands in the policy then.
pub(super) fn filter(text: &str) -> Result<String, String> {
    parsed(text).map(|_| text.trim().to_owned())
}

/// A mistake is shown where it is.
pub(super) fn parsed(text: &str) -> Result<Filter, String> {
    Filter::parse(text).map_err(|error| format!("\n{}", error.render(text)))
}

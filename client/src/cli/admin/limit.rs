//! `muster admin limit`: how much may the members of a group do?

use super::edit::{Asked, Options};
use super::list::{List, Output, fetch};
use crate::cli::{Context, Failure};
use clap::Subcommand;
use clap::builder::RangedU64ValueParser;
use muster_protocol::policy::{Edit, LimitName, LimitOf, Part};

/// The limits that there are.
pub(super) const LIMITS: [&str; 4] = ["in-flight", "max-targets", "requests-per-minute", "sessions"];
/// The largest whole number of a policy.toml.
const MOST: u64 = i64::MAX as u64;

/// `admin limit`.
#[derive(Debug, Subcommand)]
pub(crate) enum Limit {
    /// Set a limit of a group
    Set {
        /// Which group
        group: String,
        /// Which limit
        #[arg(value_parser = LIMITS)]
        limit: String,
        /// At most so many, from 1
        #[arg(value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..=MOST))]
        most: u64,
        #[command(flatten)]
        options: Options,
    },
    /// Take a limit from a group
    Remove {
        /// Which group
        group: String,
        /// Which limit
        #[arg(value_parser = LIMITS)]
        limit: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show the limits of a group
    Show {
        /// Which group
        group: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the limits of all groups
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Limit {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Limit::Set { group, limit, most, options } => {
                let limit = LimitOf { group: group.clone(), limit: limit.clone(), most: *most };
                options.carry_out(context, Edit::LimitSet(limit)).await
            }
            Limit::Remove { group, limit, asked } => {
                let limit = LimitName { group: group.clone(), limit: limit.clone() };
                asked.carry_out(context, Edit::LimitRemove(limit)).await
            }
            Limit::Show { group, output } => limits(context, Some(group), output).await,
            Limit::List { output } => limits(context, None, output).await,
        }
    }
}

async fn limits(context: &mut Context, group: Option<&str>, output: &Output) -> Result<u8, Failure> {
    let answer = fetch(context, Part::Groups, group).await?;
    let mut limits = Vec::new();
    for group in answer.groups {
        let of = |(limit, most)| LimitOf { group: group.name.clone(), limit, most };
        limits.extend(group.limits.into_iter().map(of));
    }
    let words = [if group.is_some() { "limit of" } else { "limit" }, "limits", "limits"];
    let list = List { words, name: group, generation: answer.generation, members: &limits };
    list.table(context, output.json, ["GROUP", "LIMIT", "MOST"], |limit| {
        [limit.group.clone(), limit.limit.clone(), limit.most.to_string()]
    })
}

/// `max-targets=50`.
pub(super) fn pair(text: &str) -> Result<(String, u64), String> {
    let (limit, most) = text.split_once('=').ok_or("no `=`; write such as max-targets=50")?;
    if !LIMITS.contains(&limit) {
        return Err(format!("there is no such limit; the limits are {}", LIMITS.join(", ")));
    }
    match most.parse() {
        Ok(most) if (1..=MOST).contains(&most) => Ok((limit.to_owned(), most)),
        _ => Err(format!("a limit is a whole number from 1 to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_known_and_counts() {
        assert_eq!(pair("max-targets=50"), Ok(("max-targets".into(), 50)));
        for wrong in [
            "max-targets",
            "max-targets=",
            "max-targets=0",
            "max-targets=-1",
            "many=1",
            "sessions=99999999999999999999",
        ] {
            assert!(pair(wrong).is_err(), "{wrong}");
        }
    }
}

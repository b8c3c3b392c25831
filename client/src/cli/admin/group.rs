//! `muster admin group`: what do users have in common, and who is in which group?

use super::edit::{Asked, Options};
use super::limit::{LIMITS, pair};
use super::list::{List, Output, fetch, joined, or_dash, page};
use super::scope::filter;
use super::user::check_unset;
use crate::cli::{Context, Failure};
use clap::{Args, Subcommand};
use muster_protocol::policy::{Edit, GroupFields, GroupShown, Member, Named, Part};
use std::collections::BTreeMap;

/// Fields that a group can be without: all of them.
const OPTIONAL: [&str; 7] = ["all", "in-flight", "max-targets", "requests-per-minute", "scope", "sessions", "shows"];

/// `admin group`.
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Add a group
    Add {
        /// The new group's name: A-Z a-z 0-9 . _ @ -
        name: String,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        options: Options,
    },
    /// Set fields of a group, or take them out; those that are not named stay
    Set {
        /// Which group
        name: String,
        #[command(flatten)]
        fields: Fields,
        /// Take this field out; repeat for more
        #[arg(long, value_name = "FIELD", value_parser = OPTIONAL)]
        unset: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Remove a group, from its members and from entries too
    Remove {
        /// Which group
        name: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Put a user into a group
    AddMember {
        /// Which group
        group: String,
        /// Who
        #[arg(id = "member", value_name = "USER")]
        user: String,
        #[command(flatten)]
        options: Options,
    },
    /// Take a user out of a group
    RemoveMember {
        /// Which group
        group: String,
        /// Who
        #[arg(id = "member", value_name = "USER")]
        user: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show a group; `muster admin user list --group GROUP` lists who is in it
    Show {
        /// Which group
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the groups
    List {
        #[command(flatten)]
        output: Output,
    },
}

/// What a group may have.
#[derive(Debug, Args)]
pub(crate) struct Fields {
    /// Its members address and see the nodes only that this filter matches
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    scope: Option<String>,
    /// Its members may send to all nodes at once
    #[arg(long)]
    all: bool,
    /// A member of the hidden list that it sees, or `**`; repeat it for all of them
    #[arg(long = "shows", value_name = "PATTERN")]
    shows: Vec<String>,
    /// A limit, such as max-targets=50; repeat for more
    #[arg(long = "limit", value_name = "LIMIT=N", value_parser = pair)]
    limits: Vec<(String, u64)>,
}

impl Group {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Group::Add { name, fields, options } => {
                options.carry_out(context, Edit::GroupAdd(fields.of(name, &[])?)).await
            }
            Group::Set { name, fields, unset, options } => {
                let fields = fields.of(name, unset)?;
                let mut set = vec![
                    ("scope", fields.scope.is_some()),
                    ("all", fields.all.is_some()),
                    ("shows", fields.shows.is_some()),
                ];
                set.extend(LIMITS.map(|limit| (limit, fields.limits.contains_key(limit))));
                check_unset(&set, unset, false, "group add-member puts users into it")?;
                options.carry_out(context, Edit::GroupSet(fields)).await
            }
            Group::Remove { name, asked } => {
                asked.carry_out(context, Edit::GroupRemove(Named { name: name.clone() })).await
            }
            Group::AddMember { group, user, options } => {
                let member = Member { group: group.clone(), user: user.clone() };
                options.carry_out(context, Edit::GroupAddMember(member)).await
            }
            Group::RemoveMember { group, user, asked } => {
                let member = Member { group: group.clone(), user: user.clone() };
                asked.carry_out(context, Edit::GroupRemoveMember(member)).await
            }
            Group::Show { name, output } => {
                let answer = fetch(context, Part::Groups, Some(name)).await?;
                let words = ["group", "groups", "groups"];
                let list = List { words, name: Some(name), generation: answer.generation, members: &answer.groups };
                list.print(context, output.json, || answer.groups.iter().map(described).collect())
            }
            Group::List { output } => {
                let answer = fetch(context, Part::Groups, None).await?;
                let words = ["group", "groups", "groups"];
                let list = List { words, name: None, generation: answer.generation, members: &answer.groups };
                let header = ["NAME", "MEMBERS", "ALL", "LIMITS", "SCOPE", "SHOWS"];
                list.table(context, output.json, header, |group| {
                    let (all, scope) = (yes_or_no(group.all), or_dash(group.scope.as_ref()));
                    let members = group.members.to_string();
                    [group.name.clone(), members, all, limits(&group.limits), scope, joined(&group.shows)]
                })
            }
        }
    }
}

impl Fields {
    fn of(&self, name: &str, unset: &[String]) -> Result<GroupFields, Failure> {
        let mut limits = BTreeMap::new();
        for (limit, most) in &self.limits {
            if limits.insert(limit.clone(), *most).is_some() {
                return Err(Failure::Usage(format!("--limit {limit}: given twice")));
            }
        }
        Ok(GroupFields {
            name: name.to_owned(),
            scope: self.scope.clone(),
            all: self.all.then_some(true),
            shows: (!self.shows.is_empty()).then(|| self.shows.clone()),
            limits,
            unset: unset.to_vec(),
        })
    }
}

pub(super) fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn limits(limits: &BTreeMap<String, u64>) -> String {
    joined(&limits.iter().map(|(limit, most)| format!("{limit}={most}")).collect::<Vec<_>>())
}

fn described(group: &GroupShown) -> String {
    page([
        ("group", group.name.clone()),
        ("members", group.members.to_string()),
        ("scope", or_dash(group.scope.as_ref())),
        ("all", yes_or_no(group.all)),
        ("shows", joined(&group.shows)),
        ("limits", limits(&group.limits)),
    ])
}

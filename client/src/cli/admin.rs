//! `muster admin`: who looks after the policy of a cluster, and how? Every command below it; each part of the policy has a file of its own.

mod acl;
mod advice;
mod authority;
mod broker;
mod collective;
mod edit;
mod group;
mod hidden;
mod history;
mod limit;
mod list;
mod scope;
mod sessions;
mod user;
mod whole;

use super::{Context, Failure, text};
use clap::Subcommand;
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A file that is larger is no policy.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// `admin`.
#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Say whether the policy lets a user read, write or administer a destination
    Explain(advice::ExplainRight),
    /// Say what a proposed policy would grant and take; the policy in force stays
    Diff(advice::Diff),
    /// Say what looks wrong in the policy in force, or in that of a file
    Lint(advice::Lint),
    /// Users: who may log in
    #[command(subcommand)]
    User(user::User),
    /// Groups: what users have in common, and who is in them
    #[command(subcommand)]
    Group(group::Group),
    /// Entries: which groups may read, write or administer which destinations
    #[command(subcommand)]
    Acl(acl::Acl),
    /// Scopes: which nodes the members of a group address and see
    #[command(subcommand)]
    Scope(scope::Scope),
    /// Hidden facts: what nobody sees but for the groups that are shown it
    #[command(subcommand)]
    Hidden(hidden::Hidden),
    /// Limits of groups
    #[command(subcommand)]
    Limit(limit::Limit),
    /// Collectives: the first segment of topics
    #[command(subcommand)]
    Collective(collective::Collective),
    /// The broker list: who may be linked, and where they are reached
    #[command(subcommand)]
    Broker(broker::Broker),
    /// Put the text of a file in the place of the whole policy; first say what would change, and ask
    Apply(whole::Apply),
    /// List the generations of the policy, or show one with what it changed
    History(history::History),
    /// Make the text of an earlier generation the policy again, as a new generation; first say what would change, and ask
    Revert(whole::Revert),
    /// Say which broker may change the policy, or make the one that we are connected to it
    Authority(authority::Authority),
    /// List the sessions of the broker that we are connected to, or those that are over
    Sessions(sessions::Sessions),
    /// End a session of the broker that we are connected to
    Close(sessions::Close),
}

impl Admin {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Admin::Explain(explain) => explain.run(context).await,
            Admin::Diff(diff) => diff.run(context).await,
            Admin::Lint(lint) => lint.run(context).await,
            Admin::User(user) => user.run(context).await,
            Admin::Group(group) => group.run(context).await,
            Admin::Acl(acl) => acl.run(context).await,
            Admin::Scope(scope) => scope.run(context).await,
            Admin::Hidden(hidden) => hidden.run(context).await,
            Admin::Limit(limit) => limit.run(context).await,
            Admin::Collective(collective) => collective.run(context).await,
            Admin::Broker(broker) => broker.run(context).await,
            Admin::Apply(apply) => apply.run(context).await,
            Admin::History(history) => history.run(context).await,
            Admin::Revert(revert) => revert.run(context).await,
            Admin::Authority(authority) => authority.run(context).await,
            Admin::Sessions(sessions) => sessions.run(context).await,
            Admin::Close(close) => close.run(context).await,
        }
    }
}

/// What a broker answered, for programs or for people.
fn shown(json: bool, answer: &impl Serialize, words: &str) -> String {
    if json {
        return text::pretty_json(&serde_json::to_value(answer).unwrap_or_default()) + "\n";
    }
    // An empty answer has no lines, and one line would be made of it.
    let lines = if words.is_empty() { Vec::new() } else { text::lines(words) };
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The text of a policy file: the broker reads it, here it is only sent.
fn policy(path: &Path) -> Result<String, Failure> {
    let wrong = |cause: String| Failure::Usage(format!("{}: cannot read the policy: {cause}", path.display()));
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("it has more than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into()))
}

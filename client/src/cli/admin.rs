//! `muster admin`: what does the policy let a user do, what would another one change, and what looks wrong in it?

use super::{Context, Failure, text};
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::{Args, Subcommand, ValueEnum};
use muster_protocol::filter::Filter;
use muster_protocol::policy::{DiffQuery, LintQuery};
use muster_protocol::request::{ExplainAnswer, ExplainQuery};
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file that is larger is no policy.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// `admin`.
#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Say whether the policy lets a user read, write or administer a destination
    Explain(ExplainRight),
    /// Say what a proposed policy would grant and take; the policy in force stays
    Diff(Diff),
    /// Say what looks wrong in the policy in force, or in that of a file
    Lint(Lint),
}

/// `admin explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainRight {
    /// Whose rights
    #[arg(value_name = "USER")]
    of: String,
    /// Which right
    #[arg(value_name = "RIGHT")]
    right: Right,
    /// Such as /topic/prod.service.restart; for read, a pattern too
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// For write: a target; say how many nodes it reaches, and whether it names a hidden fact
    #[arg(short = 'w', long = "where", value_name = "FILTER", value_parser = Filter::parse)]
    filter: Option<Filter>,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// `admin diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The proposed policy.toml
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// `admin lint`.
#[derive(Debug, Args)]
pub(crate) struct Lint {
    /// A policy.toml [default: the policy in force]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// What an entry of the policy can grant.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Right {
    Read,
    Write,
    Admin,
}

impl Admin {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match self {
            Admin::Explain(asked) => asked.run(context).await,
            Admin::Diff(Diff { file, json }) => {
                let query = DiffQuery { policy: policy(file)? };
                let answer = context.client().await?.diff(&query).await?;
                context.surface.out(&shown(*json, &answer, &answer.to_string()))?;
                if answer.is_empty() {
                    context.surface.note("The policy in force grants the same.");
                }
                Ok(if answer.is_empty() { EXIT_OK } else { EXIT_NONE })
            }
            Admin::Lint(Lint { file, json }) => {
                let query = LintQuery { policy: file.as_deref().map(policy).transpose()? };
                let answer = context.client().await?.lint(&query).await?;
                context.surface.out(&shown(*json, &answer, &answer.to_string()))?;
                Ok(if answer.findings.is_empty() { EXIT_OK } else { EXIT_NONE })
            }
        }
    }
}

impl ExplainRight {
    async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let right = match self.right {
            Right::Read => "read",
            Right::Write => "write",
            Right::Admin => "admin",
        };
        if self.filter.is_some() && !matches!(self.right, Right::Write) {
            return Err(Failure::Usage(format!("-w goes with write: nothing is sent with the right to {right}")));
        }
        let client = context.client().await?;
        let query = ExplainQuery {
            user: self.of.clone(),
            right: right.into(),
            destination: self.destination.clone(),
            filter: self.filter.as_ref().map(ToString::to_string),
        };
        let answer = client.explain(&query).await?;
        context.surface.out(&shown(self.json, &answer, &explained(&answer)))?;
        Ok(if answer.allowed { EXIT_OK } else { EXIT_NONE })
    }
}

fn explained(answer: &ExplainAnswer) -> String {
    let verdict = if answer.allowed { "allowed" } else { "not allowed" };
    let mut out = format!("{verdict}: {}\n", answer.text);
    let mut line = |what: &str, text: &str| out.push_str(&format!("  {what:<6} {text}\n"));
    answer.entries.iter().for_each(|entry| line("entry", entry));
    if let Some(scope) = &answer.scope {
        line("scope", scope);
    }
    if answer.all {
        line("all", if answer.scope.is_some() { "yes, inside the scope" } else { "yes" });
    }
    for bound in &answer.limits {
        line("limit", &format!("{} = {} (group {})", bound.limit, bound.most, bound.group));
    }
    if let Some(path) = &answer.hidden {
        line("hidden", path);
    }
    if let Some(reached) = &answer.reached {
        line("nodes", &format!("{} at {}; other brokers were not asked", reached.nodes, reached.broker));
    }
    out
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

//! `muster admin explain`, `diff`, `lint`: what does the policy let a user do, what would another one change, and what looks wrong in it?

use super::{policy, shown};
use crate::cli::{Context, Failure, output};
use crate::summary::{EXIT_NONE, EXIT_OK};
use crate::without::Without;
use clap::{Args, ValueEnum};
use muster_protocol::filter::Filter;
use muster_protocol::policy::{DiffQuery, LintQuery};
use muster_protocol::request::{ExplainAnswer, ExplainQuery};
use std::path::PathBuf;

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
    #[arg(short = 'w', long = "where", value_name = "FILTER", value_parser = super::scope::parsed)]
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

impl Diff {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let query = DiffQuery { policy: policy(&self.file)? };
        let answer = context.client().await?.diff(&query).await?;
        context.surface.out(&shown(self.json, &answer, &answer.to_string()))?;
        if answer.is_empty() {
            context.surface.note("The policy in force grants the same.");
        }
        Ok(if answer.is_empty() { EXIT_OK } else { EXIT_NONE })
    }
}

impl Lint {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let query = LintQuery { policy: self.file.as_deref().map(policy).transpose()? };
        let answer = context.client().await?.lint(&query).await?;
        context.surface.out(&shown(self.json, &answer, &answer.to_string()))?;
        if answer.findings.is_empty() {
            context.surface.note("Nothing looks wrong.");
        }
        Ok(if answer.findings.is_empty() { EXIT_OK } else { EXIT_NONE })
    }
}

impl ExplainRight {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
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
        let without: Without = answer.without.iter().collect();
        let surface = &mut context.surface;
        surface.out(&shown(self.json, &answer, &explained(&answer)))?;
        if !self.json {
            output::note_without(surface, &without);
        }
        // A no stands, whatever the brokers that are missing would have said.
        Ok(if answer.allowed { without.exit_code(EXIT_OK) } else { EXIT_NONE })
    }
}

fn explained(answer: &ExplainAnswer) -> String {
    let is_filtered = answer.hidden.is_some() || answer.reached.is_some();
    let verdict = match (answer.allowed, answer.entries.is_empty()) {
        (true, _) => "allowed",
        // The entries grant it, and the text says what is wrong with the filter.
        (false, false) if is_filtered => "not allowed with this filter",
        (false, _) => "not allowed",
    };
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
        line("nodes", &reached.nodes.to_string());
    }
    out
}

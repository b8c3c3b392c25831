//! `muster admin explain`: does the policy let this user do that, and which entries say so?

use super::{Context, Failure, text};
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::{Args, Subcommand, ValueEnum};
use muster_protocol::request::ExplainQuery;

/// `admin`.
#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Say whether the policy lets a user read, write or administer a destination
    Explain(ExplainRight),
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
        let Admin::Explain(asked) = self;
        let right = match asked.right {
            Right::Read => "read",
            Right::Write => "write",
            Right::Admin => "admin",
        };
        let client = context.client().await?;
        let query =
            ExplainQuery { user: asked.of.clone(), right: right.into(), destination: asked.destination.clone() };
        let answer = client.explain(&query).await?;
        let out = if asked.json {
            text::pretty_json(&serde_json::to_value(&answer).unwrap_or_default()) + "\n"
        } else {
            let verdict = if answer.allowed { "allowed" } else { "not allowed" };
            let mut out = format!("{verdict}: {}\n", text::clean(&answer.text));
            answer.entries.iter().for_each(|entry| out.push_str(&format!("  entry  {}\n", text::clean(entry))));
            if let Some(scope) = &answer.scope {
                out.push_str(&format!("  scope  {}\n", text::clean(scope)));
            }
            out
        };
        context.surface.out(&out)?;
        Ok(if answer.allowed { EXIT_OK } else { EXIT_NONE })
    }
}

//! `muster admin apply`, `revert`: how does another text take the place of the whole policy?

use super::edit::Asked;
use super::policy;
use crate::cli::{Context, Failure};
use clap::Args;
use muster_protocol::policy::{Edit, Generation, RevertTo, WholeText};
use std::path::PathBuf;

/// `admin apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The new policy.toml
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    asked: Asked,
}

/// `admin revert`.
#[derive(Debug, Args)]
pub(crate) struct Revert {
    /// Which generation, as `muster admin history` lists it
    #[arg(value_name = "TERM.NUMBER")]
    to: Generation,
    #[command(flatten)]
    asked: Asked,
}

impl Apply {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        self.asked.carry_out(context, Edit::Text(WholeText { policy: policy(&self.file)? })).await
    }
}

impl Revert {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        self.asked.carry_out(context, Edit::Revert(RevertTo { to: self.to })).await
    }
}

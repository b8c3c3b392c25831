//! How does an edit of the policy get done? The options that all edits share, the question before what takes something away, and what
//! came of it.

use super::shown;
use crate::cli::{Context, Failure, text};
use crate::client::{Client, ClientError};
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::Args;
use muster_protocol::error::Code;
use muster_protocol::policy::{Edit, EditAnswer, EditQuery, Generation};

/// What every edit takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Edit")]
pub(crate) struct Options {
    /// Why, for the history and the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Only if this is still the newest generation
    #[arg(long, value_name = "TERM.NUMBER")]
    generation: Option<Generation>,
    /// Also if nobody is left who may edit the policy, or if an entry can never match
    #[arg(long)]
    force: bool,
    /// Change nothing; say what would change
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// What an edit takes that is asked about first.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    options: Options,
    /// Do not ask first
    #[arg(short = 'y', long, help_heading = "Edit")]
    yes: bool,
}

/// What was known before an edit was sent.
#[derive(Default)]
struct Before {
    /// The generation that it was made for.
    generation: Option<Generation>,
    /// What it changes has been printed.
    is_shown: bool,
}

impl Options {
    /// Sends the edit and prints what came of it.
    pub(super) async fn carry_out(&self, context: &mut Context, edit: Edit) -> Result<u8, Failure> {
        let client = context.client().await?;
        let answer = self.send(context, &client, edit, self.generation, self.dry_run).await?;
        self.tell(context, &answer, &Before { generation: self.generation, is_shown: false })
    }

    async fn send(
        &self,
        context: &mut Context,
        client: &Client,
        edit: Edit,
        generation: Option<Generation>,
        dry_run: bool,
    ) -> Result<EditAnswer, Failure> {
        let query = EditQuery { edit, generation, reason: self.reason.clone(), force: self.force, dry_run };
        let answer = client.edit(&query).await;
        if !dry_run && answer.as_ref().is_err_and(is_in_doubt) {
            let note =
                "It is not known whether the policy was changed; `muster admin history` says what was done last.";
            context.surface.note(note);
        }
        Ok(answer?)
    }

    fn tell(&self, context: &mut Context, answer: &EditAnswer, before: &Before) -> Result<u8, Failure> {
        let surface = &mut context.surface;
        if self.json || !before.is_shown {
            surface.out(&shown(self.json, answer, &answer.changes.to_string()))?;
        }
        let of = answer.generation.map_or_else(String::new, |generation| format!(" (generation {generation})"));
        if answer.dry_run {
            let would = if answer.changes.is_empty() { "nothing would change" } else { "nothing was changed" };
            surface.note(&format!("A dry run: {would}{of}."));
            return Ok(if answer.changes.is_empty() { EXIT_NONE } else { EXIT_OK });
        }
        let same_text = before.generation.is_none() || answer.generation == before.generation;
        if answer.changes.is_empty() && same_text {
            surface.note(&format!("Nothing changed: it stands in the policy so already{of}."));
            return Ok(EXIT_NONE);
        }
        if answer.changes.is_empty() {
            surface.note("The text changed, and what it grants did not.");
        }
        if let Some(generation) = answer.generation.filter(|_| !self.json) {
            surface.out(&format!("generation {generation}\n"))?;
        }
        Ok(EXIT_OK)
    }
}

impl Asked {
    /// Says what the edit changes and asks; then what was confirmed is what is done: the edit is for the generation that was
    /// looked at.
    pub(super) async fn carry_out(&self, context: &mut Context, edit: Edit) -> Result<u8, Failure> {
        let Asked { options, yes } = self;
        if *yes || options.dry_run {
            return options.carry_out(context, edit).await;
        }
        let what = edit.summary();
        confirmable(context, &what)?;
        let client = context.client().await?;
        let looked = options.send(context, &client, edit.clone(), options.generation, true).await?;
        if !looked.changes.is_empty() {
            let lines = shown(false, &looked, &looked.changes.to_string());
            // With --json the document alone goes to stdout.
            if options.json {
                context.surface.note(&lines)
            } else {
                context.surface.out(&lines)?
            }
            confirm(context, &format!("{what}: go on?")).await?;
        }
        let generation = options.generation.or(looked.generation);
        let answer = options.send(context, &client, edit, generation, false).await?;
        let is_shown = answer.changes == looked.changes;
        options.tell(context, &answer, &Before { generation, is_shown })
    }
}

/// Whether somebody is there to say yes; to be asked before anything is sent.
pub(super) fn confirmable(context: &Context, what: &str) -> Result<(), Failure> {
    if context.surface.asks {
        return Ok(());
    }
    let what = text::clean(what);
    Err(Failure::Refused(format!(
        "{what}: to be confirmed, and there is no terminal to ask on: say --yes if that is what you mean"
    )))
}

/// Asks for a yes.
pub(super) async fn confirm(context: &mut Context, question: &str) -> Result<(), Failure> {
    let answer = context.surface.ask(&format!("{question} [y/N] ")).await;
    match answer.as_deref().map(str::to_lowercase).as_deref() {
        Some("y" | "yes") => Ok(()),
        Some(_) => Err(Failure::Refused("not confirmed; nothing was changed".into())),
        None => Err(Failure::Interrupted),
    }
}

/// Whether the edit may have been made although no answer came. An edit can end the session of whoever makes it.
pub(super) fn is_in_doubt(error: &ClientError) -> bool {
    match error {
        ClientError::Lost(_) | ClientError::NoAnswer(_) | ClientError::Misunderstood(_) => true,
        ClientError::Refused(refused) => {
            matches!(refused.code, Some(Code::Revoked | Code::Closed | Code::HeartBeat | Code::SlowConsumer))
        }
        ClientError::Connect(_) | ClientError::Unsettled(_) => false,
    }
}

//! `muster admin authority`: which broker may change the policy, and how does another one come to be it?

use super::edit::{confirm, confirmable, is_in_doubt};
use super::list::{or_dash, page};
use super::shown;
use crate::cli::{Context, Failure, text};
use crate::summary::{EXIT_MISSING, EXIT_NONE, EXIT_OK};
use clap::{Args, Subcommand};
use muster_protocol::policy::AuthorityAnswer;

/// `admin authority`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Authority {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say who is the authority, and what the neighbours enforce
    Show(Show),
    /// Make the broker that we are connected to the authority: when the other one is lost for long, or two claim it
    Take(Take),
}

/// `admin authority show`.
#[derive(Debug, Args)]
struct Show {
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// `admin authority take`.
#[derive(Debug, Args)]
struct Take {
    /// Why, for the history and the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not ask first
    #[arg(short = 'y', long)]
    yes: bool,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Authority {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        match &self.command {
            Some(Command::Take(take)) => take.run(context).await,
            Some(Command::Show(show)) => show.run(context).await,
            None => self.show.run(context).await,
        }
    }
}

impl Show {
    async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let answer = context.client().await?.authority().await?;
        tell(context, &answer, self.json)
    }
}

impl Take {
    async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        if !self.yes {
            confirmable(context, "authority take")?;
            let now = context.client().await?.authority().await?;
            confirm(context, &question(&now)).await?;
        }
        let client = context.client().await?;
        let answer = client.take_authority(&self.reason).await;
        if answer.as_ref().is_err_and(is_in_doubt) {
            context
                .surface
                .note("It is not known whether the authority was taken; `muster admin authority` says who has it.");
        }
        let answer = answer?;
        let mut words = answer.changes.to_string();
        if let Some(generation) = answer.generation {
            words.push_str(&format!("generation {generation}\n"));
        }
        context.surface.out(&shown(self.json, &answer, &words))?;
        context.surface.note(&format!("{} is the authority.", text::clean(client.broker())));
        Ok(EXIT_OK)
    }
}

fn question(now: &AuthorityAnswer) -> String {
    let broker = &now.broker;
    let of = now.generation.map_or_else(String::new, |generation| format!(" of generation {generation}"));
    match &now.authority {
        Some(authority) if authority == broker => {
            format!("{broker} is the authority already; it begins a new term{of}. Go on?")
        }
        Some(authority) => {
            let reach = if now.reachable { "can be reached" } else { "cannot be reached" };
            format!(
                "{broker} takes the authority from {authority}, which {reach}, and builds on its own policy{of}; edits that it does not have are set aside. Go on?"
            )
        }
        None => format!("{broker} becomes the authority, with its own policy. Go on?"),
    }
}

/// 0: there is an authority and a way to it. 3: there is no way to it, or several brokers claim it. 1: there is none.
fn tell(context: &mut Context, answer: &AuthorityAnswer, json: bool) -> Result<u8, Failure> {
    let surface = &mut context.surface;
    surface.out(&shown(json, answer, &words(answer)))?;
    answer.alarms.iter().for_each(|alarm| surface.note(&format!("Alarm: {}", text::clean(alarm))));
    Ok(match &answer.authority {
        None => EXIT_NONE,
        Some(_) if answer.reachable && answer.rivals.is_empty() => EXIT_OK,
        Some(_) => EXIT_MISSING,
    })
}

fn words(answer: &AuthorityAnswer) -> String {
    let authority = match &answer.authority {
        None => "none".to_owned(),
        Some(authority) if *authority == answer.broker => format!("{authority} (this broker)"),
        Some(authority) if answer.reachable => authority.clone(),
        Some(authority) => format!("{authority} (cannot be reached)"),
    };
    let mut out = page([
        ("broker", answer.broker.clone()),
        ("generation", or_dash(answer.generation.as_ref())),
        ("authority", authority),
    ]);
    if !answer.rivals.is_empty() {
        let rivals = answer.rivals.join(", ");
        out.push_str(&format!("contested   {rivals}: nobody can edit; take it with `muster admin authority take`\n"));
    }
    for (neighbour, generation) in &answer.neighbours {
        out.push_str(&format!("neighbour   {neighbour} enforces {}\n", or_dash(generation.as_ref())));
    }
    text::lines(&out).into_iter().map(|line| line + "\n").collect()
}

//! `muster ping`: which nodes give a sign of life, and how fast?

use super::drive::drive;
use super::outcome::{Outcome, as_it_comes};
use super::output::{self, Paint, Table};
use super::target::TargetOptions;
use super::{Context, Failure, Format, run, text};
use crate::client::Request;
use crate::events::RequestEvent;
use crate::replies::Replies;
use clap::Args;
use muster_protocol::message::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Unless told; a sign of life that takes longer is none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// `ping`.
#[derive(Debug, Args)]
pub(crate) struct Ping {
    #[command(flatten)]
    target: TargetOptions,
    /// How long answers are awaited [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = run::within, help_heading = "Request")]
    timeout: Option<Duration>,
    /// Ask nobody unless exactly N nodes match
    #[arg(long, value_name = "N", help_heading = "Request")]
    expect: Option<u64>,
    /// Ask nobody if more than N nodes match
    #[arg(long, value_name = "N", help_heading = "Request")]
    max_targets: Option<u64>,
    /// Go on when brokers are missing and --expect or --max-targets hold for the others only
    #[arg(long, help_heading = "Request")]
    allow_partial: bool,
    #[command(flatten)]
    format: Format,
}

impl Ping {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let target = self.target.resolve()?;
        let (_, destination) = run::action_topic(&context.settings()?.collective, "node.ping")?;
        let client = context.client().await?;
        let mut request = Request::new(destination, target);
        request.reply_within = Some(self.timeout.unwrap_or(DEFAULT_TIMEOUT));
        request.expect_targets = self.expect;
        request.max_targets = self.max_targets;
        request.allow_partial = self.allow_partial;
        let requests = vec![request];
        let mut times: BTreeMap<NodeId, Duration> = BTreeMap::new();
        let mut took = Duration::ZERO;
        let mut watch = |surface: &mut super::surface::Surface, index: usize, event: &RequestEvent, since: Duration| {
            took = since;
            if let RequestEvent::Reply { node, .. } = event {
                times.entry(*node).or_insert(since);
            }
            as_it_comes(surface, &requests[index], event, self.format, false)
        };
        let driven = Box::pin(drive(&client, &mut context.surface, &requests, (&[], None), &mut watch)).await;
        let surface = &mut context.surface;
        surface.progress.clear();
        let (accounts, stop) = driven?;
        let outcome = Outcome { round_trips: times, ..Outcome::of(requests, accounts, stop, took) };
        let is_for_people = !self.format.json && !self.format.ndjson;
        if is_for_people {
            surface.out(&table(&outcome.accounts, &outcome.round_trips, Paint(surface.colour)))?;
        }
        outcome.print(surface, self.format, true)?;
        if let Some(statistics) = statistics(&outcome.round_trips).filter(|_| is_for_people) {
            surface.note(&statistics);
        }
        Ok(outcome.exit_code())
    }
}

fn table(accounts: &[Replies], times: &BTreeMap<NodeId, Duration>, paint: Paint) -> String {
    let answered: Vec<_> =
        accounts.iter().flat_map(Replies::targets).filter(|(id, _)| times.contains_key(id)).collect();
    if answered.is_empty() {
        return String::new();
    }
    let columns = output::display_columns(answered.iter().map(|(_, node)| &node.display));
    let header = columns.iter().map(|path| text::clean(path)).chain(["RTT", "STATE"].map(str::to_owned));
    let mut table = Table::new(std::iter::once("NODE".to_owned()).chain(header));
    for (id, node) in answered {
        let facts = columns.iter().map(|path| output::cell(&node.display, path));
        let time = times.get(&id).map_or_else(String::new, |time| millis(*time));
        let state = node.end.as_ref().map_or_else(String::new, |end| paint.state(end.state));
        table.row(std::iter::once(id.to_string()).chain(facts).chain([time, state]));
    }
    table.to_string()
}

fn statistics(times: &BTreeMap<NodeId, Duration>) -> Option<String> {
    let (least, most) = (times.values().min()?, times.values().max()?);
    let mean = times.values().sum::<Duration>() / u32::try_from(times.len()).unwrap_or(u32::MAX);
    Some(format!("Round trip, as seen here: min {}, avg {}, max {}.", millis(*least), millis(mean), millis(*most)))
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

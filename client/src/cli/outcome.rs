//! What came of a command that asked nodes? Its results for people and for programs, and its exit code.

use super::drive::Stop;
use super::output::{self, Answered, Paint, Silent, Table};
use super::surface::Surface;
use super::{EXIT_INTERRUPTED, Failure, Format, refusal, text};
use crate::client::Request;
use crate::events::{Refused, RequestEvent};
use crate::replies::{Node, Replies};
use crate::summary::{EXIT_MISSING, EXIT_NONE, EXIT_OK, Summary};
use crate::without::Without;
use muster_protocol::message::NodeId;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// Everything that is known when the command has ended.
pub(crate) struct Outcome {
    /// The requests that were sent.
    pub(crate) requests: Vec<Request>,
    /// The account of each.
    pub(crate) accounts: Vec<Replies>,
    /// How the last of them ended.
    pub(crate) stop: Stop,
    /// Nodes of batches that were not begun.
    pub(crate) not_asked: Vec<NodeId>,
    /// Display facts of nodes that were chosen beforehand.
    pub(crate) chosen: BTreeMap<NodeId, Map<String, Value>>,
    /// Brokers that were missing when those were chosen.
    pub(crate) without: Without,
    /// From the first request to the last event.
    pub(crate) took: Duration,
    /// How long each answer took, where that is what was asked for.
    pub(crate) round_trips: BTreeMap<NodeId, Duration>,
}

/// The document of `--json`. There may be very many nodes: nothing is copied for it.
struct Document<'a>(&'a Outcome);

/// A target, in it.
#[derive(Serialize)]
struct Accepted<'a> {
    broker: &'a str,
    display: &'a Map<String, Value>,
    id: NodeId,
}

impl Outcome {
    /// Of requests that went to all that match, with no node chosen beforehand.
    pub(crate) fn of(requests: Vec<Request>, accounts: Vec<Replies>, stop: Stop, took: Duration) -> Outcome {
        let (not_asked, chosen, without) = (Vec::new(), BTreeMap::new(), Without::default());
        Outcome { requests, accounts, stop, not_asked, chosen, without, took, round_trips: BTreeMap::new() }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self.stop, Stop::Cancelled | Stop::Detached) {
            return EXIT_INTERRUPTED;
        }
        match self.summary().exit_code() {
            EXIT_OK | EXIT_NONE if !self.not_asked.is_empty() => EXIT_MISSING,
            code => code,
        }
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::of(&self.accounts);
        summary.without.merge(&self.without);
        summary
    }

    fn refusals(&self) -> impl Iterator<Item = &Refused> {
        self.accounts.iter().filter_map(Replies::refusal)
    }

    /// Every node that did not answer, those that were never asked included.
    fn silent(&self) -> Vec<Silent<'_>> {
        if self.requests.iter().any(|request| request.dry_run) {
            return Vec::new();
        }
        let unanswered = match &self.stop {
            Stop::Over => "the broker closed the account without it",
            Stop::Lost(_) => "the connection to the broker was lost first",
            Stop::GivenUp => "the broker never closed the account",
            Stop::Cancelled => "cancelled; it has not confirmed",
            Stop::Detached => "left alone; it may still be running",
        };
        let mut silent = output::silent(&self.accounts, unanswered);
        let reason = "the command stopped before its batch";
        silent.extend(self.not_asked.iter().map(|&node| Silent {
            node,
            display: None,
            state: "not-asked",
            reason: reason.into(),
        }));
        for node in &mut silent {
            node.display = node.display.or_else(|| self.chosen.get(&node.node));
        }
        silent
    }

    /// Prints all that has not been printed while it came.
    pub(crate) fn print(&self, surface: &mut Surface, format: Format, ungrouped: bool) -> Result<(), Failure> {
        if format.json {
            surface.out(&(text::pretty_json(&Document(self)) + "\n"))?;
        } else if format.ndjson {
            surface.out(&(text::json(&self.end_line()) + "\n"))?;
        } else if self.requests.iter().any(|request| request.dry_run) {
            surface.out(&self.would_ask())?;
        } else {
            if !ungrouped {
                surface.out(&output::grouped(&self.accounts, Paint(surface.colour)))?;
            }
            surface.out(&output::silent_text(&self.silent()))?;
        }
        self.notes(surface);
        Ok(())
    }

    /// What stands on stderr at the end, whatever the format.
    pub(crate) fn notes(&self, surface: &mut Surface) {
        match &self.stop {
            Stop::Lost(why) => surface.note(why),
            Stop::GivenUp => surface.note("The broker did not close the account in time."),
            Stop::Over | Stop::Cancelled | Stop::Detached => {}
        }
        for account in &self.accounts {
            for difference in account.disagreements() {
                surface.note(&format!("The accounts differ: {difference}."));
            }
        }
        self.refusals().for_each(|refused| surface.note(&format!("muster: {}", refusal(refused))));
        let summary = self.summary();
        output::note_without(surface, &summary.without);
        if summary.asked == 0 && summary.refused {
            return;
        }
        surface.note(&self.last_line(&summary));
    }

    fn last_line(&self, summary: &Summary) -> String {
        let without = match summary.without.is_empty() {
            true => String::new(),
            false => format!("; without {}", summary.without.names()),
        };
        if self.requests.iter().any(|request| request.dry_run) {
            return format!("Dry run: {} would be asked; nothing was sent{without}.", output::nodes(summary.asked));
        }
        if summary.asked + summary.vanished == 0 {
            return format!("No node matches and has the module{without}.");
        }
        let mut parts: Vec<String> = summary.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        for (count, what) in [
            (summary.unanswered, "without an answer"),
            (summary.vanished, "gone before they were asked"),
            (self.not_asked.len() as u64, "not asked"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        let total = summary.asked + summary.vanished + self.not_asked.len() as u64;
        format!("{}: {}, in {:.1} s{without}.", output::nodes(total), parts.join(", "), self.took.as_secs_f64())
    }

    fn would_ask(&self) -> String {
        let targets: Vec<_> = self.targets().collect();
        if targets.is_empty() {
            return String::new();
        }
        let columns = output::display_columns(targets.iter().map(|(_, node)| &node.display));
        let mut table =
            Table::new(std::iter::once("NODE".to_owned()).chain(columns.iter().map(|path| text::clean(path))));
        for (id, node) in targets {
            let facts = columns.iter().map(|path| output::cell(&node.display, path));
            table.row(std::iter::once(id.to_string()).chain(facts));
        }
        table.to_string()
    }

    fn targets(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.accounts.iter().flat_map(Replies::targets)
    }

    fn answered(&self) -> impl Iterator<Item = Answered<'_>> {
        self.targets().filter_map(|(id, node)| {
            let mut answered = Answered::new(id, &node.display, node.end.as_ref()?.answer.as_ref()?);
            answered.rtt_ms = self.round_trips.get(&id).map(|time| time.as_secs_f64() * 1000.0);
            Some(answered)
        })
    }

    /// What both JSON forms end with.
    fn end_line(&self) -> Value {
        let ids: Vec<&str> = self.requests.iter().map(|request| request.id.as_str()).collect();
        let summary = self.summary();
        let mut line = json!({
            "event": "end",
            "request": ids.first(),
            "requests": ids,
            "target": self.requests.first().map(|request| request.target.as_str()),
            "destination": self.requests.first().map(|request| request.destination.as_str()),
            "states": summary.states,
            "without": summary.without,
            "not_answered": output::silent_json(&self.silent()),
            "exit_code": self.exit_code(),
        });
        if let Some(refused) = self.refusals().next() {
            line["refused"] = json!({
                "code": refused.code_text,
                "text": refused.text,
                "count": refused.count,
                "cure": refused.code.map(muster_protocol::error::Code::cure),
            });
        }
        line
    }
}

impl<'a> Serialize for Document<'a> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Document(outcome) = self;
        let accepted = |(id, node): (NodeId, &'a Node)| Accepted { broker: &node.broker, display: &node.display, id };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("accepted", &outcome.targets().map(accepted).collect::<Vec<_>>())?;
        if let Value::Object(end) = outcome.end_line() {
            end.iter()
                .filter(|(name, _)| *name != "event")
                .try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        }
        map.serialize_entry("replies", &outcome.answered().collect::<Vec<_>>())?;
        map.end()
    }
}

/// Prints events as they come, where the format asks for it. A refusal waits for the end: it may still be answered.
pub(crate) fn as_it_comes(
    surface: &mut Surface,
    request: &Request,
    event: &RequestEvent,
    format: Format,
    ungrouped: bool,
) -> io::Result<()> {
    if format.ndjson {
        let Some(mut line) = event_json(event) else { return Ok(()) };
        line["request"] = json!(request.id.as_str());
        surface.out(&(text::json(&line) + "\n"))?;
        return surface.flush();
    }
    if let (RequestEvent::Reply { node, display, answer }, true, false) = (event, ungrouped, format.json) {
        surface.out(&output::single(*node, display, answer, Paint(surface.colour)))?;
        return surface.flush();
    }
    Ok(())
}

fn event_json(event: &RequestEvent) -> Option<Value> {
    Some(match event {
        RequestEvent::Accepted { broker, count, nodes, .. } => {
            json!({"event": "accepted", "broker": broker, "count": count, "nodes": nodes})
        }
        RequestEvent::Started(node) => json!({"event": "started", "node": node}),
        RequestEvent::Reply { node, display, answer } => {
            let mut line = json!(Answered::new(*node, display, answer));
            line["event"] = json!("reply");
            line
        }
        RequestEvent::Ended { state, nodes, reason } => json!({"event": state, "nodes": nodes, "reason": reason}),
        RequestEvent::Refused(_) => return None,
        RequestEvent::Missing(missing) => {
            let mut line = json!(missing);
            line["event"] = json!("missing");
            line
        }
        RequestEvent::Done(done) => json!({"event": "done", "states": done.states, "without": done.without}),
    })
}

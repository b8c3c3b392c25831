//! How are results laid out? Tables, groups of equal answers, and the JSON documents.

use super::surface::Surface;
use super::text;
use crate::events::Answer;
use crate::replies::{Node, Replies};
use crate::without::Without;
use comfy_table::presets;
use muster_protocol::message::NodeId;
use muster_protocol::request::{ActionError, Missing, State, Why};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// Columns that line up, without frames: as good for `awk` as for people. Cells must be clean text.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    pub(crate) fn new(header: impl IntoIterator<Item = String>) -> Table {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).force_no_tty().set_header(header.into_iter().collect::<Vec<_>>());
        Table(table)
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().collect::<Vec<_>>());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = self.0.clone();
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        table.lines().try_for_each(|line| writeln!(f, "{}", line.trim_end()))
    }
}

/// The display facts that occur, as columns.
pub(crate) fn display_columns<'a>(displays: impl IntoIterator<Item = &'a Map<String, Value>>) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for path in displays.into_iter().flat_map(Map::keys) {
        if !columns.contains(path) {
            columns.push(path.clone());
        }
    }
    columns.sort();
    columns
}

/// A fact in a cell; `-` where it is missing.
pub(crate) fn cell(facts: &Map<String, Value>, path: &str) -> String {
    facts.get(path).map_or_else(|| "-".into(), text::scalar)
}

/// `1 node`, `2 nodes`.
pub(crate) fn nodes(count: u64) -> String {
    if count == 1 { "1 node".into() } else { format!("{count} nodes") }
}

/// `2 ok, 1 lost`.
pub(crate) fn states(states: &BTreeMap<State, u64>) -> String {
    states.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

/// A time, Unix ms, in UTC to the second.
pub(crate) fn time(millis: u64) -> String {
    let stamp = i64::try_from(millis).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| "?".into(), |stamp| stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Colours for terminals; plain text where they are off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn state(self, state: State) -> String {
        let colour = match state {
            State::Ok => 32,
            State::Failed | State::Crashed | State::Denied => 31,
            _ => 33,
        };
        if self.0 { format!("\x1b[{colour}m{state}\x1b[0m") } else { state.to_string() }
    }
}

/// Equal answers once, each with the nodes that gave it; `ok` first, so that trouble is what stands last on the screen.
pub(crate) fn grouped(accounts: &[Replies], paint: Paint) -> String {
    let mut groups: BTreeMap<(State, String), Vec<(NodeId, &Node)>> = BTreeMap::new();
    for (id, node) in accounts.iter().flat_map(Replies::targets) {
        if let Some(answer) = node.end.as_ref().and_then(|end| end.answer.as_ref()) {
            let key = json!([answer.error, answer.data]).to_string();
            groups.entry((answer.status, key)).or_default().push((id, node));
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|((a, _), left), ((b, _), right)| a.cmp(b).then(right.len().cmp(&left.len())));
    let mut out = String::new();
    for ((state, _), members) in groups {
        let Some(answer) = members[0].1.end.as_ref().and_then(|end| end.answer.as_ref()) else { continue };
        let head = match &answer.error {
            Some(error) => format!("{}: {}: {}\n", nodes(members.len() as u64), paint.state(state), failure(error)),
            None => format!("{}: {}\n", nodes(members.len() as u64), paint.state(state)),
        };
        out.push_str(&head);
        members.iter().for_each(|(id, node)| out.push_str(&format!("  {}\n", named(*id, &node.display))));
        out.push_str(&text::body(&answer.data, 4));
        out.push('\n');
    }
    out
}

/// One answer by itself, for `--ungrouped`.
pub(crate) fn single(id: NodeId, display: &Map<String, Value>, answer: &crate::events::Answer, paint: Paint) -> String {
    let error = answer.error.as_ref().map_or_else(String::new, |error| format!(": {}", failure(error)));
    format!("{}: {}{error}\n{}", named(id, display), paint.state(answer.status), text::body(&answer.data, 4))
}

/// A node id and its display facts on one line.
pub(crate) fn named(id: NodeId, display: &Map<String, Value>) -> String {
    format!("{id}  {}", text::facts(display)).trim_end().to_owned()
}

fn failure(error: &ActionError) -> String {
    format!("{}: {}", text::clean(&error.code), text::clean(&error.text))
}

/// A node that did not answer, and why.
pub(crate) struct Silent<'a> {
    pub(crate) node: NodeId,
    pub(crate) display: Option<&'a Map<String, Value>>,
    /// A terminal state, or `no-answer` (given up), `left` (before it was asked), `not-asked` (the command stopped).
    pub(crate) state: &'static str,
    pub(crate) reason: String,
}

const LEFT_OR_MISSING: &str = "disconnected, matched no longer, or its broker was missing, before it was asked";

/// Every node that did not answer, in order of state. `unanswered` says why those have no state.
pub(crate) fn silent<'a>(accounts: &'a [Replies], unanswered: &str) -> Vec<Silent<'a>> {
    let mut silent = Vec::new();
    for replies in accounts.iter().filter(|replies| replies.refusal().is_none()) {
        for (node, known) in replies.targets() {
            let (state, reason) = match &known.end {
                Some(end) if end.answer.is_some() => continue,
                Some(end) => (end.state.as_str(), end.reason.clone()),
                None if known.started => ("no-answer", format!("{unanswered}; its action had started")),
                None => ("no-answer", unanswered.to_owned()),
            };
            silent.push(Silent { node, display: Some(&known.display), state, reason });
        }
        // Without a word of the broker nothing is known of these nodes.
        let (state, reason) = match replies.total() {
            Some(_) if replies.without().unreached() => ("left", LEFT_OR_MISSING),
            Some(_) => ("left", "disconnected, or matched no longer, before it was asked"),
            None => ("no-answer", unanswered),
        };
        let left = |node| Silent { node, display: None, state, reason: reason.into() };
        silent.extend(replies.vanished().map(left));
    }
    silent.sort_by_key(|silent| (silent.state, silent.node));
    silent
}

/// The list of [`silent`] nodes; empty if there are none.
pub(crate) fn silent_text(silent: &[Silent<'_>]) -> String {
    if silent.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["STATE", "NODE", "REASON", "FACTS"].map(str::to_owned));
    for node in silent {
        let facts = node.display.map(text::facts).unwrap_or_default();
        table.row([node.state.to_owned(), node.node.to_string(), text::clean(&node.reason), facts]);
    }
    let indented: Vec<String> = table.to_string().lines().map(|line| format!("  {line}\n")).collect();
    format!("{} did not answer:\n{}", nodes(silent.len() as u64), indented.concat())
}

/// The JSON of [`silent`] nodes.
pub(crate) fn silent_json(silent: &[Silent<'_>]) -> Value {
    silent.iter().map(|s| json!({"node": s.node, "state": s.state, "reason": s.reason})).collect()
}

/// Tells which brokers are missing, a line each: `Without dc1: no way to it (3 nodes when last seen)`. JSON has them as
/// `without`, in the words of the protocol.
pub(crate) fn note_without(surface: &mut Surface, without: &Without) {
    without.iter().for_each(|missing| surface.note(&without_line(missing)));
}

/// One line of [`note_without`], cleaned.
pub(crate) fn without_line(missing: &Missing) -> String {
    let text = match (missing.text.as_str(), missing.why) {
        ("", Why::Unreachable) => "no way to it",
        ("", Why::Filtered) => "a link on the way does not let this pass",
        ("", Why::Refused) => "it refuses",
        (text, _) => text.strip_suffix('.').unwrap_or(text),
    };
    let seen = missing.nodes.map_or_else(String::new, |count| format!(" ({} when last seen)", nodes(count)));
    text::clean(&format!("Without {}: {text}{seen}", missing.broker))
}

/// The JSON of one answer. There may be very many: nothing is copied for it.
#[derive(Serialize)]
pub(crate) struct Answered<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    display: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ActionError>,
    node: NodeId,
    /// The round trip, where that is what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rtt_ms: Option<f64>,
    status: State,
}

impl<'a> Answered<'a> {
    pub(crate) fn new(node: NodeId, display: &'a Map<String, Value>, answer: &'a Answer) -> Answered<'a> {
        let data = Some(&answer.data).filter(|data| answer.error.is_none() || !data.is_null());
        Answered { data, display, error: answer.error.as_ref(), node, rtt_ms: None, status: answer.status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_without_trailing_blanks() {
        let mut table = Table::new(["NODE", "A"].map(str::to_owned));
        table.row(["n-1".to_owned(), "é".to_owned()]);
        table.row(["n-222222".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NODE      A\nn-1       é\nn-222222\n");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "?");
    }

    #[test]
    fn colours_only_where_they_are_on() {
        assert_eq!(Paint(false).state(State::Ok), "ok");
        assert_eq!(Paint(true).state(State::Lost), "\u{1b}[33mlost\u{1b}[0m");
    }
}

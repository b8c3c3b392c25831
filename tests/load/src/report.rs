//! What was seen, as a table for people and as JSON for programs?

use crate::compare::{self, Line};
use crate::machine::Machine;
use crate::options::Scenario;
use crate::times::Spread;
use crate::wire::Wire;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    /// When it began.
    pub(crate) date: String,
    /// A build with debug assertions says nothing about speed.
    pub(crate) is_debug_build: bool,
    pub(crate) machine: Machine,
    /// Mean load of the machine over the minute before.
    pub(crate) load_before: String,
    /// What was asked.
    pub(crate) asked: Map<String, Value>,
    /// Who is compared, with versions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) peers: BTreeMap<&'static str, String>,
    /// Who is not, though asked for, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) skipped: BTreeMap<&'static str, String>,
    pub(crate) rows: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) comparison: Vec<Line>,
    /// Why it ended early, if it did.
    pub(crate) ended_early: Option<String>,
}

/// One line of the table. What does not apply is `None`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    /// In a comparison: of whom, and in which of their turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<(&'static str, u32)>,
    pub(crate) scenario: &'static str,
    pub(crate) what: String,
    /// Agents, messages or runs that were meant.
    pub(crate) meant: usize,
    /// Those of which the figures are.
    pub(crate) seen: usize,
    /// In ms; of several rounds the median of each figure.
    pub(crate) times: Option<Spread>,
    pub(crate) rounds: Vec<Spread>,
    /// The round before those that count.
    pub(crate) first_round: Option<Spread>,
    pub(crate) per_second: Option<f64>,
    pub(crate) costs: Option<Costs>,
    pub(crate) memory: Option<Memory>,
    /// What else is to be known, by name.
    pub(crate) more: BTreeMap<&'static str, Value>,
    /// Why it is not complete.
    pub(crate) missing: Option<String>,
}

/// What it cost, of all rounds that count.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Costs {
    /// Seconds of all brokers.
    pub(crate) broker_cpu: f64,
    /// Seconds of all generators and the coordinator.
    pub(crate) generator_cpu: f64,
    /// Largest resident sets of all brokers, added up, bytes.
    pub(crate) broker_peak: u64,
    pub(crate) wire: Wire,
    /// What agents met, by kind.
    pub(crate) met: BTreeMap<String, u64>,
    /// Answers to wrong passwords, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) flood: BTreeMap<String, u64>,
}

/// Resident sets of all brokers, added up, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Before the first agent.
    pub(crate) empty: u64,
    pub(crate) idle: u64,
    /// Since the brokers began.
    pub(crate) peak: u64,
    /// What an agent takes: idle less empty, for each.
    pub(crate) per_agent: f64,
}

impl Row {
    /// A row of so many that were meant.
    pub(crate) fn new(scenario: Scenario, what: impl Into<String>, meant: usize) -> Row {
        Row { scenario: scenario.name(), what: what.into(), meant, ..Row::default() }
    }

    /// Times of one round.
    pub(crate) fn times(mut self, times: Option<Spread>) -> Row {
        self.seen = times.map_or(0, |times| times.count);
        self.times = times;
        if self.seen != self.meant {
            self.missing = Some(format!("{} of {}", self.seen, self.meant));
        }
        self
    }

    /// Times of several rounds. All must be whole; `missing` says what else there is to complain of.
    pub(crate) fn rounds(mut self, first: Option<Spread>, rounds: Vec<Spread>, missing: Option<String>) -> Row {
        self.first_round = first;
        self.times = Spread::median(&rounds);
        self.seen = rounds.iter().map(|round| round.count).min().unwrap_or(0);
        self.rounds = rounds;
        if self.seen != self.meant {
            self.missing = Some(format!("{} of {}", self.seen, self.meant));
        }
        self.missing = missing.or(self.missing);
        self
    }
}

impl Report {
    /// Whether all is there that was asked for.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended_early.is_none() && self.rows.iter().all(|row| row.missing.is_none())
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "muster-load {}, {}: {} cores ({}), {} GiB, Linux {}, load before {}{}\n",
            self.version,
            self.date,
            machine.cores,
            machine.processor,
            machine.memory >> 30,
            machine.kernel,
            self.load_before,
            if self.is_debug_build { "; A DEBUG BUILD: its times mean nothing" } else { "" }
        );
        let asked: Vec<String> = self.asked.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let _ = writeln!(text, "{}", asked.join(", "));
        if !self.peers.is_empty() {
            let peers: Vec<&str> = self.peers.values().map(String::as_str).collect();
            let _ = writeln!(text, "compared: {}", peers.join(", "));
        }
        let _ = writeln!(text, "{}", self.table());
        for row in &self.rows {
            for line in row.lines() {
                let _ = writeln!(text, "{} {}: {line}", row.name(), row.what);
            }
        }
        if !self.comparison.is_empty() {
            let _ = writeln!(text, "{}", compare::table(&self.comparison));
        }
        for (name, why) in &self.skipped {
            let _ = writeln!(text, "SKIPPED {name}: {why}");
        }
        match &self.ended_early {
            Some(why) => drop(writeln!(text, "ENDED EARLY: {why}")),
            None if self.is_complete() => text.push_str("Complete.\n"),
            None => text.push_str("INCOMPLETE: see the lines above.\n"),
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).force_no_tty();
        table.set_header([
            "scenario",
            "what",
            "n",
            "first ms",
            "p50 ms",
            "p99 ms",
            "last ms",
            "per s",
            "broker CPU s",
            "generator CPU s",
            "to brokers",
            "from brokers",
        ]);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in &self.rows {
            let time = |figure: fn(&Spread) -> f64| {
                row.times.as_ref().map_or(String::new(), |times| format!("{:.2}", figure(times)))
            };
            let cost = |figure: fn(&Costs) -> String| row.costs.as_ref().map_or(String::new(), figure);
            table.add_row([
                row.name(),
                row.what.clone(),
                if row.seen == row.meant { row.seen.to_string() } else { format!("{} of {}", row.seen, row.meant) },
                time(|times| times.first),
                time(|times| times.p50),
                time(|times| times.p99),
                time(|times| times.last),
                row.per_second.map_or(String::new(), |rate| format!("{rate:.0}")),
                cost(|costs| format!("{:.2}", costs.broker_cpu)),
                cost(|costs| format!("{:.2}", costs.generator_cpu)),
                cost(|costs| bytes(costs.wire.to_brokers)),
                cost(|costs| bytes(costs.wire.from_brokers)),
            ]);
        }
        table
    }
}

impl Row {
    /// Scenario, and in a comparison whose it is.
    fn name(&self) -> String {
        self.of.map_or(self.scenario.to_owned(), |(whom, turn)| format!("{whom} {turn} {}", self.scenario))
    }

    /// What does not fit the table.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(memory) = &self.memory {
            lines.push(format!(
                "resident set of the brokers: empty {}, idle {} ({:.1} KiB for an agent), peak {}",
                bytes(memory.empty),
                bytes(memory.idle),
                memory.per_agent / 1024.0,
                bytes(memory.peak)
            ));
        }
        lines.extend(self.more.iter().map(|(name, value)| format!("{name} {value}")));
        if let Some(costs) = &self.costs {
            let kinds = |kinds: &BTreeMap<String, u64>| {
                kinds.iter().map(|(kind, count)| format!("{kind} ({count})")).collect::<Vec<_>>().join(", ")
            };
            if !costs.met.is_empty() {
                lines.push(format!("agents met: {}", kinds(&costs.met)));
            }
            if !costs.flood.is_empty() {
                lines.push(format!("wrong logins met: {}", kinds(&costs.flood)));
            }
        }
        lines.extend(self.missing.iter().map(|missing| format!("MISSING: {missing}")));
        lines
    }
}

/// For people, in the unit that fits.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: Vec<Row>) -> Report {
        let machine = Machine {
            descriptors: None,
            available: 0,
            ports: 0,
            cores: 2,
            processor: "any".into(),
            kernel: "6".into(),
            memory: 0,
        };
        Report {
            version: "1",
            date: "today".into(),
            is_debug_build: false,
            machine,
            load_before: "0".into(),
            asked: Map::new(),
            peers: BTreeMap::new(),
            skipped: BTreeMap::new(),
            rows,
            comparison: Vec::new(),
            ended_early: None,
        }
    }

    #[test]
    fn what_is_missing_makes_a_report_incomplete() {
        let times = |count| Spread { count, first: 1.0, p50: 2.0, p99: 3.0, last: 4.0 };
        let whole = Row::new(Scenario::Storm, "all", 2).times(Some(times(2)));
        assert!(report(vec![whole.clone()]).is_complete());
        let part = Row::new(Scenario::Scatter, "1 %", 2).rounds(None, vec![times(2), times(1)], None);
        assert_eq!((part.seen, part.missing.as_deref()), (1, Some("1 of 2")));
        let text = report(vec![whole.clone(), part]).text();
        assert!(text.contains("INCOMPLETE") && text.contains("MISSING: 1 of 2"), "{text}");
        let none = Row::new(Scenario::Idle, "nothing", 1).times(None);
        assert!(!report(vec![none]).is_complete());
        let mut early = report(vec![whole]);
        early.ended_early = Some("the limit".into());
        assert!(!early.is_complete() && early.text().contains("ENDED EARLY: the limit"));
    }

    #[test]
    fn who_is_skipped_is_named_and_makes_no_report_incomplete() {
        let mut skipping = report(Vec::new());
        skipping.skipped.insert("activemq", "it is not here".into());
        assert!(skipping.is_complete() && skipping.text().contains("SKIPPED activemq: it is not here\n"));
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        assert_eq!([0, 1_023, 1_536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}

//! How does Muster stand beside its peers? Figures of rows that are alike, medians over all turns, and their ratios. Plain.

use crate::peers::Peer;
use crate::report::{Memory, Row};
use crate::scenarios::idle::BROKER_CPU;
use crate::scenarios::stream::RATES;
use crate::times::{Spread, median};
use crate::turns::Side;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One figure of all that have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// By whom.
    pub(crate) figures: BTreeMap<&'static str, f64>,
    /// Muster's figure divided by that of a peer: `muster : nats`.
    pub(crate) ratios: BTreeMap<String, f64>,
}

/// Rows that are alike, and what is read from them.
struct Alike {
    what: &'static str,
    scenario: &'static str,
    /// How the rows of bare sessions begin, and those of agents.
    rows: [&'static str; 2],
    unit: &'static str,
    read: Read,
}

enum Read {
    /// Of each round.
    Times(&'static [(&'static str, Figure)]),
    Memory(fn(&Memory) -> f64),
    /// What stands among what else is to be known: a number, or one for each round.
    More(&'static str),
}

type Figure = fn(&Spread) -> f64;

const TIMES: [(&str, Figure); 4] =
    [("first", |times| times.first), ("p50", |times| times.p50), ("p99", |times| times.p99), LAST[0]];
const LAST: [(&str, Figure); 1] = [("last", |times| times.last)];

/// What is compared, in the order in which it is shown.
const ALIKE: [Alike; 9] = [
    Alike {
        what: "connect storm",
        scenario: "storm",
        rows: ["connected, since the begin", "registered, since the begin"],
        unit: "ms",
        read: Read::Times(&LAST),
    },
    Alike {
        what: "resident set, empty",
        scenario: "idle",
        rows: ["", ""],
        unit: "MiB",
        read: Read::Memory(|memory| memory.empty as f64 / 1_048_576.0),
    },
    Alike {
        what: "resident set for a session",
        scenario: "idle",
        rows: ["", ""],
        unit: "KiB",
        read: Read::Memory(|memory| memory.per_agent / 1_024.0),
    },
    Alike { what: "CPU, idle", scenario: "idle", rows: ["", ""], unit: "% of a core", read: Read::More(BROKER_CPU) },
    Alike {
        what: "message to all",
        scenario: "scatter",
        rows: ["message to 100 %", "message to 100 %"],
        unit: "ms",
        read: Read::Times(&TIMES),
    },
    Alike {
        what: "replies of all",
        scenario: "scatter",
        rows: ["replies of 100 %", "replies of 100 %"],
        unit: "ms",
        read: Read::Times(&TIMES),
    },
    Alike {
        what: "message to 1 % of agents, or to all sessions",
        scenario: "scatter",
        rows: ["message to 100 %", "message to 1 %"],
        unit: "ms",
        read: Read::Times(&LAST),
    },
    Alike {
        what: "replies of 1 % of agents, or of all sessions",
        scenario: "scatter",
        rows: ["replies of 100 %", "replies of 1 %"],
        unit: "ms",
        read: Read::Times(&LAST),
    },
    Alike {
        what: "stream 1:1",
        scenario: "stream",
        rows: ["deliveries", "deliveries"],
        unit: "per s",
        read: Read::More(RATES),
    },
];

/// Muster's sides, each of which is compared with each peer.
const OURS: [Side; 2] = [Side::Sessions(Peer::Muster), Side::Agents];
const THEIRS: [Side; 2] = [Side::Sessions(Peer::Nats), Side::Sessions(Peer::Activemq)];

/// Of the rows of a comparison; nothing of other rows, nor of those that are not whole.
pub(crate) fn compare(rows: &[Row]) -> Vec<Line> {
    ALIKE.iter().flat_map(|alike| alike.lines(rows)).collect()
}

impl Alike {
    fn lines(&self, rows: &[Row]) -> Vec<Line> {
        let line = |what: String, read: &dyn Fn(&Row) -> Vec<f64>| self.line(what, rows, read);
        let name = self.what.to_owned();
        let lines = match self.read {
            Read::Times(figures) => {
                let of_times = |(name, figure): &(&str, Figure)| {
                    line(format!("{}, {name}", self.what), &|row| each_round(row).iter().map(figure).collect())
                };
                figures.iter().map(of_times).collect()
            }
            Read::Memory(figure) => vec![line(name, &|row| row.memory.iter().map(figure).collect())],
            Read::More(key) => vec![line(name, &|row| row.more.get(key).map(numbers).unwrap_or_default())],
        };
        lines.into_iter().filter(|line| !line.figures.is_empty()).collect()
    }

    fn line(&self, what: String, rows: &[Row], read: &dyn Fn(&Row) -> Vec<f64>) -> Line {
        let of = |side: &Side| {
            let begins = self.rows[usize::from(*side == Side::Agents)];
            let is_it = |row: &&Row| {
                row.of.is_some_and(|(whom, _)| whom == side.name())
                    && row.scenario == self.scenario
                    && row.what.starts_with(begins)
                    && row.missing.is_none()
            };
            Some((side.name(), median(rows.iter().filter(is_it).flat_map(read).collect())?))
        };
        let figures: BTreeMap<&str, f64> = OURS.iter().chain(&THEIRS).filter_map(of).collect();
        let pairs = OURS.iter().flat_map(|ours| THEIRS.iter().map(move |theirs| (ours.name(), theirs.name())));
        let ratio = |(ours, theirs): (&str, &str)| {
            let (us, them) = (figures.get(ours)?, figures.get(theirs)?);
            (*them > 0.0).then(|| (pair(ours, theirs), us / them))
        };
        let ratios = pairs.filter_map(ratio).collect();
        Line { what, unit: self.unit, figures, ratios }
    }
}

fn pair(ours: &str, theirs: &str) -> String {
    format!("{ours} : {theirs}")
}

/// The rounds that count, or what there is instead.
fn each_round(row: &Row) -> Vec<Spread> {
    if row.rounds.is_empty() { row.times.into_iter().collect() } else { row.rounds.clone() }
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_f64).collect(),
        one => one.as_f64().into_iter().collect(),
    }
}

/// For people: columns only of those who have a figure.
pub(crate) fn table(lines: &[Line]) -> Table {
    let whom: Vec<&str> = OURS
        .iter()
        .chain(&THEIRS)
        .map(|side| side.name())
        .filter(|name| lines.iter().any(|line| line.figures.contains_key(name)))
        .collect();
    let theirs = THEIRS.iter().map(|side| side.name());
    let pairs: Vec<String> = theirs
        .flat_map(|theirs| OURS.iter().map(move |ours| pair(ours.name(), theirs)))
        .filter(|pair| lines.iter().any(|line| line.ratios.contains_key(pair)))
        .collect();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).force_no_tty();
    let heads = ["medians", "unit"].into_iter().chain(whom.iter().copied()).chain(pairs.iter().map(String::as_str));
    table.set_header(heads);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for line in lines {
        let figure = |name: &&str| line.figures.get(name).map_or(String::new(), |figure| shown(*figure));
        let ratio = |pair: &String| line.ratios.get(pair).map_or(String::new(), |ratio| format!("{ratio:.3}"));
        let cells = [line.what.clone(), line.unit.to_owned()].into_iter();
        table.add_row(cells.chain(whom.iter().map(figure)).chain(pairs.iter().map(ratio)));
    }
    table
}

/// With no more digits than mean something.
fn shown(figure: f64) -> String {
    if figure >= 1_000.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Scenario;

    fn row(side: Side, turn: u32, scenario: Scenario, what: &str, lasts: &[f64]) -> Row {
        let spread = |last| Spread { count: 1, first: 1.0, p50: 2.0, p99: 3.0, last };
        let rounds = lasts.iter().copied().map(spread).collect();
        Row { of: Some((side.name(), turn)), ..Row::new(scenario, what, 1).rounds(None, rounds, None) }
    }

    fn line<'a>(lines: &'a [Line], what: &str) -> &'a Line {
        lines.iter().find(|line| line.what == what).unwrap_or_else(|| panic!("no {what} in {lines:?}"))
    }

    #[test]
    fn medians_are_over_the_rounds_of_all_turns_and_ratios_are_ours_to_theirs() {
        let (muster, nats) = (OURS[0], THEIRS[0]);
        let rows = [
            row(muster, 1, Scenario::Scatter, "replies of 100 %", &[10.0, 90.0]),
            row(muster, 2, Scenario::Scatter, "replies of 100 %", &[20.0]),
            row(nats, 1, Scenario::Scatter, "replies of 100 %", &[40.0]),
            row(Side::Agents, 1, Scenario::Scatter, "replies of 1 %", &[2.0]),
        ];
        let lines = compare(&rows);
        let all = line(&lines, "replies of all, last");
        assert_eq!(all.figures, BTreeMap::from([("muster", 20.0), ("nats", 40.0)]));
        assert_eq!(all.ratios, BTreeMap::from([("muster : nats".to_owned(), 0.5)]));
        // What is addressed, beside what must go to everybody.
        let part = line(&lines, "replies of 1 % of agents, or of all sessions, last");
        assert_eq!(part.ratios["muster-agents : nats"], 0.05);
        let text = table(&lines).to_string();
        assert!(text.contains("muster : nats") && text.contains("0.500") && !text.contains("activemq"), "{text}");
    }

    #[test]
    fn what_is_not_whole_or_of_no_comparison_is_left_out() {
        let (muster, nats) = (OURS[0], THEIRS[0]);
        let mut part = row(nats, 1, Scenario::Scatter, "replies of 100 %", &[40.0]);
        part.missing = Some("9 of 10".into());
        let mut other = row(muster, 1, Scenario::Scatter, "replies of 100 %", &[10.0]);
        assert!(line(&compare(&[part.clone(), other.clone()]), "replies of all, last").ratios.is_empty());
        other.of = None;
        assert_eq!(compare(&[part, other]), []);
    }

    #[test]
    fn all_kinds_of_figures_are_read() {
        let mut idle = Row { of: Some(("nats", 1)), ..Row::new(Scenario::Idle, "1 s of rest", 2) };
        idle.memory = Some(Memory { empty: 1 << 20, idle: 3 << 20, peak: 3 << 20, per_agent: 2_048.0 });
        idle.more.insert(BROKER_CPU, 1.5.into());
        let mut stream = Row { of: Some(("nats", 1)), ..Row::new(Scenario::Stream, "deliveries of 128 bytes, 1:1", 2) };
        stream.more.insert(RATES, vec![9.0, 7.0, 5.0].into());
        let storm = Row::new(Scenario::Storm, "connected, since the begin", 1).times(Spread::of(vec![5.0]));
        let storm = Row { of: Some(("nats", 1)), ..storm };
        let lines = compare(&[idle, stream, storm]);
        let figures: Vec<(&str, f64)> = lines.iter().map(|line| (line.what.as_str(), line.figures["nats"])).collect();
        let expected = [
            ("connect storm, last", 5.0),
            ("resident set, empty", 1.0),
            ("resident set for a session", 2.0),
            ("CPU, idle", 1.5),
            ("stream 1:1", 7.0),
        ];
        assert_eq!(figures, expected);
    }
}

//! What do the coordinator and its generators say to each other? A line of JSON each way, over pipes.

use crate::dialect::Dialect;
use crate::plan::Share;
use crate::population::Population;
use crate::wire::Wire;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// To a generator. Each gets one [`Answer`], in order; [`Order::Enough`] gets none, and ends the one that is under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// The first: who its agents are.
    Begin(Begin),
    /// The agents of these brokers are away from now on, until they register.
    Watch { brokers: Vec<usize> },
    /// All agents connect, so many at once; from then on each comes back by itself.
    Connect { together: usize },
    /// Waits until nobody is away.
    Arrivals { within_ms: u64 },
    /// All agents go, and forget their tokens.
    Disconnect,
    /// Waits until so many agents have had this message.
    Deliveries { message: String, expect: usize, within_ms: u64 },
    /// Agents change their facts, so many in a second.
    Churn { per_second: u32, for_ms: u64 },
    /// Wrong passwords, so many at once, for these users and others; done once the first was answered.
    Flood { together: usize, users: Vec<String> },
    /// No more of them.
    Calm,
    /// Says what was counted.
    Count,
    /// Whatever is waited for: answer with what there is.
    Enough,
}

/// What a generator must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) population: Population,
    pub(crate) share: Share,
    pub(crate) brokers: Vec<SocketAddr>,
    /// They are bare sessions that speak this, and no agents.
    pub(crate) bare: Option<Dialect>,
    pub(crate) ca: PathBuf,
    /// Where the password of all users is.
    pub(crate) password: PathBuf,
    pub(crate) reply_bytes: u32,
    pub(crate) reply_delay_ms: u64,
}

/// From a generator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    /// When those who were away began the attempt that worked, and when they were registered; how many still are away.
    Arrivals {
        moments: Vec<[u64; 2]>,
        away: usize,
    },
    /// When agents had the message.
    Deliveries(Vec<u64>),
    /// How long each delta waited for its answer, ns; how many have none.
    Churned {
        acknowledged: Vec<u64>,
        unanswered: usize,
    },
    Counts(Counts),
    /// It cannot go on.
    Failed(String),
}

/// What a generator has counted since it began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// What agents met, by kind.
    pub(crate) met: BTreeMap<String, u64>,
    /// Answers to wrong passwords, by kind.
    pub(crate) flood: BTreeMap<String, u64>,
    pub(crate) wire: Wire,
}

impl Counts {
    /// Both together.
    pub(crate) fn plus(mut self, other: Counts) -> Counts {
        for (kind, count) in other.met {
            *self.met.entry(kind).or_default() += count;
        }
        for (kind, count) in other.flood {
            *self.flood.entry(kind).or_default() += count;
        }
        self.wire = self.wire.plus(other.wire);
        self
    }

    /// What came after `earlier`.
    pub(crate) fn since(&self, earlier: &Counts) -> Counts {
        let later = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let grown =
                now.iter().map(|(kind, count)| (kind.clone(), count - before.get(kind).unwrap_or(&0).min(count)));
            grown.filter(|(_, count)| *count > 0).collect()
        };
        Counts {
            met: later(&self.met, &earlier.met),
            flood: later(&self.flood, &earlier.flood),
            wire: self.wire.since(earlier.wire),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(met: &[(&str, u64)], to_brokers: u64) -> Counts {
        let met = met.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        Counts { met, wire: Wire { to_brokers, from_brokers: 0 }, ..Counts::default() }
    }

    #[test]
    fn counts_add_up_and_what_did_not_grow_is_left_out() {
        let before = counts(&[("busy", 2), ("closed", 1)], 10);
        let sum = before.clone().plus(counts(&[("busy", 3)], 5));
        assert_eq!(sum, counts(&[("busy", 5), ("closed", 1)], 15));
        assert_eq!(sum.since(&before), counts(&[("busy", 3)], 5));
    }

    #[test]
    fn orders_are_lines_that_read_back() {
        let line =
            serde_json::to_string(&Order::Deliveries { message: "m1".into(), expect: 3, within_ms: 5 }).expect("JSON");
        assert!(!line.contains('\n'));
        assert!(matches!(serde_json::from_str(&line), Ok(Order::Deliveries { expect: 3, .. })));
        let line = serde_json::to_string(&Answer::Arrivals { moments: vec![[1, 2]], away: 1 }).expect("JSON");
        assert!(matches!(serde_json::from_str(&line), Ok(Answer::Arrivals { away: 1, .. })));
    }
}

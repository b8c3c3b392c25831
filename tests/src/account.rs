//! What became of a request? All that its caller was told, node by node, until `done` or `refused`.

use crate::stomp::{Refused, Stomp, json, show};
use muster_protocol::frame::{Command, Frame};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the caller of a request was told.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The targets by broker.
    pub accepted: BTreeMap<String, BTreeSet<String>>,
    /// By node each state that it was said to have ended in: right is one.
    pub states: BTreeMap<String, Vec<String>>,
    /// Brokers that are missing at the end, with the reason: `unreachable`, `filtered`, `refused`.
    pub missing: BTreeMap<String, String>,
    /// Those that were named before: some may have come back in time.
    pub named: BTreeMap<String, String>,
    /// The body of `done`; null if it was refused.
    pub done: Value,
    /// The refusal of the whole, if it was.
    pub refused: Option<Refused>,
    /// Every event as it came, for people.
    pub events: Vec<String>,
}

impl Account {
    /// Reads what comes about a request to its end. Other frames are kept for later.
    pub fn of(operator: &mut Stomp, request: &str) -> Account {
        let mut account = Account::default();
        while account.done.is_null() && account.refused.is_none() {
            let what = format!("the end of {request} after {:#?}", account.events);
            let frame = operator.wait_for(&what, |frame| {
                assert_ne!(frame.command, Command::Error, "{}", show(frame));
                frame.headers.get("muster-request") == Some(request) && frame.headers.contains("muster-event")
            });
            account.take(&frame);
        }
        account
    }

    fn take(&mut self, frame: &Frame) {
        self.events.push(show(frame));
        let header = |name| frame.headers.get(name).unwrap_or_else(|| panic!("no {name} in {}", show(frame)));
        match header("muster-event") {
            "accepted" => {
                let body = json(frame);
                let nodes = body["nodes"].as_array().into_iter().flatten();
                let nodes = nodes.map(|node| node["id"].as_str().unwrap_or_default().to_owned());
                self.accepted.entry(body["broker"].as_str().unwrap_or_default().to_owned()).or_default().extend(nodes);
            }
            "started" => {}
            "reply" => self.ended(header("muster-node"), header("muster-status")),
            state @ ("lost" | "expired" | "cancelled") => {
                for node in json(frame)["nodes"].as_array().into_iter().flatten() {
                    self.ended(node.as_str().unwrap_or_default(), state);
                }
            }
            "missing" => {
                let (broker, why) = missing(&json(frame));
                self.named.insert(broker, why);
            }
            "done" => {
                self.done = json(frame);
                self.missing = self.done["without"].as_array().into_iter().flatten().map(missing).collect();
            }
            "refused" => self.refused = Some(Refused::of(frame)),
            other => panic!("an unknown event {other}: {}", show(frame)),
        }
    }

    fn ended(&mut self, node: &str, state: &str) {
        self.states.entry(node.to_owned()).or_default().push(state.to_owned());
    }

    /// All targets.
    pub fn targets(&self) -> BTreeSet<String> {
        self.accepted.values().flatten().cloned().collect()
    }

    /// The nodes that ended in this state.
    pub fn in_state(&self, state: &str) -> BTreeSet<String> {
        self.states.iter().filter(|(_, states)| **states == [state]).map(|(node, _)| node.clone()).collect()
    }

    /// How many nodes `done` says ended in this state.
    pub fn count(&self, state: &str) -> u64 {
        self.done["states"][state].as_u64().unwrap_or_default()
    }

    /// Each target is in exactly one state, nobody else is in any, and the numbers of `done` say the same.
    pub fn assert_exact(&self) {
        assert!(self.refused.is_none(), "it was refused: {self:#?}");
        let ended: BTreeSet<String> = self.states.keys().cloned().collect();
        assert_eq!(ended, self.targets(), "those who ended are not the targets: {self:#?}");
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (node, states) in &self.states {
            assert_eq!(states.len(), 1, "{node} ended more than once: {self:#?}");
            *counts.entry(&states[0]).or_default() += 1;
        }
        let done = self.done["states"].as_object().expect("states").clone();
        let done: BTreeMap<&str, u64> =
            done.iter().map(|(state, count)| (state.as_str(), count.as_u64().unwrap_or_default())).collect();
        assert_eq!(done, counts, "`done` counts otherwise: {self:#?}");
    }

    /// As [`Account::assert_exact`], with exactly these targets, all of them `ok`, and no broker missing.
    pub fn assert_all_ok(&self, targets: &BTreeSet<String>) {
        self.assert_exact();
        assert_eq!(self.targets(), *targets, "{self:#?}");
        assert_eq!(self.in_state("ok"), *targets, "{self:#?}");
        assert!(self.missing.is_empty(), "{self:#?}");
    }
}

/// The broker and the reason of one that is missing.
fn missing(body: &Value) -> (String, String) {
    let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}")).to_owned();
    assert!(!text("text").is_empty(), "{body}");
    (text("broker"), text("why"))
}

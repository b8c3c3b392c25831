//! Can a request match at a broker? What is known of the facts of its nodes, asked in three-valued logic.

use super::interest::Absorbed;
use muster_protocol::filter::{Filter, Ternary};
use muster_protocol::link::Summary;
use muster_protocol::message::BrokerName;

/// The summaries of all brokers.
#[derive(Debug)]
pub struct Summaries {}

impl Summaries {
    /// Nothing is known.
    pub fn new(_me: BrokerName, _instance: u64) -> Summaries {
        Summaries {}
    }

    /// Our boot counter was raised: our own record begins anew under it.
    pub fn set_instance(&mut self, _instance: u64) {}

    /// What our own nodes are now (a whole; origin, instance, sequence and base are filled in here). The delta to flood, if it
    /// differs from before. `now` is monotonic ms: a path that became "many" stays so for a while.
    pub fn set_own(&mut self, _whole: Summary, _now: u64) -> Option<Summary> {
        None
    }

    /// Takes a record that came over a link.
    pub fn take(&mut self, _record: &Summary) -> Absorbed {
        Absorbed::Known
    }

    /// (instance, sequence) of what is known of a broker, ours included.
    pub fn have(&self, _origin: &BrokerName) -> (u64, u64) {
        (0, 0)
    }

    /// The whole record of a broker, ours included.
    pub fn whole(&self, _origin: &BrokerName) -> Option<Summary> {
        None
    }

    /// Whether some registered node of a broker can match: `No` if none does, `Unknown` while nothing is known of that life of
    /// it. Without a target the answer is about nodes at all; `module` restricts to nodes that announce it.
    pub fn decide(
        &self,
        _broker: &BrokerName,
        _instance: u64,
        _target: Option<&Filter>,
        _module: Option<&str>,
    ) -> Ternary {
        Ternary::Unknown
    }

    /// Forgets brokers that are not wanted any more.
    pub fn retain(&mut self, _wanted: impl Fn(&BrokerName) -> bool) {
        ()
    }
}

//! Which brokers want a destination? One set of patterns for each broker, never re-advertised hop by hop.

use muster_protocol::destination::Destination;
use muster_protocol::link::Interest;
use muster_protocol::message::BrokerName;
use std::collections::BTreeSet;

/// What became of a flooded record (interest, summary).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absorbed {
    /// It is newer: pass it on.
    New,
    /// Known already, or older.
    Known,
    /// A delta on something that is not here: ask for the whole.
    Gap,
    /// It has no meaning (a pattern or path that does not parse, too much of it): drop it and say so.
    Bad,
}

/// The interest of all brokers.
#[derive(Debug)]
pub struct Interests {}

impl Interests {
    /// Nobody wants anything.
    pub fn new(_me: BrokerName, _instance: u64) -> Interests {
        Interests {}
    }

    /// Our boot counter was raised: our own record begins anew under it.
    pub fn set_instance(&mut self, _instance: u64) {
        unimplemented!()
    }

    /// What our own sessions subscribe to now, as the texts of patterns. The delta to flood, if it differs from before.
    pub fn set_own(&mut self, _patterns: BTreeSet<String>) -> Option<Interest> {
        unimplemented!()
    }

    /// Takes a record that came over a link.
    pub fn take(&mut self, _record: &Interest) -> Absorbed {
        unimplemented!()
    }

    /// (instance, sequence) of what is known of a broker, ours included.
    pub fn have(&self, _origin: &BrokerName) -> (u64, u64) {
        unimplemented!()
    }

    /// The whole record of a broker, ours included.
    pub fn whole(&self, _origin: &BrokerName) -> Option<Interest> {
        unimplemented!()
    }

    /// Whether a broker of this instance wants a destination; true while nothing is known of that life of it.
    pub fn wants(&self, _broker: &BrokerName, _instance: u64, _destination: &Destination) -> bool {
        unimplemented!()
    }

    /// Forgets brokers that are not wanted any more.
    pub fn retain(&mut self, _wanted: impl Fn(&BrokerName) -> bool) {
        unimplemented!()
    }
}

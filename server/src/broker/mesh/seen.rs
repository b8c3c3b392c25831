//! Has this message been here before? A bounded window of sequence numbers for each origin.

use muster_protocol::message::BrokerName;

/// What to do with a copy that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first: deliver it and pass it on.
    First,
    /// It came along the tree before, and now as a flood: pass it on as a flood, do not deliver it again.
    Upgrade,
    /// Nothing.
    Drop,
}

/// What has been seen.
#[derive(Debug, Default)]
pub struct Seen {}

impl Seen {
    /// Notes a copy. `flood`: it is treated as a flood here.
    pub fn note(&mut self, _origin: &BrokerName, _instance: u64, _sequence: u64, _flood: bool) -> Verdict {
        unimplemented!()
    }

    /// Forgets the origins that are not wanted any more.
    pub fn retain(&mut self, _wanted: impl Fn(&BrokerName) -> bool) {
        unimplemented!()
    }
}

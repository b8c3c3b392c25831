//! Which brokers and links are there? The link-state database of one broker: the newest (instance, sequence) of each origin.

use super::routes::Graph;
use muster_protocol::link::{LinkState, Neighbour};
use muster_protocol::message::BrokerName;
use std::collections::BTreeMap;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is newer than what was known: pass it on.
    New {
        /// The broker has started anew since: what was known of its sessions is void.
        restarted: bool,
    },
    /// Known already.
    Known,
    /// Older than what is known: whoever sent it wants ours.
    Older,
    /// It bore our own name and was ahead of us; ours has gone above it and is to be flooded (its instance may have changed).
    Outbid,
    /// A second broker with our name is alive, and we are the younger: we leave.
    Duplicate,
}

/// The link-state database.
#[derive(Debug)]
pub struct Topology {
    own: LinkState,
    others: BTreeMap<BrokerName, LinkState>,
}

impl Topology {
    /// A broker without links.
    pub fn new(name: BrokerName, instance: u64, incarnation: u64, born: u64) -> Topology {
        let neighbours = BTreeMap::new();
        let own = LinkState { origin: name, instance, sequence: 1, incarnation, born, draining: false, neighbours };
        Topology { own, others: BTreeMap::new() }
    }

    /// Our own record.
    pub fn own(&self) -> &LinkState {
        &self.own
    }

    /// A record, ours included.
    pub fn get(&self, name: &BrokerName) -> Option<&LinkState> {
        if *name == self.own.origin { Some(&self.own) } else { self.others.get(name) }
    }

    /// All records, ours included, by name.
    pub fn records(&self) -> impl Iterator<Item = &LinkState> {
        unimplemented_records(self)
    }

    /// Our link to `peer` is there with this end, or gone. Whether that changed our record.
    pub fn set_neighbour(&mut self, _peer: &BrokerName, _end: Option<Neighbour>) -> bool {
        unimplemented!()
    }

    /// We are about to stop. Whether that changed our record.
    pub fn set_draining(&mut self) -> bool {
        unimplemented!()
    }

    /// Takes a record that came over a link.
    pub fn take(&mut self, _record: LinkState) -> Taken {
        unimplemented!()
    }

    /// Forgets the records of brokers that are not wanted (any more). Whether there were any.
    pub fn retain(&mut self, _wanted: impl Fn(&BrokerName) -> bool) -> bool {
        unimplemented!()
    }

    /// The connected component that we are in.
    pub fn graph(&self) -> Graph {
        unimplemented!()
    }
}

fn unimplemented_records(topology: &Topology) -> std::vec::IntoIter<&LinkState> {
    let mut all: Vec<&LinkState> = topology.others.values().chain([&topology.own]).collect();
    all.sort_by(|a, b| a.origin.cmp(&b.origin));
    all.into_iter()
}

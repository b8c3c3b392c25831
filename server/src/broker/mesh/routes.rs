//! Which way does a message go? The shortest-path tree of every origin, the same at every broker.

use muster_protocol::message::BrokerName;
use std::collections::BTreeSet;

/// The brokers that can reach each other, and the edges between them: those that both ends list, with the larger cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {}

/// One branch of a tree at this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The link to take.
    pub neighbour: BrokerName,
    /// Whom it leads to.
    pub below: BTreeSet<BrokerName>,
}

/// What this broker does with messages, by origin and by destination.
#[derive(Debug, Clone, Default)]
pub struct Routes {}

impl Graph {
    /// A hash of the content (names, instances, draining, two-way edges, costs, filters): equal databases have equal epochs.
    pub fn epoch(&self) -> u64 {
        unimplemented!()
    }
}

impl Routes {
    /// Computes the trees of all origins as seen from `me`.
    pub fn compute(_graph: &Graph, _me: &BrokerName) -> Routes {
        unimplemented!()
    }

    /// Epoch of the graph that these routes were made of.
    pub fn epoch(&self) -> u64 {
        unimplemented!()
    }

    /// All brokers that can be reached, this one included.
    pub fn members(&self) -> &BTreeSet<BrokerName> {
        unimplemented!()
    }

    /// The branches of the tree of `origin` that begin at this broker.
    pub fn branches(&self, _origin: &BrokerName) -> &[Branch] {
        unimplemented!()
    }

    /// The neighbour on the way to `to`.
    pub fn next_hop(&self, _to: &BrokerName) -> Option<&BrokerName> {
        unimplemented!()
    }

    /// Cost of the way from here to `to`.
    pub fn cost(&self, _to: &BrokerName) -> Option<u64> {
        unimplemented!()
    }

    /// The brokers on the way from here to `to`, `to` last; empty for this broker itself, `None` if there is no way.
    pub fn path(&self, _to: &BrokerName) -> Option<Vec<BrokerName>> {
        unimplemented!()
    }

    /// Whether the filters of all links on the way from here to `to` let this destination pass.
    pub fn lets_pass(&self, _to: &BrokerName, _destination: &str) -> bool {
        unimplemented!()
    }
}

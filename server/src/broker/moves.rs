//! Has a node connected elsewhere? Each broker tells the others who connected to it; the higher session number wins in the whole mesh.

use super::Broker;
use super::event::Now;
use super::nodes::Node;
use bytes::Bytes;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::{Noted, Present, Word};
use muster_protocol::message::{BrokerName, NodeId};
use std::collections::{BTreeMap, HashMap};

/// Nodes in one message.
const MOST: usize = 2_000;
/// After so long without an acknowledgement it is said again, ms.
const AGAIN: u64 = 1_000;

/// Who connected here, in order, and what each broker knows of it.
#[derive(Debug, Default)]
pub struct Moves {
    /// By the number of the connection: node and session number, as long as it lasts.
    log: BTreeMap<u64, (NodeId, u64)>,
    /// The number of each node's connection.
    numbers: HashMap<NodeId, u64>,
    last: u64,
    told: BTreeMap<BrokerName, Told>,
    /// Somebody may have something to be told since the last look.
    changed: bool,
}

#[derive(Debug, Default)]
struct Told {
    acknowledged: u64,
    /// When what is on its way is said again, monotonic ms; none if nothing is.
    again_at: Option<u64>,
}

impl Moves {
    /// A node has connected, or the others must hear of it once more.
    pub fn connected(&mut self, node: NodeId, session: u64) {
        self.disconnected(node);
        self.changed = true;
        self.last += 1;
        self.log.insert(self.last, (node, session));
        self.numbers.insert(node, self.last);
    }

    /// Its session has ended.
    pub fn disconnected(&mut self, node: NodeId) {
        if let Some(number) = self.numbers.remove(&node) {
            self.log.remove(&number);
        }
    }

    /// A broker has dealt with all up to this one.
    pub fn noted(&mut self, broker: &BrokerName, upto: u64) {
        let told = self.told.entry(broker.clone()).or_default();
        if upto >= told.acknowledged {
            *told = Told { acknowledged: upto, again_at: None };
            self.changed = true;
        }
    }

    /// What is on its way may be lost.
    pub fn ways_changed(&mut self) {
        self.told.values_mut().for_each(|told| told.again_at = None);
        self.changed = true;
    }

    /// Whether the brokers are to be looked through at `now` (monotonic ms): most events have nothing to do with this.
    pub fn take_changed(&mut self, now: u64) -> bool {
        let is_due = self.next_deadline().is_some_and(|at| at <= now);
        std::mem::take(&mut self.changed) || is_due
    }

    /// What a broker is to be told now, if something new is there and nothing is on its way.
    pub fn news_for(&mut self, broker: &BrokerName, now: u64) -> Option<Present> {
        let last = self.log.last_key_value().map_or(0, |(number, _)| *number);
        let known = self.told.get(broker).map_or(0, |told| told.acknowledged);
        if last <= known {
            // What was on its way is about nodes that have left since: there is nothing to say again.
            self.told.entry(broker.clone()).and_modify(|told| told.again_at = None);
            return None;
        }
        let told = self.told.entry(broker.clone()).or_default();
        if told.again_at.is_some_and(|at| now < at) {
            return None;
        }
        told.again_at = Some(now + AGAIN);
        let mut upto = known;
        let mut nodes = Vec::new();
        for (number, node) in self.log.range(known + 1..).take(MOST) {
            upto = *number;
            nodes.push(*node);
        }
        Some(Present { nodes, upto })
    }

    /// When something is to be said again, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.told.values().filter_map(|told| told.again_at).min()
    }
}

impl Broker {
    /// Tells the brokers that can be reached who has connected here.
    pub(super) fn tell_presence(&mut self, now: Now) {
        if !self.moves.take_changed(now.tick) {
            return;
        }
        let me = self.mesh.me();
        let others: Vec<BrokerName> =
            self.mesh.routes().members().iter().filter(|broker| *broker != me).cloned().collect();
        for broker in others {
            if let Some(present) = self.moves.news_for(&broker, now.tick) {
                self.say(&broker, Word::Present(present), Bytes::new(), now);
            }
        }
    }

    /// Nodes have connected to another broker: an older session here has moved.
    pub(super) fn present_elsewhere(&mut self, from: &BrokerName, present: &Present, now: Now) {
        for (id, number) in &present.nodes {
            let Some(node) = self.nodes.row(id).and_then(|row| self.nodes.get(row)) else {
                self.nodes.is_elsewhere(*id);
                continue;
            };
            let (ours, session) = (node.number, node.session);
            if !is_older(node, *number, from, self.mesh.me()) {
                // Theirs is the one that has to go: they may have heard of ours before it came.
                self.moves.connected(*id, ours);
            } else {
                self.counters.moved += 1;
                let text = format!("node {id} has connected again at {from}");
                self.close(session, Some(Refusal::new(Code::Moved, text)), "moved", now);
                self.nodes.is_elsewhere(*id);
            }
        }
        self.say(from, Word::Noted(Noted { upto: present.upto }), Bytes::new(), now);
    }
}

/// Two sessions of one number cannot be told apart; both sides keep that of the broker whose name comes first.
fn is_older(node: &Node, number: u64, from: &BrokerName, me: &BrokerName) -> bool {
    node.number < number || (node.number == number && from < me)
}

//! Which links does a message take? Along the tree of its origin, or everywhere where brokers see different topologies; by next hop.

use super::lanes::{Freight, Full};
use super::seen::Verdict;
use super::{Mesh, neighbours, routes};
use bytes::Bytes;
use muster_protocol::link::{Direct, Forward, Head, Load, MAX_HOPS, Word};
use muster_protocol::message::BrokerName;
use std::sync::Arc;

/// What travels with a head.
#[derive(Debug, Clone, Default)]
pub struct Cargo {
    /// The body.
    pub body: Bytes,
    /// Monotonic ms after which it need not be sent any more.
    pub expires: Option<u64>,
    /// It may be dropped for others.
    pub droppable: bool,
}

impl Mesh {
    /// Sends a message that begins here to the brokers of a list.
    pub fn forward(&mut self, to: Vec<BrokerName>, load: Load, cargo: Cargo, now: u64) {
        if to.is_empty() {
            return;
        }
        self.sequence += 1;
        self.counters.forwarded += 1;
        let (origin, instance) = (self.me.clone(), self.instance());
        self.seen.note(&origin, instance, self.sequence, false);
        let forward = Forward {
            origin,
            instance,
            sequence: self.sequence,
            epoch: self.routes.epoch(),
            flood: false,
            hops: 1,
            to: to.into(),
            load,
        };
        let hops = self.along_the_tree(&forward.origin, &forward.to);
        self.push_copies(&hops, forward, &cargo, now);
    }

    /// A copy that came from a neighbour: passes it on, and says whether it is for this broker and new.
    pub fn relay(&mut self, from: &BrokerName, forward: &Forward, cargo: &Cargo, now: u64) -> bool {
        if !self.is_one_of_us(&forward.origin) {
            self.counters.dropped += 1;
            return false;
        }
        let upgrade = !forward.flood && forward.epoch != self.routes.epoch();
        let flood = forward.flood || upgrade;
        let verdict = self.seen.note(&forward.origin, forward.instance, forward.sequence, flood);
        if verdict == Verdict::Drop {
            self.counters.repeated += 1;
            return false;
        }
        // Whoever sent it along the tree may be the only way to the rest: it gets the flood too.
        let hops = match flood {
            true => self.everywhere_but(if upgrade { None } else { Some(from) }, &forward.load),
            false => self.along_the_tree(&forward.origin, &forward.to),
        };
        if forward.hops >= MAX_HOPS {
            self.counters.dropped += 1;
        } else if !hops.is_empty() {
            let counter = if flood { &mut self.counters.flooded } else { &mut self.counters.relayed };
            *counter += hops.len() as u64;
            let copy = Forward { hops: forward.hops + 1, flood, ..forward.clone() };
            self.push_copies(&hops, copy, cargo, now);
        }
        verdict == Verdict::First && forward.to.contains(&self.me)
    }

    /// Whether what a broker began is taken. Our own come back as floods where a neighbour sees another topology: they are
    /// passed on too.
    pub fn is_one_of_us(&self, origin: &BrokerName) -> bool {
        *origin == self.me || self.list.contains(origin)
    }

    /// The links that lead to somebody of the list, in the tree of a message's origin.
    fn along_the_tree(&self, origin: &BrokerName, to: &[BrokerName]) -> Vec<BrokerName> {
        let leads = |branch: &&routes::Branch| to.iter().any(|broker| branch.below.contains(broker));
        self.routes.branches(origin).iter().filter(leads).map(|branch| branch.neighbour.clone()).collect()
    }

    /// All links but one that let it pass.
    fn everywhere_but(&self, from: Option<&BrokerName>, load: &Load) -> Vec<BrokerName> {
        let passes = |link: &neighbours::Link| load.destination().is_none_or(|to| link.lets_pass(to));
        let hops = self.neighbours.iter().filter(|(name, link)| Some(*name) != from && passes(link));
        hops.map(|(name, _)| name.clone()).collect()
    }

    fn push_copies(&mut self, hops: &[BrokerName], forward: Forward, cargo: &Cargo, now: u64) {
        let head = Arc::new(Head::Forward(forward));
        for hop in hops {
            self.push(hop, &head, cargo, now);
        }
    }

    /// Says something to one broker; false if there is no way, or the link is full.
    pub fn direct(&mut self, to: &BrokerName, word: Word, cargo: Cargo, now: u64) -> bool {
        let (from, instance) = (self.me.clone(), self.instance());
        self.pass(Direct { from, instance, to: to.clone(), hops: 1, word }, &cargo, now)
    }

    /// Passes a word on that is for another broker.
    pub fn pass_on(&mut self, mut direct: Direct, cargo: &Cargo, now: u64) {
        direct.hops = direct.hops.saturating_add(1);
        self.counters.relayed += 1;
        if direct.hops > MAX_HOPS || !self.pass(direct, cargo, now) {
            self.counters.dropped += 1;
        }
    }

    fn pass(&mut self, direct: Direct, cargo: &Cargo, now: u64) -> bool {
        let Some(hop) = self.routes.next_hop(&direct.to).cloned() else { return false };
        self.push(&hop, &Arc::new(Head::Direct(direct)), cargo, now)
    }

    fn push(&mut self, hop: &BrokerName, head: &Arc<Head>, cargo: &Cargo, now: u64) -> bool {
        let Some(link) = self.neighbours.get(hop) else { return false };
        let Cargo { body, expires, droppable } = cargo.clone();
        let freight = Freight { head: head.clone(), body, expires, droppable, since: now };
        match link.outbox.data(freight, now) {
            Ok(()) => true,
            Err(Full) => {
                self.counters.dropped += 1;
                false
            }
        }
    }
}

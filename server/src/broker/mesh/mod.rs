//! How do brokers find each other and pass messages on? Link state as arithmetic: who is there, who wants what, which way.
//!
//! The algorithm is docs/architecture.md's "The mesh": records are flooded with a seen-set, every broker computes the same trees,
//! a message follows the tree of its origin; where two brokers see different topologies, it is flooded and deduplicated.

mod audience;
mod flood;
mod forward;
pub mod graph;
pub mod interest;
pub mod lanes;
mod neighbours;
pub mod routes;
pub mod seen;
pub mod summary;
pub mod topology;
mod view;

pub use audience::{Asked, Audience};
pub use forward::Cargo;

use super::note::{Note, Weight};
use interest::Interests;
use muster_protocol::message::BrokerName;
use neighbours::Neighbours;
use routes::Routes;
use seen::Seen;
use std::collections::{BTreeMap, BTreeSet};
use summary::Summaries;
use topology::Topology;

/// Least time between two computations of routes, ms; what this broker sees with its own eyes, a link that came or went, is
/// computed at once.
const SETTLE: u64 = 20;

/// How long an alarm stands after its cause was last seen, ms.
const ALARM: u64 = 10 * 60 * 1000;
/// Most alarms: whoever floods us with strange names does not fill our memory.
const ALARMS: usize = 256;

/// What the alarms about brokers that are not in the list begin with.
const STRANGER: &str = "stranger ";

/// How long after a broker can be reached (again) what is known of it may be out of date, ms: until then nothing is ruled out.
const FRESH: u64 = 2_000;

/// Who a broker is in this life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Boot counter, kept on disk.
    pub instance: u64,
    /// Random, of this process.
    pub incarnation: u64,
    /// When the process started, Unix ms.
    pub born: u64,
}

/// The mesh as one broker sees it.
#[derive(Debug)]
pub struct Mesh {
    me: BrokerName,
    topology: Topology,
    routes: Routes,
    seen: Seen,
    interests: Interests,
    summaries: Summaries,
    neighbours: Neighbours,
    /// The brokers of the policy, without this one.
    list: BTreeSet<BrokerName>,
    /// Since when a broker that was reachable is not, monotonic ms.
    lost: BTreeMap<BrokerName, u64>,
    /// Since when a broker can be reached, monotonic ms.
    found: BTreeMap<BrokerName, u64>,
    /// Routes are to be computed at this moment, monotonic ms.
    due: Option<u64>,
    computed: u64,
    /// Number of the last message that began here.
    sequence: u64,
    /// Raised with each computation of routes.
    changes: u64,
    /// Brokers that have started anew since the last look.
    restarted: BTreeSet<BrokerName>,
    /// Why this broker is not in the mesh any more.
    left: Option<String>,
    /// What somebody should look at, by what it is about, and until when it stands, monotonic ms.
    alarms: BTreeMap<String, (String, u64)>,
    counters: Counters,
    notes: Vec<Note>,
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Messages that began here and went to other brokers.
    pub forwarded: u64,
    /// Copies passed on for others.
    pub relayed: u64,
    /// Copies flooded because two brokers saw different topologies.
    pub flooded: u64,
    /// Copies that had been here before.
    pub repeated: u64,
    /// Messages without a way, beyond the hop limit, or that a full link did not take.
    pub dropped: u64,
}

impl Mesh {
    /// A broker without links.
    pub fn new(me: BrokerName, identity: Identity) -> Mesh {
        let Identity { instance, incarnation, born } = identity;
        let topology = Topology::new(me.clone(), instance, incarnation, born);
        Mesh {
            routes: Routes::compute(&topology.graph(), &me),
            topology,
            seen: Seen::default(),
            interests: Interests::new(me.clone(), instance),
            summaries: Summaries::new(me.clone(), instance),
            neighbours: Neighbours::default(),
            list: BTreeSet::new(),
            lost: BTreeMap::new(),
            found: BTreeMap::new(),
            due: None,
            computed: 0,
            sequence: 0,
            changes: 0,
            restarted: BTreeSet::new(),
            left: None,
            alarms: BTreeMap::new(),
            counters: Counters::default(),
            notes: Vec::new(),
            me,
        }
    }

    /// This broker's name.
    pub fn me(&self) -> &BrokerName {
        &self.me
    }

    /// This broker's boot counter; it rises when somebody else was ahead of it.
    pub fn instance(&self) -> u64 {
        self.topology.own().instance
    }

    /// The link-state database.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The routes in use.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// What the brokers want.
    pub fn interests(&self) -> &Interests {
        &self.interests
    }

    /// What nodes the brokers have.
    pub fn summaries(&self) -> &Summaries {
        &self.summaries
    }

    /// The brokers of the policy, without this one.
    pub fn list(&self) -> &BTreeSet<BrokerName> {
        &self.list
    }

    /// How long a ping took over each link that is up, ms, once that is known.
    pub fn round_trips(&self) -> impl Iterator<Item = (&BrokerName, Option<u64>)> {
        self.neighbours.iter().map(|(name, link)| (name, link.rtt))
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes that wait to be sent, over all links.
    pub fn backlog(&self) -> usize {
        self.neighbours.iter().map(|(_, link)| link.outbox.backlog()).sum()
    }

    /// What somebody should look at.
    pub fn alarms(&self) -> impl Iterator<Item = &str> {
        self.alarms.values().map(|(text, _)| text.as_str())
    }

    /// Raised whenever routes were computed: what waits for a way looks again.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether there is a way to a broker.
    pub fn reaches(&self, broker: &BrokerName) -> bool {
        self.routes.members().contains(broker)
    }

    /// Since when there is no way to a broker, monotonic ms: 0 if there never was one. `None`: there is.
    pub fn lost_since(&self, broker: &BrokerName) -> Option<u64> {
        if self.reaches(broker) { None } else { Some(self.lost.get(broker).copied().unwrap_or(0)) }
    }

    /// Brokers that have started anew since the last call.
    pub fn take_restarted(&mut self) -> BTreeSet<BrokerName> {
        std::mem::take(&mut self.restarted)
    }

    /// Log lines since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The policy's broker list: the records of others are forgotten and not taken any more, links to them are closed.
    pub fn set_list(&mut self, list: impl Iterator<Item = BrokerName>, now: u64) {
        let me = self.me.clone();
        self.list = list.filter(|name| *name != me).collect();
        let strangers: Vec<BrokerName> =
            self.neighbours.iter().map(|(name, _)| name.clone()).filter(|name| !self.list.contains(name)).collect();
        for stranger in strangers {
            self.expel(&stranger, now);
        }
        let list = &self.list;
        let wanted = |name: &BrokerName| *name == me || list.contains(name);
        let forgotten = self.topology.retain(wanted);
        self.interests.retain(wanted);
        self.summaries.retain(wanted);
        self.seen.retain(wanted);
        self.lost.retain(|name, _| wanted(name));
        self.found.retain(|name, _| wanted(name));
        // The list was mended, or they come again.
        self.alarms.retain(|about, _| !about.starts_with(STRANGER));
        if forgotten {
            self.compute(now);
        }
    }

    /// This broker is about to stop: nothing is routed through it any more.
    pub fn drain(&mut self, now: u64) {
        if self.topology.set_draining() {
            self.flood_own_state();
            self.compute(now);
        }
    }

    /// Computes routes if that is due, and looks after the links.
    pub fn tick(&mut self, now: u64) {
        self.alarms.retain(|_, (_, until)| *until > now);
        self.watch(now);
        if self.due.is_some_and(|at| at <= now) {
            self.compute(now);
        }
    }

    /// When to call [`Mesh::tick`] again, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        [self.due, self.neighbours.next_deadline()].into_iter().flatten().min()
    }

    /// Raises an alarm, or lets it stand for longer. Whether it is a new one.
    pub(in crate::broker) fn alarm(&mut self, about: String, text: String, now: u64) -> bool {
        let is_new = !self.alarms.contains_key(&about);
        if !is_new || self.alarms.len() < ALARMS {
            self.alarms.insert(about, (text, now + ALARM));
        }
        is_new
    }

    fn compute_soon(&mut self, now: u64) {
        let at = self.computed.saturating_add(SETTLE).max(now);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn compute(&mut self, now: u64) {
        (self.due, self.computed) = (None, now);
        self.changes += 1;
        let before = std::mem::replace(&mut self.routes, Routes::compute(&self.topology.graph(), &self.me));
        for broker in before.members().difference(self.routes.members()) {
            self.lost.entry(broker.clone()).or_insert(now);
            self.found.remove(broker);
            self.notes.push(Note::new(Weight::Warning, "broker unreachable").with("broker", broker));
        }
        for broker in self.routes.members().difference(before.members()) {
            self.lost.remove(broker);
            self.found.insert(broker.clone(), now);
            self.notes.push(Note::new(Weight::Info, "broker reachable").with("broker", broker));
        }
    }
}

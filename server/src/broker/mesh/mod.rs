//! How do brokers find each other and pass messages on? Link state as arithmetic: who is there, who wants what, which way.
//!
//! The algorithm is docs/architecture.md's "The mesh": records are flooded with a seen-set, every broker computes the same trees,
//! a message follows the tree of its origin; where two brokers see different topologies, it is flooded and deduplicated.

mod flood;
pub mod graph;
pub mod interest;
pub mod lanes;
mod neighbours;
pub mod routes;
pub mod seen;
pub mod summary;
pub mod topology;

use super::note::{Note, Weight};
use bytes::Bytes;
use interest::Interests;
use lanes::{Freight, Full};
use muster_protocol::destination::Destination;
use muster_protocol::filter::{Filter, Ternary};
use muster_protocol::link::{Direct, Forward, Head, Load, MAX_HOPS, Word};
use muster_protocol::message::BrokerName;
use muster_protocol::request::{MeshAnswer, MeshBroker, MeshLink, Missing, Reach, Why};
use neighbours::Neighbours;
use routes::Routes;
use seen::{Seen, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use summary::Summaries;
use topology::Topology;

/// Least time between two computations of routes, ms; what this broker sees with its own eyes, a link that came or went, is
/// computed at once.
const SETTLE: u64 = 20;

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
    alarms: BTreeMap<String, String>,
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

/// Which brokers a message is for, and of which nothing can be had.
#[derive(Debug, Default)]
pub struct Audience {
    /// These.
    pub to: Vec<BrokerName>,
    /// Without these.
    pub without: Vec<Missing>,
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

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What somebody should look at.
    pub fn alarms(&self) -> impl Iterator<Item = &str> {
        self.alarms.values().map(String::as_str)
    }

    /// Raised whenever routes were computed: what waits for a way looks again.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether there is a way to a broker.
    pub fn reaches(&self, broker: &BrokerName) -> bool {
        self.routes.members().contains(broker)
    }

    /// Since when a broker that was reachable is not, monotonic ms.
    pub fn lost_since(&self, broker: &BrokerName) -> Option<u64> {
        self.lost.get(broker).copied()
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

    /// Whom a message concerns: brokers that `interested` and whose nodes may match. What a link on the way does not let
    /// pass, and what there is no way to, is named.
    pub fn audience(&self, destination: Option<&Destination>, asked: Asked<'_>, now: u64) -> Audience {
        let mut audience = Audience::default();
        let text = destination.map(ToString::to_string);
        for broker in &self.list {
            let record = self.topology.get(broker);
            let instance = record.map_or(0, |record| record.instance);
            let heard = record.is_some();
            // What was last heard of a broker out of reach says nothing of who is connected to it by now.
            let reaches = self.reaches(broker);
            let is_known = reaches && self.found.get(broker).is_none_or(|since| now.saturating_sub(*since) >= FRESH);
            if is_known && destination.is_some_and(|to| !self.interests.wants(broker, instance, to)) {
                continue;
            }
            if is_known && !self.concerns(broker, instance, &asked) {
                continue;
            }
            let missing = |why, text: String| Missing {
                broker: broker.to_string(),
                why,
                text,
                nodes: self.summaries.nodes(broker),
            };
            if !reaches {
                let text =
                    if heard { "there is no way to it now" } else { "it was not heard of since this broker started" };
                audience.without.push(missing(Why::Unreachable, text.to_owned()));
            } else if text.as_ref().is_some_and(|to| !self.routes.lets_pass(broker, to)) {
                let text = "a link on the way does not let this destination pass";
                audience.without.push(missing(Why::Filtered, text.to_owned()));
            } else {
                audience.to.push(broker.clone());
            }
        }
        audience
    }

    fn concerns(&self, broker: &BrokerName, instance: u64, asked: &Asked<'_>) -> bool {
        let Asked { nodes, target, module, also_gone } = asked;
        if !*nodes {
            return true;
        }
        if *also_gone && self.summaries.is_restless(broker, instance) {
            return true;
        }
        self.summaries.decide(broker, instance, *target, *module) != Ternary::No
    }

    /// What is said of a broker that does not answer.
    pub fn silent(&self, broker: &BrokerName, text: &str) -> Missing {
        Missing {
            broker: broker.to_string(),
            why: Why::Unreachable,
            text: text.to_owned(),
            nodes: self.summaries.nodes(broker),
        }
    }

    /// Whether the links that lead to these brokers take another request.
    pub fn has_room(&self, to: &[BrokerName]) -> bool {
        let hops: BTreeSet<&BrokerName> = to.iter().filter_map(|broker| self.routes.next_hop(broker)).collect();
        hops.into_iter().filter_map(|hop| self.neighbours.get(hop)).all(|link| link.outbox.has_room())
    }

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
        self.along_the_tree(forward, &cargo, now);
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
        if forward.hops >= MAX_HOPS {
            self.counters.dropped += 1;
        } else {
            let mut copy = forward.clone();
            copy.hops += 1;
            copy.flood = flood;
            if flood {
                // Whoever sent it along the tree may be the only way to the rest: it gets the flood too.
                self.everywhere_but(if upgrade { None } else { Some(from) }, copy, cargo, now);
            } else {
                self.along_the_tree(copy, cargo, now);
            }
        }
        verdict == Verdict::First && forward.to.contains(&self.me)
    }

    /// Whether what a broker began is taken. Our own come back as floods where a neighbour sees another topology: they are
    /// passed on too.
    pub fn is_one_of_us(&self, origin: &BrokerName) -> bool {
        *origin == self.me || self.list.contains(origin)
    }

    fn along_the_tree(&mut self, forward: Forward, cargo: &Cargo, now: u64) {
        let branches = self.routes.branches(&forward.origin);
        let leads = |branch: &&routes::Branch| forward.to.iter().any(|broker| branch.below.contains(broker));
        let hops: Vec<BrokerName> = branches.iter().filter(leads).map(|branch| branch.neighbour.clone()).collect();
        self.counters.relayed += if forward.origin == self.me { 0 } else { hops.len() as u64 };
        let head = Arc::new(Head::Forward(forward));
        for hop in hops {
            self.push(&hop, &head, cargo, now);
        }
    }

    fn everywhere_but(&mut self, from: Option<&BrokerName>, forward: Forward, cargo: &Cargo, now: u64) {
        let destination = forward.load.destination().map(str::to_owned);
        let passes = |link: &neighbours::Link| destination.as_ref().is_none_or(|to| link.lets_pass(to));
        let hops: Vec<BrokerName> = self
            .neighbours
            .iter()
            .filter(|(name, link)| Some(*name) != from && passes(link))
            .map(|(name, _)| name.clone())
            .collect();
        self.counters.flooded += hops.len() as u64;
        let head = Arc::new(Head::Forward(forward));
        for hop in hops {
            self.push(&hop, &head, cargo, now);
        }
    }

    /// Says something to one broker; false if there is no way, or the link is full.
    pub fn direct(&mut self, to: &BrokerName, word: Word, cargo: Cargo, now: u64) -> bool {
        let (from, instance) = (self.me.clone(), self.instance());
        self.pass(Direct { from, instance, to: to.clone(), hops: 1, word }, &cargo, now)
    }

    /// Passes a word on that is for another broker.
    pub fn pass_on(&mut self, direct: &Direct, cargo: &Cargo, now: u64) {
        let mut copy = direct.clone();
        copy.hops = copy.hops.saturating_add(1);
        self.counters.relayed += 1;
        if copy.hops > MAX_HOPS || !self.pass(copy, cargo, now) {
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

    /// Computes routes if that is due, and looks after the links.
    pub fn tick(&mut self, now: u64) {
        self.watch(now);
        if self.due.is_some_and(|at| at <= now) {
            self.compute(now);
        }
    }

    /// When to call [`Mesh::tick`] again, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        [self.due, self.neighbours.next_deadline()].into_iter().flatten().min()
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

    /// The mesh for people and programs; `nodes` are registered here now.
    pub fn answer(&self, nodes: u64) -> MeshAnswer {
        let names: BTreeSet<&BrokerName> = self.list.iter().chain([&self.me]).collect();
        MeshAnswer {
            broker: self.me.to_string(),
            epoch: format!("{:016x}", self.routes.epoch()),
            brokers: names.into_iter().map(|name| self.describe(name, nodes)).collect(),
            alarms: self.alarms().map(str::to_owned).collect(),
        }
    }

    fn describe(&self, name: &BrokerName, here: u64) -> MeshBroker {
        let record = self.topology.get(name);
        let reach = match record {
            _ if *name == self.me => Reach::Here,
            _ if self.reaches(name) => Reach::Reachable,
            Some(_) => Reach::Unreachable,
            None => Reach::Unknown,
        };
        let links = record.into_iter().flat_map(|record| &record.neighbours).map(|(to, end)| {
            let back = self.topology.get(to).and_then(|other| other.neighbours.get(name));
            let rtt = self.neighbours.get(to).filter(|_| *name == self.me).and_then(|link| link.rtt);
            MeshLink {
                to: to.to_string(),
                cost: end.cost.max(back.map_or(0, |back| back.cost)),
                two_way: back.is_some(),
                send: end.send.clone(),
                rtt_ms: rtt,
            }
        });
        MeshBroker {
            name: name.to_string(),
            reach,
            instance: record.map_or(0, |record| record.instance),
            draining: record.is_some_and(|record| record.draining),
            nodes: if *name == self.me { Some(here) } else { self.summaries.nodes(name) },
            path: self.routes.path(name).unwrap_or_default().iter().map(ToString::to_string).collect(),
            cost: self.routes.cost(name),
            links: links.collect(),
        }
    }
}

/// What a message asks for, as far as summaries can tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// It is for nodes, not for all that subscribe.
    pub nodes: bool,
    /// Target and scope.
    pub target: Option<&'a Filter>,
    /// Nodes must announce this module.
    pub module: Option<&'a str>,
    /// Nodes that are gone or registering count too.
    pub also_gone: bool,
}

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

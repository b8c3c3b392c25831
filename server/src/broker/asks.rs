//! What does an ingress know of the requests that its sessions asked? Which brokers, which nodes, and who has not answered.
//!
//! A request has a part for each broker that it went to. A part is over when the broker has named all of its targets and each of
//! them has ended, or when the broker is given up. Each node is in one place, and ends once.

use super::event::SessionId;
use super::event::Terms;
use super::mesh::Audience;
use bytes::Bytes;
use muster_protocol::destination::Destination;
use muster_protocol::frame::Headers;
use muster_protocol::link::Prepare;
use muster_protocol::message::{BrokerName, NodeId, RequestId};
use muster_protocol::request::{Bound, Done, Missing, State};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// When a broker that has not answered is asked again, ms after the request.
const AGAIN: [u64; 3] = [300, 1_000, 3_000];
/// When it is given up, ms after the request: later than a dead link is noticed.
const GIVE_UP: u64 = 6_000;
/// How long a broker may be out of reach before it is given up if it has not answered, ms.
const LOST_SILENT: u64 = 1_000;
/// The same, before its nodes count as lost, ms: routes may come back by then.
const LOST_NODES: u64 = 3_000;
/// How much longer than the brokers themselves the ingress waits for their word that the rest has expired, ms.
const GRACE: u64 = 2_000;

/// What was asked, by whom, and where the account goes.
#[derive(Debug)]
pub struct Asked {
    /// Who asked.
    pub caller: SessionId,
    /// The caller's user name.
    pub user: Arc<str>,
    /// The caller's id.
    pub id: RequestId,
    /// The reply queue, by the broker's name.
    pub queue: Destination,
    /// To which action topic it went.
    pub destination: Destination,
    /// Its terms, those of the policy included.
    pub terms: Terms,
    /// The limit that the policy sets to its targets.
    pub bound: Option<Bound>,
    /// What goes to other brokers, and its body.
    pub prepare: Arc<Prepare>,
    /// The body.
    pub body: Bytes,
}

/// The account of one request.
#[derive(Debug)]
pub struct Ask {
    /// What was asked.
    pub asked: Asked,
    /// Not decided yet: a guard waits for the count of all brokers. What has happened waits with it.
    pub held: Option<Vec<(Headers, Bytes)>>,
    /// A cancel is under way.
    pub cancelled: bool,
    /// Boot counter of this broker when it was asked.
    pub instance: u64,
    arrived: u64,
    begun: u64,
    deadline: u64,
    look_at: u64,
    tries: usize,
    parts: BTreeMap<BrokerName, Part>,
    nodes: HashMap<NodeId, Place>,
    /// Nodes that two brokers have named.
    twice: u64,
    states: BTreeMap<State, u64>,
    without: BTreeMap<String, Missing>,
}

/// What one broker does of a request.
#[derive(Debug, Default)]
struct Part {
    instance: u64,
    /// Reports heard, in order.
    heard: u64,
    /// Its targets, once it has said so.
    count: Option<u64>,
    named: u64,
    waiting: u64,
    given_up: bool,
}

#[derive(Debug)]
struct Place {
    broker: BrokerName,
    number: u64,
    ended: bool,
    started: bool,
}

/// All requests of this broker's sessions.
#[derive(Debug, Default)]
pub struct Asks {
    open: HashMap<u64, Ask>,
    /// A caller's ids are its own.
    by_caller: HashMap<(Arc<str>, RequestId), u64>,
    deadlines: BTreeSet<(u64, u64)>,
    last: u64,
}

/// What a request needs now.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// These brokers are to be asked again.
    Again(Vec<BrokerName>),
    /// This broker is given up, with the nodes that it had not accounted for.
    GivenUp(BrokerName, &'static str),
    /// The deadline is long over.
    Expired,
}

impl Asks {
    /// Begins the account of a request to this broker and the audience. `None`: this user already has a request of this id.
    pub fn begin(
        &mut self,
        asked: Asked,
        (me, instance): (&BrokerName, u64),
        audience: Audience,
        now: u64,
    ) -> Option<u64> {
        let held = asked.prepare.hold;
        let name = (asked.user.clone(), asked.id.clone());
        if self.by_caller.contains_key(&name) {
            return None;
        }
        self.last += 1;
        self.by_caller.insert(name, self.last);
        let parts = audience.to.into_iter().chain([me.clone()]).map(|broker| (broker, Part::default())).collect();
        let deadline = now.saturating_add(asked.terms.reply_within).saturating_add(GRACE);
        let mut ask = Ask {
            asked,
            held: held.then(Vec::new),
            cancelled: false,
            instance,
            arrived: now,
            begun: now,
            deadline,
            look_at: 0,
            tries: 0,
            parts,
            nodes: HashMap::new(),
            twice: 0,
            states: BTreeMap::new(),
            without: audience.without.into_iter().map(|missing| (missing.broker.clone(), missing)).collect(),
        };
        ask.look_at = ask.next_look(now, |_| None);
        self.deadlines.insert((ask.look_at, self.last));
        self.open.insert(self.last, ask);
        Some(self.last)
    }

    /// The number that the next request will get.
    pub fn next_serial(&self) -> u64 {
        self.last + 1
    }

    /// Looks at a request.
    pub fn get(&self, serial: u64) -> Option<&Ask> {
        self.open.get(&serial)
    }

    /// Changes a request.
    pub fn get_mut(&mut self, serial: u64) -> Option<&mut Ask> {
        self.open.get_mut(&serial)
    }

    /// The caller's request of this id.
    pub fn of_caller(&self, caller: SessionId, user: &str, id: &RequestId) -> Option<u64> {
        let serial = *self.by_caller.get(&(user.into(), id.clone()))?;
        self.open.get(&serial).filter(|ask| ask.asked.caller == caller).map(|_| serial)
    }

    /// Requests of a caller.
    pub fn asked_by(&self, caller: SessionId) -> Vec<u64> {
        self.open.iter().filter(|(_, ask)| ask.asked.caller == caller).map(|(serial, _)| *serial).collect()
    }

    /// Requests in which a broker takes part that has answered in another life than this one, the oldest first.
    pub fn of_other_life(&self, broker: &BrokerName, instance: u64) -> Vec<u64> {
        let concerned = self.open.iter().filter(|(_, ask)| ask.is_of_other_life(broker, instance));
        let mut concerned: Vec<u64> = concerned.map(|(serial, _)| *serial).collect();
        concerned.sort_unstable();
        concerned
    }

    /// Ends a request that is over: its account. `None`: not yet.
    pub fn finish(&mut self, serial: u64) -> Option<(Ask, Done)> {
        if !self.open.get(&serial)?.is_over() {
            return None;
        }
        let mut ask = self.drop(serial)?;
        let states = std::mem::take(&mut ask.states);
        let without = std::mem::take(&mut ask.without).into_values().collect();
        Some((ask, Done { states, without }))
    }

    /// Forgets a request.
    pub fn drop(&mut self, serial: u64) -> Option<Ask> {
        let ask = self.open.remove(&serial)?;
        self.by_caller.remove(&(ask.asked.user.clone(), ask.asked.id.clone()));
        self.deadlines.remove(&(ask.look_at, serial));
        Some(ask)
    }

    /// A request that wants to be looked at, at `now` (monotonic ms).
    pub fn due(&self, now: u64) -> Option<u64> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, serial)| *serial)
    }

    /// What a request needs now; `lost` says since when there is no way to a broker.
    pub fn look(&mut self, serial: u64, now: u64, lost: impl Fn(&BrokerName) -> Option<u64>) -> Option<Due> {
        let ask = self.open.get_mut(&serial)?;
        let due = ask.needs(now, &lost);
        self.deadlines.remove(&(ask.look_at, serial));
        // What is due is done before the next look, which may be at once.
        ask.look_at = if due.is_some() { now } else { ask.next_look(now, &lost) };
        self.deadlines.insert((ask.look_at, serial));
        due
    }

    /// The ways have changed: every request is looked at again.
    pub fn look_at_all(&mut self, now: u64) {
        self.deadlines = self.open.keys().map(|serial| (now, *serial)).collect();
        self.open.values_mut().for_each(|ask| ask.look_at = now);
    }

    /// What is said to brokers now (COMMIT, CANCEL) is said again on the same schedule as the question was.
    pub fn begin_again(&mut self, serial: u64, now: u64) {
        let Some(ask) = self.open.get_mut(&serial) else { return };
        self.deadlines.remove(&(ask.look_at, serial));
        (ask.begun, ask.tries) = (now, 0);
        ask.look_at = ask.next_look(now, |_| None);
        self.deadlines.insert((ask.look_at, serial));
    }

    /// The next deadline, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Ask {
    /// Whether a report of this number of a broker's is the next one; what was heard before, or comes too early, is not taken.
    pub fn hears(&mut self, broker: &BrokerName, instance: u64, number: u64) -> Hears {
        let is_decided = self.is_guarded() && self.held.is_none();
        let Some(part) = self.parts.get_mut(broker) else { return Hears::Nothing };
        if is_decided && part.given_up {
            // It was not counted when the guard was decided: it must not take part any more.
            return Hears::Nothing;
        }
        if part.heard == 0 {
            part.instance = instance;
        }
        if part.instance != instance {
            return Hears::Nothing;
        }
        if number != part.heard + 1 {
            return Hears::Again(part.heard);
        }
        part.heard = number;
        Hears::Next
    }

    /// A broker says how many targets it has, and names some of them: those that are new here.
    pub fn accept(
        &mut self,
        broker: &BrokerName,
        count: u64,
        nodes: impl Iterator<Item = (NodeId, u64)>,
    ) -> BTreeSet<NodeId> {
        let Some(part) = self.parts.get_mut(broker) else { return BTreeSet::new() };
        if part.given_up {
            // It is there after all.
            part.given_up = false;
            self.without.remove(broker.as_str());
        }
        part.count = Some(count);
        let (asks_nobody, mut new) = (self.asked.terms.dry_run, BTreeSet::new());
        let (mut named, mut waiting) = (0, 0);
        let mut moved: Vec<BrokerName> = Vec::new();
        for (id, number) in nodes {
            named += 1;
            match self.nodes.entry(id) {
                Entry::Vacant(entry) => {
                    entry.insert(Place { broker: broker.clone(), number, ended: asks_nobody, started: false });
                    waiting += u64::from(!asks_nobody);
                    new.insert(id);
                }
                // The node has moved while the request was on its way: the later session is the live one.
                Entry::Occupied(mut entry) => {
                    self.twice += 1;
                    let place = entry.get_mut();
                    if number > place.number && place.broker != *broker {
                        let old = std::mem::replace(&mut place.broker, broker.clone());
                        place.number = number;
                        if !place.ended {
                            moved.push(old);
                            waiting += 1;
                        }
                    }
                }
            }
        }
        if let Some(part) = self.parts.get_mut(broker) {
            part.named += named;
            part.waiting += waiting;
        }
        for old in moved {
            if let Some(part) = self.parts.get_mut(&old) {
                part.waiting = part.waiting.saturating_sub(1);
            }
        }
        new
    }

    /// What is sent to a broker that is asked again: the times are less by what has passed.
    pub fn prepare_again(&self, now: u64) -> Prepare {
        let mut prepare = (*self.asked.prepare).clone();
        let spent = now.saturating_sub(self.arrived);
        prepare.start_within = prepare.start_within.saturating_sub(spent);
        prepare.reply_within = prepare.reply_within.saturating_sub(spent);
        prepare
    }

    /// Whether a broker has said how many targets it has.
    pub fn has_counted(&self, broker: &BrokerName) -> bool {
        self.parts.get(broker).is_some_and(|part| part.count.is_some())
    }

    /// How many nodes have ended in which state so far.
    pub fn states(&self) -> &BTreeMap<State, u64> {
        &self.states
    }

    /// All targets that brokers have counted so far.
    pub fn count(&self) -> u64 {
        self.parts.values().filter_map(|part| part.count).sum::<u64>().saturating_sub(self.twice)
    }

    /// Whether brokers have not named all of their targets yet.
    pub fn is_naming(&self) -> bool {
        self.parts.values().any(|part| !part.given_up && part.count.is_none_or(|count| part.named < count))
    }

    /// A node has begun: false if it said so before, has ended, or is not at this broker.
    pub fn start(&mut self, broker: &BrokerName, node: NodeId) -> bool {
        let place = self.nodes.get_mut(&node).filter(|place| place.broker == *broker && !place.ended);
        place.is_some_and(|place| !std::mem::replace(&mut place.started, true))
    }

    /// A node ends: false if it is not at this broker, or has ended.
    pub fn end(&mut self, broker: &BrokerName, node: NodeId, state: State) -> bool {
        let Some(place) = self.nodes.get_mut(&node).filter(|place| place.broker == *broker && !place.ended) else {
            return false;
        };
        place.ended = true;
        *self.states.entry(state).or_default() += 1;
        if let Some(part) = self.parts.get_mut(broker) {
            part.waiting = part.waiting.saturating_sub(1);
        }
        true
    }

    /// The nodes of a broker that have not ended, in order.
    pub fn waiting_at(&self, broker: &BrokerName) -> Vec<NodeId> {
        let waits = self.nodes.iter().filter(|(_, place)| place.broker == *broker && !place.ended);
        let mut nodes: Vec<NodeId> = waits.map(|(id, _)| *id).collect();
        nodes.sort_unstable();
        nodes
    }

    /// Nodes that have not ended.
    pub fn waiting(&self) -> u64 {
        self.parts.values().map(|part| part.waiting).sum()
    }

    /// Nothing more is awaited of a broker. Whether all of its targets are in the account.
    pub fn give_up(&mut self, broker: &BrokerName) -> bool {
        let Some(part) = self.parts.get_mut(broker) else { return true };
        part.given_up = true;
        part.count == Some(part.named)
    }

    /// A broker is not, or not whole, in the account.
    pub fn miss(&mut self, missing: Missing) {
        self.without.insert(missing.broker.clone(), missing);
    }

    /// Brokers that are not in the account.
    pub fn missing(&self) -> impl Iterator<Item = &Missing> {
        self.without.values()
    }

    /// Brokers of which something is awaited.
    pub fn open_parts(&self) -> Vec<BrokerName> {
        self.parts.iter().filter(|(_, part)| !part.is_over()).map(|(broker, _)| broker.clone()).collect()
    }

    /// Brokers that have targets of which something is awaited.
    pub fn with_targets(&self) -> Vec<BrokerName> {
        let takes_part = |part: &Part| !part.is_over() && part.count.is_some_and(|count| count > 0);
        self.parts.iter().filter(|(_, part)| takes_part(part)).map(|(broker, _)| broker.clone()).collect()
    }

    fn is_of_other_life(&self, broker: &BrokerName, instance: u64) -> bool {
        self.parts.get(broker).is_some_and(|part| !part.is_over() && part.heard > 0 && part.instance != instance)
    }

    /// Every broker has named its targets, or is given up: a guard can be decided. Only then is it known whom two have named.
    pub fn is_counted(&self) -> bool {
        self.parts.values().all(|part| part.given_up || part.count.is_some_and(|count| part.named >= count))
    }

    fn is_over(&self) -> bool {
        self.held.is_none() && self.parts.values().all(Part::is_over)
    }

    fn needs(&mut self, now: u64, lost: impl Fn(&BrokerName) -> Option<u64>) -> Option<Due> {
        for (broker, part) in self.parts.iter().filter(|(_, part)| !part.is_over()) {
            let patience = if part.count.is_none() { LOST_SILENT } else { LOST_NODES };
            if lost(broker).is_some_and(|since| now >= since.max(self.begun).saturating_add(patience)) {
                return Some(Due::GivenUp(broker.clone(), "it can be reached no more"));
            }
            if part.count.is_none() && now >= self.begun + GIVE_UP {
                return Some(Due::GivenUp(broker.clone(), "it did not answer"));
            }
        }
        if now >= self.deadline {
            return Some(Due::Expired);
        }
        let at = AGAIN.get(self.tries)?;
        if now < self.begun + at {
            return None;
        }
        self.tries += 1;
        let again = if self.cancelled {
            self.open_parts()
        } else if self.held.is_none() && self.is_guarded() {
            self.with_targets()
        } else {
            self.parts
                .iter()
                .filter(|(_, part)| part.count.is_none() && !part.given_up)
                .map(|(b, _)| b.clone())
                .collect()
        };
        Some(Due::Again(again))
    }

    /// A guard was to be decided first.
    pub fn is_guarded(&self) -> bool {
        self.asked.prepare.hold
    }

    fn next_look(&self, now: u64, lost: impl Fn(&BrokerName) -> Option<u64>) -> u64 {
        let mut next = self.deadline;
        if let Some(at) = AGAIN.get(self.tries) {
            next = next.min(self.begun + at);
        }
        for (broker, part) in self.parts.iter().filter(|(_, part)| !part.is_over()) {
            if part.count.is_none() {
                next = next.min(self.begun + GIVE_UP);
            }
            if let Some(since) = lost(broker) {
                let patience = if part.count.is_none() { LOST_SILENT } else { LOST_NODES };
                next = next.min(since.max(self.begun).saturating_add(patience));
            }
        }
        next.max(now + 1)
    }
}

impl Part {
    fn is_over(&self) -> bool {
        self.given_up || (self.count == Some(self.named) && self.waiting == 0)
    }
}

/// Whether a report is the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// Take it.
    Next,
    /// It was heard before or comes too early: all up to this one were heard.
    Again(u64),
    /// Nothing is awaited of this broker.
    Nothing,
}

#[cfg(test)]
mod tests;

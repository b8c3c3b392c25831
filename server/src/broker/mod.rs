//! What happens next? One plain value makes every decision.
//!
//! Events go in through [`Broker::handle`], answers leave through outboxes, and [`Broker::next_deadline`] says when it wants to be
//! woken. In here there is no async, no socket, no file, no clock and no randomness of its own; a test keeps it so.

pub mod access;
mod account;
mod advice;
mod answers;
pub mod asks;
mod authority;
mod deliver;
pub mod editions;
pub mod errand;
pub mod event;
pub mod inquiries;
pub mod limits;
pub mod mesh;
pub mod moves;
pub mod nodes;
pub mod note;
pub mod outbox;
pub mod outcomes;
mod oversight;
pub mod patterns;
mod presence;
mod queries;
pub mod queues;
pub mod record;
mod recording;
mod relay;
pub mod requests;
mod send;
pub mod sessions;
pub mod subscriptions;
pub mod tally;
mod witness;

use access::{KeptBack, Policy, Right, User};
use asks::Asks;
use deliver::Fanout;
use editions::{Editions, Job};
use errand::{Change, Edition, Errand};
use event::{Event, Input, Now, SessionId, Ticket};
use inquiries::{Asker, Inquiries};
use limits::Usage;
use mesh::{Identity, Mesh};
use moves::Moves;
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::RequestKey;
use muster_protocol::message::{BrokerName, RequestId};
use muster_protocol::request::MeshAnswer;
use nodes::{Memory, Nodes};
use note::{Note, Weight};
use outbox::Item;
use outcomes::Outcomes;
use oversight::{Listing, Past};
use queues::Queues;
use record::Record;
use relay::Order;
use requests::{Key, Requests};
use rustc_hash::FxHashMap;
use sessions::Sessions;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use subscriptions::Subscriptions;
use tally::Tally;
use witness::Witness;

/// Where the broker gets unguessable bits from: 64 at a time.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// What a lane may spend in one turn: many small inputs, or one that is larger.
const TURN: usize = 32;

/// How much one event may cost before the broker lets others in; a delivery costs one.
const BUDGET: usize = 512;

/// The limits that the broker itself keeps.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The broker's name.
    pub name: BrokerName,
    /// Boot counter, kept on disk.
    pub instance: u64,
    /// Random, of this process: tells a restart from a second broker of the same name.
    pub incarnation: u64,
    /// When the process started, Unix ms.
    pub born: u64,
    /// Subscriptions of one session, reply queues included.
    pub subscriptions: usize,
    /// Requests of one session that are not accounted for.
    pub in_flight: usize,
    /// Sessions of one user; 0 is no limit.
    pub sessions_per_user: usize,
    /// How long and how many gone nodes are remembered.
    pub memory: Memory,
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Sessions opened.
    pub opened: u64,
    /// Sessions not opened although the credentials were right: a limit, a newer session, a policy that had changed.
    pub turned_away: u64,
    /// Requests accepted.
    pub requests: u64,
    /// Requests refused when they came.
    pub requests_refused: u64,
    /// Requests that were accepted and then stopped before anything was delivered: a guard, missing brokers, a cancel.
    pub requests_stopped: u64,
    /// Replies passed on.
    pub replies: u64,
    /// Replies from nodes that were not asked, second replies, replies to queues that are gone.
    pub stray_replies: u64,
    /// Requests, messages and subscriptions refused.
    pub refused: u64,
    /// Sessions closed because they did not read.
    pub slow_consumers: u64,
    /// Sessions closed because a newer one of the same node came.
    pub moved: u64,
}

/// The broker. Its fields are the table of contents.
#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    access: Arc<Policy>,
    editions: Editions,
    /// Who waits for what the edge looks up in files, by errand.
    fetches: HashMap<u64, Asker>,
    errands: Vec<Errand>,
    /// The routes that links were last looked at with, to tell them of the policy.
    policy_ways: u64,
    sessions: Sessions,
    subscriptions: Subscriptions,
    nodes: Nodes,
    mesh: Mesh,
    asks: Asks,
    requests: Requests,
    outcomes: Outcomes,
    inquiries: Inquiries,
    moves: Moves,
    queues: Queues,
    counters: Counters,
    tally: Tally,
    /// Since when the policy in force is, Unix ms.
    policy_since: u64,
    /// Ids are numbers of this broker's own, and callers that a neighbour names: another broker of the cluster, of whom little waits.
    lanes: FxHashMap<LaneId, Lane>,
    turns: VecDeque<LaneId>,
    /// When sessions end because their user or their certificate expires, monotonic ms.
    expiries: BTreeSet<(u64, SessionId)>,
    /// What users do and have done here, for the limits.
    usage: Usage,
    /// The last sessions that are over.
    past: Past,
    /// Reports of other brokers to acknowledge at the end of this event: all up to a number.
    acknowledge: BTreeMap<(BrokerName, RequestKey), u64>,
    /// What of the nodes was last told to the mesh, and when it may be told again, monotonic ms.
    summarised: u64,
    summary_due: u64,
    /// The routes that waiting requests were last looked at with.
    ways: u64,
    /// The ends of audit logs, this broker's and the others'.
    witness: Witness,
    notes: Vec<Note>,
    records: Vec<Record>,
    keeps_records: bool,
}

/// Whose work is done in order: a session's, or that of a user of another broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LaneId {
    Session(SessionId),
    Caller(BrokerName, Arc<str>),
}

/// What waits for its turn.
#[derive(Debug)]
enum Work {
    Input(Input),
    Order(Box<Order>),
    /// A list of sessions that goes on.
    List(Box<Listing>),
    /// A guarded request that may be delivered.
    Deliver(Key),
}

/// The work of one lane; lanes take turns.
#[derive(Debug, Default)]
struct Lane {
    fanout: Option<Fanout>,
    work: VecDeque<Work>,
    tickets: VecDeque<(usize, Ticket)>,
}

impl Broker {
    /// A broker with nobody connected.
    pub fn new(settings: Settings, edition: impl Into<Edition>) -> Broker {
        let edition = edition.into();
        let policy = edition.policy.clone();
        let identity = Identity { instance: settings.instance, incarnation: settings.incarnation, born: settings.born };
        let mut mesh = Mesh::new(settings.name.clone(), identity);
        mesh.set_list(policy.brokers().keys().cloned(), 0);
        // Said from the start: while nothing is known of this life, everything is sent here.
        mesh.set_interest(BTreeSet::new());
        let policy_since = settings.born;
        Broker {
            nodes: Nodes::new(settings.name.as_str(), settings.memory),
            editions: Editions::new(settings.name.clone(), edition),
            fetches: HashMap::new(),
            errands: Vec::new(),
            policy_ways: 0,
            mesh,
            settings,
            access: policy,
            asks: Asks::default(),
            outcomes: Outcomes::default(),
            inquiries: Inquiries::default(),
            moves: Moves::default(),
            acknowledge: BTreeMap::new(),
            summarised: u64::MAX,
            summary_due: 0,
            ways: 0,
            sessions: Sessions::default(),
            subscriptions: Subscriptions::default(),
            requests: Requests::default(),
            queues: Queues::default(),
            counters: Counters::default(),
            tally: Tally::default(),
            policy_since,
            lanes: FxHashMap::default(),
            turns: VecDeque::new(),
            expiries: BTreeSet::new(),
            usage: Usage::default(),
            witness: Witness::default(),
            past: Past::default(),
            notes: Vec::new(),
            records: Vec::new(),
            keeps_records: false,
        }
    }

    /// The one way in. Large work is left for later turns: see [`Broker::next_deadline`].
    pub fn handle(&mut self, event: Event, now: Now, random: Random<'_>) {
        match event {
            Event::Opened(opened) => self.open(*opened, now),
            Event::Inputs { session, inputs, ticket } => self.queue(session, inputs, ticket),
            Event::Closed { session, reason, refusal } => self.close(session, refusal, &reason, now),
            Event::LinkOpened(_) | Event::LinkFrames { .. } | Event::LinkAlive(_) | Event::LinkClosed { .. } => {
                self.link_event(event, now);
            }
            Event::HandEdit { text, policy, base } => {
                let job = Job::hand(Change::Hand(text, policy), base, self.mesh.me(), now.unix);
                // A hand edit always has a place.
                let _ = self.editions.submit(job);
            }
            Event::Done { errand, outcome } => self.errand_done(errand, *outcome, now),
            Event::Wake => {}
            Event::AuditHead(head) => self.tell_head(head, now),
            Event::Drain => self.drain(now),
        }
        self.expire(now);
        self.work(now, random);
        self.keep_mesh(now);
        self.keep_policy(now);
        self.sessions.wake();
    }

    /// When to call [`Broker::handle`] with `Wake`, monotonic ms: `now` while work is left.
    pub fn next_deadline(&self, now: Now) -> Option<u64> {
        if !self.turns.is_empty() {
            return Some(now.tick);
        }
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let summary = (self.summarised != self.nodes.changes()).then_some(self.summary_due);
        let deadlines = [
            self.requests.next_deadline(),
            self.nodes.next_deadline(),
            expiry,
            summary,
            self.mesh.next_deadline(),
            self.asks.next_deadline(),
            self.inquiries.next_deadline(),
            self.outcomes.next_deadline(),
            self.moves.next_deadline(),
            self.editions.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The log lines since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The policy in force.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.access
    }

    /// Since when it is, Unix ms.
    pub fn policy_since(&self) -> u64 {
        self.policy_since
    }

    /// The registry.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Requests of this broker's sessions under way.
    pub fn requests_under_way(&self) -> usize {
        self.asks.len()
    }

    /// Requests of which nodes of this broker owe an answer, whoever asked.
    pub fn requests_owed(&self) -> usize {
        self.requests.len()
    }

    /// Questions that wait for other brokers.
    pub fn inquiries_open(&self) -> usize {
        self.inquiries.len()
    }

    /// Sessions, and callers of other brokers, whose work waits for its turn.
    pub fn lanes_waiting(&self) -> usize {
        self.lanes.len()
    }

    /// The mesh for people and programs.
    pub fn mesh_answer(&self) -> MeshAnswer {
        self.mesh.answer(self.nodes.len() as u64)
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn queue(&mut self, session: SessionId, inputs: Vec<Input>, ticket: Ticket) {
        if self.sessions.get(session).is_none() || inputs.is_empty() {
            return;
        }
        let lane = self.lane(LaneId::Session(session));
        lane.tickets.push_back((inputs.len(), ticket));
        lane.work.extend(inputs.into_iter().map(Work::Input));
    }

    fn enqueue(&mut self, id: LaneId, work: Work) {
        self.lane(id).work.push_back(work);
    }

    /// A lane, which gets its turn if it is a new one.
    fn lane(&mut self, id: LaneId) -> &mut Lane {
        self.lanes.entry(id.clone()).or_insert_with(|| {
            self.turns.push_back(id);
            Lane::default()
        })
    }

    /// Lanes take turns, so much work or one slice of a fan-out each, until the budget is spent.
    fn work(&mut self, now: Now, random: Random<'_>) {
        let mut budget = BUDGET;
        while budget > 0 {
            let Some(id) = self.turns.pop_front() else { return };
            let (turn, mut spent) = (TURN.min(budget), 0);
            while spent < turn && self.lanes.get(&id).is_some_and(|lane| !lane.is_empty()) {
                spent += self.step(&id, now, random).max(1);
            }
            budget = budget.saturating_sub(spent);
            match self.lanes.get(&id).map(Lane::is_empty) {
                Some(true) => drop(self.lanes.remove(&id)),
                Some(false) => self.turns.push_back(id),
                None => {}
            }
        }
    }

    /// One slice, input or order of a lane: what it cost.
    fn step(&mut self, id: &LaneId, now: Now, random: Random<'_>) -> usize {
        let Some(lane) = self.lanes.get_mut(id) else { return 0 };
        let (cost, fanout) = if let Some(fanout) = lane.fanout.take() {
            self.deliver_slice(fanout, now)
        } else if let Some(work) = lane.work.pop_front() {
            match work {
                Work::Input(input) => {
                    lane.count_input();
                    self.input(id, input, now, random)
                }
                Work::Order(order) => self.order(*order, now),
                Work::List(listing) => (self.list_on(listing, now), None),
                Work::Deliver(key) => (1, self.release(key, now)),
            }
        } else {
            (0, None)
        };
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.fanout = fanout;
        }
        cost
    }

    /// One input of one session: what it cost, and the fan-out that it began.
    fn input(&mut self, lane: &LaneId, input: Input, now: Now, random: Random<'_>) -> (usize, Option<Fanout>) {
        let LaneId::Session(session) = *lane else { return (0, None) };
        match input {
            Input::Send(sent) => return self.send(session, sent, now),
            Input::Subscribe { to, id, receipt } => match self.subscribe(session, to, id, random) {
                Ok(()) => self.receipt(session, receipt, now),
                Err(refusal) => self.refuse(session, refusal, None, now),
            },
            Input::Unsubscribe { id, receipt } => match self.unsubscribe(session, &id) {
                Ok(()) => self.receipt(session, receipt, now),
                Err(refusal) => self.refuse(session, refusal, None, now),
            },
            Input::Disconnect { receipt } => {
                self.receipt(session, receipt, now);
                self.close(session, None, "clean", now);
            }
            Input::Refused { refusal, answer, receipt } => {
                let lives = answer.is_some();
                self.refuse(session, refusal, answer, now);
                if lives {
                    self.receipt(session, receipt, now);
                }
            }
        }
        (1, None)
    }

    fn receipt(&mut self, session: SessionId, receipt: Option<String>, now: Now) {
        if let Some(receipt) = receipt {
            self.push(session, Item::Receipt(receipt), now);
        }
    }

    fn push(&mut self, id: SessionId, item: Item, now: Now) {
        if self.sessions.push(id, item, now.tick).is_err() {
            self.close_slow(id, now);
        }
    }

    /// A refusal of what is on record by nothing else.
    fn refuse(&mut self, id: SessionId, refusal: Refusal, answer: Option<(Option<RequestId>, Destination)>, now: Now) {
        let request = answer.as_ref().and_then(|(request, _)| request.clone());
        self.record_refusal(id, None, request, &refusal);
        self.turn_down(id, refusal, answer, now);
    }

    /// A refusal: on the reply queue if the frame can be answered there, else an ERROR and the end.
    fn turn_down(
        &mut self,
        id: SessionId,
        refusal: Refusal,
        answer: Option<(Option<RequestId>, Destination)>,
        now: Now,
    ) {
        self.count_refusal(refusal.code);
        let user = self.sessions.get(id).map(|s| s.user.name.to_string()).unwrap_or_default();
        let note = Note::new(Weight::Info, "refused")
            .with("user", user)
            .with("code", refusal.code)
            .with("reason", &refusal.text);
        self.note(match &answer {
            Some((Some(request), _)) => note.with("request", request),
            _ => note,
        });
        let answered = answer.is_some_and(|(request, reply_to)| {
            self.answer_refused(id, request.as_ref(), &reply_to, &refusal, None, now)
        });
        if !answered {
            self.close(id, Some(refusal), "refused", now);
        }
    }

    fn expire(&mut self, now: Now) {
        while let Some(key) = self.requests.due(now.tick) {
            self.expire_request(key, now);
        }
        self.nodes.expire(now.tick);
        while let Some(&(at, id)) = self.expiries.first().filter(|(at, _)| *at <= now.tick) {
            self.expiries.remove(&(at, id));
            self.close(
                id,
                Some(Refusal::new(Code::Revoked, "the user, or the client certificate, has expired")),
                "revoked",
                now,
            );
        }
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Whether a user may write to a destination; the refusal says who and where.
    fn may_write(&self, user: &User, destination: &Destination) -> Result<(), Refusal> {
        let why = if !self.access.allows(user, Right::Write, destination) {
            "no entry of the policy grants it".to_owned()
        } else if let Some(kept @ KeptBack::Answer) = user.kept_back(destination) {
            kept.why(&user.name)
        } else {
            return Ok(());
        };
        Err(Refusal::new(Code::Denied, format!("{} may not write to {destination}: {why}", user.name)))
    }

    /// Whether a topic lies in a targeted collective.
    fn is_targeted(&self, destination: &Destination) -> bool {
        destination.segments().next().is_some_and(|first| self.access.is_targeted(first))
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.fanout.is_none() && self.work.is_empty()
    }

    /// An input is taken: its batch is dealt with when the last one is.
    fn count_input(&mut self) {
        if let Some((left, _)) = self.tickets.front_mut() {
            *left -= 1;
            if *left == 0 {
                self.tickets.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod simulation;

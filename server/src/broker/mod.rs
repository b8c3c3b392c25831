//! What happens next? One plain value makes every decision.
//!
//! Events go in through [`Broker::handle`], answers leave through outboxes, and [`Broker::next_deadline`] says when it wants to be
//! woken. In here there is no async, no socket, no file, no clock and no randomness of its own; a test keeps it so.

pub mod access;
mod answers;
pub mod event;
pub mod nodes;
pub mod note;
pub mod outbox;
mod queries;
pub mod queues;
pub mod requests;
mod send;
pub mod sessions;
pub mod subscriptions;

use access::{Policy, Right};
use answers::Announced;
use event::{Event, Input, Now, Opened, SessionId, Subscribed, Ticket};
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::RequestId;
use nodes::{Memory, Nodes};
use note::{Note, Weight};
use outbox::Item;
use queues::Queues;
use requests::Requests;
use send::Fanout;
use sessions::{Session, Sessions, Subscription};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use subscriptions::Subscriptions;

/// Where the broker gets unguessable bits from: 64 at a time.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// How much one event may cost before the broker lets others in; a delivery costs one.
const BUDGET: usize = 512;

/// The limits that the broker itself keeps.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The broker's name.
    pub name: String,
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
    /// Requests accepted.
    pub requests: u64,
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
    sessions: Sessions,
    subscriptions: Subscriptions,
    nodes: Nodes,
    requests: Requests,
    queues: Queues,
    counters: Counters,
    lanes: HashMap<SessionId, Lane>,
    turns: VecDeque<SessionId>,
    /// When sessions end because their user expires, monotonic ms.
    expiries: BTreeSet<(u64, SessionId)>,
    /// Sessions of each user.
    per_user: HashMap<String, usize>,
    notes: Vec<Note>,
}

/// The work of one session, done in order; sessions take turns.
#[derive(Debug, Default)]
struct Lane {
    fanout: Option<Fanout>,
    inputs: VecDeque<Input>,
    tickets: VecDeque<(usize, Ticket)>,
}

impl Broker {
    /// A broker with nobody connected.
    pub fn new(settings: Settings, policy: Arc<Policy>) -> Broker {
        Broker {
            nodes: Nodes::new(&settings.name, settings.memory),
            settings,
            access: policy,
            sessions: Sessions::default(),
            subscriptions: Subscriptions::default(),
            requests: Requests::default(),
            queues: Queues::default(),
            counters: Counters::default(),
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            expiries: BTreeSet::new(),
            per_user: HashMap::new(),
            notes: Vec::new(),
        }
    }

    /// The one way in. Large work is left for later turns: see [`Broker::next_deadline`].
    pub fn handle(&mut self, event: Event, now: Now, random: Random<'_>) {
        match event {
            Event::Opened(opened) => self.open(*opened, now),
            Event::Inputs { session, inputs, ticket } => self.queue(session, inputs, ticket),
            Event::Closed { session, reason, refusal } => self.close(session, refusal, &reason, now),
            Event::Policy(policy) => self.apply(policy, now),
            Event::Wake => {}
            Event::Drain => self.drain(),
        }
        self.expire(now);
        self.work(now, random);
    }

    /// When to call [`Broker::handle`] with `Wake`, monotonic ms: `now` while work is left.
    pub fn next_deadline(&self, now: Now) -> Option<u64> {
        if !self.turns.is_empty() {
            return Some(now.tick);
        }
        let expiry = self.expiries.first().map(|(at, _)| *at);
        [self.requests.next_deadline(), self.nodes.next_deadline(), expiry].into_iter().flatten().min()
    }

    /// The log lines since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The policy in force.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.access
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

    /// Requests under way.
    pub fn requests_under_way(&self) -> usize {
        self.requests.len()
    }

    fn open(&mut self, opened: Opened, now: Now) {
        let Opened { session, user: name, password_hash, node, peer, outbox } = opened;
        // The password was checked against some recent policy; only the one in force decides.
        let user = self.access.user(&name).filter(|user| {
            user.password.as_str() == password_hash && user.barred(peer.ip(), now.unix / 1000).is_none()
        });
        let Some(user) = user.cloned() else {
            let refusal = Refusal::new(Code::AuthFailed, "the policy changed during the login; log in again");
            outbox.close(Some(refusal), true);
            return;
        };
        let most = self.settings.sessions_per_user;
        if most > 0 && self.per_user.get(&user.name).is_some_and(|sessions| *sessions >= most) {
            let text = format!("{} has {most} sessions, which is the limit", user.name);
            outbox.close(Some(Refusal::new(Code::Limit, text)), true);
            return;
        }
        let mut row = None;
        if let Some(hello) = node {
            if let Some(current) = self.nodes.row(&hello.id).and_then(|row| self.nodes.get(row)) {
                if current.number >= hello.number {
                    let text = format!(
                        "node {} is connected with session number {}, which is not lower",
                        hello.id, current.number
                    );
                    outbox.close(Some(Refusal::new(Code::Moved, text)), true);
                    self.note(
                        Note::new(Weight::Warning, "older session of a node refused")
                            .with("node", hello.id)
                            .with("peer", peer),
                    );
                    return;
                }
                let (older, text) =
                    (current.session, format!("node {} has connected again from {}", hello.id, peer.ip()));
                self.counters.moved += 1;
                self.close(older, Some(Refusal::new(Code::Moved, text)), "moved", now);
            }
            row = Some(self.nodes.connect(hello, session, &user, now));
        }
        let collective = row.is_some().then(|| user.collective.clone());
        // A fresh outbox has room for its first item.
        let _ = outbox.push(Item::Connected { user: user.name.clone(), collective }, now.tick);
        self.note(
            Note::new(Weight::Info, "session opened")
                .with("session", session.0)
                .with("user", &user.name)
                .with("peer", peer),
        );
        self.note_expiry(session, &user, now);
        *self.per_user.entry(user.name.clone()).or_default() += 1;
        let mut opened = Session::new(user, peer, outbox);
        opened.row = row;
        self.sessions.insert(session, opened);
    }

    fn queue(&mut self, session: SessionId, inputs: Vec<Input>, ticket: Ticket) {
        if self.sessions.get(session).is_none() || inputs.is_empty() {
            return;
        }
        let lane = self.lanes.entry(session).or_insert_with(|| {
            self.turns.push_back(session);
            Lane::default()
        });
        lane.tickets.push_back((inputs.len(), ticket));
        lane.inputs.extend(inputs);
    }

    /// Sessions take turns, one input or one slice of a fan-out each, until the budget is spent.
    fn work(&mut self, now: Now, random: Random<'_>) {
        let mut budget = BUDGET;
        while budget > 0 {
            let Some(session) = self.turns.pop_front() else { return };
            let Some(lane) = self.lanes.get_mut(&session) else { continue };
            let cost = if let Some(fanout) = lane.fanout.take() {
                let (cost, rest) = self.deliver_slice(fanout, now);
                if let Some(lane) = self.lanes.get_mut(&session) {
                    lane.fanout = rest;
                }
                cost
            } else if let Some(input) = lane.inputs.pop_front() {
                if let Some((left, _)) = lane.tickets.front_mut() {
                    *left -= 1;
                    if *left == 0 {
                        lane.tickets.pop_front();
                    }
                }
                let (cost, fanout) = self.input(session, input, now, random);
                if let (Some(lane), Some(fanout)) = (self.lanes.get_mut(&session), fanout) {
                    lane.fanout = Some(fanout);
                }
                cost
            } else {
                0
            };
            budget = budget.saturating_sub(cost.max(1));
            match self.lanes.get(&session) {
                Some(lane) if lane.fanout.is_none() && lane.inputs.is_empty() => {
                    self.lanes.remove(&session);
                }
                Some(_) => self.turns.push_back(session),
                None => {}
            }
        }
    }

    /// One input of one session: what it cost, and the fan-out that it began.
    fn input(&mut self, session: SessionId, input: Input, now: Now, random: Random<'_>) -> (usize, Option<Fanout>) {
        match input {
            Input::Send(sent) => return self.send(session, *sent, now),
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

    fn subscribe(
        &mut self,
        id: SessionId,
        to: Subscribed,
        subscription: Arc<str>,
        random: Random<'_>,
    ) -> Result<(), Refusal> {
        let most = self.settings.subscriptions;
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        if session.subscriptions.len() + session.queues.len() >= most {
            return Err(Refusal::new(Code::Limit, format!("a session may have at most {most} subscriptions")));
        }
        let taken = session.subscriptions.iter().any(|s| s.id == subscription)
            || session.queues.values().any(|q| self.queues.get(q).is_some_and(|q| q.subscription == subscription));
        if taken {
            return Err(Refusal::new(Code::BadHeader, "id: this connection already has a subscription with that id"));
        }
        match to {
            Subscribed::ReplyQueue(name) => {
                if session.queues.contains_key(&name) {
                    return Err(Refusal::new(
                        Code::BadDestination,
                        format!("{name}: this connection already has that reply queue"),
                    ));
                }
                let bits = (u128::from(random()) << 64) | u128::from(random());
                let queue = self.queues.create(&self.settings.name, bits, id, subscription);
                let queue = queue
                    .ok_or_else(|| Refusal::new(Code::Internal, "the broker's name does not make a queue name"))?;
                session.queues.insert(name, queue);
            }
            Subscribed::Topic(pattern) => {
                if !self.access.covers(&session.user, &pattern) {
                    let user = &session.user.name;
                    let text = format!(
                        "{user} may not read {}: the policy does not grant read on all that it matches",
                        pattern
                    );
                    return Err(Refusal::new(Code::Denied, text));
                }
                self.subscriptions.add(id, &pattern);
                session.subscriptions.push(Subscription { id: subscription, pattern });
            }
        }
        Ok(())
    }

    fn unsubscribe(&mut self, id: SessionId, subscription: &str) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        if let Some(at) = session.subscriptions.iter().position(|s| &*s.id == subscription) {
            let Subscription { pattern, .. } = session.subscriptions.remove(at);
            if !session.subscriptions.iter().any(|s| s.pattern == pattern) {
                self.subscriptions.remove(id, &pattern);
            }
            return Ok(());
        }
        let queue =
            session.queues.iter().find(|(_, q)| self.queues.get(q).is_some_and(|q| &*q.subscription == subscription));
        let Some((name, queue)) = queue.map(|(name, queue)| (name.clone(), queue.clone())) else {
            return Err(Refusal::new(Code::BadHeader, "id: this connection has no subscription with that id"));
        };
        session.queues.remove(&name);
        self.queues.remove(&queue);
        Ok(())
    }

    fn receipt(&mut self, session: SessionId, receipt: Option<String>, now: Now) {
        if let Some(receipt) = receipt {
            self.push(session, Item::Receipt(receipt), now);
        }
    }

    fn push(&mut self, id: SessionId, item: Item, now: Now) {
        if self.sessions.get(id).is_some_and(|session| session.outbox().push(item, now.tick).is_err()) {
            self.close_slow(id, now);
        }
    }

    fn close_slow(&mut self, id: SessionId, now: Now) {
        self.counters.slow_consumers += 1;
        let waiting = self.sessions.get(id).map_or(0, |s| s.outbox().backlog());
        let text = format!("{waiting} bytes wait and the outbox is full");
        self.close(id, Some(Refusal::new(Code::SlowConsumer, text)), "slow consumer", now);
    }

    /// A refusal: on the reply queue if the frame can be answered there, else an ERROR and the end.
    fn refuse(&mut self, id: SessionId, refusal: Refusal, answer: Option<(Option<RequestId>, Destination)>, now: Now) {
        self.counters.refused += 1;
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

    /// Ends a session from this side; what it already has in its outbox is still sent, unless it does not read.
    fn close(&mut self, id: SessionId, refusal: Option<Refusal>, reason: &str, now: Now) {
        // Who may no longer read does not get what waits, and who does not read never will.
        let at_once = |r: &Refusal| matches!(r.code, Code::SlowConsumer | Code::Revoked | Code::Moved);
        let at_once = refusal.as_ref().is_some_and(at_once);
        if let Some(session) = self.sessions.get(id) {
            session.outbox().close(refusal, at_once);
        }
        self.forget(id, reason, now);
    }

    /// Takes a session out of every table; what its node owed is lost.
    fn forget(&mut self, id: SessionId, reason: &str, now: Now) {
        let Some(session) = self.sessions.remove(id) else { return };
        session.outbox().close(None, false);
        self.lanes.remove(&id);
        if let Some(sessions) = self.per_user.get_mut(&session.user.name) {
            *sessions -= 1;
            if *sessions == 0 {
                self.per_user.remove(&session.user.name);
            }
        }
        for subscription in &session.subscriptions {
            self.subscriptions.remove(id, &subscription.pattern);
        }
        for key in self.requests.asked_by(id) {
            self.requests.drop(key);
        }
        for queue in session.queues.values() {
            self.queues.remove(queue);
        }
        let user = session.user.name.to_string();
        self.note(
            Note::new(Weight::Info, "session closed").with("session", id.0).with("user", user).with("reason", reason),
        );
        if let Some(row) = session.row {
            self.lose(row, reason, now);
            let policy = self.access.clone();
            if let Some((node, Some(whole))) = self.nodes.disconnect(row, reason, &policy, now) {
                self.announce(
                    "gone",
                    &Announced { id: node.id, collective: node.collective, whole },
                    Some(reason),
                    now,
                );
            }
        }
    }

    /// A new policy: what it no longer allows ends now.
    fn apply(&mut self, policy: Arc<Policy>, now: Now) {
        let old = std::mem::replace(&mut self.access, policy);
        let mut over = Vec::new();
        let ids: Vec<SessionId> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let same = |new: &&Arc<access::User>| {
                let old = &session.user;
                new.password == old.password
                    && new.kind == old.kind
                    && new.collective == old.collective
                    && new.barred(session.peer.ip(), now.unix / 1000).is_none()
            };
            match self.access.user(&session.user.name).filter(same) {
                None => {
                    // Group sets of two policies do not mix: until it is closed, the session has none.
                    session.user = Arc::new(session.user.without_groups());
                    let text = "the user was removed, disabled, expired or changed; log in again if it still exists";
                    over.push((id, text.to_owned()));
                }
                Some(user) => {
                    session.user = user.clone();
                    let lost = session.subscriptions.iter().find(|s| !self.access.covers(user, &s.pattern));
                    if let Some(lost) = lost {
                        over.push((id, format!("read on {} is no longer granted", lost.pattern)));
                    }
                }
            }
        }
        self.expiries.clear();
        let users: Vec<_> = self.sessions.iter().map(|(id, session)| (id, session.user.clone())).collect();
        for (id, user) in users {
            self.note_expiry(id, &user, now);
        }
        for (id, text) in over {
            self.close(id, Some(Refusal::new(Code::Revoked, text)), "revoked", now);
        }
        let policy = self.access.clone();
        self.nodes.apply(&old, &policy);
        self.assert_again(now);
    }

    fn drain(&mut self) {
        for (_, session) in self.sessions.iter() {
            session
                .outbox()
                .close(Some(Refusal::new(Code::Draining, "the broker is stopping; connect to another one")), false);
        }
    }

    fn expire(&mut self, now: Now) {
        while let Some(key) = self.requests.due(now.tick) {
            self.expire_request(key, now);
        }
        self.nodes.expire(now.tick);
        while let Some(&(at, id)) = self.expiries.first().filter(|(at, _)| *at <= now.tick) {
            self.expiries.remove(&(at, id));
            self.close(id, Some(Refusal::new(Code::Revoked, "the user has expired")), "revoked", now);
        }
    }

    fn note_expiry(&mut self, session: SessionId, user: &access::User, now: Now) {
        if let Some(expires) = user.expires {
            let left = expires.saturating_mul(1000).saturating_sub(now.unix);
            self.expiries.insert((now.tick.saturating_add(left), session));
        }
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Whether the user of a session may write to a destination; the refusal says who and where.
    fn may_write(&self, session: &Session, destination: &Destination) -> Result<(), Refusal> {
        if self.access.allows(&session.user, Right::Write, destination) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Denied,
            format!("{} may not write to {destination}: no entry of the policy grants it", session.user.name),
        ))
    }

    /// Whether a topic lies in a targeted collective.
    fn is_targeted(&self, destination: &Destination) -> bool {
        destination.segments().next().is_some_and(|first| self.access.is_targeted(first))
    }
}

#[cfg(test)]
mod tests;

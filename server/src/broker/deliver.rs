//! Who gets a message here? What this broker's policy permits its caller, the targets as they are now, the fan-out in slices.
//!
//! Messages and requests of this broker's sessions and those that come over links take the same way from here on.

use super::Broker;
use super::access::{Right, User};
use super::event::{Now, Purpose, Sent, SessionId, Target, Terms};
use super::nodes::Generation;
use super::outbox::{Heads, Message};
use super::record::{Body, Record, Relayed, Rule, Verdict};
use super::requests::{Asked, Begun, Held, Key};
use super::sessions::{Delivery, Permit};
use bytes::Bytes;
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::filter::Filter;
use muster_protocol::link::{Happened, RequestKey, Target as Named};
use muster_protocol::message::{BrokerName, NodeId, TARGET_ALL, header};
use muster_protocol::request::State;
use roaring::RoaringBitmap;
use std::sync::Arc;

/// Deliveries in one turn.
const SLICE: usize = 256;

/// How long frozen targets wait for COMMIT, ms.
const HOLD: u64 = 15_000;

/// What a message that is no request gets beside its own headers, and the bytes of that.
const STAMPS: usize = 4;
const STAMPS_BYTES: usize = 128;

/// A fan-out that is under way, one slice a turn.
#[derive(Debug)]
pub(super) struct Fanout {
    destination: Destination,
    targets: Targets,
}

#[derive(Debug)]
enum Targets {
    /// Sessions that subscribe, for a message without target.
    Subscribers { message: Arc<Message>, sessions: std::vec::IntoIter<SessionId> },
    /// Rows as they were frozen, for a message with a target.
    Rows {
        rows: std::vec::IntoIter<(u32, NodeId)>,
        frozen: Generation,
        request: Option<Key>,
        /// All rows, if they are to be named to the ingress.
        naming: Option<u64>,
        /// What they get; nothing for a dry run, or before COMMIT.
        message: Option<Arc<Message>>,
    },
}

/// Who gets a message with a target, and the filter that says so.
struct Resolved {
    rows: RoaringBitmap,
    filter: Option<Filter>,
}

/// A request as it comes to a broker that has nodes.
#[derive(Debug)]
pub(super) struct Preparing {
    /// The ingress and its number for it.
    pub(super) key: RequestKey,
    /// The caller, as this broker's policy has it.
    pub(super) user: Arc<User>,
    /// What; its reply queue is there by the ingress's name.
    pub(super) sent: Box<Sent>,
    /// Its terms.
    pub(super) terms: Terms,
    /// Deliver when COMMIT comes, not before.
    pub(super) hold: bool,
}

impl Broker {
    /// Whether this broker's policy lets a user send this: the destination, the target, what is hidden.
    pub(super) fn permit(&self, user: &User, sent: &Sent) -> Result<(), Refusal> {
        self.may_write(user, &sent.destination)?;
        let targeted = self.is_targeted(&sent.destination);
        match &sent.target {
            Target::Filter(filter) => self.refuse_hidden(user, filter),
            Target::Absent if targeted && sent.destination.as_action().is_some() => Err(Refusal::new(
                Code::TargetRequired,
                "a message to an action topic needs muster-target: a filter, or `all`",
            )),
            Target::Absent if targeted && user.scope.is_some() => Err(Refusal::new(
                Code::TargetRequired,
                format!("{} has a scope: its messages need muster-target", user.name),
            )),
            Target::All if targeted && !user.may_all => Err(Refusal::new(
                Code::AllNotAllowed,
                format!("{} may not address all nodes: no group of the user has the right to `all`", user.name),
            )),
            Target::Absent | Target::All => Ok(()),
        }
    }

    /// Target and scope of a SEND.
    pub(super) fn filter_of(user: &User, sent: &Sent) -> Option<Filter> {
        let target = if let Target::Filter(filter) = &sent.target { Some(filter) } else { None };
        match (target, &user.scope) {
            (Some(target), Some(scope)) => Some(target.and(scope)),
            (Some(only), None) | (None, Some(only)) => Some(only.clone()),
            (None, None) => None,
        }
    }

    /// Whether a SEND is for nodes that match, not for all that subscribe. Untargeted collectives, such as MCollective's,
    /// address everybody by design.
    pub(super) fn is_for_nodes(sent: &Sent) -> bool {
        !matches!(sent.target, Target::Absent) || matches!(sent.purpose, Purpose::Request(_))
    }

    /// A message that is no request: its fan-out here. The caller's right is checked.
    pub(super) fn carry(&self, origin: &BrokerName, user: &User, sent: Box<Sent>, now: Now) -> Fanout {
        let destination = sent.destination.clone();
        if Broker::is_for_nodes(&sent) {
            let Resolved { rows, filter } = self.resolve(user, &sent);
            let message = self.message(origin, user, sent, filter.as_ref(), None, now);
            let frozen = self.nodes.generation();
            let rows = self.targets(user, &rows, frozen);
            fanout(destination, rows, frozen, None, None, Some(message))
        } else {
            let message = self.message(origin, user, sent, None, None, now);
            let sessions = self.subscriptions.of(&destination).into_iter();
            Fanout { destination, targets: Targets::Subscribers { message, sessions } }
        }
    }

    /// A request: freezes its targets here and begins to name them and to deliver. The caller's right is checked.
    pub(super) fn prepare(&mut self, preparing: Preparing, now: Now) -> Result<Option<Fanout>, Refusal> {
        let Preparing { key: name, user, sent, terms, hold } = preparing;
        let (Some(id), Some(queue)) = (sent.request.clone(), sent.reply_to.clone()) else { return Ok(None) };
        let Resolved { rows, filter } = self.resolve(&user, &sent);
        let (count, frozen) = (rows.len(), self.nodes.generation());
        let destination = sent.destination.clone();
        let asked = Asked {
            key: name,
            user: user.name.as_str().into(),
            id: id.clone(),
            queue,
            destination: destination.clone(),
        };
        let origin = asked.key.broker.clone();
        let on_record = (self.keeps_records && origin != *self.mesh.me()).then(|| {
            Record::LinkRequest(Box::new(Relayed {
                user: asked.user.clone(),
                ingress: origin.clone(),
                verdict: Verdict::ALLOWED,
                destination: destination.to_string(),
                request: Some(id.clone()),
                target: sent.target.clone(),
                rule: Some(Rule { policy: self.access.clone(), user: user.clone(), destination: destination.clone() }),
                targets: Some(count),
                dry_run: Some(terms.dry_run),
                body: Some(Body::from(&sent.body)),
            }))
        });
        // Its targets are named, and end at once.
        let is_cancelled = self.requests.take_early(&asked.key);
        let hold = hold || is_cancelled;
        // A dry run asks nobody: its account is empty.
        let targets = if terms.dry_run { RoaringBitmap::new() } else { rows.clone() };
        let hold = hold && !terms.dry_run;
        let (mut message, mut held) = (None, None);
        if hold {
            held = Some(Held { sent, rows: rows.clone(), frozen, filter, since: now.tick });
        } else if !terms.dry_run {
            message = Some(self.message(&origin, &user, sent, filter.as_ref(), Some(&terms), now));
        }
        let patience = if hold { HOLD } else { terms.reply_within };
        let key = match self.requests.begin(asked, targets, held, now.tick.saturating_add(patience)) {
            Begun::As(key) => key,
            Begun::Before => return Ok(None),
            Begun::Taken => {
                let text = format!("{id}: a request of {} with this id is under way", user.name);
                return Err(Refusal::new(Code::DuplicateRequest, text));
            }
        };
        self.record_if(|_| on_record);
        if is_cancelled {
            self.cancel_here(key, now);
        }
        if count == 0 {
            self.report(key, Happened::Accepted { count, nodes: Vec::new() }, Bytes::new(), now);
        }
        let rows = self.targets(&user, &rows, frozen);
        Ok(Some(fanout(destination, rows, frozen, Some(key), Some(count), message)))
    }

    /// COMMIT: what was frozen is delivered, to those that are still connected; the rest is lost already.
    pub(super) fn release(&mut self, key: Key, now: Now) -> Option<Fanout> {
        let pending = self.requests.get(key)?;
        let (name, user) = (pending.asked.key.clone(), pending.asked.user.clone());
        let since = pending.held.as_ref()?.since;
        let Purpose::Request(mut terms) = pending.held.as_ref()?.sent.purpose else { return None };
        // The wait for COMMIT is part of the caller's times.
        let waited = now.tick.saturating_sub(since);
        terms.start_within = terms.start_within.saturating_sub(waited);
        terms.reply_within = terms.reply_within.saturating_sub(waited);
        let mut held = self.requests.release(key, now.tick.saturating_add(terms.reply_within))?;
        held.sent.expires_within = held.sent.expires_within.map(|within| within.saturating_sub(waited));
        let user = self.access.user(&user).filter(|user| user.is_usable(now.unix / 1000)).cloned();
        let Some(user) = user.filter(|user| self.permit(user, &held.sent).is_ok()) else {
            // The policy changed in between: nobody is asked.
            let text = "the policy does not allow it any more; it was not delivered";
            self.settle_all(key, State::Lost, text, now);
            return None;
        };
        self.requests.set_busy(key, true);
        let destination = held.sent.destination.clone();
        let message = self.message(&name.broker, &user, held.sent, held.filter.as_ref(), Some(&terms), now);
        let rows = self.targets(&user, &held.rows, held.frozen);
        Some(fanout(destination, rows, held.frozen, Some(key), None, Some(message)))
    }

    /// The nodes here that a SEND is for: target, scope, `muster-nodes`, the collective, and for a request the module.
    fn resolve(&self, user: &User, sent: &Sent) -> Resolved {
        let target = if let Target::Filter(filter) = &sent.target { Some(filter) } else { None };
        let is_request = matches!(sent.purpose, Purpose::Request(_));
        let mut rows = self.reached(user, target, &sent.destination, is_request);
        if let Some(nodes) = &sent.nodes {
            rows &= nodes.iter().filter_map(|id| self.nodes.row(id)).collect::<RoaringBitmap>();
        }
        Resolved { rows, filter: Broker::filter_of(user, sent) }
    }

    /// The nodes here that a user reaches at a topic: target, scope, the collective, and for a request the module.
    pub(super) fn reached(
        &self,
        user: &User,
        target: Option<&Filter>,
        destination: &Destination,
        is_request: bool,
    ) -> RoaringBitmap {
        let mut rows = self.nodes.matching(target, user.scope.as_ref());
        if let (Some((_, module, _)), true) = (destination.as_action(), is_request) {
            rows &= self.nodes.with_module(module);
        }
        let collective = destination.segments().next().unwrap_or_default();
        // With one collective all nodes are in it.
        if !matches!(self.access.collectives(), [only] if only.name == collective) {
            let inside = |row: &u32| self.nodes.get(*row).is_some_and(|n| *n.collective == *collective);
            rows = rows.into_iter().filter(inside).collect();
        }
        rows
    }

    /// Rows as they were frozen, in the order in which their nodes are named to a caller.
    fn targets(&self, caller: &User, rows: &RoaringBitmap, frozen: Generation) -> Vec<(u32, NodeId)> {
        // Who was born since then is another node.
        let named = |row| self.nodes.get(row).filter(|node| node.born <= frozen).map(|node| (row, node.id));
        let mut named: Vec<(u32, NodeId)> = rows.iter().filter_map(named).collect();
        if caller.scope.is_some() {
            // Rows are used again in an order that nodes outside of the scope have a part in.
            named.sort_unstable_by_key(|(_, id)| *id);
        }
        named
    }

    /// One slice of a fan-out: what it cost, and what is left.
    pub(super) fn deliver_slice(&mut self, mut fanout: Fanout, now: Now) -> (usize, Option<Fanout>) {
        // Asked for each slice: a policy that came in between holds for the rest.
        let readers = self.access.granted(Right::Read, &fanout.destination);
        let (cost, is_over) = match &mut fanout.targets {
            Targets::Subscribers { message, sessions } => {
                let permit = Permit::Topic { destination: &fanout.destination, readers: &readers };
                let before = sessions.len();
                for to in sessions.by_ref().take(SLICE) {
                    self.hand(to, message, permit, now);
                }
                (before - sessions.len(), sessions.len() == 0)
            }
            Targets::Rows { rows, frozen, request, naming, message } => {
                let slice: Vec<(u32, NodeId)> = rows.by_ref().take(SLICE).collect();
                let is_over = rows.len() == 0;
                if let (Some(key), Some(count), false) = (*request, *naming, slice.is_empty()) {
                    self.name(key, count, &slice, *frozen, now);
                }
                if let Some(message) = message {
                    let permit = Permit::Topic { destination: &fanout.destination, readers: &readers };
                    for (row, _) in &slice {
                        self.deliver_row(*row, message, permit, *frozen, *request, now);
                    }
                }
                if let Some(key) = request.filter(|_| is_over) {
                    self.requests.set_busy(key, false);
                    self.close_request(key);
                }
                (slice.len(), is_over)
            }
        };
        (cost, (!is_over).then_some(fanout))
    }

    /// Names targets to the ingress.
    fn name(&mut self, key: Key, count: u64, slice: &[(u32, NodeId)], frozen: Generation, now: Now) {
        // A caller that was removed in between sees nothing of the nodes, but its account stays whole.
        let caller = self.requests.get(key).and_then(|p| self.access.user(&p.asked.user)).cloned();
        let named = |(row, id): &(u32, NodeId)| {
            // A node that has left since keeps its place in the account; another that took its row is not shown for it.
            let node = self.nodes.get(*row).filter(|node| node.born <= frozen && node.id == *id);
            let display = node.and(caller.as_ref()).map(|caller| self.display(caller, *row)).unwrap_or_default();
            Named { id: *id, number: node.map_or(0, |node| node.number), display }
        };
        let nodes = slice.iter().map(named).collect();
        self.report(key, Happened::Accepted { count, nodes }, Bytes::new(), now);
        self.end_again(key, slice, frozen, now);
    }

    /// What ended before it was named was told of nobody that the ingress knew: it is told again.
    fn end_again(&mut self, key: Key, slice: &[(u32, NodeId)], frozen: Generation, now: Now) {
        let Some(pending) = self.requests.get(key).filter(|pending| !pending.asks_nobody) else { return };
        let ended = slice.iter().copied().filter(|(row, _)| !pending.waiting.contains(*row));
        let is_here = |(row, id): &(u32, NodeId)| self.nodes.get(*row).is_some_and(|n| n.born <= frozen && n.id == *id);
        let (late, lost): (Vec<_>, Vec<_>) = ended.partition(is_here);
        let over = if pending.cancelled { State::Cancelled } else { State::Expired };
        let ends = [(State::Lost, lost, "the node left before it was asked"), (over, late, "over before it was asked")];
        for (state, nodes, reason) in ends {
            if !nodes.is_empty() {
                let nodes = nodes.into_iter().map(|(_, id)| id).collect();
                self.report(key, Happened::Ended { state, nodes, reason: reason.to_owned() }, Bytes::new(), now);
            }
        }
    }

    fn deliver_row(
        &mut self,
        row: u32,
        message: &Arc<Message>,
        permit: Permit<'_>,
        frozen: Generation,
        request: Option<Key>,
        now: Now,
    ) {
        // A row that ended while slices before it went out is already lost; one that was born since is another node.
        let Some(to) = self.nodes.get(row).filter(|node| node.born <= frozen).map(|node| node.session) else { return };
        if request.is_some_and(|key| self.requests.get(key).is_none_or(|p| !p.waiting.contains(row))) {
            return;
        }
        if let Some(key) = request.filter(|key| self.requests.get(*key).is_some_and(|pending| pending.cancelled)) {
            return self.settle(key, row, State::Cancelled, "cancelled before it was delivered", now);
        }
        let delivery = self.hand(to, message, permit, now);
        if let (Delivery::NotWanted, Some(key)) = (delivery, request) {
            self.settle(key, row, State::Lost, "the node does not subscribe to this action", now);
        }
    }

    /// Delivers to one session; a session that does not read is closed, one that gets a message may answer it.
    pub(super) fn hand(&mut self, to: SessionId, message: &Arc<Message>, permit: Permit<'_>, now: Now) -> Delivery {
        let delivery = self.sessions.deliver(to, message, permit, now.tick);
        if delivery == Delivery::Full {
            self.close_slow(to, now);
        }
        delivery
    }

    /// A filter over facts that the policy hides from the user is refused, not silently false.
    pub(super) fn refuse_hidden(&self, user: &User, filter: &Filter) -> Result<(), Refusal> {
        match self.access.hidden(user).first_in(filter) {
            Some(path) => Err(Refusal::new(
                Code::HiddenFact,
                format!("{path}: the policy hides this fact; it cannot be filtered on"),
            )),
            None => Ok(()),
        }
    }

    /// The one message that all receivers here share. Who sent it is stamped here and nowhere else.
    pub(super) fn message(
        &self,
        origin: &BrokerName,
        user: &User,
        mut sent: Box<Sent>,
        filter: Option<&Filter>,
        terms: Option<&Terms>,
        now: Now,
    ) -> Arc<Message> {
        let headers = &mut sent.headers;
        headers.reserve(STAMPS, STAMPS_BYTES);
        headers.push(header::CALLER, &user.name);
        headers.push(header::ORIGIN, origin.as_str());
        if let Some(queue) = &sent.reply_to {
            headers.push(header::REPLY_TO, &queue.to_string());
        }
        if let Some(request) = &sent.request {
            headers.push(header::REQUEST, request.as_str());
        }
        let mut within = sent.expires_within;
        if let Some(terms) = terms {
            match filter {
                Some(filter) => headers.push(header::TARGET, &filter.to_string()),
                None => headers.push(header::TARGET, TARGET_ALL),
            }
            let start = within.map_or(terms.start_within, |within| within.min(terms.start_within));
            // What is left of it is written when the message is: see `crate::session`.
            headers.push(header::START_WITHIN, &start.to_string());
            headers.push(header::REPLY_WITHIN, &terms.reply_within.to_string());
            within = Some(start);
        }
        let expires = within.map(|within| now.tick.saturating_add(within));
        let Sent { destination, headers, body, reply_to, .. } = *sent;
        let answer_on = reply_to.filter(|_| terms.is_none()).map(Arc::new);
        let destination = destination.text();
        Arc::new(Message { destination, headers, body, expires, answer_on, heads: Heads::default() })
    }
}

fn fanout(
    destination: Destination,
    rows: Vec<(u32, NodeId)>,
    frozen: Generation,
    request: Option<Key>,
    naming: Option<u64>,
    message: Option<Arc<Message>>,
) -> Fanout {
    Fanout { destination, targets: Targets::Rows { rows: rows.into_iter(), frozen, request, naming, message } }
}

//! What becomes of a SEND? The ACL, the scope, the targets, the fan-out. The way back is `answers.rs`.

use super::Broker;
use super::access::{GroupSet, Right, User};
use super::event::{Now, Purpose, Sent, SessionId, Target, Terms};
use super::nodes::Generation;
use super::note::{Note, Weight};
use super::outbox::Message;
use super::queues::ReplyQueue;
use super::requests::{Asked, Key};
use super::sessions::{Delivery, Permit};
use muster_protocol::destination::{Destination, Kind};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::filter::Filter;
use muster_protocol::message::{NodeId, RequestId, TARGET_ALL, header};
use muster_protocol::request::State;
use roaring::RoaringBitmap;
use std::sync::Arc;

/// Deliveries in one turn.
const SLICE: usize = 256;

/// A fan-out that is under way, one slice a turn.
#[derive(Debug)]
pub(super) struct Fanout {
    destination: Destination,
    message: Arc<Message>,
    targets: Targets,
}

#[derive(Debug)]
enum Targets {
    /// Sessions that subscribe, for a message without target.
    Subscribers(std::vec::IntoIter<SessionId>),
    /// Rows as they were frozen, for a message with a target.
    Rows { rows: std::vec::IntoIter<(u32, NodeId)>, frozen: Generation, request: Option<(Key, u64)>, dry_run: bool },
}

/// Who gets a message with a target, and the filter that says so.
struct Resolved {
    rows: RoaringBitmap,
    filter: Option<Filter>,
}

impl Broker {
    /// One SEND: what it cost, and the fan-out that it began.
    pub(super) fn send(&mut self, id: SessionId, mut sent: Sent, now: Now) -> (usize, Option<Fanout>) {
        let receipt = sent.receipt.take();
        let answer = sent.reply_to.clone().map(|queue| (sent.request.clone(), queue));
        let can_answer = sent.request.is_some() || matches!(sent.purpose, Purpose::Facts(_));
        let result = match sent.destination.kind() {
            Kind::TempQueue | Kind::RemoteTempQueue => self.reply(id, sent, now).map(|()| (1, None)),
            Kind::Muster => self.query(id, sent, now).map(|cost| (cost, None)),
            Kind::Topic | Kind::Queue => {
                let target = if let Target::Filter(filter) = &sent.target { Some(filter) } else { None };
                let scope = self.sessions.get(id).and_then(|s| s.user.scope.as_ref());
                let cost = self.nodes.cost(target, scope);
                self.publish(id, sent, now).map(|fanout| (cost, fanout))
            }
        };
        match result {
            Ok(work) => {
                self.receipt(id, receipt, now);
                work
            }
            Err(refusal) => {
                let answer = answer.filter(|_| can_answer);
                let lives = answer.is_some();
                self.refuse(id, refusal, answer, now);
                if lives {
                    self.receipt(id, receipt, now);
                }
                (1, None)
            }
        }
    }

    /// A message or request to a topic.
    fn publish(&mut self, id: SessionId, sent: Sent, now: Now) -> Result<Option<Fanout>, Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(None) };
        let user = session.user.clone();
        self.may_write(session, &sent.destination)?;
        let reply_to = match &sent.reply_to {
            Some(name) => Some(self.own_queue(id, name)?),
            None => None,
        };
        let request = match (&sent.purpose, &sent.request) {
            (Purpose::Request(terms), Some(request)) => Some((*terms, request.clone())),
            _ => None,
        };
        let targeted = self.is_targeted(&sent.destination);
        if matches!(sent.target, Target::Absent) {
            if targeted && sent.destination.as_action().is_some() {
                return Err(Refusal::new(
                    Code::TargetRequired,
                    "a message to an action topic needs muster-target: a filter, or `all`",
                ));
            }
            if targeted && user.scope.is_some() {
                return Err(Refusal::new(
                    Code::TargetRequired,
                    format!("{} has a scope: its messages need muster-target", user.name),
                ));
            }
            if request.is_none() {
                let message = Arc::new(self.message(&user, &sent, reply_to.as_ref(), None, None, now));
                let targets = Targets::Subscribers(self.subscriptions.of(&sent.destination).into_iter());
                return Ok(Some(Fanout { destination: sent.destination, message, targets }));
            }
        }
        let resolved = self.resolve(&user, &sent)?;
        match request {
            Some((terms, request)) => self.request(id, &user, sent, reply_to, resolved, terms, request, now),
            None => {
                let message =
                    Arc::new(self.message(&user, &sent, reply_to.as_ref(), resolved.filter.as_ref(), None, now));
                Ok(Some(self.fanout(sent.destination, message, resolved.rows, None, false)))
            }
        }
    }

    /// The nodes that a SEND is for: target, scope, `muster-nodes`, and for a request the module.
    fn resolve(&self, user: &User, sent: &Sent) -> Result<Resolved, Refusal> {
        let action = sent.destination.as_action();
        let target = match &sent.target {
            Target::Filter(filter) => {
                self.refuse_hidden(user, filter)?;
                Some(filter)
            }
            // Untargeted collectives, such as MCollective's, address everybody by design.
            Target::Absent => None,
            Target::All if user.may_all || !self.is_targeted(&sent.destination) => None,
            Target::All => {
                let text =
                    format!("{} may not address all nodes: no group of the user has the right to `all`", user.name);
                return Err(Refusal::new(Code::AllNotAllowed, text));
            }
        };
        let mut rows = self.nodes.matching(target, user.scope.as_ref());
        if let (Some((_, module, _)), Purpose::Request(_)) = (action, &sent.purpose) {
            rows &= self.nodes.with_module(module);
        }
        if let Some(nodes) = &sent.nodes {
            rows &= nodes.iter().filter_map(|id| self.nodes.row(id)).collect::<RoaringBitmap>();
        }
        let collective = sent.destination.segments().next().unwrap_or_default().to_owned();
        // With one collective all nodes are in it.
        if !matches!(self.access.collectives(), [only] if only.name == collective) {
            rows = rows
                .into_iter()
                .filter(|row| self.nodes.get(*row).is_some_and(|n| *n.collective == *collective))
                .collect();
        }
        let filter = match (target, &user.scope) {
            (Some(target), Some(scope)) => Some(target.and(scope)),
            (Some(only), None) | (None, Some(only)) => Some(only.clone()),
            (None, None) => None,
        };
        Ok(Resolved { rows, filter })
    }

    #[allow(clippy::too_many_arguments, reason = "one call, and every part of the request is decided by now")]
    fn request(
        &mut self,
        caller: SessionId,
        user: &Arc<User>,
        sent: Sent,
        reply_to: Option<Destination>,
        resolved: Resolved,
        terms: Terms,
        request: RequestId,
        now: Now,
    ) -> Result<Option<Fanout>, Refusal> {
        let Some(queue) = reply_to else {
            return Err(Refusal::new(Code::BadHeader, "reply-to: a request needs a reply queue"));
        };
        if sent.destination.as_action().is_none() {
            let text =
                format!("{}: a request goes to an action topic, /topic/COLLECTIVE.MODULE.ACTION", sent.destination);
            return Err(Refusal::new(Code::BadDestination, text));
        }
        let count = resolved.rows.len();
        if let Some(refusal) = guard(&terms, count) {
            self.counters.refused += 1;
            self.note(
                request_note("request refused", user, &request, &sent.destination, count).with("code", refusal.code),
            );
            let reply_name = sent.reply_to.clone().unwrap_or(queue);
            self.answer_refused(caller, Some(&request), &reply_name, &refusal, Some(count), now);
            return Ok(None);
        }
        let in_flight = self.sessions.get(caller).map_or(0, |s| s.in_flight);
        if in_flight >= self.settings.in_flight {
            let text = format!("{in_flight} requests of this connection are under way; wait for one to end");
            return Err(Refusal::new(Code::Limit, text));
        }
        let message = Arc::new(self.message(user, &sent, Some(&queue), resolved.filter.as_ref(), Some(&terms), now));
        let asked = Asked {
            caller,
            user: user.name.as_str().into(),
            id: request.clone(),
            queue: queue.clone(),
            destination: sent.destination.clone(),
        };
        // A dry run asks nobody: its account is empty.
        let targets = if terms.dry_run { RoaringBitmap::new() } else { resolved.rows.clone() };
        let Some(key) = self.requests.begin(asked, targets, now.tick.saturating_add(terms.reply_within)) else {
            return Err(Refusal::new(
                Code::DuplicateRequest,
                format!("{request}: a request with this id is under way"),
            ));
        };
        self.queues.reserve_for_requests(&queue);
        if let Some(session) = self.sessions.get_mut(caller) {
            session.in_flight += 1;
        }
        self.counters.requests += 1;
        self.note(
            request_note("request accepted", user, &request, &sent.destination, count).with("dry_run", terms.dry_run),
        );
        if count == 0 {
            self.accepted(key, count, &[], self.nodes.generation(), false, now);
        }
        Ok(Some(self.fanout(sent.destination, message, resolved.rows, Some((key, count)), terms.dry_run)))
    }

    fn fanout(
        &self,
        destination: Destination,
        message: Arc<Message>,
        rows: RoaringBitmap,
        request: Option<(Key, u64)>,
        dry_run: bool,
    ) -> Fanout {
        let named = |row| Some((row, self.nodes.get(row)?.id));
        let rows = rows.into_iter().filter_map(named).collect::<Vec<_>>().into_iter();
        Fanout {
            destination,
            message,
            targets: Targets::Rows { rows, frozen: self.nodes.generation(), request, dry_run },
        }
    }

    /// One slice of a fan-out: what it cost, and what is left.
    pub(super) fn deliver_slice(&mut self, mut fanout: Fanout, now: Now) -> (usize, Option<Fanout>) {
        // Asked for each slice: a policy that came in between holds for the rest.
        let readers = self.access.granted(Right::Read, &fanout.destination);
        let (cost, is_over) = match &mut fanout.targets {
            Targets::Subscribers(sessions) => {
                let slice: Vec<SessionId> = sessions.by_ref().take(SLICE).collect();
                let is_over = sessions.len() == 0;
                let permit = Permit::Topic { destination: &fanout.destination, readers: &readers };
                for to in &slice {
                    self.hand(*to, &fanout.message, permit, now);
                }
                (slice.len(), is_over)
            }
            Targets::Rows { rows, frozen, request, dry_run } => {
                let slice: Vec<(u32, NodeId)> = rows.by_ref().take(SLICE).collect();
                let (is_over, frozen, request, dry_run) = (rows.len() == 0, *frozen, *request, *dry_run);
                if let Some((key, count)) = request.filter(|_| !slice.is_empty()) {
                    self.accepted(key, count, &slice, frozen, !is_over, now);
                }
                if !dry_run {
                    for (row, _) in &slice {
                        self.deliver_row(*row, &fanout, &readers, frozen, request.map(|(key, _)| key), now);
                    }
                }
                if let Some((key, _)) = request.filter(|_| is_over) {
                    self.requests.delivered(key);
                    self.finish(key, now);
                }
                (slice.len(), is_over)
            }
        };
        (cost, (!is_over).then_some(fanout))
    }

    fn deliver_row(
        &mut self,
        row: u32,
        fanout: &Fanout,
        readers: &GroupSet,
        frozen: Generation,
        request: Option<Key>,
        now: Now,
    ) {
        // A row that ended while slices before it went out is already lost; one that was born since is another node.
        let Some(to) = self.nodes.get(row).filter(|node| node.born <= frozen).map(|node| node.session) else { return };
        if request.is_some_and(|key| self.requests.get(key).is_none_or(|p| !p.waiting.contains(row))) {
            return;
        }
        let permit = Permit::Topic { destination: &fanout.destination, readers };
        let delivery = self.hand(to, &fanout.message, permit, now);
        if let (Delivery::NotWanted, Some(key)) = (delivery, request) {
            self.settle(key, row, State::Lost, Some("the node does not subscribe to this action"), now);
        }
    }

    /// Delivers to one session; a session that does not read is closed, one that gets a message may answer it.
    pub(super) fn hand(&mut self, to: SessionId, message: &Arc<Message>, permit: Permit<'_>, now: Now) -> Delivery {
        let delivery = self.sessions.deliver(to, message, permit, now.tick);
        match (delivery, &message.answer_on) {
            (Delivery::Full, _) => self.close_slow(to, now),
            (Delivery::Done, Some(queue)) => self.queues.heard(queue, to),
            (Delivery::Done, None) | (Delivery::NotWanted, _) => {}
        }
        delivery
    }

    /// A SEND to a reply queue: an answer of a node that was asked, or any message if no request uses the queue.
    fn reply(&mut self, id: SessionId, sent: Sent, now: Now) -> Result<(), Refusal> {
        let queue = if sent.destination.kind() == Kind::TempQueue {
            self.own_queue(id, &sent.destination)?
        } else {
            sent.destination.clone()
        };
        if let (Purpose::Answer(answer), Some(request)) = (&sent.purpose, &sent.request) {
            self.answer(id, &queue, request, *answer, &sent, now);
            return Ok(());
        }
        let may_write = |queue: &&ReplyQueue| queue.owner == id || (!queue.for_requests && queue.heard.contains(&id));
        let target = self.queues.get(&queue).filter(may_write).map(|queue| (queue.owner, queue.subscription.clone()));
        let Some((owner, subscription)) = target else {
            let text = format!(
                "{queue}: there is no such reply queue, or nothing that this session got is to be answered there"
            );
            return Err(Refusal::new(Code::Gone, text));
        };
        let Some(user) = self.sessions.get(id).map(|s| s.user.clone()) else { return Ok(()) };
        let reply_to = match &sent.reply_to {
            Some(name) => Some(self.own_queue(id, name)?),
            None => None,
        };
        let message = Arc::new(self.message(&user, &sent, reply_to.as_ref(), None, None, now));
        let permit = Permit::ReplyQueue { subscription: &subscription };
        self.hand(owner, &message, permit, now);
        Ok(())
    }

    /// The broker's name of a reply queue of this connection.
    pub(super) fn own_queue(&self, id: SessionId, name: &Destination) -> Result<Destination, Refusal> {
        let queue = self.sessions.get(id).and_then(|session| session.queues.get(name));
        queue.cloned().ok_or_else(|| {
            Refusal::new(
                Code::BadHeader,
                format!("{name}: not a reply queue of this connection; SUBSCRIBE to /temp-queue/NAME first"),
            )
        })
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

    /// The one message that all receivers share; who sent it is stamped here and nowhere else.
    fn message(
        &self,
        user: &User,
        sent: &Sent,
        reply_to: Option<&Destination>,
        filter: Option<&Filter>,
        terms: Option<&Terms>,
        now: Now,
    ) -> Message {
        let mut headers = sent.headers.clone();
        headers.push(header::CALLER, &user.name);
        headers.push(header::ORIGIN, &self.settings.name);
        if let Some(queue) = reply_to {
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
        let answer_on = reply_to.filter(|_| terms.is_none()).cloned();
        Message { destination: sent.destination.to_string(), headers, body: sent.body.clone(), expires, answer_on }
    }
}

/// The refusal of a guard that does not hold for this count.
fn guard(terms: &Terms, count: u64) -> Option<Refusal> {
    if let Some(most) = terms.max_targets.filter(|most| count > *most) {
        let text = format!("{count} nodes match, at most {most} are allowed; nothing was delivered");
        return Some(Refusal::new(Code::TooManyTargets, text));
    }
    let expected = terms.expect_targets.filter(|expected| count != *expected)?;
    let text = format!("{count} nodes match, {expected} were expected; nothing was delivered");
    Some(Refusal::new(Code::UnexpectedTargets, text))
}

fn request_note(text: &'static str, user: &User, request: &RequestId, destination: &Destination, count: u64) -> Note {
    let note = Note::new(Weight::Info, text).with("user", &user.name).with("request", request);
    note.with("destination", destination).with("targets", count)
}

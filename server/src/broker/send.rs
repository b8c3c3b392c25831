//! What becomes of a SEND? The ingress checks it, decides once which brokers it is for, and sends it on its way.
//!
//! What happens where the nodes are is `deliver.rs`, also for this broker's own nodes; the account of a request is `account.rs`.

use super::Broker;
use super::access::User;
use super::asks::Asked as Asking;
use super::deliver::{Fanout, Preparing};
use super::event::{Now, Purpose, Sent, SessionId, Target, Terms};
use super::mesh::{Asked, Cargo};
use super::note::{Note, Weight};
use super::record::{Asked as OnRecord, Verdict};
use super::sessions::Permit;
use muster_protocol::destination::{Destination, Kind};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::{Letter, Load, Prepare, ReplyLetter, RequestKey, Word};
use muster_protocol::message::{BrokerName, RequestId, TARGET_ALL};
use muster_protocol::request::Bound;
use std::sync::Arc;

/// When to try again what a full link did not take, ms.
const BUSY: u64 = 1_000;

impl Broker {
    /// One SEND: what it cost, and the fan-out that it began.
    pub(super) fn send(&mut self, id: SessionId, mut sent: Box<Sent>, now: Now) -> (usize, Option<Fanout>) {
        let receipt = sent.receipt.take();
        let answer = sent.reply_to.clone().map(|queue| (sent.request.clone(), queue));
        let can_answer = sent.request.is_some() || matches!(sent.purpose, Purpose::Facts(_));
        let is_request = matches!(sent.purpose, Purpose::Request(_));
        let (mut asked, destination) = (self.asked(id, &sent), sent.destination.clone());
        let result = match sent.destination.kind() {
            Kind::TempQueue | Kind::RemoteTempQueue => self.reply(id, sent, now).map(|()| (1, None)),
            Kind::Muster => self.query(id, *sent, now).map(|cost| (cost, None)),
            Kind::Topic | Kind::Queue => {
                let target = if let Target::Filter(filter) = &sent.target { Some(filter) } else { None };
                let scope = self.sessions.get(id).and_then(|s| s.user.scope.as_ref());
                let cost = self.nodes.cost(target, scope);
                self.publish(id, sent, &mut asked, now).map(|fanout| (cost, fanout))
            }
        };
        match result {
            Ok(work) => {
                // A request that was accepted is on record already, before anything of its account.
                if let Some(asked) = asked {
                    self.record(|_| asked.decided(Verdict::ALLOWED));
                }
                self.receipt(id, receipt, now);
                work
            }
            Err(refusal) => {
                self.counters.requests_refused += u64::from(is_request);
                match asked {
                    Some(asked) => self.record(|_| asked.decided(Verdict::denied(&refusal))),
                    None => {
                        let request = answer.as_ref().and_then(|(request, _)| request.clone());
                        self.record_refusal(id, Some(destination), request, &refusal);
                    }
                }
                let answer = answer.filter(|_| can_answer);
                let lives = answer.is_some();
                self.turn_down(id, refusal, answer, now);
                if lives {
                    self.receipt(id, receipt, now);
                }
                (1, None)
            }
        }
    }

    /// A message or request to a topic.
    fn publish(
        &mut self,
        id: SessionId,
        mut sent: Box<Sent>,
        on_record: &mut Option<OnRecord>,
        now: Now,
    ) -> Result<Option<Fanout>, Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(None) };
        let user = session.user.clone();
        let queue_name = sent.reply_to.take();
        if let Some(name) = &queue_name {
            self.may_write(&user, &sent.destination)?;
            sent.reply_to = Some(self.own_queue(id, name)?);
        }
        self.permit(&user, &sent)?;
        let request = match (&sent.purpose, &sent.request) {
            (Purpose::Request(terms), Some(request)) => Some((*terms, request.clone())),
            _ => None,
        };
        let me = self.mesh.me().clone();
        let Some((terms, request)) = request else {
            self.limit(&user, &sent, now)?;
            let filter = Broker::filter_of(&user, &sent);
            let asked = Asked { nodes: Broker::is_for_nodes(&sent), target: filter.as_ref(), ..Asked::default() };
            let audience = self.mesh.audience(Some(&sent.destination), asked, now.tick);
            if !audience.to.is_empty() {
                let cargo = Cargo {
                    body: sent.body.clone(),
                    expires: sent.expires_within.map(|within| now.tick.saturating_add(within)),
                    droppable: true,
                };
                self.mesh.forward(audience.to, Load::Message(letter(&user.name, &sent)), cargo, now.tick);
            }
            return Ok(Some(self.carry(&me, &user, sent, now)));
        };
        let Some(queue_name) = queue_name else {
            return Err(Refusal::new(Code::BadHeader, "reply-to: a request needs a reply queue"));
        };
        if sent.destination.as_action().is_none() {
            let text =
                format!("{}: a request goes to an action topic, /topic/COLLECTIVE.MODULE.ACTION", sent.destination);
            return Err(Refusal::new(Code::BadDestination, text));
        }
        let in_flight = self.sessions.get(id).map_or(0, |s| s.in_flight);
        if in_flight >= self.settings.in_flight {
            let text = format!("{in_flight} requests of this connection are under way; wait for one to end");
            return Err(Refusal::new(Code::Limit, text));
        }
        let bound = self.limit(&user, &sent, now)?;
        let own = terms.max_targets;
        let max_targets = own.into_iter().chain(bound.as_ref().map(|bound| bound.most)).min();
        self.request(id, user, sent, queue_name, (Terms { max_targets, ..terms }, bound), request, on_record, now)
    }

    /// A request of a session of this broker: its account begins, and all brokers that it is for are asked.
    #[allow(clippy::too_many_arguments, reason = "one call, and every part of the request is decided by now")]
    fn request(
        &mut self,
        caller: SessionId,
        user: Arc<User>,
        sent: Box<Sent>,
        queue_name: Destination,
        (terms, bound): (Terms, Option<Bound>),
        request: RequestId,
        on_record: &mut Option<OnRecord>,
        now: Now,
    ) -> Result<Option<Fanout>, Refusal> {
        let filter = Broker::filter_of(&user, &sent);
        let module = sent.destination.as_action().map(|(_, module, _)| module);
        let scoped = user.scope.is_some();
        let asked = Asked { nodes: true, target: filter.as_ref(), module, scoped, ..Asked::default() };
        let audience = self.mesh.audience(Some(&sent.destination), asked, now.tick);
        if !self.mesh.has_room(&audience.to) {
            return Err(Refusal::new(Code::Busy, "a link to another broker is full").again_in(BUSY));
        }
        let (to, name) = (audience.to.clone(), user.name.as_str());
        let hold = terms.is_guarded();
        let key = RequestKey {
            broker: self.mesh.me().clone(),
            instance: self.mesh.instance(),
            serial: self.asks.next_serial(),
        };
        let prepare = Arc::new(Prepare {
            serial: key.serial,
            letter: letter(name, &sent),
            start_within: terms.start_within,
            reply_within: terms.reply_within,
            dry_run: terms.dry_run,
            hold,
        });
        let queue = sent.reply_to.clone().unwrap_or_else(|| queue_name.clone());
        let asked = Asking {
            caller,
            user: name.into(),
            id: request.clone(),
            queue: queue.clone(),
            destination: sent.destination.clone(),
            terms,
            bound,
            prepare: prepare.clone(),
            body: sent.body.clone(),
        };
        let duplicate =
            || Refusal::new(Code::DuplicateRequest, format!("{request}: a request with this id is under way"));
        let missing = audience.without.len();
        if let Some(asked) = on_record {
            asked.brokers = to.iter().chain([self.mesh.me()]).cloned().collect();
            asked.without = audience.without.iter().map(|missing| missing.broker.clone()).collect();
        }
        let me = self.mesh.me().clone();
        let serial = self.asks.begin(asked, (&me, key.instance), audience, now.tick).ok_or_else(duplicate)?;
        self.queues.reserve_for_requests(&queue);
        let note = Note::new(Weight::Info, "request accepted").with("user", name).with("request", &request);
        let note =
            note.with("destination", &sent.destination).with("dry_run", terms.dry_run).with("brokers", to.len() + 1);
        self.note(if missing > 0 { note.with("without", missing) } else { note });
        self.usage.asked(name);
        if let Some(session) = self.sessions.get_mut(caller) {
            session.in_flight += 1;
        }
        // Where nobody matches here, and nobody else is asked, the end comes at once.
        self.say_missing(serial, now);
        let body = sent.body.clone();
        let preparing = Preparing { key, user: user.clone(), sent, terms, hold };
        let fanout = match self.prepare(preparing, now) {
            Ok(fanout) => fanout,
            Err(refusal) => {
                self.forget_ask(serial, now);
                return Err(refusal);
            }
        };
        self.counters.requests += 1;
        if let Some(asked) = on_record.take() {
            self.record(|_| asked.decided(Verdict::ALLOWED));
        }
        let expires = Some(now.tick.saturating_add(terms.reply_within));
        self.mesh.forward(to, Load::Prepare((*prepare).clone()), Cargo { body, expires, droppable: false }, now.tick);
        self.decide(serial, now);
        self.finish(serial, now);
        Ok(fanout)
    }

    /// A SEND to a reply queue: an answer of a node that was asked, or any message if no request uses the queue.
    fn reply(&mut self, id: SessionId, mut sent: Box<Sent>, now: Now) -> Result<(), Refusal> {
        let queue = if sent.destination.kind() == Kind::TempQueue {
            self.own_queue(id, &sent.destination)?
        } else {
            sent.destination.clone()
        };
        if let (Purpose::Answer(answer), Some(request)) = (&sent.purpose, &sent.request) {
            self.answer(id, &queue, request, *answer, &sent, now);
            return Ok(());
        }
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let user = session.user.clone();
        let is_own = self.queues.get(&queue).is_some_and(|q| q.owner == id);
        if !is_own && !session.heard.contains(&queue) {
            return Err(gone(&queue));
        }
        if let Some(name) = sent.reply_to.take() {
            sent.reply_to = Some(self.own_queue(id, &name)?);
        }
        sent.destination = queue.clone();
        match owner_of(&queue).filter(|owner| owner != self.mesh.me()) {
            None => self.put_reply(&queue, &user, sent, is_own, now),
            Some(owner) => {
                let letter = ReplyLetter { letter: letter(&user.name, &sent), session: id.0 };
                let cargo = Cargo {
                    body: sent.body,
                    expires: sent.expires_within.map(|within| now.tick.saturating_add(within)),
                    droppable: true,
                };
                if self.mesh.direct(&owner, Word::Reply(letter), cargo, now.tick) {
                    return Ok(());
                }
                let text = format!("{queue}: there is no way to {owner} now, or the link to it is full; try again");
                Err(Refusal::new(Code::Gone, text))
            }
        }
    }

    /// Puts a message on a reply queue of this broker, whose answers are no answers of a request.
    pub(super) fn put_reply(
        &mut self,
        queue: &Destination,
        user: &User,
        sent: Box<Sent>,
        is_own: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let target = self.queues.get(queue).filter(|queue| is_own || !queue.for_requests);
        let Some((owner, subscription)) = target.map(|queue| (queue.owner, queue.subscription.clone())) else {
            return Err(gone(queue));
        };
        let me = self.mesh.me().clone();
        let message = self.message(&me, user, sent, None, None, now);
        self.hand(owner, &message, Permit::ReplyQueue { subscription: &subscription }, now);
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
}

fn gone(queue: &Destination) -> Refusal {
    let text =
        format!("{queue}: there is no such reply queue, or nothing that this session got is to be answered there");
    Refusal::new(Code::Gone, text)
}

/// The broker that a reply queue belongs to: it stands in the name.
fn owner_of(queue: &Destination) -> Option<BrokerName> {
    if queue.kind() != Kind::RemoteTempQueue {
        return None;
    }
    BrokerName::parse(queue.segments().next()?).ok()
}

/// A SEND as it travels; its reply queue must be there by the broker's name.
pub(super) fn letter(caller: &str, sent: &Sent) -> Letter {
    Letter {
        caller: caller.to_owned(),
        destination: sent.destination.to_string(),
        headers: sent.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        target: match &sent.target {
            Target::Absent => None,
            Target::All => Some(TARGET_ALL.to_owned()),
            Target::Filter(filter) => Some(filter.to_string()),
        },
        nodes: sent.nodes.clone(),
        reply_to: sent.reply_to.as_ref().map(ToString::to_string),
        request: sent.request.as_ref().map(|request| request.as_str().to_owned()),
        expires_within: sent.expires_within,
    }
}

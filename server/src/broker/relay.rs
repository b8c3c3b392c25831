//! What comes over links? State of the mesh, messages for sessions here, words from other brokers; the rest is passed on.

use super::deliver::{Fanout, Preparing};
use super::event::{Event, LinkId, Now, Purpose, Received, Sent, Target, Ticket};
use super::mesh::Cargo;
use super::note::{Note, Weight};
use super::record::{Record, Relayed, Verdict};
use super::{Broker, LaneId, Work};
use bytes::Bytes;
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::{Direct, Forward, Gone, Happened, Head, Load, RequestKey, Word};
use muster_protocol::message::{BrokerName, RequestId};
use std::sync::Arc;

/// What another broker asks of this one, done in the order of its caller.
#[derive(Debug)]
pub(super) struct Order {
    /// The ingress.
    origin: BrokerName,
    instance: u64,
    caller: Arc<str>,
    what: What,
    sent: Result<Box<Sent>, Refusal>,
    _ticket: Arc<Ticket>,
}

/// An order that was not obeyed.
struct Refused {
    origin: BrokerName,
    instance: u64,
    caller: Arc<str>,
    what: What,
    destination: String,
    request: Option<RequestId>,
    target: Target,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Message,
    Request { serial: u64, hold: bool },
    Query { serial: u64 },
    Reply { session: u64 },
}

impl Broker {
    /// Everything that concerns links.
    pub(super) fn link_event(&mut self, event: Event, now: Now) {
        match event {
            Event::LinkOpened(opened) => self.mesh.open(*opened, now.tick),
            Event::LinkClosed { link, reason } => self.mesh.close(link, &reason, now.tick),
            Event::LinkAlive(link) => self.mesh.heard(link, now.tick),
            Event::LinkFrames { link, frames, ticket } => {
                self.mesh.heard(link, now.tick);
                let ticket = Arc::new(ticket);
                for frame in frames {
                    self.link_frame(link, frame, &ticket, now);
                }
            }
            _ => {}
        }
    }

    fn link_frame(&mut self, link: LinkId, frame: Received, ticket: &Arc<Ticket>, now: Now) {
        // A link that was replaced, or refused, may still have something in its pipe: it is not heard any more.
        let Some(from) = self.mesh.neighbour(link).cloned() else { return };
        let Received { head, body, order } = frame;
        match head {
            // A neighbour's policy may still list a broker that ours does not.
            Head::Direct(direct) if !self.mesh.is_one_of_us(&direct.from) => {}
            Head::Forward(forward) => {
                let cargo =
                    Cargo { body, expires: lives_until(&forward.load, now), droppable: is_droppable(&forward.load) };
                if self.mesh.relay(&from, &forward, &cargo, now.tick) {
                    self.forwarded(forward, order, ticket, now);
                }
            }
            Head::Direct(direct) if direct.to != *self.mesh.me() => {
                let droppable = matches!(direct.word, Word::Reply(_));
                self.mesh.pass_on(direct, &Cargo { body, expires: None, droppable }, now.tick);
            }
            Head::Direct(direct) => self.word(direct, body, order, ticket, now),
            head @ (Head::Policy(_) | Head::WantPolicy(_) | Head::PolicyPart(_)) => {
                self.hear_of_policy(&from, head, &body, now);
            }
            head => self.mesh.control(link, &head, now.tick),
        }
    }

    /// A forwarded message that is for this broker, for the first time.
    fn forwarded(
        &mut self,
        forward: Forward,
        order: Option<Result<Box<Sent>, Refusal>>,
        ticket: &Arc<Ticket>,
        now: Now,
    ) {
        let (broker, instance) = (forward.origin.clone(), forward.instance);
        let name = |serial| RequestKey { broker: broker.clone(), instance, serial };
        let (what, letter) = match forward.load {
            Load::Message(letter) => (What::Message, letter),
            Load::Prepare(prepare) => {
                let what = What::Request { serial: prepare.serial, hold: prepare.hold };
                (what, prepare.letter)
            }
            Load::Commit(serial) => return self.committed(&name(serial.serial)),
            Load::Abort(serial) => return self.aborted(&name(serial.serial)),
            Load::Cancel(serial) => return self.cancelled(&name(serial.serial), now),
            Load::Announce(announce) => {
                if let Ok(destination) = Destination::parse(&announce.destination) {
                    self.announce_here(&forward.origin, &destination, &announce, now);
                }
                return;
            }
            Load::AuditHead(head) => {
                let order = (instance, forward.sequence);
                return self.hear_head(&forward.origin, order, head, now);
            }
            Load::Unknown => return,
        };
        let Some(sent) = order else { return };
        let (origin, instance, caller) = (forward.origin, forward.instance, letter.caller.into());
        self.take_order(Order { origin, instance, caller, what, sent, _ticket: ticket.clone() });
    }

    fn take_order(&mut self, order: Order) {
        let lane = LaneId::Caller(order.origin.clone(), order.caller.clone());
        self.enqueue(lane, Work::Order(Box::new(order)));
    }

    /// The turn of an order has come: what it cost, and the fan-out that it began.
    pub(super) fn order(&mut self, order: Order, now: Now) -> (usize, Option<Fanout>) {
        let Order { origin, instance, caller, what, sent, _ticket } = order;
        if let What::Request { serial, .. } = what {
            let name = RequestKey { broker: origin.clone(), instance, serial };
            if self.requests.knows(&name) {
                // Asked again: what was said may have been lost on the way. It was decided then, whatever the policy says now.
                self.outcomes.rewind(&name);
                self.send_outcomes(&name, now);
                return (1, None);
            }
        }
        let destination = sent.as_ref().map(|sent| sent.destination.to_string()).unwrap_or_default();
        let asked = sent.as_ref().map(|sent| (sent.request.clone(), sent.target.clone()));
        let (request, target) = asked.unwrap_or((None, Target::Absent));
        let done = sent.and_then(|sent| self.obey(&origin, instance, &caller, what, sent, now));
        match done {
            Ok(work) => work,
            Err(refusal) => {
                let refused = Refused { origin, instance, caller, what, destination, request, target };
                self.refuse_order(&refused, &refusal, now);
                (1, None)
            }
        }
    }

    fn obey(
        &mut self,
        origin: &BrokerName,
        instance: u64,
        caller: &Arc<str>,
        what: What,
        sent: Box<Sent>,
        now: Now,
    ) -> Result<(usize, Option<Fanout>), Refusal> {
        // Groups, scope and rights are those of this broker's own policy.
        let user = self.access.user(caller).filter(|user| user.is_usable(now.unix / 1000)).cloned();
        let unknown = || {
            let text =
                format!("{caller}: the policy of {} has no such user, or it is disabled or expired", self.mesh.me());
            Refusal::new(Code::Denied, text)
        };
        let user = user.ok_or_else(unknown)?;
        match what {
            What::Message => {
                self.permit(&user, &sent)?;
                let cost = self.nodes.cost(None, user.scope.as_ref());
                Ok((cost, Some(self.carry(origin, &user, sent, now))))
            }
            What::Request { serial, hold } => {
                self.permit(&user, &sent)?;
                let Purpose::Request(terms) = sent.purpose else { return Ok((1, None)) };
                let cost = self.nodes.cost(None, user.scope.as_ref());
                let key = RequestKey { broker: origin.clone(), instance, serial };
                self.prepare(Preparing { key, user, sent, terms, hold }, now).map(|fanout| (cost, fanout))
            }
            What::Query { serial } => self.answer_query(origin, serial, &user, *sent, now).map(|cost| (cost, None)),
            What::Reply { session: _ } => {
                let queue = sent.destination.clone();
                self.put_reply(&queue, &user, sent, false, now).map(|()| (1, None))
            }
        }
    }

    fn refuse_order(&mut self, order: &Refused, refusal: &Refusal, now: Now) {
        self.count_refusal(refusal.code);
        let Refused { origin, instance, caller, what, destination, request, target } = order;
        let note = Note::new(Weight::Info, "refused for another broker").with("user", caller).with("broker", origin);
        let note = note.with("destination", destination);
        self.note(note.with("code", refusal.code).with("reason", &refusal.text));
        // That a node is not here decides nothing.
        if !(matches!(what, What::Query { .. }) && refusal.code == Code::NoSuchNode) {
            self.record(|_| {
                Record::LinkRequest(Box::new(Relayed {
                    user: caller.clone(),
                    ingress: origin.clone(),
                    verdict: Verdict::denied(refusal),
                    destination: destination.clone(),
                    request: request.clone(),
                    target: target.clone(),
                    rule: None,
                    targets: None,
                    dry_run: None,
                    body: None,
                }))
            });
        }
        match *what {
            What::Message => {}
            What::Request { serial, .. } => {
                let name = RequestKey { broker: origin.clone(), instance: *instance, serial };
                self.requests.remember(name.clone());
                let (code, text) = (refusal.code.to_string(), refusal.text.clone());
                self.outcomes.push(&name, caller, Happened::Refused { code, text }, Bytes::new(), now.tick);
                self.send_outcomes(&name, now);
            }
            What::Query { serial } => self.refuse_query(origin, serial, refusal, now),
            What::Reply { session } if refusal.code == Code::Gone => {
                self.say(origin, Word::Gone(Gone { queue: destination.clone(), session }), Bytes::new(), now);
            }
            What::Reply { .. } => {}
        }
    }

    /// A word for this broker.
    fn word(
        &mut self,
        direct: Direct,
        body: Bytes,
        order: Option<Result<Box<Sent>, Refusal>>,
        ticket: &Arc<Ticket>,
        now: Now,
    ) {
        let Direct { from, instance, word, .. } = direct;
        let (what, caller) = match word {
            Word::Report(report) => return self.hear_report(&from, instance, report, body, now),
            Word::Heard(heard) => {
                if self.outcomes.heard(&heard.key, heard.upto) {
                    self.send_outcomes(&heard.key, now);
                }
                if self.outcomes.is_settled(&heard.key) && self.requests.of(&heard.key).is_none() {
                    self.outcomes.forget(&heard.key);
                }
                return;
            }
            Word::Forgotten(key) => return self.aborted(&key),
            Word::Answer(answer) => return self.take_answer(&from, answer, now),
            Word::Gone(gone) => return self.reply_is_gone(&gone, now),
            Word::Present(present) => return self.present_elsewhere(&from, &present, now),
            Word::Noted(noted) => return self.moves.noted(&from, noted.upto),
            Word::Query(query) => (What::Query { serial: query.serial }, query.letter.caller),
            Word::Reply(reply) => (What::Reply { session: reply.session }, reply.letter.caller),
            Word::Unknown => return,
        };
        let Some(sent) = order else { return };
        let caller = caller.into();
        self.take_order(Order { origin: from, instance, caller, what, sent, _ticket: ticket.clone() });
    }

    /// The ingress says that its guard holds: what was frozen is delivered, in the turn of its caller.
    pub(super) fn committed(&mut self, name: &RequestKey) {
        let Some(key) = self.requests.of(name) else { return };
        let Some(pending) = self.requests.get(key).filter(|pending| pending.held.is_some()) else { return };
        let lane = LaneId::Caller(name.broker.clone(), pending.asked.user.clone());
        self.enqueue(lane, Work::Deliver(key));
    }

    /// The ingress says that the caller does not want it any more.
    fn cancelled(&mut self, name: &RequestKey, now: Now) {
        if let Some(key) = self.requests.of(name) {
            self.cancel_here(key, now);
        } else {
            self.requests.cancel_early(name.clone());
        }
    }

    /// The ingress does not want to hear of a request any more.
    pub(super) fn aborted(&mut self, name: &RequestKey) {
        match self.requests.of(name) {
            Some(key) => {
                self.requests.drop(key);
            }
            // It may come yet: the copy is still on its way, or in its lane.
            None => self.requests.remember(name.clone()),
        }
        self.outcomes.forget(name);
    }

    fn reply_is_gone(&mut self, gone: &Gone, now: Now) {
        let id = super::SessionId(gone.session);
        if self.sessions.get(id).is_some() {
            let text = format!("{}: the reply queue is gone", muster_protocol::message::shown(&gone.queue));
            self.refuse(id, Refusal::new(Code::Gone, text), None, now);
        }
    }

    /// Says something to another broker that is kept or repeated by whoever needs to.
    pub(super) fn say(&mut self, to: &BrokerName, word: Word, body: Bytes, now: Now) {
        self.mesh.direct(to, word, Cargo { body, expires: None, droppable: false }, now.tick);
    }

    /// After each event: what has changed here is told to the mesh, and what the mesh has learned is acted upon.
    pub(super) fn keep_mesh(&mut self, now: Now) {
        self.mesh.tick(now.tick);
        for broker in self.mesh.take_restarted() {
            self.was_restarted(&broker, now);
        }
        if self.subscriptions.take_changed() {
            self.mesh.set_interest(self.subscriptions.patterns());
        }
        if self.summarised != self.nodes.changes() && self.summary_due <= now.tick {
            self.summarised = self.nodes.changes();
            self.summary_due = now.tick + SUMMARY_EVERY;
            let summary = self.nodes.summarise(self.mesh.me());
            self.mesh.set_summary(summary, now.tick);
        }
        if self.ways != self.mesh.changes() {
            self.ways = self.mesh.changes();
            self.asks.look_at_all(now.tick);
            self.inquiries.look_at_all(now.tick);
            for name in self.outcomes.rewind_all() {
                self.send_outcomes(&name, now);
            }
            self.moves.ways_changed();
            self.spread_head(now);
        }
        while let Some(serial) = self.asks.due(now.tick) {
            self.look_at_ask(serial, now);
        }
        while let Some(serial) = self.inquiries.due(now.tick) {
            self.look_at_inquiry(serial, now);
        }
        while let Some(name) = self.outcomes.overdue(now.tick) {
            self.send_outcomes(&name, now);
        }
        self.send_acknowledgements(now);
        self.tell_presence(now);
        self.notes.append(&mut self.mesh.take_notes());
    }
}

/// Least time between two summaries, ms.
const SUMMARY_EVERY: u64 = 1_000;

/// Until when a forwarded message need be sent on, monotonic ms.
fn lives_until(load: &Load, now: Now) -> Option<u64> {
    let within = match load {
        Load::Message(letter) => letter.expires_within,
        Load::Prepare(prepare) => Some(prepare.reply_within),
        Load::Announce(_) | Load::Commit(_) | Load::Abort(_) | Load::Cancel(_) | Load::AuditHead(_) | Load::Unknown => {
            None
        }
    };
    within.map(|within| now.tick.saturating_add(within))
}

fn is_droppable(load: &Load) -> bool {
    matches!(load, Load::Message(_) | Load::Announce(_) | Load::AuditHead(_) | Load::Unknown)
}

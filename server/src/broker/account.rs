//! How does the ingress account for a request? What brokers report, who is missing, guards over the whole mesh, the last word.

use super::Broker;
use super::answers::{event_headers, json_bytes, json_text};
use super::asks::{Asked, Due, Hears};
use super::event::{Now, SessionId, Terms};
use super::limits::words;
use super::mesh::Cargo;
use super::note::{Note, Weight};
use super::record::{Outcome as OnRecord, Record};
use bytes::Bytes;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::frame::Headers;
use muster_protocol::link::{Happened, Heard, Load, Prepare, Report, RequestKey, Serial, Word};
use muster_protocol::message::{BrokerName, NodeId, RequestId, header};
use muster_protocol::request::{Accepted, Bound, CHUNK, Done, Event, Missing, NodeRef, Outcome, State, Why};

impl Broker {
    /// A numbered report of another broker: taken if it is the next one, and acknowledged.
    pub(super) fn hear_report(&mut self, from: &BrokerName, instance: u64, report: Report, body: Bytes, now: Now) {
        let Report { key, number, event } = report;
        let is_stale = self.mesh.topology().get(from).is_some_and(|record| instance < record.instance);
        if key.broker != *self.mesh.me() || is_stale {
            // What a former life said must not be heard for this one, and an answer would go to this one.
            return;
        }
        // The life in which it was asked: our boot counter rises when somebody was ahead of it.
        let ask = self.asks.get_mut(key.serial).filter(|ask| ask.instance == key.instance);
        match ask.map(|ask| ask.hears(from, instance, number)) {
            Some(Hears::Next) => {
                self.acknowledge.insert((from.clone(), key.clone()), number);
                self.hear(from, key.serial, event, body, now);
            }
            Some(Hears::Again(upto)) => {
                self.acknowledge.insert((from.clone(), key), upto);
            }
            Some(Hears::Nothing) | None => {
                self.say(from, Word::Forgotten(key), Bytes::new(), now);
            }
        }
    }

    /// Acknowledgements go out once for all reports of an event.
    pub(super) fn send_acknowledgements(&mut self, now: Now) {
        for ((to, key), upto) in std::mem::take(&mut self.acknowledge) {
            self.say(&to, Word::Heard(Heard { key, upto }), Bytes::new(), now);
        }
    }

    /// What became of a request at one broker, this one included.
    pub(super) fn hear(&mut self, from: &BrokerName, serial: u64, event: Happened, body: Bytes, now: Now) {
        let Some(ask) = self.asks.get_mut(serial) else { return };
        let id = ask.asked.id.clone();
        match event {
            Happened::Accepted { count, nodes } => {
                let new = ask.accept(from, count, nodes.iter().map(|node| (node.id, node.number)));
                let (total, more) = (ask.count(), ask.is_naming());
                let nodes = nodes.into_iter().filter(|node| new.contains(&node.id));
                let nodes = nodes.map(|node| NodeRef { id: node.id, display: node.display }).collect();
                let mut headers = event_headers(Some(&id), Event::Accepted);
                headers.push(header::COUNT, &total.to_string());
                if more {
                    headers.push(header::MORE, "true");
                }
                self.emit(serial, headers, json_bytes(&Accepted { broker: from.to_string(), nodes }), now);
                self.decide(serial, now);
            }
            Happened::Started { node } => {
                if ask.start(from, node) {
                    let mut headers = event_headers(Some(&id), Event::Started);
                    headers.push(header::NODE, &node.to_string());
                    self.emit(serial, headers, Bytes::new(), now);
                }
            }
            Happened::Reply { node, state, display } => {
                if ask.end(from, node, state) {
                    self.tally.end(state, 1);
                    let mut headers = event_headers(Some(&id), Event::Reply);
                    headers.push(header::NODE, &node.to_string());
                    headers.push(header::STATUS, state.as_str());
                    headers.push(header::DISPLAY, &json_text(&display));
                    headers.push("content-type", "application/json");
                    self.emit(serial, headers, body, now);
                }
            }
            Happened::Ended { state, nodes, reason } => self.end(serial, from, &nodes, state, &reason, now),
            Happened::Refused { code, text } => {
                let missing = Missing {
                    broker: from.to_string(),
                    why: Why::Refused,
                    text: format!("{code}: {text}"),
                    nodes: None,
                };
                ask.give_up(from);
                ask.miss(missing.clone());
                self.emit_missing(serial, &missing, now);
                self.decide(serial, now);
            }
        }
        self.finish(serial, now);
    }

    /// Nodes of a broker end without an answer.
    fn end(&mut self, serial: u64, at: &BrokerName, nodes: &[NodeId], state: State, reason: &str, now: Now) {
        let Some(ask) = self.asks.get_mut(serial) else { return };
        let nodes: Vec<NodeId> = nodes.iter().copied().filter(|node| ask.end(at, *node, state)).collect();
        self.tally.end(state, nodes.len());
        let event = match state {
            State::Lost => Event::Lost,
            State::Cancelled => Event::Cancelled,
            _ => Event::Expired,
        };
        let id = ask.asked.id.clone();
        for nodes in nodes.chunks(CHUNK) {
            let body = json_bytes(&Outcome { nodes: nodes.to_vec(), reason: reason.to_owned() });
            self.emit(serial, event_headers(Some(&id), event), body, now);
        }
    }

    /// An event of a request, to its caller; kept while a guard is undecided.
    fn emit(&mut self, serial: u64, headers: Headers, body: Bytes, now: Now) {
        let Some(ask) = self.asks.get_mut(serial) else { return };
        match &mut ask.held {
            Some(held) => held.push((headers, body)),
            None => {
                let queue = ask.asked.queue.clone();
                self.put_on_queue(&queue, headers, body, now);
            }
        }
    }

    fn emit_missing(&mut self, serial: u64, missing: &Missing, now: Now) {
        let Some(id) = self.asks.get(serial).map(|ask| ask.asked.id.clone()) else { return };
        self.emit(serial, event_headers(Some(&id), Event::Missing), json_bytes(missing), now);
    }

    /// Names the brokers of which it is known from the start that they cannot be asked.
    pub(super) fn say_missing(&mut self, serial: u64, now: Now) {
        let missing: Vec<Missing> = self.asks.get(serial).into_iter().flat_map(|ask| ask.missing()).cloned().collect();
        for missing in &missing {
            self.emit_missing(serial, missing, now);
        }
    }

    /// When every broker has counted, a guard is decided: COMMIT to all, or nothing is delivered anywhere.
    pub(super) fn decide(&mut self, serial: u64, now: Now) {
        let Some(ask) = self.asks.get_mut(serial).filter(|ask| ask.held.is_some() && ask.is_counted()) else { return };
        let (terms, bound, count) = (ask.asked.terms, ask.asked.bound.clone(), ask.count());
        let missing: Vec<Missing> = ask.missing().cloned().collect();
        let (queue, id) = (ask.asked.queue.clone(), ask.asked.id.clone());
        if !missing.is_empty() && !terms.allow_partial {
            // The caller hears of whom first.
            for missing in &missing {
                self.put_on_queue(&queue, event_headers(Some(&id), Event::Missing), json_bytes(missing), now);
            }
            let names: Vec<&str> = missing.iter().map(|missing| missing.broker.as_str()).collect();
            let names = names.join(", ");
            let text = format!("{count} nodes match where they can be counted, without {names}; nothing was delivered");
            return self.refuse_ask(serial, &Refusal::new(Code::Partial, text), count, now);
        }
        if let Some(refusal) = guard(&terms, bound.as_ref(), count) {
            return self.refuse_ask(serial, &refusal, count, now);
        }
        let Some(ask) = self.asks.get_mut(serial) else { return };
        let (held, to) = (ask.held.take(), ask.with_targets());
        self.asks.begin_again(serial, now.tick);
        for (headers, body) in held.unwrap_or_default() {
            self.put_on_queue(&queue, headers, body, now);
        }
        if !terms.dry_run {
            self.commit(serial, to, now);
        }
    }

    /// COMMIT to brokers that have frozen targets, this one included.
    fn commit(&mut self, serial: u64, to: Vec<BrokerName>, now: Now) {
        let me = self.mesh.me().clone();
        let others = to.iter().filter(|broker| **broker != me).cloned().collect();
        self.mesh.forward(others, Load::Commit(Serial { serial }), Cargo::default(), now.tick);
        if let Some(name) = self.name_of(serial) {
            self.committed(&name);
        }
    }

    fn name_of(&self, serial: u64) -> Option<RequestKey> {
        let instance = self.asks.get(serial)?.instance;
        Some(RequestKey { broker: self.mesh.me().clone(), instance, serial })
    }

    /// A guard that does not hold: nothing is delivered, and the caller hears why.
    fn refuse_ask(&mut self, serial: u64, refusal: &Refusal, count: u64, now: Now) {
        let Some(ask) = self.asks.get(serial) else { return };
        let asked = &ask.asked;
        let note = Note::new(Weight::Info, "request refused").with("user", &asked.user).with("request", &asked.id);
        let note = note.with("destination", &asked.destination).with("targets", count).with("code", refusal.code);
        let (id, queue) = (asked.id.clone(), asked.queue.clone());
        self.counters.requests_stopped += 1;
        self.count_refusal(refusal.code);
        self.note(note);
        self.record_if(|broker| broker.outcome(serial, refusal));
        self.forget_ask(serial, now);
        self.put_refusal(&queue, Some(&id), refusal, Some(count), now);
    }

    /// Ends a request without an account: the brokers forget it too.
    pub(super) fn forget_ask(&mut self, serial: u64, now: Now) {
        let name = self.name_of(serial);
        let Some(ask) = self.asks.drop(serial) else { return };
        self.is_asked_no_more(&ask.asked);
        let me = self.mesh.me().clone();
        let others = ask.open_parts().into_iter().filter(|broker| *broker != me).collect();
        self.mesh.forward(others, Load::Abort(Serial { serial }), Cargo::default(), now.tick);
        if let Some(name) = name {
            self.aborted(&name);
        }
    }

    /// One request less is under way, for its session and its user.
    fn is_asked_no_more(&mut self, asked: &Asked) {
        self.usage.accounted(&asked.user);
        if let Some(session) = self.sessions.get_mut(asked.caller) {
            session.in_flight = session.in_flight.saturating_sub(1);
        }
    }

    /// Tells the nodes that have not answered to stop, and how many those are.
    pub(super) fn cancel(&mut self, caller: SessionId, request: &RequestId, now: Now) -> Result<u64, Refusal> {
        let user = self.sessions.get(caller).map(|session| session.user.name.clone()).unwrap_or_default();
        let Some(serial) = self.asks.of_caller(caller, &user, request) else {
            return Err(Refusal::new(
                Code::NoSuchRequest,
                format!("{request}: this connection has no such request under way"),
            ));
        };
        let count = self.asks.get(serial).map_or(0, super::asks::Ask::waiting);
        self.note(
            Note::new(Weight::Info, "request cancelled")
                .with("user", user)
                .with("request", request)
                .with("nodes", count),
        );
        let Some(ask) = self.asks.get_mut(serial) else { return Ok(count) };
        if ask.held.is_some() {
            // Nothing was delivered yet, and nothing will be.
            let text = "cancelled before it was delivered";
            self.refuse_ask(serial, &Refusal::new(Code::Cancelled, text), count, now);
            return Ok(count);
        }
        if !std::mem::replace(&mut ask.cancelled, true) {
            self.asks.begin_again(serial, now.tick);
        }
        let Some(ask) = self.asks.get(serial) else { return Ok(count) };
        let me = self.mesh.me().clone();
        let others = ask.open_parts().into_iter().filter(|broker| *broker != me).collect();
        self.mesh.forward(others, Load::Cancel(Serial { serial }), Cargo::default(), now.tick);
        if let Some(key) = self.name_of(serial).and_then(|name| self.requests.of(&name)) {
            self.cancel_here(key, now);
        }
        Ok(count)
    }

    /// A request wants to be looked at: ask again, give up, or end it.
    pub(super) fn look_at_ask(&mut self, serial: u64, now: Now) {
        match self.asks.look(serial, now.tick, |broker| self.mesh.lost_since(broker)) {
            None => {}
            Some(Due::Again(to)) => self.ask_again(serial, to, now),
            Some(Due::GivenUp(broker, why)) => self.give_up(serial, &broker, why, now),
            Some(Due::Expired) => {
                let open = self.asks.get(serial).map(super::asks::Ask::open_parts).unwrap_or_default();
                for broker in open {
                    let Some(ask) = self.asks.get_mut(serial) else { return };
                    let (nodes, state) =
                        (ask.waiting_at(&broker), if ask.cancelled { State::Cancelled } else { State::Expired });
                    self.end(serial, &broker, &nodes, state, &format!("no word from {broker} in time"), now);
                    self.miss(serial, &broker, "it did not answer in time", now);
                }
                self.decide(serial, now);
                self.finish(serial, now);
            }
        }
    }

    fn ask_again(&mut self, serial: u64, to: Vec<BrokerName>, now: Now) {
        let me = self.mesh.me().clone();
        let to: Vec<BrokerName> = to.into_iter().filter(|broker| *broker != me).collect();
        let Some(ask) = self.asks.get(serial) else { return };
        if ask.cancelled {
            // Who has not counted is asked who its targets are, not to deliver to them.
            let silent = to.iter().filter(|broker| !ask.has_counted(broker)).cloned().collect();
            let prepare = Prepare { hold: true, ..ask.prepare_again(now.tick) };
            self.mesh.forward(silent, Load::Prepare(prepare), Cargo::default(), now.tick);
            self.mesh.forward(to, Load::Cancel(Serial { serial }), Cargo::default(), now.tick);
            return;
        }
        if ask.held.is_none() && ask.is_guarded() {
            if !ask.asked.terms.dry_run {
                self.mesh.forward(to, Load::Commit(Serial { serial }), Cargo::default(), now.tick);
            }
            return;
        }
        let prepare = ask.prepare_again(now.tick);
        let expires = Some(now.tick.saturating_add(prepare.reply_within));
        let cargo = Cargo { body: ask.asked.body.clone(), expires, droppable: false };
        self.mesh.forward(to, Load::Prepare(prepare), cargo, now.tick);
    }

    /// A broker that does not answer, or cannot be reached any more: its nodes are lost, and it is named.
    fn give_up(&mut self, serial: u64, broker: &BrokerName, why: &str, now: Now) {
        let Some(ask) = self.asks.get(serial) else { return };
        let nodes = ask.waiting_at(broker);
        self.end(serial, broker, &nodes, State::Lost, &format!("broker {broker}: {why}"), now);
        self.miss(serial, broker, why, now);
        self.decide(serial, now);
        self.finish(serial, now);
    }

    fn miss(&mut self, serial: u64, broker: &BrokerName, why: &str, now: Now) {
        let Some(ask) = self.asks.get_mut(serial) else { return };
        let scoped = self.access.user(&ask.asked.user).is_none_or(|user| user.scope.is_some());
        let missing = self.mesh.silent(broker, why, scoped);
        if !ask.give_up(broker) {
            ask.miss(missing.clone());
            self.emit_missing(serial, &missing, now);
        }
    }

    /// A broker has started anew: what it had accepted in its life before is lost.
    pub(super) fn was_restarted(&mut self, broker: &BrokerName, now: Now) {
        let instance = self.mesh.topology().get(broker).map_or(0, |record| record.instance);
        for serial in self.asks.of_other_life(broker, instance) {
            self.give_up(serial, broker, "it has started anew", now);
        }
        let of_a_life_before = |key: &RequestKey| key.broker == *broker && key.instance < instance;
        for key in self.requests.from_ingress(of_a_life_before) {
            // Nobody is there any more to be told.
            self.requests.drop(key);
        }
        let owed: Vec<RequestKey> = self.outcomes.keys().filter(|key| of_a_life_before(key)).cloned().collect();
        for key in &owed {
            self.outcomes.forget(key);
        }
    }

    /// If everybody is accounted for, says so: the last word on a request.
    pub(super) fn finish(&mut self, serial: u64, now: Now) {
        let Some((ask, done)) = self.asks.finish(serial) else { return };
        let targets = ask.count();
        let asked = ask.asked;
        self.is_asked_no_more(&asked);
        self.note(done_note(&asked.user, &asked.id, &done));
        self.record(|_| {
            Record::RequestDone(Box::new(OnRecord {
                user: asked.user.clone(),
                session: asked.caller.0,
                request: asked.id.clone(),
                destination: asked.destination.clone(),
                targets,
                states: done.states.clone(),
                without: done.without.iter().map(|missing| missing.broker.clone()).collect(),
                ended: None,
            }))
        });
        self.put_on_queue(&asked.queue, event_headers(Some(&asked.id), Event::Done), json_bytes(&done), now);
    }
}

/// The refusal of a guard that does not hold for this count.
fn guard(terms: &Terms, bound: Option<&Bound>, count: u64) -> Option<Refusal> {
    if let Some(bound) = bound.filter(|bound| count > bound.most) {
        let text = format!("{count} nodes match, and {}; nothing was delivered", words(bound));
        return Some(Refusal::new(Code::TooManyTargets, text));
    }
    if let Some(most) = terms.max_targets.filter(|most| count > *most) {
        let text = format!("{count} nodes match, at most {most} are allowed; nothing was delivered");
        return Some(Refusal::new(Code::TooManyTargets, text));
    }
    let expected = terms.expect_targets.filter(|expected| count != *expected)?;
    let text = format!("{count} nodes match, {expected} were expected; nothing was delivered");
    Some(Refusal::new(Code::UnexpectedTargets, text))
}

fn done_note(user: &str, request: &RequestId, done: &Done) -> Note {
    let states: Vec<String> = done.states.iter().map(|(state, count)| format!("{state}={count}")).collect();
    let note = Note::new(Weight::Info, "request done").with("user", user).with("request", request);
    let note = note.with("states", states.join(" "));
    let without: Vec<&str> = done.without.iter().map(|missing| missing.broker.as_str()).collect();
    if without.is_empty() { note } else { note.with("without", without.join(" ")) }
}

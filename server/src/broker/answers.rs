//! What is told, to whom? Answers and outcomes on reply queues, every node in one state, comings and goings.

use super::Broker;
use super::access::Right;
use super::event::{Answer, Now, Sent, SessionId};
use super::nodes::{Generation, Node, Whole, shown};
use super::note::{Note, Weight};
use super::outbox::Message;
use super::requests::Key;
use super::sessions::Permit;
use bytes::Bytes;
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::frame::Headers;
use muster_protocol::message::{NodeId, RequestId, header};
use muster_protocol::request::{Accepted, Done, Event, NodeRef, Outcome, State};
use serde::Serialize;
use std::sync::Arc;

/// How long cancelled nodes may take to confirm, ms.
const CANCEL_CONFIRM: u64 = 5_000;

/// A node whose coming, going or change is told.
pub(super) struct Announced {
    pub(super) id: NodeId,
    pub(super) collective: Arc<str>,
    pub(super) whole: Whole,
}

impl Broker {
    /// A node's word on a request. Who was not asked, or has answered, is not heard: the agent cannot know that the asker has left.
    pub(super) fn answer(
        &mut self,
        id: SessionId,
        queue: &Destination,
        request: &RequestId,
        answer: Answer,
        sent: &Sent,
        now: Now,
    ) {
        let row = self.sessions.get(id).and_then(|s| s.row);
        let asked = row.and_then(|row| {
            let key = self.requests.find(queue, request)?;
            self.requests.get(key)?.waiting.contains(row).then_some((key, row))
        });
        let Some((key, row)) = asked else {
            self.counters.stray_replies += 1;
            self.note(Note::new(Weight::Detail, "stray reply dropped").with("session", id.0).with("request", request));
            return;
        };
        let node = self.nodes.get(row).map(|n| n.id);
        let (Some(node), Some(caller)) = (node, self.requests.get(key).map(|p| p.asked.caller)) else { return };
        let Answer::Reply(state) = answer else {
            // Once for a node, and without a body: what a node may make its asker read is bounded by one reply.
            if self.requests.start(key, row) {
                let mut headers = event_headers(Some(request), Event::Started);
                headers.push(header::NODE, &node.to_string());
                self.put_on_queue(queue, headers, Bytes::new(), now);
            }
            return;
        };
        let mut headers = event_headers(Some(request), Event::Reply);
        headers.push(header::NODE, &node.to_string());
        headers.push(header::STATUS, state.as_str());
        headers.push(header::DISPLAY, &json_text(&self.display(caller, row)));
        headers.push("content-type", "application/json");
        self.put_on_queue(queue, headers, sent.body.clone(), now);
        self.counters.replies += 1;
        self.requests.settle(key, row, state);
        self.finish(key, now);
    }

    /// The node of a row is gone: whatever it owed is lost, and said at once.
    pub(super) fn lose(&mut self, row: u32, reason: &str, now: Now) {
        for key in self.requests.waiting_for(row) {
            self.settle(key, row, State::Lost, Some(reason), now);
        }
    }

    pub(super) fn settle(&mut self, key: Key, row: u32, state: State, reason: Option<&str>, now: Now) {
        if self.requests.settle(key, row, state) {
            if let Some(reason) = reason {
                self.outcome(key, state, &[row], reason, now);
            }
            self.finish(key, now);
        }
    }

    /// The deadline of a request has come.
    pub(super) fn expire_request(&mut self, key: Key, now: Now) {
        let Some(pending) = self.requests.get(key) else { return };
        let (state, reason) = match pending.cancelled {
            true => (State::Cancelled, "cancelled; the node did not confirm that it stopped"),
            false => (State::Expired, "no answer in time"),
        };
        let rest: Vec<u32> = self.requests.settle_rest(key, state).into_iter().collect();
        for chunk in rest.chunks(muster_protocol::request::CHUNK) {
            self.outcome(key, state, chunk, reason, now);
        }
        self.requests.rested(key);
        self.finish(key, now);
    }

    /// Tells the nodes that have not answered to stop, and how many those are.
    pub(super) fn cancel(&mut self, caller: SessionId, request: &RequestId, now: Now) -> Result<u64, Refusal> {
        let key = self.requests.of_caller(caller, request);
        let Some((key, pending)) = key.and_then(|key| Some((key, self.requests.get(key)?))) else {
            return Err(Refusal::new(
                Code::NoSuchRequest,
                format!("{request}: this connection has no such request under way"),
            ));
        };
        let (destination, rows, user) =
            (pending.asked.destination.clone(), pending.waiting.clone(), pending.asked.user.clone());
        let mut headers = event_headers(Some(request), Event::Cancel);
        headers.push(header::CALLER, &user);
        headers.push(header::ORIGIN, &self.settings.name);
        let body = Bytes::new();
        let message =
            Arc::new(Message { destination: destination.to_string(), headers, body, expires: None, answer_on: None });
        let readers = self.access.granted(Right::Read, &destination);
        for row in &rows {
            let Some(to) = self.nodes.get(row).map(|node| node.session) else { continue };
            let permit = Permit::Topic { destination: &destination, readers: &readers };
            self.hand(to, &message, permit, now);
        }
        self.requests.cancel(key, now.tick.saturating_add(CANCEL_CONFIRM));
        self.note(
            Note::new(Weight::Info, "request cancelled")
                .with("user", user)
                .with("request", request)
                .with("nodes", rows.len()),
        );
        Ok(rows.len())
    }

    /// If everybody is accounted for, says so: the last word on a request.
    pub(super) fn finish(&mut self, key: Key, now: Now) {
        let Some((pending, done)) = self.requests.finish(key) else { return };
        if let Some(session) = self.sessions.get_mut(pending.asked.caller) {
            session.in_flight = session.in_flight.saturating_sub(1);
        }
        self.note(done_note(&pending.asked.user, &pending.asked.id, &done));
        let headers = event_headers(Some(&pending.asked.id), Event::Done);
        self.put_on_queue(&pending.asked.queue, headers, json_bytes(&done), now);
    }

    /// One chunk of the targets, by the ids that were frozen: a node that has gone since is named, whoever took its row is not.
    pub(super) fn accepted(
        &mut self,
        key: Key,
        count: u64,
        rows: &[(u32, NodeId)],
        frozen: Generation,
        more: bool,
        now: Now,
    ) {
        let Some(pending) = self.requests.get(key) else { return };
        let (caller, queue) = (pending.asked.caller, pending.asked.queue.clone());
        let mut headers = event_headers(Some(&pending.asked.id), Event::Accepted);
        headers.push(header::COUNT, &count.to_string());
        if more {
            headers.push(header::MORE, "true");
        }
        let nodes = rows.iter().map(|(row, id)| {
            let is_there = self.nodes.get(*row).is_some_and(|node| node.born <= frozen);
            NodeRef { id: *id, display: if is_there { self.display(caller, *row) } else { serde_json::Map::new() } }
        });
        let body = json_bytes(&Accepted { broker: self.settings.name.clone(), nodes: nodes.collect() });
        self.put_on_queue(&queue, headers, body, now);
    }

    fn outcome(&mut self, key: Key, state: State, rows: &[u32], reason: &str, now: Now) {
        let Some(pending) = self.requests.get(key) else { return };
        let event = match state {
            State::Lost => Event::Lost,
            State::Cancelled => Event::Cancelled,
            _ => Event::Expired,
        };
        let (queue, headers) = (pending.asked.queue.clone(), event_headers(Some(&pending.asked.id), event));
        let nodes = rows.iter().filter_map(|row| self.nodes.get(*row).map(|n| n.id)).collect();
        self.put_on_queue(&queue, headers, json_bytes(&Outcome { nodes, reason: reason.to_owned() }), now);
    }

    /// `refused` on the reply queue; false if there is no such queue.
    pub(super) fn answer_refused(
        &mut self,
        id: SessionId,
        request: Option<&RequestId>,
        reply_to: &Destination,
        refusal: &Refusal,
        count: Option<u64>,
        now: Now,
    ) -> bool {
        let Ok(queue) = self.own_queue(id, reply_to) else { return false };
        let mut headers = event_headers(request, Event::Refused);
        headers.push(header::CODE, refusal.code.as_str());
        headers.push(header::MESSAGE, &refusal.text);
        if let Some(count) = count {
            headers.push(header::COUNT, &count.to_string());
        }
        self.put_on_queue(&queue, headers, Bytes::new(), now);
        true
    }

    /// Puts an event on a reply queue.
    pub(super) fn put_on_queue(&mut self, queue: &Destination, headers: Headers, body: Bytes, now: Now) {
        let Some((owner, subscription)) = self.queues.get(queue).map(|q| (q.owner, q.subscription.clone())) else {
            return;
        };
        let destination = queue.to_string();
        let message = Arc::new(Message { destination, headers, body, expires: None, answer_on: None });
        self.hand(owner, &message, Permit::ReplyQueue { subscription: &subscription }, now);
    }

    /// Display facts of a row, as the user of a session may see them.
    pub(super) fn display(&self, viewer: SessionId, row: u32) -> serde_json::Map<String, serde_json::Value> {
        let node = self.nodes.get(row).map_or(&[][..], Node::display);
        let Some(viewer) = self.sessions.get(viewer) else { return serde_json::Map::new() };
        let hidden = self.access.hidden(&viewer.user);
        shown(node, |path| hidden.touches(path))
    }

    /// Tells the subscribers of `COLLECTIVE.registration`, each as its scope and hidden facts allow.
    pub(super) fn announce(&mut self, what: &str, node: &Announced, reason: Option<&str>, now: Now) {
        let Ok(destination) = Destination::parse(&format!("/topic/{}.registration", node.collective)) else { return };
        let readers = self.access.granted(Right::Read, &destination);
        for to in self.subscriptions.of(&destination) {
            let Some(user) = self.sessions.get(to).map(|s| s.user.clone()) else { continue };
            let (facts, classes) = (&node.whole.effective, &node.whole.document.classes);
            // An event is about one node: it is shown only where a find would show that node.
            if user.scope.as_ref().is_some_and(|scope| !scope.matches(facts.as_value(), classes)) {
                continue;
            }
            let hidden = self.access.hidden(&user);
            let paths = self.access.display().iter().filter(|path| !hidden.touches(path));
            let display: serde_json::Map<String, serde_json::Value> =
                paths.filter_map(|path| Some((path.to_string(), facts.get(path)?.clone()))).collect();
            let body = serde_json::json!({ "event": what, "node": node.id, "display": display, "reason": reason });
            let mut headers = Headers::new();
            headers.push(header::ORIGIN, &self.settings.name);
            headers.push("content-type", "application/json");
            let message = Message {
                destination: destination.to_string(),
                headers,
                body: json_bytes(&body),
                expires: None,
                answer_on: None,
            };
            let permit = Permit::Topic { destination: &destination, readers: &readers };
            self.hand(to, &Arc::new(message), permit, now);
        }
    }
}

fn done_note(user: &str, request: &RequestId, done: &Done) -> Note {
    let states: Vec<String> = done.states.iter().map(|(state, count)| format!("{state}={count}")).collect();
    Note::new(Weight::Info, "request done").with("user", user).with("request", request).with("states", states.join(" "))
}

/// The headers that every event on a reply queue has.
pub(super) fn event_headers(request: Option<&RequestId>, event: Event) -> Headers {
    let mut headers = Headers::new();
    if let Some(request) = request {
        headers.push(header::REQUEST, request.as_str());
    }
    headers.push(header::EVENT, event.as_str());
    headers
}

/// JSON of a value that always has one.
pub(super) fn json_bytes(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

//! What do nodes say, and what is told? Their answers and ends to the ingress, every node in one state; comings and goings.

use super::Broker;
use super::access::{Right, User};
use super::event::{Answer, Now, Sent, SessionId};
use super::mesh::{Asked, Cargo};
use super::nodes::{Node, display, shown};
use super::note::{Note, Weight};
use super::outbox::Message;
use super::requests::Key;
use super::sessions::Permit;
use bytes::Bytes;
use muster_protocol::destination::{Destination, DestinationError};
use muster_protocol::error::Refusal;
use muster_protocol::facts::Facts;
use muster_protocol::frame::Headers;
use muster_protocol::link::{Announce, Before, Happened, Load, RequestKey, Word};
use muster_protocol::message::{BrokerName, NodeId, RequestId, header};
use muster_protocol::request::{CHUNK, Event, State};
use roaring::RoaringBitmap;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// How long cancelled nodes may take to confirm, ms.
const CANCEL_CONFIRM: u64 = 5_000;

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
        let user = self.requests.get(key).map(|p| p.asked.user.clone()).unwrap_or_default();
        let Some(node) = self.nodes.get(row).map(|n| n.id) else { return };
        let Answer::Reply(state) = answer else {
            // Once for a node, and without a body: what a node may make its asker read is bounded by one reply.
            if self.requests.start(key, row) {
                self.report(key, Happened::Started { node }, Bytes::new(), now);
            }
            return;
        };
        let display = self.access.user(&user).map(|user| self.display(user, row)).unwrap_or_default();
        self.counters.replies += 1;
        self.requests.settle(key, row);
        self.report(key, Happened::Reply { node, state, display }, sent.body.clone(), now);
        self.close_request(key);
    }

    /// The node of a row is gone: whatever it owed is lost, and said at once.
    pub(super) fn lose(&mut self, row: u32, reason: &str, now: Now) {
        for key in self.requests.waiting_for(row) {
            self.settle(key, row, State::Lost, reason, now);
        }
    }

    /// A new policy holds: what nodes say, and have said but nobody has heard, is kept from callers who do not see them any more.
    pub(super) fn withhold(&mut self, now: Now) {
        const WHY: &str = "the policy does not let the caller see this node any more";
        let mut sees: HashMap<Arc<str>, Option<RoaringBitmap>> = HashMap::new();
        let callers = self.requests.callers().chain(self.outcomes.callers());
        for caller in callers.cloned().collect::<BTreeSet<_>>() {
            let rows = match self.access.user(&caller).filter(|user| user.is_usable(now.unix / 1000)) {
                None => Some(RoaringBitmap::new()),
                Some(user) => user.scope.as_ref().map(|scope| self.nodes.matching(None, Some(scope))),
            };
            sees.insert(caller, rows);
        }
        for key in self.requests.from_ingress(|_| true) {
            let Some(pending) = self.requests.get(key) else { continue };
            let Some(Some(rows)) = sees.get(&pending.asked.user) else { continue };
            for row in &pending.waiting - rows {
                self.settle(key, row, State::Lost, WHY, now);
            }
        }
        let nodes = &self.nodes;
        let sees = |caller: &str, node: &NodeId| match sees.get(caller) {
            Some(Some(rows)) => nodes.row(node).is_some_and(|row| rows.contains(row)),
            _ => true,
        };
        self.outcomes.withhold(sees, WHY);
    }

    /// A node ends without an answer.
    pub(super) fn settle(&mut self, key: Key, row: u32, state: State, reason: &str, now: Now) {
        if self.requests.settle(key, row) {
            let nodes = self.nodes.get(row).map(|node| node.id).into_iter().collect();
            self.report(key, Happened::Ended { state, nodes, reason: reason.to_owned() }, Bytes::new(), now);
            self.close_request(key);
        }
    }

    /// All that have not answered end in one state.
    pub(super) fn settle_all(&mut self, key: Key, state: State, reason: &str, now: Now) {
        let rest = self.requests.settle_rest(key);
        let mut rest: Vec<NodeId> = rest.iter().filter_map(|row| self.nodes.get(row).map(|node| node.id)).collect();
        // Not by row: see `Broker::targets`.
        rest.sort_unstable();
        for nodes in rest.chunks(CHUNK) {
            let happened = Happened::Ended { state, nodes: nodes.to_vec(), reason: reason.to_owned() };
            self.report(key, happened, Bytes::new(), now);
        }
        self.close_request(key);
    }

    /// The deadline of a request has come.
    pub(super) fn expire_request(&mut self, key: Key, now: Now) {
        let Some(pending) = self.requests.get(key) else { return };
        let (held, cancelled) = (pending.held.is_some(), pending.cancelled);
        self.requests.rested(key);
        if held {
            // Whoever asked has not said whether it holds: nothing was delivered, and nothing will be.
            self.requests.release(key, now.tick);
            self.requests.rested(key);
            self.settle_all(key, State::Lost, "the request was not confirmed in time; it was not delivered", now);
        } else if cancelled {
            self.settle_all(key, State::Cancelled, "cancelled; the node did not confirm that it stopped", now);
        } else {
            self.settle_all(key, State::Expired, "no answer in time", now);
        }
    }

    /// Tells the nodes here that have not answered to stop.
    pub(super) fn cancel_here(&mut self, key: Key, now: Now) {
        let Some(pending) = self.requests.get(key).filter(|pending| !pending.cancelled) else { return };
        if pending.held.is_some() {
            // COMMIT is lost, or waits for its turn: nothing was delivered, and nothing will be.
            self.requests.cancel(key, now.tick);
            self.requests.release(key, now.tick);
            return self.settle_all(key, State::Cancelled, "cancelled before it was delivered", now);
        }
        let asked = &pending.asked;
        let (destination, rows) = (asked.destination.clone(), pending.waiting.clone());
        let mut headers = event_headers(Some(&asked.id), Event::Cancel);
        headers.push(header::CALLER, &asked.user);
        headers.push(header::ORIGIN, asked.key.broker.as_str());
        let body = Bytes::new();
        let message = Arc::new(Message { destination: destination.text(), headers, body, ..Message::default() });
        let readers = self.access.granted(Right::Read, &destination);
        for row in &rows {
            let Some(to) = self.nodes.get(row).map(|node| node.session) else { continue };
            let permit = Permit::Topic { destination: &destination, readers: &readers };
            self.hand(to, &message, permit, now);
        }
        self.requests.cancel(key, now.tick.saturating_add(CANCEL_CONFIRM));
    }

    /// If nobody here owes an answer any more, the request is over here.
    pub(super) fn close_request(&mut self, key: Key) {
        let Some(name) = self.requests.get(key).map(|pending| pending.asked.key.clone()) else { return };
        if self.requests.finish(key) && self.outcomes.is_settled(&name) {
            self.outcomes.forget(&name);
        }
    }

    /// Tells the ingress what became of a request here: this broker's own account at once, another one's by numbered reports.
    pub(super) fn report(&mut self, key: Key, event: Happened, body: Bytes, now: Now) {
        let Some(asked) = self.requests.get(key).map(|pending| &pending.asked) else { return };
        let (name, caller) = (asked.key.clone(), asked.user.clone());
        let me = self.mesh.me().clone();
        if name.broker == me {
            self.hear(&me, name.serial, event, body, now);
        } else {
            self.outcomes.push(&name, &caller, event, body, now.tick);
            self.send_outcomes(&name, now);
        }
    }

    /// Sends what is owed of a request, as far as its window allows.
    pub(super) fn send_outcomes(&mut self, name: &RequestKey, now: Now) {
        if !self.mesh.reaches(&name.broker) {
            return self.outcomes.rest(name, now.tick);
        }
        for (report, body) in self.outcomes.take(name, now.tick) {
            self.say(&name.broker, Word::Report(report), body, now);
        }
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
        self.put_refusal(&queue, request, refusal, count, now);
        true
    }

    /// `refused` on a reply queue, by the broker's name for it.
    pub(super) fn put_refusal(
        &mut self,
        queue: &Destination,
        request: Option<&RequestId>,
        refusal: &Refusal,
        count: Option<u64>,
        now: Now,
    ) {
        let mut headers = event_headers(request, Event::Refused);
        headers.push(header::CODE, refusal.code.as_str());
        headers.push(header::MESSAGE, &refusal.text);
        if let Some(count) = count {
            headers.push(header::COUNT, &count.to_string());
        }
        if let Some(ms) = refusal.retry_after {
            headers.push(header::RETRY_AFTER, &ms.to_string());
        }
        self.put_on_queue(queue, headers, Bytes::new(), now);
    }

    /// Puts an event on a reply queue.
    pub(super) fn put_on_queue(&mut self, queue: &Destination, headers: Headers, body: Bytes, now: Now) {
        let Some((owner, subscription)) = self.queues.get(queue).map(|q| (q.owner, q.subscription.clone())) else {
            return;
        };
        let destination = queue.text();
        let message = Arc::new(Message { destination, headers, body, ..Message::default() });
        self.hand(owner, &message, Permit::ReplyQueue { subscription: &subscription }, now);
    }

    /// Display facts of a row, as a user may see them.
    pub(super) fn display(&self, viewer: &User, row: u32) -> serde_json::Map<String, serde_json::Value> {
        let node = self.nodes.get(row).map_or(&[][..], Node::display);
        let hidden = self.access.hidden(viewer);
        shown(node, |path| hidden.touches(path))
    }

    /// Whether somebody listens to `COLLECTIVE.registration`, here or elsewhere.
    pub(super) fn is_announced(&self, collective: &str, now: Now) -> bool {
        let Ok(destination) = registration(collective) else { return false };
        !self.subscriptions.of(&destination).is_empty() || !self.listeners(&destination, now).is_empty()
    }

    /// The other brokers where somebody listens to a registration topic.
    fn listeners(&self, destination: &Destination, now: Now) -> Vec<BrokerName> {
        self.mesh.audience(Some(destination), Asked { if_wanted: true, ..Asked::default() }, now.tick).to
    }

    /// Tells the subscribers of `COLLECTIVE.registration`, here and at the brokers that have some, of a node of this broker.
    pub(super) fn announce(&mut self, collective: &str, announced: Announced<'_>, now: Now) {
        let Ok(destination) = registration(collective) else { return };
        let Announced { event, node, facts, classes, reason, before } = announced;
        let announce = Announce {
            event: event.to_owned(),
            node,
            destination: destination.to_string(),
            reason: reason.map(str::to_owned),
            facts: facts.shared(),
            classes: classes.clone(),
            before,
        };
        let me = self.mesh.me().clone();
        self.announce_here(&me, &destination, &announce, now);
        let to = self.listeners(&destination, now);
        if !to.is_empty() {
            let cargo = Cargo { body: Bytes::new(), expires: None, droppable: true };
            self.mesh.forward(to, Load::Announce(Box::new(announce)), cargo, now.tick);
        }
    }

    /// Tells the subscribers here of a node of any broker, each as its scope and hidden facts allow.
    pub(super) fn announce_here(
        &mut self,
        origin: &BrokerName,
        destination: &Destination,
        announce: &Announce,
        now: Now,
    ) {
        let readers = self.access.granted(Right::Read, destination);
        let display = display(&self.access, &announce.facts);
        let before = announce.before.as_ref().map(|before| (before.facts(&announce.facts), before.labels));
        for to in self.subscriptions.of(destination) {
            let Some(user) = self.sessions.get(to).map(|s| s.user.clone()) else { continue };
            // An event is about one node: it is shown only where a find would show that node.
            let inside =
                |facts: &Value| user.scope.as_ref().is_none_or(|scope| scope.matches(facts, &announce.classes));
            if !inside(&announce.facts) {
                continue;
            }
            let hidden = self.access.hidden(&user);
            // That something has changed which is hidden must not show either. A node that comes into the scope is news.
            let is_news = |(facts, labels): &(Value, bool)| {
                *labels || !inside(facts) || hidden.shows_change(facts, &announce.facts)
            };
            if !before.as_ref().is_none_or(is_news) {
                continue;
            }
            let display = shown(&display, |path| hidden.touches(path));
            let body = serde_json::json!({
                "event": announce.event,
                "node": announce.node,
                "display": display,
                "reason": announce.reason,
            });
            let mut headers = Headers::new();
            headers.push(header::ORIGIN, origin.as_str());
            headers.push("content-type", "application/json");
            let message =
                Message { destination: destination.text(), headers, body: json_bytes(&body), ..Message::default() };
            let permit = Permit::Topic { destination, readers: &readers };
            self.hand(to, &Arc::new(message), permit, now);
        }
    }
}

/// A node of this broker that has come, gone or changed.
#[derive(Debug)]
pub(super) struct Announced<'a> {
    /// `registered`, `changed` or `gone`.
    pub(super) event: &'a str,
    pub(super) node: NodeId,
    /// Effective facts.
    pub(super) facts: &'a Facts,
    pub(super) classes: &'a BTreeSet<String>,
    /// Why it is gone.
    pub(super) reason: Option<&'a str>,
    /// What it was, if it has changed.
    pub(super) before: Option<Before>,
}

fn registration(collective: &str) -> Result<Destination, DestinationError> {
    Destination::parse(&format!("/topic/{collective}.registration"))
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

pub(super) fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

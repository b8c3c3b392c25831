//! The broker as a value: frames in, items out, time by hand.

mod across;
mod limits;
mod oversight;
mod records;
mod secrecy;
mod witness;

use super::access::{Certificate, Names, Peer, Policy};
use super::errand::{Amended, Chore, Errand, Outcome};
use super::event::{Event, NodeHello, Now, Opened, SessionId, Ticket};
use super::nodes::Memory;
use super::outbox::{Item, OutboxReader, outbox};
use super::{Broker, Settings};
use crate::intake::Intake;
use muster_protocol::error::Code;
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Command, Frame, Version};
use muster_protocol::message::{NodeId, NodeKey};
use muster_protocol::policy::DiffAnswer;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

const PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$7HqG0VZ1c5mTn5rTzxS8mGv5Q5b6X1mM9pV0q2m5m0Q";

const POLICY: &str = r#"
asserted = ["customer", "datacenter"]
display = ["customer", "os.family", "hostname"]
[[collective]]
name = "prod"
[users.noc]
kind = "operator"
password = "PHC"
groups = ["noc"]
[users.acme]
kind = "operator"
password = "PHC"
groups = ["noc-acme"]
[users.node-acme]
kind = "agent"
password = "PHC"
groups = ["agents"]
facts = { customer = "acmeinc", datacenter = "a" }
[users.node-globex]
kind = "agent"
password = "PHC"
groups = ["agents"]
facts = { customer = "globex", datacenter = "b" }
[groups.noc]
all = true
[groups.noc-acme]
scope = "customer=acmeinc"
[groups.agents]
[[acl]]
destination = "/topic/prod.*.*"
read = ["agents"]
write = ["noc", "noc-acme"]
[[acl]]
destination = "/topic/prod.registration"
read = ["noc", "noc-acme"]
[[acl]]
destination = "/topic/news.>"
read = ["noc", "noc-acme"]
write = ["noc"]
[[acl]]
destination = "/muster/>"
write = ["noc", "noc-acme"]
[[acl]]
destination = "/muster/facts"
write = ["agents"]
"#;

/// A broker with its sessions.
struct House {
    broker: Broker,
    now: u64,
    bits: u64,
    last: u64,
    outboxes: HashMap<u64, (OutboxReader, Intake)>,
}

/// What a session got, as it would read it.
#[derive(Debug, PartialEq)]
struct Got {
    command: &'static str,
    headers: HashMap<String, String>,
    body: String,
}

impl Got {
    fn event(&self) -> &str {
        self.headers.get("muster-event").map_or("", String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

fn policy(text: &str) -> Arc<Policy> {
    Arc::new(Policy::parse(&text.replace("PHC", PHC)).expect("a policy"))
}

fn node_id(number: u8) -> NodeId {
    NodeId::of(&NodeKey::new([number; 32]))
}

fn send(destination: &str) -> Frame {
    Frame::new(Command::Send).header("destination", destination)
}

impl House {
    fn new() -> House {
        House::of("noc1", policy(POLICY))
    }

    fn of(name: &str, policy: Arc<Policy>) -> House {
        let memory = Memory { gone_for: 3_600_000, gone_most: 100 };
        let settings = Settings {
            name: muster_protocol::message::BrokerName::parse(name).expect("a name"),
            instance: 1,
            incarnation: 1,
            born: 0,
            subscriptions: 4,
            in_flight: 2,
            sessions_per_user: 0,
            memory,
        };
        House { broker: Broker::new(settings, policy), now: 0, bits: 7, last: 0, outboxes: HashMap::new() }
    }

    /// One event, and all the work that it leaves.
    fn handle(&mut self, event: Event) {
        self.handle_once(event);
        while self.broker.next_deadline(self.time()).is_some_and(|at| at <= self.now) {
            self.handle_once(Event::Wake);
        }
    }

    fn handle_once(&mut self, event: Event) {
        let (now, bits) = (self.time(), &mut self.bits);
        let mut random = || {
            *bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *bits
        };
        self.broker.handle(event, now, &mut random);
        self.broker.take_notes();
    }

    /// Another policy, as after an edit of the file by hand.
    fn enforce(&mut self, policy: Arc<Policy>) {
        self.handle(Event::HandEdit { text: "".into(), policy: policy.clone(), base: None });
        let [Errand { id, chore: Chore::Amend(_) }] = self.broker.take_errands()[..] else { panic!("no errand") };
        let made = Amended { edition: Some(policy.into()), changes: DiffAnswer::default() };
        self.handle(Event::Done { errand: id, outcome: Box::new(Outcome::Amended(Ok(made))) });
    }

    fn time(&self) -> Now {
        Now { tick: self.now, unix: 1_700_000_000_000 + self.now }
    }

    /// One of many registered nodes of acme.
    fn many(&mut self, number: u16) -> u64 {
        let mut key = [9; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        let hello = NodeHello { id: NodeId::of(&NodeKey::new(key)), number: 1, clock_skew: 0 };
        let session = self.open_with("node-acme", Some(hello), 1 << 20);
        self.frame(
            session,
            Frame::new(Command::Subscribe).header("destination", "/topic/prod.*.*").header("id", "all"),
        );
        self.frame(
            session,
            Frame::new(Command::Subscribe).header("destination", "/temp-queue/agent").header("id", "agent"),
        );
        self.register(session, json!({}));
        session
    }

    fn open_with(&mut self, user: &str, node: Option<NodeHello>, limit: usize) -> u64 {
        self.open_by(user, None, node, limit)
    }

    /// By a token of that moment (Unix seconds), or by password.
    fn open_by(&mut self, user: &str, token_made: Option<u64>, node: Option<NodeHello>, limit: usize) -> u64 {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        self.open_from(peer, user, token_made, node, limit)
    }

    fn open_from(
        &mut self,
        peer: Peer,
        user: &str,
        token_made: Option<u64>,
        node: Option<NodeHello>,
        limit: usize,
    ) -> u64 {
        self.last += 1;
        let (outbox, reader) = outbox(limit);
        let (user, password_hash) = (user.to_owned(), PHC.to_owned());
        self.outboxes.insert(self.last, (reader, Intake::new(Version::V1_2, node.is_some())));
        self.handle(Event::Opened(Box::new(Opened {
            session: SessionId(self.last),
            user,
            password_hash,
            token_made,
            node,
            peer,
            outbox,
        })));
        self.last
    }

    fn open(&mut self, user: &str) -> u64 {
        let session = self.open_with(user, None, 1 << 20);
        assert_eq!(self.take(session)[0].command, "CONNECTED");
        self.frame(session, Frame::new(Command::Subscribe).header("destination", "/temp-queue/me").header("id", "me"));
        session
    }

    /// A node that has subscribed and registered.
    fn agent(&mut self, user: &str, number: u8, facts: Value) -> u64 {
        let session = self.connect(user, number, 1);
        self.register(session, facts);
        let got = self.take(session);
        assert_eq!(got.iter().map(Got::event).collect::<Vec<_>>(), ["", "registered"], "{got:?}");
        session
    }

    fn connect(&mut self, user: &str, number: u8, session_number: u64) -> u64 {
        let hello = NodeHello { id: node_id(number), number: session_number, clock_skew: 0 };
        let session = self.open_with(user, Some(hello), 1 << 20);
        self.frame(
            session,
            Frame::new(Command::Subscribe).header("destination", "/topic/prod.*.*").header("id", "all"),
        );
        self.frame(
            session,
            Frame::new(Command::Subscribe).header("destination", "/temp-queue/agent").header("id", "agent"),
        );
        session
    }

    fn register(&mut self, session: u64, facts: Value) {
        self.document(
            session,
            json!({ "facts": facts, "classes": ["web"], "modules": { "node": "x", "service": "y" } }),
        );
    }

    fn document(&mut self, session: u64, document: Value) {
        let hash = NodeDocument::from_value(document.clone()).expect("a document").hash();
        let frame = send("/muster/facts").header("muster-hash", &hash).header("reply-to", "/temp-queue/agent");
        self.frame(session, frame.with_body(document.to_string()));
    }

    fn frame(&mut self, session: u64, frame: Frame) {
        let input = self.outboxes.get_mut(&session).expect("a session").1.input(frame, 0);
        self.handle(Event::Inputs { session: SessionId(session), inputs: vec![input], ticket: Ticket(None) });
    }

    fn close(&mut self, session: u64) {
        self.handle(Event::Closed { session: SessionId(session), reason: "connection closed".into(), refusal: None });
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.handle(Event::Wake);
    }

    fn request(&mut self, session: u64, destination: &str, target: &str, more: &[(&str, &str)]) {
        let mut frame = send(destination).header("muster-request", "r1").header("reply-to", "/temp-queue/me");
        frame = frame.header("muster-target", target);
        for (name, value) in more {
            frame = frame.header(name, value);
        }
        self.frame(session, frame.with_body("{}"));
    }

    fn query(&mut self, session: u64, what: &str, target: &str, body: Value) -> Got {
        let mut frame =
            send(&format!("/muster/{what}")).header("muster-request", "q").header("reply-to", "/temp-queue/me");
        if !target.is_empty() {
            frame = frame.header("muster-target", target);
        }
        self.frame(session, frame.with_body(body.to_string()));
        self.take(session).remove(0)
    }

    fn answer(&mut self, agent: u64, request: &Got, status: &str, body: &str) {
        let frame = send(request.header("reply-to")).header("muster-request", request.header("muster-request"));
        let frame = frame.header("muster-event", "reply").header("muster-status", status);
        self.frame(agent, frame.with_body(body.to_owned()));
    }

    fn take(&mut self, session: u64) -> Vec<Got> {
        let items = super::outbox::tests::drain(&self.outboxes[&session].0, self.now);
        items.into_iter().map(got).collect()
    }

    fn events(&mut self, session: u64) -> Vec<String> {
        self.take(session).iter().map(|got| got.event().to_owned()).collect()
    }
}

fn got(item: Item) -> Got {
    let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    match item {
        Item::Connected { .. } => Got { command: "CONNECTED", headers: HashMap::new(), body: String::new() },
        Item::Receipt(id) => Got { command: "RECEIPT", headers: text(&[("receipt-id", &id)]), body: String::new() },
        Item::Close(Some(refusal)) => {
            let headers = text(&[("muster-code", refusal.code.as_str()), ("message", &refusal.text)]);
            Got { command: "ERROR", headers, body: String::new() }
        }
        Item::Close(None) => Got { command: "END", headers: HashMap::new(), body: String::new() },
        Item::Message { message, .. } => {
            let mut headers: HashMap<String, String> =
                message.headers.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            headers.insert("destination".into(), message.destination.to_string());
            Got { command: "MESSAGE", headers, body: String::from_utf8_lossy(&message.body).into_owned() }
        }
    }
}

#[test]
fn a_request_reaches_exactly_the_nodes_that_match_and_every_one_ends_in_one_state() {
    let mut house = House::new();
    let debian = house.agent("node-acme", 1, json!({"os": {"family": "Debian"}}));
    let other = house.agent("node-acme", 2, json!({"os": {"family": "Debian"}}));
    let redhat = house.agent("node-globex", 3, json!({"os": {"family": "RedHat"}}));
    let noc = house.open("noc");
    house.request(noc, "/topic/prod.service.status", "os.family=Debian", &[]);
    assert!(house.take(redhat).is_empty());
    let asked = house.take(debian).remove(0);
    assert_eq!(asked.header("muster-caller"), "noc");
    assert_eq!(asked.header("muster-origin"), "noc1");
    assert_eq!(asked.header("muster-target"), "os.family = Debian");
    let accepted = house.take(noc).remove(0);
    assert_eq!((accepted.event(), accepted.header("muster-count")), ("accepted", "2"));
    assert_eq!(accepted.json()["nodes"][0]["display"], json!({"customer": "acmeinc", "os.family": "Debian"}));

    house.answer(debian, &asked, "ok", r#"{"state":"running"}"#);
    house.answer(debian, &asked, "failed", "{}");
    house.answer(redhat, &asked, "ok", "{}");
    let replies = house.take(noc);
    assert_eq!(replies.len(), 1, "a second reply and one from a node that was not asked are dropped: {replies:?}");
    assert_eq!(
        (replies[0].header("muster-status"), replies[0].header("muster-node")),
        ("ok", node_id(1).to_string().as_str())
    );
    house.close(other);
    let end = house.take(noc);
    assert_eq!(end.iter().map(Got::event).collect::<Vec<_>>(), ["lost", "done"]);
    assert_eq!(end[0].json(), json!({"nodes": [node_id(2)], "reason": "connection closed"}));
    assert_eq!(end[1].json(), json!({"states": {"ok": 1, "lost": 1}}));
    assert_eq!(house.broker.counters().stray_replies, 2);
}

#[test]
fn what_is_not_answered_in_time_expires_and_what_is_cancelled_is_told() {
    let mut house = House::new();
    let agent = house.agent("node-acme", 1, json!({}));
    let noc = house.open("noc");
    house.request(noc, "/topic/prod.node.ping", "all", &[("muster-reply-within", "2000")]);
    house.take(noc);
    house.pass(1999);
    assert!(house.take(noc).is_empty());
    house.pass(1);
    assert_eq!(house.events(noc), ["expired", "done"]);
    house.take(agent);

    house.request(noc, "/topic/prod.node.ping", "all", &[]);
    assert_eq!(house.events(noc), ["accepted"]);
    let asked = house.take(agent).remove(0);
    assert_eq!(house.query(noc, "cancel", "", json!({"request": "r1"})).json(), json!({"cancelled": 1}));
    assert_eq!(house.events(agent), ["cancel"]);
    house.answer(agent, &asked, "cancelled", "{}");
    assert_eq!(house.events(noc), ["reply", "done"]);

    house.request(noc, "/topic/prod.node.ping", "all", &[]);
    house.query(noc, "cancel", "", json!({"request": "r1"}));
    house.take(noc);
    house.pass(5000);
    let end = house.take(noc);
    assert_eq!(end[0].event(), "cancelled");
    assert_eq!(end[1].json(), json!({"states": {"cancelled": 1}}));
    let unknown = house.query(noc, "cancel", "", json!({"request": "r1"}));
    assert_eq!(unknown.header("muster-code"), Code::NoSuchRequest.as_str());
}

#[test]
fn guards_refuse_before_anything_is_delivered_and_the_connection_lives() {
    let mut house = House::new();
    let agent = house.agent("node-acme", 1, json!({}));
    let noc = house.open("noc");
    for (target, headers, code, count) in [
        ("all", &[("muster-max-targets", "0")][..], Code::TooManyTargets, "1"),
        ("all", &[("muster-expect-targets", "2")], Code::UnexpectedTargets, "1"),
        ("os.family=", &[], Code::BadFilter, ""),
        ("hostname=web1", &[], Code::HiddenFact, ""),
        ("not has networking", &[], Code::HiddenFact, ""),
    ] {
        house.request(noc, "/topic/prod.service.stop", target, headers);
        let refused = house.take(noc).remove(0);
        assert_eq!((refused.event(), refused.header("muster-code")), ("refused", code.as_str()));
        assert_eq!(refused.header("muster-count"), count);
    }
    assert!(house.take(agent).is_empty());
    house.request(noc, "/topic/prod.service.stop", "all", &[("muster-dry-run", "true")]);
    let dry = house.take(noc);
    assert_eq!(dry.iter().map(Got::event).collect::<Vec<_>>(), ["accepted", "done"]);
    assert_eq!((dry[0].header("muster-count"), dry[1].json()), ("1", json!({"states": {}})));
    assert!(house.take(agent).is_empty());
    let narrowed = format!("{},{}", node_id(1), node_id(9));
    house.request(
        noc,
        "/topic/prod.service.stop",
        "all",
        &[("muster-nodes", &narrowed), ("muster-expect-targets", "1")],
    );
    assert_eq!(house.events(agent).len(), 1);
    house.take(noc);
    house.request(noc, "/topic/prod.service.stop", "all", &[]);
    assert_eq!(house.take(noc)[0].header("muster-code"), "duplicate-request");
    house.request(noc, "/topic/prod.absent.stop", "all", &[("muster-request", "r2")]);
    assert_eq!(house.take(noc)[0].header("muster-code"), "duplicate-request", "the first header counts");
}

#[test]
fn a_scope_narrows_everything_and_all_is_a_right() {
    let mut house = House::new();
    let inside = house.agent("node-acme", 1, json!({"customer": "globex"}));
    let outside = house.agent("node-globex", 2, json!({"customer": "acmeinc"}));
    let acme = house.open("acme");
    house.request(acme, "/topic/prod.node.ping", "all", &[]);
    assert_eq!(house.take(acme)[0].header("muster-code"), "all-not-allowed");
    house.request(acme, "/topic/prod.node.ping", "class=web", &[]);
    assert_eq!(house.take(acme)[0].header("muster-count"), "1");
    assert_eq!(
        (house.take(inside).len(), house.take(outside).len()),
        (1, 0),
        "asserted facts count, reported ones do not"
    );
    let found = house.query(acme, "find", "all", json!({"facts": ["customer"]})).json();
    assert_eq!((&found["count"], &found["nodes"][0]["id"]), (&json!(1), &json!(node_id(1))));
    let report = house.query(acme, "report", "all", json!({"fact": "customer"})).json();
    assert_eq!(report["values"], json!([{"value": "acmeinc", "count": 1}]));
    assert_eq!(house.query(acme, "node", "", json!({"node": node_id(2)})).header("muster-code"), "no-such-node");
    assert_eq!(house.query(acme, "node", "", json!({"node": node_id(1)})).json()["facts"]["customer"], "acmeinc");
    house.close(outside);
    assert_eq!(house.query(acme, "node", "", json!({"node": node_id(2)})).header("muster-code"), "no-such-node");
    assert_eq!(house.query(acme, "find", "all", json!({})).json().get("gone"), None);
    let untargeted = send("/topic/prod.registration");
    house.frame(acme, untargeted);
    assert_eq!(house.take(acme)[0].header("muster-code"), "denied");
}

#[test]
fn hidden_facts_are_refused_or_removed_everywhere() {
    let mut house = House::new();
    house.agent("node-acme", 1, json!({"hostname": "web1", "networking": {"ip": "192.0.2.1"}, "kernel": "Linux"}));
    let noc = house.open("noc");
    for (what, target, body) in [
        ("find", "hostname=web1", json!({})),
        ("find", "all", json!({"facts": ["networking.ip"]})),
        ("report", "all", json!({"fact": "hostname"})),
        ("report", "networking.ip=/192/", json!({"fact": "kernel"})),
        ("node", "", json!({"node": node_id(1), "explain": "has networking"})),
    ] {
        assert_eq!(
            house.query(noc, what, target, body.clone()).header("muster-code"),
            "hidden-fact",
            "{what} {target} {body}"
        );
    }
    let node = house.query(noc, "node", "", json!({"node": node_id(1)}));
    assert!(!node.body.contains("web1") && !node.body.contains("192.0.2.1"), "{}", node.body);
    assert_eq!(node.json()["facts"]["kernel"], "Linux");
    let found = house.query(noc, "find", "all", json!({}));
    assert!(!found.body.contains("web1"), "hostname is a display fact, but hidden: {}", found.body);
}

#[test]
fn a_node_matches_nothing_before_it_has_registered_and_is_remembered_when_gone() {
    let mut house = House::new();
    let agent = house.connect("node-acme", 1, 1);
    let noc = house.open("noc");
    let found = house.query(noc, "find", "not has kernel", json!({})).json();
    assert_eq!((&found["count"], &found["registering"]), (&json!(0), &json!(1)));
    house.register(agent, json!({"kernel": "Linux"}));
    assert_eq!(house.query(noc, "find", "kernel=Linux", json!({})).json()["count"], 1);
    house.close(agent);
    let found = house.query(noc, "find", "kernel=Linux", json!({})).json();
    assert_eq!((&found["count"], &found["gone"][0]["reason"]), (&json!(0), &json!("connection closed")));
    assert_eq!(house.query(noc, "node", "", json!({"node": node_id(1)})).json()["state"], "gone");
    let agent = house.connect("node-acme", 1, 2);
    house.register(agent, json!({"kernel": "Linux"}));
    assert_eq!(house.query(noc, "find", "all", json!({})).json().get("gone"), None);
    house.close(agent);
    house.pass(3_600_000);
    assert_eq!(house.query(noc, "find", "all", json!({})).json().get("gone"), None, "forgotten after an hour");
}

#[test]
fn a_delta_changes_the_index_and_a_document_past_a_limit_changes_nothing() {
    let mut house = House::new();
    let agent = house.agent("node-acme", 1, json!({"a": 1, "b": {"c": "x"}}));
    let old = NodeDocument::from_value(
        json!({"facts": {"a": 1, "b": {"c": "x"}}, "classes": ["web"], "modules": {"node": "x", "service": "y"}}),
    );
    let old = old.expect("a document");
    let patch = json!({"facts": {"b": {"c": "y"}}, "classes": ["db"]});
    let new = old.merge_patch(&patch).expect("a document");
    let delta = send("/muster/facts").header("muster-hash", &new.hash()).header("muster-base", &old.hash());
    house.frame(agent, delta.header("reply-to", "/temp-queue/agent").with_body(patch.to_string()));
    assert_eq!(house.events(agent), ["registered"]);
    let noc = house.open("noc");
    for (filter, count) in
        [("b.c=y and a=1", 1), ("b.c=x", 0), ("class=db", 1), ("class=web", 0), ("customer=acmeinc", 1)]
    {
        assert_eq!(house.query(noc, "find", filter, json!({})).json()["count"], count, "{filter}");
    }
    let bad = send("/muster/facts").header("muster-hash", "x").header("reply-to", "/temp-queue/agent").with_body("[1]");
    house.frame(agent, bad);
    let refused = house.take(agent).remove(0);
    assert_eq!((refused.event(), refused.header("muster-code")), ("refused", "bad-facts"));
    assert_eq!(house.query(noc, "find", "b.c=y", json!({})).json()["count"], 1);
}

#[test]
fn the_higher_session_number_wins_and_the_older_session_is_closed_as_moved() {
    let mut house = House::new();
    let old = house.agent("node-acme", 1, json!({}));
    let new = house.connect("node-acme", 1, 2);
    let end = house.take(old);
    assert_eq!((end[0].command, end[0].header("muster-code")), ("ERROR", "moved"));
    assert_eq!(house.take(new)[0].command, "CONNECTED");
    let late = house.connect("node-acme", 1, 2);
    assert_eq!(house.take(late)[0].header("muster-code"), "moved");
    assert_eq!(house.broker.counters().moved, 1);
}

#[test]
fn a_reply_queue_belongs_to_its_connection() {
    let mut house = House::new();
    let agent = house.agent("node-acme", 1, json!({}));
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    house.request(noc, "/topic/prod.node.ping", "all", &[]);
    let asked = house.take(agent).remove(0);
    let queue = asked.header("reply-to").to_owned();
    assert!(queue.starts_with("/remote-temp-queue/noc1.") && queue.len() > 50, "{queue}");
    house.take(noc);
    house.frame(acme, send(&queue).with_body("psst"));
    assert_eq!(
        house.take(acme)[0].header("muster-code"),
        "gone",
        "a request's queue takes only answers of nodes that were asked"
    );
    assert!(house.take(noc).is_empty());
    let acme = house.open("acme");
    house.frame(acme, Frame::new(Command::Subscribe).header("destination", &queue).header("id", "x"));
    assert_eq!(house.take(acme)[0].header("muster-code"), "denied");
    house.close(noc);
    house.answer(agent, &asked, "ok", "{}");
    assert!(house.take(agent).is_empty(), "the agent is not punished for an asker that left");
}

#[test]
fn topics_go_to_whoever_subscribes_and_may_read_once_each() {
    let mut house = House::new();
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    for (id, pattern) in [("1", "/topic/news.>"), ("2", "/topic/news.*")] {
        house.frame(
            acme,
            Frame::new(Command::Subscribe).header("destination", pattern).header("id", id).header("receipt", id),
        );
    }
    assert_eq!(house.take(acme).len(), 2);
    house.frame(noc, send("/topic/news.today").header("receipt", "r").with_body("hello"));
    assert_eq!(house.take(noc)[0].command, "RECEIPT");
    let got = house.take(acme);
    assert_eq!((got.len(), got[0].body.as_str(), got[0].header("muster-caller")), (1, "hello", "noc"));
    house.frame(acme, Frame::new(Command::Subscribe).header("destination", "/topic/>").header("id", "3"));
    assert_eq!(house.take(acme)[0].header("muster-code"), "denied");
    let acme = house.open("acme");
    house.frame(acme, send("/topic/news.today"));
    assert_eq!(house.take(acme)[0].header("muster-code"), "denied");
}

#[test]
fn a_new_policy_ends_what_it_no_longer_allows() {
    let mut house = House::new();
    let agent = house.agent("node-acme", 1, json!({}));
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    house.frame(acme, Frame::new(Command::Subscribe).header("destination", "/topic/news.>").header("id", "1"));
    let narrowed = POLICY
        .replace(
            r#"read = ["noc", "noc-acme"]
write = ["noc"]"#,
            r#"read = ["noc"]"#,
        )
        .replace("acmeinc\", datacenter", "initech\", datacenter");
    house.enforce(policy(&narrowed));
    let end = house.take(acme);
    assert_eq!(
        (end[0].header("muster-code"), end[0].header("message")),
        ("revoked", "read on /topic/news.> is no longer granted")
    );
    assert!(house.take(noc).is_empty());
    let told = house.take(agent).remove(0);
    assert_eq!(told.json()["asserted"], json!({"customer": "initech", "datacenter": "a"}));
    assert_eq!(house.query(noc, "find", "customer=initech", json!({})).json()["count"], 1);
    house.enforce(policy(&POLICY.replace("[users.noc]", "[users.other]")));
    assert_eq!(house.take(noc)[0].header("muster-code"), "revoked");
    let stale = house.open_with("noc", None, 1000);
    assert_eq!(
        house.take(stale)[0].header("muster-code"),
        "auth-failed",
        "the login was checked under the policy before"
    );
}

#[test]
fn a_slow_consumer_is_closed_and_the_others_get_everything() {
    let mut house = House::new();
    let noc = house.open("noc");
    let slow = house.open_with("acme", None, 4000);
    let fast = house.open("acme");
    for session in [slow, fast] {
        house.frame(session, Frame::new(Command::Subscribe).header("destination", "/topic/news.>").header("id", "1"));
    }
    house.take(slow);
    for _ in 0..10 {
        house.frame(noc, send("/topic/news.today").with_body("x".repeat(1000)));
        assert_eq!(house.take(fast).len(), 1);
    }
    let end = house.take(slow);
    assert_eq!((end.len(), end[0].header("muster-code")), (1, "slow-consumer"));
    assert_eq!(house.broker.counters().slow_consumers, 1);
}

#[test]
fn limits_of_a_session_are_kept() {
    let mut house = House::new();
    let _agent = house.agent("node-acme", 1, json!({}));
    let noc = house.open("noc");
    for id in ["a", "b", "c"] {
        let frame = send("/topic/prod.node.ping").header("muster-request", id).header("reply-to", "/temp-queue/me");
        house.frame(noc, frame.header("muster-target", "all"));
    }
    let got = house.take(noc);
    assert_eq!(got.iter().map(Got::event).collect::<Vec<_>>(), ["accepted", "accepted", "refused"]);
    assert_eq!(got[2].header("muster-code"), "limit");
    for id in 0..4 {
        house.frame(
            noc,
            Frame::new(Command::Subscribe).header("destination", "/topic/news.a").header("id", &id.to_string()),
        );
    }
    assert_eq!(house.take(noc)[0].header("muster-code"), "limit");
}

#[test]
fn a_large_fan_out_goes_in_turns_and_keeps_the_order_of_one_caller() {
    let mut house = House::new();
    let agents: Vec<u64> = (0..200).map(|n| house.agent("node-acme", n, json!({}))).collect();
    let noc = house.open("noc");
    let mut inputs = Vec::new();
    for id in ["1", "2"] {
        let frame = send("/topic/prod.node.ping").header("muster-target", "all").header("x-order", id);
        inputs.push(house.outboxes.get_mut(&noc).expect("open").1.input(frame, 0));
    }
    let (gone, back) = std::sync::mpsc::sync_channel::<()>(1);
    let ticket = Ticket(Some(Box::new(gone)));
    house.handle(Event::Inputs { session: SessionId(noc), inputs, ticket });
    assert!(back.recv().is_err(), "the ticket is dropped when its inputs are dealt with");
    for agent in agents {
        let order: Vec<String> = house.take(agent).iter().map(|got| got.header("x-order").to_owned()).collect();
        assert_eq!(order, ["1", "2"]);
    }
}

#[test]
fn registration_events_are_scoped_and_redacted_for_each_subscriber() {
    let mut house = House::new();
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    for session in [noc, acme] {
        house.frame(
            session,
            Frame::new(Command::Subscribe).header("destination", "/topic/prod.registration").header("id", "1"),
        );
    }
    let agent = house.agent("node-globex", 1, json!({"hostname": "web1", "os": {"family": "Debian"}}));
    house.close(agent);
    let events: Vec<Value> = house.take(noc).iter().map(Got::json).collect();
    assert_eq!(events[0]["event"], "registered");
    assert_eq!(events[0]["display"], json!({"customer": "globex", "os.family": "Debian"}), "hostname is hidden");
    assert_eq!((&events[1]["event"], &events[1]["reason"]), (&json!("gone"), &json!("connection closed")));
    assert!(house.take(acme).is_empty());
}

#[test]
fn explain_says_which_entries_grant() {
    let mut house = House::new();
    let noc = house.open("noc");
    let explain = |house: &mut House, user: &str, destination: &str| {
        house
            .query(noc, "admin.explain", "", json!({"user": user, "right": "write", "destination": destination}))
            .json()
    };
    let yes = explain(&mut house, "acme", "/topic/prod.service.restart");
    assert_eq!((&yes["allowed"], &yes["scope"]), (&json!(true), &json!("customer = acmeinc")));
    assert_eq!(explain(&mut house, "acme", "/topic/news.today")["allowed"], false);
}

#[test]
fn explain_says_of_system_destinations_what_whoever_asks_there_meets() {
    let mut house = House::new();
    let noc = house.open("noc");
    for user in ["noc", "acme"] {
        for place in ["find", "mesh", "admin.sessions", "admin.show", "admin.lint", "admin.history", "admin.audit"] {
            let query = json!({"user": user, "right": "write", "destination": format!("/muster/{place}")});
            let said = house.query(noc, "admin.explain", "", query).json();
            let session = house.open(user);
            let body = if place == "admin.show" { json!({"what": "groups"}) } else { json!({}) };
            let frame =
                send(&format!("/muster/{place}")).header("muster-request", "q").header("reply-to", "/temp-queue/me");
            house.frame(session, frame.with_body(body.to_string()));
            let got = house.take(session);
            let is_denied = got.iter().any(|got| got.header("muster-code") == "denied");
            assert_eq!(said["allowed"] == false, is_denied, "{user} {place}: {said} but {got:?}");
            assert_eq!(is_denied, (user, place) == ("acme", "admin.audit"), "{got:?}");
            let numbers = got.first().is_some_and(|got| got.body.contains("\"nodes\":"));
            let is_kept = said["text"].as_str().is_some_and(|text| text.contains("no numbers of nodes"));
            assert_eq!(is_kept, (user, place) == ("acme", "mesh"), "{said}");
            assert!(place != "mesh" || numbers != is_kept, "{user}: {said} but {got:?}");
            house.close(session);
        }
    }
}

#[test]
fn an_admin_is_shown_the_policy_and_others_are_not() {
    let mut house = House::new();
    let text = POLICY.replace("\"/muster/>\"\nwrite = [\"noc\", \"noc-acme\"]", "\"/muster/>\"\nwrite = [\"noc\"]");
    house.enforce(policy(&text));
    let noc = house.open("noc");
    let user = house.query(noc, "admin.show", "", json!({"what": "users", "name": "acme"})).json();
    assert_eq!((&user["users"][0]["name"], &user["users"][0]["groups"]), (&json!("acme"), &json!(["noc-acme"])));
    let groups = house.query(noc, "admin.show", "", json!({"what": "groups", "limit": 1})).json();
    assert_eq!((groups["groups"].as_array().map(Vec::len), &groups["next"]), (Some(1), &groups["groups"][0]["name"]));
    let unknown = house.query(noc, "admin.show", "", json!({"what": "users", "name": "nobody"}));
    assert_eq!((unknown.event(), unknown.header("muster-code")), ("refused", "no-such-name"));
    let acme = house.open("acme");
    assert_eq!(house.query(acme, "admin.show", "", json!({"what": "users"})).header("muster-code"), "denied");
}

#[test]
fn a_display_fact_brings_no_hidden_one_along() {
    let mut house = House::new();
    let text = POLICY
        .replace(r#"display = ["customer", "os.family", "hostname"]"#, "display = [\"os\"]\nhidden = [\"os.secret\"]");
    house.enforce(policy(&text));
    let agent = house.agent("node-acme", 1, json!({"os": {"family": "Debian", "secret": "s3cr3t"}}));
    let noc = house.open("noc");
    house.request(noc, "/topic/prod.node.ping", "all", &[]);
    house.close(agent);
    let found = house.query(noc, "find", "all", json!({})).body;
    let all: String = house.take(noc).into_iter().map(|got| got.body).chain([found]).collect();
    assert!(!all.contains("s3cr3t"), "{all}");
}

#[test]
fn a_topic_of_no_declared_collective_is_no_way_around_target_scope_and_all() {
    let mut house = House::new();
    let text = POLICY.replace("/topic/prod.*.*", "/topic/>").replace("scope = \"customer=acmeinc\"", "");
    house.enforce(policy(&text));
    house.agent("node-globex", 1, json!({}));
    let acme = house.open("acme");
    house.request(acme, "/topic/typo.service.restart", "all", &[]);
    assert_eq!(house.take(acme)[0].header("muster-code"), "all-not-allowed");
    house.request(acme, "/topic/typo.service.restart", "class=web", &[]);
    assert_eq!(house.take(acme)[0].header("muster-count"), "0", "no node is in that collective");
}

#[test]
fn a_node_begins_once_and_says_it_without_a_body() {
    let mut house = House::new();
    let agent = house.agent("node-acme", 1, json!({}));
    let noc = house.open("noc");
    house.request(noc, "/topic/prod.node.ping", "all", &[]);
    let asked = house.take(agent).remove(0);
    house.take(noc);
    for _ in 0..3 {
        let frame = send(asked.header("reply-to")).header("muster-request", "r1").header("muster-event", "started");
        house.frame(agent, frame.with_body("x".repeat(1000)));
    }
    let got = house.take(noc);
    assert_eq!((got.len(), got[0].event(), got[0].body.len()), (1, "started", 0));
}

#[test]
fn a_user_who_expires_is_disconnected_then_and_waits_for_nothing_more() {
    let mut house = House::new();
    let later = POLICY.replace("[users.acme]", "[users.acme]\nexpires = 2023-11-14T22:13:30Z");
    house.enforce(policy(&later));
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    house.frame(acme, Frame::new(Command::Subscribe).header("destination", "/topic/news.>").header("id", "1"));
    house.frame(noc, send("/topic/news.today").with_body("hello"));
    let other = house.open("acme");
    house.close(other);
    assert_eq!(house.broker.expiries.len(), 1, "a session that is over waits for no expiry");
    house.pass(9_999);
    assert!(house.broker.sessions().get(SessionId(acme)).is_some());
    house.pass(1);
    let end = house.take(acme);
    assert_eq!((end.len(), end[0].header("muster-code")), (1, "revoked"), "what waited is not sent any more");
    assert!(house.take(noc).is_empty());
}

/// A client with a certificate of this name, which ends in so many seconds after the start.
fn showing(name: &str, seconds: u64) -> Peer {
    let certificate = Certificate { names: Names::Dns(vec![name.to_owned()]), ends: 1_700_000_000 + seconds };
    Peer { address: ([127, 0, 0, 1], 1).into(), certificate: Some(certificate.into()) }
}

#[test]
fn a_certificate_that_the_policy_asks_for_from_now_on_ends_the_sessions_without_it() {
    let mut house = House::new();
    let asks_for =
        |name: &str| policy(&POLICY.replace("[users.acme]", &format!("[users.acme]\ncertificate = \"{name}\"")));
    let open = |house: &mut House, peer: Peer| {
        let session = house.open_from(peer, "acme", None, None, 1 << 20);
        let first = house.take(session).remove(0);
        (session, first)
    };
    let nothing = || Peer::from(SocketAddr::from(([127, 0, 0, 1], 1)));
    let (bare, _) = open(&mut house, nothing());
    let (alice, _) = open(&mut house, showing("alice.example", 1_000));
    let (bob, _) = open(&mut house, showing("bob.example", 1_000));
    let noc = house.open("noc");
    house.enforce(asks_for("alice.example"));
    for gone in [bare, bob] {
        assert_eq!(house.take(gone)[0].header("muster-code"), "revoked");
    }
    assert!(house.take(alice).is_empty() && house.take(noc).is_empty(), "it was shown already, and noc needs none");
    // What was checked under the policy before is weighed again.
    for refused in [nothing(), showing("bob.example", 1_000)] {
        assert_eq!(open(&mut house, refused).1.header("muster-code"), "auth-failed");
    }
    house.enforce(asks_for("bob.example"));
    assert_eq!(house.take(alice)[0].header("muster-code"), "revoked");
    assert_eq!(open(&mut house, showing("bob.example", 1_000)).1.command, "CONNECTED");
}

#[test]
fn a_session_ends_with_the_certificate_that_it_needs() {
    let mut house = House::new();
    let asks = policy(&POLICY.replace("[users.acme]", "[users.acme]\ncertificate = \"a.example\""));
    let needs_none = house.open_from(showing("a.example", 10), "acme", None, None, 1 << 20);
    house.take(needs_none);
    house.pass(11_000);
    assert!(house.take(needs_none).is_empty(), "nobody asked for it");
    house.enforce(asks);
    assert_eq!(house.take(needs_none)[0].header("muster-code"), "revoked", "it is over when it is asked for");
    let session = house.open_from(showing("a.example", 20), "acme", None, None, 1 << 20);
    house.take(session);
    house.pass(8_999);
    assert!(house.take(session).is_empty());
    house.pass(1);
    assert_eq!(house.take(session)[0].header("muster-code"), "revoked");
}

#[test]
fn a_revoked_token_opens_nothing_and_ends_what_it_has_opened() {
    let mut house = House::new();
    let date = POLICY.replace("[users.acme]", "[users.acme]\nrevoked-before = 2023-11-14T22:13:20Z");
    let (before, after) = (1_699_999_999, 1_700_000_000);
    let by = |house: &mut House, made| {
        let session = house.open_by("acme", made, None, 1 << 20);
        let first = house.take(session).remove(0);
        (session, first)
    };
    let (stale, _) = by(&mut house, Some(before));
    let (fresh, _) = by(&mut house, Some(after));
    let (password, _) = by(&mut house, None);
    house.enforce(policy(&date));
    assert_eq!(house.take(stale)[0].header("muster-code"), "revoked");
    assert!(house.take(fresh).is_empty() && house.take(password).is_empty());
    // Checked under the policy of before, opened under the one in force.
    assert_eq!(by(&mut house, Some(before)).1.header("muster-code"), "auth-failed");
    assert_eq!(by(&mut house, Some(after)).1.command, "CONNECTED");
    assert_eq!(by(&mut house, None).1.command, "CONNECTED");
}

#[test]
fn sessions_of_a_user_are_counted() {
    let mut house = House::new();
    house.broker.settings.sessions_per_user = 2;
    let (one, _two) = (house.open("noc"), house.open("noc"));
    let third = house.open_with("noc", None, 1000);
    assert_eq!(house.take(third)[0].header("muster-code"), "limit");
    house.close(one);
    house.open("noc");
    house.open("acme");
}

/// 1,200 nodes of acme, a caller, and its request after the first turn.
fn in_the_middle_of_a_fan_out() -> (House, Vec<u64>, u64) {
    let mut house = House::new();
    let agents: Vec<u64> = (0..1_200).map(|n| house.many(n)).collect();
    let noc = house.open("noc");
    let frame = send("/topic/prod.node.ping").header("muster-request", "r1").header("reply-to", "/temp-queue/me");
    let input =
        house.outboxes.get_mut(&noc).expect("open").1.input(frame.header("muster-target", "customer=acmeinc"), 0);
    let event = Event::Inputs { session: SessionId(noc), inputs: vec![input], ticket: Ticket(None) };
    house.handle_once(event);
    (house, agents, noc)
}

#[test]
fn who_takes_the_row_of_a_target_is_neither_asked_nor_named() {
    let (mut house, agents, noc) = in_the_middle_of_a_fan_out();
    let last = *agents.last().expect("agents");
    house.handle_once(Event::Closed { session: SessionId(last), reason: "connection closed".into(), refusal: None });
    let hello = NodeHello { id: node_id(250), number: 1, clock_skew: 0 };
    let stranger = house.open_with("node-globex", Some(hello), 1 << 20);
    let got = house.take(noc);
    let named: Vec<Value> = got
        .iter()
        .filter(|g| g.event() == "accepted")
        .flat_map(|g| g.json()["nodes"].as_array().cloned().expect("nodes"))
        .collect();
    assert_eq!(named.len(), 1_200);
    assert!(!named.iter().any(|node| node["id"] == json!(node_id(250))));
    assert!(house.take(stranger).iter().all(|got| got.command == "CONNECTED"));
}

#[test]
fn a_policy_in_the_middle_of_a_fan_out_loses_no_node_that_it_still_allows() {
    let (mut house, _agents, noc) = in_the_middle_of_a_fan_out();
    // One more group, the first by name: every group of the new policy has another number.
    house.enforce(policy(&POLICY.replace("[groups.noc]", "[groups.aaa]\n[groups.noc]")));
    let got = house.take(noc);
    assert!(got.iter().all(|got| got.event() == "accepted"), "{:?}", got.iter().map(Got::event).collect::<Vec<_>>());
}

#[test]
fn gone_nodes_take_the_places_of_those_forgotten() {
    let mut house = House::new();
    for round in 1..=300 {
        let agent = house.connect("node-acme", 1, round);
        house.register(agent, json!({"kernel": "Linux"}));
        house.close(agent);
        house.outboxes.remove(&agent);
    }
    let noc = house.open("noc");
    let gone = house.query(noc, "find", "kernel=Linux", json!({})).json()["gone"].clone();
    assert_eq!(gone.as_array().map(Vec::len), Some(1), "one node, once: {gone}");
    assert_eq!(house.broker.nodes().gone(), 1);
}

#[test]
fn the_earlier_of_expires_and_start_within_is_what_a_node_is_told() {
    let mut house = House::new();
    let agent = house.agent("node-acme", 1, json!({}));
    let noc = house.open("noc");
    house.request(noc, "/topic/prod.node.ping", "all", &[("expires", "700"), ("muster-start-within", "9000")]);
    assert_eq!(house.take(agent)[0].header("muster-start-within"), "700");
    let frame = send("/topic/prod.node.ping").header("muster-request", "r2").header("reply-to", "/temp-queue/me");
    house.frame(noc, frame.header("muster-target", "all").header("muster-start-within", "500"));
    house.pass(500);
    assert!(house.take(agent).is_empty(), "too late to start is too late to send");
}

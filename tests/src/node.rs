//! What does a managed node look like on the wire? An agent by hand: it answers exactly when and what the test says.

use crate::stomp::{connect, json, message, show};
use crate::{Broker, Refused, Stomp};
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::{NodeId, NodeKey};
use serde_json::{Value, json};

/// The reply queue of a node.
pub const OWN: &str = "/temp-queue/own";

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its connection.
    pub stomp: Stomp,
    /// Its id.
    pub id: String,
}

/// A node key that follows from a number.
pub fn key(number: u8) -> NodeKey {
    NodeKey::new([number; 32])
}

/// The id of [`key`].
pub fn id(number: u8) -> String {
    NodeId::of(&key(number)).to_string()
}

/// CONNECT of a node.
pub fn hello(user: &str, number: u8, session: u64) -> Frame {
    connect(user)
        .header("muster-node", &id(number))
        .header("muster-node-key", &key(number).expose_hex())
        .header("muster-session", &session.to_string())
}

/// The hash that goes with a document.
pub fn hash(document: &Value) -> String {
    NodeDocument::parse(document.to_string().as_bytes()).unwrap_or_else(|e| panic!("{document}: {e}")).hash()
}

/// A document of these facts that announces the modules `node` and `service`.
pub fn document(facts: Value) -> Value {
    json!({ "facts": facts, "classes": [], "modules": { "node": "0", "service": "0" } })
}

/// SEND of a whole document.
pub fn facts_frame(document: &Value) -> Frame {
    message("/muster/facts")
        .header("reply-to", OWN)
        .header("muster-hash", &hash(document))
        .with_body(document.to_string())
}

impl Node {
    /// Logs in with session number 1, and subscribes to its topics; it has no facts yet.
    pub fn connect(broker: &Broker, user: &str, number: u8) -> Node {
        Node::connect_again(broker, user, number, 1)
    }

    /// As [`Node::connect`], with another session number.
    pub fn connect_again(broker: &Broker, user: &str, number: u8, session: u64) -> Node {
        let mut stomp = Stomp::dial(broker);
        stomp.send(hello(user, number, session));
        let connected = stomp.connected();
        assert_eq!(connected.headers.get("muster-collective"), Some("prod"), "{}", show(&connected));
        stomp.subscribe(OWN, "own");
        stomp.subscribe("/topic/prod.*.*", "actions");
        Node { stomp, id: id(number) }
    }

    /// Logs in and registers with these facts.
    pub fn register(broker: &Broker, user: &str, number: u8, facts: Value) -> Node {
        let mut node = Node::connect(broker, user, number);
        node.publish(&document(facts));
        node
    }

    /// Publishes a whole document, and waits until it counts; what the policy asserts.
    pub fn publish(&mut self, document: &Value) -> Value {
        self.publish_frame(facts_frame(document)).unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// Publishes a merge patch of `base` that makes it `whole`.
    pub fn publish_delta(&mut self, base: &Value, patch: &Value, whole: &Value) -> Result<Value, Refused> {
        let frame = message("/muster/facts")
            .header("reply-to", OWN)
            .header("muster-base", &hash(base))
            .header("muster-hash", &hash(whole))
            .with_body(patch.to_string());
        self.publish_frame(frame)
    }

    /// Sends a frame to `/muster/facts`: the asserted facts, or the refusal.
    pub fn publish_frame(&mut self, frame: Frame) -> Result<Value, Refused> {
        self.stomp.send(frame);
        let answer = self.stomp.wait_for("the answer to facts", |frame| {
            assert_ne!(frame.command, Command::Error, "{}", show(frame));
            matches!(frame.headers.get("muster-event"), Some("registered" | "refused"))
        });
        match answer.headers.get("muster-event") {
            Some("registered") => Ok(json(&answer)["asserted"].clone()),
            _ => Err(Refused::of(&answer)),
        }
    }

    /// The next request that reaches it.
    pub fn request(&mut self) -> Frame {
        self.stomp.wait_for("a request", |frame| {
            assert_ne!(frame.command, Command::Error, "{}", show(frame));
            frame.headers.contains("muster-request") && !frame.headers.contains("muster-event")
        })
    }

    /// The next cancel that reaches it.
    pub fn cancel(&mut self) -> Frame {
        self.stomp.wait_for("a cancel", |frame| frame.headers.get("muster-event") == Some("cancel"))
    }

    /// Answers a request.
    pub fn reply(&mut self, request: &Frame, status: &str, body: &Value) {
        self.stomp.send_and_wait(reply(request, status, body));
    }

    /// Says that it has started.
    pub fn started(&mut self, request: &Frame) {
        let frame = answer(request, "started");
        self.stomp.send_and_wait(frame);
    }
}

/// A reply to a request.
pub fn reply(request: &Frame, status: &str, body: &Value) -> Frame {
    answer(request, "reply").header("muster-status", status).with_body(body.to_string())
}

fn answer(request: &Frame, event: &str) -> Frame {
    let header = |name| request.headers.get(name).unwrap_or_else(|| panic!("no {name} in {}", show(request)));
    message(header("reply-to")).header("muster-request", header("muster-request")).header("muster-event", event)
}

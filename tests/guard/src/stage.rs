//! How is the broker put on trial in this process? Frames in as a session reads them, items out of outboxes, time by hand.

use bytes::BytesMut;
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Command, Decoded, Decoder, Frame, Limits, Version};
use muster_protocol::message::{BrokerName, NodeId, NodeKey, header};
use muster_server::broker::access::Policy;
use muster_server::broker::event::{Event, NodeHello, Now, Opened, SessionId, Ticket};
use muster_server::broker::nodes::Memory;
use muster_server::broker::outbox::{Item, Message, OutboxReader, outbox};
use muster_server::broker::{Broker, Settings};
use muster_server::intake::Intake;
use muster_tests::policy::POLICY;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};

/// Well formed; nobody checks a password in here.
const PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ+Xwz/gkb1+EE7Lg";

/// Bytes in an outbox: nobody here is a slow consumer.
const OUTBOX: usize = 64 << 20;

/// The policy of the tests.
pub(crate) fn policy() -> Arc<Policy> {
    Arc::new(Policy::parse(&POLICY.replace("{phc}", PHC)).expect("the policy of the tests"))
}

/// A broker, alone, that keeps its records as it does with an audit log.
pub(crate) struct Stage {
    broker: Broker,
    bits: u64,
    last: u64,
}

/// A session's end of it.
pub(crate) struct Seat {
    session: SessionId,
    intake: Intake,
    reader: OutboxReader,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let settings = Settings {
            name: BrokerName::parse("noc1").expect("a name"),
            instance: 1,
            incarnation: 1,
            born: 0,
            subscriptions: 8,
            in_flight: 1_000,
            sessions_per_user: 0,
            memory: Memory { gone_for: 3_600_000, gone_most: 1_000 },
        };
        let mut broker = Broker::new(settings, policy());
        broker.keep_records();
        Stage { broker, bits: 7, last: 0 }
    }

    /// One event, and all the work that it leaves, as the hub does it.
    pub(crate) fn handle(&mut self, event: Event) {
        let now = Now { tick: 0, unix: 1_700_000_000_000 };
        let bits = &mut self.bits;
        let mut random = || {
            *bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *bits
        };
        self.broker.handle(event, now, &mut random);
        while self.broker.next_deadline(now).is_some_and(|at| at <= now.tick) {
            self.broker.handle(Event::Wake, now, &mut random);
        }
        drop((self.broker.take_notes(), self.broker.take_records()));
    }

    /// A login whose password was right: the event that tells the broker, and the session's end.
    pub(crate) fn login(&mut self, user: &str, node: Option<NodeHello>) -> (Event, Seat) {
        self.last += 1;
        let (session, (outbox, reader)) = (SessionId(self.last), outbox(OUTBOX));
        let intake = Intake::new(Version::V1_2, node.is_some());
        let opened = Opened {
            session,
            user: user.to_owned(),
            password_hash: PHC.to_owned(),
            token_made: None,
            node,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            outbox,
        };
        (Event::Opened(Box::new(opened)), Seat { session, intake, reader })
    }

    /// Somebody who is logged in and listens to these.
    pub(crate) fn open(&mut self, user: &str, node: Option<NodeHello>, subscriptions: &[&str]) -> Seat {
        let (event, mut seat) = self.login(user, node);
        self.handle(event);
        for (number, destination) in subscriptions.iter().enumerate() {
            let frame = Frame::new(Command::Subscribe).header("destination", destination);
            let event = seat.event(frame.header("id", &number.to_string()));
            self.handle(event);
        }
        assert!(matches!(seat.take()[..], [Item::Connected { .. }]), "{user} is in, and may subscribe");
        seat
    }

    /// An agent that is registered.
    pub(crate) fn agent(&mut self, number: u32, document: &NodeDocument) -> Seat {
        let mut seat = self.open("node-acme", Some(hello(number)), &["/topic/prod.*.*", "/temp-queue/agent"]);
        let event = seat.event(facts(&document.to_value(), &document.hash(), None));
        self.handle(event);
        assert_eq!(seat.messages().len(), 1, "it is told that it is registered");
        seat
    }
}

impl Seat {
    /// A frame as the session reads it.
    pub(crate) fn event(&mut self, frame: Frame) -> Event {
        let input = self.intake.input(frame, 0);
        Event::Inputs { session: self.session, inputs: vec![input], ticket: Ticket(None) }
    }

    /// The frames of one read.
    pub(crate) fn read(&mut self, mut bytes: BytesMut) -> Event {
        let (mut decoder, mut inputs) = (Decoder::new(Limits::default()), Vec::new());
        decoder.set_version(Version::V1_2);
        while let Some(Decoded::Frame(frame)) = decoder.decode(&mut bytes).expect("frames") {
            inputs.push(self.intake.input(frame, 0));
        }
        Event::Inputs { session: self.session, inputs, ticket: Ticket(None) }
    }

    /// Everything that waits.
    pub(crate) fn take(&self) -> Vec<Item> {
        drain(&self.reader)
    }

    /// The messages that wait; nothing else may.
    pub(crate) fn messages(&self) -> Vec<Arc<Message>> {
        let message = |item| match item {
            Item::Message { message, .. } => message,
            other => panic!("a message was expected: {other:?}"),
        };
        self.take().into_iter().map(message).collect()
    }
}

/// Everything that waits in an outbox.
pub(crate) fn drain(reader: &OutboxReader) -> Vec<Item> {
    let mut items = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while reader.poll_take(&mut context, 0, usize::MAX, &mut items).is_ready() {}
    items
}

/// What an agent's login says of its node.
pub(crate) fn hello(number: u32) -> NodeHello {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    NodeHello { id: NodeId::of(&NodeKey::new(key)), number: 1, clock_skew: 0 }
}

/// The frame that publishes a document, or with the hash of the one before a merge patch of it.
pub(crate) fn facts(body: &Value, hash: &str, base: Option<&str>) -> Frame {
    let mut frame = send("/muster/facts").header(header::HASH, hash).header(header::REPLY_TO, "/temp-queue/agent");
    if let Some(base) = base {
        frame = frame.header(header::BASE, base);
    }
    frame.with_body(body.to_string())
}

/// A SEND.
pub(crate) fn send(destination: &str) -> Frame {
    Frame::new(Command::Send).header("destination", destination)
}

//! Which paths are hot, and what of them is counted? Each is prepared, run once so that everything lazy is there, and then counted
//! some times over. What came of it is checked: a path that refuses its work is no cheap one.

use crate::callgrind::counted;
use crate::stage::{self, Seat, Stage, drain, facts, hello, send};
use bytes::BytesMut;
use muster_protocol::destination::Destination;
use muster_protocol::facts::NodeDocument;
use muster_protocol::filter::Filter;
use muster_protocol::frame::{Frame, Version, encode};
use muster_protocol::message::header;
use muster_server::broker::access::Right;
use muster_server::broker::event::Event;
use muster_server::broker::nodes::{Index, Row};
use muster_server::broker::outbox::{Item, Message, outbox};
use muster_server::intake::Intake;
use muster_server::session::encode_message;
use serde_json::json;
use std::hint::black_box;
use std::sync::Arc;

#[path = "../../../protocol/benches/setup/mod.rs"]
mod frames;
#[path = "../../../server/benches/setup/mod.rs"]
mod rows;

use frames::FRAMES;

/// Nodes in the index.
const NODES: u32 = 10_000;
/// Nodes of the broker, and subscribers of a topic.
const MANY: u32 = 100;
/// How often a path of the broker is counted.
const ROUNDS: u32 = 8;

/// Messages of a stream that are read at once.
const STREAMED: usize = 100;

/// A topic that needs no target.
const TOPIC: &str = "/topic/open.news";

/// A hot path.
pub(crate) struct HotPath {
    /// Its name, as in the baseline.
    pub(crate) name: &'static str,
    /// Runs it; how many times it was done while it was [`counted`].
    pub(crate) run: fn() -> u64,
}

/// All of them.
pub(crate) const PATHS: &[HotPath] = &[
    HotPath { name: "decode-send", run: decode_send },
    HotPath { name: "encode-send", run: encode_send },
    HotPath { name: "encode-message", run: encode_messages },
    HotPath { name: "intake-request", run: intake_request },
    HotPath { name: "filter-parse", run: filter_parse },
    HotPath { name: "filter-evaluate", run: filter_evaluate },
    HotPath { name: "index-query", run: index_query },
    HotPath { name: "index-delta", run: index_delta },
    HotPath { name: "facts-delta", run: facts_delta },
    HotPath { name: "grant-lookup", run: grant_lookup },
    HotPath { name: "login-agent", run: login_agent },
    HotPath { name: "publish-1", run: || publish(1) },
    HotPath { name: "publish-100", run: || publish(MANY) },
    HotPath { name: "stream", run: stream },
    HotPath { name: "request-100", run: request },
    HotPath { name: "replies-100", run: replies },
    HotPath { name: "outbox-item", run: outbox_item },
];

fn decode_send() -> u64 {
    let wire = frames::wire(&frames::frame());
    let (mut first, mut second) = (Some(wire.clone()), Some(wire));
    assert_eq!(first.take().map(frames::decode_all), Some(FRAMES));
    let mut found = None;
    counted(|| found = second.take().map(frames::decode_all));
    assert_eq!(found, Some(FRAMES));
    FRAMES as u64
}

fn encode_send() -> u64 {
    let (frame, whole) = (frames::frame(), frames::wire(&frames::frame()));
    let mut out = BytesMut::with_capacity(whole.len());
    counted(|| {
        for _ in 0..FRAMES {
            encode(black_box(&frame), Version::V1_2, &mut out);
        }
    });
    assert_eq!(out, whole);
    FRAMES as u64
}

/// One message to many sessions, as each of them writes it.
fn encode_messages() -> u64 {
    let frame = frames::frame();
    let destination = frame.headers.get("destination").unwrap_or_default().to_owned();
    let message =
        Message { destination: destination.into(), headers: frame.headers, body: frame.body, ..Message::default() };
    let mut out = BytesMut::with_capacity(FRAMES * 1024);
    let mut write = |number: u64| encode_message(black_box(&message), "all", number, Version::V1_2, 0, &mut out);
    write(0);
    counted(|| (1..=FRAMES as u64).for_each(&mut write));
    let text = String::from_utf8_lossy(&out);
    assert_eq!(text.matches("MESSAGE\n").count(), FRAMES + 1);
    FRAMES as u64
}

/// From the frame of a request to what the broker is told: destination, numbers, filter.
fn intake_request() -> u64 {
    let mut intake = Intake::new(Version::V1_2, false);
    black_box(intake.input(frames::frame(), 0));
    let mut given: Vec<Frame> = (0..FRAMES).map(|_| frames::frame()).collect();
    let mut taken = Vec::with_capacity(FRAMES);
    counted(|| taken.extend(given.drain(..).map(|frame| intake.input(frame, 0))));
    assert!(taken.iter().all(|input| matches!(input, muster_server::broker::event::Input::Send(_))), "{:?}", taken[0]);
    FRAMES as u64
}

fn filter_parse() -> u64 {
    let parse = || Filter::parse(black_box(rows::THREE_PREDICATES));
    let filter = parse();
    let mut again = None;
    counted(|| again = Some(parse()));
    assert!(filter.is_ok() && again == Some(filter));
    1
}

/// One evaluation, over nodes most of which do not match: as an agent does it for each request.
fn filter_evaluate() -> u64 {
    let (filter, alike) = (three_predicates(), rows::Alike::new());
    let nodes: Vec<_> = (0..1_000).map(rows::facts).collect();
    let count = || nodes.iter().filter(|facts| filter.matches(facts.as_value(), &alike.classes)).count();
    let (expected, mut found) = (count(), 0);
    counted(|| found = count());
    assert!(found == expected && found > 0, "{found} match");
    nodes.len() as u64
}

fn index_query() -> u64 {
    let (filter, index) = (three_predicates(), index());
    let expected = index.matching(&filter).len();
    assert!((10..1_000).contains(&expected), "about 1 %: {expected}");
    let mut found = 0;
    counted(|| (0..ROUNDS).for_each(|_| found += index.matching(black_box(&filter)).len()));
    assert_eq!(found, expected * u64::from(ROUNDS));
    ROUNDS.into()
}

fn index_delta() -> u64 {
    let (mut index, alike) = (index(), rows::Alike::new());
    let rows: Vec<u32> = (0..MANY).map(|step| rows::mix(step) % NODES).collect();
    let change = |(step, row): (u32, &u32)| {
        let before = rows::facts(*row);
        let after = before.merge_patch(&rows::delta(step)).expect("a delta");
        (Row(*row), before, after)
    };
    let changes: Vec<_> = (0..).zip(&rows).map(change).collect();
    counted(|| {
        for (row, before, after) in &changes {
            index.update(*row, alike.described(before), alike.described(after));
        }
    });
    let changed = Filter::parse(r"unique0 ~ /^new\d+$/").expect("a filter");
    let mut distinct = rows;
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(index.matching(&changed).len(), distinct.len() as u64);
    changes.len() as u64
}

/// A delta of three facts from the frame on: merged and hashed by the session, taken by the broker.
fn facts_delta() -> u64 {
    let (mut stage, mut agents) = staffed();
    let mut published: Vec<(usize, Frame)> = Vec::new();
    for round in 0..2 {
        for number in 0..MANY {
            let before = document(number, round);
            let after = document(number, round + 1);
            let frame = facts(&before.diff(&after), &after.hash(), Some(&before.hash()));
            published.push((number as usize, frame));
        }
    }
    let mut work = published.into_iter();
    let mut publish = |(agent, frame): (usize, Frame)| {
        let event = agents[agent].event(frame);
        stage.handle(event);
    };
    work.by_ref().take(MANY as usize).for_each(&mut publish);
    counted(|| work.by_ref().for_each(&mut publish));
    assert!(agents.iter().all(|agent| agent.messages().len() == 2), "each delta is acknowledged");
    MANY.into()
}

/// May a user write there, and which groups read there?
fn grant_lookup() -> u64 {
    let policy = stage::policy();
    let user = policy.user("acme").expect("a user");
    let places = ["/topic/prod.service.restart", "/topic/open.news", "/muster/find", "/topic/prod.registration"];
    let places = places.map(|text| Destination::parse(text).expect("a destination"));
    let ask = || {
        let may = |place: &&Destination| {
            let readers = policy.granted(Right::Read, black_box(place));
            policy.allows(user, Right::Write, place) || user.groups.intersects(&readers)
        };
        places.iter().filter(may).count()
    };
    let mut granted = 0;
    counted(|| granted = (0..MANY).map(|_| ask()).sum());
    assert_eq!(granted, places.len() * MANY as usize);
    (places.len() as u64) * u64::from(MANY)
}

/// What the broker does for the login of an agent whose password was right.
fn login_agent() -> u64 {
    let (mut stage, _agents) = staffed();
    let logins: Vec<(Event, Seat)> = (0..MANY).map(|i| stage.login("node-acme", Some(hello(MANY + i)))).collect();
    let (events, seats): (Vec<Event>, Vec<Seat>) = logins.into_iter().unzip();
    let mut events = events.into_iter();
    counted(|| events.by_ref().for_each(|event| stage.handle(event)));
    assert!(seats.iter().all(|seat| matches!(seat.take()[..], [Item::Connected { .. }])), "each is in");
    MANY.into()
}

/// A message to a topic, until it lies in every outbox.
fn publish(subscribers: u32) -> u64 {
    let (mut stage, _agents) = staffed();
    let seats: Vec<Seat> = (0..subscribers).map(|_| stage.open("viewer", None, &[TOPIC])).collect();
    let mut sender = stage.open("noc", None, &[]);
    let message = || send(TOPIC).header("content-type", "text/plain").with_body(vec![b'x'; 100]);
    let mut events = (0..=ROUNDS).map(|_| sender.event(message())).collect::<Vec<_>>().into_iter();
    events.by_ref().take(1).for_each(|event| stage.handle(event));
    counted(|| events.by_ref().for_each(|event| stage.handle(event)));
    assert!(seats.iter().all(|seat| seat.messages().len() == 1 + ROUNDS as usize), "everybody has every message");
    ROUNDS.into()
}

/// A message to one subscriber, one of many that are read at once: from the bytes that come to the bytes that go.
fn stream() -> u64 {
    let (mut stage, _agents) = staffed();
    let reader = stage.open("viewer", None, &[TOPIC]);
    let mut sender = stage.open("noc", None, &[]);
    let mut wire = BytesMut::new();
    let message = send(TOPIC).with_body(vec![b'x'; 128]);
    (0..STREAMED).for_each(|_| encode(&message, Version::V1_2, &mut wire));
    let mut reads = [wire.clone(), wire].into_iter();
    let mut out = BytesMut::with_capacity(STREAMED * 512);
    let mut pass = |wire: BytesMut| {
        stage.handle(sender.read(wire));
        for item in reader.take() {
            let Item::Message { message, subscription, number } = item else { panic!("a message was expected") };
            encode_message(&message, &subscription, number, Version::V1_2, 0, &mut out);
        }
    };
    reads.by_ref().take(1).for_each(&mut pass);
    counted(|| reads.by_ref().for_each(&mut pass));
    let text = String::from_utf8_lossy(&out);
    assert_eq!(text.matches("MESSAGE\n").count(), 2 * STREAMED);
    STREAMED as u64
}

/// A request to all nodes, until it lies in every outbox.
fn request() -> u64 {
    let (mut stage, agents) = staffed();
    let mut caller = stage.open("noc", None, &["/temp-queue/me"]);
    let mut events = (0..=ROUNDS).map(|id| caller.event(request_frame(id))).collect::<Vec<_>>().into_iter();
    events.by_ref().take(1).for_each(|event| stage.handle(event));
    counted(|| events.by_ref().for_each(|event| stage.handle(event)));
    assert!(agents.iter().all(|agent| agent.messages().len() == 1 + ROUNDS as usize), "everybody is asked each time");
    ROUNDS.into()
}

/// The replies of all nodes to a request, until the caller has them and it is done.
fn replies() -> u64 {
    let (mut stage, mut agents) = staffed();
    let mut caller = stage.open("noc", None, &["/temp-queue/me"]);
    for id in 0..=ROUNDS {
        let event = caller.event(request_frame(id));
        stage.handle(event);
    }
    caller.take();
    let mut answers: Vec<Vec<Event>> = (0..=ROUNDS).map(|_| Vec::new()).collect();
    for agent in &mut agents {
        for (message, answers) in agent.messages().into_iter().zip(&mut answers) {
            answers.push(agent.event(reply_to(&message)));
        }
    }
    let mut answers = answers.into_iter().flatten();
    answers.by_ref().take(MANY as usize).for_each(|event| stage.handle(event));
    counted(|| answers.by_ref().for_each(|event| stage.handle(event)));
    let events: Vec<Arc<Message>> = caller.messages();
    let count = |name: &str| events.iter().filter(|m| m.headers.get(header::EVENT) == Some(name)).count();
    assert_eq!((count("reply"), count("done")), (MANY as usize * (1 + ROUNDS as usize), 1 + ROUNDS as usize));
    ROUNDS.into()
}

/// Into an outbox, and out of it.
fn outbox_item() -> u64 {
    let (outbox, reader) = outbox(1 << 20);
    let message = Arc::new(Message { destination: TOPIC.into(), ..Message::default() });
    let subscription: Arc<str> = "all".into();
    let pass = || {
        for number in 0..FRAMES as u64 {
            let item = Item::Message { message: message.clone(), subscription: subscription.clone(), number };
            outbox.push(item, 0, &mut Vec::new()).expect("room");
        }
        drain(&reader).len()
    };
    pass();
    let mut passed = 0;
    counted(|| passed = (0..ROUNDS).map(|_| pass()).sum());
    assert_eq!(passed, FRAMES * ROUNDS as usize);
    FRAMES as u64 * u64::from(ROUNDS)
}

fn three_predicates() -> Filter {
    Filter::parse(rows::THREE_PREDICATES).expect("a filter")
}

fn index() -> Index {
    let (mut index, alike) = (Index::new(), rows::Alike::new());
    for row in 0..NODES {
        index.insert(Row(row), alike.described(&rows::facts(row)));
    }
    index
}

/// A broker with [`MANY`] registered agents.
fn staffed() -> (Stage, Vec<Seat>) {
    let mut stage = Stage::new();
    let agents = (0..MANY).map(|number| stage.agent(number, &document(number, 0))).collect();
    (stage, agents)
}

/// What an agent publishes, and what it does after some deltas.
fn document(number: u32, deltas: u32) -> NodeDocument {
    let mut facts = rows::facts(number);
    if deltas > 0 {
        facts = facts.merge_patch(&rows::delta(deltas * MANY + number)).expect("a delta");
    }
    let document =
        json!({ "facts": facts.as_value(), "classes": ["base", "webserver"], "modules": { "service": "01" } });
    NodeDocument::from_value(document).expect("a document")
}

fn request_frame(id: u32) -> Frame {
    let frame = send("/topic/prod.service.status").header(header::REQUEST, &format!("r{id}"));
    let frame = frame.header(header::REPLY_TO, "/temp-queue/me").header(header::TARGET, "eight0 >= 0");
    frame.with_body(r#"{"service":"httpd"}"#)
}

fn reply_to(request: &Message) -> Frame {
    let of = |name: &str| request.headers.get(name).unwrap_or_default();
    let frame = send(of(header::REPLY_TO)).header(header::REQUEST, of(header::REQUEST));
    frame.header(header::EVENT, "reply").header(header::STATUS, "ok").with_body(r#"{"running":true}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_path_does_its_work() {
        let names: BTreeSet<&str> = PATHS.iter().map(|path| path.name).collect();
        assert_eq!(names.len(), PATHS.len(), "names are unique");
        for path in PATHS {
            assert!((path.run)() > 0, "{}", path.name);
        }
    }
}

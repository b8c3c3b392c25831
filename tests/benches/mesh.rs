//! What does the mesh cost? Requests over 0 to 3 hops, bytes on a link for what passes and for nothing, and a stream through one link.
//!
//! `cargo bench -p muster-tests --bench mesh`; the release binaries are built first where they are not. Real brokers with TLS on
//! loopback; nodes and callers are simulated in this process and share the cores with the brokers, so times are upper bounds. What
//! is compared is measured in turns within one run, so that noise hits all alike.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program")]

use bytes::BytesMut;
use muster_protocol::frame::{Command, Frame, Version, encode};
use muster_tests::node::reply;
use muster_tests::stomp::{message, show};
use muster_tests::{Cluster, LIMIT, Node, Plan, Stomp, request, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The line of brokers; the caller is at the first.
const LINE: [&str; 4] = ["noc1", "dc1", "dc2", "dc3"];
/// Requests to one node for each number of hops, and those before that do not count.
const SINGLE: usize = 2_000;
const WARM: usize = 200;
/// Nodes of a crowd, and requests to each.
const CROWD: u8 = 100;
const CROWD_ROUNDS: usize = 200;
/// Bytes of arguments, answers and messages whose link bytes are counted.
const BODY: usize = 100;
/// What link bytes are averaged over.
const COUNTED: u64 = 100;
/// Messages of a stream, in so many turns for each of both ways, and bytes of each.
const STREAM: u64 = 200_000;
const TURNS: u64 = 4;
const STREAM_BODY: usize = 128;
/// Messages with one receipt; and those that may be under way, less than an outbox holds.
const BATCH: u64 = 500;
const WINDOW: u64 = 10_000;
/// How long an idle mesh is watched, after it had time to say what it had to.
const IDLE: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(10);

/// The rows of the table, in the order of measuring.
#[derive(Default)]
struct Table(Vec<[String; 2]>);

impl Table {
    /// Says it at once, and keeps it for the end.
    fn row(&mut self, what: impl Into<String>, seen: impl Into<String>) {
        let [what, seen] = [what.into(), seen.into()];
        eprintln!("{what}: {seen}");
        self.0.push([what, seen]);
    }
}

fn main() {
    let mut table = Table::default();
    let before = load();
    {
        let mesh = Mesh::start();
        single_requests(&mesh, &mut table);
        crowd_requests(&mesh, &mut table);
        link_bytes(&mesh, &mut table);
        streams(&mesh, &mut table);
    }
    idle(&mut table);
    println!("| what (load before {before}, after {}) | seen |\n|---|---|", load());
    for [what, seen] in &table.0 {
        println!("| {what} | {seen} |");
    }
}

/// Four brokers in a line: at each one node, and crowds at the second and the last.
struct Mesh {
    cluster: Cluster,
    /// Topic messages that the crowd of the second broker has heard.
    heard: Arc<AtomicU64>,
}

impl Mesh {
    fn start() -> Mesh {
        let plan = LINE.iter().fold(Plan::line(LINE.len()), |plan, name| plan.setting(name, "log.level", "info"));
        let cluster = plan.start();
        let heard = Arc::new(AtomicU64::new(0));
        for (number, name) in (200..).zip(LINE) {
            let node = Node::register(&cluster[name], "node-acme", number, json!({ "single": name }));
            serve(node.stomp, Arc::default());
        }
        for (first, name) in [(0, "dc1"), (CROWD, "dc3")] {
            for number in first..first + CROWD {
                let mut node = Node::register(&cluster[name], "node-acme", number, json!({ "crowd": name }));
                if name == "dc1" {
                    node.stomp.subscribe("/topic/mcollective.bench", "bench");
                }
                serve(node.stomp, heard.clone());
            }
        }
        let crowd = u64::from(CROWD) + 1;
        cluster.until_nodes(&[("noc1", 1), ("dc1", crowd), ("dc2", 1), ("dc3", crowd)]);
        let mesh = Mesh { cluster, heard };
        mesh.until_targeted();
        mesh
    }

    /// A fresh mesh asks everybody; waits until requests go to where their nodes are, and no further.
    fn until_targeted(&self) {
        let mut caller = self.cluster.operator("noc1");
        for pair in LINE.windows(2) {
            let passed = || self.cluster.link_count(pair[0], pair[1], "data_out.frames");
            until("requests go no further than they must", || {
                let before = passed();
                ask(&mut caller, &format!("single = {}", pair[0]), 1);
                (passed() == before).then_some(())
            });
        }
    }

    /// Data bytes out and in of the link from the first broker to the second, when nothing more comes.
    fn carried(&self) -> [u64; 3] {
        let count = |counter| self.cluster.link_count("noc1", "dc1", counter);
        let now = || ["data_out.bytes", "data_in.bytes", "data_out.frames"].map(count);
        // What is acknowledged later belongs to it.
        unchanged(Duration::from_millis(1_500), now)
    }
}

/// What is read when it has been the same for so long.
fn unchanged<T: PartialEq + Copy>(long: Duration, read: impl Fn() -> T) -> T {
    let mut last = (read(), Instant::now());
    until("it is quiet", || {
        let now = read();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > long).then_some(now)
    })
}

/// Lets time pass.
#[allow(clippy::disallowed_methods, reason = "what an idle mesh does in a time is what is measured")]
fn pass(time: Duration) {
    thread::sleep(time);
}

/// Answers requests and counts messages, on a thread of its own, as long as the connection lives.
fn serve(mut stomp: Stomp, heard: Arc<AtomicU64>) {
    let answer = body_of(BODY);
    thread::spawn(move || {
        while let Ok(frame) = stomp.next_within(Duration::from_secs(3_600)) {
            let header = |name| frame.headers.get(name);
            if header("muster-request").is_some() && header("muster-event").is_none() {
                stomp.send(reply(&frame, "ok", &answer));
            } else if frame.command == Command::Message && header("muster-event").is_none() {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}

/// JSON of so many bytes.
fn body_of(bytes: usize) -> Value {
    let frame = json!({ "x": "" }).to_string().len();
    json!({ "x": "a".repeat(bytes - frame) })
}

/// How long a request took.
struct Took {
    /// Until the last reply.
    reply: Duration,
    done: Duration,
}

/// One request that so many nodes must answer.
fn ask(caller: &mut Stomp, target: &str, nodes: usize) -> Took {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let id = format!("b{}", SERIAL.fetch_add(1, Ordering::Relaxed));
    let frame = request("prod.node.ping", &id, target).with_body(body_of(BODY).to_string());
    let (mut replies, mut last) = (0, Duration::ZERO);
    let sent = Instant::now();
    caller.send(frame);
    loop {
        let frame = caller.next_within(LIMIT).unwrap();
        let event = frame.headers.get("muster-event");
        assert_eq!(frame.headers.get("muster-request"), Some(&*id), "{}", show(&frame));
        match event {
            Some("reply") => {
                replies += 1;
                last = sent.elapsed();
            }
            Some("done") => {
                let took = Took { reply: last, done: sent.elapsed() };
                assert_eq!(replies, nodes, "{}", show(&frame));
                return took;
            }
            Some("refused") | None => panic!("{}", show(&frame)),
            Some(_) => {}
        }
    }
}

/// A row of median and 99th percentile of times to the (last) reply and to `done`.
fn times(table: &mut Table, what: String, took: &[Took]) {
    let of = |part: fn(&Took) -> Duration| {
        let mut all: Vec<Duration> = took.iter().map(part).collect();
        all.sort();
        let ms = |at: usize| all[at].as_secs_f64() * 1e3;
        format!("{:.2} ms, 99th percentile {:.2}", ms(all.len() / 2), ms(all.len() * 99 / 100))
    };
    table.row(what, format!("reply {}; done {}", of(|took| took.reply), of(|took| took.done)));
}

fn single_requests(mesh: &Mesh, table: &mut Table) {
    let mut caller = mesh.cluster.operator("noc1");
    let mut took: [Vec<Took>; LINE.len()] = Default::default();
    for round in 0..WARM + SINGLE {
        for (name, took) in LINE.iter().zip(&mut took) {
            let one = ask(&mut caller, &format!("single = {name}"), 1);
            if round >= WARM {
                took.push(one);
            }
        }
    }
    for (hops, took) in took.iter().enumerate() {
        times(table, format!("request to one node, hops {hops}, median of {SINGLE}"), took);
    }
}

fn crowd_requests(mesh: &Mesh, table: &mut Table) {
    // Who asks where, and over how many hops.
    let ways = [("dc1", "dc1", 0), ("noc1", "dc1", 1), ("noc1", "dc3", 3)];
    let mut callers = ways.map(|(at, ..)| mesh.cluster.operator(at));
    let mut took: [Vec<Took>; 3] = Default::default();
    for round in 0..CROWD_ROUNDS + 10 {
        for ((caller, (_, to, _)), took) in callers.iter_mut().zip(ways).zip(&mut took) {
            let one = ask(caller, &format!("crowd = {to}"), usize::from(CROWD));
            if round >= 10 {
                took.push(one);
            }
        }
    }
    for ((.., hops), took) in ways.iter().zip(&took) {
        let what = format!("request to {CROWD} nodes at one broker, hops {hops}, last reply, median of {CROWD_ROUNDS}");
        times(table, what, took);
    }
}

fn link_bytes(mesh: &Mesh, table: &mut Table) {
    let mut caller = mesh.cluster.operator("noc1");
    for (target, nodes) in [("single = dc1", 1), ("crowd = dc1", u64::from(CROWD))] {
        let before = mesh.carried();
        for _ in 0..COUNTED {
            ask(&mut caller, target, usize::try_from(nodes).unwrap());
        }
        let after = mesh.carried();
        let [out, back] = [0, 1].map(|side| (after[side] - before[side]) as f64 / COUNTED as f64 / nodes as f64);
        table.row(
            format!("link bytes before TLS of a request to {nodes}, per node, {BODY}-byte arguments and answers"),
            format!("{:.0} there, {:.0} back", out, back),
        );
    }
    let topic = || message("/topic/mcollective.bench").with_body("a".repeat(BODY));
    let heard = || mesh.heard.load(Ordering::Relaxed);
    until("the crowd listens", || {
        caller.send_and_wait(topic());
        (heard() > 0).then_some(())
    });
    let before = mesh.carried();
    let heard_before = heard();
    (0..COUNTED).for_each(|_| caller.send_and_wait(topic()));
    until("all have heard all", || (heard() - heard_before == COUNTED * u64::from(CROWD)).then_some(()));
    let after = mesh.carried();
    assert_eq!(after[2] - before[2], COUNTED, "one copy of each message must cross");
    table.row(
        format!("link bytes of a topic message of {BODY} bytes to {CROWD} subscribers, one copy"),
        format!("{:.0} there, {:.0} back", (after[0] - before[0]) as f64 / COUNTED as f64, {
            (after[1] - before[1]) as f64 / COUNTED as f64
        }),
    );
}

/// A subscriber who counts on a thread of its own; what comes must be in order and whole.
fn subscriber(cluster: &Cluster, at: &str, topic: &str) -> Arc<AtomicU64> {
    let mut stomp = cluster.operator(at);
    stomp.subscribe(topic, "stream");
    let arrived = Arc::new(AtomicU64::new(0));
    let count = arrived.clone();
    thread::spawn(move || {
        while let Ok(frame) = stomp.next_within(Duration::from_secs(3_600)) {
            assert_eq!(frame.body.len(), STREAM_BODY, "{}", show(&frame));
            count.fetch_add(1, Ordering::Release);
        }
    });
    arrived
}

fn streams(mesh: &Mesh, table: &mut Table) {
    let ways = [("noc1", "/topic/open.here"), ("dc1", "/topic/open.there")];
    let mut sender = mesh.cluster.operator("noc1");
    let arrived = ways.map(|(at, topic)| subscriber(&mesh.cluster, at, topic));
    for ((_, topic), arrived) in ways.iter().zip(&arrived) {
        until("the subscriber is known", || {
            sender.send_and_wait(message(topic).with_body("a".repeat(STREAM_BODY)));
            (arrived.load(Ordering::Acquire) > 0).then_some(())
        });
        // Of what was sent meanwhile some may still be under way.
        unchanged(Duration::from_millis(500), || arrived.load(Ordering::Acquire));
    }
    let mut took = [Duration::ZERO; 2];
    for _ in 0..TURNS {
        for (((_, topic), arrived), took) in ways.iter().zip(&arrived).zip(&mut took) {
            *took += stream(&mut sender, topic, arrived, STREAM / TURNS);
        }
    }
    let rates = took.map(|took| STREAM as f64 / took.as_secs_f64());
    table.row(
        format!("{STREAM} topic messages of {STREAM_BODY} bytes from one client to one subscriber"),
        format!(
            "over one link {:.0} a second, within one broker {:.0}: {:.2} of it",
            rates[1],
            rates[0],
            rates[1] / rates[0]
        ),
    );
}

/// Sends as fast as receipts and arrivals allow; how long it took until the last message was there.
fn stream(sender: &mut Stomp, topic: &str, arrived: &AtomicU64, count: u64) -> Duration {
    let before = arrived.load(Ordering::Acquire);
    let there = || arrived.load(Ordering::Acquire) - before;
    let plain = message(topic).with_body("a".repeat(STREAM_BODY));
    let (mut wire, mut sent, mut confirmed) = (BytesMut::new(), 0, 0);
    let begun = Instant::now();
    while sent < count {
        wire.clear();
        (1..BATCH).for_each(|_| encode(&plain, Version::V1_2, &mut wire));
        encode(&plain.clone().header("receipt", "batch"), Version::V1_2, &mut wire);
        sender.raw(&wire);
        sent += BATCH;
        while sent - confirmed > 4 * BATCH {
            receipt(sender);
            confirmed += BATCH;
        }
        while sent - there() > WINDOW {
            thread::park_timeout(Duration::from_micros(200));
        }
    }
    (confirmed..sent).step_by(usize::try_from(BATCH).unwrap()).for_each(|_| receipt(sender));
    until("all messages have arrived", || (there() == count).then(|| begun.elapsed()))
}

fn receipt(sender: &mut Stomp) {
    let frame: Frame = sender.next_within(LIMIT).unwrap();
    assert_eq!(frame.command, Command::Receipt, "{}", show(&frame));
}

fn idle(table: &mut Table) {
    const NAMES: [&str; 3] = ["noc1", "dc1", "dc2"];
    const LINKS: [(&str, &str); 3] = [("noc1", "dc1"), ("noc1", "dc2"), ("dc1", "dc2")];
    const NODES: u8 = 10;
    let plan = NAMES.iter().fold(Plan::triangle(), |plan, name| plan.setting(name, "log.level", "info"));
    let cluster = plan.start();
    for (part, name) in (0..).zip(NAMES) {
        for node in cluster.nodes(name, "node-acme", part * NODES..(part + 1) * NODES) {
            serve(node.stomp, Arc::default());
        }
    }
    cluster.until_nodes(&NAMES.map(|name| (name, u64::from(NODES))));
    pass(CALM);
    let sum = |at, to, lane: &str| {
        ["in", "out"].iter().map(|way| cluster.link_count(at, to, &format!("{lane}_{way}.bytes"))).sum::<u64>()
    };
    let now = || LINKS.map(|(at, to)| [sum(at, to, "control"), sum(at, to, "data")]);
    let before = now();
    pass(IDLE);
    let after = now();
    let of = |lane: usize| [0, 1, 2].map(|link: usize| (after[link][lane] - before[link][lane]).to_string());
    table.row(
        format!("link bytes of {} idle seconds, both directions, 3 brokers each linked with both others, {NODES} nodes each", IDLE.as_secs()),
        format!("control {}; data {}", of(0).join(", "), of(1).join(", ")),
    );
}

/// The load of the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

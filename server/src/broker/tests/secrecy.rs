//! Does any answer tell a viewer what it must not know? Two worlds that differ in nothing else must look the same to it.
//!
//! A seed makes a policy, nodes at one broker or three, and what happens. Both worlds play it; they differ in the values of facts
//! that are hidden from the viewer, and in nodes outside of its scope: which there are, what they report, when they come and go, and
//! what others ask of them. (A node that crosses the edge of the scope is there in both: that it comes and goes is to be seen.) Everything that leaves for the viewer must be the same, byte by byte, its order and its numbers included.
//!
//! Time is the same in both worlds, and every broker is left alone until nothing is left to do: *when* an answer comes may well depend
//! on how much there is to look at, as on any machine that is shared, and is not tested. Neither are limits that all share (the memory
//! for gone nodes, room in a link): who fills them shows that there is much, not what.
//!
//! `MUSTER_SEED=123 cargo test -p muster-server --lib secrecy` plays one seed again, `MUSTER_SEEDS=20000` runs more of them.

mod leaks;
mod story;

use super::across::Star;
use super::{Got, send};
use crate::broker::event::NodeHello;
use crate::broker::outbox::{Item, tests::drain};
use crate::broker::simulation::number;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::NodeKey;
use serde_json::Value;
use std::collections::BTreeSet;
use story::{Member, NOISE, OUTSIDE, SECRET, Step, Story, VIEWER};

/// Seeds that are always run.
const SEEDS: u64 = 300;
/// Tests that share them, so that they run at once.
const PARTS: u64 = 4;

/// One of the two worlds, as it is played.
struct World<'s> {
    story: &'s Story,
    which: usize,
    star: Star,
    viewer: u64,
    noise: Vec<u64>,
    /// The session of each node that is connected, and how often each was.
    sessions: Vec<Option<u64>>,
    connects: Vec<u64>,
    cut: Vec<bool>,
    asked: u64,
    /// `next` of what was found last.
    cursor: Option<String>,
}

impl World<'_> {
    fn new(story: &Story, which: usize) -> World<'_> {
        let only = || vec!["/topic/*.node.*".to_owned(), "/topic/*.registration".to_owned()];
        let mut star = Star::with(&story.policy[which], story.brokers, story.narrow.then(only));
        for house in &mut star.houses {
            house.broker.settings.in_flight = 6;
        }
        let count = story.members.len();
        let mut world = World {
            story,
            which,
            star,
            viewer: 1_000_000,
            noise: Vec::new(),
            sessions: vec![None; count],
            connects: vec![0; count],
            cut: vec![false; story.brokers],
            asked: 0,
            cursor: None,
        };
        world.noise = (0..story.brokers).map(|at| world.enter(at, NOISE, None, 2_000_000)).collect();
        world.arrive();
        world
    }

    /// Opens a session under a number, and with queue names, that have nothing to do with other sessions.
    fn enter(&mut self, at: usize, user: &str, node: Option<NodeHello>, session: u64) -> u64 {
        let house = &mut self.star.houses[at];
        (house.last, house.bits) = (session - 1, session);
        let session = house.open_with(user, node, 1 << 22);
        let queue = if node.is_some() { "agent" } else { "me" };
        let subscribe = |destination: &str, id: &str| {
            Frame::new(Command::Subscribe).header("destination", destination).header("id", id)
        };
        house.frame(session, subscribe(&format!("/temp-queue/{queue}"), "queue"));
        let topics: &[&str] = if node.is_some() {
            &["/topic/prod.*.*", "/topic/test.*.*"]
        } else {
            &["/topic/prod.registration", "/topic/test.registration"]
        };
        for topic in topics {
            house.frame(session, subscribe(topic, topic));
        }
        self.star.pump();
        session
    }

    fn arrive(&mut self) {
        self.viewer = self.enter(self.story.at, VIEWER, None, self.viewer + 1);
    }

    /// Does a step, and all that follows from it; what leaves for the viewer.
    fn step(&mut self, step: &Step) -> Vec<String> {
        match step {
            Step::Connect(member) => self.connect(*member),
            Step::Register(member, document) => self.register(*member, *document),
            Step::Close(member, reason) => self.close(*member, reason),
            Step::Pass(ms) => self.star.pass(*ms),
            Step::Cut(other) => {
                self.star.cut(*other);
                self.cut[*other] = true;
            }
            Step::Link(other) => {
                if std::mem::take(&mut self.cut[*other]) {
                    self.star.link(*other);
                }
            }
            Step::Noise { broker, world, target } => {
                if *world == self.which {
                    self.ask_for_others(*broker, target);
                }
            }
            Step::Send(frame) => self.view(frame.clone()),
            Step::Next(frame, body) => {
                let mut body = body.clone();
                if let Some(cursor) = &self.cursor {
                    body["cursor"] = cursor.clone().into();
                }
                self.view(frame.clone().with_body(body.to_string()));
            }
        }
        self.star.pump();
        while self.answer() {
            self.star.pump();
        }
        self.see()
    }

    fn member(&self, member: usize) -> Option<&Member> {
        let member = &self.story.members[member];
        member.is_in[self.which].then_some(member)
    }

    fn connect(&mut self, number: usize) {
        let Some(member) = self.member(number).cloned() else { return };
        self.connects[number] += 1;
        let hello = NodeHello {
            id: muster_protocol::message::NodeId::of(&NodeKey::new([member.number; 32])),
            number: self.connects[number],
            clock_skew: member.skew[self.which],
        };
        let session = u64::from(member.number) * 1_000 + self.connects[number];
        self.sessions[number] = Some(self.enter(member.broker, &member.user, Some(hello), session));
    }

    fn register(&mut self, number: usize, document: usize) {
        let (Some(member), Some(session)) = (self.member(number).cloned(), self.sessions[number]) else { return };
        self.star.houses[member.broker].document(session, member.documents[document][self.which].clone());
    }

    fn close(&mut self, number: usize, reason: &str) {
        let (Some(member), Some(session)) = (self.member(number).cloned(), self.sessions[number].take()) else {
            return;
        };
        let house = &mut self.star.houses[member.broker];
        house.handle(super::Event::Closed { session: super::SessionId(session), reason: reason.into(), refusal: None });
        house.outboxes.remove(&session);
    }

    fn ask_for_others(&mut self, broker: usize, target: &str) {
        self.asked += 1;
        let frame = send("/topic/prod.node.ping").header("muster-request", &format!("n{}", self.asked));
        let frame = frame.header("reply-to", "/temp-queue/me").header("muster-target", target);
        self.star.houses[broker].frame(self.noise[broker], frame.header("muster-reply-within", "2000").with_body("{}"));
    }

    fn view(&mut self, frame: Frame) {
        self.star.houses[self.story.at].frame(self.viewer, frame);
    }

    /// Every node says what it says to what it was asked. Whether somebody was.
    fn answer(&mut self) -> bool {
        let mut any = false;
        for number in 0..self.story.members.len() {
            let (Some(member), Some(session)) = (self.member(number).cloned(), self.sessions[number]) else { continue };
            let house = &mut self.star.houses[member.broker];
            for got in house.take(session) {
                any |= answer(house, &member, session, &got);
            }
        }
        for (broker, session) in self.noise.iter().enumerate() {
            self.star.houses[broker].take(*session);
        }
        any
    }

    /// What has left for the viewer since the last look. Whoever was thrown out comes again.
    fn see(&mut self) -> Vec<String> {
        let house = &mut self.star.houses[self.story.at];
        let items = drain(&house.outboxes[&self.viewer].0, house.now);
        let is_over = items.iter().any(|item| matches!(item, Item::Close(_)));
        let lines: Vec<String> = items.into_iter().map(|item| self.line(item)).collect();
        if is_over {
            self.arrive();
        }
        lines
    }

    /// All of an item that reaches the wire.
    fn line(&mut self, item: Item) -> String {
        match item {
            Item::Message { message, subscription, number } => {
                let body = String::from_utf8_lossy(&message.body).into_owned();
                let headers: Vec<(&str, &str)> = message.headers.iter().collect();
                if let Some(next) = serde_json::from_str::<Value>(&body).ok().filter(|body| body.get("nodes").is_some())
                {
                    self.cursor = next["next"].as_str().map(str::to_owned);
                }
                format!("MESSAGE {number} {subscription} {} {headers:?} {body}", message.destination)
            }
            other => format!("{other:?}"),
        }
    }
}

/// One node's answer to one message: by who it is and what it is asked, the same in both worlds.
fn answer(house: &mut super::House, member: &Member, session: u64, got: &Got) -> bool {
    let (queue, request) = (got.header("reply-to").to_owned(), got.header("muster-request").to_owned());
    if request.is_empty() || queue.is_empty() {
        return false;
    }
    let reply = send(&queue).header("muster-request", &request);
    let ended = |status: &str, body: &str| {
        reply.clone().header("muster-event", "reply").header("muster-status", status).with_body(body.to_owned())
    };
    let chance = usize::from(member.number) + request.bytes().map(usize::from).sum::<usize>();
    let frame = match chance % 4 {
        0 => ended("ok", &format!("{{\"n\":{}}}", member.number)),
        1 => ended("failed", "{}"),
        2 => reply.header("muster-event", "started"),
        _ => return false,
    };
    house.frame(session, frame);
    true
}

/// Plays a story in one world: for each step what leaves for the viewer.
fn play(story: &Story, which: usize) -> Vec<Vec<String>> {
    let mut world = World::new(story, which);
    story.steps.iter().map(|step| world.step(step)).collect()
}

/// What is wrong with a story: the step after which the viewer knows more than it may.
fn leak(story: &Story) -> Option<String> {
    let [left, right] = [0, 1].map(|which| play(story, which));
    for (number, (left, right)) in left.iter().zip(&right).enumerate() {
        let told = left.iter().chain(right).find(|line| line.contains(SECRET) || line.contains(OUTSIDE));
        let step = &story.steps[number];
        if let Some(line) = told {
            return Some(format!("step {number}, {step:?}: what nobody may tell the viewer is in\n  {line}"));
        }
        if left != right {
            let list = |lines: &[String]| lines.iter().map(|line| format!("\n    {line}")).collect::<String>();
            return Some(format!(
                "step {number}, {step:?}: the viewer can tell the worlds apart\n  one:{}\n  other:{}",
                list(left),
                list(right)
            ));
        }
    }
    None
}

/// The story without all that is not needed for it to go wrong.
fn shortened(mut story: Story) -> Story {
    let mut again = true;
    while again {
        again = false;
        for at in (0..story.steps.len()).rev() {
            let mut less = story.clone();
            less.steps.remove(at);
            if leak(&less).is_some() {
                (story, again) = (less, true);
            }
        }
    }
    story
}

fn part(part: u64) {
    let seeds: Vec<u64> = match number("MUSTER_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("MUSTER_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let mut told = 0;
    for seed in seeds.into_iter().filter(|seed| seed % PARTS == part) {
        let story = Story::of(seed);
        if leak(&story).is_some() {
            let story = shortened(story);
            panic!("MUSTER_SEED={seed}\n{story}\n{}", leak(&story).unwrap_or_default());
        }
        told += 1;
    }
    assert!(told > 0 || number("MUSTER_SEED").is_some());
}

/// What is never said cannot give anything away: the stories make brokers say what they can say.
#[test]
fn the_viewer_is_told_of_everything() {
    let mut told: BTreeSet<String> = BTreeSet::new();
    for seed in 0..150 {
        let story = Story::of(seed);
        let lines = play(&story, 0).concat();
        for line in &lines {
            let of_header =
                |name: &str| line.split_once(&format!("(\"{name}\", \"")).and_then(|(_, rest)| rest.split_once('"'));
            let of_body = line.split_once("\"event\":\"").and_then(|(_, rest)| rest.split_once('"'));
            let found = [of_header("muster-event"), of_header("muster-code"), of_body];
            told.extend(found.into_iter().flatten().map(|(word, _)| word.to_owned()));
            let parts = [
                "\"next\":",
                "\"gone\":[",
                "\"reached\":",
                "\"explanation\":",
                "not counted",
                "\"without\":",
                "\"facts\":{\"",
            ];
            told.extend(parts.into_iter().filter(|part| line.contains(part)).map(str::to_owned));
        }
    }
    for word in [
        "accepted",
        "started",
        "reply",
        "lost",
        "expired",
        "cancelled",
        "missing",
        "done",
        "refused",
        "answer",
        "registered",
        "changed",
        "gone",
        "hidden-fact",
        "no-such-node",
        "no-such-request",
        "duplicate-request",
        "too-many-targets",
        "unexpected-targets",
        "partial",
        "all-not-allowed",
        "\"next\":",
        "\"gone\":[",
        "\"reached\":",
        "\"explanation\":",
        "not counted",
        "\"without\":",
        "\"facts\":{\"",
    ] {
        assert!(told.contains(word), "never said: {word}; said: {told:?}");
    }
}

macro_rules! parts {
    ($($name:ident = $part:literal,)*) => { $(#[test] fn $name() { part($part); })* };
}

parts! {
    worlds_look_the_same_0 = 0,
    worlds_look_the_same_1 = 1,
    worlds_look_the_same_2 = 2,
    worlds_look_the_same_3 = 3,
}

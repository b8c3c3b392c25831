//! All brokers, links, agents and operators of one run, and the queue of what happens next.

use super::actors::{Agent, Operator};
use super::charter::Charter;
use super::dice::Dice;
use super::edge;
use super::ledger::Ledger;
use super::site::{At, Door, Flag, Site, Who};
use super::wires::{Connection, Wire};
use crate::broker::errand::{Errand, Outcome};
use crate::broker::event::{Event, NodeHello, Opened, SessionId, Ticket};
use crate::broker::nodes::Memory;
use crate::broker::note::Weight;
use crate::broker::outbox::{Item, outbox};
use crate::broker::{Broker, Settings};
use crate::intake::Intake;
use muster_protocol::frame::{Frame, Version};
use muster_protocol::link::Head;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Context;

/// Lines of the trace that are kept.
const TRACE: usize = 6_000;
/// Wake-ups without a pause after which a broker is taken to run in circles.
const CIRCLES: usize = 10_000;

/// What happens next.
#[derive(Debug)]
pub(super) enum Happening {
    Wake { site: usize, life: u64 },
    Start { site: usize },
    Opened { connection: u64, side: usize },
    Pump { connection: u64, side: usize },
    Arrive { connection: u64, side: usize, frame: edge::Frame },
    Ended { connection: u64, side: usize },
    Redial { wire: usize, side: usize },
    Join(Who),
    Say { at: At, frames: Vec<Frame> },
    Leave { at: At, reason: &'static str },
    Deed(super::story::Deed),
    Errand { site: usize, life: u64, errand: Box<Errand> },
    Done { site: usize, life: u64, errand: u64, outcome: Box<Outcome> },
}

/// A line of the trace; it is made into text only when a run fails.
#[derive(Debug)]
pub(super) enum Seen {
    Text(String),
    Frame { from: usize, to: usize, head: Arc<Head>, is_lost: bool },
}

/// One run.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) dice: Dice,
    queue: BTreeMap<(u64, u64), Happening>,
    last_plan: u64,
    pub(super) sites: Vec<Site>,
    pub(super) wires: Vec<Wire>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) last_connection: u64,
    pub(super) agents: Vec<Agent>,
    pub(super) operators: Vec<Operator>,
    pub(super) ledger: Ledger,
    pub(super) charter: Charter,
    /// Frames become bytes on their way, as they do on a real link. It costs as much as all the rest.
    pub(super) has_codec: bool,
    /// Most of what is asked is about the policy.
    pub(super) is_political: bool,
    /// No faults, and no agent comes, goes or dies.
    pub(super) is_calm: bool,
    /// All brokers of each component agree on it: every frame must go the right way.
    pub(super) is_settled: bool,
    pub(super) failure: Option<String>,
    trace: VecDeque<(u64, Seen)>,
    /// How many events brokers have handled.
    pub(super) handled: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            now: 0,
            dice: Dice::new(seed),
            queue: BTreeMap::new(),
            last_plan: 0,
            sites: Vec::new(),
            wires: Vec::new(),
            connections: BTreeMap::new(),
            last_connection: 0,
            agents: Vec::new(),
            operators: Vec::new(),
            ledger: Ledger::default(),
            charter: Charter::default(),
            has_codec: true,
            is_political: false,
            is_calm: true,
            is_settled: false,
            failure: None,
            trace: VecDeque::new(),
            handled: 0,
        }
    }

    pub(super) fn add_site(&mut self, name: &str, skew: i64) -> usize {
        let bits = self.dice.split();
        self.sites.push(Site::new(name, skew, bits));
        self.sites.len() - 1
    }

    pub(super) fn plan(&mut self, after: u64, what: Happening) {
        self.last_plan += 1;
        self.queue.insert((self.now + after, self.last_plan), what);
    }

    pub(super) fn fail(&mut self, why: String) {
        if self.failure.is_none() {
            self.seen(Seen::Text(format!("FAILED: {why}")));
            self.failure = Some(why);
        }
    }

    pub(super) fn seen(&mut self, what: Seen) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back((self.now, what));
    }

    /// Lets time pass; `Err` as soon as something is wrong.
    pub(super) fn run(&mut self, ms: u64) -> Result<(), String> {
        let until = self.now + ms;
        while let Some((&(at, number), _)) = self.queue.first_key_value() {
            if at > until {
                break;
            }
            self.now = at;
            if let Some(what) = self.queue.remove(&(at, number)) {
                self.happen(what);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        self.now = until;
        Ok(())
    }

    /// Lets time pass until a condition holds, at most so long.
    pub(super) fn run_until(
        &mut self,
        most: u64,
        what: &str,
        holds: impl Fn(&World) -> Result<(), String>,
    ) -> Result<u64, String> {
        let began = self.now;
        loop {
            let Err(why) = holds(self) else { return Ok(self.now - began) };
            if self.now - began >= most {
                return Err(format!("{what}: not within {most} ms: {why}"));
            }
            self.run(20)?;
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Wake { site, life } => {
                if self.sites[site].life == life {
                    self.sites[site].wake = None;
                    self.handle(site, Event::Wake);
                }
            }
            Happening::Start { site } => self.start(site),
            Happening::Opened { connection, side } => self.opened(connection, side),
            Happening::Pump { connection, side } => self.pump(connection, side),
            Happening::Arrive { connection, side, frame } => self.arrive(connection, side, frame),
            Happening::Ended { connection, side } => self.ended(connection, side),
            Happening::Redial { wire, side } => self.redial(wire, side),
            Happening::Join(Who::Agent(agent)) => self.join_agent(agent),
            Happening::Join(Who::Operator(operator)) => self.join_operator(operator),
            Happening::Say { at, frames } => self.say(at, frames),
            Happening::Leave { at, reason } => self.leave(at, reason),
            Happening::Deed(deed) => self.deed(deed),
            Happening::Errand { site, life, errand } => self.errand(site, life, *errand),
            Happening::Done { site, life, errand, outcome } => {
                if self.sites[site].life == life {
                    self.handle(site, Event::Done { errand, outcome });
                }
            }
        }
    }

    /// A broker starts: a new life with the next boot counter of its disk.
    pub(super) fn start(&mut self, number: usize) {
        let (now, brokers) = (self.now, self.sites.len());
        let site = &mut self.sites[number];
        if site.is_alive() {
            return;
        }
        site.life += 1;
        site.boots += 1;
        site.incarnation = site.bits.bits();
        (site.zero, site.began) = (site.bits.within(0..1_000_000), now);
        site.nonce = site.unix(now) & !1;
        (site.last_link, site.last_session, site.wake) = (0, 0, None);
        let settings = Settings {
            name: site.name.clone(),
            instance: site.boots,
            incarnation: site.incarnation,
            born: site.unix(now),
            subscriptions: 16,
            in_flight: 64,
            sessions_per_user: 0,
            memory: Memory { gone_for: 3_600_000, gone_most: 100 },
        };
        let text = format!("{} starts, instance {}, clock {:+}", site.name, site.boots, site.skew);
        let edition = site.disk.boot(&settings.name, brokers);
        site.broker = Some(Broker::new(settings, edition));
        self.seen(Seen::Text(text));
        let dials: Vec<(usize, usize)> = (0..self.wires.len())
            .filter_map(|wire| Some((wire, self.wires[wire].sites.iter().position(|s| *s == number)?)))
            .collect();
        for (wire, side) in dials {
            self.plan_redial(wire, side, 0..300);
        }
        self.handle(number, Event::Wake);
    }

    /// A broker dies with all that it knew; the systems of its peers may tell them.
    pub(super) fn kill(&mut self, number: usize, is_told: bool) {
        self.seen(Seen::Text(format!("{} is killed", self.sites[number].name)));
        self.sites[number].broker = None;
        self.orphan(number, is_told);
        let life = self.sites[number].life;
        for (session, door) in std::mem::take(&mut self.sites[number].doors) {
            self.left(At { site: number, life, session }, door.who, None);
        }
    }

    /// One event, and all the work that it leaves.
    pub(super) fn handle(&mut self, number: usize, event: Event) {
        let now = self.now;
        let site = &mut self.sites[number];
        let time = site.time(now);
        let Some(broker) = site.broker.as_mut() else { return };
        let (bits, mut next, mut circles) = (&mut site.bits, Some(event), 0);
        let (mut notes, mut errands) = (Vec::new(), Vec::new());
        let wake = loop {
            broker.handle(next.take().unwrap_or(Event::Wake), time, &mut || bits.bits());
            self.handled += 1;
            notes.extend(broker.take_notes());
            errands.extend(broker.take_errands());
            match broker.next_deadline(time) {
                Some(at) if at <= time.tick && circles < CIRCLES => circles += 1,
                at => break at,
            }
        };
        if circles == CIRCLES {
            let why = format!("{} wants to be woken for ever", site.name);
            return self.fail(why);
        }
        let wake = wake.map(|at| now + (at - time.tick));
        let life = site.life;
        let is_sooner = |at: &u64| site.wake.is_none_or(|planned| *at < planned);
        if let Some(at) = wake.filter(is_sooner) {
            site.wake = Some(at);
            self.plan(at - now, Happening::Wake { site: number, life });
        }
        for note in notes.into_iter().filter(|note| note.weight == Weight::Warning) {
            let text = format!("{}: {} {:?}", self.sites[number].name, note.text, note.fields);
            self.seen(Seen::Text(text.clone()));
            self.sites[number].alarms.push(text);
        }
        self.plan_errands(number, errands);
        self.look_at_sessions(number);
        self.look_at_links(number);
    }

    fn look_at_sessions(&mut self, number: usize) {
        let (now, mut got) = (self.now, Vec::new());
        let site = &mut self.sites[number];
        let (tick, life) = (site.time(now).tick, site.life);
        for (session, door) in site.doors.iter().filter(|(_, door)| door.flag.take()) {
            let waker = door.flag.waker();
            let mut items = Vec::new();
            let mut context = Context::from_waker(&waker);
            while door.reader.poll_take(&mut context, tick, usize::MAX, &mut items).is_ready() {}
            got.push((At { site: number, life, session: *session }, door.who, items));
        }
        for (at, who, items) in got {
            for item in items {
                match item {
                    Item::Close(refusal) => {
                        self.sites[number].doors.remove(&at.session);
                        self.plan(0, Happening::Leave { at, reason: "connection closed" });
                        self.left(at, who, refusal);
                        break;
                    }
                    item => self.read(at, who, item),
                }
            }
        }
    }

    /// A client has logged in at a site.
    pub(super) fn open(&mut self, number: usize, who: Who, user: &str, node: Option<NodeHello>) -> At {
        let site = &mut self.sites[number];
        site.last_session += 1;
        let at = At { site: number, life: site.life, session: site.last_session };
        let (outbox, reader) = outbox(1 << 20);
        let intake = Intake::new(Version::V1_2, node.is_some());
        site.doors.insert(at.session, Door { reader, intake, who, flag: Flag::new() });
        let (session, user) = (SessionId(at.session), user.to_owned());
        let (password_hash, peer) = (super::PHC.to_owned(), SocketAddr::from(([127, 0, 0, 1], 1)).into());
        let opened = Opened { session, user, password_hash, token_made: None, node, peer, outbox };
        self.handle(number, Event::Opened(Box::new(opened)));
        at
    }

    /// Frames of a client, if its session is still there.
    pub(super) fn say(&mut self, at: At, frames: Vec<Frame>) {
        let now = self.now;
        let site = &mut self.sites[at.site];
        if site.life != at.life || !site.is_alive() {
            return;
        }
        let unix = site.unix(now);
        let Some(door) = site.doors.get_mut(&at.session) else { return };
        let inputs = frames.into_iter().map(|frame| door.intake.input(frame, unix)).collect();
        self.handle(at.site, Event::Inputs { session: SessionId(at.session), inputs, ticket: Ticket(None) });
    }

    /// The connection of a client ends.
    pub(super) fn leave(&mut self, at: At, reason: &str) {
        let site = &mut self.sites[at.site];
        if site.life != at.life || !site.is_alive() {
            return;
        }
        let door = site.doors.remove(&at.session);
        let event = Event::Closed { session: SessionId(at.session), reason: reason.into(), refusal: None };
        self.handle(at.site, event);
        if let Some(door) = door {
            self.left(at, door.who, None);
        }
    }

    /// The last lines of what happened, for people.
    pub(super) fn tell(&self, lines: usize) -> String {
        let mut text = String::from("wires:");
        for wire in &self.wires {
            let [a, b] = wire.sites.map(|site| &self.sites[site].name);
            let state = if wire.up { "" } else { ", cut" };
            text.push_str(&format!(" {a}-{b} ({:?}{state}, {:?} ms)", wire.costs, wire.delay));
        }
        let skipped = self.trace.len().saturating_sub(lines);
        for (at, seen) in self.trace.iter().skip(skipped) {
            let line = match seen {
                Seen::Text(text) => text.clone(),
                Seen::Frame { from, to, head, is_lost } => {
                    let lost = if *is_lost { "LOST " } else { "" };
                    format!("  {} > {}: {lost}{head:?}", self.sites[*from].name, self.sites[*to].name)
                }
            };
            text.push_str(&format!("\n{at:>7} {line}"));
        }
        text
    }
}

//! Who uses the mesh? Agents that answer, or do not, and operators that ask.

use super::aim::{CENTERS, ROLES};
use super::dice::Dice;
use super::ledger::Plan;
use super::site::{At, Who};
use super::world::{Happening, World};
use crate::broker::event::NodeHello;
use crate::broker::outbox::{Item, Message};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::{NodeId, NodeKey, header};
use muster_protocol::request::State;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What operators may subscribe to.
pub(super) const PATTERNS: &[&str] = &["/topic/news.>", "/topic/news.a", "/topic/news.*", "/topic/news.b.>"];
/// Where messages go.
pub(super) const TOPICS: &[&str] = &["/topic/news.a", "/topic/news.b", "/topic/news.b.c.d"];

/// A managed node.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: NodeId,
    user: &'static str,
    /// The broker that it prefers.
    pub(super) home: Option<usize>,
    pub(super) center: &'static str,
    pub(super) role: Option<&'static str>,
    pub(super) cpus: u64,
    /// It has the module `service`.
    pub(super) serves: bool,
    number: u64,
    /// Where it is connected.
    pub(super) current: Option<At>,
    /// All sessions that a broker still takes for it, and their numbers: older ones are half-open.
    pub(super) open: BTreeMap<At, u64>,
    /// Since when.
    registered: BTreeMap<At, u64>,
    /// By which sessions it got which request, and where the answer goes.
    runs: BTreeMap<String, (String, Vec<At>)>,
    is_joining: bool,
}

/// A user of the NOC.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) patterns: Vec<&'static str>,
    pub(super) home: usize,
    pub(super) current: Option<At>,
    is_joining: bool,
}

impl Agent {
    pub(super) fn random(number: usize, dice: &mut Dice) -> Agent {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Agent {
            id: NodeId::of(&NodeKey::new(key)),
            user: dice.pick(&["node-acme", "node-globex"]),
            home: None,
            center: dice.pick(CENTERS),
            role: dice.chance(80).then(|| dice.pick(ROLES)),
            cpus: dice.within(1..12),
            serves: dice.chance(80),
            number: 0,
            current: None,
            open: BTreeMap::new(),
            registered: BTreeMap::new(),
            runs: BTreeMap::new(),
            is_joining: false,
        }
    }

    pub(super) fn customer(&self) -> &'static str {
        if self.user == "node-acme" { "acmeinc" } else { "globex" }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.current.is_some_and(|at| self.registered.contains_key(&at))
    }

    /// Its session, if it has been where it is, as it is, since then.
    pub(super) fn settled_since(&self, then: u64) -> Option<At> {
        self.current.filter(|at| self.registered.get(at).is_some_and(|since| *since <= then))
    }

    fn document(&self) -> Frame {
        let mut facts = json!({ "datacenter": self.center, "cpu": { "count": self.cpus } });
        let mut modules = json!({ "node": "x" });
        if let Some(role) = self.role {
            facts["role"] = role.into();
        }
        if self.serves {
            modules["service"] = "y".into();
        }
        let classes: Vec<&str> = self.role.into_iter().collect();
        let document = json!({ "facts": facts, "classes": classes, "modules": modules });
        let hash = NodeDocument::from_value(document.clone()).expect("a document").hash();
        let frame = send("/muster/facts").header(header::HASH, &hash).header(header::REPLY_TO, "/temp-queue/agent");
        frame.with_body(document.to_string())
    }
}

impl Operator {
    pub(super) fn random(home: usize, dice: &mut Dice) -> Operator {
        let patterns = PATTERNS.iter().copied().filter(|_| dice.chance(40)).collect();
        Operator { patterns, home, current: None, is_joining: false }
    }
}

pub(super) fn send(destination: &str) -> Frame {
    Frame::new(Command::Send).header("destination", destination)
}

pub(super) fn subscribe(destination: &str, id: &str) -> Frame {
    Frame::new(Command::Subscribe).header("destination", destination).header("id", id)
}

pub(super) fn header_of<'a>(message: &'a Message, name: &str) -> &'a str {
    message.headers.get(name).unwrap_or_default()
}

pub(super) fn json_of(message: &Message) -> Value {
    serde_json::from_slice(&message.body).unwrap_or(Value::Null)
}

impl World {
    pub(super) fn plan_join(&mut self, who: Who, after: u64) {
        let is_joining = match who {
            Who::Agent(agent) => &mut self.agents[agent].is_joining,
            Who::Operator(operator) => &mut self.operators[operator].is_joining,
        };
        if !std::mem::replace(is_joining, true) {
            self.plan(after, Happening::Join(who));
        }
    }

    fn somewhere(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.sites.len()).filter(|site| self.sites[*site].is_alive()).collect();
        (!alive.is_empty()).then(|| self.dice.pick(&alive))
    }

    /// An agent connects to some broker with the next session number, and registers.
    pub(super) fn join_agent(&mut self, number: usize) {
        self.agents[number].is_joining = false;
        let home = self.agents[number].home.filter(|home| self.sites[*home].is_alive());
        let Some(site) = home.or_else(|| self.somewhere()) else { return self.plan_join(Who::Agent(number), 500) };
        let agent = &mut self.agents[number];
        agent.number += 1;
        let hello = NodeHello { id: agent.id, number: agent.number, clock_skew: 0 };
        let (user, raised) = (agent.user, agent.number);
        let at = At { site, life: self.sites[site].life, session: self.sites[site].last_session + 1 };
        self.agents[number].open.insert(at, raised);
        self.agents[number].current = Some(at);
        self.open(site, Who::Agent(number), user, Some(hello));
        let topics = [subscribe("/topic/prod.*.*", "all"), subscribe("/temp-queue/agent", "agent")];
        let frames = topics.into_iter().chain([self.agents[number].document()]).collect();
        self.say(at, frames);
    }

    /// It takes on other facts.
    pub(super) fn change_facts(&mut self, number: usize) {
        let (center, cpus) = (self.dice.pick(CENTERS), self.dice.within(1..12));
        let agent = &mut self.agents[number];
        (agent.center, agent.cpus) = (center, cpus);
        let (Some(at), document) = (agent.current, agent.document()) else { return };
        agent.registered.remove(&at);
        self.say(at, vec![document]);
    }

    pub(super) fn join_operator(&mut self, number: usize) {
        self.operators[number].is_joining = false;
        let home = self.operators[number].home;
        let site = if self.sites[home].is_alive() { Some(home) } else { self.somewhere() };
        let Some(site) = site else { return self.plan_join(Who::Operator(number), 500) };
        let at = At { site, life: self.sites[site].life, session: self.sites[site].last_session + 1 };
        self.operators[number].current = Some(at);
        self.open(site, Who::Operator(number), "noc", None);
        let topics = self.operators[number].patterns.iter().map(|pattern| subscribe(pattern, pattern));
        // A queue that requests use takes no other answers.
        let frames =
            topics.chain(["/temp-queue/me", "/temp-queue/letters"].map(|queue| subscribe(queue, queue))).collect();
        self.say(at, frames);
    }

    /// A session is over, whoever ended it.
    pub(super) fn left(&mut self, at: At, who: Who, refusal: Option<Refusal>) {
        let after = self.dice.within(50..1_000);
        match who {
            Who::Agent(number) => {
                let agent = &mut self.agents[number];
                let raised = agent.open.remove(&at).unwrap_or_default();
                agent.registered.remove(&at);
                if agent.current == Some(at) {
                    agent.current = None;
                    self.plan_join(who, after);
                }
                let is_newest = raised == self.agents[number].number;
                if is_newest && refusal.as_ref().is_some_and(|r| r.code == Code::Moved) {
                    let id = self.agents[number].id;
                    self.fail(format!("{id}: its newest session ({raised}) was closed as moved at {at:?}"));
                }
            }
            Who::Operator(number) => {
                self.ledger.caller_left(at);
                self.charter.caller_left(at);
                if self.operators[number].current == Some(at) {
                    self.operators[number].current = None;
                    self.plan_join(who, after);
                }
            }
        }
        if let Some(refusal) = refusal.filter(|r| !matches!(r.code, Code::Moved | Code::Draining)) {
            self.fail(format!("{who:?} at {at:?} was thrown out: {refusal}"));
        }
    }

    /// A client reads what its broker sent it.
    pub(super) fn read(&mut self, at: At, who: Who, item: Item) {
        let Item::Message { message, .. } = item else { return };
        match who {
            Who::Agent(number) => self.read_as_agent(at, number, &message),
            Who::Operator(_) => {
                match self.charter.got(at, &message) {
                    Ok(false) => {}
                    Ok(true) => return,
                    Err(why) => return self.fail(why),
                }
                let checked = self.ledger.got(at, &message, self.now);
                let id = header_of(&message, header::REQUEST);
                if let Err(why) = checked.and_then(|()| self.forgets_nobody(id)) {
                    self.fail(why);
                }
                if message.destination.starts_with("/topic/") {
                    self.answer_message(at, header_of(&message, header::REPLY_TO));
                }
            }
        }
    }

    fn read_as_agent(&mut self, at: At, number: usize, message: &Message) {
        let agent = &mut self.agents[number];
        let request = header_of(message, header::REQUEST).to_owned();
        if agent.current != Some(at) {
            // Nobody is there any more; the broker does not know it yet.
            self.ledger.fell_into_the_void(&request, agent.id);
            return;
        }
        match header_of(message, header::EVENT) {
            "registered" => {
                agent.registered.insert(at, self.now);
            }
            "cancel" => {
                let queue = agent.runs.get(&request).map(|(queue, _)| queue.clone());
                if let Some(queue) = queue.filter(|_| self.dice.chance(60)) {
                    let after = self.dice.within(1..200);
                    let frames = vec![answer(&queue, &request, State::Cancelled)];
                    self.plan(after, Happening::Say { at, frames });
                }
            }
            "" if !request.is_empty() => self.begin(at, number, message, &request),
            other => {
                let why = format!("node {} got an event `{other}` that it cannot have", agent.id);
                self.fail(why);
            }
        }
    }

    /// A request has reached an agent: it decides what becomes of it.
    fn begin(&mut self, at: At, number: usize, message: &Message, request: &str) {
        let agent = &mut self.agents[number];
        let id = agent.id;
        let queue = header_of(message, header::REPLY_TO).to_owned();
        let (_, runs) = agent.runs.entry(request.to_owned()).or_insert_with(|| (queue.clone(), Vec::new()));
        if runs.contains(&at) {
            return self.fail(format!("{id} got {request} twice over one session"));
        }
        runs.push(at);
        if runs.len() > 1 {
            // It came by another broker after the node moved: an agent remembers, and keeps silent.
            return;
        }
        if header_of(message, header::CALLER).is_empty() || header_of(message, header::ORIGIN).is_empty() {
            return self.fail(format!("{request} reached {id} without the stamps of a broker"));
        }
        let delay = self.dice.within(1..1_500);
        let plan = match self.dice.below(20) {
            0..2 => Plan::Silence,
            2..5 => Plan::Answer(State::Failed),
            5 if !self.is_calm => Plan::Death,
            _ => Plan::Answer(State::Ok),
        };
        match plan {
            Plan::Silence => {}
            Plan::Answer(state) => {
                if delay > 1_000 {
                    let frame = reply_frame(&queue, request).header(header::EVENT, "started");
                    self.plan(1_000, Happening::Say { at, frames: vec![frame] });
                }
                self.plan(delay, Happening::Say { at, frames: vec![answer(&queue, request, state)] });
            }
            Plan::Death => self.plan(delay, Happening::Leave { at, reason: "connection closed" }),
        }
        let due = self.now + delay;
        if let Err(why) = self.ledger.began(request, id, plan, due) {
            self.fail(why);
        }
    }
}

fn reply_frame(queue: &str, request: &str) -> Frame {
    send(queue).header(header::REQUEST, request)
}

fn answer(queue: &str, request: &str, state: State) -> Frame {
    let frame = reply_frame(queue, request).header(header::EVENT, "reply").header(header::STATUS, state.as_str());
    frame.with_body("{}")
}

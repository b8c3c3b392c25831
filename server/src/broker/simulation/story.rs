//! What happens in a run? A random mesh starts, is asked, is hurt, heals, and is asked again.

use super::actors::{Agent, Operator, TOPICS, send};
use super::aim::Aim;
use super::charter::ENFORCED;
use super::dice::Dice;
use super::ledger::Terms;
use super::site::{At, Who};
use super::wires::Wire;
use super::world::{Happening, Seen, World};
use muster_protocol::message::header;
use serde_json::json;

/// How long a mesh may take until all agree again, ms: the 5 s after which silence is noticed, the back-off of a dial, some rounds.
const SETTLES: u64 = 15_000;
/// After so long what is known of a broker that has come back counts again, ms.
const TRUSTED: u64 = 2_200;

/// What is done to the mesh, or in it.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Cut {
        wire: usize,
        notice: u64,
    },
    Heal {
        wire: usize,
    },
    Silence {
        wire: usize,
        sides: [bool; 2],
    },
    Stall {
        wire: usize,
        ms: u64,
    },
    Kill {
        site: usize,
        is_told: bool,
        back_after: Option<u64>,
    },
    /// It has hardly started, and dies again.
    KillAgain {
        site: usize,
        is_told: bool,
    },
    Message {
        operator: usize,
    },
    Request {
        operator: usize,
    },
    Cancel {
        at: At,
        request: String,
    },
    Find {
        operator: usize,
    },
    Roam {
        agent: usize,
    },
    Bounce {
        agent: usize,
    },
    Change {
        agent: usize,
    },
    Hang {
        operator: usize,
    },
    Edit {
        operator: usize,
    },
    Take {
        operator: usize,
    },
    EditByHand {
        site: usize,
    },
}

/// One seed from start to end.
pub(super) fn run(world: &mut World) -> Result<(), String> {
    world.build();
    world.settle("after the start")?;
    world.traffic()?;
    let rounds = world.dice.within(1..3);
    for _ in 0..rounds {
        world.chaos()?;
        world.settle("after the faults")?;
        world.traffic()?;
    }
    world.ends()?;
    world.reunite()
}

impl World {
    /// A random connected graph of a random size; small ones are more frequent, as they are cheap.
    fn build(&mut self) {
        let mut dice = self.dice.split();
        self.has_codec = dice.chance(25);
        self.is_political = dice.chance(25);
        let small = dice.chance(85);
        let count = if small { dice.pick(&[2, 3, 3, 4, 4, 4, 5]) } else { dice.pick(&[6, 6, 7, 7, 8, 9, 10, 12]) };
        for number in 1..=count {
            let skew = if dice.chance(20) { dice.within(0..7_200_000) as i64 - 3_600_000 } else { 0 };
            self.add_site(&format!("b{number}"), skew);
        }
        for (a, b) in shape(count, &mut dice) {
            self.add_wire(a, b, &mut dice);
        }
        for site in 0..count {
            self.plan(dice.within(0..500), Happening::Start { site });
            for _ in 0..dice.below(if count > 6 { 3 } else { 4 }) {
                self.agents.push(Agent::random(self.agents.len(), &mut dice));
            }
            if dice.chance(70) || site == 0 {
                self.operators.push(Operator::random(site, &mut dice));
            }
        }
        for agent in 0..self.agents.len() {
            self.plan_join(Who::Agent(agent), dice.within(500..1_500));
        }
        for operator in 0..self.operators.len() {
            self.plan_join(Who::Operator(operator), dice.within(500..1_500));
        }
    }

    pub(super) fn add_wire(&mut self, a: usize, b: usize, dice: &mut Dice) {
        let cost = dice.pick(&[1, 1, 1, 2, 3, 10]);
        let least = dice.within(1..40);
        let mut wire = Wire::new(a, b, cost, least..least + dice.within(1..15));
        if dice.chance(10) {
            wire.costs[1] = dice.within(1..10) as u32;
        }
        wire.both_dial = dice.chance(25);
        wire.is_slow = dice.chance(15);
        self.wires.push(wire);
    }

    /// Waits until every component is one mesh whose brokers agree on all that is true.
    pub(super) fn settle(&mut self, when: &str) -> Result<(), String> {
        self.is_calm = true;
        self.is_settled = false;
        self.run_until(SETTLES, when, |world| {
            world.ledger.is_punctual(world.now)?;
            world.charter.is_punctual(world.now)?;
            world.is_linked()?;
            world.seems_agreed()
        })?;
        // What was on the way may still be flooded; from now on nothing is.
        self.run(TRUSTED)?;
        self.is_agreed().map_err(|why| format!("{when}: it did not last: {why}"))?;
        self.is_settled = true;
        Ok(())
    }

    /// Some of everything, while the mesh is quiet: all must be exact.
    pub(super) fn traffic(&mut self) -> Result<(), String> {
        for _ in 0..self.dice.within(4..9) {
            let deed = self.asking();
            let after = self.dice.within(0..1_500);
            self.plan(after, Happening::Deed(deed));
        }
        self.run(1_500)?;
        self.run_until(12_000, "what was sent while it was quiet", |world| {
            world.ledger.is_served()?;
            world.charter.is_served()
        })?;
        self.run(300)?;
        self.run_until(ENFORCED, "an edit is enforced everywhere", World::has_one_policy_each)?;
        self.is_agreed().map_err(|why| format!("after the traffic: {why}"))?;
        self.ledger.put_away();
        self.is_settled = false;
        Ok(())
    }

    fn asking(&mut self) -> Deed {
        let operator = self.dice.below(self.operators.len());
        if self.dice.chance(if self.is_political { 60 } else { 10 }) {
            return match self.dice.below(10) {
                0..6 => Deed::Edit { operator },
                // While it is quiet nobody takes the authority: every edit must be made.
                _ if self.is_calm => Deed::Edit { operator },
                6..9 => Deed::Take { operator },
                _ => Deed::EditByHand { site: self.dice.below(self.sites.len()) },
            };
        }
        match self.dice.below(10) {
            0..4 => Deed::Message { operator },
            4..8 => Deed::Request { operator },
            _ => Deed::Find { operator },
        }
    }

    /// Faults and traffic together; at the end most of what was broken is whole again.
    pub(super) fn chaos(&mut self) -> Result<(), String> {
        self.is_calm = false;
        let most = self.dice.within(1_500..6_000);
        for _ in 0..self.dice.within(1..6) {
            let fault = self.fault();
            let after = self.dice.within(0..most);
            self.plan(after, Happening::Deed(fault));
        }
        for _ in 0..self.dice.within(4..12) {
            let deed = if self.dice.chance(70) { self.asking() } else { self.moving() };
            let after = self.dice.within(0..most);
            self.plan(after, Happening::Deed(deed));
        }
        self.run(most)?;
        // No restart brings another death any more, and no request.
        self.is_calm = true;
        for wire in 0..self.wires.len() {
            if !self.wires[wire].up && self.dice.chance(80) {
                self.deed(Deed::Heal { wire });
            }
        }
        for site in 0..self.sites.len() {
            let is_last = self.sites.iter().all(|site| !site.is_alive());
            if !self.sites[site].is_alive() && (is_last || self.dice.chance(85)) {
                let after = self.dice.within(0..500);
                self.plan(after, Happening::Start { site });
            }
        }
        // Restarts that were planned come before anything is called quiet.
        self.run(2_100)
    }

    fn fault(&mut self) -> Deed {
        let (wire, site) = (self.dice.below(self.wires.len().max(1)), self.dice.below(self.sites.len()));
        match if self.wires.is_empty() { 9 } else { self.dice.below(10) } {
            0..3 => Deed::Cut { wire, notice: self.dice.pick(&[5, 100, 1_000]) },
            3 => Deed::Heal { wire },
            4 => Deed::Silence { wire, sides: [true, true] },
            5 => Deed::Silence { wire, sides: [self.dice.chance(50), true] },
            6 => Deed::Stall { wire, ms: self.dice.within(100..4_000) },
            _ => {
                let back_after = self.dice.chance(80).then(|| self.dice.within(0..2_000));
                Deed::Kill { site, is_told: self.dice.chance(70), back_after }
            }
        }
    }

    fn moving(&mut self) -> Deed {
        if self.agents.is_empty() || self.dice.chance(15) {
            return Deed::Hang { operator: self.dice.below(self.operators.len()) };
        }
        let agent = self.dice.below(self.agents.len());
        match self.dice.below(3) {
            0 => Deed::Roam { agent },
            1 => Deed::Bounce { agent },
            _ => Deed::Change { agent },
        }
    }

    pub(super) fn deed(&mut self, deed: Deed) {
        self.seen(Seen::Text(format!("{deed:?}")));
        match deed {
            Deed::Cut { wire, notice } => {
                self.cut(wire, 0..notice);
                if self.dice.chance(60) {
                    let after = self.dice.within(10..2_000);
                    self.plan(after, Happening::Deed(Deed::Heal { wire }));
                }
            }
            Deed::Heal { wire } => {
                self.wires[wire].up = true;
                for side in [0, 1] {
                    self.plan_redial(wire, side, 0..50);
                }
            }
            Deed::Silence { wire, sides } => self.silence(wire, sides),
            Deed::Stall { wire, ms } => self.stall(wire, ms),
            Deed::Kill { site, is_told, back_after } => {
                if !self.sites[site].is_alive() {
                    return;
                }
                self.kill(site, is_told);
                if self.dice.chance(40) {
                    self.sites[site].skew -= self.dice.within(0..3_600_000) as i64;
                }
                if let Some(after) = back_after {
                    self.plan(after, Happening::Start { site });
                    if self.dice.chance(30) {
                        let after = after + self.dice.within(0..400);
                        self.plan(after, Happening::Deed(Deed::KillAgain { site, is_told }));
                    }
                }
            }
            Deed::KillAgain { site, is_told } => {
                if !self.is_calm {
                    let back_after = Some(self.dice.within(0..300));
                    self.deed(Deed::Kill { site, is_told, back_after });
                }
            }
            Deed::Message { operator } => self.send_message(operator),
            Deed::Request { operator } => self.send_request(operator),
            Deed::Cancel { at, request } => self.send_cancel(at, &request),
            Deed::Find { operator } => self.send_find(operator),
            Deed::Edit { operator } => self.send_edit(operator),
            Deed::Take { operator } => self.send_take(operator),
            Deed::EditByHand { site } => self.edit_by_hand(site),
            // It connects elsewhere, and its broker does not notice that it has gone.
            Deed::Roam { agent } => {
                if self.agents[agent].is_registered() {
                    self.join_agent(agent);
                }
            }
            Deed::Bounce { agent } => {
                if let Some(at) = self.agents[agent].current {
                    self.leave(at, "clean");
                }
            }
            Deed::Change { agent } => {
                if self.agents[agent].open.len() == 1 && self.agents[agent].is_registered() {
                    self.change_facts(agent);
                }
            }
            Deed::Hang { operator } => {
                if let Some(at) = self.operators[operator].current {
                    self.leave(at, "clean");
                }
            }
        }
    }

    fn send_message(&mut self, operator: usize) {
        self.message(operator, self.is_settled);
    }

    /// `is_exact`: who is there now must get it.
    pub(super) fn message(&mut self, operator: usize, is_exact: bool) {
        let Some(at) = self.operators[operator].current else { return };
        let topic = self.dice.pick(TOPICS);
        let expected = is_exact.then(|| self.audience(at.site, topic));
        let id = self.ledger.letter(expected);
        let frame = send(topic).header(header::REPLY_TO, "/temp-queue/letters").with_body(id);
        self.say(at, vec![frame]);
    }

    /// Whoever got a message may answer it, wherever the sender is.
    pub(super) fn answer_message(&mut self, at: At, queue: &str) {
        if !queue.is_empty() && self.is_settled && self.dice.chance(30) {
            let body = self.ledger.answer();
            let after = self.dice.within(0..50);
            self.plan(after, Happening::Say { at, frames: vec![send(queue).with_body(body)] });
        }
    }

    pub(super) fn send_request(&mut self, operator: usize) {
        let aim = Aim::random(&mut self.dice);
        let mut terms = Terms {
            reply_within: self.dice.within(2_500..5_000),
            to_service: self.dice.chance(30),
            is_dry: self.dice.chance(10),
            ..Terms::default()
        };
        match self.dice.below(10) {
            0 => terms.max_targets = Some(self.dice.within(1..6)),
            1 => terms.max_targets = Some(1_000),
            2 | 3 => {
                let Some(at) = self.operators[operator].current else { return };
                let count = self.truth(at.site, &aim, terms.to_service).count();
                terms.expect_targets = Some(count + u64::from(self.dice.chance(30)));
            }
            _ => {}
        }
        terms.allows_partial = terms.is_guarded() && self.dice.chance(40);
        if let Some((at, request)) = self.request(operator, &aim, terms)
            && self.dice.chance(15)
        {
            let after = self.dice.within(0..2_000);
            self.plan(after, Happening::Deed(Deed::Cancel { at, request }));
        }
    }

    pub(super) fn request(&mut self, operator: usize, aim: &Aim, terms: Terms) -> Option<(At, String)> {
        let at = self.operators[operator].current?;
        let truth = self.is_settled.then(|| self.truth(at.site, aim, terms.to_service));
        let id = self.ledger.call(at, self.now, aim.clone(), terms, truth);
        let settled = self.settled_nodes(aim, terms.to_service);
        if let Some(call) = self.ledger.calls.get_mut(&id) {
            call.settled = settled;
        }
        let topic = if terms.to_service { "/topic/prod.service.status" } else { "/topic/prod.node.ping" };
        let mut frame = send(topic).header(header::REQUEST, &id).header(header::REPLY_TO, "/temp-queue/me");
        frame = frame.header(header::TARGET, &aim.text());
        frame = frame.header(header::REPLY_WITHIN, &terms.reply_within.to_string());
        if let Some(most) = terms.max_targets {
            frame = frame.header(header::MAX_TARGETS, &most.to_string());
        }
        if let Some(expected) = terms.expect_targets {
            frame = frame.header(header::EXPECT_TARGETS, &expected.to_string());
        }
        if terms.allows_partial {
            frame = frame.header(header::ALLOW_PARTIAL, "true");
        }
        if terms.is_dry {
            frame = frame.header(header::DRY_RUN, "true");
        }
        self.seen(Seen::Text(format!("{} asks {id} {}: {terms:?}", self.name(at.site), aim.text())));
        self.say(at, vec![frame.with_body("{}")]);
        Some((at, id))
    }

    fn send_cancel(&mut self, at: At, request: &str) {
        let now = self.now;
        let Some(call) = self.ledger.calls.get_mut(request).filter(|call| call.over.is_none()) else { return };
        call.cancelled = Some(now);
        let id = self.ledger.aside();
        let frame = send("/muster/cancel").header(header::REQUEST, &id).header(header::REPLY_TO, "/temp-queue/me");
        self.say(at, vec![frame.with_body(json!({ "request": request }).to_string())]);
    }

    fn send_find(&mut self, operator: usize) {
        let Some(at) = self.operators[operator].current else { return };
        let aim = Aim::random(&mut self.dice);
        let truth = self.is_settled.then(|| self.truth(at.site, &aim, false));
        let id = self.ledger.search(at, self.now, truth);
        let frame = send("/muster/find").header(header::REQUEST, &id).header(header::REPLY_TO, "/temp-queue/me");
        self.say(at, vec![frame.header(header::TARGET, &aim.text()).with_body("{}")]);
    }

    /// What is under way ends, and then no broker remembers a request.
    pub(super) fn ends(&mut self) -> Result<(), String> {
        self.run_until(60_000, "what is under way ends", |world| {
            world.ledger.is_punctual(world.now)?;
            if world.ledger.is_over() { Ok(()) } else { Err("requests are under way".into()) }
        })?;
        self.run_until(10_000, "no broker keeps a request", |world| {
            for site in &world.sites {
                let left = site.broker.as_ref().map_or(0, crate::broker::Broker::requests_under_way);
                if left > 0 {
                    return Err(format!("{} still has {left}", site.name));
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// Which pairs are linked: line, star, ring, full mesh, or a random connected graph.
fn shape(count: usize, dice: &mut Dice) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = match dice.below(6) {
        0 => (1..count).map(|n| (n - 1, n)).collect(),
        1 => (1..count).map(|n| (0, n)).collect(),
        2 => (1..count).map(|n| (n - 1, n)).chain((count > 2).then_some((count - 1, 0))).collect(),
        3 if count <= 6 => (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect(),
        _ => {
            let mut pairs: Vec<(usize, usize)> = (1..count).map(|n| (dice.below(n), n)).collect();
            for _ in 0..dice.below(count) {
                let (a, b) = (dice.below(count), dice.below(count));
                if a < b && !pairs.contains(&(a, b)) {
                    pairs.push((a, b));
                }
            }
            pairs
        }
    };
    for pair in &mut pairs {
        if dice.chance(50) {
            *pair = (pair.1, pair.0);
        }
    }
    pairs
}

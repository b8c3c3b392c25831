//! What is true? Who can reach whom, who is where, which way is the shortest: by brute force, from what the run itself did.

use super::aim::Aim;
use super::ledger::{Nodes, Over, Truth};
use super::site::At;
use super::wires::{Connection, Stage};
use super::world::World;
use muster_protocol::destination::{Destination, Pattern};
use muster_protocol::link::{Forward, Head, Load};
use muster_protocol::message::{BrokerName, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// How long a node must have been there until a request cannot miss it, ms: summaries go out once a second, and a link that swallows
/// them is noticed after five, and then its brokers are named.
const KNOWN: u64 = 7_000;

impl World {
    /// The sites that can reach each other: alive, and joined by wires that are not cut.
    pub(super) fn component(&self, from: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut next = if self.sites[from].is_alive() { vec![from] } else { Vec::new() };
        while let Some(site) = next.pop() {
            if found.insert(site) {
                next.extend(self.edges(site).map(|(other, _)| other));
            }
        }
        found
    }

    fn edges(&self, from: usize) -> impl Iterator<Item = (usize, u64)> {
        self.wires.iter().filter(|wire| wire.up).filter_map(move |wire| {
            let side = wire.sites.iter().position(|site| *site == from)?;
            let other = wire.sites[1 - side];
            self.sites[other].is_alive().then_some((other, u64::from(wire.costs[0].max(wire.costs[1]))))
        })
    }

    /// Where each node is, for whoever is in this component: its newest session there.
    pub(super) fn population(&self, component: &BTreeSet<usize>) -> BTreeMap<usize, At> {
        let here = |(number, agent): (usize, &super::actors::Agent)| {
            let newest = agent.open.iter().filter(|(at, _)| component.contains(&at.site)).max_by_key(|(_, n)| **n);
            newest.map(|(at, _)| (number, *at))
        };
        self.agents.iter().enumerate().filter_map(here).collect()
    }

    pub(super) fn name(&self, site: usize) -> String {
        self.sites[site].name.to_string()
    }

    /// What a request or find from this site must reach.
    pub(super) fn truth(&self, from: usize, aim: &Aim, to_service: bool) -> Truth {
        let component = self.component(from);
        let mut nodes = Nodes::new();
        for (number, at) in self.population(&component) {
            let agent = &self.agents[number];
            if aim.matches(agent) && (agent.serves || !to_service) {
                nodes.entry(self.name(at.site)).or_default().insert(agent.id);
            }
        }
        let outside = (0..self.sites.len()).filter(|s| !component.contains(s)).map(|s| self.name(s)).collect();
        Truth { nodes, outside }
    }

    /// Nodes that match and have been where they are for long enough that every broker that can be reached knows.
    pub(super) fn settled_nodes(&self, aim: &Aim, to_service: bool) -> BTreeMap<NodeId, (String, At)> {
        let then = self.now.saturating_sub(KNOWN);
        let matching = self.agents.iter().filter(|agent| aim.matches(agent) && (agent.serves || !to_service));
        matching
            .filter_map(|agent| Some((agent.id, agent.settled_since(then)?)))
            .map(|(id, at)| (id, (self.name(at.site), at)))
            .collect()
    }

    /// A request that is done has asked every node that matched all the time, or names its broker.
    pub(super) fn forgets_nobody(&self, request: &str) -> Result<(), String> {
        let Some(call) = self.ledger.calls.get(request) else { return Ok(()) };
        let Some((_, Over::Done(done))) = &call.over else { return Ok(()) };
        // A cancel may overtake the request: whoever had not got it then must not be asked any more.
        if call.cancelled.is_some() {
            return Ok(());
        }
        for agent in &self.agents {
            let Some((broker, at)) = call.settled.get(&agent.id) else { continue };
            let is_still = agent.settled_since(call.sent) == Some(*at);
            let is_accepted = call.accepted.get(broker).is_some_and(|nodes| nodes.contains(&agent.id));
            let is_named = done.without.iter().any(|missing| missing.broker == *broker);
            if is_still && !is_accepted && !is_named {
                return Err(format!(
                    "{request}: {} at {broker} matches, was not asked, and {broker} is not named",
                    agent.id
                ));
            }
        }
        Ok(())
    }

    /// Who must get a message that is sent at this site.
    pub(super) fn audience(&self, from: usize, topic: &str) -> BTreeSet<At> {
        let component = self.component(from);
        let topic = Destination::parse(topic).expect("a topic");
        let wants = |pattern: &&str| Pattern::parse(pattern).expect("a pattern").matches(&topic);
        let listening = |operator: &super::actors::Operator| {
            let at = operator.current.filter(|at| component.contains(&at.site))?;
            operator.patterns.iter().any(wants).then_some(at)
        };
        self.operators.iter().filter_map(listening).collect()
    }

    /// The parents in the shortest-path tree of a site: ties go to the smaller name, as the brokers do it.
    pub(super) fn tree(&self, root: usize) -> BTreeMap<usize, usize> {
        let mut parents = BTreeMap::new();
        let mut costs = BTreeMap::from([(root, 0)]);
        let mut open = BTreeSet::from([(0, self.sites[root].name.clone(), root)]);
        while let Some((cost, _, site)) = open.pop_first() {
            for (other, more) in self.edges(site) {
                let better = costs.get(&other).is_none_or(|known| cost + more < *known);
                if better {
                    if let Some(known) = costs.insert(other, cost + more) {
                        open.remove(&(known, self.sites[other].name.clone(), other));
                    }
                    parents.insert(other, site);
                    open.insert((cost + more, self.sites[other].name.clone(), other));
                }
            }
        }
        parents
    }

    fn site_of(&self, name: &BrokerName) -> Option<usize> {
        self.sites.iter().position(|site| site.name == *name)
    }

    /// A frame goes off: what it says of a request's brokers is noted, and while the mesh is quiet it must be on the right way.
    pub(super) fn check_frame(&mut self, from: usize, to: usize, head: &Head) {
        let Head::Forward(forward) = head else { return };
        if let Load::Prepare(prepare) = &forward.load {
            let call = prepare.letter.request.as_ref().and_then(|id| self.ledger.calls.get_mut(id));
            if let Some(call) = call.filter(|_| self.sites[from].name == forward.origin) {
                call.list.extend(forward.to.iter().filter(|b| **b != forward.origin).map(ToString::to_string));
            }
        }
        if self.is_settled
            && let Err(why) = self.check_way(from, to, forward)
        {
            self.fail(format!("{} > {}: {why}: {forward:?}", self.name(from), self.name(to)));
        }
    }

    fn check_way(&self, from: usize, to: usize, forward: &Forward) -> Result<(), String> {
        if forward.flood {
            return Err("it is flooded, and all agree on the topology".into());
        }
        let origin = self.site_of(&forward.origin).ok_or("nobody knows its origin")?;
        let tree = self.tree(origin);
        if tree.get(&to) != Some(&from) {
            return Err("that is not the way of its origin's tree".into());
        }
        let is_below = |name: &BrokerName| {
            let mut at = self.site_of(name);
            while let Some(site) = at.filter(|site| *site != to) {
                at = tree.get(&site).copied();
            }
            at.is_some()
        };
        if forward.to.iter().any(is_below) { Ok(()) } else { Err("nobody of its list is behind that link".into()) }
    }

    /// Whether every wire that can carry a link does, both sides agree on it, and nobody is on the way to somewhere.
    pub(super) fn is_linked(&self) -> Result<(), String> {
        for (number, wire) in self.wires.iter().enumerate() {
            let [a, b] = wire.sites;
            let should = wire.up && self.sites[a].is_alive() && self.sites[b].is_alive();
            let open = |side: usize| {
                let ends = self.connections.values().filter(|c| c.wire == number).map(|c| c.ends[side].stage);
                ends.filter(|stage| *stage == Stage::Open).count()
            };
            let is_hurt = |c: &Connection| c.is_deaf != [false, false] || c.stalled > self.now;
            let hurt = self.connections.values().any(|c| c.wire == number && is_hurt(c));
            if [open(0), open(1)] != [usize::from(should); 2] || hurt {
                return Err(format!("link {}-{} is not as it should be", self.name(a), self.name(b)));
            }
        }
        if let Some(agent) = self.agents.iter().find(|agent| !agent.is_registered()) {
            return Err(format!("{} is not registered", agent.id));
        }
        if self.operators.iter().any(|operator| operator.current.is_none()) {
            return Err("an operator is not connected".into());
        }
        Ok(())
    }
}

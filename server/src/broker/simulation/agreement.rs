//! Do all brokers of a component believe the same, and is it true?

use super::world::World;
use crate::broker::Broker;
use crate::broker::mesh::Mesh;
use muster_protocol::message::{BrokerName, NodeId};
use std::collections::BTreeSet;

impl World {
    /// Whether every broker's picture is the truth.
    pub(super) fn is_agreed(&self) -> Result<(), String> {
        self.all_agree(true)
    }

    /// The same by the versions of records, which costs less.
    pub(super) fn seems_agreed(&self) -> Result<(), String> {
        self.all_agree(false)
    }

    fn all_agree(&self, thoroughly: bool) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for site in 0..self.sites.len() {
            if seen.contains(&site) || !self.sites[site].is_alive() {
                continue;
            }
            let component = self.component(site);
            self.agrees(&component, thoroughly)?;
            seen.extend(component);
        }
        Ok(())
    }

    /// Whether the brokers of a component see each other, with the same topology, and know of each other's sessions and nodes.
    pub(super) fn agrees(&self, component: &BTreeSet<usize>, thoroughly: bool) -> Result<(), String> {
        let population = self.population(component);
        let names: BTreeSet<BrokerName> = component.iter().map(|site| self.sites[*site].name.clone()).collect();
        let brokers: Vec<(usize, &Broker)> =
            component.iter().filter_map(|site| Some((*site, self.sites[*site].broker.as_ref()?))).collect();
        let Some((_, first)) = brokers.first() else { return Ok(()) };
        self.has_one_policy(component)?;
        for (site, broker) in &brokers {
            let (name, routes) = (&self.sites[*site].name, broker.mesh().routes());
            if *routes.members() != names {
                return Err(format!("{name} reaches {:?}, and there are {names:?}", routes.members()));
            }
            if routes.epoch() != first.mesh().routes().epoch() {
                return Err(format!("{name} and {} see different topologies", first.mesh().me()));
            }
            let here = population.iter().filter(|(_, at)| at.site == *site);
            let here: BTreeSet<NodeId> = here.map(|(agent, _)| self.agents[*agent].id).collect();
            let has = |id: &NodeId| broker.nodes().row(id).is_some();
            if broker.nodes().len() != here.len() || !here.iter().all(has) {
                return Err(format!("{name} has {} nodes, not {here:?}", broker.nodes().len()));
            }
            for (_, other) in &brokers {
                knows(broker, other, thoroughly)?;
            }
            let told = broker.mesh().summaries().whole(name).map_or(0, |summary| summary.nodes);
            if told != here.len() as u64 {
                return Err(format!("{name} tells of {told} nodes, and has {}", here.len()));
            }
            self.wants(*site, broker)?;
        }
        Ok(())
    }

    /// What a broker says that it wants is what its sessions subscribe to.
    fn wants(&self, site: usize, broker: &Broker) -> Result<(), String> {
        let operators = self.operators.iter().filter(|operator| operator.current.is_some_and(|at| at.site == site));
        let wanted: BTreeSet<&str> = operators.flat_map(|operator| operator.patterns.iter().copied()).collect();
        let said = broker.mesh().interests().whole(broker.mesh().me()).map(|interest| interest.add).unwrap_or_default();
        match wanted.into_iter().find(|pattern| !said.contains(*pattern)) {
            Some(lacking) => Err(format!("{} does not say that it wants {lacking}: {said:?}", broker.mesh().me())),
            None => Ok(()),
        }
    }

    /// The way from one site to another, as the broker there takes it.
    pub(super) fn path(&self, from: usize, to: usize) -> Vec<String> {
        let broker = self.sites[from].broker.as_ref().expect("it lives");
        let path = broker.mesh().routes().path(&self.sites[to].name).unwrap_or_default();
        path.iter().map(ToString::to_string).collect()
    }
}

/// Whether a broker has another's records as they are there.
fn knows(broker: &Broker, other: &Broker, thoroughly: bool) -> Result<(), String> {
    let (ours, theirs, origin) = (broker.mesh(), other.mesh(), other.mesh().me());
    let me = ours.me();
    let versions = |mesh: &Mesh| (mesh.interests().have(origin), mesh.summaries().have(origin));
    if versions(ours) != versions(theirs) {
        let (old, new) = (versions(ours), versions(theirs));
        return Err(format!("{me} has of {origin} interest and summary {old:?}, and they are {new:?}"));
    }
    if !thoroughly {
        return Ok(());
    }
    if ours.topology().get(origin) != theirs.topology().get(origin) {
        return Err(format!(
            "{me} has of {origin} the link state {:?}, and it is {:?}",
            ours.topology().get(origin),
            theirs.topology().get(origin)
        ));
    }
    if ours.interests().whole(origin) != theirs.interests().whole(origin) {
        return Err(format!(
            "{me} has of {origin} the interest {:?}, and it is {:?}",
            ours.interests().whole(origin),
            theirs.interests().whole(origin)
        ));
    }
    if ours.summaries().whole(origin) != theirs.summaries().whole(origin) {
        return Err(format!(
            "{me} has of {origin} the summary {:?}, and it is {:?}",
            ours.summaries().whole(origin),
            theirs.summaries().whole(origin)
        ));
    }
    Ok(())
}

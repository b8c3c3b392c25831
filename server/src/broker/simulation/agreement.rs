//! Do all brokers of a component believe the same, and what is true?

use super::world::World;
use crate::broker::Broker;
use std::collections::BTreeSet;

impl World {
    /// Whether every broker's picture is the truth.
    pub(super) fn is_agreed(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for site in 0..self.sites.len() {
            if seen.contains(&site) || !self.sites[site].is_alive() {
                continue;
            }
            let component = self.component(site);
            self.agrees(&component)?;
            seen.extend(component);
        }
        Ok(())
    }

    /// The way from one site to another, as the broker there takes it.
    pub(super) fn path(&self, _from: usize, _to: usize) -> Vec<String> {
        Vec::new()
    }

    pub(super) fn agrees(&self, component: &BTreeSet<usize>) -> Result<(), String> {
        let population = self.population(component);
        for &site in component {
            let Some(broker) = &self.sites[site].broker else { continue };
            let here: BTreeSet<_> =
                population.iter().filter(|(_, at)| at.site == site).map(|(agent, _)| self.agents[*agent].id).collect();
            if broker.nodes().len() != here.len() || here.iter().any(|id| !has(broker, id)) {
                return Err(format!("{} has {} nodes, not {here:?}", self.name(site), broker.nodes().len()));
            }
        }
        Ok(())
    }
}

fn has(broker: &Broker, id: &muster_protocol::message::NodeId) -> bool {
    broker.nodes().row(id).is_some()
}

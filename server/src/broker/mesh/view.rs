//! What does the mesh look like? The picture that one broker has of it, for people and programs.

use super::Mesh;
use muster_protocol::message::BrokerName;
use muster_protocol::request::{MeshAnswer, MeshBroker, MeshLink, Reach};
use std::collections::BTreeSet;

impl Mesh {
    /// The mesh for people and programs; `nodes` are registered here now.
    pub fn answer(&self, nodes: u64) -> MeshAnswer {
        let names: BTreeSet<&BrokerName> = self.list.iter().chain([&self.me]).collect();
        MeshAnswer {
            broker: self.me.to_string(),
            epoch: format!("{:016x}", self.routes.epoch()),
            brokers: names.into_iter().map(|name| self.describe(name, nodes)).collect(),
            alarms: self.alarms().map(str::to_owned).collect(),
        }
    }

    fn describe(&self, name: &BrokerName, here: u64) -> MeshBroker {
        let record = self.topology.get(name);
        let reach = match record {
            _ if *name == self.me => Reach::Here,
            _ if self.reaches(name) => Reach::Reachable,
            Some(_) => Reach::Unreachable,
            None => Reach::Unknown,
        };
        let links = record.into_iter().flat_map(|record| &record.neighbours).map(|(to, end)| {
            let back = self.topology.get(to).and_then(|other| other.neighbours.get(name));
            let rtt = self.neighbours.get(to).filter(|_| *name == self.me).and_then(|link| link.rtt);
            MeshLink {
                to: to.to_string(),
                cost: end.cost.max(back.map_or(0, |back| back.cost)),
                two_way: back.is_some(),
                send: end.send.clone(),
                rtt_ms: rtt,
            }
        });
        MeshBroker {
            name: name.to_string(),
            reach,
            instance: record.map_or(0, |record| record.instance),
            draining: record.is_some_and(|record| record.draining),
            nodes: if *name == self.me { Some(here) } else { self.summaries.nodes(name) },
            path: self.routes.path(name).unwrap_or_default().iter().map(ToString::to_string).collect(),
            cost: self.routes.cost(name),
            links: links.collect(),
        }
    }
}

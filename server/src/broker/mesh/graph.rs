//! Which brokers can reach each other? The connected component of a broker, as the link-state database has it.

use muster_protocol::link::{LinkState, MAX_COST, Neighbour};
use muster_protocol::message::BrokerName;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The brokers that can reach each other, and the edges between them: those that both ends list, with the larger cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// By name, so that the order of places is the order of names.
    members: Vec<Member>,
}

/// A broker in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: BrokerName,
    /// Its boot counter.
    pub instance: u64,
    /// Nothing is routed through it.
    pub draining: bool,
    /// Its edges, by place of the other end.
    pub edges: Vec<Edge>,
}

/// One direction of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Where it leads: a place among [`Graph::members`].
    pub to: usize,
    /// The larger of both ends', 1 to [`MAX_COST`].
    pub cost: u32,
    /// What may be forwarded in this direction, as destination patterns; everything if not given.
    pub send: Option<Vec<String>>,
}

impl Graph {
    /// The component that `me` is in: nothing if it has no record. Of two records of one origin the later one counts.
    pub fn new<'a>(records: impl Iterator<Item = &'a LinkState>, me: &BrokerName) -> Graph {
        let by_name: BTreeMap<&BrokerName, &LinkState> = records.map(|record| (&record.origin, record)).collect();
        let known: Vec<&LinkState> = by_name.into_values().collect();
        let reached = component(&known, me);
        let here: Vec<&LinkState> =
            known.into_iter().zip(reached).filter_map(|(record, is)| is.then_some(record)).collect();
        let member = |record: &&LinkState| Member {
            name: record.origin.clone(),
            instance: record.instance,
            draining: record.draining,
            edges: edges(record, &here),
        };
        Graph { members: here.iter().map(member).collect() }
    }

    /// A hash of the content (names, instances, draining, two-way edges, costs, filters): equal databases have equal epochs.
    pub fn epoch(&self) -> u64 {
        let mut hash = Sha256::new();
        for member in &self.members {
            put_text(&mut hash, member.name.as_str());
            put(&mut hash, member.instance);
            put(&mut hash, u64::from(member.draining));
            put(&mut hash, member.edges.len() as u64);
            for edge in &member.edges {
                put(&mut hash, edge.to as u64);
                put(&mut hash, u64::from(edge.cost));
                // One more than their number, so that no filter differs from one that lets nothing pass.
                put(&mut hash, edge.send.as_ref().map_or(0, |patterns| patterns.len() as u64 + 1));
                edge.send.iter().flatten().for_each(|pattern| put_text(&mut hash, pattern));
            }
        }
        hash.finalize().iter().take(8).fold(0, |epoch, byte| epoch << 8 | u64::from(*byte))
    }

    /// The brokers, by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where a broker stands among the members.
    pub fn place(&self, name: &BrokerName) -> Option<usize> {
        self.members.binary_search_by(|member| member.name.cmp(name)).ok()
    }

    /// A broker of the graph.
    pub fn get(&self, name: &BrokerName) -> Option<&Member> {
        self.members.get(self.place(name)?)
    }
}

/// The edges of a broker that the other end lists too.
fn edges(record: &LinkState, all: &[&LinkState]) -> Vec<Edge> {
    let edge = |(peer, end): (&BrokerName, &Neighbour)| {
        let to = place(all, peer)?;
        let back = all.get(to)?.neighbours.get(&record.origin)?;
        let cost = end.cost.max(back.cost).clamp(1, MAX_COST);
        (*peer != record.origin).then(|| Edge { to, cost, send: end.send.clone() })
    };
    record.neighbours.iter().filter_map(edge).collect()
}

/// Which of them can be reached from `me`.
fn component(all: &[&LinkState], me: &BrokerName) -> Vec<bool> {
    let mut reached = vec![false; all.len()];
    let mut waiting: Vec<usize> = place(all, me).into_iter().collect();
    while let Some(at) = waiting.pop() {
        if let (Some(new @ false), Some(record)) = (reached.get_mut(at), all.get(at)) {
            *new = true;
            waiting.extend(edges(record, all).iter().map(|edge| edge.to));
        }
    }
    reached
}

fn place(all: &[&LinkState], name: &BrokerName) -> Option<usize> {
    all.binary_search_by(|record| record.origin.cmp(name)).ok()
}

fn put(hash: &mut Sha256, number: u64) {
    hash.update(number.to_be_bytes());
}

/// With its length in front, so that no two lists of texts look the same.
fn put_text(hash: &mut Sha256, text: &str) {
    put(hash, text.len() as u64);
    hash.update(text);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::broker::mesh) fn name(text: &str) -> BrokerName {
        BrokerName::parse(text).unwrap()
    }

    /// A record of the first life, with costs.
    pub(in crate::broker::mesh) fn record(origin: &str, neighbours: &[(&str, u32)]) -> LinkState {
        let end = |(peer, cost): &(&str, u32)| (name(peer), Neighbour { cost: *cost, send: None });
        LinkState {
            origin: name(origin),
            instance: 1,
            sequence: 1,
            incarnation: 1,
            born: 1,
            draining: false,
            neighbours: neighbours.iter().map(end).collect(),
        }
    }

    /// Up to eight brokers and some links between them, a few of them listed by one end only; some brokers drain.
    pub(in crate::broker::mesh) fn some_mesh() -> impl Strategy<Value = Vec<LinkState>> {
        let send =
            prop_oneof![8 => Just(None), 1 => Just(Some(vec![])), 2 => Just(Some(vec!["/topic/a.>".to_owned()]))];
        let end = (0..4u32, send).prop_map(|(cost, send)| Neighbour { cost, send });
        let ends = (prop::option::weighted(0.9, end.clone()), prop::option::weighted(0.9, end));
        let brokers = prop::collection::vec((1..3u64, prop::bool::weighted(0.15)), 1..9);
        (brokers, prop::collection::vec((0..8usize, 0..8usize, ends), 0..20)).prop_map(|(brokers, links)| {
            let draft = |(at, (instance, draining)): (usize, &(u64, bool))| LinkState {
                instance: *instance,
                draining: *draining,
                ..record(&format!("dc{at}"), &[])
            };
            let mut records: Vec<LinkState> = brokers.iter().enumerate().map(draft).collect();
            for (a, b, (there, back)) in links {
                let (a, b) = (a % records.len(), b % records.len());
                let names = [records[a].origin.clone(), records[b].origin.clone()];
                records[a].neighbours.extend(there.map(|end| (names[1].clone(), end)));
                records[b].neighbours.extend(back.map(|end| (names[0].clone(), end)));
            }
            records
        })
    }

    fn graph(records: &[LinkState], me: &str) -> Graph {
        Graph::new(records.iter(), &name(me))
    }

    /// ```text
    ///   a --0/5-- b ---> c      e --0/max-- f      c does not list b; a lists itself and g, which has no record
    /// ```
    #[test]
    fn an_edge_counts_if_both_ends_list_it_and_costs_what_the_dearer_end_says() {
        let records = [
            record("a", &[("b", 0), ("a", 1), ("g", 1)]),
            record("b", &[("a", 5), ("c", 1)]),
            record("c", &[]),
            record("e", &[("f", 0)]),
            record("f", &[("e", u32::MAX)]),
        ];
        let from_a = graph(&records, "a");
        let names: Vec<&str> = from_a.members().iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(from_a.members()[0].edges, [Edge { to: 1, cost: 5, send: None }]);
        assert_eq!(from_a.members()[1].edges, [Edge { to: 0, cost: 5, send: None }]);
        assert_eq!(graph(&records, "c").members().len(), 1);
        assert_eq!(graph(&records, "e").members()[0].edges[0].cost, MAX_COST);
        assert_eq!(graph(&records, "g"), Graph::default());
        let free = [record("a", &[("b", 0)]), record("b", &[("a", 0)])];
        assert_eq!(graph(&free, "a").members()[0].edges[0].cost, 1);
    }

    #[test]
    fn whatever_matters_changes_the_epoch() {
        let base = [record("a", &[("b", 1)]), record("b", &[("a", 1)])];
        let changes: [fn(&mut LinkState); 5] = [
            |a| a.instance = 2,
            |a| a.draining = true,
            |a| a.neighbours.values_mut().for_each(|end| end.cost = 2),
            |a| a.neighbours.values_mut().for_each(|end| end.send = Some(vec![])),
            |a| a.neighbours.values_mut().for_each(|end| end.send = Some(vec!["/topic/>".into()])),
        ];
        let mut epochs = vec![graph(&base, "a").epoch(), graph(&[record("a", &[])], "a").epoch()];
        for change in changes {
            let mut changed = base.clone();
            change(&mut changed[0]);
            epochs.push(graph(&changed, "a").epoch());
        }
        let mut different = epochs.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), epochs.len(), "{epochs:?}");
    }

    #[test]
    fn what_does_not_matter_leaves_the_epoch_and_it_is_the_same_in_every_build() {
        let base = [record("a", &[("b", 1)]), record("b", &[("a", 1)])];
        let mut other = [base[0].clone(), record("b", &[("a", 1), ("z", 1)]), record("z", &[])];
        (other[0].sequence, other[0].incarnation, other[0].born) = (9, 9, 9);
        assert_eq!(graph(&base, "a").epoch(), graph(&other, "a").epoch());
        // Brokers of different builds must agree, or each flooded every message of the other.
        assert_eq!(graph(&base, "a").epoch(), 7_457_231_897_656_092_450, "a new link version is due");
    }

    proptest! {
        #[test]
        fn members_of_a_component_agree_whatever_came_first(records in some_mesh().prop_shuffle()) {
            for record in &records {
                let seen_here = Graph::new(records.iter(), &record.origin);
                prop_assert!(seen_here.place(&record.origin).is_some());
                for member in seen_here.members() {
                    let seen_there = Graph::new(records.iter().rev(), &member.name);
                    prop_assert_eq!(&seen_there, &seen_here);
                    prop_assert_eq!(seen_there.epoch(), seen_here.epoch());
                    for edge in &member.edges {
                        let back = &seen_here.members()[edge.to].edges;
                        let me = seen_here.place(&member.name).unwrap();
                        prop_assert!(back.iter().any(|back| back.to == me && back.cost == edge.cost));
                    }
                }
            }
        }
    }
}

//! Which way does a message go? The shortest-path tree of every origin, the same at every broker.
//!
//! Brokers leave the search in the order of (cost, name), and a way is replaced only by a strictly cheaper one: each broker's
//! predecessor is then the least (cost, name) among its best ones. If the tree of an origin passes a broker, that broker's
//! own tree continues in the same way, since all costs shift by the same amount. So one copy along each branch reaches every
//! broker once, and `next_hop` never leaves the tree. Draining brokers are leaves, in every tree but their own.

pub use super::graph::Graph;

use super::graph::Edge;
use muster_protocol::destination::{Destination, Pattern};
use muster_protocol::message::BrokerName;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// One branch of a tree at this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The link to take.
    pub neighbour: BrokerName,
    /// Whom it leads to.
    pub below: BTreeSet<BrokerName>,
}

/// What this broker does with messages, by origin and by destination.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    epoch: u64,
    members: BTreeSet<BrokerName>,
    /// Of the whole graph, by name. The lists below are in the same order.
    names: Vec<BrokerName>,
    branches: Vec<Vec<Branch>>,
    ways: Vec<Option<Way>>,
}

/// How to get from this broker to another.
#[derive(Debug, Clone)]
struct Way {
    cost: u64,
    /// The first broker after this one, and the last before the other; none for this one itself.
    ends: Option<(usize, usize)>,
    /// Of the last link.
    filter: Option<Vec<Pattern>>,
}

impl Routes {
    /// Computes the trees of all origins as seen from `me`. If the graph does not have it, it is alone.
    pub fn compute(graph: &Graph, me: &BrokerName) -> Routes {
        let epoch = graph.epoch();
        let Some(at) = graph.place(me) else {
            let way = Way { cost: 0, ends: None, filter: None };
            let (members, names) = (BTreeSet::from([me.clone()]), vec![me.clone()]);
            return Routes { epoch, members, names, branches: vec![Vec::new()], ways: vec![Some(way)] };
        };
        let names: Vec<BrokerName> = graph.members().iter().map(|member| member.name.clone()).collect();
        let branches = (0..names.len()).map(|origin| branches(&Tree::of(graph, origin), at, &names)).collect();
        let ways = ways(graph, &Tree::of(graph, at), at);
        let reached = names.iter().zip(&ways).filter(|(_, way)| way.is_some());
        Routes { epoch, members: reached.map(|(name, _)| name.clone()).collect(), names, branches, ways }
    }

    /// Epoch of the graph that these routes were made of.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All brokers that can be reached, this one included. Brokers behind a draining one cannot.
    pub fn members(&self) -> &BTreeSet<BrokerName> {
        &self.members
    }

    /// The branches of the tree of `origin` that begin at this broker, by neighbour; none for an unknown origin.
    pub fn branches(&self, origin: &BrokerName) -> &[Branch] {
        self.place(origin).and_then(|place| self.branches.get(place)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The neighbour on the way to `to`; none for this broker itself.
    pub fn next_hop(&self, to: &BrokerName) -> Option<&BrokerName> {
        let (first, _) = self.way(self.place(to)?)?.ends?;
        self.names.get(first)
    }

    /// Cost of the way from here to `to`.
    pub fn cost(&self, to: &BrokerName) -> Option<u64> {
        Some(self.way(self.place(to)?)?.cost)
    }

    /// The brokers on the way from here to `to`, `to` last; empty for this broker itself, `None` if there is no way.
    pub fn path(&self, to: &BrokerName) -> Option<Vec<BrokerName>> {
        let to = self.place(to)?;
        self.way(to)?;
        let mut path: Vec<BrokerName> = self.backwards(to).filter_map(|(at, _)| self.names.get(at).cloned()).collect();
        path.reverse();
        Some(path)
    }

    /// Whether the filters of all links on the way from here to `to` let this destination pass; not if there is no way.
    pub fn lets_pass(&self, to: &BrokerName, destination: &str) -> bool {
        let Some(to) = self.place(to).filter(|to| self.way(*to).is_some()) else {
            return false;
        };
        let mut filters = self.backwards(to).filter_map(|(_, way)| way.filter.as_ref()).peekable();
        if filters.peek().is_none() {
            return true;
        }
        let destination = Destination::parse(destination);
        destination.is_ok_and(|it| filters.all(|filter| filter.iter().any(|pattern| pattern.matches(&it))))
    }

    fn place(&self, name: &BrokerName) -> Option<usize> {
        self.names.binary_search(name).ok()
    }

    fn way(&self, to: usize) -> Option<&Way> {
        self.ways.get(to)?.as_ref()
    }

    /// From `to` to the neighbour of this broker.
    fn backwards(&self, to: usize) -> impl Iterator<Item = (usize, &Way)> {
        let step = |at: usize| self.way(at).filter(|way| way.ends.is_some()).map(|way| (at, way));
        std::iter::successors(step(to), move |(_, way)| step(way.ends?.1))
    }
}

/// The shortest ways from one broker to all others.
struct Tree {
    /// Those that can be reached, the root first, nobody before its predecessor.
    order: Vec<usize>,
    /// By place; nothing for what was not reached.
    found: Vec<Option<Found>>,
}

#[derive(Clone, Copy)]
struct Found {
    cost: u64,
    before: usize,
}

impl Tree {
    /// Dijkstra's search. Places are in the order of names, so that (cost, place) is (cost, name).
    fn of(graph: &Graph, root: usize) -> Tree {
        let members = graph.members();
        let mut tree = Tree { order: Vec::with_capacity(members.len()), found: vec![None; members.len()] };
        let mut is_done = vec![false; members.len()];
        let mut waiting = BinaryHeap::from([Reverse((0, root))]);
        tree.offer(root, Found { cost: 0, before: root });
        while let Some(Reverse((cost, at))) = waiting.pop() {
            let (Some(done @ false), Some(member)) = (is_done.get_mut(at), members.get(at)) else {
                continue;
            };
            *done = true;
            tree.order.push(at);
            if member.draining && at != root {
                continue;
            }
            for edge in &member.edges {
                let cost = cost + u64::from(edge.cost);
                if tree.offer(edge.to, Found { cost, before: at }) {
                    waiting.push(Reverse((cost, edge.to)));
                }
            }
        }
        tree
    }

    /// Takes a way if it is strictly cheaper than the one known. Those that are done are never offered a cheaper one: costs
    /// are at least 1.
    fn offer(&mut self, to: usize, found: Found) -> bool {
        match self.found.get_mut(to) {
            Some(known) if known.is_none_or(|known| found.cost < known.cost) => {
                *known = Some(found);
                true
            }
            _ => false,
        }
    }

    /// For each place the child of `me` that leads there, if any.
    fn children(&self, me: usize) -> Vec<Option<usize>> {
        let mut children = vec![None; self.found.len()];
        for at in self.order.iter().copied().filter(|at| *at != me) {
            let before = self.found.get(at).copied().flatten().map_or(at, |found| found.before);
            let child = if before == me { Some(at) } else { children.get(before).copied().flatten() };
            if let Some(place) = children.get_mut(at) {
                *place = child;
            }
        }
        children
    }
}

fn branches(tree: &Tree, me: usize, names: &[BrokerName]) -> Vec<Branch> {
    let children = tree.children(me);
    let branch = |(child, neighbour): (usize, &BrokerName)| {
        let below = names.iter().zip(&children).filter(|(_, at)| **at == Some(child)).map(|(name, _)| name.clone());
        // A child leads to itself, and what is none to nobody.
        let is_child = children.get(child) == Some(&Some(child));
        is_child.then(|| Branch { neighbour: neighbour.clone(), below: below.collect() })
    };
    names.iter().enumerate().filter_map(branch).collect()
}

fn ways(graph: &Graph, tree: &Tree, me: usize) -> Vec<Option<Way>> {
    let children = tree.children(me);
    let way = |(to, (found, child)): (usize, (&Option<Found>, &Option<usize>))| {
        let found = (*found)?;
        let last = graph.members().get(found.before).and_then(|from| from.edges.iter().find(|edge| edge.to == to));
        let ends = child.map(|first| (first, found.before));
        Some(Way { cost: found.cost, ends, filter: last.and_then(filter) })
    };
    tree.found.iter().zip(&children).enumerate().map(way).collect()
}

/// A pattern that does not parse matches nothing, so that it widens no filter.
fn filter(edge: &Edge) -> Option<Vec<Pattern>> {
    let patterns = edge.send.as_ref()?;
    Some(patterns.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::graph::tests::{name, record, some_mesh};
    use super::*;
    use muster_protocol::link::{LinkState, Neighbour};
    use proptest::prelude::*;

    /// Two-way links with the same cost at both ends.
    fn mesh(links: &[(&'static str, &'static str, u32)]) -> Vec<LinkState> {
        let mut names: Vec<&str> = links.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
        names.sort_unstable();
        names.dedup();
        let ends = |of: &str| {
            let end = |(a, b, cost): &(&'static str, &'static str, u32)| match of {
                _ if of == *a => Some((*b, *cost)),
                _ if of == *b => Some((*a, *cost)),
                _ => None,
            };
            links.iter().filter_map(end).collect::<Vec<_>>()
        };
        names.iter().map(|of| record(of, &ends(of))).collect()
    }

    fn routes(records: &[LinkState], me: &str) -> Routes {
        Routes::compute(&Graph::new(records.iter(), &name(me)), &name(me))
    }

    fn branches(records: &[LinkState], me: &str, origin: &str) -> Vec<String> {
        let shown = |branch: &Branch| {
            let below: Vec<String> = branch.below.iter().map(ToString::to_string).collect();
            format!("{}: {}", branch.neighbour, below.join(" "))
        };
        routes(records, me).branches(&name(origin)).iter().map(shown).collect()
    }

    fn path(records: &[LinkState], me: &str, to: &str) -> Option<String> {
        let path = routes(records, me).path(&name(to))?;
        Some(path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    /// ```text
    ///     b
    ///   /   \
    ///  a     d --- e      all costs are 1
    ///   \   /
    ///     c
    /// ```
    #[test]
    fn of_equal_ways_the_one_by_the_lesser_name_is_taken_by_all() {
        let records = mesh(&[("a", "b", 1), ("a", "c", 1), ("b", "d", 1), ("c", "d", 1), ("d", "e", 1)]);
        assert_eq!(branches(&records, "a", "a"), ["b: b d e", "c: c"]);
        assert_eq!(branches(&records, "b", "a"), ["d: d e"]);
        assert_eq!(branches(&records, "c", "a"), [""; 0]);
        assert_eq!(branches(&records, "d", "a"), ["e: e"]);
        assert_eq!(branches(&records, "d", "e"), ["b: a b", "c: c"]);
        assert_eq!(branches(&records, "a", "nobody"), [""; 0]);
        let from_a = routes(&records, "a");
        assert_eq!((from_a.next_hop(&name("e")), from_a.cost(&name("e"))), (Some(&name("b")), Some(3)));
        assert_eq!((from_a.next_hop(&name("a")), from_a.cost(&name("a"))), (None, Some(0)));
        assert_eq!((from_a.next_hop(&name("x")), from_a.cost(&name("x"))), (None, None));
        assert_eq!(path(&records, "a", "e").as_deref(), Some("b d e"));
        assert_eq!((path(&records, "a", "a").as_deref(), path(&records, "a", "x")), (Some(""), None));
        assert_eq!(from_a.members().len(), 5);
    }

    /// ```text
    ///   a --5-- b          a --1-- c --1-- d --1-- b
    /// ```
    #[test]
    fn a_cheap_way_may_be_long() {
        let records = mesh(&[("a", "b", 5), ("a", "c", 1), ("c", "d", 1), ("d", "b", 1)]);
        assert_eq!(path(&records, "a", "b").as_deref(), Some("c d b"));
        assert_eq!(branches(&records, "a", "a"), ["c: b c d"]);
    }

    /// ```text
    ///         e
    ///         |
    ///   a --- b --- d      b is about to stop; e has no other way
    ///    \         /
    ///     9       /
    ///      \     /
    ///       -- c
    /// ```
    #[test]
    fn a_draining_broker_is_an_end_and_never_on_the_way() {
        let mut records = mesh(&[("a", "b", 1), ("b", "d", 1), ("b", "e", 1), ("a", "c", 9), ("c", "d", 1)]);
        assert_eq!(path(&records, "a", "d").as_deref(), Some("b d"));
        records[1].draining = true;
        assert_eq!(path(&records, "a", "d").as_deref(), Some("c d"));
        assert_eq!(path(&records, "a", "b").as_deref(), Some("b"));
        assert_eq!((path(&records, "a", "e"), routes(&records, "a").members().len()), (None, 4));
        assert_eq!(branches(&records, "b", "a"), [""; 0]);
        assert_eq!(
            branches(&records, "b", "b"),
            ["a: a", "d: c d", "e: e"],
            "what it has to say itself still goes out"
        );
        assert_eq!(branches(&records, "b", "e"), [""; 0]);
        assert_eq!(routes(&records, "a").epoch(), routes(&records, "e").epoch());
    }

    /// ```text
    ///   a ---> b ---> c    a filter stands at a, towards b
    /// ```
    #[test]
    fn filters_hold_for_their_direction_and_all_beyond() {
        let mut records = mesh(&[("a", "b", 1), ("b", "c", 1)]);
        let mut filter = |of: usize, peer: &str, patterns: &[&str]| {
            let send = Some(patterns.iter().map(ToString::to_string).collect());
            records[of].neighbours.insert(name(peer), Neighbour { cost: 1, send });
            records.clone()
        };
        let passes = |records: &[LinkState], me: &str, to: &str, destination: &str| {
            routes(records, me).lets_pass(&name(to), destination)
        };
        let one = filter(0, "b", &["/topic/prod.>", "/topic/a..b"]);
        for to in ["b", "c"] {
            assert!(passes(&one, "a", to, "/topic/prod.service.status"));
            assert!(!passes(&one, "a", to, "/topic/test.service.status"));
            assert!(!passes(&one, "a", to, "/topic/a..b"), "neither parses");
        }
        assert!(passes(&one, "b", "a", "/topic/test.x") && passes(&one, "b", "c", "no destination at all"));
        assert!(passes(&one, "a", "a", "/topic/test.x") && !passes(&one, "a", "nobody", "/topic/prod.x"));
        let two = filter(1, "c", &["/topic/*.*.status"]);
        assert!(passes(&two, "a", "c", "/topic/prod.service.status"));
        assert!(
            !passes(&two, "a", "c", "/topic/prod.service.stop") && passes(&two, "a", "b", "/topic/prod.service.stop")
        );
        let none = filter(0, "b", &[]);
        assert!(!passes(&none, "a", "b", "/topic/prod.service.status"));
    }

    #[test]
    fn who_is_in_no_graph_is_alone() {
        let alone = Routes::compute(&Graph::default(), &name("a"));
        assert_eq!(alone.members(), &BTreeSet::from([name("a")]));
        assert_eq!((alone.path(&name("a")), alone.cost(&name("a"))), (Some(Vec::new()), Some(0)));
        assert!(alone.branches(&name("a")).is_empty() && alone.lets_pass(&name("a"), "/topic/x"));
    }

    const FAR: u64 = u64::MAX / 4;

    /// Costs of all pairs, by Floyd and Warshall: independent of the search above.
    fn costs(graph: &Graph) -> Vec<Vec<u64>> {
        let members = graph.members();
        let mut costs = vec![vec![FAR; members.len()]; members.len()];
        for (at, member) in members.iter().enumerate() {
            member.edges.iter().for_each(|edge| costs[at][edge.to] = u64::from(edge.cost));
            costs[at][at] = 0;
        }
        for by in (0..members.len()).filter(|by| !members[*by].draining) {
            for from in 0..members.len() {
                for to in 0..members.len() {
                    costs[from][to] = costs[from][to].min(costs[from][by] + costs[by][to]);
                }
            }
        }
        costs
    }

    /// The way from one broker to another, by the definition: the predecessor is the least (cost, name) of the best ones.
    fn way(graph: &Graph, costs: &[Vec<u64>], root: usize, to: usize) -> Option<Vec<usize>> {
        let members = graph.members();
        let mut way = vec![to];
        while way[0] != root {
            let cost_by = |edge: &Edge| costs[root][edge.to] + u64::from(edge.cost);
            let is_best =
                |edge: &&Edge| (edge.to == root || !members[edge.to].draining) && cost_by(edge) == costs[root][way[0]];
            let best = members[way[0]].edges.iter().filter(is_best);
            way.insert(0, best.min_by_key(|edge| (costs[root][edge.to], &members[edge.to].name))?.to);
        }
        Some(way)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn ways_and_branches_are_those_of_the_definition(records in some_mesh()) {
            let graph = Graph::new(records.iter(), &records[0].origin);
            let (costs, members) = (costs(&graph), graph.members());
            for (me, member) in members.iter().enumerate() {
                let routes = Routes::compute(&graph, &member.name);
                for (to, other) in members.iter().enumerate() {
                    let expected = way(&graph, &costs, me, to);
                    let path = expected.as_ref().map(|way| way[1..].iter().map(|at| members[*at].name.clone()).collect());
                    prop_assert_eq!(routes.next_hop(&other.name), path.as_ref().and_then(|path: &Vec<_>| path.first()));
                    prop_assert_eq!(routes.path(&other.name), path);
                    prop_assert_eq!(routes.cost(&other.name), expected.as_ref().map(|_| costs[me][to]));
                    prop_assert_eq!(routes.members().contains(&other.name), expected.is_some());
                    let open = expected.is_some_and(|way| way.windows(2).all(|step| {
                        let edge = members[step[0]].edges.iter().find(|edge| edge.to == step[1]).unwrap();
                        edge.send.as_ref().is_none_or(|patterns| !patterns.is_empty())
                    }));
                    prop_assert_eq!(routes.lets_pass(&other.name, "/topic/a.b"), open);
                }
                for (origin, from) in members.iter().enumerate() {
                    let mut expected: Vec<Branch> = Vec::new();
                    for (to, other) in members.iter().enumerate() {
                        let way = way(&graph, &costs, origin, to).unwrap_or_default();
                        let Some(at) = way.iter().position(|at| *at == me).filter(|at| at + 1 < way.len()) else {
                            continue;
                        };
                        let neighbour = members[way[at + 1]].name.clone();
                        match expected.iter_mut().find(|branch| branch.neighbour == neighbour) {
                            Some(branch) => _ = branch.below.insert(other.name.clone()),
                            None => expected.push(Branch { neighbour, below: BTreeSet::from([other.name.clone()]) }),
                        }
                    }
                    expected.sort_by(|a, b| a.neighbour.cmp(&b.neighbour));
                    prop_assert_eq!(routes.branches(&from.name), expected);
                }
            }
        }

        /// What a message does: from broker to broker along the branches, as each computes them.
        #[test]
        fn following_the_branches_reaches_each_broker_once_and_next_hops_agree(records in some_mesh()) {
            let graph = Graph::new(records.iter(), &records[0].origin);
            let all: Vec<Routes> = graph.members().iter().map(|it| Routes::compute(&graph, &it.name)).collect();
            for (origin, routes) in graph.members().iter().zip(&all) {
                let mut reached = BTreeSet::from([origin.name.clone()]);
                let mut waiting = vec![(origin.name.clone(), routes.members().clone())];
                while let Some((at, mut rest)) = waiting.pop() {
                    let here = &all[graph.place(&at).unwrap()];
                    prop_assert!(rest.remove(&at));
                    for branch in here.branches(&origin.name) {
                        prop_assert!(reached.insert(branch.neighbour.clone()), "{} twice", branch.neighbour);
                        for to in &branch.below {
                            prop_assert!(rest.remove(to), "{} is below another branch, or not below {}", to, at);
                            prop_assert_eq!(here.next_hop(to), Some(&branch.neighbour));
                        }
                        waiting.push((branch.neighbour.clone(), branch.below.clone()));
                    }
                    prop_assert!(rest.is_empty(), "{} leads to {:?} no more", at, rest);
                }
                prop_assert_eq!(&reached, routes.members());
            }
        }
    }
}

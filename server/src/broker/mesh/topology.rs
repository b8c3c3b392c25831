//! Which brokers and links are there? The link-state database of one broker: the newest (instance, sequence) of each origin.

use super::routes::Graph;
use muster_protocol::link::{LinkState, MAX_COST, Neighbour};
use muster_protocol::message::BrokerName;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is newer than what was known: pass it on.
    New {
        /// The broker has started anew since: what was known of its sessions is void.
        restarted: bool,
    },
    /// Known already.
    Known,
    /// Older than what is known: whoever sent it wants ours.
    Older,
    /// It bore our own name and was ahead of us; ours has gone above it and is to be flooded (its instance may have changed).
    Outbid,
    /// A second broker with our name is alive, and we are the younger: we leave.
    Duplicate,
}

/// Foreign incarnations of our name that are remembered: far more than brokers that can be mistaken for us.
const REMEMBERED: usize = 64;

/// The link-state database.
#[derive(Debug)]
pub struct Topology {
    own: LinkState,
    others: BTreeMap<BrokerName, LinkState>,
    /// Incarnations of our name that we went above, and the instance that each had then. An earlier life of ours stays
    /// below; a living broker goes above us in turn, and so gives itself away.
    outbid: BTreeMap<u64, u64>,
}

impl Topology {
    /// A broker without links.
    pub fn new(name: BrokerName, instance: u64, incarnation: u64, born: u64) -> Topology {
        let neighbours = BTreeMap::new();
        let own = LinkState { origin: name, instance, sequence: 1, incarnation, born, draining: false, neighbours };
        Topology { own, others: BTreeMap::new(), outbid: BTreeMap::new() }
    }

    /// Our own record.
    pub fn own(&self) -> &LinkState {
        &self.own
    }

    /// A record, ours included.
    pub fn get(&self, name: &BrokerName) -> Option<&LinkState> {
        if *name == self.own.origin { Some(&self.own) } else { self.others.get(name) }
    }

    /// All records, ours included, by name.
    pub fn records(&self) -> impl Iterator<Item = &LinkState> {
        let me = &self.own.origin;
        let before = self.others.range::<BrokerName, _>(..me).map(|(_, record)| record);
        let after = self.others.range::<BrokerName, _>(me..).map(|(_, record)| record);
        before.chain([&self.own]).chain(after)
    }

    /// Our link to `peer` is there with this end, or gone. Whether that changed our record. A cost out of range is moved
    /// into it.
    pub fn set_neighbour(&mut self, peer: &BrokerName, end: Option<Neighbour>) -> bool {
        let end = end.map(|end| Neighbour { cost: end.cost.clamp(1, MAX_COST), ..end });
        if *peer == self.own.origin || self.own.neighbours.get(peer) == end.as_ref() {
            return false;
        }
        match end {
            Some(end) => self.own.neighbours.insert(peer.clone(), end),
            None => self.own.neighbours.remove(peer),
        };
        self.own.sequence += 1;
        true
    }

    /// We are about to stop. Whether that changed our record.
    pub fn set_draining(&mut self) -> bool {
        let changes = !self.own.draining;
        if changes {
            self.own.draining = true;
            self.own.sequence += 1;
        }
        changes
    }

    /// Takes a record that came over a link.
    ///
    /// Of two records with the same (instance, sequence) but of different incarnations, which only two brokers with one
    /// name can make, the one of the higher incarnation counts, so that all brokers hold the same.
    pub fn take(&mut self, record: LinkState) -> Taken {
        if record.instance == u64::MAX {
            // No boot counter gets there, and whose name it bears could never go above it.
            return Taken::Known;
        }
        if record.origin == self.own.origin {
            return self.take_own(&record);
        }
        let Some(known) = self.others.get_mut(&record.origin) else {
            self.others.insert(record.origin.clone(), record);
            return Taken::New { restarted: false };
        };
        let age = |of: &LinkState| (of.instance, of.sequence, of.incarnation);
        match age(&record).cmp(&age(known)) {
            Ordering::Less => Taken::Older,
            Ordering::Equal => Taken::Known,
            Ordering::Greater => {
                let restarted = record.instance > known.instance || record.incarnation != known.incarnation;
                *known = record;
                Taken::New { restarted }
            }
        }
    }

    /// Forgets the records of brokers that are not wanted (any more). Whether there were any.
    pub fn retain(&mut self, wanted: impl Fn(&BrokerName) -> bool) -> bool {
        let before = self.others.len();
        self.others.retain(|name, _| wanted(name));
        self.others.len() < before
    }

    /// The connected component that we are in.
    pub fn graph(&self) -> Graph {
        Graph::new(self.records(), &self.own.origin)
    }

    /// A record with our name: an echo, an earlier life of ours, or a second broker.
    fn take_own(&mut self, record: &LinkState) -> Taken {
        let is_ours = record.incarnation == self.own.incarnation;
        match (record.instance, record.sequence).cmp(&(self.own.instance, self.own.sequence)) {
            Ordering::Less => return Taken::Older,
            Ordering::Equal if is_ours => return Taken::Known,
            Ordering::Equal | Ordering::Greater => {}
        }
        if !is_ours {
            // It was left behind, and is at or ahead of us again.
            let answers = self.outbid.contains_key(&record.incarnation);
            let age = |of: &LinkState| (of.born, of.incarnation);
            if answers && age(&self.own) > age(record) {
                return Taken::Duplicate;
            }
            self.remember(record);
        }
        self.own.instance = record.instance + 1;
        self.own.sequence = 1;
        Taken::Outbid
    }

    /// Of too many, the one that is furthest behind is the least likely to be alive.
    fn remember(&mut self, record: &LinkState) {
        self.outbid.insert(record.incarnation, record.instance);
        if self.outbid.len() > REMEMBERED
            && let Some((furthest, _)) = self.outbid.iter().min_by_key(|(_, instance)| **instance)
        {
            let furthest = *furthest;
            self.outbid.remove(&furthest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::tests::{name, record, some_mesh};
    use super::*;
    use proptest::prelude::*;

    const END: Neighbour = Neighbour { cost: 3, send: None };

    fn broker(instance: u64, incarnation: u64, born: u64) -> Topology {
        Topology::new(name("noc1"), instance, incarnation, born)
    }

    /// A record of noc1.
    fn noc1(instance: u64, sequence: u64, incarnation: u64, born: u64) -> LinkState {
        LinkState { instance, sequence, incarnation, born, ..record("noc1", &[]) }
    }

    fn version(topology: &Topology) -> (u64, u64) {
        (topology.own().instance, topology.own().sequence)
    }

    #[test]
    fn the_newest_record_of_a_broker_counts() {
        let mut topology = broker(1, 1, 1);
        let of = |instance, sequence| LinkState { instance, sequence, ..record("dc1", &[]) };
        assert_eq!(topology.take(of(2, 5)), Taken::New { restarted: false });
        assert_eq!(topology.take(of(2, 5)), Taken::Known);
        assert_eq!(topology.take(of(2, 4)), Taken::Older);
        assert_eq!(topology.take(of(1, 9)), Taken::Older);
        assert_eq!(topology.take(of(2, 6)), Taken::New { restarted: false });
        assert_eq!(topology.take(of(3, 1)), Taken::New { restarted: true });
        assert_eq!(topology.get(&name("dc1")), Some(&of(3, 1)));
        assert_eq!(topology.take(of(u64::MAX, 1)), Taken::Known, "nobody could go above that");
        assert_eq!(topology.get(&name("dc1")), Some(&of(3, 1)));
        let second = LinkState { incarnation: 2, ..of(3, 1) };
        assert_eq!(topology.take(second.clone()), Taken::New { restarted: true });
        assert_eq!(topology.take(of(3, 1)), Taken::Older);
        assert_eq!(topology.get(&name("dc1")), Some(&second));
    }

    #[test]
    fn our_record_changes_only_when_something_did() {
        let mut topology = broker(4, 1, 1);
        let dc1 = name("dc1");
        assert!(!topology.set_neighbour(&dc1, None));
        assert!(topology.set_neighbour(&dc1, Some(END)));
        assert!(!topology.set_neighbour(&dc1, Some(END)));
        assert_eq!(version(&topology), (4, 2));
        assert!(topology.set_neighbour(&dc1, Some(Neighbour { cost: 0, send: None })));
        assert!(!topology.set_neighbour(&dc1, Some(Neighbour { cost: 1, send: None })), "0 counts as 1");
        assert!(topology.set_neighbour(&dc1, Some(Neighbour { cost: 1, send: Some(vec![]) })));
        assert!(topology.set_draining() && !topology.set_draining());
        assert!(topology.set_neighbour(&dc1, None));
        assert!(!topology.set_neighbour(&name("noc1"), Some(END)), "no link leads to oneself");
        assert_eq!(version(&topology), (4, 6));
        assert!(topology.own().neighbours.is_empty() && topology.own().draining);
    }

    #[test]
    fn records_are_by_name_and_those_not_wanted_go() {
        let mut topology = broker(1, 1, 1);
        for other in ["zrh1", "dc1", "ams1"] {
            topology.take(record(other, &[]));
        }
        let names = |topology: &Topology| topology.records().map(|it| it.origin.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&topology), ["ams1", "dc1", "noc1", "zrh1"]);
        assert!(topology.retain(|name| name.as_str() == "dc1"));
        assert!(!topology.retain(|name| name.as_str() == "dc1"));
        assert_eq!(names(&topology), ["dc1", "noc1"]);
    }

    #[test]
    fn our_earlier_life_is_outbid_once_and_never_takes_us_for_a_duplicate() {
        // Clocks are stepped back: this life was born before the earlier one.
        for born in [5, 500] {
            let mut topology = broker(2, 77, born);
            topology.set_neighbour(&name("dc1"), Some(END));
            assert_eq!(topology.take(noc1(1, 90, 66, 100)), Taken::Older);
            assert_eq!(topology.take(noc1(2, 2, 66, 100)), Taken::Outbid, "the same version is another's too");
            assert_eq!(version(&topology), (3, 1));
            assert_eq!(topology.take(noc1(2, 9, 66, 100)), Taken::Older);
            assert_eq!(topology.take(noc1(9, 3, 55, 200)), Taken::Outbid, "a life before that, from another part");
            assert_eq!(topology.take(noc1(9, 4, 55, 200)), Taken::Older);
            assert_eq!(version(&topology), (10, 1));
            assert_eq!(topology.own().neighbours.len(), 1, "our links stay what they are");
        }
    }

    #[test]
    fn an_echo_of_ours_is_nothing_new() {
        let mut topology = broker(2, 77, 1);
        let echo = topology.own().clone();
        assert_eq!(topology.take(echo.clone()), Taken::Known);
        topology.set_draining();
        assert_eq!(topology.take(echo), Taken::Older);
        assert_eq!(topology.take(noc1(2, 40, 77, 1)), Taken::Outbid, "what we never said");
        assert_eq!(version(&topology), (3, 1));
        assert_eq!(topology.take(noc1(u64::MAX, 1, 66, 1)), Taken::Known);
        assert_eq!(topology.take(noc1(u64::MAX - 1, 1, 66, 1)), Taken::Outbid);
        assert_eq!(version(&topology), (u64::MAX, 1));
    }

    #[test]
    fn what_is_remembered_of_others_is_bounded() {
        let mut topology = broker(1, 0, 1);
        for other in 1..1000 {
            assert_eq!(topology.take(noc1(other * 2, 1, other, 1)), Taken::Outbid);
        }
        assert_eq!(topology.outbid.len(), REMEMBERED);
        assert!(topology.outbid.contains_key(&999) && !topology.outbid.contains_key(&1));
    }

    proptest! {
        /// Two living brokers with one name hear of each other, in any order and with losses; in the end one of them
        /// leaves, and it is the younger.
        #[test]
        fn of_two_brokers_with_one_name_the_younger_leaves(
            first in (1..9u64, 0..5u64, 0..5usize),
            second in (1..9u64, 0..5u64, 0..5usize),
            turns in prop::collection::vec((any::<bool>(), 0..3usize), 0..40),
        ) {
            let mut both = [broker(first.0, 1, first.1), broker(second.0, 2, second.1)];
            for (topology, changes) in both.iter_mut().zip([first.2, second.2]) {
                for peer in 0..changes {
                    topology.set_neighbour(&name(&format!("dc{peer}")), Some(END));
                }
            }
            let younger = usize::from((second.1, 2) > (first.1, 1));
            let mut said: [Vec<LinkState>; 2] = both.each_ref().map(|it| vec![it.own().clone()]);
            let fair = [true, false].into_iter().cycle().map(|to| (to, 0)).take(16);
            for (to, back) in turns.into_iter().chain(fair) {
                let (to, from) = (usize::from(to), usize::from(!to));
                let old = said[from].len().saturating_sub(1 + back);
                let heard = said[from][old].clone();
                match both[to].take(heard) {
                    Taken::Duplicate => {
                        prop_assert_eq!(to, younger);
                        return Ok(());
                    }
                    Taken::Outbid => said[to].push(both[to].own().clone()),
                    Taken::Older => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert!(false, "both stayed: {:?}", said);
        }

        #[test]
        fn databases_agree_whatever_came_first(
            (records, shuffled) in some_mesh().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
            at in 0..8usize,
        ) {
            let me = records[at % records.len()].clone();
            let filled = |records: &[LinkState]| {
                let mut topology = Topology::new(me.origin.clone(), me.instance, 1, 1);
                for record in records.iter().filter(|record| record.origin != me.origin) {
                    topology.take(record.clone());
                    let older = LinkState { sequence: 0, neighbours: BTreeMap::new(), ..record.clone() };
                    assert_eq!(topology.take(older), Taken::Older);
                }
                for (peer, end) in &me.neighbours {
                    topology.set_neighbour(peer, Some(end.clone()));
                }
                if me.draining {
                    topology.set_draining();
                }
                topology
            };
            let graph = filled(&records).graph();
            prop_assert_eq!(&filled(&shuffled).graph(), &graph);
            prop_assert_eq!(graph, Graph::new(records.iter(), &me.origin));
        }
    }
}

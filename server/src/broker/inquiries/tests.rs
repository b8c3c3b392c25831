//! Do the answers of several brokers make one? Pages show each node once and end, counts add up, the live node wins.

use super::*;
use muster_protocol::link::{Ask, Letter, Refused};
use muster_protocol::message::NodeKey;
use muster_protocol::request::{FoundNode, Gone};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).expect("a name")
}

fn node(number: u32) -> NodeId {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    NodeId::of(&NodeKey::new(key))
}

fn asker() -> Asker {
    let queue = Destination::parse("/remote-temp-queue/noc1.1").expect("a queue");
    Asker { session: SessionId(1), queue, request: None }
}

fn query() -> Query {
    let letter = Letter {
        caller: "noc".into(),
        destination: "/muster/find".into(),
        headers: Vec::new(),
        target: None,
        nodes: None,
        reply_to: None,
        request: None,
        expires_within: None,
    };
    Query { serial: 1, letter, ask: Ask::Unknown }
}

fn found(id: NodeId) -> FoundNode {
    FoundNode { id, display: Map::new(), facts: Map::new(), since: 0 }
}

/// One page of a broker with so many nodes, numbered from `first`; no page is longer than `own`, as one full of facts.
fn answer(first: u32, count: u32, from: u32, limit: u32, own: u32) -> FindAnswer {
    let end = count.min(from + limit.min(own));
    FindAnswer {
        count: count.into(),
        nodes: (from.min(end)..end).map(|row| found(node(first + row))).collect(),
        next: (end < count).then(|| end.to_string()),
        ..FindAnswer::default()
    }
}

/// Asks for one page as queries.rs does.
fn page_of(sizes: &[(u32, u32)], cursor: Option<&str>, limit: u32) -> FindAnswer {
    let brokers: Vec<BrokerName> = (0..sizes.len()).map(|at| name(&format!("b{at}"))).collect();
    let (mut asked, mut later, mut count, mut from) = (brokers.clone(), Vec::new(), None, 0);
    if let Some(cursor) = cursor {
        let parts: Vec<&str> = cursor.split('/').collect();
        let broker = name(parts[0]);
        from = if parts[1] == FROM_THE_FIRST { 0 } else { parts[1].parse().expect("a place") };
        count = Some(parts[2].parse().expect("a count"));
        later = asked.iter().filter(|other| **other > broker).cloned().collect();
        asked.retain(|other| *other == broker);
    }
    let mut inquiries = Inquiries::default();
    let gather = Gather::Find { limit: limit as usize, count, later };
    let serial = inquiries.begin(asker(), gather, query(), asked.clone(), Vec::new(), 0);
    // The last one answers first.
    for broker in asked.iter().rev() {
        assert_eq!(inquiries.finish(serial).map(|_| ()), None, "{broker} has not answered");
        let at = brokers.iter().position(|other| other == broker).expect("one of them");
        let first: u32 = sizes[..at].iter().map(|(count, _)| count).sum();
        inquiries.answer(serial, broker, Said::Find(answer(first, sizes[at].0, from, limit, sizes[at].1)));
    }
    match inquiries.finish(serial) {
        Some((_, Gathered::Find(answer))) => answer,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn pages_show_each_node_once_and_end(
        sizes in prop::collection::vec((0..12u32, 1..9u32), 1..6),
        limit in 1..9u32,
    ) {
        let total: u32 = sizes.iter().map(|(count, _)| count).sum();
        let (mut shown, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = page_of(&sizes, cursor.as_deref(), limit);
            prop_assert_eq!(page.count, u64::from(total), "every page says the whole count");
            prop_assert!(page.nodes.len() <= limit as usize);
            shown.extend(page.nodes.into_iter().map(|node| node.id));
            cursor = page.next;
            pages += 1;
            prop_assert!(pages <= total + 12, "it does not end");
            if cursor.is_none() {
                break;
            }
        }
        prop_assert_eq!(shown, (0..total).map(node).collect::<Vec<_>>());
    }

    #[test]
    fn histograms_add_up(
        parts in prop::collection::vec(prop::collection::btree_map(0..6u64, 1..9u64, 0..6), 1..4),
        limit in 1..8usize,
    ) {
        let mut inquiries = Inquiries::default();
        let brokers: Vec<BrokerName> = (0..parts.len()).map(|at| name(&format!("b{at}"))).collect();
        let serial =
            inquiries.begin(asker(), Gather::Report { limit }, query(), brokers.clone(), Vec::new(), 0);
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        for (broker, part) in brokers.iter().zip(&parts) {
            part.iter().for_each(|(value, count)| *sums.entry(*value).or_default() += count);
            let values = part.iter().map(|(value, count)| ValueCount { value: json!(value), count: *count }).collect();
            let count = part.values().sum::<u64>() + 1;
            let said = ReportAnswer { count, values, missing: 1, more: 0, without: Vec::new() };
            inquiries.answer(serial, broker, Said::Report(said));
        }
        let Some((_, Gathered::Report(all))) = inquiries.finish(serial) else { panic!("all have answered") };
        prop_assert_eq!(all.count, sums.values().sum::<u64>() + parts.len() as u64);
        prop_assert_eq!(all.missing, parts.len() as u64);
        prop_assert_eq!(all.values.len() as u64 + all.more, sums.len() as u64);
        prop_assert!(all.values.is_sorted_by(|a, b| a.count >= b.count) && all.values.len() <= limit);
        for value in &all.values {
            prop_assert_eq!(Some(&value.count), value.value.as_u64().and_then(|value| sums.get(&value)));
        }
    }

    /// However time passes: no look runs in circles, and in the end every broker has answered or is missing.
    #[test]
    fn looks_end(pauses in prop::collection::vec((0..1_500u64, any::<bool>()), 0..20)) {
        let mut inquiries = Inquiries::default();
        let brokers = vec![name("dc1"), name("dc2")];
        let serial = inquiries.begin(asker(), Gather::Report { limit: 1 }, query(), brokers, Vec::new(), 0);
        let (mut now, mut lost_at) = (0, None);
        for (pause, is_lost) in pauses.into_iter().chain([(10_000, false)]) {
            now += pause;
            lost_at = is_lost.then(|| lost_at.unwrap_or(now));
            inquiries.look_at_all(now);
            let mut looks = 0;
            while let Some(serial) = inquiries.due(now) {
                looks += 1;
                prop_assert!(looks < 20, "it runs in circles");
                let due = inquiries.look(serial, now, |broker| lost_at.filter(|_| broker.as_str() == "dc1"));
                if let Some(Due::Silent(broker, text)) = due {
                    let (broker, text) = (broker.to_string(), text.into());
                    inquiries.miss(serial, Missing { broker, why: Why::Unreachable, text, nodes: None });
                    inquiries.finish(serial);
                }
            }
            prop_assert!(inquiries.next_deadline().is_none_or(|at| at > now));
        }
        prop_assert!(inquiries.get(serial).is_none() && inquiries.next_deadline().is_none());
    }
}

fn known(state: &str, since: u64, gone_at: Option<u64>, broker: &str) -> Said {
    Said::Node(Box::new(NodeAnswer {
        id: node(1),
        state: state.into(),
        collective: "prod".into(),
        since,
        gone: gone_at.map(|at| Gone { at, reason: "clean".into() }),
        facts: Value::Null,
        asserted: Vec::new(),
        classes: Vec::new(),
        modules: Default::default(),
        display: Map::new(),
        explanation: None,
        broker: broker.into(),
    }))
}

fn refused(code: &str) -> Said {
    Said::Refused(Refused { code: code.into(), text: "no".into() })
}

fn node_of(said: Vec<Said>) -> Gathered {
    let mut inquiries = Inquiries::default();
    let brokers: Vec<BrokerName> = (0..said.len()).map(|at| name(&format!("b{at}"))).collect();
    let serial = inquiries.begin(asker(), Gather::Node { node: node(1) }, query(), brokers.clone(), Vec::new(), 0);
    for (broker, said) in brokers.iter().zip(said) {
        inquiries.answer(serial, broker, said);
    }
    inquiries.finish(serial).expect("all have answered").1
}

#[test]
fn of_a_node_the_connected_session_counts_then_the_registering_then_the_last() {
    let at = |said| match node_of(said) {
        Gathered::Node(node) => node.broker.clone(),
        other => panic!("{other:?}"),
    };
    let gone = |at, broker| known("gone", 1, Some(at), broker);
    assert_eq!(at(vec![gone(9, "old"), known("connected", 2, None, "live")]), "live");
    assert_eq!(at(vec![known("registering", 2, None, "soon"), gone(9, "old")]), "soon");
    assert_eq!(at(vec![gone(5, "first"), gone(9, "last"), refused("no-such-node")]), "last");
    assert_eq!(at(vec![known("connected", 2, None, "before"), known("connected", 7, None, "now")]), "now");
}

#[test]
fn nobody_knows_a_node_but_who_refused_is_named() {
    let Gathered::NoSuchNode(id, without) = node_of(vec![refused("no-such-node"), refused("denied")]) else {
        panic!("nobody knows it");
    };
    assert_eq!((id, without.len(), without[0].broker.as_str(), without[0].why), (node(1), 1, "b1", Why::Refused));
}

#[test]
fn who_was_not_asked_or_answers_twice_changes_nothing() {
    let mut inquiries = Inquiries::default();
    let brokers = vec![name("dc1"), name("dc2")];
    let serial = inquiries.begin(asker(), Gather::Report { limit: 9 }, query(), brokers, Vec::new(), 0);
    let said = |count| Said::Report(ReportAnswer { count, ..ReportAnswer::default() });
    inquiries.answer(serial, &name("dc9"), said(100));
    inquiries.answer(serial, &name("dc1"), said(1));
    inquiries.answer(serial, &name("dc1"), said(50));
    assert_eq!(inquiries.finish(serial).map(|_| ()), None);
    inquiries.answer(serial, &name("dc2"), said(2));
    let Some((_, Gathered::Report(all))) = inquiries.finish(serial) else { panic!("all have answered") };
    assert_eq!(all.count, 3);
}

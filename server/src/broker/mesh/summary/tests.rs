//! Does a summary ever keep a request from a node that matches, and does it keep one from where none does?

use super::*;
use crate::broker::nodes::tests::{Node, filter, node};
use crate::broker::nodes::{Bounds, Index, Row};
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).unwrap()
}

fn index(nodes: &[Node]) -> Index {
    let mut index = Index::new();
    for (row, node) in (0..).zip(nodes) {
        index.insert(Row(row), node.described());
    }
    index
}

/// Nodes with these facts, one each.
fn whole(facts: impl IntoIterator<Item = Value>) -> Summary {
    let nodes: Vec<Node> = facts.into_iter().map(|facts| Node::new(facts, &["web"])).collect();
    index(&nodes).summarise(&name("a"))
}

/// What a broker b knows of the broker a with this summary.
fn known(whole: Summary) -> Summaries {
    let mut theirs = Summaries::new(name("a"), 1);
    let mut ours = Summaries::new(name("b"), 1);
    let record = theirs.set_own(whole, 0).unwrap();
    assert_eq!(ours.take(&record), Absorbed::New);
    ours
}

fn decide(summaries: &Summaries, target: &str) -> Ternary {
    summaries.decide(&name("a"), 1, Some(&Filter::parse(target).unwrap()), None)
}

fn hold(summaries: &Summaries, expected: &[(&str, Ternary)]) {
    for (target, expected) in expected {
        assert_eq!(decide(summaries, target), *expected, "{target}");
    }
}

use Ternary::{No, Unknown, Yes};

#[test]
fn a_request_does_not_travel_to_where_nothing_matches() {
    let summaries = known(whole([json!({"datacenter": "b", "n": 1}), json!({"datacenter": "b", "os": {"name": "x"}})]));
    hold(
        &summaries,
        &[
            ("datacenter = a", No),
            ("datacenter = b", Yes),
            ("not datacenter = b", No),
            ("not datacenter = a", Yes),
            ("datacenter != b", No),
            ("datacenter != a", Yes),
            ("datacenter in (a, c)", No),
            ("datacenter in (a, b)", Yes),
            ("datacenter ~ /^[ac]/", No),
            ("datacenter !~ /^b/", No),
            ("datacenter > a", No),
            ("has datacenter", Yes),
            ("n = 1", Unknown),
            ("n != 1", No),
            ("n != 2", Unknown),
            ("n < 1", No),
            ("has n", Unknown),
            ("os = x", No),
            ("os != x", Unknown),
            ("os.name = x", Unknown),
            ("has rack", No),
            ("rack = 1", No),
            ("rack != 1", No),
            ("not rack = 1", Yes),
            ("datacenter = b and rack = 1", No),
            ("datacenter = a or n = 1", Unknown),
            ("class = web", Unknown),
            ("class = db", No),
            ("class != db", Yes),
            ("class != web", Unknown),
            ("class ~ /d/", No),
        ],
    );
}

#[test]
fn lists_need_one_hit_and_negation_none() {
    let summaries = known(whole([json!({"tags": ["x", "y"]}), json!({"tags": ["x"]})]));
    hold(&summaries, &[("tags = x", Unknown), ("tags = z", No), ("tags != z", Yes), ("tags ~ /[xy]/", Yes)]);
    hold(&summaries, &[("tags !~ /[xy]/", No), ("tags != x", Unknown)]);
    let empty = known(whole([json!({"tags": ["x"]}), json!({"tags": []})]));
    hold(&empty, &[("tags = x", Unknown), ("tags != x", Unknown), ("has tags", Yes)]);
}

#[test]
fn many_numbers_are_known_by_their_span() {
    let numbers = known(whole((0..100).map(|n| json!({"n": n + 10}))));
    hold(
        &numbers,
        &[
            ("n = 9", No),
            ("n = 110", No),
            ("n = 50", Unknown),
            ("n = 10", Unknown),
            ("n = word", No),
            ("n != word", Yes),
            ("n != 9", Yes),
            ("n < 10", No),
            ("n <= 10", Unknown),
            ("n >= 10", Yes),
            ("n > 109", No),
            ("n < 1000", Yes),
            ("n in (1, 2, x)", No),
            ("n in (1, 20)", Unknown),
            ("n ~ /^1/", Unknown),
            ("not n > 109", Yes),
        ],
    );
    let mixed = known(whole((0..100).map(|n| if n == 0 { json!({"n": "v"}) } else { json!({"n": n}) })));
    hold(&mixed, &[("n > 1000", Unknown), ("n = 1000", Unknown), ("has n", Yes)]);
    let versions = known(whole((0..100).map(|n| json!({"v": format!("1.{n}")}))));
    hold(&versions, &[("v > 2.0", Unknown), ("v < 2.0", Unknown), ("v = x", Unknown), ("has v", Yes), ("has w", No)]);
}

#[test]
fn modules_and_nodes_at_all() {
    let summaries = known(whole([json!({"a": 1})]));
    let decide = |target: Option<&str>, module| {
        let target = target.map(|text| Filter::parse(text).unwrap());
        summaries.decide(&name("a"), 1, target.as_ref(), module)
    };
    assert_eq!(decide(None, None), Yes);
    assert_eq!(decide(None, Some("node")), Unknown);
    assert_eq!(decide(None, Some("puppet")), No);
    assert_eq!(decide(Some("a = 1"), Some("puppet")), No);
    assert_eq!(decide(Some("a = 1"), Some("node")), Unknown);
    assert_eq!(decide(Some("a = 2"), Some("node")), No);
    let empty = known(whole([]));
    assert_eq!(empty.decide(&name("a"), 1, None, None), No);
    hold(&empty, &[("not a = 1", No)]);
    assert_eq!(summaries.decide(&name("a"), 2, None, None), Unknown, "another life");
    assert_eq!(summaries.decide(&name("c"), 1, None, None), Unknown, "never heard of");
    assert_eq!((summaries.nodes(&name("a")), summaries.nodes(&name("c"))), (Some(1), None));
    assert!(!summaries.is_restless(&name("a"), 1) && summaries.is_restless(&name("c"), 1));
}

#[test]
fn bounds_hold_and_what_is_left_out_is_unknown() {
    let facts = |from: u32| {
        let long = |number| (format!("f{number:04}"), json!("x".repeat(100)));
        Value::Object((from..from + 1500).map(long).collect())
    };
    let common = json!({"datacenter": "b", "deep": {"er": 1}});
    let summary = whole([facts(0), facts(1500), common.clone(), common.clone(), common]);
    assert!(summary.paths.len() <= 2048 && summary.others);
    assert!(summary.paths.values().flatten().count() > 1000, "as much as there is room for");
    assert!(bytes(&summary) <= 257 * 1024, "{}", bytes(&summary));
    let encoded = muster_protocol::link::codec::Sending::new(
        &muster_protocol::link::Head::Summary(summary.clone()),
        Default::default(),
    );
    assert!(encoded.is_ok(), "it fits a frame");
    let summaries = known(summary);
    // What most nodes have is told first; what is not told may be anything.
    hold(&summaries, &[("datacenter = a", No), ("deep.er = 2", No), ("f2999 = q", Unknown), ("z = 1", Unknown)]);
    let long = whole([json!({"long": "y".repeat(257)})]);
    hold(&known(long), &[("long = y", Unknown), ("short = y", No)]);
    let many: BTreeSet<String> = (0..513).map(|number| format!("c{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let classes = index(&[Node::new(json!({}), &many)]).summarise(&name("a"));
    assert_eq!(classes.classes, Some(Words::Many));
    hold(&known(classes), &[("class = q", Unknown), ("class != q", Unknown)]);
}

#[test]
fn odd_names_of_facts_travel() {
    let facts = json!({"a.b": 1, "x y": {"class": 2}, "class": 3, "q\"\\": {"é ü": 4}});
    let summary = whole([facts]);
    for text in summary.paths.keys() {
        assert_eq!(Path::parse(text).unwrap().to_string(), *text);
    }
    let expected = [("\"a.b\" = 1", Yes), ("\"class\" = 4", No), ("\"class\" = 3", Yes), ("a.b = 1", No)];
    hold(&known(summary), &expected);
}

#[test]
fn changes_travel_as_deltas_until_there_is_a_gap() {
    let (mut theirs, mut ours) = (Summaries::new(name("a"), 1), Summaries::new(name("b"), 1));
    let facts = |n: u64| json!({"n": n, "other": "x".repeat(200), "third": "y".repeat(200)});
    let first = theirs.set_own(whole([facts(1)]), 0).unwrap();
    assert_eq!((first.base, first.sequence), (None, 1));
    assert_eq!(theirs.set_own(whole([facts(1)]), 0), None, "nothing changed");
    assert_eq!((ours.take(&first), ours.take(&first)), (Absorbed::New, Absorbed::Known));
    let second = theirs.set_own(whole([facts(2)]), 0).unwrap();
    assert_eq!((second.base, second.sequence, second.paths.len()), (Some(1), 2, 1), "only what changed");
    assert_eq!((&second.classes, &second.modules), (&None, &None));
    assert_eq!(ours.take(&second), Absorbed::New);
    assert_eq!(ours.take(&first), Absorbed::Known);
    assert_eq!(ours.have(&name("a")), (1, 2));
    hold(&ours, &[("n = 1", No), ("n = 2", Yes), ("class = web", Unknown), ("class = db", No)]);

    theirs.set_own(whole([facts(3)]), 0).unwrap();
    let fourth = theirs.set_own(whole([json!({"n": 3, "other": "x".repeat(200)})]), 0).unwrap();
    assert_eq!(fourth.paths, BTreeMap::from([("third".to_owned(), None)]));
    assert_eq!(ours.take(&fourth), Absorbed::Gap);
    hold(&ours, &[("n = 1", Unknown), ("n = 2", Unknown)]);
    assert_eq!(ours.have(&name("a")), (1, 2), "so that the whole is asked for");
    let late = Summary { sequence: 3, base: Some(2), ..fourth };
    assert_eq!(ours.take(&late), Absorbed::Gap, "what it builds on is here, but a newer one has passed already");
    let whole_record = theirs.whole(&name("a")).unwrap();
    assert_eq!((ours.take(&whole_record), ours.take(&whole_record)), (Absorbed::New, Absorbed::Known));
    hold(&ours, &[("n = 3", Yes), ("has third", No)]);
    assert_eq!(ours.whole(&name("a")), theirs.whole(&name("a")));

    let all_other = theirs.set_own(whole([json!({"quite": "different", "as": "a whole"})]), 0).unwrap();
    assert_eq!((all_other.base, all_other.sequence), (None, 5), "the whole where a delta would be hardly smaller");
    assert_eq!(ours.take(&all_other), Absorbed::New);
    assert_eq!(theirs.take(&all_other), Absorbed::Known, "our own comes back");
}

#[test]
fn another_life_begins_with_a_whole() {
    let mut theirs = Summaries::new(name("a"), 1);
    assert_eq!((theirs.have(&name("a")), theirs.whole(&name("a"))), ((1, 0), None));
    theirs.set_own(whole([json!({"n": 1})]), 0).unwrap();
    let mut ours = known(whole([json!({"n": 1})]));
    theirs.set_instance(7);
    assert_eq!(theirs.have(&name("a")), (7, 1));
    let anew = theirs.set_own(whole([json!({"n": 1})]), 0).unwrap();
    assert_eq!((anew.instance, anew.sequence, anew.base), (7, 2, None));
    assert_eq!(ours.take(&anew), Absorbed::New);
    assert_eq!(ours.decide(&name("a"), 7, None, None), Yes);
    assert_eq!(ours.decide(&name("a"), 1, None, None), Unknown);
    ours.retain(|_| false);
    assert_eq!(ours.have(&name("a")), (0, 0));
    theirs.retain(|_| false);
    assert!(theirs.whole(&name("a")).is_some());
}

#[test]
fn a_path_that_became_many_stays_so_for_a_while() {
    let mut theirs = Summaries::new(name("a"), 1);
    let numbers = |count: u64| whole((0..count).map(|n| json!({"n": n, "b": true})));
    let of_path = |summaries: &Summaries| summaries.whole(&name("a")).unwrap().paths["n"].clone().unwrap();
    theirs.set_own(numbers(65), 1000).unwrap();
    assert_eq!(of_path(&theirs).values, None);
    theirs.set_own(numbers(3), 1000 + HOLD - 1).unwrap();
    let held = of_path(&theirs);
    assert_eq!((held.values, held.minimum, held.maximum, held.texts), (None, Some(json!(0)), Some(json!(2)), false));
    hold(&theirs, &[("n = 3", No), ("n = 1", Unknown), ("n < 3", Yes)]);
    theirs.set_own(numbers(3), 1000 + HOLD).unwrap();
    assert_eq!(of_path(&theirs).values, Some(vec![json!(0), json!(1), json!(2)]));
    theirs.set_own(numbers(65), 90_000).unwrap();
    theirs.set_own(whole([json!({"n": "x"})]), 90_001).unwrap();
    assert!(of_path(&theirs).texts);
    hold(&theirs, &[("n = 3", Unknown), ("has n", Yes)]);
}

#[test]
fn records_without_meaning_are_refused() {
    let fine = || Summary { instance: 1, sequence: 5, ..whole([json!({"n": 1})]) };
    let with = |path: &str, known: PathSummary| {
        let mut record = fine();
        record.paths.insert(path.to_owned(), Some(known));
        record
    };
    let values =
        |values: Value| PathSummary { values: serde_json::from_value(values).unwrap(), ..PathSummary::default() };
    let span = |minimum, maximum| PathSummary { minimum, maximum, ..PathSummary::default() };
    let mut many = fine();
    many.paths.extend((0..4097).map(|number| (format!("p{number}"), None)));
    let mut large = fine();
    large.modules = Some(Words::These((0..1100).map(|number| format!("{number:01000}")).collect()));
    for bad in [
        with("a..b", PathSummary::default()),
        with("n", values(json!([1, null]))),
        with("n", values(json!([[1]]))),
        with("n", span(Some(json!(2)), Some(json!(1)))),
        with("n", span(Some(json!("1")), Some(json!("2")))),
        with("n", span(Some(json!(1)), None)),
        many,
        large,
    ] {
        let mut ours = Summaries::new(name("b"), 1);
        assert_eq!(ours.take(&bad), Absorbed::Bad);
        assert_eq!(ours.have(&name("a")), (0, 0));
        let mut ours = known(whole([json!({"n": 1})]));
        assert_eq!(decide(&ours, "n = 2"), No);
        assert_eq!(ours.take(&Summary { sequence: 2, base: Some(1), ..bad }), Absorbed::Bad);
        assert_eq!(decide(&ours, "n = 2"), Unknown, "what it said is lost");
        assert_eq!(ours.take(&fine()), Absorbed::New);
        assert_eq!(decide(&ours, "n = 2"), No);
    }
    // Nothing said of many values: they may be anything.
    let mut ours = Summaries::new(name("b"), 1);
    assert_eq!(ours.take(&with("n", PathSummary::default())), Absorbed::New);
    hold(&ours, &[("n = 7", Unknown), ("n > 7", Unknown), ("n ~ /x/", Unknown), ("has n", Yes)]);
}

/// Small enough that everything that can be left out is.
fn bounds() -> impl Strategy<Value = Bounds> {
    let few = || prop_oneof![0usize..4, Just(64)];
    let bytes = prop_oneof![Just(200usize), Just(262_144)];
    (few(), prop_oneof![Just(1usize), Just(256)], few(), prop_oneof![0usize..6, Just(2048)], bytes)
        .prop_map(|(values, text, words, paths, bytes)| Bounds { values, text, words, paths, bytes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// `No` is only said where no node matches, `Yes` where all do; by whoever has followed the changes.
    #[test]
    fn a_summary_is_never_wrong(
        steps in prop::collection::vec(
            (prop::collection::vec((0u32..5, prop::option::weighted(0.8, node())), 0..6), 0u64..50_000, any::<bool>()), 1..5),
        bounds in bounds(),
        filters in prop::collection::vec(filter(), 1..10),
    ) {
        let (mut theirs, mut ours) = (Summaries::new(name("a"), 1), Summaries::new(name("b"), 1));
        let (mut index, mut now) = (Index::new(), 0);
        for (changes, later, by_wire) in steps {
            for (row, node) in changes {
                match node {
                    Some(node) => index.insert(Row(row), node.described()),
                    None => index.remove(Row(row)),
                }
            }
            now += later;
            if let Some(record) = theirs.set_own(index.summarise_within(&name("a"), &bounds), now) {
                let record = if by_wire { carried(&record) } else { record };
                prop_assert_eq!(ours.take(&record), Absorbed::New);
            }
            prop_assert_eq!(ours.whole(&name("a")), theirs.whole(&name("a")));
            for text in &filters {
                let filter = Filter::parse(text).unwrap();
                for module in [None, Some("service"), Some("node"), Some("none")] {
                    let mut matching = index.matching(&filter);
                    if let Some(module) = module {
                        matching &= index.with_module(module);
                    }
                    match ours.decide(&name("a"), 1, Some(&filter), module) {
                        Ternary::No => prop_assert!(matching.is_empty(), "{} {:?}", text, module),
                        Ternary::Yes => prop_assert_eq!(&matching, index.rows(), "{} {:?}", text, module),
                        Ternary::Unknown => {}
                    }
                }
            }
        }
    }

    /// With all values told and one value a node, a single comparison that no node satisfies is known to be so.
    #[test]
    fn a_summary_knows_what_it_can(values in prop::collection::vec(0u8..6, 1..6), asked in 0u8..6, by in "=|<|>=|!=") {
        let summaries = known(whole(values.iter().map(|value| json!({"n": value}))));
        let target = format!("n {by} {asked}");
        let facts = |value: &u8| json!({ "n": value });
        let filter = Filter::parse(&target).unwrap();
        let matching = values.iter().filter(|value| filter.matches(&facts(value), &BTreeSet::new())).count();
        let expected = if matching == 0 { No } else if matching == values.len() { Yes } else { Unknown };
        prop_assert_eq!(decide(&summaries, &target), expected);
    }
}

/// The record as it arrives at the other end of a link.
fn carried(record: &Summary) -> Summary {
    use muster_protocol::link::Head;
    use muster_protocol::link::codec::{Decoder, Limits, encode};
    let mut bytes = Default::default();
    encode(&Head::Summary(record.clone()), &mut bytes).unwrap();
    match Decoder::new(Limits::after_hello(0)).decode(&mut bytes).unwrap() {
        Some((Head::Summary(summary), _)) => summary,
        other => panic!("{other:?}"),
    }
}

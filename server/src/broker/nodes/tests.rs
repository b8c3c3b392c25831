//! Does the index mean what the evaluator means, whatever happened to the rows before?

use std::collections::{BTreeMap, BTreeSet};

use muster_protocol::facts::{Facts, Path, Scalar, ScalarRef};
use muster_protocol::filter::examples::EXAMPLES;
use muster_protocol::filter::{Document, Filter, Ternary};
use muster_protocol::message::{BrokerName, NodeId, NodeKey};
use proptest::prelude::*;
use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::rows::{Rows, union};
use super::*;
use crate::broker::access::Policy;
use crate::broker::event::{NodeHello, Now, SessionId};
use crate::broker::simulation::PHC;

/// A node as the registry would keep it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::broker) struct Node {
    pub(in crate::broker) facts: Facts,
    pub(in crate::broker) classes: BTreeSet<String>,
    pub(in crate::broker) modules: BTreeMap<String, String>,
}

impl Node {
    pub(in crate::broker) fn new(facts: Value, classes: &[&str]) -> Node {
        let facts = Facts::from_value(facts).unwrap();
        let modules = BTreeMap::from([("node".to_owned(), "00".to_owned())]);
        Node { facts, classes: classes.iter().map(|class| class.to_string()).collect(), modules }
    }

    pub(in crate::broker) fn described(&self) -> Described<'_> {
        Described { facts: &self.facts, classes: &self.classes, modules: &self.modules }
    }
}

fn set(rows: impl IntoIterator<Item = u32>) -> RoaringBitmap {
    rows.into_iter().collect()
}

#[test]
fn every_example_holds_in_the_index() {
    for example in EXAMPLES {
        let mut index = Index::new();
        let node = Node::new(serde_json::from_str(example.facts).unwrap(), example.classes);
        index.insert(Row(3), node.described());
        let expected = if example.matches { set([3]) } else { set([]) };
        assert_eq!(index.matching(&Filter::parse(example.filter).unwrap()), expected, "{example:?}");
    }
}

#[test]
fn reports_count_values() {
    let mut index = Index::new();
    let facts = [
        json!({"os": "a", "n": [1, 1, 2]}),
        json!({"os": "b"}),
        json!({"os": "b", "n": []}),
        json!({"x": {"y": true}}),
    ];
    for (row, facts) in (0..).zip(facts) {
        index.insert(Row(row), Node::new(facts, &[]).described());
    }
    let text = |text: &str| ScalarRef::Text(text).to_owned();
    let number = |text: &str| Scalar::Number(muster_protocol::facts::Number::parse(text).unwrap());
    let report = |path: &str, among: &RoaringBitmap| index.report(&Path::parse(path).unwrap(), among);
    let all = set([0, 1, 2, 3, 99]);
    let os = Report { values: vec![(text("b"), 2), (text("a"), 1)], without_value: 0, missing: 1 };
    assert_eq!(report("os", &all), os);
    let n = Report { values: vec![(number("1"), 1), (number("2"), 1)], without_value: 1, missing: 2 };
    assert_eq!(report("n", &all), n);
    assert_eq!(report("os", &set([1])), Report { values: vec![(text("b"), 1)], ..Report::default() });
    assert_eq!(report("x", &all), Report { without_value: 1, missing: 3, ..Report::default() });
    assert_eq!(report("none", &all), Report { missing: 4, ..Report::default() });
    assert_eq!(index.with_module("node"), set([0, 1, 2, 3]));
    assert_eq!(index.with_module("puppet"), set([]));
    let mut paths: Vec<String> = index.paths().map(|(path, rows)| format!("{path} {rows}")).collect();
    paths.sort();
    assert_eq!(paths, ["n 2", "os 3", "x 1", "x.y 1"]);
}

/// Large enough that every form of a set of rows, and every way to unite them, is used.
#[test]
fn many_rows_match_as_few_do() {
    const COUNT: u32 = 30_000;
    let node = |row: u32| {
        let mixed = row.wrapping_mul(2_654_435_761) >> 7;
        let facts = json!({
            "two": if mixed.is_multiple_of(2) { "x" } else { "y" }, "eight": mixed % 8, "many": format!("v{:03}", mixed % 400),
            "unique": format!("0{row}-{mixed}"), "version": format!("{}.{}", mixed % 7, mixed % 13),
            "list": vec![mixed % 3, mixed % 5], "signed": format!("{:+}", (mixed % 50) as i32 - 25),
        });
        Node::new(facts, if mixed.is_multiple_of(3) { &["web"] } else { &[] })
    };
    let nodes: Vec<Node> = (0..COUNT).map(node).collect();
    let mut index = Index::new();
    for (row, node) in (0..).zip(&nodes) {
        index.insert(Row(row), node.described());
    }
    for text in [
        "two = x",
        "two != x",
        "many ~ /0/",
        "many !~ /0/",
        "many ~ /v[0-2]/",
        "many !~ /v[0-2]/",
        "unique ~ /77/",
        "unique !~ /77/",
        "two = x and many ~ /1$/ and eight >= 6",
        "many = v001 and unique ~ /9/",
        "eight < 3",
        "version >= 3.4",
        "version < 3.10 and two = x",
        "not many ~ /0/",
        "list = 2",
        "list != 2 and many ~ /5/",
        "list > 1",
        "class = web",
        "class != web",
        "class !~ /w/",
        "many = v001 or unique = 05-6",
        "has unique",
        "unique = 01-20733825",
        "many in (v001, v002, v399)",
        "signed < 3",
        "signed >= -5",
        "signed > 7",
        "signed = 7",
        "signed = -7",
        "unique > 0.5",
    ] {
        let filter = Filter::parse(text).unwrap();
        let expected = set((0..COUNT).filter(|row| {
            let node = &nodes[*row as usize];
            filter.matches(node.facts.as_value(), &node.classes)
        }));
        assert_eq!(index.matching(&filter), expected, "{text}");
    }
    for row in 0..COUNT {
        index.remove(Row(row));
    }
    assert!(index.rows().is_empty());
    assert_eq!(index.paths().count(), 0);
}

proptest! {
    #[test]
    fn sets_of_rows_are_sets(changes in prop::collection::vec((any::<bool>(), 0u32..3000), 1..4000)) {
        let (mut rows, mut model) = (Rows::One(0), BTreeSet::from([0]));
        for (insert, row) in changes {
            if insert {
                rows.insert(row);
                model.insert(row);
            } else if model.len() > 1 {
                prop_assert!(!model.remove(&row) || !rows.remove(row));
            }
            prop_assert_eq!(rows.len(), model.len() as u64);
        }
        prop_assert_eq!(union(&[&rows], 3000), set(model));
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            "x", "y", "xy", "", "true", "7", "007", "+7", "-3", "8", "7.1", "7.10", "7.01", "7.2", "1.0~b", "7.1a"
        ])
        .prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![
            json!(7),
            json!(7.0),
            json!(7.5),
            json!(-3),
            json!(8),
            json!(u64::MAX),
            json!(1e300)
        ]),
        Just(Value::Null),
    ]
}

fn facts() -> impl Strategy<Value = Value> {
    let value = scalar().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[abc]", value, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
}

pub(in crate::broker) fn node() -> impl Strategy<Value = Node> {
    let classes = prop::sample::subsequence(vec!["web", "db", "x"], 0..=3);
    let modules = prop::sample::subsequence(vec!["service", "node"], 0..=2);
    (facts(), classes, modules).prop_map(|(facts, classes, modules)| Node {
        modules: modules.into_iter().map(|name| (name.to_owned(), "00".to_owned())).collect(),
        ..Node::new(facts, &classes)
    })
}

pub(in crate::broker) fn filter() -> impl Strategy<Value = String> {
    let path = || prop::sample::select(vec!["a", "b", "c", "a.a", "a.b", "b.a", "c.b.a", "d"]);
    let op = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let value = || {
        prop::sample::select(vec![
            "x",
            "xy",
            "''",
            "true",
            "7",
            "007",
            "+7",
            "-3",
            "-4",
            "7.1",
            "7.10",
            "7.5",
            "7.0",
            "1e300",
            ".5",
            "18446744073709551615",
            "1.0",
        ])
    };
    let regex = || prop::sample::select(vec!["/x/", "/^7/", "/./", "/^$/", "/true/", "/[.]/"]);
    let tilde = || prop::sample::select(vec!["~", "!~"]);
    let predicate = prop_oneof![
        path().prop_map(|path| format!("has {path}")),
        (path(), op, value()).prop_map(|(path, op, value)| format!("{path} {op} {value}")),
        (path(), prop::collection::vec(value(), 1..4))
            .prop_map(|(path, values)| format!("{path} in ({})", values.join(","))),
        (path(), tilde(), regex()).prop_map(|(path, tilde, regex)| format!("{path} {tilde} {regex}")),
        (prop::sample::select(vec!["=", "!="]), prop::sample::select(vec!["web", "db", "we"]))
            .prop_map(|(op, name)| format!("class {op} {name}")),
        (tilde(), regex()).prop_map(|(tilde, regex)| format!("class {tilde} {regex}")),
    ];
    predicate.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("not ({inner})")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" and "))),
            prop::collection::vec(inner, 2..4).prop_map(|parts| format!("({})", parts.join(" or "))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn index_and_evaluator_agree(
        changes in prop::collection::vec((0u32..6, prop::option::weighted(0.8, node()), any::<bool>()), 1..16),
        filters in prop::collection::vec(filter(), 1..8),
    ) {
        let (mut index, mut nodes) = (Index::new(), BTreeMap::<u32, Node>::new());
        for (row, node, in_place) in changes {
            match (node, nodes.remove(&row)) {
                (None, _) => index.remove(Row(row)),
                (Some(node), Some(before)) if in_place => {
                    index.update(Row(row), before.described(), node.described());
                    nodes.insert(row, node);
                }
                (Some(node), _) => {
                    index.insert(Row(row), node.described());
                    nodes.insert(row, node);
                }
            }
        }
        prop_assert_eq!(index.rows(), &set(nodes.keys().copied()));
        for text in filters {
            let filter = Filter::parse(&text).unwrap();
            let expected = nodes.iter().filter(|(_, node)| {
                filter.evaluate(&Document::new(node.facts.as_value(), &node.classes)) == Ternary::Yes
            });
            prop_assert_eq!(index.matching(&filter), set(expected.map(|(row, _)| *row)), "{}", text);
        }
        // A fresh index of the same nodes has the same paths and reports: nothing is left behind, nothing is lost.
        let mut fresh = Index::new();
        for (row, node) in &nodes {
            fresh.insert(Row(*row), node.described());
        }
        let paths = |index: &Index| index.paths().collect::<BTreeMap<_, _>>();
        prop_assert_eq!(paths(&index), paths(&fresh));
        for path in paths(&fresh).keys() {
            prop_assert_eq!(index.report(path, index.rows()), fresh.report(path, fresh.rows()));
        }
        let summary = index.summarise(&BrokerName::parse("a").unwrap());
        prop_assert_eq!(&summary, &fresh.summarise(&BrokerName::parse("a").unwrap()));
        prop_assert_eq!(summary.paths.len(), paths(&fresh).len());
        for (path, known) in &summary.paths {
            let (report, known) = (index.report(&Path::parse(path).unwrap(), index.rows()), known.as_ref().unwrap());
            prop_assert_eq!((known.bare, known.lacking), (report.without_value > 0, report.missing > 0), "{}", path);
            prop_assert_eq!(known.values.as_ref().map(Vec::len), Some(report.values.len()), "{}", path);
        }
        for module in ["service", "node"] {
            let having = nodes.iter().filter(|(_, node)| node.modules.contains_key(module));
            prop_assert_eq!(index.with_module(module), set(having.map(|(row, _)| *row)));
        }
    }
}

proptest! {
    /// Whichever way is taken, the rows of a page are those of the next ids.
    #[test]
    fn pages_are_in_the_order_of_ids(
        count in 1u8..60,
        chosen in prop::collection::vec(any::<bool>(), 60),
        after in prop::option::of(0u8..60),
        most in 1usize..9,
    ) {
        let text = format!("[[collective]]\nname = \"p\"\n[users.a]\nkind = \"agent\"\npassword = \"{PHC}\"\n");
        let policy = Policy::parse(&text).expect("a policy");
        let mut nodes = Nodes::new("noc1", Memory { gone_for: 0, gone_most: 0 });
        let id = |number: u8| NodeId::of(&NodeKey::new([number; 32]));
        let mut by_id = BTreeMap::new();
        for number in 0..count {
            let hello = NodeHello { id: id(number), number: 1, clock_skew: 0 };
            let user = policy.user("a").expect("a user");
            let row = nodes.connect(hello, SessionId(number.into()), user, Now { tick: 0, unix: 0 });
            by_id.insert(id(number), row);
        }
        let rows: RoaringBitmap = by_id.values().copied().filter(|row| chosen[*row as usize]).collect();
        let after = after.map(id);
        let expected = by_id.iter().filter(|(id, row)| after.is_none_or(|after| **id > after) && rows.contains(**row));
        let expected: Vec<u32> = expected.map(|(_, row)| *row).take(most).collect();
        prop_assert_eq!(nodes.page(&rows, after, most), expected);
    }
}

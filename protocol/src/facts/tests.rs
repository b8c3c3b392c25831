//! Do facts keep their limits, and do their differences lead where they should?

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn facts(value: Value) -> Facts {
    Facts::from_value(value).unwrap()
}

#[test]
fn limits() {
    assert_eq!(Facts::parse(b"[]"), Err(FactsError::NotAnObject("the facts document")));
    assert!(matches!(Facts::parse(b"{"), Err(FactsError::Json(_))));
    assert!(matches!(Facts::parse(&vec![b' '; MAX_BYTES + 1]), Err(FactsError::TooLarge(..))));
    assert!(matches!(Facts::from_value(json!({"a": "x".repeat(MAX_BYTES)})), Err(FactsError::TooLarge(..))));
    assert!(matches!(Facts::from_value(json!({"a\nb": 1})), Err(FactsError::Name(..))));

    let nested = |depth: usize| (1..depth).fold(json!({}), |inner, _| json!({ "a": inner }));
    assert!(Facts::from_value(nested(MAX_DEPTH)).is_ok());
    assert_eq!(Facts::from_value(nested(MAX_DEPTH + 1)), Err(FactsError::TooDeep));
    let hostile = "[".repeat(100_000);
    assert!(Facts::parse(format!("{{\"a\":{hostile}").as_bytes()).is_err());

    let wide = |count: usize| Value::Object((0..count).map(|i| (format!("f{i}"), json!(i))).collect());
    assert!(Facts::from_value(wide(MAX_PATHS)).is_ok());
    assert_eq!(Facts::from_value(wide(MAX_PATHS + 1)), Err(FactsError::TooManyPaths));
    assert!(Facts::from_value(json!({ "list": vec![1; 10_000] })).is_ok(), "a list is one path");
}

#[test]
fn null_is_missing() {
    assert_eq!(facts(json!({"a": null, "b": [null, {"c": null}]})), facts(json!({"b": [{}]})));
}

#[test]
fn the_hash_does_not_depend_on_spelling() {
    let a = Facts::parse(br#"{"b": 1, "a": "\u0041"}"#).unwrap();
    let b = Facts::parse(br#"{"a":"A","b":1,"c":null}"#).unwrap();
    assert_eq!(a.hash(), b.hash());
    assert_eq!(a.hash().len(), 64);
}

#[test]
fn what_is_laid_over_wins() {
    let reported = facts(json!({"customer": "liar", "os": {"family": "Debian", "name": "x"}, "list": [1, 2]}));
    let asserted = facts(json!({"customer": "acmeinc", "os": {"name": "y"}, "list": [3]}));
    let effective = json!({"customer": "acmeinc", "os": {"family": "Debian", "name": "y"}, "list": [3]});
    assert_eq!(reported.overlay(&asserted).as_value(), &effective);
}

#[test]
fn redaction_leaves_nothing_behind() {
    let hidden: Vec<PathPattern> =
        ["hostname", "network.**", "ipaddress*"].iter().map(|p| PathPattern::parse(p).unwrap()).collect();
    let document = facts(json!({
        "hostname": {"short": "web1"}, "network": {"eth0": {"mac": "x"}}, "ipaddress_eth0": "10.0.0.1",
        "os": {"family": "Debian"}, "empty": {}
    }));
    let shown = document.redact(|path| hidden.iter().any(|pattern| pattern.matches(path)));
    assert_eq!(shown, json!({"os": {"family": "Debian"}, "empty": {}}));
    let nested = facts(json!({"os": {"secret": 1}, "disks": [{"serial": "a"}, {"serial": "b"}]}));
    assert_eq!(nested.redact(|path| ["os.secret", "disks.serial"].contains(&path.to_string().as_str())), json!({}));
}

#[test]
fn lists_are_walked_through_and_objects_announce_themselves() {
    let document = facts(json!({"os": {"family": "Debian"}, "disks": [{"name": "sda"}, {"name": "sdb"}], "none": []}));
    let found: Vec<String> = leaves(document.as_value())
        .into_iter()
        .map(|(path, leaf)| match leaf {
            Leaf::Present => format!("{path}"),
            Leaf::Value(value) => format!("{path}={value}"),
        })
        .collect();
    let expected = ["disks", "disks", "disks.name=sda", "disks", "disks.name=sdb", "none", "os", "os.family=Debian"];
    assert_eq!(found, expected);
}

/// Small documents with few names, so that random pairs overlap.
fn document() -> impl Strategy<Value = Facts> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[a-d]", value, 0..4).prop_map(|m| facts(Value::Object(m.into_iter().collect())))
}

proptest! {
    #[test]
    fn a_difference_leads_from_old_to_new(old in document(), new in document()) {
        let patch = old.diff(&new);
        let merged = old.merge_patch(&patch).unwrap();
        prop_assert_eq!(&merged, &new);
        prop_assert_eq!(merged.hash(), new.hash());
        prop_assert_eq!(old.diff(&old), json!({}));
    }

    #[test]
    fn text_and_back_is_the_same_document(document in document()) {
        let read = Facts::parse(document.as_value().to_string().as_bytes()).unwrap();
        prop_assert_eq!(read.hash(), document.hash());
        prop_assert_eq!(read, document);
    }

    #[test]
    fn an_overlay_contains_all_that_is_laid_over(under in document(), over in document()) {
        let both = under.overlay(&over);
        prop_assert_eq!(both.overlay(&over), both.clone());
        prop_assert!(both.diff(&both.overlay(&over)).as_object().unwrap().is_empty());
    }

    #[test]
    fn redaction_by_nothing_changes_only_nothing(document in document()) {
        prop_assert_eq!(&document.redact(|_| false), document.as_value());
        prop_assert_eq!(document.redact(|_| true), json!({}));
    }
}

#[test]
fn negative_zero_is_zero_so_that_hashes_agree() {
    let zero = |text: &str| Facts::parse(text.as_bytes()).expect("facts");
    assert_eq!(zero(r#"{"a":-0.0,"b":[-0.0]}"#).hash(), zero(r#"{"a":0.0,"b":[0.0]}"#).hash());
}

#[test]
fn values_of_lists_count() {
    let list: Vec<u32> = (0..20_000).collect();
    assert!(matches!(Facts::from_value(json!({ "a": list })), Err(FactsError::TooManyPaths)));
}

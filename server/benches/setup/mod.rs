//! Which nodes are measured? 20 facts each, of few, many and unique values. Shared by all that measure the index.

use muster_protocol::facts::Facts;
use muster_server::broker::nodes::Described;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Three predicates, one of them a regex over 5,000 values, that 1 % of the nodes match.
pub(crate) const THREE_PREDICATES: &str = r"eight0 = 3 and n200_0 < 16 and role0 ~ /-\d*[0-9]*-fr/";

/// What is the same for all nodes.
pub(crate) struct Alike {
    pub(crate) classes: BTreeSet<String>,
    modules: BTreeMap<String, String>,
}

impl Alike {
    /// Two classes, two modules.
    pub(crate) fn new() -> Alike {
        let text = |text: &str| text.to_owned();
        Alike {
            classes: BTreeSet::from([text("base"), text("webserver")]),
            modules: BTreeMap::from([(text("node"), text("00")), (text("service"), text("01"))]),
        }
    }

    /// A node with these facts.
    pub(crate) fn described<'a>(&'a self, facts: &'a Facts) -> Described<'a> {
        Described { facts, classes: &self.classes, modules: &self.modules }
    }
}

/// 20 facts; values are spread over rows by a hash, each path by its own. `eight` and `n200` are numbers from 0, `role` has 5,000
/// texts.
pub(crate) fn facts(row: u32) -> Facts {
    let mut facts = Map::new();
    let mut put = |name: String, value: Value| facts.insert(name, value);
    let pick = |path: u32, values: u32| mix(row ^ mix(path)) % values;
    for path in 0..4 {
        put(format!("two{path}"), json!(if pick(path, 2) == 0 { "a" } else { "b" }));
        put(format!("eight{path}"), json!(pick(10 + path, 8)));
        put(format!("n200_{path}"), json!(pick(20 + path, 200)));
    }
    put("text200".into(), json!(format!("customer-{:03}", pick(30, 200))));
    put("version0".into(), json!(format!("{}.{}", pick(40, 5), pick(41, 200))));
    for path in 0..4 {
        put(format!("role{path}"), json!(format!("role-{:04}-frontend", pick(50 + path, 5000))));
    }
    put("unique0".into(), json!(format!("{row:07x}-x")));
    put("unique1".into(), json!(u64::from(mix(row)) << 20 | u64::from(row)));
    Facts::from_value(Value::Object(facts)).unwrap_or_default()
}

/// A change of three facts.
pub(crate) fn delta(step: u32) -> Value {
    json!({ "role0": format!("role-{:04}-frontend", step % 5000), "eight1": step % 8, "unique0": format!("new{step}") })
}

/// A hash with good low bits (murmur3's finalizer).
pub(crate) fn mix(value: u32) -> u32 {
    let value = (value ^ (value >> 16)).wrapping_add(0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let value = (value ^ (value >> 13)).wrapping_mul(0xc2b2_ae35);
    value ^ (value >> 16)
}

//! How fast does a broker with a million nodes answer? Filters, deltas and memory of the index, on rows in no order.
//!
//! `cargo bench -p muster-server --bench index [-- NODES]`; 1,000,000 unless told.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program")]

use muster_protocol::facts::Facts;
use muster_protocol::filter::Filter;
use muster_server::broker::nodes::{Described, Index, Row};
use roaring::RoaringBitmap;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

fn main() {
    let nodes: u32 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    let (classes, modules) = (BTreeSet::from(["web".to_owned()]), BTreeMap::from([("service".to_owned(), "x".to_owned())]));
    let mut index = Index::new();
    let before = resident();
    let started = Instant::now();
    for row in 0..nodes {
        let facts = facts(row, 0);
        index.insert(Row(row), Described { facts: &facts, classes: &classes, modules: &modules });
    }
    println!("{nodes} nodes, 20 facts each, indexed in {:.1} s, {} bytes of index a node", started.elapsed().as_secs_f64(), (resident() - before) / u64::from(nodes));

    // f5000 has values v0000 to v4999; f200 has 200, f8 has 8, f2 has 2.
    for (name, filter) in [
        ("1 %", "f5000 ~ /^v0/ and f2 in (a0, a1) and f200 in (w0, w1, w2, w3, w4, w5, w6, w7, w8, w9)"),
        ("10 %", "f5000 ~ /^v0/ and f8 in (c0, c1, c2, c3) and f2 in (a0, a1)"),
        ("50 %", "f5000 ~ /[02468]$/ and f2 in (a0, a1) and f8 != x"),
        ("50 %, not", "not f5000 ~ /[02468]$/ and f2 in (a0, a1) and has f8"),
        ("regex on the unique path", "serial ~ /77$/"),
        ("unique path, narrowed to 1/200", "serial ~ /7$/ and f200 = w7"),
        ("one node by its serial", "serial = s000000077"),
        ("range of numbers, 50 %", "n200 >= 100"),
    ] {
        let filter = Filter::parse(filter).unwrap();
        let mut times: Vec<Duration> = Vec::new();
        let mut found = RoaringBitmap::new();
        for _ in 0..21 {
            let begun = Instant::now();
            found = index.matching(&filter);
            times.push(begun.elapsed());
        }
        let first = times[0];
        times.sort();
        let share = 100.0 * found.len() as f64 / f64::from(nodes);
        println!("{name:32} {:8} nodes ({share:5.2} %)  median {:9.1} us  first {:9.1} us", found.len(), micros(times[10]), micros(first));
    }

    let mut times = Vec::new();
    for step in 0..10_000u32 {
        let row = mix(step) as u32 % nodes;
        let (old, new) = (facts(row, 0), facts(row, 1));
        let (old, new) = (Described { facts: &old, classes: &classes, modules: &modules }, Described { facts: &new, classes: &classes, modules: &modules });
        let begun = Instant::now();
        index.update(Row(row), old, new);
        times.push(begun.elapsed());
        index.update(Row(row), new, old);
    }
    times.sort();
    println!("one node's delta (2 of 20 facts): median {:.2} us, 99th percentile {:.2} us", micros(times[5_000]), micros(times[9_900]));
}

/// 20 facts with 2, 8, 200, 5,000 and as many distinct values as there are nodes; `change` alters two of them.
fn facts(row: u32, change: u64) -> Facts {
    let value = |salt: u64, distinct: u64| mix64(u64::from(row) ^ (salt << 32)) % distinct;
    let mut facts = serde_json::Map::new();
    facts.insert("f2".into(), json!(format!("a{}", value(1, 2))));
    facts.insert("f8".into(), json!(format!("c{}", value(2, 8))));
    facts.insert("f200".into(), json!(format!("w{}", (value(3, 200) + change) % 200)));
    facts.insert("n200".into(), json!(value(4, 200)));
    facts.insert("f5000".into(), json!(format!("v{:04}", (value(5, 5000) + change) % 5000)));
    facts.insert("serial".into(), json!(format!("s{row:09}")));
    for (extra, distinct) in [2, 2, 8, 8, 8, 200, 200, 8, 2, 200, 8, 2, 200, 8].into_iter().enumerate() {
        facts.insert(format!("extra{extra}"), json!(format!("e{}", value(10 + extra as u64, distinct))));
    }
    Facts::from_value(Value::Object(facts)).unwrap()
}

/// A bijection that leaves no order behind (splitmix64's finisher).
fn mix64(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn mix(x: u32) -> u64 {
    mix64(u64::from(x) + 0x9e37_79b9_7f4a_7c15)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Resident set of this process, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

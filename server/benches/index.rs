//! How fast does the index answer, how fast does it change, and how much memory does a node take in it?
//!
//! `cargo bench -p muster-server --bench index`; `MUSTER_NODES=100000` for fewer nodes than a million.

#![allow(clippy::print_stdout, missing_docs)] // a benchmark speaks on stdout

mod setup;

use std::hint::black_box;
use std::time::{Duration, Instant};

use muster_protocol::facts::Path;
use muster_protocol::filter::Filter;
use muster_server::broker::nodes::{Index, Row};
use setup::{Alike, delta, facts, mix};

/// Filters by the share of nodes that they match.
const FILTERS: [(&str, &str); 8] = [
    ("1 %", setup::THREE_PREDICATES),
    ("1 %", r"eight0 = 3 and n200_0 < 32 and role0 ~ /[02468]-/"),
    ("10 %", r"two0 = a and n200_0 < 80 and role0 ~ /[02468]-/"),
    ("10 %", r"two0 = a and eight0 != 3 and role0 ~ /[0-2][13579]-front/"),
    ("50 %", r"eight0 < 7 and n200_0 < 164 and role0 ~ /[0-6]-front/"),
    ("50 %, half the values", r"eight0 >= 0 and n200_0 != 3 and role0 ~ /[02468]-/"),
    ("50 %, half, negated", r"eight0 >= 0 and n200_0 != 3 and role0 !~ /^role-\d\d\d[02468]/"),
    ("50 %, half, any case", r"eight0 >= 0 and n200_0 != 3 and role0 ~ /(?i)role-[0-9]+[02468]-/"),
];

/// Reported, without a target.
const OTHERS: [(&str, &str); 8] = [
    ("equality", "eight0 = 3"),
    ("range over 80 of 200 values", "n200_0 < 80"),
    ("regex over 5,000 values", "role0 ~ /[02468]-/"),
    ("equality on a unique path", "unique0 = 00001f4-x"),
    ("versions", "version0 >= 1.100"),
    ("regex on a unique path", "unique0 ~ /77/"),
    ("regex on a unique path, after equality", "role0 = role-0007-frontend and unique0 ~ /7/"),
    ("regex on a unique path, after 1 %", "eight0 = 3 and n200_0 < 16 and unique0 ~ /7/"),
];

fn main() {
    let count = std::env::var("MUSTER_NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let alike = Alike::new();

    let before = resident();
    let mut index = Index::new();
    let mut inserting = Duration::ZERO;
    for row in 0..count {
        let facts = facts(row);
        let start = Instant::now();
        index.insert(Row(row), alike.described(&facts));
        inserting += start.elapsed();
    }
    println!("{count} nodes, 20 facts, 2 classes, 2 modules each");
    println!("insert             {:>10.2} µs a node", micros(inserting) / f64::from(count));
    println!("resident memory    {:>10} bytes a node", (resident() - before) / u64::from(count));

    println!(
        "\n{:<40} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "three predicates, one regex", "matched", "best µs", "median µs", "p99 µs", "cold best", "cold µs"
    );
    for (name, text) in FILTERS {
        query(&index, name, text, 200);
    }
    println!("\n{:<40}", "others");
    for (name, text) in OTHERS {
        query(&index, name, text, 10);
    }

    let mut changing = Vec::new();
    for step in 0..20_000u32 {
        let row = mix(step) % count;
        let old = facts(row);
        let new = old.merge_patch(&delta(step)).unwrap_or_default();
        let start = Instant::now();
        index.update(Row(row), alike.described(&old), alike.described(&new));
        changing.push(start.elapsed());
        // Back again, so that `facts(row)` stays true.
        index.update(Row(row), alike.described(&new), alike.described(&old));
    }
    changing.sort_unstable();
    println!(
        "\na delta of 3 facts {:>10.2} µs median, {:.2} µs p99",
        micros(changing[changing.len() / 2]),
        micros(changing[changing.len() * 99 / 100])
    );

    for path in ["eight0", "role0", "unique0"] {
        let path = Path::parse(path).expect("a path");
        let start = Instant::now();
        black_box(index.report(&path, index.rows()));
        println!("report of {path:<9} {:>9.0} µs", micros(start.elapsed()));
    }
}

/// Warm: the same filter again and again. Cold: parsed anew (so that the regex has no automaton yet; parsing itself
/// is not counted, it happens at the edge), after the processor's caches were swept.
fn query(index: &Index, name: &str, text: &str, rounds: usize) {
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{}", error.render(text)));
    let time = |filter: &Filter| {
        let start = Instant::now();
        black_box(index.matching(filter));
        start.elapsed()
    };
    let mut cold = Vec::new();
    let mut sweep = vec![0u64; 8 << 20];
    for round in 0..rounds.min(20) as u64 {
        sweep.iter_mut().for_each(|word| *word = word.wrapping_add(round));
        black_box(&sweep);
        let fresh = Filter::parse(text).unwrap_or_else(|error| panic!("{}", error.render(text)));
        cold.push(time(&fresh));
    }
    let mut warm: Vec<Duration> = (0..rounds).map(|_| time(&filter)).collect();
    warm.sort_unstable();
    cold.sort_unstable();
    let share = 100.0 * index.matching(&filter).len() as f64 / index.rows().len() as f64;
    println!(
        "{name:<40} {share:>7.2} % {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>10.0}   {text}",
        micros(warm[0]),
        micros(warm[warm.len() / 2]),
        micros(warm[warm.len() * 99 / 100]),
        micros(cold[0]),
        micros(cold[cold.len() / 2]),
    );
}

/// Bytes of memory that the process holds.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

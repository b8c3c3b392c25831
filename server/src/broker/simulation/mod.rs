//! Does the mesh keep its word, whatever happens in whatever order? Many real brokers in one process, and every choice from a seed.
//!
//! Time is a number that the run moves, links are queues with delays, and what must be true is computed by brute force from what
//! the run itself did. A failing seed prints itself: `MUSTER_SEED=123 cargo test -p muster-server --lib simulation` plays it again,
//! `MUSTER_SEEDS=20000` runs more of them.

mod actors;
mod agreement;
mod aim;
mod charter;
mod clerk;
pub(super) mod dice;
mod edge;
mod ledger;
mod scenarios;
mod site;
mod story;
mod truth;
mod wires;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

pub(super) const PHC: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$7HqG0VZ1c5mTn5rTzxS8mGv5Q5b6X1mM9pV0q2m5m0Q";

const POLICY: &str = r#"authority = "b1"
asserted = ["customer"]
display = ["customer", "role"]
[[collective]]
name = "prod"
[users.noc]
kind = "operator"
password = "PHC"
groups = ["noc"]
[users.node-acme]
kind = "agent"
password = "PHC"
groups = ["agents"]
facts = { customer = "acmeinc" }
[users.node-globex]
kind = "agent"
password = "PHC"
groups = ["agents"]
facts = { customer = "globex" }
[groups.noc]
all = true
[groups.agents]
[[acl]]
destination = "/topic/prod.*.*"
read = ["agents"]
write = ["noc"]
[[acl]]
destination = "/topic/news.>"
read = ["noc"]
write = ["noc"]
[[acl]]
destination = "/muster/>"
write = ["noc"]
[[acl]]
destination = "/muster/facts"
write = ["agents"]
"#;

/// Seeds that are always run.
const SEEDS: u64 = 1_000;
/// Tests that share them, so that they run at once.
const PARTS: u64 = 8;

/// The first policy of a cluster of so many brokers, b1, b2, ….
fn policy_text(brokers: usize) -> String {
    let list: String = (1..=brokers).map(|n| format!("[brokers.b{n}]\n")).collect();
    POLICY.replace("PHC", PHC) + &list
}

pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// The seeds of one of the tests.
fn part(part: u64) {
    let seeds: Vec<u64> = match number("MUSTER_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("MUSTER_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let mut failed = Vec::new();
    for seed in seeds.into_iter().filter(|seed| seed % PARTS == part) {
        if let Err(report) = play(seed) {
            failed.push((seed, report));
        }
    }
    let Some((_, report)) = failed.first() else { return };
    let firsts = failed.iter().filter_map(|(_, report)| report.lines().next());
    let firsts: Vec<String> = firsts.map(|line| line.chars().take(300).collect()).collect();
    panic!("{} seeds fail:\n{}\n\nthe first:\n{report}", failed.len(), firsts.join("\n"));
}

/// One seed; `Err` is the report.
fn play(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    let result = catch_unwind(AssertUnwindSafe(|| story::run(&mut world)));
    let why = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => why,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "a panic".into())
        }
    };
    let lines = number("MUSTER_LINES").unwrap_or(60);
    Err(format!("MUSTER_SEED={seed} at {} ms: {why}\n{}", world.now, world.tell(lines as usize)))
}

macro_rules! parts {
    ($($name:ident = $part:literal,)*) => { $(#[test] fn $name() { part($part); })* };
}

parts! {
    seeds_0 = 0,
    seeds_1 = 1,
    seeds_2 = 2,
    seeds_3 = 3,
    seeds_4 = 4,
    seeds_5 = 5,
    seeds_6 = 6,
    seeds_7 = 7,
}

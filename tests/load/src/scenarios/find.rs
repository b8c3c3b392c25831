//! How long does an operator wait? `muster` from process start to exit, and a question on a connection that is open.

use crate::operator::Muster;
use crate::options::Scenario;
use crate::population::{THREE_PREDICATES, slice_filter};
use crate::report::Row;
use crate::run::Run;
use crate::times::{Spread, ms, now};
use anyhow::Result;

pub(super) async fn run(run: &mut Run) -> Result<()> {
    let (all, some) = (run.agents(), run.population.three_predicates());
    let tenth = run.population.slice(10).count();
    let found = |arguments: &'static [&'static str], count: usize| (arguments, Expect::Count(count));
    let commands = [
        ("muster find --count, three predicates", found(&["find", "--count", "-w", THREE_PREDICATES], some)),
        ("muster find --count, all", found(&["find", "--count", "-w", "slice.d1 = 0"], all)),
        ("muster ping, all", (&["ping", "--json", "-w", "slice.d1 = 0"], Expect::Replies(all))),
        ("muster ping, 10 %", (&["ping", "--json", "-w", "slice.d10 = 0"], Expect::Replies(tenth))),
    ];
    for (what, (arguments, expect)) in commands {
        processes(run, what, arguments, &expect).await?;
        run.ending.check()?;
    }
    for (what, target, expect) in [
        ("in protocol, three predicates", THREE_PREDICATES.to_owned(), some),
        ("in protocol, 0.1 %", slice_filter(1_000), run.population.slice(1_000).count()),
    ] {
        in_protocol(run, what, &target, expect as u64).await?;
    }
    Ok(())
}

/// What must come of a command.
enum Expect {
    /// This number, and nothing else.
    Count(usize),
    /// Everybody ended in `ok`.
    Replies(usize),
}

impl Expect {
    /// What is wrong with what it said, if anything.
    fn miss(&self, code: Option<i32>, stdout: &str, stderr: &str) -> Option<String> {
        // Nothing found is an answer as well, with an exit code of its own.
        let (Expect::Count(count) | Expect::Replies(count)) = self;
        let expected = if *count == 0 { Some(1) } else { Some(0) };
        if code != expected {
            return Some(format!("exit code {code:?}: {stderr}"));
        }
        let seen = match self {
            Expect::Count(_) => stdout.parse().ok(),
            Expect::Replies(_) => serde_json::from_str::<serde_json::Value>(stdout)
                .ok()
                .map(|document| document["replies"].as_array().map_or(0, Vec::len)),
        };
        (seen != Some(*count)).then(|| format!("{seen:?} of {count}"))
    }
}

async fn processes(run: &mut Run, what: &str, arguments: &[&str], expect: &Expect) -> Result<()> {
    let muster = Muster::of(&run.cluster);
    let rounds = 4 * run.options.rounds as usize;
    let (mut times, mut missing) = (Vec::new(), None);
    // The first one is not counted: it brings the program into memory.
    for round in 0..=rounds {
        let Ok(said) = run.ending.unless(muster.run(arguments)).await else { break };
        let said = said?;
        missing = missing.or_else(|| expect.miss(said.code, &said.stdout, &said.stderr));
        if round > 0 {
            times.push(said.took);
        }
    }
    let mut row = Row::new(Scenario::Find, what, rounds).times(Spread::of(times));
    row.missing = missing.or(row.missing);
    run.rows.push(row);
    Ok(())
}

async fn in_protocol(run: &mut Run, what: &str, target: &str, expect: u64) -> Result<()> {
    let mut operator = run.operator().await?;
    let rounds = 20 * run.options.rounds as usize;
    let (mut times, mut missing) = (Vec::new(), None);
    for round in 0..=rounds {
        let start = now();
        let Ok(found) = run.ending.unless(operator.find(target)).await else { break };
        let took = ms(start, now());
        let (count, without) = found?;
        if (count, without) != (expect, 0) {
            missing = Some(format!("{count} of {expect}, without {without} broker(s)"));
        }
        if round > 0 {
            times.push(took);
        }
    }
    let mut row = Row::new(Scenario::Find, what, rounds).times(Spread::of(times));
    row.missing = missing.or(row.missing);
    run.rows.push(row);
    Ok(run.ending.check()?)
}

//! What do agents cost that do nothing? Memory of a broker after the storm, and CPU for their heart-beats.

use crate::machine::Usage;
use crate::options::Scenario;
use crate::report::{Memory, Row};
use crate::run::Run;
use crate::times::{ms, now};
use anyhow::Result;
use std::time::Duration;

/// What a storm leaves to be done is done by then.
const SETTLE: Duration = Duration::from_secs(5);

/// By this name it stands among what else is to be known.
pub(crate) const BROKER_CPU: &str = "broker CPU, % of a core";

pub(super) async fn run(run: &mut Run) -> Result<()> {
    let settled = run.pass(SETTLE).await;
    let meter = run.meter().await?;
    let (window, start) = (run.options.window(), now());
    // Also if the run ends here: what the agents take is known.
    let passed = match settled {
        Ok(()) => run.pass(window).await,
        ended => ended,
    };
    let passed_ms = ms(start, now()).max(1.0);
    let costs = run.costs(&meter).await?;
    let idle = Usage::of_all(&run.cluster.processes()).resident;
    let agents = run.agents();
    let per_agent = idle.saturating_sub(run.empty) as f64 / agents as f64;
    let what = if run.bare.is_some() { "rest" } else { "heart-beats" };
    let mut row = Row::new(Scenario::Idle, format!("{} s of {what}", window.as_secs()), agents);
    row.seen = agents;
    let percent = costs.broker_cpu * 100_000.0 / passed_ms;
    row.more.insert(BROKER_CPU, ((percent * 100.0).round() / 100.0).into());
    let generators = Usage::of_all(&run.crew.processes()).resident / agents as u64;
    row.more.insert("resident set of the generators for an agent, bytes", generators.into());
    row.missing = match (&passed, costs.met.is_empty()) {
        (Err(_), _) => Some("the window was not over".into()),
        (Ok(()), false) => Some("not all agents were idle".into()),
        (Ok(()), true) => None,
    };
    row.costs = Some(costs);
    row.memory = Some(Memory { empty: run.empty, idle, peak: run.peak, per_agent });
    run.rows.push(row);
    passed
}

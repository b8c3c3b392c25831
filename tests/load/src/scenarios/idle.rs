//! What do agents cost that do nothing? Memory of a broker after the storm, and CPU for their heart-beats.

use crate::machine::Usage;
use crate::options::Scenario;
use crate::report::{Memory, Row};
use crate::run::Run;
use anyhow::Result;
use std::time::Duration;

/// What a storm leaves to be done is done by then.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) async fn run(run: &mut Run) -> Result<()> {
    run.pass(SETTLE).await?;
    let meter = run.meter().await?;
    let window = run.options.window();
    let passed = run.pass(window).await;
    let costs = run.costs(&meter).await?;
    let idle = Usage::of_all(&run.cluster.processes()).resident;
    let agents = run.agents();
    let per_agent = idle.saturating_sub(run.empty) as f64 / agents as f64;
    let mut row = Row::new(Scenario::Idle, format!("{} s of heart-beats", window.as_secs()), agents);
    row.seen = agents;
    let percent = costs.broker_cpu * 100.0 / window.as_secs_f64();
    row.more.insert("broker CPU, % of a core", format!("{percent:.2}").into());
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

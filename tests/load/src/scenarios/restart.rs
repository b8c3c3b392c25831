//! How long until everybody is back? A broker is killed and started again; its agents come by themselves, with their tokens.

use super::probes::Probes;
use super::storm;
use crate::options::Scenario;
use crate::orders::Order;
use crate::run::Run;
use crate::times::now;
use anyhow::Result;

/// The broker that is killed.
const FIRST: usize = 0;

pub(super) async fn run(run: &mut Run) -> Result<()> {
    again(run, Scenario::Restart).await
}

/// The same, whatever else is under way.
pub(super) async fn again(run: &mut Run, scenario: Scenario) -> Result<()> {
    run.crew.tell(&Order::Watch { brokers: vec![FIRST] }, &run.ending).await?;
    let meter = run.meter().await?;
    run.cluster.kill(FIRST).await;
    let start = now();
    run.cluster.start_one(FIRST, &run.ending).await?;
    let probes = Probes::start(run);
    let ended = storm::end(run, scenario, "back", start, &meter).await;
    probes.end(run, scenario).await;
    ended
}

//! What is done, and what of it becomes a row?

mod churn;
mod find;
mod flood;
pub(crate) mod idle;
mod probes;
mod restart;
mod scatter;
mod storm;
pub(crate) mod stream;

use crate::options::Scenario;
use crate::run::Run;
use anyhow::Result;

/// Runs one. What was seen before it ended is in the rows, however it ended.
pub(crate) async fn run(scenario: Scenario, run: &mut Run) -> Result<()> {
    run.note(scenario.name());
    match scenario {
        Scenario::Storm => storm::run(run).await,
        Scenario::Idle => idle::run(run).await,
        Scenario::Find => find::run(run).await,
        Scenario::Scatter => scatter::run(run).await,
        Scenario::Churn => churn::run(run).await,
        Scenario::Stream => stream::run(run).await,
        Scenario::Restart => restart::run(run).await,
        Scenario::Flood => flood::run(run).await,
    }?;
    Ok(run.ending.check()?)
}

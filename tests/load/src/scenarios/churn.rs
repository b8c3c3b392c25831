//! What do changing facts cost? Deltas at a given rate, and how long each waits until the broker has it.

use crate::options::Scenario;
use crate::orders::{Answer, Order};
use crate::report::Row;
use crate::run::Run;
use crate::times::Spread;
use anyhow::Result;

pub(super) async fn run(run: &mut Run) -> Result<()> {
    let meter = run.meter().await?;
    let (window, rate, agents) = (run.options.window(), run.options.deltas, run.population.agents);
    // Each generator sends its agents' part.
    let parts: Vec<u32> = run
        .shares
        .iter()
        .map(|share| (u64::from(rate) * u64::from(share.count) / u64::from(agents)).max(1) as u32)
        .collect();
    let for_ms = window.as_millis() as u64;
    let answers = run.crew.ask(|place| Order::Churn { per_second: parts[place], for_ms }, &run.ending).await?;
    let (mut times, mut lost) = (Vec::new(), 0);
    for answer in answers {
        if let Answer::Churned { acknowledged, unanswered } = answer {
            times.extend(acknowledged.into_iter().map(|waited| waited as f64 / 1e6));
            lost += unanswered;
        }
    }
    let meant = times.len() + lost;
    let per_second = times.len() as f64 / window.as_secs_f64();
    let mut row = Row::new(Scenario::Churn, format!("deltas, {rate} asked a second"), meant).times(Spread::of(times));
    row.per_second = Some(per_second);
    row.costs = Some(run.costs(&meter).await?);
    run.rows.push(row);
    Ok(())
}

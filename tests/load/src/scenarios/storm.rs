//! How long until everybody is in? TCP, TLS, login and registered facts of all agents.

use crate::flood::GOT_IN;
use crate::options::Scenario;
use crate::orders::{Answer, Order};
use crate::report::{Costs, Row};
use crate::run::{Meter, Run};
use crate::times::{Spread, ms, now};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long brokers may take until each knows of the nodes of all others.
const AGREE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn run(run: &mut Run) -> Result<()> {
    let meter = run.meter().await?;
    let start = begin(run).await?;
    if run.bare.is_some() {
        return end(run, Scenario::Storm, "connected", start, &meter).await;
    }
    end(run, Scenario::Storm, "registered", start, &meter).await?;
    run.ending.check()?;
    until_known(run).await
}

/// All agents connect; when they began to.
pub(super) async fn begin(run: &mut Run) -> Result<u64> {
    let brokers = (0..run.population.brokers as usize).collect();
    run.crew.tell(&Order::Watch { brokers }, &run.ending).await?;
    let start = now();
    let together = run.options.together as usize;
    run.crew.tell(&Order::Connect { together }, &run.ending).await?;
    Ok(start)
}

/// Waits until those who were away are back, and makes the rows of it.
pub(super) async fn end(run: &mut Run, scenario: Scenario, what: &str, start: u64, meter: &Meter) -> Result<()> {
    let (moments, away) = arrivals(run).await?;
    let meant = moments.len() + away;
    let costs = run.costs(meter).await?;
    let all = Spread::since(start, moments.iter().map(|[_, registered]| *registered));
    let mut row = Row::new(scenario, format!("{what}, since the begin"), meant).times(all);
    row.per_second = all.filter(|all| all.last > 0.0).map(|all| all.count as f64 * 1_000.0 / all.last);
    row.missing = mistaken(&costs).or(row.missing);
    row.costs = Some(costs);
    run.rows.push(row);
    let each = Spread::of(moments.iter().map(|[began, registered]| ms(*began, *registered)).collect());
    run.rows.push(Row::new(scenario, format!("{what}, since its own attempt"), meant).times(each));
    Ok(())
}

/// What no storm excuses: somebody in with a wrong password, or out with the right one.
fn mistaken(costs: &Costs) -> Option<String> {
    if costs.flood.contains_key(GOT_IN) {
        return Some("a wrong password got in".into());
    }
    costs.met.get("login: auth-failed").map(|count| format!("{count} logins refused with the right password"))
}

/// When each that was away began and was in, and how many are away still.
async fn arrivals(run: &mut Run) -> Result<(Vec<[u64; 2]>, usize)> {
    let within_ms = run.options.limit().as_millis() as u64;
    let answers = run.crew.ask(|_| Order::Arrivals { within_ms }, &run.ending).await?;
    let (mut all, mut still) = (Vec::new(), 0);
    for answer in answers {
        if let Answer::Arrivals { moments, away } = answer {
            all.extend(moments);
            still += away;
        }
    }
    Ok((all, still))
}

/// Waits until the first broker finds them all.
async fn until_known(run: &mut Run) -> Result<()> {
    let mut operator = run.operator().await?;
    let agents = u64::from(run.population.agents);
    let known = async {
        while operator.find("slice.d1 = 0").await? != (agents, 0) {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    let known = run.ending.unless(timeout(AGREE, known)).await?;
    known.with_context(|| format!("the brokers do not know of all agents within {} s", AGREE.as_secs()))?
}

//! Does a flood of wrong passwords keep anybody out? Beside it a connect storm, first ever, then a restart, with tokens; and an operator.

use super::probes::Probes;
use super::{restart, storm};
use crate::cluster::{OPERATOR, begin};
use crate::options::Scenario;
use crate::orders::Order;
use crate::plan::Share;
use crate::population::user_name;
use crate::run::Run;
use anyhow::Result;

pub(super) async fn run(run: &mut Run) -> Result<()> {
    run.crew.tell(&Order::Disconnect, &run.ending).await?;
    // A broker that has just started remembers no password that was right.
    for place in 0..run.population.brokers as usize {
        run.cluster.kill(place).await;
        run.cluster.start_one(place, &run.ending).await?;
    }
    // A process of its own, with no agents.
    let nobody = Share { first: 0, count: 0 };
    let told = begin(&run.cluster, run.population, nobody, None, &run.options);
    run.crew.join(Order::Begin(told), &run.ending).await?;
    let flooder = run.shares.len();
    let mut users: Vec<String> = (0..run.population.users).map(user_name).collect();
    users.push(OPERATOR.to_owned());
    let together = run.options.flood as usize;
    let meter = run.meter().await?;
    let flood = |place| if place == flooder { Order::Flood { together, users: users.clone() } } else { Order::Count };
    run.crew.ask(flood, &run.ending).await?;
    let probes = Probes::start(run);
    let start = storm::begin(run).await?;
    let ended = storm::end(run, Scenario::Flood, "registered", start, &meter).await;
    probes.end(run, Scenario::Flood).await;
    ended?;
    run.ending.check()?;
    restart::again(run, Scenario::Flood).await?;
    run.crew.tell(&Order::Calm, &run.ending).await
}

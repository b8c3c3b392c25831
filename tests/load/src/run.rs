//! What does a scenario have at hand? The cluster, the generators, what is metered, and the rows that it adds to.

use crate::cluster::{self, Cluster};
use crate::crew::Crew;
use crate::dialect::Dialect;
use crate::ending::Ending;
use crate::machine::{Usage, forget_peak};
use crate::operator::Operator;
use crate::options::{Options, Scenario};
use crate::orders::{Counts, Order};
use crate::plan::Share;
use crate::population::Population;
use crate::report::{Costs, Row};
use crate::requester::{Caller, Requester};
use crate::scenarios;
use crate::wire::Wire;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long brokers may take to link.
const LINKED: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A run that is under way.
pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) population: Population,
    pub(crate) cluster: Cluster,
    /// Not agents but bare sessions that speak this are connected.
    pub(crate) bare: Option<Dialect>,
    pub(crate) crew: Crew,
    /// The agents of each generator.
    pub(crate) shares: Vec<Share>,
    pub(crate) ending: Ending,
    /// Resident sets of the brokers before the first agent, bytes.
    pub(crate) empty: u64,
    /// The largest resident set of all brokers that was seen so far, bytes.
    pub(crate) peak: u64,
    pub(crate) rows: Vec<Row>,
}

/// Readings at the begin of what is metered.
#[derive(Debug)]
pub(crate) struct Meter {
    brokers: BTreeMap<u32, Usage>,
    generators: f64,
    counts: Counts,
}

impl Run {
    /// From the start of the brokers through all scenarios; they run on.
    pub(crate) async fn play(&mut self, scenarios: &[Scenario]) -> Result<()> {
        self.cluster.start(&self.ending).await?;
        if self.bare.is_none() {
            self.until_linked().await?;
        }
        for share in self.shares.clone() {
            let begin = cluster::begin(&self.cluster, self.population, share, self.bare, &self.options);
            self.crew.join(Order::Begin(begin), &self.ending).await?;
        }
        self.empty = Usage::of_all(&self.cluster.processes()).resident;
        self.peak = 0;
        for scenario in scenarios {
            scenarios::run(*scenario, self).await?;
        }
        Ok(())
    }

    /// Ends generators and brokers.
    pub(crate) async fn rest(&mut self) {
        self.crew.dismiss().await;
        self.cluster.stop().await;
    }

    /// How many agents there are.
    pub(crate) fn agents(&self) -> usize {
        self.population.agents as usize
    }

    /// Says what is under way, to who waits.
    pub(crate) fn note(&self, what: &str) {
        eprintln!("muster-load: {what}");
    }

    /// Begins to meter.
    pub(crate) async fn meter(&mut self) -> Result<Meter> {
        let brokers = self.cluster.processes().into_iter().map(|process| (process, Usage::of(process)));
        let brokers: BTreeMap<u32, Usage> = brokers.collect();
        self.peak = self.peak.max(brokers.values().map(|usage| usage.peak).sum());
        brokers.keys().for_each(|process| forget_peak(*process));
        Ok(Meter { brokers, counts: self.counts().await?, generators: self.generator_cpu() })
    }

    /// What it cost since. A broker that was started in the meantime has cost all that it did.
    pub(crate) async fn costs(&mut self, meter: &Meter) -> Result<Costs> {
        let generator_cpu = self.generator_cpu() - meter.generators;
        let (mut broker_cpu, mut broker_peak) = (0.0, 0);
        for process in self.cluster.processes() {
            let usage = Usage::of(process);
            broker_cpu += usage.cpu - meter.brokers.get(&process).map_or(0.0, |before| before.cpu);
            broker_peak += usage.peak;
        }
        self.peak = self.peak.max(broker_peak);
        let counts = self.counts().await?.since(&meter.counts);
        Ok(Costs { broker_cpu, generator_cpu, broker_peak, wire: counts.wire, met: counts.met, flood: counts.flood })
    }

    /// Of the generators and of this process.
    async fn counts(&mut self) -> Result<Counts> {
        let ours = Counts { wire: Wire::of_this_process(), ..Counts::default() };
        Ok(self.crew.counts(&self.ending).await?.plus(ours))
    }

    fn generator_cpu(&self) -> f64 {
        Usage::of_all(&self.crew.processes()).cpu + Usage::of(std::process::id()).cpu
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) -> Result<()> {
        Ok(self.ending.unless(sleep(time)).await?)
    }

    /// Waits until the first broker reaches all others.
    pub(crate) async fn until_linked(&self) -> Result<()> {
        let brokers = self.population.brokers as usize;
        if brokers == 1 {
            return Ok(());
        }
        let mut operator = self.operator().await?;
        let linked = async {
            while operator.reachable().await? < brokers {
                sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        let linked = self.ending.unless(timeout(LINKED, linked)).await?;
        linked.with_context(|| format!("the brokers are not linked within {} s", LINKED.as_secs()))?
    }

    /// Whoever asks those that are connected.
    pub(crate) async fn requester(&self) -> Result<Requester> {
        let Some(dialect) = self.bare else { return Ok(Requester::Operator(self.operator().await?.into())) };
        let caller = self.ending.unless(Caller::connect(&self.cluster, dialect, self.population)).await??;
        Ok(Requester::Bare(caller.into()))
    }

    /// An operator at the first broker.
    pub(crate) async fn operator(&self) -> Result<Operator> {
        self.ending.unless(Operator::connect(&self.cluster, self.cluster.addresses()[0])).await?
    }
}

//! What does a generator process do? It holds agents, and does what the lines on its standard input say, until that ends.

use crate::agent;
use crate::crowd::Crowd;
use crate::flood::flood;
use crate::listener;
use crate::orders::{Answer, Order};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often deltas are sent.
const TICK: Duration = Duration::from_millis(10);
/// How long the answers to the last deltas are awaited.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Runs until standard input ends.
pub(crate) async fn run() -> Result<()> {
    let mut orders = orders();
    let Some(Order::Begin(begin)) = orders.recv().await else { bail!("the first order says who the agents are") };
    let crowd = match Crowd::new(begin) {
        Ok(crowd) => Arc::new(crowd),
        Err(error) => return say(&Answer::Failed(format!("{error:#}"))),
    };
    say(&Answer::Done)?;
    let mut generator = Generator { crowd, agents: JoinSet::new(), flood: JoinSet::new(), next: 0 };
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Enough) {
            continue;
        }
        tokio::select! {
            () = generator.obey(&order) => {}
            // Only Enough comes while another order is under way; when the coordinator is gone, nothing does.
            next = orders.recv() => if next.is_none() { break },
        }
        say(&generator.answer(&order))?;
    }
    Ok(())
}

struct Generator {
    crowd: Arc<Crowd>,
    agents: JoinSet<()>,
    flood: JoinSet<()>,
    /// The agent whose facts change next, counted within the share.
    next: u32,
}

impl Generator {
    /// Does it; may be dropped when it takes too long.
    async fn obey(&mut self, order: &Order) {
        match order {
            Order::Watch { brokers } => self.crowd.watch(brokers),
            Order::Connect { together } => {
                self.crowd.turns.add_permits(together.saturating_sub(self.crowd.turns.available_permits()));
                for number in self.crowd.share.agents() {
                    let crowd = self.crowd.clone();
                    match crowd.bare {
                        Some(dialect) => self.agents.spawn(listener::live(crowd, dialect, number)),
                        None => self.agents.spawn(agent::live(crowd, number)),
                    };
                }
            }
            Order::Disconnect => {
                self.agents.shutdown().await;
                self.crowd.forget();
            }
            Order::Arrivals { within_ms } => within(*within_ms, self.crowd.until_arrived()).await,
            Order::Deliveries { message, expect, within_ms } => {
                within(*within_ms, self.crowd.until_delivered(message, *expect)).await;
            }
            Order::Churn { per_second, for_ms } => {
                within(*for_ms, self.churn(*per_second)).await;
                let _ = timeout(LAST_ANSWERS, self.crowd.until_acknowledged()).await;
            }
            Order::Flood { together, users } => {
                for place in 0..*together {
                    self.flood.spawn(flood(self.crowd.clone(), users.clone(), place as u64, *together as u64));
                }
                // What comes next is beside it, and not before it.
                self.crowd.until_flooded().await;
            }
            Order::Calm => self.flood.shutdown().await,
            Order::Begin(_) | Order::Count | Order::Enough => {}
        }
    }

    /// What there is now.
    fn answer(&self, order: &Order) -> Answer {
        match order {
            Order::Arrivals { .. } => {
                let (moments, away) = self.crowd.arrivals();
                Answer::Arrivals { moments, away }
            }
            Order::Deliveries { message, .. } => Answer::Deliveries(self.crowd.deliveries(message)),
            Order::Churn { .. } => {
                Answer::Churned { acknowledged: self.crowd.acknowledged(), unanswered: self.crowd.unanswered() }
            }
            Order::Count => Answer::Counts(self.crowd.counts()),
            _ => Answer::Done,
        }
    }

    /// Agents change in turn; what a tick was late for is made up for by the next.
    async fn churn(&mut self, per_second: u32) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut owed = 0.0;
        loop {
            ticks.tick().await;
            owed += f64::from(per_second) * TICK.as_secs_f64();
            while owed >= 1.0 {
                owed -= 1.0;
                let share = self.crowd.share;
                let number = share.first + self.next % share.count;
                self.next = (self.next + 1) % share.count;
                match self.crowd.change(number) {
                    Ok(Some((session, frame))) => drop(session.send(frame).await),
                    Ok(None) => self.crowd.met("delta: the last one is not answered yet"),
                    Err(error) => self.crowd.met(&format!("delta: {error}")),
                }
            }
        }
    }
}

async fn within<T>(ms: u64, work: impl Future<Output = T>) {
    // Late is an answer too: it is seen from what is there.
    let _ = timeout(Duration::from_millis(ms), work).await;
}

/// A thread that waits for lines: standard input cannot be polled everywhere.
fn orders() -> mpsc::Receiver<Order> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(Ok(order)) = line.map(|line| serde_json::from_str(&line)) else { return };
            if sender.blocking_send(order).is_err() {
                return;
            }
        }
    });
    receiver
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    std::io::stdout().lock().write_all(line.as_bytes()).context("the coordinator is gone")
}

//! Does an operator get in while others storm? Each second one tries, with a process of its own and the password.

use crate::operator::Muster;
use crate::options::Scenario;
use crate::report::Row;
use crate::run::Run;
use crate::times::Spread;
use serde_json::json;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Between the begins of two tries.
const EVERY: Duration = Duration::from_secs(1);
/// An operator has the answer within this, ms, or it is counted as late.
const SOON: f64 = 1_000.0;

/// An operator who asks again and again.
pub(super) struct Probes {
    enough: oneshot::Sender<()>,
    asking: JoinHandle<Vec<Probe>>,
}

/// One try.
struct Probe {
    took: f64,
    /// Why there was no answer.
    trouble: Option<String>,
}

impl Probes {
    /// From now on.
    pub(super) fn start(run: &Run) -> Probes {
        let (enough, mut told) = oneshot::channel();
        let muster = Muster::of(&run.cluster);
        let asking = tokio::spawn(async move {
            let mut probes = Vec::new();
            let mut times = interval(EVERY);
            times.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    // The one that is under way is seen through.
                    _ = &mut told => return probes,
                    _ = times.tick() => probes.push(probe(&muster).await),
                }
            }
        });
        Probes { enough, asking }
    }

    /// No more; what came of them. Each must have been answered.
    pub(super) async fn end(self, run: &mut Run, scenario: Scenario) {
        let _ = self.enough.send(());
        let probes = self.asking.await.unwrap_or_default();
        let answered: Vec<f64> =
            probes.iter().filter(|probe| probe.trouble.is_none()).map(|probe| probe.took).collect();
        let failed = probes.len() - answered.len();
        let late = answered.iter().filter(|took| **took > SOON).count();
        let mut row =
            Row::new(scenario, "muster find by an operator, each second", probes.len()).times(Spread::of(answered));
        let each = probes.iter().map(|probe| match &probe.trouble {
            None => json!(probe.took.round()),
            Some(trouble) => json!(trouble.replace('\n', " ")),
        });
        row.more.insert("each, in ms", each.collect());
        row.more.insert("without an answer", failed.into());
        row.more.insert("answered after more than a second", late.into());
        run.rows.push(row);
    }
}

async fn probe(muster: &Muster) -> Probe {
    match muster.run(&["find", "--count", "-w", "slice.d1 = 0"]).await {
        // That nobody is there yet is an answer too.
        Ok(said) if matches!(said.code, Some(0 | 1)) => Probe { took: said.took, trouble: None },
        Ok(said) => Probe { took: said.took, trouble: Some(said.stderr) },
        Err(error) => Probe { took: 0.0, trouble: Some(format!("{error:#}")) },
    }
}

//! Whose turn is it? Each broker runs alone, one after another, again and again, so that what the machine does meanwhile meets them all.

use crate::cluster::Cluster;
use crate::options::Scenario;
use crate::peers::Peer;
use crate::run::Run;
use anyhow::Result;
use std::collections::BTreeMap;
use std::mem::swap;

/// Whom a row of a comparison is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Bare sessions at a broker.
    Sessions(Peer),
    /// Muster with agents: nodes that have registered their facts and can be addressed by them.
    Agents,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Sessions(peer) => peer.name(),
            Side::Agents => "muster-agents",
        }
    }
}

/// All have their turns. What was seen before it ended is in the rows, however it ended.
pub(crate) async fn take(run: &mut Run, peers: &[Peer], scenarios: &[Scenario]) -> Result<()> {
    let mut others: BTreeMap<Peer, Cluster> = BTreeMap::new();
    let mut sides = vec![Side::Sessions(Peer::Muster), Side::Agents];
    for peer in peers.iter().copied().filter(|peer| *peer != Peer::Muster) {
        others.insert(peer, run.ending.unless(peer.beside(&run.cluster, run.population.users)).await??);
        sides.push(Side::Sessions(peer));
    }
    for turn in 1..=run.options.turns {
        for side in &sides {
            let before = run.rows.len();
            let ended = take_one(run, *side, &mut others, scenarios).await;
            for row in &mut run.rows[before..] {
                row.of = Some((side.name(), turn));
            }
            ended?;
        }
    }
    Ok(())
}

async fn take_one(
    run: &mut Run,
    side: Side,
    others: &mut BTreeMap<Peer, Cluster>,
    scenarios: &[Scenario],
) -> Result<()> {
    run.note(side.name());
    let (bare, other) = match side {
        Side::Sessions(peer) => (Some(peer.dialect()), others.get_mut(&peer)),
        Side::Agents => (None, None),
    };
    run.bare = bare;
    // A stream is between two clients; agents have no part in it.
    let scenarios: Vec<Scenario> =
        scenarios.iter().copied().filter(|scenario| bare.is_some() || *scenario != Scenario::Stream).collect();
    if scenarios.is_empty() {
        return Ok(());
    }
    match other {
        None => play(run, &scenarios).await,
        Some(other) => {
            swap(&mut run.cluster, other);
            let ended = play(run, &scenarios).await;
            swap(&mut run.cluster, other);
            ended
        }
    }
}

async fn play(run: &mut Run, scenarios: &[Scenario]) -> Result<()> {
    let ended = run.play(scenarios).await;
    run.rest().await;
    ended
}

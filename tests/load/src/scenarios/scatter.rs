//! How fast are many reached, and how fast have they answered? Messages and requests to parts of exactly known size.

use crate::crowd::json_of;
use crate::options::Scenario;
use crate::orders::{Answer, Order};
use crate::population::{SLICES, slice_filter};
use crate::report::Row;
use crate::requester::Requester;
use crate::run::Run;
use crate::times::Spread;
use anyhow::Result;
use bytes::Bytes;
use muster_protocol::message::NodeId;
use std::collections::HashSet;
use std::time::Duration;

/// How long a message without answers may be under way.
const WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn run(run: &mut Run) -> Result<()> {
    let mut requester = run.requester().await?;
    let body = json_of(run.options.request_bytes as usize);
    // Only what is addressed can reach a part.
    let slices = if run.bare.is_some() { &SLICES[..1] } else { &SLICES };
    for divisor in slices.iter().copied() {
        let part = format!("{} %", 100.0 / f64::from(divisor));
        let slice = Slice::of(run, divisor);
        messages(run, &mut requester, &part, &slice, &body).await?;
        requests(run, &mut requester, &part, &slice, &body).await?;
    }
    Ok(())
}

/// The agents that are meant.
struct Slice {
    filter: String,
    nodes: HashSet<NodeId>,
    /// How many each generator has.
    shares: Vec<usize>,
}

impl Slice {
    fn of(run: &Run, divisor: u32) -> Slice {
        let population = &run.population;
        let nodes = population.slice(divisor).map(|agent| population.node(agent)).collect();
        let here = |share: &crate::plan::Share| share.agents().filter(|agent| agent % divisor == 0).count();
        Slice { filter: slice_filter(divisor), nodes, shares: run.shares.iter().map(here).collect() }
    }
}

/// Only there: when each has it.
async fn messages(run: &mut Run, requester: &mut Requester, part: &str, slice: &Slice, body: &Bytes) -> Result<()> {
    let mut row = Row::new(Scenario::Scatter, format!("message to {part}, at agents"), slice.nodes.len());
    let (mut first, mut rounds) = (None, Vec::new());
    let mut meter = None;
    for round in 0..=run.options.rounds {
        if round == 1 {
            meter = Some(run.meter().await?);
        }
        let (id, sent) = requester.message(&slice.filter, body).await?;
        let Some(times) = Spread::since(sent, deliveries(run, &id, slice).await?) else { break };
        if round == 0 {
            first = Some(times)
        } else {
            rounds.push(times)
        }
        if run.ending.check().is_err() {
            break;
        }
    }
    if let Some(meter) = meter {
        row.costs = Some(run.costs(&meter).await?);
    }
    run.rows.push(row.rounds(first, rounds, None));
    Ok(run.ending.check()?)
}

/// There and back: when each has it, when each reply is with the one who asked, and when everybody is accounted for.
async fn requests(run: &mut Run, requester: &mut Requester, part: &str, slice: &Slice, body: &Bytes) -> Result<()> {
    let (mut firsts, mut rounds) = ([None; 3], [const { Vec::new() }; 3]);
    let (mut meter, mut missing) = (None, None);
    for round in 0..=run.options.rounds {
        if round == 1 {
            meter = Some(run.meter().await?);
        }
        let gathered = requester.request(&slice.filter, body, &run.ending).await?;
        let there = Spread::since(gathered.sent, deliveries(run, &gathered.id, slice).await?);
        let back = Spread::since(gathered.sent, gathered.replies.iter().map(|(_, moment)| *moment));
        let done = Spread::since(gathered.sent, gathered.done);
        missing = missing.or_else(|| complaint(&gathered, &slice.nodes));
        for (place, times) in [there, back, done].into_iter().enumerate() {
            match times {
                Some(times) if round == 0 => firsts[place] = Some(times),
                Some(times) => rounds[place].push(times),
                None => missing = missing.or_else(|| Some("a round without any".into())),
            }
        }
        if run.ending.check().is_err() {
            break;
        }
    }
    let costs = match meter {
        Some(meter) => Some(run.costs(&meter).await?),
        None => None,
    };
    let whats =
        [format!("request to {part}, at agents"), format!("replies of {part}"), format!("request to {part}, done")];
    for (place, (what, rounds)) in whats.into_iter().zip(rounds).enumerate() {
        if place == 2 && run.bare.is_some() {
            // No broker says so: it is when the last reply is there.
            continue;
        }
        // One moment of each round, and not one of each agent.
        let meant = if place == 2 { 1 } else { slice.nodes.len() };
        let mut row = Row::new(Scenario::Scatter, what, meant).rounds(firsts[place], rounds, missing.clone());
        if place == 1 {
            row.costs = costs.clone();
        }
        run.rows.push(row);
    }
    Ok(run.ending.check()?)
}

/// When agents had it; as soon as all had.
async fn deliveries(run: &mut Run, message: &str, slice: &Slice) -> Result<Vec<u64>> {
    let within_ms = WITHIN.as_millis() as u64;
    let order =
        |place: usize| Order::Deliveries { message: message.to_owned(), expect: slice.shares[place], within_ms };
    let answers = run.crew.ask(order, &run.ending).await?;
    let moments = answers
        .into_iter()
        .filter_map(|answer| if let Answer::Deliveries(moments) = answer { Some(moments) } else { None });
    Ok(moments.flatten().collect())
}

/// Exactly those that match have answered, each once, and well; or what else.
fn complaint(gathered: &crate::operator::Gathered, expected: &HashSet<NodeId>) -> Option<String> {
    let answered: HashSet<NodeId> = gathered.replies.iter().map(|(node, _)| *node).collect();
    let (silent, wrong) = (expected.difference(&answered).count(), answered.difference(expected).count());
    let twice = gathered.replies.len() - answered.len();
    if let Some(trouble) = &gathered.trouble {
        return Some(trouble.clone());
    }
    if silent + wrong + twice > 0 || !gathered.not_ok.is_empty() || gathered.done.is_none() {
        let states = &gathered.not_ok;
        return Some(format!("{silent} silent, {wrong} that were not meant, {twice} twice, states {states:?}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Gathered;
    use muster_protocol::message::NodeKey;

    fn node(number: u8) -> NodeId {
        NodeId::of(&NodeKey::new([number; 32]))
    }

    #[test]
    fn only_exactly_those_that_match_are_no_complaint() {
        let expected: HashSet<NodeId> = [node(1), node(2)].into();
        let of = |replies: &[u8]| Gathered {
            replies: replies.iter().map(|number| (node(*number), 0)).collect(),
            done: Some(1),
            ..Gathered::default()
        };
        assert_eq!(complaint(&of(&[2, 1]), &expected), None);
        assert!(complaint(&of(&[1]), &expected).is_some_and(|text| text.starts_with("1 silent")));
        assert!(complaint(&of(&[1, 2, 3]), &expected).is_some_and(|text| text.contains("1 that were not meant")));
        assert!(complaint(&of(&[1, 2, 2]), &expected).is_some_and(|text| text.contains("1 twice")));
        assert!(complaint(&Gathered { done: None, ..of(&[1, 2]) }, &expected).is_some());
        let trouble = Gathered { trouble: Some("refused".into()), ..of(&[1, 2]) };
        assert_eq!(complaint(&trouble, &expected).as_deref(), Some("refused"));
    }
}

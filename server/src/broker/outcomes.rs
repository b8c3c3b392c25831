//! What does this broker owe to ingresses elsewhere? Reports, numbered for each request, kept until they are acknowledged.
//!
//! An ingress takes them in order. At most a window of bytes is on its way at a time; what is not acknowledged is sent again after
//! a while, and at once when the ways have changed. Bounded: beyond that, answers keep their state and lose their body.

use bytes::Bytes;
use muster_protocol::link::{Happened, Report, RequestKey};
use muster_protocol::message::NodeId;
use muster_protocol::request::State;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Bytes that are on their way at a time, for one request.
const WINDOW: usize = 1024 * 1024;
/// Bytes that are kept for one request.
const KEPT: usize = 16 * 1024 * 1024;
/// When what is not acknowledged is sent again, ms: doubled each time, up to the last.
const AGAIN: (u64, u64) = (300, 4_800);
/// How long reports are kept after the last of them came, ms.
const PATIENCE: u64 = 15 * 60 * 1000;
/// What a report weighs beside its body and nodes.
const REPORT_BYTES: usize = 128;

/// The body of an answer that did not fit.
const DROPPED: &[u8] =
    br#"{"error":{"code":"body-dropped","text":"the answer was dropped: too many of this request waited for a link"}}"#;

/// All of it.
#[derive(Debug, Default)]
pub struct Outcomes {
    owed: HashMap<RequestKey, Owed>,
    due: BTreeSet<(u64, RequestKey)>,
}

#[derive(Debug)]
struct Owed {
    caller: Arc<str>,
    /// Not acknowledged, in order.
    kept: VecDeque<Kept>,
    /// Number of the last report.
    last: u64,
    /// Of `kept`, how many are on their way, and their bytes.
    sent: usize,
    sent_bytes: usize,
    bytes: usize,
    at: u64,
    wait: u64,
    forget_at: u64,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    event: Happened,
    body: Bytes,
    weight: usize,
}

impl Outcomes {
    /// Adds a report to what is owed to a caller. `now` is monotonic ms.
    pub fn push(&mut self, key: &RequestKey, caller: &Arc<str>, event: Happened, mut body: Bytes, now: u64) {
        let owed = self.owed.entry(key.clone()).or_insert_with(|| Owed {
            caller: caller.clone(),
            kept: VecDeque::new(),
            last: 0,
            sent: 0,
            sent_bytes: 0,
            bytes: 0,
            at: now,
            wait: AGAIN.0,
            forget_at: 0,
        });
        owed.forget_at = now.saturating_add(PATIENCE);
        if owed.bytes + body.len() > KEPT && body.len() > DROPPED.len() {
            body = Bytes::from_static(DROPPED);
        }
        let weight = REPORT_BYTES + body.len() + event_bytes(&event);
        owed.last += 1;
        owed.bytes += weight;
        owed.kept.push_back(Kept { number: owed.last, event, body, weight });
    }

    /// What is not acknowledged of nodes that a caller may not see any more is told without what they said. What may be shown beside a
    /// node's id was decided before, and is left out.
    pub fn withhold(&mut self, sees: impl Fn(&str, &NodeId) -> bool, reason: &str) {
        for owed in self.owed.values_mut() {
            let sees = |node: &NodeId| sees(&owed.caller, node);
            for kept in &mut owed.kept {
                match &mut kept.event {
                    Happened::Accepted { nodes, .. } => {
                        nodes.iter_mut().filter(|target| !sees(&target.id)).for_each(|target| target.display.clear());
                    }
                    Happened::Reply { node, .. } if !sees(node) => {
                        let nodes = vec![*node];
                        kept.event = Happened::Ended { state: State::Lost, nodes, reason: reason.to_owned() };
                        kept.body = Bytes::new();
                    }
                    _ => {}
                }
            }
        }
    }

    /// What may be sent now, as far as the window allows.
    pub fn take(&mut self, key: &RequestKey, now: u64) -> Vec<(Report, Bytes)> {
        let Some(owed) = self.owed.get_mut(key) else { return Vec::new() };
        let mut reports = Vec::new();
        while let Some(next) = owed.kept.get(owed.sent) {
            if owed.sent > 0 && owed.sent_bytes + next.weight > WINDOW {
                break;
            }
            owed.sent += 1;
            owed.sent_bytes += next.weight;
            let report = Report { key: key.clone(), number: next.number, event: next.event.clone() };
            reports.push((report, next.body.clone()));
        }
        self.due.remove(&(owed.at, key.clone()));
        owed.at = now.saturating_add(owed.wait);
        if !owed.kept.is_empty() {
            self.due.insert((owed.at, key.clone()));
        }
        reports
    }

    /// All up to this number have arrived: whether that was news.
    pub fn heard(&mut self, key: &RequestKey, upto: u64) -> bool {
        let Some(owed) = self.owed.get_mut(key) else { return false };
        let mut news = false;
        while let Some(first) = owed.kept.front().filter(|first| first.number <= upto) {
            owed.bytes -= first.weight;
            // One that was heard before it was sent again is not on its way any more.
            if owed.sent > 0 {
                owed.sent -= 1;
                owed.sent_bytes -= first.weight;
            }
            owed.kept.pop_front();
            news = true;
        }
        if news {
            owed.wait = AGAIN.0;
        }
        if owed.kept.is_empty() {
            self.due.remove(&(owed.at, key.clone()));
        }
        news
    }

    /// A request to whose ingress something was not acknowledged in time: all of it is to be sent again.
    pub fn overdue(&mut self, now: u64) -> Option<RequestKey> {
        let (at, key) = self.due.first().filter(|(at, _)| *at <= now).cloned()?;
        self.due.remove(&(at, key.clone()));
        let owed = self.owed.get_mut(&key)?;
        if owed.forget_at <= now {
            self.owed.remove(&key);
            return self.overdue(now);
        }
        owed.rewind();
        owed.wait = (owed.wait * 2).min(AGAIN.1);
        Some(key)
    }

    /// The ingress asks again: everything of this request that is not acknowledged is to be sent again.
    pub fn rewind(&mut self, key: &RequestKey) {
        if let Some(owed) = self.owed.get_mut(key) {
            owed.rewind();
        }
    }

    /// There is no way to the ingress now: it is looked at again later.
    pub fn rest(&mut self, key: &RequestKey, now: u64) {
        if let Some(owed) = self.owed.get_mut(key).filter(|owed| !owed.kept.is_empty()) {
            self.due.remove(&(owed.at, key.clone()));
            owed.at = now.saturating_add(AGAIN.1);
            self.due.insert((owed.at, key.clone()));
        }
    }

    /// The ways have changed: everything that is not acknowledged is to be sent again, the oldest requests first.
    pub fn rewind_all(&mut self) -> Vec<RequestKey> {
        let mut open: Vec<RequestKey> =
            self.owed.iter().filter(|(_, owed)| !owed.kept.is_empty()).map(|(key, _)| key.clone()).collect();
        open.sort_unstable();
        for key in &open {
            if let Some(owed) = self.owed.get_mut(key) {
                owed.rewind();
                owed.wait = AGAIN.0;
            }
        }
        open
    }

    /// Whether nothing of a request waits to be acknowledged.
    pub fn is_settled(&self, key: &RequestKey) -> bool {
        self.owed.get(key).is_none_or(|owed| owed.kept.is_empty())
    }

    /// Nobody wants to know any more, or everybody knows.
    pub fn forget(&mut self, key: &RequestKey) {
        if let Some(owed) = self.owed.remove(key) {
            self.due.remove(&(owed.at, key.clone()));
        }
    }

    /// To whom something is owed.
    pub fn callers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.owed.values().map(|owed| &owed.caller)
    }

    /// Requests of which something is owed.
    pub fn keys(&self) -> impl Iterator<Item = &RequestKey> {
        self.owed.keys()
    }

    /// The next time something is overdue, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }
}

impl Owed {
    fn rewind(&mut self) {
        (self.sent, self.sent_bytes) = (0, 0);
    }
}

fn event_bytes(event: &Happened) -> usize {
    match event {
        Happened::Accepted { nodes, .. } => nodes.len() * 128,
        Happened::Ended { nodes, .. } => nodes.len() * 24,
        Happened::Reply { .. } => 128,
        Happened::Started { .. } | Happened::Refused { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::message::{BrokerName, NodeId, NodeKey};
    use proptest::prelude::*;

    fn key() -> RequestKey {
        RequestKey { broker: BrokerName::parse("noc1").expect("a name"), instance: 1, serial: 1 }
    }

    fn started() -> Happened {
        Happened::Started { node: NodeId::of(&NodeKey::new([1; 32])) }
    }

    proptest! {
        /// Whatever is lost on the way: the ingress, which takes only the next one, gets all of them, once and in order.
        #[test]
        fn what_is_owed_arrives_once_and_in_order(
            sizes in proptest::collection::vec(0usize..400_000, 1..20),
            lost in proptest::collection::vec(any::<bool>(), 200),
        ) {
            let (mut outcomes, key, mut now) = (Outcomes::default(), key(), 0);
            for size in &sizes {
                outcomes.push(&key, &"noc".into(), started(), Bytes::from(vec![0; *size]), now);
            }
            let (mut heard, mut lost) = (0, lost.into_iter().chain(std::iter::repeat(false)));
            let mut on_the_way = outcomes.take(&key, now);
            for _ in 0..1000 {
                for (report, body) in std::mem::take(&mut on_the_way) {
                    if lost.next() == Some(false) && report.number == heard + 1 {
                        prop_assert_eq!(body.len(), sizes[heard as usize]);
                        heard += 1;
                    }
                }
                if lost.next() == Some(false) && outcomes.heard(&key, heard) {
                    on_the_way = outcomes.take(&key, now);
                }
                if on_the_way.is_empty() {
                    let Some(at) = outcomes.next_deadline() else { break };
                    now = at;
                    if let Some(key) = outcomes.overdue(now) {
                        on_the_way = outcomes.take(&key, now);
                    }
                }
            }
            prop_assert_eq!(heard as usize, sizes.len());
            prop_assert!(outcomes.is_settled(&key) && outcomes.next_deadline().is_none());
        }
    }

    #[test]
    fn what_does_not_fit_keeps_its_state_and_loses_its_body() {
        let (mut outcomes, key) = (Outcomes::default(), key());
        for _ in 0..40 {
            outcomes.push(&key, &"noc".into(), started(), Bytes::from(vec![0; 1024 * 1024]), 0);
        }
        let (mut numbers, mut bytes) = (Vec::new(), 0);
        while !outcomes.is_settled(&key) {
            let reports = outcomes.take(&key, 0);
            let upto = reports.last().map_or(0, |(report, _)| report.number);
            bytes += reports.iter().map(|(_, body)| body.len()).sum::<usize>();
            numbers.extend(reports.iter().map(|(report, _)| report.number));
            outcomes.heard(&key, upto);
        }
        assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
        assert!(bytes <= KEPT + 40 * DROPPED.len(), "{bytes}");
    }
}

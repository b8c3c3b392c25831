//! Can a request match at a broker? What is known of the facts of its nodes, asked in three-valued logic.

mod known;

use super::interest::Absorbed;
use known::Known;
use muster_protocol::facts::{Path, ScalarRef};
use muster_protocol::filter::{Filter, Ternary};
use muster_protocol::link::{PathSummary, Summary, Words};
use muster_protocol::message::BrokerName;
use serde_json::Value;
use std::collections::HashMap;

/// For so many ms after a path had many values it is taken to have many, so that it does not change its form with each node.
const HOLD: u64 = 60_000;

/// The summaries of all brokers.
#[derive(Debug)]
pub struct Summaries {
    me: BrokerName,
    instance: u64,
    /// Ours included.
    records: HashMap<BrokerName, Record>,
    /// Until when our own paths that had many values are taken to have many, monotonic ms.
    held: HashMap<Path, u64>,
    /// The next record of our own is a whole: nobody has what a delta would build on.
    afresh: bool,
}

#[derive(Debug)]
struct Record {
    instance: u64,
    sequence: u64,
    /// A newer one is known to exist: until it is here, what is known may be wrong.
    behind: bool,
    known: Known,
}

impl Summaries {
    /// Nothing is known.
    pub fn new(me: BrokerName, instance: u64) -> Summaries {
        Summaries { me, instance, records: HashMap::new(), held: HashMap::new(), afresh: true }
    }

    /// Our boot counter was raised: our own record begins anew under it, and the next [`Summaries::set_own`] gives the whole.
    pub fn set_instance(&mut self, instance: u64) {
        self.instance = instance;
        self.afresh = true;
        if let Some(own) = self.records.get_mut(&self.me) {
            (own.instance, own.sequence) = (instance, 1);
        }
    }

    /// What our own nodes are now (a whole; origin, instance, sequence and base are filled in here). The delta to flood, if it
    /// differs from before; the whole if that is hardly larger. `now` is monotonic ms: a path that became "many" stays so for a
    /// while.
    pub fn set_own(&mut self, whole: Summary, now: u64) -> Option<Summary> {
        let mut known = Known::read(&whole).ok()?;
        self.hold(&mut known, now);
        let before = self.records.get(&self.me);
        let (base, record) = match before.filter(|_| !self.afresh) {
            None => (None, known.to_record(&self.me)),
            Some(before) => {
                let delta = known.since(&before.known, &self.me)?;
                let whole = known.to_record(&self.me);
                let worth_it = 2 * bytes(&delta) <= bytes(&whole);
                if worth_it { (Some(before.sequence), delta) } else { (None, whole) }
            }
        };
        let sequence = before.map_or(0, |before| before.sequence) + 1;
        self.afresh = false;
        self.records.insert(self.me.clone(), Record { instance: self.instance, sequence, behind: false, known });
        Some(Summary { instance: self.instance, sequence, base, ..record })
    }

    /// Takes a record that came over a link. Our own, coming back, is known.
    ///
    /// After a gap, or a newer record that makes no sense, what was known of that broker counts for nothing until its whole
    /// arrives: an answer from it could keep a request from a node.
    pub fn take(&mut self, record: &Summary) -> Absorbed {
        let version = (record.instance, record.sequence);
        if record.origin == self.me || version <= self.have(&record.origin) {
            return Absorbed::Known;
        }
        let absorbed = match record.base {
            None => self.take_whole(record),
            Some(base) => self.take_delta(record, base),
        };
        if absorbed != Absorbed::New
            && let Some(old) = self.records.get_mut(&record.origin)
        {
            old.behind = true;
        }
        absorbed
    }

    /// (instance, sequence) of what is known of a broker, ours included.
    pub fn have(&self, origin: &BrokerName) -> (u64, u64) {
        match self.records.get(origin) {
            Some(record) => (record.instance, record.sequence),
            None if *origin == self.me => (self.instance, 0),
            None => (0, 0),
        }
    }

    /// The whole record of a broker, ours included.
    pub fn whole(&self, origin: &BrokerName) -> Option<Summary> {
        let record = self.records.get(origin)?;
        let (instance, sequence) = (record.instance, record.sequence);
        Some(Summary { instance, sequence, ..record.known.to_record(origin) })
    }

    /// Whether some registered node of a broker can match: `No` if none does, `Unknown` while nothing is known of that life of
    /// it. Without a target the answer is about nodes at all; `module` restricts to nodes that announce it.
    pub fn decide(&self, broker: &BrokerName, instance: u64, target: Option<&Filter>, module: Option<&str>) -> Ternary {
        self.current(broker, instance).map_or(Ternary::Unknown, |known| known.decide(target, module))
    }

    /// Whether a broker may have something to say of nodes that are gone or about to register; true while nothing is known.
    pub fn is_restless(&self, broker: &BrokerName, instance: u64) -> bool {
        self.current(broker, instance).is_none_or(|known| known.restless)
    }

    /// How many nodes a broker had when it was last heard of, if it ever was, in whatever life.
    pub fn nodes(&self, broker: &BrokerName) -> Option<u64> {
        self.records.get(broker).map(|record| record.known.nodes)
    }

    /// Forgets brokers that are not wanted any more; never our own record.
    pub fn retain(&mut self, wanted: impl Fn(&BrokerName) -> bool) {
        let me = &self.me;
        self.records.retain(|broker, _| broker == me || wanted(broker));
    }

    fn current(&self, broker: &BrokerName, instance: u64) -> Option<&Known> {
        let record = self.records.get(broker).filter(|record| record.instance == instance && !record.behind)?;
        Some(&record.known)
    }

    fn take_whole(&mut self, record: &Summary) -> Absorbed {
        let Ok(known) = Known::read(record) else { return Absorbed::Bad };
        let new = Record { instance: record.instance, sequence: record.sequence, behind: false, known };
        self.records.insert(record.origin.clone(), new);
        Absorbed::New
    }

    fn take_delta(&mut self, record: &Summary, base: u64) -> Absorbed {
        let old = self.records.get_mut(&record.origin).filter(|old| !old.behind);
        let Some(old) = old.filter(|old| (old.instance, old.sequence) == (record.instance, base)) else {
            return Absorbed::Gap;
        };
        if old.known.apply(record).is_err() {
            return Absorbed::Bad;
        }
        old.sequence = record.sequence;
        Absorbed::New
    }

    /// Paths that had many values lately are made to have many again.
    fn hold(&mut self, known: &mut Known, now: u64) {
        for (path, of_path) in &mut known.paths {
            match &of_path.values {
                None => {
                    self.held.insert(path.clone(), now.saturating_add(HOLD));
                }
                Some(values) if self.held.get(path).is_some_and(|until| now < *until) => {
                    *of_path = PathSummary { lacking: of_path.lacking, bare: of_path.bare, ..many(values) };
                }
                Some(_) => {}
            }
        }
        self.held.retain(|_, until| now < *until);
    }
}

/// What is said of values that are not listed.
fn many(values: &[Value]) -> PathSummary {
    let number = |value: &&Value| value.is_number();
    let by_value = |a: &&Value, b: &&Value| ScalarRef::from_json(a).cmp(&ScalarRef::from_json(b));
    PathSummary {
        minimum: values.iter().filter(number).min_by(by_value).cloned(),
        maximum: values.iter().filter(number).max_by(by_value).cloned(),
        texts: !values.iter().all(|value| value.is_number()),
        ..PathSummary::default()
    }
}

fn bytes(record: &Summary) -> usize {
    let paths = record.paths.iter();
    let paths = paths.map(|(path, known)| known.as_ref().map_or(path.len(), |known| path_bytes(path, known)));
    let words = [&record.classes, &record.modules].into_iter().flatten();
    64 + paths.sum::<usize>() + words.map(words_bytes).sum::<usize>()
}

/// Bytes that a path takes in a record, estimated.
pub(in crate::broker) fn path_bytes(path: &str, known: &PathSummary) -> usize {
    // The names of the fields that are always there, and of those that may be.
    const FIXED: usize = 28;
    const NUMBER: usize = 9;
    let value = |value: &Value| NUMBER + value.as_str().map_or(0, str::len);
    let numbers = [&known.minimum, &known.maximum].into_iter().flatten().count();
    FIXED + path.len() + known.values.iter().flatten().map(value).sum::<usize>() + 2 * NUMBER * numbers
}

/// Bytes that words take in a record, estimated.
pub(in crate::broker) fn words_bytes(words: &Words) -> usize {
    match words {
        Words::These(words) => words.iter().map(|word| 3 + word.len()).sum(),
        Words::Many => 8,
    }
}

#[cfg(test)]
mod tests;

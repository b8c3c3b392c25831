//! Which requests are under way at this broker's nodes, and who has not answered? Every target ends in exactly one state.
//!
//! This is the side of the nodes; `asks.rs` is that of the caller. What happens here is told to the ingress, wherever it is.

use super::event::Sent;
use super::nodes::Generation;
use muster_protocol::destination::Destination;
use muster_protocol::filter::Filter;
use muster_protocol::link::RequestKey;
use muster_protocol::message::RequestId;
use roaring::RoaringBitmap;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A request, unique in this broker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

/// Requests that are remembered when they are over, so that a late copy is not taken for a new one.
const REMEMBERED: usize = 65_536;
/// Requests that are cancelled before they come and are remembered: one is soon sent again.
const EARLY: usize = 1_024;

/// What was asked, by whom, and where answers go.
#[derive(Debug)]
pub struct Asked {
    /// The ingress and its number for it.
    pub key: RequestKey,
    /// The caller's user name.
    pub user: Arc<str>,
    /// The caller's id.
    pub id: RequestId,
    /// The reply queue, by the ingress's name.
    pub queue: Destination,
    /// To which action topic it went: a cancel follows it there.
    pub destination: Destination,
}

/// A request that is not yet accounted for.
#[derive(Debug)]
pub struct Pending {
    /// What was asked.
    pub asked: Asked,
    /// When the rest becomes `expired`, or `cancelled` if that was asked for. Monotonic ms.
    pub deadline: u64,
    /// The caller has cancelled it.
    pub cancelled: bool,
    /// Its targets are still being named, or delivered to.
    pub busy: bool,
    /// It has no targets, or is a dry run.
    pub asks_nobody: bool,
    /// What to deliver once the ingress says so.
    pub held: Option<Held>,
    /// Rows that have not answered. A row leaves when its session ends, before it can be taken by another node.
    pub waiting: RoaringBitmap,
    started: RoaringBitmap,
}

/// A delivery that waits for COMMIT.
#[derive(Debug)]
pub struct Held {
    /// What.
    pub sent: Box<Sent>,
    /// To whom, as they were frozen.
    pub rows: RoaringBitmap,
    /// When.
    pub frozen: Generation,
    /// Target and scope.
    pub filter: Option<Filter>,
    /// When it came, monotonic ms: its times count from then.
    pub since: u64,
}

/// What a request that came is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// New.
    As(Key),
    /// This very request is here, or was.
    Before,
    /// The user has another request of this id under way.
    Taken,
}

/// All requests under way.
#[derive(Debug, Default)]
pub struct Requests {
    pending: HashMap<Key, Pending>,
    by_key: HashMap<RequestKey, Key>,
    by_id: HashMap<(Destination, RequestId), Key>,
    /// A node knows a request by its caller and id, whatever connection or queue it came by.
    by_caller: HashSet<(Arc<str>, RequestId)>,
    deadlines: BTreeSet<(u64, Key)>,
    over: HashSet<RequestKey>,
    over_order: VecDeque<RequestKey>,
    /// Cancelled before they came: still on their way, or in their lane.
    early: VecDeque<RequestKey>,
    last: u64,
}

impl Requests {
    /// Begins with the frozen targets, due at `deadline` (monotonic ms).
    pub fn begin(&mut self, asked: Asked, targets: RoaringBitmap, held: Option<Held>, deadline: u64) -> Begun {
        if self.knows(&asked.key) {
            return Begun::Before;
        }
        if !self.by_caller.insert((asked.user.clone(), asked.id.clone())) {
            return Begun::Taken;
        }
        self.last += 1;
        let key = Key(self.last);
        self.by_key.insert(asked.key.clone(), key);
        self.by_id.insert((asked.queue.clone(), asked.id.clone()), key);
        self.deadlines.insert((deadline, key));
        let started = RoaringBitmap::new();
        let asks_nobody = targets.is_empty();
        let pending =
            Pending { asked, deadline, cancelled: false, busy: true, asks_nobody, held, waiting: targets, started };
        self.pending.insert(key, pending);
        Begun::As(key)
    }

    /// Looks at a request.
    pub fn get(&self, key: Key) -> Option<&Pending> {
        self.pending.get(&key)
    }

    /// The request of an ingress's number.
    pub fn of(&self, key: &RequestKey) -> Option<Key> {
        self.by_key.get(key).copied()
    }

    /// Whether a request of an ingress's number is here, or was, or is not to come any more.
    pub fn knows(&self, key: &RequestKey) -> bool {
        self.by_key.contains_key(key) || self.over.contains(key)
    }

    /// The request of a reply queue and id.
    pub fn find(&self, queue: &Destination, id: &RequestId) -> Option<Key> {
        self.by_id.get(&(queue.clone(), id.clone())).copied()
    }

    /// The row has begun. False if it said so before, or is not waited for.
    pub fn start(&mut self, key: Key, row: u32) -> bool {
        self.pending.get_mut(&key).is_some_and(|pending| pending.waiting.contains(row) && pending.started.insert(row))
    }

    /// The row has ended. False if it was not asked or had ended before: nothing changes then.
    pub fn settle(&mut self, key: Key, row: u32) -> bool {
        self.pending.get_mut(&key).is_some_and(|pending| pending.waiting.remove(row))
    }

    /// Every row that still waits ends; the rows, in order.
    pub fn settle_rest(&mut self, key: Key) -> RoaringBitmap {
        self.pending.get_mut(&key).map(|pending| std::mem::take(&mut pending.waiting)).unwrap_or_default()
    }

    /// Naming or delivery goes on, or is over.
    pub fn set_busy(&mut self, key: Key, busy: bool) {
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.busy = busy;
        }
    }

    /// Takes what was held, to deliver it, due from now on at `deadline` (monotonic ms). `None`: nothing is held (any more).
    pub fn release(&mut self, key: Key, deadline: u64) -> Option<Held> {
        let pending = self.pending.get_mut(&key)?;
        let held = pending.held.take()?;
        self.deadlines.remove(&(pending.deadline, key));
        pending.deadline = deadline;
        self.deadlines.insert((deadline, key));
        Some(held)
    }

    /// Ends a request in which nobody waits and nothing goes on. False: not yet.
    pub fn finish(&mut self, key: Key) -> bool {
        let is_over = |pending: &Pending| !pending.busy && pending.held.is_none() && pending.waiting.is_empty();
        self.pending.get(&key).is_some_and(is_over) && self.drop(key).is_some()
    }

    /// Ends a request, whoever waits; it is remembered, so that a late copy is not taken for a new one.
    pub fn drop(&mut self, key: Key) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        let Asked { key: name, user, id, queue, .. } = &pending.asked;
        self.by_key.remove(name);
        self.by_id.remove(&(queue.clone(), id.clone()));
        self.by_caller.remove(&(user.clone(), id.clone()));
        self.deadlines.remove(&(pending.deadline, key));
        self.remember(name.clone());
        Some(pending)
    }

    /// A request that came, or may still come, is over.
    pub fn remember(&mut self, key: RequestKey) {
        if self.over.insert(key.clone()) {
            self.over_order.push_back(key);
            if self.over_order.len() > REMEMBERED
                && let Some(oldest) = self.over_order.pop_front()
            {
                self.over.remove(&oldest);
            }
        }
    }

    /// The rest must confirm by `deadline` (monotonic ms), after which it counts as cancelled.
    pub fn cancel(&mut self, key: Key, deadline: u64) {
        if let Some(pending) = self.pending.get_mut(&key) {
            self.deadlines.remove(&(pending.deadline, key));
            pending.deadline = pending.deadline.min(deadline);
            pending.cancelled = true;
            self.deadlines.insert((pending.deadline, key));
        }
    }

    /// A request is cancelled that has not come yet.
    pub fn cancel_early(&mut self, key: RequestKey) {
        if !self.knows(&key) && !self.early.contains(&key) {
            self.early.push_back(key);
            if self.early.len() > EARLY {
                self.early.pop_front();
            }
        }
    }

    /// Whether a request that comes now was cancelled before.
    pub fn take_early(&mut self, key: &RequestKey) -> bool {
        let place = self.early.iter().position(|early| early == key);
        place.is_some_and(|place| self.early.remove(place).is_some())
    }

    /// Requests that wait for this row.
    pub fn waiting_for(&self, row: u32) -> Vec<Key> {
        let mut keys: Vec<Key> =
            self.pending.iter().filter(|(_, p)| p.waiting.contains(row)).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Who asked for what is under way.
    pub fn callers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pending.values().map(|pending| &pending.asked.user)
    }

    /// Requests that came from an ingress of that name.
    pub fn from_ingress(&self, matches: impl Fn(&RequestKey) -> bool) -> Vec<Key> {
        self.pending.iter().filter(|(_, p)| matches(&p.asked.key)).map(|(key, _)| *key).collect()
    }

    /// A request whose deadline has come at `now` (monotonic ms).
    pub fn due(&self, now: u64) -> Option<Key> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, key)| *key)
    }

    /// The deadline is dealt with; what still delivers is looked at again when that is over.
    pub fn rested(&mut self, key: Key) {
        if let Some(pending) = self.pending.get(&key) {
            self.deadlines.remove(&(pending.deadline, key));
        }
    }

    /// The next deadline, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::message::BrokerName;
    use proptest::prelude::*;

    fn asked(serial: u64) -> Asked {
        Asked {
            key: RequestKey { broker: BrokerName::parse("noc1").expect("a name"), instance: 1, serial },
            user: "op".into(),
            id: RequestId::parse("r1").expect("an id"),
            queue: Destination::parse("/remote-temp-queue/b.1").expect("a queue"),
            destination: Destination::parse("/topic/prod.node.ping").expect("a topic"),
        }
    }

    fn begin(requests: &mut Requests, serial: u64, targets: u32) -> Key {
        match requests.begin(asked(serial), (0..targets).collect(), None, 100) {
            Begun::As(key) => key,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Whatever is reported, in whatever order and however often: every target ends once.
        #[test]
        fn every_target_ends_once(
            targets in 0u32..20,
            reports in proptest::collection::vec(0u32..25, 0..80),
        ) {
            let mut requests = Requests::default();
            let key = begin(&mut requests, 1, targets);
            let mut ended = BTreeSet::new();
            for row in reports {
                let counted = requests.settle(key, row);
                prop_assert_eq!(counted, row < targets && ended.insert(row));
                prop_assert!(!requests.finish(key), "the fan-out is not over");
            }
            let rest = requests.settle_rest(key);
            prop_assert_eq!(rest.len() as usize + ended.len(), targets as usize);
            requests.set_busy(key, false);
            prop_assert!(requests.finish(key));
            prop_assert!(requests.is_empty() && requests.next_deadline().is_none());
        }
    }

    #[test]
    fn an_id_is_taken_until_its_request_ends_and_a_late_copy_is_no_new_request() {
        let mut requests = Requests::default();
        let key = begin(&mut requests, 1, 1);
        assert_eq!(requests.begin(asked(1), RoaringBitmap::new(), None, 100), Begun::Before);
        assert_eq!(requests.begin(asked(2), RoaringBitmap::new(), None, 100), Begun::Taken);
        requests.drop(key);
        assert_eq!(requests.begin(asked(1), RoaringBitmap::new(), None, 100), Begun::Before);
        begin(&mut requests, 2, 1);
    }

    #[test]
    fn a_cancel_never_lengthens_the_deadline() {
        let mut requests = Requests::default();
        let key = begin(&mut requests, 1, 1);
        requests.cancel(key, 500);
        assert_eq!((requests.next_deadline(), requests.due(99)), (Some(100), None));
        requests.cancel(key, 50);
        assert_eq!((requests.next_deadline(), requests.due(50)), (Some(50), Some(key)));
    }
}

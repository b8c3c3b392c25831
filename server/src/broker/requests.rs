//! Which requests are under way, and who has not answered? Every target ends in exactly one state.

use super::event::SessionId;
use muster_protocol::destination::Destination;
use muster_protocol::message::RequestId;
use muster_protocol::request::{Done, State};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A request, unique in this broker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

/// What was asked, by whom, and where answers go.
#[derive(Debug)]
pub struct Asked {
    /// Who asked.
    pub caller: SessionId,
    /// The caller's user name.
    pub user: Arc<str>,
    /// The caller's id.
    pub id: RequestId,
    /// The reply queue, by the broker's name.
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
    /// The fan-out is still going on.
    pub delivering: bool,
    /// Rows that have not answered. A row leaves when its session ends, before it can be taken by another node.
    pub waiting: RoaringBitmap,
    started: RoaringBitmap,
    states: BTreeMap<State, u64>,
}

/// All requests under way.
#[derive(Debug, Default)]
pub struct Requests {
    pending: HashMap<Key, Pending>,
    by_id: HashMap<(Destination, RequestId), Key>,
    /// A node knows a request by its caller and id, whatever connection or queue it came by.
    by_caller: HashSet<(Arc<str>, RequestId)>,
    deadlines: BTreeSet<(u64, Key)>,
    last: u64,
}

impl Requests {
    /// Begins the accounting of the frozen targets, due at `deadline` (monotonic ms).
    /// `None`: this user already has a request with this id under way.
    pub fn begin(&mut self, asked: Asked, targets: RoaringBitmap, deadline: u64) -> Option<Key> {
        let name = (asked.queue.clone(), asked.id.clone());
        if !self.by_caller.insert((asked.user.clone(), asked.id.clone())) {
            return None;
        }
        self.last += 1;
        let key = Key(self.last);
        self.by_id.insert(name, key);
        self.deadlines.insert((deadline, key));
        let (waiting, states) = (targets, BTreeMap::new());
        self.pending.insert(
            key,
            Pending {
                asked,
                deadline,
                cancelled: false,
                delivering: true,
                waiting,
                started: RoaringBitmap::new(),
                states,
            },
        );
        Some(key)
    }

    /// Looks at a request.
    pub fn get(&self, key: Key) -> Option<&Pending> {
        self.pending.get(&key)
    }

    /// The request of a reply queue and id.
    pub fn find(&self, queue: &Destination, id: &RequestId) -> Option<Key> {
        self.by_id.get(&(queue.clone(), id.clone())).copied()
    }

    /// The caller's request of this id.
    pub fn of_caller(&self, caller: SessionId, id: &RequestId) -> Option<Key> {
        self.pending.iter().find(|(_, p)| p.asked.caller == caller && p.asked.id == *id).map(|(key, _)| *key)
    }

    /// The row has begun. False if it said so before, or is not waited for.
    pub fn start(&mut self, key: Key, row: u32) -> bool {
        self.pending.get_mut(&key).is_some_and(|pending| pending.waiting.contains(row) && pending.started.insert(row))
    }

    /// The row ends in `state`. False if it was not asked or has already ended: nothing changes then.
    pub fn settle(&mut self, key: Key, row: u32, state: State) -> bool {
        let Some(pending) = self.pending.get_mut(&key) else { return false };
        if !pending.waiting.remove(row) {
            return false;
        }
        *pending.states.entry(state).or_default() += 1;
        true
    }

    /// Every row that still waits ends in `state`; the rows, in order.
    pub fn settle_rest(&mut self, key: Key, state: State) -> RoaringBitmap {
        let Some(pending) = self.pending.get_mut(&key) else { return RoaringBitmap::new() };
        let rest = std::mem::take(&mut pending.waiting);
        if !rest.is_empty() {
            *pending.states.entry(state).or_default() += rest.len();
        }
        rest
    }

    /// The fan-out is over.
    pub fn delivered(&mut self, key: Key) {
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.delivering = false;
        }
    }

    /// Ends a request in which nobody waits and whose fan-out is over: its account. `None`: not yet.
    pub fn finish(&mut self, key: Key) -> Option<(Pending, Done)> {
        let pending = self.pending.get(&key)?;
        if pending.delivering || !pending.waiting.is_empty() {
            return None;
        }
        let mut pending = self.drop(key)?;
        let states = std::mem::take(&mut pending.states);
        Some((pending, Done { states, without: Vec::new() }))
    }

    /// Forgets a request whose caller has left.
    pub fn drop(&mut self, key: Key) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        let Asked { user, id, queue, .. } = &pending.asked;
        self.by_id.remove(&(queue.clone(), id.clone()));
        self.by_caller.remove(&(user.clone(), id.clone()));
        self.deadlines.remove(&(pending.deadline, key));
        Some(pending)
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

    /// Requests that wait for this row.
    pub fn waiting_for(&self, row: u32) -> Vec<Key> {
        let mut keys: Vec<Key> =
            self.pending.iter().filter(|(_, p)| p.waiting.contains(row)).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Requests of a caller.
    pub fn asked_by(&self, caller: SessionId) -> Vec<Key> {
        self.pending.iter().filter(|(_, p)| p.asked.caller == caller).map(|(key, _)| *key).collect()
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
    use proptest::prelude::*;

    fn asked() -> Asked {
        Asked {
            caller: SessionId(1),
            user: "op".into(),
            id: RequestId::parse("r1").expect("an id"),
            queue: Destination::parse("/remote-temp-queue/b.1").expect("a queue"),
            destination: Destination::parse("/topic/prod.node.ping").expect("a topic"),
        }
    }

    proptest! {
        /// Whatever is reported, in whatever order and however often: every target is counted once.
        #[test]
        fn every_target_ends_in_exactly_one_state(
            targets in 0u32..20,
            reports in proptest::collection::vec((0u32..25, 0usize..State::ALL.len()), 0..80),
        ) {
            let mut requests = Requests::default();
            let key = requests.begin(asked(), (0..targets).collect(), 100).expect("new");
            let mut first = BTreeMap::new();
            for (row, state) in reports {
                let state = State::ALL[state];
                let counted = requests.settle(key, row, state);
                prop_assert_eq!(counted, row < targets && !first.contains_key(&row));
                if counted {
                    first.insert(row, state);
                }
                prop_assert!(requests.finish(key).is_none(), "the fan-out is not over");
            }
            let rest = requests.settle_rest(key, State::Expired);
            prop_assert_eq!(rest.len() as usize + first.len(), targets as usize);
            requests.delivered(key);
            let (_, done) = requests.finish(key).expect("all are accounted for");
            prop_assert_eq!(done.states.values().sum::<u64>(), u64::from(targets));
            prop_assert!(requests.is_empty() && requests.next_deadline().is_none());
        }
    }

    #[test]
    fn an_id_is_taken_until_its_request_ends() {
        let mut requests = Requests::default();
        let key = requests.begin(asked(), (0..1).collect(), 100).expect("new");
        assert!(requests.begin(asked(), (0..1).collect(), 100).is_none());
        requests.drop(key);
        assert!(requests.begin(asked(), (0..1).collect(), 100).is_some());
    }

    #[test]
    fn a_cancel_never_lengthens_the_deadline() {
        let mut requests = Requests::default();
        let key = requests.begin(asked(), (0..1).collect(), 100).expect("new");
        requests.cancel(key, 500);
        assert_eq!((requests.next_deadline(), requests.due(99)), (Some(100), None));
        requests.cancel(key, 50);
        assert_eq!((requests.next_deadline(), requests.due(50)), (Some(50), Some(key)));
    }
}

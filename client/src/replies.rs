//! Where does a request stand? The plain account of one request: every target in exactly one state, fed with events.
//!
//! Identities are counted, never replies. The first end of a node stands, whatever comes later and in whatever order.

use crate::events::{Answer, Refused, RequestEvent};
use crate::without::Without;
use muster_protocol::message::NodeId;
use muster_protocol::request::State;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The account of one request.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    nodes: BTreeMap<NodeId, Node>,
    planned: BTreeSet<NodeId>,
    announced: Option<u64>,
    asked: u64,
    states: BTreeMap<State, u64>,
    refused: Option<Refused>,
    done: Option<BTreeMap<State, u64>>,
    repeated: u64,
    moved: u64,
    without: Without,
    dry_run: bool,
}

/// What is known of one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Facts that the policy displays.
    pub display: Map<String, Value>,
    /// The broker that named it as a target last; empty until one has.
    pub broker: String,
    /// It said that the action is running.
    pub started: bool,
    /// How it ended, once it has.
    pub end: Option<End>,
    asked: bool,
}

/// How a node ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// Its one state.
    pub state: State,
    /// Its answer, if it gave one itself.
    pub answer: Option<Answer>,
    /// Why it ended without one.
    pub reason: String,
}

impl Replies {
    /// The account of a request that has just been sent.
    pub fn new() -> Replies {
        Replies::default()
    }

    /// Of a request that was narrowed to these nodes: those that the broker then doesn't name are [`vanished`](Self::vanished).
    pub fn planned(nodes: impl IntoIterator<Item = NodeId>) -> Replies {
        Replies { planned: nodes.into_iter().collect(), ..Replies::default() }
    }

    /// Of a request that is decided and not delivered: no answers are due.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Replies {
        self.dry_run = dry_run;
        self
    }

    /// Takes one event in. Returns whether it changed the account; a repetition doesn't.
    pub fn feed(&mut self, event: RequestEvent) -> bool {
        match event {
            RequestEvent::Accepted { broker, count, nodes, .. } => {
                // It is the running total of the brokers that have answered so far.
                self.announced = self.announced.max(Some(count));
                let mut changed = false;
                for node in nodes {
                    changed |= self.ask(node.id, &broker, node.display);
                }
                changed
            }
            RequestEvent::Started(id) => {
                let node = self.nodes.entry(id).or_default();
                !std::mem::replace(&mut node.started, true)
            }
            RequestEvent::Reply { node, display, answer } => {
                let known = self.nodes.entry(node).or_default();
                if known.display.is_empty() {
                    known.display = display;
                }
                self.end(node, End { state: answer.status, answer: Some(answer), reason: String::new() })
            }
            RequestEvent::Ended { state, nodes, reason } => {
                let mut changed = false;
                for id in nodes {
                    changed |= self.end(id, End { state, answer: None, reason: reason.clone() });
                }
                changed
            }
            RequestEvent::Refused(refused) => self.refused.replace(refused).is_none(),
            // The list of `done` holds, whatever was said before it.
            RequestEvent::Missing(missing) => self.done.is_none() && self.without.add(&missing),
            RequestEvent::Done(done) => {
                self.without = done.without.iter().collect();
                self.done.replace(done.states).is_none()
            }
        }
    }

    fn ask(&mut self, id: NodeId, broker: &str, display: Map<String, Value>) -> bool {
        let node = self.nodes.entry(id).or_default();
        if node.asked {
            self.repeated += 1;
            let moved = node.broker != broker;
            if moved {
                self.moved += 1;
                broker.clone_into(&mut node.broker);
            }
            return moved;
        }
        node.asked = true;
        node.broker = broker.to_owned();
        if !display.is_empty() {
            node.display = display;
        }
        self.asked += 1;
        if let Some(end) = &node.end {
            *self.states.entry(end.state).or_default() += 1;
        }
        true
    }

    fn end(&mut self, id: NodeId, end: End) -> bool {
        let node = self.nodes.entry(id).or_default();
        if node.end.is_some() {
            self.repeated += 1;
            return false;
        }
        if node.asked {
            *self.states.entry(end.state).or_default() += 1;
        }
        node.end = Some(end);
        true
    }

    /// The targets, in order of node id.
    pub fn targets(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.asked).map(|(id, node)| (*id, node))
    }

    /// The targets that have not ended.
    pub fn waiting(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.targets().filter(|(_, node)| node.end.is_none())
    }

    /// Nodes that were to be asked and were not among the targets: they left, or no longer match.
    pub fn vanished(&self) -> impl Iterator<Item = NodeId> {
        self.planned.iter().filter(|id| !self.nodes.get(id).is_some_and(|node| node.asked)).copied()
    }

    /// Nodes that answered although they were never named as targets.
    pub fn strays(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|(_, node)| !node.asked).map(|(id, _)| *id)
    }

    /// How many targets there are at the brokers that have answered so far; grows until all have.
    pub fn total(&self) -> Option<u64> {
        self.announced
    }

    /// How many targets have been named.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// How many targets ended in which state.
    pub fn states(&self) -> &BTreeMap<State, u64> {
        &self.states
    }

    /// How many targets have ended.
    pub fn ended(&self) -> u64 {
        self.states.values().sum()
    }

    /// Repetitions that were left out of the account.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Brokers whose nodes are not, or not all, among the targets.
    pub fn without(&self) -> &Without {
        &self.without
    }

    /// Whether nothing was to be delivered.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The broker's refusal, if it refused.
    pub fn refusal(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// Whether the broker has said that nothing follows.
    pub fn is_over(&self) -> bool {
        self.done.is_some() || self.refused.is_some()
    }

    /// Where the broker's own account differs from this one, in words; empty when they agree.
    pub fn disagreements(&self) -> Vec<String> {
        let mut found = Vec::new();
        let strays = self.strays().count();
        if strays > 0 {
            found.push(format!("{strays} nodes answered that were not among the targets"));
        }
        let Some(done) = &self.done else { return found };
        // A node that moved between brokers may be in the total twice, and a broker that went missing names no more nodes.
        let total =
            |count: &u64| *count < self.asked || (*count > self.asked + self.moved && !self.without.unreached());
        if let Some(announced) = self.announced.filter(total) {
            found.push(format!("the broker announced {announced} targets and named {}", self.asked));
        }
        let theirs: BTreeMap<State, u64> = done.iter().filter(|(_, n)| **n > 0).map(|(s, n)| (*s, *n)).collect();
        if theirs != self.states && !self.dry_run {
            let text = |states: &BTreeMap<State, u64>| match states.is_empty() {
                true => "none".to_owned(),
                false => states.iter().map(|(state, n)| format!("{state} {n}")).collect::<Vec<_>>().join(", "),
            };
            found.push(format!("the broker counts {}; this client saw {}", text(&theirs), text(&self.states)));
        }
        found
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::summary::{EXIT_MISSING, EXIT_OK, Summary};
    use muster_protocol::message::NodeKey;
    use muster_protocol::request::{Done, Missing, NodeRef, Why};
    use proptest::prelude::*;

    pub(crate) fn node(n: u8) -> NodeId {
        NodeId::of(&NodeKey::new([n; 32]))
    }

    pub(crate) fn accepted(count: u64, nodes: &[u8]) -> RequestEvent {
        accepted_by("noc1", count, nodes)
    }

    fn accepted_by(broker: &str, count: u64, nodes: &[u8]) -> RequestEvent {
        let nodes = nodes.iter().map(|&n| NodeRef { id: node(n), display: Map::new() }).collect();
        RequestEvent::Accepted { broker: broker.into(), count, more: false, nodes }
    }

    pub(crate) fn reply(n: u8, status: State) -> RequestEvent {
        let answer = Answer { status, data: Value::Null, error: None };
        RequestEvent::Reply { node: node(n), display: Map::new(), answer }
    }

    pub(crate) fn ended(state: State, nodes: &[u8]) -> RequestEvent {
        RequestEvent::Ended { state, nodes: nodes.iter().map(|&n| node(n)).collect(), reason: "gone".into() }
    }

    pub(crate) fn done(states: &[(State, u64)], without: &[Missing]) -> RequestEvent {
        RequestEvent::Done(Done { states: states.iter().copied().collect(), without: without.to_vec() })
    }

    pub(crate) fn missing(broker: &str, why: Why) -> Missing {
        Missing { broker: broker.into(), why, text: "no way to it".into(), nodes: Some(3) }
    }

    pub(crate) fn code(events: &[RequestEvent]) -> u8 {
        Summary::of([&fed(events)]).exit_code()
    }

    fn fed(events: &[RequestEvent]) -> Replies {
        let mut replies = Replies::new();
        events.iter().for_each(|event| {
            replies.feed(event.clone());
        });
        replies
    }

    #[test]
    fn an_account_that_is_not_closed_or_differs_is_never_a_success() {
        assert_eq!(code(&[]), EXIT_MISSING);
        assert_eq!(code(&[accepted(1, &[1]), reply(1, State::Ok)]), EXIT_MISSING);
        assert_eq!(code(&[accepted(1, &[1]), done(&[(State::Ok, 1)], &[])]), EXIT_MISSING);
        assert_eq!(code(&[accepted(2, &[1]), reply(1, State::Ok), done(&[(State::Ok, 1)], &[])]), EXIT_MISSING);
        let mut replies = Replies::new();
        for event in [accepted(2, &[1, 2]), reply(1, State::Ok), done(&[(State::Ok, 1), (State::Lost, 1)], &[])] {
            replies.feed(event.clone());
        }
        assert_eq!(replies.disagreements(), ["the broker counts ok 1, lost 1; this client saw ok 1"]);
        assert_eq!(replies.waiting().map(|(id, _)| id).collect::<Vec<_>>(), [node(2)]);
    }

    #[test]
    fn a_planned_node_that_was_not_asked_is_named() {
        let mut replies = Replies::planned([node(1), node(2)]);
        for event in [accepted(1, &[1]), reply(1, State::Ok), done(&[(State::Ok, 1)], &[])] {
            replies.feed(event.clone());
        }
        assert_eq!(replies.vanished().collect::<Vec<_>>(), [node(2)]);
        assert_eq!(Summary::of([&replies]).exit_code(), EXIT_MISSING);
    }

    #[test]
    fn a_dry_run_awaits_no_answers() {
        let mut replies = Replies::new().dry_run(true);
        replies.feed(accepted(2, &[1, 2]));
        replies.feed(done(&[], &[]));
        assert_eq!(Summary::of([&replies]).exit_code(), EXIT_OK);
    }

    #[test]
    fn the_total_grows_as_brokers_answer_and_a_node_that_moved_is_one_node() {
        let mut replies = Replies::new();
        let mut totals = Vec::new();
        for event in [
            accepted_by("noc1", 2, &[1, 2]),
            accepted_by("dc1", 3, &[3]),
            reply(2, State::Ok),
            accepted_by("dc2", 5, &[4, 2]), // node 2 has moved there
        ] {
            assert!(replies.feed(event.clone()));
            totals.push((replies.total(), replies.asked()));
        }
        assert_eq!(totals, [(Some(2), 2), (Some(3), 3), (Some(3), 3), (Some(5), 4)]);
        replies.feed(ended(State::Lost, &[1, 3, 4]));
        replies.feed(done(&[(State::Ok, 1), (State::Lost, 3)], &[]));
        assert!(replies.disagreements().is_empty(), "{:?}", replies.disagreements());
        let brokers: BTreeMap<_, _> = replies.targets().map(|(id, node)| (id, node.broker.as_str())).collect();
        assert_eq!(brokers[&node(2)], "dc2");
        // Fewer announced than named is wrong however the total came about; so is more, if nobody moved or is missing.
        let short = [accepted(1, &[1, 2]), ended(State::Lost, &[1, 2]), done(&[(State::Lost, 2)], &[])];
        assert_eq!(fed(&short).disagreements(), ["the broker announced 1 targets and named 2"]);
        let long = |without: &[Missing]| {
            fed(&[accepted(9, &[1]), reply(1, State::Ok), done(&[(State::Ok, 1)], without)]).disagreements()
        };
        assert_eq!(long(&[]), ["the broker announced 9 targets and named 1"]);
        assert_eq!(long(&[missing("dc1", Why::Refused)]).len(), 1);
        assert!(long(&[missing("dc1", Why::Unreachable)]).is_empty());
    }

    #[test]
    fn the_list_of_done_replaces_what_was_said_before() {
        let mut replies = Replies::new();
        let (dc1, dc2) = (missing("dc1", Why::Unreachable), missing("dc2", Why::Filtered));
        assert!(replies.feed(RequestEvent::Missing(dc1.clone())));
        assert!(!replies.feed(RequestEvent::Missing(dc1.clone())));
        replies.feed(RequestEvent::Missing(dc2.clone()));
        assert_eq!(replies.without().iter().collect::<Vec<_>>(), [&dc1, &dc2]);
        replies.feed(done(&[], std::slice::from_ref(&dc2)));
        assert!(!replies.feed(RequestEvent::Missing(dc1)));
        assert_eq!(replies.without().iter().collect::<Vec<_>>(), [&dc2], "dc1 has come back");
    }

    fn any_event() -> impl Strategy<Value = RequestEvent> {
        let state = || proptest::sample::select(State::ALL);
        prop_oneof![
            (0u64..9, proptest::collection::vec(0u8..8, 0..5)).prop_map(|(count, nodes)| accepted(count, &nodes)),
            (0u8..8).prop_map(|n| RequestEvent::Started(node(n))),
            (0u8..8, state()).prop_map(|(n, state)| reply(n, state)),
            (state(), proptest::collection::vec(0u8..8, 0..5)).prop_map(|(state, nodes)| ended(state, &nodes)),
            Just(done(&[], &[])),
            (0u8..3).prop_map(|n| RequestEvent::Missing(missing(&format!("dc{n}"), Why::Unreachable))),
        ]
    }

    proptest! {
        /// Whatever comes, each named target is waiting or in one state, and the sums are the nodes.
        #[test]
        fn no_events_lose_a_node_or_count_it_twice(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut replies = Replies::new();
            let mut asked = BTreeSet::new();
            let mut first_end: BTreeMap<NodeId, State> = BTreeMap::new();
            for event in &events {
                replies.feed(event.clone());
                match event {
                    RequestEvent::Accepted { nodes, .. } => asked.extend(nodes.iter().map(|node| node.id)),
                    RequestEvent::Reply { node, answer, .. } => { first_end.entry(*node).or_insert(answer.status); }
                    RequestEvent::Ended { state, nodes, .. } => {
                        nodes.iter().for_each(|id| { first_end.entry(*id).or_insert(*state); });
                    }
                    _ => {}
                }
                let named: BTreeSet<NodeId> = replies.targets().map(|(id, _)| id).collect();
                prop_assert_eq!(&named, &asked);
                prop_assert_eq!(replies.asked(), asked.len() as u64);
                prop_assert_eq!(replies.ended() + replies.waiting().count() as u64, replies.asked());
                for (id, node) in replies.targets() {
                    prop_assert_eq!(node.end.as_ref().map(|end| end.state), first_end.get(&id).copied());
                }
                for state in State::ALL {
                    let expected = asked.iter().filter(|id| first_end.get(id) == Some(state)).count() as u64;
                    prop_assert_eq!(replies.states().get(state).copied().unwrap_or(0), expected);
                }
            }
        }

        /// One end for each node, in any order and repeated: always the same account.
        #[test]
        fn order_and_repetition_do_not_matter(
            ends in proptest::collection::vec(proptest::sample::select(State::ALL), 1..8),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let ids: Vec<u8> = (0..ends.len() as u8).collect();
            let mut states: BTreeMap<State, u64> = BTreeMap::new();
            ends.iter().for_each(|state| *states.entry(*state).or_default() += 1);
            let mut events: Vec<RequestEvent> = ids.iter().map(|&n| accepted(ids.len() as u64, &[n])).collect();
            events.extend(ids.iter().zip(&ends).map(|(&n, &state)| ended(state, &[n])));
            events.extend(ids.iter().map(|&n| RequestEvent::Started(node(n))));
            let mut replies = Replies::new();
            for index in order {
                replies.feed(index.get(&events).clone());
            }
            events.iter().rev().for_each(|event| { replies.feed(event.clone()); });
            replies.feed(RequestEvent::Done(Done { states: states.clone(), without: Vec::new() }));
            prop_assert_eq!(replies.states(), &states);
            prop_assert!(replies.disagreements().is_empty());
            prop_assert_eq!(replies.waiting().count(), 0);
        }
    }
}

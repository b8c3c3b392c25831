//! Is each node in one place, and does it end once? Whatever brokers report, in whatever order, and whoever is given up.

use super::*;
use muster_protocol::link::Letter;
use muster_protocol::message::NodeKey;
use muster_protocol::request::Why;
use proptest::prelude::*;

const NAMES: [&str; 3] = ["dc1", "dc2", "noc1"];

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).expect("a name")
}

fn node(number: u8) -> NodeId {
    NodeId::of(&NodeKey::new([number; 32]))
}

fn asked(id: &str, hold: bool) -> Asked {
    let letter = Letter {
        caller: "noc".into(),
        destination: "/topic/prod.node.ping".into(),
        headers: Vec::new(),
        target: None,
        nodes: None,
        reply_to: None,
        request: Some(id.into()),
        expires_within: None,
    };
    let max_targets = hold.then_some(5);
    let terms = Terms {
        start_within: 10_000,
        reply_within: 10_000,
        max_targets,
        expect_targets: None,
        dry_run: false,
        allow_partial: false,
    };
    let prepare = Prepare { serial: 1, letter, start_within: 10_000, reply_within: 10_000, dry_run: false, hold };
    Asked {
        caller: SessionId(1),
        user: "noc".into(),
        id: RequestId::parse(id).expect("an id"),
        queue: Destination::parse("/remote-temp-queue/noc1.1").expect("a queue"),
        destination: Destination::parse("/topic/prod.node.ping").expect("a topic"),
        terms,
        bound: None,
        prepare: Arc::new(prepare),
        body: Bytes::new(),
    }
}

fn begin(asks: &mut Asks, hold: bool) -> u64 {
    let audience = Audience { to: vec![name("dc1"), name("dc2")], without: Vec::new() };
    asks.begin(asked("r1", hold), (&name("noc1"), 1), audience, 0).expect("a new request")
}

fn missing(broker: &str) -> Missing {
    Missing { broker: broker.into(), why: Why::Unreachable, text: "gone".into(), nodes: None }
}

/// What account.rs does when a broker does not answer.
fn give_up(ask: &mut Ask, broker: &str) -> Vec<NodeId> {
    let nodes = ask.waiting_at(&name(broker));
    let ended = nodes.into_iter().filter(|node| ask.end(&name(broker), *node, State::Lost)).collect();
    if !ask.give_up(&name(broker)) {
        ask.miss(missing(broker));
    }
    ended
}

#[derive(Debug, Clone)]
enum Step {
    /// The next chunk of a broker's targets.
    Name(usize, usize),
    End(usize, u8),
    GiveUp(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize, 1..4usize).prop_map(|(broker, size)| Step::Name(broker, size)),
        6 => (0..3usize, 0..8u8).prop_map(|(broker, node)| Step::End(broker, node)),
        1 => (0..3usize).prop_map(Step::GiveUp),
    ];
    prop::collection::vec(step, 0..60)
}

/// The targets of each broker: node and session number, some of them at two brokers.
fn targets() -> impl Strategy<Value = Vec<BTreeMap<u8, u64>>> {
    prop::collection::vec(prop::collection::btree_map(0..8u8, 1..5u64, 0..6), 3)
}

proptest! {
    #[test]
    fn every_node_that_was_named_is_in_one_place_and_ends_once(targets in targets(), steps in steps()) {
        let mut asks = Asks::default();
        let serial = begin(&mut asks, false);
        let mut left: Vec<Vec<(u8, u64)>> = targets.iter().map(|all| all.iter().map(|(n, s)| (*n, *s)).collect()).collect();
        let mut has_begun = [false; 3];
        let (mut named, mut ended) = (BTreeSet::new(), BTreeSet::new());
        let all_of_it = (0..3).map(|broker| Step::Name(broker, 9)).chain((0..3).map(Step::GiveUp));
        for step in steps.into_iter().chain(all_of_it) {
            let ask = asks.get_mut(serial).expect("it is open");
            match step {
                Step::Name(broker, size) => {
                    let count = targets[broker].len() as u64;
                    let size = size.min(left[broker].len());
                    let chunk: Vec<(u8, u64)> = left[broker].drain(..size).collect();
                    if chunk.is_empty() && has_begun[broker] {
                        continue;
                    }
                    has_begun[broker] = true;
                    let new = ask.accept(&name(NAMES[broker]), count, chunk.iter().map(|(n, s)| (node(*n), *s)));
                    let fresh: BTreeSet<NodeId> =
                        chunk.iter().map(|(n, _)| node(*n)).filter(|id| named.insert(*id)).collect();
                    prop_assert_eq!(new, fresh, "each node is named to the caller once");
                }
                Step::End(broker, number) => {
                    let is_there = ask.waiting_at(&name(NAMES[broker])).contains(&node(number));
                    prop_assert_eq!(ask.end(&name(NAMES[broker]), node(number), State::Ok), is_there);
                    if is_there {
                        prop_assert!(ended.insert(node(number)), "a second end");
                    }
                }
                Step::GiveUp(broker) => {
                    for id in give_up(ask, NAMES[broker]) {
                        prop_assert!(ended.insert(id), "a second end");
                    }
                }
            }
            let waiting: Vec<NodeId> = NAMES.iter().flat_map(|broker| ask.waiting_at(&name(broker))).collect();
            let open: BTreeSet<NodeId> = named.difference(&ended).copied().collect();
            prop_assert_eq!(waiting.len(), open.len());
            prop_assert_eq!(waiting.into_iter().collect::<BTreeSet<_>>(), open);
            prop_assert_eq!(ask.waiting(), (named.len() - ended.len()) as u64);
        }
        let (_, done) = asks.finish(serial).expect("everybody is accounted for");
        prop_assert_eq!(done.states.values().sum::<u64>(), named.len() as u64);
        prop_assert!(done.without.is_empty(), "all targets of all brokers are in the account");
        prop_assert!(asks.is_empty() && asks.next_deadline().is_none());
    }

    /// Reports are taken once and in order, whatever comes twice or too early.
    #[test]
    fn reports_are_heard_in_order(numbers in prop::collection::vec(1..9u64, 0..80)) {
        let mut asks = Asks::default();
        let serial = begin(&mut asks, false);
        let ask = asks.get_mut(serial).expect("it is open");
        let mut heard = 0;
        for number in numbers {
            match ask.hears(&name("dc1"), 3, number) {
                Hears::Next => {
                    heard += 1;
                    prop_assert_eq!(number, heard);
                }
                Hears::Again(upto) => prop_assert!(upto == heard && number != heard + 1),
                Hears::Nothing => prop_assert!(false, "it takes part"),
            }
        }
    }

    /// However time passes and ways come and go: a look is always due in the end, never for ever at one moment, and after the
    /// deadline nothing is left.
    #[test]
    fn looks_end(hold in any::<bool>(), pauses in prop::collection::vec((0..4_000u64, any::<bool>()), 0..30)) {
        let mut asks = Asks::default();
        let serial = begin(&mut asks, hold);
        let (mut now, mut lost_at) = (0, None);
        for (pause, is_lost) in pauses.into_iter().chain([(60_000, false)]) {
            now += pause;
            lost_at = is_lost.then(|| lost_at.unwrap_or(now));
            asks.look_at_all(now);
            let mut looks = 0;
            while let Some(serial) = asks.due(now) {
                looks += 1;
                prop_assert!(looks < 20, "it runs in circles");
                match asks.look(serial, now, |broker| lost_at.filter(|_| broker.as_str() == "dc1")) {
                    Some(Due::GivenUp(broker, _)) => { give_up(asks.get_mut(serial).expect("open"), broker.as_str()); }
                    Some(Due::Expired) => {
                        let ask = asks.get_mut(serial).expect("open");
                        for broker in ask.open_parts() {
                            give_up(ask, broker.as_str());
                        }
                        ask.held = None;
                        asks.finish(serial);
                    }
                    Some(Due::Again(_)) | None => {}
                }
            }
            prop_assert!(asks.next_deadline().is_none_or(|at| at > now));
        }
        prop_assert!(asks.get(serial).is_none_or(|ask| ask.open_parts().is_empty()));
    }
}

#[test]
fn a_node_that_moved_is_counted_once_and_waits_where_its_later_session_is() {
    let mut asks = Asks::default();
    let serial = begin(&mut asks, true);
    let ask = asks.get_mut(serial).expect("it is open");
    ask.accept(&name("dc1"), 1, [(node(1), 5)].into_iter());
    ask.accept(&name("noc1"), 0, [].into_iter());
    ask.accept(&name("dc2"), 2, [(node(2), 1)].into_iter());
    assert!(!ask.is_counted(), "dc2 may yet name a node that dc1 has named");
    ask.accept(&name("dc2"), 2, [(node(1), 7)].into_iter());
    assert!(ask.is_counted());
    assert_eq!((ask.count(), ask.waiting()), (2, 2));
    assert!(!ask.end(&name("dc1"), node(1), State::Lost), "that was the earlier session");
    assert_eq!(ask.waiting_at(&name("dc2")).len(), 2);
}

#[test]
fn who_is_given_up_comes_back_unless_a_guard_was_decided_without_it() {
    for hold in [false, true] {
        let mut asks = Asks::default();
        let serial = begin(&mut asks, hold);
        let ask = asks.get_mut(serial).expect("it is open");
        give_up(ask, "dc2");
        assert_eq!(ask.missing().count(), 1);
        ask.held = None;
        let hears = ask.hears(&name("dc2"), 1, 1);
        assert_eq!(hears, if hold { Hears::Nothing } else { Hears::Next });
        if !hold {
            ask.accept(&name("dc2"), 1, [(node(1), 1)].into_iter());
            assert_eq!((ask.missing().count(), ask.waiting()), (0, 1));
        }
    }
}

#[test]
fn another_life_of_a_broker_is_not_heard_for_the_one_that_took_part() {
    let mut asks = Asks::default();
    let serial = begin(&mut asks, false);
    let ask = asks.get_mut(serial).expect("it is open");
    assert_eq!(ask.hears(&name("dc1"), 1, 1), Hears::Next);
    assert_eq!(ask.hears(&name("dc1"), 2, 1), Hears::Nothing);
    assert_eq!(ask.hears(&name("dc9"), 1, 1), Hears::Nothing, "it was not asked");
    assert_eq!(asks.of_other_life(&name("dc1"), 2), [serial]);
    assert!(asks.of_other_life(&name("dc1"), 1).is_empty() && asks.of_other_life(&name("dc2"), 2).is_empty());
}

#[test]
fn ids_are_the_callers_own_and_free_again_after_the_end() {
    let mut asks = Asks::default();
    let serial = begin(&mut asks, false);
    let audience = || Audience { to: Vec::new(), without: Vec::new() };
    assert_eq!(asks.begin(asked("r1", false), (&name("noc1"), 1), audience(), 0), None);
    let other = asks.begin(asked("r2", false), (&name("noc1"), 1), audience(), 0).expect("another id");
    let id = RequestId::parse("r1").expect("an id");
    assert_eq!(asks.of_caller(SessionId(1), "noc", &id), Some(serial));
    assert_eq!(asks.of_caller(SessionId(2), "noc", &id), None, "of another connection");
    asks.drop(serial);
    assert!(asks.begin(asked("r1", false), (&name("noc1"), 1), audience(), 0).is_some_and(|serial| serial > other));
}

//! Do the lanes keep their order, their bound, and their promises about what may be lost?

use super::*;
use muster_protocol::error::Code;
use muster_protocol::link::{Beat, Digest, Direct, Interest, LinkState, Noted, Want, Word};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).unwrap()
}

/// A frame that says its number in its head, of about `bytes`.
fn freight(number: u64, bytes: usize, droppable: bool, expires: Option<u64>) -> Freight {
    let word = Word::Noted(Noted { upto: number });
    let head = Head::Direct(Direct { from: name("a"), instance: 1, to: name("b"), hops: 0, word });
    Freight { head: head.into(), body: vec![0; bytes].into(), expires, droppable, since: 0 }
}

fn ping(tick: u64) -> Arc<Head> {
    Head::Ping(Beat { tick }).into()
}

/// What an item is, in short.
fn shown(item: Item) -> String {
    match item {
        Item::Control(head) => match &*head {
            Head::Ping(beat) => format!("ping {}", beat.tick),
            Head::Alive(beat) => format!("alive {}", beat.tick),
            Head::Digest(digest) => format!("digest {}", digest.have.len()),
            Head::Want(want) => format!("want {} {:?}", want.origin, want.what),
            Head::LinkState(state) => format!("links {} {}", state.origin, state.sequence),
            Head::Interest(interest) => format!("interest {} {}", interest.origin, interest.sequence),
            other => format!("{other:?}"),
        },
        Item::Data(freight) => match &*freight.head {
            Head::Direct(Direct { word: Word::Noted(noted), .. }) => noted.upto.to_string(),
            other => format!("{other:?}"),
        },
        Item::Close(refusal) => format!("close {:?}", refusal.map(|refusal| refusal.code)),
    }
}

fn drain(reader: &mut LinkReader) -> Vec<String> {
    std::iter::from_fn(|| reader.try_next()).map(shown).collect()
}

fn links(origin: &str, sequence: u64) -> Arc<Head> {
    let state = LinkState {
        origin: name(origin),
        instance: 1,
        sequence,
        incarnation: 1,
        born: 1,
        draining: false,
        neighbours: BTreeMap::new(),
    };
    Head::LinkState(state).into()
}

fn interest(origin: &str, sequence: u64) -> Arc<Head> {
    let (add, remove) = (BTreeSet::new(), BTreeSet::new());
    Head::Interest(Interest { origin: name(origin), instance: 1, sequence, base: None, add, remove }).into()
}

#[test]
fn newer_control_replaces_what_waits_and_goes_before_data() {
    let (outbox, mut reader) = lanes(10_000);
    outbox.data(freight(1, 0, false, None), 0).unwrap();
    let want = |what| Arc::new(Head::Want(Want { origin: name("a"), what }));
    for head in [
        links("a", 1),
        ping(1),
        links("b", 1),
        interest("a", 1),
        Head::Digest(Digest::default()).into(),
        want(Record::Summary),
        want(Record::Interest),
        Head::Alive(Beat { tick: 1 }).into(),
        ping(2),
        links("a", 2),
        want(Record::Summary),
        Head::Alive(Beat { tick: 2 }).into(),
    ] {
        outbox.control(head);
    }
    outbox.data(freight(2, 0, true, None), 0).unwrap();
    assert_eq!(reader.try_control().map(shown).as_deref(), Some("links a 2"));
    outbox.control(links("a", 3));
    let expected = [
        "ping 2",
        "links b 1",
        "interest a 1",
        "digest 0",
        "want a Summary",
        "want a Interest",
        "alive 2",
        "links a 3",
        "1",
        "2",
    ];
    assert_eq!(drain(&mut reader), expected);
    outbox.data(freight(3, 0, true, None), 0).unwrap();
    assert!(reader.try_control().is_none(), "data stays where a body is being sent");
}

#[test]
fn a_full_lane_drops_the_expired_then_the_droppable_oldest_first() {
    let (outbox, mut reader) = lanes(6000);
    for (number, droppable, expires) in [(1, true, None), (2, false, Some(5)), (3, true, None), (4, false, None)] {
        outbox.data(freight(number, 1000, droppable, expires), 0).unwrap();
    }
    assert_eq!(outbox.data(freight(5, 1000, false, None), 5), Ok(()), "2 had expired");
    assert_eq!(outbox.dropped(), 1);
    assert_eq!(outbox.data(freight(6, 1000, true, None), 5), Ok(()), "1 is the oldest");
    assert_eq!(outbox.dropped(), 2);
    assert_eq!(outbox.data(freight(7, 2000, false, None), 5), Ok(()), "3 and 6 may be dropped");
    assert_eq!(outbox.dropped(), 4);
    assert_eq!(outbox.data(freight(8, 2000, false, None), 5), Err(Full));
    assert_eq!(outbox.dropped(), 4, "whoever pushed a request knows of it");
    assert_eq!(outbox.data(freight(9, 2000, true, None), 5), Err(Full));
    assert_eq!(outbox.dropped(), 5, "a message that did not get in is counted");
    assert_eq!(drain(&mut reader), ["4", "5", "7"]);
    assert_eq!(outbox.backlog(), 0);
}

#[test]
fn nothing_is_dropped_for_what_does_not_fit_all_the_same() {
    let (outbox, mut reader) = lanes(4000);
    outbox.data(freight(1, 2000, false, None), 0).unwrap();
    outbox.data(freight(2, 1000, true, None), 0).unwrap();
    assert_eq!(outbox.data(freight(3, 3000, false, None), 0), Err(Full));
    assert_eq!(drain(&mut reader), ["1", "2"]);
}

#[test]
fn one_frame_larger_than_the_limit_still_passes() {
    let (outbox, mut reader) = lanes(1000);
    assert!(outbox.has_room());
    outbox.data(freight(1, 5000, false, None), 0).unwrap();
    assert!(!outbox.has_room());
    assert_eq!(outbox.data(freight(2, 0, false, None), 0), Err(Full));
    assert_eq!(drain(&mut reader), ["1"]);
    outbox.data(freight(3, 10, true, None), 0).unwrap();
    assert_eq!(outbox.data(freight(4, 5000, false, None), 0), Ok(()), "where all else may go");
    assert_eq!(drain(&mut reader), ["4"]);
}

#[test]
fn texts_of_the_head_take_room() {
    let (outbox, _reader) = lanes(10_000);
    let mut long = freight(1, 0, false, None);
    let refused = muster_protocol::link::Refused { code: "x".to_owned(), text: "x".repeat(3000) };
    let said = muster_protocol::link::Said::Refused(refused);
    let word = Word::Answer(muster_protocol::link::Answer { serial: 1, said });
    long.head = Head::Direct(Direct { from: name("a"), instance: 1, to: name("b"), hops: 0, word }).into();
    outbox.data(long, 0).unwrap();
    assert!(outbox.backlog() > 3000 && outbox.backlog() < 4000, "{}", outbox.backlog());
}

#[test]
fn closing_drops_data_says_control_and_is_the_last_word() {
    let (outbox, mut reader) = lanes(10_000);
    outbox.data(freight(1, 0, false, None), 0).unwrap();
    outbox.control(ping(1));
    outbox.close(Some(Refusal::new(Code::Denied, "no")));
    outbox.close(None);
    outbox.control(ping(2));
    assert_eq!(outbox.data(freight(2, 0, false, None), 0), Ok(()), "ignored");
    assert_eq!((outbox.backlog(), outbox.dropped()), (0, 1));
    assert_eq!(reader.try_control().map(shown).as_deref(), Some("ping 1"));
    assert!(reader.try_control().is_none());
    assert_eq!(drain(&mut reader), ["close Some(Denied)"]);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Count>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn whoever_waits_is_woken_once_for_whatever_comes() {
    let (outbox, mut reader) = lanes(10_000);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = count.clone().into();
    let mut poll = || reader.poll_next(&mut Context::from_waker(&waker)).map(shown);
    let pushes: [(&dyn Fn(), &str); 3] = [
        (&|| outbox.control(ping(1)), "ping 1"),
        (&|| outbox.data(freight(1, 0, false, None), 0).unwrap(), "1"),
        (&|| outbox.close(None), "close None"),
    ];
    for (woken, (push, expected)) in pushes.into_iter().enumerate() {
        assert!(poll().is_pending());
        push();
        push();
        assert_eq!(count.0.load(Ordering::SeqCst), woken + 1);
        assert_eq!(poll(), Poll::Ready(expected.to_owned()));
        if woken == 1 {
            assert_eq!(poll(), Poll::Ready("1".to_owned()), "data is not coalesced");
        }
    }
    assert!(poll().is_pending());
}

proptest! {
    #[test]
    fn data_keeps_its_order_its_bound_and_its_count(
        steps in prop::collection::vec((0usize..1500, any::<bool>(), prop::option::of(0u64..60), 0u8..4), 1..80),
    ) {
        const LIMIT: usize = 5000;
        let (outbox, mut reader) = lanes(LIMIT);
        let (mut in_lane, mut refused, mut out) = (0u64, 0, Vec::new());
        for (now, (bytes, droppable, expires, pop)) in (0u64..).zip(steps) {
            let before = outbox.dropped();
            match outbox.data(freight(now, bytes, droppable, expires), now) {
                Ok(()) => in_lane += 1,
                Err(Full) => {
                    refused += u64::from(droppable);
                    prop_assert!(outbox.backlog() + bytes + 256 > LIMIT);
                }
            }
            prop_assert!(outbox.backlog() <= LIMIT);
            prop_assert!(outbox.dropped() >= before);
            if pop == 0 && let Some(item) = reader.try_next() {
                out.push(shown(item).parse::<u64>().unwrap());
            }
        }
        out.extend(drain(&mut reader).iter().map(|number| number.parse::<u64>().unwrap()));
        prop_assert!(out.is_sorted());
        prop_assert_eq!(out.len() as u64 + outbox.dropped() - refused, in_lane);
        prop_assert_eq!(outbox.backlog(), 0);
    }
}

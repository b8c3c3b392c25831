//! What goes over a link that is up, and what ends it?

use super::*;
use crate::broker::mesh::lanes::{Freight, Full};
use muster_protocol::link::{Beat, Direct, Heard, RequestKey, Word};

fn ping(tick: u64) -> Head {
    Head::Ping(Beat { tick })
}

/// A frame of the data lane; `number` tells one from another.
fn freight(number: u64, body: Bytes) -> Freight {
    let key = RequestKey { broker: name("noc1"), instance: 1, serial: number };
    let word = Word::Heard(Heard { key, upto: number });
    let head = Head::Direct(Direct { from: name("noc1"), instance: 1, to: name("dc1"), hops: 0, word });
    Freight { head: Arc::new(head), body, expires: None, droppable: false, since: 0 }
}

fn number_of(head: &Head) -> u64 {
    match head {
        Head::Direct(Direct { word: Word::Heard(heard), .. }) => heard.upto,
        other => panic!("{other:?}"),
    }
}

async fn linked(world: &World) -> (Side, Side, LinkOpened, LinkOpened) {
    let mut a = plan("noc1").start(world).await;
    let mut b = Plan { links: vec![link("noc1", a.address)], ..plan("dc1") }.start(world).await;
    let (at_a, at_b) = (a.opened().await, b.opened().await);
    (a, b, at_a, at_b)
}

#[tokio::test]
async fn frames_arrive_whole_in_order_and_both_sides_count_the_same() {
    let world = World::new();
    let (a, mut b, at_a, _at_b) = linked(&world).await;
    let lengths = [0, 1, 16_384, 16_385, 150_000, 3];
    for (number, length) in lengths.into_iter().enumerate() {
        at_a.outbox.data(freight(number as u64, body(length)), 0).unwrap();
        at_a.outbox.control(Arc::new(ping(number as u64)));
    }
    let (mut bodies, mut pinged) = (Vec::new(), 0);
    while bodies.len() < lengths.len() || pinged < 5 {
        for frame in b.frames().await {
            match &frame.head {
                // Pings that wait are one.
                Head::Ping(beat) => pinged = beat.tick,
                head => bodies.push((number_of(head), frame.body)),
            }
        }
    }
    let expected: Vec<(u64, Bytes)> = (0..).zip(lengths.map(body)).collect();
    assert_eq!(bodies, expected);
    let same = |b: &Side| {
        let (out, into) = (a.status("dc1").counts, b.status("noc1").counts);
        (out.control_out, out.data_out) == (into.control_in, into.data_in)
    };
    b.until("the same counts", same).await;
    assert_eq!(a.status("dc1").counts.data_out.frames, 6);
    assert!(a.status("dc1").counts.data_out.bytes > 182_773);
}

#[tokio::test]
async fn what_expired_or_is_too_large_for_the_other_side_is_not_sent() {
    let world = World::new();
    let (a, mut b, at_a, _at_b) = linked(&world).await;
    at_a.outbox.data(Freight { expires: Some(0), ..freight(1, body(5)) }, 0).unwrap();
    at_a.outbox.data(freight(2, body(200_001)), 0).unwrap();
    at_a.outbox.data(freight(3, body(200_000)), 0).unwrap();
    let frames = b.frames().await;
    assert_eq!(frames.iter().map(|frame| number_of(&frame.head)).collect::<Vec<_>>(), [3]);
    let counts = a.status("dc1").counts;
    assert_eq!((counts.expired, counts.too_large), (1, 1));
    assert_eq!(a.status("dc1").state, LinkState::Up);
}

#[tokio::test]
async fn the_last_word_of_the_broker_is_heard_and_the_link_comes_again() {
    let world = World::new();
    let (mut a, mut b, at_a, _at_b) = linked(&world).await;
    at_a.outbox.close(Some(Refusal::new(Code::NameInUse, "two of that name")));
    assert_eq!(a.closed().await, "name-in-use: two of that name");
    assert_eq!(b.closed().await, "refused by the other side: name-in-use: two of that name");
    b.until_alarm("two of that name").await;
    let again = (a.opened().await, b.opened().await);
    assert!(again.0.nonce > at_a.nonce && again.0.link > at_a.link);
    assert_eq!(again.0.nonce, again.1.nonce);
}

#[tokio::test]
async fn a_newer_connection_is_no_alarm() {
    let world = World::new();
    let (mut a, mut b, at_a, _at_b) = linked(&world).await;
    at_a.outbox.close(Some(Refusal::new(Code::Superseded, "a newer link is used")));
    a.closed().await;
    b.closed().await;
    assert_eq!((a.links.alarms(), b.links.alarms()), (vec![], vec![]));
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_link_with_a_word() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let mut second_hello = BytesMut::new();
    encode(&Head::Hello(hello("dc1")), &mut second_hello).unwrap();
    for (bytes, code) in [
        (&[0, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff][..], "bad-frame"),
        (&[0, 0, 0, 0, 0, 0, 0, 9], "bad-frame"),
        (&[0x00, 0x20, 0, 0, 0, 0, 0, 0], "too-large"),
        (&[0, 0, 0, 9, 0, 0x10, 0, 0], "too-large"),
        (&second_hello, "bad-frame"),
    ] {
        let (mut raw, _opened) = good(&world, &mut noc1).await;
        raw.write(bytes).await;
        let refused = raw.refused().await;
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(noc1.closed().await.starts_with(code));
        assert_eq!(raw.hear().await.unwrap_err(), "closed");
        drop(raw);
        noc1.until("over", |side| side.status("dc1").state == LinkState::Refused).await;
    }
    good(&world, &mut noc1).await;
}

#[tokio::test]
async fn a_frame_that_is_cut_off_ends_the_link_and_is_not_acted_on() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let (mut raw, _opened) = good(&world, &mut noc1).await;
    let mut out = BytesMut::new();
    let whole = freight(1, body(40_000));
    let mut sending = Sending::new(&whole.head, whole.body).unwrap();
    assert!(sending.next_unit(&mut out));
    raw.write(&out).await;
    drop(raw);
    loop {
        match noc1.event().await {
            Event::LinkClosed { .. } => break,
            Event::LinkAlive(_) => {}
            other => panic!("{other:?}"),
        }
    }
    noc1.until("down", |side| side.status("dc1").state == LinkState::Down).await;
    good(&world, &mut noc1).await;
}

#[tokio::test]
async fn frames_of_a_newer_version_are_ignored() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let (mut raw, _opened) = good(&world, &mut noc1).await;
    // {"type": "gossip", "x": 1}, with a body.
    let map = b"\x82\xa4type\xa6gossip\xa1x\x01";
    let mut unknown = vec![0, 0, 0, map.len() as u8, 0, 0, 0, 3];
    unknown.extend_from_slice(map);
    unknown.extend_from_slice(b"abc");
    raw.write(&unknown).await;
    raw.say(&ping(9)).await;
    let frames = noc1.frames().await;
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].head, ping(9));
    assert_eq!(noc1.status("dc1").counts.unknown, 1);
}

#[tokio::test]
async fn bytes_that_make_no_frame_yet_are_signs_of_life() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let (mut raw, opened) = good(&world, &mut noc1).await;
    let large = freight(1, body(100_000));
    let mut sending = Sending::new(&large.head, large.body).unwrap();
    let mut out = BytesMut::new();
    while sending.next_unit(&mut out) {}
    // Slowly, until somebody says that it lives; a byte is left for the end.
    let mut sent = 0;
    let alive = loop {
        assert!(sent < out.len() - 1, "no sign of life");
        raw.write(&out[sent..=sent]).await;
        sent += 1;
        match timeout(Duration::from_millis(20), noc1.event()).await {
            Ok(Event::LinkAlive(link)) => break link,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    };
    assert_eq!(alive, opened.link);
    raw.write(&out[sent..]).await;
    assert_eq!(noc1.frames().await[0].body, body(100_000));
}

#[tokio::test]
async fn a_peer_that_does_not_read_blocks_nobody_and_is_given_up() {
    let world = World::new();
    let mut noc1 = Plan { stall: Duration::from_secs(2), ..plan("noc1") }.start(&world).await;
    let (mut raw, opened) = good(&world, &mut noc1).await;
    // Until no byte moves any more: the buffers of the system are full, and so is the lane, which says so at once.
    let (mut before, mut still) = (0, 0);
    while still < 20 {
        while opened.outbox.data(freight(0, body(150_000)), 0) != Err(Full) {}
        sleep(Duration::from_millis(5)).await;
        let bytes = noc1.status("dc1").counts.data_out.bytes;
        still = if bytes == before { still + 1 } else { 0 };
        before = bytes;
    }
    // What the peer says is heard while the writer is stuck.
    raw.say(&ping(1)).await;
    assert_eq!(noc1.frames().await[0].head, ping(1));
    let reason = noc1.closed().await;
    assert!(reason.contains("does not read"), "{reason}");
    noc1.until_alarm("does not read").await;
    good(&world, &mut noc1).await;
}

#[tokio::test]
async fn a_broker_that_does_not_keep_up_slows_its_neighbour_and_calls_it_alive() {
    let world = World::new();
    let (mut a, mut b, at_a, at_b) = linked(&world).await;
    // The tickets are kept: the reader waits, and what has come counts as life.
    let (mut tickets, mut taken) = (Vec::new(), 0u64);
    loop {
        while at_a.outbox.data(freight(taken, body(150_000)), 0).is_ok() {
            taken += 1;
        }
        match timeout(Duration::from_millis(50), b.event()).await {
            Ok(Event::LinkFrames { ticket, .. }) => tickets.push(ticket),
            Ok(Event::LinkAlive(link)) => break assert_eq!(link, at_b.link),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
    assert!(taken < 500, "back-pressure came after {taken} frames");
    tickets.clear();
    let mut last = None;
    while last != Some(taken - 1) {
        match b.event().await {
            Event::LinkFrames { frames, .. } => last = frames.last().map(|frame| number_of(&frame.head)).or(last),
            Event::LinkAlive(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(a.events.try_recv().is_err(), "the sender's link lives");
}

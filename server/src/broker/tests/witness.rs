//! Do the ends of audit logs get to all others, once each, and does it show at once that a log was cut?

use super::across::{Star, arrives};
use super::*;
use crate::broker::record::Record;
use muster_protocol::link::{AuditHead, Head, Load};

fn head(n: u64, digit: char) -> AuditHead {
    AuditHead { n, hash: digit.to_string().repeat(64), at: 1_700_000_000_000 + n }
}

/// noc1 in the middle, dc1 and dc2, all of which keep records.
fn star() -> Star {
    let mut star = Star::new();
    star.houses.iter_mut().for_each(|house| house.broker.keep_records());
    star
}

fn tell(star: &mut Star, at: usize, head: AuditHead) {
    star.houses[at].handle(Event::AuditHead(head));
    star.pump();
}

/// What a broker put on record of the others' logs since the last call: whose, the line, and whether something is wrong with it.
fn heard(star: &mut Star, at: usize) -> Vec<(String, u64, Option<String>)> {
    let records = star.houses[at].broker.take_records();
    let heads = records.into_iter().filter_map(|record| match record {
        Record::PeerHead { peer, head, fault } => Some((peer.to_string(), head.n, fault)),
        _ => None,
    });
    heads.collect()
}

fn of(name: &str, n: u64) -> (String, u64, Option<String>) {
    (name.to_owned(), n, None)
}

fn alarms(star: &Star, at: usize) -> Vec<String> {
    star.houses[at].broker.mesh().alarms().map(str::to_owned).collect()
}

#[test]
fn every_other_broker_puts_it_on_record_also_beyond_a_neighbour() {
    let mut star = star();
    tell(&mut star, 1, head(7, 'a'));
    assert_eq!((heard(&mut star, 0), heard(&mut star, 2)), (vec![of("dc1", 7)], vec![of("dc1", 7)]));
    assert!(heard(&mut star, 1).is_empty(), "its own it has");
    tell(&mut star, 1, head(9, 'b'));
    tell(&mut star, 0, head(3, 'c'));
    assert_eq!(heard(&mut star, 2), [of("dc1", 9), of("noc1", 3)]);
    let record = Record::PeerHead {
        peer: muster_protocol::message::BrokerName::parse("dc1").expect("a name"),
        head: head(7, 'a'),
        fault: None,
    };
    let head = json!({ "n": 7, "hash": "a".repeat(64), "at": 1_700_000_000_007_u64 });
    let line = json!({ "event": "peer-head", "peer": "dc1", "head": head });
    assert_eq!(serde_json::to_value(record).expect("JSON"), line);
}

#[test]
fn who_was_out_of_reach_is_told_when_there_is_a_way_again() {
    let mut star = star();
    star.cut(2);
    tell(&mut star, 1, head(7, 'a'));
    assert!(heard(&mut star, 2).is_empty());
    star.link(2);
    star.pass(1_000);
    assert_eq!(heard(&mut star, 2), [of("dc1", 7)]);
    star.cut(2);
    star.link(2);
    star.pass(1_000);
    assert!(heard(&mut star, 2).is_empty(), "it knows that one");
    tell(&mut star, 1, head(8, 'a'));
    assert_eq!(heard(&mut star, 2), [of("dc1", 8)]);
}

#[test]
fn a_log_that_got_shorter_or_another_is_an_alarm() {
    let mut star = star();
    tell(&mut star, 1, head(7, 'a'));
    heard(&mut star, 0);
    tell(&mut star, 1, head(5, 'b'));
    let why = "it had 7 lines, and has 5 now".to_owned();
    assert_eq!(heard(&mut star, 0), [("dc1".to_owned(), 5, Some(why.clone()))]);
    assert_eq!(alarms(&star, 0), [format!("the audit log of dc1 was cut off, or begun anew: {why}")]);
    star.pass(11 * 60 * 1000);
    assert!(alarms(&star, 0).is_empty(), "it is on record");
    tell(&mut star, 1, head(5, 'c'));
    assert_eq!(heard(&mut star, 0)[0].2.as_deref(), Some("line 5 is another than before"));
    tell(&mut star, 1, head(6, 'c'));
    assert_eq!(heard(&mut star, 0), [of("dc1", 6)]);
}

#[test]
fn what_was_overtaken_or_is_no_end_of_a_log_is_not_heard() {
    let mut star = star();
    star.houses[1].handle(Event::AuditHead(head(7, 'a')));
    let (link, early) = star.take_from(1, 0);
    tell(&mut star, 1, head(9, 'b'));
    for head in early {
        star.houses[0].handle(arrives(link, "noc1", head));
    }
    assert_eq!(heard(&mut star, 0), [of("dc1", 9)]);
    assert!(alarms(&star, 0).is_empty());
    for wrong in [
        AuditHead { n: 0, ..head(1, 'a') },
        AuditHead { hash: "A".repeat(64), ..head(10, 'a') },
        AuditHead { hash: "a".repeat(65), ..head(10, 'a') },
        AuditHead { hash: String::new(), ..head(10, 'a') },
    ] {
        tell(&mut star, 1, wrong);
    }
    assert!(heard(&mut star, 0).is_empty());
}

#[test]
fn a_broker_that_keeps_no_records_passes_it_on() {
    let mut star = Star::new();
    star.houses[2].broker.keep_records();
    star.houses[1].handle(Event::AuditHead(head(7, 'a')));
    let (link, frames) = star.take_from(1, 0);
    assert!(frames.iter().any(|(head, _)| is_head(head)), "{frames:?}");
    for frame in frames {
        star.houses[0].handle(arrives(link, "noc1", frame));
    }
    star.pump();
    assert!(heard(&mut star, 0).is_empty());
    assert_eq!(heard(&mut star, 2), [of("dc1", 7)]);
}

fn is_head(head: &Head) -> bool {
    matches!(head, Head::Forward(forward) if matches!(forward.load, Load::AuditHead(_)))
}

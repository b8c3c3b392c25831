//! Is an admin told what is on record, within bounds, and page after page all of it?

use super::*;
use crate::audit::chain::Tail;
use crate::audit::search::{Bounds, Wanted, find};
use muster_protocol::admin::{AuditAnswer, AuditQuery};
use muster_protocol::error::Code;
use std::collections::BTreeSet;
use std::fmt::Write as _;

fn numbers(answer: &AuditAnswer) -> Vec<u64> {
    answer.lines.iter().map(|line| line["n"].as_u64().unwrap()).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Audit logs of several files, a login each second.
fn long_log(folder: &TempDir, lines: u64, rotate_size: usize) -> AuditConfig {
    let config = AuditConfig { rotate_size, keep: 1000, ..config(folder) };
    let mut trail = Trail::new(config.clone(), "noc1");
    for number in 0..lines {
        let at = THEN + number * 1000;
        trail.append(&[(at, login(&format!("user{}", number % 10)))], 0, at).unwrap();
    }
    trail.sync().unwrap();
    config
}

#[tokio::test]
async fn what_was_decided_a_moment_ago_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::start(&config(&folder), "noc1").unwrap();
    for number in 0..500 {
        audit.tell(|| login(&format!("user{number}")));
        let query = AuditQuery { user: Some(format!("user{number}")), ..AuditQuery::default() };
        let answer = answer(&audit, &query, "noc1").await.unwrap();
        assert_eq!((answer.broker.as_str(), numbers(&answer)), ("noc1", vec![number + 1]));
        assert_eq!((answer.lines[0]["event"].as_str(), answer.more, answer.next), (Some("login"), false, None));
    }
    audit.stop().await;
}

#[tokio::test]
async fn every_field_narrows_it_as_on_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let mut trail = Trail::new(config.clone(), "noc1");
    let head = json!({ "n": 4, "hash": "a".repeat(64), "at": 5 });
    for (number, line) in (0u64..).zip([
        json!({ "event": "login", "decision": "allowed", "user": "alice", "node": "n-a" }),
        json!({ "event": "request", "decision": "denied", "user": "alice", "destination": "/topic/prod.a.b", "request": "r1" }),
        json!({ "event": "request", "decision": "allowed", "user": "bob", "destination": "/topic/dev.a.b", "request": "r2", "nodes": ["n-a"] }),
        json!({ "event": "peer-head", "peer": "dc1", "head": head }),
        json!({ "event": "peer-head", "peer": "dc1", "head": head, "fault": "it had 9 lines, and has 4 now" }),
    ]) {
        trail.append(&[(THEN + number * 60_000, line)], 0, THEN).unwrap();
    }
    trail.sync().unwrap();
    drop(trail);
    let audit = Audit::start(&config, "noc1").unwrap();
    let all = AuditQuery::default;
    for (query, expected) in [
        (all(), vec![1, 2, 3, 5]),
        (AuditQuery { limit: Some(2), ..all() }, vec![3, 5]),
        (AuditQuery { since: some("2023-11-14T22:14:20Z"), ..all() }, vec![2, 3, 5]),
        (AuditQuery { until: some("2023-11-14T23:14:20+01:00"), ..all() }, vec![1]),
        (AuditQuery { user: some("alice"), ..all() }, vec![1, 2]),
        (AuditQuery { user: some("ali"), ..all() }, vec![]),
        (AuditQuery { decision: some("denied"), ..all() }, vec![2]),
        (AuditQuery { destination: some("/topic/prod.>"), ..all() }, vec![2]),
        (AuditQuery { node: some("n-a"), ..all() }, vec![1, 3]),
        (AuditQuery { request: some("r2"), ..all() }, vec![3]),
        (AuditQuery { event: some("peer-head"), ..all() }, vec![4, 5]),
        (AuditQuery { before: Some(3), ..all() }, vec![1, 2]),
    ] {
        assert_eq!(numbers(&answer(&audit, &query, "noc1").await.unwrap()), expected, "{query:?}");
    }
    for (query, text) in [
        (AuditQuery { since: some("yesterday"), ..all() }, "since: `yesterday` is no moment"),
        (AuditQuery { until: some("1h"), ..all() }, "until: `1h` is no moment"),
        (AuditQuery { decision: some("maybe"), ..all() }, "decision: `maybe` is none"),
        (AuditQuery { destination: some("prod"), ..all() }, "destination: "),
        (AuditQuery { limit: Some(0), ..all() }, "limit: expected 1 to 1000"),
        (AuditQuery { limit: Some(1001), ..all() }, "limit: expected 1 to 1000"),
    ] {
        let refusal = answer(&audit, &query, "noc1").await.unwrap_err();
        assert_eq!(refusal.code, Code::BadBody);
        assert!(refusal.text.contains(text), "{query:?}: {}", refusal.text);
    }
    audit.stop().await;
    let refusal = answer(&Audit::off(), &all(), "noc1").await.unwrap_err();
    assert_eq!((refusal.code, refusal.text.contains("noc1 keeps no audit log")), (Code::Unsupported, true));
    let refusal = answer(&audit, &all(), "noc1").await.unwrap_err();
    assert_eq!(refusal.code, Code::Busy, "what was told last may not be there");
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_and_its_pages_are_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = long_log(&folder, 5_000, 100_000);
    assert!(verify::files_of(&config.file).unwrap().len() > 5);
    let audit = Audit::start(&config, "noc1").unwrap();
    let (mut seen, mut before, mut pages) = (Vec::new(), None, 0);
    loop {
        let query = AuditQuery { before, user: some("user7"), limit: Some(1000), ..AuditQuery::default() };
        let page = answer(&audit, &query, "noc1").await.unwrap();
        let bytes: usize = page.lines.iter().map(|line| line.to_string().len()).sum();
        assert!(bytes <= 256 * 1024, "{bytes}");
        pages += 1;
        seen.splice(0..0, numbers(&page));
        assert_eq!(page.more, page.next.is_some());
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..5_000u64).filter(|n| n % 10 == 7).map(|n| n + 1).collect::<Vec<_>>());
    assert_eq!(pages, 1, "500 lines of some 300 bytes");
    let query = AuditQuery { limit: Some(1000), ..AuditQuery::default() };
    let page = answer(&audit, &query, "noc1").await.unwrap();
    let bytes: usize = page.lines.iter().map(|line| line.to_string().len()).sum();
    assert!(page.more && page.lines.len() < 1000 && bytes <= 256 * 1024, "{} lines, {bytes} bytes", page.lines.len());
    assert_eq!(numbers(&page).last(), Some(&5_000));
    let next = AuditQuery { before: page.next, limit: Some(1), ..query };
    assert_eq!(numbers(&answer(&audit, &next, "noc1").await.unwrap()), [numbers(&page)[0] - 1]);
    audit.stop().await;
}

#[test]
fn a_search_is_bounded_in_work_and_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let config = long_log(&folder, 4_000, 300_000);
    let bounds = Bounds { found: usize::MAX, read: 200_000 };
    let mut wanted = Wanted { user: some("nobody"), limit: 10, ..Wanted::default() };
    let mut steps = Vec::new();
    loop {
        let found = find(&config.file, &wanted, bounds).unwrap();
        assert!(found.lines.is_empty());
        let Some(next) = found.next else { break };
        assert!(wanted.before.is_none_or(|before| next < before), "{next}");
        steps.push(next);
        wanted.before = Some(next);
    }
    assert!((3..10).contains(&steps.len()), "{steps:?}");
    // Whatever is the first thing that is looked at, it is not skipped.
    let mut seen = BTreeSet::new();
    let mut wanted = Wanted { limit: usize::MAX, ..Wanted::default() };
    loop {
        let found = find(&config.file, &wanted, Bounds { found: 70_000, read: 90_000 }).unwrap();
        for (_, fields) in &found.lines {
            assert!(seen.insert(fields["n"].as_u64().unwrap()), "twice");
        }
        let Some(next) = found.next else { break };
        wanted.before = Some(next);
    }
    assert_eq!(seen, (1..=4_000).collect());
}

#[test]
fn it_stops_where_all_is_older_and_a_wrong_clock_hides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let (mut text, mut tail) = (String::new(), Tail::default());
    let mut write = |at: u64, count: u64, user: &str| {
        for _ in 0..count {
            chain::append(&mut text, &mut tail, at, "noc1", &login(user)).unwrap();
        }
    };
    let hour = 3_600_000;
    write(THEN, 20_000, "old");
    write(THEN + hour, 1, "before");
    // Started without a clock, until somebody told it the time.
    write(5, 100, "1970");
    write(THEN + hour + 1, 1, "after");
    fs::write(&config.file, &text).unwrap();
    let since = Some(jiff::Timestamp::from_millisecond((THEN + hour) as i64).unwrap());
    let wanted = Wanted { since, limit: 100, ..Wanted::default() };
    let all = Bounds { found: usize::MAX, read: u64::MAX };
    let users = |found: search::Found| -> Vec<String> {
        found.lines.iter().map(|(_, fields)| fields["user"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(users(find(&config.file, &wanted, all).unwrap()), ["before", "after"]);
    // Enough for what is older in a row, not for all of it: so the rest was not read.
    assert!(text.len() > 4 * 1024 * 1024, "{}", text.len());
    let found = find(&config.file, &wanted, Bounds { read: 2 * 1024 * 1024, ..all }).unwrap();
    assert_eq!((found.next, users(found).len()), (None, 2));
}

#[test]
fn the_lines_of_a_broken_log_are_found_too() {
    let (_folder, config) = log_of(4);
    let mut text = fs::read_to_string(&config.file).unwrap();
    let _ = write!(text, "nonsense\n[1]\n{{\"event\":\"login\"}}\n");
    text += r#"{"n":9,"at":"2026-"#;
    fs::write(&config.file, text).unwrap();
    let wanted = Wanted { limit: 10, ..Wanted::default() };
    let found = find(&config.file, &wanted, Bounds { found: usize::MAX, read: u64::MAX }).unwrap();
    assert_eq!(found.lines.len(), 5, "{found:?}");
}

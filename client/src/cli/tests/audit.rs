//! Does `muster audit` ask for what was meant, take all pages, and show lines as text?

use super::*;
use jiff::Timestamp;

fn line(n: u64, more: Value) -> Value {
    let mut line = json!({"n": n, "at": "2027-01-31T17:12:40.333Z", "broker": "noc1", "prev": "p", "hash": "h"});
    for (name, value) in more.as_object().expect("an object") {
        line[name] = value.clone();
    }
    line
}

#[tokio::test]
async fn lines_are_a_table_and_nothing_in_them_moves_a_cursor() {
    let (code, out, err) = muster(&["audit"], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/admin.audit").await;
        assert_eq!(body, json!({"limit": 100}));
        let body = json!({"bytes": 2, "sha256": "44"});
        let lines = [
            line(1, json!({"event": "login", "user": "al\u{1b}[2Jice", "decision": "denied", "code": "auth-failed", "reason": "wrong\npassword", "address": "192.0.2.1:5"})),
            line(2, json!({"event": "request", "user": "bob", "decision": "allowed", "destination": "/topic/prod.service.restart", "target": "a = \u{202e}b", "request": "r-1", "session": 7, "rule": [], "body": body, "nodes": ["n-a", "n-b"], "without": ["dc1"]})),
            line(3, json!({"event": "request-done", "user": "bob", "destination": "/topic/prod.service.restart", "request": "r-1", "states": {"lost": 1, "ok": 2}})),
            line(4, json!({"event": "stopped"})),
        ];
        peer.answer(&asked, json!({"broker": "noc1", "lines": lines, "more": false})).await;
    })
    .await;
    let rows: Vec<&str> = out.lines().collect();
    assert_eq!(rows[0].split_whitespace().collect::<Vec<_>>(), ["TIME", "EVENT", "USER", "DECISION", "WHAT", "REASON"]);
    let cells = |row: &str| {
        row.split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
    };
    let at = "2027-01-31T17:12:40.333Z";
    assert_eq!(
        cells(rows[1]),
        [at, "login", "al␛[2Jice", "denied", "address=192.0.2.1:5", "auth-failed: wrong␊password"]
    );
    assert_eq!(
        cells(rows[2]),
        [
            at,
            "request",
            "bob",
            "allowed",
            "/topic/prod.service.restart a = \u{fffd}b nodes=2 request=r-1 without dc1",
            "-"
        ]
    );
    assert_eq!(
        cells(rows[3]),
        [at, "request-done", "bob", "-", "/topic/prod.service.restart request=r-1 1 lost, 2 ok", "-"]
    );
    assert_eq!(cells(rows[4]), [at, "stopped", "-", "-", "-", "-"]);
    assert_eq!((code, err.as_str()), (0, "4 lines of the audit log of noc1.\n"));
}

#[tokio::test]
async fn what_is_asked_for_is_sent_and_times_ago_are_moments() {
    let arguments = [
        "audit",
        "--since",
        "2h",
        "--until",
        "2099-01-31T19:00:00+01:00",
        "--by",
        "bob",
        "--denied",
        "--destination",
        "/topic/prod.>",
        "--node",
        "n-a",
        "--request",
        "r-1",
        "--event",
        "request",
        "--limit",
        "7",
    ];
    let (code, out, err) = muster(&arguments, &[], |mut peer, _| async move {
        let (asked, mut body) = peer.expect("/muster/admin.audit").await;
        let since: Timestamp = body["since"].take().as_str().expect("a time").parse().expect("RFC 3339");
        let ago = Timestamp::now().as_second() - since.as_second();
        assert!((7_200..7_260).contains(&ago), "{ago}");
        let expected = json!({"since": null, "until": "2099-01-31T18:00:00Z", "user": "bob", "decision": "denied", "destination": "/topic/prod.>",
            "node": "n-a", "request": "r-1", "event": "request", "limit": 7});
        assert_eq!(body, expected);
        peer.answer(&asked, json!({"broker": "noc1", "lines": []})).await;
    })
    .await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "No line of the audit log of noc1 fits.\n"));
    let (code, _, err) = muster(&["audit", "--allowed"], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/admin.audit").await;
        assert_eq!(body["decision"], "allowed");
        peer.event(
            &asked,
            "refused",
            &[(header::CODE, "denied"), (header::MESSAGE, "no entry grants it")],
            Value::Null,
        )
        .await;
    })
    .await;
    assert!(code == 4 && err.contains("refused: denied: no entry grants it"), "{err}");
}

#[tokio::test]
async fn pages_are_taken_until_there_are_enough_lines() {
    let pages = |mut peer: Peer<DuplexStream>, _: Operator| async move {
        let page = |numbers: &[u64], next: u64| {
            let lines: Vec<Value> =
                numbers.iter().map(|n| line(*n, json!({"event": "login", "user": "\u{9b}2J"}))).collect();
            json!({"broker": "noc1", "lines": lines, "more": true, "next": next})
        };
        for (limit, before, lines, next) in
            [(5, None, &[8, 9][..], 8), (3, Some(8), &[][..], 5), (3, Some(5), &[2, 3, 4][..], 2)]
        {
            let (asked, body) = peer.expect("/muster/admin.audit").await;
            assert_eq!((body["limit"].as_u64(), body["before"].as_u64()), (Some(limit), before));
            peer.answer(&asked, page(lines, next)).await;
        }
    };
    let (code, out, err) = muster(&["audit", "--limit", "5", "--json"], &[], pages).await;
    let document: Value = serde_json::from_str(&out).expect("a document");
    let numbers: Vec<u64> =
        document["lines"].as_array().expect("lines").iter().filter_map(|line| line["n"].as_u64()).collect();
    assert_eq!(
        (code, numbers, &document["more"], &document["broker"]),
        (0, vec![2, 3, 4, 8, 9], &json!(true), &json!("noc1"))
    );
    assert!(err.is_empty() && !out.contains('\u{9b}'), "{out:?}");
    let (_, out, _) = muster(&["audit", "--limit", "5", "--ndjson"], &[], pages).await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[5], json!({"event": "end", "broker": "noc1", "more": true}));
    let (_, _, err) = muster(&["audit", "--limit", "5"], &[], pages).await;
    assert_eq!(err, "5 lines of the audit log of noc1. Older lines fit too; --limit shows more.\n");
    let (code, _, err) = muster(&["audit"], &[], |mut peer, _| async move {
        for _ in 0..2 {
            let (asked, _) = peer.expect("/muster/admin.audit").await;
            peer.answer(&asked, json!({"broker": "noc1", "lines": [], "more": true, "next": 7})).await;
        }
    })
    .await;
    assert!(code == 5 && err.contains("leads to itself"), "{code} {err}");
}

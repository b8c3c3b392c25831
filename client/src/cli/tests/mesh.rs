//! Is it told which brokers are missing, and is no partial count taken for the whole?

use super::*;

fn away() -> Value {
    json!({"broker": "dc1", "why": "unreachable", "text": "no way to it", "nodes": 3})
}

fn refusing() -> Value {
    json!({"broker": "dc2", "why": "refused", "text": "its policy grants alice no write here"})
}

const AWAY: &str = "Without dc1: no way to it (3 nodes when last seen)\n";

/// A broker that answers `destination` with `answer` once.
async fn answered(arguments: &[&str], destination: &'static str, answer: Value) -> Result3 {
    muster(arguments, &[], move |mut peer, _| async move {
        let (asked, _) = peer.expect(destination).await;
        peer.answer(&asked, answer).await;
    })
    .await
}

#[tokio::test]
async fn a_run_names_missing_brokers_at_the_end_and_is_no_success() {
    let script = |mut peer: Peer<DuplexStream>, _: Operator| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        peer.event(&asked, "missing", &[], away()).await;
        peer.event(&asked, "missing", &[], json!({"broker": "dc3", "why": "unreachable", "text": "back soon"})).await;
        peer.accept(&asked, &[1]).await;
        peer.reply(&asked, 1, "ok", Value::Null).await;
        peer.event(&asked, "done", &[], json!({"states": {"ok": 1}, "without": [away()]})).await;
    };
    let (code, _, err) = muster(&["run", "a.b", "--all", "-y"], &[], script).await;
    assert_eq!(code, 3);
    let expected = format!("{AWAY}1 node: 1 ok, in ");
    assert!(err.starts_with(&expected) && err.ends_with(" s; without dc1.\n"), "{err}");
    let (_, out, _) = muster(&["run", "a.b", "--all", "-y", "--json"], &[], script).await;
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&document["without"], &document["exit_code"]), (&json!([away()]), &json!(3)));
    let (_, out, _) = muster(&["run", "a.b", "--all", "-y", "--ndjson"], &[], script).await;
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let words: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(words, ["missing", "missing", "accepted", "reply", "done", "end"]);
    assert_eq!((&events[0]["broker"], &events[0]["nodes"]), (&json!("dc1"), &json!(3)));
    assert_eq!((&events[4]["without"], &events[5]["without"]), (&json!([away()]), &json!([away()])));
}

#[tokio::test]
async fn ping_goes_by_the_same_rules() {
    let arguments = ["ping", "--all", "--expect", "1", "--allow-partial"];
    let (code, out, err) = muster(&arguments, &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.node.ping").await;
        assert_eq!(asked.headers.get(header::ALLOW_PARTIAL), Some("true"));
        peer.accept(&asked, &[1]).await;
        peer.reply(&asked, 1, "ok", json!({})).await;
        peer.event(&asked, "done", &[], json!({"states": {"ok": 1}, "without": [away(), refusing()]})).await;
    })
    .await;
    assert_eq!(code, 4, "a broker that refuses is a refusal");
    assert!(out.contains(" ms  ok"), "{out}");
    assert!(err.contains(AWAY) && err.contains("Without dc2: its policy grants alice no write here\n"), "{err}");
}

#[tokio::test]
async fn nobody_matches_only_if_nobody_is_missing() {
    let (code, _, err) = muster(&["run", "a.b", "--all", "-y"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        peer.accept(&asked, &[]).await;
        peer.event(&asked, "done", &[], json!({"states": {}, "without": [away()]})).await;
    })
    .await;
    assert_eq!((code, err), (3, format!("{AWAY}No node matches and has the module; without dc1.\n")));
}

#[tokio::test]
async fn queries_say_without_whom_they_were_answered() {
    let mut none = found(&[], 0);
    none["without"] = json!([away()]);
    let mut one = found(&[1], 1);
    one["without"] = json!([away()]);
    let report = json!({"count": 1, "values": [], "missing": 1, "more": 0, "without": [away()]});
    for (arguments, destination, answer) in [
        (&["find", "--all"] as &[&str], "/muster/find", &one),
        (&["find", "--all"], "/muster/find", &none),
        (&["find", "--all", "--count"], "/muster/find", &one),
        (&["facts", "swap", "--all"], "/muster/find", &one),
        (&["report", "swap", "--all"], "/muster/report", &report),
    ] {
        let (code, _, err) = answered(arguments, destination, answer.clone()).await;
        assert!(code == 3 && err.ends_with(AWAY), "{arguments:?} {code}: {err}");
        if arguments.contains(&"--count") {
            continue;
        }
        let with_json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let (code, out, _) = answered(&with_json, destination, answer.clone()).await;
        let document: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, &document["without"]), (3, &json!([away()])), "{arguments:?}");
    }
    let (_, out, _) = answered(&["find", "--all", "--ndjson"], "/muster/find", one).await;
    let end: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&end["event"], &end["without"]), (&json!("end"), &json!([away()])));
    let mut refused = found(&[1], 1);
    refused["without"] = json!([refusing()]);
    assert_eq!(answered(&["find", "--all"], "/muster/find", refused).await.0, 4);
}

#[tokio::test]
async fn a_broker_that_any_page_lacks_is_named_and_a_node_that_moved_is_listed_once() {
    let (code, out, err) = muster(&["find", "--all"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/muster/find").await;
        let mut page = found(&[1, 2], 3);
        page["next"] = json!("c1");
        peer.answer(&asked, page).await;
        let (asked, _) = peer.expect("/muster/find").await;
        let mut page = found(&[2, 3], 3);
        page["without"] = json!([away()]);
        peer.answer(&asked, page).await;
    })
    .await;
    assert_eq!((code, out.matches("N2").count()), (3, 1), "{out}");
    assert!(out.contains("N3") && err.ends_with(AWAY), "{out}{err}");
}

/// Refuses the first request as partial; takes the second, which must allow that.
async fn partial(mut peer: Peer<DuplexStream>, tell: bool, most: &str) {
    let (asked, _) = peer.expect("/topic/prod.a.b").await;
    assert_eq!((asked.headers.get(header::MAX_TARGETS), asked.headers.get(header::ALLOW_PARTIAL)), (Some("2"), None));
    if tell {
        peer.event(&asked, "missing", &[], away()).await;
    }
    let headers = [(header::CODE, "partial"), (header::MESSAGE, "dc1 did not answer"), (header::COUNT, "1")];
    peer.event(&asked, "refused", &headers, Value::Null).await;
    if !tell {
        let (asked, body) = peer.expect("/muster/find").await;
        assert_eq!((&body["limit"], &body["module"]), (&json!(1), &json!("a")));
        let mut page = found(&[1], 1);
        page["without"] = json!([away()]);
        peer.answer(&asked, page).await;
    }
    let Some(again) = peer.next().await.filter(|frame| frame.headers.get("destination").is_some()) else { return };
    assert_eq!(again.headers.get(header::MAX_TARGETS), Some(most));
    assert_eq!(again.headers.get(header::ALLOW_PARTIAL), Some("true"));
    peer.accept(&again, &[1]).await;
    peer.reply(&again, 1, "ok", Value::Null).await;
    peer.event(&again, "done", &[], json!({"states": {"ok": 1}, "without": [away()]})).await;
}

#[tokio::test]
async fn who_is_missing_is_said_before_a_partial_count_is_confirmed() {
    for tell in [true, false] {
        let script = move |peer, _| partial(peer, tell, "2");
        let (code, _, err) = muster(&["run", "a.b", "--all"], &["y"], script).await;
        assert_eq!(code, 3, "{err}");
        let question = "a.b would go to 1 node; a partial count, without dc1. Go on? [y/N] ";
        assert!(err.starts_with(&format!("{AWAY}{question}")), "{err}");
        assert_eq!(muster(&["run", "a.b", "--all"], &["n"], script).await.0, 4);
        let (code, _, err) = muster(&["run", "a.b", "--all"], &[], script).await;
        assert_eq!(code, 4);
        assert!(err.contains("say --yes, or --allow-partial, if that is what you mean"), "{err}");
    }
}

#[tokio::test]
async fn a_large_partial_count_is_said_to_be_partial() {
    let script = |mut peer: Peer<DuplexStream>, _: Operator| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        assert_eq!(asked.headers.get(header::ALLOW_PARTIAL), Some("true"));
        peer.event(&asked, "missing", &[], away()).await;
        let headers = [(header::CODE, "too-many-targets"), (header::MESSAGE, "3 match"), (header::COUNT, "3")];
        peer.event(&asked, "refused", &headers, Value::Null).await;
    };
    let (code, _, err) = muster(&["run", "a.b", "--all", "--allow-partial"], &["n"], script).await;
    let question = "a.b would go to 3 nodes, more than 2; a partial count, without dc1. Go on? [y/N] ";
    assert!(code == 4 && err.starts_with(&format!("{AWAY}{question}")), "{err}");
}

#[tokio::test]
async fn a_size_that_was_confirmed_and_turns_out_to_be_partial_is_asked_again() {
    let script = |mut peer: Peer<DuplexStream>, _: Operator| async move {
        for (most, code, count) in [("2", "too-many-targets", "3"), ("3", "partial", "3")] {
            let (asked, _) = peer.expect("/topic/prod.a.b").await;
            let headers = (asked.headers.get(header::MAX_TARGETS), asked.headers.get(header::ALLOW_PARTIAL));
            assert_eq!(headers, (Some(most), None));
            if code == "partial" {
                peer.event(&asked, "missing", &[], away()).await;
            }
            peer.event(&asked, "refused", &[(header::CODE, code), (header::COUNT, count)], Value::Null).await;
        }
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        let headers = (asked.headers.get(header::MAX_TARGETS), asked.headers.get(header::ALLOW_PARTIAL));
        assert_eq!(headers, (Some("3"), Some("true")));
        peer.accept(&asked, &[]).await;
        peer.event(&asked, "done", &[], json!({"states": {}, "without": [away()]})).await;
    };
    let (code, _, err) = muster(&["run", "a.b", "--all"], &["y", "y"], script).await;
    assert_eq!(code, 3, "{err}");
    assert_eq!(err.matches("Go on? [y/N]").count(), 2, "{err}");
}

#[tokio::test]
async fn the_operators_own_guard_is_not_talked_away() {
    let arguments = ["run", "a.b", "--all", "-y", "--max-targets", "9"];
    let (code, _, err) = muster(&arguments, &["y"], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        assert_eq!(asked.headers.get(header::ALLOW_PARTIAL), None);
        peer.event(&asked, "missing", &[], away()).await;
        let headers = [(header::CODE, "partial"), (header::MESSAGE, "dc1 did not answer")];
        peer.event(&asked, "refused", &headers, Value::Null).await;
    })
    .await;
    assert_eq!(code, 4);
    assert!(err.contains("refused: partial: dc1 did not answer") && err.contains("--allow-partial"), "{err}");
    assert!(err.contains(AWAY), "{err}");
}

#[tokio::test]
async fn batches_check_their_guards_over_the_whole_mesh() {
    let choose = |mut peer: Peer<DuplexStream>| async move {
        let (asked, _) = peer.expect("/muster/find").await;
        let mut page = found(&[1], 1);
        page["without"] = json!([away()]);
        peer.answer(&asked, page).await;
        peer
    };
    let stops = move |peer, _: Operator| async move {
        let mut peer = choose(peer).await;
        let next = peer.next().await.expect("a frame");
        assert_eq!(next.command, muster_protocol::frame::Command::Disconnect, "something was sent");
    };
    let (code, _, err) = muster(&["run", "a.b", "--all", "--batch", "1", "--expect", "1"], &[], stops).await;
    assert_eq!(code, 4);
    assert!(err.starts_with("muster: refused: partial: 1 node known") && err.contains(AWAY.trim_end()), "{err}");
    let (code, _, err) = muster(&["run", "a.b", "--all", "--batch", "1"], &["n"], stops).await;
    assert_eq!(code, 4);
    assert!(err.starts_with(AWAY) && err.contains("a partial count, without dc1"), "{err}");
    let goes = move |peer, _: Operator| async move {
        let mut peer = choose(peer).await;
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        assert_eq!(asked.headers.get(header::ALLOW_PARTIAL), Some("true"));
        peer.accept(&asked, &[1]).await;
        peer.reply(&asked, 1, "ok", Value::Null).await;
        peer.done(&asked, json!({"ok": 1})).await;
    };
    for option in ["--allow-partial", "--yes"] {
        let (code, _, err) = muster(&["run", "a.b", "--all", "--batch", "1", option], &[], goes).await;
        assert_eq!(code, 3, "the nodes were chosen without dc1: {err}");
        assert!(err.starts_with(AWAY) && err.ends_with("; without dc1.\n"), "{err}");
    }
}

#[tokio::test]
async fn an_interrupted_run_says_who_is_missing() {
    let (code, _, err) =
        muster(&["run", "a.b", "--all", "-y", "--ungrouped"], &["d"], |mut peer, operator| async move {
            let (asked, _) = peer.expect("/topic/prod.a.b").await;
            peer.event(&asked, "missing", &[], away()).await;
            peer.accept(&asked, &[1, 2]).await;
            peer.reply(&asked, 1, "ok", Value::Null).await;
            operator.ctrl_c_after(": ok\n").await;
            while peer.next().await.is_some_and(|frame| frame.command != muster_protocol::frame::Command::Disconnect) {}
        })
        .await;
    assert_eq!(code, 130);
    let question = err.find("[c]ancel").expect("a question");
    assert!(err[..question].contains(AWAY), "{err}");
}

fn mesh() -> Value {
    json!({
        "broker": "noc1", "epoch": "a1b2",
        "brokers": [
            {"name": "dc1", "reach": "reachable", "instance": 4, "draining": true, "nodes": 12, "path": ["noc2", "dc1"], "cost": 15,
             "links": [{"to": "noc2", "cost": 5, "two_way": true, "send": ["prod.>"]}]},
            {"name": "noc1", "reach": "here", "instance": 2, "nodes": 0,
             "links": [{"to": "noc2", "cost": 10, "two_way": true, "rtt_ms": 3}, {"to": "noc3", "cost": 7, "two_way": false}]},
            {"name": "noc2", "reach": "reachable", "instance": 9, "nodes": 1, "path": ["noc2"], "cost": 10,
             "links": [{"to": "noc1", "cost": 10, "two_way": true}, {"to": "dc1", "cost": 5, "two_way": true}]},
            {"name": "noc3", "reach": "unknown", "instance": 0, "links": []},
        ],
        "alarms": ["noc1 lists noc3\u{1b}, which does not list it"],
    })
}

#[tokio::test]
async fn the_mesh_is_a_table_or_a_graph_and_who_is_away_an_exit_code() {
    let (code, out, err) = muster(&["mesh"], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/mesh").await;
        assert_eq!((body, asked.headers.get(header::TARGET)), (json!({}), None));
        peer.answer(&asked, mesh()).await;
    })
    .await;
    let expected = "\
BROKER  REACH                INSTANCE  NODES  COST  WAY         LINKS
dc1     reachable, draining  4         12     15    noc2 > dc1  noc2 5 (filtered)
noc1    here                 2         0      -     -           noc2 10 (3 ms), noc3 7 (one-way)
noc2    reachable            9         1      10    noc2        noc1 10, dc1 5
noc3    unknown              -         -      -     -           -
";
    assert_eq!((code, out.as_str()), (3, expected));
    assert_eq!(
        err,
        "4 brokers as noc1 sees them; 1 cannot be reached. Epoch a1b2.\nAlarm: noc1 lists noc3␛, which does not list it\n"
    );
    let (code, out, err) = answered(&["mesh", "--dot"], "/muster/mesh", mesh()).await;
    assert!(code == 3 && out.starts_with("graph mesh {\n") && err.starts_with("Alarm: "), "{out}{err}");
    assert_eq!(out.matches(" -- ").count(), 3, "{out}");
    let (code, out, err) = answered(&["mesh", "--json"], "/muster/mesh", mesh()).await;
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &document["brokers"][3]["reach"]), (3, &json!("unknown")));
    assert!(err.starts_with("Alarm: "), "{err}");
    let mut whole = mesh();
    whole["brokers"].as_array_mut().expect("brokers").pop();
    assert_eq!(answered(&["mesh"], "/muster/mesh", whole).await.0, 0);
}

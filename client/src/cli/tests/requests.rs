//! Do the commands that ask nodes account for every one of them?

use super::*;

#[tokio::test]
async fn run_groups_equal_answers_and_names_who_did_not_answer() {
    let (code, out, err) =
        muster(&["run", "service.status", "name=nginx", "-C", "web", "-y"], &[], |mut peer, _| async move {
            let (asked, body) = peer.expect("/topic/prod.service.status").await;
            assert_eq!(body, json!({"name": "nginx"}));
            assert_eq!(asked.headers.get(header::TARGET), Some("class = web"));
            peer.reply(&asked, 2, "ok", json!({"state": "running"})).await; // before `accepted`: order is not promised
            peer.accept(&asked, &[1, 2, 3, 4]).await;
            peer.reply(&asked, 1, "ok", json!({"state": "running"})).await;
            peer.reply(&asked, 1, "ok", json!({"state": "running"})).await;
            peer.reply(&asked, 3, "failed", json!({"error": {"code": "not-found", "text": "no unit\u{1b}[2J"}})).await;
            peer.event(&asked, "lost", &[], json!({"nodes": [node(4)], "reason": "connection closed"})).await;
            peer.done(&asked, json!({"ok": 2, "failed": 1, "lost": 1})).await;
        })
        .await;
    assert_eq!(code, 2);
    let mut twins =
        [(node(1), "  N1  datacenter=a os.family=Debian\n"), (node(2), "  N2  datacenter=b os.family=Debian\n")];
    twins.sort();
    let expected = format!(
        "2 nodes: ok\n{}{}    state: running\n\n1 node: failed: not-found: no unit␛[2J\n  N3  datacenter=a os.family=Debian\n\n\
         1 node did not answer:\n  STATE  NODE                    REASON             FACTS\n  lost   N4  connection closed  datacenter=b os.family=Debian\n",
        twins[0].1, twins[1].1
    );
    assert_eq!(out, expected);
    assert!(err.starts_with("4 nodes: 2 ok, 1 failed, 1 lost, in "), "{err}");
}

#[tokio::test]
async fn json_has_everything_in_one_document() {
    let (code, out, _) = muster(&["run", "a.b", "--all", "-y", "--json"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        assert_eq!(asked.headers.get(header::TARGET), Some("all"));
        peer.accept(&asked, &[1, 2]).await;
        peer.reply(&asked, 1, "ok", json!({"x": "\u{9b}"})).await;
        peer.event(&asked, "expired", &[], json!({"nodes": [node(2)], "reason": "late"})).await;
        peer.done(&asked, json!({"ok": 1, "expired": 1})).await;
    })
    .await;
    assert!(!out.contains('\u{9b}'), "a raw escape");
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &document["exit_code"]), (3, &json!(3)));
    assert_eq!(document["target"], "all");
    assert_eq!(document["states"], json!({"ok": 1, "expired": 1}));
    assert_eq!(
        document["replies"],
        json!([{"node": "N1", "display": display(1), "status": "ok", "data": {"x": "\u{9b}"}}])
    );
    assert_eq!(document["not_answered"], json!([{"node": "N2", "state": "expired", "reason": "late"}]));
    assert_eq!(document["accepted"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn ndjson_tells_each_event_as_it_comes() {
    let (code, out, _) = muster(&["run", "a.b", "--all", "-y", "--ndjson"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        peer.accept(&asked, &[1]).await;
        peer.event(&asked, "started", &[(header::NODE, &node(1).to_string())], Value::Null).await;
        peer.reply(&asked, 1, "declined", Value::Null).await;
        peer.done(&asked, json!({"declined": 1})).await;
    })
    .await;
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let words: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!((code, words), (1, vec!["accepted", "started", "reply", "done", "end"]));
    assert!(events.iter().all(|event| event["request"].is_string()));
}

#[tokio::test]
async fn a_refusal_shows_code_text_and_cure() {
    let (code, out, err) = muster(&["run", "a.b", "-w", "hostname=x", "-y"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        peer.event(
            &asked,
            "refused",
            &[(header::CODE, "hidden-fact"), (header::MESSAGE, "hostname is hidden")],
            Value::Null,
        )
        .await;
    })
    .await;
    assert_eq!((code, out.as_str()), (4, ""));
    assert_eq!(err, "muster: refused: hidden-fact: hostname is hidden\n  Use facts that the policy shows to you.\n");
}

#[tokio::test]
async fn a_large_request_is_confirmed_and_cannot_grow_meanwhile() {
    let script = |mut peer: Peer<DuplexStream>, _: Operator| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        assert_eq!(asked.headers.get(header::MAX_TARGETS), Some("2"));
        let headers = [(header::CODE, "too-many-targets"), (header::MESSAGE, "3 match"), (header::COUNT, "3")];
        peer.event(&asked, "refused", &headers, Value::Null).await;
        let Some(again) = peer.next().await.filter(|frame| frame.headers.get("destination").is_some()) else { return };
        assert_eq!(again.headers.get(header::MAX_TARGETS), Some("3"));
        assert_ne!(again.headers.get(header::REQUEST), asked.headers.get(header::REQUEST));
        peer.accept(&again, &[1, 2, 3]).await;
        for n in 1..=3 {
            peer.reply(&again, n, "ok", Value::Null).await;
        }
        peer.done(&again, json!({"ok": 3})).await;
    };
    let (code, _, err) = muster(&["run", "a.b", "--all"], &["y"], script).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.starts_with("a.b would go to 3 nodes, more than 2. Go on? [y/N] "), "{err}");
    assert_eq!(muster(&["run", "a.b", "--all"], &["n"], script).await.0, 4);
    let (code, _, err) = muster(&["run", "a.b", "--all"], &[], script).await;
    assert_eq!(code, 4);
    assert!(err.contains("no terminal to ask on") && err.contains("--yes"), "{err}");
    let (code, _, err) = muster(&["run", "a.b", "--all", "--max-targets", "2"], &["y"], script).await;
    assert_eq!(code, 4);
    assert!(err.contains("too-many-targets"), "{err}");
}

#[tokio::test]
async fn batches_follow_each_other_and_stop_at_failures() {
    let arguments = ["run", "a.b", "--all", "-y", "--batch", "1"];
    let (code, out, err) = muster(&arguments, &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/find").await;
        assert_eq!(body["module"], "a");
        peer.answer(&asked, found(&[1, 2, 3], 3)).await;
        for (n, status) in [(1, "ok"), (2, "failed")] {
            let (asked, _) = peer.expect("/topic/prod.a.b").await;
            assert_eq!(asked.headers.get(header::NODES), Some(node(n).to_string().as_str()));
            assert_eq!(asked.headers.get(header::MAX_TARGETS), Some("1"));
            peer.accept(&asked, &[n]).await;
            peer.reply(&asked, n, status, Value::Null).await;
            peer.done(&asked, json!({status: 1})).await;
        }
    })
    .await;
    assert_eq!(code, 2);
    assert!(out.contains("not-asked  N3  the command stopped before its batch  datacenter=a"), "{out}");
    assert!(err.contains("Stopped after batch 2 of 3: 1 node not ok (--max-failures 0)."), "{err}");
    assert!(err.contains("3 nodes: 1 ok, 1 failed, 1 not asked, in "), "{err}");
}

#[tokio::test]
async fn a_limit_takes_the_first_nodes_and_names_those_that_left() {
    let (code, out, _) = muster(&["run", "a.b", "--all", "--limit", "50%"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/muster/find").await;
        peer.answer(&asked, found(&[1, 2, 3, 4], 4)).await;
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        assert_eq!(asked.headers.get(header::NODES), Some(format!("{},{}", node(1), node(2)).as_str()));
        peer.accept(&asked, &[1]).await;
        peer.reply(&asked, 1, "ok", Value::Null).await;
        peer.done(&asked, json!({"ok": 1})).await;
    })
    .await;
    assert_eq!(code, 3);
    assert!(out.contains("left   N2  disconnected, or matched no longer, before it was asked  datacenter=b"), "{out}");
}

#[tokio::test]
async fn a_dry_run_prints_who_would_be_asked() {
    let (code, out, err) = muster(&["run", "a.b", "--all", "--dry-run"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        assert_eq!((asked.headers.get(header::DRY_RUN), asked.headers.get(header::MAX_TARGETS)), (Some("true"), None));
        peer.accept(&asked, &[1]).await;
        peer.done(&asked, json!({})).await;
    })
    .await;
    assert_eq!((code, err.as_str()), (0, "Dry run: 1 node would be asked; nothing was sent.\n"));
    assert!(out.ends_with("N1  a           Debian\n"), "{out}");
}

#[tokio::test]
async fn a_lost_connection_names_those_without_an_answer() {
    let (code, out, err) = muster(&["run", "a.b", "--all", "-y"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        peer.accept(&asked, &[1, 2]).await;
        peer.reply(&asked, 1, "ok", Value::Null).await;
    })
    .await;
    assert_eq!(code, 3);
    assert!(out.contains("no-answer  N2  the connection to the broker was lost first"), "{out}");
    assert!(err.contains("the broker closed the connection"), "{err}");
}

#[tokio::test]
async fn an_account_that_differs_is_told() {
    let (code, out, err) = muster(&["run", "a.b", "--all", "-y"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.a.b").await;
        peer.accept(&asked, &[1, 2]).await;
        peer.reply(&asked, 1, "ok", Value::Null).await;
        peer.done(&asked, json!({"ok": 2})).await;
    })
    .await;
    assert_eq!(code, 3);
    assert!(err.contains("The accounts differ: the broker counts ok 2; this client saw ok 1."), "{err}");
    assert!(out.contains("no-answer  N2  the broker closed the account without it"), "{out}");
}

/// Takes a request for two nodes and has Ctrl-C pressed when the client has printed the answer of one.
async fn interrupted(peer: &mut Peer<DuplexStream>, operator: &Operator) -> muster_protocol::frame::Frame {
    let (asked, _) = peer.expect("/topic/prod.a.b").await;
    peer.accept(&asked, &[1, 2]).await;
    peer.reply(&asked, 1, "ok", Value::Null).await;
    operator.ctrl_c_after(": ok\n").await;
    asked
}

#[tokio::test]
async fn ctrl_c_without_a_terminal_cancels_and_names_the_nodes() {
    let (code, _, err) = muster(&["run", "a.b", "--all", "-y", "--ungrouped"], &[], |mut peer, operator| async move {
        let asked = interrupted(&mut peer, &operator).await;
        let (cancel, body) = peer.expect("/muster/cancel").await;
        assert_eq!(Some(body["request"].as_str().unwrap()), asked.headers.get(header::REQUEST));
        peer.answer(&cancel, json!({"cancelled": 1})).await;
        peer.event(&asked, "cancelled", &[], json!({"nodes": [node(2)], "reason": "cancelled by the caller"})).await;
        peer.done(&asked, json!({"ok": 1, "cancelled": 1})).await;
    })
    .await;
    assert_eq!(code, 130);
    assert!(
        err.contains("Interrupted: 1 of 2 nodes have not ended.")
            && err.contains("N2  datacenter=b os.family=Debian  (not known to have started)"),
        "{err}"
    );
}

#[tokio::test]
async fn ctrl_c_on_a_terminal_asks_and_a_second_one_leaves_at_once() {
    let (code, out, err) =
        muster(&["run", "a.b", "--all", "-y", "--ungrouped"], &["detach"], |mut peer, operator| async move {
            interrupted(&mut peer, &operator).await;
            while peer.next().await.is_some_and(|frame| frame.command != muster_protocol::frame::Command::Disconnect) {}
        })
        .await;
    assert_eq!(code, 130);
    assert!(err.contains("[d]etach") && out.contains("it may still be running"), "{err}{out}");
    let (code, _, err) = muster(&["run", "a.b", "--all", "-y", "--ungrouped"], &[], |mut peer, operator| async move {
        interrupted(&mut peer, &operator).await;
        peer.expect("/muster/cancel").await;
        operator.ctrl_c_after(": ok\n").await;
        while peer.next().await.is_some_and(|frame| frame.command != muster_protocol::frame::Command::Disconnect) {}
    })
    .await;
    assert_eq!(code, 130);
    assert!(err.contains("Interrupted again"), "{err}");
}

#[tokio::test]
async fn ping_shows_round_trips() {
    let (code, out, err) = muster(&["ping", "--all"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/topic/prod.node.ping").await;
        assert_eq!(asked.headers.get(header::REPLY_WITHIN), Some("10000"));
        peer.accept(&asked, &[1, 2]).await;
        peer.reply(&asked, 1, "ok", json!({})).await;
        peer.event(&asked, "expired", &[], json!({"nodes": [node(2)], "reason": "no answer in time"})).await;
        peer.done(&asked, json!({"ok": 1, "expired": 1})).await;
    })
    .await;
    assert_eq!(code, 3);
    assert!(out.contains("datacenter  os.family  RTT") && out.contains(" ms") && out.contains("expired  N2"), "{out}");
    assert!(err.contains("Round trip, as seen here: min "), "{err}");
}

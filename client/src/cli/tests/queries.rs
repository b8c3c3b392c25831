//! Do the questions that the broker answers alone print what they should?

use super::*;

#[tokio::test]
async fn find_goes_through_the_pages_and_names_the_gone() {
    let (code, out, err) = muster(&["find", "-w", "os.family=Debian", "-f", "cpu.count"], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/find").await;
        assert_eq!(asked.headers.get(header::TARGET), Some("os.family = Debian"));
        assert_eq!(body, json!({"facts": ["cpu.count"], "limit": 1000}));
        let mut page = found(&[1], 2);
        page["next"] = json!("c1");
        page["registering"] = json!(1);
        page["gone"] = json!([{"id": node(3), "display": display(3), "reason": "heart-beat\u{1b}[31m", "at": 60_000, "since": 0}]);
        peer.answer(&asked, page).await;
        let (asked, body) = peer.expect("/muster/find").await;
        assert_eq!(body["cursor"], "c1");
        peer.answer(&asked, found(&[2], 2)).await;
    })
    .await;
    assert_eq!(code, 0);
    let expected = "NODE                    datacenter  os.family  cpu.count\n\
                    N1  a           Debian     1\n\
                    N2  b           Debian     2\n";
    assert_eq!(out, expected);
    assert!(err.starts_with("2 nodes match.\n1 node registering"), "{err}");
    assert!(err.contains("1 node matched when it was last seen and is gone:"), "{err}");
    assert!(err.contains("N3  1970-01-01T00:01:00Z  heart-beat␛[31m  datacenter=a os.family=Debian"), "{err}");
}

#[tokio::test]
async fn find_counts_limits_and_exits_1_when_nothing_matches() {
    let script = |mut peer: Peer<DuplexStream>, _: Operator| async move {
        let (asked, body) = peer.expect("/muster/find").await;
        assert_eq!(body["limit"], 1);
        let mut page = found(&[1], 7);
        page["next"] = json!("more");
        peer.answer(&asked, page).await;
    };
    let (code, out, _) = muster(&["find", "--all", "--count"], &[], script).await;
    assert_eq!((code, out.as_str()), (0, "7\n"));
    let (_, _, err) = muster(&["find", "--all", "--limit", "1"], &[], script).await;
    assert_eq!(err, "7 nodes match; the first 1 are shown.\n");
    let (code, out, err) = muster(&["find", "-C", "none"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/muster/find").await;
        peer.answer(&asked, found(&[], 0)).await;
    })
    .await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "No node matches.\n"));
}

#[tokio::test]
async fn reports_facts_and_inventories() {
    let (code, out, _) = muster(&["report", "os.family", "--all"], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/report").await;
        assert_eq!(body, json!({"fact": "os.family"}));
        let values = json!([{"value": "Debian", "count": 2}, {"value": 7, "count": 1}]);
        peer.answer(&asked, json!({"count": 4, "values": values, "missing": 1, "more": 0})).await;
    })
    .await;
    assert_eq!(
        (code, out.as_str()),
        (0, "os.family  NODES  SHARE\nDebian     2      50.0 %\n7          1      25.0 %\n(missing)  1      25.0 %\n")
    );
    let (_, out, err) = muster(&["facts", "cpu.count", "swap", "--all"], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/muster/find").await;
        peer.answer(&asked, found(&[3], 1)).await;
    })
    .await;
    assert!(out.ends_with("N3  a           Debian     3          -\n"), "{out}");
    assert_eq!(err, "1 of 1 node.\n1 node without swap.\n");
    let id = node(1).to_string();
    let (code, out, _) = muster(&["inventory", &id], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/node").await;
        assert_eq!(body, json!({"node": node(1)}));
        let facts = json!({"customer": "acme", "os": {"family": "De\u{7}bian"}, "broker": {"name": "noc1"}});
        let body = json!({"id": node(1), "state": "connected", "collective": "prod", "since": 0, "facts": facts,
            "asserted": ["customer"], "classes": ["web"], "modules": {"node": "h"}, "display": {}, "broker": "noc1"});
        peer.answer(&asked, body).await;
    })
    .await;
    assert_eq!(code, 0);
    assert!(out.contains("state       connected\nbroker      noc1\n"), "{out}");
    assert!(
        out.contains(
            "broker.name  noc1     observed\ncustomer     acme     asserted\nos.family    De␇bian  reported\n"
        ),
        "{out}"
    );
}

#[tokio::test]
async fn explanations_are_trees_and_exit_codes() {
    let id = node(1).to_string();
    let (code, out, err) = muster(&["explain", "-w", "a=1 and b=2", &id], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/node").await;
        assert_eq!(body["explain"], "a = 1 and b = 2");
        let parts = json!([
            {"outcome": "yes", "text": "a = 1", "because": "a is 1", "parts": []},
            {"outcome": "no", "text": "b = 2", "because": "b is missing", "parts": []}]);
        let explanation = json!({"outcome": "no", "text": "all of", "because": "", "parts": parts});
        let body = json!({"id": node(1), "state": "connected", "collective": "prod", "since": 0, "facts": {}, "classes": [],
            "modules": {}, "explanation": explanation});
        peer.answer(&asked, body).await;
    })
    .await;
    assert_eq!(code, 1);
    assert_eq!(out, "no      all of\n  yes     a = 1  (a is 1)\n  no      b = 2  (b is missing)\n");
    assert_eq!(err, "N1 does not match.\n");
    let (code, out, _) =
        muster(&["admin", "explain", "bob", "write", "/topic/prod.a.b"], &[], |mut peer, _| async move {
            let (asked, body) = peer.expect("/muster/admin.explain").await;
            assert_eq!(body, json!({"user": "bob", "right": "write", "destination": "/topic/prod.a.b"}));
            peer.answer(&asked, json!({"allowed": false, "entries": [], "text": "no entry grants it"})).await;
        })
        .await;
    assert_eq!((code, out.as_str()), (1, "not allowed: no entry grants it\n"));
    let (code, out, _) =
        muster(&["admin", "explain", "bob", "write", "/muster/admin.audit"], &[], |mut peer, _| async move {
            let (asked, _) = peer.expect("/muster/admin.explain").await;
            let answer =
                json!({"allowed": false, "entries": ["line 1: …"], "scope": "a = 1", "text": "bob has a scope"});
            peer.answer(&asked, answer).await;
        })
        .await;
    assert_eq!((code, out.as_str()), (1, "not allowed: bob has a scope\n  entry  line 1: …\n  scope  a = 1\n"));
}

#[tokio::test]
async fn explain_shows_limits_reach_and_what_is_hidden() {
    let arguments = ["admin", "explain", "bob", "write", "/topic/prod.a.b", "-w", "a=1"];
    let (code, out, _) = muster(&arguments, &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/admin.explain").await;
        assert_eq!(body["filter"], "a = 1");
        let limits = json!([{"limit": "max-targets", "most": 5, "group": "noc"}]);
        let reached = json!({"nodes": 3});
        let answer = json!({"allowed": true, "entries": ["line 3"], "text": "one\n\u{1b}[2Jtwo", "scope": "b = 2", "all": true, "limits": limits, "reached": reached});
        peer.answer(&asked, answer).await;
    })
    .await;
    let expected = "allowed: one\n␛[2Jtwo\n  entry  line 3\n  scope  b = 2\n  all    yes, inside the scope\n  \
                    limit  max-targets = 5 (group noc)\n  nodes  3\n";
    assert_eq!((code, out.as_str()), (0, expected));
    // A yes that a broker had no part in is no whole yes; a no is a no.
    for (allowed, why, expected) in
        [(true, "unreachable", 3), (true, "refused", 4), (false, "unreachable", 1), (false, "refused", 1)]
    {
        let (code, _, err) = muster(&arguments, &[], |mut peer, _| async move {
            let (asked, _) = peer.expect("/muster/admin.explain").await;
            let without = json!([{"broker": "dc1", "why": why, "text": "so it is", "nodes": 2}]);
            let answer =
                json!({"allowed": allowed, "entries": [], "text": "x", "reached": {"nodes": 3}, "without": without});
            peer.answer(&asked, answer).await;
        })
        .await;
        assert_eq!(
            (code, err.as_str()),
            (expected, "Without dc1: so it is (2 nodes when last seen)\n"),
            "{allowed} {why}"
        );
    }
}

#[tokio::test]
async fn diff_and_lint_send_the_file_and_exit_one_if_there_is_something_to_say() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    std::fs::write(&file, "asserted = []\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, out, err) = muster(&["admin", "diff", path], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/admin.diff").await;
        assert_eq!(body, json!({"policy": "asserted = []\n"}));
        peer.answer(&asked, json!({"changes": [], "rights": []})).await;
    })
    .await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "The policy in force grants the same.\n"));
    let change = json!({"what": "user", "name": "b\u{1b}b", "how": "changed", "details": ["password changed"]});
    let (code, out, _) = muster(&["admin", "diff", path], &[], |mut peer, _| async move {
        let (asked, _) = peer.expect("/muster/admin.diff").await;
        peer.answer(&asked, json!({"changes": [change], "rights": []})).await;
    })
    .await;
    assert_eq!((code, out.as_str()), (1, "~ user b␛b\n    password changed\n"));
    let (code, out, _) = muster(&["admin", "lint"], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/admin.lint").await;
        assert_eq!(body, json!({}));
        let finding = json!({"severity": "danger", "line": 7, "what": "x", "cure": "y"});
        peer.answer(&asked, json!({"findings": [finding]})).await;
    })
    .await;
    assert_eq!((code, out.as_str()), (1, "line 7: danger: x; y\n"));
    let (code, out, _) = muster(&["admin", "lint", path], &[], |mut peer, _| async move {
        let (asked, body) = peer.expect("/muster/admin.lint").await;
        assert_eq!(body, json!({"policy": "asserted = []\n"}));
        peer.answer(&asked, json!({"findings": []})).await;
    })
    .await;
    assert_eq!((code, out.as_str()), (0, ""));
}

#[tokio::test]
async fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = muster(&["completion", shell], &[], |_, _| async {}).await;
        assert!(
            code == 0
                && ["inventory", "mesh", "allow-partial", "add-member", "revoke-tokens", "authority", "max-targets"]
                    .iter()
                    .all(|word| out.contains(word)),
            "{shell}"
        );
    }
}

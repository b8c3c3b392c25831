//! Does an admin see over the network what is on record, as text, within bounds, and nobody else?

use muster_tests::cluster::Plan;
use muster_tests::policy::{PASSWORD, POLICY};
use muster_tests::process::{binary, run};
use muster_tests::stomp::connect;
use muster_tests::{Broker, Muster, Node, Setup, Stomp, request};
use serde_json::{Value, json};
use std::process::Command;

/// The policy of the tests, in which only noc-admin may look into the audit log.
fn policy() -> String {
    let admin = "[users.noc-admin]\nkind = \"operator\"\npassword = \"{phc}\"\ngroups = [\"audit\"]\n[groups.audit]\n";
    let entry = "[[acl]]\ndestination = \"/muster/admin.audit\"\nwrite = [\"audit\"]\n";
    let policy = POLICY.replace("destination = \"/muster/admin.>\"", "destination = \"/muster/admin.explain\"");
    assert_ne!(policy, POLICY);
    format!("{policy}\n{admin}{entry}")
}

fn start() -> Broker {
    let mut setup = Setup::new();
    setup.set_policy(&policy());
    setup.start()
}

#[test]
fn what_was_decided_a_moment_ago_is_found_by_whoever_may_look() {
    let broker = start();
    let admin = Muster::new(&broker, "noc-admin");
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    let mut acme = Stomp::operator(&broker, "acme");
    acme.send(request("prod.node.ping", "r1", "a=1").with_body(r#"{"password":"argument-secret-43"}"#));
    acme.event("accepted");
    let asked = node.request();
    node.reply(&asked, "ok", &json!({}));
    acme.event("reply");
    acme.event("done");
    let mut viewer = Stomp::operator(&broker, "viewer");
    viewer.send(request("prod.service.restart", "r2", "a=1"));
    viewer.refused();

    let said = admin.run(&["audit", "--denied", "--by", "viewer", "--since", "1h"]);
    assert_eq!((said.code, said.stdout.lines().count()), (0, 2), "a header and a line: {said:?}");
    let row: Vec<&str> = said.stdout.lines().last().expect("a line").split_whitespace().collect();
    assert_eq!(row[1..5], ["request", "viewer", "denied", "/topic/prod.service.restart"], "{said:?}");
    assert!(said.stdout.contains("denied: viewer may not write to /topic/prod.service.restart"), "{said:?}");
    assert_eq!(said.stderr, "1 line of the audit log of noc1.\n");
    let found = admin.json(0, &["audit", "--request", "r1", "--json"]);
    let events: Vec<&Value> = found["lines"].as_array().expect("lines").iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["request", "request-done"], "{found}");
    for (arguments, count) in [
        (&["--destination", "/topic/prod.*.restart"][..], 1),
        (&["--node", &node.id.to_string()], 1),
        (&["--event", "started"], 1),
        (&["--allowed", "--by", "acme", "--event", "request"], 1),
        (&["--until", "1h"], 0),
        (&["--by", "nobody"], 0),
    ] {
        let mut all = vec!["audit", "--json"];
        all.extend(arguments);
        let found = admin.json(u8::from(count == 0).into(), &all);
        assert_eq!(found["lines"].as_array().map(Vec::len), Some(count), "{arguments:?}: {found}");
    }
    // That somebody looked is on record.
    let looked = admin.json(0, &["audit", "--by", "noc-admin", "--event", "admin", "--json"]);
    let looked = looked["lines"].as_array().expect("lines");
    assert!(looked.len() > 5 && looked.iter().all(|line| line["destination"] == "/muster/admin.audit"), "{looked:?}");
    assert_eq!(looked[0]["about"], "audit viewer");
    let all = admin.run(&["audit", "--ndjson", "--limit", "1000"]).stdout;
    assert!(!all.contains("-secret-") && !all.contains(PASSWORD) && !all.contains("$argon2id"), "{all}");
    // The same lines as on the machine.
    let config = broker.folder().join("musterd.toml");
    let there = run(Command::new(binary("musterd"))
        .args(["audit", "search", "--json", "--request", "r1", "--config"])
        .arg(config));
    let there: Vec<Value> = there.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(json!(there), admin.json(0, &["audit", "--request", "r1", "--json"])["lines"]);

    for other in ["noc", "acme"] {
        let said = Muster::new(&broker, other).run(&["audit"]);
        assert!(said.code == 4 && said.stderr.contains("refused: denied"), "{other}: {said:?}");
    }
    let denied = admin.json(0, &["audit", "--denied", "--destination", "/muster/admin.audit", "--json"]);
    assert_eq!(denied["lines"].as_array().map(Vec::len), Some(2), "{denied}");
}

#[test]
fn what_others_chose_is_shown_as_text_and_answers_are_bounded() {
    let broker = start();
    let admin = Muster::new(&broker, "noc-admin");
    let mut stomp = Stomp::operator(&broker, "viewer");
    for number in 0..1_500 {
        stomp.send(request("elsewhere.node.ping", &format!("r{number}"), "hostname=\"\u{202e}2J\""));
        stomp.refused();
    }
    let said = admin.run(&["audit", "--by", "viewer", "--event", "request", "--limit", "3"]);
    assert!(said.code == 0 && !said.stdout.contains(['\u{1b}', '\u{202e}']), "{said:?}");
    assert!(said.stderr.ends_with("Older lines fit too; --limit shows more.\n"), "{said:?}");
    let mut guess = Stomp::dial(&broker);
    let mut frame = connect("viewer\u{1b}[2J");
    frame.headers.set("passcode", "wrong");
    guess.send(frame);
    assert_eq!(guess.error().code, "auth-failed");
    let said = admin.run(&["audit", "--event", "login", "--denied"]);
    assert!(said.stdout.contains("viewer␛[2J") && !said.stdout.contains('\u{1b}'), "{said:?}");
    // One answer holds 256 KiB: all of them take several.
    let all = admin.json(0, &["audit", "--by", "viewer", "--event", "request", "--limit", "5000", "--json"]);
    let lines = all["lines"].as_array().expect("lines");
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line["n"].as_u64()).collect();
    assert_eq!((lines.len(), &all["more"]), (1_500, &json!(false)));
    assert!(all.to_string().len() > 256 * 1024, "{}", all.to_string().len());
    assert!(numbers.is_sorted_by(|a, b| a < b), "oldest first, each once");
    let mut asker = Stomp::operator(&broker, "noc-admin");
    let page = asker.ask("/muster/admin.audit", None, &json!({ "limit": 1000 })).expect("an answer");
    assert!(page.to_string().len() < 300 * 1024 && page["more"] == true, "{}", page.to_string().len());
    for (body, text) in [
        (json!({ "limit": 1001 }), "limit: expected 1 to 1000"),
        (json!({ "since": "1h" }), "since: `1h` is no moment"),
        (json!({ "decision": "maybe" }), "decision: `maybe` is none"),
        (json!({ "destination": "prod" }), "destination: "),
        (json!({ "path": "/etc/passwd" }), "unknown field `path`"),
    ] {
        let refused = asker.ask("/muster/admin.audit", None, &body).expect_err("refused");
        assert!(refused.code == "bad-body" && refused.text.contains(text), "{body}: {refused:?}");
    }
}

#[test]
fn a_broker_without_an_audit_log_says_so_and_each_broker_shows_its_own() {
    let mut setup = Setup::new().with("audit.enabled", false);
    setup.set_policy(&policy());
    let broker = setup.start();
    let said = Muster::new(&broker, "noc-admin").run(&["audit"]);
    assert!(said.code == 4 && said.stderr.contains("unsupported: noc1 keeps no audit log"), "{said:?}");

    let names = ["noc1", "dc1", "dc2"];
    let plan = names.iter().fold(Plan::triangle(), |plan, name| plan.setting(name, "audit.heads", "200ms"));
    let cluster = names.iter().fold(plan, |plan, name| plan.policy(name, &policy())).start();
    drop(Stomp::operator(&cluster["dc1"], "viewer"));
    for (name, code) in [("noc1", 1), ("dc1", 0)] {
        let admin = Muster::new(&cluster[name], "noc-admin");
        let found = admin.json(code, &["audit", "--by", "viewer", "--event", "login", "--json"]);
        assert_eq!(found["broker"], name);
        let heads = admin.run(&["audit", "--event", "peer-head"]);
        assert!(heads.code <= 1, "{heads:?}");
        let quiet = admin.run(&["audit"]);
        assert!(quiet.code == 0 && !quiet.stdout.contains("peer-head"), "only when asked for: {quiet:?}");
    }
}

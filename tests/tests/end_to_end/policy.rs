//! What does a reloaded policy end, and what do scopes and hidden facts keep from whom?

use muster_protocol::frame::{Command, Frame};
use muster_tests::policy::{POLICY, with, without_user};
use muster_tests::stomp::{REPLIES, message, subscription};
use muster_tests::{Broker, Node, Stomp, request, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const NEWCOMER: &str = "\n[users.newcomer]\nkind = \"operator\"\npassword = \"{phc}\"\ngroups = [\"noc\"]\n";

/// A broker with a node of each customer: acmeinc is number 1, beta is number 2.
fn two_customers() -> (Broker, Node, Node) {
    let broker = Broker::start();
    let facts =
        json!({ "os": { "family": "Debian" }, "hostname": "web1.acme.example", "network": { "ip": "192.0.2.1" } });
    let acme = Node::register(&broker, "node-acme", 1, facts);
    let facts =
        json!({ "os": { "family": "RedHat" }, "hostname": "db1.beta.example", "network": { "ip": "192.0.2.2" } });
    let beta = Node::register(&broker, "node-beta", 2, facts);
    (broker, acme, beta)
}

#[test]
fn a_reload_by_ctl_lets_a_new_user_in() {
    let broker = Broker::start();
    let mut stomp = Stomp::dial(&broker);
    stomp.send(muster_tests::stomp::connect("newcomer"));
    assert_eq!(stomp.error().code, "auth-failed");
    let mut stays = Stomp::operator(&broker, "noc");
    broker.reload(&format!("{POLICY}{NEWCOMER}"));
    drop(Stomp::login(&broker, "newcomer"));
    stays.assert_quiet();
}

#[test]
fn a_reload_by_sighup_lets_a_new_user_in() {
    let broker = Broker::start();
    broker.write_policy(&format!("{POLICY}{NEWCOMER}"));
    broker.signal(Signal::HUP);
    until("the policy is reloaded", || broker.log().contains("policy reloaded").then_some(()));
    drop(Stomp::login(&broker, "newcomer"));
}

#[test]
fn a_removed_disabled_or_changed_user_is_out_at_once() {
    let other_password = with(
        "[users.viewer]\nkind = \"operator\"\npassword = \"{phc}\"",
        "[users.viewer]\nkind = \"operator\"\npassword = \"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY\"",
    );
    for (what, policy) in [
        ("removed", without_user("viewer")),
        ("disabled", with("[users.viewer]\n", "[users.viewer]\ndisabled = true\n")),
        ("another password", other_password),
        ("another kind", with("[users.viewer]\nkind = \"operator\"", "[users.viewer]\nkind = \"service\"")),
        ("expired", with("[users.viewer]\n", "[users.viewer]\nexpires = 2021-01-01\n")),
        ("another network", with("[users.viewer]\n", "[users.viewer]\nnetworks = [\"192.0.2.0/24\"]\n")),
    ] {
        let broker = Broker::start();
        let mut viewer = Stomp::operator(&broker, "viewer");
        let mut stays = Stomp::operator(&broker, "noc");
        broker.reload(&policy);
        assert_eq!(viewer.error().code, "revoked", "{what}");
        stays.assert_quiet();
    }
}

#[test]
fn a_removed_agent_user_takes_its_nodes_along() {
    let (broker, mut acme, beta) = two_customers();
    broker.reload(&without_user("node-acme"));
    assert_eq!(acme.stomp.error().code, "revoked");
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(operator.find("all"), [beta.id]);
}

#[test]
fn a_narrowed_subscription_is_closed() {
    let broker = Broker::start();
    let mut viewer = Stomp::login(&broker, "viewer");
    viewer.subscribe("/topic/open.>", "1");
    let mut stays = Stomp::login(&broker, "viewer");
    stays.subscribe("/topic/prod.registration", "1");
    broker.reload(&with(
        "read = [\"noc\", \"viewers\"]\nwrite = [\"noc\", \"viewers\", \"noc-acme\"]",
        "read = [\"noc\"]\nwrite = [\"noc\", \"viewers\", \"noc-acme\"]",
    ));
    assert_eq!(viewer.error().code, "revoked");
    stays.assert_quiet();
}

#[test]
fn a_bad_policy_keeps_the_last_good_one_and_names_its_line() {
    let broker = Broker::start();
    let mut stays = Stomp::operator(&broker, "noc");
    let before = POLICY.lines().count();
    for (what, policy, line) in [
        ("no TOML", format!("{POLICY}\n[users\n"), Some(before + 2)),
        ("unknown field", format!("{POLICY}\nfrobnicate = 1\n"), Some(before + 2)),
        ("unknown group", with("groups = [\"viewers\"]", "groups = [\"strangers\"]"), None),
        ("bad scope", with("scope = \"customer=acmeinc\"", "scope = \"customer=\""), None),
        ("scope on reported facts", with("scope = \"customer=acmeinc\"", "scope = \"os.family=Debian\""), None),
        ("password in the clear", with("password = \"{phc}\"", "password = \"plain-secret-42\""), None),
    ] {
        broker.write_policy(&policy);
        let said = broker.ctl("reload");
        assert_eq!(said.code, 1, "{what}: {said:?}");
        assert!(said.stderr.contains("policy.toml") && said.stderr.contains("line"), "{what}: {said:?}");
        if let Some(line) = line {
            assert!(said.stderr.contains(&format!("line {line}")), "{what}: line {line} was meant: {said:?}");
        }
        assert!(!said.stderr.contains("plain-secret-42"), "{said:?}");
        stays.assert_quiet();
        drop(Stomp::login(&broker, "noc"));
    }
    broker.signal(Signal::HUP);
    until("the log says so", || broker.log().contains("the last good one stays").then_some(()));
    assert!(!broker.log().contains("plain-secret-42"));
    broker.reload(POLICY);
    broker.assert_serves();
}

#[test]
fn asserted_facts_that_change_hold_at_once_and_the_agent_hears_of_them() {
    let (broker, mut acme, _beta) = two_customers();
    broker.reload(&with("facts = { customer = \"acmeinc\"", "facts = { customer = \"newcorp\""));
    let told =
        acme.stomp.wait_for("the new asserted facts", |frame| frame.headers.get("muster-event") == Some("registered"));
    assert_eq!(muster_tests::stomp::json(&told)["asserted"]["customer"], "newcorp");
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(operator.find("customer=newcorp"), [acme.id]);
    assert!(operator.find("customer=acmeinc").is_empty());
    let mut scoped = Stomp::operator(&broker, "acme");
    assert!(scoped.find("all").is_empty(), "the scope follows the policy in force");
}

#[test]
fn a_scoped_operator_finds_only_its_nodes() {
    let (broker, acme, beta) = two_customers();
    let mut scoped = Stomp::operator(&broker, "acme");
    for target in ["all", "not os.family=Suse", "customer=beta or customer=acmeinc", "has os.family"] {
        assert_eq!(scoped.find(target), std::slice::from_ref(&acme.id), "{target}");
    }
    for target in ["customer=beta", "os.family=RedHat", "not customer=acmeinc"] {
        assert!(scoped.find(target).is_empty(), "{target}");
    }
    let report = scoped.ask("/muster/report", Some("all"), &json!({ "fact": "os.family" })).expect("a report");
    assert_eq!(report["values"], json!([{ "value": "Debian", "count": 1 }]), "{report}");
    assert_eq!((&report["count"], &report["missing"]), (&json!(1), &json!(0)));
    assert_eq!(
        scoped.ask("/muster/node", None, &json!({ "node": acme.id })).expect("its own node")["id"],
        json!(acme.id)
    );
    let foreign = scoped.ask("/muster/node", None, &json!({ "node": beta.id })).expect_err("not its node");
    let unknown =
        scoped.ask("/muster/node", None, &json!({ "node": muster_tests::node::id(99) })).expect_err("no node");
    assert_eq!(foreign.code, "no-such-node");
    assert_eq!(
        foreign.text.replace(&beta.id, "ID"),
        unknown.text.replace(&muster_tests::node::id(99), "ID"),
        "told apart"
    );
}

#[test]
fn a_scoped_operator_does_not_learn_of_gone_nodes_of_others() {
    let (broker, _acme, beta) = two_customers();
    beta.stomp.cut();
    until("beta's node is gone", || (broker.count("gone") == 1).then_some(()));
    let mut scoped = Stomp::operator(&broker, "acme");
    let answer = scoped.ask("/muster/find", Some("all"), &json!({})).expect("an answer");
    assert_eq!((&answer["count"], answer["gone"].as_array().map_or(0, Vec::len)), (&json!(1), 0), "{answer}");
    let refused = scoped.ask("/muster/node", None, &json!({ "node": beta.id })).expect_err("not its node");
    assert_eq!(refused.code, "no-such-node");
}

#[test]
fn a_scoped_operator_does_not_learn_of_registering_nodes_of_others() {
    let broker = Broker::start();
    let _registering = Node::connect(&broker, "node-beta", 3);
    let mut scoped = Stomp::operator(&broker, "acme");
    let answer = scoped.ask("/muster/find", Some("all"), &json!({})).expect("an answer");
    // BUG: `registering` counts every node that registers. What the policy asserts of beta's node is known at its login: it is
    // outside the scope whatever its document will say.
    assert_eq!(answer["registering"], 0, "{answer}");
}

#[test]
fn a_scoped_operator_reaches_only_its_nodes() {
    let (broker, mut acme, mut beta) = two_customers();
    let mut scoped = Stomp::operator(&broker, "acme");
    scoped.send(request("prod.node.ping", "r1", "has os.family"));
    let accepted = muster_tests::stomp::json(&scoped.event("accepted"));
    assert_eq!(accepted["nodes"].as_array().map(Vec::len), Some(1), "{accepted}");
    let asked = acme.request();
    let target = asked.headers.get("muster-target").expect("a target");
    assert!(target.contains("acmeinc"), "the agent must be able to check the scope too: {target}");
    beta.stomp.assert_quiet();
    // Naming another's node does not reach it: `muster-nodes` narrows.
    scoped.send(request("prod.node.ping", "r2", "has os.family").header("muster-nodes", &beta.id));
    let accepted = scoped.event("accepted");
    assert_eq!(accepted.headers.get("muster-count"), Some("0"));
    scoped.event("done");
    beta.stomp.assert_quiet();
    // Without a target nothing reaches a topic of a targeted collective.
    scoped.send(message("/topic/prod.news.today.late").header("muster-request", "r3").header("reply-to", REPLIES));
    assert_eq!(scoped.refused().code, "target-required");
}

#[test]
fn all_needs_its_right() {
    let (broker, ..) = two_customers();
    for (user, allowed) in [("noc", true), ("viewer", false), ("acme", false)] {
        let mut operator = Stomp::operator(&broker, user);
        operator.send(request("prod.service.status", "r1", "all"));
        if allowed {
            operator.event("accepted");
        } else {
            assert_eq!(operator.refused().code, "all-not-allowed", "{user}");
        }
        // Looking is not commanding.
        operator.find("all");
    }
}

#[test]
fn what_the_acl_does_not_grant_is_refused() {
    let (broker, mut acme, _beta) = two_customers();
    let mut viewer = Stomp::operator(&broker, "viewer");
    viewer.send(request("prod.service.status", "r1", "customer=acmeinc"));
    viewer.event("accepted");
    acme.request();
    viewer.send(request("prod.service.restart", "r2", "customer=acmeinc"));
    assert_eq!(viewer.refused().code, "denied");
    acme.stomp.assert_quiet();
    let refused = viewer.ask(
        "/muster/admin.explain",
        None,
        &json!({ "user": "noc", "right": "write", "destination": "/topic/prod.a" }),
    );
    assert_eq!(refused.expect_err("not an admin").code, "denied");
    viewer.send(message("/topic/prod.news"));
    assert_eq!(viewer.error().code, "denied");
    for destination in [
        "/topic/prod.>",
        "/topic/>",
        "/topic/prod.*.*",
        "/topic/opening",
        "/topic/*.x",
        "/muster/find",
        "/remote-temp-queue/noc1.0",
    ] {
        let mut viewer = Stomp::login(&broker, "viewer");
        viewer.send(subscription(destination, "1"));
        assert_eq!(viewer.error().code, "denied", "{destination}");
    }
    let mut nobody = Stomp::operator(&broker, "nobody");
    assert_eq!(nobody.ask("/muster/find", Some("all"), &json!({})).expect_err("no right").code, "denied");
    let mut agent = Node::connect(&broker, "node-bare", 5);
    agent.stomp.send(message("/topic/prod.news"));
    assert_eq!(agent.stomp.error().code, "denied");
}

#[test]
fn delivery_checks_the_acl_again() {
    let broker = Broker::start();
    let mut viewer = Stomp::login(&broker, "viewer");
    viewer.subscribe("/topic/open.>", "1");
    let mut operator = Stomp::operator(&broker, "noc");
    operator.send_and_wait(message("/topic/open.a").with_body("1"));
    assert_eq!(&viewer.frame().body[..], b"1");
    // mcollective is not granted to viewers, whatever they subscribe to.
    operator.send_and_wait(message("/topic/mcollective.a").with_body("2"));
    viewer.assert_quiet();
}

#[test]
fn an_untargeted_collective_addresses_everybody() {
    let broker = Broker::start();
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    node.stomp.subscribe("/topic/mcollective.>", "m");
    let mut operator = Stomp::operator(&broker, "noc");
    operator.send_and_wait(message("/topic/mcollective.service.command").header("reply-to", REPLIES).with_body("ping"));
    let got = node.stomp.frame();
    assert_eq!(&got.body[..], b"ping");
    let queue = got.headers.get("reply-to").expect("a reply queue").to_owned();
    node.stomp.send_and_wait(message(&queue).with_body("pong"));
    assert_eq!(&operator.frame().body[..], b"pong");
}

#[test]
fn only_who_received_a_message_may_answer_it() {
    let broker = Broker::start();
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    node.stomp.subscribe("/topic/mcollective.>", "m");
    let mut operator = Stomp::operator(&broker, "noc");
    operator.send_and_wait(message("/topic/mcollective.service.command").header("reply-to", REPLIES).with_body("ping"));
    let queue = node.stomp.frame().headers.get("reply-to").expect("a reply queue").to_owned();
    // Somebody who has the name from elsewhere, and never got the message.
    // BUG: docs/protocol.md says that only a session that received the message may write; the broker takes it from anybody.
    for user in ["viewer", "peek"] {
        let mut other = Stomp::login(&broker, user);
        other.send(message(&queue).with_body("forged"));
        assert_eq!(other.error().code, "gone", "{user}");
    }
    operator.assert_quiet();
    // Nor one that may no longer receive it.
    broker.reload(&with("read = [\"noc\", \"agents\"]", "read = [\"noc\"]"));
    assert_eq!(node.stomp.error().code, "revoked");
}

#[test]
fn hidden_facts_are_refused_and_redacted() {
    let (broker, acme, _beta) = two_customers();
    let mut operator = Stomp::operator(&broker, "noc");
    for target in [
        "hostname=web1.acme.example",
        "hostname ~ web",
        "has hostname",
        "not network.ip=1",
        "network.ip ~ 192",
        "os.family=Debian or has network",
    ] {
        let refused = operator.ask("/muster/find", Some(target), &json!({})).expect_err(target);
        assert_eq!(refused.code, "hidden-fact", "{target}: {refused:?}");
        operator.send(request("prod.node.ping", "r1", target));
        assert_eq!(operator.refused().code, "hidden-fact", "{target}");
        let refused =
            operator.ask("/muster/node", None, &json!({ "node": acme.id, "explain": target })).expect_err(target);
        assert_eq!(refused.code, "hidden-fact", "explain {target}");
    }
    for fact in ["hostname", "network.ip", "network"] {
        let refused = operator.ask("/muster/find", Some("all"), &json!({ "facts": [fact] })).expect_err(fact);
        assert_eq!(refused.code, "hidden-fact", "{fact}");
        let refused = operator.ask("/muster/report", Some("all"), &json!({ "fact": fact })).expect_err(fact);
        assert_eq!(refused.code, "hidden-fact", "{fact}");
    }
    let node = operator.ask("/muster/node", None, &json!({ "node": acme.id })).expect("a node");
    assert_eq!(
        (&node["facts"]["os"]["family"], &node["facts"]["hostname"]),
        (&json!("Debian"), &Value::Null),
        "{node}"
    );
    assert!(!node.to_string().contains("192.0.2.1") && !node.to_string().contains("web1.acme"), "{node}");
    assert_eq!(node["display"], json!({ "os.family": "Debian", "customer": "acmeinc" }), "{node}");
    let found =
        operator.ask("/muster/find", Some("all"), &json!({ "facts": ["os.family", "nothing"] })).expect("found");
    assert!(!found.to_string().contains("web1.acme"), "{found}");
    // Whom the policy lets see them, sees them.
    let mut peek = Stomp::operator(&broker, "peek");
    assert_eq!(peek.find("hostname ~ web1"), std::slice::from_ref(&acme.id));
    let node = peek.ask("/muster/node", None, &json!({ "node": acme.id })).expect("a node");
    assert_eq!(node["facts"]["hostname"], "web1.acme.example");
    assert_eq!(node["display"]["hostname"], "web1.acme.example");
}

#[test]
fn display_facts_in_answers_are_redacted_for_each_caller() {
    let (broker, mut acme, _beta) = two_customers();
    for (user, sees) in [("noc", false), ("peek", true)] {
        let mut operator = Stomp::operator(&broker, user);
        operator.send(request("prod.node.ping", "r1", "customer=acmeinc"));
        let accepted = operator.event("accepted");
        assert_eq!(String::from_utf8_lossy(&accepted.body).contains("web1.acme"), sees, "{user}");
        let asked = acme.request();
        acme.reply(&asked, "ok", &json!({ "pong": true }));
        let reply = operator.event("reply");
        let display = reply.headers.get("muster-display").expect("display facts");
        assert_eq!(display.contains("web1.acme"), sees, "{user}: {display}");
        assert!(display.contains("acmeinc"), "{display}");
    }
}

#[test]
fn registrations_are_told_redacted_and_scoped() {
    let broker = Broker::start();
    let mut all = Stomp::login(&broker, "viewer");
    all.subscribe("/topic/prod.registration", "1");
    let mut scoped = Stomp::login(&broker, "acme");
    scoped.subscribe("/topic/prod.registration", "1");
    let acme = Node::register(&broker, "node-acme", 1, json!({ "hostname": "web1.acme.example" }));
    let beta = Node::register(&broker, "node-beta", 2, json!({ "hostname": "db1.beta.example" }));
    let event = |stomp: &mut Stomp| muster_tests::stomp::json(&stomp.frame());
    for id in [&acme.id, &beta.id] {
        let seen = event(&mut all);
        assert_eq!((&seen["event"], &seen["node"]), (&json!("registered"), &json!(id)), "{seen}");
        assert!(!seen.to_string().contains("example"), "a hidden fact: {seen}");
    }
    assert_eq!(event(&mut scoped)["node"], json!(acme.id));
    scoped.assert_quiet();
    let mut beta = beta;
    beta.publish(&muster_tests::node::document(json!({ "hostname": "db2.beta.example" })));
    all.assert_quiet();
    beta.publish(&muster_tests::node::document(json!({ "hostname": "db3.beta.example", "kernel": "Linux" })));
    assert_eq!(event(&mut all)["event"], "changed", "this one is not about hidden facts alone");
    let (acme_id, beta_id) = (acme.id.clone(), beta.id.clone());
    beta.stomp.send(Frame::new(Command::Disconnect));
    let gone = event(&mut all);
    assert_eq!((&gone["event"], &gone["node"], &gone["reason"]), (&json!("gone"), &json!(beta_id), &json!("clean")));
    acme.stomp.cut();
    assert_eq!(event(&mut all)["node"], json!(acme_id));
    let gone = event(&mut scoped);
    assert_eq!((&gone["event"], &gone["node"]), (&json!("gone"), &json!(acme_id)), "beta's end is not acme's to know");
}

#[test]
fn explain_names_the_entries_that_grant() {
    let broker = Broker::start();
    let mut operator = Stomp::operator(&broker, "noc");
    let mut explain = |user: &str, right: &str, destination: &str| {
        operator.ask(
            "/muster/admin.explain",
            None,
            &json!({ "user": user, "right": right, "destination": destination }),
        )
    };
    let granted = explain("viewer", "write", "/topic/prod.service.status").expect("an answer");
    assert_eq!(granted["allowed"], true, "{granted}");
    assert_eq!(granted["entries"].as_array().map(Vec::len), Some(1), "{granted}");
    let denied = explain("viewer", "write", "/topic/prod.service.restart").expect("an answer");
    assert_eq!((&denied["allowed"], denied["entries"].as_array().map(Vec::len)), (&json!(false), Some(0)), "{denied}");
    let scoped = explain("acme", "write", "/topic/prod.service.restart").expect("an answer");
    assert!(scoped["scope"].as_str().is_some_and(|scope| scope.contains("acmeinc")), "{scoped}");
    for (user, right, destination) in [("viewer", "frobnicate", "/topic/a"), ("viewer", "write", "nonsense")] {
        explain(user, right, destination).expect_err("a refusal");
    }
}

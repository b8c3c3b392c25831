//! What does the registry believe of a node?

use muster_protocol::frame::{Command, Frame};
use muster_tests::node::{document, facts_frame, hash};
use muster_tests::{Broker, Node, Stomp, until};
use serde_json::{Value, json};

#[test]
fn a_whole_document_makes_a_node() {
    let broker = Broker::start();
    let mut node = Node::connect(&broker, "node-acme", 1);
    let document = json!({ "facts": { "os": { "family": "Debian" }, "cpu": 4 }, "classes": ["webserver"], "modules": { "service": "0" } });
    let asserted = node.publish(&document);
    assert_eq!(asserted, json!({ "customer": "acmeinc", "datacenter": "a" }));
    let mut operator = Stomp::operator(&broker, "noc");
    for target in
        ["os.family=Debian", "cpu > 3", "class = webserver", "datacenter=a and class ~ web and customer=acmeinc", "all"]
    {
        assert_eq!(operator.find(target), [node.id.clone()], "{target}");
    }
    for target in ["os.family=debian", "cpu > 4", "class = db", "not customer=acmeinc"] {
        assert!(operator.find(target).is_empty(), "{target}");
    }
    let answer = operator
        .ask("/muster/node", None, &json!({ "node": node.id, "explain": "cpu=8 or class=webserver" }))
        .expect("a node");
    assert_eq!((&answer["state"], &answer["collective"]), (&json!("connected"), &json!("prod")), "{answer}");
    assert_eq!(answer["classes"], json!(["webserver"]));
    assert_eq!(answer["modules"], json!({ "service": "0" }));
    assert_eq!(answer["facts"]["customer"], "acmeinc");
    assert_eq!(answer["facts"]["broker"]["name"], "noc1", "observed by the broker: {answer}");
    assert!(answer["asserted"].as_array().is_some_and(|a| a.contains(&json!("customer"))), "{answer}");
    assert!(answer["explanation"].is_object(), "{answer}");
}

#[test]
fn a_delta_changes_what_it_names() {
    let broker = Broker::start();
    let base = document(json!({ "a": 1, "b": 2 }));
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1, "b": 2 }));
    let mut next = base.clone();
    next["facts"] = json!({ "b": 2, "c": 3 });
    next["classes"] = json!(["db"]);
    let patch = json!({ "facts": { "a": null, "c": 3 }, "classes": ["db"] });
    node.publish_delta(&base, &patch, &next).expect("taken");
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(operator.find("b=2 and c=3 and class=db and not has a"), [node.id.clone()]);
    // Deltas build on each other.
    let mut last = next.clone();
    last["facts"] = json!({ "b": 5, "c": 3 });
    node.publish_delta(&next, &json!({ "facts": { "b": 5 } }), &last).expect("taken");
    assert_eq!(operator.find("b=5 and c=3"), [node.id.clone()]);
}

#[test]
fn a_stale_base_is_refused_and_the_whole_is_taken_then() {
    let broker = Broker::start();
    let base = document(json!({ "a": 1 }));
    let other = document(json!({ "a": 7 }));
    let next = document(json!({ "a": 2 }));
    let patch = json!({ "facts": { "a": 2 } });
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(node.publish_delta(&other, &patch, &next).expect_err("another base").code, "stale-base");
    // The right base, but the result hashes to something else.
    assert_eq!(node.publish_delta(&base, &patch, &other).expect_err("another result").code, "stale-base");
    assert_eq!(operator.find("a=1"), [node.id.clone()], "the old facts stay");
    node.publish(&next);
    assert_eq!(operator.find("a=2"), [node.id.clone()]);
    // After a reconnect the broker has no base.
    let mut again = Node::connect_again(&broker, "node-acme", 1, 2);
    let refused =
        again.publish_delta(&next, &json!({ "facts": { "a": 3 } }), &document(json!({ "a": 3 }))).expect_err("no base");
    assert_eq!(refused.code, "stale-base");
}

#[test]
fn asserted_facts_win_over_reported_ones() {
    let broker = Broker::start();
    let forged = json!({ "customer": "acmeinc", "datacenter": ["a", "b"], "a": 1 });
    let beta = Node::register(&broker, "node-beta", 2, forged);
    let bare =
        Node::register(&broker, "node-bare", 3, json!({ "customer": "acmeinc", "broker": { "name": "evil" }, "a": 1 }));
    let mut operator = Stomp::operator(&broker, "noc");
    assert!(operator.find("customer=acmeinc").is_empty(), "a forged customer is believed");
    assert_eq!(operator.find("customer=beta and datacenter=b"), std::slice::from_ref(&beta.id));
    assert!(operator.find("datacenter=a").is_empty());
    // Nothing is asserted of it, and what it says itself at that name does not count either.
    assert_eq!(operator.find("a=1 and not has customer"), std::slice::from_ref(&bare.id));
    assert!(operator.find("broker.name=evil").is_empty(), "a forged observation is believed");
    let mut scoped = Stomp::operator(&broker, "acme");
    assert!(scoped.find("all").is_empty(), "the scope is talked around");
    let node = operator.ask("/muster/node", None, &json!({ "node": bare.id })).expect("a node");
    assert_eq!(node["facts"]["customer"], Value::Null, "{node}");
    // A delta does not bring it in either.
    let mut beta = beta;
    let base = document(json!({ "customer": "acmeinc", "datacenter": ["a", "b"], "a": 1 }));
    let next = document(json!({ "customer": "acmeinc", "datacenter": ["a", "b"], "a": 2 }));
    beta.publish_delta(&base, &json!({ "facts": { "a": 2 } }), &next).expect("taken");
    assert!(operator.find("customer=acmeinc").is_empty());
    assert_eq!(operator.find("a=2 and customer=beta"), [beta.id.clone()]);
}

#[test]
fn a_node_that_registers_matches_nothing_yet() {
    let broker = Broker::start();
    let mut node = Node::connect(&broker, "node-acme", 1);
    let mut operator = Stomp::operator(&broker, "noc");
    for target in ["all", "not has anything", "customer=acmeinc", "not customer=beta"] {
        let answer = operator.ask("/muster/find", Some(target), &json!({})).expect("an answer");
        assert_eq!((&answer["count"], &answer["registering"]), (&json!(0), &json!(1)), "{target}: {answer}");
    }
    let answer = operator.ask("/muster/node", None, &json!({ "node": node.id })).expect("a node");
    assert_eq!(answer["state"], "registering");
    operator.send(muster_tests::request("prod.node.ping", "r1", "all"));
    assert_eq!(operator.event("accepted").headers.get("muster-count"), Some("0"));
    operator.event("done");
    // A document that is not accepted does not change that.
    let mut frame = facts_frame(&document(json!({})));
    frame.headers.set("muster-hash", &hash(&document(json!({ "a": 1 }))));
    node.publish_frame(frame).expect_err("the wrong hash");
    assert!(operator.find("all").is_empty());
    node.publish(&document(json!({ "a": 1 })));
    assert_eq!(operator.find("all"), [node.id.clone()]);
}

#[test]
fn nodes_that_are_gone_are_named_with_the_reason() {
    let broker = Broker::start();
    let clean = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    let cut = Node::register(&broker, "node-acme", 2, json!({ "a": 1 }));
    let refused = Node::register(&broker, "node-acme", 3, json!({ "a": 2 }));
    let ids = [clean.id.clone(), cut.id.clone(), refused.id.clone()];
    let (mut clean, mut refused) = (clean, refused);
    clean.stomp.send(Frame::new(Command::Disconnect));
    clean.stomp.end();
    cut.stomp.cut();
    refused.stomp.raw(b"FROBNICATE\n\n\0");
    refused.stomp.error();
    until("all are gone", || (broker.count("gone") == 3).then_some(()));
    let mut operator = Stomp::operator(&broker, "noc");
    let answer = operator.ask("/muster/find", Some("a=1"), &json!({})).expect("an answer");
    assert_eq!(answer["count"], 0);
    let gone = answer["gone"].as_array().expect("gone nodes");
    let reason =
        |id: &str| gone.iter().find(|g| g["id"] == *id).map(|g| g["reason"].as_str().unwrap_or_default().to_owned());
    assert_eq!(gone.len(), 2, "only those that matched: {answer}");
    assert_eq!(reason(&ids[0]).as_deref(), Some("clean"), "{answer}");
    assert!(reason(&ids[1]).is_some_and(|r| !r.is_empty() && r != "clean"), "{answer}");
    assert!(gone.iter().all(|g| g["at"].is_u64() && g["since"].is_u64()), "{answer}");
    let node = operator.ask("/muster/node", None, &json!({ "node": ids[2] })).expect("remembered");
    assert_eq!((&node["state"], &node["facts"]["a"]), (&json!("gone"), &json!(2)), "{node}");
    assert!(node["gone"]["reason"].is_string(), "{node}");
}

#[test]
fn find_shows_facts_and_goes_in_pages() {
    let broker = Broker::start();
    let nodes: Vec<Node> = (1..=5)
        .map(|n| Node::register(&broker, "node-acme", n, json!({ "n": n, "os": { "family": "Debian" } })))
        .collect();
    let mut operator = Stomp::operator(&broker, "noc");
    let (mut cursor, mut seen) = (Value::Null, Vec::new());
    for page in 0.. {
        assert!(page < 5, "no end of pages");
        let answer = operator
            .ask("/muster/find", Some("os.family=Debian"), &json!({ "limit": 2, "facts": ["n"], "cursor": cursor }))
            .expect("a page");
        assert_eq!(answer["count"], 5);
        let found = answer["nodes"].as_array().expect("nodes");
        assert!(found.len() <= 2);
        seen.extend(
            found.iter().map(|node| (node["id"].as_str().unwrap_or_default().to_owned(), node["facts"]["n"].clone())),
        );
        cursor = answer["next"].clone();
        if cursor.is_null() {
            break;
        }
    }
    seen.sort_by_key(|(_, n)| n.as_u64());
    let expected: Vec<(String, Value)> = nodes.iter().zip(1..).map(|(node, n)| (node.id.clone(), json!(n))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_report_counts_values_and_those_without() {
    let broker = Broker::start();
    let facts = [
        json!({ "os": "Debian" }),
        json!({ "os": "Debian" }),
        json!({ "os": "RedHat" }),
        json!({ "other": 1 }),
        json!({ "os": null }),
    ];
    let _nodes: Vec<Node> =
        facts.into_iter().zip(1..).map(|(facts, n)| Node::register(&broker, "node-acme", n, facts)).collect();
    let mut operator = Stomp::operator(&broker, "noc");
    let report = operator.ask("/muster/report", Some("all"), &json!({ "fact": "os" })).expect("a report");
    assert_eq!(
        report,
        json!({ "count": 5, "values": [{ "value": "Debian", "count": 2 }, { "value": "RedHat", "count": 1 }], "missing": 2, "more": 0 })
    );
    let short = operator.ask("/muster/report", Some("has os"), &json!({ "fact": "os", "limit": 1 })).expect("a report");
    assert_eq!((&short["count"], &short["more"], &short["missing"]), (&json!(3), &json!(1), &json!(0)), "{short}");
}

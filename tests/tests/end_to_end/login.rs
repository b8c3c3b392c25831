//! Who gets in, who is told to wait, and which of two sessions of a node lives?

use muster_protocol::frame::Version;
use muster_tests::node::hello;
use muster_tests::stomp::{connect, message, show};
use muster_tests::{Broker, Node, Setup, Stomp, until};
use serde_json::json;

fn wrong(user: &str) -> muster_protocol::frame::Frame {
    let mut frame = connect(user);
    frame.headers.set("passcode", "wrong");
    frame
}

#[test]
fn connected_says_who_and_where() {
    let broker = Broker::start();
    let mut stomp = Stomp::dial(&broker);
    stomp.send(connect("noc").header("heart-beat", "10000,10000"));
    let connected = stomp.connected();
    let header = |name| connected.headers.get(name).unwrap_or_else(|| panic!("no {name}: {}", show(&connected)));
    assert_eq!(header("version"), "1.2");
    assert_eq!(header("muster-broker"), "noc1");
    // BUG: docs/protocol.md promises `user-name`, which is not there.
    assert_eq!(header("user-name"), "noc");
    assert_eq!(header("heart-beat"), "10000,10000");
    assert!(!header("session").is_empty() && !header("server").is_empty());
    assert!(connected.headers.get("muster-collective").is_none(), "only for agents");
}

#[test]
fn all_versions_log_in() {
    let broker = Broker::start();
    for (offer, version, agreed) in [
        (None, Version::V1_0, "1.0"),
        (Some("1.0"), Version::V1_0, "1.0"),
        (Some("1.1,1.0"), Version::V1_1, "1.1"),
        (Some("1.1,1.2,3.0"), Version::V1_2, "1.2"),
    ] {
        let mut stomp = Stomp::dial(&broker);
        let mut frame = connect("noc");
        match offer {
            Some(offer) => frame.headers.set("accept-version", offer),
            None => frame.headers.remove("accept-version"),
        }
        stomp.send(frame);
        stomp.speaks(version);
        assert_eq!(stomp.connected().headers.get("version"), Some(agreed), "{offer:?}");
        stomp.subscribe("/topic/open.>", "1");
        stomp.send_and_wait(message("/topic/open.x").with_body("a\0b"));
        let got = stomp.frame();
        assert_eq!((&got.body[..], got.headers.get("subscription")), (&b"a\0b"[..], Some("1")), "{}", show(&got));
    }
}

#[test]
fn after_repeated_failures_the_user_waits_and_the_cached_one_still_gets_in() {
    let broker = Broker::start();
    // The right password is known to the broker now.
    drop(Stomp::login(&broker, "noc"));
    let mut codes = Vec::new();
    for _ in 0..5 {
        let mut stomp = Stomp::dial(&broker);
        stomp.send(wrong("noc"));
        let refused = stomp.error();
        if refused.code == "busy" {
            assert!(refused.retry_after.is_some_and(|ms| (1..=30_000).contains(&ms)), "{refused:?}");
        }
        codes.push(refused.code);
    }
    assert_eq!(codes[..2], ["auth-failed", "auth-failed"], "people mistype");
    assert!(codes.iter().any(|code| code == "busy"), "{codes:?}");
    // Whoever knows the password is not locked out by whoever does not.
    drop(Stomp::login(&broker, "noc"));
    // Nor is another user at the same address.
    drop(Stomp::login(&broker, "viewer"));
}

#[test]
fn a_wrong_password_is_never_cached_as_right() {
    let broker = Broker::start();
    drop(Stomp::login(&broker, "noc"));
    let mut stomp = Stomp::dial(&broker);
    stomp.send(wrong("noc"));
    assert_eq!(stomp.error().code, "auth-failed");
    // A password in the cache is no way around the other checks.
    broker.reload(&muster_tests::policy::with("[users.noc]\n", "[users.noc]\ndisabled = true\n"));
    let mut stomp = Stomp::dial(&broker);
    stomp.send(connect("noc"));
    assert_eq!(stomp.error().code, "auth-failed");
}

#[test]
fn the_higher_session_of_a_node_wins() {
    let broker = Broker::start();
    let mut old = Node::connect_again(&broker, "node-acme", 1, 7);
    old.publish(&muster_tests::node::document(json!({ "a": 1 })));
    let mut new = Node::connect_again(&broker, "node-acme", 1, 8);
    assert_eq!(old.stomp.error().code, "moved");
    new.publish(&muster_tests::node::document(json!({ "a": 2 })));
    for number in [8, 3] {
        let mut late = Stomp::dial(&broker);
        late.send(hello("node-acme", 1, number));
        assert_eq!(late.error().code, "moved", "session {number} after 8");
    }
    new.stomp.assert_quiet();
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(operator.find("a=2"), [new.id.clone()]);
    assert_eq!(broker.count("nodes"), 1);
    assert_eq!(broker.count("counters.moved"), 1);
}

#[test]
fn a_node_that_left_may_come_back() {
    let broker = Broker::start();
    let node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    node.stomp.cut();
    until("the node is gone", || (broker.count("nodes") == 0).then_some(()));
    let mut again = Node::connect_again(&broker, "node-acme", 1, 2);
    again.publish(&muster_tests::node::document(json!({ "a": 1 })));
    let mut operator = Stomp::operator(&broker, "noc");
    let answer = operator.ask("/muster/find", Some("a=1"), &json!({})).expect("an answer");
    assert_eq!((&answer["count"], answer["gone"].as_array().map_or(0, Vec::len)), (&json!(1), 0), "{answer}");
}

#[test]
fn a_crowd_that_logs_in_at_once_gets_in_or_is_told_busy() {
    let broker = Setup::new().with("limits.logins", 1).with("limits.login-queue", 2).start();
    // Different users, so that no cache helps; all dial first.
    let users = ["noc", "peek", "acme", "viewer", "cmdb", "nobody"];
    let mut crowd: Vec<Stomp> = users.iter().map(|_| Stomp::dial(&broker)).collect();
    for (stomp, user) in crowd.iter_mut().zip(users) {
        stomp.send(connect(user));
    }
    for stomp in &mut crowd {
        let frame = stomp.frame();
        let code = frame.headers.get("muster-code");
        assert!(code.is_none_or(|code| code == "busy"), "{}", show(&frame));
        assert!(code.is_none() || frame.headers.contains("muster-retry-after"), "{}", show(&frame));
    }
    broker.assert_serves();
}

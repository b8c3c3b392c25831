//! Do the limits of a group hold for real sessions, and say when to try again?

use muster_tests::policy::{POLICY, with};
use muster_tests::{Broker, Muster, Node, Stomp, request, until};
use serde_json::json;

/// The test policy with limits of the group of `acme`.
fn limited(limits: &str) -> String {
    with("[groups.noc-acme]\n", &format!("[groups.noc-acme]\n{limits}\n"))
}

fn stage(limits: &str) -> (Broker, Node) {
    let broker = Broker::start();
    broker.reload(&limited(limits));
    let node = Node::register(&broker, "node-acme", 1, json!({ "os": { "family": "Debian" } }));
    (broker, node)
}

#[test]
fn two_sessions_of_a_user_share_its_limits() {
    let (broker, mut node) = stage("in-flight = 1\nsessions = 2");
    let (mut one, mut two) = (Stomp::operator(&broker, "acme"), Stomp::operator(&broker, "acme"));
    let mut third = Stomp::dial(&broker);
    third.send(muster_tests::stomp::connect("acme"));
    let refused = third.error();
    assert_eq!(refused.code, "limit");
    assert!(refused.text.contains("sessions of the group noc-acme is 2"), "{refused:?}");
    one.send(request("prod.node.ping", "r1", "has os.family"));
    one.event("accepted");
    let asked = node.request();
    two.send(request("prod.node.ping", "r2", "has os.family"));
    let refused = two.refused();
    assert_eq!(refused.code, "limit");
    assert!(refused.text.contains("in-flight of the group noc-acme is 1"), "{refused:?}");
    node.reply(&asked, "ok", &json!({}));
    one.event("reply");
    one.event("done");
    two.send(request("prod.node.ping", "r3", "has os.family"));
    two.event("accepted");
    // Whoever leaves makes room.
    drop(one);
    until("there is room for another session", || (broker.count("sessions") == 2).then_some(()));
    drop(Stomp::login(&broker, "acme"));
}

#[test]
fn a_pace_holds_over_sessions_until_a_reload_lifts_it() {
    let (broker, _node) = stage("requests-per-minute = 1");
    let mut one = Stomp::operator(&broker, "acme");
    one.send(request("prod.node.ping", "r1", "customer=nobody"));
    one.event("accepted");
    one.event("done");
    let mut two = Stomp::operator(&broker, "acme");
    two.send(request("prod.node.ping", "r2", "customer=nobody"));
    let refused = two.wait_for("a refusal", |frame| frame.headers.get("muster-event") == Some("refused"));
    assert_eq!(refused.headers.get("muster-code"), Some("limit"));
    let wait: u64 = refused.headers.get("muster-retry-after").and_then(|ms| ms.parse().ok()).expect("a time");
    assert!((1..=60_000).contains(&wait), "{wait}");
    broker.reload(POLICY);
    two.send(request("prod.node.ping", "r3", "customer=nobody"));
    two.event("accepted");
    two.event("done");
}

#[test]
fn the_command_line_shows_which_limit_of_which_group() {
    let (broker, _node) = stage("max-targets = 1\nrequests-per-minute = 2");
    let _other = Node::register(&broker, "node-acme", 2, json!({ "os": { "family": "Debian" } }));
    let muster = Muster::new(&broker, "acme");
    // No question helps: it is not the operator's own threshold.
    for _ in 0..2 {
        let said = muster.run(&["run", "node.ping", "-w", "has os.family"]);
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.stderr.contains("max-targets of the group noc-acme is 1"), "{said:?}");
    }
    let said = muster.run(&["run", "node.ping", "-w", "has os.family"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.contains("requests-per-minute of the group noc-acme is 2"), "{said:?}");
    assert!(said.stderr.contains("Again in"), "{said:?}");
}

#[test]
fn a_node_whose_old_session_is_half_open_gets_in_again() {
    let broker = Broker::start();
    broker.reload(&with("[groups.agents]\n", "[groups.agents]\nsessions = 1\n"));
    let mut older = Node::connect(&broker, "node-acme", 1);
    let _newer = Node::connect_again(&broker, "node-acme", 1, 99);
    assert_eq!(older.stomp.error().code, "moved");
}

//! What do admins see of the sessions of a broker, and what becomes of those that they close?

use muster_tests::{Agent, Broker, Node, Stomp, until, until_within};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

/// Longer than an agent waits before it comes back.
const WAY_BACK: Duration = Duration::from_secs(60);

fn sessions(admin: &mut Stomp, query: &Value) -> Value {
    admin.ask("/muster/admin.sessions", None, query).unwrap_or_else(|refused| panic!("{refused:?}"))
}

fn of_node(admin: &mut Stomp, node: &str) -> Option<Value> {
    let answer = sessions(admin, &json!({ "kind": "agent" }));
    answer["sessions"].as_array().into_iter().flatten().find(|session| session["node"] == node).cloned()
}

#[test]
fn an_agent_that_is_closed_is_told_why_stays_away_a_while_and_comes_back() {
    let broker = Broker::start();
    let agent = Agent::start(&broker, "node-acme", &json!({ "rack": 7 }), &[]);
    let mut noc = Stomp::operator(&broker, "noc");
    let open = of_node(&mut noc, &agent.id()).expect("its session");
    assert_eq!(
        (&open["user"], &open["kind"], &open["display"]["customer"]),
        (&json!("node-acme"), &json!("agent"), &json!("acmeinc"))
    );
    assert!(open["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{open}");
    let number = open["session"].as_u64().expect("a number");
    let closed_at = Instant::now();
    let answer = noc.ask("/muster/admin.close", None, &json!({ "session": number, "reason": "it floods\nthe log" }));
    assert_eq!(answer, Ok(json!({ "user": "node-acme" })));
    let text = "noc has closed this session: it floods\u{fffd}the log";
    until("the agent's log says who and why", || {
        (agent.log().contains(text) && agent.log().contains("closed")).then_some(())
    });
    let back = until_within("the agent is back", WAY_BACK, || of_node(&mut noc, &agent.id()));
    assert_ne!(back["session"], number, "another session: {back}");
    assert!(closed_at.elapsed() >= Duration::from_secs(5), "it was told to stay away");
    let past = sessions(&mut noc, &json!({ "closed": true, "kind": "agent" }))["closed"][0].clone();
    assert_eq!((&past["session"], &past["node"]), (&json!(number), &json!(agent.id())), "{past}");
    assert_eq!(past["reason"], "closed by noc: it floods\u{fffd}the log");
    assert!(past["until"].as_u64() >= past["since"].as_u64() && past["since"] == open["since"], "{past}");
    until("the command is on record with whose session it was", || {
        let log = fs::read_to_string(broker.folder().join("state/audit.jsonl")).ok()?;
        let about = json!(format!("session {number} of node-acme: it floods\u{fffd}the log"));
        let line = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["about"] == about)?;
        (line["event"] == "admin" && line["decision"] == "allowed" && line["user"] == "noc").then_some(())
    });
}

#[test]
fn an_operator_that_is_closed_reads_who_and_why_and_only_admins_may_look() {
    let broker = Broker::start();
    let mut noc = Stomp::operator(&broker, "noc");
    let mut viewer = Stomp::operator(&broker, "viewer");
    for (destination, body) in
        [("/muster/admin.sessions", json!({})), ("/muster/admin.close", json!({ "session": 1, "reason": "x" }))]
    {
        assert_eq!(viewer.ask(destination, None, &body).expect_err("no admin").code, "denied");
        let refused = noc.ask(destination, None, &json!({ "sesion": 1 })).expect_err("a misspelt field");
        assert_eq!(refused.code, "bad-body", "{refused:?}");
    }
    let theirs = sessions(&mut noc, &json!({ "user": "viewer" }));
    let number = theirs["sessions"][0]["session"].clone();
    noc.ask("/muster/admin.close", None, &json!({ "session": number, "reason": "shift is over" })).expect("closed");
    let told = viewer.error();
    assert_eq!((told.code.as_str(), told.text.as_str()), ("closed", "noc has closed this session: shift is over"));
    assert_eq!(told.retry_after, Some(5_000));
    let again = noc.ask("/muster/admin.close", None, &json!({ "session": number, "reason": "once more" }));
    assert_eq!(again.expect_err("it is over").code, "no-such-session");
    let past = sessions(&mut noc, &json!({ "closed": true, "user": "viewer" }));
    assert_eq!(past["closed"].as_array().map(Vec::len), Some(1), "{past}");
}

#[test]
fn pages_are_exact_over_many_connections_and_a_scope_hides_the_others() {
    let policy = muster_tests::policy::with(
        "destination = \"/muster/admin.>\"\nwrite = [\"noc\"]",
        "destination = \"/muster/admin.>\"\nwrite = [\"noc\", \"noc-acme\"]",
    );
    let broker = muster_tests::Setup::new().policy(&policy).start();
    let _nodes: Vec<Node> = (1..=24)
        .map(|number| {
            let user = if number % 2 == 0 { "node-acme" } else { "node-beta" };
            Node::register(&broker, user, number, json!({}))
        })
        .collect();
    let (mut noc, mut acme) = (Stomp::operator(&broker, "noc"), Stomp::operator(&broker, "acme"));
    for (admin, agents) in [(&mut noc, 24), (&mut acme, 12)] {
        let (mut seen, mut after) = (Vec::new(), Value::Null);
        loop {
            let mut query = json!({ "kind": "agent", "limit": 5 });
            if !after.is_null() {
                query["after"] = after.clone();
            }
            let page = sessions(admin, &query);
            let more: Vec<String> =
                page["sessions"].as_array().into_iter().flatten().map(|session| session["user"].to_string()).collect();
            after = page["next"].clone();
            assert!(more.len() == 5 || after.is_null(), "{page}");
            seen.extend(more);
            if after.is_null() {
                break;
            }
        }
        let users: BTreeSet<&str> = seen.iter().map(|user| user.trim_matches('"')).collect();
        assert_eq!((seen.len(), users.contains("node-beta")), (agents, agents == 24));
    }
    assert_eq!(sessions(&mut acme, &json!({ "kind": "operator" }))["sessions"].as_array().map(Vec::len), Some(2));
}

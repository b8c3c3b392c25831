//! What does a mesh do when parts of it break? Each request still accounts for every node, and nothing is delivered twice.

use muster_protocol::frame::Frame;
use muster_tests::agent::AgentSetup;
use muster_tests::cluster::broker_of;
use muster_tests::stomp::message;
use muster_tests::{Account, Agent, Cluster, Crew, Listener, Muster, Node, Stomp, request, until, until_within};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A dead peer is noticed in at most 5 s; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(10);

/// A triangle with two nodes at each broker, and which are where.
fn cast() -> (Cluster, BTreeMap<String, Vec<Node>>) {
    let cluster = Cluster::triangle();
    let mut nodes = BTreeMap::new();
    for (name, first) in [("noc1", 1), ("dc1", 3), ("dc2", 5)] {
        nodes.insert(name.to_owned(), cluster.nodes(name, "node-acme", [first, first + 1]));
    }
    cluster.until_nodes(&[("noc1", 2), ("dc1", 2), ("dc2", 2)]);
    (cluster, nodes)
}

fn ids(nodes: &BTreeMap<String, Vec<Node>>, at: &[&str]) -> BTreeSet<String> {
    at.iter().flat_map(|name| &nodes[*name]).map(|node| node.id.clone()).collect()
}

/// Each node of the cast is in exactly one state, or its broker is named as missing.
fn assert_accounted(account: &Account, places: &BTreeMap<String, BTreeSet<String>>) {
    account.assert_exact();
    for (broker, nodes) in places {
        let known = nodes.is_subset(&account.targets());
        assert!(known || account.missing.contains_key(broker), "{broker} has {nodes:?}: {account:#?}");
    }
}

fn places(nodes: &BTreeMap<String, Vec<Node>>) -> BTreeMap<String, BTreeSet<String>> {
    nodes.keys().map(|name| (name.clone(), ids(nodes, &[name]))).collect()
}

#[test]
fn a_broker_that_is_killed_is_named_at_once_and_comes_back() {
    let (mut cluster, mut nodes) = cast();
    let places = places(&nodes);
    let mut operator = cluster.operator("noc1");
    // In the middle of a request: asked, and not answered yet.
    operator.send(request("prod.node.ping", "during", "has n"));
    let at_dc1 = nodes.remove("dc1").expect("nodes");
    let mut at_dc1 = at_dc1
        .into_iter()
        .map(|mut node| {
            node.request();
            node
        })
        .collect::<Vec<_>>();
    let asked: Vec<(String, Vec<Frame>)> =
        nodes.iter_mut().map(|(name, nodes)| (name.clone(), nodes.iter_mut().map(Node::request).collect())).collect();
    cluster.kill("dc1");
    at_dc1.clear();
    let begun = Instant::now();
    for (name, frames) in &asked {
        for (node, asked) in nodes.get_mut(name).expect("nodes").iter_mut().zip(frames) {
            node.reply(asked, "ok", &json!({}));
        }
    }
    let account = Account::of(&mut operator, "during");
    assert!(begun.elapsed() < NOTICED, "{:?}: {account:#?}", begun.elapsed());
    assert_accounted(&account, &places);
    assert_eq!(account.in_state("ok"), ids(&nodes, &["noc1", "dc2"]), "{account:#?}");
    // Who was asked and can be heard of no more is lost, by name and with the broker's.
    assert_eq!(account.in_state("lost"), places["dc1"], "{account:#?}");
    assert!(account.events.iter().any(|event| event.contains("broker dc1")), "{account:#?}");
    let crew = Crew::of(nodes.into_values().flatten());
    // From now on it is known to be away, and nobody waits for it.
    cluster.until_settled();
    let begun = Instant::now();
    operator.send(request("prod.node.ping", "after", "has n"));
    let account = Account::of(&mut operator, "after");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    account.assert_exact();
    assert_eq!(account.in_state("ok"), crew.ids(), "{account:#?}");
    assert_eq!(account.missing.get("dc1").map(String::as_str), Some("unreachable"), "{account:#?}");
    let said = Muster::new(&cluster["noc1"], "noc").run(&["ping", "-w", "has n"]);
    assert_eq!(said.code, 3, "{said:?}");
    // The same files, a later life.
    cluster.start("dc1");
    cluster.until_settled();
    let back = (3..=4).map(|n| {
        let mut node = Node::connect_again(&cluster["dc1"], "node-acme", n, 2);
        node.publish(&muster_tests::node::document(json!({ "n": n, "at": "dc1" })));
        node
    });
    let mut crew = crew;
    crew.join(back.collect::<Vec<_>>());
    cluster.until_nodes(&[("dc1", 2)]);
    operator.send(request("prod.node.ping", "again", "has n"));
    Account::of(&mut operator, "again").assert_all_ok(&crew.ids());
    crew.assert_asked_once();
}

#[test]
fn a_broker_that_stops_says_so_and_the_others_go_on() {
    let (mut cluster, nodes) = cast();
    let mut crew = Crew::default();
    for (name, nodes) in nodes {
        if name != "dc1" {
            crew.join(nodes);
        }
    }
    let mut operator = cluster.operator("noc1");
    let begun = Instant::now();
    assert_eq!(cluster.term("dc1"), 0);
    cluster.until_settled();
    // It says so itself: nobody needs the time after which a silent peer is given up.
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    operator.send(request("prod.node.ping", "after", "has n"));
    let account = Account::of(&mut operator, "after");
    account.assert_exact();
    assert_eq!(account.in_state("ok"), crew.ids(), "{account:#?}");
    cluster.start("dc1");
    cluster.until_settled();
    operator.send(request("prod.node.ping", "again", "has n"));
    let account = Account::of(&mut operator, "again");
    account.assert_all_ok(&crew.ids());
}

#[test]
fn a_broker_that_hangs_is_noticed_and_welcome_when_it_goes_on() {
    let (mut cluster, nodes) = cast();
    let others = ids(&nodes, &["noc1", "dc2"]);
    let everybody = ids(&nodes, &["noc1", "dc1", "dc2"]);
    let places = places(&nodes);
    let crew = Crew::of(nodes.into_values().flatten());
    let mut operator = cluster.operator("noc1");
    cluster.pause("dc1");
    let begun = Instant::now();
    // Its links are up as far as anybody can see.
    operator.send(request("prod.node.ping", "half-open", "has n").header("muster-reply-within", "15000"));
    let account = Account::of(&mut operator, "half-open");
    assert!(begun.elapsed() < NOTICED, "{:?}: {account:#?}", begun.elapsed());
    assert_accounted(&account, &places);
    assert_eq!(account.in_state("ok"), others, "{account:#?}");
    assert_eq!(account.missing.get("dc1").map(String::as_str), Some("unreachable"), "{account:#?}");
    until_within("noc1 and dc2 have noticed", NOTICED, || {
        let noticed = |name| Some(broker_of(&cluster.mesh(name)?, "dc1")["reach"] == "unreachable");
        (noticed("noc1")? && noticed("dc2")?).then_some(())
    });
    operator.send(request("prod.node.ping", "without", "has n"));
    let account = Account::of(&mut operator, "without");
    assert_eq!(account.in_state("ok"), others, "{account:#?}");
    cluster.resume("dc1");
    cluster.until_settled();
    operator.send(request("prod.node.ping", "again", "has n"));
    Account::of(&mut operator, "again").assert_all_ok(&everybody);
    crew.assert_asked_once();
}

#[test]
fn a_broker_that_hangs_in_the_middle_of_a_line_parts_it() {
    let mut cluster = Cluster::line(3);
    let crew =
        Crew::of(cluster.nodes("noc1", "node-acme", [1]).into_iter().chain(cluster.nodes("dc2", "node-acme", [2])));
    cluster.until_nodes(&[("noc1", 1), ("dc2", 1)]);
    let mut operator = cluster.operator("noc1");
    cluster.pause("dc1");
    operator.send(request("prod.node.ping", "r1", "has n"));
    let begun = Instant::now();
    let account = Account::of(&mut operator, "r1");
    assert!(begun.elapsed() < NOTICED, "{:?}: {account:#?}", begun.elapsed());
    account.assert_exact();
    assert_eq!(account.missing.get("dc2").map(String::as_str), Some("unreachable"), "{account:#?}");
    cluster.resume("dc1");
    cluster.until_settled();
    operator.send(request("prod.node.ping", "r2", "has n"));
    Account::of(&mut operator, "r2").assert_all_ok(&crew.ids());
    crew.assert_asked_once();
}

#[test]
fn while_links_flap_nothing_is_delivered_twice_and_everything_is_accounted_for() {
    let (mut cluster, nodes) = cast();
    let everybody = ids(&nodes, &["noc1", "dc1", "dc2"]);
    let crew = Crew::of(nodes.into_values().flatten());
    let listeners: Vec<Listener> = ["noc1", "dc1", "dc2"]
        .iter()
        .map(|name| {
            let mut stomp = Stomp::login(&cluster[name], "viewer");
            stomp.subscribe("/topic/open.>", "1");
            Listener::new(stomp)
        })
        .collect();
    let mut operator = cluster.operator("noc1");
    let mut speaker = cluster.operator("dc1");
    until("all hear the speaker", || {
        speaker.send_and_wait(message("/topic/open.probe").with_body("probe"));
        listeners.iter().all(|listener| !listener.heard("probe").is_empty()).then_some(())
    });
    let links = [("noc1", "dc1"), ("noc1", "dc2"), ("dc1", "dc2")];
    let (mut requests, mut words) = (Vec::new(), 0);
    // At any time one link at the most is down: there always is a way.
    for round in 0..12 {
        let (a, b) = links[round % links.len()];
        for is_cut in [true, false] {
            if is_cut {
                cluster.cut(a, b)
            } else {
                cluster.heal(a, b)
            }
            for _ in 0..5 {
                let id = format!("flap-{}", requests.len());
                operator.send(request("prod.node.ping", &id, "has n"));
                requests.push(id);
                for _ in 0..10 {
                    speaker.send(message("/topic/open.words").with_body(format!("word {words}")));
                    words += 1;
                }
            }
            if !is_cut {
                // The next cut must find the way that this one has opened, or there would be none.
                cluster.until_settled();
            }
        }
    }
    let mut without = Vec::new();
    for id in &requests {
        let account = Account::of(&mut operator, id);
        account.assert_exact();
        assert!(account.targets().is_subset(&everybody), "{account:#?}");
        let told: usize = account.targets().len() + 2 * account.missing.len();
        assert_eq!(told, everybody.len(), "{id}: a broker is neither there nor missing: {account:#?}");
        if account.in_state("ok") != everybody {
            without.push(account);
        }
    }
    operator.assert_quiet();
    crew.assert_asked_once();
    assert!(without.is_empty(), "{} of {} requests are not whole: {without:#?}", without.len(), requests.len());
    cluster.until_settled();
    speaker.send_and_wait(message("/topic/open.words").with_body("the end"));
    for (listener, at) in listeners.into_iter().zip(["noc1", "dc1", "dc2"]) {
        listener.until_heard("the end");
        let heard = listener.heard("word ");
        let once: BTreeSet<&String> = heard.iter().collect();
        assert_eq!(once.len(), heard.len(), "a message was heard twice at {at}");
        // What was under way on the link that went is lost; whatever else came.
        assert!(heard.len() * 10 >= words * 9, "{} of {words} messages at {at}", heard.len());
        listener.stop().assert_quiet();
    }
}

#[test]
fn a_request_under_way_survives_the_link_that_it_came_over() {
    let (mut cluster, mut nodes) = cast();
    let everybody = ids(&nodes, &["noc1", "dc1", "dc2"]);
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "has n"));
    let mut asked: Vec<(Node, Frame)> = Vec::new();
    for mut node in std::mem::take(&mut nodes).into_values().flatten() {
        let frame = node.request();
        asked.push((node, frame));
    }
    cluster.cut("noc1", "dc1");
    for (node, frame) in &mut asked {
        node.reply(frame, "ok", &json!({}));
    }
    Account::of(&mut operator, "r1").assert_all_ok(&everybody);
    for (node, _) in &mut asked {
        node.stomp.assert_quiet();
    }
}

#[test]
fn answers_wait_for_a_way_back() {
    let mut cluster = Cluster::line(2);
    let mut nodes = cluster.nodes("dc1", "node-acme", [1]);
    cluster.until_nodes(&[("dc1", 1)]);
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "n=1"));
    let asked = nodes[0].request();
    cluster.cut("noc1", "dc1");
    nodes[0].reply(&asked, "ok", &json!({}));
    cluster.heal("noc1", "dc1");
    let account = Account::of(&mut operator, "r1");
    // The link was away for less time than it takes to give a broker up, or for more: both are told as they are.
    if account.missing.is_empty() {
        account.assert_all_ok(&BTreeSet::from([nodes[0].id.clone()]));
    } else {
        account.assert_exact();
    }
}

#[test]
fn restarts_in_quick_succession_leave_no_ghosts() {
    let (mut cluster, nodes) = cast();
    drop(nodes);
    let before = instance(&cluster.mesh("noc1"), "dc1");
    for _ in 0..4 {
        cluster.kill("dc1");
        cluster.start("dc1");
    }
    cluster.until_settled();
    for name in ["noc1", "dc1", "dc2"] {
        let mesh = cluster.mesh(name);
        assert_eq!(instance(&mesh, "dc1"), before + 4, "{mesh:?}");
        let mesh = mesh.expect("an answer");
        assert_eq!(mesh["alarms"], json!([]), "{mesh}");
    }
    let node = Node::register(&cluster["dc1"], "node-acme", 9, json!({ "n": 9 }));
    let crew = Crew::of([node]);
    cluster.until_nodes(&[("dc1", 1)]);
    let mut operator = cluster.operator("dc2");
    operator.send(request("prod.node.ping", "r1", "n=9"));
    Account::of(&mut operator, "r1").assert_all_ok(&crew.ids());
}

fn instance(mesh: &Option<Value>, name: &str) -> u64 {
    let mesh = mesh.as_ref().expect("an answer");
    broker_of(mesh, name)["instance"].as_u64().unwrap_or_else(|| panic!("no instance of {name} in {mesh}"))
}

#[test]
fn an_agent_goes_to_the_next_broker_when_its_own_dies() {
    let mut cluster = Cluster::triangle();
    let addresses = ["dc1", "dc2"].map(|name| cluster[name].address());
    let setup = AgentSetup::new(addresses[0], &cluster["dc1"].ca(), "node-acme", &json!({ "n": 1 }), &[]);
    let agent: Agent = setup.brokers(&addresses).start();
    let mut operator = cluster.operator("noc1");
    let node = agent.id();
    let place = |operator: &mut Stomp, not: &str| {
        until_within("the agent is registered", Duration::from_secs(60), || {
            let answer = operator.ask("/muster/node", None, &json!({ "node": node })).ok()?;
            let broker = answer["broker"].as_str()?.to_owned();
            (answer["state"] == "connected" && broker != not).then_some(broker)
        })
    };
    let first = place(&mut operator, "");
    cluster.kill(&first);
    let second = place(&mut operator, &first);
    assert_ne!(first, second);
    cluster.until_nodes(&[(second.as_str(), 1)]);
    operator.send(request("prod.node.ping", "r1", "n=1"));
    let account = Account::of(&mut operator, "r1");
    account.assert_exact();
    assert_eq!(account.in_state("ok"), BTreeSet::from([agent.id()]), "{account:#?}");
    let found = operator.ask("/muster/find", Some("n=1"), &json!({})).expect("an answer");
    assert_eq!(found["count"], 1, "{found}");
}

#[test]
fn the_ingress_that_is_killed_takes_its_requests_along() {
    let (mut cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "has n").header("muster-reply-within", "10000"));
    let mut others: Vec<Node> = ["dc1", "dc2"].iter().flat_map(|name| nodes.remove(*name).expect("nodes")).collect();
    let asked: Vec<Frame> = others.iter_mut().map(Node::request).collect();
    cluster.kill("noc1");
    cluster.until_settled();
    for name in ["dc1", "dc2"] {
        until(&format!("{name} forgets it"), || (cluster[name].count("requests") == 0).then_some(()));
    }
    for (node, asked) in others.iter_mut().zip(&asked) {
        // A reply to nobody harms nobody.
        node.reply(asked, "ok", &json!({}));
        node.stomp.assert_quiet();
    }
    assert_eq!(cluster.operator("dc1").find("has n").len(), 4);
}

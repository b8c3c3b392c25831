//! Does a message reach every broker that wants it, exactly once, over whatever shape the mesh has?

use muster_tests::cluster::{broker_of, reached};
use muster_tests::stomp::{message, show};
use muster_tests::{Account, Cluster, Crew, Listener, Muster, Node, Plan, Stomp, request, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Everybody who listens hears what everybody says, once.
fn everybody_is_heard_once(cluster: &Cluster) {
    const EACH: usize = 25;
    let names = cluster.names();
    let mut speakers: Vec<Stomp> = names.iter().map(|name| cluster.operator(name)).collect();
    let listeners: Vec<(String, Listener)> = names
        .iter()
        .cycle()
        .take(2 * names.len())
        .map(|name| {
            let mut stomp = Stomp::login(&cluster[name], "viewer");
            stomp.subscribe("/topic/open.>", "1");
            (name.clone(), Listener::new(stomp))
        })
        .collect();
    let mut expected = Vec::new();
    for (name, speaker) in names.iter().zip(&mut speakers) {
        until_it_is_heard(name, speaker, &listeners);
        for n in 0..EACH {
            let body = format!("word {n} of {name}");
            speaker.send(message("/topic/open.words").with_body(body.clone()));
            expected.push(body);
        }
    }
    expected.sort();
    for (name, speaker) in names.iter().zip(&mut speakers) {
        speaker.send(message("/topic/open.words").with_body(format!("end of {name}")));
        for (_, listener) in &listeners {
            listener.until_heard(&format!("end of {name}"));
        }
    }
    for (at, listener) in listeners {
        let mut heard = listener.heard("word ");
        heard.sort();
        assert_eq!(heard, expected, "a listener at {at}");
        listener.stop().assert_quiet();
    }
}

/// Speaks until all have heard it: from then on the others know who listens where.
fn until_it_is_heard(name: &str, speaker: &mut Stomp, listeners: &[(String, Listener)]) {
    let probe = format!("probe of {name}");
    until(&format!("all listeners hear {name}"), || {
        speaker.send_and_wait(message("/topic/open.probe").with_body(probe.clone()));
        listeners.iter().all(|(_, listener)| !listener.heard(&probe).is_empty()).then_some(())
    });
}

#[test]
fn in_a_triangle_every_message_is_heard_once() {
    everybody_is_heard_once(&Cluster::triangle());
}

#[test]
fn in_a_ring_every_message_is_heard_once() {
    everybody_is_heard_once(&Cluster::ring(4));
}

#[test]
fn in_a_line_every_message_is_heard_once() {
    everybody_is_heard_once(&Cluster::line(4));
}

#[test]
fn with_every_link_that_is_possible_every_message_is_heard_once() {
    everybody_is_heard_once(&Plan::ring(4).link("noc1", "dc2").link("dc1", "dc3").start());
}

/// Two nodes at each broker, of both customers, that answer at once.
fn two_at_each(cluster: &Cluster) -> Crew {
    let mut crew = Crew::default();
    for (name, first) in cluster.names().iter().zip((1..).step_by(2)) {
        crew.join(cluster.nodes(name, "node-acme", [first]));
        crew.join(cluster.nodes(name, "node-beta", [first + 1]));
    }
    let names = cluster.names();
    let counts: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    cluster.until_nodes(&counts);
    crew
}

/// From every broker a request reaches every node, once, and every answer comes back.
fn everybody_is_asked_once(cluster: &Cluster) {
    let crew = two_at_each(cluster);
    for name in cluster.names() {
        let mut operator = cluster.operator(&name);
        for n in 0..5 {
            let id = format!("{name}-{n}");
            operator.send(request("prod.node.ping", &id, "has n"));
            let account = Account::of(&mut operator, &id);
            account.assert_all_ok(&crew.ids());
            let at: Vec<&String> = account.accepted.keys().collect();
            assert_eq!(at, cluster.names().iter().collect::<Vec<_>>(), "each broker names its own");
            assert!(account.accepted.values().all(|nodes| nodes.len() == 2), "{account:#?}");
        }
        operator.assert_quiet();
    }
    crew.assert_asked_once();
    for id in crew.ids() {
        assert_eq!(crew.asked(&id).len(), 5 * cluster.names().len(), "{id}");
    }
}

#[test]
fn in_a_triangle_every_node_is_asked_once() {
    everybody_is_asked_once(&Cluster::triangle());
}

#[test]
fn in_a_ring_every_node_is_asked_once() {
    everybody_is_asked_once(&Cluster::ring(4));
}

#[test]
fn over_three_hops_every_node_is_asked_once() {
    everybody_is_asked_once(&Cluster::line(4));
}

fn path(mesh: &Value, to: &str) -> Vec<String> {
    let path = broker_of(mesh, to)["path"].as_array().cloned().unwrap_or_default();
    path.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_mesh_says_how_it_is() {
    let cluster = Cluster::line(4);
    let mesh = cluster.mesh("noc1").expect("an answer");
    assert_eq!((&mesh["broker"], &mesh["alarms"]), (&json!("noc1"), &json!([])), "{mesh}");
    assert_eq!(path(&mesh, "dc3"), ["dc1", "dc2", "dc3"], "{mesh}");
    assert_eq!(broker_of(&mesh, "dc3")["cost"], 3, "{mesh}");
    assert_eq!(
        (&broker_of(&mesh, "noc1")["reach"], &broker_of(&mesh, "dc2")["reach"]),
        (&json!("here"), &json!("reachable"))
    );
    let links = broker_of(&mesh, "dc1")["links"].as_array().expect("links").clone();
    let to: BTreeSet<&str> = links.iter().filter_map(|link| link["to"].as_str()).collect();
    assert_eq!(to, BTreeSet::from(["dc2", "noc1"]), "{mesh}");
    assert!(links.iter().all(|link| link["two_way"] == true && link["cost"] == 1), "{mesh}");
    // People see the same.
    let muster = Muster::new(&cluster["dc3"], "noc");
    let said = muster.json(0, &["mesh", "--json"]);
    assert_eq!(reached(&said), BTreeSet::from(["dc1", "dc2", "dc3", "noc1"].map(str::to_owned)), "{said}");
    let table = muster.run(&["mesh"]);
    assert!(
        table.code == 0 && ["noc1", "dc1", "dc2", "dc3"].iter().all(|name| table.stdout.contains(name)),
        "{table:?}"
    );
}

#[test]
fn the_mesh_is_shown_to_those_who_may_see_it() {
    let cluster = Plan::of(&["noc1"]).start();
    let mut viewer = Stomp::operator(&cluster["noc1"], "viewer");
    assert_eq!(viewer.ask("/muster/mesh", None, &json!({})).expect_err("a refusal").code, "denied");
}

#[test]
fn the_cheapest_way_is_taken_and_the_larger_cost_of_both_ends_counts() {
    // One end alone calls the direct link expensive.
    let cluster = Plan::triangle().link_setting("dc1", "noc1", "cost", 5).start();
    for (at, to) in [("noc1", "dc1"), ("dc1", "noc1")] {
        let mesh = cluster.mesh(at).expect("an answer");
        assert_eq!(path(&mesh, to), ["dc2", to], "{mesh}");
        assert_eq!(broker_of(&mesh, to)["cost"], 2, "{mesh}");
        let links = broker_of(&mesh, at)["links"].clone();
        let link = links.as_array().into_iter().flatten().find(|link| link["to"] == to).cloned();
        assert_eq!(link.expect("the link")["cost"], 5, "{mesh}");
    }
    everybody_is_asked_once(&cluster);
}

#[test]
fn a_link_that_is_taken_down_is_gone_around() {
    let mut cluster = Cluster::triangle();
    let crew = two_at_each(&cluster);
    let mut operator = cluster.operator("noc1");
    cluster.cut("noc1", "dc1");
    cluster.until_settled();
    let mesh = cluster.mesh("noc1").expect("an answer");
    assert_eq!(path(&mesh, "dc1"), ["dc2", "dc1"], "{mesh}");
    operator.send(request("prod.node.ping", "around", "has n"));
    Account::of(&mut operator, "around").assert_all_ok(&crew.ids());
    cluster.heal("noc1", "dc1");
    cluster.until_settled();
    let mesh = cluster.mesh("noc1").expect("an answer");
    assert_eq!(path(&mesh, "dc1"), ["dc1"], "{mesh}");
    operator.send(request("prod.node.ping", "straight", "has n"));
    Account::of(&mut operator, "straight").assert_all_ok(&crew.ids());
    crew.assert_asked_once();
}

#[test]
fn a_link_that_is_down_stays_down_until_it_is_taken_up() {
    let mut cluster = Plan::of(&["noc1", "dc1"]).link("noc1", "dc1").start();
    // At the end that listens, too.
    cluster.cut("dc1", "noc1");
    cluster.until_settled();
    let link = cluster.link_status("noc1", "dc1");
    assert!(link.is_none_or(|link| link["state"] != "up"), "the other side sees it too");
    let said = cluster["dc1"].ctl("link up nobody");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("nobody"), "{said:?}");
    cluster.heal("dc1", "noc1");
    cluster.until_settled();
}

#[test]
fn both_parts_of_a_mesh_that_fell_apart_go_on() {
    let mut cluster = Cluster::triangle();
    let crew = two_at_each(&cluster);
    let at = |wanted: &[&str]| -> BTreeSet<String> {
        let ids = cluster_ids(&crew, wanted);
        assert_eq!(ids.len(), 2 * wanted.len());
        ids
    };
    let (alone, others) = (at(&["noc1"]), at(&["dc1", "dc2"]));
    cluster.cut("noc1", "dc1");
    cluster.cut("noc1", "dc2");
    cluster.until_settled();
    for (broker, reachable, missing) in [("noc1", &alone, &["dc1", "dc2"][..]), ("dc2", &others, &["noc1"])] {
        let mut operator = cluster.operator(broker);
        let begun = Instant::now();
        operator.send(request("prod.node.ping", "apart", "has n"));
        let account = Account::of(&mut operator, "apart");
        // What is known to be away is named at once, and not waited for.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        account.assert_exact();
        assert_eq!(account.in_state("ok"), *reachable, "{account:#?}");
        assert_eq!(account.missing.keys().collect::<Vec<_>>(), missing, "{account:#?}");
        assert!(account.missing.values().all(|why| why == "unreachable"), "{account:#?}");
        for without in account.done["without"].as_array().expect("without") {
            assert_eq!(without["nodes"], 2, "how many nodes it had: {account:#?}");
        }
    }
    let muster = Muster::new(&cluster["noc1"], "noc");
    let said = muster.run(&["ping", "-w", "has n"]);
    assert_eq!(said.code, 3, "{said:?}");
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(all.contains("dc1") && all.contains("dc2"), "{said:?}");
    cluster.heal("noc1", "dc1");
    cluster.heal("noc1", "dc2");
    cluster.until_settled();
    let mut operator = cluster.operator("noc1");
    until("all are reached again", || {
        let id = format!("again-{:?}", Instant::now());
        let id = id.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        operator.send(request("prod.node.ping", &id, "has n"));
        let account = Account::of(&mut operator, &id);
        account.assert_exact();
        (account.in_state("ok") == crew.ids()).then_some(())
    });
    crew.assert_asked_once();
}

/// The ids of the crew of [`two_at_each`] at these brokers of a triangle.
fn cluster_ids(crew: &Crew, at: &[&str]) -> BTreeSet<String> {
    let order = ["dc1", "dc2", "noc1"];
    let numbers = at.iter().flat_map(|name| {
        let place = order.iter().position(|known| known == name).expect("a broker of the triangle");
        let first = u8::try_from(2 * place + 1).expect("small");
        [first, first + 1]
    });
    let ids: BTreeSet<String> = numbers.map(muster_tests::node::id).collect();
    assert!(ids.is_subset(&crew.ids()));
    ids
}

#[test]
fn a_filter_of_a_link_is_named_and_not_gone_around() {
    let only_status = vec!["/topic/prod.*.status"];
    let cluster = Plan::triangle().link_setting("noc1", "dc1", "send", only_status).start();
    let crew = two_at_each(&cluster);
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "held-back", "has n"));
    let account = Account::of(&mut operator, "held-back");
    account.assert_exact();
    assert_eq!(account.in_state("ok"), cluster_ids(&crew, &["noc1", "dc2"]), "{account:#?}");
    assert_eq!(account.missing.get("dc1").map(String::as_str), Some("filtered"), "{account:#?}");
    operator.send(request("prod.service.status", "let-through", "has n"));
    Account::of(&mut operator, "let-through").assert_all_ok(&crew.ids());
    // It holds for one direction.
    let mut other = cluster.operator("dc1");
    other.send(request("prod.node.ping", "other-way", "has n"));
    Account::of(&mut other, "other-way").assert_all_ok(&crew.ids());
    let said = Muster::new(&cluster["noc1"], "noc").run(&["ping", "-w", "has n"]);
    assert_eq!(said.code, 3, "{said:?}");
}

#[test]
fn a_request_does_not_travel_to_where_nothing_can_match() {
    let cluster = Cluster::triangle();
    // Users assert the datacenter: acme's is a, beta's is b.
    let mut crew = Crew::of(cluster.nodes("dc1", "node-acme", [1, 2]));
    crew.join(cluster.nodes("dc2", "node-beta", [3, 4]));
    cluster.until_nodes(&[("dc1", 2), ("dc2", 2)]);
    let mut operator = cluster.operator("noc1");
    let counters = || ["noc1", "dc1"].map(|at| cluster.link_count(at, "dc2", "data_out.bytes"));
    // For a moment after it came nothing is ruled out of a broker.
    let mut probe = 0;
    until("what dc2 has is trusted", || {
        let before = counters();
        probe += 1;
        let id = format!("probe-{probe}");
        operator.send(request("prod.node.ping", &id, "datacenter=a"));
        Account::of(&mut operator, &id).assert_exact();
        (counters() == before).then_some(())
    });
    let before = counters();
    for n in 0..10 {
        let id = format!("a-{n}");
        operator.send(request("prod.node.ping", &id, "datacenter=a"));
        let account = Account::of(&mut operator, &id);
        account.assert_exact();
        assert_eq!(account.count("ok"), 2, "{account:#?}");
        assert!(account.missing.is_empty(), "{account:#?}");
    }
    assert_eq!(operator.find("datacenter=a").len(), 2);
    assert_eq!(counters(), before, "bytes of data went to dc2");
    operator.send(request("prod.node.ping", "b", "datacenter=b"));
    assert_eq!(Account::of(&mut operator, "b").count("ok"), 2);
    assert_ne!(counters(), before, "the counters count");
    // What a node comes to match later is known soon.
    let late = Node::register(&cluster["dc2"], "node-acme", 5, json!({ "n": 5 }));
    let late = Crew::of([late]);
    cluster.until_nodes(&[("dc2", 3)]);
    assert_eq!(operator.find("datacenter=a").len(), 3);
    operator.send(request("prod.node.ping", "later", "datacenter=a"));
    let account = Account::of(&mut operator, "later");
    account.assert_exact();
    assert!(account.in_state("ok").is_superset(&late.ids()), "{account:#?}");
}

#[test]
fn a_message_travels_once_over_each_link_of_its_tree() {
    let cluster = Cluster::ring(4);
    let listeners: Vec<(String, Listener)> = cluster
        .names()
        .into_iter()
        .map(|name| {
            let mut stomp = Stomp::login(&cluster[&name], "viewer");
            stomp.subscribe("/topic/open.>", "1");
            (name.clone(), Listener::new(stomp))
        })
        .collect();
    let mut speaker = cluster.operator("noc1");
    until_it_is_heard("noc1", &mut speaker, &listeners);
    speaker.send_and_wait(message("/topic/open.words").with_body("drained"));
    listeners.iter().for_each(|(_, listener)| listener.until_heard("drained"));
    let body = "x".repeat(100_000);
    let sent = |cluster: &Cluster| -> u64 {
        let names = cluster.names();
        let pairs = names.iter().flat_map(|at| names.iter().map(move |to| (at, to)));
        pairs.map(|(at, to)| cluster.link_count(at, to, "data_out.bytes")).sum()
    };
    let before = sent(&cluster);
    speaker.send_and_wait(message("/topic/open.words").with_body(body.clone()));
    listeners.iter().for_each(|(_, listener)| listener.until_heard(&body));
    let copies = (sent(&cluster) - before) / 100_000;
    assert_eq!(copies, 3, "copies on the links of a ring of four");
}

#[test]
fn registrations_are_told_at_every_broker_redacted_and_scoped() {
    let cluster = Plan::of(&["noc1", "dc1"]).link("noc1", "dc1").start();
    let mut all = Stomp::login(&cluster["noc1"], "viewer");
    all.subscribe("/topic/prod.registration", "1");
    let mut scoped = Stomp::login(&cluster["noc1"], "acme");
    scoped.subscribe("/topic/prod.registration", "1");
    // Until dc1 knows that somebody listens at noc1, it tells only its own.
    let mut numbers = 10..;
    until("noc1 hears of nodes at dc1", || {
        let _probe = Node::register(&cluster["dc1"], "node-beta", numbers.next()?, json!({}));
        all.next_within(Duration::from_millis(200)).ok().map(|_| ())
    });
    let event = |stomp: &mut Stomp, node: &str, event: &str| {
        let fits = |frame: &muster_protocol::frame::Frame| {
            let body = muster_tests::stomp::json(frame);
            (&body["node"], &body["event"]) == (&json!(node), &json!(event))
        };
        stomp.wait_for(event, fits)
    };
    let acme = Node::register(&cluster["dc1"], "node-acme", 1, json!({ "hostname": "web1.acme.example" }));
    for stomp in [&mut all, &mut scoped] {
        let frame = event(stomp, &acme.id, "registered");
        assert_eq!(frame.headers.get("muster-origin"), Some("dc1"), "{}", show(&frame));
        assert!(!show(&frame).contains("example"), "a hidden fact: {}", show(&frame));
    }
    let beta = Node::register(&cluster["dc1"], "node-beta", 2, json!({}));
    let (acme_id, beta_id) = (acme.id.clone(), beta.id.clone());
    beta.stomp.cut();
    event(&mut all, &beta_id, "gone");
    acme.stomp.cut();
    event(&mut all, &acme_id, "gone");
    // The next that the scoped one hears is of its own node: beta's are not its to know.
    let frame = scoped.frame();
    assert_eq!(muster_tests::stomp::json(&frame)["node"], json!(acme_id), "{}", show(&frame));
}

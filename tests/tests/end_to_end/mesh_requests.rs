//! Does what a caller may rely on at one broker hold over all brokers? Guards, cancel, paging, reply queues, scopes, sessions.

use muster_tests::node::{OWN, document, id};
use muster_tests::stomp::{json, message, show};
use muster_tests::{Account, Cluster, Crew, Muster, Node, Plan, Stomp, policy, request, until};
use serde_json::{Value, json as value};
use std::collections::BTreeSet;

/// A triangle with two nodes at each broker that say nothing by themselves.
fn cast() -> (Cluster, Vec<Node>) {
    let cluster = Cluster::triangle();
    let nodes = six(&cluster);
    (cluster, nodes)
}

/// Nodes 1 and 2 at noc1, 3 and 4 at dc1, 5 and 6 at dc2; the even ones are beta's.
fn six(cluster: &Cluster) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (name, first) in [("noc1", 1), ("dc1", 3), ("dc2", 5)] {
        nodes.extend(cluster.nodes(name, "node-acme", [first]));
        nodes.extend(cluster.nodes(name, "node-beta", [first + 1]));
    }
    cluster.until_nodes(&[("noc1", 2), ("dc1", 2), ("dc2", 2)]);
    nodes
}

fn ids(numbers: &[u8]) -> BTreeSet<String> {
    numbers.iter().map(|&number| id(number)).collect()
}

fn all() -> BTreeSet<String> {
    ids(&[1, 2, 3, 4, 5, 6])
}

#[test]
fn guards_count_the_whole_mesh() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "has n").header("muster-max-targets", "5"));
    let refused = operator.refused();
    assert_eq!((refused.code.as_str(), refused.count), ("too-many-targets", Some(6)));
    for (n, expected) in ["5", "7", "2", "0"].iter().enumerate() {
        let id = format!("e{n}");
        operator.send(request("prod.node.ping", &id, "has n").header("muster-expect-targets", expected));
        let refused = operator.refused();
        assert_eq!((refused.code.as_str(), refused.count), ("unexpected-targets", Some(6)), "{expected}");
    }
    for node in &mut nodes {
        node.stomp.assert_quiet();
    }
    let crew = Crew::of(nodes);
    let exact = request("prod.node.ping", "r3", "has n").header("muster-max-targets", "6");
    operator.send(exact.header("muster-expect-targets", "6"));
    Account::of(&mut operator, "r3").assert_all_ok(&all());
    crew.assert_asked_once();
}

#[test]
fn a_dry_run_counts_the_whole_mesh_and_delivers_nothing() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("dc2");
    operator.send(request("prod.node.ping", "r1", "has n").header("muster-dry-run", "true"));
    let account = Account::of(&mut operator, "r1");
    assert_eq!(account.targets(), all(), "{account:#?}");
    assert!(account.states.is_empty(), "{account:#?}");
    for node in &mut nodes {
        node.stomp.assert_quiet();
    }
}

#[test]
fn a_guard_over_a_part_of_the_mesh_is_refused_unless_that_is_allowed() {
    let (mut cluster, nodes) = cast();
    cluster.kill("dc2");
    cluster.until_settled();
    let crew = Crew::of(nodes.into_iter().take(4));
    let mut operator = cluster.operator("noc1");
    for guard in ["muster-max-targets", "muster-expect-targets"] {
        operator.send(request("prod.node.ping", guard, "has n").header(guard, "4"));
        let account = Account::of(&mut operator, guard);
        let refused = account.refused.expect("a refusal");
        assert_eq!(refused.code, "partial", "{guard}");
        assert!(refused.text.contains("dc2"), "it names who is missing: {}", refused.text);
    }
    for id in crew.ids() {
        assert!(crew.asked(&id).is_empty(), "{id} was asked");
    }
    let allowed = request("prod.node.ping", "allowed", "has n").header("muster-max-targets", "4");
    operator.send(allowed.header("muster-allow-partial", "true"));
    let account = Account::of(&mut operator, "allowed");
    account.assert_exact();
    assert_eq!(account.in_state("ok"), ids(&[1, 2, 3, 4]), "{account:#?}");
    assert_eq!(account.missing.get("dc2").map(String::as_str), Some("unreachable"), "{account:#?}");
}

#[test]
fn muster_nodes_narrows_over_all_brokers() {
    let (cluster, nodes) = cast();
    let crew = Crew::of(nodes);
    let mut operator = cluster.operator("dc1");
    let named = format!("{},{},{},{}", id(1), id(4), id(5), id(77));
    operator.send(request("prod.node.ping", "r1", "customer=acmeinc").header("muster-nodes", &named));
    Account::of(&mut operator, "r1").assert_all_ok(&ids(&[1, 5]));
    assert!(crew.asked(&id(4)).is_empty());
}

#[test]
fn a_cancel_reaches_all_brokers() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "has n"));
    let asked: Vec<_> = nodes.iter_mut().map(Node::request).collect();
    nodes[5].reply(&asked[5], "ok", &value!({}));
    operator.wait_for("the answer of the sixth", |frame| frame.headers.get("muster-event") == Some("reply"));
    let answer = operator.ask("/muster/cancel", None, &value!({ "request": "r1" })).expect("an answer");
    assert_eq!(answer, value!({ "cancelled": 5 }));
    for (node, asked) in nodes[..4].iter_mut().zip(&asked) {
        node.cancel();
        node.reply(asked, "cancelled", &value!({}));
    }
    // The fifth does not confirm.
    nodes[4].cancel();
    let done = operator.wait_for("done", |frame| frame.headers.get("muster-event") == Some("done"));
    assert_eq!(json(&done)["states"], value!({ "cancelled": 5, "ok": 1 }), "{}", show(&done));
    nodes[5].stomp.assert_quiet();
}

#[test]
fn a_started_action_is_told_over_all_brokers_and_lateness_too() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "n >= 5").header("muster-reply-within", "1500"));
    let asked = nodes[4].request();
    nodes[4].started(&asked);
    let started = operator.wait_for("started", |frame| frame.headers.get("muster-event") == Some("started"));
    assert_eq!(started.headers.get("muster-node"), Some(id(5).as_str()));
    nodes[4].reply(&asked, "failed", &value!({ "error": { "code": "x", "text": "y" } }));
    let late = nodes[5].request();
    let account = Account::of(&mut operator, "r1");
    assert_eq!(account.in_state("expired"), ids(&[6]), "{account:#?}");
    assert_eq!((account.count("failed"), account.count("expired")), (1, 1), "{account:#?}");
    nodes[5].reply(&late, "ok", &value!({}));
    operator.assert_quiet();
}

#[test]
fn a_node_that_drops_off_elsewhere_is_lost_at_once() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "n = 6"));
    nodes[5].request();
    nodes.remove(5).stomp.cut();
    let account = Account::of(&mut operator, "r1");
    account.assert_exact();
    assert_eq!(account.in_state("lost"), ids(&[6]), "{account:#?}");
    assert!(account.missing.is_empty(), "the broker is there: {account:#?}");
}

#[test]
fn find_pages_over_all_brokers() {
    let (cluster, _nodes) = cast();
    for at in cluster.names() {
        let mut operator = cluster.operator(&at);
        assert_eq!(operator.find("has n").into_iter().collect::<BTreeSet<_>>(), all());
        for limit in [1, 2, 4, 5, 6, 100] {
            let (mut found, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
            loop {
                let mut body = value!({ "limit": limit, "facts": ["at", "n"] });
                if !cursor.is_null() {
                    body["cursor"] = cursor;
                }
                let page = operator.ask("/muster/find", Some("has n"), &body).expect("a page");
                let nodes = page["nodes"].as_array().expect("nodes");
                assert!(nodes.len() <= limit, "{page}");
                assert_eq!(page["count"], 6, "{page}");
                for node in nodes {
                    assert!(node["facts"]["at"].is_string() && node["facts"]["n"].is_number(), "{node}");
                    found.push(node["id"].as_str().unwrap_or_default().to_owned());
                }
                cursor = page["next"].clone();
                pages += 1;
                assert!(pages < 20, "no end");
                if cursor.is_null() {
                    break;
                }
            }
            assert_eq!(found.len(), 6, "limit {limit} at {at}: {found:?}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all(), "limit {limit} at {at}");
        }
    }
}

#[test]
fn report_sums_over_all_brokers() {
    let (cluster, _nodes) = cast();
    let mut operator = cluster.operator("dc1");
    let report = operator.ask("/muster/report", Some("has n"), &value!({ "fact": "customer" })).expect("an answer");
    assert_eq!(
        (&report["count"], &report["missing"], &report["more"]),
        (&value!(6), &value!(0), &value!(0)),
        "{report}"
    );
    let mut values = report["values"].as_array().expect("values").clone();
    values.sort_by_key(Value::to_string);
    assert_eq!(values, [value!({ "count": 3, "value": "acmeinc" }), value!({ "count": 3, "value": "beta" })]);
    let report = operator.ask("/muster/report", Some("n > 1"), &value!({ "fact": "nothing" })).expect("an answer");
    assert_eq!((&report["count"], &report["missing"]), (&value!(5), &value!(5)), "{report}");
    let report =
        operator.ask("/muster/report", Some("has n"), &value!({ "fact": "n", "limit": 2 })).expect("an answer");
    assert_eq!(report["values"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(report["more"], 4, "{report}");
}

#[test]
fn a_node_is_known_at_every_broker() {
    let (cluster, nodes) = cast();
    let mut operator = cluster.operator("noc1");
    let node = operator.ask("/muster/node", None, &value!({ "node": id(6), "explain": "n > 7" })).expect("a node");
    assert_eq!(
        (&node["state"], &node["broker"], &node["facts"]["n"]),
        (&value!("connected"), &value!("dc2"), &value!(6)),
        "{node}"
    );
    assert!(!node["explanation"].is_null(), "{node}");
    let refused = operator.ask("/muster/node", None, &value!({ "node": id(99) })).expect_err("a refusal");
    assert_eq!(refused.code, "no-such-node");
    // Those who are gone are named too, by the broker that they were connected to.
    drop(nodes);
    until("the node is known as gone", || {
        let node = operator.ask("/muster/node", None, &value!({ "node": id(6) })).ok()?;
        (node["state"] == "gone" && node["broker"] == "dc2").then_some(())
    });
    until("find names all the gone", || {
        let answer = operator.ask("/muster/find", Some("has n"), &value!({})).expect("an answer");
        (answer["count"] == 0 && answer["gone"].as_array().map_or(0, Vec::len) == 6).then_some(())
    });
}

#[test]
fn what_is_missing_is_said_of_questions_too() {
    let (mut cluster, _nodes) = cast();
    cluster.kill("dc1");
    cluster.until_settled();
    let mut operator = cluster.operator("noc1");
    let find = operator.ask("/muster/find", Some("has n"), &value!({})).expect("an answer");
    let report = operator.ask("/muster/report", Some("has n"), &value!({ "fact": "at" })).expect("an answer");
    for answer in [find, report] {
        assert_eq!(answer["count"], 4, "{answer}");
        let without = answer["without"].as_array().cloned().unwrap_or_default();
        assert_eq!(without.len(), 1, "{answer}");
        assert_eq!(
            (&without[0]["broker"], &without[0]["why"], &without[0]["nodes"]),
            (&value!("dc1"), &value!("unreachable"), &value!(2))
        );
    }
    let said = Muster::new(&cluster["noc1"], "noc").run(&["find", "-w", "has n"]);
    assert!(format!("{}{}", said.stdout, said.stderr).contains("dc1"), "{said:?}");
}

#[test]
fn scope_and_hidden_facts_hold_at_every_broker() {
    let cluster = Cluster::triangle();
    let facts = |name: &str| value!({ "at": name, "n": 1, "hostname": format!("host-of-{name}") });
    let mut crew = Crew::default();
    for (number, name) in [(1, "dc1"), (2, "dc2")] {
        crew.join([Node::register(&cluster[name], "node-acme", number, facts(name))]);
        crew.join([Node::register(&cluster[name], "node-beta", number + 10, facts(name))]);
    }
    cluster.until_nodes(&[("dc1", 2), ("dc2", 2)]);
    let mut acme = Stomp::operator(&cluster["noc1"], "acme");
    assert_eq!(acme.find("has at").into_iter().collect::<BTreeSet<_>>(), ids(&[1, 2]));
    acme.send(request("prod.node.ping", "r1", "has at"));
    let account = Account::of(&mut acme, "r1");
    account.assert_all_ok(&ids(&[1, 2]));
    assert!(!account.events.iter().any(|event| event.contains("host-of")), "{account:#?}");
    let report = acme.ask("/muster/report", Some("has at"), &value!({ "fact": "customer" })).expect("an answer");
    assert_eq!(report["values"], value!([{ "count": 2, "value": "acmeinc" }]), "{report}");
    let refused = acme.ask("/muster/node", None, &value!({ "node": id(11) })).expect_err("a refusal");
    assert_eq!(refused.code, "no-such-node");
    for hidden in ["hostname ~ host", "hostname=host-of-dc1"] {
        assert_eq!(acme.ask("/muster/find", Some(hidden), &value!({})).expect_err("a refusal").code, "hidden-fact");
    }
    // Who may see them sees them over the mesh.
    let mut peek = Stomp::operator(&cluster["noc1"], "peek");
    assert_eq!(peek.find("hostname=host-of-dc2").len(), 2);
    peek.send(request("prod.node.ping", "r2", "hostname=host-of-dc2"));
    let account = Account::of(&mut peek, "r2");
    assert!(account.events.iter().any(|event| event.contains("host-of-dc2")), "{account:#?}");
}

#[test]
fn a_broker_with_a_narrower_policy_refuses_and_is_named() {
    let narrow = policy::with(
        "destination = \"/topic/prod.>\"\nread = [\"noc\"]\nwrite = [\"noc\", \"noc-acme\"]",
        "destination = \"/topic/prod.>\"\nread = [\"noc\"]\nwrite = [\"noc-acme\"]",
    );
    let cluster = Plan::triangle().policy("dc2", &narrow).start();
    let crew = Crew::of(six(&cluster));
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "has n"));
    let account = Account::of(&mut operator, "r1");
    account.assert_exact();
    assert_eq!(account.in_state("ok"), ids(&[1, 2, 3, 4]), "{account:#?}");
    assert_eq!(account.missing.get("dc2").map(String::as_str), Some("refused"), "{account:#?}");
    for number in [5, 6] {
        assert!(crew.asked(&id(number)).is_empty(), "node {number} was asked");
    }
    let said = Muster::new(&cluster["noc1"], "noc").run(&["ping", "-w", "has n"]);
    assert_eq!(said.code, 4, "{said:?}");
    // With a guard, what is refused somewhere is no whole count.
    operator.send(request("prod.node.ping", "r2", "has n").header("muster-max-targets", "10"));
    let account = Account::of(&mut operator, "r2");
    assert_eq!(account.refused.map(|refused| refused.code).as_deref(), Some("partial"));
}

#[test]
fn a_scope_that_is_narrower_elsewhere_holds_there() {
    // For dc2 the operators of the NOC have a scope of their own, and no right to all.
    let narrow = policy::with("[groups.noc]\nall = true\n", "[groups.noc]\nscope = \"customer=beta\"\n");
    let cluster = Plan::triangle().policy("dc2", &narrow).start();
    let crew = Crew::of(six(&cluster));
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "has n"));
    let account = Account::of(&mut operator, "r1");
    account.assert_exact();
    assert_eq!(account.in_state("ok"), ids(&[1, 2, 3, 4, 6]), "{account:#?}");
    assert!(crew.asked(&id(5)).is_empty());
    let found = operator.ask("/muster/find", Some("has n"), &value!({})).expect("an answer");
    assert_eq!(found["count"], 5, "{found}");
}

#[test]
fn who_may_not_speak_elsewhere_is_not_heard_there() {
    // At dc1 viewers may not speak on open topics.
    let narrow = policy::with(
        "destination = \"/topic/open.>\"\nread = [\"noc\", \"viewers\"]\nwrite = [\"noc\", \"viewers\", \"noc-acme\"]",
        "destination = \"/topic/open.>\"\nread = [\"noc\"]\nwrite = [\"noc\"]",
    );
    let cluster = Plan::of(&["noc1", "dc1"]).link("noc1", "dc1").policy("dc1", &narrow).start();
    let mut listener = cluster.operator("dc1");
    listener.subscribe("/topic/open.>", "1");
    let mut noc = cluster.operator("noc1");
    let mut viewer = Stomp::login(&cluster["noc1"], "viewer");
    until("the listener is known", || {
        viewer.send_and_wait(message("/topic/open.x").with_body("of a viewer"));
        noc.send_and_wait(message("/topic/open.x").with_body("of noc"));
        listener.next_within(std::time::Duration::from_millis(100)).ok().map(|frame| {
            assert_eq!(&frame.body[..], b"of noc", "{}", show(&frame));
        })
    });
    viewer.send_and_wait(message("/topic/open.x").with_body("of a viewer"));
    noc.send_and_wait(message("/topic/open.x").with_body("the last"));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "the last") {
        heard.push(String::from_utf8_lossy(&listener.frame().body).into_owned());
    }
    assert!(!heard.iter().any(|body| body == "of a viewer"), "{heard:?}");
}

#[test]
fn two_clients_at_different_brokers_ask_and_answer() {
    let cluster = Cluster::line(3);
    let mut asker = cluster.operator("noc1");
    let mut answerer = cluster.operator("dc2");
    answerer.subscribe("/topic/open.questions", "1");
    let question =
        || message("/topic/open.questions").header("reply-to", "/temp-queue/replies").header("correlation-id", "c7");
    let asked = until("the question is heard", || {
        asker.send_and_wait(question().with_body("6 x 9?"));
        answerer.next_within(std::time::Duration::from_millis(100)).ok()
    });
    let queue = asked.headers.get("reply-to").expect("a reply queue").to_owned();
    assert!(queue.starts_with("/remote-temp-queue/noc1."), "{queue}");
    for n in 0..20 {
        answerer.send_and_wait(message(&queue).header("correlation-id", "c7").with_body(format!("{n}")));
    }
    for n in 0..20 {
        let answer = asker.frame();
        assert_eq!((answer.headers.get("correlation-id"), &answer.body[..]), (Some("c7"), n.to_string().as_bytes()));
        assert_eq!(answer.headers.get("muster-caller"), Some("noc"), "{}", show(&answer));
    }
    // Who guesses a name at another broker gets nowhere.
    let mut guesser = Stomp::login(&cluster["dc2"], "peek");
    let last = if queue.ends_with('0') { "1" } else { "0" };
    guesser.send(message(&format!("{}{last}", &queue[..queue.len() - 1])).with_body("forged"));
    assert_eq!(guesser.error().code, "gone");
    asker.assert_quiet();
    // Nor does who writes to one whose owner has left.
    asker.cut();
    until("the queue is gone", || (cluster["noc1"].count("sessions") == 1).then_some(()));
    answerer.send(message(&queue).with_body("too late"));
    assert_eq!(answerer.error().code, "gone");
}

#[test]
fn only_who_was_asked_answers_a_request() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "n = 5"));
    let asked = nodes[4].request();
    // A node at the same broker, and one at the ingress, that were not asked.
    for other in [5, 0] {
        nodes[other].reply(&asked, "ok", &value!({ "forged": true }));
    }
    nodes[4].reply(&asked, "ok", &value!({ "mine": true }));
    nodes[4].reply(&asked, "failed", &value!({ "twice": true }));
    let account = Account::of(&mut operator, "r1");
    account.assert_all_ok(&ids(&[5]));
    assert!(!account.events.iter().any(|event| event.contains("forged") || event.contains("twice")), "{account:#?}");
    operator.assert_quiet();
}

#[test]
fn a_node_that_moves_to_another_broker_ends_its_older_session() {
    let cluster = Cluster::triangle();
    let mut old = Node::connect_again(&cluster["dc1"], "node-acme", 1, 7);
    old.publish(&document(value!({ "n": 1 })));
    let mut operator = cluster.operator("noc1");
    until("it is found", || (operator.find("n=1").len() == 1).then_some(()));
    let mut new = Node::connect_again(&cluster["dc2"], "node-acme", 1, 8);
    new.publish(&document(value!({ "n": 1 })));
    assert_eq!(old.stomp.error().code, "moved");
    until("it is at dc2 and nowhere else", || {
        let node = operator.ask("/muster/node", None, &value!({ "node": id(1) })).ok()?;
        (node["broker"] == "dc2" && node["state"] == "connected").then_some(())
    });
    assert_eq!(operator.find("n=1"), [id(1)]);
    cluster.until_nodes(&[("dc1", 0), ("dc2", 1)]);
    let crew = Crew::of([new]);
    operator.send(request("prod.node.ping", "r1", "n=1"));
    Account::of(&mut operator, "r1").assert_all_ok(&ids(&[1]));
    crew.assert_asked_once();
    // A lower number comes too late, wherever.
    for at in ["noc1", "dc1"] {
        let mut late = Stomp::dial(&cluster[at]);
        late.send(muster_tests::node::hello("node-acme", 1, 5));
        until(&format!("the late one at {at} is sent away"), || {
            match late.next_within(std::time::Duration::from_millis(100)) {
                Ok(frame) if frame.headers.get("muster-code") == Some("moved") => Some(()),
                Ok(frame) => {
                    assert_ne!(frame.headers.get("muster-code"), Some("internal"), "{}", show(&frame));
                    None
                }
                Err(_) => None,
            }
        });
    }
    let answer = operator.ask("/muster/find", Some("n=1"), &value!({})).expect("an answer");
    assert_eq!(answer["count"], 1, "{answer}");
}

#[test]
fn a_client_at_one_broker_stops_a_request_only_of_its_own() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    let mut other = cluster.operator("dc1");
    operator.send(request("prod.node.ping", "r1", "n = 5"));
    let asked = nodes[4].request();
    assert_eq!(
        other.ask("/muster/cancel", None, &value!({ "request": "r1" })).expect_err("a refusal").code,
        "no-such-request"
    );
    nodes[4].reply(&asked, "ok", &value!({}));
    Account::of(&mut operator, "r1").assert_all_ok(&ids(&[5]));
}

#[test]
fn the_caller_that_leaves_is_forgotten_everywhere() {
    let (cluster, mut nodes) = cast();
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "r1", "has n"));
    let asked: Vec<_> = nodes.iter_mut().map(Node::request).collect();
    operator.cut();
    for name in cluster.names() {
        until(&format!("{name} forgets the request"), || (cluster[&name].count("requests") == 0).then_some(()));
    }
    // What is answered now harms nobody.
    for (node, asked) in nodes.iter_mut().zip(&asked) {
        node.reply(asked, "ok", &value!({}));
        node.stomp.assert_quiet();
    }
    let mut next = cluster.operator("noc1");
    assert_eq!(next.find("has n").len(), 6);
}

#[test]
fn large_answers_come_over_three_hops() {
    let cluster = Cluster::line(4);
    let mut nodes = cluster.nodes("dc3", "node-acme", [1]);
    cluster.until_nodes(&[("dc3", 1)]);
    let mut operator = cluster.operator("noc1");
    let long = "x".repeat(600_000);
    operator.send(request("prod.node.ping", "r1", "n=1").with_body(value!({ "argument": long }).to_string()));
    let asked = nodes[0].request();
    assert!(asked.body.len() > 600_000 && asked.headers.get("reply-to") != Some(OWN));
    nodes[0].reply(&asked, "ok", &value!({ "answer": long }));
    let reply = operator.wait_for("the reply", |frame| frame.headers.get("muster-event") == Some("reply"));
    assert_eq!(json(&reply)["answer"], long);
}

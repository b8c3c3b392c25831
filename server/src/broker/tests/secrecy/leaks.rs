//! Which ways to what must not be known are closed? One test for each that was open.

use super::super::across::{self, Star};
use super::super::*;
use super::{Item, drain};

fn ids(got: &Value) -> Vec<NodeId> {
    let nodes = got["nodes"].as_array().expect("nodes");
    let id = |node: &Value| NodeId::parse(node["id"].as_str().or(node.as_str()).expect("an id")).expect("an id");
    nodes.iter().map(id).collect()
}

fn in_order(numbers: impl IntoIterator<Item = u8>) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = numbers.into_iter().map(node_id).collect();
    ids.sort_unstable();
    ids
}

/// Nodes of acme, whose rows lie in an order that is due to nodes of globex which came and went.
fn shuffled() -> (House, Vec<u64>) {
    let mut house = House::new();
    let others: Vec<u64> = (100..103).map(|number| house.agent("node-globex", number, json!({}))).collect();
    let mut agents = vec![house.agent("node-acme", 1, json!({}))];
    for (number, other) in (2..5).zip(others) {
        house.close(other);
        agents.push(house.agent("node-acme", number, json!({})));
    }
    (house, agents)
}

#[test]
fn pages_follow_the_ids_and_a_cursor_names_only_what_was_shown() {
    let (mut house, _agents) = shuffled();
    let acme = house.open("acme");
    let expected = in_order(1..5);
    let (mut shown, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page = house.query(acme, "find", "all", json!({ "limit": 3, "cursor": cursor })).json();
        shown.extend(ids(&page));
        cursor = page["next"].clone();
        let Some(next) = cursor.as_str() else { break };
        assert_eq!(next, format!("noc1/{}/4", shown.last().expect("a node")));
    }
    assert_eq!(shown, expected);
    // A node that goes between two pages takes none of the others with it.
    let last = expected[1];
    let at = format!("noc1/{last}/4");
    assert_eq!(ids(&house.query(acme, "find", "all", json!({ "cursor": at })).json()), expected[2..]);
    for old in ["noc1/2/4", "noc1//4", "noc1/n-x/4"] {
        assert_eq!(house.query(acme, "find", "all", json!({ "cursor": old })).header("muster-code"), "bad-body");
    }
}

#[test]
fn targets_are_named_in_the_order_of_their_ids_and_end_in_it() {
    let (mut house, agents) = shuffled();
    let acme = house.open("acme");
    house.request(acme, "/topic/prod.node.ping", "class = web", &[("muster-reply-within", "1000")]);
    let accepted = house.take(acme).remove(0);
    assert_eq!(ids(&accepted.json()), in_order(1..5));
    house.pass(1_000);
    let expired = house.take(acme).remove(0);
    assert_eq!((expired.event(), ids(&expired.json())), ("expired", in_order(1..5)));
    drop(agents);
}

#[test]
fn a_message_has_its_number_in_its_own_session() {
    let mut house = House::new();
    let numbers = |house: &House, session: u64| -> Vec<u64> {
        let items = drain(&house.outboxes[&session].0, house.now);
        let number = |item: Item| if let Item::Message { number, .. } = item { Some(number) } else { None };
        items.into_iter().filter_map(number).collect()
    };
    let acme = house.open("acme");
    for round in 1..4 {
        house.frame(acme, send("/muster/mesh").header("muster-request", "q").header("reply-to", "/temp-queue/me"));
        assert_eq!(numbers(&house, acme), [round]);
        house.agent("node-globex", u8::try_from(round).expect("small"), json!({}));
    }
}

/// What all nodes of a broker have rules it out only for those who may know of all nodes.
#[test]
fn who_is_asked_tells_a_scoped_caller_nothing() {
    let mut star = Star::new();
    star.houses[1].agent("node-acme", 1, json!({"os": {"family": "Debian"}}));
    star.houses[2].agent("node-globex", 2, json!({"os": {"family": "Solaris"}}));
    star.pass(4_000);
    let [noc, acme] = ["noc", "acme"].map(|user| star.houses[0].open(user));
    let mut brokers = |caller: u64, target: &str| -> Vec<String> {
        star.houses[0].request(caller, "/topic/prod.node.ping", target, &[("muster-dry-run", "true")]);
        star.pump();
        let got = star.houses[0].take(caller);
        assert_eq!(got.last().expect("events").json(), json!({"states": {}}));
        let named = got.iter().filter(|got| got.event() == "accepted").map(Got::json);
        named.map(|accepted| accepted["broker"].as_str().expect("a name").to_owned()).collect()
    };
    for target in ["os.family = Solaris", "os.family = Plan9", "class = web"] {
        assert_eq!(brokers(acme, target), ["noc1", "dc1", "dc2"], "{target}");
    }
    assert_eq!(brokers(noc, "os.family = Solaris"), ["noc1", "dc2"], "who sees all nodes need not wait for dc1");
}

#[test]
fn a_hidden_display_fact_takes_no_room_from_the_others() {
    let long = |path: &str| (path.to_owned(), json!("x".repeat(250)));
    let paths: Vec<String> = (0..9).map(|n| format!("secret{n}")).collect();
    let text = POLICY.replace(
        r#"display = ["customer", "os.family", "hostname"]"#,
        &format!(
            "display = {:?}\nhidden = [\"secret*\"]",
            paths.iter().chain([&"kernel".to_owned()]).collect::<Vec<_>>()
        ),
    );
    let text = text.replace("[groups.noc]", "[groups.noc]\nshows = [\"**\"]");
    let mut house = House::of("noc1", policy(&text));
    let mut facts: serde_json::Map<String, Value> = paths.iter().map(|path| long(path)).collect();
    facts.insert("kernel".into(), json!("Linux"));
    house.agent("node-acme", 1, facts.into());
    let display = |house: &mut House, user: &str| {
        let session = house.open(user);
        house.query(session, "find", "class = web", json!({})).json()["nodes"][0]["display"].clone()
    };
    assert_eq!(display(&mut house, "acme"), json!({"kernel": "Linux"}));
    let all = display(&mut house, "noc");
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(7), "2 KiB, and no more: {all}");
}

#[test]
fn nobody_hears_of_a_change_of_which_they_may_see_nothing() {
    let text = across::text().replace("[groups.noc]", "[groups.noc]\nshows = [\"hostname\"]");
    let mut star = Star::of(&text);
    let listeners = [(0, "noc"), (1, "noc"), (0, "acme"), (1, "acme")].map(|(at, user)| {
        let session = star.houses[at].open(user);
        let topic = Frame::new(Command::Subscribe).header("destination", "/topic/prod.registration").header("id", "1");
        star.houses[at].frame(session, topic);
        (at, session)
    });
    star.pass(3_000);
    let agent = star.houses[1].connect("node-acme", 1, 1);
    let mut heard = |classes: Value, facts: Value| {
        star.houses[1].document(agent, json!({ "facts": facts, "classes": classes, "modules": {} }));
        star.pump();
        listeners.map(|(at, session)| star.houses[at].take(session).len())
    };
    assert_eq!(heard(json!([]), json!({"hostname": "a", "kernel": "x"})), [1; 4], "it is new");
    assert_eq!(heard(json!([]), json!({"hostname": "b", "kernel": "x"})), [1, 1, 0, 0], "it is hidden from acme");
    assert_eq!(heard(json!([]), json!({"hostname": "c", "kernel": "y"})), [1; 4]);
    assert_eq!(heard(json!([]), json!({"kernel": "y"})), [1, 1, 0, 0]);
    assert_eq!(heard(json!(["web"]), json!({"hostname": "c", "kernel": "y"})), [1; 4], "classes are seen by all");
    assert_eq!(
        heard(json!(["web"]), json!({"hostname": "c", "kernel": "y", "networking": {}})),
        [0; 4],
        "hidden from both"
    );
}

/// Whose scope stands on a fact that the asker may not see is no way to ask for that fact.
#[test]
fn explain_counts_no_nodes_by_a_scope_on_hidden_facts() {
    let hiding = "hidden = [\"customer\"]\nasserted";
    let text =
        POLICY.replacen("asserted", hiding, 1).replace("[groups.noc-acme]", "[groups.noc-acme]\nshows = [\"**\"]");
    let mut house = House::of("noc1", policy(&text));
    house.agent("node-acme", 1, json!({}));
    let mut explain = |asker: &str, user: &str| {
        let session = house.open(asker);
        let query =
            json!({"user": user, "right": "write", "destination": "/topic/prod.node.ping", "filter": "class = web"});
        house.query(session, "admin.explain", "", query).json()
    };
    let answer = explain("noc", "acme");
    assert_eq!((&answer["reached"], &answer["allowed"]), (&Value::Null, &json!(true)));
    assert!(
        answer["text"].as_str().is_some_and(|text| text.contains("customer, which is hidden from you")),
        "{answer}"
    );
    assert_eq!(explain("noc", "noc")["reached"]["nodes"], 1);
    assert_eq!(explain("acme", "acme")["reached"]["nodes"], 1, "it is not hidden from acme");
}

//! What goes on record? Decisions with their rules, outcomes, refusals; bodies by their sums; nothing if nobody takes it.

use super::across::Star;
use super::*;

/// The records since the last call, as they are written, without logins.
fn records(house: &mut House) -> Vec<Value> {
    let records = house.broker.take_records();
    let records = records.iter().map(|record| serde_json::to_value(record).expect("JSON"));
    records.filter(|record| record["event"] != "login").collect()
}

fn on_record(mut house: House) -> House {
    house.broker.keep_records();
    house
}

#[test]
fn a_request_is_on_record_with_its_rule_and_its_outcome() {
    let mut house = on_record(House::new());
    let agent = house.agent("node-acme", 1, json!({ "n": 1 }));
    let acme = house.open("acme");
    let logins: Vec<Value> =
        house.broker.take_records().iter().map(|record| serde_json::to_value(record).expect("JSON")).collect();
    assert_eq!(
        logins,
        [
            json!({ "event": "login", "decision": "allowed", "user": "node-acme", "address": "127.0.0.1:1", "session": agent, "node": node_id(1) }),
            json!({ "event": "login", "decision": "allowed", "user": "acme", "address": "127.0.0.1:1", "session": acme }),
        ]
    );
    house.request(acme, "/topic/prod.service.restart", "n=1", &[("muster-max-targets", "5")]);
    let asked = house.take(agent).remove(0);
    house.answer(agent, &asked, "ok", "{}");
    let line = POLICY.lines().position(|line| line.starts_with("destination")).expect("an entry") + 1;
    assert_eq!(
        records(&mut house),
        [
            json!({
                "event": "request", "decision": "allowed", "user": "acme", "address": "127.0.0.1:1", "session": acme,
                "destination": "/topic/prod.service.restart", "request": "r1", "target": "n = 1",
                "rule": [{ "line": line, "destination": "/topic/prod.*.*", "groups": "noc-acme" }],
                "scope": "customer = acmeinc",
                "guards": { "max_targets": 5, "dry_run": false, "allow_partial": false },
                "body": { "bytes": 2, "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" },
                "brokers": ["noc1"],
            }),
            json!({
                "event": "request-done", "user": "acme", "session": acme, "request": "r1",
                "destination": "/topic/prod.service.restart", "targets": 1, "states": { "ok": 1 },
            }),
        ]
    );
}

#[test]
fn whatever_is_refused_is_on_record_once() {
    let mut house = on_record(House::new());
    house.agent("node-acme", 1, json!({ "n": 1 }));
    let acme = house.open("acme");
    records(&mut house);
    let one = |house: &mut House| {
        let found = records(house);
        assert_eq!(found.len(), 1, "{found:#?}");
        let found = found[0].clone();
        assert_eq!((&found["decision"], &found["user"]), (&json!("denied"), &json!("acme")), "{found:#}");
        found
    };
    house.request(acme, "/topic/elsewhere.service.restart", "n=1", &[]);
    let denied = one(&mut house);
    assert_eq!((&denied["event"], &denied["code"], &denied["rule"]), (&json!("request"), &json!("denied"), &json!([])));
    house.request(acme, "/topic/prod.service.restart", "all", &[]);
    let denied = one(&mut house);
    assert_eq!((&denied["code"], &denied["target"]), (&json!("all-not-allowed"), &json!("all")));
    assert_eq!(denied["rule"][0]["destination"], "/topic/prod.*.*", "the destination was granted, the target was not");
    house.query(acme, "find", "hostname=x", json!({}));
    let denied = one(&mut house);
    assert_eq!((&denied["event"], &denied["destination"]), (&json!("refused"), &json!("/muster/find")));
    assert_eq!((&denied["code"], &denied["request"]), (&json!("hidden-fact"), &json!("q")));
    house.query(acme, "node", "", json!({ "node": node_id(77) }));
    assert_eq!(one(&mut house)["code"], "no-such-node");
    house.query(acme, "cancel", "", json!({ "request": "r9" }));
    let denied = one(&mut house);
    assert_eq!((&denied["event"], &denied["about"]), (&json!("cancel"), &json!("r9")));
    house.frame(acme, send("/topic/prod.a.b.c").header("muster-target", "n=1"));
    let found = records(&mut house);
    assert_eq!((&found[0]["event"], &found[0]["code"]), (&json!("refused"), &json!("denied")), "{found:#?}");
    assert_eq!((&found[1]["event"], &found[1]["reason"]), (&json!("session-closed"), &json!("refused")));
}

#[test]
fn plain_messages_and_finds_that_are_allowed_are_not_on_record_commands_are() {
    let mut house = on_record(House::new());
    let noc = house.open("noc");
    records(&mut house);
    house.frame(noc, send("/topic/news.today"));
    house.query(noc, "find", "all", json!({}));
    house.query(noc, "mesh", "", json!({}));
    assert!(records(&mut house).is_empty());
    house.query(noc, "admin.explain", "", json!({ "user": "acme", "right": "write", "destination": "/topic/a.b.c" }));
    let admin = records(&mut house).remove(0);
    assert_eq!((&admin["event"], &admin["decision"]), (&json!("admin"), &json!("allowed")));
    assert_eq!(
        (&admin["about"], &admin["destination"]),
        (&json!("acme write /topic/a.b.c"), &json!("/muster/admin.explain"))
    );
    house.query(noc, "admin.show", "", json!({ "what": "users", "name": "acme" }));
    let shown = records(&mut house);
    assert_eq!(shown.last().map(|record| &record["about"]), Some(&json!("show users acme")));
}

#[test]
fn an_edit_is_on_record_by_what_it_does_and_no_hash_with_it() {
    let mut house = on_record(House::new());
    let noc = house.open("noc");
    records(&mut house);
    let mut edited = |edit: Value, more: Value| {
        let mut body = json!({ "edit": edit });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        house.query(noc, "admin.edit", "", body);
        records(&mut house)
    };
    let user = |edit: &str| json!({ "edit": edit, "name": "carol", "kind": "operator", "password": PHC });
    let text = json!({ "edit": "text", "policy": POLICY.replace("PHC", PHC) });
    for (edit, more, about) in [
        (user("user-add"), json!({}), "user add carol"),
        (user("user-set"), json!({ "reason": "TICKET-7" }), "user set carol: TICKET-7"),
        (text, json!({ "dry_run": true, "force": true }), "apply a whole policy (dry run) (forced)"),
    ] {
        let found = edited(edit, more);
        let admin = found.iter().find(|record| record["event"] == "admin").unwrap_or_else(|| panic!("{found:#?}"));
        assert_eq!((&admin["about"], &admin["destination"]), (&json!(about), &json!("/muster/admin.edit")));
        assert_eq!(admin["body"]["sha256"].as_str().map(str::len), Some(64), "{admin:#}");
        let all = json!(found).to_string();
        assert!(!all.contains("argon2id") && !all.contains(PHC), "{all}");
    }
    // Where a hash was meant, somebody may type a password; and where something else was meant.
    for wrong in [
        json!({ "edit": "user-set", "name": "carol", "password": "hunter2" }),
        json!({ "edit": "user-set", "name": "carol", "disabled": "hunter2" }),
        json!({ "edit": "group-set", "name": "noc", "limits": { "sessions": "hunter2\", expected" } }),
    ] {
        let all = json!(edited(wrong.clone(), json!({}))).to_string();
        assert!(all.contains("/muster/admin.edit") || all.contains("bad-body"), "it is on record: {all}");
        assert!(!all.contains("hunter2"), "{wrong}: {all}");
    }
}

#[test]
fn what_an_admin_looks_at_is_on_record_too() {
    let mut house = on_record(House::new());
    let noc = house.open("noc");
    records(&mut house);
    for (what, body, about) in [
        ("audit", json!({ "user": "bob" }), "audit bob"),
        ("show", json!({ "what": "users", "name": "bob" }), "show users bob"),
        ("history", json!({ "generation": "1.2" }), "history 1.2"),
        ("sessions", json!({}), "sessions"),
        ("close", json!({ "session": 99, "reason": "left the team" }), "session 99 of nobody: left the team"),
        ("authority", json!({}), "authority"),
        ("take", json!({ "reason": "noc1 is gone" }), "authority take: noc1 is gone"),
    ] {
        let frame = send(&format!("/muster/admin.{what}")).header("muster-request", "q");
        house.frame(noc, frame.header("reply-to", "/temp-queue/me").with_body(body.to_string()));
        let found = records(&mut house);
        let admin = found.iter().find(|record| record["event"] == "admin").unwrap_or_else(|| panic!("{found:#?}"));
        assert_eq!((&admin["about"], &admin["user"]), (&json!(about), &json!("noc")), "{what}");
    }
}

/// The broker does not know which arguments are sensitive, so it puts none on record.
#[test]
fn no_argument_is_on_record_sensitive_or_not() {
    let mut star = Star::new();
    star.houses.iter_mut().for_each(|house| house.broker.keep_records());
    let agents = star.agents(1, 1..2);
    let (noc, acme) = (star.houses[0].open("noc"), star.houses[0].open("acme"));
    let body = r#"{"user":"plain-argument-1","password":"sensitive-argument-2"}"#;
    let ask = |star: &mut Star, session: u64, id: &str, destination: &str| {
        let frame = send(destination).header("muster-request", id).header("reply-to", "/temp-queue/me");
        star.houses[0].frame(session, frame.header("muster-target", "all").with_body(body));
        star.pass(100);
    };
    ask(&mut star, noc, "r1", "/topic/prod.service.restart");
    ask(&mut star, acme, "r2", "/topic/prod.service.restart");
    ask(&mut star, noc, "r3", "/topic/elsewhere.service.restart");
    let asked = star.houses[1].take(agents[0]).remove(0);
    assert!(asked.body.contains("sensitive-argument-2"), "it is delivered");
    star.houses[1].answer(agents[0], &asked, "failed", r#"{"error":{"code":"x","text":"sensitive-answer-3"}}"#);
    star.pass(100);
    let all: Vec<Value> = star.houses.iter_mut().flat_map(records).collect();
    let of = |request: &str, event: &str| {
        let found = all.iter().find(|record| record["request"] == request && record["event"] == event);
        found.unwrap_or_else(|| panic!("no {event} of {request}: {all:#?}"))
    };
    for (request, event) in [("r1", "request"), ("r1", "link-request"), ("r2", "request"), ("r3", "request")] {
        assert_eq!(of(request, event)["body"]["bytes"], body.len(), "{request}");
    }
    assert_eq!(of("r1", "request-done")["states"], json!({ "failed": 1 }));
    let text = json!(all).to_string();
    assert!(!text.contains("argument-") && !text.contains("sensitive"), "{text}");
}

#[test]
fn a_request_that_ends_early_says_why() {
    let mut house = on_record(House::new());
    for number in 1..=3 {
        house.agent("node-acme", number, json!({ "n": 1 }));
    }
    let noc = house.open("noc");
    records(&mut house);
    house.request(noc, "/topic/prod.service.restart", "n=1", &[("muster-max-targets", "2")]);
    let found = records(&mut house);
    assert_eq!((&found[0]["event"], &found[0]["decision"]), (&json!("request"), &json!("allowed")));
    assert_eq!((&found[1]["event"], &found[1]["code"]), (&json!("request-done"), &json!("too-many-targets")));
    assert_eq!((&found[1]["targets"], &found[1]["decision"], found.len()), (&json!(3), &json!("denied"), 2));
    house.request(noc, "/topic/prod.service.restart", "n=1", &[]);
    house.close(noc);
    let found = records(&mut house);
    let events: Vec<&Value> = found.iter().map(|record| &record["event"]).collect();
    assert_eq!(events, ["request", "request-done", "session-closed"]);
    assert!(found[1]["reason"].as_str().is_some_and(|text| text.contains("the caller has left")), "{found:#?}");
}

#[test]
fn a_request_from_another_broker_is_on_record_where_the_nodes_are() {
    let mut star = Star::new();
    star.houses.iter_mut().for_each(|house| house.broker.keep_records());
    let agents = star.agents(1, 1..3);
    star.pass(3_000);
    let caller = star.houses[0].open("noc");
    star.houses.iter_mut().for_each(|house| drop(records(house)));
    star.ask(caller, &[]);
    star.pass(0);
    let at_ingress = records(&mut star.houses[0]);
    assert_eq!(at_ingress[0]["event"], "request");
    assert!(at_ingress[0]["brokers"].as_array().is_some_and(|names| names.contains(&json!("dc1"))), "{at_ingress:#?}");
    let there = records(&mut star.houses[1]);
    assert_eq!(there.len(), 1, "{there:#?}");
    let there = &there[0];
    assert_eq!((&there["event"], &there["decision"]), (&json!("link-request"), &json!("allowed")), "{there:#}");
    assert_eq!((&there["user"], &there["ingress"], &there["targets"]), (&json!("noc"), &json!("noc1"), &json!(2)));
    assert_eq!(there["rule"][0]["destination"], "/topic/prod.*.*");
    assert_eq!(there["body"], at_ingress[0]["body"]);
    star.houses[0].close(caller);
    // This broker's own policy does not know the caller: it refuses, and says so.
    let narrower = text_without_noc();
    star.houses[1].enforce(policy(&narrower));
    let caller = star.houses[0].open("noc");
    star.houses.iter_mut().for_each(|house| drop(records(house)));
    star.ask(caller, &[]);
    star.pass(0);
    let refused = records(&mut star.houses[1]);
    assert_eq!(
        (&refused[0]["event"], &refused[0]["decision"]),
        (&json!("link-request"), &json!("denied")),
        "{refused:#?}"
    );
    assert!(refused[0]["reason"].as_str().is_some_and(|text| text.contains("the policy of dc1 has no such user")));
    drop(agents);
}

fn text_without_noc() -> String {
    super::across::text().replace("[users.noc]", "[users.other]")
}

#[test]
fn nothing_is_left_while_nobody_takes_it() {
    let mut house = House::new();
    let noc = house.open("noc");
    house.request(noc, "/topic/prod.service.restart", "all", &[]);
    house.request(noc, "/topic/elsewhere.service.restart", "all", &[]);
    house.close(noc);
    assert!(house.broker.take_records().is_empty());
}

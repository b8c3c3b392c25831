//! Does an admin do by HTTP what `muster admin` does? The policy edited and shown, sessions listed and closed, the audit log, metrics.

use muster_tests::http::Answer;
use muster_tests::policy::{PASSWORD, POLICY};
use muster_tests::{Broker, Http, Node, Setup, Stomp, until};
use serde_json::{Value, json};
use std::fs;

const NEW: &str = "brand-new-secret-82";

/// A broker that has the authority over its policy, and an admin.
fn stage() -> (Broker, Http) {
    let broker = Setup::new().with_api().with("log.level", "trace").start();
    let mut noc = Http::login(&broker, "noc");
    generation(&noc.post("/api/v1/policy/take", &json!({ "reason": "the first one" })));
    let authority = noc.get("/api/v1/policy/authority").ok();
    assert_eq!((&authority["broker"], &authority["authority"]), (&json!("noc1"), &json!("noc1")), "{authority}");
    (broker, noc)
}

fn edit(http: &mut Http, edit: Value) -> Answer {
    http.post("/api/v1/policy/edit", &json!({ "edit": edit, "reason": "because" }))
}

fn put(http: &mut Http, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    http.call("PUT", path, headers, Some(body))
}

/// The generation that an answer speaks of, which its ETag has too.
fn generation(answer: &Answer) -> String {
    let generation = answer.json()["generation"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    assert_eq!(answer.headers["etag"], format!("\"{generation}\""));
    generation
}

fn log_in(broker: &Broker, user: &str, password: &str) -> u16 {
    Http::dial(broker).post("/api/v1/login", &json!({ "user": user, "password": password })).status
}

#[test]
fn a_user_is_made_changed_and_taken_out() {
    let (broker, mut noc) = stage();
    let bob = "/api/v1/policy/users/bob";
    assert_eq!(noc.get(bob).refused(404), "no-such-name");
    let body = json!({ "kind": "operator", "groups": ["viewers"], "networks": ["127.0.0.0/8"], "new_password": NEW });
    assert_eq!(noc.get("/api/v1/policy/acl?after=x").refused(400), "bad-body");
    let tried = put(&mut noc, &format!("{bob}?dry_run=true"), &[], &body);
    assert!(tried.ok()["dry_run"] == true && noc.get(bob).status == 404, "{}", tried.text());
    let made = put(&mut noc, &format!("{bob}?reason=new%20in%20the%20NOC"), &[("if-none-match", "*")], &body);
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(put(&mut noc, bob, &[("if-none-match", "*")], &body).refused(412), "bad-edit");
    let shown = noc.get(bob);
    let user = &shown.ok()["users"][0];
    assert_eq!(
        (&user["name"], &user["groups"], &user["networks"]),
        (&json!("bob"), &json!(["viewers"]), &json!(["127.0.0.0/8"]))
    );
    assert!(!shown.text().contains("argon2") && !shown.text().contains("password"), "{}", shown.text());
    assert_eq!(generation(&shown), generation(&made));
    assert_eq!(log_in(&broker, "bob", NEW), 200);
    let text = fs::read_to_string(broker.folder().join("policy.toml")).expect("the policy");
    assert!(text.contains("[users.bob]") && !text.contains(NEW), "{text}");

    // What is not in the body goes, but for kind and password.
    let changed = put(&mut noc, bob, &[], &json!({ "groups": ["noc"] }));
    assert_eq!(changed.status, 200, "{}", changed.text());
    let user = &noc.get(bob).ok()["users"][0];
    assert_eq!((&user["kind"], &user["groups"], user.get("networks")), (&json!("operator"), &json!(["noc"]), None));
    assert_eq!(log_in(&broker, "bob", NEW), 200);
    assert_eq!(put(&mut noc, bob, &[], &json!({ "password": "secret" })).status, 400, "no hash");
    let both = json!({ "password": "$argon2id$x", "new_password": "x" });
    assert_eq!(put(&mut noc, bob, &[], &both).refused(400), "bad-body");
    assert_eq!(put(&mut noc, "/api/v1/policy/users/eve", &[], &json!({ "kind": "operator" })).refused(400), "bad-edit");

    let stale = [("if-match", format!("\"{}\"", generation(&made)))];
    let stale: Vec<(&str, &str)> = stale.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(noc.call("DELETE", bob, &stale, None).refused(409), "stale-generation");
    let now = [("if-match", format!("\"{}\"", generation(&changed)))];
    let now: Vec<(&str, &str)> = now.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let gone = noc.call("DELETE", &format!("{bob}?reason=left"), &now, None);
    assert_eq!(gone.ok()["changes"]["changes"][0]["how"], "removed");
    assert_eq!((noc.get(bob).status, log_in(&broker, "bob", NEW)), (404, 401));
    assert_eq!(noc.call("DELETE", bob, &[], None).refused(400), "bad-edit");
    let log = broker.log();
    assert!(!log.contains(NEW) && !log.contains(PASSWORD) && !log.contains("mt1."), "a secret in the log");
}

#[test]
fn edits_are_compared_and_set_kept_in_history_and_reverted() {
    let (broker, mut noc) = stage();
    let first = edit(&mut noc, json!({ "edit": "group-add-member", "group": "viewers", "user": "nobody" }));
    let one = generation(&first);
    let mut nobody = Http::login(&broker, "nobody");
    nobody.post("/api/v1/nodes/find", &json!({ "target": "os.family=Debian" })).ok();
    let member = "/api/v1/policy/groups/viewers/members/nobody";
    let two = generation(&noc.call("DELETE", &format!("{member}?reason=done"), &[], None));
    assert_ne!(one, two);
    assert_eq!(nobody.post("/api/v1/nodes/find", &json!({ "target": "os.family=Debian" })).refused(403), "denied");
    let late = json!({ "edit": { "edit": "group-remove", "name": "viewers" }, "generation": one });
    assert_eq!(noc.post("/api/v1/policy/edit", &late).refused(409), "stale-generation");

    let list = noc.get("/api/v1/policy/history?limit=1").ok();
    let newest = &list["editions"][0];
    assert_eq!((&newest["generation"], &newest["by"], &newest["reason"]), (&json!(two), &json!("noc"), &json!("done")));
    let older = noc.get(&format!("/api/v1/policy/history?before={}", list["next"].as_str().expect("more"))).ok();
    assert_eq!(older["editions"][0]["generation"], one.as_str());
    let shown = noc.get(&format!("/api/v1/policy/history/{two}")).ok();
    assert!(shown["editions"][0]["changes"].is_object(), "{shown}");
    assert_eq!(noc.get("/api/v1/policy/history/999.999").refused(404), "no-such-name");
    let back = noc.post("/api/v1/policy/revert", &json!({ "to": one, "reason": "after all" })).ok();
    assert!(!back["changes"]["changes"].as_array().expect("changes").is_empty(), "{back}");
    nobody.post("/api/v1/nodes/find", &json!({ "target": "os.family=Debian" })).ok();

    for (wrong, code) in [
        (json!({ "edit": "user-remove", "name": "who-is-that" }), "bad-edit"),
        (json!({ "edit": "acl-add", "destination": "/topic/a b", "read": ["noc"] }), "bad-edit"),
        (json!({ "edit": "scope-set", "group": "viewers", "filter": "os.family=" }), "bad-edit"),
    ] {
        assert_eq!(edit(&mut noc, wrong.clone()).refused(400), code, "{wrong}");
    }
    let last = json!({ "edit": "acl-remove", "destination": "/muster/admin.>" });
    assert_eq!(edit(&mut noc, last).refused(409), "last-admin");
}

#[test]
fn groups_and_all_parts_of_the_policy_are_shown_page_by_page() {
    let (_broker, mut noc) = stage();
    let group = "/api/v1/policy/groups/night";
    let body = json!({ "scope": "customer = acmeinc", "limits": { "sessions": 5, "in-flight": 2 } });
    let made = put(&mut noc, group, &[], &body);
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(put(&mut noc, group, &[], &json!({ "limits": { "sessions": 9 } })).status, 200);
    let shown = &noc.get(group).ok()["groups"][0];
    assert_eq!((shown.get("scope"), &shown["limits"]), (None, &json!({ "sessions": 9 })));
    noc.call("DELETE", group, &[], None).ok();
    assert_eq!(noc.get(group).refused(404), "no-such-name");

    for (part, name) in [
        ("users", "viewer"),
        ("groups", "noc-acme"),
        ("acl", "%2Fmuster%2Fadmin.%3E"),
        ("hidden", "hostname"),
        ("collectives", "prod"),
    ] {
        let path = format!("/api/v1/policy/{part}");
        let one = noc.get(&format!("{path}/{name}")).ok();
        assert_eq!(one[part].as_array().map(Vec::len), Some(1), "{one}");
        assert_eq!(noc.get(&format!("{path}/no-such-thing")).refused(404), "no-such-name", "{part}");
        let all = noc.get(&path).ok()[part].as_array().expect("a list").clone();
        let (mut paged, mut next) = (Vec::new(), String::new());
        loop {
            let after = if next.is_empty() { String::new() } else { format!("&after={next}") };
            let page = noc.get(&format!("{path}?limit=2{after}")).ok();
            paged.extend(page[part].as_array().expect("a list").iter().cloned());
            let Some(more) = page["next"].as_str() else { break };
            assert!(paged.len() <= all.len(), "{part}: pages without an end");
            next = more.to_owned();
        }
        assert_eq!(paged, all, "{part}");
    }
    assert_eq!(noc.get("/api/v1/policy/brokers").ok().get("brokers"), None, "a broker alone has no list");
}

#[test]
fn sessions_are_listed_closed_and_remembered() {
    let (broker, mut noc) = stage();
    let node = Node::register(&broker, "node-acme", 1, json!({ "os": { "family": "Debian" } }));
    let mut viewer = Stomp::login(&broker, "viewer");
    let agents = noc.get("/api/v1/sessions?kind=agent").ok();
    assert_eq!((&agents["broker"], &agents["sessions"][0]["node"]), (&json!("noc1"), &json!(node.id)));
    let all = noc.get("/api/v1/sessions?limit=1").ok();
    let rest = noc.get(&format!("/api/v1/sessions?after={}", all["next"])).ok();
    assert!(rest["sessions"].as_array().is_some_and(|list| list.len() >= 2), "{rest}");
    let of_viewer = noc.get("/api/v1/sessions?user=viewer").ok();
    let number = of_viewer["sessions"][0]["session"].as_u64().expect("a number");
    let path = format!("/api/v1/sessions/{number}");
    let closed = noc.call("DELETE", &path, &[], Some(&json!({ "reason": "go home" }))).ok();
    assert_eq!(closed, json!({ "user": "viewer" }));
    let told = viewer.error();
    assert!(told.code == "closed" && told.text.contains("go home"), "{told:?}");
    assert_eq!(noc.call("DELETE", &path, &[], Some(&json!({ "reason": "again" }))).refused(404), "no-such-session");
    let ended = until("it is remembered", || {
        let ended = noc.get("/api/v1/sessions/closed?user=viewer").ok();
        ended["closed"].as_array().is_some_and(|list| !list.is_empty()).then_some(ended)
    });
    assert!(ended["closed"][0]["reason"].as_str().is_some_and(|reason| reason.contains("go home")), "{ended}");

    // A session of this API is one like any other.
    let mut acme = Http::login(&broker, "acme");
    acme.get("/api/v1/health").ok();
    let own = until("its session is listed", || {
        let own = noc.get("/api/v1/sessions?user=acme").ok();
        own["sessions"][0]["session"].as_u64()
    });
    noc.call("DELETE", &format!("/api/v1/sessions/{own}"), &[], Some(&json!({ "reason": "x" }))).ok();
    until("the token opens another one", || (acme.get("/api/v1/health").status == 200).then_some(()));
}

#[test]
fn what_was_done_here_is_on_record_like_everything_else() {
    let (broker, mut noc) = stage();
    edit(&mut noc, json!({ "edit": "group-add-member", "group": "viewers", "user": "nobody" })).ok();
    assert_eq!(log_in(&broker, "noc", "wrong"), 401);
    let mut viewer = Http::login(&broker, "viewer");
    assert_eq!(viewer.get("/api/v1/mesh").refused(403), "denied");
    let lines = |noc: &mut Http, query: &str| -> Vec<Value> {
        noc.get(&format!("/api/v1/audit?{query}")).ok()["lines"].as_array().expect("lines").clone()
    };
    let denied = until("the refusals are written", || {
        let denied = lines(&mut noc, "decision=denied");
        (denied.len() >= 2).then_some(denied)
    });
    let of = |event: &str| {
        denied.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("no {event}: {denied:?}"))
    };
    assert_eq!((&of("login")["user"], &of("login")["reason"]), (&json!("noc"), &json!("wrong password")));
    assert!(of("login")["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{denied:?}");
    assert_eq!(of("refused")["destination"], "/muster/mesh");
    let edits = lines(&mut noc, "destination=%2Fmuster%2Fadmin.edit&user=noc");
    assert!(!edits.is_empty() && edits.iter().all(|line| line["destination"] == "/muster/admin.edit"), "{edits:?}");
    let first = noc.get("/api/v1/audit?limit=1").ok();
    let earlier = noc.get(&format!("/api/v1/audit?limit=1&before={}", first["next"])).ok();
    assert!(earlier["lines"][0]["n"].as_u64() < first["lines"][0]["n"].as_u64(), "{earlier} {first}");
    assert_eq!(noc.get("/api/v1/audit?since=yesterday").refused(400), "bad-body");
    assert_eq!(noc.get("/api/v1/audit?node=web1").refused(400), "bad-header");
    assert_eq!(viewer.get("/api/v1/audit").refused(403), "denied");
}

#[test]
fn metrics_are_shown_to_those_who_may_look() {
    let open = Setup::new().with_api().start();
    let answer = Http::dial(&open).get("/metrics");
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_str()),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    assert!(answer.text().contains("# TYPE "), "{}", answer.text());
    let closed = Setup::new().with_api().with("admin.open-to", Vec::<String>::new()).start();
    assert_eq!(Http::dial(&closed).get("/metrics").refused(401), "auth-failed");
    assert_eq!(Http::login(&closed, "viewer").get("/metrics").refused(403), "denied");
    assert_eq!(Http::login(&closed, "noc").get("/metrics").status, 200);
}

#[test]
fn whoever_has_a_scope_gets_neither_numbers_of_all_nodes_nor_the_audit_log() {
    let mut setup = Setup::new().with_api().with("admin.open-to", Vec::<String>::new());
    let entry = "[[acl]]\ndestination = \"/muster/mesh\"\nwrite = [\"noc-acme\"]\n";
    let audit = entry.replace("mesh", "admin.audit");
    setup.set_policy(&format!("{POLICY}\n{entry}\n{audit}"));
    let broker = setup.start();
    let mut acme = Http::login(&broker, "acme");
    let mesh = acme.get("/api/v1/mesh").ok();
    assert_eq!(mesh["brokers"][0].get("nodes"), None, "{mesh}");
    let refused = acme.get("/metrics");
    assert_eq!(refused.refused(403), "denied");
    assert!(refused.text().contains("the user has a scope"), "{}", refused.text());
    for open in ["/healthz", "/meshz"] {
        acme.get(open).ok();
    }
    let refused = acme.get("/api/v1/audit");
    assert_eq!(refused.refused(403), "denied");
    assert!(refused.text().contains("the audit log tells of all nodes, and acme has a scope"), "{}", refused.text());
    let lines = Http::login(&broker, "noc").get("/api/v1/audit?user=acme&decision=denied").ok();
    assert_eq!(lines["lines"].as_array().map(Vec::len), Some(1), "that it was refused is on record: {lines}");
}

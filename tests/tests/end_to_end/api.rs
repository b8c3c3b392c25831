//! Does the HTTP API do what STOMP does, with the same rights? Logins, nodes, requests, policy, probes.

use muster_tests::http::{Answer, token};
use muster_tests::policy::{PASSWORD, POLICY, with, without_user};
use muster_tests::process::{binary, run};
use muster_tests::{Broker, Http, Node, Setup, Stomp, agent::write_private, made::Family, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

fn broker() -> Broker {
    Setup::new().with_api().start()
}

fn log_in(broker: &Broker, user: &str, password: &str) -> Answer {
    Http::dial(broker).post("/api/v1/login", &json!({ "user": user, "password": password }))
}

fn nodes(broker: &Broker) -> (Node, Node) {
    let facts = |name: &str| json!({ "os": { "family": "Debian" }, "hostname": name });
    let acme = Node::register(broker, "node-acme", 1, facts("web1"));
    (acme, Node::register(broker, "node-beta", 2, facts("web2")))
}

fn ids(answer: &Value) -> BTreeSet<String> {
    let nodes = answer["nodes"].as_array().unwrap_or_else(|| panic!("no nodes: {answer}"));
    nodes.iter().map(|node| node["id"].as_str().expect("an id").to_owned()).collect()
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|id| (*id).to_owned()).collect()
}

/// The events of a request, until nothing follows.
fn events(http: &mut Http, id: &str) -> Vec<Value> {
    let answer = http.get(&format!("/api/v1/requests/{id}/events"));
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/x-ndjson"));
    let text = answer.text();
    text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("its name")).collect()
}

#[test]
fn a_password_gives_a_token_and_whatever_is_wrong_gives_one_answer() {
    let broker = Setup::new().with_api().with("log.level", "trace").start();
    let answer = log_in(&broker, "noc", PASSWORD).ok();
    let token = answer["token"].as_str().expect("a token");
    assert!(token.starts_with("mt1."));
    let expires_in = answer["expires_in"].as_u64().expect("seconds");
    assert!(answer["broker"] == "noc1" && (2_592_000 - 60..=2_592_000).contains(&expires_in), "{answer}");
    assert_eq!(Http::dial(&broker).showing(token).get("/api/v1/mesh").ok()["broker"], "noc1");
    // It is that of STOMP, and the other way round.
    let mut stomp = Stomp::dial(&broker);
    let mut connect = muster_tests::stomp::connect("noc");
    connect.headers.set("passcode", token);
    stomp.send(connect);
    stomp.connected();
    let again = log_in(&broker, "noc", token).ok();
    assert_eq!(again["token"], token, "it is far from its end");

    let mut wrong = BTreeSet::new();
    for (user, password) in [
        ("viewer", "wrong"),
        ("who-is-that", PASSWORD),
        ("gone", PASSWORD),
        ("late", PASSWORD),
        ("elsewhere", PASSWORD),
        ("node-acme", PASSWORD),
        ("acme", token),
    ] {
        let answer = log_in(&broker, user, password);
        assert_eq!(answer.refused(401), "auth-failed", "{user}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(!answer.headers.contains_key("set-cookie"));
        wrong.insert(answer.body);
    }
    assert_eq!(wrong.len(), 1, "one answer: {wrong:?}");
    for odd in
        [json!({ "user": "", "password": "x" }), json!({ "user": "a\nb", "password": "x" }), json!({ "user": "noc" })]
    {
        assert_eq!(Http::dial(&broker).post("/api/v1/login", &odd).refused(400), "bad-body", "{odd}");
    }
    let log = broker.log();
    assert!(log.contains("wrong password") && !log.contains(PASSWORD) && !log.contains("mt1."), "{log}");
}

#[test]
fn who_guesses_is_made_to_wait_and_a_token_is_not() {
    let broker = broker();
    let mut known = Http::login(&broker, "noc");
    let waits = until("a guess has to wait", || {
        let answer = log_in(&broker, "noc", "guess");
        assert!(matches!(answer.status, 401 | 429), "{answer:?}");
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(waits.refused(429), "busy");
    assert!(waits.json()["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0));
    assert!(waits.headers["retry-after"].parse::<u64>().is_ok_and(|seconds| seconds > 0));
    known.get("/api/v1/mesh").ok();
}

#[test]
fn tokens_that_are_none_open_nothing() {
    let broker = broker();
    let good = token(&broker, "noc");
    let foreign = token(&Setup::of(Family::OtherCa, "noc1").with_api().start(), "noc");
    let forged = format!("{}{}", &good[..good.len() - 4], if good.ends_with("AAAA") { "BBBB" } else { "AAAA" });
    let made_up = format!("mt1.{}", "A".repeat(200));
    let mut answers = BTreeSet::new();
    for wrong in ["", "x", PASSWORD, &forged, &foreign, &made_up, &good[..good.len() - 4], &format!("{good}A")] {
        let mut http = Http::dial(&broker).showing(wrong);
        let answer = http.get("/api/v1/mesh");
        assert_eq!(answer.refused(401), "auth-failed", "{wrong}");
        answers.insert(answer.body);
        assert!(http.ends_within(muster_tests::LIMIT), "another try costs another connection");
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    // Not a word of HTTP makes it another user's.
    for header in [("authorization", "Basic bm9jOng="), ("cookie", "token=x"), ("x-forwarded-user", "noc")] {
        assert_eq!(Http::dial(&broker).call("GET", "/api/v1/mesh", &[header], None).refused(401), "auth-failed");
    }
    let twice = format!("Bearer {good}");
    let answer = Http::dial(&broker).showing(&good).call("GET", "/api/v1/mesh", &[("authorization", &twice)], None);
    assert_eq!(answer.refused(401), "auth-failed", "two are none");
    assert_eq!(broker.count("sessions"), 0);
}

#[test]
fn a_token_that_expires_ends_with_its_session() {
    let broker = Setup::new().with_api().with("limits.token-life", "2s").start();
    let mut http = Http::login(&broker, "noc");
    http.get("/api/v1/mesh").ok();
    let mut status = 0;
    until("the token expires while it is in use", || {
        status = http.get("/api/v1/mesh").status;
        assert!(matches!(status, 200 | 401), "{status}");
        (status == 401).then_some(())
    });
}

#[test]
fn nodes_are_found_within_scope_and_without_hidden_facts() {
    let broker = broker();
    let (acme, beta) = nodes(&broker);
    let mut noc = Http::login(&broker, "noc");
    let found = noc.post("/api/v1/nodes/find", &json!({ "target": "os.family=Debian", "facts": ["customer"] })).ok();
    assert_eq!((ids(&found), &found["count"]), (set(&[&acme.id, &beta.id]), &json!(2)));
    assert!(found["nodes"][0]["display"].get("hostname").is_none(), "it is hidden: {found}");
    let first = noc.post("/api/v1/nodes/find", &json!({ "target": "all", "limit": 1 })).ok();
    let second = noc.post("/api/v1/nodes/find", &json!({ "target": "all", "limit": 1, "cursor": first["next"] })).ok();
    assert_eq!(ids(&first).union(&ids(&second)).count(), 2);
    let one = noc.post("/api/v1/nodes/find", &json!({ "target": "all", "nodes": [acme.id] })).ok();
    assert_eq!(ids(&one), set(&[&acme.id]));
    let report = noc.post("/api/v1/nodes/report", &json!({ "target": "all", "fact": "customer" })).ok();
    assert_eq!((&report["count"], report["values"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    let node = noc.get(&format!("/api/v1/nodes/{}?explain=os.family%3DDebian", acme.id)).ok();
    assert_eq!((&node["facts"]["customer"], node["explanation"].is_object()), (&json!("acmeinc"), true));
    assert!(node["facts"].get("hostname").is_none(), "{node}");
    assert_eq!(
        Http::login(&broker, "peek").get(&format!("/api/v1/nodes/{}", acme.id)).ok()["facts"]["hostname"],
        "web1"
    );

    let mut scoped = Http::login(&broker, "acme");
    let found = scoped.post("/api/v1/nodes/find", &json!({ "target": "os.family=Debian" })).ok();
    assert_eq!((ids(&found), &found["count"]), (set(&[&acme.id]), &json!(1)));
    assert_eq!(scoped.get(&format!("/api/v1/nodes/{}", beta.id)).refused(404), "no-such-node");
    assert_eq!(scoped.post("/api/v1/nodes/find", &json!({ "target": "hostname=web1" })).refused(403), "hidden-fact");
    assert_eq!(scoped.post("/api/v1/nodes/find", &json!({ "target": "os.family=" })).refused(400), "bad-filter");
    assert_eq!(scoped.post("/api/v1/nodes/find", &json!({})).refused(400), "target-required");

    let mut nobody = Http::login(&broker, "nobody");
    for (path, body) in
        [("find", json!({ "target": "all" })), ("report", json!({ "target": "all", "fact": "customer" }))]
    {
        assert_eq!(nobody.post(&format!("/api/v1/nodes/{path}"), &body).refused(403), "denied");
    }
    assert_eq!(nobody.get(&format!("/api/v1/nodes/{}", acme.id)).refused(403), "denied");
    assert_eq!(nobody.get("/api/v1/mesh").refused(403), "denied");
}

#[test]
fn a_policy_that_is_not_taken_is_an_alarm_in_health_and_metrics() {
    let broker = Setup::new().with_api().start();
    let mut noc = Http::login(&broker, "noc");
    let shown = |noc: &mut Http| noc.get("/api/v1/health").ok()["alarms"].clone();
    assert_eq!(shown(&mut noc), json!([]));
    let text = std::fs::read_to_string(broker.folder().join("policy.toml")).expect("the policy");
    broker.write_policy(&format!("{text}\n[users.eve]\n"));
    let alarm = until("the alarm", || shown(&mut noc).get(0).and_then(Value::as_str).map(str::to_owned));
    assert!(alarm.starts_with("policy: ") && alarm.contains("is not in force"), "{alarm}");
    assert!(broker.ctl("metrics").stdout.contains("muster_alarms{source=\"policy\"} 1\n"));
    broker.reload(&text);
    assert_eq!(shown(&mut noc), json!([]));
    assert!(broker.ctl("metrics").stdout.contains("muster_alarms{source=\"policy\"} 0\n"));
}

#[test]
fn health_shows_links_and_alarms_to_those_who_may_see_the_mesh() {
    let broker = broker();
    let health = Http::login(&broker, "noc").get("/api/v1/health").ok();
    assert_eq!((&health["broker"], &health["stopping"]), (&json!("noc1"), &json!(false)));
    assert!(health["links"].is_array() && health["alarms"].is_array() && health["version"].is_string(), "{health}");
    let health = Http::login(&broker, "viewer").get("/api/v1/health").ok();
    assert!(health["uptime_s"].is_u64() && health.get("links").is_none() && health.get("alarms").is_none(), "{health}");
}

#[test]
fn a_request_is_started_followed_and_accounted_for() {
    let broker = broker();
    let (mut acme, mut beta) = nodes(&broker);
    let mut noc = Http::login(&broker, "noc");
    let body = json!({
        "collective": "prod", "module": "service", "action": "status", "target": "os.family=Debian",
        "body": { "name": "nginx" }, "id": "mine-1",
    });
    let answer = noc.post("/api/v1/requests", &body);
    assert_eq!((answer.status, answer.headers["location"].as_str()), (202, "/api/v1/requests/mine-1"));
    assert_eq!(answer.json(), json!({ "id": "mine-1" }));
    let shown = noc.get("/api/v1/requests/mine-1").ok();
    assert_eq!((&shown["progress"], &shown["destination"]), (&json!("running"), &json!("/topic/prod.service.status")));
    assert_eq!(noc.post("/api/v1/requests", &body).refused(409), "duplicate-request");

    let request = acme.request();
    assert_eq!(request.headers.get("muster-caller"), Some("noc"));
    assert_eq!(muster_tests::stomp::json(&request), json!({ "name": "nginx" }));
    acme.started(&request);
    acme.reply(&request, "ok", &json!({ "state": "running" }));
    // Somebody follows from the beginning, and gets each event as it comes.
    let mut follower = Http::dial(&broker).showing(noc.token());
    follower.send("GET", "/api/v1/requests/mine-1/events", &[("accept", "text/event-stream")], None);
    let (status, headers) = follower.head().expect("an answer");
    assert_eq!((status, headers["content-type"].as_str()), (200, "text/event-stream"));
    let mut said = String::new();
    until("the first reply comes before the second is there", || {
        said.push_str(&String::from_utf8(follower.chunk().expect("more")).expect("text"));
        said.contains("event: reply").then_some(())
    });
    let failure = json!({ "error": { "code": "not-found", "text": "no unit" } });
    let request = beta.request();
    beta.reply(&request, "failed", &failure);
    while let Some(more) = follower.chunk() {
        said.push_str(&String::from_utf8(more).expect("text"));
    }
    assert!(said.starts_with("id: 1\nevent: accepted\ndata: {"), "{said}");
    assert!(said.trim_end().lines().last().is_some_and(|line| line.starts_with("data: {\"event\":\"done\"")), "{said}");

    let all = events(&mut noc, "mine-1");
    assert_eq!(names(&all), ["accepted", "started", "reply", "reply", "done"]);
    assert_eq!(
        (&all[2]["body"]["state"], &all[2]["node"], &all[2]["state"]),
        (&json!("running"), &json!(acme.id), &json!("ok"))
    );
    assert_eq!((&all[3]["body"], &all[3]["display"]["customer"]), (&failure, &json!("beta")));
    assert_eq!(all[4]["states"], json!({ "ok": 1, "failed": 1 }));
    let rest = noc.get("/api/v1/requests/mine-1/events?from=4").text();
    assert_eq!(rest.lines().count(), 2, "{rest}");
    let seen = [("last-event-id", "4"), ("accept", "text/event-stream")];
    let rest = noc.call("GET", "/api/v1/requests/mine-1/events", &seen, None).text();
    assert!(rest.starts_with("id: 5\nevent: done\n"), "{rest}");

    let shown = noc.get("/api/v1/requests/mine-1?limit=1").ok();
    assert_eq!((&shown["progress"], &shown["targets"]), (&json!("done"), &json!(2)));
    assert_eq!(shown["states"], json!({ "ok": 1, "failed": 1 }));
    let next =
        noc.get(&format!("/api/v1/requests/mine-1?after={}", shown["next"].as_str().expect("another page"))).ok();
    assert_eq!(ids(&shown).union(&ids(&next)).count(), 2);
    assert!(next.get("next").is_none());
    // It is the user's, from wherever, and nobody else's.
    Http::login(&broker, "noc").get("/api/v1/requests/mine-1").ok();
    for path in ["", "/events"] {
        let path = format!("/api/v1/requests/mine-1{path}");
        assert_eq!(Http::login(&broker, "peek").get(&path).refused(404), "no-such-request");
    }
    // One that is over can be cancelled, and nobody is told; one that never was cannot.
    let cancel = |http: &mut Http, id: &str| http.call("POST", &format!("/api/v1/requests/{id}/cancel"), &[], None);
    assert_eq!(cancel(&mut noc, "mine-1").ok(), json!({ "cancelled": 0 }));
    assert_eq!(cancel(&mut noc, "mine-2").refused(404), "no-such-request");
    assert_eq!(broker.count("requests"), 0);
}

#[test]
fn guards_rights_and_cancel_are_those_of_the_broker() {
    let broker = broker();
    let (mut acme, _beta) = nodes(&broker);
    let mut noc = Http::login(&broker, "noc");
    let ask = |http: &mut Http, more: Value| {
        let mut body = json!({ "destination": "/topic/prod.service.status", "target": "os.family=Debian" });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        http.post("/api/v1/requests", &body)
    };
    // What is decided later shows in the account.
    let answer = ask(&mut noc, json!({ "max_targets": 1, "id": "guarded" }));
    let all = if answer.status == 202 {
        events(&mut noc, "guarded")
    } else {
        vec![json!({ "event": "refused", "code": answer.refused(409), "count": answer.json()["count"] })]
    };
    let refused = all.last().expect("an event");
    assert_eq!(
        (&refused["event"], &refused["code"], &refused["count"]),
        (&json!("refused"), &json!("too-many-targets"), &json!(2))
    );
    let dry = ask(&mut noc, json!({ "dry_run": true, "id": "dry" }));
    assert_eq!(dry.status, 202, "{}", dry.text());
    assert_eq!(names(&events(&mut noc, "dry")), ["accepted", "done"]);

    let mut viewer = Http::login(&broker, "viewer");
    let restart = json!({ "destination": "/topic/prod.service.restart", "id": "again" });
    assert_eq!(ask(&mut viewer, restart.clone()).refused(403), "denied");
    assert_eq!(viewer.get("/api/v1/requests/again").refused(404), "no-such-request", "nothing became of it");
    assert_eq!(ask(&mut viewer, restart).refused(403), "denied", "and its id is free");
    assert_eq!(ask(&mut viewer, json!({ "target": "all" })).refused(403), "all-not-allowed");
    assert_eq!(
        noc.post("/api/v1/requests", &json!({ "destination": "/topic/prod.service.status" })).refused(400),
        "target-required"
    );
    assert_eq!(ask(&mut noc, json!({ "destination": "/queue/a" })).refused(501), "unsupported");
    assert_eq!(ask(&mut noc, json!({ "destination": "/topic/a b" })).refused(400), "bad-destination");
    assert_eq!(ask(&mut noc, json!({ "reply_within_ms": 0 })).refused(400), "bad-header");

    let mut scoped = Http::login(&broker, "acme");
    assert_eq!(ask(&mut scoped, json!({ "id": "scoped" })).status, 202);
    let request = acme.request();
    let shown = until("the targets are known", || {
        let shown = scoped.get("/api/v1/requests/scoped").ok();
        (shown["targets"] == 1).then_some(shown)
    });
    assert_eq!(ids(&shown), set(&[&acme.id]), "and no other");
    let cancelled = scoped.call("POST", "/api/v1/requests/scoped/cancel", &[], None).ok();
    assert_eq!(cancelled, json!({ "cancelled": 1 }));
    acme.cancel();
    acme.reply(&request, "cancelled", &Value::Null);
    let all = events(&mut scoped, "scoped");
    assert_eq!(all.last().expect("an end")["states"], json!({ "cancelled": 1 }));
}

#[test]
fn calls_of_a_token_share_one_session_that_goes_when_nobody_calls() {
    let broker = Setup::new().with_api().with("admin.idle", "400ms").start();
    let token = token(&broker, "noc");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut http = Http::dial(&broker).showing(&token);
                for _ in 0..10 {
                    http.post("/api/v1/nodes/find", &json!({ "target": "all" })).ok();
                }
            });
        }
    });
    // Each session of the broker has a number of its own: the login had one, and all of these calls another.
    let opened = broker.log().lines().filter(|line| line.contains("session opened")).count();
    assert!(opened <= 3, "{opened} sessions for one token:\n{}", broker.log());
    let mut idle = Http::dial(&broker).showing(&token);
    idle.get("/api/v1/mesh").ok();
    until("the session goes", || (broker.count("sessions") == 0).then_some(()));
    assert_eq!(broker.status()["admin"]["sessions"], 0);
    assert!(idle.ends_within(muster_tests::LIMIT), "and so does the connection");
    Http::dial(&broker).showing(&token).get("/api/v1/mesh").ok();
}

#[test]
fn a_request_under_way_keeps_its_session_and_seats_are_bounded() {
    let broker = Setup::new().with_api().with("admin.idle", "200ms").with("admin.sessions", 1).start();
    let (mut acme, _beta) = nodes(&broker);
    // One after the other may have the only seat.
    for user in ["noc", "viewer", "peek", "noc"] {
        Http::login(&broker, user).post("/api/v1/nodes/find", &json!({ "target": "all" })).ok();
    }
    let mut noc = Http::login(&broker, "noc");
    let ask = json!({ "destination": "/topic/prod.service.status", "target": "customer=acmeinc", "id": "slow" });
    assert_eq!(noc.post("/api/v1/requests", &ask).status, 202);
    let request = acme.request();
    let waiting = Http::login(&broker, "viewer").get("/api/v1/health");
    assert_eq!(waiting.refused(503), "busy");
    assert!(waiting.headers.contains_key("retry-after"));
    assert!(noc.ends_within(muster_tests::LIMIT), "the connection is idle, the request is not");
    acme.reply(&request, "ok", &json!({}));
    let mut noc = Http::dial(&broker).showing(noc.token());
    assert_eq!(events(&mut noc, "slow").last().expect("an end")["states"], json!({ "ok": 1 }));
}

#[test]
fn a_request_whose_session_is_over_goes_on_and_its_cancel_says_so() {
    let broker = broker();
    let (mut acme, _beta) = nodes(&broker);
    let mut first = Http::login(&broker, "noc");
    let ask = json!({ "destination": "/topic/prod.service.status", "target": "os.family=Debian", "id": "left" });
    assert_eq!(first.post("/api/v1/requests", &ask).status, 202);
    acme.request();
    assert!(first.call("POST", "/api/v1/logout", &[], None).status < 300);
    let mut second = Http::login(&broker, "noc");
    until("the account ends", || (second.get("/api/v1/requests/left").ok()["progress"] == "abandoned").then_some(()));
    let cancelled = second.call("POST", "/api/v1/requests/left/cancel", &[], None);
    assert_eq!(cancelled.refused(410), "gone");
    let described = second.get("/api/v1/openapi.json").ok();
    assert!(described["paths"]["/api/v1/requests/{id}/cancel"]["post"]["responses"]["410"].is_object());
}

/// Refused by the session that the policy has just ended, or at the door.
fn is_out(http: &mut Http) -> bool {
    matches!(http.get("/api/v1/mesh").refused(401).as_str(), "revoked" | "auth-failed")
}

#[test]
fn whoever_is_revoked_is_out_at_once() {
    let broker = broker();
    let (_acme, _beta) = nodes(&broker);
    let mut viewer = Http::login(&broker, "viewer");
    viewer.get("/api/v1/health").ok();
    let ask = json!({ "destination": "/topic/prod.service.status", "target": "os.family=Debian", "id": "long" });
    assert_eq!(viewer.post("/api/v1/requests", &ask).status, 202);
    let mut follower = Http::dial(&broker).showing(viewer.token());
    follower.send("GET", "/api/v1/requests/long/events", &[], None);
    assert_eq!(follower.head().expect("an answer").0, 200);
    broker.reload(&without_user("viewer"));
    let mut said = String::new();
    while let Some(more) = follower.chunk() {
        said.push_str(&String::from_utf8(more).expect("text"));
    }
    let last: Value = serde_json::from_str(said.lines().last().expect("an event")).expect("JSON");
    assert_eq!((&last["event"], &last["code"]), (&json!("abandoned"), &json!("revoked")), "{said}");
    assert_eq!(viewer.get("/api/v1/health").refused(401), "auth-failed");

    // A narrowed right holds for the next call of a session that stays.
    let mut peek = Http::login(&broker, "peek");
    peek.get("/api/v1/mesh").ok();
    broker.reload(&with(
        "destination = \"/muster/mesh\"\nwrite = [\"noc\"]",
        "destination = \"/muster/mesh\"\nwrite = [\"viewers\"]",
    ));
    assert_eq!(peek.get("/api/v1/mesh").refused(403), "denied");
    // Tokens die with `revoked-before` and with the password, also where their session is in use.
    broker.reload(POLICY);
    peek.get("/api/v1/mesh").ok();
    let head = "[users.peek]\nkind = \"operator\"\n";
    broker.reload(&with(head, &format!("{head}revoked-before = 2999-01-01\n")));
    assert!(is_out(&mut peek));
    broker.reload(POLICY);
    let mut peek = Http::login(&broker, "peek");
    peek.get("/api/v1/mesh").ok();
    let folder = tempfile::tempdir().expect("a folder");
    write_private(&folder.path().join("password"), PASSWORD);
    let other = run(Command::new(binary("musterd")).arg("passwd").arg("--file").arg(folder.path().join("password")));
    broker.reload(&with(
        &format!("{head}password = \"{{phc}}\""),
        &format!("{head}password = \"{}\"", other.stdout.trim()),
    ));
    assert!(is_out(&mut peek));
}

#[test]
fn logging_out_ends_the_session_and_not_the_token() {
    let broker = broker();
    let mut noc = Http::login(&broker, "noc");
    noc.get("/api/v1/mesh").ok();
    assert_eq!(broker.count("sessions"), 1);
    let answer = noc.call("POST", "/api/v1/logout", &[], None);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    until("the session is over", || (broker.count("sessions") == 0).then_some(()));
    noc.get("/api/v1/mesh").ok();
    assert_eq!(Http::dial(&broker).call("POST", "/api/v1/logout", &[], None).refused(401), "auth-failed");
}

#[test]
fn limits_of_sessions_hold_here_too() {
    let broker = Setup::new().with_api().with("limits.sessions-per-user", 1).start();
    let mut http = Http::login(&broker, "noc");
    let stomp = until("the session of the login is over", || {
        let mut stomp = Stomp::dial(&broker);
        stomp.send(muster_tests::stomp::connect("noc"));
        (stomp.frame().command == muster_protocol::frame::Command::Connected).then_some(stomp)
    });
    let answer = http.get("/api/v1/mesh");
    assert_eq!(answer.refused(429), "limit");
    stomp.cut();
    let token = http.token().to_owned();
    until("there is room again", || {
        let status = Http::dial(&broker).showing(&token).get("/api/v1/mesh").status;
        (status == 200).then_some(())
    });
}

#[test]
fn the_policy_is_explained_compared_and_looked_through() {
    let broker = broker();
    let mut noc = Http::login(&broker, "noc");
    let question = json!({ "user": "viewer", "right": "write", "destination": "/topic/prod.service.restart" });
    assert_eq!(noc.post("/api/v1/policy/explain", &question).ok()["allowed"], false);
    let proposed = without_user("viewer").replace("{phc}", muster_tests::broker::phc());
    let diff = noc.post("/api/v1/policy/diff", &json!({ "policy": proposed })).ok();
    assert_eq!((&diff["changes"][0]["name"], &diff["changes"][0]["how"]), (&json!("viewer"), &json!("removed")));
    assert_eq!(noc.post("/api/v1/policy/diff", &json!({ "policy": "[users" })).refused(400), "bad-body");
    assert!(noc.post("/api/v1/policy/lint", &json!({})).ok()["findings"].is_array());
    let mut viewer = Http::login(&broker, "viewer");
    assert_eq!(viewer.post("/api/v1/policy/explain", &question).refused(403), "denied");
    assert_eq!(viewer.post("/api/v1/policy/lint", &json!({})).refused(403), "denied");
    for (method, path) in [
        ("GET", "/api/v1/policy/users"),
        ("GET", "/api/v1/policy/acl/%2Ftopic%2Fprod.%3E"),
        ("GET", "/api/v1/policy/history"),
        ("GET", "/api/v1/policy/history/1.1"),
        ("GET", "/api/v1/policy/authority"),
        ("DELETE", "/api/v1/policy/users/noc"),
        ("PUT", "/api/v1/policy/groups/noc/members/viewer"),
        ("GET", "/api/v1/sessions"),
        ("GET", "/api/v1/sessions/closed"),
        ("GET", "/api/v1/audit"),
    ] {
        assert_eq!(viewer.call(method, path, &[], None).refused(403), "denied", "{method} {path}");
    }
    for (method, path, body) in [
        ("POST", "/api/v1/policy/edit", json!({ "edit": { "edit": "user-remove", "name": "noc" } })),
        ("POST", "/api/v1/policy/revert", json!({ "to": "1.1" })),
        ("POST", "/api/v1/policy/take", json!({})),
        ("PUT", "/api/v1/policy/users/eve", json!({ "kind": "operator", "new_password": "secret" })),
        ("PUT", "/api/v1/policy/groups/noc", json!({ "all": true })),
        ("DELETE", "/api/v1/sessions/1", json!({ "reason": "why not" })),
    ] {
        assert_eq!(viewer.call(method, path, &[], Some(&body)).refused(403), "denied", "{method} {path}");
    }
}

#[test]
fn probes_are_open_to_the_networks_that_may_look_and_to_nobody_else() {
    let open = broker();
    let mut http = Http::dial(&open);
    assert_eq!(http.get("/healthz").ok(), json!({ "status": "ok" }));
    assert_eq!(http.get("/readyz").ok(), json!({ "status": "ready" }));
    let (_acme, _beta) = nodes(&open);
    let mesh = http.get("/meshz").ok();
    assert_eq!((&mesh["broker"], mesh["brokers"][0].get("nodes")), (&json!("noc1"), None));
    assert_eq!(http.get("/api/v1/mesh").refused(401), "auth-failed", "and nothing else is open");

    let closed = Setup::new().with_api().with("admin.open-to", vec!["192.0.2.0/24"]).start();
    for path in ["/healthz", "/readyz", "/meshz"] {
        assert_eq!(Http::dial(&closed).get(path).refused(401), "auth-failed", "{path}");
        assert_eq!(Http::login(&closed, "viewer").get(path).refused(403), "denied", "{path}");
        Http::login(&closed, "noc").get(path).ok();
    }
}

#[test]
fn a_broker_that_stops_says_so_and_ends() {
    let mut broker = broker();
    let mut http = Http::login(&broker, "noc");
    http.get("/readyz").ok();
    // A client that does not hang up keeps it for a moment.
    let _slow = Stomp::login(&broker, "noc");
    broker.signal(Signal::TERM);
    let answer = until("it is not ready any more", || Some(http.get("/readyz")).filter(|answer| answer.status != 200));
    assert_eq!(answer.refused(503), "draining");
    let status = http.try_answer_to("/api/v1/mesh").map(|answer| answer.status);
    assert!(matches!(status, None | Some(401 | 503)), "{status:?}");
    assert!(broker.wait().success());
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

#[test]
fn the_document_is_open_and_names_what_is_there() {
    let broker = broker();
    let document = Http::dial(&broker).get("/api/v1/openapi.json").ok();
    assert_eq!(document["openapi"], "3.1.0");
    let mut http = Http::login(&broker, "nobody");
    for (path, methods) in document["paths"].as_object().expect("paths") {
        // With some name in it every path leads somewhere, with a method that it lists.
        let real =
            path.split('/').map(|part| if part.starts_with('{') { "1.1" } else { part }).collect::<Vec<_>>().join("/");
        for method in methods.as_object().expect("methods").keys() {
            let answer = http.call(&method.to_uppercase(), &real, &[], None);
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(answer.status != 404 || answer.json()["code"] != "no-such-path", "{method} {path}");
            if answer.status == 401 || path.ends_with("logout") {
                http = Http::login(&broker, "nobody");
            }
        }
    }
}

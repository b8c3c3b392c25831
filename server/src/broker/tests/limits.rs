//! Do the limits of groups hold before anything is sent, for all sessions of a user, and at once after a reload?

use super::*;

fn limited(limits: &str) -> Arc<Policy> {
    policy(&POLICY.replace("[groups.noc-acme]\n", &format!("[groups.noc-acme]\n{limits}\n")))
}

fn house(limits: &str) -> House {
    House::of("noc1", limited(limits))
}

impl House {
    /// A request under this id, and the first that comes of it.
    fn ask(&mut self, session: u64, id: &str, more: &[(&str, &str)]) -> Got {
        let mut frame = send("/topic/prod.node.ping").header("muster-request", id).header("reply-to", "/temp-queue/me");
        for (name, value) in more {
            frame = frame.header(name, value);
        }
        if !more.iter().any(|(name, _)| *name == "muster-target") {
            frame = frame.header("muster-target", "customer=acmeinc");
        }
        self.frame(session, frame.with_body("{}"));
        self.take(session).remove(0)
    }

    fn admin(&mut self, session: u64, what: &str, body: Value) -> Got {
        self.query(session, &format!("admin.{what}"), "", body)
    }
}

#[test]
fn more_targets_than_the_group_may_have_are_refused_and_nobody_is_asked() {
    let mut house = house("max-targets = 2");
    let agents: Vec<u64> = (1..4).map(|number| house.agent("node-acme", number, json!({ "n": number }))).collect();
    let acme = house.open("acme");
    for more in
        [&[][..], &[("muster-dry-run", "true")], &[("muster-allow-partial", "true")], &[("muster-max-targets", "9")]]
    {
        let refused = house.ask(acme, "r1", more);
        assert_eq!((refused.event(), refused.header("muster-code")), ("refused", "too-many-targets"), "{more:?}");
        assert_eq!(refused.header("muster-count"), "3");
        assert!(refused.header("message").contains("max-targets of the group noc-acme is 2"), "{refused:?}");
    }
    assert!(agents.iter().all(|agent| house.take(*agent).is_empty()));
    let own = house.ask(acme, "r1", &[("muster-max-targets", "1"), ("muster-target", "n<3")]);
    assert!(own.header("message").contains("at most 1 are allowed"), "the caller's own guard holds too: {own:?}");
    let fine = house.ask(acme, "r1", &[("muster-target", "n<3")]);
    assert_eq!((fine.event(), fine.header("muster-count")), ("accepted", "2"));
    assert_eq!((house.take(agents[0]).len(), house.take(agents[2]).len()), (1, 0));
    // Another group, another user.
    let noc = house.open("noc");
    assert_eq!(house.ask(noc, "r1", &[]).header("muster-count"), "3");
    house.enforce(limited("max-targets = 3"));
    assert_eq!(house.ask(acme, "r2", &[]).event(), "accepted", "a reload holds at once");
}

#[test]
fn what_cannot_be_counted_is_refused_where_targets_are_limited() {
    let mut house = house("max-targets = 2");
    let agent = house.agent("node-acme", 1, json!({}));
    let acme = house.open("acme");
    house.frame(acme, send("/topic/prod.node.ping").header("muster-target", "customer=acmeinc"));
    let error = house.take(acme).remove(0);
    assert_eq!((error.command, error.header("muster-code")), ("ERROR", "limit"));
    assert!(error.header("message").contains("give muster-request"), "{error:?}");
    assert!(house.take(agent).is_empty());
}

#[test]
fn requests_a_minute_are_counted_by_user_and_the_refusal_says_when_to_try_again() {
    let mut house = house("requests-per-minute = 2");
    let (one, two) = (house.open("acme"), house.open("acme"));
    assert_eq!(house.ask(one, "r1", &[]).event(), "accepted");
    assert_eq!(house.ask(two, "r2", &[]).event(), "accepted");
    house.take(one);
    house.take(two);
    let refused = house.ask(one, "r3", &[]);
    assert_eq!((refused.header("muster-code"), refused.header("muster-retry-after")), ("limit", "30000"));
    let text = refused.header("message");
    assert!(text.contains("requests-per-minute of the group noc-acme is 2; try again in 30 s"), "{text}");
    // Neither another session nor a new one brings tokens.
    assert_eq!(house.ask(two, "r3", &[]).header("muster-code"), "limit");
    house.close(one);
    let three = house.open("acme");
    assert_eq!(house.ask(three, "r3", &[]).header("muster-code"), "limit");
    let noc = house.open("noc");
    assert_eq!(house.ask(noc, "r3", &[]).event(), "accepted", "others are not limited");
    house.pass(29_999);
    assert_eq!(house.ask(three, "r3", &[]).header("muster-retry-after"), "1");
    house.pass(1);
    assert_eq!(house.ask(three, "r3", &[]).event(), "accepted");
    house.take(three);
    assert_eq!(house.ask(three, "r4", &[]).header("muster-code"), "limit");
    house.enforce(limited("requests-per-minute = 600"));
    assert_eq!(house.ask(three, "r4", &[]).header("muster-retry-after"), "100", "the new pace holds at once");
    house.enforce(limited(""));
    assert_eq!(house.ask(three, "r4", &[]).event(), "accepted");
}

#[test]
fn requests_under_way_are_counted_over_all_sessions_of_the_user() {
    let mut house = house("in-flight = 1");
    let agent = house.agent("node-acme", 1, json!({}));
    let (one, two) = (house.open("acme"), house.open("acme"));
    assert_eq!(house.ask(one, "r1", &[]).event(), "accepted");
    let asked = house.take(agent).remove(0);
    let refused = house.ask(two, "r2", &[]);
    assert_eq!((refused.event(), refused.header("muster-code")), ("refused", "limit"));
    assert!(refused.header("message").contains("in-flight of the group noc-acme is 1"), "{refused:?}");
    house.answer(agent, &asked, "ok", "{}");
    assert_eq!(house.ask(two, "r2", &[]).event(), "accepted", "the first has ended");
    house.close(two);
    assert_eq!(house.ask(one, "r3", &[("muster-max-targets", "0")]).event(), "reply", "what was waiting");
    assert_eq!(house.ask(one, "r4", &[]).event(), "accepted", "neither who left nor what was refused counts");
}

#[test]
fn sessions_are_limited_and_a_reload_changes_that_at_once() {
    let mut house = house("sessions = 1");
    let one = house.open("acme");
    let second = house.open_with("acme", None, 1000);
    let refused = house.take(second).remove(0);
    assert_eq!((refused.command, refused.header("muster-code")), ("ERROR", "limit"));
    let text = refused.header("message");
    assert!(text.contains("acme has 1 sessions at this broker, sessions of the group noc-acme is 1"), "{text}");
    house.open("noc");
    house.enforce(limited("sessions = 2"));
    house.open("acme");
    house.enforce(limited("sessions = 1"));
    assert_eq!(house.ask(one, "r1", &[]).event(), "accepted", "who is in, stays");
    let third = house.open_with("acme", None, 1000);
    assert_eq!(house.take(third)[0].header("muster-code"), "limit");
}

#[test]
fn a_node_that_reconnects_is_not_kept_out_by_its_own_half_open_session() {
    let text = POLICY.replace("[groups.agents]\n", "[groups.agents]\nsessions = 1\n");
    for (what, of_broker) in [("of the group", 0), ("of the broker", 1)] {
        let mut house = House::of("noc1", policy(if of_broker == 0 { &text } else { POLICY }));
        house.broker.settings.sessions_per_user = of_broker;
        let older = house.connect("node-acme", 1, 1);
        house.take(older);
        let newer = house.connect("node-acme", 1, 2);
        assert_eq!(house.take(older)[0].header("muster-code"), "moved", "{what}");
        assert_eq!(house.take(newer)[0].command, "CONNECTED", "{what}");
        let hello = |number: u8, session: u64| Some(NodeHello { id: node_id(number), number: session, clock_skew: 0 });
        let stale = house.open_with("node-acme", hello(1, 1), 1000);
        assert_eq!(house.take(stale)[0].header("muster-code"), "moved", "{what}: not taken for one too many");
        let other = house.open_with("node-acme", hello(2, 1), 1000);
        assert_eq!(house.take(other)[0].header("muster-code"), "limit", "{what}");
        assert!(house.take(newer).is_empty(), "{what}: who was refused has closed nobody");
    }
}

#[test]
fn networks_and_expiry_hold_after_a_reload() {
    let mut house = House::new();
    let with = |field: &str| policy(&POLICY.replace("[users.acme]\n", &format!("[users.acme]\n{field}\n")));
    for field in ["networks = [\"192.0.2.0/24\"]", "expires = 2021-01-01"] {
        let acme = house.open("acme");
        house.enforce(with(field));
        assert_eq!(house.take(acme)[0].header("muster-code"), "revoked", "{field}");
        let again = house.open_with("acme", None, 1000);
        assert_eq!(house.take(again)[0].header("muster-code"), "auth-failed", "{field}");
        house.enforce(policy(POLICY));
    }
    // The house's time is 2023-11-14T22:13:20Z and some.
    let acme = house.open("acme");
    house.enforce(with("expires = 2023-11-14T22:13:21Z"));
    assert!(house.take(acme).is_empty());
    house.pass(1_000);
    assert_eq!(house.take(acme)[0].header("muster-code"), "revoked", "an end that a reload brings comes");
    let elsewhere = house.open_with("acme", None, 1000);
    assert_eq!(house.take(elsewhere)[0].header("muster-code"), "auth-failed");
}

#[test]
fn explain_says_limits_reach_and_hidden_facts() {
    let mut house = house("max-targets = 2\nsessions = 9");
    for number in 1..4 {
        house.agent("node-acme", number, json!({ "n": number }));
    }
    house.agent("node-globex", 9, json!({ "n": 1 }));
    let noc = house.open("noc");
    let ask = |filter: &str| json!({ "user": "acme", "right": "write", "destination": "/topic/prod.node.ping", "filter": filter });
    let answer = house.admin(noc, "explain", ask("n<3")).json();
    assert_eq!((&answer["allowed"], &answer["all"]), (&json!(true), &json!(false)), "{answer}");
    assert_eq!(answer["reached"], json!({ "nodes": 2 }), "globex is outside the scope: {answer}");
    let limits = json!([
        { "limit": "max-targets", "most": 2, "group": "noc-acme" },
        { "limit": "sessions", "most": 9, "group": "noc-acme" },
    ]);
    assert_eq!(answer["limits"], limits, "{answer}");
    let many = house.admin(noc, "explain", ask("n<9")).json();
    assert_eq!((&many["allowed"], &many["reached"]["nodes"]), (&json!(false), &json!(3)), "{many}");
    assert!(many["text"].as_str().is_some_and(|text| text.contains("too-many-targets")), "{many}");
    // Nobody learns by explain what they could not find: neither hidden facts nor nodes outside their own scope.
    assert_eq!(house.admin(noc, "explain", ask("hostname=web1")).header("muster-code"), "hidden-fact");
    let of_noc = json!({ "user": "noc", "right": "write", "destination": "/topic/prod.node.ping", "filter": "n=1" });
    let acme = house.open("acme");
    assert_eq!(house.admin(acme, "explain", of_noc.clone()).json()["reached"]["nodes"], 1);
    assert_eq!(house.admin(noc, "explain", of_noc).json()["reached"]["nodes"], 2);
    house.enforce(policy(&POLICY.replace("[groups.noc]\n", "[groups.noc]\nshows = [\"**\"]\n")));
    let hidden = house.admin(noc, "explain", ask("hostname=web1")).json();
    assert_eq!((&hidden["allowed"], &hidden["hidden"]), (&json!(false), &json!("hostname")), "{hidden}");
    assert!(hidden.get("reached").is_none(), "{hidden}");
    for (right, destination, filter, code) in [
        ("read", "/topic/prod.node.ping", "n=1", "bad-body"),
        ("write", "/muster/find", "n=1", "bad-body"),
        ("write", "/topic/prod.node.ping", "n=", "bad-filter"),
    ] {
        let query = json!({ "user": "acme", "right": right, "destination": destination, "filter": filter });
        assert_eq!(house.admin(noc, "explain", query).header("muster-code"), code, "{right} {destination} {filter}");
    }
}

#[test]
fn diff_and_lint_answer_who_may_ask_and_change_nothing() {
    let mut house = House::new();
    let noc = house.open("noc");
    let text = POLICY.replace("PHC", PHC);
    let same = house.admin(noc, "diff", json!({ "policy": text })).json();
    assert_eq!(same, json!({ "changes": [], "rights": [] }));
    let without = text.replace("[\"noc\", \"noc-acme\"]", "[\"noc\"]");
    let diff = house.admin(noc, "diff", json!({ "policy": without }));
    let taken = json!({ "user": "acme", "granted": false, "right": "write", "pattern": "/topic/prod.*.*" });
    assert!(diff.json()["rights"].as_array().is_some_and(|rights| rights.contains(&taken)), "{diff:?}");
    assert!(!diff.body.contains("argon2id"));
    let lint = house.admin(noc, "lint", json!({})).json();
    let has = |lint: &Value, what: &str| {
        lint["findings"]
            .as_array()
            .is_some_and(|list| list.iter().any(|it| it["what"].as_str().is_some_and(|text| text.contains(what))))
    };
    assert!(!has(&lint, "no user is in the group idle"), "{lint}");
    let idle = house.admin(noc, "lint", json!({ "policy": format!("{text}[groups.idle]\n") })).json();
    assert!(has(&idle, "no user is in the group idle"), "{idle}");
    for what in ["diff", "lint"] {
        let bad = house.admin(noc, what, json!({ "policy": "\n[groups.a]\nsessions = 0\n" }));
        assert_eq!(bad.header("muster-code"), "bad-body", "{bad:?}");
        assert!(bad.header("message").starts_with("the policy: line 3, column"), "{bad:?}");
    }
    assert_eq!(house.admin(noc, "diff", json!({})).header("muster-code"), "bad-body");
    assert_eq!(house.admin(noc, "diff", json!({ "policy": text })).json(), json!({ "changes": [], "rights": [] }));
    // Without the right nobody is told anything.
    house.enforce(policy(&POLICY.replace("\"/muster/>\"", "\"/muster/find\"")));
    for (what, body) in [("diff", json!({ "policy": "" })), ("lint", json!({})), ("lint", json!({ "policy": "" }))] {
        let refused = house.admin(noc, what, body);
        assert_eq!((refused.event(), refused.header("muster-code")), ("refused", "denied"), "{what}");
    }
}

//! What do admins see of sessions, page by page, and what becomes of one that they close?

use super::*;
use muster_protocol::admin::{SessionShown, SessionsAnswer};
use muster_protocol::message::header;
use std::collections::BTreeSet;

fn sessions(house: &mut House, asker: u64, query: Value) -> SessionsAnswer {
    let got = house.query(asker, "admin.sessions", "", query);
    assert_eq!(got.event(), "answer", "{got:?}");
    serde_json::from_value(got.json()).expect("sessions")
}

/// All pages, each of this size; the sessions or the closed ones by number, in the order in which they came.
fn pages(house: &mut House, asker: u64, mut query: Value, limit: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    query["limit"] = json!(limit);
    loop {
        let page = sessions(house, asker, query.clone());
        let more: Vec<u64> = if query["closed"] == json!(true) {
            page.closed.iter().map(|closed| closed.session).collect()
        } else {
            page.sessions.iter().map(|session| session.session).collect()
        };
        let (count, is_last) = (more.len(), page.next.is_none());
        assert!(count <= limit && (is_last || count == limit), "{count} of {limit}, next {:?}", page.next);
        numbers.extend(more);
        match page.next {
            Some(next) => query["after"] = json!(next),
            None => return numbers,
        }
    }
}

fn close_by(house: &mut House, asker: u64, session: u64, reason: &str) -> Got {
    house.query(asker, "admin.close", "", json!({ "session": session, "reason": reason }))
}

fn shown(house: &mut House, asker: u64, number: u64) -> SessionShown {
    let all = sessions(house, asker, json!({})).sessions;
    all.into_iter().find(|session| session.session == number).expect("it is shown")
}

#[test]
fn every_session_is_shown_with_who_where_since_when_and_what_waits() {
    let mut house = House::new();
    let noc = house.open("noc");
    house.pass(5_000);
    let agent = house.agent("node-acme", 1, json!({ "os": { "family": "Debian" }, "hostname": "web1" }));
    let one = shown(&mut house, noc, agent);
    assert_eq!((one.user.as_str(), one.kind.as_str(), one.address.as_str()), ("node-acme", "agent", "127.0.0.1:1"));
    assert_eq!((one.node, one.since), (Some(node_id(1).to_string()), 1_700_000_005_000));
    assert_eq!(
        Value::Object(one.display),
        json!({ "customer": "acmeinc", "os.family": "Debian" }),
        "hostname is hidden"
    );
    assert_eq!((one.subscriptions, one.backlog), (2, 0));
    house.request(noc, "/topic/prod.service.status", "os.family=Debian", &[]);
    house.take(noc);
    assert!(shown(&mut house, noc, agent).backlog > 0, "it has not read the request");
    let own = shown(&mut house, noc, noc);
    assert_eq!((own.user.as_str(), own.kind.as_str(), own.node), ("noc", "operator", None));
    assert!(own.display.is_empty());
    assert_eq!(sessions(&mut house, noc, json!({})).broker, "noc1");
}

#[test]
fn pages_are_exact_whatever_is_filtered() {
    let mut house = House::new();
    let noc = house.open("noc");
    let agents: Vec<u64> = (0..700).map(|number| house.many(number)).collect();
    let acme = house.open("acme");
    let all: Vec<u64> = [noc].into_iter().chain(agents.iter().copied()).chain([acme]).collect();
    for limit in [1, 7, 100, 256, 701, 702, 703, 1_000] {
        assert_eq!(pages(&mut house, noc, json!({}), limit), all, "{limit} to a page");
    }
    assert_eq!(pages(&mut house, noc, json!({ "kind": "operator" }), 1), [noc, acme]);
    assert_eq!(pages(&mut house, noc, json!({ "user": "acme" }), 10), [acme]);
    assert_eq!(pages(&mut house, noc, json!({ "user": "node-acme", "kind": "agent" }), 700), agents);
    assert_eq!(pages(&mut house, noc, json!({ "user": "nobody" }), 10), [0; 0]);
    assert_eq!(pages(&mut house, noc, json!({ "kind": "service" }), 10), [0; 0]);
    assert_eq!(sessions(&mut house, noc, json!({})).sessions.len(), 100, "unless told");
    assert_eq!(sessions(&mut house, noc, json!({ "limit": 0 })).sessions.len(), 1, "at least one");
    assert_eq!(sessions(&mut house, noc, json!({ "limit": 4_000_000_000_u32, "after": noc })).sessions.len(), 701);
    assert!(sessions(&mut house, noc, json!({ "after": u64::MAX })).sessions.is_empty());
    let refused = house.query(noc, "admin.sessions", "", json!({ "kind": "robot" }));
    assert_eq!((refused.event(), refused.header("muster-code")), ("refused", "bad-body"));
    assert!(refused.header("message").contains("agent, operator, service"), "{refused:?}");
}

#[test]
fn a_page_ends_before_it_is_too_large_for_a_frame() {
    let mut house = House::new();
    let noc = house.open("noc");
    for number in 0..1_000 {
        let session = house.many(number);
        house.register(session, json!({ "os": { "family": format!("{number}{}", "x".repeat(2_000)) } }));
        house.take(session);
    }
    let first = sessions(&mut house, noc, json!({ "limit": 1_000 }));
    assert!(first.next.is_some() && first.sessions.len() > 100, "{} of 1001", first.sessions.len());
    let (mut after, mut seen) = (first.next, first.sessions.len());
    while let Some(next) = after {
        let page = sessions(&mut house, noc, json!({ "limit": 1_000, "after": next }));
        assert!(serde_json::to_vec(&page).expect("JSON").len() < 300 * 1024);
        (after, seen) = (page.next, seen + page.sessions.len());
    }
    assert_eq!(seen, 1_001);
}

#[test]
fn a_list_of_many_sessions_takes_turns() {
    let mut house = House::new();
    for number in 0..3_000 {
        house.many(number);
    }
    let (noc, other) = (house.open("noc"), house.open("noc"));
    let ask = send("/muster/admin.sessions").header("muster-request", "q").header("reply-to", "/temp-queue/me");
    let input = house.outboxes.get_mut(&noc).expect("noc").1.input(ask.with_body(r#"{"user":"acme"}"#), 0);
    house.handle_once(Event::Inputs { session: SessionId(noc), inputs: vec![input], ticket: Ticket(None) });
    assert!(house.take(noc).iter().all(|got| got.command == "RECEIPT"), "it goes on");
    let ping = send("/muster/mesh").header("muster-request", "m").header("reply-to", "/temp-queue/me");
    let input = house.outboxes.get_mut(&other).expect("other").1.input(ping.with_body("{}"), 0);
    house.handle_once(Event::Inputs { session: SessionId(other), inputs: vec![input], ticket: Ticket(None) });
    assert_eq!(house.events(other), ["answer"], "nobody waits for the list");
    while house.broker.next_deadline(house.time()).is_some_and(|at| at <= house.now) {
        house.handle_once(Event::Wake);
    }
    let answer = house.take(noc).remove(0).json();
    assert_eq!(answer, json!({ "broker": "noc1" }), "nobody of that name");
}

#[test]
fn a_scope_hides_the_sessions_of_other_nodes_and_how_many_there_are() {
    let mut house = House::new();
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    let own: Vec<u64> = (1..=3).map(|number| house.agent("node-acme", number, json!({}))).collect();
    let before = sessions(&mut house, acme, json!({ "limit": 4 }));
    let foreign: Vec<u64> = (11..=40).map(|number| house.agent("node-globex", number, json!({}))).collect();
    let registering = house.connect("node-acme", 50, 1);
    house.take(registering);
    let last = house.agent("node-acme", 51, json!({}));
    let visible: Vec<u64> = [noc, acme].into_iter().chain(own.iter().copied()).chain([last]).collect();
    for limit in [1, 2, 5, 100] {
        assert_eq!(pages(&mut house, acme, json!({}), limit), visible);
    }
    assert_eq!(sessions(&mut house, acme, json!({ "limit": 4 })).sessions.len(), before.sessions.len());
    assert_eq!(pages(&mut house, acme, json!({ "kind": "agent" }), 2).len(), own.len() + 1);
    assert_eq!(pages(&mut house, acme, json!({ "user": "node-globex" }), 2), [0; 0]);
    let everything = pages(&mut house, noc, json!({}), 10);
    assert!(everything.contains(&registering) && everything.contains(&foreign[0]));
    for hidden in [foreign[0], registering] {
        let refused = close_by(&mut house, acme, hidden, "go away");
        let unknown = close_by(&mut house, acme, 9_999, "go away");
        assert_eq!((refused.event(), refused.header("muster-code")), ("refused", "no-such-session"));
        assert_eq!(
            refused.header("message").replace(&hidden.to_string(), "N"),
            unknown.header("message").replace("9999", "N"),
            "a session that is hidden and one that is not there look the same"
        );
    }
    assert!(house.take(foreign[0]).is_empty() && house.take(registering).is_empty(), "nothing was closed");
}

#[test]
fn sessions_that_are_over_are_remembered_with_their_end_within_the_scope() {
    let mut house = House::new();
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    let ours = house.agent("node-acme", 1, json!({}));
    let foreign = house.agent("node-globex", 2, json!({}));
    let unregistered = house.connect("node-acme", 3, 1);
    let guest = house.open("noc");
    house.pass(1_000);
    for session in [ours, foreign, unregistered] {
        house.close(session);
    }
    house.frame(guest, Frame::new(Command::Disconnect));
    let closed = sessions(&mut house, noc, json!({ "closed": true }));
    let numbers: Vec<u64> = closed.closed.iter().map(|one| one.session).collect();
    assert_eq!((numbers, closed.next), (vec![guest, unregistered, foreign, ours], None), "the newest first");
    let (first, last) = (&closed.closed[0], &closed.closed[3]);
    assert_eq!((first.user.as_str(), first.reason.as_str(), &first.node), ("noc", "clean", &None));
    assert_eq!((last.user.as_str(), last.reason.as_str()), ("node-acme", "connection closed"));
    assert_eq!((last.since, last.until), (1_700_000_000_000, 1_700_000_001_000));
    assert_eq!((last.address.as_str(), &last.node), ("127.0.0.1:1", &Some(node_id(1).to_string())));
    assert_eq!(pages(&mut house, noc, json!({ "closed": true }), 3), [guest, unregistered, foreign, ours]);
    assert_eq!(pages(&mut house, noc, json!({ "closed": true, "kind": "operator" }), 1), [guest]);
    assert_eq!(pages(&mut house, noc, json!({ "closed": true, "user": "node-acme" }), 1), [unregistered, ours]);

    for limit in [1, 2, 3] {
        assert_eq!(pages(&mut house, acme, json!({ "closed": true }), limit), [guest, ours]);
    }
    // A page that is to begin after one that is hidden is the page after one that never was.
    let after = |house: &mut House, number| sessions(house, acme, json!({ "closed": true, "after": number })).closed;
    assert!(after(&mut house, foreign).is_empty() && after(&mut house, 9_999).is_empty());
    assert_eq!(after(&mut house, guest).len(), 1);

    // The node comes back as another customer's: what was is shown no more.
    let again = house.connect("node-globex", 1, 2);
    house.register(again, json!({}));
    assert_eq!(pages(&mut house, acme, json!({ "closed": true }), 5), [guest]);
    assert_eq!(pages(&mut house, noc, json!({ "closed": true }), 5).len(), 4);
}

#[test]
fn the_last_thousand_are_remembered_and_a_page_that_fell_out_is_the_end() {
    let mut house = House::new();
    let noc = house.open("noc");
    let mut closed = Vec::new();
    for _ in 0..1_100 {
        let session = house.open_with("acme", None, 1 << 16);
        house.close(session);
        closed.push(session);
    }
    let kept: Vec<u64> = closed.iter().rev().take(1_000).copied().collect();
    assert_eq!(pages(&mut house, noc, json!({ "closed": true }), 300), kept);
    let page = sessions(&mut house, noc, json!({ "closed": true, "after": closed[99] }));
    assert!(page.closed.is_empty() && page.next.is_none(), "it is forgotten, and so is all before it");
    let unique: BTreeSet<u64> = kept.iter().copied().collect();
    assert_eq!(unique.len(), 1_000);
}

#[test]
fn whoever_is_closed_is_told_by_whom_and_why_and_it_is_on_record() {
    let mut house = House::new();
    house.broker.keep_records();
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    let agent = house.agent("node-acme", 1, json!({}));
    house.request(noc, "/topic/prod.service.status", "customer=acmeinc", &[]);
    house.take(noc);
    house.broker.take_records();
    let answer = close_by(&mut house, acme, agent, " disk\nfull\u{1b}[31m ");
    assert_eq!(answer.json(), json!({ "user": "node-acme" }));
    let told = house.take(agent);
    assert_eq!(told.len(), 1, "what waited is dropped: {told:?}");
    assert_eq!((told[0].command, told[0].header("muster-code")), ("ERROR", "closed"));
    assert_eq!(told[0].header("message"), "acme has closed this session: disk\u{fffd}full\u{fffd}[31m");
    assert_eq!(house.events(noc), ["lost", "done"], "what it owed is accounted for");
    let past = sessions(&mut house, noc, json!({ "closed": true })).closed.remove(0);
    assert_eq!((past.session, past.reason.as_str()), (agent, "closed by acme: disk\u{fffd}full\u{fffd}[31m"));

    let records: Vec<Value> =
        house.broker.take_records().iter().map(|record| serde_json::to_value(record).expect("JSON")).collect();
    let admin = records.iter().find(|record| record["destination"] == "/muster/admin.close").expect("the command");
    assert_eq!(
        (&admin["event"], &admin["decision"], &admin["user"]),
        (&json!("admin"), &json!("allowed"), &json!("acme"))
    );
    assert_eq!(admin["about"], json!(format!("session {agent} of node-acme: disk\u{fffd}full\u{fffd}[31m")));
    let closed = records.iter().find(|record| record["event"] == "session-closed").expect("the end");
    assert_eq!(closed["reason"], json!("closed by acme: disk\u{fffd}full\u{fffd}[31m"));
    let listed = records.iter().find(|record| record["destination"] == "/muster/admin.sessions").expect("the list");
    assert_eq!(listed["about"], "closed sessions");
}

#[test]
fn an_agent_that_is_closed_is_told_when_to_come_back_and_operators_can_be_closed_by_anybody_who_may() {
    let mut house = House::new();
    let (noc, acme) = (house.open("noc"), house.open("acme"));
    assert_eq!(close_by(&mut house, acme, noc, "x").json(), json!({ "user": "noc" }), "a scope is about nodes");
    let items = super::super::outbox::tests::drain(&house.outboxes[&noc].0, house.now);
    let refusal = items.into_iter().find_map(|item| if let Item::Close(refusal) = item { refusal } else { None });
    assert_eq!(refusal.and_then(|refusal| refusal.retry_after), Some(5_000), "{}", header::RETRY_AFTER);

    for (session, reason, code) in
        [(acme, "x", "bad-body"), (7_777, "x", "no-such-session"), (noc, "x", "no-such-session")]
    {
        let refused = close_by(&mut house, acme, session, reason);
        assert_eq!((refused.event(), refused.header("muster-code")), ("refused", code), "{refused:?}");
    }
    let other = house.open("noc");
    for reason in ["", "  \n "] {
        let refused = close_by(&mut house, acme, other, reason);
        assert_eq!((refused.header("muster-code"), refused.header("message").contains("reason")), ("bad-body", true));
    }
    close_by(&mut house, acme, other, &"ä".repeat(10_000));
    let told = house.take(other).remove(0);
    assert_eq!(told.header("message").chars().filter(|char| *char == 'ä').count(), 200);
    assert!(told.header("message").ends_with('…'));
}

//! Does a real agent do what the protocol says, over restarts of either side?

use muster_protocol::frame::Frame;
use muster_tests::agent::write_private;
use muster_tests::policy::PASSWORD;
use muster_tests::stomp::{json, show};
use muster_tests::{Agent, Broker, Stomp, request, until, until_within};
use rustix::process::Signal;
use serde_json::{Value, json as value};
use std::fs;
use std::time::{Duration, Instant};

const WAY_BACK: Duration = Duration::from_secs(60);

/// Runs an action on all agents of customer acmeinc: events until `done`.
fn ask(operator: &mut Stomp, topic: &str, id: &str, body: &Value) -> Vec<Frame> {
    operator.send(request(topic, id, "customer=acmeinc").with_body(body.to_string()));
    let mut events = Vec::new();
    loop {
        let frame = operator.frame();
        let event = frame.headers.get("muster-event").map(str::to_owned);
        events.push(frame);
        if matches!(event.as_deref(), Some("done" | "refused")) {
            return events;
        }
    }
}

/// The one reply among events: status and body.
fn reply(events: &[Frame]) -> (String, Value) {
    let replies: Vec<&Frame> = events.iter().filter(|e| e.headers.get("muster-event") == Some("reply")).collect();
    assert_eq!(replies.len(), 1, "{:#?}", events.iter().map(show).collect::<Vec<_>>());
    (replies[0].headers.get("muster-status").unwrap_or_default().to_owned(), json(replies[0]))
}

fn states(events: &[Frame]) -> Value {
    json(events.last().expect("events"))["states"].clone()
}

#[test]
fn it_registers_itself() {
    let broker = Broker::start();
    let agent =
        Agent::start(&broker, "node-acme", &value!({ "role": "frontend", "rack": 7 }), &["webserver", "monitored"]);
    let mut operator = Stomp::operator(&broker, "noc");
    let target = "datacenter=a and class ~ web and customer=acmeinc and rack > 6 and has os.family and has kernel";
    assert_eq!(operator.find(target), [agent.id()]);
    let node = operator.ask("/muster/node", None, &value!({ "node": agent.id() })).expect("a node");
    assert_eq!(node["classes"], value!(["monitored", "webserver"]), "{node}");
    for module in ["node", "service", "process"] {
        assert!(node["modules"][module].is_string(), "{module} is not announced: {node}");
    }
    assert_eq!(node["modules"]["exec"], Value::Null, "exec is off: {node}");
    let status = until("the status file says connected", || agent.status().filter(|s| s["state"] == "connected"));
    assert_eq!((&status["collective"], &status["node"]), (&value!("prod"), &value!(agent.id())), "{status}");
    for bytes in [fs::read(format!("/proc/{}/cmdline", agent.process_id())), fs::read(agent.status_file())] {
        assert!(!String::from_utf8_lossy(&bytes.expect("a file")).contains(PASSWORD));
    }
}

#[test]
fn it_is_not_believed_about_asserted_facts() {
    let broker = Broker::start();
    let agent = Agent::start(&broker, "node-beta", &value!({ "customer": "acmeinc" }), &[]);
    let mut operator = Stomp::operator(&broker, "noc");
    assert!(operator.find("customer=acmeinc").is_empty());
    assert_eq!(operator.find("customer=beta"), [agent.id()]);
}

#[test]
fn it_answers_node_service_and_process() {
    let broker = Broker::start();
    let agent = Agent::start(&broker, "node-acme", &value!({}), &[]);
    let mut operator = Stomp::operator(&broker, "noc");
    let events = ask(&mut operator, "prod.node.ping", "r1", &value!({}));
    assert_eq!(reply(&events).0, "ok");
    assert_eq!(states(&events), value!({ "ok": 1 }));
    // With systemd or without: what does not run is said not to.
    let (status, body) =
        reply(&ask(&mut operator, "prod.service.status", "r2", &value!({ "name": "no-such-service-77" })));
    assert!(["ok", "failed"].contains(&status.as_str()), "{status}: {body}");
    let (status, body) = reply(&ask(&mut operator, "prod.service.status", "r3", &value!({ "name": "muster-agent" })));
    assert_eq!(status, "ok", "{body}");
    let (status, body) =
        reply(&ask(&mut operator, "prod.process.list", "r4", &value!({ "name": "^muster-agent$", "limit": 1000 })));
    assert_eq!(status, "ok", "{body}");
    assert!(body.to_string().contains(&agent.process_id().to_string()), "it does not see itself: {body}");
    // An id is used once: the agent would take a second request for a duplicate.
    for (n, (topic, body)) in [
        ("prod.service.status", value!({})),
        ("prod.service.status", value!({ "name": "../x; rm" })),
        ("prod.service.status", value!({ "name": "x", "frob": 1 })),
        ("prod.process.list", value!({ "limit": "many" })),
        ("prod.node.frobnicate", value!({})),
        ("prod.node.ping", value!([])),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, answer) = reply(&ask(&mut operator, topic, &format!("bad-{n}"), &body));
        assert_eq!(status, "failed", "{topic} {body}: {answer}");
        assert!(answer["error"]["code"].is_string() && answer["error"]["text"].is_string(), "{topic}: {answer}");
    }
}

#[test]
fn exec_is_off_unless_the_node_allows_it() {
    let broker = Broker::start();
    let allowed = "[modules.exec]\nenabled = true\nallow = [[\"/bin/echo\"]]";
    let agent = Agent::setup(&broker, "node-acme", &value!({}), &[]).config(allowed).start();
    agent.until_registered(&broker);
    let other = Agent::start(&broker, "node-acme", &value!({}), &[]);
    let mut operator = Stomp::operator(&broker, "noc");
    let echo = value!({ "command": "/bin/echo", "args": ["hello $HOME; id"] });
    let events = ask(&mut operator, "prod.exec.run", "r1", &echo);
    let (status, body) = reply(&events);
    assert_eq!(status, "ok", "{body}");
    assert!(body.to_string().contains("hello $HOME; id"), "a shell was at work: {body}");
    assert_eq!(
        events.iter().filter(|e| String::from_utf8_lossy(&e.body).contains(&other.id())).count(),
        0,
        "off means not asked"
    );
    for (n, command) in ["/bin/cat", "/bin/../bin/echo", "echo"].into_iter().enumerate() {
        let (status, _) = reply(&ask(
            &mut operator,
            "prod.exec.run",
            &format!("not-{n}"),
            &value!({ "command": command, "args": [] }),
        ));
        assert_eq!(status, "denied", "{command}");
    }
}

#[test]
fn local_policy_denies() {
    let broker = Broker::start();
    let agent = Agent::setup(&broker, "node-acme", &value!({}), &[]).config("[policy]\ndeny = [\"process.*\"]").start();
    agent.until_registered(&broker);
    let mut operator = Stomp::operator(&broker, "noc");
    let events = ask(&mut operator, "prod.process.list", "r1", &value!({}));
    // Not announced, or announced and denied: in no case done.
    assert!(states(&events)["ok"].is_null(), "{}", states(&events));
    assert_eq!(reply(&ask(&mut operator, "prod.node.ping", "r2", &value!({}))).0, "ok");
}

#[test]
fn killed_in_the_middle_it_is_lost_at_once() {
    let broker = Broker::start();
    let allowed = "[modules.exec]\nenabled = true\nallow = [[\"/bin/sleep\"]]";
    let mut agent = Agent::setup(&broker, "node-acme", &value!({}), &[]).config(allowed).start();
    agent.until_registered(&broker);
    let mut operator = Stomp::operator(&broker, "noc");
    let body = value!({ "command": "/bin/sleep", "args": ["30"] }).to_string();
    operator.send(request("prod.exec.run", "r1", "customer=acmeinc").with_body(body));
    operator.event("accepted");
    operator.event("started");
    let began = Instant::now();
    agent.kill();
    let lost = operator.event("lost");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(json(&lost)["nodes"], value!([agent.id()]));
    assert_eq!(json(&operator.event("done"))["states"], value!({ "lost": 1 }));
}

#[test]
fn a_cancel_stops_what_runs() {
    let broker = Broker::start();
    let allowed = "[modules.exec]\nenabled = true\nallow = [[\"/bin/sleep\"]]";
    let agent = Agent::setup(&broker, "node-acme", &value!({}), &[]).config(allowed).start();
    agent.until_registered(&broker);
    let mut operator = Stomp::operator(&broker, "noc");
    let body = value!({ "command": "/bin/sleep", "args": ["31.4159"] }).to_string();
    operator.send(request("prod.exec.run", "r1", "customer=acmeinc").with_body(body));
    operator.event("accepted");
    operator.event("started");
    let began = Instant::now();
    operator.ask("/muster/cancel", None, &value!({ "request": "r1" })).expect("an answer");
    let answer = operator.event("reply");
    assert_eq!(answer.headers.get("muster-status"), Some("cancelled"), "{}", show(&answer));
    assert!(began.elapsed() < Duration::from_secs(5), "only the broker gave it up: {:?}", began.elapsed());
    until("the program is gone", || {
        let running = fs::read_dir("/proc").ok()?.flatten().any(|entry| {
            fs::read(entry.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("31.4159"))
        });
        (!running).then_some(())
    });
}

#[test]
fn a_request_is_run_once_over_a_restart() {
    let broker = Broker::start();
    let setup = Agent::setup(&broker, "node-acme", &value!({}), &[]);
    let (script, traces) = (setup.folder().join("trace.sh"), setup.folder().join("traces"));
    write_private(&script, &format!("echo run >> {}\n", traces.display()));
    let allowed = format!("[modules.exec]\nenabled = true\nallow = [[\"/bin/sh\", \"{}\"]]", script.display());
    let mut agent = setup.config(&allowed).start();
    agent.until_registered(&broker);
    let body = value!({ "command": "/bin/sh", "args": [script] }).to_string();
    let once = || {
        request("prod.exec.run", "same-id", "customer=acmeinc")
            .with_body(body.clone())
            .header("muster-reply-within", "3000")
    };
    let runs = || fs::read_to_string(&traces).unwrap_or_default().lines().count();
    let mut operator = Stomp::operator(&broker, "noc");
    operator.send(once());
    operator.event("accepted");
    assert_eq!(operator.event("reply").headers.get("muster-status"), Some("ok"));
    assert_eq!(runs(), 1);
    // From another connection of the same user, to the same life of the agent, and to its next.
    for restart in [false, true] {
        if restart {
            agent.kill();
            agent.start_again();
            until_within("the agent is back", WAY_BACK, || {
                (broker.count("nodes") == 1 && broker.count("registering") == 0).then_some(())
            });
        }
        let mut again = Stomp::operator(&broker, "noc");
        again.send(once());
        again.event("accepted");
        let last = again.frame();
        assert_ne!(last.headers.get("muster-status"), Some("ok"), "{}", show(&last));
        assert_eq!(runs(), 1, "after a restart: {restart}");
    }
    // Another caller's request of the same id is another request.
    let mut peek = Stomp::operator(&broker, "peek");
    peek.send(once());
    peek.event("accepted");
    assert_eq!(peek.event("reply").headers.get("muster-status"), Some("ok"));
    assert_eq!(runs(), 2);
}

#[test]
fn it_comes_back_after_a_restart_of_the_broker() {
    let mut broker = Broker::start();
    let agent = Agent::start(&broker, "node-acme", &value!({ "a": 1 }), &[]);
    let id = agent.id();
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait().code(), Some(0));
    until("the status file says that it is off", || agent.status().filter(|s| s["state"] != "connected"));
    broker.start_again();
    until_within("the agent is back", WAY_BACK, || {
        let mut operator = Stomp::operator(&broker, "noc");
        (operator.find("a=1") == [id.clone()]).then_some(())
    });
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(reply(&ask(&mut operator, "prod.node.ping", "r1", &value!({}))).0, "ok");
}

#[test]
fn the_status_file_says_why_it_cannot_log_in() {
    let broker = Broker::start();
    let setup = Agent::setup(&broker, "node-acme", &value!({}), &[]);
    write_private(&setup.folder().join("password"), "wrong-secret-71");
    let agent = setup.start();
    let text = until("the status file says why", || agent.status()?["last_error"]["text"].as_str().map(str::to_owned));
    assert!(text.contains("auth-failed") || text.contains("password"), "{text}");
    assert!(!text.contains("wrong-secret-71") && !agent.log().contains("wrong-secret-71"), "{text}\n{}", agent.log());
    let status = agent.status().expect("a status");
    assert_ne!(status["state"], "connected");
    // Corrected, it gets in without a restart.
    write_private(&agent.folder().join("password"), PASSWORD);
    until_within("the agent gets in", WAY_BACK, || agent.status().filter(|s| s["state"] == "connected"));
}

#[test]
fn it_does_not_connect_to_a_broker_of_another_ca() {
    let broker = Broker::start();
    let setup = Agent::setup(&broker, "node-acme", &value!({}), &[]);
    let key = rcgen::KeyPair::generate().expect("a key");
    let other = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|p| p.self_signed(&key))
        .expect("a certificate");
    fs::write(setup.folder().join("ca.pem"), other.pem()).expect("ca.pem");
    let agent = setup.start();
    let text =
        until("the status file says why", || agent.status()?["last_error"]["text"].as_str().map(str::to_lowercase));
    assert!(text.contains("certificate") || text.contains("issuer"), "{text}");
    assert!(!broker.log().contains("session opened"), "a password was sent to a stranger");
}

#[test]
fn two_agents_do_not_share_a_state_folder() {
    let broker = Broker::start();
    let agent = Agent::start(&broker, "node-acme", &value!({}), &[]);
    let mut command = std::process::Command::new(muster_tests::process::binary("muster-agent"));
    let said = muster_tests::process::run(command.arg("run").arg("--config").arg(agent.folder().join("agent.toml")));
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("another muster-agent"), "{said:?}");
    assert_eq!(broker.count("nodes"), 1);
}

#[test]
fn sigterm_is_a_clean_goodbye() {
    let broker = Broker::start();
    let mut agent = Agent::start(&broker, "node-acme", &value!({ "a": 1 }), &[]);
    let id = agent.id();
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.log());
    let mut operator = Stomp::operator(&broker, "noc");
    let answer = operator.ask("/muster/find", Some("a=1"), &value!({})).expect("an answer");
    assert_eq!((&answer["gone"][0]["id"], &answer["gone"][0]["reason"]), (&value!(id), &value!("clean")), "{answer}");
}

#[test]
fn its_secrets_stay_its_own() {
    let broker = Broker::start();
    let agent = Agent::start(&broker, "node-acme", &value!({}), &[]);
    use std::os::unix::fs::PermissionsExt;
    let key_file = agent.folder().join("state/node.key");
    let mode = fs::metadata(&key_file).expect("the key").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let key = fs::read_to_string(&key_file).expect("the key");
    for log in [agent.log(), broker.log()] {
        assert!(!log.contains(key.trim()) && !log.contains(PASSWORD), "{log}");
    }
}

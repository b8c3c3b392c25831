//! Does `muster` say what happened by its exit code, and in JSON?

use muster_tests::agent::write_private;
use muster_tests::policy::PASSWORD;
use muster_tests::process::Process;
use muster_tests::{Agent, Broker, Muster, Node, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// A broker, an agent of acmeinc that may run echo, false and sleep, and the operator noc.
fn stage() -> (Broker, Agent, Muster) {
    let broker = Broker::start();
    let allowed = "[modules.exec]\nenabled = true\nallow = [[\"/bin/echo\"], [\"/bin/false\"], [\"/bin/sleep\"]]";
    let facts = json!({ "role": "frontend" });
    let agent = Agent::setup(&broker, "node-acme", &facts, &["webserver"]).config(allowed).start();
    agent.until_registered(&broker);
    let muster = Muster::new(&broker, "noc");
    (broker, agent, muster)
}

#[test]
fn zero_is_all_ok() {
    let (_broker, agent, muster) = stage();
    let id = agent.id();
    let target = "datacenter=a and class ~ webserver and customer=acmeinc";
    for arguments in [
        &["find", "--all"][..],
        &["find", "-w", target],
        &["find", "-F", "role=frontend", "-C", "webserver"],
        &["find", "-W", "role=frontend /web/"],
        &["ping", "-w", target],
        &["run", "process.list", "-w", target],
        &["run", "exec.run", "-w", target, "command=/bin/echo", "args:=[\"hello\"]"],
        &["facts", "-w", target, "role"],
        &["inventory", &id],
        &["explain", "-w", target, &id],
        &["run", "node.ping", "-w", target, "--dry-run"],
    ] {
        let said = muster.run(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
        assert!(
            said.stdout.contains(&id) || arguments[0] == "explain",
            "{arguments:?} does not name the node: {said:?}"
        );
        assert!(!said.stdout.contains('\u{1b}'), "colour in a pipe: {said:?}");
    }
    let said = muster.run(&["report", "os.family", "--all"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn one_is_nobody_there() {
    let (_broker, agent, muster) = stage();
    for arguments in [
        &["ping", "-w", "role=backend"][..],
        &["run", "node.ping", "-w", "role=backend"],
        &["run", "frob.nicate", "--all"],
    ] {
        assert_eq!(muster.run(arguments).code, 1, "{arguments:?}");
    }
    // Explained is answered, whether it matches or not; which node, is not known.
    let said = muster.run(&["explain", "-w", "role=backend", &agent.id()]);
    assert!([0, 1].contains(&said.code) && said.stdout.contains("role"), "{said:?}");
}

#[test]
fn two_is_some_failed() {
    let (_broker, agent, muster) = stage();
    let said = muster.run(&["run", "exec.run", "-w", "role=frontend", "command=/bin/false"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stdout.contains(&agent.id()), "{said:?}");
    assert_eq!(
        muster.run(&["run", "exec.run", "-w", "role=frontend", "command=/bin/cat"]).code,
        2,
        "denied by the node"
    );
}

#[test]
fn three_is_some_did_not_answer() {
    let (broker, mut agent, muster) = stage();
    let mut silent = Node::register(&broker, "node-beta", 9, json!({ "role": "silent" }));
    let said = muster.run(&["ping", "-w", "role=silent", "--timeout", "1s"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        said.stdout.contains(&silent.id) || said.stderr.contains(&silent.id),
        "who is silent is not named: {said:?}"
    );
    silent.request();
    let id = agent.id();
    let mut command =
        muster.command(&["run", "exec.run", "-w", "role=frontend", "command=/bin/sleep", "args:=[\"30\"]"]);
    let mut running = Process::start("muster", &mut command);
    until("the request is under way", || {
        (broker.count("counters.requests") >= 2 && broker.count("requests") == 1).then_some(())
    });
    agent.kill();
    let status = running.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(3), "{}", running.output());
    assert!(running.output().contains("lost") && running.output().contains(&id), "{}", running.output());
}

#[test]
fn four_is_refused() {
    let (broker, _agent, muster) = stage();
    let viewer = Muster::new(&broker, "viewer");
    for (muster, arguments, code) in [
        (&viewer, &["run", "service.restart", "-w", "role=frontend", "name=x"][..], "denied"),
        (&viewer, &["run", "service.status", "--all", "name=x"], "all-not-allowed"),
        (&muster, &["find", "-w", "hostname ~ web"], "hidden-fact"),
        (&muster, &["report", "hostname", "--all"], "hidden-fact"),
        (&muster, &["run", "node.ping", "-w", "role=frontend", "--expect", "7"], "unexpected-targets"),
        (&muster, &["run", "node.ping", "-w", "role=frontend", "--max-targets", "0"], "too-many-targets"),
        (&muster, &["inventory", "n-aaaaaaaaaaaaaaaaaaaa"], "no-such-node"),
    ] {
        let said = muster.run(arguments);
        assert_eq!(said.code, 4, "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(code), "{arguments:?} does not say {code}: {said:?}");
    }
    let said = muster.run(&["run", "node.ping"]);
    assert!(said.code == 4 && said.stderr.contains("target-required"), "{said:?}");
    write_private(&muster.folder().join("password"), "wrong-secret-61");
    let said = muster.run(&["find", "--all"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.contains("auth-failed") && !said.stderr.contains("wrong-secret-61"), "{said:?}");
    assert!(
        said.stderr.contains("refused the login of ") && said.stderr.contains(" with the password in "),
        "{said:?}"
    );
}

#[test]
fn five_is_no_connection() {
    let mut broker = Broker::start();
    let muster = Muster::new(&broker, "noc");
    broker.kill();
    let said = muster.run(&["find", "--all"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.stderr.contains(&broker.address().to_string()), "{said:?}");
}

#[test]
fn five_is_a_broker_of_another_ca() {
    let broker = Broker::start();
    let muster = Muster::new(&broker, "noc");
    let key = rcgen::KeyPair::generate().expect("a key");
    let other = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|p| p.self_signed(&key))
        .expect("a certificate");
    fs::write(muster.folder().join("ca.pem"), other.pem()).expect("ca.pem");
    let said = muster.run(&["find", "--all"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.stderr.to_lowercase().contains("certificate"), "{said:?}");
    assert!(!broker.log().contains("session opened"), "a password was sent to a stranger");
}

#[test]
fn sixty_four_is_wrong_usage_and_nothing_is_sent() {
    let broker = Broker::start();
    let muster = Muster::new(&broker, "noc");
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["find", "--frobnicate"],
        &["find", "-w", "os.family="],
        &["find", "-w", "(((a=1"],
        &["run", "nodeping", "--all"],
        &["run", "service.status", "--all", "no-equals"],
        &["run", "service.status", "--all", "name:=no json"],
        &["inventory", "web1"],
        &["find", "--all", "--password", "x"],
    ] {
        let said = muster.run(arguments);
        assert_eq!(said.code, 64, "{arguments:?}: {said:?}");
        assert!(!said.stderr.is_empty(), "{arguments:?} says nothing");
    }
    let said = muster.run(&["find", "-w", "os.family = = x"]);
    assert!(said.stderr.contains('^'), "no caret at the mistake: {said:?}");
    assert!(!broker.log().contains("session opened"), "a mistake was sent to the broker");
}

#[test]
fn json_is_json() {
    let (_broker, agent, muster) = stage();
    let id = agent.id();
    let found = muster.json(0, &["find", "-w", "role=frontend", "-f", "role", "--json"]);
    assert_eq!(
        (&found["count"], &found["nodes"][0]["id"], &found["nodes"][0]["facts"]["role"]),
        (&json!(1), &json!(id), &json!("frontend")),
        "{found}"
    );
    for (code, arguments) in [
        (0, &["ping", "--all", "--json"][..]),
        (0, &["run", "process.list", "--all", "--json"]),
        (2, &["run", "exec.run", "--all", "command=/bin/false", "--json"]),
        (1, &["ping", "-w", "role=backend", "--json"]),
        (0, &["facts", "--all", "role", "--json"]),
        (0, &["report", "role", "--all", "--json"]),
        (0, &["inventory", &id, "--json"]),
        (0, &["explain", "-w", "role=frontend", &id, "--json"]),
        (0, &["admin", "explain", "noc", "write", "/topic/prod.a.b", "--json"]),
    ] {
        muster.json(code, arguments);
    }
    for arguments in [
        &["find", "--all", "--ndjson"][..],
        &["ping", "--all", "--ndjson"],
        &["run", "process.list", "--all", "--ndjson"],
    ] {
        let said = muster.run(arguments);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stdout.lines().count() >= 2, "{said:?}");
        for line in said.stdout.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {line}"));
        }
    }
}

#[test]
fn what_an_agent_says_is_shown_as_text() {
    let broker = Broker::start();
    let _node =
        Node::register(&broker, "node-beta", 9, json!({ "os": { "family": "\u{1b}]0;pwned\u{7}\u{1b}[31mred" } }));
    let muster = Muster::new(&broker, "noc");
    for arguments in [&["find", "--all"][..], &["facts", "--all", "os.family"], &["report", "os.family", "--all"]] {
        let said = muster.run(arguments);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(!said.stdout.contains('\u{1b}') && !said.stdout.contains('\u{7}'), "{arguments:?}: {said:?}");
    }
}

#[test]
fn a_scoped_operator_sees_its_own() {
    let (broker, agent, _muster) = stage();
    let _beta = Node::register(&broker, "node-beta", 9, json!({ "role": "frontend" }));
    let acme = Muster::new(&broker, "acme");
    let found = acme.json(0, &["find", "--all", "--json"]);
    assert_eq!((&found["count"], &found["nodes"][0]["id"]), (&json!(1), &json!(agent.id())), "{found}");
    let said = acme.run(&["ping", "-w", "role=frontend"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn the_password_is_nowhere_to_be_seen() {
    let (broker, _agent, muster) = stage();
    let mut command =
        muster.command(&["run", "exec.run", "-w", "role=frontend", "command=/bin/sleep", "args:=[\"30\"]"]);
    let mut running = Process::start("muster", &mut command);
    until("the request is under way", || (broker.count("requests") == 1).then_some(()));
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", running.id())).expect("its own process");
        assert!(!String::from_utf8_lossy(&bytes).contains(PASSWORD), "{file}");
    }
    // Ctrl-C says what is still running, and does not wait for it.
    running.signal(Signal::INT);
    let status = running.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(130), "{}", running.output());
    assert!(!running.output().contains(PASSWORD));
}

#[test]
fn a_password_may_come_from_the_environment() {
    let broker = Broker::start();
    let muster = Muster::new(&broker, "noc");
    fs::remove_file(muster.folder().join("password")).expect("it was there");
    assert_eq!(muster.run(&["find", "--all"]).code, 64, "no password and nobody to ask");
    let said = muster_tests::process::run(muster.command(&["find", "--all"]).env("MUSTER_PASSWORD", PASSWORD));
    assert!([0, 1].contains(&said.code), "{said:?}");
}

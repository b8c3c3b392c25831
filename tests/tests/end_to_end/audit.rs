//! Is every decision on record, nothing secret with it, and does it show when the record was touched?

use muster_tests::cluster::Plan;
use muster_tests::policy::{PASSWORD, POLICY};
use muster_tests::process::{Said, binary, run};
use muster_tests::stomp::connect;
use muster_tests::{Broker, Cluster, Node, Setup, Stomp, broker, node, request, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn log_of(folder: &Path) -> PathBuf {
    folder.join("state/audit.jsonl")
}

/// The lines so far; one that is being written is left out.
fn lines(broker: &Broker) -> Vec<Value> {
    let text = fs::read_to_string(log_of(broker.folder())).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits for a line with these fields.
fn line_with(broker: &Broker, fields: &Value) -> Value {
    let fields = fields.as_object().expect("an object");
    let fits = |line: &Value| fields.iter().all(|(name, value)| line[name] == *value);
    until(&format!("a line with {fields:?}"), || lines(broker).into_iter().find(fits))
}

fn audit(folder: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new(binary("musterd"));
    command.arg("audit").arg(arguments[0]).arg("--config").arg(folder.join("musterd.toml"));
    run(command.args(&arguments[1..]))
}

fn assert_good(folder: &Path) -> String {
    let said = audit(folder, &["verify"]);
    assert!(said.code == 0 && said.stdout.starts_with("good: "), "{said:?}");
    said.stdout
}

#[test]
fn every_decision_is_on_record_and_no_secret() {
    let mut broker = Broker::start();
    line_with(&broker, &json!({ "event": "started", "broker": "noc1", "n": 1 }));
    let loaded = line_with(&broker, &json!({ "event": "policy-loaded" }));
    assert!(loaded["changes"]["user"]["added"].as_u64().is_some_and(|users| users > 5), "{loaded}");
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1, "token": "fact-secret-41" }));
    line_with(&broker, &json!({ "event": "login", "decision": "allowed", "user": "node-acme", "node": node.id }));

    let mut wrong = Stomp::dial(&broker);
    let mut frame = connect("noc");
    frame.headers.set("passcode", "wrong-secret-42");
    wrong.send(frame);
    assert_eq!(wrong.error().code, "auth-failed");
    let refused = line_with(&broker, &json!({ "event": "login", "decision": "denied", "user": "noc" }));
    assert_eq!((&refused["code"], &refused["reason"]), (&json!("auth-failed"), &json!("wrong password")), "{refused}");
    assert!(refused["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{refused}");

    let mut acme = Stomp::operator(&broker, "acme");
    acme.send(request("prod.node.ping", "r1", "a=1").with_body(r#"{"password":"argument-secret-43"}"#));
    acme.event("accepted");
    let asked = node.request();
    node.reply(&asked, "ok", &json!({ "out": "reply-secret-44" }));
    acme.event("reply");
    acme.event("done");
    let accepted = line_with(&broker, &json!({ "event": "request", "request": "r1" }));
    assert_eq!((&accepted["decision"], &accepted["user"]), (&json!("allowed"), &json!("acme")), "{accepted}");
    assert_eq!((&accepted["scope"], &accepted["target"]), (&json!("customer = acmeinc"), &json!("a = 1")));
    assert_eq!((&accepted["body"]["bytes"], accepted["rule"].as_array().map(Vec::is_empty)), (&json!(33), Some(false)));
    let done = line_with(&broker, &json!({ "event": "request-done", "request": "r1" }));
    assert_eq!((&done["targets"], &done["states"]), (&json!(1), &json!({ "ok": 1 })), "{done}");

    let mut viewer = Stomp::operator(&broker, "viewer");
    viewer.send(request("prod.service.restart", "r2", "a=1"));
    assert_eq!(viewer.refused().code, "denied");
    let denied = line_with(&broker, &json!({ "event": "request", "decision": "denied", "request": "r2" }));
    assert_eq!((&denied["user"], &denied["rule"]), (&json!("viewer"), &json!([])), "{denied}");

    broker.reload(&format!("{POLICY}\n[users.newcomer]\nkind = \"operator\"\npassword = \"{{phc}}\"\n"));
    let more = json!({ "added": 1, "removed": 0, "changed": 0 });
    until("the reload is on record with what it changed", || {
        lines(&broker)
            .iter()
            .any(|line| line["event"] == "policy-loaded" && line["changes"]["user"] == more)
            .then_some(())
    });
    line_with(&broker, &json!({ "event": "ctl", "command": "reload", "uid": rustix::process::getuid().as_raw() }));
    broker.write_policy(&POLICY.replacen("password = \"{phc}\"", "password = \"policy-secret-45\"", 1));
    broker.signal(Signal::HUP);
    let refused = line_with(&broker, &json!({ "event": "policy-refused" }));
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("line ")), "{refused}");
    viewer.cut();
    line_with(&broker, &json!({ "event": "session-closed", "user": "viewer", "reason": "connection closed" }));

    let status = broker.status()["audit"].clone();
    assert_eq!((&status["enabled"], &status["lost"], &status["error"]), (&json!(true), &json!(0), &Value::Null));
    broker.signal(Signal::TERM);
    broker.wait();
    assert_eq!(lines(&broker).last().map(|line| line["event"].clone()), Some(json!("stopped")));
    let good = assert_good(broker.folder());
    assert!(good.contains(&format!("{} lines in 1 files, number 1 to ", lines(&broker).len())), "{good}");
    let text = fs::read_to_string(log_of(broker.folder())).expect("the audit log");
    let (key, hash) = (node::key(1).expose_hex(), broker::phc().rsplit('$').next().expect("a hash").to_owned());
    for secret in [PASSWORD, &key, &hash, "$argon2id$v", "-secret-4"] {
        assert!(!text.contains(secret), "{secret} is on record:\n{text}");
    }
    for name in ["audit.jsonl", "audit.head"] {
        let file = broker.folder().join("state").join(name);
        assert_eq!(fs::metadata(file).expect(name).permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_killed_broker_goes_on_in_its_chain() {
    let mut broker = Broker::start();
    drop(Stomp::operator(&broker, "noc"));
    line_with(&broker, &json!({ "event": "login", "user": "noc" }));
    broker.kill();
    let before = lines(&broker).len();
    assert_good(broker.folder());
    // What it had begun to write.
    let file = log_of(broker.folder());
    let mut text = fs::read_to_string(&file).expect("the audit log");
    text.push_str(r#"{"n":99,"at":"2026-01-01T00:0"#);
    fs::write(&file, &text).expect("the audit log");
    let said = audit(broker.folder(), &["verify"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&format!("audit.jsonl: line {}: it is not whole", before + 1)), "{said:?}");
    broker.start_again();
    line_with(&broker, &json!({ "event": "torn", "file": "audit.torn-1", "n": before + 1 }));
    line_with(&broker, &json!({ "event": "started", "n": before + 2 }));
    let aside = fs::read_to_string(broker.folder().join("state/audit.torn-1")).expect("what was torn");
    assert!(aside.starts_with(r#"{"n":99"#), "{aside}");
    assert!(broker.log().contains("was not whole"), "{}", broker.log());
    broker.assert_serves();
    broker.signal(Signal::TERM);
    broker.wait();
    assert!(assert_good(broker.folder()).contains("1 torn lines were set aside"));
}

#[test]
fn tampering_is_told_with_file_and_line_and_exit_code() {
    let mut broker = Broker::start();
    drop(Stomp::operator(&broker, "noc"));
    broker.signal(Signal::TERM);
    broker.wait();
    let file = log_of(broker.folder());
    let whole = fs::read_to_string(&file).expect("the audit log");
    let cut: String = whole.split_inclusive('\n').take(3).collect();
    let line = whole.lines().position(|line| line.contains(r#""user":"noc""#)).expect("the login") + 1;
    for (text, line, what) in [
        (whole.replacen(r#""user":"noc""#, r#""user":"bob""#, 1), line, "edited"),
        (cut, 4, "the end was cut off"),
        (whole.split_inclusive('\n').skip(1).collect(), 1, "missing"),
    ] {
        fs::write(&file, text).expect("the audit log");
        let said = audit(broker.folder(), &["verify"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(&format!("audit.jsonl: line {line}: ")) && said.stderr.contains(what), "{said:?}");
    }
    fs::write(&file, whole).expect("the audit log");
    assert_good(broker.folder());
    fs::remove_file(file).expect("the audit log");
    let said = audit(broker.folder(), &["verify"]);
    assert!(said.code == 1 && said.stderr.contains("the log is gone"), "{said:?}");
}

#[test]
fn a_full_disk_stops_nobody_and_the_gap_is_on_record() {
    let setup = Setup::new();
    let file = log_of(setup.folder());
    fs::create_dir_all(file.parent().expect("a folder")).expect("the state directory");
    std::os::unix::fs::symlink("/dev/full", &file).expect("a link");
    let broker = setup.start();
    broker.assert_serves();
    let status = until("the status says so", || {
        let status = broker.status()["audit"].clone();
        (status["error"].is_string() && status["lost"].as_u64() > Some(2)).then_some(status)
    });
    assert_eq!(status["written"], 0, "{status}");
    assert!(status["error"].as_str().is_some_and(|error| error.contains("No space left")), "{status}");
    assert_eq!(broker.log().matches("records are missing in the audit log").count(), 1, "{}", broker.log());
    fs::remove_file(&file).expect("the link");
    let lost = line_with(&broker, &json!({ "event": "lost", "n": 1 }));
    assert!(lost["lost"].as_u64() > Some(2), "{lost}");
    drop(Stomp::operator(&broker, "noc"));
    line_with(&broker, &json!({ "event": "login", "user": "noc" }));
    until("all is well again", || broker.status()["audit"]["error"].is_null().then_some(()));
    assert!(broker.log().contains("the audit log is written again"), "{}", broker.log());
    until("the end is noted", || fs::metadata(file.with_extension("head")).ok());
    assert!(assert_good(broker.folder()).contains("records were lost, as the log says itself"));
}

#[test]
fn search_shows_what_is_asked_for() {
    let broker = Broker::start();
    let mut viewer = Stomp::operator(&broker, "viewer");
    viewer.send(request("prod.service.restart", "r7", "a=1"));
    viewer.refused();
    line_with(&broker, &json!({ "event": "request", "request": "r7" }));
    let fits =
        ["search", "--since", "1h", "--user", "viewer", "--decision", "denied", "--destination", "/topic/prod.>"];
    let said = audit(broker.folder(), &fits);
    assert_eq!((said.code, said.stdout.lines().count()), (0, 1), "{said:?}");
    assert!(said.stdout.contains(" request denied ") && said.stdout.contains(" request=r7 "), "{said:?}");
    let said = audit(broker.folder(), &["search", "--json", "--request", "r7"]);
    let line: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert_eq!(line["code"], "denied");
    for none in [["--user", "noc"], ["--node", "n-x"], ["--since", "2999-01-01T00:00:00Z"]] {
        let said = audit(broker.folder(), &["search", none[0], none[1]]);
        assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{none:?}: {said:?}");
    }
    for (wrong, text) in [
        (["--since", "soon"], "write a time ago such as 30m"),
        (["--destination", "prod"], "write such as '/topic/prod.>'"),
        (["--decision", "maybe"], "[possible values: allowed, denied]"),
        (["--limit", "0"], "0 is not in 1..=100000"),
    ] {
        let said = audit(broker.folder(), &["search", wrong[0], wrong[1]]);
        assert!(said.code != 0 && said.stderr.contains(text), "{said:?}");
    }
}

#[test]
fn a_second_broker_that_is_started_by_mistake_does_not_break_the_chain() {
    let broker = Broker::start();
    line_with(&broker, &json!({ "event": "policy-loaded" }));
    let config = broker.folder().join("musterd.toml");
    let said = run(Command::new(binary("musterd")).arg("run").arg("--config").arg(config));
    assert_eq!(said.code, 1, "{said:?}");
    drop(Stomp::operator(&broker, "noc"));
    line_with(&broker, &json!({ "event": "login", "user": "noc" }));
    assert_good(broker.folder());
    assert_eq!(lines(&broker).iter().filter(|line| line["event"] == "started").count(), 1);
}

#[test]
fn without_an_audit_log_there_is_none() {
    let broker = Setup::new().with("audit.enabled", false).start();
    broker.assert_serves();
    assert_eq!(broker.status()["audit"], json!({ "enabled": false }));
    assert!(!log_of(broker.folder()).exists());
    let said = audit(broker.folder(), &["verify"]);
    assert!(said.code == 1 && said.stderr.contains("there is no audit log"), "{said:?}");
}

#[test]
fn links_and_what_comes_over_them_are_on_record() {
    let cluster = Cluster::triangle();
    let _nodes = cluster.nodes("dc1", "node-acme", [1]);
    cluster.until_nodes(&[("noc1", 0), ("dc1", 1), ("dc2", 0)]);
    let mut operator = cluster.operator("noc1");
    operator.send(request("prod.node.ping", "far", "has n"));
    operator.event("accepted");
    let (noc1, dc1) = (&cluster["noc1"], &cluster["dc1"]);
    line_with(noc1, &json!({ "event": "link-up", "peer": "dc1" }));
    line_with(dc1, &json!({ "event": "link-up", "peer": "noc1" }));
    let there = line_with(dc1, &json!({ "event": "link-request", "request": "far", "ingress": "noc1" }));
    assert_eq!((&there["decision"], &there["user"], &there["targets"]), (&json!("allowed"), &json!("noc"), &json!(1)));
    let here = line_with(noc1, &json!({ "event": "request", "request": "far" }));
    assert_eq!(there["body"], here["body"]);
    assert!(here["brokers"].as_array().is_some_and(|names| names.contains(&json!("dc1"))), "{here}");
    let said = noc1.ctl("link down dc1");
    assert_eq!(said.code, 0, "{said:?}");
    line_with(noc1, &json!({ "event": "ctl", "command": "link down dc1" }));
    line_with(noc1, &json!({ "event": "link-down", "peer": "dc1" }));
    assert_eq!(noc1.ctl("link down nowhere").code, 1);
    let failed = line_with(noc1, &json!({ "event": "ctl", "command": "link down nowhere" }));
    assert!(failed["error"].is_string(), "{failed}");
}

/// The newest line of a broker's log that another one has on record, and how many ends of it.
fn heard_of(at: &Broker, of: &str) -> (u64, usize) {
    let lines = lines(at);
    let heads: Vec<u64> = lines
        .iter()
        .filter(|line| line["event"] == "peer-head" && line["peer"] == of)
        .filter_map(|line| line["head"]["n"].as_u64())
        .collect();
    (heads.iter().max().copied().unwrap_or(0), heads.len())
}

/// Three brokers that tell each other often where their logs end.
fn witnesses() -> Cluster {
    let names = ["noc1", "dc1", "dc2"];
    names.iter().fold(Plan::triangle(), |plan, name| plan.setting(name, "audit.heads", "200ms")).start()
}

#[test]
fn a_log_that_was_cut_and_made_to_fit_does_not_hold_against_the_others() {
    let mut cluster = witnesses();
    for name in ["noc1", "dc1", "dc2"] {
        for other in cluster.names().iter().filter(|other| *other != name) {
            until("all have heard of all, more than once", || (heard_of(&cluster[name], other).1 > 1).then_some(()));
        }
    }
    for _ in 0..20 {
        drop(cluster.operator("noc1"));
    }
    let login = until("a login is on record", || {
        let last = lines(&cluster["noc1"]).into_iter().rfind(|line| line["event"] == "login")?;
        last["n"].as_u64().filter(|n| *n > 20)
    });
    for other in ["dc1", "dc2"] {
        until("the others have heard of it", || (heard_of(&cluster[other], "noc1").0 >= login).then_some(()));
    }
    let folders = ["noc1", "dc1", "dc2"].map(|name| cluster[name].folder().to_owned());
    let states = [&folders[1], &folders[2]].map(|folder| folder.join("state").to_str().expect("a path").to_owned());
    let verify = || audit(&folders[0], &["verify", "--against", &states[0], &states[1]]);
    let good = verify();
    assert!(good.code == 0 && good.stdout.contains(" ends that dc1, dc2 put on record, the newest line "), "{good:?}");

    assert_eq!(cluster.term("noc1"), 0);
    let closed = lines(&cluster["noc1"]).into_iter().rfind(|line| line["event"] == "session-closed").expect("an end");
    let closed = closed["n"].as_u64().expect("a number");
    until("the end was told before it stopped", || (heard_of(&cluster["dc1"], "noc1").0 >= closed).then_some(()));
    assert_eq!(verify().code, 0, "{:?}", verify());

    // Root at noc1 cuts off what happened there, and notes the new end as the broker would.
    let file = log_of(&folders[0]);
    let whole = fs::read_to_string(&file).expect("the audit log");
    let cut: String = whole.split_inclusive('\n').take(4).collect();
    let last: Value = serde_json::from_str(cut.lines().last().expect("a line")).expect("JSON");
    fs::write(&file, &cut).expect("the audit log");
    let head = json!({ "n": last["n"], "hash": last["hash"] });
    fs::write(file.with_extension("head"), head.to_string()).expect("its end");
    assert_good(&folders[0]);
    let said = verify();
    assert_eq!(said.code, 1, "{said:?}");
    let (seen, _) = heard_of(&cluster["dc1"], "noc1");
    for part in [
        format!("audit.jsonl: line 5: the end was cut off: lines 5 to {seen} are missing"),
        format!("put on record that the log ended with line number {seen} at "),
        "/state/audit.jsonl: line ".to_owned(),
    ] {
        assert!(said.stderr.contains(&part), "{part}: {said:?}");
    }

    // Nobody needs to run that: the others see it as soon as they hear of the shorter log.
    cluster.start("noc1");
    until("dc1 raises an alarm", || {
        let mesh = cluster["dc1"].status()["state"]["mesh"].take();
        let alarms = mesh["alarms"].as_array().cloned().unwrap_or_default();
        let is_it =
            |alarm: &Value| alarm.as_str().is_some_and(|text| text.contains("the audit log of noc1 was cut off"));
        alarms.iter().any(is_it).then_some(())
    });
    until("it is on record there", || {
        lines(&cluster["dc1"])
            .iter()
            .any(|line| line["event"] == "peer-head" && line["fault"].is_string())
            .then_some(())
    });
    let found = audit(&folders[1], &["search"]);
    assert!(found.stdout.contains("peer-head") && found.stdout.contains("fault="), "shown without asking: {found:?}");
}

#[test]
fn restarts_rotation_and_unreachable_brokers_are_no_alarm() {
    let names = ["noc1", "dc1", "dc2"];
    let plan = names.iter().fold(Plan::triangle(), |plan, name| plan.setting(name, "audit.heads", "100ms"));
    let mut cluster = plan.setting("noc1", "audit.rotate-size", "64KiB").setting("noc1", "audit.keep", 1).start();
    let rotated = |cluster: &Cluster| {
        let state = fs::read_dir(cluster["noc1"].folder().join("state")).expect("the state directory");
        let names = state.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("audit-")).collect::<Vec<_>>()
    };
    until("the first lines were removed by rotation", || {
        let mut watcher = cluster.operator("noc1");
        for number in 0..100 {
            watcher.send(request("elsewhere.node.ping", &format!("r{number}"), "a=1"));
            watcher.refused();
        }
        let names = rotated(&cluster);
        (!names.is_empty() && !names.iter().any(|name| name == "audit-000000000001.jsonl")).then_some(())
    });
    cluster.kill("noc1");
    cluster.start("noc1");
    cluster.until_settled();
    assert_eq!(cluster.term("noc1"), 0);
    cluster.start("noc1");
    cluster.until_settled();
    let started = lines(&cluster["noc1"]).into_iter().rfind(|line| line["event"] == "started").expect("a start");
    let started = started["n"].as_u64().expect("a number");
    for other in ["dc1", "dc2"] {
        until("the others have heard of it", || (heard_of(&cluster[other], "noc1").0 >= started).then_some(()));
    }
    let folders = names.map(|name| cluster[name].folder().to_owned());
    for (at, others) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
        let states = others.map(|other| folders[other].join("state").to_str().expect("a path").to_owned());
        let said = audit(&folders[at], &["verify", "--against", &states[0], &states[1]]);
        assert!(said.code == 0 && said.stdout.contains(" ends that "), "{}: {said:?}", names[at]);
    }
    let said = audit(&folders[0], &["verify", "--against", folders[1].join("state").to_str().expect("a path")]);
    assert!(said.stdout.contains("more are of lines that rotation removed"), "{said:?}");
    for name in names {
        let mesh = cluster[name].status()["state"]["mesh"].take();
        assert!(mesh["alarms"].as_array().is_none_or(Vec::is_empty), "{name}: {mesh}");
    }
}

//! Is the broker a good process: does it end in time, keep its secrets, and answer `ctl`?

use muster_tests::policy::{PASSWORD, POLICY};
use muster_tests::process::{binary, run};
use muster_tests::stomp::connect;
use muster_tests::{Broker, Node, Setup, Stomp, broker, node, request};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("metadata").permissions().mode() & 0o777
}

#[test]
fn sigterm_tells_everybody_and_ends_in_time() {
    let mut broker = Broker::start();
    let mut operator = Stomp::operator(&broker, "noc");
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    operator.send(request("prod.node.ping", "r1", "a=1"));
    operator.event("accepted");
    node.request();
    // Neither one that never logs in nor one that never reads holds it up.
    let _mute = Stomp::plain(broker.address());
    let _deaf = Stomp::login(&broker, "viewer");
    let began = Instant::now();
    broker.signal(Signal::TERM);
    assert_eq!(operator.error().code, "draining");
    assert_eq!(node.stomp.error().code, "draining");
    let status = broker.wait();
    assert_eq!(status.code(), Some(0), "{}", broker.log());
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(
        files(broker.folder()).iter().all(|path| path.extension().is_none_or(|e| e != "sock")),
        "the socket is left behind"
    );
}

#[test]
fn sigint_ends_it_too() {
    let mut broker = Broker::start();
    broker.signal(Signal::INT);
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn a_killed_broker_starts_again() {
    let mut broker = Broker::start();
    broker.kill();
    broker.start_again();
    broker.assert_serves();
}

#[test]
fn two_brokers_do_not_share_a_port_or_a_control_socket() {
    let broker = Broker::start();
    let config = broker.folder().join("musterd.toml");
    let said = run(Command::new(binary("musterd")).arg("run").arg("--config").arg(config));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("another broker uses this state directory"), "{said:?}");
    let control = broker.folder().join("musterd.sock");
    let said = Setup::new().with("control", control.to_str().expect("a path")).run();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("another broker is running with this control socket"), "{said:?}");
    let said = Setup::new().with("listen.stomp", vec![broker.address().to_string()]).run();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&broker.address().to_string()), "{said:?}");
    broker.assert_serves();
}

#[test]
fn no_secret_reaches_the_log() {
    let mut broker = Setup::new().with("log.level", "trace").start();
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1, "token": "fact-secret-31" }));
    let mut operator = Stomp::operator(&broker, "noc");
    operator.send(request("prod.node.ping", "r1", "a=1").with_body(r#"{"password":"argument-secret-32"}"#));
    operator.event("accepted");
    let asked = node.request();
    node.reply(&asked, "ok", &json!({ "out": "reply-secret-33" }));
    let mut wrong = Stomp::dial(&broker);
    let mut frame = connect("noc");
    frame.headers.set("passcode", "wrong-secret-34");
    wrong.send(frame);
    assert_eq!(wrong.error().code, "auth-failed");
    let mut malformed = Stomp::dial(&broker);
    malformed.raw(format!("CONNECT\npasscode:{PASSWORD}\nno colon {PASSWORD}\n\n\0").as_bytes());
    malformed.error();
    broker.write_policy(&POLICY.replacen("kind = \"operator\"", "kind = \"policy-secret-35\"", 1));
    broker.signal(Signal::HUP);
    muster_tests::until("the refusal is logged", || broker.log().contains("policy refused").then_some(()));
    broker.signal(Signal::TERM);
    broker.wait();
    let log = broker.log();
    assert!(log.contains("request accepted") && log.contains("r1"), "requests are logged with their ids");
    let key = node::key(1).expose_hex();
    let hash = broker::phc().rsplit('$').next().expect("the hash").to_owned();
    for secret in [PASSWORD, &key, &hash, "fact-secret-31", "argument-secret-32", "reply-secret-33", "wrong-secret-34"]
    {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[test]
fn what_init_makes_is_not_readable_by_others() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("cluster");
    let said = broker::init(&folder, "demo", &["noc1"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(mode(&folder) & 0o077, 0, "the folder itself");
    let mut secrets = Vec::new();
    for path in files(&folder) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let text = fs::read_to_string(&path).unwrap_or_default();
        let is_password = path.parent().is_some_and(|parent| parent.ends_with("passwords"));
        if is_password {
            secrets.push(text.trim().to_owned());
        }
        let is_secret =
            is_password || text.contains("PRIVATE KEY") || text.contains("$argon2id$") || name.ends_with(".key");
        if is_secret && path.is_file() {
            assert_eq!(mode(&path) & 0o077, 0, "{} can be read by others", path.display());
        }
        assert_eq!(mode(&path) & 0o022, 0, "{} can be written by others", path.display());
    }
    assert!(secrets.len() >= 4 && secrets.iter().all(|secret| secret.len() >= 16), "{} passwords", secrets.len());
    for secret in &secrets {
        assert!(!said.stdout.contains(secret) && !said.stderr.contains(secret), "init prints a password");
        let others = files(&folder)
            .into_iter()
            .filter(|path| path.is_file() && !path.parent().is_some_and(|p| p.ends_with("passwords")));
        for path in others {
            assert!(
                !fs::read_to_string(&path).unwrap_or_default().contains(secret),
                "{} holds a password",
                path.display()
            );
        }
    }
    // A second time nothing is overwritten.
    let again = broker::init(&folder, "demo", &["noc1"]);
    assert_ne!(again.code, 0, "{again:?}");
}

#[test]
fn what_init_says_to_do_next_can_be_done() {
    let parent = tempfile::tempdir().expect("a folder");
    let said = broker::init(&parent.path().join("cluster"), "demo", &["noc1"]);
    // BUG: it says `muster-agent --config FILE`; the command is `muster-agent run --config FILE`.
    for line in said.stdout.lines().filter_map(|line| line.trim().strip_prefix("muster")) {
        let words: Vec<String> = format!("muster{line}").split_whitespace().map(str::to_owned).collect();
        if words.iter().any(|word| word == "--config") {
            let help = run(Command::new(binary(&words[0])).args(&words[1..]).arg("--help"));
            let known = run(Command::new(binary(&words[0])).args(&words[1..]).arg("--frobnicate"));
            assert_eq!(help.code, 0, "{words:?}: {help:?}");
            assert!(known.stderr.contains("--frobnicate"), "something else is wrong with {words:?}: {known:?}");
        }
    }
}

#[test]
fn what_a_running_broker_makes_is_not_readable_by_others() {
    let broker = Broker::start();
    for path in files(broker.folder()) {
        // BUG: the state directory is made with the mode of the umask, so that for a moment, between bind and chmod, others
        // can reach the control socket in it.
        let is_socket = path.extension().is_some_and(|e| e == "sock");
        if is_socket || path.ends_with("state") {
            assert_eq!(mode(&path) & 0o077, 0, "{} is open to others: {:o}", path.display(), mode(&path));
        }
    }
}

#[test]
fn no_secret_is_in_an_argument() {
    let broker = Broker::start();
    let arguments = fs::read(format!("/proc/{}/cmdline", broker.id())).expect("its arguments");
    let environment = fs::read(format!("/proc/{}/environ", broker.id())).expect("its environment");
    for bytes in [arguments, environment] {
        assert!(!String::from_utf8_lossy(&bytes).contains(PASSWORD));
    }
}

#[test]
fn status_says_how_it_is() {
    let broker = Broker::start();
    let _node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    let said = broker.ctl("status");
    assert_eq!(said.code, 0, "{said:?}");
    let status: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!((&status["broker"], &status["state"]["nodes"]), (&json!("noc1"), &json!(1)), "{status}");
    assert!(status["certificate_valid_until"].is_string(), "{status}");
    assert!(!said.stdout.contains(PASSWORD));
}

#[test]
fn ctl_says_when_nobody_is_there() {
    let mut broker = Broker::start();
    broker.kill();
    let said = broker.ctl("status");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("is musterd running"), "{said:?}");
}

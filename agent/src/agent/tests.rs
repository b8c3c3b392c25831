//! Does the loop keep its promises? A broker at the other end of a pipe in memory, real modules and real child processes.

use super::*;
use crate::config::AllowedCommand;
use crate::modules::{Answer, Arguments, Context, Module, Running};
use crate::run::{Stopper, stopper};
use bytes::BytesMut;
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Decoded, Decoder, Limits, Version, encode};
use muster_protocol::manifest::Manifest;
use serde_json::{Value, json};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// `odd.panic` panics; `odd.stuck` neither ends nor listens.
struct Odd(Manifest);

impl Module for Odd {
    fn manifest(&self) -> &Manifest {
        &self.0
    }

    fn run<'a>(&'a self, action: &'a str, _: Arguments, _: Context) -> Running<'a> {
        Box::pin(async move {
            assert_ne!(action, "panic", "as asked");
            std::future::pending::<Answer>().await
        })
    }
}

struct Broker {
    stream: DuplexStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Broker {
    async fn next(&mut self) -> Frame {
        let waiting = async {
            loop {
                if let Some(decoded) = self.decoder.decode(&mut self.buffer).expect("frames") {
                    if let Decoded::Frame(frame) = decoded {
                        return frame;
                    }
                    continue;
                }
                assert_ne!(self.stream.read_buf(&mut self.buffer).await.expect("read"), 0, "the agent closed");
            }
        };
        timeout(Duration::from_secs(20), waiting).await.expect("a frame from the agent")
    }

    async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        encode(&frame, Version::V1_2, &mut out);
        self.stream.write_all(&out).await.expect("written");
    }

    /// The next answer: its event, status, and body.
    async fn answer(&mut self) -> (String, String, Value) {
        let frame = self.next().await;
        assert_eq!(frame.headers.get("destination"), Some("/remote-temp-queue/noc1.x"), "{frame:?}");
        let text = |name| frame.headers.get(name).unwrap_or_default().to_owned();
        (text("muster-event"), text("muster-status"), serde_json::from_slice(&frame.body).unwrap_or_default())
    }

    /// The next terminal answer; on a busy machine any action may take the second after which it says `started`.
    async fn reply(&mut self) -> (String, String, Value) {
        loop {
            let answer = self.answer().await;
            if answer.0 != "started" {
                return answer;
            }
        }
    }

    async fn ask(&mut self, id: &str, action: &str, body: Value, more: &[(&str, &str)]) {
        let mut frame = Frame::new(Command::Message)
            .header("destination", &format!("/topic/prod.{action}"))
            .header("subscription", ACTIONS)
            .header("message-id", "m-1")
            .header("muster-caller", "ann")
            .header("muster-origin", "noc1")
            .header("muster-request", id)
            .header("reply-to", "/remote-temp-queue/noc1.x");
        for (name, value) in more {
            frame = frame.header(name, value);
        }
        self.send(frame.with_body(body.to_string())).await;
    }

    async fn refuse_or_register(&mut self, headers: &[(&str, &str)], body: &str) {
        let mut frame = Frame::new(Command::Message)
            .header("destination", "/remote-temp-queue/noc1.y")
            .header("subscription", REPLIES)
            .header("message-id", "m-2");
        for (name, value) in headers {
            frame = frame.header(name, value);
        }
        self.send(frame.with_body(body.to_owned())).await;
    }

    /// Subscriptions and the first document.
    async fn greet(&mut self) -> NodeDocument {
        assert_eq!(self.next().await.headers.get("destination"), Some("/temp-queue/agent"));
        assert_eq!(self.next().await.headers.get("destination"), Some("/topic/prod.*.*"));
        let facts = self.next().await;
        assert_eq!(facts.headers.get("destination"), Some("/muster/facts"));
        let document = NodeDocument::parse(&facts.body).expect("a document");
        assert_eq!(facts.headers.get("muster-hash"), Some(document.hash().as_str()));
        self.refuse_or_register(
            &[("muster-event", "registered"), ("muster-hash", &document.hash())],
            r#"{"asserted":{"customer":"acmeinc"}}"#,
        )
        .await;
        document
    }
}

struct Agent {
    desk: Arc<Desk>,
    snapshots: watch::Sender<Arc<crate::facts::Snapshot>>,
    stopper: Stopper,
    task: tokio::task::JoinHandle<End>,
}

fn config(dir: &Path, more: &str) -> Config {
    let text =
        format!("brokers = [\"a\"]\nuser = \"u\"\npassword-file = \"p\"\nca = \"c\"\nstate-dir = \"state\"\n{more}");
    let mut config = Config::parse(&text, &dir.join("agent.toml")).expect("good");
    config.modules.exec.enabled = true;
    config.modules.exec.allow = vec![
        AllowedCommand { program: "/bin/sleep".into(), fixed: Vec::new(), exact: false },
        AllowedCommand { program: "/bin/sh".into(), fixed: vec!["-c".into()], exact: false },
    ];
    config
}

fn snapshot(facts: Value) -> Arc<crate::facts::Snapshot> {
    let document = NodeDocument::from_value(json!({ "facts": facts, "classes": ["web"] })).expect("a document");
    Arc::new(crate::facts::Snapshot { document, collected_at: Timestamp::now(), failed: Default::default() })
}

async fn start(config: Config) -> (Broker, Agent) {
    let identity = Identity::open(&config.state_dir).expect("opened");
    let duplicates =
        Duplicates::open(&config.state_dir.join("requests"), 100, Duration::from_secs(3600), 0).expect("opened");
    let status = Status::new(&config.state_dir, identity.node().to_string());
    let mut modules = Modules::new(&config, identity.node());
    let odd = json!({"name": "odd", "description": "", "actions": {
        "panic": {"description": "", "impact": "read"}, "stuck": {"description": "", "impact": "read"}}});
    modules.add(Arc::new(Odd(serde_json::from_value(odd).expect("a manifest"))));
    let (snapshots, receiver) = watch::channel(snapshot(json!({"os": {"family": "Debian"}, "n": 1})));
    let desk = Arc::new(Desk::new(config, modules, status, receiver, duplicates));
    let (near, far) = tokio::io::duplex(1 << 22);
    let mut broker = Broker { stream: far, decoder: Decoder::new(Limits::default()), buffer: BytesMut::new() };
    let login = Login {
        user: "u".into(),
        password: "p".into(),
        node: Some(NodeLogin { key: identity.key().clone(), session: 1, time: 0 }),
        heart_beat: Duration::ZERO,
        limit: LOGIN_WITHIN,
    };
    let (logged_in, ()) = tokio::join!(session::login(near, &login), async {
        assert_eq!(broker.next().await.command, Command::Connect);
        broker.decoder.set_version(Version::V1_2);
        broker
            .send(
                Frame::new(Command::Connected)
                    .header("version", "1.2")
                    .header("muster-broker", "noc1")
                    .header("muster-collective", "prod"),
            )
            .await;
    });
    let (session, incoming) = logged_in.expect("logged in");
    let (stopper, mut stop) = stopper();
    let task = tokio::spawn({
        let desk = desk.clone();
        async move { converse(&desk, session, incoming, &mut stop).await }
    });
    (broker, Agent { desk, snapshots, stopper, task })
}

async fn fresh(more: &str) -> (tempfile::TempDir, Broker, Agent, NodeDocument) {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut broker, agent) = start(config(dir.path(), more)).await;
    let document = broker.greet().await;
    (dir, broker, agent, document)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(20), waiting).await.is_ok(), "waited for: {what}");
}

fn counted(agent: &Agent, what: &str) -> u64 {
    agent.desk.status.report().counts.get(what).copied().unwrap_or(0)
}

fn ok(answer: &(String, String, Value)) -> bool {
    (answer.0.as_str(), answer.1.as_str()) == ("reply", "ok")
}

fn failed(answer: &(String, String, Value)) -> (&str, &str) {
    (&answer.1, answer.2["error"]["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn facts_go_whole_then_as_deltas_and_whole_again_on_a_stale_base() {
    let (_dir, mut broker, agent, first) = fresh("").await;
    until("registered", || agent.desk.status.report().facts.registered_at.is_some()).await;
    agent.snapshots.send_replace(snapshot(json!({"os": {"family": "Debian"}, "n": 2})));
    let delta = broker.next().await;
    assert_eq!(delta.headers.get("muster-base"), Some(first.hash().as_str()));
    assert_eq!(serde_json::from_slice::<Value>(&delta.body).expect("JSON"), json!({"facts": {"n": 2}}));
    broker
        .refuse_or_register(
            &[("muster-event", "refused"), ("muster-code", "stale-base"), ("message", "send the whole")],
            "",
        )
        .await;
    let whole = broker.next().await;
    assert_eq!(whole.headers.get("muster-base"), None);
    assert_eq!(NodeDocument::parse(&whole.body).expect("whole").facts.as_value()["n"], 2);
}

#[tokio::test]
async fn a_request_gets_one_answer_and_a_duplicate_none_even_after_a_restart() {
    let (dir, mut broker, agent, _) = fresh("").await;
    broker
        .ask("r-1", "node.ping", json!({}), &[("muster-target", "os.family=Debian and customer=acmeinc and class=web")])
        .await;
    let answer = broker.answer().await;
    assert!(ok(&answer) && answer.2["time"].is_u64(), "{answer:?}");
    broker.ask("r-1", "node.ping", json!({}), &[]).await;
    until("the duplicate is ignored", || counted(&agent, "ignored-duplicate") == 1).await;
    agent.stopper.stop();
    assert_eq!(broker.next().await.command, Command::Disconnect, "and no second answer");
    drop(broker);
    assert!(matches!(agent.task.await.expect("no panic"), End::Stopped));
    drop(agent.desk);
    let (mut broker, agent) = start(config(dir.path(), "")).await;
    broker.greet().await;
    broker.ask("r-1", "node.ping", json!({}), &[]).await;
    broker.ask("r-2", "node.ping", json!({}), &[]).await;
    let frame = broker.next().await;
    assert_eq!(frame.headers.get("muster-request"), Some("r-2"));
    until("the duplicate is ignored", || counted(&agent, "ignored-duplicate") == 1).await;
}

/// Action, body, more headers; state and code of the answer.
type Case = (&'static str, Value, &'static [(&'static str, &'static str)], (&'static str, &'static str));

#[tokio::test]
async fn what_may_not_run_is_answered_with_its_state() {
    let (_dir, mut broker, agent, _) = fresh("[policy]\ndeny = [\"service.stop\"]\n").await;
    let cases: &[Case] = &[
        ("node.ping", json!({}), &[("muster-target", "os.family=RedHat")], ("declined", "no-match")),
        ("node.ping", json!({}), &[("muster-start-within", "0")], ("failed", "too-late")),
        ("service.stop", json!({"name": "x"}), &[], ("denied", "local-policy")),
        ("exec.run", json!({"command": "/bin/ls"}), &[], ("denied", "not-allowed")),
        ("node.dance", json!({}), &[], ("failed", "unknown-action")),
        ("ballet.dance", json!({}), &[], ("failed", "unknown-action")),
        ("node.ping", json!({"x": 1}), &[], ("failed", "bad-argument")),
        ("node.ping", json!([1]), &[], ("failed", "bad-argument")),
        ("node.facts", json!({"path": "no.such"}), &[], ("failed", "no-such-fact")),
        ("odd.panic", json!({}), &[], ("crashed", "crashed")),
        ("exec.run", json!({"command": "/bin/sh", "args": ["-c", "kill -9 $$"]}), &[], ("crashed", "signal")),
        ("exec.run", json!({"command": "/bin/sh", "args": ["-c", "exit 3"]}), &[], ("failed", "exit-code")),
    ];
    for (number, (action, body, headers, expected)) in cases.iter().enumerate() {
        broker.ask(&format!("r-{number}"), action, body.clone(), headers).await;
        let answer = broker.reply().await;
        assert_eq!(failed(&answer), *expected, "{action} {headers:?}");
    }
    let unstamped = Frame::new(Command::Message)
        .header("destination", "/topic/prod.node.ping")
        .header("subscription", ACTIONS)
        .header("message-id", "m-3")
        .header("muster-request", "r-x")
        .header("reply-to", "/remote-temp-queue/noc1.x");
    broker.send(unstamped).await;
    until("it is ignored", || counted(&agent, "ignored-not-stamped") == 1).await;
}

#[tokio::test]
async fn a_slow_action_says_started_ends_at_its_limit_and_can_be_cancelled() {
    let (dir, mut broker, _agent, _) = fresh("[limits]\naction-time = \"1500ms\"\n").await;
    broker.ask("r-1", "exec.run", json!({"command": "/bin/sleep", "args": ["600"]}), &[]).await;
    assert_eq!(broker.answer().await.0, "started");
    let answer = broker.answer().await;
    assert_eq!(failed(&answer), ("timed-out", "timed-out"));
    let file = dir.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", file.display());
    broker.ask("r-2", "exec.run", json!({"command": "/bin/sh", "args": ["-c", script]}), &[]).await;
    until("it runs", || std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))).await;
    let cancel = |caller: &str| {
        Frame::new(Command::Message)
            .header("destination", "/topic/prod.exec.run")
            .header("subscription", ACTIONS)
            .header("message-id", "m-4")
            .header("muster-event", "cancel")
            .header("muster-request", "r-2")
            .header("muster-caller", caller)
    };
    broker.send(cancel("bob")).await;
    broker.send(cancel("ann")).await;
    let answer = broker.reply().await;
    assert_eq!(failed(&answer), ("cancelled", "cancelled"));
    let pid = std::fs::read_to_string(&file).expect("read");
    until("the grandchild is dead", || {
        !Path::new(&format!("/proc/{}", pid.trim())).exists()
            || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| stat.contains(") Z"))
    })
    .await;
}

#[tokio::test]
async fn beyond_the_concurrency_requests_wait_and_beyond_the_queue_they_are_told_busy() {
    let (_dir, mut broker, agent, _) = fresh("[limits]\nconcurrency = 1\nqueue = 1\n").await;
    broker.ask("r-1", "odd.stuck", json!({}), &[]).await;
    until("it has its slot", || agent.desk.open.borrow().len() == 1).await;
    assert_eq!(broker.answer().await.0, "started");
    broker.ask("r-2", "node.ping", json!({}), &[("muster-start-within", "300")]).await;
    broker.ask("r-3", "node.ping", json!({}), &[]).await;
    assert_eq!(failed(&broker.answer().await), ("failed", "busy"));
    assert_eq!(failed(&broker.answer().await), ("failed", "too-late"));
}

#[tokio::test]
async fn told_to_stop_it_ends_what_runs_answers_and_says_goodbye() {
    let (_dir, mut broker, agent, _) = fresh("[limits]\nstop-time = \"100ms\"\n").await;
    broker.ask("r-1", "exec.run", json!({"command": "/bin/sleep", "args": ["600"]}), &[]).await;
    until("it runs", || agent.desk.open.borrow().len() == 1).await;
    agent.stopper.stop();
    let answer = broker.reply().await;
    assert_eq!(failed(&answer), ("cancelled", "cancelled"));
    assert_eq!(broker.next().await.command, Command::Disconnect);
    drop(broker);
    assert!(matches!(agent.task.await.expect("no panic"), End::Stopped));
}

#[tokio::test]
async fn a_refusal_or_a_lost_connection_ends_the_session_with_its_reason() {
    let (_dir, mut broker, agent, _) = fresh("").await;
    broker
        .send(
            Frame::new(Command::Error)
                .header("muster-code", "draining")
                .header("message", "the broker stops")
                .header("muster-retry-after", "1200"),
        )
        .await;
    match agent.task.await.expect("no panic") {
        End::Failed(text, after) => {
            assert!(text.contains("the broker stops") && after == Some(Duration::from_millis(1200)), "{text} {after:?}")
        }
        End::Stopped => panic!("it was not told to stop"),
    }
    let (_dir, broker, agent, _) = fresh("").await;
    drop(broker);
    assert!(matches!(agent.task.await.expect("no panic"), End::Failed(_, None)));
}

#[tokio::test]
async fn with_no_broker_there_it_keeps_trying_and_its_status_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let certified = dir.path().join("c");
    let mut config = config(dir.path(), "[facts]\nfacter = \"off\"\n");
    config.brokers = vec!["127.0.0.1:1".parse().expect("an address")];
    assert!(matches!(run(config.clone(), stopper().1).await, Err(AgentError::Config(_))), "no password file");
    crate::whole::replace(&config.password_file, b"secret\n", crate::whole::Durable::No).expect("written");
    assert!(matches!(run(config.clone(), stopper().1).await, Err(AgentError::Tls(_))), "no CA");
    let ca = rcgen::generate_simple_self_signed(vec!["ca".into()]).expect("a certificate").cert.pem();
    std::fs::write(&certified, ca).expect("written");
    let file = config.state_dir.join(crate::status::FILE);
    let (stopper, stop) = stopper();
    let task = tokio::spawn(run(config, stop));
    let read =
        || std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()).unwrap_or_default();
    until("two failed tries", || read()["counts"]["failed-connections"].as_u64() >= Some(2)).await;
    let status = read();
    assert!(status["last_error"]["text"].as_str().is_some_and(|text| text.contains("127.0.0.1:1")), "{status}");
    assert!(!status.to_string().contains("secret"));
    stopper.stop();
    task.await.expect("no panic").expect("a clean end");
    assert_eq!(read()["state"], "stopped");
}

#[test]
fn brokers_are_tried_as_listed_or_from_a_random_one_on_and_each_once() {
    let brokers: Vec<Address> = ["near", "far", "farther"].map(|name| name.parse().expect("an address")).into();
    let tried = |order, random| -> Vec<String> {
        in_order(&brokers, order, random).map(|address| address.host().to_owned()).collect()
    };
    for random in 0..6 {
        assert_eq!(tried(BrokerOrder::Listed, random), ["near", "far", "farther"]);
    }
    assert_eq!(tried(BrokerOrder::Random, 4), ["far", "farther", "near"]);
    let first: std::collections::BTreeSet<String> =
        (0..6).map(|random| tried(BrokerOrder::Random, random)[0].clone()).collect();
    assert_eq!(first.len(), 3, "every broker comes first at times");
}

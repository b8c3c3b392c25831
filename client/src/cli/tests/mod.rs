//! Does each command say and return what it should? Whole commands against a broker that plays a script.

mod admin;
mod audit;
mod mesh;
mod queries;
mod requests;

use super::surface::tests::{Written, scripted};
use super::*;
use crate::fake::{self, Peer, display, node};
use clap::CommandFactory;
use muster_protocol::message::header;
use serde_json::{Value, json};
use std::future::Future;
use tokio::io::DuplexStream;

/// Who sits in front of the command.
struct Operator {
    press: tokio::sync::mpsc::Sender<()>,
    out: Written,
}

impl Operator {
    /// Presses Ctrl-C once `text` has been printed.
    async fn ctrl_c_after(&self, text: &str) {
        while !self.out.text().contains(text) {
            tokio::task::yield_now().await;
        }
        self.press.send(()).await.expect("a client");
    }
}

/// Exit code, stdout and stderr; `N1` and so on stand for node ids.
type Result3 = (u8, String, String);

async fn muster<F, B>(arguments: &[&str], answers: &[&str], broker: F) -> Result3
where
    F: FnOnce(Peer<DuplexStream>, Operator) -> B,
    B: Future<Output = ()> + Send + 'static,
{
    muster_with(arguments, answers, &[], broker).await
}

/// The same, and these secrets are typed; see `Surface::with_secrets`.
async fn muster_with<F, B>(arguments: &[&str], answers: &[&str], secrets: &[(&str, &str)], broker: F) -> Result3
where
    F: FnOnce(Peer<DuplexStream>, Operator) -> B,
    B: Future<Output = ()> + Send + 'static,
{
    let cli = Cli::try_parse_from(std::iter::once(&"muster").chain(arguments)).expect("arguments");
    let (surface, out, err, press) = scripted(answers);
    let (client, peer) = fake::connect().await;
    let settings = Settings {
        brokers: Vec::new(),
        user: "alice".into(),
        password: crate::config::PasswordSource::Prompt,
        ca: PathBuf::new(),
        tls: None,
        collective: "prod".into(),
        confirm_above: 2,
        connect_timeout: Duration::from_secs(5),
        tokens: None,
    };
    let surface = surface.with_secrets(secrets);
    let context = Context { options: Overrides::default(), settings: Some(settings), client: Some(client), surface };
    let broker = tokio::spawn(broker(peer, Operator { press, out: out.clone() }));
    let code = Box::pin(execute(cli, context)).await;
    broker.await.expect("the broker's script");
    (code, named(&out.text()), named(&err.text()))
}

fn named(text: &str) -> String {
    (1..10).fold(text.to_owned(), |text, n| text.replace(&node(n).to_string(), &format!("N{n}")))
}

fn found(nodes: &[u8], count: u64) -> Value {
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|&n| json!({"id": node(n), "display": display(n), "facts": {"cpu.count": n}, "since": 0}))
        .collect();
    json!({"count": count, "nodes": nodes, "registering": 0})
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn arguments_parse_or_are_refused() {
    let good: &[&[&str]] = &[
        &["find", "--all"],
        &["find", "-w", "a=1", "-F", "b=2", "-C", "web", "-W", "c=1 /d/", "-f", "x,y", "-f", "z", "--json"],
        &["--broker", "a", "--broker", "b:1", "--user", "u", "find", "--count", "-C", "web"],
        &["find", "-C", "web", "--user", "u", "--ca", "f", "--password-file", "p", "--connect-timeout", "2s"],
        &[
            "run",
            "service.restart",
            "name=nginx",
            "n:=3",
            "--all",
            "--batch",
            "10%",
            "--max-failures",
            "2",
            "--limit",
            "5",
            "-y",
        ],
        &[
            "run",
            "a.b",
            "--all",
            "--timeout",
            "2m",
            "--start-within",
            "5s",
            "--expect",
            "3",
            "--max-targets",
            "9",
            "--dry-run",
            "--ndjson",
        ],
        &["ping", "--all"],
        &["ping", "--all", "--max-targets", "9", "--allow-partial"],
        &["run", "a.b", "--all", "--allow-partial"],
        &["mesh"],
        &["mesh", "--dot"],
        &["mesh", "--json"],
        &["facts", "os.family", "cpu.count", "--all"],
        &["report", "os.family", "-C", "web"],
        &["inventory", "n-aaaaaaaaaaaaaaaaaaaa"],
        &["explain", "-w", "a=1", "n-aaaaaaaaaaaaaaaaaaaa"],
        &["admin", "explain", "bob", "write", "/topic/prod.a.b"],
        &["login"],
        &["--user", "bob", "login"],
        &["logout", "--user", "bob"],
        &["admin", "explain", "bob", "write", "/topic/prod.a.b", "-w", "a=1"],
        &["admin", "diff", "policy.toml", "--json"],
        &["admin", "lint"],
        &["admin", "lint", "policy.toml", "--json"],
        &["audit"],
        &["audit", "--since", "1h", "--until", "2027-01-31T18:00:00Z", "--by", "bob", "--denied", "--json"],
        &[
            "audit",
            "--destination",
            "/topic/prod.>",
            "--node",
            "n-a",
            "--request",
            "r",
            "--event",
            "login",
            "--limit",
            "5",
        ],
        &["audit", "--allowed", "--ndjson", "--broker", "dc1", "--user", "admin"],
        &["completion", "zsh"],
    ];
    for arguments in good {
        let parsed = Cli::try_parse_from(std::iter::once(&"muster").chain(*arguments));
        assert!(parsed.is_ok(), "{arguments:?}: {}", parsed.err().map(|e| e.to_string()).unwrap_or_default());
    }
    let bad: &[&[&str]] = &[
        &[],
        &["find", "--json", "--ndjson", "--all"],
        &["find", "--password", "x", "--all"],
        &["run"],
        &["run", "a.b", "--batch", "0", "--all"],
        &["run", "a.b", "--max-failures", "1", "--all"],
        &["run", "a.b", "--timeout", "2d", "--all"],
        &["facts", "--all"],
        &["inventory", "web1.example.net"],
        &["admin", "explain", "bob", "drink", "/topic/x"],
        &["admin", "explain", "bob", "write", "/topic/x", "-w", "a="],
        &["admin", "diff"],
        &["--broker", "tcp://x", "find", "--all"],
        &["mesh", "--dot", "--json"],
        &["mesh", "--all"],
        &["login", "--password", "x"],
        &["login", "bob"],
        &["audit", "--allowed", "--denied"],
        &["audit", "--since", "soon"],
        &["audit", "--until", "yesterday"],
        &["audit", "--destination", "prod"],
        &["audit", "--limit", "0"],
        &["audit", "--json", "--ndjson"],
        &["completion", "tcsh"],
    ];
    for arguments in bad {
        assert!(Cli::try_parse_from(std::iter::once(&"muster").chain(*arguments)).is_err(), "{arguments:?}");
    }
}

/// A broker that is asked nothing.
async fn silent(mut peer: Peer<DuplexStream>, _: Operator) {
    while let Some(frame) = peer.next().await {
        assert_ne!(frame.command, muster_protocol::frame::Command::Send, "something was sent");
        if frame.command == muster_protocol::frame::Command::Disconnect {
            return;
        }
    }
}

#[tokio::test]
async fn a_target_is_required_before_anything_is_sent() {
    for (arguments, expected) in [
        (&["run", "a.b"] as &[&str], 4),
        (&["find"], 4),
        (&["find", "-w", "a=="], 64),
        (&["find", "--all", "-w", "a=1"], 64),
        (&["run", "ab", "--all"], 64),
        (&["run", "a.b", "x", "--all"], 64),
        (&["facts", "a..b", "--all"], 64),
        (&["explain", "n-aaaaaaaaaaaaaaaaaaaa"], 64),
    ] {
        let (code, out, err) = muster(arguments, &[], silent).await;
        assert_eq!((code, out.as_str()), (expected, ""), "{arguments:?}: {err}");
    }
}

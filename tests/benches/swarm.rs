//! What does a crowd cost? A real broker with TLS and simulated agents that register facts: memory of an idle session,
//! time until the last of them has a message, and `muster find` from process start to exit.
//!
//! `cargo bench -p muster-tests --bench swarm [-- AGENTS]`; 10,000 unless told. Broker and agents share the machine, so the
//! figures are upper bounds. Everything is on loopback, and ends with this process.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program")]

use bytes::Bytes;
use muster_protocol::dial::{Address, connect};
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::{NodeKey, header};
use muster_protocol::session::{Incoming, Login, NodeLogin, Session, login};
use muster_protocol::tls;
use secrecy::SecretString;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

type Stream = muster_protocol::dial::Stream;

/// A process that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let agents: usize = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(10_000);
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(run(agents));
}

async fn run(agents: usize) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("noc1");
    let port = free_port();
    command("musterd")
        .args(["init", "--address", "127.0.0.1", "--admin", "127.0.0.1:0", "--listen"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("--dir")
        .arg(&dir)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let mut musterd = command("musterd");
    musterd.args(["run", "--config"]).arg(dir.join("musterd.toml")).stderr(Stdio::null());
    let broker = Running(musterd.spawn().unwrap());
    let address: Address = format!("127.0.0.1:{port}").parse().unwrap();
    let tls = tls::client_config(&dir.join("ca.pem"), None).unwrap();
    until_listening(&address).await;
    let before = resident(broker.0.id());

    let user = "node-a-acme";
    let password =
        SecretString::from(std::fs::read_to_string(dir.join("passwords").join(user)).unwrap().trim().to_owned());
    let (arrived, mut arrivals) = mpsc::channel(agents);
    // The first login computes the hash that the others find in the cache; then 16 at once, below the broker's cap for one address.
    let gate = Arc::new(Semaphore::new(1));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..agents {
        let (address, tls, password, arrived, gate) =
            (address.clone(), tls.clone(), password.clone(), arrived.clone(), gate.clone());
        tasks.push(tokio::spawn(async move {
            let permit = gate.acquire_owned().await.unwrap();
            let stream = connect(&address, &tls, Duration::from_secs(10)).await.unwrap();
            let (session, incoming) = log_in(stream, user, &password, Some(number)).await;
            drop(permit);
            agent(number, session, incoming, arrived).await;
        }));
    }
    for number in 0..agents {
        arrivals.recv().await.unwrap();
        if number == 0 {
            gate.add_permits(15);
        }
    }
    let storm = started.elapsed();
    let bytes = (resident(broker.0.id()) - before) / agents as u64;
    println!(
        "{agents} agents over TLS, each with registered facts (20 values): up in {:.2} s ({:.0}/s)",
        storm.as_secs_f64(),
        agents as f64 / storm.as_secs_f64()
    );
    println!(
        "broker memory for an idle session with registered facts: {bytes} bytes (resident set, sockets in the kernel not counted)"
    );

    let password = SecretString::from(
        std::fs::read_to_string(dir.join("passwords").join("alice")).unwrap_or_default().trim().to_owned(),
    );
    let operator = operator_name(&dir);
    let password = if operator == "alice" {
        password
    } else {
        SecretString::from(std::fs::read_to_string(dir.join("passwords").join(&operator)).unwrap().trim().to_owned())
    };
    let stream = connect(&address, &tls, Duration::from_secs(10)).await.unwrap();
    let (session, mut incoming) = log_in(stream, &operator, &password, None).await;
    session.subscribe("/temp-queue/bench", "1").await.unwrap();
    for round in 0..5 {
        let sent = Instant::now();
        session.send(request(round)).await.unwrap();
        for _ in 0..agents {
            arrivals.recv().await.unwrap();
        }
        let last = sent.elapsed();
        while incoming.next().await.unwrap().headers.get(header::EVENT) != Some("done") {}
        println!(
            "request {round}: the last of {agents} has it after {:.1} ms; all replies are in after {:.1} ms",
            last.as_secs_f64() * 1e3,
            sent.elapsed().as_secs_f64() * 1e3
        );
    }
    let mut times = Vec::new();
    for _ in 0..10 {
        let begun = Instant::now();
        let mut muster = command("muster");
        muster.args(["--config"]).arg(dir.join("muster.toml")).args(["find", "--count", "-w", "serial = s77"]);
        muster.env("MUSTER_USER", &operator).env("MUSTER_PASSWORD_FILE", dir.join("passwords").join(&operator));
        let output = muster.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        times.push(begun.elapsed());
    }
    times.sort();
    println!(
        "muster find, from process start to exit, beside {agents} agents: median {:.1} ms of 10",
        times[5].as_secs_f64() * 1e3
    );
    for task in tasks {
        task.abort();
    }
}

async fn log_in(
    stream: Stream,
    user: &str,
    password: &SecretString,
    number: Option<usize>,
) -> (Session, Incoming<Stream>) {
    let node = number.map(|number| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        NodeLogin { key: NodeKey::new(key), session: 1, time: 0 }
    });
    let (user, password) = (user.to_owned(), password.clone());
    let login_data = Login { user, password, node, heart_beat: Duration::ZERO, limit: Duration::from_secs(10) };
    login(stream, &login_data).await.unwrap()
}

/// Registers, then answers every request; says when it has registered and when it got something.
async fn agent(number: usize, session: Session, mut incoming: Incoming<Stream>, arrived: mpsc::Sender<usize>) {
    session.subscribe("/topic/prod.*.*", "1").await.unwrap();
    session.subscribe("/temp-queue/agent", "2").await.unwrap();
    let facts: serde_json::Map<String, serde_json::Value> =
        (0..16).map(|i| (format!("fact{i}"), json!(format!("value{}", number % (i + 2))))).collect();
    let mut facts = serde_json::Value::Object(facts);
    facts["serial"] = json!(format!("s{number}"));
    facts["os"] = json!({"family": "Debian", "release": "12.11"});
    facts["cpu"] = json!({"count": number % 64});
    let document =
        NodeDocument::from_value(json!({"facts": facts, "classes": ["web"], "modules": {"node": "x"}})).unwrap();
    let body = serde_json::to_vec(&document.to_value()).unwrap();
    let frame =
        Frame::new(Command::Send).header("destination", "/muster/facts").header(header::REPLY_TO, "/temp-queue/agent");
    session.send(frame.header(header::HASH, &document.hash()).with_body(Bytes::from(body))).await.unwrap();
    while let Ok(frame) = incoming.next().await {
        if arrived.send(number).await.is_err() {
            return;
        }
        if let Some(queue) = frame.headers.get(header::REPLY_TO) {
            let reply = Frame::new(Command::Send)
                .header("destination", queue)
                .header(header::REQUEST, frame.headers.get(header::REQUEST).unwrap_or_default())
                .header(header::EVENT, "reply")
                .header(header::STATUS, "ok")
                .with_body(Bytes::from_static(b"{}"));
            session.send(reply).await.unwrap();
        }
    }
}

fn request(round: usize) -> Frame {
    Frame::new(Command::Send)
        .header("destination", "/topic/prod.node.ping")
        .header(header::TARGET, "os.family = Debian")
        .header(header::REQUEST, &format!("r{round}"))
        .header(header::REPLY_TO, "/temp-queue/bench")
        .with_body(Bytes::from_static(b"{}"))
}

/// The unscoped operator that `musterd init` makes.
fn operator_name(dir: &Path) -> String {
    let config = std::fs::read_to_string(dir.join("muster.toml")).unwrap();
    let line = config.lines().find_map(|line| line.strip_prefix("user = \"")).unwrap();
    line.trim_end_matches('"').to_owned()
}

/// A binary of this workspace, beside this bench.
fn command(name: &str) -> std::process::Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let binary = path.join(name);
    assert!(binary.exists(), "{} is missing: run `cargo build --release` first", binary.display());
    std::process::Command::new(binary)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn until_listening(address: &Address) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect((address.host(), address.port())).await.is_err() {
        assert!(Instant::now() < deadline, "the broker does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Resident set of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

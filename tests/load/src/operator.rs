//! What does an operator see? Requests and questions on one connection, and `muster` as a process from start to exit.

use crate::cluster::{Cluster, OPERATOR};
use crate::ending::{Ended, Ending};
use crate::times::now;
use crate::wire;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::{NodeId, header};
use muster_protocol::request::{Event, FindAnswer, MeshAnswer, Reach, State};
use muster_protocol::session::{self, Incoming, Login, Session};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(20);
/// How long answers are awaited; the brokers' own limit, and some.
const ANSWER: Duration = Duration::from_secs(75);
const REPLY_QUEUE: &str = "/temp-queue/load";
/// Any of the actions that an operator of group noc may send.
const TOPIC: &str = "/topic/prod.node.ping";

/// An operator on one connection.
pub(crate) struct Operator {
    session: Session,
    incoming: Incoming<wire::Stream>,
    requests: u64,
}

/// What came of a request.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Its id.
    pub(crate) id: String,
    pub(crate) sent: u64,
    /// Each reply, and when it was read.
    pub(crate) replies: Vec<(NodeId, u64)>,
    /// Nodes that ended in another state than `ok`.
    pub(crate) not_ok: BTreeMap<String, u64>,
    /// When everybody was accounted for.
    pub(crate) done: Option<u64>,
    /// Why it was not accepted, or which brokers were missing.
    pub(crate) trouble: Option<String>,
}

/// What `muster` did.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// From just before its start until it was over, in ms.
    pub(crate) took: f64,
}

/// The password of the operator.
pub(crate) fn password(cluster: &Cluster) -> Result<SecretString> {
    let file = cluster.operator_password();
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(SecretString::from(text.trim_end()))
}

impl Operator {
    /// Logs in at a broker.
    pub(crate) async fn connect(cluster: &Cluster, broker: SocketAddr) -> Result<Operator> {
        let tls = wire::client_config(&cluster.ca())?;
        let stream = wire::connect(Ipv4Addr::LOCALHOST, broker, &tls, WITHIN).await;
        let stream = stream.map_err(|(what, error)| anyhow!("operator: {what}: {error}"))?;
        let (user, password) = (OPERATOR.to_owned(), password(cluster)?);
        let login = Login { user, password, node: None, heart_beat: Duration::ZERO, limit: WITHIN };
        let (session, incoming) = session::login(stream, &login).await.context("operator")?;
        session.subscribe(REPLY_QUEUE, "replies").await?;
        Ok(Operator { session, incoming, requests: 0 })
    }

    /// A message to the nodes that match, which nobody answers; its id and when it was sent.
    pub(crate) async fn message(&mut self, target: &str, body: &Bytes) -> Result<(String, u64)> {
        let id = self.next_id();
        let frame = Frame::new(Command::Send)
            .header("destination", TOPIC)
            .header(header::TARGET, target)
            .header("correlation-id", &id)
            .with_body(body.clone());
        let sent = now();
        self.session.send(frame).await?;
        Ok((id, sent))
    }

    /// A request to the nodes that match, until everybody is accounted for. What there is by then if the run ends.
    pub(crate) async fn request(&mut self, target: &str, body: &Bytes, ending: &Ending) -> Result<Gathered> {
        let id = self.next_id();
        let frame = Frame::new(Command::Send)
            .header("destination", TOPIC)
            .header(header::TARGET, target)
            .header(header::REQUEST, &id)
            .header(header::REPLY_TO, REPLY_QUEUE)
            .with_body(body.clone());
        let mut gathered = Gathered { sent: now(), id, ..Gathered::default() };
        self.session.send(frame).await?;
        match ending.unless(timeout(ANSWER, self.gather(&mut gathered))).await {
            Err(Ended(_)) | Ok(Err(_)) => {}
            Ok(Ok(gathered)) => gathered?,
        }
        Ok(gathered)
    }

    async fn gather(&mut self, gathered: &mut Gathered) -> Result<()> {
        while gathered.done.is_none() {
            let frame = self.incoming.next().await?;
            let text = |name| frame.headers.get(name);
            if text(header::REQUEST) != Some(&gathered.id) {
                continue;
            }
            match text(header::EVENT).and_then(Event::parse) {
                Some(Event::Reply) if text(header::STATUS) == Some(State::Ok.as_str()) => {
                    gathered.replies.push((NodeId::parse(text(header::NODE).unwrap_or_default())?, now()));
                }
                Some(Event::Done) => {
                    let done: muster_protocol::request::Done = serde_json::from_slice(&frame.body)?;
                    gathered.done = Some(now());
                    let not_ok = done.states.iter().filter(|(state, _)| **state != State::Ok);
                    gathered.not_ok = not_ok.map(|(state, count)| (state.to_string(), *count)).collect();
                    if let Some(missing) = done.without.first() {
                        gathered.trouble = Some(format!("without broker {}: {}", missing.broker, missing.text));
                    }
                }
                Some(Event::Refused) => {
                    gathered.trouble = Some(text(header::MESSAGE).unwrap_or("refused").to_owned());
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// How many nodes match, and how many brokers could not say.
    pub(crate) async fn find(&mut self, target: &str) -> Result<(u64, usize)> {
        let answer: FindAnswer = self.ask("/muster/find", Some(target), r#"{"limit":1}"#).await?;
        Ok((answer.count, answer.without.len()))
    }

    /// How many brokers of the mesh can be reached, this one included.
    pub(crate) async fn reachable(&mut self) -> Result<usize> {
        let answer: MeshAnswer = self.ask("/muster/mesh", None, "{}").await?;
        let is_there = |reach| matches!(reach, Reach::Here | Reach::Reachable);
        Ok(answer.brokers.iter().filter(|broker| is_there(broker.reach)).count())
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        destination: &str,
        target: Option<&str>,
        body: &'static str,
    ) -> Result<T> {
        let id = self.next_id();
        let mut frame = Frame::new(Command::Send)
            .header("destination", destination)
            .header(header::REQUEST, &id)
            .header(header::REPLY_TO, REPLY_QUEUE);
        if let Some(target) = target {
            frame = frame.header(header::TARGET, target);
        }
        self.session.send(frame.with_body(body)).await?;
        let answer = async {
            loop {
                let frame = self.incoming.next().await?;
                if frame.headers.get(header::REQUEST) != Some(&id) {
                    continue;
                }
                match frame.headers.get(header::EVENT).and_then(Event::parse) {
                    Some(Event::Answer) => return Ok(serde_json::from_slice(&frame.body)?),
                    Some(Event::Refused) => {
                        bail!("{destination}: {}", frame.headers.get(header::MESSAGE).unwrap_or("refused"))
                    }
                    _ => {}
                }
            }
        };
        timeout(ANSWER, answer).await.with_context(|| format!("{destination}: no answer"))?
    }

    fn next_id(&mut self) -> String {
        self.requests += 1;
        format!("load-{}", self.requests)
    }
}

/// The real `muster`, with the operator's settings, as a process of its own.
pub(crate) struct Muster {
    program: std::path::PathBuf,
    config: std::path::PathBuf,
    home: std::path::PathBuf,
}

impl Muster {
    /// Of this cluster.
    pub(crate) fn of(cluster: &Cluster) -> Muster {
        Muster {
            program: cluster.bin().join("muster"),
            config: cluster.operator_config(),
            home: cluster.home().to_owned(),
        }
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = tokio::process::Command::new(&self.program);
        command.env_clear().env("HOME", &self.home).arg("--config").arg(&self.config).args(arguments);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let started = now();
        let output = command.output().await.with_context(|| self.program.display().to_string())?;
        let took = crate::times::ms(started, now());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr), took })
    }
}

//! What does the agent do all day? Connect, register, answer, repeat; it never gives up, and `status.json` says why it waits.

use crate::answer::Desk;
use crate::config::{BrokerOrder, Config, ConfigError};
use crate::duplicates::Duplicates;
use crate::facts::Sources;
use crate::identity::{Identity, IdentityError};
use crate::modules::Modules;
use crate::publish::{ANSWER_WITHIN, Publisher};
use crate::requests::{self, Arrival};
use crate::run::Stop;
use crate::status::{State, Status};
use crate::token::Kept;
use jiff::Timestamp;
use muster_protocol::dial::{self, Address, BackOff};
use muster_protocol::error::Code;
use muster_protocol::facts::Facts;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::header;
use muster_protocol::request::{Event, Registered};
use muster_protocol::session::{self, Incoming, Login, NodeLogin, Session, SessionError};
use muster_protocol::tls::{self, TlsError};
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

/// For TCP and TLS together, and for the login after them; the broker allows 5 s for both.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// A session that held this long starts the back-off from its beginning.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// A broker can ask for no longer wait than this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

const REPLY_QUEUE: &str = "/temp-queue/agent";
const REPLIES: &str = "replies";
const ACTIONS: &str = "actions";

/// Why an agent does not even start. Once it runs, nothing but a signal ends it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file of the configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state folder cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The CA file cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The memory of requests cannot be opened.
    #[error(
        "{file}: {cause}; correct its owner or disk, or delete it: then a request of the last hours that is sent again would run again"
    )]
    Memory {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// Why a connection ended, or was not had.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Failed(String, Option<Duration>),
    #[error("told to stop")]
    Stopped,
}

/// Runs until `stop` is told.
pub async fn run(config: Config, mut stop: Stop) -> Result<(), AgentError> {
    config.password()?;
    tls::client_config(&config.ca, config.tls.as_ref())?;
    let mut identity = Identity::open(&config.state_dir)?;
    let file = config.state_dir.join("requests");
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let duplicates = Duplicates::open(&file, config.limits.remember, config.limits.remember_for, now)
        .map_err(|cause| AgentError::Memory { file, cause })?;
    let status = Status::new(&config.state_dir, identity.node().to_string());
    tracing::info!(node = %identity.node(), version = env!("CARGO_PKG_VERSION"), "muster-agent starts");
    let modules = Modules::new(&config, identity.node());
    let sources = Sources::new(&config, modules.announced());
    let (snapshots, receiver) = watch::channel(Arc::new(sources.collect().await));
    tokio::spawn(sources.keep(snapshots));
    let desk = Arc::new(Desk::new(config, modules, status, receiver, duplicates));
    note_facts(&desk);
    let mut kept = Kept::open(&desk.config.state_dir);
    let mut back_off = BackOff::new(Duration::from_millis(250), Duration::from_secs(60));
    loop {
        let retry_after = match pass(&desk, &mut identity, &mut kept, &mut back_off, &mut stop).await {
            End::Stopped => break,
            End::Failed(_, retry_after) => retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER),
        };
        // The broker's time is the least; the jitter on top keeps a fleet from coming back at once.
        let wait = retry_after + back_off.next(rand::random());
        desk.status.waiting(wait);
        tokio::select! {
            () = stop.stopped() => break,
            () = sleep(wait) => {}
        }
    }
    finish(&desk).await;
    desk.status.enter(State::Stopped);
    tracing::info!("muster-agent has stopped");
    Ok(())
}

/// Each broker once: as they are listed, or from a random one on.
fn in_order(brokers: &[Address], order: BrokerOrder, random: u32) -> impl Iterator<Item = &Address> {
    let first = match order {
        BrokerOrder::Random => random as usize % brokers.len().max(1),
        BrokerOrder::Listed => 0,
    };
    brokers.iter().cycle().skip(first).take(brokers.len())
}

/// Tries the brokers in their order until one has taken us and the session has ended; else gives the last failure,
/// with the shortest time that any broker asked for.
async fn pass(
    desk: &Arc<Desk>,
    identity: &mut Identity,
    kept: &mut Kept,
    back_off: &mut BackOff,
    stop: &mut Stop,
) -> End {
    let config = &desk.config;
    let mut last = End::Stopped;
    let mut shortest: Option<Duration> = None;
    for address in in_order(&config.brokers, config.broker_order, rand::random()) {
        desk.status.change(|report| {
            report.enter(State::Connecting);
            report.broker = Some(address.to_string());
        });
        let attempt = tokio::select! {
            attempt = connect(desk, identity, kept, address) => attempt,
            () = stop.stopped() => return End::Stopped,
        };
        let (session, incoming) = match attempt {
            Ok(pair) => pair,
            Err(failed) => {
                note_failure(desk, &failed);
                if let End::Failed(_, Some(after)) = &failed {
                    shortest = Some(shortest.map_or(*after, |known| known.min(*after)));
                }
                last = failed;
                continue;
            }
        };
        let since = Instant::now();
        let end = converse(desk, session, incoming, stop).await;
        if since.elapsed() >= STABLE_AFTER {
            back_off.reset();
        }
        note_failure(desk, &end);
        return end;
    }
    match last {
        End::Failed(text, _) => End::Failed(text, shortest),
        End::Stopped => End::Stopped,
    }
}

/// By the token that is kept; if that is refused, or there is none, by the password.
async fn connect(
    desk: &Arc<Desk>,
    identity: &mut Identity,
    kept: &mut Kept,
    address: &Address,
) -> Result<(Session, Incoming<dial::Stream>), End> {
    let by_token = match kept.token().cloned() {
        Some(token) => match log_in(desk, identity, token, address).await {
            Err(Attempt::Refused(_)) => {
                tracing::info!(%address, "the broker refused the token; the password is used");
                desk.status.count("tokens-refused");
                kept.forget();
                None
            }
            other => Some(other),
        },
        None => None,
    };
    let attempt = match by_token {
        Some(attempt) => attempt,
        // Read at each try: a new password needs no restart.
        None => match desk.config.password() {
            Ok(password) => log_in(desk, identity, password, address).await,
            Err(error) => Err(Attempt::Failed(End::Failed(error.to_string(), None))),
        },
    };
    let (session, incoming) = attempt.map_err(|attempt| match attempt {
        Attempt::Failed(end) => end,
        Attempt::Refused(text) => End::Failed(text, None),
    })?;
    if let Some(token) = &incoming.welcome().token {
        kept.keep(token);
    }
    Ok((session, incoming))
}

/// A login that did not work.
enum Attempt {
    /// The broker does not take these credentials.
    Refused(String),
    Failed(End),
}

async fn log_in(
    desk: &Arc<Desk>,
    identity: &mut Identity,
    passcode: SecretString,
    address: &Address,
) -> Result<(Session, Incoming<dial::Stream>), Attempt> {
    let failed = |error: &dyn std::fmt::Display| Attempt::Failed(End::Failed(error.to_string(), None));
    // Read at each try, as the password is.
    let tls = tls::client_config(&desk.config.ca, desk.config.tls.as_ref()).map_err(|e| failed(&e))?;
    let stream = dial::connect(address, &tls, CONNECT_WITHIN).await.map_err(|e| failed(&e))?;
    let now = Timestamp::now();
    let number = identity.next_session(u64::try_from(now.as_second()).unwrap_or(0)).map_err(|e| failed(&e))?;
    desk.status.change(|report| report.session = Some(number));
    let node = NodeLogin {
        key: identity.key().clone(),
        session: number,
        time: u64::try_from(now.as_millisecond()).unwrap_or(0),
    };
    let login = Login {
        user: desk.config.user.clone(),
        password: passcode,
        node: Some(node),
        heart_beat: desk.config.heart_beat,
        limit: LOGIN_WITHIN,
    };
    session::login(stream, &login).await.map_err(|error| match error {
        SessionError::Refused { code: Some(Code::AuthFailed), .. } => Attempt::Refused(format!("{address}: {error}")),
        SessionError::Refused { retry_after, .. } => {
            Attempt::Failed(End::Failed(format!("{address}: {error}"), retry_after))
        }
        error => Attempt::Failed(End::Failed(format!("{address}: {error}"), None)),
    })
}

/// One session, from the welcome to its end.
async fn converse<S: AsyncRead + AsyncWrite>(
    desk: &Arc<Desk>,
    session: Session,
    mut incoming: Incoming<S>,
    stop: &mut Stop,
) -> End {
    let welcome = incoming.welcome().clone();
    let Some(collective) = welcome.collective.clone() else {
        return End::Failed(
            format!(
                "broker {}: gave no collective; is user `{}` of kind `agent` in its policy?",
                welcome.broker, desk.config.user
            ),
            None,
        );
    };
    desk.status.change(|report| {
        report.enter(State::Connected);
        report.broker = Some(format!("{} ({})", report.broker.as_deref().unwrap_or_default(), welcome.broker));
        report.collective = Some(collective.clone());
        report.count("connections");
    });
    tracing::info!(broker = %welcome.broker, %collective, "connected");
    let ended = tokio::select! {
        ended = talk(desk, &session, &mut incoming, &collective) => ended,
        () = stop.stopped() => Ok(()),
    };
    match ended {
        Err(error) => {
            let retry_after = if let SessionError::Refused { retry_after, .. } = &error { *retry_after } else { None };
            End::Failed(format!("broker {}: {error}", welcome.broker), retry_after)
        }
        Ok(()) => {
            leave(desk, session, incoming).await;
            End::Stopped
        }
    }
}

async fn talk<S: AsyncRead + AsyncWrite>(
    desk: &Arc<Desk>,
    session: &Session,
    incoming: &mut Incoming<S>,
    collective: &str,
) -> Result<(), SessionError> {
    // The reply queue first: the answer to the facts goes there.
    session.subscribe(REPLY_QUEUE, REPLIES).await?;
    session.subscribe(&format!("/topic/{collective}.*.*"), ACTIONS).await?;
    let mut publisher = Publisher::default();
    let mut snapshots = desk.snapshots.clone();
    let mut retry = interval(ANSWER_WITHIN / 3);
    loop {
        let document = snapshots.borrow_and_update().document.clone();
        if let Some(frame) = publisher.next(&document, REPLY_QUEUE, std::time::Instant::now()) {
            session.send(frame).await?;
        }
        tokio::select! {
            frame = incoming.next() => {
                let frame = frame?;
                if frame.command != Command::Message {
                    continue;
                }
                if frame.headers.get("subscription") == Some(REPLIES) {
                    hear(desk, &mut publisher, &frame);
                } else {
                    act(desk, session, &frame, collective).await;
                }
            }
            Ok(()) = snapshots.changed() => note_facts(desk),
            _ = retry.tick() => {}
        }
    }
}

/// An answer to our facts.
fn hear(desk: &Desk, publisher: &mut Publisher, frame: &Frame) {
    let text = |name| frame.headers.get(name);
    match text(header::EVENT).and_then(Event::parse) {
        Some(Event::Registered) => {
            let body: Registered = serde_json::from_slice(&frame.body).unwrap_or_default();
            let asserted =
                if body.asserted.is_null() { Ok(Facts::default()) } else { Facts::from_value(body.asserted) };
            match asserted {
                Ok(facts) => *desk.asserted.lock().unwrap_or_else(PoisonError::into_inner) = facts,
                Err(error) => desk.status.failed(&format!("the broker's asserted facts cannot be used: {error}")),
            }
            publisher.registered(text(header::HASH).unwrap_or_default());
            desk.status.change(|report| report.facts.registered_at = Some(Timestamp::now()));
        }
        Some(Event::Refused) => {
            let code = text(header::CODE).and_then(Code::parse);
            if code != Some(Code::StaleBase) {
                let reason = text(header::MESSAGE).unwrap_or("no reason");
                tracing::warn!(code = code.map_or("none", Code::as_str), reason, "the broker refused the facts");
                desk.status.failed(&format!("the broker refused the facts: {reason}"));
            }
            publisher.refused(code);
        }
        // A cancel may come on any subscription of ours.
        Some(Event::Cancel) => cancel(desk, frame),
        _ => desk.status.count("ignored-unknown-event"),
    }
}

fn cancel(desk: &Desk, frame: &Frame) {
    match requests::read(frame, "", Instant::now()) {
        Arrival::Cancel(key) => {
            desk.status.count("cancels");
            desk.cancel(&key);
        }
        _ => desk.status.count("ignored-not-stamped"),
    }
}

async fn act(desk: &Arc<Desk>, session: &Session, frame: &Frame, collective: &str) {
    match requests::read(frame, collective, Instant::now()) {
        Arrival::Request(request) => desk.take(*request, session).await,
        Arrival::Cancel(key) => {
            desk.status.count("cancels");
            desk.cancel(&key);
        }
        Arrival::Ignored(why) => {
            tracing::debug!(why, "a message that is no request for this node");
            desk.status.count(why);
        }
    }
}

/// No new requests; those under way have their time, then they are stopped; then goodbye.
async fn leave<S: AsyncRead + AsyncWrite>(desk: &Arc<Desk>, session: Session, mut incoming: Incoming<S>) {
    finish(desk).await;
    let _ = session.disconnect().await;
    // Until the broker has closed: then everything that was sent has arrived.
    let _ = timeout(Duration::from_secs(2), async { while incoming.next().await.is_ok() {} }).await;
}

/// Waits for the actions under way; what takes longer than the configured time is stopped. Also without a connection: an action
/// outlives the one that it came by.
async fn finish(desk: &Arc<Desk>) {
    desk.status.enter(State::Stopping);
    let mut open = desk.open.subscribe();
    let count = open.borrow().len();
    tracing::info!(open = count, "stopping");
    let all_answered = async {
        let _ = open.wait_for(|open| open.is_empty()).await;
    };
    tokio::pin!(all_answered);
    if timeout(desk.config.limits.stop_time, &mut all_answered).await.is_err() {
        desk.cancel_all();
        let _ = timeout(Duration::from_secs(5), &mut all_answered).await;
    }
}

fn note_facts(desk: &Desk) {
    let snapshot = desk.snapshots.borrow().clone();
    for (source, error) in &snapshot.failed {
        tracing::warn!(source, error, "a source of facts failed");
    }
    desk.status.change(|report| {
        report.facts.collected_at = Some(snapshot.collected_at);
        report.facts.failed = snapshot.failed.clone();
    });
}

fn note_failure(desk: &Desk, end: &End) {
    if let End::Failed(text, _) = end {
        tracing::warn!(reason = %text, "no connection");
        desk.status.change(|report| {
            report.failed(text);
            report.count("failed-connections");
        });
    }
}

#[cfg(test)]
mod tests;

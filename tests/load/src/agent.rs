//! What does a simulated agent do? What `muster-agent` does on the wire: connect, register, answer, come back.
//!
//! Left out is what costs the node and not the broker: it runs nothing, writes nothing to disk, and does not check a target on its
//! own facts.

use crate::crowd::{Crowd, Pending};
use crate::times::now;
use crate::wire::{self, Stream};
use bytes::Bytes;
use muster_protocol::dial::BackOff;
use muster_protocol::error::Code;
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::header;
use muster_protocol::request::{Event, State};
use muster_protocol::session::{self, DEFAULT_HEART_BEAT, Incoming, Login, NodeLogin, Session, SessionError};
use secrecy::SecretString;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

/// As the agent has them.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
const STABLE_AFTER: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const REPLY_QUEUE: &str = "/temp-queue/agent";
const REPLIES: &str = "replies";
const ACTIONS: &str = "actions";

/// Lives until it is aborted. In a connect storm it waits for its turn, until it has registered once.
pub(crate) async fn live(crowd: Arc<Crowd>, number: u32) {
    let mut back_off = BackOff::new(Duration::from_millis(250), Duration::from_secs(60));
    let mut has_been_in = false;
    loop {
        let turn = if has_been_in { None } else { crowd.turns.clone().acquire_owned().await.ok() };
        let retry_after = match connect(&crowd, number).await {
            Ok((session, incoming, began)) => {
                let since = Instant::now();
                let mut visit = Visit { crowd: &crowd, number, began, turn };
                let end = visit.converse(&session, incoming).await;
                has_been_in |= crowd.left(number);
                if since.elapsed() >= STABLE_AFTER {
                    back_off.reset();
                }
                crowd.met(&kind("session", &end));
                retry_after(&end)
            }
            Err(retry_after) => retry_after,
        };
        sleep(retry_after.unwrap_or_default() + back_off.next(rand::random())).await;
    }
}

/// By the token that it has; if that is refused, or there is none, by the password. The moment is that of the attempt's begin.
async fn connect(crowd: &Crowd, number: u32) -> Result<(Session, Incoming<Stream>, u64), Option<Duration>> {
    if let Some(token) = crowd.token(number) {
        match log_in(crowd, number, token).await {
            Err(SessionError::Refused { code: Some(Code::AuthFailed), .. }) => {
                crowd.met("login: token refused");
                crowd.forget_token(number);
            }
            other => return other.map_err(|error| retry_after(&error)),
        }
    }
    log_in(crowd, number, crowd.password.clone()).await.map_err(|error| retry_after(&error))
}

async fn log_in(
    crowd: &Crowd,
    number: u32,
    passcode: SecretString,
) -> Result<(Session, Incoming<Stream>, u64), SessionError> {
    let began = now();
    let population = &crowd.population;
    let broker = crowd.brokers[population.broker(number)];
    let stream = wire::connect(population.address(number), broker, &crowd.tls, CONNECT_WITHIN).await;
    let stream = stream.map_err(|(what, error)| {
        crowd.met(what);
        SessionError::Io(error)
    })?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let login = Login {
        user: crate::population::user_name(population.user(number)),
        password: passcode,
        node: Some(NodeLogin { key: population.key(number), session: crowd.next_session(number), time }),
        heart_beat: DEFAULT_HEART_BEAT,
        limit: LOGIN_WITHIN,
    };
    let (session, incoming) =
        session::login(stream, &login).await.inspect_err(|error| crowd.met(&kind("login", error)))?;
    if let Some(token) = &incoming.welcome().token {
        crowd.keep_token(number, token.clone());
    }
    Ok((session, incoming, began))
}

/// One session.
struct Visit<'a> {
    crowd: &'a Crowd,
    number: u32,
    began: u64,
    /// Given back when it has registered.
    turn: Option<OwnedSemaphorePermit>,
}

impl Visit<'_> {
    async fn converse(&mut self, session: &Session, mut incoming: Incoming<Stream>) -> SessionError {
        let collective = incoming.welcome().collective.clone().unwrap_or_default();
        let ended = async {
            session.subscribe(REPLY_QUEUE, REPLIES).await?;
            session.subscribe(&format!("/topic/{collective}.*.*"), ACTIONS).await?;
            self.publish(session).await?;
            self.crowd.entered(self.number, session.clone());
            loop {
                let frame = match self.crowd.is_registering(self.number) {
                    false => incoming.next().await?,
                    true => match timeout(ANSWER_WITHIN, incoming.next()).await {
                        Ok(frame) => frame?,
                        Err(_) => {
                            self.crowd.met("registration: no answer");
                            self.publish(session).await?;
                            continue;
                        }
                    },
                };
                if frame.command != Command::Message {
                    continue;
                }
                if frame.headers.get("subscription") == Some(REPLIES) {
                    self.hear(&frame);
                } else {
                    self.act(session, &frame).await?;
                }
            }
        };
        let ended: Result<std::convert::Infallible, SessionError> = ended.await;
        match ended {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    /// The whole document.
    async fn publish(&self, session: &Session) -> Result<(), SessionError> {
        let (body, hash) = self.crowd.document(self.number);
        let frame = facts_frame(&hash).with_body(body);
        self.crowd.publishing(self.number, Pending { hash, sent: now(), is_whole: true });
        session.send(frame).await
    }

    /// An answer to our facts.
    fn hear(&mut self, frame: &Frame) {
        match frame.headers.get(header::EVENT).and_then(Event::parse) {
            Some(Event::Registered) => {
                let hash = frame.headers.get(header::HASH).unwrap_or_default();
                self.crowd.registered(self.number, hash, self.began);
                self.turn = None;
            }
            Some(Event::Refused) => {
                let code = frame.headers.get(header::CODE).unwrap_or("no code");
                self.crowd.met(&format!("registration: {code}"));
            }
            _ => self.crowd.met("an event that is not known"),
        }
    }

    /// A request is answered; what is none is noted by its `correlation-id`.
    async fn act(&self, session: &Session, frame: &Frame) -> Result<(), SessionError> {
        let text = |name| frame.headers.get(name);
        let (Some(id), Some(queue)) = (text(header::REQUEST), text(header::REPLY_TO)) else {
            if let Some(id) = text("correlation-id") {
                self.crowd.delivered(id);
            }
            return Ok(());
        };
        if text(header::EVENT).is_some() {
            return Ok(());
        }
        self.crowd.delivered(id);
        let reply = Frame::new(Command::Send)
            .header("destination", queue)
            .header(header::REQUEST, id)
            .header(header::EVENT, Event::Reply.as_str())
            .header(header::STATUS, State::Ok.as_str())
            .header("content-type", "application/json")
            .with_body(self.crowd.reply.clone());
        if self.crowd.reply_delay.is_zero() {
            return session.send(reply).await;
        }
        let (session, delay) = (session.clone(), self.crowd.reply_delay);
        tokio::spawn(async move {
            sleep(delay).await;
            // A connection that is gone took the reply queue with it.
            let _ = session.send(reply).await;
        });
        Ok(())
    }
}

/// The merge patch from one document to the next.
pub(crate) fn delta_frame(old: &NodeDocument, new: &NodeDocument) -> Frame {
    let body = Bytes::from(old.diff(new).to_string());
    facts_frame(&new.hash()).header(header::BASE, &old.hash()).with_body(body)
}

fn facts_frame(hash: &str) -> Frame {
    Frame::new(Command::Send)
        .header("destination", "/muster/facts")
        .header("content-type", "application/json")
        .header(header::HASH, hash)
        .header(header::REPLY_TO, REPLY_QUEUE)
}

/// A kind of end that is not one of a kind: without addresses and texts.
pub(crate) fn kind(what: &str, error: &SessionError) -> String {
    let why = match error {
        SessionError::Refused { code, .. } => code.map_or("no code", Code::as_str),
        SessionError::Closed => "closed",
        SessionError::Silent(_) => "silent",
        SessionError::LoginTimeout(_) => "no answer in time",
        SessionError::Io(_) => "broken",
        SessionError::Frame(_) => "not STOMP",
        SessionError::Certificate(_) => "certificate",
    };
    format!("{what}: {why}")
}

fn retry_after(error: &SessionError) -> Option<Duration> {
    if let SessionError::Refused { retry_after, .. } = error { *retry_after } else { None }
}

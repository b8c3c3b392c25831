//! How does a call reach the broker? By a session inside the process, the same as that of a STOMP connection: login, back-off, limits,
//! rights, audit and intake are those of every other caller.
//!
//! One end of a duplex pipe is served by [`session::run`], the other speaks STOMP as a client. Calls that share a seat are told apart by
//! their request ids.

use super::problem::Problem;
use super::records::{Record, Records};
use crate::broker::access::Peer;
use crate::broker::event::Event;
use crate::gate::Gate;
use crate::session::{self, Shared};
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::FutureExt;
use muster_protocol::error::Code;
use muster_protocol::frame::{Command, Frame, Limits};
use muster_protocol::message::{RequestId, header, shown};
use muster_protocol::session::{Incoming, Login, Session, SessionError, login_within};
use secrecy::SecretString;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

/// The reply queue of every seat; the broker makes it private.
const REPLIES: &str = "/temp-queue/api";
/// How long the broker may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Bytes under way between the two ends of a pipe, each way.
const PIPE: usize = 64 * 1024;

/// How seats are had.
#[derive(Debug)]
pub(super) struct Way {
    /// What all sessions of the broker share.
    pub(super) shared: Arc<Shared>,
    /// Numbers sessions.
    pub(super) gate: Arc<Gate>,
    /// How long a login may take.
    pub(super) login_time: Duration,
    /// What is heard of requests.
    pub(super) records: Arc<Records>,
}

/// A session that is logged in, shared by calls.
#[derive(Debug)]
pub(super) struct Seat {
    user: String,
    session: Session,
    desk: Arc<Desk>,
    limits: Limits,
}

/// What is awaited on the reply queue of a seat.
#[derive(Debug)]
struct Desk {
    waiting: Mutex<HashMap<String, Waiting>>,
    records: Arc<Records>,
    /// Requests that are not accounted for.
    under_way: AtomicUsize,
    /// Why the session ended, once it has.
    end: watch::Sender<Option<Problem>>,
}

#[derive(Debug)]
enum Waiting {
    /// The answer to a question, or a receipt.
    Answer(oneshot::Sender<Frame>),
    /// Whatever becomes of a request.
    Request(Arc<Record>),
}

impl Way {
    /// Logs in as a STOMP client of this address and with this certificate would.
    pub(super) async fn log_in(
        &self,
        user: &str,
        passcode: SecretString,
        peer: Peer,
    ) -> Result<(Session, Incoming<DuplexStream>), SessionError> {
        let (ours, theirs) = duplex(PIPE);
        let (id, shared) = (self.gate.next_session(), self.shared.clone());
        let deadline = Instant::now() + self.login_time;
        tokio::spawn(async move {
            let (hub, address) = (shared.hub.clone(), peer.ip());
            let session =
                AssertUnwindSafe(Box::pin(session::run(tokio::io::split(theirs), id, peer, shared, deadline, None)));
            if session.catch_unwind().await.is_err() {
                tracing::error!(session = id.0, peer = %address, "a session ended in a panic");
                hub.tell(Event::Closed { session: id, reason: "internal error".into(), refusal: None }).await;
            }
        });
        // The other end keeps the time of the login; this one only has to outlast it.
        let limit = self.login_time + Duration::from_secs(5);
        let login = Login { user: user.to_owned(), password: passcode, node: None, heart_beat: Duration::ZERO, limit };
        login_within(ours, &login, self.answers()).await
    }

    /// What the broker may send: whatever it takes itself, and what it adds to that.
    fn answers(&self) -> Limits {
        let (own, usual) = (self.shared.limits, Limits::default());
        Limits {
            head: own.head.max(usual.head),
            header_line: own.head.max(usual.head),
            headers: own.headers.max(usual.headers),
            body: (own.body + own.head).max(usual.body),
        }
    }
}

impl Seat {
    /// Logs in by a token.
    pub(super) async fn open(way: &Way, user: &str, token: SecretString, peer: Peer) -> Result<Arc<Seat>, Problem> {
        let opened = way.log_in(user, token, peer).await;
        let (session, incoming) = opened.map_err(|error| Problem::of_session(&error))?;
        let desk = Arc::new(Desk {
            waiting: Mutex::default(),
            records: way.records.clone(),
            under_way: AtomicUsize::new(0),
            end: watch::Sender::new(None),
        });
        tokio::spawn(read(incoming, desk.clone()));
        let limits = way.shared.limits;
        let seat = Seat { user: user.to_owned(), session, desk, limits };
        seat.session.subscribe(REPLIES, "api").await.map_err(|_| seat.why_ended())?;
        Ok(Arc::new(seat))
    }

    /// The user.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Whether the session is over.
    pub(super) fn has_ended(&self) -> bool {
        self.desk.end.borrow().is_some()
    }

    /// Waits until the session is over: why.
    pub(super) async fn ended(&self) -> Problem {
        let mut end = self.desk.end.subscribe();
        let _ = end.wait_for(Option::is_some).await;
        self.why_ended()
    }

    /// Whether requests of it are not accounted for.
    pub(super) fn is_awaiting(&self) -> bool {
        self.desk.under_way.load(Ordering::Relaxed) > 0
    }

    /// Says goodbye: the broker then knows that the end is on purpose.
    pub(super) fn leave(&self) {
        let session = self.session.clone();
        tokio::spawn(session.disconnect());
    }

    /// Puts a question to the broker: the body of the answer.
    pub(super) async fn ask(&self, frame: Frame) -> Result<Bytes, Problem> {
        let id = RequestId::random();
        let (answer, answered) = oneshot::channel();
        let _listening = self.desk.listen(id.as_str(), Waiting::Answer(answer))?;
        self.send(frame.header(header::REQUEST, id.as_str())).await?;
        let frame = self.answer(answered).await?;
        match frame.headers.get(header::EVENT) {
            Some("answer") => Ok(frame.body),
            Some("refused") => Err(Problem::of_frame(&frame)),
            other => {
                let text = format!("`{}` in answer to a question", shown(other.unwrap_or_default()));
                Err(Problem::new(Code::Internal, text))
            }
        }
    }

    /// Sends a request, and waits until the broker has taken or refused it; what becomes of it goes to the record.
    pub(super) async fn request(&self, frame: Frame, record: &Arc<Record>) -> Result<(), Problem> {
        let id = record.id().as_str();
        let receipt = format!("receipt {id}");
        let (answer, answered) = oneshot::channel();
        let _listening = self.desk.listen(&receipt, Waiting::Answer(answer))?;
        self.desk.begin(record)?;
        let frame = frame.header(header::REQUEST, id).header("receipt", &receipt);
        if let Err(problem) = self.send(frame).await {
            self.desk.give_up(id, &problem);
            return Err(problem);
        }
        // The receipt comes after a refusal, if there is one.
        self.answer(answered).await?;
        record.refused().map_or(Ok(()), Err)
    }

    async fn answer(&self, answered: oneshot::Receiver<Frame>) -> Result<Frame, Problem> {
        match timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(_)) => Err(self.why_ended()),
            Err(_) => {
                let seconds = ANSWER_WITHIN.as_secs();
                let text =
                    format!("the broker gave no answer within {seconds} s; what was asked for may still be done");
                Err(Problem::new(Code::Busy, text).with_status(StatusCode::GATEWAY_TIMEOUT))
            }
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), Problem> {
        let frame = frame.header(header::REPLY_TO, REPLIES);
        // Whatever the broker's decoder would not take would end the session, and with it the calls of others.
        refuse_oversize(&frame, &self.limits)?;
        self.session.send(frame).await.map_err(|_| self.why_ended())
    }

    fn why_ended(&self) -> Problem {
        let end = self.desk.end.borrow().clone();
        end.unwrap_or_else(|| Problem::of_session(&SessionError::Closed))
    }
}

/// Stops listening when it is dropped.
struct Listening<'d>(&'d Desk, String);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

impl Desk {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, id: &str, waiting: Waiting) -> Result<Listening<'_>, Problem> {
        self.waiting().insert(id.to_owned(), waiting);
        let listening = Listening(self, id.to_owned());
        // Looked at after it is in the list: whoever ends the session looks the other way round.
        let end = self.end.borrow().clone();
        end.map_or(Ok(listening), Err)
    }

    /// A request is about to be sent. It is listened for until it is over, whether or not whoever asked still waits.
    fn begin(&self, record: &Arc<Record>) -> Result<(), Problem> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(record.id().to_string(), Waiting::Request(record.clone()));
        let end = self.end.borrow().clone();
        match end {
            Some(why) => {
                self.give_up(record.id().as_str(), &why);
                Err(why)
            }
            None => Ok(()),
        }
    }

    fn give_up(&self, id: &str, why: &Problem) {
        let waiting = self.waiting().remove(id);
        if let Some(Waiting::Request(record)) = waiting {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            self.records.abandon(&record, why);
        }
    }

    fn deliver(&self, frame: Frame) {
        let name = if frame.command == Command::Receipt { "receipt-id" } else { header::REQUEST };
        let Some(id) = frame.headers.get(name) else { return };
        // An answer that nobody waits for any more is dropped.
        let Some(waiting) = self.waiting().remove(id) else { return };
        match waiting {
            Waiting::Answer(answer) => {
                let _ = answer.send(frame);
            }
            Waiting::Request(record) => {
                self.records.feed(&record, &frame);
                if record.is_over() {
                    self.under_way.fetch_sub(1, Ordering::Relaxed);
                } else {
                    self.waiting().insert(record.id().to_string(), Waiting::Request(record));
                }
            }
        }
    }

    fn end(&self, why: Problem) {
        self.end.send_replace(Some(why.clone()));
        // Those who wait for an answer are woken by what they wait on being dropped.
        let waiting = std::mem::take(&mut *self.waiting());
        for waiting in waiting.into_values() {
            if let Waiting::Request(record) = waiting {
                self.under_way.fetch_sub(1, Ordering::Relaxed);
                self.records.abandon(&record, &why);
            }
        }
    }
}

async fn read(mut incoming: Incoming<DuplexStream>, desk: Arc<Desk>) {
    let end = loop {
        match incoming.next().await {
            Ok(frame) => desk.deliver(frame),
            Err(end) => break end,
        }
    };
    desk.end(Problem::of_session(&end));
}

/// What the broker's decoder would not take, by its own measure or a stricter one.
fn refuse_oversize(frame: &Frame, limits: &Limits) -> Result<(), Problem> {
    // A line for the command, one for content-length, an empty one.
    let (mut head, mut lines) = (64, 2);
    for (name, value) in frame.headers.iter() {
        let escapes = value.bytes().filter(|byte| matches!(byte, b'\n' | b'\r' | b':' | b'\\')).count();
        let line = name.len() + value.len() + escapes + 2;
        let field = name.strip_prefix("muster-").unwrap_or(name);
        if value.contains('\0') {
            return Err(Problem::parameter(format!("{field}: it holds a NUL character")));
        }
        if line > limits.header_line {
            let text = format!("{field}: {} bytes, at most {} are possible", value.len(), limits.header_line);
            return Err(Problem::new(Code::TooLarge, text));
        }
        head += line;
        lines += 1;
    }
    if lines > limits.headers || head > limits.head {
        let text = format!("target, nodes and the like: {head} bytes, at most {} are possible together", limits.head);
        return Err(Problem::new(Code::TooLarge, text));
    }
    if frame.body.len() > limits.body {
        let text = format!("the body: {} bytes, at most {} are possible", frame.body.len(), limits.body);
        return Err(Problem::new(Code::TooLarge, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use muster_protocol::frame::{Decoded, Decoder, Version, encode};

    #[test]
    fn what_passes_is_taken_by_the_decoder() {
        let limits = Limits { head: 1024, header_line: 256, headers: 8, body: 100 };
        let (mut taken, mut refused) = (0, 0);
        for length in (0..400).chain([1_000, 5_000]) {
            for (value, body) in [("a".repeat(length), 0), ("\n".repeat(length), 0), ("a:b".repeat(length / 3), 100)] {
                let frame =
                    Frame::new(Command::Send).header("destination", "/muster/find").header("muster-target", &value);
                let frame = frame.header("reply-to", &value).with_body(vec![b'x'; body]);
                if refuse_oversize(&frame, &limits).is_err() {
                    refused += 1;
                    continue;
                }
                taken += 1;
                let mut bytes = BytesMut::new();
                encode(&frame, Version::V1_2, &mut bytes);
                let mut decoder = Decoder::new(limits);
                decoder.set_version(Version::V1_2);
                let Ok(Some(Decoded::Frame(back))) = decoder.decode(&mut bytes) else { panic!("{length}: not taken") };
                assert_eq!(back.headers.get("muster-target"), Some(value.as_str()));
            }
        }
        assert!(taken > 100 && refused > 100, "{taken} {refused}");
        let large = Frame::new(Command::Send).with_body(vec![b'x'; 101]);
        assert_eq!(refuse_oversize(&large, &limits).unwrap_err().status.as_u16(), 413);
        let nul = Frame::new(Command::Send).header("muster-target", "a=\0");
        assert!(refuse_oversize(&nul, &limits).unwrap_err().text.starts_with("target: "));
    }
}

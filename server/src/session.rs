//! What happens on one connection? TLS, login, then two futures: one reads frames, one writes the outbox.
//!
//! Whatever ends a connection, the broker is told. A frame is never left half-written: the writer is only dropped when the socket is.

use crate::broker::access::Peer;
use crate::broker::event::{Event, Opened, SessionId, Ticket};
use crate::broker::outbox::{Expired, Item, Message, OutboxReader, counted};
use crate::broker::record::{Record, Verdict, Who};
use crate::gate::Pending;
use crate::hub::{Clock, Hub};
use crate::intake::Intake;
use crate::login::{Logins, Outcome, Rejected};
use bytes::BytesMut;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::frame::{self, Command, Decoded, Decoder, Encoder, Frame, FrameError, Headers, Limits, Version};
use muster_protocol::message::header;
use secrecy::{ExposeSecret, SecretString};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes read at once. An idle session holds no buffer of this size: see `Reader::more`.
const READ: usize = 16 * 1024;
/// Bytes taken from the outbox at once.
const WRITE: usize = 64 * 1024;
/// Reads whose inputs the broker has not dealt with before the reader waits.
const BATCHES: usize = 2;
/// After a last word: how long to flush and to read on, so that the word arrives before a reset.
const LINGER: Duration = Duration::from_secs(2);
/// A write that makes no progress for so long ends the connection, whatever the kernel thinks of the peer.
const STALL: Duration = Duration::from_secs(20);
/// Shortest heart-beat that is taken seriously, ms.
const SHORTEST_BEAT: u64 = 1_000;

/// What all sessions of a broker share.
#[derive(Debug)]
pub struct Shared {
    /// The broker's name.
    pub name: String,
    /// The hub.
    pub hub: Hub,
    /// Who may log in.
    pub logins: Logins,
    /// Frame limits after the login.
    pub limits: Limits,
    /// Bytes of an agent's outbox.
    pub outbox: usize,
    /// Bytes of the outbox of anybody else: the answers of all nodes may come to it at once.
    pub caller_outbox: usize,
    /// What outboxes have dropped.
    pub expired: Expired,
}

/// Runs a connection whose TLS is done. `deadline` is for the login; the place among those that log in is free when that is over.
///
/// Its task lives as long as the connection, and a task keeps the room of its largest moment: what is over soon has a box of its own.
pub async fn run<S>(
    stream: Halves<S>,
    id: SessionId,
    peer: Peer,
    shared: Arc<Shared>,
    deadline: Instant,
    place: Option<Pending>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Some(session) = Box::pin(begin(stream, id, peer, &shared, deadline, place)).await else { return };
    let Session { mut reader, mut writer, items, beats, mut intake } = session;
    let clock = shared.hub.clock();
    {
        let write = write_items(&mut writer, &items, &beats, clock);
        tokio::pin!(write);
        let read = read_frames(&mut reader, &mut intake, id, &shared, beats.expect);
        // `Ok`: the reader ended and the writer goes on. `Err`: the broker's last word is out, or the connection broke.
        let ended = tokio::select! {
            ended = read => Ok(ended),
            end = &mut write => Err(end),
        };
        let (told, is_writing) = match ended {
            Ok(ended) => (ended, true),
            Err(Ok(())) => (Ended::new("closed by the broker", None), false),
            Err(Err(_)) => (Ended::new("connection closed", None), false),
        };
        // The broker closes the outbox, so the writer comes to its end: between frames, never inside one.
        shared.hub.tell(Event::Closed { session: id, reason: told.text, refusal: told.refusal }).await;
        if is_writing {
            let _ = timeout(LINGER, &mut write).await;
        }
    }
    Box::pin(linger(reader, writer)).await;
}

/// A connection's stream, as reader and writer take it.
pub type Halves<S> = (ReadHalf<S>, WriteHalf<S>);

/// A connection that has logged in.
struct Session<S> {
    reader: Reader<S>,
    writer: Writer<S>,
    items: OutboxReader,
    beats: Beats,
    intake: Intake,
}

/// The login. `None`: there is no session, and whoever was there has been told why.
async fn begin<S>(
    (read, write): Halves<S>,
    id: SessionId,
    peer: Peer,
    shared: &Arc<Shared>,
    deadline: Instant,
    place: Option<Pending>,
) -> Option<Session<S>>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut reader = Reader { read, buffer: BytesMut::new(), decoder: Decoder::new(Limits::PRE_AUTH) };
    let mut writer = Writer {
        write,
        version: Version::V1_0,
        out: BytesMut::new(),
        broker: shared.name.clone(),
        session: id,
        token: None,
        stall: STALL,
    };
    let login = timeout_at(deadline, log_in(&mut reader, id, &peer, shared)).await;
    // Whoever is turned away keeps its place among the pending until it is gone: lingering is not free.
    match login {
        Ok(Ok((accepted, beats))) => {
            if let Some(place) = place {
                place.let_in(accepted.is_agent);
            }
            writer.version = accepted.version;
            writer.token = accepted.token;
            let intake = Intake::new(accepted.version, accepted.is_agent);
            return Some(Session { reader, writer, items: accepted.items, beats, intake });
        }
        Ok(Err(LoginEnd::Silent)) => return None,
        Ok(Err(LoginEnd::Rejected(version, rejected))) => {
            tracing::warn!(target: "muster::login", peer = %peer.ip(), code = %rejected.refusal.code, reason = rejected.reason, "login refused");
            writer.version = version;
            writer.last_word(&rejected.refusal, rejected.retry_after).await;
        }
        Err(_) => {
            tracing::warn!(target: "muster::login", peer = %peer.ip(), code = %Code::AuthTimeout, reason = "no login in time", "login refused");
            shared.logins.note(Outcome::Timeout);
            writer.last_word(&Refusal::new(Code::AuthTimeout, "no login in time"), None).await;
        }
    }
    linger(reader, writer).await;
    None
}

struct Accepted {
    version: Version,
    is_agent: bool,
    token: Option<SecretString>,
    items: OutboxReader,
}

/// Heart-beats: how often to send one, and after what silence to give the peer up.
#[derive(Debug, Clone, Copy)]
struct Beats {
    send: Option<Duration>,
    expect: Option<Duration>,
    ours: u64,
    theirs: u64,
}

enum LoginEnd {
    /// The peer went away, or there is nobody to speak STOMP to.
    Silent,
    Rejected(Version, Rejected),
}

struct Ended {
    text: String,
    refusal: Option<Refusal>,
}

/// The first frame must be CONNECT or STOMP; the broker's `Connected` item answers it through the outbox.
async fn log_in<S: AsyncRead + AsyncWrite>(
    reader: &mut Reader<S>,
    id: SessionId,
    peer: &Peer,
    shared: &Arc<Shared>,
) -> Result<(Accepted, Beats), LoginEnd> {
    let reject = |version, code, text: String, reason| {
        LoginEnd::Rejected(version, Rejected { refusal: Refusal::new(code, text), retry_after: None, reason })
    };
    let malformed = |version, code, text, reason| {
        shared.logins.note(Outcome::Malformed);
        reject(version, code, text, reason)
    };
    let connect = match reader.frame().await {
        Ok(frame) => frame,
        Err(Broken::Frame(error)) => {
            return Err(malformed(Version::V1_0, code_of(&error), error.to_string(), "not a STOMP login"));
        }
        Err(Broken::Closed | Broken::Silent) => return Err(LoginEnd::Silent),
    };
    if !matches!(connect.command, Command::Connect | Command::Stomp) {
        return Err(malformed(
            Version::V1_0,
            Code::BadFrame,
            "the first frame must be CONNECT".into(),
            "first frame is not CONNECT",
        ));
    }
    let Some(version) = Version::negotiate(connect.headers.get("accept-version")) else {
        let text = "no version in common: this broker speaks 1.0, 1.1 and 1.2".to_owned();
        return Err(malformed(Version::V1_0, Code::BadVersion, text, "no version in common"));
    };
    let Some(beats) = beats(connect.headers.get("heart-beat"), version) else {
        let text = "heart-beat: expected two whole numbers of ms with a comma between".to_owned();
        return Err(malformed(version, Code::BadHeader, text, "malformed heart-beat"));
    };
    let accepted = shared.logins.check(&connect.headers, peer).await.map_err(|rejected| {
        shared.hub.audit().tell(|| refused_login(&connect.headers, peer.address, &rejected));
        LoginEnd::Rejected(version, rejected)
    })?;
    // Nothing of the second frame was parsed yet, so version and limits hold from here.
    reader.decoder.set_version(version);
    reader.decoder.set_limits(shared.limits);
    let room = if accepted.node.is_some() { shared.outbox } else { shared.caller_outbox };
    let (outbox, items) = counted(room, &shared.expired);
    let opened = Opened {
        session: id,
        user: accepted.user.name.to_string(),
        password_hash: accepted.user.password.as_str().to_owned(),
        token_made: accepted.token_made,
        node: accepted.node,
        peer: peer.clone(),
        outbox,
    };
    if !shared.hub.tell(Event::Opened(Box::new(opened))).await {
        return Err(reject(version, Code::Draining, "the broker is stopping".into(), "stopping"));
    }
    Ok((Accepted { version, is_agent: accepted.node.is_some(), token: accepted.token, items }, beats))
}

/// A login that was refused, for the record: who it claimed to be, and what was wrong in truth. The password is not looked at.
fn refused_login(headers: &Headers, peer: SocketAddr, rejected: &Rejected) -> Record {
    let claimed = |name| headers.get(name).map(|text: &str| text.chars().take(128).collect::<String>());
    let who =
        Who { user: claimed("login").unwrap_or_default(), address: peer, session: None, node: claimed(header::NODE) };
    Record::Login { who, verdict: Verdict::denied(&Refusal::new(rejected.refusal.code, rejected.reason)) }
}

/// STOMP's negotiation: each side says what it can do and what it wants. 1.0 has none. `None`: malformed.
fn beats(header: Option<&str>, version: Version) -> Option<Beats> {
    let (can, wants) = match header.filter(|_| version > Version::V1_0) {
        None => (0, 0),
        Some(text) => {
            let (can, wants) = text.split_once(',')?;
            (can.trim().parse().ok()?, wants.trim().parse().ok()?)
        }
    };
    let agreed = |ms: u64| if ms == 0 { 0 } else { ms.max(SHORTEST_BEAT) };
    let (ours, theirs) = (agreed(wants), agreed(can));
    let span = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    Some(Beats { send: span(ours).map(|s| s * 4 / 5), expect: span(theirs).map(|s| s * 2), ours, theirs })
}

/// Reads until the connection or the peer's manners end.
async fn read_frames<S: AsyncRead + AsyncWrite>(
    reader: &mut Reader<S>,
    intake: &mut Intake,
    id: SessionId,
    shared: &Shared,
    silence: Option<Duration>,
) -> Ended {
    let room = Arc::new(Semaphore::new(BATCHES));
    let clock = shared.hub.clock();
    loop {
        let mut inputs = Vec::new();
        let unix = clock.now().unix;
        let broken = loop {
            match reader.decoder.decode(&mut reader.buffer) {
                Ok(Some(Decoded::Frame(frame))) => {
                    let input = intake.input(frame, unix);
                    inputs.push(input);
                }
                Ok(Some(Decoded::HeartBeat)) => {}
                Ok(None) => break None,
                Err(error) => break Some(Broken::Frame(error)),
            }
        };
        if !inputs.is_empty() {
            // A session that is ahead of the broker stops reading, and TCP slows its peer.
            let Ok(permit) = room.clone().acquire_owned().await else { return Ended::new("closed", None) };
            let event = Event::Inputs { session: id, inputs, ticket: Ticket(Some(Box::new(permit))) };
            if !shared.hub.tell(event).await {
                return Ended::new("the broker stopped", None);
            }
        }
        let broken = match broken {
            Some(broken) => Err(broken),
            None => match silence {
                Some(limit) => timeout(limit, reader.more()).await.unwrap_or(Err(Broken::Silent)),
                None => reader.more().await,
            },
        };
        match broken {
            Ok(()) => {}
            Err(Broken::Closed) => return Ended::new("connection closed", None),
            Err(Broken::Silent) => {
                return Ended::new(
                    "heart-beat",
                    Some(Refusal::new(Code::HeartBeat, "nothing came for twice the promised heart-beat")),
                );
            }
            Err(Broken::Frame(error)) => {
                return Ended::new("bad frame", Some(Refusal::new(code_of(&error), error.to_string())));
            }
        }
    }
}

impl Ended {
    fn new(text: &str, refusal: Option<Refusal>) -> Ended {
        Ended { text: text.into(), refusal }
    }
}

/// Writes the outbox until it ends (`Ok`) or the connection does (`Err`).
async fn write_items<S: AsyncWrite>(
    writer: &mut Writer<S>,
    items: &OutboxReader,
    beats: &Beats,
    clock: Clock,
) -> io::Result<()> {
    let mut batch = Vec::new();
    // When what is left is given up: the broker has forgotten the session, and a peer that reads slowly would keep what waits.
    let mut last = None;
    loop {
        let out = &mut writer.out;
        let take = poll_fn(|context| {
            let taken = items.poll_take(context, clock.tick(), WRITE, &mut batch);
            if taken.is_pending() {
                // Whoever waits holds nothing for those that are busy.
                (batch, *out) = (Vec::new(), BytesMut::new());
            }
            taken
        });
        let is_closed = match beats.send {
            Some(every) => timeout(until_beat(every, clock.tick()), take).await.unwrap_or_else(|_| {
                frame::encode_heart_beat(&mut writer.out);
                false
            }),
            None => take.await,
        };
        let mut over = false;
        let now = clock.tick();
        for item in batch.drain(..) {
            over |= matches!(item, Item::Close(_));
            writer.encode(item, beats, now);
        }
        if is_closed && last.is_none() {
            last = Some(Instant::now() + writer.stall);
        }
        match last {
            Some(by) => timeout_at(by, writer.flush()).await??,
            None => writer.flush().await?,
        }
        if over {
            return Ok(());
        }
    }
}

/// How long to wait before a heart-beat: `every`, or up to a 64th of it less, so that at that moment others wait no longer either.
/// A broker with thousands of idle sessions is woken some times a second, and not for each of them. `now` is monotonic ms.
fn until_beat(every: Duration, now: u64) -> Duration {
    let every = every.as_millis() as u64;
    let early = (now + every) % (every / 64).max(1);
    Duration::from_millis(every - early)
}

/// Half-closes and reads on for a while: a socket that is closed with unread bytes resets, and the reset would overtake the last word.
async fn linger<S: AsyncRead + AsyncWrite>(mut reader: Reader<S>, mut writer: Writer<S>) {
    let drain = async {
        writer.write.shutdown().await?;
        // A small sink: it is part of what every session's task takes, from its first moment.
        let mut sink = [0; 256];
        while reader.read.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, drain).await;
}

enum Broken {
    Closed,
    Silent,
    Frame(FrameError),
}

struct Reader<S> {
    read: ReadHalf<S>,
    buffer: BytesMut,
    decoder: Decoder,
}

impl<S: AsyncRead> Reader<S> {
    async fn frame(&mut self) -> Result<Frame, Broken> {
        loop {
            match self.decoder.decode(&mut self.buffer).map_err(Broken::Frame)? {
                Some(Decoded::Frame(frame)) => return Ok(frame),
                Some(Decoded::HeartBeat) => {}
                None => self.more().await?,
            }
        }
    }

    /// Waits for bytes. While nothing is buffered it waits with a small buffer, since most sessions are idle most of the time.
    async fn more(&mut self) -> Result<(), Broken> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            let mut first = [0; 256];
            let count = self.read.read(&mut first).await.map_err(|_| Broken::Closed)?;
            if count == 0 {
                return Err(Broken::Closed);
            }
            self.buffer = BytesMut::with_capacity(if count < first.len() { count } else { READ });
            self.buffer.extend_from_slice(&first[..count]);
            return Ok(());
        }
        self.buffer.reserve(READ);
        match self.read.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(Broken::Closed),
            Ok(_) => Ok(()),
        }
    }
}

struct Writer<S> {
    write: WriteHalf<S>,
    version: Version,
    out: BytesMut,
    broker: String,
    session: SessionId,
    /// Goes out with CONNECTED, and is forgotten.
    token: Option<SecretString>,
    /// [`STALL`].
    stall: Duration,
}

impl<S: AsyncWrite> Writer<S> {
    fn encode(&mut self, item: Item, beats: &Beats, now: u64) {
        let out = &mut self.out;
        match item {
            Item::Message { message, subscription, number } => {
                encode_message(&message, &subscription, number, self.version, now, out)
            }
            Item::Receipt(id) => {
                Encoder::start(Command::Receipt, self.version, out).header("receipt-id", &id).finish(b"")
            }
            Item::Connected { user, collective } => {
                let mut encoder = Encoder::start(Command::Connected, self.version, out)
                    .header("version", self.version.as_str())
                    .header("session", &self.session.0.to_string())
                    .header("server", "muster")
                    .header("heart-beat", &format!("{},{}", beats.ours, beats.theirs))
                    .header("user-name", &user)
                    .header(header::BROKER, &self.broker);
                if let Some(collective) = collective {
                    encoder = encoder.header(header::COLLECTIVE, &collective);
                }
                if let Some(token) = self.token.take() {
                    encoder = encoder.header(header::TOKEN, token.expose_secret());
                }
                encoder.finish(b"");
            }
            Item::Close(Some(refusal)) => encode_error(&refusal, None, self.version, out),
            Item::Close(None) => {}
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let mut rest = &self.out[..];
        while !rest.is_empty() {
            match timeout(self.stall, self.write.write(rest)).await?? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => rest = &rest[count..],
            }
        }
        timeout(self.stall, self.write.flush()).await??;
        self.out.clear();
        Ok(())
    }

    /// An ERROR frame, given a bounded time.
    async fn last_word(&mut self, refusal: &Refusal, retry_after: Option<u64>) {
        encode_error(refusal, retry_after, self.version, &mut self.out);
        let _ = timeout(LINGER, self.flush()).await;
    }
}

/// Writes a MESSAGE frame. `now`, monotonic ms: of the time to start in, what is left is written.
pub fn encode_message(
    message: &Message,
    subscription: &str,
    number: u64,
    version: Version,
    now: u64,
    out: &mut BytesMut,
) {
    let mut encoder = Encoder::resume(Command::Message, version, message.head(version), out)
        .number("message-id", number)
        .header("subscription", subscription);
    if let Some(expires) = message.expires.filter(|_| message.headers.contains(header::START_WITHIN)) {
        encoder = encoder.number(header::START_WITHIN, expires.saturating_sub(now));
    }
    encoder.finish(&message.body);
}

fn encode_error(refusal: &Refusal, retry_after: Option<u64>, version: Version, out: &mut BytesMut) {
    let mut encoder = Encoder::start(Command::Error, version, out)
        .header(header::CODE, refusal.code.as_str())
        .header(header::MESSAGE, &refusal.text)
        .header("content-type", "text/plain");
    if let Some(ms) = retry_after.or(refusal.retry_after) {
        encoder = encoder.header(header::RETRY_AFTER, &ms.to_string());
    }
    encoder.finish(format!("{}: {}\n{}\n", refusal.code, refusal.text, refusal.code.cure()).as_bytes());
}

fn code_of(error: &FrameError) -> Code {
    use FrameError as E;
    match error {
        E::HeadTooLarge { .. }
        | E::HeaderTooLong { .. }
        | E::TooManyHeaders { .. }
        | E::BodyTooLarge { .. }
        | E::BodyWithoutEnd { .. } => Code::TooLarge,
        _ => Code::BadFrame,
    }
}

/// An ERROR frame for a peer that does not even speak TLS, in the clear: one line that says so.
pub async fn refuse_plain<S: AsyncWrite + Unpin>(stream: &mut S, text: &str) {
    let mut out = BytesMut::new();
    encode_error(&Refusal::new(Code::BadFrame, text), None, Version::V1_0, &mut out);
    let _ = timeout(LINGER, async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heart_beats_of_many_fall_together_and_none_is_late() {
        let every = Duration::from_millis(24_000);
        let due: std::collections::BTreeSet<u64> =
            (0..24_000).map(|now| now + until_beat(every, now).as_millis() as u64).collect();
        assert!(due.len() <= 65, "{} moments", due.len());
        for (every, now) in [(800, 0), (800, 799), (24_000, 23_999), (24_000, 24_001), (1, 5)] {
            let wait = until_beat(Duration::from_millis(every), now).as_millis() as u64;
            assert!(wait <= every && wait >= every - every / 64, "{wait} of {every}");
        }
    }

    #[tokio::test]
    async fn what_is_left_of_a_closed_session_is_given_up_however_slowly_its_peer_reads() {
        let (ours, mut peer) = io::duplex(64);
        let write = io::split(ours).1;
        let (version, out, stall) = (Version::V1_2, BytesMut::new(), Duration::from_millis(50));
        let mut writer =
            Writer { write, version, out, broker: "noc1".into(), session: SessionId(1), token: None, stall };
        let (outbox, items) = counted(64 << 20, &Expired::default());
        for _ in 0..100_000 {
            outbox.push(Item::Receipt("r".repeat(200)), 0, &mut Vec::new()).expect("room");
        }
        outbox.close(None, false);
        let reads = tokio::spawn(async move {
            let (mut some, mut all) = ([0; 64], 0);
            // Never long without reading, and never done: a pause after each 64 of some 20 million bytes.
            while let Ok(count @ 1..) = peer.read(&mut some).await {
                all += count;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            all
        });
        let beats = Beats { send: None, expect: None, ours: 0, theirs: 0 };
        let end = write_items(&mut writer, &items, &beats, Clock::start()).await;
        assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        drop(writer);
        assert!(reads.await.expect("the peer sees the end") > 0);
    }
}

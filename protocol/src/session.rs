//! How does a user speak to a broker? The client side of a connection: login, heart-beats, subscriptions, frames in and out.
//!
//! [`login`] turns a stream into a [`Session`] (sends) and an [`Incoming`] (receives). A task owns the writing half, so a frame is never
//! left half-written; the receiving half is read by whoever awaits [`Incoming::next`], which must be polled for the heart-beat to be watched.

use crate::error::Code;
use crate::frame::{self, Command, Decoded, Decoder, Frame, FrameError, Limits, Version};
use crate::message::{NodeId, NodeKey, header};
use crate::token::is_token;
use bytes::BytesMut;
use rustls::AlertDescription;
use secrecy::{ExposeSecret, SecretString};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// Heart-beat interval unless told: 30 s both ways.
pub const DEFAULT_HEART_BEAT: Duration = Duration::from_secs(30);

/// Frames that may wait for the socket before senders wait.
const QUEUE: usize = 64;

/// Who logs in.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password, or a token that stands for it.
    pub password: SecretString,
    /// What an agent says beside it.
    pub node: Option<NodeLogin>,
    /// How often each side promises a sign of life; zero: never.
    pub heart_beat: Duration,
    /// How long CONNECT to CONNECTED may take.
    pub limit: Duration,
}

/// The node that an agent speaks for.
#[derive(Debug, Clone)]
pub struct NodeLogin {
    /// Its key; the id follows from it.
    pub key: NodeKey,
    /// Higher at each connection.
    pub session: u64,
    /// The agent's clock, Unix ms.
    pub time: u64,
}

/// Why a session could not be had or has ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The broker said no, with its code and text.
    #[error("{text} ({})", .code.map_or("no code", Code::as_str))]
    Refused {
        /// The code, if this version knows it.
        code: Option<Code>,
        /// The broker's text.
        text: String,
        /// When to try again, if the broker says so.
        retry_after: Option<Duration>,
    },
    /// The connection ended without a word.
    #[error("the broker closed the connection")]
    Closed,
    /// Nothing came for longer than the broker promised.
    #[error("the broker was silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// No CONNECTED in time.
    #[error("no answer to the login within {} s", .0.as_secs())]
    LoginTimeout(Duration),
    /// The broker refused what this side showed of itself. In TLS 1.3 that comes when this side is done, with the first answer.
    #[error(
        "the broker does not take the client certificate ({0:?}): it is of another CA than the broker's `client-ca`, has expired, or is not for clients; issue another one, or show none if none is needed"
    )]
    Certificate(AlertDescription),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// The peer does not speak STOMP.
    #[error("the peer is no Muster broker: {0}")]
    Frame(#[from] FrameError),
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> SessionError {
        use AlertDescription as Alert;
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(
                alert @ (Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                // A signature in it is wrong: of another CA that calls itself the same.
                | Alert::DecryptError),
            )) => SessionError::Certificate(*alert),
            _ => SessionError::Io(error),
        }
    }
}

/// What the broker said in CONNECTED.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// The broker's name.
    pub broker: String,
    /// The collective of an agent.
    pub collective: Option<String>,
    /// What stands for the password at the next login, at any broker of the cluster, if the broker gives one.
    pub token: Option<SecretString>,
}

/// The sending side; clones share the connection.
#[derive(Debug, Clone)]
pub struct Session {
    frames: mpsc::Sender<Frame>,
}

/// The receiving side.
#[derive(Debug)]
pub struct Incoming<S> {
    reader: Reader<S>,
    welcome: Welcome,
    silence: Option<Duration>,
}

/// Logs in on a fresh connection.
pub async fn login<S>(stream: S, login: &Login) -> Result<(Session, Incoming<S>), SessionError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    login_within(stream, login, Limits::default()).await
}

/// As [`login`], with other limits on the frames that are received.
pub async fn login_within<S>(stream: S, login: &Login, limits: Limits) -> Result<(Session, Incoming<S>), SessionError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = Reader { read, decoder: Decoder::new(limits), buffer: BytesMut::with_capacity(4096) };
    let exchange = async {
        let mut out = BytesMut::new();
        frame::encode(&connect_frame(login), Version::V1_2, &mut out);
        write.write_all(&out).await?;
        write.flush().await?;
        loop {
            if let Decoded::Frame(frame) = reader.next().await? {
                return connected(frame);
            }
        }
    };
    let (welcome, send_every, silence) =
        timeout(login.limit, exchange).await.map_err(|_| SessionError::LoginTimeout(login.limit))??;
    reader.decoder.set_version(Version::V1_2);
    let (frames, queue) = mpsc::channel(QUEUE);
    tokio::spawn(write_frames(write, queue, send_every));
    Ok((Session { frames }, Incoming { reader, welcome, silence }))
}

impl Session {
    /// Queues a frame; waits while the socket is behind.
    pub async fn send(&self, frame: Frame) -> Result<(), SessionError> {
        self.frames.send(frame).await.map_err(|_| SessionError::Closed)
    }

    /// Subscribes to `destination` under `id`.
    pub async fn subscribe(&self, destination: &str, id: &str) -> Result<(), SessionError> {
        self.send(Frame::new(Command::Subscribe).header("destination", destination).header("id", id)).await
    }

    /// Says goodbye, so that the broker knows it is on purpose, and lets the writer finish.
    pub async fn disconnect(self) -> Result<(), SessionError> {
        self.send(Frame::new(Command::Disconnect)).await
    }
}

impl<S: AsyncRead + AsyncWrite> Incoming<S> {
    /// What the broker said at login.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The next MESSAGE or RECEIPT. An ERROR frame is `Refused`; silence past the promised heart-beat is `Silent`.
    ///
    /// May be dropped between polls without losing bytes.
    pub async fn next(&mut self) -> Result<Frame, SessionError> {
        loop {
            let decoded = match self.silence {
                Some(limit) => timeout(limit, self.reader.next()).await.map_err(|_| SessionError::Silent(limit))??,
                None => self.reader.next().await?,
            };
            match decoded {
                Decoded::HeartBeat => {}
                Decoded::Frame(frame) if frame.command == Command::Error => return Err(refused(&frame)),
                Decoded::Frame(frame) => return Ok(frame),
            }
        }
    }
}

#[derive(Debug)]
struct Reader<S> {
    read: ReadHalf<S>,
    decoder: Decoder,
    buffer: BytesMut,
}

impl<S: AsyncRead> Reader<S> {
    /// `read_buf` is cancel-safe and the decoder keeps its place, so this may be dropped at any await.
    async fn next(&mut self) -> Result<Decoded, SessionError> {
        loop {
            if let Some(decoded) = self.decoder.decode(&mut self.buffer)? {
                return Ok(decoded);
            }
            self.buffer.reserve(4096);
            if self.read.read_buf(&mut self.buffer).await? == 0 {
                return Err(SessionError::Closed);
            }
        }
    }
}

fn connect_frame(login: &Login) -> Frame {
    let beat = login.heart_beat.as_millis().to_string();
    let mut frame = Frame::new(Command::Connect)
        .header("accept-version", "1.2")
        .header("host", "muster")
        .header("heart-beat", &format!("{beat},{beat}"))
        .header("login", &login.user)
        .header("passcode", login.password.expose_secret());
    if let Some(node) = &login.node {
        frame = frame
            .header(header::NODE, &NodeId::of(&node.key).to_string())
            .header(header::NODE_KEY, &node.key.expose_hex())
            .header(header::SESSION, &node.session.to_string())
            .header(header::TIME, &node.time.to_string());
    }
    frame
}

/// The welcome, how often to send a heart-beat, and after what silence to give up.
fn connected(frame: Frame) -> Result<(Welcome, Option<Duration>, Option<Duration>), SessionError> {
    match frame.command {
        Command::Connected => {}
        Command::Error => return Err(refused(&frame)),
        _ => return Err(SessionError::Frame(FrameError::UnknownCommand(frame.command.as_str().to_owned()))),
    }
    let text = |name| frame.headers.get(name).map(str::to_owned);
    // What is none would be refused at the next login, or taken for a password.
    let token = frame.headers.get(header::TOKEN).filter(|token| is_token(token)).map(SecretString::from);
    let broker = text(header::BROKER).unwrap_or_default();
    let welcome = Welcome { broker, collective: text(header::COLLECTIVE), token };
    let (theirs, ours) = frame.headers.get("heart-beat").and_then(|h| h.split_once(',')).unwrap_or(("0", "0"));
    let interval = |text: &str| text.trim().parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    // Send a fifth earlier than promised and forgive the other side a whole interval: clocks and schedulers are not exact.
    Ok((welcome, interval(ours).map(|i| i * 4 / 5), interval(theirs).map(|i| i * 2)))
}

fn refused(frame: &Frame) -> SessionError {
    let text = frame.headers.get(header::MESSAGE).unwrap_or("the broker gave no reason").to_owned();
    let retry_after = frame.headers.get(header::RETRY_AFTER).and_then(|t| t.parse().ok()).map(Duration::from_millis);
    SessionError::Refused { code: frame.headers.get(header::CODE).and_then(Code::parse), text, retry_after }
}

async fn write_frames<S: AsyncWrite>(
    mut write: WriteHalf<S>,
    mut queue: mpsc::Receiver<Frame>,
    beat: Option<Duration>,
) {
    let mut out = BytesMut::new();
    loop {
        let next = match beat {
            Some(beat) => match timeout_at(Instant::now() + beat, queue.recv()).await {
                Ok(next) => next,
                Err(_) => {
                    frame::encode_heart_beat(&mut out);
                    if flush(&mut write, &mut out).await.is_err() {
                        return;
                    }
                    continue;
                }
            },
            None => queue.recv().await,
        };
        let Some(first) = next else { break };
        frame::encode(&first, Version::V1_2, &mut out);
        while let Ok(more) = queue.try_recv() {
            frame::encode(&more, Version::V1_2, &mut out);
        }
        if flush(&mut write, &mut out).await.is_err() {
            return;
        }
    }
    // Every handle is gone: end the stream properly, so that what was sent arrives.
    let _ = write.shutdown().await;
}

async fn flush<S: AsyncWrite>(write: &mut WriteHalf<S>, out: &mut BytesMut) -> io::Result<()> {
    write.write_all(out).await?;
    out.clear();
    write.flush().await
}

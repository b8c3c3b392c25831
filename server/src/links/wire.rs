//! How do frames get onto a connection and off it? The two halves of a TLS stream, and the HELLO of both sides.

use super::counters::{LinkCounters, is_data};
use bytes::{Buf, BytesMut};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::codec::{self, Decoder, Limits, LinkError};
use muster_protocol::link::{Head, Hello, Refused};
use muster_protocol::message::shown;
use rustls::AlertDescription;
use std::time::Duration;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// Characters of the other side's text that are shown.
const TEXT: usize = 400;
/// Bytes read at once.
const READ: usize = 64 * 1024;
/// After a last word: how long to flush and to read on, so that the word arrives before a reset.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Why no more frames come.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection ended.
    Closed(String),
    /// What came is no frame of a link, or breaks its rules.
    Frame(Refusal),
    /// The other side said why.
    Refused(Refused),
}

/// What comes.
#[derive(Debug)]
pub(super) struct Reader<S> {
    read: ReadHalf<S>,
    pub(super) buffer: BytesMut,
    pub(super) decoder: Decoder,
}

/// What goes.
#[derive(Debug)]
pub(super) struct Writer<S> {
    write: WriteHalf<S>,
    stall: Duration,
    pub(super) out: BytesMut,
}

/// Both halves of a connection that has just done TLS. A write that makes no progress for `stall` ends it.
pub(super) fn halves<S: AsyncRead + AsyncWrite>(stream: S, stall: Duration) -> (Reader<S>, Writer<S>) {
    let (read, write) = io::split(stream);
    let decoder = Decoder::new(Limits::BEFORE_HELLO);
    (Reader { read, buffer: BytesMut::new(), decoder }, Writer { write, stall, out: BytesMut::new() })
}

impl<S: AsyncRead> Reader<S> {
    /// The first frame, which says who is there, or why nobody wants to be.
    pub(super) async fn hello(&mut self) -> Result<Hello, Broken> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some((Head::Hello(hello), _))) => return Ok(hello),
                Ok(Some((Head::Refused(refused), _))) => return Err(Broken::Refused(refused)),
                Ok(Some(_)) => {
                    let text = "the first frame of a link must be HELLO";
                    return Err(Broken::Frame(Refusal::new(Code::BadFrame, text)));
                }
                Ok(None) => self.more().await?,
                Err(error) => return Err(Broken::Frame(refusal_of(&error))),
            }
        }
    }

    /// Waits for bytes.
    pub(super) async fn more(&mut self) -> Result<(), Broken> {
        self.buffer.reserve(READ);
        match self.read.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Broken::Closed("the other side closed the connection".into())),
            Ok(_) => Ok(()),
            Err(error) => Err(Broken::Closed(cause_of(&error))),
        }
    }
}

impl<S: AsyncWrite> Writer<S> {
    /// Adds a frame without a body.
    pub(super) fn control(&mut self, head: &Head, counters: Option<&LinkCounters>) {
        let before = self.out.len();
        match codec::encode(head, &mut self.out) {
            Ok(()) => {
                if let Some(counters) = counters {
                    counters.went(is_data(head), 1, self.out.len() - before);
                }
            }
            // The other side would end the link over it; without it, it goes on with what it knew.
            Err(error) => tracing::error!(target: "muster::links", %error, "a frame cannot be sent"),
        }
    }

    /// Writes what was added. Progress, not the end, must come in time: a slow line is no dead one.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let stalled = |_| io::Error::new(io::ErrorKind::TimedOut, "the other side does not read");
        while !self.out.is_empty() {
            let count = timeout(self.stall, self.write.write(&self.out)).await.map_err(stalled)??;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.out.advance(count);
        }
        timeout(self.stall, self.write.flush()).await.map_err(stalled)??;
        if self.out.capacity() > READ {
            self.out = BytesMut::new();
        }
        Ok(())
    }

    /// A REFUSED frame, given a bounded time.
    pub(super) async fn last_word(&mut self, refusal: &Refusal) {
        self.control(&refused(refusal), None);
        let _ = timeout(LINGER, self.flush()).await;
    }
}

/// The frame that ends a link.
pub(super) fn refused(refusal: &Refusal) -> Head {
    Head::Refused(Refused { code: refusal.code.to_string(), text: refusal.text.clone() })
}

/// Half-closes and reads on for a while: a socket that is closed with unread bytes resets, and the reset would overtake the last word.
pub(super) async fn linger<S: AsyncRead + AsyncWrite>(mut reader: Reader<S>, mut writer: Writer<S>) {
    let drain = async {
        writer.write.shutdown().await?;
        let mut sink = [0; 256];
        while reader.read.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, drain).await;
}

/// What the other side gave as its reason, fit for a log line.
pub(super) fn said(refused: &Refused) -> String {
    let text: String = refused.text.chars().take(TEXT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("refused by the other side: {}: {text}", shown(&refused.code))
}

/// What the other side is told of a frame that cannot be read.
pub(super) fn refusal_of(error: &LinkError) -> Refusal {
    let code = match error {
        LinkError::HeadTooLong(..) | LinkError::BodyTooLong(..) => Code::TooLarge,
        _ => Code::BadFrame,
    };
    Refusal::new(code, error.to_string())
}

/// What went wrong on a connection, with the cure where the other side's TLS says that it is about certificates.
pub(super) fn cause_of(error: &io::Error) -> String {
    use AlertDescription as A;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(
            alert @ (A::UnknownCA
            | A::BadCertificate
            | A::CertificateExpired
            | A::CertificateRevoked
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnsupportedCertificate
            | A::AccessDenied
            // A CA of the same name with another key: two clusters that were set up with the same names.
            | A::DecryptError),
        )) => format!(
            "the other side does not accept this broker's certificate ({alert:?}); both need certificates of one CA, valid now, for server and client authentication"
        ),
        Some(error) => format!("TLS failed: {error}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "the connection ended without a last word".into(),
        None => error.to_string(),
    }
}

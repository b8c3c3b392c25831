//! What is a session that is nothing but one? TLS, user and password in any dialect; no node, no facts, no token.

use crate::dialect::{Dialect, DialectError, Event, Reader};
use crate::wire::{self, Stream};
use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long TLS, and each answer, may take; many may be on their way in at once.
const WITHIN: Duration = Duration::from_secs(20);
/// Bytes that there is room for before each read.
const ROOM: usize = 4 * 1024;

/// A session, logged in.
#[derive(Debug)]
pub(crate) struct Bare {
    dialect: Dialect,
    reader: Reader,
    buffer: BytesMut,
    stream: Stream,
}

/// Why a session is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareError {
    #[error("{0}: {1}")]
    Connect(&'static str, io::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the broker has closed the connection")]
    Closed,
    #[error("no answer within {} s", WITHIN.as_secs())]
    Late,
    #[error("the broker says: {0}")]
    Refused(String),
    #[error(transparent)]
    Dialect(#[from] DialectError),
}

impl BareError {
    /// A kind of end that is not one of a kind: without addresses and texts.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            BareError::Connect(what, _) => what,
            // Without a word of TLS that it is over, as some brokers do.
            BareError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => "closed",
            BareError::Io(_) => "broken",
            BareError::Closed => "closed",
            BareError::Late => "no answer in time",
            BareError::Refused(_) => "refused",
            BareError::Dialect(_) => "not the protocol",
        }
    }
}

impl Bare {
    /// From this address to that broker, and in.
    pub(crate) async fn connect(
        dialect: Dialect,
        (from, to): (Ipv4Addr, SocketAddr),
        tls: &Arc<ClientConfig>,
        user: &str,
        password: &SecretString,
    ) -> Result<Bare, BareError> {
        let stream = wire::connect_greeted(from, to, tls, WITHIN, dialect.greeting()).await;
        let stream = stream.map_err(|(what, error)| BareError::Connect(what, error))?;
        let mut bare = Bare { dialect, reader: Reader::new(dialect), buffer: BytesMut::new(), stream };
        let mut out = BytesMut::new();
        dialect.log_in(user, password.expose_secret(), &mut out);
        bare.exchange(&out).await?;
        Ok(bare)
    }

    /// In place when this is over.
    pub(crate) async fn subscribe(&mut self, destination: &str) -> Result<(), BareError> {
        let mut out = BytesMut::new();
        self.dialect.subscribe(destination, &mut out);
        self.exchange(&out).await
    }

    /// Sends a message.
    pub(crate) async fn publish(
        &mut self,
        destination: &str,
        reply_to: Option<&str>,
        body: &[u8],
    ) -> Result<(), BareError> {
        let mut out = BytesMut::new();
        self.dialect.publish(destination, reply_to, body, &mut out);
        self.send(&out).await
    }

    /// Sends what is encoded already.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), BareError> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next message; pings are answered. Keeps what it has when it is dropped while it waits for more.
    pub(crate) async fn message(&mut self) -> Result<(Option<String>, Bytes), BareError> {
        loop {
            if let Event::Message { reply_to, body } = self.event().await? {
                return Ok((reply_to, body));
            }
        }
    }

    /// Bytes as they come, not decoded, for who only counts.
    pub(crate) async fn bytes(&mut self, buffer: &mut [u8]) -> Result<usize, BareError> {
        match self.stream.read(buffer).await? {
            0 => Err(BareError::Closed),
            count => Ok(count),
        }
    }

    async fn exchange(&mut self, bytes: &[u8]) -> Result<(), BareError> {
        let done = async {
            self.send(bytes).await?;
            while self.event().await? != Event::Done {}
            Ok(())
        };
        timeout(WITHIN, done).await.unwrap_or(Err(BareError::Late))
    }

    async fn event(&mut self) -> Result<Event, BareError> {
        loop {
            match self.reader.next(&mut self.buffer)? {
                Some(Event::Ping) => self.send(Dialect::PONG).await?,
                Some(Event::Refused(why)) => return Err(BareError::Refused(why)),
                Some(event) => return Ok(event),
                None => {
                    self.buffer.reserve(ROOM);
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Err(BareError::Closed);
                    }
                }
            }
        }
    }
}

/// A body of so many bytes that says `label`; longer if that needs it.
pub(crate) fn labelled(label: &str, bytes: usize) -> Bytes {
    let mut body = Vec::with_capacity(bytes);
    body.extend_from_slice(label.as_bytes());
    body.push(b' ');
    body.resize(body.len().max(bytes), b'a');
    body.into()
}

/// The words that a body begins with; what is no text has none.
pub(crate) fn labels(body: &Bytes) -> impl Iterator<Item = &str> {
    body.split(|byte| *byte == b' ').map(|word| std::str::from_utf8(word).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_back_and_bodies_have_the_bytes_that_were_asked_for() {
        let body = labelled("load-7 12", 512);
        assert_eq!(body.len(), 512);
        assert_eq!(labels(&body).take(2).collect::<Vec<_>>(), ["load-7", "12"]);
        assert_eq!(labelled("load-7", 3), "load-7 ");
        assert_eq!(labels(&Bytes::new()).next(), Some(""));
    }
}

//! How does a simulated client reach a broker? From a source address of its own, over TLS, every byte counted.

use bytes::BytesMut;
use muster_protocol::dial;
use muster_protocol::tls::{self, TlsError};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes of the longest line that a broker may say before TLS.
const GREETING: usize = 4 * 1024;

static TO_BROKERS: AtomicU64 = AtomicU64::new(0);
static FROM_BROKERS: AtomicU64 = AtomicU64::new(0);

/// A connection to a broker, TLS done.
pub(crate) type Stream = TlsStream<Counted>;

/// Bytes of TCP payload, TLS and all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wire {
    pub(crate) to_brokers: u64,
    pub(crate) from_brokers: u64,
}

impl Wire {
    /// Of all connections that this process ever had.
    pub(crate) fn of_this_process() -> Wire {
        Wire { to_brokers: TO_BROKERS.load(Relaxed), from_brokers: FROM_BROKERS.load(Relaxed) }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Wire) -> Wire {
        Wire { to_brokers: self.to_brokers + other.to_brokers, from_brokers: self.from_brokers + other.from_brokers }
    }

    /// What came after `earlier`.
    pub(crate) fn since(self, earlier: Wire) -> Wire {
        Wire {
            to_brokers: self.to_brokers.saturating_sub(earlier.to_brokers),
            from_brokers: self.from_brokers.saturating_sub(earlier.from_brokers),
        }
    }
}

/// As an agent verifies brokers. Sessions are not resumed: agents have no tickets of each other, and shared ones would be.
pub(crate) fn client_config(ca: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::clone(&*tls::client_config(ca, None)?);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// TCP from this address, and TLS, together within `limit`. The error says what it was that failed.
pub(crate) async fn connect(
    from: Ipv4Addr,
    to: SocketAddr,
    tls: &Arc<ClientConfig>,
    limit: Duration,
) -> Result<Stream, (&'static str, io::Error)> {
    connect_greeted(from, to, tls, limit, None).await
}

/// As [`connect`], to a broker that first says a line that begins so, before TLS.
pub(crate) async fn connect_greeted(
    from: Ipv4Addr,
    to: SocketAddr,
    tls: &Arc<ClientConfig>,
    limit: Duration,
    greeting: Option<&[u8]>,
) -> Result<Stream, (&'static str, io::Error)> {
    let attempt = async {
        let socket = TcpSocket::new_v4().map_err(|error| ("no socket", error))?;
        socket.bind((from, 0).into()).map_err(|error| ("no source address", error))?;
        let tcp = socket.connect(to).await.map_err(|error| ("no TCP connection", error))?;
        dial::harden(&tcp).map_err(|error| ("no TCP connection", error))?;
        let mut tcp = Counted(tcp);
        if let Some(greeting) = greeting {
            hear(&mut tcp, greeting).await.map_err(|error| ("no greeting", error))?;
        }
        let connector = TlsConnector::from(tls.clone());
        connector.connect(ServerName::IpAddress(to.ip().into()), tcp).await.map_err(|error| ("no TLS", error))
    };
    let late = || ("no connection in time", io::Error::from(io::ErrorKind::TimedOut));
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err(late()))
}

/// Reads one line. Behind it comes nothing until TLS has begun, and that is begun from here.
async fn hear(tcp: &mut Counted, greeting: &[u8]) -> io::Result<()> {
    let mut line = BytesMut::with_capacity(GREETING);
    while line.last() != Some(&b'\n') {
        if line.len() >= GREETING || tcp.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if line.starts_with(greeting) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A TCP connection whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Counted(TcpStream);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(context, buffer))?;
        FROM_BROKERS.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        written(Pin::new(&mut self.0).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        written(Pin::new(&mut self.0).poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

fn written(result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(count)) = &result {
        TO_BROKERS.fetch_add(*count as u64, Relaxed);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What comes of a broker that says this and then nothing more.
    async fn heard(said: &[u8]) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (mut broker, _) = listener.accept().await.expect("a connection");
        broker.write_all(said).await.expect("it is taken");
        drop(broker);
        hear(&mut Counted(client), b"INFO ").await
    }

    #[tokio::test]
    async fn a_greeting_is_one_line_that_begins_as_it_should() {
        heard(b"INFO {}\r\n").await.expect("a greeting");
        for said in [&b""[..], b"INFO {}", b"HTTP/1.1 400 Bad Request\r\n", &[b'I'; 2 * GREETING]] {
            let error = heard(said).await.expect_err("no greeting");
            assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::ConnectionReset), "{error}");
        }
    }
}

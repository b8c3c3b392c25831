//! How does a broker list become a connection? Order, back-off with full jitter, TCP and TLS under one deadline.

use crate::message::shown;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// STOMP over TLS.
pub const DEFAULT_PORT: u16 = 61614;
/// Links between brokers.
pub const LINK_PORT: u16 = 61617;

/// How long an unacknowledged write may stay so before the kernel gives the connection up.
pub const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a broker, TLS done.
pub type Stream = TlsStream<TcpStream>;

/// `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`: where a broker listens. Never a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// Text that is no broker address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a broker address: expected HOST, HOST:PORT or [IPV6]:PORT")]
pub struct AddressError(String);

impl Address {
    /// Parses an address; `default_port` is meant where it has none.
    pub fn parse_with(text: &str, default_port: u16) -> Result<Address, AddressError> {
        let wrong = || AddressError(shown(text));
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = port.map_or(Ok(default_port), |p| p.parse().map_err(|_| wrong()))?;
        if port == 0 || ServerName::try_from(host).is_err() {
            return Err(wrong());
        }
        Ok(Address { host: host.to_owned(), port })
    }

    /// Host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        Address::parse_with(text, DEFAULT_PORT)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a broker could not be reached; each kind has another cure.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host does not resolve, the port is closed, or the connection broke.
    #[error("{address}: {cause}")]
    Connect {
        /// Which broker.
        address: Address,
        /// What the system said.
        cause: io::Error,
    },
    /// TLS failed: another CA, another name, expired, or not TLS at all.
    #[error("{address}: TLS failed: {cause}")]
    Tls {
        /// Which broker.
        address: Address,
        /// What rustls said.
        cause: io::Error,
    },
    /// Nothing in time.
    #[error("{address}: no connection within {} ms", limit.as_millis())]
    Timeout {
        /// Which broker.
        address: Address,
        /// The deadline for TCP and TLS together.
        limit: Duration,
    },
}

/// Connects to one broker: TCP and TLS together within `limit`. Its certificate must be for the host that is dialled.
pub async fn connect(address: &Address, tls: &Arc<ClientConfig>, limit: Duration) -> Result<Stream, DialError> {
    connect_as(address, address.host(), tls, limit).await
}

/// As [`connect`], but the certificate must be for `name`, whatever address is dialled: a broker is its name, not its address.
pub async fn connect_as(
    address: &Address,
    name: &str,
    tls: &Arc<ClientConfig>,
    limit: Duration,
) -> Result<Stream, DialError> {
    let attempt = async {
        let failed = |cause| DialError::Connect { address: address.clone(), cause };
        let tcp = TcpStream::connect((address.host(), address.port())).await.map_err(failed)?;
        harden(&tcp).map_err(failed)?;
        let not_tls = |cause| DialError::Tls { address: address.clone(), cause };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|e| not_tls(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
        TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(not_tls)
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { address: address.clone(), limit }),
    }
}

/// Makes a dead host show itself: no delay, keepalive, and an end to writes that nobody acknowledges.
pub fn harden(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(5)),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Exponential back-off with full jitter: each wait is uniform between nothing and a ceiling that doubles.
#[derive(Debug, Clone)]
pub struct BackOff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl BackOff {
    /// Ceilings from `first`, doubled at each failure, up to `most`.
    pub fn new(first: Duration, most: Duration) -> BackOff {
        BackOff { first, most, failures: 0 }
    }

    /// The wait before the next try. `random` is uniform in 0..=u32::MAX.
    pub fn next(&mut self, random: u32) -> Duration {
        let ceiling = self.first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// After a connection that held.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for (text, shown) in [
            ("noc1.example.net", "noc1.example.net:61614"),
            ("127.0.0.1:6000", "127.0.0.1:6000"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:61614"),
        ] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()).as_deref(), Ok(shown));
            let link = Address::parse_with(text, LINK_PORT).map(|a| a.to_string());
            assert_eq!(link.as_deref(), Ok(shown.replace("61614", "61617").as_str()));
        }
        for wrong in ["", ":1", "a:0", "a:x", "a:70000", "tcp://a:1", "::1", "[::1", "[a]:1", "a b:1", "a:1:2"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn back_off_is_between_nothing_and_a_ceiling_that_doubles_up_to_the_most() {
        let mut back_off = BackOff::new(Duration::from_millis(250), Duration::from_secs(60));
        let ceilings: Vec<u128> = (0..40).map(|_| back_off.next(u32::MAX).as_millis()).collect();
        assert_eq!(&ceilings[..4], &[250, 500, 1000, 2000]);
        assert_eq!(ceilings[39], 60_000);
        assert_eq!(back_off.next(0), Duration::ZERO);
        back_off.reset();
        assert_eq!(back_off.next(u32::MAX).as_millis(), 250);
    }
}

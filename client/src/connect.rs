//! How is a broker reached, and if none is, why? The broker list in order under one deadline; each failure with its own cure.

use muster_protocol::dial::{self, Address, DialError, Stream};
use muster_protocol::error::Code;
use muster_protocol::session::{self, Incoming, Login, Session, SessionError};
use rustls::CertificateError;
use secrecy::SecretString;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a broker may take for TCP and TLS at the first try: some times what the way around the world takes.
const PATIENCE: Duration = Duration::from_millis(600);
/// When to come again after a broker that had no room.
const SOON: Duration = Duration::from_millis(250);

/// How to reach a broker and who logs in.
#[derive(Debug, Clone)]
pub struct Access {
    /// Tried in this order; the first that lets the user in is taken.
    pub brokers: Vec<Address>,
    /// The user.
    pub user: String,
    /// The password, or a token that stands for it.
    pub password: SecretString,
    /// How brokers' certificates are checked.
    pub tls: Arc<rustls::ClientConfig>,
    /// For the whole list, logins included.
    pub limit: Duration,
}

/// One broker that could not be used.
#[derive(Debug)]
pub struct Attempt {
    /// Which broker.
    pub address: Address,
    /// What is wrong and what to do, one line.
    pub cause: String,
    /// If that may pass: when to try again.
    pub again: Option<Duration>,
}

/// No broker could be used.
#[derive(Debug)]
pub enum ConnectError {
    /// Nobody could be reached, or all were busy. One attempt a broker.
    Unreachable(Vec<Attempt>),
    /// A broker answered and said no. Another broker of the cluster has the same policy and is not asked.
    Refused {
        /// Which broker.
        address: Address,
        /// The code, if this version knows it.
        code: Option<Code>,
        /// The broker's text.
        text: String,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Unreachable(attempts) => {
                f.write_str("could not connect to a broker")?;
                attempts.iter().try_for_each(|attempt| write!(f, "\n  {}: {}", attempt.address, attempt.cause))
            }
            ConnectError::Refused { address, text, .. } => write!(f, "{address} refused the login: {text}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Tries the brokers in order until one lets the user in. If none does, but one may do so soon, all are tried once more, as far as
/// there is time for that; `told` hears why, a line for people.
///
/// Each gets an equal part of what is left of the time, so that one that swallows packets leaves time for the next.
pub async fn connect(access: &Access, mut told: impl FnMut(&str)) -> Result<(Session, Incoming<Stream>), ConnectError> {
    let deadline = Instant::now() + access.limit;
    let attempts = match round(access, deadline).await {
        Err(ConnectError::Unreachable(attempts)) => attempts,
        ended => return ended,
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let soon = attempts.iter().filter(|attempt| attempt.again.is_some_and(|again| again < left));
    let Some(Attempt { address, cause, again: Some(again) }) = soon.min_by_key(|attempt| attempt.again) else {
        return Err(ConnectError::Unreachable(attempts));
    };
    told(&format!("{address}: {cause}; trying again"));
    tokio::time::sleep(*again).await;
    round(access, deadline).await
}

/// Tries each broker of the list.
async fn round(access: &Access, deadline: Instant) -> Result<(Session, Incoming<Stream>), ConnectError> {
    let mut attempts = Vec::new();
    for (index, address) in access.brokers.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let part = left / u32::try_from(access.brokers.len() - index).unwrap_or(u32::MAX);
        let failed = |cause, again| Attempt { address: address.clone(), cause, again };
        let begun = Instant::now();
        let stream = match dial(address, &access.tls, part).await {
            Ok(stream) => stream,
            Err(error) => {
                attempts.push(failed(why_not_reached(address, &error), is_cut_off(&error).then_some(SOON)));
                continue;
            }
        };
        let login = Login {
            user: access.user.clone(),
            password: access.password.clone(),
            node: None,
            heart_beat: session::DEFAULT_HEART_BEAT,
            limit: part.saturating_sub(begun.elapsed()),
        };
        match session::login(stream, &login).await {
            Ok(connected) => return Ok(connected),
            Err(SessionError::Refused { code, text, .. }) if !is_passing(code) => {
                return Err(ConnectError::Refused { address: address.clone(), code, text });
            }
            Err(error) => {
                let again = if let SessionError::Refused { retry_after, .. } = &error { *retry_after } else { None };
                attempts.push(failed(why_no_login(&error, part), again));
            }
        }
    }
    Err(ConnectError::Unreachable(attempts))
}

/// TCP and TLS within this time. A broker in a storm lets those in first who have just come: who has no answer soon comes anew.
async fn dial(address: &Address, tls: &Arc<rustls::ClientConfig>, part: Duration) -> Result<Stream, DialError> {
    if part < 2 * PATIENCE {
        return dial::connect(address, tls, part).await;
    }
    match dial::connect(address, tls, PATIENCE).await {
        Err(DialError::Timeout { .. }) => {}
        connected => return connected,
    }
    dial::connect(address, tls, part - PATIENCE).await.map_err(|error| match error {
        DialError::Timeout { address, .. } => DialError::Timeout { address, limit: part },
        other => other,
    })
}

/// Whether the connection was there, and ended before TLS was done.
fn is_cut_off(error: &DialError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let DialError::Tls { cause, .. } = error else { return false };
    matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Whether a code speaks of the broker's situation and not of the user's rights: another broker, or a later try, may do.
pub fn is_passing(code: Option<Code>) -> bool {
    use Code::{AuthTimeout, Busy, Draining, HeartBeat, Internal, Limit, Moved, SlowConsumer};
    matches!(code, Some(AuthTimeout | Busy | Draining | HeartBeat | Internal | Limit | Moved | SlowConsumer))
}

fn why_no_login(error: &SessionError, limit: Duration) -> String {
    match error {
        SessionError::Refused { code: Some(code), text, retry_after } => {
            let again = retry_after.map_or(String::new(), |after| {
                format!(
                    " (it says: again in {})",
                    humantime::format_duration(Duration::from_secs(after.as_secs().max(1)))
                )
            });
            format!("{code}: {text}{again}")
        }
        SessionError::LoginTimeout(_) => {
            format!(
                "no answer to the login within {} ms; the broker may be overloaded, or no Muster broker",
                limit.as_millis()
            )
        }
        SessionError::Closed => "closed the connection during the login; is this a Muster broker's STOMP port?".into(),
        other => other.to_string(),
    }
}

fn why_not_reached(address: &Address, error: &DialError) -> String {
    match error {
        DialError::Timeout { limit, .. } => format!(
            "timeout: no connection within {} ms; the host is down, or a firewall drops packets to port {}",
            limit.as_millis(),
            address.port()
        ),
        DialError::Connect { cause, .. } => why_no_tcp(address, cause),
        DialError::Tls { .. } if is_cut_off(error) => {
            "cut off before TLS was done: the broker has no room at the moment, or this is no TLS port".into()
        }
        DialError::Tls { cause, .. } => why_no_tls(address, cause),
    }
}

fn why_no_tcp(address: &Address, cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!(
                "port closed: nothing listens on port {}; is musterd running there, and on this port?",
                address.port()
            )
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("no route to the host ({cause}); check the network and the address")
        }
        io::ErrorKind::TimedOut => {
            format!("timeout: {cause}; the host is down, or a firewall drops packets to port {}", address.port())
        }
        // The resolver's failures have no kind of their own.
        _ if cause.raw_os_error().is_none() => {
            format!("the name `{}` does not resolve ({cause}); check its spelling and DNS", address.host())
        }
        _ => cause.to_string(),
    }
}

fn why_no_tls(address: &Address, cause: &io::Error) -> String {
    use CertificateError as Certificate;
    let Some(error) = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return format!("TLS failed: {cause}; is this a TLS port?");
    };
    match error {
        rustls::Error::InvalidCertificate(Certificate::NotValidForName) => name_mismatch(address, &[]),
        rustls::Error::InvalidCertificate(Certificate::NotValidForNameContext { presented, .. }) => {
            name_mismatch(address, presented)
        }
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            "unknown CA: the broker's certificate is not signed by the CA given; take the cluster's ca.pem (--ca)"
                .into()
        }
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "expired certificate: the broker needs a new one, or this machine's clock is wrong".into()
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            "certificate not valid yet: this machine's clock, or that of the certificate's maker, is wrong".into()
        }
        rustls::Error::InvalidMessage(_) => {
            format!("not TLS: port {} answers with something else; plain STOMP or another service?", address.port())
        }
        other => format!("TLS failed: {other}"),
    }
}

fn name_mismatch(address: &Address, presented: &[String]) -> String {
    let names = if presented.is_empty() { String::new() } else { format!(" (it is for {})", presented.join(", ")) };
    format!(
        "TLS name mismatch: the certificate is not for `{}`{names}; connect by a name that it holds",
        address.host()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Tls, answer_busy, answer_login};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn access(brokers: Vec<Address>, tls: &Arc<rustls::ClientConfig>, limit: Duration) -> Access {
        Access { brokers, user: "alice".into(), password: "pw".into(), tls: tls.clone(), limit }
    }

    async fn connect(access: &Access) -> Result<(Session, Incoming<Stream>), ConnectError> {
        super::connect(access, |text| panic!("no second try was expected: {text}")).await
    }

    fn address(host: &str, listener: &TcpListener) -> Address {
        format!("{host}:{}", listener.local_addr().expect("an address").port()).parse().expect("an address")
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("a port")
    }

    /// What a connection to a TLS broker with this certificate, under the name `127.0.0.1`, ends in.
    async fn failure(server: &Tls, trusted: &Tls) -> String {
        let listener = listener().await;
        let brokers = vec![address("127.0.0.1", &listener)];
        let acceptor = tokio_rustls::TlsAcceptor::from(server.server.clone());
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let _ = acceptor.accept(tcp).await;
        });
        connect(&access(brokers, &trusted.client, Duration::from_secs(5))).await.expect_err("no connection").to_string()
    }

    #[tokio::test]
    async fn each_failure_has_its_own_words() {
        let good = Tls::new("127.0.0.1", 1);
        let closed = address("127.0.0.1", &listener().await);
        let error =
            connect(&access(vec![closed], &good.client, Duration::from_secs(5))).await.expect_err("closed").to_string();
        assert!(error.contains("port closed"), "{error}");
        let error = failure(&Tls::new("other.example.net", 1), &good).await;
        assert!(error.contains("unknown CA"), "{error}");
        let other_name = Tls::new("other.example.net", 1);
        let error = failure(&other_name, &other_name).await;
        assert!(error.contains("TLS name mismatch") && error.contains("other.example.net"), "{error}");
        let expired = Tls::new("127.0.0.1", -1);
        let error = failure(&expired, &expired).await;
        assert!(error.contains("expired certificate"), "{error}");
    }

    #[tokio::test]
    async fn silence_and_other_protocols_are_told_apart() {
        let tls = Tls::new("127.0.0.1", 1);
        let silent = listener().await;
        let brokers = vec![address("127.0.0.1", &silent)];
        let error =
            connect(&access(brokers, &tls.client, Duration::from_millis(50))).await.expect_err("silent").to_string();
        assert!(error.contains("timeout"), "{error}");
        let http = listener().await;
        let brokers = vec![address("127.0.0.1", &http)];
        tokio::spawn(async move {
            let (mut tcp, _) = http.accept().await.expect("a connection");
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("write");
        });
        let error = connect(&access(brokers, &tls.client, Duration::from_secs(5))).await.expect_err("http").to_string();
        assert!(error.contains("not TLS"), "{error}");
    }

    #[tokio::test]
    async fn brokers_that_are_gone_or_stopping_are_passed_over_and_named_if_none_is_left() {
        let tls = Tls::new("127.0.0.1", 1);
        let closed = address("127.0.0.1", &listener().await);
        for good in [true, false] {
            let (draining, last) = (listener().await, listener().await);
            let brokers = vec![closed.clone(), address("127.0.0.1", &draining), address("127.0.0.1", &last)];
            let names: Vec<String> = brokers.iter().map(ToString::to_string).collect();
            tokio::spawn(answer_login(draining, tls.server.clone(), Some("draining")));
            tokio::spawn(answer_login(last, tls.server.clone(), (!good).then_some("limit")));
            match connect(&access(brokers, &tls.client, Duration::from_secs(5))).await {
                Ok((_, incoming)) => assert!(good && incoming.welcome().broker == "fake"),
                Err(error) => {
                    assert!(!good && matches!(error, ConnectError::Unreachable(_)), "{error}");
                    let text = error.to_string();
                    let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
                    assert_eq!(lines.len(), 3, "{text}");
                    for (line, (name, cause)) in
                        lines.iter().zip(names.iter().zip(["port closed: ", "draining: ", "limit: "]))
                    {
                        assert!(line.starts_with(&format!("{name}: {cause}")), "{line}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn the_next_broker_is_tried_after_busy_but_not_after_a_wrong_password() {
        let tls = Tls::new("127.0.0.1", 1);
        for (code, refused) in [("busy", false), ("auth-failed", true)] {
            let (first, second) = (listener().await, listener().await);
            let brokers = vec![address("127.0.0.1", &first), address("127.0.0.1", &second)];
            tokio::spawn(answer_login(first, tls.server.clone(), Some(code)));
            tokio::spawn(answer_login(second, tls.server.clone(), None));
            let result = connect(&access(brokers, &tls.client, Duration::from_secs(5))).await;
            match result {
                Ok((_, incoming)) => assert!(!refused && incoming.welcome().broker == "fake"),
                Err(ConnectError::Refused { code, .. }) => assert!(refused && code == Some(Code::AuthFailed)),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[tokio::test]
    async fn a_broker_without_room_is_tried_once_more_and_it_is_said() {
        let tls = Tls::new("127.0.0.1", 1);
        // Cut off, then let in; busy, with a time that there is, and one that there is not.
        for (first, in_the_end) in [(None, true), (Some("1"), true), (Some("60000"), false)] {
            let listener = listener().await;
            let access = access(vec![address("127.0.0.1", &listener)], &tls.client, Duration::from_secs(20));
            let server = tls.server.clone();
            tokio::spawn(async move {
                match first {
                    None => drop(listener.accept().await.expect("a connection")),
                    Some(after) => answer_busy(&listener, server.clone(), after).await,
                }
                answer_login(listener, server, None).await;
            });
            let mut told = Vec::new();
            let result = super::connect(&access, |text| told.push(text.to_owned())).await;
            assert_eq!(result.is_ok(), in_the_end, "{first:?}");
            let why = if first.is_none() { "cut off before TLS" } else { "busy" };
            match result {
                Ok(_) => assert!(told.len() == 1 && told[0].contains(why) && told[0].contains("again"), "{told:?}"),
                Err(error) => assert!(told.is_empty() && error.to_string().contains("again in 1m"), "{error} {told:?}"),
            }
        }
    }

    #[tokio::test]
    async fn who_gets_no_answer_soon_comes_anew() {
        let tls = Tls::new("127.0.0.1", 1);
        let listener = listener().await;
        let access = access(vec![address("127.0.0.1", &listener)], &tls.client, Duration::from_secs(20));
        tokio::spawn(async move {
            let _in_a_line = listener.accept().await.expect("a connection");
            answer_login(listener, tls.server, None).await;
        });
        connect(&access).await.expect("the newer one is served");
    }
}

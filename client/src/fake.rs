//! A broker that plays what a test tells it, over a pipe in memory or over TLS. Only in tests.

use crate::client::Client;
use bytes::BytesMut;
use muster_protocol::frame::{self, Command, Decoded, Decoder, Frame, Limits, Version};
use muster_protocol::message::{NodeId, NodeKey, header};
use muster_protocol::session::{self, Login};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

/// A broker's certificate, and a client that trusts exactly it.
pub(crate) struct Tls {
    pub(crate) server: Arc<rustls::ServerConfig>,
    pub(crate) client: Arc<rustls::ClientConfig>,
}

impl Tls {
    /// For `name`; a negative number of `years` has passed, a positive one is to come.
    pub(crate) fn new(name: &str, years: i32) -> Tls {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = 1970 + i32::try_from(jiff::Timestamp::now().as_second() / 31_557_600).unwrap();
        params.not_before = rcgen::date_time_ymd(now - 9, 1, 1);
        params.not_after = rcgen::date_time_ymd(now + years + i32::from(years > 0), 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let versions = |provider| (provider, rustls::DEFAULT_VERSIONS);
        let (provider, versions) = versions(Arc::new(default_provider()));
        let client =
            rustls::ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Tls {
            client: Arc::new(client.with_root_certificates(roots).with_no_client_auth()),
            server: Arc::new(server.with_no_client_auth().with_single_cert(vec![certificate], secret).unwrap()),
        }
    }
}

/// Takes one TLS connection and answers its login: CONNECTED, or ERROR with this code.
pub(crate) async fn answer_login(listener: TcpListener, tls: Arc<rustls::ServerConfig>, code: Option<&str>) {
    let (tcp, _) = listener.accept().await.unwrap();
    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await else { return };
    let mut peer = Peer::new(stream);
    assert_eq!(peer.next().await.unwrap().command, Command::Connect);
    let answer = match code {
        Some(code) => Frame::new(Command::Error).header(header::CODE, code).header(header::MESSAGE, "no"),
        None => connected(),
    };
    peer.send(answer).await;
    while peer.next().await.is_some() {}
}

/// Takes one TLS connection and tells its login to come again after so many ms.
pub(crate) async fn answer_busy(listener: &TcpListener, tls: Arc<rustls::ServerConfig>, retry_after: &str) {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut peer = Peer::new(tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await.unwrap());
    assert_eq!(peer.next().await.unwrap().command, Command::Connect);
    let answer = Frame::new(Command::Error).header(header::CODE, "busy").header(header::MESSAGE, "too many");
    peer.send(answer.header(header::RETRY_AFTER, retry_after)).await;
    assert!(peer.next().await.is_none());
}

fn connected() -> Frame {
    Frame::new(Command::Connected).header("version", "1.2").header("heart-beat", "0,0").header(header::BROKER, "fake")
}

/// A client that is logged in to a fake broker, and that broker's end.
pub(crate) async fn connect() -> (Client, Peer<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let login = Login {
        user: "alice".into(),
        password: "pw".into(),
        node: None,
        heart_beat: Duration::ZERO,
        limit: Duration::from_secs(5),
    };
    let mut peer = Peer::new(theirs);
    let broker = tokio::spawn(async move {
        assert_eq!(peer.next().await.unwrap().command, Command::Connect);
        peer.send(connected()).await;
        assert_eq!(peer.next().await.unwrap().command, Command::Subscribe);
        peer
    });
    let (session, incoming) = session::login(ours, &login).await.unwrap();
    let client = Client::start(session, incoming).await.unwrap();
    (client, broker.await.unwrap())
}

/// The broker's end of a connection.
pub(crate) struct Peer<S> {
    stream: S,
    decoder: Decoder,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S) -> Peer<S> {
        Peer { stream, decoder: Decoder::new(Limits::default()), buffer: BytesMut::new() }
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.decode(&mut self.buffer).unwrap() {
                Some(Decoded::Frame(frame)) => {
                    self.decoder.set_version(Version::V1_2);
                    return Some(frame);
                }
                Some(Decoded::HeartBeat) => continue,
                None => {}
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next SEND, which must go to `destination`: its frame and its JSON body.
    pub(crate) async fn expect(&mut self, destination: &str) -> (Frame, Value) {
        let frame = self.next().await.expect("a frame");
        assert_eq!((frame.command, frame.headers.get("destination")), (Command::Send, Some(destination)));
        let body = serde_json::from_slice(&frame.body).expect("a JSON body");
        (frame, body)
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        frame::encode(&frame, Version::V1_2, &mut out);
        let _ = self.stream.write_all(&out).await;
    }

    /// Sends an event about the request that `asked` made, with further headers.
    pub(crate) async fn event(&mut self, asked: &Frame, event: &str, headers: &[(&str, &str)], body: Value) {
        let id = asked.headers.get(header::REQUEST).expect("a request id");
        let mut frame = Frame::new(Command::Message).header(header::REQUEST, id).header(header::EVENT, event);
        for (name, value) in headers {
            frame = frame.header(name, value);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(frame.with_body(body)).await;
    }

    /// Answers a query.
    pub(crate) async fn answer(&mut self, asked: &Frame, body: Value) {
        self.event(asked, "answer", &[], body).await;
    }

    /// Names these nodes as the targets, all in one chunk.
    pub(crate) async fn accept(&mut self, asked: &Frame, nodes: &[u8]) {
        let count = nodes.len().to_string();
        let nodes: Vec<Value> = nodes.iter().map(|&n| json!({"id": node(n), "display": display(n)})).collect();
        let body = json!({"broker": "fake", "nodes": nodes});
        self.event(asked, "accepted", &[(header::COUNT, &count)], body).await;
    }

    /// Answers for a node.
    pub(crate) async fn reply(&mut self, asked: &Frame, n: u8, status: &str, body: Value) {
        let (id, display) = (node(n).to_string(), display(n).to_string());
        let headers = [(header::NODE, id.as_str()), (header::STATUS, status), (header::DISPLAY, &display)];
        self.event(asked, "reply", &headers, body).await;
    }

    /// Closes the account.
    pub(crate) async fn done(&mut self, asked: &Frame, states: Value) {
        self.event(asked, "done", &[], json!({"states": states})).await;
    }
}

/// The id of the `n`th node.
pub(crate) fn node(n: u8) -> NodeId {
    NodeId::of(&NodeKey::new([n; 32]))
}

/// Its display facts.
pub(crate) fn display(n: u8) -> Value {
    json!({"datacenter": if n.is_multiple_of(2) { "b" } else { "a" }, "os.family": "Debian"})
}

//! Do links come to be between those who may, and only those? Over loopback sockets, against a hub that a test overhears.

mod frames;
mod hello;
mod steering;

use super::*;
use crate::broker::event::{Event, LinkOpened, Received};
use bytes::{Bytes, BytesMut};
use muster_protocol::dial::{self, Address};
use muster_protocol::link::codec::{Decoder, Limits, Sending, encode};
use muster_protocol::link::{Head, NEWEST, OLDEST, Refused};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose as Usage, IsCa, KeyPair};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Long enough for a loaded machine; a test that waits for it has failed.
const LIMIT: Duration = Duration::from_secs(20);
const CLUSTER: &str = "demo";

/// A CA and the files of those who have a certificate of it.
struct World {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// Certificate and key.
#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl World {
    fn new() -> World {
        World::of("Muster CA of demo")
    }

    fn of(ca: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, ca);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        World { folder, ca }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn issue(&self, name: &str, usages: &[Usage]) -> Files {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = usages.to_vec();
        let at = |suffix: &str| self.folder.path().join(format!("{name}-{}.{suffix}", usages.len()));
        let files = Files { certificate: at("pem"), key: at("key") };
        std::fs::write(&files.certificate, params.signed_by(&key, &self.ca).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn broker(&self, name: &str) -> Files {
        self.issue(&certificate_name(name, CLUSTER), &[Usage::ServerAuth, Usage::ClientAuth])
    }
}

/// A broker's links, with a hub that is overheard.
struct Side {
    links: Links,
    events: mpsc::Receiver<Event>,
    address: SocketAddr,
    policy: watch::Sender<Arc<Policy>>,
    _stop: watch::Sender<bool>,
}

/// How a side is to be.
struct Plan {
    name: &'static str,
    links: Vec<LinkConfig>,
    hello: Duration,
    stall: Duration,
    pending: usize,
    brokers: Vec<&'static str>,
}

fn plan(name: &'static str) -> Plan {
    let brokers = vec!["noc1", "noc2", "dc1"];
    Plan { name, links: Vec::new(), hello: LIMIT, stall: LIMIT, pending: 16, brokers }
}

fn link(to: &str, address: SocketAddr) -> LinkConfig {
    let address: Address = address.to_string().parse().unwrap();
    LinkConfig { to: name(to), address: Some(address), cost: 7, dial: true, send: None }
}

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).unwrap()
}

fn policy(brokers: &[&str]) -> Arc<Policy> {
    let text: String = brokers.iter().map(|name| format!("[brokers.{name}]\n")).collect();
    Arc::new(Policy::parse(&text).unwrap())
}

fn me(name_: &str) -> Me {
    let incarnation = name_.len() as u64;
    Me { name: name(name_), cluster: CLUSTER.into(), instance: 3, incarnation, max_body: 200_000 }
}

impl Plan {
    async fn start(self, world: &World) -> Side {
        let files = world.broker(self.name);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let setup = Setup {
            me: me(self.name),
            links: self.links,
            tls: Some(LinkTls::load(&files.certificate, &files.key, &world.ca()).unwrap()),
            outbox: 1024 * 1024,
            stall: self.stall,
            caps: Caps {
                pending: self.pending,
                pending_per_address: self.pending,
                waiting: 16,
                connections: 100,
                connections_per_address: 0,
                login_time: self.hello,
            },
        };
        let (hub, events) = Hub::overheard();
        let (policy, seen) = watch::channel(policy(&self.brokers));
        let (stop, stopped) = watch::channel(false);
        let links = Links::start(setup, vec![listener], hub, seen, &stopped);
        Side { links, events, address, policy, _stop: stop }
    }
}

impl Side {
    async fn event(&mut self) -> Event {
        timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("a hub")
    }

    async fn opened(&mut self) -> LinkOpened {
        match self.event().await {
            Event::LinkOpened(opened) => *opened,
            other => panic!("{other:?}"),
        }
    }

    /// The next frames of a link.
    async fn frames(&mut self) -> Vec<Received> {
        match self.event().await {
            Event::LinkFrames { frames, .. } => frames,
            other => panic!("{other:?}"),
        }
    }

    async fn closed(&mut self) -> String {
        loop {
            match self.event().await {
                Event::LinkClosed { reason, .. } => return reason,
                Event::LinkAlive(_) | Event::LinkFrames { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn status(&self, peer: &str) -> LinkStatus {
        self.links.status().into_iter().find(|status| status.peer == name(peer)).expect("a known neighbour")
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Side) -> bool) {
        let wait = async {
            while !is_so(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let statuses = || (self.links.status(), self.links.alarms());
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", statuses()));
    }

    async fn until_alarm(&self, text: &str) {
        self.until(text, |side| side.links.alarms().iter().any(|alarm| alarm.text.contains(text))).await;
    }
}

/// A peer that says whatever a test wants.
struct Raw<S> {
    stream: S,
    decoder: Decoder,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    fn new(stream: S) -> Raw<S> {
        Raw { stream, decoder: Decoder::new(Limits::after_hello(1_000_000)), buffer: BytesMut::new() }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn say(&mut self, head: &Head) {
        let mut out = BytesMut::new();
        encode(head, &mut out).unwrap();
        self.write(&out).await;
    }

    /// The next frame; an error when there is none.
    async fn hear(&mut self) -> Result<(Head, Bytes), String> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).map_err(|e| e.to_string())? {
                return Ok(frame);
            }
            let read = timeout(LIMIT, self.stream.read_buf(&mut self.buffer)).await.expect("bytes or an end in time");
            if read.map_err(|e| e.to_string())? == 0 {
                return Err("closed".into());
            }
        }
    }

    async fn refused(&mut self) -> Refused {
        match self.hear().await {
            Ok((Head::Refused(refused), _)) => refused,
            other => panic!("no refusal: {other:?}"),
        }
    }

    async fn greeted(&mut self) -> Hello {
        match self.hear().await {
            Ok((Head::Hello(hello), _)) => hello,
            other => panic!("no hello: {other:?}"),
        }
    }
}

fn hello(name_: &str) -> Hello {
    me(name_).hello(5, jiff::Timestamp::now().as_millisecond() as u64)
}

/// Dials a side as somebody with these files would.
async fn dial_with(world: &World, files: &Files, to: &Side, to_name: &str) -> Raw<dial::Stream> {
    let tls = tls::link_client_config(&files.certificate, &files.key, &world.ca()).unwrap();
    let address = to.address.to_string().parse().unwrap();
    let expected = certificate_name(to_name, CLUSTER);
    Raw::new(dial::connect_as(&address, &expected, &tls, LIMIT).await.unwrap())
}

/// Dials `noc1` as a good `dc1`, and is taken.
async fn good(world: &World, to: &mut Side) -> (Raw<dial::Stream>, LinkOpened) {
    let mut raw = dial_with(world, &world.broker("dc1"), to, "noc1").await;
    raw.say(&Head::Hello(hello("dc1"))).await;
    assert_eq!(raw.greeted().await.name, name("noc1"));
    let opened = to.opened().await;
    assert_eq!(opened.hello.name, name("dc1"));
    (raw, opened)
}

/// A body of this length.
fn body(length: usize) -> Bytes {
    (0..length).map(|n| n as u8).collect::<Vec<_>>().into()
}

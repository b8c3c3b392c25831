//! How do programs and web pages speak to the broker? The HTTP API, docs/api.md.
//!
//! It decides nothing: a call becomes a SEND to a destination, by a session inside the process (`seat`), and an answer or a refusal
//! becomes HTTP again. So rights, limits and records are those of STOMP, and there is no second implementation of anything.

mod account;
mod call;
mod document;
mod guard;
mod listen;
mod login;
mod nodes;
mod policy;
mod probes;
mod problem;
mod records;
mod requests;
mod routes;
mod seat;
mod seats;
mod sessions;

use crate::config::AdminConfig;
use crate::gate::{Caps, Gate};
use crate::hub::Hub;
use crate::links::Links;
use crate::policy::keeper::Keeper;
use crate::session::Shared;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use records::Records;
use rustls::ServerConfig;
use seat::Way;
use seats::Seats;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// How often idle seats and old requests are looked for; more often where they are to be idle for less.
const SWEEP: Duration = Duration::from_secs(5);
/// How long connections may take to end when the broker stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// New passwords that are hashed at once.
const HASHES: usize = 1;

/// What renders `/metrics`.
pub type Metrics = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// What the API stands on.
pub struct Setup {
    /// `[admin]`.
    pub config: AdminConfig,
    /// Certificate and key.
    pub tls: Arc<ServerConfig>,
    /// What sessions share.
    pub shared: Arc<Shared>,
    /// Numbers sessions.
    pub sessions: Arc<Gate>,
    /// Bounds on connections. Those that have not shown who they are count as those of STOMP that have not logged in.
    pub caps: Caps,
    /// How long a token is good.
    pub token_life: Duration,
    /// Bytes of a body.
    pub max_frame: usize,
    /// Links of this broker.
    pub links: Links,
    /// What keeps the policy on disk.
    pub keeper: Keeper,
    /// What `/metrics` says.
    pub metrics: Metrics,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The API as it runs.
#[derive(Debug)]
pub struct Api {
    addresses: Vec<SocketAddr>,
    gate: Arc<Gate>,
    seats: Arc<Seats>,
    end: watch::Sender<bool>,
}

/// What all calls share.
pub(crate) struct Front {
    hub: Hub,
    broker: String,
    links: Links,
    keeper: Keeper,
    started: Instant,
    /// The broker is stopping.
    stopping: watch::Receiver<bool>,
    config: AdminConfig,
    seats: Arc<Seats>,
    records: Arc<Records>,
    body_most: usize,
    login_time: Duration,
    idle: Duration,
    hashes: Semaphore,
    metrics: Metrics,
    /// The OpenAPI document.
    document: Bytes,
}

impl Api {
    /// Starts to serve on these sockets, until [`Api::stop`]. `stopping` says that the broker is about to end.
    pub fn start(setup: Setup, sockets: Vec<TcpListener>, stopping: watch::Receiver<bool>) -> Api {
        let Setup { config, tls, shared, sessions, caps, token_life, max_frame, links, keeper, metrics } = setup;
        let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let (end, ending) = watch::channel(false);
        let records = Arc::new(Records::new(config.results, config.results_for));
        let (hub, broker) = (shared.hub.clone(), shared.name.clone());
        let way = Way { shared, gate: sessions, login_time: caps.login_time, records: records.clone() };
        let seats = Arc::new(Seats::new(way, config.sessions, config.idle, token_life));
        let gate = Gate::new(caps);
        let routes = routes::routes();
        let front = Arc::new(Front {
            hub,
            broker,
            links,
            keeper,
            started: Instant::now(),
            stopping,
            seats: seats.clone(),
            records: records.clone(),
            body_most: max_frame,
            login_time: caps.login_time,
            idle: config.idle,
            hashes: Semaphore::new(HASHES),
            metrics,
            document: routes.document(),
            config,
        });
        let router = routes.router(&front);
        let mut with_alpn = (*tls).clone();
        with_alpn.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(with_alpn));
        for socket in sockets {
            let service = (front.clone(), router.clone());
            tokio::spawn(listen::listen(socket, acceptor.clone(), service, gate.clone(), ending.clone()));
        }
        tokio::spawn(sweep(seats.clone(), records, front.idle, ending));
        Api { addresses, gate, seats, end }
    }

    /// Where it listens, ports filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its connections, and the sessions that it has inside the broker.
    pub fn counts(&self) -> (usize, usize) {
        (self.gate.counts().open, self.seats.len())
    }

    /// Ends what is open, and waits a bounded time until it is gone.
    pub async fn stop(&self) {
        self.end.send_replace(true);
        self.seats.close_all();
        let gone = async {
            while self.gate.counts().open > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(STOP_WITHIN, gone).await;
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("broker", &self.broker).finish_non_exhaustive()
    }
}

async fn sweep(seats: Arc<Seats>, records: Arc<Records>, idle: Duration, mut end: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(SWEEP.min(idle));
    loop {
        tokio::select! {
            now = every.tick() => {
                seats.sweep(now);
                records.sweep(now);
            }
            _ = end.wait_for(|end| *end) => return,
        }
    }
}

//! How is a broker put together? One straight function: policy, hub, listeners, control; then wait for a signal, drain, end.

use crate::api::{self, Api};
use crate::audit::Audit;
use crate::broker::access::{self, Policy};
use crate::broker::event::Event;
use crate::broker::nodes::Memory;
use crate::broker::record::Record;
use crate::broker::{Broker, Settings};
use crate::cluster_key::{ClusterKey, KeyError};
use crate::config::Config;
use crate::control;
use crate::hub::Hub;
use crate::instance::{self, InstanceError};
use crate::links::{self, LinkError, LinkTls, Links, Me, Setup};
use crate::listener::{self, Caps, Gate, Speaks};
use crate::login::Logins;
use crate::policy::{self, LoadError};
use crate::session::Shared;
use crate::token::Tokens;
use muster_protocol::frame::Limits;
use muster_protocol::message::{BrokerName, IdError};
use muster_protocol::tls::{self, TlsError};
use rustls::ServerConfig;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long sessions may take to read what they were sent, once the broker is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policy is not acceptable.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// Certificate or key are not acceptable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The secret of the cluster is not acceptable.
    #[error(transparent)]
    ClusterKey(#[from] KeyError),
    /// The links that it is configured for cannot be.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// The boot counter cannot be raised.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The broker's name is none.
    #[error("broker.name: {0}")]
    Name(#[from] IdError),
    /// A port cannot be had.
    #[error("cannot listen on {address}: {cause}; is another broker running?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The task that owns the broker ended.
    #[error("the hub ended by a fault; the log says more")]
    Hub,
    /// Signals cannot be heard.
    #[error("cannot listen for signals: {0}")]
    Signal(io::Error),
    /// The control socket cannot be had.
    #[error("control socket: {0}")]
    Control(io::Error),
    /// The audit log's thread cannot be had.
    #[error("audit log: {0}; the system has no thread for it")]
    Audit(io::Error),
    /// The state directory cannot be made or written.
    #[error("{}: cannot use it as state directory: {cause}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// A broker that runs.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    links: Links,
    api: Option<Api>,
    instance: u64,
    policy_file: PathBuf,
    policy: watch::Sender<Arc<Policy>>,
    certificate: PathBuf,
    addresses: Vec<SocketAddr>,
    link_addresses: Vec<SocketAddr>,
    started: Instant,
    stop: watch::Sender<bool>,
    reloading: tokio::sync::Mutex<()>,
    hub_task: tokio::sync::Mutex<tokio::task::JoinHandle<()>>,
}

/// Checks everything that a configuration names, as `musterd check` does.
pub fn check(config: &Config) -> Result<Arc<Policy>, StartError> {
    checked(config).map(|(policy, _)| policy)
}

/// The policy with the SHA-256 of its text.
fn checked(config: &Config) -> Result<(Arc<Policy>, String), StartError> {
    let (sum, policy) = policy::load_with_sum(&config.policy);
    let policy = policy?;
    tls::server_config(&config.tls.certificate, &config.tls.key)?;
    tokens(config)?;
    links::check(config, &policy)?;
    Ok((policy, sum.unwrap_or_default()))
}

fn tokens(config: &Config) -> Result<Tokens, KeyError> {
    let key = ClusterKey::load(&config.cluster_key)?;
    let previous = config.cluster_key_previous.as_deref().map(ClusterKey::load).transpose()?;
    Ok(Tokens::new(&key, previous.as_ref(), config.limits.token_life))
}

/// Starts a broker; it runs until [`Running::stop`].
pub async fn start(config: &Config) -> Result<Arc<Running>, StartError> {
    let (first, sum) = checked(config)?;
    let server_tls = tls::server_config(&config.tls.certificate, &config.tls.key)?;
    let state = &config.broker.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|cause| StartError::State { path: state.clone(), cause })?;
    raise_descriptor_limit(config.limits.connections);
    let instance = instance::next(state)?;
    let incarnation = rand::random();
    let (policy, policy_seen) = watch::channel(first.clone());
    let limits = &config.limits;
    let memory = Memory { gone_for: limits.gone_for.as_millis() as u64, gone_most: limits.gone_most };
    let settings = Settings {
        name: BrokerName::parse(&config.broker.name)?,
        instance,
        incarnation,
        born: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        subscriptions: limits.subscriptions,
        in_flight: limits.in_flight,
        sessions_per_user: limits.sessions_per_user,
        memory,
    };
    let audit = Audit::start(&config.audit, &config.broker.name).map_err(StartError::Audit)?;
    audit.tell(|| Record::Started { version: env!("CARGO_PKG_VERSION"), instance });
    audit.tell(|| policy_loaded(&config.policy, sum, &first, &Policy::default()));
    let (hub, hub_task) = Hub::start_with(Broker::new(settings, first), audit);
    let logins = Logins::new(policy_seen.clone(), hub.clock(), tokens(config)?, limits.logins(), limits.login_queue);
    let head = limits.max_header.saturating_mul(4).min(limits.max_frame);
    let frames = Limits {
        head,
        header_line: limits.max_header,
        headers: limits.max_headers,
        body: limits.max_frame.saturating_sub(head + 1),
    };
    let shared =
        Arc::new(Shared { name: config.broker.name.clone(), hub, logins, limits: frames, outbox: limits.outbox });
    let gate = Gate::new(Caps {
        pending: limits.pending,
        pending_per_address: limits.pending_per_address,
        connections: limits.connections,
        connections_per_address: limits.connections_per_address,
        login_time: limits.login_time,
    });
    let (stop, stopped) = watch::channel(false);
    let mut addresses = Vec::new();
    let tls_ports = config.listen.stomp.iter().map(|address| (address, Speaks::Tls(server_tls.clone())));
    let plain_ports = config.listen.plain.iter().map(|address| (address, Speaks::Plain));
    for (address, speaks) in tls_ports.chain(plain_ports) {
        if matches!(speaks, Speaks::Plain) {
            tracing::warn!(%address, "plain STOMP is on: passwords cross the network readable");
        }
        let socket =
            TcpListener::bind(address).await.map_err(|cause| StartError::Listen { address: *address, cause })?;
        addresses.push(socket.local_addr().unwrap_or(*address));
        tokio::spawn(listener::listen(socket, speaks, gate.clone(), shared.clone(), stopped.clone()));
    }
    let (links, link_addresses) =
        start_links(config, (instance, incarnation), &shared.hub, policy_seen, &stopped).await?;
    let api = start_api(config, (&server_tls, &shared, &gate), &links, &stopped).await?;
    let control = control::bind(&config.control).await.map_err(StartError::Control)?;
    let running = Arc::new(Running {
        shared,
        gate,
        links,
        api,
        instance,
        policy_file: config.policy.clone(),
        policy,
        certificate: config.tls.certificate.clone(),
        addresses,
        link_addresses,
        started: Instant::now(),
        stop,
        reloading: tokio::sync::Mutex::default(),
        hub_task: tokio::sync::Mutex::new(hub_task),
    });
    tokio::spawn(control::serve(control, running.clone(), stopped));
    tracing::info!(broker = %config.broker.name, addresses = ?running.addresses, links = ?running.link_addresses, admin = ?running.admin_addresses(), instance, "ready");
    Ok(running)
}

/// Binds the ports for links and starts dialling. A broker without links gets no listener and dials nobody.
async fn start_links(
    config: &Config,
    (instance, incarnation): (u64, u64),
    hub: &Hub,
    policy: watch::Receiver<Arc<Policy>>,
    stopped: &watch::Receiver<bool>,
) -> Result<(Links, Vec<SocketAddr>), StartError> {
    let (mut sockets, mut addresses) = (Vec::new(), Vec::new());
    for address in &config.listen.links {
        let socket =
            TcpListener::bind(address).await.map_err(|cause| StartError::Listen { address: *address, cause })?;
        addresses.push(socket.local_addr().unwrap_or(*address));
        sockets.push(socket);
    }
    let (files, limits) = (&config.tls, &config.limits);
    let setup = Setup {
        me: Me {
            name: BrokerName::parse(&config.broker.name)?,
            cluster: config.broker.cluster.clone(),
            instance,
            incarnation,
            max_body: limits.max_frame as u64,
        },
        links: config.link.clone(),
        tls: if config.link.is_empty() && sockets.is_empty() {
            None
        } else {
            Some(LinkTls::load(&files.certificate, &files.key, &files.ca)?)
        },
        outbox: limits.link_outbox,
        stall: links::STALL,
        caps: Caps {
            pending: limits.pending,
            pending_per_address: limits.pending_per_address,
            connections: limits.connections,
            connections_per_address: 0,
            login_time: limits.login_time,
        },
    };
    Ok((Links::start(setup, sockets, hub.clone(), policy, stopped), addresses))
}

/// Binds the ports of the HTTP API and starts to serve there, if there are any.
async fn start_api(
    config: &Config,
    (tls, shared, gate): (&Arc<ServerConfig>, &Arc<Shared>, &Arc<Gate>),
    links: &Links,
    stopped: &watch::Receiver<bool>,
) -> Result<Option<Api>, StartError> {
    if config.listen.admin.is_empty() {
        return Ok(None);
    }
    let mut sockets = Vec::new();
    for address in &config.listen.admin {
        let socket = TcpListener::bind(address).await;
        sockets.push(socket.map_err(|cause| StartError::Listen { address: *address, cause })?);
    }
    let limits = &config.limits;
    let setup = api::Setup {
        config: config.admin.clone(),
        tls: tls.clone(),
        shared: shared.clone(),
        sessions: gate.clone(),
        caps: Caps {
            pending: limits.pending,
            pending_per_address: limits.pending_per_address,
            connections: config.admin.connections,
            connections_per_address: config.admin.connections_per_address,
            login_time: limits.login_time,
        },
        token_life: limits.token_life,
        max_frame: limits.max_frame,
        links: links.clone(),
        // Whoever renders metrics hands it in here; until then there is no such path.
        metrics: None,
    };
    Ok(Some(Api::start(setup, sockets, stopped.clone())))
}

/// Takes all descriptors that the system grants, and says so if they are fewer than the configuration promises.
fn raise_descriptor_limit(connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
    }
    // Some descriptors go to listeners, files and the runtime.
    if limit.current.is_some_and(|most| most < connections as u64 + 64) {
        let most = limit.current.unwrap_or_default();
        tracing::warn!(
            limit = most,
            connections,
            "the descriptor limit is below limits.connections; raise it (LimitNOFILE= in systemd)"
        );
    }
}

/// Runs until SIGTERM or SIGINT, reloading the policy on SIGHUP.
pub async fn run(config: &Config) -> Result<(), StartError> {
    // Before it can be seen to run: whoever sees it may tell it to stop.
    let on = |kind| signal(kind).map_err(StartError::Signal);
    let (mut term, mut int, mut hup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    let running = start(config).await?;
    // Outside systemd there is nobody to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let mut hub = running.hub_task.lock().await;
    loop {
        tokio::select! {
            // A broker that cannot decide any more must not look alive: whoever watches it starts it again.
            _ = &mut *hub => return Err(StartError::Hub),
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => {
                // The error is logged where it is known whole; the last good policy stays.
                let error = running.reload().await.err().map(|error| error.to_string());
                running.audit().tell(|| Record::Ctl { command: "reload by SIGHUP".into(), uid: None, error });
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    running.stop().await;
    let _ = std::fs::remove_file(&config.control);
    Ok(())
}

impl Running {
    /// Where it listens, ports filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it listens for links, ports filled in.
    pub fn link_addresses(&self) -> &[SocketAddr] {
        &self.link_addresses
    }

    /// Where it listens for the HTTP API, ports filled in.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        self.api.as_ref().map_or(&[], Api::addresses)
    }

    /// Its links.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Where its decisions go on record.
    pub fn audit(&self) -> &Audit {
        self.shared.hub.audit()
    }

    /// Reads the policy again: the new one holds for everybody at once, or the old one stays.
    pub async fn reload(&self) -> Result<String, LoadError> {
        // One at a time: what was read last is what holds.
        let _turn = self.reloading.lock().await;
        let (sum, loaded) = policy::load_with_sum(&self.policy_file);
        match loaded {
            Ok(policy) => {
                let before = self.policy.borrow().clone();
                // Before what follows from it.
                self.audit().tell(|| policy_loaded(&self.policy_file, sum.unwrap_or_default(), &policy, &before));
                self.shared.hub.tell(Event::HandEdit("".into(), policy.clone())).await;
                // Logins that were checked in between are weighed again by the broker when they open.
                self.policy.send_replace(policy);
                tracing::info!(file = %self.policy_file.display(), "policy reloaded");
                Ok(self.policy_file.display().to_string())
            }
            Err(error) => {
                tracing::error!(%error, "policy refused; the last good one stays in force");
                self.audit().tell(|| Record::PolicyRefused {
                    file: self.policy_file.display().to_string(),
                    sha256: sum,
                    reason: error.to_string(),
                });
                Err(error)
            }
        }
    }

    /// Counts and health, for `musterd ctl status`.
    pub async fn status(&self) -> Value {
        let (connections, pending) = self.gate.counts();
        let broker = self.shared.hub.ask(|broker| {
            json!({
                "sessions": broker.sessions().len(),
                "nodes": broker.nodes().len(),
                "registering": broker.nodes().registering(),
                "gone": broker.nodes().gone(),
                "requests": broker.requests_under_way(),
                "delivered": broker.sessions().delivered(),
                "counters": broker.counters(),
                "mesh": broker.mesh_answer(),
                "forwarding": broker.mesh().counters(),
            })
        });
        let valid_until = tls::valid_until(&self.certificate).ok();
        json!({
            "broker": self.shared.name,
            "instance": self.instance,
            "addresses": self.addresses,
            "link_addresses": self.link_addresses,
            "admin_addresses": self.admin_addresses(),
            "admin": self.api.as_ref().map(|api| {
                let (connections, sessions) = api.counts();
                json!({ "connections": connections, "sessions": sessions })
            }),
            "links": self.links.status(),
            "alarms": self.links.alarms(),
            "audit": self.audit().status(),
            "uptime_s": self.started.elapsed().as_secs(),
            "connections": connections,
            "logging_in": pending,
            "certificate_valid_until": valid_until.and_then(|s| jiff::Timestamp::from_second(s).ok()).map(|t| t.to_string()),
            "state": broker.await.unwrap_or(Value::Null),
        })
    }

    /// Stops accepting, tells everybody, waits a bounded time until they are gone.
    pub async fn stop(&self) {
        tracing::info!("stopping");
        self.stop.send_replace(true);
        self.shared.hub.tell(Event::Drain).await;
        let gone = async {
            while self.gate.counts().0 > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(DRAIN, gone).await.is_err() {
            tracing::warn!(connections = self.gate.counts().0, "some connections did not end in time");
        }
        if let Some(api) = &self.api {
            api.stop().await;
        }
        // After the sessions: their last answers may still have had to cross a link.
        self.links.stop().await;
        // An answer to a question: what was told before has been done, and is on record.
        self.shared.hub.ask(|_| ()).await;
        self.audit().tell(|| Record::Stopped);
        self.audit().stop().await;
        self.shared.hub.stop().await;
    }
}

fn policy_loaded(file: &Path, sha256: String, policy: &Policy, before: &Policy) -> Record {
    Record::PolicyLoaded { file: file.display().to_string(), sha256, changes: access::count(before, policy) }
}

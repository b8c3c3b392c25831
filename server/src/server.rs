//! How is a broker put together? One straight function: policy, hub, listeners, control; then wait for a signal, drain, end.

use crate::api::{self, Api};
use crate::audit::{self, Audit};
use crate::broker::access::Policy;
use crate::broker::errand::Edition;
use crate::broker::event::Event;
use crate::broker::nodes::Memory;
use crate::broker::outbox::Expired;
use crate::broker::record::Record;
use crate::broker::{Broker, Settings};
use crate::cluster_key::{ClusterKey, KeyError};
use crate::config::{Config, Tls};
use crate::control;
use crate::gate::{Caps, Counts, Gate};
use crate::hub::Hub;
use crate::instance::{self, InstanceError};
use crate::links::{self, Alarm, LinkError, LinkTls, Links, Me, Setup};
use crate::listener::{self, Speaks};
use crate::login::Logins;
use crate::metrics::{self, Parts};
use crate::policy::begin::{BeginError, Begun, begin};
use crate::policy::keeper::{self, Keeper, ReloadError, Reloaded};
use crate::policy::seal::Notary;
use crate::policy::store::{Store, StoreError};
use crate::session::Shared;
use crate::token::Tokens;
use muster_protocol::frame::Limits;
use muster_protocol::message::{BrokerName, IdError};
use muster_protocol::tls::{self, TlsError};
use rustix::process::Signal;
use rustls::ServerConfig;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// How long sessions may take to read what they were sent, once the broker is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How long links may take to send what waits, then.
const SEND: Duration = Duration::from_secs(1);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policy is not acceptable.
    #[error(transparent)]
    Policy(#[from] BeginError),
    /// What belongs to the policy cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
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

/// What the page of metrics is made of.
#[derive(Debug, Clone)]
struct Meter {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    links: Links,
    keeper: Keeper,
    started: Instant,
    /// When the certificate that was loaded ends, Unix seconds.
    certificate_until: Option<i64>,
}

impl Meter {
    async fn page(&self) -> String {
        let shared = &self.shared;
        let parts = Parts {
            name: &shared.name,
            started: self.started,
            hub: &shared.hub,
            gate: &self.gate,
            logins: &shared.logins,
            expired: &shared.expired,
            links: &self.links,
            keeper: &self.keeper,
            certificate_until: self.certificate_until,
        };
        metrics::render(&metrics::collect(parts).await)
    }
}

/// A broker that runs.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    links: Links,
    api: Option<Api>,
    instance: u64,
    keeper: Keeper,
    config: Config,
    meter: Meter,
    addresses: Vec<SocketAddr>,
    link_addresses: Vec<SocketAddr>,
    started: Instant,
    stop: watch::Sender<bool>,
    hub_task: tokio::sync::Mutex<tokio::task::JoinHandle<()>>,
}

/// Checks everything that a configuration names, and writes nothing: which policy a start would enforce, for people, a line each.
pub fn check(config: &Config) -> Result<Vec<String>, StartError> {
    server_tls(config)?;
    tokens(config)?;
    let (_, begun) = look(config, unix_ms())?;
    let locked_out = locked_out(config, &begun.edition.policy);
    Ok(begun.outlook().into_iter().chain(locked_out).collect())
}

/// What speaks STOMP and HTTP to clients.
fn server_tls(config: &Config) -> Result<Arc<ServerConfig>, TlsError> {
    let Tls { certificate, key, client_ca, .. } = &config.tls;
    tls::server_config(certificate, key, client_ca.as_deref())
}

/// Who can never log in here: users who need a client certificate, at a broker that asks for none. One line, for people.
pub fn locked_out(config: &Config, policy: &Policy) -> Option<String> {
    if config.tls.client_ca.is_some() {
        return None;
    }
    let mut users = policy.users_with_certificate();
    let (first, others) = (users.next()?, users.count());
    let who = if others > 0 { format!("{} and {others} more", first.name) } else { first.name.clone() };
    Some(format!(
        "`certificate` in the policy: {who} cannot log in at this broker, which asks for no client certificates; set `client-ca` in [tls] of musterd.toml"
    ))
}

/// What is on disk of the policy, and what a start makes of it.
fn look(config: &Config, now: u64) -> Result<(Result<Notary, TlsError>, Begun), StartError> {
    let me = BrokerName::parse(&config.broker.name)?;
    let store = Store::of(&config.policy, &config.broker.state_dir);
    let notary = Notary::load(me.clone(), &config.broker.cluster, &config.tls);
    let begun = begin(&store, &notary, &me, now)?;
    links::check(config, &begun.edition.policy)?;
    Ok((notary, begun))
}

/// As [`look`], with everything written that is to be.
fn take_up(config: &Config) -> Result<keeper::Setup, StartError> {
    let (store, now) = (Store::of(&config.policy, &config.broker.state_dir), unix_ms());
    let claim = store.claim()?;
    let (notary, mut begun) = look(config, now)?;
    begun.carry_out(&store, now)?;
    let Begun { edition, alarms, notes, .. } = begun;
    notes.iter().for_each(|note| tracing::warn!(target: "muster::policy", "{note}"));
    alarms.iter().for_each(|alarm| tracing::error!(target: "muster::policy", "{alarm}"));
    if let Some(note) = locked_out(config, &edition.policy) {
        tracing::warn!(target: "muster::policy", "{note}");
    }
    Ok(keeper::Setup { store, claim, notary, me: BrokerName::parse(&config.broker.name)?, edition, alarms })
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn tokens(config: &Config) -> Result<Tokens, KeyError> {
    let key = ClusterKey::load(&config.cluster_key)?;
    let previous = config.cluster_key_previous.as_deref().map(ClusterKey::load).transpose()?;
    Ok(Tokens::new(&key, previous.as_ref(), config.limits.token_life))
}

/// Starts a broker; it runs until [`Running::stop`].
pub async fn start(config: &Config) -> Result<Arc<Running>, StartError> {
    let server_tls = server_tls(config)?;
    let tokens = tokens(config)?;
    let certificate_until = tls::valid_until(&config.tls.certificate).ok();
    let state = &config.broker.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|cause| StartError::State { path: state.clone(), cause })?;
    raise_descriptor_limit(config.limits.connections);
    let keep = take_up(config)?;
    let instance = instance::next(state)?;
    let incarnation = rand::random();
    let edition: Edition = keep.edition.clone();
    let (policy, policy_seen) = watch::channel(edition.policy.clone());
    let limits = &config.limits;
    let memory = Memory { gone_for: limits.gone_for.as_millis() as u64, gone_most: limits.gone_most };
    let settings = Settings {
        name: BrokerName::parse(&config.broker.name)?,
        instance,
        incarnation,
        born: unix_ms(),
        subscriptions: limits.subscriptions,
        in_flight: limits.in_flight,
        sessions_per_user: limits.sessions_per_user,
        memory,
    };
    let audit = Audit::start(&config.audit, &config.broker.name).map_err(StartError::Audit)?;
    audit.tell(|| Record::Started { version: env!("CARGO_PKG_VERSION"), instance });
    audit.tell(|| keeper::begins(&keep.store, &edition));
    let (errands, asked) = mpsc::channel(keeper::ERRANDS);
    let (hub, hub_task) = Hub::start_with(Broker::new(settings, edition), audit, errands);
    let keeper = Keeper::start(keep, asked, hub.clone(), policy, keeper::BEAT);
    let logins = Logins::new(policy_seen.clone(), hub.clock(), tokens, limits.logins(), limits.login_queue);
    let head = limits.max_header.saturating_mul(4).min(limits.max_frame);
    let frames = Limits {
        head,
        header_line: limits.max_header,
        headers: limits.max_headers,
        body: limits.max_frame.saturating_sub(head + 1),
    };
    let shared = Arc::new(Shared {
        name: config.broker.name.clone(),
        hub,
        logins,
        limits: frames,
        outbox: limits.outbox,
        caller_outbox: limits.caller_outbox,
        expired: Expired::default(),
    });
    let gate = Gate::new(Caps {
        pending: limits.pending,
        pending_per_address: limits.pending_per_address,
        waiting: limits.waiting,
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
        let socket = listener::bind(*address).map_err(|cause| StartError::Listen { address: *address, cause })?;
        addresses.push(socket.local_addr().unwrap_or(*address));
        tokio::spawn(listener::listen(socket, speaks, gate.clone(), shared.clone(), stopped.clone()));
    }
    let (links, link_addresses) =
        start_links(config, (instance, incarnation), &shared.hub, policy_seen, &stopped).await?;
    tokio::spawn(audit::tell_heads(shared.hub.clone(), stopped.clone()));
    let started = Instant::now();
    let meter = Meter {
        shared: shared.clone(),
        gate: gate.clone(),
        links: links.clone(),
        keeper: keeper.clone(),
        started,
        certificate_until,
    };
    let api = start_api(config, &server_tls, &meter, &stopped).await?;
    let control = control::bind(&config.control).await.map_err(StartError::Control)?;
    let running = Arc::new(Running {
        shared,
        gate,
        links,
        api,
        instance,
        keeper,
        config: config.clone(),
        meter,
        addresses,
        link_addresses,
        started,
        stop,
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
        let socket = listener::bind(*address).map_err(|cause| StartError::Listen { address: *address, cause })?;
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
            waiting: limits.waiting,
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
    tls: &Arc<ServerConfig>,
    meter: &Meter,
    stopped: &watch::Receiver<bool>,
) -> Result<Option<Api>, StartError> {
    if config.listen.admin.is_empty() {
        return Ok(None);
    }
    let mut sockets = Vec::new();
    for address in &config.listen.admin {
        let socket = listener::bind(*address).map_err(|cause| StartError::Listen { address: *address, cause })?;
        sockets.push(socket);
    }
    let (limits, counted) = (&config.limits, meter.clone());
    let setup = api::Setup {
        config: config.admin.clone(),
        tls: tls.clone(),
        shared: meter.shared.clone(),
        sessions: meter.gate.clone(),
        caps: Caps {
            pending: limits.pending,
            pending_per_address: limits.pending_per_address,
            waiting: limits.waiting,
            connections: config.admin.connections,
            connections_per_address: config.admin.connections_per_address,
            login_time: limits.login_time,
        },
        token_life: limits.token_life,
        max_frame: limits.max_frame,
        links: meter.links.clone(),
        keeper: meter.keeper.clone(),
        metrics: Arc::new(move || {
            let meter = counted.clone();
            Box::pin(async move { meter.page().await })
        }),
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
    // Heard and not heeded: a file that may not grow is an error to whoever writes it, and not the end of the broker.
    let _too_large = on(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
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
                let running = running.clone();
                // Beside this: a signal to stop does not wait for it.
                tokio::spawn(async move {
                    // The error is logged where it is known whole; the last good policy stays.
                    let error = running.reload().await.err().map(|error| error.to_string());
                    running.audit().tell(|| Record::Ctl { command: "reload by SIGHUP".into(), uid: None, error });
                });
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
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.keeper.reload().await
    }

    /// What keeps the policy on disk.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Counts and health, for `musterd ctl status`.
    pub async fn status(&self) -> Value {
        let Counts { open, waiting, pending } = self.gate.counts();
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
                "policy": broker.authority_answer(),
            })
        });
        let valid_until = tls::valid_until(&self.config.tls.certificate).ok();
        let about_policy = |text| Alarm { about: "policy".into(), text, at: unix_ms() };
        let policy = self.shared.hub.ask(|broker| broker.policy().clone()).await;
        let locked_out = policy.and_then(|policy| locked_out(&self.config, &policy));
        let of_policy = self.keeper.alarms().into_iter().chain(locked_out).map(about_policy);
        let alarms: Vec<Alarm> = self.links.alarms().into_iter().chain(of_policy).collect();
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
            "alarms": alarms,
            "audit": self.audit().status(),
            "uptime_s": self.started.elapsed().as_secs(),
            "connections": open,
            "waiting": waiting,
            "logging_in": pending,
            "certificate_valid_until": valid_until.and_then(|s| jiff::Timestamp::from_second(s).ok()).map(|t| t.to_string()),
            "state": broker.await.unwrap_or(Value::Null),
        })
    }

    /// Numbers for Prometheus, in its text format ([`metrics::CONTENT_TYPE`]).
    pub async fn metrics(&self) -> String {
        self.meter.page().await
    }

    /// Stops accepting, tells everybody, waits a bounded time until they are gone.
    pub async fn stop(&self) {
        tracing::info!("stopping");
        self.stop.send_replace(true);
        self.shared.hub.tell(Event::Drain).await;
        let gone = async {
            while self.gate.counts().open > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(DRAIN, gone).await.is_err() {
            tracing::warn!(connections = self.gate.counts().open, "some connections did not end in time");
        }
        if let Some(api) = &self.api {
            api.stop().await;
        }
        // While there is somebody to tell, and after the ends of sessions. What still waits when a link ends is dropped.
        self.shared.hub.ask(|_| ()).await;
        audit::tell_head(&self.shared.hub).await;
        let sent = async {
            while self.shared.hub.ask(|broker| broker.mesh().backlog()).await.is_some_and(|bytes| bytes > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(SEND, sent).await.is_err() {
            tracing::warn!("some links did not take what was to be said last");
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

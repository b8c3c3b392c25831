//! What is this broker told to be? musterd.toml as one typed value: defaults, units, and errors with line and cure.
//!
//! conf/musterd.toml shows every setting with its default; a test holds the two together.

mod values;

use crate::broker::access::{place, toml_cure};
use ipnet::IpNet;
use muster_protocol::dial::Address;
use muster_protocol::message::BrokerName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Milliseconds.
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
/// A configuration that is larger is none.
const MAX_BYTES: u64 = MIB;

/// Why a configuration is not taken. `Display` is one line: file, line, cause, cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Which file.
    pub file: PathBuf,
    /// Where in it, the first line being 1; `None` if the file cannot be read.
    pub line: Option<usize>,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ": line {line}")?;
        }
        write!(f, ": {}; {}", self.cause, self.cure)
    }
}

/// A whole configuration. Relative paths were taken from the directory of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The policy file.
    #[serde(default = "default_policy")]
    pub policy: PathBuf,
    /// The secret that the brokers of a cluster share.
    #[serde(default = "default_cluster_key")]
    pub cluster_key: PathBuf,
    /// The secret of before, if it was changed: its tokens are still good.
    #[serde(default)]
    pub cluster_key_previous: Option<PathBuf>,
    /// Socket of `musterd ctl`; `musterd.sock` in the state directory unless told. Never empty after [`Config::load`].
    #[serde(default)]
    pub control: PathBuf,
    /// Who this broker is.
    pub broker: BrokerConfig,
    /// Where it listens.
    #[serde(default)]
    pub listen: Listen,
    /// Which brokers it is linked to.
    #[serde(default)]
    pub link: Vec<LinkConfig>,
    /// What it presents.
    #[serde(default)]
    pub tls: Tls,
    /// What it takes at most.
    #[serde(default)]
    pub limits: Limits,
    /// What it writes to stderr.
    #[serde(default)]
    pub log: Log,
    /// What it keeps on record.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Its HTTP API.
    #[serde(default)]
    pub admin: AdminConfig,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BrokerConfig {
    /// The broker's name, a DNS label, unique in the cluster.
    #[serde(deserialize_with = "values::dns_label")]
    pub name: String,
    /// The cluster's name, a DNS label.
    #[serde(deserialize_with = "values::dns_label")]
    pub cluster: String,
    /// What must survive a restart; made if it is not there.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
}

/// `[listen]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Listen {
    /// STOMP over TLS.
    pub stomp: Vec<SocketAddr>,
    /// STOMP without TLS: passwords are readable on the network. Empty unless configured.
    pub plain: Vec<SocketAddr>,
    /// Links of other brokers, over TLS. Empty unless configured.
    pub links: Vec<SocketAddr>,
    /// The HTTP API, over TLS. Empty unless configured.
    pub admin: Vec<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Listen {
        Listen {
            stomp: vec![SocketAddr::from(([0, 0, 0, 0], 61614))],
            plain: Vec::new(),
            links: Vec::new(),
            admin: Vec::new(),
        }
    }
}

/// A `[[link]]`: one link as this broker sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinkConfig {
    /// The broker at the other end.
    pub to: BrokerName,
    /// Where it listens for links; what the policy's list of brokers says unless told.
    #[serde(default, deserialize_with = "values::link_address")]
    pub address: Option<Address>,
    /// 1 to [`muster_protocol::link::MAX_COST`]. The larger of what both ends say counts.
    #[serde(default = "one", deserialize_with = "values::cost")]
    pub cost: u32,
    /// Whether this broker dials; otherwise the other one does.
    #[serde(default = "yes")]
    pub dial: bool,
    /// What may be forwarded over the link in this direction, as destination patterns; everything if `None`, nothing if
    /// empty. It does not hold for answers.
    #[serde(default, deserialize_with = "values::patterns")]
    pub send: Option<Vec<String>>,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Tls {
    /// The broker's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key: PathBuf,
    /// The CA certificates that clients verify brokers with, PEM.
    pub ca: PathBuf,
    /// The CA certificates of clients, PEM; `None`: clients are asked for no certificate.
    pub client_ca: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls { certificate: "broker.pem".into(), key: "broker.key".into(), ca: "ca.pem".into(), client_ca: None }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Bytes of a frame, head and body.
    #[serde(deserialize_with = "values::size::<_, { 64 * KIB }, { 256 * MIB }>")]
    pub max_frame: usize,
    /// Bytes of one header line.
    #[serde(deserialize_with = "values::size::<_, KIB, { 256 * KIB }>")]
    pub max_header: usize,
    /// Headers of a frame.
    #[serde(deserialize_with = "values::count::<_, 16, 1024>")]
    pub max_headers: usize,
    /// TLS handshake and login together, once there is a place for that; who waits for a place does so for three quarters of it.
    #[serde(deserialize_with = "values::duration::<_, { SECOND / 10 }, { 300 * SECOND }>")]
    pub login_time: Duration,
    /// Connections that log in: TLS, and who it is.
    #[serde(deserialize_with = "values::count::<_, 1, 1_000_000>")]
    pub pending: usize,
    /// Connections that wait until they may log in.
    #[serde(deserialize_with = "values::count::<_, 1, 1_000_000>")]
    pub waiting: usize,
    /// Of both together, from one address, or one IPv6 network of 64 bits.
    #[serde(deserialize_with = "values::count::<_, 1, 1_000_000>")]
    pub pending_per_address: usize,
    /// Connections in all.
    #[serde(deserialize_with = "values::count::<_, 1, 10_000_000>")]
    pub connections: usize,
    /// Of these, from one address, or one IPv6 network of 64 bits; 0: no limit, for whole data centers that come from one address.
    #[serde(deserialize_with = "values::count::<_, 0, 10_000_000>")]
    pub connections_per_address: usize,
    /// Sessions of one user; 0 is no limit.
    pub sessions_per_user: usize,
    /// Subscriptions of one session, reply queues included.
    #[serde(deserialize_with = "values::count::<_, 1, 1_000_000>")]
    pub subscriptions: usize,
    /// Bytes that wait for one agent to read them.
    #[serde(deserialize_with = "values::size::<_, { 64 * KIB }, { 1024 * MIB }>")]
    pub outbox: usize,
    /// Bytes that wait for any other session to read them.
    #[serde(deserialize_with = "values::size::<_, { 64 * KIB }, { 1024 * MIB }>")]
    pub caller_outbox: usize,
    /// Bytes that wait for one link to send them.
    #[serde(deserialize_with = "values::size::<_, { 64 * KIB }, { 1024 * MIB }>")]
    pub link_outbox: usize,
    /// Requests of one session that are not accounted for.
    #[serde(deserialize_with = "values::count::<_, 1, 100_000>")]
    pub in_flight: usize,
    /// Passwords that are checked at once, some 19 MiB and one core each; 0: as many as there are cores.
    #[serde(deserialize_with = "values::count::<_, 0, 1024>")]
    pub logins: usize,
    /// Logins that wait for that; more are told `busy`.
    #[serde(deserialize_with = "values::count::<_, 1, 1_000_000>")]
    pub login_queue: usize,
    /// How long a resumption token is good, counted in whole seconds; 0: none are given and none are taken.
    #[serde(deserialize_with = "values::duration::<_, 0, { 366 * 24 * HOUR }>")]
    pub token_life: Duration,
    /// How long a node that is gone is remembered.
    #[serde(deserialize_with = "values::duration::<_, 0, { 30 * 24 * HOUR }>")]
    pub gone_for: Duration,
    /// How many of them at most.
    #[serde(deserialize_with = "values::count::<_, 0, 10_000_000>")]
    pub gone_most: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_frame: 1024 * 1024,
            max_header: 16 * 1024,
            max_headers: 64,
            login_time: Duration::from_secs(5),
            pending: 256,
            waiting: 16_384,
            pending_per_address: 32,
            connections: 65_536,
            connections_per_address: 0,
            sessions_per_user: 0,
            subscriptions: 1000,
            outbox: 8 * 1024 * 1024,
            caller_outbox: 64 * 1024 * 1024,
            link_outbox: 16 * 1024 * 1024,
            in_flight: 64,
            logins: 0,
            login_queue: 1024,
            token_life: Duration::from_secs(30 * 24 * 3600),
            gone_for: Duration::from_secs(3600),
            gone_most: 100_000,
        }
    }
}

impl Limits {
    /// Passwords that are checked at once, 0 resolved.
    pub fn logins(&self) -> usize {
        match self.logins {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            logins => logins,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives for parts such as `info,muster_server=debug`.
    #[serde(deserialize_with = "values::log_level")]
    pub level: String,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".into(), format: LogFormat::Text }
    }
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AuditConfig {
    /// Whether decisions are kept on record.
    pub enabled: bool,
    /// Where; `audit.jsonl` in the state directory unless told. Never empty after [`Config::load`].
    pub file: PathBuf,
    /// Bytes after which a new file is begun.
    #[serde(deserialize_with = "values::size::<_, { 64 * KIB }, { 4096 * MIB }>")]
    pub rotate_size: usize,
    /// Time after which a new file is begun.
    #[serde(deserialize_with = "values::duration::<_, { 60 * SECOND }, { 3660 * 24 * HOUR }>")]
    pub rotate_age: Duration,
    /// Files before the current one that are kept.
    #[serde(deserialize_with = "values::count::<_, 1, 100_000>")]
    pub keep: usize,
    /// How often the other brokers are told where the log ends; 0: never.
    #[serde(deserialize_with = "values::duration::<_, 0, HOUR>")]
    pub heads: Duration,
}

impl Default for AuditConfig {
    fn default() -> AuditConfig {
        AuditConfig {
            enabled: true,
            file: PathBuf::new(),
            rotate_size: 64 * MIB as usize,
            rotate_age: Duration::from_millis(7 * 24 * HOUR),
            keep: 20,
            heads: Duration::from_secs(60),
        }
    }
}

/// `[admin]`: the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AdminConfig {
    /// Origins of web pages that may call it, beside its own: `https://HOST` or `https://HOST:PORT`.
    #[serde(deserialize_with = "values::origins")]
    pub origins: Vec<String>,
    /// Networks from which health and metrics are shown without a login.
    #[serde(deserialize_with = "values::networks")]
    pub open_to: Vec<IpNet>,
    /// Connections in all.
    #[serde(deserialize_with = "values::count::<_, 1, 1_000_000>")]
    pub connections: usize,
    /// Of these, from one address; 0 is no limit.
    #[serde(deserialize_with = "values::count::<_, 0, 1_000_000>")]
    pub connections_per_address: usize,
    /// Sessions inside the broker that calls are answered by, one for each token, address and client certificate.
    #[serde(deserialize_with = "values::count::<_, 1, 100_000>")]
    pub sessions: usize,
    /// After how long without a call such a session, or a connection, is closed.
    #[serde(deserialize_with = "values::duration::<_, { SECOND / 10 }, { 24 * HOUR }>")]
    pub idle: Duration,
    /// Bytes of what nodes have answered that are kept to be fetched, of all requests together.
    #[serde(deserialize_with = "values::size::<_, MIB, { 4096 * MIB }>")]
    pub results: usize,
    /// How long they are kept after a request is over.
    #[serde(deserialize_with = "values::duration::<_, { SECOND }, { 24 * HOUR }>")]
    pub results_for: Duration,
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig {
            origins: Vec::new(),
            open_to: values::loopback(),
            connections: 1024,
            connections_per_address: 128,
            sessions: 256,
            idle: Duration::from_secs(60),
            results: 64 * MIB as usize,
            results_for: Duration::from_secs(600),
        }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads and checks a configuration file. The files that it names are not opened.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unread = |cause: String| ConfigError {
            file: path.to_owned(),
            line: None,
            cause,
            cure: "give the path of a readable musterd.toml (`musterd init` makes one)".into(),
        };
        let size = std::fs::metadata(path).map_err(|error| unread(error.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(unread(format!("it has {size} bytes, too many for a configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unread(error.to_string()))?;
        let mut config = Config::parse(&text, path)?;
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        config.resolve(parent);
        Ok(config)
    }

    /// Reads and checks a text; `file` is for errors only, paths stay as they are.
    fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        let wrong = |line: usize, cause: String, cure: &str| ConfigError {
            file: file.to_owned(),
            line: Some(line),
            cause,
            cure: cure.into(),
        };
        let config: Config = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| place(text, span.start).0);
            wrong(line, error.message().to_owned(), toml_cure(error.message()))
        })?;
        config.check().map_err(|(at, cause, cure)| wrong(at.line(text), cause, cure))
    }

    /// What settings mean together; an error names the setting to look at.
    fn check(self) -> Result<Config, (Place, String, &'static str)> {
        let limits = &self.limits;
        if self.listen.stomp.is_empty() && self.listen.plain.is_empty() {
            let cure = "give an address, such as \"0.0.0.0:61614\"";
            return Err((Place::Key("stomp"), "the broker listens nowhere".into(), cure));
        }
        let clients: Vec<&SocketAddr> = self.listen.stomp.iter().chain(&self.listen.plain).collect();
        // Port 0 is a port of the system's choice, another one each time.
        if let Some(twice) = self.listen.links.iter().find(|at| at.port() != 0 && clients.contains(at)) {
            let cause = format!("{twice} is where clients are listened for too");
            return Err((Place::Key("links"), cause, "give links a port of their own, such as 61617"));
        }
        let others: Vec<&SocketAddr> = clients.into_iter().chain(&self.listen.links).collect();
        if let Some(twice) = self.listen.admin.iter().find(|at| at.port() != 0 && others.contains(at)) {
            let cause = format!("{twice} is where STOMP or links are listened for too");
            return Err((Place::Key("admin"), cause, "give the API a port of its own, such as 8161"));
        }
        if !self.listen.admin.is_empty() && limits.token_life < Duration::from_secs(1) {
            let cause = "the API is on and tokens are off, but they are how its callers show who they are".to_owned();
            return Err((Place::Key("token-life"), cause, "set token-life, or remove listen.admin"));
        }
        if limits.max_frame / 8 < limits.max_header {
            let cause = format!(
                "max-frame ({} bytes) is less than 8 times max-header ({} bytes), which leaves no room for bodies",
                limits.max_frame, limits.max_header
            );
            return Err((Place::Key("max-frame"), cause, "raise max-frame or lower max-header"));
        }
        for (key, outbox, cure) in [
            ("outbox", limits.outbox, "raise outbox or lower max-frame"),
            ("caller-outbox", limits.caller_outbox, "raise caller-outbox or lower max-frame"),
            ("link-outbox", limits.link_outbox, "raise link-outbox or lower max-frame"),
        ] {
            if outbox < limits.max_frame {
                let cause = format!("{key} ({outbox} bytes) cannot hold one frame of {} bytes", limits.max_frame);
                return Err((Place::Key(key), cause, cure));
            }
        }
        let file = &self.audit.file;
        if !file.as_os_str().is_empty() && file.extension().is_none_or(|ending| ending != "jsonl") {
            // Older files, the head and what was torn are named after it.
            let cause = format!("the audit log `{}` does not end in .jsonl", file.display());
            return Err((Place::Key("file"), cause, "give it a name such as \"state/audit.jsonl\""));
        }
        let mut names = BTreeSet::new();
        for (index, link) in self.link.iter().enumerate() {
            if link.to.as_str() == self.broker.name {
                let cause = format!("a link of `{}` to itself", link.to);
                return Err((Place::Link(index), cause, "name another broker, or remove the [[link]]"));
            }
            if !names.insert(&link.to) {
                let cause = format!("a second link to `{}`", link.to);
                return Err((Place::Link(index), cause, "keep one of the two: a pair of brokers has one link"));
            }
        }
        Ok(self)
    }

    fn resolve(&mut self, directory: &Path) {
        if self.control.as_os_str().is_empty() {
            self.control = self.broker.state_dir.join("musterd.sock");
        }
        if self.audit.file.as_os_str().is_empty() {
            self.audit.file = self.broker.state_dir.join("audit.jsonl");
        }
        let tls = &mut self.tls;
        let paths = [
            &mut self.policy,
            &mut self.cluster_key,
            &mut self.control,
            &mut self.broker.state_dir,
            &mut self.audit.file,
            &mut tls.certificate,
            &mut tls.key,
            &mut tls.ca,
        ];
        let optional = [self.cluster_key_previous.as_mut(), tls.client_ca.as_mut()];
        // Joining an absolute path replaces the directory.
        paths.into_iter().chain(optional.into_iter().flatten()).for_each(|path| *path = directory.join(&*path));
    }
}

/// Where to look for what is wrong with settings together.
enum Place {
    /// A key that stands once.
    Key(&'static str),
    /// The `to` of a `[[link]]`, counted from 0.
    Link(usize),
}

impl Place {
    /// Its line, from 1; the last line if it is not there.
    fn line(&self, text: &str) -> usize {
        let last = text.lines().count().max(1);
        match self {
            Place::Key(key) => {
                let is_key = |line: &str| {
                    line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
                };
                text.lines().position(is_key).map_or(last, |line| line + 1)
            }
            Place::Link(index) => {
                let links = toml::from_str(text).map_or_else(|_| Vec::new(), |Links { link }| link);
                links.get(*index).map_or(last, |link| place(text, link.to.span().start).0)
            }
        }
    }
}

/// The `[[link]]`s with their places in the text.
#[derive(Deserialize)]
struct Links {
    link: Vec<LinkPlace>,
}

#[derive(Deserialize)]
struct LinkPlace {
    to: toml::Spanned<String>,
}

fn default_policy() -> PathBuf {
    "policy.toml".into()
}

fn default_cluster_key() -> PathBuf {
    "cluster.key".into()
}

fn default_state_dir() -> PathBuf {
    "state".into()
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;

//! What is this broker told to be? musterd.toml as one typed value: defaults, units, and errors with line and cure.
//!
//! conf/musterd.toml shows every setting with its default; a test holds the two together.

use crate::broker::access::{place, toml_cure};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
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
    /// Socket of `musterd ctl`; `musterd.sock` in the state directory unless told. Never empty after [`Config::load`].
    #[serde(default)]
    pub control: PathBuf,
    /// Who this broker is.
    pub broker: BrokerConfig,
    /// Where it listens.
    #[serde(default)]
    pub listen: Listen,
    /// What it presents.
    #[serde(default)]
    pub tls: Tls,
    /// What it takes at most.
    #[serde(default)]
    pub limits: Limits,
    /// What it writes to stderr.
    #[serde(default)]
    pub log: Log,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BrokerConfig {
    /// The broker's name, a DNS label, unique in the cluster.
    #[serde(deserialize_with = "dns_label")]
    pub name: String,
    /// The cluster's name, a DNS label.
    #[serde(deserialize_with = "dns_label")]
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
}

impl Default for Listen {
    fn default() -> Listen {
        Listen { stomp: vec![SocketAddr::from(([0, 0, 0, 0], 61614))], plain: Vec::new() }
    }
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
}

impl Default for Tls {
    fn default() -> Tls {
        Tls { certificate: "broker.pem".into(), key: "broker.key".into(), ca: "ca.pem".into() }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Bytes of a frame, head and body.
    #[serde(deserialize_with = "size::<_, { 64 * KIB }, { 256 * MIB }>")]
    pub max_frame: usize,
    /// Bytes of one header line.
    #[serde(deserialize_with = "size::<_, KIB, { 256 * KIB }>")]
    pub max_header: usize,
    /// Headers of a frame.
    #[serde(deserialize_with = "count::<_, 16, 1024>")]
    pub max_headers: usize,
    /// TLS handshake and login together.
    #[serde(deserialize_with = "duration::<_, { SECOND / 10 }, { 300 * SECOND }>")]
    pub login_time: Duration,
    /// Connections that have not logged in.
    #[serde(deserialize_with = "count::<_, 1, 1_000_000>")]
    pub pending: usize,
    /// Of these, from one address.
    #[serde(deserialize_with = "count::<_, 1, 1_000_000>")]
    pub pending_per_address: usize,
    /// Connections in all.
    #[serde(deserialize_with = "count::<_, 1, 10_000_000>")]
    pub connections: usize,
    /// Of these, from one address; 0: no limit, for whole data centers that come from one address.
    #[serde(deserialize_with = "count::<_, 0, 10_000_000>")]
    pub connections_per_address: usize,
    /// Sessions of one user; 0 is no limit.
    pub sessions_per_user: usize,
    /// Subscriptions of one session, reply queues included.
    #[serde(deserialize_with = "count::<_, 1, 1_000_000>")]
    pub subscriptions: usize,
    /// Bytes that wait for one session to read them.
    #[serde(deserialize_with = "size::<_, { 64 * KIB }, { 1024 * MIB }>")]
    pub outbox: usize,
    /// Requests of one session that are not accounted for.
    #[serde(deserialize_with = "count::<_, 1, 100_000>")]
    pub in_flight: usize,
    /// Passwords that are checked at once, some 19 MiB and one core each; 0: as many as there are cores.
    #[serde(deserialize_with = "count::<_, 0, 1024>")]
    pub logins: usize,
    /// Logins that wait for that; more are told `busy`.
    #[serde(deserialize_with = "count::<_, 1, 1_000_000>")]
    pub login_queue: usize,
    /// How long a node that is gone is remembered.
    #[serde(deserialize_with = "duration::<_, 0, { 30 * 24 * HOUR }>")]
    pub gone_for: Duration,
    /// How many of them at most.
    #[serde(deserialize_with = "count::<_, 0, 10_000_000>")]
    pub gone_most: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_frame: 1024 * 1024,
            max_header: 16 * 1024,
            max_headers: 64,
            login_time: Duration::from_secs(5),
            pending: 1024,
            pending_per_address: 32,
            connections: 65_536,
            connections_per_address: 0,
            sessions_per_user: 0,
            subscriptions: 1000,
            outbox: 8 * 1024 * 1024,
            in_flight: 64,
            logins: 0,
            login_queue: 1024,
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
    #[serde(deserialize_with = "log_level")]
    pub level: String,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".into(), format: LogFormat::Text }
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
        config.check().map_err(|(key, cause, cure)| wrong(line_of(text, key), cause, cure))
    }

    /// What settings mean together; an error names the key to look at.
    fn check(self) -> Result<Config, (&'static str, String, &'static str)> {
        let limits = &self.limits;
        if self.listen.stomp.is_empty() && self.listen.plain.is_empty() {
            return Err(("stomp", "the broker listens nowhere".into(), "give an address, such as \"0.0.0.0:61614\""));
        }
        if limits.max_frame / 8 < limits.max_header {
            let cause = format!(
                "max-frame ({} bytes) is less than 8 times max-header ({} bytes), which leaves no room for bodies",
                limits.max_frame, limits.max_header
            );
            return Err(("max-frame", cause, "raise max-frame or lower max-header"));
        }
        if limits.outbox < limits.max_frame {
            let cause = format!("an outbox of {} bytes cannot hold one frame of {}", limits.outbox, limits.max_frame);
            return Err(("outbox", cause, "raise outbox or lower max-frame"));
        }
        Ok(self)
    }

    fn resolve(&mut self, directory: &Path) {
        if self.control.as_os_str().is_empty() {
            self.control = self.broker.state_dir.join("musterd.sock");
        }
        let tls = &mut self.tls;
        let paths = [
            &mut self.policy,
            &mut self.cluster_key,
            &mut self.control,
            &mut self.broker.state_dir,
            &mut tls.certificate,
            &mut tls.key,
            &mut tls.ca,
        ];
        // Joining an absolute path replaces the directory.
        paths.into_iter().for_each(|path| *path = directory.join(&*path));
    }
}

/// The line of a key, for errors about settings together; the last line if it is not there.
fn line_of(text: &str, key: &str) -> usize {
    let is_key =
        |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    text.lines().position(is_key).map_or_else(|| text.lines().count().max(1), |line| line + 1)
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

/// Whether a text is a DNS label: names of brokers and clusters become part of a certificate's name.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

fn dns_label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_dns_label(&text) {
        return Ok(text);
    }
    Err(D::Error::custom("the name is no DNS label: 1 to 63 of a-z, 0-9 and -, no - at the ends"))
}

fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let words = text.split(',').all(|directive| {
        let level = directive.rsplit('=').next().unwrap_or_default();
        ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
    });
    if words && tracing_subscriber::EnvFilter::try_new(&text).is_ok() {
        return Ok(text);
    }
    Err(D::Error::custom("the level is none of off, error, warn, info, debug, trace (or PART=LEVEL, comma-separated)"))
}

fn within<E: serde::de::Error>(value: u64, low: u64, high: u64, show: impl Fn(u64) -> String) -> Result<u64, E> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(E::custom(format!("{} is out of range: {} to {} are possible", show(value), show(low), show(high))))
}

fn count<'de, D: Deserializer<'de>, const LOW: u64, const HIGH: u64>(deserializer: D) -> Result<usize, D::Error> {
    let value = within::<D::Error>(u64::deserialize(deserializer)?, LOW, HIGH, |value| value.to_string())?;
    usize::try_from(value).map_err(D::Error::custom)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of bytes, or a text such as \"1MiB\" or \"16KiB\"")]
enum Size {
    Bytes(u64),
    Text(String),
}

fn size<'de, D: Deserializer<'de>, const LOW: u64, const HIGH: u64>(deserializer: D) -> Result<usize, D::Error> {
    let bytes = match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => bytes,
        Size::Text(text) => bytes(&text)
            .ok_or_else(|| D::Error::custom("the size is not a number of bytes, KiB, MiB or GiB, such as \"1MiB\""))?,
    };
    let value = within::<D::Error>(bytes, LOW, HIGH, |value| match value {
        value if value % MIB == 0 && value > 0 => format!("{}MiB", value / MIB),
        value if value % KIB == 0 && value > 0 => format!("{}KiB", value / KIB),
        value => format!("{value} bytes"),
    })?;
    usize::try_from(value).map_err(D::Error::custom)
}

fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", KIB), ("MiB", MIB), ("GiB", 1024 * MIB), ("", 1)];
    let (number, unit) = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(*unit)
}

/// Bounds in milliseconds.
fn duration<'de, D: Deserializer<'de>, const LOW: u64, const HIGH: u64>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom("the time is not a number with its unit, such as \"5s\", \"250ms\" or \"1h\""))?;
    let (low, high) = (Duration::from_millis(LOW), Duration::from_millis(HIGH));
    if (low..=high).contains(&duration) {
        return Ok(duration);
    }
    let show = humantime::format_duration;
    Err(D::Error::custom(format!("{} is out of range: {} to {} are possible", show(duration), show(low), show(high))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../conf/musterd.toml");

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("musterd.toml"))
    }

    const LEAST: &str = "[broker]\nname = \"noc1\"\ncluster = \"demo\"\n";

    #[test]
    fn the_sample_is_the_defaults() {
        let least = parse(LEAST).unwrap();
        assert_eq!(parse(SAMPLE).unwrap(), least);
        // What the sample shows commented out is a default as well: all of it together still is.
        let setting = |line: &str| {
            let body = line.strip_prefix('#')?;
            let key = body.split('=').next()?;
            let is_key = body.contains(" = ") && key.trim().chars().all(|c| c.is_ascii_lowercase() || c == '-');
            is_key.then(|| body.to_owned())
        };
        let all: Vec<String> = SAMPLE.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned())).collect();
        let mut shown = parse(&all.join("\n")).unwrap();
        assert_eq!(shown.control, Path::new("state/musterd.sock"));
        shown.control = PathBuf::new();
        assert_eq!(shown, least);
    }

    #[test]
    fn the_sample_shows_every_limit() {
        for key in [
            "max-frame",
            "max-header",
            "max-headers",
            "login-time",
            "pending",
            "pending-per-address",
            "connections",
            "connections-per-address",
            "sessions-per-user",
            "subscriptions",
            "outbox",
            "in-flight",
            "logins",
            "login-queue",
            "gone-for",
            "gone-most",
            "level",
            "format",
            "stomp",
            "plain",
            "certificate",
            "key",
            "ca",
            "state-dir",
            "control",
        ] {
            assert!(SAMPLE.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = "))), "{key}");
        }
    }

    #[test]
    fn mistakes_name_line_and_cure() {
        for (addition, line, cause) in [
            ("[limits]\nmax-frames = 1\n", 5, "unknown field `max-frames`"),
            ("[limits]\npending = 0\n", 5, "0 is out of range: 1 to 1000000 are possible"),
            ("[limits]\nlogin-time = \"5\"\n", 5, "the time is not a number with its unit"),
            ("[limits]\nlogin-time = \"1h\"\n", 5, "1h is out of range: 100ms to 5m are possible"),
            ("[limits]\nmax-frame = \"1MB\"\n", 5, "the size is not a number of bytes"),
            ("[limits]\nmax-frame = \"1GiB\"\n", 5, "1024MiB is out of range: 64KiB to 256MiB are possible"),
            ("[limits]\n\nmax-frame = 65536\n", 6, "max-frame (65536 bytes) is less than 8 times"),
            ("[limits]\noutbox = \"128KiB\"\n", 5, "an outbox of 131072 bytes cannot hold one frame"),
            ("[listen]\nstomp = []\n", 5, "the broker listens nowhere"),
            ("[listen]\nstomp = [\"noc1:61614\"]\n", 5, "invalid socket address"),
            ("[log]\nlevel = \"loud\"\n", 5, "the level is none of"),
            ("[log]\nformat = \"xml\"\n", 5, "unknown variant `xml`"),
            ("[broker]\n", 4, "duplicate key"),
            ("[limits\n", 4, "unclosed table"),
        ] {
            let error = parse(&format!("{LEAST}{addition}")).unwrap_err();
            assert!(error.cause.contains(cause), "{addition}: {error}");
            assert_eq!(error.line, Some(line), "{addition}: {error}");
            assert!(!error.cure.is_empty());
        }
        for name in ["", "NOC1", "a.b", "-a", "a-", "a b", &"a".repeat(64)] {
            let error = parse(&format!("[broker]\nname = \"{name}\"\ncluster = \"demo\"\n")).unwrap_err();
            assert_eq!(error.line, Some(2), "{error}");
        }
        assert!(parse("").unwrap_err().cause.contains("missing field `broker`"));
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        for (text, expected) in
            [("1MiB", Some(MIB)), ("16 KiB", Some(16 * KIB)), ("7", Some(7)), ("1MB", None), ("-1", None)]
        {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert_eq!(bytes("99999999999999GiB"), None);
    }

    #[test]
    fn relative_paths_are_beside_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("musterd.toml");
        std::fs::write(&file, format!("policy = \"/etc/policy.toml\"\n{LEAST}state-dir = \"s\"\n")).unwrap();
        let config = Config::load(&file).unwrap();
        assert_eq!(config.policy, Path::new("/etc/policy.toml"));
        assert_eq!(config.control, directory.path().join("s/musterd.sock"));
        assert_eq!(config.tls.key, directory.path().join("broker.key"));
        let missing = Config::load(&directory.path().join("none.toml")).unwrap_err();
        assert!(missing.to_string().contains("none.toml: No such file"), "{missing}");
    }
}

//! What does the operator of this node want? The configuration file, its defaults, and errors that say where and what to do.

mod allow;

pub use allow::{AllowedCommand, ExecConfig};
use muster_protocol::dial::Address;
use muster_protocol::tls::Own;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that is read unless another is named.
pub const DEFAULT_FILE: &str = "/etc/muster/agent.toml";

/// Everything that can be set; `conf/agent.toml` documents it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where brokers listen; at least one.
    #[serde(deserialize_with = "brokers")]
    pub brokers: Vec<Address>,
    /// Which of them is tried first.
    #[serde(default)]
    pub broker_order: BrokerOrder,
    /// The user to log in as.
    #[serde(deserialize_with = "user")]
    pub user: String,
    /// Holds the password, mode 0600.
    pub password_file: PathBuf,
    /// CA certificates in PEM.
    pub ca: PathBuf,
    /// Section `[tls]`: what is shown to brokers that ask for a certificate.
    #[serde(default, deserialize_with = "Own::deserialize")]
    pub tls: Option<Own>,
    /// Where the agent keeps what must survive a restart.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// How often each side promises a sign of life; zero: never.
    #[serde(default = "default_heart_beat", deserialize_with = "duration")]
    pub heart_beat: Duration,
    /// What is collected, and how often.
    #[serde(default)]
    pub facts: FactsConfig,
    /// Where role labels come from.
    #[serde(default)]
    pub classes: ClassesConfig,
    /// Bounds on what requests may use.
    #[serde(default)]
    pub limits: Limits,
    /// Settings of modules.
    #[serde(default)]
    pub modules: ModulesConfig,
    /// This node's own word on what may run.
    #[serde(default)]
    pub policy: LocalPolicy,
    /// How to log.
    #[serde(default)]
    pub log: LogConfig,
}

/// In which order brokers are tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerOrder {
    /// From a random one on: a fleet spreads over all of them.
    #[default]
    Random,
    /// As they are listed: the first is the near one, the others are for when it cannot be reached.
    Listed,
}

/// Section `[facts]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct FactsConfig {
    /// Between two collections.
    #[serde(deserialize_with = "duration_not_zero")]
    pub interval: Duration,
    /// The `facts.d` folder.
    pub dir: PathBuf,
    /// For one executable of `dir`.
    #[serde(deserialize_with = "duration_not_zero")]
    pub executable_timeout: Duration,
    /// Whether to ask facter.
    pub facter: Facter,
}

/// Whether `facter --json` is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Facter {
    /// When it is on PATH.
    Auto,
    /// Never.
    Off,
}

/// Section `[classes]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ClassesConfig {
    /// Files with one class a line.
    pub files: Vec<PathBuf>,
    /// A folder of such files.
    pub dir: PathBuf,
}

/// Section `[limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Actions at the same time.
    #[serde(deserialize_with = "one_or_more")]
    pub concurrency: usize,
    /// Requests that wait for their turn.
    pub queue: usize,
    /// Bytes of each output stream that are kept.
    #[serde(deserialize_with = "output_limit")]
    pub output: usize,
    /// Longest run of an action.
    #[serde(deserialize_with = "duration_not_zero")]
    pub action_time: Duration,
    /// How long actions may go on after SIGTERM.
    #[serde(deserialize_with = "duration")]
    pub stop_time: Duration,
    /// Requests in the duplicate memory.
    #[serde(deserialize_with = "one_or_more")]
    pub remember: usize,
    /// Age at which the duplicate memory forgets.
    #[serde(deserialize_with = "duration_not_zero")]
    pub remember_for: Duration,
}

/// Section `[modules]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModulesConfig {
    /// Section `[modules.exec]`.
    pub exec: ExecConfig,
}

/// Section `[policy]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalPolicy {
    /// Never run.
    pub deny: Vec<ActionPattern>,
    /// If not empty, all that may run.
    pub allow: Vec<ActionPattern>,
}

/// `MODULE.ACTION`, `*` for all of either.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ActionPattern {
    module: String,
    action: String,
}

/// Section `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// Least level that is logged.
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Least level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words are the documentation")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot read it: {cause}")]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not TOML, or a setting is wrong.
    #[error("{file}:{line}:{column}: {text}; conf/agent.toml documents every setting")]
    Wrong {
        /// Which file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong.
        text: String,
    },
    /// A file that a setting names cannot serve.
    #[error("{setting} = {file}: {text}")]
    File {
        /// The setting.
        setting: &'static str,
        /// Which file.
        file: PathBuf,
        /// What is wrong and what to do.
        text: String,
    },
}

impl Config {
    /// Reads a file. Relative paths in it count from its folder.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(file).map_err(|cause| ConfigError::Read { file: file.to_owned(), cause })?;
        Config::parse(&text, file)
    }

    /// Reads a text; `file` is for errors and for relative paths.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|error| {
            let (line, column) = place(text, error.span().map_or(0, |span| span.start));
            let text = error.message().replace('\n', " ");
            ConfigError::Wrong { file: file.to_owned(), line, column, text }
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let single = [
            &mut config.password_file,
            &mut config.ca,
            &mut config.state_dir,
            &mut config.facts.dir,
            &mut config.classes.dir,
        ];
        let own = config.tls.iter_mut().flat_map(|own| [&mut own.certificate, &mut own.key]);
        for path in single.into_iter().chain(own).chain(&mut config.classes.files) {
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    /// The password, from its file. Read again at each connection, so that a changed one needs no restart.
    pub fn password(&self) -> Result<SecretString, ConfigError> {
        let wrong =
            |text: String| ConfigError::File { setting: "password-file", file: self.password_file.clone(), text };
        let cannot = |cause: std::io::Error| {
            wrong(format!("cannot read it: {cause}; put the password of user `{}` there, mode 0600", self.user))
        };
        // Non-blocking, so that a FIFO in its place cannot hold the agent up.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut file =
            fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(&self.password_file).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        let mode = metadata.permissions().mode() & 0o777;
        if !metadata.is_file() {
            return Err(wrong("is not a file".into()));
        }
        if mode & 0o077 != 0 {
            return Err(wrong(format!("others can read it (mode {mode:03o}); run `chmod 600` on it")));
        }
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own && metadata.uid() != 0 {
            return Err(wrong(format!("belongs to uid {}; run `chown {own}` on it", metadata.uid())));
        }
        let mut text = String::new();
        Read::by_ref(&mut file).take(4096).read_to_string(&mut text).map_err(cannot)?;
        let password = text.trim_end_matches(['\n', '\r']);
        if password.is_empty() || password.chars().any(char::is_control) {
            return Err(wrong("must hold the password alone, on one line".into()));
        }
        Ok(SecretString::from(password))
    }
}

impl LocalPolicy {
    /// Whether this node lets the action run.
    pub fn permits(&self, module: &str, action: &str) -> bool {
        let any = |patterns: &[ActionPattern]| patterns.iter().any(|pattern| pattern.matches(module, action));
        !any(&self.deny) && (self.allow.is_empty() || any(&self.allow))
    }
}

impl ActionPattern {
    /// Whether it names the action.
    pub fn matches(&self, module: &str, action: &str) -> bool {
        let fits = |pattern: &str, name: &str| pattern == "*" || pattern == name;
        fits(&self.module, module) && fits(&self.action, action)
    }
}

impl TryFrom<String> for ActionPattern {
    type Error = String;

    fn try_from(text: String) -> Result<ActionPattern, String> {
        let name = |part: &str| {
            part == "*"
                || (!part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'))
        };
        match text.split_once('.') {
            Some((module, action)) if name(module) && name(action) => {
                Ok(ActionPattern { module: module.into(), action: action.into() })
            }
            _ => Err(format!(
                "`{text}` is not MODULE.ACTION; write `service.stop`, or `service.*` for all actions of it"
            )),
        }
    }
}

impl Default for FactsConfig {
    fn default() -> FactsConfig {
        FactsConfig {
            interval: Duration::from_secs(300),
            dir: "/etc/muster/facts.d".into(),
            executable_timeout: Duration::from_secs(10),
            facter: Facter::Auto,
        }
    }
}

impl Default for ClassesConfig {
    fn default() -> ClassesConfig {
        ClassesConfig {
            files: vec![
                "/var/lib/puppet/state/classes.txt".into(),
                "/opt/puppetlabs/puppet/cache/state/classes.txt".into(),
            ],
            dir: "/etc/muster/classes.d".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            concurrency: 8,
            queue: 64,
            output: 256 * 1024,
            action_time: Duration::from_secs(300),
            stop_time: Duration::from_secs(10),
            remember: 50_000,
            // An hour more than the longest reply-within: no broker re-sends anything older.
            remember_for: Duration::from_secs(25 * 3600),
        }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { format: LogFormat::Text, level: LogLevel::Info }
    }
}

fn default_state_dir() -> PathBuf {
    "/var/lib/muster-agent".into()
}

fn default_heart_beat() -> Duration {
    muster_protocol::session::DEFAULT_HEART_BEAT
}

fn brokers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    let list = Vec::<Address>::deserialize(deserializer)?;
    if list.is_empty() {
        Err(serde::de::Error::custom("`brokers` is empty; name at least one as HOST or HOST:PORT"))
    } else {
        Ok(list)
    }
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let user = String::deserialize(deserializer)?;
    let fine = !user.is_empty() && user.len() <= 255 && !user.chars().any(|c| c.is_control() || c == ':');
    if fine {
        Ok(user)
    } else {
        Err(serde::de::Error::custom("`user` must be a name without colons and control characters"))
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text).map_err(|e| {
        serde::de::Error::custom(format!("`{text}` is not a duration ({e}); write it as in \"30s\" or \"5m\""))
    })?;
    if duration > Duration::from_secs(366 * 24 * 3600) {
        return Err(serde::de::Error::custom(format!("`{text}` is longer than a year; write a shorter time")));
    }
    Ok(duration)
}

fn duration_not_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = duration(deserializer)?;
    if duration.is_zero() { Err(serde::de::Error::custom("the time must be longer than zero")) } else { Ok(duration) }
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let number = usize::deserialize(deserializer)?;
    if (1..=1_000_000).contains(&number) { Ok(number) } else { Err(serde::de::Error::custom("must be 1 to 1000000")) }
}

fn output_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let number = usize::deserialize(deserializer)?;
    // A reply with both streams, JSON escapes included, has to fit a frame of 1 MiB; what does not is cut once more.
    if (1024..=512 * 1024).contains(&number) {
        Ok(number)
    } else {
        Err(serde::de::Error::custom("must be 1024 to 524288 bytes"))
    }
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests;

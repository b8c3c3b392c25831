//! Where do the operator's settings come from? Options, then the environment, then a file, then defaults.

use crate::token::{TokenError, TokenFile};
use muster_protocol::dial::Address;
use muster_protocol::tls::Own;
use secrecy::SecretString;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Requests to more nodes than this are confirmed first, unless the file says otherwise.
pub const DEFAULT_CONFIRM_ABOVE: u64 = 50;
/// The collective unless told.
pub const DEFAULT_COLLECTIVE: &str = "prod";
/// How long the whole broker list may take, unless told.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings file, `muster.toml`. Every key is optional; an unknown one is an error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// Brokers, tried in this order.
    #[serde(default)]
    pub brokers: Vec<Address>,
    /// The user to log in as.
    pub user: Option<String>,
    /// A file with the password, mode 0600.
    pub password_file: Option<PathBuf>,
    /// CA certificates (PEM) that the brokers' certificates are checked against.
    pub ca: Option<PathBuf>,
    /// `tls`: what is shown to brokers that ask for a certificate.
    #[serde(default, deserialize_with = "Own::deserialize")]
    pub tls: Option<Own>,
    /// The collective that requests go to.
    pub collective: Option<String>,
    /// Ask before a request goes to more nodes than this.
    pub confirm_above: Option<u64>,
}

/// What the command line says about the connection. Never a password: other users can read arguments.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--broker`, each.
    pub brokers: Vec<Address>,
    /// `--user`.
    pub user: Option<String>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
    /// `--password-file`.
    pub password_file: Option<PathBuf>,
    /// `--collective`.
    pub collective: Option<String>,
    /// `--connect-timeout`.
    pub connect_timeout: Option<Duration>,
}

/// Where the password is to be had.
#[derive(Debug, Clone)]
pub enum PasswordSource {
    /// In this file.
    File(PathBuf),
    /// It was in the environment.
    Given(SecretString),
    /// Nowhere: ask.
    Prompt,
}

/// Everything that is needed to connect, but the password itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Brokers in the order of trying; never empty.
    pub brokers: Vec<Address>,
    /// The user.
    pub user: String,
    /// Where the password is.
    pub password: PasswordSource,
    /// CA certificates.
    pub ca: PathBuf,
    /// What is shown to brokers that ask for a certificate.
    pub tls: Option<Own>,
    /// The collective.
    pub collective: String,
    /// The threshold of the question before a large request.
    pub confirm_above: u64,
    /// For the whole broker list.
    pub connect_timeout: Duration,
    /// Where tokens are kept; `None` if the environment names no place.
    pub tokens: Option<PathBuf>,
}

/// Settings that cannot be used; nothing has been sent.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot read the configuration: {cause}")]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file has a mistake.
    #[error("{file}:{line}: {cause}")]
    Wrong {
        /// Which file.
        file: PathBuf,
        /// The first being 1.
        line: usize,
        /// What is wrong there; quotes no line, as somebody may have written a password.
        cause: String,
    },
    /// An environment variable has no meaning.
    #[error("{name}: {cause}")]
    Environment {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// A setting that has no default is nowhere.
    #[error("{what} not set: use {option}, {variable} or `{key}` in {file}")]
    Missing {
        /// Which setting.
        what: &'static str,
        /// The option.
        option: &'static str,
        /// The environment variable.
        variable: &'static str,
        /// The key of the file.
        key: &'static str,
        /// The file.
        file: String,
    },
}

impl File {
    /// Reads and checks the file. Relative paths in it are relative to its own directory, `~/` is the home directory.
    pub fn load(file: &Path, home: Option<&Path>) -> Result<File, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|cause| ConfigError::Read { file: file.to_owned(), cause })?;
        let mut parsed = File::parse(&text, file)?;
        let base = file.parent().unwrap_or(Path::new("."));
        let own = parsed.tls.iter_mut().flat_map(|own| [&mut own.certificate, &mut own.key]);
        for path in [&mut parsed.password_file, &mut parsed.ca].into_iter().flatten().chain(own) {
            *path = match (path.strip_prefix("~"), home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => base.join(&*path),
            };
        }
        Ok(parsed)
    }

    /// Parses the text of `file`; the name is for errors only.
    pub fn parse(text: &str, file: &Path) -> Result<File, ConfigError> {
        let parsed: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
            let mut cause = error.message().to_owned();
            if cause.contains("`password`") {
                cause.push_str("; a password never stands in this file: put it into a file of mode 0600 and name that in `password-file`");
            }
            ConfigError::Wrong { file: file.to_owned(), line, cause }
        })?;
        Ok(parsed)
    }
}

impl Settings {
    /// Options before environment before file before defaults. `variable` looks an environment variable up.
    pub fn resolve(options: Overrides, variable: impl Fn(&str) -> Option<String>) -> Result<Settings, ConfigError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = variable("HOME").map(PathBuf::from);
        let named = options.config.or_else(|| variable("MUSTER_CONFIG").map(PathBuf::from));
        let (file, path) = settings_file(named, home.as_deref())?;

        let brokers = match variable("MUSTER_BROKERS") {
            _ if !options.brokers.is_empty() => options.brokers,
            Some(list) => addresses(&list)?,
            None => file.brokers,
        };
        let missing =
            |what, option, variable, key| ConfigError::Missing { what, option, variable, key, file: path.clone() };
        if brokers.is_empty() {
            return Err(missing("a broker is", "--broker", "MUSTER_BROKERS", "brokers"));
        }
        let user = options.user.or_else(|| variable("MUSTER_USER")).or_else(|| file.user.clone());
        let user =
            user.filter(|u| !u.is_empty()).ok_or_else(|| missing("the user is", "--user", "MUSTER_USER", "user"))?;
        let ca = options.ca.or_else(|| variable("MUSTER_CA").map(PathBuf::from)).or(file.ca);
        let ca = ca.ok_or_else(|| missing("the CA certificate is", "--ca", "MUSTER_CA", "ca"))?;
        // Nobody's password is sent in the name of another.
        let of_user = file.password_file.filter(|_| file.user.as_ref().is_none_or(|own| *own == user));
        let password = if let Some(file) = options.password_file {
            PasswordSource::File(file)
        } else if let Some(given) = variable("MUSTER_PASSWORD") {
            PasswordSource::Given(given.into())
        } else if let Some(file) = variable("MUSTER_PASSWORD_FILE").map(PathBuf::from).or(of_user) {
            PasswordSource::File(file)
        } else {
            PasswordSource::Prompt
        };
        Ok(Settings {
            brokers,
            user,
            password,
            ca,
            tls: file.tls,
            collective: options.collective.or(file.collective).unwrap_or_else(|| DEFAULT_COLLECTIVE.into()),
            confirm_above: file.confirm_above.unwrap_or(DEFAULT_CONFIRM_ABOVE),
            connect_timeout: options.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            tokens: tokens_folder(variable("XDG_STATE_HOME").map(PathBuf::from), home),
        })
    }

    /// Where the token of this user at these brokers is kept.
    pub fn token_file(&self) -> Result<TokenFile, TokenError> {
        TokenFile::new(self.tokens.as_deref().ok_or(TokenError::NoFolder)?, &self.user, &self.ca)
    }
}

/// As the XDG base directories have it: a relative path there does not count.
fn tokens_folder(state: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state = state.filter(|path| path.is_absolute()).or_else(|| home.map(|home| home.join(".local/state")));
    state.map(|state| state.join("muster/tokens"))
}

/// The file and what to call it in errors. A file that was named must be there; the usual one may be missing.
fn settings_file(named: Option<PathBuf>, home: Option<&Path>) -> Result<(File, String), ConfigError> {
    let usual = home.map(|home| home.join(".config/muster/muster.toml"));
    let shown = named.as_ref().or(usual.as_ref()).map_or("the configuration".into(), |path| path.display().to_string());
    let file = match (named, usual) {
        (Some(path), _) => File::load(&path, home)?,
        (None, Some(path)) => match File::load(&path, home) {
            Err(ConfigError::Read { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => File::default(),
            other => other?,
        },
        (None, None) => File::default(),
    };
    Ok((file, shown))
}

fn addresses(list: &str) -> Result<Vec<Address>, ConfigError> {
    let parts = list.split([',', ' ']).filter(|part| !part.is_empty());
    parts.map(|part| part.parse()).collect::<Result<_, _>>().map_err(|e: muster_protocol::dial::AddressError| {
        ConfigError::Environment { name: "MUSTER_BROKERS", cause: e.to_string() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../conf/muster.toml");

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_sample_loads_as_it_stands_and_with_every_setting_switched_on() {
        let file = File::parse(SAMPLE, Path::new("muster.toml")).expect("the sample");
        assert!(!file.brokers.is_empty() && file.user.is_some() && file.ca.is_some());
        let on: String = SAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let file = File::parse(&on, Path::new("muster.toml")).expect("every setting");
        assert_eq!(file.collective.as_deref(), Some(DEFAULT_COLLECTIVE));
        assert_eq!(file.confirm_above, Some(DEFAULT_CONFIRM_ABOVE));
        assert!(file.password_file.is_some());
        assert_eq!(file.tls, Some(Own { certificate: "alice.pem".into(), key: "alice.key".into() }));
    }

    #[test]
    fn a_mistake_names_file_and_line_and_shows_no_secret() {
        let error = |text| File::parse(text, Path::new("my.toml")).expect_err(text).to_string();
        assert!(error("user = \"a\"\nusr = 1\n").starts_with("my.toml:2: unknown field `usr`"));
        assert!(
            error("user = \"a\"\n\nbrokers = [\"tcp://x\"]\n")
                .starts_with("my.toml:3: `tcp://x` is not a broker address")
        );
        assert!(error("confirm-above = -1\n").starts_with("my.toml:1: "));
        assert!(error("user = \n").starts_with("my.toml:1: "));
        let half = error("user = \"a\"\n\n[tls]\ncertificate = \"a.pem\"\n");
        assert!(half.starts_with("my.toml:3: ") && half.contains("`certificate` without `key`"), "{half}");
        let half = error("tls = { key = \"a.key\" }\n");
        assert!(half.starts_with("my.toml:1: ") && half.contains("`key` without `certificate`"), "{half}");
        let secret = error("password = \"hunter2\"\n");
        assert!(secret.contains("password-file") && !secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn options_win_over_the_environment_over_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m.toml");
        let text = "brokers = [\"f:1\"]\nuser = \"file\"\nca = \"ca.pem\"\npassword-file = \"~/pw\"\n\
                    tls = { certificate = \"~/me.pem\", key = \"me.key\" }\n";
        std::fs::write(&path, text).expect("write");
        let environment = |name: &str| match name {
            "MUSTER_CONFIG" => Some(path.display().to_string()),
            "HOME" => Some("/home/o".into()),
            "MUSTER_USER" => Some("environment".into()),
            "MUSTER_BROKERS" => Some("e1:2, e2".into()),
            "MUSTER_CA" => Some(String::new()), // empty is unset
            _ => None,
        };
        let settings = Settings::resolve(Overrides::default(), environment).expect("settings");
        assert_eq!(settings.user, "environment");
        assert_eq!(settings.brokers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["e1:2", "e2:61614"]);
        assert_eq!(settings.ca, folder.path().join("ca.pem"));
        let shown = Own { certificate: "/home/o/me.pem".into(), key: folder.path().join("me.key") };
        assert_eq!(settings.tls, Some(shown));
        assert!(matches!(settings.password, PasswordSource::Prompt), "the file's password is that of its own user");
        let as_file_says = |name: &str| if name == "MUSTER_USER" { None } else { environment(name) };
        let own = Settings::resolve(Overrides::default(), as_file_says).expect("settings");
        assert_eq!(own.user, "file");
        assert!(matches!(own.password, PasswordSource::File(path) if path == Path::new("/home/o/pw")));
        assert_eq!((settings.collective.as_str(), settings.confirm_above), ("prod", 50));
        let options = Overrides {
            user: Some("option".into()),
            brokers: vec!["o:3".parse().expect("address")],
            ..Overrides::default()
        };
        let with_password = |name: &str| if name == "MUSTER_PASSWORD" { Some("pw".into()) } else { environment(name) };
        let settings = Settings::resolve(options, with_password).expect("settings");
        assert_eq!((settings.user.as_str(), settings.brokers[0].host()), ("option", "o"));
        assert!(matches!(settings.password, PasswordSource::Given(_)));
    }

    #[test]
    fn tokens_are_kept_where_state_is_kept() {
        let folder =
            |state: Option<&str>, home: Option<&str>| tokens_folder(state.map(Into::into), home.map(Into::into));
        let under = |path: &str| Some(PathBuf::from(path));
        assert_eq!(folder(Some("/s"), Some("/home/o")), under("/s/muster/tokens"));
        assert_eq!(folder(None, Some("/home/o")), under("/home/o/.local/state/muster/tokens"));
        assert_eq!(folder(Some("relative"), Some("/home/o")), under("/home/o/.local/state/muster/tokens"));
        assert_eq!(folder(None, None), None);
    }

    #[test]
    fn what_is_missing_is_named_with_every_way_to_set_it() {
        let error = Settings::resolve(Overrides::default(), nothing).expect_err("no broker").to_string();
        assert_eq!(error, "a broker is not set: use --broker, MUSTER_BROKERS or `brokers` in the configuration");
        let options = Overrides { config: Some("/nonexistent/m.toml".into()), ..Overrides::default() };
        assert!(matches!(Settings::resolve(options, nothing), Err(ConfigError::Read { .. })));
        let wrong = |name: &str| (name == "MUSTER_BROKERS").then(|| "a:b".to_owned());
        assert!(
            Settings::resolve(Overrides::default(), wrong)
                .expect_err("wrong")
                .to_string()
                .starts_with("MUSTER_BROKERS: `a:b`")
        );
    }
}

//! How does a cluster begin? CA, certificate, keys, configuration and a policy with first users, in one new directory.

use crate::passwd::{self, PasswordError};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use muster_protocol::dial::Address;
use muster_protocol::message::BrokerName;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Years that the CA and a broker's certificate are valid.
const CA_YEARS: i16 = 10;
const BROKER_YEARS: i16 = 2;
/// Names in an error about a directory that is not empty.
const SHOWN: usize = 5;

/// The policy of a new cluster: `{password NAME}` stands for the hash of a new password.
const POLICY: &str = include_str!("init/policy.toml");

/// What `musterd init` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct InitOptions {
    /// Where to make it: a directory that does not exist yet, or is empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The broker's name, a DNS label
    #[arg(long, default_value = "noc1")]
    pub name: String,
    /// The cluster's name, a DNS label
    #[arg(long, default_value = "demo")]
    pub cluster: String,
    /// A host name or IP address that agents and operators reach the broker by; repeat it for more
    #[arg(long = "address", value_name = "HOST", default_values = ["127.0.0.1", "localhost"])]
    pub addresses: Vec<String>,
    /// Where the broker listens for STOMP over TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:61614")]
    pub listen: SocketAddr,
}

impl InitOptions {
    /// The defaults of the command line, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> InitOptions {
        InitOptions {
            dir: dir.into(),
            name: "noc1".into(),
            cluster: "demo".into(),
            addresses: vec!["127.0.0.1".into(), "localhost".into()],
            listen: SocketAddr::from(([127, 0, 0, 1], 61614)),
        }
    }
}

/// Why nothing was made, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// What is there may be in use.
    #[error("{dir}: holds {names} already; give a new or an empty directory", dir = dir.display())]
    NotEmpty {
        /// Which directory.
        dir: PathBuf,
        /// Some of what it holds.
        names: String,
    },
    /// The names become part of a certificate.
    #[error("--{option} {text:?}: is no DNS label; use 1 to 63 of a-z, 0-9 and -, no - at the ends")]
    Name {
        /// Which option.
        option: &'static str,
        /// Its value.
        text: String,
    },
    /// An address that nobody could dial, or none at all.
    #[error("--address {0:?}: is no host name or IP address; give it without a port")]
    Address(String),
    /// Certificates cannot be made.
    #[error("cannot make the certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A password cannot be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The disk.
    #[error("{path}: {cause}", path = path.display())]
    Write {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// What was made. `Display` lists it, with the commands that come next; nothing in it is secret.
#[derive(Debug, Clone)]
pub struct InitReport {
    /// The directory.
    pub dir: PathBuf,
    /// All files in it, relative, in the order in which they were written.
    pub files: Vec<PathBuf>,
    /// The users of the policy; each one's password is in `passwords/USER`.
    pub users: Vec<String>,
}

impl InitReport {
    /// The configuration of the broker.
    pub fn config(&self) -> PathBuf {
        self.dir.join("musterd.toml")
    }

    /// The file with a user's password.
    pub fn password_file(&self, user: &str) -> PathBuf {
        self.dir.join("passwords").join(user)
    }
}

impl fmt::Display for InitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir.display();
        writeln!(f, "Made in {dir} (secrets are readable by you alone):")?;
        for (what, name) in [
            ("ca.pem, ca.key", "the cluster's CA; keep ca.key off the brokers once all certificates are made"),
            ("broker.pem, broker.key", "this broker's certificate"),
            ("cluster.key", "the secret that the brokers of the cluster share"),
            ("musterd.toml", "the broker's configuration"),
            ("policy.toml", "users, groups and what they may do"),
            ("passwords/USER", "one new password for each user"),
            ("agents/USER.toml", "configurations of agents"),
            ("muster.toml", "the configuration of an operator"),
        ] {
            writeln!(f, "  {what:<23} {name}")?;
        }
        writeln!(f, "Users: {}", self.users.join(", "))?;
        writeln!(f, "Next:")?;
        writeln!(f, "  musterd run --config {dir}/musterd.toml")?;
        writeln!(f, "  muster-agent run --config {dir}/agents/node-a-acme.toml")?;
        write!(f, "  muster --config {dir}/muster.toml find --all")
    }
}

/// A file to be written, relative to the directory.
struct Made {
    path: PathBuf,
    /// Bytes that are wiped when they are dropped.
    text: SecretString,
    secret: bool,
}

/// Makes a cluster of one broker. Everything is computed first, so that a mistake leaves nothing behind; nothing that exists
/// is overwritten.
pub fn init(options: &InitOptions) -> Result<InitReport, InitError> {
    check(options)?;
    refuse_content(&options.dir)?;
    let (policy, passwords) = policy()?;
    let mut made = certificates(options)?;
    let cluster_key: [u8; 32] = rand::random();
    made.push(secret("cluster.key", HEXLOWER.encode(&cluster_key) + "\n"));
    made.push(public("musterd.toml", musterd_toml(options)));
    made.push(secret("policy.toml", policy));
    let mut users = Vec::new();
    for (user, password) in passwords {
        made.push(secret(format!("passwords/{user}"), password.expose_secret().to_owned() + "\n"));
        if user.starts_with("node-") {
            made.push(public(format!("agents/{user}.toml"), agent_toml(options, &user)));
        }
        users.push(user);
    }
    made.push(public("muster.toml", operator_toml(options)));
    for directory in [Path::new(""), Path::new("passwords"), Path::new("agents")] {
        make_directory(&options.dir.join(directory))?;
    }
    for file in &made {
        write(&options.dir.join(&file.path), file)?;
    }
    Ok(InitReport { dir: options.dir.clone(), files: made.into_iter().map(|file| file.path).collect(), users })
}

fn check(options: &InitOptions) -> Result<(), InitError> {
    for (option, text) in [("name", &options.name), ("cluster", &options.cluster)] {
        if BrokerName::parse(text).is_err() {
            return Err(InitError::Name { option, text: text.clone() });
        }
    }
    if options.addresses.is_empty() {
        return Err(InitError::Address(String::new()));
    }
    options.addresses.iter().try_for_each(|host| dialled(host, 1).map(|_| ()))
}

/// An address as clients dial it, `HOST:PORT` or `[IPV6]:PORT`.
fn dialled(host: &str, port: u16) -> Result<String, InitError> {
    let text = match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    };
    let fits = text.parse::<Address>().is_ok_and(|address| address.port() == port) && !host.contains(':');
    if fits || host.parse::<IpAddr>().is_ok() { Ok(text) } else { Err(InitError::Address(host.to_owned())) }
}

fn refuse_content(dir: &Path) -> Result<(), InitError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(InitError::Write { path: dir.to_owned(), cause }),
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    if names.len() > SHOWN {
        names.truncate(SHOWN);
        names.push("…".into());
    }
    Err(InitError::NotEmpty { dir: dir.to_owned(), names: names.join(", ") })
}

/// The policy with the hashes of new passwords, and these by user.
fn policy() -> Result<(String, Vec<(String, SecretString)>), InitError> {
    const MARK: &str = "{password ";
    let (mut text, mut rest, mut passwords) = (String::new(), POLICY, Vec::new());
    while let Some((before, user, after)) =
        rest.split_once(MARK).and_then(|(before, rest)| rest.split_once('}').map(|(user, after)| (before, user, after)))
    {
        let random: [u8; 24] = rand::random();
        let password = SecretString::from(BASE64URL_NOPAD.encode(&random));
        text.push_str(before);
        text.push_str(&passwd::hash(&password)?);
        passwords.push((user.to_owned(), password));
        rest = after;
    }
    text.push_str(rest);
    Ok((text, passwords))
}

fn certificates(options: &InitOptions) -> Result<Vec<Made>, InitError> {
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut ca = valid_for(CertificateParams::new(Vec::new())?, CA_YEARS);
    ca.distinguished_name.push(DnType::CommonName, format!("Muster CA of {}", options.cluster));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key_pem = ca_key.serialize_pem();
    let ca = CertifiedIssuer::self_signed(ca, ca_key)?;

    let broker_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let identity = format!("{}.{}.muster", options.name, options.cluster);
    let mut names = vec![identity.clone()];
    names.extend(options.addresses.iter().cloned());
    let mut broker = valid_for(CertificateParams::new(names)?, BROKER_YEARS);
    broker.distinguished_name.push(DnType::CommonName, identity);
    broker.is_ca = IsCa::ExplicitNoCa;
    broker.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Both: on a link a broker is the client too.
    broker.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    broker.use_authority_key_identifier_extension = true;
    let broker = broker.signed_by(&broker_key, &ca)?;
    Ok(vec![
        public("ca.pem", ca.pem()),
        secret("ca.key", ca_key_pem),
        public("broker.pem", broker.pem()),
        secret("broker.key", broker_key.serialize_pem()),
    ])
}

/// From yesterday, for clocks that are behind, for so many years; with a random serial number and a name to be filled in.
fn valid_for(mut params: CertificateParams, years: i16) -> CertificateParams {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = date(today.yesterday().unwrap_or(today));
    params.not_after = date(today.saturating_add(jiff::Span::new().years(years)));
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and of full length
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

fn musterd_toml(options: &InitOptions) -> String {
    let InitOptions { name, cluster, listen, .. } = options;
    format!(
        "# Made by `musterd init`. Whatever is not here has its default; conf/musterd.toml shows all settings.\n\
         # Relative paths are taken from the directory of this file.\n\
         policy = \"policy.toml\"\n\
         cluster-key = \"cluster.key\"\n\n\
         [broker]\nname = \"{name}\"\ncluster = \"{cluster}\"\nstate-dir = \"state\"\n\n\
         [listen]\nstomp = [\"{listen}\"]\n\n\
         [tls]\ncertificate = \"broker.pem\"\nkey = \"broker.key\"\nca = \"ca.pem\"\n"
    )
}

/// One broker: its first address is enough, a second one would only be tried in vain.
fn brokers(options: &InitOptions) -> String {
    let first = options.addresses.first().and_then(|host| dialled(host, options.listen.port().max(1)).ok());
    format!("brokers = [\"{}\"]", first.unwrap_or_default())
}

fn agent_toml(options: &InitOptions, user: &str) -> String {
    format!(
        "# An agent that logs in as {user}. Relative paths are taken from the directory of this file.\n\
         {}\nuser = \"{user}\"\npassword-file = \"../passwords/{user}\"\nca = \"../ca.pem\"\n\
         state-dir = \"state/{user}\"\n",
        brokers(options)
    )
}

fn operator_toml(options: &InitOptions) -> String {
    format!(
        "# An operator: alice is in group noc. For bob, who is in noc-acme, and admin change the two lines about the user.\n\
         {}\nuser = \"alice\"\npassword-file = \"passwords/alice\"\nca = \"ca.pem\"\ncollective = \"prod\"\n",
        brokers(options)
    )
}

fn public(path: impl Into<PathBuf>, text: String) -> Made {
    Made { path: path.into(), text: text.into(), secret: false }
}

fn secret(path: impl Into<PathBuf>, text: String) -> Made {
    Made { path: path.into(), text: text.into(), secret: true }
}

fn make_directory(path: &Path) -> Result<(), InitError> {
    let failed = |cause| InitError::Write { path: path.to_owned(), cause };
    // Recursive: it may be there, and empty, with rights that its owner chose.
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
}

fn write(path: &Path, made: &Made) -> Result<(), InitError> {
    let failed = |cause| InitError::Write { path: path.to_owned(), cause };
    let mode = if made.secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(made.text.expose_secret().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests;

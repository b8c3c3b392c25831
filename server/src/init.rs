//! How does a cluster begin? CA, certificates, keys, configurations and a policy with first users, in one new directory.
//!
//! One broker alone has the directory for itself. Of several each has a folder in it, complete for its machine, beside what
//! they share.

mod brokers;
mod certificates;
mod report;
mod texts;

pub use brokers::{BrokerOption, BrokerOptionError, Topology};
pub use report::{InitReport, MadeBroker};

use crate::broker::access::{Kind, Policy, PolicyError};
use crate::passwd::PasswordError;
use brokers::Seat;
use certificates::Certified;
use data_encoding::HEXLOWER;
use muster_protocol::message::BrokerName;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names in an error about a directory that is not empty.
const SHOWN: usize = 5;

/// What `musterd init` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct InitOptions {
    /// Where to make it: a directory that does not exist yet, or is empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The name of a broker alone, a DNS label
    #[arg(long, default_value = "noc1")]
    pub name: String,
    /// The cluster's name, a DNS label
    #[arg(long, default_value = "demo")]
    pub cluster: String,
    /// A host name or IP address that agents and operators reach a broker alone by; repeat it for more
    #[arg(long = "address", value_name = "HOST", default_values = ["127.0.0.1", "localhost"])]
    pub addresses: Vec<String>,
    /// Where a broker alone listens for STOMP over TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:61614")]
    pub listen: SocketAddr,
    /// Where a broker alone listens for the HTTP API
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8161")]
    pub admin: SocketAddr,
    /// A broker of a cluster; repeat it for each, the NOC's first. HOST is what agents, operators and the other brokers
    /// reach it by, 127.0.0.1 unless given; the ports are 61614, 61617 and (for the HTTP API, on its own machine only) 8161, of
    /// further brokers with the same HOST 10 more each
    #[arg(
        long = "broker",
        value_name = "NAME[=HOST[:STOMPPORT[:LINKPORT[:ADMINPORT]]]]",
        conflicts_with_all = ["name", "addresses", "listen", "admin"]
    )]
    pub brokers: Vec<BrokerOption>,
    /// Which brokers are linked; of two the later one dials
    #[arg(long, value_enum, default_value_t, requires = "brokers")]
    pub topology: Topology,
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
            admin: SocketAddr::from(([127, 0, 0, 1], 8161)),
            brokers: Vec::new(),
            topology: Topology::default(),
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
    /// A name stands twice.
    #[error("--broker {0}: stands twice; give each broker a name of its own")]
    Twice(BrokerName),
    /// A name is that of a folder for something else.
    #[error("--broker {0}: the folder `{0}` is for something else; give the broker another name")]
    Folder(BrokerName),
    /// Two brokers, or both ports of one, would listen at the same place.
    #[error("--broker {broker}: port {port} of its host is taken already; give another one")]
    Port {
        /// The second of the two.
        broker: BrokerName,
        /// Which port.
        port: u16,
    },
    /// So many brokers with one host that no port is left.
    #[error("--broker {0}: no port is left for it; give its ports, or another host")]
    NoPort(BrokerName),
    /// The policy would not be taken, such as for too many brokers.
    #[error("the policy of such a cluster would be refused: {0}")]
    Policy(#[from] PolicyError),
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

/// A file to be written, relative to the directory.
struct Made {
    path: PathBuf,
    /// Bytes that are wiped when they are dropped.
    text: SecretString,
    secret: bool,
}

/// Makes a cluster. Everything is computed first, so that a mistake leaves nothing behind; nothing that exists is
/// overwritten.
pub fn init(options: &InitOptions) -> Result<InitReport, InitError> {
    let cluster = &options.cluster;
    if BrokerName::parse(cluster).is_err() {
        return Err(InitError::Name { option: "cluster", text: cluster.clone() });
    }
    let seats = brokers::seats(options)?;
    refuse_content(&options.dir)?;
    let (policy_text, passwords) = texts::policy(&seats)?;
    let policy = Policy::parse(&policy_text)?;
    let (ca, certified) = certificates::make(cluster, &seats)?;
    let shared = Shared {
        ca: ca.certificate,
        cluster_key: (HEXLOWER.encode(&rand::random::<[u8; 32]>()) + "\n").into(),
        policy: policy_text.into(),
    };
    let mut made = vec![secret("ca.key", ca.key)];
    made.extend(shared.copied_to(Path::new("")));
    for (seat, certified) in seats.iter().zip(certified) {
        made.extend(broker_files(cluster, seat, certified));
        // A broker alone has them beside it already.
        if seat.folder != Path::new("") {
            made.extend(shared.copied_to(&seat.folder));
        }
    }
    let mut users = Vec::new();
    for (name, password) in passwords {
        made.push(secret(format!("passwords/{name}"), (password.expose_secret().to_owned() + "\n").into()));
        if let Some(user) = policy.user(&name).filter(|user| user.kind == Kind::Agent) {
            let datacenter = user.facts.get("datacenter").and_then(|name| name.as_str());
            made.push(public(format!("agents/{name}.toml"), texts::agent_toml(&seats, &name, datacenter)));
        }
        users.push(name);
    }
    made.push(public("muster.toml", texts::operator_toml(&seats)));
    write_all(&options.dir, &made)?;
    Ok(InitReport {
        dir: options.dir.clone(),
        files: made.into_iter().map(|file| file.path).collect(),
        users,
        brokers: seats.into_iter().map(MadeBroker::of).collect(),
    })
}

/// What every broker of the cluster has.
struct Shared {
    ca: String,
    cluster_key: SecretString,
    policy: SecretString,
}

impl Shared {
    fn copied_to(&self, folder: &Path) -> [Made; 3] {
        [
            public(folder.join("ca.pem"), self.ca.clone()),
            secret(folder.join("cluster.key"), self.cluster_key.clone()),
            secret(folder.join("policy.toml"), self.policy.clone()),
        ]
    }
}

/// What one broker has alone.
fn broker_files(cluster: &str, seat: &Seat, certified: Certified) -> [Made; 3] {
    [
        public(seat.folder.join("broker.pem"), certified.certificate),
        secret(seat.folder.join("broker.key"), certified.key),
        public(seat.folder.join("musterd.toml"), texts::musterd_toml(cluster, seat)),
    ]
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

fn public(path: impl Into<PathBuf>, text: String) -> Made {
    Made { path: path.into(), text: text.into(), secret: false }
}

fn secret(path: impl Into<PathBuf>, text: SecretString) -> Made {
    Made { path: path.into(), text, secret: true }
}

fn write_all(dir: &Path, made: &[Made]) -> Result<(), InitError> {
    make_directory(dir)?;
    for folder in made.iter().filter_map(|file| file.path.parent()).collect::<BTreeSet<_>>() {
        make_directory(&dir.join(folder))?;
    }
    made.iter().try_for_each(|file| write(&dir.join(&file.path), file))
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

//! Where do the brokers come from? `musterd init` in a temporary folder, with users and passwords for all that connect.

use crate::broker::Broker;
use crate::dialect::Dialect;
use crate::ending::{Ending, Teller};
use crate::options::Options;
use crate::plan::Share;
use crate::population::{Population, customer, session_name, user_name};
use anyhow::{Context, Result, bail};
use muster_tests::cluster::free_address;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::process::Command;

/// The operator that `musterd init` makes: group noc, no scope.
pub(crate) const OPERATOR: &str = "alice";

/// Connections of a broker that are no agent's.
const OTHERS: u32 = 1_024;

/// A cluster on this machine.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: Arc<TempDir>,
    bin: PathBuf,
    teller: Teller,
    brokers: Vec<Broker>,
}

/// Where the programs are, or what to do about those that are not there.
pub(crate) fn programs(options: &Options) -> Result<PathBuf> {
    let folder = match &options.bin {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?.parent().context("this program is in no folder")?.to_owned(),
    };
    for name in ["musterd", "muster"] {
        if !folder.join(name).is_file() {
            bail!(
                "{}: there is no {name}; build it (cargo build --release --workspace --bins), or say --bin DIR",
                folder.display()
            );
        }
    }
    Ok(folder)
}

impl Cluster {
    /// Makes the files; nothing runs yet.
    pub(crate) async fn make(bin: PathBuf, population: &Population, teller: Teller) -> Result<Cluster> {
        let folder = tempfile::Builder::new().prefix("muster-load-").tempdir().context("a temporary folder")?;
        let mut brokers = Vec::new();
        let mut init = Command::new(bin.join("musterd"));
        init.args(["init", "--cluster", "load", "--dir"]).arg(folder.path().join("cluster"));
        for number in 1..=population.brokers {
            let (name, address) = (format!("noc{number}"), free_address());
            let (port, link, admin) = (address.port(), free_address().port(), free_address().port());
            init.arg("--broker").arg(format!("{name}=127.0.0.1:{port}:{link}:{admin}"));
            let home = folder.path().join("cluster").join(&name);
            let config = home.join("musterd.toml");
            let command = vec![bin.join("musterd").into(), "run".into(), "--config".into(), config.into()];
            brokers.push(Broker::new(&name, address, home, command));
        }
        run(&mut init).await?;
        let cluster = Cluster { folder: Arc::new(folder), bin, teller, brokers };
        cluster.configure(population).await?;
        Ok(cluster)
    }

    /// One user for each part of the agents, all with one password, and a collective for streams.
    async fn configure(&self, population: &Population) -> Result<()> {
        let password = self.password();
        fs::write(&password, format!("{:032x}\n", rand::random::<u128>()))?;
        fs::set_permissions(&password, Permissions::from_mode(0o600))?;
        let hash = run(Command::new(self.bin.join("musterd")).arg("passwd").arg("--file").arg(&password)).await?;
        let more = more_policy(population.users, hash.trim());
        for broker in &self.brokers {
            let folder = self.cluster().join(&broker.name);
            let policy = folder.join("policy.toml");
            fs::write(&policy, fs::read_to_string(&policy)? + &more)?;
            let config = folder.join("musterd.toml");
            let mut settings: toml::Table = fs::read_to_string(&config)?.parse()?;
            let agents = population.agents.div_ceil(population.brokers);
            adapt(&mut settings, agents);
            fs::write(&config, settings.to_string())?;
        }
        Ok(())
    }

    /// The same files with another broker, which has the same certificate and takes the same passwords. Nothing runs yet.
    pub(crate) fn beside(&self, broker: Broker) -> Cluster {
        let (folder, bin, teller) = (self.folder.clone(), self.bin.clone(), self.teller.clone());
        Cluster { folder, bin, teller, brokers: vec![broker] }
    }

    /// Certificate and key of the first broker.
    pub(crate) fn certificate(&self) -> [PathBuf; 2] {
        ["broker.pem", "broker.key"].map(|file| self.cluster().join(&self.brokers[0].name).join(file))
    }

    fn cluster(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// Where the password of the agents' users is.
    pub(crate) fn password(&self) -> PathBuf {
        self.cluster().join("passwords/load")
    }

    /// Where the operator's password is.
    pub(crate) fn operator_password(&self) -> PathBuf {
        self.cluster().join("passwords").join(OPERATOR)
    }

    /// The CA of the brokers.
    pub(crate) fn ca(&self) -> PathBuf {
        self.cluster().join("ca.pem")
    }

    /// A folder that is nobody's home.
    pub(crate) fn home(&self) -> &Path {
        self.folder.path()
    }

    /// The operator's settings.
    pub(crate) fn operator_config(&self) -> PathBuf {
        self.cluster().join("muster.toml")
    }

    /// Where `musterd` and `muster` are.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Where the brokers listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.brokers.iter().map(|broker| broker.address).collect()
    }

    /// The processes that run.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.brokers.iter().filter_map(Broker::process).collect()
    }

    /// Starts all brokers, and waits until they listen.
    pub(crate) async fn start(&mut self, ending: &Ending) -> Result<()> {
        for place in 0..self.brokers.len() {
            self.start_one(place, ending).await?;
        }
        Ok(())
    }

    /// Starts a broker, and waits until it listens.
    pub(crate) async fn start_one(&mut self, place: usize, ending: &Ending) -> Result<()> {
        self.brokers[place].start(self.teller.clone(), ending).await
    }

    /// Kills a broker as `kill -9` does.
    pub(crate) async fn kill(&mut self, place: usize) {
        self.brokers[place].kill().await;
    }

    /// Ends all brokers.
    pub(crate) async fn stop(&mut self) {
        for place in 0..self.brokers.len() {
            self.kill(place).await;
        }
    }
}

/// What stands in the policy beside what `musterd init` wrote.
fn more_policy(users: u32, hash: &str) -> String {
    let mut text = String::from(
        "\n[[collective]]\nname = \"stream\"\ntargeted = false\n\n[groups.bare]\n\n\
         [[acl]]\ndestination = \"/topic/stream.>\"\nread = [\"noc\", \"bare\"]\nwrite = [\"noc\"]\n",
    );
    for user in 0..users {
        let _ = write!(
            text,
            "\n[users.{}]\nkind = \"agent\"\npassword = \"{hash}\"\ngroups = [\"agents\"]\nfacts = {{ customer = \"{}\" }}\n",
            user_name(user),
            customer(user)
        );
        let bare = session_name(user);
        let _ = write!(text, "\n[users.{bare}]\nkind = \"service\"\npassword = \"{hash}\"\ngroups = [\"bare\"]\n");
    }
    text
}

/// No HTTP API, which nobody asks here, and room for the agents where the default has none.
fn adapt(settings: &mut toml::Table, agents: u32) {
    if let Some(listen) = settings.get_mut("listen").and_then(toml::Value::as_table_mut) {
        listen.insert("admin".into(), toml::Value::Array(Vec::new()));
    }
    const DEFAULT: u32 = 65_536;
    if agents + OTHERS > DEFAULT {
        let limits: toml::Table =
            [("connections".to_owned(), toml::Value::from(i64::from(agents + OTHERS)))].into_iter().collect();
        settings.insert("limits".into(), limits.into());
    }
}

/// Runs a command to its end; what it printed.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let name = format!("{:?}", command.as_std().get_program());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.with_context(|| name.clone())?;
    if !output.status.success() {
        bail!("{name} has ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// For each generator, what it must know.
pub(crate) fn begin(
    cluster: &Cluster,
    population: Population,
    share: Share,
    bare: Option<Dialect>,
    options: &Options,
) -> crate::orders::Begin {
    crate::orders::Begin {
        population,
        share,
        brokers: cluster.addresses(),
        bare,
        ca: cluster.ca(),
        password: cluster.password(),
        reply_bytes: options.reply_bytes,
        reply_delay_ms: options.reply_delay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_changed_only_where_it_must_be() {
        let text = "[listen]\nadmin = [\"127.0.0.1:1\"]\nstomp = [\"127.0.0.1:2\"]\n";
        let mut settings: toml::Table = text.parse().expect("TOML");
        adapt(&mut settings, 20_000);
        assert_eq!(settings.to_string(), "[listen]\nadmin = []\nstomp = [\"127.0.0.1:2\"]\n");
        adapt(&mut settings, 100_000);
        assert_eq!(settings["limits"]["connections"].as_integer(), Some(101_024));
    }
}

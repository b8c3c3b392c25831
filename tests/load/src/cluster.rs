//! Where do the brokers come from? `musterd init` in a temporary folder, real processes, and their end with this one.

use crate::ending::{Ending, Teller};
use crate::options::Options;
use crate::plan::Share;
use crate::population::{Population, customer, user_name};
use anyhow::{Context, Result, bail};
use muster_tests::cluster::free_address;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The operator that `musterd init` makes: group noc, no scope.
pub(crate) const OPERATOR: &str = "alice";

/// How long a broker may take until it listens.
const START: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// Lines of a broker's log that are shown when it ends by itself.
const SHOWN: usize = 10;
/// Connections of a broker that are no agent's.
const OTHERS: u32 = 1_024;

/// A cluster on this machine.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: TempDir,
    bin: PathBuf,
    teller: Teller,
    brokers: Vec<Broker>,
}

/// One broker.
#[derive(Debug)]
struct Broker {
    name: String,
    address: SocketAddr,
    running: Option<Running>,
}

/// A process, watched by a task.
#[derive(Debug)]
struct Running {
    process: u32,
    kill: oneshot::Sender<()>,
    watcher: JoinHandle<()>,
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

/// Becomes `musterd`: a process that ends when the one that started it does, however that ends.
pub(crate) fn become_broker(bin: &Path, config: &Path) -> Result<std::convert::Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let musterd = bin.join("musterd");
    let error = std::process::Command::new(&musterd).arg("run").arg("--config").arg(config).exec();
    Err(error).with_context(|| musterd.display().to_string())
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
            brokers.push(Broker { name, address, running: None });
        }
        run(&mut init).await?;
        let cluster = Cluster { folder, bin, teller, brokers };
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
        self.brokers.iter().filter_map(|broker| Some(broker.running.as_ref()?.process)).collect()
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
        let folder = self.cluster().join(&self.brokers[place].name);
        let log = OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
        let broker = &mut self.brokers[place];
        // From here, where the main thread is: the death signal is that of the thread that started it.
        let child = Command::new(std::env::current_exe()?)
            .arg("--bin")
            .arg(&self.bin)
            .arg("--as-broker")
            .arg(folder.join("musterd.toml"))
            .stdin(Stdio::null())
            .stdout(File::try_clone(&log)?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let process = child.id().context("a broker without a process id")?;
        let (kill, killed) = oneshot::channel();
        let watcher = tokio::spawn(watch(child, killed, broker.name.clone(), folder.join("log"), self.teller.clone()));
        broker.running = Some(Running { process, kill, watcher });
        let listens = async {
            while TcpStream::connect(broker.address).await.is_err() {
                sleep(LOOK).await;
            }
        };
        let in_time = ending.unless(timeout(START, listens)).await?;
        in_time.with_context(|| format!("broker {} does not listen within {} s", broker.name, START.as_secs()))
    }

    /// Kills a broker as `kill -9` does.
    pub(crate) async fn kill(&mut self, place: usize) {
        if let Some(running) = self.brokers[place].running.take() {
            // It may have ended by itself; the watcher has told.
            let _ = running.kill.send(());
            let _ = running.watcher.await;
        }
    }

    /// Ends all brokers.
    pub(crate) async fn stop(&mut self) {
        for place in 0..self.brokers.len() {
            self.kill(place).await;
        }
    }
}

/// Nobody but us ends a broker.
async fn watch(mut child: Child, killed: oneshot::Receiver<()>, name: String, log: PathBuf, teller: Teller) {
    tokio::select! {
        status = child.wait() => {
            let status = status.map_or_else(|error| error.to_string(), |status: ExitStatus| status.to_string());
            teller.tell(format!("broker {name} has ended by itself ({status}); its log ends with:\n{}", tail(&log)));
        }
        _ = killed => drop(child.kill().await),
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

/// What stands in the policy beside what `musterd init` wrote.
fn more_policy(users: u32, hash: &str) -> String {
    let mut text = String::from(
        "\n[[collective]]\nname = \"stream\"\ntargeted = false\n\n\
         [[acl]]\ndestination = \"/topic/stream.>\"\nread = [\"noc\"]\nwrite = [\"noc\"]\n",
    );
    for user in 0..users {
        let _ = write!(
            text,
            "\n[users.{}]\nkind = \"agent\"\npassword = \"{hash}\"\ngroups = [\"agents\"]\nfacts = {{ customer = \"{}\" }}\n",
            user_name(user),
            customer(user)
        );
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
async fn run(command: &mut Command) -> Result<String> {
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
    options: &Options,
) -> crate::orders::Begin {
    crate::orders::Begin {
        population,
        share,
        brokers: cluster.addresses(),
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

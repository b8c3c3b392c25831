//! How does one broker run? As a process that ends with this one, and whose own end is told at once.

use crate::ending::{Ending, Teller};
use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long a broker may take until it listens.
const START: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// Lines of a broker's log that are shown when it ends by itself.
const SHOWN: usize = 10;

/// One broker, running or not.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Program and arguments.
    command: Vec<OsString>,
    /// Where its log is.
    folder: PathBuf,
    running: Option<Running>,
}

/// A process, watched by a task.
#[derive(Debug)]
struct Running {
    process: u32,
    kill: oneshot::Sender<()>,
    watcher: JoinHandle<()>,
}

/// Becomes a broker: a process that ends when the one that started it does, however that ends.
pub(crate) fn become_broker(command: &[OsString]) -> Result<std::convert::Infallible> {
    let (program, arguments) = command.split_first().context("no program")?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| Path::new(program).display().to_string())
}

impl Broker {
    /// Not running yet.
    pub(crate) fn new(name: &str, address: SocketAddr, folder: PathBuf, command: Vec<OsString>) -> Broker {
        Broker { name: name.to_owned(), address, command, folder, running: None }
    }

    /// Its process, if it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        Some(self.running.as_ref()?.process)
    }

    /// Starts it, and waits until it listens.
    pub(crate) async fn start(&mut self, teller: Teller, ending: &Ending) -> Result<()> {
        let path = self.folder.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        // From here, where the main thread is: the death signal is that of the thread that started it.
        let child = Command::new(std::env::current_exe()?)
            .arg("--as-broker")
            .args(&self.command)
            .stdin(Stdio::null())
            .stdout(File::try_clone(&log)?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let process = child.id().context("a broker without a process id")?;
        let (kill, killed) = oneshot::channel();
        let watcher = tokio::spawn(watch(child, killed, self.name.clone(), path, teller));
        self.running = Some(Running { process, kill, watcher });
        let listens = async {
            while TcpStream::connect(self.address).await.is_err() {
                sleep(LOOK).await;
            }
        };
        let in_time = ending.unless(timeout(START, listens)).await?;
        in_time.with_context(|| format!("broker {} does not listen within {} s", self.name, START.as_secs()))
    }

    /// Kills it as `kill -9` does.
    pub(crate) async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            // It may have ended by itself; the watcher has told.
            let _ = running.kill.send(());
            let _ = running.watcher.await;
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

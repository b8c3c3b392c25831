//! How does a test get a real agent? A `muster-agent` process with its own folder, facts and classes.

use crate::process::{Process, binary};
use crate::{Broker, Stomp, policy, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use tempfile::TempDir;

/// A `muster-agent`.
#[derive(Debug)]
pub struct Agent {
    folder: TempDir,
    process: Process,
}

/// An agent's folder: `agent.toml`, password, facts.d, classes.
#[derive(Debug)]
pub struct AgentSetup {
    folder: TempDir,
}

impl AgentSetup {
    /// Of a user of the test policy; `facts` (an object) go to facts.d, `classes` to a file.
    pub fn new(address: SocketAddr, ca: &Path, user: &str, facts: &Value, classes: &[&str]) -> AgentSetup {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        fs::create_dir_all(root.join("facts.d")).expect("facts.d");
        fs::create_dir_all(root.join("classes.d")).expect("classes.d");
        write_private(&root.join("facts.d/test.json"), &facts.to_string());
        write_private(&root.join("classes.d/test"), &format!("{}\n", classes.join("\n")));
        write_private(&root.join("password"), policy::PASSWORD);
        fs::copy(ca, root.join("ca.pem")).expect("the CA");
        let config = format!(
            "brokers = [\"{address}\"]\nuser = \"{user}\"\npassword-file = \"password\"\nca = \"ca.pem\"\nstate-dir = \"state\"\n\n\
             [facts]\ndir = \"facts.d\"\nfacter = \"off\"\n\n[classes]\nfiles = []\ndir = \"classes.d\"\n\n[log]\nlevel = \"debug\"\n"
        );
        write_private(&root.join("agent.toml"), &config);
        AgentSetup { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The brokers that it knows.
    #[must_use]
    pub fn brokers(self, addresses: &[SocketAddr]) -> AgentSetup {
        let path = self.folder().join("agent.toml");
        let text = fs::read_to_string(&path).expect("agent.toml");
        let (_, rest) = text.split_once('\n').expect("lines");
        let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        write_private(&path, &format!("brokers = [{}]\n{rest}", list.join(", ")));
        self
    }

    /// Adds lines to agent.toml.
    #[must_use]
    pub fn config(self, more: &str) -> AgentSetup {
        let path = self.folder().join("agent.toml");
        let text = fs::read_to_string(&path).expect("agent.toml");
        write_private(&path, &format!("{text}\n{more}\n"));
        self
    }

    /// Starts it, and waits for nothing.
    pub fn start(self) -> Agent {
        let process = launch(self.folder());
        Agent { folder: self.folder, process }
    }

    /// Runs it until it ends by itself: exit code and output.
    pub fn run(&self) -> (i32, String) {
        let mut process = launch(self.folder());
        let status = process.wait(crate::LIMIT);
        (status.code().unwrap_or(-1), process.output())
    }
}

fn launch(folder: &Path) -> Process {
    let mut command = Command::new(binary("muster-agent"));
    command.arg("run").arg("--config").arg(folder.join("agent.toml"));
    Process::start("muster-agent", &mut command)
}

/// Writes a file that only its owner reads.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("its mode");
}

impl Agent {
    /// A setup that knows the broker.
    pub fn setup(broker: &Broker, user: &str, facts: &Value, classes: &[&str]) -> AgentSetup {
        AgentSetup::new(broker.address(), &broker.ca(), user, facts, classes)
    }

    /// Starts an agent, and waits until the broker knows its facts.
    pub fn start(broker: &Broker, user: &str, facts: &Value, classes: &[&str]) -> Agent {
        let agent = Agent::setup(broker, user, facts, classes).start();
        agent.until_registered(broker);
        agent
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Its node id, as soon as its status file says it.
    pub fn id(&self) -> String {
        until("the agent's status file names the node", || Some(self.status()?["node"].as_str()?.to_owned()))
    }

    /// The status file; `None` while there is none.
    pub fn status(&self) -> Option<Value> {
        let text = fs::read_to_string(self.status_file()).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Where the status file is.
    pub fn status_file(&self) -> PathBuf {
        self.folder().join("state/status.json")
    }

    /// Waits until the broker knows its facts.
    pub fn until_registered(&self, broker: &Broker) {
        let id = self.id();
        let mut operator = Stomp::operator(broker, "noc");
        until("the agent is registered", || {
            let answer = operator.ask("/muster/node", None, &json!({ "node": id })).ok()?;
            (answer["state"] == "connected").then_some(())
        });
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait(crate::LIMIT)
    }

    /// Starts it again with the same state.
    pub fn start_again(&mut self) {
        assert!(self.process.ended().is_some(), "it still runs");
        self.process = launch(self.folder());
    }
}

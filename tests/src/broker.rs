//! How does a test get a broker? A copy of what `musterd init` made, and a real `musterd`.

pub use crate::made::{init, phc};

use crate::made::Family;
use crate::process::{Process, Said, binary, run};
use crate::{LIMIT, policy, until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use tempfile::TempDir;
use toml::{Table, Value as Setting};

/// A broker that is not started yet: its files can be changed.
#[derive(Debug)]
pub struct Setup {
    name: String,
    folder: TempDir,
    config: Table,
    policy: String,
}

/// A running `musterd`.
#[derive(Debug)]
pub struct Broker {
    name: String,
    folder: TempDir,
    process: Process,
    address: SocketAddr,
    plain: Option<SocketAddr>,
}

impl Setup {
    /// The broker `noc1` without links, on a port of the system's choice, with the test policy.
    pub fn new() -> Setup {
        Setup::of(Family::Ours, "noc1")
    }

    /// A broker of a cluster of the tests, without links, on a port of the system's choice, with the test policy.
    pub fn of(family: Family, name: &str) -> Setup {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = family.copy(name, folder.path());
        let text = fs::read_to_string(folder.path().join("musterd.toml")).expect("musterd.toml");
        // Whatever init wrote as an absolute path belongs to the copy now.
        let text = text.replace(&made.display().to_string(), &folder.path().display().to_string());
        let mut config = text.parse::<Table>().unwrap_or_else(|e| panic!("init's musterd.toml: {e}"));
        config.remove("link");
        let mut setup = Setup { name: name.to_owned(), folder, config, policy: policy::POLICY.to_owned() };
        setup.set("listen.stomp", vec!["127.0.0.1:0"]);
        setup.set("listen.links", Vec::<String>::new());
        setup.set("listen.admin", Vec::<String>::new());
        setup.set("control", "musterd.sock");
        setup.set("log.level", "debug");
        setup
    }

    /// The broker's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a setting of musterd.toml by its dotted name.
    pub fn set(&mut self, name: &str, value: impl Into<Setting>) {
        let mut table = &mut self.config;
        let mut names = name.split('.').peekable();
        while let Some(part) = names.next() {
            if names.peek().is_none() {
                table.insert(part.to_owned(), value.into());
                return;
            }
            let inner = table.entry(part).or_insert_with(|| Setting::Table(Table::new()));
            table = inner.as_table_mut().unwrap_or_else(|| panic!("{part} in {name} is no table"));
        }
    }

    /// As [`Setup::set`], for chains.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Setting>) -> Setup {
        self.set(name, value);
        self
    }

    /// Changes the policy; `{phc}` in it stands for the hash of the test password.
    pub fn set_policy(&mut self, text: &str) {
        text.clone_into(&mut self.policy);
    }

    /// Its policy, with `{phc}` for the hash of the test password.
    pub fn policy_text(&self) -> &str {
        &self.policy
    }

    /// Another policy; `{phc}` in it stands for the hash of the test password.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Setup {
        self.policy = text.to_owned();
        self
    }

    /// With the HTTP API, on a port of the system's choice.
    #[must_use]
    pub fn with_api(self) -> Setup {
        self.with("listen.admin", vec!["127.0.0.1:0"])
    }

    /// The folder with everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes musterd.toml and policy.toml.
    pub fn write(&self) {
        fs::write(self.folder().join("musterd.toml"), self.config.to_string()).expect("musterd.toml");
        write_policy(self.folder(), &self.policy);
    }

    /// Starts the broker and waits until it listens.
    pub fn start(self) -> Broker {
        self.write();
        let (process, addresses) = launch(self.folder()).unwrap_or_else(|why| panic!("{why}"));
        self.running(process, &addresses)
    }

    /// As [`Setup::start`]; gives the setup back if an address is in use already.
    pub fn start_unless_in_use(self) -> Result<Broker, Setup> {
        self.write();
        match launch(self.folder()) {
            Ok((process, addresses)) => Ok(self.running(process, &addresses)),
            Err(why) if why.contains("in use") => Err(self),
            Err(why) => panic!("{why}"),
        }
    }

    fn running(self, process: Process, addresses: &[SocketAddr]) -> Broker {
        let plain = addresses.get(1).copied();
        Broker { name: self.name, folder: self.folder, process, address: addresses[0], plain }
    }

    /// `musterd check` of these files.
    pub fn check(&self) -> Said {
        self.write();
        check(self.folder())
    }

    /// `musterd run` of these files, which must end by itself.
    pub fn run(&self) -> Said {
        self.write();
        let config = self.folder().join("musterd.toml");
        let mut process =
            Process::start("musterd", Command::new(binary("musterd")).arg("run").arg("--config").arg(config));
        let status = process.wait(LIMIT);
        Said { code: status.code().unwrap_or(-1), stdout: String::new(), stderr: process.output() }
    }
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::new()
    }
}

/// `musterd check` of a folder's musterd.toml.
pub fn check(folder: &Path) -> Said {
    run(Command::new(binary("musterd")).arg("check").arg(folder.join("musterd.toml")))
}

fn write_policy(folder: &Path, text: &str) {
    let path = folder.join("policy.toml");
    // In one step: a reload must never see half a policy.
    let fresh = folder.join("policy.toml.new");
    fs::write(&fresh, text.replace("{phc}", phc())).expect("the policy");
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).expect("its mode");
    fs::rename(&fresh, &path).expect("the policy");
}

/// Starts it and waits until it listens; what it said if it ends.
fn launch(folder: &Path) -> Result<(Process, Vec<SocketAddr>), String> {
    let config = folder.join("musterd.toml");
    let mut process =
        Process::start("musterd", Command::new(binary("musterd")).arg("run").arg("--config").arg(&config));
    let control = control_socket(folder);
    let status = until("the broker answers on its control socket", || match process.ended() {
        Some(status) => {
            process.wait(LIMIT);
            Some(Err(format!("musterd has ended with {status}:\n{}", process.output())))
        }
        None => ask_control(&control, "status").map(Ok),
    })?;
    let addresses = status["ok"]["addresses"].as_array().cloned().unwrap_or_default();
    let addresses = addresses.iter().map(|a| a.as_str().and_then(|a| a.parse().ok()).expect("an address")).collect();
    Ok((process, addresses))
}

fn control_socket(folder: &Path) -> PathBuf {
    let text = fs::read_to_string(folder.join("musterd.toml")).expect("musterd.toml");
    let config = text.parse::<Table>().expect("musterd.toml is TOML");
    folder.join(config.get("control").and_then(Setting::as_str).expect("`control` in musterd.toml"))
}

/// One exchange on the control socket; `None` while nobody answers.
fn ask_control(socket: &Path, command: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.write_all(format!("\"{command}\"\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

impl Broker {
    /// A broker with the test policy.
    pub fn start() -> Broker {
        Setup::new().start()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it speaks STOMP over TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it speaks plain STOMP, if that is on.
    pub fn plain(&self) -> SocketAddr {
        self.plain.expect("listen.plain is set")
    }

    /// Where its HTTP API is.
    pub fn admin(&self) -> SocketAddr {
        let addresses = &self.status()["admin_addresses"];
        let address = addresses[0].as_str().and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("listen.admin is not set: {addresses}"))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The CA that its certificate comes from.
    pub fn ca(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Replaces the policy file; `{phc}` stands for the hash of the test password. It holds once it is reloaded.
    pub fn write_policy(&self, text: &str) {
        write_policy(self.folder(), text);
    }

    /// Another policy, loaded by `musterd ctl reload`.
    pub fn reload(&self, text: &str) {
        self.write_policy(text);
        let said = self.ctl("reload");
        assert_eq!(said.code, 0, "{said:?}");
    }

    /// `musterd ctl COMMAND`, such as `link down dc1`.
    pub fn ctl(&self, command: &str) -> Said {
        let config = self.folder().join("musterd.toml");
        run(Command::new(binary("musterd")).arg("ctl").arg("--config").arg(config).args(command.split(' ')))
    }

    /// What `musterd ctl status` says.
    pub fn status(&self) -> Value {
        let answer = ask_control(&control_socket(self.folder()), "status").expect("the control socket answers");
        answer["ok"].clone()
    }

    /// A number of the broker's state, such as `sessions` or `counters.stray_replies`.
    pub fn count(&self, name: &str) -> u64 {
        let status = self.status();
        let value = name.split('.').fold(&status["state"], |value, part| &value[part]);
        value.as_u64().unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// What `musterd ctl status` says that somebody should look at.
    pub fn alarms(&self) -> Vec<String> {
        let alarms = self.status()["alarms"].as_array().cloned().unwrap_or_default();
        alarms.iter().filter_map(|alarm| alarm["text"].as_str().map(str::to_owned)).collect()
    }

    /// The generation of the policy in force, such as `1.2`; `None` if it has none.
    pub fn generation(&self) -> Option<String> {
        self.status()["state"]["policy"]["generation"].as_str().map(str::to_owned)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait(LIMIT)
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Whether somebody answers on its control socket.
    pub fn answers(&self) -> bool {
        ask_control(&control_socket(self.folder()), "status").is_some()
    }

    /// Ends it; its files, to be started anew.
    pub fn into_setup(mut self) -> Setup {
        self.process.kill();
        let read = |name| fs::read_to_string(self.folder.path().join(name)).expect("a file of the broker");
        let config = read("musterd.toml").parse().expect("musterd.toml is TOML");
        let policy = read("policy.toml");
        Setup { name: self.name, folder: self.folder, config, policy }
    }

    /// Starts it again, on the same port, after it has ended.
    pub fn start_again(&mut self) {
        assert!(self.process.ended().is_some(), "it still runs");
        let path = self.folder().join("musterd.toml");
        let text = fs::read_to_string(&path).expect("musterd.toml");
        let mut config = text.parse::<Table>().expect("musterd.toml is TOML");
        let listen = config.get_mut("listen").and_then(Setting::as_table_mut).expect("[listen]");
        listen.insert("stomp".into(), Setting::from(vec![self.address.to_string()]));
        fs::write(&path, config.to_string()).expect("musterd.toml");
        let (process, _) = launch(self.folder()).unwrap_or_else(|why| panic!("{why}"));
        self.process = process;
    }

    /// A good client gets in and is answered: the broker has survived.
    pub fn assert_serves(&self) {
        let mut operator = crate::Stomp::operator(self, "noc");
        operator.find("all");
    }
}

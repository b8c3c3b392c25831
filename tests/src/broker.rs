//! How does a test get a broker? `musterd init` once for all tests, a copy of what it made for each, and a real `musterd`.

use crate::process::{Process, Said, binary, run};
use crate::{LIMIT, policy, until};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use tempfile::TempDir;
use toml::{Table, Value as Setting};

/// The name of every broker of the tests.
const NAME: &str = "noc1";

/// A broker that is not started yet: its files can be changed.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    config: Table,
    policy: String,
}

/// A running `musterd`.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    process: Process,
    address: SocketAddr,
    plain: Option<SocketAddr>,
}

/// What `musterd init` made, in memory: path below its folder, mode, bytes.
struct Made {
    folder: PathBuf,
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
    phc: String,
}

/// Runs the real `musterd init` into a folder.
pub fn init(folder: &Path) -> Said {
    run(Command::new(binary("musterd")).args(["init", "--name", NAME, "--dir"]).arg(folder))
}

/// The PHC string of the password of the test policy.
pub fn phc() -> &'static str {
    &made().phc
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("made");
        let said = init(&folder);
        assert_eq!(said.code, 0, "musterd init: {said:?}");
        let mut files = BTreeMap::new();
        read_all(&folder, &folder, &mut files);
        let password = parent.path().join("password");
        fs::write(&password, policy::PASSWORD).expect("the password file");
        fs::set_permissions(&password, Permissions::from_mode(0o600)).expect("its mode");
        let said = run(Command::new(binary("musterd")).arg("passwd").arg("--file").arg(&password));
        assert_eq!(said.code, 0, "musterd passwd: {said:?}");
        Made { folder, files, phc: said.stdout.trim().to_owned() }
    })
}

fn read_all(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = entry.path();
        if path.is_dir() {
            read_all(root, &path, files);
        } else {
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
            let below = path.strip_prefix(root).expect("below its root").to_owned();
            files.insert(below, (mode, fs::read(&path).expect("a file")));
        }
    }
}

impl Setup {
    /// A fresh copy of what `musterd init` makes, on a port of the system's choice, with the test policy.
    pub fn new() -> Setup {
        let made = made();
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (below, (mode, bytes)) in &made.files {
            let path = folder.path().join(below);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, bytes).expect("a file");
            fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("its mode");
        }
        let text = fs::read_to_string(folder.path().join("musterd.toml")).expect("musterd.toml");
        // Whatever init wrote as an absolute path belongs to the copy now.
        let text = text.replace(&made.folder.display().to_string(), &folder.path().display().to_string());
        let config = text.parse::<Table>().unwrap_or_else(|e| panic!("init's musterd.toml: {e}"));
        let mut setup = Setup { folder, config, policy: policy::POLICY.to_owned() };
        setup.set("listen.stomp", vec!["127.0.0.1:0"]);
        setup.set("control", "musterd.sock");
        setup.set("log.level", "debug");
        setup
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

    /// Another policy; `{phc}` in it stands for the hash of the test password.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Setup {
        self.policy = text.to_owned();
        self
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
        let (process, addresses) = launch(self.folder());
        let plain = addresses.get(1).copied();
        Broker { folder: self.folder, process, address: addresses[0], plain }
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

fn launch(folder: &Path) -> (Process, Vec<SocketAddr>) {
    let config = folder.join("musterd.toml");
    let mut process =
        Process::start("musterd", Command::new(binary("musterd")).arg("run").arg("--config").arg(&config));
    let control = control_socket(folder);
    let status = until("the broker answers on its control socket", || {
        if let Some(status) = process.ended() {
            panic!("musterd has ended with {status}:\n{}", process.output());
        }
        ask_control(&control, "status")
    });
    let addresses = status["ok"]["addresses"].as_array().cloned().unwrap_or_default();
    let addresses = addresses.iter().map(|a| a.as_str().and_then(|a| a.parse().ok()).expect("an address")).collect();
    (process, addresses)
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

    /// Where it speaks STOMP over TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it speaks plain STOMP, if that is on.
    pub fn plain(&self) -> SocketAddr {
        self.plain.expect("listen.plain is set")
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

    /// `musterd ctl COMMAND`.
    pub fn ctl(&self, command: &str) -> Said {
        let config = self.folder().join("musterd.toml");
        run(Command::new(binary("musterd")).arg("ctl").arg("--config").arg(config).arg(command))
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

    /// Starts it again, on the same port, after it has ended.
    pub fn start_again(&mut self) {
        assert!(self.process.ended().is_some(), "it still runs");
        let path = self.folder().join("musterd.toml");
        let text = fs::read_to_string(&path).expect("musterd.toml");
        let mut config = text.parse::<Table>().expect("musterd.toml is TOML");
        let listen = config.get_mut("listen").and_then(Setting::as_table_mut).expect("[listen]");
        listen.insert("stomp".into(), Setting::from(vec![self.address.to_string()]));
        fs::write(&path, config.to_string()).expect("musterd.toml");
        let (process, _) = launch(self.folder());
        self.process = process;
    }

    /// A good client gets in and is answered: the broker has survived.
    pub fn assert_serves(&self) {
        let mut operator = crate::Stomp::operator(self, "noc");
        operator.find("all");
    }
}

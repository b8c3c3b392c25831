//! With whom is Muster compared, are they here, and how are they set up? With the same certificate, users and passwords.

use crate::broker::Broker;
use crate::cluster::{self, Cluster, OPERATOR};
use crate::dialect::Dialect;
use crate::plan;
use crate::population::session_name;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use muster_tests::cluster::free_address;
use serde::Serialize;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// A broker that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// Muster, which all others are compared with: it takes part, asked for or not
    Muster,
    /// nats-server: TLS, and passwords in plain text, the fastest that it has
    Nats,
    /// ActiveMQ: stomp+ssl and simple authentication, nothing on disk
    Activemq,
}

/// Where Debian's package has it.
const ACTIVEMQ_HOME: &str = "/usr/share/activemq";
const ACTIVEMQ: &str = "/usr/share/activemq/bin/activemq.jar";
/// Where Debian's package has it; the PATH of a user does not lead there.
const SBIN: &str = "/usr/sbin";
/// How long a program may take to say its version; Java has to start.
const AT_ONCE: Duration = Duration::from_secs(20);

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Muster => "muster",
            Peer::Nats => "nats",
            Peer::Activemq => "activemq",
        }
    }

    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Peer::Muster | Peer::Activemq => Dialect::Stomp,
            Peer::Nats => Dialect::Nats,
        }
    }

    /// What a session takes of the machine's memory at most, bytes.
    pub(crate) fn session(self) -> u64 {
        match self {
            Peer::Muster | Peer::Nats => plan::AGENT,
            // A Java heap that is not collected until it must be, and a thread for each.
            Peer::Activemq => 512 * 1024,
        }
    }

    /// The version that is installed; an error says what to do about one that is not.
    pub(crate) async fn version(self) -> Result<String> {
        match self {
            Peer::Muster => Ok(format!("musterd {}", env!("CARGO_PKG_VERSION"))),
            Peer::Nats => {
                let program = program("nats-server")
                    .context("there is no nats-server; install it (apt-get install nats-server)")?;
                Ok(said(Command::new(program).arg("--version")).await?.trim().to_owned())
            }
            Peer::Activemq => {
                if !Path::new(ACTIVEMQ).is_file() {
                    bail!("there is no {ACTIVEMQ}; install it (apt-get install activemq)");
                }
                let java =
                    program("java").context("there is no java; install it (apt-get install default-jre-headless)")?;
                program("openssl")
                    .context("there is no openssl, which makes its key store; install it (apt-get install openssl)")?;
                let home = format!("-Dactivemq.home={ACTIVEMQ_HOME}");
                let mut command = Command::new(java);
                let text = said(command.args(["-XX:-UsePerfData", &home, "-jar", ACTIVEMQ, "--version"])).await?;
                // One of the lines that it prints.
                Ok(text.lines().find(|line| line.starts_with("ActiveMQ ")).unwrap_or("ActiveMQ").to_owned())
            }
        }
    }

    /// Beside a cluster of Muster, whose certificate, users and passwords it takes. Nothing runs yet.
    pub(crate) async fn beside(self, cluster: &Cluster, users: u32) -> Result<Cluster> {
        let folder = cluster.home().join(self.name());
        fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| folder.display().to_string())?;
        let setup = Setup { cluster, folder, address: free_address(), users };
        let command = match self {
            // It is what the others are beside of.
            Peer::Muster => bail!("Muster is no peer of its own"),
            Peer::Nats => setup.nats()?,
            Peer::Activemq => setup.activemq().await?,
        };
        Ok(cluster.beside(Broker::new(self.name(), setup.address, setup.folder, command)))
    }
}

/// A peer that is being set up.
struct Setup<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    address: SocketAddr,
    users: u32,
}

impl Setup<'_> {
    fn nats(&self) -> Result<Vec<OsString>> {
        for file in self.cluster.certificate() {
            let name = file.file_name().context("a file without a name")?;
            fs::copy(&file, self.folder.join(name)).with_context(|| file.display().to_string())?;
        }
        let users = self.users(|name, password| format!("    {{ user: \"{name}\", password: \"{password}\" }}\n"))?;
        let text = fill(include_str!("../peers/nats-server.conf"), &self.names(&users));
        let config = self.write("nats-server.conf", &text)?;
        let program = program("nats-server").context("nats-server is gone")?;
        Ok(vec![program.into(), "-c".into(), config.into()])
    }

    async fn activemq(&self) -> Result<Vec<OsString>> {
        let password = format!("{:032x}", rand::random::<u128>());
        let secret = self.write("password", &password)?;
        let [certificate, key] = self.cluster.certificate();
        let mut openssl = Command::new(program("openssl").context("openssl is gone")?);
        openssl.args(["pkcs12", "-export", "-name", "broker", "-in"]).arg(certificate).arg("-inkey").arg(key);
        openssl.arg("-out").arg(self.folder.join("broker.p12")).arg("-passout");
        openssl.arg(OsString::from_iter([OsString::from("file:"), secret.into()]));
        cluster::run(&mut openssl).await?;
        let users = self.users(|name, password| {
            format!("          <authenticationUser username=\"{name}\" password=\"{password}\" groups=\"all\"/>\n")
        })?;
        let mut names = self.names(&users).to_vec();
        names.push(("@PASSWORD@", password));
        let config = self.write("activemq.xml", &fill(include_str!("../peers/activemq.xml"), &names))?;
        self.write("log4j.properties", include_str!("../peers/activemq-log4j.properties"))?;
        let property = |name: &str, value: &Path| format!("-D{name}={}", value.display());
        let mut command = vec![program("java").context("java is gone")?.into()];
        // Room for 10,000 sessions, and threads for those that are busy; the package's own settings are for a small machine.
        let settings = ["-Xms512M", "-XX:MaxRAMPercentage=25", "-XX:-UsePerfData"];
        command.extend(settings.map(OsString::from));
        command.push("-Dorg.apache.activemq.UseDedicatedTaskRunner=false".into());
        command.push(property("activemq.home", Path::new(ACTIVEMQ_HOME)).into());
        for name in ["activemq.base", "activemq.conf", "activemq.classpath", "activemq.data", "java.io.tmpdir"] {
            command.push(property(name, &self.folder).into());
        }
        command.extend(["-jar", ACTIVEMQ, "start"].map(OsString::from));
        command.push(format!("xbean:file:{}", config.display()).into());
        Ok(command)
    }

    /// A line for each user of bare sessions, and for the operator.
    fn users(&self, line: impl Fn(&str, &str) -> String) -> Result<String> {
        let password = |file: PathBuf| fs::read_to_string(&file).with_context(|| file.display().to_string());
        let sessions = password(self.cluster.password())?;
        let mut text = line(OPERATOR, password(self.cluster.operator_password())?.trim_end());
        for user in 0..self.users {
            let _ = write!(text, "{}", line(&session_name(user), sessions.trim_end()));
        }
        Ok(text.trim_end().to_owned())
    }

    fn names(&self, users: &str) -> [(&'static str, String); 3] {
        let folder = self.folder.display().to_string();
        [("@FOLDER@", folder), ("@ADDRESS@", self.address.to_string()), ("@USERS@", users.to_owned())]
    }

    /// For nobody else to read.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }
}

fn fill(template: &str, names: &[(&str, String)]) -> String {
    names.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Where a program is.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([SBIN.into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// What a command prints that says at once what it has to say.
async fn said(command: &mut Command) -> Result<String> {
    let name = Path::new(command.as_std().get_program()).display().to_string();
    timeout(AT_ONCE, cluster::run(command)).await.with_context(|| format!("{name} does not say its version"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_no_names_but_those_that_are_filled_in() {
        let names = ["@FOLDER@", "@ADDRESS@", "@USERS@", "@PASSWORD@"].map(|name| (name, "x".to_owned()));
        for template in [include_str!("../peers/nats-server.conf"), include_str!("../peers/activemq.xml")] {
            // The comment says how names are written.
            let text = fill(template, &names).replace("names between @", "");
            assert!(!text.contains('@'), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_not_here_or_does_not_run_has_no_version() {
        assert_eq!(program("there-is-no-such-broker"), None);
        assert!(program("sh").is_some());
        said(&mut Command::new("there-is-no-such-broker")).await.expect_err("none");
        let error = said(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).await.expect_err("it failed");
        assert!(error.to_string().ends_with("3: no"), "{error}");
    }
}

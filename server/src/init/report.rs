//! What did `musterd init` make, and what comes next?

use super::brokers::Seat;
use std::fmt;
use std::path::{Path, PathBuf};

/// What was made. `Display` lists it, with the commands that come next; nothing in it is secret.
#[derive(Debug, Clone)]
pub struct InitReport {
    /// The directory.
    pub dir: PathBuf,
    /// All files in it, relative, in the order in which they were written.
    pub files: Vec<PathBuf>,
    /// The users of the policy; each one's password is in `passwords/USER`.
    pub users: Vec<String>,
    /// The brokers, in the order in which they were named.
    pub brokers: Vec<MadeBroker>,
}

/// One broker that was made.
#[derive(Debug, Clone)]
pub struct MadeBroker {
    /// Its name.
    pub name: String,
    /// What its machine needs, below the report's directory; empty for a broker alone, which has the directory for itself.
    pub folder: PathBuf,
    /// Where agents and operators, and where brokers reach it, and whom it dials.
    about: String,
}

impl MadeBroker {
    pub(super) fn of(seat: Seat) -> MadeBroker {
        let mut about = format!("clients reach it at {}", seat.stomp);
        if let Some((link, _)) = &seat.link {
            about += &format!(", brokers at {link}");
        }
        if !seat.dials.is_empty() {
            about += &format!("; dials {}", seat.dials.join(", "));
        }
        MadeBroker { name: seat.name, folder: seat.folder, about }
    }
}

impl InitReport {
    /// The configurations of the brokers, in their order.
    pub fn configs(&self) -> impl Iterator<Item = PathBuf> {
        self.brokers.iter().map(|broker| self.dir.join(&broker.folder).join("musterd.toml"))
    }

    /// The file with a user's password.
    pub fn password_file(&self, user: &str) -> PathBuf {
        self.dir.join("passwords").join(user)
    }
}

impl fmt::Display for InitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir.display();
        let alone = self.brokers.iter().all(|broker| broker.folder == Path::new(""));
        writeln!(f, "Made in {dir} (secrets are readable by you alone):")?;
        for (what, name) in if alone { ALONE } else { CLUSTER } {
            writeln!(f, "  {what:<23} {name}")?;
        }
        for broker in &self.brokers {
            if !alone {
                let what = format!("{}/", broker.name);
                writeln!(f, "  {what:<23} all that the machine of this broker needs; {}", broker.about)?;
            }
        }
        writeln!(f, "Users: {}", self.users.join(", "))?;
        writeln!(f, "Next{}:", if alone { "" } else { " (a broker may have its folder on another machine)" })?;
        for config in self.configs() {
            writeln!(f, "  musterd run --config {}", config.display())?;
        }
        writeln!(f, "  muster-agent run --config {dir}/agents/node-a-acme.toml")?;
        write!(f, "  muster --config {dir}/muster.toml find --all")
    }
}

const CA: (&str, &str) =
    ("ca.pem, ca.key", "the cluster's CA; keep ca.key off the brokers once all certificates are made");
const KEY: (&str, &str) = ("cluster.key", "the secret that the brokers of the cluster share");
const PASSWORDS: (&str, &str) = ("passwords/USER", "one new password for each user");
const AGENTS: (&str, &str) = ("agents/USER.toml", "configurations of agents");
const OPERATOR: (&str, &str) = ("muster.toml", "the configuration of an operator");

const ALONE: &[(&str, &str)] = &[
    CA,
    ("broker.pem, broker.key", "this broker's certificate"),
    KEY,
    ("musterd.toml", "the broker's configuration"),
    ("policy.toml", "users, groups and what they may do"),
    PASSWORDS,
    AGENTS,
    OPERATOR,
];

const CLUSTER: &[(&str, &str)] = &[
    CA,
    KEY,
    ("policy.toml", "users, groups, what they may do, and the brokers; each broker has a copy"),
    PASSWORDS,
    AGENTS,
    OPERATOR,
];

//! What is this node? One collection after the other, from all sources, into one document.
//!
//! Sources, the later over the earlier: facter, `facts.d`, the agent's own collectors, `muster.*`. Objects merge member by member.
//! Every fact that changes costs a delta through the whole mesh, so what never stands still is coarse (uptime in days, free memory in steps
//! of ten percent, disk use in steps of five, the time of the collection in whole hours) and facter's own volatile facts are left out.
//! A source that fails does not take the others down: it is named in `muster.facts.failed`.

mod cpu;
mod disks;
mod external;
mod facter;
mod kernel;
mod memory;
mod network;
mod os;
mod system;
mod virtualization;

use crate::classes;
use crate::config::{ClassesConfig, Config, Facter, FactsConfig};
use crate::run::SEARCH_PATH;
use jiff::Timestamp;
use muster_protocol::facts::{Facts, NodeDocument};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How often folders and files are looked at for changes.
const POLL: Duration = Duration::from_secs(2);

/// For all built-in collectors together: they only read /proc and /sys, but a stuck file system can hold even that.
const BUILT_IN_LIMIT: Duration = Duration::from_secs(20);

type Members = Map<String, Value>;
type Collector = fn() -> Result<Members, String>;

/// The agent's own collectors, by the name that stands in `muster.facts.failed`.
const BUILT_IN: &[(&str, Collector)] = &[
    ("os", os::collect),
    ("kernel", kernel::collect),
    ("cpu", cpu::collect),
    ("memory", memory::collect),
    ("disks", disks::collect),
    ("network", network::collect),
    ("virtualization", virtualization::collect),
    ("system", system::collect),
];

/// Where facts come from.
#[derive(Debug, Clone)]
pub struct Sources {
    facts: FactsConfig,
    classes: ClassesConfig,
    modules: BTreeMap<String, String>,
    search_path: OsString,
}

/// One collection.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is published.
    pub document: NodeDocument,
    /// When it was collected.
    pub collected_at: Timestamp,
    /// Sources that failed, and why.
    pub failed: BTreeMap<String, String>,
}

impl Sources {
    /// The sources that a configuration names; `modules` is announced beside the facts.
    pub fn new(config: &Config, modules: BTreeMap<String, String>) -> Sources {
        let search_path = std::env::var_os("PATH").unwrap_or_else(|| SEARCH_PATH.into());
        Sources { facts: config.facts.clone(), classes: config.classes.clone(), modules, search_path }
    }

    /// Another PATH to look for facter on.
    pub fn search_path(mut self, path: impl Into<OsString>) -> Sources {
        self.search_path = path.into();
        self
    }

    /// Collects from all of them, once.
    pub async fn collect(&self) -> Snapshot {
        let collected_at = Timestamp::now();
        let mut failed = BTreeMap::new();
        let own = built_in(&mut failed).await;
        let files = external::collect(&self.facts, &mut failed).await;
        let facter = match self.facts.facter {
            Facter::Auto => facter::collect(&self.search_path, &mut failed).await,
            Facter::Off => Members::new(),
        };
        let classes = classes::collect(&self.classes, &mut failed);
        let (facts, failed) = assemble(facter, files, own, collected_at, self.facts.interval, failed);
        Snapshot { document: NodeDocument { facts, classes, modules: self.modules.clone() }, collected_at, failed }
    }

    /// Collects again and again: on the interval, and when a file of facts or classes changes. Ends when nobody listens any more.
    pub async fn keep(self, snapshots: watch::Sender<Arc<Snapshot>>) {
        loop {
            let seen = self.fingerprint();
            let again = Instant::now() + self.facts.interval;
            while Instant::now() < again && self.fingerprint() == seen {
                tokio::select! {
                    () = sleep(POLL.min(again.saturating_duration_since(Instant::now()))) => {}
                    () = snapshots.closed() => return,
                }
            }
            let snapshot = self.collect().await;
            snapshots.send_replace(Arc::new(snapshot));
        }
    }

    /// Names, times and sizes of all files whose change matters. Folders count through their entries.
    fn fingerprint(&self) -> BTreeSet<(PathBuf, Option<SystemTime>, u64)> {
        let folders = [&self.facts.dir, &self.classes.dir];
        let entries =
            folders.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()));
        entries
            .chain(self.classes.files.iter().cloned())
            .take(10_000)
            .map(|path| {
                let metadata = std::fs::metadata(&path).ok();
                let time = metadata.as_ref().and_then(|m| m.modified().ok());
                (path, time, metadata.map_or(0, |m| m.len()))
            })
            .collect()
    }
}

async fn built_in(failed: &mut BTreeMap<String, String>) -> Members {
    let all =
        tokio::task::spawn_blocking(|| BUILT_IN.iter().map(|(name, collect)| (*name, collect())).collect::<Vec<_>>());
    let mut facts = Value::Object(Members::new());
    match timeout(BUILT_IN_LIMIT, all).await {
        Ok(Ok(all)) => {
            for (name, result) in all {
                match result {
                    Ok(members) => lay_over(&mut facts, Value::Object(members)),
                    Err(text) => drop(failed.insert(name.to_owned(), text)),
                }
            }
        }
        Ok(Err(_)) => drop(failed.insert("built-in".into(), "a collector crashed; the agent's log says more".into())),
        Err(_) => drop(failed.insert("built-in".into(), format!("took longer than {} s", BUILT_IN_LIMIT.as_secs()))),
    }
    members_of(facts)
}

/// Lays the sources over each other. What passes the limits of a document loses its outer sources, biggest stranger first.
fn assemble(
    facter: Members,
    files: Members,
    own: Members,
    at: Timestamp,
    interval: Duration,
    mut failed: BTreeMap<String, String>,
) -> (Facts, BTreeMap<String, String>) {
    let mut sources = vec![("facter", facter), ("facts.d", files), ("built-in", own)];
    loop {
        let mut facts = Value::Object(Members::new());
        for (_, members) in &sources {
            lay_over(&mut facts, Value::Object(members.clone()));
        }
        // `muster` is the agent's own name: what others put there goes.
        if let Value::Object(members) = &mut facts {
            members.remove("muster");
        }
        lay_over(&mut facts, muster(at, interval, &failed));
        match Facts::from_value(facts) {
            Ok(facts) => return (facts, failed),
            Err(error) if !sources.is_empty() => {
                let (name, _) = sources.remove(0);
                failed.insert(name.to_owned(), format!("left out: {error}"));
            }
            Err(_) => return (Facts::default(), failed),
        }
    }
}

fn muster(at: Timestamp, interval: Duration, failed: &BTreeMap<String, String>) -> Value {
    let hour = at.as_second() - at.as_second().rem_euclid(3600);
    let errors: Members =
        failed.iter().take(32).map(|(name, text)| (short(name, 128), Value::String(short(text, 256)))).collect();
    json!({ "muster": {
        "agent": { "version": env!("CARGO_PKG_VERSION") },
        "facts": {
            "collected_at": hour,
            "interval": interval.as_secs(),
            "healthy": failed.is_empty(),
            "failed": errors,
        },
    } })
}

/// Objects merge member by member, anything else is replaced.
fn lay_over(facts: &mut Value, over: Value) {
    match (facts, over) {
        (Value::Object(members), Value::Object(over)) => {
            for (name, value) in over {
                match members.get_mut(&name) {
                    Some(member) => lay_over(member, value),
                    None => drop(members.insert(name, value)),
                }
            }
        }
        (facts, over) => *facts = over,
    }
}

fn members_of(value: Value) -> Members {
    match value {
        Value::Object(members) => members,
        _ => Members::new(),
    }
}

fn short(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// The content of a small system file, trimmed; `None` if it is not there or empty.
fn line_of(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim().trim_matches('\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests;

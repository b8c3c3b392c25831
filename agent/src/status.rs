//! How is the agent doing? `status.json` in the state folder, replaced whole at each change.

use crate::whole::{self, Durable};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Name of the file in the state folder.
pub const FILE: &str = "status.json";

/// What the agent is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not yet at its first broker.
    Starting,
    /// Dialling and logging in.
    Connecting,
    /// Logged in; requests are taken.
    Connected,
    /// Until the next try.
    Waiting,
    /// Told to stop; running actions end.
    Stopping,
    /// Ended on purpose.
    Stopped,
}

/// The content of the file. Holds no secret.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What the agent is at.
    pub state: State,
    /// In this state since.
    pub since: Timestamp,
    /// The node's id.
    pub node: String,
    /// The agent's version.
    pub version: &'static str,
    /// Its process.
    pub pid: u32,
    /// The broker that it is at, or tries: its address, and its name once it said so.
    pub broker: Option<String>,
    /// Its collective there.
    pub collective: Option<String>,
    /// Its last failure, kept after a success.
    pub last_error: Option<LastError>,
    /// When it tries again.
    pub next_try: Option<Timestamp>,
    /// Its session number.
    pub session: Option<u64>,
    /// When facts were last collected, and which collectors failed, with the reason.
    pub facts: FactsReport,
    /// Requests by what became of them (`received`, `ignored-…`, the terminal states), connections and failed tries.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A failure.
#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What, where, and what to do.
    pub text: String,
}

/// The state of the facts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FactsReport {
    /// When they were last collected.
    pub collected_at: Option<Timestamp>,
    /// When the broker last confirmed them.
    pub registered_at: Option<Timestamp>,
    /// Failed collectors and why.
    pub failed: BTreeMap<String, String>,
}

/// The report and its file.
#[derive(Debug)]
pub struct Status {
    file: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    report: Report,
    /// Said once in the log, not at each change.
    unwritable: bool,
}

impl Status {
    /// A status that begins as `starting`.
    pub fn new(state_dir: &Path, node: String) -> Status {
        let report = Report {
            state: State::Starting,
            since: Timestamp::now(),
            node,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            broker: None,
            collective: None,
            last_error: None,
            next_try: None,
            session: None,
            facts: FactsReport::default(),
            counts: BTreeMap::new(),
        };
        let status = Status { file: state_dir.join(FILE), inner: Mutex::new(Inner { report, unwritable: false }) };
        status.change(|_| {});
        status
    }

    /// Changes the report and writes the file.
    pub fn change(&self, change: impl FnOnce(&mut Report)) {
        // A panic while it was held left a report that is whole all the same: plain values.
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut inner.report);
        let text = serde_json::to_vec_pretty(&inner.report).unwrap_or_default();
        match whole::replace(&self.file, &text, Durable::No) {
            Ok(()) => inner.unwritable = false,
            Err(error) if !inner.unwritable => {
                inner.unwritable = true;
                tracing::warn!(file = %self.file.display(), %error, "the status file cannot be written");
            }
            Err(_) => {}
        }
    }

    /// Moves to a state.
    pub fn enter(&self, state: State) {
        self.change(|report| report.enter(state));
    }

    /// Notes a failure.
    pub fn failed(&self, text: &str) {
        self.change(|report| report.failed(text));
    }

    /// Counts one.
    pub fn count(&self, what: &'static str) {
        self.change(|report| report.count(what));
    }

    /// Until when the agent waits.
    pub fn waiting(&self, wait: Duration) {
        self.change(|report| {
            report.enter(State::Waiting);
            report.broker = None;
            report.next_try = Timestamp::now().checked_add(wait).ok();
        });
    }

    /// A copy of the report.
    pub fn report(&self) -> Report {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner).report.clone()
    }
}

impl Report {
    /// Moves to a state.
    pub fn enter(&mut self, state: State) {
        if self.state != state {
            self.since = Timestamp::now();
        }
        self.state = state;
        self.next_try = None;
    }

    /// Notes a failure.
    pub fn failed(&mut self, text: &str) {
        self.last_error = Some(LastError { at: Timestamp::now(), text: text.to_owned() });
    }

    /// Counts one.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_whole_at_each_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let status = Status::new(dir.path(), "n-x".into());
        let read = || -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(dir.path().join(FILE)).expect("there")).expect("JSON")
        };
        assert_eq!(read()["state"], "starting");
        status.failed("noc1: refused");
        status.waiting(Duration::from_secs(3));
        status.count("duplicate");
        status.count("duplicate");
        let now = read();
        assert_eq!(now["state"], "waiting");
        assert_eq!(now["last_error"]["text"], "noc1: refused");
        assert_eq!(now["counts"]["duplicate"], 2);
        assert!(now["next_try"].is_string());
        status.enter(State::Connected);
        assert!(read()["next_try"].is_null() && read()["last_error"].is_object());
    }
}

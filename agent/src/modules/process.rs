//! Which processes are there, and how are they told something? Module `process`, straight from /proc.

use super::{Answer, Arguments, Context, Failure, Module, Running, action, input, manifest, required, text};
use muster_protocol::manifest::{Impact, InputKind, Manifest};
use regex::RegexBuilder;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;

const SIGNALS: &[(&str, Signal)] = &[
    ("TERM", Signal::TERM),
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("STOP", Signal::STOP),
    ("CONT", Signal::CONT),
];

/// Processes in an answer, unless told and at most.
const DEFAULT_LIMIT: i64 = 100;
const MOST: i64 = 2000;
/// Characters of a command line that are shown.
const COMMAND: usize = 256;

/// Module `process`.
#[derive(Debug)]
pub(super) struct Process {
    manifest: Manifest,
}

/// One process, as /proc has it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) pid: u32,
    /// The kernel's name for it, at most 15 bytes.
    pub(super) name: String,
    /// File name of its program, if that may be seen.
    pub(super) program: Option<String>,
    pub(super) state: char,
    uid: u32,
    resident: u64,
    /// In ticks; Linux has 100 a second for user space everywhere.
    ticks: u64,
}

impl Process {
    pub(super) fn new() -> Process {
        let name = input(InputKind::Text, "regular expression that the name must match");
        let limit =
            input(InputKind::Integer, "most processes, 1 to 2000; 100 unless given, the largest in memory first");
        let full = input(InputKind::Boolean, "also command lines, which may hold secrets");
        let pid = required(input(InputKind::Integer, "process id"));
        let whose = required(input(InputKind::Text, "its name as `list` shows it: both must agree"));
        let signal = input(InputKind::Text, "TERM (unless given), HUP, INT, QUIT, KILL, USR1, USR2, STOP or CONT");
        let manifest = manifest(
            "process",
            "Processes of the node.",
            vec![
                (
                    "list",
                    action(
                        Impact::Read,
                        "Processes and what they use.",
                        vec![("name", name), ("limit", limit), ("full", full)],
                    ),
                ),
                (
                    "signal",
                    action(
                        Impact::Destructive,
                        "Sends a signal to one process.",
                        vec![("pid", pid), ("name", whose), ("signal", signal)],
                    ),
                ),
            ],
        );
        Process { manifest }
    }
}

impl Module for Process {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn run<'a>(&'a self, action: &'a str, arguments: Arguments, _: Context) -> Running<'a> {
        let is_list = action == "list";
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || if is_list { list(&arguments) } else { signal(&arguments) });
            work.await
                .map_err(|_| Failure::of(muster_protocol::request::State::Crashed, "crashed", "the action crashed"))?
        })
    }
}

/// All processes that can be seen.
pub(super) fn all() -> Vec<Entry> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(one).collect()
}

fn one(pid: u32) -> Option<Entry> {
    use std::os::unix::fs::MetadataExt;
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name stands in brackets and may hold any character, brackets included.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let fields: Vec<&str> = stat.get(close + 1..)?.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    Some(Entry {
        pid,
        name: stat.get(open + 1..close)?.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        program: program.and_then(|path| Some(path.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned())),
        state: fields.first()?.chars().next()?,
        uid: fs::metadata(format!("/proc/{pid}")).ok()?.uid(),
        resident: number(21).saturating_mul(rustix::param::page_size() as u64),
        ticks: number(11) + number(12),
    })
}

fn list(arguments: &Arguments) -> Answer {
    let wrong = |text: String| Failure::new("bad-argument", text);
    let limit = arguments.get("limit").and_then(Value::as_i64).unwrap_or(DEFAULT_LIMIT);
    let limit = usize::try_from(limit)
        .ok()
        .filter(|n| (1..=MOST as usize).contains(n))
        .ok_or_else(|| wrong(format!("argument `limit` must be 1 to {MOST}")))?;
    let pattern = match arguments.get("name").and_then(Value::as_str) {
        Some(text) => {
            let built = RegexBuilder::new(text).size_limit(1 << 20).build();
            Some(built.map_err(|_| wrong("argument `name` is not a regular expression, or too large a one".into()))?)
        }
        None => None,
    };
    let full = arguments.get("full").and_then(Value::as_bool).unwrap_or(false);
    let mut found = all();
    found.retain(|process| pattern.as_ref().is_none_or(|pattern| pattern.is_match(&process.name)));
    found.sort_by(|a, b| b.resident.cmp(&a.resident).then(a.pid.cmp(&b.pid)));
    let users = users();
    let processes: Vec<Value> = found
        .iter()
        .take(limit)
        .map(|process| {
            let user = users.get(&process.uid).cloned().unwrap_or_else(|| process.uid.to_string());
            let mut shown = json!({
                "pid": process.pid, "name": process.name, "user": user, "state": process.state.to_string(),
                "memory_bytes": process.resident, "cpu_seconds": process.ticks / 100,
            });
            if full {
                shown["command"] = command(process.pid).into();
            }
            shown
        })
        .collect();
    Ok(json!({ "count": found.len(), "processes": processes }))
}

fn command(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let mut shown: String = text.trim().chars().take(COMMAND).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.trim().chars().nth(COMMAND).is_some() {
        shown.push('…');
    }
    shown
}

fn users() -> HashMap<u32, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect()
}

fn signal(arguments: &Arguments) -> Answer {
    let wrong = |text: &str| Failure::new("bad-argument", text);
    let number = arguments.get("pid").and_then(Value::as_i64).unwrap_or(0);
    let number = i32::try_from(number)
        .ok()
        .filter(|pid| *pid > 1)
        .ok_or_else(|| wrong("argument `pid` must be a process id above 1"))?;
    if number.unsigned_abs() == std::process::id() {
        return Err(wrong("argument `pid` is the agent's own; stop the agent through its service manager"));
    }
    let wanted = match text(arguments, "signal") {
        "" => "TERM",
        named => named.strip_prefix("SIG").unwrap_or(named),
    };
    let (name, signal) = SIGNALS
        .iter()
        .find(|(name, _)| *name == wanted)
        .ok_or_else(|| wrong("argument `signal` must be TERM, HUP, INT, QUIT, KILL, USR1, USR2, STOP or CONT"))?;
    let gone = || Failure::new("no-such-process", format!("there is no process {number} of that name"));
    let pid = Pid::from_raw(number).ok_or_else(gone)?;
    // The handle first, the name after: what the signal reaches is what was looked at, even if the number is used again.
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    let process =
        one(number.unsigned_abs()).filter(|process| process.name == text(arguments, "name")).ok_or_else(gone)?;
    pidfd_send_signal(&handle, *signal)
        .map_err(|e| Failure::new("signal-failed", format!("cannot signal {number}: {e}")))?;
    Ok(json!({ "pid": number, "name": process.name, "signal": name }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::tests::object;

    #[test]
    fn the_list_has_this_process_and_command_lines_only_when_asked() {
        let own = fs::read_to_string("/proc/self/comm").expect("a name");
        let pattern = format!("^{}$", regex::escape(own.trim()));
        let told = list(&object(json!({ "name": pattern }))).expect("told");
        let processes = told["processes"].as_array().expect("a list");
        let mine = processes.iter().find(|p| p["pid"] == std::process::id()).expect("this process");
        assert!(mine["memory_bytes"].as_u64().is_some_and(|n| n > 0) && mine.get("command").is_none());
        assert!(
            list(&object(json!({ "name": pattern, "full": true }))).expect("told")["processes"][0]["command"]
                .is_string()
        );
        assert_eq!(list(&object(json!({ "limit": 1 }))).expect("told")["processes"].as_array().map(Vec::len), Some(1));
        assert!(list(&object(json!({ "name": "(" }))).is_err());
        assert!(list(&object(json!({ "limit": 0 }))).is_err());
    }

    #[test]
    fn a_signal_needs_pid_and_name_and_spares_init_and_agent() {
        let mut child = std::process::Command::new("/bin/sleep").arg("600").spawn().expect("it runs");
        let pid = child.id();
        let send =
            |pid: i64, name: &str, signal: &str| signal_code(&json!({ "pid": pid, "name": name, "signal": signal }));
        assert_eq!(send(1, "init", "TERM"), Some("bad-argument"));
        assert_eq!(send(-5, "x", "TERM"), Some("bad-argument"));
        assert_eq!(send(i64::from(std::process::id()), "x", "TERM"), Some("bad-argument"));
        assert_eq!(send(i64::from(pid), "other", "TERM"), Some("no-such-process"));
        assert_eq!(send(i64::from(pid), "sleep", "SEGV"), Some("bad-argument"));
        // Until exec has happened the child still has the name of the test.
        while one(pid).is_some_and(|process| process.name != "sleep") {
            std::thread::yield_now();
        }
        assert_eq!(send(i64::from(pid), "sleep", "SIGTERM"), None);
        assert!(!child.wait().expect("ended").success());
    }

    fn signal_code(arguments: &Value) -> Option<&'static str> {
        signal(&object(arguments.clone())).err().map(|failure| failure.code)
    }
}

//! What is on record about this? Looks through the files of one broker's audit log, the newest line first; the chain is verify's
//! business.

use super::backwards::Backwards;
use super::trail::rotated;
use crate::config::{Config, ConfigError};
use jiff::Timestamp;
use muster_protocol::destination::{Destination, Pattern};
use serde_json::{Map, Value};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of lines in a row that are older than what is asked for, after which the search ends. One older line alone ends nothing: a
/// clock may have been wrong for a while.
const PAST: usize = 1024 * 1024;

/// `musterd audit search`
#[derive(Debug, Clone, clap::Args)]
pub struct SearchOptions {
    /// The broker's configuration: it says where the audit log is
    #[arg(long, value_name = "FILE", default_value = "/etc/muster/musterd.toml")]
    pub config: PathBuf,
    /// Only since then: a time ago (30m, 1h, 7d) or a moment (2027-01-31T18:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub since: Option<When>,
    /// Only from before then, given as for --since
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub until: Option<When>,
    /// Only of this user, or of this caller at another broker
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Only what was decided so
    #[arg(long, value_name = "DECISION", value_parser = DECISIONS)]
    pub decision: Option<String>,
    /// Only what was for a destination that this pattern matches, such as '/topic/prod.>'
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub destination: Option<Pattern>,
    /// Only of this node's sessions, and of requests that name it
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Only about the request of this id
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// Only lines of this event, such as login, request, request-done, policy-loaded; lines of peer-head are shown only so
    #[arg(long, value_name = "EVENT")]
    pub event: Option<String>,
    /// The newest so many of them
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// The lines as they stand in the log
    #[arg(long)]
    pub json: bool,
}

/// Which ways a decision can go.
pub(super) const DECISIONS: [&str; 2] = ["allowed", "denied"];

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long before now.
    Ago(Duration),
    /// That moment.
    At(Timestamp),
}

/// Why nothing was searched.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The configuration is not good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read.
    #[error("{file}: cannot read the audit log: {cause}; are you its user?", file = file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is nothing.
    #[error("{file}: there is no audit log; has the broker run, with audit.enabled?", file = file.display())]
    None {
        /// Where it should be.
        file: PathBuf,
    },
}

/// What must hold for a line.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) user: Option<String>,
    pub(super) decision: Option<String>,
    pub(super) destination: Option<Pattern>,
    pub(super) node: Option<String>,
    pub(super) request: Option<String>,
    pub(super) event: Option<String>,
    /// Its number is lower.
    pub(super) before: Option<u64>,
    /// The newest so many.
    pub(super) limit: usize,
}

/// How much a search may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of lines that are found; one line is always found.
    pub(super) found: usize,
    /// Bytes of files that are read, and a block.
    pub(super) read: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The lines, oldest first, with what they say.
    pub(super) lines: Vec<(String, Map<String, Value>)>,
    /// Lines from before this number may fit too.
    pub(super) next: Option<u64>,
}

/// The lines that are asked for, oldest first, as text with a newline after each.
pub fn search(options: &SearchOptions) -> Result<String, SearchError> {
    let file = Config::load(&options.config)?.audit.file;
    search_log(&file, options, Timestamp::now())
}

pub(super) fn search_log(file: &Path, options: &SearchOptions, now: Timestamp) -> Result<String, SearchError> {
    let at = |when: &When| match *when {
        When::At(at) => at,
        When::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
    };
    let wanted = Wanted {
        since: options.since.as_ref().map(at),
        until: options.until.as_ref().map(at),
        user: options.user.clone(),
        decision: options.decision.clone(),
        destination: options.destination.clone(),
        node: options.node.clone(),
        request: options.request.clone(),
        event: options.event.clone(),
        before: None,
        limit: options.limit as usize,
    };
    let found = find(file, &wanted, Bounds { found: usize::MAX, read: u64::MAX })?;
    let shown = |(line, fields): (String, Map<String, Value>)| if options.json { line } else { told(&fields) };
    Ok(found.lines.into_iter().map(|line| shown(line) + "\n").collect())
}

/// The newest lines that fit, within bounds.
pub(super) fn find(file: &Path, wanted: &Wanted, bounds: Bounds) -> Result<Found, SearchError> {
    let (mut found, mut bytes, mut read, mut past) = (Found::default(), 0, 0, 0);
    let mut last = wanted.before.unwrap_or(u64::MAX);
    let mut files = Files::open(file, wanted.before)?;
    'files: while let Some((path, mut lines)) = files.next()? {
        loop {
            let before = lines.read();
            let line = lines.next_line().map_err(|cause| SearchError::Read { file: path.clone(), cause })?;
            read += lines.read() - before;
            let Some(line) = line else { break };
            let length = line.len();
            if let Some((line, fields)) = fields(line) {
                last = fields.get("n").and_then(Value::as_u64).unwrap_or(last);
                past = if wanted.is_past(&fields) { past + length } else { 0 };
                if past > PAST {
                    break 'files;
                }
                if wanted.fits(&fields) {
                    let is_full = found.lines.len() >= wanted.limit || bytes + length > bounds.found;
                    if is_full && !found.lines.is_empty() {
                        found.next = Some(last.saturating_add(1));
                        break 'files;
                    }
                    bytes += length;
                    found.lines.push((line, fields));
                }
            }
            if read > bounds.read {
                found.next = Some(last);
                break 'files;
            }
        }
    }
    found.lines.reverse();
    Ok(found)
}

/// What a line says; nothing if it is none.
fn fields(line: Vec<u8>) -> Option<(String, Map<String, Value>)> {
    let line = String::from_utf8(line).ok()?;
    let fields = serde_json::from_str(&line).ok()?;
    Some((line, fields))
}

/// The files of a log, the newest first, each opened when it is its turn.
struct Files {
    current: Option<(PathBuf, Backwards)>,
    /// By the numbers of their first lines.
    older: Vec<(u64, PathBuf)>,
    before: Option<u64>,
    /// The current file, which may have been rotated since.
    opened: Option<(u64, u64)>,
}

impl Files {
    fn open(file: &Path, before: Option<u64>) -> Result<Files, SearchError> {
        let unread = |cause| SearchError::Read { file: file.to_owned(), cause };
        // Before the others are looked for: it may become one of them meanwhile, and none must be missed.
        let current = match Backwards::open(file, before) {
            Ok(lines) => Some(lines),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(unread(error)),
        };
        let mut older = rotated(file).map_err(unread)?;
        older.retain(|(first, _)| before.is_none_or(|before| *first < before));
        if current.is_none() && older.is_empty() {
            return Err(SearchError::None { file: file.to_owned() });
        }
        let opened = current.as_ref().and_then(|lines| lines.identity().ok());
        Ok(Files { current: current.map(|lines| (file.to_owned(), lines)), older, before, opened })
    }

    fn next(&mut self) -> Result<Option<(PathBuf, Backwards)>, SearchError> {
        if let Some(current) = self.current.take() {
            return Ok(Some(current));
        }
        while let Some((_, path)) = self.older.pop() {
            match Backwards::open(&path, self.before) {
                Ok(lines) if lines.identity().ok() == self.opened => {}
                Ok(lines) => return Ok(Some((path, lines))),
                // Rotation has removed it meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(cause) => return Err(SearchError::Read { file: path, cause }),
            }
        }
        Ok(None)
    }
}

impl Wanted {
    fn is_past(&self, fields: &Map<String, Value>) -> bool {
        self.since.is_some_and(|since| at(fields).is_some_and(|at| at < since))
    }

    fn fits(&self, fields: &Map<String, Value>) -> bool {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let is =
            |name: &str, wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| text(name) == Some(wanted));
        let goes_to = |pattern: &Pattern| {
            let destination = text("destination").and_then(|name| Destination::parse(name).ok());
            destination.is_some_and(|destination| pattern.matches(&destination))
        };
        let names_node = |node: &String| {
            let narrowed = fields.get("nodes").and_then(Value::as_array);
            text("node") == Some(node) || narrowed.is_some_and(|nodes| nodes.iter().any(|named| named == node))
        };
        let concerns =
            |id: &String| text("request") == Some(id) || text("event") == Some("cancel") && text("about") == Some(id);
        // There are some each minute, and only verify has a use for them, unless something is wrong.
        let is_shown = self.event.is_some() || text("event") != Some("peer-head") || fields.contains_key("fault");
        is_shown
            && is("user", &self.user)
            && is("decision", &self.decision)
            && is("event", &self.event)
            && self.since.is_none_or(|since| at(fields).is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| at(fields).is_some_and(|at| at < until))
            && self.destination.as_ref().is_none_or(goes_to)
            && self.node.as_ref().is_none_or(names_node)
            && self.request.as_ref().is_none_or(concerns)
    }
}

fn at(fields: &Map<String, Value>) -> Option<Timestamp> {
    fields.get("at")?.as_str()?.parse().ok()
}

/// A line for people: time, event, decision, then what else there is. What others chose is shown as text only.
fn told(fields: &Map<String, Value>) -> String {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(clean).unwrap_or_default();
    let mut line = format!("{} {}", text("at"), text("event"));
    if fields.contains_key("decision") {
        line += &format!(" {}", text("decision"));
    }
    for (name, value) in fields {
        match value {
            _ if ["n", "at", "broker", "event", "decision", "prev", "hash"].contains(&name.as_str()) => {}
            Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                line += &format!(" {name}={:?}", clean(text));
            }
            Value::String(text) => line += &format!(" {name}={}", clean(text)),
            value => line += &format!(" {name}={}", clean(&value.to_string())),
        }
    }
    line
}

/// Without control characters, and without marks that reorder or hide text.
fn clean(text: &str) -> String {
    let is_odd = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_odd(c) { '\u{fffd}' } else { c }).collect()
}

pub(super) fn when(text: &str) -> Result<When, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(When::Ago(ago));
    }
    let at = text.parse().map(When::At);
    at.map_err(|_| "write a time ago such as 30m, 1h or 7d, or a moment such as 2027-01-31T18:00:00Z".into())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| format!("{error}; write such as '/topic/prod.>'"))
}

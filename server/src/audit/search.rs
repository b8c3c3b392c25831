//! What is on record about this? Looks through the files of one broker's audit log, line by line; the chain is verify's business.

use super::verify::{Lines, files_of};
use crate::config::{Config, ConfigError};
use jiff::Timestamp;
use muster_protocol::destination::{Destination, Pattern};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `musterd audit search`
#[derive(Debug, Clone, clap::Args)]
pub struct SearchOptions {
    /// The broker's configuration: it says where the audit log is
    #[arg(long, value_name = "FILE", default_value = "/etc/muster/musterd.toml")]
    pub config: PathBuf,
    /// Only since then: a time ago (30m, 1h, 7d) or a moment (2027-01-31T18:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Since>,
    /// Only of this user, or of this caller at another broker
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Only what was decided so
    #[arg(long, value_name = "DECISION", value_parser = ["allowed", "denied"])]
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
    /// Only lines of this event, such as login, request, request-done, policy-loaded
    #[arg(long, value_name = "EVENT")]
    pub event: Option<String>,
    /// The newest so many of them
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// The lines as they stand in the log
    #[arg(long)]
    pub json: bool,
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
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

/// The lines that are asked for, oldest first, as text with a newline after each.
pub fn search(options: &SearchOptions) -> Result<String, SearchError> {
    let file = Config::load(&options.config)?.audit.file;
    search_log(&file, options, Timestamp::now())
}

pub(super) fn search_log(file: &Path, options: &SearchOptions, now: Timestamp) -> Result<String, SearchError> {
    let unread = |file: &Path, cause| SearchError::Read { file: file.to_owned(), cause };
    let from = options.since.map(|since| match since {
        Since::At(at) => at,
        Since::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
    });
    let files = files_of(file).map_err(|cause| unread(file, cause))?;
    if files.is_empty() {
        return Err(SearchError::None { file: file.to_owned() });
    }
    let mut found = VecDeque::new();
    for path in &files {
        let mut lines = Lines::open(path).map_err(|cause| unread(path, cause))?;
        while let Some((line, _)) = lines.next_line().map_err(|cause| unread(path, cause))? {
            let Ok(Value::Object(fields)) = serde_json::from_slice(&line) else { continue };
            if !fits(&fields, options, from) {
                continue;
            }
            found.push_back(if options.json { String::from_utf8_lossy(&line).into_owned() } else { told(&fields) });
            if found.len() > options.limit as usize {
                found.pop_front();
            }
        }
    }
    Ok(found.into_iter().map(|line| line + "\n").collect())
}

fn fits(fields: &Map<String, Value>, options: &SearchOptions, from: Option<Timestamp>) -> bool {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let is = |name: &str, wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| text(name) == Some(wanted));
    let is_late = |from: Timestamp| {
        let at = text("at").and_then(|at| at.parse::<Timestamp>().ok());
        at.is_some_and(|at| at >= from)
    };
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
    from.is_none_or(is_late)
        && is("user", &options.user)
        && is("decision", &options.decision)
        && is("event", &options.event)
        && options.destination.as_ref().is_none_or(goes_to)
        && options.node.as_ref().is_none_or(names_node)
        && options.request.as_ref().is_none_or(concerns)
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

fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let at = text.parse().map(Since::At);
    at.map_err(|_| "write a time ago such as 30m, 1h or 7d, or a moment such as 2027-01-31T18:00:00Z".into())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| format!("{error}; write such as '/topic/prod.>'"))
}

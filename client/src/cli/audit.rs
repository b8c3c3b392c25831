//! `muster audit`: what is on record at the broker that we are connected to? Each broker has a log of its own.

use super::output::Table;
use super::{Context, Failure, Format, text};
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::Args;
use jiff::Timestamp;
use muster_protocol::admin::{AuditAnswer, AuditQuery};
use muster_protocol::destination::Pattern;
use serde_json::{Map, Value, json};

/// `audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only since then: a time ago (30m, 1h, 7d) or a moment (2027-01-31T18:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only from before then, given as for --since
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only of this user, or of this caller at another broker (--user is whom to log in as)
    #[arg(long, value_name = "USER")]
    by: Option<String>,
    /// Only what was denied
    #[arg(long, conflicts_with = "allowed")]
    denied: bool,
    /// Only what was allowed
    #[arg(long)]
    allowed: bool,
    /// Only what was for a destination that this pattern matches, such as '/topic/prod.>'
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::parse)]
    destination: Option<Pattern>,
    /// Only of this node's sessions, and of requests that name it
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only about the request of this id
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Only lines of this event, such as login, request, request-done, policy-loaded; lines of peer-head are shown only so
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,
    /// The newest so many of them, 1 to 100000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Output")]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

impl Audit {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let client = context.client().await?;
        let answer = client.audit_all(self.query(), self.limit as usize).await?;
        let surface = &mut context.surface;
        if self.format.json {
            let document = json!({ "broker": answer.broker, "lines": answer.lines, "more": answer.more });
            surface.out(&(text::pretty_json(&document) + "\n"))?;
        } else if self.format.ndjson {
            let end = json!({ "event": "end", "broker": answer.broker, "more": answer.more });
            let lines = answer.lines.iter().chain([&end]);
            surface.out(&lines.map(|line| text::json(line) + "\n").collect::<String>())?;
        } else {
            surface.out(&table(&answer.lines))?;
            surface.note(&summary(&answer));
        }
        Ok(if answer.lines.is_empty() { EXIT_NONE } else { EXIT_OK })
    }

    fn query(&self) -> AuditQuery {
        let decision = match (self.denied, self.allowed) {
            (true, _) => Some("denied".to_owned()),
            (_, true) => Some("allowed".to_owned()),
            _ => None,
        };
        AuditQuery {
            since: self.since.map(|at| at.to_string()),
            until: self.until.map(|at| at.to_string()),
            user: self.by.clone(),
            decision,
            destination: self.destination.as_ref().map(ToString::to_string),
            node: self.node.clone(),
            request: self.request.clone(),
            event: self.event.clone(),
            before: None,
            limit: None,
        }
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let ago = humantime::parse_duration(text).ok().and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    let at = ago.or_else(|| text.parse().ok());
    at.ok_or_else(|| "write a time ago such as 30m, 1h or 7d, or a moment such as 2027-01-31T18:00:00Z".into())
}

fn summary(answer: &AuditAnswer) -> String {
    let lines = match answer.lines.len() {
        0 => format!("No line of the audit log of {} fits.", answer.broker),
        1 => format!("1 line of the audit log of {}.", answer.broker),
        count => format!("{count} lines of the audit log of {}.", answer.broker),
    };
    let more = if answer.more { " Older lines fit too; --limit shows more." } else { "" };
    text::clean(&format!("{lines}{more}"))
}

/// A row a line: when, what happened, who, which way it went, what it was about, and why.
fn table(lines: &[Value]) -> String {
    let lines: Vec<&Map<String, Value>> = lines.iter().filter_map(Value::as_object).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["TIME", "EVENT", "USER", "DECISION", "WHAT", "REASON"].map(str::to_owned));
    for line in lines {
        let cell = |name: &str| line.get(name).map_or_else(|| "-".into(), text::scalar);
        let reason = or_dash(joined(&["code", "reason", "error", "fault"], ": ", line));
        table.row([cell("at"), cell("event"), cell("user"), cell("decision"), or_dash(what(line)), reason]);
    }
    table.to_string()
}

/// What has a column of its own, what is of the chain, and what is only of use in JSON.
const ELSEWHERE: [&str; 17] = [
    "at", "event", "user", "decision", "code", "reason", "error", "fault", "n", "broker", "prev", "hash", "session",
    "rule", "body", "guards", "brokers",
];

/// Where it went, to which nodes, then whatever else there is by its name.
fn what(line: &Map<String, Value>) -> String {
    const FIRST: [&str; 5] = ["destination", "command", "about", "peer", "target"];
    let mut parts = vec![joined(&FIRST, " ", line)];
    for (name, value) in
        line.iter().filter(|(name, _)| !ELSEWHERE.contains(&name.as_str()) && !FIRST.contains(&name.as_str()))
    {
        parts.push(match (name.as_str(), value) {
            ("states", Value::Object(states)) => states
                .iter()
                .map(|(state, count)| format!("{} {}", text::scalar(count), text::clean(state)))
                .collect::<Vec<_>>()
                .join(", "),
            ("nodes", Value::Array(nodes)) => format!("nodes={}", nodes.len()),
            ("without", Value::Array(brokers)) => {
                format!("without {}", brokers.iter().map(text::scalar).collect::<Vec<_>>().join(", "))
            }
            _ => format!("{}={}", text::clean(name), text::scalar(value)),
        });
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

fn joined(names: &[&str], with: &str, line: &Map<String, Value>) -> String {
    names.iter().filter_map(|name| line.get(*name)).map(text::scalar).collect::<Vec<_>>().join(with)
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

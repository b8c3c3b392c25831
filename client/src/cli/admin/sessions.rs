//! `muster admin sessions`, `close`: who is connected to a broker, who was, and how is one of them sent away?

use super::list::List;
use super::shown;
use crate::cli::{Context, Failure, output, text};
use crate::summary::{EXIT_NONE, EXIT_OK};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use muster_protocol::admin::{CloseQuery, ClosedShown, SessionShown, SessionsAnswer, SessionsQuery};
use muster_protocol::message::BrokerName;
use serde::Serialize;
use serde_json::json;
use std::fmt;
use std::str::FromStr;

/// `admin sessions`.
#[derive(Debug, Args)]
pub(crate) struct Sessions {
    /// Only of this user
    #[arg(long = "of", value_name = "USER")]
    of: Option<String>,
    /// Only of this kind of user
    #[arg(long, value_parser = ["agent", "operator", "service"])]
    kind: Option<String>,
    /// Connections that are over, the newest first, instead of those that are open
    #[arg(long)]
    closed: bool,
    /// List the first N
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// `admin close`.
#[derive(Debug, Args)]
pub(crate) struct Close {
    /// Which, as `muster admin sessions` lists it
    #[arg(value_name = "BROKER/NUMBER")]
    session: SessionName,
    /// Why; whoever it is is told
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Print one JSON document
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// A session and its broker: each broker counts its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SessionName {
    broker: BrokerName,
    number: u64,
}

impl FromStr for SessionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<SessionName, &'static str> {
        let wrong = "write BROKER/NUMBER, such as noc1/17";
        let (broker, number) = text.split_once('/').ok_or(wrong)?;
        let broker = BrokerName::parse(broker).map_err(|_| wrong)?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        Ok(SessionName { broker, number: number.parse().ok().filter(|_| digits).ok_or(wrong)? })
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.broker, self.number)
    }
}

impl Sessions {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let client = context.client().await?;
        let query = SessionsQuery {
            user: self.of.clone(),
            kind: self.kind.clone(),
            closed: self.closed,
            ..SessionsQuery::default()
        };
        let answer = client.sessions_all(query, self.limit).await?;
        if self.closed { closed(context, &answer, self.json) } else { open(context, &answer, self.json) }
    }
}

fn open(context: &mut Context, answer: &SessionsAnswer, json: bool) -> Result<u8, Failure> {
    if json {
        return document(context, answer, "sessions", &answer.sessions);
    }
    let header = ["SESSION", "USER", "KIND", "ADDRESS", "SINCE", "SUBSCRIPTIONS", "BACKLOG", "NODE", "FACTS"];
    let list =
        List { words: ["session", "sessions", "sessions"], name: None, generation: None, members: &answer.sessions };
    list.table(context, false, header, |open: &SessionShown| {
        [
            format!("{}/{}", answer.broker, open.session),
            open.user.clone(),
            open.kind.clone(),
            open.address.clone(),
            output::time(open.since),
            open.subscriptions.to_string(),
            format!("{} B", open.backlog),
            open.node.clone().unwrap_or_else(|| "-".into()),
            if open.display.is_empty() { "-".into() } else { text::facts(&open.display) },
        ]
    })
}

fn closed(context: &mut Context, answer: &SessionsAnswer, json: bool) -> Result<u8, Failure> {
    if json {
        return document(context, answer, "closed", &answer.closed);
    }
    let header = ["SESSION", "USER", "ADDRESS", "SINCE", "UNTIL", "NODE", "REASON"];
    let words = ["closed session", "closed sessions", "closed"];
    let list = List { words, name: None, generation: None, members: &answer.closed };
    list.table(context, false, header, |closed: &ClosedShown| {
        [
            format!("{}/{}", answer.broker, closed.session),
            closed.user.clone(),
            closed.address.clone(),
            output::time(closed.since),
            output::time(closed.until),
            closed.node.clone().unwrap_or_else(|| "-".into()),
            closed.reason.clone(),
        ]
    })
}

/// The list is there if it is empty too.
fn document(
    context: &mut Context,
    answer: &SessionsAnswer,
    key: &str,
    members: &[impl Serialize],
) -> Result<u8, Failure> {
    let document = json!({"broker": answer.broker, key: members});
    context.surface.out(&(text::pretty_json(&document) + "\n"))?;
    Ok(if members.is_empty() { EXIT_NONE } else { EXIT_OK })
}

impl Close {
    pub(super) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let client = context.client().await?;
        let here = client.broker();
        if here != self.session.broker.as_str() {
            let SessionName { broker, .. } = &self.session;
            return Err(Failure::Refused(format!(
                "session {} is one of {broker}, and we are connected to {}: say --broker with the address of {broker}; nothing was closed",
                self.session,
                text::clean(here)
            )));
        }
        let query = CloseQuery { session: self.session.number, reason: self.reason.clone() };
        let answer = client.close_session(&query).await?;
        let words = format!("closed {} of {}\n", self.session, answer.user);
        context.surface.out(&shown(self.json, &answer, &words))?;
        Ok(EXIT_OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_with_its_broker() {
        assert_eq!("noc1/17".parse::<SessionName>().unwrap().to_string(), "noc1/17");
        for wrong in ["17", "noc1", "noc1/", "/17", "noc1/x", "noc1/+7", "NOC 1/7", "noc1/7/8"] {
            assert!(wrong.parse::<SessionName>().is_err(), "{wrong}");
        }
    }
}

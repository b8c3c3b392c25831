//! What did the broker just say about a request? A frame of the reply queue as a typed event.

use muster_protocol::error::Code;
use muster_protocol::frame::Frame;
use muster_protocol::message::{NodeId, header};
use muster_protocol::request::{Accepted, ActionError, Done, Event, Failure, Missing, NodeRef, Outcome, State};
use serde_json::{Map, Value};
use std::time::Duration;

/// The answer of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// How its action ended.
    pub status: State,
    /// What the module answered; a body that is no JSON stands here as text, an empty one as null.
    pub data: Value,
    /// What went wrong, for a status other than `ok`.
    pub error: Option<ActionError>,
}

/// A refusal, as the broker worded it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The code, if this version knows it.
    pub code: Option<Code>,
    /// The code as it came.
    pub code_text: String,
    /// The broker's text.
    pub text: String,
    /// How many nodes match, where a guard refused.
    pub count: Option<u64>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// One event of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestEvent {
    /// A chunk of the targets.
    Accepted {
        /// The broker that they are connected to.
        broker: String,
        /// All targets of the brokers that have answered so far, in this chunk and others; it grows.
        count: u64,
        /// Another chunk follows.
        more: bool,
        /// The targets of this chunk.
        nodes: Vec<NodeRef>,
    },
    /// The action runs on this node for more than a second.
    Started(NodeId),
    /// A node's answer.
    Reply {
        /// Which node.
        node: NodeId,
        /// Its display facts, stamped by the broker.
        display: Map<String, Value>,
        /// The answer.
        answer: Answer,
    },
    /// Nodes that ended without an answer of their own.
    Ended {
        /// `lost`, `expired` or `cancelled`.
        state: State,
        /// Which nodes.
        nodes: Vec<NodeId>,
        /// Why.
        reason: String,
    },
    /// The request was not accepted; nothing follows.
    Refused(Refused),
    /// A broker whose nodes cannot be asked, or are not known; `Done` has the list that holds.
    Missing(Missing),
    /// Every target is accounted for; nothing follows.
    Done(Done),
}

/// A frame that breaks the protocol; the text says how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent something that this version does not understand: {0}")]
pub struct Misunderstood(pub String);

impl RequestEvent {
    /// Whether nothing follows it.
    pub fn is_last(&self) -> bool {
        matches!(self, RequestEvent::Refused(_) | RequestEvent::Done(_))
    }

    /// The event of a MESSAGE. `Ok(None)` is an event that a newer broker may send and that changes no account.
    pub fn parse(frame: &Frame) -> Result<Option<RequestEvent>, Misunderstood> {
        let word = frame.headers.get(header::EVENT).unwrap_or_default();
        Ok(Some(match Event::parse(word) {
            Some(Event::Accepted) => accepted(frame)?,
            Some(Event::Started) => RequestEvent::Started(node(frame)?),
            Some(Event::Reply) => reply(frame)?,
            Some(Event::Lost) => ended(State::Lost, frame)?,
            Some(Event::Expired) => ended(State::Expired, frame)?,
            Some(Event::Cancelled) => ended(State::Cancelled, frame)?,
            Some(Event::Refused) => RequestEvent::Refused(refused(frame)),
            Some(Event::Done) => RequestEvent::Done(json(frame, "done")?),
            Some(Event::Missing) => RequestEvent::Missing(json(frame, "missing")?),
            Some(Event::Answer | Event::Registered | Event::Cancel) | None => return Ok(None),
        }))
    }
}

/// The refusal that a frame holds.
pub fn refused(frame: &Frame) -> Refused {
    let text = |name| frame.headers.get(name).unwrap_or_default().to_owned();
    let number = |name| frame.headers.get(name).and_then(|text| text.parse::<u64>().ok());
    let code_text = text(header::CODE);
    Refused {
        code: Code::parse(&code_text),
        code_text,
        text: text(header::MESSAGE),
        count: number(header::COUNT),
        retry_after: number(header::RETRY_AFTER).map(Duration::from_millis),
    }
}

/// The JSON body of a frame; `what` names it in the error.
pub fn json<T: serde::de::DeserializeOwned>(frame: &Frame, what: &str) -> Result<T, Misunderstood> {
    serde_json::from_slice(&frame.body).map_err(|error| Misunderstood(format!("the body of `{what}`: {error}")))
}

fn node(frame: &Frame) -> Result<NodeId, Misunderstood> {
    let text = frame.headers.get(header::NODE).unwrap_or_default();
    NodeId::parse(text).map_err(|error| Misunderstood(error.to_string()))
}

fn accepted(frame: &Frame) -> Result<RequestEvent, Misunderstood> {
    let Accepted { broker, nodes } = json(frame, "accepted")?;
    let count = frame.headers.get(header::COUNT).and_then(|text| text.parse().ok());
    let count = count.ok_or_else(|| Misunderstood("`accepted` without a count".into()))?;
    Ok(RequestEvent::Accepted { broker, count, more: frame.headers.get(header::MORE) == Some("true"), nodes })
}

fn ended(state: State, frame: &Frame) -> Result<RequestEvent, Misunderstood> {
    let Outcome { nodes, reason } = json(frame, state.as_str())?;
    Ok(RequestEvent::Ended { state, nodes, reason })
}

fn reply(frame: &Frame) -> Result<RequestEvent, Misunderstood> {
    let status = frame.headers.get(header::STATUS).unwrap_or_default();
    let display =
        frame.headers.get(header::DISPLAY).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let answer = match State::parse(status) {
        Some(State::Ok) => Answer { status: State::Ok, data: body(frame), error: None },
        Some(status) => match serde_json::from_slice::<Failure>(&frame.body) {
            Ok(Failure { error, data }) => Answer { status, data: data.unwrap_or(Value::Null), error: Some(error) },
            Err(_) => Answer { status, data: body(frame), error: None },
        },
        // A word of a newer version: the node has answered, and it was not `ok`.
        None => {
            let error = ActionError { code: "unknown-status".into(), text: format!("the node's status is `{status}`") };
            Answer { status: State::Failed, data: body(frame), error: Some(error) }
        }
    };
    Ok(RequestEvent::Reply { node: node(frame)?, display, answer })
}

fn body(frame: &Frame) -> Value {
    if frame.body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(&frame.body).unwrap_or_else(|_| String::from_utf8_lossy(&frame.body).into_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::frame::Command;

    fn message(event: &str, body: &str) -> Frame {
        Frame::new(Command::Message).header(header::EVENT, event).with_body(body.to_owned())
    }

    #[test]
    fn a_failed_reply_keeps_its_error_and_data() {
        let frame = message("reply", r#"{"error":{"code":"not-found","text":"no unit"},"data":{"a":1}}"#)
            .header(header::NODE, "n-aaaaaaaaaaaaaaaaaaaa")
            .header(header::STATUS, "failed")
            .header(header::DISPLAY, r#"{"os.family":"Debian"}"#);
        let Ok(Some(RequestEvent::Reply { display, answer, .. })) = RequestEvent::parse(&frame) else {
            panic!("a reply")
        };
        assert_eq!(display["os.family"], "Debian");
        assert_eq!((answer.status, answer.error.map(|e| e.code)), (State::Failed, Some("not-found".into())));
        assert_eq!(answer.data["a"], 1);
    }

    #[test]
    fn missing_brokers_are_told_at_once_and_in_done() {
        let missing = r#"{"broker":"dc1","why":"unreachable","text":"no way to it","nodes":3}"#;
        let Ok(Some(RequestEvent::Missing(told))) = RequestEvent::parse(&message("missing", missing)) else {
            panic!("a missing broker")
        };
        assert_eq!((told.broker.as_str(), told.nodes), ("dc1", Some(3)));
        let done = message("done", &format!(r#"{{"states":{{"ok":1}},"without":[{missing}]}}"#));
        let Ok(Some(RequestEvent::Done(done))) = RequestEvent::parse(&done) else { panic!("done") };
        assert_eq!((done.states[&State::Ok], done.without), (1, vec![told]));
    }

    #[test]
    fn what_is_not_understood_is_an_error_or_skipped_but_never_a_panic() {
        assert!(RequestEvent::parse(&message("accepted", "{}")).is_err());
        assert!(RequestEvent::parse(&message("lost", "nonsense")).is_err());
        assert!(RequestEvent::parse(&message("started", "")).is_err());
        assert_eq!(RequestEvent::parse(&message("novelty", "")), Ok(None));
        let reply = message("reply", "\u{1}no json")
            .header(header::NODE, "n-aaaaaaaaaaaaaaaaaaaa")
            .header(header::STATUS, "odd");
        let Ok(Some(RequestEvent::Reply { answer, .. })) = RequestEvent::parse(&reply) else { panic!("a reply") };
        assert_eq!(answer.status, State::Failed);
    }
}

//! Is this a request, and may it run here and now? The checks before an action, in their order. Plain: no I/O.

use crate::config::LocalPolicy;
use crate::modules::{Arguments, Failure, Module};
use bytes::Bytes;
use muster_protocol::destination::Destination;
use muster_protocol::facts::{Facts, NodeDocument, PathPattern};
use muster_protocol::filter::{Document, Filter, Ternary};
use muster_protocol::frame::Frame;
use muster_protocol::manifest::ArgumentError;
use muster_protocol::message::{RequestId, TARGET_ALL, header, shown};
use muster_protocol::request::{DEFAULT_REPLY_WITHIN, DEFAULT_START_WITHIN, Event, MAX_REPLY_WITHIN, State};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Who asked, and the id that they gave it.
pub(crate) type Key = (String, RequestId);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) key: Key,
    pub(crate) module: String,
    pub(crate) action: String,
    pub(crate) reply_to: String,
    target: Option<String>,
    arguments: Bytes,
    /// No start after this.
    pub(crate) start_by: Instant,
    /// How long the answer is awaited from arrival.
    pub(crate) reply_within: Duration,
    pub(crate) arrived: Instant,
}

/// What a MESSAGE turns out to be.
#[derive(Debug)]
pub(crate) enum Arrival {
    Request(Box<Request>),
    Cancel(Key),
    /// Not for us to act on; counted under this name.
    Ignored(&'static str),
}

/// Reads a MESSAGE of the action subscription.
pub(crate) fn read(frame: &Frame, collective: &str, now: Instant) -> Arrival {
    let text = |name: &str| frame.headers.get(name).filter(|value| !value.is_empty());
    let Some(caller) = text(header::CALLER) else { return Arrival::Ignored("ignored-not-stamped") };
    let id = text(header::REQUEST).and_then(|id| RequestId::parse(id).ok());
    if let Some(event) = text(header::EVENT) {
        return match id {
            Some(id) if event == Event::Cancel.as_str() => Arrival::Cancel((caller.to_owned(), id)),
            _ => Arrival::Ignored("ignored-unknown-event"),
        };
    }
    if text(header::ORIGIN).is_none() {
        return Arrival::Ignored("ignored-not-stamped");
    }
    let (Some(id), Some(reply_to)) = (id, text(header::REPLY_TO)) else {
        return Arrival::Ignored("ignored-no-request");
    };
    let destination = text("destination").and_then(|name| Destination::parse(name).ok());
    let Some((ours, module, action)) = destination.as_ref().and_then(Destination::as_action) else {
        return Arrival::Ignored("ignored-no-action");
    };
    if ours != collective {
        return Arrival::Ignored("ignored-no-action");
    }
    // A deadline that cannot be read is no deadline kept: it counts as over.
    let time = |name, unless| {
        text(name)
            .map_or(unless, |text| text.parse().map_or(Duration::ZERO, Duration::from_millis).min(MAX_REPLY_WITHIN))
    };
    Arrival::Request(Box::new(Request {
        key: (caller.to_owned(), id),
        module: module.to_owned(),
        action: action.to_owned(),
        reply_to: reply_to.to_owned(),
        target: text(header::TARGET).map(str::to_owned),
        arguments: frame.body.clone(),
        start_by: now + time(header::START_WITHIN, DEFAULT_START_WITHIN),
        reply_within: time(header::REPLY_WITHIN, DEFAULT_REPLY_WITHIN),
        arrived: now,
    }))
}

impl Request {
    /// Start-within has passed: `failed` with `too-late`. The request did arrive and the node still matches, so neither `expired`
    /// (the broker's word for no answer at all) nor `declined` (the facts changed) would be true.
    pub(crate) fn check_time(&self, now: Instant) -> Result<(), Failure> {
        if now <= self.start_by {
            return Ok(());
        }
        let late = now.duration_since(self.start_by).as_millis();
        Err(Failure::new(
            "too-late",
            format!("the node could have started it only {late} ms after muster-start-within had passed"),
        ))
    }

    /// The filter against the node's own facts, the asserted ones laid over: only a definite no declines.
    pub(crate) fn check_target(&self, document: &NodeDocument, asserted: &Facts) -> Result<(), Failure> {
        let Some(text) = self.target.as_deref().filter(|text| *text != TARGET_ALL) else { return Ok(()) };
        let filter = Filter::parse(text)
            .map_err(|e| Failure::new("bad-filter", format!("the node cannot read the target: {e}")))?;
        let facts = document.facts.overlay(asserted);
        // What only brokers know: an agent cannot say that it is missing. The same for the data of this very connection.
        let unknown: Vec<PathPattern> = PathPattern::parse("broker.**").into_iter().collect();
        match filter.evaluate(&Document::new(facts.as_value(), &document.classes).with_unknown(&unknown)) {
            Ternary::No => {
                Err(Failure::of(State::Declined, "no-match", "the node's own fresh facts do not match the target"))
            }
            Ternary::Yes | Ternary::Unknown => Ok(()),
        }
    }

    /// This node's own policy.
    pub(crate) fn check_policy(&self, policy: &LocalPolicy) -> Result<(), Failure> {
        if policy.permits(&self.module, &self.action) {
            return Ok(());
        }
        Err(Failure::of(
            State::Denied,
            "local-policy",
            format!("the node's own policy does not let {}.{} run", shown(&self.module), shown(&self.action)),
        ))
    }

    /// The arguments, as the module's manifest takes them.
    pub(crate) fn arguments(&self, module: &dyn Module) -> Result<Arguments, Failure> {
        let given = if self.arguments.is_empty() {
            Ok(Value::Object(Arguments::new()))
        } else {
            serde_json::from_slice(&self.arguments)
        };
        let Ok(Value::Object(given)) = given else {
            return Err(Failure::new("bad-argument", "the body must be a JSON object of arguments"));
        };
        module.manifest().check(&self.action, &given).map_err(|error| {
            let code =
                if matches!(error, ArgumentError::UnknownAction { .. }) { "unknown-action" } else { "bad-argument" };
            Failure::new(code, error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::frame::Command;
    use serde_json::json;

    fn message(headers: &[(&str, &str)]) -> Frame {
        let mut frame = Frame::new(Command::Message).header("destination", "/topic/prod.service.status");
        for (name, value) in headers {
            frame = frame.header(name, value);
        }
        frame
    }

    const STAMPED: &[(&str, &str)] = &[
        ("muster-caller", "ann"),
        ("muster-origin", "noc1"),
        ("muster-request", "r-1"),
        ("reply-to", "/remote-temp-queue/noc1.x"),
    ];

    fn request(more: &[(&str, &str)]) -> Request {
        match read(&message(&[STAMPED, more].concat()), "prod", Instant::now()) {
            Arrival::Request(request) => *request,
            other => panic!("no request: {other:?}"),
        }
    }

    #[test]
    fn only_stamped_requests_of_the_own_collective_count() {
        assert_eq!(request(&[]).key.0, "ann");
        for (missing, (name, _)) in STAMPED.iter().enumerate() {
            let rest: Vec<_> =
                STAMPED.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, header)| *header).collect();
            assert!(matches!(read(&message(&rest), "prod", Instant::now()), Arrival::Ignored(_)), "without {name}");
        }
        assert!(matches!(read(&message(STAMPED), "test", Instant::now()), Arrival::Ignored("ignored-no-action")));
        let cancel = [("muster-caller", "ann"), ("muster-request", "r-1"), ("muster-event", "cancel")];
        assert!(matches!(read(&message(&cancel), "prod", Instant::now()), Arrival::Cancel(_)));
        assert!(matches!(
            read(&message(&cancel[1..]), "prod", Instant::now()),
            Arrival::Ignored("ignored-not-stamped")
        ));
    }

    #[test]
    fn only_a_definite_no_declines() {
        let document = NodeDocument::from_value(
            json!({"facts": {"os": {"family": "Debian"}, "customer": "liar"}, "classes": ["web"]}),
        )
        .expect("good");
        let asserted = Facts::from_value(json!({"customer": "acmeinc"})).expect("good");
        let state = |target: &str| {
            request(&[("muster-target", target)]).check_target(&document, &asserted).err().map(|f| (f.state, f.code))
        };
        assert_eq!(state("os.family=Debian and class=web"), None);
        assert_eq!(state("all"), None);
        assert_eq!(state("os.family=RedHat"), Some((State::Declined, "no-match")));
        assert_eq!(state("customer=acmeinc"), None);
        assert_eq!(state("customer=liar"), Some((State::Declined, "no-match")));
        assert_eq!(state("broker.name=noc1 and class=web"), None, "only the broker knows");
        assert_eq!(state("broker.name=noc1 and class=db"), Some((State::Declined, "no-match")));
        assert_eq!(state("os.family="), Some((State::Failed, "bad-filter")));
    }

    #[test]
    fn late_requests_do_not_start() {
        let request = request(&[("muster-start-within", "100"), ("muster-reply-within", "junk")]);
        assert!(request.check_time(request.arrived).is_ok());
        assert_eq!(
            request.check_time(request.arrived + Duration::from_millis(101)).map_err(|f| f.code),
            Err("too-late")
        );
        assert_eq!(request.reply_within, Duration::ZERO);
    }
}

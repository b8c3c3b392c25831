//! What does the broker know of our facts, and what is it sent next? The whole document first, then merge patches. Plain: no I/O.

use muster_protocol::error::Code;
use muster_protocol::facts::NodeDocument;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::header;
use std::time::{Duration, Instant};

/// Where documents go.
const DESTINATION: &str = "/muster/facts";

/// After this without an answer the whole document is sent again.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// One connection's view of what the broker has. At most one publication is under way.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    confirmed: Option<NodeDocument>,
    pending: Option<(NodeDocument, Instant)>,
    refused: Option<NodeDocument>,
}

impl Publisher {
    /// The frame to send now, if any.
    pub(crate) fn next(&mut self, current: &NodeDocument, reply_to: &str, now: Instant) -> Option<Frame> {
        if let Some((_, sent)) = &self.pending {
            if now.duration_since(*sent) < ANSWER_WITHIN {
                return None;
            }
            self.confirmed = None;
        }
        if self.confirmed.as_ref() == Some(current) || self.refused.as_ref() == Some(current) {
            return None;
        }
        let mut frame = Frame::new(Command::Send)
            .header("destination", DESTINATION)
            .header("content-type", "application/json")
            .header(header::HASH, &current.hash())
            .header(header::REPLY_TO, reply_to);
        let body = match &self.confirmed {
            Some(base) => {
                frame = frame.header(header::BASE, &base.hash());
                base.diff(current).to_string()
            }
            None => current.to_value().to_string(),
        };
        self.pending = Some((current.clone(), now));
        Some(frame.with_body(body))
    }

    /// The broker has the document of this hash. `false` if it is none that we wait for (asserted facts that changed).
    pub(crate) fn registered(&mut self, hash: &str) -> bool {
        match self.pending.take() {
            Some((document, _)) if document.hash() == hash => {
                self.confirmed = Some(document);
                self.refused = None;
                true
            }
            other => {
                self.pending = other;
                false
            }
        }
    }

    /// The broker refused. A stale base is cured by the whole document; what is wrong with itself is not sent again until it changes.
    pub(crate) fn refused(&mut self, code: Option<Code>) {
        let pending = self.pending.take();
        match code {
            Some(Code::StaleBase) => self.confirmed = None,
            // Not about the document: as long as an answer is awaited nothing is sent, then the whole.
            Some(Code::Busy | Code::Limit | Code::Internal) => self.pending = pending,
            _ => self.refused = pending.map(|(document, _)| document),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn document(value: Value) -> NodeDocument {
        NodeDocument::from_value(json!({ "facts": value })).expect("a document")
    }

    fn body(frame: &Frame) -> Value {
        serde_json::from_slice(&frame.body).expect("JSON")
    }

    #[test]
    fn whole_first_then_deltas_and_whole_again_on_a_stale_base() {
        let now = Instant::now();
        let (a, b) = (document(json!({"x": 1, "y": 1})), document(json!({"x": 2, "y": 1})));
        let mut publisher = Publisher::default();
        let first = publisher.next(&a, "/temp-queue/agent", now).expect("a frame");
        assert_eq!(body(&first), a.to_value());
        assert!(publisher.next(&b, "q", now).is_none(), "one at a time");
        assert!(!publisher.registered("other"));
        assert!(publisher.registered(&a.hash()));
        assert!(publisher.next(&a, "q", now).is_none());
        let delta = publisher.next(&b, "q", now).expect("a frame");
        assert_eq!(
            (body(&delta), delta.headers.get(header::BASE)),
            (json!({"facts": {"x": 2}}), Some(a.hash().as_str()))
        );
        publisher.refused(Some(Code::StaleBase));
        let whole = publisher.next(&b, "q", now).expect("a frame");
        assert_eq!((body(&whole), whole.headers.get(header::BASE)), (b.to_value(), None));
        assert!(publisher.next(&b, "q", now + ANSWER_WITHIN).is_some(), "nobody answered");
        publisher.refused(Some(Code::BadFacts));
        assert!(publisher.next(&b, "q", now).is_none(), "not the same again");
        assert!(publisher.next(&a, "q", now).is_some());
    }
}

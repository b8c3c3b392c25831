//! What do a request, its events and the system queries look like? The JSON bodies and the states of docs/protocol.md.

use crate::frame::Frame;
use crate::message::{NodeId, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How long an agent may wait before it starts, unless the request says otherwise.
pub const DEFAULT_START_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer is awaited, unless the request says otherwise.
pub const DEFAULT_REPLY_WITHIN: Duration = Duration::from_secs(60);
/// The longest time that an answer is awaited.
pub const MAX_REPLY_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// Most nodes in one `accepted` or outcome chunk.
pub const CHUNK: usize = 500;

macro_rules! words {
    ($(#[$meta:meta])* $enum:ident { $($(#[$doc:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $enum { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl $enum {
            /// All of them, in the order of the table.
            pub const ALL: &'static [$enum] = &[$($enum::$name,)*];

            /// The wire text.
            pub fn as_str(self) -> &'static str {
                match self { $($enum::$name => $text,)* }
            }

            /// The one of this wire text.
            pub fn parse(text: &str) -> Option<$enum> {
                match text { $($text => Some($enum::$name),)* _ => None }
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $enum {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::openapi::one_of($enum::ALL.iter().map(|word| word.as_str()))
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $enum {}

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// The one state in which each targeted node ends.
    State {
        /// The action ran and succeeded.
        Ok = "ok",
        /// The action ran and failed, with a code.
        Failed = "failed",
        /// The agent stopped the action at its time limit.
        TimedOut = "timed-out",
        /// The action ended in a way that it should not, such as a signal or output that is no JSON.
        Crashed = "crashed",
        /// The node's own fresh facts no longer match.
        Declined = "declined",
        /// The node's local policy forbids it.
        Denied = "denied",
        /// The node's connection ended before it answered.
        Lost = "lost",
        /// No answer came in time.
        Expired = "expired",
        /// The caller cancelled the request first.
        Cancelled = "cancelled",
    }
}

impl State {
    /// Whether a node may report this state itself.
    pub fn is_reported(self) -> bool {
        !matches!(self, State::Lost | State::Expired)
    }
}

words! {
    /// What a message on a reply queue is (`muster-event`).
    Event {
        /// The targets, in chunks.
        Accepted = "accepted",
        /// A node says that its action is running for more than a second.
        Started = "started",
        /// A node's one answer.
        Reply = "reply",
        /// Nodes whose connection ended.
        Lost = "lost",
        /// Nodes that did not answer in time.
        Expired = "expired",
        /// Nodes that were cancelled and did not confirm.
        Cancelled = "cancelled",
        /// The request was not accepted.
        Refused = "refused",
        /// A broker whose nodes cannot be asked, or are not known.
        Missing = "missing",
        /// Every target is accounted for; nothing follows.
        Done = "done",
        /// The answer to a query of a system destination.
        Answer = "answer",
        /// The broker has taken a facts document.
        Registered = "registered",
        /// To an agent: stop the action of this request.
        Cancel = "cancel",
    }
}

/// A node and the facts that the policy displays with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRef {
    /// The node.
    pub id: NodeId,
    /// Display facts by path; hidden ones are left out.
    #[serde(default)]
    pub display: Map<String, Value>,
}

/// Body of `accepted`: one chunk of the targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The broker that the nodes are connected to.
    pub broker: String,
    /// At most [`CHUNK`] nodes.
    pub nodes: Vec<NodeRef>,
}

/// Body of `lost`, `expired` and `cancelled`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The nodes, at most [`CHUNK`].
    pub nodes: Vec<NodeId>,
    /// Why, for people.
    pub reason: String,
}

words! {
    /// Why nothing, or not all, is known of a broker's nodes.
    Why {
        /// There is no way to it, or it does not answer.
        Unreachable = "unreachable",
        /// A link on the way does not let the destination pass.
        Filtered = "filtered",
        /// It refuses: its own policy does not grant it to the caller, or it cannot do it.
        Refused = "refused",
    }
}

/// Body of `missing`: a broker whose nodes cannot be asked, or are not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Missing {
    /// Which.
    pub broker: String,
    /// Why.
    pub why: Why,
    /// For people.
    pub text: String,
    /// How many nodes it had when it was last heard of, if it ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u64>,
}

/// Body of `done`: how many nodes ended in which state, and of whom nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Done {
    /// Only states that occurred.
    pub states: BTreeMap<State, u64>,
    /// Brokers whose nodes are not, or not all, in the account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Missing>,
}

/// The body of a reply whose status is not `ok`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub error: ActionError,
    /// What there is all the same, such as output up to a time limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// A module's error: a short stable code and a text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActionError {
    /// Such as `bad-argument`, `not-found`, `exit-status`.
    pub code: String,
    /// One line for people.
    pub text: String,
}

/// Body of `/muster/find`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FindQuery {
    /// Facts to show with each node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
    /// Nodes on a page, 1 to 1,000; 500 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only nodes that announce this module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// Answer of `/muster/find`: one page, in the order of brokers and node ids. With `facts` a page has at most 64 nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FindAnswer {
    /// All that match, on whatever page.
    pub count: u64,
    /// The nodes of this page.
    pub nodes: Vec<FoundNode>,
    /// Cursor of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Nodes that are connected but whose first document is not there yet.
    #[serde(default)]
    pub registering: u64,
    /// Matching nodes that are gone (first page only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<GoneNode>,
    /// Brokers that could not be asked: the answer is without their nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Missing>,
}

/// A node that matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FoundNode {
    /// The node.
    pub id: NodeId,
    /// Display facts by path.
    #[serde(default)]
    pub display: Map<String, Value>,
    /// The facts that the query named, by path; missing ones are left out.
    #[serde(default)]
    pub facts: Map<String, Value>,
    /// Connected since, Unix ms.
    pub since: u64,
}

/// A node that matched when it was last seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GoneNode {
    /// The node.
    pub id: NodeId,
    /// Display facts by path.
    #[serde(default)]
    pub display: Map<String, Value>,
    /// Why it is gone: `clean`, `connection closed`, `heart-beat`, `moved`, ….
    pub reason: String,
    /// Gone since, Unix ms.
    pub at: u64,
    /// It had been connected since, Unix ms.
    pub since: u64,
}

/// Body of `/muster/report`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// Path of the fact.
    pub fact: String,
    /// Most distinct values to list, 1 to 1,000; 100 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Answer of `/muster/report`: a histogram.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportAnswer {
    /// Nodes that match the target.
    pub count: u64,
    /// Values, most frequent first.
    pub values: Vec<ValueCount>,
    /// Nodes that lack the fact.
    pub missing: u64,
    /// Distinct values beyond the limit; over several brokers at the most so many.
    pub more: u64,
    /// Brokers that could not be asked: the answer is without their nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Missing>,
}

/// One value of a fact and how many nodes have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ValueCount {
    /// The value.
    pub value: Value,
    /// Nodes with it.
    pub count: u64,
}

/// Body of `/muster/node`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeQuery {
    /// Which node.
    pub node: NodeId,
    /// A filter to explain against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<String>,
}

/// Answer of `/muster/node`: one node, inside the caller's scope, hidden facts removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeAnswer {
    /// The node.
    pub id: NodeId,
    /// `connected`, `registering` or `gone`.
    pub state: String,
    /// Its collective.
    pub collective: String,
    /// Connected since, Unix ms.
    pub since: u64,
    /// When and why it is gone, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
    /// Effective facts.
    pub facts: Value,
    /// Top-level paths that the policy asserts.
    #[serde(default)]
    pub asserted: Vec<String>,
    /// Classes.
    pub classes: Vec<String>,
    /// Modules and the hash of each one's manifest.
    pub modules: BTreeMap<String, String>,
    /// Display facts by path.
    #[serde(default)]
    pub display: Map<String, Value>,
    /// Why the filter matches or not, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Value>,
    /// The broker that it is, or was last, connected to.
    #[serde(default)]
    pub broker: String,
}

/// When and why a node went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gone {
    /// Unix ms.
    pub at: u64,
    /// For people.
    pub reason: String,
}

/// Times and guards of a request; what is not set is left to the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// How late a node may start, ms.
    pub start_within: Option<u64>,
    /// How long answers are awaited, ms.
    pub reply_within: Option<u64>,
    /// Ask nobody if more nodes match.
    pub max_targets: Option<u64>,
    /// Ask nobody unless exactly so many nodes match.
    pub expect_targets: Option<u64>,
    /// Ask nobody; only say who would be asked.
    pub dry_run: bool,
    /// The guards hold for the brokers that can be asked.
    pub allow_partial: bool,
}

impl Conditions {
    /// The SEND with their headers.
    pub fn on(&self, mut frame: Frame) -> Frame {
        for (name, value) in [
            (header::START_WITHIN, self.start_within),
            (header::REPLY_WITHIN, self.reply_within),
            (header::MAX_TARGETS, self.max_targets),
            (header::EXPECT_TARGETS, self.expect_targets),
        ] {
            if let Some(value) = value {
                frame = frame.header(name, &value.to_string());
            }
        }
        for (name, on) in [(header::DRY_RUN, self.dry_run), (header::ALLOW_PARTIAL, self.allow_partial)] {
            if on {
                frame = frame.header(name, "true");
            }
        }
        frame
    }
}

/// Body of `/muster/cancel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelQuery {
    /// The id of a request of this connection.
    pub request: String,
}

/// Answer of `/muster/cancel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CancelAnswer {
    /// Nodes that had not answered and were told to stop.
    pub cancelled: u64,
}

/// Body of `/muster/mesh`: an empty object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshQuery {}

/// Answer of `/muster/mesh`: the mesh as one broker sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshAnswer {
    /// Who says so.
    pub broker: String,
    /// Hash of the topology, hexadecimal: brokers that agree have the same.
    pub epoch: String,
    /// All brokers of the list, and those heard of, by name.
    pub brokers: Vec<MeshBroker>,
    /// What somebody should look at.
    #[serde(default)]
    pub alarms: Vec<String>,
}

words! {
    /// What is known of a broker.
    Reach {
        /// It is the one that answers.
        Here = "here",
        /// There is a way to it.
        Reachable = "reachable",
        /// It was heard of, and there is no way to it now.
        Unreachable = "unreachable",
        /// It is in the list and was never heard of.
        Unknown = "unknown",
    }
}

/// A broker of the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshBroker {
    /// Its name.
    pub name: String,
    /// Whether it can be reached.
    pub reach: Reach,
    /// Its boot counter; 0 if it was never heard of.
    pub instance: u64,
    /// It is about to stop.
    #[serde(default)]
    pub draining: bool,
    /// Registered nodes, when last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u64>,
    /// The way to it: the brokers passed, itself last.
    #[serde(default)]
    pub path: Vec<String>,
    /// Cost of that way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// Its links as it says.
    pub links: Vec<MeshLink>,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshLink {
    /// To whom.
    pub to: String,
    /// The cost that counts: the larger of both ends'.
    pub cost: u32,
    /// The other end lists it too; else nothing is routed over it.
    pub two_way: bool,
    /// What may be sent over it in this direction, if not everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Vec<String>>,
    /// Round trip in ms; only of links of the broker that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<u64>,
}

/// Body of `/muster/admin.explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// Whose rights.
    pub user: String,
    /// `read`, `write` or `admin`.
    pub right: String,
    /// A destination or, for `read`, a pattern.
    pub destination: String,
    /// For `write`: the target, a filter. The answer then says how many nodes it reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// Answer of `/muster/admin.explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExplainAnswer {
    /// Whether the policy grants it, and the user's scope does not refuse it.
    pub allowed: bool,
    /// The entries that grant, as they stand in the policy; or would without the scope, if that refuses it.
    pub entries: Vec<String>,
    /// The filter that is and-ed to every request of the user, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whether the user may address all nodes at once, inside the scope if there is one.
    #[serde(default)]
    pub all: bool,
    /// The limits that hold there for the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Bound>,
    /// The first fact of the filter that is hidden from the user, for which the broker would refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// How many nodes the filter reaches, over all brokers; only with a filter in which nothing is hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// Brokers that could not be asked: their nodes are not among those that it reaches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Missing>,
    /// For people.
    pub text: String,
}

/// A limit that holds for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Bound {
    /// As it stands in the policy: `max-targets`, `requests-per-minute`, `in-flight` or `sessions`.
    pub limit: String,
    /// How many.
    pub most: u64,
    /// The group that sets it.
    pub group: String,
}

/// How many nodes a filter reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reached {
    /// How many, of those that who asks may see.
    pub nodes: u64,
}

/// Body of `registered`: what the policy says about the node itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Facts that override the agent's own.
    pub asserted: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_back() {
        for &state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).expect("a word"), state.as_str());
        }
        for &event in Event::ALL {
            assert_eq!(Event::parse(event.as_str()), Some(event));
        }
        assert_eq!(State::parse("fine"), None);
    }

    #[test]
    fn queries_refuse_unknown_fields() {
        assert!(serde_json::from_str::<FindQuery>(r#"{"fact":["a"]}"#).is_err());
        assert!(serde_json::from_str::<NodeQuery>(r#"{"node":"web1"}"#).is_err());
    }
}

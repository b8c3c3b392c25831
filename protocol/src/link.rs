//! What do brokers say to each other? The frames of a link, typed; docs/protocol.md describes them for other implementers.
//!
//! A frame is a head and a body. The head is a MessagePack map with named fields, of which unknown ones are ignored, as are
//! frames of an unknown type; the body is bytes that nobody on the way looks at. [`codec`] turns both into bytes and back.

mod aged;
pub mod codec;
#[cfg(test)]
mod strategies;

use crate::message::{BrokerName, NodeId};
use crate::policy::{EditAnswer, PolicyPart, PolicyState, WantPolicy};
use crate::request::{FindAnswer, NodeAnswer, Reached, ReportAnswer, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The oldest version of the link protocol that this program speaks.
pub const OLDEST: u16 = 1;
/// The newest.
pub const NEWEST: u16 = 1;
/// Bytes of a body in one piece: what a control frame waits for at the most.
pub const PIECE: usize = 16 * 1024;
/// Longest head, bytes.
pub const MAX_HEAD: usize = 1024 * 1024;
/// Most brokers that a frame may pass: a safety net, far above any sensible mesh.
pub const MAX_HOPS: u8 = 64;
/// Costs of a link: 1 to this.
pub const MAX_COST: u32 = 1_000_000;

/// The head of a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Head {
    /// The first frame of each side.
    Hello(Hello),
    /// The last frame: why the link ends.
    Refused(Refused),
    /// Sign of life where nothing else was to be said; answered by `alive`.
    Ping(Beat),
    /// The answer to a ping.
    Alive(Beat),
    /// What a broker has of the state of the mesh, on link-up: the other side sends what is newer.
    Digest(Digest),
    /// Asks for the whole of one broker's state again, after a gap.
    Want(Want),
    /// A broker and its links.
    LinkState(LinkState),
    /// What destinations a broker's sessions subscribe to.
    Interest(Interest),
    /// What facts a broker's nodes have.
    Summary(Summary),
    /// Which policy a broker enforces.
    Policy(PolicyState),
    /// Asks for a piece of that policy.
    WantPolicy(WantPolicy),
    /// A piece of it; the text is the body.
    PolicyPart(Box<PolicyPart>),
    /// A message for the brokers of a list, along the tree of its origin.
    Forward(Forward),
    /// A message for one broker, by next hop.
    Direct(Direct),
    /// A type that this version does not know: ignored.
    #[serde(other)]
    Unknown,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster's name.
    pub cluster: String,
    /// The broker's name: the one in its certificate.
    pub name: BrokerName,
    /// Boot counter, kept on disk.
    pub instance: u64,
    /// Random, made at the start of the process: tells a restart from a second broker with the same name.
    pub incarnation: u64,
    /// Raised with each connection of this process; the sum of both sides' decides which of two connections is the newer.
    pub nonce: u64,
    /// Oldest version that it speaks.
    pub oldest: u16,
    /// Newest version that it speaks.
    pub newest: u16,
    /// Its clock, Unix ms: a skew is reported.
    pub clock: u64,
    /// Longest body that it takes, bytes.
    pub max_body: u64,
}

/// Why a link ends, or did not come to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A stable code of `error::Code`.
    pub code: String,
    /// For people.
    pub text: String,
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Of the sender of the ping, monotonic ms: comes back in the answer.
    pub tick: u64,
}

/// What a broker has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// By origin.
    pub have: BTreeMap<BrokerName, Have>,
}

/// What a broker has of one origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Instance and sequence of its link state.
    #[serde(default)]
    pub link_state: (u64, u64),
    /// Incarnation in its link state: two brokers with one name may be equal in the rest.
    #[serde(default)]
    pub incarnation: u64,
    /// Of its interest.
    #[serde(default)]
    pub interest: (u64, u64),
    /// Of its summary.
    #[serde(default)]
    pub summary: (u64, u64),
}

/// Asks the neighbour for a whole record that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Whose.
    pub origin: BrokerName,
    /// Which record.
    pub what: Record,
}

/// The records that are flooded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// [`LinkState`]
    LinkState,
    /// [`Interest`]
    Interest,
    /// [`Summary`]
    Summary,
}

/// A broker and its links, as it sees them. An edge counts if both ends list it, with the larger of both costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// Whose.
    pub origin: BrokerName,
    /// Its boot counter.
    pub instance: u64,
    /// Raised with each change. The newest (instance, sequence) wins.
    pub sequence: u64,
    /// As in [`Hello`].
    pub incarnation: u64,
    /// When its process started, Unix ms: of two live brokers with one name the younger leaves.
    pub born: u64,
    /// It is about to stop: nothing is routed through it any more, only to it.
    #[serde(default)]
    pub draining: bool,
    /// Its live links.
    pub neighbours: BTreeMap<BrokerName, Neighbour>,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// 1 to [`MAX_COST`].
    pub cost: u32,
    /// What may be forwarded over it in this direction, as destination patterns; everything if not given, nothing if empty.
    /// It does not hold for answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Vec<String>>,
}

/// Which destinations a broker's sessions subscribe to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// Whose.
    pub origin: BrokerName,
    /// Its boot counter.
    pub instance: u64,
    /// Raised with each change.
    pub sequence: u64,
    /// The sequence that `add` and `remove` build on; the whole (in `add`) if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Patterns.
    #[serde(default)]
    pub add: BTreeSet<String>,
    /// Patterns.
    #[serde(default)]
    pub remove: BTreeSet<String>,
}

/// Which facts a broker's nodes have, so that a request does not travel to where nothing can match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whose.
    pub origin: BrokerName,
    /// Its boot counter.
    pub instance: u64,
    /// Raised with each change.
    pub sequence: u64,
    /// The sequence that this builds on: paths that are here replace those there. The whole if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Registered nodes.
    pub nodes: u64,
    /// Some nodes are remembered as gone, or are about to register: a `find` has something to say of them.
    #[serde(default)]
    pub restless: bool,
    /// By path, in the text form of the filter language; `None` takes a path away.
    #[serde(default)]
    pub paths: BTreeMap<String, Option<PathSummary>>,
    /// Nothing is known of paths that are not listed; if not set, no node has them.
    #[serde(default)]
    pub others: bool,
    /// The classes of all nodes; not given: too many, or (in a delta) as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Words>,
    /// The modules that nodes announce; as `classes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<Words>,
}

/// A set of words that may be too large to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Words {
    /// Exactly these occur.
    These(BTreeSet<String>),
    /// Too many to list.
    Many,
}

/// What is known of one path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathSummary {
    /// The values that occur; not given: too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Value>>,
    /// Of many values, the least number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Value>,
    /// Of many values, the greatest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Value>,
    /// Of many values, some are no numbers.
    #[serde(default)]
    pub texts: bool,
    /// Some node lacks the path.
    #[serde(default)]
    pub lacking: bool,
    /// Some node has the path without a value of its own: an object, an empty list.
    #[serde(default)]
    pub bare: bool,
}

/// A message for the brokers of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forward {
    /// The ingress.
    pub origin: BrokerName,
    /// Its boot counter.
    pub instance: u64,
    /// Unique in that life: what is seen twice is dropped.
    pub sequence: u64,
    /// The topology by which the ingress chose the ways. Where the receiver's differs, this copy is flooded.
    pub epoch: u64,
    /// This copy is flooded.
    #[serde(default)]
    pub flood: bool,
    /// Brokers passed so far.
    #[serde(default)]
    pub hops: u8,
    /// For which brokers, decided once by the ingress. Others only relay.
    pub to: Arc<[BrokerName]>,
    /// What for.
    pub load: Load,
}

/// What is forwarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "load", rename_all = "kebab-case")]
pub enum Load {
    /// A message to a topic.
    Message(Letter),
    /// A request: freeze the targets; deliver, unless it holds.
    Prepare(Prepare),
    /// Deliver to what was frozen.
    Commit(Serial),
    /// Forget what was frozen, or who waits for answers.
    Abort(Serial),
    /// Tell the nodes that have not answered to stop.
    Cancel(Serial),
    /// A node has come, gone or changed: for those who subscribe to registrations.
    Announce(Box<Announce>),
    /// Where the origin's audit log ends: the others put it on record.
    AuditHead(AuditHead),
    /// A load that this version does not know: relayed without its content, not acted on.
    #[serde(other)]
    Unknown,
}

/// A node that has come, gone or changed. Each broker shows it as its own policy says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Announce {
    /// `registered`, `changed` or `gone`.
    pub event: String,
    /// Which.
    pub node: NodeId,
    /// The topic: `/topic/COLLECTIVE.registration`.
    pub destination: String,
    /// Why it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Effective facts, by which scopes decide who hears of it.
    pub facts: Arc<Value>,
    /// Classes.
    #[serde(default)]
    pub classes: BTreeSet<String>,
    /// For `changed`: what it was before, so that nobody hears of a change of which they may see nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// A node before it changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The merge patch (RFC 7386) that makes of its effective facts what they were.
    pub facts: Value,
    /// Its classes or modules were others.
    pub labels: bool,
}

impl Before {
    /// What the effective facts were that are `now`.
    pub fn facts(&self, now: &Value) -> Value {
        let mut facts = now.clone();
        json_patch::merge(&mut facts, &self.facts);
        facts
    }
}

/// Where the chain of an audit log ends. Who has it on record can tell whether the log was cut off or written anew before that line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Number of the last line, the first being 1.
    pub n: u64,
    /// Its hash: SHA-256, 64 lowercase hex digits.
    pub hash: String,
    /// When it was the last one, Unix ms of that broker.
    pub at: u64,
}

impl AuditHead {
    /// Whether it can be the end of a log.
    pub fn is_sound(&self) -> bool {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        self.n > 0 && self.hash.len() == 64 && self.hash.bytes().all(is_digit)
    }
}

impl Load {
    /// The topic that it goes to, for filters of links; what belongs to a request that has passed them is not filtered again.
    pub fn destination(&self) -> Option<&str> {
        match self {
            Load::Message(letter) => Some(&letter.destination),
            Load::Prepare(prepare) => Some(&prepare.letter.destination),
            Load::Announce(announce) => Some(&announce.destination),
            Load::Commit(_) | Load::Abort(_) | Load::Cancel(_) | Load::AuditHead(_) | Load::Unknown => None,
        }
    }
}

/// A number that the ingress gave a request, unique in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serial {
    /// The number.
    pub serial: u64,
}

/// A SEND as it travels; its body is the body of the frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// The user, stamped by the ingress; each broker checks what its own policy allows them.
    pub caller: String,
    /// The topic, reply queue or system destination.
    pub destination: String,
    /// Headers to pass on unchanged.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// `muster-target`: a filter, or `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `muster-nodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeId>>,
    /// The reply queue, by the ingress's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The caller's id of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// ms from arrival, less what it waited in queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_within: Option<u64>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepare {
    /// The ingress's number for it: what was prepared before is not delivered again.
    pub serial: u64,
    /// What and to whom.
    pub letter: Letter,
    /// ms from arrival, less what it waited in queues, until an agent may still start.
    pub start_within: u64,
    /// ms from arrival, less what it waited in queues, until an answer is awaited.
    pub reply_within: u64,
    /// Decide, but deliver nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Deliver when COMMIT comes, not before.
    #[serde(default)]
    pub hold: bool,
}

/// A message for one broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Direct {
    /// From which broker.
    pub from: BrokerName,
    /// Its boot counter.
    pub instance: u64,
    /// For which.
    pub to: BrokerName,
    /// Brokers passed so far.
    #[serde(default)]
    pub hops: u8,
    /// What for.
    pub word: Word,
}

/// What one broker says to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "kebab-case")]
pub enum Word {
    /// What became of a request here.
    Report(Report),
    /// Reports up to this number have arrived.
    Heard(Heard),
    /// The ingress knows no such request (any more): forget it.
    Forgotten(RequestKey),
    /// A question of an operator.
    Query(Query),
    /// Its answer.
    Answer(Answer),
    /// A message for a reply queue of the receiver.
    Reply(ReplyLetter),
    /// The reply queue is gone.
    Gone(Gone),
    /// Nodes that have connected to the sender.
    Present(Present),
    /// `present` up to this number has been dealt with.
    Noted(Noted),
    /// A word that this version does not know: ignored.
    #[serde(other)]
    Unknown,
}

/// A request, unique in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestKey {
    /// The ingress.
    pub broker: BrokerName,
    /// Its boot counter.
    pub instance: u64,
    /// Its number for the request.
    pub serial: u64,
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.broker, self.instance, self.serial)
    }
}

/// One thing that became of a request, kept until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of which request.
    pub key: RequestKey,
    /// 1, 2, 3 … for each request and broker.
    pub number: u64,
    /// What.
    pub event: Happened,
}

/// What became of a request at one broker. The body of a reply is the body of the frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happened {
    /// Some of the targets, at most `request::CHUNK`.
    Accepted {
        /// All targets at this broker.
        count: u64,
        /// These.
        nodes: Vec<Target>,
    },
    /// A node's action runs for more than a second.
    Started {
        /// Which.
        node: NodeId,
    },
    /// A node's one answer.
    Reply {
        /// Whose.
        node: NodeId,
        /// How it ended.
        state: State,
        /// Display facts, as the caller may see them.
        display: Map<String, Value>,
    },
    /// Nodes that ended without an answer.
    Ended {
        /// How.
        state: State,
        /// At most `request::CHUNK`.
        nodes: Vec<NodeId>,
        /// For people.
        reason: String,
    },
    /// The broker does not do it.
    Refused {
        /// A stable code of `error::Code`.
        code: String,
        /// For people.
        text: String,
    },
}

/// A target of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The node.
    pub id: NodeId,
    /// Its session number: where two brokers name one node, the higher is the live one.
    pub number: u64,
    /// Display facts, as the caller may see them.
    #[serde(default)]
    pub display: Map<String, Value>,
}

/// An acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Of which request.
    pub key: RequestKey,
    /// All up to this one.
    pub upto: u64,
}

/// A question of an operator, for one broker; idempotent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The asking broker's number.
    pub serial: u64,
    /// Who asks what about which nodes.
    pub letter: Letter,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// Which nodes match?
    Find {
        /// Facts to show.
        facts: Vec<String>,
        /// Nodes on a page.
        limit: u64,
        /// Only nodes behind this one, in the order of their ids.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<NodeId>,
        /// Only nodes with this module.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        module: Option<String>,
    },
    /// How often does a fact have which value?
    Report {
        /// The fact.
        fact: String,
        /// Most values.
        limit: u64,
    },
    /// What is known of a node?
    Node {
        /// Which.
        node: NodeId,
        /// A filter to explain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        explain: Option<String>,
    },
    /// How many nodes does a user of the policy reach at a topic, of those that match the letter's target and that the caller may see?
    Reach {
        /// The user of the policy.
        user: String,
        /// The topic.
        destination: String,
    },
    /// Make an edit of the policy: the body of the frame is the body of `/muster/admin.edit`. Asked once, as it is not idempotent.
    Edit,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The answer of one broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The asking broker's number.
    pub serial: u64,
    /// The answer.
    pub said: Said,
}

/// What a broker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "kebab-case")]
pub enum Said {
    /// To `find`.
    Find(FindAnswer),
    /// To `report`.
    Report(ReportAnswer),
    /// To `node`.
    Node(Box<NodeAnswer>),
    /// To `reach`.
    Reach(Reached),
    /// To `edit`.
    Edit(EditAnswer),
    /// It does not answer that.
    Refused(Refused),
}

/// A message for a reply queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyLetter {
    /// What, from whom and to which queue.
    pub letter: Letter,
    /// The sender's session at its broker, for `gone`.
    pub session: u64,
}

/// A reply queue is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Which.
    pub queue: String,
    /// The session that wrote to it.
    pub session: u64,
}

/// Nodes that have connected: a lower session number elsewhere has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Node and session number.
    pub nodes: Vec<(NodeId, u64)>,
    /// Number of the last of them among all that ever connected to the sender.
    pub upto: u64,
}

/// An acknowledgement of `present`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// All up to this one.
    pub upto: u64,
}

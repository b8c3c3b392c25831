//! What can happen to the broker? Events, and the typed inputs that sessions make of frames.

use super::errand::Outcome;
use super::mesh::lanes::LinkOutbox;
use super::outbox::Outbox;
use crate::broker::access::{Peer, Policy};
use bytes::Bytes;
use muster_protocol::admin::{AuditQuery, CloseQuery, SessionsQuery};
use muster_protocol::destination::{Destination, Pattern};
use muster_protocol::error::Refusal;
use muster_protocol::facts::{NodeDocument, Path};
use muster_protocol::filter::Filter;
use muster_protocol::frame::Headers;
use muster_protocol::link::{AuditHead, Head, Hello, Neighbour};
use muster_protocol::message::{BrokerName, NodeId, RequestId};
use muster_protocol::policy::{AuthorityQuery, EditQuery, Generation, HistoryQuery, LintAnswer, ShowQuery};
use muster_protocol::request::{ExplainQuery, State};
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

/// The time, as the hub reads it: the broker has no clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds; every deadline counts in these.
    pub tick: u64,
    /// Unix milliseconds; shown to people, never used to decide.
    pub unix: u64,
}

/// A connection, unique in this broker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A connection to another broker, unique in this broker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Somebody has logged in.
    Opened(Box<Opened>),
    /// Frames of one read, in order.
    Inputs {
        /// From whom.
        session: SessionId,
        /// What.
        inputs: Vec<Input>,
        /// Dropped when all are dealt with, so that the reader can wait for it: back-pressure.
        ticket: Ticket,
    },
    /// The connection is over, whoever ended it.
    Closed {
        /// Which.
        session: SessionId,
        /// Why, for people: `clean`, `connection closed`, `heart-beat`, ….
        reason: String,
        /// A last word to the peer, if there is one.
        refusal: Option<Refusal>,
    },
    /// A link to another broker has come up: TLS and HELLO are done and agree.
    LinkOpened(Box<LinkOpened>),
    /// Frames of a link, in order.
    LinkFrames {
        /// Over which.
        link: LinkId,
        /// What.
        frames: Vec<Received>,
        /// As in `Inputs`.
        ticket: Ticket,
    },
    /// Bytes have come over a link that make no frame yet: it lives.
    LinkAlive(LinkId),
    /// A link is over, whoever ended it.
    LinkClosed {
        /// Which.
        link: LinkId,
        /// Why, for people.
        reason: String,
    },
    /// The policy file was edited by hand.
    HandEdit {
        /// Its text.
        text: Arc<str>,
        /// What it says.
        policy: Arc<Policy>,
        /// What stood there before: if that is not what holds any more, somebody else's edit would be lost.
        base: Option<Generation>,
    },
    /// An errand is done.
    Done {
        /// Which.
        errand: u64,
        /// What became of it.
        outcome: Box<Outcome>,
    },
    /// The audit log of this broker ends there, on the disk: the other brokers are told.
    AuditHead(AuditHead),
    /// The deadline that the broker asked for has come.
    Wake,
    /// The broker is stopping: everybody is told.
    Drain,
}

/// Whatever the sender wants back when its inputs are dealt with.
#[derive(Default)]
pub struct Ticket(pub Option<Box<dyn Any + Send + Sync>>);

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket")
    }
}

/// A session whose credentials were right under some recent policy.
#[derive(Debug)]
pub struct Opened {
    /// Which.
    pub session: SessionId,
    /// Who.
    pub user: String,
    /// The PHC string that was checked: if the policy has another by now, the login is void.
    pub password_hash: String,
    /// If a token was shown instead of the password: when it was made, Unix seconds. The policy may have revoked it by now.
    pub token_made: Option<u64>,
    /// For agents: which node.
    pub node: Option<NodeHello>,
    /// From where, and with which certificate.
    pub peer: Peer,
    /// Where its answers go.
    pub outbox: Outbox,
}

/// A link whose other side is who its certificate says, in the policy's broker list, of this cluster, of a common version.
#[derive(Debug)]
pub struct LinkOpened {
    /// Which.
    pub link: LinkId,
    /// What the other side said.
    pub hello: Hello,
    /// The sum of both sides' nonces: of two connections between the same two brokers the higher is the newer.
    pub nonce: u64,
    /// Our end of it: cost, and what may be sent.
    pub end: Neighbour,
    /// The other side's address, for people.
    pub peer: SocketAddr,
    /// Where its frames go.
    pub outbox: LinkOutbox,
}

/// A frame of a link, read at the edge.
#[derive(Debug)]
pub struct Received {
    /// The head.
    pub head: Head,
    /// The body.
    pub body: Bytes,
    /// What it asks of this broker, filters compiled; none for what is only relayed, or about the mesh itself.
    pub order: Option<Result<Box<Sent>, Refusal>>,
}

/// What an agent's login says of its node; id and key were checked to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeHello {
    /// The node.
    pub id: NodeId,
    /// Its session number: the higher wins.
    pub number: u64,
    /// The agent's clock minus ours, seconds.
    pub clock_skew: i64,
}

/// A frame after parsing: every text checked, every filter compiled, every body read.
#[derive(Debug)]
pub enum Input {
    /// A SEND.
    Send(Box<Sent>),
    /// A SUBSCRIBE.
    Subscribe {
        /// To what.
        to: Subscribed,
        /// Under which id.
        id: Arc<str>,
        /// Receipt asked for.
        receipt: Option<String>,
    },
    /// An UNSUBSCRIBE.
    Unsubscribe {
        /// Which id.
        id: String,
        /// Receipt asked for.
        receipt: Option<String>,
    },
    /// A DISCONNECT: the end is on purpose.
    Disconnect {
        /// Receipt asked for.
        receipt: Option<String>,
    },
    /// A frame that cannot be accepted.
    Refused {
        /// Why.
        refusal: Refusal,
        /// For a SEND that can be answered on a reply queue: the connection lives.
        answer: Option<(Option<RequestId>, Destination)>,
        /// Receipt asked for; given only if the connection lives.
        receipt: Option<String>,
    },
}

/// To what a session subscribes.
#[derive(Debug)]
pub enum Subscribed {
    /// A topic pattern.
    Topic(Pattern),
    /// A reply queue of its own, by the name that the client uses (`/temp-queue/NAME`).
    ReplyQueue(Destination),
}

/// A SEND.
#[derive(Debug)]
pub struct Sent {
    /// Where to.
    pub destination: Destination,
    /// Headers to pass on unchanged (`correlation-id`, `content-type`, …).
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
    /// `muster-target`.
    pub target: Target,
    /// `muster-nodes`.
    pub nodes: Option<Vec<NodeId>>,
    /// `reply-to`, as the client wrote it.
    pub reply_to: Option<Destination>,
    /// `muster-request`.
    pub request: Option<RequestId>,
    /// `expires`, as ms from arrival.
    pub expires_within: Option<u64>,
    /// What it is for.
    pub purpose: Purpose,
    /// Receipt asked for.
    pub receipt: Option<String>,
}

/// `muster-target`.
#[derive(Debug, Clone)]
pub enum Target {
    /// The header is not there.
    Absent,
    /// `all`.
    All,
    /// A filter.
    Filter(Filter),
}

/// What a SEND is for, by destination and headers.
#[derive(Debug)]
pub enum Purpose {
    /// A message to a topic or reply queue.
    Message,
    /// A request to an action topic.
    Request(Terms),
    /// A node's word on a request.
    Answer(Answer),
    /// A node's document: what the index is to hold.
    Facts(Registration),
    /// `/muster/find`.
    Find(Find),
    /// `/muster/report`.
    Report {
        /// Which fact.
        fact: Path,
        /// Most distinct values.
        limit: usize,
    },
    /// `/muster/node`.
    Node {
        /// Which node.
        node: NodeId,
        /// What to explain.
        explain: Option<Filter>,
    },
    /// `/muster/cancel`.
    Cancel(RequestId),
    /// `/muster/mesh`.
    Mesh,
    /// `/muster/admin.explain`.
    Explain {
        /// As it was asked.
        query: ExplainQuery,
        /// Its filter.
        filter: Option<Filter>,
    },
    /// `/muster/admin.diff`: a policy, read at the edge.
    Diff(Box<Policy>),
    /// `/muster/admin.edit`.
    Edit(Box<EditQuery>),
    /// `/muster/admin.show`.
    Show(ShowQuery),
    /// `/muster/admin.history`.
    History(HistoryQuery),
    /// `/muster/admin.authority`.
    Authority,
    /// `/muster/admin.take`.
    Take(AuthorityQuery),
    /// `/muster/admin.sessions`.
    Sessions(SessionsQuery),
    /// `/muster/admin.close`.
    Close(CloseQuery),
    /// `/muster/admin.audit`.
    Audit(AuditQuery),
    /// `/muster/admin.lint`: what was found in a policy at the edge; `None` asks about the one in force.
    Lint(Option<LintAnswer>),
}

/// The terms of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// ms from arrival until an agent may still start.
    pub start_within: u64,
    /// ms from arrival until an answer is awaited.
    pub reply_within: u64,
    /// Most targets.
    pub max_targets: Option<u64>,
    /// Exactly so many targets.
    pub expect_targets: Option<u64>,
    /// Decide, but deliver nothing.
    pub dry_run: bool,
    /// Guards count the brokers that answer, if some do not.
    pub allow_partial: bool,
}

impl Terms {
    /// Whether the count of the whole mesh must be known before anything is delivered.
    pub fn is_guarded(&self) -> bool {
        self.max_targets.is_some() || self.expect_targets.is_some()
    }
}

/// A node's word on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It runs for more than a second.
    Started,
    /// It ended in this state.
    Reply(State),
}

/// A node's document after parsing and, for a delta, merging: the session has done both.
#[derive(Debug)]
pub struct Registration {
    /// The whole document.
    pub document: Arc<NodeDocument>,
    /// For a delta: the document that it builds on, and its hash.
    pub before: Option<(NodeDocument, String)>,
    /// Its canonical JSON, kept instead of the tree.
    pub json: Bytes,
    /// Its hash.
    pub hash: String,
}

/// `/muster/find`.
#[derive(Debug)]
pub struct Find {
    /// Facts to show.
    pub facts: Vec<Path>,
    /// Nodes on a page.
    pub limit: usize,
    /// Only nodes behind this one, in the order of their ids.
    pub after: Option<NodeId>,
    /// For a later page than the first.
    pub later: Option<Later>,
    /// Only nodes with this module.
    pub module: Option<String>,
}

/// A later page of `/muster/find`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    /// Whose nodes it begins with.
    pub broker: BrokerName,
    /// What the first page counted in all.
    pub count: u64,
}

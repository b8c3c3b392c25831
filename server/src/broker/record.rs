//! What is to be on record? Decisions as typed values: the broker leaves them as it leaves notes, and `crate::audit` writes them.
//!
//! Texts are made when a record is written, not when it is left: of filters, policies and bodies only a handle is taken here.

use super::access::{Counted, Policy, Right, User};
use super::event::{Target, Terms};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use muster_protocol::destination::Destination;
use muster_protocol::error::Refusal;
use muster_protocol::link::AuditHead;
use muster_protocol::message::{BrokerName, NodeId, RequestId, TARGET_ALL};
use muster_protocol::policy::{Generation, Seal};
use muster_protocol::request::State;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

/// One line of the audit log, without its place in the chain. Holds no secret and no body.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Record {
    /// The broker began to serve.
    Started {
        /// Of `musterd`.
        version: &'static str,
        /// Boot counter.
        instance: u64,
    },
    /// The broker was told to stop.
    Stopped,
    /// A login, accepted or refused.
    Login {
        /// Who, or who it claimed to be.
        #[serde(flatten)]
        who: Who,
        /// Which way it went; the reason is the broker's own, not what the peer is told.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// A session is over.
    SessionClosed {
        /// Whose.
        #[serde(flatten)]
        who: Who,
        /// Why.
        reason: String,
    },
    /// A request of a session of this broker, accepted or refused.
    Request(Box<Asked>),
    /// A cancel of a request.
    Cancel(Box<Asked>),
    /// A command to a destination of administration.
    Admin(Box<Asked>),
    /// A request is accounted for, or given up.
    RequestDone(Box<Outcome>),
    /// A request that came over a link, and what this broker decided for its own nodes.
    LinkRequest(Box<Relayed>),
    /// Anything else of a session that was refused: messages, subscriptions, questions, frames.
    Refused {
        /// Whose.
        #[serde(flatten)]
        who: Who,
        /// Where it was to go, if it was that far.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_text")]
        destination: Option<Destination>,
        /// Its request id.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_text")]
        request: Option<RequestId>,
        /// Why.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// A link came up.
    LinkUp {
        /// The broker at the other end.
        peer: BrokerName,
        /// Its address.
        address: SocketAddr,
    },
    /// A link is over.
    LinkDown {
        /// The broker at the other end.
        peer: BrokerName,
        /// Why.
        reason: String,
    },
    /// A link was refused, by this broker or by the other; again only when the reason is another.
    LinkRefused {
        /// The broker at the other end, if that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<BrokerName>,
        /// From where, if it is not known who.
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// Why.
        reason: String,
    },
    /// Where the audit log of another broker ends, as it says.
    PeerHead {
        /// The other broker.
        peer: BrokerName,
        /// The end, with the names that stand in the lines of that log.
        head: AuditHead,
        /// Why it cannot be that of the log that was heard of before.
        #[serde(skip_serializing_if = "Option::is_none")]
        fault: Option<String>,
    },
    /// A policy holds from now on.
    PolicyLoaded {
        /// The file.
        file: String,
        /// SHA-256 of its text.
        sha256: String,
        /// Which edition, if it is sealed.
        #[serde(flatten)]
        edition: Option<EditionOf>,
        /// What is other than before, in numbers by kind.
        changes: BTreeMap<String, Counted>,
    },
    /// A policy was refused; the one before stays in force.
    PolicyRefused {
        /// The file.
        file: String,
        /// SHA-256 of its text, if it could be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        /// Who wanted it, if it was not found in the file.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// What they wanted.
        #[serde(skip_serializing_if = "Option::is_none")]
        what: Option<String>,
        /// Line and cause.
        reason: String,
    },
    /// A command on the control socket that changes something, or a signal.
    Ctl {
        /// Which, with what it is about.
        command: String,
        /// The system's number of the user who gave it.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// What went wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

/// An edition of the policy, and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EditionOf {
    /// Which.
    pub generation: Generation,
    /// The broker that sealed it.
    pub authority: BrokerName,
    /// Who made it.
    pub by: String,
    /// The broker that they were connected to.
    pub via: String,
    /// What was done, without secrets.
    pub what: String,
    /// Why, in the words of who made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl From<&Seal> for EditionOf {
    fn from(seal: &Seal) -> EditionOf {
        let (stamp, made) = (&seal.stamp, seal.made.clone());
        let (generation, authority) = (stamp.generation, stamp.authority.clone());
        EditionOf { generation, authority, by: made.by, via: made.via, what: made.what, why: made.reason }
    }
}

/// A session, or what wants to become one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Who {
    /// The user.
    pub user: String,
    /// From where.
    pub address: SocketAddr,
    /// The session; none before it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// For an agent: its node id, as claimed if the login was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Which way a decision went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `allowed` or `denied`.
    pub decision: &'static str,
    /// If denied: the stable code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// If denied: why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Verdict {
    /// It may be.
    pub const ALLOWED: Verdict = Verdict { decision: "allowed", code: None, reason: None };

    /// It may not be, for what the refusal says.
    pub fn denied(refusal: &Refusal) -> Verdict {
        Verdict { decision: "denied", code: Some(refusal.code.as_str()), reason: Some(refusal.text.clone()) }
    }
}

/// A request, a cancel or a command, as it was asked and decided.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    #[serde(flatten)]
    pub(super) who: Who,
    #[serde(flatten)]
    pub(super) verdict: Verdict,
    #[serde(serialize_with = "text")]
    pub(super) destination: Destination,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_text")]
    pub(super) request: Option<RequestId>,
    /// What it is about: the request to cancel, or whose rights are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) about: Option<String>,
    #[serde(skip_serializing_if = "is_absent", serialize_with = "target")]
    pub(super) target: Target,
    /// The nodes that it is narrowed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nodes: Option<Vec<NodeId>>,
    #[serde(flatten)]
    pub(super) rule: Rule,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guards: Option<Guards>,
    pub(super) body: Body,
    /// The brokers that it went to, this one included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) brokers: Vec<BrokerName>,
    /// The brokers that could not be asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) without: Vec<String>,
    #[serde(skip)]
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Request,
    Cancel,
    Admin,
}

/// What became of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub(super) user: Arc<str>,
    pub(super) session: u64,
    #[serde(serialize_with = "text")]
    pub(super) request: RequestId,
    #[serde(serialize_with = "text")]
    pub(super) destination: Destination,
    /// Nodes that matched.
    pub(super) targets: u64,
    /// How many of them ended in which state.
    pub(super) states: BTreeMap<State, u64>,
    /// Brokers of which nothing, or not all, is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) without: Vec<String>,
    /// Why it ended before all were accounted for.
    #[serde(flatten)]
    pub(super) ended: Option<Verdict>,
}

/// A request from another broker.
#[derive(Debug, Clone, Serialize)]
pub struct Relayed {
    /// The caller, as the ingress has stamped it.
    pub(super) user: Arc<str>,
    pub(super) ingress: BrokerName,
    #[serde(flatten)]
    pub(super) verdict: Verdict,
    pub(super) destination: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_text")]
    pub(super) request: Option<RequestId>,
    #[serde(skip_serializing_if = "is_absent", serialize_with = "target")]
    pub(super) target: Target,
    #[serde(flatten)]
    pub(super) rule: Option<Rule>,
    /// Nodes of this broker that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) targets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dry_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<Body>,
}

/// The guards of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Guards {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_targets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect_targets: Option<u64>,
    dry_run: bool,
    allow_partial: bool,
}

impl From<&Terms> for Guards {
    fn from(terms: &Terms) -> Guards {
        let Terms { max_targets, expect_targets, dry_run, allow_partial, .. } = *terms;
        Guards { max_targets, expect_targets, dry_run, allow_partial }
    }
}

/// By what a user may write to a destination: written as `rule`, the entries of the policy that grant it (none did, if there are
/// none), and `scope`.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) policy: Arc<Policy>,
    pub(super) user: Arc<User>,
    pub(super) destination: Destination,
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let granting = self.policy.grantors(&self.user, Right::Write, &self.destination);
        let scope = self.user.scope.as_ref().map(ToString::to_string);
        let mut fields = serializer.serialize_struct("Rule", 1 + usize::from(scope.is_some()))?;
        fields.serialize_field("rule", &granting)?;
        match &scope {
            Some(scope) => fields.serialize_field("scope", scope)?,
            None => fields.skip_field("scope")?,
        }
        fields.end()
    }
}

/// What was sent along, of which only size and SHA-256 are written: it may hold what nobody else is to know.
#[derive(Debug, Clone)]
pub struct Body {
    bytes: usize,
    /// Forgotten where too much of it waits to be written.
    content: Option<Bytes>,
}

impl From<&Bytes> for Body {
    fn from(content: &Bytes) -> Body {
        Body { bytes: content.len(), content: Some(content.clone()) }
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Body", 2)?;
        fields.serialize_field("bytes", &self.bytes)?;
        let sum = self.content.as_ref().map(|content| HEXLOWER.encode(&Sha256::digest(content)));
        fields.serialize_field("sha256", &sum)?;
        fields.end()
    }
}

impl Record {
    /// Bytes of bodies that are held until the record is written.
    pub fn held(&self) -> usize {
        self.body().and_then(|body| body.content.as_ref()).map_or(0, Bytes::len)
    }

    /// Lets go of the body: its size is written, its SHA-256 is not.
    pub fn forget_body(&mut self) {
        match self {
            Record::Request(asked) | Record::Cancel(asked) | Record::Admin(asked) => asked.body.content = None,
            Record::LinkRequest(relayed) => relayed.body.iter_mut().for_each(|body| body.content = None),
            _ => {}
        }
    }

    /// Whether anybody can cause any number of these by asking for what they do not get.
    pub fn is_cheap(&self) -> bool {
        let denied = |verdict: &Verdict| verdict.decision == "denied";
        match self {
            Record::Refused { .. } | Record::LinkRefused { .. } => true,
            Record::Login { verdict, .. } => denied(verdict),
            Record::Request(asked) | Record::Cancel(asked) | Record::Admin(asked) => denied(&asked.verdict),
            _ => false,
        }
    }

    fn body(&self) -> Option<&Body> {
        match self {
            Record::Request(asked) | Record::Cancel(asked) | Record::Admin(asked) => Some(&asked.body),
            Record::LinkRequest(relayed) => relayed.body.as_ref(),
            _ => None,
        }
    }
}

impl Asked {
    /// The record of it, decided.
    pub(super) fn decided(mut self, verdict: Verdict) -> Record {
        self.verdict = verdict;
        match self.what {
            What::Request => Record::Request(Box::new(self)),
            What::Cancel => Record::Cancel(Box::new(self)),
            What::Admin => Record::Admin(Box::new(self)),
        }
    }
}

fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn maybe_text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn is_absent(target: &Target) -> bool {
    matches!(target, Target::Absent)
}

fn target<S: Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
    match target {
        Target::Absent => serializer.serialize_none(),
        Target::All => serializer.serialize_str(TARGET_ALL),
        Target::Filter(filter) => serializer.collect_str(filter),
    }
}

//! What can an admin see and do at a broker, beside its policy? Sessions, closed connections, the audit log.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Body of `/muster/admin.sessions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SessionsQuery {
    /// Only of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Only of this kind of user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Connections that are over, the newest first, instead of those that are open.
    pub closed: bool,
    /// Those after the session of this number: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many, up to [`crate::policy::PAGE_MOST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Sessions of the broker that was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionsAnswer {
    /// The broker.
    pub broker: String,
    /// Open ones, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionShown>,
    /// Those that are over, the newest first; a bounded number is remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<ClosedShown>,
    /// `after` of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionShown {
    /// Its number, unique in the broker's life.
    pub session: u64,
    /// Who.
    pub user: String,
    /// `agent`, `operator` or `service`.
    pub kind: String,
    /// From where.
    pub address: String,
    /// The node, for agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its display facts, as the asker may see them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub display: Map<String, Value>,
    /// Since when, Unix ms.
    pub since: u64,
    /// Subscriptions, reply queues included.
    pub subscriptions: u64,
    /// Bytes that wait for it to read.
    pub backlog: u64,
}

/// A session that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClosedShown {
    /// Its number.
    pub session: u64,
    /// Who.
    pub user: String,
    /// From where.
    pub address: String,
    /// The node, for agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Since when it was, Unix ms.
    pub since: u64,
    /// Until when, Unix ms.
    pub until: u64,
    /// Why it ended.
    pub reason: String,
}

/// Body of `/muster/admin.close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CloseQuery {
    /// Which, of the broker that is asked.
    pub session: u64,
    /// Why: the peer is told.
    pub reason: String,
}

/// The answer to [`CloseQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CloseAnswer {
    /// Whose session was closed.
    pub user: String,
}

/// Body of `/muster/admin.audit`: what must hold for a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AuditQuery {
    /// From then on, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Before then, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Exactly this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `allowed` or `denied`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// A destination pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// A node id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The id of a request: asked, cancelled, done, here and from other brokers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// A kind of event, such as `login`. Lines of `peer-head` fit only so, unless something is wrong with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Lines whose number is lower: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// The newest so many, up to [`crate::policy::PAGE_MOST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Lines of the audit log of the broker that was asked, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditAnswer {
    /// The broker.
    pub broker: String,
    /// The lines, as they stand there.
    pub lines: Vec<Value>,
    /// Whether older lines fit too, or may fit: the answer became too large, or enough of the log was read for one question.
    #[serde(default)]
    pub more: bool,
    /// `before` of the next page, if there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

//! Who is this user, and may they log in from there now?

use super::groups::GroupSet;
use super::hidden::Hidden;
use super::peer::Peer;
use ipnet::IpNet;
use muster_protocol::filter::Filter;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// What a user is, which decides what their connections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A managed node: its connections carry a node id, and it may publish facts.
    Agent,
    /// A person.
    Operator,
    /// A program: a CMDB, a bridge.
    Service,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Kind] = &[Kind::Agent, Kind::Operator, Kind::Service];

    /// The one that stands so in the policy.
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }

    /// As it stands in the policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Agent => "agent",
            Kind::Operator => "operator",
            Kind::Service => "service",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An argon2id PHC string whose parameters were found sane. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

impl PasswordHash {
    pub(super) fn new(checked: &str) -> PasswordHash {
        PasswordHash(checked.into())
    }

    /// The PHC string, for whoever verifies a password. Not for logs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}

/// A user of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// The name, as in `login`.
    pub name: String,
    /// What the user is.
    pub kind: Kind,
    /// What the password is checked against.
    pub password: PasswordHash,
    /// Kept in the policy, but may not log in.
    pub disabled: bool,
    /// May not log in from this moment on, Unix seconds.
    pub expires: Option<u64>,
    /// Resumption tokens that were made before this moment are void, Unix seconds.
    pub revoked_before: Option<u64>,
    /// May log in from these networks only; from anywhere if there are none.
    pub networks: Vec<IpNet>,
    /// The name that a client certificate must bear, without which the password is worth nothing; `None`: none is needed.
    pub certificate: Option<String>,
    /// Asserted facts of an agent's node, an object; empty for others.
    pub facts: Value,
    /// The collective of an agent's node; empty for others.
    pub collective: String,
    /// The groups, of the policy that the user is from.
    pub groups: GroupSet,
    /// What every request of the user is and-ed with: all scopes of all groups. `None`: not scoped.
    pub scope: Option<Filter>,
    /// Whether a group has the right to `all`.
    pub may_all: bool,
    /// Whether a group of the user sets any limit.
    pub limited: bool,
    /// Where it stands in the text of the policy, the first line being 1.
    pub line: usize,
    pub(super) hidden: Arc<Hidden>,
}

impl User {
    /// The same user in no group: who has lost everything and is about to be told.
    pub fn without_groups(&self) -> User {
        User { groups: GroupSet::default(), ..self.clone() }
    }

    /// Whether what the user sends counts, wherever it came in. `now` is Unix seconds.
    pub fn is_usable(&self, now: u64) -> bool {
        !self.disabled && self.expires.is_none_or(|end| now < end)
    }

    /// Whether a resumption token of the user that was made then (Unix seconds) is void.
    pub fn revokes(&self, made: u64) -> bool {
        self.revoked_before.is_some_and(|date| made < date)
    }

    /// Why the user may not be connected by this peer at this time (Unix seconds), for the log; `None` if they may.
    /// The peer is told none of it: every failed login gets one answer.
    pub fn barred(&self, peer: &Peer, now: u64) -> Option<&'static str> {
        // A listener on `::` sees IPv4 peers as ::ffff:a.b.c.d; the policy means a.b.c.d.
        let address = peer.ip().to_canonical();
        if self.disabled {
            Some("the user is disabled")
        } else if self.expires.is_some_and(|end| now >= end) {
            Some("the user has expired")
        } else if !self.networks.is_empty() && !self.networks.iter().any(|network| network.contains(&address)) {
            Some("the address is outside the user's networks")
        } else {
            let name = self.certificate.as_deref()?;
            match &peer.certificate {
                None => Some("no client certificate was shown"),
                Some(shown) if !shown.bears(name) => Some("the client certificate is for another name"),
                Some(shown) if now >= shown.ends => Some("the client certificate has expired"),
                Some(_) => None,
            }
        }
    }

    /// From when on the user may not be connected by this peer any more if the policy stays, Unix seconds; `None`: never.
    pub fn barred_from(&self, peer: &Peer) -> Option<u64> {
        let shown = peer.certificate.as_ref().filter(|_| self.certificate.is_some());
        self.expires.into_iter().chain(shown.map(|shown| shown.ends)).min()
    }
}

//! What does the policy say? Who may do what at which destination, to which nodes, and see which facts.
//!
//! The policy is a plain value, made whole from a text ([`Policy::parse`]) or not at all. What it does not grant is
//! refused: an empty policy grants nothing, and entries only add up. Who reads the text from where is `crate::policy`.

mod diff;
mod document;
mod error;
mod explain;
mod groups;
mod hidden;
mod limits;
mod lint;
mod parse;
mod peer;
mod scope;
mod show;
mod user;
mod values;

pub use diff::{Counted, count, diff};
pub use error::PolicyError;
pub(crate) use error::{place, toml_cure};
pub use explain::Grantor;
pub use groups::{GroupSet, MAX_GROUPS};
pub use hidden::{HIDDEN_BY_DEFAULT, Hidden};
pub use limits::{Limit, Limits};
pub use lint::{lint, never_matches};
pub use peer::{Certificate, Names, Peer};
pub use scope::KeptBack;
pub use user::{Kind, PasswordHash, User};
pub(crate) use values::{check_name, shorten};

use super::patterns::PatternMap;
use muster_protocol::destination::{Destination, Pattern, covered};
use muster_protocol::dial::Address;
use muster_protocol::facts::{Path, PathPattern};
use muster_protocol::filter::Filter;
use muster_protocol::message::BrokerName;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The top-level fact that holds what the broker observed itself; nobody else can set it.
pub const OBSERVED: &str = "broker";

/// What an ACL entry can grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// Subscribe, browse.
    Read,
    /// Send.
    Write,
    /// Delete, purge, move.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Right; 3] = [Right::Read, Right::Write, Right::Admin];

    /// As it stands in the policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Admin => "admin",
        }
    }

    /// The one of this word.
    pub fn parse(text: &str) -> Option<Right> {
        Right::ALL.into_iter().find(|right| right.as_str() == text)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A broadcast domain: the first segment of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collective {
    /// The segment.
    pub name: String,
    /// Whether a message to an action topic needs a target.
    pub targeted: bool,
}

/// A broker of the cluster: only those that the policy names can be linked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerEntry {
    /// Where it listens for links; `None` if nobody dials it, or each link says where.
    pub link: Option<Address>,
    /// Where agents and operators reach it, the best one first.
    pub stomp: Vec<Address>,
}

/// A whole policy. `Default` is the empty one, which grants nothing.
#[derive(Debug, Default, PartialEq)]
pub struct Policy {
    authority: Option<BrokerName>,
    brokers: BTreeMap<BrokerName, BrokerEntry>,
    collectives: Vec<Collective>,
    users: BTreeMap<String, Arc<User>>,
    groups: Vec<Group>,
    entries: Vec<Entry>,
    /// The same by what they match: whom all entries for one pattern grant each right.
    grants: PatternMap<[GroupSet; Right::ALL.len()]>,
    display: Vec<Path>,
    asserted: BTreeSet<String>,
    trust_reported: bool,
    /// As it stands there; `None` is [`HIDDEN_BY_DEFAULT`].
    hidden: Option<Vec<PathPattern>>,
    /// Where brokers stand.
    broker_lines: BTreeMap<BrokerName, usize>,
}

/// What the members of a group have in common.
#[derive(Debug, Clone, Default, PartialEq)]
struct Group {
    name: String,
    line: usize,
    scope: Option<Filter>,
    all: bool,
    /// Members of the hidden list that it sees, by their places there.
    shows: BTreeSet<usize>,
    limits: Limits,
    /// How many users are in it.
    members: u64,
}

/// One `[[acl]]` table.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    line: usize,
    destination: Pattern,
    grants: [Grant; Right::ALL.len()],
}

/// Whom an entry grants one right: in the order of the file, and as a set.
#[derive(Debug, Clone, Default, PartialEq)]
struct Grant {
    names: Vec<String>,
    groups: GroupSet,
}

impl Policy {
    /// Takes a policy.toml whole, or refuses it whole with the first mistake.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        parse::parse(text)
    }

    /// The user of this name. Whether they may log in is [`User::barred`].
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// Those who log in with a client certificate only, by name.
    pub fn users_with_certificate(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users().filter(|user| user.certificate.is_some())
    }

    /// The groups that have a right at a destination, by all entries that match it. For a message ask once, then
    /// `user.groups.intersects(&granted)` for each receiver.
    pub fn granted(&self, right: Right, destination: &Destination) -> GroupSet {
        let mut granted = GroupSet::EMPTY;
        self.grants.each(destination, |grants| granted.extend(&grants[right as usize]));
        granted
    }

    /// Whether entries grant a user (of this policy) a right at a destination; see also [`User::kept_back`]. Reply queues are not
    /// the policy's business: it grants nothing there, and whoever owns or was given one needs no entry.
    pub fn allows(&self, user: &User, right: Right, destination: &Destination) -> bool {
        let mut allows = false;
        self.grants.each(destination, |grants| allows |= grants[right as usize].intersects(&user.groups));
        allows
    }

    /// Whether a user may subscribe to a pattern: their read entries together contain everything that it can match.
    pub fn covers(&self, user: &User, pattern: &Pattern) -> bool {
        let readable: Vec<&Pattern> = self.readable(user).map(|entry| &entry.destination).collect();
        covered(pattern, &readable)
    }

    /// What is hidden from a user.
    pub fn hidden<'a>(&self, user: &'a User) -> &'a Hidden {
        &user.hidden
    }

    /// The facts that are shown beside a node id, where they are not hidden from who looks.
    pub fn display(&self) -> &[Path] {
        &self.display
    }

    /// The broker that makes the next edition of this policy, which the others follow. `None`: each broker reads its own file.
    pub fn authority(&self) -> Option<&BrokerName> {
        self.authority.as_ref()
    }

    /// The brokers of the cluster; empty for a broker alone.
    pub fn brokers(&self) -> &BTreeMap<BrokerName, BrokerEntry> {
        &self.brokers
    }

    /// All collectives, the first being the default of agents.
    pub fn collectives(&self) -> &[Collective] {
        &self.collectives
    }

    /// Whether a message to an action topic of this collective needs a target; true for one that is not declared.
    pub fn is_targeted(&self, collective: &str) -> bool {
        self.collectives.iter().find(|known| known.name == collective).is_none_or(|known| known.targeted)
    }

    /// The top-level facts that only the policy sets.
    pub fn asserted(&self) -> impl Iterator<Item = &str> {
        self.asserted.iter().map(String::as_str)
    }

    /// The facts that count for a node: what it reports, without asserted names and `broker`; over that the user's
    /// asserted facts, and what the broker observed (an object) under `broker`. So no agent can place itself in a scope.
    pub fn effective(&self, user: &User, reported: &Value, observed: &Value) -> Value {
        let mut facts = Map::new();
        let believed = |name: &str| name != OBSERVED && !self.asserted.contains(name);
        let own = reported.as_object().into_iter().flatten().filter(|(name, _)| believed(name));
        facts.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        let asserted = user.facts.as_object().into_iter().flatten();
        facts.extend(asserted.map(|(name, value)| (name.clone(), value.clone())));
        if observed.is_object() {
            facts.insert(OBSERVED.into(), observed.clone());
        }
        Value::Object(facts)
    }

    fn readable(&self, user: &User) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.grants(user, Right::Read))
    }
}

impl Entry {
    fn grant(&self, right: Right) -> &Grant {
        &self.grants[right as usize]
    }

    fn grants(&self, user: &User, right: Right) -> bool {
        self.grant(right).groups.intersects(&user.groups)
    }
}

#[cfg(test)]
mod tests;

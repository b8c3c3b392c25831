//! What stands in the policy, how did it come to be, and who may change it? Answers of `/muster/admin.show`, `.history`, `.authority`.
//!
//! Nothing here holds a password or its hash.

use super::{DiffAnswer, Generation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Most members of one page of any list.
pub const PAGE_MOST: u32 = 1_000;

/// Body of `/muster/admin.show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ShowQuery {
    /// Of what.
    pub what: Part,
    /// Only this one: a user, group, destination pattern, collective or broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The members that come after this one: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many, up to [`PAGE_MOST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// `users`, or `users alice`.
impl fmt::Display for ShowQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.as_str())?;
        self.name.iter().try_for_each(|name| write!(f, " {name}"))
    }
}

/// What a policy consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// `[users.…]`, by name.
    Users,
    /// `[groups.…]`, by name, with their scopes and limits.
    Groups,
    /// `[[acl]]`, in the order of the file.
    Acl,
    /// The hidden facts.
    Hidden,
    /// `[[collective]]`, in the order of the file.
    Collectives,
    /// `[brokers.…]`, by name.
    Brokers,
}

impl Part {
    /// As it stands in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Users => "users",
            Part::Groups => "groups",
            Part::Acl => "acl",
            Part::Hidden => "hidden",
            Part::Collectives => "collectives",
            Part::Brokers => "brokers",
        }
    }
}

/// One page of a part of the policy in force at the broker that was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShowAnswer {
    /// Which generation; none if the policy has no seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Of [`Part::Users`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserShown>,
    /// Of [`Part::Groups`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupShown>,
    /// Of [`Part::Acl`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acl: Vec<EntryShown>,
    /// Of [`Part::Hidden`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<HiddenShown>,
    /// Of [`Part::Collectives`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collectives: Vec<CollectiveShown>,
    /// Of [`Part::Brokers`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<BrokerShown>,
    /// `after` of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl ShowAnswer {
    /// How many members of its part it shows.
    pub fn len(&self) -> usize {
        let ShowAnswer { users, groups, acl, hidden, collectives, brokers, generation: _, next: _ } = self;
        users.len() + groups.len() + acl.len() + hidden.len() + collectives.len() + brokers.len()
    }

    /// Whether it shows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A user, without the hash.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub struct UserShown {
    /// Name.
    pub name: String,
    /// `agent`, `operator` or `service`.
    pub kind: String,
    /// May not log in.
    #[serde(default)]
    pub disabled: bool,
    /// From when on not, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Tokens from before are void, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_before: Option<String>,
    /// From where; from anywhere if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Its groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Of an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collective: Option<String>,
    /// Asserted facts of an agent.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
    /// The name that a client certificate must bear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// A group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupShown {
    /// Name.
    pub name: String,
    /// Its scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The right to `all`.
    #[serde(default)]
    pub all: bool,
    /// Hidden facts that it sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shows: Vec<String>,
    /// Its limits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// How many users are in it.
    pub members: u64,
}

/// An entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EntryShown {
    /// Line in the text, the first being 1.
    pub line: u64,
    /// The pattern.
    pub destination: String,
    /// Groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// Groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
    /// Groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admin: Vec<String>,
}

/// A hidden fact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HiddenShown {
    /// The pattern.
    pub pattern: String,
    /// Groups that see it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown_to: Vec<String>,
}

/// A collective.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CollectiveShown {
    /// Name.
    pub name: String,
    /// Whether a command needs a target.
    pub targeted: bool,
}

/// A broker of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrokerShown {
    /// Name.
    pub name: String,
    /// Where it listens for links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Where agents and operators reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stomp: Vec<String>,
}

/// Body of `/muster/admin.history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HistoryQuery {
    /// Only this one, with its changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Those before this one: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Generation>,
    /// At most so many, up to [`PAGE_MOST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Generations that the broker that was asked has, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HistoryAnswer {
    /// These.
    pub editions: Vec<EditionShown>,
    /// `before` of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Generation>,
}

/// A generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EditionShown {
    /// Which.
    pub generation: Generation,
    /// The broker that made it.
    pub authority: String,
    /// The user.
    pub by: String,
    /// The broker that the user was connected to.
    pub via: String,
    /// When, Unix ms.
    pub at: u64,
    /// What was done.
    pub what: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// SHA-256 of its text, hex.
    pub sha256: String,
    /// What is otherwise than in the generation before that is kept here; only if one generation was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<DiffAnswer>,
}

/// Body of `/muster/admin.authority` and `/muster/admin.take`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AuthorityQuery {
    /// Why the authority is taken, for the history.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Who may change the policy, as the broker that was asked sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuthorityAnswer {
    /// The broker that was asked.
    pub broker: String,
    /// Its generation; none if its policy has no seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Who made it, and makes the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Whether there is a way to it.
    pub reachable: bool,
    /// Other brokers that took the same term: nobody edits until one takes the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rivals: Vec<String>,
    /// What the neighbours enforce.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub neighbours: BTreeMap<String, Option<Generation>>,
    /// What an admin should look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
}

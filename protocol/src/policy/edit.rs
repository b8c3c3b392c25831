//! What can be changed in a policy? One edit, as the command line and the API send it to `/muster/admin.edit`.

use super::{DiffAnswer, Generation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Body of `/muster/admin.edit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EditQuery {
    /// What to change.
    pub edit: Edit,
    /// Only if this is still the newest generation: compare and set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Why, for the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Also if nobody is left who may edit the policy, or if an entry can never match.
    #[serde(default)]
    pub force: bool,
    /// Only say what it would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// One change of a policy. Names of tables and fields are those of policy.toml.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "edit", rename_all = "kebab-case")]
pub enum Edit {
    /// A new user.
    UserAdd(UserFields),
    /// Fields of a user that is there: those given are set, those in `unset` taken out.
    UserSet(UserFields),
    /// A user is taken out.
    UserRemove(Named),
    /// A new group.
    GroupAdd(GroupFields),
    /// Fields of a group that is there.
    GroupSet(GroupFields),
    /// A group is taken out, from its members and from entries too; an entry that then grants nothing goes with it.
    GroupRemove(Named),
    /// A user becomes a member of a group.
    GroupAddMember(Member),
    /// A user is a member no more.
    GroupRemoveMember(Member),
    /// Groups get rights at a destination: in the entry for exactly that pattern, or in a new one at the end.
    AclAdd(Grants),
    /// Groups lose rights in the entry for exactly that pattern; without any group named the entry goes. An entry that then
    /// grants nothing goes too.
    AclRemove(Grants),
    /// A group gets a scope, in place of the one that it had.
    ScopeSet(ScopeOf),
    /// A group has no scope any more.
    ScopeRemove(Named),
    /// A pattern is added to the hidden facts; where the file lists none, the default list is written out first.
    HiddenAdd(FactPattern),
    /// A pattern is taken out of the hidden facts.
    HiddenRemove(FactPattern),
    /// A limit of a group.
    LimitSet(LimitOf),
    /// A group has that limit no more.
    LimitRemove(LimitName),
    /// A new collective.
    CollectiveAdd(CollectiveFields),
    /// A setting of a collective that is there.
    CollectiveSet(CollectiveFields),
    /// A collective is taken out.
    CollectiveRemove(Named),
    /// A broker is added to the list, or its addresses are set.
    BrokerSet(BrokerFields),
    /// A broker is taken out of the list.
    BrokerRemove(Named),
    /// Another text for the whole file.
    Text(WholeText),
    /// The text of an earlier generation, as a new one.
    Revert(RevertTo),
}

/// A thing by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Which.
    pub name: String,
}

/// Fields of a user.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct UserFields {
    /// Which user.
    pub name: String,
    /// `agent`, `operator` or `service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// An argon2id PHC string; never a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// May not log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// A date or date-time with offset, as in policy.toml.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Tokens from before this moment are void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_before: Option<String>,
    /// All its networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// All its groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// The collective of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collective: Option<String>,
    /// All asserted facts of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<Map<String, Value>>,
    /// The name that a client certificate must bear beside the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Fields to take out, by their names in policy.toml.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

impl std::fmt::Debug for UserFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A hash is no password, but it can be attacked where it is read.
        f.debug_struct("UserFields").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Fields of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct GroupFields {
    /// Which group.
    pub name: String,
    /// A filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The right to `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// All members of the hidden list that it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shows: Option<Vec<String>>,
    /// Limits by their names in policy.toml (`max-targets`, …).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// Fields to take out, by their names in policy.toml.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

/// A user in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The group.
    pub group: String,
    /// The user.
    pub user: String,
}

/// Rights of groups at a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// A destination pattern.
    pub destination: String,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub admin: Vec<String>,
}

/// A scope of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ScopeOf {
    /// The group.
    pub group: String,
    /// A filter.
    pub filter: String,
}

/// A pattern of fact paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FactPattern {
    /// As in `hidden`.
    pub pattern: String,
}

/// A limit of a group with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitOf {
    /// The group.
    pub group: String,
    /// `max-targets`, `requests-per-minute`, `in-flight` or `sessions`.
    pub limit: String,
    /// At most so many.
    pub most: u64,
}

/// A limit of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitName {
    /// The group.
    pub group: String,
    /// As in [`LimitOf`].
    pub limit: String,
}

/// A collective.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CollectiveFields {
    /// Which.
    pub name: String,
    /// Whether a command needs a target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targeted: Option<bool>,
}

/// A broker of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BrokerFields {
    /// Which.
    pub name: String,
    /// Where it listens for links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Where agents and operators reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stomp: Option<Vec<String>>,
}

/// A whole policy.toml.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WholeText {
    /// The text.
    pub policy: String,
}

impl std::fmt::Debug for WholeText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It holds hashes.
        write!(f, "WholeText({} bytes)", self.policy.len())
    }
}

/// An earlier generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RevertTo {
    /// Which; `muster admin history` lists them.
    pub to: Generation,
}

impl Edit {
    /// What is done, one line for history and audit, without secrets: `user add alice`.
    pub fn summary(&self) -> String {
        let grants = |verb: &str, grants: &Grants| {
            let mut text = format!("acl {verb} {}", grants.destination);
            for (right, groups) in [("read", &grants.read), ("write", &grants.write), ("admin", &grants.admin)] {
                if !groups.is_empty() {
                    text.push_str(&format!(" {right}={}", groups.join(",")));
                }
            }
            text
        };
        match self {
            Edit::UserAdd(user) => format!("user add {}", user.name),
            Edit::UserSet(user) => format!("user set {}", user.name),
            Edit::UserRemove(user) => format!("user remove {}", user.name),
            Edit::GroupAdd(group) => format!("group add {}", group.name),
            Edit::GroupSet(group) => format!("group set {}", group.name),
            Edit::GroupRemove(group) => format!("group remove {}", group.name),
            Edit::GroupAddMember(member) => format!("group add-member {} {}", member.group, member.user),
            Edit::GroupRemoveMember(member) => format!("group remove-member {} {}", member.group, member.user),
            Edit::AclAdd(entry) => grants("add", entry),
            Edit::AclRemove(entry) => grants("remove", entry),
            Edit::ScopeSet(scope) => format!("scope set {} {}", scope.group, scope.filter),
            Edit::ScopeRemove(group) => format!("scope remove {}", group.name),
            Edit::HiddenAdd(hidden) => format!("hidden add {}", hidden.pattern),
            Edit::HiddenRemove(hidden) => format!("hidden remove {}", hidden.pattern),
            Edit::LimitSet(limit) => format!("limit set {} {} {}", limit.group, limit.limit, limit.most),
            Edit::LimitRemove(limit) => format!("limit remove {} {}", limit.group, limit.limit),
            Edit::CollectiveAdd(collective) => format!("collective add {}", collective.name),
            Edit::CollectiveSet(collective) => format!("collective set {}", collective.name),
            Edit::CollectiveRemove(collective) => format!("collective remove {}", collective.name),
            Edit::BrokerSet(broker) => format!("broker set {}", broker.name),
            Edit::BrokerRemove(broker) => format!("broker remove {}", broker.name),
            Edit::Text(_) => "apply a whole policy".to_owned(),
            Edit::Revert(revert) => format!("revert to {}", revert.to),
        }
    }
}

/// What an edit did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EditAnswer {
    /// The generation that holds now; none if the policy has no seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// What is otherwise than before. Empty: the policy stood so already, and no new generation was made.
    pub changes: DiffAnswer,
    /// Nothing was changed.
    #[serde(default)]
    pub dry_run: bool,
}

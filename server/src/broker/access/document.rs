//! What stands in a policy.toml? Its tables and fields as serde sees them, each value with its place.

use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::value::Datetime;

pub(super) type Text = Spanned<String>;

/// The whole file. Fields are documented for admins in docs/policy.md.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) authority: Option<Text>,
    #[serde(default)]
    pub(super) trust_reported: bool,
    #[serde(default)]
    pub(super) asserted: Vec<Text>,
    #[serde(default)]
    pub(super) display: Vec<Text>,
    pub(super) hidden: Option<Vec<Text>>,
    #[serde(default)]
    pub(super) collective: Vec<CollectiveTable>,
    #[serde(default)]
    pub(super) brokers: BTreeMap<Text, BrokerTable>,
    #[serde(default)]
    pub(super) users: BTreeMap<Text, UserTable>,
    #[serde(default)]
    pub(super) groups: BTreeMap<Text, GroupTable>,
    #[serde(default)]
    pub(super) acl: Vec<AclTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CollectiveTable {
    pub(super) name: Text,
    #[serde(default = "yes")]
    pub(super) targeted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct BrokerTable {
    pub(super) link: Option<Text>,
    #[serde(default)]
    pub(super) stomp: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct UserTable {
    pub(super) kind: Text,
    /// Any value: serde's own error about a wrong type would quote what may be a password.
    pub(super) password: Spanned<toml::Value>,
    #[serde(default)]
    pub(super) disabled: bool,
    pub(super) expires: Option<Spanned<Datetime>>,
    /// A date, or a text that is one.
    pub(super) revoked_before: Option<Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) networks: Vec<Text>,
    pub(super) certificate: Option<Text>,
    #[serde(default)]
    pub(super) groups: Vec<Text>,
    pub(super) collective: Option<Text>,
    pub(super) facts: Option<Spanned<BTreeMap<Text, toml::Value>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct GroupTable {
    pub(super) scope: Option<Text>,
    #[serde(default)]
    pub(super) all: bool,
    #[serde(default)]
    pub(super) shows: Vec<Text>,
    pub(super) max_targets: Option<Spanned<i64>>,
    pub(super) requests_per_minute: Option<Spanned<i64>>,
    pub(super) in_flight: Option<Spanned<i64>>,
    pub(super) sessions: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct AclTable {
    pub(super) destination: Text,
    #[serde(default)]
    pub(super) read: Vec<Text>,
    #[serde(default)]
    pub(super) write: Vec<Text>,
    #[serde(default)]
    pub(super) admin: Vec<Text>,
}

fn yes() -> bool {
    true
}

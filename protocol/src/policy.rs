//! What is said about a policy, and done to it? What another one would change in it, and what looks wrong in it; below it the edits,
//! what is shown of it, and its generations.
//!
//! Answers of `/muster/admin.diff` and `/muster/admin.lint`, and of the same commands of `musterd` without a broker. `Display` is what
//! people read. Nothing here holds a password or its hash.

mod edit;
mod edition;
mod show;

pub use edit::{
    BrokerFields, CollectiveFields, Edit, EditAnswer, EditQuery, FactPattern, Grants, GroupFields, LimitName, LimitOf,
    Member, Named, RevertTo, ScopeOf, UserFields, WholeText,
};
pub use edition::{
    Generation, LINEAGE_MOST, Made, NoGeneration, PART, PolicyPart, PolicyState, Seal, Stamp, Took, WINDOW, WantPolicy,
};
pub use show::{
    AuthorityAnswer, AuthorityQuery, BrokerShown, CollectiveShown, EditionShown, EntryShown, GroupShown, HiddenShown,
    HistoryAnswer, HistoryQuery, PAGE_MOST, Part, ShowAnswer, ShowQuery, UserShown,
};

use serde::{Deserialize, Serialize};
use std::fmt;

/// Most changes, rights or findings in one answer; how many more there are is said.
pub const MOST: usize = 2_000;

/// The names below `/muster/` that brokers answer at.
pub const SYSTEM: [&str; 17] = [
    "facts",
    "find",
    "report",
    "node",
    "cancel",
    "mesh",
    "admin.explain",
    "admin.diff",
    "admin.lint",
    "admin.show",
    "admin.edit",
    "admin.history",
    "admin.authority",
    "admin.take",
    "admin.sessions",
    "admin.close",
    "admin.audit",
];

/// Body of `/muster/admin.diff`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    /// The text of the proposed policy.toml.
    pub policy: String,
}

/// Body of `/muster/admin.lint`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LintQuery {
    /// The text of a policy.toml; without it the policy in force is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// What a new policy would change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiffAnswer {
    /// What stands otherwise in the new one.
    pub changes: Vec<Change>,
    /// Which rights users gain and lose by it.
    pub rights: Vec<RightChange>,
    /// How many of both were left out of the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

/// Whether something is there only afterwards, only before, or otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Only in the new policy.
    Added,
    /// Only in the old one.
    Removed,
    /// In both, not the same.
    Changed,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Change {
    /// `user`, `group`, `entry`, `collective`, `broker`, `asserted`, `hidden`, `display` or `setting`.
    pub what: String,
    /// Which one.
    pub name: String,
    /// How.
    pub how: How,
    /// What is otherwise, for people, such as `scope: none -> customer = acmeinc`. A password is `password changed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// A right that a user gains or loses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RightChange {
    /// Who.
    pub user: String,
    /// True if it is gained.
    pub granted: bool,
    /// `read`, `write` or `admin`.
    pub right: String,
    /// At some destination of this pattern at least; where other entries grant it before or after, nothing changes.
    pub pattern: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It opens a way, or locks somebody out.
    Danger,
    /// It does not do what it seems to.
    Warning,
    /// It does nothing.
    Note,
}

/// Something in a policy that looks wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Line in the text, the first being 1; `None` for the policy as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What looks wrong.
    pub what: String,
    /// What to do about it.
    pub cure: String,
}

/// Everything that looks wrong in a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LintAnswer {
    /// By line.
    pub findings: Vec<Finding>,
    /// How many were left out of the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

impl DiffAnswer {
    /// Whether the new policy grants and takes the same as the old one.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.rights.is_empty()
    }
}

/// A line for each change and each right, the changes first. `+` is added or granted, `-` removed or taken, `~` changed.
impl fmt::Display for DiffAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Change { what, name, how, details } in &self.changes {
            let sign = match how {
                How::Added => '+',
                How::Removed => '-',
                How::Changed => '~',
            };
            writeln!(f, "{sign} {what} {name}")?;
            for detail in details {
                writeln!(f, "    {detail}")?;
            }
        }
        for RightChange { user, granted, right, pattern } in &self.rights {
            let sign = if *granted { "+ granted" } else { "- taken" };
            writeln!(f, "{sign}: {user} {right} {pattern}")?;
        }
        more(f, self.more)
    }
}

/// A line for each finding: `line 12: warning: WHAT; CURE`.
impl fmt::Display for LintAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { severity, line, what, cure } in &self.findings {
            if let Some(line) = line {
                write!(f, "line {line}: ")?;
            }
            let severity = match severity {
                Severity::Danger => "danger",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            writeln!(f, "{severity}: {what}; {cure}")?;
        }
        more(f, self.more)
    }
}

fn more(f: &mut fmt::Formatter<'_>, more: u64) -> fmt::Result {
    if more == 0 { Ok(()) } else { writeln!(f, "… and {more} more") }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_document_lists_every_system_destination() {
        let document = include_str!("../../docs/protocol.md");
        for name in SYSTEM {
            assert!(document.contains(&format!("| `/muster/{name}`")), "docs/protocol.md lacks {name}");
        }
    }

    #[test]
    fn people_read_a_line_for_each() {
        let details = vec!["password changed".to_owned()];
        let change = Change { what: "user".into(), name: "bob".into(), how: How::Changed, details };
        let taken =
            RightChange { user: "bob".into(), granted: false, right: "write".into(), pattern: "/topic/a.>".into() };
        let diff = DiffAnswer { changes: vec![change], rights: vec![taken], more: 3 };
        let text = "~ user bob\n    password changed\n- taken: bob write /topic/a.>\n… and 3 more\n";
        assert_eq!(diff.to_string(), text);
        let finding = Finding {
            severity: Severity::Danger,
            line: Some(7),
            what: "nobody is an admin".into(),
            cure: "add one".into(),
        };
        let lint = LintAnswer { findings: vec![finding], more: 0 };
        assert_eq!(lint.to_string(), "line 7: danger: nobody is an admin; add one\n");
        let json = serde_json::to_value(&lint).unwrap();
        assert_eq!(json["findings"][0]["severity"], "danger");
        assert_eq!(serde_json::from_value::<LintAnswer>(json).unwrap(), lint);
    }
}

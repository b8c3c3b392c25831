//! Why may a user do this, or why not? The answer of `muster admin explain`, from the policy alone.

use super::limits::Limit;
use super::user::User;
use super::{Entry, KeptBack, Policy, Right};
use muster_protocol::destination::{Destination, Kind, Pattern, covered};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::request::{Bound, ExplainAnswer};
use serde::Serialize;

/// An entry that grants somebody something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grantor {
    /// Where it stands in the policy, from 1.
    pub line: usize,
    /// Its destination pattern.
    pub destination: String,
    /// Through which groups of the user, comma-separated.
    pub groups: String,
}

impl Policy {
    /// Says whether a user has a right at a destination, which entries grant it through which groups, what the scope keeps back,
    /// the scope and limits. For `read` the destination may be a pattern: then the entries are those that cover it together.
    ///
    /// Refused: a user that the policy does not have, a right that is none, a destination that is not well formed.
    pub fn explain(&self, user: &str, right: &str, destination: &str) -> Result<ExplainAnswer, Refusal> {
        let user = self.known(user)?;
        let right = Right::parse(right)
            .ok_or_else(|| Refusal::new(Code::BadBody, "the right is not one of read, write and admin"))?;
        let malformed = |error: muster_protocol::destination::DestinationError| {
            Refusal::new(Code::BadDestination, error.to_string())
        };
        let pattern = match right {
            Right::Read => Pattern::parse(destination).map_err(malformed)?,
            Right::Write | Right::Admin => Destination::parse(destination).map_err(malformed)?.into(),
        };
        Ok(self.answer(user, right, &pattern))
    }

    /// The entries that grant a user (of this policy) a right at a destination; none if none does.
    pub fn grantors(&self, user: &User, right: Right, destination: &Destination) -> Vec<Grantor> {
        let granting = self.granting(user, right, &destination.clone().into());
        let grantor = |entry: &&Entry| Grantor {
            line: entry.line,
            destination: entry.destination.to_string(),
            groups: self.names_of(&entry.grant(right).groups.intersection(&user.groups)),
        };
        granting.iter().map(grantor).collect()
    }

    fn answer(&self, user: &User, right: Right, pattern: &Pattern) -> ExplainAnswer {
        let granting = self.granting(user, right, pattern);
        let scope = user.scope.as_ref().map(ToString::to_string);
        let written = written(right, pattern);
        let kept = written.as_ref().and_then(|destination| user.kept_back(destination));
        ExplainAnswer {
            allowed: !granting.is_empty() && kept != Some(KeptBack::Answer),
            entries: granting.iter().map(|entry| entry.to_string()).collect(),
            text: self.text(user, right, pattern, &granting, kept, scope.as_deref()),
            scope,
            all: user.may_all,
            limits: self.limits_of(user, written.as_ref()),
            hidden: None,
            reached: None,
            without: Vec::new(),
        }
    }

    fn limits_of(&self, user: &User, written: Option<&Destination>) -> Vec<Bound> {
        let topic = written.filter(|destination| destination.kind() == Kind::Topic);
        let at = |limit: Limit| match (limit, topic) {
            (Limit::Sessions, _) => self.session_limit(user),
            (_, Some(destination)) => self.limit_at(user, limit, destination),
            (_, None) => None,
        };
        Limit::ALL.into_iter().filter_map(at).collect()
    }

    /// All entries that grant a concrete destination; for a pattern as few as cover it together, none if all do not.
    fn granting(&self, user: &User, right: Right, pattern: &Pattern) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.iter().filter(|entry| entry.grants(user, right)).collect();
        if pattern.is_concrete() {
            entries.retain(|entry| covered(pattern, &[&entry.destination]));
            return entries;
        }
        let covers =
            |entries: &[&Entry]| covered(pattern, &entries.iter().map(|entry| &entry.destination).collect::<Vec<_>>());
        if !covers(&entries) {
            return Vec::new();
        }
        // An entry that covers it alone says most; else drop, from the last to the first, what is not needed.
        if let Some(alone) = entries.iter().find(|entry| covers(&[**entry])) {
            return vec![alone];
        }
        for place in (0..entries.len()).rev() {
            let dropped = entries.remove(place);
            if !covers(&entries) {
                entries.insert(place, dropped);
            }
        }
        entries
    }

    fn text(
        &self,
        user: &User,
        right: Right,
        pattern: &Pattern,
        granting: &[&Entry],
        kept: Option<KeptBack>,
        scope: Option<&str>,
    ) -> String {
        let name = &user.name;
        let mut lines = Vec::new();
        if matches!(pattern.kind(), Kind::TempQueue | Kind::RemoteTempQueue) {
            lines.push("Reply queues are private to their connections: the policy says nothing about them.".to_owned());
        } else if granting.is_empty() {
            let groups = self.names(user);
            lines.push(format!(
                "{name} may not {right} {pattern}: no entry grants it{}.",
                match groups.as_str() {
                    "" => " (the user is in no group)".to_owned(),
                    groups => format!(" to {groups}"),
                }
            ));
            if !pattern.is_concrete() {
                lines.push("The entries together must cover everything that the pattern can match.".to_owned());
            }
        } else {
            lines.push(match kept {
                Some(kept @ KeptBack::Answer) => {
                    let why = kept.why(name);
                    format!("{name} may not {right} {pattern}: {why}. These entries would grant it without a scope:")
                }
                Some(KeptBack::Numbers) | None => format!("{name} may {right} {pattern}:"),
            });
            for entry in granting {
                let groups = entry.grant(right).groups.intersection(&user.groups);
                lines.push(format!("  line {} by {}: {}", entry.line, self.names_of(&groups), entry.destination));
            }
        }
        if let (Some(kept @ KeptBack::Numbers), false) = (kept, granting.is_empty()) {
            let why = kept.why(name);
            lines.push(format!("The answer has no numbers of nodes, and /metrics of the HTTP API is refused: {why}."));
        }
        if let Some(scope) = scope {
            lines.push(format!("Every request of {name} is and-ed with the scope: {scope}"));
        }
        if user.disabled {
            lines.push(format!("{name} is disabled and cannot log in."));
        }
        if let Some(certificate) = &user.certificate {
            lines.push(format!("{name} logs in only with a client certificate for {certificate}."));
        }
        lines.join("\n")
    }

    pub(super) fn names(&self, user: &User) -> String {
        self.names_of(&user.groups)
    }

    fn names_of(&self, groups: &super::GroupSet) -> String {
        groups
            .places()
            .filter_map(|place| self.groups.get(place))
            .map(|group| group.name.clone())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What is written to, if that is what is asked about.
fn written(right: Right, pattern: &Pattern) -> Option<Destination> {
    (right == Right::Write).then(|| Destination::parse(pattern.as_str()).ok()).flatten()
}

/// On one line, as it stands in the file: `line 12: destination = "/topic/a" read = ["noc"]`.
impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: destination = \"{}\"", self.line, self.destination)?;
        for right in Right::ALL {
            let names = &self.grant(right).names;
            if !names.is_empty() {
                write!(f, " {right} = {names:?}")?;
            }
        }
        Ok(())
    }
}

//! What is other in a new policy? Numbers for the audit log: what came, what went, what is not as it was.

use super::user::User;
use super::{Entry, Policy, Right};
use serde::Serialize;
use std::collections::HashMap;

/// What a new policy changes, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Users; `changed` if anything of theirs is, groups, scope and hidden facts included.
    pub users: Changed,
    /// Groups by name. What a change within one does, shows in its users.
    pub groups: Changed,
    /// ACL entries, wherever they stand; one that was changed went, and another one came.
    pub entries: Changed,
    /// Brokers of the list.
    pub brokers: Changed,
}

/// How many there are, and how many of them are new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// In the new policy.
    pub now: usize,
    /// Not in the old one.
    pub added: usize,
    /// Not in the new one any more.
    pub removed: usize,
    /// In both, and not the same.
    pub changed: usize,
}

impl Policy {
    /// What is other than in `old`.
    pub fn changes(&self, old: &Policy) -> Changes {
        let names = |policy: &Policy, user: &User| policy.names(user);
        let same = |user: &User, before: &User| {
            // Sets of groups of two policies do not compare; their names do.
            names(self, user) == names(old, before) && user.without_groups() == before.without_groups()
        };
        let users = compare(
            self.users.iter().map(|(name, user)| (name, &**user)),
            old.users.iter().map(|(name, user)| (name, &**user)),
            same,
        );
        let list = |groups: &[String]| groups.iter().map(|name| (name.clone(), ())).collect::<Vec<_>>();
        let groups = compare(list(&self.groups), list(&old.groups), |(), ()| true);
        let entries = compare(counted(&self.entries), counted(&old.entries), |_, _| true);
        let brokers = compare(&self.brokers, &old.brokers, |entry, before| entry == before);
        Changes { users, groups, entries, brokers }
    }
}

fn compare<K: std::hash::Hash + Eq, V>(
    new: impl IntoIterator<Item = (K, V)>,
    old: impl IntoIterator<Item = (K, V)>,
    same: impl Fn(V, V) -> bool,
) -> Changed {
    let mut old: HashMap<K, V> = old.into_iter().collect();
    let mut found = Changed::default();
    for (name, value) in new {
        found.now += 1;
        match old.remove(&name) {
            None => found.added += 1,
            Some(before) => found.changed += usize::from(!same(value, before)),
        }
    }
    found.removed = old.len();
    found
}

/// Each entry as it grants, the second of two equal ones told from the first.
fn counted(entries: &[Entry]) -> Vec<((String, usize), ())> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut counted = Vec::new();
    for entry in entries {
        let grants: Vec<&[String]> = Right::ALL.iter().map(|right| &*entry.grant(*right).names).collect();
        let text = format!("{} {grants:?}", entry.destination);
        let nth = seen.entry(text.clone()).or_default();
        counted.push(((text, *nth), ()));
        *nth += 1;
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHC: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$7HqG0VZ1c5mTn5rTzxS8mGv5Q5b6X1mM9pV0q2m5m0Q";
    const OLD: &str = r#"
[[collective]]
name = "prod"
[users.a]
kind = "operator"
password = "PHC"
groups = ["one"]
[users.b]
kind = "operator"
password = "PHC"
groups = ["two"]
[groups.one]
[groups.two]
[[acl]]
destination = "/topic/prod.>"
read = ["one"]
[[acl]]
destination = "/topic/prod.>"
read = ["one"]
"#;

    fn policy(text: &str) -> Policy {
        Policy::parse(&text.replace("PHC", PHC)).unwrap()
    }

    #[test]
    fn changes_are_counted() {
        let old = policy(OLD);
        let nothing = policy(OLD).changes(&old);
        let same = |now| Changed { now, ..Changed::default() };
        assert_eq!(
            nothing,
            Changes { users: same(2), groups: same(2), entries: same(2), brokers: same(0) },
            "two equal entries are two"
        );
        let moved = OLD.replace("[groups.one]\n[groups.two]", "[groups.new]\n[groups.two]\n[groups.one]");
        let moved = policy(&moved).changes(&old);
        assert_eq!((moved.users, moved.groups), (same(2), Changed { now: 3, added: 1, ..Changed::default() }));
        let other =
            OLD.replace("groups = [\"two\"]", "disabled = true").replacen("read = [\"one\"]", "read = [\"two\"]", 1);
        let other = policy(&other).changes(&old);
        assert_eq!(other.users, Changed { now: 2, changed: 1, ..Changed::default() });
        assert_eq!(other.entries, Changed { now: 2, added: 1, removed: 1, changed: 0 });
        let none = Policy::default().changes(&old);
        assert_eq!(none.users, Changed { removed: 2, ..Changed::default() });
        let scoped = OLD.replace("[groups.one]", "trust-reported = true\n[groups.one]\nscope = \"a=b\"");
        let scoped = scoped.replace("trust-reported = true\n", "");
        let scoped = policy(&format!("trust-reported = true\n{scoped}")).changes(&old);
        assert_eq!(scoped.users.changed, 1, "a scope is its users' matter");
    }
}

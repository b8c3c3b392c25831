//! What looks wrong in a policy that is well formed? Entries without effect, ways too wide, groups and users that lead nowhere.

use super::limits::Limit;
use super::user::{Kind, User};
use super::{Entry, OBSERVED, Policy, Right};
use argon2::Params;
use argon2::password_hash::phc;
use muster_protocol::destination::{Destination, Kind as DestinationKind, MAX_SEGMENTS, Pattern, covered};
use muster_protocol::filter::Predicate;
use muster_protocol::policy::{Finding, LintAnswer, MOST, SYSTEM, Severity};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Least memory (KiB) times passes of a password's hash: what is recommended for argon2id, such as 19 MiB in 2 passes.
const LEAST_WORK: u64 = 36 * 1024;

/// Everything that looks wrong, by line; at most [`MOST`] findings.
pub fn lint(policy: &Policy) -> LintAnswer {
    let mut lint = Lint { policy, findings: Vec::new() };
    lint.entries();
    lint.contained();
    lint.groups();
    lint.users();
    lint.agents();
    lint.scopes();
    lint.admins();
    lint.brokers();
    let mut findings = lint.findings;
    findings.sort_by(|a, b| (a.line, a.severity, &a.what).cmp(&(b.line, b.severity, &b.what)));
    let more = findings.len().saturating_sub(MOST) as u64;
    findings.truncate(MOST);
    LintAnswer { findings, more }
}

struct Lint<'p> {
    policy: &'p Policy,
    findings: Vec<Finding>,
}

impl Lint<'_> {
    fn find(&mut self, severity: Severity, line: Option<usize>, what: String, cure: impl Into<String>) {
        self.findings.push(Finding { severity, line, what, cure: cure.into() });
    }

    /// Entries that can never match, grant nothing, or grant too much.
    fn entries(&mut self) {
        let policy = self.policy;
        for entry in &policy.entries {
            let (line, destination) = (Some(entry.line), &entry.destination);
            let given = |right: Right| !entry.grant(right).names.is_empty();
            if !Right::ALL.into_iter().any(given) {
                let what = format!("{destination} is granted to nobody");
                self.find(Severity::Note, line, what, "name groups in read, write or admin, or remove the entry");
                continue;
            }
            if let Some((what, cure)) = never_matches(destination) {
                self.find(Severity::Warning, line, what, cure);
                continue;
            }
            if destination.kind() == DestinationKind::Muster && given(Right::Read) {
                let what = format!("read on {destination} has no effect: nobody subscribes there");
                self.find(Severity::Note, line, what, "remove `read`; asking is `write`");
            }
            if given(Right::Admin) {
                let what = format!("admin on {destination} has no effect: it is for queues, which are not there yet");
                self.find(Severity::Note, line, what, "remove `admin`");
            }
            self.breadth(entry);
        }
    }

    /// Write on every topic of a collective or more.
    fn breadth(&mut self, entry: &Entry) {
        let (destination, grant) = (&entry.destination, entry.grant(Right::Write));
        let is_open = destination.kind() == DestinationKind::Topic && destination.segments().last() == Some(">");
        if !is_open || grant.names.is_empty() || !is_action(destination) {
            return;
        }
        let groups = grant.names.join(", ");
        let first = destination.segments().next().unwrap_or_default();
        let what =
            format!("{groups} may write to every topic of {destination}, so run every action there is or will be");
        let (severity, cure) = match first {
            ">" | "*" => (Severity::Danger, "grant what is meant, such as /topic/prod.*.status".to_owned()),
            _ => {
                let rest: Vec<&str> = destination.segments().collect();
                let actions = format!("/topic/{}{}", rest[..rest.len() - 1].join("."), ".*".repeat(4 - rest.len()));
                (
                    Severity::Warning,
                    format!("write {actions} if actions are meant, or less, such as /topic/{first}.*.status"),
                )
            }
        };
        self.find(severity, Some(entry.line), what, cure);
    }

    /// Grants that another entry contains.
    fn contained(&mut self) {
        let policy = self.policy;
        for right in Right::ALL {
            // Only entries for the same group are compared.
            let mut by_group: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
            for entry in &policy.entries {
                let names: BTreeSet<&str> = entry.grant(right).names.iter().map(String::as_str).collect();
                names.into_iter().for_each(|name| by_group.entry(name).or_default().push(entry));
            }
            for (group, entries) in by_group {
                for (place, entry) in entries.iter().enumerate() {
                    let contains = |other: usize| {
                        let (inner, outer) = (&entry.destination, &entries[other].destination);
                        // Of two equal ones the later is the one too many.
                        other != place && (inner != outer || other < place) && covered(inner, &[outer])
                    };
                    let Some(other) = (0..entries.len()).find(|other| contains(*other)) else { continue };
                    let other = entries[other];
                    let what = format!(
                        "{right} on {} for {group} is contained in line {} ({})",
                        entry.destination, other.line, other.destination
                    );
                    let cure = format!("remove {group} from `{right}` here, or narrow line {}", other.line);
                    self.find(Severity::Note, Some(entry.line), what, cure);
                }
            }
        }
    }

    fn groups(&mut self) {
        let policy = self.policy;
        let named = policy.named();
        for (place, group) in policy.groups.iter().enumerate() {
            let (line, name) = (Some(group.line), &group.name);
            if !policy.users().any(|user| user.groups.places().any(|of| of == place)) {
                let what = format!("no user is in the group {name}");
                self.find(Severity::Note, line, what, format!("add \"{name}\" to `groups` of a user, or remove it"));
            }
            if named.places().any(|of| of == place) {
                continue;
            }
            if !group.limits.is_empty() {
                let set = Limit::ALL.into_iter().filter(|limit| group.limits.get(*limit).is_some());
                let set: Vec<&str> = set.map(Limit::as_str).collect();
                let what = format!("no entry names the group {name}, so its {} limits nobody", set.join(", "));
                self.find(Severity::Warning, line, what, "put limits on the groups that entries name");
            } else if group.scope.is_none() && !group.all && group.shows.is_empty() {
                let what = format!("no entry names the group {name}, so it grants nothing");
                self.find(Severity::Note, line, what, "name it in an [[acl]], or remove it");
            }
        }
    }

    fn users(&mut self) {
        for user in self.sorted() {
            let (line, name) = (Some(user.line), &user.name);
            if user.groups.is_empty() {
                let what = format!("the user {name} is in no group and can do nothing");
                self.find(Severity::Note, line, what, "add `groups`, or remove the user");
            }
            if let Some((memory, passes)) = weak(&user) {
                let what = format!("the password of {name} is hashed with only {memory} KiB in {passes} passes");
                let cure = "set the password again: `musterd passwd` makes a hash with 19456 KiB in 2 passes";
                self.find(Severity::Warning, line, what, cure);
            }
        }
    }

    fn sorted(&self) -> Vec<Arc<User>> {
        let mut users: Vec<Arc<User>> = self.policy.users().cloned().collect();
        users.sort_by_key(|user| user.line);
        users
    }

    /// Nodes that may run actions on others: whoever holds one holds them all.
    fn agents(&mut self) {
        let policy = self.policy;
        let agents: Vec<Arc<User>> = self.sorted().into_iter().filter(|user| user.kind == Kind::Agent).collect();
        for entry in policy.entries.iter().filter(|entry| is_action(&entry.destination)) {
            let writing: Vec<&Arc<User>> = agents.iter().filter(|user| entry.grants(user, Right::Write)).collect();
            let Some(first) = writing.first() else { continue };
            let who = match writing.len() {
                1 => format!("the agent user {}", first.name),
                many => format!("the agent user {} and {} more", first.name, many - 1),
            };
            let what = format!("{who} may write to {}, so a node may run actions on others", entry.destination);
            let cure = "grant it to groups of operators and services only; agents answer without an entry";
            self.find(Severity::Danger, Some(entry.line), what, cure);
        }
    }

    fn scopes(&mut self) {
        let policy = self.policy;
        let given = |name: &str| policy.users().any(|user| user.facts.get(name).is_some());
        for group in &policy.groups {
            let mut seen = BTreeSet::new();
            for predicate in group.scope.iter().flat_map(|scope| scope.predicates()) {
                let (line, name) = (Some(group.line), &group.name);
                let top = predicate.path().and_then(|path| path.segments().next());
                if !seen.insert(top.map(str::to_owned)) {
                    continue;
                }
                match top {
                    Some(OBSERVED) => {}
                    Some(top) if policy.asserted.contains(top) => {
                        if !given(top) {
                            let what = format!("the scope of {name} asks for {top}, which no agent user asserts");
                            let cure = format!("add {top} to `facts` of agent users, or correct the scope");
                            self.find(Severity::Warning, line, what, cure);
                        }
                    }
                    _ => {
                        let fact = match predicate {
                            Predicate::Class { .. } | Predicate::ClassMatch { .. } => "classes".to_owned(),
                            _ => top.unwrap_or_default().to_owned(),
                        };
                        let what =
                            format!("the scope of {name} asks for {fact}, which a node reports itself and can forge");
                        let cure = "use an asserted fact, and take `trust-reported` away";
                        self.find(Severity::Danger, line, what, cure);
                    }
                }
            }
        }
    }

    /// Without a clock: a user that expires one day is an admin today.
    fn admins(&mut self) {
        let Ok(admin) = Pattern::parse("/muster/admin.>") else { return };
        let is_admin = |user: &Arc<User>| {
            let entries = self.policy.entries.iter().filter(|entry| entry.grants(user, Right::Write));
            covered(&admin, &entries.map(|entry| &entry.destination).collect::<Vec<_>>())
        };
        if !self.policy.users().any(|user| !user.disabled && user.kind != Kind::Agent && is_admin(user)) {
            let what = "no user that is not disabled may write to /muster/admin.>, so nobody is an admin".to_owned();
            let cure = "add destination = \"/muster/admin.>\", write = [\"admin\"] and a user in that group";
            self.find(Severity::Danger, None, what, cure);
        }
    }

    fn brokers(&mut self) {
        let policy = self.policy;
        if policy.brokers.len() > 1 && policy.authority.is_none() {
            let what = "no broker has the authority, so edits are refused: each broker reads its own file".to_owned();
            let cure =
                "name the one that makes the next policy, such as authority = \"noc1\", and the others follow it";
            self.find(Severity::Warning, None, what, cure);
        }
        for (name, entry) in &policy.brokers {
            if entry.link.is_none() && entry.stomp.is_empty() {
                let what = format!("the broker {name} has no address");
                let cure = "add `link`, where other brokers dial it, or `stomp`, where agents and operators do";
                self.find(Severity::Note, policy.broker_lines.get(name).copied(), what, cure);
            }
        }
    }
}

/// Why an entry for a pattern can never match, and what to do about it; `None` if it can.
pub fn never_matches(destination: &Pattern) -> Option<(String, String)> {
    match destination.kind() {
        DestinationKind::Queue => {
            Some((format!("{destination} can never match: queues are not there yet"), "remove the entry".to_owned()))
        }
        DestinationKind::Muster if !answers(destination) => {
            let what = format!("{destination} can never match: no broker answers there");
            Some((what, format!("correct the name; there are {}", SYSTEM.join(", "))))
        }
        _ => None,
    }
}

/// Whether a broker answers at something that a pattern below `/muster/` matches.
fn answers(pattern: &Pattern) -> bool {
    let names = SYSTEM.iter().filter_map(|name| Destination::parse(&format!("/muster/{name}")).ok());
    names.into_iter().any(|destination| pattern.matches(&destination))
}

/// Whether an action topic can match: three segments.
fn is_action(pattern: &Pattern) -> bool {
    let open = pattern.segments().last() == Some(">");
    let fixed = pattern.segments().take(MAX_SEGMENTS).filter(|segment| *segment != ">").count();
    pattern.kind() == DestinationKind::Topic && if open { fixed <= 3 } else { fixed == 3 }
}

/// Memory (KiB) and passes of a hash that is guessed too quickly.
fn weak(user: &User) -> Option<(u32, u32)> {
    let hash = phc::PasswordHash::new(user.password.as_str()).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let (memory, passes) = (params.m_cost(), params.t_cost());
    (u64::from(memory) * u64::from(passes) < LEAST_WORK).then_some((memory, passes))
}

//! What would another policy change? What stands otherwise in it, and which rights users gain and lose by that.

use super::groups::GroupSet;
use super::hidden::HIDDEN_BY_DEFAULT;
use super::limits::Limit;
use super::show::moment;
use super::user::User;
use super::{BrokerEntry, Entry, Group, Policy, Right};
use muster_protocol::destination::{Pattern, covered};
use muster_protocol::facts::PathPattern;
use muster_protocol::policy::{Change, DiffAnswer, How, MOST, RightChange};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;

/// Longest detail, in characters: facts may be large.
const DETAIL: usize = 400;

/// The differences from `old` to `new`: by kind and name, then rights by user. Order and comments of the texts do not count, and
/// no hash is shown. At most [`MOST`] of each.
pub fn diff(old: &Policy, new: &Policy) -> DiffAnswer {
    let (mut changes, mut rights) = (changes(old, new), rights(old, new));
    let more = changes.len().saturating_sub(MOST) + rights.len().saturating_sub(MOST);
    changes.truncate(MOST);
    rights.truncate(MOST);
    DiffAnswer { changes, rights, more: more as u64 }
}

/// How many of one kind are only in the new policy, only in the old one, or in both and not the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Only in the new one.
    pub added: usize,
    /// Only in the old one.
    pub removed: usize,
    /// In both, not the same.
    pub changed: usize,
}

/// What stands otherwise, in numbers by kind (`user`, `group`, `entry`, …), for the audit log.
pub fn count(old: &Policy, new: &Policy) -> BTreeMap<String, Counted> {
    let mut counted: BTreeMap<String, Counted> = BTreeMap::new();
    for change in changes(old, new) {
        let counted = counted.entry(change.what).or_default();
        match change.how {
            How::Added => counted.added += 1,
            How::Removed => counted.removed += 1,
            How::Changed => counted.changed += 1,
        }
    }
    counted
}

fn changes(old: &Policy, new: &Policy) -> Vec<Change> {
    let mut changes = settings(old, new);
    let targeted = |it: Option<&bool>| it.map_or_else(|| "none".to_owned(), ToString::to_string);
    changes.extend(named("collective", &collectives(old), &collectives(new), |a, b| {
        changed([("targeted", targeted(a), targeted(b))])
    }));
    changes.extend(named("broker", &old.brokers, &new.brokers, broker));
    let nobody = Group::default();
    changes.extend(named("group", &groups(old), &groups(new), |a, b| {
        group((old, a.copied().unwrap_or(&nobody)), (new, b.copied().unwrap_or(&nobody)))
    }));
    let same_groups = old.groups.iter().map(|group| &group.name).eq(new.groups.iter().map(|group| &group.name));
    changes.extend(named("user", &old.users, &new.users, |a, b| match (a, b) {
        // Most users are only on another line: there may be many of them.
        (Some(a), Some(b)) if same_groups && stands_so(a, b) => Vec::new(),
        (Some(a), Some(b)) => user((old, a), (new, b)),
        (Some(a), None) => one_user(old, a),
        (None, b) => b.map(|b| one_user(new, b)).unwrap_or_default(),
    }));
    changes.extend(named("entry", &grants(old), &grants(new), entry));
    changes
}

/// The differences of two maps, in order of their names. `details` says what differs, also from what only one of them has.
fn named<K: Ord + Display, V: PartialEq>(
    what: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    details: impl Fn(Option<&V>, Option<&V>) -> Vec<String>,
) -> Vec<Change> {
    let names: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    let change = |name: &K| {
        let (was, is) = (old.get(name), new.get(name));
        if was == is {
            return None;
        }
        let details: Vec<String> = details(was, is);
        let how = match (was, is) {
            (Some(_), Some(_)) if details.is_empty() => return None,
            (Some(_), Some(_)) => How::Changed,
            (None, _) => How::Added,
            (_, None) => How::Removed,
        };
        let details = details.into_iter().map(|text| text.chars().take(DETAIL).collect()).collect();
        Some(Change { what: what.to_owned(), name: name.to_string(), how, details })
    };
    names.into_iter().filter_map(change).collect()
}

fn settings(old: &Policy, new: &Policy) -> Vec<Change> {
    let mut changes = Vec::new();
    let texts = |list: &mut dyn Iterator<Item = String>| list.map(|text| (text, ())).collect::<BTreeMap<_, _>>();
    let of = |policy: &Policy| {
        [
            ("asserted", texts(&mut policy.asserted.iter().cloned())),
            ("hidden", texts(&mut hidden(policy).iter().map(ToString::to_string))),
            ("display", texts(&mut policy.display.iter().map(ToString::to_string))),
        ]
    };
    for ((what, a), (_, b)) in of(old).into_iter().zip(of(new)) {
        changes.extend(named(what, &a, &b, |_, _| Vec::new()));
    }
    let trust = |policy: &Policy| BTreeMap::from([("trust-reported", policy.trust_reported)]);
    let value = |policy: &Policy| policy.trust_reported.to_string();
    changes.extend(named("setting", &trust(old), &trust(new), |_, _| changed([("value", value(old), value(new))])));
    let authority = |policy: &Policy| policy.authority.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let named_by = |policy: &Policy| BTreeMap::from([("authority", authority(policy))]);
    changes.extend(named("setting", &named_by(old), &named_by(new), |_, _| {
        changed([("value", authority(old), authority(new))])
    }));
    let first = |policy: &Policy| BTreeMap::from([("first collective", first_collective(policy))]);
    changes.extend(named("setting", &first(old), &first(new), |_, _| {
        changed([("value", first_collective(old), first_collective(new))])
    }));
    changes
}

fn first_collective(policy: &Policy) -> String {
    policy.collectives.first().map_or_else(|| "none".to_owned(), |first| first.name.clone())
}

/// The hidden list, that of the default included.
fn hidden(policy: &Policy) -> Vec<PathPattern> {
    let by_default = || HIDDEN_BY_DEFAULT.iter().filter_map(|text| PathPattern::parse(text).ok()).collect();
    policy.hidden.clone().unwrap_or_else(by_default)
}

fn collectives(policy: &Policy) -> BTreeMap<&str, bool> {
    policy.collectives.iter().map(|collective| (collective.name.as_str(), collective.targeted)).collect()
}

fn groups(policy: &Policy) -> BTreeMap<&str, &Group> {
    policy.groups.iter().map(|group| (group.name.as_str(), group)).collect()
}

/// Whom each pattern grants each right, however many entries there are for it.
type Grants<'p> = BTreeMap<&'p str, [BTreeSet<&'p str>; Right::ALL.len()]>;

fn grants(policy: &Policy) -> Grants<'_> {
    let mut grants = Grants::new();
    for entry in &policy.entries {
        let known = grants.entry(entry.destination.as_str()).or_default();
        for right in Right::ALL {
            known[right as usize].extend(entry.grant(right).names.iter().map(String::as_str));
        }
    }
    grants
}

fn entry(old: Option<&[BTreeSet<&str>; 3]>, new: Option<&[BTreeSet<&str>; 3]>) -> Vec<String> {
    let nobody = Default::default();
    let (old, new) = (old.unwrap_or(&nobody), new.unwrap_or(&nobody));
    let sets = Right::ALL.into_iter().flat_map(|right| set(right.as_str(), &old[right as usize], &new[right as usize]));
    sets.collect()
}

fn broker(old: Option<&BrokerEntry>, new: Option<&BrokerEntry>) -> Vec<String> {
    let none = || "none".to_owned();
    let link =
        |entry: Option<&BrokerEntry>| entry.and_then(|it| it.link.as_ref()).map_or_else(none, ToString::to_string);
    let stomp = |entry: Option<&BrokerEntry>| {
        let list: Vec<String> = entry.iter().flat_map(|it| &it.stomp).map(ToString::to_string).collect();
        if list.is_empty() { none() } else { list.join(" ") }
    };
    changed([("link", link(old), link(new)), ("stomp", stomp(old), stomp(new))])
}

fn group((old_policy, old): (&Policy, &Group), (new_policy, new): (&Policy, &Group)) -> Vec<String> {
    let scope = |group: &Group| group.scope.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let mut details = changed([("scope", scope(old), scope(new)), ("all", old.all.to_string(), new.all.to_string())]);
    let shows = |policy: &Policy, group: &Group| {
        let list = hidden(policy);
        group.shows.iter().filter_map(|place| list.get(*place)).map(ToString::to_string).collect::<BTreeSet<_>>()
    };
    details.extend(set("shows", &shows(old_policy, old), &shows(new_policy, new)));
    for limit in Limit::ALL {
        let most = |group: &Group| group.limits.get(limit).map_or_else(|| "none".to_owned(), |most| most.to_string());
        details.extend(changed([(limit.as_str(), most(old), most(new))]));
    }
    details
}

/// A user that only one policy has.
fn one_user(policy: &Policy, user: &User) -> Vec<String> {
    let groups: Vec<&str> = names(policy, &user.groups).into_iter().collect();
    let mut details = vec![format!("kind: {}", user.kind), format!("groups: {}", groups.join(" "))];
    if user.disabled {
        details.push("disabled: true".to_owned());
    }
    details.extend(user.expires.map(|end| format!("expires: {}", moment(end))));
    if !user.networks.is_empty() {
        let networks: Vec<String> = user.networks.iter().map(ToString::to_string).collect();
        details.push(format!("networks: {}", networks.join(" ")));
    }
    details.extend(user.certificate.iter().map(|name| format!("certificate: {name}")));
    let facts = user.facts.as_object().into_iter().flatten();
    details.extend(facts.map(|(name, value)| format!("fact {name}: {value}")));
    details
}

fn user((old_policy, old): (&Policy, &User), (new_policy, new): (&Policy, &User)) -> Vec<String> {
    let mut details = Vec::new();
    if old.password != new.password {
        details.push("password changed".to_owned());
    }
    let certificate = |user: &User| user.certificate.clone().unwrap_or_else(|| "none".to_owned());
    let date = |seconds: Option<u64>, none: &str| seconds.map_or_else(|| none.to_owned(), moment);
    details.extend(changed([
        ("kind", old.kind.to_string(), new.kind.to_string()),
        ("disabled", old.disabled.to_string(), new.disabled.to_string()),
        ("expires", date(old.expires, "never"), date(new.expires, "never")),
        ("revoked-before", date(old.revoked_before, "none"), date(new.revoked_before, "none")),
        ("collective", old.collective.clone(), new.collective.clone()),
        ("certificate", certificate(old), certificate(new)),
    ]));
    let networks = |user: &User| user.networks.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    details.extend(set("networks", &networks(old), &networks(new)));
    let groups = |policy: &Policy, user: &User| names(policy, &user.groups).into_iter().map(str::to_owned).collect();
    details.extend(set::<String>("groups", &groups(old_policy, old), &groups(new_policy, new)));
    details.extend(facts(&old.facts, &new.facts));
    details
}

/// Whether what a user's own table says is the same, if the groups have the same places.
fn stands_so(a: &User, b: &User) -> bool {
    let User {
        name: _,
        kind,
        password,
        disabled,
        expires,
        revoked_before,
        networks,
        certificate,
        facts,
        collective,
        groups,
        // They follow from the groups, or from where the text says it.
        scope: _,
        may_all: _,
        limited: _,
        line: _,
        hidden: _,
    } = a;
    (kind, disabled, expires, revoked_before) == (&b.kind, &b.disabled, &b.expires, &b.revoked_before)
        && (password, networks, certificate, facts, collective, groups)
            == (&b.password, &b.networks, &b.certificate, &b.facts, &b.collective, &b.groups)
}

fn facts(old: &Value, new: &Value) -> Vec<String> {
    let none = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&none), new.as_object().unwrap_or(&none));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |facts: &Map<String, Value>, name: &str| facts.get(name).map_or("none".to_owned(), Value::to_string);
    let one = |name: &String| changed([(&*format!("fact {name}"), value(old, name), value(new, name))]);
    names.into_iter().flat_map(one).collect()
}

fn names<'p>(policy: &'p Policy, groups: &GroupSet) -> BTreeSet<&'p str> {
    groups.places().filter_map(|place| policy.groups.get(place)).map(|group| group.name.as_str()).collect()
}

fn changed<const N: usize>(fields: [(&str, String, String); N]) -> Vec<String> {
    let differ = fields.into_iter().filter(|(_, old, new)| old != new);
    differ.map(|(what, old, new)| format!("{what}: {old} -> {new}")).collect()
}

/// `groups: + noc - viewers`; nothing if the sets are the same.
fn set<T: Ord + Display>(what: &str, old: &BTreeSet<T>, new: &BTreeSet<T>) -> Option<String> {
    let parts =
        new.difference(old).map(|it| format!(" + {it}")).chain(old.difference(new).map(|it| format!(" - {it}")));
    let parts: String = parts.collect();
    (!parts.is_empty()).then(|| format!("{what}:{parts}"))
}

/// Patterns on which a right is gained (true) or lost.
type Moved<'p> = Vec<(bool, Right, &'p Pattern)>;

/// By user, what is granted and taken: a pattern that one policy grants and the other does not grant everywhere.
fn rights(old: &Policy, new: &Policy) -> Vec<RightChange> {
    let everybody: BTreeSet<&str> = old.users.keys().chain(new.users.keys()).map(String::as_str).collect();
    // Users of the same groups gain and lose the same.
    let mut known: HashMap<[GroupSet; 2], Moved<'_>> = HashMap::new();
    let mut changes = Vec::new();
    for name in everybody {
        let of = |policy: &Policy| policy.users.get(name).map(|user| user.groups).unwrap_or_default();
        let moved = known
            .entry([of(old), of(new)])
            .or_insert_with_key(|[was, is]| moved((old, &names(old, was)), (new, &names(new, is))));
        changes.extend(moved.iter().map(|(granted, right, pattern)| RightChange {
            user: name.to_owned(),
            granted: *granted,
            right: right.as_str().to_owned(),
            pattern: pattern.as_str().to_owned(),
        }));
    }
    changes
}

/// What members of these groups gain (true) and lose, each pattern once.
fn moved<'p>((old, was): (&'p Policy, &BTreeSet<&str>), (new, is): (&'p Policy, &BTreeSet<&str>)) -> Moved<'p> {
    let mut moved = Vec::new();
    for right in Right::ALL {
        let (before, after) = (patterns(old, was, right), patterns(new, is, right));
        let mut beyond = |granted, these: &BTreeSet<&'p Pattern>, those: &BTreeSet<&'p Pattern>| {
            let all: Vec<&Pattern> = those.iter().copied().collect();
            let outside = these.iter().filter(|pattern| !those.contains(*pattern) && !covered(pattern, &all));
            moved.extend(outside.map(|pattern| (granted, right, *pattern)));
        };
        beyond(false, &before, &after);
        beyond(true, &after, &before);
    }
    moved
}

fn patterns<'p>(policy: &'p Policy, groups: &BTreeSet<&str>, right: Right) -> BTreeSet<&'p Pattern> {
    let granted = |entry: &&Entry| entry.grant(right).names.iter().any(|name| groups.contains(name.as_str()));
    policy.entries.iter().filter(granted).map(|entry| &entry.destination).collect()
}

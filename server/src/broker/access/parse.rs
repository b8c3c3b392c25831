//! Is this text a policy? From TOML to a [`Policy`], with line and cure for each mistake.

use super::document::{AclTable, BrokerTable, CollectiveTable, Document, GroupTable, Text, UserTable};
use super::error::{PolicyError, place, toml_cure};
use super::groups::{GroupSet, MAX_GROUPS};
use super::hidden::{HIDDEN_BY_DEFAULT, Hidden};
use super::limits::{Limit, Limits, MAX_LIMIT};
use super::user::{Kind, User};
use super::values::{self, Fault, fault, shorten};
use super::{BrokerEntry, Collective, Entry, Grant, Group, PatternMap, Policy, Right};
use muster_protocol::dial::{DEFAULT_PORT, LINK_PORT};
use muster_protocol::facts::{Facts, PathPattern};
use muster_protocol::filter::shorthand;
use muster_protocol::message::BrokerName;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;

/// Largest policy, in bytes.
const MAX_BYTES: usize = 32 * 1024 * 1024;
const MAX_USERS: usize = 100_000;
const MAX_ENTRIES: usize = 4096;
/// Most members of each of the small lists: collectives, brokers, their addresses, asserted, display and hidden facts, networks of a user.
const MAX_LIST: usize = 256;
/// Largest asserted facts of a user, in bytes of JSON: they are sent to each of the user's agents.
const MAX_FACTS: usize = 16 * 1024;

/// Reads a policy.
pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    let newlines = text.bytes().enumerate().filter_map(|(at, byte)| (byte == b'\n').then_some(at)).collect();
    Reader { text, newlines }.policy()
}

/// Whom all entries for a pattern grant each right, found by what they match.
fn by_pattern(entries: &[Entry]) -> PatternMap<[GroupSet; Right::ALL.len()]> {
    let mut grants: PatternMap<[GroupSet; Right::ALL.len()]> = PatternMap::default();
    for entry in entries {
        let known = grants.entry(&entry.destination);
        for right in Right::ALL {
            known[right as usize].extend(&entry.grant(right).groups);
        }
    }
    grants
}

struct Reader<'t> {
    text: &'t str,
    /// Where lines end: thousands of entries must not each count from the beginning.
    newlines: Vec<usize>,
}

/// What users and entries are checked against.
struct Known {
    collectives: Vec<Collective>,
    asserted: BTreeSet<String>,
    hidden: Vec<PathPattern>,
    groups: Vec<Group>,
    places: HashMap<String, usize>,
}

impl Reader<'_> {
    fn policy(&self) -> Result<Policy, PolicyError> {
        if self.text.len() > MAX_BYTES {
            return Err(self.error(0..0, fault(format!("the policy has more than {MAX_BYTES} bytes"), "shorten it")));
        }
        let document: Document = toml::from_str(self.text).map_err(|error| self.toml_error(&error))?;
        let brokers = self.brokers(&document.brokers)?;
        let authority = self.authority(document.authority.as_ref(), &brokers)?;
        let collectives = self.collectives(&document.collective)?;
        let asserted = self.list(&document.asserted, "asserted", values::asserted_name)?.into_iter().collect();
        let display = self.list(&document.display, "display", values::path)?;
        let listed = match &document.hidden {
            Some(list) => Some(self.list(list, "hidden", values::path_pattern)?),
            None => None,
        };
        let by_default = || HIDDEN_BY_DEFAULT.iter().filter_map(|text| PathPattern::parse(text).ok()).collect();
        let hidden = listed.clone().unwrap_or_else(by_default);
        let mut known = Known { collectives, asserted, hidden, groups: Vec::new(), places: HashMap::new() };
        self.groups(&document.groups, document.trust_reported, &mut known)?;
        let users = self.users(&document.users, &known)?;
        for user in users.values() {
            user.groups.places().for_each(|place| known.groups[place].members += 1);
        }
        let entries = self.entries(&document.acl, &known)?;
        let line = |name: &Text| Some((BrokerName::parse(name.get_ref()).ok()?, self.line(name.span().start)));
        Ok(Policy {
            authority,
            broker_lines: document.brokers.keys().filter_map(line).collect(),
            brokers,
            collectives: known.collectives,
            users,
            groups: known.groups,
            grants: by_pattern(&entries),
            entries,
            display,
            asserted: known.asserted,
            trust_reported: document.trust_reported,
            hidden: listed,
        })
    }

    /// The line of a byte, the first being 1.
    fn line(&self, start: usize) -> usize {
        self.newlines.partition_point(|newline| *newline < start) + 1
    }

    fn error(&self, span: Range<usize>, fault: Fault) -> PolicyError {
        let (line, column) = place(self.text, span.start);
        PolicyError { line, column: Some(column), cause: fault.cause, cure: fault.cure }
    }

    fn at<T>(&self, value: &Spanned<T>, fault: Fault) -> PolicyError {
        self.error(value.span(), fault)
    }

    /// The message alone: the error's own display would quote the line, which may hold a password.
    fn toml_error(&self, error: &toml::de::Error) -> PolicyError {
        self.error(error.span().unwrap_or_default(), fault(error.message(), toml_cure(error.message())))
    }

    /// A small list of texts, each read by `read`.
    fn list<T>(
        &self,
        list: &[Text],
        what: &str,
        read: impl Fn(&str) -> Result<T, Fault>,
    ) -> Result<Vec<T>, PolicyError> {
        if let Some(excess) = list.get(MAX_LIST) {
            return Err(self.at(excess, fault(format!("`{what}` has more than {MAX_LIST} members"), "shorten it")));
        }
        list.iter().map(|text| read(text.get_ref()).map_err(|fault| self.at(text, fault))).collect()
    }

    fn brokers(&self, tables: &BTreeMap<Text, BrokerTable>) -> Result<BTreeMap<BrokerName, BrokerEntry>, PolicyError> {
        let mut brokers = BTreeMap::new();
        for (name, table) in tables {
            if brokers.len() == MAX_LIST {
                return Err(self.at(name, fault(format!("more than {MAX_LIST} brokers"), "use fewer")));
            }
            let label = values::broker(name.get_ref()).map_err(|fault| self.at(name, fault))?;
            let link = match &table.link {
                Some(text) => Some(values::address(text.get_ref(), LINK_PORT).map_err(|fault| self.at(text, fault))?),
                None => None,
            };
            let stomp = self.list(&table.stomp, "stomp", |text| values::address(text, DEFAULT_PORT))?;
            brokers.insert(label, BrokerEntry { link, stomp });
        }
        Ok(brokers)
    }

    fn authority(
        &self,
        name: Option<&Text>,
        brokers: &BTreeMap<BrokerName, BrokerEntry>,
    ) -> Result<Option<BrokerName>, PolicyError> {
        let Some(text) = name else { return Ok(None) };
        let name = values::broker(text.get_ref()).map_err(|fault| self.at(text, fault))?;
        if !brokers.is_empty() && !brokers.contains_key(&name) {
            let cause = format!("the authority `{name}` is not in the broker list");
            return Err(self.at(text, fault(cause, format!(
                "add [brokers.{name}], or name one that is; with brokers that run, `muster admin authority take` moves it"
            ))));
        }
        Ok(Some(name))
    }

    fn collectives(&self, tables: &[CollectiveTable]) -> Result<Vec<Collective>, PolicyError> {
        let mut collectives: Vec<Collective> = Vec::new();
        for table in tables {
            let name = table.name.get_ref();
            let known = collectives.iter().any(|collective| collective.name == *name);
            let wrong = if collectives.len() == MAX_LIST {
                Some(fault(format!("more than {MAX_LIST} collectives"), "use fewer"))
            } else if known {
                Some(fault(format!("the collective `{}` stands twice", shorten(name)), "keep one of the two"))
            } else {
                values::name("collective", name).err()
            };
            if let Some(fault) = wrong {
                return Err(self.at(&table.name, fault));
            }
            collectives.push(Collective { name: name.clone(), targeted: table.targeted });
        }
        Ok(collectives)
    }

    fn groups(
        &self,
        tables: &BTreeMap<Text, GroupTable>,
        trust_reported: bool,
        known: &mut Known,
    ) -> Result<(), PolicyError> {
        for (name, table) in tables {
            if known.groups.len() == MAX_GROUPS {
                return Err(self.at(name, fault(format!("more than {MAX_GROUPS} groups"), "use fewer")));
            }
            values::name("group", name.get_ref()).map_err(|fault| self.at(name, fault))?;
            let scope = match &table.scope {
                Some(text) => Some(
                    values::scope(text.get_ref(), &known.asserted, trust_reported)
                        .map_err(|fault| self.at(text, fault))?,
                ),
                None => None,
            };
            let shows = self.list(&table.shows, "shows", |text| values::shown(text, &known.hidden))?;
            let group = Group {
                name: name.get_ref().clone(),
                line: self.line(name.span().start),
                scope,
                all: table.all,
                shows: shows.into_iter().flatten().collect(),
                limits: self.limits(table)?,
                members: 0,
            };
            known.places.insert(group.name.clone(), known.groups.len());
            known.groups.push(group);
        }
        Ok(())
    }

    fn limits(&self, table: &GroupTable) -> Result<Limits, PolicyError> {
        let mut limits = Limits::default();
        let given = [&table.max_targets, &table.requests_per_minute, &table.in_flight, &table.sessions];
        for (limit, given) in Limit::ALL.into_iter().zip(given) {
            let Some(given) = given else { continue };
            let most = u64::try_from(*given.get_ref()).ok().filter(|most| (1..=MAX_LIMIT).contains(most));
            if most.is_none() {
                let cause = format!("`{}` is not a number from 1 to {MAX_LIMIT}", limit.as_str());
                let cure = "correct it; without the setting there is no limit, and to forbid something grant nothing";
                return Err(self.at(given, fault(cause, cure)));
            }
            limits.0[limit as usize] = most;
        }
        Ok(limits)
    }

    fn grant(&self, names: &[Text], known: &Known) -> Result<Grant, PolicyError> {
        let mut grant = Grant::default();
        for name in names {
            let Some(&place) = known.places.get(name.get_ref()) else {
                let cause = format!("there is no group `{}`", shorten(name.get_ref()));
                let cure = format!("correct the name, or add [groups.{}]", shorten(name.get_ref()));
                return Err(self.at(name, fault(cause, cure)));
            };
            grant.groups.insert(place);
            grant.names.push(name.get_ref().clone());
        }
        Ok(grant)
    }

    fn entries(&self, tables: &[AclTable], known: &Known) -> Result<Vec<Entry>, PolicyError> {
        if let Some(excess) = tables.get(MAX_ENTRIES) {
            let wrong = fault(format!("more than {MAX_ENTRIES} ACL entries"), "use patterns to have fewer");
            return Err(self.at(&excess.destination, wrong));
        }
        let mut entries = Vec::new();
        for table in tables {
            let destination = values::entry_pattern(table.destination.get_ref())
                .map_err(|fault| self.at(&table.destination, fault))?;
            let grants =
                [self.grant(&table.read, known)?, self.grant(&table.write, known)?, self.grant(&table.admin, known)?];
            let line = self.line(table.destination.span().start);
            entries.push(Entry { line, destination, grants });
        }
        Ok(entries)
    }

    fn users(
        &self,
        tables: &BTreeMap<Text, UserTable>,
        known: &Known,
    ) -> Result<BTreeMap<String, Arc<User>>, PolicyError> {
        let mut users = BTreeMap::new();
        // Users of the same groups share what is hidden from them.
        let mut views: HashMap<BTreeSet<usize>, Arc<Hidden>> = HashMap::new();
        for (name, table) in tables {
            if users.len() == MAX_USERS {
                return Err(self.at(name, fault(format!("more than {MAX_USERS} users"), "use fewer")));
            }
            let user = self.user(name, table, known, &mut views)?;
            users.insert(user.name.clone(), Arc::new(user));
        }
        Ok(users)
    }

    fn user(
        &self,
        name: &Text,
        table: &UserTable,
        known: &Known,
        views: &mut HashMap<BTreeSet<usize>, Arc<Hidden>>,
    ) -> Result<User, PolicyError> {
        values::name("user", name.get_ref()).map_err(|fault| self.at(name, fault))?;
        let kind = values::kind(table.kind.get_ref()).map_err(|fault| self.at(&table.kind, fault))?;
        let password = values::password(table.password.get_ref()).map_err(|fault| self.at(&table.password, fault))?;
        let expires = match &table.expires {
            Some(date) => Some(values::moment(&date.get_ref().to_string()).map_err(|fault| self.at(date, fault))?),
            None => None,
        };
        let revoked_before = match &table.revoked_before {
            Some(date) => Some(values::date(date.get_ref()).map_err(|fault| self.at(date, fault))?),
            None => None,
        };
        let networks = self.list(&table.networks, "networks", values::network)?;
        let certificate = match &table.certificate {
            Some(name) => Some(values::certificate(name.get_ref()).map_err(|fault| self.at(name, fault))?),
            None => None,
        };
        let (collective, facts) = self.node_of(name, kind, table, known)?;
        let groups = self.grant(&table.groups, known)?.groups;
        let member_of: Vec<&Group> = groups.places().filter_map(|place| known.groups.get(place)).collect();
        let scopes = member_of.iter().filter_map(|group| group.scope.clone());
        let scope = shorthand::all(scopes).map_err(|error| {
            let cause =
                format!("the scopes of the groups of `{}` together are no filter: {}", name.get_ref(), error.message);
            self.at(name, fault(cause, "shorten the scopes, or leave a group"))
        })?;
        let shows: BTreeSet<usize> = member_of.iter().flat_map(|group| group.shows.iter().copied()).collect();
        let hidden = views.entry(shows).or_insert_with_key(|shows| {
            let rest = known.hidden.iter().enumerate().filter(|(place, _)| !shows.contains(place));
            Arc::new(Hidden::new(rest.map(|(_, pattern)| pattern.clone()).collect()))
        });
        Ok(User {
            name: name.get_ref().clone(),
            kind,
            password,
            disabled: table.disabled,
            expires,
            revoked_before,
            networks,
            certificate,
            facts,
            collective,
            groups,
            scope,
            may_all: member_of.iter().any(|group| group.all),
            limited: member_of.iter().any(|group| !group.limits.is_empty()),
            line: self.line(name.span().start),
            hidden: Arc::clone(hidden),
        })
    }

    /// Collective and asserted facts: what a user says about the nodes that log in as it.
    fn node_of(
        &self,
        name: &Text,
        kind: Kind,
        table: &UserTable,
        known: &Known,
    ) -> Result<(String, Value), PolicyError> {
        let nothing = Value::Object(Map::new());
        if kind != Kind::Agent {
            let only_agents = |field: &str| {
                fault(format!("`{field}` of a user of kind {kind}"), "remove it: only users of kind agent are nodes")
            };
            return match (&table.collective, &table.facts) {
                (Some(text), _) => Err(self.at(text, only_agents("collective"))),
                (None, Some(facts)) => Err(self.at(facts, only_agents("facts"))),
                (None, None) => Ok((String::new(), nothing)),
            };
        }
        let collective = match &table.collective {
            Some(text) if known.collectives.iter().any(|collective| collective.name == *text.get_ref()) => {
                text.get_ref().clone()
            }
            Some(text) => {
                let cause = format!("there is no collective `{}`", shorten(text.get_ref()));
                return Err(self.at(text, fault(cause, "correct the name, or declare it in a [[collective]]")));
            }
            None => match known.collectives.first() {
                Some(first) => first.name.clone(),
                None => {
                    let cause = format!("the agent user `{}` has no collective, and none is declared", name.get_ref());
                    return Err(self.at(name, fault(cause, "add [[collective]] with a name, such as \"prod\"")));
                }
            },
        };
        let facts = match &table.facts {
            Some(facts) => self.facts(facts, &known.asserted)?,
            None => nothing,
        };
        Ok((collective, facts))
    }

    fn facts(
        &self,
        facts: &Spanned<BTreeMap<Text, toml::Value>>,
        asserted: &BTreeSet<String>,
    ) -> Result<Value, PolicyError> {
        let mut members = Map::new();
        for (name, value) in facts.get_ref() {
            if !asserted.contains(name.get_ref()) {
                let shown = shorten(name.get_ref());
                let cause = format!("the asserted fact `{shown}` is not declared");
                let cure = format!("add \"{shown}\" to `asserted`, so that no node's own report counts there");
                return Err(self.at(name, fault(cause, cure)));
            }
            members.insert(name.get_ref().clone(), values::json(value).map_err(|fault| self.at(name, fault))?);
        }
        let checked = Facts::from_value(Value::Object(members))
            .map_err(|error| self.at(facts, fault(error.to_string(), "correct the facts")))?;
        if checked.as_value().to_string().len() > MAX_FACTS {
            let cause = format!("the asserted facts have more than {MAX_FACTS} bytes");
            return Err(self.at(facts, fault(cause, "assert less: they are sent to every agent of the user")));
        }
        Ok(checked.as_value().clone())
    }
}

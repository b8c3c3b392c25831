//! What of a policy is shown to an admin? Its parts page by page, without any hash.

use super::hidden::HIDDEN_BY_DEFAULT;
use super::limits::Limit;
use super::user::{Kind, User};
use super::values::{nearest, shorten};
use super::{Group, Policy, Right};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{
    BrokerShown, CollectiveShown, EntryShown, GroupShown, HiddenShown, PAGE_MOST, Part, ShowAnswer, ShowQuery,
    UserShown,
};
use serde::Serialize;
use std::ops::Bound;
use std::sync::Arc;

/// Most bytes of JSON in a page, but for a single member that has more.
const PAGE_BYTES: usize = 256 * 1024;

impl Policy {
    /// A page of a part of the policy, or what has one name in it. The generation is not known here.
    pub fn show(&self, query: &ShowQuery) -> Result<ShowAnswer, Refusal> {
        let mut answer = ShowAnswer::default();
        let limit = query.limit.unwrap_or(PAGE_MOST).clamp(1, PAGE_MOST) as usize;
        let wanted = |name: &str| query.name.as_deref().is_none_or(|only| only == name);
        let after = |name: &str| query.name.is_some() || query.after.as_deref().is_none_or(|after| name > after);
        let next = &mut answer.next;
        match query.what {
            Part::Users => {
                let from = query.name.as_deref().map(Bound::Included).or(query.after.as_deref().map(Bound::Excluded));
                let users = self.users.range::<str, _>((from.unwrap_or(Bound::Unbounded), Bound::Unbounded));
                let users = users.take_while(|(name, _)| wanted(name));
                answer.users = page(users.map(|(name, user)| (name.clone(), self.user_shown(user))), limit, next);
            }
            Part::Groups => {
                let groups = self.groups.iter().filter(|group| wanted(&group.name) && after(&group.name));
                answer.groups = page(groups.map(|group| (group.name.clone(), self.group_shown(group))), limit, next);
            }
            Part::Brokers => {
                let brokers = self.brokers.iter().filter(|(name, _)| wanted(name.as_str()) && after(name.as_str()));
                let shown = brokers.map(|(name, entry)| {
                    let link = entry.link.as_ref().map(ToString::to_string);
                    let stomp = entry.stomp.iter().map(ToString::to_string).collect();
                    (name.to_string(), BrokerShown { name: name.to_string(), link, stomp })
                });
                answer.brokers = page(shown, limit, next);
            }
            Part::Acl => {
                let entries = self.entries.iter().enumerate().skip(passed(query)?);
                let entries = entries.filter(|(_, entry)| wanted(entry.destination.as_str()));
                let shown = entries.map(|(place, entry)| {
                    let names = |right| entry.grant(right).names.clone();
                    let shown = EntryShown {
                        line: entry.line as u64,
                        destination: entry.destination.to_string(),
                        read: names(Right::Read),
                        write: names(Right::Write),
                        admin: names(Right::Admin),
                    };
                    ((place + 1).to_string(), shown)
                });
                answer.acl = page(shown, limit, next);
            }
            Part::Hidden => {
                let places =
                    (0..self.hidden_count()).skip(passed(query)?).filter(|place| wanted(&self.hidden_pattern(*place)));
                let shown = places.map(|place| ((place + 1).to_string(), self.hidden_shown(place)));
                answer.hidden = page(shown, limit, next);
            }
            Part::Collectives => {
                let collectives = self.collectives.iter().enumerate().skip(passed(query)?);
                let collectives = collectives.filter(|(_, collective)| wanted(&collective.name));
                let shown = collectives.map(|(place, it)| {
                    ((place + 1).to_string(), CollectiveShown { name: it.name.clone(), targeted: it.targeted })
                });
                answer.collectives = page(shown, limit, next);
            }
        }
        match &query.name {
            Some(name) if answer.is_empty() => Err(self.unknown(query.what, name)),
            _ => Ok(answer),
        }
    }

    /// The user of a name.
    pub fn known(&self, user: &str) -> Result<&Arc<User>, Refusal> {
        self.user(user).ok_or_else(|| self.unknown(Part::Users, user))
    }

    /// Nothing has that name; what has nearly the same is said.
    fn unknown(&self, part: Part, name: &str) -> Refusal {
        let hidden: Vec<String> = (0..self.hidden_count()).map(|place| self.hidden_pattern(place)).collect();
        let (what, near) = match part {
            Part::Users => ("user", nearest(name, self.users.keys().map(String::as_str))),
            Part::Groups => ("group", nearest(name, self.groups.iter().map(|group| group.name.as_str()))),
            Part::Acl => {
                ("entry for exactly", nearest(name, self.entries.iter().map(|entry| entry.destination.as_str())))
            }
            Part::Hidden => ("pattern in the hidden list", nearest(name, hidden.iter().map(String::as_str))),
            Part::Collectives => ("collective", nearest(name, self.collectives.iter().map(|it| it.name.as_str()))),
            Part::Brokers => ("broker", nearest(name, self.brokers.keys().map(BrokerName::as_str))),
        };
        let near = near.map(|near| format!("; is `{near}` meant?")).unwrap_or_default();
        Refusal::new(Code::NoSuchName, format!("the policy has no {what} `{}`{near}", shorten(name)))
    }

    fn user_shown(&self, user: &User) -> UserShown {
        let groups = user.groups.places().filter_map(|place| self.groups.get(place));
        UserShown {
            name: user.name.clone(),
            kind: user.kind.to_string(),
            disabled: user.disabled,
            expires: user.expires.map(moment),
            revoked_before: user.revoked_before.map(moment),
            networks: user.networks.iter().map(ToString::to_string).collect(),
            groups: groups.map(|group| group.name.clone()).collect(),
            collective: (user.kind == Kind::Agent).then(|| user.collective.clone()),
            facts: user.facts.as_object().cloned().unwrap_or_default(),
            certificate: user.certificate.clone(),
        }
    }

    fn group_shown(&self, group: &Group) -> GroupShown {
        let limits = Limit::ALL.into_iter();
        GroupShown {
            name: group.name.clone(),
            scope: group.scope.as_ref().map(ToString::to_string),
            all: group.all,
            shows: group.shows.iter().map(|place| self.hidden_pattern(*place)).collect(),
            limits: limits.filter_map(|limit| Some((limit.as_str().to_owned(), group.limits.get(limit)?))).collect(),
            members: group.members,
        }
    }

    fn hidden_shown(&self, place: usize) -> HiddenShown {
        let groups = self.groups.iter().filter(|group| group.shows.contains(&place));
        HiddenShown { pattern: self.hidden_pattern(place), shown_to: groups.map(|group| group.name.clone()).collect() }
    }

    fn hidden_count(&self) -> usize {
        self.hidden.as_ref().map_or(HIDDEN_BY_DEFAULT.len(), Vec::len)
    }

    /// The pattern at a place in the hidden list, which may be that of the default.
    fn hidden_pattern(&self, place: usize) -> String {
        match &self.hidden {
            Some(list) => list.get(place).map(ToString::to_string),
            None => HIDDEN_BY_DEFAULT.get(place).map(ToString::to_string),
        }
        .unwrap_or_default()
    }
}

/// Unix seconds for people, RFC 3339.
pub(super) fn moment(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| "in a far future".to_owned(), |moment| moment.to_string())
}

/// The first members of the rest, each with what `after` says to go on behind it; `next` is that of the last if more follow.
fn page<T: Serialize>(rest: impl Iterator<Item = (String, T)>, limit: usize, next: &mut Option<String>) -> Vec<T> {
    let (mut members, mut last, mut bytes) = (Vec::new(), None, 0);
    for (mark, member) in rest {
        bytes += serde_json::to_string(&member).map_or(0, |json| json.len());
        if members.len() == limit || (bytes > PAGE_BYTES && !members.is_empty()) {
            *next = last;
            break;
        }
        members.push(member);
        last = Some(mark);
    }
    members
}

/// How many members of a list the pages before have shown: lists have no order but their own, and may repeat themselves.
fn passed(query: &ShowQuery) -> Result<usize, Refusal> {
    let Some(after) = &query.after else { return Ok(0) };
    after.parse().map_err(|_| {
        let text = format!("after: `{}` is no place in this list; give `next` of the page before", shorten(after));
        Refusal::new(Code::BadBody, text)
    })
}

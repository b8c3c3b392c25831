//! How much may members of this group do? The limits of groups, and which of them holds for a user.

use super::groups::GroupSet;
use super::{Policy, Right, User};
use muster_protocol::destination::Destination;
use muster_protocol::request::Bound;

/// Highest value of a limit: what is higher limits nothing.
pub(super) const MAX_LIMIT: u64 = 1_000_000;

/// What a group can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Nodes of one request, over the whole mesh.
    MaxTargets,
    /// Requests of a user in a minute, at one broker.
    RequestsPerMinute,
    /// Requests of a user that are not accounted for, at one broker.
    InFlight,
    /// Sessions of a user, at one broker.
    Sessions,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 4] = [Limit::MaxTargets, Limit::RequestsPerMinute, Limit::InFlight, Limit::Sessions];

    /// As it stands in the policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::MaxTargets => "max-targets",
            Limit::RequestsPerMinute => "requests-per-minute",
            Limit::InFlight => "in-flight",
            Limit::Sessions => "sessions",
        }
    }
}

/// The limits of one group; a limit that is not there is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits(pub(super) [Option<u64>; Limit::ALL.len()]);

impl Limits {
    /// The value of one.
    pub fn get(&self, limit: Limit) -> Option<u64> {
        self.0[limit as usize]
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

impl Policy {
    /// The limit that holds for a user who sends to a destination: a right brings the limits of the groups that grant it. Of
    /// several such groups the most generous counts, and one that sets no limit lifts it. `None`: not limited.
    pub fn limit_at(&self, user: &User, limit: Limit, destination: &Destination) -> Option<Bound> {
        self.loosest(&self.granted(Right::Write, destination).intersection(&user.groups), limit)
    }

    /// The limit on sessions of a user, of the groups that grant anything: those that an entry names. If there is none of
    /// these, of all groups of the user. `None`: not limited.
    pub fn session_limit(&self, user: &User) -> Option<Bound> {
        let granting = self.named().intersection(&user.groups);
        self.loosest(if granting.is_empty() { &user.groups } else { &granting }, Limit::Sessions)
    }

    /// The groups that some entry names.
    pub(super) fn named(&self) -> GroupSet {
        let mut named = GroupSet::EMPTY;
        for entry in &self.entries {
            entry.grants.iter().for_each(|grant| named.extend(&grant.groups));
        }
        named
    }

    fn loosest(&self, groups: &GroupSet, limit: Limit) -> Option<Bound> {
        let mut loosest: Option<Bound> = None;
        for group in groups.places().filter_map(|place| self.groups.get(place)) {
            let most = group.limits.get(limit)?;
            if loosest.as_ref().is_none_or(|bound| bound.most < most) {
                loosest = Some(Bound { limit: limit.as_str().to_owned(), most, group: group.name.clone() });
            }
        }
        loosest
    }
}

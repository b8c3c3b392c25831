//! May this user do one more? What users have done here, and the limits of their groups.
//!
//! Limits hold at the broker that a user is connected to, and each broker counts for itself; only `max-targets` is counted over the
//! whole mesh, as a guard is.

use super::Broker;
use super::access::{Limit, User};
use super::event::{Now, Purpose, Sent, SessionId, Target};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::request::Bound;
use std::collections::HashMap;

/// A token, in the units of [`Bucket`]: what one token a minute brings in a minute.
const TOKEN: u64 = 60_000;

/// Buckets below which nobody looks for full ones.
const SWEEP: usize = 1_024;

/// Tokens that come back at a steady pace, at most a minute's worth of them. Time is passed in, ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    per_minute: u64,
    level: u64,
    at: u64,
}

impl Bucket {
    /// A full one.
    pub fn new(per_minute: u64, now: u64) -> Bucket {
        Bucket { per_minute, level: per_minute.saturating_mul(TOKEN), at: now }
    }

    /// Takes a token; or says in how many ms there will be one. With another pace than before, what is left stays, as far as the
    /// new size allows.
    pub fn take(&mut self, per_minute: u64, now: u64) -> Result<(), u64> {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
        self.per_minute = per_minute;
        self.level = self.level.min(self.size());
        match self.level.checked_sub(TOKEN) {
            Some(left) => {
                self.level = left;
                Ok(())
            }
            None => Err((TOKEN - self.level).div_ceil(per_minute.max(1))),
        }
    }

    /// Whether a new one would be the same.
    pub fn is_full(&self, now: u64) -> bool {
        self.level_at(now) == self.size()
    }

    fn size(&self) -> u64 {
        self.per_minute.saturating_mul(TOKEN)
    }

    fn level_at(&self, now: u64) -> u64 {
        let come = now.saturating_sub(self.at).saturating_mul(self.per_minute);
        self.level.saturating_add(come).min(self.size())
    }
}

/// What users do and have done at this broker.
#[derive(Debug, Default)]
pub struct Usage {
    users: HashMap<String, Counts>,
    /// By user and by the group whose limit it is. They outlive sessions: logging in again brings no tokens.
    buckets: HashMap<(String, String), Bucket>,
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Counts {
    sessions: u64,
    in_flight: u64,
}

impl Usage {
    /// Open sessions of a user.
    pub fn sessions(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |counts| counts.sessions)
    }

    /// Requests of a user that are not accounted for.
    pub fn in_flight(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |counts| counts.in_flight)
    }

    /// A session is open.
    pub fn opened(&mut self, user: &str) {
        self.users.entry(user.to_owned()).or_default().sessions += 1;
    }

    /// A session is over.
    pub fn closed(&mut self, user: &str) {
        self.change(user, |counts| counts.sessions = counts.sessions.saturating_sub(1));
    }

    /// A request is under way.
    pub fn asked(&mut self, user: &str) {
        self.users.entry(user.to_owned()).or_default().in_flight += 1;
    }

    /// A request is accounted for, or forgotten.
    pub fn accounted(&mut self, user: &str) {
        self.change(user, |counts| counts.in_flight = counts.in_flight.saturating_sub(1));
    }

    fn change(&mut self, user: &str, change: impl FnOnce(&mut Counts)) {
        let Some(counts) = self.users.get_mut(user) else { return };
        change(counts);
        if counts.sessions == 0 && counts.in_flight == 0 {
            self.users.remove(user);
        }
    }

    /// Takes a token of a user under the limit of a group; or says in how many ms there will be one.
    pub fn take(&mut self, user: &str, bound: &Bound, now: u64) -> Result<(), u64> {
        if self.buckets.len() >= self.sweep_at.max(SWEEP) {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            self.sweep_at = self.buckets.len().saturating_mul(2);
        }
        let bucket = self.buckets.entry((user.to_owned(), bound.group.clone()));
        bucket.or_insert_with(|| Bucket::new(bound.most, now)).take(bound.most, now)
    }
}

impl Broker {
    /// Whether a user may have one more session here; one that it replaces does not count.
    pub(super) fn limit_sessions(&self, user: &User, replaced: Option<SessionId>) -> Result<(), Refusal> {
        let is_own = |id: SessionId| self.sessions.get(id).is_some_and(|session| session.user.name == user.name);
        let open = self.usage.sessions(&user.name).saturating_sub(u64::from(replaced.is_some_and(is_own)));
        let most = self.settings.sessions_per_user as u64;
        if most > 0 && open >= most {
            let text = format!("{} has {open} sessions, and the broker allows a user {most}; close one", user.name);
            return Err(Refusal::new(Code::Limit, text));
        }
        match self.access.session_limit(user).filter(|bound| open >= bound.most) {
            Some(bound) => {
                let has = format!("{} has {open} sessions at this broker", user.name);
                Err(Refusal::new(Code::Limit, format!("{has}, {}; close one, then log in again", words(&bound))))
            }
            None => Ok(()),
        }
    }

    /// Whether the limits of the groups let a user send this now; if so, it counts. Returns the limit on its targets, if any.
    pub(super) fn limit(&mut self, user: &User, sent: &Sent, now: Now) -> Result<Option<Bound>, Refusal> {
        if !user.limited {
            return Ok(None);
        }
        let at = |limit: Limit| self.access.limit_at(user, limit, &sent.destination);
        let is_request = matches!(sent.purpose, Purpose::Request(_));
        let targets = at(Limit::MaxTargets);
        if let Some(bound) = targets.as_ref().filter(|_| !is_request)
            && (!matches!(sent.target, Target::Absent) || sent.destination.as_action().is_some())
        {
            let text = format!(
                "{}: {}, and only the nodes of a request are counted before it is delivered; give muster-request",
                sent.destination,
                words(bound)
            );
            return Err(Refusal::new(Code::Limit, text));
        }
        let under_way = self.usage.in_flight(&user.name);
        if let Some(bound) = at(Limit::InFlight).filter(|bound| is_request && under_way >= bound.most) {
            let text = format!(
                "{under_way} requests of {} are under way at this broker, {}; try again when one has ended",
                user.name,
                words(&bound)
            );
            return Err(Refusal::new(Code::Limit, text));
        }
        if let Some(bound) = at(Limit::RequestsPerMinute) {
            self.usage.take(&user.name, &bound, now.tick).map_err(|wait| {
                let seconds = wait.div_ceil(1_000);
                let text = format!("{} has sent too much: {}; try again in {seconds} s", user.name, words(&bound));
                Refusal::new(Code::Limit, text).again_in(wait)
            })?;
        }
        Ok(targets)
    }
}

/// `max-targets of the group noc-acme is 50`.
pub(super) fn words(bound: &Bound) -> String {
    format!("{} of the group {} is {}", bound.limit, bound.group, bound.most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bound(group: &str, most: u64) -> Bound {
        Bound { limit: "requests-per-minute".into(), most, group: group.into() }
    }

    #[test]
    fn tokens_come_back_one_by_one_and_the_wait_is_exact() {
        let mut bucket = Bucket::new(3, 0);
        assert_eq!([(); 3].map(|()| bucket.take(3, 0)), [Ok(()); 3]);
        assert_eq!(bucket.take(3, 0), Err(20_000));
        assert_eq!(bucket.take(3, 19_999), Err(1));
        assert_eq!(bucket.take(3, 20_000), Ok(()));
        assert_eq!(bucket.take(3, 20_000), Err(20_000));
        assert!(!bucket.is_full(79_999) && bucket.is_full(80_000));
        // Another pace holds at once: nothing is given for the past.
        assert_eq!(bucket.take(600, 20_000), Err(100));
        assert_eq!(bucket.take(600, 20_100), Ok(()));
    }

    #[test]
    fn users_groups_and_sessions_are_counted_apart_and_full_buckets_are_forgotten() {
        let mut usage = Usage::default();
        assert_eq!(usage.take("a", &bound("g", 1), 0), Ok(()));
        assert_eq!(usage.take("a", &bound("g", 1), 0), Err(60_000));
        assert_eq!(usage.take("a", &bound("h", 1), 0), Ok(()));
        assert_eq!(usage.take("b", &bound("g", 1), 0), Ok(()));
        for user in 0..2 * SWEEP {
            assert_eq!(usage.take(&user.to_string(), &bound("g", 1), 10), Ok(()));
        }
        assert_eq!(usage.take("a", &bound("g", 1), 59_999), Err(1), "what is not full is kept");
        let before = usage.buckets.len();
        for user in 0..2 * before {
            assert_eq!(usage.take(&format!("late{user}"), &bound("g", 1), 1_000_000), Ok(()));
        }
        assert!(usage.buckets.len() <= 2 * before, "{} after {before}", usage.buckets.len());
        usage.opened("a");
        usage.asked("a");
        usage.closed("a");
        assert_eq!((usage.sessions("a"), usage.in_flight("a")), (0, 1));
        usage.accounted("a");
        usage.accounted("a");
        assert!(usage.users.is_empty());
    }

    proptest! {
        /// In no span of time are there more tokens than a full bucket and what comes in that span; who waits as told gets one.
        #[test]
        fn a_bucket_never_gives_more_than_its_pace(
            per_minute in 1u64..5_000,
            steps in proptest::collection::vec(0u64..5_000, 1..200),
        ) {
            let mut bucket = Bucket::new(per_minute, 0);
            let (mut now, mut taken) = (0u64, 0u64);
            for step in steps {
                now += step;
                match bucket.take(per_minute, now) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        prop_assert!((1..=TOKEN).contains(&wait));
                        prop_assert!(bucket.clone().take(per_minute, now + wait - 1).is_err(), "one ms earlier is too early");
                        prop_assert_eq!(bucket.clone().take(per_minute, now + wait), Ok(()));
                    }
                }
                prop_assert!(taken <= per_minute + now * per_minute / TOKEN);
            }
        }
    }
}

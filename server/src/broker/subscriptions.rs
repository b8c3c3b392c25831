//! Who wants a topic? Patterns, and the sessions that subscribed to each.
//!
//! Fifty thousand agents share one pattern, so the table is keyed by pattern: what a message is matched against are patterns, not
//! subscribers.

use super::event::SessionId;
use super::patterns::PatternMap;
use muster_protocol::destination::{Destination, Pattern};
use std::collections::BTreeSet;

/// All topic subscriptions of this broker.
#[derive(Debug, Default)]
pub struct Subscriptions {
    sessions: PatternMap<BTreeSet<SessionId>>,
    patterns: BTreeSet<Pattern>,
    /// The set of patterns is another one than at the last look.
    changed: bool,
}

impl Subscriptions {
    /// Notes that `session` wants what `pattern` matches.
    pub fn add(&mut self, session: SessionId, pattern: &Pattern) {
        self.sessions.entry(pattern).insert(session);
        self.changed |= self.patterns.insert(pattern.clone());
    }

    /// Takes it back. The caller makes sure that the session has no second subscription to the same pattern.
    pub fn remove(&mut self, session: SessionId, pattern: &Pattern) {
        let is_last = |sessions: &mut BTreeSet<SessionId>| {
            sessions.remove(&session);
            sessions.is_empty()
        };
        if self.sessions.shrink(pattern, is_last) {
            self.patterns.remove(pattern);
            self.changed = true;
        }
    }

    /// Whether the set of patterns has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All patterns.
    pub fn patterns(&self) -> BTreeSet<String> {
        self.patterns.iter().map(ToString::to_string).collect()
    }

    /// The sessions with at least one matching subscription, each once, in order.
    pub fn of(&self, destination: &Destination) -> Vec<SessionId> {
        let mut found: Vec<SessionId> = Vec::new();
        let mut patterns = 0;
        self.sessions.each(destination, |sessions| {
            found.extend(sessions);
            patterns += 1;
        });
        if patterns > 1 {
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    /// Whether nobody subscribes to anything.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(subscriptions: &Subscriptions, destination: &str) -> Vec<u64> {
        let destination = Destination::parse(destination).expect("a destination");
        subscriptions.of(&destination).into_iter().map(|s| s.0).collect()
    }

    #[test]
    fn each_session_is_found_once_whatever_its_patterns() {
        let mut subscriptions = Subscriptions::default();
        let pattern = |text: &str| Pattern::parse(text).expect("a pattern");
        subscriptions.add(SessionId(1), &pattern("/topic/a.*"));
        subscriptions.add(SessionId(1), &pattern("/topic/a.b"));
        subscriptions.add(SessionId(2), &pattern("/topic/>"));
        subscriptions.add(SessionId(3), &pattern("/topic/c"));
        assert_eq!(of(&subscriptions, "/topic/a.b"), [1, 2]);
        subscriptions.remove(SessionId(1), &pattern("/topic/a.b"));
        assert_eq!(of(&subscriptions, "/topic/a.b"), [1, 2]);
        subscriptions.remove(SessionId(1), &pattern("/topic/a.*"));
        assert_eq!(of(&subscriptions, "/topic/a.b"), [2]);
        subscriptions.remove(SessionId(2), &pattern("/topic/>"));
        subscriptions.remove(SessionId(3), &pattern("/topic/c"));
        assert!(subscriptions.is_empty());
    }
}

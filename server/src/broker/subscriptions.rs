//! Who wants a topic? Patterns, and the sessions that subscribed to each.
//!
//! Fifty thousand agents share one pattern, so the table is keyed by pattern: a message is matched against each distinct pattern
//! once, not against each subscriber.

use super::event::SessionId;
use muster_protocol::destination::{Destination, Pattern};
use std::collections::{BTreeSet, HashMap};

/// All topic subscriptions of this broker.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// Patterns without wildcards, by their text: found by hash.
    exact: HashMap<String, BTreeSet<SessionId>>,
    /// Patterns with wildcards: each is tried.
    wild: HashMap<String, (Pattern, BTreeSet<SessionId>)>,
    /// The set of patterns is another one than at the last look.
    changed: bool,
}

impl Subscriptions {
    /// Notes that `session` wants what `pattern` matches.
    pub fn add(&mut self, session: SessionId, pattern: &Pattern) {
        let text = pattern.to_string();
        let before = self.len();
        if pattern.is_concrete() {
            self.exact.entry(text).or_default().insert(session);
        } else {
            self.wild.entry(text).or_insert_with(|| (pattern.clone(), BTreeSet::new())).1.insert(session);
        }
        self.changed |= self.len() != before;
    }

    /// Takes it back. The caller makes sure that the session has no second subscription to the same pattern.
    pub fn remove(&mut self, session: SessionId, pattern: &Pattern) {
        let (text, before) = (pattern.to_string(), self.len());
        if pattern.is_concrete() {
            if let Some(sessions) = self.exact.get_mut(&text) {
                sessions.remove(&session);
                if sessions.is_empty() {
                    self.exact.remove(&text);
                }
            }
        } else if let Some((_, sessions)) = self.wild.get_mut(&text) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.wild.remove(&text);
            }
        }
        self.changed |= self.len() != before;
    }

    /// Whether the set of patterns has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All patterns.
    pub fn patterns(&self) -> BTreeSet<String> {
        self.exact.keys().chain(self.wild.keys()).cloned().collect()
    }

    /// The sessions with at least one matching subscription, each once, in order.
    pub fn of(&self, destination: &Destination) -> Vec<SessionId> {
        let exact = self.exact.get(&destination.to_string());
        let wild = self.wild.values().filter(|(pattern, _)| pattern.matches(destination)).map(|(_, sessions)| sessions);
        let mut found: Vec<SessionId> = exact.into_iter().chain(wild).flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Distinct patterns.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wild.len()
    }

    /// Whether nobody subscribes to anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

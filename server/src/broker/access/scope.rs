//! What does a scope keep back where an answer cannot be cut to it?

use super::user::User;
use muster_protocol::destination::Destination;

/// What of an answer a user with a scope does not get, whatever entries grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptBack {
    /// All of it, so that asking is refused: a line of the audit log names nodes, targets and counts of everybody.
    Answer,
    /// How many nodes brokers have. `/metrics` counts all nodes too, and is refused to whoever is not told these.
    Numbers,
}

impl User {
    /// What the user's scope keeps back of what a broker answers there; `None` if nothing, or if there is no scope.
    pub fn kept_back(&self, destination: &Destination) -> Option<KeptBack> {
        self.scope.as_ref()?;
        match destination.as_str() {
            "/muster/admin.audit" => Some(KeptBack::Answer),
            "/muster/mesh" => Some(KeptBack::Numbers),
            _ => None,
        }
    }
}

impl KeptBack {
    /// Why, for people.
    pub fn why(self, user: &str) -> String {
        match self {
            KeptBack::Answer => format!("the audit log tells of all nodes, and {user} has a scope"),
            KeptBack::Numbers => format!("numbers of nodes count all nodes, and {user} has a scope"),
        }
    }
}

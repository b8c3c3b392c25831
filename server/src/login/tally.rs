//! How many logins came out how?

use std::sync::atomic::{AtomicU64, Ordering};

/// How a login came out, by what was known when its credentials were looked at. The broker has the last word on those that were right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The password was right; a hash was computed.
    Password,
    /// The password was right, and was known to be.
    Cache,
    /// The token was good.
    Token,
    /// Wrong credentials, or a user who may not log in, or not so.
    Denied,
    /// Told to come back: too many logins at once, or too many wrong passwords.
    Busy,
    /// TLS or CONNECT did not come in time.
    Timeout,
    /// TLS failed.
    Tls,
    /// No login of this protocol.
    Malformed,
}

impl Outcome {
    /// All of them.
    pub const ALL: &'static [Outcome] = &[
        Outcome::Password,
        Outcome::Cache,
        Outcome::Token,
        Outcome::Denied,
        Outcome::Busy,
        Outcome::Timeout,
        Outcome::Tls,
        Outcome::Malformed,
    ];

    /// One word, lowercase.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Password => "password",
            Outcome::Cache => "cache",
            Outcome::Token => "token",
            Outcome::Denied => "denied",
            Outcome::Busy => "busy",
            Outcome::Timeout => "timeout",
            Outcome::Tls => "tls",
            Outcome::Malformed => "malformed",
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; Outcome::ALL.len()]);

impl Tally {
    pub(super) fn note(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.iter().map(|outcome| (*outcome, self.0[*outcome as usize].load(Ordering::Relaxed)))
    }
}

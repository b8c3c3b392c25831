//! Which refusals are there? Every stable wire code, in one table.
//!
//! A code never changes its meaning; texts beside it may. `muster-code` carries the code, `message` the text.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $cure:literal;)*) => {
        /// A stable code for a refusal or an end of a connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in table order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The wire text, lowercase with hyphens.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// What the receiver can do about it, one sentence.
            pub fn cure(self) -> &'static str {
                match self { $(Code::$name => $cure,)* }
            }

            /// The code of a wire text; `None` for one that this version does not know.
            pub fn parse(text: &str) -> Option<Code> {
                match text { $($text => Some(Code::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// The bytes are not a STOMP frame, or break its rules.
    BadFrame = "bad-frame", "Speak STOMP 1.0, 1.1 or 1.2 as its specification says.";
    /// A limit on frames, headers, facts or bodies was passed.
    TooLarge = "too-large", "Send less, or have the limit raised in the broker's configuration.";
    /// No protocol version in common.
    BadVersion = "bad-version", "Offer accept-version 1.0, 1.1 or 1.2.";
    /// Unknown user, wrong password, disabled user, wrong node key: deliberately one answer.
    AuthFailed = "auth-failed", "Check user, password, client certificate if one is needed and, for an agent, its node key.";
    /// The login did not come in time.
    AuthTimeout = "auth-timeout", "Finish TLS and CONNECT within the broker's login time.";
    /// The broker cannot take this now; never a statement about rights.
    Busy = "busy", "Try again after the time in muster-retry-after (ms).";
    /// The policy does not grant this.
    Denied = "denied", "Ask an admin; `muster admin explain` shows what the policy grants.";
    /// A header that only a broker may set, or only another kind of user may send.
    ForbiddenHeader = "forbidden-header", "Leave the header out.";
    /// A header is missing or its value has no meaning.
    BadHeader = "bad-header", "Correct the header that the text names.";
    /// A destination or pattern is not well formed.
    BadDestination = "bad-destination", "Correct the destination; docs/protocol.md has the rules.";
    /// A filter does not parse or passes a limit.
    BadFilter = "bad-filter", "Correct the filter at the column that the text names.";
    /// A filter, report or find names a fact that the policy hides.
    HiddenFact = "hidden-fact", "Use facts that the policy shows to you.";
    /// A request without any target.
    TargetRequired = "target-required", "Give a filter, or --all (muster-target: all) if every node is meant.";
    /// `all` needs a right that no group of the user has.
    AllNotAllowed = "all-not-allowed", "Give a filter, or ask an admin for the right to all.";
    /// The facts document is not acceptable; the old one stays.
    BadFacts = "bad-facts", "Correct the document as the text says.";
    /// A facts delta does not build on what the broker has.
    StaleBase = "stale-base", "Send the whole document.";
    /// A body is not the JSON that the destination takes.
    BadBody = "bad-body", "Send the JSON object that docs/protocol.md describes.";
    /// More nodes match than muster-max-targets allows; nothing was delivered.
    TooManyTargets = "too-many-targets", "Narrow the target or raise the limit.";
    /// Another number of nodes matches than muster-expect-targets says; nothing was delivered.
    UnexpectedTargets = "unexpected-targets", "Look at the count and correct the expectation or the target.";
    /// A guard was to hold over the whole mesh, and some brokers did not answer; nothing was delivered.
    Partial = "partial", "Wait until the named brokers are back, or allow a partial count (muster-allow-partial: true).";
    /// The caller cancelled the request before it was delivered to anybody.
    Cancelled = "cancelled", "Nothing: that is what was asked for.";
    /// The caller already has a request with this id under way.
    DuplicateRequest = "duplicate-request", "Use a new request id.";
    /// Nothing is known of that request.
    NoSuchRequest = "no-such-request", "It may have ended already.";
    /// Nothing is known of that node, or it is outside the caller's scope.
    NoSuchNode = "no-such-node", "Check the node id with `muster find`.";
    /// Nothing in the policy, or in its history, has that name.
    NoSuchName = "no-such-name", "Check the name; asked for without a name, all that there are is listed.";
    /// The reply queue is gone, or this session was not asked.
    Gone = "gone", "The asker has left or the answer was already given; drop the reply.";
    /// The broker does not do this.
    Unsupported = "unsupported", "See docs/protocol.md for what this version does.";
    /// Too many connections, subscriptions or requests, for the broker or for a group of the policy.
    Limit = "limit", "Close some, or wait as the text says, or have the limit raised in the policy or the broker's configuration.";
    /// The session did not read what was sent to it.
    SlowConsumer = "slow-consumer", "Read faster, subscribe to less, or have the outbox limit raised.";
    /// A newer session of the same node has taken over.
    Moved = "moved", "Nothing, if the node reconnected; else look for a second agent with the same node key.";
    /// The policy changed and no longer lets this session, or its subscription, be.
    Revoked = "revoked", "Ask an admin what changed.";
    /// An admin has closed the session.
    Closed = "closed", "Ask the admin that the text names; agents come back by themselves.";
    /// Nothing is known of that session, or it is of a node outside the caller's scope.
    NoSuchSession = "no-such-session", "Look at the sessions that are open; each broker knows its own only.";
    /// The peer was silent for longer than its heart-beat promised.
    HeartBeat = "heart-beat", "Send heart-beats as negotiated.";
    /// A link: the other side belongs to another cluster.
    WrongCluster = "wrong-cluster", "Link brokers of one cluster only; correct the address or broker.cluster.";
    /// A link: the certificate is not that of the broker that the other side says it is.
    WrongIdentity = "wrong-identity", "Give each broker the certificate for its own NAME.CLUSTER.muster.";
    /// A link: the other side is not in the broker list.
    UnknownBroker = "unknown-broker", "Add it to [brokers] in the policy, or stop it.";
    /// A link: another broker with this name is in the mesh.
    NameInUse = "name-in-use", "Give each broker a name of its own, then start it again.";
    /// A link: a newer connection of the same broker has taken over.
    Superseded = "superseded", "Nothing: the newer link is used.";
    /// A link: an operator has taken it down.
    LinkDown = "link-down", "Take it up again with `musterd ctl link up NAME`.";
    /// The policy is not of the generation any more that the edit was made for.
    StaleGeneration = "stale-generation", "Look at what has changed since, then edit the new generation.";
    /// The edit does not fit the policy, or would make it none.
    BadEdit = "bad-edit", "Correct what the text names; `muster admin` shows what stands in the policy.";
    /// After the edit nobody could edit the policy any more.
    LastAdmin = "last-admin", "Keep an enabled user with write on /muster/admin.edit, or use --force.";
    /// No broker is the authority over the policy, or it cannot be reached.
    NoAuthority = "no-authority", "Wait until it is back, or take the authority with `muster admin authority take`.";
    /// Two brokers took the authority in one term: nobody edits until it is taken again.
    Contested = "contested", "Look at what the other broker has set aside, then run `muster admin authority take`.";
    /// The broker is stopping.
    Draining = "draining", "Connect to another broker of the list.";
    /// A fault in the broker; its log says more.
    Internal = "internal", "Look at the broker's log.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal as it travels: a code and a text that says what, where and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// One line for people; holds no secret.
    pub text: String,
    /// When it is worth trying again, ms from now: `muster-retry-after`.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// A refusal with its text.
    pub fn new(code: Code, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into(), retry_after: None }
    }

    /// The same, with the time after which it is worth trying again, ms.
    pub fn again_in(self, ms: u64) -> Refusal {
        Refusal { retry_after: Some(ms), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_parse_back() {
        let mut seen = std::collections::BTreeSet::new();
        for &code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert_eq!(Code::parse(code.as_str()), Some(code));
            assert!(code.cure().ends_with('.'), "{code} has no cure");
        }
    }

    #[test]
    fn the_protocol_document_lists_every_code() {
        let document = include_str!("../../docs/protocol.md");
        for code in Code::ALL {
            assert!(document.contains(&format!("| `{code}` |")), "docs/protocol.md lacks {code}");
        }
    }
}

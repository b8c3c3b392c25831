//! Which headers does Muster add, and what are its ids? Newtypes whose mix-up would be a bug.

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

/// Header names, as they stand on the wire.
pub mod header {
    /// Filter that a subscriber's facts must match, or `all`.
    pub const TARGET: &str = "muster-target";
    /// The caller's own id of a request.
    pub const REQUEST: &str = "muster-request";
    /// Where answers go.
    pub const REPLY_TO: &str = "reply-to";
    /// Milliseconds from arrival until an agent may still start.
    pub const START_WITHIN: &str = "muster-start-within";
    /// Milliseconds from arrival until an answer is awaited.
    pub const REPLY_WITHIN: &str = "muster-reply-within";
    /// Deliver to nobody if more nodes match.
    pub const MAX_TARGETS: &str = "muster-max-targets";
    /// Deliver to nobody if another number of nodes matches.
    pub const EXPECT_TARGETS: &str = "muster-expect-targets";
    /// `true`: go on with the brokers that answer, although guards cannot be checked over the whole mesh.
    pub const ALLOW_PARTIAL: &str = "muster-allow-partial";
    /// Node ids that narrow the target, comma-separated, at most 500.
    pub const NODES: &str = "muster-nodes";
    /// `true`: decide everything, deliver nothing.
    pub const DRY_RUN: &str = "muster-dry-run";
    /// Absolute expiry, Unix ms, for compatibility.
    pub const EXPIRES: &str = "expires";
    /// The user who sent it; stamped by the ingress.
    pub const CALLER: &str = "muster-caller";
    /// The ingress broker; stamped by it.
    pub const ORIGIN: &str = "muster-origin";
    /// What a message on a reply queue is.
    pub const EVENT: &str = "muster-event";
    /// A stable code of `error::Code`.
    pub const CODE: &str = "muster-code";
    /// Text for people beside a code.
    pub const MESSAGE: &str = "message";
    /// Milliseconds to wait before another try.
    pub const RETRY_AFTER: &str = "muster-retry-after";
    /// A count of nodes.
    pub const COUNT: &str = "muster-count";
    /// `true`: another chunk follows.
    pub const MORE: &str = "muster-more";
    /// A node id.
    pub const NODE: &str = "muster-node";
    /// The node key, lowercase hex; only in CONNECT.
    pub const NODE_KEY: &str = "muster-node-key";
    /// Session number of an agent; only in CONNECT.
    pub const SESSION: &str = "muster-session";
    /// The agent's clock, Unix ms; only in CONNECT.
    pub const TIME: &str = "muster-time";
    /// Terminal state that a node reports.
    pub const STATUS: &str = "muster-status";
    /// Display facts, a JSON object; stamped by the broker.
    pub const DISPLAY: &str = "muster-display";
    /// Hash of the facts document that the body makes.
    pub const HASH: &str = "muster-hash";
    /// Hash of the document that a merge patch builds on.
    pub const BASE: &str = "muster-base";
    /// The broker's name; in CONNECTED.
    pub const BROKER: &str = "muster-broker";
    /// The collective of an agent; in CONNECTED.
    pub const COLLECTIVE: &str = "muster-collective";
    /// Resumption token.
    pub const TOKEN: &str = "muster-token";

    /// Headers that only a broker sets: a client that sends one is refused.
    pub const STAMPED: &[&str] = &[CALLER, ORIGIN, DISPLAY, TOKEN, "message-id", "subscription", "muster-broker"];
}

/// The largest number of ids in `muster-nodes`.
pub const MAX_NODES_HEADER: usize = 500;

/// The wire form of `--all`.
pub const TARGET_ALL: &str = "all";

/// An id that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `n-` and 20 characters of `a-z2-7`.
    #[error("`{0}` is not a node id: expected `n-` and 20 characters of a-z and 2-7, as `muster find` prints")]
    Node(String),
    /// Not 64 hexadecimal digits.
    #[error("the node key is not 64 lowercase hexadecimal digits")]
    NodeKey,
    /// Not 1 to 64 characters of `[A-Za-z0-9._-]`.
    #[error("`{0}` is not a request id: expected 1 to 64 characters of A-Z a-z 0-9 . _ -")]
    Request(String),
    /// Not a DNS label.
    #[error("`{0}` is not a broker's name: expected 1 to 63 of a-z, 0-9 and -, no - at the ends")]
    Broker(String),
}

/// Text from a peer, cut and cleaned so that it can stand in an error or a log line.
pub fn shown(text: &str) -> String {
    shown_upto(text, 64)
}

/// As [`shown`], cut at so many characters.
pub fn shown_upto(text: &str, most: usize) -> String {
    let mut clean: String = text.chars().take(most).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        clean.push('…');
    }
    clean
}

/// A node: `n-` and the first 20 base32 characters of the SHA-256 of its key. Opaque; never a hostname.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 20]);

impl NodeId {
    /// The id of a node key.
    pub fn of(key: &NodeKey) -> NodeId {
        let text = BASE32_NOPAD.encode(&Sha256::digest(key.0)).to_ascii_lowercase();
        let mut id = [0; 20];
        id.copy_from_slice(&text.as_bytes()[..20]);
        NodeId(id)
    }

    /// Parses the wire form.
    pub fn parse(text: &str) -> Result<NodeId, IdError> {
        let wrong = || IdError::Node(shown(text));
        let rest = text.strip_prefix("n-").ok_or_else(wrong)?;
        let id: [u8; 20] = rest.as_bytes().try_into().map_err(|_| wrong())?;
        if !id.iter().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            return Err(wrong());
        }
        Ok(NodeId(id))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("n-")?;
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        let text = String::deserialize(deserializer)?;
        NodeId::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The secret that makes a node itself: 32 random bytes, made once, kept 0600.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKey([u8; 32]);

impl NodeKey {
    /// A key of random bytes.
    pub fn new(bytes: [u8; 32]) -> NodeKey {
        NodeKey(bytes)
    }

    /// Parses 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Result<NodeKey, IdError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| IdError::NodeKey)?;
        Ok(NodeKey(bytes.try_into().map_err(|_| IdError::NodeKey)?))
    }

    /// The hexadecimal form, for the key file and the CONNECT header and nowhere else.
    pub fn expose_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

/// A caller's id for a request: unique for that caller, known together with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Parses 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub fn parse(text: &str) -> Result<RequestId, IdError> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(fine) {
            return Err(IdError::Request(shown(text)));
        }
        Ok(RequestId(text.into()))
    }

    /// An id of 80 random bits, for clients.
    pub fn random() -> RequestId {
        let bytes: [u8; 10] = rand::random();
        RequestId(format!("r-{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()).into())
    }

    /// The wire form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A broker's name: a DNS label, unique in its cluster. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerName(Arc<str>);

impl BrokerName {
    /// Parses 1 to 63 characters of `a-z`, `0-9` and `-`, no `-` at the ends.
    pub fn parse(text: &str) -> Result<BrokerName, IdError> {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let ends = text.starts_with('-') || text.ends_with('-');
        if (1..=63).contains(&text.len()) && text.chars().all(inside) && !ends {
            return Ok(BrokerName(text.into()));
        }
        Err(IdError::Broker(shown(text)))
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BrokerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for BrokerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for BrokerName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for BrokerName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<BrokerName, D::Error> {
        let text = String::deserialize(deserializer)?;
        BrokerName::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_follows_from_its_key_and_parses_back() {
        let key = NodeKey::new([7; 32]);
        let id = NodeId::of(&key);
        assert_eq!(NodeId::parse(&id.to_string()), Ok(id));
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(NodeKey::parse(&key.expose_hex()), Ok(key));
    }

    #[test]
    fn wrong_ids_are_named_and_never_shown_raw() {
        for wrong in ["", "n-", "n-ABCDEFGHIJKLMNOPQRST", "n-aaaaaaaaaaaaaaaaaaa1", "web1.example.net", "n-\n"] {
            let error = NodeId::parse(wrong).expect_err(wrong).to_string();
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(RequestId::parse("a b").is_err());
        assert!(RequestId::parse(&"x".repeat(65)).is_err());
        assert!(NodeKey::parse("00").is_err());
    }

    #[test]
    fn a_node_key_does_not_print_itself() {
        assert_eq!(format!("{:?}", NodeKey::new([1; 32])), "NodeKey(…)");
    }
}

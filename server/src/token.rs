//! Is this token one of ours, and still good for who shows it? Made at a login, checked at a later one, at any broker of the cluster.
//!
//! A token says key id, when it was made, until when it is good, node (or none) and user, and proves it by an HMAC over that and over
//! the hash of the user's PHC string: with another password it is no token any more. Nothing about it is kept anywhere. What the policy
//! says of the user besides (disabled, expired, networks, `revoked-before`) is the business of whoever asks.

use crate::cluster_key::ClusterKey;
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use muster_protocol::message::NodeId;
use muster_protocol::token::{self, PREFIX};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// How far the clock of the broker that made a token may be before ours, seconds. What is made later than that is refused: it would
/// outlive a `revoked-before`.
pub const SKEW: u64 = 60;

const KEY_LABEL: &str = "muster resumption token v1";
const ID_LABEL: &str = "muster resumption token v1, key id";
/// Bytes of a key id.
const ID: usize = 8;
/// Bytes of the proof.
const PROOF: usize = 32;
/// The longest user name of a policy, bytes; its length is one byte of a token.
const LONGEST_USER: usize = 128;

/// Makes and checks tokens. `Debug` shows no key.
#[derive(Debug)]
pub struct Tokens {
    /// The first makes tokens; all are accepted.
    keys: Vec<Key>,
    /// How long a token is good, seconds.
    life: u64,
}

struct Key {
    id: [u8; ID],
    secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Whose token it is.
#[derive(Clone, Copy)]
pub struct Holder<'a> {
    /// The user.
    pub user: &'a str,
    /// For an agent: the node, whose key was checked.
    pub node: Option<NodeId>,
    /// The PHC string that the user has now.
    pub phc: &'a str,
}

/// What a good token says. Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Good {
    /// When it was made.
    pub made: u64,
    /// Whether less than half of its life is left: its holder gets a fresh one.
    pub is_ageing: bool,
}

/// What a token says of itself. Whoever reads it has not checked it: only a login shows whether any of it is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose it is.
    pub user: String,
    /// When it was made, Unix seconds.
    pub made: u64,
    /// Until when it is good, Unix seconds.
    pub expires: u64,
}

/// What a passcode claims that has the form of a token; `None` if it says nothing that makes sense.
pub fn claim(passcode: &str) -> Option<Claim> {
    let bytes = decode(passcode)?;
    let (said, _) = bytes.split_last_chunk::<PROOF>()?;
    let (_, rest) = said.split_first_chunk::<ID>()?;
    let said = Said::read(rest)?;
    let user = std::str::from_utf8(said.user).ok()?.to_owned();
    Some(Claim { user, made: said.made, expires: said.expires })
}

/// Why a token is not taken, for the log alone. Whoever shows it is told none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// This broker gives and takes none.
    Off,
    /// It has the form of a token and is none.
    Malformed,
    /// Made with a key that this broker does not have.
    UnknownKey,
    /// Not made by us, or the password was changed since.
    Forged,
    /// Good, but for somebody else.
    OtherUser,
    /// Good, but for another node, or for none.
    OtherNode,
    /// Its time is over.
    Expired,
    /// Made in the future.
    NotYet,
}

impl TokenError {
    /// In words. They hold no secret.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenError::Off => "token: tokens are off (limits.token-life)",
            TokenError::Malformed => "token: malformed",
            TokenError::UnknownKey => "token: of another cluster, or of a cluster key that is gone",
            TokenError::Forged => "token: forged, or the user's password was changed",
            TokenError::OtherUser => "token: of another user",
            TokenError::OtherNode => "token: of another node",
            TokenError::Expired => "token: expired",
            TokenError::NotYet => "token: made in the future; compare the clocks of the brokers",
        }
    }
}

impl Tokens {
    /// Tokens of this life, made with `key`; those made with `previous` are accepted too. With a life of less than a second none are
    /// made and none are accepted.
    pub fn new(key: &ClusterKey, previous: Option<&ClusterKey>, life: Duration) -> Tokens {
        let derive = |key: &ClusterKey| {
            let mut id = [0; ID];
            id.copy_from_slice(&key.derive(ID_LABEL)[..ID]);
            Key { id, secret: key.derive(KEY_LABEL) }
        };
        Tokens { keys: std::iter::once(key).chain(previous).map(derive).collect(), life: life.as_secs() }
    }

    /// A token for `holder`, made at `now` (Unix seconds); `None` if tokens are off.
    pub fn make(&self, holder: Holder<'_>, now: u64) -> Option<SecretString> {
        let key = self.keys.first().filter(|_| self.life > 0 && holder.user.len() <= LONGEST_USER)?;
        let node = holder.node.map(|node| node.to_string()).unwrap_or_default();
        let mut bytes = Zeroizing::new(Vec::with_capacity(token::LONGEST));
        bytes.extend_from_slice(&key.id);
        bytes.extend_from_slice(&now.to_be_bytes());
        bytes.extend_from_slice(&now.saturating_add(self.life).to_be_bytes());
        for part in [&node, holder.user] {
            bytes.push(u8::try_from(part.len()).ok()?);
            bytes.extend_from_slice(part.as_bytes());
        }
        let proof = proof(key, &bytes, holder.phc)?.finalize().into_bytes();
        bytes.extend_from_slice(&proof);
        let text = Zeroizing::new(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)));
        Some(SecretString::from(text.as_str()))
    }

    /// Whether a passcode that has the form of a token is a good one of `holder` at `now` (Unix seconds). Nothing that the token
    /// says is looked at before its proof was found right, in constant time.
    pub fn check(&self, passcode: &str, holder: Holder<'_>, now: u64) -> Result<Good, TokenError> {
        if self.life == 0 {
            return Err(TokenError::Off);
        }
        let bytes = decode(passcode).ok_or(TokenError::Malformed)?;
        let (said, shown) = bytes.split_last_chunk::<PROOF>().ok_or(TokenError::Malformed)?;
        let (id, rest) = said.split_first_chunk::<ID>().ok_or(TokenError::Malformed)?;
        let key = self.keys.iter().find(|key| key.id == *id).ok_or(TokenError::UnknownKey)?;
        let proof = proof(key, said, holder.phc).ok_or(TokenError::Malformed)?;
        proof.verify_slice(shown).map_err(|_| TokenError::Forged)?;
        let said = Said::read(rest).ok_or(TokenError::Malformed)?;
        if said.user != holder.user.as_bytes() {
            return Err(TokenError::OtherUser);
        }
        if said.node != holder.node.map(|node| node.to_string()).unwrap_or_default().as_bytes() {
            return Err(TokenError::OtherNode);
        }
        // Also by today's life: a shorter one holds for the tokens that are out there.
        let expires = said.expires.min(said.made.saturating_add(self.life));
        if now >= expires {
            return Err(TokenError::Expired);
        }
        if said.made > now.saturating_add(SKEW) {
            return Err(TokenError::NotYet);
        }
        Ok(Good { made: said.made, is_ageing: expires - now < (expires - said.made) / 2 })
    }
}

fn decode(passcode: &str) -> Option<Vec<u8>> {
    let text = passcode.strip_prefix(PREFIX).filter(|_| token::is_token(passcode))?;
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

struct Said<'a> {
    made: u64,
    expires: u64,
    node: &'a [u8],
    user: &'a [u8],
}

impl Said<'_> {
    fn read(bytes: &[u8]) -> Option<Said<'_>> {
        let (made, rest) = bytes.split_first_chunk::<8>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (node, rest) = part(rest)?;
        let (user, rest) = part(rest)?;
        let (made, expires) = (u64::from_be_bytes(*made), u64::from_be_bytes(*expires));
        (rest.is_empty() && made <= expires).then_some(Said { made, expires, node, user })
    }
}

/// A byte with a length, and so many bytes.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Over what the token says and the hash of the PHC string: of fixed length, so that the two cannot run into each other.
fn proof(key: &Key, said: &[u8], phc: &str) -> Option<Hmac<Sha256>> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(&*key.secret).ok()?;
    hmac.update(&Sha256::digest(phc.as_bytes()));
    hmac.update(said);
    Some(hmac)
}

#[cfg(test)]
mod tests;

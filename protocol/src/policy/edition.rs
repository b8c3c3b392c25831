//! Which policy is the newest, and who says so? Generations, and the seal that the authority puts on each edition.

use crate::message::BrokerName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Terms that a seal remembers the beginnings of.
pub const LINEAGE_MOST: usize = 64;

/// Most bytes of a policy that are asked for at once.
pub const WINDOW: u64 = 1024 * 1024;
/// Most bytes in one piece: every broker takes bodies of this length.
pub const PART: usize = 32 * 1024;

/// A place in the life of a policy: the term rises when a broker takes the authority, the number with each edit. `3.17` in texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation {
    /// Whose rule, the first being 1.
    pub term: u64,
    /// Which edition, rising through all terms.
    pub number: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.number)
    }
}

/// A text that is no generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a generation; expected TERM.NUMBER, such as 3.17")]
pub struct NoGeneration;

impl FromStr for Generation {
    type Err = NoGeneration;

    fn from_str(text: &str) -> Result<Generation, NoGeneration> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse().map_err(|_| NoGeneration) } else { Err(NoGeneration) }
        };
        let (term, rest) = text.split_once('.').ok_or(NoGeneration)?;
        Ok(Generation { term: number(term)?, number: number(rest)? })
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Generation, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Which edition of the policy. `Ord` is what wins: the higher term, of equal terms the smaller name (that two brokers took one
/// term is an alarm, and editing stops), then the higher number; the hash only so that all choose alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its generation.
    pub generation: Generation,
    /// The broker that made it.
    pub authority: BrokerName,
    /// SHA-256 of its text, hex.
    pub sha256: String,
    /// Length of its text.
    pub bytes: u64,
}

impl Stamp {
    fn rank(&self) -> (u64, Reverse<&BrokerName>, u64, &str) {
        (self.generation.term, Reverse(&self.authority), self.generation.number, &self.sha256)
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Stamp) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stamp {
    fn cmp(&self, other: &Stamp) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.bytes.cmp(&other.bytes))
    }
}

/// How an edition came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The user, or `(file)` for an edit of the file by hand.
    pub by: String,
    /// The broker that the user was connected to.
    pub via: String,
    /// When, Unix ms of the authority.
    pub at: u64,
    /// What was done, one line without secrets: `user add alice`.
    pub what: String,
    /// Why, in the words of the user; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// The last edition of a term, on which a later term was built: what came after it in that term is not part of this policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// The last generation of the term before.
    pub generation: Generation,
    /// Its authority.
    pub authority: BrokerName,
    /// Its hash.
    pub sha256: String,
}

/// What stands beside the text of a policy: which edition it is, how it came to be, and the authority's signature over all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The cluster's name.
    pub cluster: String,
    /// Which edition.
    pub stamp: Stamp,
    /// How it came to be.
    pub made: Made,
    /// The ends of the terms before, oldest first, the last [`LINEAGE_MOST`].
    #[serde(default)]
    pub lineage: Vec<Took>,
    /// The authority's certificate chain, PEM.
    pub certificate: String,
    /// Over everything above and so, by its hash, over the text; base64.
    pub signature: String,
}

impl Seal {
    /// Whether an edition is this one, or one that this one was built on, as far as a seal tells: of a term it knows the authority
    /// and one edition. Two of one number and different texts, as an authority makes that was set back to an earlier state, are not
    /// built on each other.
    pub fn builds_on(&self, older: &Stamp) -> bool {
        let own = [(&self.stamp.generation, &self.stamp.authority, &self.stamp.sha256)];
        let took = self.lineage.iter().map(|took| (&took.generation, &took.authority, &took.sha256));
        let old = &older.generation;
        own.into_iter().chain(took).any(|(generation, authority, sha256)| {
            generation.term == old.term
                && *authority == older.authority
                && (generation.number > old.number || generation.number == old.number && *sha256 == older.sha256)
        })
    }
}

/// A frame of a link: what policy the sender enforces. Said on link-up and at each change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyState {
    /// Its edition; none if its policy has no seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// Other brokers that took the same term.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rivals: BTreeSet<BrokerName>,
}

/// A frame of a link: asks the neighbour for a piece of the edition that it enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantPolicy {
    /// Which.
    pub sha256: String,
    /// From this byte of its text on.
    pub from: u64,
    /// So many bytes, in as many pieces as the sender likes; at most [`WINDOW`] are sent.
    pub bytes: u64,
}

/// A frame of a link: a piece of the text of a policy, which is the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPart {
    /// Of which edition.
    pub seal: Seal,
    /// From this byte of its text on.
    pub from: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(term: u64, number: u64, authority: &str) -> Stamp {
        let authority = BrokerName::parse(authority).unwrap();
        Stamp { generation: Generation { term, number }, authority, sha256: String::new(), bytes: 0 }
    }

    #[test]
    fn generations_have_a_text_form() {
        let generation = Generation { term: 3, number: 17 };
        assert_eq!(generation.to_string(), "3.17");
        assert_eq!("3.17".parse(), Ok(generation));
        for wrong in ["", "3", "3.", ".17", "3.17.1", "+3.17", "3.-1", "3.99999999999999999999"] {
            assert_eq!(wrong.parse::<Generation>(), Err(NoGeneration), "{wrong}");
        }
    }

    #[test]
    fn the_higher_term_wins_then_the_smaller_name_then_the_higher_number() {
        assert!(stamp(2, 1, "b") > stamp(1, 9, "a"));
        assert!(stamp(2, 1, "a") > stamp(2, 9, "b"));
        assert!(stamp(2, 2, "a") > stamp(2, 1, "a"));
    }

    #[test]
    fn a_seal_knows_what_it_was_built_on() {
        let took = Took {
            generation: Generation { term: 1, number: 5 },
            authority: BrokerName::parse("a").unwrap(),
            sha256: String::new(),
        };
        let seal = Seal {
            cluster: String::new(),
            stamp: stamp(2, 7, "b"),
            made: Made::default(),
            lineage: vec![took],
            certificate: String::new(),
            signature: String::new(),
        };
        for (older, yes) in [
            (stamp(1, 5, "a"), true),
            (stamp(1, 4, "a"), true),
            (stamp(1, 6, "a"), false),
            (stamp(1, 5, "c"), false),
            (stamp(2, 6, "b"), true),
            (stamp(2, 8, "b"), false),
            (stamp(2, 7, "c"), false),
            (Stamp { sha256: "other".into(), ..stamp(1, 5, "a") }, false),
            (Stamp { sha256: "other".into(), ..stamp(2, 7, "b") }, false),
        ] {
            assert_eq!(seal.builds_on(&older), yes, "{older:?}");
        }
    }
}

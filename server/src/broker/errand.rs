//! What does the broker leave to the edge? Errands: work with files, signatures and large texts, which come back as events.
//!
//! Editions of the policy are made and taken one at a time, so that what was written last is what holds; questions to files may be
//! under way beside them, a bounded number.

use super::access::Policy;
use muster_protocol::admin::AuditQuery;
use muster_protocol::error::Refusal;
use muster_protocol::policy::{DiffAnswer, EditQuery, Generation, HistoryQuery, Made, PolicyState, Seal, Took};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// A policy as it is enforced: the value, its text, and the authority's seal if it has one.
#[derive(Clone)]
pub struct Edition {
    /// None for the policy of a cluster that names no authority: each broker reads its own file.
    pub seal: Option<Seal>,
    /// The text of policy.toml.
    pub text: Arc<str>,
    /// What it says.
    pub policy: Arc<Policy>,
}

impl Edition {
    /// What is told to other brokers about it.
    pub fn state(&self) -> PolicyState {
        PolicyState { stamp: self.seal.as_ref().map(|seal| seal.stamp.clone()), ..PolicyState::default() }
    }

    /// Its generation, if it has one.
    pub fn generation(&self) -> Option<Generation> {
        self.seal.as_ref().map(|seal| seal.stamp.generation)
    }
}

/// A policy that nobody has sealed, and whose text is of no interest.
impl From<Arc<Policy>> for Edition {
    fn from(policy: Arc<Policy>) -> Edition {
        Edition { seal: None, text: "".into(), policy }
    }
}

/// The text holds hashes.
impl fmt::Debug for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Edition({:?}, {} bytes)", self.generation(), self.text.len())
    }
}

/// Something for the edge to do.
#[derive(Debug)]
pub struct Errand {
    /// Comes back with the outcome.
    pub id: u64,
    /// What.
    pub chore: Chore,
}

/// What the edge can do.
#[derive(Debug)]
pub enum Chore {
    /// Make the next edition and write it down. Comes back as [`Outcome::Amended`].
    Amend(Box<Amend>),
    /// Check an edition of another broker, and write it down. Comes back as [`Outcome::Adopted`].
    Adopt(Box<Adopt>),
    /// An edit by hand is not taken: put the text in force back into the file, and keep what stood there beside it. Comes back as
    /// [`Outcome::PutBack`].
    PutBack(Box<PutBack>),
    /// Look into the history. Comes back as [`Outcome::Fetched`].
    History(HistoryQuery),
    /// Look into the audit log. Comes back as [`Outcome::Fetched`].
    Audit(AuditQuery),
}

impl Chore {
    /// What comes back if it is not done, and why.
    pub fn refused(&self, refusal: Refusal) -> Outcome {
        match self {
            Chore::Amend(_) => Outcome::Amended(Err(refusal)),
            Chore::Adopt(_) => Outcome::Adopted(Err(refusal)),
            Chore::PutBack(_) => Outcome::PutBack,
            Chore::History(_) | Chore::Audit(_) => Outcome::Fetched(Err(refusal)),
        }
    }
}

/// The next edition, to be made of the one in force.
#[derive(Debug)]
pub struct Amend {
    /// What it builds on.
    pub base: Edition,
    /// What to change; the generation in it was checked.
    pub change: Change,
    /// How it will have come to be.
    pub made: Made,
    /// What it will be: `None` where the cluster names no authority and nothing is sealed.
    pub generation: Option<Generation>,
    /// The ends of the terms before.
    pub lineage: Vec<Took>,
}

/// What is to be changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// As a user wants it.
    Edit(Box<EditQuery>),
    /// The file was edited by hand: its text and what it says.
    Hand(Arc<str>, Arc<Policy>),
    /// This broker becomes the authority: `authority = "ME"` in the text.
    Take,
}

/// A hand edit that is not taken.
#[derive(Debug)]
pub struct PutBack {
    /// What is in force.
    pub current: Edition,
    /// Why.
    pub why: Refusal,
}

/// An edition that a neighbour has.
#[derive(Debug)]
pub struct Adopt {
    /// Its seal, not checked yet.
    pub seal: Seal,
    /// Its text, not checked yet.
    pub text: Vec<u8>,
    /// What it replaces.
    pub base: Edition,
    /// The seal was not built on `base`: that one is kept beside the policy file for somebody to look at, unless the texts are equal.
    pub set_aside: bool,
}

/// What became of an errand.
#[derive(Debug)]
pub enum Outcome {
    /// The edition is on disk, or none was made.
    Amended(Result<Amended, Refusal>),
    /// The edition is good and on disk, or is refused.
    Adopted(Result<Adopted, Refusal>),
    /// The file is again what is in force, or cannot be written.
    PutBack,
    /// The body of the answer.
    Fetched(Result<Value, Refusal>),
}

/// An edition of another broker that was checked.
#[derive(Debug)]
pub struct Adopted {
    /// The edition.
    pub edition: Edition,
    /// The file that holds what it replaced, if that was set aside.
    pub kept: Option<String>,
}

/// What an amendment made.
#[derive(Debug)]
pub struct Amended {
    /// The new edition; `None` for a dry run, or where nothing is otherwise.
    pub edition: Option<Edition>,
    /// What is otherwise in it.
    pub changes: DiffAnswer,
}

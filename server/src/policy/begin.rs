//! Which policy does a broker start with? What is found on its disk decides: a sealed edition, the policy file, or neither.
//!
//! [`begin`] only looks, so that `musterd check` says what a start would do; [`Begun::carry_out`] writes what is to be written.

use super::seal::{Notary, SealError, sum};
use super::store::{Slot, Store, StoreError, Toml};
use super::{LoadError, keeps_authority};
use crate::broker::access::{Policy, PolicyError};
use crate::broker::errand::Edition;
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{Generation, Made, Seal, Stamp, Took};
use muster_protocol::tls::TlsError;
use std::path::PathBuf;

/// Who made an edition that somebody wrote into policy.toml.
pub const BY_HAND: &str = "(file)";

/// Why a broker cannot start with what is on its disk.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The policy file is none.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Something cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sealed policy was tampered with, and nothing that is kept can replace it.
    #[error(
        "{}: {cause}, and no earlier edition that is kept beside it is good; delete {} to start from policy.toml and follow the authority again",
        file.display(), dir.display()
    )]
    Unsound {
        /// Which file.
        file: PathBuf,
        /// The directory of the editions.
        dir: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The policy is sealed, and this broker cannot check a seal.
    #[error("the policy in {} is sealed, and this broker cannot check seals: {cause}", dir.display())]
    Unchecked {
        /// The directory of the editions.
        dir: PathBuf,
        /// What is wrong with its certificate, key or CA.
        cause: String,
    },
    /// The authority's file was edited while the broker was down, and names another one.
    #[error("{}: {why}", file.display())]
    Moved {
        /// The policy file.
        file: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// This broker is to make the policy, and cannot seal it.
    #[error(
        "this broker is the authority over the policy, and cannot seal it: {cause}; give it a certificate for server and client authentication with the name NAME.CLUSTER.muster, of the CA in [tls] ca; or, if it is a broker alone, take `authority` out of policy.toml"
    )]
    Unsealable {
        /// What is wrong with its certificate, key or CA.
        cause: String,
    },
}

/// What a broker starts with, and what is to be written for that.
#[derive(Debug)]
pub struct Begun {
    /// The policy in force.
    pub edition: Edition,
    /// What somebody should look at, for people.
    pub alarms: Vec<String>,
    /// What is no alarm and belongs into the log.
    pub notes: Vec<String>,
    steps: Vec<Step>,
}

/// What is to be written. Until the first three are done the broker cannot start; the others can wait.
#[derive(Debug)]
enum Step {
    /// `pending.json` is of the edition in force.
    Settle,
    /// The edition in force is a new one, of what stands in policy.toml.
    Commit,
    /// The edition in force is an earlier one, in place of one that was tampered with.
    Recall,
    /// `pending.json` is of an edition that never was in force.
    DropPending,
    /// So is one that is kept.
    Forget(Stamp),
    /// The edition in force is not among those that are kept.
    Keep,
    /// policy.toml gets the text in force. What stands there is set aside, if it is a text that somebody may miss.
    Restore(Option<Vec<u8>>),
}

/// Finds out what a broker starts with. `now` is Unix ms.
pub fn begin(store: &Store, notary: &Result<Notary, TlsError>, me: &BrokerName, now: u64) -> Result<Begun, BeginError> {
    let look = Look { store, notary, me, now };
    let (mut current, mut steps) = (store.current(), Vec::new());
    match store.pending() {
        Slot::Empty => {}
        Slot::Seal(pending) if look.was_written(&pending) => {
            steps.push(Step::Settle);
            current = Slot::Seal(pending);
        }
        Slot::Seal(_) | Slot::Bad(_) => steps.push(Step::DropPending),
    }
    let mut begun = match current {
        Slot::Empty if store.kept().is_empty() => look.without_seal(),
        Slot::Empty => look.recover("it is not there"),
        Slot::Bad(cause) => look.recover(&format!("it is no seal ({cause})")),
        Slot::Seal(seal) => look.with_seal(*seal),
    }?;
    steps.append(&mut begun.steps);
    Ok(Begun { steps, ..begun })
}

impl Begun {
    /// Which policy a start would enforce, and what it would do to policy.toml, for people, a line each.
    pub fn outlook(&self) -> Vec<String> {
        let is_new = self.steps.iter().any(|step| matches!(step, Step::Commit));
        let policy = match &self.edition.seal {
            None => "policy.toml as it stands, of no generation".to_owned(),
            Some(seal) if is_new => {
                format!("policy.toml as it stands; a start makes it generation {}", seal.stamp.generation)
            }
            Some(seal) => format!("generation {} of {}", seal.stamp.generation, seal.stamp.authority),
        };
        let restore = self.steps.iter().find_map(|step| match step {
            Step::Restore(Some(_)) => {
                Some("policy.toml holds another text, which does not count: a start sets it aside")
            }
            Step::Restore(None) => Some("policy.toml does not hold that text: a start puts it there"),
            _ => None,
        });
        let notes = self.notes.iter().filter(|_| !is_new).chain(&self.alarms).cloned();
        [format!("policy: {policy}")].into_iter().chain(restore.map(str::to_owned)).chain(notes).collect()
    }

    /// Writes what is to be written; what can wait becomes an alarm. `now` is Unix ms.
    pub fn carry_out(&mut self, store: &Store, now: u64) -> Result<(), StoreError> {
        for step in std::mem::take(&mut self.steps) {
            let (seal, text) = (self.edition.seal.as_ref(), &self.edition.text);
            let waits = match (step, seal) {
                (Step::Settle, _) => store.settle().map(|()| Ok(())),
                (Step::Commit, Some(seal)) => store.commit(seal, text, Toml::Stays).map(|_| Ok(())),
                (Step::Recall, Some(seal)) => {
                    let recalled = store.set_current_aside(now / 1000).and_then(|()| store.announce(seal));
                    recalled.and_then(|()| store.settle()).map(|()| Ok(()))
                }
                (Step::DropPending, _) => Ok(store.drop_pending()),
                (Step::Forget(stamp), _) => Ok(store.forget(&stamp)),
                (Step::Keep, Some(seal)) => Ok(store.keep(seal, text)),
                (Step::Restore(aside), _) => {
                    let aside = aside.map_or(Ok(()), |there| self.set_aside(store, &there, now));
                    // What could not be set aside is not overwritten.
                    Ok(aside.and_then(|()| store.replace(&self.edition.text)))
                }
                (Step::Commit | Step::Recall | Step::Keep, None) => Ok(Ok(())),
            };
            if let Err(error) = waits? {
                self.alarms.push(error.to_string());
            }
        }
        Ok(())
    }

    fn set_aside(&mut self, store: &Store, text: &[u8], now: u64) -> Result<(), StoreError> {
        let path = store.set_aside(text, &(now / 1000).to_string())?;
        self.notes.push(format!(
            "{} held another text than the policy in force; it was set aside as {}",
            store.file().display(),
            path.display()
        ));
        Ok(())
    }
}

/// What is looked at, and by whom.
#[derive(Clone, Copy)]
struct Look<'a> {
    store: &'a Store,
    notary: &'a Result<Notary, TlsError>,
    me: &'a BrokerName,
    now: u64,
}

impl Look<'_> {
    /// Whether everything but the last step was done for an edition before the broker stopped.
    fn was_written(&self, seal: &Seal) -> bool {
        let there = self.store.raw().ok().flatten();
        let fits = |text: Vec<u8>| self.notary.as_ref().is_ok_and(|notary| notary.verify(seal, &text).is_ok());
        there.is_some_and(fits)
    }

    fn without_seal(&self) -> Result<Begun, BeginError> {
        let text = self.store.read()?;
        let policy = self.parse(&text)?;
        let is_named = policy.authority() == Some(self.me);
        let is_alone = policy.authority().is_none() && policy.brokers().is_empty();
        if !is_named && !is_alone {
            return Ok(begun(Edition { seal: None, text: text.into(), policy: policy.into() }, Vec::new()));
        }
        match self.seal(&text, &policy, Generation { term: 1, number: 1 }, "policy.toml was sealed", Vec::new()) {
            Ok(seal) => {
                let edition = Edition { seal: Some(seal), text: text.into(), policy: policy.into() };
                Ok(begun(edition, vec![Step::Commit]))
            }
            Err(cause) if is_named => Err(BeginError::Unsealable { cause }),
            Err(cause) => {
                let mut begun = begun(Edition { seal: None, text: text.into(), policy: policy.into() }, Vec::new());
                begun.notes.push(format!(
                    "the policy has no generations and no history, for this broker cannot seal it: {cause}"
                ));
                Ok(begun)
            }
        }
    }

    fn with_seal(&self, seal: Seal) -> Result<Begun, BeginError> {
        let notary = self.checks()?;
        if let Err(error) = notary.verify_seal(&seal) {
            return self.recover(&error.to_string());
        }
        let there = self.there()?;
        let is_there = there.as_deref().is_some_and(|text| sum(text) == seal.stamp.sha256);
        if !is_there && seal.stamp.authority == *self.me {
            return self.edited(&seal);
        }
        let kept = self.store.text(&seal.stamp);
        let (text, restore) = match (is_there, there, kept) {
            (true, Some(there), kept) => (there, kept.is_err().then_some(Step::Keep)),
            (_, there, Ok(kept)) => (kept, Some(Step::Restore(there.filter(|there| !self.is_kept(there))))),
            (_, _, Err(error)) => return self.recover(&format!("the text that it seals is not there: {error}")),
        };
        match notary.verify(&seal, &text) {
            Ok((text, policy)) => {
                let steps = self.orphans(&seal.stamp).chain(restore).collect();
                Ok(begun(Edition { seal: Some(seal), text, policy }, steps))
            }
            // Nobody has touched it: this version of the program does not take it. An earlier one might grant what was taken.
            Err(SealError::Policy(error)) => Err(self.wrong(error).into()),
            Err(error) => self.recover(&error.to_string()),
        }
    }

    /// The authority's policy.toml was edited while the broker was down.
    fn edited(&self, seal: &Seal) -> Result<Begun, BeginError> {
        let text = self.store.read()?;
        let policy = self.parse(&text)?;
        keeps_authority(&policy, self.me)
            .map_err(|refusal| BeginError::Moved { file: self.store.file().to_owned(), why: refusal.text })?;
        let Generation { term, number } = seal.stamp.generation;
        let next = Generation { term, number: number.saturating_add(1) };
        let what = "policy.toml was edited by hand, while the broker was down";
        let sealed = self.seal(&text, &policy, next, what, seal.lineage.clone());
        let sealed = sealed.map_err(|cause| BeginError::Unsealable { cause })?;
        let edition = Edition { seal: Some(sealed), text: text.into(), policy: policy.into() };
        let mut begun = begun(edition, self.orphans(&seal.stamp).chain([Step::Commit]).collect());
        begun.notes.push(format!("policy.toml was edited while the broker was down; this is generation {next}"));
        Ok(begun)
    }

    /// The edition in force cannot be trusted: the newest one that can be takes its place.
    fn recover(&self, cause: &str) -> Result<Begun, BeginError> {
        let notary = self.checks()?;
        let there = self.there()?;
        let sound = |seal: Seal| {
            let text = self.store.text(&seal.stamp).ok()?;
            let (text, policy) = notary.verify(&seal, &text).ok()?;
            Some(Edition { seal: Some(seal), text, policy })
        };
        let (file, dir) = (self.store.current_path(), self.store.dir().to_owned());
        let Some(edition) = self.store.kept().into_iter().find_map(sound) else {
            return Err(BeginError::Unsound { file, dir, cause: cause.to_owned() });
        };
        let is_there = there.as_deref() == Some(edition.text.as_bytes());
        let restore = || Step::Restore(there.filter(|there| !self.is_kept(there)));
        let steps = [Step::Recall].into_iter().chain((!is_there).then(restore)).collect();
        let generation = edition.generation().unwrap_or_default();
        let mut begun = begun(edition, steps);
        begun.alarms.push(format!(
            "{}: {cause}; the newest edition that is kept and good took its place, {generation}: find out who can write there, \
             and compare with `muster admin history` at other brokers",
            file.display()
        ));
        Ok(begun)
    }

    fn parse(&self, text: &str) -> Result<Policy, LoadError> {
        Policy::parse(text).map_err(|error| self.wrong(error))
    }

    fn wrong(&self, error: PolicyError) -> LoadError {
        LoadError::Policy { file: self.store.file().to_owned(), error }
    }

    fn seal(
        &self,
        text: &str,
        policy: &Policy,
        generation: Generation,
        what: &str,
        lineage: Vec<Took>,
    ) -> Result<Seal, String> {
        let notary = self.notary.as_ref().map_err(ToString::to_string)?;
        let made = Made {
            by: BY_HAND.into(),
            via: self.me.to_string(),
            at: self.now,
            what: what.into(),
            reason: String::new(),
        };
        notary.seal(text, policy, generation, made, lineage).map_err(|error| error.to_string())
    }

    fn checks(&self) -> Result<&Notary, BeginError> {
        let dir = || self.store.dir().to_owned();
        self.notary.as_ref().map_err(|error| BeginError::Unchecked { dir: dir(), cause: error.to_string() })
    }

    /// What stands in policy.toml, whatever it is. That others can read it is not passed over.
    fn there(&self) -> Result<Option<Vec<u8>>, BeginError> {
        match self.store.read() {
            Ok(text) => Ok(Some(text.into_bytes())),
            Err(error @ LoadError::Exposed { .. }) => Err(error.into()),
            Err(_) => Ok(self.store.raw()?),
        }
    }

    /// Whether a text is that of an edition that is kept: nobody misses it.
    fn is_kept(&self, text: &[u8]) -> bool {
        let sum = sum(text);
        self.store.kept().iter().any(|seal| seal.stamp.sha256 == sum)
    }

    /// Editions that are newer than the one in force were begun and never were.
    fn orphans(&self, current: &Stamp) -> impl Iterator<Item = Step> {
        let kept = self.store.kept().into_iter().map(|seal| seal.stamp);
        kept.filter(|stamp| stamp > current).map(Step::Forget).collect::<Vec<_>>().into_iter()
    }
}

fn begun(edition: Edition, steps: Vec<Step>) -> Begun {
    Begun { edition, alarms: Vec::new(), notes: Vec::new(), steps }
}

#[cfg(test)]
mod tests;

//! What is done with an edition? It is made or checked, written down, and remembered; and policy.toml is looked at. All of this waits
//! for the disk.

use super::Setup;
use super::alarms::Alarms;
use crate::audit::Audit;
use crate::broker::access::{Policy, count, diff};
use crate::broker::errand::{Adopt, Adopted, Amend, Amended, Change, Edition, PutBack};
use crate::broker::record::{EditionOf, Record};
use crate::policy::history::text_of;
use crate::policy::seal::{Notary, sum};
use crate::policy::store::{Claim, Print, Store, StoreError, Toml};
use crate::policy::{LoadError, amended, keeps_authority, with_authority};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{DiffAnswer, Edit, EditQuery, Generation, Made, WholeText};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The keeper's own, behind one lock: editions are made and taken one at a time.
pub(super) struct Desk {
    store: Store,
    _claim: Claim,
    /// Or why there is none.
    notary: Result<Notary, String>,
    me: BrokerName,
    current: Edition,
    /// Set while the edition in force is not on the disk: what is to be set aside before it is written.
    unsaved: Option<Unsaved>,
    /// policy.toml as it needs no more looking at.
    known: Option<Print>,
    /// policy.toml as it was at the last look, if it was another then: it may still be written to.
    seen: Option<Print>,
    /// What was last refused of it: SHA-256, if it could be read, and why.
    refused: Option<(Option<String>, String)>,
    alarms: Alarms,
    audit: Audit,
}

/// What was found in policy.toml.
pub(super) enum Seen {
    /// What was there before, or something that is still being written.
    Nothing,
    /// The policy in force.
    InForce,
    /// Nothing that is taken, for people.
    Refused(String),
    /// Another policy, and which generation stood there before.
    Edited(Arc<str>, Arc<Policy>, Option<Generation>),
}

/// What an edition that is not on the disk takes the place of.
struct Unsaved {
    /// The text that is on the disk.
    base: Arc<str>,
    /// Texts that somebody may miss, with the marks in their names.
    aside: Vec<(Arc<str>, Option<String>)>,
}

struct Draft {
    text: Arc<str>,
    policy: Arc<Policy>,
    changes: DiffAnswer,
}

impl Desk {
    pub(super) fn new(setup: Setup, alarms: Alarms, audit: Audit) -> Desk {
        let Setup { store, claim, notary, me, edition, alarms: at_start } = setup;
        alarms.at_start(at_start);
        alarms.aside(store.aside());
        let notary = notary.map_err(|error| error.to_string());
        let mut desk = Desk {
            store,
            _claim: claim,
            notary,
            me,
            current: edition,
            unsaved: None,
            known: None,
            seen: None,
            refused: None,
            alarms,
            audit,
        };
        desk.remember();
        desk
    }

    pub(super) fn current(&self) -> &Edition {
        &self.current
    }

    /// Makes the next edition.
    pub(super) fn amend(&mut self, amend: Amend) -> Result<Amended, Refusal> {
        let is_dry = matches!(&amend.change, Change::Edit(query) if query.dry_run);
        let (by, what) = (amend.made.by.clone(), amend.made.what.clone());
        let (hand, sum) = match &amend.change {
            Change::Hand(text, _) => (true, Some(sum(text.as_bytes()))),
            _ => (false, None),
        };
        let amended = self.try_amend(amend, is_dry);
        if hand && amended.is_ok() {
            self.alarms.refused(None);
        }
        if let (Err(refusal), false) = (&amended, is_dry) {
            tracing::warn!(by, what, reason = refusal.text, "an edit of the policy was refused");
            if hand {
                self.alarms.refused(Some(self.not_taken(&refusal.text)));
            }
            self.tell_refused(sum, Some(by), Some(what), refusal.text.clone());
        }
        amended
    }

    /// Takes the edition of another broker, if it is one.
    pub(super) fn adopt(&mut self, adopt: Adopt) -> Result<Adopted, Refusal> {
        let (made, sum) = (adopt.seal.made.clone(), adopt.seal.stamp.sha256.clone());
        let adopted = self.try_adopt(adopt);
        if let Err(refusal) = &adopted {
            tracing::error!(reason = refusal.text, "an edition of the policy was refused");
            self.tell_refused(Some(sum), Some(made.by), Some(made.what), refusal.text.clone());
        }
        adopted
    }

    /// An edit by hand is not taken: the policy in force is put back. What is said to whoever waits for it.
    pub(super) fn put_back(&mut self, put: &PutBack) -> String {
        match self.restore(&put.why.text) {
            Seen::Refused(why) => why,
            _ => put.why.text.clone(),
        }
    }

    /// Looks at policy.toml: what was touched since, and is left alone now, is read.
    pub(super) fn look(&mut self) -> Seen {
        self.alarms.look_aside();
        self.save_again();
        let print = self.store.print();
        if self.known == Some(print) {
            self.seen = None;
            return Seen::Nothing;
        }
        if self.seen != Some(print) {
            self.seen = Some(print);
            return Seen::Nothing;
        }
        match self.read(print, false) {
            Seen::Edited(..) if self.store.print() != print => {
                // It was touched while it was read.
                self.known = None;
                Seen::Nothing
            }
            seen => seen,
        }
    }

    /// Reads policy.toml, because somebody asked for it.
    pub(super) fn reload(&mut self) -> Seen {
        self.alarms.look_aside();
        self.save_again();
        let print = self.store.print();
        self.read(print, true)
    }

    fn try_amend(&mut self, amend: Amend, is_dry: bool) -> Result<Amended, Refusal> {
        let Amend { base, change, made, generation, lineage } = amend;
        let Draft { text, policy, changes } = self.draft(&base, &change, &made)?;
        let is_sealed_alike = base.seal.is_some() == generation.is_some();
        let is_same = *text == *base.text && is_sealed_alike && !matches!(change, Change::Take);
        if is_dry || is_same {
            return Ok(Amended { edition: None, changes });
        }
        let toml = self.make_way(&text, matches!(change, Change::Hand(..)))?;
        let seal = match generation {
            None => {
                if toml == Toml::Replaced {
                    self.store.replace(&text).map_err(|error| unwritten(&error))?;
                }
                None
            }
            Some(generation) => {
                let about = || format!("generation {generation} cannot be made");
                let seal = self.notary()?.seal(&text, &policy, generation, made, lineage);
                let seal = seal.map_err(|error| error.refusal(&about()))?;
                self.store.commit(&seal, &text, toml).map_err(|error| unwritten(&error))?;
                Some(seal)
            }
        };
        let edition = Edition { seal, text, policy };
        self.hold(edition.clone());
        self.remember();
        Ok(Amended { edition: Some(edition), changes })
    }

    fn draft(&self, base: &Edition, change: &Change, made: &Made) -> Result<Draft, Refusal> {
        match change {
            Change::Edit(query) => {
                let query = self.resolved(base, query)?;
                let made = amended(&base.policy, &base.text, &query, made.at / 1000)?;
                Ok(Draft { text: made.text.into(), policy: made.policy, changes: made.changes })
            }
            Change::Hand(text, policy) => {
                if base.seal.is_some() {
                    keeps_authority(policy, &self.me)?;
                }
                Ok(Draft { text: text.clone(), policy: policy.clone(), changes: diff(&base.policy, policy) })
            }
            Change::Take => {
                let text = with_authority(&base.text, &self.me)?;
                let policy = Policy::parse(&text).map_err(|error| Refusal::new(Code::BadEdit, error.to_string()))?;
                let changes = diff(&base.policy, &policy);
                Ok(Draft { text: text.into(), policy: policy.into(), changes })
            }
        }
    }

    /// A revert as the text that it is about; who has the authority stays, for no edit changes that.
    fn resolved(&self, base: &Edition, query: &EditQuery) -> Result<EditQuery, Refusal> {
        let Edit::Revert(revert) = &query.edit else { return Ok(query.clone()) };
        let text = text_of(&self.store, self.notary()?, revert.to)?;
        let policy = match base.policy.authority() {
            Some(authority) => with_authority(&text, authority)?,
            None => text.to_string(),
        };
        Ok(EditQuery { edit: Edit::Text(WholeText { policy }), ..query.clone() })
    }

    /// Whether a new text may take the place of what stands in policy.toml: what somebody has just written there is not
    /// overwritten, but read first.
    fn make_way(&mut self, text: &str, by_hand: bool) -> Result<Toml, Refusal> {
        let there = self.store.raw().map_err(|error| unwritten(&error))?;
        let Some(there) = there else { return Ok(Toml::Replaced) };
        if there == text.as_bytes() {
            return Ok(Toml::Stays);
        }
        let is_known = |text: &str| there == text.as_bytes();
        if !by_hand && (is_known(&self.current.text) || self.unsaved.as_ref().is_some_and(|it| is_known(&it.base))) {
            return Ok(Toml::Replaced);
        }
        let was_refused = |there: &[u8]| self.refused.as_ref().is_some_and(|(known, _)| *known == Some(sum(there)));
        if !by_hand && was_refused(&there) {
            self.set_aside(&there, None).map_err(|error| unwritten(&error))?;
            return Ok(Toml::Replaced);
        }
        self.known = None;
        let text = format!(
            "{} was edited by hand a moment ago, and is read first; look at the policy again in a few seconds",
            self.store.file().display()
        );
        Err(Refusal::new(Code::StaleGeneration, text))
    }

    fn try_adopt(&mut self, adopt: Adopt) -> Result<Adopted, Refusal> {
        let Adopt { seal, text, base, set_aside } = adopt;
        let about = format!("generation {} of {} is not taken", seal.stamp.generation, seal.stamp.authority);
        let (text, policy) = self.notary()?.verify(&seal, &text).map_err(|error| error.refusal(&about))?;
        let edition = Edition { seal: Some(seal), text, policy };
        let mut unsaved = self.unsaved.take().unwrap_or_else(|| Unsaved { base: base.text.clone(), aside: Vec::new() });
        if set_aside && somebody_misses(&base, &edition) {
            let mark = base.generation().map(|at| format!("{}-{}", at.term, at.number));
            unsaved.aside.push((base.text.clone(), mark));
        }
        let saved = self.save(&edition, &unsaved);
        self.hold(edition.clone());
        let kept = match saved {
            Ok(saved) => self.saved(saved),
            // It may take away what somebody must not have any more: that does not wait for room on a disk.
            Err(error) => {
                tracing::error!(%error, "a policy holds that cannot be written to the disk");
                self.not_saved(unsaved, &error);
                None
            }
        };
        Ok(Adopted { edition, kept })
    }

    /// Writes an edition of another broker down: the last file that was set aside, and why policy.toml could not be written.
    fn save(&mut self, edition: &Edition, unsaved: &Unsaved) -> Result<Saved, StoreError> {
        let mut kept = None;
        for (text, mark) in &unsaved.aside {
            kept = Some(self.set_aside(text.as_bytes(), mark.clone())?);
        }
        let Some(seal) = &edition.seal else { return Ok(Saved { kept, unwritten: None }) };
        let way = self.give_way(&edition.text, &unsaved.base);
        let toml = way.as_ref().copied().unwrap_or(Toml::Stays);
        let replaced = self.store.commit(seal, &edition.text, toml)?;
        Ok(Saved { kept, unwritten: way.err().or(replaced) })
    }

    /// The edition in force is on the disk.
    fn saved(&mut self, Saved { kept, unwritten }: Saved) -> Option<String> {
        self.alarms.unsaved(None);
        match unwritten {
            None => self.remember(),
            // What stands there was not read by anybody, and is not an edit: the alarm says so until the file is touched.
            Some(error) => {
                self.known = Some(self.store.print());
                self.cannot_write(&error);
            }
        }
        kept.map(|path| path.display().to_string())
    }

    fn not_saved(&mut self, unsaved: Unsaved, error: &StoreError) {
        self.unsaved = Some(unsaved);
        // It holds the policy before, which is no edit.
        (self.known, self.seen) = (Some(self.store.print()), None);
        let generation = self.current.generation().unwrap_or_default();
        self.alarms.unsaved(Some(format!(
            "policy {generation} is in force and not on the disk, where a restart finds the one before: {error}; it is written as soon \
             as that is possible"
        )));
    }

    /// Tries again to write down what holds.
    fn save_again(&mut self) {
        let Some(unsaved) = self.unsaved.take() else { return };
        let edition = self.current.clone();
        match self.save(&edition, &unsaved) {
            Ok(saved) => {
                self.saved(saved);
                tracing::info!("the policy in force is on the disk again");
            }
            Err(error) => self.not_saved(unsaved, &error),
        }
    }

    /// Whatever stands in a follower's policy.toml makes way for the text in force; what somebody may miss is set aside.
    fn give_way(&mut self, text: &str, base: &str) -> Result<Toml, StoreError> {
        let Some(there) = self.store.raw()? else { return Ok(Toml::ReplacedIfPossible) };
        if there == text.as_bytes() {
            return Ok(Toml::Stays);
        }
        if there != base.as_bytes() && !self.is_ours(&there) {
            self.set_aside(&there, None)?;
        }
        Ok(Toml::ReplacedIfPossible)
    }

    /// Whether a text is in force, or kept: nobody misses it.
    fn is_ours(&self, text: &[u8]) -> bool {
        let sum = sum(text);
        text == self.current.text.as_bytes() || self.store.kept().iter().any(|seal| seal.stamp.sha256 == sum)
    }

    fn read(&mut self, print: Print, asked: bool) -> Seen {
        (self.known, self.seen) = (Some(print), None);
        let file = self.store.file().to_owned();
        let text = match self.store.read() {
            Ok(text) if text == *self.current.text => {
                self.refused = None;
                self.alarms.refused(None);
                self.alarms.unwritten(None);
                return Seen::InForce;
            }
            Err(error @ LoadError::Exposed { .. }) => return self.refuse(&error, asked),
            Ok(_) | Err(_) if self.follows() => return self.not_here(),
            Err(error) => return self.refuse(&error, asked),
            Ok(text) => text,
        };
        match Policy::parse(&text) {
            Ok(policy) => {
                self.refused = None;
                self.alarms.refused(Some(self.not_taken("it was edited, and the edit is not taken yet")));
                Seen::Edited(text.into(), policy.into(), self.current.generation())
            }
            Err(error) => self.refuse(&LoadError::Policy { file, error }, asked),
        }
    }

    /// Whether another broker makes the editions.
    fn follows(&self) -> bool {
        self.current.seal.as_ref().is_some_and(|seal| seal.stamp.authority != self.me)
    }

    /// What was written by hand at a follower is not taken.
    fn not_here(&mut self) -> Seen {
        let authority = self.current.seal.as_ref().map(|seal| seal.stamp.authority.to_string()).unwrap_or_default();
        self.restore(&format!("this broker follows {authority}; edit the policy there, or with `muster admin`"))
    }

    /// The policy in force is put back into policy.toml, and what somebody may miss of what stood there is set aside.
    fn restore(&mut self, why: &str) -> Seen {
        let aside = match self.store.raw() {
            Ok(Some(there)) if !self.is_ours(&there) => self.set_aside(&there, None).map(Some),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        let text = self.current.text.clone();
        let aside = match aside.and_then(|aside| self.store.replace(&text).map(|()| aside)) {
            Ok(aside) => aside,
            Err(error) => return Seen::Refused(self.cannot_write(&error)),
        };
        self.refused = None;
        self.alarms.refused(None);
        self.alarms.unwritten(None);
        self.remember();
        let Some(aside) = aside else { return Seen::InForce };
        let (file, aside) = (self.store.file().display(), aside.display());
        let why = format!("{file}: {why}; what was written there was set aside as {aside}");
        tracing::error!(reason = why, "policy refused; the one in force stays");
        self.tell_refused(None, None, None, why.clone());
        Seen::Refused(why)
    }

    fn set_aside(&mut self, text: &[u8], mark: Option<String>) -> Result<PathBuf, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = self.store.set_aside(text, &mark.unwrap_or_else(|| now.as_secs().to_string()))?;
        tracing::warn!(file = %path.display(), "a policy that is not in force was set aside");
        self.alarms.aside(self.store.aside());
        Ok(path)
    }

    fn refuse(&mut self, error: &LoadError, asked: bool) -> Seen {
        let why = error.to_string();
        let sum = self.store.raw().ok().flatten().map(|text| sum(&text));
        let content = (sum.clone(), why.clone());
        if asked || self.refused.as_ref() != Some(&content) {
            tracing::error!(error = why, "policy refused; the last good one stays in force");
            self.tell_refused(sum, None, None, why.clone());
        }
        self.refused = Some(content);
        self.alarms.refused(Some(self.not_taken(&why)));
        Seen::Refused(why)
    }

    fn not_taken(&self, why: &str) -> String {
        let file = self.store.file().display().to_string();
        let why = why.strip_prefix(&file).map_or(why, |rest| rest.trim_start_matches(':').trim_start());
        format!("{file} is not in force, the last good policy is: {why}")
    }

    fn cannot_write(&mut self, error: &StoreError) -> String {
        let why = format!("the policy in force does not stand in {}: {error}", self.store.file().display());
        tracing::error!(reason = why, "policy not written");
        self.alarms.unwritten(Some(format!("{why}; then run `musterd ctl reload`")));
        why
    }

    /// An edition is in force from now on.
    fn hold(&mut self, edition: Edition) {
        let before = std::mem::replace(&mut self.current, edition);
        let Edition { seal, text, policy } = &self.current;
        self.audit.tell(|| loaded(&self.store, seal.as_ref().map(EditionOf::from), text, policy, &before.policy));
        self.refused = None;
        self.alarms.at_start(Vec::new());
        self.alarms.refused(None);
        self.alarms.unwritten(None);
    }

    /// policy.toml is as it should be, unless somebody has touched it in this moment.
    fn remember(&mut self) {
        let print = self.store.print();
        let is_ours = self.store.raw().is_ok_and(|there| there.as_deref() == Some(self.current.text.as_bytes()));
        (self.known, self.seen) = (is_ours.then_some(print), None);
    }

    fn notary(&self) -> Result<&Notary, Refusal> {
        self.notary.as_ref().map_err(|cause| {
            let text = format!("this broker can neither seal a policy nor check a seal: {cause}");
            Refusal::new(Code::Internal, text)
        })
    }

    fn tell_refused(&self, sha256: Option<String>, by: Option<String>, what: Option<String>, reason: String) {
        let file = self.store.file().display().to_string();
        self.audit.tell(|| Record::PolicyRefused { file, sha256, by, what, reason });
    }
}

/// An edition that was written down.
struct Saved {
    kept: Option<PathBuf>,
    unwritten: Option<StoreError>,
}

/// Whether the text of an edition is other than that of a newer one, but for the line that says who makes the next.
fn somebody_misses(old: &Edition, new: &Edition) -> bool {
    let moved = new.policy.authority().and_then(|authority| with_authority(&old.text, authority).ok());
    *old.text != *new.text && moved.is_none_or(|moved| *moved != *new.text)
}

/// That a policy holds, for the audit log.
pub(super) fn loaded(
    store: &Store,
    edition: Option<EditionOf>,
    text: &str,
    policy: &Policy,
    before: &Policy,
) -> Record {
    let file = store.file().display().to_string();
    Record::PolicyLoaded { file, sha256: sum(text.as_bytes()), edition, changes: count(before, policy) }
}

fn unwritten(error: &StoreError) -> Refusal {
    Refusal::new(Code::Internal, format!("the policy stays as it was, for the new one cannot be written: {error}"))
}

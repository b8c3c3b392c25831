//! Who keeps the policy on disk? One task: it does the broker's errands, one edition at a time, and looks at policy.toml each second.
//!
//! The broker decides which edition is to be made or taken, and is told of each before anybody else. What somebody writes into
//! policy.toml is an edit like any other: it goes to the broker, and comes back as an errand.

mod alarms;
mod desk;

pub use alarms::Alarms;

use super::history::history;
use super::seal::Notary;
use super::store::{Claim, Store};
use crate::audit;
use crate::broker::access::Policy;
use crate::broker::errand::{Adopted, Amended, Change, Chore, Edition, Errand, Outcome};
use crate::broker::event::Event;
use crate::broker::record::{EditionOf, Record};
use crate::hub::Hub;
use desk::{Desk, Seen, loaded};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::BrokerName;
use muster_protocol::policy::Generation;
use muster_protocol::tls::TlsError;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Errands that may wait; the broker has few under way at once.
pub const ERRANDS: usize = 64;
/// Time between two looks at policy.toml; who edits it is left alone for one of them.
pub const BEAT: Duration = Duration::from_secs(1);

/// Questions to files that may be under way.
const QUESTIONS: usize = 4;
/// How long somebody who wants policy.toml read waits to be told what became of it.
const WAIT: Duration = Duration::from_secs(8);

/// What a keeper begins with.
#[derive(Debug)]
pub struct Setup {
    /// Where the policy lies.
    pub store: Store,
    /// The right to write there.
    pub claim: Claim,
    /// What seals are made and checked with, or why that cannot be.
    pub notary: Result<Notary, TlsError>,
    /// The broker.
    pub me: BrokerName,
    /// The policy in force.
    pub edition: Edition,
    /// What somebody should look at already.
    pub alarms: Vec<String>,
}

/// The handle that everybody else holds.
#[derive(Debug, Clone)]
pub struct Keeper {
    reloads: mpsc::Sender<Waiter>,
    alarms: Alarms,
}

/// policy.toml was read, and holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Which file.
    #[serde(rename = "reloaded")]
    pub file: PathBuf,
    /// Which generation it is; none if the policy has no seal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
}

/// policy.toml was not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReloadError(String);

type Waiter = oneshot::Sender<Result<Reloaded, ReloadError>>;

impl Keeper {
    /// Starts the task; it ends when nobody gives it errands any more. `policy` tells of each new policy those who are not the
    /// broker.
    pub fn start(
        setup: Setup,
        errands: mpsc::Receiver<Errand>,
        hub: Hub,
        policy: watch::Sender<Arc<Policy>>,
        beat: Duration,
    ) -> Keeper {
        let (reloads, asked) = mpsc::channel(ERRANDS);
        let (alarms, audit) = (Alarms::default(), hub.audit().clone());
        let (store, me) = (setup.store.clone(), setup.me.clone());
        let desk = Arc::new(Mutex::new(Desk::new(setup, alarms.clone(), audit)));
        let questions = Arc::new(Semaphore::new(QUESTIONS));
        let task = Task { store, desk, hub, me, policy, waiting: Vec::new(), questions };
        tokio::spawn(task.run(errands, asked, beat));
        Keeper { reloads, alarms }
    }

    /// What somebody should look at, one line each.
    pub fn alarms(&self) -> Vec<String> {
        self.alarms.list()
    }

    /// Reads policy.toml at once: what stands there holds when this returns, or nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (answer, answered) = oneshot::channel();
        let over = |text: &str| ReloadError(text.to_owned());
        let reload = async {
            self.reloads.send(answer).await.map_err(|_| over("the broker is stopping"))?;
            answered.await.map_err(|_| over("the broker is stopping"))?
        };
        let late =
            || over("the policy file is good, and the broker has not taken it yet; look at `musterd ctl status`");
        timeout(WAIT, reload).await.unwrap_or_else(|_| Err(late()))
    }
}

/// That a broker begins with this edition, for the audit log.
pub fn begins(store: &Store, edition: &Edition) -> Record {
    let Edition { seal, text, policy } = edition;
    loaded(store, seal.as_ref().map(EditionOf::from), text, policy, &Policy::default())
}

struct Task {
    store: Store,
    desk: Arc<Mutex<Desk>>,
    hub: Hub,
    me: BrokerName,
    policy: watch::Sender<Arc<Policy>>,
    /// Those who want to know what becomes of a text that the broker was told of.
    waiting: Vec<(Arc<str>, Waiter)>,
    questions: Arc<Semaphore>,
}

impl Task {
    async fn run(mut self, mut errands: mpsc::Receiver<Errand>, mut asked: mpsc::Receiver<Waiter>, beat: Duration) {
        let mut beats = interval(beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                errand = errands.recv() => match errand {
                    Some(errand) => self.errand(errand).await,
                    None => return,
                },
                Some(waiter) = asked.recv() => self.reload(waiter).await,
                _ = beats.tick() => self.look().await,
            }
        }
    }

    async fn errand(&mut self, Errand { id, chore }: Errand) {
        match chore {
            Chore::Amend(amend) => {
                let (text, word) = match &amend.change {
                    Change::Hand(text, _) => (Some(text.clone()), "policy reloaded"),
                    Change::Edit(_) => (None, "policy edited"),
                    Change::Take => (None, "authority over the policy taken"),
                };
                let amended = self.at_desk(move |desk| desk.amend(*amend)).await;
                let amended = amended.unwrap_or_else(|| Err(fault()));
                let edition = amended.as_ref().ok().and_then(|amended: &Amended| amended.edition.clone());
                let refusal = amended.as_ref().err().cloned();
                self.tell(id, Outcome::Amended(amended), edition, word).await;
                if let Some(text) = text {
                    self.answer(&text, refusal).await;
                }
            }
            Chore::Adopt(adopt) => {
                let adopted = self.at_desk(move |desk| desk.adopt(*adopt)).await.unwrap_or_else(|| Err(fault()));
                let edition = adopted.as_ref().ok().map(|adopted: &Adopted| adopted.edition.clone());
                self.tell(id, Outcome::Adopted(adopted), edition, "policy followed").await;
            }
            Chore::PutBack(put) => {
                let why = self.at_desk(move |desk| desk.put_back(&put)).await.unwrap_or_else(|| fault().text);
                self.tell(id, Outcome::PutBack, None, "").await;
                for (_, waiter) in std::mem::take(&mut self.waiting) {
                    // Who asked may have given up.
                    let _ = waiter.send(Err(ReloadError(why.clone())));
                }
            }
            Chore::History(query) => {
                let store = self.store.clone();
                let found = async move {
                    let found = spawn_blocking(move || history(&store, &query)).await;
                    found.unwrap_or_else(|_| Err(fault())).and_then(|answer| json(&answer))
                };
                self.question(id, found).await;
            }
            Chore::Audit(query) => {
                let (audit, me) = (self.hub.audit().clone(), self.me.clone());
                let found =
                    async move { audit::answer(&audit, &query, me.as_str()).await.and_then(|found| json(&found)) };
                self.question(id, found).await;
            }
        }
    }

    /// Tells the broker of an outcome, and of a new edition everybody else after it.
    async fn tell(&self, errand: u64, outcome: Outcome, edition: Option<Edition>, word: &'static str) {
        self.hub.tell(Event::Done { errand, outcome: outcome.into() }).await;
        let Some(Edition { seal, policy, .. }) = edition else { return };
        // Logins that were checked in between are weighed again by the broker when they open.
        self.policy.send_replace(policy);
        let made = seal.as_ref().map(|seal| &seal.made);
        tracing::info!(
            file = %self.store.file().display(),
            generation = seal.as_ref().map(|seal| seal.stamp.generation.to_string()),
            by = made.map(|made| made.by.as_str()),
            what = made.map(|made| made.what.as_str()),
            "{word}"
        );
    }

    /// A question to files, beside everything else.
    async fn question(&self, errand: u64, asked: impl Future<Output = Result<Value, Refusal>> + Send + 'static) {
        let Ok(permit) = self.questions.clone().try_acquire_owned() else {
            let refusal = Refusal::new(Code::Busy, "too many look into files at once; try again").again_in(1000);
            self.hub.tell(Event::Done { errand, outcome: Outcome::Fetched(Err(refusal)).into() }).await;
            return;
        };
        let hub = self.hub.clone();
        tokio::spawn(async move {
            let fetched = asked.await;
            drop(permit);
            hub.tell(Event::Done { errand, outcome: Outcome::Fetched(fetched).into() }).await;
        });
    }

    async fn look(&mut self) {
        if let Some(Seen::Edited(text, policy, base)) = self.at_desk(Desk::look).await {
            self.offer(text, policy, base).await;
        }
    }

    async fn reload(&mut self, waiter: Waiter) {
        let answer = match self.at_desk(Desk::reload).await {
            Some(Seen::InForce | Seen::Nothing) => {
                tracing::info!(file = %self.store.file().display(), "policy reloaded; it is the one in force");
                Ok(self.reloaded().await)
            }
            Some(Seen::Refused(why)) => Err(ReloadError(why)),
            Some(Seen::Edited(text, policy, base)) => {
                self.waiting.retain(|(_, waiter)| !waiter.is_closed());
                self.waiting.push((text.clone(), waiter));
                return self.offer(text, policy, base).await;
            }
            None => Err(ReloadError(fault().text)),
        };
        // Who asked may have given up.
        let _ = waiter.send(answer);
    }

    /// The broker decides about an edit by hand; it says so by an errand.
    async fn offer(&mut self, text: Arc<str>, policy: Arc<Policy>, base: Option<Generation>) {
        // Of what stood there before nobody will hear: the file holds only what was written last.
        self.waiting.iter_mut().for_each(|(waited, _)| *waited = text.clone());
        self.hub.tell(Event::HandEdit { text, policy, base }).await;
    }

    /// Tells those who wait for it what became of a text.
    async fn answer(&mut self, text: &Arc<str>, refusal: Option<Refusal>) {
        let reloaded = self.reloaded().await;
        let waiting = std::mem::take(&mut self.waiting);
        let (answered, rest) = waiting.into_iter().partition(|(waited, _)| waited == text);
        self.waiting = rest;
        let answered: Vec<(Arc<str>, Waiter)> = answered;
        for (_, waiter) in answered {
            let answer =
                refusal.as_ref().map_or(Ok(reloaded.clone()), |refusal| Err(ReloadError(refusal.text.clone())));
            let _ = waiter.send(answer);
        }
    }

    async fn reloaded(&self) -> Reloaded {
        let generation = self.at_desk(|desk| desk.current().generation()).await.flatten();
        Reloaded { file: self.store.file().to_owned(), generation }
    }

    /// Work that waits for the disk. `None` if it has failed by a fault of the program, which is logged.
    async fn at_desk<T: Send + 'static>(&self, work: impl FnOnce(&mut Desk) -> T + Send + 'static) -> Option<T> {
        let desk = self.desk.clone();
        let done = spawn_blocking(move || work(&mut desk.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.inspect_err(|error| tracing::error!(%error, "the keeper of the policy failed")).ok()
    }
}

fn json(answer: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| Refusal::new(Code::Internal, error.to_string()))
}

fn fault() -> Refusal {
    Refusal::new(Code::Internal, "the keeper of the policy failed at this; the broker's log says more")
}

#[cfg(test)]
mod tests;

//! What do the agents of a generator share, and what is noted of each?

use crate::dialect::Dialect;
use crate::orders::{Begin, Counts};
use crate::plan::Share;
use crate::population::Population;
use crate::times::now;
use crate::wire::{self, Wire};
use anyhow::{Context, Result};
use bytes::Bytes;
use muster_protocol::error::Code;
use muster_protocol::session::Session;
use rustls::ClientConfig;
use secrecy::SecretString;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// The agents of one generator. One thread runs them all, so that no lock is ever waited for.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) population: Population,
    pub(crate) share: Share,
    pub(crate) brokers: Vec<SocketAddr>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) password: SecretString,
    pub(crate) reply: Bytes,
    pub(crate) reply_delay: Duration,
    /// They are bare sessions that speak this, and no agents.
    pub(crate) bare: Option<Dialect>,
    /// How many may be on their way in at once.
    pub(crate) turns: Arc<Semaphore>,
    agents: Vec<Mutex<Agent>>,
    journal: Mutex<Journal>,
    /// Something was noted that somebody may wait for.
    noted: Notify,
}

/// What is known of one agent, over all its connections.
#[derive(Debug, Default)]
struct Agent {
    token: Option<SecretString>,
    /// As the agent keeps it on disk: raised at each connection.
    number: u64,
    version: u32,
    /// The whole document of version 0 and its hash.
    document: (Bytes, String),
    session: Option<Session>,
    pending: Option<Pending>,
    is_registered: bool,
    is_away: bool,
}

/// Facts that were sent and not answered.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) hash: String,
    pub(crate) sent: u64,
    pub(crate) is_whole: bool,
}

#[derive(Debug, Default)]
struct Journal {
    away: usize,
    arrivals: Vec<[u64; 2]>,
    deliveries: HashMap<String, Vec<u64>>,
    acknowledged: Vec<u64>,
    met: BTreeMap<String, u64>,
    flood: BTreeMap<String, u64>,
}

impl Crowd {
    /// Nobody is connected yet. Documents are made now, so that making them is no part of what is measured.
    pub(crate) fn new(begin: Begin) -> Result<Crowd> {
        let Begin { population, share, brokers, bare, ca, password, reply_bytes, reply_delay_ms } = begin;
        let password = std::fs::read_to_string(&password).with_context(|| password.display().to_string())?;
        let mut agents = Vec::with_capacity(share.count as usize);
        for number in share.agents() {
            let mut agent = Agent::default();
            if bare.is_none() {
                let document = population.document(number, 0)?;
                agent.document = (document.to_value().to_string().into(), document.hash());
            }
            agents.push(Mutex::new(agent));
        }
        Ok(Crowd {
            population,
            share,
            brokers,
            tls: wire::client_config(&ca)?,
            password: SecretString::from(password.trim_end()),
            reply: json_of(reply_bytes as usize),
            reply_delay: Duration::from_millis(reply_delay_ms),
            bare,
            turns: Arc::new(Semaphore::new(0)),
            agents,
            journal: Mutex::default(),
            noted: Notify::new(),
        })
    }

    fn agent(&self, number: u32) -> MutexGuard<'_, Agent> {
        lock(&self.agents[(number - self.share.first) as usize])
    }

    pub(crate) fn token(&self, number: u32) -> Option<SecretString> {
        self.agent(number).token.clone()
    }

    pub(crate) fn keep_token(&self, number: u32, token: SecretString) {
        self.agent(number).token = Some(token);
    }

    pub(crate) fn forget_token(&self, number: u32) {
        self.agent(number).token = None;
    }

    pub(crate) fn next_session(&self, number: u32) -> u64 {
        let mut agent = self.agent(number);
        agent.number += 1;
        agent.number
    }

    /// The whole document as it is now, and its hash.
    pub(crate) fn document(&self, number: u32) -> (Bytes, String) {
        let (version, document) = {
            let agent = self.agent(number);
            (agent.version, agent.document.clone())
        };
        match self.population.document(number, version) {
            Ok(current) if version > 0 => (current.to_value().to_string().into(), current.hash()),
            _ => document,
        }
    }

    /// It can be told to send something.
    pub(crate) fn entered(&self, number: u32, session: Session) {
        self.agent(number).session = Some(session);
    }

    /// Its connection is over; whether it had registered.
    pub(crate) fn left(&self, number: u32) -> bool {
        let mut agent = self.agent(number);
        agent.session = None;
        agent.pending = None;
        std::mem::take(&mut agent.is_registered)
    }

    pub(crate) fn publishing(&self, number: u32, pending: Pending) {
        self.agent(number).pending = Some(pending);
    }

    pub(crate) fn is_registering(&self, number: u32) -> bool {
        self.agent(number).pending.as_ref().is_some_and(|pending| pending.is_whole)
    }

    /// The broker has the document of this hash.
    pub(crate) fn registered(&self, number: u32, hash: &str, began: u64) {
        let mut agent = self.agent(number);
        let Some(pending) = agent.pending.take_if(|pending| pending.hash == hash) else { return };
        agent.is_registered = true;
        drop(agent);
        if !pending.is_whole {
            lock(&self.journal).acknowledged.push(now().saturating_sub(pending.sent));
        }
        self.arrived(number, began);
    }

    /// It is in; if it was away, that is noted.
    pub(crate) fn arrived(&self, number: u32, began: u64) {
        let now = now();
        if std::mem::take(&mut self.agent(number).is_away) {
            let mut journal = lock(&self.journal);
            journal.away -= 1;
            journal.arrivals.push([began, now]);
        }
        self.noted.notify_one();
    }

    pub(crate) fn delivered(&self, message: &str) {
        let now = now();
        let mut journal = lock(&self.journal);
        match journal.deliveries.get_mut(message) {
            Some(moments) => moments.push(now),
            None => drop(journal.deliveries.insert(message.to_owned(), vec![now])),
        }
        self.noted.notify_one();
    }

    pub(crate) fn met(&self, what: &str) {
        count(&mut lock(&self.journal).met, what);
    }

    pub(crate) fn flooded(&self, what: &str) {
        count(&mut lock(&self.journal).flood, what);
        self.noted.notify_one();
    }

    /// Waits until a wrong password was answered.
    pub(crate) async fn until_flooded(&self) {
        let is_answered = || {
            let journal = lock(&self.journal);
            [Code::AuthFailed, Code::Busy].iter().any(|code| journal.flood.contains_key(code.as_str()))
        };
        while !is_answered() {
            self.noted.notified().await;
        }
    }

    /// The agents of these brokers are away until they register.
    pub(crate) fn watch(&self, brokers: &[usize]) {
        let mut away = 0;
        for number in self.share.agents() {
            let is_away = brokers.contains(&self.population.broker(number));
            self.agent(number).is_away = is_away;
            away += usize::from(is_away);
        }
        let mut journal = lock(&self.journal);
        journal.away = away;
        journal.arrivals.clear();
    }

    /// Waits until nobody is away.
    pub(crate) async fn until_arrived(&self) {
        while lock(&self.journal).away > 0 {
            self.noted.notified().await;
        }
    }

    /// When those who were away came, and how many still are.
    pub(crate) fn arrivals(&self) -> (Vec<[u64; 2]>, usize) {
        let journal = lock(&self.journal);
        (journal.arrivals.clone(), journal.away)
    }

    /// Waits until so many agents have had this message.
    pub(crate) async fn until_delivered(&self, message: &str, expect: usize) {
        while lock(&self.journal).deliveries.get(message).map_or(0, Vec::len) < expect {
            self.noted.notified().await;
        }
    }

    /// When agents had this message. It is forgotten.
    pub(crate) fn deliveries(&self, message: &str) -> Vec<u64> {
        lock(&self.journal).deliveries.remove(message).unwrap_or_default()
    }

    /// An agent's facts change, if it is in and waits for no answer: the frame to send, and where.
    pub(crate) fn change(&self, number: u32) -> Result<Option<(Session, muster_protocol::frame::Frame)>> {
        let version = {
            let agent = self.agent(number);
            if !agent.is_registered || agent.pending.is_some() {
                return Ok(None);
            }
            agent.version
        };
        let (old, new) = (self.population.document(number, version)?, self.population.document(number, version + 1)?);
        let frame = crate::agent::delta_frame(&old, &new);
        let mut agent = self.agent(number);
        agent.version = version + 1;
        agent.pending = Some(Pending { hash: new.hash(), sent: now(), is_whole: false });
        Ok(agent.session.clone().map(|session| (session, frame)))
    }

    /// Waits until no delta is unanswered.
    pub(crate) async fn until_acknowledged(&self) {
        while self.unanswered() > 0 {
            self.noted.notified().await;
        }
    }

    /// Deltas without an answer.
    pub(crate) fn unanswered(&self) -> usize {
        let is_delta = |agent: &Agent| agent.pending.as_ref().is_some_and(|pending| !pending.is_whole);
        self.agents.iter().filter(|agent| is_delta(&lock(agent))).count()
    }

    /// How long each answered delta had waited. They are forgotten.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.journal).acknowledged)
    }

    /// All agents are gone, and know no token.
    pub(crate) fn forget(&self) {
        for number in self.share.agents() {
            self.left(number);
            self.forget_token(number);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let journal = lock(&self.journal);
        Counts { met: journal.met.clone(), flood: journal.flood.clone(), wire: Wire::of_this_process() }
    }
}

/// A JSON object of so many bytes, at least 8.
pub(crate) fn json_of(bytes: usize) -> Bytes {
    format!(r#"{{"x":"{}"}}"#, "a".repeat(bytes.saturating_sub(8))).into()
}

fn count(kinds: &mut BTreeMap<String, u64>, what: &str) {
    match kinds.get_mut(what) {
        Some(count) => *count += 1,
        None => drop(kinds.insert(what.to_owned(), 1)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_exactly_the_bytes_that_were_asked_for() {
        for bytes in [8, 9, 512] {
            let body = json_of(bytes);
            assert_eq!(body.len(), bytes);
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
        }
    }
}

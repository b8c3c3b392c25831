//! Who are the neighbours, and how is each? What `musterd ctl status` shows, what wakes the diallers, and what an operator took down.

use super::counters::{LinkCounters, LinkCounts};
use crate::audit::Audit;
use crate::broker::event::LinkId;
use crate::broker::mesh::lanes::LinkOutbox;
use crate::broker::record::Record;
use crate::config::LinkConfig;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::Neighbour;
use muster_protocol::message::BrokerName;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// A clock that is further off is told of, ms.
const SKEW: i64 = 2_000;
/// A link that lived so long was a good one: what is wrong afterwards is news.
pub(super) const HELD: Duration = Duration::from_secs(5);
/// Addresses that are remembered for what was wrong with connections from there.
const STRANGERS: usize = 64;
/// How long they are remembered, ms.
const REMEMBERED: u64 = 600_000;
/// Different things that are logged of one such address while it is remembered.
const SAID: usize = 16;

/// How it stands with a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// There is a connection on which both sides have agreed.
    Up,
    /// It is being dialled.
    Connecting,
    /// There is none.
    Down,
    /// One of the two sides refuses it.
    Refused,
}

/// One neighbour, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// Its name.
    pub peer: BrokerName,
    /// How it stands.
    pub state: LinkState,
    /// Since when, Unix ms.
    pub since: u64,
    /// Where it was dialled, or came from, last.
    pub address: Option<String>,
    /// What ended or kept it last, and why.
    pub last_error: Option<String>,
    /// When that was, Unix ms.
    pub last_error_at: Option<u64>,
    /// Its clock minus ours at the last HELLO, ms.
    pub clock_skew_ms: Option<i64>,
    /// An operator has taken it down.
    pub admin_down: bool,
    /// Whether this broker dials.
    pub dials: bool,
    /// Our side's cost.
    pub cost: u32,
    /// Bytes that wait to be sent.
    pub backlog: usize,
    /// Frames dropped because too much waited, on the present connection.
    pub dropped: u64,
    /// What went over it since the start.
    pub counts: LinkCounts,
}

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Which neighbour, or the address of a stranger; `policy` if it is about that.
    pub about: String,
    /// What is wrong and what to do.
    pub text: String,
    /// When it was last so, Unix ms.
    pub at: u64,
}

/// What keeps or ended a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// A refusal, by either side; otherwise a failure.
    pub(super) is_refusal: bool,
    /// For people.
    pub(super) text: String,
}

impl Trouble {
    pub(super) fn failure(text: impl Into<String>) -> Trouble {
        Trouble { is_refusal: false, text: text.into() }
    }

    pub(super) fn refusal(text: impl Into<String>) -> Trouble {
        Trouble { is_refusal: true, text: text.into() }
    }
}

/// What a link that opens gets.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) counters: Arc<LinkCounters>,
    pub(super) end: Neighbour,
    /// Told when the link must end.
    pub(super) stopped: oneshot::Receiver<Refusal>,
}

/// All neighbours: those configured, and those that came.
#[derive(Debug)]
pub(super) struct Roster {
    me: BrokerName,
    peers: Mutex<BTreeMap<BrokerName, Peer>>,
    strangers: Mutex<BTreeMap<IpAddr, Stranger>>,
    changed: watch::Sender<()>,
    audit: Audit,
}

/// An address from where connections came that prove no name.
#[derive(Debug)]
struct Stranger {
    alarm: Alarm,
    /// What was logged of it, so that each thing is logged once.
    said: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Peer {
    config: Option<LinkConfig>,
    admin_down: bool,
    connecting: bool,
    since: u64,
    address: Option<String>,
    trouble: Option<(Trouble, u64)>,
    /// What was logged last, so that it is logged once.
    said: Option<String>,
    skew: Option<i64>,
    counters: Arc<LinkCounters>,
    live: BTreeMap<LinkId, Live>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Live {
    outbox: LinkOutbox,
    stop: Option<oneshot::Sender<Refusal>>,
}

impl Roster {
    pub(super) fn new(me: &BrokerName, links: &[LinkConfig], unix: u64) -> Roster {
        let peer = |link: &LinkConfig| Peer { config: Some(link.clone()), since: unix, ..Peer::default() };
        let peers = links.iter().map(|link| (link.to.clone(), peer(link))).collect();
        Roster {
            me: me.clone(),
            peers: Mutex::new(peers),
            strangers: Mutex::default(),
            changed: watch::Sender::new(()),
            audit: Audit::off(),
        }
    }

    /// The same, with links on record.
    pub(super) fn on_record(self, audit: Audit) -> Roster {
        Roster { audit, ..self }
    }

    /// Told whenever a link opens or ends, or an operator changes something.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Rings when an operator takes the link up.
    pub(super) fn wake(&self, peer: &BrokerName) -> Arc<Notify> {
        self.lock().entry(peer.clone()).or_default().wake.clone()
    }

    /// Whether it should be dialled: nobody took it down, and there is no connection, whoever made it. Two that each dialled
    /// although one link is there would end each other's for ever.
    pub(super) fn is_wanted(&self, peer: &BrokerName) -> bool {
        self.lock().get(peer).is_none_or(|peer| !peer.admin_down && peer.live.is_empty())
    }

    pub(super) fn is_down(&self, peer: &BrokerName) -> bool {
        self.lock().get(peer).is_some_and(|peer| peer.admin_down)
    }

    /// What the other side of a link that an operator took down is told.
    pub(super) fn taken_down(&self, peer: &BrokerName) -> Refusal {
        let me = &self.me;
        let text = format!(
            "an operator took the link to {peer} down at {me}; `musterd ctl link up {peer}` on {me} takes it up"
        );
        Refusal::new(Code::LinkDown, text)
    }

    pub(super) fn connecting(&self, name: &BrokerName, address: String, unix: u64) {
        let mut peers = self.lock();
        let peer = peers.entry(name.clone()).or_default();
        (peer.connecting, peer.address) = (true, Some(address));
        if peer.trouble.is_none() {
            peer.since = unix;
        }
    }

    /// A try came to nothing; logged if it is news.
    pub(super) fn failed(&self, name: &BrokerName, trouble: Trouble, unix: u64) {
        let mut peers = self.lock();
        let peer = peers.entry(name.clone()).or_default();
        peer.connecting = false;
        peer.suffer(name, trouble, &self.audit, unix);
    }

    /// A connection on which both sides agree; refused if an operator took the link down in the meantime.
    pub(super) fn open(
        &self,
        name: &BrokerName,
        link: LinkId,
        outbox: LinkOutbox,
        address: SocketAddr,
        skew: i64,
        unix: u64,
    ) -> Result<Entered, Refusal> {
        let mut peers = self.lock();
        let peer = peers.entry(name.clone()).or_default();
        if peer.admin_down {
            return Err(self.taken_down(name));
        }
        if peer.live.is_empty() {
            peer.since = unix;
        }
        if skew.abs() > SKEW && peer.skew.is_none_or(|before| before.abs() <= SKEW) {
            tracing::warn!(target: "muster::links", peer = %name, skew_ms = skew, "the clocks differ; set both by NTP");
        }
        // Where it was dialled is worth more than what it resolved to.
        let is_ours = std::mem::take(&mut peer.connecting);
        if !is_ours || peer.address.is_none() {
            peer.address = Some(address.to_string());
        }
        peer.skew = Some(skew);
        let (stop, stopped) = oneshot::channel();
        peer.live.insert(link, Live { outbox, stop: Some(stop) });
        let (cost, send) = peer.config.as_ref().map_or((1, None), |link| (link.cost, link.send.clone()));
        let entered = Entered { counters: peer.counters.clone(), end: Neighbour { cost, send }, stopped };
        drop(peers);
        lock(&self.strangers).remove(&address.ip());
        self.changed.send_replace(());
        // The broker has the last word on whether it is up, and logs that.
        tracing::debug!(target: "muster::links", peer = %name, link = link.0, %address, "connection open");
        self.audit.tell(|| Record::LinkUp { peer: name.clone(), address });
        Ok(entered)
    }

    /// A connection is over; `trouble` if it was not in the order of things.
    pub(super) fn closed(
        &self,
        name: &BrokerName,
        link: LinkId,
        lived: Duration,
        reason: &str,
        trouble: Option<Trouble>,
        unix: u64,
    ) {
        tracing::debug!(target: "muster::links", peer = %name, link = link.0, reason, "connection over");
        self.audit.tell(|| Record::LinkDown { peer: name.clone(), reason: reason.to_owned() });
        let mut peers = self.lock();
        if let Some(peer) = peers.get_mut(name) {
            peer.live.remove(&link);
            if peer.live.is_empty() {
                peer.since = unix;
            }
            if lived >= HELD {
                (peer.said, peer.trouble) = (None, None);
            }
            if let Some(trouble) = trouble {
                // The broker logs `link down` or `link refused` with the reason: only what comes of the next try is news.
                let text = gist(&trouble.text);
                if trouble.is_refusal && peer.said.as_ref() != Some(&text) {
                    let (peer, reason) = (Some(name.clone()), trouble.text.clone());
                    self.audit.tell(|| Record::LinkRefused { peer, address: None, reason });
                }
                peer.said = Some(text);
                peer.trouble = Some((trouble, unix));
            }
        }
        drop(peers);
        self.changed.send_replace(());
    }

    /// Something is wrong with a connection whose name proves nothing, or that has none. Logged once for each address and
    /// text, numbers aside; whether it was.
    pub(super) fn stranger(&self, address: IpAddr, text: &str, unix: u64) -> bool {
        let mut strangers = lock(&self.strangers);
        strangers.retain(|_, stranger| stranger.alarm.at + REMEMBERED > unix);
        if strangers.len() >= STRANGERS && !strangers.contains_key(&address) {
            let oldest = strangers.iter().min_by_key(|(_, stranger)| stranger.alarm.at).map(|(address, _)| *address);
            oldest.map(|oldest| strangers.remove(&oldest));
        }
        let alarm = Alarm { about: address.to_string(), text: text.to_owned(), at: unix };
        let said = strangers.remove(&address).map(|stranger| stranger.said).unwrap_or_default();
        let stranger = strangers.entry(address).or_insert(Stranger { alarm, said });
        let is_news = stranger.said.len() < SAID && stranger.said.insert(gist(text));
        drop(strangers);
        if !is_news {
            tracing::debug!(target: "muster::links", peer = %address, reason = text, "link refused again");
        } else {
            tracing::warn!(target: "muster::links", peer = %address, reason = text, "link refused");
            let address = Some(address.to_string());
            self.audit.tell(|| Record::LinkRefused { peer: None, address, reason: text.to_owned() });
        }
        is_news
    }

    /// An operator takes a link up or down; down ends it.
    pub(super) fn steer(&self, name: &BrokerName, down: bool, unix: u64) {
        let mut peers = self.lock();
        let peer = peers.entry(name.clone()).or_default();
        if peer.admin_down != down {
            (peer.admin_down, peer.since) = (down, unix);
            tracing::info!(target: "muster::links", peer = %name, down, "link steered");
        }
        if down {
            peer.stop(&self.taken_down(name));
        } else {
            peer.said = None;
            peer.wake.notify_one();
        }
        drop(peers);
        self.changed.send_replace(());
    }

    /// Ends the links of whom `is_over` gives a reason for.
    pub(super) fn end(&self, is_over: impl Fn(&BrokerName) -> Option<Refusal>) {
        for (name, peer) in self.lock().iter_mut() {
            if !peer.live.is_empty()
                && let Some(refusal) = is_over(name)
            {
                peer.stop(&refusal);
            }
        }
    }

    /// Forgets those that came once and belong to nothing any more.
    pub(super) fn forget(&self, is_listed: impl Fn(&BrokerName) -> bool) {
        self.lock().retain(|name, peer| peer.config.is_some() || !peer.live.is_empty() || is_listed(name));
    }

    pub(super) fn status(&self) -> Vec<LinkStatus> {
        self.lock().iter().map(|(name, peer)| peer.status(name)).collect()
    }

    pub(super) fn alarms(&self, unix: u64) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for (name, peer) in self.lock().iter() {
            let about = name.to_string();
            if let Some((trouble, at)) = peer.trouble.as_ref().filter(|_| peer.live.is_empty() && !peer.admin_down) {
                alarms.push(Alarm { about: about.clone(), text: trouble.text.clone(), at: *at });
            }
            if let Some(skew) = peer.skew.filter(|skew| skew.abs() > SKEW) {
                let text = format!("its clock differs by {skew} ms; set both by NTP");
                alarms.push(Alarm { about, text, at: peer.since });
            }
        }
        alarms.extend(
            lock(&self.strangers)
                .values()
                .map(|stranger| &stranger.alarm)
                .filter(|alarm| alarm.at + REMEMBERED > unix)
                .cloned(),
        );
        alarms
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BrokerName, Peer>> {
        lock(&self.peers)
    }
}

impl Peer {
    fn suffer(&mut self, name: &BrokerName, trouble: Trouble, audit: &Audit, unix: u64) {
        let gist = gist(&trouble.text);
        if self.said.as_ref() == Some(&gist) {
            tracing::debug!(target: "muster::links", peer = %name, reason = trouble.text, "no link, as before");
        } else {
            let what = if trouble.is_refusal { "link refused" } else { "no link; trying again" };
            tracing::warn!(target: "muster::links", peer = %name, reason = trouble.text, "{what}");
            if trouble.is_refusal {
                let reason = trouble.text.clone();
                audit.tell(|| Record::LinkRefused { peer: Some(name.clone()), address: None, reason });
            }
            self.said = Some(gist);
        }
        self.trouble = Some((trouble, unix));
    }

    fn stop(&mut self, refusal: &Refusal) {
        for live in self.live.values_mut() {
            if let Some(stop) = live.stop.take() {
                // A link that is ending by itself needs no telling.
                let _ = stop.send(refusal.clone());
            }
        }
    }

    fn status(&self, name: &BrokerName) -> LinkStatus {
        let state = if !self.live.is_empty() {
            LinkState::Up
        } else if self.admin_down {
            LinkState::Down
        } else if self.trouble.as_ref().is_some_and(|(trouble, _)| trouble.is_refusal) {
            LinkState::Refused
        } else if self.connecting {
            LinkState::Connecting
        } else {
            LinkState::Down
        };
        LinkStatus {
            peer: name.clone(),
            state,
            since: self.since,
            address: self.address.clone(),
            last_error: self.trouble.as_ref().map(|(trouble, _)| trouble.text.clone()),
            last_error_at: self.trouble.as_ref().map(|(_, at)| *at),
            clock_skew_ms: self.skew,
            admin_down: self.admin_down,
            dials: self.config.as_ref().is_some_and(|link| link.dial),
            cost: self.config.as_ref().map_or(1, |link| link.cost),
            backlog: self.live.values().map(|live| live.outbox.backlog()).sum(),
            dropped: self.live.values().map(|live| live.outbox.dropped()).sum(),
            counts: self.counters.snapshot(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text without its numbers: what differs in a port or a length only is no news.
fn gist(text: &str) -> String {
    text.chars().filter(|char| !char.is_ascii_digit()).collect()
}

//! One place where a broker runs, lives and dies: its clock, its disk, its sessions.

use super::clerk::Disk;
use super::dice::Dice;
use crate::broker::Broker;
use crate::broker::event::Now;
use crate::broker::outbox::OutboxReader;
use crate::intake::Intake;
use muster_protocol::message::BrokerName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// A waker that is a flag: whoever reads an outbox looks only where something was written.
#[derive(Debug)]
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    pub(super) fn new() -> Arc<Flag> {
        Arc::new(Flag(AtomicBool::new(true)))
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }
}

/// Who is behind a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Agent(usize),
    Operator(usize),
}

/// The client's end of a session.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) reader: OutboxReader,
    pub(super) intake: Intake,
    pub(super) who: Who,
    pub(super) flag: Arc<Flag>,
}

/// A session, unique in the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) site: usize,
    pub(super) life: u64,
    pub(super) session: u64,
}

/// A broker's place.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: BrokerName,
    /// `None` while it is dead.
    pub(super) broker: Option<Broker>,
    /// Raised with each start: what was meant for an earlier life is dropped.
    pub(super) life: u64,
    /// The boot counter on disk.
    pub(super) boots: u64,
    pub(super) disk: Disk,
    /// Of this life.
    pub(super) incarnation: u64,
    /// Its wall clock minus the true one, ms.
    pub(super) skew: i64,
    /// Monotonic ms when this life began: no two machines agree on it.
    pub(super) zero: u64,
    /// The simulation's time when this life began.
    pub(super) began: u64,
    /// Raised with each connection, from the clock at the start of this life.
    pub(super) nonce: u64,
    pub(super) last_link: u64,
    pub(super) last_session: u64,
    pub(super) doors: BTreeMap<u64, Door>,
    /// The sides of connections that are here.
    pub(super) ends: Vec<(u64, usize)>,
    pub(super) bits: Dice,
    /// The next wake-up that is planned, the simulation's time.
    pub(super) wake: Option<u64>,
    pub(super) alarms: Vec<String>,
}

impl Site {
    pub(super) fn new(name: &str, skew: i64, bits: Dice) -> Site {
        Site {
            name: BrokerName::parse(name).expect("a name"),
            broker: None,
            life: 0,
            boots: 0,
            disk: Disk::default(),
            incarnation: 0,
            skew,
            zero: 0,
            began: 0,
            nonce: 0,
            last_link: 0,
            last_session: 0,
            doors: BTreeMap::new(),
            ends: Vec::new(),
            bits,
            wake: None,
            alarms: Vec::new(),
        }
    }

    /// What its broker takes for the time.
    pub(super) fn time(&self, now: u64) -> Now {
        Now { tick: self.zero + (now - self.began), unix: self.unix(now) }
    }

    pub(super) fn unix(&self, now: u64) -> u64 {
        1_700_000_000_000_u64.saturating_add_signed(self.skew) + now
    }

    /// What it says in HELLO.
    pub(super) fn instance(&self) -> u64 {
        self.broker.as_ref().map_or(self.boots, |broker| broker.mesh().instance())
    }

    pub(super) fn is_alive(&self) -> bool {
        self.broker.is_some()
    }
}

//! Who may come in now, who waits, and who is turned away? Counts and a line: no sockets, no clock.
//!
//! A connection waits until it has spoken and a place to log in is free. It costs a socket as long, and nothing that an attacker
//! could wear out: no TLS, no memory but a few hundred bytes, and no more of all that for one origin than a place would be.

use super::origin::Origin;
use crate::line::{Line, Ticket};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How many origins of operators and services are remembered.
const KNOWN_MOST: usize = 1_024;
/// Connections that these may have beyond the others.
const KNOWN_ROOM: usize = 64;

/// How many may be where.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// Connections that log in: TLS, and who it is.
    pub pending: usize,
    /// Connections that log in or wait for that, from one origin.
    pub pending_per_address: usize,
    /// Connections that wait for a place to log in.
    pub waiting: usize,
    /// Connections in all.
    pub connections: usize,
    /// Of these, from one origin; 0 is no limit.
    pub connections_per_address: usize,
    /// TLS and login together, from the moment that there was a place.
    pub login_time: Duration,
}

/// How many are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections in all.
    pub open: usize,
    /// Of these, those that wait for a place to log in.
    pub waiting: usize,
    /// Of these, those that log in.
    pub pending: usize,
}

/// Why there is no place for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    pub(crate) reason: &'static str,
    /// The first since there was room: whoever floods must not fill the log.
    pub(crate) is_news: bool,
}

/// Who is where. `W`: what tells those who wait in the line that it is their turn.
#[derive(Debug)]
pub(super) struct Entrance<W> {
    caps: Caps,
    counts: Counts,
    origins: HashMap<Origin, Here>,
    line: Line<Rank, (Origin, W)>,
    known: Known,
    turned_away: u64,
    /// Somebody was turned away because all places are taken, and they have not been half empty since.
    is_full: bool,
    /// Somebody has waited in vain, and the line has not been empty since.
    is_late: bool,
}

/// Whose turn comes before others' that have come before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Others of the same origin were there when it came.
    Further,
    /// The only one of its origin.
    Only,
    /// From where an operator or a service was let in lately.
    Known,
}

/// Those of one origin.
#[derive(Debug, Default)]
struct Here {
    counts: Counts,
    /// Somebody from here was turned away, and not all from here have gone since.
    is_full: bool,
}

/// Where operators and services come from; the one that was there least lately is forgotten first.
#[derive(Debug, Default)]
struct Known {
    count: u64,
    origins: HashMap<Origin, u64>,
    by_time: BTreeMap<u64, Origin>,
}

impl<W> Entrance<W> {
    /// Nobody is there yet.
    pub(super) fn new(caps: Caps) -> Entrance<W> {
        Entrance {
            caps,
            counts: Counts::default(),
            origins: HashMap::new(),
            line: Line::new(),
            known: Known::default(),
            turned_away: 0,
            is_full: false,
            is_late: false,
        }
    }

    /// How many are where.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Connections that there was no place for.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// A connection has come. It is open and waits, or has to go.
    pub(super) fn enter(&mut self, origin: Origin) -> Result<(), TurnedAway> {
        let (caps, counts) = (&self.caps, &mut self.counts);
        self.is_full &= counts.open > caps.connections / 2 || counts.waiting > caps.waiting / 2;
        let here = self.origins.get_mut(&origin);
        let at = here.as_ref().map_or(Counts::default(), |here| here.counts);
        let is_known = self.known.contains(origin);
        // Whoever takes all connections does not lock out those who can end that.
        let room = if is_known { caps.connections + KNOWN_ROOM } else { caps.connections };
        let (reason, told) = if counts.open >= room {
            ("too many connections", Some(&mut self.is_full))
        } else if caps.connections_per_address > 0 && at.open >= caps.connections_per_address {
            ("too many connections from this address", here.map(|here| &mut here.is_full))
        } else if at.waiting + at.pending >= caps.pending_per_address {
            ("too many connections from this address that have not logged in", here.map(|here| &mut here.is_full))
        } else if counts.waiting >= caps.waiting && !is_known {
            ("too many connections that wait to log in", Some(&mut self.is_full))
        } else {
            for counts in [counts, &mut self.origins.entry(origin).or_default().counts] {
                counts.open += 1;
                counts.waiting += 1;
            }
            return Ok(());
        };
        self.turned_away += 1;
        let is_news = told.is_none_or(|told| !std::mem::replace(told, true));
        Err(TurnedAway { reason, is_news })
    }

    /// One that waits has spoken: it has a place to log in, or it stands in the line with this ticket, and `call` will tell it.
    pub(super) fn speak(&mut self, origin: Origin, call: W) -> Option<Ticket> {
        // Nobody stands in the line while there are places.
        if self.counts.pending < self.caps.pending {
            self.take_place(origin);
            return None;
        }
        let at = self.origins.get(&origin).map_or(Counts::default(), |here| here.counts);
        let rank = match at.waiting + at.pending {
            _ if self.known.contains(origin) => Rank::Known,
            0 | 1 => Rank::Only,
            _ => Rank::Further,
        };
        Some(self.line.join(rank, (origin, call)))
    }

    /// One that waits goes before it has spoken.
    pub(super) fn give_up_silent(&mut self, origin: Origin) {
        self.change(origin, |counts| counts.waiting -= 1);
    }

    /// One that stands in the line goes. If it has been called, the place is another's; `Some` tells that one.
    pub(super) fn give_up(&mut self, origin: Origin, ticket: Ticket) -> Option<W> {
        if self.line.leave(ticket).is_none() {
            return self.leave_place(origin);
        }
        self.change(origin, |counts| counts.waiting -= 1);
        None
    }

    /// One that stands in the line has waited in vain.
    pub(super) fn is_too_late(&mut self) -> TurnedAway {
        self.turned_away += 1;
        let is_news = !std::mem::replace(&mut self.is_late, true);
        TurnedAway { reason: "no place to log in became free in time", is_news }
    }

    /// One that logs in is done with that. Its place is another's; `Some` tells that one.
    pub(super) fn leave_place(&mut self, origin: Origin) -> Option<W> {
        self.change(origin, |counts| counts.pending -= 1);
        let Some((next, call)) = self.line.call(Rank::Further) else {
            self.is_late = false;
            return None;
        };
        self.take_place(next);
        Some(call)
    }

    /// A connection has ended.
    pub(super) fn close(&mut self, origin: Origin) {
        self.change(origin, |counts| counts.open -= 1);
    }

    /// An operator or a service was let in from there: its next connections go before those of a storm.
    pub(super) fn expect_again(&mut self, origin: Origin) {
        self.known.add(origin);
    }

    fn take_place(&mut self, origin: Origin) {
        self.change(origin, |counts| {
            counts.waiting -= 1;
            counts.pending += 1;
        });
    }

    fn change(&mut self, origin: Origin, change: impl Fn(&mut Counts)) {
        change(&mut self.counts);
        if let Some(here) = self.origins.get_mut(&origin) {
            change(&mut here.counts);
            if here.counts == Counts::default() {
                self.origins.remove(&origin);
            }
        }
    }
}

impl Known {
    fn contains(&self, origin: Origin) -> bool {
        self.origins.contains_key(&origin)
    }

    fn add(&mut self, origin: Origin) {
        self.count += 1;
        if let Some(before) = self.origins.insert(origin, self.count) {
            self.by_time.remove(&before);
        }
        self.by_time.insert(self.count, origin);
        if self.by_time.len() > KNOWN_MOST
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.origins.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;

//! Which callers have a seat? One for each token, address and client certificate, shared by its calls; few, and closed when idle.

use super::problem::Problem;
use super::seat::{Seat, Way};
use crate::broker::access::{Certificate, Peer};
use crate::token::{Claim, claim};
use muster_protocol::error::Code;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// When to come back if all seats are taken.
const FULL_AGAIN: Duration = Duration::from_secs(1);

/// Whose calls share a seat. The policy may let a user in from some networks only, and with a certificate only: so whoever shows a
/// token from elsewhere, or without the certificate, gets nothing of a seat that was had with it, but has to log in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// A token, by its hash.
    token: [u8; 32],
    /// Where it is shown.
    address: IpAddr,
    /// What the connection has shown.
    certificate: Option<Arc<Certificate>>,
}

/// All seats.
#[derive(Debug)]
pub(super) struct Seats {
    way: Way,
    /// At most so many.
    most: usize,
    /// After how long without a call one is closed.
    idle: Duration,
    /// How long a token is good, seconds.
    token_life: u64,
    taken: Mutex<HashMap<Key, Place>>,
}

#[derive(Debug)]
struct Place {
    /// Filled by the first call; the others wait for it.
    seat: Arc<OnceCell<Arc<Seat>>>,
    calls: usize,
    used: Instant,
}

/// A seat that a call holds: it is not closed as idle meanwhile.
#[derive(Debug)]
pub(super) struct Caller {
    place: Held,
    seat: Arc<Seat>,
}

/// The part of a call in a place.
#[derive(Debug)]
struct Held {
    seats: Arc<Seats>,
    key: Key,
    seat: Arc<OnceCell<Arc<Seat>>>,
}

impl Seats {
    /// No seat is taken yet.
    pub(super) fn new(way: Way, most: usize, idle: Duration, token_life: Duration) -> Seats {
        Seats { way, most, idle, token_life: token_life.as_secs(), taken: Mutex::default() }
    }

    /// How sessions are had.
    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// For how many more seconds a token is good, by what it says; `None` if it is not, or is none.
    pub(super) fn life_left(&self, token: &SecretString) -> Option<u64> {
        self.left(&claim(token.expose_secret())?)
    }

    /// The seat of a token that is shown by this peer.
    pub(super) async fn sit(self: &Arc<Seats>, token: SecretString, peer: &Peer) -> Result<Caller, Problem> {
        // What a token says counts for nothing but to find its user: the login checks it.
        let said = claim(token.expose_secret()).filter(|said| self.left(said).is_some());
        let user = said.ok_or_else(Problem::unknown_caller)?.user;
        let hash = Sha256::digest(token.expose_secret()).into();
        let key = Key { token: hash, address: peer.ip(), certificate: peer.certificate.clone() };
        let place = Held { seats: self.clone(), seat: self.place(&key)?, key };
        let opened = place.seat.get_or_try_init(|| Seat::open(&self.way, &user, token, peer.clone())).await;
        let seat = opened?.clone();
        Ok(Caller { place, seat })
    }

    /// Closes the seats of a token, from whatever address.
    pub(super) fn close(&self, caller: &Caller) {
        let mut taken = self.taken();
        let of_token: Vec<Key> = taken.keys().filter(|key| key.token == caller.place.key.token).cloned().collect();
        for key in of_token {
            if let Some(seat) = taken.remove(&key).and_then(|place| place.seat.get().cloned()) {
                seat.leave();
            }
        }
    }

    /// Closes what is idle.
    pub(super) fn sweep(&self, now: Instant) {
        self.taken().retain(|_, place| {
            let is_over = place.seat.get().is_some_and(|seat| seat.has_ended());
            let stays = !(is_over || place.is_free() && place.used + self.idle <= now);
            if !stays && let Some(seat) = place.seat.get() {
                seat.leave();
            }
            stays
        });
    }

    /// Says goodbye for all.
    pub(super) fn close_all(&self) {
        self.taken().drain().filter_map(|(_, place)| place.seat.get().cloned()).for_each(|seat| seat.leave());
    }

    /// How many are taken.
    pub(super) fn len(&self) -> usize {
        self.taken().len()
    }

    /// Adds a call to a place; where there is none, or its session is over, a new one.
    fn place(&self, key: &Key) -> Result<Arc<OnceCell<Arc<Seat>>>, Problem> {
        let mut taken = self.taken();
        if let Some(place) = taken.get_mut(key)
            && !place.seat.get().is_some_and(|seat| seat.has_ended())
        {
            place.calls += 1;
            return Ok(place.seat.clone());
        }
        taken.remove(key);
        if taken.len() >= self.most {
            let free = taken.iter().filter(|(_, place)| place.is_free());
            let Some(longest) = free.min_by_key(|(_, place)| place.used).map(|(key, _)| key.clone()) else {
                let text = "too many callers at once have sessions by this API";
                return Err(Problem::new(Code::Busy, text).again_in(Some(FULL_AGAIN)));
            };
            if let Some(seat) = taken.remove(&longest).and_then(|place| place.seat.get().cloned()) {
                seat.leave();
            }
        }
        let cell = Arc::new(OnceCell::new());
        taken.insert(key.clone(), Place { seat: cell.clone(), calls: 1, used: Instant::now() });
        Ok(cell)
    }

    /// A call is over. A place that nobody could sit down at is given back.
    fn leave(&self, key: &Key, cell: &Arc<OnceCell<Arc<Seat>>>) {
        let mut taken = self.taken();
        let Some(place) = taken.get_mut(key).filter(|place| Arc::ptr_eq(&place.seat, cell)) else { return };
        place.calls -= 1;
        place.used = Instant::now();
        if place.calls == 0 && place.seat.get().is_none() {
            taken.remove(key);
        }
    }

    fn left(&self, said: &Claim) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let expires = said.expires.min(said.made.saturating_add(self.token_life));
        expires.checked_sub(now).filter(|left| *left > 0)
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Key, Place>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether it can be taken from whoever has it: no call, and no request that is not accounted for.
    fn is_free(&self) -> bool {
        self.calls == 0 && self.seat.get().is_none_or(|seat| !seat.is_awaiting())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.seats.leave(&self.key, &self.seat);
    }
}

impl Caller {
    /// The seat itself.
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Deref for Caller {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

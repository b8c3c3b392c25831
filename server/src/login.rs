//! Who is this? One path and one time for every login that fails; hashes on the blocking pool, bounded.
//!
//! Order of checks: positive cache, back-off of (address, user), a place at the hashing pool, argon2id. What the policy says beyond the
//! password (disabled, expired, network, kind, node key) is weighed only after a hash was computed, so that no answer comes earlier than another.

use crate::broker::access::{Kind, Policy, User};
use crate::broker::event::NodeHello;
use crate::hub::Clock;
use crate::passwd;
use hmac::{Hmac, KeyInit, Mac};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::frame::Headers;
use muster_protocol::message::{NodeId, NodeKey, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};

/// How long a verified password is remembered, ms.
const CACHE_FOR: u64 = 600_000;
/// How many verified passwords are remembered.
const CACHE_MOST: usize = 100_000;
/// The first wait after a wrong password, ms; doubled at each further one.
const BACK_OFF_FIRST: u64 = 1_000;
/// The longest wait, ms; also how long a failure is remembered.
const BACK_OFF_MOST: u64 = 30_000;
/// How many (address, user) pairs with failures are remembered.
const BACK_OFF_PAIRS: usize = 65_536;

/// A login that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The user.
    pub user: Arc<User>,
    /// For agents: the node.
    pub node: Option<NodeHello>,
}

/// A login that was not: what the peer is told.
#[derive(Debug)]
pub struct Rejected {
    /// The answer; `auth-failed` says the same whatever was wrong.
    pub refusal: Refusal,
    /// With `busy`: when to try again, ms.
    pub retry_after: Option<u64>,
    /// For the log: what was wrong. Holds no secret.
    pub reason: &'static str,
}

/// Checks logins.
#[derive(Debug)]
pub struct Logins {
    policy: watch::Receiver<Arc<Policy>>,
    clock: Clock,
    secret: [u8; 32],
    verified: Mutex<HashMap<[u8; 32], u64>>,
    failures: Mutex<HashMap<(IpAddr, String), Failure>>,
    pool: Pool,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    count: u32,
    /// No hash is computed for this pair before then, monotonic ms.
    until: u64,
}

/// What CONNECT claims.
struct Claim {
    user: String,
    password: SecretString,
    node: Option<Result<NodeHello, ()>>,
}

impl Logins {
    /// A checker with `hashes` hashes at once and `waiting` more in line.
    pub fn new(policy: watch::Receiver<Arc<Policy>>, clock: Clock, hashes: usize, waiting: usize) -> Logins {
        // Made now, or the first unknown user would wait for two hashes, and so be told from a known one.
        let _ = passwd::dummy_phc();
        Logins {
            policy,
            clock,
            secret: rand::random(),
            verified: Mutex::default(),
            failures: Mutex::default(),
            pool: Pool::new(hashes, waiting),
        }
    }

    /// Checks the CONNECT of `peer`.
    pub async fn check(&self, headers: &Headers, peer: SocketAddr) -> Result<Accepted, Rejected> {
        let claim = claim(headers, self.clock.now().unix);
        let policy = self.policy.borrow().clone();
        let user = policy.user(&claim.user).cloned();
        let phc = user.as_ref().map(|user| user.password.as_str().to_owned());
        let mark = self.mark(&claim, phc.as_deref());
        let now = self.clock.now();
        // Whoever may not log in takes the slow path even with the right password: a quick answer would tell.
        let wrong = weigh(user.as_deref(), &claim, peer, now.unix);
        if wrong.is_none() && self.is_verified(&mark, now.tick) {
            return accepted(user, claim);
        }
        let pair = (peer.ip(), claim.user.clone());
        if let Some(wait) = self.must_wait(&pair, now.tick) {
            return Err(busy(wait, "too many wrong passwords from this address for this user"));
        }
        // By what it claims, not by what the user is: whether a user exists must not show in the time.
        let reserve = claim.node.is_none();
        self.hold(&pair, now.tick);
        let permit = self.pool.enter(reserve).await.ok_or_else(|| busy(self.jitter(), "too many logins at once"))?;
        let password = claim.password.clone();
        let known = phc.is_some();
        let verified = tokio::task::spawn_blocking(move || {
            // The permit lives here: a caller that gives up does not make room while the hash is still being computed.
            let _permit = permit;
            let phc = phc.unwrap_or_else(|| passwd::dummy_phc().to_owned());
            passwd::verify(&phc, &password)
        });
        let right = verified.await.unwrap_or(false) && known && !claim.password.expose_secret().is_empty();
        let reason = match (right, wrong) {
            (true, None) => {
                lock(&self.failures).remove(&pair);
                self.remember(mark, self.clock.tick());
                return accepted(user, claim);
            }
            (true, Some(reason)) => reason,
            (false, _) if known => "wrong password",
            (false, _) => "unknown user",
        };
        self.note_failure(pair, self.clock.tick());
        Err(failed(reason))
    }

    /// Keyed, so that a memory dump of the table is no list of passwords; the PHC string in it makes a changed password miss.
    fn mark(&self, claim: &Claim, phc: Option<&str>) -> [u8; 32] {
        let mut hmac = match Hmac::<Sha256>::new_from_slice(&self.secret) {
            Ok(hmac) => hmac,
            // HMAC takes a key of any length.
            Err(_) => return rand::random(),
        };
        for part in [claim.user.as_str(), claim.password.expose_secret(), phc.unwrap_or_default()] {
            hmac.update(&(part.len() as u64).to_le_bytes());
            hmac.update(part.as_bytes());
        }
        hmac.finalize().into_bytes().into()
    }

    fn is_verified(&self, mark: &[u8; 32], now: u64) -> bool {
        lock(&self.verified).get(mark).is_some_and(|until| *until > now)
    }

    fn remember(&self, mark: [u8; 32], now: u64) {
        let mut verified = lock(&self.verified);
        if verified.len() >= CACHE_MOST {
            verified.retain(|_, until| *until > now);
        }
        if verified.len() < CACHE_MOST {
            verified.insert(mark, now + CACHE_FOR);
        }
    }

    fn must_wait(&self, pair: &(IpAddr, String), now: u64) -> Option<u64> {
        lock(&self.failures).get(pair).map(|f| f.until.saturating_sub(now)).filter(|wait| *wait > 0)
    }

    /// A pair that has failed before checks one password at a time.
    fn hold(&self, pair: &(IpAddr, String), now: u64) {
        if let Some(failure) = lock(&self.failures).get_mut(pair) {
            failure.until = failure.until.max(now + BACK_OFF_FIRST);
        }
    }

    fn note_failure(&self, pair: (IpAddr, String), now: u64) {
        let mut failures = lock(&self.failures);
        if failures.len() >= BACK_OFF_PAIRS {
            failures.retain(|_, failure| failure.until + BACK_OFF_MOST > now);
        }
        // A flood of made-up users must not push out real ones, nor fill memory: past the bound new pairs are not noted.
        if failures.len() < BACK_OFF_PAIRS || failures.contains_key(&pair) {
            let failure = failures.entry(pair).or_insert(Failure { count: 0, until: now });
            if failure.until + BACK_OFF_MOST < now {
                failure.count = 0;
            }
            failure.count = failure.count.saturating_add(1);
            // The first two mistakes are free: people mistype.
            let wait = if failure.count < 3 { 0 } else { BACK_OFF_FIRST << (failure.count - 3).min(5) };
            failure.until = now + wait.min(BACK_OFF_MOST);
        }
    }

    /// 1 to 5 s: those who are turned away together do not come back together.
    fn jitter(&self) -> u64 {
        rand::random_range(1_000..5_000)
    }
}

/// Reads CONNECT. Malformed agent headers fail like a wrong password; missing ones are weighed against the kind of user later.
fn claim(headers: &Headers, unix: u64) -> Claim {
    let user = headers.get("login").unwrap_or_default().to_owned();
    let password = SecretString::from(headers.get("passcode").unwrap_or_default());
    // A user name that no policy can hold is still hashed for, but never stored at length.
    let user = if user.len() > 128 { String::new() } else { user };
    let node = [header::NODE, header::NODE_KEY, header::SESSION]
        .iter()
        .any(|name| headers.contains(name))
        .then(|| hello(headers, unix));
    Claim { user, password, node }
}

fn hello(headers: &Headers, unix: u64) -> Result<NodeHello, ()> {
    let get = |name| headers.get(name).ok_or(());
    let id = NodeId::parse(get(header::NODE)?).map_err(|_| ())?;
    let key = NodeKey::parse(get(header::NODE_KEY)?).map_err(|_| ())?;
    if NodeId::of(&key) != id {
        return Err(());
    }
    let number = get(header::SESSION)?.parse().map_err(|_| ())?;
    let time: u64 = headers.get(header::TIME).map_or(Ok(unix), |t| t.parse().map_err(|_| ()))?;
    Ok(NodeHello { id, number, clock_skew: (time as i64).wrapping_sub(unix as i64) / 1000 })
}

/// What speaks against this login beside the password.
fn weigh(user: Option<&User>, claim: &Claim, peer: SocketAddr, unix: u64) -> Option<&'static str> {
    let user = user?;
    if let Some(reason) = user.barred(peer.ip(), unix / 1000) {
        return Some(reason);
    }
    match (&claim.node, user.kind) {
        (Some(Ok(_)), Kind::Agent) | (None, Kind::Operator | Kind::Service) => None,
        (Some(Err(())), Kind::Agent) => Some("node id, key or session number malformed or not agreeing"),
        (None, Kind::Agent) => Some("agent without node id and key"),
        (Some(_), _) => Some("agent headers from a user that is no agent"),
    }
}

fn accepted(user: Option<Arc<User>>, claim: Claim) -> Result<Accepted, Rejected> {
    let user = user.ok_or_else(|| failed("unknown user"))?;
    Ok(Accepted { user, node: claim.node.and_then(Result::ok) })
}

fn failed(reason: &'static str) -> Rejected {
    let text = "login refused: check user, password and, for an agent, its node key";
    Rejected { refusal: Refusal::new(Code::AuthFailed, text), retry_after: None, reason }
}

fn busy(wait: u64, reason: &'static str) -> Rejected {
    let text = format!("the broker cannot check this login now; try again in {} s", wait.div_ceil(1000));
    Rejected { refusal: Refusal::new(Code::Busy, text), retry_after: Some(wait.max(1)), reason }
}

/// The hashing pool: so many at once, so many waiting, the newest first (the oldest have likely given up), and one place more
/// that agents cannot take, so that operators get in while a fleet reconnects.
#[derive(Debug, Clone)]
struct Pool(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    /// For anybody.
    free: usize,
    /// For those who are no agents.
    reserve_free: bool,
    waiting: Vec<(bool, oneshot::Sender<Permit>)>,
    most_waiting: usize,
}

/// A place in the pool; dropping it hands it to the newest who waits.
#[derive(Debug)]
struct Permit {
    pool: Pool,
    reserve: bool,
}

impl Pool {
    fn new(places: usize, most_waiting: usize) -> Pool {
        Pool(Arc::new(Mutex::new(Places {
            free: places.max(1),
            reserve_free: true,
            waiting: Vec::new(),
            most_waiting,
        })))
    }

    /// Waits for a place; `None` if too many wait already.
    async fn enter(&self, may_use_reserve: bool) -> Option<Permit> {
        let turn = {
            let mut places = lock(&self.0);
            if places.free > 0 {
                places.free -= 1;
                return Some(Permit { pool: self.clone(), reserve: false });
            }
            if may_use_reserve && places.reserve_free {
                places.reserve_free = false;
                return Some(Permit { pool: self.clone(), reserve: true });
            }
            places.waiting.retain(|(_, turn)| !turn.is_closed());
            if places.waiting.len() >= places.most_waiting {
                return None;
            }
            let (sender, turn) = oneshot::channel();
            places.waiting.push((may_use_reserve, sender));
            turn
        };
        turn.await.ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut places = lock(&self.pool.0);
            places.waiting.retain(|(_, turn)| !turn.is_closed());
            let newest = places.waiting.iter().rposition(|(may_use_reserve, _)| *may_use_reserve || !self.reserve);
            match newest {
                Some(newest) => Some(places.waiting.remove(newest).1),
                None if self.reserve => {
                    places.reserve_free = true;
                    None
                }
                None => {
                    places.free += 1;
                    None
                }
            }
        };
        if let Some(turn) = next {
            // Whoever gave up in this instant hands the place on by dropping what it did not receive.
            let _ = turn.send(Permit { pool: self.pool.clone(), reserve: self.reserve });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_waits_least_and_the_line_is_bounded() {
        let pool = Pool::new(1, 2);
        let first = pool.enter(false).await.expect("a place");
        let (old, new) = (pool.clone(), pool.clone());
        let old = tokio::spawn(async move { old.enter(false).await });
        until_waiting(&pool, 1).await;
        let new = tokio::spawn(async move { new.enter(false).await });
        until_waiting(&pool, 2).await;
        assert!(pool.enter(false).await.is_none(), "the line is full");
        drop(first);
        let second = new.await.expect("no panic").expect("the newest has the place");
        assert!(!old.is_finished());
        drop(second);
        assert!(old.await.expect("no panic").is_some());
    }

    #[tokio::test]
    async fn agents_cannot_take_the_last_place_from_operators() {
        let pool = Pool::new(1, 0);
        let agent = pool.enter(false).await.expect("a place");
        assert!(pool.enter(false).await.is_none());
        let operator = pool.enter(true).await.expect("the reserve");
        drop(agent);
        drop(operator);
        assert!(pool.enter(false).await.is_some());
    }

    #[tokio::test]
    async fn a_pair_that_has_failed_checks_one_password_at_a_time() {
        let (_policy, seen) = watch::channel(Arc::new(Policy::default()));
        let logins = Arc::new(Logins::new(seen, Clock::start(), 4, 64));
        let try_one = || {
            let logins = logins.clone();
            async move {
                let headers: Headers = [("login", "eve"), ("passcode", "guess")].into_iter().collect();
                let peer = SocketAddr::from(([127, 0, 0, 1], 1));
                logins.check(&headers, peer).await.expect_err("nobody is in this policy").refusal.code
            }
        };
        assert_eq!(try_one().await, Code::AuthFailed);
        let many: Vec<_> = (0..8).map(|_| tokio::spawn(try_one())).collect();
        let mut failed = 0;
        for one in many {
            failed += usize::from(one.await.expect("no panic") == Code::AuthFailed);
        }
        assert_eq!(failed, 1, "the others are told to come back");
    }

    #[tokio::test]
    async fn abandoned_work_keeps_its_permit() {
        let pool = Pool::new(1, 1);
        let (go, gone) = std::sync::mpsc::sync_channel::<()>(0);
        let permit = pool.enter(false).await.expect("a place");
        let hash = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            gone.recv().expect("told to go");
        });
        let abandoned = tokio::spawn(hash);
        abandoned.abort();
        assert_eq!(lock(&pool.0).free, 0, "the work goes on, so its place is taken");
        go.send(()).expect("still running");
        while lock(&pool.0).free == 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn until_waiting(pool: &Pool, count: usize) {
        while lock(&pool.0).waiting.len() < count {
            tokio::task::yield_now().await;
        }
    }
}

//! Who is this? One path and one time for every login that fails; hashes on the blocking pool, bounded.
//!
//! Order of checks: token, positive cache, back-off of (address, user), the check of the same that is under way, or else a place at the hashing pool and argon2id. What the policy says beyond
//! the password (disabled, expired, network, client certificate, kind, node key) is weighed only after a hash was computed, so that no answer comes earlier than another.
//!
//! A passcode of the form of a token is only ever checked as a token. A wrong one costs two short hashes whoever it names, never an
//! argon2id, and counts for nobody's back-off: nobody can lock others out with forged tokens, or make the broker compute for them.

mod pool;
mod tally;
mod turns;

pub use tally::Outcome;

use crate::broker::access::{Kind, Peer, Policy, User};
use crate::broker::event::NodeHello;
use crate::gate::Origin;
use crate::hub::Clock;
use crate::passwd;
use crate::token::{Holder, Tokens};
use hmac::{Hmac, KeyInit, Mac};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::frame::Headers;
use muster_protocol::message::{NodeId, NodeKey, header};
use muster_protocol::token::is_token;
use pool::Pool;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tally::Tally;
use tokio::sync::watch;
use turns::Turns;

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
    /// If it was by a token: when that was made, Unix seconds.
    pub token_made: Option<u64>,
    /// What the peer is given to log in with next time, if tokens are on and it needs one.
    pub token: Option<SecretString>,
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
    tokens: Tokens,
    secret: [u8; 32],
    verified: Mutex<HashMap<[u8; 32], u64>>,
    failures: Mutex<HashMap<(Origin, String), Failure>>,
    pool: Pool,
    /// Whether a password is right; `None`: too many wait.
    turns: Turns<Option<bool>>,
    tally: Tally,
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

impl Claim {
    /// Whose token goes with this claim. Malformed agent headers are no node; they are weighed as such.
    fn holder<'a>(&'a self, phc: &'a str) -> Holder<'a> {
        let node = self.node.as_ref().and_then(|node| node.as_ref().ok()).map(|hello| hello.id);
        Holder { user: &self.user, node, phc }
    }
}

impl Logins {
    /// A checker with `hashes` hashes at once and `waiting` more in line.
    pub fn new(
        policy: watch::Receiver<Arc<Policy>>,
        clock: Clock,
        tokens: Tokens,
        hashes: usize,
        waiting: usize,
    ) -> Logins {
        // Made now, or the first unknown user would wait for two hashes, and so be told from a known one.
        let _ = passwd::dummy_phc();
        Logins {
            policy,
            clock,
            tokens,
            secret: rand::random(),
            verified: Mutex::default(),
            failures: Mutex::default(),
            pool: Pool::new(hashes, waiting),
            turns: Turns::new(),
            tally: Tally::default(),
        }
    }

    /// Checks the CONNECT of `peer`.
    pub async fn check(&self, headers: &Headers, peer: &Peer) -> Result<Accepted, Rejected> {
        let judged = self.judge(headers, peer).await;
        if let Err(rejected) = &judged {
            let is_busy = rejected.refusal.code == Code::Busy;
            self.note(if is_busy { Outcome::Busy } else { Outcome::Denied });
        }
        judged
    }

    /// Counts a login that came out so; those that [`Logins::check`] has seen are counted already.
    pub fn note(&self, outcome: Outcome) {
        self.tally.note(outcome);
    }

    /// How many logins came out how.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        self.tally.counts()
    }

    async fn judge(&self, headers: &Headers, peer: &Peer) -> Result<Accepted, Rejected> {
        let claim = claim(headers, self.clock.now().unix);
        let policy = self.policy.borrow().clone();
        let user = policy.user(&claim.user).cloned();
        let phc = user.as_ref().map(|user| user.password.as_str().to_owned());
        let now = self.clock.now();
        if is_token(claim.password.expose_secret()) {
            return self.check_token(user, claim, peer, now.unix);
        }
        let mark = self.mark(&claim, phc.as_deref());
        // Whoever may not log in takes the slow path even with the right password: a quick answer would tell.
        let wrong = weigh(user.as_deref(), &claim, peer, now.unix);
        let pair = (Origin::of(peer.ip()), claim.user.clone());
        if wrong.is_none() && self.is_verified(&mark, now.tick) {
            return self.accepted(user, claim, Outcome::Cache);
        }
        self.refuse_early(&pair, now.tick)?;
        // By what it claims, not by what the user is: whether a user exists must not show in the time.
        let reserve = claim.node.is_none();
        self.hold(&pair, now.tick);
        let known = phc.is_some();
        let check = check(self.pool.clone(), reserve, phc, claim.password.clone());
        let verified = self.turns.share(mark, check).await;
        let verified = verified.ok_or_else(|| busy(self.jitter(), "too many logins at once"))?;
        let right = verified && known && !claim.password.expose_secret().is_empty();
        let reason = match (right, wrong) {
            (true, None) => {
                lock(&self.failures).remove(&pair);
                self.remember(mark, self.clock.tick());
                return self.accepted(user, claim, Outcome::Password);
            }
            (true, Some(reason)) => reason,
            (false, _) if known => "wrong password",
            (false, _) => "unknown user",
        };
        self.note_failure(pair, self.clock.tick());
        Err(failed(reason))
    }

    /// An unknown user's token is checked like a known one's, against a hash that nobody has.
    fn check_token(&self, user: Option<Arc<User>>, claim: Claim, peer: &Peer, unix: u64) -> Result<Accepted, Rejected> {
        let phc = user.as_ref().map_or(passwd::dummy_phc(), |user| user.password.as_str());
        let good = self.tokens.check(claim.password.expose_secret(), claim.holder(phc), unix / 1000);
        let good = good.map_err(|error| failed(error.as_str()))?;
        let user = user.ok_or_else(|| failed("token: unknown user"))?;
        if let Some(reason) = weigh(Some(&user), &claim, peer, unix) {
            return Err(failed(reason));
        }
        if user.revokes(good.made) {
            return Err(failed("token: made before the user's `revoked-before`"));
        }
        let fresh =
            if good.is_ageing { self.tokens.make(claim.holder(user.password.as_str()), unix / 1000) } else { None };
        let node = claim.node.and_then(Result::ok);
        self.note(Outcome::Token);
        Ok(Accepted { user, node, token_made: Some(good.made), token: fresh })
    }

    /// By password.
    fn accepted(&self, user: Option<Arc<User>>, claim: Claim, by: Outcome) -> Result<Accepted, Rejected> {
        let user = user.ok_or_else(|| failed("unknown user"))?;
        self.note(by);
        let token = self.tokens.make(claim.holder(user.password.as_str()), self.clock.now().unix / 1000);
        Ok(Accepted { user, node: claim.node.and_then(Result::ok), token_made: None, token })
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

    fn must_wait(&self, pair: &(Origin, String), now: u64) -> Option<u64> {
        lock(&self.failures).get(pair).map(|f| f.until.saturating_sub(now)).filter(|wait| *wait > 0)
    }

    /// `busy` while a pair has to wait.
    fn refuse_early(&self, pair: &(Origin, String), now: u64) -> Result<(), Rejected> {
        let wait = self.must_wait(pair, now);
        wait.map_or(Ok(()), |wait| Err(busy(wait, "too many wrong passwords from this address for this user")))
    }

    /// A pair that has failed before checks one password at a time.
    fn hold(&self, pair: &(Origin, String), now: u64) {
        if let Some(failure) = lock(&self.failures).get_mut(pair) {
            failure.until = failure.until.max(now + BACK_OFF_FIRST);
        }
    }

    fn note_failure(&self, pair: (Origin, String), now: u64) {
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

/// Whether a password is that of a hash, once there is a place to find out; `None` if too many wait for one.
async fn check(pool: Pool, may_use_reserve: bool, phc: Option<String>, password: SecretString) -> Option<bool> {
    let permit = pool.enter(may_use_reserve).await?;
    let verified = tokio::task::spawn_blocking(move || {
        // The permit lives here: a caller that gives up does not make room while the hash is still being computed.
        let _permit = permit;
        let phc = phc.unwrap_or_else(|| passwd::dummy_phc().to_owned());
        passwd::verify(&phc, &password)
    });
    // A check that could not be made says nothing of the password.
    verified.await.ok()
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
fn weigh(user: Option<&User>, claim: &Claim, peer: &Peer, unix: u64) -> Option<&'static str> {
    let user = user?;
    if let Some(reason) = user.barred(peer, unix / 1000) {
        return Some(reason);
    }
    match (&claim.node, user.kind) {
        (Some(Ok(_)), Kind::Agent) | (None, Kind::Operator | Kind::Service) => None,
        (Some(Err(())), Kind::Agent) => Some("node id, key or session number malformed or not agreeing"),
        (None, Kind::Agent) => Some("agent without node id and key"),
        (Some(_), _) => Some("agent headers from a user that is no agent"),
    }
}

fn failed(reason: &'static str) -> Rejected {
    let text =
        "login refused: check user, password, client certificate if one is needed and, for an agent, its node key";
    Rejected { refusal: Refusal::new(Code::AuthFailed, text), retry_after: None, reason }
}

fn busy(wait: u64, reason: &'static str) -> Rejected {
    let text = format!("the broker cannot check this login now; try again in {} s", wait.div_ceil(1000));
    Rejected { refusal: Refusal::new(Code::Busy, text), retry_after: Some(wait.max(1)), reason }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::access::{Certificate, Names};
    use crate::cluster_key::ClusterKey;
    use std::net::SocketAddr;
    use std::time::Duration;

    fn tokens() -> Tokens {
        Tokens::new(&ClusterKey::new([7; 32]), None, Duration::from_secs(1000))
    }

    #[tokio::test]
    async fn a_pair_that_has_failed_checks_one_password_at_a_time() {
        let (_policy, seen) = watch::channel(Arc::new(Policy::default()));
        let logins = Arc::new(Logins::new(seen, Clock::start(), tokens(), 4, 64));
        let try_one = || {
            let logins = logins.clone();
            async move {
                let headers: Headers = [("login", "eve"), ("passcode", "guess")].into_iter().collect();
                let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
                logins.check(&headers, &peer).await.expect_err("nobody is in this policy").refusal.code
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

    /// A broker whose only user is alice, who may come from 127.0.0.1, and one hash at a time with nobody in line.
    fn alice(more: &str) -> Logins {
        let phc = passwd::hash(&SecretString::from("secret")).expect("a hash");
        logins(&phc, more)
    }

    fn logins(phc: &str, more: &str) -> Logins {
        let text =
            format!("[users.alice]\nkind = \"operator\"\npassword = \"{phc}\"\nnetworks = [\"127.0.0.1\"]\n{more}\n");
        let policy = Policy::parse(&text).expect("a policy");
        let (_, seen) = watch::channel(Arc::new(policy));
        Logins::new(seen, Clock::start(), tokens(), 1, 1)
    }

    async fn log_in(logins: &Logins, user: &str, passcode: &str, address: [u8; 4]) -> Result<Accepted, Rejected> {
        log_in_from(logins, user, passcode, SocketAddr::from((address, 1)).into()).await
    }

    async fn log_in_from(logins: &Logins, user: &str, passcode: &str, peer: Peer) -> Result<Accepted, Rejected> {
        let headers: Headers = [("login", user), ("passcode", passcode)].into_iter().collect();
        logins.check(&headers, &peer).await
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];

    #[tokio::test]
    async fn a_token_gets_in_where_passwords_wait_and_wrong_ones_make_nobody_wait() {
        let logins = alice("");
        let first = log_in(&logins, "alice", "secret", HERE).await.expect("the password is right");
        let token = first.token.expect("tokens are on");
        assert_eq!(first.token_made, None);
        lock(&logins.verified).clear();
        // All places are taken, and the pair waits.
        let (_agents, _operators) = (logins.pool.enter(true).await, logins.pool.enter(true).await);
        let pair = (Origin::of(HERE.into()), "alice".to_owned());
        for _ in 0..5 {
            logins.note_failure(pair.clone(), logins.clock.tick());
        }
        assert_eq!(log_in(&logins, "alice", "secret", HERE).await.expect_err("it waits").refusal.code, Code::Busy);
        let again = log_in(&logins, "alice", token.expose_secret(), HERE).await.expect("the token is good");
        assert!(again.token_made.is_some() && again.token.is_none(), "more than half of its life is left");
        lock(&logins.failures).clear();
        let forged = format!("{}AAAA", &token.expose_secret()[..token.expose_secret().len() - 4]);
        for user in ["alice", "nobody"] {
            for _ in 0..20 {
                let refused = log_in(&logins, user, &forged, HERE).await.expect_err("forged");
                assert_eq!(refused.refusal.code, Code::AuthFailed);
                assert!(!refused.reason.contains("mt1."));
            }
        }
        assert!(lock(&logins.failures).is_empty() && lock(&logins.verified).is_empty());
    }

    #[tokio::test]
    async fn a_token_is_no_way_around_the_policy_and_every_refusal_says_the_same() {
        let good = alice("");
        let phc = good.policy.borrow().user("alice").expect("alice").password.as_str().to_owned();
        let token = log_in(&good, "alice", "secret", HERE).await.expect("in").token.expect("on");
        let token = token.expose_secret();
        let wrong = log_in(&good, "alice", "wrong", HERE).await.expect_err("wrong").refusal;
        assert!(log_in(&good, "alice", token, HERE).await.is_ok());
        let other = alice("");
        for (what, logins, user, address, reason) in [
            ("another network", &good, "alice", [127, 0, 0, 2], "networks"),
            ("another user", &good, "bob", HERE, "forged"),
            ("another password", &other, "alice", HERE, "changed"),
            ("disabled", &logins(&phc, "disabled = true"), "alice", HERE, "disabled"),
            ("expired", &logins(&phc, "expires = 2020-01-01"), "alice", HERE, "expired"),
            ("revoked", &logins(&phc, "revoked-before = 2999-01-01"), "alice", HERE, "revoked-before"),
        ] {
            let refused = log_in(logins, user, token, address).await.expect_err(what);
            assert!(refused.reason.contains(reason), "{what}: {}", refused.reason);
            assert_eq!((&refused.refusal.text, refused.retry_after), (&wrong.text, None), "{what}");
        }
        let earlier = logins(&phc, "revoked-before = 2020-01-01");
        assert!(log_in(&earlier, "alice", token, HERE).await.is_ok(), "it was made later");
    }

    /// From [`HERE`], with a certificate of this name if there is one.
    fn showing(name: Option<&str>) -> Peer {
        let certificate =
            name.map(|name| Certificate { names: Names::Dns(vec![name.to_owned()]), ends: u64::MAX }.into());
        Peer { address: (HERE, 1).into(), certificate }
    }

    #[tokio::test]
    async fn a_certificate_is_needed_beside_password_and_token_and_every_refusal_says_the_same() {
        let logins = alice("certificate = \"alice.example\"");
        let alice = || showing(Some("alice.example"));
        let first = log_in_from(&logins, "alice", "secret", alice()).await.expect("password and certificate");
        let token = first.token.expect("tokens are on");
        log_in_from(&logins, "alice", token.expose_secret(), alice()).await.expect("token and certificate");
        let wrong = log_in_from(&logins, "alice", "wrong", alice()).await.expect_err("the password is wrong");
        assert_eq!(wrong.reason, "wrong password", "a certificate stands for nothing");
        for (name, reason) in [(None, "no client certificate"), (Some("bob.example"), "another name")] {
            for passcode in ["secret", token.expose_secret()] {
                lock(&logins.failures).clear();
                let refused = log_in_from(&logins, "alice", passcode, showing(name)).await.expect_err(reason);
                assert!(refused.reason.contains(reason), "{}", refused.reason);
                assert_eq!((&refused.refusal, refused.retry_after), (&wrong.refusal, None), "{reason}");
            }
        }
    }

    #[tokio::test]
    async fn the_right_password_without_the_certificate_costs_a_hash_and_waits_as_a_wrong_one() {
        let mut logins = alice("certificate = \"alice.example\"");
        let alice = || showing(Some("alice.example"));
        log_in_from(&logins, "alice", "secret", alice()).await.expect("it is remembered");
        // With all places taken nothing is hashed: whoever is answered all the same was not hashed for.
        logins.pool = Pool::new(1, 0);
        let permits = (logins.pool.enter(true).await, logins.pool.enter(true).await);
        for passcode in ["secret", "wrong"] {
            let refused = log_in_from(&logins, "alice", passcode, showing(None)).await.expect_err("no place");
            assert_eq!(refused.reason, "too many logins at once", "{passcode}");
        }
        log_in_from(&logins, "alice", "secret", alice()).await.expect("it is still remembered");
        drop(permits);
        let pair = (Origin::of(HERE.into()), "alice".to_owned());
        for count in 1..=2 {
            let refused = log_in_from(&logins, "alice", "secret", showing(None)).await.expect_err("no certificate");
            assert_eq!(refused.refusal.code, Code::AuthFailed);
            assert_eq!(lock(&logins.failures)[&pair].count, count);
        }
    }
}

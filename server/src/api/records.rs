//! What is kept of the requests that came by HTTP? Their accounts, by user and id, within a number of bytes and for a time.

use super::account::{Account, End, Read};
use super::problem::Problem;
use muster_protocol::error::Code;
use muster_protocol::frame::Frame;
use muster_protocol::message::RequestId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use super::seat::Seat;

/// Requests of one user that are kept.
const OF_USER_MOST: usize = 1_000;

/// All requests.
#[derive(Debug)]
pub(super) struct Records {
    /// Bytes of all accounts together.
    most: usize,
    /// How long one is kept after it is over.
    keep: Duration,
    held: AtomicUsize,
    all: Mutex<HashMap<(String, String), Arc<Record>>>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Record {
    id: RequestId,
    /// To which action topic.
    pub(super) destination: String,
    /// The filter, or `all`.
    pub(super) target: Option<String>,
    /// When it was asked, Unix ms.
    pub(super) at: u64,
    /// Who asked: whom to cancel it by.
    pub(super) seat: Weak<Seat>,
    account: Mutex<Account>,
    over: Mutex<Option<Instant>>,
    changes: watch::Sender<()>,
}

impl Records {
    /// None yet. `most` bytes of all together, each kept for `keep` after it is over.
    pub(super) fn new(most: usize, keep: Duration) -> Records {
        Records { most, keep, held: AtomicUsize::new(0), all: Mutex::default() }
    }

    /// Begins the account of a request.
    pub(super) fn begin(&self, user: &str, record: Record) -> Result<Arc<Record>, Problem> {
        let key = (user.to_owned(), record.id.to_string());
        let mut all = self.all();
        if all.contains_key(&key) {
            let text = format!("{}: a request with this id is under way, or its account is still kept", record.id);
            return Err(Problem::new(Code::DuplicateRequest, text));
        }
        if all.keys().filter(|(of, _)| of == user).count() >= OF_USER_MOST {
            let oldest = oldest(&all, |of| of == user);
            let Some(oldest) = oldest else {
                let text = format!("{OF_USER_MOST} requests of {user} are under way; wait for one to end");
                return Err(Problem::new(Code::Limit, text).again_in(Some(Duration::from_secs(1))));
            };
            self.forget(&mut all, &oldest);
        }
        let record = Arc::new(record);
        all.insert(key, record.clone());
        Ok(record)
    }

    /// The user's request of this id.
    pub(super) fn get(&self, user: &str, id: &RequestId) -> Option<Arc<Record>> {
        self.all().get(&(user.to_owned(), id.to_string())).cloned()
    }

    /// A request that was refused before anything became of it: its id is free again.
    pub(super) fn withdraw(&self, user: &str, id: &RequestId) {
        self.forget(&mut self.all(), &(user.to_owned(), id.to_string()));
    }

    /// Takes in what was said of a request.
    pub(super) fn feed(&self, record: &Record, frame: &Frame) {
        self.change(record, |account| account.feed(frame));
        if self.held.load(Ordering::Relaxed) > self.most {
            self.make_room(record);
        }
    }

    /// The session that asked is over.
    pub(super) fn abandon(&self, record: &Record, why: &Problem) {
        self.change(record, |account| account.abandon(why.clone()));
    }

    /// Forgets what was kept long enough.
    pub(super) fn sweep(&self, now: Instant) {
        let mut all = self.all();
        // One that somebody still reads stays, and stays counted.
        let is_old = |record: &Arc<Record>| {
            Arc::strong_count(record) == 1 && record.over().is_some_and(|over| over + self.keep <= now)
        };
        let old: Vec<_> = all.iter().filter(|(_, record)| is_old(record)).map(|(key, _)| key.clone()).collect();
        old.iter().for_each(|key| self.forget(&mut all, key));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<Record>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, record: &Record, change: impl FnOnce(&mut Account)) {
        let mut account = record.account();
        let before = account.bytes();
        change(&mut account);
        let (after, is_over) = (account.bytes(), account.end().is_some());
        drop(account);
        self.held.fetch_add(after, Ordering::Relaxed);
        self.held.fetch_sub(before, Ordering::Relaxed);
        if is_over {
            lock(&record.over).get_or_insert_with(Instant::now);
        }
        record.changes.send_replace(());
    }

    /// What is over goes first, the oldest first of all; then the oldest events of the request that has grown.
    fn make_room(&self, grown: &Record) {
        let mut all = self.all();
        while self.held.load(Ordering::Relaxed) > self.most {
            let Some(oldest) = oldest(&all, |_| true) else { break };
            self.forget(&mut all, &oldest);
        }
        drop(all);
        let excess = self.held.load(Ordering::Relaxed).saturating_sub(self.most);
        if excess > 0 {
            self.change(grown, |account| account.shrink(excess));
        }
    }

    fn forget(&self, all: &mut HashMap<(String, String), Arc<Record>>, key: &(String, String)) {
        if let Some(record) = all.remove(key) {
            // Whoever reads it holds it still: what is counted no more takes no memory.
            self.change(&record, Account::clear);
        }
    }
}

/// The request that has been over for longest.
fn oldest(all: &HashMap<(String, String), Arc<Record>>, of: impl Fn(&str) -> bool) -> Option<(String, String)> {
    let over = all.iter().filter(|((user, _), _)| of(user));
    let over = over.filter_map(|(key, record)| Some((record.over()?, key)));
    over.min_by_key(|(over, _)| *over).map(|(_, key)| key.clone())
}

impl Record {
    /// Of a request that is about to be sent at `at`, Unix ms.
    pub(super) fn new(id: RequestId, destination: String, target: Option<String>, at: u64, seat: &Arc<Seat>) -> Record {
        Record::of(id, destination, target, at, Arc::downgrade(seat))
    }

    fn of(id: RequestId, destination: String, target: Option<String>, at: u64, seat: Weak<Seat>) -> Record {
        let (account, changes) = (Mutex::new(Account::new()), watch::Sender::new(()));
        Record { id, destination, target, at, seat, account, over: Mutex::default(), changes }
    }

    /// The caller's id.
    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    /// Whether nothing more becomes of it.
    pub(super) fn is_over(&self) -> bool {
        self.account().end().is_some()
    }

    /// Why it was refused, if it was.
    pub(super) fn refused(&self) -> Option<Problem> {
        match self.account().end() {
            Some(End::Refused(problem)) => Some(problem.clone()),
            _ => None,
        }
    }

    /// Looks at the account.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Account) -> T) -> T {
        look(&self.account())
    }

    /// Waits until there are events from this number on, or nothing follows; some `most` bytes of them.
    pub(super) async fn read(&self, from: u64, most: usize) -> Read {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let read = self.account().read(from, most);
            if !read.entries.is_empty() || read.is_last || changes.changed().await.is_err() {
                return read;
            }
        }
    }

    fn over(&self) -> Option<Instant> {
        *lock(&self.over)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::frame::Command;
    use muster_protocol::message::header;

    fn record(id: &str) -> Record {
        Record::of(RequestId::parse(id).unwrap(), "/topic/prod.node.ping".into(), None, 0, Weak::new())
    }

    fn done() -> Frame {
        Frame::new(Command::Message).header(header::EVENT, "done").with_body(r#"{"states":{}}"#)
    }

    fn lost(reason: &str) -> Frame {
        let body = serde_json::json!({ "nodes": [], "reason": reason }).to_string();
        Frame::new(Command::Message).header(header::EVENT, "lost").with_body(body)
    }

    #[tokio::test]
    async fn a_request_belongs_to_its_user_and_is_kept_for_a_time() {
        let records = Records::new(1 << 20, Duration::from_secs(10));
        let mine = records.begin("alice", record("r1")).unwrap();
        assert_eq!(records.begin("alice", record("r1")).unwrap_err().code, "duplicate-request");
        records.begin("bob", record("r1")).unwrap();
        assert!(records.get("carol", mine.id()).is_none());
        records.feed(&mine, &done());
        records.sweep(Instant::now());
        let id = mine.id().clone();
        drop(mine);
        assert!(records.get("alice", &id).is_some(), "it has only just ended");
        records.sweep(Instant::now() + Duration::from_secs(11));
        assert!(records.get("alice", &id).is_none());
        assert!(records.get("bob", &id).is_some(), "it is not over");
        records.withdraw("bob", &id);
        assert_eq!((records.held.load(Ordering::Relaxed), records.all().len()), (0, 0));
    }

    #[tokio::test]
    async fn memory_is_bounded_and_what_runs_keeps_the_newest() {
        let records = Records::new(10_000, Duration::from_secs(10));
        let (first, second) =
            (records.begin("alice", record("r1")).unwrap(), records.begin("alice", record("r2")).unwrap());
        records.feed(&first, &lost(&"x".repeat(4_000)));
        records.feed(&first, &done());
        for number in 0..20 {
            records.feed(&second, &lost(&format!("{number} {}", "x".repeat(2_000))));
            assert!(records.held.load(Ordering::Relaxed) <= 10_000);
        }
        assert!(records.get("alice", first.id()).is_none(), "what is over goes first");
        let read = second.read(1, usize::MAX).await;
        assert_eq!((read.entries.last().unwrap().number, read.missed + read.entries.len() as u64), (20, 20));
        assert_eq!(records.held.load(Ordering::Relaxed), second.account().bytes());
    }

    #[tokio::test]
    async fn whoever_reads_and_never_takes_it_holds_no_memory_that_is_not_counted() {
        let records = Records::new(10_000, Duration::from_secs(10));
        let held: Vec<Arc<Record>> = (0..20)
            .map(|number| {
                let record = records.begin("alice", record(&format!("r{number}"))).unwrap();
                records.feed(&record, &lost(&"x".repeat(2_000)));
                records.feed(&record, &done());
                record
            })
            .collect();
        let bytes = || held.iter().map(|record| record.account().bytes()).sum::<usize>();
        assert_eq!(bytes(), records.held.load(Ordering::Relaxed));
        assert!(bytes() <= 10_000, "{}", bytes());
        let read = held[0].read(1, usize::MAX).await;
        assert_eq!((read.missed, read.entries.len(), read.is_last), (2, 0, true), "it is told what it missed");
        records.sweep(Instant::now() + Duration::from_secs(11));
        assert_eq!(bytes(), records.held.load(Ordering::Relaxed), "what is read stays counted");
        drop(held);
        records.sweep(Instant::now() + Duration::from_secs(11));
        assert_eq!((records.held.load(Ordering::Relaxed), records.all().len()), (0, 0));
    }

    #[tokio::test]
    async fn who_reads_along_waits_for_the_next_and_sees_the_end() {
        let records = Arc::new(Records::new(1 << 20, Duration::from_secs(10)));
        let request = records.begin("alice", record("r1")).unwrap();
        let reader = tokio::spawn({
            let request = request.clone();
            async move {
                let (mut from, mut numbers) = (1, Vec::new());
                loop {
                    let read = request.read(from, 1).await;
                    numbers.extend(read.entries.iter().map(|entry| entry.number));
                    from = numbers.len() as u64 + 1;
                    if read.is_last {
                        return numbers;
                    }
                }
            }
        });
        for _ in 0..3 {
            records.feed(&request, &lost("gone"));
            tokio::task::yield_now().await;
        }
        records.abandon(&request, &Problem::unknown_caller());
        assert_eq!(reader.await.unwrap(), [1, 2, 3, 4]);
    }
}

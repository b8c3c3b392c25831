//! Who did what, and who let them? The audit log: one thread owns its file, everybody else hands it records and never waits.
//!
//! When the disk is full, or records come faster than they can be written, the broker goes on: what is lost is counted, said in
//! the log and in `musterd ctl status`, and put on record as soon as that can be written.

mod against;
mod answer;
mod backwards;
pub mod chain;
mod search;
mod trail;
mod verify;

pub use against::Witnessed;
pub use answer::answer;
pub use search::{SearchError, SearchOptions, search};
pub use verify::{Fault, VerifyError, VerifyOptions, Whole, verify};

use crate::broker::event::Event;
use crate::broker::record::Record;
use crate::config::AuditConfig;
use crate::hub::Hub;
use crate::metrics::Written;
use muster_protocol::link::AuditHead;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;
use trail::Trail;

/// Records that may wait to be written.
const QUEUE: usize = 8192;
/// Of these, places that refusals do not get: whoever asks for what they may not cannot push out what others did.
const RESERVE: usize = QUEUE / 4;
/// Bytes of bodies that may wait to be hashed; beyond that their sizes alone are on record.
const HELD: usize = 32 * 1024 * 1024;
/// Records that are written at once.
const BATCH: usize = 256;
/// Longest time until what was written is on the disk; also the time between two tries when it cannot be written.
const SYNC: Duration = Duration::from_secs(1);
/// Time between two log lines about trouble.
const SAY: Duration = Duration::from_secs(60);
/// How long whoever waits for the thread waits at most.
const WAIT: Duration = Duration::from_secs(5);

/// The handle that everybody else holds.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Desk>>);

#[derive(Debug)]
struct Desk {
    queue: SyncSender<Told>,
    counts: Arc<Counts>,
    file: PathBuf,
    heads: Duration,
}

#[derive(Debug)]
enum Told {
    Record(u64, Box<Record>),
    Ask(Ask),
}

/// What is answered when everything that was told before is written.
#[derive(Debug)]
enum Ask {
    /// Is it?
    Flush(oneshot::Sender<()>),
    /// Where does the log end, on the disk? Asked at that time, Unix ms. Nothing if it cannot be written now.
    Head(u64, oneshot::Sender<Option<AuditHead>>),
    /// Is it on the disk? Then the thread ends.
    Stop(oneshot::Sender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    held: AtomicUsize,
    written: AtomicU64,
    lost: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Audit {
    /// No audit log: whatever is told is dropped.
    pub fn off() -> Audit {
        Audit(None)
    }

    /// Starts the thread that writes, unless the configuration turns it off. A file that cannot be written stops nobody: it is
    /// tried again and again.
    pub fn start(config: &AuditConfig, broker: &str) -> std::io::Result<Audit> {
        if !config.enabled {
            return Ok(Audit::off());
        }
        let (queue, told) = sync_channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let trail = Trail::new(config.clone(), broker);
        let writer = Writer {
            trail,
            counts: counts.clone(),
            said_lost: 0,
            dirty: None,
            retry: None,
            complained: None,
            told_lost: 0,
        };
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&told))?;
        Ok(Audit(Some(Arc::new(Desk { queue, counts, file: config.file.clone(), heads: config.heads }))))
    }

    /// Whether records are wanted.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Hands over a record, made only if it is wanted. Never waits.
    pub fn tell(&self, make: impl FnOnce() -> Record) {
        let Some(desk) = &self.0 else { return };
        let (mut record, counts) = (make(), &desk.counts);
        let waiting = counts.waiting.load(Ordering::Relaxed);
        if record.is_cheap() && waiting >= QUEUE - RESERVE {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if counts.held.load(Ordering::Relaxed) + record.held() > HELD {
            record.forget_body();
        }
        let held = record.held();
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        counts.held.fetch_add(held, Ordering::Relaxed);
        let sent = desk.queue.try_send(Told::Record(unix_ms(), Box::new(record)));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sent {
            counts.waiting.fetch_sub(1, Ordering::Relaxed);
            counts.held.fetch_sub(held, Ordering::Relaxed);
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How it stands, for `musterd ctl status`: since the start, records written and lost, and what is wrong now.
    pub fn status(&self) -> Value {
        let Some(desk) = &self.0 else { return json!({ "enabled": false }) };
        let counts = &desk.counts;
        json!({
            "enabled": true,
            "file": desk.file,
            "written": counts.written.load(Ordering::Relaxed),
            "lost": counts.lost.load(Ordering::Relaxed),
            "waiting": counts.waiting.load(Ordering::Relaxed),
            "error": *lock(&counts.error),
        })
    }

    /// Waits until what was told before is written, for a bounded time; whether it is. What cannot be written counts as lost.
    pub async fn flush(&self) -> bool {
        self.ask(Ask::Flush).await.is_some()
    }

    /// Where the log ends, with everything that was told before, once that is on the disk; nothing if it cannot be.
    pub async fn head(&self) -> Option<AuditHead> {
        self.ask(|answer| Ask::Head(unix_ms(), answer)).await.flatten()
    }

    /// Where it stands, if there is one.
    fn file(&self) -> Option<&Path> {
        self.0.as_ref().map(|desk| desk.file.as_path())
    }

    /// How often the other brokers are told where it ends; nothing: never.
    fn heads(&self) -> Option<Duration> {
        self.0.as_ref().map(|desk| desk.heads).filter(|every| !every.is_zero())
    }

    /// The same for metrics; `None` if there is no audit log.
    pub fn written(&self) -> Option<Written> {
        let counts = &self.0.as_ref()?.counts;
        Some(Written {
            written: counts.written.load(Ordering::Relaxed),
            lost: counts.lost.load(Ordering::Relaxed),
            waiting: counts.waiting.load(Ordering::Relaxed),
            failing: lock(&counts.error).is_some(),
        })
    }

    /// Writes what was told before, brings it to the disk, and ends; within a bounded time.
    pub async fn stop(&self) {
        if self.is_on() && self.ask(Ask::Stop).await.is_none() {
            tracing::error!("the audit log was not written to its end");
        }
    }

    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let desk = self.0.as_ref()?;
        let (answer, answered) = oneshot::channel();
        let (queue, ask) = (desk.queue.clone(), Told::Ask(ask(answer)));
        let asked = async {
            // It may have to wait for a place in the queue.
            let sent = tokio::task::spawn_blocking(move || queue.send(ask).is_ok());
            if sent.await.unwrap_or(false) { answered.await.ok() } else { None }
        };
        tokio::time::timeout(WAIT, asked).await.ok().flatten()
    }
}

/// Has the other brokers told where the log ends: now, and as often as is configured until the broker stops.
pub async fn tell_heads(hub: Hub, mut stopped: watch::Receiver<bool>) {
    let Some(every) = hub.audit().heads() else { return };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_over = tokio::select! {
            _ = ticks.tick() => false,
            _ = stopped.wait_for(|stopped| *stopped) => true,
        };
        if is_over {
            return;
        }
        tell_head(&hub).await;
    }
}

/// Has the other brokers told where the log ends now, if they are told at all.
pub async fn tell_head(hub: &Hub) {
    if hub.audit().heads().is_some()
        && let Some(head) = hub.audit().head().await
    {
        hub.tell(Event::AuditHead(head)).await;
    }
}

/// The thread's own.
struct Writer {
    trail: Trail,
    counts: Arc<Counts>,
    /// How many lost ones are on record.
    said_lost: u64,
    /// When what was written must be on the disk.
    dirty: Option<Instant>,
    /// When to try again after an error.
    retry: Option<Instant>,
    complained: Option<Instant>,
    /// How many lost ones the log told of.
    told_lost: u64,
}

impl Writer {
    fn run(mut self, told: &Receiver<Told>) {
        loop {
            let first = match self.wakes_in() {
                None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => told.recv_timeout(wait),
            };
            let (mut batch, mut asked) = (Vec::new(), None);
            let mut is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
            for told in first.into_iter().chain(told.try_iter().take(BATCH)) {
                match told {
                    Told::Record(at, record) => {
                        self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                        batch.push((at, record));
                    }
                    Told::Ask(ask) => {
                        is_over |= matches!(ask, Ask::Stop(_));
                        asked = Some(ask);
                        break;
                    }
                }
            }
            self.write(&batch, is_over);
            let held = batch.iter().map(|(_, record)| record.held()).sum();
            self.counts.held.fetch_sub(held, Ordering::Relaxed);
            self.sync_if_due(is_over);
            self.answer(asked);
            self.complain();
            if is_over {
                return;
            }
        }
    }

    /// Whoever asked may have given up.
    fn answer(&mut self, asked: Option<Ask>) {
        match asked {
            Some(Ask::Flush(done) | Ask::Stop(done)) => drop(done.send(())),
            Some(Ask::Head(at, answer)) => drop(answer.send(self.head(at))),
            None => {}
        }
    }

    /// Only what is on the disk: what others have on record of this log must be in it after any crash.
    fn head(&mut self, at: u64) -> Option<AuditHead> {
        match self.trail.head() {
            Ok(tail) => tail.map(|chain::Tail { n, hash }| AuditHead { n, hash, at }),
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// When there is something to do without being told.
    fn wakes_in(&self) -> Option<Duration> {
        let gap = self.counts.lost.load(Ordering::Relaxed) > self.said_lost;
        let retry = self.retry.or_else(|| gap.then(Instant::now));
        let at = [self.dirty, retry].into_iter().flatten().min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    fn write(&mut self, batch: &[(u64, Box<Record>)], is_last: bool) {
        let lost = self.counts.lost.load(Ordering::Relaxed);
        if batch.is_empty() && lost == self.said_lost {
            return;
        }
        let failing = self.retry.is_some_and(|at| Instant::now() < at) && !is_last;
        let written = if failing { None } else { Some(self.trail.append(batch, lost - self.said_lost, unix_ms())) };
        match written {
            Some(Ok(())) => {
                self.counts.written.fetch_add(batch.len() as u64, Ordering::Relaxed);
                self.said_lost = lost;
                self.retry = None;
                self.dirty.get_or_insert_with(|| Instant::now() + SYNC);
                if lock(&self.counts.error).take().is_some() {
                    tracing::info!("the audit log is written again");
                    self.complained = None;
                }
            }
            Some(Err(error)) => {
                self.counts.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
                self.fail(&error);
            }
            None => {
                self.counts.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
        }
    }

    fn sync_if_due(&mut self, is_last: bool) {
        if self.dirty.is_some_and(|at| is_last || Instant::now() >= at) {
            self.dirty = None;
            if let Err(error) = self.trail.sync() {
                self.fail(&error);
            }
        }
    }

    fn fail(&mut self, error: &std::io::Error) {
        self.retry = Some(Instant::now() + SYNC);
        *lock(&self.counts.error) = Some(error.to_string());
    }

    /// Says what is wrong, once a minute.
    fn complain(&mut self) {
        let lost = self.counts.lost.load(Ordering::Relaxed);
        let error = lock(&self.counts.error).clone();
        let is_due = self.complained.is_none_or(|at| at.elapsed() >= SAY);
        if (error.is_some() || lost > self.told_lost) && is_due {
            (self.complained, self.told_lost) = (Some(Instant::now()), lost);
            let error = error.unwrap_or_else(|| "records come faster than they can be written".into());
            tracing::error!(lost, error, "records are missing in the audit log; give it room on its disk");
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

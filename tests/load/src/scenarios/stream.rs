//! How many messages a second? One client sends 128 bytes again and again, to one other and to a hundred.

use crate::bare::Bare;
use crate::dialect::Dialect;
use crate::options::Scenario;
use crate::report::Row;
use crate::requester;
use crate::run::Run;
use crate::times::{median, ms, now};
use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// By this name the rounds stand among what else is to be known.
pub(crate) const RATES: &str = "rounds, deliveries a second";

const BODY: usize = 128;
/// The last byte of each body, and nowhere else in what a broker sends.
const MARK: u8 = 1;
/// Bytes of one write, about.
const BATCH: usize = 32 * 1024;
/// Messages that the slowest subscriber may be behind; fewer than an outbox of a broker holds.
const WINDOW: u64 = 10_000;
/// How long one round may take.
const ROUND: Duration = Duration::from_secs(120);

pub(super) async fn run(run: &mut Run) -> Result<()> {
    streams(run, 1, run.options.messages).await?;
    if run.bare.is_none() {
        streams(run, 100, run.options.messages / 10).await?;
    }
    Ok(())
}

async fn streams(run: &mut Run, subscribers: usize, messages: u64) -> Result<()> {
    let dialect = run.bare.unwrap_or(Dialect::Stomp);
    let mut publisher = requester::connect(&run.cluster, dialect).await?;
    let counts = Arc::new(Counts::new(subscribers));
    let mut readers = JoinSet::new();
    for place in 0..subscribers {
        let mut subscriber = requester::connect(&run.cluster, dialect).await?;
        subscriber.subscribe(dialect.stream()).await?;
        readers.spawn(count(subscriber, dialect, counts.clone(), place));
    }
    let batch = Batch::new(dialect);
    let rounds = run.options.rounds as usize;
    let (mut rates, mut meter, mut missing) = (Vec::new(), None, None);
    for round in 0..=rounds {
        if round == 1 {
            meter = Some(run.meter().await?);
        }
        let start = now();
        let sent = run.ending.unless(timeout(ROUND, batch.send(&mut publisher, &counts, messages))).await;
        match sent {
            Err(_) => break,
            Ok(Err(_)) => {
                let seen = counts.slowest();
                missing =
                    Some(format!("not all were there within {} s; the slowest subscriber has {seen}", ROUND.as_secs()));
                break;
            }
            Ok(Ok(sent)) => sent?,
        }
        if round > 0 {
            rates.push(messages as f64 * subscribers as f64 * 1e3 / ms(start, now()));
        }
    }
    let mut row = Row::new(Scenario::Stream, format!("deliveries of {BODY} bytes, 1:{subscribers}"), rounds);
    row.seen = rates.len();
    if let Some(meter) = meter {
        row.costs = Some(run.costs(&meter).await?);
    }
    row.more.insert("messages of a round", messages.into());
    row.more.insert(RATES, rates.iter().map(|rate| rate.round()).collect());
    row.per_second = median(rates);
    row.missing = missing.or_else(|| (row.seen != rounds).then(|| format!("{} of {rounds} rounds", row.seen)));
    run.rows.push(row);
    if let Some(ended) = readers.try_join_next() {
        // A reader ends only when something is wrong.
        ended?.context("a subscriber of the stream")?;
    }
    Ok(run.ending.check()?)
}

/// How many messages each subscriber has had.
struct Counts {
    each: Vec<AtomicU64>,
    grown: Notify,
}

impl Counts {
    fn new(subscribers: usize) -> Counts {
        Counts { each: (0..subscribers).map(|_| AtomicU64::new(0)).collect(), grown: Notify::new() }
    }

    fn slowest(&self) -> u64 {
        self.each.iter().map(|count| count.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    async fn until(&self, least: u64) {
        while self.slowest() < least {
            self.grown.notified().await;
        }
    }
}

/// Counts messages by their marks until the connection ends. Nothing is decoded: what a client does with its messages is not what is
/// measured.
async fn count(mut subscriber: Bare, dialect: Dialect, counts: Arc<Counts>, place: usize) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = subscriber.bytes(&mut buffer).await?;
        let bytes = &buffer[..read];
        // Nothing else is subscribed to, so another frame is the broker's last word.
        if let Some(at) = memchr::memmem::find(bytes, dialect.last_word()) {
            bail!("{}", String::from_utf8_lossy(&bytes[at..]));
        }
        counts.each[place].fetch_add(memchr::memchr_iter(MARK, bytes).count() as u64, Ordering::AcqRel);
        counts.grown.notify_one();
        // One that lies across two reads is missed; brokers ask again before they give up.
        if dialect.ping().is_some_and(|ping| memchr::memmem::find(bytes, ping).is_some()) {
            subscriber.send(Dialect::PONG).await?;
        }
    }
}

/// Frames that are encoded once.
struct Batch {
    bytes: BytesMut,
    frame: usize,
}

impl Batch {
    fn new(dialect: Dialect) -> Batch {
        let mut body = [b'a'; BODY];
        body[BODY - 1] = MARK;
        let mut bytes = BytesMut::new();
        dialect.publish(dialect.stream(), None, &body, &mut bytes);
        let frame = bytes.len();
        let one = bytes.clone();
        while bytes.len() + frame <= BATCH {
            bytes.extend_from_slice(&one);
        }
        Batch { bytes, frame }
    }

    /// Sends so many messages, and waits until every subscriber has them.
    async fn send(&self, publisher: &mut Bare, counts: &Counts, messages: u64) -> Result<()> {
        let before = counts.slowest();
        let most = (self.bytes.len() / self.frame) as u64;
        let mut sent = 0;
        while sent < messages {
            let next = most.min(messages - sent);
            counts.until((before + sent + next).saturating_sub(WINDOW)).await;
            publisher.send(&self.bytes[..next as usize * self.frame]).await?;
            sent += next;
        }
        counts.until(before + messages).await;
        Ok(())
    }
}

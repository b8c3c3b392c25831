//! How many messages a second? One client sends 128 bytes again and again, to one other and to a hundred.

use crate::cluster::OPERATOR;
use crate::operator::password;
use crate::options::Scenario;
use crate::report::Row;
use crate::run::Run;
use crate::times::{ms, now};
use crate::wire::{self, Stream};
use anyhow::{Context, Result, anyhow, bail};
use bytes::BytesMut;
use muster_protocol::frame::{Command, Decoded, Decoder, Frame, Limits, Version, encode};
use muster_protocol::message::header;
use secrecy::ExposeSecret;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

const BODY: usize = 128;
const TOPIC: &str = "/topic/stream.load";
/// Bytes of one write, about.
const BATCH: usize = 32 * 1024;
/// Messages that the slowest subscriber may be behind; fewer than an outbox of a broker holds.
const WINDOW: u64 = 10_000;
const WITHIN: Duration = Duration::from_secs(10);
/// How long one round may take.
const ROUND: Duration = Duration::from_secs(120);

pub(super) async fn run(run: &mut Run) -> Result<()> {
    for (subscribers, messages) in [(1, run.options.messages), (100, run.options.messages / 10)] {
        streams(run, subscribers, messages).await?;
    }
    Ok(())
}

async fn streams(run: &mut Run, subscribers: usize, messages: u64) -> Result<()> {
    let mut publisher = Raw::connect(run).await?;
    let counts = Arc::new(Counts::new(subscribers));
    let mut readers = JoinSet::new();
    for place in 0..subscribers {
        let mut subscriber = Raw::connect(run).await?;
        subscriber.subscribe().await?;
        readers.spawn(count(subscriber, counts.clone(), place));
    }
    let batch = Batch::new();
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
    row.more.insert("rounds, deliveries a second", rates.iter().map(|rate| rate.round()).collect());
    rates.sort_by(f64::total_cmp);
    row.per_second = rates.get(rates.len() / 2).copied();
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

/// Counts messages until the connection ends. Bodies have no NUL in them, so each NUL ends a frame, and nothing is decoded:
/// what a client does with its messages is not what is measured.
async fn count(mut subscriber: Raw, counts: Arc<Counts>, place: usize) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = subscriber.stream.read(&mut buffer).await?;
        if read == 0 {
            bail!("the broker has closed the connection");
        }
        let bytes = &buffer[..read];
        // Nothing else is subscribed to, so another frame is the broker's last word.
        if let Some(at) = memchr::memmem::find(bytes, b"ERROR\n") {
            bail!("{}", String::from_utf8_lossy(&bytes[at..]));
        }
        counts.each[place].fetch_add(memchr::memchr_iter(0, bytes).count() as u64, Ordering::AcqRel);
        counts.grown.notify_one();
    }
}

/// Frames that are encoded once.
struct Batch {
    bytes: BytesMut,
    frame: usize,
}

impl Batch {
    fn new() -> Batch {
        let frame = Frame::new(Command::Send).header("destination", TOPIC).with_body(vec![b'a'; BODY]);
        let mut bytes = BytesMut::new();
        encode(&frame, Version::V1_2, &mut bytes);
        let frame = bytes.len();
        let one = bytes.clone();
        while bytes.len() + frame <= BATCH {
            bytes.extend_from_slice(&one);
        }
        Batch { bytes, frame }
    }

    /// Sends so many messages, and waits until every subscriber has them.
    async fn send(&self, publisher: &mut Raw, counts: &Counts, messages: u64) -> Result<()> {
        let before = counts.slowest();
        let most = (self.bytes.len() / self.frame) as u64;
        let mut sent = 0;
        while sent < messages {
            let next = most.min(messages - sent);
            counts.until((before + sent + next).saturating_sub(WINDOW)).await;
            publisher.stream.write_all(&self.bytes[..next as usize * self.frame]).await?;
            publisher.stream.flush().await?;
            sent += next;
        }
        counts.until(before + messages).await;
        Ok(())
    }
}

/// A client that has logged in and whose bytes go as they are: the session of the protocol would make a frame of each message.
struct Raw {
    stream: Stream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Raw {
    async fn connect(run: &Run) -> Result<Raw> {
        let cluster = &run.cluster;
        let tls = wire::client_config(&cluster.ca())?;
        let stream = wire::connect(Ipv4Addr::LOCALHOST, cluster.addresses()[0], &tls, WITHIN).await;
        let stream = stream.map_err(|(what, error)| anyhow!("stream: {what}: {error}"))?;
        let mut raw = Raw { stream, decoder: Decoder::new(Limits::default()), buffer: BytesMut::new() };
        let password = password(cluster)?;
        let connect = Frame::new(Command::Connect)
            .header("accept-version", "1.2")
            .header("host", "muster")
            .header("heart-beat", "0,0")
            .header("login", OPERATOR)
            .header("passcode", password.expose_secret());
        raw.exchange(&connect, Command::Connected).await?;
        raw.decoder.set_version(Version::V1_2);
        Ok(raw)
    }

    /// In place when this is over.
    async fn subscribe(&mut self) -> Result<()> {
        let subscribe =
            Frame::new(Command::Subscribe).header("destination", TOPIC).header("id", "1").header("receipt", "1");
        self.exchange(&subscribe, Command::Receipt).await
    }

    async fn exchange(&mut self, frame: &Frame, expected: Command) -> Result<()> {
        let mut bytes = BytesMut::new();
        encode(frame, Version::V1_2, &mut bytes);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        let answer = timeout(WITHIN, self.next()).await.context("stream: no answer")??;
        if answer.command != expected {
            bail!("stream: {}", answer.headers.get(header::MESSAGE).unwrap_or("an answer that was not expected"));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some(Decoded::Frame(frame)) = self.decoder.decode(&mut self.buffer)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("stream: the broker has closed the connection");
            }
        }
    }
}

//! What happens on a link that is up? Two futures: one reads frames, one writes the outbox. The reader never waits for the writer.
//!
//! Whatever ends a link, the broker is told. Whether the other side is dead is for the broker to say: here every byte counts as life.

use super::Shared;
use super::counters::{LinkCounters, is_data};
use super::intake::receive;
use super::roster::Trouble;
use super::wire::{Broken, LINGER, Reader, Writer, cause_of, refusal_of, refused, said};
use crate::broker::event::{Event, LinkId, LinkOpened, Received, Ticket};
use crate::broker::mesh::lanes::{Freight, Item, LinkOutbox, LinkReader, lanes};
use crate::hub::{Clock, Hub};
use bytes::Buf;
use futures_util::FutureExt;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::codec::{Limits, Sending};
use muster_protocol::link::{Head, Hello, PIECE};
use muster_protocol::message::BrokerName;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{self, AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Bytes of frames that the broker has not dealt with before the reader waits.
const OUTSTANDING: usize = 4 * 1024 * 1024;
/// Of these, what a batch costs beside its own bytes: a bound for their number.
const BATCH: usize = OUTSTANDING / 8;
/// Frames of a batch.
const FRAMES: usize = 256;
/// Bytes that come without making a frame are told as a sign of life so often.
const ALIVE: Duration = Duration::from_secs(1);

/// Bytes of the two numbers before each unit of a frame.
const PREFIX: usize = 8;

/// What both sides agreed on.
pub(super) struct Met {
    pub(super) hello: Hello,
    /// The sum of both nonces.
    pub(super) nonce: u64,
    pub(super) address: SocketAddr,
}

/// A link of this broker's life.
struct Link<'a> {
    shared: &'a Shared,
    id: LinkId,
    name: BrokerName,
    started: Instant,
}

/// How a link ended.
struct Over {
    /// For people, and for the broker.
    reason: String,
    /// What is wrong, if anything is.
    trouble: Option<Trouble>,
    /// What the other side is to hear of it.
    tell: Option<Refusal>,
}

/// Runs a link until it ends; how long it lived, and the connection, which may still have a last word to bring across.
pub(super) async fn run<S, P>(
    shared: &Arc<Shared>,
    mut reader: Reader<S>,
    mut writer: Writer<S>,
    met: Met,
    admitted: P,
) -> (Duration, Reader<S>, Writer<S>)
where
    S: AsyncRead + AsyncWrite + Send,
{
    let _present = shared.enter();
    let Met { hello, nonce, address } = met;
    let id = LinkId(shared.last_link.fetch_add(1, Ordering::Relaxed) + 1);
    let link = Link { shared, id, name: hello.name.clone(), started: Instant::now() };
    let (outbox, items) = lanes(shared.outbox);
    let now = shared.hub.clock().now();
    let skew = i64::try_from(hello.clock).unwrap_or(i64::MAX).saturating_sub(now.unix as i64);
    let entered = match shared.roster.open(&link.name, id, outbox.clone(), address, skew, now.unix) {
        Ok(entered) => entered,
        Err(refusal) => {
            writer.last_word(&refusal).await;
            return (Duration::ZERO, reader, writer);
        }
    };
    // Whoever is turned away keeps its place among the pending until it is gone: lingering is not free.
    drop(admitted);
    reader.decoder.set_limits(Limits::after_hello(shared.max_body()));
    let largest = usize::try_from(hello.max_body).unwrap_or(usize::MAX);
    let opened = LinkOpened { link: id, hello, nonce, end: entered.end, peer: address, outbox: outbox.clone() };
    if !shared.hub.tell(Event::LinkOpened(Box::new(opened))).await {
        return (link.over(&stopped()).await, reader, writer);
    }
    let counters = &entered.counters;
    let pump = Pump { writer: &mut writer, items, sending: None, largest, counters, clock: shared.hub.clock() };
    let passing = AssertUnwindSafe(pass(&link, &mut reader, pump, outbox, entered.stopped)).catch_unwind();
    let lived = match passing.await {
        Ok(lived) => lived,
        Err(_) => {
            // A fault on one link ends that one; the broker hears of it as of any other end.
            tracing::error!(target: "muster::links", peer = %link.name, link = id.0, "a link ended in a panic");
            link.over(&Over::failed("internal error; the log says more".into())).await
        }
    };
    (lived, reader, writer)
}

/// Lets frames pass until something ends that; how long the link lived.
async fn pass<S: AsyncRead + AsyncWrite>(
    link: &Link<'_>,
    reader: &mut Reader<S>,
    mut pump: Pump<'_, S>,
    outbox: LinkOutbox,
    stop: oneshot::Receiver<Refusal>,
) -> Duration {
    let counters = pump.counters;
    let write = pump.run();
    tokio::pin!(write);
    let (mut over, is_writing) = tokio::select! {
        over = read_frames(reader, link.id, link.shared, counters) => (over, true),
        end = &mut write => (written(end), false),
        () = closed_for_long(&outbox) => {
            (Over::failed("closed by the broker; the other side did not read its last word".into()), false)
        }
        refusal = stop => match refusal {
            Ok(refusal) => (Over { reason: refusal.to_string(), trouble: None, tell: Some(refusal) }, true),
            Err(_) => (stopped(), true),
        }
    };
    outbox.close(over.tell.take());
    let lived = link.over(&over).await;
    if is_writing {
        // The writer comes to its end by itself, so that the last word is whole.
        let _ = timeout(LINGER, &mut write).await;
    }
    lived
}

impl Link<'_> {
    /// Tells everybody at once, whatever is still to be written; how long it lived.
    async fn over(&self, over: &Over) -> Duration {
        let (lived, hub) = (self.started.elapsed(), &self.shared.hub);
        hub.tell(Event::LinkClosed { link: self.id, reason: over.reason.clone() }).await;
        let unix = hub.clock().now().unix;
        self.shared.roster.closed(&self.name, self.id, lived, &over.reason, over.trouble.clone(), unix);
        lived
    }
}

impl Over {
    fn failed(reason: String) -> Over {
        Over { trouble: Some(Trouble::failure(reason.clone())), reason, tell: None }
    }

    fn refused(reason: String, tell: Option<Refusal>) -> Over {
        Over { trouble: Some(Trouble::refusal(reason.clone())), reason, tell }
    }
}

fn stopped() -> Over {
    Over { reason: "the broker stopped".into(), trouble: None, tell: None }
}

/// How a link ended whose writer did.
fn written(end: io::Result<Option<Refusal>>) -> Over {
    match end {
        Ok(None) => Over { reason: "closed by the broker".into(), trouble: None, tell: None },
        // Of two connections the newer is used: that is no trouble, and neither is stopping.
        Ok(Some(refusal)) if matches!(refusal.code, Code::Superseded | Code::Draining) => {
            Over { reason: refusal.to_string(), trouble: None, tell: None }
        }
        Ok(Some(refusal)) => Over::refused(refusal.to_string(), None),
        Err(error) => Over::failed(cause_of(&error)),
    }
}

/// Resolves when the broker has closed the outbox and the writer had its time to come to the end: a dead link that it is stuck
/// in must not keep the next one from being dialled.
async fn closed_for_long(outbox: &LinkOutbox) {
    while !outbox.is_closed() {
        sleep(LINGER / 8).await;
    }
    sleep(LINGER).await;
}

/// Reads until the connection or the other side's manners end.
async fn read_frames<S: AsyncRead>(
    reader: &mut Reader<S>,
    link: LinkId,
    shared: &Shared,
    counters: &LinkCounters,
) -> Over {
    let room = Arc::new(Semaphore::new(OUTSTANDING));
    let (mut told, mut has_come) = (Instant::now(), false);
    loop {
        let batch = take(reader, shared, counters);
        if !batch.frames.is_empty() {
            let cost = u32::try_from((batch.bytes + BATCH).min(OUTSTANDING)).unwrap_or(u32::MAX);
            let Some(permit) = permit(&room, cost, link, &shared.hub).await else { return stopped() };
            let event = Event::LinkFrames { link, frames: batch.frames, ticket: Ticket(Some(Box::new(permit))) };
            if !shared.hub.tell(event).await {
                return stopped();
            }
            told = Instant::now();
        } else if has_come && told.elapsed() >= ALIVE {
            shared.hub.tell(Event::LinkAlive(link)).await;
            told = Instant::now();
        }
        let broken = match batch.end {
            Some(broken) => broken,
            None if !batch.is_dry => continue,
            None => match reader.more().await {
                Ok(()) => {
                    has_come = true;
                    continue;
                }
                Err(broken) => broken,
            },
        };
        return over(broken);
    }
}

fn over(broken: Broken) -> Over {
    match broken {
        Broken::Closed(reason) => Over::failed(reason),
        Broken::Frame(refusal) => Over::refused(refusal.to_string(), Some(refusal)),
        Broken::Refused(refused) => match Code::parse(&refused.code) {
            Some(Code::Superseded) => Over { reason: said(&refused), trouble: None, tell: None },
            Some(Code::Draining) => Over::failed(said(&refused)),
            _ => Over::refused(said(&refused), None),
        },
    }
}

/// Room for a batch. Frames that wait for the broker have come: while they wait, the link lives.
async fn permit(room: &Arc<Semaphore>, cost: u32, link: LinkId, hub: &Hub) -> Option<OwnedSemaphorePermit> {
    let acquire = room.clone().acquire_many_owned(cost);
    tokio::pin!(acquire);
    loop {
        match timeout(ALIVE, &mut acquire).await {
            Ok(permit) => return permit.ok(),
            Err(_) => {
                if !hub.tell(Event::LinkAlive(link)).await {
                    return None;
                }
            }
        }
    }
}

/// Frames that lie in the buffer.
struct Batch {
    frames: Vec<Received>,
    bytes: usize,
    end: Option<Broken>,
    /// The buffer holds no further frame.
    is_dry: bool,
}

fn take<S>(reader: &mut Reader<S>, shared: &Shared, counters: &LinkCounters) -> Batch {
    let mut batch = Batch { frames: Vec::new(), bytes: 0, end: None, is_dry: false };
    while batch.frames.len() < FRAMES && batch.bytes < BATCH {
        let before = reader.buffer.len();
        let bare = first_bare_frame(&reader.buffer);
        let decoded = reader.decoder.decode(&mut reader.buffer);
        let bytes = before - reader.buffer.len();
        match decoded {
            Ok(Some((head, body))) => {
                // A frame without a body may have come between the pieces of another.
                let own = if body.is_empty() { bare.unwrap_or(bytes).min(bytes) } else { bytes };
                counters.came(is_data(&head), 1, own);
                counters.came(true, 0, bytes - own);
                batch.bytes += bytes.max(body.len());
                match head {
                    Head::Refused(refused) => batch.end = Some(Broken::Refused(refused)),
                    Head::Hello(_) => {
                        let refusal = Refusal::new(Code::BadFrame, "a second HELLO on one connection");
                        batch.end = Some(Broken::Frame(refusal));
                    }
                    Head::Unknown => counters.unknown(),
                    head => batch.frames.push(receive(&shared.me.name, head, body)),
                }
            }
            Ok(None) => {
                // Pieces of a body: only data has one.
                counters.came(true, 0, bytes);
                batch.is_dry = true;
            }
            Err(error) => batch.end = Some(Broken::Frame(refusal_of(&error))),
        }
        if batch.is_dry || batch.end.is_some() {
            break;
        }
    }
    batch
}

/// Bytes of the first frame without a body in the buffer.
fn first_bare_frame(mut bytes: &[u8]) -> Option<usize> {
    while bytes.len() >= PREFIX {
        let (head, body) = (bytes.get_u32() as usize, bytes.get_u32() as usize);
        if head > 0 && body == 0 {
            return Some(PREFIX + head);
        }
        bytes = bytes.get(head + body.min(PIECE)..)?;
    }
    None
}

/// Takes items from the lanes and writes them: control before data, and between the pieces of a body.
struct Pump<'a, S> {
    writer: &'a mut Writer<S>,
    items: LinkReader,
    sending: Option<Sending>,
    /// Longest body that the other side takes.
    largest: usize,
    counters: &'a LinkCounters,
    clock: Clock,
}

impl<S: AsyncWrite> Pump<'_, S> {
    /// Writes until the broker's last word is out (with its refusal) or the connection breaks.
    async fn run(&mut self) -> io::Result<Option<Refusal>> {
        loop {
            if self.sending.is_none() && self.writer.out.is_empty() {
                let items = &mut self.items;
                let item = poll_fn(|context| items.poll_next(context)).await;
                if let Some(end) = self.add(item) {
                    self.writer.flush().await?;
                    return Ok(end);
                }
            }
            if let Some(end) = self.fill() {
                self.writer.flush().await?;
                return Ok(end);
            }
            self.writer.flush().await?;
        }
    }

    /// Adds what there is, up to about a piece. `Some`: nothing follows.
    fn fill(&mut self) -> Option<Option<Refusal>> {
        loop {
            while self.writer.out.len() < 2 * PIECE
                && let Some(item) = self.items.try_control()
            {
                if let Some(end) = self.add(item) {
                    return Some(end);
                }
            }
            if self.writer.out.len() >= PIECE {
                return None;
            }
            if let Some(sending) = &mut self.sending {
                let before = self.writer.out.len();
                sending.next_unit(&mut self.writer.out);
                let is_done = sending.is_done();
                self.counters.went(true, u64::from(is_done), self.writer.out.len() - before);
                if is_done {
                    self.sending = None;
                }
                continue;
            }
            match self.items.try_next() {
                Some(item) => {
                    if let Some(end) = self.add(item) {
                        return Some(end);
                    }
                }
                None => return None,
            }
        }
    }

    /// Adds one item; data is only begun. `Some`: nothing follows.
    fn add(&mut self, item: Item) -> Option<Option<Refusal>> {
        match item {
            Item::Control(head) => self.writer.control(&head, Some(self.counters)),
            Item::Data(freight) => self.begin(freight),
            Item::Close(refusal) => {
                if let Some(refusal) = &refusal {
                    self.writer.control(&refused(refusal), Some(self.counters));
                }
                return Some(refusal);
            }
        }
        None
    }

    fn begin(&mut self, freight: Freight) {
        let now = self.clock.tick();
        let Freight { head, body, expires, since, .. } = freight;
        if expires.is_some_and(|at| at <= now) {
            return self.counters.expired();
        }
        // The other side would end the link over it.
        if body.len() > self.largest {
            return self.too_large(&format!("its body has {} bytes, the limit there is {}", body.len(), self.largest));
        }
        match Sending::new(&head.aged(now.saturating_sub(since)), body) {
            Ok(sending) => self.sending = Some(sending),
            Err(error) => self.too_large(&error.to_string()),
        }
    }

    fn too_large(&self, reason: &str) {
        if self.counters.too_large() == 0 {
            tracing::warn!(
                target: "muster::links", reason,
                "a message that a neighbour does not take was dropped, and so are others; give all brokers the same limits.max-frame"
            );
        }
    }
}

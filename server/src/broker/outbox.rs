//! How does anything leave the broker? Through an outbox: a ring bounded in bytes whose push never waits.
//!
//! The broker holds [`Outbox`], the session that writes to the socket holds [`OutboxReader`]. A full outbox first drops what has
//! expired; if that does not help, the push fails and the broker closes the session as a slow consumer.

use bytes::{Bytes, BytesMut};
use muster_protocol::destination::Destination;
use muster_protocol::error::Refusal;
use muster_protocol::frame::{Command, Encoder, Headers, Version};
use muster_protocol::message::header;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// A message as it goes to any number of sessions: never copied, only counted.
#[derive(Debug, Default)]
pub struct Message {
    /// The `destination` header.
    pub destination: Arc<str>,
    /// Every other header but `subscription` and `message-id`.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
    /// Monotonic ms after which it need not be sent any more.
    pub expires: Option<u64>,
    /// The reply queue that whoever gets it may write to; none for a request, where only a node that was asked may.
    pub answer_on: Option<Arc<Destination>>,
    /// What all who get it in one version of STOMP are written, made by the first of them: see [`Message::head`].
    pub heads: Heads,
}

/// The beginning of a MESSAGE frame, by version.
#[derive(Debug, Default)]
pub struct Heads([OnceLock<BytesMut>; 3]);

impl Message {
    /// The frame's beginning without what differs between receivers: subscription, number, the time that is left to start in.
    pub fn head(&self, version: Version) -> &[u8] {
        self.heads.0[version as usize].get_or_init(|| {
            let mut out = BytesMut::with_capacity(64 + self.destination.len() + self.headers.wire_len());
            let encoder = Encoder::start(Command::Message, version, &mut out).header("destination", &self.destination);
            let apart = if self.expires.is_some() { header::START_WITHIN } else { "" };
            drop(encoder.headers_but(&self.headers, apart));
            out
        })
    }
}

/// What a session is to write.
#[derive(Debug)]
pub enum Item {
    /// The login was accepted.
    Connected {
        /// Goes into `user-name`.
        user: String,
        /// Goes into `muster-collective`.
        collective: Option<String>,
    },
    /// One MESSAGE.
    Message {
        /// What.
        message: Arc<Message>,
        /// The id of the subscription that it answers.
        subscription: Arc<str>,
        /// Unique in the session; makes `message-id`.
        number: u64,
    },
    /// One RECEIPT.
    Receipt(String),
    /// Nothing follows: an ERROR frame if there is a refusal, then the end of the stream.
    Close(Option<Refusal>),
}

/// Fixed cost of an item in the ring beside its bytes.
const ITEM_BYTES: usize = 96;

impl Item {
    fn weight(&self) -> usize {
        ITEM_BYTES
            + match self {
                Item::Message { message, .. } => {
                    message.body.len() + message.destination.len() + message.headers.wire_len()
                }
                Item::Receipt(id) => id.len(),
                Item::Connected { .. } | Item::Close(_) => 0,
            }
    }

    fn is_expired(&self, now: u64) -> bool {
        matches!(self, Item::Message { message, .. } if message.expires.is_some_and(|at| at <= now))
    }
}

/// The ring is full of what may not be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// How many messages outboxes have dropped because they had expired: all those that were made with it.
#[derive(Debug, Clone, Default)]
pub struct Expired(Arc<AtomicU64>);

impl Expired {
    /// So many.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// The broker's end.
#[derive(Debug)]
pub struct Outbox(Arc<Mutex<Ring>>);

/// The session's end.
#[derive(Debug)]
pub struct OutboxReader(Arc<Mutex<Ring>>);

#[derive(Debug)]
struct Ring {
    items: VecDeque<Item>,
    bytes: usize,
    limit: usize,
    closed: bool,
    dropped: u64,
    expired: Expired,
    waker: Option<Waker>,
}

/// An outbox of at most `limit` bytes.
pub fn outbox(limit: usize) -> (Outbox, OutboxReader) {
    counted(limit, &Expired::default())
}

/// The same; what expires in it is counted with that of others.
pub fn counted(limit: usize, expired: &Expired) -> (Outbox, OutboxReader) {
    let expired = expired.clone();
    let ring = Ring { items: VecDeque::new(), bytes: 0, limit, closed: false, dropped: 0, expired, waker: None };
    let ring = Arc::new(Mutex::new(ring));
    (Outbox(ring.clone()), OutboxReader(ring))
}

impl Outbox {
    /// Adds an item; never waits. `now` is monotonic ms. Whoever is to be woken for it goes to `awake`: one wake-up, and one write
    /// to the socket, is enough for all that one event puts here.
    pub fn push(&self, item: Item, now: u64, awake: &mut Vec<Waker>) -> Result<(), Full> {
        let mut ring = lock(&self.0);
        if ring.closed {
            return Ok(());
        }
        let weight = item.weight();
        // The first item always fits, so that one large message cannot make a session unusable.
        if !ring.items.is_empty() && ring.bytes + weight > ring.limit {
            ring.drop_expired(now);
            if ring.bytes + weight > ring.limit {
                return Err(Full);
            }
        }
        ring.bytes += weight;
        ring.items.push_back(item);
        awake.extend(ring.waker.take());
        Ok(())
    }

    /// The last word: drops what waits if `at_once`, then ends the stream, with an ERROR frame if there is a refusal.
    pub fn close(&self, refusal: Option<Refusal>, at_once: bool) {
        let mut ring = lock(&self.0);
        if ring.closed {
            return;
        }
        if at_once {
            ring.items.clear();
            ring.bytes = 0;
        }
        ring.items.push_back(Item::Close(refusal));
        ring.closed = true;
        let waker = ring.waker.take();
        drop(ring);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Bytes that wait.
    pub fn backlog(&self) -> usize {
        lock(&self.0).bytes
    }

    /// Messages that were dropped because they had expired.
    pub fn dropped(&self) -> u64 {
        lock(&self.0).dropped
    }
}

impl OutboxReader {
    /// Moves items of some `most` bytes (at least one item) into `into`; pending while there are none.
    /// What has expired at `now` (monotonic ms) is dropped. Whether the last word is in the ring or taken: nothing more is put there.
    pub fn poll_take(&self, context: &mut Context<'_>, now: u64, most: usize, into: &mut Vec<Item>) -> Poll<bool> {
        let mut ring = lock(&self.0);
        let (mut taken, before) = (0, ring.dropped);
        while taken < most {
            let Some(item) = ring.items.pop_front() else { break };
            let weight = item.weight();
            ring.bytes = ring.bytes.saturating_sub(weight);
            if item.is_expired(now) {
                ring.dropped += 1;
                continue;
            }
            taken += weight;
            into.push(item);
        }
        ring.expired.add(ring.dropped - before);
        if taken > 0 {
            return Poll::Ready(ring.closed);
        }
        // What is busy keeps its room, what is idle has none.
        ring.items = VecDeque::new();
        ring.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Ring {
    fn drop_expired(&mut self, now: u64) {
        let before = self.items.len();
        let mut freed = 0;
        self.items.retain(|item| {
            let keep = !item.is_expired(now);
            if !keep {
                freed += item.weight();
            }
            keep
        });
        self.bytes = self.bytes.saturating_sub(freed);
        let dropped = (before - self.items.len()) as u64;
        self.dropped += dropped;
        self.expired.add(dropped);
    }
}

/// A panic while the lock was held leaves a ring that is still a ring.
fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use muster_protocol::error::Code;

    /// Everything that waits, as a session would take it.
    pub(in crate::broker) fn drain(reader: &OutboxReader, now: u64) -> Vec<Item> {
        let mut items = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while reader.poll_take(&mut context, now, usize::MAX, &mut items).is_ready() {}
        items
    }

    fn message(bytes: usize, expires: Option<u64>) -> Item {
        let body = Bytes::from(vec![b'x'; bytes]);
        let message = Message { destination: "/topic/a".into(), body, expires, ..Message::default() };
        Item::Message { message: Arc::new(message), subscription: "1".into(), number: 1 }
    }

    #[test]
    fn a_full_outbox_drops_the_expired_first_and_then_refuses() {
        let expired = Expired::default();
        let (outbox, reader) = counted(3000, &expired);
        assert_eq!(outbox.push(message(1000, Some(5)), 0, &mut Vec::new()), Ok(()));
        assert_eq!(outbox.push(message(1000, None), 0, &mut Vec::new()), Ok(()));
        assert_eq!(outbox.push(message(1000, None), 1, &mut Vec::new()), Err(Full));
        assert_eq!(outbox.push(message(1000, None), 6, &mut Vec::new()), Ok(()), "the first had expired");
        assert_eq!(outbox.push(message(1000, None), 6, &mut Vec::new()), Err(Full));
        assert_eq!(drain(&reader, 6).len(), 2);
        assert_eq!((outbox.backlog(), outbox.dropped()), (0, 1));
        assert_eq!(outbox.push(message(1000, Some(8)), 7, &mut Vec::new()), Ok(()));
        assert!(drain(&reader, 9).is_empty(), "it has expired while it waited");
        assert_eq!((outbox.dropped(), expired.count()), (2, 2));
    }

    #[test]
    fn one_message_larger_than_the_limit_still_passes() {
        let (outbox, reader) = outbox(10);
        assert_eq!(outbox.push(message(1000, None), 0, &mut Vec::new()), Ok(()));
        assert_eq!(outbox.push(message(1, None), 0, &mut Vec::new()), Err(Full));
        assert_eq!(drain(&reader, 0).len(), 1);
    }

    #[test]
    fn closing_is_the_last_word_and_said_once() {
        let (outbox, reader) = outbox(1000);
        outbox.push(Item::Receipt("r".into()), 0, &mut Vec::new()).expect("room");
        outbox.close(Some(Refusal::new(Code::Denied, "no")), false);
        outbox.close(None, true);
        outbox.push(Item::Receipt("late".into()), 0, &mut Vec::new()).expect("ignored");
        let items = drain(&reader, 0);
        assert!(matches!(&items[..], [Item::Receipt(_), Item::Close(Some(refusal))] if refusal.code == Code::Denied));
    }
}

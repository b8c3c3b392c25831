//! How does anything leave over a link? Two lanes that never make the broker wait: control, coalesced, before data, bounded.

mod weight;

use bytes::Bytes;
use muster_protocol::error::Refusal;
use muster_protocol::link::{Head, Record};
use muster_protocol::message::BrokerName;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use weight::weight;

/// Something for the data lane.
#[derive(Debug, Clone)]
pub struct Freight {
    /// `Forward` or `Direct`.
    pub head: Arc<Head>,
    /// Its body.
    pub body: Bytes,
    /// Monotonic ms after which it need not be sent any more.
    pub expires: Option<u64>,
    /// What may be dropped for others when the lane is full: plain messages, never requests and their accounts.
    pub droppable: bool,
    /// When it was pushed, monotonic ms: what it has waited is taken off its times when it is written.
    pub since: u64,
}

/// What the writer of a link takes.
#[derive(Debug)]
pub enum Item {
    /// A frame of the control lane; it has no body.
    Control(Arc<Head>),
    /// A frame of the data lane.
    Data(Freight),
    /// Nothing follows: a REFUSED frame if there is a refusal, then the end of the stream.
    Close(Option<Refusal>),
}

/// The data lane is full of what may not be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The broker's end.
#[derive(Debug, Clone)]
pub struct LinkOutbox(Arc<Mutex<Lanes>>);

/// The link's end.
#[derive(Debug)]
pub struct LinkReader(Arc<Mutex<Lanes>>);

/// The two lanes of a link; `limit` bounds the data lane, bytes.
pub fn lanes(limit: usize) -> (LinkOutbox, LinkReader) {
    let lanes = Arc::new(Mutex::new(Lanes {
        control: VecDeque::new(),
        firm: VecDeque::new(),
        loose: VecDeque::new(),
        pushed: 0,
        bytes: 0,
        loose_bytes: 0,
        limit,
        soonest: u64::MAX,
        dropped: 0,
        closed: false,
        last: None,
        waker: None,
    }));
    (LinkOutbox(lanes.clone()), LinkReader(lanes))
}

impl LinkOutbox {
    /// Adds a control frame. A state record of the same kind and origin that still waits is replaced (the receiver sees a
    /// gap and asks), as are a waiting ping, alive and digest; a want that waits already is not said twice.
    pub fn control(&self, head: Arc<Head>) {
        let mut lanes = lock(&self.0);
        if lanes.closed {
            return;
        }
        let subject = Subject::of(&head);
        let waiting = lanes.control.iter_mut().find(|waiting| subject.is_some() && Subject::of(waiting) == subject);
        match waiting {
            Some(waiting) => *waiting = head,
            None => lanes.control.push_back(head),
        }
        wake(lanes);
    }

    /// Adds to the data lane; when it is full, first what has expired goes, then what is droppable, oldest first.
    /// `now` is monotonic ms. The first frame always fits; after [`LinkOutbox::close`] frames are ignored.
    pub fn data(&self, freight: Freight, now: u64) -> Result<(), Full> {
        let mut lanes = lock(&self.0);
        if lanes.closed {
            return Ok(());
        }
        let weight = weight(&freight);
        if !lanes.make_room(weight, now) {
            lanes.dropped += u64::from(freight.droppable);
            return Err(Full);
        }
        lanes.push(freight, weight);
        wake(lanes);
        Ok(())
    }

    /// Whether another request may be sent: less than half of the data lane is taken.
    pub fn has_room(&self) -> bool {
        let lanes = lock(&self.0);
        lanes.bytes < lanes.limit.div_ceil(2)
    }

    /// The last word: data that waits is dropped, control goes out. Only the first refusal counts.
    pub fn close(&self, refusal: Option<Refusal>) {
        let mut lanes = lock(&self.0);
        if lanes.closed {
            return;
        }
        lanes.dropped += (lanes.firm.len() + lanes.loose.len()) as u64;
        lanes.firm.clear();
        lanes.loose.clear();
        (lanes.bytes, lanes.loose_bytes) = (0, 0);
        lanes.closed = true;
        lanes.last = Some(refusal);
        wake(lanes);
    }

    /// Whether [`LinkOutbox::close`] has been called: a writer that is stuck in a body must come to its end too.
    pub fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }

    /// Bytes that wait in the data lane.
    pub fn backlog(&self) -> usize {
        lock(&self.0).bytes
    }

    /// Frames that the data lane dropped so far, those included that did not get in.
    pub fn dropped(&self) -> u64 {
        lock(&self.0).dropped
    }
}

impl LinkReader {
    /// The next item, if there is one: control first, data in order.
    pub fn try_next(&mut self) -> Option<Item> {
        lock(&self.0).next()
    }

    /// The next item of the control lane only: what goes between the pieces of a body. `Close` is not among them: it comes when
    /// the body is out.
    pub fn try_control(&mut self) -> Option<Item> {
        lock(&self.0).control.pop_front().map(Item::Control)
    }

    /// The next item, or a wake-up when there is one. Pending for ever after `Close`.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Item> {
        let mut lanes = lock(&self.0);
        match lanes.next() {
            Some(item) => Poll::Ready(item),
            None => {
                lanes.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What a control frame is about, if a newer one about the same makes it pointless.
#[derive(Debug, PartialEq)]
enum Subject<'a> {
    Ping,
    Alive,
    Digest,
    Policy,
    WantPolicy,
    Want(&'a BrokerName, Record),
    State(&'a BrokerName, Record),
}

impl Subject<'_> {
    fn of(head: &Head) -> Option<Subject<'_>> {
        Some(match head {
            Head::Ping(_) => Subject::Ping,
            Head::Alive(_) => Subject::Alive,
            Head::Digest(_) => Subject::Digest,
            Head::Want(want) => Subject::Want(&want.origin, want.what),
            Head::LinkState(state) => Subject::State(&state.origin, Record::LinkState),
            Head::Interest(interest) => Subject::State(&interest.origin, Record::Interest),
            Head::Summary(summary) => Subject::State(&summary.origin, Record::Summary),
            Head::Policy(_) => Subject::Policy,
            Head::WantPolicy(_) => Subject::WantPolicy,
            Head::PolicyPart(_)
            | Head::Hello(_)
            | Head::Refused(_)
            | Head::Forward(_)
            | Head::Direct(_)
            | Head::Unknown => return None,
        })
    }
}

/// A frame of the data lane, its place in the order, and its weight.
#[derive(Debug)]
struct Waiting {
    place: u64,
    weight: usize,
    freight: Freight,
}

/// What may be dropped waits apart, so that the oldest of it is found at once, however much waits that may not: a lane can stay
/// full for long, and each push to it must stay cheap.
#[derive(Debug)]
struct Lanes {
    control: VecDeque<Arc<Head>>,
    firm: VecDeque<Waiting>,
    loose: VecDeque<Waiting>,
    /// Frames pushed so far: the next place.
    pushed: u64,
    /// Of both.
    bytes: usize,
    loose_bytes: usize,
    limit: usize,
    /// No frame that waits expires before this, monotonic ms.
    soonest: u64,
    dropped: u64,
    closed: bool,
    /// The last word, until it is taken.
    last: Option<Option<Refusal>>,
    waker: Option<Waker>,
}

impl Lanes {
    fn push(&mut self, freight: Freight, weight: usize) {
        self.pushed += 1;
        self.bytes += weight;
        self.soonest = self.soonest.min(freight.expires.unwrap_or(u64::MAX));
        let droppable = freight.droppable;
        let waiting = Waiting { place: self.pushed, weight, freight };
        if droppable {
            self.loose_bytes += weight;
            self.loose.push_back(waiting);
        } else {
            self.firm.push_back(waiting);
        }
    }

    fn next(&mut self) -> Option<Item> {
        if let Some(head) = self.control.pop_front() {
            return Some(Item::Control(head));
        }
        let loose_first = match (self.firm.front(), self.loose.front()) {
            (Some(firm), Some(loose)) => loose.place < firm.place,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let next = if loose_first { self.pop_loose() } else { self.firm.pop_front() };
        let Some(next) = next else { return self.last.take().map(Item::Close) };
        self.bytes -= next.weight;
        if self.firm.is_empty() && self.loose.is_empty() {
            // One burst must not be paid for for ever.
            self.firm.shrink_to(64);
            self.loose.shrink_to(64);
            self.soonest = u64::MAX;
        }
        Some(Item::Data(next.freight))
    }

    /// Its weight is still in `bytes`.
    fn pop_loose(&mut self) -> Option<Waiting> {
        let waiting = self.loose.pop_front()?;
        self.loose_bytes -= waiting.weight;
        Some(waiting)
    }

    /// Makes room for a frame of this weight; where that cannot be, nothing goes but what has expired.
    fn make_room(&mut self, weight: usize, now: u64) -> bool {
        if self.fits(weight) {
            return true;
        }
        if self.soonest <= now {
            self.drop_expired(now);
        }
        if !self.firm.is_empty() && self.bytes - self.loose_bytes + weight > self.limit {
            return self.fits(weight);
        }
        while !self.fits(weight) {
            let Some(oldest) = self.pop_loose() else { return false };
            self.bytes -= oldest.weight;
            self.dropped += 1;
        }
        true
    }

    fn fits(&self, weight: usize) -> bool {
        self.bytes + weight <= self.limit || (self.firm.is_empty() && self.loose.is_empty())
    }

    fn drop_expired(&mut self, now: u64) {
        let (mut freed, mut soonest) = (0, u64::MAX);
        let mut keep = |waiting: &Waiting| {
            let expires = waiting.freight.expires.unwrap_or(u64::MAX);
            if expires <= now {
                freed += waiting.weight;
            } else {
                soonest = soonest.min(expires);
            }
            expires > now
        };
        let before = self.firm.len() + self.loose.len();
        self.firm.retain(&mut keep);
        self.loose.retain(&mut keep);
        self.dropped += (before - self.firm.len() - self.loose.len()) as u64;
        self.loose_bytes = self.loose.iter().map(|waiting| waiting.weight).sum();
        self.bytes -= freed;
        self.soonest = soonest;
    }
}

/// A panic while the lock was held leaves lanes that are still lanes.
fn lock(lanes: &Mutex<Lanes>) -> MutexGuard<'_, Lanes> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(mut lanes: MutexGuard<'_, Lanes>) {
    let waker = lanes.waker.take();
    drop(lanes);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;

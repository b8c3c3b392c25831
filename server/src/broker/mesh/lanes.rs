//! How does anything leave over a link? Two lanes that never make the broker wait: control, coalesced, before data, bounded.

use bytes::Bytes;
use muster_protocol::error::Refusal;
use muster_protocol::link::Head;
use std::sync::Arc;

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
pub struct LinkOutbox {}

/// The link's end.
#[derive(Debug)]
pub struct LinkReader {}

/// The two lanes of a link; `limit` bounds the data lane, bytes.
pub fn lanes(_limit: usize) -> (LinkOutbox, LinkReader) {
    unimplemented!()
}

impl LinkOutbox {
    /// Adds a control frame. A state record of the same kind and origin that still waits is replaced (the receiver sees a
    /// gap and asks), as are a waiting ping, alive and digest.
    pub fn control(&self, _head: Arc<Head>) {
        unimplemented!()
    }

    /// Adds to the data lane; when it is full, first what has expired goes, then what is droppable, oldest first.
    pub fn data(&self, _freight: Freight, _now: u64) -> Result<(), Full> {
        unimplemented!()
    }

    /// Whether another request may be sent: less than half of the data lane is taken.
    pub fn has_room(&self) -> bool {
        unimplemented!()
    }

    /// The last word: data that waits is dropped, control goes out.
    pub fn close(&self, _refusal: Option<Refusal>) {
        unimplemented!()
    }

    /// Bytes that wait in the data lane.
    pub fn backlog(&self) -> usize {
        unimplemented!()
    }

    /// Frames that the data lane dropped so far.
    pub fn dropped(&self) -> u64 {
        unimplemented!()
    }
}

impl LinkReader {
    /// The next item, if there is one: control first, data in order.
    pub fn try_next(&mut self) -> Option<Item> {
        unimplemented!()
    }

    /// The next item of the control lane only: what goes between the pieces of a body.
    pub fn try_control(&mut self) -> Option<Item> {
        unimplemented!()
    }

    /// The next item, or a wake-up when there is one.
    pub fn poll_next(&mut self, _context: &mut std::task::Context<'_>) -> std::task::Poll<Item> {
        unimplemented!()
    }
}

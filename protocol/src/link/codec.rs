//! What are the bytes of a link? Frames cut into units, so that a control frame never waits for a large body.
//!
//! A unit is two numbers, u32 big-endian, then the bytes of a head, then some of a body:
//!
//! - A head length above 0: a new frame. The second number is the length of its *whole* body, of which the first [`PIECE`] bytes
//!   (all, if there are fewer) follow the head.
//! - A head length of 0: the next piece of the one body that is not complete; the second number is the length of the piece, 1 to
//!   [`PIECE`].
//!
//! Between the pieces of a body frames without one may come, and nothing else.

mod scan;

use super::{Head, MAX_HEAD, PIECE};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;

pub use scan::MAX_DEPTH;

/// Bytes of the two numbers before each unit.
const PREFIX: usize = 8;

/// How long frames may be. Both are checked before memory is taken for what they limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head.
    pub head: usize,
    /// Bytes of a whole body.
    pub body: usize,
}

impl Limits {
    /// For a peer that has not said HELLO: 4 KiB, no body.
    pub const BEFORE_HELLO: Limits = Limits { head: 4 * 1024, body: 0 };

    /// For a peer that has: heads up to [`MAX_HEAD`], and bodies of `body` bytes.
    pub fn after_hello(body: usize) -> Limits {
        Limits { head: MAX_HEAD, body }
    }
}

/// Why the bytes of a link make no sense, or a frame cannot be sent. After one the reader cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Longer than [`Limits::head`], or than [`MAX_HEAD`] when sending.
    #[error("a frame's head has {0} bytes, more than {1}; is a broker at the other end, and has it said HELLO?")]
    HeadTooLong(usize, usize),
    /// Longer than [`Limits::body`], or than the wire can say.
    #[error("a frame's body has {0} bytes, more than {1}; give both brokers the same limit for bodies")]
    BodyTooLong(usize, usize),
    /// A piece of a body where none is awaited.
    #[error("a piece of a body came, but no frame's body is incomplete; the other broker breaks the protocol")]
    PieceWithoutFrame,
    /// An empty piece, one longer than [`PIECE`], or one longer than what is left of the body.
    #[error("a piece has {0} bytes where 1 to {1} may follow; the other broker breaks the protocol")]
    PieceLength(usize, usize),
    /// A second body began before the first was complete.
    #[error("a frame with a body came while {0} bytes of another's are missing; the other broker breaks the protocol")]
    SecondBody(usize),
    /// The head is MessagePack of another kind, or none.
    #[error("a frame's head begins with the byte {0:#04x}, which begins no map; is a broker at the other end?")]
    NotAMap(u8),
    /// The head ends before what it announces.
    #[error("a frame's head ends within its map; the other broker breaks the protocol")]
    Truncated,
    /// The head goes on after its map.
    #[error("{0} bytes follow the map in a frame's head; the other broker breaks the protocol")]
    Trailing(usize),
    /// Maps and lists are nested deeper than [`MAX_DEPTH`].
    #[error("a frame's head is nested deeper than {MAX_DEPTH}; the other broker breaks the protocol")]
    TooDeep,
    /// No head of a known type has this form.
    #[error("a frame's head cannot be read: {0}; do both brokers speak the same version?")]
    Malformed(String),
}

/// Appends a frame without a body; nothing is appended on an error.
pub fn encode(head: &Head, out: &mut BytesMut) -> Result<(), LinkError> {
    let start = out.len();
    let written = encode_head(head, 0, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// A frame on its way out, unit by unit. Frames without a body may be sent between two units of it.
#[derive(Debug)]
pub struct Sending {
    /// The prefix and the head; empty once they are out.
    head: BytesMut,
    body: Bytes,
}

impl Sending {
    /// Encodes the head; the body is only counted.
    pub fn new(head: &Head, body: Bytes) -> Result<Sending, LinkError> {
        let mut encoded = BytesMut::with_capacity(256);
        encode_head(head, body.len(), &mut encoded)?;
        Ok(Sending { head: encoded, body })
    }

    /// Appends the next unit. False, and nothing is appended, if there was none left.
    pub fn next_unit(&mut self, out: &mut BytesMut) -> bool {
        if self.is_done() {
            return false;
        }
        let piece = self.body.split_to(self.body.len().min(PIECE));
        if self.head.is_empty() {
            out.put_u32(0);
            // A piece is far below 4 GiB.
            out.put_u32(piece.len() as u32);
        } else {
            out.extend_from_slice(&std::mem::take(&mut self.head));
        }
        out.extend_from_slice(&piece);
        true
    }

    /// Whether all units have been taken.
    pub fn is_done(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }
}

/// Appends the prefix of a frame and its head.
fn encode_head(head: &Head, body: usize, out: &mut BytesMut) -> Result<(), LinkError> {
    let body_length = u32::try_from(body).map_err(|_| LinkError::BodyTooLong(body, u32::MAX as usize))?;
    let start = out.len();
    out.put_u32(0);
    out.put_u32(body_length);
    let mut serializer = rmp_serde::Serializer::new(out.writer()).with_struct_map();
    head.serialize(&mut serializer).map_err(malformed)?;
    let length = out.len() - start - PREFIX;
    if length > MAX_HEAD {
        return Err(LinkError::HeadTooLong(length, MAX_HEAD));
    }
    out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

/// Takes frames out of a growing buffer. Hand it the same buffer again and again, only ever appended to in between: it
/// holds at most one unit that is incomplete.
///
/// A body grows with the bytes that came, not with those that were announced.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// The frame whose body is incomplete.
    open: Option<Open>,
    /// A frame that is complete, on its way to the caller.
    whole: Option<(Head, Bytes)>,
    failed: Option<LinkError>,
}

#[derive(Debug)]
struct Open {
    head: Head,
    body: Vec<u8>,
    /// Bytes of the body that have not come yet, at least 1.
    left: usize,
}

impl Decoder {
    /// For a new connection.
    pub fn new(limits: Limits) -> Decoder {
        Decoder { limits, open: None, whole: None, failed: None }
    }

    /// From the next frame on, other limits.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The next frame and its body, taken from the front of `bytes`. `None`: incomplete, read more and come again.
    ///
    /// A frame of a type that this version does not know is [`Head::Unknown`], and its body is dropped. After an error
    /// the connection cannot go on; every further call gives the same error.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<(Head, Bytes)>, LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let frame = self.next_frame(bytes);
        self.failed = frame.as_ref().err().cloned();
        frame
    }

    fn next_frame(&mut self, bytes: &mut BytesMut) -> Result<Option<(Head, Bytes)>, LinkError> {
        while let Some((head, body)) = prefix(bytes) {
            let taken = if head == 0 { self.take_piece(body, bytes)? } else { self.take_first(head, body, bytes)? };
            if !taken {
                return Ok(None);
            }
            if let Some(frame) = self.whole.take() {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Takes a unit that begins a frame; false while it is incomplete.
    fn take_first(&mut self, head: usize, body: usize, bytes: &mut BytesMut) -> Result<bool, LinkError> {
        if head > self.limits.head {
            return Err(LinkError::HeadTooLong(head, self.limits.head));
        }
        if body > self.limits.body {
            return Err(LinkError::BodyTooLong(body, self.limits.body));
        }
        if body > 0
            && let Some(open) = &self.open
        {
            return Err(LinkError::SecondBody(open.left));
        }
        let piece = body.min(PIECE);
        if bytes.len() < PREFIX + head + piece {
            return Ok(false);
        }
        bytes.advance(PREFIX);
        let decoded = decode_head(&bytes[..head])?;
        bytes.advance(head);
        if body == 0 {
            self.whole = Some((decoded, Bytes::new()));
        } else {
            self.fill(Open { head: decoded, body: Vec::new(), left: body }, piece, bytes);
        }
        Ok(true)
    }

    /// Takes a unit that goes on with a body; false while it is incomplete.
    fn take_piece(&mut self, length: usize, bytes: &mut BytesMut) -> Result<bool, LinkError> {
        let open = self.open.as_ref().ok_or(LinkError::PieceWithoutFrame)?;
        let most = open.left.min(PIECE);
        if length == 0 || length > most {
            return Err(LinkError::PieceLength(length, most));
        }
        if bytes.len() < PREFIX + length {
            return Ok(false);
        }
        bytes.advance(PREFIX);
        let open = self.open.take().ok_or(LinkError::PieceWithoutFrame)?;
        self.fill(open, length, bytes);
        Ok(true)
    }

    fn fill(&mut self, mut open: Open, length: usize, bytes: &mut BytesMut) {
        if open.head != Head::Unknown {
            let missing = open.left;
            if open.body.capacity() - open.body.len() < length {
                // Doubled, but never beyond the whole: a body that waits in a queue holds no spare room.
                open.body.reserve_exact(missing.min(open.body.len().max(length)));
            }
            open.body.extend_from_slice(&bytes[..length]);
        }
        bytes.advance(length);
        open.left -= length;
        if open.left > 0 {
            self.open = Some(open);
        } else {
            self.whole = Some((open.head, open.body.into()));
        }
    }
}

fn prefix(bytes: &BytesMut) -> Option<(usize, usize)> {
    let mut prefix = bytes.get(..PREFIX)?;
    Some((prefix.get_u32() as usize, prefix.get_u32() as usize))
}

fn decode_head(bytes: &[u8]) -> Result<Head, LinkError> {
    // What announces more than is there, or nests too deep, never reaches the reader, which would take memory for it.
    scan::check_map(bytes)?;
    rmp_serde::from_slice(bytes).map_err(malformed)
}

/// Text from a peer may stand in the error: cut and cleaned.
fn malformed(error: impl std::fmt::Display) -> LinkError {
    const MOST: usize = 160;
    let text = error.to_string();
    LinkError::Malformed(text.chars().take(MOST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
}

#[cfg(test)]
mod tests;

//! What does the edge do with frames on their way out and in? The same as on a real link, without the socket.

use crate::broker::event::Received;
use crate::broker::mesh::lanes::Freight;
use bytes::{Bytes, BytesMut};
use muster_protocol::link::Head;
use muster_protocol::link::codec::{Decoder, Limits, Sending};
use muster_protocol::message::BrokerName;

/// The bytes of a frame.
pub(super) fn encoded(head: &Head, body: Bytes) -> BytesMut {
    let mut sending = Sending::new(head, body).expect("a frame that the broker made");
    let mut out = BytesMut::new();
    while sending.next_unit(&mut out) {}
    out
}

/// The bytes of a data item at `tick`, what it has waited taken off its times; nothing if it has expired.
pub(super) fn written(freight: &Freight, tick: u64) -> Option<BytesMut> {
    let is_late = freight.expires.is_some_and(|at| at <= tick);
    (!is_late).then(|| encoded(&freight.head.aged(tick - freight.since), freight.body.clone()))
}

/// A frame as the other side reads it.
pub(super) fn received(me: &BrokerName, mut bytes: BytesMut) -> Received {
    let mut decoder = Decoder::new(Limits::after_hello(1 << 20));
    let (head, body) = decoder.decode(&mut bytes).expect("bytes of a frame").expect("all of a frame");
    crate::links::receive(me, head, body)
}

//! What does the edge do with frames on their way out and in? The same as on a real link, without the socket.

use crate::broker::event::Received;
use crate::broker::mesh::lanes::Freight;
use bytes::{Bytes, BytesMut};
use muster_protocol::link::Head;
use muster_protocol::link::codec::{Decoder, Limits, Sending};
use muster_protocol::message::BrokerName;

/// A frame on its way.
#[derive(Debug)]
pub(super) enum Frame {
    Bytes(BytesMut),
    Typed(Box<Head>, Bytes),
}

impl Frame {
    pub(super) fn new(head: &Head, body: Bytes, has_codec: bool) -> Frame {
        if !has_codec {
            return Frame::Typed(Box::new(head.clone()), body);
        }
        let mut sending = Sending::new(head, body).expect("a frame that the broker made");
        let mut out = BytesMut::new();
        while sending.next_unit(&mut out) {}
        Frame::Bytes(out)
    }

    /// A data item at `tick`, what it has waited taken off its times; nothing if it has expired.
    pub(super) fn of(freight: &Freight, tick: u64, has_codec: bool) -> Option<Frame> {
        let is_late = freight.expires.is_some_and(|at| at <= tick);
        (!is_late).then(|| Frame::new(&freight.head.aged(tick - freight.since), freight.body.clone(), has_codec))
    }

    /// As the other side reads it.
    pub(super) fn received(self, me: &BrokerName) -> Received {
        let (head, body) = match self {
            Frame::Typed(head, body) => (*head, body),
            Frame::Bytes(mut bytes) => {
                let mut decoder = Decoder::new(Limits::after_hello(1 << 20));
                decoder.decode(&mut bytes).expect("bytes of a frame").expect("all of a frame")
            }
        };
        crate::links::receive(me, head, body)
    }
}

//! What the edge does with frames on their way out and in.

use crate::broker::event::Received;
use crate::broker::mesh::lanes::Freight;
use bytes::Bytes;
use muster_protocol::link::Head;
use muster_protocol::message::BrokerName;
use std::sync::Arc;

/// What is written of a data item at `tick`; nothing if it has expired.
pub(super) fn written(freight: Freight, tick: u64) -> Option<(Arc<Head>, Bytes)> {
    let is_late = freight.expires.is_some_and(|at| at <= tick);
    (!is_late).then_some((freight.head, freight.body))
}

/// A frame as the other side reads it.
pub(super) fn received(_me: &BrokerName, head: &Arc<Head>, body: Bytes) -> Received {
    Received { head: head.clone(), body, order: None }
}

//! How much went over a link? Frames and bytes, in and out, control and data apart; wire bytes before TLS.

use muster_protocol::link::Head;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// What went over all connections with one neighbour since the start. Counted by the link, read by whoever asks.
#[derive(Debug, Default)]
pub struct LinkCounters {
    control_in: Lane,
    control_out: Lane,
    data_in: Lane,
    data_out: Lane,
    expired: AtomicU64,
    too_large: AtomicU64,
    unknown: AtomicU64,
}

#[derive(Debug, Default)]
struct Lane {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// Frames and bytes of one lane in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Whole frames.
    pub frames: u64,
    /// Bytes, also of frames that are not whole yet.
    pub bytes: u64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LinkCounts {
    /// State and signs of life that came.
    pub control_in: Traffic,
    /// State and signs of life that went.
    pub control_out: Traffic,
    /// Messages that came.
    pub data_in: Traffic,
    /// Messages that went.
    pub data_out: Traffic,
    /// Messages that expired before they went.
    pub expired: u64,
    /// Messages with bodies that the neighbour does not take.
    pub too_large: u64,
    /// Frames that came of types that this version does not know.
    pub unknown: u64,
}

/// The lane of a frame.
pub(super) fn is_data(head: &Head) -> bool {
    matches!(head, Head::Forward(_) | Head::Direct(_))
}

impl LinkCounters {
    /// The counters now.
    pub fn snapshot(&self) -> LinkCounts {
        let at = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let lane = |lane: &Lane| Traffic { frames: at(&lane.frames), bytes: at(&lane.bytes) };
        LinkCounts {
            control_in: lane(&self.control_in),
            control_out: lane(&self.control_out),
            data_in: lane(&self.data_in),
            data_out: lane(&self.data_out),
            expired: at(&self.expired),
            too_large: at(&self.too_large),
            unknown: at(&self.unknown),
        }
    }

    pub(super) fn came(&self, is_data: bool, frames: u64, bytes: usize) {
        if is_data { &self.data_in } else { &self.control_in }.add(frames, bytes);
    }

    pub(super) fn went(&self, is_data: bool, frames: u64, bytes: usize) {
        if is_data { &self.data_out } else { &self.control_out }.add(frames, bytes);
    }

    pub(super) fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn too_large(&self) -> u64 {
        self.too_large.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }
}

impl Lane {
    fn add(&self, frames: u64, bytes: usize) {
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

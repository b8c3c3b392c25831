//! How does the hub do? How long events take, and how much of the time it is busy.
//!
//! The hub's task alone writes, so a count is raised by a load and a store; whoever asks reads. An event costs some nanoseconds for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the classes of event times, microseconds; beyond the last there is one more class.
pub const BOUNDS: [u64; 11] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000];

/// What the hub's task counts.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    classes: [AtomicU64; BOUNDS.len() + 1],
    events: AtomicU64,
    busy: AtomicU64,
}

/// The counts at one moment, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beat {
    /// Events by the class of their time, each counted once.
    pub classes: [u64; BOUNDS.len() + 1],
    /// Time that all events took.
    pub events: Duration,
    /// Time in which the task did anything but wait: events, questions, log lines and records.
    pub busy: Duration,
    /// Events and questions that wait.
    pub waiting: usize,
}

impl Pulse {
    pub(super) fn event(&self, took: Duration) {
        let class = BOUNDS.iter().position(|bound| took <= Duration::from_micros(*bound)).unwrap_or(BOUNDS.len());
        raise(&self.classes[class], 1);
        raise(&self.events, nanos(took));
    }

    pub(super) fn busy(&self, took: Duration) {
        raise(&self.busy, nanos(took));
    }

    pub(super) fn beat(&self, waiting: usize) -> Beat {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Beat {
            classes: std::array::from_fn(|class| read(&self.classes[class])),
            events: Duration::from_nanos(read(&self.events)),
            busy: Duration::from_nanos(read(&self.busy)),
            waiting,
        }
    }
}

/// For one writer only.
fn raise(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_in_the_first_class_that_it_fits_into() {
        let pulse = Pulse::default();
        for took in [0, 50_000, 50_001, 99_000, 100_000_000, 100_000_001, 5_000_000_000] {
            pulse.event(Duration::from_nanos(took));
        }
        pulse.busy(Duration::from_micros(3));
        let beat = pulse.beat(7);
        assert_eq!(beat.classes, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((beat.events.as_nanos(), beat.busy.as_nanos(), beat.waiting), (5_200_199_002, 3_000, 7));
    }
}

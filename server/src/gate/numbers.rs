//! Which number has a session? One that no other has, and that tells no count.

use crate::broker::event::SessionId;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of sessions. Peers see their own, so none may tell how many others there are: they are a counter, permuted under a key of
/// this process. All are different, and below 2^52, for programs whose numbers are floats.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    count: AtomicU64,
    key: RandomState,
}

impl Numbers {
    pub(super) fn next(&self) -> SessionId {
        const HALF: u32 = 26;
        const MASK: u64 = (1 << HALF) - 1;
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (mut left, mut right) = ((count >> HALF) & MASK, count & MASK);
        // A Feistel network: whatever the hash is, no two counts come out as one.
        for round in 0..4_u8 {
            (left, right) = (right, left ^ (self.key.hash_one((round, right)) & MASK));
        }
        SessionId((left << HALF) | right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_of_sessions_differ_and_tell_no_count() {
        let (one, other) = (Numbers::default(), Numbers::default());
        let some: Vec<u64> = (0..100_000).map(|_| one.next().0).collect();
        let all: HashSet<u64> = some.iter().copied().collect();
        assert!(all.len() == some.len() && some.iter().all(|number| *number < 1 << 52));
        let rising = some.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((45_000..55_000).contains(&rising), "{rising}");
        assert_ne!(some[..8], (0..8).map(|_| other.next().0).collect::<Vec<_>>(), "another process, another order");
    }
}

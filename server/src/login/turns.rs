//! Is the same password being checked already? Then whoever shows it too waits for that, and finds it in the cache.
//!
//! After a restart a fleet of a few users comes back at once, and nothing is in the cache: each password is hashed once, not as
//! often as there were connections before the first hash was done.

use super::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// Who checks what.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Queues>>);

/// By the mark of user and password.
type Queues = HashMap<[u8; 32], Arc<Queue<()>>>;

/// The right to check one password; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    mark: [u8; 32],
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else checks this one. How long is bounded by the time for a login, how many wait by the connections that
    /// have not logged in.
    pub(super) async fn take(&self, mark: [u8; 32]) -> Turn {
        let queue = lock(&self.0).entry(mark).or_default().clone();
        // Made before the wait: whoever gives up while it waits must be cleared away too.
        let mut turn = Turn { turns: self.clone(), mark, held: None };
        turn.held = Some(queue.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = lock(&self.turns.0);
        self.held = None;
        // All others that have to do with it hold the queue too.
        if turns.get(&self.mark).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            turns.remove(&self.mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn one_at_a_time_for_each_mark_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let first = turns.take([1; 32]).await;
        assert!(turns.take([2; 32]).now_or_never().is_some(), "another password");
        let mut second = Box::pin(turns.take([1; 32]));
        let mut gives_up = Box::pin(turns.take([1; 32]));
        assert!((&mut second).now_or_never().is_none() && (&mut gives_up).now_or_never().is_none());
        drop(gives_up);
        drop(first);
        let second = second.now_or_never().expect("its turn");
        assert_eq!(lock(&turns.0).len(), 1);
        drop(second);
        assert!(lock(&turns.0).is_empty());
    }

    #[tokio::test]
    async fn whoever_gives_up_last_clears_away() {
        let turns = Turns::default();
        let first = turns.take([1; 32]).await;
        let mut waits = Box::pin(turns.take([1; 32]));
        assert!((&mut waits).now_or_never().is_none());
        drop(first);
        drop(waits);
        assert!(lock(&turns.0).is_empty());
    }
}

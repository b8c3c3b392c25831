//! Whose password is checked next? A bounded number at once, the newest first, and a place that agents cannot take.

use super::lock;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// The hashing pool: so many at once, so many waiting, the newest first (the oldest have likely given up), and one place more
/// that agents cannot take, so that operators get in while a fleet reconnects.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    /// For anybody.
    free: usize,
    /// For those who are no agents.
    reserve_free: bool,
    waiting: Vec<(bool, oneshot::Sender<Permit>)>,
    most_waiting: usize,
}

/// A place in the pool; dropping it hands it to the newest who waits.
#[derive(Debug)]
pub(super) struct Permit {
    pool: Pool,
    reserve: bool,
}

impl Pool {
    /// So many places, and so many who may wait for one.
    pub(super) fn new(places: usize, most_waiting: usize) -> Pool {
        Pool(Arc::new(Mutex::new(Places {
            free: places.max(1),
            reserve_free: true,
            waiting: Vec::new(),
            most_waiting,
        })))
    }

    /// Waits for a place; `None` if too many wait already.
    pub(super) async fn enter(&self, may_use_reserve: bool) -> Option<Permit> {
        let turn = {
            let mut places = lock(&self.0);
            if places.free > 0 {
                places.free -= 1;
                return Some(Permit { pool: self.clone(), reserve: false });
            }
            if may_use_reserve && places.reserve_free {
                places.reserve_free = false;
                return Some(Permit { pool: self.clone(), reserve: true });
            }
            places.waiting.retain(|(_, turn)| !turn.is_closed());
            if places.waiting.len() >= places.most_waiting {
                return None;
            }
            let (sender, turn) = oneshot::channel();
            places.waiting.push((may_use_reserve, sender));
            turn
        };
        turn.await.ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut places = lock(&self.pool.0);
            places.waiting.retain(|(_, turn)| !turn.is_closed());
            let newest = places.waiting.iter().rposition(|(may_use_reserve, _)| *may_use_reserve || !self.reserve);
            match newest {
                Some(newest) => Some(places.waiting.remove(newest).1),
                None if self.reserve => {
                    places.reserve_free = true;
                    None
                }
                None => {
                    places.free += 1;
                    None
                }
            }
        };
        if let Some(turn) = next {
            // Whoever gave up in this instant hands the place on by dropping what it did not receive.
            let _ = turn.send(Permit { pool: self.pool.clone(), reserve: self.reserve });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_waits_least_and_the_line_is_bounded() {
        let pool = Pool::new(1, 2);
        let first = pool.enter(false).await.expect("a place");
        let (old, new) = (pool.clone(), pool.clone());
        let old = tokio::spawn(async move { old.enter(false).await });
        until_waiting(&pool, 1).await;
        let new = tokio::spawn(async move { new.enter(false).await });
        until_waiting(&pool, 2).await;
        assert!(pool.enter(false).await.is_none(), "the line is full");
        drop(first);
        let second = new.await.expect("no panic").expect("the newest has the place");
        assert!(!old.is_finished());
        drop(second);
        assert!(old.await.expect("no panic").is_some());
    }

    #[tokio::test]
    async fn agents_cannot_take_the_last_place_from_operators() {
        let pool = Pool::new(1, 0);
        let agent = pool.enter(false).await.expect("a place");
        assert!(pool.enter(false).await.is_none());
        let operator = pool.enter(true).await.expect("the reserve");
        drop(agent);
        drop(operator);
        assert!(pool.enter(false).await.is_some());
    }

    #[tokio::test]
    async fn abandoned_work_keeps_its_permit() {
        let pool = Pool::new(1, 1);
        let (go, gone) = std::sync::mpsc::sync_channel::<()>(0);
        let permit = pool.enter(false).await.expect("a place");
        let hash = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            gone.recv().expect("told to go");
        });
        let abandoned = tokio::spawn(hash);
        abandoned.abort();
        assert_eq!(lock(&pool.0).free, 0, "the work goes on, so its place is taken");
        go.send(()).expect("still running");
        while lock(&pool.0).free == 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn until_waiting(pool: &Pool, count: usize) {
        while lock(&pool.0).waiting.len() < count {
            tokio::task::yield_now().await;
        }
    }
}

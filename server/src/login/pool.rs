//! Whose password is checked next? A bounded number at once, others in a line, and a place that agents cannot take.

use super::lock;
use crate::line::{Line, Ticket};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// The hashing pool: so many at once, so many waiting, and one place more that agents cannot take, so that operators get in while
/// a fleet reconnects.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    /// For anybody.
    free: usize,
    /// For those who are no agents.
    reserve_free: bool,
    /// Those who may use the reserve matter more.
    line: Line<bool, oneshot::Sender<Permit>>,
    most_waiting: usize,
}

/// A place in the line.
struct Waiting<'a>(&'a Pool, Ticket);

/// A place in the pool; dropping it hands it to the next in the line.
#[derive(Debug)]
pub(super) struct Permit {
    pool: Pool,
    reserve: bool,
}

impl Pool {
    /// So many places, and so many who may wait for one.
    pub(super) fn new(places: usize, most_waiting: usize) -> Pool {
        Pool(Arc::new(Mutex::new(Places { free: places.max(1), reserve_free: true, line: Line::new(), most_waiting })))
    }

    /// Waits for a place; `None` if too many wait already.
    pub(super) async fn enter(&self, may_use_reserve: bool) -> Option<Permit> {
        let (_waiting, turn) = {
            let mut places = lock(&self.0);
            if places.free > 0 {
                places.free -= 1;
                return Some(Permit { pool: self.clone(), reserve: false });
            }
            if may_use_reserve && places.reserve_free {
                places.reserve_free = false;
                return Some(Permit { pool: self.clone(), reserve: true });
            }
            if places.line.len() >= places.most_waiting {
                return None;
            }
            let (sender, turn) = oneshot::channel();
            (Waiting(self, places.line.join(may_use_reserve, sender)), turn)
        };
        turn.await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).line.leave(self.1);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut places = lock(&self.pool.0);
            let next = places.line.call(self.reserve);
            match (&next, self.reserve) {
                (Some(_), _) => {}
                (None, true) => places.reserve_free = true,
                (None, false) => places.free += 1,
            }
            next
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
    async fn the_newest_is_next_then_the_oldest_and_the_line_is_bounded() {
        let pool = Pool::new(1, 3);
        let first = pool.enter(false).await.expect("a place");
        let mut line = Vec::new();
        for count in 1..=3 {
            let pool_of = pool.clone();
            line.push(tokio::spawn(async move { pool_of.enter(false).await }));
            until_waiting(&pool, count).await;
        }
        assert!(pool.enter(false).await.is_none(), "the line is full");
        drop(first);
        let newest = line.remove(2).await.expect("no panic").expect("the newest has the place");
        drop(newest);
        let oldest = line.remove(0).await.expect("no panic").expect("the oldest comes next: it is not forgotten");
        assert!(!line[0].is_finished());
        drop(oldest);
        assert!(line.remove(0).await.expect("no panic").is_some());
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_line() {
        let pool = Pool::new(1, 1);
        let permit = pool.enter(false).await.expect("a place");
        let gives_up = tokio::spawn({
            let pool = pool.clone();
            async move { pool.enter(false).await }
        });
        until_waiting(&pool, 1).await;
        gives_up.abort();
        until_waiting(&pool, 0).await;
        drop(permit);
        assert!(pool.enter(false).await.is_some(), "the place came back");
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
        while lock(&pool.0).line.len() != count {
            tokio::task::yield_now().await;
        }
    }
}

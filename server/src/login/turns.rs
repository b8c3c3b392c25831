//! Is the same password being checked already? Then whoever shows it too shares that check, and what comes of it.
//!
//! After a restart a fleet of a few users comes back at once, and nothing is in the cache: each password is hashed once, not as
//! often as there were connections before the first hash was done. Whoever gives up leaves the check to the others, with its
//! place in the line before the hashing pool: if each had to begin at the end of that, in a flood none would come to its front in
//! the time of a login.

use super::lock;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The checks that are under way.
#[derive(Debug, Clone)]
pub(super) struct Turns<T: Clone>(Arc<Mutex<Checks<T>>>);

/// By the mark of user and password.
type Checks<T> = HashMap<[u8; 32], WeakShared<Check<T>>>;

type Check<T> = BoxFuture<'static, T>;

/// Somebody who waits for a check; the last one who does takes it away.
struct Waiting<'a, T: Clone> {
    turns: &'a Turns<T>,
    mark: [u8; 32],
    check: Option<Shared<Check<T>>>,
}

impl<T: Clone + Send + Sync + 'static> Turns<T> {
    /// None is under way.
    pub(super) fn new() -> Turns<T> {
        Turns(Arc::default())
    }

    /// What comes of the check of this one: of that under way, or else of a new one. How long that takes is bounded by the time for a
    /// login, how many wait by the connections that log in.
    pub(super) async fn share(&self, mark: [u8; 32], check: impl Future<Output = T> + Send + 'static) -> T {
        let check = {
            let mut checks = lock(&self.0);
            checks.get(&mark).and_then(WeakShared::upgrade).unwrap_or_else(|| {
                let check = check.boxed().shared();
                checks.extend(check.downgrade().map(|weak| (mark, weak)));
                check
            })
        };
        let waiting = Waiting { turns: self, mark, check: Some(check.clone()) };
        let outcome = check.await;
        drop(waiting);
        outcome
    }
}

impl<T: Clone> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.check = None;
        let mut checks = lock(&self.turns.0);
        if checks.get(&self.mark).is_some_and(|check| check.upgrade().is_none()) {
            checks.remove(&self.mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn one_check_for_all_who_show_the_same_and_nothing_is_left_behind() {
        let turns = Turns::new();
        let (done, comes) = oneshot::channel();
        let mut first = Box::pin(turns.share([1; 32], comes));
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(turns.share([2; 32], async { Ok(2) }).now_or_never(), Some(Ok(2)), "another password");
        let mut second = Box::pin(turns.share([1; 32], async { panic!("a second check") }));
        assert!((&mut second).now_or_never().is_none());
        done.send(1).expect("awaited");
        assert_eq!((first.now_or_never(), second.now_or_never()), (Some(Ok(1)), Some(Ok(1))));
        assert!(lock(&turns.0).is_empty());
        assert_eq!(turns.share([1; 32], async { Ok(3) }).now_or_never(), Some(Ok(3)), "it is over: a new one");
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_check_to_the_others() {
        let turns = Turns::new();
        let (done, comes) = oneshot::channel();
        let mut first = Box::pin(turns.share([1; 32], comes));
        assert!((&mut first).now_or_never().is_none());
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { turns.share([1; 32], ready(Ok(9))).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        done.send(1).expect("still awaited");
        assert_eq!(second.await.expect("no panic"), Ok(1));
        assert!(lock(&turns.0).is_empty());
    }

    #[tokio::test]
    async fn a_check_that_nobody_waits_for_ends() {
        let turns = Turns::<()>::new();
        let (held, gone) = oneshot::channel::<()>();
        let check = async move {
            let _held = held;
            pending().await
        };
        let mut only = Box::pin(turns.share([1; 32], check));
        assert!((&mut only).now_or_never().is_none());
        drop(only);
        assert!(gone.await.is_err());
        assert!(lock(&turns.0).is_empty());
    }
}

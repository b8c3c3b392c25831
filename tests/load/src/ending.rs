//! Does the run end before it is done? Whoever waits, waits for this too.

use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Tells that the run ends; the first reason holds.
#[derive(Debug, Clone)]
pub(crate) struct Teller(Arc<watch::Sender<Option<String>>>);

/// Hears that the run ends.
#[derive(Debug, Clone)]
pub(crate) struct Ending(watch::Receiver<Option<String>>);

/// The run ends, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Ended(pub(crate) String);

/// A pair of them.
pub(crate) fn ending() -> (Teller, Ending) {
    let (sender, receiver) = watch::channel(None);
    (Teller(Arc::new(sender)), Ending(receiver))
}

impl Teller {
    /// From now on the run ends.
    pub(crate) fn tell(&self, why: impl fmt::Display) {
        self.0.send_if_modified(|reason| match reason {
            Some(_) => false,
            None => {
                *reason = Some(why.to_string());
                true
            }
        });
    }
}

impl Ending {
    /// An error if the run ends.
    pub(crate) fn check(&self) -> Result<(), Ended> {
        self.0.borrow().clone().map_or(Ok(()), |why| Err(Ended(why)))
    }

    /// Waits until the run ends; for ever, if nobody can tell any more.
    pub(crate) async fn told(&self) -> Ended {
        let mut receiver = self.0.clone();
        let told = receiver.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match told {
            Some(why) => Ended(why),
            None => std::future::pending().await,
        }
    }

    /// Does the work, or hears that the run ends.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::select! {
            biased;
            ended = self.told() => Err(ended),
            done = work => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_ends_all_that_waits() {
        let (teller, ending) = ending();
        assert_eq!(ending.check(), Ok(()));
        assert_eq!(ending.unless(async { 7 }).await, Ok(7));
        teller.tell("one");
        teller.tell("two");
        assert_eq!(ending.check(), Err(Ended("one".into())));
        assert_eq!(ending.unless(std::future::pending::<()>()).await, Err(Ended("one".into())));
    }
}

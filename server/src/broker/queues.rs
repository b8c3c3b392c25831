//! Where do answers go? Reply queues: private to a connection, with names that nobody can guess.

use super::event::SessionId;
use muster_protocol::destination::Destination;
use std::collections::HashMap;
use std::sync::Arc;

/// A reply queue.
#[derive(Debug, Clone)]
pub struct ReplyQueue {
    /// Whose it is: nobody else reads it.
    pub owner: SessionId,
    /// Id of the owner's subscription.
    pub subscription: Arc<str>,
    /// Once requests are answered on it, only nodes that were asked may write to it.
    pub for_requests: bool,
}

/// All reply queues, by the broker's name for them.
#[derive(Debug, Default)]
pub struct Queues(HashMap<Destination, ReplyQueue>);

impl Queues {
    /// A new queue. `bits` are 128 unguessable bits.
    pub fn create(
        &mut self,
        broker: &str,
        bits: u128,
        owner: SessionId,
        subscription: Arc<str>,
    ) -> Option<Destination> {
        let name = Destination::parse(&format!("/remote-temp-queue/{broker}.{bits:032x}")).ok()?;
        self.0.insert(name.clone(), ReplyQueue { owner, subscription, for_requests: false });
        Some(name)
    }

    /// Looks a queue up.
    pub fn get(&self, name: &Destination) -> Option<&ReplyQueue> {
        self.0.get(name)
    }

    /// From now on only nodes that were asked may write to it.
    pub fn reserve_for_requests(&mut self, name: &Destination) {
        if let Some(queue) = self.0.get_mut(name) {
            queue.for_requests = true;
        }
    }

    /// Ends a queue.
    pub fn remove(&mut self, name: &Destination) {
        self.0.remove(name);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

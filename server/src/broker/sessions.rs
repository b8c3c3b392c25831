//! Who is connected? One kind of session for agents, operators and services, and the one function that delivers to them.

use super::access::{GroupSet, Kind, Peer, User};
use super::event::SessionId;
use super::outbox::{Full, Item, Message, Outbox};
use muster_protocol::destination::{Destination, Pattern};
use rustc_hash::FxHashMap;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::task::Waker;

/// A connected user.
#[derive(Debug)]
pub struct Session {
    /// Who, as the policy in force says.
    pub user: Arc<User>,
    /// From where, and with which certificate.
    pub peer: Peer,
    /// Since when, Unix ms.
    pub since: u64,
    /// Topic subscriptions in the order in which they were made.
    pub subscriptions: Vec<Subscription>,
    /// Reply queues: the client's own name to the broker's.
    pub queues: OwnQueues,
    /// The node's row, for an agent.
    pub row: Option<u32>,
    /// Its requests that are not yet accounted for.
    pub in_flight: usize,
    /// When it ends because its user or its certificate expires, monotonic ms.
    pub expires: Option<u64>,
    /// If it logged in by a token: when that was made, Unix seconds.
    pub token_made: Option<u64>,
    /// Reply queues that messages it got have named: it may write to them.
    pub heard: Heard,
    /// Messages that it was sent.
    delivered: u64,
    outbox: Outbox,
}

/// The reply queues of one session. Nearly all have one, so they stand in a list.
#[derive(Debug, Default)]
pub struct OwnQueues(Vec<(Destination, Destination)>);

impl OwnQueues {
    /// The broker's name of the queue that the client calls so.
    pub fn get(&self, name: &Destination) -> Option<&Destination> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, queue)| queue)
    }

    /// Adds one that is not there yet.
    pub fn add(&mut self, name: Destination, queue: Destination) {
        self.0.reserve_exact(1);
        self.0.push((name, queue));
    }

    /// Takes out the one with the broker's name.
    pub fn remove(&mut self, queue: &Destination) {
        self.0.retain(|(_, it)| it != queue);
    }

    /// The broker's names.
    pub fn all(&self) -> impl Iterator<Item = &Destination> {
        self.0.iter().map(|(_, queue)| queue)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The reply queues of the messages that a session got last, wherever these queues are.
#[derive(Debug, Default)]
pub struct Heard {
    order: VecDeque<Arc<Destination>>,
    known: HashSet<Arc<Destination>>,
}

/// Reply queues that one session may have to answer.
const HEARD_MOST: usize = 1_024;

impl Heard {
    /// Whether a message that names this queue was delivered.
    pub fn contains(&self, queue: &Destination) -> bool {
        self.known.contains(queue)
    }

    fn insert(&mut self, queue: &Arc<Destination>) {
        if self.known.insert(queue.clone()) {
            self.order.push_back(queue.clone());
            if self.order.len() > HEARD_MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

/// One topic subscription.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The client's id for it.
    pub id: Arc<str>,
    /// What it matches.
    pub pattern: Pattern,
}

/// By what right a session gets a message.
#[derive(Debug, Clone, Copy)]
pub enum Permit<'a> {
    /// It subscribes to the topic and one of its groups may read it.
    Topic {
        /// The concrete destination, checked again at each delivery.
        destination: &'a Destination,
        /// The groups that may read it.
        readers: &'a GroupSet,
    },
    /// The reply queue is its own.
    ReplyQueue {
        /// Id of the subscription that made the queue.
        subscription: &'a Arc<str>,
    },
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is in the outbox.
    Done,
    /// The session does not subscribe to it, or may not read it.
    NotWanted,
    /// The session does not read what it is sent: it must be closed.
    Full,
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Numbers are this broker's own, in an order that nobody outside knows: no peer can choose those that collide.
    open: FxHashMap<SessionId, Session>,
    /// By number, for whoever lists them.
    order: BTreeSet<SessionId>,
    /// How many of each kind.
    kinds: [usize; Kind::ALL.len()],
    delivered: u64,
    /// Writers that have something to do since the last [`Sessions::wake`].
    awake: Vec<Waker>,
}

impl Session {
    /// A session without subscriptions, since that moment (Unix ms).
    pub fn new(user: Arc<User>, peer: Peer, since: u64, outbox: Outbox) -> Session {
        Session {
            user,
            peer,
            since,
            subscriptions: Vec::new(),
            queues: OwnQueues::default(),
            row: None,
            in_flight: 0,
            expires: None,
            token_made: None,
            heard: Heard::default(),
            delivered: 0,
            outbox,
        }
    }

    /// Its way out.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }
}

impl Sessions {
    /// Adds a session.
    pub fn insert(&mut self, id: SessionId, session: Session) {
        self.remove(id);
        // A user of another kind is another user: the kind of a session stays.
        self.kinds[session.user.kind as usize] += 1;
        self.order.insert(id);
        self.open.insert(id, session);
    }

    /// Removes a session.
    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.open.remove(&id)?;
        self.kinds[session.user.kind as usize] -= 1;
        self.order.remove(&id);
        Some(session)
    }

    /// Looks at a session.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.open.get(&id)
    }

    /// Changes a session.
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.open.get_mut(&id)
    }

    /// Every session, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.open.iter().map(|(id, session)| (*id, session))
    }

    /// Those after this one, by number.
    pub fn after(&self, id: Option<SessionId>) -> impl Iterator<Item = (SessionId, &Session)> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.order.range((from, Bound::Unbounded)).filter_map(|id| Some((*id, self.open.get(id)?)))
    }

    /// How many of this kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.kinds[kind as usize]
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Messages delivered so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// What is no message: a receipt, the answer to the login. An error: the session does not read, and must be closed.
    pub fn push(&mut self, to: SessionId, item: Item, now: u64) -> Result<(), Full> {
        match self.open.get(&to) {
            Some(session) => session.outbox.push(item, now, &mut self.awake),
            None => Ok(()),
        }
    }

    /// Wakes those that something was put out for: once for each event, however much it put out.
    pub fn wake(&mut self) {
        self.awake.drain(..).for_each(Waker::wake);
    }

    /// The one function that delivers a message: nothing reaches a session but through the check in here.
    pub fn deliver(&mut self, to: SessionId, message: &Arc<Message>, permit: Permit<'_>, now: u64) -> Delivery {
        let Some(session) = self.open.get_mut(&to) else { return Delivery::NotWanted };
        let subscription = match permit {
            Permit::Topic { destination, readers } => {
                if !readers.intersects(&session.user.groups) {
                    return Delivery::NotWanted;
                }
                match session.subscriptions.iter().find(|s| s.pattern.matches(destination)) {
                    Some(subscription) => subscription.id.clone(),
                    None => return Delivery::NotWanted,
                }
            }
            Permit::ReplyQueue { subscription } => subscription.clone(),
        };
        self.delivered += 1;
        // Counted for each session by itself: a number of all deliveries would tell everybody how much goes on.
        session.delivered += 1;
        let number = session.delivered;
        match session.outbox.push(
            Item::Message { message: message.clone(), subscription, number },
            now,
            &mut self.awake,
        ) {
            Ok(()) => {
                if let Some(queue) = &message.answer_on {
                    session.heard.insert(queue);
                }
                Delivery::Done
            }
            Err(Full) => Delivery::Full,
        }
    }
}

//! Who owns the broker? One task. Others tell it events or ask it questions; it waits for nobody, so it cannot deadlock.

mod pulse;

pub use pulse::{BOUNDS, Beat};

use crate::audit::Audit;
use crate::broker::Broker;
use crate::broker::errand::Errand;
use crate::broker::event::{Event, Now};
use crate::broker::note::{Note, Weight};
use muster_protocol::error::{Code, Refusal};
use pulse::Pulse;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Events that may wait; when the hub is busy, tellers wait, and TCP slows whoever sends.
const QUEUE: usize = 1024;

/// Longest time that one event may take; longer is logged.
const SLOW: Duration = Duration::from_millis(2);

/// A question: a closure that copies out what it needs.
type Question = Box<dyn FnOnce(&Broker) + Send>;

enum Told {
    Event(Event),
    Question(Question),
    Stop,
}

/// The handle that everybody else holds.
#[derive(Clone, Debug)]
pub struct Hub {
    queue: mpsc::Sender<Told>,
    clock: Clock,
    audit: Audit,
    pulse: Arc<Pulse>,
}

/// Monotonic and Unix time, read in one place.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The time.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { tick: self.tick(), unix: unix.as_millis() as u64 }
    }

    /// Monotonic ms.
    pub fn tick(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

impl Hub {
    /// Starts the task that owns `broker`; it ends when it is told to. Nothing goes on record, and no errand is done.
    pub fn start(broker: Broker) -> (Hub, tokio::task::JoinHandle<()>) {
        let (nobody, _) = mpsc::channel(1);
        Hub::start_with(broker, Audit::off(), nobody)
    }

    /// As [`Hub::start`]; what the broker decides goes on record, and what it leaves to the edge goes to whoever does its errands.
    pub fn start_with(
        mut broker: Broker,
        audit: Audit,
        errands: mpsc::Sender<Errand>,
    ) -> (Hub, tokio::task::JoinHandle<()>) {
        let (queue, told) = mpsc::channel(QUEUE);
        let clock = Clock::start();
        if audit.is_on() {
            broker.keep_records();
        }
        let pulse = Arc::new(Pulse::default());
        let task = tokio::spawn(run(broker, told, clock, audit.clone(), errands, pulse.clone()));
        (Hub { queue, clock, audit, pulse }, task)
    }

    /// A hub without a broker: a test hears what it is told.
    #[cfg(test)]
    pub(crate) fn overheard() -> (Hub, mpsc::Receiver<Event>) {
        let (queue, mut told) = mpsc::channel(QUEUE);
        let (pass, heard) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(Told::Event(event)) = told.recv().await {
                if pass.send(event).await.is_err() {
                    return;
                }
            }
        });
        (Hub { queue, clock: Clock::start(), audit: Audit::off(), pulse: Arc::default() }, heard)
    }

    /// Tells the broker what happened; waits while it is busy. False if it has stopped.
    pub async fn tell(&self, event: Event) -> bool {
        self.queue.send(Told::Event(event)).await.is_ok()
    }

    /// Asks the broker; `None` if it has stopped.
    pub async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Broker) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let question = Box::new(move |broker: &Broker| {
            // The asker may have gone: then nobody needs the answer.
            let _ = answer.send(question(broker));
        });
        self.queue.send(Told::Question(question)).await.ok()?;
        answered.await.ok()
    }

    /// Ends the task after what was told before.
    pub async fn stop(&self) {
        let _ = self.queue.send(Told::Stop).await;
    }

    /// The clock that the broker is run by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// How it does; no question is asked for that.
    pub fn pulse(&self) -> Beat {
        self.pulse.beat(self.queue.max_capacity() - self.queue.capacity())
    }

    /// Where decisions go on record, also those of others than the broker.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }
}

async fn run(
    mut broker: Broker,
    mut told: mpsc::Receiver<Told>,
    clock: Clock,
    audit: Audit,
    errands: mpsc::Sender<Errand>,
    pulse: Arc<Pulse>,
) {
    let mut rng = StdRng::from_rng(&mut rand::rng());
    let mut bits = move || rng.next_u64();
    // Errands that nobody takes come back at once.
    let mut undone: VecDeque<Event> = VecDeque::new();
    loop {
        let next = match broker.next_deadline(clock.now()) {
            _ if !undone.is_empty() => undone.pop_front().map(Told::Event),
            Some(at) => {
                let wait = Duration::from_millis(at.saturating_sub(clock.tick()));
                if wait.is_zero() {
                    // Work is left: let whoever waits in, then go on.
                    match told.try_recv() {
                        Ok(next) => Some(next),
                        Err(mpsc::error::TryRecvError::Empty) => {
                            tokio::task::yield_now().await;
                            Some(Told::Event(Event::Wake))
                        }
                        Err(mpsc::error::TryRecvError::Disconnected) => None,
                    }
                } else {
                    match tokio::time::timeout(wait, told.recv()).await {
                        Ok(next) => next,
                        Err(_) => Some(Told::Event(Event::Wake)),
                    }
                }
            }
            None => told.recv().await,
        };
        let started = Instant::now();
        match next {
            Some(Told::Event(event)) => {
                broker.handle(event, clock.now(), &mut bits);
                let took = started.elapsed();
                pulse.event(took);
                if took > SLOW {
                    tracing::debug!(us = took.as_micros() as u64, "an event took longer than 2 ms");
                }
                broker.take_notes().into_iter().for_each(log);
                for record in broker.take_records() {
                    audit.tell(|| record);
                }
                undone.extend(broker.take_errands().into_iter().filter_map(|errand| pass(errand, &errands)));
            }
            Some(Told::Question(question)) => question(&broker),
            Some(Told::Stop) | None => return,
        }
        pulse.busy(started.elapsed());
    }
}

/// Hands an errand over without waiting; what to tell the broker if nobody takes it.
fn pass(errand: Errand, errands: &mpsc::Sender<Errand>) -> Option<Event> {
    let (errand, refusal) = match errands.try_send(errand) {
        Ok(()) => return None,
        Err(TrySendError::Full(errand)) => {
            (errand, Refusal::new(Code::Busy, "too much work with files waits; try again").again_in(1000))
        }
        Err(TrySendError::Closed(errand)) => {
            (errand, Refusal::new(Code::Internal, "nobody works with files for this broker; its log says more"))
        }
    };
    Some(Event::Done { errand: errand.id, outcome: errand.chore.refused(refusal).into() })
}

/// One structured log line. `tracing` wants field names at compile time, so every name that a note may use stands here.
fn log(note: Note) {
    let field = |name: &str| note.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                target: "muster::broker",
                $level,
                request = field("request"),
                user = field("user"),
                session = field("session"),
                peer = field("peer"),
                node = field("node"),
                broker = field("broker"),
                instance = field("instance"),
                destination = field("destination"),
                brokers = field("brokers"),
                without = field("without"),
                targets = field("targets"),
                dry_run = field("dry_run"),
                nodes = field("nodes"),
                states = field("states"),
                event = field("event"),
                code = field("code"),
                reason = field("reason"),
                "{}",
                note.text
            )
        };
    }
    match note.weight {
        Weight::Detail => line!(tracing::Level::DEBUG),
        Weight::Info => line!(tracing::Level::INFO),
        Weight::Warning => line!(tracing::Level::WARN),
    }
}

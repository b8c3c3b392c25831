//! How does one request come to its one answer? Remembered, queued, checked, run within its limits, answered.

use crate::config::Config;
use crate::duplicates::Duplicates;
use crate::facts::Snapshot;
use crate::modules::{Answer, Context, Failure, Modules};
use crate::requests::{Key, Request};
use crate::run::{GRACE, Limits, Stop, Stopper, stopper};
use crate::status::Status;
use muster_protocol::facts::Facts;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::header;
use muster_protocol::request::{Event, State};
use muster_protocol::session::Session;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// An action that takes longer says that it has started.
const STARTED_AFTER: Duration = Duration::from_secs(1);

/// Largest body of a reply: a frame of 1 MiB less what headers may take.
const MOST_BODY: usize = 960 * 1024;

/// What all requests of an agent share, over all its connections.
pub(crate) struct Desk {
    pub(crate) config: Config,
    pub(crate) modules: Modules,
    pub(crate) status: Status,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Facts that the policy asserts for this node, as of the last `registered`.
    pub(crate) asserted: Mutex<Facts>,
    pub(crate) duplicates: Arc<Mutex<Duplicates>>,
    /// Requests without an answer yet, and how to stop each.
    pub(crate) open: watch::Sender<BTreeMap<Key, Stopper>>,
    slots: Semaphore,
}

impl Desk {
    pub(crate) fn new(
        config: Config,
        modules: Modules,
        status: Status,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        duplicates: Duplicates,
    ) -> Desk {
        let slots = Semaphore::new(config.limits.concurrency);
        let asserted = Mutex::new(Facts::default());
        Desk {
            config,
            modules,
            status,
            snapshots,
            asserted,
            duplicates: Arc::new(Mutex::new(duplicates)),
            open: watch::Sender::new(BTreeMap::new()),
            slots,
        }
    }

    /// Takes a request: answers `busy` at once when too many wait, else sees to its one answer in a task of its own.
    pub(crate) async fn take(self: &Arc<Desk>, request: Request, session: &Session) {
        self.status.count("received");
        let (stopper, stop) = stopper();
        let room = self.config.limits.concurrency + self.config.limits.queue;
        enum Place {
            Taken,
            Duplicate,
            Full,
        }
        let mut place = Place::Taken;
        self.open.send_modify(|open| {
            if open.contains_key(&request.key) {
                place = Place::Duplicate;
            } else if open.len() >= room {
                place = Place::Full;
            } else {
                open.insert(request.key.clone(), stopper);
            }
        });
        match place {
            Place::Duplicate => self.status.count("ignored-duplicate"),
            Place::Full => {
                let text = format!("{room} requests are running or waiting on this node; try again later");
                self.reply(&request, session, Err(Failure::new("busy", text))).await;
            }
            Place::Taken => {
                let entry = Entry { desk: self.clone(), key: request.key.clone() };
                tokio::spawn(entry.answer(request, session.clone(), stop));
            }
        }
    }

    /// Stops the action of a request, if it has no answer yet.
    pub(crate) fn cancel(&self, key: &Key) {
        if let Some(stopper) = self.open.borrow().get(key) {
            stopper.stop();
        }
    }

    /// Stops them all.
    pub(crate) fn cancel_all(&self) {
        self.open.borrow().values().for_each(Stopper::stop);
    }

    async fn reply(&self, request: &Request, session: &Session, answer: Answer) {
        let (state, body) = match answer {
            Ok(value) => (State::Ok, value),
            Err(failure) => (
                failure.state,
                json!({ "error": { "code": failure.code, "text": failure.text }, "data": failure.data }),
            ),
        };
        let took = u64::try_from(request.arrived.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Never the arguments and never the body: both may hold secrets.
        tracing::info!(caller = %muster_protocol::message::shown(&request.key.0), request = %request.key.1, module = %request.module, action = %request.action, %state, ms = took, "answered");
        self.status.count(state.as_str());
        let frame = to_caller(request, Event::Reply)
            .header(header::STATUS, state.as_str())
            .header("content-type", "application/json");
        // A connection that is gone took the reply queue with it: the broker has said `lost`.
        if session.send(frame.with_body(fitting(body))).await.is_err() {
            self.status.count("unsent-replies");
        }
    }
}

/// A request's place among the open ones; given up when its answer is out, however that came about.
struct Entry {
    desk: Arc<Desk>,
    key: Key,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.desk.open.send_modify(|open| drop(open.remove(&self.key)));
    }
}

impl Entry {
    async fn answer(self, request: Request, session: Session, mut stop: Stop) {
        let desk = &self.desk;
        match remember(desk, &request).await {
            Ok(true) => {}
            Ok(false) => return desk.status.count("ignored-duplicate"),
            Err(text) => {
                desk.status.failed(&text);
                return desk.reply(&request, &session, Err(Failure::new("state-unwritable", text))).await;
            }
        }
        let slot = tokio::select! {
            biased;
            () = stop.stopped() => Err(Failure::of(State::Cancelled, "cancelled", "cancelled before it started")),
            slot = timeout_at(request.start_by, desk.slots.acquire()) => match slot {
                Ok(Ok(slot)) => Ok(slot),
                _ => Err(Failure::new("too-late", "the node was busy with other actions until muster-start-within had passed")),
            },
        };
        let answer = match slot {
            Ok(_slot) => run(desk, &request, &session, stop).await,
            Err(failure) => Err(failure),
        };
        desk.reply(&request, &session, answer).await;
    }
}

/// On disk before anything starts. Off the async threads: it waits for the disk.
async fn remember(desk: &Arc<Desk>, request: &Request) -> Result<bool, String> {
    let (duplicates, (caller, id)) = (desk.duplicates.clone(), request.key.clone());
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let work = move || duplicates.lock().unwrap_or_else(PoisonError::into_inner).remember(&caller, id.as_str(), now);
    let cannot = |cause: String| {
        format!(
            "the memory of requests cannot be written ({cause}), so nothing runs; look at disk and owner of the state folder"
        )
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| cannot("it crashed".into()))?.map_err(|e| cannot(e.to_string()))
}

async fn run(desk: &Arc<Desk>, request: &Request, session: &Session, stop: Stop) -> Answer {
    request.check_time(Instant::now())?;
    let snapshot = desk.snapshots.borrow().clone();
    let asserted = desk.asserted.lock().unwrap_or_else(PoisonError::into_inner).clone();
    request.check_target(&snapshot.document, &asserted)?;
    request.check_policy(&desk.config.policy)?;
    let Some(module) = desk.modules.get(&request.module).cloned() else {
        let text = format!("the node has no module `{}`", muster_protocol::message::shown(&request.module));
        return Err(Failure::new("unknown-action", text));
    };
    let arguments = request.arguments(module.as_ref())?;
    let time = time_for(request, desk.config.limits.action_time, Instant::now());
    let context = Context { limits: Limits { time, output: desk.config.limits.output }, stop: stop.clone(), snapshot };
    let action = request.action.clone();
    // A task of its own: a panic in a module is that request's crash and nobody else's.
    let mut task = tokio::spawn(async move { module.run(&action, arguments, context).await });
    let started = async {
        sleep(STARTED_AFTER).await;
        let _ = session.send(to_caller(request, Event::Started)).await;
        std::future::pending::<()>().await
    };
    let result = tokio::select! {
        result = outcome(&mut task, time, stop) => result,
        () = started => Err(Failure::of(State::Crashed, "crashed", "unreachable")),
    };
    task.abort();
    result
}

/// The module's own limits come first; these catch one that does not keep them. Aborting kills its process groups.
async fn outcome(task: &mut tokio::task::JoinHandle<Answer>, time: Duration, mut stop: Stop) -> Answer {
    // Enough for a module to see TERM and KILL through.
    let patience = GRACE * 2 + Duration::from_millis(500);
    let stopped = async {
        stop.stopped().await;
        sleep(patience).await;
    };
    tokio::select! {
        biased;
        result = timeout(time + patience, task) => match result {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failure::of(State::Crashed, "crashed", "the action crashed; the agent's log on the node says more")),
            Err(_) => Err(Failure::of(State::TimedOut, "timed-out", "the action was given up at its time limit")),
        },
        () = stopped => Err(Failure::of(State::Cancelled, "cancelled", "the action was given up on request")),
    }
}

/// The configured limit, or less where the answer is awaited for a shorter time: then it ends early enough for TERM, KILL and the way
/// back, so that the caller reads `timed-out` and not `expired`.
fn time_for(request: &Request, configured: Duration, now: Instant) -> Duration {
    let left = request.reply_within.saturating_sub(now.duration_since(request.arrived));
    let margin = GRACE + Duration::from_millis(500);
    configured.min(if left > margin * 2 { left - margin } else { left / 2 })
}

fn to_caller(request: &Request, event: Event) -> Frame {
    Frame::new(Command::Send)
        .header("destination", &request.reply_to)
        .header(header::REQUEST, request.key.1.as_str())
        .header(header::EVENT, event.as_str())
}

/// The body as text; texts and lists are shortened, with a mark, until it fits a frame.
fn fitting(mut body: Value) -> String {
    let mut text = body.to_string();
    let mut most = MOST_BODY;
    while text.len() > MOST_BODY && most > 16 {
        most /= 2;
        shorten(&mut body, most);
        text = body.to_string();
    }
    if text.len() <= MOST_BODY { text } else { json!({ "truncated": "the answer does not fit a frame" }).to_string() }
}

fn shorten(value: &mut Value, most: usize) {
    const MARK: &str = "[… truncated]";
    match value {
        Value::String(text) if text.len() > most => {
            let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push_str(MARK);
        }
        Value::Array(items) => {
            if items.len() > most {
                items.truncate(most);
                items.push(MARK.into());
            }
            items.iter_mut().for_each(|item| shorten(item, most));
        }
        Value::Object(members) => members.values_mut().for_each(|member| shorten(member, most)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_too_large_is_cut_and_marked() {
        let fits = fitting(json!({ "a": 1 }));
        assert_eq!(fits, r#"{"a":1}"#);
        for body in [
            json!({"stdout": "\u{1}".repeat(900_000), "code": 0}),
            json!(vec!["x".repeat(100); 50_000]),
            json!({"ä": "ä".repeat(600_000)}),
        ] {
            let cut = fitting(body);
            assert!(cut.len() <= MOST_BODY && cut.contains("truncated"), "{}", cut.len());
            assert!(cut.len() > MOST_BODY / 8, "not cut to nothing: {}", cut.len());
            serde_json::from_str::<Value>(&cut).expect("still JSON");
        }
    }
}

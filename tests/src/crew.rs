//! Who answers while a test does something else? Nodes and listeners on threads of their own, and what each of them has heard.

use crate::node::reply;
use crate::stomp::{End, Stomp};
use crate::{Node, until};
use muster_protocol::frame::{Command, Frame};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long one look at a connection lasts before the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A connection that is served by a thread.
#[derive(Debug)]
struct Ear {
    heard: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Stomp>>,
}

/// Nodes that answer every request with `ok`, at once.
#[derive(Debug, Default)]
pub struct Crew {
    members: Vec<(String, Ear)>,
}

/// Somebody who listens to topics.
#[derive(Debug)]
pub struct Listener {
    ear: Ear,
}

impl Ear {
    /// Serves a connection; what `hear` makes of a frame is remembered.
    fn new(mut stomp: Stomp, hear: impl Fn(&mut Stomp, &Frame) -> Option<String> + Send + 'static) -> Ear {
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (into, until) = (heard.clone(), stop.clone());
        let thread = thread::spawn(move || {
            loop {
                match stomp.next_within(LOOK) {
                    Ok(frame) => {
                        if let Some(note) = hear(&mut stomp, &frame) {
                            into.lock().unwrap_or_else(PoisonError::into_inner).push(note);
                        }
                    }
                    Err(End::Silent) if !until.load(Ordering::Relaxed) => {}
                    Err(_) => return stomp,
                }
            }
        });
        Ear { heard, stop, thread: Some(thread) }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(&mut self) -> Option<Stomp> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Crew {
    /// Puts nodes to work.
    pub fn of(nodes: impl IntoIterator<Item = Node>) -> Crew {
        let mut crew = Crew::default();
        crew.join(nodes);
        crew
    }

    /// Puts more nodes to work.
    pub fn join(&mut self, nodes: impl IntoIterator<Item = Node>) {
        for node in nodes {
            self.members.push((node.id, Ear::new(node.stomp, answer)));
        }
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> BTreeSet<String> {
        self.members.iter().map(|(id, _)| id.clone()).collect()
    }

    /// The requests that a node was asked, in order, by `CALLER/REQUEST`.
    pub fn asked(&self, id: &str) -> Vec<String> {
        let member = self.members.iter().find(|(member, _)| member == id);
        member.unwrap_or_else(|| panic!("no {id} in the crew")).1.heard()
    }

    /// No node was asked anything twice.
    pub fn assert_asked_once(&self) {
        for (id, ear) in &self.members {
            let heard = ear.heard();
            let once: BTreeSet<&String> = heard.iter().collect();
            assert_eq!(once.len(), heard.len(), "{id} was asked something twice: {heard:?}");
        }
    }
}

fn answer(stomp: &mut Stomp, frame: &Frame) -> Option<String> {
    let header = |name| frame.headers.get(name);
    if header("muster-event").is_some() || frame.command != Command::Message {
        return None;
    }
    let note = format!("{}/{}", header("muster-caller")?, header("muster-request")?);
    stomp.send(reply(frame, "ok", &json!({})));
    Some(note)
}

impl Listener {
    /// Remembers the bodies of all messages that the connection gets.
    pub fn new(stomp: Stomp) -> Listener {
        let hear = |_: &mut Stomp, frame: &Frame| {
            (frame.command == Command::Message).then(|| String::from_utf8_lossy(&frame.body).into_owned())
        };
        Listener { ear: Ear::new(stomp, hear) }
    }

    /// The bodies so far that begin so, in order.
    pub fn heard(&self, what: &str) -> Vec<String> {
        self.ear.heard().into_iter().filter(|body| body.starts_with(what)).collect()
    }

    /// Waits until it has heard exactly this.
    pub fn until_heard(&self, body: &str) {
        until(&format!("{body} is heard"), || self.ear.heard().iter().any(|heard| heard == body).then_some(()));
    }

    /// Ends it: the connection.
    pub fn stop(mut self) -> Stomp {
        self.ear.stop().expect("a thread that did not panic")
    }
}

//! Where does a request stand that came by HTTP? The account of one request, fed with the frames of its reply queue, and the log of its
//! events. Plain: no clock and no I/O.
//!
//! The log is a ring bounded in bytes: who reads along gets everything, who comes late gets what is left and is told how much is not.

use super::problem::Problem;
use bytes::Bytes;
use muster_protocol::frame::Frame;
use muster_protocol::message::{NodeId, header};
use muster_protocol::request::{Accepted, Done, Event, Missing, Outcome, State};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Nodes of one request that are listed by name; the others are counted.
pub(super) const NODES_MOST: usize = 20_000;
/// What a listed node takes beside its display facts, bytes.
const NODE_BYTES: usize = 256;
/// What an event takes beside its text, bytes.
const EVENT_BYTES: usize = 64;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Progress {
    /// Not every node is accounted for.
    Running,
    /// Every node is in one state; nothing follows.
    Done,
    /// It was refused; nothing was delivered.
    Refused,
    /// The session that asked is over. Nodes go on, and what becomes of them is not heard here any more.
    Abandoned,
}

/// One node of a request.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct RequestNode {
    /// Which.
    pub(super) id: NodeId,
    /// The broker that it is connected to.
    pub(super) broker: String,
    /// Its display facts, as the caller may see them.
    pub(super) display: Map<String, Value>,
    /// Its action runs, or ran, for more than a second.
    pub(super) started: bool,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<State>,
    /// Why, if it did not answer itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// The account of one request.
#[derive(Debug)]
pub(super) struct Account {
    nodes: BTreeMap<NodeId, Place>,
    unlisted: u64,
    targets: u64,
    states: BTreeMap<State, u64>,
    without: BTreeMap<String, Missing>,
    end: Option<End>,
    log: Log,
    node_bytes: usize,
}

#[derive(Debug)]
struct Place {
    broker: String,
    display: Map<String, Value>,
    started: bool,
    end: Option<(State, Option<String>)>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Every node is in one state.
    Done,
    /// It was refused.
    Refused(Problem),
    /// The session that asked is over, for this reason.
    Abandoned(Problem),
}

/// Events as texts, numbered from 1.
#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<Entry>,
    /// Number of the first one that is there.
    first: u64,
    bytes: usize,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// From 1.
    pub(super) number: u64,
    /// Which.
    pub(super) event: &'static str,
    /// The JSON object.
    pub(super) text: Bytes,
}

/// What is there to be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// So many events are not there any more.
    pub(super) missed: u64,
    /// These come next.
    pub(super) entries: Vec<Entry>,
    /// Nothing follows.
    pub(super) is_last: bool,
}

impl Account {
    /// Of a request that has just been sent.
    pub(super) fn new() -> Account {
        Account {
            nodes: BTreeMap::new(),
            unlisted: 0,
            targets: 0,
            states: BTreeMap::new(),
            without: BTreeMap::new(),
            end: None,
            log: Log { first: 1, ..Log::default() },
            node_bytes: 0,
        }
    }

    /// Takes in what came on the reply queue. What is no event of a request, or cannot be read, changes nothing but the log.
    pub(super) fn feed(&mut self, frame: &Frame) {
        if self.end.is_some() {
            return;
        }
        let word = frame.headers.get(header::EVENT).and_then(Event::parse);
        let (event, said) = match word {
            Some(Event::Accepted) => (Event::Accepted, self.accepted(frame)),
            Some(Event::Started) => (Event::Started, self.started(frame)),
            Some(Event::Reply) => (Event::Reply, self.reply(frame)),
            Some(Event::Lost) => (Event::Lost, self.ended(State::Lost, frame)),
            Some(Event::Expired) => (Event::Expired, self.ended(State::Expired, frame)),
            Some(Event::Cancelled) => (Event::Cancelled, self.ended(State::Cancelled, frame)),
            Some(Event::Missing) => (Event::Missing, self.missing(frame)),
            Some(Event::Refused) => (Event::Refused, Some(self.refused(frame))),
            Some(Event::Done) => (Event::Done, self.done(frame)),
            Some(Event::Answer | Event::Registered | Event::Cancel) | None => return,
        };
        if let Some(said) = said {
            self.log.push(event.as_str(), said);
        }
    }

    /// The session that asked is over.
    pub(super) fn abandon(&mut self, why: Problem) {
        if self.end.is_none() {
            let said = serde_json::to_value(&why).unwrap_or_default();
            self.end = Some(End::Abandoned(why));
            self.log.push("abandoned", said);
        }
    }

    /// How it ended, once it has.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Why it was refused or abandoned, if it was.
    pub(super) fn problem(&self) -> Option<&Problem> {
        match &self.end {
            Some(End::Refused(problem) | End::Abandoned(problem)) => Some(problem),
            Some(End::Done) | None => None,
        }
    }

    /// Where it stands.
    pub(super) fn progress(&self) -> Progress {
        match &self.end {
            None => Progress::Running,
            Some(End::Done) => Progress::Done,
            Some(End::Refused(_)) => Progress::Refused,
            Some(End::Abandoned(_)) => Progress::Abandoned,
        }
    }

    /// Targets of the brokers that have answered so far.
    pub(super) fn targets(&self) -> u64 {
        self.targets
    }

    /// How many nodes have ended in which state.
    pub(super) fn states(&self) -> &BTreeMap<State, u64> {
        &self.states
    }

    /// Brokers whose nodes are not, or not all, in the account.
    pub(super) fn without(&self) -> Vec<Missing> {
        self.without.values().cloned().collect()
    }

    /// Nodes that are counted and not listed.
    pub(super) fn unlisted(&self) -> u64 {
        self.unlisted
    }

    /// At most so many nodes after this one, and the last of them if there are more.
    pub(super) fn page(&self, after: Option<NodeId>, limit: usize) -> (Vec<RequestNode>, Option<NodeId>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.nodes.range((from, Bound::Unbounded));
        let page: Vec<RequestNode> = rest.by_ref().take(limit).map(|(id, place)| place.shown(*id)).collect();
        let next = rest.next().and(page.last()).map(|node| node.id);
        (page, next)
    }

    /// Some `most` bytes of events from this number on, at least one if there is one.
    pub(super) fn read(&self, from: u64, most: usize) -> Read {
        let from = from.max(1);
        let missed = self.log.first.saturating_sub(from);
        let skip = usize::try_from(from.saturating_sub(self.log.first)).unwrap_or(usize::MAX);
        let mut taken = 0;
        let entries: Vec<Entry> = self
            .log
            .entries
            .iter()
            .skip(skip)
            .take_while(|entry| {
                let fits = taken == 0 || taken + entry.text.len() <= most;
                taken += entry.text.len();
                fits
            })
            .cloned()
            .collect();
        let next = entries.last().map_or(from.max(self.log.first), |entry| entry.number + 1);
        Read { missed, entries, is_last: self.end.is_some() && next >= self.log.next() }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.log.bytes + self.node_bytes
    }

    /// Lets go of the oldest events until it takes so much less; the newest stays.
    pub(super) fn shrink(&mut self, by: usize) {
        let goal = self.log.bytes.saturating_sub(by);
        while self.log.bytes > goal && self.log.entries.len() > 1 {
            self.log.drop_first();
        }
    }

    /// Lets go of everything but how it ended; whoever reads on is told how many events there were.
    pub(super) fn clear(&mut self) {
        self.log = Log { first: self.log.next(), ..Log::default() };
        self.nodes.clear();
        self.without.clear();
        self.node_bytes = 0;
    }

    fn accepted(&mut self, frame: &Frame) -> Option<Value> {
        let Accepted { broker, nodes } = read(frame)?;
        let count = frame.headers.get(header::COUNT).and_then(|text| text.parse::<u64>().ok())?;
        let more = frame.headers.get(header::MORE) == Some("true");
        // It is the running total of the brokers that have answered so far.
        self.targets = self.targets.max(count);
        let said = json!({ "broker": broker, "count": count, "more": more, "nodes": nodes });
        for node in nodes {
            if let Some(place) = self.nodes.get_mut(&node.id) {
                place.broker.clone_from(&broker);
            } else if self.nodes.len() < NODES_MOST {
                self.node_bytes += NODE_BYTES + weight(&node.display);
                let place = Place { broker: broker.clone(), display: node.display, started: false, end: None };
                self.nodes.insert(node.id, place);
            } else {
                self.unlisted += 1;
            }
        }
        Some(said)
    }

    fn started(&mut self, frame: &Frame) -> Option<Value> {
        let id = node(frame)?;
        if let Some(place) = self.nodes.get_mut(&id) {
            place.started = true;
        }
        Some(json!({ "node": id }))
    }

    /// An answer as it came: what a node says is shown as data, whatever it is.
    fn reply(&mut self, frame: &Frame) -> Option<Value> {
        let id = node(frame)?;
        let status = frame.headers.get(header::STATUS).unwrap_or_default();
        // A word of a newer version: the node has answered, and it was not `ok`.
        let state = State::parse(status).unwrap_or(State::Failed);
        let display = frame.headers.get(header::DISPLAY).and_then(|text| serde_json::from_str(text).ok());
        let display: Map<String, Value> = display.unwrap_or_default();
        let body = if frame.body.is_empty() {
            Value::Null
        } else {
            let text = || Value::String(String::from_utf8_lossy(&frame.body).into_owned());
            serde_json::from_slice(&frame.body).unwrap_or_else(|_| text())
        };
        self.settle(id, state, None);
        Some(json!({ "node": id, "state": state, "display": display, "body": body }))
    }

    fn ended(&mut self, state: State, frame: &Frame) -> Option<Value> {
        let Outcome { nodes, reason } = read(frame)?;
        for id in &nodes {
            self.settle(*id, state, Some(&reason));
        }
        Some(json!({ "nodes": nodes, "reason": reason }))
    }

    fn missing(&mut self, frame: &Frame) -> Option<Value> {
        let missing: Missing = read(frame)?;
        let said = serde_json::to_value(&missing).ok()?;
        self.without.insert(missing.broker.clone(), missing);
        Some(said)
    }

    fn refused(&mut self, frame: &Frame) -> Value {
        let problem = Problem::of_frame(frame);
        let said = serde_json::to_value(&problem).unwrap_or_default();
        self.end = Some(End::Refused(problem));
        said
    }

    fn done(&mut self, frame: &Frame) -> Option<Value> {
        let done: Done = read(frame)?;
        let said = serde_json::to_value(&done).ok()?;
        self.states = done.states;
        // One that was missing before may have answered after all.
        self.without = done.without.into_iter().map(|missing| (missing.broker.clone(), missing)).collect();
        self.end = Some(End::Done);
        Some(said)
    }

    /// A node ends, once.
    fn settle(&mut self, id: NodeId, state: State, reason: Option<&str>) {
        match self.nodes.get_mut(&id) {
            Some(Place { end: Some(_), .. }) => return,
            Some(place) => place.end = Some((state, reason.map(str::to_owned))),
            None => {}
        }
        *self.states.entry(state).or_default() += 1;
    }
}

impl Place {
    fn shown(&self, id: NodeId) -> RequestNode {
        let (state, reason) = self.end.clone().map_or((None, None), |(state, reason)| (Some(state), reason));
        let (broker, display) = (self.broker.clone(), self.display.clone());
        RequestNode { id, broker, display, started: self.started, state, reason }
    }
}

impl Log {
    /// Number of the next event.
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn push(&mut self, event: &'static str, said: Value) {
        let mut object = Map::new();
        object.insert("event".into(), event.into());
        if let Value::Object(fields) = said {
            object.extend(fields);
        }
        let text = Bytes::from(serde_json::to_vec(&object).unwrap_or_default());
        self.bytes += text.len() + EVENT_BYTES;
        self.entries.push_back(Entry { number: self.next(), event, text });
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.first += 1;
            self.bytes -= entry.text.len() + EVENT_BYTES;
        }
    }
}

fn weight(display: &Map<String, Value>) -> usize {
    display.iter().map(|(name, value)| name.len() + value.as_str().map_or(16, str::len) + 32).sum()
}

fn node(frame: &Frame) -> Option<NodeId> {
    NodeId::parse(frame.headers.get(header::NODE)?).ok()
}

fn read<T: DeserializeOwned>(frame: &Frame) -> Option<T> {
    serde_json::from_slice(&frame.body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::frame::Command;
    use muster_protocol::message::NodeKey;

    fn id(number: u8) -> NodeId {
        NodeId::of(&NodeKey::new([number; 32]))
    }

    fn said(event: &str, headers: &[(&str, &str)], body: &Value) -> Frame {
        let frame = Frame::new(Command::Message).header(header::EVENT, event);
        let frame = headers.iter().fold(frame, |frame, (name, value)| frame.header(name, value));
        frame.with_body(body.to_string())
    }

    fn accepted(count: u64, nodes: &[NodeId]) -> Frame {
        let nodes: Vec<Value> = nodes.iter().map(|id| json!({ "id": id, "display": { "os": "Debian" } })).collect();
        said("accepted", &[(header::COUNT, &count.to_string())], &json!({ "broker": "noc1", "nodes": nodes }))
    }

    fn reply(id: NodeId, status: &str, body: &Value) -> Frame {
        said("reply", &[(header::NODE, &id.to_string()), (header::STATUS, status)], body)
    }

    fn texts(read: &Read) -> Vec<Value> {
        read.entries.iter().map(|entry| serde_json::from_slice(&entry.text).unwrap()).collect()
    }

    #[test]
    fn every_node_is_counted_once_and_the_log_says_all() {
        let mut account = Account::new();
        account.feed(&accepted(3, &[id(1), id(2), id(3)]));
        account.feed(&said("started", &[(header::NODE, &id(1).to_string())], &Value::Null));
        account.feed(&reply(id(1), "ok", &json!({ "answer": 42 })));
        account.feed(&reply(id(1), "failed", &json!({})));
        account.feed(&said("lost", &[], &json!({ "nodes": [id(2)], "reason": "connection closed" })));
        assert_eq!((account.progress(), account.targets()), (Progress::Running, 3));
        assert_eq!(account.states(), &BTreeMap::from([(State::Ok, 1), (State::Lost, 1)]));
        let (nodes, next) = account.page(None, 2);
        assert_eq!((nodes.len(), next.is_some()), (2, true));
        let (rest, next) = account.page(next, 2);
        assert_eq!((rest.len(), next), (1, None));
        let all: BTreeMap<NodeId, RequestNode> = nodes.into_iter().chain(rest).map(|node| (node.id, node)).collect();
        assert_eq!((all[&id(1)].state, all[&id(1)].started), (Some(State::Ok), true));
        assert_eq!(all[&id(2)].reason.as_deref(), Some("connection closed"));
        assert_eq!(all[&id(3)].state, None);

        account.feed(&said("done", &[], &json!({ "states": { "ok": 2, "lost": 1 } })));
        account.feed(&reply(id(3), "ok", &json!({})));
        assert_eq!((account.progress(), account.states()[&State::Ok]), (Progress::Done, 2), "nothing follows");
        let read = account.read(1, usize::MAX);
        let events: Vec<String> = texts(&read).iter().map(|text| text["event"].as_str().unwrap().to_owned()).collect();
        assert_eq!(events, ["accepted", "started", "reply", "reply", "lost", "done"]);
        assert_eq!(texts(&read)[2]["body"]["answer"], 42);
        assert!(read.is_last && read.missed == 0);
    }

    #[test]
    fn who_reads_on_gets_each_event_once_and_who_comes_late_is_told() {
        let mut account = Account::new();
        account.feed(&accepted(9, &[]));
        for number in 1..9 {
            account.feed(&reply(id(number), "ok", &json!({ "text": "x".repeat(100) })));
        }
        let (mut from, mut numbers) = (1, Vec::new());
        loop {
            let read = account.read(from, 250);
            assert!(read.entries.len() <= 2 && !read.is_last);
            let Some(last) = read.entries.last() else { break };
            from = last.number + 1;
            numbers.extend(read.entries.iter().map(|entry| entry.number));
        }
        assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
        let before = account.bytes();
        account.shrink(before / 2);
        assert!(account.bytes() <= before - before / 2, "{} of {before}", account.bytes());
        let read = account.read(1, usize::MAX);
        assert_eq!(read.missed + read.entries.len() as u64, 9);
        assert_eq!(read.entries[0].number, read.missed + 1);
        assert_eq!(account.read(from, usize::MAX), Read::default(), "nothing new, and more may come");
        account.shrink(usize::MAX);
        assert_eq!(account.read(1, usize::MAX).entries.len(), 1, "the newest stays");
        assert_eq!(account.states()[&State::Ok], 8, "what is counted stays counted");
        assert_eq!(account.read(u64::MAX, 1), Read::default());
    }

    #[test]
    fn it_ends_once() {
        let mut account = Account::new();
        let refusal = [(header::CODE, "too-many-targets"), (header::MESSAGE, "7 nodes match"), (header::COUNT, "7")];
        account.feed(&said("refused", &refusal, &Value::Null));
        account.abandon(Problem::unknown_caller());
        let Some(End::Refused(problem)) = account.end() else { panic!("{:?}", account.end()) };
        assert_eq!((problem.status.as_u16(), problem.count), (409, Some(7)));
        assert_eq!(texts(&account.read(1, 1))[0]["code"], "too-many-targets");

        let mut account = Account::new();
        account.abandon(Problem::unknown_caller());
        assert_eq!(account.progress(), Progress::Abandoned);
        assert_eq!(texts(&account.read(1, 1))[0]["event"], "abandoned");
    }

    #[test]
    fn what_cannot_be_read_breaks_nothing() {
        let mut account = Account::new();
        for event in ["accepted", "started", "reply", "lost", "missing", "done", "answer", "cancel", "novelty", ""] {
            account.feed(&Frame::new(Command::Message).header(header::EVENT, event).with_body("\u{1}nonsense"));
        }
        assert_eq!((account.progress(), account.read(1, 1)), (Progress::Running, Read::default()));
        account.feed(&reply(id(1), "novel", &Value::Null).with_body(&b"\xff"[..]));
        assert_eq!(account.states(), &BTreeMap::from([(State::Failed, 1)]));
        assert_eq!(texts(&account.read(1, 1))[0]["body"], "\u{fffd}");
    }
}

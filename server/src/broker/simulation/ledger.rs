//! Was everybody told the truth, and each thing once? What was sent and asked, and what came of it.

use super::actors::{header_of, json_of};
use super::aim::Aim;
use super::site::At;
use crate::broker::outbox::Message;
use muster_protocol::message::{NodeId, header};
use muster_protocol::request::{Accepted, Done, FindAnswer, Missing, Outcome, State};
use std::collections::{BTreeMap, BTreeSet};

/// How long after its deadline a request must have ended, ms.
pub(super) const GRACE: u64 = 10_000;

/// What an agent makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Answer(State),
    Silence,
    Death,
}

/// The nodes that match, by broker.
pub(super) type Nodes = BTreeMap<String, BTreeSet<NodeId>>;

/// What is known of the mesh when something is sent while it is quiet.
#[derive(Debug, Clone, Default)]
pub(super) struct Truth {
    pub(super) nodes: Nodes,
    /// Brokers that cannot be reached.
    pub(super) outside: BTreeSet<String>,
}

impl Truth {
    pub(super) fn count(&self) -> u64 {
        self.nodes.values().map(|nodes| nodes.len() as u64).sum()
    }
}

/// How a request ended.
#[derive(Debug)]
pub(super) enum Over {
    Done(Done),
    Refused { code: String },
}

/// The terms of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Terms {
    pub(super) reply_within: u64,
    pub(super) max_targets: Option<u64>,
    pub(super) expect_targets: Option<u64>,
    pub(super) allows_partial: bool,
    pub(super) is_dry: bool,
    /// Every node has the module `node`, not every one `service`.
    pub(super) to_service: bool,
}

impl Terms {
    pub(super) fn is_guarded(&self) -> bool {
        self.max_targets.is_some() || self.expect_targets.is_some()
    }
}

/// A request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) at: At,
    pub(super) sent: u64,
    pub(super) aim: Aim,
    pub(super) terms: Terms,
    /// Exact, if it was sent while the mesh was quiet.
    pub(super) truth: Option<Truth>,
    /// Matching nodes that had been where they are for a while when it was sent, and by which session.
    pub(super) settled: BTreeMap<NodeId, (String, At)>,
    pub(super) cancelled: Option<u64>,
    pub(super) accepted: Nodes,
    pub(super) ends: BTreeMap<NodeId, State>,
    missing: BTreeMap<String, Missing>,
    pub(super) plans: BTreeMap<NodeId, (Plan, u64)>,
    /// The brokers for which the ingress meant it, itself left out.
    pub(super) list: BTreeSet<String>,
    pub(super) over: Option<(u64, Over)>,
    pub(super) is_abandoned: bool,
}

/// A message to a topic.
#[derive(Debug, Default)]
struct Letter {
    /// Who must get it, if it was sent while the mesh was quiet.
    expected: Option<BTreeSet<At>>,
    got: BTreeSet<At>,
}

/// A find.
#[derive(Debug)]
struct Search {
    at: At,
    sent: u64,
    truth: Option<Truth>,
    is_answered: bool,
    is_abandoned: bool,
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    last: u64,
    pub(super) calls: BTreeMap<String, Call>,
    letters: BTreeMap<String, Letter>,
    searches: BTreeMap<String, Search>,
    /// Answers to messages: whether they have arrived.
    answers: BTreeMap<String, bool>,
}

impl Ledger {
    fn next(&mut self, prefix: &str) -> String {
        self.last += 1;
        format!("{prefix}{}", self.last)
    }

    pub(super) fn letter(&mut self, expected: Option<BTreeSet<At>>) -> String {
        let id = self.next("m");
        self.letters.insert(id.clone(), Letter { expected, got: BTreeSet::new() });
        id
    }

    /// Somebody answers a message: the text to send.
    pub(super) fn answer(&mut self) -> String {
        let id = self.next("a");
        self.answers.insert(id.clone(), false);
        id
    }

    /// Something whose answer does not matter, such as a cancel.
    pub(super) fn aside(&mut self) -> String {
        self.next("x")
    }

    pub(super) fn search(&mut self, at: At, sent: u64, truth: Option<Truth>) -> String {
        let id = self.next("q");
        self.searches.insert(id.clone(), Search { at, sent, truth, is_answered: false, is_abandoned: false });
        id
    }

    pub(super) fn call(&mut self, at: At, sent: u64, aim: Aim, terms: Terms, truth: Option<Truth>) -> String {
        let id = self.next("r");
        let call = Call {
            at,
            sent,
            aim,
            terms,
            truth,
            settled: BTreeMap::new(),
            cancelled: None,
            accepted: Nodes::new(),
            ends: BTreeMap::new(),
            missing: BTreeMap::new(),
            plans: BTreeMap::new(),
            list: BTreeSet::new(),
            over: None,
            is_abandoned: false,
        };
        self.calls.insert(id.clone(), call);
        id
    }

    /// A caller's session is over: nothing is owed to it any more.
    pub(super) fn caller_left(&mut self, at: At) {
        for call in self.calls.values_mut().filter(|call| call.at == at) {
            call.is_abandoned = true;
        }
        for search in self.searches.values_mut().filter(|search| search.at == at) {
            search.is_abandoned = true;
        }
    }

    /// A node has taken on a request.
    pub(super) fn began(&mut self, request: &str, node: NodeId, plan: Plan, due: u64) -> Result<(), String> {
        let call = self.calls.get_mut(request).ok_or_else(|| format!("{request}: nobody asked that"))?;
        if call.terms.is_dry {
            return Err(format!("{request} is a dry run, and {node} got it"));
        }
        call.plans.insert(node, (plan, due));
        Ok(())
    }

    /// A request went to a connection that is half-open.
    pub(super) fn fell_into_the_void(&mut self, request: &str, node: NodeId) {
        if let Some(call) = self.calls.get_mut(request) {
            call.plans.entry(node).or_insert((Plan::Silence, 0));
        }
    }

    /// An operator reads a message.
    pub(super) fn got(&mut self, at: At, message: &Message, now: u64) -> Result<(), String> {
        let body = String::from_utf8_lossy(&message.body).into_owned();
        if message.destination.starts_with("/topic/") {
            let letter = self.letters.get_mut(&body).ok_or_else(|| format!("`{body}`: nobody sent that"))?;
            let is_expected = letter.expected.as_ref().is_none_or(|expected| expected.contains(&at));
            return match (letter.got.insert(at), is_expected) {
                (true, true) => Ok(()),
                (false, _) => Err(format!("message {body} came twice to {at:?}")),
                (true, false) => Err(format!("message {body} came to {at:?}, who cannot be reached or has not asked")),
            };
        }
        let id = header_of(message, header::REQUEST);
        if id.starts_with('x') {
            return Ok(());
        }
        if let Some(arrived) = self.answers.get_mut(&body) {
            return if std::mem::replace(arrived, true) { Err(format!("answer {body} came twice")) } else { Ok(()) };
        }
        if let Some(search) = self.searches.get_mut(id) {
            return search.answered(id, at, message);
        }
        let call = self.calls.get_mut(id).ok_or_else(|| format!("an answer to `{id}`, which nobody asked: {body}"))?;
        if call.at != at {
            return Err(format!("{id}: its answer came to {at:?}, and {:?} asked", call.at));
        }
        call.event(message, now).map_err(|why| format!("{id}: {why}"))
    }

    /// Whether everything that was sent while the mesh was quiet has come to its end, as it must.
    pub(super) fn is_served(&self) -> Result<(), String> {
        for (id, letter) in &self.letters {
            let lacking = letter.expected.as_ref().and_then(|e| e.difference(&letter.got).next());
            if let Some(at) = lacking {
                return Err(format!("message {id} has not come to {at:?}"));
            }
        }
        for (id, search) in self.searches.iter().filter(|(_, s)| s.truth.is_some()) {
            if !search.is_answered && !search.is_abandoned {
                return Err(format!("find {id} has no answer"));
            }
        }
        for (id, call) in self.calls.iter().filter(|(_, call)| call.truth.is_some()) {
            if call.over.is_none() && !call.is_abandoned {
                return Err(format!("{id} ({}) has no account: {}", call.aim.text(), call.state()));
            }
        }
        self.answers
            .iter()
            .find(|(_, arrived)| !**arrived)
            .map_or(Ok(()), |(id, _)| Err(format!("answer {id} has not arrived")))
    }

    /// Whether nothing is overdue.
    pub(super) fn is_punctual(&self, now: u64) -> Result<(), String> {
        for (id, call) in self.calls.iter().filter(|(_, call)| call.over.is_none() && !call.is_abandoned) {
            let due = call.sent + call.terms.reply_within + GRACE;
            if now > due {
                let text = call.aim.text();
                return Err(format!("{id} ({text}) of {:?} should have ended by {due}: {}", call.at, call.state()));
            }
        }
        let late = |(_, s): &(&String, &Search)| !s.is_answered && !s.is_abandoned && now > s.sent + GRACE;
        match self.searches.iter().find(late) {
            Some((id, _)) => Err(format!("find {id} has no answer after {GRACE} ms")),
            None => Ok(()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.calls.values().all(|call| call.over.is_some() || call.is_abandoned)
            && self.searches.values().all(|search| search.is_answered || search.is_abandoned)
    }

    /// What was checked is put away; answers to old messages are not awaited for ever.
    pub(super) fn put_away(&mut self) {
        for letter in self.letters.values_mut() {
            letter.expected = None;
        }
        self.answers.values_mut().for_each(|arrived| *arrived = true);
    }
}

impl Search {
    fn answered(&mut self, id: &str, at: At, message: &Message) -> Result<(), String> {
        if std::mem::replace(&mut self.is_answered, true) || self.at != at {
            return Err(format!("find {id} was answered twice, or to somebody else"));
        }
        if header_of(message, header::EVENT) != "answer" {
            let code = header_of(message, header::CODE);
            return if self.truth.is_some() { Err(format!("find {id} was refused: {code}")) } else { Ok(()) };
        }
        let Some(truth) = &self.truth else { return Ok(()) };
        let found: FindAnswer = serde_json::from_value(json_of(message)).map_err(|e| format!("find {id}: {e}"))?;
        let nodes: BTreeSet<NodeId> = found.nodes.iter().map(|node| node.id).collect();
        let expected: BTreeSet<NodeId> = truth.nodes.values().flatten().copied().collect();
        if found.count != truth.count() || nodes != expected {
            return Err(format!("find {id} says {} {nodes:?}, and {expected:?} match", found.count));
        }
        names(&found.without, &truth.outside).map_err(|why| format!("find {id}: {why}"))
    }
}

impl Call {
    fn state(&self) -> String {
        let open: Vec<&NodeId> =
            self.accepted.values().flatten().filter(|node| !self.ends.contains_key(node)).collect();
        format!("list {:?}, accepted {:?}, without an end {open:?}, plans {:?}", self.list, self.accepted, self.plans)
    }

    fn event(&mut self, message: &Message, now: u64) -> Result<(), String> {
        let event = header_of(message, header::EVENT);
        if self.over.is_some() {
            return Err(format!("`{event}` after its end"));
        }
        match event {
            "accepted" => {
                let accepted: Accepted = read(message)?;
                let nodes = self.accepted.entry(accepted.broker).or_default();
                for node in accepted.nodes {
                    if !nodes.insert(node.id) {
                        return Err(format!("{} was accepted twice by one broker", node.id));
                    }
                }
            }
            "started" => {}
            "reply" => {
                let state = State::parse(header_of(message, header::STATUS)).ok_or("a reply without a state")?;
                let node = NodeId::parse(header_of(message, header::NODE)).map_err(|e| e.to_string())?;
                self.end(node, state)?;
            }
            "lost" | "expired" | "cancelled" => {
                let state = State::parse(event).ok_or("an outcome that is no state")?;
                let outcome: Outcome = read(message)?;
                for node in outcome.nodes {
                    self.end(node, state)?;
                }
            }
            "missing" => {
                let missing: Missing = read(message)?;
                self.missing.insert(missing.broker.clone(), missing);
            }
            "refused" => {
                let code = header_of(message, header::CODE).to_owned();
                if !self.plans.is_empty() {
                    return Err(format!("refused ({code}), and {:?} got it", self.plans));
                }
                self.over = Some((now, Over::Refused { code }));
                return self.check_over();
            }
            "done" => {
                self.over = Some((now, Over::Done(read(message)?)));
                return self.check_over();
            }
            other => return Err(format!("an event `{other}`")),
        }
        Ok(())
    }

    fn end(&mut self, node: NodeId, state: State) -> Result<(), String> {
        match self.ends.insert(node, state) {
            Some(before) => Err(format!("{node} ended as {before}, and then as {state}")),
            None => Ok(()),
        }
    }

    /// What holds of every account, whatever happened in between.
    fn check_over(&self) -> Result<(), String> {
        let Some((at, over)) = &self.over else { return Ok(()) };
        if *at > self.sent + self.terms.reply_within + GRACE {
            return Err(format!("it ended {} ms after it was sent", at - self.sent));
        }
        if let Over::Done(done) = over {
            let accepted: BTreeSet<NodeId> = self.accepted.values().flatten().copied().collect();
            let ended: BTreeSet<NodeId> = self.ends.keys().copied().collect();
            if !self.terms.is_dry && accepted != ended {
                return Err(format!("done; accepted were {accepted:?}, and an end have {:?}", self.ends));
            }
            let mut states: BTreeMap<State, u64> = BTreeMap::new();
            for state in self.ends.values() {
                *states.entry(*state).or_default() += 1;
            }
            if states != done.states {
                return Err(format!("done says {:?}, and it was {:?}", done.states, self.ends));
            }
        }
        match &self.truth {
            Some(truth) => self.check_exactly(truth, *at, over),
            None => Ok(()),
        }
    }

    /// What holds while the mesh is quiet.
    fn check_exactly(&self, truth: &Truth, at: u64, over: &Over) -> Result<(), String> {
        let count = truth.count();
        let is_partial = self.terms.is_guarded() && !self.terms.allows_partial && !truth.outside.is_empty();
        let is_over = self.terms.max_targets.is_some_and(|most| count > most);
        let is_other = self.terms.expect_targets.is_some_and(|expected| count != expected);
        let codes: Vec<&str> =
            [(is_partial, "partial"), (is_over, "too-many-targets"), (is_other, "unexpected-targets")]
                .into_iter()
                .filter_map(|(holds, code)| holds.then_some(code))
                .collect();
        let done = match over {
            Over::Refused { code } if codes.contains(&code.as_str()) => return Ok(()),
            // It was cancelled before its guard was decided.
            Over::Refused { code } if self.cancelled.is_some() && code == "cancelled" => return Ok(()),
            Over::Refused { code } => return Err(format!("refused as {code}; that may be {codes:?}")),
            Over::Done(_) if !codes.is_empty() => return Err(format!("done, and it is to be refused as {codes:?}")),
            Over::Done(done) => done,
        };
        let accepted: Nodes = self.accepted.clone().into_iter().filter(|(_, nodes)| !nodes.is_empty()).collect();
        if accepted != truth.nodes {
            return Err(format!("accepted were {accepted:?}, and {:?} match", truth.nodes));
        }
        names(&done.without, &truth.outside)?;
        if self.terms.is_dry {
            return Ok(());
        }
        let mut last = self.sent;
        for node in truth.nodes.values().flatten() {
            let Some((plan, due)) = self.plans.get(node) else {
                if self.cancelled.is_some() && self.ends[node] == State::Cancelled {
                    continue;
                }
                return Err(format!("{node} never got it, and ended as {}", self.ends[node]));
            };
            let is_planned = match plan {
                Plan::Answer(state) => self.ends[node] == *state,
                Plan::Silence => self.ends[node] == State::Expired,
                Plan::Death => false,
            };
            if !is_planned && self.cancelled.is_none() {
                return Err(format!("{node} was to end by {plan:?}, and ended as {}", self.ends[node]));
            }
            last = last.max(if *plan == Plan::Silence { self.sent + self.terms.reply_within } else { *due });
        }
        if at > last + 2_500 {
            return Err(format!("all was over at {last}, and done came at {at}"));
        }
        self.check_list(truth)
    }

    /// The request goes where a node can match, and nowhere else.
    fn check_list(&self, truth: &Truth) -> Result<(), String> {
        let is_decided = self.aim.is_plain() && !self.terms.to_service;
        match self.list.iter().find(|broker| is_decided && !truth.nodes.contains_key(*broker)) {
            Some(other) => Err(format!("it went to {other}, where no node can match")),
            None => Ok(()),
        }
    }
}

fn names(without: &[Missing], outside: &BTreeSet<String>) -> Result<(), String> {
    let named: BTreeSet<String> = without.iter().map(|missing| missing.broker.clone()).collect();
    if named == *outside && named.len() == without.len() {
        return Ok(());
    }
    Err(format!("without {without:?}, and out of reach are {outside:?}"))
}

fn read<T: serde::de::DeserializeOwned>(message: &Message) -> Result<T, String> {
    serde_json::from_slice(&message.body).map_err(|e| format!("its body: {e}"))
}

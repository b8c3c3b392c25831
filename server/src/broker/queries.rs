//! What does the broker answer by itself? Facts, find, report, node, cancel, explain: no agent is asked.

use super::answers::Announced;
use super::answers::{event_headers, json_bytes};
use super::event::{Find, Now, Purpose, Registration, Sent, SessionId, Target};
use super::nodes::{Departed, Node, Whole, shown};
use super::note::{Note, Weight};
use super::{Broker, Session};
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::facts::{NodeDocument, Path};
use muster_protocol::filter::{Document, Filter};
use muster_protocol::message::{NodeId, RequestId, header};
use muster_protocol::request::{
    CancelAnswer, Event, FindAnswer, FoundNode, Gone, GoneNode, NodeAnswer, Registered, ReportAnswer, ValueCount,
};
use serde::Serialize;
use serde_json::{Map, Value};

/// Gone nodes in one answer.
const GONE_MOST: usize = 1_000;

/// Rows whose documents are parsed for one page, beyond which the page ends early: parsing is what costs.
const PARSED_MOST: usize = 64;

/// Bytes of facts after which a page ends, so that no answer fills an outbox.
const PAGE_BYTES: usize = 256 * 1024;

/// Where an answer goes.
struct Asker {
    session: SessionId,
    queue: Destination,
    request: Option<RequestId>,
}

impl Broker {
    /// A SEND to a system destination; what it cost.
    pub(super) fn query(&mut self, id: SessionId, sent: Sent, now: Now) -> Result<usize, Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(1) };
        self.may_write(session, &sent.destination)?;
        let Some(reply_to) = &sent.reply_to else {
            return Err(Refusal::new(
                Code::BadHeader,
                format!("reply-to: {} answers on a reply queue", sent.destination),
            ));
        };
        let asker = Asker { session: id, queue: self.own_queue(id, reply_to)?, request: sent.request.clone() };
        match sent.purpose {
            Purpose::Facts(registration) => self.facts(&asker, registration, now),
            Purpose::Find(find) => self.find(&asker, &sent.target, sent.nodes.as_deref(), &find, now),
            Purpose::Report { fact, limit } => self.report(&asker, &sent.target, &fact, limit, now),
            Purpose::Node { node, explain } => self.node(&asker, node, explain.as_ref(), now),
            Purpose::Cancel(request) => {
                let cancelled = self.cancel(id, &request, now)?;
                self.reply_with(&asker, &CancelAnswer { cancelled }, now);
                Ok(cancelled as usize)
            }
            Purpose::Explain(query) => {
                let answer = self.access.explain(&query.user, &query.right, &query.destination)?;
                self.reply_with(&asker, &answer, now);
                Ok(1)
            }
            Purpose::Message | Purpose::Request(_) | Purpose::Answer(_) => Err(Refusal::new(
                Code::Unsupported,
                format!("{}: there is no such system destination", sent.destination),
            )),
        }
    }

    fn facts(&mut self, asker: &Asker, registration: Registration, now: Now) -> Result<usize, Refusal> {
        let row = self.sessions.get(asker.session).and_then(|s| s.row);
        let Some(row) = row else {
            return Err(Refusal::new(Code::Denied, "only an agent publishes facts"));
        };
        let policy = self.access.clone();
        let before = self.nodes.get(row).and_then(Node::hash).map(str::to_owned);
        let registered = self.nodes.register(row, &registration, &policy);
        let Some((first, effective)) = registered.map_err(|e| Refusal::new(Code::BadFacts, e.to_string()))? else {
            return Ok(1);
        };
        let user = self.sessions.get(asker.session).map(|s| s.user.clone());
        let asserted = user.map_or(Value::Null, |user| user.facts.clone());
        self.say_registered(&asker.queue, &registration.hash, asserted, now);
        if before.as_deref() != Some(registration.hash.as_str()) {
            let Some(node) = self.nodes.get(row) else { return Ok(1) };
            let whole = Whole { document: NodeDocument::clone(&registration.document), effective };
            let node = Announced { id: node.id, collective: node.collective.clone(), whole };
            let what = if first { "registered" } else { "changed" };
            self.announce(what, &node, None, now);
            self.note(Note::new(Weight::Detail, "facts accepted").with("node", node.id).with("event", what));
        }
        // A document costs about as much as a slice of deliveries.
        Ok(64)
    }

    fn say_registered(&mut self, queue: &Destination, hash: &str, asserted: Value, now: Now) {
        let mut headers = event_headers(None, Event::Registered);
        headers.push(header::HASH, hash);
        self.put_on_queue(queue, headers, json_bytes(&Registered { asserted }), now);
    }

    /// After a policy change: every agent hears what is asserted of it now.
    pub(super) fn assert_again(&mut self, now: Now) {
        let agents: Vec<(Destination, String, Value)> = self
            .sessions
            .iter()
            .filter_map(|(_, session)| {
                let hash = self.nodes.get(session.row?)?.hash()?.to_owned();
                Some((session.queues.values().next()?.clone(), hash, session.user.facts.clone()))
            })
            .collect();
        for (queue, hash, asserted) in agents {
            self.say_registered(&queue, &hash, asserted, now);
        }
    }

    /// The target of a find or report: hidden facts are refused; `all` shows what the scope shows and needs no further right.
    fn visible<'a>(&self, session: &Session, target: &'a Target) -> Result<Option<&'a Filter>, Refusal> {
        match target {
            Target::Filter(filter) => self.refuse_hidden(&session.user, filter).map(|()| Some(filter)),
            Target::All => Ok(None),
            Target::Absent => Err(Refusal::new(Code::TargetRequired, "muster-target: give a filter, or `all`")),
        }
    }

    fn refuse_hidden_path(&self, session: &Session, path: &Path) -> Result<(), Refusal> {
        if self.access.hidden(&session.user).touches(path) {
            return Err(Refusal::new(Code::HiddenFact, format!("{path}: the policy hides this fact")));
        }
        Ok(())
    }

    fn find(
        &mut self,
        asker: &Asker,
        target: &Target,
        only: Option<&[NodeId]>,
        find: &Find,
        now: Now,
    ) -> Result<usize, Refusal> {
        let Some(session) = self.sessions.get(asker.session) else { return Ok(1) };
        let filter = self.visible(session, target)?;
        for path in &find.facts {
            self.refuse_hidden_path(session, path)?;
        }
        let scope = session.user.scope.as_ref();
        let looked_at = self.nodes.cost(filter, scope);
        let mut rows = self.nodes.matching(filter, scope);
        if let Some(module) = &find.module {
            rows &= self.nodes.with_module(module);
        }
        if let Some(only) = only {
            rows &= only.iter().filter_map(|id| self.nodes.row(id)).collect::<roaring::RoaringBitmap>();
        }
        let count = rows.len();
        let hidden = self.access.hidden(&session.user);
        let limit = if find.facts.is_empty() { find.limit } else { find.limit.min(PARSED_MOST) };
        rows.remove_range(..find.from_row);
        let (mut page, mut nodes, mut bytes) = (rows.iter(), Vec::new(), 0);
        while nodes.len() < limit && bytes < PAGE_BYTES {
            let Some(row) = page.next() else { break };
            let Some(node) = self.nodes.get(row) else { continue };
            let facts = if find.facts.is_empty() {
                Map::new()
            } else {
                self.facts_of(row, &find.facts, |path| hidden.hides(path))
            };
            if !facts.is_empty() {
                bytes += json_bytes(&facts).len();
            }
            nodes.push(FoundNode {
                id: node.id,
                display: shown(node.display(), |path| hidden.touches(path)),
                facts,
                since: node.since,
            });
        }
        let next = page.next().map(|row| row.to_string());
        let gone = match find.from_row {
            0 if only.is_none() => self.nodes.gone_matching(filter, scope, GONE_MOST),
            _ => Vec::new(),
        };
        let gone = gone.into_iter().map(|gone| gone_node(gone, |path| hidden.touches(path))).collect();
        // What a node that registers will report is not known, so nobody with a scope learns of it.
        let registering = if scope.is_none() { self.nodes.registering() as u64 } else { 0 };
        let cost = nodes.len() * if find.facts.is_empty() { 1 } else { 8 };
        let answer = FindAnswer { count, nodes, next, registering, gone, without: Vec::new() };
        self.reply_with(asker, &answer, now);
        Ok(64 + looked_at + cost)
    }

    fn facts_of(&self, row: u32, paths: &[Path], hides: impl Fn(&Path) -> bool) -> Map<String, Value> {
        let Some(whole) = self.nodes.whole(row, &self.access) else { return Map::new() };
        let value = |path: &Path| whole.effective.get(path).filter(|_| !hides(path)).cloned();
        paths.iter().filter_map(|path| Some((path.to_string(), value(path)?))).collect()
    }

    fn report(
        &mut self,
        asker: &Asker,
        target: &Target,
        fact: &Path,
        limit: usize,
        now: Now,
    ) -> Result<usize, Refusal> {
        let Some(session) = self.sessions.get(asker.session) else { return Ok(1) };
        let filter = self.visible(session, target)?;
        self.refuse_hidden_path(session, fact)?;
        let looked_at = self.nodes.cost(filter, session.user.scope.as_ref());
        let rows = self.nodes.matching(filter, session.user.scope.as_ref());
        let report = self.nodes.index().report(fact, &rows);
        let more = report.values.len().saturating_sub(limit) as u64;
        let values = report.values.into_iter().take(limit);
        let values = values
            .map(|(value, count)| ValueCount { value: serde_json::to_value(value).unwrap_or_default(), count })
            .collect();
        let missing = report.missing + report.without_value;
        self.reply_with(asker, &ReportAnswer { count: rows.len(), values, missing, more, without: Vec::new() }, now);
        Ok(256 + looked_at)
    }

    fn node(&mut self, asker: &Asker, id: NodeId, explain: Option<&Filter>, now: Now) -> Result<usize, Refusal> {
        let Some(session) = self.sessions.get(asker.session) else { return Ok(1) };
        if let Some(filter) = explain {
            self.refuse_hidden(&session.user, filter)?;
        }
        let hidden = self.access.hidden(&session.user);
        let (whole, collective, since, gone, display) = if let Some(row) = self.nodes.row(&id) {
            let node = self.nodes.get(row).ok_or_else(|| unknown(id))?;
            let whole = self.nodes.whole(row, &self.access);
            (whole, node.collective.to_string(), node.since, None, node.display())
        } else {
            let node = self.nodes.departed(&id).ok_or_else(|| unknown(id))?;
            let whole = self.nodes.whole_departed(node, &self.access);
            let gone = Some(Gone { at: node.at, reason: node.reason.clone() });
            (whole, node.collective.to_string(), node.since, gone, node.display())
        };
        // A node outside the scope, or one whose facts are not known yet, must look like none to a scoped user.
        let scope = session.user.scope.as_ref();
        let inside =
            |scope: &Filter| whole.as_ref().is_some_and(|w| scope.matches(w.effective.as_value(), &w.document.classes));
        if !scope.is_none_or(inside) {
            return Err(unknown(id));
        }
        let state = match (&gone, &whole) {
            (Some(_), _) => "gone",
            (None, None) => "registering",
            (None, Some(_)) => "connected",
        };
        let mut answer = NodeAnswer {
            id,
            state: state.to_owned(),
            collective,
            since,
            gone,
            facts: Value::Object(Map::new()),
            asserted: Vec::new(),
            classes: Vec::new(),
            modules: Default::default(),
            display: shown(display, |path| hidden.touches(path)),
            explanation: None,
            broker: self.settings.name.clone(),
        };
        if let Some(whole) = whole {
            if let Some(filter) = explain {
                let subject = Document::new(whole.effective.as_value(), &whole.document.classes);
                answer.explanation = serde_json::to_value(filter.explain(&subject)).ok();
            }
            answer.facts = hidden.redact(whole.effective.as_value());
            answer.asserted = self.access.asserted().map(str::to_owned).collect();
            answer.classes = whole.document.classes.iter().cloned().collect();
            answer.modules = whole.document.modules.clone();
        }
        self.reply_with(asker, &answer, now);
        Ok(64)
    }

    fn reply_with(&mut self, asker: &Asker, answer: &impl Serialize, now: Now) {
        let mut headers = event_headers(asker.request.as_ref(), Event::Answer);
        headers.push("content-type", "application/json");
        self.put_on_queue(&asker.queue, headers, json_bytes(answer), now);
    }
}

fn unknown(id: NodeId) -> Refusal {
    Refusal::new(Code::NoSuchNode, format!("{id}: no such node is known here, or it is outside your scope"))
}

fn gone_node(gone: &Departed, hides: impl Fn(&Path) -> bool) -> GoneNode {
    GoneNode {
        id: gone.id,
        display: shown(gone.display(), hides),
        reason: gone.reason.clone(),
        at: gone.at,
        since: gone.since,
    }
}

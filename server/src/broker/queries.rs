//! What does the broker answer by itself? Facts, find, report, node, cancel, explain, mesh: no agent is asked.
//!
//! What nodes of other brokers are asked about is put to these brokers too; each answers for its own nodes by its own policy.

use super::Broker;
use super::access::{KeptBack, User};
use super::answers::{Announced, event_headers, json_bytes};
use super::errand::Chore;
use super::event::{Find, Now, Purpose, Registration, Sent, SessionId, Target};
use super::inquiries::{Asker, Due, Gather, Gathered};
use super::mesh::Asked;
use super::nodes::{Departed, Node, shown};
use super::note::{Note, Weight};
use super::send::letter;
use bytes::Bytes;
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::facts::Path;
use muster_protocol::filter::{Document, Filter};
use muster_protocol::link::{Answer, Ask, Before, Query, Refused, Said, Word};
use muster_protocol::message::{BrokerName, NodeId, header};
use muster_protocol::request::{
    CancelAnswer, Event, FindAnswer, FoundNode, Gone, GoneNode, Missing, NodeAnswer, Registered, ReportAnswer,
    ValueCount,
};
use serde::Serialize;
use serde_json::{Map, Value};

/// Gone nodes in one answer.
const GONE_MOST: usize = 1_000;

/// Rows whose documents are parsed for one page, beyond which the page ends early: parsing is what costs.
const PARSED_MOST: usize = 64;

/// Bytes of facts after which a page ends, so that no answer fills an outbox, or the head of a frame.
pub(super) const PAGE_BYTES: usize = 256 * 1024;

impl Broker {
    /// A SEND to a system destination; what it cost.
    pub(super) fn query(&mut self, id: SessionId, sent: Sent, now: Now) -> Result<usize, Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(1) };
        let user = session.user.clone();
        self.may_write(&user, &sent.destination)?;
        let Some(reply_to) = &sent.reply_to else {
            return Err(Refusal::new(
                Code::BadHeader,
                format!("reply-to: {} answers on a reply queue", sent.destination),
            ));
        };
        let asker = Asker { session: id, queue: self.own_queue(id, reply_to)?, request: sent.request.clone() };
        match sent.purpose {
            Purpose::Facts(registration) => self.facts(&asker, registration, now),
            Purpose::Find(_) | Purpose::Report { .. } | Purpose::Node { .. } => self.inquire(asker, &user, sent, now),
            Purpose::Cancel(request) => {
                let cancelled = self.cancel(id, &request, now)?;
                self.reply_with(&asker, &CancelAnswer { cancelled }, now);
                Ok(cancelled as usize)
            }
            Purpose::Explain { .. } => self.explain(asker, &user, sent, now),
            Purpose::Diff(_) | Purpose::Lint(_) | Purpose::Show(_) => self.ask_policy(&asker, sent.purpose, now),
            Purpose::Edit(_) | Purpose::Take(_) | Purpose::Authority => self.ask_authority(asker, &user, sent, now),
            Purpose::History(query) => self.fetch(asker, Chore::History(query)),
            Purpose::Audit(query) => self.fetch(asker, Chore::Audit(query)),
            Purpose::Sessions(query) => self.show_sessions(&asker, &user, &query, now),
            Purpose::Close(query) => self.close_for(&asker, &user, &query, now),
            Purpose::Mesh => {
                let mut answer = self.mesh_answer();
                if user.kept_back(&sent.destination) == Some(KeptBack::Numbers) {
                    answer.brokers.iter_mut().for_each(|broker| broker.nodes = None);
                }
                self.reply_with(&asker, &answer, now);
                Ok(16)
            }
            Purpose::Message | Purpose::Request(_) | Purpose::Answer(_) => Err(Refusal::new(
                Code::Unsupported,
                format!("{}: there is no such system destination", sent.destination),
            )),
        }
    }

    /// Puts a question about nodes to all brokers that may have something to say, this one included.
    pub(super) fn inquire(&mut self, asker: Asker, user: &User, sent: Sent, now: Now) -> Result<usize, Refusal> {
        self.may_inquire(asker.session)?;
        let me = self.mesh.me().clone();
        let filter = Broker::filter_of(user, &sent);
        // What a request would reach is asked of those to whom it would go.
        let topic = match &sent.purpose {
            Purpose::Explain { query, .. } => Destination::parse(&query.destination).ok(),
            _ => None,
        };
        let asked = Asked { target: filter.as_ref(), scoped: user.scope.is_some(), ..Asked::default() };
        let asked = match &sent.purpose {
            Purpose::Find(find) => Asked { nodes: true, module: find.module.as_deref(), also_gone: true, ..asked },
            Purpose::Report { .. } => Asked { nodes: true, ..asked },
            Purpose::Explain { .. } => {
                let module = topic.as_ref().and_then(Destination::as_action).map(|(_, module, _)| module);
                Asked { nodes: true, module, ..asked }
            }
            _ => asked,
        };
        let audience = self.mesh.audience(topic.as_ref(), asked, now.tick);
        let mut without: Vec<Missing> = audience.without;
        let mut brokers: Vec<BrokerName> = audience.to;
        brokers.push(me.clone());
        brokers.sort();
        let (gather, ask) = match &sent.purpose {
            Purpose::Find(find) => {
                let mut later = Vec::new();
                if let Some(page) = &find.later {
                    later = brokers.iter().filter(|broker| **broker > page.broker).cloned().collect();
                    brokers.retain(|broker| *broker == page.broker);
                    without.retain(|missing| missing.broker == page.broker.as_str());
                }
                let gather = Gather::Find { limit: find.limit, count: find.later.as_ref().map(|p| p.count), later };
                let facts = find.facts.iter().map(ToString::to_string).collect();
                let module = find.module.clone();
                (gather, Ask::Find { facts, limit: find.limit as u64, after: find.after, module })
            }
            Purpose::Report { fact, limit } => {
                (Gather::Report { limit: *limit }, Ask::Report { fact: fact.to_string(), limit: *limit as u64 })
            }
            Purpose::Node { node, explain } => {
                let explain = explain.as_ref().map(ToString::to_string);
                (Gather::Node { node: *node }, Ask::Node { node: *node, explain })
            }
            Purpose::Explain { query, .. } => {
                let answer = self.access.explain(&query.user, &query.right, &query.destination)?;
                let (user, destination) = (query.user.clone(), query.destination.clone());
                (Gather::Explain(Box::new(answer)), Ask::Reach { user, destination })
            }
            _ => return Ok(1),
        };
        // What this broker refuses is refused whole.
        let (said, cost) = match self.say_of_nodes(user, &sent) {
            Ok((said, cost)) => (Some(said), cost),
            Err(refusal) if refusal.code == Code::NoSuchNode => (None, 64),
            Err(refusal) => return Err(refusal),
        };
        let serial = self.inquiries.next_serial();
        let query = Query { serial, letter: letter(&user.name, &Sent { reply_to: None, ..sent }), ask };
        let others: Vec<BrokerName> = brokers.iter().filter(|broker| **broker != me).cloned().collect();
        let others =
            if matches!(&said, Some(Said::Node(node)) if node.state == "connected") { Vec::new() } else { others };
        let said = said.unwrap_or_else(|| Said::Refused(unknown_here()));
        self.inquiries.begin(asker, gather, query.clone(), brokers, without, now.tick);
        self.inquiries.answer(serial, &me, said);
        for broker in others {
            self.say(&broker, Word::Query(query.clone()), Bytes::new(), now);
        }
        self.finish_inquiry(serial, now)?;
        Ok(cost)
    }

    /// What this broker says of its own nodes, to a user of any broker; and what it cost.
    fn say_of_nodes(&self, user: &User, sent: &Sent) -> Result<(Said, usize), Refusal> {
        match &sent.purpose {
            Purpose::Find(find) => self
                .find(user, &sent.target, sent.nodes.as_deref(), find)
                .map(|(answer, cost)| (Said::Find(answer), cost)),
            Purpose::Report { fact, limit } => {
                self.report_of(user, &sent.target, fact, *limit).map(|(answer, cost)| (Said::Report(answer), cost))
            }
            Purpose::Node { node, explain } => {
                self.node(user, *node, explain.as_ref()).map(|answer| (Said::Node(Box::new(answer)), 64))
            }
            Purpose::Explain { query, filter: Some(filter) } => {
                self.reach(user, query, filter).map(|(reached, cost)| (Said::Reach(reached), cost))
            }
            _ => Err(Refusal::new(Code::Unsupported, "this broker does not know the question")),
        }
    }

    /// A question that another broker passes on for its user; what it cost.
    pub(super) fn answer_query(
        &mut self,
        from: &BrokerName,
        serial: u64,
        user: &User,
        sent: Sent,
        now: Now,
    ) -> Result<usize, Refusal> {
        self.may_write(user, &sent.destination)?;
        if let Purpose::Edit(query) = sent.purpose {
            return self.edit_for(from, serial, user, query, now);
        }
        let (said, cost) = self.say_of_nodes(user, &sent)?;
        self.say(from, Word::Answer(Answer { serial, said }), Bytes::new(), now);
        Ok(cost)
    }

    pub(super) fn refuse_query(&mut self, from: &BrokerName, serial: u64, refusal: &Refusal, now: Now) {
        let said = Said::Refused(Refused { code: refusal.code.to_string(), text: refusal.text.clone() });
        self.say(from, Word::Answer(Answer { serial, said }), Bytes::new(), now);
    }

    /// A broker has answered a question.
    pub(super) fn take_answer(&mut self, from: &BrokerName, answer: Answer, now: Now) {
        self.inquiries.answer(answer.serial, from, answer.said);
        self.close_inquiry(answer.serial, now);
    }

    /// A question wants to be looked at: ask again, or go on without a broker.
    pub(super) fn look_at_inquiry(&mut self, serial: u64, now: Now) {
        match self.inquiries.look(serial, now.tick, |broker| self.mesh.lost_since(broker)) {
            None => {}
            Some(Due::Again(brokers)) => {
                let Some(query) = self.inquiries.get(serial).map(|inquiry| inquiry.query.clone()) else { return };
                for broker in brokers {
                    self.say(&broker, Word::Query(query.clone()), Bytes::new(), now);
                }
            }
            Some(Due::Silent(broker, why)) => {
                let session = self.inquiries.get(serial).and_then(|inquiry| self.sessions.get(inquiry.asker.session));
                let scoped = session.is_none_or(|session| session.user.scope.is_some());
                let missing = self.mesh.silent(&broker, why, scoped);
                self.inquiries.miss(serial, missing);
                self.close_inquiry(serial, now);
            }
        }
    }

    fn close_inquiry(&mut self, serial: u64, now: Now) {
        let asker = self.inquiries.get(serial).map(|inquiry| inquiry.asker.clone());
        if let (Err(refusal), Some(asker)) = (self.finish_inquiry(serial, now), asker) {
            self.refuse_asker(&asker, refusal, now);
        }
    }

    /// A question that was taken is refused after all.
    pub(super) fn refuse_asker(&mut self, asker: &Asker, refusal: Refusal, now: Now) {
        if asker.request.is_some() {
            self.count_refusal(refusal.code);
            self.record_refusal(asker.session, None, asker.request.clone(), &refusal);
            self.put_refusal(&asker.queue, asker.request.as_ref(), &refusal, None, now);
        } else {
            self.refuse(asker.session, refusal, None, now);
        }
    }

    fn finish_inquiry(&mut self, serial: u64, now: Now) -> Result<(), Refusal> {
        match self.inquiries.finish(serial) {
            None => {}
            Some((asker, Gathered::Find(answer))) => self.reply_with(&asker, &answer, now),
            Some((asker, Gathered::Report(answer))) => self.reply_with(&asker, &answer, now),
            Some((asker, Gathered::Node(answer))) => self.reply_with(&asker, &answer, now),
            Some((asker, Gathered::Explain(answer))) => self.reply_with(&asker, &answer, now),
            Some((asker, Gathered::Edit(Ok(answer)))) => self.reply_with(&asker, &answer, now),
            Some((_, Gathered::Edit(Err(refusal)))) => return Err(refusal),
            Some((_, Gathered::NoSuchNode(node, without))) => {
                let mut refusal = unknown(node);
                if !without.is_empty() {
                    let names: Vec<&str> = without.iter().map(|missing| missing.broker.as_str()).collect();
                    refusal.text = format!("{}; these brokers could not be asked: {}", refusal.text, names.join(", "));
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn facts(&mut self, asker: &Asker, registration: Registration, now: Now) -> Result<usize, Refusal> {
        let row = self.sessions.get(asker.session).and_then(|s| s.row);
        let Some(row) = row else {
            return Err(Refusal::new(Code::Denied, "only an agent publishes facts"));
        };
        let policy = self.access.clone();
        let before = self.nodes.get(row).and_then(Node::hash).map(str::to_owned);
        let is_change = before.as_ref().is_some_and(|hash| *hash != registration.hash);
        let collective = self.nodes.get(row).map(|node| node.collective.clone()).unwrap_or_default();
        // Its whole document is read again for this, so only if somebody listens.
        let was = if is_change && self.is_announced(&collective, now) { self.nodes.whole(row, &policy) } else { None };
        let registered = self.nodes.register(row, &registration, &policy);
        let Some((first, effective)) = registered.map_err(|e| Refusal::new(Code::BadFacts, e.to_string()))? else {
            return Ok(1);
        };
        let user = self.sessions.get(asker.session).map(|s| s.user.clone());
        let asserted = user.map_or(Value::Null, |user| user.facts.clone());
        self.say_registered(&asker.queue, &registration.hash, asserted, now);
        if before.as_deref() != Some(registration.hash.as_str()) {
            let Some(node) = self.nodes.get(row).map(|node| node.id) else { return Ok(1) };
            let what = if first { "registered" } else { "changed" };
            let document = &registration.document;
            let before = was.map(|was| Before {
                facts: effective.diff(&was.effective),
                labels: was.document.classes != document.classes || was.document.modules != document.modules,
            });
            self.announce(
                &collective,
                Announced { event: what, node, facts: &effective, classes: &document.classes, reason: None, before },
                now,
            );
            self.note(Note::new(Weight::Detail, "facts accepted").with("node", node).with("event", what));
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
                Some((session.queues.all().next()?.clone(), hash, session.user.facts.clone()))
            })
            .collect();
        for (queue, hash, asserted) in agents {
            self.say_registered(&queue, &hash, asserted, now);
        }
    }

    /// The target of a find or report: hidden facts are refused; `all` shows what the scope shows and needs no further right.
    fn visible<'a>(&self, user: &User, target: &'a Target) -> Result<Option<&'a Filter>, Refusal> {
        match target {
            Target::Filter(filter) => self.refuse_hidden(user, filter).map(|()| Some(filter)),
            Target::All => Ok(None),
            Target::Absent => Err(Refusal::new(Code::TargetRequired, "muster-target: give a filter, or `all`")),
        }
    }

    fn refuse_hidden_path(&self, user: &User, path: &Path) -> Result<(), Refusal> {
        if self.access.hidden(user).touches(path) {
            return Err(Refusal::new(Code::HiddenFact, format!("{path}: the policy hides this fact")));
        }
        Ok(())
    }

    fn find(
        &self,
        user: &User,
        target: &Target,
        only: Option<&[NodeId]>,
        find: &Find,
    ) -> Result<(FindAnswer, usize), Refusal> {
        let filter = self.visible(user, target)?;
        for path in &find.facts {
            self.refuse_hidden_path(user, path)?;
        }
        let scope = user.scope.as_ref();
        let looked_at = self.nodes.cost(filter, scope);
        let mut rows = self.nodes.matching(filter, scope);
        if let Some(module) = &find.module {
            rows &= self.nodes.with_module(module);
        }
        if let Some(only) = only {
            rows &= only.iter().filter_map(|id| self.nodes.row(id)).collect::<roaring::RoaringBitmap>();
        }
        let count = rows.len();
        let hidden = self.access.hidden(user);
        let limit = if find.facts.is_empty() { find.limit } else { find.limit.min(PARSED_MOST) };
        let page = self.nodes.page(&rows, find.after, limit.saturating_add(1));
        let (mut nodes, mut bytes, mut next) = (Vec::new(), 0, None);
        for row in page {
            let Some(node) = self.nodes.get(row) else { continue };
            if nodes.len() >= limit || bytes >= PAGE_BYTES {
                // After the last one that was shown: who asks knows nothing of the first one that was not.
                next = nodes.last().map(|last: &FoundNode| last.id.to_string());
                break;
            }
            let facts = if find.facts.is_empty() {
                Map::new()
            } else {
                self.facts_of(row, &find.facts, |path| hidden.hides(path))
            };
            let display = shown(node.display(), |path| hidden.touches(path));
            bytes += json_bytes(&facts).len() + json_bytes(&display).len();
            nodes.push(FoundNode { id: node.id, display, facts, since: node.since });
        }
        let gone = match find.later {
            None if only.is_none() => self.nodes.gone_matching(filter, scope, GONE_MOST),
            _ => Vec::new(),
        };
        let gone = gone.into_iter().map(|gone| gone_node(gone, |path| hidden.touches(path)));
        let mut bytes = 0;
        let gone = gone.take_while(|gone| within_page(&mut bytes, gone)).collect();
        // What a node that registers will report is not known, so nobody with a scope learns of it.
        let registering = if scope.is_none() { self.nodes.registering() as u64 } else { 0 };
        let cost = nodes.len() * if find.facts.is_empty() { 1 } else { 8 };
        Ok((FindAnswer { count, nodes, next, registering, gone, without: Vec::new() }, 64 + looked_at + cost))
    }

    fn facts_of(&self, row: u32, paths: &[Path], hides: impl Fn(&Path) -> bool) -> Map<String, Value> {
        let Some(whole) = self.nodes.whole(row, &self.access) else { return Map::new() };
        let value = |path: &Path| whole.effective.get(path).filter(|_| !hides(path)).cloned();
        let facts = paths.iter().filter_map(|path| Some((path.to_string(), value(path)?)));
        // Each path may bring along the whole document.
        let mut bytes = 0;
        facts.take_while(|fact| within_page(&mut bytes, fact)).collect()
    }

    fn report_of(
        &self,
        user: &User,
        target: &Target,
        fact: &Path,
        limit: usize,
    ) -> Result<(ReportAnswer, usize), Refusal> {
        let filter = self.visible(user, target)?;
        self.refuse_hidden_path(user, fact)?;
        let looked_at = self.nodes.cost(filter, user.scope.as_ref());
        let rows = self.nodes.matching(filter, user.scope.as_ref());
        let report = self.nodes.index().report(fact, &rows);
        let all = report.values.len();
        let values = report.values.into_iter().take(limit);
        let values =
            values.map(|(value, count)| ValueCount { value: serde_json::to_value(value).unwrap_or_default(), count });
        let mut bytes = 0;
        let values: Vec<ValueCount> = values.take_while(|value| within_page(&mut bytes, value)).collect();
        let more = all.saturating_sub(values.len()) as u64;
        let missing = report.missing + report.without_value;
        Ok((ReportAnswer { count: rows.len(), values, missing, more, without: Vec::new() }, 256 + looked_at))
    }

    fn node(&self, user: &User, id: NodeId, explain: Option<&Filter>) -> Result<NodeAnswer, Refusal> {
        if let Some(filter) = explain {
            self.refuse_hidden(user, filter)?;
        }
        let hidden = self.access.hidden(user);
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
        let scope = user.scope.as_ref();
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
            broker: self.mesh.me().to_string(),
        };
        if let Some(whole) = whole {
            if let Some(filter) = explain {
                let subject = Document::new(whole.effective.as_value(), &whole.document.classes);
                let explanation = serde_json::to_value(filter.explain(&subject)).ok();
                answer.explanation = explanation.filter(|explanation| within_page(&mut 0, explanation));
            }
            answer.facts = hidden.redact(whole.effective.as_value());
            answer.asserted = self.access.asserted().map(str::to_owned).collect();
            answer.classes = whole.document.classes.iter().cloned().collect();
            answer.modules = whole.document.modules.clone();
        }
        Ok(answer)
    }

    pub(super) fn reply_with(&mut self, asker: &Asker, answer: &impl Serialize, now: Now) {
        let mut headers = event_headers(asker.request.as_ref(), Event::Answer);
        headers.push("content-type", "application/json");
        self.put_on_queue(&asker.queue, headers, json_bytes(answer), now);
    }
}

/// Whether one more is within what an answer may hold, so that it fits into a frame of a link. `bytes` counts.
pub(super) fn within_page(bytes: &mut usize, more: &impl Serialize) -> bool {
    *bytes += json_bytes(more).len();
    *bytes <= PAGE_BYTES
}

fn unknown(id: NodeId) -> Refusal {
    Refusal::new(Code::NoSuchNode, format!("{id}: no such node is known here, or it is outside your scope"))
}

fn unknown_here() -> Refused {
    Refused { code: Code::NoSuchNode.to_string(), text: "not here".to_owned() }
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

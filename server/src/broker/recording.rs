//! How do decisions get on record? The broker leaves them as it leaves notes, made only if somebody takes them.

use super::Broker;
use super::event::{Purpose, Sent, SessionId};
use super::record::{Asked, Body, Guards, Outcome, Record, Rule, Verdict, What, Who};
use muster_protocol::destination::Destination;
use muster_protocol::error::Refusal;
use muster_protocol::message::RequestId;
use muster_protocol::policy::EditQuery;

impl Broker {
    /// From now on decisions are left to be taken by [`Broker::take_records`]; before, none is made.
    pub fn keep_records(&mut self) {
        self.keeps_records = true;
    }

    /// The decisions since the last call.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// Leaves a record, made only if somebody takes it.
    pub(super) fn record(&mut self, make: impl FnOnce(&Broker) -> Record) {
        if self.keeps_records {
            let record = make(self);
            self.records.push(record);
        }
    }

    /// As [`Broker::record`], for what may not be there any more.
    pub(super) fn record_if(&mut self, make: impl FnOnce(&Broker) -> Option<Record>) {
        if self.keeps_records
            && let Some(record) = make(self)
        {
            self.records.push(record);
        }
    }

    /// A refusal that is on record by nothing else.
    pub(super) fn record_refusal(
        &mut self,
        id: SessionId,
        to: Option<Destination>,
        request: Option<RequestId>,
        why: &Refusal,
    ) {
        self.record_if(|broker| {
            let verdict = Verdict::denied(why);
            Some(Record::Refused { who: broker.who(id)?, destination: to, request, verdict })
        });
    }

    /// Who a session is.
    pub(super) fn who(&self, id: SessionId) -> Option<Who> {
        let session = self.sessions.get(id)?;
        let node = session.row.and_then(|row| self.nodes.get(row)).map(|node| node.id.to_string());
        Some(Who { user: session.user.name.clone(), address: session.peer.address, session: Some(id.0), node })
    }

    /// What a SEND asks for, if it is a request, a cancel or a command and somebody takes records.
    pub(super) fn asked(&self, id: SessionId, sent: &Sent) -> Option<Asked> {
        if !self.keeps_records {
            return None;
        }
        let (what, about, guards) = match &sent.purpose {
            Purpose::Request(terms) => (What::Request, None, Some(Guards::from(terms))),
            Purpose::Cancel(request) => (What::Cancel, Some(request.to_string()), None),
            Purpose::Explain { query, .. } => {
                let about = format!("{} {} {}", query.user, query.right, query.destination);
                (What::Admin, Some(about), None)
            }
            Purpose::Diff(_) => (What::Admin, Some("diff".to_owned()), None),
            Purpose::Lint(_) => (What::Admin, Some("lint".to_owned()), None),
            Purpose::Edit(query) => (What::Admin, Some(edit(query)), None),
            Purpose::Show(query) => (What::Admin, Some(format!("show {query}")), None),
            Purpose::History(query) => {
                (What::Admin, Some(named("history", query.generation.map(|g| g.to_string()).as_ref())), None)
            }
            Purpose::Authority => (What::Admin, Some("authority".to_owned()), None),
            Purpose::Take(query) => (What::Admin, Some(because("authority take", &query.reason)), None),
            Purpose::Sessions(query) => {
                let about = if query.closed { "closed sessions" } else { "sessions" };
                (What::Admin, Some(named(about, query.user.as_ref())), None)
            }
            Purpose::Close(query) => (What::Admin, Some(self.about_close(query)), None),
            Purpose::Audit(query) => (What::Admin, Some(named("audit", query.user.as_ref())), None),
            _ => return None,
        };
        let user = self.sessions.get(id)?.user.clone();
        Some(Asked {
            who: self.who(id)?,
            verdict: Verdict::ALLOWED,
            destination: sent.destination.clone(),
            request: sent.request.clone(),
            about,
            target: sent.target.clone(),
            nodes: sent.nodes.clone(),
            rule: Rule { policy: self.access.clone(), user, destination: sent.destination.clone() },
            guards,
            body: Body::from(&sent.body),
            brokers: Vec::new(),
            without: Vec::new(),
            what,
        })
    }

    /// What became of a request so far; `ended` says why if it is not the end of all.
    pub(super) fn outcome(&self, serial: u64, ended: &Refusal) -> Option<Record> {
        let ask = self.asks.get(serial)?;
        Some(Record::RequestDone(Box::new(Outcome {
            user: ask.asked.user.clone(),
            session: ask.asked.caller.0,
            request: ask.asked.id.clone(),
            destination: ask.asked.destination.clone(),
            targets: ask.count(),
            states: ask.states().clone(),
            without: ask.missing().map(|missing| missing.broker.clone()).collect(),
            ended: Some(Verdict::denied(ended)),
        })))
    }
}

/// An edit, one line without secrets.
fn edit(query: &EditQuery) -> String {
    let mut text = query.edit.summary();
    for (is_so, word) in [(query.dry_run, " (dry run)"), (query.force, " (forced)")] {
        if is_so {
            text.push_str(word);
        }
    }
    because(&text, &query.reason)
}

fn because(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}

fn named(what: &str, name: Option<&String>) -> String {
    name.map_or_else(|| what.to_lowercase(), |name| format!("{} {name}", what.to_lowercase()))
}

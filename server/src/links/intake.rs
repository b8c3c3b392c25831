//! What does a frame of a link ask of this broker? From letters to typed orders: texts are checked, filters compiled.
//!
//! A plain function, which the simulation calls too. What is only relayed is not looked at.

use crate::broker::event::{Find, Purpose, Received, Sent, Target, Terms};
use crate::intake::{FACTS_MOST, destination, fact_path, filter, page, request_id};
use bytes::Bytes;
use muster_protocol::destination::{Destination, Kind};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::frame::Headers;
use muster_protocol::link::{Ask, Head, Letter, Load, Prepare, Query, Word};
use muster_protocol::message::{BrokerName, MAX_NODES_HEADER, TARGET_ALL};
use muster_protocol::request::MAX_REPLY_WITHIN;
use std::sync::Arc;

/// What a frame means to the broker `me`. A letter that cannot be read gives an order that says why, for the broker to answer.
pub fn receive(me: &BrokerName, head: Head, body: Bytes) -> Received {
    let order = order(me, &head, &body).map(|order| order.map(Box::new));
    Received { head: Arc::new(head), body, order }
}

fn order(me: &BrokerName, head: &Head, body: &Bytes) -> Option<Result<Sent, Refusal>> {
    match head {
        Head::Forward(forward) if forward.to.contains(me) => match &forward.load {
            Load::Message(letter) => Some(sent(letter, body, &[Kind::Topic], Purpose::Message)),
            Load::Prepare(prepare) => Some(request(prepare, body)),
            Load::Commit(_) | Load::Abort(_) | Load::Cancel(_) | Load::Unknown => None,
        },
        Head::Direct(direct) if direct.to == *me => match &direct.word {
            Word::Query(query) => Some(question(query, body)),
            Word::Reply(reply) => {
                let queues = [Kind::RemoteTempQueue, Kind::TempQueue];
                Some(sent(&reply.letter, body, &queues, Purpose::Message))
            }
            _ => None,
        },
        _ => None,
    }
}

fn request(prepare: &Prepare, body: &Bytes) -> Result<Sent, Refusal> {
    if prepare.letter.request.is_none() {
        return Err(Refusal::new(Code::BadHeader, "the request that was forwarded has no id"));
    }
    let most = u64::try_from(MAX_REPLY_WITHIN.as_millis()).unwrap_or(u64::MAX);
    let reply_within = prepare.reply_within.min(most);
    let terms = Terms {
        start_within: prepare.start_within.min(reply_within),
        reply_within,
        // Guards hold for the whole mesh: the ingress keeps them.
        max_targets: None,
        expect_targets: None,
        dry_run: prepare.dry_run,
        allow_partial: false,
    };
    sent(&prepare.letter, body, &[Kind::Topic], Purpose::Request(terms))
}

fn question(query: &Query, body: &Bytes) -> Result<Sent, Refusal> {
    let unsupported = || Err(Refusal::new(Code::Unsupported, "this broker does not know that question; upgrade it"));
    let (name, purpose) = match &query.ask {
        Ask::Find { facts, limit, from_row, module } => {
            if facts.len() > FACTS_MOST {
                return Err(Refusal::new(Code::BadBody, format!("facts: at most {FACTS_MOST} to a query")));
            }
            let facts = facts.iter().map(|path| fact_path(path)).collect::<Result<_, _>>()?;
            let find = Find { facts, limit: rows(*limit)?, from_row: *from_row, later: None, module: module.clone() };
            ("find", Purpose::Find(find))
        }
        Ask::Report { fact, limit } => ("report", Purpose::Report { fact: fact_path(fact)?, limit: rows(*limit)? }),
        Ask::Node { node, explain } => {
            let explain = explain.as_deref().map(filter).transpose()?;
            ("node", Purpose::Node { node: *node, explain })
        }
        Ask::Unknown => return unsupported(),
    };
    let sent = sent(&query.letter, body, &[Kind::Muster], purpose)?;
    // The right that is checked is that to the destination: it must be the one of what is asked.
    if sent.destination.name() != name {
        let text = format!("{}: not the destination of a question for {name}", sent.destination);
        return Err(Refusal::new(Code::BadDestination, text));
    }
    Ok(sent)
}

fn rows(limit: u64) -> Result<usize, Refusal> {
    page(Some(u32::try_from(limit).unwrap_or(u32::MAX)), 0)
}

fn sent(letter: &Letter, body: &Bytes, kinds: &[Kind], purpose: Purpose) -> Result<Sent, Refusal> {
    let destination = of_kind(&letter.destination, kinds)?;
    let reply_to = match &letter.reply_to {
        Some(queue) => Some(of_kind(queue, &[Kind::RemoteTempQueue, Kind::TempQueue])?),
        None => None,
    };
    let target = match letter.target.as_deref() {
        None => Target::Absent,
        Some(TARGET_ALL) => Target::All,
        Some(text) => Target::Filter(filter(text)?),
    };
    if let Some(nodes) = &letter.nodes {
        if nodes.len() > MAX_NODES_HEADER {
            let text = format!("{} node ids, at most {MAX_NODES_HEADER} are allowed", nodes.len());
            return Err(Refusal::new(Code::BadHeader, text));
        }
        if matches!(target, Target::Absent) {
            return Err(Refusal::new(Code::BadHeader, "node ids narrow a target, and there is none"));
        }
    }
    let mut headers = Headers::with_capacity(letter.headers.len());
    letter.headers.iter().for_each(|(name, value)| headers.push(name, value));
    Ok(Sent {
        destination,
        headers,
        body: body.clone(),
        target,
        nodes: letter.nodes.clone(),
        reply_to,
        request: letter.request.as_deref().map(request_id).transpose()?,
        expires_within: letter.expires_within,
        purpose,
        receipt: None,
    })
}

fn of_kind(text: &str, kinds: &[Kind]) -> Result<Destination, Refusal> {
    let destination = destination(text)?;
    if kinds.contains(&destination.kind()) {
        return Ok(destination);
    }
    Err(Refusal::new(Code::BadDestination, format!("{destination}: not a destination for this kind of frame")))
}

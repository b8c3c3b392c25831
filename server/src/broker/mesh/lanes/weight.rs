//! How much room does a frame take while it waits? An estimate: the body, the texts of the head, and something for the rest.

use super::Freight;
use muster_protocol::link::{Answer, Ask, Happened, Head, Letter, Load, Said, Word};
use muster_protocol::request::{Missing, NodeAnswer};
use serde_json::{Map, Value};

/// A frame and its place, beside what is counted below.
const FRAME: usize = 256;
/// A node's id, a broker's name, a number with what is around it.
const ENTRY: usize = 24;

/// Bytes.
pub(super) fn weight(freight: &Freight) -> usize {
    let head = match &*freight.head {
        Head::Forward(forward) => forward.to.len() * ENTRY + load(&forward.load),
        Head::Direct(direct) => word(&direct.word),
        Head::PolicyPart(part) => part.seal.certificate.len() + part.seal.lineage.len() * 4 * ENTRY,
        _ => 0,
    };
    FRAME + head + freight.body.len()
}

fn load(load: &Load) -> usize {
    match load {
        Load::Message(message) => letter(message),
        Load::Prepare(prepare) => letter(&prepare.letter),
        Load::Announce(announce) => {
            let before = announce.before.as_ref().map_or(0, |before| value(&before.facts));
            value(&announce.facts) + before + announce.classes.iter().map(String::len).sum::<usize>()
        }
        Load::AuditHead(head) => head.hash.len() + ENTRY,
        Load::Commit(_) | Load::Abort(_) | Load::Cancel(_) | Load::Unknown => 0,
    }
}

fn letter(letter: &Letter) -> usize {
    let optional = [&letter.target, &letter.reply_to, &letter.request];
    letter.caller.len()
        + letter.destination.len()
        + letter.headers.iter().map(|(name, value)| ENTRY + name.len() + value.len()).sum::<usize>()
        + optional.into_iter().flatten().map(String::len).sum::<usize>()
        + letter.nodes.as_ref().map_or(0, |nodes| nodes.len() * ENTRY)
}

fn word(word: &Word) -> usize {
    match word {
        Word::Report(report) => happened(&report.event),
        Word::Query(query) => letter(&query.letter) + ask(&query.ask),
        Word::Answer(answer) => said(answer),
        Word::Reply(reply) => letter(&reply.letter),
        Word::Gone(gone) => gone.queue.len(),
        Word::Present(present) => present.nodes.len() * 2 * ENTRY,
        Word::Heard(_) | Word::Forgotten(_) | Word::Noted(_) | Word::Unknown => 0,
    }
}

fn happened(event: &Happened) -> usize {
    match event {
        Happened::Accepted { nodes, .. } => nodes.iter().map(|node| 2 * ENTRY + map(&node.display)).sum(),
        Happened::Started { .. } => ENTRY,
        Happened::Reply { display, .. } => ENTRY + map(display),
        Happened::Ended { nodes, reason, .. } => nodes.len() * ENTRY + reason.len(),
        Happened::Refused { code, text } => code.len() + text.len(),
    }
}

fn ask(ask: &Ask) -> usize {
    match ask {
        Ask::Find { facts, module, .. } => texts(facts) + module.as_ref().map_or(0, String::len),
        Ask::Report { fact, .. } => fact.len(),
        Ask::Node { explain, .. } => explain.as_ref().map_or(0, String::len),
        Ask::Reach { user, destination } => user.len() + destination.len(),
        Ask::Edit | Ask::Unknown => 0,
    }
}

fn said(answer: &Answer) -> usize {
    match &answer.said {
        Said::Find(found) => {
            let nodes = found.nodes.iter().map(|node| 2 * ENTRY + map(&node.display) + map(&node.facts));
            let gone = found.gone.iter().map(|node| 3 * ENTRY + map(&node.display) + node.reason.len());
            nodes.chain(gone).sum::<usize>() + without(&found.without)
        }
        Said::Report(report) => {
            report.values.iter().map(|counted| ENTRY + value(&counted.value)).sum::<usize>() + without(&report.without)
        }
        Said::Node(node) => node_answer(node),
        Said::Edit(edit) => {
            edit.changes.changes.iter().map(|change| 4 * ENTRY + texts(&change.details)).sum::<usize>()
                + edit.changes.rights.len() * 2 * ENTRY
        }
        Said::Reach(_) => ENTRY,
        Said::Refused(refused) => refused.code.len() + refused.text.len(),
    }
}

fn without(missing: &[Missing]) -> usize {
    missing.iter().map(|missing| 2 * ENTRY + missing.text.len()).sum()
}

fn node_answer(node: &NodeAnswer) -> usize {
    let modules = node.modules.iter().map(|(name, hash)| ENTRY + name.len() + hash.len()).sum::<usize>();
    value(&node.facts)
        + map(&node.display)
        + node.explanation.as_ref().map_or(0, value)
        + texts(&node.asserted)
        + texts(&node.classes)
        + modules
}

fn texts(texts: &[String]) -> usize {
    texts.iter().map(|text| ENTRY + text.len()).sum()
}

fn map(map: &Map<String, Value>) -> usize {
    map.iter().map(|(name, member)| ENTRY + name.len() + value(member)).sum()
}

fn value(of: &Value) -> usize {
    match of {
        Value::String(text) => ENTRY + text.len(),
        Value::Array(elements) => ENTRY + elements.iter().map(value).sum::<usize>(),
        Value::Object(members) => ENTRY + map(members),
        Value::Null | Value::Bool(_) | Value::Number(_) => ENTRY,
    }
}

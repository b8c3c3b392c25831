//! What does a frame of a link ask of this broker? From letters to typed orders: texts are checked, filters compiled.
//!
//! A plain function, which the simulation calls too. What is only relayed is not looked at.

use crate::broker::event::{Find, Purpose, Received, Sent, Target, Terms};
use crate::intake::{FACTS_MOST, destination, fact_path, filter, json, page, request_id};
use bytes::Bytes;
use muster_protocol::destination::{Destination, Kind};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::frame::Headers;
use muster_protocol::link::{Ask, Head, Letter, Load, Prepare, Query, Word};
use muster_protocol::message::{BrokerName, MAX_NODES_HEADER, TARGET_ALL};
use muster_protocol::request::{ExplainQuery, MAX_REPLY_WITHIN};

/// What a frame means to the broker `me`. A letter that cannot be read gives an order that says why, for the broker to answer.
pub fn receive(me: &BrokerName, head: Head, body: Bytes) -> Received {
    let order = order(me, &head, &body).map(|order| order.map(Box::new));
    Received { head, body, order }
}

fn order(me: &BrokerName, head: &Head, body: &Bytes) -> Option<Result<Sent, Refusal>> {
    match head {
        Head::Forward(forward) if forward.to.contains(me) => match &forward.load {
            Load::Message(letter) => Some(sent(letter, body, &[Kind::Topic], Purpose::Message)),
            Load::Prepare(prepare) => Some(request(prepare, body)),
            Load::Announce(_)
            | Load::Commit(_)
            | Load::Abort(_)
            | Load::Cancel(_)
            | Load::AuditHead(_)
            | Load::Unknown => None,
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
        Ask::Find { facts, limit, after, module } => {
            if facts.len() > FACTS_MOST {
                return Err(Refusal::new(Code::BadBody, format!("facts: at most {FACTS_MOST} to a query")));
            }
            let facts = facts.iter().map(|path| fact_path(path)).collect::<Result<_, _>>()?;
            let find = Find { facts, limit: rows(*limit)?, after: *after, later: None, module: module.clone() };
            ("find", Purpose::Find(find))
        }
        Ask::Report { fact, limit } => ("report", Purpose::Report { fact: fact_path(fact)?, limit: rows(*limit)? }),
        Ask::Node { node, explain } => {
            let explain = explain.as_deref().map(filter).transpose()?;
            ("node", Purpose::Node { node: *node, explain })
        }
        Ask::Reach { user, destination } => {
            let text = &query.letter.target;
            let filter = text.as_deref().map(filter).transpose()?;
            let (user, destination, right) = (user.clone(), destination.clone(), "write".to_owned());
            let query = ExplainQuery { user, right, destination, filter: text.clone() };
            ("admin.explain", Purpose::Explain { query, filter })
        }
        Ask::Edit => ("admin.edit", Purpose::Edit(Box::new(json(body)?))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::link::{Beat, Direct, Forward, ReplyLetter, Serial};
    use muster_protocol::message::NodeId;

    fn name(text: &str) -> BrokerName {
        BrokerName::parse(text).unwrap()
    }

    fn letter(destination: &str) -> Letter {
        Letter {
            caller: "alice".into(),
            destination: destination.into(),
            headers: vec![("x-mine".into(), "kept".into())],
            target: Some("os.family=Debian".into()),
            nodes: None,
            reply_to: Some("/remote-temp-queue/noc1.7".into()),
            request: Some("r1".into()),
            expires_within: Some(400),
        }
    }

    fn prepare(letter: Letter) -> Load {
        let prepare =
            Prepare { serial: 1, letter, start_within: 9_000, reply_within: 5_000, dry_run: true, hold: false };
        Load::Prepare(prepare)
    }

    fn forward(to: &[&str], load: Load) -> Head {
        let to = to.iter().map(|to| name(to)).collect();
        Head::Forward(Forward {
            origin: name("noc1"),
            instance: 1,
            sequence: 1,
            epoch: 1,
            flood: false,
            hops: 0,
            to,
            load,
        })
    }

    fn direct(to: &str, word: Word) -> Head {
        Head::Direct(Direct { from: name("noc1"), instance: 1, to: name(to), hops: 0, word })
    }

    fn query(destination: &str, ask: Ask) -> Word {
        Word::Query(Query { serial: 1, letter: letter(destination), ask })
    }

    fn node_id() -> NodeId {
        NodeId::parse("n-aaaaaaaaaaaaaaaaaaaa").unwrap()
    }

    fn order(head: Head) -> Option<Result<Box<Sent>, Refusal>> {
        receive(&name("dc1"), head, Bytes::from_static(b"{}")).order
    }

    fn sent(head: Head) -> Sent {
        *order(head).expect("an order").expect("a good one")
    }

    fn refused(head: Head) -> Code {
        order(head).expect("an order").expect_err("a bad one").code
    }

    #[test]
    fn a_request_that_was_forwarded_is_read_whole() {
        let sent = sent(forward(&["noc1", "dc1"], prepare(letter("/topic/prod.service.status"))));
        let Purpose::Request(terms) = sent.purpose else { panic!("{:?}", sent.purpose) };
        assert_eq!((terms.start_within, terms.reply_within, terms.dry_run), (5_000, 5_000, true));
        assert_eq!((terms.max_targets, terms.expect_targets), (None, None));
        assert!(matches!(&sent.target, Target::Filter(filter) if filter.to_string() == "os.family = Debian"));
        assert_eq!(sent.reply_to.unwrap().as_str(), "/remote-temp-queue/noc1.7");
        assert_eq!(sent.headers.iter().collect::<Vec<_>>(), [("x-mine", "kept")]);
        assert_eq!((sent.request.unwrap().as_str(), sent.expires_within), ("r1", Some(400)));
        assert_eq!((sent.destination.as_str(), &sent.body[..]), ("/topic/prod.service.status", &b"{}"[..]));
    }

    #[test]
    fn what_is_for_others_or_about_the_mesh_is_not_looked_at() {
        let broken = letter("no destination");
        for head in [
            forward(&["noc1", "dc2"], Load::Message(broken.clone())),
            forward(&["dc1"], Load::Commit(Serial { serial: 1 })),
            forward(&["dc1"], Load::Unknown),
            direct("dc2", query("no destination", Ask::Unknown)),
            direct("dc1", Word::Unknown),
            Head::Ping(Beat { tick: 1 }),
        ] {
            let received = receive(&name("dc1"), head.clone(), Bytes::new());
            assert!(received.order.is_none(), "{head:?}");
            assert_eq!(received.head, head);
        }
    }

    #[test]
    fn questions_and_replies_are_orders_of_their_kind() {
        let find = Ask::Find { facts: vec!["os.family".into()], limit: 10, after: Some(node_id()), module: None };
        let Purpose::Find(find) = sent(direct("dc1", query("/muster/find", find))).purpose else { panic!() };
        assert_eq!((find.facts.len(), find.limit, find.after), (1, 10, Some(node_id())));
        let report = Ask::Report { fact: "os.family".into(), limit: 1000 };
        assert!(matches!(
            sent(direct("dc1", query("/muster/report", report))).purpose,
            Purpose::Report { limit: 1000, .. }
        ));
        let reply = ReplyLetter { letter: letter("/remote-temp-queue/dc1.5"), session: 9 };
        assert!(matches!(sent(direct("dc1", Word::Reply(reply))).purpose, Purpose::Message));
        let reach = Ask::Reach { user: "bob".into(), destination: "/topic/prod.service.status".into() };
        let Purpose::Explain { query: asked, filter } =
            sent(direct("dc1", query("/muster/admin.explain", reach))).purpose
        else {
            panic!()
        };
        assert_eq!((asked.user.as_str(), asked.right.as_str()), ("bob", "write"));
        assert_eq!(
            (asked.destination.as_str(), filter.unwrap().to_string()),
            ("/topic/prod.service.status", "os.family = Debian".into())
        );
        let mut to_all = letter("/topic/prod.news");
        to_all.target = Some("all".into());
        assert!(matches!(sent(forward(&["dc1"], Load::Message(to_all))).target, Target::All));
    }

    #[test]
    fn letters_that_cannot_be_read_say_why() {
        let with = |change: fn(&mut Letter)| {
            let mut letter = letter("/topic/prod.service.status");
            change(&mut letter);
            forward(&["dc1"], prepare(letter))
        };
        let node = Ask::Node { node: node_id(), explain: Some("a=".into()) };
        for (head, code) in [
            (with(|l| l.destination = "/topic/a b".into()), Code::BadDestination),
            (with(|l| l.destination = "/muster/find".into()), Code::BadDestination),
            (with(|l| l.target = Some("os.family=".into())), Code::BadFilter),
            (with(|l| l.request = None), Code::BadHeader),
            (with(|l| l.request = Some("r 1".into())), Code::BadHeader),
            (with(|l| l.reply_to = Some("/topic/a".into())), Code::BadDestination),
            (with(|l| (l.target, l.nodes) = (None, Some(vec![]))), Code::BadHeader),
            (with(|l| l.nodes = Some(vec![node_id(); 501])), Code::BadHeader),
            (direct("dc1", query("/muster/find", Ask::Unknown)), Code::Unsupported),
            (direct("dc1", query("/muster/node", Ask::Report { fact: "a".into(), limit: 5 })), Code::BadDestination),
            (
                direct(
                    "dc1",
                    query("/muster/find", Ask::Reach { user: "a".into(), destination: "/topic/a.b.c".into() }),
                ),
                Code::BadDestination,
            ),
            (direct("dc1", query("/muster/report", Ask::Report { fact: "a".into(), limit: 0 })), Code::BadBody),
            (direct("dc1", query("/muster/report", Ask::Report { fact: "a".into(), limit: u64::MAX })), Code::BadBody),
            (direct("dc1", query("/muster/node", node)), Code::BadFilter),
        ] {
            assert_eq!(refused(head.clone()), code, "{head:?}");
        }
    }
}

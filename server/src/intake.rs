//! What does a frame ask for? From STOMP frames to typed inputs, at the edge: texts are checked, filters compiled, bodies read.
//!
//! The broker behind it never sees a raw header. What cannot be accepted becomes a refusal that says which header and why.

use crate::broker::access::{Policy, lint};
use crate::broker::event::{Answer, Find, Input, Later, Purpose, Registration, Sent, Subscribed, Target, Terms};
use crate::broker::inquiries::FROM_THE_FIRST;
use bytes::Bytes;
use muster_protocol::destination::{Destination, Kind, Pattern};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::facts::{NodeDocument, Path};
use muster_protocol::filter::Filter;
use muster_protocol::frame::{Command, Frame, Headers, Version};
use muster_protocol::message::{BrokerName, MAX_NODES_HEADER, NodeId, RequestId, TARGET_ALL, header, shown};
use muster_protocol::policy::{AuthorityQuery, DiffQuery, LintQuery};
use muster_protocol::request::{
    CancelQuery, DEFAULT_REPLY_WITHIN, DEFAULT_START_WITHIN, Event, ExplainQuery, FindQuery, MAX_REPLY_WITHIN,
    MeshQuery, NodeQuery, ReportQuery, State,
};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Headers of a SEND that the broker acts on and does not pass on.
const CONSUMED: &[&str] = &[
    "destination",
    "receipt",
    "content-length",
    header::TARGET,
    header::REQUEST,
    header::REPLY_TO,
    header::START_WITHIN,
    header::REPLY_WITHIN,
    header::MAX_TARGETS,
    header::EXPECT_TARGETS,
    header::NODES,
    header::DRY_RUN,
    header::ALLOW_PARTIAL,
    header::EXPIRES,
    header::EVENT,
    header::STATUS,
    header::HASH,
    header::BASE,
];

/// How the names of our headers begin.
const OURS: &str = "muster-";

/// Facts that one find may show.
pub(crate) const FACTS_MOST: usize = 64;

/// Turns the frames of one session into inputs.
#[derive(Debug)]
pub struct Intake {
    version: Version,
    is_agent: bool,
    /// The document that the session sent last: what the next delta builds on.
    document: Option<(Bytes, String)>,
    /// Where the session wrote last: whoever sends much sends it to one place.
    last: Option<Destination>,
}

impl Intake {
    /// For a session that negotiated `version`.
    pub fn new(version: Version, is_agent: bool) -> Intake {
        Intake { version, is_agent, document: None, last: None }
    }

    /// The input that a frame makes. `unix` is the clock in ms, for `expires`.
    pub fn input(&mut self, frame: Frame, unix: u64) -> Input {
        let receipt = frame.headers.get("receipt").map(str::to_owned);
        match self.parse(&frame, receipt.clone(), unix) {
            Ok(input) => input,
            Err(refusal) => {
                let answer = if frame.command == Command::Send { answerable(&frame.headers) } else { None };
                Input::Refused { refusal, answer, receipt }
            }
        }
    }

    fn parse(&mut self, frame: &Frame, receipt: Option<String>, unix: u64) -> Result<Input, Refusal> {
        match frame.command {
            Command::Send => self.send(frame, receipt, unix).map(|sent| Input::Send(Box::new(sent))),
            Command::Subscribe => self.subscribe(&frame.headers, receipt),
            Command::Unsubscribe => Ok(Input::Unsubscribe { id: self.subscription_id(&frame.headers)?, receipt }),
            Command::Disconnect => Ok(Input::Disconnect { receipt }),
            Command::Ack | Command::Nack | Command::Begin | Command::Commit | Command::Abort => Err(Refusal::new(
                Code::Unsupported,
                format!("{}: acknowledgements and transactions are not there yet", frame.command.as_str()),
            )),
            other => Err(Refusal::new(
                Code::BadFrame,
                format!("{}: not a frame that a connected client sends", other.as_str()),
            )),
        }
    }

    fn subscribe(&self, headers: &Headers, receipt: Option<String>) -> Result<Input, Refusal> {
        let text = required(headers, "destination")?;
        if headers.get("ack").is_some_and(|ack| ack != "auto") {
            return Err(Refusal::new(Code::Unsupported, "ack: only `auto` is there yet"));
        }
        if headers.contains("selector") {
            return Err(Refusal::new(Code::Unsupported, "selector: selectors are not there yet"));
        }
        let id = self.subscription_id(headers)?.into();
        let pattern = Pattern::parse(text).map_err(|e| Refusal::new(Code::BadDestination, e.to_string()))?;
        let to = match pattern.kind() {
            Kind::Topic => Subscribed::Topic(pattern),
            Kind::TempQueue => Subscribed::ReplyQueue(destination(text)?),
            Kind::Queue => return Err(Refusal::new(Code::Unsupported, format!("{text}: queues are not there yet"))),
            Kind::Muster | Kind::RemoteTempQueue => {
                return Err(Refusal::new(
                    Code::Denied,
                    format!("{text}: nobody subscribes to this kind of destination"),
                ));
            }
        };
        Ok(Input::Subscribe { to, id, receipt })
    }

    /// `id`; in STOMP 1.0 the destination stands in for it.
    fn subscription_id(&self, headers: &Headers) -> Result<String, Refusal> {
        let id = match headers.get("id") {
            None if self.version == Version::V1_0 => required(headers, "destination")?,
            _ => required(headers, "id")?,
        };
        if id.is_empty() || id.len() > 255 {
            return Err(Refusal::new(Code::BadHeader, "id: expected 1 to 255 bytes"));
        }
        Ok(id.to_owned())
    }

    fn send(&mut self, frame: &Frame, receipt: Option<String>, unix: u64) -> Result<Sent, Refusal> {
        let (headers, none) = (&frame.headers, Headers::new());
        // Most messages have none of our headers: each of these is looked for in nothing then.
        let ours = if has_ours(headers)? { headers } else { &none };
        let text = required(headers, "destination")?;
        let destination = match self.last.take().filter(|last| last.as_str() == text) {
            Some(last) => last,
            None => destination(text)?,
        };
        self.last = Some(destination.clone());
        if destination.kind() == Kind::Queue {
            return Err(Refusal::new(Code::Unsupported, format!("{destination}: queues are not there yet")));
        }
        if headers.contains("transaction") {
            return Err(Refusal::new(Code::Unsupported, "transaction: transactions are not there yet"));
        }
        let reply_to = headers.get(header::REPLY_TO).map(reply_queue).transpose()?;
        let request = ours.get(header::REQUEST).map(request_id).transpose()?;
        let purpose = self.purpose(frame, ours, &destination, request.is_some())?;
        let target = target(ours)?;
        let nodes = nodes(ours)?;
        refuse_idle_guards(ours, &purpose)?;
        if nodes.is_some() && matches!(target, Target::Absent) {
            let text = format!("{}: it narrows a target; give {} too", header::NODES, header::TARGET);
            return Err(Refusal::new(Code::BadHeader, text));
        }
        Ok(Sent {
            target,
            nodes,
            expires_within: expires_within(headers, unix)?,
            headers: headers.iter().filter(|(name, _)| !CONSUMED.contains(name)).collect(),
            body: detached(&frame.body),
            destination,
            reply_to,
            request,
            purpose,
            receipt,
        })
    }

    fn purpose(
        &mut self,
        frame: &Frame,
        ours: &Headers,
        destination: &Destination,
        is_request: bool,
    ) -> Result<Purpose, Refusal> {
        if let Some(event) = ours.get(header::EVENT) {
            return answer(ours, event, destination, is_request);
        }
        if destination.kind() != Kind::Muster {
            return if is_request && destination.kind() == Kind::Topic {
                terms(ours).map(Purpose::Request)
            } else {
                Ok(Purpose::Message)
            };
        }
        Ok(match destination.name() {
            "facts" => Purpose::Facts(self.facts(frame)?),
            "find" => {
                let query: FindQuery = body(frame)?;
                if query.facts.len() > FACTS_MOST {
                    return Err(Refusal::new(Code::BadBody, format!("facts: at most {FACTS_MOST} to a query")));
                }
                let facts = query.facts.iter().map(|path| fact_path(path)).collect::<Result<_, _>>()?;
                let (after, later) = match query.cursor.as_deref().map(cursor).transpose()? {
                    Some((after, later)) => (after, Some(later)),
                    None => (None, None),
                };
                Purpose::Find(Find { facts, limit: page(query.limit, 500)?, after, later, module: query.module })
            }
            "report" => {
                let query: ReportQuery = body(frame)?;
                Purpose::Report { fact: fact_path(&query.fact)?, limit: page(query.limit, 100)? }
            }
            "node" => {
                let query: NodeQuery = body(frame)?;
                let explain = query.explain.as_deref().map(filter).transpose()?;
                Purpose::Node { node: query.node, explain }
            }
            "cancel" => Purpose::Cancel(request_id(&body::<CancelQuery>(frame)?.request)?),
            "mesh" => {
                body::<MeshQuery>(frame)?;
                Purpose::Mesh
            }
            "admin.explain" => {
                let query: ExplainQuery = body(frame)?;
                let filter = query.filter.as_deref().map(filter).transpose()?;
                Purpose::Explain { query, filter }
            }
            "admin.edit" => Purpose::Edit(Box::new(body(frame)?)),
            "admin.show" => Purpose::Show(body(frame)?),
            "admin.history" => Purpose::History(body(frame)?),
            "admin.authority" => {
                body::<AuthorityQuery>(frame)?;
                Purpose::Authority
            }
            "admin.take" => Purpose::Take(body(frame)?),
            "admin.sessions" => Purpose::Sessions(body(frame)?),
            "admin.close" => Purpose::Close(body(frame)?),
            "admin.audit" => Purpose::Audit(body(frame)?),
            "admin.diff" => Purpose::Diff(Box::new(policy(&body::<DiffQuery>(frame)?.policy)?)),
            "admin.lint" => {
                let query: LintQuery = body(frame)?;
                let text = query.policy.as_deref();
                Purpose::Lint(text.map(|text| policy(text).map(|policy| lint(&policy))).transpose()?)
            }
            _ => {
                return Err(Refusal::new(
                    Code::BadDestination,
                    format!("{destination}: there is no such system destination"),
                ));
            }
        })
    }

    /// A document, whole or as a merge patch of the one before: merged and hashed here, on the session's own time.
    fn facts(&mut self, frame: &Frame) -> Result<Registration, Refusal> {
        if !self.is_agent {
            return Err(Refusal::new(Code::Denied, "only an agent publishes facts"));
        }
        let bad = |e: muster_protocol::facts::FactsError| Refusal::new(Code::BadFacts, e.to_string());
        let stated = required(&frame.headers, header::HASH)?;
        let (document, before) = match frame.headers.get(header::BASE) {
            None => (NodeDocument::parse(&frame.body).map_err(bad)?, None),
            Some(base) => {
                let stale = || {
                    Refusal::new(Code::StaleBase, "muster-base: not the document that the broker has; send the whole")
                };
                let (json, hash) = self.document.as_ref().filter(|(_, hash)| hash == base).ok_or_else(stale)?;
                let patch = serde_json::from_slice(&frame.body)
                    .map_err(|e| Refusal::new(Code::BadFacts, format!("the merge patch is not JSON: {e}")))?;
                let before = NodeDocument::parse(json).map_err(bad)?;
                (before.merge_patch(&patch).map_err(bad)?, Some((before, hash.clone())))
            }
        };
        let json = Bytes::from(serde_json::to_vec(&document.to_value()).unwrap_or_default());
        let hash = document.hash();
        if hash != stated {
            // After a delta both sides start again from the whole; a whole that hashes otherwise is a broken agent.
            let code = if frame.headers.contains(header::BASE) { Code::StaleBase } else { Code::BadFacts };
            return Err(Refusal::new(code, format!("muster-hash: the document hashes to {hash}; send the whole")));
        }
        self.document = Some((json.clone(), hash.clone()));
        Ok(Registration { document: Arc::new(document), before, json, hash })
    }
}

/// A body of its own: a slice would keep the whole read buffer alive for as long as one slow session holds the message.
fn detached(body: &Bytes) -> Bytes {
    if body.len() < 65_536 { Bytes::copy_from_slice(body) } else { body.clone() }
}

/// Whether there are headers of ours. Those that only a broker sets, that belong to CONNECT, or that nobody knows are refused: a
/// misspelt guard must not pass for none.
fn has_ours(headers: &Headers) -> Result<bool, Refusal> {
    let mut has_ours = false;
    for (name, _) in headers.iter() {
        // A client that trims or folds case must not take a lookalike for the stamp.
        let plain = name.trim();
        if header::STAMPED.iter().any(|stamp| stamp.eq_ignore_ascii_case(plain)) {
            return Err(Refusal::new(Code::ForbiddenHeader, format!("{name}: only a broker sets this header")));
        }
        let is_ours = plain.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS));
        if is_ours && !CONSUMED.contains(&name) {
            return Err(Refusal::new(Code::BadHeader, format!("{}: no such header in a SEND", shown(name))));
        }
        has_ours |= is_ours;
    }
    Ok(has_ours)
}

/// A guard on something that is no request would guard nothing.
fn refuse_idle_guards(headers: &Headers, purpose: &Purpose) -> Result<(), Refusal> {
    const GUARDS: [&str; 6] = [
        header::START_WITHIN,
        header::REPLY_WITHIN,
        header::MAX_TARGETS,
        header::EXPECT_TARGETS,
        header::DRY_RUN,
        header::ALLOW_PARTIAL,
    ];
    match GUARDS.iter().find(|name| headers.contains(name)) {
        Some(name) if !matches!(purpose, Purpose::Request(_)) => Err(Refusal::new(
            Code::BadHeader,
            format!("{name}: only a request has terms; give {} too", header::REQUEST),
        )),
        _ => Ok(()),
    }
}

/// The reply queue on which a refused SEND is answered.
fn answerable(headers: &Headers) -> Option<(Option<RequestId>, Destination)> {
    let queue = reply_queue(headers.get(header::REPLY_TO)?).ok()?;
    let request = headers.get(header::REQUEST).and_then(|id| RequestId::parse(id).ok());
    (request.is_some() || headers.get("destination") == Some("/muster/facts")).then_some((request, queue))
}

fn required<'a>(headers: &'a Headers, name: &str) -> Result<&'a str, Refusal> {
    headers.get(name).ok_or_else(|| Refusal::new(Code::BadHeader, format!("{name}: the header is missing")))
}

pub(crate) fn destination(text: &str) -> Result<Destination, Refusal> {
    Destination::parse(text).map_err(|e| Refusal::new(Code::BadDestination, e.to_string()))
}

fn reply_queue(text: &str) -> Result<Destination, Refusal> {
    let queue = destination(text)?;
    if queue.kind() != Kind::TempQueue {
        return Err(Refusal::new(
            Code::BadHeader,
            format!("{queue}: reply-to must be a /temp-queue/ of this connection"),
        ));
    }
    Ok(queue)
}

pub(crate) fn request_id(text: &str) -> Result<RequestId, Refusal> {
    RequestId::parse(text).map_err(|e| Refusal::new(Code::BadHeader, e.to_string()))
}

pub(crate) fn filter(text: &str) -> Result<Filter, Refusal> {
    Filter::parse(text).map_err(|e| Refusal::new(Code::BadFilter, e.to_string()))
}

/// A proposed policy, as it would be read from its file.
fn policy(text: &str) -> Result<Policy, Refusal> {
    Policy::parse(text).map_err(|e| Refusal::new(Code::BadBody, format!("the policy: {e}")))
}

pub(crate) fn fact_path(text: &str) -> Result<Path, Refusal> {
    Path::parse(text).map_err(|e| Refusal::new(Code::BadBody, e.to_string()))
}

/// A cursor of `/muster/find`: `BROKER/NODE/COUNT`, the node being the last one that was shown.
fn cursor(text: &str) -> Result<(Option<NodeId>, Later), Refusal> {
    let parse = || {
        let (broker, rest) = text.split_once('/')?;
        let (after, count) = rest.split_once('/')?;
        let broker = BrokerName::parse(broker).ok()?;
        let after = if after == FROM_THE_FIRST { None } else { Some(NodeId::parse(after).ok()?) };
        Some((after, Later { broker, count: count.parse().ok()? }))
    };
    parse().ok_or_else(|| Refusal::new(Code::BadBody, "cursor: not one that this broker gave"))
}

fn target(headers: &Headers) -> Result<Target, Refusal> {
    match headers.get(header::TARGET) {
        None => Ok(Target::Absent),
        Some(TARGET_ALL) => Ok(Target::All),
        Some(text) => filter(text).map(Target::Filter),
    }
}

fn nodes(headers: &Headers) -> Result<Option<Vec<NodeId>>, Refusal> {
    let Some(text) = headers.get(header::NODES) else { return Ok(None) };
    let bad = |text: String| Refusal::new(Code::BadHeader, format!("{}: {text}", header::NODES));
    let ids = text
        .split(',')
        .map(|id| NodeId::parse(id.trim()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if ids.len() > MAX_NODES_HEADER {
        return Err(bad(format!("{} node ids, at most {MAX_NODES_HEADER} are allowed", ids.len())));
    }
    Ok(Some(ids))
}

fn number(headers: &Headers, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = headers.get(name) else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let bad = || Refusal::new(Code::BadHeader, format!("{name}: `{}` is not a whole number", shown(text)));
    if digits { text.parse().map(Some).map_err(|_| bad()) } else { Err(bad()) }
}

fn expires_within(headers: &Headers, unix: u64) -> Result<Option<u64>, Refusal> {
    // ActiveMQ's clients write 0 for "never".
    Ok(number(headers, header::EXPIRES)?.filter(|at| *at > 0).map(|at| at.saturating_sub(unix)))
}

fn terms(headers: &Headers) -> Result<Terms, Refusal> {
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let reply_within = number(headers, header::REPLY_WITHIN)?.unwrap_or(ms(DEFAULT_REPLY_WITHIN));
    if reply_within == 0 || reply_within > ms(MAX_REPLY_WITHIN) {
        let text = format!("{}: expected 1 to {} ms", header::REPLY_WITHIN, MAX_REPLY_WITHIN.as_millis());
        return Err(Refusal::new(Code::BadHeader, text));
    }
    let start_within = number(headers, header::START_WITHIN)?.unwrap_or(ms(DEFAULT_START_WITHIN)).min(reply_within);
    let (dry_run, allow_partial) = (flag(headers, header::DRY_RUN)?, flag(headers, header::ALLOW_PARTIAL)?);
    let (max_targets, expect_targets) =
        (number(headers, header::MAX_TARGETS)?, number(headers, header::EXPECT_TARGETS)?);
    Ok(Terms { start_within, reply_within, max_targets, expect_targets, dry_run, allow_partial })
}

fn flag(headers: &Headers, name: &str) -> Result<bool, Refusal> {
    match headers.get(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Refusal::new(Code::BadHeader, format!("{name}: expected true or false"))),
    }
}

fn answer(headers: &Headers, event: &str, destination: &Destination, is_request: bool) -> Result<Purpose, Refusal> {
    let is_queue = matches!(destination.kind(), Kind::RemoteTempQueue | Kind::TempQueue);
    match Event::parse(event) {
        Some(Event::Started) if is_queue && is_request => Ok(Purpose::Answer(Answer::Started)),
        Some(Event::Reply) if is_queue && is_request => {
            let status = required(headers, header::STATUS)?;
            match State::parse(status).filter(|state| state.is_reported()) {
                Some(state) => Ok(Purpose::Answer(Answer::Reply(state))),
                None => {
                    let text = format!("{}: `{}` is not a state that a node reports", header::STATUS, shown(status));
                    Err(Refusal::new(Code::BadHeader, text))
                }
            }
        }
        _ => Err(Refusal::new(
            Code::ForbiddenHeader,
            format!("{}: only `started` and `reply` to a reply queue, with the request's id", header::EVENT),
        )),
    }
}

pub(crate) fn page(limit: Option<u32>, default: u32) -> Result<usize, Refusal> {
    match limit.unwrap_or(default) {
        limit @ 1..=1000 => Ok(limit as usize),
        _ => Err(Refusal::new(Code::BadBody, "limit: expected 1 to 1000")),
    }
}

/// The JSON body, an object; an empty one is an empty object.
fn body<T: DeserializeOwned>(frame: &Frame) -> Result<T, Refusal> {
    json(&frame.body)
}

/// A body; an empty one is an object without fields.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let bytes: &[u8] = if body.is_empty() { b"{}" } else { body };
    // By way of an object: serde would also take a list for a struct.
    let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_slice(bytes);
    object
        .and_then(|o| T::deserialize(serde_json::Value::Object(o)))
        .map_err(|e| Refusal::new(Code::BadBody, format!("the body: {}", without_values(&e.to_string()))))
}

/// What is wrong with a body, without the text that stood where something else was expected: it may be a secret in the wrong place,
/// and this goes into logs.
fn without_values(error: &str) -> String {
    const BEGIN: &str = "string \"";
    let cut = error.find(BEGIN).map(|at| at + BEGIN.len()).zip(error.rfind("\", expected"));
    let mut text = match cut.filter(|(begin, end)| begin <= end) {
        Some((begin, end)) => format!("{}…{}", &error[..begin], &error[end..]),
        None => error.to_owned(),
    };
    if let Some((end, _)) = text.char_indices().nth(500) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(destination: &str, headers: &[(&str, &str)], body: &str) -> Input {
        let mut frame = Frame::new(Command::Send).header("destination", destination).with_body(body.to_owned());
        for (name, value) in headers {
            frame = frame.header(name, value);
        }
        Intake::new(Version::V1_2, true).input(frame, 1_000)
    }

    fn refused(input: Input) -> (Code, String, bool) {
        match input {
            Input::Refused { refusal, answer, .. } => (refusal.code, refusal.text, answer.is_some()),
            other => panic!("accepted: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_read_whole() {
        let headers = [
            ("muster-target", "os.family=Debian"),
            ("muster-request", "r1"),
            ("reply-to", "/temp-queue/x"),
            ("muster-max-targets", "5"),
            ("muster-start-within", "999999"),
            ("muster-reply-within", "2000"),
            ("expires", "1500"),
            ("x-mine", "kept"),
        ];
        let Input::Send(sent) = send("/topic/prod.service.status", &headers, "{}") else { panic!("refused") };
        let Purpose::Request(terms) = sent.purpose else { panic!("not a request") };
        assert_eq!(
            (terms.start_within, terms.reply_within, terms.max_targets, terms.dry_run),
            (2000, 2000, Some(5), false)
        );
        assert_eq!(sent.expires_within, Some(500));
        assert_eq!(sent.headers.iter().collect::<Vec<_>>(), [("x-mine", "kept")]);
    }

    #[test]
    fn stamped_and_misspelt_headers_are_refused() {
        let stamped = refused(send("/topic/a", &[("muster-caller", "admin")], ""));
        assert_eq!(stamped.0, Code::ForbiddenHeader);
        assert_eq!(refused(send("/topic/a", &[("muster-origin", "noc1")], "")).0, Code::ForbiddenHeader);
        let misspelt = refused(send("/topic/a.b.c", &[("muster-max-target", "1")], ""));
        assert_eq!((misspelt.0, misspelt.1.as_str()), (Code::BadHeader, "muster-max-target: no such header in a SEND"));
    }

    #[test]
    fn lookalikes_of_stamped_headers_are_refused() {
        for name in ["Muster-Caller", " muster-caller", "MUSTER-ORIGIN ", "Message-Id"] {
            assert_eq!(refused(send("/topic/a", &[(name, "admin")], "")).0, Code::ForbiddenHeader, "{name:?}");
        }
    }

    #[test]
    fn guards_that_would_guard_nothing_are_refused() {
        for name in [
            "muster-dry-run",
            "muster-max-targets",
            "muster-expect-targets",
            "muster-start-within",
            "muster-reply-within",
        ] {
            let idle = refused(send("/topic/a.b.c", &[(name, "0"), ("muster-target", "all")], ""));
            assert_eq!(idle.0, Code::BadHeader, "{name}");
        }
        let nodes = [("muster-nodes", "n-aaaaaaaaaaaaaaaaaaaa")];
        assert_eq!(refused(send("/topic/a", &nodes, "")).0, Code::BadHeader);
        let many: Vec<String> = (0..65).map(|n| format!("f{n}")).collect();
        let query = serde_json::json!({ "facts": many }).to_string();
        assert_eq!(refused(send("/muster/find", &[("muster-target", "all")], &query)).0, Code::BadBody);
    }

    #[test]
    fn a_refusal_can_be_answered_only_with_request_and_reply_queue() {
        let both = [("muster-target", "os.family="), ("muster-request", "r1"), ("reply-to", "/temp-queue/x")];
        assert_eq!(refused(send("/topic/a.b.c", &both, "")).0, Code::BadFilter);
        assert!(refused(send("/topic/a.b.c", &both, "")).2);
        assert!(!refused(send("/topic/a.b.c", &both[..2], "")).2);
        assert!(!refused(send("/topic/a.b.c", &[("muster-request", "r 1"), ("reply-to", "/temp-queue/x")], "")).2);
    }

    #[test]
    fn numbers_ids_and_bodies_are_checked() {
        for (destination, headers, body, code) in [
            ("/topic/a b", vec![], "", Code::BadDestination),
            ("/topic/a\u{7}", vec![], "", Code::BadDestination),
            ("/topic/a.*", vec![], "", Code::BadDestination),
            ("/queue/a", vec![], "", Code::Unsupported),
            ("/topic/a", vec![("expires", "-1")], "", Code::BadHeader),
            ("/topic/a", vec![("muster-nodes", "web1")], "", Code::BadHeader),
            ("/topic/a", vec![("reply-to", "/topic/b")], "", Code::BadHeader),
            ("/muster/find", vec![], "[]", Code::BadBody),
            ("/muster/find", vec![], r#"{"limit":1001}"#, Code::BadBody),
            ("/muster/nothing", vec![], "", Code::BadDestination),
            ("/muster/facts", vec![("muster-hash", "x")], "[]", Code::BadFacts),
            ("/muster/facts", vec![("muster-hash", "x"), ("muster-base", "y")], "{}", Code::StaleBase),
            ("/topic/a", vec![("muster-event", "done")], "", Code::ForbiddenHeader),
            (
                "/remote-temp-queue/b.1",
                vec![("muster-event", "reply"), ("muster-request", "r"), ("muster-status", "lost")],
                "",
                Code::BadHeader,
            ),
        ] {
            assert_eq!(refused(send(destination, &headers, body)).0, code, "{destination} {headers:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_names_fields_and_no_values() {
        let text = |body: &str| refused(send("/muster/admin.edit", &[], body)).1;
        let wrong = text(r#"{"edit":{"edit":"user-set","name":"a","disabled":"hunter2 \"quoted\", expected"}}"#);
        assert_eq!(wrong, r#"the body: invalid type: string "…", expected a boolean"#);
        let unknown = text(r#"{"edit":{"edit":"user-set","name":"a","pasword":"hunter2"}}"#);
        assert!(unknown.contains("unknown field `pasword`") && !unknown.contains("hunter2"), "{unknown}");
        let long = text(&format!(r#"{{"{}":1}}"#, "ä".repeat(1 << 19)));
        assert!(long.len() < 1_100 && long.ends_with('…'), "{}", long.len());
    }

    #[test]
    fn every_system_destination_that_lint_knows_is_known() {
        for name in muster_protocol::policy::SYSTEM {
            let body = if name == "admin.diff" { r#"{"policy":""}"# } else { "{}" };
            if let Input::Refused { refusal, .. } = send(&format!("/muster/{name}"), &[], body) {
                assert_ne!(refusal.code, Code::BadDestination, "{name}");
            }
        }
    }

    #[test]
    fn a_delta_builds_on_the_document_before_and_must_hash_to_what_it_says() {
        let mut intake = Intake::new(Version::V1_2, true);
        let whole = r#"{"facts":{"a":1,"b":2},"classes":["web"],"modules":{}}"#;
        let document = NodeDocument::parse(whole.as_bytes()).expect("a document");
        let publish = |intake: &mut Intake, base: Option<&str>, hash: &str, body: &str| {
            let mut frame =
                Frame::new(Command::Send).header("destination", "/muster/facts").header("muster-hash", hash);
            if let Some(base) = base {
                frame = frame.header("muster-base", base);
            }
            intake.input(frame.with_body(body.to_owned()), 0)
        };
        assert!(matches!(publish(&mut intake, None, &document.hash(), whole), Input::Send(_)));
        let patch = serde_json::json!({"facts": {"a": null, "c": 3}});
        let next = document.merge_patch(&patch).expect("a document");
        let input = publish(&mut intake, Some(&document.hash()), &next.hash(), &patch.to_string());
        let Input::Send(sent) = input else { panic!("{input:?}") };
        let Purpose::Facts(registration) = sent.purpose else { panic!("no facts") };
        assert_eq!(registration.document.facts.as_value(), &serde_json::json!({"b": 2, "c": 3}));
        assert_eq!(refused(publish(&mut intake, Some(&next.hash()), "0000", &patch.to_string())).0, Code::StaleBase);
    }
}

//! How is a request started, followed and cancelled? It belongs to the user; its events are read as they come, by whoever of the user asks.

use super::account::{End, Entry, Progress, RequestNode};
use super::call::Call;
use super::listen::InUse;
use super::nodes::{aimed, query, refuse_many};
use super::problem::{Fault, Problem};
use super::records::Record;
use super::routes::{Operation, Routes, get, json, ok, post};
use super::seats::Caller;
use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use muster_protocol::error::Code;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::{NodeId, RequestId};
use muster_protocol::policy::PAGE_MOST;
use muster_protocol::request::{CancelAnswer, CancelQuery, Conditions, Missing, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json as object};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Nodes of a page unless told.
const PAGE: u32 = 500;
/// Bytes of events that are handed out at once.
const SLICE: usize = 64 * 1024;
/// After so long without an event a stream for a browser says that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// A request to nodes. Either `destination`, or `collective`, `module` and `action`.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
struct NewRequest {
    /// An action topic, `/topic/COLLECTIVE.MODULE.ACTION`.
    #[schema(format = "muster-destination")]
    destination: Option<String>,
    /// Such as `prod`.
    collective: Option<String>,
    /// Such as `service`.
    module: Option<String>,
    /// Such as `restart`.
    action: Option<String>,
    /// A filter, or `all`.
    #[schema(format = "muster-filter")]
    target: Option<String>,
    /// Only these of them, at most 500.
    #[schema(max_items = 500)]
    nodes: Vec<NodeId>,
    /// The arguments of the action.
    #[schema(value_type = Object)]
    body: Map<String, Value>,
    /// The caller's own id for it, 1 to 64 of `A-Z a-z 0-9 . _ -`; a random one unless told.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    id: Option<String>,
    /// Until when a node may start, ms from now.
    start_within_ms: Option<u64>,
    /// Until when an answer is awaited, ms from now.
    reply_within_ms: Option<u64>,
    /// Deliver to nobody if more nodes match in the whole mesh.
    max_targets: Option<u64>,
    /// Deliver to nobody if another number of nodes matches.
    expect_targets: Option<u64>,
    /// Let guards count the brokers that answer, if some do not.
    allow_partial: bool,
    /// Decide everything, deliver nothing.
    dry_run: bool,
}

/// A request that was taken.
#[derive(Serialize, utoipa::ToSchema)]
struct Taken {
    /// Its id.
    id: String,
}

/// Where a request stands.
#[derive(Serialize, utoipa::ToSchema)]
struct RequestShown {
    /// Its id.
    id: String,
    /// To which action topic.
    destination: String,
    /// The filter, or `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// When it was asked, Unix ms.
    at: u64,
    /// Where it stands.
    progress: Progress,
    /// Nodes that it goes to, of the brokers that have answered so far.
    targets: u64,
    /// How many of them ended in which state.
    states: BTreeMap<State, u64>,
    /// Brokers whose nodes are not, or not all, in the account.
    without: Vec<Missing>,
    /// Why it was refused or abandoned, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
    /// One page of its nodes, by id; what they answered is in the events.
    nodes: Vec<RequestNode>,
    /// Nodes that are counted and not listed.
    unlisted: u64,
    /// `after` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<NodeId>,
}

pub(super) fn add(routes: &mut Routes) {
    let operation = post("/api/v1/requests", "startRequest", "requests", "Asks nodes to do something.")
        .says(
            "Needs the right to write to the action topic. What is refused at once is answered so; a guard is decided when all \
             brokers have counted, and then shows in the request's progress.",
        )
        .takes::<NewRequest>()
        .answers_with::<Taken>(202, "It is under way.")
        .with_header("Location", "Where it can be followed.")
        .refuses(&[409]);
    routes.add(operation, start);
    let operation =
        of_request(get("/api/v1/requests/{id}", "request", "requests", "Where a request of the user stands."))
            .says("It is kept for a time after it is over.")
            .pages(PAGE_MOST, "Those after this node", object!({ "$ref": "#/components/schemas/NodeId" }))
            .answers::<RequestShown>("As it is now.");
    routes.add(operation, show);
    let events = object!({
        "application/x-ndjson": { "schema": { "type": "string" } },
        "text/event-stream": { "schema": { "type": "string" } },
    });
    let operation =
        of_request(get("/api/v1/requests/{id}/events", "requestEvents", "requests", "The events of a request, as they come."))
            .says(
                "From the first one, or from `from` on, until nothing follows. One JSON object each: its field `event` is `accepted`, \
                 `started`, `reply`, `lost`, `expired`, `cancelled`, `missing`, `refused`, `done` or `abandoned` (the session that asked is \
                 over), its other fields are those of docs/protocol.md. `gap` with `missed` stands for events that were dropped because \
                 they took too much memory. The stream is JSON lines, or server-sent events if `Accept` wants these; then the header \
                 `Last-Event-ID` stands for `from`.",
            )
            .query("from", "The number of the first event.", object!({ "type": "integer", "format": "int64", "minimum": 1 }))
            .header("Last-Event-ID", "The number of the last event that was seen.", object!({ "type": "integer", "format": "int64", "minimum": 0 }))
            .answer(200, "The events.", &events)
            .refuses(&[406]);
    routes.add(operation, events_of);
    let operation = of_request(post("/api/v1/requests/{id}/cancel", "cancelRequest", "requests", "Stops a request."))
        .writes("/muster/cancel")
        .answers::<CancelAnswer>(
            "So many nodes were told to stop, none if it is over; the events go on until each has ended.",
        )
        .refuses(&[410]);
    routes.add(operation, cancel);
}

fn of_request(operation: Operation) -> Operation {
    let id = object!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" });
    operation.path_text("id", "Its id.", id).refuses(&[404])
}

async fn start(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_query()?;
    let front = call.front.clone();
    let new: NewRequest = call.json().await?;
    let id = match &new.id {
        Some(id) => RequestId::parse(id).map_err(|error| Problem::body(format!("id: {error}")))?,
        None => RequestId::random(),
    };
    refuse_many(&new.nodes)?;
    let destination = new.destination()?;
    let at = front.hub.clock().now().unix;
    let record = Record::new(id.clone(), destination.clone(), new.target.clone(), at, caller.seat());
    let record = front.records.begin(caller.user(), record)?;
    if let Err(problem) = caller.request(new.frame(&destination), &record).await {
        // Nothing became of it: there is nothing to be followed, and the id is free.
        if record.is_over() {
            front.records.withdraw(caller.user(), &id);
        }
        return Err(problem);
    }
    let taken = serde_json::to_vec(&Taken { id: id.to_string() }).unwrap_or_default();
    let mut response = json(StatusCode::ACCEPTED, taken);
    if let Ok(place) = HeaderValue::from_str(&format!("/api/v1/requests/{id}")) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

impl NewRequest {
    fn destination(&self) -> Result<String, Problem> {
        match (&self.destination, &self.collective, &self.module, &self.action) {
            (Some(destination), None, None, None) => Ok(destination.clone()),
            (None, Some(collective), Some(module), Some(action)) => {
                // One segment each: a dot in a name would make it another topic.
                for (field, name) in [("collective", collective), ("module", module), ("action", action)] {
                    if name.is_empty() || name.contains('.') {
                        return Err(Problem::body(format!("{field}: expected one segment of a topic, without dots")));
                    }
                }
                Ok(format!("/topic/{collective}.{module}.{action}"))
            }
            _ => Err(Problem::body("destination: give it, or else collective, module and action, all three")),
        }
    }

    fn frame(&self, destination: &str) -> Frame {
        let conditions = Conditions {
            start_within: self.start_within_ms,
            reply_within: self.reply_within_ms,
            max_targets: self.max_targets,
            expect_targets: self.expect_targets,
            dry_run: self.dry_run,
            allow_partial: self.allow_partial,
        };
        let frame = conditions.on(Frame::new(Command::Send).header("destination", destination));
        let body = serde_json::to_vec(&self.body).unwrap_or_default();
        let frame = frame.header("content-type", "application/json").with_body(body);
        aimed(frame, self.target.as_deref(), &self.nodes)
    }
}

/// The caller's request of the id in the path.
fn find(caller: &Caller, call: &Call) -> Result<Arc<Record>, Problem> {
    let id = call.parsed("id", "a request id (1 to 64 of A-Z a-z 0-9 . _ -)", |text| RequestId::parse(text).ok())?;
    call.front.records.get(caller.user(), &id).ok_or_else(|| {
        let text = format!("{id}: {} has no request of this id, or its account is not kept any more", caller.user());
        Problem::new(Code::NoSuchRequest, text)
    })
}

async fn show(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.bodiless()?;
    let record = find(&caller, &call)?;
    let mut parameters = call.query()?;
    let limit = parameters.limit(PAGE_MOST)?.unwrap_or(PAGE);
    let after = parameters.parsed("after", "a node id", |text| NodeId::parse(text).ok())?;
    parameters.end()?;
    let shown = record.look(|account| {
        let (nodes, next) = account.page(after, limit as usize);
        RequestShown {
            id: record.id().to_string(),
            destination: record.destination.clone(),
            target: record.target.clone(),
            at: record.at,
            progress: account.progress(),
            targets: account.targets(),
            states: account.states().clone(),
            without: account.without(),
            problem: account.problem().cloned(),
            nodes,
            unlisted: account.unlisted(),
            next,
        }
    });
    ok(&shown)
}

async fn cancel(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_body()?;
    let record = find(&caller, &call)?;
    // By the session that asked: a request is its own. Whose token calls, and whether it may, the broker has said for this one too.
    if let Some(seat) = record.seat.upgrade().filter(|_| !record.is_over()) {
        match seat.ask(query("/muster/cancel", &CancelQuery { request: record.id().to_string() })).await {
            Ok(body) => return Ok(json(StatusCode::OK, body)),
            // Its last event comes before this answer; one that has none may be on its way to the broker still.
            Err(problem) if problem.code != Code::NoSuchRequest.as_str() || !record.is_over() => return Err(problem),
            Err(_) => {}
        }
    }
    match record.look(|account| account.end().cloned()) {
        // It has ended, perhaps just now: that is no mistake of who calls, and there is nobody to stop.
        Some(End::Done | End::Refused(_)) => ok(&CancelAnswer { cancelled: 0 }),
        Some(End::Abandoned(_)) | None => {
            let text = format!("{}: the session that asked is over, and its nodes go on", record.id());
            Err(Problem::new(Code::Gone, text).cured("Wait until they are done: nobody can stop them any more."))
        }
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A JSON object a line.
    Lines,
    /// As browsers read them.
    ServerSent,
}

/// A stream under way. It holds the caller's seat and the connection, so that neither is taken for idle.
struct Following {
    record: Arc<Record>,
    caller: Caller,
    form: Form,
    from: u64,
    is_over: bool,
    _in_use: InUse,
}

async fn events_of(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.bodiless()?;
    let record = find(&caller, &call)?;
    let mut parameters = call.query()?;
    let from = parameters.number("from", 1..=u64::MAX)?;
    parameters.end()?;
    let form = form(&call.parts.headers)?;
    let seen = call.parts.headers.get("last-event-id").and_then(|text| text.to_str().ok());
    let seen = match seen {
        Some(text) => {
            Some(text.parse::<u64>().map_err(|_| Problem::parameter("last-event-id: it is no number of an event"))?)
        }
        None => None,
    };
    let from = from.or_else(|| seen.map(|seen| seen.saturating_add(1))).unwrap_or(1);
    let following = Following { record, caller, form, from, is_over: false, _in_use: call.visit.enter() };
    let events = futures_util::stream::unfold(following, |mut following| async move {
        let bytes = following.next().await?;
        Some((Ok::<_, Infallible>(bytes), following))
    });
    let mut response = Response::new(Body::from_stream(events));
    let kind = match form {
        Form::Lines => "application/x-ndjson",
        Form::ServerSent => "text/event-stream",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

impl Following {
    /// What is written next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let mut out = BytesMut::new();
        let read = tokio::select! {
            read = timeout(SIGN_OF_LIFE, self.record.read(self.from, SLICE)) => read,
            // Whoever may not call any more hears nothing more.
            problem = self.caller.ended() => {
                self.is_over = true;
                let mut said = object!({ "event": "abandoned" });
                said["code"] = problem.code.into();
                said["text"] = problem.text.into();
                self.form.write(&mut out, None, "abandoned", said.to_string().as_bytes());
                return Some(out.freeze());
            }
        };
        let Ok(read) = read else {
            if self.form == Form::ServerSent {
                out.put_slice(b":\n\n");
            } else {
                // An empty line says nothing, and shows whether anybody still reads.
                out.put_slice(b"\n");
            }
            return Some(out.freeze());
        };
        if read.missed > 0 {
            self.from = self.from.saturating_add(read.missed);
            let gap = object!({ "event": "gap", "missed": read.missed }).to_string();
            self.form.write(&mut out, None, "gap", gap.as_bytes());
        }
        for Entry { number, event, text } in read.entries {
            self.form.write(&mut out, Some(number), event, &text);
            self.from = number + 1;
        }
        self.is_over = read.is_last;
        if out.is_empty() { None } else { Some(out.freeze()) }
    }
}

impl Form {
    /// The JSON in it has no line ends of its own.
    fn write(self, out: &mut BytesMut, number: Option<u64>, event: &str, json: &[u8]) {
        match self {
            Form::Lines => {
                out.put_slice(json);
                out.put_slice(b"\n");
            }
            Form::ServerSent => {
                if let Some(number) = number {
                    out.put_slice(format!("id: {number}\n").as_bytes());
                }
                out.put_slice(format!("event: {event}\ndata: ").as_bytes());
                out.put_slice(json);
                out.put_slice(b"\n\n");
            }
        }
    }
}

/// What `Accept` wants: lines, unless it wants what browsers read.
fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let mut wanted =
        headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()).flat_map(|all| all.split(','));
    let kinds: Vec<String> =
        wanted.by_ref().map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).collect();
    let is = |names: &[&str]| kinds.iter().any(|kind| names.contains(&kind.as_str()));
    if is(&["text/event-stream"]) {
        Ok(Form::ServerSent)
    } else if kinds.is_empty()
        || is(&["application/x-ndjson", "application/ndjson", "application/jsonl", "application/*", "*/*"])
    {
        Ok(Form::Lines)
    } else {
        let text = "accept: events are application/x-ndjson or text/event-stream";
        Err(Problem::fault(Fault::NotAcceptable, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_destination() {
        let of = |value: Value| serde_json::from_value::<NewRequest>(value).unwrap().destination();
        let topic = "/topic/prod.service.restart";
        assert_eq!(of(object!({ "destination": topic })).unwrap(), topic);
        let named = object!({ "collective": "prod", "module": "service", "action": "restart" });
        assert_eq!(of(named).unwrap(), topic);
        for wrong in [
            object!({}),
            object!({ "module": "service", "action": "restart" }),
            object!({ "destination": topic, "module": "service" }),
            object!({ "collective": "prod", "module": "service.x", "action": "restart" }),
            object!({ "collective": "", "module": "service", "action": "restart" }),
        ] {
            assert_eq!(of(wrong.clone()).unwrap_err().code, "bad-body", "{wrong}");
        }
    }

    #[test]
    fn events_come_in_the_form_that_is_wanted() {
        let of = |accept: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            form(&headers).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!((of(None), of(Some("*/*"))), (Ok(Form::Lines), Ok(Form::Lines)));
        assert_eq!(of(Some("Text/Event-Stream; q=0.9, */*")), Ok(Form::ServerSent));
        assert_eq!(of(Some("application/xml")), Err(406));
        let mut out = BytesMut::new();
        Form::ServerSent.write(&mut out, Some(7), "reply", b"{}");
        assert_eq!(&out[..], b"id: 7\nevent: reply\ndata: {}\n\n");
    }
}

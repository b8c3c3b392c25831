//! Who is connected, who was, and what is on record? Sessions, closed connections and the audit log of this broker.

use super::call::Call;
use super::nodes::{pass_on, query};
use super::problem::Problem;
use super::routes::{Operation, Routes, delete, get};
use super::seats::Caller;
use axum::response::Response;
use muster_protocol::admin::{AuditAnswer, AuditQuery, CloseAnswer, CloseQuery, SessionsAnswer, SessionsQuery};
use muster_protocol::message::NodeId;
use muster_protocol::policy::PAGE_MOST;
use serde::Deserialize;
use serde_json::json;

const SESSIONS: &str = "/muster/admin.sessions";
const CLOSE: &str = "/muster/admin.close";
const AUDIT: &str = "/muster/admin.audit";

/// Why a session is closed.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CloseBody {
    /// The peer is told, and it goes on record.
    #[schema(min_length = 1)]
    reason: String,
}

pub(super) fn add(routes: &mut Routes) {
    let operation = get("/api/v1/sessions", "sessions", "sessions", "Who is connected to this broker, page by page.");
    let operation = listed(operation).answers::<SessionsAnswer>("One page of `sessions`.");
    routes.add(operation, |caller, call| list(caller, call, false));
    let operation =
        get("/api/v1/sessions/closed", "closedSessions", "sessions", "Who was connected, and why that ended.");
    let operation = listed(operation).answers::<SessionsAnswer>("One page of `closed`, the newest first.");
    routes.add(operation, |caller, call| list(caller, call, true));
    let operation = delete("/api/v1/sessions/{id}", "closeSession", "sessions", "Closes a session of this broker.");
    let operation = operation
        .says("Whoever has it may connect again, if the policy lets them: to keep somebody out, change the policy.")
        .writes(CLOSE)
        .path_text("id", "Its number.", number())
        .takes::<CloseBody>()
        .answers::<CloseAnswer>("It is closed.")
        .refuses(&[404]);
    routes.add(operation, close);
    let text = || json!({ "type": "string" });
    let moment = || json!({ "type": "string", "format": "date-time" });
    let operation =
        get("/api/v1/audit", "audit", "audit", "Lines of the audit log of this broker, the newest that fit.");
    let operation = operation
        .writes(AUDIT)
        .query("since", "From then on, RFC 3339.", moment())
        .query("until", "Before then, RFC 3339.", moment())
        .query("user", "Exactly this user.", text())
        .query("decision", "How it was decided.", json!({ "type": "string", "enum": ["allowed", "denied"] }))
        .query("destination", "A destination pattern.", json!({ "type": "string", "format": "muster-destination" }))
        .query("node", "A node id.", json!({ "$ref": "#/components/schemas/NodeId" }))
        .query("request", "The id of a request.", text())
        .query("before", "Lines of a lower number: `next` of the page before.", number())
        .query("event", "A kind of event, such as `login`.", text())
        .query(
            "limit",
            "At most so many.",
            json!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": PAGE_MOST }),
        )
        .answers::<AuditAnswer>("The lines, oldest first.");
    routes.add(operation, audit);
}

fn number() -> serde_json::Value {
    json!({ "type": "integer", "format": "int64", "minimum": 0 })
}

fn listed(operation: Operation) -> Operation {
    operation
        .writes(SESSIONS)
        .query("user", "Only of this user.", json!({ "type": "string" }))
        .query(
            "kind",
            "Only of this kind of user.",
            json!({ "type": "string", "enum": ["agent", "operator", "service"] }),
        )
        .pages(PAGE_MOST, "Those after this one", number())
}

async fn list(caller: Caller, call: Call, closed: bool) -> Result<Response, Problem> {
    call.bodiless()?;
    let mut parameters = call.query()?;
    let (user, limit) = (parameters.text("user"), parameters.limit(PAGE_MOST)?);
    let kinds = ["agent", "operator", "service"];
    let kind = parameters.parsed("kind", "agent, operator or service", |kind| one_of(&kinds, kind))?;
    let after = parameters.number("after", 0..=u64::MAX)?;
    parameters.end()?;
    pass_on(&caller, query(SESSIONS, &SessionsQuery { user, kind, closed, after, limit })).await
}

async fn close(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_query()?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let session = call.parsed("id", "the number of a session", |text| text.parse().ok().filter(|_| digits(text)))?;
    let CloseBody { reason } = call.json().await?;
    pass_on(&caller, query(CLOSE, &CloseQuery { session, reason })).await
}

async fn audit(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.bodiless()?;
    let mut parameters = call.query()?;
    let question = AuditQuery {
        since: parameters.text("since"),
        until: parameters.text("until"),
        user: parameters.text("user"),
        decision: parameters.parsed("decision", "allowed or denied", |word| one_of(&["allowed", "denied"], word))?,
        destination: parameters.text("destination"),
        node: parameters.parsed("node", "a node id", |text| NodeId::parse(text).ok().map(|id| id.to_string()))?,
        request: parameters.text("request"),
        before: parameters.number("before", 0..=u64::MAX)?,
        event: parameters.text("event"),
        limit: parameters.limit(PAGE_MOST)?,
    };
    parameters.end()?;
    pass_on(&caller, query(AUDIT, &question)).await
}

fn one_of(words: &[&str], word: &str) -> Option<String> {
    words.contains(&word).then(|| word.to_owned())
}

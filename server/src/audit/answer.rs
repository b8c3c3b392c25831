//! What is an admin told who asks for the audit log over the network? The lines that fit, within bounds that no question can pass.

use super::Audit;
use super::search::{Bounds, DECISIONS, Found, SearchError, Wanted, find};
use jiff::Timestamp;
use muster_protocol::admin::{AuditAnswer, AuditQuery};
use muster_protocol::destination::Pattern;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::shown;
use muster_protocol::policy::PAGE_MOST;
use serde_json::Value;
use std::path::Path;

/// 256 KiB of lines, from at most 32 MiB of files.
const BOUNDS: Bounds = Bounds { found: 256 * 1024, read: 32 * 1024 * 1024 };
/// Lines, if the question does not say.
const LINES: u32 = 100;
/// When to try again what the log is too busy for, ms.
const BUSY: u64 = 1_000;

/// Looks into the log of this broker, whose name is in the answer. What was decided before is written first, so that it is found. Takes
/// as long as reading 32 MiB takes; how many questions are answered at once is for the caller to bound.
pub async fn answer(audit: &Audit, query: &AuditQuery, broker: &str) -> Result<AuditAnswer, Refusal> {
    let wanted = wanted(query)?;
    let Some(file) = audit.file().map(Path::to_owned) else {
        let text = format!("{broker} keeps no audit log; turn it on in its configuration (audit.enabled)");
        return Err(Refusal::new(Code::Unsupported, text));
    };
    if !audit.flush().await {
        return Err(Refusal::new(Code::Busy, "the audit log cannot keep up with what is written").again_in(BUSY));
    }
    let found = tokio::task::spawn_blocking(move || find(&file, &wanted, BOUNDS)).await;
    let unread = |cause: String| {
        let text = format!("the audit log cannot be read: {cause}");
        tracing::warn!(reason = text, "a question about the audit log was not answered");
        Refusal::new(Code::Internal, text)
    };
    let Found { lines, next } = match found {
        Ok(Ok(found)) => found,
        // Nothing could be written so far.
        Ok(Err(SearchError::None { .. })) => Found::default(),
        Ok(Err(SearchError::Read { cause, .. })) => return Err(unread(cause.to_string())),
        Ok(Err(error @ SearchError::Config(_))) => return Err(unread(error.to_string())),
        Err(error) => return Err(unread(error.to_string())),
    };
    let lines = lines.into_iter().map(|(_, fields)| Value::Object(fields)).collect();
    Ok(AuditAnswer { broker: broker.to_owned(), lines, more: next.is_some(), next })
}

fn wanted(query: &AuditQuery) -> Result<Wanted, Refusal> {
    let wrong = |text: String| Refusal::new(Code::BadBody, text);
    let moment = |name: &str, text: &String| {
        let wrong = |_| wrong(format!("{name}: `{}` is no moment; expected such as 2027-01-31T18:00:00Z", shown(text)));
        text.parse::<Timestamp>().map_err(wrong)
    };
    let AuditQuery { since, until, user, decision, destination, node, request, event, before, limit } = query.clone();
    if let Some(decision) = decision.as_deref().filter(|decision| !DECISIONS.contains(decision)) {
        return Err(wrong(format!("decision: `{}` is none; expected allowed or denied", shown(decision))));
    }
    let limit = limit.unwrap_or(LINES);
    if !(1..=PAGE_MOST).contains(&limit) {
        return Err(wrong(format!("limit: expected 1 to {PAGE_MOST}")));
    }
    let pattern = |text: &String| Pattern::parse(text).map_err(|error| wrong(format!("destination: {error}")));
    Ok(Wanted {
        since: since.as_ref().map(|text| moment("since", text)).transpose()?,
        until: until.as_ref().map(|text| moment("until", text)).transpose()?,
        user,
        decision,
        destination: destination.as_ref().map(pattern).transpose()?,
        node,
        request,
        event,
        before,
        limit: limit as usize,
    })
}

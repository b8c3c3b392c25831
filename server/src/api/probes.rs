//! Does the broker live, is it ready, how is it? For supervisors, load balancers and monitoring, which have no password.
//!
//! From the networks in `open-to` nobody has to log in; from elsewhere it takes the right to see the mesh.

use super::call::Call;
use super::nodes::query;
use super::problem::Problem;
use super::routes::{Routes, get, ok};
use crate::metrics;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use muster_protocol::error::Code;
use muster_protocol::request::{MeshAnswer, MeshQuery};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// How long the broker may be busy and still count as ready.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// It answers.
#[derive(Serialize, utoipa::ToSchema)]
struct Alive {
    /// `ok`.
    status: &'static str,
}

pub(super) fn add(routes: &mut Routes) {
    let probe = |path: &'static str, id, summary| {
        get(path, id, "probes", summary)
            .says("Open to the networks of `open-to`; from elsewhere it needs a token whose user may write to `/muster/mesh`.")
            .refuses(&[401, 429])
    };
    let operation = probe("/healthz", "healthz", "Whether the process lives.");
    routes.add_open(operation.answers::<Alive>("It does."), healthz);
    let operation = probe("/readyz", "readyz", "Whether the broker serves, and is not about to stop.");
    routes.add_open(operation.answers::<Alive>("It does."), readyz);
    let operation =
        probe("/meshz", "meshz", "All brokers and links, as this broker sees them, without a word on nodes.");
    routes.add_open(operation.answers::<MeshAnswer>("The mesh."), meshz);
    let content = json!({ metrics::CONTENT_TYPE: { "schema": { "type": "string" } } });
    let operation = probe("/metrics", "metrics", "Counts and times for Prometheus.")
        .says("They count all nodes: a user with a scope gets none.");
    routes.add_open(operation.answer(200, "The metrics.", &content), numbers);
}

/// How much whoever calls may know.
#[derive(Debug, PartialEq)]
enum Sight {
    /// Everything.
    Whole,
    /// No number of nodes: they are those of a scope.
    Scoped,
}

/// Whether whoever calls may look.
async fn admit(call: &Call) -> Result<Sight, Problem> {
    call.no_body()?;
    let peer = call.visit.peer.ip();
    if call.front.config.open_to.iter().any(|network| network.contains(&peer)) {
        call.visit.admit();
        return Ok(Sight::Whole);
    }
    let caller = call.caller().await?;
    let mesh = caller.ask(query("/muster/mesh", &MeshQuery {})).await?;
    // The broker says how many nodes it has, unless that is not for whoever asks.
    let mesh: MeshAnswer = serde_json::from_slice(&mesh)
        .map_err(|error| Problem::new(Code::Internal, format!("the broker's answer cannot be read: {error}")))?;
    Ok(if mesh.brokers.iter().any(|broker| broker.nodes.is_some()) { Sight::Whole } else { Sight::Scoped })
}

async fn healthz(call: Call) -> Result<Response, Problem> {
    admit(&call).await?;
    ok(&Alive { status: "ok" })
}

async fn readyz(call: Call) -> Result<Response, Problem> {
    admit(&call).await?;
    let front = &call.front;
    call.refuse_when_stopping()?;
    match timeout(READY_WITHIN, front.hub.ask(|_| ())).await {
        Ok(Some(())) => ok(&Alive { status: "ready" }),
        Ok(None) => Err(Problem::new(Code::Internal, "the broker decides nothing any more")
            .with_status(axum::http::StatusCode::SERVICE_UNAVAILABLE)),
        Err(_) => Err(Problem::new(Code::Busy, format!("the broker was busy for {} s", READY_WITHIN.as_secs()))),
    }
}

async fn meshz(call: Call) -> Result<Response, Problem> {
    admit(&call).await?;
    let answer = call.front.hub.ask(|broker| broker.mesh_answer()).await;
    let mut answer = answer.ok_or_else(|| Problem::new(Code::Draining, "the broker is stopping"))?;
    answer.brokers.iter_mut().for_each(|broker| broker.nodes = None);
    ok(&answer)
}

async fn numbers(call: Call) -> Result<Response, Problem> {
    if admit(&call).await? == Sight::Scoped {
        let text = "these numbers count all nodes of the broker and what is done with them, and the user has a scope";
        return Err(Problem::new(Code::Denied, text));
    }
    let mut response = Response::new(Body::from((call.front.metrics)().await));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    Ok(response)
}

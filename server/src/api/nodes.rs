//! Which brokers and nodes are there? Health, mesh, find, report and one node.

use super::call::Call;
use super::problem::Problem;
use super::routes::{Routes, get, json, ok, post};
use super::seats::Caller;
use axum::http::StatusCode;
use axum::response::Response;
use muster_protocol::error::Code;
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::{MAX_NODES_HEADER, NodeId, header};
use muster_protocol::request::{
    FindAnswer, FindQuery, MeshAnswer, MeshQuery, NodeAnswer, NodeQuery, ReportAnswer, ReportQuery,
};
use serde::{Deserialize, Serialize};
use serde_json::json as object;

/// Which nodes, and what is shown of them.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct FindNodes {
    /// A filter, or `all`.
    #[schema(format = "muster-filter")]
    target: Option<String>,
    /// Only these of them, at most 500.
    #[serde(default)]
    #[schema(max_items = 500)]
    nodes: Vec<NodeId>,
    /// Facts to show with each node, at most 64.
    #[serde(default)]
    #[schema(max_items = 64)]
    facts: Vec<String>,
    /// At most so many; 500 unless told, with `facts` 64.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only nodes that announce this module.
    module: Option<String>,
}

/// Of which fact, and of which nodes.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ReportNodes {
    /// A filter, or `all`.
    #[schema(format = "muster-filter")]
    target: Option<String>,
    /// Path of the fact.
    #[schema(format = "muster-fact")]
    fact: String,
    /// Most distinct values to list; 100 unless told.
    limit: Option<u32>,
}

/// How this broker is.
#[derive(Serialize, utoipa::ToSchema)]
struct Health {
    /// Its name.
    broker: String,
    /// Of `musterd`.
    version: String,
    /// Since its start, s.
    uptime_s: u64,
    /// It is about to stop: log in elsewhere.
    stopping: bool,
    /// Its links, if the caller may see the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<HealthLink>>,
    /// What somebody should look at, if the caller may see the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    alarms: Option<Vec<String>>,
}

/// A link of this broker.
#[derive(Serialize, utoipa::ToSchema)]
struct HealthLink {
    /// To which broker.
    peer: String,
    /// How it stands.
    #[schema(value_type = String)]
    state: serde_json::Value,
    /// Since when, Unix ms.
    since: u64,
    /// What ended or kept it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

pub(super) fn add(routes: &mut Routes) {
    let operation = get("/api/v1/health", "health", "brokers", "How this broker is.")
        .says("Links and alarms are there if the user may write to `/muster/mesh`.")
        .answers::<Health>("As it is now.");
    routes.add(operation, health);
    let operation = get("/api/v1/mesh", "mesh", "brokers", "All brokers and links, as this broker sees them.")
        .writes("/muster/mesh")
        .answers::<MeshAnswer>("The mesh.");
    routes.add(operation, mesh);
    let operation = post("/api/v1/nodes/find", "findNodes", "nodes", "Which nodes match, page by page.")
        .writes("/muster/find")
        .takes::<FindNodes>()
        .answers::<FindAnswer>("One page.");
    routes.add(operation, find);
    let operation = post("/api/v1/nodes/report", "reportNodes", "nodes", "How often each value of a fact occurs.")
        .writes("/muster/report")
        .takes::<ReportNodes>()
        .answers::<ReportAnswer>("The values, the most frequent first.");
    routes.add(operation, report);
    let operation = get("/api/v1/nodes/{id}", "node", "nodes", "All that is known of one node.")
        .writes("/muster/node")
        .path_text("id", "Its node id.", object!({ "$ref": "#/components/schemas/NodeId" }))
        .query(
            "explain",
            "A filter: why it matches the node, or not.",
            object!({ "type": "string", "format": "muster-filter" }),
        )
        .answers::<NodeAnswer>("The node.")
        .refuses(&[404]);
    routes.add(operation, node);
}

/// A message to a destination of the broker, with a query in it.
pub(super) fn query(destination: &str, body: &impl Serialize) -> Frame {
    Frame::new(Command::Send)
        .header("destination", destination)
        .header("content-type", "application/json")
        .with_body(serde_json::to_vec(body).unwrap_or_default())
}

/// The same, for the nodes of a target.
pub(super) fn aimed(frame: Frame, target: Option<&str>, nodes: &[NodeId]) -> Frame {
    let frame = if let Some(target) = target { frame.header(header::TARGET, target) } else { frame };
    if nodes.is_empty() {
        return frame;
    }
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    frame.header(header::NODES, &ids.join(","))
}

/// What the description says of a list of nodes, said before anything is made of it.
pub(super) fn refuse_many(nodes: &[NodeId]) -> Result<(), Problem> {
    if nodes.len() > MAX_NODES_HEADER {
        return Err(Problem::body(format!("nodes: {}, at most {MAX_NODES_HEADER} are possible", nodes.len())));
    }
    Ok(())
}

/// Puts a question, and gives the answer back as it came.
pub(super) async fn pass_on(caller: &Caller, frame: Frame) -> Result<Response, Problem> {
    Ok(json(StatusCode::OK, caller.ask(frame).await?))
}

async fn health(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_body()?;
    let front = &call.front;
    let mesh = match caller.ask(query("/muster/mesh", &MeshQuery {})).await {
        Ok(body) => serde_json::from_slice::<MeshAnswer>(&body).ok(),
        Err(problem) if problem.code == Code::Denied.as_str() => None,
        Err(problem) => return Err(problem),
    };
    let links = mesh.as_ref().map(|_| {
        let links = front.links.status().into_iter().map(|link| HealthLink {
            peer: link.peer.to_string(),
            state: serde_json::to_value(link.state).unwrap_or_default(),
            since: link.since,
            last_error: link.last_error,
        });
        links.collect()
    });
    let editions = front.hub.ask(|broker| broker.policy_alarms().map(str::to_owned).collect::<Vec<_>>()).await;
    let alarms = mesh.map(|mesh| {
        let own = front.links.alarms().into_iter().map(|alarm| format!("{}: {}", alarm.about, alarm.text));
        let policy = front.keeper.alarms().into_iter().chain(editions.unwrap_or_default());
        mesh.alarms.into_iter().chain(own).chain(policy.map(|text| format!("policy: {text}"))).collect()
    });
    ok(&Health {
        broker: front.broker.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: front.started.elapsed().as_secs(),
        stopping: *front.stopping.borrow(),
        links,
        alarms,
    })
}

async fn mesh(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_body()?;
    pass_on(&caller, query("/muster/mesh", &MeshQuery {})).await
}

async fn find(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_query()?;
    let FindNodes { target, nodes, facts, limit, cursor, module } = call.json().await?;
    refuse_many(&nodes)?;
    let frame = query("/muster/find", &FindQuery { facts, limit, cursor, module });
    pass_on(&caller, aimed(frame, target.as_deref(), &nodes)).await
}

async fn report(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.no_query()?;
    let ReportNodes { target, fact, limit } = call.json().await?;
    pass_on(&caller, aimed(query("/muster/report", &ReportQuery { fact, limit }), target.as_deref(), &[])).await
}

async fn node(caller: Caller, call: Call) -> Result<Response, Problem> {
    call.bodiless()?;
    let node = call.parsed("id", "a node id (n- and 20 characters of a-z and 2-7)", |text| NodeId::parse(text).ok())?;
    let mut parameters = call.query()?;
    let explain = parameters.text("explain");
    parameters.end()?;
    pass_on(&caller, query("/muster/node", &NodeQuery { node, explain })).await
}

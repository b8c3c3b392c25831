//! How does the broker do, in numbers for Prometheus? [`collect`] takes a snapshot, [`render`] writes it down.
//!
//! What counts is counted elsewhere, where it happens; in here nothing is. The text is written by hand: a registry of live metrics
//! would be a second home for every number, and the crate for it writes OpenMetrics, where a counter has another name than in
//! the format that all tools read. docs/metrics.md lists what there is; a test holds it to that.

mod page;
mod process;

pub use page::CONTENT_TYPE;

use crate::broker::access::Kind;
use crate::broker::mesh::Counters as Mesh;
use crate::broker::outbox::Expired;
use crate::broker::{Broker, Counters};
use crate::gate::{Counts, Gate};
use crate::hub::{BOUNDS, Beat, Hub};
use crate::links::{LinkState, LinkStatus, Links, Traffic};
use crate::login::{Logins, Outcome};
use crate::policy::keeper::Keeper;
use muster_protocol::error::Code;
use muster_protocol::policy::Generation;
use muster_protocol::request::State;
use page::{Kind::Counter, Kind::Gauge, Page};
use process::Process;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the hub may take to answer. A broker that does not decide any more must still be seen.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the numbers of a running broker are.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The broker's name.
    pub name: &'a str,
    /// When it started.
    pub started: Instant,
    /// The hub.
    pub hub: &'a Hub,
    /// Connections of clients.
    pub gate: &'a Gate,
    /// Logins.
    pub logins: &'a Logins,
    /// What outboxes have dropped.
    pub expired: &'a Expired,
    /// Links to other brokers.
    pub links: &'a Links,
    /// What keeps the policy on disk.
    pub keeper: &'a Keeper,
    /// When the certificate in use ends, Unix seconds.
    pub certificate_until: Option<i64>,
}

/// All numbers at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    name: String,
    uptime: Duration,
    connections: Counts,
    turned_away: u64,
    logins: Vec<(Outcome, u64)>,
    expired: u64,
    links: Vec<LinkStatus>,
    link_alarms: usize,
    /// Of the policy on disk.
    keeper_alarms: usize,
    hub: Beat,
    audit: Option<Written>,
    certificate_until: Option<i64>,
    process: Process,
    /// None if the hub did not answer.
    broker: Option<Decided>,
}

/// What the audit log has written since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Records on file.
    pub written: u64,
    /// Records that are missing there.
    pub lost: u64,
    /// Records that wait.
    pub waiting: usize,
    /// It cannot be written now.
    pub failing: bool,
}

/// What the broker itself knows: copied out in one question, whose cost does not grow with nodes or sessions.
#[derive(Debug, Clone, Default)]
struct Decided {
    sessions: Vec<(Kind, usize)>,
    registered: usize,
    registering: usize,
    gone: usize,
    counters: Counters,
    refused: Vec<(Code, u64)>,
    ended: Vec<(State, u64)>,
    delivered: u64,
    requests: usize,
    owed: usize,
    inquiries: usize,
    lanes: usize,
    reachable: usize,
    unreachable: usize,
    routes: u64,
    mesh: Mesh,
    mesh_alarms: usize,
    /// Of the editions that brokers tell each other.
    policy_alarms: usize,
    round_trips: BTreeMap<String, u64>,
    generation: Generation,
    policy_since: u64,
}

/// Takes a snapshot of a running broker.
pub async fn collect(parts: Parts<'_>) -> Snapshot {
    let broker = tokio::time::timeout(PATIENCE, parts.hub.ask(Decided::of)).await.ok().flatten();
    // A look into /proc may take a while on a machine that is in trouble.
    let process = tokio::task::spawn_blocking(Process::look).await.unwrap_or_default();
    Snapshot {
        name: parts.name.to_owned(),
        uptime: parts.started.elapsed(),
        connections: parts.gate.counts(),
        turned_away: parts.gate.turned_away(),
        logins: parts.logins.outcomes().collect(),
        expired: parts.expired.count(),
        links: parts.links.status(),
        link_alarms: parts.links.alarms().len(),
        keeper_alarms: parts.keeper.alarms().len(),
        hub: parts.hub.pulse(),
        audit: parts.hub.audit().written(),
        certificate_until: parts.certificate_until,
        process,
        broker,
    }
}

/// The snapshot in Prometheus's text format 0.0.4, see [`CONTENT_TYPE`].
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    about(&mut page, snapshot);
    if let Some(broker) = &snapshot.broker {
        sessions(&mut page, broker, snapshot.expired);
        nodes(&mut page, broker);
        requests(&mut page, broker);
        policy(&mut page, broker);
        mesh(&mut page, broker);
    }
    connections(&mut page, snapshot);
    links(&mut page, snapshot);
    hub(&mut page, &snapshot.hub, snapshot.broker.as_ref());
    audit(&mut page, snapshot.audit);
    snapshot.process.write(&mut page);
    page.into_text()
}

impl Decided {
    fn of(broker: &Broker) -> Decided {
        let (sessions, nodes, mesh) = (broker.sessions(), broker.nodes(), broker.mesh());
        let reachable = mesh.list().iter().filter(|name| mesh.reaches(name)).count();
        let round_trips = mesh.round_trips().filter_map(|(name, ms)| Some((name.to_string(), ms?)));
        Decided {
            sessions: Kind::ALL.iter().map(|kind| (*kind, sessions.count(*kind))).collect(),
            registered: nodes.len(),
            registering: nodes.registering(),
            gone: nodes.gone(),
            counters: broker.counters(),
            refused: broker.tally().refused().collect(),
            ended: broker.tally().ended().collect(),
            delivered: sessions.delivered(),
            requests: broker.requests_under_way(),
            owed: broker.requests_owed(),
            inquiries: broker.inquiries_open(),
            lanes: broker.lanes_waiting(),
            reachable,
            unreachable: mesh.list().len() - reachable,
            routes: mesh.changes(),
            mesh: mesh.counters(),
            mesh_alarms: mesh.alarms().count(),
            policy_alarms: broker.policy_alarms().count(),
            round_trips: round_trips.collect(),
            generation: generation(broker),
            policy_since: broker.policy_since(),
        }
    }
}

/// Term and number of the policy in force, 0 and 0 for one that nobody has sealed.
fn generation(broker: &Broker) -> Generation {
    broker.edition().generation().unwrap_or_default()
}

fn about(page: &mut Page, snapshot: &Snapshot) {
    let version = env!("CARGO_PKG_VERSION");
    page.family("muster_build_info", Gauge, "Which broker, of which version; always 1")
        .with(&[("name", &snapshot.name), ("version", version)], 1);
    page.family("muster_uptime_seconds", Gauge, "Time since the broker started").add(snapshot.uptime.as_secs_f64());
    let answers = u8::from(snapshot.broker.is_some());
    page.family(
        "muster_hub_answers",
        Gauge,
        "1 if the task that decides has answered within 2 s; else what it knows is left out",
    )
    .add(answers);
    if let Some(until) = snapshot.certificate_until {
        let help = "When the certificate in use ends, Unix time";
        page.family("muster_certificate_expiry_timestamp_seconds", Gauge, help).add(until);
    }
    let mut alarms = page.family("muster_alarms", Gauge, "What somebody should look at, see musterd ctl status");
    alarms.with(&[("source", "links")], snapshot.link_alarms);
    if let Some(broker) = &snapshot.broker {
        alarms.with(&[("source", "mesh")], broker.mesh_alarms);
    }
    let of_editions = snapshot.broker.as_ref().map_or(0, |broker| broker.policy_alarms);
    alarms.with(&[("source", "policy")], snapshot.keeper_alarms + of_editions);
}

fn sessions(page: &mut Page, broker: &Decided, expired: u64) {
    let mut open = page.family("muster_sessions", Gauge, "Open sessions, by kind of user");
    for (kind, count) in &broker.sessions {
        open.with(&[("kind", kind.as_str())], *count);
    }
    let counters = &broker.counters;
    page.family("muster_sessions_opened_total", Counter, "Sessions opened").add(counters.opened);
    page.family(
        "muster_sessions_refused_total",
        Counter,
        "Logins with the right credentials that opened no session: a limit, a newer session of the node, a changed policy",
    )
    .add(counters.turned_away);
    page.family("muster_sessions_moved_total", Counter, "Sessions closed because their node has connected again")
        .add(counters.moved);
    page.family("muster_slow_consumers_total", Counter, "Sessions closed because they did not read")
        .add(counters.slow_consumers);
    page.family("muster_outbox_expired_total", Counter, "Messages that expired while they waited for a session")
        .add(expired);
    page.family("muster_deliveries_total", Counter, "Messages handed to sessions").add(broker.delivered);
}

fn nodes(page: &mut Page, broker: &Decided) {
    let mut nodes =
        page.family("muster_nodes", Gauge, "Nodes of this broker: known, not known yet, gone and remembered");
    for (state, count) in
        [("registered", broker.registered), ("registering", broker.registering), ("gone", broker.gone)]
    {
        nodes.with(&[("state", state)], count);
    }
}

fn requests(page: &mut Page, broker: &Decided) {
    let counters = &broker.counters;
    let mut asked = page.family("muster_requests_total", Counter, "Requests of sessions of this broker, as they came");
    asked.with(&[("outcome", "accepted")], counters.requests);
    asked.with(&[("outcome", "refused")], counters.requests_refused);
    page.family(
        "muster_requests_stopped_total",
        Counter,
        "Accepted requests of which nothing was delivered: a guard did not hold, brokers were missing, or it was cancelled",
    )
    .add(counters.requests_stopped);
    page.family("muster_requests_open", Gauge, "Requests of sessions of this broker that are not accounted for")
        .add(broker.requests);
    page.family("muster_requests_owed", Gauge, "Requests that nodes of this broker owe answers to, whoever asked")
        .add(broker.owed);
    let help = "Nodes that requests of this broker's sessions went to, by the state in which they ended";
    let mut ended = page.family("muster_request_nodes_total", Counter, help);
    for (state, count) in &broker.ended {
        ended.with(&[("state", state.as_str())], *count);
    }
    page.family("muster_replies_total", Counter, "Replies of nodes of this broker").add(counters.replies);
    page.family(
        "muster_stray_replies_total",
        Counter,
        "Replies of nodes that were not asked or had answered, or whose asker had left",
    )
    .add(counters.stray_replies);
    let mut refused =
        page.family("muster_refusals_total", Counter, "Whatever sessions asked for and did not get, by code");
    for (code, count) in &broker.refused {
        refused.with(&[("code", code.as_str())], *count);
    }
    page.family("muster_inquiries_open", Gauge, "Questions about nodes that wait for other brokers")
        .add(broker.inquiries);
}

fn policy(page: &mut Page, broker: &Decided) {
    let Generation { term, number } = broker.generation;
    page.family("muster_policy_term", Gauge, "Term of the policy in force; 0 where no broker is the authority")
        .add(term);
    page.family("muster_policy_number", Gauge, "Number of the policy in force within its term").add(number);
    page.family("muster_policy_loaded_timestamp_seconds", Gauge, "Since when the policy is in force, Unix time")
        .add(seconds(broker.policy_since));
}

fn mesh(page: &mut Page, broker: &Decided) {
    let mut others = page.family("muster_mesh_brokers", Gauge, "Other brokers of the policy's list");
    others.with(&[("reach", "reachable")], broker.reachable);
    others.with(&[("reach", "unreachable")], broker.unreachable);
    page.family("muster_mesh_routes_computed_total", Counter, "How often the ways to other brokers were computed")
        .add(broker.routes);
    let Mesh { forwarded, relayed, flooded, repeated, dropped } = broker.mesh;
    let help =
        "Messages to other brokers: begun here, passed on, flooded while topologies differed, seen before, dropped";
    let mut messages = page.family("muster_mesh_messages_total", Counter, help);
    for (what, count) in [
        ("forwarded", forwarded),
        ("relayed", relayed),
        ("flooded", flooded),
        ("repeated", repeated),
        ("dropped", dropped),
    ] {
        messages.with(&[("what", what)], count);
    }
}

fn connections(page: &mut Page, snapshot: &Snapshot) {
    let Counts { open, waiting, pending } = snapshot.connections;
    page.family("muster_connections", Gauge, "Connections of clients, those included that have not logged in")
        .add(open);
    page.family("muster_connections_waiting", Gauge, "Connections of clients that wait for a place to log in")
        .add(waiting);
    page.family("muster_connections_pending", Gauge, "Connections of clients that have a place and log in")
        .add(pending);
    page.family("muster_connections_turned_away_total", Counter, "Connections that there was no place for")
        .add(snapshot.turned_away);
    let help = "How logins came out: right by password, cache or token; denied, busy, timeout, tls, malformed";
    let mut logins = page.family("muster_logins_total", Counter, help);
    for (outcome, count) in &snapshot.logins {
        logins.with(&[("outcome", outcome.as_str())], *count);
    }
}

fn links(page: &mut Page, snapshot: &Snapshot) {
    let links = &snapshot.links;
    let round_trips = snapshot.broker.as_ref().map(|broker| &broker.round_trips);
    let round_trip = |link: &LinkStatus| round_trips?.get(link.peer.as_str()).copied();
    let mut family = page.family("muster_link_up", Gauge, "1 if the link to this broker is up");
    links.iter().for_each(|link| family.with(&[peer(link)], u8::from(link.state == LinkState::Up)));
    let mut family = page.family("muster_link_taken_down", Gauge, "1 if an operator has taken the link down");
    links.iter().for_each(|link| family.with(&[peer(link)], u8::from(link.admin_down)));
    let mut family = page.family("muster_link_round_trip_seconds", Gauge, "How long the last ping took");
    for (link, ms) in links.iter().filter_map(|link| Some((link, round_trip(link)?))) {
        family.with(&[peer(link)], seconds(ms));
    }
    let mut family =
        page.family("muster_link_clock_skew_seconds", Gauge, "The other broker's clock minus ours at the last HELLO");
    for (link, ms) in links.iter().filter_map(|link| Some((link, link.clock_skew_ms?))) {
        family.with(&[peer(link)], ms as f64 / 1000.0);
    }
    let mut family = page.family("muster_link_backlog_bytes", Gauge, "Bytes of messages that wait to be sent");
    links.iter().for_each(|link| family.with(&[peer(link)], link.backlog));
    let mut family = page.family("muster_link_bytes_total", Counter, "Bytes, before TLS, by direction and lane");
    each_lane(links, |labels, traffic| family.with(labels, traffic.bytes));
    let mut family = page.family("muster_link_frames_total", Counter, "Frames, by direction and lane");
    each_lane(links, |labels, traffic| family.with(labels, traffic.frames));
    let help =
        "Messages that did not go: the lane was full (since the link is up), they had expired, or were too large";
    let mut family = page.family("muster_link_dropped_total", Counter, help);
    for link in links {
        for (reason, count) in
            [("full", link.dropped), ("expired", link.counts.expired), ("too-large", link.counts.too_large)]
        {
            family.with(&[peer(link), ("reason", reason)], count);
        }
    }
}

fn peer(link: &LinkStatus) -> (&'static str, &str) {
    ("peer", link.peer.as_str())
}

fn each_lane(links: &[LinkStatus], mut write: impl FnMut(&[(&str, &str)], Traffic)) {
    for link in links {
        let counts = &link.counts;
        for (direction, lane, traffic) in [
            ("in", "control", counts.control_in),
            ("out", "control", counts.control_out),
            ("in", "data", counts.data_in),
            ("out", "data", counts.data_out),
        ] {
            write(&[peer(link), ("direction", direction), ("lane", lane)], traffic);
        }
    }
}

fn hub(page: &mut Page, hub: &Beat, broker: Option<&Decided>) {
    let classes = BOUNDS.iter().map(|us| *us as f64 / 1e6).zip(hub.classes);
    page.histogram(
        "muster_hub_event_seconds",
        "How long the task that decides took for an event",
        classes,
        hub.classes.iter().sum(),
        hub.events.as_secs_f64(),
    );
    page.family("muster_hub_busy_seconds_total", Counter, "Time in which the task that decides did not wait")
        .add(hub.busy.as_secs_f64());
    page.family("muster_hub_queue", Gauge, "Events and questions that wait for the task that decides; at most 1024")
        .add(hub.waiting);
    if let Some(broker) = broker {
        let help = "Sessions, and callers of other brokers, whose work waits for its turn";
        page.family("muster_hub_lanes", Gauge, help).add(broker.lanes);
    }
}

fn audit(page: &mut Page, audit: Option<Written>) {
    page.family("muster_audit_enabled", Gauge, "1 if there is an audit log").add(u8::from(audit.is_some()));
    let Some(audit) = audit else { return };
    page.family("muster_audit_records_total", Counter, "Records written to the audit log").add(audit.written);
    page.family("muster_audit_lost_total", Counter, "Records that are missing in the audit log").add(audit.lost);
    page.family("muster_audit_waiting", Gauge, "Records that wait to be written").add(audit.waiting);
    page.family("muster_audit_failing", Gauge, "1 if the audit log cannot be written now").add(u8::from(audit.failing));
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests;

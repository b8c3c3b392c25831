//! How does a program command nodes? One logged-in connection: queries of the broker, and requests as streams of events.

use crate::connect::{self, Access, ConnectError};
use crate::events::{self, Misunderstood, Refused, RequestEvent};
use crate::without::Without;
use bytes::Bytes;
use muster_protocol::admin::{AuditAnswer, AuditQuery};
use muster_protocol::frame::{Command, Frame};
use muster_protocol::message::{MAX_NODES_HEADER, NodeId, RequestId, TARGET_ALL, header};
use muster_protocol::policy::{DiffAnswer, DiffQuery, LintAnswer, LintQuery, PAGE_MOST};
use muster_protocol::request::{
    CancelAnswer, CancelQuery, Conditions, ExplainAnswer, ExplainQuery, FindAnswer, FindQuery, MeshAnswer, NodeAnswer,
    NodeQuery, ReportAnswer, ReportQuery,
};
use muster_protocol::session::{Incoming, Session, SessionError};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// How long the broker may take for the answer of a query.
pub const QUERY_LIMIT: Duration = Duration::from_secs(30);
/// The reply queue of every connection; the broker makes it private.
const REPLY_QUEUE: &str = "/temp-queue/replies";
/// Frames that may wait for whoever reads the answers before the connection is no longer read.
const PENDING: usize = 256;
/// The largest page of `find`.
pub const PAGE: u32 = 1000;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No broker let us in.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The broker refused.
    #[error("{}: {}", .0.code_text, .0.text)]
    Refused(Refused),
    /// The connection ended.
    #[error("the connection to the broker was lost: {0}")]
    Lost(Arc<SessionError>),
    /// No answer to a query.
    #[error("the broker gave no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// A list could not be had as it stood at one moment.
    #[error("the policy was edited while it was listed, {0} times in a row; try again")]
    Unsettled(u32),
    /// Something came that cannot be read.
    #[error(transparent)]
    Misunderstood(#[from] Misunderstood),
}

/// Which nodes are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every node: needs the right to `all`.
    All,
    /// The nodes that match this filter.
    Filter(String),
}

impl Target {
    /// The value of `muster-target`.
    pub fn as_str(&self) -> &str {
        match self {
            Target::All => TARGET_ALL,
            Target::Filter(filter) => filter,
        }
    }
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// `/topic/COLLECTIVE.MODULE.ACTION`.
    pub destination: String,
    /// Which nodes.
    pub target: Target,
    /// Only these of them; empty for all. At most [`MAX_NODES_HEADER`].
    pub nodes: Vec<NodeId>,
    /// Until when an agent may start, from arrival.
    pub start_within: Option<Duration>,
    /// Until when an answer is awaited, from arrival.
    pub reply_within: Option<Duration>,
    /// Deliver to nobody if more nodes match.
    pub max_targets: Option<u64>,
    /// Deliver to nobody if another number of nodes matches.
    pub expect_targets: Option<u64>,
    /// Go on with the brokers that answer, although the guards cannot be checked over the whole mesh.
    pub allow_partial: bool,
    /// Decide everything, deliver nothing.
    pub dry_run: bool,
    /// The arguments, a JSON object.
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

impl Request {
    /// A request without guards, narrowing or arguments, under a random id.
    pub fn new(destination: impl Into<String>, target: Target) -> Request {
        Request {
            id: RequestId::random(),
            destination: destination.into(),
            target,
            nodes: Vec::new(),
            start_within: None,
            reply_within: None,
            max_targets: None,
            expect_targets: None,
            allow_partial: false,
            dry_run: false,
            arguments: serde_json::Map::new(),
        }
    }

    fn frame(&self) -> Frame {
        let mut frame = asking(&self.destination, self.id.as_str()).header(header::TARGET, self.target.as_str());
        if !self.nodes.is_empty() {
            debug_assert!(self.nodes.len() <= MAX_NODES_HEADER, "batches are cut before");
            frame = frame.header(header::NODES, &listed(&self.nodes));
        }
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let conditions = Conditions {
            start_within: self.start_within.map(millis),
            reply_within: self.reply_within.map(millis),
            max_targets: self.max_targets,
            expect_targets: self.expect_targets,
            dry_run: self.dry_run,
            allow_partial: self.allow_partial,
        };
        let body = serde_json::Value::Object(self.arguments.clone()).to_string();
        conditions.on(frame).header("content-type", "application/json").with_body(body)
    }
}

/// A logged-in connection to one broker. Clones share it; several queries and requests may be under way at once.
#[derive(Debug, Clone)]
pub struct Client {
    session: Session,
    shared: Arc<Shared>,
    broker: String,
    token: Option<SecretString>,
}

#[derive(Debug)]
struct Shared {
    /// Who awaits frames under which request id.
    waiting: Mutex<HashMap<String, mpsc::Sender<Frame>>>,
    /// Why the connection ended, once it has.
    end: watch::Sender<Option<Arc<SessionError>>>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Frame>>> {
        // A panic elsewhere leaves a map that is still whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Connects to the first broker that lets the user in; `told` hears, a line for people, why that takes longer.
    pub async fn connect(access: &Access, told: impl FnMut(&str)) -> Result<Client, ClientError> {
        let (session, incoming) = connect::connect(access, told).await?;
        Client::start(session, incoming).await
    }

    /// Takes over a session that is logged in: makes its reply queue and reads it in a task of its own.
    pub async fn start<S>(session: Session, incoming: Incoming<S>) -> Result<Client, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let welcome = incoming.welcome().clone();
        let shared = Arc::new(Shared { waiting: Mutex::default(), end: watch::Sender::new(None) });
        tokio::spawn(read(incoming, shared.clone()));
        session.subscribe(REPLY_QUEUE, "replies").await.map_err(|error| ClientError::Lost(Arc::new(error)))?;
        Ok(Client { session, shared, broker: welcome.broker, token: welcome.token })
    }

    /// The name of the broker that we are connected to.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// What stands for the password at the next login, if the broker gave something.
    pub fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// One page of the nodes that match.
    pub async fn find(&self, target: &Target, query: &FindQuery) -> Result<FindAnswer, ClientError> {
        self.query("/muster/find", Some(target), query).await
    }

    /// All nodes that match, or the first `most`, page after page, as one answer without `next`. Brokers that any page
    /// lacks are in `without`; a node that moved between two pages is there once.
    pub async fn find_all(
        &self,
        target: &Target,
        query: FindQuery,
        most: Option<u64>,
    ) -> Result<FindAnswer, ClientError> {
        let most = most.unwrap_or(u64::MAX);
        let page = |have: usize| u32::try_from(most.saturating_sub(have as u64)).unwrap_or(u32::MAX).clamp(1, PAGE);
        let mut query = FindQuery { limit: Some(page(0)), ..query };
        let mut whole = self.find(target, &query).await?;
        let mut without: Without = whole.without.iter().collect();
        let mut seen: BTreeSet<NodeId> = whole.nodes.iter().map(|node| node.id).collect();
        while let Some(cursor) = whole.next.take().filter(|_| (whole.nodes.len() as u64) < most) {
            query.cursor = Some(cursor);
            query.limit = Some(page(whole.nodes.len()));
            let next = self.find(target, &query).await?;
            if next.nodes.is_empty() && next.next == query.cursor {
                return Err(Misunderstood("a page of `find` that leads to itself".into()).into());
            }
            whole.nodes.extend(next.nodes.into_iter().filter(|node| seen.insert(node.id)));
            whole.next = next.next;
            without.merge(&next.without.iter().collect());
        }
        whole.without = without.iter().cloned().collect();
        whole.nodes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(whole)
    }

    /// The histogram of a fact.
    pub async fn report(&self, target: &Target, query: &ReportQuery) -> Result<ReportAnswer, ClientError> {
        self.query("/muster/report", Some(target), query).await
    }

    /// Everything about one node.
    pub async fn node(&self, query: &NodeQuery) -> Result<NodeAnswer, ClientError> {
        self.query("/muster/node", None, query).await
    }

    /// The mesh of brokers, as the one that we are connected to sees it.
    pub async fn mesh(&self) -> Result<MeshAnswer, ClientError> {
        self.query("/muster/mesh", None, &serde_json::Map::new()).await
    }

    /// What the policy grants a user.
    pub async fn explain(&self, query: &ExplainQuery) -> Result<ExplainAnswer, ClientError> {
        self.query("/muster/admin.explain", None, query).await
    }

    /// What a proposed policy would grant and take.
    pub async fn diff(&self, query: &DiffQuery) -> Result<DiffAnswer, ClientError> {
        self.query("/muster/admin.diff", None, query).await
    }

    /// What looks wrong in a policy.
    pub async fn lint(&self, query: &LintQuery) -> Result<LintAnswer, ClientError> {
        self.query("/muster/admin.lint", None, query).await
    }

    /// One page of the audit log of the broker that we are connected to.
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditAnswer, ClientError> {
        self.query("/muster/admin.audit", None, query).await
    }

    /// The newest `most` lines that fit, page after page, as one answer without `next`, oldest first.
    pub async fn audit_all(&self, mut query: AuditQuery, most: usize) -> Result<AuditAnswer, ClientError> {
        let mut pages = Vec::new();
        let mut left = most;
        loop {
            query.limit = Some(u32::try_from(left).unwrap_or(u32::MAX).min(PAGE_MOST));
            let page = self.audit(&query).await?;
            left = left.saturating_sub(page.lines.len());
            let (next, more, broker) = (page.next, page.more, page.broker);
            pages.push(page.lines);
            if next.is_some() && next >= query.before.or(Some(u64::MAX)) {
                return Err(Misunderstood("a page of the audit log that leads to itself".into()).into());
            }
            query.before = next;
            if left == 0 || next.is_none() {
                let lines = pages.into_iter().rev().flatten().collect();
                return Ok(AuditAnswer { broker, lines, more, next: None });
            }
        }
    }

    /// Ends a request of this connection; its events go on until `done`.
    pub async fn cancel(&self, request: &RequestId) -> Result<CancelAnswer, ClientError> {
        self.query("/muster/cancel", None, &CancelQuery { request: request.to_string() }).await
    }

    /// Asks a broker something and waits for its one answer.
    pub(crate) async fn query<T: DeserializeOwned>(
        &self,
        destination: &str,
        target: Option<&Target>,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let id = RequestId::random();
        let mut stream = self.listen(std::slice::from_ref(&id));
        let mut frame = asking(destination, id.as_str());
        if let Some(target) = target {
            frame = frame.header(header::TARGET, target.as_str());
        }
        let body = serde_json::to_vec(body).map_err(|error| Misunderstood(format!("the query: {error}")))?;
        self.send(frame.header("content-type", "application/json").with_body(body)).await?;
        let answer = timeout(QUERY_LIMIT, stream.frame()).await.map_err(|_| ClientError::NoAnswer(QUERY_LIMIT))??;
        match answer.headers.get(header::EVENT) {
            Some("answer") => Ok(events::json(&answer, destination)?),
            Some("refused") => Err(ClientError::Refused(events::refused(&answer))),
            other => Err(Misunderstood(format!("`{}` in answer to a query", other.unwrap_or_default())).into()),
        }
    }

    /// Sends requests; their events come mixed, each with the id of its request.
    pub async fn request(&self, requests: &[Request]) -> Result<Events, ClientError> {
        let ids: Vec<RequestId> = requests.iter().map(|request| request.id.clone()).collect();
        let events = self.listen(&ids);
        for request in requests {
            self.send(request.frame()).await?;
        }
        Ok(events)
    }

    /// Says goodbye and waits, not for long, until the broker has heard it.
    pub async fn close(self) {
        let Client { session, shared, .. } = self;
        let mut end = shared.end.subscribe();
        if session.disconnect().await.is_ok() {
            let _ = timeout(Duration::from_millis(250), end.wait_for(Option::is_some)).await;
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), ClientError> {
        match self.session.send(frame).await {
            Ok(()) => Ok(()),
            Err(error) => Err(why_ended(self.shared.end.borrow().clone().unwrap_or_else(|| Arc::new(error)))),
        }
    }

    fn listen(&self, ids: &[RequestId]) -> Events {
        let (sender, frames) = mpsc::channel(PENDING);
        let mut waiting = self.shared.waiting();
        for id in ids {
            waiting.insert(id.to_string(), sender.clone());
        }
        drop(waiting);
        Events { ids: ids.to_vec(), frames, shared: self.shared.clone() }
    }
}

/// The events of one or more requests, in the order of their arrival. Dropping it forgets the requests; nodes go on.
#[derive(Debug)]
pub struct Events {
    ids: Vec<RequestId>,
    frames: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
}

impl Events {
    /// The next event, with the index of its request among those sent. May be dropped between polls without losing any.
    pub async fn next(&mut self) -> Result<(usize, RequestEvent), ClientError> {
        loop {
            let frame = self.frame().await?;
            let id = frame.headers.get(header::REQUEST).unwrap_or_default();
            let Some(index) = self.ids.iter().position(|known| known.as_str() == id) else { continue };
            if let Some(event) = RequestEvent::parse(&frame)? {
                return Ok((index, event));
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame, ClientError> {
        let mut end = self.shared.end.subscribe();
        tokio::select! {
            biased; // what has come is read before the end is told
            frame = self.frames.recv() => frame.ok_or(ClientError::Lost(Arc::new(SessionError::Closed))),
            ended = async { end.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()) } => {
                Err(why_ended(ended.unwrap_or_else(|| Arc::new(SessionError::Closed))))
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        for id in &self.ids {
            waiting.remove(id.as_str());
        }
    }
}

/// An ERROR frame that speaks of rights is a refusal, anything else the loss of the connection.
fn why_ended(end: Arc<SessionError>) -> ClientError {
    match &*end {
        SessionError::Refused { code, text, retry_after } if !connect::is_passing(*code) => {
            ClientError::Refused(Refused {
                code: *code,
                code_text: code.map_or("error", |code| code.as_str()).to_owned(),
                text: text.clone(),
                count: None,
                retry_after: *retry_after,
            })
        }
        _ => ClientError::Lost(end),
    }
}

async fn read<S: AsyncRead + AsyncWrite>(mut incoming: Incoming<S>, shared: Arc<Shared>) {
    let end = loop {
        let frame = match incoming.next().await {
            Ok(frame) => frame,
            Err(end) => break end,
        };
        let id = frame.headers.get(header::REQUEST).unwrap_or_default();
        let listener = shared.waiting().get(id).cloned();
        if let Some(listener) = listener {
            // Fails if nobody listens any more, and then nobody misses it.
            let _ = listener.send(frame).await;
        }
    };
    shared.end.send_replace(Some(Arc::new(end)));
}

fn asking(destination: &str, id: &str) -> Frame {
    let frame = Frame::new(Command::Send).header("destination", destination);
    frame.header(header::REQUEST, id).header(header::REPLY_TO, REPLY_QUEUE).with_body(Bytes::new())
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

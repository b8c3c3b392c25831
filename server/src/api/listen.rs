//! Who may call? Accepts connections, bounds them, does TLS and then HTTP in the connection's own task.
//!
//! A connection keeps its place among those that have not logged in until one of its calls shows who it is, and has a bounded time for
//! that. Whoever shows something that is wrong is answered, and has to connect again.

use super::Front;
use super::problem::Problem;
use crate::broker::access::Peer;
use crate::gate::{Arrived, Gate, Missed, Pending, TurnedAway};
use crate::listener::{not_tls, part, shown};
use axum::Router;
use futures_util::FutureExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use muster_protocol::dial::harden;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{MutexGuard, Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::util::MapRequest;

/// How long the head of a request may take to come, beyond the time that a connection may be idle: that one ends it first, and
/// in good order.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// Headers of a request, and bytes of its head.
const HEADERS: usize = 64;
const HEAD_BYTES: usize = 32 * 1024;
/// Calls at once on one connection of HTTP/2.
const STREAMS: u32 = 64;
/// Bodies of the largest size that the calls of one connection may have in memory together.
const BODIES: usize = 8;
/// A write that makes no progress for so long ends the connection.
const STALL: Duration = Duration::from_secs(20);
/// How long what is under way may take once the connection is to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long one last word to whoever forgot TLS may take.
const WORD_WITHIN: Duration = Duration::from_secs(2);
/// A connection may take so many times the time of a login until a call has shown who it is: for TLS, for the login, and for the call.
const LOGINS: u32 = 3;

/// One connection, as its calls see it.
pub(super) struct Visit {
    /// From where, and with which certificate.
    pub(super) peer: Peer,
    /// Its place among those that have not logged in.
    pending: Mutex<Option<Pending>>,
    calls: AtomicUsize,
    used: Mutex<Instant>,
    turned_away: Notify,
    leaves: AtomicBool,
    /// Until it is known who calls, one call at a time says so.
    turns: tokio::sync::Mutex<()>,
    /// Bytes of bodies that its calls may have in memory.
    room: Arc<Semaphore>,
}

/// A call, or an answer that goes on: the connection is in use.
pub(super) struct InUse(Arc<Visit>);

/// Accepts until `end` says so.
pub(super) async fn listen(
    listener: TcpListener,
    tls: TlsAcceptor,
    (front, router): (Arc<Front>, Router),
    gate: Arc<Gate>,
    mut end: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = end.wait_for(|end| *end) => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let (tls, service, end) = (tls.clone(), (front.clone(), router.clone()), end.clone());
                let serve = move |arrived| async move {
                    let connection = AssertUnwindSafe(Box::pin(connection(arrived, peer, tls, service, end)));
                    if connection.catch_unwind().await.is_err() {
                        tracing::error!(target: "muster::api", peer = %peer.ip(), "a connection ended in a panic");
                    }
                };
                gate.admit(tcp, peer.ip(), serve, move |missed| has_no_place(peer, &missed));
            }
            Err(error) => {
                // Out of descriptors or memory: the listener lives, and does not spin.
                tracing::warn!(target: "muster::api", %error, "cannot accept; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn has_no_place(peer: SocketAddr, missed: &Missed) {
    match *missed {
        Missed::TurnedAway(TurnedAway { reason, is_news: true }) => {
            tracing::warn!(target: "muster::api", peer = %peer.ip(), reason, "connection refused, and so are others until there is room");
        }
        Missed::TurnedAway(TurnedAway { reason, .. }) => {
            tracing::debug!(target: "muster::api", peer = %peer.ip(), reason, "connection refused");
        }
        Missed::Silent | Missed::Gone(_) => {}
    }
}

async fn connection(
    arrived: Arrived,
    peer: SocketAddr,
    tls: TlsAcceptor,
    (front, router): (Arc<Front>, Router),
    end: watch::Receiver<bool>,
) {
    let Arrived { tcp, first, place: pending, open: _open } = arrived;
    let begun = Instant::now();
    if let Err(error) = harden(&tcp) {
        return tracing::debug!(target: "muster::api", %error, "socket options");
    }
    let deadline = begun + front.login_time;
    if let Some(what) = not_tls(&first) {
        tracing::debug!(target: "muster::api", peer = %peer.ip(), reason = what, "connection refused");
        return refuse_plain(tcp, what).await;
    }
    let stream = match timeout_at(deadline, tls.accept(tcp).into_fallible()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, tcp))) => {
            tracing::debug!(target: "muster::api", peer = %peer.ip(), %error, "TLS failed");
            part(tcp).await;
            return drop(pending);
        }
        Err(_) => return tracing::debug!(target: "muster::api", peer = %peer.ip(), "no TLS in time"),
    };
    // An IPv4 caller of a listener on `::` is itself.
    let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let peer = Peer { address, certificate: shown(stream.get_ref().1) };
    let visit = Arc::new(Visit {
        peer,
        pending: Mutex::new(Some(pending)),
        calls: AtomicUsize::new(0),
        used: Mutex::new(begun),
        turned_away: Notify::new(),
        leaves: AtomicBool::new(false),
        turns: tokio::sync::Mutex::default(),
        room: Arc::new(Semaphore::new(front.body_most.saturating_mul(BODIES).min(Semaphore::MAX_PERMITS))),
    });
    let until = begun + front.login_time * LOGINS;
    serve(stream, visit, router, front.idle, until, end).await;
}

/// HTTP on one connection. `until`: when a call must have shown who it is.
async fn serve(
    stream: TlsStream<TcpStream>,
    visit: Arc<Visit>,
    router: Router,
    idle: Duration,
    until: Instant,
    mut end: watch::Receiver<bool>,
) {
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL));
    let of = visit.clone();
    let service = TowerToHyperService::new(MapRequest::new(router, move |mut request: axum::extract::Request<_>| {
        request.extensions_mut().insert(of.clone());
        request
    }));
    let builder = builder(is_h2, idle);
    let connection = builder.serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let (mut deadline, mut closing, stopping) = (until.min(Instant::now() + idle), false, end.clone());
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(target: "muster::api", peer = %visit.peer.ip(), %error, "connection ended");
                }
                return;
            }
            () = visit.turned_away.notified(), if !closing => {}
            _ = end.wait_for(|end| *end), if !closing => {}
            () = sleep_until(deadline) => {
                if closing && (*stopping.borrow() || !visit.is_streaming()) {
                    return;
                }
                if let Some(later) = visit.stays_until(idle, until).filter(|_| !closing) {
                    deadline = later;
                    continue;
                }
            }
        }
        // What is under way is answered, nothing new is taken.
        connection.as_mut().graceful_shutdown();
        (deadline, closing) = (Instant::now() + CLOSE_WITHIN, true);
    }
}

fn builder(is_h2: bool, idle: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle.saturating_add(HEAD_WITHIN))
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        .max_frame_size(16 * 1024)
        .max_send_buf_size(64 * 1024)
        .max_pending_accept_reset_streams(16)
        .max_local_error_reset_streams(64)
        .keep_alive_interval(STALL)
        .keep_alive_timeout(STALL);
    // By what TLS has agreed on, never by what the first bytes look like.
    if is_h2 { builder.http2_only() } else { builder.http1_only() }
}

impl Visit {
    /// A call has shown who it is.
    pub(super) fn admit(&self) {
        if let Some(pending) = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Agents have no API.
            pending.let_in(false);
        }
    }

    /// A call has shown something wrong: it is answered, and the connection ends. One that was admitted stays: others may share it.
    pub(super) fn turn_away(&self) {
        if !self.is_admitted() {
            self.leaves.store(true, Ordering::Relaxed);
            self.turned_away.notify_one();
        }
    }

    /// Whether the connection ends after what is answered now: whoever has it must not send more over it.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaves.load(Ordering::Relaxed)
    }

    /// The turn of a call to show who it is, unless that is known: many calls of one connection are no way around what bounds
    /// connections that have not logged in.
    /// Refused if another one has shown something wrong.
    pub(super) async fn turn(&self) -> Result<Option<MutexGuard<'_, ()>>, Problem> {
        let turn = if self.is_admitted() { None } else { Some(self.turns.lock().await) };
        if self.is_leaving() { Err(Problem::unknown_caller()) } else { Ok(turn) }
    }

    /// Room for a body, if there is some. Nobody waits for it: what has come of bodies that wait would stop those that do not.
    pub(super) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).ok()
    }

    /// A call begins, or an answer goes on.
    pub(super) fn enter(self: &Arc<Visit>) -> InUse {
        self.calls.fetch_add(1, Ordering::Relaxed);
        InUse(self.clone())
    }

    /// Whether a call has shown who it is.
    pub(super) fn is_admitted(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Whether somebody known still gets answers.
    fn is_streaming(&self) -> bool {
        self.is_admitted() && self.calls.load(Ordering::Relaxed) > 0
    }

    /// How long it may stay without another look; `None` if it is over. `known_by`: when a call must have shown who it is.
    fn stays_until(&self, idle: Duration, known_by: Instant) -> Option<Instant> {
        let now = Instant::now();
        if !self.is_admitted() {
            return Some(known_by).filter(|by| *by > now);
        }
        if self.calls.load(Ordering::Relaxed) > 0 {
            return Some(now + idle);
        }
        let until = *self.used.lock().unwrap_or_else(PoisonError::into_inner) + idle;
        (until > now).then_some(until)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        *self.0.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One line that says so, for whoever forgot the `s` of https.
async fn refuse_plain(mut tcp: TcpStream, what: &str) {
    let text = format!("this port speaks HTTP over TLS; what came is {what}\n");
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    let told = timeout(WORD_WITHIN, tcp.write_all(answer.as_bytes())).await;
    if matches!(told, Ok(Ok(()))) {
        part(tcp).await;
    }
}

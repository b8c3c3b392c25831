//! What happens to a connection before its session? Accepted, at the [gate](crate::gate) until there is a place, then TLS in its own task.

use crate::broker::access::{Certificate, Names, Peer};
use crate::broker::event::{Event, SessionId};
use crate::gate::{Arrived, Gate, Missed, Pending, TurnedAway};
use crate::login::Outcome;
use crate::session::{self, Halves, Shared};
use futures_util::FutureExt;
use muster_protocol::dial::harden;
use muster_protocol::tls::Identity;
use rustls::{ServerConfig, ServerConnection};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections that the system holds until they are accepted, as far as it is told to (`net.core.somaxconn`). Beyond that it drops
/// what opens one, and peers try again after a second.
const BACKLOG: u32 = 4_096;

/// How long a connection whose TLS has failed is read on, so that the alert that says why arrives before a reset.
const PART: Duration = Duration::from_secs(2);

/// What a listener speaks.
#[derive(Clone)]
pub enum Speaks {
    /// STOMP over TLS.
    Tls(Arc<ServerConfig>),
    /// STOMP in the clear: only where the configuration says so.
    Plain,
}

/// Listens on a port.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A broker that starts again finds the connections of its former life in the way otherwise.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until `stop` says so.
pub async fn listen(
    listener: TcpListener,
    speaks: Speaks,
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((tcp, peer)) => admit(tcp, peer, &speaks, &gate, &shared),
            Err(error) => {
                // Out of descriptors or memory: the listener lives, and does not spin.
                tracing::warn!(%error, "cannot accept; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(tcp: TcpStream, peer: SocketAddr, speaks: &Speaks, gate: &Arc<Gate>, shared: &Arc<Shared>) {
    let told = shared.clone();
    let (speaks, of, shared) = (speaks.clone(), gate.clone(), shared.clone());
    gate.admit(
        tcp,
        peer.ip(),
        move |arrived| serve(arrived, peer, speaks, of, shared),
        move |missed| has_no_place(peer, &missed, &told),
    );
}

fn has_no_place(peer: SocketAddr, missed: &Missed, shared: &Shared) {
    match *missed {
        Missed::TurnedAway(TurnedAway { reason, is_news: true }) => {
            tracing::warn!(target: "muster::login", peer = %peer.ip(), reason, "connection refused, and so are others until there is room");
        }
        Missed::TurnedAway(TurnedAway { reason, .. }) => {
            tracing::debug!(target: "muster::login", peer = %peer.ip(), reason, "connection refused");
        }
        Missed::Silent | Missed::Gone(_) => {
            if matches!(missed, Missed::Silent) {
                shared.logins.note(Outcome::Timeout);
            }
            tracing::debug!(target: "muster::login", peer = %peer.ip(), reason = "nothing came", "login refused");
        }
    }
}

/// Serves one connection to its end.
async fn serve(arrived: Arrived, peer: SocketAddr, speaks: Speaks, gate: Arc<Gate>, shared: Arc<Shared>) {
    let (id, hub) = (gate.next_session(), shared.hub.clone());
    let Arrived { tcp, first, place, open: _open } = arrived;
    let until = gate.deadline();
    let connection = AssertUnwindSafe(connection(tcp, (id, peer), first, speaks, shared, until, place));
    if connection.catch_unwind().await.is_err() {
        // A fault on one connection ends that one; the broker hears of it as of any other end.
        tracing::error!(session = id.0, peer = %peer.ip(), "a connection ended in a panic");
        hub.tell(Event::Closed { session: id, reason: "internal error".into(), refusal: None }).await;
    }
}

async fn connection(
    tcp: TcpStream,
    (id, peer): (SessionId, SocketAddr),
    first: [u8; 8],
    speaks: Speaks,
    shared: Arc<Shared>,
    deadline: Instant,
    place: Pending,
) {
    if let Err(error) = harden(&tcp) {
        return tracing::debug!(%error, "socket options");
    }
    match speaks {
        Speaks::Plain => session::run(io::split(tcp), id, peer.into(), shared, deadline, Some(place)).await,
        Speaks::Tls(config) => {
            // A task keeps the room of its largest moment: what is over when the session begins has a box of its own.
            if let Some((stream, peer, place)) =
                Box::pin(greet(tcp, peer, first, config, &shared, deadline, place)).await
            {
                session::run(stream, id, peer, shared, deadline, Some(place)).await;
            }
        }
    }
}

/// TLS with whoever has connected. `None`: there is none, and why is on the log.
async fn greet(
    mut tcp: TcpStream,
    peer: SocketAddr,
    first: [u8; 8],
    config: Arc<ServerConfig>,
    shared: &Shared,
    deadline: Instant,
    place: Pending,
) -> Option<(Halves<TlsStream<TcpStream>>, Peer, Pending)> {
    if let Some(what) = not_tls(&first) {
        shared.logins.note(Outcome::Malformed);
        tracing::warn!(target: "muster::login", peer = %peer.ip(), reason = what, "login refused");
        session::refuse_plain(&mut tcp, &format!("this port speaks STOMP over TLS; what came is {what}")).await;
        return None;
    }
    match timeout_at(deadline, TlsAcceptor::from(config).accept(tcp).into_fallible()).await {
        Ok(Ok(tls)) => {
            let peer = Peer { address: peer, certificate: shown(tls.get_ref().1) };
            return Some((io::split(tls), peer, place));
        }
        Ok(Err((error, tcp))) => {
            shared.logins.note(Outcome::Tls);
            tracing::warn!(target: "muster::login", peer = %peer.ip(), %error, reason = "TLS failed", "login refused");
            part(tcp).await;
        }
        Err(_) => {
            shared.logins.note(Outcome::Timeout);
            tracing::warn!(target: "muster::login", peer = %peer.ip(), reason = "no TLS in time", "login refused");
        }
    }
    None
}

/// The certificate that a client has shown; TLS is done, so it was verified. One that cannot be read has no name.
pub(crate) fn shown(tls: &ServerConnection) -> Option<Arc<Certificate>> {
    let first = tls.peer_certificates()?.first()?;
    let Identity { names, common_name, until, .. } = Identity::of(first).unwrap_or_else(|error| {
        tracing::warn!(target: "muster::login", %error, "a client certificate that TLS takes cannot be read; it counts for nobody");
        Identity::default()
    });
    let names = common_name.map_or(Names::Dns(names), Names::Common);
    // Its last second is still good.
    let ends = u64::try_from(until).unwrap_or_default().saturating_add(1);
    Some(Arc::new(Certificate { names, ends }))
}

/// Half-closes and reads on for a while: what was said last is not overtaken by a reset.
pub(crate) async fn part(mut tcp: TcpStream) {
    let _ = timeout(PART, async {
        tcp.shutdown().await?;
        let mut sink = [0; 256];
        while tcp.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// What it is, if it is not a TLS handshake record.
pub(crate) fn not_tls(first: &[u8; 8]) -> Option<&'static str> {
    const HTTP: [&[u8]; 8] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"DELETE ", b"PATCH ", b"PRI * "];
    if first[0] == 0x16 {
        None
    } else if HTTP.iter().any(|verb| first.starts_with(&verb[..verb.len().min(8)])) {
        Some("HTTP")
    } else if first.starts_with(b"CONNECT") || first.starts_with(b"STOMP") {
        Some("STOMP without TLS")
    } else {
        Some("no TLS")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_has_a_small_task() {
        type Task<F> = fn(Arrived, SocketAddr, Speaks, Arc<Gate>, Arc<Shared>) -> F;
        fn room<F>(_: Task<F>) -> usize {
            size_of::<F>()
        }
        // It is held for each of tens of thousands; 6,600 bytes before what is over soon had a box of its own.
        assert!(room(serve) <= 3_072, "{} bytes", room(serve));
    }
}

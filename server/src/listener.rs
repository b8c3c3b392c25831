//! Who may come in? Accepts connections, bounds those that have not logged in, does TLS in the connection's own task.

use crate::broker::access::{Certificate, Names, Peer};
use crate::broker::event::{Event, SessionId};
use crate::login::Outcome;
use crate::session::{self, Halves, Shared};
use futures_util::FutureExt;
use muster_protocol::dial::harden;
use muster_protocol::tls::Identity;
use rustls::{ServerConfig, ServerConnection};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a connection whose TLS has failed is read on, so that the alert that says why arrives before a reset.
const PART: Duration = Duration::from_secs(2);

/// How many may be where.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// Connections that have not logged in.
    pub pending: usize,
    /// Of these, from one address.
    pub pending_per_address: usize,
    /// Connections in all.
    pub connections: usize,
    /// Of these, from one address; 0 is no limit.
    pub connections_per_address: usize,
    /// TLS and login together.
    pub login_time: Duration,
}

/// Counts connections; shared by all listeners.
#[derive(Debug)]
pub struct Gate {
    caps: Caps,
    counts: Mutex<Counts>,
    numbers: Numbers,
}

/// Numbers of sessions. Peers see their own, so none may tell how many others there are: they are a counter, permuted under a key of
/// this process. All are different, and below 2^52, for programs whose numbers are floats.
#[derive(Debug, Default)]
struct Numbers {
    count: AtomicU64,
    key: RandomState,
}

impl Numbers {
    fn next(&self) -> SessionId {
        const HALF: u32 = 26;
        const MASK: u64 = (1 << HALF) - 1;
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (mut left, mut right) = ((count >> HALF) & MASK, count & MASK);
        // A Feistel network: whatever the hash is, no two counts come out as one.
        for round in 0..4_u8 {
            (left, right) = (right, left ^ (self.key.hash_one((round, right)) & MASK));
        }
        SessionId((left << HALF) | right)
    }
}

#[derive(Debug, Default)]
struct Counts {
    pending: usize,
    open: usize,
    addresses: HashMap<IpAddr, PerAddress>,
    turned_away: u64,
    /// Somebody was turned away because all places are taken, and they have not been half empty since.
    full: bool,
}

#[derive(Debug, Default)]
struct PerAddress {
    pending: usize,
    open: usize,
    /// Somebody from here was turned away, and not all from here have gone since.
    full: bool,
}

/// Why there is no place for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    pub(crate) reason: &'static str,
    /// The first since there was room: whoever floods must not fill the log.
    pub(crate) is_news: bool,
}

/// A place among those that have not logged in; dropped when they have.
pub struct Pending(Arc<Gate>, IpAddr);

/// A place among all connections.
pub struct Open(Arc<Gate>, IpAddr);

impl Gate {
    /// Nobody is in yet.
    pub fn new(caps: Caps) -> Arc<Gate> {
        Arc::new(Gate { caps, counts: Mutex::default(), numbers: Numbers::default() })
    }

    /// Connections, and those of them that have not logged in.
    pub fn counts(&self) -> (usize, usize) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.open, counts.pending)
    }

    /// Connections that there was no place for.
    pub fn turned_away(&self) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).turned_away
    }

    /// The number of a new session: no other one of this broker's life has it.
    pub(crate) fn next_session(&self) -> SessionId {
        self.numbers.next()
    }

    pub(crate) fn enter(self: &Arc<Gate>, address: IpAddr) -> Result<(Open, Pending), TurnedAway> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { pending, open, addresses, turned_away, full } = &mut *counts;
        let caps = &self.caps;
        *full &= *open > caps.connections / 2 || *pending > caps.pending / 2;
        let (here_pending, here_open) = addresses.get(&address).map_or((0, 0), |a| (a.pending, a.open));
        let too_many_here = caps.connections_per_address > 0 && here_open >= caps.connections_per_address;
        let (reason, is_for_all) = if *open >= caps.connections {
            ("too many connections", true)
        } else if too_many_here {
            ("too many connections from this address", false)
        } else if *pending >= caps.pending {
            ("too many connections that have not logged in", true)
        } else if here_pending >= caps.pending_per_address {
            ("too many connections from this address that have not logged in", false)
        } else {
            ("", false)
        };
        let here = addresses.get_mut(&address);
        if !reason.is_empty() {
            *turned_away += 1;
            let told = if is_for_all { Some(full) } else { here.map(|here| &mut here.full) };
            let is_news = told.is_none_or(|told| !std::mem::replace(told, true));
            return Err(TurnedAway { reason, is_news });
        }
        let here = addresses.entry(address).or_default();
        here.pending += 1;
        here.open += 1;
        *pending += 1;
        *open += 1;
        Ok((Open(self.clone(), address), Pending(self.clone(), address)))
    }

    fn leave(&self, address: IpAddr, change: impl FnOnce(&mut usize, &mut usize, &mut PerAddress)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { pending, open, addresses, .. } = &mut *counts;
        if let Some(here) = addresses.get_mut(&address) {
            change(pending, open, here);
            if here.pending == 0 && here.open == 0 {
                addresses.remove(&address);
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.leave(self.1, |pending, _, here| {
            *pending -= 1;
            here.pending -= 1;
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.leave(self.1, |_, open, here| {
            *open -= 1;
            here.open -= 1;
        });
    }
}

/// What a listener speaks.
#[derive(Clone)]
pub enum Speaks {
    /// STOMP over TLS.
    Tls(Arc<ServerConfig>),
    /// STOMP in the clear: only where the configuration says so.
    Plain,
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
    match gate.enter(peer.ip()) {
        Ok((open, pending)) => {
            let id = gate.next_session();
            let deadline = Instant::now() + gate.caps.login_time;
            let (speaks, shared) = (speaks.clone(), shared.clone());
            tokio::spawn(async move {
                let _open = open;
                let hub = shared.hub.clone();
                let connection = AssertUnwindSafe(connection(tcp, id, peer, speaks, shared, deadline, pending));
                if connection.catch_unwind().await.is_err() {
                    // A fault on one connection ends that one; the broker hears of it as of any other end.
                    tracing::error!(session = id.0, peer = %peer.ip(), "a connection ended in a panic");
                    hub.tell(Event::Closed { session: id, reason: "internal error".into(), refusal: None }).await;
                }
            });
        }
        // Dropped without a word: before TLS there is no way to say one, and none to spend on whoever floods.
        Err(TurnedAway { reason, is_news: true }) => {
            tracing::warn!(target: "muster::login", peer = %peer.ip(), reason, "connection refused, and so are others until there is room");
        }
        Err(TurnedAway { reason, .. }) => {
            tracing::debug!(target: "muster::login", peer = %peer.ip(), reason, "connection refused");
        }
    }
}

async fn connection(
    tcp: TcpStream,
    id: SessionId,
    peer: SocketAddr,
    speaks: Speaks,
    shared: Arc<Shared>,
    deadline: Instant,
    pending: Pending,
) {
    if let Err(error) = harden(&tcp) {
        return tracing::debug!(%error, "socket options");
    }
    match speaks {
        Speaks::Plain => session::run(io::split(tcp), id, peer.into(), shared, deadline, pending).await,
        Speaks::Tls(config) => {
            // A task keeps the room of its largest moment: what is over when the session begins has a box of its own.
            if let Some((stream, peer, pending)) = Box::pin(greet(tcp, peer, config, &shared, deadline, pending)).await
            {
                session::run(stream, id, peer, shared, deadline, pending).await;
            }
        }
    }
}

/// TLS with whoever has connected. `None`: there is none, and why is on the log.
async fn greet(
    mut tcp: TcpStream,
    peer: SocketAddr,
    config: Arc<ServerConfig>,
    shared: &Shared,
    deadline: Instant,
    pending: Pending,
) -> Option<(Halves<TlsStream<TcpStream>>, Peer, Pending)> {
    let first = match timeout_at(deadline, first_bytes(&tcp)).await {
        Ok(Ok(first)) => first,
        silent => {
            if silent.is_err() {
                shared.logins.note(Outcome::Timeout);
            }
            tracing::debug!(target: "muster::login", peer = %peer.ip(), reason = "nothing came", "login refused");
            return None;
        }
    };
    if let Some(what) = not_tls(&first) {
        shared.logins.note(Outcome::Malformed);
        tracing::warn!(target: "muster::login", peer = %peer.ip(), reason = what, "login refused");
        session::refuse_plain(&mut tcp, &format!("this port speaks STOMP over TLS; what came is {what}")).await;
        return None;
    }
    match timeout_at(deadline, TlsAcceptor::from(config).accept(tcp).into_fallible()).await {
        Ok(Ok(tls)) => {
            let peer = Peer { address: peer, certificate: shown(tls.get_ref().1) };
            return Some((io::split(tls), peer, pending));
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
    // Its place was taken until now, and `pending` goes with it.
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

/// The first bytes, left in place for TLS.
pub(crate) async fn first_bytes(tcp: &TcpStream) -> io::Result<[u8; 8]> {
    let mut first = [0; 8];
    tcp.peek(&mut first).await?;
    Ok(first)
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
    use std::collections::HashSet;

    fn gate(
        pending: usize,
        pending_per_address: usize,
        connections: usize,
        connections_per_address: usize,
    ) -> Arc<Gate> {
        Gate::new(Caps {
            pending,
            pending_per_address,
            connections,
            connections_per_address,
            login_time: Duration::ZERO,
        })
    }

    #[test]
    fn an_idle_connection_has_a_small_task() {
        type Task<F> = fn(TcpStream, SessionId, SocketAddr, Speaks, Arc<Shared>, Instant, Pending) -> F;
        fn room<F>(_: Task<F>) -> usize {
            size_of::<F>()
        }
        // It is held for each of tens of thousands; 6,600 bytes before what is over soon had a box of its own.
        assert!(room(connection) <= 2_560, "{} bytes", room(connection));
    }

    #[test]
    fn places_are_counted_and_come_back() {
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let gate = gate(3, 2, 10, 0);
        let first = gate.enter(a).expect("room");
        let second = gate.enter(a).expect("room");
        assert_eq!(
            gate.enter(a).err().map(|turned| turned.reason),
            Some("too many connections from this address that have not logged in")
        );
        let _third = gate.enter(b).expect("room");
        assert_eq!(
            gate.enter(b).err().map(|turned| turned.reason),
            Some("too many connections that have not logged in")
        );
        drop(first.1);
        assert_eq!((gate.counts(), gate.turned_away()), ((3, 2), 2));
        let fourth = gate.enter(a).expect("the login is over");
        drop((first.0, second, fourth));
        assert_eq!(gate.counts(), (1, 1));
        assert_eq!(gate.counts.lock().expect("not poisoned").addresses.len(), 1);
    }

    #[test]
    fn numbers_of_sessions_differ_and_tell_no_count() {
        let (one, other) = (Numbers::default(), Numbers::default());
        let some: Vec<u64> = (0..100_000).map(|_| one.next().0).collect();
        let all: HashSet<u64> = some.iter().copied().collect();
        assert!(all.len() == some.len() && some.iter().all(|number| *number < 1 << 52));
        let rising = some.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((45_000..55_000).contains(&rising), "{rising}");
        assert_ne!(some[..8], (0..8).map(|_| other.next().0).collect::<Vec<_>>(), "another process, another order");
    }

    #[test]
    fn connections_are_bounded_in_all_and_by_address() {
        let address = IpAddr::from([127, 0, 0, 1]);
        let gate = gate(10, 10, 3, 2);
        let (one, _) = gate.enter(address).expect("room");
        let (two, _) = gate.enter(address).expect("room");
        assert_eq!(
            gate.enter(address).err().map(|turned| turned.reason),
            Some("too many connections from this address")
        );
        let (three, _) = gate.enter(IpAddr::from([127, 0, 0, 9])).expect("room");
        assert_eq!(
            gate.enter(IpAddr::from([127, 0, 0, 8])).err().map(|turned| turned.reason),
            Some("too many connections")
        );
        drop((one, two, three));
        assert_eq!(gate.counts(), (0, 0));
    }

    #[test]
    fn a_flood_is_told_once_until_there_was_room() {
        let (address, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let news = |gate: &Arc<Gate>, address| gate.enter(address).err().map(|turned| turned.is_news);
        let by_address = gate(10, 2, 10, 0);
        let (first, second) = (by_address.enter(address).expect("room"), by_address.enter(address).expect("room"));
        assert_eq!([news(&by_address, address), news(&by_address, address)], [Some(true), Some(false)]);
        drop(first);
        let third = by_address.enter(address).expect("a place was left");
        assert_eq!(news(&by_address, address), Some(false), "some of the same flood are still here");
        drop((second, third));
        let _again = (by_address.enter(address).expect("room"), by_address.enter(address).expect("room"));
        assert_eq!(news(&by_address, address), Some(true), "they had all gone");

        let in_all = gate(2, 2, 10, 0);
        let held = (in_all.enter(address).expect("room"), in_all.enter(address).expect("room"));
        assert_eq!([news(&in_all, other), news(&in_all, address)], [Some(true), Some(false)], "whoever asks");
        drop(held);
        let _again = (in_all.enter(address).expect("room"), in_all.enter(address).expect("room"));
        assert_eq!(news(&in_all, other), Some(true));
    }
}

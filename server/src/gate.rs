//! How does a connection get a place to log in? The edge of the entrance: sockets and time outside, what decides inside.

mod entrance;
mod numbers;
mod origin;

pub(crate) use entrance::TurnedAway;
pub use entrance::{Caps, Counts};

use crate::broker::event::SessionId;
use crate::line::Ticket;
use entrance::Entrance;
use numbers::Numbers;
pub(crate) use origin::Origin;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Bounds connections, and those that have not logged in; shared by all listeners of a kind.
#[derive(Debug)]
pub struct Gate {
    caps: Caps,
    entrance: Mutex<Entrance<Call>>,
    numbers: Numbers,
}

/// Tells whoever waits that it is its turn.
type Call = oneshot::Sender<()>;

/// A connection that is open; dropped when it has ended.
#[derive(Debug)]
pub(crate) struct Open(Arc<Gate>, Origin);

/// A connection that waits until it may log in.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    stay: Stay,
    open: Open,
}

/// A place among those that wait.
#[derive(Debug)]
struct Stay {
    gate: Arc<Gate>,
    origin: Origin,
    stand: Stand,
}

#[derive(Debug)]
enum Stand {
    Silent,
    InLine(Ticket),
    HasPlace,
}

/// A connection that may log in now.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) tcp: TcpStream,
    /// What the peer has said first, left in the socket for TLS.
    pub(crate) first: [u8; 8],
    pub(crate) place: Pending,
    pub(crate) open: Open,
}

/// A place among those that log in; dropped when that is over.
#[derive(Debug)]
pub struct Pending(Arc<Gate>, Origin);

/// Why a connection that waited does not log in.
#[derive(Debug)]
pub(crate) enum Missed {
    /// It has said nothing in time.
    Silent,
    /// It broke, or its peer has hung up.
    Gone(io::Error),
    /// No place became free in time.
    TurnedAway(TurnedAway),
}

impl Gate {
    /// Nobody is in yet.
    pub fn new(caps: Caps) -> Arc<Gate> {
        Arc::new(Gate { caps, entrance: Mutex::new(Entrance::new(caps)), numbers: Numbers::default() })
    }

    /// How many connections are where.
    pub fn counts(&self) -> Counts {
        self.lock().counts()
    }

    /// Connections that there was no place for.
    pub fn turned_away(&self) -> u64 {
        self.lock().turned_away()
    }

    /// The time for TLS and login, from now on.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.caps.login_time
    }

    /// The number of a new session: no other one of this broker's life has it.
    pub(crate) fn next_session(&self) -> SessionId {
        self.numbers.next()
    }

    /// A connection has come from there: it is served once it has a place to log in, or `missed` hears why it has none. A connection
    /// without a place is dropped without a word: before TLS there is no way to say one, and none to spend on whoever floods.
    pub(crate) fn admit<F>(
        self: &Arc<Gate>,
        tcp: TcpStream,
        address: IpAddr,
        serve: impl FnOnce(Arrived) -> F + Send + 'static,
        missed: impl FnOnce(Missed) + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let waiting = match self.enter(address) {
            Ok(waiting) => waiting,
            Err(turned) => return missed(Missed::TurnedAway(turned)),
        };
        // A task of its own, and small: many may wait.
        tokio::spawn(async move {
            match waiting.place(tcp).await {
                Ok(arrived) => drop(tokio::spawn(serve(arrived))),
                Err(why) => missed(why),
            }
        });
    }

    fn enter(self: &Arc<Gate>, address: IpAddr) -> Result<Waiting, TurnedAway> {
        let origin = Origin::of(address);
        self.lock().enter(origin)?;
        let stay = Stay { gate: self.clone(), origin, stand: Stand::Silent };
        Ok(Waiting { since: Instant::now(), stay, open: Open(self.clone(), origin) })
    }

    /// Who waits gives up before the time of a login is over, since peers give up then, and TLS would be done for nobody.
    fn patience(&self) -> Duration {
        self.caps.login_time * 3 / 4
    }

    fn lock(&self) -> MutexGuard<'_, Entrance<Call>> {
        self.entrance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Waits until the peer has spoken and there is a place to log in.
    async fn place(self, tcp: TcpStream) -> Result<Arrived, Missed> {
        let Waiting { since, mut stay, open } = self;
        let gate = stay.gate.clone();
        let until = since + gate.patience();
        let mut first = [0; 8];
        match timeout_at(until, tcp.peek(&mut first)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Missed::Gone(error)),
            Err(_) => return Err(Missed::Silent),
        }
        let (call, called) = oneshot::channel();
        let ticket = gate.lock().speak(stay.origin, call);
        if let Some(ticket) = ticket {
            stay.stand = Stand::InLine(ticket);
            if timeout_at(until, called).await.is_err() {
                return Err(Missed::TurnedAway(gate.lock().is_too_late()));
            }
            // If it is not, the place is the next one's: whoever has hung up costs nothing.
            is_there(&tcp).await.map_err(Missed::Gone)?;
        }
        stay.stand = Stand::HasPlace;
        let place = Pending(gate, stay.origin);
        Ok(Arrived { tcp, first, place, open })
    }
}

/// An error if the peer has hung up.
async fn is_there(tcp: &TcpStream) -> io::Result<()> {
    // What it has said can be read, so this does not wait.
    let ready = tcp.ready(Interest::READABLE).await?;
    if ready.is_read_closed() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
}

impl Pending {
    /// The login was good. From where operators and services are let in they are expected again, and go before a storm then.
    pub(crate) fn let_in(self, is_agent: bool) {
        if !is_agent {
            self.0.lock().expect_again(self.1);
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        match self.stand {
            Stand::Silent => self.gate.lock().give_up_silent(self.origin),
            Stand::InLine(ticket) => {
                let called = self.gate.lock().give_up(self.origin, ticket);
                tell(called);
            }
            Stand::HasPlace => {}
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let called = self.0.lock().leave_place(self.1);
        tell(called);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().close(self.1);
    }
}

fn tell(called: Option<Call>) {
    if let Some(call) = called {
        // Whoever gives up in this instant hands the place on when it drops its own.
        let _ = call.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    struct House {
        gate: Arc<Gate>,
        listener: TcpListener,
    }

    impl House {
        async fn new(pending: usize, login_time: Duration) -> House {
            let caps = Caps {
                pending,
                pending_per_address: 10,
                waiting: 10,
                connections: 20,
                connections_per_address: 0,
                login_time,
            };
            House { gate: Gate::new(caps), listener: TcpListener::bind("127.0.0.1:0").await.expect("a port") }
        }

        /// A connection that has said these bytes: its peer, and what comes of it.
        async fn visit(&self, bytes: &[u8]) -> (TcpStream, JoinHandle<Result<Arrived, Missed>>) {
            let address = self.listener.local_addr().expect("an address");
            let mut peer = TcpStream::connect(address).await.expect("a connection");
            peer.write_all(bytes).await.expect("written");
            let (tcp, from) = self.listener.accept().await.expect("a connection");
            let waiting = self.gate.enter(from.ip()).expect("room");
            (peer, tokio::spawn(waiting.place(tcp)))
        }

        async fn until(&self, what: &str, counts: impl Fn(Counts) -> bool) {
            let met = async {
                while !counts(self.gate.counts()) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), met).await.unwrap_or_else(|_| panic!("{what}"));
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    async fn place(comes: JoinHandle<Result<Arrived, Missed>>) -> Arrived {
        comes.await.expect("no panic").expect("a place")
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_goes_to_who_waits_and_all_come_back() {
        let house = House::new(1, LONG).await;
        let (_peer, comes) = house.visit(b"\x16one").await;
        let first = place(comes).await;
        assert!(first.first.starts_with(b"\x16one"));
        let (_peer, waits) = house.visit(b"\x16two").await;
        house.until("the second waits", |counts| counts == Counts { open: 2, waiting: 1, pending: 1 }).await;
        // Its session goes on.
        let Arrived { place: logging_in, open, .. } = first;
        drop(logging_in);
        let second = place(waits).await;
        assert_eq!(house.gate.counts(), Counts { open: 2, waiting: 0, pending: 1 });
        second.place.let_in(false);
        drop((open, second.open));
        assert_eq!(house.gate.counts(), Counts::default());
    }

    #[tokio::test]
    async fn who_hangs_up_or_is_dropped_while_it_waits_hands_its_place_on() {
        let house = House::new(1, LONG).await;
        let (_peer, comes) = house.visit(b"\x16").await;
        let first = place(comes).await;
        let mut line = Vec::new();
        for count in 1..=3 {
            line.push(house.visit(b"\x16").await);
            house.until("it waits", |counts| counts.waiting == count).await;
        }
        let (_given_up, waits) = line.remove(1);
        waits.abort();
        assert!(waits.await.is_err());
        // The newest is called first, and its peer has gone.
        let (peer, gone) = line.remove(1);
        drop(peer);
        // Whatever the system has told of this one, it has told of that one before.
        let (_later, _silent) = house.visit(b"").await;
        drop(first);
        assert!(matches!(gone.await.expect("no panic"), Err(Missed::Gone(_))));
        let (_peer, waits) = line.remove(0);
        drop(place(waits).await);
        assert_eq!(house.gate.counts(), Counts { open: 1, waiting: 1, pending: 0 });
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let house = House::new(1, Duration::from_millis(100)).await;
        let (_silent, comes) = house.visit(b"").await;
        assert!(matches!(comes.await.expect("no panic"), Err(Missed::Silent)));
        let (_peer, comes) = house.visit(b"\x16").await;
        let first = place(comes).await;
        let (_late, comes) = house.visit(b"\x16").await;
        let Err(Missed::TurnedAway(turned)) = comes.await.expect("no panic") else { panic!("there is no place") };
        assert!(turned.is_news && turned.reason.contains("in time"), "{turned:?}");
        drop(first);
        assert_eq!((house.gate.counts(), house.gate.turned_away()), (Counts::default(), 1));
    }
}

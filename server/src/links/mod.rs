//! Who keeps this broker in touch with its neighbours? One link to each, over TLS with certificates on both sides.
//!
//! What goes over a link is for the broker to say. In here connections are dialled and accepted, both sides' HELLOs are checked,
//! frames become events and outboxes become frames.

mod accept;
mod check;
mod counters;
mod dial;
mod identity;
mod intake;
mod link;
mod roster;
#[cfg(test)]
mod tests;
mod wire;

pub use check::{LinkError, check};
pub use counters::{LinkCounters, LinkCounts, Traffic};
pub use identity::{Me, certificate_name};
pub use intake::receive;
pub use roster::{Alarm, LinkState, LinkStatus};

use crate::broker::access::Policy;
use crate::config::LinkConfig;
use crate::gate::{Caps, Gate};
use crate::hub::Hub;
use identity::Caller;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::Hello;
use muster_protocol::message::BrokerName;
use muster_protocol::tls::{self, TlsError};
use roster::Roster;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A write that makes no progress for so long ends the link, whatever the kernel thinks of the other side.
pub const STALL: Duration = Duration::from_secs(20);
/// How long links may take to hear the last word.
const STOP: Duration = Duration::from_secs(3);

/// What the links of a broker are made of.
#[derive(Debug)]
pub struct Setup {
    /// Who this broker is.
    pub me: Me,
    /// The links that it is told of.
    pub links: Vec<LinkConfig>,
    /// How it presents itself, and verifies others; `None` for a broker without links, which needs no such certificate.
    pub tls: Option<LinkTls>,
    /// Bytes of the data lane of a link.
    pub outbox: usize,
    /// How long a write may make no progress: [`STALL`].
    pub stall: Duration,
    /// How many connections may be where; `login_time` is that of TCP, TLS and HELLO together.
    pub caps: Caps,
}

/// Both ends of TLS between brokers.
#[derive(Debug, Clone)]
pub struct LinkTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl LinkTls {
    /// With the broker's own chain and key; others are verified against the CA certificates in `ca`.
    pub fn load(certificate: &Path, key: &Path, ca: &Path) -> Result<LinkTls, TlsError> {
        let server = tls::link_server_config(certificate, key, ca)?;
        Ok(LinkTls { server, client: tls::link_client_config(certificate, key, ca)? })
    }
}

/// The links of a running broker.
#[derive(Debug, Clone)]
pub struct Links(Arc<Shared>);

/// Nobody can be linked by that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no broker `{name}` to link; there is: {known}")]
pub struct UnknownLink {
    /// What was asked for.
    pub name: String,
    /// Those that there are.
    pub known: String,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    me: Me,
    hub: Hub,
    policy: watch::Receiver<Arc<Policy>>,
    roster: Roster,
    gate: Arc<Gate>,
    hello_time: Duration,
    outbox: usize,
    stall: Duration,
    last_nonce: AtomicU64,
    last_link: AtomicU64,
    /// Links that are up, or whose last word is not out yet.
    present: watch::Sender<usize>,
}

/// A place among those that are present.
struct Present<'a>(&'a watch::Sender<usize>);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|present| *present -= 1);
    }
}

impl Links {
    /// Dials and accepts until `stop` says so; links that are up then go on until [`Links::stop`].
    pub fn start(
        setup: Setup,
        listeners: Vec<TcpListener>,
        hub: Hub,
        policy: watch::Receiver<Arc<Policy>>,
        stop: &watch::Receiver<bool>,
    ) -> Links {
        let unix = hub.clock().now().unix;
        let shared = Arc::new(Shared {
            roster: Roster::new(&setup.me.name, &setup.links, unix).on_record(hub.audit().clone()),
            me: setup.me,
            hub,
            policy: policy.clone(),
            gate: Gate::new(setup.caps),
            hello_time: setup.caps.login_time,
            outbox: setup.outbox,
            stall: setup.stall,
            // Above whatever an earlier process of this broker used, and even.
            last_nonce: AtomicU64::new(unix & !1),
            last_link: AtomicU64::new(0),
            present: watch::Sender::new(0),
        });
        if let Some(tls) = setup.tls {
            for listener in listeners {
                tokio::spawn(accept::listen(listener, tls.server.clone(), shared.clone(), stop.clone()));
            }
            for link in setup.links.into_iter().filter(|link| link.dial) {
                tokio::spawn(dial::keep(link, tls.client.clone(), shared.clone(), stop.clone()));
            }
        }
        tokio::spawn(follow(policy, shared.clone(), stop.clone()));
        Links(shared)
    }

    /// How it stands with each neighbour, by name.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.0.roster.status()
    }

    /// What somebody should look at.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.0.roster.alarms(self.0.hub.clock().now().unix)
    }

    /// Takes a link up again: dialled at once from here, at its next try (10 s at most) where the other broker dials.
    pub fn up(&self, name: &str) -> Result<(), UnknownLink> {
        self.steer(name, false)
    }

    /// Takes a link down: ends it, and neither dials nor accepts until it is taken up, or the broker starts again.
    pub fn down(&self, name: &str) -> Result<(), UnknownLink> {
        self.steer(name, true)
    }

    fn steer(&self, name: &str, down: bool) -> Result<(), UnknownLink> {
        let shared = &self.0;
        let mut known: BTreeSet<BrokerName> = shared.policy.borrow().brokers().keys().cloned().collect();
        known.extend(self.status().into_iter().map(|status| status.peer));
        known.remove(&shared.me.name);
        match known.iter().find(|known| known.as_str() == name) {
            Some(name) => {
                shared.roster.steer(name, down, shared.hub.clock().now().unix);
                Ok(())
            }
            None => {
                let names: Vec<&str> = known.iter().map(BrokerName::as_str).collect();
                let known = if names.is_empty() { "none".into() } else { names.join(", ") };
                Err(UnknownLink { name: muster_protocol::message::shown(name), known })
            }
        }
    }

    /// Ends all links that the broker has not ended yet, within a bounded time. Dialling and accepting are over by then.
    pub async fn stop(&self) {
        let refusal = Refusal::new(Code::Draining, format!("{} is stopping", self.0.me.name));
        self.0.roster.end(|_| Some(refusal.clone()));
        let mut present = self.0.present.subscribe();
        if tokio::time::timeout(STOP, present.wait_for(|present| *present == 0)).await.is_err() {
            tracing::warn!(target: "muster::links", "some links did not end in time");
        }
    }
}

impl Shared {
    /// Our HELLO for one connection; `dialled` is the neighbour if it was we who dialled. `unix` is the clock, ms.
    fn hello(&self, dialled: Option<&BrokerName>, unix: u64) -> Hello {
        let nonce = self.last_nonce.fetch_add(2, Ordering::Relaxed) + 2;
        // Two that dial each other at once would have two connections of the same sum, and each could choose the other one. So the
        // one dialled by the lesser name has an odd sum.
        let is_lesser = dialled.is_some_and(|peer| self.me.name < *peer);
        self.me.hello(nonce + u64::from(is_lesser), unix)
    }

    fn enter(&self) -> Present<'_> {
        self.present.send_modify(|present| *present += 1);
        Present(&self.present)
    }

    fn max_body(&self) -> usize {
        usize::try_from(self.me.max_body).unwrap_or(usize::MAX)
    }

    /// Whether the other side may be linked.
    fn weigh(&self, hello: &Hello, caller: &Caller<'_>) -> Result<(), Refusal> {
        self.me.check(hello, caller)?;
        if let Some(refusal) = self.not_listed(&hello.name) {
            return Err(refusal);
        }
        if self.roster.is_down(&hello.name) {
            return Err(self.roster.taken_down(&hello.name));
        }
        Ok(())
    }

    fn not_listed(&self, name: &BrokerName) -> Option<Refusal> {
        if self.policy.borrow().brokers().contains_key(name) {
            return None;
        }
        let text =
            format!("{name} is not in the policy's list of brokers at {}; add [brokers.{name}] there", self.me.name);
        Some(Refusal::new(Code::UnknownBroker, text))
    }

    fn stranger(&self, peer: SocketAddr, text: &str) {
        self.roster.stranger(peer.ip(), text, self.hub.clock().now().unix);
    }
}

/// A broker that a new policy does not list any more is not linked any more.
async fn follow(mut policy: watch::Receiver<Arc<Policy>>, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            changed = policy.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        shared.roster.end(|name| shared.not_listed(name));
        shared.roster.forget(|name| shared.not_listed(name).is_none());
    }
}

fn certificate_of(chain: Option<&[CertificateDer<'static>]>) -> Option<CertificateDer<'static>> {
    chain.and_then(|chain| chain.first()).cloned()
}

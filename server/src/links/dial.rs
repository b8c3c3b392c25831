//! How do we come to a neighbour? One task for each: dial, say HELLO, run the link, back off, and again for ever.

use super::identity::{Caller, certificate_name};
use super::link::{self, Met};
use super::roster::{HELD, Trouble};
use super::wire::{Broken, cause_of, halves, linger, said};
use super::{Shared, certificate_of};
use crate::config::LinkConfig;
use muster_protocol::dial::{self, Address, BackOff, DialError};
use muster_protocol::link::Head;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// Ceilings of the wait between two tries.
const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(10);

/// Keeps the link to one neighbour until `stop` says so.
pub(super) async fn keep(
    config: LinkConfig,
    tls: Arc<ClientConfig>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let peer = &config.to;
    let mut back_off = BackOff::new(FIRST, MOST);
    let mut changes = shared.roster.changes();
    let wake = shared.roster.wake(peer);
    loop {
        tokio::select! {
            _ = changes.wait_for(|()| shared.roster.is_wanted(peer)) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // A try, and the link that it makes, outlive a stop: the broker drains its links itself.
        let lived = Box::pin(attempt(&config, &tls, &shared)).await;
        if lived >= HELD {
            back_off.reset();
        }
        tokio::select! {
            () = sleep(back_off.next(rand::random())) => {}
            () = wake.notified() => back_off.reset(),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// One try, and the link if there is one; how long that lived.
async fn attempt(config: &LinkConfig, tls: &Arc<ClientConfig>, shared: &Arc<Shared>) -> Duration {
    let peer = &config.to;
    let unix = || shared.hub.clock().now().unix;
    let address = match address(config, shared) {
        Ok(address) => address,
        Err(text) => {
            shared.roster.failed(peer, Trouble::failure(text), unix());
            return Duration::ZERO;
        }
    };
    shared.roster.connecting(peer, address.to_string(), unix());
    match greet(config, tls, shared, &address).await {
        Ok(lived) => lived,
        Err(trouble) => {
            shared.roster.failed(peer, trouble, unix());
            Duration::ZERO
        }
    }
}

fn address(config: &LinkConfig, shared: &Shared) -> Result<Address, String> {
    let peer = &config.to;
    let policy = shared.policy.borrow();
    let Some(entry) = policy.brokers().get(peer) else {
        return Err(format!(
            "{peer} is not in the policy's list of brokers; add [brokers.{peer}], or remove its [[link]]"
        ));
    };
    let address = config.address.clone().or_else(|| entry.link.clone());
    address.ok_or_else(|| {
        format!("no address for {peer}: give `address` in its [[link]], or `link` in [brokers.{peer}] of the policy")
    })
}

async fn greet(
    config: &LinkConfig,
    tls: &Arc<ClientConfig>,
    shared: &Arc<Shared>,
    address: &Address,
) -> Result<Duration, Trouble> {
    let deadline = Instant::now() + shared.hello_time;
    let name = certificate_name(config.to.as_str(), &shared.me.cluster);
    let unreached = |error: DialError| match &error {
        DialError::Tls { .. } => Trouble::failure(format!("{error}; {} must show a certificate for {name}", config.to)),
        _ => Trouble::failure(error.to_string()),
    };
    let stream = dial::connect_as(address, &name, tls, shared.hello_time).await.map_err(unreached)?;
    let peer = stream.get_ref().0.peer_addr().map_err(|error| Trouble::failure(format!("{address}: {error}")))?;
    let local = stream.get_ref().0.local_addr().map_or(peer.ip(), |local| local.ip());
    let certificate = certificate_of(stream.get_ref().1.peer_certificates());
    let (mut reader, mut writer) = halves(stream, shared.stall);
    let ours = shared.hello(shared.hub.clock().now().unix);
    let our_nonce = ours.nonce;
    writer.control(&Head::Hello(ours), None);
    let hellos = async {
        writer.flush().await.map_err(|error| Broken::Closed(cause_of(&error)))?;
        reader.hello().await
    };
    let refusal = match timeout_at(deadline, hellos).await {
        Ok(Ok(hello)) => {
            let certificate = certificate.as_ref();
            let caller = Caller { certificate, address: peer.ip(), local, dialled: Some(&config.to) };
            match shared.weigh(&hello, &caller) {
                Ok(()) => {
                    let nonce = our_nonce.wrapping_add(hello.nonce);
                    let met = Met { hello, nonce, address: peer };
                    let (lived, reader, writer) = link::run(shared, reader, writer, met, ()).await;
                    // The next connection need not wait until this one is buried.
                    tokio::spawn(linger(reader, writer));
                    return Ok(lived);
                }
                Err(refusal) => refusal,
            }
        }
        Ok(Err(Broken::Frame(refusal))) => refusal,
        Ok(Err(Broken::Closed(reason))) => return Err(Trouble::failure(format!("{address}: {reason}"))),
        Ok(Err(Broken::Refused(refused))) => return Err(Trouble::refusal(said(&refused))),
        Err(_) => return Err(Trouble::failure(format!("{address}: no HELLO in time"))),
    };
    writer.last_word(&refusal).await;
    linger(reader, writer).await;
    Err(Trouble::refusal(refusal.to_string()))
}

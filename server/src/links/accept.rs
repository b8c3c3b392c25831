//! Who may link to us? Accepts connections of brokers, bounds those that have not said HELLO, does TLS and HELLO in their own task.

use super::identity::Caller;
use super::link::{self, Met};
use super::roster::Trouble;
use super::wire::{Broken, LINGER, Reader, Writer, cause_of, halves, linger, said};
use super::{Shared, certificate_of};
use crate::gate::{Arrived, Missed, Pending};
use crate::listener::not_tls;
use futures_util::FutureExt;
use muster_protocol::dial::harden;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::Hello;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Accepts until `stop` says so.
pub(super) async fn listen(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((tcp, peer)) => admit(tcp, peer, &tls, &shared),
            Err(error) => {
                // Out of descriptors or memory: the listener lives, and does not spin.
                tracing::warn!(target: "muster::links", %error, "cannot accept; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(tcp: TcpStream, peer: SocketAddr, tls: &Arc<ServerConfig>, shared: &Arc<Shared>) {
    let (tls, of, told) = (TlsAcceptor::from(tls.clone()), shared.clone(), shared.clone());
    let serve = move |arrived| async move {
        let connection = AssertUnwindSafe(connection(arrived, peer, tls, &of));
        if connection.catch_unwind().await.is_err() {
            tracing::error!(target: "muster::links", peer = %peer.ip(), "a connection ended in a panic");
        }
    };
    shared.gate.admit(tcp, peer.ip(), serve, move |missed| match missed {
        // Told once until there was room again: whoever floods fills neither the log nor the list of strangers.
        Missed::TurnedAway(turned) if turned.is_news => told.stranger(peer, turned.reason),
        Missed::TurnedAway(_) => {}
        Missed::Gone(error) => told.stranger(peer, &cause_of(&error)),
        Missed::Silent => told.stranger(peer, "nothing came in time; a broker begins with TLS"),
    });
}

async fn connection(arrived: Arrived, peer: SocketAddr, tls: TlsAcceptor, shared: &Arc<Shared>) {
    let Arrived { tcp, first, place, open: _open } = arrived;
    let deadline = Instant::now() + shared.hello_time;
    if let Err(error) = harden(&tcp) {
        return tracing::debug!(target: "muster::links", %error, "socket options");
    }
    if let Some(what) = not_tls(&first) {
        return shared.stranger(peer, &format!("this port is for links between brokers; what came is {what}"));
    }
    let Some(tls) = handshake(tcp, peer, &tls, shared, deadline).await else { return };
    let (stream, shown) = tls;
    let ends = (stream.get_ref().0.local_addr().unwrap_or(peer), peer);
    let (reader, writer) = halves(stream, shared.stall);
    Box::pin(greet(reader, writer, shown, ends, shared, deadline, place)).await;
}

type Certificate = rustls::pki_types::CertificateDer<'static>;

/// TLS, with the certificate that was shown.
async fn handshake(
    tcp: TcpStream,
    peer: SocketAddr,
    tls: &TlsAcceptor,
    shared: &Shared,
    deadline: Instant,
) -> Option<(TlsStream<TcpStream>, Option<Certificate>)> {
    match timeout_at(deadline, tls.accept(tcp).into_fallible()).await {
        Ok(Ok(tls)) => {
            let certificate = certificate_of(tls.get_ref().1.peer_certificates());
            Some((tls, certificate))
        }
        Ok(Err((error, mut tcp))) => {
            let text = format!("{}; brokers link with certificates of the cluster's CA", cause_of(&error));
            shared.stranger(peer, &text);
            // What says why has been sent; a reset must not overtake it.
            let drain = async {
                tcp.shutdown().await?;
                let mut sink = [0; 256];
                while tcp.read(&mut sink).await? > 0 {}
                std::io::Result::Ok(())
            };
            let _ = timeout(LINGER, drain).await;
            None
        }
        Err(_) => {
            shared.stranger(peer, "TLS was not done in time");
            None
        }
    }
}

/// The dialling side speaks first. Ours is said once theirs is found good, so that whoever is refused never takes the link for
/// open, not even for a moment.
async fn greet(
    mut reader: Reader<TlsStream<TcpStream>>,
    mut writer: Writer<TlsStream<TcpStream>>,
    certificate: Option<Certificate>,
    (local, peer): (SocketAddr, SocketAddr),
    shared: &Arc<Shared>,
    deadline: Instant,
    pending: Pending,
) {
    let (hello, refusal) = match timeout_at(deadline, reader.hello()).await {
        Ok(Ok(hello)) => {
            let certificate = certificate.as_ref();
            let caller = Caller { certificate, address: peer.ip(), local: local.ip(), dialled: None };
            let refusal = shared.weigh(&hello, &caller).err();
            (Some(hello), refusal)
        }
        Ok(Err(Broken::Frame(refusal))) => (None, Some(refusal)),
        Ok(Err(Broken::Closed(reason))) => return shared.stranger(peer, &format!("no HELLO: {reason}")),
        Ok(Err(Broken::Refused(refused))) => {
            return shared.stranger(peer, &said(&refused));
        }
        Err(_) => (None, Some(Refusal::new(Code::AuthTimeout, "no HELLO in time"))),
    };
    let now = shared.hub.clock().now();
    let Some(hello) = hello.filter(|_| refusal.is_none()) else {
        if let Some(refusal) = refusal {
            if refusal.code == Code::LinkDown {
                // Somebody here wants it so.
                tracing::debug!(target: "muster::links", peer = %peer.ip(), reason = %refusal, "link refused");
            } else {
                shared.stranger(peer, &refusal.to_string());
            }
            writer.last_word(&refusal).await;
        }
        return linger(reader, writer).await;
    };
    let ours = shared.hello(None, now.unix);
    let nonce = ours.nonce.wrapping_add(hello.nonce);
    writer.control(&muster_protocol::link::Head::Hello(ours), None);
    match timeout_at(deadline, writer.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return failed(shared, &hello, &cause_of(&error)),
        Err(_) => return failed(shared, &hello, "our HELLO was not read in time"),
    }
    let (_, reader, writer) = link::run(shared, reader, writer, Met { hello, nonce, address: peer }, pending).await;
    linger(reader, writer).await;
}

fn failed(shared: &Shared, hello: &Hello, text: &str) {
    shared.roster.failed(&hello.name, Trouble::failure(text), shared.hub.clock().now().unix);
}

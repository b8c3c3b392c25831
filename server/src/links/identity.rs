//! Who is at the other end, and is it one of us? What both sides of a link say first, and what is checked of it.

use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::{Hello, NEWEST, OLDEST};
use muster_protocol::message::{BrokerName, shown};
use muster_protocol::tls::Identity;
use rustls::pki_types::CertificateDer;
use std::net::IpAddr;

/// Who this broker is, to its neighbours.
#[derive(Debug, Clone)]
pub struct Me {
    /// Its name.
    pub name: BrokerName,
    /// Its cluster.
    pub cluster: String,
    /// Boot counter.
    pub instance: u64,
    /// Random, made at the start of the process.
    pub incarnation: u64,
    /// Longest body that it takes, bytes.
    pub max_body: u64,
}

/// What is known of a connection beside what the other side says.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    /// The certificate that it showed.
    pub(super) certificate: Option<&'a CertificateDer<'static>>,
    /// From where, or at which address.
    pub(super) address: IpAddr,
    /// Our own end's address.
    pub(super) local: IpAddr,
    /// Whom this broker meant to dial.
    pub(super) dialled: Option<&'a BrokerName>,
}

/// The name that the certificate of a broker is for.
pub fn certificate_name(broker: &str, cluster: &str) -> String {
    format!("{broker}.{cluster}.muster")
}

impl Me {
    /// What it says first. `clock` is Unix ms.
    pub(super) fn hello(&self, nonce: u64, clock: u64) -> Hello {
        Hello {
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            instance: self.instance,
            incarnation: self.incarnation,
            nonce,
            oldest: OLDEST,
            newest: NEWEST,
            clock,
            max_body: self.max_body,
        }
    }

    /// Whether the other side may be linked, as far as it is a matter of who it is. What is most basically wrong is said first:
    /// of another version not even the cluster can be trusted to mean the same.
    pub(super) fn check(&self, hello: &Hello, caller: &Caller<'_>) -> Result<(), Refusal> {
        let refuse = |code, text: String| Err(Refusal::new(code, text));
        let (me, from) = (&self.name, caller.address);
        if hello.oldest > NEWEST || hello.newest < OLDEST {
            let text = format!(
                "{me} speaks versions {OLDEST} to {NEWEST} of the link protocol, {} at {from} speaks {} to {}: no version in common; upgrade the older",
                hello.name, hello.oldest, hello.newest
            );
            return refuse(Code::BadVersion, text);
        }
        if hello.cluster != self.cluster {
            let theirs = shown(&hello.cluster);
            let text = format!(
                "{me} is of cluster {}, {} at {from} is of cluster {theirs}; correct the address of the link, or broker.cluster",
                self.cluster, hello.name
            );
            return refuse(Code::WrongCluster, text);
        }
        if hello.name == self.name {
            let text = format!(
                "the name {me} is in use by the broker at {} and by the one at {from}; give each broker a name of its own",
                caller.local
            );
            return refuse(Code::NameInUse, text);
        }
        self.check_certificate(hello, caller)
    }

    fn check_certificate(&self, hello: &Hello, caller: &Caller<'_>) -> Result<(), Refusal> {
        let refuse = |text: String| Err(Refusal::new(Code::WrongIdentity, text));
        let (name, from) = (&hello.name, caller.address);
        if let Some(meant) = caller.dialled
            && meant != name
        {
            return refuse(format!(
                "{} dialled {meant} at {from}, and {name} answered; correct the address of the link to {meant}",
                self.name
            ));
        }
        let Some(certificate) = caller.certificate else {
            return refuse(format!("the broker at {from} showed no certificate; give it its own"));
        };
        let identity = match Identity::of(certificate) {
            Ok(identity) => identity,
            Err(cause) => return refuse(format!("the certificate shown from {from} cannot be read: {cause}")),
        };
        let expected = certificate_name(name.as_str(), &self.cluster);
        // Exactly this name: a wildcard would make one key every broker.
        if !identity.names.contains(&expected) {
            let names: Vec<String> = identity.names.iter().take(4).map(|name| shown(name)).collect();
            return refuse(format!(
                "the broker at {from} says that it is {name}, but its certificate is for {}; give it one for {expected}",
                if names.is_empty() { "no name".into() } else { names.join(", ") }
            ));
        }
        if !identity.is_broker {
            return refuse(format!(
                "the certificate shown by {name} at {from} is not a broker's: it must be for server and client authentication; issue one with both"
            ));
        }
        Ok(())
    }
}

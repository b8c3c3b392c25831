//! Can this broker have the links that it is configured for? What `musterd check` says, and what must be right at the start.

use super::identity::certificate_name;
use crate::broker::access::Policy;
use crate::config::Config;
use muster_protocol::message::BrokerName;
use muster_protocol::tls::{self, Identity, TlsError};
use std::path::PathBuf;

/// Why the links of a configuration cannot be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Certificate, key or CA are not acceptable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate is not for this broker.
    #[error("{file}: a broker with links needs a certificate for {expected}, and this is for {names}; issue one with that name", file = file.display())]
    Name {
        /// The certificate.
        file: PathBuf,
        /// The name that it lacks.
        expected: String,
        /// The names that it has.
        names: String,
    },
    /// The certificate cannot be shown on both sides of a link.
    #[error("{file}: not a broker's certificate: it must be for server and client authentication (extended key usage); issue one with both", file = file.display())]
    Usage {
        /// The certificate.
        file: PathBuf,
    },
    /// The policy does not know the other broker.
    #[error(
        "[[link]] to {0}: it is not in the policy's list of brokers; add [brokers.{0}] to the policy, or remove the link"
    )]
    NotListed(BrokerName),
    /// Nobody says where the other broker listens.
    #[error(
        "[[link]] to {0}: no address to dial; give `address` there or `link` in [brokers.{0}] of the policy, or set dial = false"
    )]
    NoAddress(BrokerName),
}

/// Checks what a configuration says of links against the policy and the files that it names. Without links all is well.
pub fn check(config: &Config, policy: &Policy) -> Result<(), LinkError> {
    if config.link.is_empty() && config.listen.links.is_empty() {
        return Ok(());
    }
    let files = &config.tls;
    let identity = Identity::in_file(&files.certificate)?;
    let expected = certificate_name(&config.broker.name, &config.broker.cluster);
    if !identity.names.contains(&expected) {
        let names = if identity.names.is_empty() { "no name".into() } else { identity.names.join(", ") };
        return Err(LinkError::Name { file: files.certificate.clone(), expected, names });
    }
    if !identity.is_broker {
        return Err(LinkError::Usage { file: files.certificate.clone() });
    }
    tls::link_server_config(&files.certificate, &files.key, &files.ca)?;
    tls::link_client_config(&files.certificate, &files.key, &files.ca)?;
    for link in &config.link {
        let entry = policy.brokers().get(&link.to).ok_or_else(|| LinkError::NotListed(link.to.clone()))?;
        if link.dial && link.address.is_none() && entry.link.is_none() {
            return Err(LinkError::NoAddress(link.to.clone()));
        }
    }
    Ok(())
}

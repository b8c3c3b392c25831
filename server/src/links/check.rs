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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{InitOptions, init};
    use crate::server;

    /// A cluster of one, with these lines added to its configuration and its policy; what `musterd check` says.
    fn checked(options: &InitOptions, config: &str, policy: &str) -> Result<(), String> {
        let report = init(options).unwrap();
        let add = |file: &str, text: &str| {
            let path = report.dir.join(file);
            let before = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, before + "\n" + text).unwrap();
        };
        add("musterd.toml", config);
        // A list names this broker too: it has the authority.
        add("policy.toml", &format!("[brokers.noc1]\n{policy}"));
        let config = Config::load(&report.dir.join("musterd.toml")).unwrap();
        server::check(&config).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn mistakes_in_links_are_found_before_the_start() {
        const DC9: &str = "[[link]]\nto = \"dc9\"\n";
        for (config, policy, expected) in [
            (DC9, "[brokers.dc9]\nlink = \"dc9.example\"\n", None),
            ("[[link]]\nto = \"dc9\"\ndial = false\n", "[brokers.dc9]\n", None),
            ("[[link]]\nto = \"dc9\"\naddress = \"dc9.example\"\n", "[brokers.dc9]\n", None),
            (DC9, "[brokers.dc9]\n", Some("[[link]] to dc9: no address to dial")),
            (DC9, "", Some("[[link]] to dc9: it is not in the policy's list")),
        ] {
            let parent = tempfile::tempdir().unwrap();
            let said = checked(&InitOptions::new(parent.path().join("noc1")), config, policy);
            match expected {
                None => assert_eq!(said, Ok(()), "{config}"),
                Some(text) => assert!(said.clone().unwrap_err().starts_with(text), "{said:?}"),
            }
        }
    }

    #[test]
    fn a_certificate_for_another_name_is_named_with_the_right_one() {
        let parent = tempfile::tempdir().unwrap();
        let report = init(&InitOptions::new(parent.path().join("noc1"))).unwrap();
        let file = report.dir.join("musterd.toml");
        let config = std::fs::read_to_string(&file).unwrap().replace("name = \"noc1\"", "name = \"noc7\"");
        std::fs::write(&file, &config).unwrap();
        let check = || server::check(&Config::load(&file).unwrap()).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(check(), Ok(()), "without links the name is nobody's matter");
        let links = config.replace("[listen]", "[listen]\nlinks = [\"127.0.0.1:0\"]");
        std::fs::write(&file, links).unwrap();
        let error = check().unwrap_err();
        assert!(
            error.contains("needs a certificate for noc7.demo.muster, and this is for noc1.demo.muster"),
            "{error}"
        );
        std::fs::write(report.dir.join("ca.pem"), "").unwrap();
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("noc7", "noc1")).unwrap();
        assert!(check().unwrap_err().contains("ca.pem"));
    }
}

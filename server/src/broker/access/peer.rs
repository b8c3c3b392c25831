//! Who is at the other end, as far as this side knows without being told? An address, and perhaps a client certificate.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// The certificate that it has shown, if it has shown one. One that is not good never gets as far as this: the CA, the time and
    /// that it is for clients were checked when the connection was made, and that the peer has its key.
    pub certificate: Option<Arc<Certificate>>,
}

/// What counts of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// Whose it is.
    pub names: Names,
    /// From this moment on it is not valid any more, Unix seconds.
    pub ends: u64,
}

/// The names of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Names {
    /// The DNS names among its subject alternative names; empty if it has only others, such as addresses.
    Dns(Vec<String>),
    /// The common name of its subject: it has no subject alternative names of any kind.
    Common(String),
}

impl Peer {
    /// Its address, without the port.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

/// Without a certificate.
impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        Peer { address, certificate: None }
    }
}

impl Certificate {
    /// Whether it is that of `name`: one of its DNS names is this name, in whatever case, or it has no alternative names at all and
    /// its common name is this name, letter by letter. A `*` in a certificate stands for nothing but itself, and no name in a policy
    /// has one.
    pub fn bears(&self, name: &str) -> bool {
        match &self.names {
            Names::Dns(names) => names.iter().any(|own| own.eq_ignore_ascii_case(name)),
            Names::Common(own) => own == name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: Names) -> Certificate {
        Certificate { names, ends: u64::MAX }
    }

    fn dns(names: &[&str]) -> Certificate {
        of(Names::Dns(names.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn a_dns_name_is_compared_whole_and_without_case() {
        let certificate = dns(&["other.example", "Alice.Example"]);
        for name in ["alice.example", "ALICE.EXAMPLE", "other.example"] {
            assert!(certificate.bears(name), "{name}");
        }
        for name in ["", "alice", "example", "alice.example.", ".alice.example", "x.alice.example", "alice.example.net"]
        {
            assert!(!certificate.bears(name), "{name}");
        }
    }

    #[test]
    fn a_wildcard_matches_nothing_and_other_letters_are_other_names() {
        let wild = dns(&["*.example", "*"]);
        assert!(!wild.bears("alice.example") && !wild.bears("alice"));
        // Only ASCII has cases here: the Kelvin sign is no k, and ſ is no s.
        assert!(!dns(&["kate.example"]).bears("\u{212a}ate.example"));
        assert!(!dns(&["sam.example"]).bears("\u{17f}am.example"));
    }

    #[test]
    fn a_common_name_is_compared_letter_by_letter() {
        let certificate = of(Names::Common("Alice Example".into()));
        assert!(certificate.bears("Alice Example"));
        for name in ["alice example", "Alice", "Alice Example ", ""] {
            assert!(!certificate.bears(name), "{name:?}");
        }
    }

    #[test]
    fn a_certificate_without_a_name_is_nobodys() {
        for name in ["", "alice.example", "192.0.2.1"] {
            assert!(!dns(&[]).bears(name), "{name:?}");
        }
    }
}

//! What the tests of sealed policies share: a CA of a moment, and the brokers that it vouches for.

use super::seal::Notary;
use crate::config::Tls;
use muster_protocol::message::BrokerName;
use muster_protocol::policy::Made;
use muster_protocol::tls::provider;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, SignatureAlgorithm, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// When editions of these tests are made: 2023-11-14, Unix ms.
pub(super) const MADE: u64 = 1_700_000_000_000;

pub(super) fn name(name: &str) -> BrokerName {
    BrokerName::parse(name).unwrap()
}

pub(super) fn made(what: &str) -> Made {
    Made { by: "alice".into(), via: "noc1".into(), at: MADE, what: what.into(), reason: "a test".into() }
}

/// A CA.
pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate to be issued.
pub(super) struct Leaf {
    pub(super) broker: &'static str,
    pub(super) cluster: &'static str,
    pub(super) years: (i32, i32),
    pub(super) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(super) kind: &'static SignatureAlgorithm,
}

impl Leaf {
    /// A good one of cluster `demo`, from 2020 until 2090.
    pub(super) fn of(broker: &'static str) -> Leaf {
        Leaf {
            broker,
            cluster: "demo",
            years: (2020, 2090),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            kind: &PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl Ca {
    pub(super) fn new() -> Ca {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap())
    }

    /// The broker of this name in cluster `demo`.
    pub(super) fn notary(&self, broker: &'static str) -> Notary {
        self.notary_of(broker, &Leaf::of(broker))
    }

    /// A broker that calls itself so, with a certificate of its own.
    pub(super) fn notary_of(&self, broker: &str, leaf: &Leaf) -> Notary {
        self.notary_in("demo", broker, leaf)
    }

    pub(super) fn notary_in(&self, cluster: &str, broker: &str, leaf: &Leaf) -> Notary {
        let (certificate, key) = self.issue(leaf);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let own = CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider()).unwrap();
        let mut ca = RootCertStore::empty();
        ca.add(self.0.der().clone()).unwrap();
        Notary::of(name(broker), cluster, own, ca)
    }

    /// Certificate, key and CA of a broker as files.
    pub(super) fn write(&self, broker: &'static str, folder: &Path) -> Tls {
        let (certificate, key) = self.issue(&Leaf::of(broker));
        let files = Tls {
            certificate: folder.join("broker.pem"),
            key: folder.join("broker.key"),
            ca: folder.join("ca.pem"),
            client_ca: None,
        };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
        fs::write(&files.ca, self.0.pem()).unwrap();
        files
    }

    fn issue(&self, leaf: &Leaf) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate_for(leaf.kind).unwrap();
        let mut params = CertificateParams::new(vec![format!("{}.{}.muster", leaf.broker, leaf.cluster)]).unwrap();
        params.not_before = date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = date_time_ymd(leaf.years.1, 1, 1);
        params.extended_key_usages = leaf.usages.clone();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

//! Who vouches for clients? A CA beside that of the brokers, and certificates of it, good ones and others.

use crate::agent::write_private;
use crate::policy;
use crate::{Broker, Setup};
use muster_protocol::tls::{self, Own};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A CA of clients.
#[derive(Debug)]
pub struct ClientCa {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate to be made; [`Default`] is a good one of nobody.
#[derive(Debug, Default)]
pub struct Leaf<'a> {
    /// DNS names.
    pub names: &'a [&'a str],
    /// The common name of the subject.
    pub common: Option<&'a str>,
    /// Whether it is over since 2021.
    pub expired: bool,
    /// Whether it is for servers and not for clients.
    pub for_servers: bool,
    /// Whether no CA vouches for it but itself.
    pub self_signed: bool,
}

impl ClientCa {
    /// A new one.
    pub fn new() -> ClientCa {
        ClientCa::called("clients")
    }

    /// A new one that calls itself so; several may call themselves the same.
    pub fn called(name: &str) -> ClientCa {
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.distinguished_name.push(DnType::CommonName, name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("client-ca.pem"), issuer.pem()).expect("the CA");
        ClientCa { folder, issuer }
    }

    /// Its certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("client-ca.pem")
    }

    /// A broker that asks for its certificates, and whose policy says these `certificate`s of users.
    pub fn setup(&self, users: &[(&str, &str)]) -> Setup {
        let mut policy = policy::POLICY.to_owned();
        for (user, name) in users {
            let head = format!("[users.{user}]\n");
            assert!(policy.contains(&head), "no user {user}");
            policy = policy.replacen(&head, &format!("{head}certificate = \"{name}\"\n"), 1);
        }
        Setup::new().policy(&policy).with("tls.client-ca", self.file().display().to_string())
    }

    /// Chain and key of a certificate, as files that are named so.
    pub fn issue(&self, file: &str, leaf: &Leaf<'_>) -> Own {
        let names: Vec<String> = leaf.names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = leaf.common {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        if leaf.expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let usage =
            if leaf.for_servers { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let made = if leaf.self_signed { params.self_signed(&key) } else { params.signed_by(&key, &self.issuer) };
        let path = |ending: &str| self.folder.path().join(format!("{file}.{ending}"));
        let own = Own { certificate: path("pem"), key: path("key") };
        fs::write(&own.certificate, made.expect("a certificate").pem()).expect("the certificate");
        write_private(&own.key, &key.serialize_pem());
        own
    }

    /// A good certificate for a DNS name.
    pub fn named(&self, name: &str) -> Own {
        self.issue(name, &Leaf { names: &[name], ..Leaf::default() })
    }
}

impl Default for ClientCa {
    fn default() -> ClientCa {
        ClientCa::new()
    }
}

/// How a client connects that shows whatever it has, good or not; nothing without `own`.
pub fn showing(broker: &Broker, own: Option<&Own>) -> Arc<ClientConfig> {
    let Some(own) = own else { return tls::client_config(&broker.ca(), None).expect("the CA") };
    let roots = tls::roots(&broker.ca()).expect("the CA");
    let config = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots);
    let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let chain = CertificateDer::from_pem_slice(&read(&own.certificate)).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&read(&own.key)).expect("a key");
    Arc::new(config.with_client_auth_cert(vec![chain], key).expect("a configuration"))
}

/// Lines of a client's settings that name a certificate.
pub fn settings(own: &Own) -> String {
    let Own { certificate, key } = own;
    format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display())
}

//! Where do TLS configurations come from? Certificates and keys from files, errors that name the file.
//!
//! rustls with aws-lc-rs: TLS 1.3, and 1.2 for clients that have nothing newer. Names are always verified. Clients may show a
//! certificate where a broker asks for one. Between brokers both sides show one, and there is nothing but TLS 1.3.

use rustls::CipherSuite;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that cannot serve as certificate, key or CA.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is not PEM.
    #[error("{file}: cannot read it as PEM: {cause}")]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the reader said.
        cause: String,
    },
    /// The file holds no certificate.
    #[error("{0}: holds no certificate")]
    Empty(PathBuf),
    /// Others than the owner can read the key.
    #[error("{file}: a secret that others can read (mode {mode:03o}); run `chmod 600` on it")]
    Exposed {
        /// Which file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate is outside its validity.
    #[error(
        "{file}: the certificate is not valid now (valid from {from} until {until}); issue a new one, or correct the clock"
    )]
    Validity {
        /// Which file.
        file: PathBuf,
        /// Start of validity.
        from: String,
        /// End of validity.
        until: String,
    },
    /// Certificate and key do not make a configuration.
    #[error("{file}: {cause}")]
    Config {
        /// Which file.
        file: PathBuf,
        /// What rustls said.
        cause: String,
    },
}

/// What a client shows of itself to a broker that asks for certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM; refused if others can read it.
    pub key: PathBuf,
}

impl Own {
    /// Reads `[tls]` of a client's settings: `certificate` and `key`, both or neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Own>, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            certificate: Option<PathBuf>,
            key: Option<PathBuf>,
        }
        let without = |given: &str, other: &str| {
            let text = format!(
                "[tls] has `{given}` without `{other}`; give both to show a client certificate, or neither to show none"
            );
            Err(serde::de::Error::custom(text))
        };
        match Table::deserialize(deserializer)? {
            Table { certificate: Some(certificate), key: Some(key) } => Ok(Some(Own { certificate, key })),
            Table { certificate: Some(_), key: None } => without("certificate", "key"),
            Table { certificate: None, key: Some(_) } => without("key", "certificate"),
            Table { certificate: None, key: None } => Ok(None),
        }
    }
}

/// How a client verifies brokers: against the CA certificates in `ca`, with the name or address that it dialled. What it shows
/// of itself, if it is asked, is `own`.
pub fn client_config(ca: &Path, own: Option<&Own>) -> Result<Arc<ClientConfig>, TlsError> {
    let wrong = |file: &Path, cause: String| TlsError::Config { file: file.to_owned(), cause };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(ca, e.to_string()))?
        .with_root_certificates(roots(ca)?);
    let config = match own {
        Some(Own { certificate, key }) => {
            let (chain, secret) = pair(certificate, key)?;
            config.with_client_auth_cert(chain, secret).map_err(|e| wrong(key, e.to_string()))?
        }
        None => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// How a broker presents itself: the chain in `certificate`, the key in `key` (refused if others can read it). With `client_ca`
/// it asks clients for a certificate of one of the CAs in that file; who has none gets in without, and who shows one that is not
/// good does not. Whose it is must be checked afterwards, with [`Identity::of`].
pub fn server_config(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |file: &Path, cause: String| TlsError::Config { file: file.to_owned(), cause };
    let (chain, secret) = pair(certificate, key)?;
    let asks = match client_ca {
        Some(ca) => WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| wrong(ca, e.to_string()))?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(certificate, e.to_string()))?
        .with_client_cert_verifier(asks)
        .with_single_cert(chain, secret)
        .map_err(|e| wrong(key, e.to_string()))?;
    if client_ca.is_some() {
        // A resumed connection has the client's certificate of the first one, unverified: it may have expired since. So there are
        // none, and every connection is one whole handshake.
        never_resume(&mut config);
    } else {
        // Two tickets (rustls's default four) are enough for an agent that reconnects; each costs bytes in every handshake.
        config.send_tls13_tickets = 2;
    }
    Ok(Arc::new(config))
}

/// The accepting side of a link between brokers: whoever connects must show a certificate of the CA that may be a client's.
/// Whose it is must be checked afterwards, with [`Identity::of`].
pub fn link_server_config(certificate: &Path, key: &Path, ca: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |file: &Path, cause: String| TlsError::Config { file: file.to_owned(), cause };
    let (chain, secret) = pair(certificate, key)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
        .build()
        .map_err(|e| wrong(ca, e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong(certificate, e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, secret)
        .map_err(|e| wrong(key, e.to_string()))?;
    // Links last for weeks: a whole handshake each time costs nothing, and checks the certificate each time.
    never_resume(&mut config);
    Ok(Arc::new(config))
}

/// The dialling side of a link: it presents the broker's own certificate, and verifies the other's with the name that
/// [`crate::dial::connect_as`] is given.
pub fn link_client_config(certificate: &Path, key: &Path, ca: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let wrong = |file: &Path, cause: String| TlsError::Config { file: file.to_owned(), cause };
    let (chain, secret) = pair(certificate, key)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong(certificate, e.to_string()))?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain, secret)
        .map_err(|e| wrong(key, e.to_string()))?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A broker's chain and key, for what it signs itself; refused for the same reasons as by [`server_config`].
pub fn certified_key(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let (chain, secret) = pair(certificate, key)?;
    CertifiedKey::from_der(chain, secret, &provider())
        .map_err(|e| TlsError::Config { file: key.to_owned(), cause: e.to_string() })
}

fn never_resume(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
}

/// For whom a certificate was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its DNS names.
    pub names: Vec<String>,
    /// The common name of its subject, if that has exactly one and the certificate has no alternative names of any kind: where
    /// there are some, they alone count.
    pub common_name: Option<String>,
    /// Until when it is valid, Unix seconds.
    pub until: i64,
    /// Whether it may be shown by whoever accepts connections and by whoever makes them: a broker does both.
    pub is_broker: bool,
}

impl Identity {
    /// What a certificate says; the error is the parser's.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Identity, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| e.to_string())?;
        let (names, common_name) = match parsed.subject_alternative_name().map_err(|e| e.to_string())? {
            Some(names) => (names.value.general_names.iter().filter_map(dns_name).collect(), None),
            None => (Vec::new(), common_name(parsed.subject())),
        };
        let usage = parsed.extended_key_usage().map_err(|e| e.to_string())?;
        let is_broker = usage.is_some_and(|usage| usage.value.server_auth && usage.value.client_auth);
        Ok(Identity { names, common_name, until: parsed.validity().not_after.timestamp(), is_broker })
    }

    /// What the first certificate of a file says.
    pub fn in_file(certificate: &Path) -> Result<Identity, TlsError> {
        let chain = certificates(certificate)?;
        let first = chain.first().ok_or_else(|| TlsError::Empty(certificate.to_owned()))?;
        Identity::of(first).map_err(|cause| TlsError::Config { file: certificate.to_owned(), cause })
    }
}

fn dns_name(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    }
}

/// A subject with several has none: whoever issued it may have meant one, and whoever reads it another.
fn common_name(subject: &x509_parser::x509::X509Name<'_>) -> Option<String> {
    let mut names = subject.iter_common_name();
    let (first, None) = (names.next()?, names.next()) else { return None };
    first.as_str().ok().map(str::to_owned)
}

/// Until when the first certificate of the file is valid, Unix seconds.
pub fn valid_until(certificate: &Path) -> Result<i64, TlsError> {
    let chain = certificates(certificate)?;
    Ok(validity(certificate, &chain)?.1)
}

/// The cryptography of all connections and signatures.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // As strong as the key exchange before it, and processors have instructions for its hash, as they have none for SHA-384: a
    // twentieth of what a broker does for a login is saved. A peer that offers it last gets what it wants.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// The CA certificates of a file.
pub fn roots(ca: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|e| TlsError::Config { file: ca.to_owned(), cause: e.to_string() })?;
    }
    Ok(roots)
}

/// A chain that is valid now, and its key, which nobody else can read.
fn pair(certificate: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(certificate)?;
    check_validity(certificate, &chain)?;
    refuse_exposed(key)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|e| TlsError::Read { file: key.to_owned(), cause: pem_cause(&e) })?;
    Ok((chain, secret))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |e: &rustls_pki_types::pem::Error| TlsError::Read { file: file.to_owned(), cause: pem_cause(e) };
    let chain = CertificateDer::pem_file_iter(file)
        .map_err(|e| read(&e))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| read(&e))?;
    if chain.is_empty() { Err(TlsError::Empty(file.to_owned())) } else { Ok(chain) }
}

/// The reason alone: a PEM error's debug text could quote the file.
fn pem_cause(error: &rustls_pki_types::pem::Error) -> String {
    match error {
        rustls_pki_types::pem::Error::Io(e) => e.to_string(),
        rustls_pki_types::pem::Error::NoItemsFound => "no PEM section of the expected kind".into(),
        _ => "not well-formed PEM".into(),
    }
}

/// Refuses a secret file that others than its owner can read, or that is not there.
pub fn refuse_exposed(key: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(key).map_err(|e| TlsError::Read { file: key.to_owned(), cause: e.to_string() })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Exposed { file: key.to_owned(), mode });
    }
    Ok(())
}

fn check_validity(file: &Path, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
    let (from, until) = validity(file, chain)?;
    let now = x509_parser::time::ASN1Time::now().timestamp();
    if now < from || now > until {
        let text = |t: i64| x509_parser::time::ASN1Time::from_timestamp(t).map(|t| t.to_string()).unwrap_or_default();
        return Err(TlsError::Validity { file: file.to_owned(), from: text(from), until: text(until) });
    }
    Ok(())
}

fn validity(file: &Path, chain: &[CertificateDer<'_>]) -> Result<(i64, i64), TlsError> {
    let first = chain.first().ok_or_else(|| TlsError::Empty(file.to_owned()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(first)
        .map_err(|e| TlsError::Config { file: file.to_owned(), cause: e.to_string() })?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
        date_time_ymd,
    };
    use rustls::{ClientConnection, HandshakeKind, ServerConnection, SupportedProtocolVersion};
    use rustls_pki_types::ServerName;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    /// A broker's CA and certificate for `broker.example`, and a CA of clients, as files.
    struct World {
        folder: TempDir,
        clients: CertifiedIssuer<'static, KeyPair>,
    }

    fn ca() -> CertifiedIssuer<'static, KeyPair> {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap()
    }

    fn named(names: &[&str]) -> CertificateParams {
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    impl World {
        fn new() -> World {
            let world = World { folder: tempfile::tempdir().unwrap(), clients: ca() };
            let brokers = ca();
            world.write("broker", &named(&["broker.example"]), &brokers);
            fs::write(world.path("ca.pem"), brokers.pem()).unwrap();
            fs::write(world.path("client-ca.pem"), world.clients.pem()).unwrap();
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, params: &CertificateParams, ca: &CertifiedIssuer<'static, KeyPair>) -> Own {
            let key = KeyPair::generate().unwrap();
            let own = Own { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
            fs::write(&own.certificate, params.signed_by(&key, ca).unwrap().pem()).unwrap();
            fs::write(&own.key, key.serialize_pem()).unwrap();
            fs::set_permissions(&own.key, Permissions::from_mode(0o600)).unwrap();
            own
        }

        fn server(&self, asks: bool) -> Arc<ServerConfig> {
            let ca = self.path("client-ca.pem");
            server_config(&self.path("broker.pem"), &self.path("broker.key"), asks.then_some(&*ca)).unwrap()
        }

        /// A client that shows whatever it has: time and usage are not looked at.
        fn client(&self, own: Option<&Own>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
            let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
            let config = config.with_root_certificates(roots(&self.path("ca.pem")).unwrap());
            Arc::new(match own {
                Some(own) => {
                    let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
                    config.with_client_auth_cert(certificates(&own.certificate).unwrap(), key).unwrap()
                }
                None => config.with_no_client_auth(),
            })
        }
    }

    /// Both ends of a connection, once neither has anything more to say.
    fn connect(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
    ) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
        let mut client = ClientConnection::new(client.clone(), ServerName::try_from("broker.example").unwrap())?;
        let mut server = ServerConnection::new(server.clone())?;
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok((client, server))
    }

    const EITHER: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

    #[test]
    fn a_connection_to_a_broker_that_asks_for_certificates_is_never_resumed() {
        let world = World::new();
        let alice = world.write("alice", &named(&["alice.example"]), &world.clients);
        for version in EITHER {
            for own in [None, Some(&alice)] {
                for asks in [false, true] {
                    let (client, server) = (world.client(own, &[version]), world.server(asks));
                    let kind = || connect(&client, &server).unwrap().1.handshake_kind();
                    assert_eq!(kind(), Some(HandshakeKind::Full));
                    let second = if asks { HandshakeKind::Full } else { HandshakeKind::Resumed };
                    assert_eq!(kind(), Some(second), "{:?}, asks: {asks}", version.version);
                }
            }
        }
    }

    #[test]
    fn a_ticket_of_before_is_worth_nothing_where_another_client_ca_is_asked_for() {
        let world = World::new();
        let alice = world.write("alice", &named(&["alice.example"]), &world.clients);
        for version in EITHER {
            let client = world.client(Some(&alice), &[version]);
            connect(&client, &world.server(false)).unwrap();
            fs::write(world.path("client-ca.pem"), world.clients.pem()).unwrap();
            let (_, server) = connect(&client, &world.server(true)).unwrap();
            assert_eq!(server.peer_certificates().unwrap().len(), 1);
            fs::write(world.path("client-ca.pem"), ca().pem()).unwrap();
            assert!(connect(&client, &world.server(true)).is_err(), "{:?}", version.version);
        }
    }

    #[test]
    fn who_shows_nothing_gets_in_and_who_shows_what_is_not_good_does_not() {
        let world = World::new();
        let server = world.server(true);
        let mut expired = named(&["alice.example"]);
        (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let mut early = named(&["alice.example"]);
        (early.not_before, early.not_after) = (date_time_ymd(2999, 1, 1), date_time_ymd(3000, 1, 1));
        let mut brokers = named(&["alice.example"]);
        brokers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (good, stranger) = (named(&["alice.example"]), ca());
        for version in EITHER {
            let shown = |own: Option<&Own>| {
                let (_, server) = connect(&world.client(own, &[version]), &server)?;
                Ok::<_, rustls::Error>(server.peer_certificates().map(<[_]>::len))
            };
            assert_eq!(shown(None).unwrap(), None);
            assert_eq!(shown(Some(&world.write("good", &good, &world.clients))).unwrap(), Some(1));
            for (name, params, ca) in [
                ("expired", &expired, &world.clients),
                ("early", &early, &world.clients),
                ("for brokers", &brokers, &world.clients),
                ("of another CA", &good, &stranger),
            ] {
                let error = shown(Some(&world.write(name, params, ca))).expect_err(name);
                assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{name}: {error}");
            }
        }
    }

    #[test]
    fn what_a_client_would_show_must_be_good_and_its_key_private() {
        let world = World::new();
        let ca = world.path("ca.pem");
        let own = world.write("alice", &named(&["alice.example"]), &world.clients);
        let client = client_config(&ca, Some(&own)).unwrap();
        let (_, server) = connect(&client, &world.server(true)).unwrap();
        assert_eq!(Identity::of(&server.peer_certificates().unwrap()[0]).unwrap().names, ["alice.example"]);
        fs::set_permissions(&own.key, Permissions::from_mode(0o640)).unwrap();
        let error = client_config(&ca, Some(&own)).unwrap_err().to_string();
        assert!(error.contains("alice.key") && error.contains("chmod 600"), "{error}");
        fs::set_permissions(&own.key, Permissions::from_mode(0o600)).unwrap();
        let other = Own { key: world.path("broker.key"), ..own.clone() };
        assert!(client_config(&ca, Some(&other)).unwrap_err().to_string().contains("broker.key"));
        let mut expired = named(&["alice.example"]);
        (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let error = client_config(&ca, Some(&world.write("old", &expired, &world.clients))).unwrap_err().to_string();
        assert!(error.contains("old.pem") && error.contains("not valid now"), "{error}");
    }

    #[test]
    fn a_common_name_counts_only_where_there_are_no_alternative_names() {
        let issuer = ca();
        let of = |alternatives: Vec<SanType>, common: &[&str]| {
            let mut params = named(&[]);
            params.subject_alt_names = alternatives;
            params.distinguished_name = rcgen::DistinguishedName::new();
            // The same kind twice would be one: the second is written out by its number.
            let kinds = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
            kinds.into_iter().zip(common).for_each(|(kind, name)| params.distinguished_name.push(kind, *name));
            let identity =
                Identity::of(params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der()).unwrap();
            (identity.names, identity.common_name)
        };
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let mail = || SanType::Rfc822Name("alice@example".try_into().unwrap());
        let common = |name: &str| Some(name.to_owned());
        assert_eq!(of(vec![], &["alice"]), (vec![], common("alice")));
        assert_eq!(
            of(vec![dns("a.example"), mail(), dns("b.example")], &["alice"]),
            (vec!["a.example".into(), "b.example".into()], None)
        );
        assert_eq!(of(vec![mail()], &["alice"]), (vec![], None));
        assert_eq!(of(vec![], &[]), (vec![], None));
        assert_eq!(of(vec![], &["alice", "root"]), (vec![], None), "which of the two is meant?");
    }
}

//! Who vouches for an edition of the policy? Its authority, by a seal: made with the broker's own key, checked against the cluster's CA.
//!
//! The signature covers every other field of the seal, and by its hash the text. A seal outlives the certificate that it was made
//! with: the certificate must have been valid when the seal says that it was made.

use crate::broker::access::{Policy, PolicyError};
use crate::config::Tls;
use crate::links::certificate_name;
use data_encoding::{BASE64, HEXLOWER};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::{BrokerName, shown};
use muster_protocol::policy::{Generation, LINEAGE_MOST, Made, Seal, Stamp, Took};
use muster_protocol::tls::{self, Identity, TlsError};
use pem::{EncodeConfig, LineEnding, Pem};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

/// What is signed begins as what TLS 1.3 has its keys sign (RFC 8446, 4.4.3): 64 spaces, which no peer can make an older handshake
/// sign, then what it is for, then a zero byte. So no signature of a seal is one of a handshake, or the other way round.
const PREAMBLE: [u8; 64] = [b' '; 64];
const CONTEXT: &[u8] = b"muster policy seal 1\0";

/// Bytes of PEM, and certificates in it, that a seal may bring along.
const CHAIN_BYTES: usize = 64 * 1024;
const CHAIN_MOST: usize = 8;

/// How seals are signed, the best first; each key can do one of them.
const SCHEMES: [SignatureScheme; 7] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Why an edition is not the authority's, or cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Of another cluster.
    #[error("it is of the cluster {}, and this is {expected}", shown(.found))]
    Cluster {
        /// Which one it names.
        found: String,
        /// Which one this is.
        expected: String,
    },
    /// Larger than any that a broker makes.
    #[error("its seal has {0}")]
    TooLarge(&'static str),
    /// The certificate in it cannot be read.
    #[error("the certificate in its seal cannot be read: {0}")]
    Certificate(String),
    /// The certificate is somebody else's.
    #[error("the certificate in its seal is for {found}, and not for {expected}")]
    Identity {
        /// Whose it is.
        found: String,
        /// Whose it must be.
        expected: String,
    },
    /// The certificate is not a broker's.
    #[error("the certificate in its seal is not a broker's: it must be for server and client authentication")]
    Usage,
    /// No CA of this broker vouches for the certificate.
    #[error("the certificate in its seal is not good: {0}")]
    Chain(String),
    /// Something in the seal is other than what was signed.
    #[error("its signature is not that of the certificate in its seal: the seal was changed, or is forged")]
    Signature,
    /// The text is other than what was sealed.
    #[error("its text is not the one that was sealed: it was changed, or is of another edition")]
    Text,
    /// The text is no policy to this version.
    #[error("its text is not taken as a policy: {0}")]
    Policy(#[from] PolicyError),
    /// It says that somebody else makes the editions.
    #[error("{sealed} has sealed it, and its text says authority = \"{named}\"")]
    Authority {
        /// Who made it.
        sealed: BrokerName,
        /// Whom it names.
        named: BrokerName,
    },
    /// Whoever sealed it is no broker of the cluster.
    #[error("{0} has sealed it, and is not in its list of brokers")]
    NotListed(BrokerName),
    /// This broker's key cannot sign.
    #[error("this broker's key cannot sign it: {0}")]
    Key(String),
}

impl SealError {
    /// As it is answered; `about` says what was refused.
    pub fn refusal(&self, about: &str) -> Refusal {
        let code = match self {
            SealError::Cluster { .. } => Code::WrongCluster,
            SealError::TooLarge(_) => Code::TooLarge,
            SealError::Policy(_) | SealError::Text | SealError::Authority { .. } => Code::BadBody,
            SealError::Key(_) => Code::Internal,
            SealError::NotListed(_) => Code::UnknownBroker,
            SealError::Certificate(_)
            | SealError::Identity { .. }
            | SealError::Usage
            | SealError::Chain(_)
            | SealError::Signature => Code::WrongIdentity,
        };
        Refusal::new(code, format!("{about}: {self}"))
    }
}

/// What a broker makes seals with, and checks those of others.
pub struct Notary {
    me: BrokerName,
    cluster: String,
    key: Arc<dyn SigningKey>,
    /// The broker's own, PEM.
    chain: String,
    ca: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The key says nothing of itself.
impl fmt::Debug for Notary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notary({} of {})", self.me, self.cluster)
    }
}

impl Notary {
    /// With the files that the broker's links use too.
    pub fn load(me: BrokerName, cluster: &str, files: &Tls) -> Result<Notary, TlsError> {
        let own = tls::certified_key(&files.certificate, &files.key)?;
        Ok(Notary::of(me, cluster, own, tls::roots(&files.ca)?))
    }

    /// With this key and chain; others' chains must lead to one of these CAs.
    pub(super) fn of(me: BrokerName, cluster: &str, own: CertifiedKey, ca: RootCertStore) -> Notary {
        // Never the text of the file: somebody may keep the key in it too.
        let sections: Vec<Pem> =
            own.cert.iter().map(|certificate| Pem::new("CERTIFICATE", certificate.as_ref())).collect();
        Notary {
            me,
            cluster: cluster.to_owned(),
            key: own.key,
            chain: pem::encode_many_config(&sections, EncodeConfig::new().set_line_ending(LineEnding::LF)),
            ca: ca.roots,
            algorithms: tls::provider().signature_verification_algorithms,
        }
    }

    /// Whose it is.
    pub fn me(&self) -> &BrokerName {
        &self.me
    }

    /// Seals a text, of which `policy` is what it says. What nobody would accept is not sealed.
    pub fn seal(
        &self,
        text: &str,
        policy: &Policy,
        generation: Generation,
        made: Made,
        lineage: Vec<Took>,
    ) -> Result<Seal, SealError> {
        let stamp = stamp(generation, self.me.clone(), text.as_bytes());
        let (cluster, certificate) = (self.cluster.clone(), self.chain.clone());
        let mut seal = Seal { cluster, stamp, made, lineage, certificate, signature: String::new() };
        let signer = self.key.choose_scheme(&SCHEMES);
        let signer = signer.ok_or_else(|| SealError::Key("its kind is not supported; use ECDSA P-256".into()))?;
        let signature = signer.sign(&signed(&seal)?).map_err(|error| SealError::Key(error.to_string()))?;
        seal.signature = BASE64.encode(&signature);
        self.verify_seal(&seal)?;
        self.check_authority(&seal, policy)?;
        Ok(seal)
    }

    /// Whether an edition is what its authority has sealed, and what it says.
    pub fn verify(&self, seal: &Seal, text: &[u8]) -> Result<(Arc<str>, Arc<Policy>), SealError> {
        self.verify_seal(seal)?;
        if stamp(seal.stamp.generation, seal.stamp.authority.clone(), text) != seal.stamp {
            return Err(SealError::Text);
        }
        let text = std::str::from_utf8(text).map_err(|_| SealError::Text)?;
        let policy = Policy::parse(text)?;
        self.check_authority(seal, &policy)?;
        Ok((text.into(), Arc::new(policy)))
    }

    /// Whether a seal is that of the broker that it names; nothing is said of the text.
    pub fn verify_seal(&self, seal: &Seal) -> Result<(), SealError> {
        if seal.cluster != self.cluster {
            return Err(SealError::Cluster { found: seal.cluster.clone(), expected: self.cluster.clone() });
        }
        if seal.certificate.len() > CHAIN_BYTES {
            return Err(SealError::TooLarge("too long a certificate chain"));
        }
        if seal.lineage.len() > LINEAGE_MOST {
            return Err(SealError::TooLarge("too many terms"));
        }
        let chain = CertificateDer::pem_slice_iter(seal.certificate.as_bytes())
            .take(CHAIN_MOST + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| SealError::Certificate("it is no PEM".into()))?;
        if chain.len() > CHAIN_MOST {
            return Err(SealError::TooLarge("too long a certificate chain"));
        }
        let (first, between) = chain.split_first().ok_or_else(|| SealError::Certificate("there is none".into()))?;
        self.check_identity(first, &seal.stamp.authority)?;
        let unreadable = |error: webpki::Error| SealError::Certificate(error.to_string());
        let certificate = EndEntityCert::try_from(first).map_err(unreadable)?;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(seal.made.at));
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            certificate
                .verify_for_usage(self.algorithms.all, &self.ca, between, at, usage, None, None)
                .map_err(|error| SealError::Chain(words(&error)))?;
        }
        let signature = BASE64.decode(seal.signature.as_bytes()).map_err(|_| SealError::Signature)?;
        let message = signed(seal)?;
        let known = self.algorithms.mapping.iter().filter(|(scheme, _)| SCHEMES.contains(scheme));
        let fits = known
            .flat_map(|(_, algorithms)| algorithms.iter())
            .any(|algorithm| certificate.verify_signature(*algorithm, &message, &signature).is_ok());
        if fits { Ok(()) } else { Err(SealError::Signature) }
    }

    /// Exactly this name, as between linked brokers: a wildcard would make one key every broker.
    fn check_identity(&self, certificate: &CertificateDer<'_>, authority: &BrokerName) -> Result<(), SealError> {
        let identity = Identity::of(certificate).map_err(SealError::Certificate)?;
        let expected = certificate_name(authority.as_str(), &self.cluster);
        if !identity.names.contains(&expected) {
            let names: Vec<String> = identity.names.iter().take(4).map(|name| shown(name)).collect();
            let found = if names.is_empty() { "no name".into() } else { names.join(", ") };
            return Err(SealError::Identity { found, expected });
        }
        if identity.is_broker { Ok(()) } else { Err(SealError::Usage) }
    }

    /// Whether the text agrees: a broker that had only the text would else take another one for the authority.
    fn check_authority(&self, seal: &Seal, policy: &Policy) -> Result<(), SealError> {
        let (authority, list) = (&seal.stamp.authority, policy.brokers());
        if let Some(named) = policy.authority().filter(|named| *named != authority) {
            return Err(SealError::Authority { sealed: authority.clone(), named: named.clone() });
        }
        let is_listed = if list.is_empty() { *authority == self.me } else { list.contains_key(authority) };
        if is_listed { Ok(()) } else { Err(SealError::NotListed(authority.clone())) }
    }
}

/// The stamp of a text.
pub fn stamp(generation: Generation, authority: BrokerName, text: &[u8]) -> Stamp {
    Stamp { generation, authority, sha256: sum(text), bytes: text.len() as u64 }
}

/// SHA-256, hex.
pub fn sum(text: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(text))
}

/// The bytes that a seal's signature is over. JSON of a struct without maps has one form only.
fn signed(seal: &Seal) -> Result<Vec<u8>, SealError> {
    let bare = Seal { signature: String::new(), ..seal.clone() };
    let json = serde_json::to_vec(&bare).map_err(|error| SealError::Key(error.to_string()))?;
    Ok([&PREAMBLE, CONTEXT, &json].concat())
}

fn words(error: &webpki::Error) -> String {
    let day = |at: &UnixTime| {
        let at = i64::try_from(at.as_secs()).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        at.map_or_else(|| "?".to_owned(), |at| at.to_string())
    };
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            format!("it was valid until {}, and the edition was made at {}", day(not_after), day(time))
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            format!("it is valid from {}, and the edition was made at {}", day(not_before), day(time))
        }
        // The latter where a CA of the same name has another key.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            "no CA of this broker has issued it".to_owned()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ca::{Ca, Leaf, MADE, made, name};
    use rcgen::{
        ExtendedKeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    };

    const TEXT: &str = "[brokers.noc1]\n[brokers.dc1]\n";
    const FIRST: Generation = Generation { term: 1, number: 1 };

    fn sealed(notary: &Notary, text: &str) -> Result<Seal, SealError> {
        notary.seal(text, &Policy::parse(text).unwrap(), FIRST, made("first"), Vec::new())
    }

    #[test]
    fn a_seal_is_good_at_every_broker_of_the_cluster() {
        let ca = Ca::new();
        let seal = sealed(&ca.notary("noc1"), TEXT).unwrap();
        assert_eq!(seal.stamp, stamp(FIRST, name("noc1"), TEXT.as_bytes()));
        for broker in ["noc1", "dc1"] {
            let (text, policy) = ca.notary(broker).verify(&seal, TEXT.as_bytes()).unwrap();
            assert_eq!((&*text, policy.brokers().len()), (TEXT, 2));
        }
        let read: Seal = serde_json::from_slice(&serde_json::to_vec_pretty(&seal).unwrap()).unwrap();
        ca.notary("dc1").verify(&read, TEXT.as_bytes()).unwrap();
    }

    #[test]
    fn any_kind_of_key_that_tls_knows_will_do() {
        let ca = Ca::new();
        for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
            let seal = sealed(&ca.notary_of("noc1", &Leaf { kind, ..Leaf::of("noc1") }), TEXT).unwrap();
            ca.notary("dc1").verify(&seal, TEXT.as_bytes()).unwrap();
        }
    }

    #[test]
    fn nothing_of_a_seal_can_be_changed() {
        let ca = Ca::new();
        let (noc1, dc1) = (ca.notary("noc1"), ca.notary("dc1"));
        let took =
            |number| Took { generation: Generation { term: 1, number }, authority: name("dc1"), sha256: sum(b"") };
        let policy = Policy::parse(TEXT).unwrap();
        let seal = noc1.seal(TEXT, &policy, Generation { term: 2, number: 7 }, made("x"), vec![took(6)]).unwrap();
        type Fault = fn(&mut Seal);
        let changes: [(&str, Fault); 12] = [
            ("term", |seal| seal.stamp.generation.term = 3),
            ("number", |seal| seal.stamp.generation.number = 8),
            ("authority", |seal| seal.stamp.authority = name("dc1")),
            ("by", |seal| seal.made.by = "mallory".into()),
            ("via", |seal| seal.made.via = "dc1".into()),
            ("at", |seal| seal.made.at += 1),
            ("what", |seal| seal.made.what.clear()),
            ("reason", |seal| seal.made.reason = "no".into()),
            ("lineage", |seal| seal.lineage.clear()),
            ("took", |seal| seal.lineage[0].generation.number = 9),
            ("certificate", |seal| seal.certificate.push('\n')),
            ("signature", |seal| seal.signature.insert(0, 'A')),
        ];
        for (what, change) in changes {
            let mut other = seal.clone();
            change(&mut other);
            let error = dc1.verify(&other, TEXT.as_bytes()).unwrap_err();
            assert!(matches!(error, SealError::Signature | SealError::Identity { .. }), "{what}: {error}");
        }
        for change in [|seal: &mut Seal| seal.stamp.sha256 = sum(b"x"), |seal: &mut Seal| seal.stamp.bytes += 1] {
            let mut other = seal.clone();
            change(&mut other);
            assert!(matches!(dc1.verify_seal(&other), Err(SealError::Signature)));
        }
        let mut other = seal.clone();
        other.cluster = "elsewhere".into();
        assert!(matches!(dc1.verify_seal(&other), Err(SealError::Cluster { .. })));
        dc1.verify(&seal, TEXT.as_bytes()).unwrap();
    }

    #[test]
    fn a_forged_signature_is_none() {
        let ca = Ca::new();
        let mut seal = sealed(&ca.notary("noc1"), TEXT).unwrap();
        let other = sealed(&ca.notary("noc1"), "[brokers.noc1]\n").unwrap();
        for forged in ["", "AAAA", "no base64", &other.signature] {
            seal.signature = forged.to_owned();
            assert!(matches!(ca.notary("dc1").verify_seal(&seal), Err(SealError::Signature)), "{forged}");
        }
        // Another broker's signature over another broker's name.
        let dc1 = sealed(&ca.notary("dc1"), TEXT).unwrap();
        seal = Seal { certificate: dc1.certificate, signature: dc1.signature, ..seal };
        assert!(matches!(ca.notary("dc1").verify_seal(&seal), Err(SealError::Identity { .. })));
    }

    #[test]
    fn a_text_must_be_the_one_that_was_sealed() {
        let ca = Ca::new();
        let seal = sealed(&ca.notary("noc1"), TEXT).unwrap();
        for other in ["", "[brokers.noc1]\n", "[brokers.noc1]\n[brokers.dc2]\n", "[brokers.noc1]\n[brokers.dc1]\n "] {
            assert!(matches!(ca.notary("dc1").verify(&seal, other.as_bytes()), Err(SealError::Text)), "{other:?}");
        }
    }

    #[test]
    fn another_ca_another_cluster_and_another_name_are_not_followed() {
        let (ours, theirs) = (Ca::new(), Ca::new());
        let error = ours.notary("dc1").verify(&sealed(&theirs.notary("noc1"), TEXT).unwrap(), TEXT.as_bytes());
        assert!(matches!(error, Err(SealError::Chain(_))), "{error:?}");
        let elsewhere = ours.notary_in("elsewhere", "noc1", &Leaf { cluster: "elsewhere", ..Leaf::of("noc1") });
        let error = ours.notary("dc1").verify(&sealed(&elsewhere, TEXT).unwrap(), TEXT.as_bytes());
        assert!(matches!(error, Err(SealError::Cluster { .. })), "{error:?}");
        // Nobody seals what nobody would follow: these see it at once.
        for broker in ["dc1", "*"] {
            let error = sealed(&ours.notary_of("noc1", &Leaf::of(broker)), TEXT).unwrap_err();
            assert!(matches!(error, SealError::Identity { .. }), "{error}");
        }
        let client = Leaf { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::of("noc1") };
        assert!(matches!(sealed(&ours.notary_of("noc1", &client), TEXT), Err(SealError::Usage)));
        let error = sealed(&ours.notary("dc2"), TEXT).unwrap_err();
        assert_eq!(error.to_string(), "dc2 has sealed it, and is not in its list of brokers");
    }

    #[test]
    fn nobody_seals_or_takes_a_text_that_names_another_authority() {
        let ca = Ca::new();
        let text = format!("authority = \"dc1\"\n{TEXT}");
        let error = sealed(&ca.notary("noc1"), &text).unwrap_err();
        assert_eq!(error.to_string(), "noc1 has sealed it, and its text says authority = \"dc1\"");
        sealed(&ca.notary("dc1"), &text).unwrap();
        // A broker that does seal it, whatever ours do.
        let noc1 = ca.notary("noc1");
        let mut seal = sealed(&noc1, TEXT).unwrap();
        seal.stamp = stamp(FIRST, name("noc1"), text.as_bytes());
        seal.signature.clear();
        let signer = noc1.key.choose_scheme(&SCHEMES).unwrap();
        seal.signature = BASE64.encode(&signer.sign(&signed(&seal).unwrap()).unwrap());
        ca.notary("dc1").verify_seal(&seal).unwrap();
        let error = ca.notary("dc1").verify(&seal, text.as_bytes()).unwrap_err();
        assert!(matches!(error, SealError::Authority { .. }), "{error}");
    }

    #[test]
    fn without_a_list_of_brokers_there_is_only_this_one() {
        let ca = Ca::new();
        let seal = sealed(&ca.notary("noc1"), "").unwrap();
        ca.notary("noc1").verify(&seal, b"").unwrap();
        assert!(matches!(ca.notary("dc1").verify(&seal, b""), Err(SealError::NotListed(_))));
    }

    #[test]
    fn the_certificate_counts_as_of_when_the_seal_was_made() {
        let ca = Ca::new();
        let years = |from, until| ca.notary_of("noc1", &Leaf { years: (from, until), ..Leaf::of("noc1") });
        assert!(MADE < jiff::Timestamp::now().as_millisecond() as u64);
        // Expired since: the edition is still the authority's.
        let seal = sealed(&years(2020, 2024), TEXT).unwrap();
        ca.notary("dc1").verify(&seal, TEXT.as_bytes()).unwrap();
        let error = sealed(&years(2020, 2022), TEXT).unwrap_err().to_string();
        assert!(error.contains("valid until 2022-01-01T00:00:00Z, and the edition was made at 2023-11-14"), "{error}");
        let error = sealed(&years(2024, 2090), TEXT).unwrap_err().to_string();
        assert!(error.contains("valid from 2024-01-01T00:00:00Z, and the edition was made at 2023-11-14"), "{error}");
    }

    #[test]
    fn what_is_too_large_is_not_looked_at() {
        let ca = Ca::new();
        let seal = sealed(&ca.notary("noc1"), TEXT).unwrap();
        let took = Took { generation: FIRST, authority: name("noc1"), sha256: String::new() };
        for large in [
            Seal { certificate: " ".repeat(CHAIN_BYTES + 1), ..seal.clone() },
            Seal { certificate: seal.certificate.repeat(CHAIN_MOST + 1), ..seal.clone() },
            Seal { lineage: vec![took; LINEAGE_MOST + 1], ..seal.clone() },
        ] {
            assert!(matches!(ca.notary("dc1").verify_seal(&large), Err(SealError::TooLarge(_))));
        }
        for certificate in
            ["", "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            let seal = Seal { certificate: certificate.into(), ..seal.clone() };
            assert!(matches!(ca.notary("dc1").verify_seal(&seal), Err(SealError::Certificate(_))), "{certificate:?}");
        }
    }

    #[test]
    fn a_key_that_lies_beside_the_certificate_is_not_sent_along() {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        let files = ca.write("noc1", folder.path());
        let both = [std::fs::read(&files.key).unwrap(), std::fs::read(&files.certificate).unwrap()].concat();
        std::fs::write(&files.certificate, both).unwrap();
        let notary = Notary::load(name("noc1"), "demo", &files).unwrap();
        let seal = sealed(&notary, TEXT).unwrap();
        assert!(seal.certificate.starts_with("-----BEGIN CERTIFICATE-----\n"), "{}", seal.certificate);
        assert!(!seal.certificate.contains("PRIVATE"));
        assert_eq!(format!("{notary:?}"), "Notary(noc1 of demo)");
        ca.notary("dc1").verify(&seal, TEXT.as_bytes()).unwrap();
    }
}

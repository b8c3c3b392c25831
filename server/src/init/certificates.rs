//! Who vouches for the brokers of a new cluster? Its CA, and a certificate for each broker.

use super::brokers::Seat;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use secrecy::SecretString;

/// Years that the CA and a broker's certificate are valid.
const CA_YEARS: i16 = 10;
const BROKER_YEARS: i16 = 2;

/// A certificate and its key, both PEM.
pub(super) struct Certified {
    pub(super) certificate: String,
    pub(super) key: SecretString,
}

/// The CA, and the brokers' certificates in the order of the seats.
pub(super) fn make(cluster: &str, seats: &[Seat]) -> Result<(Certified, Vec<Certified>), rcgen::Error> {
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut ca = valid_for(CertificateParams::new(Vec::new())?, CA_YEARS);
    ca.distinguished_name.push(DnType::CommonName, format!("Muster CA of {cluster}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key_pem = ca_key.serialize_pem();
    let ca = CertifiedIssuer::self_signed(ca, ca_key)?;
    let brokers = seats.iter().map(|seat| broker(cluster, seat, &ca)).collect::<Result<_, _>>()?;
    Ok((Certified { certificate: ca.pem(), key: ca_key_pem.into() }, brokers))
}

fn broker(cluster: &str, seat: &Seat, ca: &CertifiedIssuer<'_, KeyPair>) -> Result<Certified, rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let identity = format!("{}.{cluster}.muster", seat.name);
    let mut names = vec![identity.clone()];
    names.extend(seat.hosts.iter().cloned());
    let mut broker = valid_for(CertificateParams::new(names)?, BROKER_YEARS);
    broker.distinguished_name.push(DnType::CommonName, identity);
    broker.is_ca = IsCa::ExplicitNoCa;
    broker.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Both: on a link a broker is the client too.
    broker.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    broker.use_authority_key_identifier_extension = true;
    let certificate = broker.signed_by(&key, ca)?.pem();
    Ok(Certified { certificate, key: key.serialize_pem().into() })
}

/// From yesterday, for clocks that are behind, for so many years; with a random serial number and a name to be filled in.
fn valid_for(mut params: CertificateParams, years: i16) -> CertificateParams {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = date(today.yesterday().unwrap_or(today));
    params.not_after = date(today.saturating_add(jiff::Span::new().years(years)));
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and of full length
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

//! Which brokers does a new cluster have? Their names, addresses and ports, and who dials whom.

use super::{InitError, InitOptions};
use muster_protocol::dial::{Address, DEFAULT_PORT, LINK_PORT};
use muster_protocol::message::{BrokerName, shown};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where the HTTP API is by default.
const ADMIN_PORT: u16 = 8161;
/// Between the usual ports of two brokers with one address.
const PORT_STEP: usize = 10;
/// What stands beside the brokers' folders.
const FOLDERS: [&str; 2] = ["agents", "passwords"];

/// One `--broker`: `NAME`, `NAME=HOST`, and then up to three ports, `NAME=HOST:STOMPPORT:LINKPORT:ADMINPORT`; an IPv6 address in
/// brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerOption {
    name: BrokerName,
    /// Without brackets.
    host: Option<String>,
    stomp: Option<u16>,
    link: Option<u16>,
    admin: Option<u16>,
}

/// Text that is no `--broker`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerOptionError {
    /// The name is no DNS label.
    #[error("`{0}` cannot be the name of a broker: use 1 to 63 of a-z, 0-9 and -, no - at the ends")]
    Name(String),
    /// What follows the name is not where a broker can be reached.
    #[error(
        "`{0}` is not where a broker is: write HOST, HOST:STOMPPORT, HOST:STOMPPORT:LINKPORT or HOST:STOMPPORT:LINKPORT:ADMINPORT, an IPv6 HOST in []"
    )]
    Place(String),
    /// An address to listen on, not one to be reached by.
    #[error(
        "nobody can reach a broker by `{0}`: give the host name or address that others reach it by; it listens on all interfaces then"
    )]
    Everywhere(String),
}

impl FromStr for BrokerOption {
    type Err = BrokerOptionError;

    fn from_str(text: &str) -> Result<BrokerOption, BrokerOptionError> {
        let (name, place) = text.split_once('=').map_or((text, None), |(name, place)| (name, Some(place)));
        let name = BrokerName::parse(name).map_err(|_| BrokerOptionError::Name(shown(name)))?;
        let Some(place) = place else {
            return Ok(BrokerOption { name, host: None, stomp: None, link: None, admin: None });
        };
        let wrong = || BrokerOptionError::Place(shown(place));
        // The ports follow the host, and an IPv6 address has colons of its own.
        let host_end = if place.starts_with('[') { place.find(']').ok_or_else(wrong)? } else { 0 };
        let end = place[host_end..].find(':').map_or(place.len(), |colon| host_end + colon);
        let address = Address::parse_with(&place[..end], DEFAULT_PORT).map_err(|_| wrong())?;
        if address.host().parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
            return Err(BrokerOptionError::Everywhere(shown(address.host())));
        }
        let mut ports = place[end..].split(':').skip(1).map(|port| match port.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(wrong()),
        });
        let mut next = || ports.next().transpose();
        let (stomp, link, admin) = (next()?, next()?, next()?);
        if ports.next().is_some() {
            return Err(wrong());
        }
        Ok(BrokerOption { name, host: Some(address.host().to_owned()), stomp, link, admin })
    }
}

/// Which brokers are linked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Topology {
    /// Each with each
    #[default]
    Mesh,
    /// Each with the first
    Star,
    /// Each with the one before, the last with the first too
    Ring,
    /// Each with the one before
    Line,
}

impl Topology {
    /// The places of the brokers that a broker dials: always earlier ones, so each pair has one that dials.
    fn dialled_by(self, place: usize, brokers: usize) -> Vec<usize> {
        let before = place.saturating_sub(1)..place;
        match self {
            Topology::Mesh => (0..place).collect(),
            Topology::Star => (0..place.min(1)).collect(),
            Topology::Line => before.collect(),
            // Of two brokers, and in the second place, the ring is closed already.
            Topology::Ring if place + 1 == brokers && place > 1 => [0].into_iter().chain(before).collect(),
            Topology::Ring => before.collect(),
        }
    }
}

/// One broker to be made.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    /// Below the cluster's directory; empty where the broker has it for itself.
    pub(super) folder: PathBuf,
    pub(super) name: String,
    /// Hosts for its certificate.
    pub(super) hosts: Vec<String>,
    /// Where clients reach it.
    pub(super) stomp: Address,
    pub(super) stomp_listen: SocketAddr,
    /// Where brokers reach it, and where it listens for them; `None` for a broker alone.
    pub(super) link: Option<(Address, SocketAddr)>,
    /// Where it listens for the HTTP API: on its own machine only.
    pub(super) admin: SocketAddr,
    /// Whom it dials.
    pub(super) dials: Vec<String>,
}

/// All brokers to be made: one alone, or those of `--broker`.
pub(super) fn seats(options: &InitOptions) -> Result<Vec<Seat>, InitError> {
    if options.brokers.is_empty() {
        return alone(options).map(|seat| vec![seat]);
    }
    check_names(&options.brokers)?;
    let mut ports = Ports::of(&options.brokers)?;
    let names = options.brokers.iter().map(|broker| broker.name.to_string()).collect::<Vec<_>>();
    let mut seats = Vec::new();
    for (place, broker) in options.brokers.iter().enumerate() {
        let host = broker.host();
        let stomp = broker.stomp.map_or_else(|| ports.free(broker, DEFAULT_PORT), Ok)?;
        let link = broker.link.map_or_else(|| ports.free(broker, LINK_PORT), Ok)?;
        let admin = broker.admin.map_or_else(|| ports.free(broker, ADMIN_PORT), Ok)?;
        let interface = interface(host);
        seats.push(Seat {
            folder: PathBuf::from(broker.name.as_str()),
            name: broker.name.to_string(),
            hosts: hosts(host),
            stomp: dialled(host, stomp)?,
            stomp_listen: SocketAddr::new(interface, stomp),
            link: Some((dialled(host, link)?, SocketAddr::new(interface, link))),
            admin: SocketAddr::new(own_machine(interface), admin),
            dials: options
                .topology
                .dialled_by(place, names.len())
                .into_iter()
                .map(|place| names[place].clone())
                .collect(),
        });
    }
    Ok(seats)
}

/// An address as others dial it.
pub(super) fn dialled(host: &str, port: u16) -> Result<Address, InitError> {
    let wrong = || InitError::Address(host.to_owned());
    let text = match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) if host.contains(':') => return Err(wrong()),
        Err(_) => format!("{host}:{port}"),
    };
    text.parse().map_err(|_| wrong())
}

fn alone(options: &InitOptions) -> Result<Seat, InitError> {
    if BrokerName::parse(&options.name).is_err() {
        return Err(InitError::Name { option: "name", text: options.name.clone() });
    }
    let first = options.addresses.first().ok_or_else(|| InitError::Address(String::new()))?;
    options.addresses.iter().try_for_each(|host| dialled(host, DEFAULT_PORT).map(|_| ()))?;
    Ok(Seat {
        folder: PathBuf::new(),
        name: options.name.clone(),
        hosts: options.addresses.clone(),
        // One broker: its first address is enough, a second one would only be tried in vain.
        stomp: dialled(first, options.listen.port().max(1))?,
        stomp_listen: options.listen,
        link: None,
        admin: options.admin,
        dials: Vec::new(),
    })
}

fn check_names(brokers: &[BrokerOption]) -> Result<(), InitError> {
    let mut names = BTreeSet::new();
    for BrokerOption { name, .. } in brokers {
        if FOLDERS.contains(&name.as_str()) {
            return Err(InitError::Folder(name.clone()));
        }
        if !names.insert(name) {
            return Err(InitError::Twice(name.clone()));
        }
    }
    Ok(())
}

impl BrokerOption {
    fn host(&self) -> &str {
        self.host.as_deref().unwrap_or("127.0.0.1")
    }

    /// What two brokers of one machine have in common.
    fn machine(&self) -> &str {
        if self.host() == "localhost" { "127.0.0.1" } else { self.host() }
    }
}

/// The ports that are taken, by host.
struct Ports<'b> {
    taken: BTreeSet<(&'b str, u16)>,
}

impl<'b> Ports<'b> {
    /// Those that were asked for: they are nobody else's.
    fn of(brokers: &'b [BrokerOption]) -> Result<Ports<'b>, InitError> {
        let mut taken = BTreeSet::new();
        for broker in brokers {
            for port in [broker.stomp, broker.link, broker.admin].into_iter().flatten() {
                if !taken.insert((broker.machine(), port)) {
                    return Err(InitError::Port { broker: broker.name.clone(), port });
                }
            }
        }
        Ok(Ports { taken })
    }

    /// The usual port, or one some steps above it.
    fn free(&mut self, broker: &'b BrokerOption, usual: u16) -> Result<u16, InitError> {
        let free = (usual..=u16::MAX).step_by(PORT_STEP).find(|port| self.taken.insert((broker.machine(), *port)));
        free.ok_or_else(|| InitError::NoPort(broker.name.clone()))
    }
}

/// For the certificate: whoever dials a loopback address may write either.
fn hosts(host: &str) -> Vec<String> {
    match host {
        "127.0.0.1" | "localhost" => vec!["127.0.0.1".into(), "localhost".into()],
        host => vec![host.to_owned()],
    }
}

/// Where a broker listens that others reach by this host: a loopback address is for this machine alone; what else its
/// machine calls itself is not known here.
fn interface(host: &str) -> IpAddr {
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => address,
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Ok(IpAddr::V4(_)) | Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Where a broker that listens there is reached from its own machine alone.
fn own_machine(interface: IpAddr) -> IpAddr {
    if interface.is_loopback() { interface } else { Ipv4Addr::LOCALHOST.into() }
}

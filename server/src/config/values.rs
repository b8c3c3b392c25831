//! What does one value of a configuration mean? Names, sizes, times, counts, addresses and patterns, each with its bounds.

use super::{KIB, MIB};
use ipnet::IpNet;
use muster_protocol::destination::{Kind, Pattern};
use muster_protocol::dial::{Address, LINK_PORT};
use muster_protocol::link::MAX_COST;
use muster_protocol::message::{BrokerName, shown};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::net::IpAddr;
use std::time::Duration;

pub(super) fn dns_label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if BrokerName::parse(&text).is_ok() {
        return Ok(text);
    }
    Err(D::Error::custom("the name is no DNS label: 1 to 63 of a-z, 0-9 and -, no - at the ends"))
}

pub(super) fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let words = text.split(',').all(|directive| {
        let level = directive.rsplit('=').next().unwrap_or_default();
        ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
    });
    if words && tracing_subscriber::EnvFilter::try_new(&text).is_ok() {
        return Ok(text);
    }
    Err(D::Error::custom("the level is none of off, error, warn, info, debug, trace (or PART=LEVEL, comma-separated)"))
}

fn within<E: serde::de::Error>(value: u64, low: u64, high: u64, show: impl Fn(u64) -> String) -> Result<u64, E> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(E::custom(format!("{} is out of range: {} to {} are possible", show(value), show(low), show(high))))
}

pub(super) fn count<'de, D: Deserializer<'de>, const LOW: u64, const HIGH: u64>(
    deserializer: D,
) -> Result<usize, D::Error> {
    let value = within::<D::Error>(u64::deserialize(deserializer)?, LOW, HIGH, |value| value.to_string())?;
    usize::try_from(value).map_err(D::Error::custom)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of bytes, or a text such as \"1MiB\" or \"16KiB\"")]
enum Size {
    Bytes(u64),
    Text(String),
}

pub(super) fn size<'de, D: Deserializer<'de>, const LOW: u64, const HIGH: u64>(
    deserializer: D,
) -> Result<usize, D::Error> {
    let bytes = match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => bytes,
        Size::Text(text) => bytes(&text)
            .ok_or_else(|| D::Error::custom("the size is not a number of bytes, KiB, MiB or GiB, such as \"1MiB\""))?,
    };
    let value = within::<D::Error>(bytes, LOW, HIGH, |value| match value {
        value if value % MIB == 0 && value > 0 => format!("{}MiB", value / MIB),
        value if value % KIB == 0 && value > 0 => format!("{}KiB", value / KIB),
        value => format!("{value} bytes"),
    })?;
    usize::try_from(value).map_err(D::Error::custom)
}

pub(super) fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", KIB), ("MiB", MIB), ("GiB", 1024 * MIB), ("", 1)];
    let (number, unit) = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(*unit)
}

/// Bounds in milliseconds.
pub(super) fn duration<'de, D: Deserializer<'de>, const LOW: u64, const HIGH: u64>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom("the time is not a number with its unit, such as \"5s\", \"250ms\" or \"1h\""))?;
    let (low, high) = (Duration::from_millis(LOW), Duration::from_millis(HIGH));
    if (low..=high).contains(&duration) {
        return Ok(duration);
    }
    let show = humantime::format_duration;
    Err(D::Error::custom(format!("{} is out of range: {} to {} are possible", show(duration), show(low), show(high))))
}

/// Where a broker listens for links.
pub(super) fn link_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Address>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Address::parse_with(&text, LINK_PORT).map(Some).map_err(D::Error::custom)
}

pub(super) fn cost<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let most = u64::from(MAX_COST);
    let cost = within::<D::Error>(u64::deserialize(deserializer)?, 1, most, |cost| cost.to_string())?;
    u32::try_from(cost).map_err(D::Error::custom)
}

/// Destination patterns, as they stand there.
pub(super) fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    for text in &texts {
        let wrong = |cause: String| D::Error::custom(format!("`{}` is no destination pattern: {cause}", shown(text)));
        let pattern = Pattern::parse(text).map_err(|error| wrong(error.to_string()))?;
        if matches!(pattern.kind(), Kind::TempQueue | Kind::RemoteTempQueue) {
            return Err(wrong("answers pass every link; only what is asked can be kept from one".into()));
        }
    }
    Ok(Some(texts))
}

/// Networks, or single addresses.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let wrong = |text: &str| {
        let text = shown(text);
        D::Error::custom(format!("`{text}` is no network: write ADDRESS or ADDRESS/BITS, such as 192.0.2.0/24"))
    };
    let parse =
        |text: &String| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| wrong(text));
    Vec::<String>::deserialize(deserializer)?.iter().map(parse).collect()
}

/// This machine.
pub(super) fn loopback() -> Vec<IpNet> {
    let networks = [("127.0.0.0", 8), ("::1", 128)];
    networks.iter().filter_map(|(at, bits)| IpNet::new(at.parse().ok()?, *bits).ok()).collect()
}

/// Origins as a browser writes them: scheme and host in lowercase, a port only if it is not the scheme's own.
pub(super) fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    for text in &texts {
        let host = text.strip_prefix("https://").map(|host| (host, ":443"));
        let host = host.or_else(|| text.strip_prefix("http://").map(|host| (host, ":80")));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._:[]".contains(c);
        if !host.is_some_and(|(host, own)| !host.is_empty() && host.chars().all(is_plain) && !host.ends_with(own)) {
            let text = shown(text);
            return Err(D::Error::custom(format!(
                "`{text}` is no origin: write it as browsers do, such as \"https://noc.example.net\" or \"https://noc.example.net:8443\""
            )));
        }
    }
    Ok(texts)
}

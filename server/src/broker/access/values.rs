//! What does one value of a policy mean? Names, hashes, dates, networks, patterns and scopes, each with its own errors.

use super::OBSERVED;
use super::user::{Kind, PasswordHash};
use ipnet::IpNet;
use muster_protocol::destination::{Kind as DestinationKind, Pattern};
use muster_protocol::dial::Address;
use muster_protocol::facts::{Path, PathPattern};
use muster_protocol::filter::{Filter, Predicate};
use muster_protocol::message::BrokerName;
use muster_protocol::passwd::check_hash;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Longest name of a user, group or collective.
const MAX_NAME: usize = 128;
/// Longest name in a client certificate, bytes: that of a DNS name.
const MAX_CERTIFICATE_NAME: usize = 253;
/// Names that one is compared with, to find out which was meant.
const MAX_COMPARED: usize = 1_000;
/// The cure of whatever is wrong with a password.
const NEW_HASH: &str = "run `musterd passwd` and paste what it prints";

/// A mistake on its way to a `PolicyError`, without a place yet.
pub(super) struct Fault {
    pub(super) cause: String,
    pub(super) cure: String,
}

pub(super) fn fault(cause: impl Into<String>, cure: impl Into<String>) -> Fault {
    Fault { cause: cause.into(), cure: cure.into() }
}

/// A text for an error: one line of it, not too much.
pub(crate) fn shorten(text: &str) -> String {
    let shown: String = text.chars().take(MAX_NAME).map(|c| if c.is_control() { '?' } else { c }).collect();
    if shown.len() < text.len() { shown + "…" } else { shown }
}

/// The name that somebody meant who wrote this one, if there is one nearly like it. Of very many, only some are compared.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (length, lower) = (wanted.len(), wanted.to_lowercase());
    let most = (length / 3).clamp(1, 3);
    let alike = names.filter(|name| name.len().abs_diff(length) <= most && length <= MAX_NAME).take(MAX_COMPARED);
    let far = |name: &str| strsim::osa_distance(&lower, &name.to_lowercase());
    let near = alike.map(|name| (far(name), name)).filter(|(far, _)| *far <= most);
    near.min_by_key(|(far, _)| *far).map(|(_, name)| name)
}

/// Whether something new may have this name; what is wrong with it, and what to do.
pub(crate) fn check_name(what: &str, text: &str) -> Result<(), String> {
    name(what, text).map_err(|Fault { cause, cure }| format!("{cause}; {cure}"))
}

/// The name of a user, group, collective or broker.
pub(super) fn name(what: &str, name: &str) -> Result<(), Fault> {
    if what == "broker" {
        return broker(name).map(|_| ());
    }
    // It is one segment of a destination.
    if what == "collective" && name.contains('.') {
        let cause = format!("the collective `{}` has a dot", shorten(name));
        return Err(fault(cause, "use one segment, such as \"prod\""));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    let cause = format!("`{}` cannot be the name of a {what}", shorten(name));
    Err(fault(cause, format!("use 1 to {MAX_NAME} of the characters A-Z a-z 0-9 . _ @ -")))
}

/// A broker's name is part of its certificate's.
pub(super) fn broker(text: &str) -> Result<BrokerName, Fault> {
    BrokerName::parse(text).map_err(|_| {
        let cause = format!("`{}` cannot be the name of a broker", shorten(text));
        fault(cause, "use a DNS label: 1 to 63 of a-z, 0-9 and -, no - at the ends")
    })
}

pub(super) fn address(text: &str, default_port: u16) -> Result<Address, Fault> {
    Address::parse_with(text, default_port).map_err(|_| {
        let cause = format!("`{}` is no address of a broker", shorten(text));
        fault(cause, format!("write HOST, HOST:PORT or [IPV6]:PORT; the port is {default_port} unless given"))
    })
}

pub(super) fn kind(text: &str) -> Result<Kind, Fault> {
    [Kind::Agent, Kind::Operator, Kind::Service]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| fault(format!("`{}` is no kind of user", shorten(text)), "use agent, operator or service"))
}

/// An argon2id PHC string with sane parameters. No error quotes it: it could be a password in the clear.
pub(super) fn password(value: &toml::Value) -> Result<PasswordHash, Fault> {
    let wrong = |cause: &str| fault(cause, NEW_HASH);
    let text = value.as_str().ok_or_else(|| wrong("the password is not a text in quotes"))?;
    check_hash(text).map_err(|cause| wrong(&cause))?;
    Ok(PasswordHash::new(text))
}

/// A TOML date (00:00 UTC of that day) or date and time with offset, as Unix seconds.
pub(super) fn moment(text: &str) -> Result<u64, Fault> {
    let with_time = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.replacen(' ', "T", 1),
    };
    let cure = "write a day (2027-01-31) or a time with its offset (2027-01-31T18:00:00Z)";
    let moment: jiff::Timestamp =
        with_time.parse().map_err(|_| fault(format!("`{}` is no moment in time", shorten(text)), cure))?;
    u64::try_from(moment.as_second()).map_err(|_| fault("the date is before 1970", cure))
}

/// As [`moment`], of a TOML date or of a text.
pub(super) fn date(value: &toml::Value) -> Result<u64, Fault> {
    match value {
        toml::Value::Datetime(date) => moment(&date.to_string()),
        toml::Value::String(text) => moment(text),
        other => moment(&other.to_string()),
    }
}

/// A network in CIDR form, or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, Fault> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| {
        fault(format!("`{}` is no network", shorten(text)), "write 192.0.2.0/24, 2001:db8::/32 or one address")
    })?;
    if network.trunc() != network {
        let cause = format!("`{network}` has bits behind its prefix");
        return Err(fault(
            cause,
            format!("write {}, or /{} for one address", network.trunc(), network.max_prefix_len()),
        ));
    }
    Ok(network)
}

/// The name that a client certificate must bear: a DNS name, or a common name.
pub(super) fn certificate(text: &str) -> Result<String, Fault> {
    let wrong = |why: &str, cure: &str| Err(fault(format!("`{}` {why}", shorten(text)), cure.to_owned()));
    if text.contains('*') {
        return wrong("has a wildcard", "write the one name that the user's certificate is for");
    }
    if text.is_empty() || text.len() > MAX_CERTIFICATE_NAME || text.chars().any(char::is_control) || text.trim() != text
    {
        let cure = format!(
            "use 1 to {MAX_CERTIFICATE_NAME} bytes without control characters or spaces around them, such as \"alice.example.net\""
        );
        return wrong("cannot be the name in a certificate", &cure);
    }
    Ok(text.to_owned())
}

pub(super) fn path(text: &str) -> Result<Path, Fault> {
    Path::parse(text).map_err(|error| {
        fault(
            format!("`{}` is no fact path: {error}", shorten(text)),
            "write segments joined by dots, such as os.family",
        )
    })
}

pub(super) fn path_pattern(text: &str) -> Result<PathPattern, Fault> {
    PathPattern::parse(text).map_err(|error| {
        fault(
            format!("`{}` is no pattern of fact paths: {error}", shorten(text)),
            "write such as hostname, ipaddress* or dmi.**",
        )
    })
}

/// A top-level fact that only the policy sets. Whole trees only: below a top-level fact a node's own report could put lists
/// and objects beside what the policy asserts.
pub(super) fn asserted_name(text: &str) -> Result<String, Fault> {
    if text == OBSERVED {
        let cause = format!("`{OBSERVED}` is what the broker observes and cannot be asserted");
        return Err(fault(cause, "remove it from `asserted`; scopes may use it as it is"));
    }
    let path = path(text)?;
    let first = path.segments().next().unwrap_or_default().to_owned();
    if path.parent().is_some() {
        let cause = format!("`asserted` takes top-level facts, `{}` is below one", shorten(text));
        return Err(fault(cause, format!("write \"{first}\", which the policy then sets as a whole")));
    }
    Ok(first)
}

/// The places in the hidden list that a member of `shows` names: one, or with `**` all.
pub(super) fn shown(text: &str, hidden: &[PathPattern]) -> Result<Vec<usize>, Fault> {
    if text == "**" {
        return Ok((0..hidden.len()).collect());
    }
    let wanted = path_pattern(text)?;
    let places: Vec<usize> = (0..hidden.len()).filter(|&place| hidden[place] == wanted).collect();
    if places.is_empty() {
        let list = hidden.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let cause = format!("`{}` is not a member of the hidden list", shorten(text));
        return Err(fault(cause, format!("repeat one as it stands there ({list}), or write \"**\" for all")));
    }
    Ok(places)
}

pub(super) fn entry_pattern(text: &str) -> Result<Pattern, Fault> {
    let form = "write such as /topic/prod.*.status or /muster/find";
    let pattern = Pattern::parse(text)
        .map_err(|error| fault(format!("`{}` is no destination pattern: {error}", shorten(text)), form))?;
    match pattern.kind() {
        DestinationKind::TempQueue | DestinationKind::RemoteTempQueue => Err(fault(
            "reply queues are private to their connections and not the policy's business",
            "remove the entry: requests are answered without one",
        )),
        DestinationKind::Topic | DestinationKind::Queue | DestinationKind::Muster => Ok(pattern),
    }
}

/// A scope: a filter that no node can talk itself into. It asks only about facts that the policy asserts and the broker
/// observes, unless the policy trusts what nodes report.
pub(super) fn scope(text: &str, asserted: &BTreeSet<String>, trust_reported: bool) -> Result<Filter, Fault> {
    let filter = Filter::parse(text).map_err(|error| {
        let cause = format!("the scope is no filter: column {} of it: {}", error.column, error.message);
        fault(cause, error.hint.unwrap_or_else(|| "docs/filters.md has the language".into()))
    })?;
    if trust_reported {
        return Ok(filter);
    }
    for predicate in filter.predicates() {
        let untrusted = match predicate.path() {
            Some(path) => {
                let top = path.segments().next().unwrap_or_default();
                (top != OBSERVED && !asserted.contains(top)).then(|| (format!("the fact `{path}`"), top.to_owned()))
            }
            None => Some(("classes".to_owned(), String::new())),
        };
        if let Some((what, top)) = untrusted {
            let cause = format!("the scope uses {what}, which a node reports itself and could forge");
            let cure = match predicate {
                Predicate::Class { .. } | Predicate::ClassMatch { .. } => {
                    "use an asserted fact instead, or set `trust-reported = true` for the whole policy".to_owned()
                }
                _ => format!(
                    "add \"{top}\" to `asserted` and to the facts of the agent users, or set `trust-reported = true`"
                ),
            };
            return Err(fault(cause, cure));
        }
    }
    Ok(filter)
}

/// A TOML value as a fact.
pub(super) fn json(value: &toml::Value) -> Result<Value, Fault> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Boolean(yes) => Value::Bool(*yes),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| fault("a fact is a number without a value", "write a finite number"))?,
        toml::Value::Datetime(_) => {
            return Err(fault("a fact is a date, which facts do not have", "write it as a text in quotes"));
        }
        toml::Value::Array(elements) => Value::Array(elements.iter().map(json).collect::<Result<_, _>>()?),
        toml::Value::Table(members) => {
            let members = members.iter().map(|(name, value)| Ok((name.clone(), json(value)?)));
            Value::Object(members.collect::<Result<Map<_, _>, Fault>>()?)
        }
    })
}

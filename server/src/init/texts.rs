//! What stands in the files of a new cluster? Policy, and configurations of brokers, agents and an operator.

use super::InitError;
use super::brokers::Seat;
use crate::passwd;
use data_encoding::BASE64URL_NOPAD;
use muster_protocol::dial::Address;
use secrecy::SecretString;
use std::fmt::Write as _;

/// The policy of a new cluster: `{password NAME}` stands for the hash of a new password, `{authority}` for the first broker.
const POLICY: &str = include_str!("policy.toml");

/// The policy with the hashes of new passwords, and these by user.
pub(super) fn policy(seats: &[Seat]) -> Result<(String, Vec<(String, SecretString)>), InitError> {
    const MARK: &str = "{password ";
    let (mut text, mut rest, mut passwords) = (String::new(), POLICY, Vec::new());
    while let Some((before, user, after)) =
        rest.split_once(MARK).and_then(|(before, rest)| rest.split_once('}').map(|(user, after)| (before, user, after)))
    {
        let random: [u8; 24] = rand::random();
        let password = SecretString::from(BASE64URL_NOPAD.encode(&random));
        text.push_str(before);
        text.push_str(&passwd::hash(&password)?);
        passwords.push((user.to_owned(), password));
        rest = after;
    }
    text.push_str(rest);
    text.push_str(&broker_list(seats));
    let authority = seats.first().map(|seat| seat.name.as_str()).unwrap_or_default();
    Ok((text.replace("{authority}", authority), passwords))
}

/// The brokers that listen for links, as the policy names them.
fn broker_list(seats: &[Seat]) -> String {
    let mut text = String::new();
    for seat in seats {
        let Some((link, _)) = &seat.link else { continue };
        if text.is_empty() {
            text.push_str("\n# ---- the brokers of the cluster: no other one can be linked ----\n");
        }
        let _ = write!(text, "\n[brokers.{}]\nlink = \"{link}\"\nstomp = [\"{}\"]\n", seat.name, seat.stomp);
    }
    text
}

pub(super) fn musterd_toml(cluster: &str, seat: &Seat) -> String {
    let Seat { name, stomp_listen, link, admin, dials, .. } = seat;
    let links = link.as_ref().map(|(_, listen)| format!("links = [\"{listen}\"]\n")).unwrap_or_default();
    let mut text = format!(
        "# Made by `musterd init`. Whatever is not here has its default; conf/musterd.toml shows all settings.\n\
         # Relative paths are taken from the directory of this file.\n\
         policy = \"policy.toml\"\n\
         cluster-key = \"cluster.key\"\n\n\
         [broker]\nname = \"{name}\"\ncluster = \"{cluster}\"\nstate-dir = \"state\"\n\n\
         [listen]\nstomp = [\"{stomp_listen}\"]\n{links}\
         # The HTTP API, for this machine alone; \"0.0.0.0:8161\" would be for others too (docs/api.md).\n\
         admin = [\"{admin}\"]\n\n\
         [tls]\ncertificate = \"broker.pem\"\nkey = \"broker.key\"\nca = \"ca.pem\"\n"
    );
    if !dials.is_empty() {
        text.push_str(
            "\n# Links that this broker dials; the policy says where. Other brokers dial this one and need no entry.\n",
        );
    }
    for to in dials {
        let _ = write!(text, "[[link]]\nto = \"{to}\"\n");
    }
    text
}

/// The configuration of an agent in this data center, if it has one.
pub(super) fn agent_toml(seats: &[Seat], user: &str, datacenter: Option<&str>) -> String {
    // The first broker is the NOC's; those of the data centers follow.
    let near = match datacenter {
        Some("a") if seats.len() > 1 => 1,
        Some("b") if seats.len() > 2 => 2,
        _ => 0,
    };
    let others = seats.iter().enumerate().filter(|(place, _)| *place != near).map(|(_, seat)| seat);
    let brokers = brokers(seats.get(near).into_iter().chain(others).map(|seat| &seat.stomp));
    // With several brokers the first one is near: what happens in a data center stays there.
    let order = if seats.len() > 1 { "broker-order = \"listed\"\n" } else { "" };
    format!(
        "# An agent that logs in as {user}. Relative paths are taken from the directory of this file.\n\
         {brokers}\n{order}user = \"{user}\"\npassword-file = \"../passwords/{user}\"\nca = \"../ca.pem\"\n\
         state-dir = \"state/{user}\"\n"
    )
}

pub(super) fn operator_toml(seats: &[Seat]) -> String {
    let brokers = brokers(seats.iter().map(|seat| &seat.stomp));
    format!(
        "# An operator: alice is in group noc. For bob, who is in noc-acme, and admin change the two lines about the user.\n\
         {brokers}\nuser = \"alice\"\npassword-file = \"passwords/alice\"\nca = \"ca.pem\"\ncollective = \"prod\"\n",
    )
}

fn brokers<'a>(addresses: impl Iterator<Item = &'a Address>) -> String {
    let addresses: Vec<String> = addresses.map(|address| format!("\"{address}\"")).collect();
    format!("brokers = [{}]", addresses.join(", "))
}

//! Which names and addresses does it have? Under the names that the policy hides unless it says otherwise.

use super::{Members, members_of};
use serde_json::{Value, json};
use std::net::IpAddr;
use sysinfo::Networks;

/// Interfaces that containers and virtual machines come and go with.
const PASSING: &[&str] = &["veth", "cali", "tap", "vnet", "lxc", "cni"];

pub(super) fn collect() -> Result<Members, String> {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (hostname, domain) = names(
        &node,
        &std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    );
    let fqdn = domain.as_ref().map_or_else(|| hostname.clone(), |domain| format!("{hostname}.{domain}"));
    let mut interfaces = Members::new();
    let networks = Networks::new_with_refreshed_list();
    let mut sorted: Vec<_> =
        networks.list().iter().filter(|(name, _)| !PASSING.iter().any(|p| name.starts_with(p))).collect();
    sorted.sort_by_key(|(name, _)| name.as_str());
    for (name, data) in sorted.into_iter().take(64) {
        let mut addresses: Vec<(IpAddr, u8)> = data.ip_networks().iter().map(|n| (n.addr, n.prefix)).collect();
        addresses.sort();
        let first = |v6: bool| {
            let fits = |address: &&(IpAddr, u8)| address.0.is_ipv6() == v6 && !is_link_local(&address.0);
            addresses.iter().find(fits).map(|(address, _)| address.to_string())
        };
        let all: Vec<String> = addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
        let mac = data.mac_address();
        interfaces.insert(
            name.clone(),
            json!({ "ip": first(false), "ip6": first(true), "addresses": all, "mtu": data.mtu(),
                "mac": (!mac.is_unspecified()).then(|| mac.to_string()) }),
        );
    }
    let primary = default_interface(&std::fs::read_to_string("/proc/net/route").unwrap_or_default());
    let of_primary =
        |field: &str| primary.as_ref().and_then(|name| interfaces.get(name)).map_or(Value::Null, |i| i[field].clone());
    Ok(members_of(json!({
        "hostname": hostname,
        "domain": domain,
        "fqdn": fqdn,
        "networking": {
            "hostname": hostname, "domain": domain, "fqdn": fqdn, "primary": primary,
            "ip": of_primary("ip"), "ip6": of_primary("ip6"), "mac": of_primary("mac"), "mtu": of_primary("mtu"),
            "interfaces": interfaces,
        },
    })))
}

/// Host name and domain: from the node name, else /etc/hosts, else the resolver's search list. No DNS: a name server that hangs
/// must not hold up facts.
fn names(node: &str, hosts: &str, resolv: &str) -> (String, Option<String>) {
    if let Some((host, domain)) = node.split_once('.') {
        return (host.to_owned(), Some(domain.to_owned()));
    }
    let in_hosts = hosts.lines().find_map(|line| {
        let names: Vec<&str> = line.split('#').next()?.split_whitespace().skip(1).collect();
        names
            .contains(&node)
            .then(|| names.iter().find_map(|name| name.strip_prefix(node)?.strip_prefix('.')).map(str::to_owned))?
    });
    let searched = || {
        let word = |key: &str| {
            resolv.lines().find_map(|line| line.trim().strip_prefix(key)?.split_whitespace().next().map(str::to_owned))
        };
        word("domain ").or_else(|| word("search ")).filter(|domain| domain != ".")
    };
    (node.to_owned(), in_hosts.or_else(searched))
}

fn default_interface(routes: &str) -> Option<String> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_comes_from_name_hosts_or_resolver() {
        assert_eq!(names("web1.a.net", "", ""), ("web1".into(), Some("a.net".into())));
        assert_eq!(
            names("web1", "127.0.1.1 web1.b.net web1 # x\n", "search c.net\n"),
            ("web1".into(), Some("b.net".into()))
        );
        assert_eq!(
            names("web1", "127.0.0.1 localhost\n", "nameserver 1.1.1.1\nsearch c.net d.net\n"),
            ("web1".into(), Some("c.net".into()))
        );
        assert_eq!(names("web1", "", ""), ("web1".into(), None));
    }

    #[test]
    fn the_primary_interface_has_the_default_route() {
        let routes = "Iface\tDestination\tGateway\neth1\t0000A8C0\t0\neth0\t00000000\t0101A8C0\n";
        assert_eq!(default_interface(routes).as_deref(), Some("eth0"));
    }
}

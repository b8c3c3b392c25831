//! From where does somebody come? One address, or the network of 64 bits that a site has at the least.

use std::net::{IpAddr, Ipv6Addr};

/// What connections are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// Of a peer. Whoever has one IPv6 address has 2^64 of them, so they count as one. IPv4 in the clothes of IPv6, as a listener
    /// on `::` sees it, is IPv4.
    pub(crate) fn of(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(address) => Origin(address.into()),
            IpAddr::V6(address) => Origin(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv4_and_a_network_of_ipv6_are_one_origin() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("::ffff:192.0.2.1"), of("::ffff:192.0.2.2"));
    }
}

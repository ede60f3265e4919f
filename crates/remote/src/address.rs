//! Blocks of IP addresses, and which of them are not for everybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses, written as in `10.0.0.0/8`. A single address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    base: IpAddr,
    bits: u32,
}

impl Block {
    /// Reads an address, in brackets or not, with or without a number of bits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
        let base: IpAddr = address.parse().ok()?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(width), |bits| bits.parse().ok())?;
        (bits <= width).then_some(Self { base, bits })
    }

    const fn v4(a: u8, b: u8, c: u8, bits: u32) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), bits }
    }

    const fn v6(a: u16, b: u16, bits: u32) -> Self {
        Self { base: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), bits }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (base.to_bits() ^ address.to_bits()).leading_zeros() >= self.bits
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (base.to_bits() ^ address.to_bits()).leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

/// What the registries of special addresses (RFC 6890 and later) say is not reachable for everybody, and what some clouds have
/// put elsewhere.
const PRIVATE: [Block; 28] = [
    Block::v4(0, 0, 0, 8),      // this network
    Block::v4(10, 0, 0, 8),     // RFC 1918
    Block::v4(100, 64, 0, 10),  // carriers' NAT, also metadata of one cloud
    Block::v4(127, 0, 0, 8),    // loopback
    Block::v4(169, 254, 0, 16), // link-local, metadata of most clouds
    Block::v4(172, 16, 0, 12),  // RFC 1918
    Block::v4(192, 0, 0, 24),   // protocols, also metadata of one cloud
    Block::v4(192, 0, 2, 24),   // documentation
    Block::v4(192, 88, 99, 24), // relays to 6to4
    Block::v4(192, 168, 0, 16), // RFC 1918
    Block::v4(198, 18, 0, 15),  // benchmarks
    Block::v4(198, 51, 100, 24),
    Block::v4(203, 0, 113, 24),
    Block::v4(224, 0, 0, 4), // multicast
    Block::v4(240, 0, 0, 4), // reserved, broadcast
    // The host's own agent in one cloud, which answers on an address that looks public.
    Block { base: IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), bits: 32 },
    Block::v6(0, 0, 96),           // unspecified, loopback, IPv4-compatible
    Block::v6(0x64, 0xff9b, 48),   // see `embedded` for the part that is not local
    Block::v6(0x100, 0, 64),       // discarded
    Block::v6(0x2001, 0, 32),      // Teredo, which carries an IPv4 address
    Block::v6(0x2001, 0x0db8, 32), // documentation
    Block::v6(0x2002, 0, 16),      // 6to4, which carries an IPv4 address
    Block::v6(0x3fff, 0, 20),      // documentation
    Block::v6(0x5f00, 0, 16),      // segment routing
    Block::v6(0xfc00, 0, 7),       // unique local
    Block::v6(0xfe80, 0, 10),      // link-local
    Block::v6(0xfec0, 0, 10),      // site-local
    Block::v6(0xff00, 0, 8),       // multicast
];

/// The rest of 64:ff9b::/32 that is for NAT64 of local networks.
const LOCAL_NAT64: Block = Block { base: IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0)), bits: 48 };

/// Whether `address` may be reachable from here and not from everywhere. An IPv6 address that stands for an IPv4 address is judged
/// as that.
pub(crate) fn is_private(address: IpAddr) -> bool {
    let address = embedded(address);
    LOCAL_NAT64.contains(address) || PRIVATE.iter().any(|block| block.contains(address))
}

/// The IPv4 address in an IPv4-mapped one and in one of the well-known prefix of NAT64, behind which an IPv6 network may see all
/// of IPv4.
fn embedded(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                let [.., a, b, c, d] = v6.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            _ => address,
        },
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_for_everybody_are_private() {
        let private = [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ];
        for text in private {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn addresses_of_everybody_are_not() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.255.255",
            "172.32.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "192.0.1.1",
            "223.255.255.255",
            "168.63.129.17",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00::1",
        ];
        for text in public {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn blocks_are_read_with_and_without_bits() {
        let contains = |block: &str, address: &str| Block::parse(block).unwrap().contains(address.parse().unwrap());
        assert!(contains("192.168.1.7", "192.168.1.7") && !contains("192.168.1.7", "192.168.1.6"));
        assert!(contains("192.168.1.0/24", "192.168.1.255") && !contains("192.168.1.0/24", "192.168.2.0"));
        assert!(contains("0.0.0.0/0", "8.8.8.8") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::/8", "fdff::1") && !contains("fd00::/8", "fc00::1"));
        assert!(contains("[fd00::]/8", "fdff::1") && !contains("[fd00::]/8", "fc00::1"), "in brackets, too");
        assert_eq!([Block::parse("10.0.0.0/33"), Block::parse("host"), Block::parse("10.0.0.0/x")], [None; 3]);
    }
}

//! IPv4 addresses inside IPv6 ones: where a translator or a tunnel turns the one into the other, a
//! packet to the IPv6 address arrives at the IPv4 address. Pure.
//!
//! A network's own NAT64 prefix cannot be told from other addresses; `sandbox.deny` is for that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::range::Range;

/// RFC 6052, 2.1.
const NAT64: Range = Range::v6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// RFC 8215. Translators have a part of it, and which decides where the address stands.
const NAT64_LOCAL: Range = Range::v6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);
/// RFC 3056, 2.
const SIX_TO_FOUR: Range = Range::v6(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);
/// RFC 4380, 4: the server's address, and the client's with every bit turned over.
const TEREDO: Range = Range::v6(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32);

/// The IPv4 addresses that an address may lead to.
pub(super) fn embedded(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address.to_canonical() else {
        return Vec::new();
    };
    let bytes = v6.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    let last = at([12, 13, 14, 15]);
    let found = if NAT64.contains(address) {
        vec![last]
    } else if NAT64_LOCAL.contains(address) {
        // RFC 6052, 2.2: prefixes of 48, 56, 64 and 96 bits; the octet at 8 is left out. What
        // would begin with zero is a prefix or a suffix, and no address.
        let all = [
            at([6, 7, 9, 10]),
            at([7, 9, 10, 11]),
            at([9, 10, 11, 12]),
            last,
        ];
        all.into_iter().filter(|v4| v4.octets()[0] != 0).collect()
    } else if SIX_TO_FOUR.contains(address) {
        vec![at([2, 3, 4, 5])]
    } else if TEREDO.contains(address) {
        vec![at([4, 5, 6, 7]), Ipv4Addr::from_bits(!last.to_bits())]
    } else {
        Vec::new()
    };
    found.into_iter().map(IpAddr::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_where_their_form_has_them() {
        for (address, found) in [
            ("203.0.113.1", ""),
            ("::ffff:203.0.113.1", ""),
            ("2001:db8::1", ""),
            ("64:ff9b::203.0.113.1", "203.0.113.1"),
            ("64:ff9b:1::203.0.113.1", "203.0.113.1"),
            // RFC 6052, 2.4, with prefixes of 48, 56 and 64 bits, and what else they could mean.
            ("64:ff9b:1:c000:2:2100::", "192.0.2.33 2.33.0.0"),
            ("64:ff9b:1:c0:0:221::", "192.0.2.33"),
            ("64:ff9b:1:0:c0:2:2100::", "192.0.2.33 33.0.0.0"),
            ("64:ff9b:2::203.0.113.1", ""),
            ("2002:cb00:7101::1", "203.0.113.1"),
            // RFC 4380, 4, with a server at 192.0.2.33.
            ("2001:0:c000:221::34ff:8efe", "192.0.2.33 203.0.113.1"),
            ("2001:1::1", ""),
        ] {
            let shown: Vec<_> = (embedded(address.parse().unwrap()).iter())
                .map(ToString::to_string)
                .collect();
            assert_eq!(shown.join(" "), found, "{address}");
        }
    }
}

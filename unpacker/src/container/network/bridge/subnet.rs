//! Which addresses a bridge gets: some that no route of the host covers. Pure.

use std::net::{IpAddr, Ipv4Addr};

use config::range::Range;
use config::subnet::Subnet;

use super::super::SUBNET;

/// Where they are looked for: private addresses that are seldom somebody's default.
const PLACES: [[u8; 2]; 3] = [[10, 187], [172, 29], [192, 168]];
/// Of each place.
const TRIED: u8 = 16;

/// Why there are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Taken {
    #[error("the setting sandbox.subnet is {subnet}, and this host reaches {by} elsewhere already")]
    Asked { subnet: Subnet, by: Range },
    #[error(
        "every range of addresses that was tried, in 10.187.0.0/16, 172.29.0.0/16 and \
         192.168.0.0/16, is covered by a route of this host; name one in the setting sandbox.subnet"
    )]
    All,
}

/// The one that was asked for, or the first that is free. Data folders begin at different `seed`s.
pub(super) fn choose(asked: Option<Subnet>, seed: u8, used: &[Range]) -> Result<Subnet, Taken> {
    let used_by = |subnet: &Subnet| {
        let own = subnet.range();
        let all = used.iter().chain([&SUBNET]);
        all.copied().find(|range| range.overlaps(&own))
    };
    if let Some(subnet) = asked {
        return match used_by(&subnet) {
            Some(by) => Err(Taken::Asked { subnet, by }),
            None => Ok(subnet),
        };
    }
    let candidates = PLACES.iter().flat_map(|[a, b]| {
        (0..TRIED).map(move |step| {
            let third = seed.wrapping_add(step.wrapping_mul(16));
            Subnet::of_256(Ipv4Addr::new(*a, *b, third, 0))
        })
    });
    let mut candidates = candidates.filter(|subnet| used_by(subnet).is_none());
    candidates.next().ok_or(Taken::All)
}

/// The first address that nobody has.
pub(super) fn free_address(subnet: Subnet, held: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    subnet.addresses().find(|address| !held.contains(address))
}

/// A single address.
pub(super) fn only(address: IpAddr) -> Option<Range> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(Range::v4(address.octets(), 32)),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<Range> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_that_no_route_covers_is_taken() {
        for (seed, used, chosen) in [
            (7, &[][..], "10.187.7.0/24"),
            (7, &["10.187.7.128/25"], "10.187.23.0/24"),
            (250, &["10.187.250.1/32", "127.0.0.0/8"], "10.187.10.0/24"),
            (7, &["10.0.0.0/8"], "172.29.7.0/24"),
            (7, &["10.0.0.0/8", "172.16.0.0/12"], "192.168.7.0/24"),
        ] {
            let got = choose(None, seed, &ranges(used)).unwrap();
            assert_eq!(got.to_string(), chosen, "{used:?}");
        }
        let all = ranges(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
        let error = choose(None, 7, &all).unwrap_err();
        assert!(error.to_string().contains("sandbox.subnet"), "{error}");
    }

    #[test]
    fn what_is_asked_for_is_taken_or_refused_with_the_reason() {
        let asked: Subnet = "10.9.8.0/24".parse().unwrap();
        assert_eq!(choose(Some(asked), 0, &[]), Ok(asked));
        let by = ranges(&["192.0.2.0/24", "10.9.0.0/16"]);
        let error = choose(Some(asked), 0, &by).unwrap_err();
        assert!(error.to_string().contains("10.9.0.0/16"), "{error}");
        let relay: Subnet = "10.0.2.0/24".parse().unwrap();
        assert!(choose(Some(relay), 0, &[]).is_err());
    }

    #[test]
    fn addresses_are_given_in_order_until_there_are_none() {
        let subnet: Subnet = "10.9.8.0/29".parse().unwrap();
        let mut held = Vec::new();
        while let Some(address) = free_address(subnet, &held) {
            held.push(address);
        }
        let shown: Vec<_> = held.iter().map(|address| address.octets()[3]).collect();
        assert_eq!(shown, [2, 3, 4, 5, 6]);
        held.remove(1);
        assert_eq!(
            free_address(subnet, &held),
            Some(Ipv4Addr::new(10, 9, 8, 3))
        );
    }
}

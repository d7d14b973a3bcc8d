//! The addresses of a bridge: an IPv4 network of its own.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::range::Range;

/// Smaller ones have no room, larger ones more than a bridge has ports (1023).
const BITS: std::ops::RangeInclusive<u8> = 20..=29;

/// An IPv4 network such as `10.187.7.0/24`, whose first address is the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    bits: u8,
}

/// Text that is no [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IPv4 network of 20 to 29 bits such as 10.187.7.0/24")]
pub struct BadSubnet(String);

impl Subnet {
    /// The network of 256 addresses that this one is in.
    pub fn of_256(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        Self {
            network: Ipv4Addr::new(a, b, c, 0),
            bits: 24,
        }
    }

    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The host's address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// All that containers can have, in order.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let (own, last) = (*self, (1 << (32 - u32::from(self.bits))) - 1);
        (2..last).map(move |nth| own.nth(nth))
    }

    /// Every address of it.
    pub fn range(&self) -> Range {
        Range::v4(self.network.octets(), self.bits)
    }

    fn nth(self, nth: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | nth)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let read = || {
            let (network, bits) = text.split_once('/')?;
            let (network, bits): (Ipv4Addr, u8) = (network.parse().ok()?, bits.parse().ok()?);
            let hosts = u32::MAX.checked_shr(bits.into())?;
            let whole = BITS.contains(&bits) && network.to_bits() & hosts == 0;
            let usable =
                !network.is_loopback() && !network.is_multicast() && network.octets()[0] > 0;
            (whole && usable).then_some(Self { network, bits })
        };
        read().ok_or_else(|| BadSubnet(text.to_owned()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadSubnet;

    fn try_from(text: String) -> Result<Self, BadSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_written_as_they_are_read_and_have_their_addresses() {
        for (text, gateway, first, last, count) in [
            (
                "10.187.7.0/24",
                "10.187.7.1",
                "10.187.7.2",
                "10.187.7.254",
                253,
            ),
            (
                "192.168.0.16/29",
                "192.168.0.17",
                "192.168.0.18",
                "192.168.0.22",
                5,
            ),
            (
                "172.16.16.0/20",
                "172.16.16.1",
                "172.16.16.2",
                "172.16.31.254",
                4093,
            ),
        ] {
            let subnet: Subnet = text.parse().unwrap();
            assert_eq!(subnet.to_string(), text);
            assert_eq!(subnet.gateway().to_string(), gateway);
            let all: Vec<_> = subnet.addresses().map(|a| a.to_string()).collect();
            assert_eq!(
                (all.len(), &*all[0], &**all.last().unwrap()),
                (count, first, last)
            );
            assert!(
                all.iter()
                    .all(|a| subnet.range().contains(a.parse().unwrap()))
            );
        }
        for bad in [
            "",
            "10.0.0.1/24",
            "10.0.0.0",
            "10.0.0.0/30",
            "10.0.0.0/8",
            "10.0.0.0/33",
            "127.0.0.0/24",
            "224.0.0.0/24",
            "0.0.0.0/24",
            "fd00::/64",
            "x/24",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}

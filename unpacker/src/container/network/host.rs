//! What decisions about destinations ask of the host, at the moment that they are made.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;

use super::files;
use super::netlink::{Request, answer, attribute, open};

// <linux/rtnetlink.h>.
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
/// Of the header that stands before a route's attributes.
const HEADER: usize = 12;
const TYPE_AT: usize = 7;
const TYPE_LOCAL: u8 = 2;

/// The host, as far as decisions need it.
pub(super) trait Host {
    /// Its name servers.
    fn resolvers(&self) -> Vec<IpAddr>;
    /// Whether packets to an address stay on it.
    fn owns(&self, address: IpAddr) -> bool;
}

/// The host that we run on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThisHost;

impl Host for ThisHost {
    fn resolvers(&self) -> Vec<IpAddr> {
        files::host_resolvers()
    }

    /// What cannot be found out counts as the host's own.
    fn owns(&self, address: IpAddr) -> bool {
        is_local(address).unwrap_or(true)
    }
}

/// The kernel's own decision: it knows of addresses that were added a moment ago, and of whole
/// ranges that are routed to the host itself.
fn is_local(address: IpAddr) -> io::Result<bool> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    };
    let mut header = vec![0; HEADER];
    header[0] = family;
    header[1] = bytes.len() as u8 * 8;
    let question = Request::new(GET_ROUTE, 0, &[header, attribute(1, &bytes)]);
    match answer(&open(None)?, question) {
        Ok((NEW_ROUTE, body)) => Ok(body.get(TYPE_AT) == Some(&TYPE_LOCAL)),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        // There is no way to it, or a route that says so.
        Err(error) if is_no_way(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_no_way(error: &io::Error) -> bool {
    let all = [
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::ACCESS,
        Errno::INVAL,
        Errno::AFNOSUPPORT,
        Errno::OPNOTSUPP,
    ];
    Errno::from_io_error(error).is_some_and(|errno| all.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_addresses_are_known() {
        let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        // Where there is a way to the world, its sender's address is ours.
        if own.connect("192.0.2.1:9").is_ok() {
            assert!(is_local(own.local_addr().unwrap().ip()).unwrap());
        }
        assert!(is_local("127.0.0.1".parse().unwrap()).unwrap());
        assert!(is_local("127.77.0.1".parse().unwrap()).unwrap());
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_local(other.parse().unwrap()).unwrap(), "{other}");
        }
    }
}

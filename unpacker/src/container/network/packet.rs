//! Packets as the kernel shows them to us and takes them from us: a connection's first, and the
//! answer that refuses it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// A fresh packet's life.
const HOPS: u8 = 64;

/// Somebody's first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Syn {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    sequence: u32,
    /// The packet with its checksum complete; on its way through `lo` it has none.
    pub(super) bytes: Vec<u8>,
}

impl Syn {
    /// Reads a packet from its network header on; `None` for everything else.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (from, to, header, length) = match packet.first()? >> 4 {
            4 => read_v4(packet)?,
            6 => read_v6(packet)?,
            _ => return None,
        };
        let mut bytes = packet.get(..length)?.to_vec();
        let tcp = bytes.get_mut(header..)?;
        let flags = *tcp.get(13)?;
        if tcp.len() < TCP_HEADER || flags & (SYN | ACK | RST | FIN) != SYN {
            return None;
        }
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let (from, to) = (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)));
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        seal(tcp, from.ip(), to.ip());
        Some(Self {
            from,
            to,
            sequence,
            bytes,
        })
    }

    /// The packet with which the destination would refuse.
    pub(super) fn refusal(&self) -> Vec<u8> {
        let mut tcp = [0_u8; TCP_HEADER];
        tcp[0..2].copy_from_slice(&self.to.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.from.port().to_be_bytes());
        tcp[8..12].copy_from_slice(&self.sequence.wrapping_add(1).to_be_bytes());
        tcp[12] = (TCP_HEADER as u8 / 4) << 4;
        tcp[13] = RST | ACK;
        seal(&mut tcp, self.to.ip(), self.from.ip());
        let mut bytes = header(self.to.ip(), self.from.ip());
        bytes.extend_from_slice(&tcp);
        bytes
    }
}

type Read = (IpAddr, IpAddr, usize, usize);

fn read_v4(packet: &[u8]) -> Option<Read> {
    let header = usize::from(packet[0] & 15) * 4;
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = *packet.get(at..)?.first_chunk()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    let fits = header >= V4_HEADER && *packet.get(9)? == TCP;
    fits.then_some((address(12)?, address(16)?, header, length))
}

/// Extension headers are not looked through: no kernel puts one before a SYN of its own.
fn read_v6(packet: &[u8]) -> Option<Read> {
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = *packet.get(at..)?.first_chunk()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    let fits = *packet.get(6)? == TCP;
    fits.then_some((address(8)?, address(24)?, V6_HEADER, V6_HEADER + length))
}

/// The network header of a refusal. The kernel completes IPv4's own checksum.
fn header(from: IpAddr, to: IpAddr) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut bytes = vec![0x60, 0, 0, 0, 0, TCP_HEADER as u8, TCP, HOPS];
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            bytes
        }
        (from, to) => {
            let length = (V4_HEADER + TCP_HEADER) as u8;
            let mut bytes = vec![0x45, 0, 0, length, 0, 0, 0, 0, HOPS, TCP, 0, 0];
            for address in [from, to] {
                bytes.extend_from_slice(&octets(address));
            }
            bytes
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Writes the checksum of RFC 9293, 3.1.
fn seal(tcp: &mut [u8], from: IpAddr, to: IpAddr) {
    tcp[16..18].fill(0);
    let mut pseudo = [octets(from), octets(to)].concat();
    pseudo.extend_from_slice(&(tcp.len() as u32).to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, TCP]);
    let sum = !fold(sum(&pseudo) + sum(tcp));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A first packet from this port.
#[cfg(test)]
pub(super) fn a_syn(port: u16) -> Syn {
    let to_and_from = SocketAddr::new(super::ADDRESS.into(), port);
    Syn {
        from: to_and_from,
        to: to_and_from,
        sequence: 0,
        bytes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `connect` to 10.9.8.7:443 from 10.0.2.100:41986, without options.
    fn v4() -> Vec<u8> {
        let mut bytes = header("10.0.2.100".parse().unwrap(), "10.9.8.7".parse().unwrap());
        bytes.extend_from_slice(&41986_u16.to_be_bytes());
        bytes.extend_from_slice(&443_u16.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 9, 9, 0, 0]);
        bytes
    }

    fn is_sealed(bytes: &[u8], from: IpAddr, to: IpAddr) -> bool {
        let mut again = bytes.to_vec();
        seal(&mut again, from, to);
        again == bytes
    }

    #[test]
    fn a_first_packet_is_read_and_refused() {
        let syn = Syn::read(&v4()).unwrap();
        assert_eq!(syn.from, "10.0.2.100:41986".parse().unwrap());
        assert_eq!(syn.to, "10.9.8.7:443".parse().unwrap());
        assert!(is_sealed(&syn.bytes[20..], syn.from.ip(), syn.to.ip()));
        let refusal = syn.refusal();
        let (from, to, header, length) = read_v4(&refusal).unwrap();
        assert_eq!((from, to), (syn.to.ip(), syn.from.ip()));
        assert_eq!((header, length), (20, refusal.len()));
        assert_eq!(refusal[28..32], [0, 0, 1, 1]);
        assert_eq!(refusal[33], RST | ACK);
        assert!(is_sealed(&refusal[20..], from, to));
    }

    #[test]
    fn a_known_checksum() {
        // RFC 1071, 3: the words of the example add up to ddf2.
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&words)), 0xddf2);
    }

    #[test]
    fn what_is_no_first_packet_is_left_alone() {
        let mut answer = v4();
        answer[33] = SYN | ACK;
        let mut udp = v4();
        udp[9] = 17;
        let mut longer = v4();
        longer[3] = 200;
        for bytes in [answer, udp, longer] {
            assert_eq!(Syn::read(&bytes), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn rubbish_never_panics(mut bytes in proptest::collection::vec(0_u8.., 0..120), six: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if six { 0x60 } else { 0x45 };
            }
            if let Some(syn) = Syn::read(&bytes) {
                let _ = syn.refusal();
            }
        }
    }
}

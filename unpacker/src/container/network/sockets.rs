//! Sockets with the options that rustix does not have, in the container's namespace and outside.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, connect, getsockname,
    listen, recvfrom, socket_with, sockopt,
};

use super::nft::{MARK_LET, MARK_OURS};

// <linux/in.h>, <linux/in6.h>; libc does not have all of them for every target.
const IP_HDRINCL: i32 = 3;
const IP_TRANSPARENT: i32 = 19;
const IP_RECVORIGDSTADDR: i32 = 20;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IPV6_ORIGDSTADDR: i32 = 74;
const IPV6_TRANSPARENT: i32 = 75;
const SO_MARK: i32 = 36;

const BACKLOG: i32 = 512;

/// A listener that gets connections to any address. Called inside.
pub(super) fn transparent_listener(at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent(at, SocketType::STREAM)?;
    bind(&socket, &at)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A socket that gets datagrams to any address and is told which. Called inside.
pub(super) fn transparent_datagrams(at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent(at, SocketType::DGRAM)?;
    match at {
        SocketAddr::V4(_) => set(&socket, libc::SOL_IP, IP_RECVORIGDSTADDR, 1)?,
        SocketAddr::V6(_) => set(&socket, libc::SOL_IPV6, IPV6_ORIGDSTADDR, 1)?,
    }
    bind(&socket, &at)?;
    Ok(socket)
}

/// Speaks to `to` as if it were `from`, whoever that is. Called inside.
pub(super) fn datagrams_as(from: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent(from, SocketType::DGRAM)?;
    set(&socket, libc::SOL_SOCKET, SO_MARK, MARK_OURS as i32)?;
    bind(&socket, &from)?;
    connect(&socket, &to)?;
    Ok(socket)
}

/// As [`datagrams_as`], for an asker whose port need not be kept: where somebody has it, another is
/// taken, so that two askers who both seem to be `from` are never mixed up. Called inside.
pub(super) fn questions_as(from: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent(from, SocketType::DGRAM)?;
    sockopt::set_socket_reuseaddr(&socket, false)?;
    set(&socket, libc::SOL_SOCKET, SO_MARK, MARK_OURS as i32)?;
    match bind(&socket, &from) {
        Err(Errno::ADDRINUSE) => bind(&socket, &SocketAddr::new(from.ip(), 0))?,
        bound => bound?,
    }
    connect(&socket, &to)?;
    Ok(socket)
}

/// Begins a connection to a service of the container as if it came from `from`. Called inside.
pub(super) fn connect_as(from: IpAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let from = SocketAddr::new(from, 0);
    let socket = transparent(from, SocketType::STREAM)?;
    set(&socket, libc::SOL_SOCKET, SO_MARK, MARK_OURS as i32)?;
    set(&socket, libc::SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)?;
    bind(&socket, &from)?;
    begin(socket, to)
}

/// Sends whole packets of ours past the hold. Called inside.
pub(super) fn raw(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let protocol = rustix::net::ipproto::RAW;
    let socket = open(family, SocketType::RAW, Some(protocol))?;
    if !v6 {
        set(&socket, libc::SOL_IP, IP_HDRINCL, 1)?;
    }
    set(&socket, libc::SOL_SOCKET, SO_MARK, MARK_LET as i32)?;
    Ok(socket)
}

/// Begins a connection to somewhere in the world, from an address of the host's if one is given.
pub(super) fn connect_to(to: SocketAddr, from: Option<Ipv4Addr>) -> io::Result<OwnedFd> {
    let socket = open(family(to), SocketType::STREAM, None)?;
    if let Some(from) = from {
        set(&socket, libc::SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)?;
        bind(&socket, &SocketAddr::new(from.into(), 0))?;
    }
    begin(socket, to)
}

/// Ends the growth of a socket's buffers: the kernel would let each have megabytes. It takes `most`
/// twice, for its own notes.
pub(super) fn bound(socket: &OwnedFd, most: usize) {
    // A limit that cannot be set leaves the kernel's own.
    let _ = sockopt::set_socket_recv_buffer_size(socket, most);
    let _ = sockopt::set_socket_send_buffer_size(socket, most);
}

/// A socket for datagrams to and from one peer in the world.
pub(super) fn datagrams_to(to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = open(family(to), SocketType::DGRAM, None)?;
    connect(&socket, &to)?;
    Ok(socket)
}

/// Whether packets could leave for such an address, without sending one.
pub(super) fn has_route(to: SocketAddr) -> bool {
    datagrams_to(to).is_ok()
}

fn begin(socket: OwnedFd, to: SocketAddr) -> io::Result<OwnedFd> {
    // A peer that vanished without a word is noticed, if late.
    sockopt::set_socket_keepalive(&socket, true)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn transparent(at: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = open(family(at), kind, None)?;
    match at {
        SocketAddr::V4(_) => set(&socket, libc::SOL_IP, IP_TRANSPARENT, 1)?,
        SocketAddr::V6(_) => set(&socket, libc::SOL_IPV6, IPV6_TRANSPARENT, 1)?,
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

fn open(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, kind, flags, protocol)?)
}

fn family(of: SocketAddr) -> AddressFamily {
    match of {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

fn set(socket: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is an `int`, outlives the call and its size is told.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A datagram on a [`transparent_datagrams`] socket: its length, who sent it and to whom.
pub(super) fn receive(
    socket: &OwnedFd,
    into: &mut [u8],
) -> io::Result<(usize, SocketAddr, SocketAddr)> {
    let mut from = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = [0_u64; 16];
    let mut piece = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    // SAFETY: all-zero bytes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = from.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: everything that the message points to is writable, of the size that is told, and
    // outlives the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and the kernel wrote at most its size.
    let from = address(unsafe { from.assume_init_ref() });
    let to = destination(&message);
    match (from, to) {
        (Some(from), Some(to)) => Ok((length as usize, from, to)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A client's datagram on a published port; the second address only tells ports apart.
pub(super) fn receive_from(
    socket: &OwnedFd,
    room: &mut [u8],
) -> io::Result<(usize, (SocketAddr, SocketAddr))> {
    let (length, _, from) = recvfrom(socket, room, RecvFlags::DONTWAIT)?;
    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
    let at = SocketAddr::try_from(getsockname(socket)?)?;
    Ok((length, (from.ok_or(io::ErrorKind::InvalidData)?, at)))
}

fn destination(message: &libc::msghdr) -> Option<SocketAddr> {
    // SAFETY: the kernel filled the control buffer of this message and told its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: the macros return headers within the buffer, or null.
        let (kind, data) = unsafe { ((*header).cmsg_type, libc::CMSG_DATA(header)) };
        let size = match kind {
            IP_RECVORIGDSTADDR => size_of::<libc::sockaddr_in>(),
            IPV6_ORIGDSTADDR => size_of::<libc::sockaddr_in6>(),
            _ => 0,
        };
        if size > 0 {
            // SAFETY: all-zero bytes are a valid storage, and it is larger than either address;
            // the kernel wrote a whole address of this kind.
            let storage = unsafe {
                let mut storage: libc::sockaddr_storage = std::mem::zeroed();
                std::ptr::copy_nonoverlapping(data, (&raw mut storage).cast::<u8>(), size);
                storage
            };
            return address(&storage);
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which address it is, and the storage is aligned for all.
            let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_socket_stays_small() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = connect_to(listener.local_addr().unwrap(), None).unwrap();
        bound(&socket, 20_000);
        for size in [
            sockopt::socket_recv_buffer_size(&socket).unwrap(),
            sockopt::socket_send_buffer_size(&socket).unwrap(),
        ] {
            assert_eq!(size, 40_000);
        }
    }

    #[test]
    fn a_connection_comes_from_where_it_is_told_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let from = Ipv4Addr::new(127, 77, 1, 1);
        let _socket = connect_to(listener.local_addr().unwrap(), Some(from)).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), IpAddr::from(from));
        assert!(connect_to("[::1]:9".parse().unwrap(), Some(from)).is_err());
    }
}

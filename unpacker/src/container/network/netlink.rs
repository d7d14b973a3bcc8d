//! Messages to the kernel's routing and packet filter tables, see netlink(7).
//!
//! Only what is needed: requests that are acknowledged, and the kernel's first complaint, both sent
//! by the thread that is inside; and a question with one answer, about the host.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;

/// A request without its header.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// The family's own header and attributes.
    pub(super) body: Vec<u8>,
    /// Whether the kernel is to say that it was done.
    pub(super) acknowledged: bool,
}

impl Request {
    pub(super) fn new(kind: u16, flags: u16, parts: &[Vec<u8>]) -> Self {
        Self {
            kind,
            flags,
            body: parts.concat(),
            acknowledged: true,
        }
    }
}

/// One attribute, padded.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    bytes.extend_from_slice(&(payload.len() as u16 + 4).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute of attributes.
pub(super) fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &parts.concat())
}

/// A string attribute.
pub(super) fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

/// Opens a socket to one of the kernel's tables; `None` for routing.
pub(super) fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        protocol,
    )?)
}

/// Sends requests as one datagram and waits until all that want it are acknowledged.
pub(super) fn ask(socket: &OwnedFd, requests: &[Request]) -> io::Result<()> {
    send(socket, &encode(requests), SendFlags::empty())?;
    let mut left = requests
        .iter()
        .filter(|request| request.acknowledged)
        .count();
    let mut answer = vec![0_u8; 32 * 1024];
    while left > 0 {
        let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
        for (kind, body) in messages(&answer[..length]) {
            if kind == NLMSG_ERROR {
                check(body)?;
                left = left.saturating_sub(1);
            }
        }
    }
    Ok(())
}

/// Sends a request that the kernel answers with one message; its kind and body.
pub(super) fn answer(socket: &OwnedFd, request: Request) -> io::Result<(u16, Vec<u8>)> {
    let request = Request {
        acknowledged: false,
        ..request
    };
    send(socket, &encode(&[request]), SendFlags::empty())?;
    let mut answer = vec![0_u8; 8 * 1024];
    let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
    match messages(&answer[..length]).next() {
        Some((NLMSG_ERROR, body)) => check(body).and(Err(io::ErrorKind::InvalidData.into())),
        Some((kind, body)) => Ok((kind, body.to_owned())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks for all of a kind, and calls `each` with the body of every one.
pub(super) fn dump(
    socket: &OwnedFd,
    request: Request,
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let request = Request {
        acknowledged: false,
        flags: request.flags | NLM_F_DUMP,
        ..request
    };
    send(socket, &encode(&[request]), SendFlags::empty())?;
    let mut answer = vec![0_u8; 32 * 1024];
    loop {
        let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
        for (kind, body) in messages(&answer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => check(body)?,
                _ => each(body),
            }
        }
    }
}

fn encode(requests: &[Request]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (sequence, request) in requests.iter().enumerate() {
        let length = HEADER + request.body.len();
        let flags = match request.acknowledged {
            true => request.flags | NLM_F_REQUEST | NLM_F_ACK,
            false => request.flags | NLM_F_REQUEST,
        };
        bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        bytes.extend_from_slice(&request.kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&(sequence as u32).to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&request.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn check(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The messages of a datagram: their kind and what follows their header.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    pieces(bytes, HEADER, |head| {
        let length = u32::from_ne_bytes(*head.first_chunk()?) as usize;
        Some((length, u16::from_ne_bytes(*head.get(4..)?.first_chunk()?)))
    })
}

/// The attributes that follow a family's header.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    pieces(bytes, 4, |head| {
        let length = u16::from_ne_bytes(*head.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*head.get(2..)?.first_chunk()?);
        Some((length, kind & !NLA_F_NESTED))
    })
}

/// Walks over pieces that begin with their own length; stops at the first that is none.
fn pieces(
    mut bytes: &[u8],
    header: usize,
    read: impl Fn(&[u8]) -> Option<(usize, u16)>,
) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = read(bytes.get(..header)?)?;
        let body = bytes.get(header..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = [
            attribute(1, &[7]),
            nested(2, &[attribute(3, &[1, 2, 3, 4])]),
            text(4, "lo"),
        ]
        .concat();
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found[0], (1, &[7][..]));
        assert_eq!(found[1].0, 2);
        let inner: Vec<_> = attributes(found[1].1).collect();
        assert_eq!(inner, [(3, &[1, 2, 3, 4][..])]);
        assert_eq!(found[2], (4, &b"lo\0"[..]));
    }

    #[test]
    fn lengths_that_lie_end_the_walk() {
        for bytes in [&[3, 0, 0, 0, 1, 2, 3, 4][..], &[255, 0, 1, 0], &[1], &[]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}

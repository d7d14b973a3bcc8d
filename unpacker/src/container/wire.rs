//! Messages between a parent and its helper: one JSON value and a few descriptors each.
//!
//! A sequenced-packet socket keeps messages apart and tells when the other side died. Messages are
//! bounded; what may be large (a specification) is passed as a sealed memory file.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const MAX_MESSAGE: usize = 64 * 1024;
const MAX_FDS: usize = 8;
/// A specification with a long environment and a script is far below this.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// One end.
#[derive(Debug)]
pub(crate) struct Wire(OwnedFd);

impl Wire {
    /// Our end, and the end for the helper's standard input.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), theirs))
    }

    /// The end that a parent left as standard input. Descriptor 0 becomes `/dev/null`; whatever
    /// else was inherited is closed, or a pipe of somebody's shell would never see its end.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        let end = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        super::sys::close_all_but(&[end.as_fd()])?;
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        Ok(Self(end))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message.
    pub(crate) fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "message too long",
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("no room for descriptors"));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Waits for a message; `None` when the other side is gone.
    pub(crate) fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0_u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = retry(|| {
            let mut into = [IoSliceMut::new(&mut bytes)];
            recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let got = match got {
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            got => got?,
        };
        if got.bytes == 0 {
            return Ok(None);
        }
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                fds.extend(some);
            }
        }
        Ok(Some((serde_json::from_slice(&bytes[..got.bytes])?, fds)))
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return done,
        }
    }
}

/// A value as a memory file, at its start.
pub(crate) fn to_file<T: Serialize>(value: &T) -> io::Result<OwnedFd> {
    let fd = memfd_create("spec", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&serde_json::to_vec(value)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// The value in a memory file.
pub(crate) fn from_file<T: DeserializeOwned>(fd: OwnedFd) -> io::Result<T> {
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(MAX_FILE)
        .read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_its_descriptor_arrive_and_an_end_is_seen() {
        let (ours, theirs) = Wire::pair().unwrap();
        let theirs = Wire::from_fd(theirs);
        let file = to_file(&vec![1, 2, 3]).unwrap();
        ours.send(&"hello", &[file.as_fd()]).unwrap();
        let (text, mut fds) = theirs.recv::<String>().unwrap().unwrap();
        assert_eq!(text, "hello");
        let list: Vec<i32> = from_file(fds.remove(0)).unwrap();
        assert_eq!(list, [1, 2, 3]);
        drop(ours);
        assert!(theirs.recv::<String>().unwrap().is_none());
    }
}

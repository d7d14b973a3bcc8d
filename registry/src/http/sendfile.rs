//! From file to socket without copying through this process.
//!
//! hyper has no door for `sendfile`. What it does have: it hands the bytes of a response, in order
//! and unchanged, to the stream's vectored write. So a body of a file answers *placeholders*: slices
//! of one reserved region that nobody ever reads or writes, each as long as the part of the file it
//! stands for. [`FileStream`] tells them by their address and sends the file's bytes instead. Only
//! plain HTTP/1 connections carry an [`Outgoing`], so TLS and HTTP/2 never meet a placeholder.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use rustix::io::ReadWriteFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::range::Span;

/// The part of a file that one placeholder stands for. It is prepared (read from the disk, where it
/// is not in memory) before it is sent, so that the socket's side never waits for a disk.
const PIECE: usize = 1024 * 1024;
/// Zero pages of the system that are never touched, so they cost address space only.
static REGION: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; PIECE]));

fn is_placeholder(slice: &[u8]) -> bool {
    REGION.as_ptr_range().contains(&slice.as_ptr())
}

/// A part of a file that is still to be sent.
#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    offset: u64,
    left: usize,
}

/// What the placeholders that a connection was given stand for, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Outgoing(Arc<Mutex<VecDeque<Segment>>>);

impl Outgoing {
    /// Answers the placeholder of at most [`PIECE`] bytes of the file.
    fn push(&self, file: &Arc<File>, offset: u64, length: usize) -> Bytes {
        let segment = Segment {
            file: Arc::clone(file),
            offset,
            left: length,
        };
        self.with(|queue| queue.push_back(segment));
        REGION.slice(..length)
    }

    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<Segment>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends what the first placeholder stands for, at most `limit` bytes of it.
    fn send(&self, socket: &TcpStream, limit: usize) -> io::Result<usize> {
        self.with(|queue| {
            // A placeholder without its file must end the connection: its own bytes mean nothing.
            let Some(segment) = queue.front_mut() else {
                return Err(io::Error::other("a placeholder stands for nothing"));
            };
            let want = segment.left.min(limit);
            let mut offset = segment.offset;
            let sent = rustix::fs::sendfile(socket, &segment.file, Some(&mut offset), want)?;
            if sent == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            segment.offset = offset;
            segment.left -= sent;
            if segment.left == 0 {
                queue.pop_front();
            }
            Ok(sent)
        })
    }
}

/// A plain connection that sends files itself.
#[derive(Debug)]
pub(super) struct FileStream {
    stream: TcpStream,
    outgoing: Outgoing,
}

impl FileStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        let outgoing = Outgoing::default();
        Self { stream, outgoing }
    }

    /// Where bodies leave what this connection is to send.
    pub(super) fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }

    fn poll_send(&self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                self.outgoing.send(&self.stream, limit)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for FileStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for FileStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if is_placeholder(bytes) {
            return self.poll_send(cx, bytes.len());
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let file = slices.iter().position(|slice| is_placeholder(slice));
        let plain = slices.get(..file.unwrap_or(slices.len())).unwrap_or(slices);
        match file.and_then(|at| slices.get(at)) {
            Some(slice) if plain.iter().all(|slice| slice.is_empty()) => {
                self.poll_send(cx, slice.len())
            }
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, plain),
        }
    }

    /// True, or hyper would copy all pieces into one.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A part of a file as a body of placeholders.
#[derive(Debug)]
pub(super) struct FileBody {
    file: Arc<File>,
    at: u64,
    end: u64,
    outgoing: Outgoing,
    /// The next piece on its way from the disk into memory.
    reading: Option<JoinHandle<io::Result<()>>>,
}

impl FileBody {
    pub(super) fn new(file: File, span: Span, outgoing: Outgoing) -> Self {
        Self {
            file: Arc::new(file),
            at: span.start,
            end: span.end,
            outgoing,
            reading: None,
        }
    }

    fn piece(&self) -> usize {
        usize::try_from(self.end - self.at).map_or(PIECE, |left| left.min(PIECE))
    }

    fn poll_prepared(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (at, length) = (self.at, self.piece());
        if self.reading.is_none() && is_in_memory(&self.file, at, length) {
            return Poll::Ready(Ok(()));
        }
        let reading = self.reading.get_or_insert_with(|| {
            let file = Arc::clone(&self.file);
            tokio::task::spawn_blocking(move || read_into_memory(&file, at, length))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        if let Err(error) = ready!(self.poll_prepared(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let length = self.piece();
        let placeholder = self.outgoing.push(&self.file, self.at, length);
        self.at += length as u64;
        Poll::Ready(Some(Ok(Frame::data(placeholder))))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// Whether the first and the last byte of a piece can be had without waiting. The kernel reads ahead
/// and evicts in runs, so what lies between is nearly always there too; where it is not, or where the
/// file system cannot tell, sending waits for the disk.
fn is_in_memory(file: &File, at: u64, length: usize) -> bool {
    let is_there = |offset| {
        let mut byte = [0];
        let mut slices = [IoSliceMut::new(&mut byte)];
        let read = rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT);
        !matches!(read, Err(rustix::io::Errno::AGAIN))
    };
    is_there(at) && is_there(at + length.saturating_sub(1) as u64)
}

/// Blocking: reads a piece, so that the kernel has it.
fn read_into_memory(file: &File, at: u64, length: usize) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; length.min(128 * 1024)];
    let mut done = 0;
    while done < length {
        let want = buffer.len().min(length - done);
        let read = file.read_at(&mut buffer[..want], at + done as u64)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done += read;
    }
    Ok(())
}

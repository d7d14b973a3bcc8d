//! The frames in which a process' input and output travel over one stream socket.
//!
//! ```text
//! +------+----------------+---------------------+
//! | type | length, u32 LE | payload, <= 64 KiB  |
//! +------+----------------+---------------------+
//! 1 stdin  2 close stdin  3 resize (rows, columns: u16 LE)  4 signal (i32 LE)      to the process
//! 5 stdout 6 stderr       7 exit (kind u8: 0 code, 1 signal, 2 out of memory; i32 LE) 8 error (UTF-8) from it
//! ```
//!
//! Parsing is apart from reading: [`Decoder`] takes whatever bytes there are, so that blocking,
//! polling and async users share it. `Exit` or `Error` is the last frame of a stream.

use std::io::{self, Read, Write};

use super::exit::Exit;

/// The longest payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;
const HEADER: usize = 5;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes for the process.
    Stdin(Vec<u8>),
    /// No more bytes will come for the process.
    CloseStdin,
    /// The terminal has a new size.
    Resize { rows: u16, columns: u16 },
    /// Send this signal to the process.
    Signal(i32),
    /// Bytes from the process; a terminal's too.
    Stdout(Vec<u8>),
    /// Bytes from the process.
    Stderr(Vec<u8>),
    /// The process ended.
    Exit(Exit),
    /// The relay failed; for people.
    Error(String),
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("frame of unknown type {0}")]
    Type(u8),
    #[error("frame of {0} bytes, more than {MAX_PAYLOAD}")]
    Length(u32),
    #[error("frame of type {kind} cannot have {length} bytes")]
    Payload { kind: u8, length: usize },
}

impl Frame {
    /// Appends the frame's bytes. Data longer than a frame becomes several frames.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdin(bytes) => put_data(out, 1, bytes),
            Self::CloseStdin => put(out, 2, &[]),
            Self::Resize { rows, columns } => {
                let [a, b] = rows.to_le_bytes();
                let [c, d] = columns.to_le_bytes();
                put(out, 3, &[a, b, c, d]);
            }
            Self::Signal(signal) => put(out, 4, &signal.to_le_bytes()),
            Self::Stdout(bytes) => put_data(out, 5, bytes),
            Self::Stderr(bytes) => put_data(out, 6, bytes),
            Self::Exit(exit) => put(out, 7, &exit_bytes(*exit)),
            Self::Error(text) => put(out, 8, &text.as_bytes()[..text.len().min(MAX_PAYLOAD)]),
        }
    }

    /// The frame's bytes alone.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    fn parse(kind: u8, payload: &[u8]) -> Result<Self, BadFrame> {
        let bad = || BadFrame::Payload {
            kind,
            length: payload.len(),
        };
        match (kind, payload) {
            (1, _) => Ok(Self::Stdin(payload.to_vec())),
            (2, []) => Ok(Self::CloseStdin),
            (3, &[a, b, c, d]) => Ok(Self::Resize {
                rows: u16::from_le_bytes([a, b]),
                columns: u16::from_le_bytes([c, d]),
            }),
            (4, &[a, b, c, d]) => Ok(Self::Signal(i32::from_le_bytes([a, b, c, d]))),
            (5, _) => Ok(Self::Stdout(payload.to_vec())),
            (6, _) => Ok(Self::Stderr(payload.to_vec())),
            (7, &[how, a, b, c, d]) => {
                parse_exit(how, i32::from_le_bytes([a, b, c, d])).ok_or_else(bad)
            }
            (8, _) => Ok(Self::Error(String::from_utf8_lossy(payload).into_owned())),
            (2..=4 | 7, _) => Err(bad()),
            _ => Err(BadFrame::Type(kind)),
        }
    }
}

fn parse_exit(how: u8, value: i32) -> Option<Frame> {
    match how {
        0 => Some(Frame::Exit(Exit::Code(value))),
        1 => Some(Frame::Exit(Exit::Signal(value))),
        2 => Some(Frame::Exit(Exit::OutOfMemory)),
        _ => None,
    }
}

fn exit_bytes(exit: Exit) -> [u8; 5] {
    let (how, value) = match exit {
        Exit::Code(code) => (0, code),
        Exit::Signal(signal) => (1, signal),
        Exit::OutOfMemory => (2, libc::SIGKILL),
    };
    let [a, b, c, d] = value.to_le_bytes();
    [how, a, b, c, d]
}

fn put_data(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    if bytes.is_empty() {
        put(out, kind, bytes);
    }
    for chunk in bytes.chunks(MAX_PAYLOAD) {
        put(out, kind, chunk);
    }
}

/// `payload` is at most [`MAX_PAYLOAD`] long.
fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Turns bytes, in whatever pieces they come, into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > MAX_PAYLOAD {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` when more bytes are needed. After an error the stream cannot
    /// be followed any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        let rest = &self.bytes[self.start..];
        let &[kind, a, b, c, d, ..] = rest else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        if !(1..=8).contains(&kind) {
            return Err(BadFrame::Type(kind));
        }
        if length as usize > MAX_PAYLOAD {
            return Err(BadFrame::Length(length));
        }
        let end = HEADER + length as usize;
        let Some(payload) = rest.get(HEADER..end) else {
            return Ok(None);
        };
        let frame = Frame::parse(kind, payload)?;
        self.start += end;
        Ok(Some(frame))
    }

    /// Whether a piece of a frame is waiting for its rest.
    pub fn is_partial(&self) -> bool {
        self.start < self.bytes.len()
    }
}

/// Writes one frame.
pub fn write(to: &mut impl Write, frame: &Frame) -> io::Result<()> {
    to.write_all(&frame.to_bytes())
}

/// Reads one frame, blocking. `None` at the end of the stream between two frames.
pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0_u8; HEADER];
    if from.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..])?;
    let mut decoder = Decoder::default();
    decoder.push(&header);
    if let Some(frame) = decoder.next_frame().map_err(invalid)? {
        return Ok(Some(frame));
    }
    let [_, a, b, c, d] = header;
    let mut payload = vec![0_u8; u32::from_le_bytes([a, b, c, d]) as usize];
    from.read_exact(&mut payload)?;
    decoder.push(&payload);
    decoder.next_frame().map_err(invalid)
}

fn invalid(error: BadFrame) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let data = proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            data.clone().prop_map(Frame::Stdin),
            Just(Frame::CloseStdin),
            (any::<u16>(), any::<u16>())
                .prop_map(|(rows, columns)| Frame::Resize { rows, columns }),
            any::<i32>().prop_map(Frame::Signal),
            data.clone().prop_map(Frame::Stdout),
            data.prop_map(Frame::Stderr),
            any::<i32>().prop_map(|code| Frame::Exit(Exit::Code(code))),
            Just(Frame::Exit(Exit::OutOfMemory)),
            any::<i32>().prop_map(|signal| Frame::Exit(Exit::Signal(signal))),
            "\\PC{0,40}".prop_map(Frame::Error),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_any_pieces(
            frames in proptest::collection::vec(frame(), 0..20),
            step in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut bytes));
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert!(!decoder.is_partial());
            prop_assert_eq!(&seen, &frames);

            let mut from = &bytes[..];
            let mut again = Vec::new();
            while let Some(frame) = read(&mut from).unwrap() {
                again.push(frame);
            }
            prop_assert_eq!(again, frames);
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
            let _ = read(&mut &bytes[..]);
        }
    }

    #[test]
    fn long_data_becomes_several_frames() {
        let bytes = Frame::Stdout(vec![7; MAX_PAYLOAD + 1]).to_bytes();
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        assert_eq!(
            decoder.next_frame(),
            Ok(Some(Frame::Stdout(vec![7; MAX_PAYLOAD])))
        );
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Stdout(vec![7]))));
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn refusals_are_told_from_the_header() {
        for (bytes, error) in [
            (&[9, 0, 0, 0, 0][..], BadFrame::Type(9)),
            (&[1, 1, 0, 1, 0], BadFrame::Length(65537)),
            (
                &[2, 1, 0, 0, 0, 7],
                BadFrame::Payload { kind: 2, length: 1 },
            ),
            (
                &[7, 5, 0, 0, 0, 9, 0, 0, 0, 0],
                BadFrame::Payload { kind: 7, length: 5 },
            ),
        ] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert_eq!(decoder.next_frame(), Err(error));
        }
    }
}

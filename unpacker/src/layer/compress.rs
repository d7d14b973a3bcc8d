//! Compression of layers: recognised by magic, never by media type.
//!
//! A gzip stream may have several members (eStargz has one per file) and zstd several frames; both
//! are read to the end. What follows the last gzip member is ignored when it is zeros, as every
//! other reader does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_spec::image::MediaType;
use zstd::zstd_safe::CParameter;

use super::members::Members;

const BUFFER: usize = 128 * 1024;
/// The window a zstd frame may ask for: 128 MiB, what `zstd -d` takes without `--long`. RFC 8878 asks
/// for 8 MiB at least, `zstd --ultra -22` writes 128; containerd and docker read up to 512, which nothing
/// writes unasked. Each layer that is unpacked reserves its window, and takes as much of it as its
/// content fills.
const ZSTD_WINDOW_LOG: u32 = 27;
/// So much a blob may decompress to whatever its size is, and how many times its size beyond that.
/// Text comes to ten times; nothing but long runs of one byte comes near a thousand. Runs of zeros do
/// not count: disk images of virtual machines have them, and they become holes, which fill no disk.
const FREE: u64 = 64 << 20;
const MAX_RATIO: u64 = 1000;
/// gzip 6 is what docker and buildah write; zstd 3 is zstd's own default.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// What a thread takes at once, and so the memory it needs.
const ZSTD_JOB: u32 = 2 << 20;
const MAX_ZSTD_THREADS: u32 = 8;
const MAX_SHARED_LEVEL: i32 = 9;

/// How a layer's tar is kept in its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    None,
    #[default]
    Gzip,
    Zstd,
}

impl Compression {
    /// The media type of a layer in this form.
    pub fn media_type(self) -> MediaType {
        match self {
            Self::None => MediaType::ImageLayer,
            Self::Gzip => MediaType::ImageLayerGzip,
            Self::Zstd => MediaType::ImageLayerZstd,
        }
    }

    /// The levels that there are; none where nothing is compressed.
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Self::None => None,
            Self::Gzip => Some(0..=9),
            Self::Zstd => Some(1..=22),
        }
    }

    /// What the first bytes of a blob say. Fewer than four bytes are a plain tar's (an empty layer).
    pub fn of_magic(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as zstd:chunked may begin with (RFC 8878, 3.1.2).
            [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50 => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// How a layer is compressed, and how hard it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packing {
    pub compression: Compression,
    /// One of the compression's levels; `None` for the usual one.
    pub level: Option<i32>,
}

impl From<Compression> for Packing {
    fn from(compression: Compression) -> Self {
        Self {
            compression,
            level: None,
        }
    }
}

/// Undoes whatever compression the stream has. What decompresses to more than 64 MiB and to more
/// than a thousand times its size, zeros apart, is a bomb, and an error.
pub fn decoder<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let taken = Arc::new(AtomicU64::new(0));
    let input = Counting {
        inner: input,
        taken: taken.clone(),
    };
    let mut input = BufReader::with_capacity(BUFFER, input);
    // A short first read is no problem: files and pipes answer at least the magic at once, and a
    // reader that does not is filled up here.
    let mut head = Vec::new();
    while head.len() < 4 {
        let more = input.fill_buf()?;
        if more.is_empty() {
            break;
        }
        let wanted = (4 - head.len()).min(more.len());
        head.extend_from_slice(&more[..wanted]);
        input.consume(wanted);
    }
    let compression = Compression::of_magic(&head);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(input));
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(Bounded::new(Gzip::new(whole), taken)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(Bounded::new(decoder, taken))
        }
    })
}

/// Tells how much was read.
struct Counting<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A decompressor that may not give much more than it takes.
struct Bounded<R> {
    inner: R,
    taken: Arc<AtomicU64>,
    /// Without what was nothing but zeros.
    given: u64,
}

impl<R> Bounded<R> {
    fn new(inner: R, taken: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            taken,
            given: 0,
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if buffer[..read].iter().any(|byte| *byte != 0) {
            self.given += read as u64;
        }
        let most = self.taken.load(Ordering::Relaxed).saturating_mul(MAX_RATIO);
        if self.given > FREE && self.given > most {
            let text = format!("it decompresses to more than {MAX_RATIO} times its size");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(read)
    }
}

/// A gzip stream of any number of members, possibly padded with zeros. `MultiGzDecoder` cannot tell
/// padding from a broken member, so the members are counted here.
#[allow(clippy::disallowed_types)]
enum Gzip<R> {
    Member(Box<flate2::bufread::GzDecoder<R>>),
    Ended,
}

#[allow(clippy::disallowed_types)]
impl<R: BufRead> Gzip<R> {
    fn new(inner: R) -> Self {
        Self::Member(Box::new(flate2::bufread::GzDecoder::new(inner)))
    }

    /// What follows a member: another one, zeros, or nothing.
    fn next(mut rest: R) -> io::Result<Self> {
        match rest.fill_buf()?.first() {
            None => Ok(Self::Ended),
            Some(0) => only_zeros(rest).map(|()| Self::Ended),
            Some(_) => Ok(Self::new(rest)),
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let Self::Member(member) = self else {
                return Ok(0);
            };
            let read = member.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            let Self::Member(member) = std::mem::replace(self, Self::Ended) else {
                return Ok(0);
            };
            *self = Self::next(member.into_inner())?;
        }
    }
}

fn only_zeros(mut rest: impl Read) -> io::Result<()> {
    let mut chunk = [0_u8; 4096];
    loop {
        let read = rest.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        if chunk[..read].iter().any(|byte| *byte != 0) {
            let text = "bytes that are no gzip member follow the last one";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
}

/// Compresses what is written to it. Only [`Encoder::finish`] makes the output whole.
pub struct Encoder<W: Write> {
    inner: Inner<W>,
}

enum Inner<W: Write> {
    Plain(W),
    Gzip(Members<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

/// The output depends on the input only: no time stamp, no name, no thread count.
pub fn encoder<W: Write>(packing: impl Into<Packing>, output: W) -> io::Result<Encoder<W>> {
    let Packing { compression, level } = packing.into();
    let inner = match compression {
        Compression::None => Inner::Plain(output),
        Compression::Gzip => {
            let level = level.and_then(|level| u32::try_from(level).ok());
            let level = flate2::Compression::new(level.unwrap_or(GZIP_LEVEL).min(9));
            Inner::Gzip(Members::new(output, level))
        }
        Compression::Zstd => {
            let level = level.unwrap_or(ZSTD_LEVEL);
            let mut encoder = zstd::stream::write::Encoder::new(output, level)?;
            encoder.include_checksum(true)?;
            encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
            encoder.multithread(zstd_threads(level))?;
            Inner::Zstd(encoder)
        }
    };
    Ok(Encoder { inner })
}

/// Not none: one thread that works beside the writer cuts the input as several do, so that what comes out
/// does not depend on the machine (zstd.h, `ZSTD_c_nbWorkers`).
/// At high levels a thread has tables of hundreds of megabytes, so one has to do.
fn zstd_threads(level: i32) -> u32 {
    if level > MAX_SHARED_LEVEL {
        return 1;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(threads)
        .unwrap_or(1)
        .clamp(1, MAX_ZSTD_THREADS)
}

impl<W: Write> Encoder<W> {
    pub fn finish(self) -> io::Result<W> {
        match self.inner {
            Inner::Plain(output) => Ok(output),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Plain(output) => output.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Plain(output) => output.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.inner {
            Inner::Plain(_) => "none",
            Inner::Gzip(_) => "gzip",
            Inner::Zstd(_) => "zstd",
        };
        write!(f, "Encoder({name})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = encoder(compression, Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decoder(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn windows_of_zstd_are_bounded() {
        let frame = |log: u32| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(b"layer").unwrap();
            encoder.finish().unwrap()
        };
        for log in [20, 23, ZSTD_WINDOW_LOG] {
            assert_eq!(unpacked(&frame(log)).unwrap(), b"layer", "{log}");
        }
        let error = unpacked(&frame(ZSTD_WINDOW_LOG + 1)).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

    #[test]
    fn every_form_is_recognised_and_read_back() {
        for text in [&b""[..], b"a", b"abc", &b"layer ".repeat(100_000)] {
            for compression in ALL {
                let blob = packed(compression, text);
                assert_eq!(Compression::of_magic(&blob), compression);
                assert_eq!(unpacked(&blob).unwrap(), text);
            }
        }
    }

    #[test]
    fn every_level_is_read_back_and_none_is_another() {
        let text = b"0123456789 and so on, ".repeat(5000);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let levels = compression.levels().unwrap();
            let at = |level: i32| {
                let packing = Packing {
                    compression,
                    level: Some(level),
                };
                let mut encoder = encoder(packing, Vec::new()).unwrap();
                encoder.write_all(&text).unwrap();
                encoder.finish().unwrap()
            };
            for level in [*levels.start(), *levels.end()] {
                assert_eq!(unpacked(&at(level)).unwrap(), text);
            }
            assert_ne!(at(*levels.start()), at(*levels.end()));
        }
    }

    /// Reproducible layers are the same on a machine with other processors.
    #[test]
    fn zstd_does_not_depend_on_threads() {
        let text: Vec<u8> = (0..9_000_000_u64).map(|n| ((n * n) >> 13) as u8).collect();
        let by = |threads: u32, step: usize| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder
                .set_parameter(CParameter::JobSize(ZSTD_JOB))
                .unwrap();
            encoder.multithread(threads).unwrap();
            for part in text.chunks(step) {
                encoder.write_all(part).unwrap();
            }
            encoder.finish().unwrap()
        };
        let one = by(1, 128 << 10);
        assert!(by(4, 128 << 10) == one && by(2, 77_777) == one);
        assert!(packed_in(Compression::Zstd, &text, 1 << 20) == one);
    }

    fn packed_in(compression: Compression, bytes: &[u8], step: usize) -> Vec<u8> {
        let mut encoder = encoder(compression, Vec::new()).unwrap();
        for part in bytes.chunks(step) {
            encoder.write_all(part).unwrap();
        }
        encoder.finish().unwrap()
    }

    #[test]
    fn members_and_frames_are_concatenated() {
        for compression in ALL {
            let blob = [packed(compression, b"one,"), packed(compression, b"two")].concat();
            assert_eq!(unpacked(&blob).unwrap(), b"one,two");
        }
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..]].concat();
        let blob = [skippable, packed(Compression::Zstd, b"x")].concat();
        assert_eq!(unpacked(&blob).unwrap(), b"x");
    }

    #[test]
    fn zeros_may_follow_gzip_and_garbage_may_not() {
        let blob = packed(Compression::Gzip, b"x");
        for length in [1, 9, 10, 5000] {
            let padded = [blob.clone(), vec![0; length]].concat();
            assert_eq!(unpacked(&padded).unwrap(), b"x");
        }
        for tail in [&b"garbage after it"[..], &[0, 0, 1]] {
            assert!(unpacked(&[&blob[..], tail].concat()).is_err());
        }
    }

    /// As others write it: one member, one frame.
    fn one_run(compression: Compression, byte: u8, length: u64) -> Vec<u8> {
        let mut run = io::repeat(byte).take(length);
        if compression == Compression::Zstd {
            return zstd::encode_all(run, ZSTD_LEVEL).unwrap();
        }
        let level = flate2::Compression::new(GZIP_LEVEL);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        io::copy(&mut run, &mut encoder).unwrap();
        encoder.finish().unwrap()
    }

    /// Both forms, with and without something else before the run; and a run that is short enough.
    #[test]
    fn bombs_are_errors() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let blob = |length: u64| one_run(compression, b'x', length);
            let read = |blob: &[u8]| io::copy(&mut decoder(blob).unwrap(), &mut io::sink());
            assert_eq!(read(&blob(FREE)).unwrap(), FREE);
            let bomb = blob(FREE * 5 / 4);
            let error = read(&bomb).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            // As much that is worth something makes it a large blob and no bomb.
            let mut noise = vec![0; 1 << 20];
            let mut state = 1_u32;
            for byte in &mut noise {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = state.to_le_bytes()[3];
            }
            let large = [packed(compression, &noise), bomb].concat();
            assert_eq!(read(&large).unwrap(), FREE * 5 / 4 + (1 << 20));
        }
    }

    #[test]
    fn zeros_are_no_bomb() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let blob = one_run(compression, 0, FREE * 2);
            let read = io::copy(&mut decoder(&blob[..]).unwrap(), &mut io::sink());
            assert_eq!(read.unwrap(), FREE * 2);
        }
    }

    #[test]
    fn damage_and_truncation_are_errors() {
        let text = b"0123456789".repeat(5000);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let blob = packed(compression, &text);
            assert!(unpacked(&blob[..blob.len() - 3]).is_err());
            let mut bad = blob.clone();
            let last = bad.len() - 2;
            bad[last] ^= 0xff;
            assert!(unpacked(&bad).is_err());
        }
    }
}

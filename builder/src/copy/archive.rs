//! ADD of local archives: recognised by their content, never by their name.
//!
//! What does not begin, once decompressed, with a tar header of a right checksum is an ordinary
//! file. An archive is no layer: files of it may be called `.wh.x`. Entries are carried out by the unpacker's own `apply` beneath the destination: an archive
//! gets no farther than a layer does, and the same bounds hold.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use unpacker::layer::Ownership;
use unpacker::layer::apply::{ApplyOptions, Form, apply};
use unpacker::layer::compress;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Owner;
use unpacker::progress::{Cancel, Progress};

use super::CopyError;

const BLOCK: usize = 512;
/// What xz's own highest preset needs is 65 MiB; `--memlimit` of careful readers is near this.
const XZ_MEMORY: u64 = 512 << 20;

/// The tar inside a file, or nothing where there is none.
pub fn open(file: File) -> io::Result<Option<Box<dyn Read + Send>>> {
    // A stream that cannot even give one block is no archive, whatever its magic says.
    let Ok((mut stream, head)) = decode(file).and_then(first_block) else {
        return Ok(None);
    };
    if !is_header(&head) {
        return Ok(None);
    }
    let mut whole = Vec::with_capacity(BLOCK);
    whole.extend_from_slice(&head);
    stream = Box::new(Cursor::new(whole).chain(stream));
    Ok(Some(stream))
}

type Stream = Box<dyn Read + Send>;

fn first_block(mut stream: Stream) -> io::Result<(Stream, [u8; BLOCK])> {
    let mut head = [0; BLOCK];
    stream.read_exact(&mut head)?;
    Ok((stream, head))
}

fn decode(mut file: File) -> io::Result<Stream> {
    let mut magic = [0; 6];
    let n = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(match magic.get(..n).unwrap_or_default() {
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            Box::new(liblzma::read::XzDecoder::new_stream(file, stream))
        }
        _ => compress::decoder(file)?,
    })
}

/// POSIX.1-1988 ustar: the sum of all bytes, those of the sum itself counted as spaces.
fn is_header(block: &[u8; BLOCK]) -> bool {
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| match (148..156).contains(&at) {
            true => u32::from(b' '),
            false => u32::from(*byte),
        })
        .sum();
    header.cksum().is_ok_and(|written| written == sum) && block[0] != 0
}

/// Unpacks into a folder that is there, and that stays as it is. `owner` is what `--chown` says.
pub fn unpack(
    mut tar: Stream,
    name: &Path,
    to: &Root,
    owner: Option<Owner>,
    ownership: Ownership,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), CopyError> {
    let options = ApplyOptions {
        ownership,
        ..ApplyOptions::default()
    };
    match apply(
        &mut tar,
        to,
        Form::Archive { owner },
        &options,
        progress,
        cancel,
    ) {
        Ok(_) => Ok(()),
        Err(unpacker::layer::apply::ApplyError::Cancelled(cancelled)) => Err(cancelled.into()),
        Err(source) => Err(CopyError::Archive {
            path: name.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn is_archive(bytes: &[u8]) -> bool {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        open(file).unwrap().is_some()
    }

    #[test]
    fn content_decides() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        builder.append_data(&mut header, "a", &b"hi"[..]).unwrap();
        let tar = builder.into_inner().unwrap();
        assert!(is_archive(&tar));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&tar).unwrap();
        assert!(is_archive(&gz.finish().unwrap()));
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&tar).unwrap();
        assert!(is_archive(&xz.finish().unwrap()));
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&tar).unwrap();
        assert!(is_archive(&bz.finish().unwrap()));
        assert!(is_archive(&zstd::encode_all(&tar[..], 1).unwrap()));
        let mut damaged = tar.clone();
        damaged[0] ^= 1;
        for no in [
            &b""[..],
            b"hello",
            b"\x1f\x8bnot gzip",
            &[0; 2048],
            &damaged,
        ] {
            assert!(!is_archive(no));
        }
    }
}

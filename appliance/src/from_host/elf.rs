//! What the dynamic loader reads of a program: interpreter, needed libraries, search paths.
//!
//! Source: System V gABI chapter 5 ("Program Loading and Dynamic Linking"). Only program headers
//! and the dynamic section are looked at, through reads of bounded size, because a file that says
//! it is a program may be hostile. The program is never executed and never mapped.

use std::cell::Cell;
use std::fs::File;
use std::io;

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use object::{Endianness, FileKind};

/// Bytes of one file that may be looked at. The dynamic section and string table of real programs
/// need a few hundred KiB.
const BUDGET: u64 = 16 << 20;
/// Longest string of a dynamic section: PATH_MAX.
const STRING_LIMIT: u64 = 4096;
/// Entries of one dynamic section that are read.
const ENTRY_LIMIT: usize = 8192;

/// The dynamic linking facts of one ELF file. All empty for a static program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    pub architecture: Architecture,
    /// PT_INTERP: the loader that the kernel starts.
    pub interpreter: Option<Vec<u8>>,
    /// DT_SONAME.
    pub soname: Option<Vec<u8>>,
    /// DT_NEEDED in order.
    pub needed: Vec<Vec<u8>>,
    /// DT_RPATH, split at colons, not expanded.
    pub rpath: Vec<Vec<u8>>,
    /// DT_RUNPATH, split at colons, not expanded.
    pub runpath: Vec<Vec<u8>>,
}

/// What must be equal for a library to be loaded into a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Architecture {
    pub is_64: bool,
    pub little_endian: bool,
    /// e_machine.
    pub machine: u16,
}

/// An ELF file that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error("is not a well-formed ELF file")]
    Malformed(#[source] object::read::Error),
    #[error("names a string outside of its string table")]
    BadString,
}

/// Reads an ELF file; `None` for a file of another kind.
pub fn parse(file: File) -> Result<Option<Elf>, ElfError> {
    let reader = Bounded {
        cache: ReadCache::new(file),
        left: Cell::new(BUDGET),
    };
    // A file too short to have a kind is no ELF file.
    match FileKind::parse(&reader) {
        Ok(FileKind::Elf64) => read::<FileHeader64<Endianness>>(&reader).map(Some),
        Ok(FileKind::Elf32) => read::<FileHeader32<Endianness>>(&reader).map(Some),
        _ => Ok(None),
    }
}

fn read<H: FileHeader<Endian = Endianness>>(data: &Bounded) -> Result<Elf, ElfError> {
    let header = H::parse(data).map_err(ElfError::Malformed)?;
    let endian = header.endian().map_err(ElfError::Malformed)?;
    let segments = header
        .program_headers(endian, data)
        .map_err(ElfError::Malformed)?;
    let mut found = Elf {
        architecture: Architecture {
            is_64: header.is_class_64(),
            little_endian: header.is_little_endian(),
            machine: header.e_machine(endian),
        },
        interpreter: None,
        soname: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
    };
    for segment in segments {
        let interpreter = segment
            .interpreter(endian, data)
            .map_err(ElfError::Malformed)?;
        if let Some(path) = interpreter {
            found.interpreter = Some(path.to_vec());
        }
        if let Some(entries) = segment.dynamic(endian, data).map_err(ElfError::Malformed)? {
            read_dynamic::<H>(&mut found, endian, entries, segments, data)?;
        }
    }
    Ok(found)
}

/// Fills in what the dynamic section says.
fn read_dynamic<H: FileHeader<Endian = Endianness>>(
    found: &mut Elf,
    endian: Endianness,
    entries: &[H::Dyn],
    segments: &[H::ProgramHeader],
    data: &Bounded,
) -> Result<(), ElfError> {
    let entries: Vec<(u64, u64)> = entries
        .iter()
        .take(ENTRY_LIMIT)
        .map(|entry| (entry.d_tag(endian).into(), entry.d_val(endian).into()))
        .take_while(|(tag, _)| *tag != u64::from(elf::DT_NULL))
        .collect();
    let value = |wanted: u32| {
        let mut all = entries.iter();
        all.find(|(tag, _)| *tag == u64::from(wanted))
            .map(|(_, value)| *value)
    };
    let Some(address) = value(elf::DT_STRTAB) else {
        return Ok(());
    };
    let table = file_offset::<H>(endian, segments, address).ok_or(ElfError::BadString)?;
    let size = value(elf::DT_STRSZ).unwrap_or(0);
    for (tag, at) in &entries {
        let text = || string(data, table, size, *at);
        match u32::try_from(*tag) {
            Ok(elf::DT_NEEDED) => found.needed.push(text()?),
            Ok(elf::DT_SONAME) => found.soname = Some(text()?),
            Ok(elf::DT_RPATH) => found.rpath = split(&text()?),
            Ok(elf::DT_RUNPATH) => found.runpath = split(&text()?),
            _ => {}
        }
    }
    Ok(())
}

/// Where an address of the loaded program stands in the file.
fn file_offset<H: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    segments: &[H::ProgramHeader],
    address: u64,
) -> Option<u64> {
    segments
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .find_map(|segment| {
            let start: u64 = segment.p_vaddr(endian).into();
            let size: u64 = segment.p_filesz(endian).into();
            let inside = address.checked_sub(start)?;
            let offset: u64 = segment.p_offset(endian).into();
            (inside < size)
                .then(|| offset.checked_add(inside))
                .flatten()
        })
}

fn string(data: &Bounded, table: u64, size: u64, at: u64) -> Result<Vec<u8>, ElfError> {
    let bounds = || {
        let start = table.checked_add(at)?;
        let end = table.checked_add(size)?;
        (at < size).then(|| start..end.min(start.saturating_add(STRING_LIMIT)))
    };
    let range = bounds().ok_or(ElfError::BadString)?;
    let text = data.read_bytes_at_until(range, 0);
    Ok(text.map_err(|()| ElfError::BadString)?.to_vec())
}

fn split(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|byte| *byte == b':')
        .map(<[u8]>::to_vec)
        .collect()
}

/// A cached reader that gives out at most [`BUDGET`] bytes: `ReadCache` alone lets a malformed file
/// grow the cache far beyond its own size.
struct Bounded {
    cache: ReadCache<File>,
    left: Cell<u64>,
}

impl Bounded {
    fn spend(&self, size: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(size).ok_or(())?);
        Ok(())
    }
}

impl<'a> ReadRef<'a> for &'a Bounded {
    fn len(self) -> Result<u64, ()> {
        (&self.cache).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.spend(size)?;
        (&self.cache).read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: std::ops::Range<u64>, end: u8) -> Result<&'a [u8], ()> {
        self.spend(range.end.saturating_sub(range.start).min(STRING_LIMIT))?;
        // The file may end before the string table says that it does.
        let stop = range.end.min(self.len()?);
        (&self.cache).read_bytes_at_until(range.start..stop, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn open(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    /// This test's own executable: always there, always dynamic or static ELF of this host.
    fn own_bytes() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn reads_its_own_program() {
        let found = parse(File::open("/proc/self/exe").unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(found.architecture.is_64, cfg!(target_pointer_width = "64"));
        if cfg!(target_env = "gnu") {
            let interpreter = String::from_utf8(found.interpreter.unwrap()).unwrap();
            assert!(interpreter.contains("/ld-"), "{interpreter}");
            assert!(found.needed.iter().any(|name| name == b"libc.so.6"));
        }
    }

    #[test]
    fn another_kind_of_file_is_none() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fEL", &[0; 4096]] {
            assert_eq!(parse(open(bytes)).unwrap(), None);
        }
    }

    #[test]
    fn a_cut_file_is_an_error_or_empty_but_never_a_panic() {
        let bytes = own_bytes();
        for length in [16, 52, 63, 64, 65, 120, 600, 2000, 5000] {
            let _ = parse(open(&bytes[..length]));
        }
        assert!(parse(open(&bytes[..100])).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_corrupt_header_never_panics(edits in proptest::collection::vec((0usize..1200, any::<u8>()), 1..12)) {
            let mut bytes = own_bytes();
            bytes.truncate(64 << 10);
            for (at, value) in edits {
                bytes[at] = value;
            }
            let _ = parse(open(&bytes));
        }
    }
}

//! Hashes of the context's files, remembered by what `stat` says, so that an unchanged context is not
//! read again.
//!
//! A line per file: device, inode, size, mtime and ctime in nanoseconds, sha256. The ctime cannot be
//! set by `touch`, so an old time with new content is noticed. A file that changed within the
//! last moments before it was read may change again within one tick of the clock; it is not
//! remembered. Damaged lines are forgotten.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use unpacker::digest::{Hasher, sha256};

use super::write_atomically;

/// A tick of the kernel's clock is at most 10 ms; some file systems keep whole seconds.
const SETTLED_NANOS: i128 = 2_000_000_000;
/// Files of one context that are remembered.
const MAX_FILES: usize = 2_000_000;
const BUFFER: usize = 128 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stat {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: i128,
    ctime: i128,
}

/// The hashes of one context folder.
#[derive(Debug)]
pub struct FileHashes {
    dir: PathBuf,
    name: String,
    known: HashMap<Stat, String>,
    /// What this build asked for: only that is kept.
    seen: HashMap<Stat, String>,
    /// How many files had to be read.
    pub read: u64,
}

impl FileHashes {
    /// Loads what is known of the context at `folder`.
    pub fn open(cache: &Path, folder: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let dir = cache.join("files");
        let name = sha256(folder.as_os_str().as_bytes()).digest().to_owned();
        let text = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        Self {
            dir,
            name,
            known: text.lines().take(MAX_FILES).filter_map(parse).collect(),
            seen: HashMap::new(),
            read: 0,
        }
    }

    /// The sha256 of a file's content, in hexadecimal.
    pub fn hash(&mut self, file: &mut File) -> io::Result<String> {
        let now = SystemTime::now();
        let stat = stat(file)?;
        if let Some(hash) = self.known.get(&stat).or_else(|| self.seen.get(&stat)) {
            let hash = hash.clone();
            self.seen.insert(stat, hash.clone());
            return Ok(hash);
        }
        self.read += 1;
        let hash = hash(file)?;
        if settled(&stat, now) && self.seen.len() < MAX_FILES {
            self.seen.insert(stat, hash.clone());
        }
        Ok(hash)
    }

    /// Writes what was learned. A failure costs only time in the next build.
    pub fn save(&self) -> io::Result<()> {
        if self.seen.is_empty() || self.seen == self.known {
            return Ok(());
        }
        let mut text = String::new();
        for (s, hash) in &self.seen {
            use std::fmt::Write;
            let (dev, ino, size, mtime, ctime) = (s.dev, s.ino, s.size, s.mtime, s.ctime);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{dev} {ino} {size} {mtime} {ctime} {hash}");
        }
        write_atomically(&self.dir, &self.name, text.as_bytes())
    }
}

/// The sha256 of what is left of a file, in hexadecimal.
pub(crate) fn hash(file: &mut File) -> io::Result<String> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hasher.finish().digest().to_owned());
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
    }
}

fn stat(file: &File) -> io::Result<Stat> {
    let found = file.metadata()?;
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Ok(Stat {
        dev: found.dev(),
        ino: found.ino(),
        size: found.size(),
        mtime: nanos(found.mtime(), found.mtime_nsec()),
        ctime: nanos(found.ctime(), found.ctime_nsec()),
    })
}

fn settled(stat: &Stat, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
    now - stat.mtime.max(stat.ctime) > SETTLED_NANOS
}

fn parse(line: &str) -> Option<(Stat, String)> {
    let mut fields = line.split(' ');
    let stat = Stat {
        dev: fields.next()?.parse().ok()?,
        ino: fields.next()?.parse().ok()?,
        size: fields.next()?.parse().ok()?,
        mtime: fields.next()?.parse().ok()?,
        ctime: fields.next()?.parse().ok()?,
    };
    let hash = fields.next()?;
    let good = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    (good && fields.next().is_none()).then(|| (stat, hash.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_files_are_read_once_and_fresh_ones_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let mut hashes = FileHashes::open(dir.path(), dir.path());
        let expected = sha256(b"abc").digest().to_owned();
        for _ in 0..2 {
            let got = hashes.hash(&mut File::open(&path).unwrap()).unwrap();
            assert_eq!(got, expected);
        }
        assert_eq!(hashes.read, 2, "a fresh file is not trusted");
        let stat = stat(&File::open(&path).unwrap()).unwrap();
        hashes.seen.insert(stat, expected.clone());
        hashes.save().unwrap();
        let mut again = FileHashes::open(dir.path(), dir.path());
        let got = again.hash(&mut File::open(&path).unwrap()).unwrap();
        assert_eq!((got, again.read), (expected, 0));
    }

    #[test]
    fn damaged_lines_are_forgotten() {
        let hash = "0".repeat(64);
        assert!(parse(&format!("1 2 3 4 5 {hash}")).is_some());
        for line in [
            "",
            "1 2 3 4 5",
            "1 2 3 4 5 zz",
            "x 2 3 4 5 0",
            &format!("1 2 3 4 5 {hash} 6"),
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}

//! Hashes of the context's files, remembered by what `stat` says, so that an unchanged context is not
//! read again.
//!
//! A line per file: device, inode, size, mtime and ctime in nanoseconds, BLAKE3, and how many tables
//! were written since a build asked for it. The ctime cannot be set by `touch`, so an old time with new
//! content is noticed. A file that changed within the last moments before it was read may change again
//! within one tick of the clock; it is not remembered. What no build asks for any more goes after some
//! tables, and at once where the same file has other content now. Damaged lines are forgotten.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use unpacker::digest::sha256;
use unpacker::layer::root::metadata::{Metadata, Timestamp};
use unpacker::progress::Cancel;

use super::{touch, write_atomically};

/// A tick of the kernel's clock is at most 10 ms; some file systems keep whole seconds.
const SETTLED_NANOS: i128 = 2_000_000_000;
/// Files of one context that are remembered.
const MAX_FILES: usize = 2_000_000;
const BUFFER: usize = 128 * 1024;

/// By what a file's content is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stat {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: i128,
    ctime: i128,
}

impl From<&Metadata> for Stat {
    fn from(found: &Metadata) -> Self {
        let nanos = |time: Timestamp| nanos(time.seconds, time.nanos.into());
        Self {
            dev: found.identity.0,
            ino: found.identity.1,
            size: found.size,
            mtime: nanos(found.mtime),
            ctime: nanos(found.ctime),
        }
    }
}

fn nanos(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// Builds of one context that ask for different files take turns; a table is written when one of them
/// learns something. A file that none of so many asked for is forgotten.
const MAX_UNASKED: u8 = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    hash: String,
    /// Tables written since somebody asked for it.
    unasked: u8,
}

/// A file as it was just before it is read.
#[derive(Debug)]
pub struct Asked {
    stat: Stat,
    settled: bool,
}

impl Asked {
    pub fn of(file: &File) -> io::Result<Self> {
        let now = SystemTime::now();
        let stat = stat(file)?;
        let settled = settled(&stat, now);
        Ok(Self { stat, settled })
    }
}

/// A file's content when it was hashed.
#[derive(Debug, Clone)]
pub struct Hashed {
    /// BLAKE3 in hexadecimal.
    pub hash: Box<str>,
    stat: Stat,
    settled: bool,
}

impl Hashed {
    pub fn new(asked: &Asked, hash: &str) -> Self {
        Self {
            hash: hash.into(),
            stat: asked.stat,
            settled: asked.settled,
        }
    }

    /// By what is remembered, which had settled.
    pub fn known(stat: Stat, hash: &str) -> Self {
        Self {
            hash: hash.into(),
            stat,
            settled: true,
        }
    }

    /// Whether `file` certainly is what was hashed, by what `stat` says of it now.
    pub fn is_still(&self, file: &File) -> io::Result<bool> {
        Ok(self.settled && stat(file)? == self.stat)
    }
}

/// The hashes of one context folder.
#[derive(Debug)]
pub struct FileHashes {
    dir: PathBuf,
    name: String,
    known: HashMap<Stat, Known>,
    /// The table is not what is on disk.
    changed: bool,
}

impl FileHashes {
    /// Loads what is known of the context at `folder`.
    pub fn open(cache: &Path, folder: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let dir = cache.join("files");
        // Tables of sha256 had the folder's name alone.
        let named = [b"blake3 ", folder.as_os_str().as_bytes()].concat();
        let name = sha256(&named).digest().to_owned();
        // A table that nothing is learned for is not written, and of use all the same.
        touch(&dir.join(&name));
        let text = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        let mut known: HashMap<Stat, Known> =
            text.lines().take(MAX_FILES).filter_map(parse).collect();
        known.values_mut().for_each(|known| known.unasked += 1);
        Self {
            dir,
            name,
            known,
            changed: false,
        }
    }

    /// The hash of a file's content in hexadecimal, if it need not be read.
    pub fn get(&mut self, stat: &Stat) -> Option<String> {
        let known = self.known.get_mut(stat)?;
        // Of the table before, or of an older one.
        self.changed |= known.unasked > 1;
        known.unasked = 0;
        Some(known.hash.clone())
    }

    /// Takes what was read of a file.
    pub fn learn(&mut self, asked: &Asked, hash: &str) {
        if asked.settled && self.known.len() < MAX_FILES {
            let (hash, unasked) = (hash.to_owned(), 0);
            self.known.insert(asked.stat, Known { hash, unasked });
            self.changed = true;
        }
    }

    /// Writes what was learned. A failure costs only time in the next build.
    pub fn save(&self) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        let asked = self.known.iter().filter(|(_, known)| known.unasked == 0);
        let asked: HashSet<(u64, u64)> = asked.map(|(stat, _)| (stat.dev, stat.ino)).collect();
        let mut text = String::new();
        for (s, Known { hash, unasked }) in &self.known {
            use std::fmt::Write;
            let replaced = *unasked > 0 && asked.contains(&(s.dev, s.ino));
            if replaced || *unasked > MAX_UNASKED {
                continue;
            }
            let (dev, ino, size, mtime, ctime) = (s.dev, s.ino, s.size, s.mtime, s.ctime);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{dev} {ino} {size} {mtime} {ctime} {hash} {unasked}");
        }
        write_atomically(&self.dir, &self.name, text.as_bytes())
    }
}

/// The BLAKE3 of what is left of a file, in hexadecimal; nothing where it was to be stopped. It leaves this
/// host in keys only, so it need not be what registries use, and it costs an eighth.
pub(crate) fn hash(file: &mut File, cancel: &Cancel) -> io::Result<Option<String>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(Some(hasher.finalize().to_hex().to_string()));
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
    }
}

fn stat(file: &File) -> io::Result<Stat> {
    let found = file.metadata()?;
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

fn parse(line: &str) -> Option<(Stat, Known)> {
    let mut fields = line.split(' ');
    let stat = Stat {
        dev: fields.next()?.parse().ok()?,
        ino: fields.next()?.parse().ok()?,
        size: fields.next()?.parse().ok()?,
        mtime: fields.next()?.parse().ok()?,
        ctime: fields.next()?.parse().ok()?,
    };
    let hash = fields.next()?.to_owned();
    let unasked = fields.next()?.parse().ok()?;
    let good = hash.len() == 64
        && hash.bytes().all(|b| b.is_ascii_hexdigit())
        && unasked <= MAX_UNASKED
        && fields.next().is_none();
    good.then_some((stat, Known { hash, unasked }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(ino: u64, size: u64) -> Asked {
        let stat = Stat {
            dev: 1,
            ino,
            size,
            mtime: 3,
            ctime: 4,
        };
        let settled = true;
        Asked { stat, settled }
    }

    #[test]
    fn settled_files_are_remembered_and_fresh_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let opened = File::open(&path).unwrap();
        let asked = Asked::of(&opened).unwrap();
        assert!(!asked.settled);
        let mut hashes = FileHashes::open(dir.path(), dir.path());
        hashes.learn(&asked, &"a".repeat(64));
        assert_eq!(
            hashes.get(&asked.stat),
            None,
            "it may change within this tick"
        );
        let later = SystemTime::now() + std::time::Duration::from_secs(3);
        assert!(settled(&asked.stat, later));
    }

    #[test]
    fn what_was_learned_is_there_in_the_next_build() {
        let dir = tempfile::tempdir().unwrap();
        let hash = sha256(b"abc").digest().to_owned();
        let mut hashes = FileHashes::open(dir.path(), dir.path());
        hashes.learn(&file(2, 3), &hash);
        hashes.save().unwrap();
        let mut again = FileHashes::open(dir.path(), dir.path());
        assert_eq!(again.get(&file(2, 3).stat), Some(hash));
        assert_eq!(again.get(&file(2, 4).stat), None);
        assert!(!again.changed, "nothing is to be written");
        let table = File::open(hashes.dir.join(&hashes.name)).unwrap();
        let old = SystemTime::now() - std::time::Duration::from_secs(40 * 24 * 3600);
        table.set_modified(old).unwrap();
        FileHashes::open(dir.path(), dir.path());
        assert!(table.metadata().unwrap().modified().unwrap() > old);
    }

    #[test]
    fn builds_with_other_files_keep_each_others_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "0".repeat(64);
        let learn = |asked: &Asked| {
            let mut hashes = FileHashes::open(dir.path(), dir.path());
            hashes.learn(asked, &hash);
            hashes.save().unwrap();
        };
        let known = |asked: &Asked| {
            FileHashes::open(dir.path(), dir.path())
                .get(&asked.stat)
                .is_some()
        };
        learn(&file(1, 1));
        learn(&file(2, 1));
        assert!(known(&file(1, 1)) && known(&file(2, 1)));
        learn(&file(1, 2));
        assert!(!known(&file(1, 1)), "the file has other content now");
        for n in 0..=u64::from(MAX_UNASKED) {
            learn(&file(10 + n, 1));
        }
        assert!(!known(&file(2, 1)), "nobody asked for it");
        assert!(known(&file(11, 1)));
    }

    #[test]
    fn damaged_lines_are_forgotten() {
        let hash = "0".repeat(64);
        assert!(parse(&format!("1 2 3 4 5 {hash} 0")).is_some());
        for line in [
            "",
            "1 2 3 4 5",
            "1 2 3 4 5 zz 0",
            "x 2 3 4 5 0 0",
            &format!("1 2 3 4 5 {hash}"),
            &format!("1 2 3 4 5 {hash} 9"),
            &format!("1 2 3 4 5 {hash} 0 1"),
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}

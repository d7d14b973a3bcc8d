//! The log of a sandbox: one JSON object a line, as docker's `json-file` driver writes them.
//!
//! ```text
//! {"log":"text\n","stream":"stdout","time":"2026-11-21T04:00:00.123456789Z"}
//! ```
//!
//! A line longer than 16 KiB is told in pieces, of which the last has the newline. Files are
//! rotated: `log` is the newest, then `log.1`, `log.2` and so on; how large and how many they are
//! is said by [`LogLimits`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::record;
use super::spec::LogLimits;
use super::supervise::LogLine;

const NEWEST: &str = "log";
/// More files than anybody keeps.
const MAX_FILES: u32 = 100;
const MAX_LINE: usize = 16 * 1024;
/// A line of JSON is at most six times its text, and a little.
const MAX_JSON: u64 = 8 * MAX_LINE as u64;

/// Takes output and appends it to the log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    folder: OwnedFd,
    file: File,
    size: u64,
    limits: LogLimits,
    /// The unfinished lines of both streams.
    pending: [(&'static str, Vec<u8>); 2],
}

impl LogWriter {
    pub(crate) fn open(folder: OwnedFd, limits: LogLimits) -> io::Result<Self> {
        let file = open_newest(&folder)?;
        Ok(Self {
            size: file.metadata()?.len(),
            folder,
            file,
            limits,
            pending: [("stdout", Vec::new()), ("stderr", Vec::new())],
        })
    }

    /// Takes a piece of a stream.
    pub(crate) fn write(&mut self, stderr: bool, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (_, line) = &mut self.pending[usize::from(stderr)];
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") || line.len() >= MAX_LINE {
                self.flush(stderr)?;
            }
        }
        Ok(())
    }

    /// Writes unfinished lines, at the end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.flush(false)?;
        self.flush(true)
    }

    fn flush(&mut self, stderr: bool) -> io::Result<()> {
        let (stream, line) = &mut self.pending[usize::from(stderr)];
        let line = std::mem::take(line);
        for piece in line.chunks(MAX_LINE) {
            let entry = LogLine {
                log: String::from_utf8_lossy(piece).into_owned(),
                stream: (*stream).to_owned(),
                time: record::now(),
            };
            let mut text = serde_json::to_vec(&entry)?;
            text.push(b'\n');
            if self.size + text.len() as u64 > self.limits.max_size && self.size > 0 {
                rotate(&self.folder, self.limits.max_files)?;
                self.file = open_newest(&self.folder)?;
                self.size = 0;
            }
            self.file.write_all(&text)?;
            self.size += text.len() as u64;
        }
        Ok(())
    }
}

fn open_newest(folder: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    Ok(rustix::fs::openat(folder, NEWEST, flags, mode)?.into())
}

/// The name of the file that was the newest so many rotations ago.
fn name(age: u32) -> String {
    match age {
        0 => NEWEST.to_owned(),
        age => format!("{NEWEST}.{age}"),
    }
}

/// With one file there is nothing that the newest could become.
fn rotate(folder: &OwnedFd, max_files: u32) -> io::Result<()> {
    let there = |done: rustix::io::Result<()>| match done {
        Err(rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
        Err(e) => Err(io::Error::from(e)),
    };
    let oldest = max_files.clamp(1, MAX_FILES) - 1;
    if oldest == 0 {
        return there(rustix::fs::unlinkat(
            folder,
            NEWEST,
            rustix::fs::AtFlags::empty(),
        ));
    }
    for age in (0..oldest).rev() {
        there(rustix::fs::renameat(
            folder,
            name(age),
            folder,
            name(age + 1),
        ))?;
    }
    Ok(())
}

/// Reads the log, across rotations.
#[derive(Debug)]
pub(crate) struct LogReader {
    folder: OwnedFd,
    /// Files that existed at first, oldest last, and are not read yet.
    waiting: Vec<File>,
    current: Option<BufReader<File>>,
    partial: Vec<u8>,
}

impl LogReader {
    pub(crate) fn open(folder: OwnedFd) -> Self {
        let open = |age| open_read(&folder, &name(age)).ok();
        // Between a rotation and the next line there is no newest one.
        let newest = open(0).into_iter();
        let mut waiting: Vec<_> = newest.chain((1..MAX_FILES).map_while(open)).collect();
        Self {
            current: waiting.pop().map(BufReader::new),
            folder,
            waiting,
            partial: Vec::new(),
        }
    }

    /// The next whole line, `None` when there is none yet.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            let Some(reader) = &mut self.current else {
                if !self.advance()? {
                    return Ok(None);
                }
                continue;
            };
            let room = MAX_JSON.saturating_sub(self.partial.len() as u64);
            let mut limited = io::Read::take(reader, room);
            limited.read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") || self.partial.len() as u64 >= MAX_JSON {
                let line = std::mem::take(&mut self.partial);
                // What a full disk has cut is no line.
                if let Ok(line) = serde_json::from_slice(&line) {
                    return Ok(Some(line));
                }
            } else if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// Goes on to the next newer file; `false` when this is the newest.
    fn advance(&mut self) -> io::Result<bool> {
        if let Some(next) = self.waiting.pop() {
            self.current = Some(BufReader::new(next));
            self.partial.clear();
            return Ok(true);
        }
        let Ok(newest) = open_read(&self.folder, NEWEST) else {
            return Ok(false);
        };
        let same = match &self.current {
            Some(reader) => is_same(reader.get_ref(), &newest)?,
            None => false,
        };
        if !same {
            // The old file is read once more first: it may have grown before it was renamed.
            self.waiting.push(newest);
        }
        Ok(!same)
    }
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn open_read(folder: impl AsFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(reader: &mut LogReader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_line().unwrap())
            .map(|line| format!("{} {}", line.stream, line.log))
            .collect()
    }

    #[test]
    fn lines_are_put_together_and_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = || record::open_folder(dir.path()).unwrap();
        let mut log = LogWriter::open(folder(), LogLimits::default()).unwrap();
        log.write(false, b"one\ntw").unwrap();
        log.write(true, b"err\n").unwrap();
        let mut reader = LogReader::open(folder());
        assert_eq!(read_all(&mut reader), ["stdout one\n", "stderr err\n"]);
        log.write(false, b"o\nrest").unwrap();
        log.finish().unwrap();
        assert_eq!(read_all(&mut reader), ["stdout two\n", "stdout rest"]);
    }

    #[test]
    fn a_follower_crosses_rotations_and_the_log_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let folder = || record::open_folder(dir.path()).unwrap();
        let limits = |max_files| LogLimits {
            max_size: 500,
            max_files,
        };
        let mut log = LogWriter::open(folder(), limits(3)).unwrap();
        let mut reader = LogReader::open(folder());
        let mut seen = Vec::new();
        for number in 0..100 {
            log.write(false, format!("{number}\n").as_bytes()).unwrap();
            seen.extend(read_all(&mut reader));
        }
        assert_eq!(seen.len(), 100);
        assert_eq!(seen[99], "stdout 99\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        let fresh = read_all(&mut LogReader::open(folder()));
        assert!(
            fresh.len() < 30 && fresh.last().unwrap() == "stdout 99\n",
            "{fresh:?}"
        );
        // With one file alone nothing is kept of what was in it.
        let mut log = LogWriter::open(folder(), limits(1)).unwrap();
        for number in 0..100 {
            log.write(true, format!("{number}\n").as_bytes()).unwrap();
        }
        let newest = std::fs::metadata(dir.path().join("log")).unwrap();
        assert!(newest.len() <= 500);
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let folder = || record::open_folder(dir.path()).unwrap();
        let mut log = LogWriter::open(folder(), LogLimits::default()).unwrap();
        log.write(false, &vec![1; 3 * MAX_LINE / 2]).unwrap();
        log.write(false, b"\n").unwrap();
        let lines = read_all(&mut LogReader::open(folder()));
        let text: String = lines
            .iter()
            .map(|line| line.trim_start_matches("stdout "))
            .collect();
        assert_eq!(text.len(), 3 * MAX_LINE / 2 + 1);
    }
}

//! Which ids there are: the map of a user namespace.

use std::io;

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// What it is in the namespace around.
    pub outside: u32,
    pub count: u32,
}

/// A user namespace's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// Of the calling process.
    pub fn current() -> io::Result<Self> {
        Ok(Self {
            uids: parse(&std::fs::read_to_string("/proc/self/uid_map")?)?,
            gids: parse(&std::fs::read_to_string("/proc/self/gid_map")?)?,
        })
    }

    /// Only one user id exists: files cannot be given to anybody.
    pub fn is_single(&self) -> bool {
        matches!(self.uids[..], [IdRange { count: 1, .. }])
    }

    /// Whether every id of the host is here: the initial user namespace, or all of one.
    pub fn is_whole(&self) -> bool {
        self.uids
            .iter()
            .any(|range| range.inside == 0 && range.outside == 0 && range.count == u32::MAX)
    }

    pub fn has_uid(&self, id: u32) -> bool {
        has(&self.uids, id)
    }

    pub fn has_gid(&self, id: u32) -> bool {
        has(&self.gids, id)
    }
}

fn has(ranges: &[IdRange], id: u32) -> bool {
    ranges
        .iter()
        .any(|range| id >= range.inside && id - range.inside < range.count)
}

/// The text of `/proc/<pid>/uid_map`.
fn parse(text: &str) -> io::Result<Vec<IdRange>> {
    text.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> io::Result<IdRange> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("no id range: {line:?}"));
    let mut numbers = line.split_ascii_whitespace().map(str::parse);
    match (
        numbers.next(),
        numbers.next(),
        numbers.next(),
        numbers.next(),
    ) {
        (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count)), None) => Ok(IdRange {
            inside,
            outside,
            count,
        }),
        _ => Err(bad()),
    }
}

/// Ranges as they are written to a nested namespace that has exactly these ids, unchanged.
pub(crate) fn identity(ranges: &[IdRange]) -> String {
    let line = |range: &IdRange| format!("{0} {0} {1}\n", range.inside, range.count);
    ranges.iter().map(line).collect()
}

pub use super::enter::{EnterError, as_user, enter};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_repeated() {
        let ranges = parse("         0       1000          1\n 1 100000 65536\n").unwrap();
        assert_eq!(identity(&ranges), "0 0 1\n1 1 65536\n");
        assert!(has(&ranges, 0) && has(&ranges, 65536) && !has(&ranges, 65537));
        for bad in ["1 2", "a b c", "1 2 3 4"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

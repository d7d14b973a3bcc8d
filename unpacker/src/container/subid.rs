//! Subordinate ids: what `/etc/subuid` and `/etc/subgid` give a user, see subuid(5).

use std::path::PathBuf;

/// Ids that a user may map besides the own one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// User and group ids of `uid`, when both files give some and the programs that map them are
/// installed.
pub(crate) fn ranges(uid: u32) -> Option<(Range, Range)> {
    find_program("newuidmap")?;
    find_program("newgidmap")?;
    let name = name_of(uid);
    let largest = |file| {
        let text = std::fs::read_to_string(file).ok()?;
        find(&text, uid, name.as_deref())
    };
    Some((largest("/etc/subuid")?, largest("/etc/subgid")?))
}

/// Where a set-id program of the host is.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    (std::env::split_paths(&path).chain(usual))
        .map(|folder| folder.join(name))
        .find(|program| program.is_absolute() && program.is_file())
}

fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    // Users of a directory service stand in no file.
    named.or_else(|| std::env::var("USER").ok())
}

/// The largest range of the user, by name or number.
fn find(text: &str, uid: u32, name: Option<&str>) -> Option<Range> {
    let number = uid.to_string();
    let ranges = text.lines().filter_map(|line| {
        let fields: Vec<_> = line.trim().split(':').collect();
        let [who, first, count] = fields[..] else {
            return None;
        };
        let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
        first.checked_add(count)?;
        ((who == number || Some(who) == name) && count > 0).then_some(Range { first, count })
    });
    ranges.max_by_key(|range| range.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_the_user_counts() {
        let text = "# x\njoe:1:2\n1000:100000:65536\njoe:4294967295:9\nann:7:99999\nbad\n";
        for (uid, name, range) in [
            (1000, Some("joe"), Some((100_000, 65536))),
            (1, Some("joe"), Some((1, 2))),
            (1, None, None),
        ] {
            let found = find(text, uid, name).map(|range| (range.first, range.count));
            assert_eq!(found, range);
        }
    }
}

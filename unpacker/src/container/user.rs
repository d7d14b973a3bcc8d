//! `USER` of an image: names and numbers to ids, by the files of the image itself.
//!
//! The files are hostile: they are opened inside the root, bounded, and every line that is not
//! well-formed is passed over.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};

use super::inside::open_beneath;
use super::spec::User;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Thousands of users; no image has more.
const LIMIT: u64 = 1 << 20;
/// What the kernel takes in setgroups(2).
const MAX_GROUPS: usize = 65536;

/// A user as a process needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub user: User,
    /// The name; the number's text when the image does not know the user.
    pub name: String,
    /// `/` when the image does not know the user.
    pub home: String,
    /// `/bin/sh` when the image does not tell.
    pub shell: String,
}

/// Why a user is nobody.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("no user {name:?} in {PASSWD} of the image")]
    UnknownUser { name: String },
    #[error("no group {name:?} in {GROUP} of the image")]
    UnknownGroup { name: String },
    #[error("{text:?} is no id: the largest is {}", i32::MAX)]
    Range { text: String },
    #[error("{file} of the image is larger than {LIMIT} bytes")]
    TooLarge { file: &'static str },
    #[error("cannot read {file} of the image")]
    Io {
        file: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Resolves `name`, `uid`, `name:group` or `uid:gid`; empty text is root. `root` is the folder
/// descriptor of the root file system. With a group named, supplementary groups are left out, as
/// docker does.
pub fn resolve(root: BorrowedFd<'_>, text: &str) -> Result<Resolved, UserError> {
    let passwd = read(root, PASSWD)?;
    let group = read(root, GROUP)?;
    resolve_in(&passwd, &group, text)
}

/// The number of one group, by its name or number.
pub fn resolve_group(root: BorrowedFd<'_>, text: &str) -> Result<u32, UserError> {
    find_group(&read(root, GROUP)?, text)
}

fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<String, UserError> {
    let failed = |source: std::io::Error| UserError::Io { file, source };
    // A FIFO in the file's place must not block us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match open_beneath(root, Path::new(file), flags) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(failed(e.into())),
    };
    let stat = fstat(&fd).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    let mut limited = File::from(fd).take(LIMIT + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(UserError::TooLarge { file });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn resolve_in(passwd: &str, group: &str, text: &str) -> Result<Resolved, UserError> {
    let (who, which) = match text.split_once(':') {
        Some((who, which)) => (who, Some(which).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let who = if who.is_empty() { "0" } else { who };
    let account = find_account(passwd, who)?;
    let gid = match which {
        Some(name) => find_group(group, name)?,
        None => account.gid,
    };
    let groups = match which {
        Some(_) => vec![],
        None => memberships(group, account.name, gid),
    };
    Ok(Resolved {
        user: User {
            uid: account.uid,
            gid,
            groups,
        },
        name: account.name.to_owned(),
        home: or(account.home, "/"),
        shell: or(account.shell, "/bin/sh"),
    })
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// A name goes before a number, as in docker: a user may be called `1000`.
fn find_account<'a>(passwd: &'a str, who: &'a str) -> Result<Account<'a>, UserError> {
    let mut accounts = passwd.lines().filter_map(account);
    if let Some(found) = accounts.find(|account| account.name == who) {
        return Ok(found);
    }
    let Some(uid) = number(who)? else {
        return Err(UserError::UnknownUser {
            name: who.to_owned(),
        });
    };
    let mut accounts = passwd.lines().filter_map(account);
    Ok(accounts
        .find(|account| account.uid == uid)
        .unwrap_or(Account {
            name: who,
            uid,
            gid: 0,
            home: "",
            shell: "",
        }))
}

/// passwd(5).
fn account(line: &str) -> Option<Account<'_>> {
    let fields: Vec<_> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell, ..] = fields[..] else {
        return None;
    };
    Some(Account {
        name,
        uid: id(uid)?,
        gid: id(gid)?,
        home,
        shell,
    })
    .filter(|account| !account.name.is_empty())
}

fn find_group(file: &str, which: &str) -> Result<u32, UserError> {
    let named = file
        .lines()
        .filter_map(group_line)
        .find(|(name, ..)| *name == which);
    match (named, number(which)?) {
        (Some((_, gid, _)), _) | (None, Some(gid)) => Ok(gid),
        (None, None) => Err(UserError::UnknownGroup {
            name: which.to_owned(),
        }),
    }
}

/// group(5).
fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let fields: Vec<_> = line.split(':').collect();
    let [name, _, gid, members] = fields[..] else {
        return None;
    };
    Some((name, id(gid)?, members)).filter(|(name, ..)| !name.is_empty())
}

fn memberships(file: &str, user: &str, primary: u32) -> Vec<u32> {
    let mut gids: Vec<u32> = (file.lines().filter_map(group_line))
        .filter(|(_, gid, members)| *gid != primary && members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
        .take(MAX_GROUPS)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= i32::MAX as u32)
}

/// `None` for what is no number at all. Ids above `i32::MAX` wrap in other tools and become root
/// there (CVE-2024-40635), so they are refused.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let out_of_range = || UserError::Range {
        text: text.to_owned(),
    };
    id(text).map(Some).ok_or_else(out_of_range)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n:x:1:1:::\n\
        joe:x:1000:1000:Joe:/home/joe:/bin/zsh\n1000:x:7:7::/seven:\nbig:x:4294967295:0:::\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:joe,ann\njoe:x:1000:\nwheel:x:10:ann,joe\nx:y\n";

    #[test]
    fn users_are_found_by_name_number_and_group() {
        for (text, uid, gid, groups, name, home, shell) in [
            ("", 0, 0, &[][..], "root", "/root", "/bin/bash"),
            ("joe", 1000, 1000, &[4, 10], "joe", "/home/joe", "/bin/zsh"),
            ("joe:adm", 1000, 4, &[], "joe", "/home/joe", "/bin/zsh"),
            ("joe:77", 1000, 77, &[], "joe", "/home/joe", "/bin/zsh"),
            ("joe:", 1000, 1000, &[4, 10], "joe", "/home/joe", "/bin/zsh"),
            ("1000", 7, 7, &[], "1000", "/seven", "/bin/sh"),
            (":10", 0, 10, &[], "root", "/root", "/bin/bash"),
            ("4242", 4242, 0, &[], "4242", "/", "/bin/sh"),
        ] {
            let got = resolve_in(PASSWD, GROUP, text).unwrap();
            let user = User {
                uid,
                gid,
                groups: groups.to_vec(),
            };
            assert_eq!(got.user, user, "{text}");
            assert_eq!(
                (&*got.name, &*got.home, &*got.shell),
                (name, home, shell),
                "{text}"
            );
        }
    }

    #[test]
    fn nobody_is_told() {
        for (text, message) in [
            ("ann", "no user \"ann\" in /etc/passwd of the image"),
            ("big", "no user \"big\" in /etc/passwd of the image"),
            ("joe:gone", "no group \"gone\" in /etc/group of the image"),
            (
                "4294967296",
                "\"4294967296\" is no id: the largest is 2147483647",
            ),
            ("-1", "no user \"-1\" in /etc/passwd of the image"),
        ] {
            let error = resolve_in(PASSWD, GROUP, text).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn files_are_the_image_s_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        assert_eq!(resolve(root.as_fd(), "0").unwrap().home, "/");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        // A link to the host's file leads into the image.
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("etc/passwd")).unwrap();
        assert!(resolve(root.as_fd(), "root").is_err());
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            vec![b'x'; (LIMIT + 1) as usize],
        )
        .unwrap();
        let error = resolve(root.as_fd(), "root").unwrap_err();
        assert!(matches!(error, UserError::TooLarge { .. }), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn rubbish_never_panics(passwd in "\\PC{0,80}", group in "\\PC{0,80}", text in "\\PC{0,12}") {
            let _ = resolve_in(&passwd, &group, &text);
        }
    }
}

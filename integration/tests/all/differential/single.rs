//! Owners beside the files: `user.containers.override_stat` (`uid:gid:0mode`, of podman and ours) and
//! `user.rootlesscontainers` (a message of two numbers, of umoci).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use integration::tree::{Look, Tree, xattr};

fn look(top: &Path, owner: &dyn Fn(&Path, &Metadata) -> (u32, u32)) -> Tree {
    let look = Look {
        owner,
        xattr: &|name| name.starts_with("user.") && !is_note(name),
    };
    look.at(top)
}

fn is_note(name: &str) -> bool {
    ["user.containers.override_stat", "user.rootlesscontainers"].contains(&name)
}

/// The tree that we mean: owners and modes as they are noted.
pub(super) fn ours(top: &Path) -> Tree {
    let note = |path: &Path| {
        let text = String::from_utf8(xattr(path, "user.containers.override_stat")?).unwrap();
        let fields: Vec<u32> = text
            .split(':')
            .map(|field| u32::from_str_radix(field, 8).unwrap_or(0))
            .collect();
        let mut numbers = text.split(':').map(|field| field.parse().unwrap());
        Some((numbers.next().unwrap(), numbers.next().unwrap(), fields[2]))
    };
    let owner = |path: &Path, data: &Metadata| match note(path) {
        Some((uid, gid, mode)) => {
            // Only what would lend the user's id to others is not on disk.
            assert_eq!(mode & 0o1777, data.mode() & 0o1777, "{}", path.display());
            (uid, gid)
        }
        None => (0, 0),
    };
    without_set_id(look(top, &owner))
}

/// The tree that umoci means.
pub(super) fn umocis(top: &Path) -> Tree {
    let owner = |path: &Path, _: &Metadata| {
        let note = xattr(path, "user.rootlesscontainers").unwrap_or_default();
        // The highest number says that nothing is said.
        let known = |id| if id == u32::MAX { 0 } else { id };
        let (uid, gid) = message(&note);
        (known(uid), known(gid))
    };
    without_set_id(look(top, &owner))
}

/// Two numbers in protobuf's form: fields 1 and 2, as varints; what is missing is zero.
fn message(mut bytes: &[u8]) -> (u32, u32) {
    let mut found = (0, 0);
    while let Some((&key, rest)) = bytes.split_first() {
        let length = rest.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let number = rest[..length].iter().rev();
        let number = number.fold(0, |sum, byte| (sum << 7) | u32::from(byte & 0x7f));
        match key >> 3 {
            1 => found.0 = number,
            _ => found.1 = number,
        }
        bytes = &rest[length..];
    }
    found
}

/// umoci keeps set-id bits on files of the user; we note them only.
fn without_set_id(tree: Tree) -> Tree {
    let cut = |line: String| {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if words[0] == "file" {
            let mode = u32::from_str_radix(&words[1], 8).unwrap();
            words[1] = format!("{:04o}", mode & 0o1777);
        }
        words.join(" ")
    };
    tree.into_iter()
        .map(|(path, line)| (path, cut(line)))
        .collect()
}

//! Access control lists: the text that archives have, as the bytes that the kernel takes. Pure.
//!
//! `user::rw-,user:1000:rwx,group::r--,mask::rwx,other::r--`; entries end at a comma or a line end,
//! and star appends the number of a name, `user:joe:rwx:1000`. Names are never looked up: they
//! would be the host's. Source: acl(5); Linux `include/uapi/linux/posix_acl_xattr.h`.

/// Version of the kernel's form.
const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;
/// More than any list has that fits into an inode.
const MAX_ENTRIES: usize = 1000;

/// Whom an entry is about: `e_tag`, in the order that the kernel wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwningGroup = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tag: Tag,
    id: u32,
    permissions: u16,
}

/// `None` for what is no list, or names users without their numbers.
pub(super) fn binary(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for part in text.split([',', '\n']) {
        // Behind '#' stands what the mask leaves of an entry.
        let part = part.split('#').next().unwrap_or_default().trim();
        if !part.is_empty() {
            entries.push(entry(part)?);
        }
    }
    entries.sort();
    is_whole(&entries).then(|| encode(&entries))
}

fn entry(text: &str) -> Option<Entry> {
    let mut fields = text.split(':').map(str::trim);
    let (tag, name, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    let number = fields.next().unwrap_or(name);
    let tag = match (tag, name.is_empty()) {
        ("user" | "u", true) => Tag::Owner,
        ("user" | "u", false) => Tag::User,
        ("group" | "g", true) => Tag::OwningGroup,
        ("group" | "g", false) => Tag::Group,
        ("mask" | "m", true) => Tag::Mask,
        ("other" | "o", true) => Tag::Other,
        _ => return None,
    };
    let id = match tag {
        Tag::User | Tag::Group => number.parse().ok().filter(|id| *id != NOBODY)?,
        _ => NOBODY,
    };
    Some(Entry {
        tag,
        id,
        permissions: bits(permissions)?,
    })
}

fn bits(text: &str) -> Option<u16> {
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })
}

/// What the kernel demands: one owner, one group, one for all others, and a mask where somebody is
/// named.
fn is_whole(entries: &[Entry]) -> bool {
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    let named = count(Tag::User) + count(Tag::Group);
    let masks = count(Tag::Mask);
    let twice = |pair: &[Entry]| (pair[0].tag, pair[0].id) == (pair[1].tag, pair[1].id);
    let each = [Tag::Owner, Tag::OwningGroup, Tag::Other].map(count) == [1, 1, 1];
    each && (masks == 1 || named == 0)
        && !entries.windows(2).any(twice)
        && entries.len() <= MAX_ENTRIES
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        out.extend((entry.tag as u16).to_le_bytes());
        out.extend(entry.permissions.to_le_bytes());
        out.extend(entry.id.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `getfattr -e hex` shows what `setfacl` sets.
    #[test]
    fn text_becomes_what_the_kernel_keeps() {
        let expected = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 7, 0, 232, 3, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[16, 0, 7, 0, 255, 255, 255, 255],
            &[32, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        for text in [
            "user::rw-,user:1000:rwx,group::r--,mask::rwx,other::r--",
            "other::r--\nmask::rwx\ngroup::r--\nuser:1000:rwx\t#effective:r--\nuser::rw-\n",
            "u::rw,u:joe:rwx:1000,g::r,m::rwx,o::r",
        ] {
            assert_eq!(binary(text.as_bytes()), Some(expected.clone()), "{text}");
        }
    }

    #[test]
    fn half_lists_and_names_are_none() {
        for bad in [
            "",
            "user::rw-",
            "user::rw-,user:joe:rwx,group::r--,mask::rwx,other::r--",
            "user::rw-,user:1:rwx,group::r--,other::r--",
            "user::rw-,user::r--,group::r--,other::r--",
            "user::rq-,group::r--,other::r--",
            "user::rw-,group::r--,other::r--,mask:1:r",
            "user::rw-,group::r--,mask::r,other::r--,user:4294967295:r",
            "user::rw-,group::r--,mask::r,other::r--,user:1:r,user:1:w",
        ] {
            assert_eq!(binary(bad.as_bytes()), None, "{bad}");
        }
    }
}

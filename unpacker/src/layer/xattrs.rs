//! Extended attributes of a tar entry, as they are set on disk. Pure.
//!
//! | record | what it is |
//! |---|---|
//! | `SCHILY.xattr.NAME` | the value as it is (GNU tar, Go) |
//! | `LIBARCHIVE.xattr.NAME` | the name with `%XX`, the value in base64 |
//! | `SCHILY.acl.access`, `.default` | an access control list as text (star, GNU tar): `acl` |
//!
//! An image has a say in `user.`, in file capabilities and in access control lists, and in nothing
//! else: labels and keys of security modules are the host's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::acl;
use super::archive::RawEntry;
use super::entry::{Refusal, told};
use super::ownership::OVERRIDE_STAT;

/// As the kernel (`XATTR_SIZE_MAX`).
pub(super) const MAX_XATTR: usize = 64 * 1024;
/// Extended attributes of one entry; no file system keeps more than a few.
pub(super) const MAX_XATTRS: usize = 100;
/// The kernel's names of access control lists.
pub(crate) const ACL_ACCESS: &str = "system.posix_acl_access";
pub(crate) const ACL_DEFAULT: &str = "system.posix_acl_default";

/// Attributes in the order in which they are set.
pub(super) type Xattrs = Vec<(OsString, Vec<u8>)>;

/// The attributes of an entry, and what of them cannot be kept.
pub(super) fn xattrs(raw: &RawEntry, overlay: bool) -> Result<(Xattrs, Vec<String>), Refusal> {
    let mut found: Xattrs = Vec::new();
    for (key, value) in &raw.records {
        let Some((name, value)) = attribute(key, value)? else {
            continue;
        };
        if name.is_empty() || name.contains(&0) || value.len() > MAX_XATTR || is_long(&name) {
            return Err(bad_xattr(&name));
        }
        let Some(name) = imported(&name, overlay) else {
            continue;
        };
        let name = OsString::from_vec(name);
        found.retain(|(earlier, _)| *earlier != name);
        found.push((name, value));
        if found.len() > MAX_XATTRS {
            return Err(Refusal::TooManyXattrs);
        }
    }
    let lost = add_lists(raw, &mut found);
    // File capabilities last: other changes to a file may take them away.
    found.sort_by_key(|(name, _)| name == "security.capability");
    Ok((found, lost))
}

type Attribute = (Vec<u8>, Vec<u8>);

fn attribute(key: &[u8], value: &[u8]) -> Result<Option<Attribute>, Refusal> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        return Ok(Some((name.to_vec(), value.to_vec())));
    }
    let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") else {
        return Ok(None);
    };
    let decoded = percent(name).zip(base64(value));
    decoded.map(Some).ok_or_else(|| bad_xattr(name))
}

/// Adds access control lists that are told as text, unless they are there in the kernel's own form.
fn add_lists(raw: &RawEntry, found: &mut Xattrs) -> Vec<String> {
    let mut lost = Vec::new();
    for (key, name) in [
        ("SCHILY.acl.access", ACL_ACCESS),
        ("SCHILY.acl.default", ACL_DEFAULT),
    ] {
        let Some(text) = raw.record(key) else {
            continue;
        };
        if found.iter().any(|(known, _)| known == name) {
            continue;
        }
        match acl::binary(text) {
            Some(value) => found.push((name.into(), value)),
            None => lost.push(format!(
                "an access control list ({key}) that names users without their numbers, or is \
                 malformed, is left out"
            )),
        }
    }
    lost
}

/// The name an attribute of an image gets on disk; `None` for what an image has no say in, such as
/// labels of the host's security modules.
fn imported(name: &[u8], overlay: bool) -> Option<Vec<u8>> {
    let users = name.starts_with(b"user.") && name != OVERRIDE_STAT.as_bytes();
    let lists = [ACL_ACCESS, ACL_DEFAULT].map(str::as_bytes);
    if !users && name != b"security.capability" && !lists.contains(&name) {
        return None;
    }
    match name.strip_prefix(b"user.overlay.") {
        // Kernels since 6.7 take the escape away again; older ones just ignore the name.
        Some(rest) if overlay => Some([b"user.overlay.overlay.", rest].concat()),
        _ => Some(name.to_vec()),
    }
}

/// More than the kernel takes (`XATTR_NAME_MAX`), escaped or not: both forms refuse the same.
fn is_long(name: &[u8]) -> bool {
    let escape = match name.starts_with(b"user.overlay.") {
        true => b"overlay.".len(),
        false => 0,
    };
    name.len() + escape > 255
}

fn bad_xattr(name: &[u8]) -> Refusal {
    Refusal::Xattr { name: told(name) }
}

/// libarchive writes unusual bytes of names as `%XX`.
fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail.get(2..)?;
    }
    Some(out)
}

/// Base64 with or without padding (libarchive writes none).
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = match text {
        [rest @ .., b'=', b'='] | [rest @ .., b'='] => rest,
        rest => rest,
    };
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = ((bits << 6) | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    (count < 6).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(records: &[(&str, &[u8])]) -> Result<(Xattrs, Vec<String>), Refusal> {
        let owned = |(key, value): &(&str, &[u8])| (key.as_bytes().to_vec(), value.to_vec());
        let raw = RawEntry {
            records: records.iter().map(owned).collect(),
            ..RawEntry::default()
        };
        xattrs(&raw, true)
    }

    #[test]
    fn libarchives_form_is_the_same_attribute() {
        for (text, value) in [
            (&b""[..], &b""[..]),
            (b"AP+A", &[0, 255, 128]),
            (b"YQ", b"a"),
            (b"YQ==", b"a"),
            (b"YWI=", b"ab"),
        ] {
            let (found, _) = of(&[("LIBARCHIVE.xattr.user.%6b%20x", text)]).unwrap();
            assert_eq!(found, [("user.k x".into(), value.to_vec())]);
        }
        for (key, value) in [
            ("LIBARCHIVE.xattr.user.a", &b"Y"[..]),
            ("LIBARCHIVE.xattr.user.a", b"Y?=="),
            ("LIBARCHIVE.xattr.user.%6", b""),
            ("LIBARCHIVE.xattr.user.%zz", b""),
            ("LIBARCHIVE.xattr.user.%00", b""),
            ("LIBARCHIVE.xattr.", b""),
        ] {
            assert!(of(&[(key, value)]).is_err(), "{key}");
        }
    }

    #[test]
    fn names_of_overlayfs_are_escaped_and_those_of_the_host_left_out() {
        let (found, _) = of(&[
            ("SCHILY.xattr.security.capability", b"c"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/x"),
            ("SCHILY.xattr.security.selinux", b"l"),
            ("SCHILY.xattr.security.ima", b"l"),
            ("SCHILY.xattr.security.evm", b"l"),
            ("SCHILY.xattr.system.nfs4_acl", b"l"),
            ("SCHILY.xattr.user.containers.override_stat", b"0:0:0777"),
        ])
        .unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|(name, _)| name.to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "user.overlay.overlay.opaque",
                "user.overlay.overlay.overlay.opaque",
                "security.capability"
            ]
        );
    }

    #[test]
    fn the_kernels_form_of_a_list_goes_before_the_text() {
        let text: &[u8] = b"user::rw-,group::r--,other::r--";
        let (found, lost) = of(&[("SCHILY.acl.access", text)]).unwrap();
        assert_eq!((found.len(), lost.len()), (1, 0));
        let own = ("SCHILY.xattr.system.posix_acl_access", &b"x"[..]);
        let (found, _) = of(&[("SCHILY.acl.access", text), own]).unwrap();
        assert_eq!(found, [(ACL_ACCESS.into(), b"x".to_vec())]);
        let (found, lost) = of(&[("SCHILY.acl.default", b"user:joe:rwx")]).unwrap();
        assert_eq!((found.len(), lost.len()), (0, 1));
    }
}

//! Archives that can be read in two ways. Whoever checks images reads them as Go does, so what Go
//! does not see must not be unpacked here, and the other way round (CVE-2025-62518).

use super::*;

/// A header with data, of any type and with any size said.
fn raw(flag: u8, name: &str, size: usize, data: &[u8]) -> Vec<u8> {
    let mut header = match flag {
        b'L' | b'K' => tar::Header::new_gnu(),
        _ => tar::Header::new_ustar(),
    };
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_mode(if flag == b'5' { 0o777 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    header.set_size(size as u64);
    header.as_mut_bytes()[156] = flag;
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn with_data(flag: u8, name: &str, data: &str) -> Vec<u8> {
    raw(flag, name, data.len(), data.as_bytes())
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while format!("{length}{rest}").len() != length {
            length += 1;
        }
        data += &format!("{length}{rest}");
    }
    with_data(b'x', "pax", &data)
}

fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = parts.concat();
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[test]
fn reads_archives_as_umoci_does() {
    if missing("umoci") || !privileged() {
        return;
    }
    let hidden = with_data(b'0', "hidden", "entry");
    for (what, parts) in [
        (
            "an old directory with a size",
            vec![raw(0, "d/", hidden.len(), &[]), hidden.clone()],
        ),
        (
            "the final name makes an old directory",
            vec![
                pax(&[("path", "d/")]),
                raw(0, "x", 512, &[]),
                hidden.clone(),
            ],
        ),
        (
            "the last of several extended headers",
            vec![
                pax(&[("path", "first"), ("uid", "5")]),
                pax(&[("gid", "6")]),
                with_data(b'0', "plain", "x"),
            ],
        ),
        (
            "a long name of GNU and one of PAX",
            vec![
                with_data(b'L', "L", "gnu\0"),
                pax(&[("path", "pax")]),
                with_data(b'0', "plain", "x"),
            ],
        ),
        (
            "an empty long name",
            vec![with_data(b'L', "L", "\0"), with_data(b'0', "plain", "x")],
        ),
        (
            "empty values",
            vec![
                with_data(b'5', "e/", ""),
                pax(&[("path", ""), ("uid", ""), ("mtime", ""), ("size", "")]),
                with_data(b'5', "d/", ""),
                pax(&[("linkpath", "")]),
                raw(b'0', "f", 0, &[]),
            ],
        ),
        (
            "a size in an extended header",
            vec![
                pax(&[("size", "512")]),
                raw(b'0', "f", 0, &[]),
                with_data(b'0', "inner", ""),
                with_data(b'0', "after", ""),
            ],
        ),
        (
            "a size for a link",
            vec![
                with_data(b'0', "t", "x"),
                pax(&[("size", "512")]),
                raw(b'1', "t", 512, &[]),
                hidden.clone(),
            ],
        ),
    ] {
        let made = image_of(&[ended(&parts)], Compression::None);
        let ours = made.dir.path().join("ours");
        let mine = flat(&made, &ours).map(|()| listing(&open(&ours), true));
        let theirs = umoci(&made).map(|path| listing(&open(path), true));
        match (mine, theirs) {
            (Ok(mut mine), Ok(mut theirs)) => {
                // umoci gives a root that no layer describes the time of the unpacking.
                mine.remove("/");
                theirs.remove("/");
                assert_eq!(mine, theirs, "{what}");
            }
            (Err(_), Err(_)) => {}
            (mine, theirs) => panic!("{what}: {mine:?} {theirs:?}"),
        }
    }
}

#[test]
fn extensions_belong_to_an_entry_and_are_few() {
    let global = with_data(b'g', "pax", "13 comment=x\n");
    let file = with_data(b'0', "f", "x");
    let refused = |parts: &[Vec<u8>]| {
        let made = image_of(&[ended(parts)], Compression::None);
        let error = flat(&made, &made.dir.path().join("ours")).err();
        error.map(|error| format!("{error:?}")).unwrap_or_default()
    };
    assert_eq!(refused(&[global.clone(), file.clone()]), "");
    let stray = [pax(&[("uid", "1")]), global.clone(), file.clone()];
    assert!(refused(&stray).contains("Stray"));
    let many = vec![pax(&[("uid", "1")]); 17];
    assert!(refused(&many).contains("TooManyExtensions"));
}

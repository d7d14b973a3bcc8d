//! Archives that can be read in two ways. Whoever checks images reads them as Go does, so what Go
//! does not see must not be unpacked here, and the other way round (CVE-2025-62518).

use super::*;

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
        (
            "the names of an owner",
            vec![patched(with_data(b'0', "f", "x"), 265, b"daemon")],
        ),
        (
            "a prefix",
            vec![
                with_data(b'5', "in/", ""),
                with_data(b'5', "in/a/", ""),
                patched(with_data(b'0', "f", "x"), 345, b"in/a"),
            ],
        ),
        (
            "the times of old GNU are no prefix",
            vec![patched(gnu(b'0', "f", "x"), 345, b"00000000017")],
        ),
        (
            "numbers in binary",
            vec![patched(
                gnu(b'0', "f", "x"),
                108,
                &[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0],
            )],
        ),
        (
            "a time in binary before the epoch",
            vec![patched(gnu(b'0', "f", "x"), 136, &[0xff; 12])],
        ),
        (
            "a time before the epoch",
            vec![pax(&[("mtime", "-1.25")]), with_data(b'0', "f", "x")],
        ),
        (
            "times with many digits",
            vec![
                pax(&[("mtime", "12.0000000019")]),
                with_data(b'0', "f", "x"),
            ],
        ),
        ("an unknown type", vec![with_data(b'Y', "f", "x")]),
        (
            "a sparse file in turns",
            vec![
                pax(&[
                    ("GNU.sparse.size", "3000"),
                    ("GNU.sparse.numblocks", "2"),
                    ("GNU.sparse.offset", "0"),
                    ("GNU.sparse.numbytes", "2"),
                    ("GNU.sparse.offset", "2000"),
                    ("GNU.sparse.numbytes", "2"),
                ]),
                with_data(b'0', "f", "abcd"),
            ],
        ),
        (
            "a sparse file with a map",
            vec![
                pax(&[
                    ("GNU.sparse.name", "real"),
                    ("GNU.sparse.size", "3000"),
                    ("GNU.sparse.numblocks", "2"),
                    ("GNU.sparse.map", "10,2,2998,2"),
                ]),
                with_data(b'0', "f", "abcd"),
            ],
        ),
        (
            "a sparse file with lines",
            vec![
                pax(&[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.name", "real"),
                    ("GNU.sparse.realsize", "3000"),
                ]),
                with_data(b'0', "f", &format!("{:\0<512}abcd", "2\n10\n2\n2998\n2\n")),
            ],
        ),
        (
            "a sparse file whose parts overlap",
            vec![
                pax(&[
                    ("GNU.sparse.size", "3000"),
                    ("GNU.sparse.numblocks", "2"),
                    ("GNU.sparse.map", "0,2,1,2"),
                ]),
                with_data(b'0', "f", "abcd"),
            ],
        ),
        (
            "a sparse file with more data than its map",
            vec![
                pax(&[
                    ("GNU.sparse.size", "3000"),
                    ("GNU.sparse.numblocks", "1"),
                    ("GNU.sparse.map", "0,2"),
                ]),
                with_data(b'0', "f", "abcd"),
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

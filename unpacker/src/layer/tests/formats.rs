//! What tar entries may say: types, numbers, times, attributes, sparse files. Where umoci can say it
//! too, `image/tests/readings.rs` compares.

use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use super::*;
use crate::layer::entry::{Refusal, clean};
use crate::layer::xattrs::{ACL_ACCESS, ACL_DEFAULT};
use crate::progress::Event;

/// Unpacks parts of an archive into one folder, and says of what it warned.
fn unpacked(parts: &[Vec<u8>]) -> Result<(TempDir, Vec<String>), ApplyError> {
    let dir = TempDir::new().unwrap();
    let told = Mutex::new(Vec::new());
    let progress = |event: Event| {
        if let Event::Warning { text } = event {
            told.lock().unwrap().push(text);
        }
    };
    let bytes = ended(parts);
    let root = open(dir.path());
    apply(
        &mut &bytes[..],
        &root,
        Form::Flat,
        &ApplyOptions::default(),
        &progress,
        &Cancel::default(),
    )?;
    let told = told.lock().unwrap().clone();
    Ok((dir, told))
}

fn refused(parts: &[Vec<u8>]) -> String {
    format!("{:?}", unpacked(parts).err().unwrap())
}

/// Writes the map of a file over several blocks: more parts than a header holds.
#[test]
fn sparse_files_have_holes_and_their_data() {
    let parts: Vec<(u64, u64)> = (0..4).map(|number| (number << 20, 4)).collect();
    let mut old = sparse_gnu("old", &parts, 50 << 20, &[]);
    let mut block = [0_u8; 512];
    block[..24].copy_from_slice(format!("{:011o}\0{:011o}\0", 40 << 20, 4).as_bytes());
    old[482] = 1;
    old = patched(old, 124, b"00000000024\0");
    old.extend(block);
    let mut data = b"00001111222233334444".to_vec();
    data.resize(512, 0);
    old.extend(&data);
    let lines = "5\n0\n4\n1048576\n4\n2097152\n4\n3145728\n4\n41943040\n4\n";
    let new = [
        pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "new"),
            ("GNU.sparse.realsize", "52428800"),
        ]),
        raw(
            b'0',
            "x",
            512 + 20,
            format!("{lines:\0<512}00001111222233334444").as_bytes(),
        ),
    ];
    let (dir, _) = unpacked(&[old, new.concat()]).unwrap();
    for name in ["old", "new"] {
        let path = dir.path().join(name);
        let found = path.metadata().unwrap();
        assert_eq!(found.size(), 50 << 20, "{name}");
        assert!(found.blocks() * 512 < 1 << 20, "{name} has no holes");
        let bytes = std::fs::read(&path).unwrap();
        for (at, text) in [(0, "0000"), (3 << 20, "3333"), (40 << 20, "4444")] {
            assert_eq!(&bytes[at..at + 5], format!("{text}\0").as_bytes(), "{name}");
        }
        assert_eq!(
            bytes.iter().filter(|byte| **byte != 0).count(),
            20,
            "{name}"
        );
    }
}

#[test]
fn sparse_files_that_nobody_knows_are_refused() {
    let told = |records: &[(&str, &str)]| refused(&[pax(records), with_data(b'0', "f", "abcd")]);
    for records in [
        &[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")][..],
        &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")],
        &[("GNU.sparse.name", "real")],
        &[("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0,5")],
        &[
            ("GNU.sparse.numblocks", "1"),
            ("GNU.sparse.map", "0,4"),
            ("GNU.sparse.size", "3"),
        ],
        &[
            ("GNU.sparse.numblocks", "1"),
            ("GNU.sparse.map", "0,4"),
            ("GNU.sparse.size", "18446744073709551615"),
        ],
    ] {
        assert!(told(records).contains("Sparse"), "{records:?}");
    }
    for parts in [&[(0, 4), (2, 3)][..], &[(0, 4)], &[(0, 4), (8998, 3)]] {
        let old = sparse_gnu("f", parts, 9000, b"datathe");
        assert!(refused(&[old]).contains("Sparse"), "{parts:?}");
    }
    // As star writes it, and beside records of the new forms.
    let star = patched(sparse_gnu("f", &[(0, 4)], 9, b"data"), 257, b"ustar\x0000");
    assert!(refused(&[star]).contains("Sparse"));
    let both = [
        pax(&[("GNU.sparse.size", "9")]),
        sparse_gnu("f", &[(0, 4)], 9, b"data"),
    ];
    assert!(refused(&both).contains("Sparse"));
    // Much that is said in few bytes counts as much.
    let huge = sparse_gnu("f", &[(0, 4)], 8 << 30, b"data");
    let root = TempDir::new().unwrap();
    let few = ApplyOptions {
        max_bytes: 1 << 30,
        ..options(Ownership::Recorded)
    };
    let error = apply_bytes(&ended(&[huge]), &open(root.path()), Form::Flat, &few).unwrap_err();
    assert!(
        error.to_string().contains("more than 1073741824 bytes"),
        "{error}"
    );
}

#[test]
fn extensions_are_bounded_before_they_are_read() {
    for flag in [b'x', b'g', b'L', b'K'] {
        let said = refused(&[raw(flag, "x", 1 << 31, b"")]);
        assert!(said.contains("ExtensionTooLarge"), "{said}");
    }
    let lines = pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]);
    let data = vec![b'0'; 4 << 20];
    assert!(refused(&[lines.clone(), raw(b'0', "f", data.len(), &data)]).contains("Sparse"));
    let data = format!("9999999\n{}", "0\n".repeat(2 << 20));
    let said = refused(&[lines, with_data(b'0', "f", &data)]);
    assert!(said.contains("ExtensionTooLarge"), "{said}");
}

#[test]
fn what_is_no_entry_is_refused() {
    for flag in [b'8', b'A', b'D', b'M', b'N', b'V', b'X', 0xff] {
        assert!(refused(&[with_data(flag, "f", "x")]).contains("UnknownType"));
    }
    assert!(matches!(clean(b"a\0b"), Err(Refusal::NulInName)));
    // xz is neither a layer nor handed to a program (CVE-2014-9357).
    let xz = [b"\xfd7zXZ\0\0\x04".to_vec(), vec![1; 600]].concat();
    assert!(refused(&[xz]).contains("Checksum"));
    for records in [
        [("uid", "-1")],
        [("size", "1e3")],
        [("mtime", "1.5.5")],
        [("mtime", "0x10")],
        [("mtime", "99999999999999999999")],
        [("LIBARCHIVE.xattr.user.a", "!")],
    ] {
        refused(&[pax(&records), with_data(b'0', "f", "x")]);
    }
}

/// GNU tar's type for files on disks that wanted them in one piece; umoci does not know it.
#[test]
fn contiguous_files_are_files() {
    let (dir, _) = unpacked(&[with_data(b'7', "f", "contiguous")]).unwrap();
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"contiguous");
}

/// Nobody's user data base is asked for the names (CVE-2019-14271).
#[test]
fn owners_are_their_numbers() {
    let bytes = patched(with_data(b'0', "f", "x"), 265, b"daemon\0");
    let (dir, _) = unpacked(&[patched(bytes, 108, b"0000123\0")]).unwrap();
    let root = open(dir.path());
    let found = root.metadata(Path::new("f")).unwrap();
    let (owner, _) = Ownership::detect()
        .of(&root, Path::new("f"), &found)
        .unwrap();
    assert_eq!(owner, Owner { uid: 0o123, gid: 0 });
}

#[test]
fn times_are_kept_or_brought_into_what_the_disk_knows() {
    let time = |text: &str| {
        let entry = [pax(&[("mtime", text)]), with_data(b'0', "f", "x")];
        let (dir, _) = unpacked(&entry).unwrap();
        open(dir.path()).metadata(Path::new("f")).unwrap().mtime
    };
    let stamp = |seconds, nanos| Timestamp { seconds, nanos };
    assert_eq!(
        time("1234567890.123456789"),
        stamp(1_234_567_890, 123_456_789)
    );
    assert_eq!(time("-0.75"), stamp(-1, 250_000_000));
    assert_eq!(time(".5"), stamp(0, 500_000_000));
    assert!(time("9223372036854775807").seconds > 4_000_000_000);
    assert!(time("-9223372036854775807").seconds < -1_000_000_000);
}

#[test]
fn attributes_that_cannot_be_are_told_and_left_out() {
    let (dir, told) = unpacked(&[
        pax(&[("SCHILY.xattr.user.a", "1")]),
        patched(raw(b'2', "l", 0, b""), 157, b"target"),
        pax(&[(
            "SCHILY.acl.access",
            "user::rw-,user:joe:rwx,group::r--,mask::rwx,other::---",
        )]),
        with_data(b'0', "f", "x"),
    ])
    .unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        open(dir.path())
            .list_xattrs(Path::new("l"))
            .unwrap()
            .is_empty()
    );
}

/// What a directory gives to what is created in it is not for what a layer brings.
#[test]
fn access_control_lists_are_their_entries_own() {
    if !privileged() {
        return;
    }
    let list = "user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::---";
    let lowest = ended(&[
        pax(&[("SCHILY.acl.access", list), ("SCHILY.acl.default", list)]),
        with_data(b'5', "d/", ""),
        with_data(b'0', "d/f", "x"),
        with_data(b'5', "d/e/", ""),
    ]);
    let above = ended(&[with_data(b'0', "d/g", "x"), with_data(b'0', "d/e/h", "x")]);
    let dir = TempDir::new().unwrap();
    let folders: Vec<PathBuf> = ["flat", "0", "1"].map(|name| dir.path().join(name)).into();
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let known = options(Ownership::Mapped);
    for bytes in [&lowest, &above] {
        apply_bytes(bytes, &open(&folders[0]), Form::Flat, &known).unwrap();
    }
    let none = Form::Overlay { parents: &[] };
    apply_bytes(&lowest, &open(&folders[1]), none, &known).unwrap();
    let parents = [open(&folders[1])];
    let form = Form::Overlay { parents: &parents };
    apply_bytes(&above, &open(&folders[2]), form, &known).unwrap();
    let merged = mount_overlay(&folders[1..]).unwrap();
    for root in [open(&folders[0]), merged] {
        let lists = |path: &str| root.list_xattrs(Path::new(path)).unwrap();
        assert_eq!(lists("d"), [ACL_ACCESS, ACL_DEFAULT]);
        for path in ["d/f", "d/g", "d/e", "d/e/h"] {
            assert!(lists(path).is_empty(), "{path}: {:?}", lists(path));
        }
    }
}

#[test]
fn devices_may_be_the_harmless_ones_whatever_the_umask() {
    if !privileged() {
        return;
    }
    let null = node("null", Kind::CharDevice, 1, 3).mode(0o666);
    let stack = Stack::flat(&[vec![null]]).unwrap();
    let found = stack.merged().unwrap().metadata(Path::new("null")).unwrap();
    assert_eq!(found.mode, 0o666);
}

#[test]
fn a_root_that_no_layer_describes_is_an_ordinary_one() {
    if !privileged() {
        return;
    }
    let stack = Stack::overlay(&[vec![file("f", "")], vec![file("g", "")]]).unwrap();
    let found = stack.merged().unwrap().metadata(Path::new("")).unwrap();
    assert_eq!((found.mode, found.owner), (0o755, Owner::default()));
    assert_eq!(found.mtime, Timestamp::default());
}

//! Archives that want to get out, to hide files, or to fill the disk.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn refused(layers: &[Vec<Item>]) -> String {
    let mut chain = String::new();
    for result in [Stack::flat(layers), Stack::overlay(layers)] {
        let Err(error) = result else {
            panic!("was accepted: {layers:?}");
        };
        chain = format!("{error:#?}");
    }
    chain
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (items, word) in [
        (vec![wh(".wh.")], "EmptyWhiteout"),
        (vec![wh("d/.wh..")], "EmptyWhiteout"),
        (vec![wh("d/.wh...")], "EmptyWhiteout"),
        (vec![file(".wh.d/x", "1")], "BelowWhiteout"),
        (vec![node("n", Kind::CharDevice, 0, 0)], "WhiteoutDevice"),
        (vec![node("n", Kind::CharDevice, 5000, 0)], "DeviceNumber"),
        (vec![symlink(".", "/etc")], "RootNotDirectory"),
        (vec![file("a/..", "x")], "RootNotDirectory"),
        (vec![hard("a", "b")], "NoTarget"),
        (vec![hard("a", "../../etc/passwd")], "NoTarget"),
        (
            vec![symlink("e", "/etc"), hard("a", "e/passwd")],
            "NoTarget",
        ),
        (vec![dir("d"), hard("a", "d")], "LinkToDirectory"),
        (vec![file(&"x".repeat(256), "")], "NameTooLong"),
        (vec![file(&"x/".repeat(3000), "")], "NameTooLong"),
        (
            vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "")],
            "Create",
        ),
        (
            vec![file("f", "").xattr("user.a", &"x".repeat(70_000))],
            "Xattr",
        ),
        (vec![file("f", "").owner(u32::MAX, 0)], "OwnerRange"),
    ] {
        let said = refused(&[items]);
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn nothing_outside_is_touched() {
    let outside = TempDir::new().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "s").unwrap();
    let mode = secret.metadata().unwrap().permissions().mode();
    let path = outside.path().display().to_string();
    let mut up = "../".repeat(30);
    up.push_str(path.trim_start_matches('/'));
    let escapes = [
        vec![symlink("l", &path), file("l/secret", "evil")],
        vec![symlink("l", &up), file("l/secret", "evil")],
        vec![file(&format!("{up}/secret"), "evil")],
        vec![file(&format!("{path}/secret"), "evil")],
        vec![symlink("l", &format!("{path}/secret")), file("l", "evil")],
        vec![
            symlink("l", &path),
            wh("l/.wh.secret"),
            wh("l/.wh..wh..opq"),
        ],
        vec![symlink("l", &path), dir("l/sub").mode(0o777)],
        vec![
            symlink("l", &format!("{path}/secret")),
            hard("h", "l"),
            file("h", "evil"),
        ],
        // A mode through a link that another link leads to (CVE-2021-32760, CVE-2026-33056).
        vec![
            symlink("l", &format!("{path}/secret")),
            hard("h", "l").mode(0o777),
            dir("l").mode(0o777),
        ],
        vec![
            symlink("proc", "/proc/self/root"),
            file(&format!("proc{path}/secret"), "evil"),
        ],
    ];
    for items in escapes {
        // Some end in an error, some do what they say below the root; none gets out.
        let _ = Stack::flat(std::slice::from_ref(&items));
        let _ = Stack::overlay(std::slice::from_ref(&items));
        let _ = Stack::overlay(&[vec![items[0].clone()], items[1..].to_vec()]);
        assert_eq!(std::fs::read(&secret).unwrap(), b"s", "{items:?}");
        assert_eq!(outside.path().read_dir().unwrap().count(), 1, "{items:?}");
        assert_eq!(
            secret.metadata().unwrap().permissions().mode(),
            mode,
            "{items:?}"
        );
    }
}

#[test]
fn bombs_stop() {
    let dir = TempDir::new().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let few = ApplyOptions {
        max_entries: 3,
        max_bytes: 1 << 20,
        ..options(Ownership::Recorded)
    };
    let many: Vec<Item> = (0..5).map(|n| file(&n.to_string(), "")).collect();
    let error = apply_bytes(&tar_of(&many), &root, Form::Flat, &few).unwrap_err();
    assert!(matches!(error, ApplyError::TooManyEntries { limit: 3 }));
    let mut huge = file("huge", "");
    huge.1.size = 1 << 40;
    let huge = tar_of(&[huge]);
    let mut endless = io::Read::chain(&huge[..1536], io::repeat(1));
    let silent = (&Silent, &Cancel::default());
    let error = apply(&mut endless, &root, Form::Flat, &few, silent.0, silent.1).unwrap_err();
    assert!(
        error.to_string().contains("more than 1048576 bytes"),
        "{error}"
    );
    let mut zeros = io::repeat(0);
    assert!(apply(&mut zeros, &root, Form::Flat, &few, silent.0, silent.1).is_err());
}

#[test]
fn damaged_archives_are_errors() {
    let good = tar_of(&[file("a", "data"), symlink("b", &"t".repeat(300))]);
    let dir = TempDir::new().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let recorded = options(Ownership::Recorded);
    let run = |bytes: &[u8]| apply_bytes(bytes, &root, Form::Flat, &recorded);
    assert!(run(&good).is_ok());
    assert!(run(b"").is_ok(), "an empty layer is a layer");
    for length in [1, 511, 513, 515, 1100, 1600] {
        assert!(run(&good[..length]).is_err(), "cut at {length}");
    }
    for at in [0, 100, 130, 148, 156] {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        assert!(run(&bad).is_err(), "changed at {at}");
    }
    // A single zero block is not the end.
    let half = [&good[..1024], &[0; 512], &good[1024..]].concat();
    assert!(run(&half).is_err());
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let dir = TempDir::new().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let _ = apply_bytes(&bytes, &root, Form::Flat, &options(Ownership::Recorded));
    }

    #[test]
    fn arbitrary_records_never_panic(
        text in "[0-9]{1,3} [a-zA-Z.]{0,20}=[\\PC]{0,30}\n",
        flag in any::<u8>(),
        numbers in proptest::collection::vec(any::<u8>(), 60),
    ) {
        let mut header = tar::Header::new_ustar();
        header.set_path("p").unwrap();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(text.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let mut header = tar::Header::new_ustar();
        header.set_path("x").unwrap();
        header.as_mut_bytes()[100..148].copy_from_slice(&numbers[..48]);
        header.as_mut_bytes()[156] = flag;
        header.set_cksum();
        bytes.extend(header.as_bytes());
        let dir = TempDir::new().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let _ = apply_bytes(&bytes, &root, Form::Flat, &options(Ownership::Recorded));
    }
}

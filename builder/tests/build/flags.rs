//! Flags of COPY and ADD: `--exclude`, `--parents`, `--chmod`, `--chown`, `--link`, `--unpack`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use libtest_mimic::Trial;
use serde_json::json;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("exclude_leaves_out", exclude),
        trial("parents_keep_folders", parents),
        trial("symbolic_modes", symbolic),
        trial("owners_by_name", owners),
        trial("a_linked_copy_sees_no_base", linked),
        trial("flags_are_part_of_the_key", keys),
    ]
}

const FILES: &[(&str, &str)] = &[
    ("home.txt", "t"),
    ("home.md", "m"),
    ("src/a.c", "a"),
    ("src/a.o", "o"),
    ("src/lib/b.c", "b"),
    ("src/lib/b.o", "o"),
];

fn exclude() {
    let room = Room::new(FILES);
    for (copy, want) in [
        (
            "COPY --exclude=*.o src /d/",
            &["d/", "d/a.c", "d/lib/", "d/lib/b.c", "d/lib/b.o"][..],
        ),
        (
            "COPY --exclude=**/*.o --exclude=lib/b.c src /d/",
            &["d/", "d/a.c", "d/lib/"],
        ),
        ("COPY --exclude=*.txt home* /d/", &["d/", "d/home.md"]),
        ("ADD --exclude=lib src /d/", &["d/", "d/a.c", "d/a.o"]),
        ("COPY --exclude=* src /d/", &["d/"]),
    ] {
        let tree = room.tree(&format!("FROM scratch\n{copy}\n"));
        assert_eq!(tree.list(""), want, "{copy}");
    }
    let from = "FROM scratch AS a\nCOPY src /s/\nFROM scratch\n";
    let tree = room.tree(&format!(
        "{from}COPY --from=a --exclude=s/lib --exclude=**/*.o / /\n"
    ));
    assert_eq!(tree.list(""), ["s/", "s/a.c"]);
    let error = room
        .build("FROM scratch\nCOPY --exclude=[ src /\n")
        .unwrap_err();
    assert!(
        error.record().error.contains("is not a pattern"),
        "{}",
        error.record().error
    );
}

fn parents() {
    let room = Room::new(FILES);
    for (copy, want) in [
        (
            "COPY --parents src/lib/b.c home.md /d/",
            &["d/", "d/home.md", "d/src/", "d/src/lib/", "d/src/lib/b.c"][..],
        ),
        (
            "COPY --parents ./src/./lib/*.c /d/",
            &["d/", "d/lib/", "d/lib/b.c"],
        ),
        (
            "COPY --parents src/**/*.o /",
            &["src/", "src/a.o", "src/lib/", "src/lib/b.o"],
        ),
        (
            "COPY --parents --exclude=**/*.o src /",
            &["src/", "src/a.c", "src/lib/", "src/lib/b.c"],
        ),
        ("COPY --parents nothing* /d/", &["d/"]),
    ] {
        let tree = room.tree(&format!("FROM scratch\n{copy}\n"));
        assert_eq!(tree.list(""), want, "{copy}");
    }
    let path = room.context().join("src/lib");
    fs::set_permissions(path, fs::Permissions::from_mode(0o711)).unwrap();
    let tree = room.tree("FROM scratch\nCOPY --parents --chown=5:6 src/lib/b.c /d/\n");
    assert_eq!(tree.access("d/src/lib"), "711 5:6");
    assert_eq!(tree.access("d"), "755 5:6");
    assert!(
        room.build("FROM scratch\nCOPY --parents src/none /\n")
            .is_err()
    );
}

fn symbolic() {
    let room = Room::new(FILES);
    let path = room.context().join("src/a.c");
    fs::set_permissions(path, fs::Permissions::from_mode(0o750)).unwrap();
    let tree = room.tree("FROM scratch\nCOPY --chmod=u=rwX,go=rX src /d/\n");
    assert_eq!(tree.access("d/a.c"), "755 0:0");
    assert_eq!(tree.access("d/a.o"), "644 0:0");
    assert_eq!(tree.access("d/lib"), "755 0:0");
    let tree = room.tree("FROM scratch\nARG M=go-r\nCOPY --chmod=$M src/a.o /x/\n");
    assert_eq!(tree.access("x/a.o"), "600 0:0");
    assert_eq!(tree.access("x"), "755 0:0");
    // As BuildKit does it, an octal mode is also that of the folders that are made on the way.
    let tree = room.tree("FROM scratch\nCOPY --chmod=0700 src/a.o /x/\n");
    assert_eq!(
        (tree.access("x").as_str(), tree.access("x/a.o").as_str()),
        ("700 0:0", "700 0:0")
    );
    for bad in ["9", "rwx", "u=z", "77777"] {
        let error = room.build(&format!("FROM scratch\nCOPY --chmod={bad} src /d/\n"));
        let text = error.unwrap_err().record().error;
        assert!(text.starts_with("Dockerfile:2:1"), "{text}");
        assert!(text.contains("is neither an octal mode"), "{text}");
    }
}

fn owners() {
    let room = Room::new(FILES);
    for (owner, want) in [
        ("app", "644 1000:1001"),
        ("app:web", "644 1000:33"),
        ("7:web", "644 7:33"),
        ("app:0", "644 1000:0"),
        ("12", "644 12:12"),
        ("$WHO", "644 1000:1001"),
    ] {
        for link in ["", " --link"] {
            let file =
                format!("FROM busybox\nARG WHO=app\nCOPY{link} --chown={owner} home.md /x\n");
            assert_eq!(room.tree(&file).access("x"), want, "{owner}{link}");
        }
    }
    let error = room.build("FROM busybox\nCOPY --chown=nobody-here home.md /x\n");
    assert!(error.unwrap_err().record().error.contains("nobody-here"));
}

fn linked() {
    let room = Room::new(FILES);
    let base = room.dir.path().join("linked");
    fs::create_dir_all(base.join("real/kept")).unwrap();
    symlink("/real", base.join("app")).unwrap();
    room.add_image("docker.io/library/linked:latest", &base, json!({}));
    let tree = room.tree("FROM linked\nCOPY --link home.md /app/\nCOPY --link src/a.c /real/\n");
    let found = tree.path("app").symlink_metadata().unwrap();
    assert!(found.is_dir(), "a linked copy follows no link of the base");
    assert_eq!(tree.list("real"), ["a.c", "kept/"]);
    assert_eq!(tree.read("app/home.md"), "m");
    // Without the slash the base's folder does not make a folder of the destination.
    let tree = room.tree("FROM linked\nCOPY --link home.md /real\n");
    assert_eq!(tree.read("real"), "m");
    let tree = room.tree("FROM linked\nCOPY --link --chmod=600 home.md /app/\n");
    assert_eq!(
        tree.read("real/home.md"),
        "m",
        "with --chmod it is an ordinary copy"
    );
}

fn keys() {
    let room = Room::new(FILES);
    let from = "FROM scratch AS a\nCOPY src /s/\nFROM scratch\n";
    for (copy, has_object) in [
        ("COPY --from=a s /d/", true),
        ("COPY --from=a --exclude=*.o s /d/", false),
        ("COPY --from=a --parents s /d/", false),
        ("COPY --from=a s /d/", true),
    ] {
        let tree = room.tree(&format!("{from}{copy}\n"));
        assert_eq!(tree.has("d/a.o"), has_object, "{copy}");
    }
}

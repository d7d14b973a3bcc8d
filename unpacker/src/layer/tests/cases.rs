//! The cases on which tools differ (image-spec layer.md leaves several open). Each is unpacked flat
//! and as an overlay, and both must show the same tree.

use super::*;

struct Case {
    name: &'static str,
    layers: Vec<Vec<Item>>,
    /// `path` or `path=content` or `path->target`; directories end in `/`. Nothing else is there.
    expect: &'static [&'static str],
}

fn cases() -> Vec<Case> {
    let case = |name, layers, expect| Case {
        name,
        layers,
        expect,
    };
    vec![
        case(
            "A link to a lower file",
            vec![vec![file("a/t", "x")], vec![hard("b", "a/t")]],
            &["a/", "a/t=x", "b=x"],
        ),
        case(
            "A2 link before its target",
            vec![vec![hard("b", "t"), hard("c", "b"), file("t", "x")]],
            &["b=x", "c=x", "t=x"],
        ),
        case(
            "A3 link to a symlink",
            vec![vec![symlink("s", "nowhere"), hard("t", "s")]],
            &["s->nowhere", "t->nowhere"],
        ),
        case(
            "A4 link to a lower symlink",
            vec![vec![symlink("s", "nowhere")], vec![hard("t", "s")]],
            &["s->nowhere", "t->nowhere"],
        ),
        case(
            "A5 link to itself",
            vec![vec![file("a", "x"), hard("a", "./a")]],
            &["a=x"],
        ),
        case(
            "A6 link replaces a directory",
            vec![vec![file("d/x", "1"), file("a", "x")], vec![hard("d", "a")]],
            &["a=x", "d=x"],
        ),
        case(
            "A7 whiteout of what a link needed",
            vec![
                vec![file("d/t", "x"), file("e/t", "y")],
                vec![
                    hard("a", "d/t"),
                    hard("e/u", "e/t"),
                    wh(".wh.d"),
                    wh("e/.wh.t"),
                ],
            ],
            &["a=x", "e/", "e/u=y"],
        ),
        case(
            "A8 a whiteout below what became a link",
            vec![
                vec![dir("a/b"), dir("c/b")],
                vec![wh("a/.wh.b"), symlink("a", "c")],
            ],
            &["a->c", "c/", "c/b/"],
        ),
        case(
            "B below a lower symlink",
            vec![
                vec![file("usr/lib/ld", "l"), symlink("lib", "usr/lib")],
                vec![file("lib/foo", "f")],
            ],
            &[
                "lib->usr/lib",
                "usr/",
                "usr/lib/",
                "usr/lib/foo=f",
                "usr/lib/ld=l",
            ],
        ),
        case(
            "B2 a directory over a lower symlink",
            vec![
                vec![file("usr/lib/ld", "l"), symlink("lib", "usr/lib")],
                vec![dir("lib"), file("lib/foo", "f")],
            ],
            &["lib/", "lib/foo=f", "usr/", "usr/lib/", "usr/lib/ld=l"],
        ),
        case(
            "B3 a whiteout below a lower symlink",
            vec![
                vec![file("usr/lib/ld", "l"), symlink("lib", "usr/lib")],
                vec![wh("lib/.wh.ld")],
            ],
            &["lib->usr/lib", "usr/", "usr/lib/"],
        ),
        case(
            "B4 links two layers down and absolute",
            vec![
                vec![file("d/e/x", "1")],
                vec![symlink("a", "/d/../b")],
                vec![symlink("b", "d/e")],
                vec![file("a/y", "2")],
            ],
            &["a->/d/../b", "b->d/e", "d/", "d/e/", "d/e/x=1", "d/e/y=2"],
        ),
        case(
            "B5 a lower symlink hidden first",
            vec![
                vec![dir("usr/lib"), symlink("lib", "usr/lib")],
                vec![wh(".wh.lib"), file("lib/x", "1")],
            ],
            &["lib/", "lib/x=1", "usr/", "usr/lib/"],
        ),
        case(
            "D whiteout, then the file",
            vec![vec![file("f", "old")], vec![wh(".wh.f"), file("f", "new")]],
            &["f=new"],
        ),
        case(
            "D2 the file, then its whiteout",
            vec![vec![file("f", "old")], vec![file("f", "new"), wh(".wh.f")]],
            &["f=new"],
        ),
        case(
            "D3 whiteout, directory, child",
            vec![
                vec![file("d/old", "o")],
                vec![wh(".wh.d"), dir("d"), file("d/new", "n")],
            ],
            &["d/", "d/new=n"],
        ),
        case(
            "D3b child, then whiteout",
            vec![
                vec![file("d/old", "o"), file("d/e/old", "o")],
                vec![file("d/e/new", "n"), wh(".wh.d")],
            ],
            &["d/", "d/e/", "d/e/new=n"],
        ),
        case(
            "D4 whiteouts of a directory and its child",
            vec![
                vec![file("d/old", "o"), file("x", "")],
                vec![wh(".wh.d"), wh("d/.wh.old")],
            ],
            &["x="],
        ),
        case(
            "D5 whiteout of nothing",
            vec![vec![file("x", "")], vec![wh(".wh.d"), wh("e/.wh.f")]],
            &["x="],
        ),
        case(
            "D6 hidden, then back in a third layer",
            vec![
                vec![file("d/old", "o")],
                vec![wh(".wh.d")],
                vec![file("d/new", "n")],
            ],
            &["d/", "d/new=n"],
        ),
        case(
            "D7 whiteout in the lowest layer",
            vec![vec![wh(".wh.d"), file("x", "")]],
            &["x="],
        ),
        case(
            "E opaque first",
            vec![
                vec![file("d/old", "o")],
                vec![wh("d/.wh..wh..opq"), file("d/new", "n")],
            ],
            &["d/", "d/new=n"],
        ),
        case(
            "E2 opaque last",
            vec![
                vec![file("d/old", "o"), file("d/s/old", "o")],
                vec![
                    file("d/new", "n"),
                    file("d/s/new", "n"),
                    wh("d/.wh..wh..opq"),
                ],
            ],
            &["d/", "d/new=n", "d/s/", "d/s/new=n"],
        ),
        case(
            "E3 opaque alone",
            vec![vec![file("d/old", "o")], vec![wh("d/.wh..wh..opq")]],
            &["d/"],
        ),
        case(
            "E4 whiteout in an opaque directory",
            vec![
                vec![file("d/old", "o")],
                vec![dir("d"), wh("d/.wh..wh..opq"), wh("d/.wh.old")],
            ],
            &["d/"],
        ),
        case(
            "E5 opaque root",
            vec![
                vec![file("d/old", "o"), file("x", "")],
                vec![file("d/new", "n"), wh(".wh..wh..opq")],
                vec![file("y", "")],
            ],
            &["d/", "d/new=n", "y="],
        ),
        case(
            "F file over a directory",
            vec![vec![file("d/old", "o")], vec![file("d", "f")]],
            &["d=f"],
        ),
        case(
            "F2 directory over a file",
            vec![vec![file("d", "f")], vec![dir("d")]],
            &["d/"],
        ),
        case(
            "F3 child of a lower file",
            vec![vec![file("f", "f")], vec![file("f/x", "1")]],
            &["f/", "f/x=1"],
        ),
        case(
            "F4 file, directory, file over directories",
            vec![
                vec![file("d/old", "o")],
                vec![file("d", "f")],
                vec![file("d/x", "1")],
            ],
            &["d/", "d/x=1"],
        ),
        case(
            "F5 directory, file, directory in one layer",
            vec![
                vec![file("d/old", "o")],
                vec![file("d/a", "a"), file("d", "f"), file("d/b", "b")],
            ],
            &["d/", "d/b=b"],
        ),
        case(
            "F6 symlink over a directory, and below",
            vec![
                vec![file("d/old", "o"), dir("e")],
                vec![symlink("d", "e"), file("d/x", "1")],
            ],
            &["d->e", "e/", "e/x=1"],
        ),
        case(
            "G the last of a name counts",
            vec![vec![file("f", "1"), file("./f", "2"), file("/f", "3")]],
            &["f=3"],
        ),
        case(
            "G3 symlink to outside is inside",
            vec![vec![
                symlink("e", "/abs"),
                file("e/x", "1"),
                symlink("u", "../../../up"),
                file("u/y", "2"),
            ]],
            &[
                "abs/",
                "abs/x=1",
                "e->/abs",
                "u->../../../up",
                "up/",
                "up/y=2",
            ],
        ),
        case(
            "H names are clamped",
            vec![vec![
                file("/abs", "1"),
                file("./x/../b", "2"),
                file("../../up", "3"),
            ]],
            &["abs=1", "b=2", "up=3"],
        ),
        case(
            "I4 aufs's own files",
            vec![vec![file(".wh..wh.plnk/1.2", "x"), file("a", "")]],
            &["a="],
        ),
        case(
            "I5 a whiteout that is a directory",
            vec![vec![file("f", "1")], vec![dir(".wh.f")]],
            &[],
        ),
        case(
            "M names of all lengths",
            vec![vec![file(
                &format!("{}/{}", "d".repeat(200), "f".repeat(200)),
                "1",
            )]],
            &[
                "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd/",
                "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd/ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff=1",
            ],
        ),
    ]
}

/// The layers of every case, lowest first.
pub(super) fn layers() -> Vec<Vec<Vec<Item>>> {
    cases().into_iter().map(|case| case.layers).collect()
}

#[test]
fn both_forms_show_what_the_table_says() {
    if !privileged() {
        return;
    }
    for case in cases() {
        let flat = Stack::flat(&case.layers).unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        let stack = Stack::overlay(&case.layers).unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        let merged = stack.merged().unwrap();
        let flat = flat.merged().unwrap();
        assert_eq!(names(&flat), expected(&case), "flat: {}", case.name);
        assert_eq!(names(&merged), expected(&case), "overlay: {}", case.name);
        assert_eq!(
            plain(listing(&flat, true)),
            plain(listing(&merged, true)),
            "{}",
            case.name
        );
    }
}

fn expected(case: &Case) -> Vec<String> {
    let mut all: Vec<String> = case.expect.iter().map(|line| format!("/{line}")).collect();
    all.sort();
    all
}

fn names(root: &Root) -> Vec<String> {
    let mut all = Vec::new();
    for (path, line) in listing(root, false) {
        let mut words = line.splitn(4, ' ');
        let kind = words.next().unwrap();
        let what = words.nth(2).unwrap_or_default();
        let what = what.split(" =").next().unwrap();
        match kind {
            _ if path == "/" => {}
            "Directory" => all.push(format!("{path}/")),
            "Symlink" => all.push(format!("{path}->{what}")),
            _ => all.push(format!("{path}={what}")),
        }
    }
    all.sort();
    all
}

#[test]
fn implicit_parents_keep_what_lower_layers_say() {
    if !privileged() {
        return;
    }
    let layers = vec![
        vec![
            dir("root")
                .mode(0o700)
                .owner(5, 6)
                .xattr("user.k", "v")
                .mtime(77, 5),
            dir(".").mode(0o555).owner(7, 8),
        ],
        vec![file("root/x", "1")],
        vec![file("new/x", "1")],
    ];
    for stack in [
        Stack::flat(&layers).unwrap(),
        Stack::overlay(&layers).unwrap(),
    ] {
        let root = stack.merged().unwrap();
        let seen = root.metadata(Path::new("root")).unwrap();
        assert_eq!((seen.mode, seen.owner), (0o700, Owner { uid: 5, gid: 6 }));
        assert_eq!(
            seen.mtime,
            Timestamp {
                seconds: 77,
                nanos: 5
            }
        );
        let value = root.xattr(Path::new("root"), "user.k".as_ref()).unwrap();
        assert_eq!(value.as_deref(), Some(&b"v"[..]));
        let top = root.metadata(Path::new("")).unwrap();
        assert_eq!((top.mode, top.owner), (0o555, Owner { uid: 7, gid: 8 }));
        let new = root.metadata(Path::new("new")).unwrap();
        assert_eq!(
            (new.mode, new.owner, new.mtime.seconds),
            (0o755, Owner::default(), 0)
        );
    }
}

#[test]
fn attributes_survive() {
    if !privileged() {
        return;
    }
    let caps = "\u{1}\0\0\u{2}\0\u{20}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layers = vec![
        vec![
            file("su", "x")
                .mode(0o4755)
                .owner(3, 4)
                .mtime(-5, 250_000_000),
            file("ping", "x")
                .mode(0o755)
                .owner(1, 1)
                .xattr("security.capability", caps),
            file("big-ids", "x").owner(3_000_000, 4_000_000_000),
            file("x", "x")
                .xattr("user.a", "1")
                .xattr("trusted.x", "1")
                .xattr("user.overlay.opaque", "y"),
            dir("sticky").mode(0o1777),
            node("fifo", Kind::Fifo, 0, 0),
            node("null", Kind::CharDevice, 1, 3).mode(0o666),
            node("loop", Kind::BlockDevice, 7, 300),
        ],
        vec![],
    ];
    let stack = Stack::overlay(&layers).unwrap();
    let seen = listing(&stack.merged().unwrap(), true);
    assert_eq!(seen["/su"], "File 4755 3:4 x @-5.250000000");
    assert!(
        seen["/ping"].contains("security.capability"),
        "{}",
        seen["/ping"]
    );
    assert!(seen["/big-ids"].contains("3000000:4000000000"));
    assert_eq!(seen["/x"], "File 644 0:0 x [\"user.a=[49]\"] @1000.0");
    assert_eq!(seen["/sticky"], "Directory 1777 0:0  @2000.0");
    assert_eq!(seen["/fifo"], "Fifo 600 0:0 0:0 @0.0");
    assert_eq!(seen["/null"], "CharDevice 666 0:0 1:3 @0.0");
    assert!(!seen.contains_key("/loop"), "a device of the machine");
    // On disk the image's own overlay attribute is escaped.
    let lower = open(&stack.folders[0]);
    let value = lower.xattr(Path::new("x"), "user.overlay.overlay.opaque".as_ref());
    assert_eq!(value.unwrap().as_deref(), Some(&b"y"[..]));
    // A directory over a directory does not keep the earlier attributes.
    let again = vec![vec![
        dir("d").xattr("user.a", "1"),
        dir("d").xattr("user.b", "1"),
    ]];
    for stack in [
        Stack::flat(&again).unwrap(),
        Stack::overlay(&again).unwrap(),
    ] {
        let seen = listing(&stack.merged().unwrap(), false);
        assert_eq!(seen["/d"], "Directory 755 0:0  [\"user.b=[49]\"]");
    }
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    if !privileged() {
        return;
    }
    let mut data = vec![0; 8 << 20];
    data[4 << 20] = 7;
    let mut item = file("big", "");
    item.1.size = data.len() as u64;
    item.2 = data.clone();
    let stack = Stack::overlay(&[vec![item]]).unwrap();
    let path = stack.folders[0].join("big");
    assert_eq!(std::fs::read(&path).unwrap(), data);
    assert!(path.metadata().unwrap().blocks() * 512 < 1 << 20);
}

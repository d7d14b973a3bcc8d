//! Layers that podman (containers/storage) or docker get wrong, and how: each layer is a folder of its
//! own to them, unpacked without the ones below.

use integration::layer::{Entry, file, folder, gone, hard, symlink};
use integration::tree::Tree;

use super::peers::Outcome;

/// What a tool does with a layer.
pub(super) enum Does {
    /// As we do.
    Right,
    Refuses,
    /// A tree that is not the image's.
    Shows(&'static [&'static str]),
}

pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) layers: Vec<Vec<Entry>>,
    right: &'static [&'static str],
    pub(super) podman: Does,
    pub(super) docker: Does,
}

impl Fault {
    pub(super) fn right(&self) -> Vec<String> {
        self.right.iter().map(|line| (*line).to_owned()).collect()
    }

    /// A later version may be right.
    pub(super) fn check(&self, tool: &str, right: &[String], found: Outcome, does: &Does) {
        let found = found.map(|tree| kinds(&tree));
        if found.as_deref() == Ok(right) {
            return;
        }
        match (does, &found) {
            (Does::Refuses, Err(_)) => {}
            (Does::Shows(lines), Ok(seen)) if seen.iter().eq(lines.iter()) => {}
            _ => panic!("{}: {tool} does something else now: {found:#?}", self.name),
        }
    }
}

/// Paths with their kinds, and with mode and owner where these are not the usual ones.
pub(super) fn kinds(tree: &Tree) -> Vec<String> {
    let line = |(path, line): (&String, &String)| {
        let words: Vec<&str> = line.split(' ').collect();
        let usual = matches!(words.get(1), None | Some(&"0755" | &"0644" | &"0777"));
        match (path.as_str(), usual) {
            ("/", _) => None,
            (path, true) => Some(format!("{path} {}", words[0])),
            (path, false) => Some(format!("{path} {}", words[..3].join(" "))),
        }
    };
    tree.iter().filter_map(line).collect()
}

pub(super) fn all() -> Vec<Fault> {
    let fault = |name, layers, right, podman, docker| Fault {
        name,
        layers,
        right,
        podman,
        docker,
    };
    use Does::{Refuses, Right, Shows};
    vec![
        fault(
            "a-link-to-a-lower-file",
            vec![vec![folder("a/"), file("a/t", "x")], vec![hard("b", "a/t")]],
            &["/a folder", "/a/t file", "/b file"],
            Refuses,
            Refuses,
        ),
        fault(
            "attributes-of-a-link",
            vec![vec![
                file("t", "x").mode(0o600).owner(5, 5),
                hard("b", "t").mode(0o600).owner(6, 6),
            ]],
            &["/b file 0600 5:5", "/t file 0600 5:5"],
            Shows(&["/b file 0600 6:6", "/t file 0600 6:6"]),
            Shows(&["/b file 0600 6:6", "/t file 0600 6:6"]),
        ),
        fault(
            "a-link-before-its-target",
            vec![vec![hard("b", "t"), file("t", "x")]],
            &["/b file", "/t file"],
            Refuses,
            Refuses,
        ),
        fault(
            "below-a-lower-link",
            vec![
                vec![
                    folder("usr/"),
                    folder("usr/lib/"),
                    file("usr/lib/ld", "l"),
                    symlink("lib", "usr/lib"),
                ],
                vec![file("lib/foo", "f")],
            ],
            &[
                "/lib link",
                "/usr folder",
                "/usr/lib folder",
                "/usr/lib/foo file",
                "/usr/lib/ld file",
            ],
            Shows(&[
                "/lib folder",
                "/lib/foo file",
                "/usr folder",
                "/usr/lib folder",
                "/usr/lib/ld file",
            ]),
            Shows(&[
                "/lib folder",
                "/lib/foo file",
                "/usr folder",
                "/usr/lib folder",
                "/usr/lib/ld file",
            ]),
        ),
        fault(
            "a-parent-without-an-entry",
            vec![
                vec![folder("root/").mode(0o700).owner(5, 5)],
                vec![file("root/x", "1")],
            ],
            &["/root folder 0700 5:5", "/root/x file"],
            Shows(&["/root folder", "/root/x file"]),
            Shows(&["/root folder", "/root/x file"]),
        ),
        fault(
            "a-file-before-its-whiteout",
            vec![vec![file("f", "old")], vec![file("f", "new"), gone("f")]],
            &["/f file"],
            Refuses,
            Refuses,
        ),
        fault(
            "a-whiteout-before-its-folder",
            vec![
                vec![folder("d/"), file("d/old", "o")],
                vec![gone("d"), folder("d/"), file("d/new", "n")],
            ],
            &["/d folder", "/d/new file"],
            Shows(&["/d folder", "/d/new file", "/d/old file"]),
            Shows(&["/d folder", "/d/new file", "/d/old file"]),
        ),
        fault(
            "whiteouts-of-a-folder-and-its-child",
            vec![
                vec![folder("d/"), file("d/old", "o"), file("x", "")],
                vec![gone("d"), gone("d/old")],
            ],
            &["/x file"],
            Right,
            Refuses,
        ),
        fault(
            "a-whiteout-in-an-opaque-folder",
            vec![
                vec![folder("d/"), file("d/old", "o")],
                vec![folder("d/"), gone("d/.wh..opq"), gone("d/old")],
            ],
            &["/d folder"],
            Shows(&["/d folder", "/d/old phantom"]),
            Shows(&["/d folder", "/d/old phantom"]),
        ),
        fault(
            "an-opaque-root",
            vec![
                vec![file("old", "o")],
                vec![file("new", "n"), gone(".wh..opq")],
            ],
            &["/new file"],
            Shows(&["/new file", "/old file"]),
            Shows(&["/new file", "/old file"]),
        ),
        fault(
            "a-child-of-a-lower-file",
            vec![vec![file("f", "f")], vec![file("f/x", "1")]],
            &["/f folder", "/f/x file"],
            Right,
            Right,
        ),
        fault(
            "a-name-twice",
            vec![vec![file("f", "1"), file("f", "2")]],
            &["/f file"],
            Refuses,
            Refuses,
        ),
        fault(
            "below-a-link-that-leads-nowhere",
            vec![vec![symlink("e", "/abs"), file("e/x", "1")]],
            &["/abs folder", "/abs/x file", "/e link"],
            Refuses,
            Refuses,
        ),
        fault(
            "attributes-of-overlayfs",
            vec![
                vec![folder("d/"), file("d/old", "o")],
                vec![
                    folder("d/").xattr("trusted.overlay.opaque", b"y"),
                    file("d/new", "n"),
                ],
            ],
            &["/d folder", "/d/new file", "/d/old file"],
            Shows(&["/d folder", "/d/new file"]),
            Shows(&["/d folder", "/d/new file"]),
        ),
    ]
}

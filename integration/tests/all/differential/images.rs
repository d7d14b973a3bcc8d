//! Images to compare: written by hand, by GNU tar, and by chance.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink as make_link};
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::folder::Folder;
use integration::layer::{Entry, char_device, fifo, file, folder, gone, hard, symlink, tar};
use integration::layout;
use integration::process::run;
use integration::tree::Tree;
use serde_json::json;

/// VFS_CAP_REVISION_2 with CAP_NET_RAW, effective.
const CAPABILITY: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

pub(super) struct Image {
    pub(super) name: &'static str,
    pub(super) layout: PathBuf,
    /// Nothing in it that podman or docker get wrong.
    pub(super) tame: bool,
    /// All owners are below 65536.
    pub(super) small_ids: bool,
    /// With files that an ordinary user's umoci cannot make.
    pub(super) large: bool,
}

pub(super) fn all(at: &Folder) -> Vec<Image> {
    let image = |name, layers: &[Vec<Entry>], tame, small_ids| Image {
        name,
        layout: written(at, name, layers),
        tame,
        small_ids,
        large: !small_ids,
    };
    let mut images = vec![
        image("ordinary", &ordinary(), true, true),
        image("odd", &odd(), false, true),
        image("ids", &large_ids(), true, false),
        image("chance", &chance(), false, true),
    ];
    let layout = at.join("tars");
    layout::write(&layout, &gnu_tars(at), json!({}));
    images.push(Image {
        name: "tars",
        layout,
        tame: true,
        small_ids: true,
        large: false,
    });
    images
}

/// Writes a layout; every layer says what the root is like.
pub(super) fn written(at: &Folder, name: &str, layers: &[Vec<Entry>]) -> PathBuf {
    let layout = at.join(name);
    let tars: Vec<Vec<u8>> = layers.iter().map(|layer| tar(layer)).collect();
    layout::write(&layout, &tars, json!({}));
    layout
}

fn top() -> Entry {
    folder("./").time(1_600_000_000, 5)
}

fn ordinary() -> Vec<Vec<Entry>> {
    let long = format!("long/{}/{}", "d".repeat(200), "f".repeat(200));
    let lowest = vec![
        top(),
        folder("bin/"),
        file("bin/su", "su").mode(0o4755).owner(0, 33),
        file("bin/ping", "ping")
            .mode(0o755)
            .xattr("security.capability", &CAPABILITY),
        folder("etc/").time(1_500_000_000, 123_456_789),
        file("etc/passwd", "root").time(1_500_000_001, 1),
        file("etc/shadow", "s").mode(0o640).owner(0, 42),
        folder("tmp/").mode(0o1777),
        folder("home/").mode(0o2770).owner(1000, 1001),
        file("home/x", "x")
            .owner(1000, 1001)
            .xattr("user.k", b"v\0w"),
        symlink("dangling", "/no/where").owner(7, 8).time(99, 7),
        symlink("up", "../../../../../etc"),
        // As every writer does it: a link's entry says what its target's says.
        hard("passwd", "etc/passwd").time(1_500_000_001, 1),
        hard("etc/same", "etc/passwd").time(1_500_000_001, 1),
        hard("dangling too", "dangling").owner(7, 8).time(99, 7),
        fifo("pipe").mode(0o622).owner(3, 4),
        folder("long/"),
        folder(&format!("long/{}/", "d".repeat(200))),
        file(&long, "long"),
        folder("old/"),
        folder("old/sub/"),
        file("old/sub/x", "x"),
        file("becomes a folder", "f"),
        folder("becomes a file/"),
        file("becomes a file/x", "x"),
        symlink("becomes real", "etc"),
        folder("opaque first/"),
        file("opaque first/x", "x"),
        folder("opaque last/"),
        file("opaque last/x", "x"),
        file("gone", "g"),
        file("back", "old"),
        folder("changed/").mode(0o700).xattr("user.old", b"1"),
        file("changed/stays", "x"),
    ];
    let above = vec![
        top(),
        gone("gone"),
        gone("old"),
        gone("back"),
        file("back", "new"),
        folder("becomes a folder/"),
        file("becomes a folder/x", "1"),
        file("becomes a file", "2"),
        folder("becomes real/").mode(0o711),
        file("becomes real/x", "3"),
        folder("opaque first/"),
        gone("opaque first/.wh..opq"),
        file("opaque first/new", "n"),
        folder("opaque last/"),
        file("opaque last/new", "n"),
        gone("opaque last/.wh..opq"),
        folder("changed/")
            .mode(0o750)
            .owner(5, 6)
            .time(5, 5)
            .xattr("user.new", b"2"),
        folder("etc/").time(1_500_000_000, 123_456_789),
        file("etc/passwd", "changed"),
    ];
    let topmost = vec![
        top(),
        folder("becomes a folder/"),
        gone("becomes a folder/x"),
        folder("opaque last/"),
        hard("opaque last/second", "opaque last/third"),
    ];
    let mut topmost = topmost;
    topmost.insert(4, file("opaque last/third", "3"));
    vec![lowest, above, topmost]
}

/// What layers may say and few do. Every folder is described by some layer, because umoci gives the
/// time of the unpacking to one that is not.
fn odd() -> Vec<Vec<Entry>> {
    let lowest = vec![
        top(),
        folder("a/"),
        file("a/t", "target").owner(9, 9),
        symlink("a/s", "t"),
        folder("usr/"),
        folder("usr/lib/"),
        file("usr/lib/ld", "l"),
        symlink("lib", "usr/lib"),
        symlink("lib64", "/usr/../usr/lib"),
        folder("root/")
            .mode(0o700)
            .owner(5, 5)
            .time(77, 5)
            .xattr("user.k", b"v"),
        folder("d/"),
        file("d/old", "o"),
        folder("e/"),
        file("e/old", "o"),
        folder("o/"),
        file("o/old", "o"),
        folder("p/"),
        file("p/old", "o"),
        file("f", "old"),
        file("n", "before the epoch").time(-5, 250_000_000),
        folder("injected/"),
        file("injected/old", "o"),
    ];
    let above = vec![
        top(),
        // A link to a lower file, and to a lower link.
        hard("b", "a/t"),
        hard("c", "a/s"),
        // Through lower links.
        file("lib/foo", "f"),
        gone("lib64/ld"),
        // A parent that this layer does not describe.
        file("root/x", "1"),
        // The file before its whiteout.
        file("f", "new"),
        gone("f"),
        // The whiteout before the folder, and twice.
        gone("d"),
        folder("d/"),
        file("d/new", "n"),
        gone("e"),
        gone("e/old"),
        // Opaque without an entry of its folder, with one below that is hidden anyway.
        gone("o/.wh..opq"),
        folder("p/"),
        gone("p/.wh..opq"),
        gone("p/old"),
        // The last of a name.
        file("g", "1"),
        file("./g", "2"),
        file("/g", "3"),
        // Names and links that lead out.
        file("a/../h", "h"),
        file("../../up", "u"),
        folder("scoped/"),
        symlink("out", "/scoped"),
        file("out/x", "x"),
        symlink("far", "../../../scoped"),
        file("far/y", "y"),
        // A whiteout that is a folder, of nothing.
        folder(".wh.nothing"),
        folder("injected/").xattr("trusted.overlay.opaque", b"y"),
        file("injected/new", "n"),
    ];
    vec![lowest, above]
}

fn large_ids() -> Vec<Vec<Entry>> {
    let file = file("large", "x").owner(3_000_000, 4_000_000_000);
    vec![vec![top(), file, char_device("null", 1, 3)]]
}

/// A folder with what GNU tar writes in several ways, a sparse file among it.
pub(super) fn source(at: &Folder) -> PathBuf {
    let source = at.join("source");
    fs::create_dir_all(source.join("d/e")).unwrap();
    fs::write(source.join("d/e/x"), "data").unwrap();
    fs::write(source.join(format!("d/{}", "n".repeat(150))), "long").unwrap();
    fs::hard_link(source.join("d/e/x"), source.join("hard")).unwrap();
    make_link("d", source.join("l")).unwrap();
    fs::set_permissions(source.join("d/e"), fs::Permissions::from_mode(0o2750)).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    for at in [1 << 20, 3 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data in the middle", at).unwrap();
    }
    source
}

/// Layers of a real folder by GNU tar, in the formats that umoci knows.
fn gnu_tars(at: &Folder) -> Vec<Vec<u8>> {
    let source = source(at);
    let formats: [&[&str]; 6] = [
        &["--format=gnu"],
        &["--format=oldgnu"],
        &["--format=pax", "--xattrs"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
    ];
    let layer = |(number, options): (usize, &&[&str])| {
        let to = at.join("layer.tar");
        let mut command = Command::new("tar");
        command
            .args(*options)
            .args(["--numeric-owner", "--owner=3", "--group=4"]);
        command.arg(format!("--mtime=@{}.5", 1_400_000_000 + number));
        // Each layer in a folder of its own.
        command.arg(format!("--transform=s,^[.],./{number},rSh"));
        run(command.arg("-cf").arg(&to).arg("-C").arg(&source).arg(".")).ok();
        fs::read(&to).unwrap()
    };
    let mut layers = vec![tar(&[top()])];
    layers.extend(formats.iter().enumerate().map(layer));
    layers
}

/// Layers that a generator makes: entries of every kind over few names.
fn chance() -> Vec<Vec<Entry>> {
    let mut state = 20_261_121_u64;
    let mut next = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    let names = ["a", "b", "c", "a/b", "a/c", "b/a", "b/c", "a/b/c", "c/a/b"];
    let mut layers = Vec::new();
    for layer in 0..12_i64 {
        // All folders first: one that no layer describes has another time with umoci.
        let mut entries = vec![top()];
        for folder_name in ["a/", "b/", "c/", "a/b/", "c/a/"] {
            entries.push(folder(folder_name).mode(0o711).time(layer, 0));
        }
        for number in 0..25 {
            let (name, other) = (names[next(names.len())], names[next(names.len())]);
            let leaf = format!("{name}/{}", next(4));
            let entry = match next(8) {
                0..=2 => file(&leaf, &format!("{layer}.{number}")).owner(next(9) as u64, 0),
                3 => symlink(&leaf, other).time(layer, 9),
                4 => gone(&leaf),
                5 => gone(&format!("{name}/.wh..opq")),
                6 => folder(&leaf).mode(0o700).time(number, 3),
                _ => file(&leaf, "").mode(0o4711),
            };
            // Nothing but the five folders has something below it.
            if ["a", "b", "c", "a/b", "c/a"].contains(&name) {
                entries.push(entry);
            }
        }
        layers.push(entries);
    }
    layers
}

/// Debian with layers above it that change what is there.
pub(super) fn above(debian: &Path, at: &Folder) -> PathBuf {
    let hex = |value: &serde_json::Value| value.as_str().unwrap()["sha256:".len()..].to_owned();
    let read = |name: &str| fs::read(debian.join("blobs/sha256").join(name)).unwrap();
    let index = fs::read(debian.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let manifest = read(&hex(&index["manifests"][0]["digest"]));
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let mut base = Vec::new();
    let blob = read(&hex(&manifest["layers"][0]["digest"]));
    let mut gzip = flate2::read::MultiGzDecoder::new(&blob[..]);
    std::io::Read::read_to_end(&mut gzip, &mut base).unwrap();
    let added = [
        top(),
        folder("usr/").time(1, 1),
        folder("usr/share/").time(1, 1),
        gone("usr/share/doc"),
        folder("usr/share/locale/").time(1, 1),
        gone("usr/share/locale/.wh..opq"),
        file("usr/share/locale/new", "n"),
        folder("var/").time(1, 1),
        file("var/log", "a file instead of a folder"),
    ];
    let layout = at.join("debian");
    layout::write(&layout, &[base, tar(&added)], json!({}));
    layout
}

/// podman gives every root directory mode 0555 and the time of the unpacking, whatever a layer says.
pub(super) fn without_root(mut tree: Tree) -> Tree {
    tree.remove("/");
    tree
}

/// We give no image the machine's console; containers have one of their own.
pub(super) fn without_console(mut tree: Tree) -> Tree {
    let console = tree.remove("/dev/console").unwrap_or_default();
    assert!(console.is_empty() || console.contains(" 5:1 "), "{console}");
    tree
}

/// No ordinary user makes device nodes.
pub(super) fn without_nodes(mut tree: Tree) -> Tree {
    tree.retain(|_, line| !line.starts_with("char ") && !line.starts_with("block "));
    tree
}

/// The kernel notes in a file's capabilities in whose namespace they were given.
pub(super) fn without_capability_form(tree: Tree) -> Tree {
    let name = "security.capability=";
    let cut = |line: String| match line.split_once(name) {
        Some((before, after)) => {
            let rest = after.split_once(']').map_or("", |(_, rest)| rest);
            format!("{before}{name}…{rest}")
        }
        None => line,
    };
    tree.into_iter()
        .map(|(path, line)| (path, cut(line)))
        .collect()
}

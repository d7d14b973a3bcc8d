//! Layers that are small and want much: time, memory, descriptors, inodes, blocks.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;

const INSIDE: &str = "DEVPOD_TEST_FEW_DESCRIPTORS";

fn limited(max_entries: u64, max_bytes: u64) -> ApplyOptions {
    ApplyOptions {
        max_entries,
        max_bytes,
        ..options(Ownership::Recorded)
    }
}

/// Applies `items` above one layer in `lower`.
fn above(lower: &Path, items: &[Item], options: &ApplyOptions) -> Result<TempDir, ApplyError> {
    let dir = TempDir::new().unwrap();
    let parents = [open(lower)];
    let form = Form::Overlay { parents: &parents };
    apply_bytes(&tar_of(items), &open(dir.path()), form, options)?;
    Ok(dir)
}

#[test]
fn trees_go_with_few_descriptors() {
    let exe = std::env::current_exe().unwrap();
    let done = Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\""])
        .arg(exe)
        .args(["--exact", "layer::tests::bounds::inside", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Does nothing unless `trees_go_with_few_descriptors` starts it.
#[test]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let root = open(dir.path());
    let mut deep = PathBuf::from("top");
    for level in 0..200 {
        root.create_dir_all(&deep, 0o755, None).unwrap();
        root.create_file(&deep.join("f"), 0o644).unwrap();
        root.create_dir_all(Path::new(&format!("top/w{level}/x/y")), 0o755, None)
            .unwrap();
        deep.push("d");
    }
    root.remove_all(Path::new("top")).unwrap();
    assert!(root.read_dir(Path::new("")).unwrap().is_empty());
}

/// Only few directories are noted at a time; what comes into one that is finished changes nothing of
/// what its entry said.
#[test]
fn directories_that_are_finished_early_are_what_their_entries_say() {
    let name = |n: i64| format!("d{n}");
    let mut items = vec![dir(".").mode(0o755).mtime(7, 0)];
    items.extend((0..20).map(|n| dir(&name(n)).mode(0o500).mtime(1000 + n, 5)));
    for round in 0..2 {
        items.extend((0..20).map(|n| file(&format!("{}/f{round}", name(n)), "x")));
    }
    items.push(dir("d3").mode(0o1711).mtime(9, 0));
    items.push(hard("d4/link", "d5/f0"));
    items.extend((0..20).map(|n| file(&format!("implied{n}/a/f"), "x")));
    for form in [Form::Flat, Form::Overlay { parents: &[] }] {
        let folder = TempDir::new().unwrap();
        let root = open(folder.path());
        let options = options(Ownership::Recorded);
        apply_bytes(&tar_of(&items), &root, form, &options).unwrap();
        let said = |path: &str| {
            let found = root.metadata(Path::new(path)).unwrap();
            (found.mode, found.mtime.seconds, found.mtime.nanos)
        };
        assert_eq!(said(""), (0o755, 7, 0));
        for n in 0..20 {
            let expected = match n {
                3 => (0o1711, 9, 0),
                n => (0o500, 1000 + n, 5),
            };
            assert_eq!(said(&name(n)), expected, "{n}");
            for path in [format!("implied{n}"), format!("implied{n}/a")] {
                assert_eq!(said(&path), (0o755, 0, 0), "{path}");
            }
        }
    }
}

#[test]
fn depth_is_limited() {
    let deep = |parts: usize| format!("{}f", "d/".repeat(parts - 1));
    let stack = Stack::flat(&[vec![file(&deep(1000), "x")]]).unwrap();
    let root = stack.merged().unwrap();
    assert!(root.metadata(Path::new(&deep(1000))).unwrap().is_file());
    let error = Stack::flat(&[vec![file(&deep(1001), "x")]]).err().unwrap();
    assert!(format!("{error:?}").contains("TooDeep"), "{error:?}");
    // Each name is short enough, what they lead to is not.
    let far = "d/".repeat(800);
    let items = vec![
        dir(&far),
        symlink("l", &far),
        file(&format!("l/{far}/f"), "x"),
    ];
    for result in [
        Stack::flat(std::slice::from_ref(&items)),
        Stack::overlay(&[items]),
    ] {
        assert!(matches!(result, Err(ApplyError::TooDeep { .. })));
    }
}

#[test]
fn names_over_links_come_to_an_end() {
    // Doubles with every link: 2^40 components.
    let mut items = vec![dir("l0")];
    for number in 1..40 {
        let below = number - 1;
        let target = format!("l{below}/../l{below}");
        items.push(symlink(&format!("l{number}"), &target));
    }
    items.push(file("l39/f", "x"));
    for result in [
        Stack::flat(std::slice::from_ref(&items)),
        Stack::overlay(&[items]),
    ] {
        let error = result.err().unwrap();
        assert!(matches!(error, ApplyError::Create { .. }), "{error:?}");
    }
}

#[test]
fn chains_of_links_are_sorted() {
    let count = 3000;
    let mut items: Vec<Item> = (0..count)
        .map(|number| hard(&format!("l{number}"), &format!("l{}", number + 1)))
        .collect();
    items.push(file(&format!("l{count}"), "x"));
    let stack = Stack::flat(&[items]).unwrap();
    let found = stack.folders[0].join("l0").metadata().unwrap();
    assert_eq!(found.nlink(), count + 1);
}

#[test]
fn links_to_lower_files_copy_once_and_not_without_end() {
    let lower = TempDir::new().unwrap();
    let sparse = std::fs::File::create(lower.path().join("a")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 1 << 20).unwrap();
    for name in ["b", "c"] {
        std::fs::hard_link(lower.path().join("a"), lower.path().join(name)).unwrap();
    }
    let items = [hard("x", "a"), hard("y", "b"), hard("z", "c")];
    let upper = above(lower.path(), &items, &limited(100, 1 << 20)).unwrap();
    let found = upper.path().join("z").metadata().unwrap();
    assert_eq!((found.nlink(), found.size()), (6, 1 << 30));
    assert!(found.blocks() * 512 < 1 << 20);
    let copy = std::fs::File::open(upper.path().join("x")).unwrap();
    let mut data = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&copy, &mut data, (1 << 20) - 1).unwrap();
    assert_eq!(&data, b"\0data\0");
    std::fs::write(lower.path().join("full"), vec![1; 2 << 20]).unwrap();
    let error = above(lower.path(), &[hard("x", "full")], &limited(100, 1 << 20)).unwrap_err();
    assert!(matches!(error, ApplyError::CopiesTooLarge { .. }));
}

#[test]
fn a_copy_that_is_gone_is_made_again() {
    let lower = TempDir::new().unwrap();
    std::fs::write(lower.path().join("a"), "lower").unwrap();
    std::fs::hard_link(lower.path().join("a"), lower.path().join("b")).unwrap();
    // The copy of `a` gives way to a file, and then `b` needs one of its own.
    let items = [
        hard("x", "a"),
        file("a", "new"),
        file("x", "new"),
        hard("y", "b"),
    ];
    let upper = above(lower.path(), &items, &limited(100, 1 << 20)).unwrap();
    for (name, data) in [("a", "new"), ("x", "new"), ("y", "lower"), ("b", "lower")] {
        let path = upper.path().join(name);
        assert_eq!(std::fs::read_to_string(path).unwrap(), data, "{name}");
    }
}

#[test]
fn implied_directories_are_entries() {
    let items = [file("a/b/c/d/e", ""), file("f/g/h/i/j", "")];
    let root = TempDir::new().unwrap();
    let run = |limit| {
        let options = limited(limit, 1 << 20);
        apply_bytes(&tar_of(&items), &open(root.path()), Form::Flat, &options)
    };
    let error = run(9).unwrap_err();
    assert!(matches!(error, ApplyError::TooManyEntries { limit: 9 }));
    let lower = TempDir::new().unwrap();
    std::fs::create_dir_all(lower.path().join("a/b/c/d")).unwrap();
    assert!(above(lower.path(), &items[..1], &limited(4, 1 << 20)).is_err());
    assert!(above(lower.path(), &items[..1], &limited(5, 1 << 20)).is_ok());
}

#[test]
fn a_whiteout_does_not_follow_what_comes_later() {
    if !privileged() {
        return;
    }
    let layers = [
        vec![dir("d"), file("d/x/old", ""), file("e/x/keep", "k")],
        vec![wh("d/.wh.x"), symlink("d", "e"), dir("e/x")],
    ];
    for stack in [
        Stack::flat(&layers).unwrap(),
        Stack::overlay(&layers).unwrap(),
    ] {
        let root = stack.merged().unwrap();
        assert_eq!(root.read_small(Path::new("e/x/keep"), 9).unwrap(), b"k");
    }
}

#[test]
fn devices_of_the_machine_are_left_out() {
    if !privileged() {
        return;
    }
    let layers = [
        vec![file("sda", "lower"), file("d/mem", "lower")],
        vec![
            node("sda", Kind::BlockDevice, 8, 0).mode(0o666),
            node("d/mem", Kind::CharDevice, 1, 1).mode(0o666),
            node("zero", Kind::CharDevice, 1, 5).mode(0o666),
        ],
    ];
    for stack in [
        Stack::flat(&layers).unwrap(),
        Stack::overlay(&layers).unwrap(),
    ] {
        let seen = listing(&stack.merged().unwrap(), false);
        let names: Vec<&str> = seen.keys().map(String::as_str).collect();
        assert_eq!(names, ["/", "/d", "/zero"]);
    }
}

#[test]
fn attributes_are_few_and_the_images_own() {
    let mut many = file("f", "");
    for number in 0..101 {
        many = many.xattr(&format!("user.a{number}"), "");
    }
    let error = Stack::flat(&[vec![many]]).err().unwrap();
    assert!(format!("{error:?}").contains("TooManyXattrs"));
    let names = ["security.apparmor", "trusted.overlay.opaque", "system.x"];
    let item = names
        .iter()
        .fold(file("f", ""), |item, name| item.xattr(name, "y"));
    let stack = Stack::flat(&[vec![item]]).unwrap();
    let kept = stack.merged().unwrap().list_xattrs(Path::new("f")).unwrap();
    assert!(!kept.iter().any(|name| names.iter().any(|n| name == n)));
    let error = Stack::flat(&[vec![file(&"x".repeat(100_000), "")]]).err();
    assert!(error.unwrap().to_string().len() < 300);
}

/// Gives bytes, and cancels when they have all been read; then zeros for ever.
struct Cancelling<'a>(&'a [u8], &'a Cancel);

impl io::Read for Cancelling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            self.1.cancel();
            buffer.fill(0);
            return Ok(buffer.len());
        }
        self.0.read(buffer)
    }
}

#[test]
fn padding_without_end_can_be_cancelled() {
    let ended = tar_of(&[file("a", "x")]);
    let mut large = file("a", "");
    large.1.size = 1 << 32;
    let skipped = tar_of(&[Item(".wh.a".into(), large.1, vec![])]);
    for bytes in [&ended[..], &skipped[..512]] {
        let dir = TempDir::new().unwrap();
        let cancel = Cancel::default();
        let mut input = Cancelling(bytes, &cancel);
        let options = options(Ownership::Recorded);
        let root = open(dir.path());
        let result = apply(&mut input, &root, Form::Flat, &options, &Silent, &cancel);
        assert!(matches!(result, Err(ApplyError::Cancelled(_))));
    }
}

//! Roots hold what is asked of them, and nothing leads out of one.

use std::io::Write;

use tempfile::TempDir;

use super::metadata::Timestamp;
use super::*;

fn made() -> (TempDir, Root) {
    let dir = TempDir::new().unwrap();
    let inside = dir.path().join("root");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(dir.path().join("secret"), "s").unwrap();
    let root = Root::open(&inside).unwrap();
    (dir, root)
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

#[test]
fn no_path_leads_out() {
    let (dir, root) = made();
    let outside = dir.path().join("secret");
    root.symlink(&outside, path("absolute")).unwrap();
    root.symlink(path("../secret"), path("up")).unwrap();
    root.symlink(path("/proc/self/cwd"), path("magic")).unwrap();
    for name in ["absolute", "up", "../secret", "/../../secret", "magic/x"] {
        assert!(root.open_file(path(name)).is_err(), "{name}");
        assert!(root.metadata_followed(path(name)).is_err(), "{name}");
    }
    root.remove_all(path("../secret")).unwrap();
    root.remove_all(path("absolute")).unwrap();
    // A link in the middle is followed inside: `up` here means `/secret` of the root.
    assert!(root.create_file(path("../secret"), 0o600).is_ok());
    assert_eq!(root.read_small(path("up"), 10).unwrap(), b"");
    assert_eq!(std::fs::read(outside).unwrap(), b"s");
}

#[test]
fn missing_directories_are_made_also_behind_links() {
    let (_dir, root) = made();
    root.symlink(path("/run/lock"), path("lock")).unwrap();
    root.symlink(path("b"), path("a")).unwrap();
    root.symlink(path("a"), path("b")).unwrap();
    let created = root
        .create_dir_all(path("/lock/x/y/"), 0o750, None)
        .unwrap();
    let names: Vec<_> = created.iter().map(|p| p.display().to_string()).collect();
    assert_eq!(names, ["/run", "/run/lock", "/lock/x", "/lock/x/y"]);
    assert_eq!(root.metadata(path("run/lock/x/y")).unwrap().mode, 0o750);
    assert!(
        root.create_dir_all(path("lock/x"), 0o700, None)
            .unwrap()
            .is_empty()
    );
    assert!(root.create_dir_all(path("a/x"), 0o700, None).is_err());
    root.create_file(path("f"), 0o640)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert!(root.create_dir_all(path("f/x"), 0o700, None).is_err());
    assert!(
        root.create_dir_all(path("/"), 0o700, None)
            .unwrap()
            .is_empty()
    );
    let sub = root.sub(path("lock/x")).unwrap();
    assert!(sub.metadata(path("../../y")).unwrap().is_dir());
}

#[test]
fn leaves_are_not_followed() {
    let (_dir, root) = made();
    root.create_file(path("f"), 0o640)
        .unwrap()
        .write_all(b"abc")
        .unwrap();
    root.symlink(path("f"), path("l")).unwrap();
    let time = Timestamp {
        seconds: 5,
        nanos: 7,
    };
    root.set_mtime(path("l"), time).unwrap();
    assert_eq!(root.metadata(path("l")).unwrap().mtime, time);
    assert_ne!(root.metadata(path("f")).unwrap().mtime, time);
    assert!(root.set_mode(path("l"), 0o777).is_err());
    assert!(root.create_file(path("l"), 0o600).is_err());
    assert!(root.set_xattr(path("l"), "user.a".as_ref(), b"1").is_err());
    root.hard_link(path("l"), path("l2")).unwrap();
    assert!(root.metadata(path("l2")).unwrap().is_symlink());
    assert_eq!(root.metadata(path("f")).unwrap().mode, 0o640);
    assert_eq!(root.read_small(path("l"), 3).unwrap(), b"abc");
    assert!(root.read_small(path("l"), 2).is_err());
    root.set_xattr(path("f"), "user.a".as_ref(), &[7; 3000])
        .unwrap();
    assert_eq!(
        root.xattr(path("f"), "user.a".as_ref()).unwrap(),
        Some(vec![7; 3000])
    );
    root.remove_xattr(path("f"), "user.a".as_ref()).unwrap();
    assert_eq!(root.xattr(path("f"), "user.a".as_ref()).unwrap(), None);
    root.remove(path("l")).unwrap();
    assert_eq!(root.read_dir(path("/")).unwrap().len(), 2);
}

#[test]
fn fifos_are_not_waited_for() {
    let (_dir, root) = made();
    root.make_node(path("p"), Kind::Fifo, 0o622, DeviceNumber::default())
        .unwrap();
    assert_eq!(root.metadata(path("p")).unwrap().mode, 0o622);
    assert!(root.open_file(path("p")).is_err());
    assert!(root.open_file(path(".")).is_err());
}

#[test]
fn deep_trees_are_removed() {
    let (_dir, root) = made();
    let mut at = root.try_clone().unwrap();
    for _ in 0..3000 {
        at.create_dir(path("d"), 0o755).unwrap();
        at.create_file(path("f"), 0o644).unwrap();
        at = at.sub(path("d")).unwrap();
    }
    root.remove_all(path("d")).unwrap();
    root.remove_all(path("d")).unwrap();
    assert!(root.remove_all(path(".")).is_err());
    assert_eq!(root.read_dir(path("")).unwrap().len(), 1);
}

/// What COPY does: a detached overlay with an upper folder, reached through its descriptor only.
#[test]
fn a_detached_overlay_is_a_root() {
    use rustix::mount::*;
    let dir = TempDir::new().unwrap();
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("lower/f"), "old").unwrap();
    let mount = || {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_flag(&fs, "userxattr")?;
        fsconfig_set_string(&fs, "lowerdir", dir.path().join("lower"))?;
        fsconfig_set_string(&fs, "upperdir", dir.path().join("upper"))?;
        fsconfig_set_string(&fs, "workdir", dir.path().join("work"))?;
        fsconfig_create(&fs)?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let Ok(fd) = mount() else {
        println!("skipped: overlay mounts need a privilege that is missing here");
        return;
    };
    let root = Root::from_fd(fd);
    root.set_mode(path("f"), 0o600).unwrap();
    root.set_xattr(path("f"), "user.a".as_ref(), b"1").unwrap();
    root.create_dir_all(path("a/b"), 0o711, Some(Owner { uid: 0, gid: 0 }))
        .unwrap();
    root.create_file(path("a/b/c"), 0o4755)
        .unwrap()
        .write_all(b"new")
        .unwrap();
    root.set_mtime(path("a/b/c"), Timestamp::from_seconds(9))
        .unwrap();
    assert_eq!(root.read_small(path("f"), 10).unwrap(), b"old");
    root.remove_all(path("f")).unwrap();
    let upper = Root::open(&dir.path().join("upper")).unwrap();
    assert!(upper.metadata(path("f")).unwrap().is_whiteout());
    let seen = upper.metadata(path("a/b/c")).unwrap();
    assert_eq!((seen.mode, seen.mtime.seconds), (0o4755, 9));
}

/// A number that no driver has: to open it would be an error of its own.
#[test]
fn devices_are_not_opened() {
    let (_dir, root) = made();
    let nobody = DeviceNumber {
        major: 4000,
        minor: 7,
    };
    if let Err(error) = root.make_node(path("dev"), Kind::CharDevice, 0o666, nobody) {
        println!("skipped: no device nodes here: {error}");
        return;
    }
    let error = root.open_file(path("dev")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

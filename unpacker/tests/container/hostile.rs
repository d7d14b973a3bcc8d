//! Images that want out: links where mounts, devices and working folders go. One test per class of
//! faults that other runtimes had.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use unpacker::container::exit::Exit;
use unpacker::container::spec::Mount;
use unpacker::progress::Cancel;

use crate::fixture::{Room, good, run_for};

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 9] = [
        ("hostile: targets of mounts are links", mount_targets),
        ("hostile: sources of mounts are links", mount_sources),
        (
            "hostile: kernel file systems are links",
            kernel_file_systems,
        ),
        ("hostile: mounts of ours lead to /proc", over_proc),
        (
            "hostile: kernel file systems are taken away",
            without_mountpoints,
        ),
        ("hostile: devices are the image's", devices),
        ("hostile: working folders are descriptors", descriptors),
        ("hostile: working folders are links", working_folders),
        ("hostile: files of the network are links", network_files),
    ];
    tests
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .into()
}

/// A folder of the host beside the root, and links to it as an image could have them.
struct Outside {
    folder: PathBuf,
    links: [PathBuf; 2],
}

impl Outside {
    fn of(room: &Room) -> Self {
        let folder = room.path("outside");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("secret"), "secret").unwrap();
        let up = Path::new("../../../../../../../..").join(folder.strip_prefix("/").unwrap());
        let links = [folder.clone(), up];
        Self { folder, links }
    }

    #[track_caller]
    fn is_untouched(&self) {
        let names: Vec<_> = fs::read_dir(&self.folder).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let secret = self.folder.join("secret");
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
        let mode = secret.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644);
    }
}

/// Replaces what the image has at a path by a link.
fn link(room: &Room, path: &str, target: &Path) {
    let path = room.path("base").join(path);
    // What is not there needs no removing.
    let _ = fs::remove_dir_all(&path);
    let _ = fs::remove_file(&path);
    symlink(target, path).unwrap();
}

/// CVE-2021-30465, CVE-2018-15664; the source of a bind is the caller's (CVE-2024-1753).
fn mount_targets() {
    for number in 0..2 {
        let room = Room::new();
        let outside = Outside::of(&room);
        link(&room, "mnt", &outside.links[number]);
        let shared = room.path("shared");
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("file"), "shared").unwrap();
        let mut spec = room.spec("cat /mnt/in/file; echo x >/mnt/tmp/x; ls /mnt");
        spec.mounts = vec![
            Mount::Bind {
                source: shared,
                target: "/mnt/in".into(),
                read_only: true,
            },
            Mount::Tmpfs {
                target: "/mnt/tmp".into(),
                size: None,
                mode: None,
                read_only: false,
            },
        ];
        assert_eq!(good(&spec), "sharedin\ntmp\n");
        outside.is_untouched();
    }
}

/// Whoever works in a folder that is mounted can put a link where another mount of it begins.
fn mount_sources() {
    let room = Room::new();
    let outside = Outside::of(&room);
    let own = room.path("own");
    fs::create_dir_all(own.join("there")).unwrap();
    fs::write(own.join("there/file"), "own").unwrap();
    let mounted = |place: &str| {
        let mut spec = room.spec("cat /mnt/*; echo x >/mnt/x");
        spec.mounts = vec![Mount::Beneath {
            root: own.clone(),
            place: place.into(),
            target: "/mnt".into(),
            read_only: false,
        }];
        run_for(&spec, None, &Cancel::default())
    };
    let (exit, ran) = mounted("there");
    assert_eq!((exit.unwrap(), ran.out.as_str()), (Exit::Code(0), "own"));
    for link in outside.links.iter().chain([&outside.folder]) {
        let place = own.join("place");
        let _ = fs::remove_file(&place);
        symlink(link, &place).unwrap();
        let (_, ran) = mounted("place");
        assert!(!ran.out.contains("secret"), "{}: {ran:?}", link.display());
        outside.is_untouched();
    }
}

/// CVE-2023-27561, CVE-2025-52881: writes to /proc that go elsewhere, and masks that mask nothing.
fn kernel_file_systems() {
    for name in ["proc", "sys", "dev"] {
        let room = Room::new();
        let outside = Outside::of(&room);
        link(&room, name, &outside.links[1]);
        let spec = room.spec(
            "[ -e /proc/kcore ] && busybox wc -c </proc/kcore
             echo 1 >/proc/sys/kernel/sysrq || echo refused
             echo x >/proc/sysrq-trigger || echo refused",
        );
        let (exit, ran) = run_for(&spec, None, &Cancel::default());
        if exit.is_ok() {
            assert_eq!(ran.out.matches("refused").count(), 2, "{name}: {ran:?}");
            let kcore = ran.out.lines().next().unwrap().trim();
            assert!(["0", "refused"].contains(&kcore), "{name}: {ran:?}");
        }
        outside.is_untouched();
    }
}

/// What we mount ourselves comes over /proc as little as what was asked for.
fn over_proc() {
    for (name, to, hidden) in [
        ("dev", "/proc", "/proc"),
        ("dev", "../../proc/sys", "/proc/sys"),
        ("dev", "/", "/"),
        ("etc/hosts", "/proc/version", "/proc/version"),
        ("etc/hosts", "../proc/./cmdline", "/proc/cmdline"),
        ("etc/resolv.conf", "/proc/version", "/proc/version"),
    ] {
        if name == "etc/resolv.conf" && !Path::new("/etc/resolv.conf").exists() {
            continue;
        }
        let room = Room::new();
        link(&room, name, Path::new(to));
        let (exit, ran) = run_for(&room.spec("echo ran"), None, &Cancel::default());
        let error = format!("{:?}", exit.unwrap_err());
        let says =
            format!("nothing is mounted over {hidden}, which is where /{name} of the image leads");
        assert!(error.contains(&says), "{error}");
        assert_eq!(ran.out, "", "{name} -> {to}");
    }
}

/// A layer that hides what is below it hides our lowest one, too.
fn without_mountpoints() {
    type Hide<'h> = (&'h str, &'h dyn Fn(&Path));
    let whiteouts = |base: &Path| {
        for name in ["proc", "sys", "dev"] {
            let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
            rustix::fs::mknodat(CWD, base.join(name), kind, mode, 0).unwrap();
        }
    };
    let opaque = |base: &Path| {
        let (name, flags) = ("user.overlay.opaque", XattrFlags::empty());
        rustix::fs::setxattr(base, name, b"y", flags).unwrap();
    };
    let ways: [Hide<'_>; 2] = [("whiteouts", &whiteouts), ("opaque", &opaque)];
    for (name, hide) in ways {
        let room = Room::new();
        hide(&room.path("base"));
        let spec = room.spec("cat /proc/self/comm; ls -d /sys/kernel; echo x >/dev/null");
        assert_eq!(good(&spec), "cat\n/sys/kernel\n", "{name}");
        assert_eq!(room.changes(), [""; 0], "{name}");
    }
}

/// CVE-2025-31133 and CVE-2025-52565: what masks are made of, and the console, are links.
fn devices() {
    let room = Room::new();
    let outside = Outside::of(&room);
    fs::create_dir_all(room.path("base/dev/pts")).unwrap();
    for name in ["null", "console", "ptmx", "pts/0", "zero", "shm"] {
        link(
            &room,
            &format!("dev/{name}"),
            &outside.links[0].join("secret"),
        );
    }
    fs::write(room.path("base/etc/target"), "target").unwrap();
    let out = good(&room.spec(
        "echo x >/dev/null; busybox stat -c %F /dev/null /dev/zero
         [ -e /proc/kcore ] && busybox wc -c </proc/kcore; cat /etc/target",
    ));
    assert_eq!(out.matches("character special file").count(), 2, "{out}");
    assert!(out.ends_with("target"), "{out}");
    outside.is_untouched();
}

/// CVE-2024-21626: a descriptor that leads to the host.
fn descriptors() {
    let room = Room::new();
    let outside = Outside::of(&room);
    let secret = outside.folder.join("secret");
    let script = format!(
        "cat ../../../../../../../../../..{0} ./secret {0} 2>/dev/null || echo nothing",
        secret.display()
    );
    for number in 3..20 {
        for folder in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/1/fd/{number}"),
            format!("/proc/thread-self/fd/{number}/../.."),
        ] {
            let mut spec = room.spec(&script);
            spec.process.cwd = folder.clone();
            let (exit, ran) = run_for(&spec, None, &Cancel::default());
            if exit.is_ok() {
                assert_eq!(ran.out, "nothing\n", "{folder}: {ran:?}");
            }
        }
    }
    outside.is_untouched();
}

/// CVE-2026-55686: what is made for WORKDIR is made inside.
fn working_folders() {
    for number in 0..2 {
        let room = Room::new();
        let outside = Outside::of(&room);
        link(&room, "work", &outside.links[number]);
        for folder in ["/work", "/work/new", "/work/new/../other"] {
            let mut spec = room.spec("echo x >here; pwd -P");
            spec.process.cwd = folder.into();
            let (exit, ran) = run_for(&spec, None, &Cancel::default());
            assert!(exit.is_err() || ran.out.starts_with('/'), "{ran:?}");
            outside.is_untouched();
        }
    }
}

/// What is put over /etc/hosts and /etc/resolv.conf goes nowhere else.
fn network_files() {
    for number in 0..2 {
        let room = Room::new();
        let outside = Outside::of(&room);
        for name in ["hosts", "resolv.conf", "hostname"] {
            link(
                &room,
                &format!("etc/{name}"),
                &outside.links[number].join(name),
            );
        }
        let (exit, ran) = run_for(&room.spec("cat /etc/hosts"), None, &Cancel::default());
        assert!(exit.is_err() || ran.out.contains("localhost"), "{ran:?}");
        outside.is_untouched();
    }
}

//! The closure against `ldd` on this host's own programs, and against crafted roots.

use std::collections::BTreeSet;
use std::process::Command;

use super::*;

/// Programs that a development host usually has; those that are absent are passed over.
const PROGRAMS: [&str; 9] = [
    "/usr/bin/bash",
    "/usr/bin/git",
    "/usr/lib/git-core/git-remote-http",
    "/usr/bin/ssh",
    "/usr/bin/curl",
    "/usr/bin/ls",
    "/usr/bin/tar",
    "/usr/bin/perl",
    "/usr/bin/podman",
];

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap()
}

/// What ldd says, or `None` when it does not take the file.
fn ldd(program: &Path) -> Option<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    output
        .status
        .success()
        .then(|| paths.map(|word| canonical(Path::new(word))).collect())
}

#[test]
fn finds_what_ldd_finds() {
    if Command::new("ldd").arg("--version").output().is_err() {
        eprintln!("skipped: ldd is not installed");
        return;
    }
    let host = Host::open(Path::new("/")).unwrap();
    let mut loader = Loader::new(&host).unwrap();
    let mut compared = 0;
    for program in PROGRAMS.map(Path::new) {
        let Some(expected) = program.exists().then(|| ldd(program)).flatten() else {
            continue;
        };
        let found = loader.closure(&canonical(program)).unwrap().unwrap();
        let found: BTreeSet<_> = found
            .iter()
            .map(|library| canonical(&library.path))
            .collect();
        assert_eq!(found, expected, "{}", program.display());
        compared += 1;
    }
    let own = std::env::current_exe().unwrap();
    if let Some(expected) = ldd(&own) {
        let found = loader.closure(&own).unwrap().unwrap();
        let found: BTreeSet<_> = found
            .iter()
            .map(|library| canonical(&library.path))
            .collect();
        assert_eq!(found, expected);
        compared += 1;
    }
    assert!(compared > 0, "ldd is here but took no program");
}

/// A temporary root with a copy of this host's shell in it and its closure, as loader names it.
fn copied_program(root: &Path) -> (PathBuf, Vec<Library>) {
    let program = canonical(Path::new("/bin/sh"));
    let host = Host::open(Path::new("/")).unwrap();
    let closure = Loader::new(&host).unwrap().closure(&program).unwrap();
    copy(&program, root, Path::new("/bin/sh"));
    (PathBuf::from("/bin/sh"), closure.unwrap())
}

fn copy(from: &Path, root: &Path, to: &Path) {
    let to = root.join(to.strip_prefix("/").unwrap());
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

#[test]
fn a_missing_library_is_named_together_with_its_program() {
    let dir = tempfile::tempdir().unwrap();
    let (program, libraries) = copied_program(dir.path());
    let Some(lost) = libraries.iter().find(|library| library.name.is_some()) else {
        eprintln!("skipped: /bin/sh is a static program here");
        return;
    };
    for library in &libraries {
        if library != lost {
            copy(&canonical(&library.path), dir.path(), &library.path);
        }
    }
    let host = Host::open(dir.path()).unwrap();
    let error = Loader::new(&host).unwrap().closure(&program).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/bin/sh"), "{text}");
    assert!(text.contains(lost.name.as_deref().unwrap()), "{text}");
}

#[test]
fn a_library_found_by_configuration_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (program, libraries) = copied_program(dir.path());
    if libraries.len() < 2 {
        eprintln!("skipped: /bin/sh is a static program here");
        return;
    }
    for library in &libraries {
        let place = match &library.name {
            Some(name) => Path::new("/opt/odd").join(name),
            None => library.path.clone(),
        };
        copy(&canonical(&library.path), dir.path(), &place);
    }
    std::fs::create_dir_all(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/ld.so.conf"), "/opt/odd\n").unwrap();
    let host = Host::open(dir.path()).unwrap();
    let found = Loader::new(&host)
        .unwrap()
        .closure(&program)
        .unwrap()
        .unwrap();
    assert!(found.iter().any(|library| library.by_configuration));
    assert!(
        found
            .iter()
            .all(|library| library.name.is_none() || library.by_configuration)
    );
}

#[test]
fn a_missing_loader_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (program, libraries) = copied_program(dir.path());
    if libraries.is_empty() {
        eprintln!("skipped: /bin/sh is a static program here");
        return;
    }
    let host = Host::open(dir.path()).unwrap();
    let error = Loader::new(&host).unwrap().closure(&program).unwrap_err();
    assert!(
        matches!(error, ClosureError::MissingLoader { .. }),
        "{error}"
    );
}

/// Objects that exist only as values: who loaded whom and which paths they carry.
#[test]
fn rpath_and_runpath_are_searched_as_the_loader_does() {
    let elf = |rpath: &[&str], runpath: &[&str]| {
        let list = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        Arc::new(Elf {
            architecture: elf::Architecture {
                is_64: true,
                little_endian: true,
                machine: object::elf::EM_X86_64,
            },
            interpreter: None,
            soname: None,
            needed: Vec::new(),
            rpath: list(rpath),
            runpath: list(runpath),
        })
    };
    let rules = Rules {
        interpreter: None,
        musl: None,
        defaults: Vec::new(),
    };
    let folders = |program: Arc<Elf>, library: Arc<Elf>, musl| {
        let mut run = Run::new(Path::new("/app/bin/tool"), program, &rules);
        run.add(
            0,
            b"libx.so",
            PathBuf::from("/app/lib/libx.so"),
            library,
            false,
        );
        run.own_folders(1, musl)
    };
    let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect::<Vec<_>>();
    // RPATH is inherited from the program, $ORIGIN is each object's own folder.
    let found = folders(
        elf(&["$ORIGIN/../deps"], &[]),
        elf(&["${ORIGIN}/x"], &[]),
        false,
    );
    assert_eq!(found, paths(&["/app/lib/x", "/app/bin/../deps"]));
    // A RUNPATH switches the RPATHs off and is not inherited.
    let found = folders(
        elf(&["/a"], &[]),
        elf(&["/b"], &["/c", "relative", ""]),
        false,
    );
    assert_eq!(found, paths(&["/c"]));
    let found = folders(elf(&["/a"], &["/run"]), elf(&[], &[]), false);
    assert_eq!(found, paths(&[]));
    // musl inherits both.
    let found = folders(elf(&["/a"], &["/run"]), elf(&[], &["/c"]), true);
    assert_eq!(found, paths(&["/c", "/run"]));
    let found = folders(elf(&[], &[]), elf(&[], &["/$PLATFORM/$LIB"]), false);
    assert_eq!(
        found,
        paths(&[
            "/x86_64/lib/x86_64-linux-gnu",
            "/x86_64/lib64",
            "/x86_64/lib"
        ])
    );
}

#[test]
fn musl_takes_its_own_names_for_itself() {
    for (name, expected) in [
        ("libc.so", true),
        ("libc.musl-x86_64.so.1", true),
        ("libpthread.so.0", true),
        ("libcrypto.so.3", false),
        ("libmagic.so", false),
        ("libc", false),
        ("ld.so", false),
    ] {
        assert_eq!(is_musl_itself(name.as_bytes()), expected, "{name}");
    }
}

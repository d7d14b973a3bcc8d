//! A root file system of one program, and specifications to run in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use unpacker::container::exit::Exit;
use unpacker::container::idmap::IdMap;
use unpacker::container::launch::Launcher;
use unpacker::container::resources::Resources;
use unpacker::container::run::{RunError, Stream, run};
use unpacker::container::spec::{
    Confinement, ContainerSpec, LogLimits, Network, Process, RootFs, Surroundings, User,
};
use unpacker::progress::Cancel;

/// Where busybox stands when it is installed.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// A fresh root for one test.
pub(crate) struct Room {
    pub(crate) dir: TempDir,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self::in_folder(&std::env::temp_dir())
    }

    pub(crate) fn in_folder(parent: &Path) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let base = dir.path().join("base");
        for folder in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        fs::copy(BUSYBOX, base.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "id", "ls", "sleep", "kill", "mount", "stty", "hostname",
        ] {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        fs::write(base.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::create_dir(dir.path().join("upper")).unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        Self { dir }
    }

    /// A root from a tar archive.
    pub(crate) fn from_tar(tar: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["base", "upper", "work"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let status = Command::new("tar")
            .args(["--exclude=./dev/*", "-xf"])
            .arg(tar)
            .arg("-C")
            .arg(dir.path().join("base"))
            .args(if IdMap::current().unwrap().is_single() {
                &["--no-same-owner"][..]
            } else {
                &["--same-owner", "--numeric-owner"]
            })
            .status();
        assert!(status.unwrap().success());
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            rootfs: RootFs {
                lower: vec![self.path("base")],
                upper: self.path("upper"),
                work: self.path("work"),
                volatile: true,
                becomes_layer: false,
            },
            hostname: "box".into(),
            mounts: vec![],
            network: Network::Host,
            wiring: Default::default(),
            process: process(script),
            init: false,
            resources: Resources::default(),
            surroundings: Surroundings::default(),
            log: LogLimits::default(),
        }
    }

    /// What changed, as paths below the root.
    pub(crate) fn changes(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path("upper"), Path::new(""), &mut found);
        found.sort();
        found
    }
}

fn walk(root: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        found.push(path.display().to_string());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, found);
        }
    }
}

pub(crate) fn process(script: &str) -> Process {
    Process {
        args: ["sh", "-c", script].map(String::from).to_vec(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        user: User::default(),
        terminal: false,
        confinement: Confinement::default(),
    }
}

/// What a run left.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn run_for(
    spec: &ContainerSpec,
    timeout: Option<Duration>,
    cancel: &Cancel,
) -> (Result<Exit, RunError>, Ran) {
    let mut ran = Ran::default();
    let mut output = |stream, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match stream {
            Stream::Stdout => ran.out.push_str(&text),
            Stream::Stderr => ran.err.push_str(&text),
        }
    };
    let exit = run(&Launcher::this(), spec, timeout, &mut output, cancel);
    (exit, ran)
}

/// Runs to a good end.
pub(crate) fn good(spec: &ContainerSpec) -> String {
    let (exit, ran) = run_for(spec, None, &Cancel::default());
    assert_eq!(exit.unwrap(), Exit::Code(0), "{ran:?}");
    ran.out
}

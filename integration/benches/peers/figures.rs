//! The release binary with a daemon of its own, timing, and how a figure is printed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where everything of a run lies; the daemon ends with it.
pub(crate) struct Bench {
    devpod: PathBuf,
    root: TempDir,
    pub(crate) port: u16,
}

impl Bench {
    /// Builds the release binary, starts its daemon, and makes a Debian base image.
    pub(crate) fn start() -> Self {
        let target = target();
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        run(Command::new(cargo).args(["build", "--release", "-p", "appliance", "--bin", "devpod"]));
        let bench = Self {
            devpod: target.join("release/devpod"),
            root: tempfile::Builder::new()
                .prefix("devpod-bench")
                .tempdir_in(&target)
                .unwrap(),
            port: free_port(),
        };
        std::fs::create_dir(bench.path("home")).unwrap();
        let context = bench.path("base");
        std::fs::create_dir(&context).unwrap();
        std::fs::copy(debian(&target), context.join("root.tar")).unwrap();
        std::fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nADD root.tar /\nCMD [\"bash\"]\n",
        )
        .unwrap();
        run(bench
            .devpod()
            .args(["build", "-t", "debian:base"])
            .arg(&context));
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The command, with its data, settings and port apart from the user's.
    pub(crate) fn devpod(&self) -> Command {
        let mut command = Command::new(&self.devpod);
        command
            .env("DEVPOD_DATA", self.path("data"))
            .env("DEVPOD_HOME", self.path("home"))
            .env("DEVPOD_REGISTRY_LISTEN", format!("127.0.0.1:{}", self.port));
        command
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What cannot be stopped is told by the next run's lock; the figures stand.
        let _ = quiet(self.devpod().args(["daemon", "stop"])).status();
    }
}

/// Prints one figure.
pub(crate) fn report(what: &str, ours: Duration, peer: &str, theirs: Option<Duration>) {
    let (a, b) = (
        ours.as_secs_f64(),
        theirs.map(|theirs| theirs.as_secs_f64()),
    );
    match b {
        Some(b) => println!(
            "{what:24} devpod {a:8.3} s   {peer} {b:8.3} s   {:5.1} x",
            b / a
        ),
        None => println!("{what:24} devpod {a:8.3} s   {peer}"),
    }
}

/// The median of `count` runs, each after its own preparation.
pub(crate) fn median(count: usize, mut once: impl FnMut(usize) -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..count).map(&mut once).collect();
    times.sort();
    times[count / 2]
}

/// How long a command takes; it must succeed.
pub(crate) fn time(command: &mut Command) -> Duration {
    let begun = Instant::now();
    run(command);
    begun.elapsed()
}

pub(crate) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{out}{err}",
        output.status
    );
}

pub(crate) fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// Whether a program can be run at all.
pub(crate) fn has(program: &str) -> bool {
    quiet(Command::new(program).arg("--version"))
        .status()
        .is_ok()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => workspace.join("target"),
    }
}

/// A minimal Debian as one tar, made once per target folder.
fn debian(target: &Path) -> PathBuf {
    let tar = target.join("bench-debian-bookworm.tar");
    if !tar.exists() {
        let part = target.join("bench-debian-bookworm.part.tar");
        run(Command::new("mmdebstrap")
            .args(["--variant=minbase", "bookworm"])
            .arg(&part));
        std::fs::rename(&part, &tar).unwrap();
    }
    tar
}

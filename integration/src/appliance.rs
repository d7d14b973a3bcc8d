//! A whole appliance of its own: data folder, home, port, and perhaps an ordinary user.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::account::Account;
use crate::folder::Folder;
use crate::process::{self, Ran};
use crate::{binary, clients};

/// A daemon opens its stores in milliseconds; a machine busy with builds takes longer.
const START: Duration = Duration::from_secs(60);
/// It may drain for ten seconds.
const END: Duration = Duration::from_secs(30);

/// A running daemon and what is needed to talk to it. Dropping it ends the daemon and all sandboxes
/// that were left.
#[derive(Debug)]
pub struct TestAppliance {
    place: Place,
    daemon: Child,
    registry: String,
}

/// Where an appliance lives and who runs it, whether or not its daemon runs.
#[derive(Debug)]
pub struct Place {
    folder: Folder,
    account: Option<Account>,
    devpod: PathBuf,
}

impl Place {
    /// For whoever runs the tests.
    pub fn new() -> Self {
        Self::within(Folder::new())
    }

    /// In a folder of the caller's choice, for whoever runs the tests.
    pub fn within(folder: Folder) -> Self {
        fs::create_dir(folder.join("home")).expect("home");
        Self {
            folder,
            account: None,
            devpod: binary::devpod().to_owned(),
        }
    }

    /// As [`Place::new`], with a binary that only this place runs: its processes are known by it.
    pub fn with_binary() -> Self {
        Self::with_binary_within(Folder::new())
    }

    /// For an ordinary user. The binary is copied to where that user can reach it.
    pub fn of(account: Account) -> Self {
        Self::of_within(account, Folder::new())
    }

    fn with_binary_within(folder: Folder) -> Self {
        let mut place = Self::within(folder);
        let copy = place.folder.join("devpod");
        fs::copy(binary::devpod(), &copy).expect("a copy of the binary");
        place.devpod = copy;
        place
    }

    /// As [`Place::of`], in a folder of the caller's choice.
    pub fn of_within(account: Account, folder: Folder) -> Self {
        let mut place = Self::with_binary_within(folder);
        let owner = |path: &Path| {
            std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).expect("chown");
        };
        owner(&place.folder.join("home"));
        let work = place.folder.join("work");
        fs::create_dir(&work).expect("work");
        owner(&work);
        owner(place.folder.path());
        place.account = Some(account);
        place
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("home/data")
    }

    /// The `devpod` binary that this place runs.
    pub fn program(&self) -> &Path {
        &self.devpod
    }

    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A `devpod` command of this place. A daemon that it would start by itself takes any free port.
    pub fn devpod(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.devpod);
        command.args(arguments);
        command
    }

    /// Any program, as the user and with the home of this place.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.home());
        for name in [
            "PATH",
            "LANG",
            "TERM",
            "http_proxy",
            "https_proxy",
            "no_proxy",
        ] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
            .env("HOME", self.home())
            .env("DEVPOD_DATA", self.data())
            .env("DEVPOD_REGISTRY_LISTEN", "127.0.0.1:0");
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
            command.env("USER", &account.name);
        }
        command
    }

    /// Runs a `devpod` command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        process::run(&mut self.devpod(arguments))
    }

    /// Makes a folder's files belong to the user of this place.
    pub fn hand_over(&self, path: &Path) {
        if let Some(account) = &self.account {
            let owner = format!("{}:{}", account.uid, account.gid);
            process::run(Command::new("chown").args(["-R", &owner]).arg(path)).ok();
        }
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    /// Ends what a test left: sandboxes outlive their daemon, so a daemon is started again for that.
    fn drop(&mut self) {
        if !self.data().join("lock").exists() {
            return;
        }
        let quick = |arguments: &[&str]| {
            let mut command = self.devpod(arguments);
            command.stdin(Stdio::null()).stderr(Stdio::null());
            command
                .output()
                .map(|output| output.stdout)
                .unwrap_or_default()
        };
        for (list, key, remove) in [
            (
                &["list", "--output", "json"][..],
                "name",
                &["delete", "--force"][..],
            ),
            (
                &["sandbox", "ps", "--output", "json"],
                "id",
                &["sandbox", "rm", "--force"],
            ),
        ] {
            let rows: Vec<Value> = serde_json::from_slice(&quick(list)).unwrap_or_default();
            for name in rows.iter().filter_map(|row| row[key].as_str()) {
                quick(&[remove, &[name]].concat());
            }
        }
        quick(&["daemon", "stop"]);
    }
}

impl TestAppliance {
    /// A daemon of whoever runs the tests.
    pub fn start() -> Self {
        Self::start_at(Place::new())
    }

    /// A daemon in the foreground, as our child, in a place that may have data already.
    pub fn start_at(place: Place) -> Self {
        let mut command = place.devpod(&["serve", "--listen", "127.0.0.1:0"]);
        let log = fs::File::create(place.folder.join("daemon-output")).expect("a log");
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let mut daemon = process::spawn(&mut command).expect("devpod serve");
        let status = place.data().join("daemon.json");
        let mut read = Value::Null;
        process::eventually("devpod serve is ready", START, || {
            if let Some(code) = process::wait(&mut daemon, Duration::ZERO) {
                panic!("devpod serve ended with {code}\n{}", output(&place));
            }
            let text = fs::read(&status).unwrap_or_default();
            read = serde_json::from_slice(&text).unwrap_or_default();
            // A file of an earlier daemon that was killed names another process.
            read["pid"]
                .as_u64()
                .is_some_and(|pid| is_alive(pid) && read["registry"].is_string())
        });
        let registry = read["registry"].as_str().expect("an address").to_owned();
        Self {
            place,
            daemon,
            registry,
        }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// `127.0.0.1:PORT` of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// A name in the registry, as other tools write it.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.registry)
    }

    /// Puts an image of an OCI layout into the registry, by skopeo.
    pub fn load(&self, layout: &Path, name: &str) {
        clients::skopeo_copy(
            &format!("oci:{}:latest", layout.display()),
            &format!("docker://{}", self.reference(name)),
        );
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.place.run(arguments)
    }

    /// The id of the daemon's process as it tells it.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// SIGTERM; the daemon must end by itself, with success, and leave its folder tidy.
    pub fn stop(mut self) -> Place {
        process::signal(&self.daemon, Signal::TERM);
        match process::wait(&mut self.daemon, END) {
            Some(0) => {}
            Some(end) => panic!("the daemon ended with {end}\n{}", output(&self.place)),
            None => panic!(
                "the daemon did not end within {END:?}\n{}",
                process::threads(self.daemon.id())
            ),
        }
        for name in ["daemon.json", "devpod.sock"] {
            let path = self.place.data().join(name);
            assert!(!path.exists(), "{} stayed", path.display());
        }
        self.give_place()
    }

    /// SIGKILL, as a crash would do it.
    pub fn kill(mut self) -> Place {
        process::signal(&self.daemon, Signal::KILL);
        process::wait(&mut self.daemon, END).expect("an end");
        self.give_place()
    }

    fn give_place(mut self) -> Place {
        // The shell of `self` is dropped with an empty place and a daemon that has ended.
        let nowhere = Place {
            folder: Folder::new(),
            account: None,
            devpod: PathBuf::new(),
        };
        std::mem::replace(&mut self.place, nowhere)
    }
}

impl Drop for TestAppliance {
    fn drop(&mut self) {
        process::signal(&self.daemon, Signal::TERM);
        if process::wait(&mut self.daemon, END).is_none() {
            process::signal(&self.daemon, Signal::KILL);
            process::wait(&mut self.daemon, END);
        }
        if std::thread::panicking() {
            // The test fails anyway; its daemon's words help to see why.
            let said = format!("--- daemon\n{}", output(&self.place));
            let _ = io::stderr().write_all(said.as_bytes());
        }
    }
}

/// What the daemon printed.
fn output(place: &Place) -> String {
    fs::read_to_string(place.folder.join("daemon-output")).unwrap_or_default()
}

fn is_alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

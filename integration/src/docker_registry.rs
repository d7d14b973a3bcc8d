//! Debian's docker-registry with a folder and a port of its own, as the registry that others mirror.

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::clients;
use crate::folder::Folder;
use crate::{port, probe, process};

const START: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);

/// The user that [`DockerRegistry::with_login`] lets in, with [`PASSWORD`].
pub const USER: &str = "ali";
pub const PASSWORD: &str = "open sesame";
/// bcrypt of the password.
const HASH: &str = "$2b$05$t9km0IoJElZBKN6VtRy9Luu4mJB06mzkak6hXS2nMskgU6L2baW3.";

/// A running docker-registry.
#[derive(Debug)]
pub struct DockerRegistry {
    folder: Folder,
    port: u16,
    server: Child,
}

impl DockerRegistry {
    /// `None` after having told why there can be none here.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::configured("")
    }

    /// As [`DockerRegistry::start`], for one user only.
    #[track_caller]
    pub fn with_login() -> Option<Self> {
        Self::configured("auth:\n  htpasswd:\n    realm: test\n    path: HTPASSWD\n")
    }

    #[track_caller]
    fn configured(auth: &str) -> Option<Self> {
        let program = probe::program("docker-registry")?;
        let folder = Folder::new();
        let port = port::free();
        let users = folder.write("htpasswd", format!("{USER}:{HASH}\n"));
        let auth = auth.replace("HTPASSWD", &users.display().to_string());
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
            folder.join("data").display()
        );
        let configuration = folder.write("config.yml", text);
        let log = File::create(folder.join("log")).expect("a log");
        let mut command = Command::new(program);
        command.arg("serve").arg(configuration).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let server = command.spawn().expect("docker-registry");
        process::eventually("docker-registry listens", START, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Self {
            folder,
            port,
            server,
        })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts an image of an OCI layout there, by skopeo.
    pub fn load(&self, layout: &Path, name: &str) {
        let mut command = clients::skopeo_copy_command(
            &format!("oci:{}:latest", layout.display()),
            &format!("docker://{}/{name}", self.address()),
        );
        command.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        process::run(&mut command).ok();
    }

    /// Requests that it has answered, by its log.
    pub fn requests(&self, needle: &str) -> usize {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let answered = log.lines().filter(|line| line.contains("HTTP/1.1\""));
        answered.filter(|line| line.contains(needle)).count()
    }

    /// Ends it; nobody answers at its address any more.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        process::signal(&self.server, Signal::KILL);
        process::wait(&mut self.server, END);
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        if process::wait(&mut self.server, Duration::ZERO).is_none() {
            self.end();
        }
    }
}

//! docker's own registry as a child process on a free port of loopback, and skopeo beside it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use config::name::Reference;

pub(crate) const REGISTRY: &str = "/usr/bin/docker-registry";
/// bcrypt of "open sesame".
const HTPASSWD: &str = "ali:$2b$04$8gCkEmH3F0taDB21.LHMR.9JNWAzhQxfkCDr7G2oG6rqwiXDVx.v.\n";

/// Which tools a test needs; says which one is missing.
pub(crate) fn have(tools: &[&str]) -> bool {
    for tool in tools {
        let found = std::env::var("PATH").unwrap_or_default();
        let found = found
            .split(':')
            .any(|dir| Path::new(dir).join(tool).exists());
        if !found && !Path::new(tool).exists() {
            eprintln!("skipped: {tool} is not installed");
            return false;
        }
    }
    true
}

#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) password: bool,
    pub(crate) tls: bool,
    /// Clients must show the certificate of [`Registry::client`].
    pub(crate) client_certificate: bool,
}

pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start(setup: &Setup) -> Self {
        // Another process may take the free port first: then the child ends, and we try again.
        for _ in 0..5 {
            if let Some(registry) = Self::try_start(setup) {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }

    fn try_start(setup: &Setup) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yml");
        fs::write(&config, configuration(folder.path(), &host, setup)).unwrap();
        let child = Command::new(REGISTRY)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut registry = Self {
            child,
            host,
            folder,
        };
        registry.comes_up().then_some(registry)
    }

    fn comes_up(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            if std::net::TcpStream::connect(&self.host).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub(crate) fn at(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    /// A certificate that is let in, and its key.
    pub(crate) fn client(&self) -> (PathBuf, PathBuf) {
        let folder = self.folder.path();
        (folder.join("client.crt"), folder.join("client.key"))
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, host: &str, setup: &Setup) -> String {
    let shown = folder.display();
    let mut text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {shown}/data}}\n\
         http:\n  addr: {host}\n"
    );
    if setup.tls {
        make_certificate(folder, "tls");
        let mut more = String::new();
        if setup.client_certificate {
            make_certificate(folder, "client");
            more = format!(", clientcas: [{shown}/client.crt]");
        }
        text += &format!("  tls: {{certificate: {shown}/tls.crt, key: {shown}/tls.key{more}}}\n");
    }
    if setup.password {
        fs::write(folder.join("htpasswd"), HTPASSWD).unwrap();
        text += &format!("auth:\n  htpasswd: {{realm: r, path: {shown}/htpasswd}}\n");
    }
    text
}

fn make_certificate(folder: &Path, name: &str) {
    let arguments = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                     -subj /CN=localhost -addext subjectAltName=DNS:localhost \
                     -addext basicConstraints=critical,CA:FALSE \
                     -keyout {name}.key -out {name}.crt"
    );
    let mut openssl = Command::new("openssl");
    run(openssl
        .args(arguments.split_whitespace())
        .current_dir(folder));
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn skopeo(arguments: &[&str]) -> String {
    run(Command::new("skopeo").args(arguments))
}

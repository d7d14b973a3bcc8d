//! Registries that are measured: each started with a folder of its own, watched, and ended.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::{port, probe};

/// Which program serves.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Devpod,
    /// Debian's, 2.8.
    DockerRegistry(PathBuf),
    /// distribution v3.
    Distribution(PathBuf),
    Zot(PathBuf),
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Devpod => "devpod",
            Self::DockerRegistry(_) => "docker-registry",
            Self::Distribution(_) => "distribution",
            Self::Zot(_) => "zot",
        }
    }
}

/// The peers that this machine has.
pub(crate) fn peers() -> Vec<Kind> {
    let folder = std::env::var_os("DEVPOD_BENCH_PEERS").map(PathBuf::from);
    let given = |name: &str| {
        let path = folder.as_ref()?.join(name);
        path.is_file().then_some(path)
    };
    let found = [
        probe::find("docker-registry").map(Kind::DockerRegistry),
        given("registry").map(Kind::Distribution),
        given("zot").map(Kind::Zot),
    ];
    found.into_iter().flatten().collect()
}

/// A running registry.
pub(crate) struct Server {
    pub(crate) address: String,
    pid: u32,
    life: Life,
}

enum Life {
    Devpod(TestAppliance),
    Peer { _peer: Peer },
}

/// A peer's process; its folder goes after it.
struct Peer {
    child: Child,
    _folder: Folder,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is our child: killing and reaping it can only fail when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start(kind: &Kind) -> Self {
        match kind {
            Kind::Devpod => Self::devpod(TestAppliance::start()),
            Kind::DockerRegistry(program) | Kind::Distribution(program) => {
                Self::peer(program, "config.yml", distribution)
            }
            Kind::Zot(program) => Self::peer(program, "config.json", zot),
        }
    }

    /// devpod with its data below a folder of another file system.
    pub(crate) fn devpod_below(folder: &Path) -> Self {
        let place = Place::within(Folder::below(folder));
        Self::devpod(TestAppliance::start_at(place))
    }

    fn devpod(appliance: TestAppliance) -> Self {
        Self {
            address: appliance.registry().to_owned(),
            pid: appliance.pid(),
            life: Life::Devpod(appliance),
        }
    }

    fn peer(program: &Path, name: &str, config: fn(&Path, u16) -> String) -> Self {
        let (folder, port) = (Folder::new(), port::free());
        let file = folder.write(name, config(&folder.join("data"), port));
        let mut command = Command::new(program);
        command.arg("serve").arg(file);
        // distribution v3 exports traces unless it is told not to.
        command.env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the peer starts");
        let (pid, _folder) = (child.id(), folder);
        let life = Life::Peer {
            _peer: Peer { child, _folder },
        };
        let address = format!("127.0.0.1:{port}");
        let begun = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            let patience = Duration::from_secs(20);
            assert!(begun.elapsed() < patience, "{program:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { address, pid, life }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The appliance, where this is devpod.
    pub(crate) fn appliance(&self) -> Option<&TestAppliance> {
        match &self.life {
            Life::Devpod(appliance) => Some(appliance),
            Life::Peer { .. } => None,
        }
    }

    /// Processor seconds that the server has used so far.
    pub(crate) fn cpu(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // The name in parentheses may contain spaces; utime and stime are fields 14 and 15.
        let rest = text.rsplit_once(')').unwrap().1;
        let fields: Vec<f64> = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse().unwrap())
            .collect();
        #[allow(clippy::cast_precision_loss)]
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        fields.iter().sum::<f64>() / ticks
    }

    /// The most resident memory so far, in MiB.
    pub(crate) fn peak_memory(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<f64>().unwrap() / 1024.0
    }
}

fn distribution(data: &Path, port: u16) -> String {
    format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  delete:\n    enabled: true\n  \
         filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        data.display()
    )
}

fn zot(data: &Path, port: u16) -> String {
    serde_json::json!({
        "storage": { "rootDirectory": data, "commit": true },
        "http": { "address": "127.0.0.1", "port": port.to_string() },
        "log": { "level": "error" },
    })
    .to_string()
}

//! Ten incompressible layers to a registry and back, by the same client.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::figures::{Bench, free_port, has, median, quiet, report, run, time};

const LAYERS: usize = 10;
const SIZE: u64 = 20 << 20;

pub(crate) fn measure(bench: &Bench) {
    if !has("skopeo") {
        println!("push, pull: skopeo is not installed");
        return;
    }
    let source = make_images(bench);
    let ours = both(bench, &source, &format!("127.0.0.1:{}", bench.port), "ours");
    let peer = Peer::start(bench);
    let theirs = peer
        .as_ref()
        .map(|peer| both(bench, &source, &format!("127.0.0.1:{}", peer.port), "peer"));
    report(
        "push 200 MB",
        ours.0,
        "docker-registry",
        theirs.map(|times| times.0),
    );
    report(
        "pull 200 MB",
        ours.1,
        "docker-registry",
        theirs.map(|times| times.1),
    );
}

/// Medians of push (into a new repository each time) and pull.
fn both(bench: &Bench, source: &Path, host: &str, who: &str) -> (Duration, Duration) {
    let push = median(3, |n| {
        // Other layers each time: nothing is there already, and nothing can be mounted.
        let from = format!("oci:{}:noise:{n}", source.display());
        let to = format!("docker://{host}/bench:{n}");
        let mut command = Command::new("skopeo");
        command.args([
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &from,
            &to,
        ]);
        time(&mut command)
    });
    let pull = median(3, |n| {
        let from = format!("docker://{host}/bench:{n}");
        let to = format!("dir:{}", bench.path(&format!("pulled-{who}-{n}")).display());
        time(Command::new("skopeo").args(["copy", "--src-tls-verify=false", &from, &to]))
    });
    (push, pull)
}

/// Three images of ten layers each, in the OCI layout of a data folder that serves nothing else:
/// skopeo would mount blobs that it saw in the same registry before.
fn make_images(bench: &Bench) -> PathBuf {
    let data = bench.path("noise");
    let listen = format!("127.0.0.1:{}", free_port());
    let devpod = || {
        let mut command = bench.devpod();
        command
            .env("DEVPOD_DATA", &data)
            .env("DEVPOD_REGISTRY_LISTEN", &listen);
        command
    };
    for n in 0..3 {
        let context = bench.path(&format!("noise-context-{n}"));
        write_context(&context);
        let build = [
            "build",
            "--compression",
            "none",
            "-t",
            &format!("noise:{n}"),
        ];
        run(devpod().args(build).arg(&context));
    }
    run(devpod().args(["daemon", "stop"]));
    data.join("content")
}

fn write_context(context: &Path) {
    fs::create_dir(context).unwrap();
    let mut dockerfile = "FROM scratch\n".to_owned();
    for layer in 0..LAYERS {
        let noise = fs::File::open("/dev/urandom").unwrap();
        let mut file = fs::File::create(context.join(format!("noise-{layer}"))).unwrap();
        std::io::copy(&mut noise.take(SIZE), &mut file).unwrap();
        dockerfile.push_str(&format!("COPY noise-{layer} /\n"));
    }
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
}

struct Peer {
    child: Child,
    port: u16,
}

impl Peer {
    fn start(bench: &Bench) -> Option<Self> {
        if !has("docker-registry") {
            println!("push, pull: docker-registry is not installed");
            return None;
        }
        let port = free_port();
        let config = bench.path("registry.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            bench.path("registry").display()
        );
        fs::write(&config, text).unwrap();
        let child = quiet(Command::new("docker-registry").arg("serve").arg(&config))
            .spawn()
            .ok()?;
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "docker-registry does not listen"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self { child, port })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is our child: killing and reaping it can only fail when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

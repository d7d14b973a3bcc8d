//! Ten incompressible layers to a registry and back, by the same client.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::figures::{Bench, free_port, has, median, quiet, report, run, time};

const LAYERS: usize = 10;
const SIZE: usize = 20 << 20;

pub(crate) fn measure(bench: &Bench) {
    if !has("skopeo") {
        println!("push, pull: skopeo is not installed");
        return;
    }
    let source = bench.path("blobs");
    make_image(bench, &source);
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
        // The same bytes in a repository that never saw them; other layers each time, so that no
        // mount can help.
        let from = format!("oci:{}:{n}", source.display());
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

/// Three images of ten layers each in one OCI layout.
fn make_image(bench: &Bench, layout: &Path) {
    for n in 0..3 {
        let context = bench.path(&format!("blobs-context-{n}"));
        fs::create_dir(&context).unwrap();
        let mut dockerfile = "FROM scratch\n".to_owned();
        for layer in 0..LAYERS {
            let name = format!("noise-{layer}");
            run(Command::new("sh").arg("-c").arg(format!(
                "head -c {SIZE} /dev/urandom > {}",
                context.join(&name).display()
            )));
            dockerfile.push_str(&format!("COPY {name} /\n"));
        }
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let name = format!("noise:{n}");
        let build = ["build", "--compression", "none", "-t", &name];
        run(bench.devpod().args(build).arg(&context));
        let from = format!("docker://{}", bench.reference(&name));
        let to = format!("oci:{}:{n}", layout.display());
        let flags = ["copy", "--preserve-digests", "--src-tls-verify=false"];
        run(Command::new("skopeo").args(flags).args([&from, &to]));
        run(bench.devpod().args(["rmi", &name]));
    }
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

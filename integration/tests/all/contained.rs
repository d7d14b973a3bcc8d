//! The daemon inside of somebody else's container: each of the rungs that such a container leaves.
//!
//! The container has the host's files to read and a folder of its own, no network, and what docker
//! gives or takes by default. Its seccomp profile is what decides; see `docs/build/ladder.md`.

use std::path::{Path, PathBuf};

use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::process::{Ran, run_within};
use integration::{base_image, binary, probe};

/// Builds with RUN, runs what was built, and says which ids there were.
const JOURNEY: &str = r#"set -e
export HOME=/h DEVPOD_DATA="${DEVPOD_DATA:-/h/data}"
devpod doctor | grep overlayfs || true
devpod load --quiet -i /given/from --name busybox:1
devpod build --tag made:1 /given/context
devpod sandbox run --rm made:1 cat /said
devpod daemon status --output json
devpod daemon stop
# What a later daemon finds is whole, or made again.
devpod build --tag made:2 /given/context
devpod sandbox run --rm made:2 sh -c 'ls /gone || echo hidden'
devpod daemon stop
"#;

const DOCKERFILE: &str = "FROM busybox:1\nRUN echo built by $(id -u) > /said && echo 1 > /gone\n\
    RUN rm /gone && busybox chown 7:50 /said\n";

/// What a container gets besides the host's files.
struct Contained {
    dockerd: Dockerd,
    given: Folder,
}

fn contained() -> Option<Contained> {
    let given = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&given.join("from")) {
        return None;
    }
    given.write("context/Dockerfile", DOCKERFILE);
    given.write("journey", JOURNEY);
    // Its containers' own files lie on overlayfs, as they do nearly everywhere.
    let dockerd = Dockerd::start_in(Folder::new(), "overlay2", "{}")?;
    let program = binary::devpod();
    std::fs::copy(program, given.join("devpod")).expect("the binary");
    let root = base_image::debian()?;
    let layer = only_layer(&root).display().to_string();
    dockerd.run(&["import", &layer, "debian:bookworm"]).ok();
    open_to_all(given.path());
    Some(Contained { dockerd, given })
}

/// The tar of an image that has one.
fn only_layer(layout: &Path) -> PathBuf {
    let blob = |digest: &str| {
        layout
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    };
    let manifest = std::fs::read(blob(&integration::layout::manifest_digest(layout)));
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.unwrap()).unwrap();
    blob(manifest["layers"][0]["digest"].as_str().unwrap())
}

fn open_to_all(folder: &Path) {
    let mut command = std::process::Command::new("chmod");
    integration::process::run(command.args(["-R", "a+rX"]).arg(folder)).ok();
}

impl Contained {
    /// The journey in a container with these options.
    fn go(&self, options: &[&str]) -> Ran {
        let given = format!("{}:/given:ro", self.given.path().display());
        let fixed = ["run", "--rm", "--network", "none", "--volume", &given];
        let home = ["--tmpfs", "/h:mode=1777,exec,size=256m"];
        let path = [
            "--env",
            "PATH=/given:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ];
        let tail = ["debian:bookworm", "sh", "/given/journey"];
        let all = [&fixed[..], &home[..], &path[..], options, &tail[..]].concat();
        run_within(
            &mut self.dockerd.command(&all),
            std::time::Duration::from_secs(240),
        )
    }
}

const OPEN: [&str; 2] = ["--security-opt", "seccomp=unconfined"];

#[test]
fn what_another_container_leaves_is_used_or_named() {
    let Some(contained) = contained() else { return };
    let works = |options: &[&str], said: &[&str]| {
        let ran = contained.go(&[&OPEN[..], options].concat()).ok();
        for said in [&["built by 0", "hidden"], said].concat() {
            assert!(ran.stdout.contains(said), "{options:?}: {said}\n{ran}");
        }
    };
    // Its root maps every id that an image can name, without any helper.
    works(&[], &["range (ids of this container's root)"]);
    let user = ["--user", "1000:1000"];
    works(&user, &["single"]);
    works(
        &[&user[..], &["--security-opt", "no-new-privileges"]].concat(),
        &["single"],
    );
    works(&[&user[..], &["--cap-drop", "ALL"]].concat(), &["single"]);
    works(
        &[&user[..], &["--security-opt", "systempaths=unconfined"]].concat(),
        &["single"],
    );
    // On the container's own overlayfs, layers are in memory.
    works(
        &["--env", "DEVPOD_DATA=/data"],
        &["range", "kept in memory"],
    );
    // What they take of it is bounded: the image alone is larger.
    let little = [
        "--env",
        "DEVPOD_DATA=/data",
        "--env",
        "DEVPOD_LAYERS_MEMORY=1Mi",
    ];
    contained
        .go(&[&OPEN[..], &little].concat())
        .failed(7)
        .says("held in memory here, 1Mi at most (layers.memory)");
    // What is missing is named in one line.
    for user in [&[][..], &user[..]] {
        contained
            .go(user)
            .failed(6)
            .says("--security-opt seccomp=unconfined");
    }
    let bare = [&OPEN[..], &["--cap-drop", "ALL"]].concat();
    contained
        .go(&bare)
        .failed(6)
        .says("SETUID, SETGID and SETFCAP");
}

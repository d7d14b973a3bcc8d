//! The registry as a mirror of another one, for the clients that people have: dockerd's
//! registry-mirrors, containerd's hosts.toml, podman and skopeo by a prefix, and our own commands.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration::appliance::{Place, TestAppliance};
use integration::clients::{Storage, skopeo_copy};
use integration::docker_registry::{DockerRegistry, PASSWORD, USER};
use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::process::{self, Ran, run};
use integration::{base_image, layout, probe};
use rustix::process::Signal;
use serde_json::json;

/// The exit code for what does not exist.
const NOT_FOUND: i32 = 3;

/// An appliance that mirrors the registry at `url` as `docker.io`.
fn mirror_of(url: &str) -> TestAppliance {
    // The first address is a mirror that has gone.
    mirror_with(json!({
        "host": "docker.io", "url": ["http://127.0.0.1:1", url], "prefix": "hub", "default": true, "tags_ttl": 0,
    }))
}

fn mirror_with(upstream: serde_json::Value) -> TestAppliance {
    let place = Place::new();
    let text = json!({ "registry": { "upstreams": [upstream] } }).to_string();
    let folder = place.home().join(".devpod");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), text).unwrap();
    TestAppliance::start_at(place)
}

/// busybox in an OCI layout, and a registry that has it as `library/busybox:1`.
fn upstream(folder: &Folder) -> Option<DockerRegistry> {
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return None;
    }
    let registry = DockerRegistry::start()?;
    registry.load(&from, "library/busybox:1");
    Some(registry)
}

fn inspect(reference: &str) -> Ran {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    run(command.arg(format!("docker://{reference}")))
}

#[test]
fn dockerd_pulls_through_its_registry_mirror() {
    let folder = Folder::new();
    let Some(registry) = upstream(&folder) else {
        return;
    };
    let appliance = mirror_of(&format!("http://{}", registry.address()));
    let configuration =
        json!({ "registry-mirrors": [format!("http://{}", appliance.registry())] }).to_string();
    let Some(docker) = Dockerd::start_with(&configuration) else {
        return;
    };
    docker.run(&["pull", "busybox:1"]).ok();
    assert_eq!(registry.requests("GET /v2/library/busybox/blobs/"), 3);
    docker.run(&["rmi", "busybox:1"]).ok();
    docker.run(&["pull", "docker.io/library/busybox:1"]).ok();
    assert_eq!(registry.requests("GET /v2/library/busybox/blobs/"), 3);
    // Pushing works in the same registry.
    let own = appliance.reference("team/busybox:1");
    docker.run(&["tag", "busybox:1", &own]).ok();
    docker.run(&["push", &own]).ok();
    // The other registry goes away; what is here is still served.
    registry.stop();
    docker.run(&["rmi", "busybox:1", &own]).ok();
    docker.run(&["pull", "busybox:1"]).ok();
    let id = |name: &str| {
        let ran = docker.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        ran.ok().text().to_owned()
    };
    docker.run(&["pull", &own]).ok();
    assert_eq!(id(&own), id("busybox:1"));
}

#[test]
fn podman_and_skopeo_pull_by_a_prefix() {
    let folder = Folder::new();
    let Some(registry) = upstream(&folder) else {
        return;
    };
    let appliance = mirror_of(&format!("http://{}", registry.address()));
    let digest = layout::manifest_digest(&folder.join("from"));
    for name in [
        "hub/library/busybox:1",
        "docker.io/library/busybox:1",
        "hub/busybox:1",
    ] {
        let found = inspect(&appliance.reference(name)).ok();
        assert_eq!(found.text(), digest, "{name}");
    }
    let to = folder.join("to");
    let source = format!("docker://{}", appliance.reference("hub/library/busybox:1"));
    skopeo_copy(&source, &format!("oci:{}:latest", to.display()));
    assert_eq!(layout::manifest_digest(&to), digest);
    assert_eq!(registry.requests("GET /v2/library/busybox/blobs/"), 3);
    let missing = inspect(&appliance.reference("hub/library/none:1"));
    assert_ne!(missing.code, 0, "{missing}");
    if !probe::root() || !probe::programs(&["podman"]) {
        return;
    }
    registry.stop();
    let podman = Storage::new("podman", folder.path());
    let name = appliance.reference("hub/library/busybox:1");
    podman.run(&["pull", "--tls-verify=false", &name]).ok();
    let refused = podman.run(&["push", "--tls-verify=false", &name]);
    assert_ne!(refused.code, 0, "{refused}");
}

/// A containerd of one test, with the folders of its own.
struct Containerd {
    folder: Folder,
    daemon: Child,
}

impl Containerd {
    fn start() -> Option<Self> {
        if !probe::root() || !probe::programs(&["containerd", "ctr"]) {
            return None;
        }
        let folder = Folder::new();
        let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        let configuration = folder.write("config.toml", text);
        let log = File::create(folder.join("log")).unwrap();
        let mut command = Command::new(probe::find("containerd")?);
        command.arg("--config").arg(configuration);
        for (option, name) in [
            ("--root", "root"),
            ("--state", "state"),
            ("--address", "sock"),
        ] {
            command.arg(option).arg(folder.join(name));
        }
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = command.spawn().expect("containerd");
        let containerd = Self { folder, daemon };
        process::eventually("containerd answers", Duration::from_secs(60), || {
            containerd.run(&["version"]).code == 0
        });
        Some(containerd)
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.join("sock"));
        run(command.args(arguments))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        process::signal(&self.daemon, Signal::TERM);
        if process::wait(&mut self.daemon, Duration::from_secs(20)).is_none() {
            process::signal(&self.daemon, Signal::KILL);
            process::wait(&mut self.daemon, Duration::from_secs(20));
        }
    }
}

#[test]
fn containerd_pulls_through_its_hosts_file() {
    let folder = Folder::new();
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let Some(registry) = upstream(&folder) else {
        return;
    };
    // No prefix and no default: the parameter `ns` alone says whose image it is.
    let appliance = mirror_with(json!({
        "host": "images.example", "url": format!("http://{}", registry.address()),
    }));
    let hosts = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        appliance.registry()
    );
    folder.write("hosts/images.example/hosts.toml", hosts);
    let hosts = folder.join("hosts").display().to_string();
    let name = "images.example/library/busybox:1";
    let pull = [
        "images",
        "pull",
        "--snapshotter",
        "native",
        "--hosts-dir",
        &hosts,
        name,
    ];
    containerd.run(&pull).ok();
    containerd
        .run(&["images", "list"])
        .ok()
        .says(&layout::manifest_digest(&folder.join("from")));
    assert_eq!(registry.requests("GET /v2/library/busybox/blobs/"), 3);
}

#[test]
fn what_a_client_left_out_is_fetched_by_our_own_commands() {
    let folder = Folder::new();
    let Some(registry) = upstream(&folder) else {
        return;
    };
    let appliance = mirror_with(json!({ "host": registry.address(), "tags_ttl": "1h" }));
    let kept = format!("{}/library/busybox:1", registry.address().replace(':', "_"));
    // A client that looks at the manifest only.
    let mut raw = Command::new("skopeo");
    raw.args(["inspect", "--raw", "--tls-verify=false"]);
    run(raw.arg(format!("docker://{}", appliance.reference(&kept)))).ok();
    assert_eq!(registry.requests("GET /v2/library/busybox/blobs/"), 0);
    let name = format!("{}/library/busybox:1", registry.address());
    appliance.run(&["images"]).ok().says("library/busybox");
    appliance.run(&["image", "prune"]).ok();
    let destination = folder.join("root").display().to_string();
    if probe::root() {
        appliance.run(&["unpack", &name, &destination]).ok();
        assert!(folder.join("root/bin/busybox").exists());
    }
}

#[test]
fn accounts_at_other_registries_are_kept_and_used() {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return;
    }
    let Some(registry) = DockerRegistry::with_login() else {
        return;
    };
    registry.load(&from, "team/app:1");
    let address = registry.address();
    let appliance = mirror_with(json!({ "host": address, "prefix": "other", "tags_ttl": 0 }));
    let name = appliance.reference("other/team/app:1");
    let refused = inspect(&name);
    assert_ne!(refused.code, 0, "{refused}");
    refused.says("denied");
    appliance
        .run(&["pull", &format!("{address}/team/app:1")])
        .failed(6);
    let add = |password: &str| {
        let mut command = appliance.place().devpod(&[
            "registry",
            "external",
            "add",
            &address,
            "--username",
            USER,
        ]);
        let input = folder.write("password", password);
        let ended = command.stdin(File::open(input).unwrap()).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    };
    add("wrong\n");
    assert_ne!(inspect(&name).code, 0);
    add(&format!("{PASSWORD}\n"));
    let listed = appliance
        .run(&["registry", "external", "list", "--output", "json"])
        .ok();
    assert_eq!(listed.json()[0]["host"], address);
    assert_eq!(listed.json()[0]["username"], USER);
    appliance
        .run(&["registry", "external", "show", &address])
        .ok()
        .says(USER);
    // It is used as soon as the refused one is forgotten, without a restart.
    process::eventually("the new password is used", Duration::from_secs(30), || {
        inspect(&name).code == 0
    });
    appliance
        .run(&["pull", &format!("{address}/team/app:1")])
        .ok();
    for file in ["external.json", "external.key", "config.json"] {
        let text = fs::read(appliance.place().data().join(file)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("sesame"), "{file}");
    }
    let log = fs::read_to_string(appliance.place().folder().join("daemon-output")).unwrap();
    assert!(!log.contains("sesame"), "{log}");
    appliance
        .run(&["registry", "external", "remove", &address])
        .ok();
    appliance
        .run(&["registry", "external", "show", &address])
        .failed(NOT_FOUND);
}

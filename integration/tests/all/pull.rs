//! Images of other registries: fetched whole, gone on with after an interruption, ready to be run; and
//! whose account and which mirror is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration::appliance::{Place, TestAppliance};
use integration::docker_registry::{DockerRegistry, PASSWORD, USER};
use integration::folder::Folder;
use integration::layout::{self, Entry};
use integration::process::{self, run};
use integration::relay::Relay;
use integration::{base_image, probe};
use rustix::process::Signal;
use serde_json::json;

/// The exit code for what needs another account.
const DENIED: i32 = 6;
const SOON: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// Of the large layer, which does not compress.
const LARGE: u64 = 24 * MIB;
/// What its blob is shorter than: fast gzip makes noise a little longer.
const LARGEST_BLOB: u64 = LARGE + LARGE / 16;

/// Bytes that no compression makes smaller.
fn noise(bytes: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(|_| next()).collect()
}

/// An appliance that has `large:1`, an image with a large layer, and a line to its registry.
fn with_large_image() -> Option<(TestAppliance, Relay, String)> {
    if !probe::programs(&["skopeo"]) {
        return None;
    }
    let folder = Folder::new();
    let noise = noise(LARGE);
    let small = layout::tar(&[("small", Entry::File(0o644, b"x"))]);
    let large = layout::tar(&[("noise", Entry::File(0o644, &noise))]);
    layout::write(&folder.join("l"), &[small, large], json!({}));
    let digest = layout::manifest_digest(&folder.join("l"));
    let other = TestAppliance::start();
    other.load(&folder.join("l"), "large:1");
    let relay = Relay::start(other.registry());
    Some((other, relay, digest))
}

/// Bytes of downloads that are not finished.
fn unfinished(data: &Path) -> u64 {
    let entries = fs::read_dir(data.join("content/uploads"))
        .into_iter()
        .flatten();
    let partial = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("d-sha256-")
    });
    partial
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// Starts a pull and waits until a good part of the large layer is here and no more comes.
fn pull_a_part(place: &Place, relay: &Relay, name: &str) -> Child {
    fetch_a_part(place, relay, &["pull", name])
}

/// As [`pull_a_part`], with another command that fetches.
fn fetch_a_part(place: &Place, relay: &Relay, arguments: &[&str]) -> Child {
    relay.allow(12 * MIB);
    let mut command = place.devpod(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let pull = process::spawn(&mut command).expect("a pull");
    process::eventually("a part is here", SOON, || {
        unfinished(&place.data()) >= 8 * MIB
    });
    pull
}

/// Pulls the rest over a line that is whole again, and checks that it was only the rest.
#[track_caller]
fn pull_the_rest(appliance: &TestAppliance, relay: &Relay, name: &str, digest: &str) {
    let have = unfinished(&appliance.place().data());
    assert!(have >= 8 * MIB, "{have} bytes were kept");
    relay.allow(u64::MAX);
    let pulled = appliance.run(&["pull", "--quiet", name]).ok();
    assert_eq!(pulled.text(), digest);
    let most = LARGEST_BLOB - have + MIB;
    assert!(
        relay.passed() <= most,
        "{} bytes came again",
        relay.passed()
    );
    assert_eq!(unfinished(&appliance.place().data()), 0);
    let folder = Folder::new();
    let root = folder.join("root");
    appliance
        .run(&["unpack", name, &root.display().to_string()])
        .ok();
    assert!(fs::read(root.join("noise")).unwrap() == noise(LARGE));
}

#[test]
fn a_killed_daemon_goes_on_where_it_was() {
    let Some((_other, relay, digest)) = with_large_image() else {
        return;
    };
    let name = format!("{}/large:1", relay.address());
    let appliance = TestAppliance::start();
    let mut pull = pull_a_part(appliance.place(), &relay, &name);
    let place = appliance.kill();
    let ended = process::wait(&mut pull, SOON).expect("the command ends");
    assert_ne!(ended, 0);
    let appliance = TestAppliance::start_at(place);
    pull_the_rest(&appliance, &relay, &name, &digest);
}

#[test]
fn an_interrupted_command_goes_on_where_it_was() {
    let Some((_other, relay, digest)) = with_large_image() else {
        return;
    };
    let name = format!("{}/large:1", relay.address());
    let appliance = TestAppliance::start();
    let mut pull = pull_a_part(appliance.place(), &relay, &name);
    // As Ctrl-C does, which a test run in the background would not hear.
    process::signal(&pull, Signal::TERM);
    process::wait(&mut pull, SOON).expect("the command ends");
    pull_the_rest(&appliance, &relay, &name, &digest);
}

#[test]
fn a_folder_is_as_it_was_when_the_download_fails() {
    let Some((_other, relay, _digest)) = with_large_image() else {
        return;
    };
    let name = format!("{}/large:1", relay.address());
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let (full, new, empty) = (
        folder.join("full"),
        folder.join("new"),
        folder.join("empty"),
    );
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "mine").unwrap();
    // Before anything is fetched.
    appliance
        .run(&["unpack", &name, &full.display().to_string()])
        .failed(2)
        .says("is not empty")
        .says("Choose a folder that is empty or does not exist.");
    assert_eq!(relay.passed(), 0);
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o711)).unwrap();
    let inner = new.join("inner");
    for to in [&inner, &empty] {
        let text = to.display().to_string();
        let mut unpack = fetch_a_part(appliance.place(), &relay, &["unpack", &name, &text]);
        process::eventually("something is unpacked", SOON, || to.join("noise").exists());
        process::signal(&unpack, Signal::TERM);
        process::wait(&mut unpack, SOON).expect("the command ends");
        process::eventually("nothing is left", SOON, || match to == &inner {
            true => !new.exists(),
            false => {
                let mode = fs::metadata(to).unwrap().permissions().mode();
                fs::read_dir(to).unwrap().count() == 0 && mode & 0o7777 == 0o711
            }
        });
        // The next one fetches from where this one was.
        relay.allow(0);
    }
    relay.allow(u64::MAX);
    appliance
        .run(&["unpack", &name, &inner.display().to_string()])
        .ok();
    assert!(fs::read(inner.join("noise")).unwrap() == noise(LARGE));
}

#[test]
fn an_unfinished_download_goes_when_the_image_comes_another_way() {
    let Some((other, relay, digest)) = with_large_image() else {
        return;
    };
    let name = format!("{}/large:1", relay.address());
    let appliance = TestAppliance::start();
    let mut pull = pull_a_part(appliance.place(), &relay, &name);
    process::signal(&pull, Signal::TERM);
    process::wait(&mut pull, SOON).expect("the command ends");
    let folder = Folder::new();
    let archive = folder.join("a.tar").display().to_string();
    other.run(&["save", "large:1", "-o", &archive]).ok();
    let loaded = appliance.run(&["load", "-i", &archive]).ok();
    assert!(loaded.stdout.contains(&digest), "{loaded}");
    process::eventually("nothing unfinished is left", SOON, || {
        unfinished(&appliance.place().data()) == 0
    });
}

/// How many layers are unpacked.
fn unpacked(appliance: &TestAppliance) -> usize {
    let entries = fs::read_dir(appliance.place().data().join("snapshots"));
    let folders = entries.into_iter().flatten().flatten();
    folders
        .filter(|entry| entry.path().join("fs").is_dir())
        .count()
}

#[test]
fn an_image_is_ready_when_it_is_here() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("l")) {
        return;
    }
    let (appliance, other) = (TestAppliance::start(), TestAppliance::start());
    other.load(&folder.join("l"), "busybox:1");
    let name = other.reference("busybox:1");
    appliance.run(&["pull", "--no-unpack", &name]).ok();
    assert_eq!(unpacked(&appliance), 0);
    let pulled = appliance.run(&["pull", &name]).ok();
    assert!(!pulled.stderr.contains("cannot be unpacked"), "{pulled}");
    assert_eq!(unpacked(&appliance), 2);
    drop(other);
    let ran = appliance.run(&["sandbox", "run", "--rm", &name, "cat", "/etc/layer"]);
    assert_eq!(ran.ok().stdout, "second\n");
    // The registry is gone, and so a sandbox of an image that is not here says what it tried.
    let missing = appliance.run(&["sandbox", "run", "--rm", &format!("{name}2"), "true"]);
    assert_ne!(missing.code, 0);
}

#[test]
fn a_sandbox_of_an_image_that_is_not_here_gets_it() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("l")) {
        return;
    }
    let (appliance, other) = (TestAppliance::start(), TestAppliance::start());
    other.load(&folder.join("l"), "busybox:1");
    let name = other.reference("busybox:1");
    let ran = appliance.run(&["sandbox", "run", "--rm", &name, "cat", "/etc/layer"]);
    assert_eq!(ran.ok().stdout, "second\n");
    let flat = Folder::new();
    let appliance = TestAppliance::start();
    let root = flat.join("root");
    appliance
        .run(&["unpack", &name, &root.display().to_string()])
        .ok();
    assert_eq!(fs::read(root.join("etc/layer")).unwrap(), b"second\n");
    assert!(!root.join("gone").exists());
}

/// A layout with a text that is no image.
fn artifact(folder: &Path) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media: &str, bytes: &[u8]| {
        let digest = layout::digest(bytes);
        fs::write(blobs.join(&digest["sha256:".len()..]), bytes).unwrap();
        json!({ "mediaType": media, "digest": digest, "size": bytes.len() })
    };
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media, "artifactType": "text/x",
        "config": put("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [put("text/plain", b"words")],
    });
    let mut entry = put(media, manifest.to_string().as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .unwrap();
}

#[test]
fn an_artifact_is_kept_and_not_unpacked() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) {
        return;
    }
    artifact(&folder.join("l"));
    let (appliance, other) = (TestAppliance::start(), TestAppliance::start());
    other.load(&folder.join("l"), "artifact:1");
    let name = other.reference("artifact:1");
    let pulled = appliance.run(&["pull", &name]).ok();
    assert!(!pulled.stderr.contains("warning"), "{pulled}");
    let root = folder.join("root").display().to_string();
    appliance
        .run(&["unpack", &name, &root])
        .failed(2)
        .says("has no file system to unpack");
}

#[test]
fn all_platforms_come_and_go_whole() {
    if !probe::programs(&["skopeo"]) {
        return;
    }
    let folder = Folder::new();
    let images = [("amd64", "a"), ("arm64", "b"), ("s390x", "c")];
    for (architecture, name) in images {
        let layer = layout::tar(&[(name, Entry::File(0o644, name.as_bytes()))]);
        layout::write_for(architecture, &folder.join(name), &[layer], json!({}));
    }
    let paths = images.map(|(architecture, name)| (folder.join(name), architecture));
    let parts = paths
        .each_ref()
        .map(|(path, architecture)| (path.as_path(), *architecture));
    layout::write_index(&folder.join("all"), &parts);
    let digest = layout::manifest_digest(&folder.join("all"));
    let (first, appliance) = (TestAppliance::start(), TestAppliance::start());
    let mut copy = integration::clients::skopeo_copy_command(
        &format!("oci:{}:latest", folder.join("all").display()),
        &format!("docker://{}", first.reference("all:1")),
    );
    run(copy.arg("--all")).ok();
    let name = first.reference("all:1");
    let missing = appliance.run(&["pull", "--platform", "linux/riscv64", &name]);
    missing
        .failed(2)
        .says("linux/amd64, linux/arm64, linux/s390x");
    let pulled = appliance.run(&["pull", "--all-platforms", "--quiet", &name]);
    assert_eq!(pulled.ok().text(), digest);
    let second = TestAppliance::start();
    let there = second.reference("copy:1");
    appliance.run(&["tag", &name, &there]).ok();
    drop(first);
    appliance.run(&["push", &there]).ok();
    let mut inspect = Command::new("skopeo");
    inspect.args(["inspect", "--raw", "--tls-verify=false"]);
    let raw = run(inspect.arg(format!("docker://{there}"))).ok();
    assert_eq!(layout::digest(raw.stdout.as_bytes()), digest);
    for (_, name) in images {
        let part = layout::manifest_digest(&folder.join(name));
        let mut inspect = Command::new("skopeo");
        inspect.args(["inspect", "--raw", "--tls-verify=false"]);
        let at = format!("docker://{}@{part}", second.reference("copy"));
        run(inspect.arg(at)).ok();
    }
}

/// A registry that wants a login, with busybox.
fn private(folder: &Folder) -> Option<(DockerRegistry, String)> {
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("l")) {
        return None;
    }
    let registry = DockerRegistry::with_login()?;
    registry.load(&folder.join("l"), "team/busybox:1");
    let name = format!("{}/team/busybox:1", registry.address());
    Some((registry, name))
}

/// Runs a command with a text on its standard input.
pub(crate) fn run_with_input(place: &Place, arguments: &[&str], input: &str) -> process::Ran {
    let text = place.folder().write("input", input);
    let mut command = Command::new("sh");
    let mut devpod = place.devpod(arguments);
    let program = devpod.get_program().to_owned();
    command.env_clear().current_dir(place.home());
    for (name, value) in devpod.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
        .args(["-c", "exec \"$0\" \"$@\" < \"$INPUT\""])
        .env("INPUT", text);
    command.arg(program).args(devpod.get_args());
    devpod.stdin(Stdio::null());
    run(&mut command)
}

#[test]
fn a_login_is_checked_kept_used_and_forgotten() {
    let folder = Folder::new();
    let Some((registry, name)) = private(&folder) else {
        return;
    };
    let appliance = TestAppliance::start();
    let (place, host) = (appliance.place(), registry.address());
    let pull = |name: &str| appliance.run(&["pull", "--no-unpack", name]);
    pull(&name)
        .failed(DENIED)
        .says(&format!("devpod login {host}"));
    let login = ["login", "--username", USER, "--password-stdin", &host];
    let kept = place.home().join(".docker/config.json");
    run_with_input(place, &login, "wrong\n")
        .failed(DENIED)
        .says("nothing was changed");
    assert!(!kept.exists());
    let done = run_with_input(place, &login, &format!("{PASSWORD}\n")).ok();
    assert!(done.stdout.contains(&host), "{done}");
    let text = fs::read_to_string(&kept).unwrap();
    assert!(text.contains(&host) && !text.contains(PASSWORD), "{text}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    pull(&name).ok();
    // skopeo understands what was kept.
    let mut inspect = Command::new("skopeo");
    inspect
        .args(["inspect", "--tls-verify=false", "--authfile"])
        .arg(&kept);
    run(inspect.arg(format!("docker://{name}"))).ok();
    appliance.run(&["logout", &host]).ok();
    appliance.run(&["logout", &host]).ok().says("no login");
    pull(&name.replace(":1", ":2")).failed(DENIED);
}

#[test]
fn the_calling_commands_credentials_count() {
    let folder = Folder::new();
    let Some((registry, name)) = private(&folder) else {
        return;
    };
    // The daemon knows nothing of it.
    let appliance = TestAppliance::start();
    let place = appliance.place();
    let pull = |set: &dyn Fn(&mut Command)| {
        let mut command = place.devpod(&["pull", "--no-unpack", &name]);
        set(&mut command);
        run(&mut command)
    };
    pull(&|_| {}).failed(DENIED);
    let wrong = |command: &mut Command| {
        command.env("DOCKER_REGISTRY", registry.address());
        command
            .env("DOCKER_USERNAME", USER)
            .env("DOCKER_PASSWORD", "wrong");
    };
    pull(&wrong)
        .failed(DENIED)
        .says("refused the credentials of the environment");
    pull(&|command| {
        wrong(command);
        command.env("DOCKER_PASSWORD", PASSWORD);
    })
    .ok();
    // Nothing of it stays for the next one.
    pull(&|_| {}).failed(DENIED);
    let project = place.folder().join("project");
    let text = format!(
        "DOCKER_REGISTRY={}\nDOCKER_USERNAME={USER}\nDOCKER_PASSWORD=\"{PASSWORD}\"\n",
        registry.address()
    );
    place.folder().write("project/.env", text);
    pull(&|command| {
        command.current_dir(&project);
    })
    .ok();
    let log = fs::read_to_string(place.data().join("daemon.log")).unwrap_or_default();
    assert!(!log.contains(PASSWORD));
}

#[test]
fn a_mirror_of_the_settings_is_asked_first() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("l")) {
        return;
    }
    let Some(mirror) = DockerRegistry::start() else {
        return;
    };
    mirror.load(&folder.join("l"), "library/busybox:1");
    let place = Place::new();
    let gone = "http://127.0.0.1:1";
    let settings = json!({ "remote": { "registries": [{
        "host": "docker.io", "mirrors": [gone, format!("http://{}", mirror.address())],
    }] } });
    fs::create_dir_all(place.home().join(".devpod")).unwrap();
    fs::write(
        place.home().join(".devpod/config.json"),
        settings.to_string(),
    )
    .unwrap();
    let appliance = TestAppliance::start_at(place);
    let pulled = appliance.run(&["pull", "busybox:1"]).ok();
    assert!(
        pulled.stdout.contains("docker.io/library/busybox:1"),
        "{pulled}"
    );
    let warned = pulled
        .stderr
        .matches("the mirror 127.0.0.1:1 is passed over")
        .count();
    assert_eq!(warned, 1, "{pulled}");
    let ran = appliance.run(&["sandbox", "run", "--rm", "busybox:1", "cat", "/etc/layer"]);
    assert_eq!(ran.ok().stdout, "second\n");
}

#[test]
fn digests_are_those_of_other_clients() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("l")) {
        return;
    }
    let (appliance, other) = (TestAppliance::start(), TestAppliance::start());
    other.load(&folder.join("l"), "app:1");
    let name = other.reference("app:1");
    let pulled = appliance.run(&["pull", "--quiet", &name]).ok();
    let shown = appliance.run(&["inspect", &name]).ok().json();
    assert_eq!(shown["digest"], pulled.text());
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    let theirs = run(skopeo.arg(format!("docker://{name}"))).ok();
    assert_eq!(theirs.text(), pulled.text());
    if probe::programs(&["crane"]) {
        let mut crane = Command::new("crane");
        let theirs = run(crane.args(["digest", "--insecure", &name])).ok();
        assert_eq!(theirs.text(), pulled.text());
    }
}

#[test]
fn all_tags_are_pushed_or_those_that_are_not_are_named() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("l")) {
        return;
    }
    let (appliance, other) = (TestAppliance::start(), TestAppliance::start());
    let (repository, beside) = (other.reference("team/app"), other.reference("team/app2"));
    let image = folder.join("l").display().to_string();
    let first = format!("{repository}:1");
    appliance
        .run(&["load", "-i", &image, "--name", &first])
        .ok();
    for name in [&format!("{repository}:2"), &format!("{beside}:3")] {
        appliance.run(&["tag", &first, name]).ok();
    }
    let pushed = appliance.run(&["push", "--all-tags", &repository]).ok();
    let lines: Vec<&str> = pushed.text().lines().collect();
    assert_eq!(lines.len(), 2, "{pushed}");
    for (line, tag) in lines.iter().zip(["1", "2"]) {
        assert!(
            line.starts_with(&format!("Pushed {repository}:{tag}@sha256:")),
            "{line}"
        );
    }
    let here = other.run(&["images", "-o", "json"]).ok().json();
    let names = here.as_array().unwrap().iter().map(|row| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        format!("{}:{}", text("repository"), text("tag"))
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    let own = |tag: &str| format!("{repository}:{tag}").replace("127.0.0.1", "localhost");
    assert_eq!(names, [own("1"), own("2")]);
    let json = appliance.run(&["push", "-a", &repository, "-o", "json"]);
    assert_eq!(json.ok().json().as_array().unwrap().len(), 2);
    appliance
        .run(&["push", "-a", &first])
        .failed(2)
        .says("Write the name without a tag.");
    appliance
        .run(&["push", "-a", &format!("{repository}3")])
        .failed(3)
        .says("there is no tag of");
    drop(other);
    appliance
        .run(&["push", "-a", &repository])
        .failed(5)
        .says(&format!("Not sent: {repository}:1, {repository}:2."));
}

#[test]
fn a_push_mounts_what_the_registry_has() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("l")) {
        return;
    }
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    registry.load(&folder.join("l"), "from/busybox:1");
    let appliance = TestAppliance::start();
    let name = |name: &str| format!("{}/{name}", registry.address());
    appliance.run(&["pull", &name("from/busybox:1")]).ok();
    appliance
        .run(&["tag", &name("from/busybox:1"), &name("to/busybox:1")])
        .ok();
    let pushed = appliance.run(&["push", &name("to/busybox:1")]).ok();
    assert_eq!(pushed.stderr.matches("(mounted)").count(), 3, "{pushed}");
    let again = appliance.run(&["push", &name("to/busybox:1")]).ok();
    assert_eq!(again.stderr.matches("(exists)").count(), 3, "{again}");
}

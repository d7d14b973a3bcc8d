//! The same journeys as an ordinary user: with a range of subordinate ids, and with one id only.

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::{base_image, probe};

use crate::workspace::example;

/// A daemon of a user made for this test.
fn appliance(account: fn() -> Account, programs: &[&str]) -> Option<TestAppliance> {
    if !probe::root() || !probe::programs(programs) {
        return None;
    }
    Some(TestAppliance::start_at(Place::of(account())))
}

fn with_range() -> Option<TestAppliance> {
    appliance(
        Account::with_range,
        &["useradd", "usermod", "userdel", "newuidmap", "newgidmap"],
    )
}

fn without_range() -> Option<TestAppliance> {
    appliance(Account::without_range, &["useradd", "userdel"])
}

fn identity(appliance: &TestAppliance) -> String {
    let status = appliance
        .run(&["daemon", "status", "--output", "json"])
        .ok()
        .json();
    status["identity"].as_str().unwrap().to_owned()
}

#[test]
fn the_daemon_says_which_ids_it_has() {
    if let Some(appliance) = with_range() {
        assert!(identity(&appliance).starts_with("range"));
    }
    if let Some(appliance) = without_range() {
        assert!(identity(&appliance).starts_with("single"));
    }
}

#[test]
fn the_example_with_a_range() {
    if let Some(appliance) = with_range() {
        example_lives(&appliance);
    }
}

#[test]
fn the_example_with_one_id() {
    if let Some(appliance) = without_range() {
        example_lives(&appliance);
    }
}

fn example_lives(appliance: &TestAppliance) {
    let folder = Folder::new();
    let project = example(&folder);
    appliance.place().hand_over(&project);
    appliance.run(&["up", &project.display().to_string()]).ok();
    let ssh = |command: &[&str]| appliance.run(&[&["ssh", "hello", "--"], command].concat());
    assert_eq!(
        ssh(&["cat", "/etc/greeting"]).ok().text(),
        "hello from devpod"
    );
    ssh(&["sh", "-c", "echo inside > made-inside"]).ok();
    // What is made inside belongs to the user outside.
    use std::os::unix::fs::MetadataExt;
    let outside = std::fs::metadata(project.join("made-inside")).unwrap();
    assert_eq!(outside.uid(), std::fs::metadata(&project).unwrap().uid());
    appliance.run(&["stop", "hello"]).ok();
    appliance.run(&["start", "hello"]).ok();
    assert_eq!(ssh(&["cat", "made-inside"]).ok().text(), "inside");
    appliance.run(&["delete", "--force", "hello"]).ok();
}

#[test]
fn a_sandbox_outlives_a_users_daemon() {
    for appliance in [with_range(), without_range()].into_iter().flatten() {
        let folder = Folder::new();
        let from = folder.join("from");
        if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
            return;
        }
        appliance.load(&from, "busybox:1");
        appliance
            .run(&[
                "sandbox",
                "run",
                "-d",
                "--name",
                "old",
                "busybox:1",
                "sleep",
                "600",
            ])
            .ok();
        appliance
            .run(&["sandbox", "exec", "old", "sh", "-c", "echo 1 > /tmp/before"])
            .ok();
        let appliance = TestAppliance::start_at(appliance.stop());
        let read = ["sandbox", "exec", "old", "cat", "/tmp/before"];
        assert_eq!(appliance.run(&read).ok().text(), "1");
        appliance
            .run(&["sandbox", "stop", "--time", "1", "old"])
            .ok();
        appliance.run(&["sandbox", "rm", "old"]).ok();
    }
}

#[test]
fn apt_works_in_a_build_with_a_range() {
    if let Some(appliance) = with_range() {
        builds_with_apt(&appliance);
    }
}

#[test]
fn apt_works_in_a_build_with_one_id() {
    if let Some(appliance) = without_range() {
        builds_with_apt(&appliance);
    }
}

fn builds_with_apt(appliance: &TestAppliance) {
    let Some(debian) = base_image::debian() else {
        return;
    };
    appliance.load(&debian, "debian:bookworm");
    let folder = Folder::new();
    // dbus makes a user, and a program that is a group's and set-id.
    let text = format!(
        "FROM {}\nRUN apt-get update && apt-get install -y --no-install-recommends dbus less\n\
         COPY --chown=7:50 given /etc/given\n",
        appliance.reference("debian:bookworm")
    );
    folder.write("Dockerfile", text);
    folder.write("given", "away\n");
    appliance.place().hand_over(folder.path());
    let context = folder.path().display().to_string();
    appliance.run(&["build", "--tag", "apt:1", &context]).ok();
    let ran = appliance.run(&[
        "sandbox",
        "run",
        "--rm",
        "apt:1",
        "sh",
        "-c",
        "less --version | head -n 1",
    ]);
    assert!(ran.clone().ok().text().starts_with("less"), "{ran}");
    // Pulled away by somebody else, the owner is the one that the Dockerfile set.
    let to = folder.join("out");
    let source = format!("docker://{}", appliance.reference("apt:1"));
    integration::clients::skopeo_copy(&source, &format!("dir:{}", to.display()));
    assert_eq!(owner_in_layers(&to, "etc/given"), Some((7, 50)));
}

/// What a command's chown says is in the layer, whatever the ids are that the daemon has.
#[test]
fn owners_that_commands_set_are_in_the_layer() {
    for appliance in [with_range(), without_range()].into_iter().flatten() {
        let folder = Folder::new();
        let from = folder.join("from");
        if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
            return;
        }
        appliance.load(&from, "busybox:1");
        folder.write("Dockerfile", OWNED);
        folder.write("copied", "x");
        appliance.place().hand_over(folder.path());
        let context = folder.path().display().to_string();
        appliance.run(&["build", "--tag", "owned:1", &context]).ok();
        let to = folder.join("out");
        let source = format!("docker://{}", appliance.reference("owned:1"));
        integration::clients::skopeo_copy(&source, &format!("dir:{}", to.display()));
        for (name, owner, mode) in [
            ("srv/by-name", (7, 50), 0o644),
            ("srv/by-number", (1234, 4321), 0o600),
            ("srv/through", (8, 0), 0o644),
            ("srv/deep", (9, 9), 0o750),
            ("srv/deep/below", (9, 9), 0o644),
            // Set-id bits go with the owner, and come back when they are set after it.
            ("srv/lost", (5, 5), 0o755),
            ("srv/kept", (5, 5), 0o4755),
            ("copied", (3, 3), 0o640),
            ("srv/users", (7, 50), 0o644),
            // Nobody's but root's, although a user made something in it.
            ("srv", (0, 0), 0o1777),
        ] {
            let seen = in_layers(&to, name).unwrap_or_else(|| panic!("{name} is in no layer"));
            assert_eq!(seen, (owner.0, owner.1, mode), "{name}");
        }
    }
}

/// `guest` is 7:50 in that image. A folder of a cache belongs to no layer.
const OWNED: &str = r#"FROM busybox:1
RUN mkdir -p /srv/deep && cd /srv && echo 1 > by-name && busybox chown guest:staff by-name \
    && echo 2 > by-number && busybox chmod 600 by-number && busybox chown 1234:4321 ./by-number \
    && echo 3 > through && ln -s /srv/through link && busybox chown 8 link
RUN cd /srv && echo 4 > deep/below && busybox chmod 750 deep && busybox chown -R 9:9 deep \
    && echo 5 > lost && busybox chmod 4755 lost && busybox chown 5:5 lost \
    && echo 6 > kept && busybox chown 5:5 kept && busybox chmod 4755 kept
RUN ! busybox chown 1:1 /no/such/file
COPY copied /
RUN --mount=type=cache,target=/cache busybox chown 3:3 /copied && busybox chown 3:3 /cache \
    && busybox chmod 640 /copied
RUN busybox chmod 1777 /srv
USER guest
RUN echo 7 > /srv/users
"#;

/// Owner of a file in the topmost layer that has it.
fn owner_in_layers(folder: &std::path::Path, name: &str) -> Option<(u64, u64)> {
    in_layers(folder, name).map(|(uid, gid, _)| (uid, gid))
}

/// Its owner and mode.
fn in_layers(folder: &std::path::Path, name: &str) -> Option<(u64, u64, u32)> {
    let manifest = std::fs::read(folder.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().rev().find_map(|layer| {
        let digest = layer["digest"].as_str().unwrap();
        let file =
            std::fs::File::open(folder.join(digest.strip_prefix("sha256:").unwrap())).unwrap();
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
        let mut entries = archive.entries().unwrap();
        entries.find_map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap();
            let same = path.strip_prefix("./").unwrap_or(&path) == std::path::Path::new(name);
            let header = entry.header();
            same.then(|| {
                let owner = (header.uid().unwrap(), header.gid().unwrap());
                (owner.0, owner.1, header.mode().unwrap() & 0o7777)
            })
        })
    })
}

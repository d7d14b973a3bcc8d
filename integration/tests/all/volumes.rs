//! Volumes that an image declares.

use std::fs;
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::layout::{self, Entry};
use integration::process::eventually;
use integration::{base_image, probe};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// With an image `declared:1`, whose `/data` holds something and whose `/none` is not there.
fn load(appliance: TestAppliance) -> Option<TestAppliance> {
    let folder = Folder::new();
    let mut layers = base_image::busybox_layers()?;
    layers.push(layout::tar(&[
        ("data", Entry::Folder(0o750)),
        ("data/seed", Entry::File(0o640, b"seed")),
    ]));
    let config = json!({ "Cmd": ["sh"], "Volumes": { "/data": {}, "/none": {} } });
    layout::write(&folder.join("from"), &layers, config);
    appliance.load(&folder.join("from"), "declared:1");
    Some(appliance)
}

fn appliances() -> Vec<TestAppliance> {
    let users = ["useradd", "usermod", "userdel", "newuidmap", "newgidmap"];
    if !probe::root() || !probe::programs(&["skopeo"]) {
        return Vec::new();
    }
    let mut all = vec![TestAppliance::start()];
    if probe::programs(&users) {
        all.push(TestAppliance::start_at(Place::of(Account::with_range())));
    }
    all.into_iter().filter_map(load).collect()
}

fn volumes(appliance: &TestAppliance) -> Vec<Value> {
    let listed = appliance.run(&["volume", "ls", "--output", "json"]).ok();
    listed.json().as_array().unwrap().clone()
}

fn run(appliance: &TestAppliance, options: &[&str], script: &str) -> integration::process::Ran {
    let command = ["declared:1", "sh", "-c", script];
    appliance.run(&[&["sandbox", "run"], options, &command].concat())
}

#[test]
fn what_an_image_declares_is_made_and_goes_with_its_sandbox() {
    for appliance in appliances() {
        let ran = run(
            &appliance,
            &["--name", "keeper"],
            "cat /data/seed; stat -c %a /data; echo own > /none/own",
        );
        assert_eq!(ran.ok().text(), "seed750");
        let seen = appliance.run(&["sandbox", "inspect", "keeper"]).ok().json()[0].clone();
        let names = seen["anonymousVolumes"].as_array().unwrap().clone();
        assert_eq!(names.len(), 2, "{seen}");
        let of_keeper = volumes(&appliance);
        assert_eq!(of_keeper.len(), 2);
        for volume in &of_keeper {
            assert!(names.contains(&volume["name"]), "{volume}");
            assert_eq!(volume["usedBy"], json!(["keeper"]));
            assert_eq!(volume["name"].as_str().unwrap().len(), 32);
        }
        // A second life sees what the first one left.
        appliance.run(&["sandbox", "start", "keeper"]).ok();
        // A `--rm` one leaves nothing, and where something else is mounted nothing is made.
        run(&appliance, &["--rm"], "echo x > /data/x").ok();
        eventually("only the keeper's", SOON, || volumes(&appliance).len() == 2);
        run(
            &appliance,
            &["--name", "named", "-v", "mine:/data"],
            "cat /data/seed",
        )
        .ok();
        assert_eq!(volumes(&appliance).len(), 4);
        appliance.run(&["sandbox", "rm", "--volumes", "named"]).ok();
        let left = volumes(&appliance);
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left.iter().any(|volume| volume["name"] == "mine"));
        // Without being told to, nobody takes volumes away.
        appliance.run(&["sandbox", "rm", "--force", "keeper"]).ok();
        assert_eq!(volumes(&appliance).len(), 3);
        let pruned = appliance.run(&["volume", "prune"]).ok();
        assert_eq!(pruned.stdout.lines().count(), 2);
    }
}

#[test]
fn what_is_mounted_in_a_declared_volume_is_seen() {
    for appliance in appliances().into_iter().take(1) {
        let host = Folder::new();
        host.write("file", "of the host");
        let mount = format!("{}:/data/sub", host.path().display());
        let ran = run(
            &appliance,
            &["--rm", "-v", &mount],
            "cat /data/seed /data/sub/file",
        );
        assert_eq!(ran.ok().text(), "seedof the host");
    }
}

/// A folder of the host over /etc, and one over /proc.
#[test]
fn mounts_over_what_the_system_needs() {
    let appliance = TestAppliance::start();
    appliance.run(&["image", "from-host", "--without-git"]).ok();
    let folder = Folder::new();
    let run = |at: &str, command: &[&str]| {
        let mount = format!("{}:{at}", folder.path().display());
        let start = ["sandbox", "run", "--rm", "-v", &mount, "devpod/host"];
        appliance.run(&[&start[..], command].concat())
    };
    run("/etc/", &["true"]).ok();
    let entries = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 0, "nothing was made in the user's folder");
    for name in ["resolv.conf", "hosts", "mine"] {
        folder.write(name, "of-the-user\n");
    }
    let seen = run(
        "/etc",
        &["cat", "/etc/resolv.conf", "/etc/hosts", "/etc/mine"],
    )
    .ok();
    assert_eq!(seen.stdout.matches("of-the-user").count(), 1, "{seen}");
    assert!(seen.stdout.contains("nameserver"), "{seen}");
    run("/proc", &["true"]).failed(2).says("over /proc");
}

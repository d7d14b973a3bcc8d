//! Images for another machine: made on purpose, never run or built on by accident.

use integration::appliance::TestAppliance;
use integration::folder::Folder;

fn context(text: &str) -> (Folder, String) {
    let folder = Folder::new();
    folder.write("Dockerfile", text);
    let path = folder.path().display().to_string();
    (folder, path)
}

fn host() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// A platform that this machine is not of.
const FOREIGN: &str = "linux/s390x";

#[test]
fn what_is_for_another_machine_is_refused_by_name() {
    let appliance = TestAppliance::start();
    let (_scratch, scratch) = context("FROM scratch\nCOPY Dockerfile /\n");
    appliance.run(&["build", "-t", "native", &scratch]).ok();
    appliance
        .run(&["build", "-t", "foreign", "--platform", FOREIGN, &scratch])
        .ok();
    let config = appliance.run(&["inspect", "foreign"]).ok().json();
    assert_eq!(config["config"]["architecture"], "s390x");

    let is_foreign = format!("is {FOREIGN}, not {}", host());
    let is_native = format!("is {}, not {FOREIGN}", host());
    appliance
        .run(&["sandbox", "run", "--rm", "foreign", "true"])
        .failed(2)
        .says(&is_foreign);
    let folder = Folder::new();
    let to = |name: &str| folder.join(name).display().to_string();
    let refused = appliance.run(&["unpack", "--platform", FOREIGN, "native", &to("a")]);
    refused.failed(2).says(&is_native);
    assert!(!folder.join("a/Dockerfile").exists());
    appliance
        .run(&["unpack", "--platform", FOREIGN, "foreign", &to("b")])
        .ok();
    assert!(folder.join("b/Dockerfile").exists());

    let (_on, on_native) = context("FROM native\nCOPY Dockerfile /x\n");
    let (_from, from_native) = context("FROM scratch\nCOPY --from=native / /\n");
    for path in [&on_native, &from_native] {
        appliance
            .run(&["build", "-t", "wrong", "--platform", FOREIGN, path])
            .failed(2)
            .says(&is_native);
    }
    appliance.run(&["inspect", "wrong"]).failed(3);
}

#[test]
fn a_kept_copy_for_another_machine_is_replaced_where_that_was_asked_for() {
    let (appliance, other) = (TestAppliance::start(), TestAppliance::start());
    let (_scratch, scratch) = context("FROM scratch\nCOPY Dockerfile /\n");
    let name = other.reference("app:1");
    other
        .run(&["build", "-t", "app:1", "--platform", FOREIGN, &scratch])
        .ok();
    appliance.run(&["pull", "--platform", FOREIGN, &name]).ok();
    other.run(&["build", "-t", "app:1", &scratch]).ok();
    let architecture = || {
        let shown = appliance.run(&["inspect", &name]).ok().json();
        shown["config"]["architecture"].as_str().unwrap().to_owned()
    };
    assert_eq!(architecture(), "s390x");
    // Nobody said a platform: what is here stays, and is not run.
    let ran = appliance.run(&["sandbox", "run", "--rm", &name, "true"]);
    ran.failed(2).says("devpod pull --platform");
    assert_eq!(architecture(), "s390x");
    let folder = Folder::new();
    let to = folder.join("root").display().to_string();
    appliance
        .run(&["unpack", "--platform", &host(), &name, &to])
        .ok();
    assert_eq!(format!("linux/{}", architecture()), host());
}

#[test]
fn a_push_that_would_go_nowhere_is_refused() {
    let appliance = TestAppliance::start();
    let (_scratch, scratch) = context("FROM scratch\nCOPY Dockerfile /\n");
    for names in [&[][..], &["-t", "x:1"]] {
        let arguments = [&["build", "--push"], names, &[scratch.as_str()]].concat();
        appliance
            .run(&arguments)
            .failed(2)
            .says("--push needs a name with a registry host");
    }
    assert_eq!(
        appliance.run(&["images", "--output", "json"]).ok().json(),
        serde_json::json!([])
    );
    // What is of the embedded registry is there when it is built.
    let own = appliance.reference("x:1");
    let pushed = ["build", "--push", "-t", &own, scratch.as_str()];
    appliance.run(&pushed).ok();
    appliance.run(&["image", "check", &own]).ok();
}

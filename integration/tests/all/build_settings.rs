//! What a build is told besides its Dockerfile: `--pull`, `--timeout`, `--shm-size`, and envbuilder's
//! variables.

use std::fs;
use std::path::Path;

use integration::appliance::TestAppliance;
use integration::docker_registry::DockerRegistry;
use integration::folder::Folder;
use integration::layout::{self, Entry};
use integration::process::{self, Ran};
use integration::{base_image, clients, probe};
use serde_json::json;

/// A busybox in which `/version` says this.
#[track_caller]
fn base(folder: &Path, version: &str) -> bool {
    let Some(mut layers) = base_image::busybox_layers() else {
        return false;
    };
    let file = Entry::File(0o644, version.as_bytes());
    layers.push(layout::tar(&[("version", file)]));
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    layout::write(folder, &layers, json!({ "Cmd": ["sh"], "Env": [path] }));
    true
}

fn prepared(dockerfile: &str) -> Option<(TestAppliance, Folder)> {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base(&folder.join("from"), "first") {
        return None;
    }
    let appliance = TestAppliance::start();
    appliance.load(&folder.join("from"), "busybox:1");
    folder.write("context/Dockerfile", dockerfile);
    Some((appliance, folder))
}

#[test]
fn pull_asks_for_a_base_image_that_is_here() {
    let Some((appliance, folder)) = prepared("") else {
        return;
    };
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let name = format!("{}/base:1", registry.address());
    let dockerfile = format!("FROM {name}\nRUN cat /version > /seen\n");
    folder.write("context/Dockerfile", dockerfile);
    let context = folder.join("context").display().to_string();
    let seen = |options: &[&str]| {
        let build = [&["build", "--tag", "pulled:1"], options, &[&context]].concat();
        appliance.run(&build).ok();
        let read = ["sandbox", "run", "--rm", "pulled:1", "cat", "/seen"];
        appliance.run(&read).ok().text().to_owned()
    };
    registry.load(&folder.join("from"), "base:1");
    assert_eq!(seen(&[]), "first");
    assert!(base(&folder.join("later"), "second"));
    registry.load(&folder.join("later"), "base:1");
    // What is here is good enough, unless it is asked for.
    assert_eq!(seen(&[]), "first");
    assert_eq!(seen(&["--pull"]), "second");
    assert_eq!(seen(&[]), "second");
    registry.stop();
    appliance.run(&["build", "--pull", &context]).says(&name);
    assert_eq!(seen(&[]), "second");
}

#[test]
fn a_step_that_takes_too_long_ends_with_all_that_it_started() {
    const LONG: &str = "86399";
    let text = format!("FROM busybox:1\nRUN (sleep {LONG} &) ; sleep {LONG}\n");
    let Some((appliance, folder)) = prepared(&text) else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let ran = appliance.run(&["build", "--timeout", "2s", &context]);
    assert_ne!(ran.code, 0, "{ran}");
    let said = ran.says("still building after");
    let left: Vec<_> = (fs::read_dir("/proc").unwrap())
        .filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok())
        .filter(|words| {
            words
                .split(|byte| *byte == 0)
                .any(|word| word == LONG.as_bytes())
        })
        .collect();
    assert!(left.is_empty(), "{left:?} goes on\n{said}");
    // The step left nothing that a longer build would take for its result.
    folder.write("context/Dockerfile", "FROM busybox:1\nRUN true\n");
    appliance.run(&["build", "--timeout", "5m", &context]).ok();
}

#[test]
fn a_steps_shared_memory_has_the_size_that_was_asked_for() {
    const FILL: &str = "busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=2";
    let text = format!("FROM busybox:1\nRUN {FILL}\n");
    let Some((appliance, folder)) = prepared(&text) else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let build = |options: &[&str]| {
        appliance.run(&[&["build", "--no-cache"], options, &[&context]].concat())
    };
    build(&[]).ok();
    let ran = build(&["--shm-size", "1m"]);
    assert_ne!(ran.code, 0, "{ran}");
    ran.says("No space left on device");
    build(&["--shm-size", "3m"]).ok();
}

/// `envbuilder` with these arguments and variables.
fn envbuilder(appliance: &TestAppliance, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = appliance.place().devpod(&["envbuilder"]);
    command.args(arguments).envs(variables.iter().copied());
    process::run(&mut command)
}

#[test]
fn envbuilders_variables_say_what_its_flags_would() {
    let Some((appliance, folder)) = prepared("") else {
        return;
    };
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    folder.write("elsewhere/Other", "FROM busybox:1\nCOPY given /said\n");
    folder.write("context/given", "by variables\n");
    folder.write(
        "space/Dockerfile",
        "FROM busybox:1\nRUN echo space > /said\n",
    );
    let path = |name: &str| folder.join(name).display().to_string();
    let (dockerfile, context, space) = (path("elsewhere/Other"), path("context"), path("space"));
    let kaniko = [
        ("ENVBUILDER_DOCKERFILE_PATH", &*dockerfile),
        ("ENVBUILDER_BUILD_CONTEXT_PATH", &*context),
    ];
    let image = format!("{}/by/variables:1", registry.address());
    let name = ["--image-name", &image];
    let there = || registry.requests("PUT /v2/by/variables/manifests/1");
    // False is what the tool itself takes for it.
    let stay = [&kaniko[..], &[("ENVBUILDER_PUSH_IMAGE", "false")]].concat();
    envbuilder(&appliance, &name, &stay).ok();
    assert_eq!(there(), 0);
    let push = [&kaniko[..], &[("ENVBUILDER_PUSH_IMAGE", "true")]].concat();
    envbuilder(&appliance, &name, &push).ok();
    assert_eq!(there(), 1);
    let to = folder.join("fetched");
    clients::skopeo_copy(
        &format!("docker://{image}"),
        &format!("dir:{}", to.display()),
    );
    assert!(to.join("manifest.json").exists());
    // A flag goes before its variable.
    let wrong = [("ENVBUILDER_DOCKERFILE_PATH", "/no/such"), kaniko[1]];
    let flag = [&name[..], &["--dockerfile", &dockerfile]].concat();
    envbuilder(&appliance, &flag, &wrong).ok();
    let ran = envbuilder(&appliance, &name, &wrong);
    assert_ne!(ran.code, 0, "{ran}");
    ran.says("/no/such");
    let workspace = [("ENVBUILDER_WORKSPACE_FOLDER", &*space)];
    let image = appliance.reference("space:1");
    envbuilder(&appliance, &["build", "--image", &image], &workspace).ok();
    let read = ["sandbox", "run", "--rm", "space:1", "cat", "/said"];
    assert_eq!(appliance.run(&read).ok().text(), "space");
}

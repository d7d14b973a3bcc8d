//! `devpod image from-host`: a first image from nothing, used and built upon.

use integration::appliance::TestAppliance;
use integration::clients::skopeo_copy;
use integration::folder::Folder;
use integration::probe;

#[test]
fn an_image_from_nothing_runs_builds_and_travels() {
    let appliance = TestAppliance::start();
    appliance
        .run(&["image", "from-host"])
        .ok()
        .says("devpod/host");
    let script = "git --version && printf 'b\\na\\n' | sort | head -n 1 && id -un";
    let ran = appliance
        .run(&["sandbox", "run", "--rm", "devpod/host", "sh", "-c", script])
        .ok();
    if probe::find("git").is_some() {
        assert!(ran.stdout.starts_with("git version"), "{ran}");
    }
    assert!(ran.text().ends_with("a\nroot"), "{ran}");
    let folder = Folder::new();
    folder.write(
        "Dockerfile",
        "FROM devpod/host\nRUN echo from-host > /proof && ls / >> /proof\n",
    );
    let context = folder.path().display().to_string();
    appliance
        .run(&["build", "--tag", "onhost:1", &context])
        .ok();
    let read = [
        "sandbox", "run", "--rm", "onhost:1", "head", "-n", "1", "/proof",
    ];
    assert_eq!(appliance.run(&read).ok().text(), "from-host");
    if probe::programs(&["skopeo"]) {
        let to = format!("oci:{}:latest", folder.join("layout").display());
        skopeo_copy(
            &format!("docker://{}", appliance.reference("devpod/host:latest")),
            &to,
        );
    }
}

#[test]
fn two_images_of_one_host_are_the_same() {
    let appliance = TestAppliance::start();
    let digest = |name: &str| {
        let make = [
            "image",
            "from-host",
            "--without-git",
            "--tag",
            name,
            "--output",
            "json",
        ];
        appliance.run(&make).ok().json()["digest"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(digest("one:1"), digest("two:1"));
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let appliance = TestAppliance::start();
    let ran = appliance.run(&["image", "from-host", "--include", "no-such-program-here"]);
    assert_ne!(ran.code, 0, "{ran}");
    ran.says("no-such-program-here");
}

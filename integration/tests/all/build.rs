//! `devpod build` on a Debian base, and what its images are to others.

use integration::appliance::TestAppliance;
use integration::base_image;
use integration::clients::Storage;
use integration::folder::Folder;
use integration::probe;

const DOCKERFILE: &str = r#"# A compiler that the final image does not carry.
ARG BASE
FROM $BASE AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY hello.c /src/
RUN gcc -static -O1 -o /hello /src/hello.c

FROM scratch
COPY --from=build --chown=7:50 /hello /bin/hello
LABEL made.by="devpod test"
ENV GREETED=world
WORKDIR /work
ENTRYPOINT ["/bin/hello"]
"#;

const PROGRAM: &str = r#"#include <stdio.h>
#include <stdlib.h>
int main(void) { printf("hello %s\n", getenv("GREETED")); return 7; }
"#;

/// A context with its Dockerfile, and things that must not matter.
fn context() -> Folder {
    let folder = Folder::new();
    folder.write("Dockerfile", DOCKERFILE);
    folder.write("hello.c", PROGRAM);
    folder.write(".dockerignore", "*\n!hello.c\n");
    folder.write("secret", "never in an image");
    folder
}

#[test]
fn a_debian_image_with_apt() {
    let Some(debian) = base_image::debian() else {
        return;
    };
    let appliance = TestAppliance::start();
    appliance.load(&debian, "debian:bookworm");
    let context = context();
    let path = context.path().display().to_string();
    let base = format!("BASE={}", appliance.reference("debian:bookworm"));
    let build = ["build", "--tag", "hello:1", "--build-arg", &base, &path];
    let first = appliance.run(&build).ok();
    let log = format!("{}{}", first.stdout, first.stderr);
    assert!(log.contains("[Builder] Step 1/"), "{first}");
    let ran = appliance
        .run(&["sandbox", "run", "--rm", "hello:1"])
        .failed(7);
    assert_eq!(ran.text(), "hello world");
    // Nothing changed, so nothing runs; a changed source runs what follows it and apt not again.
    let digest = |ran: integration::process::Ran| ran.json()["digest"].as_str().unwrap().to_owned();
    let json = [&build[..], &["--output", "json"]].concat();
    let second = appliance.run(&json).ok();
    let works = |line: &&str| line.contains(": RUN ") || line.contains(": COPY ");
    let steps: Vec<&str> = second.stderr.lines().filter(works).collect();
    let cached = steps.iter().filter(|step| step.ends_with("(cached)"));
    assert_eq!((steps.len(), cached.count()), (4, 4), "{second}");
    let before = digest(second);
    context.write("secret", "changed, but ignored");
    assert_eq!(digest(appliance.run(&json).ok()), before);
    context.write("hello.c", PROGRAM.replace("return 7", "return 8"));
    assert_ne!(digest(appliance.run(&json).ok()), before);
    appliance
        .run(&["sandbox", "run", "--rm", "hello:1"])
        .failed(8);
}

#[test]
fn others_run_what_was_built() {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::root() || !probe::programs(&["skopeo", "podman"]) || !base_image::busybox(&from) {
        return;
    }
    let appliance = TestAppliance::start();
    appliance.load(&from, "busybox:1");
    let text = format!(
        "FROM {}\nRUN rm /etc/layer && echo built > /made && chown 7:50 /made\nUSER guest\nCMD [\"cat\", \"/made\"]\n",
        appliance.reference("busybox:1")
    );
    folder.write("context/Dockerfile", text);
    let context = folder.join("context").display().to_string();
    appliance.run(&["build", "--tag", "mine:1", &context]).ok();
    let podman = Storage::new("podman", folder.path());
    let name = appliance.reference("mine:1");
    podman.run(&["pull", "--tls-verify=false", &name]).ok();
    let created = podman.run(&["create", "--name", "c", &name]).ok();
    let mounted = podman.run(&["mount", "c"]).ok();
    let root = std::path::Path::new(mounted.text());
    assert_eq!(
        std::fs::read_to_string(root.join("made")).unwrap(),
        "built\n"
    );
    assert!(
        !root.join("etc/layer").exists(),
        "the deletion is not in the layer: {created}"
    );
    let data = std::fs::metadata(root.join("made")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((data.uid(), data.gid()), (7, 50));
    podman.run(&["umount", "c"]).ok();
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let context = folder.path().display().to_string();
    folder.write(
        "Dockerfile",
        "FROM scratch\nCOPY a /\nONBUILD RUN true\nHEALTHCHEK NONE\n",
    );
    folder.write("a", "");
    let ran = appliance.run(&["build", "--tag", "x", &context]);
    assert_ne!(ran.code, 0, "{ran}");
    ran.says("Dockerfile:4").says("HEALTHCHEK");
    let rows = appliance.run(&["images", "--output", "json"]).ok().json();
    assert_eq!(
        rows.as_array().unwrap().len(),
        0,
        "something was kept: {rows}"
    );
}

//! Six steps on a Debian base: COPY of a tree, RUN over it, RUN, WORKDIR, a second stage that copies
//! from the first, ENV and CMD.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::figures::{Bench, has, report, time};

const FILES: usize = 4000;
const SIZE: usize = 10_000;

pub(crate) fn measure(bench: &Bench) {
    let context = bench.path("context");
    write_context(&context);
    let ours = |bench: &Bench| {
        let base = format!("BASE={}", bench.reference("debian:base"));
        time(
            bench
                .devpod()
                .args(["build", "-t", "six:1", "--build-arg", &base])
                .arg(&context),
        )
    };
    let (cold, cached) = (ours(bench), ours(bench));
    let peer = has("buildah").then(|| (buildah(bench, &context), buildah(bench, &context)));
    report("build, cold", cold, "buildah", peer.map(|(cold, _)| cold));
    report(
        "build, cached",
        cached,
        "buildah",
        peer.map(|(_, cached)| cached),
    );
}

fn buildah(bench: &Bench, context: &Path) -> Duration {
    let base = format!("BASE={}", bench.reference("debian:base"));
    let mut command = Command::new("buildah");
    command
        .arg("--root")
        .arg(bench.path("buildah"))
        .arg("--runroot")
        .arg(bench.path("buildah-run"));
    command.args([
        "--storage-driver",
        "overlay",
        "bud",
        "--layers",
        "--isolation",
        "chroot",
    ]);
    command
        .args(["--tls-verify=false", "-t", "six:1", "--build-arg", &base])
        .arg(context);
    time(&mut command)
}

fn write_context(context: &Path) {
    for n in 0..FILES {
        let folder = context.join(format!("src/d{}", n / 100));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("f{n}.txt")), text(n)).unwrap();
    }
    let dockerfile = "ARG BASE\nFROM $BASE AS build\nCOPY src /src\n\
        RUN find /src -name '*7.txt' -exec sed -i s/a/b/ {} +\n\
        RUN mkdir /out && cat /src/d1/*.txt > /out/all && cp -r /src/d2 /out/\n\
        FROM $BASE\nWORKDIR /app\nCOPY --from=build /out /app\nENV MODE=bench\nCMD [\"ls\"]\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
}

/// Text that compresses about as source code does, different in every file.
fn text(seed: usize) -> String {
    let mut state = seed as u64 + 1;
    let mut text = String::with_capacity(SIZE + 16);
    while text.len() < SIZE {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(
            ["let ", "a = ", "fn ", "value", "(x) ", "{\n", "}\n"][(state >> 33) as usize % 7],
        );
        if state >> 60 == 0 {
            text.push_str(&format!("{:x}", state >> 40));
        }
    }
    text
}

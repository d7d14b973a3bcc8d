//! `devpod up` of a workspace that is up.

use std::fs;

use crate::figures::{Bench, median, report, run, time};

pub(crate) fn measure(bench: &Bench) {
    let project = bench.path("project");
    fs::create_dir_all(project.join(".devcontainer")).unwrap();
    let text = r#"{ "name": "bench", "image": "debian:base" }"#;
    fs::write(project.join(".devcontainer/devcontainer.json"), text).unwrap();
    let first = time(bench.devpod().args(["up", "--name", "bench"]).arg(&project));
    report("up, first", first, "-", None);
    let warm = median(11, |_| time(bench.devpod().args(["up", "bench"])));
    report("up, warm", warm, "-", None);
    let enter = median(11, |_| {
        time(bench.devpod().args(["ssh", "bench", "--", "true"]))
    });
    report("ssh NAME -- true", enter, "-", None);
    run(bench.devpod().args(["delete", "--force", "bench"]));
}

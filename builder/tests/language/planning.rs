//! Plans: one folder for each case, a Dockerfile and what is to be done, or why that is refused.
//!
//! Every external image has the configuration `IMAGE`, or with `onbuild` in its name that and triggers.
//! `UPDATE_EXPECT=1 cargo test -p builder --test language plans` writes the expected files anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use builder::dockerfile;
use builder::plan::evaluate::plan;
use builder::plan::{Action, Plan};
use builder::request::{BuildRequest, NamedContext};
use serde_json::{Value, json};
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;

use crate::golden::{agree, cases};

fn image(name: &str) -> ImageConfig {
    let mut config = json!({
        "Env": ["PATH=/bin", "BASE=yes"],
        "Cmd": ["base"],
        "WorkingDir": "/base",
    });
    if name.contains("onbuild") {
        config["OnBuild"] = json!(["ARG V=1", "COPY --from=tools /t /t", "RUN echo $V"]);
    }
    let whole = json!({"architecture": "amd64", "os": "linux", "config": config});
    serde_json::from_value(whole).unwrap()
}

fn request(case: &Path) -> BuildRequest {
    let mut request = BuildRequest::new(Path::new("/context"));
    request.platform = "linux/amd64".parse().unwrap();
    for line in fs::read_to_string(case.join("given"))
        .unwrap_or_default()
        .lines()
    {
        let (name, value) = line.split_once('=').unwrap();
        match name {
            "target" => request.target = Some(value.to_owned()),
            "folder" => {
                let folder = NamedContext::Folder("/folder".into());
                request.contexts.insert(value.to_owned(), folder);
            }
            "image" => {
                let image = NamedContext::Image("replaced:1".parse().unwrap());
                request.contexts.insert(value.to_owned(), image);
            }
            name => drop(request.build_args.insert(name.to_owned(), value.to_owned())),
        }
    }
    request
}

fn told(case: &Path) -> String {
    let file = match dockerfile::parse(&fs::read(case.join("Dockerfile")).unwrap()) {
        Ok(file) => file,
        Err(error) => return format!("syntax {}: {error}\n", error.position),
    };
    let planned = plan(
        "Dockerfile",
        &file,
        &request(case),
        |name, _: &Platform, _| Ok(image(&name.to_string())),
    );
    match planned {
        Ok(plan) => rendered(&plan),
        Err(error) => format!("refused {}\n", error.record().error),
    }
}

fn rendered(plan: &Plan) -> String {
    let mut out = String::new();
    for stage in &plan.stages {
        writeln!(
            out,
            "stage {} on {}",
            stage.index,
            short(&format!("{:?}", stage.base))
        )
        .unwrap();
        for step in &stage.steps {
            let action = match &step.action {
                Action::Configure => continue,
                Action::From => continue,
                other => short(&format!("{other:?}")),
            };
            writeln!(out, "  {} {action}", step.number).unwrap();
        }
    }
    let last = plan.stages.last().unwrap();
    let config: Value = serde_json::to_value(&last.config).unwrap();
    for (key, value) in config["config"].as_object().unwrap() {
        writeln!(out, "  config {key} {value}").unwrap();
    }
    out
}

/// Without what is absent, and without the names of types that only wrap.
fn short(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in [
        (", remote: []", ""),
        (", repositories: []", ""),
        (", inline: []", ""),
        (", chown: None", ""),
        (", chmod: None", ""),
        (", exclude: []", ""),
        (", extract: false", ""),
        (", link: false", ""),
        (", pattern: false", ""),
        (", below: None", ""),
        (", proxies: []", ""),
        (", mounts: []", ""),
        (", user: \"\"", ""),
        (", network: Host", ""),
        (", host_given: false", ""),
        (", digest: None", ""),
        (", variant: None", ""),
    ] {
        text = text.replace(from, to);
    }
    text
}

#[test]
fn plans() {
    for case in cases("tests/plan", 40) {
        agree(&case, &told(&case));
    }
}

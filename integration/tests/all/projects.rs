//! Dockerfiles of public projects, as they are: fetched from a package registry when the test runs,
//! never kept here. What else was built is told in `docs/build/projects.md`.
//!
//! They take minutes and a network, so they run when they are asked for: `cargo test -p integration
//! --test all projects:: -- --ignored`.

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::process::{self, Ran};
use integration::{base_image, probe};

/// What stands in for the images of a language: Debian, its toolchain of this host, and the
/// authorities that this host trusts.
const STAND_IN: &str = "FROM debian:bookworm\nCOPY --from=authorities . /etc/ssl/certs/\n\
    ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n";

/// An appliance with such an image, `stand-in:1`, of these further lines and folders.
fn prepared(lines: &str, folders: &[(&str, &Path)]) -> Option<TestAppliance> {
    let debian = base_image::debian()?;
    let folder = Folder::new();
    let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if !authorities.exists() {
        probe::skip("there is no /etc/ssl/certs/ca-certificates.crt");
        return None;
    }
    let kept = folder.write("authorities/ca-certificates.crt", "");
    std::fs::copy(authorities, kept).expect("the authorities");
    let appliance = TestAppliance::start();
    appliance.load(&debian, "debian:bookworm");
    folder.write("context/Dockerfile", format!("{STAND_IN}{lines}"));
    let authorities = format!("authorities={}", folder.join("authorities").display());
    let mut words = vec!["build".to_owned(), "--tag=stand-in:1".to_owned()];
    words.extend(["--build-context".to_owned(), authorities]);
    for (name, folder) in folders {
        words.extend([
            "--build-context".to_owned(),
            format!("{name}={}", folder.display()),
        ]);
    }
    words.push(folder.join("context").display().to_string());
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    appliance.run(&words).ok();
    Some(appliance)
}

/// Builds what a folder has, with the stand-in in the place of every image of another registry.
fn build(appliance: &TestAppliance, context: &Path) {
    let text = std::fs::read_to_string(context.join("Dockerfile")).expect("a Dockerfile");
    let bases = text.lines().filter_map(|line| line.strip_prefix("FROM "));
    let bases = bases.filter_map(|rest| rest.split_whitespace().next());
    let context = context.display().to_string();
    let mut words = vec!["build".to_owned(), "--tag=project:1".to_owned()];
    for base in bases.filter(|base| base.contains([':', '/'])) {
        words.push("--build-context".to_owned());
        words.push(format!("{base}=docker-image://stand-in:1"));
    }
    words.push(context);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    appliance.run(&words).ok();
}

/// `None` after having told that the registry cannot be reached.
fn fetched(command: &mut Command) -> Option<Ran> {
    let ran = process::run(command);
    if ran.code != 0 {
        probe::skip("the package registry does not give the project away");
        return None;
    }
    Some(ran)
}

/// Where a program is, links followed.
fn home_of(program: &str) -> Option<PathBuf> {
    std::fs::canonicalize(probe::program(program)?).ok()
}

#[test]
#[ignore = "takes minutes, the Go module proxy and Debian's mirror"]
fn go_httpbin_of_the_module_proxy() {
    const MODULE: &str = "github.com/mccutchen/go-httpbin/v2@v2.18.3";
    let Some(go) = home_of("go") else { return };
    let mut download = Command::new("go");
    download
        .args(["mod", "download", "-json", MODULE])
        .current_dir("/");
    let Some(ran) = fetched(&mut download) else {
        return;
    };
    let module = PathBuf::from(ran.json()["Dir"].as_str().expect("a folder"));
    let lines = "RUN apt-get update && apt-get install -y --no-install-recommends make git\n\
        COPY --from=go . /usr/local/go\nENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";
    let root = go.ancestors().nth(2).expect("Go's folder");
    let Some(appliance) = prepared(lines, &[("go", root)]) else {
        return;
    };
    build(&appliance, &module);
    let run = [
        "sandbox",
        "run",
        "--rm",
        "project:1",
        "/bin/go-httpbin",
        "-h",
    ];
    appliance.run(&run).says("-max-body-size");
}

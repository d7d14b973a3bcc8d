//! The specification's own conformance suite against the real binary.
//!
//! The suite is in no package registry, so these tests run where somebody names its program:
//!
//! ```text
//! DEVPOD_CONFORMANCE=/path/to/suite cargo test -p integration --test all -- --ignored conformance
//! ```
//!
//! Its exit code says too little: it is 0 when the suite's own settings are wrong, and skipped areas
//! never fail. What counts is the report: it exists, something passed, and nothing else happened.
//! `registry/tests` has the same behaviours as tests of our own, which run always.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::probe;
use integration::process::run;

/// Attributes of the report's first element.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    tests: u32,
    /// Failures, errors, skipped and disabled.
    others: [u32; 4],
}

/// An absent attribute is zero: the report leaves those out.
fn read(junit: &str) -> Option<Report> {
    let start = junit.find("<testsuites")?;
    let element = junit[start..].split('>').next()?;
    let number = |name: &str| {
        let value = element.split(&format!(" {name}=\"")).nth(1);
        value.map_or(Some(0), |rest| rest.split('"').next()?.parse().ok())
    };
    Some(Report {
        tests: number("tests")?,
        others: [
            number("failures")?,
            number("errors")?,
            number("skipped")?,
            number("disabled")?,
        ],
    })
}

fn suite() -> PathBuf {
    let named = std::env::var_os("DEVPOD_CONFORMANCE").map(PathBuf::from);
    let found = named.or_else(|| probe::find("oci-conformance"));
    found.expect("DEVPOD_CONFORMANCE names the suite's program")
}

/// Runs the suite against repositories below a folder and checks its report.
fn conforms(appliance: &TestAppliance, below: &str, sparse: bool) {
    let folder = Folder::new();
    let mut command = Command::new(suite());
    command.env_clear().current_dir(folder.path());
    command.env("OCI_REGISTRY", appliance.registry());
    command.env("OCI_TLS", "disabled").env("OCI_LOG", "error");
    command.env("OCI_VERSION", "dev");
    command.env("OCI_DATA_SPARSE", sparse.to_string());
    command.env("OCI_REPO1", format!("{below}/one"));
    command.env("OCI_REPO2", format!("{below}/two"));
    command.env("OCI_RESULTS_DIR", folder.join("out"));
    let ran = run(&mut command).ok();
    assert!(folder.join("out/results.yaml").exists(), "{ran}");
    let junit = fs::read_to_string(folder.join("out/junit.xml")).expect("junit.xml");
    let report = read(&junit).expect("a <testsuites>");
    assert!(
        report.tests > 0 && report.others == [0; 4],
        "{report:?}\n{ran}"
    );
}

#[test]
#[ignore = "DEVPOD_CONFORMANCE must name the conformance suite's program"]
fn conforms_to_the_newest_specification() {
    let place = Place::new();
    place
        .run(&["config", "set", "registry.sparse", "sparse/**"])
        .ok();
    let appliance = TestAppliance::start_at(place);
    conforms(&appliance, "whole", false);
    conforms(&appliance, "sparse", true);
}

#[test]
fn the_report_is_read_as_it_is_written() {
    let good = r#"<?xml?><testsuites time="4.8" tests="986"><testsuite tests="1" failures="2">"#;
    let report = |tests, others| Some(Report { tests, others });
    assert_eq!(read(good), report(986, [0; 4]));
    let bad = r#"<testsuites tests="9" failures="1" errors="2" skipped="3" disabled="4">"#;
    assert_eq!(read(bad), report(9, [1, 2, 3, 4]));
    assert_eq!(read(r#"<testsuites tests="many">"#), None);
    assert_eq!(read("nothing"), None);
}

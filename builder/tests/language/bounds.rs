//! Files that ask for more than anybody has: what they come to is bounded, and told with its place.

use std::collections::BTreeMap;
use std::path::Path;

use builder::dockerfile;
use builder::lint::options::Options;
use builder::lint::rule::Rule;
use builder::lint::{Known, Warning, check};
use builder::plan::evaluate::plan;
use builder::plan::scope::Given;
use builder::request::BuildRequest;
use unpacker::image::config::ImageConfig;

fn many(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

/// How many steps there are, or why there are none.
fn planned(text: &str) -> Result<usize, String> {
    let file = dockerfile::parse(text.as_bytes())
        .map_err(|error| format!("Dockerfile:{}: {error}", error.position))?;
    let request = BuildRequest::new(Path::new("/context"));
    let planned = plan("Dockerfile", &file, &request, |_, _, _| {
        Ok(ImageConfig::default())
    });
    planned
        .map(|plan| plan.steps)
        .map_err(|error| error.record().error)
}

#[test]
fn settings_that_go_with_every_step_have_a_longest() {
    let long = |count: usize| "x".repeat(count);
    for (text, steps) in [
        (format!("FROM scratch\nUSER {}\nRUN x\n", long(4096)), 3),
        (format!("FROM scratch\nWORKDIR /{}\nRUN x\n", long(4095)), 3),
        (format!("FROM scratch AS {}\nRUN x\n", long(4096)), 2),
    ] {
        assert_eq!(planned(&text), Ok(steps));
    }
    for (text, place, says) in [
        (
            format!("FROM scratch\n  USER {}\n", long(4097)),
            "Dockerfile:2:3: ",
            "the user has more than 4096 bytes",
        ),
        (
            format!("FROM scratch\nARG U={}\nUSER $U$U\n", long(3000)),
            "Dockerfile:3:1: ",
            "the user has more than 4096 bytes",
        ),
        (
            format!("FROM scratch\nWORKDIR /{}\n", long(4096)),
            "Dockerfile:2:1: ",
            "the working folder has more than 4096 bytes",
        ),
        (
            // Each is short, and is seen from the one before.
            format!(
                "FROM scratch\n{}",
                format!("WORKDIR {}\n", long(99)).repeat(100)
            ),
            "Dockerfile:42:1: ",
            "the working folder has more than 4096 bytes",
        ),
        (
            format!("FROM scratch AS {}\n", long(4097)),
            "Dockerfile:1:17: ",
            "the name of a build stage has more than 4096 bytes",
        ),
    ] {
        let error = planned(&text).unwrap_err();
        assert!(error.starts_with(place), "{place}{says}: {error}");
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn what_goes_with_every_step_is_counted() {
    let long = "x".repeat(4000);
    let runs = "RUN x\n".repeat(80_000);
    let mounts = |kind: &str| format!("RUN {}x\n", format!("--mount={kind} ").repeat(50_000));
    for text in [
        format!("FROM scratch\nUSER {long}\n{runs}"),
        format!("FROM scratch\nWORKDIR /{long}\n{runs}"),
        format!(
            "FROM scratch\nWORKDIR /{long}\n{}",
            "COPY a b\n".repeat(80_000)
        ),
        format!(
            "FROM scratch\nUSER {long}\n{}",
            "WORKDIR /x\n".repeat(80_000)
        ),
        format!("FROM scratch AS {long}\n{}", "LABEL a=b\n".repeat(80_000)),
        // All of it in one step.
        format!(
            "FROM scratch\nWORKDIR /{long}\n{}",
            mounts("type=tmpfs,target=t")
        ),
        format!("FROM scratch\nWORKDIR /{long}\n{}", mounts("target=t")),
        format!(
            "FROM scratch\nARG A={long}\n{}",
            mounts("type=cache,target=/t,id=$A")
        ),
    ] {
        let error = planned(&text).unwrap_err();
        let begin: String = text.chars().take(30).collect();
        assert!(error.contains("come to more than"), "{begin}: {error}");
        assert!(error.starts_with("Dockerfile:"), "{begin}: {error}");
    }
}

fn found(text: &str) -> Vec<Warning> {
    let file = dockerfile::parse(text.as_bytes()).unwrap();
    let known = Known {
        given: &Given::default(),
        ignore: None,
        bases: &BTreeMap::new(),
    };
    check(&file, &Options::default(), &known)
}

#[test]
fn findings_are_some_and_short() {
    let tail = format!("P={}", "x".repeat(1_000_000));
    let secrets = many(5000, |n| format!("token_{n}=x "));
    let unset = many(20_000, |n| format!("${{unset_{n}}}"));
    // Names that no typing mistake comes near to, and that take long to compare.
    let huge = many(1000, |n| format!("ENV {}{n}=x\n", "n".repeat(2000)));
    for (text, rule) in [
        (
            format!("FROM scratch\nENV {secrets}{tail}\n"),
            Rule::SecretsUsedInArgOrEnv,
        ),
        (
            format!("FROM scratch\nENV {tail} {secrets}\n"),
            Rule::SecretsUsedInArgOrEnv,
        ),
        (
            format!("FROM scratch\n{huge}LABEL a={unset}\n"),
            Rule::UndefinedVar,
        ),
        (
            format!(
                "{}FROM a{unset}\n",
                many(1000, |n| format!("ARG {}{n}=x\n", "n".repeat(2000)))
            ),
            Rule::UndefinedArgInFrom,
        ),
        (
            format!("FROM scratch\nEXPOSE {}\n", "1/TCP ".repeat(20_000)),
            Rule::ExposeProtoCasing,
        ),
    ] {
        let found = found(&text);
        assert!(!found.is_empty() && found.len() <= 1000, "{rule}");
        assert!(found.iter().any(|found| found.rule == rule), "{rule}");
        for warning in &found {
            for text in [&warning.message, &warning.text, &warning.marked] {
                assert!(text.len() < 4200, "{rule}: {} bytes", text.len());
            }
            assert!(warning.shown("Dockerfile").len() < 20_000, "{rule}");
        }
    }
}

/// Where a finding is told does not depend on what is shown of it.
#[test]
fn a_finding_far_behind_keeps_its_place() {
    let text = format!("FROM scratch\nENV P={} token=x\n", "x".repeat(10_000));
    let found = found(&text);
    let [finding] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((finding.line, finding.column), (2, 10_008));
    assert_eq!(finding.marked, "token");
    let shown = finding.shown("Dockerfile");
    assert!(
        shown.starts_with("Dockerfile:2:10008: ENV token"),
        "{shown}"
    );
    assert_eq!(shown.lines().count(), 1);
}

//! Files that ask for more than anybody has: what they come to is bounded, and told with its place.

use std::path::Path;

use builder::dockerfile;
use builder::plan::evaluate::plan;
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

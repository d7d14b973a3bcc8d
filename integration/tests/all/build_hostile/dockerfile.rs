//! Dockerfiles that ask for more than anybody has.

use std::fs::File;

use super::Scene;

/// KiB that the daemon may have at most more than before: the plan's bound of 64 MiB with
/// what parsing takes, in a build that nothing optimised.
const MORE: u64 = 350 << 10;

fn many(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

#[test]
fn what_grows_without_end_is_refused_with_its_place() {
    let Some(scene) = Scene::new() else { return };
    let before = scene.peak();
    let value = "x".repeat(3_000_000);
    let doubled = |word: &str| {
        format!(
            "{word} A=xxxxxxxx\n{}",
            format!("{word} A=$A$A\n").repeat(40)
        )
    };
    let wide = |word: &str| {
        let all = many(300_000, |n| format!(" v{n}=x"));
        format!("{word}{all}\n")
    };
    for (text, place, says) in [
        (
            format!("FROM busybox:1\n{}", doubled("ENV")),
            "Dockerfile:22",
            "longer than",
        ),
        (
            format!("FROM busybox:1\n{}", doubled("ARG")),
            "Dockerfile:22",
            "longer than",
        ),
        (
            format!("{}FROM busybox:1\n", doubled("ARG")),
            "Dockerfile:21",
            "longer than",
        ),
        (
            format!("FROM busybox:1\n{}", wide("ARG")),
            "Dockerfile:2",
            "variables",
        ),
        (
            format!("FROM busybox:1\n{}", wide("ENV")),
            "Dockerfile:2",
            "variables",
        ),
        (
            format!(
                "FROM busybox:1\n{}",
                many(90_000, |n| format!("ARG v{n}=x\n"))
            ),
            "Dockerfile:10002",
            "variables",
        ),
        (
            format!(
                "FROM busybox:1\nENV A={value}\n{}",
                many(1000, |n| format!("ENV B{n}=$A\n"))
            ),
            "Dockerfile:",
            "come to more than",
        ),
        (
            format!(
                "FROM busybox:1\nENV A={value}\n{}",
                many(1000, |n| format!("LABEL B{n}=$A\n"))
            ),
            "Dockerfile:",
            "come to more than",
        ),
        (
            format!(
                "FROM busybox:1\nENV A={value}\n{}",
                many(1000, |n| format!("RUN : {n}\n"))
            ),
            "Dockerfile:",
            "come to more than",
        ),
        (
            format!(
                "FROM busybox:1\nARG A={value}\nCOPY {} /x/\n",
                "$A ".repeat(1000)
            ),
            "Dockerfile:3",
            "come to more than",
        ),
        (
            format!(
                "ARG A={value}\n{}FROM busybox:1\n",
                many(1000, |n| format!("ARG B{n}=$A\n"))
            ),
            "Dockerfile:",
            "come to more than",
        ),
        (
            format!("FROM busybox:1\nUSER {value}\n{}", "RUN x\n".repeat(80_000)),
            "Dockerfile:2:1",
            "the user has more than 4096 bytes",
        ),
        (
            format!(
                "FROM busybox:1\nWORKDIR /{}\n{}",
                "x".repeat(4000),
                "RUN x\n".repeat(80_000)
            ),
            "Dockerfile:",
            "come to more than",
        ),
        (
            format!("FROM busybox:1\nEXPOSE {}\n", "1-65535 ".repeat(2000)),
            "Dockerfile:2",
            "come to more than",
        ),
        (
            format!(
                "FROM busybox:1 AS a\n{}{}FROM busybox:1\n{}",
                "ONBUILD RUN x\n".repeat(40_000),
                many(20, |n| format!("FROM a AS s{n}\n")),
                many(20, |n| format!("COPY --from=s{n} /x /x\n")),
            ),
            "Dockerfile:",
            "come to more than",
        ),
    ] {
        let ran = scene
            .build_file(&text, &[])
            .failed(2)
            .says(place)
            .says(says);
        assert!(ran.stderr.len() < 20_000, "{} bytes", ran.stderr.len());
        // The checks build nothing, have bounds of their own, and find nothing wrong with it.
        let checked = scene.run(&["--check"]).ok().says("No warnings");
        assert!(checked.stdout.len() < 100, "{checked}");
    }
    // Such a file is not even parsed.
    let huge = format!("FROM busybox:1\nENV A={}\n", "x".repeat(10_000_000));
    for options in [&[][..], &["--check"]] {
        let ran = scene.build_file(&huge, options).failed(2);
        let ran = ran.says("Dockerfile:1").says("more than");
        assert!(ran.stderr.len() < 20_000, "{} bytes", ran.stderr.len());
    }
    let after = scene.peak();
    assert!(after < before + MORE, "{before} KiB before, {after} after");
    scene.build("RUN true", &[]).ok();
}

#[test]
fn checks_of_a_file_full_of_findings_are_some_and_short() {
    let Some(scene) = Scene::new() else { return };
    let before = scene.peak();
    let secrets = many(5000, |n| format!("token_{n}=x "));
    let unset = many(200_000, |n| format!("${{n{n}}}"));
    for (text, rule) in [
        (
            format!(
                "FROM busybox:1\nENV {secrets} P={}\n",
                "x".repeat(3_900_000)
            ),
            "SecretsUsedInArgOrEnv",
        ),
        (format!("FROM busybox:1\nLABEL a={unset}\n"), "UndefinedVar"),
        (format!("FROM busybox{unset}\n"), "UndefinedArgInFrom"),
    ] {
        let ran = scene.build_file(&text, &["--check", "--output", "json"]);
        let ran = ran.failed(1);
        let found = ran.json()["warnings"].as_array().unwrap().clone();
        assert_eq!(found.len(), 1000, "{rule}");
        assert!(found.iter().all(|found| found["rule"] == rule), "{rule}");
        assert!(ran.stdout.len() < 16 << 20, "{} bytes", ran.stdout.len());
    }
    let after = scene.peak();
    assert!(after < before + MORE, "{before} KiB before, {after} after");
}

#[test]
fn a_file_of_a_gigabyte_is_not_read() {
    let Some(scene) = Scene::new() else { return };
    let before = scene.memory();
    for (name, code) in [
        ("Dockerfile", 2),
        (".dockerignore", 1),
        ("Dockerfile.dockerignore", 1),
    ] {
        scene
            .folder
            .write("c/Dockerfile", "FROM busybox:1\nCOPY . /x/\n");
        let file = File::create(scene.folder.join("c").join(name)).unwrap();
        file.set_len(1 << 30).unwrap();
        scene.run(&[]).failed(code).says("more than");
        std::fs::remove_file(scene.folder.join("c").join(name)).unwrap();
    }
    let after = scene.memory();
    assert!(
        after < before + (64 << 10),
        "{before} KiB before, {after} after"
    );
}

/// A step may be as large as a file may be; what is told of it is not.
#[test]
fn a_failure_of_a_huge_instruction_is_short() {
    let Some(scene) = Scene::new() else { return };
    let word = "w".repeat(60);
    let command = format!("false {}", format!("{word} ").repeat(1500));
    let ran = scene.build(&format!("RUN {command}"), &["--output", "json"]);
    let ran = ran.failed(1);
    let record = ran.json();
    let error = record["error"].as_str().unwrap();
    assert!(
        error.len() < 16_000 && error.contains("RUN false"),
        "{}",
        error.len()
    );
    assert!(ran.stderr.len() < 40_000, "{}", ran.stderr.len());
    // More than a program can be given is no harm either.
    let huge = "x".repeat(3_000_000);
    scene
        .build(&format!("ENV A={huge}\nRUN true"), &[])
        .failed(1)
        .says("list too long");
}

#[test]
fn triggers_of_triggers_are_refused() {
    let Some(scene) = Scene::new() else { return };
    for (step, says) in [
        ("ONBUILD ONBUILD RUN x", "ONBUILD trigger"),
        ("ONBUILD FROM busybox:1", "ONBUILD trigger"),
        (
            "ONBUILD RUN x\nFROM a\nONBUILD ONBUILD RUN y",
            "ONBUILD trigger",
        ),
    ] {
        let text = format!("FROM busybox:1 AS a\n{step}\n");
        scene.build_file(&text, &[]).failed(2).says(says);
    }
    // A trigger runs in the stage on top, and not in one on top of that.
    let text =
        "FROM busybox:1 AS a\nONBUILD RUN echo once >> /said\nFROM a AS b\nFROM b\nRUN true\n";
    scene.build_file(text, &[]).ok();
    assert_eq!(scene.sh("cat /said"), "once");
}

//! Bad input gets one clear error, what to do next, and a non-zero exit; nothing half-made stays.

use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::port;
use integration::process::Ran;

/// Arguments, the exit code, and what the message must contain.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

/// What is wrong with the message of something that had to fail; a table is read to its end.
fn mistakes(ran: &Ran, texts: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for text in texts {
        if !ran.stderr.contains(text) {
            wrong.push(format!("expected to read {text:?}\n{ran}"));
        }
    }
    if ran.code == 0 || ran.stderr.contains("panicked") {
        wrong.push(format!("expected an ordinary failure\n{ran}"));
    }
    let errors = ran.stderr.lines().filter(|line| line.starts_with("error:"));
    if errors.count() != 1 {
        wrong.push(format!("expected one error\n{ran}"));
    }
    wrong
}

fn check(appliance: &TestAppliance, cases: &[Case<'_>]) {
    let mut wrong = Vec::new();
    for (arguments, code, texts) in cases {
        let ran = appliance.run(arguments);
        wrong.extend(mistakes(&ran, texts));
        if ran.code != *code {
            wrong.push(format!("expected exit code {code}\n{ran}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Nothing is left of what failed.
fn nothing_stays(appliance: &TestAppliance) {
    for list in [&["images"][..], &["sandbox", "ps"], &["list"]] {
        let rows = appliance
            .run(&[list, &["--output", "json"]].concat())
            .ok()
            .json();
        assert_eq!(rows.as_array().unwrap().len(), 0, "{list:?}: {rows}");
    }
}

#[test]
fn names_that_are_none() {
    let appliance = TestAppliance::start();
    let cases: &[Case<'_>] = &[
        (
            &["sandbox", "run", "Upper/Case", "true"][..],
            2,
            &["Upper/Case"][..],
        ),
        (&["inspect", "a:b:c"], 2, &["a:b"]),
        (&["status", "../etc"], 2, &["../etc"]),
        (&["status", "a/b"], 2, &["a/b"]),
        (&["delete", ".."], 2, &[".."]),
        (&["sandbox", "logs", "../../x"], 2, &["../../x"]),
        (&["status", "unknown"], 3, &["unknown"]),
        (&["ssh", "unknown", "--", "true"], 3, &["unknown"]),
        (&["sandbox", "exec", "unknown", "true"], 3, &["unknown"]),
        (&["rmi", "unknown:1"], 3, &["unknown"]),
        (
            &["sandbox", "run", "-v", "relative", "x", "true"],
            2,
            &["relative", "HOST:INSIDE"],
        ),
    ];
    check(&appliance, cases);
    nothing_stays(&appliance);
}

#[test]
fn images_that_cannot_be_had() {
    let appliance = TestAppliance::start();
    let nobody = format!("127.0.0.1:{}/x:1", port::free());
    let missing = appliance.reference("missing:1");
    let cases: &[Case<'_>] = &[
        (
            &["pull", &nobody][..],
            5,
            &[nobody.split('/').next().unwrap()][..],
        ),
        (&["sandbox", "run", &missing, "true"], 3, &["missing"]),
        (&["push", &missing], 3, &["missing"]),
    ];
    check(&appliance, cases);
    nothing_stays(&appliance);
}

#[test]
fn dockerfiles_with_mistakes() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let context = folder.path().display().to_string();
    let mut wrong = Vec::new();
    for (text, texts) in [
        ("FROM scratch\nCOPPY a /\n", &["Dockerfile:2", "COPPY"][..]),
        ("RUN true\n", &["Dockerfile:1", "FROM"]),
        (
            "FROM scratch\nCOPY --from=nowhere /a /b\n",
            &["Dockerfile:2", "nowhere"],
        ),
        (
            "FROM scratch\nCOPY missing-file /\n",
            &["Dockerfile:2", "missing-file"],
        ),
        ("FROM scratch\nCOPY ../../etc/passwd /\n", &["Dockerfile:2"]),
        ("", &["Dockerfile"]),
    ] {
        folder.write("Dockerfile", text);
        let ran = appliance.run(&["build", "--tag", "bad:1", &context]);
        wrong.extend(mistakes(&ran, texts));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let ran = appliance.run(&["build", "--tag", "bad:1", &format!("{context}/nowhere")]);
    assert_ne!(ran.code, 0, "{ran}");
    ran.says("nowhere");
    nothing_stays(&appliance);
}

#[test]
fn a_failing_step_fails_the_build_with_its_output() {
    let appliance = TestAppliance::start();
    appliance
        .run(&["image", "from-host", "--without-git", "--tag", "small:1"])
        .ok();
    let folder = Folder::new();
    folder.write(
        "Dockerfile",
        "FROM small:1\nRUN echo about to fail && exit 42\n",
    );
    let context = folder.path().display().to_string();
    let ran = appliance.run(&["build", "--tag", "bad:1", &context]);
    assert_ne!(ran.code, 0, "{ran}");
    ran.says("about to fail").says("42").says("Dockerfile:2");
    appliance.run(&["inspect", "bad:1"]).failed(3);
}

#[test]
fn devcontainers_with_mistakes() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let project = folder.path().display().to_string();
    let mut wrong = Vec::new();
    for (text, texts) in [
        (
            "{\n  \"image\": \"x\",\n  \"name\" 1\n}\n",
            &["devcontainer.json", "3:"][..],
        ),
        ("{ \"image\": 5 }", &["image"]),
        ("{}", &["devcontainer.json"]),
        ("{ \"image\": \"Not/A Name\" }", &["Not/A Name"]),
    ] {
        folder.write(".devcontainer/devcontainer.json", text);
        let ran = appliance.run(&["up", "--name", "bad", &project]);
        wrong.extend(mistakes(&ran, texts));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for name in ["a/b", "..", "", "-x", "a b"] {
        let ran = appliance.run(&["up", "--name", name, &project]);
        assert_ne!(ran.code, 0, "{name:?}: {ran}");
    }
    appliance
        .run(&["up", &format!("{project}/nowhere")])
        .failed(3)
        .says("nowhere");
    let sandboxes = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    assert_eq!(sandboxes.as_array().unwrap().len(), 0, "{sandboxes}");
}

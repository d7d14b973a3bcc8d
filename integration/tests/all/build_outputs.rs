//! Where the result of `devpod build` goes, what is told of it, and what is told of a failure.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::docker_registry::DockerRegistry;
use integration::folder::Folder;
use integration::process::{self, Ran};
use integration::{base_image, probe};
use rustix::fs::XattrFlags;
use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;

/// A busybox in the registry, and a context whose Dockerfile is on it.
fn prepared(text: &str) -> Option<(TestAppliance, Folder)> {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return None;
    }
    let appliance = TestAppliance::start();
    appliance.load(&from, "busybox:1");
    folder.write("context/Dockerfile", text);
    folder.write("context/a", "one\n");
    Some((appliance, folder))
}

fn text_of(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// Runs a command of the appliance with these bytes on its standard input.
fn with_input(appliance: &TestAppliance, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = appliance.place().devpod(arguments);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process::spawn(&mut command).unwrap();
    // A command that refuses its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran {
        command: format!("{arguments:?}"),
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

const FILES: &str = "FROM busybox:1 AS make\nRUN mkdir /out && echo made > /out/made \
    && chown 7:50 /out/made && ln -s made /out/link && ln /out/made /out/same\n\
    FROM scratch\nCOPY --from=make /out /out\nCOPY a /a\n";

#[test]
fn files_land_in_a_folder_and_belong_to_the_caller() {
    let Some((appliance, folder)) = prepared(FILES) else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let out = folder.join("files");
    folder.write("files/mine", "stays\n");
    // What is there may try to lead elsewhere.
    std::os::unix::fs::symlink(folder.path(), out.join("out")).unwrap();
    let local = format!("type=local,dest={}", out.display());
    appliance.run(&["build", "-o", &local, &context]).ok();
    assert_eq!(text_of(out.join("out/made")), "made\n");
    assert_eq!(text_of(out.join("out/link")), "made\n");
    assert_eq!(text_of(out.join("mine")), "stays\n");
    assert!(!folder.join("made").exists(), "it left the folder");
    let made = fs::metadata(out.join("out/made")).unwrap();
    let me = rustix::process::geteuid().as_raw();
    assert_eq!((made.uid(), made.nlink()), (me, 2));
    // The short form, and a tar on standard output beside it.
    let short = folder.join("short").display().to_string();
    let both = ["build", "-o", &short, "-o", "-", &context];
    let mut command = appliance.place().devpod(&both);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text_of(folder.join("short/a")), "one\n");
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let owners: Vec<(String, u64, u64)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let header = entry.header();
            (name, header.uid().unwrap(), header.gid().unwrap())
        })
        .collect();
    // A tar keeps owners, and nothing else was on standard output.
    assert!(
        owners.contains(&("out/made".to_owned(), 7, 50)),
        "{owners:?}"
    );
}

#[test]
fn archives_several_names_and_metadata() {
    let Some((appliance, folder)) = prepared("FROM busybox:1\nCOPY a /a\nRUN cat /a\n") else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let at = |name: &str| folder.join(name).display().to_string();
    let oci = format!("type=oci,dest={},annotation.org.test=yes", at("oci.tar"));
    let docker = format!("type=docker,dest={},name=second:2", at("docker.tar"));
    let layout = format!("type=oci,tar=false,dest={},compression=zstd", at("layout"));
    let (iid, meta) = (at("iid"), at("meta.json"));
    let arguments = [
        "build",
        "-t",
        "first:1",
        "-o",
        &oci,
        "-o",
        &docker,
        "-o",
        &layout,
        "--iidfile",
        &iid,
        "--metadata-file",
        &meta,
        "--annotation",
        "org.more=too",
        "-q",
        &context,
    ];
    let ran = appliance.run(&arguments).ok();
    let metadata: Value = serde_json::from_str(&text_of(&meta)).unwrap();
    let id = text_of(&iid);
    assert_eq!(ran.text(), id, "{ran}");
    assert_eq!(metadata["containerimage.config.digest"], id.as_str());
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let rows = appliance.run(&["images", "--output", "json"]).ok().json();
    for name in ["first", "second"] {
        let row = rows.as_array().unwrap().iter().find(|row| {
            let repository = row["repository"].as_str().unwrap();
            repository.ends_with(&format!("/{name}"))
        });
        assert_eq!(row.unwrap()["digest"], digest, "{rows}");
    }
    // Others read all three, and find the same image.
    for source in [
        format!("oci-archive:{}", at("oci.tar")),
        format!("oci:{}", at("layout")),
        format!("docker-archive:{}", at("docker.tar")),
    ] {
        let source = match source.starts_with("oci:") || source.starts_with("oci-archive:") {
            // Two names: the reader has to choose.
            true => format!(
                "{source}:{}",
                appliance
                    .reference("first:1")
                    .replace("127.0.0.1", "localhost")
            ),
            false => source,
        };
        let config = process::run(Command::new("skopeo").args(["inspect", "--config", &source]));
        assert_eq!(
            config.ok().json()["rootfs"]["diff_ids"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
    }
    let raw = appliance.run(&["inspect", "--raw", "first:1"]).ok().json();
    assert_eq!(raw["annotations"]["org.test"], "yes");
    assert_eq!(raw["annotations"]["org.more"], "too");
    let layers = raw["layers"].as_array().unwrap();
    let last = layers.last().unwrap()["mediaType"].as_str().unwrap();
    assert!(last.ends_with("tar+zstd"), "{raw}");
}

#[test]
fn an_image_goes_to_another_registry() {
    let Some((appliance, folder)) = prepared("FROM busybox:1\nCOPY a /a\n") else {
        return;
    };
    let Some(other) = DockerRegistry::start() else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let names = format!("{0}/team/a:1,{0}/team/a:2", other.address());
    let output = format!("type=registry,\"name={names}\"");
    let ran = appliance.run(&["build", "-o", &output, &context]).ok();
    for name in names.split(',') {
        let source = format!("docker://{name}");
        let inspect = [
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &source,
        ];
        let found = process::run(Command::new("skopeo").args(inspect)).ok();
        assert_eq!(found.text(), ran.text());
    }
}

#[test]
fn contexts_and_dockerfiles_on_standard_input() {
    let Some((appliance, folder)) = prepared("FROM scratch\n") else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let dockerfile = b"FROM busybox:1\nRUN echo no-context\n";
    with_input(&appliance, &["build", "-t", "a", "-"], dockerfile)
        .ok()
        .says("no-context");
    let copies = b"FROM busybox:1\nCOPY a /a\nRUN cat /a && echo read-it\n";
    with_input(
        &appliance,
        &["build", "-t", "a", "-f", "-", &context],
        copies,
    )
    .ok()
    .says("read-it");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [("sub/Dockerfile", &copies[..]), ("a", b"of a tar\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    with_input(&appliance, &["build", "-f", "sub/Dockerfile", "-"], &tar)
        .ok()
        .says("of a tar");
    with_input(&appliance, &["build", "-f", "-", "-"], dockerfile).failed(2);
    appliance
        .run(&["build", "https://host.invalid/x.tar"])
        .failed(2)
        .says(".git");
}

#[test]
fn what_steps_are_given() {
    let text = "FROM busybox:1\nRUN --mount=type=secret,id=word,env=WORD \
        --mount=type=secret,id=file read line < /run/secrets/file && test ${#WORD}${#line} = 46\n\
        RUN grep -q '10.1.2.3.*db' /etc/hosts && test $(ulimit -n) = 77\n";
    let Some((appliance, folder)) = prepared(text) else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let file = folder.write("secret", "murmur\n").display().to_string();
    let file = format!("id=file,src={file}");
    let mut command = appliance.place().devpod(&[
        "build",
        "--secret",
        "id=word,env=SAY",
        "--secret",
        &file,
        "--add-host",
        "db:10.1.2.3",
        "--ulimit",
        "nofile=77",
        "--memory",
        "64m",
        "--load",
        "--rm",
        &context,
    ]);
    let ran = process::run(command.env("SAY", "hush")).ok();
    for word in ["hush", "murmur"] {
        assert!(
            !ran.stdout.contains(word) && !ran.stderr.contains(word),
            "{ran}"
        );
    }
    for (flag, value) in [("--allow", "security.insecure"), ("--isolation", "hyperv")] {
        appliance
            .run(&["build", flag, value, &context])
            .failed(2)
            .says(flag)
            .says("not supported");
    }
    let two = "linux/amd64,linux/arm64";
    appliance
        .run(&["build", "--platform", two, &context])
        .failed(2);
}

#[test]
fn a_secret_is_in_no_file_of_the_command() {
    let Some((appliance, folder)) = prepared("FROM busybox:1\nRUN sleep 600\n") else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let temporary = folder.join("temporary");
    fs::create_dir(&temporary).unwrap();
    let build = ["build", "--secret", "id=word,env=SAY", &context];
    let mut command = appliance.place().devpod(&build);
    command.env("TMPDIR", &temporary).env("SAY", "hush");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = process::spawn(&mut command).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.any(|line| line.unwrap().starts_with("[Builder] Step 2/2"));
    assert!(begun);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    let arguments = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains("hush"));
    process::signal(&child, Signal::INT);
    assert_eq!(
        process::wait(&mut child, Duration::from_secs(60)),
        Some(130)
    );
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn a_failure_is_told_to_people_and_to_programs() {
    let text =
        "FROM busybox:1\n\nRUN echo before\nRUN echo wanted-words; \\\n  exit 3\nRUN echo never\n";
    let Some((appliance, folder)) = prepared(text) else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let ran = appliance
        .run(&["build", "--output", "json", &context])
        .failed(1);
    let record = ran.json();
    assert_eq!(record["stage"], "build", "{ran}");
    assert_eq!(record["logs"], serde_json::json!(["wanted-words"]));
    assert_eq!(record["recoverable"], false);
    assert!(
        record["error"].as_str().unwrap().contains("Dockerfile:4:1"),
        "{ran}"
    );
    let lines = [
        "   4 | >>> RUN echo wanted-words; \\",
        "   5 | >>>   exit 3",
        "   6 |     RUN echo never",
    ];
    for line in lines {
        assert!(ran.stderr.contains(line), "{ran}");
    }
    let (live, end) = ran.stderr.split_once("error:").unwrap();
    assert!(
        live.contains(" wanted-words\n") && end.contains("wanted-words"),
        "{ran}"
    );
    // Every line of this form is JSON, and says of which step it is.
    let ran = appliance
        .run(&["build", "--progress", "rawjson", &context])
        .failed(1);
    let events: Vec<Value> = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}\n{ran}")))
        .collect();
    let state = |step: u64, state: &str| {
        let found = |event: &Value| {
            event["event"] == "step" && event["step"] == step && event["state"] == state
        };
        events.iter().any(found)
    };
    assert!(
        state(2, "cached") && state(3, "began") && state(3, "failed"),
        "{ran}"
    );
    let output = events
        .iter()
        .find(|event| event["event"] == "output")
        .unwrap();
    assert_eq!(output["step"], 3, "{ran}");
    let last = events.last().unwrap();
    assert_eq!(last["failure"]["stage"], "build", "{ran}");
    let quiet = appliance.run(&["build", "-q", &context]).failed(1);
    assert!(quiet.stderr.starts_with("error:"), "{quiet}");
}

#[test]
fn plain_progress_says_whose_output_it_is() {
    let Some((appliance, folder)) = prepared("FROM busybox:1\nRUN echo hello\n") else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let build = ["build", "--progress", "plain", &context];
    let first = appliance.run(&build).ok();
    let lines: Vec<&str> = first.stderr.lines().collect();
    assert!(
        lines.contains(&"[Builder] Step 2/2: RUN echo hello"),
        "{first}"
    );
    let said = |line: &&str| line.starts_with("#2 ") && line.ends_with(" hello");
    assert_eq!(lines.iter().filter(|line| said(line)).count(), 1, "{first}");
    assert!(
        lines.iter().any(|line| line.starts_with("#2 DONE ")),
        "{first}"
    );
    // Without a terminal `tty` is `plain`.
    let second = appliance
        .run(&["build", "--progress", "tty", &context])
        .ok();
    second
        .says("[Builder] Step 2/2: RUN echo hello (cached)")
        .says("#2 CACHED");
}

#[test]
fn a_terminal_is_drawn_on_within_its_width() {
    let text = "FROM busybox:1\nRUN for i in 1 2 3 4 5 6 7 8 9; do echo row-$i \
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-f\"\"ar; done; sleep 1; false\n";
    let Some((appliance, folder)) = prepared(text) else {
        return;
    };
    let context = folder.join("context").display().to_string();
    for colours in [true, false] {
        let (mut person, slave) = crate::prompt::terminal();
        let size = Winsize {
            ws_row: 24,
            ws_col: 50,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size).unwrap();
        let mut command = appliance.place().devpod(&["build", &context]);
        command.env("TERM", "xterm");
        if !colours {
            command.env("NO_COLOR", "1");
        }
        let side = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(Stdio::null()).stdout(side()).stderr(side());
        let mut build = process::spawn(&mut command).unwrap();
        drop((command, slave));
        // Reading fails when the last one has closed the terminal.
        let mut seen = Vec::new();
        let _ = person.read_to_end(&mut seen);
        assert_eq!(process::wait(&mut build, Duration::from_secs(60)), Some(1));
        let seen = String::from_utf8_lossy(&seen);
        let (live, end) = seen
            .split_once("error:")
            .unwrap_or_else(|| panic!("{seen}"));
        // The window has the last rows, cut; what was said stands whole at the end.
        assert!(live.contains("row-9 ") && !live.contains("-far"), "{live}");
        assert!(end.contains("row-9 ") && end.contains("-far"), "{end}");
        assert!(live.contains("\x1b["), "nothing was drawn: {live}");
        assert_eq!(seen.contains("\x1b[1;31m"), colours, "{seen:?}");
    }
}

const SAME: &str = "FROM busybox:1\nWORKDIR /work\nCOPY tree /work/tree\nADD --chown=7:50 a /work/b\n\
    RUN echo hi > new && ln new hard && ln -s new soft && mkdir -p d/e && chown 7:50 new \
    && chmod 4755 d/e && rm /etc/layer\nENV A=b\n";

/// The same files, made at another time in another folder, perhaps by another user.
fn built_by(place: Place, from: &Path, text: &str, form: &str) -> String {
    let folder = Folder::new();
    let appliance = TestAppliance::start_at(place);
    appliance.load(from, "busybox:1");
    let context = folder.join("some/where/context");
    folder.write("some/where/context/Dockerfile", text);
    folder.write("some/where/context/a", "one\n");
    folder.write("some/where/context/tree/x", "x\n");
    let x = context.join("tree/x");
    fs::set_permissions(&x, fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(&x, context.join("tree/y")).unwrap();
    std::os::unix::fs::symlink("x", context.join("tree/z")).unwrap();
    rustix::fs::setxattr(&x, "user.test", b"kept", XattrFlags::empty()).unwrap();
    appliance.place().hand_over(folder.path());
    let context = context.display().to_string();
    let form = format!("type=image,{form}");
    let mut command = appliance.place().devpod(&[
        "build", "-t", "same:1", "-o", &form, "--output", "json", &context,
    ]);
    let ran = process::run(command.env("SOURCE_DATE_EPOCH", "1700000000")).ok();
    ran.json()["digest"].as_str().unwrap().to_owned()
}

#[test]
fn the_same_input_is_the_same_image_everywhere() {
    let folder = Folder::new();
    let from = folder.join("from");
    let programs = ["skopeo", "useradd", "usermod", "userdel", "newuidmap"];
    if !probe::root() || !probe::programs(&programs) || !base_image::busybox(&from) {
        return;
    }
    let mut seen = Vec::new();
    for form in [
        "compression=zstd,compression-level=7",
        "compression=gzip",
        "compression=none",
    ] {
        let root = built_by(Place::new(), &from, SAME, form);
        assert_eq!(built_by(Place::new(), &from, SAME, form), root, "{form}");
        let user = built_by(Place::of(Account::with_range()), &from, SAME, form);
        assert_eq!(user, root, "{form}");
        assert!(!seen.contains(&root), "{form} changes nothing");
        seen.push(root);
    }
    // With a single id a command's chown changes nothing on disk, and all in the layer.
    assert!(SAME.contains("chown 7:50 new"));
    let form = "compression=none";
    let single = built_by(Place::of(Account::without_range()), &from, SAME, form);
    assert_eq!(Some(&single), seen.last());
}

#[test]
fn envbuilder_by_its_name() {
    let Some((appliance, folder)) = prepared("FROM nowhere.invalid/base\nCOPY a /a\nRUN cat /a\n")
    else {
        return;
    };
    let devpod = folder.join("envbuilder");
    fs::copy(appliance.place().program(), &devpod).unwrap();
    let envbuilder = |arguments: &[&str]| {
        let mut command = appliance.place().command(&devpod);
        process::run(command.args(arguments))
    };
    let context = folder.join("context").display().to_string();
    let dockerfile = format!("{context}/Dockerfile");
    let name = appliance.reference("workspace/abc123:latest");
    let base = appliance.reference("busybox:1");
    let kaniko = [
        "--dockerfile",
        &dockerfile,
        "--context",
        &context,
        "--image-name",
        &name,
        "--push",
        "--base-image",
        &base,
    ];
    envbuilder(&kaniko)
        .ok()
        .says("[Builder] Step 1/3: FROM")
        .says("[Builder] Pushing to localhost:")
        .says("[Builder] Build complete: localhost:")
        .says("workspace/abc123:latest");
    let read = ["sandbox", "run", "--rm", "workspace/abc123", "cat", "/a"];
    assert_eq!(appliance.run(&read).ok().text(), "one");
    // A workspace's own devcontainer.json says where its Dockerfile is, and one without has it on top.
    let json = r#"{"build": {"dockerfile": "Other", "context": "..", "args": {"W": "given"}}}"#;
    folder.write("context/.devcontainer/devcontainer.json", json);
    let other = "FROM nowhere.invalid/base\nARG W\nCOPY a /a\nRUN echo $W > /word\n";
    folder.write("context/.devcontainer/Other", other);
    let image = appliance.reference("workspace/two:1");
    let workspace = [
        "build",
        "--workspace",
        &context,
        "--image",
        &image,
        "--base-image",
        &base,
    ];
    envbuilder(&workspace).ok();
    let read = [
        "sandbox",
        "run",
        "--rm",
        "workspace/two:1",
        "cat",
        "/word",
        "/a",
    ];
    assert_eq!(appliance.run(&read).ok().text(), "given\none");
    // The same without the name, and what is missing is said.
    let named = [&["envbuilder"][..], &workspace[..]].concat();
    appliance.run(&named).ok();
    envbuilder(&["build", "--workspace", &context])
        .failed(2)
        .says("--image");
    envbuilder(&[]).failed(2).says("--dockerfile");
}

#[test]
fn envbuilder_fetches_base_images_through_a_mirror() {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return;
    }
    let Some(mirror) = DockerRegistry::start() else {
        return;
    };
    mirror.load(&from, "library/only-there:1");
    let appliance = TestAppliance::start();
    folder.write("Dockerfile", "FROM only-there:1\nRUN true\n");
    let context = folder.path().display().to_string();
    let url = format!("http://{}", mirror.address());
    let image = appliance.reference("mirrored:1");
    appliance
        .run(&[
            "envbuilder",
            "build",
            "--workspace",
            &context,
            "--image",
            &image,
            "--registry-mirror",
            &url,
        ])
        .ok();
}

#[test]
fn what_is_attested_of_an_image() {
    let text = "FROM busybox:1\nARG WORD\nARG API_TOKEN\nRUN mkdir -p /lib/apk/db && printf \
        'P:musl\\nV:1.2.5-r0\\nA:x86_64\\n\\n' > /lib/apk/db/installed\n";
    let Some((appliance, folder)) = prepared(text) else {
        return;
    };
    let context = folder.join("context").display().to_string();
    let archive = folder.join("app.tar").display().to_string();
    let oci = format!("type=oci,dest={archive}");
    let build = [
        "build",
        "-t",
        "told:1",
        "--build-arg",
        "WORD=plain",
        "--build-arg",
        "API_TOKEN=hush",
        "--provenance=mode=max",
        "--sbom",
        "-o",
        &oci,
        "--output",
        "json",
        &context,
    ];
    let built = appliance.run(&build).ok().json();
    let index = appliance.run(&["inspect", "--raw", "told:1"]).ok().json();
    let rows = index["manifests"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{index}");
    assert_eq!(rows[0]["digest"], built["manifestDigest"]);
    let notes = &rows[1]["annotations"];
    assert_eq!(notes["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(notes["vnd.docker.reference.digest"], rows[0]["digest"]);
    // Others find the statements where BuildKit puts them, in the registry and in the archive.
    let blob = |digest: &Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = appliance
            .place()
            .data()
            .join("content/blobs/sha256")
            .join(hex);
        let text = text_of(path);
        let value: Value = serde_json::from_str(&text).unwrap();
        (text, value)
    };
    let (_, manifest) = blob(&rows[1]["digest"]);
    let layers = manifest["layers"].as_array().unwrap();
    let statement = |kind: &str| {
        let is = |layer: &&Value| layer["annotations"]["in-toto.io/predicate-type"] == kind;
        let layer = layers.iter().find(is).unwrap();
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        let (text, value) = blob(&layer["digest"]);
        assert_eq!(value["predicateType"], kind);
        let subject = value["subject"][0]["digest"]["sha256"].as_str().unwrap();
        assert!(rows[0]["digest"].as_str().unwrap().ends_with(subject));
        (text, value["predicate"].clone())
    };
    let (text, provenance) = statement("https://slsa.dev/provenance/v1");
    assert!(text.contains("plain") && !text.contains("hush"), "{text}");
    let used = &provenance["buildDefinition"]["resolvedDependencies"];
    assert_eq!(used.as_array().unwrap().len(), 1, "{text}");
    let (text, spdx) = statement("https://spdx.dev/Document");
    assert_eq!(spdx["packages"][0]["name"], "musl", "{text}");
    let url = &spdx["packages"][0]["externalRefs"][0]["referenceLocator"];
    assert_eq!(url, "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64");
    // It runs and travels like any other image.
    appliance
        .run(&["sandbox", "run", "--rm", "told:1", "true"])
        .ok();
    let found = process::run(Command::new("skopeo").args([
        "inspect",
        "--raw",
        &format!("oci-archive:{archive}"),
    ]));
    assert_eq!(found.ok().json()["manifests"].as_array().unwrap().len(), 2);
}

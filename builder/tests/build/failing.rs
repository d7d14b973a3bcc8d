//! What cannot be built: told with its place, and nothing left behind.

use builder::error::{BuildError, Part, StepError};
use libtest_mimic::Trial;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("unsupported_is_refused_before_anything_runs", refusals),
        trial("options_of_mounts_are_known_ones", mount_options),
        trial("a_failing_command", command),
        trial("a_cancelled_command", cancelled),
        trial("a_timeout", timeout),
        trial("missing_things", missing),
    ]
}

fn refusals() {
    let room = Room::new(&[("f", "f")]);
    for (line, what) in [
        ("RUN --security=insecure x", "--security=insecure"),
        ("RUN --device=vendor/gpu x", "--device=vendor/gpu"),
        ("RUN --mount=type=cache,target=/c,source=/s x", "needs from"),
        ("ADD https://example.com/x.git#-x /x", "branch name"),
        ("ADD git@-oProxyCommand=x:a/b /x", "host name"),
        ("ADD https://example.com/x.git?x=y /x", "x is not known"),
        ("ADD --checksum=sha256:00 f /x", "--checksum"),
        (
            "ADD --checksum=sha256:00 https://e.com/f /x",
            "64 hexadecimal",
        ),
        ("ADD --keep-git-dir f /x", "--keep-git-dir"),
        ("COPY https://e.com/f /x", "only ADD fetches"),
        ("COPY f f /x", "end with /"),
        ("COPY --from=9 f /x", "stage \"9\""),
        ("ENV a=${b:?missing}", "missing"),
        ("WORKDIR $nothing", "WORKDIR"),
        ("EXPOSE x", "x"),
    ] {
        let dockerfile = format!("FROM busybox\nRUN echo ran\n{line}\n");
        let error = room.build(&dockerfile).unwrap_err();
        let record = error.record();
        assert_eq!(record.stage, Part::Parse, "{line}: {}", record.error);
        assert!(record.error.contains(what), "{line}: {}", record.error);
        let place = format!("Dockerfile:3:1: {line}");
        assert!(record.error.starts_with(&place), "{}", record.error);
        assert_eq!(room.output(), "");
    }
    let typo = room.build("FROM busybox\nRUM x\n").unwrap_err().record();
    let told = typo.error.contains("2:1") && typo.error.contains("RUM");
    assert!(told, "{}", typo.error);
}

/// CVE-2024-9407: nothing that a Dockerfile says of a mount reaches the system call unread.
fn mount_options() {
    let room = Room::new(&[("f", "f")]);
    for (options, key) in [
        (
            "type=bind,source=f,target=/x,bind-propagation=shared",
            "bind-propagation",
        ),
        (
            "bind-propagation=rshared,target=/x,source=/",
            "bind-propagation",
        ),
        ("type=cache,target=/x,propagation=shared", "propagation"),
        ("type=tmpfs,target=/x,suid", "suid"),
    ] {
        let dockerfile = format!("FROM busybox\nRUN echo ran\nRUN --mount={options} x\n");
        let record = room.build(&dockerfile).unwrap_err().record();
        assert_eq!(record.stage, Part::Parse, "{options}: {}", record.error);
        let words = format!("mount option {key:?} is not known");
        assert!(record.error.contains(&words), "{}", record.error);
        assert_eq!(room.output(), "");
    }
}

fn command() {
    let room = Room::new(&[]);
    let dockerfile = "FROM busybox AS b\nRUN echo ok > /ok\n\nRUN echo out; echo why >&2; exit 7\n";
    let error = room.build(dockerfile).unwrap_err();
    let record = error.record();
    assert_eq!((record.stage, record.recoverable), (Part::Build, false));
    let mut logs = record.logs.clone();
    logs.sort();
    assert_eq!(logs, ["out", "why"]);
    let told = &record.error;
    assert!(told.starts_with("Dockerfile:4:1: RUN echo out"), "{told}");
    assert!(told.contains("exit code 7"), "{told}");
    let BuildError::Step {
        place,
        source: StepError::Command { code, .. },
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((place.stage.as_str(), code), ("b", 7));
    assert_eq!(room.staged(), 0);
    let fixed = room.build(&dockerfile.replace("exit 7", "true")).unwrap();
    assert_eq!(fixed.cached, 1);
}

fn cancelled() {
    let mut room = Room::new(&[]);
    room.cancel_at = Some("started".to_owned());
    let error = room
        .build("FROM busybox\nRUN echo started; sleep 100\n")
        .unwrap_err();
    assert!(matches!(error, BuildError::Cancelled(_)), "{error:?}");
    assert_eq!(room.staged(), 0);
}

fn timeout() {
    let room = Room::new(&[]);
    let mut request = room.request("FROM busybox\nRUN sleep 100\n");
    request.timeout = Some(std::time::Duration::from_secs(1));
    let error = room.run(&request).unwrap_err();
    assert!(matches!(error, BuildError::TimedOut { .. }), "{error:?}");
    assert_eq!(room.staged(), 0);
}

fn missing() {
    let room = Room::new(&[]);
    for (dockerfile, want) in [
        (
            "FROM nowhere\n",
            "cannot have image docker.io/library/nowhere:latest",
        ),
        (
            "FROM busybox\nCOPY nope /x\n",
            "\"nope\" matches nothing in the build context",
        ),
        ("FROM busybox\nUSER ghost\nRUN true\n", "no user \"ghost\""),
        (
            "FROM busybox\nCOPY --chown=ghost . /x\n",
            "no user \"ghost\"",
        ),
        ("FROM busybox\nRUN nosuchprogram\n", "exit code 127"),
        (
            "FROM busybox\nWORKDIR /etc/passwd/x\n",
            "cannot make the folder",
        ),
    ] {
        let error = room.build(dockerfile).unwrap_err().record().error;
        assert!(error.contains(want), "{error}");
    }
    let mut request = room.request("FROM busybox AS a\n");
    request.target = Some("z".to_owned());
    let error = room.run(&request).unwrap_err().record().error;
    assert_eq!(error, "there is no stage \"z\", only a");
    assert_eq!(room.staged(), 0);
}

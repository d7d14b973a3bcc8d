//! What cannot be built: told with its place, and nothing left behind.

use std::time::Duration;

use builder::error::{BuildError, Part, StepError};
use builder::excerpt::excerpt;
use builder::request::{BuildRequest, DockerfileSource};
use builder::source::Source;
use libtest_mimic::Trial;
use unpacker::progress::Event;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("unsupported_is_refused_before_anything_runs", refusals),
        trial("options_of_mounts_are_known_ones", mount_options),
        trial("a_failing_command", command),
        trial("a_cancelled_command", cancelled),
        trial("a_timeout", timeout),
        trial(
            "a_timeout_bounds_waiting_for_an_equal_step",
            timeout_waiting,
        ),
        trial("a_timeout_bounds_waiting_for_a_cache", timeout_cache),
        trial("a_timeout_bounds_downloads", timeout_download),
        trial("a_cancelled_download", cancelled_download),
        trial("what_is_told_is_of_the_file_that_was_read", read_once),
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
        ("VOLUME $nothing", "expands to nothing"),
        ("STOPSIGNAL NOSUCH", "is no signal"),
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
    request.timeout = Some(Duration::from_secs(1));
    let error = room.run(&request).unwrap_err();
    assert!(matches!(error, BuildError::TimedOut { .. }), "{error:?}");
    assert_eq!(room.staged(), 0);
}

fn timed_out(room: &Room, dockerfile: &str) {
    let mut request = room.request(dockerfile);
    request.timeout = Some(Duration::from_secs(1));
    let error = room.run(&request).unwrap_err();
    assert!(
        matches!(error, BuildError::TimedOut { seconds: 1 }),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "still building after 1 s");
}

/// The step is another build's, which does not end.
fn timeout_waiting() {
    let mut first = Room::new(&[]);
    let second = first.beside();
    let (told, tells) = std::sync::mpsc::channel();
    first.on_event = Some(Box::new(move |event| {
        if let Event::Output { text, .. } = event
            && text.contains("first")
        {
            told.send(()).unwrap();
        }
    }));
    let dockerfile = "FROM busybox\nRUN echo first; sleep 1000\n";
    let mut request = first.request(dockerfile);
    // A test that fails does not wait for it.
    request.timeout = Some(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let one = scope.spawn(|| first.run(&request).unwrap_err());
        tells.recv_timeout(Duration::from_secs(60)).unwrap();
        timed_out(&second, dockerfile);
        assert!(second.lines().iter().any(|line| line.contains("waiting")));
        assert!(!one.is_finished());
        first.cancel.cancel();
        assert!(matches!(one.join().unwrap(), BuildError::Cancelled(_)));
    });
}

fn timeout_cache() {
    let room = Room::new(&[]);
    let mount = "--mount=type=cache,sharing=locked,id=m,target=/m";
    room.build(&format!("FROM busybox\nRUN {mount} true\n"))
        .unwrap();
    let caches = std::fs::read_dir(room.dir.path().join("cache/mounts")).unwrap();
    let mut caches = caches.map(|entry| entry.unwrap().path());
    let lock = caches.find(|path| path.extension().is_some_and(|e| e == "lock"));
    let held = std::fs::File::open(lock.unwrap()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    timed_out(&room, &format!("FROM busybox\nRUN {mount} echo other\n"));
    assert_eq!((room.output(), room.staged()), (String::new(), 0));
}

fn timeout_download() {
    let mut room = Room::new(&[]);
    room.silent = true;
    timed_out(&room, "FROM scratch\nADD http://e.org/f /\n");
    assert_eq!(room.staged(), 0);
}

fn cancelled_download() {
    let mut room = Room::new(&[]);
    room.silent = true;
    std::thread::scope(|scope| {
        let build = scope.spawn(|| {
            room.build("FROM scratch\nADD http://e.org/f /\n")
                .unwrap_err()
        });
        room.cancel.cancel();
        assert!(matches!(build.join().unwrap(), BuildError::Cancelled(_)));
    });
}

/// Somebody saves another Dockerfile while the build goes on.
fn read_once() {
    let mut room = Room::new(&[("Dockerfile", "FROM busybox\nRUN false # was built\n")]);
    let path = room.context().join("Dockerfile");
    room.when_begun("RUN", move || {
        std::fs::write(&path, "FROM busybox\nRUN true # was not\n").unwrap();
    });
    let request = BuildRequest {
        dockerfile: DockerfileSource::Path("Dockerfile".into()),
        ..room.request("")
    };
    let source = Source::read(&request).unwrap();
    let error = room.run_from(&request, &source).unwrap_err();
    let told = excerpt(&source, &error).unwrap();
    assert!(told.contains(">>> RUN false # was built"), "{told}");
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

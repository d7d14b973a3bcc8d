//! Stages as a graph: what runs side by side, what never runs, and what a failure does to the rest.

use std::fs;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use builder::error::BuildError;
use builder::request::BuildRequest;
use libtest_mimic::Trial;
use unpacker::progress::Event;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("independent_stages_run_side_by_side", side_by_side),
        trial("a_stage_runs_until_it_needs_another", until_needed),
        trial("one_worker_builds_the_same", one_worker),
        trial("stages_that_nothing_needs_never_run", unneeded),
        trial("a_failure_ends_the_others_and_is_what_is_told", failure),
        trial("cancelling_ends_every_stage", cancelled),
        trial("equal_steps_of_two_stages_run_once", equal),
        trial("a_cancelled_build_leaves_its_step_to_who_waits", taken_over),
        trial("steps_never_wait_for_each_others_caches", locked_caches),
        trial("who_stops_waiting_disturbs_nobody", waiter_goes),
        trial("layers_are_packed_while_later_steps_run", packed_ahead),
        trial("containers_need_not_wait_for_layers", ready),
    ]
}

/// Waits in the cache folder `m` for a word of the other stage.
fn meets(own: &str, other: &str) -> String {
    format!(
        "RUN --mount=type=cache,id=m,target=/m touch /m/{own}; \
         until test -e /m/{other}; do sleep 0.01; done; echo {own} met; echo {own} > /{own}"
    )
}

fn two(room: &Room, dockerfile: &str) -> BuildRequest {
    let mut request = room.request(dockerfile);
    request.parallel = NonZeroUsize::new(2).unwrap();
    // A build that never ends fails instead.
    request.timeout = Some(Duration::from_secs(60));
    request
}

fn side_by_side() {
    let room = Room::new(&[]);
    let dockerfile = format!(
        "FROM busybox AS a\n{}\nFROM busybox AS b\n{}\nFROM scratch\n\
         COPY --from=a /a /\nCOPY --from=b /b /\n",
        meets("a", "b"),
        meets("b", "a")
    );
    let built = room.run(&two(&room, &dockerfile)).unwrap();
    let tree = room.tree_of(&built);
    assert_eq!(
        (tree.read("a"), tree.read("b")),
        ("a\n".into(), "b\n".into())
    );
    let output = room.output();
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a met", "b met"]);
}

/// What stands before a COPY --from goes on while that stage is still being built.
fn until_needed() {
    let room = Room::new(&[]);
    let dockerfile = format!(
        "FROM busybox AS a\n{}\nFROM busybox\n{}\nCOPY --from=a /a /\n",
        meets("a", "b"),
        meets("b", "a")
    );
    let built = room.run(&two(&room, &dockerfile)).unwrap();
    let tree = room.tree_of(&built);
    assert!(tree.has("a") && tree.has("b"));
}

fn one_worker() {
    let dockerfile = "FROM busybox AS a\nRUN echo a > /a\nFROM busybox AS b\nRUN echo b > /b\n\
         FROM a\nRUN --mount=from=b,target=/other cat /other/b > /c\nCOPY --from=b /b /\n";
    let built = |parallel| {
        let room = Room::new(&[]);
        let mut request = room.request(dockerfile);
        request.parallel = NonZeroUsize::new(parallel).unwrap();
        request.source_date_epoch = Some(1_700_000_000);
        let built = room.run(&request).unwrap();
        assert_eq!(room.tree_of(&built).read("c"), "b\n");
        (built.digest, room.lines())
    };
    let ((one, lines), (four, _)) = (built(1), built(4));
    assert_eq!(one, four);
    let numbers: Vec<&str> = lines.iter().filter_map(|l| l.split(':').next()).collect();
    let expected: Vec<String> = (1..=7).map(|n| format!("Step {n}/7")).collect();
    assert_eq!(numbers.get(..7).unwrap(), expected);
}

fn unneeded() {
    let room = Room::new(&[]);
    let dockerfile = "FROM busybox AS a\nRUN false\nFROM no-such-image AS b\n\
         FROM busybox AS c\nRUN echo c\nFROM a\n";
    let mut request = room.request(dockerfile);
    request.target = Some("c".to_owned());
    let built = room.run(&request).unwrap();
    assert_eq!((built.steps, room.output()), (2, "c\n".to_owned()));
}

fn failure() {
    let room = Room::new(&[]);
    // The second would sleep for longer than the test may take.
    let dockerfile = "FROM busybox AS a\n\
         RUN --mount=type=cache,id=m,target=/m until test -e /m/b; do sleep 0.01; done; echo no; exit 7\n\
         FROM busybox AS b\n\
         RUN --mount=type=cache,id=m,target=/m touch /m/b; sleep 1000\n\
         FROM busybox\nCOPY --from=a / /\nCOPY --from=b / /\n";
    let error = room.run(&two(&room, dockerfile)).unwrap_err();
    assert_eq!(error.tail(), ["no"]);
    assert_eq!(error.place().unwrap().stage, "a");
    assert_eq!(room.staged(), 0, "what was begun is gone");
}

fn cancelled() {
    let mut room = Room::new(&[]);
    room.cancel_at = Some("b met".to_owned());
    let dockerfile = format!(
        "FROM busybox AS a\n{}\nRUN sleep 1000\nFROM busybox AS b\n{}; sleep 1000\n\
         FROM busybox\nCOPY --from=a / /\nCOPY --from=b / /\n",
        meets("a", "b"),
        meets("b", "a")
    );
    let error = room.run(&two(&room, &dockerfile)).unwrap_err();
    assert!(matches!(error, BuildError::Cancelled(_)), "{error:?}");
    assert_eq!(room.staged(), 0);
}

fn equal() {
    let room = Room::new(&[]);
    let dockerfile = "FROM busybox AS a\nRUN sleep 0.3; echo ran; touch /x\n\
         FROM busybox AS b\nRUN sleep 0.3; echo ran; touch /x\n\
         FROM scratch\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n";
    let built = room.run(&two(&room, dockerfile)).unwrap();
    let output = room.output();
    assert_eq!(output.matches("ran").count(), 1, "{output}");
    assert_eq!(built.cached, 1);
}

/// Two builds at one step: the first is cancelled while the second waits, which then does it.
fn taken_over() {
    let first = Room::new(&[]);
    let second = first.beside();
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,id=m,target=/m \
         if mkdir /m/once; then echo first; sleep 1000; fi; echo done > /x\n";
    let (error, built) = std::thread::scope(|scope| {
        let one = scope.spawn(|| first.run(&two(&first, dockerfile)).unwrap_err());
        eventually(|| first.output().contains("first"));
        let two = scope.spawn(|| second.run(&two(&second, dockerfile)).unwrap());
        eventually(|| second.lines().iter().any(|line| line.contains("waiting")));
        first.cancel.cancel();
        (one.join().unwrap(), two.join().unwrap())
    });
    assert!(matches!(error, BuildError::Cancelled(_)), "{error:?}");
    assert_eq!(second.tree_of(&built).read("x"), "done\n");
}

/// Two builds at one step: the second is cancelled while it waits, and the first is not disturbed.
fn waiter_goes() {
    let first = Room::new(&[]);
    let second = first.beside();
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,id=m,target=/m echo first; \
         until test -e /m/go; do sleep 0.01; done; echo done > /x\n";
    let (built, error) = std::thread::scope(|scope| {
        let one = scope.spawn(|| first.run(&two(&first, dockerfile)).unwrap());
        eventually(|| first.output().contains("first"));
        let two = scope.spawn(|| second.run(&two(&second, dockerfile)).unwrap_err());
        eventually(|| second.lines().iter().any(|line| line.contains("waiting")));
        second.cancel.cancel();
        let error = two.join().unwrap();
        let mount = fs::read_dir(first.dir.path().join("cache/mounts"));
        let folders = mount.unwrap().map(|entry| entry.unwrap().path());
        for folder in folders.filter(|path| path.is_dir()) {
            fs::write(folder.join("go"), "").unwrap();
        }
        (one.join().unwrap(), error)
    });
    assert!(matches!(error, BuildError::Cancelled(_)), "{error:?}");
    assert_eq!(first.tree_of(&built).read("x"), "done\n");
    assert_eq!(first.output(), "first\n");
}

/// Two steps that want the same two caches for themselves, in two orders; one twice.
fn locked_caches() {
    let room = Room::new(&[]);
    let mount = |id, n| format!("--mount=type=cache,sharing=locked,id={id},target=/{id}{n}");
    let (x, y, z) = (mount("x", 1), mount("y", 1), mount("x", 2));
    let dockerfile = format!(
        "FROM busybox AS a\nRUN {x} {y} {z} test -d /x2; echo a > /a\n\
         FROM busybox AS b\nRUN {y} {x} echo b > /b\n\
         FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    );
    for _ in 0..5 {
        let mut request = two(&room, &dockerfile);
        request.no_cache = true;
        room.run(&request).unwrap();
    }
}

fn eventually(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn packed_ahead() {
    let mut room = Room::new(&[("a", "one"), ("b", "two")]);
    let (layers, seen) = (
        room.dir.path().join("cache/layers"),
        Arc::new(AtomicBool::new(false)),
    );
    let told = Arc::clone(&seen);
    room.on_event = Some(Box::new(move |event| {
        if !matches!(event, Event::Output { text, .. } if text.contains("now")) {
            return;
        }
        // The command's end is not told before this returns.
        let begun = Instant::now();
        let packed = || fs::read_dir(&layers).is_ok_and(|entries| entries.count() > 0);
        while !packed() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        told.store(packed(), Ordering::SeqCst);
    }));
    let built = room.build(
        "FROM busybox AS other\nCOPY b /b\nFROM busybox\nCOPY a /a\nRUN echo now > /c; echo now\n",
    );
    assert!(seen.load(Ordering::SeqCst), "nothing was packed");
    let tree = room.tree_of(&built.unwrap());
    assert_eq!(
        (tree.read("a"), tree.read("c")),
        ("one".into(), "now\n".into())
    );
}

fn ready() {
    let room = Room::new(&[("a", "one")]);
    let first = room
        .build("FROM busybox\nCOPY a /a\nRUN echo b > /b\n")
        .unwrap();
    let second = room.build("FROM busybox\nCOPY a /a\n").unwrap();
    assert_eq!(*room.ready.lock().unwrap(), [first.stack, second.stack]);
    room.build("FROM busybox\nRUN false\n").unwrap_err();
    assert_eq!(
        room.ready.lock().unwrap().len(),
        2,
        "what failed is not ready"
    );
}

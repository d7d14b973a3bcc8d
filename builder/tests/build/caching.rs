//! The step cache: what is reused, and what is not.

use std::fs;
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_second_build_runs_nothing", second),
        trial("content_counts_and_times_do_not", content),
        trial("a_rebuilt_stage_with_equal_files_hits", stage),
        trial("a_rebuilt_stage_that_is_mounted_hits", bound),
        trial("a_cache_that_a_stage_fills_hits", seeded),
        trial("no_cache_runs_again", no_cache),
        trial("no_cache_of_one_stage", no_cache_of_a_stage),
        trial("damage_is_a_miss", damage),
        trial("a_built_image_is_unpacked_already", unpacked),
        trial("two_builds_share_a_step", together),
    ]
}

const DOCKERFILE: &str = "FROM busybox
COPY a /a
RUN echo ran; cat /a > /b
COPY z /z
WORKDIR /w
";

fn room() -> Room {
    Room::new(&[("a", "one"), ("z", "zed")])
}

fn second() {
    let room = room();
    let first = room.build(DOCKERFILE).unwrap();
    assert_eq!((first.cached, first.steps), (0, 5));
    assert_eq!(room.output(), "ran\n");
    let second = room.build(DOCKERFILE).unwrap();
    assert_eq!(second.cached, 4);
    assert_eq!(room.output(), "");
    assert_eq!(second.digest, first.digest);
    assert_eq!(room.lines()[1], "Step 2/5: COPY a /a (cached)");
}

fn content() {
    let room = room();
    let first = room.build(DOCKERFILE).unwrap();
    let later = SystemTime::now() + Duration::from_secs(100);
    let touch = |name: &str| {
        let file = fs::File::options()
            .write(true)
            .open(room.context().join(name));
        file.unwrap().set_modified(later).unwrap();
    };
    touch("a");
    let touched = room.build(DOCKERFILE).unwrap();
    assert_eq!((touched.cached, &touched.digest), (4, &first.digest));
    room.write("z", "changed");
    touch("z");
    let changed = room.build(DOCKERFILE).unwrap();
    assert_eq!(
        changed.cached, 2,
        "a changed step and what follows run again"
    );
    assert_eq!(room.tree_of(&changed).read("z"), "changed");
    room.write("unrelated", "x");
    assert_eq!(room.build(DOCKERFILE).unwrap().cached, 4);
    // Same size, same mtime.
    room.write("z", "CHANGED");
    touch("z");
    assert_eq!(room.build(DOCKERFILE).unwrap().cached, 2);
    // Settings are no reason to run anything.
    let settings = DOCKERFILE.replace("COPY a /a", "LABEL l=1\nCMD x\nCOPY a /a");
    assert_eq!(room.build(&settings).unwrap().cached, 4);
}

fn stage() {
    let room = room();
    let dockerfile = |word: &str| {
        format!(
            "FROM busybox AS s\nRUN echo {word}; echo out > /out\nFROM busybox\n\
             COPY --from=s /out /out\nRUN echo again\n"
        )
    };
    room.build(&dockerfile("one")).unwrap();
    let rebuilt = room.build(&dockerfile("two")).unwrap();
    assert_eq!(rebuilt.cached, 2);
    assert_eq!(room.output(), "two\n");
}

/// A command that sees a stage: by the stage's identity where that is known, by its files where not.
fn bound() {
    let room = room();
    let dockerfile = |word: &str| {
        format!(
            "FROM busybox AS s\nRUN echo {word}; echo out > /out; echo {word} > /other\n\
             FROM busybox\nRUN --mount=from=s,source=/out,target=/in cat /in; echo ran\n"
        )
    };
    room.build(&dockerfile("one")).unwrap();
    assert_eq!(room.build(&dockerfile("one")).unwrap().cached, 2);
    let entries = || {
        fs::read_dir(room.dir.path().join("cache/steps"))
            .unwrap()
            .count()
    };
    assert_eq!(entries(), 3, "the command has two keys");
    let rebuilt = room.build(&dockerfile("two")).unwrap();
    assert_eq!((rebuilt.cached, room.output()), (1, "two\n".to_owned()));
}

fn seeded() {
    let room = room();
    let dockerfile = "FROM busybox AS s\nRUN mkdir /d; echo out > /d/out\nFROM busybox\n\
         RUN --mount=type=cache,from=s,source=/d,target=/c cat /c/out\nRUN echo after\n";
    room.build(dockerfile).unwrap();
    for _ in 0..2 {
        assert_eq!(room.build(dockerfile).unwrap().cached, 3);
    }
}

fn no_cache() {
    let room = room();
    room.build(DOCKERFILE).unwrap();
    let mut request = room.request(DOCKERFILE);
    request.no_cache = true;
    let again = room.run(&request).unwrap();
    assert_eq!(again.cached, 0);
    assert_eq!(room.output(), "ran\n");
    assert_eq!(room.tree_of(&again).read("b"), "one");
    let after = room.build(DOCKERFILE).unwrap();
    assert_eq!((after.cached, after.digest), (4, again.digest));
}

fn no_cache_of_a_stage() {
    let room = room();
    let dockerfile = "FROM busybox AS One\nRUN echo one; echo 1 > /1\nFROM busybox AS two\n\
         RUN echo two; echo 2 > /2\nFROM busybox\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n";
    room.build(dockerfile).unwrap();
    let mut request = room.request(dockerfile);
    request.no_cache_filter = vec!["one".to_owned()];
    let again = room.run(&request).unwrap();
    // Its files are the same, so what reads them is known.
    assert_eq!((again.cached, room.output()), (3, "one\n".to_owned()));
    request.no_cache_filter = vec!["three".to_owned()];
    let error = room.run(&request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no stage \"three\", only one, two, 2"
    );
}

fn damage() {
    let room = room();
    let first = room.build(DOCKERFILE).unwrap();
    for folder in ["steps", "layers", "files"] {
        let folder = room.dir.path().join("cache").join(folder);
        for entry in fs::read_dir(folder).into_iter().flatten() {
            fs::write(entry.unwrap().path(), "{damaged").unwrap();
        }
    }
    let second = room.build(DOCKERFILE).unwrap();
    assert_eq!(second.cached, 0);
    let (first, second) = (room.tree_of(&first), room.tree_of(&second));
    assert_eq!(second.list(""), first.list(""));
}

fn unpacked() {
    let room = room();
    let built = room.build(DOCKERFILE).unwrap();
    let count = || {
        fs::read_dir(room.dir.path().join("snapshots"))
            .unwrap()
            .count()
    };
    let before = count();
    let child = room.build("FROM localhost:5000/result\n").unwrap();
    assert_eq!(child.stack.len(), built.stack.len());
    assert_eq!(count(), before, "nothing was unpacked or made");
    room.build("FROM localhost:5000/result\nRUN cat /z\n")
        .unwrap();
    assert_eq!(room.output(), "zed");
}

fn together() {
    let room = room();
    let dockerfile = DOCKERFILE.replace("echo ran", "sleep 1; echo ran");
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| room.build(&dockerfile).unwrap());
        let two = scope.spawn(|| room.build(&dockerfile).unwrap());
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one.config.rootfs, two.config.rootfs);
    assert_eq!(room.output(), "ran\n", "the second waits for the first");
    assert_eq!(one.cached + two.cached, 4);
}

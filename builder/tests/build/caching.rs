//! The step cache: what is reused, and what is not.

use std::fs;
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use serde_json::Value;

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
        trial("what_stands_on_a_lost_result_is_made_again", lost),
        trial("what_read_a_lost_stage_is_read_again", lost_stage),
        trial("a_linked_copy_stands_on_nothing", linked),
        trial("a_built_image_is_unpacked_already", unpacked),
        trial("two_builds_share_a_step", together),
        trial("what_changes_while_it_is_copied_is_not_remembered", changed),
        trial(
            "what_changes_before_it_is_mounted_is_not_remembered",
            changed_bind,
        ),
        trial("a_touch_while_it_is_copied_changes_nothing", touched),
        trial("an_epoch_on_a_warm_cache_is_the_cold_one", epoch),
        trial("an_epoch_is_every_time_of_what_steps_made", old_times),
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

/// Forgets the one result that this instruction made, and its files.
fn lose(room: &Room, instruction: &str) {
    let steps = fs::read_dir(room.dir.path().join("cache/steps")).unwrap();
    let mut lost = Vec::new();
    for path in steps.map(|entry| entry.unwrap().path()) {
        let step: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let outcome = &step["outcome"];
        let made_by = outcome["made_by"].as_str().unwrap_or_default();
        if made_by.starts_with(instruction) {
            let snapshot = outcome["snapshot"].as_str().unwrap().to_owned();
            fs::remove_dir_all(room.dir.path().join("snapshots").join(&snapshot)).unwrap();
            fs::remove_file(path).unwrap();
            lost.push(snapshot);
        }
    }
    assert_eq!(lost.len(), 1, "{instruction}");
}

/// Never the same again.
const RANDOM: &str = "cat /proc/sys/kernel/random/uuid";

fn lost() {
    let room = room();
    let dockerfile = format!(
        "FROM busybox AS s\nRUN {RANDOM} > /a\nRUN true\nRUN cp /a /b\nCOPY a /c\nWORKDIR /d\n\
         FROM s\nRUN cp /b /e\n"
    );
    let built = |cached: usize| {
        let built = room.build(&dockerfile).unwrap();
        assert_eq!(built.cached, cached);
        let tree = room.tree_of(&built);
        let number = tree.read("a");
        assert_eq!((&tree.read("b"), &tree.read("e")), (&number, &number));
        number
    };
    let first = built(0);
    assert_eq!(built(6), first);
    lose(&room, "RUN cat");
    let second = built(0);
    assert_ne!(second, first);
    assert_eq!(built(6), second);
    lose(&room, "RUN cp /a");
    // As good as new, and yet another run.
    assert_eq!(built(2), second);
    assert_eq!(built(6), second);
}

fn lost_stage() {
    let room = room();
    let dockerfile = format!(
        "FROM busybox AS s\nRUN {RANDOM} > /a; echo same > /same\nFROM busybox\n\
         COPY --from=s /same /same\nCOPY --from=s /a /b\n\
         RUN --mount=from=s,target=/s cp /s/a /c\n"
    );
    let built = |cached: usize| {
        let built = room.build(&dockerfile).unwrap();
        assert_eq!(built.cached, cached);
        let tree = room.tree_of(&built);
        assert_eq!(tree.read("b"), tree.read("c"));
        tree.read("b")
    };
    let first = built(0);
    assert_eq!(built(4), first);
    lose(&room, "RUN cat");
    // The first copy has the same bytes to copy.
    let second = built(1);
    assert_ne!(second, first);
    assert_eq!(built(4), second);
}

fn linked() {
    let room = room();
    let dockerfile = |chown: &str| {
        format!(
            "FROM busybox\nRUN {RANDOM} > /a\nCOPY --link {chown} z /l/z\nRUN cat /a /l/z > /b\n"
        )
    };
    for (chown, cached) in [("", 1), ("--chown=7:8", 1), ("--chown=app", 0)] {
        let dockerfile = dockerfile(chown);
        room.build(&dockerfile).unwrap();
        assert_eq!(room.build(&dockerfile).unwrap().cached, 3);
        lose(&room, "RUN cat /proc");
        let built = room.build(&dockerfile).unwrap();
        assert_eq!(built.cached, cached, "{chown}");
        let tree = room.tree_of(&built);
        assert_eq!(tree.read("b"), format!("{}zed", tree.read("a")));
    }
    // The root directory is that of the layers below.
    let dockerfile = "FROM busybox\nRUN chmod 700 /; echo > /a\nCOPY --link z /z\n";
    room.build(dockerfile).unwrap();
    lose(&room, "RUN chmod");
    assert_eq!(room.build(dockerfile).unwrap().cached, 0);
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

/// Writes a file of the context when a step begins, which is after its key was computed.
fn rewritten(room: &mut Room, step: &'static str, name: &'static str, text: &'static str) {
    let path = room.context().join(name);
    room.when_begun(step, move || fs::write(&path, text).unwrap());
}

/// A file whose time `stat` may rely on.
fn settle(room: &Room, name: &str) {
    let file = fs::File::open(room.context().join(name)).unwrap();
    let written = || file.metadata().unwrap();
    use std::os::unix::fs::MetadataExt;
    let age = |found: &fs::Metadata| {
        let changed = Duration::from_secs(found.ctime().unsigned_abs());
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed)
    };
    while age(&written()).is_ok_and(|age| age < Duration::from_secs(4)) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn changed() {
    for settled in [false, true] {
        let mut room = Room::new(&[("d/f", "old"), ("d/g", "g"), ("s", "s")]);
        if settled {
            settle(&room, "d/f");
        }
        let dockerfile = "FROM busybox\nCOPY d /d\nRUN cat /d/f > /seen\nCOPY s /s\n";
        rewritten(&mut room, "COPY d", "d/f", "new");
        let built = room.build(dockerfile).unwrap();
        let tree = room.tree_of(&built);
        assert_eq!(
            (tree.read("d/f"), tree.read("seen")),
            ("new".into(), "new".into())
        );
        let told = room.warnings().join("\n");
        assert!(
            told.contains("Dockerfile:2:1: COPY d /d: d/f changed while"),
            "{told}"
        );
        room.on_event = None;
        // Neither the bytes of the key nor those that were copied hit.
        room.write("d/f", "old");
        let old = room.build(dockerfile).unwrap();
        assert_eq!(room.tree_of(&old).read("seen"), "old");
        assert_eq!(room.warnings(), [""; 0]);
        room.write("d/f", "new");
        let new = room.build(dockerfile).unwrap();
        assert_eq!(
            (new.cached, room.tree_of(&new).read("seen")),
            (0, "new".into())
        );
        assert_eq!(room.build(dockerfile).unwrap().cached, 3);
    }
}

fn changed_bind() {
    let mut room = Room::new(&[("f", "old")]);
    let dockerfile = "FROM busybox\nRUN --mount=source=f,target=/f cat /f > /seen\n";
    rewritten(&mut room, "RUN", "f", "new");
    let built = room.build(dockerfile).unwrap();
    assert_eq!(room.tree_of(&built).read("seen"), "new");
    let told = room.warnings().join("\n");
    assert!(
        told.contains("f changed while the step read the build context"),
        "{told}"
    );
    room.on_event = None;
    room.write("f", "old");
    let old = room.build(dockerfile).unwrap();
    assert_eq!(
        (old.cached, room.tree_of(&old).read("seen")),
        (0, "old".into())
    );
}

/// The same bytes again are no change, whatever `stat` says.
fn touched() {
    let mut room = Room::new(&[("f", "same")]);
    let dockerfile = "FROM busybox\nCOPY f /f\n";
    rewritten(&mut room, "COPY", "f", "same");
    room.build(dockerfile).unwrap();
    assert_eq!(room.warnings(), [""; 0]);
    assert_eq!(room.build(dockerfile).unwrap().cached, 1);
}

/// Files of a step, of a context and of the Dockerfile itself, copied on with their times.
const TIMES: &str = "FROM busybox AS a
COPY f /f
RUN echo made > /made; cp -a /f /kept; mkdir /d; ln -s x /d/l
FROM busybox
COPY --from=a /made /kept /d /from/
RUN cp -a /from/made /again
COPY <<here /here
text
here
WORKDIR /w
";

fn epoch() {
    let date = |room: &Room, seconds: u64| {
        let file = fs::File::options()
            .write(true)
            .open(room.context().join("f"));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        file.unwrap().set_modified(time).unwrap();
    };
    let built = |room: &Room, epoch: Option<i64>| {
        let mut request = room.request(TIMES);
        request.source_date_epoch = epoch;
        let built = room.run(&request).unwrap();
        (built.digest, built.cached)
    };
    let warm = Room::new(&[("f", "f")]);
    date(&warm, 1_000_000_000);
    assert_eq!(built(&warm, None).1, 0);
    // Before, between and after the times of the context and of the commands.
    for epoch in [500_000_000, 1_600_000_000, 4_000_000_000] {
        let cold = Room::new(&[("f", "f")]);
        date(&cold, 1_500_000_000);
        let (of_warm, of_cold) = (built(&warm, Some(epoch)), built(&cold, Some(epoch)));
        assert_eq!((of_warm.1, of_cold.1), (6, 0));
        assert_eq!(of_warm.0, of_cold.0, "{epoch}");
    }
}

/// Times that are older than the build, by every way that they come into a layer.
const OLD_TIMES: &str = "FROM busybox AS a
RUN mkdir /t; echo in > /t/in; touch -d @987654321 /t/in; touch -d @3000000000 /t/later
RUN mkdir /x; busybox tar c -C /t . | busybox tar x -C /x; cp -a /t/in /x/kept
ADD a.tar /added/
FROM busybox AS b
COPY --from=a /x /from-a/
FROM busybox
COPY --from=b /from-a /from-b/
COPY --from=a /added/old /old
RUN --mount=from=a,target=/a cp -a /a/t/in /bound; mv /from-b/in /moved; chmod 700 /old /bin/busybox
";

fn old_times() {
    let room = || {
        let room = Room::new(&[]);
        let tar = super::copying::tar(&[("old", "old", None)]);
        fs::write(room.context().join("a.tar"), tar).unwrap();
        room
    };
    let built = |room: &Room, epoch: i64| {
        let mut request = room.request(OLD_TIMES);
        request.source_date_epoch = Some(epoch);
        room.run(&request).unwrap()
    };
    let warm = room();
    warm.build(OLD_TIMES).unwrap();
    for epoch in [500_000_000, 1_600_000_000, 4_000_000_000] {
        let cold = room();
        let (of_warm, of_cold) = (built(&warm, epoch), built(&cold, epoch));
        assert_eq!((of_warm.cached, of_cold.cached), (7, 0));
        assert_eq!(of_warm.digest, of_cold.digest, "{epoch}");
        let tree = cold.tree_of(&of_cold);
        let made = [
            "from-b/kept",
            "from-b/later",
            "old",
            "bound",
            "moved",
            "bin/busybox",
        ];
        let time = |name: &str| fs::metadata(tree.path(name)).unwrap().modified().unwrap();
        for name in made {
            let since = time(name).duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(since.as_secs(), epoch.unsigned_abs(), "{name}");
        }
    }
}

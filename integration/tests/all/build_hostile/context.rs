//! What lies in a context: links that lead out of it, files that are none, names, depths, changes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use integration::probe;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::Scene;

/// Only the test knows it, and it is in no context.
const SECRET: &str = "the-words-of-another-file";

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
}

#[test]
fn no_link_leads_out_of_a_context() {
    let Some(scene) = Scene::new() else { return };
    let outside = scene.folder.write("outside/secret", SECRET);
    let outside = outside.parent().unwrap().to_owned();
    let link = |to: &Path, name: &str| symlink(to, scene.folder.join("c").join(name)).unwrap();
    link(&outside.join("secret"), "file");
    link(&outside, "folder");
    link(Path::new("../outside/secret"), "up");
    link(Path::new("../../../../../../../../../../etc/passwd"), "far");
    link(Path::new("second"), "first");
    link(&outside.join("secret"), "second");
    link(Path::new("loop"), "loop");
    link(Path::new("/proc/self/root"), "magic");
    scene.folder.write("c/.dockerignore", "Dockerfile\n");
    for source in [
        "file",
        "folder",
        "folder/secret",
        "up",
        "far",
        "first",
        "loop",
        "magic/etc/passwd",
        "../outside/secret",
        "/../outside/secret",
        "./x/../../outside/secret",
    ] {
        for (steps, says) in [
            (format!("COPY {source} /x"), "COPY"),
            (format!("COPY --link {source} /x/"), "COPY --link"),
            (format!("COPY --parents {source} /x/"), "COPY --parents"),
            (format!("ADD {source} /x/"), "ADD"),
            (
                format!("RUN --mount=type=bind,source={source},target=/m cat /m /m/secret"),
                "RUN",
            ),
        ] {
            let ran = scene.build(&steps, &[]).failed(1).says(says);
            assert!(!format!("{ran}").contains(SECRET), "{ran}");
        }
    }
    // What a pattern finds below a link that leads out is nothing.
    scene.build("COPY fol*/sec* /x/", &[]).ok();
    assert_eq!(scene.sh("ls -a /x 2>/dev/null || echo none"), "none");
    // As part of a folder a link is a link, and leads to what the image has there.
    scene.build("COPY . /x/", &[]).ok();
    let said = scene.sh("ls -l /x/file /x/far; cat /x/file /x/folder/secret 2>&1; true");
    assert!(said.contains("-> ") && !said.contains(SECRET), "{said}");
    assert!(scene.sh("cat /x/far").contains("guest"), "the image's own");
    // A named context is a context, too.
    let lib = format!("lib={}", scene.context());
    let ran = scene.build("COPY --from=lib file /x", &["--build-context", &lib]);
    assert!(!ran.clone().failed(1).stderr.contains(SECRET), "{ran}");
    scene.is_at_rest();
}

#[test]
fn a_dockerfile_and_an_ignore_file_are_the_contexts_own() {
    let Some(scene) = Scene::new() else { return };
    let outside = scene.folder.write("outside", format!("{SECRET}\n"));
    let file = scene.folder.join("c/Dockerfile");
    symlink(&outside, &file).unwrap();
    let ran = scene.run(&[]).failed(2).says("Dockerfile");
    assert!(!format!("{ran}").contains(SECRET), "{ran}");
    let named = ["-f", file.to_str().unwrap()];
    let ran = scene.run(&named).failed(2);
    assert!(!format!("{ran}").contains(SECRET), "{ran}");
    // A link inside, and a file outside that the caller names, are as good as any.
    fs::remove_file(&file).unwrap();
    scene.folder.write("c/real", "FROM busybox:1\nCOPY x /x\n");
    scene.folder.write("c/x", "x");
    symlink("real", &file).unwrap();
    scene.run(&[]).ok();
    let own = scene.folder.write("own", "FROM busybox:1\nCOPY x /own\n");
    symlink(&own, scene.folder.join("to-own")).unwrap();
    let linked = scene.folder.join("to-own").display().to_string();
    scene.run(&["-f", &linked]).ok();
    assert_eq!(scene.sh("cat /own"), "x");
    // The ignore file beside a Dockerfile that leads out has nothing to say, nor shows anything.
    symlink(&outside, scene.folder.join("c/Dockerfile.dockerignore")).unwrap();
    scene.run(&["--no-cache"]).ok();
}

/// Devices cannot be made by everybody, and what they are does not matter here: nobody opens them.
#[test]
fn pipes_sockets_and_devices_are_copied_and_not_read() {
    if !probe::root() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let context = scene.folder.join("c");
    fifo(&context.join("pipe"));
    let _listener = UnixListener::bind(context.join("socket")).unwrap();
    for (name, kind, device) in [
        ("zero", FileType::CharacterDevice, makedev(1, 5)),
        ("disk", FileType::BlockDevice, makedev(7, 200)),
    ] {
        mknodat(
            CWD,
            context.join(name),
            kind,
            Mode::from_raw_mode(0o666),
            device,
        )
        .unwrap();
    }
    // BuildKit leaves an empty file in the place of a socket, and makes the others.
    scene.build("COPY . /x/", &[]).ok();
    let stat = "cd /x; stat -c '%n %F %s' disk pipe socket zero";
    let said = "disk block special file 0\npipe fifo 0\nsocket regular empty file 0\n\
                zero character special file 0";
    assert_eq!(scene.sh(stat), said);
    // No device of an image is one: it is of another user namespace.
    let read = "cat /x/zero 2>&1 || true";
    assert!(
        scene.sh(read).contains("Permission denied"),
        "{}",
        scene.sh(read)
    );
    for step in [
        "ADD pipe zero socket /y/",
        "COPY --parents ./pipe ./zero /y/",
        "RUN --mount=type=bind,target=/m ls /m/pipe && test -p /m/pipe",
        "RUN --mount=type=bind,source=pipe,target=/m test -p /m",
    ] {
        scene.build(step, &[]).ok();
    }
    let stages = "RUN mkdir /d && cd /d && busybox mkfifo p\nFROM busybox:1\nCOPY --from=0 /d /d\n";
    scene.build(stages, &[]).ok();
    assert_eq!(scene.sh("test -p /d/p && echo pipe"), "pipe");
    scene.is_at_rest();
}

#[test]
fn a_pipe_in_the_place_of_a_text_is_told_and_not_waited_for() {
    let Some(scene) = Scene::new() else { return };
    let context = scene.folder.join("c");
    fifo(&context.join("Dockerfile"));
    let says = "not a regular file";
    scene.run(&[]).failed(2).says(says);
    let named = context.join("Dockerfile").display().to_string();
    scene.run(&["-f", &named]).failed(2).says(says);
    scene.run(&["--check"]).failed(2).says(says);
    fs::remove_file(context.join("Dockerfile")).unwrap();
    for name in [".dockerignore", "Dockerfile.dockerignore"] {
        fifo(&context.join(name));
        scene.build("COPY . /x/", &[]).failed(1).says(says);
        fs::remove_file(context.join(name)).unwrap();
    }
    // One that the caller made is read by the command: `devpod build -f <(make-one) .`
    let text = "FROM busybox:1\nRUN echo piped > /said\n";
    let script = format!(
        "\"$0\" build -t made -f <(printf '{text}') '{}'",
        scene.context()
    );
    let mut bash = scene.appliance.place().command("bash");
    let program = scene.appliance.place().program();
    bash.arg("-c").arg(script).arg(program);
    integration::process::run_within(&mut bash, super::SOON).ok();
    assert_eq!(scene.sh("cat /said"), "piped");
    for device in ["/dev/zero", "/dev/null"] {
        scene.run(&["-f", device]).failed(2);
    }
    scene.is_at_rest();
}

#[test]
fn names_and_depths_that_no_tool_expects() {
    let Some(scene) = Scene::new() else { return };
    let context = scene.folder.join("c");
    let long = "n".repeat(255);
    let names: [&[u8]; 5] = [
        b"new\nline",
        b"not-\xff-utf8",
        b"-rf",
        b" \t\x1b[31m",
        long.as_bytes(),
    ];
    for name in names {
        fs::write(context.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let mut deep = context.join("deep");
    for _ in 0..999 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "bottom").unwrap();
    scene.build("COPY . /x/\nRUN true\n", &[]).ok();
    let said = scene
        .sh("cd /x; cat './-rf'; ls | wc -c; cd deep; while cd d 2>/dev/null; do :; done; cat f");
    // Every name with its end: what a shell lists is what was there.
    let bytes: usize = names.iter().map(|name| name.len() + 1).sum();
    let bytes = bytes + "Dockerfile\ndeep\n".len();
    assert_eq!(said, format!("x{bytes}\nbottom"));
    // Nothing changed, so nothing is done again; and it goes to a stage and out of it.
    let again = scene.build("COPY . /x/\nRUN true\n", &["--output", "json"]);
    assert_eq!(again.ok().json()["cached"], 2);
    scene
        .build("COPY . /x/\nFROM busybox:1\nCOPY --from=0 /x /y\n", &[])
        .ok();
    let listed = scene.sh("ls /y | wc -c");
    assert_eq!(listed, bytes.to_string());
}

/// Files that are rewritten, grow and go while they are copied: what comes of it is an image or an error
/// with the file's name, and the next build of a context that is still is right.
#[test]
fn a_context_that_moves_under_a_copy() {
    let Some(scene) = Scene::new() else { return };
    let context = scene.folder.join("c");
    for n in 0..300 {
        fs::write(context.join(format!("f{n}")), vec![b'a'; 20_000]).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, at) = (Arc::clone(&stop), context.clone());
    let mover = std::thread::spawn(move || {
        let mut n: usize = 0;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            let path = at.join(format!("f{}", n % 300));
            match n % 3 {
                0 => drop(fs::remove_file(&path)),
                1 => drop(fs::write(&path, vec![b'b'; n % 50_000])),
                _ => {
                    let grown = File::options().append(true).open(&path);
                    let _ = grown.and_then(|mut file| file.write_all(b"more"));
                }
            }
        }
    });
    for _ in 0..8 {
        let ran = scene.build("COPY . /x/", &["--no-cache"]);
        match ran.code {
            0 => {}
            1 => drop(ran.says("cannot read")),
            other => panic!("{other}: {ran}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    mover.join().unwrap();
    for n in 0..300 {
        fs::write(context.join(format!("f{n}")), format!("{n}\n")).unwrap();
    }
    scene.build("COPY . /x/", &[]).ok();
    let said =
        scene.sh("cd /x; for n in f*; do test \"f$(cat $n)\" = $n || echo $n; done; ls | wc -l");
    assert_eq!(said, "301");
    scene.is_at_rest();
}

//! `supervise`: sandboxes that outlive whoever starts them.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use unpacker::container::exit::Exit;
use unpacker::container::launch::{Launcher, Stage};
use unpacker::container::spec::{ContainerSpec, Process};
use unpacker::container::stream::{Frame, read, write};
use unpacker::container::supervise::{
    LogLine, LogOptions, State, SuperviseError, attach, exec, kill, logs, start, state, stop,
};
use unpacker::progress::Cancel;

use crate::fixture::{Room, process};

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 12] = [
        ("sandbox: start, state, stop", life),
        ("sandbox: refusals", refusals),
        ("sandbox: log", log),
        ("sandbox: exec", exec_runs),
        ("sandbox: exec with a terminal", exec_terminal),
        ("sandbox: exec is hung up", exec_hang_up),
        ("sandbox: a whole group is hung up", exec_group_hang_up),
        (
            "sandbox: a signal is for the whole group",
            exec_group_signal,
        ),
        ("sandbox: attach", attached),
        ("sandbox: terminal", terminal),
        ("sandbox: a killed monitor", monitor_killed),
        ("sandbox: much output both ways", much),
    ];
    tests
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .into()
}

/// A sandbox that ends with the test.
pub(crate) struct Sandbox {
    room: Room,
    pub(crate) dir: PathBuf,
}

impl Sandbox {
    fn start(script: &str) -> Self {
        Self::start_with(script, |_| {})
    }

    pub(crate) fn start_with(script: &str, change: impl FnOnce(&mut ContainerSpec)) -> Self {
        let room = Room::new();
        // Longer than a socket's address may be.
        let dir = room.path(&"x".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let mut spec = room.spec(script);
        spec.init = true;
        change(&mut spec);
        let state = start(&Launcher::this(), &dir, &spec).unwrap();
        assert!(matches!(state, State::Running { .. }));
        Self { room, dir }
    }

    fn exec(&self, script: &str) -> (Vec<u8>, Vec<u8>, Exit) {
        let stream = exec(&Launcher::this(), &self.dir, &process(script)).unwrap();
        collect(stream)
    }

    /// Whether a process with exactly these arguments runs in it.
    fn has_process(&self, args: &str) -> bool {
        let (seen, ..) = self.exec("busybox ps -o args");
        String::from_utf8(seen)
            .unwrap()
            .lines()
            .any(|line| line == args)
    }

    fn wait(&self) -> State {
        wait_until(|| {
            let state = state(&self.dir).unwrap();
            (!matches!(state, State::Running { .. })).then_some(state)
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = kill(&self.dir);
    }
}

/// A daemon that starts a sandbox and ends.
pub(crate) const LEAVE: &str = "--leave-a-sandbox";
/// A later one that finds it.
pub(crate) const FIND: &str = "--find-the-sandbox";

/// Plays one of the daemons; `false` when `step` is something else.
pub(crate) fn play(step: &str, sandboxes: &Path) -> bool {
    let dir = sandboxes.join("one");
    match step {
        LEAVE => {
            std::fs::create_dir(&dir).unwrap();
            let room = Room::new();
            let mut spec = room.spec("echo kept >/tmp/kept; exec sleep 1000");
            spec.init = true;
            start(&Launcher::this(), &dir, &spec).unwrap();
            // It is the sandbox's now.
            let _ = room.dir.keep();
        }
        FIND => {
            let before = state(&dir).unwrap();
            assert!(matches!(before, State::Running { .. }), "{before:?}");
            let stream = exec(&Launcher::this(), &dir, &process("cat /tmp/kept; id -u"));
            let (out, _, exit) = collect(stream.unwrap());
            assert_eq!((&*out, exit), (&b"kept\n0\n"[..], Exit::Code(0)));
            assert_eq!(kill(&dir).unwrap(), State::Exited(Exit::Signal(9)));
        }
        _ => return false,
    }
    true
}

fn wait_until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "waited too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn collect(mut stream: UnixStream) -> (Vec<u8>, Vec<u8>, Exit) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    loop {
        match read(&mut stream).unwrap() {
            Some(Frame::Stdout(bytes)) => out.extend(bytes),
            Some(Frame::Stderr(bytes)) => err.extend(bytes),
            Some(Frame::Exit(exit)) => return (out, err, exit),
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&out)),
        }
    }
}

fn read_until(stream: &mut UnixStream, text: &str) -> String {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut seen = String::new();
    while !seen.contains(text) {
        match read(stream).unwrap() {
            Some(Frame::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    seen
}

fn life() {
    let script = "trap 'exit 3' TERM; : >/dev/shm/ready; while :; do sleep 0.1; done";
    let sandbox = Sandbox::start(script);
    // A start is answered before the shell has read its script.
    wait_until(|| (sandbox.exec("test -e /dev/shm/ready").2 == Exit::Code(0)).then_some(()));
    let State::Running { pid } = state(&sandbox.dir).unwrap() else {
        panic!("not running");
    };
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    // A process that has nothing to do with who started it finds it too.
    assert!(
        Command::new("test")
            .arg("-e")
            .arg(format!("/proc/{pid}"))
            .status()
            .unwrap()
            .success()
    );
    let again = start(&Launcher::this(), &sandbox.dir, &sandbox.room.spec("true"));
    assert!(matches!(again, Err(SuperviseError::Running { .. })));
    let stopped = stop(&sandbox.dir, libc_sigterm(), Duration::from_secs(10)).unwrap();
    assert_eq!(stopped, State::Exited(Exit::Code(3)));
    assert_eq!(state(&sandbox.dir).unwrap(), stopped);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(matches!(
        attach(&sandbox.dir),
        Err(SuperviseError::NotRunning)
    ));

    // And once more in the same folder, with what the first one left.
    let mut spec = sandbox.room.spec("sleep 1000");
    spec.init = true;
    start(&Launcher::this(), &sandbox.dir, &spec).unwrap();
    let stopped = stop(&sandbox.dir, libc_sigterm(), Duration::from_secs(10)).unwrap();
    assert_eq!(stopped, State::Exited(Exit::Signal(libc_sigterm())));
    assert_eq!(sandbox.room.changes(), Vec::<String>::new());
}

fn libc_sigterm() -> i32 {
    rustix::process::Signal::TERM.as_raw()
}

fn refusals() {
    let room = Room::new();
    let dir = room.path("sandbox");
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(state(&dir).unwrap(), State::Never);
    let mut spec = room.spec("true");
    spec.process.args = vec!["nothing".into()];
    let refused = start(&Launcher::this(), &dir, &spec);
    let Err(SuperviseError::Refused(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.stage, Stage::NotFound);
    assert!(refusal.text.contains("nothing"));
    assert_eq!(state(&dir).unwrap(), State::Never);

    let sandbox = Sandbox::start("sleep 1000");
    let nothing = Process {
        args: vec!["nothing".into()],
        ..process("")
    };
    let refused = exec(&Launcher::this(), &sandbox.dir, &nothing);
    let Err(SuperviseError::Refused(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.stage, Stage::NotFound);
}

fn log() {
    let sandbox = Sandbox::start("echo one; echo two >&2; sleep 0.5; busybox printf three; exit 4");
    let mut lines = Vec::new();
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    logs(&sandbox.dir, follow, &Cancel::default(), &mut |line| {
        lines.push(line);
    })
    .unwrap();
    assert_eq!(state(&sandbox.dir).unwrap(), State::Exited(Exit::Code(4)));
    let of = |stream: &str| -> String {
        let lines: Vec<&LogLine> = lines.iter().filter(|line| line.stream == stream).collect();
        lines.iter().map(|line| &*line.log).collect()
    };
    assert_eq!(
        (of("stdout"), of("stderr")),
        ("one\nthree".into(), "two\n".into())
    );
    let mut last = Vec::new();
    let tail = LogOptions {
        tail: Some(1),
        ..LogOptions::default()
    };
    logs(&sandbox.dir, tail, &Cancel::default(), &mut |line| {
        last.push(line.log);
    })
    .unwrap();
    assert_eq!(last, ["three"]);
}

fn exec_runs() {
    let sandbox = Sandbox::start("echo $$ >/tmp/first; exec sleep 1000");
    let (out, err, exit) =
        sandbox.exec("cat /tmp/first; hostname; echo e >&2; ls /proc/1/cwd; exit 5");
    let out = String::from_utf8(out).unwrap();
    assert!(out.ends_with("box\n"), "{out}");
    assert!(String::from_utf8(err).unwrap().starts_with("e\n"));
    assert_eq!(exit, Exit::Code(5));
    let (out, ..) = sandbox.exec(
        "busybox grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status; mount -t tmpfs x /tmp || echo refused",
    );
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.contains("CapEff:\t00000000a80425fb") && out.contains("Seccomp:\t2"),
        "{out}"
    );
    assert!(out.contains("refused"), "{out}");

    let mut stream = exec(&Launcher::this(), &sandbox.dir, &process("cat; exit 6")).unwrap();
    write(&mut stream, &Frame::Stdin(b"hello".to_vec())).unwrap();
    write(&mut stream, &Frame::CloseStdin).unwrap();
    let (out, _, exit) = collect(stream);
    assert_eq!((&*out, exit), (&b"hello"[..], Exit::Code(6)));

    let mut stream = exec(&Launcher::this(), &sandbox.dir, &process("exec sleep 1000")).unwrap();
    write(&mut stream, &Frame::Signal(libc_sigterm())).unwrap();
    assert_eq!(collect(stream).2, Exit::Signal(libc_sigterm()));
    // What is left in the background does not keep an exec.
    let (_, _, exit) = sandbox.exec("sleep 1000 & exit 0");
    assert_eq!(exit, Exit::Code(0));
}

fn exec_terminal() {
    let sandbox = Sandbox::start("sleep 1000");
    let mut shell = process("");
    shell.args = vec!["sh".into()];
    shell.terminal = true;
    let mut stream = exec(&Launcher::this(), &sandbox.dir, &shell).unwrap();
    write(
        &mut stream,
        &Frame::Resize {
            rows: 33,
            columns: 111,
        },
    )
    .unwrap();
    write(
        &mut stream,
        &Frame::Stdin(b"stty size; busybox tty; echo do''ne\n".to_vec()),
    )
    .unwrap();
    let seen = read_until(&mut stream, "done\r\n");
    assert!(
        seen.contains("33 111") && seen.contains("/dev/pts/0"),
        "{seen}"
    );
    // Control-C goes to the foreground job, not to the shell.
    write(&mut stream, &Frame::Stdin(b"sleep 1000\n".to_vec())).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    write(&mut stream, &Frame::Stdin(b"\x03".to_vec())).unwrap();
    write(&mut stream, &Frame::Stdin(b"echo al''ive\n".to_vec())).unwrap();
    read_until(&mut stream, "alive\r\n");
    write(&mut stream, &Frame::Stdin(b"exit 9\n".to_vec())).unwrap();
    assert_eq!(collect(stream).2, Exit::Code(9));
}

fn exec_hang_up() {
    let sandbox = Sandbox::start("sleep 1000");
    let stream = exec(&Launcher::this(), &sandbox.dir, &process("exec sleep 4321")).unwrap();
    let alive = || {
        String::from_utf8(sandbox.exec("busybox ps").0)
            .unwrap()
            .contains("4321")
    };
    assert!(alive());
    drop(stream);
    wait_until(|| (!alive()).then_some(()));
}

fn exec_group_hang_up() {
    let sandbox = Sandbox::start("sleep 1000");
    let alive = |words: &str| sandbox.has_process(words);
    let script = "busybox setsid sleep 4323 & sleep 4321; true";
    let stream = exec(&Launcher::this(), &sandbox.dir, &process(script)).unwrap();
    // Who does not care about SIGHUP has a grace and no more, even when its parent has gone first.
    let script = "(trap '' HUP; exec sleep 4322) & wait; true";
    let stubborn = exec(&Launcher::this(), &sandbox.dir, &process(script)).unwrap();
    wait_until(|| {
        let all = ["sleep 4321", "sleep 4322", "sleep 4323"];
        all.iter().all(|words| alive(words)).then_some(())
    });
    drop(stream);
    drop(stubborn);
    wait_until(|| (!alive("sleep 4321")).then_some(()));
    assert!(alive("sleep 4322"), "it had no grace");
    wait_until(|| (!alive("sleep 4322")).then_some(()));
    assert!(alive("sleep 4323"), "a session of its own was ended");
}

fn exec_group_signal() {
    let sandbox = Sandbox::start("sleep 1000");
    let script = "trap 'echo told' INT; echo ready; sleep 4321; true";
    let mut stream = exec(&Launcher::this(), &sandbox.dir, &process(script)).unwrap();
    read_until(&mut stream, "ready\n");
    wait_until(|| sandbox.has_process("sleep 4321").then_some(()));
    // The shell tells only once its child has ended: by the same signal.
    write(&mut stream, &Frame::Signal(2)).unwrap();
    read_until(&mut stream, "told\n");
    assert_eq!(collect(stream).2, Exit::Code(0));
}

fn attached() {
    let sandbox = Sandbox::start("while read line; do echo got $line; done; exit 2");
    let mut one = attach(&sandbox.dir).unwrap();
    let mut two = attach(&sandbox.dir).unwrap();
    // Both are watchers only when the monitor has taken them in.
    write(&mut two, &Frame::Stdin(b"b\n".to_vec())).unwrap();
    read_until(&mut two, "got b\n");
    write(&mut one, &Frame::Stdin(b"a\n".to_vec())).unwrap();
    read_until(&mut one, "got a\n");
    read_until(&mut two, "got a\n");
    drop(one);
    write(&mut two, &Frame::CloseStdin).unwrap();
    assert_eq!(collect(two).2, Exit::Code(2));
    assert_eq!(sandbox.wait(), State::Exited(Exit::Code(2)));
}

fn terminal() {
    let sandbox = Sandbox::start_with("", |spec| {
        spec.process.args = vec!["sh".into()];
        spec.process.terminal = true;
    });
    let mut stream = attach(&sandbox.dir).unwrap();
    write(
        &mut stream,
        &Frame::Resize {
            rows: 5,
            columns: 66,
        },
    )
    .unwrap();
    write(
        &mut stream,
        &Frame::Stdin(b"stty size; [ -c /dev/console ] && echo con''sole\n".to_vec()),
    )
    .unwrap();
    let seen = read_until(&mut stream, "console\r\n");
    assert!(seen.contains("5 66"), "{seen}");
    write(&mut stream, &Frame::Stdin(b"exit 8\n".to_vec())).unwrap();
    assert_eq!(collect(stream).2, Exit::Code(8));
}

fn monitor_killed() {
    let sandbox = Sandbox::start("sleep 1000");
    let State::Running { pid } = state(&sandbox.dir).unwrap() else {
        panic!("not running");
    };
    let record = std::fs::read_to_string(sandbox.dir.join("monitor.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let monitor = record["monitor"]["pid"].as_i64().unwrap() as i32;
    let monitor = rustix::process::Pid::from_raw(monitor).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    assert_eq!(sandbox.wait(), State::Lost);
    wait_until(|| (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    assert!(matches!(
        kill(&sandbox.dir),
        Err(SuperviseError::NotRunning)
    ));
}

fn much() {
    let sandbox = Sandbox::start("sleep 1000");
    let size = 8 << 20;
    let mut stream = exec(&Launcher::this(), &sandbox.dir, &process("cat")).unwrap();
    let mut to = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        write(&mut to, &Frame::Stdin(vec![b'x'; size])).unwrap();
        write(&mut to, &Frame::CloseStdin).unwrap();
    });
    // The relay must bear a reader that is late.
    std::thread::sleep(Duration::from_millis(300));
    let (out, _, exit) = collect(stream.try_clone().unwrap());
    writer.join().unwrap();
    assert_eq!((out.len(), exit), (size, Exit::Code(0)));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);

    // The process has long ended when its output is read, and none of it is lost.
    let script = "busybox dd if=/dev/zero bs=1024 count=1400 2>/dev/null; echo end";
    let stream = exec(&Launcher::this(), &sandbox.dir, &process(script)).unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(collect(stream).0.len(), 1400 * 1024 + 4);
}

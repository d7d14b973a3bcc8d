//! Containers held to their limits, by control groups where they can be made here, and by what is
//! weaker where not; and confined as they were asked to be.

use std::path::PathBuf;

use libtest_mimic::Trial;
use unpacker::container::capability::Capabilities;
use unpacker::container::cgroup;
use unpacker::container::exit::Exit;
use unpacker::container::launch::{Launcher, Stage};
use unpacker::container::resources::{How, Resources, Swap};
use unpacker::container::run::RunError;
use unpacker::container::seccomp::file::Profile;
use unpacker::container::spec::{ContainerSpec, Mount, Seccomp};
use unpacker::container::stream::{Frame, read};
use unpacker::container::supervise::{self, State, exec, kill, start, state};
use unpacker::progress::Cancel;

use crate::fixture::{Room, good, process, run_for};

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 9] = [
        ("limits: memory", memory),
        ("limits: processes", processes),
        ("limits: ulimits", ulimits),
        ("limits: strict", strict),
        ("limits: groups are entered, and gone in the end", groups),
        ("limits: leftovers of a killed monitor are swept", swept),
        ("confinement: capabilities", capabilities),
        ("confinement: system calls", system_calls),
        ("confinement: a read-only root", read_only),
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

/// Whether this host has control groups for a limit.
pub(crate) fn has_groups(controller: &str) -> bool {
    let rungs = cgroup::rungs();
    rungs
        .iter()
        .any(|rung| rung.controller == controller && rung.stands.is_ok())
}

fn run(spec: &ContainerSpec) -> (Exit, String) {
    let (exit, ran) = run_for(spec, None, &Cancel::default());
    (exit.unwrap(), ran.out + &ran.err)
}

/// dd takes a buffer of so many bytes and fills it.
fn fill(mebibytes: u32) -> String {
    format!("exec busybox dd if=/dev/zero of=/dev/null bs={mebibytes}M count=1")
}

fn memory() {
    let room = Room::new();
    let mut spec = room.spec(&fill(200));
    spec.resources.memory = Some(64 << 20);
    spec.resources.memory_swap = Some(Swap::Total(64 << 20));
    let (exit, said) = run(&spec);
    if has_groups("memory") {
        assert_eq!(exit, Exit::OutOfMemory, "{said}");
        assert_eq!(exit.code(), 137);
    } else {
        // The process itself is told that there is no more.
        assert_eq!(exit, Exit::Code(1), "{said}");
    }
    spec.process.args[2] = fill(16);
    let (exit, said) = run(&spec);
    assert_eq!(exit, Exit::Code(0), "{said}");
}

fn processes() {
    let room = Room::new();
    let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo all; kill %1";
    let mut spec = room.spec(script);
    spec.resources.pids = Some(8);
    let (_, said) = run(&spec);
    assert!(
        said.contains("can't fork") && !said.contains("all"),
        "{said}"
    );
    spec.resources.pids = Some(50);
    let (_, said) = run(&spec);
    assert!(said.contains("all"), "{said}");
}

fn ulimits() {
    let room = Room::new();
    let mut spec = room.spec("ulimit -n; ulimit -Hn; ulimit -c");
    let asked = ["nofile=100:200", "core=0"];
    spec.resources.ulimits = asked.map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(good(&spec), "100\n200\n0\n");
    // Above what this host allows: as much as there is.
    spec.resources.ulimits = vec!["nofile=64:1099511627776".parse().unwrap()];
    let out = good(&spec);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "64");
    assert!(lines[1].parse::<u64>().unwrap() < 1 << 40, "{out}");
}

fn strict() {
    let room = Room::new();
    let mut spec = room.spec("true");
    spec.resources.ulimits = vec!["nofile=1099511627776".parse().unwrap()];
    spec.resources.strict = true;
    match run_for(&spec, None, &Cancel::default()).0 {
        Err(RunError::Refused(refusal)) => {
            assert_eq!(refusal.stage, Stage::Limits);
            assert!(refusal.text.contains("ulimit nofile"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    spec.resources.ulimits = vec!["nofile=64".parse().unwrap()];
    assert_eq!(run(&spec).0, Exit::Code(0));
}

fn limited() -> Resources {
    Resources {
        cpus: Some(500),
        memory: Some(64 << 20),
        pids: Some(50),
        ..Resources::default()
    }
}

/// Folders of groups of ours that a process is in, by the mount table of this host.
pub(crate) fn groups_of(pid: i32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let ours = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controller, path) = (fields.next()?, fields.next()?, fields.next()?);
        let mount = format!("/sys/fs/cgroup/{controller}");
        path.contains("/devpod/")
            .then(|| PathBuf::from(format!("{mount}{path}")))
    });
    ours.collect()
}

/// A sandbox with limits, its folder, its first process and its groups.
fn sandbox(script: &str) -> (Room, PathBuf, i32, Vec<PathBuf>) {
    let room = Room::new();
    let dir = room.path("sandbox");
    std::fs::create_dir(&dir).unwrap();
    let mut spec = room.spec(script);
    spec.init = true;
    spec.resources = limited();
    let State::Running { pid } = start(&Launcher::this(), &dir, &spec).unwrap() else {
        panic!("it does not run");
    };
    let groups = groups_of(pid);
    (room, dir, pid, groups)
}

fn groups() {
    let (_room, dir, _, groups) = sandbox("exec sleep 1000");
    let held = supervise::run(&dir).unwrap().standings;
    let hows: Vec<_> = held
        .iter()
        .map(|standing| (&*standing.limit, standing.how))
        .collect();
    let names: Vec<_> = hows.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["cpus", "memory", "pids"]);
    if has_groups("memory") {
        assert!(
            hows.iter().all(|(_, how)| *how == How::Enforced),
            "{held:?}"
        );
        assert!(!groups.is_empty());
        // A later process is in them too, and sees them as the root of all.
        let stream = exec(&Launcher::this(), &dir, &process("cat /proc/self/cgroup"));
        let (out, exit) = collect(stream.unwrap());
        assert_eq!(exit, Exit::Code(0));
        let limited = out
            .lines()
            .filter(|line| line.contains("memory") || line.contains(":pids:"));
        assert!(limited.clone().count() > 0, "{out}");
        for line in limited {
            assert!(line.ends_with(":/"), "{out}");
        }
    } else {
        assert!(
            hows.iter().all(|(_, how)| *how != How::Enforced),
            "{held:?}"
        );
        assert!(groups.is_empty(), "{groups:?}");
    }
    kill(&dir).unwrap();
    for group in groups {
        assert!(!group.exists(), "{} stayed", group.display());
    }
}

fn collect(mut stream: std::os::unix::net::UnixStream) -> (String, Exit) {
    let mut out = Vec::new();
    loop {
        match read(&mut stream).unwrap() {
            Some(Frame::Stdout(bytes)) => out.extend(bytes),
            Some(Frame::Exit(exit)) => return (String::from_utf8(out).unwrap(), exit),
            Some(_) => {}
            None => panic!("the stream ended early"),
        }
    }
}

fn swept() {
    let (_room, dir, _, groups) = sandbox("exec sleep 1000");
    let record = std::fs::read_to_string(dir.join("monitor.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let monitor = record["monitor"]["pid"].as_i64().unwrap();
    let monitor = rustix::process::Pid::from_raw(monitor as i32).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    let gone = || {
        cgroup::sweep();
        let running = matches!(state(&dir).unwrap(), State::Running { .. });
        !running && groups.iter().all(|group| !group.exists())
    };
    let swept = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        gone()
    });
    assert!(swept, "{groups:?}");
}

const STATUS: &str =
    "busybox grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status";

fn capabilities() {
    let room = Room::new();
    let mut spec = room.spec(STATUS);
    let names = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let mut status = |add: &[&str], drop: &[&str]| {
        let set = Capabilities::adjusted(&names(add), &names(drop)).unwrap();
        spec.process.confinement.capabilities = set;
        good(&spec)
    };
    let out = status(&["SYS_PTRACE"], &["CHOWN"]);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(out.contains(&format!("{set}:\t00000000a80c25fa")), "{out}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert!(out.contains(&format!("{set}:\t0000000000000000")), "{out}");
    }
    let out = status(&[], &["ALL"]);
    assert!(out.contains("CapBnd:\t0000000000000000"), "{out}");
    let out = status(&["ALL"], &[]);
    assert!(out.contains("CapEff:\t000001ffffffffff"), "{out}");
    spec.process.confinement.no_new_privileges = true;
    assert!(good(&spec).contains("NoNewPrivs:\t1"));
}

fn system_calls() {
    let room = Room::new();
    let script =
        format!("{STATUS}; mount -t tmpfs x /tmp && echo mounted; cat /proc/sysrq-trigger");
    let mut spec = room.spec(&script);
    let (_, said) = run(&spec);
    assert!(!said.contains("mounted"), "{said}");
    // All that --privileged gives.
    spec.process.confinement.capabilities = Capabilities::ALL;
    spec.process.confinement.seccomp = Seccomp::Unconfined;
    spec.surroundings.unmasked = true;
    let (_, said) = run(&spec);
    assert!(said.contains("mounted"), "{said}");
    // A profile of the user's: all but one.
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]}"#;
    let profile = Profile::parse(text).unwrap();
    spec.process.confinement.seccomp = Seccomp::Profile(Box::new(profile));
    spec.process.args[2] = "busybox mkdir /tmp/x; echo $?".to_owned();
    let (_, said) = run(&spec);
    assert!(said.contains("quota") && said.contains('1'), "{said}");
}

fn read_only() {
    let room = Room::new();
    let script = "echo x >/etc/new; echo x >/tmp/new && cat /tmp/new; echo x >/bin/sh; pwd";
    let mut spec = room.spec(script);
    spec.surroundings.read_only = true;
    spec.process.cwd = "/made/for/it".into();
    spec.mounts = vec![Mount::Tmpfs {
        target: "/tmp".into(),
        size: None,
        mode: Some(0o700),
        read_only: false,
    }];
    let (exit, said) = run(&spec);
    assert_eq!(exit, Exit::Code(0), "{said}");
    assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
    assert!(said.starts_with("x\n/made/for/it\n"), "{said}");
}

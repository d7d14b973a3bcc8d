//! What a sandbox may use and do, asked for on the command line and looked at from inside and
//! outside; as root, and as an ordinary user, who has no control groups here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::process::{Ran, eventually};
use integration::{base_image, probe};
use serde_json::Value;

fn load(appliance: &TestAppliance) -> bool {
    let folder = Folder::new();
    let from = folder.join("from");
    let there = base_image::busybox(&from);
    if there {
        appliance.load(&from, "busybox:1");
        appliance
            .run(&["sandbox", "run", "--rm", "busybox:1", "true"])
            .ok();
    }
    there
}

fn as_root() -> Option<TestAppliance> {
    if !probe::root() || !probe::programs(&["skopeo"]) {
        return None;
    }
    Some(TestAppliance::start()).filter(load)
}

fn as_user() -> Option<TestAppliance> {
    let programs = [
        "skopeo",
        "useradd",
        "usermod",
        "userdel",
        "newuidmap",
        "newgidmap",
    ];
    if !probe::root() || !probe::programs(&programs) {
        return None;
    }
    Some(TestAppliance::start_at(Place::of(Account::with_range()))).filter(load)
}

fn run(appliance: &TestAppliance, options: &[&str], script: &str) -> Ran {
    let command = ["busybox:1", "sh", "-c", script];
    appliance.run(&[&["sandbox", "run", "--rm"], options, &command].concat())
}

fn inspect(appliance: &TestAppliance, name: &str) -> Value {
    appliance.run(&["sandbox", "inspect", name]).ok().json()[0].clone()
}

/// The state of one line of `devpod doctor`.
fn doctor(appliance: &TestAppliance, what: &str) -> String {
    let said = appliance.run(&["doctor", "--output", "json"]).json();
    let found = said
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["what"] == what);
    found.unwrap_or_else(|| panic!("{what} in {said}"))["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

const FILL: &str = "busybox dd if=/dev/zero of=/dev/null bs=200M count=1";

#[test]
fn memory_runs_out_and_that_is_told() {
    let Some(appliance) = as_root() else { return };
    let limit = ["-m", "64m", "--memory-swap", "64m"];
    let ran = run(&appliance, &limit, &format!("exec {FILL}"));
    if doctor(&appliance, "memory limits") == "ok" {
        ran.failed(137).says("out of memory");
    } else {
        ran.says("memory 64Mi holds only in part").failed(1);
    }
    let keep = [
        "sandbox",
        "run",
        "--name",
        "full",
        "-m",
        "64m",
        "--memory-swap",
        "64m",
    ];
    let command = ["busybox:1", "sh", "-c", &format!("exec {FILL}")];
    appliance.run(&[&keep[..], &command].concat());
    let seen = inspect(&appliance, "full");
    assert_eq!(
        seen["outOfMemory"],
        doctor(&appliance, "memory limits") == "ok",
        "{seen}"
    );
    assert_eq!(seen["limits"][0]["limit"], "memory");
    assert_eq!(seen["limits"][0]["asked"], "64Mi");
}

#[test]
fn a_build_is_held_to_the_settings() {
    let Some(appliance) = as_root() else { return };
    let context = Folder::new();
    context.write("Dockerfile", format!("FROM busybox:1\nRUN exec {FILL}\n"));
    let build = ["build", "--no-cache", &context.path().display().to_string()];
    appliance.run(&build).ok();
    let place = appliance.stop();
    place.run(&["config", "set", "builder.memory", "64Mi"]).ok();
    let appliance = TestAppliance::start_at(place);
    let held = doctor(&appliance, "memory limits") == "ok";
    let ran = appliance.run(&build);
    assert_ne!(ran.code, 0, "{ran}");
    if !held {
        ran.says("memory 64Mi holds only in part");
    }
}

/// Where groups of version 2 are.
fn groups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = mount.and_then(|line| line.split(' ').nth(4));
    let writable = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    let found = mount.map(PathBuf::from).filter(writable);
    if found.is_none() {
        probe::skip("there are no control groups of version 2 that could be written");
    }
    found
}

#[test]
fn a_daemon_that_has_a_group_alone_leaves_it_to_its_sandboxes() {
    let Some(groups) = probe::root().then(groups).flatten() else {
        return;
    };
    let place = Place::new();
    let group = groups.join(format!("devpod-test-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    // As a scope of systemd is made: the command is in it, and the daemon that it starts.
    let script = "echo $$ > \"$0\"/cgroup.procs && exec \"$@\"";
    let mut command = place.command("sh");
    command
        .args(["-c", script])
        .arg(&group)
        .arg(place.program());
    integration::process::run(command.args(["sandbox", "ps"])).ok();
    let members = |folder: &Path| fs::read_to_string(folder.join("cgroup.procs")).unwrap();
    let status = fs::read(place.data().join("daemon.json")).unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    let leaf = group.join("devpod-daemon");
    let seen = (members(&group), members(&leaf));
    place.run(&["daemon", "stop"]).ok();
    for folder in [&leaf, &group] {
        eventually("the group is left", Duration::from_secs(30), || {
            fs::remove_dir(folder).is_ok()
        });
    }
    // What it starts from here on is in the leaf, too: a full group could not be divided.
    assert_eq!(seen, (String::new(), format!("{}\n", status["pid"])));
}

#[test]
fn an_ordinary_user_is_told_what_does_not_hold() {
    let Some(appliance) = as_user() else { return };
    let ran = run(
        &appliance,
        &["-m", "64m", "--cpu-shares", "512"],
        "echo started",
    )
    .ok();
    assert_eq!(ran.text(), "started");
    if doctor(&appliance, "memory limits") == "ok" {
        return;
    }
    let ran = ran.says("warning: memory 64Mi holds only in part");
    ran.says("cpu-shares 512 is not enforced");
    // What was asked for strictly is refused, and nothing stays.
    let strict = run(
        &appliance,
        &["-m", "64m", "--strict-limits"],
        "echo started",
    );
    assert_ne!(strict.code, 0, "{strict}");
    assert!(!strict.stdout.contains("started"), "{strict}");
    run(&appliance, &["-m", "64m"], FILL).failed(1);
    let rows = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    assert_eq!(rows.as_array().unwrap().len(), 0, "{rows}");
}

#[test]
fn processes_and_ulimits_are_counted() {
    for appliance in [as_root(), as_user()].into_iter().flatten() {
        let many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3 & done; echo all";
        let ran = run(&appliance, &["--pids-limit", "8"], many);
        assert!(!ran.stdout.contains("all"), "{ran}");
        let ran = run(
            &appliance,
            &["--ulimit", "nofile=100:200"],
            "ulimit -n; ulimit -Hn",
        );
        assert_eq!(ran.ok().text(), "100\n200");
        let wide = run(
            &appliance,
            &["--ulimit", "nofile=64:99999999999"],
            "ulimit -n",
        )
        .ok();
        assert_eq!(wide.text(), "64");
        wide.says("holds only in part");
    }
}

#[test]
fn privileges_are_given_and_taken() {
    let places = [(as_root(), true), (as_user(), false)];
    for (appliance, is_root) in places {
        let Some(appliance) = appliance else { continue };
        let status = |options: &[&str]| {
            let script = "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status";
            run(&appliance, options, script).ok().stdout
        };
        let plain = status(&[]);
        for line in ["CapBnd:\t00000000a80425fb", "NoNewPrivs:\t0", "Seccomp:\t2"] {
            assert!(plain.contains(line), "{plain}");
        }
        assert!(status(&["--cap-drop", "all"]).contains("CapBnd:\t0000000000000000"));
        assert!(status(&["--cap-add", "SYS_PTRACE"]).contains("CapBnd:\t00000000a80c25fb"));
        let fewer = status(&["--security-opt", "no-new-privileges"]);
        assert!(fewer.contains("NoNewPrivs:\t1"), "{fewer}");
        let more = status(&["--privileged"]);
        assert!(
            more.contains("CapBnd:\t000001ffffffffff") && more.contains("Seccomp:\t0"),
            "{more}"
        );
        // The value stays what it is, whoever may write it.
        let script = "busybox mount -t tmpfs x /tmp && echo mounted; \
            value=$(cat /proc/sys/vm/swappiness); \
            (echo $value > /proc/sys/vm/swappiness) 2>/dev/null && echo open; true";
        // Without privileges nothing of it is possible, as root either.
        assert_eq!(run(&appliance, &[], script).ok().text(), "");
        let ran = run(&appliance, &["--privileged"], script).ok();
        if is_root {
            assert_eq!(ran.text(), "mounted\nopen");
            ran.says("warning: the daemon is root");
        } else {
            // All of it is inside: the host's settings stay the host's.
            assert_eq!(ran.text(), "mounted");
        }
        run(&appliance, &["--cap-add", "NONSENSE"], "true").failed(2);
    }
}

#[test]
fn volumes_keep_what_sandboxes_leave() {
    for appliance in [as_root(), as_user()].into_iter().flatten() {
        // A new one begins with what the image has.
        let ran = run(
            &appliance,
            &["-v", "data:/etc"],
            "cat /etc/layer; echo mine > /etc/mine",
        );
        assert_eq!(ran.ok().text(), "second");
        let ran = run(
            &appliance,
            &["--mount", "source=data,target=/x,readonly"],
            "cat /x/mine /x/layer",
        );
        assert_eq!(ran.ok().text(), "mine\nsecond");
        assert_ne!(
            run(&appliance, &["-v", "data:/x:ro"], "echo > /x/y").code,
            0
        );
        let hold = [
            "sandbox",
            "run",
            "-d",
            "--name",
            "holder",
            "-v",
            "data:/x",
            "busybox:1",
        ];
        appliance.run(&[&hold[..], &["sleep", "600"]].concat()).ok();
        appliance
            .run(&["volume", "rm", "data"])
            .failed(4)
            .says("holder");
        let seen = appliance.run(&["volume", "inspect", "data"]).ok().json();
        assert_eq!(seen[0]["usedBy"][0], "holder", "{seen}");
        assert_eq!(appliance.run(&["volume", "prune", "--all"]).ok().text(), "");
        appliance.run(&["sandbox", "rm", "--force", "holder"]).ok();
        appliance.run(&["volume", "create", "other"]).ok();
        appliance.run(&["volume", "rm", "data"]).ok();
        appliance.run(&["volume", "inspect", "data"]).failed(3);
        // What nobody named goes first; with a `--rm` sandbox it goes at once.
        run(&appliance, &["-v", "/anonymous"], "touch /anonymous/file").ok();
        let unnamed = ["sandbox", "run", "--name", "unnamed", "-v", "/anonymous"];
        let ran = appliance.run(&[&unnamed[..], &["busybox:1", "true"]].concat());
        ran.ok();
        appliance.run(&["sandbox", "rm", "unnamed"]).ok();
        assert_eq!(
            appliance
                .run(&["volume", "prune"])
                .ok()
                .stdout
                .lines()
                .count(),
            1
        );
        assert_eq!(
            appliance.run(&["volume", "prune", "-a"]).ok().text(),
            "other"
        );
    }
}

#[test]
fn the_surroundings_are_as_asked() {
    let Some(appliance) = as_root() else { return };
    let folder = Folder::new();
    folder.write("env", "# no\nA=1\n\nB=two words\n");
    let file = folder.join("env");
    let ran = run(
        &appliance,
        &["--env-file", file.to_str().unwrap(), "-e", "A=2"],
        "echo $A-$B",
    );
    assert_eq!(ran.ok().text(), "2-two words");
    let ran = run(
        &appliance,
        &["--read-only", "--tmpfs", "/tmp:size=1m,mode=700"],
        "echo x > /etc/x; echo x > /tmp/x && stat -c %a /tmp",
    );
    assert_eq!(ran.says("Read-only").text(), "700");
    let ran = run(
        &appliance,
        &["--shm-size", "1m"],
        "busybox df -k /dev/shm | grep -c 1024",
    );
    assert_eq!(ran.ok().text(), "1");
    let ran = run(
        &appliance,
        &["--add-host", "db:10.1.2.3"],
        "grep -w db /etc/hosts",
    );
    assert_eq!(ran.ok().text(), "10.1.2.3 db");
    let ran = run(
        &appliance,
        &["--group-add", "staff", "--group-add", "77"],
        "id -G",
    );
    assert_eq!(ran.ok().text(), "0 50 77");
    let ran = run(
        &appliance,
        &["--device", "/dev/null:/dev/mine"],
        "echo x > /dev/mine; ls -l /dev/mine",
    );
    assert!(ran.ok().text().starts_with('c'), "no device");
    run(&appliance, &["--device", "/etc/passwd"], "true").failed(2);
    let id = folder.join("id");
    let cidfile = ["--cidfile", id.to_str().unwrap()];
    run(&appliance, &cidfile, "true").ok();
    assert_eq!(fs::read_to_string(&id).unwrap().len(), 12);
    run(&appliance, &cidfile, "true").failed(2);
    assert_eq!(run(&appliance, &["--no-init"], "echo $$").ok().text(), "1");
}

fn detached(appliance: &TestAppliance, options: &[&str], script: &str) {
    let command = ["busybox:1", "sh", "-c", script];
    appliance
        .run(&[&["sandbox", "run", "-d"], options, &command].concat())
        .ok();
}

fn status(appliance: &TestAppliance, name: &str) -> Value {
    inspect(appliance, name)["status"].clone()
}

#[test]
fn the_verbs_of_a_life() {
    let Some(appliance) = as_root() else { return };
    let script = "trap 'exit 7' USR1; trap '' TERM; echo up; while :; do sleep 0.1; done";
    detached(&appliance, &["--name", "one", "-l", "a=b"], script);
    assert_eq!(inspect(&appliance, "one")["labels"]["a"], "b");
    let top = appliance
        .run(&["sandbox", "top", "one", "--output", "json"])
        .ok()
        .json();
    let commands = top
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["command"].as_str().unwrap());
    assert!(
        commands
            .clone()
            .any(|command| command.starts_with("sh -c trap")),
        "{top}"
    );
    eventually("it listens", Duration::from_secs(20), || {
        appliance.run(&["sandbox", "logs", "one"]).ok().text() == "up"
    });
    appliance
        .run(&["sandbox", "kill", "-s", "USR1", "one"])
        .ok();
    assert_eq!(appliance.run(&["sandbox", "wait", "one"]).ok().text(), "7");
    appliance.run(&["sandbox", "kill", "one"]).failed(4);
    appliance.run(&["sandbox", "start", "one"]).ok();
    assert_eq!(status(&appliance, "one"), "running");
    appliance
        .run(&["sandbox", "restart", "--time", "0", "one"])
        .ok();
    appliance.run(&["sandbox", "rename", "one", "two"]).ok();
    assert_eq!(status(&appliance, "two"), "running");
    appliance.run(&["sandbox", "inspect", "one"]).failed(3);
    appliance.run(&["sandbox", "kill", "two"]).ok();
    assert_eq!(
        appliance.run(&["sandbox", "wait", "two"]).ok().text(),
        "137"
    );
    // Three starts, of which the log has all.
    let lines = |options: &[&str]| {
        let logs = [&["sandbox", "logs", "two"], options].concat();
        appliance.run(&logs).ok().stdout.lines().count()
    };
    eventually("three starts in the log", Duration::from_secs(20), || {
        lines(&[]) == 3
    });
    assert_eq!((lines(&["--tail", "2"]), lines(&["--since", "1h"])), (2, 3));
    let stamped = appliance
        .run(&["sandbox", "logs", "-t", "-n", "1", "two"])
        .ok();
    assert!(
        stamped.text().starts_with("20") && stamped.text().ends_with("Z up"),
        "{stamped}"
    );
    assert_eq!(appliance.run(&["sandbox", "prune"]).ok().text(), "two");
}

#[test]
fn stop_signals_and_their_timeouts() {
    let Some(appliance) = as_root() else { return };
    let script = "trap 'exit 3' HUP; trap '' TERM; echo up; while :; do sleep 0.1; done";
    detached(
        &appliance,
        &["--name", "soft", "--stop-signal", "SIGHUP"],
        script,
    );
    detached(
        &appliance,
        &["--name", "hard", "--stop-timeout", "0"],
        script,
    );
    for name in ["soft", "hard"] {
        eventually("it listens", Duration::from_secs(20), || {
            appliance.run(&["sandbox", "logs", name]).ok().text() == "up"
        });
        appliance.run(&["sandbox", "stop", name]).ok();
    }
    assert_eq!(inspect(&appliance, "soft")["exitCode"], 3);
    assert_eq!(inspect(&appliance, "hard")["exitCode"], 137);
}

/// How often a sandbox that counts its starts in a volume was started.
fn starts(appliance: &TestAppliance, volume: &str) -> usize {
    let mount = format!("{volume}:/count");
    let ran = run(appliance, &["-v", &mount], "cat /count/starts 2>/dev/null");
    ran.stdout.lines().count()
}

#[test]
fn restart_policies_are_carried_out() {
    let Some(appliance) = as_root() else { return };
    let count = |end: &str| format!("echo x >> /count/starts; {end}");
    detached(
        &appliance,
        &[
            "--name",
            "failing",
            "--restart",
            "on-failure:2",
            "-v",
            "failing:/count",
        ],
        &count("exit 1"),
    );
    detached(
        &appliance,
        &[
            "--name",
            "steady",
            "--restart",
            "unless-stopped",
            "-v",
            "steady:/count",
        ],
        &count("exec sleep 600"),
    );
    eventually("two more starts", Duration::from_secs(40), || {
        starts(&appliance, "failing") == 3
    });
    // Its process is killed, and another comes.
    appliance.run(&[
        "sandbox",
        "exec",
        "steady",
        "sh",
        "-c",
        "kill -9 $(busybox pidof sleep)",
    ]);
    eventually("a second start", Duration::from_secs(40), || {
        starts(&appliance, "steady") == 2
    });
    // It ends while no daemon runs: the next one sees to it.
    let pid = inspect(&appliance, "steady")["pid"].as_i64().unwrap();
    let place = appliance.stop();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let appliance = TestAppliance::start_at(place);
    eventually("a third start", Duration::from_secs(40), || {
        starts(&appliance, "steady") == 3
    });
    appliance
        .run(&["sandbox", "stop", "--time", "0", "steady"])
        .ok();
    let appliance = TestAppliance::start_at(appliance.stop());
    assert_eq!(status(&appliance, "steady"), "exited");
    assert_eq!(starts(&appliance, "failing"), 3);
}

#[test]
fn an_idle_sandbox_is_stopped_and_a_busy_one_is_not() {
    let Some(appliance) = as_root() else { return };
    // Long enough for a busy machine to begin with the exec.
    let limit = ["--timeout", "20s"];
    detached(
        &appliance,
        &[&["--name", "busy"], &limit[..]].concat(),
        "exec sleep 600",
    );
    let exec = ["sandbox", "exec", "busy", "sleep", "600"];
    let mut caller = appliance.place().devpod(&exec).spawn().unwrap();
    detached(
        &appliance,
        &[&["--name", "idle"], &limit[..]].concat(),
        "exec sleep 600",
    );
    eventually("the idle one's end", Duration::from_secs(120), || {
        status(&appliance, "idle") != "running"
    });
    assert_eq!(status(&appliance, "busy"), "running");
    caller.kill().unwrap();
    caller.wait().unwrap();
    eventually("the other's end", Duration::from_secs(120), || {
        status(&appliance, "busy") != "running"
    });
}

#[test]
fn the_doctor_needs_no_daemon() {
    if !probe::root() || !probe::programs(&["useradd", "userdel"]) {
        return;
    }
    for place in [Place::new(), Place::of(Account::without_range())] {
        let ran = place.run(&["doctor", "--output", "json"]);
        let findings = ran.json();
        let findings = findings.as_array().unwrap();
        let find = |what: &str| {
            let found = findings.iter().find(|finding| finding["what"] == what);
            found.unwrap_or_else(|| panic!("{what} in {ran}"))
        };
        assert!(!place.data().exists(), "it made the data folder");
        let broken = findings.iter().any(|finding| finding["state"] == "missing");
        assert_eq!(ran.code, i32::from(broken), "{ran}");
        for what in [
            "kernel",
            "overlayfs",
            "system calls",
            "system call filter",
            "disk space",
        ] {
            assert_eq!(find(what)["state"], "ok", "{ran}");
        }
        for what in [
            "cpu limits",
            "memory limits",
            "pids limits",
            "file system",
            "open files",
        ] {
            assert!(find(what)["why"].as_str().unwrap().len() > 2, "{ran}");
        }
        let ids = find("user ids");
        if ids["state"] != "ok" {
            assert!(
                ids["lift"].as_str().unwrap().contains("--add-subuids"),
                "{ran}"
            );
        }
        let text = place.run(&["doctor"]).stdout;
        assert!(text.contains("overlayfs"), "{text}");
    }
}

/// What a container without options may do, as it sees it itself.
const CONFINED: &str = "grep -E '^Cap|NoNewPrivs|Seccomp:' /proc/self/status; \
    busybox unshare -U true 2>/dev/null || echo no user namespace; \
    busybox mount -t tmpfs x /tmp 2>/dev/null || echo no mount; \
    busybox hostname other 2>/dev/null || echo no host name";
/// What of /proc and /sys is covered, and what cannot be written.
const COVERED: &str = "while read -r what where kind options rest; do case $where in \
    /proc/*|/sys/*) case $kind in tmpfs|devtmpfs) echo covered $where;; \
    *) case $options in ro,*) echo read-only $where;; esac;; esac;; esac; done < /proc/mounts";

#[test]
fn docker_would_confine_it_the_same_way() {
    let Some(appliance) = as_root() else { return };
    let Some(docker) = Dockerd::start() else {
        return;
    };
    let image = appliance.reference("busybox:1");
    docker.run(&["pull", &image]).ok();
    let theirs = |options: &[&str], script: &str| {
        let command = [&image, "sh", "-c", script];
        let run = ["run", "--rm", "--network", "none"];
        docker
            .run(&[&run[..], options, &command].concat())
            .ok()
            .stdout
    };
    for options in [
        &[][..],
        &["--cap-drop", "ALL"],
        &["--cap-add", "SYS_PTRACE", "--cap-drop", "CHOWN"],
        &["--security-opt", "no-new-privileges"],
        &["--user", "guest"],
    ] {
        let ours = run(&appliance, options, CONFINED).ok().stdout;
        assert_eq!(ours, theirs(options, CONFINED), "{options:?}");
    }
    let ours = run(&appliance, &["--network", "none"], COVERED).ok().stdout;
    let ours: Vec<_> = ours.lines().collect();
    for line in theirs(&[], COVERED)
        .lines()
        .filter(|line| !line.contains("/sys/fs/cgroup"))
    {
        assert!(ours.contains(&line), "{line} in {ours:?}");
    }
}

/// CVE-2022-1227: whoever looks at a sandbox runs nothing of it.
#[test]
fn looking_at_a_sandbox_runs_none_of_its_programs() {
    let Some(appliance) = as_root() else { return };
    let script = "for name in ps top nsenter id getent newuidmap sh cat; do
          busybox rm -f /bin/$name /usr/bin/$name
          busybox printf '#!/bin/busybox sh\necho $0 >>/marks\n' >/bin/$name
          busybox chmod 755 /bin/$name
        done
        echo ready; while :; do busybox sleep 0.1; done";
    detached(&appliance, &["--name", "trap"], script);
    eventually("its programs are others", Duration::from_secs(20), || {
        appliance.run(&["sandbox", "logs", "trap"]).ok().text() == "ready"
    });
    for verb in ["top", "inspect", "logs"] {
        appliance.run(&["sandbox", verb, "trap"]).ok();
    }
    appliance.run(&["sandbox", "ps"]).ok();
    let marks = ["sandbox", "exec", "trap", "busybox", "cat", "/marks"];
    let none = appliance.run(&marks);
    assert_ne!(none.code, 0, "{none}");
    // Only who asks for one gets it.
    appliance.run(&["sandbox", "exec", "trap", "ps"]).ok();
    assert_eq!(appliance.run(&marks).ok().text(), "/bin/ps");
    appliance
        .run(&["sandbox", "stop", "--time", "0", "trap"])
        .ok();
}

//! `run`: what a build step sees and what it leaves.

use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use unpacker::container::exit::Exit;
use unpacker::container::launch::Stage;
use unpacker::container::run::RunError;
use unpacker::container::spec::{Mount, Network};
use unpacker::progress::Cancel;

use crate::fixture::{Room, good, run_for};

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 14] = [
        ("run: exit codes and signals", exits),
        ("run: environment, folder and host name", surroundings),
        ("run: both outputs", outputs),
        ("run: refusals say why", refusals),
        ("run: timeout and cancellation kill everything", killed),
        ("run: the caller's death kills everything", orphaned),
        ("run: the host is out of sight", host_hidden),
        ("run: masked and read-only paths", masked),
        ("run: mounts", mounts),
        ("run: network none", network_none),
        ("run: the upper folder stays clean", clean_upper),
        ("run: capabilities and filter", confined),
        ("run: an init reaps", init_reaps),
        ("run: an init is out of reach", init_hidden),
    ];
    tests
        .map(|(name, test)| Trial::test(name, move || run(test)))
        .into()
}

fn run(test: fn()) -> Result<(), Failed> {
    test();
    Ok(())
}

fn exits() {
    let room = Room::new();
    for init in [false, true] {
        for (script, exit) in [
            ("exit 0", Exit::Code(0)),
            ("exit 7", Exit::Code(7)),
            ("exec sleep 0", Exit::Code(0)),
        ] {
            let mut spec = room.spec(script);
            spec.init = init;
            let (got, ran) = run_for(&spec, None, &Cancel::default());
            assert_eq!(got.unwrap(), exit, "{script} {init} {ran:?}");
        }
    }
    // PID 1 cannot kill itself by a signal that it does not handle, a child of init can.
    let mut spec = room.spec("kill -9 $$");
    spec.init = true;
    let (got, _) = run_for(&spec, None, &Cancel::default());
    assert_eq!(got.unwrap(), Exit::Signal(9));
}

fn surroundings() {
    let room = Room::new();
    let mut spec = room.spec("pwd; echo $A; hostname; echo $$; tty; readlink /dev/fd; cat");
    spec.process.args[0] = "busybox".into();
    spec.process.args.insert(1, "sh".into());
    spec.process.env.push("A=b c".into());
    spec.process.cwd = "/new/folder".into();
    let (exit, ran) = run_for(&spec, None, &Cancel::default());
    assert!(exit.is_ok());
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines[..4], ["/new/folder", "b c", "box", "1"], "{ran:?}");
    assert_eq!(lines[lines.len() - 1], "/proc/self/fd", "{ran:?}");
    assert!(room.changes().contains(&"new/folder".to_owned()));
}

fn outputs() {
    let room = Room::new();
    let spec = room.spec("echo out; echo err >&2; echo again >/dev/stdout");
    let (exit, ran) = run_for(&spec, None, &Cancel::default());
    assert_eq!(exit.unwrap(), Exit::Code(0), "{ran:?}");
    assert_eq!((&*ran.out, &*ran.err), ("out\nagain\n", "err\n"));
    let much = good(&room.spec("busybox dd if=/dev/zero bs=1024 count=1024 2>/dev/null"));
    assert_eq!(much.len(), 1 << 20);
}

fn refusals() {
    let room = Room::new();
    let refused = |change: &dyn Fn(&mut unpacker::container::spec::ContainerSpec)| {
        let mut spec = room.spec("true");
        change(&mut spec);
        match run_for(&spec, None, &Cancel::default()).0 {
            Err(RunError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    };
    for init in [false, true] {
        let missing = refused(&|spec| {
            spec.init = init;
            spec.process.args = vec!["nothing".into()];
        });
        assert_eq!(missing.stage, Stage::NotFound);
        assert!(missing.text.contains("nothing"), "{missing}");
    }
    let folder = refused(&|spec| spec.process.args = vec!["/etc".into()]);
    assert_eq!(folder.stage, Stage::NotExecutable);
    let layer = refused(&|spec| spec.rootfs.lower[0] = "/no/such/layer".into());
    assert_eq!(layer.stage, Stage::Root);
    let file = refused(&|spec| spec.process.cwd = "/etc/passwd".into());
    assert_eq!(file.stage, Stage::Folder);
    let bind = refused(&|spec| {
        spec.mounts.push(Mount::Bind {
            source: "/no/such/source".into(),
            target: "/mnt".into(),
            read_only: false,
        });
    });
    assert!(bind.text.contains("/no/such/source"), "{bind}");
    assert_eq!(room.changes(), Vec::<String>::new());
}

/// How many processes of the host have `marker` in their arguments.
fn processes(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(marker))
        .count()
}

fn killed() {
    for init in [false, true] {
        let room = Room::new();
        let marker = format!("{}.5", 100_000 + std::process::id() + u32::from(init));
        // One in the background, in a session of its own.
        let script = format!("busybox setsid sleep {marker} & sleep {marker}");
        let mut spec = room.spec(&script);
        spec.init = init;
        let begin = Instant::now();
        let (exit, _) = run_for(&spec, Some(Duration::from_millis(500)), &Cancel::default());
        assert!(matches!(exit, Err(RunError::TimedOut(_))), "{exit:?}");
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert_eq!(processes(&marker), 0);

        let cancel = Cancel::default();
        let canceller = cancel.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            canceller.cancel();
        });
        let (exit, _) = run_for(&spec, None, &cancel);
        other.join().unwrap();
        assert!(matches!(exit, Err(RunError::Cancelled(_))), "{exit:?}");
        assert_eq!(processes(&marker), 0);
    }
}

/// Argument of a process that runs a container until it is killed.
pub(crate) const VICTIM: &str = "--run-until-killed";

/// Plays that process.
pub(crate) fn play_victim(marker: &str) {
    let room = Room::new();
    let script = format!("busybox setsid sleep {marker} & sleep {marker}");
    let _ = run_for(&room.spec(&script), None, &Cancel::default());
}

fn orphaned() {
    let marker = format!("{}.25", 200_000 + std::process::id());
    let scratch = tempfile::tempdir().unwrap();
    let mut victim = std::process::Command::new("/proc/self/exe")
        .args([VICTIM, &marker])
        .env("TMPDIR", scratch.path())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let wait_for = |count: &dyn Fn(usize) -> bool| {
        while !count(processes(&format!("sleep\0{marker}"))) {
            assert!(begin.elapsed() < Duration::from_secs(20), "waited too long");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(&|count| count == 2);
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_for(&|count| count == 0);
}

fn host_hidden() {
    let room = Room::new();
    let secret = room.path("secret");
    std::fs::write(&secret, "x").unwrap();
    let out = good(&room.spec(&format!(
        "ls /; ls {} 2>&1 || true; ls /proc/1/root/; cat /proc/self/mountinfo",
        secret.display()
    )));
    assert!(out.contains("No such file"), "{out}");
    let files = ["/etc/hosts", "/etc/resolv.conf"];
    let foreign = out
        .lines()
        .filter(|line| line.contains(" - ext4 ") || line.contains(" - xfs "));
    for line in foreign {
        let target = line.split(' ').nth(4).unwrap();
        assert!(
            files.contains(&target),
            "a mount of the host is left: {out}"
        );
    }
}

fn masked() {
    let room = Room::new();
    let out = good(&room.spec(
        "for f in kcore keys timer_list; do [ -e /proc/$f ] && busybox wc -c </proc/$f; done
         ls -A /sys/firmware
         echo 1 >/proc/sys/kernel/sysrq || echo refused
         echo x >/proc/sysrq-trigger || echo refused
         busybox mkdir /sys/x 2>/dev/null || echo refused",
    ));
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    assert_eq!(lines[lines.len() - 3..], ["refused"; 3], "{out}");
    assert!(
        lines[..lines.len() - 3].iter().all(|line| *line == "0"),
        "{out}"
    );
}

fn mounts() {
    let room = Room::new();
    let folder = room.path("shared");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "text").unwrap();
    let mut spec = room.spec(
        "cat /deep/in/file; echo more >/deep/in/new; cat /etc/one
         echo no >/ro/x || echo refused
         echo t >/scratch/t && busybox df -k /scratch | busybox tail -n 1",
    );
    let bind = |source: &std::path::Path, target: &str, read_only| Mount::Bind {
        source: source.into(),
        target: target.into(),
        read_only,
    };
    spec.mounts = vec![
        bind(&folder, "/deep/in", false),
        bind(&folder.join("file"), "/etc/one", true),
        bind(&folder, "/ro", true),
        Mount::Tmpfs {
            target: "/scratch".into(),
            size: Some(1 << 20),
            mode: None,
            read_only: false,
        },
    ];
    let out = good(&spec);
    assert!(out.starts_with("texttextrefused"), "{out}");
    assert!(out.contains(" 1024 "), "{out}");
    assert_eq!(
        std::fs::read_to_string(folder.join("new")).unwrap(),
        "more\n"
    );
    assert_eq!(room.changes(), Vec::<String>::new());
}

fn network_none() {
    let room = Room::new();
    let script = "busybox ip -o link; busybox ping -c 1 -w 2 127.0.0.1 >/dev/null && echo lo; cat /etc/hosts";
    let mut spec = room.spec(script);
    spec.network = Network::None;
    let out = good(&spec);
    assert!(out.contains("lo") && out.contains("UP"), "{out}");
    assert!(!out.contains("eth") && out.contains("localhost"), "{out}");
    let host = good(&room.spec("cat /etc/resolv.conf"));
    assert_eq!(host, std::fs::read_to_string("/etc/resolv.conf").unwrap());
}

fn clean_upper() {
    let room = Room::new();
    std::fs::remove_dir(room.path("base/etc")).ok();
    good(&room.spec("true"));
    assert_eq!(room.changes(), Vec::<String>::new());
    // A dangling link of the image where a file is to be mounted.
    std::os::unix::fs::symlink("../run/new/resolv.conf", room.path("base/etc/resolv.conf"))
        .unwrap();
    let out = good(&room.spec("cat /run/new/resolv.conf; echo x >/etc/made"));
    assert!(!out.is_empty());
    assert_eq!(room.changes(), ["etc", "etc/made"]);
    assert_eq!(std::fs::read_dir(room.path("work")).unwrap().count(), 1);
}

fn confined() {
    let room = Room::new();
    let out = good(&room.spec(
        "busybox grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status
         mount -t tmpfs x /tmp || echo refused
         busybox unshare -U true || echo refused
         busybox hostname other || echo refused",
    ));
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        assert!(out.contains(line), "{line} in {out}");
    }
    assert_eq!(out.matches("refused").count(), 3, "{out}");
}

fn init_reaps() {
    let room = Room::new();
    let mut spec = room.spec("(sleep 0.1 &) ; sleep 0.5; busybox ps -o stat,comm; echo $$");
    spec.init = true;
    let out = good(&spec);
    assert!(!out.contains('Z'), "{out}");
    assert!(out.lines().last() != Some("1"), "{out}");
}

/// Behind PID 1 are the host's binary and descriptors (CVE-2019-5736).
fn init_hidden() {
    let room = Room::new();
    let mut spec = room.spec(
        "readable() { cat $1 >/dev/null 2>&1 && echo readable $1; }
         readable /proc/1/exe; readable /proc/1/mem; readable /proc/1/environ
         for link in /proc/1/exe /proc/1/fd/*; do busybox readlink $link; done
         busybox grep -E 'Cap(Prm|Eff)|Seccomp:' /proc/1/status",
    );
    spec.init = true;
    let out = good(&spec);
    assert!(out.starts_with("CapPrm"), "{out}");
    assert!(
        out.contains("CapEff:\t00000000a80425fb") && out.contains("Seccomp:\t2"),
        "{out}"
    );
    // A program of ours leaves nothing of the host open in the container's own either.
    let out = good(&room.spec("ls -l /proc/self/fd | busybox awk '{print $NF}'"));
    let foreign = out.lines().filter(|path| {
        path.starts_with('/') && !path.starts_with("/proc/") && *path != "/dev/null"
    });
    assert_eq!(foreign.count(), 0, "{out}");
}

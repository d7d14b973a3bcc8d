//! The programs are run here as the kernel runs them, for every call there is.

use std::collections::HashMap;

use super::*;

const MOBY: &str = include_str!("moby-verdicts.txt");

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// A call as a filter sees it.
#[derive(Debug, Clone, Copy)]
struct Call {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn new(machine: Machine, number: u32) -> Self {
        Self {
            architecture: machine.audit(),
            number,
            arguments: [0; 6],
        }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            _ => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                (argument >> (8 * (offset % 8))) as u32
            }
        }
    }
}

fn run(program: &[sock_filter], call: &Call) -> u32 {
    walk(program, call).0
}

/// The kernel's interpreter, as far as these programs need it: the answer, and after how many
/// steps. Panics where the kernel would refuse.
fn walk(program: &[sock_filter], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0, 0_u32, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        (at, steps) = (at + 1, steps + 1);
        let class = u32::from(code) & 0x07;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match (class, u32::from(code) & 0xf0) {
            (libc::BPF_LD, _) => accumulator = call.word(k),
            (libc::BPF_ALU, libc::BPF_AND) => accumulator &= k,
            (libc::BPF_RET, _) => return (k, steps),
            (libc::BPF_JMP, libc::BPF_JA) => at += k as usize,
            (libc::BPF_JMP, libc::BPF_JEQ) => at += jump(accumulator == k),
            (libc::BPF_JMP, libc::BPF_JGT) => at += jump(accumulator > k),
            (libc::BPF_JMP, libc::BPF_JGE) => at += jump(accumulator >= k),
            other => panic!("{other:?}"),
        }
    }
}

fn default_program(capabilities: Capabilities) -> Vec<sock_filter> {
    program(&Seccomp::Default, capabilities, Changes::Real)
        .unwrap()
        .unwrap()
}

fn number(machine: Machine, name: &str) -> u32 {
    let found = machine.calls().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("{name}")).1
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_verdict_is_moby_s() {
    let lines = MOBY.lines().filter(|line| !line.starts_with('#'));
    let recorded: HashMap<&str, [&str; 2]> = lines
        .map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap();
            (next(), [next(), next()])
        })
        .collect();
    for (column, capabilities) in [Capabilities::default(), Capabilities::ALL]
        .into_iter()
        .enumerate()
    {
        let program = default_program(capabilities);
        for machine in [Machine::X86_64, Machine::I386] {
            let newest = newest(machine, profile::mentioned());
            for (name, number) in machine.calls() {
                let got = run(&program, &Call::new(machine, number));
                let expected = match recorded[name][column] {
                    // As runc completes the profile: what is newer than all of it is absent.
                    _ if number > newest => errno(libc::ENOSYS),
                    // No namespace, the current personality, an unspecified family.
                    "allow" | "args" => ALLOW,
                    refused => errno(refused.strip_prefix("errno:").unwrap().parse().unwrap()),
                };
                assert_eq!(got, expected, "{name} of {machine:?} with {capabilities:?}");
            }
        }
    }
}

#[test]
fn what_nobody_knows_is_refused_or_absent() {
    let program = default_program(Capabilities::default());
    let machine = Machine::NATIVE;
    let known: HashMap<u32, &str> = machine
        .calls()
        .map(|(name, number)| (number, name))
        .collect();
    for number in 0..1024 {
        let got = run(&program, &Call::new(machine, number));
        if number > newest(machine, profile::mentioned()) {
            assert_eq!(got, errno(libc::ENOSYS), "{number}");
        } else if !known.contains_key(&number) {
            assert_eq!(got, errno(libc::EPERM), "{number}");
        }
    }
    for number in [u32::MAX, 0x3fff_ffff, i32::MAX as u32] {
        assert_eq!(
            run(&program, &Call::new(machine, number)),
            errno(libc::ENOSYS)
        );
    }
    let foreign = Call {
        architecture: 0x1234,
        ..Call::new(machine, 0)
    };
    assert_eq!(run(&program, &foreign), libc::SECCOMP_RET_KILL_PROCESS);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_numbers_are_absent() {
    let program = default_program(Capabilities::ALL);
    for (_, number) in Machine::X86_64.calls() {
        let call = Call::new(Machine::X86_64, number + FIRST_X32);
        assert_eq!(run(&program, &call), errno(libc::ENOSYS));
    }
}

/// One argument of a call, and whether it is let through.
fn check(name: &str, argument: usize, value: u64, allowed: bool) {
    let program = default_program(Capabilities::default());
    for machine in Machine::all() {
        let mut call = Call::new(*machine, number(*machine, name));
        call.arguments[argument] = value;
        let expected = if allowed { ALLOW } else { errno(libc::EPERM) };
        assert_eq!(
            run(&program, &call),
            expected,
            "{name} {value:#x} of {machine:?}"
        );
    }
}

#[test]
fn arguments_are_looked_at() {
    for (value, allowed) in [
        (0, true),
        (8, true),
        (0x2_0000, true),
        (0x2_0008, true),
        (0xffff_ffff, true),
        (1, false),
        (0x40_0000, false),
        (0x1_0000_0000, false),
        (u64::MAX, false),
    ] {
        check("personality", 0, value, allowed);
    }
    let wide = 1 << 32;
    for family in 0..64_u64 {
        let allowed = ![libc::AF_ALG as u64, libc::AF_VSOCK as u64].contains(&family);
        check("socket", 0, family, allowed);
        // The kernel takes the family as an int.
        check("socket", 0, family | wide, allowed);
    }
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    check("clone", 0, thread | libc::SIGCHLD as u64, true);
    for bit in 0..32 {
        let forbidden = 0x7e02_0000_u64 & (1 << bit) != 0;
        check("clone", 0, thread | (1 << bit), !forbidden);
    }
    check("ioctl", 1, u64::from(libc::TIOCSTI as u32), false);
    check("ioctl", 1, u64::from(libc::TIOCSWINSZ as u32), true);
}

#[test]
fn changes_of_owners_are_asked_about_where_they_are_recorded() {
    let program = program(
        &Seccomp::Default,
        Capabilities::default(),
        Changes::Recorded,
    )
    .unwrap()
    .unwrap();
    for name in ["fchownat", "fchown"] {
        let call = Call::new(Machine::NATIVE, number(Machine::NATIVE, name));
        assert_eq!(run(&program, &call), libc::SECCOMP_RET_USER_NOTIF, "{name}");
    }
    let call = Call::new(Machine::NATIVE, number(Machine::NATIVE, "setresuid"));
    assert_eq!(run(&program, &call), errno(0));
}

#[test]
fn one_id_is_pretended_to_be_many() {
    let single = |seccomp: &Seccomp| {
        program(seccomp, Capabilities::default(), Changes::Pretended)
            .unwrap()
            .unwrap()
    };
    for seccomp in [Seccomp::Default, Seccomp::Unconfined] {
        let program = single(&seccomp);
        for name in ["fchownat", "setgroups", "setresuid", "capset"] {
            let call = Call::new(Machine::NATIVE, number(Machine::NATIVE, name));
            assert_eq!(run(&program, &call), errno(0), "{name}");
        }
        for (mode, verdict) in [
            (libc::S_IFCHR | 0o600, errno(0)),
            (libc::S_IFBLK, errno(0)),
            (libc::S_IFIFO | 0o600, ALLOW),
            (libc::S_IFREG, ALLOW),
        ] {
            let mut call = Call::new(Machine::NATIVE, number(Machine::NATIVE, "mknodat"));
            call.arguments[2] = mode.into();
            assert_eq!(run(&program, &call), verdict, "{mode:o}");
        }
    }
    let mount = Call::new(Machine::NATIVE, number(Machine::NATIVE, "mount"));
    assert_eq!(run(&single(&Seccomp::Default), &mount), errno(libc::EPERM));
    assert_eq!(run(&single(&Seccomp::Unconfined), &mount), ALLOW);
    assert!(
        program(&Seccomp::Unconfined, Capabilities::ALL, Changes::Real)
            .unwrap()
            .is_none()
    );
}

#[test]
fn any_call_is_decided_in_few_steps() {
    let program = default_program(Capabilities::default());
    assert!(program.len() < 700, "{} steps", program.len());
    for (name, number) in Machine::NATIVE.calls() {
        let (_, steps) = walk(&program, &Call::new(Machine::NATIVE, number));
        assert!(steps < 40, "{name}: {steps}");
    }
}

/// The answer to one argument by a profile with one rule on it.
fn by_profile(op: &str, value: u64, two: u64, argument: u64) -> bool {
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["read", "nothing"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{{"index": 1, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
    );
    let profile = file::Profile::parse(&text).unwrap();
    let seccomp = Seccomp::Profile(Box::new(profile));
    let program = program(&seccomp, Capabilities::default(), Changes::Real);
    let program = program.unwrap().unwrap();
    let mut call = Call::new(Machine::NATIVE, number(Machine::NATIVE, "read"));
    call.arguments[1] = argument;
    run(&program, &call) == ALLOW
}

#[test]
fn comparisons_of_profiles_see_all_64_bits() {
    let values = [
        0,
        1,
        7,
        0xffff_ffff,
        1 << 32,
        (1 << 32) | 7,
        u64::MAX - 1,
        u64::MAX,
    ];
    for value in values {
        for argument in values {
            let holds = |op: &str| by_profile(op, value, 0, argument);
            assert_eq!(holds("EQ"), argument == value, "{argument} {value}");
            assert_eq!(holds("NE"), argument != value, "{argument} {value}");
            assert_eq!(holds("LT"), argument < value, "{argument} {value}");
            assert_eq!(holds("LE"), argument <= value, "{argument} {value}");
            assert_eq!(holds("GT"), argument > value, "{argument} {value}");
            assert_eq!(holds("GE"), argument >= value, "{argument} {value}");
            for two in [0, 1, value] {
                let masked = by_profile("MASKED_EQ", value, two, argument);
                assert_eq!(masked, argument & value == two, "{argument} {value} {two}");
            }
        }
    }
}

#[test]
fn profiles_know_capabilities_and_actions() {
    let text = r#"{"defaultAction": "SCMP_ACT_LOG", "archMap": [], "syscalls": [
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"name": "umount2", "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["chdir"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["fchdir"], "action": "SCMP_ACT_TRAP", "includes": {"minKernel": "99.1"}},
        {"names": ["chroot"], "action": "SCMP_ACT_TRAP", "includes": {"minKernel": "3.1"}}]}"#;
    let seccomp = Seccomp::Profile(Box::new(file::Profile::parse(text).unwrap()));
    let verdict = |name: &str, capabilities| {
        let program = program(&seccomp, capabilities, Changes::Real)
            .unwrap()
            .unwrap();
        run(
            &program,
            &Call::new(Machine::NATIVE, number(Machine::NATIVE, name)),
        )
    };
    let plain = Capabilities::default();
    assert_eq!(verdict("mount", plain), libc::SECCOMP_RET_LOG);
    assert_eq!(verdict("mount", Capabilities::ALL), ALLOW);
    assert_eq!(verdict("umount2", plain), errno(5));
    assert_eq!(verdict("umount2", Capabilities::ALL), libc::SECCOMP_RET_LOG);
    assert_eq!(verdict("chdir", plain), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(verdict("fchdir", plain), libc::SECCOMP_RET_LOG);
    assert_eq!(verdict("chroot", plain), libc::SECCOMP_RET_TRAP);
    for bad in [
        "{}",
        r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    ] {
        assert!(file::Profile::parse(bad).is_err(), "{bad}");
    }
}

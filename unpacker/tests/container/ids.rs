//! Users and ids, with whatever ids there are here.

use libtest_mimic::Trial;
use unpacker::container::exit::Exit;
use unpacker::container::idmap::{IdMap, as_user};
use unpacker::container::launch::Launcher;
use unpacker::container::run::RunError;
use unpacker::container::spec::User;
use unpacker::progress::Cancel;

use crate::fixture::{Room, good, run_for};

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 5] = [
        ("ids: the user is switched, or refused", user),
        ("ids: nobody looks into who takes on a user", never_dumpable),
        ("ids: owners", owners),
        ("ids: what is not mapped is refused", unmapped),
        ("ids: a host command runs as the real user", real_user),
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

fn user() {
    let room = Room::new();
    let mut spec =
        room.spec("id; busybox grep -E 'Cap(Prm|Eff)' /proc/self/status; echo x >/etc/x");
    spec.process.user = User {
        uid: 1000,
        gid: 1001,
        groups: vec![7, 8],
    };
    let (exit, ran) = run_for(&spec, None, &Cancel::default());
    if IdMap::current().unwrap().is_single() {
        // The one id is called as the user is, and so everything belongs to the user; but it is
        // not root.
        assert_eq!(exit.unwrap(), Exit::Code(0));
        assert!(ran.out.contains("uid=1000 gid=1001"), "{ran:?}");
        assert!(ran.out.contains("CapEff:\t0000000000000000"), "{ran:?}");
        return;
    }
    assert_eq!(exit.unwrap(), Exit::Code(1));
    assert!(
        ran.out.contains("uid=1000 gid=1001 groups=1001,7,8") || ran.out.contains("groups=7,8"),
        "{ran:?}"
    );
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(ran.out.contains(line), "{ran:?}");
    }
    assert!(ran.err.contains("Permission denied"), "{ran:?}");
}

/// With one id everybody in the container is the same user, and could trace whatever says for a
/// moment that it may be looked into. Here whoever says so fails.
fn never_dumpable() {
    let mut program = [
        load(0),
        unless(libc::SYS_prctl as u32, 4),
        load(16),
        unless(libc::PR_SET_DUMPABLE as u32, 2),
        load(24),
        // This one goes over the next when the word is the same.
        libc::sock_filter {
            jt: 1,
            ..unless(1, 0)
        },
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let room = Room::new();
    let mut spec = room.spec("id -u");
    spec.process.user = User {
        uid: 1000,
        gid: 1000,
        groups: vec![],
    };
    // Filters belong to a thread and to what it starts.
    let ran = std::thread::spawn(move || {
        install(&mut program);
        run_for(&spec, None, &Cancel::default())
    });
    let (exit, ran) = ran.join().unwrap();
    assert_eq!(exit.unwrap(), Exit::Code(0), "{ran:?}");
    assert_eq!(ran.out.trim(), "1000");
}

/// A word of `struct seccomp_data`, by its place.
fn load(place: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place)
}

/// Goes on when the word is this one, and over so many statements when not.
fn unless(word: u32, over: u8) -> libc::sock_filter {
    libc::sock_filter {
        jf: over,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, word)
    }
}

fn answer(with: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, with)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn install(program: &mut [libc::sock_filter]) {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program outlives the call, which copies it.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    assert_eq!(installed, 0, "{}", std::io::Error::last_os_error());
}

fn owners() {
    let room = Room::new();
    let out = good(&room.spec(
        "echo x >/tmp/f && busybox chown 33:44 /tmp/f && busybox stat -c %u:%g /tmp/f
         busybox mknod /tmp/p p && busybox mknod /tmp/null c 1 3 2>/dev/null; echo $?",
    ));
    let single = IdMap::current().unwrap().is_single();
    let owner = if single { "0:0" } else { "33:44" };
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some(owner), "{out}");
    // A device node is refused by the kernel in a nested namespace, pretended with one id.
    let made = lines.next().unwrap();
    assert_eq!(made == "0", single, "{out}");
}

fn unmapped() {
    let ids = IdMap::current().unwrap();
    // All ids exist, or the only one can be called anything.
    if ids.is_whole() || ids.is_single() {
        return;
    }
    let room = Room::new();
    let mut spec = room.spec("id");
    spec.process.user.uid = 4_000_000;
    let (exit, _) = run_for(&spec, None, &Cancel::default());
    let Err(RunError::Refused(refusal)) = exit else {
        panic!("{exit:?}");
    };
    assert!(refusal.text.contains("4000000"), "{refusal}");
}

fn real_user() {
    let uid = || IdMap::current().unwrap().uids[0].outside;
    let output = as_user(&Launcher::this(), "id")
        .unwrap()
        .arg("-u")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        uid().to_string()
    );
    let missing = as_user(&Launcher::this(), "/no/such/program")
        .unwrap()
        .output();
    if let Ok(output) = missing {
        assert_eq!(output.status.code(), Some(127));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("/no/such/program"), "{said}");
    }
}

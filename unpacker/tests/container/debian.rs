//! A real distribution: packages install, users are made and switched to.
//!
//! Needs the network and a root file system, so it runs only when `DEVPOD_TEST_DEBIAN` names a tar
//! archive of one (`mmdebstrap --variant=minbase bookworm base.tar`).

use libtest_mimic::Trial;
use unpacker::container::idmap::IdMap;
use unpacker::container::spec::User;

use crate::fixture::{Room, good};

pub(crate) fn trials() -> Vec<Trial> {
    let tar = std::env::var_os("DEVPOD_TEST_DEBIAN");
    if tar.is_none() {
        eprintln!("skipped: DEVPOD_TEST_DEBIAN names no archive of a Debian root");
    }
    let ignored = tar.is_none();
    let test = move || {
        packages(&Room::from_tar(tar.clone().unwrap_or_default().as_ref()));
        Ok(())
    };
    vec![Trial::test("debian: packages install", test).with_ignored_flag(ignored)]
}

const SCRIPT: &str = "set -e
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends sudo openssh-client cron
    dpkg -l sudo openssh-client cron | grep -c ^ii
    useradd -m joe
    su joe -c id
    echo 'joe ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/joe
    chmod 440 /etc/sudoers.d/joe
    stat -c '%U:%G %a %n' /usr/bin/ssh-agent /usr/bin/sudo /home/joe
    dpkg --verify sudo openssh-client && echo verified";

fn packages(room: &Room) {
    let mut spec = room.spec(SCRIPT);
    spec.process.env = [
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "LC_ALL=C",
    ]
    .map(String::from)
    .to_vec();
    let out = good(&spec);
    eprintln!(
        "{}",
        out.lines().rev().take(8).collect::<Vec<_>>().join("\n")
    );
    assert!(out.contains("\n3\n") && out.contains("verified"), "{out}");
    let single = IdMap::current().unwrap().is_single();
    if single {
        return;
    }
    assert!(out.contains("uid=1000(joe)"), "{out}");
    assert!(out.contains("root:_ssh 2755 /usr/bin/ssh-agent"), "{out}");
    // A setuid program gives an ordinary user root's ids and capabilities.
    spec.process.args[2] = "id -u; sudo -n id -u".into();
    spec.process.user = User {
        uid: 1000,
        gid: 1000,
        groups: vec![],
    };
    assert_eq!(good(&spec), "1000\n0\n");
    let changes = room.changes();
    for stray in ["etc/resolv.conf", "etc/hosts", "dev/null", "proc", "sys"] {
        assert!(!changes.contains(&stray.to_owned()), "{stray}");
    }
}

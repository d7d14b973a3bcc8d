//! `RUN --mount`: ssh agents, secrets as both, and how caches are shared.

use std::os::unix::net::UnixListener;

use builder::error::{BuildError, StepError};
use builder::request::Secret;
use libtest_mimic::Trial;
use unpacker::layer::Ownership;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_ssh_agent_is_reached", agent),
        trial("an_agent_that_is_missing_is_told", no_agent),
        trial("secrets_as_file_and_variable", secrets),
        trial("private_caches_are_apart", private),
        trial("sizes_and_modes_of_mounts", sizes),
    ]
}

fn agent() {
    let room = Room::new(&[]);
    let path = room.dir.path().join("agent.sock");
    // What is said through it is the business of `run::agent`, and of the integration tests.
    let _listener = UnixListener::bind(&path).unwrap();
    let mut request = room.request(
        "FROM busybox
RUN --mount=type=ssh echo $SSH_AUTH_SOCK > /where && stat -c '%a %u' $SSH_AUTH_SOCK >> /where
USER app
RUN --mount=type=ssh,uid=1000,required test -S $SSH_AUTH_SOCK -a -w $SSH_AUTH_SOCK
RUN --mount=type=ssh,id=none test -z \"$(ls /run/buildkit 2>/dev/null)\"
RUN --mount=type=ssh,target=/tmp/a.sock,uid=1000 --mount=type=ssh echo $SSH_AUTH_SOCK > /tmp/first
",
    );
    request.ssh.insert("default".to_owned(), path);
    let built = room.run(&request);
    let built = built.unwrap_or_else(|e| panic!("{} {}", e.record().error, room.output()));
    let tree = room.tree_of(&built);
    assert_eq!(tree.read("where"), "/run/buildkit/ssh_agent.0\n600 0\n");
    assert_eq!(tree.read("tmp/first"), "/tmp/a.sock\n");
    assert!(
        !tree.has("run/buildkit"),
        "the socket's place is left behind"
    );
    // An agent is no reason to run again.
    request.ssh.clear();
    assert_eq!(room.run(&request).unwrap().digest, built.digest);
}

fn no_agent() {
    let room = Room::new(&[("f", "f")]);
    let mut request = room.request("FROM busybox\nRUN --mount=type=ssh,required true\n");
    let error = room.run(&request).unwrap_err();
    let BuildError::Step { source, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(source, StepError::NoAgent { id } if id == "default"));
    assert!(error.record().suggestion.unwrap().contains("ssh-add"));
    // A key is no agent.
    request
        .ssh
        .insert("default".to_owned(), room.context().join("f"));
    let error = room.run(&request).unwrap_err().record().error;
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(room.staged(), 0);
}

fn secrets() {
    let room = Room::new(&[]);
    let mut request = room.request(
        "FROM busybox
RUN --mount=type=secret,id=t,env=T test \"$T\" = hush && ! test -e /run/secrets/t
RUN --mount=type=secret,id=t,env=T,target=/t test \"$T\" = hush && test \"$(cat /t)\" = hush
RUN --mount=type=secret,id=a/b,mode=0444,uid=7,gid=8 stat -c '%a %u:%g' /run/secrets/b > /out
",
    );
    let value = |text: &str| Secret::Value(text.as_bytes().to_vec());
    request.secrets.insert("t".to_owned(), value("hush"));
    request.secrets.insert("a/b".to_owned(), value("x"));
    assert!(!format!("{request:?}").contains("hush"));
    let built = room.run(&request);
    let tree = room.tree_of(&built.unwrap_or_else(|e| panic!("{}", e.record().error)));
    assert_eq!(tree.read("out"), format!("444 {}\n", seen("7:8")));
    assert!(!tree.has("t") && !tree.has("run"));
    request
        .secrets
        .insert("t".to_owned(), Secret::Value(vec![b'x'; 600 * 1024]));
    request.no_cache = true;
    let error = room.run(&request).unwrap_err().record().error;
    assert!(error.contains("has more than 512000 bytes"), "{error}");
}

/// An owner as a process sees it: with one single id every file belongs to that.
fn seen(owner: &str) -> &str {
    match Ownership::detect() {
        Ownership::Mapped => owner,
        Ownership::Recorded | Ownership::Mine => "0:0",
    }
}

/// A step that finds a private cache held has another one, and a shared one is the same for both.
fn private() {
    let room = Room::new(&[]);
    let mounts = room.dir.path().join("cache/mounts");
    std::fs::create_dir_all(&mounts).unwrap();
    let step = |sharing: &str, command: &str| {
        format!("FROM busybox\nRUN --mount=type=cache,target=/c,sharing={sharing} {command}\n")
    };
    let first = room.tree(&step("private", "echo one > /c/f; ls /c > /out"));
    assert_eq!(first.read("out"), "f\n");
    let folder = std::fs::read_dir(&mounts)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    let held = std::fs::File::open(folder.with_extension("lock")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let apart = room.tree(&step("private", "ls /c > /out; true # apart"));
    assert_eq!(apart.read("out"), "");
    let shared = room.tree(&step("shared", "ls /c > /out"));
    assert_eq!(shared.read("out"), "f\n");
    drop(held);
    let again = room.tree(&step("private", "ls /c > /out; true # again"));
    assert_eq!(again.read("out"), "f\n");
}

fn sizes() {
    let room = Room::new(&[("d/f", "f")]);
    let tree = room.tree(
        "FROM busybox
RUN --mount=type=tmpfs,target=/t,size=64k ! busybox dd if=/dev/zero of=/t/x bs=1k count=200 2>/dev/null
RUN --mount=type=bind,source=d,target=/d,rw echo new > /d/f && cat /d/f > /seen
RUN --mount=type=bind,source=d,target=/d cat /d/f >> /seen
RUN --mount=type=cache,target=/c,mode=0770,uid=5,gid=6 stat -c '%a %u:%g' /c >> /seen
RUN --mount=type=cache,target=/c,ro ! touch /c/x
RUN --security=sandbox --network=host true
",
    );
    assert_eq!(tree.read("seen"), format!("new\nf770 {}\n", seen("5:6")));
}

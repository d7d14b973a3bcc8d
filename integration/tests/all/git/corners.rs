//! Where git is not as usual: not there, over ssh, old, shut, or asked to stay.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::git::{Server, Work};
use integration::probe;
use integration::process::{self, Ran};

use super::Scene;

const NOT_FOUND: i32 = 3;
const UNREACHABLE: i32 = 5;
const DENIED: i32 = 6;

/// A repository with a Dockerfile that needs no base image, below `r` of a folder.
fn project(folder: &Folder) -> Work {
    let work = Work::new(&folder.join("r/repo.git"));
    work.write("Dockerfile", "FROM scratch\nCOPY . /all\n");
    work.write("top", "one\n");
    work.commit();
    work
}

/// A place whose daemon finds programs in these folders alone.
fn with_path(path: &str) -> Place {
    let place = Place::new();
    // The daemon is this command's.
    let mut start = place.devpod(&["sandbox", "ps"]);
    process::run(start.env("PATH", path)).ok();
    place
}

/// Builds an ADD of an address, and a context of it.
fn both(place: &Place, folder: &Folder, url: &str, options: &[&str]) -> [Ran; 2] {
    folder.write("c/Dockerfile", format!("FROM scratch\nADD {url} /x\n"));
    let context = folder.join("c").display().to_string();
    [&context, url].map(|context| place.run(&[&["build"], options, &[context]].concat()))
}

#[test]
fn without_git_it_is_told_what_to_install() {
    if !probe::programs(&["git"]) {
        return;
    }
    let folder = Folder::new();
    project(&folder);
    let server = Server::start(&folder.join("r"), None);
    let place = with_path(folder.path().to_str().unwrap());
    for ran in both(&place, &folder, &server.url("repo.git"), &[]) {
        ran.failed(NOT_FOUND)
            .says("git is not installed on this host")
            .says("nstall git on this host");
    }
}

#[test]
fn the_exit_code_says_who_is_to_blame() {
    if !probe::programs(&["git"]) {
        return;
    }
    let folder = Folder::new();
    project(&folder);
    let shut = Server::start(&folder.join("r"), Some("basic nobody"));
    let open = Server::start(&folder.join("r"), None);
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let appliance = TestAppliance::start();
    for (url, code, says) in [
        (
            format!("http://{free}/repo.git"),
            UNREACHABLE,
            "check the address",
        ),
        (shut.url("repo.git"), DENIED, "GIT_AUTH_TOKEN"),
        (open.url("nowhere.git"), NOT_FOUND, "check the address"),
    ] {
        for ran in both(appliance.place(), &folder, &url, &[]) {
            assert_eq!(ran.code, code, "{ran}");
            assert!(
                ran.stderr.to_lowercase().contains(&says.to_lowercase()),
                "{ran}"
            );
        }
    }
}

#[test]
fn a_server_that_gives_no_single_commits() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    let first = scene.work.git(&["rev-parse", "HEAD"]).trim().to_owned();
    for text in ["two\n", "three\n"] {
        scene.work.write("top", text);
        scene.work.commit();
    }
    let old = Server::of_names_alone(&scene.folder.join("r"));
    let add = |behind: &str| {
        let url = old.url(&format!("repo.git{behind}"));
        scene.build(&format!("ADD {url} /src/"), &[])
    };
    add(&format!("#{first}")).ok();
    assert_eq!(scene.sh("cat /src/top"), "one");
    // The commit alone was refused, and then everything was fetched.
    assert!(old.packs() >= 2, "{} packs", old.packs());
    add("#main").ok();
    assert_eq!(scene.sh("cat /src/top"), "three");
    let nothing = "0123456789abcdef0123456789abcdef01234567";
    assert_ne!(add(&format!("#{nothing}")).code, 0);
}

#[test]
fn a_context_keeps_its_history_where_it_is_asked_to() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    let inner = Work::new(&scene.folder.join("r/inner.git"));
    inner.write("inside", "of the submodule\n");
    inner.commit();
    let address = scene.server.url("inner.git");
    scene
        .work
        .git(&["submodule", "--quiet", "add", &address, "lib"]);
    scene
        .work
        .write("Dockerfile", "FROM busybox:1\nCOPY . /src\n");
    let commit = scene.work.commit();
    let build = |options: &[&str]| {
        let url = scene.url("#main");
        let all = [&["build", "-t", "made"], options, &[&url]].concat();
        scene.appliance.run(&all).ok();
        scene.sh("cat /src/lib/inside; cat /src/.git/refs/heads/main 2>/dev/null || echo no git")
    };
    assert_eq!(build(&[]), "of the submodule\nno git");
    let keep = |value: &str| format!("BUILDKIT_CONTEXT_KEEP_GIT_DIR={value}");
    for value in ["1", "true"] {
        let kept = build(&["--build-arg", &keep(value)]);
        assert_eq!(kept, format!("of the submodule\n{commit}"), "{value}");
    }
    assert_eq!(
        build(&["--build-arg", &keep("0")]),
        "of the submodule\nno git"
    );
}

/// In the place of ssh: says what it was given, and runs the other end itself.
const SSH: &str = "#!/bin/sh
echo \"$SSH_AUTH_SOCK $*\" >> LOG
case \"$*\" in
*stranger*) echo 'Host key verification failed.' >&2; exit 255;;
*locked*) echo 'git@locked: Permission denied (publickey).' >&2; exit 255;;
*away*) echo 'ssh: connect to host away port 22: Connection refused' >&2; exit 255;;
esac
test -S \"$SSH_AUTH_SOCK\" || { echo 'git@host: Permission denied (publickey).' >&2; exit 255; }
for last; do :; done
exec sh -c \"$last\"
";

#[test]
fn over_ssh_with_the_callers_agent() {
    if !probe::programs(&["git"]) {
        return;
    }
    let folder = Folder::new();
    project(&folder);
    let log = folder.join("log");
    let ssh = folder.write("bin/ssh", SSH.replace("LOG", log.to_str().unwrap()));
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.join("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let own = std::env::var("PATH").unwrap();
    let place = with_path(&format!("{}:{own}", ssh.parent().unwrap().display()));
    let agent = format!("default={}", socket.display());
    let url = |host: &str| format!("ssh://git@{host}{}", folder.join("r/repo.git").display());
    for ran in both(&place, &folder, &url("host"), &["--ssh", &agent]) {
        ran.ok();
    }
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains(socket.to_str().unwrap()), "{said}");
    for word in [
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "-F /dev/null",
        "UserKnownHostsFile=",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // Without the agent nobody is let in, and each failure says what it is.
    for (host, code, says) in [
        ("host", DENIED, "Permission denied"),
        ("stranger", DENIED, "Host key verification failed"),
        ("locked", DENIED, "--ssh default"),
        ("away", UNREACHABLE, "Connection refused"),
    ] {
        for ran in both(&place, &folder, &url(host), &["--no-cache"]) {
            if host == "host" && ran.code == 0 {
                panic!("it was fetched without an agent: {ran}");
            }
            ran.failed(code).says(says);
        }
    }
    assert!(Path::new(&log).exists());
}

//! RUN: forms, environment, user, network, mounts.

use std::fs;

use libtest_mimic::Trial;

use builder::request::Secret;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("forms_of_a_command", forms),
        trial("environment_and_user", environment),
        trial("changes_become_layers", changes),
        trial("mounts_leave_no_trace", mounts),
        trial("no_network", network),
    ]
}

fn forms() {
    let room = Room::new(&[]);
    let tree = room.tree(
        r#"FROM busybox
RUN echo shell > /shell
RUN ["/bin/sh", "-c", "echo $0 > /exec", "zero"]
RUN <<EOF
echo one > /here
echo two >> /here
EOF
RUN <<EOF cat > /fed
fed
EOF
RUN <<EOF
#!/bin/cat
script
EOF
SHELL ["/bin/sh", "-c", "echo by $0 > /shelled; eval \"$0\""]
RUN true
"#,
    );
    assert_eq!(tree.read("shell"), "shell\n");
    assert_eq!(tree.read("exec"), "zero\n");
    assert_eq!(tree.read("here"), "one\ntwo\n");
    assert_eq!(tree.read("fed"), "fed\n");
    assert_eq!(tree.read("shelled"), "by true\n");
    assert!(room.output().contains("script\n"), "{}", room.output());
    assert!(!tree.has("dev/pipes"));
}

fn environment() {
    let room = Room::new(&[]);
    let tree = room.tree(
        "FROM busybox
ENV E=1
WORKDIR /w
RUN chown app /w
USER app
RUN id -u > who && id -g >> who && pwd >> who && echo $HOME $E >> who
",
    );
    // Also with one single id: the command sees it as the user's.
    assert_eq!(tree.read("w/who"), "1000\n1001\n/w\n/home/app 1\n");
    assert_eq!(tree.access("w/who"), "644 1000:1001");
}

fn changes() {
    let room = Room::new(&[("d/f", "f"), ("d/g", "g")]);
    let built = room
        .build("FROM busybox\nCOPY d /d\nRUN rm /d/f && rm -r /root && echo new > /d/n\nRUN true\n")
        .unwrap();
    let tree = room.tree_of(&built);
    assert_eq!(tree.list("d"), ["g", "n"]);
    assert!(!tree.has("root"));
    assert_eq!(
        built.stack.len(),
        3,
        "a command that changes nothing makes no layer"
    );
    let last = built.config.history.last().unwrap();
    assert!(last.empty_layer);
}

fn mounts() {
    let room = Room::new(&[
        ("d/f", "bound\n"),
        ("secret-ignored", "x"),
        (".dockerignore", "secret-*"),
    ]);
    let secret = room.dir.path().join("token");
    fs::write(&secret, "hush").unwrap();
    let dockerfile = "FROM busybox AS other
RUN echo staged > /staged
FROM busybox
RUN --mount=type=cache,target=/cache echo kept > /cache/k
RUN --mount=type=cache,target=/cache,sharing=locked cat /cache/k > /out
RUN --mount=target=/ctx cat /ctx/d/f >> /out; ls /ctx >> /out; ! touch /ctx/no
RUN --mount=from=other,source=/staged,target=/s,rw cat /s >> /out; echo x > /s
RUN --mount=type=tmpfs,target=/tmpfs touch /tmpfs/x
RUN --mount=type=secret,id=t cat /run/secrets/t
RUN --mount=type=secret,id=t,env=T echo -n $T | wc -c >> /out
RUN --mount=type=secret,id=none ls /run 2>/dev/null; true
";
    let mut request = room.request(dockerfile);
    request
        .secrets
        .insert("t".into(), Secret::File(secret.clone()));
    let built = room
        .run(&request)
        .unwrap_or_else(|e| panic!("{}", e.record().error));
    let tree = room.tree_of(&built);
    assert_eq!(tree.read("out"), "kept\nbound\nd\nstaged\n4\n");
    assert!(room.output().contains("hush"));
    for path in ["cache", "ctx", "s", "tmpfs", "run"] {
        assert!(!tree.has(path), "{path} is left behind");
    }
    // Another value of a secret is no reason to run again; another source of a bind is.
    fs::write(&secret, "other").unwrap();
    let again = room.run(&request).unwrap();
    assert_eq!(again.digest, built.digest);
    room.write("d/f", "changed\n");
    let changed = room.run(&request).unwrap();
    assert_ne!(changed.digest, built.digest);
    let none = "FROM busybox\nRUN --mount=type=secret,id=q,required=true true\n";
    let error = room.build(none).unwrap_err().record().error;
    assert!(error.contains("secret \"q\""), "{error}");
}

fn network() {
    let room = Room::new(&[]);
    let host = room.tree("FROM busybox\nRUN ls /sys/class/net > /net\n");
    let none = room.tree("FROM busybox\nRUN --network=none ls /sys/class/net > /net\n");
    assert_eq!(none.read("net"), "lo\n");
    assert!(host.read("net").contains("lo\n"));
}

//! One Dockerfile of many features, built by buildah too: the trees must be the same.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use unpacker::content::Content;
use unpacker::image::layout::Layout;
use unpacker::image::read::load;
use unpacker::image::unpack::unpack_to;
use unpacker::layer::Ownership;
use unpacker::layer::apply::ApplyOptions;
use unpacker::progress::Silent;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    if Ownership::detect() == Ownership::Recorded {
        eprintln!("skipped: the_same_tree_as_buildah: buildah needs a range of ids");
        return Vec::new();
    }
    for tool in ["buildah", "skopeo"] {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("skipped: the_same_tree_as_buildah: {tool} is not installed");
            return Vec::new();
        }
    }
    vec![trial("the_same_tree_as_buildah", same_tree)]
}

const DOCKERFILE: &str = r#"
ARG BASE
FROM $BASE AS build
ARG VERSION=1.2
ENV DIR=/src NAME="a b"
WORKDIR $DIR/deep
COPY --chown=app:web src ./
COPY src/*.c src/sub /flat/
ADD bundle.tar.gz /unpacked
RUN chmod 711 . && echo "$VERSION $NAME" > version && mkdir -p /out/bin && cp main.c /out/bin/main
RUN rm -r /flat/keep /root && ln -s main.c /flat/link && ln /flat/main.c /flat/hard
RUN chown -R 12:34 /out && chmod 4755 /out/bin/main && chmod 2770 /out
FROM $BASE
RUN mkdir /tmp/made && mv /etc/group /etc/group2 && mkdir /gone
COPY --from=build /out /opt/out
COPY --from=build /flat/link /flat/hard /links/
COPY --from=build --chown=1000 /unpacked /unpacked/
COPY . /all
RUN rmdir /gone && mkdir /gone && touch /gone/new
USER app
WORKDIR /all/src
COPY src/main.c .
COPY src/main.c /etc/passwd-
CMD ["sh"]
"#;

fn same_tree() {
    let room = Room::new(&[
        ("src/main.c", "int main;"),
        ("src/other.c", "int other;"),
        ("src/sub/keep/k", "k"),
        ("src/sub/s", "s"),
        ("ignored/no", "no"),
        ("ignored/yes", "yes"),
        (".dockerignore", "ignored\n!ignored/yes\n**/*.tmp\n"),
        ("src/x.tmp", "tmp"),
    ]);
    symlink("main.c", room.context().join("src/link")).unwrap();
    pack_bundle(&room);
    room.write("Dockerfile", DOCKERFILE);
    let mut request = room.request(DOCKERFILE);
    request.build_args.insert("BASE".into(), "busybox".into());
    let built = room
        .run(&request)
        .unwrap_or_else(|e| panic!("{}", e.record().error));
    let ours = listing(&room.tree_of(&built).path(""));
    let theirs = listing(&by_buildah(&room));
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let missing = a.iter().filter(|line| !b.contains(line));
        missing.cloned().collect()
    };
    let difference = (only(&ours, &theirs), only(&theirs, &ours));
    assert_eq!(difference, (vec![], vec![]), "only ours, only buildah's");
    assert!(ours.len() > 60, "{ours:?}");
}

fn pack_bundle(room: &Room) {
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o600);
    header.set_uid(3);
    header.set_gid(4);
    tar.append_data(&mut header, "inner/file", &b"abc"[..])
        .unwrap();
    let bytes = tar.into_inner().unwrap().finish().unwrap();
    fs::write(room.context().join("bundle.tar.gz"), bytes).unwrap();
}

/// Builds with buildah in a store of its own and unpacks what it made.
fn by_buildah(room: &Room) -> std::path::PathBuf {
    let store = room.dir.path().join("buildah");
    let content = room.dir.path().join("content").display().to_string();
    let base = format!("oci:{content}:docker.io/library/busybox:latest");
    let (root, run) = (store.join("root"), store.join("run"));
    let place = format!("[vfs@{}+{}]", root.display(), run.display());
    let target = format!("containers-storage:{place}localhost/base:latest");
    output(Command::new("skopeo").args(["copy", "-q", &base, &target]));
    let context = room.context().display().to_string();
    let arg = "BASE=localhost/base:latest";
    let build = [
        "bud",
        "--isolation",
        "chroot",
        "--build-arg",
        arg,
        "-q",
        &context,
    ];
    let built = buildah(&store, &build);
    let out = room.dir.path().join("theirs");
    let target = format!("oci:{}:out", out.display());
    buildah(&store, &["push", "-q", built.trim(), &target]);
    let layout = Layout::open(&out).unwrap();
    let found = layout.find("out").unwrap().unwrap();
    let content: &dyn Content = &layout;
    let manifest = content.read(found.digest(), 1 << 20).unwrap().unwrap();
    let image = load(content, &manifest).unwrap();
    let tree = room.dir.path().join("their-tree");
    fs::create_dir(&tree).unwrap();
    let options = ApplyOptions::default();
    unpack_to(&image, content, &tree, &options, &Silent, &room.cancel).unwrap();
    tree
}

fn buildah(store: &Path, args: &[&str]) -> String {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs", "--root"]);
    command
        .arg(store.join("root"))
        .arg("--runroot")
        .arg(store.join("run"));
    output(command.args(args))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A line per path: kind, mode, owner, links, content.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            // Where containers meet their host; buildah leaves what it mounted on.
            if [
                "proc",
                "sys",
                "dev",
                "run",
                "etc/hosts",
                "etc/hostname",
                "etc/resolv.conf",
            ]
            .contains(&&*name)
            {
                continue;
            }
            let kind = if found.is_dir() { "d" } else { "f" };
            let content = match found.is_file() {
                true => unpacker::digest::sha256(&fs::read(&path).unwrap()).to_string(),
                false => fs::read_link(&path)
                    .map(|t| t.display().to_string())
                    .unwrap_or_default(),
            };
            let links = if found.is_dir() { 0 } else { found.nlink() };
            let (mode, uid, gid) = (found.mode(), found.uid(), found.gid());
            lines.push(format!(
                "{name} {kind} {mode:o} {uid}:{gid} {links} {content}"
            ));
            if found.is_dir() {
                todo.push(path);
            }
        }
    }
    lines.sort();
    lines
}

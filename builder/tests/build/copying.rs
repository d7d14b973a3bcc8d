//! COPY and ADD: where files go, whose they are, and what cannot happen.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use libtest_mimic::Trial;
use serde_json::json;
use unpacker::layer::Ownership;

use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("destinations", destinations),
        trial("owners_and_modes", owners),
        trial("dockerignore", ignoring),
        trial("links_are_followed_inside", links),
        trial("sources_in_images_never_lead_out", image_sources),
        trial("archives_are_unpacked", archives),
        trial("hostile_archives_stay_inside", hostile_archive),
        trial("files_in_the_dockerfile", inline),
        trial("hard_links_and_stages_keep_owners", from_stage),
    ]
}

const FILES: &[(&str, &str)] = &[
    ("a.txt", "a"),
    ("b.txt", "b"),
    ("dir/x", "x"),
    ("dir/sub/y", "y"),
];

fn destinations() {
    let room = Room::new(FILES);
    for (copy, want) in [
        ("COPY a.txt /new", &["new"][..]),
        ("COPY a.txt /new/", &["new/", "new/a.txt"]),
        ("COPY a.txt b.txt /d/", &["d/", "d/a.txt", "d/b.txt"]),
        ("COPY *.txt /d/", &["d/", "d/a.txt", "d/b.txt"]),
        ("COPY dir /d", &["d/", "d/sub/", "d/sub/y", "d/x"]),
        ("COPY dir/ /d/", &["d/", "d/sub/", "d/sub/y", "d/x"]),
        ("COPY dir/* /d/", &["d/", "d/x", "d/y"]),
        (
            "COPY dir a.txt /d/",
            &["d/", "d/a.txt", "d/sub/", "d/sub/y", "d/x"],
        ),
        ("WORKDIR /w\nCOPY a.txt .", &["w/", "w/a.txt"]),
        ("WORKDIR /w\nCOPY a.txt b", &["w/", "w/b"]),
        ("WORKDIR /w\nCOPY a.txt ../c", &["c", "w/"]),
        ("WORKDIR /w\nCOPY a.txt /w", &["w/", "w/a.txt"]),
        ("COPY ../../a.txt nothing* /d/", &["d/", "d/a.txt"]),
        ("COPY [\"a.txt\", \"/with space\"]", &["with space"]),
        (
            "ARG D=/via/arg\nCOPY a.txt $D/",
            &["via/", "via/arg/", "via/arg/a.txt"],
        ),
    ] {
        let tree = room.tree(&format!("FROM scratch\n{copy}\n"));
        assert_eq!(tree.list(""), want, "{copy}");
    }
    let error = room.build("FROM scratch\nCOPY *.txt /d\n").unwrap_err();
    assert!(
        error.record().error.contains("ends with /"),
        "{}",
        error.record().error
    );
}

fn owners() {
    let room = Room::new(FILES);
    fs::create_dir(room.context().join("x")).unwrap();
    let tree = room.tree(
        "FROM busybox
COPY --chown=app a.txt /home/deep/n1
COPY --chown=app:web a.txt /n2
COPY --chown=7 --chmod=4750 a.txt /n3
COPY --chown=5:6 dir /n4
USER app
COPY a.txt /n5
WORKDIR /made/here
",
    );
    for (path, want) in [
        ("home/deep/n1", "644 1000:1001"),
        ("home/deep", "755 1000:1001"),
        ("n2", "644 1000:33"),
        ("n3", "4750 7:7"),
        ("n4/sub/y", "644 5:6"),
        ("n4", "755 5:6"),
        ("n5", "644 0:0"),
        ("made/here", "755 1000:1001"),
    ] {
        assert_eq!(tree.access(path), want, "{path}");
    }
}

fn ignoring() {
    let room = Room::new(FILES);
    room.write(".dockerignore", "*.txt\n!b.txt\ndir/sub\n");
    let tree = room.tree("FROM scratch\nCOPY . /\n");
    assert_eq!(tree.list(""), [".dockerignore", "b.txt", "dir/", "dir/x"]);
    let error = room.build("FROM scratch\nCOPY a.txt /\n").unwrap_err();
    assert!(
        error.record().error.contains("an ignore file"),
        "{}",
        error.record().error
    );
    // The one beside the Dockerfile comes first.
    room.write("Other", "FROM scratch\nCOPY . /\n");
    room.write("Other.dockerignore", "*\n!a.txt\n");
    let mut request = room.request("");
    request.dockerfile = builder::request::DockerfileSource::Path("Other".into());
    let built = room.run(&request).unwrap();
    assert_eq!(room.tree_of(&built).list(""), ["a.txt"]);
}

fn links() {
    let room = Room::new(FILES);
    let outside = tempfile::tempdir().unwrap();
    let base = room.dir.path().join("linked");
    fs::create_dir_all(base.join("real")).unwrap();
    symlink("/real", base.join("app")).unwrap();
    symlink(outside.path(), base.join("out")).unwrap();
    symlink("../../../../../..", base.join("up")).unwrap();
    room.add_image("docker.io/library/linked:latest", &base, json!({}));
    symlink("/etc/passwd", room.context().join("secret")).unwrap();
    let dockerfile = format!(
        "FROM linked\nCOPY a.txt /app/\nCOPY a.txt /out/\nCOPY a.txt /up{}/z\n",
        outside.path().display()
    );
    let tree = room.tree(&dockerfile);
    assert_eq!(tree.read("real/a.txt"), "a");
    let inside = outside
        .path()
        .strip_prefix("/")
        .unwrap()
        .display()
        .to_string();
    assert_eq!(tree.read(&format!("{inside}/a.txt")), "a");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(room.build("FROM scratch\nCOPY secret /s\n").is_err());
}

pub(crate) fn tar(entries: &[(&str, &str, Option<&str>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data, link) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(5);
        header.set_gid(6);
        let bytes = name.as_bytes();
        header.as_old_mut().name[..bytes.len()].copy_from_slice(bytes);
        if let Some(target) = link {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name(target).unwrap();
        }
        header.set_size(if link.is_some() { 0 } else { data.len() as u64 });
        header.set_cksum();
        builder
            .append(
                &header,
                if link.is_some() {
                    "".as_bytes()
                } else {
                    data.as_bytes()
                },
            )
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn archives() {
    let room = Room::new(FILES);
    let plain = tar(&[("in/f", "packed", None)]);
    let gz = {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        gz.finish().unwrap()
    };
    let bz = {
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&plain).unwrap();
        bz.finish().unwrap()
    };
    let xz = {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        xz.finish().unwrap()
    };
    let zst = zstd::encode_all(&plain[..], 1).unwrap();
    for (name, bytes) in [
        ("p.tar", &plain),
        ("p.gz", &gz),
        ("p.bz", &bz),
        ("p.xz", &xz),
        ("p.zst", &zst),
    ] {
        fs::write(room.context().join(name), bytes).unwrap();
        let tree = room.tree(&format!(
            "FROM busybox\nADD {name} /to\nCOPY {name} /kept\n"
        ));
        assert_eq!(tree.read("to/in/f"), "packed", "{name}");
        assert_eq!(tree.access("to/in/f"), "640 5:6");
        assert_eq!(&fs::read(tree.path("kept")).unwrap(), bytes);
    }
    fs::write(room.context().join("odd.tar.gz"), "no archive").unwrap();
    let tree = room.tree("FROM busybox\nADD odd.tar.gz a.txt dir /to/\n");
    assert_eq!(
        tree.list("to"),
        ["a.txt", "odd.tar.gz", "sub/", "sub/y", "x"]
    );
}

/// CVE-2019-10152, and CVE-2024-11218: what is taken out of an image is looked for inside it.
fn image_sources() {
    let room = Room::new(&[]);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "of the host").unwrap();
    let target = outside.path().display().to_string();
    let base = room.dir.path().join("linked");
    fs::create_dir_all(base.join("real")).unwrap();
    symlink(&target, base.join("absolute")).unwrap();
    symlink(format!("../../../../../..{target}"), base.join("up")).unwrap();
    symlink(format!("{target}/secret"), base.join("real/file")).unwrap();
    room.add_image("docker.io/library/linked:latest", &base, json!({}));
    let sources = ["/absolute/secret", "/up/secret", "/real/file", "/up"];
    let traversal = format!("/real/../../../../../..{target}/secret");
    for source in sources.into_iter().chain([&*traversal]) {
        for line in [
            format!("COPY --from=linked {source} /got"),
            format!(
                "RUN --mount=from=linked,source={source},target=/m,rw cp -r /m /got; echo x > /m"
            ),
        ] {
            let dockerfile = format!("FROM busybox\n{line}\n");
            let error = room
                .build(&dockerfile)
                .map(drop)
                .unwrap_err()
                .record()
                .error;
            assert!(!error.contains("of the host"), "{error}");
            assert!(!room.output().contains("of the host"), "{line}");
        }
    }
    let secret = outside.path().join("secret");
    assert_eq!(fs::read_to_string(secret).unwrap(), "of the host");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    // Inside, links go where they would in a container.
    fs::create_dir_all(base.join(&target[1..])).unwrap();
    fs::write(base.join(&target[1..]).join("secret"), "of the image").unwrap();
    room.add_image("docker.io/library/linked:latest", &base, json!({}));
    let tree = room.tree("FROM busybox\nCOPY --from=linked /absolute/secret /got\n");
    assert_eq!(tree.read("got"), "of the image");
}

fn hostile_archive() {
    let room = Room::new(&[]);
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().display().to_string();
    let bytes = tar(&[
        ("../../../../up", "1", None),
        ("link", "", Some(&target)),
        ("link/through", "2", None),
        (&format!("{target}/absolute"), "3", None),
    ]);
    fs::write(room.context().join("evil.tar"), bytes).unwrap();
    let result = room.build("FROM busybox\nADD evil.tar /to/\n");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    if let Ok(built) = result {
        let tree = room.tree_of(&built);
        assert!(!tree.has("up"), "nothing leaves the destination");
        assert_eq!(tree.read("to/up"), "1");
    }
    assert_eq!(room.staged(), 0);
}

fn inline() {
    let room = Room::new(&[]);
    let tree = room.tree(
        "FROM busybox
ARG WHO=me
COPY --chown=app --chmod=600 <<one <<\"two\" /d/
hello $WHO
one
plain $WHO
two
COPY <<file /named
x
file
",
    );
    assert_eq!(tree.read("d/one"), "hello me\n");
    assert_eq!(tree.read("d/two"), "plain $WHO\n");
    assert_eq!(tree.read("named"), "x\n");
    assert_eq!(tree.access("d/one"), "600 1000:1001");
}

fn from_stage() {
    let room = Room::new(&[]);
    let tree = room.tree(
        "FROM busybox AS a
RUN mkdir /d && echo x > /d/f && ln /d/f /d/g && ln -s f /d/l && chown -R 7:8 /d && chmod 2750 /d
FROM scratch
COPY --from=a /d /e
COPY --from=a --chown=1:2 /d/l /l
",
    );
    assert_eq!(tree.list(""), ["e/", "e/f", "e/g", "e/l", "l"]);
    assert_eq!(tree.access("e"), "755 0:0");
    if Ownership::detect() == Ownership::Mapped {
        // A chown inside RUN is pretended with one single id.
        assert_eq!(tree.access("e/f"), "644 7:8");
    }
    assert_eq!(
        tree.access("l"),
        "644 1:2",
        "a link as a source is followed"
    );
    use std::os::unix::fs::MetadataExt;
    let ino = |name: &str| fs::metadata(tree.path(name)).unwrap().ino();
    assert_eq!(ino("e/f"), ino("e/g"));
}

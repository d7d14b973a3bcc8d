//! Named build contexts: folders and images that stand for stages and images.

use std::fs;

use builder::request::NamedContext;
use libtest_mimic::Trial;
use serde_json::json;

use super::fixture::{Room, Tree, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("folders_by_name", folders),
        trial("contexts_stand_for_stages_and_images", standing),
        trial("a_stage_on_a_folder", from_folder),
    ]
}

/// A folder `other` outside of the context, and an image `extra`.
fn room() -> (Room, NamedContext, NamedContext) {
    let room = Room::new(&[("mine", "mine")]);
    let other = room.dir.path().join("other");
    fs::create_dir_all(other.join("sub")).unwrap();
    fs::write(other.join("sub/f"), "other").unwrap();
    fs::write(other.join("hidden"), "x").unwrap();
    fs::write(other.join(".dockerignore"), "hidden\n.dockerignore\n").unwrap();
    let extra = room.dir.path().join("extra");
    fs::create_dir_all(&extra).unwrap();
    fs::write(extra.join("who"), "extra").unwrap();
    let config = json!({"Env": ["FROM_EXTRA=yes"]});
    room.add_image("docker.io/library/extra:latest", &extra, config);
    let image = NamedContext::Image("extra".parse().unwrap());
    (room, NamedContext::Folder(other), image)
}

fn build(room: &Room, contexts: &[(&str, &NamedContext)], dockerfile: &str) -> Tree {
    let mut request = room.request(dockerfile);
    for (name, context) in contexts {
        request
            .contexts
            .insert((*name).to_owned(), (*context).clone());
    }
    let built = room.run(&request);
    room.tree_of(&built.unwrap_or_else(|e| panic!("{}", e.record().error)))
}

fn folders() {
    let (room, folder, image) = room();
    let contexts = [("lib", &folder), ("img", &image)];
    let tree = build(
        &room,
        &contexts,
        "FROM busybox
COPY --from=lib / /l/
COPY --from=img who /w
RUN --mount=from=lib,target=/in cat /in/sub/f > /seen
RUN --mount=from=img,target=/in cat /in/who >> /seen
RUN --mount=type=cache,from=lib,source=/sub,target=/c ls /c >> /seen && echo more > /c/g
RUN --mount=type=cache,from=lib,source=/sub,target=/c cat /c/g >> /seen
",
    );
    assert_eq!(
        tree.list("l"),
        ["sub/", "sub/f"],
        "its own ignore file holds"
    );
    assert_eq!(tree.read("w"), "extra");
    assert_eq!(tree.read("seen"), "otherextraf\nmore\n");
}

fn standing() {
    let (room, folder, image) = room();
    // The stage's own instructions are not run.
    let file = "FROM busybox AS deps\nRUN exit 1\nFROM scratch\nCOPY --from=deps / /d/\n";
    let tree = build(&room, &[("deps", &folder)], file);
    assert_eq!(tree.list("d"), ["sub/", "sub/f"]);
    let tree = build(&room, &[("DEPS", &image)], file);
    assert_eq!(tree.list("d"), ["who"]);
    // By another spelling of the same image.
    for (name, from) in [
        ("alpine", "alpine:latest"),
        ("alpine:latest", "alpine"),
        ("docker.io/library/alpine", "alpine"),
        ("alpine:3", "docker.io/library/alpine:3"),
    ] {
        let file = format!("FROM {from}\nENV got=$FROM_EXTRA\nCOPY mine /m$got\n");
        let tree = build(&room, &[(name, &image)], &file);
        assert_eq!(tree.list(""), ["myes", "who"], "{name} for {from}");
        let file = format!("FROM scratch\nCOPY --from={from} who /\n");
        assert_eq!(build(&room, &[(name, &image)], &file).list(""), ["who"]);
    }
    // A stage in between keeps its name.
    let file = "FROM scratch AS a\nCOPY mine /\nFROM a\n";
    assert_eq!(build(&room, &[("other", &image)], file).list(""), ["mine"]);
}

fn from_folder() {
    let (room, folder, _) = room();
    let file = "FROM base\nCOPY mine /sub/\n";
    let tree = build(&room, &[("base", &folder)], file);
    assert_eq!(tree.list(""), ["sub/", "sub/f", "sub/mine"]);
    let mut request = room.request(file);
    request.contexts.insert("base".to_owned(), folder);
    let built = room.run(&request).unwrap();
    assert_eq!((built.cached, built.stack.len()), (2, 2));
}

//! Our trees and those of other tools, entry by entry: type, mode, owner, time, attributes, links and
//! content.
//!
//! umoci unpacks layers one after the other into one tree, which is what image-spec says and what we
//! do. podman and docker keep each layer by itself and are wrong about some layers; each of those has
//! a case that says how (`faults`), and where a later version of theirs is right it is as we are.

mod faults;
mod images;
mod peers;
mod single;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::process::run;
use integration::tree::{self, Look, Tree};
use integration::{base_image, probe};

use peers::{Docker, Podman};

/// What `devpod unpack` makes of an image.
fn ours(appliance: &TestAppliance, layout: &Path, name: &str) -> PathBuf {
    appliance.load(layout, &format!("{name}:1"));
    let destination = appliance.place().home().join(format!("out-{name}"));
    let text = destination.display().to_string();
    let reference = appliance.reference(&format!("{name}:1"));
    appliance.run(&["unpack", &reference, &text]).ok();
    destination
}

#[track_caller]
fn same(what: &str, ours: &Tree, theirs: &Tree) {
    let difference = tree::difference(ours, theirs);
    assert!(
        difference.is_empty(),
        "{what}: ours, then theirs\n{difference}"
    );
}

fn can_compare() -> bool {
    probe::root() && probe::programs(&["umoci", "skopeo"])
}

#[test]
fn umoci_makes_the_same_trees() {
    if !can_compare() {
        return;
    }
    let folder = Folder::new();
    let appliance = TestAppliance::start();
    for image in images::all(&folder) {
        let mine = tree::of(&ours(&appliance, &image.layout, image.name));
        let theirs = peers::umoci(&folder, &image.layout).unwrap();
        same(image.name, &mine, &theirs);
    }
}

#[test]
fn podman_and_docker_make_the_same_trees() {
    let folder = Folder::new();
    if !can_compare() {
        return;
    }
    let (Some(podman), Some(docker)) = (Podman::new(&folder), Docker::start()) else {
        return;
    };
    let appliance = TestAppliance::start();
    for image in images::all(&folder).into_iter().filter(|image| image.tame) {
        let mine = tree::of(&ours(&appliance, &image.layout, image.name));
        let mine = images::without_root(mine);
        for (tool, theirs) in [
            ("podman", podman.tree(&image.layout)),
            ("docker", docker.tree(&image.layout)),
        ] {
            let theirs = images::without_root(theirs.unwrap());
            same(&format!("{} and {tool}", image.name), &mine, &theirs);
        }
    }
}

#[test]
fn what_others_get_wrong() {
    let folder = Folder::new();
    if !can_compare() {
        return;
    }
    let (Some(podman), Some(docker)) = (Podman::new(&folder), Docker::start()) else {
        return;
    };
    let appliance = TestAppliance::start();
    for fault in faults::all() {
        let layout = images::written(&folder, fault.name, &fault.layers);
        let mine = tree::of(&ours(&appliance, &layout, fault.name));
        let kinds = faults::kinds(&mine);
        assert_eq!(kinds, fault.right(), "{}", fault.name);
        fault.check("podman", &kinds, podman.tree(&layout), &fault.podman);
        fault.check("docker", &kinds, docker.tree(&layout), &fault.docker);
    }
}

/// The old form of sparse files is known to GNU tar alone, which made the layer.
#[test]
fn gnu_tar_makes_the_same_sparse_files() {
    if !probe::programs(&["tar", "skopeo"]) || !probe::root() {
        return;
    }
    let folder = Folder::new();
    let source = images::source(&folder);
    let (layer, theirs) = (folder.join("layer.tar"), folder.join("theirs"));
    std::fs::create_dir(&theirs).unwrap();
    let tar = |arguments: &[&str]| {
        let mut command = std::process::Command::new("tar");
        command
            .args(arguments)
            .arg("--numeric-owner")
            .arg("-f")
            .arg(&layer);
        command
    };
    let from = source.display().to_string();
    run(&mut tar(&[
        "-c",
        "--format=gnu",
        "--sparse",
        "-C",
        &from,
        ".",
    ]))
    .ok();
    let to = theirs.display().to_string();
    run(&mut tar(&["-x", "--same-owner", "-p", "-C", &to])).ok();
    let layout = folder.join("layout");
    let bytes = std::fs::read(&layer).unwrap();
    assert!(bytes.len() < 1 << 20, "it is not sparse");
    integration::layout::write(&layout, &[bytes], serde_json::json!({}));
    let appliance = TestAppliance::start();
    let destination = ours(&appliance, &layout, "sparse");
    same("GNU tar", &tree::of(&destination), &tree::of(&theirs));
    let found = std::fs::metadata(destination.join("sparse")).unwrap();
    assert!(found.blocks() * 512 < 1 << 20, "the holes are gone");
}

/// What an ordinary user with a range of ids gets is what root gets, each id moved by as much.
#[test]
fn a_user_with_a_range_gets_the_same_trees() {
    if !can_compare() || !probe::programs(&["newuidmap", "newgidmap", "useradd", "usermod"]) {
        return;
    }
    let folder = Folder::new();
    let account = Account::with_range();
    let (own, first) = ((account.uid, account.gid), account.first_subordinate());
    let appliance = TestAppliance::start_at(Place::of(account));
    // What is not mapped in a user namespace cannot be owned there.
    for image in images::all(&folder)
        .into_iter()
        .filter(|image| image.small_ids)
    {
        let destination = ours(&appliance, &image.layout, image.name);
        let moved = |id: u32, own: u32| if id == own { 0 } else { id - first + 1 };
        let look = Look {
            owner: &|_, data| (moved(data.uid(), own.0), moved(data.gid(), own.1)),
            xattr: &tree::is_the_images,
        };
        let mine = images::without_capability_form(look.at(&destination));
        let theirs = peers::umoci(&folder, &image.layout).unwrap();
        same(
            image.name,
            &mine,
            &images::without_capability_form(images::without_nodes(theirs)),
        );
    }
}

/// With one id all files are the user's, and what they should be is noted beside them: by us and by
/// umoci in attributes of different names.
#[test]
fn a_user_with_one_id_gets_the_same_trees() {
    if !can_compare() || !probe::programs(&["useradd", "userdel"]) {
        return;
    }
    let folder = Folder::new();
    let appliance = TestAppliance::start_at(Place::of(Account::without_range()));
    for image in images::all(&folder)
        .into_iter()
        .filter(|image| !image.large)
    {
        let mine = single::ours(&ours(&appliance, &image.layout, image.name));
        let theirs = peers::umoci_rootless(&appliance, &folder, &image.layout);
        same(image.name, &mine, &single::umocis(&theirs));
    }
}

#[test]
fn a_debian_is_the_same_everywhere() {
    let Some(debian) = base_image::debian() else {
        return;
    };
    let folder = Folder::new();
    if !can_compare() {
        return;
    }
    let (Some(podman), Some(docker)) = (Podman::new(&folder), Docker::start()) else {
        return;
    };
    let layout = images::above(&debian, &folder);
    let appliance = TestAppliance::start();
    let mine = tree::of(&ours(&appliance, &layout, "debian"));
    assert!(mine.len() > 5000, "{} paths", mine.len());
    for (name, theirs) in [
        ("umoci", peers::umoci(&folder, &layout)),
        ("podman", podman.tree(&layout)),
        ("docker", docker.tree(&layout)),
    ] {
        let theirs = images::without_console(theirs.unwrap());
        match name {
            "umoci" => same(name, &mine, &theirs),
            _ => same(
                name,
                &images::without_root(mine.clone()),
                &images::without_root(theirs),
            ),
        }
    }
}

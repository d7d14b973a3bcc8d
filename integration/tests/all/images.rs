//! `images`, `inspect`, `image history`, `tag` and `rmi`, as users of docker and podman expect them.

use integration::process::Ran;
use serde_json::Value;

use super::archives::{NAME, Scene};

fn lines(ran: Ran) -> Vec<String> {
    ran.ok().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn images_are_listed_filtered_and_shown() {
    let Some(scene) = Scene::set(&[]) else { return };
    let here = &scene.appliance;
    let short = &scene.id.strip_prefix("sha256:").unwrap()[..12];
    here.run(&["tag", NAME, "app:2"]).ok();
    let rows = here.run(&["images", "-o", "json"]).ok().json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    for row in rows.as_array().unwrap() {
        assert_eq!(row["digest"], scene.digest.as_str());
        assert_eq!(row["id"], scene.id.as_str());
        // The other name needs all of it.
        assert_eq!(
            (&row["uniqueSize"], row["sharedSize"].as_u64() > Some(0)),
            (&Value::from(0), true)
        );
        assert_eq!(row["platforms"].as_array().unwrap().len(), 1);
    }
    let table = lines(here.run(&["images"]));
    assert!(
        table[0].starts_with("REPOSITORY") && table[0].contains("IMAGE ID"),
        "{table:?}"
    );
    assert!(
        table.iter().filter(|line| line.contains(short)).count() == 2,
        "{table:?}"
    );
    here.run(&["images", "--digests"]).ok().says(&scene.digest);
    // One image, whatever it is called.
    assert_eq!(lines(here.run(&["images", "-q"])), [short]);
    assert_eq!(
        lines(here.run(&["images", "-q", "--no-trunc"])),
        [scene.id.as_str()]
    );
    for (arguments, count) in [
        (&["app"][..], 1),
        (&["app:1"], 0),
        (&["--filter", "reference=*/team/*"], 1),
        (&["--filter", "dangling=true"], 0),
        (&["--all"], 2),
        (&["--filter", "label=none"], 0),
    ] {
        let all = [&["images", "-o", "json"], arguments].concat();
        let rows = here.run(&all).ok().json();
        assert_eq!(rows.as_array().unwrap().len(), count, "{arguments:?}");
    }
    here.run(&["images", "--filter", "x=y"])
        .failed(2)
        .says("no filter");
    // By name, by both kinds of id, and by their beginnings.
    let digest = scene.digest.strip_prefix("sha256:").unwrap();
    for name in [NAME, "app:2", short, &scene.id, &digest[..8]] {
        let shown = here.run(&["inspect", name]).ok().json();
        assert_eq!(shown["digest"], scene.digest.as_str(), "{name}");
        assert_eq!(shown["names"].as_array().unwrap().len(), 2);
    }
    let both = here.run(&["inspect", NAME, "app:2"]).ok().json();
    assert_eq!(both.as_array().unwrap().len(), 2);
    let raw = here.run(&["inspect", "--raw", NAME]).ok().stdout;
    assert_eq!(integration::layout::digest(raw.as_bytes()), scene.digest);
    let config = here.run(&["inspect", "--config", NAME]).ok().stdout;
    assert_eq!(integration::layout::digest(config.as_bytes()), scene.id);
    let history = here
        .run(&["image", "history", NAME, "-o", "json"])
        .ok()
        .json();
    let steps = history.as_array().unwrap();
    assert_eq!(steps.len(), 2);
    assert!(
        steps
            .iter()
            .all(|step| step["layer"].is_string() && step["size"].as_u64() > Some(0))
    );
    here.run(&["image", "history", NAME])
        .ok()
        .says("CREATED BY");
}

#[test]
fn names_move_and_go_and_take_the_image_with_them() {
    let Some(scene) = Scene::set(&[]) else { return };
    let here = &scene.appliance;
    let id = scene.id.as_str();
    // From an id, and by digest; into deeper names; over another image's name.
    here.run(&["tag", &id[..20], "a/b/c:1"]).ok();
    let by_digest = format!("a/b/c@{}", scene.digest);
    here.run(&["tag", &by_digest, "other:1"]).ok();
    let context = scene
        .folder
        .write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let context = context.parent().unwrap().display().to_string();
    here.run(&["build", "-t", "other:1", &context]).ok();
    here.run(&["tag", "other:1", "new:1"]).ok();
    here.run(&["tag", NAME, "other:1"]).ok();
    let shown = here.run(&["inspect", "other:1"]).ok().json();
    assert_eq!(shown["digest"], scene.digest.as_str());
    here.run(&["inspect", "new:1"]).ok();
    for (source, target, code) in [
        (NAME, "x@sha256:00", 2),
        (NAME, "Bad", 2),
        ("unknown", "x:1", 3),
    ] {
        here.run(&["tag", source, target]).failed(code);
    }
    let by_digest = format!("x@{}", scene.digest);
    here.run(&["tag", NAME, &by_digest])
        .failed(2)
        .says("must have a tag");
    // An id of many names is not removed by accident.
    let short = &id["sha256:".len()..][..12];
    here.run(&["rmi", short])
        .failed(4)
        .says("several repositories");
    let ran = here.run(&["rmi", "other:1"]).ok();
    assert!(
        ran.stdout.starts_with("Untagged: ") && !ran.stdout.contains("Deleted"),
        "{ran}"
    );
    let ran = here.run(&["rmi", "-f", short]).ok();
    assert_eq!(ran.stdout.matches("Untagged: ").count(), 2, "{ran}");
    ran.says(&format!("Deleted: {}", scene.digest));
    here.run(&["inspect", NAME]).failed(3);
    here.run(&["rmi", "unknown", "new:1"])
        .failed(3)
        .says("Untagged: ");
    let rows = here.run(&["images", "--all", "-o", "json"]).ok().json();
    assert_eq!(rows, serde_json::json!([]));
}

#[test]
fn what_a_sandbox_uses_stays_unless_forced() {
    let Some(scene) = Scene::set(&[]) else { return };
    let here = &scene.appliance;
    let run = [
        "sandbox", "run", "--detach", "--name", "box", NAME, "sleep", "1000",
    ];
    here.run(&run).ok();
    here.run(&["rmi", NAME])
        .failed(4)
        .says("used by sandbox box");
    // It is the last name only that matters.
    here.run(&["tag", NAME, "second:1"]).ok();
    here.run(&["rmi", NAME]).ok();
    here.run(&["rmi", "second:1"]).failed(4);
    here.run(&["rmi", "--all"]).failed(4);
    here.run(&["rmi", "--force", "second:1"])
        .ok()
        .says("Deleted: ");
    let cat = ["sandbox", "exec", "box", "cat", "/etc/layer"];
    assert_eq!(here.run(&cat).ok().text(), "second");
    here.run(&["sandbox", "rm", "--force", "box"]).ok();
}

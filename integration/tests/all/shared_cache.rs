//! Caches that hosts share: what one host built, another does not build again.

use std::fs;
use std::path::Path;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::base_image;
use integration::clients::skopeo_copy;
use integration::folder::Folder;
use integration::probe;
use integration::process::Ran;
use serde_json::Value;

/// Two hosts with the same base image, and a project for both.
struct Scene {
    a: TestAppliance,
    b: TestAppliance,
    project: Folder,
}

/// What a random number decides is told apart from what was built elsewhere.
const DOCKERFILE: &str = "FROM busybox:1 AS tools
RUN cat /proc/sys/kernel/random/uuid > /tool
FROM busybox:1
WORKDIR /w
RUN cat /proc/sys/kernel/random/uuid > /w/r
COPY --from=tools /tool /w/tool
COPY f /w/f
RUN cat /w/r /w/f > /w/all
";
/// Steps with a result.
const STEPS: u64 = 6;

impl Scene {
    fn new() -> Option<Self> {
        Self::with(Place::new())
    }

    /// `b` is the second host.
    fn with(b: Place) -> Option<Self> {
        let project = Folder::new();
        let base = project.join("base");
        if !probe::programs(&["skopeo"]) || !base_image::busybox(&base) {
            return None;
        }
        let (a, b) = (TestAppliance::start(), TestAppliance::start_at(b));
        a.load(&base, "busybox:1");
        b.load(&base, "busybox:1");
        project.write("c/Dockerfile", DOCKERFILE);
        project.write("c/f", "one\n");
        Some(Self { a, b, project })
    }

    fn context(&self) -> String {
        self.project.join("c").display().to_string()
    }

    fn build(&self, on: &TestAppliance, options: &[&str]) -> Ran {
        let context = self.context();
        let all = [
            &["build", "-t", "made", "--output", "json"],
            options,
            &[&context],
        ]
        .concat();
        on.run(&all)
    }
}

fn cached(ran: Ran) -> u64 {
    ran.ok().json()["cached"].as_u64().unwrap()
}

/// A file of the image `made`.
fn read(on: &TestAppliance, path: &str) -> String {
    let ran = on.run(&["sandbox", "run", "--rm", "made", "cat", path]);
    ran.ok().text().to_owned()
}

fn same_image(scene: &Scene) {
    for path in ["/w/r", "/w/tool", "/w/all"] {
        assert_eq!(read(&scene.a, path), read(&scene.b, path), "{path}");
    }
}

fn is_whole(on: &TestAppliance) {
    let (all, number) = (read(on, "/w/all"), read(on, "/w/r"));
    assert!(all.starts_with(number.trim()), "{all} is not of {number}");
}

#[test]
fn all_steps_through_a_registry() {
    let Some(scene) = Scene::new() else { return };
    let reference = scene.a.reference("cache:max");
    let to = format!("type=registry,ref={reference},mode=max");
    let from = format!("type=registry,ref={reference}");
    // A cache that is not there yet is no failure.
    let first = scene.build(&scene.a, &["--cache-from", &from, "--cache-to", &to]);
    assert_eq!(cached(first.says("cannot use the cache")), 0);
    assert_eq!(
        cached(scene.build(&scene.b, &["--cache-from", &from])),
        STEPS
    );
    same_image(&scene);
    // It is this host's now, but for the first stage: nothing stood on that, and so it was not fetched.
    assert_eq!(cached(scene.build(&scene.b, &[])), STEPS - 1);
    same_image(&scene);
    scene.b.run(&["build-cache", "prune", "--all"]).ok();
    let tools = ["--target", "tools", "--cache-from", &reference];
    assert_eq!(cached(scene.build(&scene.b, &tools)), 1);

    let (number, tool) = (read(&scene.a, "/w/r"), read(&scene.a, "/w/tool"));
    scene.project.write("c/f", "two\n");
    // Neither the number nor the tool is made again; what reads the file is.
    assert_eq!(
        cached(scene.build(&scene.b, &["--cache-from", &from])),
        STEPS - 2
    );
    assert_eq!(read(&scene.b, "/w/r"), number);
    assert_eq!(read(&scene.b, "/w/tool"), tool);
    assert_eq!(read(&scene.b, "/w/all"), format!("{number}\ntwo"));
    // What stands on another host's layers is exported as a whole, and found by that one.
    let back = scene.b.reference("cache:back");
    let to = format!("type=registry,ref={back},mode=max");
    scene.build(&scene.b, &["--cache-to", &to]).ok();
    assert_eq!(
        cached(scene.build(&scene.a, &["--cache-from", &back])),
        STEPS
    );
    same_image(&scene);
}

/// The other tool's option for both directions, through the registry of the first host.
#[test]
fn a_cache_repository_of_envbuilder_serves_a_second_host() {
    let Some(scene) = Scene::new() else { return };
    let repository = scene.a.reference("team/cache");
    let build = |on: &TestAppliance| {
        let (context, image) = (scene.context(), on.reference("made:latest"));
        let arguments = [
            "envbuilder",
            "build",
            "--workspace",
            &context,
            "--image",
            &image,
            "--cache-repo",
            &repository,
        ];
        on.run(&arguments).ok()
    };
    build(&scene.a);
    let tags = scene.a.run(&["registry", "list"]).ok();
    assert!(tags.stdout.contains("team/cache"), "{tags}");
    build(&scene.b).says("(cached)");
    same_image(&scene);
    // The numbers would be others if the second host had drawn its own.
    is_whole(&scene.b);
}

#[test]
fn only_what_stands_on_it_is_fetched() {
    let Some(scene) = Scene::new() else { return };
    // 8 MiB that nothing but the first stage has.
    let mut big = vec![0; 8 << 20];
    let mut random = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut big).unwrap();
    scene.project.write("c/big", big);
    let text = DOCKERFILE.replacen("RUN cat", "COPY big /big\nRUN cat", 1);
    scene.project.write("c/Dockerfile", text);
    let reference = scene.a.reference("cache:max");
    let to = format!("type=registry,ref={reference},mode=max");
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    let built = scene.build(&scene.b, &["--cache-from", &reference]);
    assert_eq!(cached(built), STEPS + 1);
    same_image(&scene);
    let size = |on: &TestAppliance| {
        let blobs = on.place().data().join("content/blobs/sha256");
        let files = fs::read_dir(blobs).unwrap().flatten();
        files.map(|f| f.metadata().unwrap().len()).sum::<u64>()
    };
    assert!(size(&scene.a) > size(&scene.b) + (8 << 20));
}

#[test]
fn a_minimal_cache_has_the_images_steps() {
    let Some(scene) = Scene::new() else { return };
    let reference = scene.a.reference("cache:min");
    scene.build(&scene.a, &["--cache-to", &reference]).ok();
    let tools = ["--target", "tools", "--cache-from", &reference];
    assert_eq!(cached(scene.build(&scene.b, &tools)), 0);
    // The first stage was built by this host, so the copy of it is another one.
    let again = cached(scene.build(&scene.b, &["--cache-from", &reference]));
    assert_eq!(again, STEPS);
    same_image(&scene);
}

#[test]
fn the_image_itself_can_be_the_cache() {
    let Some(scene) = Scene::new() else { return };
    scene.build(&scene.a, &["--cache-to", "type=inline"]).ok();
    let image = scene.a.reference("made");
    assert_eq!(
        cached(scene.build(&scene.b, &["--cache-from", &image])),
        STEPS - 1
    );
    for path in ["/w/r", "/w/all"] {
        assert_eq!(read(&scene.a, path), read(&scene.b, path), "{path}");
    }
    // What is built on it does not say that it has the base image's steps.
    scene
        .project
        .write("c/Dockerfile", "FROM made\nRUN touch /x\n");
    let ran = scene.a.run(&["build", "-t", "above", &scene.context()]);
    ran.ok();
    let above = scene.a.reference("above");
    scene
        .build(&scene.b, &["--cache-from", &above])
        .ok()
        .says("there is no cache in it");
}

#[test]
fn a_folder_is_copied_and_read() {
    let Some(scene) = Scene::new() else { return };
    let (cache, copy) = (scene.project.join("cache"), scene.project.join("copy"));
    let to = format!("type=local,dest={},mode=max", cache.display());
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    // Again, into the folder that is there.
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    copy_folder(&cache, &copy);
    let from = format!("type=local,src={}", copy.display());
    assert_eq!(
        cached(scene.build(&scene.b, &["--cache-from", &from])),
        STEPS
    );
    same_image(&scene);
}

#[test]
fn a_user_takes_what_root_made() {
    let programs = ["useradd", "usermod", "userdel", "newuidmap", "newgidmap"];
    if !probe::root() || !probe::programs(&programs) {
        return;
    }
    let Some(scene) = Scene::with(Place::of(Account::with_range())) else {
        return;
    };
    let reference = scene.a.reference("cache:max");
    let to = format!("type=registry,ref={reference},mode=max");
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    let from = ["--cache-from", &reference, "--compression", "zstd"];
    assert_eq!(cached(scene.build(&scene.b, &from)), STEPS);
    same_image(&scene);
    // And back: a user's is root's.
    scene.project.write("c/f", "two\n");
    let back = scene.b.reference("cache:back");
    let to = format!("type=registry,ref={back},mode=max");
    let mut options = from.to_vec();
    options.extend(["--cache-to", &to]);
    assert_eq!(cached(scene.build(&scene.b, &options)), STEPS - 2);
    assert_eq!(
        cached(scene.build(&scene.a, &["--cache-from", &back])),
        STEPS
    );
    same_image(&scene);
}

#[test]
fn layers_are_packed_as_this_build_wants_them() {
    let Some(scene) = Scene::new() else { return };
    let reference = scene.a.reference("cache:max");
    let to = format!("type=registry,ref={reference},mode=max");
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    let options = ["--cache-from", &reference, "--compression", "zstd"];
    assert_eq!(cached(scene.build(&scene.b, &options)), STEPS);
    same_image(&scene);
    let image = scene.b.reference("made");
    let raw = format!("docker://{image}");
    let shown = scene.b.place().command("skopeo");
    let mut shown = shown;
    shown.args(["inspect", "--raw", "--tls-verify=false", &raw]);
    let manifest = integration::process::run(&mut shown).ok().json();
    let kinds = manifest["layers"].as_array().unwrap().iter();
    let own: Vec<&str> = kinds
        .skip(2)
        .filter_map(|l| l["mediaType"].as_str())
        .collect();
    assert!(
        own.len() == 5 && own.iter().all(|kind| kind.ends_with("+zstd")),
        "{manifest}"
    );
}

#[test]
fn another_run_of_the_same_commands_is_not_mixed_in() {
    let Some(scene) = Scene::new() else { return };
    let reference = scene.a.reference("cache:max");
    let to = format!("type=registry,ref={reference},mode=max");
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    // This host has a number of its own under the same key.
    let all = fs::read_to_string(scene.project.join("c/Dockerfile")).unwrap();
    let (first, _) = all.split_once("COPY --from=tools").unwrap();
    scene.project.write("c/Dockerfile", first);
    scene.build(&scene.b, &[]).ok();
    let own = read(&scene.b, "/w/r");
    assert_ne!(own, read(&scene.a, "/w/r"));
    scene.project.write("c/Dockerfile", &all);
    let built = scene.build(&scene.b, &["--cache-from", &reference]);
    assert_eq!(cached(built), STEPS);
    is_whole(&scene.b);
    same_image(&scene);
    // So it stays, with and without the cache.
    assert_eq!(cached(scene.build(&scene.b, &[])), STEPS - 1);
    same_image(&scene);
}

/// A stage that only its copies are known of, and that has to be carried out for another copy.
#[test]
fn two_runs_of_a_stage_are_not_mixed() {
    let Some(scene) = Scene::new() else { return };
    let reference = scene.a.reference("cache:min");
    let first = "FROM busybox:1 AS tools\nRUN cat /proc/sys/kernel/random/uuid > /tool\n\
        FROM busybox:1\nCOPY --from=tools /tool /one\n";
    let second = format!("{first}COPY --from=tools /tool /two\n");
    scene.project.write("c/Dockerfile", first);
    scene.build(&scene.a, &["--cache-to", &reference]).ok();
    let from = ["--cache-from", &reference];
    // As long as nothing else is read of it, the other host's is as good.
    assert_eq!(cached(scene.build(&scene.b, &from)), 1);
    assert_eq!(read(&scene.a, "/one"), read(&scene.b, "/one"));
    scene.project.write("c/Dockerfile", &second);
    for cached_steps in [1, 3] {
        assert_eq!(cached(scene.build(&scene.b, &from)), cached_steps);
        assert_eq!(read(&scene.b, "/one"), read(&scene.b, "/two"));
        assert_ne!(read(&scene.a, "/one"), read(&scene.b, "/one"));
    }
}

#[test]
fn what_is_damaged_or_gone_costs_time_and_no_build() {
    let Some(scene) = Scene::new() else { return };
    let cache = scene.project.join("cache");
    let to = format!("type=local,dest={},mode=max", cache.display());
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    let from = format!("type=local,src={}", cache.display());
    let manifest = manifest_of(&cache);
    let damage = |digest: &Value| {
        let name = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        let blob = cache.join("blobs/sha256").join(name);
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&blob, bytes).unwrap();
    };
    damage(&manifest["config"]["digest"]);
    let tools = ["--target", "tools", "--cache-from", &from];
    let built = scene.build(&scene.b, &tools).says("cannot use the cache");
    assert_eq!(cached(built), 0);

    damage(&manifest["config"]["digest"]);
    for layer in manifest["layers"].as_array().unwrap() {
        damage(&layer["digest"]);
    }
    let built = scene.build(&scene.b, &["--cache-from", &from]);
    built.ok().says("building without it");
    is_whole(&scene.b);
    assert_ne!(read(&scene.a, "/w/r"), read(&scene.b, "/w/r"));
}

#[test]
fn a_cache_that_cannot_be_written() {
    let Some(scene) = Scene::new() else { return };
    let file = scene.project.write("file", "");
    let to = format!("type=local,dest={}/below", file.display());
    scene
        .build(&scene.a, &["--cache-to", &to])
        .failed(1)
        .says("the image is built, but its cache cannot be written");
    read(&scene.a, "/w/all");
    let calm = format!("{to},ignore-error=true");
    scene
        .build(&scene.a, &["--cache-to", &calm])
        .ok()
        .says("cannot write the cache");
    for bad in ["type=gha", "type=registry", "type=local,src=/x"] {
        scene.build(&scene.a, &["--cache-to", bad]).failed(2);
    }
}

#[test]
fn other_tools_carry_it() {
    let Some(scene) = Scene::new() else { return };
    let reference = scene.a.reference("cache:max");
    let to = format!("type=registry,ref={reference},mode=max");
    scene.build(&scene.a, &["--cache-to", &to]).ok();
    let there = scene.b.reference("carried:1");
    skopeo_copy(
        &format!("docker://{reference}"),
        &format!("docker://{there}"),
    );
    // What a manifest names is not collected.
    scene.b.run(&["image", "prune"]).ok();
    let Scene { a, b, project } = scene;
    drop(a);
    let context = project.join("c").display().to_string();
    let options = ["build", "-t", "made", "--output", "json", "--cache-from"];
    let built = b.run(&[&options[..], &["carried:1", &context]].concat());
    assert_eq!(cached(built), STEPS);
    is_whole(&b);
}

fn copy_folder(from: &Path, to: &Path) {
    let mut copy = std::process::Command::new("cp");
    integration::process::run(copy.arg("-r").arg(from).arg(to)).ok();
}

fn manifest_of(layout: &Path) -> Value {
    let json = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = json(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let name = digest.strip_prefix("sha256:").unwrap();
    json(&layout.join("blobs/sha256").join(name))
}

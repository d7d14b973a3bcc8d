//! Git repositories as sources of ADD, as contexts and as named contexts.

mod corners;

use std::os::unix::fs::PermissionsExt;

use integration::appliance::TestAppliance;
use integration::base_image;
use integration::folder::Folder;
use integration::git::{Server, Work};
use integration::probe;
use integration::process::{Ran, run};

struct Scene {
    appliance: TestAppliance,
    folder: Folder,
    work: Work,
    server: Server,
}

impl Scene {
    fn new(authorization: Option<&'static str>) -> Option<Self> {
        let folder = Folder::new();
        let base = folder.join("base");
        if !probe::programs(&["git", "skopeo"]) || !base_image::busybox(&base) {
            return None;
        }
        let appliance = TestAppliance::start();
        appliance.load(&base, "busybox:1");
        let work = Work::new(&folder.join("r/repo.git"));
        work.write("top", "one\n");
        work.write("sub/deep", "deep\n");
        work.write("run.sh", "#!/bin/sh\n");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(work.path().join("run.sh"), executable).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", work.path().join("out")).unwrap();
        work.commit();
        let server = Server::start(&folder.join("r"), authorization);
        Some(Self {
            appliance,
            folder,
            work,
            server,
        })
    }

    fn url(&self, behind: &str) -> String {
        self.server.url(&format!("repo.git{behind}"))
    }

    /// Builds this after a FROM.
    fn build(&self, steps: &str, options: &[&str]) -> Ran {
        let text = format!("FROM busybox:1\n{steps}\n");
        self.folder.write("c/Dockerfile", text);
        let context = self.folder.join("c").display().to_string();
        let all = [
            &["build", "-t", "made", "--output", "json"],
            options,
            &[&context],
        ]
        .concat();
        self.appliance.run(&all)
    }

    fn sh(&self, script: &str) -> String {
        let ran = self
            .appliance
            .run(&["sandbox", "run", "--rm", "made", "sh", "-c", script]);
        ran.ok().text().to_owned()
    }
}

fn cached(ran: Ran) -> u64 {
    ran.ok().json()["cached"].as_u64().unwrap()
}

#[test]
fn a_repository_is_added() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    let first = scene.work.git(&["rev-parse", "HEAD"]).trim().to_owned();
    scene.work.git(&["tag", "-a", "v1", "-m", "m"]);
    let add = format!("ADD {} /src", scene.url(""));
    scene.build(&add, &[]).ok();
    let stat = "cd /src; stat -c '%n %a %u:%g' . top run.sh sub sub/deep; cat top; ls -a";
    let said = scene.sh(stat);
    assert_eq!(
        said,
        ". 755 0:0\ntop 644 0:0\nrun.sh 755 0:0\nsub 755 0:0\nsub/deep 644 0:0\none\n\
         .\n..\nout\nrun.sh\nsub\ntop"
    );
    // The commit is what counts: nothing is fetched for one that is known.
    let packs = scene.server.packs();
    assert_eq!(cached(scene.build(&add, &[])), 1);
    assert_eq!(scene.server.packs(), packs);

    scene.work.write("top", "two\n");
    let second = scene.work.commit();
    assert_eq!(cached(scene.build(&add, &[])), 0);
    assert_eq!(scene.sh("cat /src/top"), "two");
    // A tag, a folder, and an earlier commit that no branch or tag ends with.
    for (behind, path, text) in [
        ("#v1", "/src/top", "one"),
        ("#main:sub", "/src/deep", "deep"),
        ("?branch=main&subdir=sub", "/src/deep", "deep"),
        ("?tag=v1", "/src/top", "one"),
        (&format!("#{first}"), "/src/top", "one"),
    ] {
        scene
            .build(&format!("ADD {} /src/", scene.url(behind)), &[])
            .ok();
        assert_eq!(scene.sh(&format!("cat {path}")), text, "{behind}");
    }
    let with = |checksum: &str| {
        let add = format!("ADD --checksum={checksum} {} /src", scene.url("#main"));
        scene.build(&add, &[])
    };
    with(&second).ok();
    with(&first).failed(2).says(&second);
    let nowhere = format!("ADD {} /src", scene.url("#nosuch"));
    scene.build(&nowhere, &[]).failed(3).says("nosuch");
    for (behind, says) in [
        ("#none", "no branch, tag or commit"),
        (":x", ""),
        ("#main:no", "no folder"),
    ] {
        let ran = scene.build(&format!("ADD {} /src", scene.url(behind)), &[]);
        assert_ne!(ran.code, 0, "{ran}");
        ran.says(says);
    }
    let rows = scene.appliance.run(&["build-cache", "ls"]).ok();
    rows.says("git repository").says(&scene.url(""));
    scene.appliance.run(&["build-cache", "prune", "--all"]).ok();
    let rows = scene.appliance.run(&["build-cache", "ls"]).ok();
    assert!(!rows.stdout.contains("git repository"), "{rows}");
}

/// Git holds a lock during a shallow fetch, and one that is killed leaves it.
#[test]
fn a_killed_fetch_stops_no_later_one() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    let add = format!("ADD {} /src", scene.url(""));
    scene.build(&add, &[]).ok();
    let kept = scene.appliance.place().data().join("cache/git");
    let bare = std::fs::read_dir(kept).unwrap().map(|e| e.unwrap().path());
    let bare = bare.filter(|path| path.is_dir()).last().unwrap();
    for left in ["shallow.lock", "objects/pack/tmp_pack_AbCdEf"] {
        std::fs::write(bare.join(left), "half").unwrap();
    }
    scene.work.write("top", "two\n");
    scene.work.commit();
    scene.build(&add, &[]).ok();
    assert_eq!(scene.sh("cat /src/top"), "two");
    assert!(!bare.join("objects/pack/tmp_pack_AbCdEf").exists());
}

#[test]
fn git_s_own_folder_and_submodules() {
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
    let commit = scene.work.commit();
    scene
        .build(&format!("ADD {} /src", scene.url("")), &[])
        .ok();
    let git = "cat /src/lib/inside; ls -a /src /src/lib | grep -x .git || echo no git";
    assert_eq!(scene.sh(git), "of the submodule\nno git");
    let without = format!("ADD {} /src", scene.url("?submodules=false"));
    scene.build(&without, &[]).ok();
    assert_eq!(scene.sh("ls /src/lib"), "");
    let keep = format!("ADD --keep-git-dir {} /src", scene.url("#main"));
    scene.build(&keep, &[]).ok();
    assert_eq!(scene.sh("cat /src/.git/HEAD"), "ref: refs/heads/main");
    assert_eq!(scene.sh("cat /src/.git/refs/heads/main"), commit);
    let refused = scene.build("ADD --keep-git-dir=true f /src", &[]);
    refused
        .failed(2)
        .says("--keep-git-dir is of git repositories");
}

#[test]
fn a_token_opens_a_repository_and_stays_nowhere() {
    // x-access-token:hush-hush
    let Some(scene) = Scene::new(Some("basic eC1hY2Nlc3MtdG9rZW46aHVzaC1odXNo")) else {
        return;
    };
    let add = format!("ADD {} /src", scene.url(""));
    scene.build(&add, &[]).failed(6).says("GIT_AUTH_TOKEN");
    let token = scene.folder.write("token", "hush-hush\n");
    let secret = format!("id=GIT_AUTH_TOKEN,src={}", token.display());
    scene.build(&add, &["--secret", &secret]).ok();
    assert_eq!(scene.sh("cat /src/top"), "one");
    for word in ["hush-hush", "aHVzaC1odXNo"] {
        let mut grep = std::process::Command::new("grep");
        grep.args(["-rl", "-e", word])
            .arg(scene.appliance.place().data());
        assert_eq!(run(&mut grep).failed(1).text(), "", "{word}");
    }
}

#[test]
fn a_hostile_repository_does_no_harm() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    // A link out of the tree is a link of the image's.
    let add = format!("ADD {} /src", scene.url(""));
    scene.build(&add, &[]).ok();
    assert_eq!(scene.sh("grep -c guest /src/out"), "1");
    let through = format!("ADD {} /src", scene.url("#main:out"));
    scene.build(&through, &[]).failed(3).says("no folder");
    // A tree with a `.git` in it, which git itself would not commit.
    let script = "blob=$(git hash-object -w top); \
                  tree=$(printf '100755 blob %s\\tpost-checkout\\n' $blob | git mktree); \
                  tree=$(printf '040000 tree %s\\thooks\\n' $tree | git mktree); \
                  tree=$(printf '040000 tree %s\\t.git\\n' $tree | git mktree); \
                  git -c user.name=A -c user.email=a@b commit-tree -m m $tree";
    let mut make = std::process::Command::new("sh");
    make.current_dir(scene.work.path()).args(["-c", script]);
    let commit = run(&mut make).ok().text().trim().to_owned();
    scene.work.git(&["branch", "evil", &commit]);
    let add = format!("ADD {} /evil", scene.url("#evil"));
    let ran = scene.build(&add, &[]);
    assert_eq!(ran.code, 1, "{ran}");
    // Nothing is run of a submodule that is a program, or reads this host's files.
    for url in [
        "ext::sh -c touch% /tmp/devpod-was-here",
        "/etc",
        "file:///etc",
    ] {
        scene
            .work
            .git(&["config", "-f", ".gitmodules", "submodule.x.path", "x"]);
        scene
            .work
            .git(&["config", "-f", ".gitmodules", "submodule.x.url", url]);
        let first = scene.work.git(&["rev-parse", "HEAD"]);
        let link = format!("160000,{},x", first.trim());
        scene
            .work
            .git(&["update-index", "--add", "--cacheinfo", &link]);
        scene.work.git(&["add", ".gitmodules"]);
        scene.work.git(&["commit", "--quiet", "-m", "m"]);
        let ran = scene.build(&format!("ADD {} /src", scene.url("")), &[]);
        assert_eq!(ran.code, 1, "{url}: {ran}");
    }
    assert!(!std::path::Path::new("/tmp/devpod-was-here").exists());
}

#[test]
fn a_repository_is_a_context() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    scene
        .work
        .write("sub/Dockerfile", "FROM busybox:1\nCOPY deep /d\n");
    scene.work.write(
        "Dockerfile",
        "FROM busybox:1\nCOPY . /all\nCOPY --from=lib /deep /l\n",
    );
    scene.work.write(".dockerignore", "run.sh\n");
    scene.work.commit();
    let build = |context: &str, options: &[&str]| {
        let all = [&["build", "-t", "made"], options, &[context]].concat();
        scene.appliance.run(&all)
    };
    build(&scene.url("#main:sub"), &[]).ok();
    assert_eq!(scene.sh("cat /d"), "deep");
    let lib = format!("lib={}", scene.url("#:sub"));
    build(&scene.url(""), &["--build-context", &lib]).ok();
    assert_eq!(
        scene.sh("cat /l; ls /all"),
        "deep\nDockerfile\nout\nsub\ntop"
    );
    build(&scene.url(""), &["-f", "sub/Dockerfile"])
        .failed(1)
        .says("deep");
    build(&scene.url(""), &["-f", "out"])
        .failed(2)
        .says("leads out of the repository");
    build(&scene.url(""), &["-f", "/etc/passwd"]).failed(2);
    build(&scene.url("#none"), &[]).failed(3).says("none");
    let staging = scene.appliance.place().data().join("snapshots/.staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
}

//! Crashes at every step of every write. A child process does one thing after the other, says what
//! it begins and what was acknowledged, and aborts itself at the n-th time it comes to a step. What
//! it leaves is checked by the verifier, which shares no code with the store; then the store opens
//! it: nothing acknowledged may be lost or come back, and everything can be done again.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use config::name::{RepositoryName, Tag, Target};
use config::registry::retention::Rule;
use registry::digest::Digest;
use registry::service::{ManifestPut, Policy, References, Registry};
use registry::store::Options;
use registry::store::scrub::ScrubOptions;
use registry::store::step::{Step, Steps};

use super::door::{image, options, sha256};
use super::heal;
use super::pushing::{push, upload, write};
use super::verifier::{Excuses, faults};

const FOLDER: &str = "REGISTRY_CRASH_FOLDER";
const STEP: &str = "REGISTRY_CRASH_STEP";
const COUNT: &str = "REGISTRY_CRASH_COUNT";

/// Something that can be done, and what is true, or no more true, once it is acknowledged.
struct Deed {
    name: &'static str,
    makes: &'static [Fact],
    ends: &'static [Fact],
    run: fn(&Registry, &Path),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    /// A repository shows a blob, with this content.
    Blob(&'static str, &'static str),
    /// A tag of the repository points to the image.
    Tag(&'static str),
    /// The artifact that refers to the image.
    Artifact,
    /// The tag that a later one of its history follows.
    OldTag,
    /// What it points to.
    OldManifest,
}

/// Seconds that the child's clock is ahead.
static TICKS: AtomicU64 = AtomicU64::new(0);

const HERE: &str = "crash/test";
const THERE: &str = "crash/other";
const HISTORY: &str = "crash/history";
const LAYER: Fact = Fact::Blob(HERE, "layer");
/// Too large for the journal, which keeps a stand-in of it.
const LARGE: &str = match std::str::from_utf8(&[b'l'; 70_000]) {
    Ok(text) => text,
    Err(_) => panic!(),
};
const DEEDS: &[Deed] = &[
    Deed {
        name: "push a blob at once",
        makes: &[LAYER],
        ends: &[],
        run: |registry, _| push(registry, HERE, "layer"),
    },
    Deed {
        name: "push a large blob",
        makes: &[Fact::Blob(HERE, LARGE)],
        ends: &[],
        run: |registry, _| push(registry, HERE, LARGE),
    },
    Deed {
        name: "write a blob in-process",
        makes: &[Fact::Blob(HERE, "written")],
        ends: &[],
        run: |registry, _| write(registry, HERE, "written"),
    },
    Deed {
        name: "push the configuration",
        // Whether its link outlives the collection depends on the second in which that frees it.
        makes: &[],
        ends: &[],
        run: |registry, _| push(registry, HERE, "{}"),
    },
    Deed {
        name: "push a blob in chunks",
        makes: &[Fact::Blob(HERE, "stream")],
        ends: &[],
        run: |registry, _| upload(registry, HERE, b"stream"),
    },
    Deed {
        name: "push a manifest with two tags",
        makes: &[Fact::Tag("one"), Fact::Tag("two")],
        ends: &[],
        run: |registry, _| {
            let (text, two) = (manifest(), ["two".parse().unwrap()]);
            put(registry, &Target::Tag("one".parse().unwrap()), &[], &text);
            put(registry, &Target::Digest(image_digest()), &two, &text);
        },
    },
    Deed {
        name: "push an artifact that refers to it",
        makes: &[Fact::Artifact],
        ends: &[],
        run: |registry, _| {
            let digest = sha256(artifact().as_bytes());
            put(registry, &Target::Digest(digest), &[], &artifact());
        },
    },
    Deed {
        name: "mount a blob",
        makes: &[Fact::Blob(THERE, "layer")],
        ends: &[],
        run: |registry, _| {
            let (to, from) = (name(THERE), name(HERE));
            let digest = sha256(b"layer");
            assert!(registry.mount(&to, &digest, Some(&from)).unwrap());
        },
    },
    Deed {
        name: "delete a tag",
        makes: &[],
        ends: &[Fact::Tag("two")],
        run: |registry, _| {
            let tag: Tag = "two".parse().unwrap();
            assert!(registry.delete_tag(&name(HERE), &tag).unwrap());
        },
    },
    Deed {
        name: "quarantine",
        makes: &[],
        ends: &[LAYER, Fact::Blob(THERE, "layer"), Fact::Blob(HERE, LARGE)],
        run: |registry, folder| {
            heal::damage(folder, &sha256(b"layer"));
            heal::damage(folder, &sha256(LARGE.as_bytes()));
            let options = ScrubOptions {
                anew: true,
                ..ScrubOptions::default()
            };
            let done = registry.scrub(&options, &mut |_, _| ControlFlow::Continue(()));
            assert_eq!(done.unwrap().quarantined, 2);
        },
    },
    Deed {
        name: "heal",
        makes: &[LAYER, Fact::Blob(THERE, "layer"), Fact::Blob(HERE, LARGE)],
        ends: &[],
        run: |registry, _| {
            push(registry, HERE, "layer");
            // Of which the journal learns nothing.
            write(registry, HERE, LARGE);
        },
    },
    Deed {
        name: "push a history of two tags",
        makes: &[Fact::OldTag, Fact::OldManifest],
        ends: &[],
        run: |registry, _| {
            let mount = registry.mount(&name(HISTORY), &sha256(b"{}"), None);
            assert!(mount.unwrap());
            for tag in ["h1", "h2"] {
                // Tags know seconds, and one must be the newer.
                TICKS.fetch_add(2, Ordering::SeqCst);
                let target = Target::Tag(tag.parse().unwrap());
                put_in(HISTORY, registry, &target, &[], &history(tag));
            }
        },
    },
    Deed {
        name: "expire the older by a rule",
        makes: &[],
        ends: &[Fact::OldTag],
        run: |registry, _| {
            let rule = Rule {
                repositories: HISTORY.parse().unwrap(),
                tags: "h*".parse().unwrap(),
                keep_last: Some(1),
                keep_for: None,
                keep_pulled_for: None,
            };
            let expired = registry.expire_tags(&[rule], false).unwrap();
            let tags: Vec<_> = expired.iter().map(|one| one.tag.to_string()).collect();
            assert_eq!(tags, ["h1"]);
        },
    },
    Deed {
        name: "delete a manifest",
        makes: &[],
        ends: &[Fact::Tag("one"), Fact::Tag("two")],
        run: |registry, _| {
            assert!(
                registry
                    .delete_manifest(&name(HERE), &image_digest())
                    .unwrap()
            );
        },
    },
    Deed {
        name: "delete blobs",
        makes: &[],
        ends: &[LAYER, Fact::Blob(HERE, "stream")],
        run: |registry, _| {
            for content in ["layer", "stream"] {
                let digest = sha256(content.as_bytes());
                assert!(registry.delete_blob(&name(HERE), &digest).unwrap());
            }
        },
    },
    Deed {
        name: "collect",
        makes: &[],
        // An artifact follows its subject.
        ends: &[
            Fact::Blob(THERE, "layer"),
            Fact::Blob(HERE, LARGE),
            Fact::Blob(HERE, "written"),
            Fact::OldManifest,
            Fact::Artifact,
        ],
        run: |registry, _| {
            // The clock's seconds are coarse: everything so far must be older than "now".
            TICKS.fetch_add(2, Ordering::SeqCst);
            registry
                .sweep(Duration::ZERO, &|digest| *digest == sha256(b"{}"))
                .unwrap();
        },
    },
];

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn manifest() -> String {
    image(&sha256(b"{}"), &[&sha256(b"layer"), &sha256(b"stream")], "")
}

fn image_digest() -> Digest {
    sha256(manifest().as_bytes())
}

fn history(tag: &str) -> String {
    let annotations = format!(r#","annotations":{{"tag":"{tag}"}}"#);
    image(&sha256(b"{}"), &[], &annotations)
}

fn artifact() -> String {
    let subject = format!(
        r#","artifactType":"a/t","annotations":{{"k":"v"}},
        "subject":{{"mediaType":"m","digest":"{}","size":1}}"#,
        image_digest()
    );
    image(&sha256(b"{}"), &[], &subject)
}

#[test]
fn a_crash_at_any_step_loses_nothing() {
    let crashes: Vec<(Step, usize)> = std::thread::scope(|scope| {
        let walks = Step::ALL.map(|step| (step, scope.spawn(move || crash_at_each(step))));
        let counted = walks.map(|(step, walk)| (step, walk.join().unwrap()));
        counted.into()
    });
    println!("crashes survived: {crashes:?}");
}

fn crash_at_each(step: Step) -> usize {
    // A commit writes its file often; a few of those moments stand for all.
    let stride = if step == Step::IndexWriting { 17 } else { 1 };
    let mut crashes = 0;
    for count in (1..).step_by(stride) {
        let folder = tempfile::tempdir().unwrap();
        let (crashed, said) = run_child(folder.path(), step, count);
        check(folder.path(), &said, &format!("{step:?} {count}"));
        if !crashed {
            assert_eq!(said.len(), DEEDS.len() * 2);
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 0, "nothing comes to {step:?}");
    crashes
}

/// Whether the child crashed, and which lines it said.
fn run_child(folder: &Path, step: Step, count: usize) -> (bool, Vec<String>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FOLDER, folder)
        .env(STEP, format!("{step:?}"))
        .env(COUNT, count.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text
        .lines()
        .filter_map(|line| Some(line.split_once("said: ")?.1.to_owned()));
    let crashed = std::os::unix::process::ExitStatusExt::signal(&output.status).is_some();
    assert!(
        crashed || output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (crashed, said.collect())
}

/// What must be true after these lines, and what must not; what was in the making may be either.
fn expected(said: &[String]) -> BTreeMap<Fact, Option<bool>> {
    let mut facts = BTreeMap::new();
    for deed in DEEDS {
        let begun = said
            .iter()
            .any(|line| *line == format!("begin {}", deed.name));
        let acknowledged = said
            .iter()
            .any(|line| *line == format!("did {}", deed.name));
        let known = |is| if acknowledged { Some(is) } else { None };
        for (list, is) in [(deed.makes, true), (deed.ends, false)] {
            for fact in list {
                let before = facts.entry(*fact).or_insert(Some(false));
                if begun {
                    *before = known(is);
                }
            }
        }
    }
    facts
}

/// Whether something else is served in its place.
fn is_damaged(registry: &Registry, repository: &str, content: &str) -> bool {
    let found = registry.open_blob(&name(repository), &sha256(content.as_bytes()));
    found.unwrap().is_some_and(|(mut file, _)| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes != content.as_bytes()
    })
}

fn is_true(registry: &Registry, fact: Fact) -> bool {
    match fact {
        Fact::Blob(repository, content) => {
            let found = registry.open_blob(&name(repository), &sha256(content.as_bytes()));
            found.unwrap().is_some_and(|(file, _)| {
                // Crashed between damage and quarantine, it may still be served.
                let text = std::io::read_to_string(file).unwrap_or_default();
                text == content
            })
        }
        Fact::Tag(tag) => {
            let target = Target::Tag(tag.parse().unwrap());
            let found = registry.manifest(&name(HERE), &target).unwrap();
            found.is_some_and(|found| found.bytes == manifest().as_bytes())
        }
        Fact::OldTag | Fact::OldManifest => {
            let text = history("h1");
            let target = match fact {
                Fact::OldTag => Target::Tag("h1".parse().unwrap()),
                _ => Target::Digest(sha256(text.as_bytes())),
            };
            let found = registry.manifest(&name(HISTORY), &target).unwrap();
            found.is_some_and(|found| found.bytes == text.as_bytes())
        }
        Fact::Artifact => {
            let found = registry.referrers(&name(HERE), &image_digest(), Some("a/t"), None);
            found.unwrap().descriptors.len() == 1
        }
    }
}

/// With a clock that the deeds move, and no rest for what lost its last tag.
fn impatient(folder: &Path) -> Options {
    Options {
        clock: || SystemTime::now() + Duration::from_secs(TICKS.load(Ordering::SeqCst)),
        untagged_keep: Some(Duration::ZERO),
        ..options(folder)
    }
}

/// Opens what the child left and compares it with what it acknowledged.
fn check(folder: &Path, said: &[String], at: &str) {
    let has = |line: &str| said.iter().any(|said| said == line);
    let damaged = if has("begin quarantine") && !has("did heal") {
        [b"layer", LARGE.as_bytes()]
            .map(|blob| sha256(blob).to_string())
            .to_vec()
    } else {
        Vec::new()
    };
    let excuses = Excuses {
        damaged: &damaged,
        sparse: has("begin delete blobs"),
    };
    if folder.join("registry.redb").exists() && !said.is_empty() {
        assert_eq!(faults(folder, excuses), [""; 0], "{at}");
    }
    let registry = Registry::open(impatient(folder), Policy::default()).unwrap();
    // Nothing damaged comes back; but of a small blob the journal may still have the bytes, and then
    // it heals.
    let quarantined = has("did quarantine") && !has("begin heal");
    for (fact, expected) in expected(said) {
        if let (true, Fact::Blob(repository, content)) = (quarantined, fact) {
            assert!(
                !is_damaged(&registry, repository, content),
                "{at}: {fact:?}"
            );
            if content == "layer" {
                continue;
            }
        }
        if let Some(expected) = expected {
            assert_eq!(
                is_true(&registry, fact),
                expected,
                "{at}: {fact:?} {said:?}"
            );
        }
    }
    let names = std::fs::read_dir(folder.join("content/uploads")).unwrap();
    let names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names.iter().any(|name| name.starts_with("w-")),
        "{at}: {names:?}"
    );
    // Whatever was interrupted can be done again.
    for deed in &DEEDS[..DEEDS.len() - 1] {
        (deed.run)(&registry, folder);
    }
    drop(registry);
    let excuses = Excuses {
        damaged: &[],
        sparse: true,
    };
    assert_eq!(faults(folder, excuses), [""; 0], "{at} again");
}

/// Runs only as the child of the test above.
#[test]
#[ignore = "is started by a_crash_at_any_step_loses_nothing"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder: &Path = folder.as_ref();
    let wanted = std::env::var(STEP).unwrap();
    let count: usize = std::env::var(COUNT).unwrap().parse().unwrap();
    let seen = AtomicUsize::new(0);
    let steps = Steps::calling(move |step| {
        if format!("{step:?}") == wanted && seen.fetch_add(1, Ordering::SeqCst) + 1 == count {
            std::process::abort();
        }
        Ok(())
    });
    let options = Options {
        steps,
        ..impatient(folder)
    };
    let registry = Registry::open(options, Policy::default()).unwrap();
    let say = |word: &str, deed: &Deed| {
        println!("said: {word} {}", deed.name);
        std::io::stdout().flush().unwrap();
    };
    for deed in DEEDS {
        say("begin", deed);
        (deed.run)(&registry, folder);
        say("did", deed);
    }
}

fn put(registry: &Registry, target: &Target, tags: &[Tag], text: &str) {
    put_in(HERE, registry, target, tags, text);
}

fn put_in(repository: &str, registry: &Registry, target: &Target, tags: &[Tag], text: &str) {
    let put = ManifestPut {
        target,
        tags,
        media_type: None,
        bytes: text.as_bytes(),
        references: References::Required,
    };
    registry.put_manifest(&name(repository), &put).unwrap();
}

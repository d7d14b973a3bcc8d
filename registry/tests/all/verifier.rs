//! The invariants of a store at rest, checked by code that shares none with it: the tables are
//! written down here once more, digests are sha2's, manifests are read as plain JSON.
//!
//! Tables that are not named here are passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use sha2::Digest as _;

const REPOSITORIES: TableDefinition<'_, &str, u64> = TableDefinition::new("repositories");
const LINKS: TableDefinition<'_, (&str, &str), (u64, u64)> = TableDefinition::new("links");
const MANIFESTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("manifests");
const TAGS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("tags");
const TAGGED: TableDefinition<'_, (&str, &str, &str), ()> = TableDefinition::new("tagged");
const REFERRERS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("referrers");
const HOLDERS: TableDefinition<'_, (&str, &str, u8), ()> = TableDefinition::new("holders");
const NEEDS: TableDefinition<'_, (&str, &str, &str), ()> = TableDefinition::new("needs");
const SIZES: TableDefinition<'_, &str, u64> = TableDefinition::new("sizes");
const USAGE: TableDefinition<'_, &str, u64> = TableDefinition::new("usage");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const TAG_TIMES: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("tag_times");

/// What a test knows to be different.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Excuses<'a> {
    /// Digests whose files the test itself damaged.
    pub(crate) damaged: &'a [String],
    /// Manifests may name what was deleted, or never pushed.
    pub(crate) sparse: bool,
}

type Pair = (String, String);
type Triple = (String, String, String);

/// Everything that the index says, and what is wrong with it.
struct Store {
    blobs: std::path::PathBuf,
    repositories: BTreeSet<String>,
    links: BTreeMap<Pair, u64>,
    manifests: BTreeMap<Pair, Value>,
    tags: BTreeMap<Pair, String>,
    tagged: BTreeSet<Triple>,
    referrers: BTreeMap<Triple, Value>,
    holders: BTreeSet<(String, String, u8)>,
    needs: BTreeSet<Triple>,
    sizes: BTreeMap<String, u64>,
    usage: BTreeMap<String, u64>,
    meta: BTreeMap<String, u64>,
    tag_times: BTreeMap<Pair, u64>,
    faults: Vec<String>,
}

/// What is wrong with the store in `data`, which no process has open. Empty is good.
pub(crate) fn faults(data: &Path, excuses: Excuses<'_>) -> Vec<String> {
    // A copy: what is done to a store that was not closed is the store's to do.
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(data.join("."))
        .arg(copy.path())
        .status();
    assert!(copied.unwrap().success());
    let data = copy.path();
    if !was_closed(data) {
        let options = super::door::options(data);
        drop(registry::store::Store::open(options).unwrap());
        assert!(
            was_closed(data),
            "a store that was closed needs its journal"
        );
    }
    // It is a plain redb file now. One more copy: a test that forks may hold the lock for a moment.
    let index = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(data.join("registry.redb"), index.path()).unwrap();
    let database = Database::open(index.path()).unwrap();
    let mut store = read(&database.begin_read().unwrap(), data);
    store.check_files(excuses.damaged);
    store.check_holders();
    store.check_tags();
    store.check_manifests(excuses);
    store.check_repositories();
    store.check_needs();
    store.check_sizes(excuses.damaged);
    store.check_usage();
    store.faults
}

/// Whether the index needs no journal.
fn was_closed(data: &Path) -> bool {
    ["registry.journal.0", "registry.journal.1"]
        .iter()
        .all(|name| std::fs::metadata(data.join(name)).map_or(0, |file| file.len()) == 0)
}

fn read(rows: &ReadTransaction, data: &Path) -> Store {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let pair = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
    let triple = |(a, b, c): (&str, &str, &str)| (a.to_owned(), b.to_owned(), c.to_owned());
    macro_rules! all {
        ($table:expr, $key:expr => $value:expr) => {{
            let table = rows.open_table($table).unwrap();
            let rows = table.iter().unwrap().map(|row| {
                let (key, value) = row.unwrap();
                ($key(key.value()), $value(value.value()))
            });
            rows.collect::<Vec<_>>()
        }};
    }
    let names = |rows: Vec<(String, ())>| rows.into_iter().map(|(name, ())| name).collect();
    Store {
        blobs: data.join("content/blobs"),
        repositories: names(all!(REPOSITORIES, str::to_owned => |_| ())),
        links: all!(LINKS, pair => |(size, _)| size).into_iter().collect(),
        manifests: all!(MANIFESTS, pair => json).into_iter().collect(),
        tags: all!(TAGS, pair => str::to_owned).into_iter().collect(),
        tagged: all!(TAGGED, triple => |()| ())
            .into_iter()
            .map(|(key, ())| key)
            .collect(),
        referrers: all!(REFERRERS, triple => json).into_iter().collect(),
        holders: all!(HOLDERS, |(a, b, kind): (&str, &str, u8)| (a.to_owned(), b.to_owned(), kind) => |()| ())
            .into_iter()
            .map(|(key, ())| key)
            .collect(),
        needs: all!(NEEDS, triple => |()| ())
            .into_iter()
            .map(|(key, ())| key)
            .collect(),
        sizes: all!(SIZES, str::to_owned => |bytes| bytes).into_iter().collect(),
        usage: all!(USAGE, str::to_owned => |bytes| bytes).into_iter().collect(),
        meta: all!(META, str::to_owned => |number| number).into_iter().collect(),
        tag_times: all!(TAG_TIMES, pair => |time| time).into_iter().collect(),
        faults: Vec::new(),
    }
}

/// What the bytes are called, in the algorithm of `digest`.
fn digest_like(digest: &str, bytes: &[u8]) -> String {
    let hex = |hash: &[u8]| hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let hash: String = match digest.split_once(':') {
        Some(("sha256", _)) => hex(&sha2::Sha256::digest(bytes)),
        Some(("sha512", _)) => hex(&sha2::Sha512::digest(bytes)),
        _ => return "of no known algorithm".to_owned(),
    };
    format!("{}:{hash}", digest.split(':').next().unwrap())
}

impl Store {
    fn bytes(&self, digest: &str) -> Option<Vec<u8>> {
        let (algorithm, hex) = digest.split_once(':')?;
        std::fs::read(self.blobs.join(algorithm).join(hex)).ok()
    }

    /// A row never names a blob that is not whole, and knows its size.
    fn check_files(&mut self, damaged: &[String]) {
        let held: BTreeSet<&String> = self.holders.iter().map(|(digest, _, _)| digest).collect();
        let mut faults = Vec::new();
        for digest in held.into_iter().filter(|digest| !damaged.contains(*digest)) {
            match self.bytes(digest) {
                None => faults.push(format!("{digest} is held and has no file")),
                Some(bytes) if digest_like(digest, &bytes) != *digest => {
                    faults.push(format!("{digest} has a file with other content"));
                }
                Some(bytes) => {
                    let wrong = |((_, linked), size): (&Pair, &u64)| {
                        linked == digest && *size != bytes.len() as u64
                    };
                    if self.links.iter().any(wrong) {
                        faults.push(format!("{digest} is linked with another size"));
                    }
                }
            }
        }
        self.faults.extend(faults);
    }

    /// Holders are the links and the manifests, from the other side.
    fn check_holders(&mut self) {
        let links = self.links.keys().map(|key| (key, 0));
        let manifests = self.manifests.keys().map(|key| (key, 1));
        let expected: BTreeSet<_> = links
            .chain(manifests)
            .map(|((repository, digest), kind)| (digest.clone(), repository.clone(), kind))
            .collect();
        for holder in expected.symmetric_difference(&self.holders) {
            self.faults.push(format!("holder {holder:?}"));
        }
    }

    /// Tags point to manifests of their repository, and are known from the other side.
    fn check_tags(&mut self) {
        for ((repository, tag), digest) in &self.tags {
            if !self
                .manifests
                .contains_key(&(repository.clone(), digest.clone()))
            {
                self.faults
                    .push(format!("{repository}:{tag} points to nothing"));
            }
        }
        let expected: BTreeSet<_> = self
            .tags
            .iter()
            .map(|((repository, tag), digest)| (repository.clone(), digest.clone(), tag.clone()))
            .collect();
        for tagged in expected.symmetric_difference(&self.tagged) {
            self.faults.push(format!("tagged {tagged:?}"));
        }
    }

    /// Rows say what the bytes say; referrers are the manifests with a subject; what is named is
    /// here.
    fn check_manifests(&mut self, excuses: Excuses<'_>) {
        let (mut expected, mut faults) = (BTreeMap::new(), Vec::new());
        for ((repository, digest), row) in &self.manifests {
            let mut fault = |what: &str| faults.push(format!("{repository}@{digest}: {what}"));
            if excuses.damaged.contains(digest) {
                let ours = |((repo, _, referrer), descriptor): (&Triple, &Value)| {
                    (repo == repository && referrer == digest).then(|| descriptor.clone())
                };
                let known = self.referrers.iter().find_map(ours);
                if let (Some(subject), Some(known)) = (row["subject"].as_str(), known) {
                    let key = (repository.clone(), subject.to_owned(), digest.clone());
                    expected.insert(key, known);
                }
                continue;
            }
            let Some(bytes) = self.bytes(digest) else {
                continue;
            };
            let document: Value = match serde_json::from_slice(&bytes) {
                Ok(document) => document,
                Err(_) => {
                    fault("is not JSON");
                    continue;
                }
            };
            let needed = references(&document);
            let all: Vec<&str> = needed.iter().map(|(digest, _)| digest.as_str()).collect();
            let known: Vec<&str> = texts(&row["references"]);
            if all != known || row["size"] != bytes.len() {
                fault("row and bytes differ");
            }
            let subject = document["subject"]["digest"].as_str();
            if row["subject"].as_str() != subject {
                fault("row has another subject");
            }
            if let Some(subject) = subject {
                let key = (repository.clone(), subject.to_owned(), digest.clone());
                expected.insert(key, descriptor(&document, row, digest, bytes.len()));
            }
            for (needed, foreign) in &needed {
                let key = (repository.clone(), needed.clone());
                let here = self.links.contains_key(&key) || self.manifests.contains_key(&key);
                if !here && !foreign && !excuses.sparse {
                    fault(&format!("{needed} is not here"));
                }
            }
        }
        if expected != self.referrers {
            faults.push(format!("referrers {:?}, not {expected:?}", self.referrers));
        }
        self.faults.extend(faults);
    }

    /// Needs are the references, from the other side; each tag has its time.
    fn check_needs(&mut self) {
        let mut expected = BTreeSet::new();
        for ((repository, digest), row) in &self.manifests {
            for needed in texts(&row["references"]) {
                expected.insert((repository.clone(), needed.to_owned(), digest.clone()));
            }
        }
        let mut faults: Vec<_> = expected
            .symmetric_difference(&self.needs)
            .map(|need| format!("need {need:?}"))
            .collect();
        if !self.tag_times.keys().eq(self.tags.keys()) {
            faults.push(format!("times of tags {:?}", self.tag_times));
        }
        self.faults.extend(faults);
    }

    /// Everything that is held has its file's size, and nothing else has one.
    fn check_sizes(&mut self, damaged: &[String]) {
        let held: BTreeSet<&String> = self.holders.iter().map(|(digest, _, _)| digest).collect();
        let mut faults = Vec::new();
        if !held.into_iter().eq(self.sizes.keys()) {
            faults.push(format!("sizes of {:?}", self.sizes.keys()));
        }
        for (digest, size) in &self.sizes {
            let found = self.bytes(digest).map(|bytes| bytes.len() as u64);
            if found.is_some_and(|found| found != *size) && !damaged.contains(digest) {
                faults.push(format!("{digest} has {found:?} bytes, not {size}"));
            }
        }
        self.faults.extend(faults);
    }

    /// A repository uses each of its digests once, and so does the whole store.
    fn check_usage(&mut self) {
        let pairs: BTreeSet<_> = self
            .holders
            .iter()
            .map(|(digest, of, _)| (of, digest))
            .collect();
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for (repository, digest) in pairs {
            let size = self.sizes.get(digest).copied().unwrap_or_default();
            *expected.entry(repository.clone()).or_default() += size;
        }
        let used = |usage: &BTreeMap<String, u64>| -> Vec<(String, u64)> {
            let some = usage.iter().filter(|(_, bytes)| **bytes > 0);
            some.map(|(name, bytes)| (name.clone(), *bytes)).collect()
        };
        let mut faults = Vec::new();
        if used(&expected) != used(&self.usage) {
            faults.push(format!("usage {:?}, not {expected:?}", self.usage));
        }
        let total: u64 = self.sizes.values().sum();
        let held = self.meta.get("held_bytes").copied().unwrap_or_default();
        if held != total {
            faults.push(format!("{held} bytes are held, not {total}"));
        }
        self.faults.extend(faults);
    }

    /// The catalog names those that hold something.
    fn check_repositories(&mut self) {
        let links = self.links.keys().map(|(repository, _)| repository);
        let manifests = self.manifests.keys().map(|(repository, _)| repository);
        let expected: BTreeSet<String> = links.chain(manifests).cloned().collect();
        if expected != self.repositories {
            let fault = format!("repositories {:?}, not {expected:?}", self.repositories);
            self.faults.push(fault);
        }
    }
}

fn texts(list: &Value) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).collect()
}

/// Digests that a manifest names, each once, and whether it may be fetched from elsewhere.
fn references(document: &Value) -> Vec<(String, bool)> {
    let mut found: Vec<(String, bool)> = Vec::new();
    let lists = ["layers", "blobs", "manifests"]
        .into_iter()
        .filter_map(|name| document[name].as_array());
    let config = document.get("config").filter(|config| config.is_object());
    for item in config.into_iter().chain(lists.flatten()) {
        let digest = item["digest"].as_str().unwrap().to_owned();
        let media_type = item["mediaType"].as_str().unwrap_or_default();
        let foreign = item["urls"].as_array().is_some_and(|urls| !urls.is_empty())
            || media_type.contains(".nondistributable.")
            || media_type.contains(".rootfs.foreign.");
        match found.iter_mut().find(|(known, _)| *known == digest) {
            Some((_, also)) => *also |= foreign,
            None => found.push((digest, foreign)),
        }
    }
    found
}

/// What the referrers API answers for a manifest (distribution-spec, "Listing Referrers").
fn descriptor(document: &Value, row: &Value, digest: &str, size: usize) -> Value {
    let mut expected = serde_json::json!({
        "mediaType": row["media_type"],
        "digest": digest,
        "size": size,
    });
    let kind = document["artifactType"]
        .as_str()
        .or(document["config"]["mediaType"].as_str());
    if let Some(kind) = kind.filter(|kind| !kind.is_empty()) {
        expected["artifactType"] = kind.into();
    }
    if let Some(annotations) = document["annotations"].as_object()
        && !annotations.is_empty()
    {
        expected["annotations"] = annotations.clone().into();
    }
    expected
}

#[test]
#[allow(clippy::disallowed_methods)]
fn the_verifier_finds_what_is_wrong() {
    use super::{door, heal};
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = door::open(data.path());
    let text = runtime.block_on(async {
        let router = registry::http::router(registry::http::Front::new(registry.clone()));
        let door = door::Door::Router(router);
        door::push_image(&door, "a", "v1", b"layer").await
    });
    drop((registry, runtime));
    assert_eq!(faults(data.path(), Excuses::default()), [""; 0]);
    let manifest = door::sha256(text.as_bytes()).to_string();
    let spoil = |work: &dyn Fn(&redb::WriteTransaction)| {
        let spoiled = tempfile::tempdir().unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(data.path().join("."))
            .arg(spoiled.path())
            .status();
        assert!(copied.unwrap().success());
        let database = Database::open(spoiled.path().join("registry.redb")).unwrap();
        let rows = database.begin_write().unwrap();
        work(&rows);
        rows.commit().unwrap();
        drop(database);
        spoiled
    };
    let found = |folder: &tempfile::TempDir| faults(folder.path(), Excuses::default()).join("; ");
    for (table, work) in [
        (
            "tagged",
            &(|rows: &redb::WriteTransaction| {
                let mut table = rows.open_table(TAGGED).unwrap();
                table.remove(("a", manifest.as_str(), "v1")).unwrap();
            }) as &dyn Fn(&redb::WriteTransaction),
        ),
        ("holder", &|rows| {
            let mut table = rows.open_table(HOLDERS).unwrap();
            table.insert((manifest.as_str(), "b", 0), ()).unwrap();
        }),
        ("points to nothing", &|rows| {
            let mut table = rows.open_table(TAGS).unwrap();
            table.insert(("a", "v2"), "sha256:00").unwrap();
        }),
        ("repositories", &|rows| {
            let mut table = rows.open_table(REPOSITORIES).unwrap();
            table.insert("empty", 0).unwrap();
        }),
        ("referrers", &|rows| {
            let mut table = rows.open_table(REFERRERS).unwrap();
            let key = ("a", manifest.as_str(), manifest.as_str());
            table.insert(key, b"{}".as_slice()).unwrap();
        }),
        ("need (", &|rows| {
            let mut table = rows.open_table(NEEDS).unwrap();
            let key = ("a", manifest.as_str(), manifest.as_str());
            table.insert(key, ()).unwrap();
        }),
        ("usage {", &|rows| {
            rows.open_table(USAGE).unwrap().insert("a", 1).unwrap();
        }),
        ("bytes are held", &|rows| {
            let mut table = rows.open_table(META).unwrap();
            table.insert("held_bytes", 1).unwrap();
        }),
        ("bytes, not", &|rows| {
            let mut table = rows.open_table(SIZES).unwrap();
            table.insert(manifest.as_str(), 1).unwrap();
        }),
        ("times of tags", &|rows| {
            let mut table = rows.open_table(TAG_TIMES).unwrap();
            table.remove(("a", "v1")).unwrap();
        }),
        ("is not here", &|rows| {
            let layer = door::sha256(b"layer").to_string();
            let mut table = rows.open_table(LINKS).unwrap();
            table.remove(("a", layer.as_str())).unwrap();
        }),
    ] {
        let spoiled = spoil(work);
        let found = found(&spoiled);
        assert!(found.contains(table), "{table}: {found}");
    }
    let spoiled = spoil(&|_| {});
    heal::damage(spoiled.path(), &door::sha256(b"layer"));
    std::fs::remove_file(heal::file_of(spoiled.path(), &door::sha256(b"{}"))).unwrap();
    let found = found(&spoiled);
    assert!(
        found.contains("other content") && found.contains("has no file"),
        "{found}"
    );
}

//! Archives that our writer wrote, that docker's would, and that nobody should have.

mod bounds;

use std::io::{self, Write};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::read::{ReadError, ReadOptions, read};
use super::write::Plan;
use super::{Name, NamedImage};
use crate::content::{Blob, Content, ContentWriter};
use crate::digest::{DiffId, Digest, sha256};
use crate::image::layout::Layout;
use crate::image::read::load;
use crate::layer::compress::{Compression, encoder};
use crate::progress::{Cancel, Silent};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Store {
    _dir: TempDir,
    layout: Layout,
}

fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::create(&dir.path().join("l")).unwrap();
    Store { _dir: dir, layout }
}

impl Store {
    fn content(&self) -> &dyn Content {
        &self.layout
    }

    fn put(&self, bytes: &[u8]) -> Value {
        let (digest, size) = self.content().put(bytes).unwrap();
        json!({ "digest": digest.to_string(), "size": size })
    }

    /// An image of one layer for each text.
    fn image(&self, layers: &[&str], compression: Compression) -> NamedImage {
        let mut rows = Vec::new();
        let mut diffs = Vec::new();
        for text in layers {
            let tar = tar(&[("file", Entry::File(text.as_bytes()))]);
            diffs.push(sha256(&tar).to_string());
            let mut row = self.put(&packed(&tar, compression));
            row["mediaType"] = compression.media_type().to_string().into();
            rows.push(row);
        }
        let mut config = self.put(config(&diffs).as_bytes());
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": rows});
        let bytes = manifest.to_string().into_bytes();
        self.put(&bytes);
        NamedImage::new(Vec::new(), MANIFEST.to_owned(), bytes)
    }

    fn read(&self, archive: &[u8]) -> Result<Vec<NamedImage>, ReadError> {
        let options = ReadOptions {
            platform: "linux/amd64".parse().unwrap(),
            ..ReadOptions::default()
        };
        read(
            archive,
            self.content(),
            &options,
            &Silent,
            &Cancel::default(),
        )
    }

    fn write(&self, plan: &Plan) -> Vec<u8> {
        let mut bytes = Vec::new();
        plan.write(self.content(), &mut bytes, &Silent, &Cancel::default())
            .unwrap();
        assert_eq!(bytes.len() as u64, plan.size());
        bytes
    }

    fn docker(&self, images: &[NamedImage]) -> Vec<u8> {
        let plan = Plan::docker(images, self.content(), &Silent, &Cancel::default());
        self.write(&plan.unwrap())
    }

    fn oci(&self, images: &[NamedImage]) -> Vec<u8> {
        self.write(&Plan::oci(images, self.content()).unwrap())
    }
}

fn config(diffs: &[String]) -> String {
    json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diffs}})
    .to_string()
}

fn packed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = encoder(compression, Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[derive(Clone, Copy)]
enum Entry<'a> {
    Folder,
    File(&'a [u8]),
    Symlink(&'a str),
    Link(&'a str),
    Device,
}

fn tar(entries: &[(&str, Entry<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, entry) in entries {
        let mut header = tar::Header::new_gnu();
        let (kind, link, data) = match entry {
            Entry::Folder => (tar::EntryType::Directory, "", &b""[..]),
            Entry::File(data) => (tar::EntryType::Regular, "", *data),
            Entry::Symlink(to) => (tar::EntryType::Symlink, *to, &b""[..]),
            Entry::Link(to) => (tar::EntryType::Link, *to, &b""[..]),
            Entry::Device => (tar::EntryType::Char, "", &b""[..]),
        };
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        // Past the checks of the crate, which would not write what an attacker does.
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn names(images: &[NamedImage]) -> Vec<Vec<String>> {
    let texts = |image: &NamedImage| image.names.iter().map(Name::to_string).collect();
    images.iter().map(texts).collect()
}

#[test]
fn names_are_whole_or_only_a_tag() {
    for (text, shown) in [
        ("busybox:1", Some("docker.io/library/busybox:1")),
        ("localhost:5000/a", Some("localhost:5000/a:latest")),
        ("a/b:c", Some("docker.io/a/b:c")),
        ("latest", Some("latest")),
        ("1.36", Some("1.36")),
        ("a:b:c", None),
        ("<none>:<none>", None),
        ("", None),
        (&format!("a@{}", sha256(b"")), None),
    ] {
        let parsed = Name::parse(text).map(|name| name.to_string());
        assert_eq!(parsed.as_deref(), shown, "{text}");
    }
}

#[test]
fn what_is_written_as_a_layout_comes_back_byte_for_byte() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let from = store();
        let mut one = from.image(&["a", "b"], compression);
        one.names = vec![name("one:1"), name("localhost:5000/uno:1")];
        let mut two = from.image(&["a", "c"], compression);
        two.names = Vec::new();
        let archive = from.oci(&[one.clone(), two.clone()]);
        assert_eq!(archive, from.oci(&[one.clone(), two.clone()]));
        for whole in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let to = store();
            let read = to.read(&packed(&archive, whole)).unwrap();
            assert_eq!(read, [one.clone(), two.clone()]);
            assert_eq!(load(to.content(), &read[0].bytes).unwrap().layers.len(), 2);
        }
        // Without the layout's files it is docker's archive of the same images.
        let to = store();
        let read = to.read(&without(&archive, &["index.json"])).unwrap();
        assert_eq!(names(&read), names(&[one.clone(), two]));
        let (again, before) = (
            load(to.content(), &read[0].bytes),
            load(from.content(), &one.bytes),
        );
        assert_eq!(again.unwrap().config_digest, before.unwrap().config_digest);
    }
}

/// The archive without some entries.
fn without(archive: &[u8], names: &[&str]) -> Vec<u8> {
    let mut kept = tar::Builder::new(Vec::new());
    let mut read = tar::Archive::new(archive);
    for entry in read.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header().clone();
        let name = entry.path().unwrap().into_owned();
        if !names.iter().any(|not| name.as_os_str() == *not) {
            kept.append(&header, entry).unwrap();
        }
    }
    kept.into_inner().unwrap()
}

#[test]
fn a_docker_archive_keeps_the_image_id_and_the_tars() {
    for compression in [Compression::Gzip, Compression::None] {
        let from = store();
        let mut image = from.image(&["a", "b", "a"], compression);
        image.names = vec![name("app:1")];
        let archive = from.docker(&[image.clone()]);
        let to = store();
        let read = to.read(&archive).unwrap();
        assert_eq!(names(&read), names(&[image.clone()]));
        let before = load(from.content(), &image.bytes).unwrap();
        let after = load(to.content(), &read[0].bytes).unwrap();
        assert_eq!(after.config_digest, before.config_digest);
        let diffs = |image: &crate::image::Image| -> Vec<DiffId> {
            image
                .layers
                .iter()
                .map(|layer| layer.diff_id.clone())
                .collect()
        };
        assert_eq!(diffs(&after), diffs(&before));
        let kinds: Vec<String> = after
            .layers
            .iter()
            .map(|l| l.blob.media_type().to_string())
            .collect();
        assert_eq!(kinds, [LAYER; 3]);
        // From here on nothing changes any more.
        assert_eq!(to.docker(&read), archive);
        assert_eq!(store().read(&archive).unwrap(), read);
    }
}

/// As docker before 1.10 wrote it, and some later ones: a folder for each layer, links between equal
/// layers that may come before their target, and files that nobody needs.
fn legacy() -> (Vec<u8>, Digest) {
    let (a, b) = (tar(&[("a", Entry::File(b"1"))]), tar(&[]));
    let diffs = [&a, &b, &a].map(|tar| sha256(tar).to_string());
    let config = config(&diffs);
    let id = sha256(config.as_bytes());
    let config_name = format!("{}.json", id.digest());
    let manifest = json!([{ "Config": config_name, "RepoTags": ["old:1", "old:2"],
        "Layers": ["0a/layer.tar", "0b/layer.tar", "0c/layer.tar"] }]);
    let archive = tar(&[
        ("0a/", Entry::Folder),
        ("0a/VERSION", Entry::File(b"1.0")),
        ("0a/json", Entry::File(b"{}")),
        ("0a/layer.tar", Entry::Symlink("../0c/layer.tar")),
        ("0b/layer.tar", Entry::File(&b)),
        ("0c/layer.tar", Entry::File(&a)),
        ("0d/layer.tar", Entry::Link("0b/layer.tar")),
        (&config_name, Entry::File(config.as_bytes())),
        (
            "manifest.json",
            Entry::File(manifest.to_string().as_bytes()),
        ),
        ("repositories", Entry::File(b"{}")),
    ]);
    (archive, id)
}

#[test]
fn old_archives_with_links_are_read() {
    let (archive, id) = legacy();
    let to = store();
    let read = to.read(&archive).unwrap();
    assert_eq!(
        names(&read),
        [["docker.io/library/old:1", "docker.io/library/old:2"]]
    );
    let image = load(to.content(), &read[0].bytes).unwrap();
    assert_eq!(image.config_digest, id);
    assert_eq!(image.layers[0].blob, image.layers[2].blob);
}

#[test]
fn an_index_comes_whole_or_as_what_is_there_of_it() {
    let from = store();
    let (a, b) = (
        from.image(&["a"], Compression::Gzip),
        from.image(&["b"], Compression::Gzip),
    );
    let row = |image: &NamedImage, arch: &str| {
        json!({"mediaType": MANIFEST, "digest": image.digest.to_string(),
            "size": image.bytes.len(), "platform": {"os": "linux", "architecture": arch}})
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [row(&a, "amd64"), row(&b, "arm64")]});
    let mut both = NamedImage::new(
        vec![name("both:1")],
        INDEX.to_owned(),
        index.to_string().into_bytes(),
    );
    from.put(&both.bytes);
    let archive = from.oci(&[both.clone()]);
    assert_eq!(store().read(&archive).unwrap(), [both.clone()]);
    // As docker saves one platform of an index.
    let blob = |image: &NamedImage| format!("blobs/sha256/{}", image.digest.digest());
    let read = store().read(&without(&archive, &[&blob(&b)])).unwrap();
    assert_eq!(read[0].digest, a.digest);
    let read = store().read(&without(&archive, &[&blob(&a)])).unwrap();
    assert_eq!(read[0].digest, b.digest);
    assert_eq!(read[0].names, both.names);
    let none = store().read(&without(&archive, &[&blob(&a), &blob(&b)]));
    assert!(matches!(none, Err(ReadError::NoBlob { .. })), "{none:?}");
    // It is no image that docker's format could have.
    both.names.clear();
    let plan = Plan::docker(&[both], from.content(), &Silent, &Cancel::default());
    assert!(plan.is_err());
}

#[test]
fn bad_archives_are_refused_and_say_why() {
    let from = store();
    let mut image = from.image(&["a"], Compression::Gzip);
    image.names = vec![name("a:1")];
    let (oci, docker) = (from.oci(&[image.clone()]), from.docker(&[image.clone()]));
    let found = load(from.content(), &image.bytes).unwrap();
    let layer = format!("blobs/sha256/{}", found.layers[0].blob.digest().digest());
    let wrong = [
        (Vec::new(), "the archive is empty"),
        (b"\xfd7zXZ\0...".to_vec(), "compressed with xz"),
        (b"BZh91AY".to_vec(), "compressed with bzip2"),
        (
            b"hello, this is no archive at all".to_vec(),
            "damaged or cut off",
        ),
        (oci[..530].to_vec(), "damaged or cut off"),
        (
            packed(&oci, Compression::Gzip)[..200].to_vec(),
            "cannot read the archive",
        ),
        (tar(&[]), "neither index.json nor manifest.json"),
        (tar(&[("etc/passwd", Entry::File(b"x"))]), "but etc/passwd"),
        (
            without(&docker, &["manifest.json"]),
            "neither index.json nor manifest.json",
        ),
        (without(&oci, &[&layer]), "which is not in the archive"),
        (
            tar(&[("../../etc/x", Entry::File(b"x"))]),
            "would leave the archive",
        ),
        (
            tar(&[("/etc/x", Entry::File(b"x"))]),
            "would leave the archive",
        ),
        (
            tar(&[("a", Entry::Symlink("/etc/x"))]),
            "would leave the archive",
        ),
        (tar(&[("dev", Entry::Device)]), "a device or a pipe"),
        (
            tar(&[("blobs/sha256/../x", Entry::File(b""))]),
            "would leave",
        ),
        (
            tar(&[("blobs/sha256/zz", Entry::File(b""))]),
            "its name has no digest",
        ),
        (
            tar(&[(&layer, Entry::File(b"other"))]),
            "does not hold what its name says",
        ),
        (
            tar(&[("a.tar", Entry::File(b"1")), ("a.tar", Entry::File(b"2"))]),
            "stands twice",
        ),
        (
            tar(&[("manifest.json", Entry::File(b"[{}]"))]),
            "not valid JSON of its kind",
        ),
        (
            tar(&[("manifest.json", Entry::File(b"[{\"Config\":\"x.json\"}]"))]),
            "\"x.json\", which is not in the archive",
        ),
        (
            tar(&[
                ("oci-layout", Entry::File(b"{}")),
                ("index.json", Entry::File(b"{}")),
            ]),
            "version 1.0.0",
        ),
    ];
    for (archive, words) in wrong {
        let to = store();
        let error = to.read(&archive).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(words), "{words:?} is not in {text:?}");
        assert!(to.layout.images().unwrap().is_empty());
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[test]
fn a_layer_is_what_its_configuration_says_or_refused() {
    let (layer, other) = (tar(&[]), tar(&[("x", Entry::File(b"x"))]));
    for (claimed, layers, words) in [
        (vec![&other], json!(["l.tar"]), "configuration says"),
        (vec![&layer, &layer], json!(["l.tar"]), "has 1 layers"),
        (vec![&layer], json!(["../l.tar"]), "would leave"),
        (vec![&layer], json!(["none.tar"]), "not in the archive"),
        (vec![&layer], json!(["self.tar"]), "to itself"),
    ] {
        let diffs: Vec<String> = claimed.iter().map(|tar| sha256(tar).to_string()).collect();
        let manifest = json!([{ "Config": "c.json", "RepoTags": null, "Layers": layers }]);
        let archive = tar(&[
            ("c.json", Entry::File(config(&diffs).as_bytes())),
            ("l.tar", Entry::File(&packed(&layer, Compression::Gzip))),
            ("self.tar", Entry::Symlink("self.tar")),
            (
                "manifest.json",
                Entry::File(manifest.to_string().as_bytes()),
            ),
        ]);
        let text = chain(&store().read(&archive).unwrap_err());
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
    // A configuration that is called by another digest than its own.
    let text = config(&[]);
    let config_name = format!("{}.json", sha256(b"other").digest());
    let manifest = json!([{ "Config": config_name, "Layers": [] }]).to_string();
    let archive = tar(&[
        (&config_name, Entry::File(text.as_bytes())),
        ("manifest.json", Entry::File(manifest.as_bytes())),
    ]);
    let error = store().read(&archive).unwrap_err();
    assert!(matches!(error, ReadError::Digest { .. }), "{error:?}");
}

/// A store with a gigabyte left.
struct Full<'a>(&'a Layout);

impl Content for Full<'_> {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        self.0.open(digest)
    }

    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        self.0.writer(expected)
    }

    fn free(&self) -> io::Result<Option<u64>> {
        Ok(Some(1 << 30))
    }
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_written() {
    let mut header = tar::Header::new_gnu();
    header.set_path("blobs/sha256").unwrap();
    let file = format!("blobs/sha256/{}", sha256(b"x").digest());
    header.set_path(&file).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(10 << 30);
    header.set_cksum();
    let to = store();
    let options = ReadOptions::default();
    let cancel = Cancel::default();
    let huge = &header.as_bytes()[..];
    let nearly_full = Full(&to.layout);
    let error = read(huge, &nearly_full, &options, &Silent, &cancel).unwrap_err();
    assert!(matches!(error, ReadError::NoRoom { .. }), "{error:?}");
    let error = to.read(huge).unwrap_err();
    assert!(chain(&error).contains("cut off"), "{error:?}");
    // GNU's sparse file: little data, and a size that only its map says.
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_cksum();
    let error = to.read(header.as_bytes()).unwrap_err();
    assert!(chain(&error).contains("sparse file"), "{error:?}");
    // One whose map is good: all of it is a hole.
    let gnu = header.as_gnu_mut().unwrap();
    gnu.size.copy_from_slice(b"00000000000\0");
    gnu.set_real_size(10 << 30);
    gnu.sparse[0].set_offset(10 << 30);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let error = to.read(header.as_bytes()).unwrap_err();
    assert!(chain(&error).contains("is a sparse file"), "{error:?}");
    // Nothing was left under any name.
    let files = std::fs::read_dir(to.layout.dir()).unwrap().count();
    assert_eq!(files, 3);
    let small = ReadOptions {
        limit: 1000,
        ..ReadOptions::default()
    };
    let (archive, _) = legacy();
    let error = read(&archive[..], to.content(), &small, &Silent, &cancel).unwrap_err();
    assert!(chain(&error).contains("more than 1000 bytes"), "{error:?}");
}

#[test]
fn cancelling_ends_both_ways() {
    let from = store();
    let image = from.image(&["a"], Compression::Gzip);
    let plan = Plan::oci(&[image], from.content()).unwrap();
    let archive = from.write(&plan);
    let cancel = Cancel::default();
    cancel.cancel();
    let to = store();
    let options = ReadOptions::default();
    let read = read(&archive[..], to.content(), &options, &Silent, &cancel);
    assert!(matches!(read, Err(ReadError::Cancelled(_))), "{read:?}");
    let written = plan.write(from.content(), &mut Vec::new(), &Silent, &cancel);
    assert!(written.is_err());
}

#[test]
fn damage_at_rest_never_leaves() {
    for (docker, compression) in [
        (false, Compression::None),
        (true, Compression::None),
        (true, Compression::Gzip),
    ] {
        let from = store();
        let image = from.image(&["a"], compression);
        let found = load(from.content(), &image.bytes).unwrap();
        let blob = found.layers[0].blob.digest().digest().to_owned();
        let path = from.layout.dir().join("blobs/sha256").join(blob);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let cancel = Cancel::default();
        let failed = match docker {
            true => Plan::docker(&[image], from.content(), &Silent, &cancel).map(drop),
            false => {
                let plan = Plan::oci(&[image], from.content()).unwrap();
                plan.write(from.content(), &mut Vec::new(), &Silent, &cancel)
            }
        };
        let text = chain(&failed.unwrap_err());
        assert!(text.contains("have the digest"), "{text}");
    }
}

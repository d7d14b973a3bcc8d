//! Loading that stops in the middle, and images with more ways than documents.

use config::name::Target;
use serde_json::{Value, json};
use unpacker::content::Content;
use unpacker::progress::Silent;

use super::*;
use crate::images::scene;

/// What a test loads, with the archive's bytes.
struct Scene {
    _data: tempfile::TempDir,
    images: Images,
}

fn scene() -> Scene {
    let data = tempfile::tempdir().unwrap();
    let store = registry::store::Options::below(data.path());
    Scene {
        images: scene::images(data.path(), "", store),
        _data: data,
    }
}

fn put(content: &dyn Content, media: &str, bytes: &[u8]) -> Value {
    let (digest, size) = content.put(bytes).unwrap();
    json!({"mediaType": media, "digest": digest.to_string(), "size": size})
}

/// A row of an index that names a new image.
fn image(content: &dyn Content, text: &str) -> Value {
    let kind = "application/vnd.oci.image.config.v1+json";
    let config = json!({"os": "linux", "architecture": "amd64", "author": text,
        "rootfs": {"type": "layers", "diff_ids": []}});
    let config = put(content, kind, config.to_string().as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config,
        "layers": []});
    put(content, kind, manifest.to_string().as_bytes())
}

fn index(rows: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": rows})
    .to_string()
    .into_bytes()
}

/// An archive of images with these names, which are not in the store.
fn archive(names: &[&str], text: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let layout = unpacker::image::layout::Layout::create(dir.path()).unwrap();
    let named = names.iter().map(|name| {
        let row = image(&layout, &format!("{name} {text}"));
        let digest: Digest = row["digest"].as_str().unwrap().parse().unwrap();
        let content: &dyn Content = &layout;
        let bytes = content.read(&digest, MAX_MANIFEST).unwrap().unwrap();
        let name: Reference = name.parse().unwrap();
        let kind = row["mediaType"].as_str().unwrap().to_owned();
        NamedImage::new(vec![Name::Full(name)], kind, bytes)
    });
    let named: Vec<_> = named.collect();
    let plan = Plan::oci(&named, &layout).unwrap();
    let mut bytes = Vec::new();
    plan.write(&layout, &mut bytes, &Silent, &Cancel::default())
        .unwrap();
    bytes
}

const NAMES: [&str; 3] = ["r.example/a:1", "r.example/b:1", "r.example/c:1"];

impl Scene {
    fn load(
        &self,
        archive: &[u8],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Vec<Moved>> {
        let request = LoadRequest::default();
        self.images
            .load_archive(archive, &request, progress, cancel)
    }

    /// What each name means now.
    fn digests(&self) -> Vec<Option<String>> {
        let found = |name: &&str| {
            let found = self.images.find(&name.parse().unwrap()).unwrap();
            found.map(|kept| kept.digest.to_string())
        };
        NAMES.iter().map(found).collect()
    }
}

#[tokio::test]
async fn a_load_that_is_stopped_in_the_middle_says_what_is_there() {
    let it = scene();
    let silent = Cancel::default();
    it.load(&archive(&NAMES, "old"), &Silent, &silent).unwrap();
    let before = it.digests();
    let cancel = Cancel::default();
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |event: Event| {
        if let Event::Finished { id, .. } = event
            && id.contains('/')
        {
            told.lock().unwrap().push(id);
            cancel.cancel();
        }
    };
    let archive = archive(&NAMES, "new");
    let failure = it.load(&archive, &progress, &cancel).unwrap_err();
    assert_eq!(failure.kind, Kind::Cancelled);
    assert_eq!(
        failure.hints,
        [
            "These images were loaded: r.example/a:1.",
            "These were not: r.example/b:1, r.example/c:1.",
        ]
    );
    assert_eq!(*told.lock().unwrap(), ["r.example/a:1"]);
    let after = it.digests();
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1..], before[1..]);
    // Stopped before the first, nothing is there, and that is said.
    let failure = it.load(&archive, &progress, &cancel).unwrap_err();
    assert_eq!(failure.hints, ["Nothing of it was kept."]);
}

#[tokio::test]
async fn a_tag_moves_only_to_what_is_whole() {
    let it = scene();
    let content = it.images.content.as_ref();
    let rows: Vec<Value> = (0..3).map(|n| image(content, &n.to_string())).collect();
    let missing = put(content, "application/x", b"not a manifest");
    let mut absent = missing.clone();
    absent["digest"] = unpacker::digest::sha256(b"absent").to_string().into();
    let bytes = index(&[&rows[..], &[absent]].concat());
    let named = NamedImage::new(
        Vec::new(),
        "application/vnd.oci.image.index.v1+json".into(),
        bytes,
    );
    let place: Place = ("a".parse().unwrap(), Target::Tag("1".parse().unwrap()));
    let kept = it.images.keep_images(
        std::slice::from_ref(&named),
        &[vec![place.clone()]],
        &Silent,
        &Cancel::default(),
    );
    let failure = kept.unwrap_err();
    assert_eq!(failure.hints.last().unwrap(), "Nothing of it was kept.");
    let tag = it.images.registry.manifest(&place.0, &place.1).unwrap();
    assert!(tag.is_none());
}

#[tokio::test]
async fn documents_that_many_indexes_name_are_kept_once() {
    let it = scene();
    let content = it.images.content.as_ref();
    let mut row = image(content, "x");
    // A hundred million ways to one manifest.
    for _ in 0..3 {
        let kind = "application/vnd.oci.image.index.v1+json";
        row = put(content, kind, &index(&vec![row; 400]));
    }
    let bytes = index(&[row]);
    let named = NamedImage::new(
        Vec::new(),
        "application/vnd.oci.image.index.v1+json".into(),
        bytes,
    );
    let place: Place = ("a".parse().unwrap(), Target::Tag("1".parse().unwrap()));
    let kept = it
        .images
        .keep_images(&[named], &[vec![place]], &Silent, &Cancel::default())
        .unwrap();
    assert_eq!(kept.len(), 1);
}

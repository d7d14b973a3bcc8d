//! What an archive may cost: documents that are read, names and manifests that are held.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::entries::MAX_NAMES;
use super::super::oci;
use super::super::read::{MAX_DOCUMENTS, MAX_TAGS};
use super::*;

/// A store that counts how often it is asked for a blob, and cancels after so many.
struct Counting<'a> {
    layout: &'a Layout,
    opened: AtomicUsize,
    most: usize,
    cancel: Cancel,
}

impl<'a> Counting<'a> {
    fn new(layout: &'a Layout, most: usize) -> Self {
        Self {
            layout,
            opened: AtomicUsize::new(0),
            most,
            cancel: Cancel::default(),
        }
    }

    fn images(&self, index: &Value) -> Result<Vec<NamedImage>, ReadError> {
        let platform = "linux/amd64".parse().unwrap();
        let index = index.to_string();
        oci::images(index.as_bytes(), self, &platform, &Silent, &self.cancel)
    }
}

impl Content for Counting<'_> {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        if self.opened.fetch_add(1, Ordering::SeqCst) >= self.most {
            self.cancel.cancel();
        }
        self.layout.open(digest)
    }

    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        self.layout.writer(expected)
    }
}

/// An index of these rows.
fn index_of(rows: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows})
}

impl Store {
    /// Stores an index, and answers the row that names it.
    fn index(&self, rows: &[Value]) -> Value {
        let mut row = self.put(index_of(rows).to_string().as_bytes());
        row["mediaType"] = INDEX.into();
        row
    }
}

#[test]
fn indexes_that_name_one_another_many_times_are_read_once() {
    let from = store();
    let image = from.image(&["a"], Compression::Gzip);
    let mut row = json!({"mediaType": MANIFEST, "digest": image.digest.to_string(),
        "size": image.bytes.len()});
    // Four documents, and a hundred million ways through them.
    for _ in 0..4 {
        row = from.index(&vec![row; 100]);
    }
    let counting = Counting::new(&from.layout, 100);
    let read = counting
        .images(&index_of(&[row.clone(), row.clone()]))
        .unwrap();
    assert_eq!(read.len(), 1);
    let opened = counting.opened.load(Ordering::SeqCst);
    assert!(opened < 20, "{opened} blobs were opened");
    // Writing it is no more work.
    let plan = Plan::oci(&read, &counting).unwrap();
    let opened = counting.opened.load(Ordering::SeqCst);
    assert!(opened < 40, "{opened} blobs were opened");
    let again = store();
    assert_eq!(again.read(&from.write(&plan)).unwrap(), read);
    // A name of it with another size is refused, whoever named it rightly before.
    let mut wrong = row.clone();
    wrong["size"] = 1.into();
    let refused = from.read(&layout_tar(&index_of(&[row, wrong])));
    let text = chain(&refused.unwrap_err());
    assert!(text.contains("bytes"), "{text}");
}

/// An archive of nothing but an index: the blobs are in the store.
fn layout_tar(index: &Value) -> Vec<u8> {
    let text = index.to_string();
    tar(&[
        (
            "oci-layout",
            Entry::File(br#"{"imageLayoutVersion":"1.0.0"}"#),
        ),
        ("index.json", Entry::File(text.as_bytes())),
    ])
}

#[test]
fn an_image_of_too_many_manifests_is_refused() {
    let from = store();
    let blob = from.put(b"x");
    let manifests = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|n| {
                let mut config = blob.clone();
                config["mediaType"] = format!("application/x-{n}").into();
                let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": config, "layers": []});
                let mut row = from.put(manifest.to_string().as_bytes());
                row["mediaType"] = MANIFEST.into();
                row
            })
            .collect()
    };
    let most = from.index(&manifests(MAX_DOCUMENTS - 1));
    let more = from.index(&manifests(MAX_DOCUMENTS));
    let read = |row: &Value| from.read(&layout_tar(&index_of(std::slice::from_ref(row))));
    assert_eq!(read(&most).unwrap().len(), 1);
    let refused = read(&more);
    assert!(
        matches!(refused, Err(ReadError::TooManyDocuments)),
        "{refused:?}"
    );
}

#[test]
fn looking_for_what_is_missing_can_be_stopped() {
    let from = store();
    let images: Vec<Value> = (0..20)
        .map(|n| {
            let image = from.image(&[&n.to_string()], Compression::None);
            json!({"mediaType": MANIFEST, "digest": image.digest.to_string(),
                "size": image.bytes.len()})
        })
        .collect();
    let row = from.index(&images);
    let counting = Counting::new(&from.layout, 5);
    let stopped = counting.images(&index_of(&[row]));
    assert!(
        matches!(stopped, Err(ReadError::Cancelled(_))),
        "{stopped:?}"
    );
    let opened = counting.opened.load(Ordering::SeqCst);
    assert!(opened < 12, "{opened} blobs were opened");
}

/// A tar of links with long names, as it comes and never whole in memory.
struct Links {
    next: usize,
    left: usize,
    part: io::Cursor<Vec<u8>>,
}

impl io::Read for Links {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.part.read(buffer)?;
        if read > 0 || self.left == 0 {
            return Ok(read);
        }
        self.left -= 1;
        self.next += 1;
        let name = format!("{:0>3000}", self.next);
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        builder.append_link(&mut header, &name, &name).unwrap();
        self.part = io::Cursor::new(builder.get_ref().clone());
        self.part.read(buffer)
    }
}

#[test]
fn names_take_a_bounded_share_of_memory() {
    let to = store();
    let links = |left| Links {
        next: 0,
        left,
        part: io::Cursor::default(),
    };
    let options = ReadOptions::default();
    let cancel = Cancel::default();
    let read = |links| read(links, to.content(), &options, &Silent, &cancel);
    // Two names of three thousand bytes each.
    let few = read(links(MAX_NAMES / 6000 - 1));
    assert!(
        matches!(few, Err(ReadError::NoImages { .. } | ReadError::Tar(_))),
        "{few:?}"
    );
    let many = read(links(MAX_NAMES / 6000 + 1));
    assert!(matches!(many, Err(ReadError::TooManyNames)), "{many:?}");
}

#[test]
fn manifests_that_are_held_are_bounded_together() {
    let from = store();
    let blob = from.put(b"x");
    let rows: Vec<Value> = (0..20)
        .map(|n| {
            let text = "x".repeat(4_000_000);
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": blob_row(&blob),
                "layers": [], "annotations": {"n": n, "text": text}});
            let mut row = from.put(manifest.to_string().as_bytes());
            row["mediaType"] = MANIFEST.into();
            row
        })
        .collect();
    let read = |rows: &[Value]| from.read(&layout_tar(&index_of(rows)));
    assert_eq!(read(&rows[..10]).unwrap().len(), 10);
    let refused = read(&rows);
    assert!(
        matches!(refused, Err(ReadError::TooMuchHeld)),
        "{refused:?}"
    );
}

fn blob_row(blob: &Value) -> Value {
    let mut row = blob.clone();
    row["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    row
}

/// An archive of docker's with one image of so many names.
fn named(count: usize) -> Vec<u8> {
    let layer = tar(&[]);
    let config = config(&[sha256(&layer).to_string()]);
    let name = format!("{}.json", sha256(config.as_bytes()).digest());
    let tags: Vec<String> = (0..count).map(|n| format!("many:{n}")).collect();
    // The second half says nothing new.
    let item = json!({ "Config": name, "RepoTags": tags, "Layers": ["layer.tar"] });
    let manifest = json!([item, item]).to_string();
    tar(&[
        ("layer.tar", Entry::File(&layer)),
        (&name, Entry::File(config.as_bytes())),
        ("manifest.json", Entry::File(manifest.as_bytes())),
    ])
}

#[test]
fn names_of_images_are_bounded() {
    let read = store().read(&named(MAX_TAGS)).unwrap();
    assert_eq!((read.len(), read[0].names.len()), (1, MAX_TAGS));
    let error = store().read(&named(MAX_TAGS + 1)).unwrap_err();
    assert!(matches!(error, ReadError::TooManyTags), "{error}");
    assert_eq!(
        error.to_string(),
        "the archive gives its images more than 10000 names"
    );
}

//! Is an image at rest what it claims to be? Every byte is read again.
//!
//! Unpacking verifies too, but stops at the first fault and writes; this one writes nothing and
//! tells all. An index is checked with all its images.

use std::collections::HashSet;
use std::io::{self, Read};

use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};

use super::Layer;
use super::read::{self, ImageError, MAX_MANIFEST, MAX_NESTING, Parsed};
use crate::content::Content;
use crate::digest::{Digest, Hasher};
use crate::layer::compress::decoder;
use crate::progress::{Cancel, Cancelled, Event, Phase, Progress};
use crate::pull;
use crate::verify::Verified;

const CHUNK: usize = 256 * 1024;

/// What was looked at, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub manifests: u64,
    /// Each once, however often it is used.
    pub blobs: u64,
    /// Of the blobs.
    pub bytes: u64,
    /// None where all is well.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Of what is wrong.
    pub digest: String,
    /// For people.
    pub text: String,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Checks a manifest or index, whose digest is `digest`, with everything that it names.
pub fn check(
    content: &dyn Content,
    document: &[u8],
    digest: &Digest,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Report, Cancelled> {
    let mut checking = Checking {
        content,
        progress,
        cancel,
        report: Report::default(),
        seen: HashSet::new(),
        documents: HashSet::new(),
    };
    let mut hasher = Hasher::like(digest);
    hasher.update(document);
    let actual = hasher.finish();
    if actual != *digest {
        checking.fault(digest, &format!("its bytes have the digest {actual}"));
    }
    checking.document(document, digest, 0)?;
    Ok(checking.report)
}

struct Checking<'a> {
    content: &'a dyn Content,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    report: Report,
    seen: HashSet<String>,
    /// By digest and depth: an index may name one as often as it likes.
    documents: HashSet<(String, usize)>,
}

impl Checking<'_> {
    fn fault(&mut self, digest: &Digest, text: &str) {
        self.report.faults.push(Fault {
            digest: digest.to_string(),
            text: text.to_owned(),
        });
    }

    fn broken(&mut self, digest: &Digest, error: &dyn std::error::Error) {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        self.fault(digest, &text);
    }

    fn document(&mut self, bytes: &[u8], digest: &Digest, depth: usize) -> Result<(), Cancelled> {
        self.cancel.check()?;
        if depth > MAX_NESTING {
            self.broken(digest, &ImageError::TooDeep);
            return Ok(());
        }
        self.report.manifests += 1;
        match read::parse(bytes) {
            Err(error) => self.broken(digest, &error),
            Ok(Parsed::Manifest { config, .. }) => self.manifest(bytes, digest, &config)?,
            Ok(Parsed::Index(children)) => {
                for child in children {
                    let once = (child.digest().to_string(), depth);
                    if !self.documents.insert(once) {
                        continue;
                    }
                    match read::fetch(self.content, &child, MAX_MANIFEST) {
                        Ok(bytes) => self.document(&bytes, child.digest(), depth + 1)?,
                        Err(error) => self.broken(child.digest(), &error),
                    }
                }
            }
        }
        Ok(())
    }

    fn manifest(
        &mut self,
        bytes: &[u8],
        digest: &Digest,
        config: &Descriptor,
    ) -> Result<(), Cancelled> {
        let blobs = match pull::blobs(bytes, digest) {
            Ok(blobs) => blobs,
            Err(error) => {
                self.broken(digest, &error);
                return Ok(());
            }
        };
        // An artifact's blobs have no diffIDs, and are checked for what they are.
        let layers = match read::load(self.content, bytes) {
            Ok(image) => image.layers,
            Err(ImageError::NotAnImage { .. }) => Vec::new(),
            Err(error) => {
                if !self.is_known(config.digest()) {
                    self.broken(digest, &error);
                }
                Vec::new()
            }
        };
        for blob in blobs {
            let layer = layers
                .iter()
                .find(|layer| *layer.blob.digest() == blob.digest);
            self.blob(&blob.digest, blob.size, layer)?;
        }
        Ok(())
    }

    /// Whether its fault is told already.
    fn is_known(&self, digest: &Digest) -> bool {
        let text = digest.to_string();
        self.report.faults.iter().any(|fault| fault.digest == text)
    }

    fn blob(&mut self, digest: &Digest, size: u64, layer: Option<&Layer>) -> Result<(), Cancelled> {
        let unpacked = layer.map(|layer| layer.diff_id.to_string());
        if !self
            .seen
            .insert(format!("{digest} {}", unpacked.unwrap_or_default()))
        {
            return Ok(());
        }
        self.report.blobs += 1;
        self.report.bytes += size;
        let looked = self.look(digest, size, layer);
        self.cancel.check()?;
        match looked {
            Ok(None) => {}
            Ok(Some(text)) => self.fault(digest, &text),
            Err(error) => self.broken(digest, &error),
        }
        self.progress.event(Event::Finished {
            id: digest.digest().chars().take(12).collect(),
            phase: Phase::Check,
            note: None,
        });
        Ok(())
    }

    /// What is wrong with a blob.
    fn look(
        &self,
        digest: &Digest,
        size: u64,
        layer: Option<&Layer>,
    ) -> io::Result<Option<String>> {
        let Some(blob) = self.content.open(digest)? else {
            return Ok(Some("it is not here".to_owned()));
        };
        let mut verified = Verified::new(blob.file, digest, size);
        let unpacked = match layer {
            Some(layer) => self.hash(&mut verified, Hasher::like(layer.diff_id.digest())),
            None => self.hash_nothing(&mut verified),
        };
        // What the bytes are matters more than what a decoder says of wrong ones.
        if let Err(mismatch) = verified.finish()? {
            return Ok(Some(mismatch.to_string()));
        }
        match (unpacked?, layer) {
            (Some(actual), Some(layer)) if actual != *layer.diff_id.digest() => Ok(Some(format!(
                "it unpacks to {actual}, its configuration says {}",
                layer.diff_id
            ))),
            _ => Ok(None),
        }
    }

    fn hash(&self, blob: &mut (dyn Read + Send), mut hasher: Hasher) -> io::Result<Option<Digest>> {
        let mut tar = decoder(blob)?;
        self.each_chunk(&mut tar, |chunk| hasher.update(chunk))?;
        Ok(Some(hasher.finish()))
    }

    fn hash_nothing(&self, blob: &mut dyn Read) -> io::Result<Option<Digest>> {
        self.each_chunk(blob, |_| {})?;
        Ok(None)
    }

    fn each_chunk(&self, from: &mut dyn Read, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            self.cancel.check().map_err(io::Error::other)?;
            match from.read(&mut chunk)? {
                0 => return Ok(()),
                read => each(&chunk[..read]),
            }
        }
    }
}

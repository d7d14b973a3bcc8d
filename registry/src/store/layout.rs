//! The content folder as an OCI image layout: `oci-layout` and `index.json`.
//!
//! `index.json` is an export derived from the index, so that other tools can read the folder; this
//! program never reads it. Each tag stands there as `<repository>:<tag>`
//! (`org.opencontainers.image.ref.name`, image-spec image-layout.md). A thread of its own writes it,
//! whole and by rename, a moment after the last change and once more at shutdown. It is not synced:
//! everything in it is derived, and a power cut costs it only until the next open writes it again.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::NamedTempFile;

use crate::store::index::manifests::{self, TagRow};
use crate::store::index::{Index, IndexError};

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An export rests so many times as long as it took: with a million tags it takes seconds, and must
/// not keep a processor and the disk busy.
const REST: u32 = 20;

/// Why the export was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("tags cannot be read")]
    Index(#[from] IndexError),
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Writes the marker that makes a folder an image layout.
pub(super) fn mark(content: &Path) -> io::Result<()> {
    let path = content.join("oci-layout");
    match fs::read(&path) {
        Ok(bytes) if bytes == LAYOUT.as_bytes() => Ok(()),
        _ => replace(&path, LAYOUT.as_bytes()),
    }
}

/// Writes `index.json` from the tags as they are now. However many there are, only one is in memory.
pub(super) fn export(index: &Index, content: &Path) -> Result<(), ExportError> {
    let path = content.join("index.json");
    let fault = |source| ExportError::Write {
        path: path.clone(),
        source,
    };
    let (mut writer, mut written, mut separator) =
        (BufWriter::new(begin(content).map_err(fault)?), Ok(()), "");
    let head = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX_TYPE}","manifests":["#);
    writer.write_all(head.as_bytes()).map_err(fault)?;
    index.read(|rows| {
        manifests::each_tag(rows, &mut |row| {
            if written.is_ok() {
                written = write!(writer, "{separator}{}", descriptor(&row));
                separator = ",";
            }
        })
    })?;
    written
        .and_then(|()| writer.write_all(b"]}"))
        .map_err(fault)?;
    let file = writer
        .into_inner()
        .map_err(|error| fault(error.into_error()))?;
    finish(file, &path).map_err(fault)
}

fn descriptor(row: &TagRow) -> serde_json::Value {
    json!({
        "mediaType": row.manifest.media_type,
        "digest": row.digest,
        "size": row.manifest.size,
        "annotations": { REF_NAME: format!("{}:{}", row.repository, row.tag) },
    })
}

/// Readers see the old file or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = begin(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    finish(file, path)
}

fn begin(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".export-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
}

fn finish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The exporting thread. Dropping it writes what is still due.
#[derive(Debug)]
pub(super) struct Exporter {
    changes: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// `quiet` is how long changes must pause before the export is written.
    pub(super) fn start(index: Arc<Index>, content: &Path, quiet: Duration) -> io::Result<Self> {
        // One place is enough: a change that finds it taken is covered by the export that is due.
        let (changes, due) = sync_channel(1);
        let content = content.to_owned();
        let thread = Builder::new()
            .name("registry-layout".to_owned())
            .spawn(move || run(&index, &content, quiet, &due))?;
        let exporter = Self {
            changes: Some(changes),
            thread: Some(thread),
        };
        exporter.changed();
        Ok(exporter)
    }

    /// Tags changed.
    pub(super) fn changed(&self) {
        if let Some(changes) = &self.changes {
            match changes.try_send(()) {
                Ok(()) | Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => tracing::warn!("layout export has stopped"),
            }
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            // A panic there costs only the export, which the next open makes again.
            let _ = thread.join();
        }
    }
}

fn run(index: &Index, content: &Path, quiet: Duration, due: &Receiver<()>) {
    let mut pause = quiet;
    while due.recv().is_ok() {
        settle(due, pause);
        let begun = Instant::now();
        if let Err(error) = export(index, content) {
            tracing::warn!(?error, "image layout export failed");
        }
        pause = quiet.max(begun.elapsed() * REST);
    }
}

/// Lets a burst of changes pass, but never waits for more than ten pauses.
fn settle(due: &Receiver<()>, pause: Duration) {
    for _ in 0..10 {
        match due.recv_timeout(pause) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

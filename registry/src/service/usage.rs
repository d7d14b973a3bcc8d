//! What lies on the disk, and upload sessions as people look at them.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use config::name::RepositoryName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Registry, UploadError};
use crate::events::envelope::rfc3339;
use crate::store::sessions::SessionId;
use crate::store::{StoreError, Swept};

/// Files, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Amount {
    pub count: u64,
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a collection removed, or would remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Collected {
    /// Manifests that nothing has named for a while.
    pub manifests: u64,
    /// Blobs hidden from a repository whose manifests need them no more.
    pub links: u64,
    /// Files.
    pub blobs: u64,
    pub bytes: u64,
    /// Abandoned upload sessions.
    pub sessions: u64,
}

impl From<Swept> for Collected {
    fn from(swept: Swept) -> Self {
        Self {
            manifests: swept.manifests,
            links: swept.links,
            blobs: swept.blobs,
            bytes: swept.bytes,
            sessions: swept.sessions,
        }
    }
}

/// What the registry takes of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Blobs and manifests.
    pub content: Amount,
    /// The index's file.
    pub index_bytes: u64,
    /// Unfinished uploads.
    pub uploads: Amount,
    /// Damaged blobs that were set aside.
    pub quarantine: Amount,
    /// What a collection would free now.
    pub reclaimable: Collected,
    /// Of the file system.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// An upload session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenUpload {
    pub session: String,
    pub repository: String,
    /// Bytes received so far.
    pub received: u64,
    /// When the last of them came, RFC 3339.
    pub touched: String,
}

impl Registry {
    /// What the registry takes of the disk. Reads the folders, so it takes a while where there are
    /// very many blobs.
    pub fn disk_usage(&self) -> Result<Usage, StoreError> {
        let options = self.store().options();
        let mut content = Amount::default();
        for algorithm in ["sha256", "sha512"] {
            add_files(&options.content.join("blobs").join(algorithm), &mut content)?;
        }
        let (mut uploads, mut quarantine) = (Amount::default(), Amount::default());
        add_files(&options.content.join("uploads"), &mut uploads)?;
        uploads.count = self.open_uploads() as u64;
        add_files(&options.content.join("quarantine"), &mut quarantine)?;
        let space = rustix::fs::statvfs(&options.content).map_err(io::Error::from)?;
        Ok(Usage {
            content,
            index_bytes: std::fs::metadata(&options.index)?.len(),
            uploads,
            quarantine,
            reclaimable: self.collectable()?.into(),
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        })
    }

    /// Upload sessions that are open, by name, after `last`.
    pub fn uploads(
        &self,
        last: Option<&str>,
        limit: usize,
    ) -> Result<crate::store::index::Page<OpenUpload>, StoreError> {
        let sessions = self.store().sessions();
        let mut names = self.session_ids();
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        let mut found = Vec::new();
        let mut more = false;
        for id in names
            .into_iter()
            .filter(|id| last.is_none_or(|last| id.as_str() > last))
        {
            if found.len() == limit {
                more = true;
                break;
            }
            let touched = sessions.touched(&id)?;
            // One that ends meanwhile is left out.
            let (Some(record), Some(received), Some(touched)) =
                (sessions.record(&id)?, sessions.offset(&id)?, touched)
            else {
                continue;
            };
            let touched = touched
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            found.push(OpenUpload {
                session: id.to_string(),
                repository: record.repository.to_string(),
                received,
                touched: rfc3339(touched.saturating_mul(1000)),
            });
        }
        Ok(crate::store::index::Page { items: found, more })
    }

    /// The repository that an upload session belongs to.
    pub fn upload_repository(&self, id: &SessionId) -> Result<RepositoryName, UploadError> {
        let record = self.store().sessions().record(id)?;
        let repository = record.map(|record| record.repository);
        repository.ok_or_else(|| UploadError::Unknown {
            session: id.clone(),
        })
    }
}

/// Adds the files that lie in a folder, which need not exist. Temporary ones may vanish meanwhile.
fn add_files(folder: &Path, amount: &mut Amount) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        match entry?.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => amount.add(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

//! Files of a context that changed between the moment that they were hashed and the moment that they were
//! copied: what was made of them is not what its key says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use unpacker::progress::{Cancel, Cancelled};

use crate::cache::files;

use super::CopyError;
use super::select::Seen;

/// So many are told by name.
const TOLD: usize = 3;

/// The files of one step that changed.
#[derive(Debug, Default)]
pub struct Changes(Mutex<Vec<PathBuf>>);

impl Changes {
    /// Compares what was read of `source` with what was seen of it before. Where `stat` cannot tell,
    /// what was made of it does.
    pub(crate) fn compare(
        &self,
        seen: &Seen,
        path: &Path,
        source: &File,
        copied: impl FnOnce() -> Result<File, CopyError>,
        cancel: &Cancel,
    ) -> Result<(), CopyError> {
        let Seen::File(hashed) = seen else {
            return Ok(());
        };
        if hashed.is_still(source).map_err(CopyError::read(path))? {
            return Ok(());
        }
        let hash = files::hash(&mut copied()?, cancel).map_err(CopyError::read(path))?;
        if hash.ok_or(Cancelled)? != *hashed.hash {
            self.paths().push(path.to_owned());
        }
        Ok(())
    }

    /// What there is to tell; nothing where all is as it was.
    pub fn told(&self) -> Option<String> {
        let changed = self.paths();
        let named: Vec<String> = changed
            .iter()
            .take(TOLD)
            .map(|p| p.display().to_string())
            .collect();
        let more = match changed.len().saturating_sub(TOLD) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!named.is_empty()).then(|| format!("{}{more}", named.join(", ")))
    }

    fn paths(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        // A list of paths is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

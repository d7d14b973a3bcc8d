//! The build cache: what a step's result depends on, and where results are remembered.

pub mod files;
pub mod key;
pub mod layers;
pub mod steps;

use std::io::{self, Write};
use std::path::Path;

/// Replaces a file as a whole: readers see the old or the new one. Not synced: what a crash takes
/// is built again.
pub(crate) fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.persist(dir.join(name))?;
    Ok(())
}

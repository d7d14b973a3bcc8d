//! The build cache: what a step's result depends on, and where results are remembered.

pub mod description;
pub(crate) mod downloads;
pub mod files;
pub mod inventory;
pub mod key;
pub mod layers;
pub(crate) mod mount_names;
pub mod source;
pub mod steps;

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The last use is remembered no finer: a hit should not cost a write.
const FINENESS: Duration = Duration::from_secs(24 * 3600);

/// Replaces a file as a whole: readers see the old or the new one. Not synced: what a crash takes
/// is built again.
pub(crate) fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.persist(dir.join(name))?;
    Ok(())
}

/// Remembers in the file's time that it was of use. A failure only makes it seem older.
fn touch(path: &Path) {
    let (Ok(file), now) = (std::fs::File::open(path), SystemTime::now()) else {
        return;
    };
    let age = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map(|modified| now.duration_since(modified).unwrap_or_default());
    if age.is_ok_and(|age| age > FINENESS) {
        let _ = file.set_modified(now);
    }
}

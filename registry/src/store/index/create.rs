//! The first opening: redb marks a file as its own with the last of several writes, so a process
//! that ends before leaves a file that nothing can open any more. The file is therefore made beside
//! its place, with all its tables, and gets its name when it is durable.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{begin_write, rows, watched};
use crate::store::step::Steps;

/// Makes the file `path`. One that another process made meanwhile stays.
pub(super) fn create(path: &Path, steps: &Steps) -> Result<(), redb::Error> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".new-");
    remove_leftovers(folder, &prefix)?;
    let file = tempfile::Builder::new()
        .prefix(&prefix)
        .tempfile_in(folder)?;
    {
        let database = watched::open(file.path(), super::file::CACHE, steps)?;
        let transaction = begin_write(&database)?;
        rows::create_tables(&transaction)?;
        transaction.commit()?;
    }
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error.into()),
    }
    Ok(File::open(folder)?.sync_all()?)
}

/// What a first opening left that did not come to its end.
fn remove_leftovers(folder: &Path, prefix: &OsString) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes())
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

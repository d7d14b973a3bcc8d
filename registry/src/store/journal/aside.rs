//! Copies of the index and its segments before a part of them is given up: what nothing here can
//! read may still be of use to somebody, and a second attempt must not take it away.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::medium::{folder_of, segment_path};
use super::overlay::PAGE;

/// Copies the three files to `<name>.lost`, or `<name>.lost.1` and so on where there is such a file
/// from an earlier attempt. Durable when this returns.
pub(crate) fn keep_aside(index: &Path) -> io::Result<()> {
    let segments = [segment_path(index, 0), segment_path(index, 1)];
    for path in segments.iter().map(PathBuf::as_path).chain([index]) {
        match fs::metadata(path) {
            Ok(file) if file.len() > 0 => keep(path)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    File::open(folder_of(index))?.sync_all()
}

fn keep(path: &Path) -> io::Result<()> {
    let (kept, to) = free_name(path)?;
    let copied = copy(&File::open(path)?, &to).and_then(|unread| {
        to.sync_all()?;
        Ok(unread)
    });
    match copied {
        Ok(unread) => {
            tracing::warn!(copy = %kept.display(), unread, "kept a copy before going on");
            Ok(())
        }
        Err(error) => {
            let _ = fs::remove_file(&kept);
            Err(error)
        }
    }
}

fn free_name(path: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0_u32.. {
        let mut name = path.as_os_str().to_owned();
        name.push(".lost");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let kept = PathBuf::from(name);
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(&kept) {
            Ok(file) => return Ok((kept, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Copies page by page; one that the disk does not give stays zeros. Answers how many those are.
fn copy(from: &File, to: &File) -> io::Result<u64> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let (mut at, mut unread) = (0, 0);
    let mut page = vec![0; PAGE];
    while at < length {
        let size = usize::try_from(length - at).map_or(PAGE, |left| left.min(PAGE));
        let part = page.get_mut(..size).unwrap_or_default();
        match from.read_exact_at(part, at) {
            Ok(()) if part.iter().any(|byte| *byte != 0) => to.write_all_at(part, at)?,
            Ok(()) => {}
            Err(_) => unread += 1,
        }
        at += PAGE as u64;
    }
    Ok(unread)
}

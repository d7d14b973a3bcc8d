//! What the folders of cache mounts are called, and when they were last of use: a small file beside each,
//! `<cache>/mounts/<folder>.id`, because the folder's own name is a hash and its times are the steps'.

use std::io;
use std::path::Path;

use super::{touch, write_atomically};

/// More of an id is not shown.
const MAX_ID: u64 = 1024;

/// Remembers that the folder `name` below `caches` is the cache `id`, and that it is used now.
pub(crate) fn used(caches: &Path, name: &str, id: &str) -> io::Result<()> {
    let file = file(name);
    let path = caches.join(&file);
    if path.exists() {
        touch(&path);
        return Ok(());
    }
    let end = id.floor_char_boundary(MAX_ID as usize);
    write_atomically(caches, &file, &id.as_bytes()[..end])
}

/// The id of the cache in the folder `name`; `None` of one that an older version made.
pub(super) fn id(caches: &Path, name: &str) -> Option<String> {
    use io::Read;
    let mut text = String::new();
    let opened = std::fs::File::open(caches.join(file(name))).ok()?;
    opened.take(MAX_ID).read_to_string(&mut text).ok()?;
    Some(text)
}

pub(super) fn file(name: &str) -> String {
    format!("{name}.id")
}

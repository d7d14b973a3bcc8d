//! What is known of the files that ADD fetched: records below `<cache>/downloads`, by a hash of their
//! address, beside the files themselves, which are called by their digests.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{touch, write_atomically};

const MAX_RECORD: u64 = 64 << 10;

/// What is kept of a download.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) digest: String,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    /// Where it is from, as it may be shown.
    #[serde(default)]
    pub(crate) address: Option<String>,
}

impl Record {
    /// What the file is called.
    pub(crate) fn hex(&self) -> &str {
        self.digest.strip_prefix("sha256:").unwrap_or(&self.digest)
    }
}

fn file(name: &str) -> String {
    format!("{name}.json")
}

/// The record of the address `name`, and the file that it is about.
pub(crate) fn find(folder: &Path, name: &str) -> Option<(Record, File)> {
    let record = read(&folder.join(file(name)))?;
    let hex = record.hex();
    let is_name = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let body = File::open(folder.join(is_name.then_some(hex)?)).ok()?;
    Some((record, body))
}

/// What a file says; nothing where it is no record.
pub(super) fn read(path: &Path) -> Option<Record> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return None;
    }
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(MAX_RECORD)
        .read_to_string(&mut text)
        .ok()?;
    serde_json::from_str(&text).ok()
}

pub(crate) fn write(folder: &Path, name: &str, record: &Record) -> io::Result<()> {
    write_atomically(folder, &file(name), &serde_json::to_vec(record)?)
}

/// Remembers that a download was of use.
pub(crate) fn used(folder: &Path, name: &str, hex: &str) {
    touch(&folder.join(file(name)));
    touch(&folder.join(hex));
}

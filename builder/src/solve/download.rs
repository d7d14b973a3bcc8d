//! Files that ADD fetches: kept below `<cache>/downloads`, asked for again only with what the server
//! said of them, and not at all where a checksum says that what is kept is what is wanted.
//!
//! A download is a file by its digest, so two builds that fetch one address at one time never share a
//! half of each other's. What is known of an address is a record by a hash of it, written last.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use unpacker::digest::{Digest, Hasher, sha256};
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Timestamp;
use unpacker::progress::{Cancel, Cancelled};
use unpacker::snapshot::store::Staging;

use crate::cache::downloads::{self, Record};
use crate::cache::key::KeyWriter;
use crate::copy::CopyError;
use crate::copy::place::copy_bytes;
use crate::copy::select::{Match, Seen};
use crate::error::{DownloadError, StepError};
use crate::fetch::{Fetched, Validators, shown};
use crate::plan::RemoteSource;
use crate::request::Env;

/// Of one file; a disk is full before this matters, and a server that never ends does not fill it.
const MAX_DOWNLOAD: u64 = 64 << 30;
/// Whoever may read an image may not read what was fetched, as docker has it.
const MODE: u32 = 0o600;

/// A file that is here.
#[derive(Debug, Clone)]
pub(super) struct Download {
    path: PathBuf,
    name: String,
    digest: Digest,
    /// Seconds; the server's `Last-Modified`, or the beginning of time.
    modified: i64,
    pub(super) unpack: bool,
}

impl Download {
    /// What of it makes a difference in the image.
    pub(super) fn enter(&self, key: &mut KeyWriter) {
        key.field("fetched", self.digest.to_string());
        key.field("name", &self.name);
        key.field("modified", self.modified.to_string());
        key.field("unpack", self.unpack.to_string());
    }
}

/// Has a file here, fetched or kept.
pub(super) fn download(env: &Env<'_>, source: &RemoteSource) -> Result<Download, StepError> {
    let folder = env.cache.join("downloads");
    fs::create_dir_all(&folder).map_err(StepError::io("make the folder of downloads"))?;
    let name = sha256(source.address.as_bytes()).digest().to_owned();
    let kept = kept(&folder, &name, env.cancel)?;
    let wanted = source.checksum.as_ref();
    let record = match kept {
        Some(record) if wanted.is_some_and(|wanted| wanted.to_string() == record.digest) => record,
        kept => refresh(env, source, &folder, &name, kept)?,
    };
    let digest: Digest = record.digest.parse().map_err(|_| {
        StepError::io("read the record of a download")(io::ErrorKind::InvalidData.into())
    })?;
    if let Some(wanted) = wanted.filter(|wanted| **wanted != digest) {
        return Err(failed(
            source,
            DownloadError::Checksum {
                expected: wanted.to_string(),
                actual: digest.to_string(),
            },
        ));
    }
    downloads::used(&folder, &name, digest.digest());
    Ok(Download {
        path: folder.join(digest.digest()),
        name: source.name.clone(),
        digest,
        unpack: source.unpack,
        modified: record
            .last_modified
            .as_deref()
            .and_then(seconds)
            .unwrap_or(0),
    })
}

fn failed(source: &RemoteSource, error: DownloadError) -> StepError {
    StepError::Download {
        address: shown(&source.address),
        source: error,
    }
}

/// The record of a download whose file is whole.
fn kept(folder: &Path, name: &str, cancel: &Cancel) -> Result<Option<Record>, CopyError> {
    let Some((record, mut body)) = downloads::find(folder, name) else {
        return Ok(None);
    };
    // A file that cannot be read is fetched anew.
    let Ok(digest) = digest_of(&mut body, cancel) else {
        return Ok(None);
    };
    let whole = record.hex() == digest.ok_or(Cancelled)?.digest();
    Ok(whole.then_some(record))
}

/// The SHA-256 of a file; nothing where the work was stopped.
fn digest_of(body: &mut File, cancel: &Cancel) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; 128 * 1024];
    while !cancel.is_cancelled() {
        match body.read(&mut buffer)? {
            0 => return Ok(Some(hasher.finish())),
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(None)
}

/// Asks the server, and keeps what it says.
fn refresh(
    env: &Env<'_>,
    source: &RemoteSource,
    folder: &Path,
    name: &str,
    kept: Option<Record>,
) -> Result<Record, StepError> {
    let known = kept.as_ref().map(|record| Validators {
        etag: record.etag.clone(),
        last_modified: record.last_modified.clone(),
    });
    let what = "keep a download";
    let file = tempfile::NamedTempFile::new_in(folder).map_err(StepError::io(what))?;
    let mut to = Hashed {
        file,
        hasher: Hasher::sha256(),
    };
    let fetched = env.fetch.fetch(
        &source.address,
        &known.unwrap_or_default(),
        MAX_DOWNLOAD,
        &mut to,
        env.progress,
        env.cancel,
    );
    env.cancel.check().map_err(CopyError::Cancelled)?;
    let fetched = fetched.map_err(|error| failed(source, DownloadError::Fetch(error)))?;
    let validators = match (fetched, kept) {
        (Fetched::File(validators), _) => validators,
        (Fetched::Unchanged, Some(record)) => return Ok(record),
        (Fetched::Unchanged, None) => return Err(failed(source, DownloadError::Nothing)),
    };
    let digest = to.hasher.finish();
    let record = Record {
        digest: digest.to_string(),
        etag: validators.etag,
        last_modified: validators.last_modified,
        address: Some(shown(&source.address)),
    };
    to.file
        .persist(folder.join(digest.digest()))
        .map_err(|e| StepError::io(what)(e.error))?;
    downloads::write(folder, name, &record).map_err(StepError::io(what))?;
    Ok(record)
}

/// A file that is hashed as it grows.
struct Hashed {
    file: tempfile::NamedTempFile,
    hasher: Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Puts downloads into a scratch folder as they are to be copied: their names, mode and times.
pub(super) fn furnish(
    downloads: &[Download],
    scratch: &Staging,
    cancel: &Cancel,
) -> Result<(Root, Vec<Match>), StepError> {
    let furnished = (|| -> io::Result<_> {
        let root = Root::open(&scratch.fs())?;
        let mut matches = Vec::new();
        for (at, download) in downloads.iter().enumerate() {
            let folder = PathBuf::from(at.to_string());
            root.create_dir(&folder, 0o700)?;
            let path = folder.join(&download.name);
            let mut to = root.create_file(&path, MODE)?;
            match copy_bytes(&mut File::open(&download.path)?, &mut to, cancel) {
                Ok(copied) => copied?,
                Err(cancelled) => return Ok(Err(cancelled)),
            }
            root.set_mtime(&path, Timestamp::from_seconds(download.modified))?;
            matches.push(Match {
                metadata: root.metadata(&path)?,
                name: download.name.clone().into(),
                path,
                seen: Seen::Nothing,
                items: Vec::new(),
            });
        }
        Ok(Ok((root, matches)))
    })();
    let furnished = furnished.map_err(StepError::io("prepare what was fetched"))?;
    furnished.map_err(|cancelled| CopyError::Cancelled(cancelled).into())
}

/// Seconds of an HTTP date in its one current form (RFC 9110, "Date/Time Formats").
fn seconds(text: &str) -> Option<i64> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = time::PrimitiveDateTime::parse(text, &format).ok()?;
    Some(date.assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_servers() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for bad in ["", "yesterday", "1994-11-06T08:49:37Z"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}

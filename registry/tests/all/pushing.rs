//! The ways in which a blob comes into the store, without HTTP.

use std::io::Write;

use registry::digest::{Algorithm, Digest};
use registry::service::Registry;

use super::door::sha256;

pub(crate) fn push(registry: &Registry, repository: &str, content: &str) {
    let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
    writer.write_all(content.as_bytes()).unwrap();
    registry
        .commit_blob(
            &repository.parse().unwrap(),
            writer,
            &sha256(content.as_bytes()),
        )
        .unwrap();
}

/// As the builder does: the file first, by itself, and then its row.
pub(crate) fn write(registry: &Registry, repository: &str, content: &str) {
    let blobs = registry.store().blobs();
    let written = blobs.put(content.as_bytes(), Algorithm::Sha256).unwrap();
    let linked = registry.link_blob(&repository.parse().unwrap(), &written);
    assert!(linked.unwrap());
}

/// In two chunks.
pub(crate) fn upload(registry: &Registry, repository: &str, content: &[u8]) {
    let repository = repository.parse().unwrap();
    let session = registry
        .start_upload(&repository, Algorithm::Sha256)
        .unwrap();
    let (first, second) = content.split_at(3);
    for chunk in [first, second] {
        let appender = registry.append(&repository, &session, None, None);
        appender.unwrap().write(chunk).unwrap();
    }
    let appender = registry.append(&repository, &session, None, None).unwrap();
    let expected: Digest = sha256(content);
    appender.commit(&repository, &expected).unwrap();
}

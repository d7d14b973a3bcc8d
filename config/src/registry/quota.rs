//! `[[registry.quotas]]`: how many bytes may be kept.

use super::{required, tables};
use crate::jsonc::{Cursor, Located};
use crate::pattern::Pattern;
use crate::quantity::ByteSize;

/// The repositories that a pattern matches may hold so many bytes, each counted by itself. The
/// pattern `**` bounds every repository; the whole store is bounded by `registry.max_bytes`.
#[derive(Debug, Clone, PartialEq)]
pub struct Quota {
    pub repositories: Pattern,
    pub bytes: ByteSize,
}

/// Reads the list; the first quota that matches a repository counts.
pub(crate) fn read(cursor: &Cursor<'_>) -> Result<Vec<Quota>, Located> {
    let items = tables(cursor, &["repositories", "bytes"])?;
    let quotas = items.iter().map(|item| {
        Ok(Quota {
            repositories: required(item, "repositories")?,
            bytes: required(item, "bytes")?,
        })
    });
    quotas.collect()
}

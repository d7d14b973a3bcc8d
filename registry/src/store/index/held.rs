//! Every blob that some row names, whoever holds it.

use oci_spec::image::Digest;
use redb::ReadTransaction;

use super::rows::digest as parse;
use super::schema::{AS_LINK, HOLDERS, LINKS};

/// The size of a blob as the first repository that shows it says; `None` where none does.
pub fn size(transaction: &ReadTransaction, digest: &Digest) -> Result<Option<u64>, redb::Error> {
    let holders = transaction.open_table(HOLDERS)?;
    for row in holders.range((digest.as_ref(), "", 0)..)? {
        let (key, _) = row?;
        let (held, repository, kind) = key.value();
        if held != digest.as_ref() {
            break;
        }
        if kind == AS_LINK {
            let links = transaction.open_table(LINKS)?;
            let row = links.get((repository, digest.as_ref()))?;
            return Ok(row.map(|row| row.value().0));
        }
    }
    Ok(None)
}

/// At most `limit` digests that rows name, in order, after `last`. One seek for each: how many
/// repositories hold a blob does not matter.
pub fn after(
    transaction: &ReadTransaction,
    last: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Digest>, redb::Error> {
    let holders = transaction.open_table(HOLDERS)?;
    let mut found = Vec::new();
    // No digest begins with another one and a zero byte.
    let mut from = last.map_or(String::new(), |last| format!("{last}\0"));
    while found.len() < limit {
        let mut rows = holders.range((from.as_str(), "", 0)..)?;
        let Some(row) = rows.next() else {
            break;
        };
        let digest = parse(row?.0.value().0)?;
        from = format!("{digest}\0");
        found.push(digest);
    }
    Ok(found)
}

//! Who holds what, and how many bytes that is.
//!
//! A repository holds a digest as a blob, as a manifest, or as both; its usage counts each digest
//! once, and the store's counts each digest once however many repositories hold it. Both change in
//! the transaction of the hold itself, so they are exact at any moment and a quota decided upon them
//! cannot be overrun by racing pushes. The size that a digest was first held with counts until
//! nobody holds it any more, so that every sum is undone by what made it.

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::Rows;
use super::schema::{AS_LINK, AS_MANIFEST, HELD_BYTES_KEY, HOLDERS, META, SIZES, USAGE};

/// How many bytes may be held; `None` is without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    pub repository: Option<u64>,
    pub store: Option<u64>,
}

/// What a quota bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bounded {
    Repository(String),
    Store,
}

/// More was asked for than a quota has room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is exhausted: {used} of {limit} bytes are used, {adds} more were asked for",
    name(what)
)]
pub struct Exceeded {
    pub what: Bounded,
    pub used: u64,
    /// Bytes that are not held yet.
    pub adds: u64,
    pub limit: u64,
}

fn name(what: &Bounded) -> String {
    match what {
        Bounded::Repository(name) => format!("the quota of repository {name}"),
        Bounded::Store => "the quota of the whole registry".to_owned(),
    }
}

/// Bytes that a repository holds, each digest once.
pub fn of(transaction: &ReadTransaction, repository: &str) -> Result<u64, redb::Error> {
    used(transaction, repository)
}

/// Bytes that all repositories together hold, each digest once.
pub fn total(transaction: &ReadTransaction) -> Result<u64, redb::Error> {
    held_bytes(transaction)
}

/// The size of a digest that any repository holds.
pub fn size(transaction: &ReadTransaction, digest: &Digest) -> Result<Option<u64>, redb::Error> {
    let table = transaction.open_table(SIZES)?;
    Ok(table.get(digest.as_ref())?.map(|row| row.value()))
}

/// Whether there is room for `bytes` of a digest. What is held already needs none.
pub fn refusal(
    transaction: &ReadTransaction,
    repository: &str,
    digest: Option<&Digest>,
    bytes: u64,
    room: Room,
) -> Result<Option<Exceeded>, redb::Error> {
    exceeded(transaction, repository, digest, bytes, room)
}

/// As [`refusal`], in the transaction that will hold it.
pub fn admit(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    bytes: u64,
    room: Room,
) -> Result<Option<Exceeded>, redb::Error> {
    exceeded(transaction, repository, Some(digest), bytes, room)
}

fn exceeded(
    rows: &impl Rows,
    repository: &str,
    digest: Option<&Digest>,
    bytes: u64,
    room: Room,
) -> Result<Option<Exceeded>, redb::Error> {
    if room == Room::default() {
        return Ok(None);
    }
    let (here, held) = match digest {
        Some(digest) => {
            let holders = rows.table(HOLDERS)?;
            let digest = digest.as_ref();
            (
                is_here(&holders, digest, repository)?,
                is_held(&holders, digest)?,
            )
        }
        None => (false, false),
    };
    if let Some(limit) = room.repository.filter(|_| !here) {
        let used = used(rows, repository)?;
        if used.saturating_add(bytes) > limit {
            let what = Bounded::Repository(repository.to_owned());
            return Ok(Some(Exceeded {
                what,
                used,
                adds: bytes,
                limit,
            }));
        }
    }
    if let Some(limit) = room.store.filter(|_| !held) {
        let used = held_bytes(rows)?;
        if used.saturating_add(bytes) > limit {
            return Ok(Some(Exceeded {
                what: Bounded::Store,
                used,
                adds: bytes,
                limit,
            }));
        }
    }
    Ok(None)
}

fn used(rows: &impl Rows, repository: &str) -> Result<u64, redb::Error> {
    let table = rows.table(USAGE)?;
    Ok(table.get(repository)?.map_or(0, |row| row.value()))
}

fn held_bytes(rows: &impl Rows) -> Result<u64, redb::Error> {
    let table = rows.table(META)?;
    Ok(table.get(HELD_BYTES_KEY)?.map_or(0, |row| row.value()))
}

type Holder = (&'static str, &'static str, u8);

/// Whether this repository holds it in any way.
fn is_here(
    holders: &impl ReadableTable<Holder, ()>,
    digest: &str,
    repository: &str,
) -> Result<bool, redb::Error> {
    for kind in [AS_LINK, AS_MANIFEST] {
        if holders.get((digest, repository, kind))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any repository holds it.
fn is_held(holders: &impl ReadableTable<Holder, ()>, digest: &str) -> Result<bool, redb::Error> {
    match holders.range((digest, "", 0)..)?.next() {
        Some(row) => Ok(row?.0.value().0 == digest),
        None => Ok(false),
    }
}

/// A repository holds `digest`, which has `size` bytes, from now on.
pub(super) fn hold(
    transaction: &WriteTransaction,
    digest: &str,
    repository: &str,
    kind: u8,
    size: u64,
) -> Result<(), redb::Error> {
    debug_assert!(matches!(kind, AS_LINK | AS_MANIFEST));
    let (was_here, was_held) = {
        let mut holders = transaction.open_table(HOLDERS)?;
        let before = (
            is_here(&holders, digest, repository)?,
            is_held(&holders, digest)?,
        );
        holders.insert((digest, repository, kind), ())?;
        before
    };
    if was_here {
        return Ok(());
    }
    let size = first_size(transaction, digest, size)?;
    change(transaction, repository, |used| used.saturating_add(size))?;
    if !was_held {
        change_total(transaction, |total| total.saturating_add(size))?;
    }
    Ok(())
}

fn first_size(transaction: &WriteTransaction, digest: &str, size: u64) -> Result<u64, redb::Error> {
    let mut sizes = transaction.open_table(SIZES)?;
    if let Some(known) = sizes.get(digest)? {
        return Ok(known.value());
    }
    sizes.insert(digest, size)?;
    Ok(size)
}

/// A repository holds `digest` in this way no more.
pub(super) fn release(
    transaction: &WriteTransaction,
    digest: &str,
    repository: &str,
    kind: u8,
) -> Result<(), redb::Error> {
    let (is_here, is_held) = {
        let mut holders = transaction.open_table(HOLDERS)?;
        if holders.remove((digest, repository, kind))?.is_none() {
            return Ok(());
        }
        (
            is_here(&holders, digest, repository)?,
            is_held(&holders, digest)?,
        )
    };
    if is_here {
        return Ok(());
    }
    let size = {
        let mut sizes = transaction.open_table(SIZES)?;
        let size = sizes.get(digest)?.map_or(0, |row| row.value());
        if !is_held {
            sizes.remove(digest)?;
        }
        size
    };
    change(transaction, repository, |used| used.saturating_sub(size))?;
    if !is_held {
        change_total(transaction, |total| total.saturating_sub(size))?;
    }
    Ok(())
}

/// A repository that holds nothing has no row.
fn change(
    transaction: &WriteTransaction,
    repository: &str,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), redb::Error> {
    let mut usage = transaction.open_table(USAGE)?;
    let used = usage.get(repository)?.map_or(0, |row| row.value());
    match change(used) {
        0 => usage.remove(repository)?,
        used => usage.insert(repository, used)?,
    };
    Ok(())
}

fn change_total(
    transaction: &WriteTransaction,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let total = meta.get(HELD_BYTES_KEY)?.map_or(0, |row| row.value());
    meta.insert(HELD_BYTES_KEY, change(total))?;
    Ok(())
}

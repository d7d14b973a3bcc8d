//! An index and its journal together and apart: copies taken while it was open stand for crashes.

use std::fs;
use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::JournalError;
use crate::digest::{Algorithm, digest_of};
use crate::store::index::{Index, IndexError, links};
use crate::store::step::Steps;

const FILES: [&str; 3] = ["i.redb", "i.journal.0", "i.journal.1"];

fn open(folder: &Path) -> Result<Index, IndexError> {
    Index::open(&folder.join("i.redb"), Steps::default())
}

fn link(index: &Index, number: u64) {
    let digest = digest_of(Algorithm::Sha256, &number.to_le_bytes());
    index
        .write(move |rows| links::link(rows, "r", &digest, number, 0))
        .unwrap();
}

fn count(index: &Index) -> usize {
    index.read(links::held).unwrap().len()
}

fn copy(from: &Path, files: &[&str]) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    to
}

fn refused(folder: &Path) -> String {
    match open(folder).unwrap_err() {
        IndexError::Journal { source, .. } => match source.as_ref() {
            JournalError::Missing => "missing".to_owned(),
            JournalError::Foreign => "foreign".to_owned(),
            JournalError::Beyond(_) => "beyond".to_owned(),
            error => format!("{error:?}"),
        },
        error => format!("{error:?}"),
    }
}

/// An index with three links, open, and a copy of it from before.
fn three() -> (tempfile::TempDir, Index, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path()).unwrap();
    link(&index, 1);
    drop(index);
    let before = copy(folder.path(), &FILES);
    let index = open(folder.path()).unwrap();
    link(&index, 2);
    link(&index, 3);
    (folder, index, before)
}

#[test]
fn after_a_close_the_index_is_a_plain_file() {
    let (folder, index, _) = three();
    drop(index);
    for segment in &FILES[1..] {
        let length = fs::metadata(folder.path().join(segment)).unwrap().len();
        assert_eq!(length, 0, "{segment}");
    }
    // Another program changes it; without its journal, too, it opens.
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("other");
    let mut database = Database::open(folder.path().join("i.redb")).unwrap();
    assert!(database.check_integrity().unwrap());
    let transaction = crate::store::index::begin_write(&database).unwrap();
    transaction.open_table(table).unwrap().insert(1, 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    fs::remove_file(folder.path().join("i.journal.0")).unwrap();
    let index = open(folder.path()).unwrap();
    assert_eq!(count(&index), 3);
    drop(index);
    let database = Database::open(folder.path().join("i.redb")).unwrap();
    let rows = database.begin_read().unwrap();
    assert!(rows.open_table(table).unwrap().get(1).unwrap().is_some());
}

#[test]
fn a_crash_is_recovered_and_a_copy_of_all_files_too() {
    let (folder, _index, _) = three();
    let crashed = copy(folder.path(), &FILES);
    let again = copy(crashed.path(), &FILES);
    assert_eq!(count(&open(crashed.path()).unwrap()), 3);
    assert_eq!(count(&open(crashed.path()).unwrap()), 3);
    // A crash of what was just recovered.
    let index = open(again.path()).unwrap();
    let third = copy(again.path(), &FILES);
    assert_eq!(count(&index), 3);
    assert_eq!(count(&open(third.path()).unwrap()), 3);
}

#[test]
fn an_unclosed_index_without_its_journal_is_refused_until_asked() {
    let (folder, _index, _) = three();
    let crashed = copy(folder.path(), &FILES[..1]);
    assert_eq!(refused(crashed.path()), "missing");
    assert_eq!(refused(crashed.path()), "missing");
    let lost = crashed.path().join("i.journal.lost");
    fs::write(&lost, b"").unwrap();
    let index = open(crashed.path()).unwrap();
    // The file as it was before the journal's batches.
    assert_eq!(count(&index), 1);
    assert!(!lost.exists());
    drop(index);
    assert_eq!(count(&open(crashed.path()).unwrap()), 1);
}

/// Changes one byte of a segment.
fn damage(folder: &Path, segment: &str, at: usize) {
    let path = folder.join(segment);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The newest segment's first batch is damaged and a synced one stands behind it: that is no crash,
/// and what can be read of it only goes on when somebody asks for it.
#[test]
fn a_damaged_batch_before_a_whole_one_is_refused_until_asked() {
    let (folder, _index, _) = three();
    for (at, left) in [(4096 + 100, 1), (100, 1)] {
        let crashed = copy(folder.path(), &FILES);
        damage(crashed.path(), "i.journal.0", at);
        for _ in 0..2 {
            assert_eq!(refused(crashed.path()), "Damaged { number: 0 }", "at {at}");
        }
        fs::write(crashed.path().join("i.journal.lost"), b"").unwrap();
        let index = open(crashed.path()).unwrap();
        assert_eq!(count(&index), left);
        link(&index, 9);
        drop(index);
        assert_eq!(count(&open(crashed.path()).unwrap()), left + 1);
        let kept = fs::read(crashed.path().join("i.journal.0.lost")).unwrap();
        let mut whole = fs::read(folder.path().join("i.journal.0")).unwrap();
        whole[at] ^= 1;
        assert!(kept == whole, "what could not be read is kept");
    }
}

/// The journal is given up and the index turns out to be of no use: both are kept as they were, by
/// each attempt.
#[test]
fn an_attempt_that_fails_takes_nothing_away() {
    let (folder, _index, _) = three();
    let crashed = copy(folder.path(), &FILES);
    // The checkpoint that was at work has written its first pages only: here, nonsense.
    let index = crashed.path().join("i.redb");
    let mut bytes = fs::read(&index).unwrap();
    for page in bytes.chunks_mut(4096).skip(1) {
        page[100] ^= 1;
    }
    fs::write(&index, &bytes).unwrap();
    damage(crashed.path(), "i.journal.0", 4096 + 100);
    fs::write(crashed.path().join("i.journal.lost"), b"").unwrap();
    for attempt in ["", ".1"] {
        assert_eq!(refused(crashed.path()), "beyond");
        assert!(crashed.path().join("i.journal.lost").exists());
        let kept = crashed.path().join(format!("i.redb.lost{attempt}"));
        assert!(kept.exists(), "attempt {attempt:?}");
    }
    assert!(fs::read(crashed.path().join("i.redb.lost")).unwrap() == bytes);
    let segment = fs::read(crashed.path().join("i.journal.0.lost")).unwrap();
    let original = fs::read(folder.path().join("i.journal.0")).unwrap();
    assert_eq!(segment.len(), original.len());
}

/// The batch that a crash cut short is the last one: it was not acknowledged and is passed over.
#[test]
fn a_torn_last_batch_is_passed_over() {
    let (folder, _index, _) = three();
    let crashed = copy(folder.path(), &FILES);
    let path = crashed.path().join("i.journal.0");
    let bytes = fs::read(&path).unwrap();
    let magic = bytes.windows(8).rposition(|bytes| bytes == b"dpjrecd1");
    damage(crashed.path(), "i.journal.0", magic.unwrap() + 64);
    assert_eq!(count(&open(crashed.path()).unwrap()), 2);
}

#[test]
fn a_journal_of_another_index_is_refused() {
    let (folder, _index, before) = three();
    let journals = &FILES[1..];
    // The index from an old backup beside today's journal.
    let mixed = copy(folder.path(), journals);
    fs::copy(before.path().join("i.redb"), mixed.path().join("i.redb")).unwrap();
    assert_eq!(refused(mixed.path()), "foreign");
    // A new index beside it.
    let replaced = copy(folder.path(), journals);
    assert_eq!(refused(replaced.path()), "foreign");
    // The journal of another time beside today's index.
    let (other, _other_index, _) = three();
    let mixed = copy(folder.path(), &FILES[..1]);
    for file in journals {
        fs::copy(other.path().join(file), mixed.path().join(file)).unwrap();
    }
    assert_eq!(refused(mixed.path()), "missing");
    fs::write(mixed.path().join("i.journal.lost"), b"").unwrap();
    assert_eq!(count(&open(mixed.path()).unwrap()), 1);
}

#[test]
fn an_index_that_another_program_changed_after_a_crash_is_not_overwritten() {
    let (folder, _index, _) = three();
    let crashed = copy(folder.path(), &FILES);
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("other");
    let database = Database::open(crashed.path().join("i.redb")).unwrap();
    let transaction = crate::store::index::begin_write(&database).unwrap();
    transaction.open_table(table).unwrap().insert(1, 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(refused(crashed.path()), "foreign");
}

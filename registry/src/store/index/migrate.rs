//! From version 1 of the index to version 2: rows that version 1 did not keep, made out of those
//! that it did. Runs once, inside the transaction that raises the version, on the plain file: redb
//! puts there what does not fit into its cache.

use std::path::Path;

use redb::{ReadableTable, WriteTransaction};

use super::rows::decode;
use super::schema::{
    AS_MANIFEST, HELD_BYTES_KEY, HOLDERS, LINKS, MANIFESTS, META, ManifestRow, NEEDS, SIZES,
    TAG_TIMES, TAGGED, TAGS, UNTAGGED, USAGE,
};
use super::untagged::UNKNOWN;
use super::{begin_write, rows, watched};
use crate::store::step::Steps;

/// Raises the file at `path`, which needs no journal, to this program's version.
pub(super) fn migrate(path: &Path, steps: &Steps) -> Result<(), redb::Error> {
    let database = watched::open(path, super::file::CACHE, steps)?;
    let transaction = begin_write(&database)?;
    rows::create_tables(&transaction)?;
    Ok(transaction.commit()?)
}

/// The tables of version 2 are there and empty.
pub(super) fn from_1(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    needs(transaction)?;
    sizes(transaction)?;
    tag_times(transaction)?;
    untagged(transaction)
}

fn needs(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut needs = transaction.open_table(NEEDS)?;
    for row in manifests.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (repository, manifest) = key.value();
        let row: ManifestRow = decode(value.value())?;
        for needed in &row.references {
            needs.insert((repository, needed.as_ref(), manifest), ())?;
        }
    }
    Ok(())
}

/// Holders are sorted by digest and then by repository, so each of both is met in one run.
fn sizes(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let holders = transaction.open_table(HOLDERS)?;
    let links = transaction.open_table(LINKS)?;
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut sizes = transaction.open_table(SIZES)?;
    let mut usage = transaction.open_table(USAGE)?;
    let mut total = 0_u64;
    let mut last: Option<(String, String)> = None;
    for row in holders.range::<(&str, &str, u8)>(..)? {
        let (key, _) = row?;
        let (digest, repository, kind) = key.value();
        let known = last.as_ref().filter(|(known, _)| known == digest);
        if known.is_some_and(|(_, of)| of == repository) {
            continue;
        }
        let known_size = match known {
            Some(_) => sizes.get(digest)?.map(|row| row.value()),
            None => None,
        };
        let size = match known_size {
            Some(size) => size,
            None => {
                let size = match kind {
                    AS_MANIFEST => match manifests.get((repository, digest))? {
                        Some(row) => decode::<ManifestRow>(row.value())?.size,
                        None => 0,
                    },
                    _ => links
                        .get((repository, digest))?
                        .map_or(0, |row| row.value().0),
                };
                sizes.insert(digest, size)?;
                total = total.saturating_add(size);
                size
            }
        };
        let used = usage.get(repository)?.map_or(0, |row| row.value());
        usage.insert(repository, used.saturating_add(size))?;
        last = Some((digest.to_owned(), repository.to_owned()));
    }
    transaction
        .open_table(META)?
        .insert(HELD_BYTES_KEY, total)?;
    Ok(())
}

/// A tag was pushed when its manifest was, as far as version 1 knows.
fn tag_times(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut times = transaction.open_table(TAG_TIMES)?;
    for row in transaction.open_table(TAGS)?.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (repository, tag) = key.value();
        let pushed = match manifests.get((repository, value.value()))? {
            Some(row) => decode::<ManifestRow>(row.value())?.pushed,
            None => 0,
        };
        times.insert((repository, tag), pushed)?;
    }
    Ok(())
}

/// Whatever lost its tag under version 1 is looked at by the collection; since when is not known.
fn untagged(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let tagged = transaction.open_table(TAGGED)?;
    let mut untagged = transaction.open_table(UNTAGGED)?;
    for row in manifests.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (repository, digest) = key.value();
        let row: ManifestRow = decode(value.value())?;
        if !row.by_digest && !rows::any_below(&tagged, repository, digest)? {
            untagged.insert((repository, digest), UNKNOWN)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use oci_spec::image::Digest;
    use redb::TableDefinition;

    use super::super::manifests::NewManifest;
    use super::super::schema::{PULLED, REFERRERS, SCHEMA_KEY};
    use super::super::{Index, links, manifests, release, untagged};
    use super::*;
    use crate::digest::{Algorithm, digest_of};
    use crate::store::step::{Step, Steps};

    /// What version 2 added, as text: needs, sizes, usage, total.
    fn derived(index: &Index) -> Vec<String> {
        let rows = |rows: &redb::ReadTransaction| {
            let mut found = Vec::new();
            for row in rows.open_table(NEEDS)?.range::<(&str, &str, &str)>(..)? {
                found.push(format!("{:?}", row?.0.value()));
            }
            for table in [SIZES, USAGE] {
                for row in rows.open_table(table)?.range::<&str>(..)? {
                    let (key, value) = row?;
                    found.push(format!("{:?} {}", key.value(), value.value()));
                }
            }
            let meta = rows.open_table(META)?;
            let total = meta.get(HELD_BYTES_KEY)?.map_or(0, |row| row.value());
            found.push(format!("total {total}"));
            Ok(found)
        };
        index.read(rows).unwrap()
    }

    fn times(index: &Index, table: TableDefinition<'static, (&str, &str), u64>) -> Vec<String> {
        let rows = |rows: &redb::ReadTransaction| {
            let table = rows.open_table(table)?;
            let rows = table.range::<(&str, &str)>(..)?;
            rows.map(|row| {
                let (key, value) = row?;
                Ok(format!(
                    "{} {} {}",
                    key.value().0,
                    key.value().1,
                    value.value()
                ))
            })
            .collect::<Result<Vec<_>, redb::Error>>()
        };
        index.read(rows).unwrap()
    }

    /// Makes of the file what version 1 would have left.
    fn downgrade(path: &Path) {
        let index = Index::open(path, Steps::default()).unwrap();
        index
            .write(|rows| {
                assert!(rows.delete_table(NEEDS)?);
                assert!(rows.delete_table(SIZES)?);
                assert!(rows.delete_table(USAGE)?);
                assert!(rows.delete_table(TAG_TIMES)?);
                assert!(rows.delete_table(UNTAGGED)?);
                assert!(rows.delete_table(PULLED)?);
                let mut meta = rows.open_table(META)?;
                meta.remove(HELD_BYTES_KEY)?;
                meta.insert(SCHEMA_KEY, 1)?;
                Ok(())
            })
            .unwrap();
    }

    fn digest(number: u64) -> Digest {
        digest_of(Algorithm::Sha256, &number.to_le_bytes())
    }

    fn manifest(repository: &str, number: u64, tags: &[&str], references: &[u64]) -> NewManifest {
        NewManifest {
            repository: repository.to_owned(),
            digest: digest(number),
            row: ManifestRow {
                media_type: String::new(),
                size: 1000 + number,
                subject: None,
                artifact_type: None,
                references: references.iter().copied().map(digest).collect(),
                pushed: number,
                by_digest: tags.is_empty(),
            },
            tags: tags.iter().map(ToString::to_string).collect(),
            descriptor: None,
            required: Vec::new(),
            notes: crate::events::journal::Notes::default(),
        }
    }

    #[test]
    fn a_file_of_version_1_gets_the_rows_that_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.redb");
        let index = Index::open(&path, Steps::default()).unwrap();
        index
            .write(|rows| {
                for (repository, number) in [("a", 1), ("a", 2), ("b", 1), ("b", 3)] {
                    links::link(rows, repository, &digest(number), number * 10, 5)?;
                }
                manifests::put(rows, &manifest("a", 50, &["old"], &[1]))?;
                manifests::put(rows, &manifest("a", 51, &["new"], &[1, 2]))?;
                manifests::put(rows, &manifest("a", 52, &["new", "old"], &[2]))?;
                manifests::put(rows, &manifest("b", 50, &[], &[1, 3]))?;
                Ok(())
            })
            .unwrap();
        let expected = derived(&index);
        assert!(expected.contains(&"\"a\" 3183".to_owned()), "{expected:?}");
        assert!(expected.contains(&"total 3213".to_owned()), "{expected:?}");
        let tags = times(&index, TAG_TIMES);
        drop(index);
        downgrade(&path);
        let index = Index::open(&path, Steps::default()).unwrap();
        assert_eq!(derived(&index), expected);
        assert_eq!(times(&index, TAG_TIMES), tags);
        let candidates = times(&index, UNTAGGED);
        let mut lost = [50, 51].map(|number| format!("a {} {UNKNOWN}", digest(number)));
        lost.sort();
        assert_eq!(candidates, lost, "what lost its tags is to be looked at");
        drop(index);
        let again = Index::open(&path, Steps::default()).unwrap();
        assert_eq!(derived(&again), expected);
    }

    /// Wherever a sync of the index fails while it is raised, it opens later and has everything.
    #[test]
    fn a_failing_disk_costs_a_migration_nothing() {
        let failed = (1..=12).filter(|fault| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("i.redb");
            let index = Index::open(&path, Steps::default()).unwrap();
            index
                .write(|rows| manifests::put(rows, &manifest("a", 50, &["old"], &[1])))
                .unwrap();
            let expected = derived(&index);
            drop(index);
            downgrade(&path);
            let (syncs, fault) = (AtomicUsize::new(0), *fault);
            let steps = Steps::calling(move |step| {
                let sync = step == Step::IndexSyncing;
                if sync && syncs.fetch_add(1, Ordering::SeqCst) + 1 == fault {
                    return Err(std::io::Error::from_raw_os_error(5));
                }
                Ok(())
            });
            let opened = Index::open(&path, steps).map(drop);
            let again = Index::open(&path, Steps::default());
            let again = again.unwrap_or_else(|error| panic!("fault {fault}: {error:?}"));
            assert_eq!(derived(&again), expected, "fault {fault}");
            opened.is_err()
        });
        assert!(failed.count() > 3, "the faults hit nothing");
    }

    /// Whatever happens, the rows that are kept in step say what the migration would find out.
    #[test]
    fn rows_that_are_kept_in_step_never_differ_from_rows_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.redb");
        let index = Index::open(&path, Steps::default()).unwrap();
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for round in 0..400 {
            let repository = ["a", "b"][random(2) as usize];
            let number = random(8);
            let (tag, operation) = (["x", "y", "z"][random(3) as usize], random(8));
            let references = [random(8), random(8) + 20];
            let subject = (random(3) == 0).then(|| digest(random(8)));
            index
                .write(move |rows| {
                    let it = digest(number);
                    match operation {
                        0 => links::link(rows, repository, &it, 1000 + number, round)?,
                        1 => drop(links::unlink(rows, repository, &it)?),
                        2 => drop(manifests::untag(rows, repository, tag, round)?),
                        3 => drop(manifests::remove(rows, repository, &it, round)?),
                        4 => drop(release::untag(
                            rows,
                            repository,
                            tag,
                            round,
                            release::Links::Own,
                        )?),
                        5 => drop(release::remove(rows, repository, &it, round)?),
                        _ => {
                            let tags: &[&str] = if round % 3 == 0 { &[] } else { &[tag] };
                            let mut new = manifest(repository, number, tags, &references);
                            new.descriptor = subject.as_ref().map(|_| b"{}".to_vec());
                            new.row.subject = subject;
                            manifests::put(rows, &new)?;
                        }
                    }
                    Ok(())
                })
                .unwrap();
            if round % 40 == 0 {
                collect_all(&index);
            }
        }
        let expected = derived(&index);
        assert!(expected.len() > 10, "{expected:?}");
        drop(index);
        downgrade(&path);
        let index = Index::open(&path, Steps::default()).unwrap();
        assert_eq!(derived(&index), expected);
    }

    fn collect_all(index: &Index) {
        let page = index.read(|rows| untagged::page(rows, None, 1000)).unwrap();
        for candidate in page {
            index
                .write(move |rows| release::collect(rows, &candidate, "", 1000))
                .unwrap();
        }
        let dangling = index
            .read(|rows| {
                Ok(rows
                    .open_table(REFERRERS)?
                    .range::<(&str, &str, &str)>(..)?
                    .count())
            })
            .unwrap();
        assert!(dangling <= 32);
    }
}

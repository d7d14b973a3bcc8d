//! Events on their way to webhooks: written in the transaction of the change that they tell of, so
//! neither is there without the other.
//!
//! ```text
//! events          sequence  -> JSON of one event
//! event_cursors   webhook   -> sequence of the last event that it was told
//! meta            "events_next", "events_dropped"
//! ```
//!
//! The tables are made when the first webhook is configured; without one nothing is written.

use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    WriteTransaction,
};

use super::schema::META;

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const CURSORS: TableDefinition<'_, &str, u64> = TableDefinition::new("event_cursors");
/// The sequence of the next event; never used twice, also after all events have gone.
const NEXT: &str = "events_next";
const DROPPED: &str = "events_dropped";

/// The oldest events beyond so many go untold.
pub const MAX_EVENTS: u64 = 100_000;

/// Makes the tables for these webhooks. A new one begins with what happens from now on; one that is
/// configured no more is forgotten.
pub fn subscribe(transaction: &WriteTransaction, webhooks: &[String]) -> Result<(), redb::Error> {
    let next = next_sequence(transaction)?;
    let mut cursors = transaction.open_table(CURSORS)?;
    cursors.retain(|name, _| webhooks.iter().any(|webhook| webhook == name))?;
    for webhook in webhooks {
        if cursors.get(webhook.as_str())?.is_none() {
            cursors.insert(webhook.as_str(), next - 1)?;
        }
    }
    drop(cursors);
    trim(transaction)
}

/// Takes everything away: nobody is to be told any more.
pub fn forget(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.delete_table(EVENTS)?;
    transaction.delete_table(CURSORS)?;
    Ok(())
}

/// Whether there are tables.
pub fn exist(transaction: &ReadTransaction) -> Result<bool, redb::Error> {
    match transaction.open_table(CURSORS) {
        Ok(_) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sequences begin at 1, so that 0 is before all.
fn next_sequence(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let meta = transaction.open_table(META)?;
    Ok(meta.get(NEXT)?.map_or(1, |row| row.value()))
}

/// Adds events at the end.
pub fn append(transaction: &WriteTransaction, events: &[Vec<u8>]) -> Result<(), redb::Error> {
    if events.is_empty() {
        return Ok(());
    }
    let mut next = next_sequence(transaction)?;
    let mut table = transaction.open_table(EVENTS)?;
    for event in events {
        table.insert(next, event.as_slice())?;
        next += 1;
    }
    let mut dropped = 0;
    while table.len()? > MAX_EVENTS {
        table.pop_first()?;
        dropped += 1;
    }
    let mut meta = transaction.open_table(META)?;
    meta.insert(NEXT, next)?;
    count_dropped(&mut meta, dropped)
}

/// As [`append`], where the change that they tell of was made.
pub fn append_if(
    transaction: &WriteTransaction,
    done: bool,
    events: &[Vec<u8>],
) -> Result<(), redb::Error> {
    if done {
        append(transaction, events)
    } else {
        Ok(())
    }
}

fn count_dropped(
    meta: &mut redb::Table<'_, &'static str, u64>,
    more: u64,
) -> Result<(), redb::Error> {
    if more > 0 {
        let before = meta.get(DROPPED)?.map_or(0, |row| row.value());
        meta.insert(DROPPED, before + more)?;
    }
    Ok(())
}

/// Remembers what a webhook was told, and removes what all were told.
pub fn told(
    transaction: &WriteTransaction,
    webhook: &str,
    sequence: u64,
) -> Result<(), redb::Error> {
    transaction.open_table(CURSORS)?.insert(webhook, sequence)?;
    trim(transaction)
}

fn trim(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut least = u64::MAX;
    for row in transaction.open_table(CURSORS)?.range::<&str>(..)? {
        least = least.min(row?.1.value());
    }
    let mut events = transaction.open_table(EVENTS)?;
    events.retain_in(..=least, |_, _| false)?;
    Ok(())
}

/// Removes events from before, as `is_old` says of their JSON; answers how many.
pub fn expire(
    transaction: &WriteTransaction,
    is_old: impl Fn(&[u8]) -> bool,
) -> Result<u64, redb::Error> {
    let mut events = transaction.open_table(EVENTS)?;
    let mut expired = 0;
    while events
        .first()?
        .is_some_and(|(_, event)| is_old(event.value()))
    {
        events.pop_first()?;
        expired += 1;
    }
    let mut meta = transaction.open_table(META)?;
    count_dropped(&mut meta, expired)?;
    Ok(expired)
}

/// What a webhook was told last.
pub fn cursor(transaction: &ReadTransaction, webhook: &str) -> Result<u64, redb::Error> {
    let row = transaction.open_table(CURSORS)?.get(webhook)?;
    Ok(row.map_or(0, |row| row.value()))
}

/// Events after `sequence`, oldest first.
pub fn after(
    transaction: &ReadTransaction,
    sequence: u64,
    limit: usize,
) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
    let mut found = Vec::new();
    let table = transaction.open_table(EVENTS)?;
    for row in table.range(sequence.saturating_add(1)..)?.take(limit) {
        let (key, value) = row?;
        found.push((key.value(), value.value().to_vec()));
    }
    Ok(found)
}

/// How much waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Queue {
    pub events: u64,
    /// Events that went untold since the index was made.
    pub dropped: u64,
    pub oldest: Option<Vec<u8>>,
    /// Webhooks with the number of events that each has still to be told.
    pub behind: Vec<(String, u64)>,
}

/// The state of the queue; empty where there never was a webhook.
pub fn queue(transaction: &ReadTransaction) -> Result<Queue, redb::Error> {
    if !exist(transaction)? {
        return Ok(Queue::default());
    }
    let meta = transaction.open_table(META)?;
    let number = |key: &str| -> Result<Option<u64>, redb::Error> {
        Ok(meta.get(key)?.map(|row| row.value()))
    };
    let last = number(NEXT)?.unwrap_or(1) - 1;
    let events = transaction.open_table(EVENTS)?;
    let first = events.first()?;
    let floor = first.as_ref().map_or(last, |(key, _)| key.value() - 1);
    let mut behind = Vec::new();
    for row in transaction.open_table(CURSORS)?.range::<&str>(..)? {
        let (name, told) = row?;
        let told = told.value().max(floor);
        behind.push((name.value().to_owned(), last.saturating_sub(told)));
    }
    Ok(Queue {
        events: events.len()?,
        dropped: number(DROPPED)?.unwrap_or(0),
        oldest: first.map(|(_, event)| event.value().to_vec()),
        behind,
    })
}

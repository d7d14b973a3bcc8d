//! The registry's settings that are more than one word: lists of tables in a settings file.
//!
//! Each room reads its own table from a cursor, so that every complaint names line and column; a
//! word that a table does not know is refused with the nearest one that it does.

pub mod access;
pub mod quota;
pub mod retention;
pub mod upstream;
pub mod webhook;

use std::str::FromStr;

use crate::jsonc::{Cursor, Located};
use crate::suggest;

/// The list's items, each an object with no other members than `known`.
pub(crate) fn tables<'a>(
    cursor: &Cursor<'a>,
    known: &[&'static str],
) -> Result<Vec<Cursor<'a>>, Located> {
    let items = cursor.list()?;
    for item in &items {
        for member in item.members()? {
            if !known.contains(&member.key.as_str()) {
                let hint = suggest::hint(&member.key, known.iter().copied());
                let reason = format!("{:?} is not known here{hint}", member.key);
                return Err(item.error_at(member.at, reason));
            }
        }
    }
    Ok(items)
}

/// The member `key`, which must be there, as a type that reads itself from text.
pub(crate) fn required<T>(item: &Cursor<'_>, key: &str) -> Result<T, Located>
where
    T: FromStr<Err: ToString>,
{
    optional(item, key)?.ok_or_else(|| item.error(format!("\"{key}\" is missing")))
}

/// The member `key` as a type that reads itself from text.
pub(crate) fn optional<T>(item: &Cursor<'_>, key: &str) -> Result<Option<T>, Located>
where
    T: FromStr<Err: ToString>,
{
    let Some(cursor) = item.get(key) else {
        return Ok(None);
    };
    let text = cursor.scalar()?;
    let parsed = text.parse().map_err(|error: T::Err| {
        cursor.error(format!("\"{}\": {}", cursor.name(), error.to_string()))
    })?;
    Ok(Some(parsed))
}

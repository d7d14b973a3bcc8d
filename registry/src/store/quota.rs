//! How many bytes the store may hold.
//!
//! A repository is charged for each digest that it shows once, whoever else shows it too; the store
//! is charged for each digest once. Unfinished uploads and files that no
//! repository shows are not charged; a link that nothing needs any more is, until it is collected: it
//! must not go early, because a push that is under way may count upon it.

use config::registry::quota::Quota;

pub use crate::store::index::usage::{Bounded, Exceeded, Room};

/// The bounds of a store. The default is without any.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quotas {
    /// Bytes of everything that is held.
    pub store: Option<u64>,
    /// Of single repositories; the first that matches counts.
    pub repositories: Vec<Quota>,
}

impl Quotas {
    /// What bounds a write to this repository.
    pub fn room(&self, repository: &str) -> Room {
        let mut quotas = self.repositories.iter();
        let quota = quotas.find(|quota| quota.repositories.matches(repository));
        Room {
            repository: quota.map(|quota| quota.bytes.0),
            store: self.store,
        }
    }
}

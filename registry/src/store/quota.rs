//! How many bytes the store may hold.
//!
//! A repository is charged for each digest that it shows once, whoever else shows it too; the store
//! is charged for each digest once. Unfinished uploads and garbage are not charged.

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

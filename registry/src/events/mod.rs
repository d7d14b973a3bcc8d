//! What happens in a registry, told to webhooks: a queue in the index that survives a restart.
//!
//! ```text
//! mod       what an event says
//! journal   who wants to know, and the way of an event into the index
//! envelope  an event as a receiver gets it, and its signature
//! sender    one task for each webhook: in order, again until it is taken
//! ```
//!
//! An event of a change is written in the change's own transaction. Pulls change nothing; they are
//! gathered and written a moment later, and a crash may lose those of that moment. Delivery is at
//! least once and in order for each webhook; an event keeps its id, by which a receiver tells a
//! second delivery.

pub mod envelope;
pub mod journal;
pub mod sender;

use config::name::{RepositoryName, Tag};
pub use config::registry::webhook::EventKind;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// On whose behalf the registry acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who asked: a name, or `anonymous`.
    pub actor: String,
    /// The request's id.
    pub request: String,
}

/// What happened. This is also its form in the index: fields are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Of this event alone, whoever is told and however often: 32 hexadecimal digits.
    pub id: String,
    /// Milliseconds since 1970.
    pub at: u64,
    pub action: String,
    pub repository: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Absent where a tag or a whole repository was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The repository that a blob was mounted from, where the client said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl Event {
    pub fn kind(&self) -> Option<EventKind> {
        self.action.parse().ok()
    }
}

/// What an event is about, before anybody asks whether it is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub kind: EventKind,
    pub repository: &'a RepositoryName,
    pub tags: &'a [Tag],
    pub digest: Option<&'a Digest>,
    pub media_type: Option<&'a str>,
    pub size: Option<u64>,
    pub from: Option<&'a RepositoryName>,
}

impl<'a> Subject<'a> {
    pub fn new(kind: EventKind, repository: &'a RepositoryName) -> Self {
        Self {
            kind,
            repository,
            tags: &[],
            digest: None,
            media_type: None,
            size: None,
            from: None,
        }
    }
}

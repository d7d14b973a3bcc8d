//! The verbs of a registry, synchronous and free of HTTP.
//!
//! The HTTP side calls them on blocking threads; the daemon calls them in-process. A [`Registry`] is
//! cheap to clone and all clones are one registry. A verb that changes something returns when the
//! change is durable.

mod blobs;
mod by_hand;
mod collect;
mod images;
mod immutable;
mod listing;
mod manifests;
mod pulls;
mod repositories;
mod retention;
mod scrub;
mod uploads;
mod usage;
mod visible;

use std::sync::{Arc, OnceLock};

use config::name::RepositoryName;
use config::pattern::Pattern;

pub use self::blobs::AdmittedWriter;
use self::collect::Turns;
pub use self::images::{Child, Image, ImageDetail, Layer, Platform};
pub use self::immutable::Deleted;
pub use self::listing::{Listing, Referrers, TaggedImage};
pub use self::manifests::{Manifest, ManifestPut, PutManifestError, Stored};
pub use self::repositories::{Emptied, RepositoryRow};
pub use self::retention::Expired;
pub use self::scrub::{Schedule, Scrubber};
use self::uploads::OpenSessions;
pub use self::uploads::{Appender, UploadError};
pub use self::usage::{Amount, Collected, OpenUpload, Usage};
use crate::digest::Digest;
use crate::events::Origin;
use crate::events::journal::Journal;
pub use crate::manifest::Remark;
use crate::store::{Fault, Options, Store, StoreError, Swept};

/// Whether a manifest may name what its repository does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum References {
    /// Everything but the subject and foreign layers must be there, so whatever is tagged can be
    /// pulled.
    #[default]
    Required,
    /// Nothing is checked: indexes of which only one platform is kept.
    Sparse,
}

/// Why a repository may not be written over HTTP; `None` where it may.
pub type Guard = fn(&RepositoryName) -> Option<&'static str>;

/// What the registry allows.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Repositories that take manifests over HTTP without what these name.
    pub sparse: Vec<Pattern>,
    /// Bytes of the greatest blob.
    pub max_blob: u64,
    /// Upload sessions that may be open at once; each costs a file and a few hundred bytes.
    pub max_sessions: usize,
    /// Names that are written in-process only. Over HTTP they can be pulled and nothing else.
    pub guard: Guard,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            sparse: Vec::new(),
            // Larger than any layer seen in practice, smaller than what fills a host by accident.
            max_blob: 512 * 1024 * 1024 * 1024,
            max_sessions: 10_000,
            guard: |_| None,
        }
    }
}

/// A registry over one [`Store`].
#[derive(Debug, Clone)]
pub struct Registry(pub(crate) Arc<Inner>, Option<Arc<Origin>>);

#[derive(Debug)]
pub(crate) struct Inner {
    store: Store,
    sessions: OpenSessions,
    policy: Policy,
    turns: Turns,
    pub(crate) journal: OnceLock<Journal>,
}

impl Registry {
    /// Opens the store and takes up the upload sessions that it still has.
    pub fn open(options: Options, policy: Policy) -> Result<Self, StoreError> {
        Self::new(Store::open(options)?, policy)
    }

    /// A registry over an open store.
    pub fn new(store: Store, policy: Policy) -> Result<Self, StoreError> {
        let sessions = OpenSessions::of(store.sessions())?;
        let inner = Inner {
            store,
            sessions,
            policy,
            turns: Turns::default(),
            journal: OnceLock::new(),
        };
        Ok(Self(Arc::new(inner), None))
    }

    /// The same registry, acting for somebody: what it does is told as theirs.
    #[must_use]
    pub fn on_behalf_of(&self, origin: Origin) -> Self {
        Self(Arc::clone(&self.0), Some(Arc::new(origin)))
    }

    /// For whom it acts; `None` for the process itself.
    pub fn origin(&self) -> Option<&Origin> {
        self.1.as_deref()
    }

    /// What lies below the verbs.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What this registry allows.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// What is asked of a manifest that is pushed to the repository over HTTP.
    pub fn references(&self, repository: &RepositoryName) -> References {
        let name = repository.as_str();
        if self.policy().sparse.iter().any(|one| one.matches(name)) {
            References::Sparse
        } else {
            References::Required
        }
    }

    /// Removes what nobody needs, see [`Store::sweep`], and upload sessions that were abandoned.
    pub fn sweep(
        &self,
        grace: std::time::Duration,
        keep: &dyn Fn(&Digest) -> bool,
    ) -> Result<Swept, StoreError> {
        let mut swept = self.store().sweep(grace, keep)?;
        swept.sessions = self.expire_uploads()?;
        Ok(swept)
    }

    /// Reads everything again and reports rows without a whole blob; empty is good.
    pub fn verify(&self) -> Result<Vec<Fault>, StoreError> {
        self.store().verify()
    }
}

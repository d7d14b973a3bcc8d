//! The image verbs of the daemon.

use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use config::name::{Reference, RepositoryName, Tag, Target};
use config::registry::retention::Rule;
use registry::service::{Listing, ManifestPut, PutManifestError, References, Registry};
use registry::store::StoreError;
use tokio::runtime::Handle;
use unpacker::arrival::Arrivals;
use unpacker::container::launch::Launcher;
use unpacker::container::network::spec::Wiring;
use unpacker::container::resources::Resources;
use unpacker::content::Content;
use unpacker::digest::Digest;
use unpacker::image::Image;
use unpacker::image::unpack::destination::Destination;
use unpacker::image::unpack::{self, UnpackError};
use unpacker::layer::apply::ApplyOptions;
use unpacker::progress::{Cancel, Progress};
use unpacker::remote::client::Remote;
use unpacker::remote::manifest::Fetched;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Snapshots;

use crate::api::types::{Moved, UnpackRequest};
use crate::daemon::folder::DataFolder;
use crate::error::{Failure, Kind, Outcome};
use crate::images::caller::{Caller, Remotes};
use crate::images::content::RegistryContent;
use crate::images::gate::Gate;
use crate::images::locate::Here;
use crate::images::platform::Wanted;
use crate::options::Options;
use crate::progress::Reporter;
use crate::sandbox::local::Runnable;

/// Everything that is known about images on this host, and on whose behalf other registries are asked.
/// All of one daemon share everything else.
pub struct Images {
    shared: Arc<Shared>,
    /// `None` for the daemon itself.
    caller: Option<Caller>,
}

/// How the processes of builds are started, and what their networks reach.
#[derive(Debug)]
pub struct Processes {
    pub launcher: Launcher,
    pub wiring: Wiring,
}

/// What is the same for all who ask.
pub struct Shared {
    pub(crate) here: Here,
    pub(crate) registry: Registry,
    pub(crate) content: Arc<dyn Content>,
    /// The same store, with what is on its way into it.
    pub(crate) arrivals: Arrivals,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) launcher: Launcher,
    /// What goes through the private networks of builds.
    pub(crate) wiring: Wiring,
    /// What each step of a build may use, where nothing else is said.
    pub(crate) build_limits: Resources,
    /// Steps of one build at the same time, where the settings say.
    pub(crate) build_parallel: Option<NonZeroUsize>,
    pub(crate) folder: DataFolder,
    remote: Remote,
    remotes: Remotes,
    pub(crate) runtime: Handle,
    /// The image of this host's own programs is made by one caller at a time.
    pub(crate) making_host: Mutex<()>,
    pub(crate) gate: Gate,
    /// Removed snapshots are deleted by one caller at a time.
    pub(crate) purging: Mutex<()>,
    /// How long tags are kept.
    pub(crate) retention: Vec<Rule>,
}

impl Deref for Images {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("here", &self.here)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images")
            .field("here", &self.here)
            .finish_non_exhaustive()
    }
}

/// A manifest that this host keeps, and where.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) repository: RepositoryName,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Images {
    pub fn new(
        here: Here,
        registry: Registry,
        snapshots: Arc<Snapshots>,
        processes: Processes,
        folder: DataFolder,
        options: &Options,
        runtime: Handle,
    ) -> Outcome<Self> {
        let content: Arc<dyn Content> = Arc::new(RegistryContent(registry.clone()));
        let remote = crate::images::remote::remote(options)?;
        let shared = Shared {
            here,
            registry,
            arrivals: Arrivals::new(Arc::clone(&content)),
            content,
            snapshots,
            launcher: processes.launcher,
            wiring: processes.wiring,
            build_limits: Resources {
                cpus: options.settings.builder.cpu.map(|cpu| cpu.0),
                memory: options.settings.builder.memory.map(|memory| memory.0),
                ..Resources::default()
            },
            build_parallel: options.settings.builder.parallel,
            folder,
            remote,
            remotes: Remotes::new(options),
            runtime,
            making_host: Mutex::new(()),
            gate: Gate::default(),
            purging: Mutex::new(()),
            retention: options.settings.registry.retention.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            caller: None,
        })
    }

    /// The same images, with other registries asked on behalf of a command.
    pub(crate) fn for_caller(&self, caller: Option<Caller>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            caller,
        }
    }

    /// A variable of the caller's; of the daemon's own where nobody calls.
    pub(crate) fn around(&self, name: &str) -> Option<String> {
        match &self.caller {
            Some(caller) => caller.variable(name),
            None => std::env::var(name).ok(),
        }
    }

    /// The client for other registries. It is made when it is needed: most commands need none.
    pub(crate) fn remote(&self) -> Outcome<Remote> {
        match &self.caller {
            Some(caller) => self.remotes.of(caller),
            None => Ok(self.remote.clone()),
        }
    }

    /// The manifest or index that a name means here; `None` where this host has no such image.
    pub(crate) fn find(&self, reference: &Reference) -> Outcome<Option<Kept>> {
        for repository in self.here.candidates(reference)? {
            if let Some(manifest) = self
                .registry
                .manifest(&repository, &reference.target())
                .map_err(store)?
            {
                return Ok(Some(Kept {
                    repository,
                    digest: manifest.digest,
                    media_type: manifest.media_type,
                    bytes: manifest.bytes,
                }));
            }
        }
        Ok(None)
    }

    /// As [`Images::find`], with the failure that tells what to do.
    pub(crate) fn expect(&self, text: &str) -> Outcome<(Reference, Kept)> {
        let reference: Reference = text.parse()?;
        let kept = self.find(&reference)?.ok_or_else(|| self.unknown(text))?;
        Ok((reference, kept))
    }

    pub(crate) fn unknown(&self, text: &str) -> Failure {
        Failure::not_found(format!("there is no image {text:?} here"))
            .hint("See `devpod images`; fetch one with `devpod pull`, or build it with `devpod build -t`.")
    }

    /// The snapshots of an image, unpacked where they were not, lowest first.
    pub(crate) fn unpacked(
        &self,
        image: &Image,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Vec<SnapshotId>> {
        let unpacked = unpack::unsynced(
            image,
            self.content.as_ref(),
            &self.snapshots,
            &ApplyOptions::default(),
            progress,
            cancel,
        );
        self.snapshots.sync_behind();
        unpacked.map_err(|error| unpack_failed(image.digest.as_ref(), &error))
    }

    /// An image ready to be run.
    pub fn runnable(
        &self,
        text: &str,
        wanted: Option<&str>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Runnable> {
        let pass = self.gate.pass();
        let reference: Reference = text.parse()?;
        let behind = self.unpack_behind(progress, cancel);
        let wanted = Wanted::parse(wanted)?;
        let image = self.have(&reference, &wanted, Some(&behind), progress, cancel)?;
        let stack = self.unpacked(&image, progress, cancel)?;
        Ok(Runnable {
            name: text.to_owned(),
            digest: Some(image.digest.to_string()),
            config: image.config.config,
            stack,
            pass,
        })
    }

    /// Shows blobs that are here and a manifest in a repository, all or nothing. An image that this
    /// takes the last name from is let go.
    pub(crate) fn keep(
        &self,
        repository: &RepositoryName,
        target: &Target,
        media_type: &str,
        manifest: &[u8],
        blobs: &[Digest],
    ) -> Outcome<Kept> {
        for digest in blobs {
            if !self.registry.link_blob(repository, digest).map_err(store)? {
                return Err(Failure::internal(format!("blob {digest} is not here")));
            }
        }
        let put = ManifestPut {
            target,
            tags: &[],
            media_type: Some(media_type),
            bytes: manifest,
            references: References::Required,
        };
        let stored = self
            .registry
            .put_manifest(repository, &put)
            .map_err(|error| not_kept(repository, error))?;
        // Whoever brought it first: from now on it is wanted here, and only moved by hand.
        self.registry
            .keep_by_hand(repository, target, &stored.digest)
            .map_err(store)?;
        for (_, before) in &stored.replaced {
            let released = self.registry.release_unneeded(repository, before);
            released.map_err(store)?;
        }
        Ok(Kept {
            repository: repository.clone(),
            digest: stored.digest,
            media_type: media_type.to_owned(),
            bytes: manifest.to_vec(),
        })
    }

    /// A part of an index that is about to be kept: it goes with the index.
    pub(crate) fn keep_part(
        &self,
        repository: &RepositoryName,
        part: &Fetched,
        blobs: &[Digest],
    ) -> Outcome<()> {
        for digest in blobs {
            if !self.registry.link_blob(repository, digest).map_err(store)? {
                return Err(Failure::internal(format!("blob {digest} is not here")));
            }
        }
        let put = ManifestPut {
            target: &Target::Digest(part.digest.clone()),
            tags: &[],
            media_type: Some(&part.media_type),
            bytes: &part.bytes,
            references: References::Required,
        };
        let stored = self.registry.put_manifest(repository, &put);
        stored
            .map(drop)
            .map_err(|error| not_kept(repository, error))
    }

    pub fn tag(&self, source: &str, target: &str) -> Outcome<Moved> {
        let _pass = self.gate.pass();
        let (_, kept) = self.look_up(source)?;
        let target: Reference = target.parse()?;
        let Target::Tag(tag) = target.target() else {
            return Err(Failure::invalid("a new name must have a tag, not a digest"));
        };
        let repository = self.here.destination(&target)?;
        self.copy(&kept, &repository, &Target::Tag(tag))?;
        Ok(Moved {
            reference: self.shown(&target)?,
            digest: kept.digest.to_string(),
        })
    }

    /// The same manifest (and an index's children) in another repository: rows only, no bytes.
    fn copy(&self, kept: &Kept, repository: &RepositoryName, target: &Target) -> Outcome<Kept> {
        let needed = self.needed(kept)?;
        let mut blobs = Vec::new();
        for digest in needed {
            let child = Target::Digest(digest.clone());
            match self
                .registry
                .manifest(&kept.repository, &child)
                .map_err(store)?
            {
                Some(manifest) => {
                    let child_kept = Kept {
                        repository: kept.repository.clone(),
                        digest,
                        media_type: manifest.media_type,
                        bytes: manifest.bytes,
                    };
                    self.copy(&child_kept, repository, &child)?;
                }
                None => blobs.push(digest),
            }
        }
        self.keep(repository, target, &kept.media_type, &kept.bytes, &blobs)
    }

    /// What a manifest names: configuration and layers, or an index's children.
    pub(crate) fn needed(&self, kept: &Kept) -> Outcome<Vec<Digest>> {
        let target = Target::Digest(kept.digest.clone());
        let row = self
            .registry
            .stat_manifest(&kept.repository, &target)
            .map_err(store)?;
        Ok(row.map(|(_, row)| row.references).unwrap_or_default())
    }

    /// Removes every tag of the repository that a name means, with its images; their files stay
    /// until they are collected.
    pub(crate) fn forget_repository(&self, text: &str) -> Outcome<()> {
        let reference: Reference = text.parse()?;
        let repository = self.here.destination(&reference)?;
        let mut last: Option<String> = None;
        loop {
            let listing = Listing {
                limit: None,
                last: last.as_deref(),
            };
            let page = self.registry.tags(&repository, listing).map_err(store)?;
            let Some(page) = page else { return Ok(()) };
            for tag in &page.items {
                let tag: Tag = tag.parse()?;
                self.registry
                    .release_tag(&repository, &tag)
                    .map_err(store)?;
            }
            match page.items.last() {
                Some(tag) if page.more => last = Some(tag.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Unpacks an image flat into a folder, fetching it first where it is not here. A folder of other
    /// things is refused before anything is fetched; after a failure the folder is as it was.
    pub fn unpack(
        &self,
        request: &UnpackRequest,
        progress: Reporter,
        cancel: &Cancel,
    ) -> Outcome<Moved> {
        let _pass = self.gate.pass();
        let reference: Reference = request.reference.parse()?;
        let wanted = Wanted::parse(request.platform.as_deref())?;
        let progress = progress.as_ref();
        let destination = Destination::prepare(&request.destination)
            .map_err(|error| unpack_failed(&request.reference, &error))?;
        let flat = |image: &Image, content: &dyn Content| {
            let options = ApplyOptions::default();
            unpack::unpack_into(image, content, &destination, &options, progress, cancel)
        };
        let done = AtomicBool::new(false);
        let behind = |image: &Image, content: &dyn Content| {
            // A failure empties the folder, and what is wrong is told by the second try.
            done.store(flat(image, content).is_ok(), Ordering::SeqCst);
        };
        let image = self.have(&reference, &wanted, Some(&behind), progress, cancel)?;
        if !done.load(Ordering::SeqCst) {
            flat(&image, self.content.as_ref())
                .map_err(|error| unpack_failed(image.digest.as_ref(), &error))?;
        }
        destination.keep();
        Ok(Moved {
            reference: request.destination.display().to_string(),
            digest: image.digest.to_string(),
        })
    }
}

pub(crate) fn store(error: StoreError) -> Failure {
    match &error {
        StoreError::Quota(_) => {
            Failure::because(Kind::Exhausted, "the registry has no room", &error)
                .hint("Free some: `devpod rmi`, then `devpod image prune`.")
                .hint(
                    "Or raise `registry.max_bytes` or the repository's part of `registry.quotas`.",
                )
        }
        StoreError::Collecting => {
            Failure::because(Kind::Conflict, "the registry is being tidied", &error)
                .hint("Try again in a moment.")
        }
        _ if error.is_full() => Failure::because(Kind::Exhausted, "the image store failed", &error),
        _ => Failure::because(Kind::Internal, "the image store failed", &error),
    }
}

fn not_kept(repository: &RepositoryName, error: PutManifestError) -> Failure {
    match error {
        PutManifestError::Store(error @ StoreError::Quota(_)) => store(error),
        error => Failure::because(
            Kind::Internal,
            format!("cannot keep image {repository}"),
            &error,
        ),
    }
}

fn unpack_failed(image: &str, error: &UnpackError) -> Failure {
    let kind = match error {
        UnpackError::Cancelled(_) => Kind::Cancelled,
        UnpackError::NotEmpty { .. } => Kind::Invalid,
        UnpackError::Busy { .. } => Kind::Conflict,
        _ => Kind::Internal,
    };
    let failure = Failure::because(kind, format!("cannot unpack image {image}"), error);
    match error {
        UnpackError::NotEmpty { .. } | UnpackError::Busy { .. } => {
            failure.hint("Choose a folder that is empty or does not exist.")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use registry::store::quota::{Bounded, Exceeded};

    use super::*;

    #[test]
    fn a_quota_is_told_with_what_helps() {
        let exceeded = Exceeded {
            what: Bounded::Repository("team/app".to_owned()),
            used: 90,
            adds: 20,
            limit: 100,
        };
        let error = PutManifestError::Store(exceeded.into());
        let failure = not_kept(&"team/app".parse().unwrap(), error);
        assert_eq!(failure.kind, Kind::Exhausted);
        let cause = "the quota of repository team/app is exhausted: 90 of 100 bytes are used, \
                     20 more were asked for";
        assert_eq!(failure.causes, [cause]);
        assert_eq!(failure.hints.len(), 2);
        let busy = store(StoreError::Collecting);
        assert_eq!(busy.kind, Kind::Conflict);
    }
}

//! Images for a program that wants no daemon: pull, look, unpack, delete, over folders of its own.
//!
//! ```text
//! <dir>/images/      an OCI image layout: other tools read it, and may write it
//! <dir>/snapshots/   unpacked layers, each once however many images have it
//! ```
//!
//! Any number of processes may use one folder at the same time. An image is visible when all of it
//! is here and verified, never before; its blobs go when no image needs them. Names are whole
//! references (`alpine` is `docker.io/library/alpine:latest`), each a row of `index.json` with the
//! annotation `org.opencontainers.image.ref.name`; several may mean one image.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use unpacker::remote::client::{Options, Remote};
//! use unpacker::remote::credentials::Anonymous;
//! use unpacker::service::ImageService;
//!
//! unpacker::remote::install_crypto();
//! let remote = Remote::new(Options::default(), Arc::new(Anonymous))?;
//! let service = ImageService::open(Path::new("/var/lib/example"), remote)?;
//!
//! let image = service.pull_image("alpine:3.20").await?;
//! println!("{} is {}", image.reference(), image.digest());
//! for layer in image.layers() {
//!     println!("  {layer}");
//! }
//! let root = service.unpack("alpine:3.20", Path::new("/tmp/alpine"))?;
//! assert!(root.join("bin").exists());
//! service.delete_image("alpine:3.20")?;
//! # Ok(())
//! # }
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::name::{NameError, Reference};
use oci_spec::image::{Descriptor, MediaType};

use crate::content::Content;
use crate::digest::Digest;
use crate::image::check::{self, Report};
use crate::image::collect::Freed;
use crate::image::config::ImageConfig;
use crate::image::layout::{Layout, LayoutError};
use crate::image::read::{self, ImageError, MAX_MANIFEST, Platform};
use crate::image::unpack::{self, UnpackError};
use crate::image::{self};
use crate::layer::apply::ApplyOptions;
use crate::progress::{Cancel, Progress, Silent};
use crate::pull::{self, PullError};
use crate::remote::client::Remote;
use crate::snapshot::store::Snapshots;

/// Why a service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("there is no image {reference} here")]
    NotFound { reference: String },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot open the snapshots in {path:?}")]
    Snapshots { path: PathBuf, source: io::Error },
    #[error("cannot keep the manifest of {reference}")]
    Manifest {
        reference: String,
        source: io::Error,
    },
    #[error("cannot use image {reference}")]
    Image {
        reference: String,
        source: Box<ImageError>,
    },
    #[error("cannot pull {reference}")]
    Pull {
        reference: String,
        #[source]
        source: Box<PullError>,
    },
    #[error("cannot unpack {reference}")]
    Unpack {
        reference: String,
        source: Box<UnpackError>,
    },
}

/// An image that is here: of one platform, its manifest and configuration read and verified.
#[derive(Debug, Clone)]
pub struct Image {
    reference: Reference,
    image: image::Image,
    layers: Vec<Digest>,
}

impl Image {
    fn new(reference: Reference, image: image::Image) -> Self {
        let layers = image.layers.iter().map(|layer| layer.blob.digest().clone());
        Self {
            layers: layers.collect(),
            reference,
            image,
        }
    }

    /// The whole reference, also where a short one was asked for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Of the manifest's bytes.
    pub fn digest(&self) -> &Digest {
        &self.image.digest
    }

    /// Of the layers' blobs, lowest first.
    pub fn layers(&self) -> &[Digest] {
        &self.layers
    }

    pub fn config(&self) -> &ImageConfig {
        &self.image.config
    }

    /// Blobs with diffIDs and chainIDs.
    pub fn parts(&self) -> &image::Image {
        &self.image
    }
}

/// Images in an OCI layout, their snapshots, and the way to other registries.
///
/// `pull_image` is async; what only touches the disk is not, and belongs on a thread that may block.
#[derive(Clone)]
pub struct ImageService {
    layout: Arc<Layout>,
    snapshots: Arc<Snapshots>,
    remote: Remote,
    platform: Platform,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

impl std::fmt::Debug for ImageService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageService")
            .field("layout", &self.layout)
            .field("snapshots", &self.snapshots)
            .field("platform", &self.platform)
            .finish_non_exhaustive()
    }
}

impl ImageService {
    /// Opens a folder; makes it where it is missing. For this machine's platform.
    pub fn open(dir: &Path, remote: Remote) -> Result<Self, ServiceError> {
        let layout = Layout::create(&dir.join("images"))?;
        let path = dir.join("snapshots");
        let snapshots =
            Snapshots::open(&path).map_err(|source| ServiceError::Snapshots { path, source })?;
        Ok(Self::new(layout, snapshots, remote))
    }

    /// Over a layout and snapshots that are somewhere already.
    pub fn new(layout: Layout, snapshots: Snapshots, remote: Remote) -> Self {
        Self {
            layout: Arc::new(layout),
            snapshots: Arc::new(snapshots),
            remote,
            platform: Platform::host(),
            progress: Arc::new(Silent),
            cancel: Cancel::default(),
        }
    }

    /// For another platform than this machine's.
    #[must_use]
    pub fn for_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Tells what it does.
    #[must_use]
    pub fn watched_by(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Ends what goes on when the other side of `cancel` says so. Nothing half-done stays visible.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// The layout: for tools, and for verbs that are not here.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Fetches an image, also when it is here: its tag may have moved. Blobs that are here are not
    /// fetched again; what an interrupted pull brought is not lost. An earlier image of that name
    /// loses it.
    pub async fn pull_image(&self, reference: &str) -> Result<Image, ServiceError> {
        let reference: Reference = reference.parse()?;
        let name = reference.to_string();
        let hold = self.blocking({
            let layout = Arc::clone(&self.layout);
            move || layout.hold()
        });
        let _hold = hold.await?;
        let content: Arc<dyn Content> = Arc::clone(&self.layout) as Arc<dyn Content>;
        let pulled = pull::pull(
            &self.remote,
            content,
            &reference,
            &self.platform,
            self.progress.as_ref(),
            &self.cancel,
        )
        .await
        .map_err(|error| ServiceError::Pull {
            reference: name.clone(),
            source: Box::new(error),
        })?;
        let this = self.clone();
        self.blocking(move || this.keep(reference, &pulled.manifest, &pulled.media_type))
            .await
    }

    /// Runs what waits for a disk where it holds up nobody.
    async fn blocking<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            // Nothing cancels it, so it has panicked.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Names an image whose blobs are here.
    fn keep(
        &self,
        reference: Reference,
        manifest: &[u8],
        media_type: &str,
    ) -> Result<Image, ServiceError> {
        let name = reference.to_string();
        let image = self.load(&name, manifest)?;
        let content: &dyn Content = self.layout.as_ref();
        let (digest, size) = content
            .put(manifest)
            .map_err(|source| ServiceError::Manifest {
                reference: name.clone(),
                source,
            })?;
        let descriptor = Descriptor::new(MediaType::from(media_type), size, digest);
        self.layout.tag(&name, &descriptor)?;
        Ok(Image::new(reference, image))
    }

    fn load(&self, name: &str, document: &[u8]) -> Result<image::Image, ServiceError> {
        let content: &dyn Content = self.layout.as_ref();
        read::load_for(content, document, &self.platform).map_err(|source| ServiceError::Image {
            reference: name.to_owned(),
            source: source.into(),
        })
    }

    /// An image that is here; `None` where it is not.
    pub fn get_image(&self, reference: &str) -> Result<Option<Image>, ServiceError> {
        let reference: Reference = reference.parse()?;
        match self.document(&reference)? {
            Some((_, bytes)) => {
                let image = self.load(&reference.to_string(), &bytes)?;
                Ok(Some(Image::new(reference, image)))
            }
            None => Ok(None),
        }
    }

    /// The manifest, or index, of a name.
    fn document(
        &self,
        reference: &Reference,
    ) -> Result<Option<(Descriptor, Vec<u8>)>, ServiceError> {
        let name = reference.to_string();
        let Some(descriptor) = self.layout.find(&name)? else {
            return Ok(None);
        };
        let content: &dyn Content = self.layout.as_ref();
        let bytes = read::fetch(content, &descriptor, MAX_MANIFEST);
        match bytes {
            Ok(bytes) => Ok(Some((descriptor, bytes))),
            Err(source) => Err(ServiceError::Image {
                reference: name,
                source: source.into(),
            }),
        }
    }

    fn expect(&self, reference: &str) -> Result<Image, ServiceError> {
        self.get_image(reference)?
            .ok_or_else(|| ServiceError::NotFound {
                reference: reference.to_owned(),
            })
    }

    /// The references of all images, sorted. Rows of `index.json` that other tools wrote, and whose
    /// names are no references, are not among them.
    pub fn list_images(&self) -> Result<Vec<Reference>, ServiceError> {
        let images = self.layout.images()?;
        let names = images.iter().filter_map(|image| image.name.as_deref());
        let whole = |name: &str| {
            let reference: Reference = name.parse().ok()?;
            (reference.to_string() == name).then_some(reference)
        };
        let mut found: Vec<Reference> = names.filter_map(whole).collect();
        found.sort_by_key(Reference::to_string);
        found.dedup();
        Ok(found)
    }

    /// Writes the image's root file system into a folder, which is made, or empty, and answers it.
    /// Layers are applied in order, with whiteouts; each is verified, and after a failure the folder
    /// is as it was before.
    pub fn unpack(&self, reference: &str, destination: &Path) -> Result<PathBuf, ServiceError> {
        let image = self.expect(reference)?;
        let content: &dyn Content = self.layout.as_ref();
        unpack::unpack_to(
            &image.image,
            content,
            destination,
            &ApplyOptions::default(),
            self.progress.as_ref(),
            &self.cancel,
        )
        .map_err(|source| ServiceError::Unpack {
            reference: image.reference.to_string(),
            source: source.into(),
        })?;
        Ok(destination.to_owned())
    }

    /// The folders to stack by overlayfs (with `userxattr`), lowest first. Layers that are unpacked
    /// already are not unpacked again, so the second answer comes at once. The folders are never
    /// written to.
    pub fn layers(&self, reference: &str) -> Result<Vec<PathBuf>, ServiceError> {
        let image = self.expect(reference)?;
        let name = image.reference.to_string();
        let content: &dyn Content = self.layout.as_ref();
        let progress = self.progress.as_ref();
        let stack = unpack::unpack(
            &image.image,
            content,
            &self.snapshots,
            progress,
            &self.cancel,
        )
        .map_err(|source| ServiceError::Unpack {
            reference: name.clone(),
            source: source.into(),
        })?;
        let mut folders = Vec::with_capacity(stack.len());
        for id in stack {
            let missing = |source| ServiceError::Unpack {
                reference: name.clone(),
                source: Box::new(UnpackError::Snapshot {
                    id: id.clone(),
                    source,
                }),
            };
            let folder = self.snapshots.get(&id).map_err(missing)?;
            folders.push(folder.ok_or_else(|| missing(io::ErrorKind::NotFound.into()))?);
        }
        Ok(folders)
    }

    /// Gives an image that is here another name.
    pub fn tag_image(&self, reference: &str, name: &str) -> Result<(), ServiceError> {
        let (source, name): (Reference, Reference) = (reference.parse()?, name.parse()?);
        // From the look until the row is written nobody may free its blobs.
        let _hold = self.layout.hold()?;
        let Some((descriptor, _)) = self.document(&source)? else {
            return Err(ServiceError::NotFound {
                reference: reference.to_owned(),
            });
        };
        self.layout.tag(&name.to_string(), &descriptor)?;
        Ok(())
    }

    /// Takes a name away, and with its last name the image: blobs that no other image needs are
    /// freed, unless somebody pulls just now; then the next deletion frees them. False where there
    /// was no such image. Snapshots stay, because containers may stand on them.
    pub fn delete_image(&self, reference: &str) -> Result<bool, ServiceError> {
        let reference: Reference = reference.parse()?;
        let name = reference.to_string();
        if !self.layout.remove_name(&name)? {
            return Ok(false);
        }
        self.layout.collect()?;
        Ok(true)
    }

    /// Frees blobs that no image needs. `None` where somebody pulls just now.
    pub fn collect(&self) -> Result<Option<Freed>, ServiceError> {
        Ok(self.layout.collect()?)
    }

    /// Reads every byte of an image again and tells what is wrong.
    pub fn check_image(&self, reference: &str) -> Result<Report, ServiceError> {
        let parsed: Reference = reference.parse()?;
        let Some((descriptor, bytes)) = self.document(&parsed)? else {
            return Err(ServiceError::NotFound {
                reference: reference.to_owned(),
            });
        };
        let content: &dyn Content = self.layout.as_ref();
        let progress = self.progress.as_ref();
        check::check(content, &bytes, descriptor.digest(), progress, &self.cancel).map_err(
            |cancelled| ServiceError::Unpack {
                reference: reference.to_owned(),
                source: Box::new(cancelled.into()),
            },
        )
    }
}

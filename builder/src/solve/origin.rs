//! Trees that steps read from: the context, named folders, stages and images.

use std::path::{Path, PathBuf};

use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Metadata;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::overlay::Overlay;
use unpacker::snapshot::store::Staging;

use crate::assemble::Finished;
use crate::cache::files;
use crate::cache::key::KeyWriter;
use crate::context::Context;
use crate::copy::digest::{Content, Counts, digest};
use crate::copy::select::{Match, Tree, select};
use crate::error::StepError;
use crate::ignore::Ignore;
use crate::plan::{Origin, Source};

use super::Solver;

/// A tree that is open.
pub(super) enum Opened<'a> {
    Context(&'a Context),
    Stack(Root),
    /// A stage without any files, which an empty folder stands for.
    Empty(
        Root,
        #[expect(dead_code, reason = "it is removed with this value")] Staging,
    ),
}

impl Opened<'_> {
    pub(super) fn root(&self) -> &Root {
        match self {
            Self::Context(context) => &context.root,
            Self::Stack(root) | Self::Empty(root, _) => root,
        }
    }

    /// For one walk through it.
    pub(super) fn steady(&self) -> Result<Root, StepError> {
        let root = self.root().try_clone();
        Ok(root.map_err(StepError::io("open a tree"))?.steady())
    }

    pub(super) fn is_context(&self) -> bool {
        matches!(self, Self::Context(_))
    }
}

/// What a step reads, selected and hashed.
pub(super) struct Selected {
    pub(super) matches: Vec<Match>,
    pub(super) content: Digest,
}

impl Solver<'_> {
    /// The folders of snapshots, lowest first.
    pub(super) fn folders(&self, stack: &[SnapshotId]) -> Result<Vec<PathBuf>, StepError> {
        let stack = self.imports.expand(self.env, stack)?;
        let folder = |id: &SnapshotId| {
            let found = self.env.snapshots.get(id)?;
            found.ok_or_else(|| std::io::Error::other(format!("snapshot {id} was removed")))
        };
        let folders: Result<_, _> = stack.iter().map(folder).collect();
        folders.map_err(StepError::io("find the snapshots below a step"))
    }

    /// A read-only view of a stack; of an empty one there is none.
    pub(super) fn view(&self, stack: &[SnapshotId]) -> Result<Option<Root>, StepError> {
        if stack.is_empty() {
            return Ok(None);
        }
        let overlay = Overlay {
            lower: self.folders(stack)?,
            upper: None,
            volatile: false,
        };
        let mounted = overlay.mount_detached();
        let mounted = mounted.map_err(StepError::io("stack the snapshots below a step"))?;
        Ok(Some(Root::from_fd(mounted)))
    }

    /// The snapshots of an origin; a context has none.
    pub(super) fn stack_of(&self, origin: &Origin) -> Option<&[SnapshotId]> {
        match origin {
            Origin::Context | Origin::Named(_) => None,
            Origin::Stage(index) => {
                let done = self.done.get(index).and_then(|done| done.get());
                done.map(|done| &done.stack[..])
            }
            Origin::Image(reference, platform) => {
                let key = super::image_key(reference, platform);
                self.images.get(&key).map(|image| &image.stack[..])
            }
        }
    }

    fn nothing(&self) -> Result<Opened<'_>, StepError> {
        let failed = || StepError::io("open an empty stage");
        let folder = self.env.snapshots.stage().map_err(failed())?;
        let root = Root::open(&folder.fs()).map_err(failed())?;
        Ok(Opened::Empty(root, folder))
    }

    /// What keys call an origin; a context has no name that lasts.
    pub(super) fn names_of(&self, origin: &Origin) -> Option<Vec<SnapshotId>> {
        match origin {
            Origin::Context | Origin::Named(_) => None,
            Origin::Stage(index) => {
                let done = self.done.get(index).and_then(|done| done.get());
                done.map(Finished::all_names)
            }
            Origin::Image(reference, platform) => {
                let image = self.images.get(&super::image_key(reference, platform))?;
                let layers = image.image.layers.iter();
                let names = layers.map(|layer| SnapshotId::of_diff(&layer.diff_id));
                Some(names.collect())
            }
        }
    }

    /// Which runs of steps these are made of now.
    pub(super) fn runs_of(&self, origins: &[&Origin]) -> Digest {
        let mut key = KeyWriter::new("runs");
        for origin in origins {
            let layers = self.made_of(origin);
            key.list("runs", layers.iter().map(SnapshotId::as_str));
        }
        key.finish()
    }

    /// Whether some of it was carried out here.
    pub(super) fn is_own(&self, origin: &Origin) -> bool {
        self.made_of(origin).iter().any(SnapshotId::is_step)
    }

    /// Results of steps; images and contexts are what they are called.
    fn made_of(&self, origin: &Origin) -> Vec<SnapshotId> {
        let finished = match origin {
            Origin::Stage(index) => self.done.get(index).and_then(|done| done.get()),
            Origin::Context | Origin::Named(_) | Origin::Image(..) => None,
        };
        finished.map(Finished::layers).unwrap_or_default()
    }

    pub(super) fn open(&self, origin: &Origin) -> Result<Opened<'_>, StepError> {
        let unknown = || StepError::io("find a context")(std::io::ErrorKind::NotFound.into());
        match origin {
            Origin::Context => Ok(Opened::Context(&self.contexts.main)),
            Origin::Named(name) => {
                let found = self.contexts.named.get(name);
                found.map(Opened::Context).ok_or_else(unknown)
            }
            Origin::Stage(_) | Origin::Image(..) => {
                let stack = self.stack_of(origin).unwrap_or_default();
                match self.view(stack)? {
                    Some(root) => Ok(Opened::Stack(root)),
                    None => self.nothing(),
                }
            }
        }
    }

    pub(super) fn select(
        &self,
        opened: &Opened<'_>,
        origin: &Origin,
        sources: &[Source],
        exclude: &Ignore,
    ) -> Result<Selected, StepError> {
        let name = describe(origin);
        let root = opened.steady()?;
        let tree = Tree {
            root: &root,
            ignore: match opened {
                Opened::Context(context) => Some(&context.ignore),
                Opened::Stack(_) | Opened::Empty(..) => None,
            },
            exclude,
            name: &name,
        };
        let cancel = self.env.cancel;
        let mut matches = select(tree, sources, cancel)?;
        let counts = Counts {
            owners: (!opened.is_context()).then_some(self.env.ownership),
        };
        let hash = |root: &Root, path: &Path, found: &Metadata| match opened {
            Opened::Context(context) => {
                let hashed = context.hash(found, || root.open_file(path), cancel)?;
                Ok(hashed.map(Content::Changing))
            }
            Opened::Stack(_) | Opened::Empty(..) => {
                let hash = files::hash(&mut root.open_file(path)?, cancel)?;
                Ok(hash.map(Content::Fixed))
            }
        };
        let content = digest(&root, &mut matches, counts, &hash, cancel)?;
        Ok(Selected { matches, content })
    }
}

fn describe(origin: &Origin) -> String {
    match origin {
        Origin::Context => "the build context".to_owned(),
        Origin::Named(name) => format!("the context {name:?}"),
        Origin::Stage(index) => format!("stage {index}"),
        Origin::Image(reference, _) => format!("image {reference}"),
    }
}

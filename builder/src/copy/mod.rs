//! COPY and ADD: select what is meant, hash it, and put it into a tree.
//!
//! Both trees are [`Root`](unpacker::layer::root::Root)s: sources may be hostile (a stage, an image)
//! and so may the destination be (a base image full of links); no path leaves either.

pub mod archive;
pub mod changes;
pub mod digest;
pub mod glob;
pub mod place;
pub mod select;
mod side_by_side;

use std::io;
use std::path::PathBuf;

use unpacker::layer::apply::ApplyError;
use unpacker::progress::Cancelled;

use crate::ignore::IgnoreError;

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{pattern:?} matches nothing in {origin}{hint}")]
    NoMatch {
        pattern: String,
        /// The build context, a stage or an image, for people.
        origin: String,
        hint: &'static str,
    },
    #[error("{pattern:?} is not a pattern: a bracket or an escape is not complete")]
    BadPattern { pattern: String },
    #[error("cannot use --exclude")]
    Exclude(#[source] IgnoreError),
    #[error("more than {limit} files are selected")]
    TooMany { limit: usize },
    #[error("several sources need a destination that ends with /, {dest:?} does not")]
    NotADirectory { dest: String },
    #[error("cannot copy a folder over {path:?}, which is no folder")]
    FolderOverFile { path: PathBuf },
    #[error("cannot copy a file over the folder {path:?}")]
    FileOverFolder { path: PathBuf },
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path:?} in the image")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot unpack the archive {path:?}")]
    Archive {
        path: PathBuf,
        #[source]
        source: ApplyError,
    },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl CopyError {
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}

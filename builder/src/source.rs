//! The Dockerfile as it was read: once, so that what is told of a build is what was built.

use std::io;
use std::path::{Component, Path, PathBuf};

use unpacker::layer::root::Root;

use crate::error::BuildError;
use crate::request::{BuildRequest, DockerfileSource};

/// A Dockerfile is text that people write; the parser bounds it further.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// A Dockerfile's text, and what it is called.
#[derive(Debug, Clone)]
pub struct Source {
    /// As messages call it.
    pub name: String,
    path: Option<PathBuf>,
    pub text: Vec<u8>,
}

impl Source {
    /// Reads what a request names.
    pub fn read(request: &BuildRequest) -> Result<Self, BuildError> {
        let written = match &request.dockerfile {
            DockerfileSource::Text { name, text } => {
                return Ok(Self {
                    name: name.clone(),
                    path: None,
                    text: text.clone(),
                });
            }
            DockerfileSource::Path(path) => path,
        };
        let path = request.context.join(written);
        let text = read_beside(&request.context, &path, MAX_DOCKERFILE);
        Ok(Self {
            name: written.display().to_string(),
            text: text.map_err(|source| BuildError::Dockerfile {
                path: path.clone(),
                source,
            })?,
            path: Some(path),
        })
    }

    /// The file that it is from, beside which an ignore file may be.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

/// Reads a small file that a build names. Whoever wrote the context has a say in what lies in it: a file of
/// it is found beneath it, whatever links say, and what is no regular file is refused and never waited
/// for. Other files are the caller's.
pub(crate) fn read_beside(context: &Path, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let is_below = |path: &&Path| path.components().all(|part| part != Component::ParentDir);
    match path.strip_prefix(context).ok().filter(is_below) {
        Some(inside) => Root::open(context)?.read_small(inside, limit),
        None => Root::open(Path::new("/"))?.read_small(path, limit),
    }
}

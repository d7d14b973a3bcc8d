//! The Dockerfile as it was read: once, so that what is told of a build is what was built.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

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
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_DOCKERFILE).read_to_end(&mut text))
            .map_err(|source| BuildError::Dockerfile {
                path: path.clone(),
                source,
            })?;
        Ok(Self {
            name: written.display().to_string(),
            path: Some(path),
            text,
        })
    }

    /// The file that it is from, beside which an ignore file may be.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

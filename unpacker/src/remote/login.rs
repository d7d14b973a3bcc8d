//! Logging in and out: a password that was checked is kept where docker keeps its own, in the helper
//! that its configuration names or else in the file, so that every client of this machine finds it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use config::credentials::docker::AuthFile;
use config::credentials::helper::{self, HelperName};
use config::credentials::{CredentialsError, Document, Secret, login};
use rustix::fs::{FlockOperation, flock};

use super::credentials::{LookupError, Machine, Unusable, read};

/// Where a login is kept, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// In the file itself: whoever may read it has the password.
    File(PathBuf),
    /// By a helper program that the file names.
    Helper { program: String, file: PathBuf },
}

/// A login that was not kept, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("no home folder is known: set HOME or DOCKER_CONFIG")]
    NoFile,
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Parse(#[from] CredentialsError),
    /// What helpers say on standard error is not repeated: they have been seen to print secrets.
    #[error("{said}; nothing was changed")]
    Helper { said: String },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

impl From<Unusable> for LoginError {
    fn from(unusable: Unusable) -> Self {
        let said = unusable.to_string();
        Self::Helper { said }
    }
}

impl Machine {
    /// Keeps a password for `host`; an earlier one is replaced.
    pub async fn log_in(
        &self,
        host: &str,
        username: &str,
        password: &Secret,
    ) -> Result<Keeper, LoginError> {
        let path = self.files.first().ok_or(LoginError::NoFile)?;
        let before = document(path).await?;
        let (from, text) = (&before.from, before.text.expose());
        let file = AuthFile::parse(from, text)?;
        let (keeper, after) = match file.helper(host)? {
            Some(name) => {
                let request = helper::store_request(&file.server(host), username, password);
                self.tell(&name, "store", request.expose()).await?;
                let program = name.program();
                let file = path.clone();
                let noted = login::note(from, text, host)?;
                (Keeper::Helper { program, file }, noted)
            }
            None => {
                let written = login::log_in(from, text, host, username, password)?;
                (Keeper::File(path.clone()), written)
            }
        };
        replace(path, &before, &after)?;
        Ok(keeper)
    }

    /// Forgets the password for `host`; `None` where there was none.
    pub async fn log_out(&self, host: &str) -> Result<Option<Keeper>, LoginError> {
        let path = self.files.first().ok_or(LoginError::NoFile)?;
        let before = document(path).await?;
        let (from, text) = (&before.from, before.text.expose());
        let file = AuthFile::parse(from, text)?;
        let after = login::log_out(from, text, host)?;
        let mut keeper = after.is_some().then(|| Keeper::File(path.clone()));
        if let Some(name) = file.helper(host)? {
            let erased = self.tell(&name, "erase", &file.server(host)).await;
            // A helper that never had it fails, which is no failure of ours where the file had it.
            match (erased, &after) {
                (Ok(()), _) => {
                    keeper = Some(Keeper::Helper {
                        program: name.program(),
                        file: path.clone(),
                    });
                }
                (Err(_), Some(_)) => {}
                (Err(error), None) => return Err(error),
            }
        }
        if let Some(after) = after {
            replace(path, &before, &after)?;
        }
        Ok(keeper)
    }

    async fn tell(&self, name: &HelperName, verb: &str, input: &str) -> Result<(), LoginError> {
        let program = name.program();
        let output = self.run(&program, &[verb], input).await?;
        match output.success {
            true => Ok(()),
            false => Err(output.failed(&program).into()),
        }
    }
}

/// The file, or an empty one where there is none.
async fn document(path: &Path) -> Result<Document, LookupError> {
    let found = read(path).await?;
    Ok(found.unwrap_or_else(|| Document {
        from: path.display().to_string(),
        text: Secret::new(""),
    }))
}

/// Whole or not at all, for its owner only; not over what somebody else wrote meanwhile.
fn replace(path: &Path, before: &Document, after: &Secret) -> Result<(), LoginError> {
    write(path, before, after).map_err(|source| LoginError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, before: &Document, after: &Secret) -> io::Result<()> {
    // A link stays one: people keep their files elsewhere.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let now = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if now != before.text.expose() {
        return Err(io::Error::other(
            "somebody else has just changed it; try again",
        ));
    }
    // A temporary file's mode is 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(after.expose().as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    lock.sync_all()
}

//! `USER` of an image: names and numbers to ids, by the files of the image itself.

use std::os::fd::BorrowedFd;

use super::spec::User;

/// A user as a process needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub user: User,
    /// The name; the number's text when the image does not know the user.
    pub name: String,
    /// `/` when the image does not know the user.
    pub home: String,
    /// `/bin/sh` when the image does not tell.
    pub shell: String,
}

/// Why a user is nobody.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("no user {name:?} in /etc/passwd of the image")]
    UnknownUser { name: String },
    #[error("no group {name:?} in /etc/group of the image")]
    UnknownGroup { name: String },
    #[error("{text:?} is no id: the largest is 2147483647")]
    Range { text: String },
    #[error("{file} of the image is larger than {limit} bytes")]
    TooLarge { file: &'static str, limit: u64 },
    #[error("cannot read {file} of the image")]
    Io {
        file: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Resolves `name`, `uid`, `name:group` or `uid:gid`; empty text is root. `root` is the folder
/// descriptor of the root file system.
pub fn resolve(root: BorrowedFd<'_>, text: &str) -> Result<Resolved, UserError> {
    let _ = root;
    Err(UserError::UnknownUser {
        name: text.to_owned(),
    })
}

//! The control socket: bound with mode 0600, reached also where its path is longer than the 107
//! bytes that a socket address holds (through the folder's descriptor below /proc/self/fd).

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// `sun_path` without its terminating zero.
const MAX_PATH: usize = 107;

/// Binds the socket; one that a dead daemon left is replaced. The caller holds the data folder's
/// lock, so nobody lives behind it.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, short) = reachable(path)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = reachable(path)?;
    UnixStream::connect(short).await
}

/// A path short enough for a socket address, and the descriptor that it leads through.
fn reachable(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    if path.as_os_str().len() <= MAX_PATH {
        return Ok((None, path.to_owned()));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((Some(folder), short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_paths_work_and_others_may_not_enter() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("devpod.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let (accepted, connected) = tokio::join!(listener.accept(), connect(&path));
        accepted.unwrap();
        connected.unwrap();
        drop(listener);
        bind(&path).unwrap();
    }
}

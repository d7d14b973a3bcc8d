//! Which folders of this host a configuration may show to its sandbox.
//!
//! What lies in the workspace's own folder belongs to it anyway. Beyond that a folder of the person is
//! trusted as the person is, and told what it shows; a cloned repository is somebody else's, and
//! shows nothing that the person has not allowed.

use std::path::{Path, PathBuf};

use config::devcontainer::{DevContainer, Mount, MountKind};

use super::failure::{Class, Fault, Stage};

/// What decides about binds.
#[derive(Debug, Clone)]
pub struct Binds {
    /// The source on this host.
    pub folder: PathBuf,
    /// It is a clone, and so is the configuration.
    pub cloned: bool,
    /// What the person allows, with all that lies below.
    pub allowed: Vec<PathBuf>,
}

/// What a bind mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Something of the workspace's own folder. Whoever works in the sandbox can put a link in its
    /// place later, so it is looked up beneath that folder whenever it is mounted.
    Own { root: PathBuf, place: PathBuf },
    /// Something else of this host, without links.
    Host(PathBuf),
}

impl Binds {
    /// Looks at every bind mount of a configuration; answers lines about those that show more than
    /// the workspace's own folder.
    pub fn check(&self, config: &DevContainer) -> Result<Vec<String>, Fault> {
        let mut lines = Vec::new();
        for mount in config.workspace_mount.iter().chain(&config.mounts) {
            let MountKind::Bind { source } = &mount.kind else {
                continue;
            };
            if let Shown::Host(path) = self.look(source, mount)? {
                let access = if mount.read_only { ", read-only" } else { "" };
                let (path, target) = (path.display(), &mount.target);
                lines.push(format!("{path} of this host is shown at {target}{access}"));
            }
        }
        Ok(lines)
    }

    /// What the source of a mount is, where it may be shown.
    pub fn look(&self, source: &str, mount: &Mount) -> Result<Shown, Fault> {
        if !source.starts_with('/') {
            let message = format!("the source {source:?} of a bind mount is not an absolute path");
            return Err(Fault::new(Class::Invalid, message)
                .at(Stage::Parse)
                .suggest("Begin it with ${localWorkspaceFolder}."));
        }
        // Whether it exists is also no business of a repository.
        let real = match Path::new(source).canonicalize() {
            Err(_) if self.cloned && !self.is_near(Path::new(source)) => {
                return Err(refused(source, mount));
            }
            Err(error) => {
                let what = format!("cannot bind {source} to {}", mount.target);
                let mut fault = Fault::io(what, &error).at(Stage::Parse);
                if error.kind() == std::io::ErrorKind::NotFound {
                    fault.class = Class::NotFound;
                    fault = fault.suggest("Make it, or take the mount out.");
                }
                return Err(fault);
            }
            Ok(real) => real,
        };
        let root = real_path(&self.folder);
        match real.strip_prefix(&root) {
            Ok(place) => Ok(Shown::Own {
                place: place.to_owned(),
                root,
            }),
            Err(_) if !self.cloned || self.is_allowed(&real) => Ok(Shown::Host(real)),
            Err(_) => Err(refused(source, mount)),
        }
    }

    fn is_allowed(&self, real: &Path) -> bool {
        self.allowed
            .iter()
            .any(|allowed| real.starts_with(real_path(allowed)))
    }

    /// By its names alone.
    fn is_near(&self, source: &Path) -> bool {
        let places = self.allowed.iter().chain([&self.folder]);
        let up = source
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        !up && places.into_iter().any(|place| source.starts_with(place))
    }
}

fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn refused(source: &str, mount: &Mount) -> Fault {
    let message = format!(
        "the bind mount of {source} at {} is refused: a cloned repository is shown nothing of this \
         host but its own folder",
        mount.target
    );
    Fault::new(Class::Permission, message)
        .at(Stage::Parse)
        .suggest(format!(
            "If you trust it with that: devpod up --allow-mount {source}, or for all repositories: \
             devpod config set workspace.mounts {source}"
        ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Room {
        dir: tempfile::TempDir,
    }

    impl Room {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["repo/sub", "secret/deep", "repository"] {
                fs::create_dir_all(dir.path().join(folder)).unwrap();
            }
            symlink("../secret", dir.path().join("repo/link")).unwrap();
            symlink("sub", dir.path().join("repo/inner")).unwrap();
            Self { dir }
        }

        fn look(&self, source: &str, cloned: bool, allowed: &[&str]) -> Result<Shown, Fault> {
            let root = self.dir.path();
            let binds = Binds {
                folder: root.join("repo"),
                cloned,
                allowed: allowed.iter().map(|path| root.join(path)).collect(),
            };
            let source = root.join(source).display().to_string();
            let mount = Mount::parse(&format!("type=bind,source={source},target=/t")).unwrap();
            binds.look(&source, &mount)
        }
    }

    #[test]
    fn a_clone_shows_its_own_folder_and_what_is_allowed() {
        let room = Room::new();
        let root = room.dir.path().canonicalize().unwrap();
        let own = |place: &str| Shown::Own {
            root: root.join("repo"),
            place: place.into(),
        };
        for (source, allowed, expected) in [
            ("repo", &[][..], Some(own(""))),
            ("repo/sub", &[], Some(own("sub"))),
            ("repo/inner", &[], Some(own("sub"))),
            ("repo/sub/../../secret", &[], None),
            ("repo/link", &[], None),
            ("repo/link/deep", &[], None),
            ("repository", &[], None),
            ("secret", &[], None),
            ("", &[], None),
            ("none", &[], None),
            ("repo/../none", &[], None),
            (
                "secret",
                &["secret"],
                Some(Shown::Host(root.join("secret"))),
            ),
            (
                "repo/link",
                &["secret"],
                Some(Shown::Host(root.join("secret"))),
            ),
            (
                "secret/deep",
                &["secret"],
                Some(Shown::Host(root.join("secret/deep"))),
            ),
            ("secret", &["secret/deep"], None),
        ] {
            let shown = room.look(source, true, allowed);
            match (shown, expected) {
                (Ok(shown), Some(expected)) => assert_eq!(shown, expected, "{source}"),
                (Err(fault), None) => {
                    assert_eq!(fault.class, Class::Permission, "{source}: {fault}");
                    let said = fault.suggestion.unwrap();
                    assert!(said.contains("--allow-mount"), "{source}: {said}");
                }
                (shown, expected) => panic!("{source}: {shown:?}, not {expected:?}"),
            }
        }
        // What would be its own and is not there.
        let missing = room.look("repo/none", true, &[]).unwrap_err();
        assert_eq!(missing.class, Class::NotFound, "{missing}");
    }

    #[test]
    fn a_person_s_folder_shows_what_it_says() {
        let room = Room::new();
        let shown = room.look("secret", false, &[]).unwrap();
        let root = room.dir.path().canonicalize().unwrap();
        assert_eq!(shown, Shown::Host(root.join("secret")));
        assert!(matches!(
            room.look("repo/sub", false, &[]),
            Ok(Shown::Own { .. })
        ));
        assert_eq!(
            room.look("none", false, &[]).unwrap_err().class,
            Class::NotFound
        );
    }
}

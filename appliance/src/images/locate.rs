//! Where an image's name lives in the embedded registry.
//!
//! Everything that this host keeps is a repository of the embedded registry. An image of another
//! registry is kept under `<host>/<repository>`, its host's `:` written `_` (no host name holds one);
//! a short name such as `demo` means the embedded registry's `demo` first and docker.io's second.
//!
//! [`kept_host`] tells copies of other registries from our own repositories. The registry's port is
//! open to every user of this machine, so over it such names can be read and never written; and
//! nothing of our own gets such a name in another way either.

use config::name::{DOCKER_HUB, Reference, RepositoryName, Target};

use crate::error::{Failure, Outcome};

/// How this appliance is called as a registry: its own port decides which `localhost:PORT` is us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    pub port: u16,
}

impl Here {
    /// Whether the reference names the embedded registry itself.
    pub fn is_ours(self, reference: &Reference) -> bool {
        match reference.host().rsplit_once(':') {
            Some((host, port)) => {
                matches!(host, "localhost" | "127.0.0.1") && port.parse() == Ok(self.port)
            }
            None => false,
        }
    }

    /// Whether the image can only come from another registry's network address.
    pub fn is_remote(self, reference: &Reference) -> bool {
        !self.is_ours(reference)
    }

    /// The repositories to look in, best first.
    pub fn candidates(self, reference: &Reference) -> Outcome<Vec<RepositoryName>> {
        if self.is_ours(reference) {
            return Ok(vec![reference.repository().clone()]);
        }
        let kept = kept_as(reference)?;
        if reference.host_given() {
            return Ok(vec![kept]);
        }
        Ok(vec![short(reference)?, kept])
    }

    /// Where a tag, a build or a copy of that name goes. A name of our own that would pass for a
    /// kept copy is refused.
    pub fn destination(self, reference: &Reference) -> Outcome<RepositoryName> {
        let own = if self.is_ours(reference) {
            reference.repository().clone()
        } else if reference.host_given() {
            return kept_as(reference);
        } else {
            short(reference)?
        };
        match kept_host(&own) {
            None => Ok(own),
            Some(host) => Err(Failure::invalid(format!(
                "{own:?} would pass for a copy of the registry {host}",
                own = own.as_str()
            ))
            .hint(
                "Choose a name whose first part has no dot, is not `localhost` and does not end \
                 in an underscore and digits.",
            )),
        }
    }

    /// Where a pull of that name is kept.
    pub fn kept(self, reference: &Reference) -> Outcome<RepositoryName> {
        if self.is_ours(reference) {
            Ok(reference.repository().clone())
        } else {
            kept_as(reference)
        }
    }

    /// The name that people use for a repository of ours.
    pub fn shown(self, repository: &RepositoryName) -> String {
        match (kept_host(repository), repository.as_str().split_once('/')) {
            (Some(host), Some((_, rest))) => format!("{host}/{rest}"),
            _ => format!("localhost:{}/{repository}", self.port),
        }
    }

    /// The full name of a repository and target of ours, as the build log prints it.
    pub fn name(self, repository: &RepositoryName, target: &Target) -> String {
        match target {
            Target::Tag(tag) => format!("{}:{tag}", self.shown(repository)),
            Target::Digest(digest) => format!("{}@{digest}", self.shown(repository)),
        }
    }
}

/// The registry that a repository of ours is a kept copy of; `None` for our own repositories.
pub fn kept_host(repository: &RepositoryName) -> Option<String> {
    let (first, _) = repository.as_str().split_once('/')?;
    let (host, port) = match first.rsplit_once('_') {
        Some((host, port)) if is_port(port) && !host.contains('_') => (host, Some(port)),
        _ => (first, None),
    };
    let is_host = port.is_some() || host == "localhost" || first.contains('.');
    is_host.then(|| match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Why the registry's port does not take a write: see [`registry::service::Guard`].
pub fn guard(repository: &RepositoryName) -> Option<&'static str> {
    kept_host(repository)
        .map(|_| "kept copies of other registries are written by `devpod pull` only")
}

fn kept_as(reference: &Reference) -> Outcome<RepositoryName> {
    let host = reference.host().to_ascii_lowercase().replace(':', "_");
    format!("{host}/{}", reference.repository())
        .parse()
        .map_err(Failure::from)
}

/// `demo` where the reference was completed to `docker.io/library/demo`.
fn short(reference: &Reference) -> Outcome<RepositoryName> {
    let path = reference.repository().as_str();
    let path = match path.strip_prefix("library/") {
        Some(rest) if reference.host() == DOCKER_HUB => rest,
        _ => path,
    };
    path.parse().map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_repositories() {
        let here = Here { port: 5000 };
        for (text, candidates) in [
            ("demo", vec!["demo", "docker.io/library/demo"]),
            ("a/b:1", vec!["a/b", "docker.io/a/b"]),
            ("docker.io/library/demo", vec!["docker.io/library/demo"]),
            ("localhost:5000/a/b", vec!["a/b"]),
            ("127.0.0.1:5000/a", vec!["a"]),
            ("localhost:5001/a", vec!["localhost_5001/a"]),
            ("ghcr.io/x/y", vec!["ghcr.io/x/y"]),
        ] {
            let found = here.candidates(&text.parse().unwrap()).unwrap();
            let found: Vec<_> = found.iter().map(RepositoryName::as_str).collect();
            assert_eq!(found, candidates, "{text}");
        }
    }

    #[test]
    fn repositories_are_shown_as_people_name_them() {
        let here = Here { port: 5000 };
        for (repository, shown) in [
            ("demo", "localhost:5000/demo"),
            ("a/b", "localhost:5000/a/b"),
            ("docker.io/library/demo", "docker.io/library/demo"),
            ("localhost_5001/a", "localhost:5001/a"),
            ("localhost/a", "localhost/a"),
            ("ghcr.io_443/o/i", "ghcr.io:443/o/i"),
            ("my_org/app", "localhost:5000/my_org/app"),
            ("my_org_1/app", "localhost:5000/my_org_1/app"),
            ("my.app", "localhost:5000/my.app"),
            ("app_5", "localhost:5000/app_5"),
        ] {
            let repository = repository.parse().unwrap();
            assert_eq!(here.shown(&repository), shown);
            let kept = !shown.starts_with("localhost:5000/");
            assert_eq!(guard(&repository).is_some(), kept, "{shown}");
        }
    }

    #[test]
    fn names_of_ours_never_pass_for_copies_of_others() {
        let here = Here { port: 5000 };
        for (text, destination) in [
            ("my_org/app", Some("my_org/app")),
            ("docker.io/library/demo", Some("docker.io/library/demo")),
            ("other:5001/a", Some("other_5001/a")),
            ("localhost:5000/docker.io/library/debian", None),
            ("localhost:5000/localhost/a", None),
            ("other_5001/a", None),
        ] {
            let found = here.destination(&text.parse().unwrap());
            let found = found.as_ref().ok().map(RepositoryName::as_str);
            assert_eq!(found, destination, "{text}");
        }
    }

    #[test]
    fn the_mirror_means_the_same_repositories() {
        use registry::mirror::names::{Namespace, is_kept};
        for text in ["docker.io/a/b", "ghcr.io:443/o/i", "localhost:5001/a"] {
            let reference: Reference = text.parse().unwrap();
            let kept = kept_as(&reference).unwrap();
            let namespace: Namespace = reference.host().parse().unwrap();
            assert_eq!(namespace.keep(reference.repository()), Some(kept.clone()));
            assert_eq!(kept_host(&kept).as_deref(), Some(namespace.host()));
        }
        for name in [
            "docker.io/x",
            "localhost/a",
            "r_1/x",
            "my_org/app",
            "my_org_1/app",
            "a.b",
            "x",
        ] {
            let repository = name.parse().unwrap();
            assert_eq!(
                is_kept(&repository),
                kept_host(&repository).is_some(),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_pulled_is_always_guarded() {
        let here = Here { port: 5000 };
        for text in [
            "demo",
            "ghcr.io/x/y",
            "r:1/x",
            "localhost/x",
            "10.0.0.1:80/x",
        ] {
            let kept = here.kept(&text.parse().unwrap()).unwrap();
            assert!(guard(&kept).is_some(), "{text} is kept as {kept}");
        }
    }
}

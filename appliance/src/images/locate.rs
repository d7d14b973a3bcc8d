//! Where an image's name lives in the embedded registry.
//!
//! Everything that this host keeps is a repository of the embedded registry. An image of another
//! registry is kept under `<host>/<repository>`, its host's `:` written `_` (no host name holds one);
//! a short name such as `demo` means the embedded registry's `demo` first and docker.io's second.

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

    /// Where a tag, a build or a copy of that name goes.
    pub fn destination(self, reference: &Reference) -> Outcome<RepositoryName> {
        if self.is_ours(reference) {
            Ok(reference.repository().clone())
        } else if reference.host_given() {
            kept_as(reference)
        } else {
            short(reference)
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
        match repository.as_str().split_once('/') {
            Some((host, rest)) if host.contains(['.', '_']) => {
                format!("{}/{rest}", host.replace('_', ":"))
            }
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
        ] {
            assert_eq!(here.shown(&repository.parse().unwrap()), shown);
        }
    }
}

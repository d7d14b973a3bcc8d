//! Which repository of ours a request for another registry's repository means. Pure.
//!
//! What comes from the registry `docker.io` is kept below `docker.io/`; a port's `:` is written `_`,
//! as no host name has one. A request may say the namespace by the parameter `ns` (distribution-spec,
//! "Proxying"), by a prefix that the settings give to an upstream, or not at all: then the upstream
//! that is the default is meant, where no repository of our own has the name.

use std::fmt;
use std::str::FromStr;

use config::name::{DOCKER_HUB, RepositoryName};
use config::registry::upstream::{BadHost, Host};

/// Another registry, as the first part of its repositories' names here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(Host);

impl FromStr for Namespace {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        text.parse().map(Self)
    }
}

impl From<Host> for Namespace {
    fn from(host: Host) -> Self {
        Self(host)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Namespace {
    pub fn host(&self) -> &str {
        self.0.as_str()
    }

    /// The first part of all names that are kept for this registry.
    fn folder(&self) -> String {
        self.host().replace(':', "_")
    }

    /// Where a repository of this registry is kept; `None` where the name would be too long.
    pub fn keep(&self, repository: &RepositoryName) -> Option<RepositoryName> {
        format!("{}/{repository}", self.folder()).parse().ok()
    }

    /// The name that a kept repository has there; `None` where it is not kept for this registry.
    pub fn original(&self, kept: &RepositoryName) -> Option<RepositoryName> {
        let rest = kept.as_str().strip_prefix(&self.folder())?;
        rest.strip_prefix('/')?.parse().ok()
    }

    /// The name as people leave parts out: Docker Hub's own images stand below `library/`.
    fn complete(&self, repository: &RepositoryName) -> Option<RepositoryName> {
        if self.host() == DOCKER_HUB && !repository.as_str().contains('/') {
            return self.keep(&format!("library/{repository}").parse().ok()?);
        }
        self.keep(repository)
    }
}

/// Whether a name of ours begins with another registry's host.
pub fn is_kept(repository: &RepositoryName) -> bool {
    let Some((first, _)) = repository.as_str().split_once('/') else {
        return false;
    };
    let port = first.rsplit_once('_').is_some_and(|(host, port)| {
        !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !host.contains('_')
    });
    port || first == "localhost" || first.contains('.')
}

/// How the names of one upstream are said in requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    pub namespace: Namespace,
    /// Names below it are the upstream's.
    pub prefix: Option<RepositoryName>,
    /// Names that no repository of ours has are the upstream's.
    pub default: bool,
}

/// What a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// The repository that it names.
    Itself,
    /// A kept repository, because of the parameter `ns` or a prefix.
    Kept {
        repository: RepositoryName,
        /// To be answered as `OCI-Namespace`.
        namespace: Option<Namespace>,
    },
    /// A kept repository, if no repository of ours has the name of the request.
    KeptUnlessOurs { repository: RepositoryName },
    /// With this namespace the kept repository, if we have it; nobody else is asked for it.
    KeptIfHere {
        repository: RepositoryName,
        namespace: Namespace,
    },
    /// Nothing that can be here.
    Nothing { namespace: Namespace },
}

/// Decides by names only. `read` is whether the request changes nothing.
pub fn meant(
    namings: &[Naming],
    repository: &RepositoryName,
    namespace: Option<Namespace>,
    read: bool,
) -> Meant {
    if let Some(namespace) = namespace {
        let Some(kept) = namespace.keep(repository) else {
            return Meant::Nothing { namespace };
        };
        if namings.iter().any(|naming| naming.namespace == namespace) {
            return Meant::Kept {
                repository: kept,
                namespace: Some(namespace),
            };
        }
        return Meant::KeptIfHere {
            repository: kept,
            namespace,
        };
    }
    let prefixed = namings.iter().find_map(|naming| {
        let rest = below(naming.prefix.as_ref()?, repository)?;
        naming.namespace.complete(&rest)
    });
    if let Some(repository) = prefixed {
        let namespace = None;
        return Meant::Kept {
            repository,
            namespace,
        };
    }
    let default = namings.iter().find(|naming| naming.default);
    match default.filter(|_| read && !is_kept(repository)) {
        Some(naming) => match naming.namespace.complete(repository) {
            Some(repository) => Meant::KeptUnlessOurs { repository },
            None => Meant::Itself,
        },
        None => Meant::Itself,
    }
}

/// What follows the prefix and its slash.
fn below(prefix: &RepositoryName, name: &RepositoryName) -> Option<RepositoryName> {
    let rest = name.as_str().strip_prefix(prefix.as_str())?;
    rest.strip_prefix('/')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    fn namings() -> Vec<Naming> {
        vec![
            Naming {
                namespace: "docker.io".parse().unwrap(),
                prefix: Some(name("hub")),
                default: true,
            },
            Naming {
                namespace: "other.example:5000".parse().unwrap(),
                prefix: Some(name("team/other")),
                default: false,
            },
        ]
    }

    #[test]
    fn prefixes_and_the_default_say_where_to_look() {
        for (asked, read, expected) in [
            ("hub/library/x", true, "docker.io/library/x"),
            ("hub/library/x", false, "docker.io/library/x"),
            ("hub/x", true, "docker.io/library/x"),
            ("team/other/a/b", true, "other.example_5000/a/b"),
            ("docker.io/library/x", true, "itself"),
            ("elsewhere.example/x", true, "itself"),
            ("library/x", true, "docker.io/library/x unless ours"),
            ("x", true, "docker.io/library/x unless ours"),
            ("hubble/x", true, "docker.io/hubble/x unless ours"),
            ("library/x", false, "itself"),
            ("hub", false, "itself"),
        ] {
            let found = match meant(&namings(), &name(asked), None, read) {
                Meant::Itself => "itself".to_owned(),
                Meant::Kept { repository, .. } => repository.to_string(),
                Meant::KeptUnlessOurs { repository } => format!("{repository} unless ours"),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{asked}");
        }
    }

    #[test]
    fn a_namespace_decides_alone() {
        let kept = |asked: &str, ns: &str| {
            meant(&namings(), &name(asked), Some(ns.parse().unwrap()), true)
        };
        assert_eq!(
            kept("hub/x", "docker.io"),
            Meant::Kept {
                repository: name("docker.io/hub/x"),
                namespace: Some("docker.io".parse().unwrap()),
            }
        );
        assert!(
            matches!(kept("x", "Nobody.example:1"), Meant::KeptIfHere { repository, .. }
            if repository == name("nobody.example_1/x"))
        );
        let long = "a".repeat(250);
        assert!(matches!(kept(&long, "docker.io"), Meant::Nothing { .. }));
    }

    #[test]
    fn hosts_are_hosts() {
        for bad in [
            "",
            "a b",
            "..",
            "../x",
            "docker.io/library",
            "x",
            "a@b",
            "http://a.b",
        ] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_has_its_original_name(
            host in "[a-z]{1,8}\\.(io|example)(:[0-9]{1,4})?",
            path in "[a-z0-9]{1,6}(/[a-z0-9]{1,6}){0,3}",
        ) {
            let namespace: Namespace = host.parse().unwrap();
            let kept = namespace.keep(&name(&path)).unwrap();
            prop_assert!(is_kept(&kept));
            prop_assert_eq!(namespace.original(&kept), Some(name(&path)));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Namespace>();
        }
    }
}

//! Paths in `devcontainer.json` are relative to its own folder; the work is done relative to the
//! root of the repository, which none of them may leave.

use super::Build;

/// A path that leaves the repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {path:?} leaves the repository")]
pub struct OutsideRepository {
    pub key: &'static str,
    pub path: String,
}

/// Dockerfile and context relative to the root of the repository; `.` is the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPaths {
    pub dockerfile: String,
    pub context: String,
}

impl Build {
    /// `config` is the path of `devcontainer.json` relative to the root of the repository.
    pub fn paths(&self, config: &str) -> Result<BuildPaths, OutsideRepository> {
        let folder = config.rsplit_once('/').map_or("", |(folder, _)| folder);
        let within = |key, path: &str| {
            within(folder, path).ok_or_else(|| OutsideRepository {
                key,
                path: path.to_owned(),
            })
        };
        Ok(BuildPaths {
            dockerfile: within("dockerfile", &self.dockerfile)?,
            context: within("context", &self.context)?,
        })
    }
}

/// `path` seen from `folder`, without `.` and `..`; `None` when it is absolute or climbs above the
/// root. Purely textual: whoever opens it still resolves it beneath the root's descriptor.
pub fn within(folder: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_inside() {
        for (folder, path, expected) in [
            (
                ".devcontainer",
                "Dockerfile",
                Some(".devcontainer/Dockerfile"),
            ),
            (".devcontainer", "..", Some(".")),
            (".devcontainer", "../src/./x", Some("src/x")),
            ("", ".", Some(".")),
            ("", "a//b/", Some("a/b")),
            (".devcontainer", "../..", None),
            ("", "..", None),
            ("a", "/etc", None),
            ("a", "b/../../..", None),
        ] {
            assert_eq!(within(folder, path).as_deref(), expected, "{folder} {path}");
        }
    }

    #[test]
    fn of_a_build() {
        let build = Build {
            dockerfile: "Dockerfile".into(),
            context: "..".into(),
            ..Build::default()
        };
        let paths = build.paths(".devcontainer/go/devcontainer.json").unwrap();
        assert_eq!(paths.dockerfile, ".devcontainer/go/Dockerfile");
        assert_eq!(paths.context, ".devcontainer");
        assert_eq!(
            build.paths("devcontainer.json").unwrap_err().to_string(),
            "context \"..\" leaves the repository"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_climbs(folder in "[a./]{0,12}", path in "[a./]{0,12}") {
            if let Some(path) = within(&folder, &path) {
                proptest::prop_assert!(!path.starts_with('/'));
                proptest::prop_assert!(path.split('/').all(|part| part != ".."));
            }
        }
    }
}

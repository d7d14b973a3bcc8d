//! Which file describes a repository (specification, "devcontainer.json": locations).

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_dir: bool,
}

/// What was found. Paths are relative to the root of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    File(String),
    /// Several named configurations: somebody must choose.
    Several(Vec<String>),
    /// No `devcontainer.json`, but a Dockerfile where one is expected.
    Dockerfile(String),
    Nothing,
}

/// Searches in the order of the specification. `list` answers the entries of a folder relative to
/// the root (`""` is the root), or nothing when there is no such folder.
pub fn discover<E>(list: &mut dyn FnMut(&str) -> Result<Vec<Entry>, E>) -> Result<Found, E> {
    const FOLDER: &str = ".devcontainer";
    const NAME: &str = "devcontainer.json";
    let root = list("")?;
    let inner = if has(&root, FOLDER, true) {
        list(FOLDER)?
    } else {
        Vec::new()
    };
    if has(&inner, NAME, false) {
        return Ok(Found::File(format!("{FOLDER}/{NAME}")));
    }
    if has(&root, ".devcontainer.json", false) {
        return Ok(Found::File(".devcontainer.json".to_owned()));
    }
    let mut named = Vec::new();
    for folder in inner.iter().filter(|entry| entry.is_dir) {
        let folder = format!("{FOLDER}/{}", folder.name);
        if has(&list(&folder)?, NAME, false) {
            named.push(format!("{folder}/{NAME}"));
        }
    }
    named.sort();
    Ok(match named.len() {
        0 if has(&inner, "Dockerfile", false) => Found::Dockerfile(format!("{FOLDER}/Dockerfile")),
        0 => Found::Nothing,
        1 => Found::File(named.remove(0)),
        _ => Found::Several(named),
    })
}

fn has(entries: &[Entry], name: &str, is_dir: bool) -> bool {
    entries
        .iter()
        .any(|entry| entry.name == name && entry.is_dir == is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn find(files: &[&str]) -> Found {
        let mut list = |folder: &str| -> Result<Vec<Entry>, Infallible> {
            let prefix = if folder.is_empty() {
                String::new()
            } else {
                format!("{folder}/")
            };
            Ok(files
                .iter()
                .filter_map(|file| file.strip_prefix(&prefix))
                .map(|rest| match rest.split_once('/') {
                    Some((name, _)) => Entry {
                        name: name.into(),
                        is_dir: true,
                    },
                    None => Entry {
                        name: rest.into(),
                        is_dir: false,
                    },
                })
                .collect())
        };
        match discover(&mut list) {
            Ok(found) => found,
            Err(never) => match never {},
        }
    }

    #[test]
    fn order() {
        let file = |path: &str| Found::File(path.into());
        let main = ".devcontainer/devcontainer.json";
        for (files, expected) in [
            (&[main, ".devcontainer.json"][..], file(main)),
            (
                &[".devcontainer.json", ".devcontainer/a/devcontainer.json"],
                file(".devcontainer.json"),
            ),
            (
                &[".devcontainer/a/devcontainer.json"],
                file(".devcontainer/a/devcontainer.json"),
            ),
            (
                &[
                    ".devcontainer/b/devcontainer.json",
                    ".devcontainer/a/devcontainer.json",
                ],
                Found::Several(vec![
                    ".devcontainer/a/devcontainer.json".into(),
                    ".devcontainer/b/devcontainer.json".into(),
                ]),
            ),
            (
                &[".devcontainer/Dockerfile", "README"],
                Found::Dockerfile(".devcontainer/Dockerfile".into()),
            ),
            (
                &[".devcontainer/a/b/devcontainer.json", "devcontainer.json"],
                Found::Nothing,
            ),
            (&[".devcontainer/devcontainer.json/x"], Found::Nothing),
            (&[], Found::Nothing),
        ] {
            assert_eq!(find(files), expected, "{files:?}");
        }
    }
}

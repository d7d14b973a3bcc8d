//! `${…}` in `devcontainer.json` (specification, "Variables in devcontainer.json").
//!
//! The reference implementation substitutes in three passes: what the host knows
//! (`localEnv`, the two folders), the identifier of the container, and what only the running
//! container knows (`containerEnv`). Here a lookup that is not yet known leaves its variable as it is,
//! so the same walk serves all three. Each text is expanded once: values are never expanded again.

use ring::digest::{SHA256, digest};

use crate::jsonc::{Document, Located, Node, Value};

/// An environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What the variables stand for.
#[derive(Clone, Copy)]
pub struct Variables<'a> {
    /// The environment of the person who calls (`localEnv`, `env`).
    pub local_env: Lookup<'a>,
    /// The source folder outside of the container.
    pub local_folder: &'a str,
    /// Replaces the basename of `local_folder` where that is an internal name (a volume).
    pub local_basename: Option<&'a str>,
    /// See [`devcontainer_id`].
    pub devcontainer_id: Option<&'a str>,
    /// `None` until the container runs.
    pub container_env: Option<Lookup<'a>>,
}

impl std::fmt::Debug for Variables<'_> {
    /// Without the environments, which hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Variables")
            .field("local_folder", &self.local_folder)
            .field("devcontainer_id", &self.devcontainer_id)
            .finish_non_exhaustive()
    }
}

impl Variables<'_> {
    pub fn basename(&self) -> &str {
        self.local_basename
            .unwrap_or_else(|| basename(self.local_folder))
    }
}

fn basename(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

/// A variable without the name that it needs, such as `${localEnv}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"${{{variable}}}\" needs the name of an environment variable")]
pub struct NamelessVariable {
    pub variable: String,
}

/// Expands one text. `container_folder` is `None` while the folder itself is being read.
pub fn expand(
    text: &str,
    variables: &Variables<'_>,
    container_folder: Option<&str>,
) -> Result<String, NamelessVariable> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let body = &rest[start + 2..];
        // As `\$\{(.*?)\}`: a newline before the brace means that this is no variable.
        let end = match body.find(['}', '\n']) {
            Some(end) if body[end..].starts_with('}') => end,
            _ => {
                out.push_str(&rest[..start + 2]);
                rest = body;
                continue;
            }
        };
        out.push_str(&rest[..start]);
        match value(&body[..end], variables, container_folder)? {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[start..start + 2 + end + 1]),
        }
        rest = &body[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// `None`: leave it as it is.
fn value(
    variable: &str,
    variables: &Variables<'_>,
    container_folder: Option<&str>,
) -> Result<Option<String>, NamelessVariable> {
    let mut words = variable.split(':');
    let kind = words.next().unwrap_or_default();
    let (name, default) = (words.next(), words.next());
    let from = |lookup: Lookup<'_>| match name {
        Some(name) if !name.is_empty() => Ok(Some(
            lookup(name).unwrap_or_else(|| default.unwrap_or_default().to_owned()),
        )),
        _ => Err(NamelessVariable {
            variable: variable.to_owned(),
        }),
    };
    Ok(match kind {
        "env" | "localEnv" => from(variables.local_env)?,
        "containerEnv" => match variables.container_env {
            Some(lookup) => from(lookup)?,
            None => None,
        },
        "localWorkspaceFolder" => Some(variables.local_folder.to_owned()),
        "localWorkspaceFolderBasename" => Some(variables.basename().to_owned()),
        "containerWorkspaceFolder" => container_folder.map(str::to_owned),
        "containerWorkspaceFolderBasename" => container_folder.map(|f| basename(f).to_owned()),
        "devcontainerId" => variables.devcontainer_id.map(str::to_owned),
        _ => None,
    })
}

/// Expands every string of a document; keys are left alone.
pub(super) fn expand_document(
    document: &mut Document,
    variables: &Variables<'_>,
    container_folder: &str,
) -> Result<(), Located> {
    let mut root = document.root.clone();
    expand_node(&mut root, variables, container_folder)
        .map_err(|(at, error)| document.error(at, error.to_string()))?;
    document.root = root;
    Ok(())
}

fn expand_node(
    node: &mut Node,
    variables: &Variables<'_>,
    folder: &str,
) -> Result<(), (usize, NamelessVariable)> {
    match &mut node.value {
        Value::Text(text) => {
            *text = expand(text, variables, Some(folder)).map_err(|error| (node.at, error))?;
        }
        Value::List(nodes) => {
            for child in nodes {
                expand_node(child, variables, folder)?;
            }
        }
        Value::Object(members) => {
            for member in members {
                expand_node(&mut member.node, variables, folder)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

/// The stable identifier of a dev container: SHA-256 of the compact JSON of its identifying labels
/// with sorted keys, as a number in base 32, padded to 52 digits (specification,
/// "devcontainerId Variable").
pub fn devcontainer_id(labels: &std::collections::BTreeMap<String, String>) -> String {
    // A BTreeMap serialises sorted; a map of strings cannot fail to.
    let json = serde_json::to_string(labels).unwrap_or_default();
    let hash = digest(&SHA256, json.as_bytes());
    base32(hash.as_ref())
}

/// Big-endian bytes as a number with the digits `0-9a-v`, zero-padded.
fn base32(bytes: &[u8]) -> String {
    let digits = (bytes.len() * 8).div_ceil(5);
    let bit = |index: usize| {
        let byte = bytes[bytes.len() - 1 - index / 8];
        (byte >> (index % 8)) & 1
    };
    (0..digits)
        .rev()
        .map(|digit| {
            let value = (0..5)
                .map(|i| digit * 5 + i)
                .filter(|index| *index < bytes.len() * 8)
                .fold(0, |value, index| value | (bit(index) << (index % 5)));
            char::from_digit(value.into(), 32).unwrap_or('0')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn local(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/me".into()),
            "EMPTY" => Some(String::new()),
            "EVIL" => Some("${localEnv:HOME}".into()),
            _ => None,
        }
    }

    fn inside(name: &str) -> Option<String> {
        (name == "PATH").then(|| "/bin".to_owned())
    }

    fn variables(container: bool) -> Variables<'static> {
        Variables {
            local_env: &local,
            local_folder: "/src/my.app/",
            local_basename: None,
            devcontainer_id: Some("0id"),
            container_env: if container { Some(&inside) } else { None },
        }
    }

    #[test]
    fn expands_before_the_container_runs() {
        for (text, expected) in [
            ("plain $HOME ${", "plain $HOME ${"),
            ("${localEnv:HOME}/x", "/home/me/x"),
            ("${env:HOME}${env:HOME}", "/home/me/home/me"),
            ("[${localEnv:NONE}]", "[]"),
            ("${localEnv:NONE:a:b}", "a"),
            ("[${localEnv:EMPTY:a}]", "[]"),
            ("${localEnv:EVIL}", "${localEnv:HOME}"),
            ("${localWorkspaceFolder}", "/src/my.app/"),
            ("${localWorkspaceFolderBasename}", "my.app"),
            ("${containerWorkspaceFolder}", "/w/app"),
            ("${containerWorkspaceFolderBasename}", "app"),
            ("${devcontainerId}", "0id"),
            ("${containerEnv:PATH}:/x", "${containerEnv:PATH}:/x"),
            ("${unknown:a}", "${unknown:a}"),
            ("${a\n}", "${a\n}"),
            ("${${env:HOME}}", "${${env:HOME}}"),
        ] {
            assert_eq!(
                expand(text, &variables(false), Some("/w/app")).as_deref(),
                Ok(expected)
            );
        }
        for text in ["${localEnv}", "${env:}", "a ${localEnv::d}"] {
            assert!(expand(text, &variables(false), None).is_err(), "{text}");
        }
    }

    #[test]
    fn expands_inside_the_container() {
        for (text, expected) in [
            ("${containerEnv:PATH}:/x", "/bin:/x"),
            ("${containerEnv:NO:d}", "d"),
        ] {
            assert_eq!(
                expand(text, &variables(true), None).as_deref(),
                Ok(expected)
            );
        }
    }

    /// Against `BigInt('0x' + hash).toString(32).padStart(52, '0')`, evaluated apart.
    #[test]
    fn identifier_is_base_32_of_the_hash() {
        assert_eq!(base32(&[0xff]), "7v");
        assert_eq!(base32(&[0x00, 0x20]), "0010");
        let mut bytes = [0_u8; 32];
        bytes[0] = 0x80;
        assert_eq!(base32(&bytes), format!("1{}", "0".repeat(51)));
        let labels = BTreeMap::from([
            (
                "devcontainer.local_folder".to_owned(),
                "/src/app".to_owned(),
            ),
            (
                "devcontainer.config_file".to_owned(),
                "/src/app/.devcontainer.json".to_owned(),
            ),
        ]);
        let id = devcontainer_id(&labels);
        assert_eq!(id.len(), 52);
        assert_eq!(id, EXPECTED_ID);
    }

    const EXPECTED_ID: &str = "1bhnfqj8dst0te0od96hpnm4ndeosuke35lic1r486g1j77f6b8i";

    proptest::proptest! {
        #[test]
        fn text_without_variables_is_kept(text in "[^$]{0,60}") {
            proptest::prop_assert_eq!(expand(&text, &variables(true), None), Ok(text));
        }

        #[test]
        fn never_panics(text in "[${}:a-zäé\\n]{0,60}") {
            let _ = expand(&text, &variables(true), Some("/w"));
        }
    }
}

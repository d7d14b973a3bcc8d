//! Names of workspaces.
//!
//! A name becomes a file's name, a repository of the registry, a host name and part of log files,
//! so it is a type with one door. What was refused is answered with a name that would do.

use std::fmt;
use std::str::FromStr;

/// Host names have 63 octets; a suffix and a random part must fit beside the name.
pub const MAX_NAME: usize = 48;

/// A name that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a workspace name: {reason}{}", suggestion.as_ref().map_or_else(String::new, |name| format!("; {:?} would do", name.0)))]
pub struct WorkspaceNameError {
    pub text: String,
    pub reason: &'static str,
    pub suggestion: Option<WorkspaceName>,
}

/// Lower-case letters, digits and single '-', '_' or '.' between them; at most 48.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceName(String);

impl WorkspaceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name out of a folder's or repository's last component: `My Repo.git` gives `my-repo`.
    /// `None` when nothing usable is left.
    pub fn derive(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let last = text.rsplit(['/', ':', '\\']).next().unwrap_or(text);
        let last = last.strip_suffix(".git").unwrap_or(last);
        let mut name = String::new();
        let mut separator = None;
        for c in last.chars().map(|c| c.to_ascii_lowercase()) {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                if let Some(separator) = separator.take().filter(|_| !name.is_empty()) {
                    name.push(separator);
                }
                name.push(c);
            } else {
                let kept = if matches!(c, '_' | '.') { c } else { '-' };
                separator = separator.or(Some(kept));
            }
        }
        name.truncate(MAX_NAME);
        name.trim_end_matches(['-', '_', '.']).parse().ok()
    }
}

impl FromStr for WorkspaceName {
    type Err = WorkspaceNameError;

    fn from_str(text: &str) -> Result<Self, WorkspaceNameError> {
        match fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(reason) => Err(WorkspaceNameError {
                text: text.to_owned(),
                reason,
                suggestion: if text.is_empty() {
                    None
                } else {
                    Self::derive(text)
                },
            }),
        }
    }
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn fault(text: &str) -> Option<&'static str> {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Some("it is empty");
    };
    if text.contains(['/', '\\']) {
        return Some("it must not contain a '/'");
    }
    if text.contains("..") {
        return Some("it must not contain \"..\"");
    }
    if bytes.len() > MAX_NAME {
        return Some("it is longer than 48 characters");
    }
    if !alnum(first) || !alnum(last) {
        return Some("it must begin and end with a lower-case letter or a digit");
    }
    let separated = |run: &[u8]| matches!(run, b"" | b"-" | b"_" | b"." | b"__" | b"--");
    if !bytes.split(alnum).all(separated) {
        return Some("only lower-case letters, digits and single '-', '_' or '.' may stand in it");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::RepositoryName;

    #[test]
    fn accepts_and_refuses() {
        for good in ["a", "my-app", "my.app_2", "0", "a--b", &"a".repeat(48)] {
            assert!(good.parse::<WorkspaceName>().is_ok(), "{good}");
        }
        for (text, suggestion) in [
            ("", None),
            ("..", None),
            ("a/b", Some("b")),
            ("../etc", Some("etc")),
            ("a..b", Some("a.b")),
            ("-x", Some("x")),
            ("My App", Some("my-app")),
            ("a.", Some("a")),
            ("ä", None),
            ("a\0b", Some("a-b")),
            ("a\n", Some("a")),
            (&"a".repeat(49), Some(&*"a".repeat(48))),
        ] {
            let error = text.parse::<WorkspaceName>().unwrap_err();
            let suggested = error.suggestion.as_ref().map(WorkspaceName::as_str);
            assert_eq!(suggested, suggestion, "{text:?}");
        }
        let error = "My App".parse::<WorkspaceName>().unwrap_err().to_string();
        assert!(error.ends_with("\"my-app\" would do"), "{error}");
    }

    #[test]
    fn derives_from_folders_and_urls() {
        for (text, name) in [
            ("https://host/a/My.Repo.git", "my.repo"),
            ("git@host:app.git", "app"),
            ("/home/me/My Project/", "my-project"),
            ("/src/.dotfiles", "dotfiles"),
            ("x__y", "x_y"),
        ] {
            assert_eq!(WorkspaceName::derive(text).unwrap().as_str(), name);
        }
        assert_eq!(WorkspaceName::derive("/"), None);
        assert_eq!(WorkspaceName::derive("///.git"), None);
    }

    proptest::proptest! {
        /// Every name is good for the repository `workspace/<name>` and as a file's name.
        #[test]
        fn what_parses_is_safe(text in "[a-z0-9._-]{1,60}|\\PC{0,20}") {
            if let Ok(name) = text.parse::<WorkspaceName>() {
                let repository = format!("workspace/{name}").parse::<RepositoryName>();
                proptest::prop_assert!(repository.is_ok());
            }
        }

        #[test]
        fn what_is_derived_parses(text in "\\PC{0,80}") {
            if let Some(name) = WorkspaceName::derive(&text) {
                proptest::prop_assert_eq!(name.as_str().parse(), Ok(name));
            }
        }
    }
}

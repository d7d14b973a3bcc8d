//! Addresses of repositories as Dockerfiles and command lines have them: `URL#REF:FOLDER`, or
//! `URL?ref=…&subdir=…`. Everything that ends up as a word of git's command line is checked here and by
//! `config::repository`. Pure.

use std::fmt;

use config::percent::decoded;
use config::repository::login::Login;
use config::repository::{Branch, RepoUrl, RepoUrlError, Transport};

/// A repository, which part of it, and what of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Repository {
    /// What git is given; of HTTP's without a user, whose name may be a token, and a password.
    pub address: String,
    /// `USER:PASSWORD` of such an address.
    pub(crate) login: Option<Login>,
    pub ssh: bool,
    /// A branch, a tag or a commit; the default branch where nothing is said.
    pub reference: Option<String>,
    /// Clean, without slashes at its ends; empty for all of it.
    pub folder: String,
    /// The beginning of the commit that it must be.
    pub checksum: Option<String>,
    pub keep_git: bool,
    pub submodules: bool,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("address", &self.address)
            .field("reference", &self.reference)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(transparent)]
    Url(#[from] RepoUrlError),
    #[error("an @ in the path of a repository is written %40")]
    At,
    #[error("{key}={value:?} cannot be used in a repository's address")]
    Value { key: String, value: String },
    #[error("{key} is not known in a repository's address")]
    Key { key: String },
    #[error("{what} is said twice: {first:?} and {second:?}")]
    Twice {
        what: &'static str,
        first: String,
        second: String,
    },
    #[error("{0:?} is not the beginning of a commit's hash")]
    Checksum(String),
}

/// Whether an address is of a repository and not of a file: by its scheme, or by `.git` at the end of its
/// path.
pub fn is_git(source: &str) -> bool {
    let path = source.split(['?', '#']).next().unwrap_or_default();
    let is_http = ["http://", "https://"]
        .iter()
        .any(|http| source.starts_with(http));
    let is_other = ["git://", "ssh://", "git@"]
        .iter()
        .any(|other| source.starts_with(other));
    is_other || (is_http && path.ends_with(".git"))
}

/// A whole commit.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hash(text)
}

fn is_hash(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Repository {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (url, query) = text.split_once('?').unwrap_or((text, ""));
        let mut repository = of_url(url)?;
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        repository.refer(reference)?;
        repository.go_into(folder)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            repository.query(key, &value)?;
        }
        Ok(repository)
    }

    /// `--checksum`, which is also said by the address.
    pub(crate) fn expect(&mut self, checksum: &str) -> Result<(), AddressError> {
        let checksum = checksum.to_ascii_lowercase();
        if checksum.is_empty() || checksum.len() > 64 || !is_hash(&checksum) {
            return Err(AddressError::Checksum(checksum));
        }
        once("a checksum", &mut self.checksum, checksum)
    }

    /// The commit that is written out.
    pub(super) fn commit(&self) -> Option<String> {
        let reference = self.reference.as_deref().map(str::to_ascii_lowercase);
        reference.filter(|text| is_commit(text))
    }

    fn query(&mut self, key: &str, value: &str) -> Result<(), AddressError> {
        let prefixed = |prefix: &str| match value.starts_with(prefix) {
            true => value.to_owned(),
            false => format!("{prefix}{value}"),
        };
        let switch = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(bad(key, value)),
        };
        let is_empty = value.is_empty();
        match key {
            "keep-git-dir" => self.keep_git = switch()?,
            "submodules" => self.submodules = switch()?,
            "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" if is_empty => {
                return Err(bad(key, value));
            }
            "ref" => self.refer(value)?,
            "tag" => self.refer(&prefixed("refs/tags/"))?,
            "branch" => self.refer(&prefixed("refs/heads/"))?,
            "subdir" => self.go_into(value)?,
            "checksum" | "commit" => self.expect(value)?,
            _ => {
                let key = key.chars().take(100).collect();
                return Err(AddressError::Key { key });
            }
        }
        Ok(())
    }

    fn refer(&mut self, reference: &str) -> Result<(), AddressError> {
        if reference.is_empty() {
            return Ok(());
        }
        // The rules of branches are those of every name.
        let name: Branch = reference.parse()?;
        once("a reference", &mut self.reference, name.as_str().to_owned())
    }

    fn go_into(&mut self, folder: &str) -> Result<(), AddressError> {
        let mut parts: Vec<&str> = Vec::new();
        for part in folder.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part if part.contains('\0') => return Err(bad("subdir", folder)),
                part => parts.push(part),
            }
        }
        let clean = parts.join("/");
        if clean.is_empty() {
            return Ok(());
        }
        let mut said = Some(self.folder.clone()).filter(|folder| !folder.is_empty());
        once("a folder", &mut said, clean)?;
        self.folder = said.unwrap_or_default();
        Ok(())
    }
}

fn of_url(url: &str) -> Result<Repository, AddressError> {
    // Git's own protocol has the form of HTTP's addresses, and no passwords.
    let (url, own) = match url.strip_prefix("git://") {
        Some(rest) => (format!("http://{rest}"), true),
        None => (url.to_owned(), false),
    };
    let parsed: RepoUrl = url.parse()?;
    if parsed.branch().is_some() {
        return Err(AddressError::At);
    }
    if parsed.transport() == Transport::Local {
        let scheme = "file".to_owned();
        return Err(RepoUrlError::Scheme { scheme }.into());
    }
    let address = match (own, parsed.address().strip_prefix("http")) {
        (true, Some(rest)) => format!("git{rest}"),
        _ => parsed.address().to_owned(),
    };
    Ok(Repository {
        address,
        login: parsed.login().filter(|_| !own).cloned(),
        ssh: parsed.transport() == Transport::Ssh,
        reference: None,
        folder: String::new(),
        checksum: None,
        keep_git: false,
        submodules: true,
    })
}

fn once(what: &'static str, slot: &mut Option<String>, value: String) -> Result<(), AddressError> {
    match slot {
        Some(first) if *first != value => Err(AddressError::Twice {
            what,
            first: first.clone(),
            second: value,
        }),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn bad(key: &str, value: &str) -> AddressError {
    AddressError::Value {
        key: key.to_owned(),
        value: value.chars().take(100).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Option<String>, String) {
        let read = Repository::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        (read.address, read.reference, read.folder)
    }

    #[test]
    fn addresses_say_what_is_meant() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, address, reference, folder) in [
            ("https://h/a/b.git", "https://h/a/b.git", None, ""),
            ("https://h/b.git#v1", "https://h/b.git", Some("v1"), ""),
            (
                "https://h/b.git#v1:x/./y/../z",
                "https://h/b.git",
                Some("v1"),
                "x/z",
            ),
            ("https://h/b.git#:../../x", "https://h/b.git", None, "x"),
            ("git@h:a/b.git#main", "git@h:a/b.git", Some("main"), ""),
            ("ssh://git@h:22/b", "ssh://git@h:22/b", None, ""),
            ("git://h/b.git", "git://h/b.git", None, ""),
            (
                "https://h/b.git?tag=v1",
                "https://h/b.git",
                Some("refs/tags/v1"),
                "",
            ),
            (
                "https://h/b.git?branch=a%2Fb&subdir=/s/",
                "https://h/b.git",
                Some("refs/heads/a/b"),
                "s",
            ),
            ("https://u:p@h/b.git", "https://h/b.git", None, ""),
            ("https://token@h/b.git", "https://h/b.git", None, ""),
        ] {
            let found = read(text);
            let expected = (
                address.to_owned(),
                reference.map(str::to_owned),
                folder.to_owned(),
            );
            assert_eq!(found, expected, "{text}");
        }
        let all =
            format!("https://h/b.git?ref={commit}&keep-git-dir=true&submodules=0&checksum=01");
        let all = Repository::parse(&all).unwrap();
        assert!(all.keep_git && !all.submodules && all.checksum.as_deref() == Some("01"));
        assert_eq!(all.commit().as_deref(), Some(commit));
        let secret = Repository::parse("https://u:hush@h/b.git").unwrap();
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[test]
    fn what_could_be_an_option_or_a_program_is_refused() {
        for bad in [
            "https://h/b.git#-x",
            "https://h/b.git#--upload-pack=x",
            "https://h/b.git?ref=--exec=x",
            "https://h/b.git#a..b",
            "https://-oProxyCommand=x/b.git",
            "git@-oProxyCommand=x:b",
            "ext::sh -c x",
            "file:///etc",
            "https://h/b.git@v1",
            "https://h/b.git?x=y",
            "https://h/b.git?ref=a&tag=b",
            "https://h/b.git?ref=a#b",
            "https://h/b.git?submodules=perhaps",
            "https://h/b.git?checksum=xyz",
            "https://h/b.git?ref=",
        ] {
            assert!(Repository::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_told_from_repositories() {
        assert!(is_git("git@h:a/b") && is_git("https://h/a.git#v1"));
        assert!(is_git("ssh://h/a") && is_git("http://h/a.git?ref=x"));
        assert!(!is_git("https://h/a.git.tar") && !is_git("https://h/a"));
    }
}

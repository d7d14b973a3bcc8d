//! COPY and ADD: their words to a plan, and what of them is refused.

use crate::dockerfile::expand::{Env, Lexer};
use config::name::parse_digest;
use config::percent::decoded;

use crate::dockerfile::instruction::{Add, Copy as CopyInstruction, InlineFile, Transfer};
use crate::fetch::shown;
use crate::ignore::Ignore;

use crate::git::address::{Repository, is_git};

use super::mode::Mode;
use super::{Copy, Origin, PlanError, RemoteSource, path};

/// Which of the two is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Written<'a> {
    Copy(&'a CopyInstruction),
    Add(&'a Add),
}

/// Reads what both have in common. The origin is the caller's to set.
pub(super) fn read(
    written: &Transfer,
    instruction: Written<'_>,
    lexer: Lexer,
    env: &impl Env,
    folder: &str,
) -> Result<Copy, PlanError> {
    // A pattern that is none is told before any step runs.
    Ignore::from_patterns(written.exclude.iter().map(String::as_str))?;
    let source = match instruction {
        Written::Copy(copy) if copy.parents => path::source_with_parents,
        _ => path::source,
    };
    let (mut sources, mut remote, mut repositories) = (Vec::new(), Vec::new(), Vec::new());
    for word in &written.sources {
        let text = lexer.word(word, env)?;
        match (is_remote(&text), instruction) {
            (false, _) => sources.push(source(&text)),
            (true, Written::Add(add)) if is_git(&text) => {
                repositories.push(repository(add, &text, lexer, env)?);
            }
            (true, Written::Add(add)) => remote.push(fetched(add, text, lexer, env)?),
            (true, Written::Copy(_)) => {
                return Err(PlanError::Refused {
                    what: format!("COPY of {}", shown(&text)),
                    why: "only ADD fetches",
                });
            }
        }
    }
    if let Written::Add(add) = instruction {
        refuse_flags(add, remote.len(), repositories.len())?;
    }
    let dest = path::dest(folder, &lexer.word(&written.dest, env)?);
    let count = sources.len() + remote.len() + repositories.len() + written.inline.len();
    if count > 1 && !dest.directory {
        let text = "with several sources the destination must be a directory and end with /";
        return Err(PlanError::Invalid(text.to_owned()));
    }
    let word = |word| lexer.word(word, env);
    Ok(Copy {
        origin: Origin::Context,
        sources,
        remote,
        repositories,
        inline: inline(&written.inline, env)?,
        dest,
        chown: written.chown.as_ref().map(word).transpose()?,
        chmod: mode(written.chmod.as_ref().map(word).transpose()?)?,
        exclude: written.exclude.clone(),
        extract: false,
        link: written.link,
    })
}

/// A FROM of a named folder: all that is in it.
pub(super) fn whole(name: &str) -> Copy {
    Copy {
        origin: Origin::Named(name.to_owned()),
        sources: vec![path::source("/")],
        remote: Vec::new(),
        repositories: Vec::new(),
        inline: Vec::new(),
        dest: path::dest("/", "/"),
        chown: None,
        chmod: None,
        exclude: Vec::new(),
        extract: false,
        link: false,
    }
}

fn inline(files: &[InlineFile], env: &impl Env) -> Result<Vec<(String, String)>, PlanError> {
    files
        .iter()
        .map(|file| {
            let body = match file.expand {
                true => Lexer::heredoc(&file.body, env)?,
                false => file.body.clone(),
            };
            Ok((file.name.clone(), body))
        })
        .collect()
}

/// An empty value, as of an ARG that is not set, is the same as no flag.
fn mode(text: Option<String>) -> Result<Option<Mode>, PlanError> {
    let text = text.filter(|text| !text.is_empty());
    Ok(text.map(|text| Mode::parse(&text)).transpose()?)
}

/// A repository of ADD.
fn repository(
    add: &Add,
    text: &str,
    lexer: Lexer,
    env: &impl Env,
) -> Result<Repository, PlanError> {
    let mut repository = Repository::parse(text)?;
    let checksum = add.checksum.as_ref().map(|word| lexer.word(word, env));
    if let Some(checksum) = checksum.transpose()?.filter(|text| !text.is_empty()) {
        repository.expect(&checksum)?;
    }
    repository.keep_git = add.keep_git_dir.unwrap_or(repository.keep_git);
    Ok(repository)
}

/// A source of ADD that is somewhere else.
fn fetched(
    add: &Add,
    address: String,
    lexer: Lexer,
    env: &impl Env,
) -> Result<RemoteSource, PlanError> {
    let checksum = add.checksum.as_ref().map(|word| lexer.word(word, env));
    let checksum = checksum.transpose()?.filter(|text| !text.is_empty());
    let digest = checksum.map(|text| {
        let digest = parse_digest(&text).ok();
        digest
            .filter(|_| text.starts_with("sha256:"))
            .ok_or_else(|| {
                let text = format!("--checksum={text} is not sha256: and 64 hexadecimal digits");
                PlanError::Invalid(text)
            })
    });
    Ok(RemoteSource {
        name: file_name(&address),
        address,
        checksum: digest.transpose()?,
        unpack: add.unpack.unwrap_or(false),
    })
}

/// The last part of an address's path, as docker names what it fetches.
fn file_name(address: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').map_or("", |(_, path)| path);
    let name = decoded(
        name.trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default(),
    );
    match name.as_str() {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name if name.contains(['/', '\0']) => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

/// Flags that only mean something for what is fetched.
fn refuse_flags(add: &Add, fetched: usize, repositories: usize) -> Result<(), PlanError> {
    let sources = add.transfer.sources.len() + add.transfer.inline.len();
    let invalid = |text: &str| Err(PlanError::Invalid(text.to_owned()));
    if add.checksum.is_some() && (sources != 1 || fetched + repositories != 1) {
        return invalid("--checksum is of one file or repository that is fetched");
    }
    if add.keep_git_dir == Some(true) && repositories == 0 {
        return invalid("--keep-git-dir is of git repositories");
    }
    if add.unpack == Some(true) && repositories > 0 {
        return invalid("--unpack is of archives, and not of git repositories");
    }
    Ok(())
}

/// As docker decides it: a URL, or a git repository by its usual spellings.
pub(crate) fn is_remote(source: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://", "git@"];
    schemes.iter().any(|scheme| source.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_fetched() {
        for (address, name) in [
            ("https://h/a/b.tar.gz", "b.tar.gz"),
            ("https://h/a%20b?x=/y#z", "a b"),
            ("https://h/a/", "a"),
            ("https://h", "__unnamed__"),
            ("https://h/%2e%2e", "__unnamed__"),
            ("https://h/a%2fb", "__unnamed__"),
            ("https://h/100%", "100%"),
        ] {
            assert_eq!(file_name(address), name, "{address}");
        }
    }

    #[test]
    fn remote_sources_are_seen() {
        assert!(is_remote("https://example.com/a.tar"));
        assert!(is_remote("git@github.com:a/b.git"));
        assert!(!is_remote("a/b.git"));
        assert!(!is_remote("http.txt"));
    }
}

//! COPY and ADD: their words to a plan, and what of them is refused.

use crate::dockerfile::expand::{Env, Lexer};
use crate::dockerfile::instruction::{Add, InlineFile, Transfer};
use crate::ignore::Ignore;

use super::mode::Mode;
use super::{Copy, Origin, PlanError, path};

/// Reads what both have in common. The origin is the caller's to set.
pub(super) fn read(
    written: &Transfer,
    parents: bool,
    lexer: Lexer,
    env: &impl Env,
    folder: &str,
) -> Result<Copy, PlanError> {
    // A pattern that is none is told before any step runs.
    Ignore::from_patterns(written.exclude.iter().map(String::as_str))?;
    let source = match parents {
        true => path::source_with_parents,
        false => path::source,
    };
    let sources = written
        .sources
        .iter()
        .map(|word| Ok(source(&lexer.word(word, env)?)))
        .collect::<Result<Vec<_>, PlanError>>()?;
    let dest = path::dest(folder, &lexer.word(&written.dest, env)?);
    if sources.len() + written.inline.len() > 1 && !dest.directory {
        let text = "with several sources the destination must be a directory and end with /";
        return Err(PlanError::Invalid(text.to_owned()));
    }
    let word = |word| lexer.word(word, env);
    Ok(Copy {
        origin: Origin::Context,
        sources,
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

/// ADD fetches nothing here: remote sources and the flags that only they have are refused.
pub(super) fn refuse_fetching(add: &Add, lexer: Lexer, env: &impl Env) -> Result<(), PlanError> {
    let refused = |what: String| PlanError::Refused {
        what,
        why: "ADD does not fetch; put the file into the context, or fetch it in a RUN",
    };
    for word in &add.transfer.sources {
        let source = lexer.word(word, env)?;
        if is_remote(&source) {
            return Err(refused(format!("ADD of {source}")));
        }
    }
    let flags = [
        ("--checksum", add.checksum.is_some()),
        ("--keep-git-dir", add.keep_git_dir.is_some()),
    ];
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(refused(format!("ADD {flag} of a local file"))),
        None => Ok(()),
    }
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
    fn remote_sources_are_seen() {
        assert!(is_remote("https://example.com/a.tar"));
        assert!(is_remote("git@github.com:a/b.git"));
        assert!(!is_remote("a/b.git"));
        assert!(!is_remote("http.txt"));
    }
}

//! COPY and ADD: their words to a plan, and what of them is refused.

use crate::dockerfile::expand::{Env, Lexer};
use crate::dockerfile::instruction::{Add, InlineFile, Transfer};

use super::{Copy, Origin, PlanError, path};

/// Reads what both have in common. The origin is the caller's to set.
pub(super) fn read(
    written: &Transfer,
    lexer: Lexer,
    env: &impl Env,
    folder: &str,
) -> Result<Copy, PlanError> {
    if let Some(pattern) = written.exclude.first() {
        return Err(PlanError::unsupported(format!("--exclude={pattern}")));
    }
    let sources = written
        .sources
        .iter()
        .map(|word| Ok(path::source(&lexer.word(word, env)?)))
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
        extract: false,
        link: written.link,
    })
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

fn mode(text: Option<String>) -> Result<Option<u32>, PlanError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let octal = !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    if !octal && text.contains(['+', '-', '=']) {
        return Err(PlanError::unsupported(format!("symbolic --chmod={text}")));
    }
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if octal && mode <= 0o7777 => Ok(Some(mode)),
        _ => Err(PlanError::Invalid(format!(
            "--chmod={text} is not an octal mode"
        ))),
    }
}

/// ADD fetches nothing here: remote sources and the flags that only they have are refused.
pub(super) fn refuse_fetching(add: &Add, lexer: Lexer, env: &impl Env) -> Result<(), PlanError> {
    if add.checksum.is_some() {
        return Err(PlanError::unsupported("ADD --checksum"));
    }
    if add.keep_git_dir.is_some() {
        return Err(PlanError::unsupported("ADD --keep-git-dir"));
    }
    for word in &add.transfer.sources {
        let source = lexer.word(word, env)?;
        if is_remote(&source) {
            return Err(PlanError::unsupported(format!("ADD of {source}")));
        }
    }
    Ok(())
}

/// As docker decides it: a URL, or a git repository by its usual spellings.
fn is_remote(source: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://", "git@"];
    schemes.iter().any(|scheme| source.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode(None).unwrap(), None);
        assert_eq!(mode(Some("0644".into())).unwrap(), Some(0o644));
        assert_eq!(mode(Some("4755".into())).unwrap(), Some(0o4755));
        for bad in ["", "8", "77777", "rwx"] {
            assert!(
                matches!(mode(Some(bad.into())), Err(PlanError::Invalid(_))),
                "{bad}"
            );
        }
        let symbolic = mode(Some("u+x".into()));
        assert!(matches!(symbolic, Err(PlanError::Unsupported { .. })));
    }

    #[test]
    fn remote_sources_are_seen() {
        assert!(is_remote("https://example.com/a.tar"));
        assert!(is_remote("git@github.com:a/b.git"));
        assert!(!is_remote("a/b.git"));
        assert!(!is_remote("http.txt"));
    }
}

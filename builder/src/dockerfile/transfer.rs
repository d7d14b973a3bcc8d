//! COPY and ADD (Dockerfile reference, "COPY", "ADD").

use super::error::{DockerfileError, Problem};
use super::flags::{Flags, Value};
use super::heredoc::Heredoc;
use super::instruction::{Add, Copy, InlineFile, Transfer};
use super::parser::{Parts, Statement};
use super::source::Word;
use super::words::{self, Json, Piece};

const COPY_FLAGS: &[&str] = &["from", "chown", "chmod", "link", "parents", "exclude"];
const ADD_FLAGS: &[&str] = &[
    "chown",
    "chmod",
    "link",
    "exclude",
    "checksum",
    "keep-git-dir",
    "unpack",
];

pub(super) fn copy(statement: &Statement, parts: &Parts<'_>) -> Result<Copy, DockerfileError> {
    let flags = Flags::new(statement, parts, "COPY", COPY_FLAGS)?;
    let from = flags.text("from")?;
    if let Some(from) = from.filter(|from| from.text.contains('$')) {
        let piece = Piece {
            text: from.text.to_owned(),
            at: from.piece.at,
        };
        return Err(statement.error(&piece, Problem::FromVariable));
    }
    Ok(Copy {
        transfer: transfer(statement, parts, "COPY", &flags)?,
        from: from
            .map(|from| from.text.to_owned())
            .filter(|from| !from.is_empty()),
        parents: flags.switch("parents")?.unwrap_or(false),
    })
}

pub(super) fn add(statement: &Statement, parts: &Parts<'_>) -> Result<Add, DockerfileError> {
    let flags = Flags::new(statement, parts, "ADD", ADD_FLAGS)?;
    Ok(Add {
        transfer: transfer(statement, parts, "ADD", &flags)?,
        checksum: word(flags.text("checksum")?),
        keep_git_dir: flags.switch("keep-git-dir")?,
        unpack: flags.switch("unpack")?,
    })
}

/// An empty value is the same as no flag.
pub(super) fn word(value: Option<Value<'_>>) -> Option<Word> {
    let value = value.filter(|value| !value.text.is_empty());
    value.map(|value| Word::new(value.text))
}

fn transfer(
    statement: &Statement,
    parts: &Parts<'_>,
    instruction: &'static str,
    flags: &Flags<'_>,
) -> Result<Transfer, DockerfileError> {
    let paths = paths(statement, parts, instruction)?;
    let (mut sources, mut inline) = (Vec::new(), Vec::new());
    let Some((dest, written)) = paths
        .split_last()
        .filter(|(_, sources)| !sources.is_empty())
    else {
        let needs = "a source and a destination";
        let problem = Problem::Arguments { instruction, needs };
        return Err(statement.error(&parts.keyword, problem));
    };
    if !statement.heredocs.is_empty() && Heredoc::opening(&dest.text).is_some() {
        return Err(statement.error(dest, Problem::HeredocDestination { instruction }));
    }
    for piece in written {
        match body(statement, &piece.text) {
            Some(heredoc) => inline.push(InlineFile {
                name: heredoc.name.clone(),
                body: heredoc.text(),
                expand: heredoc.expand,
            }),
            None => sources.push(Word::new(&piece.text)),
        }
    }
    all_used(statement, instruction, &inline)?;
    let exclude = flags.list("exclude")?;
    Ok(Transfer {
        sources,
        inline,
        dest: Word::new(&dest.text),
        chown: word(flags.text("chown")?),
        chmod: word(flags.text("chmod")?),
        link: flags.switch("link")?.unwrap_or(false),
        exclude: exclude.iter().map(|value| value.text.to_owned()).collect(),
    })
}

/// The arguments, from a JSON array or between white space.
fn paths(
    statement: &Statement,
    parts: &Parts<'_>,
    instruction: &'static str,
) -> Result<Vec<Piece>, DockerfileError> {
    let at = parts.args_at;
    match words::json(parts.args) {
        Json::Strings(strings) => Ok(strings.into_iter().map(|text| Piece { text, at }).collect()),
        Json::NotStrings => {
            let text = parts.args.to_owned();
            let problem = Problem::NotStrings { instruction };
            Err(statement.error(&Piece { text, at }, problem))
        }
        Json::Broken | Json::Other => Ok(words::blank_separated(parts.args, at)),
    }
}

/// The heredoc that a source names; of two with one name the later counts.
fn body<'a>(statement: &'a Statement, source: &str) -> Option<&'a Heredoc> {
    let opening = Heredoc::opening(source)?;
    let mut bodies = statement.heredocs.iter().rev();
    bodies.find(|heredoc| heredoc.name == opening.name)
}

/// A heredoc whose body was read and which is no source (`<< EOF`) would be lost without a word.
fn all_used(
    statement: &Statement,
    instruction: &'static str,
    inline: &[InlineFile],
) -> Result<(), DockerfileError> {
    let unused = |heredoc: &&Heredoc| !inline.iter().any(|file| file.name == heredoc.name);
    let Some(heredoc) = statement.heredocs.iter().find(unused) else {
        return Ok(());
    };
    let at = statement.line.text.find("<<").unwrap_or_default();
    let text = format!("<<{}", heredoc.name);
    let name = heredoc.name.clone();
    let problem = Problem::HeredocUnused { instruction, name };
    Err(statement.error(&Piece { text, at }, problem))
}

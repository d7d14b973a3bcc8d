//! Statements to typed instructions: one function per form of arguments.
//!
//! Whatever is not understood is an error at its place; nothing that was written is dropped.

use super::error::{DockerfileError, INSTRUCTIONS, Note, Problem, Remark};
use super::flags::Flags;
use super::health;
use super::heredoc;
use super::instruction::{ArgDeclaration, CommandLine, From, Instruction, Kind, Onbuild, Pair};
use super::parser::{Parts, Statement};
use super::run;
use super::source::Word;
use super::transfer;
use super::words::{self, Json, Piece};

/// Bytes of a stage's name: it goes with every step of the stage.
const MAX_NAME: usize = 4096;

/// Types a statement.
pub(super) fn instruction(
    statement: &Statement,
    notes: &mut Vec<Note>,
) -> Result<Instruction, DockerfileError> {
    typed(statement, &statement.parts(), notes)
}

fn typed(
    statement: &Statement,
    parts: &Parts<'_>,
    notes: &mut Vec<Note>,
) -> Result<Instruction, DockerfileError> {
    let mut range = statement.range;
    range.start = statement.line.position(parts.keyword.at);
    let text = statement.line.text.get(parts.keyword.at..);
    Ok(Instruction {
        kind: kind(statement, parts, notes)?,
        range,
        text: text.unwrap_or_default().trim().to_owned(),
        comments: statement.line.comments.clone(),
    })
}

fn kind(
    statement: &Statement,
    parts: &Parts<'_>,
    notes: &mut Vec<Note>,
) -> Result<Kind, DockerfileError> {
    let name = parts.keyword.text.to_ascii_uppercase();
    let Some(name) = INSTRUCTIONS.iter().find(|known| **known == name) else {
        let name = parts.keyword.text.clone();
        let problem = Problem::UnknownInstruction { name };
        return Err(statement.error(&parts.keyword, problem));
    };
    let form = Form {
        statement,
        parts,
        instruction: name,
    };
    match *name {
        "FROM" => return form.from().map(Kind::From),
        "RUN" => return run::run(statement, parts, notes).map(Kind::Run),
        "COPY" => return transfer::copy(statement, parts).map(Kind::Copy),
        "ADD" => return transfer::add(statement, parts).map(Kind::Add),
        "HEALTHCHECK" => {
            let check = health::healthcheck(statement, parts, notes);
            return check.map(Kind::Healthcheck);
        }
        _ => Flags::new(statement, parts, name, &[])?,
    };
    Ok(match *name {
        "ENV" => Kind::Env(form.pairs()?),
        "LABEL" => Kind::Label(form.pairs()?),
        "ARG" => Kind::Arg(form.declarations()?),
        "WORKDIR" => Kind::Workdir(Word::new(form.whole()?)),
        "USER" => Kind::User(Word::new(form.whole()?)),
        "STOPSIGNAL" => Kind::StopSignal(Word::new(form.whole()?)),
        "MAINTAINER" => Kind::Maintainer(form.whole()?.to_owned()),
        "CMD" => Kind::Cmd(form.command(notes)?),
        "ENTRYPOINT" => Kind::Entrypoint(form.command(notes)?),
        "EXPOSE" => Kind::Expose(form.ports()?),
        "VOLUME" => Kind::Volume(form.volumes()?),
        "SHELL" => Kind::Shell(form.shell()?),
        _ => Kind::Onbuild(form.onbuild(notes)?),
    })
}

/// Shell or exec form; an array that is not all strings is an error, what merely starts with `[` is
/// a shell's line.
pub(super) fn command_line(
    statement: &Statement,
    text: &str,
    at: usize,
    instruction: &'static str,
    notes: &mut Vec<Note>,
) -> Result<CommandLine, DockerfileError> {
    match words::json(text) {
        Json::Strings(strings) => return Ok(CommandLine::Exec(strings)),
        Json::NotStrings => {
            let text = text.to_owned();
            let problem = Problem::NotStrings { instruction };
            return Err(statement.error(&Piece { text, at }, problem));
        }
        Json::Broken if words::looks_like_json(text) => notes.push(Note {
            position: statement.line.position(at),
            remark: Remark::JsonLike { instruction },
        }),
        Json::Broken | Json::Other => {}
    }
    Ok(CommandLine::Shell(text.to_owned()))
}

/// The arguments of one instruction, to be read in one of several forms.
#[derive(Debug)]
struct Form<'a> {
    statement: &'a Statement,
    parts: &'a Parts<'a>,
    instruction: &'static str,
}

impl Form<'_> {
    fn needs(&self, needs: &'static str) -> DockerfileError {
        let instruction = self.instruction;
        let problem = Problem::Arguments { instruction, needs };
        self.statement.error(&self.parts.keyword, problem)
    }

    fn pieces(&self) -> Vec<Piece> {
        words::blank_separated(self.parts.args, self.parts.args_at)
    }

    fn quoted(&self) -> Vec<Piece> {
        let Parts { args, args_at, .. } = *self.parts;
        words::quoted(args, args_at, self.statement.escape)
    }

    /// Everything behind the keyword as one argument.
    fn whole(&self) -> Result<&str, DockerfileError> {
        match self.parts.args {
            "" => Err(self.needs("exactly one argument")),
            args => Ok(args),
        }
    }

    fn command(&self, notes: &mut Vec<Note>) -> Result<CommandLine, DockerfileError> {
        let Parts { args, args_at, .. } = *self.parts;
        command_line(self.statement, args, args_at, self.instruction, notes)
    }

    fn from(&self) -> Result<From, DockerfileError> {
        let flags = Flags::new(self.statement, self.parts, "FROM", &["platform"])?;
        let pieces = self.pieces();
        let (image, name) = match pieces.as_slice() {
            [image] => (image, None),
            [image, keyword, name] if keyword.text.eq_ignore_ascii_case("AS") => {
                (image, Some(self.stage_name(name)?))
            }
            _ => return Err(self.needs("an image, or an image, AS and a name")),
        };
        Ok(From {
            image: Word::new(&image.text),
            platform: transfer::word(flags.text("platform")?),
            name,
        })
    }

    fn stage_name(&self, piece: &Piece) -> Result<String, DockerfileError> {
        let limit = MAX_NAME;
        if piece.text.len() > limit {
            let problem = Problem::StageNameTooLong { limit };
            return Err(self.statement.error(piece, problem));
        }
        let name = piece.text.to_lowercase();
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
        if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(allowed) {
            return Ok(name);
        }
        let problem = Problem::StageName {
            name: piece.text.clone(),
        };
        Err(self.statement.error(piece, problem))
    }

    /// `k=v k2="v 2"`, or the old form in which the first word is the key and the rest the value.
    fn pairs(&self) -> Result<Vec<Pair>, DockerfileError> {
        let pieces = self.quoted();
        let Some(first) = pieces.first() else {
            return Err(self.needs("at least one argument"));
        };
        if !first.text.contains('=') {
            return self.legacy_pair().map(|pair| vec![pair]);
        }
        pieces.iter().map(|piece| self.pair(piece)).collect()
    }

    fn pair(&self, piece: &Piece) -> Result<Pair, DockerfileError> {
        let instruction = self.instruction;
        let Some((key, value)) = piece.text.split_once('=') else {
            let word = piece.text.clone();
            let problem = Problem::NoEquals { instruction, word };
            return Err(self.statement.error(piece, problem));
        };
        if key.is_empty() {
            let problem = Problem::BlankName { instruction };
            return Err(self.statement.error(piece, problem));
        }
        Ok(Pair {
            key: Word::new(key),
            value: Word::new(value),
            legacy: false,
        })
    }

    fn legacy_pair(&self) -> Result<Pair, DockerfileError> {
        let (key, value, _) = words::first_word(self.parts.args);
        if value.is_empty() {
            return Err(self.needs("a name and a value"));
        }
        Ok(Pair {
            key: Word::new(key),
            value: Word::new(value),
            legacy: true,
        })
    }

    fn declarations(&self) -> Result<Vec<ArgDeclaration>, DockerfileError> {
        let pieces = self.quoted();
        if pieces.is_empty() {
            return Err(self.needs("at least one argument"));
        }
        pieces.iter().map(|piece| self.declaration(piece)).collect()
    }

    fn declaration(&self, piece: &Piece) -> Result<ArgDeclaration, DockerfileError> {
        let (name, default) = match piece.text.split_once('=') {
            Some((name, value)) => (name, Some(Word::new(value))),
            None => (piece.text.as_str(), None),
        };
        if name.is_empty() {
            let instruction = self.instruction;
            let problem = Problem::BlankName { instruction };
            return Err(self.statement.error(piece, problem));
        }
        Ok(ArgDeclaration {
            name: Word::new(name),
            default,
        })
    }

    fn ports(&self) -> Result<Vec<Word>, DockerfileError> {
        let pieces = self.pieces();
        if pieces.is_empty() {
            return Err(self.needs("at least one port"));
        }
        Ok(pieces
            .into_iter()
            .map(|piece| Word::new(piece.text))
            .collect())
    }

    fn volumes(&self) -> Result<Vec<Word>, DockerfileError> {
        let paths = match words::json(self.parts.args) {
            Json::Strings(strings) => strings,
            Json::NotStrings => return Err(self.not_strings()),
            Json::Broken | Json::Other => {
                self.pieces().into_iter().map(|piece| piece.text).collect()
            }
        };
        let trimmed = paths.iter().map(|path| path.trim());
        if paths.is_empty() || trimmed.clone().any(str::is_empty) {
            return Err(self.needs("at least one path and no empty one"));
        }
        Ok(trimmed.map(Word::new).collect())
    }

    fn not_strings(&self) -> DockerfileError {
        let piece = Piece {
            text: self.parts.args.to_owned(),
            at: self.parts.args_at,
        };
        let instruction = self.instruction;
        self.statement
            .error(&piece, Problem::NotStrings { instruction })
    }

    fn shell(&self) -> Result<Vec<String>, DockerfileError> {
        match words::json(self.parts.args) {
            Json::Strings(strings) if !strings.is_empty() => Ok(strings),
            Json::NotStrings => Err(self.not_strings()),
            Json::Broken | Json::Other if !self.parts.args.is_empty() => {
                let piece = Piece {
                    text: self.parts.args.to_owned(),
                    at: self.parts.args_at,
                };
                Err(self.statement.error(&piece, Problem::ShellNotJson))
            }
            _ => Err(self.needs("at least one argument")),
        }
    }

    fn onbuild(&self, notes: &mut Vec<Note>) -> Result<Onbuild, DockerfileError> {
        let Parts { args, args_at, .. } = *self.parts;
        if args.is_empty() {
            return Err(self.needs("an instruction"));
        }
        let inner = self.statement.cut(args_at);
        let trigger = inner.keyword.text.to_ascii_uppercase();
        if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            let problem = Problem::Trigger { trigger };
            return Err(self.statement.error(&inner.keyword, problem));
        }
        Ok(Onbuild {
            expression: heredoc::reattach(args, &self.statement.heredocs),
            instruction: Box::new(typed(self.statement, &inner, notes)?),
        })
    }
}

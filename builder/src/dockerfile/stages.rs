//! Instructions grouped in stages, and the names by which stages refer to each other.
//!
//! A stage is known by its number, counted from zero, and by its name if it has one. Names are
//! case-insensitive; of two stages with one name the later counts, for those that come after it.

use super::directive::Directives;
use super::error::{DockerfileError, Note, Problem};
use super::instruction::{ArgDeclaration, From, Instruction, Kind};
use super::lines::at_line;
use super::source::{Position, Range};

/// A whole Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Directives,
    /// The ARGs before the first FROM, in order: what FROM itself can use.
    pub global_args: Vec<GlobalArgs>,
    /// Never empty.
    pub stages: Vec<Stage>,
    pub notes: Vec<Note>,
}

/// One ARG instruction before the first FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalArgs {
    pub declarations: Vec<ArgDeclaration>,
    pub range: Range,
    /// Comments right over it, without their `#`.
    pub comments: Vec<String>,
}

/// A FROM and what follows up to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub index: usize,
    pub from: From,
    /// The range of the FROM instruction.
    pub range: Range,
    /// The FROM instruction's logical line.
    pub text: String,
    /// Comments right over it, without their `#`.
    pub comments: Vec<String>,
    pub instructions: Vec<Instruction>,
}

impl Stage {
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_deref()
    }
}

/// What a `--from` or a FROM names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference<'a> {
    /// An earlier stage.
    Stage(usize),
    /// A named context or an image.
    External(&'a str),
}

/// Why a reference to a stage cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("stage {reference:?} is not before stage {current}, which wants to use it")]
    NotEarlier { reference: String, current: usize },
    #[error("there is no stage {reference:?}")]
    NoStage { reference: String },
}

impl Dockerfile {
    /// The stage of that name which comes last before `before`.
    pub fn earlier(&self, name: &str, before: usize) -> Option<usize> {
        let stages = self.stages.get(..before).unwrap_or(&self.stages);
        let is_named = |stage: &Stage| {
            stage
                .name()
                .is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        stages.iter().rposition(is_named)
    }

    /// What the expanded image of a FROM in stage `current` names: an earlier stage by name, never by
    /// number.
    pub fn base<'a>(&self, current: usize, image: &'a str) -> Reference<'a> {
        match self.earlier(image, current) {
            Some(stage) => Reference::Stage(stage),
            None => Reference::External(image),
        }
    }

    /// What `COPY --from` or a mount's `from` names in stage `current`: an earlier stage by name or
    /// number, or something outside the file.
    pub fn source<'a>(
        &self,
        current: usize,
        from: &'a str,
    ) -> Result<Reference<'a>, ReferenceError> {
        if let Some(stage) = self.earlier(from, current) {
            return Ok(Reference::Stage(stage));
        }
        let reference = from.to_owned();
        let known = self.earlier(from, self.stages.len());
        match known.or_else(|| from.parse().ok()) {
            None => Ok(Reference::External(from)),
            Some(stage) if stage < current => Ok(Reference::Stage(stage)),
            Some(stage) if stage < self.stages.len() => {
                Err(ReferenceError::NotEarlier { reference, current })
            }
            Some(_) => Err(ReferenceError::NoStage { reference }),
        }
    }

    /// The stage that `--target` names, by name or number; without a target the last one.
    pub fn target(&self, target: Option<&str>) -> Result<usize, ReferenceError> {
        let last = self.stages.len().saturating_sub(1);
        let Some(target) = target else {
            return Ok(last);
        };
        let named = self.earlier(target, self.stages.len());
        let found = named.or_else(|| target.parse().ok().filter(|stage| *stage <= last));
        found.ok_or_else(|| ReferenceError::NoStage {
            reference: target.to_owned(),
        })
    }
}

/// Groups instructions.
pub(super) fn group(
    directives: Directives,
    instructions: Vec<Instruction>,
    mut notes: Vec<Note>,
) -> Result<Dockerfile, DockerfileError> {
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut end = Position { line: 1, column: 1 };
    for instruction in instructions {
        end = instruction.range.end;
        match (instruction.kind, stages.last_mut()) {
            (Kind::From(from), _) => {
                stages.push(Stage {
                    index: stages.len(),
                    from,
                    range: instruction.range,
                    text: instruction.text,
                    comments: instruction.comments,
                    instructions: Vec::new(),
                });
            }
            (kind, Some(stage)) => stage.instructions.push(Instruction {
                kind,
                ..instruction
            }),
            (Kind::Arg(declarations), None) => global_args.push(GlobalArgs {
                declarations,
                range: instruction.range,
                comments: instruction.comments,
            }),
            (kind, None) => {
                return Err(DockerfileError {
                    position: instruction.range.start,
                    text: instruction.text,
                    problem: Problem::BeforeFrom {
                        instruction: kind.name(),
                    },
                });
            }
        }
    }
    if stages.is_empty() {
        return Err(at_line(end.line, "", Problem::NoStage));
    }
    notes.sort_by_key(|note| note.position);
    Ok(Dockerfile {
        directives,
        global_args,
        stages,
        notes,
    })
}

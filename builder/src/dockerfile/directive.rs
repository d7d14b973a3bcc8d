//! Parser directives: `# escape=`, `# syntax=`, `# check=` (Dockerfile reference, "Parser directives").
//!
//! They stand before anything else; the first line that is not one ends them for good.

use super::error::Problem;

/// What the directives of a file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `\` or `` ` ``: continues lines and escapes characters.
    pub escape: char,
    /// The frontend image that was asked for; it is not used.
    pub syntax: Option<String>,
    /// Options of the build checks, see `lint::options`.
    pub check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            escape: '\\',
            syntax: None,
            check: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Escape,
    Syntax,
    Check,
}

/// Reads a line as a directive: its name, if it is a known one, and the value.
pub(super) fn read(line: &str) -> Option<(Name, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let name = match name.trim().to_ascii_lowercase().as_str() {
        "escape" => Name::Escape,
        "syntax" => Name::Syntax,
        "check" => Name::Check,
        _ => return None,
    };
    let value = value.trim();
    (!value.is_empty()).then_some((name, value))
}

impl Directives {
    pub(super) fn set(
        &mut self,
        seen: &mut Vec<Name>,
        name: Name,
        value: &str,
    ) -> Result<(), Problem> {
        if seen.contains(&name) {
            let name = format!("{name:?}").to_ascii_lowercase();
            return Err(Problem::DirectiveTwice { name });
        }
        seen.push(name);
        match name {
            Name::Syntax => self.syntax = Some(value.to_owned()),
            Name::Check => self.check = Some(value.to_owned()),
            Name::Escape => {
                self.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    value => {
                        return Err(Problem::Escape {
                            value: value.to_owned(),
                        });
                    }
                };
            }
        }
        Ok(())
    }
}

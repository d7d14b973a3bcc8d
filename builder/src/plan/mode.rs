//! `--chmod`: an octal mode, or changes as chmod(1) takes them (`u=rwX,go=rX`).
//!
//! The symbolic form is POSIX's ("chmod", "Extended description") with a umask of zero: without
//! `u`, `g`, `o` or `a` a change concerns all three. `X` asks whether the file was executable
//! before any of the changes.

/// How a copy changes permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Octal(u32),
    Symbolic(Vec<Change>),
}

/// One operator with what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// All bits that may be touched.
    who: u32,
    operator: Operator,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Bits for all three classes, and those that need an executable file or a folder.
    Bits { always: u32, executable: u32 },
    /// The three bits of a class, by its distance from the right.
    Copied { shift: u32 },
}

const ALL_BITS: u32 = 0o7777;
const STICKY: u32 = 0o1000;
const SET_ID: u32 = 0o6000;
const EXECUTE: u32 = 0o111;

/// Why a text is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--chmod={text} is neither an octal mode up to 7777 nor changes such as u=rwX,go=rX")]
pub struct ModeError {
    pub text: String,
}

impl Mode {
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let parsed = match text.starts_with(|c: char| c.is_ascii_digit()) {
            true => octal(text).map(Self::Octal),
            false => symbolic(text).map(Self::Symbolic),
        };
        parsed.ok_or_else(|| ModeError {
            text: text.to_owned(),
        })
    }

    /// The mode of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        match self {
            Self::Octal(new) => *new,
            Self::Symbolic(changes) => {
                let runs = is_folder || mode & EXECUTE != 0;
                changes
                    .iter()
                    .fold(mode & ALL_BITS, |now, change| change.apply(now, runs))
            }
        }
    }

    /// The mode of folders that a copy makes on its way: only an octal one says it.
    pub fn of_new_folders(&self) -> Option<u32> {
        match self {
            Self::Octal(mode) => Some(mode & 0o777),
            Self::Symbolic(_) => None,
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, runs: bool) -> u32 {
        let bits = match self.what {
            What::Bits { always, executable } => always | if runs { executable } else { 0 },
            What::Copied { shift } => (mode >> shift & 0o7) * EXECUTE,
        } & self.who;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => mode & !self.who | bits,
        }
    }
}

fn octal(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    (mode <= ALL_BITS).then_some(mode)
}

fn symbolic(text: &str) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    for clause in text.split(',') {
        let start = clause.find(['+', '-', '='])?;
        let (who, mut rest) = clause.split_at(start);
        let who = class(who)?;
        while let Some(operator) = rest.chars().next().and_then(operator) {
            rest = rest.get(1..)?;
            let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
            let (what, behind) = rest.split_at(end);
            changes.extend(actions(who, operator, what)?);
            rest = behind;
        }
    }
    Some(changes)
}

/// The bits that a list of classes may touch; none at all means everybody.
fn class(letters: &str) -> Option<u32> {
    let mut who = 0;
    for letter in letters.chars() {
        who |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o0007,
            'a' => 0o6777,
            _ => return None,
        };
    }
    Some(if letters.is_empty() { 0o6777 } else { who })
}

fn operator(letter: char) -> Option<Operator> {
    match letter {
        '+' => Some(Operator::Add),
        '-' => Some(Operator::Remove),
        '=' => Some(Operator::Set),
        _ => None,
    }
}

/// What stands behind an operator: permission letters, then perhaps classes to copy from.
fn actions(mut who: u32, operator: Operator, letters: &str) -> Option<Vec<Change>> {
    let (mut always, mut executable) = (0, 0);
    let mut copies = Vec::new();
    for letter in letters.chars() {
        match letter {
            'r' => always |= 0o444,
            'w' => always |= 0o222,
            'x' => always |= EXECUTE,
            'X' if operator == Operator::Remove => always |= EXECUTE,
            'X' => executable |= EXECUTE,
            's' => always |= SET_ID,
            // Only where not only others are meant, as set-id bits.
            't' if who & SET_ID != 0 => {
                who |= STICKY;
                always |= STICKY;
            }
            't' => {}
            'u' => copies.push(What::Copied { shift: 6 }),
            'g' => copies.push(What::Copied { shift: 3 }),
            'o' => copies.push(What::Copied { shift: 0 }),
            _ => return None,
        }
    }
    let bits = What::Bits { always, executable };
    // `g=u` is one change; the letters before it, if any, are another.
    let needs_bits = copies.is_empty() || always | executable != 0;
    let all = needs_bits.then_some(bits).into_iter().chain(copies);
    Some(
        all.enumerate()
            .map(|(at, what)| Change {
                who,
                // Only the first of several takes away what was there.
                operator: match (operator, at) {
                    (Operator::Set, 1..) => Operator::Add,
                    (operator, _) => operator,
                },
                what,
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, before, folder, after) in [
            ("0644", 0o777, false, 0o644),
            ("4755", 0o600, false, 0o4755),
            ("0", 0o777, true, 0),
            ("u=rwX,go=rX", 0o640, false, 0o644),
            ("u=rwX,go=rX", 0o750, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("go=", 0o777, false, 0o700),
            ("go=u", 0o740, false, 0o777),
            ("go=u-w", 0o740, false, 0o755),
            ("g=u,o=g", 0o640, false, 0o666),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("u=rwx", 0o4644, false, 0o744),
            ("+t", 0o777, true, 0o1777),
            ("o+t", 0o777, true, 0o777),
            ("a=rX,u+w", 0o700, false, 0o755),
            ("=r", 0o777, false, 0o444),
            ("u+x-w", 0o644, false, 0o544),
            ("a-X", 0o755, false, 0o644),
            ("u=,+X", 0o100, false, 0o111),
        ] {
            let mode = Mode::parse(text).unwrap();
            let now = mode.apply(before, folder);
            assert_eq!(now, after, "{text} of {before:o}: {now:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in [
            "", "8", "77777", "rwx", "u", "u=rwz", "x=r", "u=r,", "0o7", "7+x",
        ] {
            assert!(Mode::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_octal_modes_are_those_of_new_folders() {
        assert_eq!(Mode::parse("4700").unwrap().of_new_folders(), Some(0o700));
        assert_eq!(Mode::parse("u=rwX").unwrap().of_new_folders(), None);
    }
}

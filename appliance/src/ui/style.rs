//! Colour, where it is wanted: on a terminal, unless `NO_COLOR` is set to anything or `TERM=dumb`.

use std::io::IsTerminal;

fn wanted() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

fn paint(code: &str, text: &str) -> String {
    if wanted() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub fn error(text: &str) -> String {
    paint("1;31", text)
}

pub fn warning(text: &str) -> String {
    paint("1;33", text)
}

pub fn hint(text: &str) -> String {
    paint("36", text)
}

/// Makes text from outside harmless for a terminal: control characters but newline and tab become
/// visible escapes.
pub fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() && c != '\n' && c != '\t';
            let text = if escaped {
                c.escape_default().to_string()
            } else {
                c.to_string()
            };
            text.chars().collect::<Vec<_>>()
        })
        .collect()
}

/// One line of a program's output made harmless: colours stay, and what a program wrote over (a
/// progress bar's carriage returns) is gone; titles, cursor moves and other controls are not obeyed.
pub fn tame(line: &str) -> String {
    tamed(line, wanted())
}

/// As [`tame`], without colours: each character is one column, or none is known to be more.
pub fn bare(line: &str) -> String {
    tamed(line, false)
}

fn tamed(line: &str, colours: bool) -> String {
    let line = line.trim_end_matches('\r');
    let last = line.rsplit('\r').next().unwrap_or(line);
    let mut tame = String::with_capacity(last.len());
    let mut rest = last;
    while let Some(at) = rest.find('\x1b') {
        tame.push_str(&harmless(&rest[..at]));
        let end = escape_length(&rest[at..]);
        let sequence = &rest[at..at + end];
        if sequence.starts_with("\x1b[") && sequence.ends_with('m') && colours {
            tame.push_str(sequence);
        }
        rest = &rest[at + end..];
    }
    tame.push_str(&harmless(rest));
    tame
}

/// Bytes of the escape sequence that `text` begins with (ECMA-48: CSI, strings such as OSC, others).
fn escape_length(text: &str) -> usize {
    let body = &text[1..];
    let end = match body.chars().next() {
        None => 0,
        Some('[') => body[1..]
            .find(|c: char| ('@'..='~').contains(&c))
            .map_or(body.len(), |at| at + 2),
        Some(']' | 'P' | '_' | '^' | 'X') => {
            body.find(['\x07', '\u{9c}']).map_or(body.len(), |at| {
                at + body[at..].chars().next().map_or(0, char::len_utf8)
            })
        }
        Some(other) => other.len_utf8(),
    };
    1 + end
}

#[cfg(test)]
mod tests {
    #[test]
    fn programs_do_not_drive_the_terminal() {
        for (line, shown) in [
            ("plain", "plain"),
            ("10%\r50%\r100%\r", "100%"),
            ("a\x1b]0;title\x07b", "ab"),
            ("a\x1b[2Jb\x1b[Hc", "abc"),
            ("a\x1bcb", "ab"),
            ("a\x1b[", "a"),
            ("a\x1b", "a"),
            ("bell\x07", "bell\\u{7}"),
        ] {
            assert_eq!(super::tame(line), shown, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_of_an_escape_is_left(line in "[a-z\x1b\\[\\];0-9m\x07]{0,40}") {
            proptest::prop_assert!(!super::tame(&line).contains('\x1b') || super::wanted());
        }
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(super::harmless("a\x1b[31mb\n"), "a\\u{1b}[31mb\n");
    }
}

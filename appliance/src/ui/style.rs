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

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(super::harmless("a\x1b[31mb\n"), "a\\u{1b}[31mb\n");
    }
}

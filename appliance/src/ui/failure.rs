//! A failure in print.

use crate::error::Failure;
use crate::ui::{news, style};

/// Prints `error: …`, its causes and what to do next, and answers the exit code.
pub fn report(failure: &Failure) -> u8 {
    news(&render(failure));
    failure.exit_code()
}

fn render(failure: &Failure) -> String {
    let mut text = format!(
        "{} {}",
        style::error("error:"),
        style::harmless(&failure.message)
    );
    for cause in &failure.causes {
        text.push_str("\n  because ");
        text.push_str(&style::harmless(cause).replace('\n', "\n    "));
    }
    for hint in &failure.hints {
        text.push_str(&format!(
            "\n  {} {}",
            style::hint("hint:"),
            style::harmless(hint)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_why_and_what_to_do() {
        let mut failure = Failure::not_found("no image \"x\"").hint("Pull it first.");
        failure.causes.push("nothing here".to_owned());
        let text = render(&failure);
        assert!(
            text.contains("no image \"x\"\n  because nothing here\n"),
            "{text}"
        );
        assert!(text.ends_with("Pull it first."), "{text}");
    }
}

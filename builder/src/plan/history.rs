//! What the history says of an instruction: BuildKit's words, because people and other programs read
//! them. Of what changes settings it is what was meant after expansion.

use std::time::Duration;

use crate::dockerfile::expand::{Env, Lexer};
use crate::dockerfile::instruction::{Copy, Healthcheck, Invocation, Kind, Transfer};
use crate::dockerfile::source::Word;
use crate::fetch::shown;

use super::PlanError;
use super::settings::HealthFields;

/// Where the script of a lone heredoc is while it runs.
const SCRIPTS: &str = "/dev/pipes";

/// `ENV A=1 B=2`; of an ARG without a value the name alone.
pub(super) fn pairs<'p>(
    keyword: &str,
    pairs: impl IntoIterator<Item = (&'p str, Option<&'p str>)>,
) -> String {
    let words = pairs.into_iter().map(|(name, value)| match value {
        Some(value) => format!(" {name}={value}"),
        None => format!(" {name}"),
    });
    format!("{keyword}{}", words.collect::<String>())
}

/// `VOLUME [/a /b]`.
pub(super) fn list(keyword: &str, words: &[String]) -> String {
    format!("{keyword} [{}]", words.join(" "))
}

/// `CMD ["sh" "-c" "a \"b\""]`.
pub(super) fn quoted(keyword: &str, words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    list(keyword, &words)
}

/// A string literal of Go.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `RUN |2 A=1 B=2 /bin/sh -c make`; `shell` is what stands before a script.
pub(super) fn run(args: &[String], shell: &[String], invocation: &Invocation) -> String {
    let mut words = Vec::new();
    if !args.is_empty() {
        words.push(format!("|{}", args.len()));
        words.extend_from_slice(args);
    }
    match invocation {
        Invocation::Exec(command) => words.extend_from_slice(command),
        Invocation::Shell(text) => words.push(text.clone()),
        Invocation::Script { name, .. } => {
            words.extend_from_slice(shell);
            words.push(format!("{SCRIPTS}/{name}"));
        }
    }
    format!("RUN {}", words.join(" "))
}

/// `HEALTHCHECK {Test:[CMD-SHELL x] Interval:5m0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}`.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    let fields = HealthFields::of(check);
    let durations = fields.durations.map(|(name, given)| {
        let given = duration(given.unwrap_or_default());
        format!("{name}:{given}")
    });
    let (test, durations) = (fields.test.join(" "), durations.join(" "));
    let retries = fields.retries.unwrap_or(0);
    format!("HEALTHCHECK {{Test:[{test}] {durations} Retries:{retries}}}")
}

/// As Go writes durations: `1h0m1.5s`, `1m0s`, `1.5ms`.
fn duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let part = |unit: u128, name: &str| {
        let (whole, rest) = (nanoseconds / unit, nanoseconds % unit);
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        match digits.trim_end_matches('0') {
            "" => format!("{whole}{name}"),
            digits => format!("{whole}.{digits}{name}"),
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => part(1_000, "µs"),
        1_000_000..1_000_000_000 => part(1_000_000, "ms"),
        _ => {
            let minutes = duration.as_secs() / 60;
            let rest = duration.saturating_sub(Duration::from_secs(minutes * 60));
            let rest = (rest.as_secs(), rest.subsec_nanos());
            let digits = format!("{:09}", rest.1);
            let seconds = match digits.trim_end_matches('0') {
                "" => format!("{}s", rest.0),
                digits => format!("{}.{digits}s", rest.0),
            };
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// `COPY --chown=a a.txt b.txt /to/`; `None` for what is neither COPY nor ADD.
pub(super) fn transfer(
    kind: &Kind,
    lexer: Lexer,
    env: &impl Env,
) -> Result<Option<String>, PlanError> {
    let (keyword, parents, transfer): (_, _, &Transfer) = match kind {
        Kind::Copy(Copy {
            transfer, parents, ..
        }) => ("COPY", *parents, transfer),
        Kind::Add(add) => ("ADD", false, &add.transfer),
        _ => return Ok(None),
    };
    let mut words = vec![keyword.to_owned()];
    if parents {
        words.push("--parents".to_owned());
    }
    for (flag, word) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
        let value = match word {
            Some(word) => lexer.word(word, env)?,
            None => String::new(),
        };
        if !value.is_empty() {
            words.push(format!("--{flag}={value}"));
        }
    }
    let word = |word: &Word| lexer.word(word, env);
    for source in &transfer.sources {
        let said = word(source)?;
        // What is as good as a password is nobody's who has the image.
        words.push(if said.contains("://") {
            shown(&said)
        } else {
            said
        });
    }
    words.extend(
        transfer
            .inline
            .iter()
            .map(|file| format!("<<{}", file.name)),
    );
    words.push(word(&transfer.dest)?);
    Ok(Some(words.join(" ")))
}

/// The words of a command as a configuration has them.
pub(super) fn command(keyword: &str, words: Option<&Vec<String>>) -> String {
    quoted(keyword, words.map(Vec::as_slice).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (1_000_000, "1ms"),
            (3_500_000_000, "3.5s"),
            (60_000_000_000, "1m0s"),
            (90_000_000_000, "1m30s"),
            (3_601_500_000_000, "1h0m1.5s"),
            (300_000_000_000, "5m0s"),
            (1_200, "1.2µs"),
            (7, "7ns"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn words_are_quoted_as_in_go() {
        let words = ["a \"b\"", "c\\d", "e\tf\x01", "ü<&>'"].map(str::to_owned);
        assert_eq!(
            quoted("CMD", &words),
            r#"CMD ["a \"b\"" "c\\d" "e\tf\x01" "ü<&>'"]"#
        );
        assert_eq!(quoted("CMD", &[]), "CMD []");
    }
}

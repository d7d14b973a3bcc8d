//! HEALTHCHECK and its durations (Dockerfile reference, "HEALTHCHECK").

use std::time::Duration;

use super::error::{DockerfileError, Note, Problem, Remark};
use super::flags::{Flags, Value};
use super::instruction::Healthcheck;
use super::parser::{Parts, Statement};
use super::typed::command_line;
use super::words::{self, Piece};

const FLAGS: &[&str] = &[
    "interval",
    "timeout",
    "start-period",
    "start-interval",
    "retries",
];
const DURATION: &str = "zero or a duration of at least 1ms, as in 1m30s";

pub(super) fn healthcheck(
    statement: &Statement,
    parts: &Parts<'_>,
    notes: &mut Vec<Note>,
) -> Result<Healthcheck, DockerfileError> {
    let flags = Flags::new(statement, parts, "HEALTHCHECK", FLAGS)?;
    let (kind, command, offset) = words::first_word(parts.args);
    let needs = |needs| {
        let problem = Problem::Arguments {
            instruction: "HEALTHCHECK",
            needs,
        };
        statement.error(&parts.keyword, problem)
    };
    match kind.to_ascii_uppercase().as_str() {
        "" => Err(needs("CMD or NONE")),
        "NONE" if !command.is_empty() => Err(needs("nothing behind NONE")),
        "NONE" => {
            if !parts.flags.is_empty() {
                notes.push(Note {
                    position: statement.range.start,
                    remark: Remark::HealthcheckFlags,
                });
            }
            Ok(Healthcheck::None)
        }
        "CMD" => {
            let at = parts.args_at + offset;
            let test = command_line(statement, command, at, "HEALTHCHECK", notes)?;
            if test.is_empty() {
                return Err(needs("a command behind CMD"));
            }
            Ok(Healthcheck::Check {
                test,
                interval: duration(&flags, "interval")?,
                timeout: duration(&flags, "timeout")?,
                start_period: duration(&flags, "start-period")?,
                start_interval: duration(&flags, "start-interval")?,
                retries: retries(&flags)?,
            })
        }
        _ => {
            let kind = kind.to_owned();
            let piece = Piece {
                text: kind.clone(),
                at: parts.args_at,
            };
            Err(statement.error(&piece, Problem::HealthcheckType { kind }))
        }
    }
}

fn duration(flags: &Flags<'_>, flag: &'static str) -> Result<Option<Duration>, DockerfileError> {
    let Some(value) = given(flags, flag)? else {
        return Ok(None);
    };
    match parse_duration(value.text) {
        Some(Duration::ZERO) => Ok(None),
        Some(duration) if duration >= Duration::from_millis(1) => Ok(Some(duration)),
        _ => Err(flags.refused(&value, DURATION)),
    }
}

fn retries(flags: &Flags<'_>) -> Result<Option<u32>, DockerfileError> {
    let Some(value) = given(flags, "retries")? else {
        return Ok(None);
    };
    match value.text.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(retries) if i32::try_from(retries).is_ok() => Ok(Some(retries)),
        _ => Err(flags.refused(&value, "a number that is not negative")),
    }
}

/// An empty value is the same as no flag.
fn given<'a>(flags: &Flags<'a>, flag: &'static str) -> Result<Option<Value<'a>>, DockerfileError> {
    Ok(flags.text(flag)?.filter(|value| !value.text.is_empty()))
}

/// Numbers with units, as in `1h30m`, `1.5s`, `300ms`; a lone `0` needs no unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, behind) = behind.split_at(end.unwrap_or(behind.len()));
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = behind;
    }
    // The image's configuration holds a signed 64-bit count.
    i64::try_from(total).ok()?;
    Some(Duration::from_nanos(total))
}

fn nanoseconds(number: &str, unit: &str) -> Option<u64> {
    let unit: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole = match whole {
        "" => 0,
        whole => whole.parse::<u64>().ok()?.checked_mul(unit)?,
    };
    // Each further digit is worth a tenth of the one before it.
    let digits = fraction.bytes().map(|byte| u64::from(byte - b'0'));
    let (part, _) = digits.fold((0, unit), |(sum, unit), digit| {
        (sum + digit * unit / 10, unit / 10)
    });
    whole.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1_500)),
            (".5s", Some(500)),
            ("1h", Some(3_600_000)),
            ("300ms", Some(300)),
            ("2000us", Some(2)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("5s ", None),
            ("1..5s", None),
            ("99999999999h", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }
}

//! Names of signals, as people write them.

/// By number, from 1 on: signal(7) on every machine that we run on.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `SIGTERM`, `TERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|number| (1..=64).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = match offset {
            "" => 0,
            offset => offset.strip_prefix('+')?.parse().ok()?,
        };
        return Some(34 + offset).filter(|number| (34..=64).contains(number));
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset: i32 = match offset {
            "" => 0,
            offset => offset.strip_prefix('-')?.parse().ok()?,
        };
        return Some(64 - offset).filter(|number| (34..=64).contains(number));
    }
    let at = SIGNALS.iter().position(|known| *known == name)?;
    i32::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("rtmax-1", Some(63)),
            ("SIGRTMAX", Some(64)),
            ("RTMAX-40", None),
            ("RTMIN+31", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("NOSUCH", None),
            ("", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}

//! Amounts as people write them: memory, processors, durations.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why an amount was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("{text:?} is not a size: a number with an optional K, M, G, T, Ki, Mi, Gi or Ti")]
    Size { text: String },
    #[error("{text:?} is not a number of processors: such as 4, 0.5 or 500m")]
    Cpu { text: String },
    #[error("{text:?} is not a duration: seconds, or a number with s, m, h or d")]
    Duration { text: String },
}

/// Bytes. `8Gi`, `8G`, `8gb` are the same: docker's `512m`, Kubernetes' `512Mi` and the
/// devcontainer specification's `4gb` all mean powers of 1024 in their tools' local use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad = || QuantityError::Size {
            text: text.to_owned(),
        };
        let (number, unit) = split_unit(text);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "ki" | "kb" | "kib" => 10,
            "m" | "mi" | "mb" | "mib" => 20,
            "g" | "gi" | "gb" | "gib" => 30,
            "t" | "ti" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        let bytes = decimal(number).ok_or_else(bad)? * (1_u64 << shift) as f64;
        // Above 2^53 a float no longer counts bytes; nobody has that much.
        if bytes > 9e15 {
            return Err(bad());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Thousandths of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub u32);

impl FromStr for Cpu {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad = || QuantityError::Cpu {
            text: text.to_owned(),
        };
        let (number, unit) = split_unit(text);
        let scale = match unit {
            "" => 1000.0,
            "m" => 1.0,
            _ => return Err(bad()),
        };
        let thousandths = decimal(number).ok_or_else(bad)? * scale;
        if !(1.0..=1e7).contains(&thousandths) {
            return Err(bad());
        }
        Ok(Self(thousandths as u32))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

/// Seconds, or with a unit: `1800`, `90s`, `30m`, `2h`, `1d`. Zero is allowed: the reader of the
/// setting decides what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(pub u64);

impl Seconds {
    /// `None` for zero, which every timeout of ours means as "no limit".
    pub fn limit(self) -> Option<Duration> {
        (self.0 > 0).then(|| Duration::from_secs(self.0))
    }
}

impl FromStr for Seconds {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad = || QuantityError::Duration {
            text: text.to_owned(),
        };
        let (number, unit) = split_unit(text);
        let scale = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(bad()),
        };
        let number: u32 = number.parse().map_err(|_| bad())?;
        Ok(Self(u64::from(number) * scale))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Digits with at most one point between digits; never a sign, an exponent or "inf".
fn decimal(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit()) && !text.ends_with('.');
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes, printed) in [
            ("8Gi", 8 << 30, "8Gi"),
            ("4gb", 4 << 30, "4Gi"),
            ("512m", 512 << 20, "512Mi"),
            ("1.5G", 3 << 29, "1536Mi"),
            ("1000", 1000, "1000"),
            ("0", 0, "0"),
            ("2 Ti", 2 << 40, "2Ti"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed));
        }
        for text in [
            "",
            "Gi",
            "-1",
            "1e9",
            "1Zi",
            "1.Gi",
            ".5G",
            "1..2",
            "99999999Ti",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn processors_and_durations() {
        for (text, thousandths) in [("4", 4000), ("0.5", 500), ("250m", 250)] {
            assert_eq!(text.parse(), Ok(Cpu(thousandths)));
        }
        for text in ["", "0", "-1", "x", "4c", "99999999999"] {
            assert!(text.parse::<Cpu>().is_err(), "{text}");
        }
        for (text, seconds) in [("1800", 1800), ("30m", 1800), ("2h", 7200), ("1d", 86400)] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)));
        }
        for text in ["", "m", "1.5h", "1w", "-3"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn sizes_print_to_themselves(bytes in 0_u64..9_000_000_000_000_000) {
            proptest::prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}

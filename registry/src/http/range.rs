//! `Range` of a blob request (RFC 9110, section 14): one range of bytes, or nothing. Pure.

/// The bytes `start..end` of a blob; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    pub(super) fn length(self) -> u64 {
        self.end - self.start
    }

    /// `Content-Range` of the answer.
    pub(super) fn content_range(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.start, self.end - 1)
    }
}

/// What a Range header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Everything: the header has another unit, several ranges, or is no range at all, and is
    /// ignored as the RFC allows.
    Whole,
    Part(Span),
    /// 416: a range with no byte of this blob in it.
    Unsatisfiable,
}

/// Reads a Range header for a blob of `size` bytes.
pub(super) fn parse(header: &str, size: u64) -> Asked {
    let Some(range) = header.trim().strip_prefix("bytes=") else {
        return Asked::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Asked::Whole;
    };
    let number = |text: &str| match text {
        "" => Ok(None),
        text if text.bytes().all(|b| b.is_ascii_digit()) => {
            // A number too great for us is as good as the greatest.
            Ok(Some(text.parse::<u64>().unwrap_or(u64::MAX)))
        }
        _ => Err(()),
    };
    match (number(first), number(last)) {
        (Ok(Some(first)), Ok(last)) => span(first, last.unwrap_or(u64::MAX), size),
        (Ok(None), Ok(Some(suffix))) => span(size.saturating_sub(suffix), u64::MAX, size),
        _ => Asked::Whole,
    }
}

/// `last` is inclusive and may lie behind the end.
fn span(first: u64, last: u64, size: u64) -> Asked {
    let end = last.saturating_add(1).min(size);
    if first < end {
        Asked::Part(Span { start: first, end })
    } else {
        Asked::Unsatisfiable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_ranges() {
        let part = |start, end| Asked::Part(Span { start, end });
        for (header, size, asked) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=500-1499", 5000, part(500, 1500)),
            ("bytes=500-", 5000, part(500, 5000)),
            ("bytes=-500", 5000, part(4500, 5000)),
            ("bytes=-500", 100, part(0, 100)),
            ("bytes=2000-5000", 4000, part(2000, 4000)),
            ("bytes=0-99999999999999999999999", 10, part(0, 10)),
            ("bytes=500-0", 5000, Asked::Unsatisfiable),
            ("bytes=5000-10000", 5000, Asked::Unsatisfiable),
            ("bytes=-0", 5000, Asked::Unsatisfiable),
            ("bytes=0-", 0, Asked::Unsatisfiable),
            ("bytes=0-1,3-4", 10, Asked::Whole),
            ("bytes=-", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("items=0-1", 10, Asked::Whole),
            ("", 10, Asked::Whole),
        ] {
            assert_eq!(parse(header, size), asked, "{header} of {size}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(header in "bytes=[0-9]{0,22}-[0-9]{0,22}", size: u64) {
            if let Asked::Part(span) = parse(&header, size) {
                prop_assert!(span.start < span.end && span.end <= size);
            }
        }

        #[test]
        fn no_header_panics(header in ".{0,40}", size: u64) {
            let _ = parse(&header, size);
        }
    }
}

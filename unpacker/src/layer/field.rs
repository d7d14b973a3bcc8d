//! The text and the numbers that tar headers are made of. Pure.

/// A key and a value of an extended header.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// An octal field, or a two's complement number behind a set high bit (GNU).
pub(crate) fn numeric(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start: i128 = if negative { -1 } else { 0 };
        // The top bit is the mark, not part of the number.
        let first = if negative { first } else { first & 0x7f };
        let bytes = std::iter::once(first).chain(field[1..].iter().copied());
        return Some(bytes.fold(start, |sum, byte| (sum << 8) | i128::from(byte)));
    }
    let text: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ' || *byte == 0)
        .take_while(|byte| *byte != b' ' && *byte != 0)
        .collect();
    text.iter().try_fold(0_i128, |sum, byte| match byte {
        b'0'..=b'7' => Some(sum * 8 + i128::from(byte - b'0')),
        _ => None,
    })
}

/// A number that is not negative.
pub(crate) fn unsigned(field: &[u8]) -> Option<u64> {
    u64::try_from(numeric(field)?).ok()
}

/// Decimal digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub(crate) fn until_nul(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|byte| *byte == 0);
    field[..end.unwrap_or(field.len())].to_vec()
}

/// `length key=value\n`, again and again; `None` where it is anything else.
pub(crate) fn records(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = split_record(bytes)?;
        records.push(record);
        bytes = rest;
    }
    Some(records)
}

fn split_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?;
    let (&last, record) = record.split_last()?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    // Attribute values are binary; everything else is text, which has no NUL.
    let binary = key.starts_with(b"SCHILY.xattr.");
    let sound = last == b'\n' && !key.is_empty() && !key.contains(&0);
    if !sound || (!binary && value.contains(&0)) {
        return None;
    }
    Some(((key.to_vec(), value.to_vec()), &bytes[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(numeric(b"0000644\0"), Some(0o644));
        assert_eq!(numeric(b"   644 \0"), Some(0o644));
        assert_eq!(numeric(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(numeric(b"0000648\0"), None);
        assert_eq!(numeric(&[0x80, 0, 0, 0, 0, 0x20, 0, 0]), Some(0x20_0000));
        assert_eq!(numeric(&[0xff; 12]), Some(-1));
        assert_eq!(unsigned(&[0xff; 12]), None);
    }

    #[test]
    fn records_are_sound_or_refused() {
        let good = records(b"8 a=bcd\n6 k=v\n").unwrap();
        assert_eq!(good[0], (b"a".to_vec(), b"bcd".to_vec()));
        assert_eq!(good[1], (b"k".to_vec(), b"v".to_vec()));
        for bad in [
            &b"9 a=bcd\n"[..],
            b"8 a=bcdx",
            b"a=b\n",
            b"5 ab\n",
            b"5 =b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"7 a=\0b\n",
        ] {
            assert!(records(bad).is_none(), "{bad:?}");
        }
    }
}

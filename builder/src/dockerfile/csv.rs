//! One record of comma-separated values, as `--mount` and `--device` take it (RFC 4180).

/// The fields; `None` if quotes stand where they cannot.
pub fn fields(record: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(rest)?,
        };
        fields.push(field);
        match behind {
            Some(behind) => rest = behind,
            None => return Some(fields),
        }
    }
}

/// A field, and what follows its comma.
type Field<'a> = (String, Option<&'a str>);

fn plain_field(text: &str) -> Option<Field<'_>> {
    let (field, behind) = match text.split_once(',') {
        Some((field, behind)) => (field, Some(behind)),
        None => (text, None),
    };
    (!field.contains('"')).then(|| (field.to_owned(), behind))
}

/// What follows an opening quote; a doubled quote inside stands for one.
fn quoted_field(text: &str) -> Option<Field<'_>> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, behind) = rest.split_once('"')?;
        field.push_str(part);
        if let Some(behind) = behind.strip_prefix('"') {
            field.push('"');
            rest = behind;
        } else if behind.is_empty() {
            return Some((field, None));
        } else {
            return Some((field, Some(behind.strip_prefix(',')?)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        for (record, expected) in [
            ("a=b,c", Some(vec!["a=b", "c"])),
            ("", Some(vec![""])),
            ("\"a,b\",c", Some(vec!["a,b", "c"])),
            ("\"a\"\"b\"", Some(vec!["a\"b"])),
            ("a\"b", None),
            ("\"a\"b", None),
            ("\"a", None),
        ] {
            let expected = expected.map(|fields| fields.into_iter().map(str::to_owned).collect());
            assert_eq!(fields(record), expected, "{record}");
        }
    }
}

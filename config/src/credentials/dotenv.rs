//! `.env` files: `NAME=value` lines, as the common tools read them.
//!
//! No expansion of `$NAME` and no values over several lines; a line that is neither an assignment
//! nor a comment is passed over, because these files belong to other programs.

/// The assignments in order; the last one of a name counts.
pub fn parse(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(assignment).collect()
}

fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || !name.bytes().all(good) {
        return None;
    }
    Some((name.to_owned(), unquote(value.trim())))
}

/// Quotes keep everything; without them a comment may follow after white space.
fn unquote(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some(end) = rest.find(quote)
        {
            return rest[..end].to_owned();
        }
    }
    match value.find(" #") {
        Some(end) => value[..end].trim_end().to_owned(),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_forms() {
        let text =
            "# c\n\nA=1\nexport B = two \nC=\"a # b\" # c\nD='x=y'\nE=a#b # c\nnot a line\nF=";
        let pairs = parse(text);
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (&**k, &**v)).collect();
        let expected = [
            ("A", "1"),
            ("B", "two"),
            ("C", "a # b"),
            ("D", "x=y"),
            ("E", "a#b"),
            ("F", ""),
        ];
        assert_eq!(pairs, expected);
    }
}

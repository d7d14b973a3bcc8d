//! "Did you mean …?": the nearest of a list of words by edit distance. Pure.

/// Longer words are nobody's typing mistake; bounds the table's size, with what is near in length.
const MAX_WORD: usize = 32;

/// The word of `known` that is nearest, if it is near enough to be what was meant.
pub(crate) fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let length = word.chars().count();
    if length == 0 || length > MAX_WORD {
        return None;
    }
    let allowed = (length / 3).max(1);
    // Each edit changes the length by one at most; so no word has to be read beyond what may be near.
    let is_near = |other: &&&str| {
        let other = other.chars().take(length + allowed + 1).count();
        other.abs_diff(length) <= allowed
    };
    let near = known.iter().filter(is_near);
    let distances = near.map(|other| (distance(word, other), *other));
    let (nearest, other) = distances.min_by_key(|(distance, _)| *distance)?;
    (nearest <= allowed).then_some(other)
}

/// Levenshtein distance, with a swap of two neighbours counted as one edit.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut best = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (left, right, expected) in [
            ("", "abc", 3),
            ("run", "run", 0),
            ("runn", "run", 1),
            ("rnu", "run", 1),
            ("copy", "cope", 1),
            ("env", "arg", 3),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = &["RUN", "COPY", "ENTRYPOINT"];
        assert_eq!(closest("RUNN", known), Some("RUN"));
        assert_eq!(closest("ENTYPOIN", known), Some("ENTRYPOINT"));
        assert_eq!(closest("INSTALL", known), None);
        assert_eq!(closest("", known), None);
        // Nobody can mean a word of a megabyte, and it is not compared.
        let long = "RUN".repeat(1 << 20);
        assert_eq!(closest("RUNN", &[&long, "RUN"]), Some("RUN"));
        assert_eq!(closest("RUNRUN", &[&long]), None);
    }
}

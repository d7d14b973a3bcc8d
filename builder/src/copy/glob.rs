//! Patterns of one path component, as Go's `filepath.Match`: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
//!
//! Pure. A match costs at most the product of both lengths: only the last `*` is ever tried again.

/// A pattern whose bracket or escape is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incomplete;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Unit {
    Many,
    One,
    Literal(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A component's pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Unit>);

impl Glob {
    pub(crate) fn parse(text: &str) -> Result<Self, Incomplete> {
        let mut units = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            units.push(match c {
                '*' => Unit::Many,
                '?' => Unit::One,
                '\\' => Unit::Literal(chars.next().ok_or(Incomplete)?),
                '[' => class(&mut chars)?,
                c => Unit::Literal(c),
            });
        }
        Ok(Self(units))
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut unit, mut at) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(unit), name.get(at)) {
                (None, None) => return true,
                (Some(Unit::Many), _) => {
                    retry = Some((unit, at));
                    unit += 1;
                    continue;
                }
                (Some(this), Some(c)) if this.takes(*c) => {
                    unit += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((star, from)) if from < name.len() => {
                    retry = Some((star, from + 1));
                    unit = star + 1;
                    at = from + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Unit {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Many => false,
            Self::One => true,
            Self::Literal(own) => *own == c,
            Self::Class { negated, ranges } => {
                let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                inside != *negated
            }
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn class(chars: &mut Chars<'_>) -> Result<Unit, Incomplete> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Unit::Class { negated, ranges });
        }
        let low = member(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => member(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn member(chars: &mut Chars<'_>) -> Result<char, Incomplete> {
    match chars.next() {
        None | Some('-' | ']') => Err(Incomplete),
        Some('\\') => chars.next().ok_or(Incomplete),
        Some(c) => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        for (pattern, name, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*b*c*d*e*", "axbxcxdxe", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("[\\]a]", "]", true),
            ("[a-ζ]*", "α", true),
            ("*x", "xxx", true),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            assert_eq!(glob.matches(name), want, "{pattern} {name}");
        }
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[",
        ] {
            assert_eq!(Glob::parse(bad), Err(Incomplete), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn literal_text_matches_itself_alone(text in "[a-z.]{0,12}", other in "[a-z.]{0,12}") {
            let glob = Glob::parse(&text).unwrap();
            proptest::prop_assert_eq!(glob.matches(&other), text == other);
        }
    }
}

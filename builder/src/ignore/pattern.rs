//! One pattern of `.dockerignore`: Go's `filepath.Match` with `**` added.
//!
//! Patterns become a small automaton whose live states are kept as a set, so no pattern costs more
//! than its length for each character of a path.

/// What is wrong with a pattern's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syntax(pub(super) &'static str);

/// A compiled pattern; the first three forms need no automaton.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    Exact(String),
    /// `text**`
    Prefix(String),
    /// `**text`, without the `**`.
    Suffix(String),
    Automaton(Vec<Node>),
}

/// One state: what it takes to go on from it.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Literal(char),
    /// `?`
    One,
    /// `*`: any number of characters that are not `/`.
    Star,
    /// `**` at the end: anything.
    Rest,
    /// `**/` at its beginning: nothing, or the next state.
    Folders,
    /// Inside `**/`: anything up to some `/`.
    InFolders,
    Class(Class),
}

/// `[a-z]`, `[^a-z]`.
#[derive(Debug, Clone)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn contains(&self, c: char) -> bool {
        let inside = self
            .ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&c));
        inside != self.negated
    }
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, Syntax> {
        let nodes = nodes(text)?;
        let plain = |nodes: &[Node]| {
            let chars = nodes.iter().map(|node| match node {
                Node::Literal(c) => Some(*c),
                _ => None,
            });
            chars.collect::<Option<String>>()
        };
        // An escape makes a pattern a true pattern also for moby; here it only spares the shortcut.
        if let Some(exact) = plain(&nodes) {
            return Ok(Self::Exact(exact));
        }
        let suffix = text.strip_prefix("**").filter(|_| !text.contains('\\'));
        if let (Some(suffix), [Node::Folders, Node::InFolders, rest @ ..]) = (suffix, &nodes[..])
            && plain(rest).is_some()
        {
            return Ok(Self::Suffix(suffix.to_owned()));
        }
        if let [start @ .., Node::Rest] = &nodes[..]
            && let Some(prefix) = plain(start)
        {
            return Ok(Self::Prefix(prefix));
        }
        Ok(Self::Automaton(nodes))
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix),
            // `**/a` also matches `a`.
            Self::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Self::Automaton(nodes) => run(nodes, path).last().copied().unwrap_or(false),
        }
    }

    /// Whether some path that starts with `dir` (which ends with `/`) can match.
    pub(super) fn may_match_below(&self, dir: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.starts_with(dir),
            Self::Prefix(prefix) => prefix.starts_with(dir) || dir.starts_with(prefix),
            Self::Suffix(_) => true,
            Self::Automaton(nodes) => {
                let live = run(nodes, dir);
                // The last place is the end of the pattern, from which nothing goes on.
                live.iter().take(nodes.len()).any(|live| *live)
            }
        }
    }
}

/// The live states after a text; one place more than there are nodes, the last being the end.
fn run(nodes: &[Node], text: &str) -> Vec<bool> {
    let mut live = vec![false; nodes.len() + 1];
    reach(nodes, &mut live, 0);
    for c in text.chars() {
        let mut next = vec![false; nodes.len() + 1];
        for (at, node) in nodes.iter().enumerate().filter(|(at, _)| live[*at]) {
            step(nodes, &mut next, (at, node), c);
        }
        live = next;
    }
    live
}

/// Makes a state live, with those that it reaches without a character.
fn reach(nodes: &[Node], live: &mut [bool], mut at: usize) {
    while !live[at] {
        live[at] = true;
        match nodes.get(at) {
            Some(Node::Star | Node::Rest) => at += 1,
            Some(Node::Folders) => {
                live[at + 1] = true;
                at += 2;
            }
            _ => return,
        }
    }
}

/// Where one live state goes with a character.
fn step(nodes: &[Node], next: &mut [bool], (at, node): (usize, &Node), c: char) {
    match node {
        Node::Literal(wanted) if *wanted == c => reach(nodes, next, at + 1),
        Node::One if c != '/' => reach(nodes, next, at + 1),
        Node::Class(class) if class.contains(c) => reach(nodes, next, at + 1),
        Node::Star if c != '/' => reach(nodes, next, at),
        Node::Rest => reach(nodes, next, at),
        Node::InFolders => {
            next[at] = true;
            if c == '/' {
                reach(nodes, next, at + 1);
            }
        }
        _ => {}
    }
}

fn nodes(text: &str) -> Result<Vec<Node>, Syntax> {
    let mut nodes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let behind = rest.get(c.len_utf8()..).unwrap_or_default();
        if let Some(deep) = rest.strip_prefix("**") {
            rest = deep.strip_prefix('/').unwrap_or(deep);
            match rest.is_empty() {
                true => nodes.push(Node::Rest),
                false => nodes.extend([Node::Folders, Node::InFolders]),
            }
            continue;
        }
        rest = behind;
        nodes.push(match c {
            '*' => Node::Star,
            '?' => Node::One,
            '\\' => Node::Literal(take(&mut rest).ok_or(Syntax("it ends with '\\'"))?),
            '[' => Node::Class(class(&mut rest)?),
            c => Node::Literal(c),
        });
    }
    Ok(nodes)
}

fn take(rest: &mut &str) -> Option<char> {
    let c = rest.chars().next()?;
    *rest = rest.get(c.len_utf8()..)?;
    Some(c)
}

/// What follows a `[`, up to and including its `]`.
fn class(rest: &mut &str) -> Result<Class, Syntax> {
    let negated = rest.starts_with('^');
    if negated {
        take(rest);
    }
    let mut ranges = Vec::new();
    while ranges.is_empty() || !rest.starts_with(']') {
        let low = class_char(rest)?;
        let high = match rest.starts_with('-') {
            true => {
                take(rest);
                class_char(rest)?
            }
            false => low,
        };
        if high < low {
            return Err(Syntax("a range in brackets runs backwards"));
        }
        ranges.push((low, high));
    }
    take(rest);
    Ok(Class { negated, ranges })
}

fn class_char(rest: &mut &str) -> Result<char, Syntax> {
    match take(rest) {
        Some('\\') => take(rest).ok_or(Syntax("it ends with '\\'")),
        Some('-' | ']') => Err(Syntax("'-' or ']' in brackets has to be escaped")),
        Some(c) => Ok(c),
        None => Err(Syntax("a '[' is not closed")),
    }
}

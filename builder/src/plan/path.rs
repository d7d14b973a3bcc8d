//! Paths of instructions, by their text alone: what is cleaned here is still resolved beneath a
//! descriptor later.

use super::{Dest, Source};

/// Go's `path.Clean` of an absolute path: no `.`, no `..`, no double slash.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` as seen from a working folder.
pub(crate) fn below(folder: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => clean(path),
        false => clean(&format!("{folder}/{path}")),
    }
}

/// A destination: its trailing slash (or `.`) says that it is a directory.
pub(crate) fn dest(folder: &str, written: &str) -> Dest {
    let directory = written.ends_with('/') || written == "." || written.ends_with("/.");
    Dest {
        path: below(folder, written),
        directory: directory || written == ".." || written.ends_with("/.."),
    }
}

/// A source: relative to its origin whatever it starts with, and never outside of it.
pub(crate) fn source(written: &str) -> Source {
    let path = relative(written);
    Source {
        pattern: is_pattern(&path),
        path,
        below: None,
    }
}

/// A source of `--parents`: the folders behind `/./`, or all of them, are kept.
pub(crate) fn source_with_parents(written: &str) -> Source {
    let (top, below) = match written.split_once("/./") {
        Some((top, below)) => (top, below),
        None => ("/", written),
    };
    Source {
        below: Some(relative(below)),
        ..source(top)
    }
}

/// Whether a path has characters of patterns.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

fn relative(written: &str) -> String {
    let clean = clean(written);
    let path = clean.trim_start_matches('/');
    if path.is_empty() { "." } else { path }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_as_docker_does() {
        for (text, want) in [
            ("", "/"),
            ("/", "/"),
            ("a//b/./c/..", "/a/b"),
            ("../../etc", "/etc"),
            ("/a/b/", "/a/b"),
        ] {
            assert_eq!(clean(text), want, "{text}");
        }
        assert_eq!(below("/w", "x"), "/w/x");
        assert_eq!(below("/w", "/x"), "/x");
        assert_eq!(below("/w", "../x"), "/x");
    }

    #[test]
    fn destinations_know_that_they_are_directories() {
        for (text, path, directory) in [
            ("/a", "/a", false),
            ("/a/", "/a", true),
            (".", "/w", true),
            ("./", "/w", true),
            ("b/.", "/w/b", true),
            ("..", "/", true),
        ] {
            let dest = dest("/w", text);
            assert_eq!((dest.path.as_str(), dest.directory), (path, directory));
        }
    }

    #[test]
    fn sources_stay_inside() {
        assert_eq!(source("../../x").path, "x");
        assert_eq!(source("/").path, ".");
        assert!(source("a/*.c").pattern);
        assert!(!source("a/b").pattern);
    }

    #[test]
    fn a_pivot_says_which_folders_are_kept() {
        for (text, top, below) in [
            ("a/b/c", ".", "a/b/c"),
            ("/a/b/./c/d", "a/b", "c/d"),
            ("./a/b", ".", "a/b"),
            ("a/./b/./c", "a", "b/c"),
            ("a/b/.", ".", "a/b"),
            ("a*/./**/e", "a*", "**/e"),
            ("../../x", ".", "x"),
        ] {
            let source = source_with_parents(text);
            let found = (source.path.as_str(), source.below.as_deref());
            assert_eq!(found, (top, Some(below)), "{text}");
        }
    }
}

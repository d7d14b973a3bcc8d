//! `.dockerignore`: anchoring, re-inclusion, parents, and which folders a walk can skip.

use std::path::Path;

use builder::ignore::{Ignore, IgnoreError};

fn ignore(file: &str) -> Ignore {
    Ignore::parse(file.as_bytes()).unwrap()
}

#[test]
fn paths() {
    for (file, path, expected) in [
        ("a", "a", true),
        ("a", "a/b/c", true),
        ("a", "b/a", false),
        ("/a", "a", true),
        ("a/", "a/b", true),
        ("./a/../b", "b", true),
        ("**/a", "x/y/a", true),
        ("**/a", "a", true),
        ("**/a", "x/ba", false),
        ("*", "a/b", true),
        ("*.md", "a.md", true),
        ("*.md", "d/a.md", false),
        ("**/*.md", "d/e/a.md", true),
        ("d/**", "d", false),
        ("d/**", "d/e", true),
        ("d/**/f", "d/f", true),
        ("d/**/f", "d/x/y/f", true),
        ("d/**/f", "d/xf", false),
        ("?.txt", "a.txt", true),
        ("?.txt", "ab.txt", false),
        ("[a-c].txt", "b.txt", true),
        ("[^a-c].txt", "b.txt", false),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("*\n!a", "a/b", false),
        ("*\n!a\na/b", "a/b", true),
        ("d\n!d/keep", "d/keep", false),
        ("d\n!d/keep", "d/lost", true),
        ("!d/keep\nd", "d/keep", true),
        ("# a\na", "a", true),
        (" # a", "# a", true),
        ("\u{feff}a", "a", true),
        ("a \r\n b\t\r\n", "b", true),
        ("! a\n", "a", false),
        (".", "a", false),
        ("..", "a", false),
        ("/", "a", false),
        ("", "a", false),
        ("ä*", "äx", true),
        ("node_modules\n!**/*.js", "node_modules/x.js", false),
    ] {
        assert_eq!(
            ignore(file).is_ignored(Path::new(path)),
            expected,
            "{file:?} {path}"
        );
    }
}

#[test]
fn folders_that_can_be_skipped() {
    for (file, dir, expected) in [
        ("d", "d", false),
        ("d", "e", true),
        ("d\n!d/a/keep", "d", true),
        ("d\n!d/a/keep", "d/a", true),
        ("d\n!d/a/keep", "d/b", false),
        ("d\n!e", "d", false),
        ("d\n!**/*.js", "d/deep", true),
        ("d\n!d/*.js", "d", true),
        ("d\n!d/*.js", "d/sub", false),
        ("d\n!d/sub/**", "d/sub", true),
        ("d\n!d/sub/**", "d/sub/deeper", true),
        ("d\n!d/*/x/**", "d/other", true),
        ("d\n!dx/y", "d", false),
        ("*\n!src", "src", true),
        ("*\n!src", "target", false),
    ] {
        assert_eq!(
            ignore(file).may_descend(Path::new(dir)),
            expected,
            "{file:?} {dir}"
        );
    }
}

#[test]
fn what_is_no_pattern() {
    for (file, line) in [
        ("!", 1),
        ("a\n! ", 2),
        ("[", 1),
        ("a\n\n[a", 3),
        ("[]a]", 1),
        ("[z-a]", 1),
        ("a\\", 1),
    ] {
        match Ignore::parse(file.as_bytes()) {
            Err(IgnoreError::Pattern { line: at, .. }) => assert_eq!(at, line, "{file:?}"),
            other => panic!("{file:?}: {other:?}"),
        }
    }
}

#[test]
fn patterns_of_exclude_have_no_comments() {
    let exclude = Ignore::from_patterns(["#a", "*.log", "!keep.log"]).unwrap();
    assert!(exclude.is_ignored(Path::new("#a")));
    assert!(exclude.is_ignored(Path::new("x.log")));
    assert!(!exclude.is_ignored(Path::new("keep.log")));
    assert!(Ignore::default().is_empty());
}

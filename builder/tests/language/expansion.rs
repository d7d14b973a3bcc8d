//! Words: values, word lists, the names used, and what cannot be expanded.

use builder::dockerfile::expand::{Lexer, Problem};
use builder::dockerfile::source::Word;

fn env() -> Vec<(String, String)> {
    let pairs = [
        ("x", "old"),
        ("x", "val"),
        ("empty", ""),
        ("two", "a b"),
        ("file", "src/lib/main.tar.gz"),
        ("name", "x"),
        ("ünï", "ok"),
    ];
    let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    owned.to_vec()
}

fn value(text: &str) -> Result<String, Problem> {
    let word = Lexer::new('\\').word(&Word::new(text), &env());
    word.map_err(|error| error.problem)
}

#[test]
fn values() {
    for (text, expected) in [
        ("plain", "plain"),
        ("$x", "val"),
        ("${x}y", "valy"),
        ("$xy", ""),
        ("$x-y", "val-y"),
        ("a$", "a$"),
        ("$", "$"),
        ("$/x", "$/x"),
        ("$1x", "x"),
        ("$ünï", "ok"),
        ("'$x'", "$x"),
        ("\"$x\"", "val"),
        ("\"it's $x\"", "it's val"),
        ("'say \"x\"'", "say \"x\""),
        ("a'b'c\"d\"e", "abcde"),
        ("\\$x", "$x"),
        ("\\\\$x", "\\val"),
        ("\"\\$x\"", "$x"),
        ("\"a\\nb\"", "a\\nb"),
        ("a\\nb", "anb"),
        ("a\\", "a"),
        ("'a\\'", "a\\"),
        ("${x:-w}", "val"),
        ("${empty:-w}", "w"),
        ("${empty-w}", ""),
        ("${none-w}", "w"),
        ("${none:-$x}", "val"),
        ("${none:-${other:-deep}}", "deep"),
        ("${none:-'}'}", "}"),
        ("${x:+w}", "w"),
        ("${empty:+w}", ""),
        ("${empty+w}", "w"),
        ("${none+w}", ""),
        ("${x:?no}", "val"),
        ("${empty?no}", ""),
        ("${file#*/}", "lib/main.tar.gz"),
        ("${file##*/}", "main.tar.gz"),
        ("${file%.*}", "src/lib/main.tar"),
        ("${file%%.*}", "src/lib/main"),
        ("${file##*}", ""),
        ("${file%%*}", ""),
        ("${file#?r?}", "/lib/main.tar.gz"),
        ("${file#nope}", "src/lib/main.tar.gz"),
        ("${file%$none}", "src/lib/main.tar.gz"),
        ("${file/\\//_}", "src_lib/main.tar.gz"),
        ("${file//\\//_}", "src_lib_main.tar.gz"),
        ("${file/*\\/}", "never"),
        ("${file//a*/X}", "src/lib/mX"),
        ("${two// /}", "ab"),
        ("<<EOF", "<<EOF"),
    ] {
        match value(text) {
            Ok(value) => assert_eq!(value, expected, "{text}"),
            // The one row that lacks its second slash.
            Err(problem) => assert_eq!((expected, &problem), ("never", &Problem::UnclosedPattern)),
        }
    }
}

#[test]
fn what_cannot_be_expanded() {
    for (text, expected) in [
        ("'a", "a ' quote is not closed"),
        ("\"a", "a \" quote is not closed"),
        ("${x", "is not closed"),
        ("${", "is not closed"),
        ("${}", "bad substitution"),
        ("${{x}}", "bad substitution"),
        ("${:x}", "bad substitution"),
        ("${x=y}", "unsupported modifier \"=\""),
        ("${x:=y}", "unsupported modifier \":=\""),
        ("${x:#y}", "unsupported modifier \":#\""),
        ("${none:?set me}", "none: set me"),
        ("${none?}", "none: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${x#\\d}", "escapes Some('d')"),
    ] {
        let problem = value(text).unwrap_err().to_string();
        assert!(problem.contains(expected), "{text}: {problem}");
    }
}

#[test]
fn nesting_and_growth_are_bounded() {
    let deep = format!("{}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
    assert_eq!(value(&deep).unwrap_err(), Problem::TooDeep);
    let large = [("a".to_owned(), "y".repeat(1024 * 1024))];
    let word = Word::new("$a$a$a$a$a$a$a$a");
    let error = Lexer::new('\\').word(&word, &large[..]).unwrap_err();
    assert_eq!(error.problem, Problem::TooLong);
}

#[test]
fn words_are_split_behind_the_substitution() {
    let lexer = Lexer::new('\\');
    for (text, expected) in [
        ("a b", vec!["a", "b"]),
        ("$two", vec!["a", "b"]),
        ("\"$two\"", vec!["a b"]),
        ("c$two", vec!["ca", "b"]),
        ("a\\ b", vec!["a b"]),
        ("c${none:-x y}d", vec!["cx", "yd"]),
        ("", vec![]),
        ("$none", vec![]),
    ] {
        assert_eq!(
            lexer.words(&Word::new(text), &env()).unwrap(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn the_other_escape_character() {
    let lexer = Lexer::new('`');
    for (text, expected) in [
        ("c:\\$x", "c:\\val"),
        ("`$x", "$x"),
        ("\"`\"\"", "\""),
        ("a`", "a"),
    ] {
        assert_eq!(
            lexer.word(&Word::new(text), &env()).unwrap(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn names_are_told() {
    let word = Word::new("$x ${none:-$gone} '$quiet'");
    let expanded = Lexer::new('\\').expand(&word, &env()).unwrap();
    assert_eq!(expanded.value, "val  $quiet");
    assert_eq!(expanded.used.into_iter().collect::<Vec<_>>(), ["x"]);
    assert_eq!(
        expanded.missing.into_iter().collect::<Vec<_>>(),
        ["gone", "none"]
    );
}

#[test]
fn quotes_of_a_heredoc_are_plain() {
    let body = Lexer::heredoc("it's \"$x\" \\$x\n", &env()).unwrap();
    assert_eq!(body, "it's \"val\" $x\n");
}

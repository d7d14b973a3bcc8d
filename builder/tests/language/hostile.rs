//! Whatever the bytes are, there is an answer and no panic.

use std::path::Path;

use builder::dockerfile::expand::Lexer;
use builder::dockerfile::instruction::Kind;
use builder::dockerfile::source::Word;
use builder::dockerfile::{self};
use builder::ignore::Ignore;
use proptest::prelude::*;

/// Pieces that make a Dockerfile more likely than random bytes do.
fn piece() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "FROM a",
        "RUN ",
        "COPY ",
        "ADD ",
        "ONBUILD ",
        "ENV ",
        "HEALTHCHECK ",
        "SHELL ",
        "ARG ",
        "--mount=",
        "--from=",
        "--interval=1",
        "type=cache,",
        "<<EOF",
        "<<-'E'",
        "EOF",
        "E",
        "\n",
        "\r\n",
        "\\\n",
        "\\",
        "`",
        "# escape=`\n",
        "# ",
        "\"",
        "'",
        "[",
        "]",
        ",",
        "$",
        "${",
        "}",
        ":-",
        "/",
        "%",
        "#",
        " ",
        "\t",
        "=",
        "é",
        "\u{feff}",
        "\u{a0}",
    ];
    prop_oneof![
        4 => prop::sample::select(KNOWN).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..40).prop_map(|pieces| pieces.concat())
}

fn check(bytes: &[u8]) {
    match dockerfile::parse(bytes) {
        Err(error) => {
            let report = error.report();
            assert!(report.line >= 1 && report.column >= 1);
            assert!(!error.to_string().is_empty());
        }
        Ok(file) => {
            for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                assert!(instruction.range.start <= instruction.range.end);
                if let Kind::Run(run) = &instruction.kind {
                    let _started = run.invocation();
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn dockerfile_like_text(text in text()) {
        check(format!("FROM a\n{text}").as_bytes());
        check(text.as_bytes());
    }

    #[test]
    fn any_word(text in text(), value in ".*") {
        let env = [("a".to_owned(), value)];
        for escape in ['\\', '`'] {
            let lexer = Lexer::new(escape);
            let word = Word::new(text.clone());
            let expanded = lexer.word(&word, &env[..]);
            let words = lexer.words(&word, &env[..]);
            prop_assert_eq!(expanded.is_ok(), words.is_ok());
        }
    }

    #[test]
    fn a_word_without_special_characters_is_itself(text in "[a-z0-9 /.:=-]*") {
        prop_assert_eq!(Lexer::new('\\').word(&Word::new(text.clone()), &()).unwrap(), text);
    }

    #[test]
    fn single_quotes_protect_everything(text in "[^']*") {
        let quoted = Word::new(format!("'{text}'"));
        prop_assert_eq!(Lexer::new('\\').word(&quoted, &()).unwrap(), text);
    }

    /// If a walk may skip a folder, nothing below it is wanted.
    #[test]
    fn skipped_folders_hold_nothing_wanted(
        file in "([!]?[ab*?/]{1,6}\n){0,5}",
        dir in "[ab](/[ab]){0,2}",
        below in "[ab](/[ab]){0,2}",
    ) {
        if let Ok(ignore) = Ignore::parse(file.as_bytes())
            && !ignore.may_descend(Path::new(&dir))
        {
            let path = format!("{dir}/{below}");
            prop_assert!(ignore.is_ignored(Path::new(&path)), "{:?} {}", file, path);
        }
    }

    #[test]
    fn any_ignore_file(file in prop::collection::vec(any::<u8>(), 0..200), path in ".*") {
        if let Ok(ignore) = Ignore::parse(&file) {
            let path = Path::new(&path);
            prop_assert!(ignore.is_ignored(path) || ignore.may_descend(path));
        }
    }
}

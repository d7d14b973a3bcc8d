//! Each mistake with its place, the offending text, the message and the hint.

use builder::dockerfile::{self, DockerfileError};

fn error(input: &str) -> DockerfileError {
    match dockerfile::parse(input.as_bytes()) {
        Err(error) => error,
        Ok(file) => panic!("{input:?} was accepted: {file:?}"),
    }
}

/// Input, line, column, offending text, a part of the message, a part of the hint.
type Row = (
    &'static str,
    u32,
    u32,
    &'static str,
    &'static str,
    &'static str,
);

#[test]
fn mistakes() {
    let rows: &[Row] = &[
        (
            "FROM a\nRUNN x\n",
            2,
            1,
            "RUNN",
            "unknown instruction \"RUNN\"",
            "did you mean RUN?",
        ),
        (
            "FROM a\n  copi x y\n",
            2,
            3,
            "copi",
            "unknown instruction",
            "did you mean COPY?",
        ),
        (
            "FROM a\nINSTALL x\n",
            2,
            1,
            "INSTALL",
            "unknown instruction",
            "",
        ),
        (
            "FROM a\nCOPY --chwon=1 a b\n",
            2,
            6,
            "--chwon=1",
            "COPY has no flag \"chwon\"",
            "did you mean --chown?",
        ),
        (
            "FROM a\nCOPY --from=x \\\n  --lnk a b\n",
            3,
            3,
            "--lnk",
            "no flag \"lnk\"",
            "--link",
        ),
        (
            "FROM a\nRUN --privileged x\n",
            2,
            5,
            "--privileged",
            "RUN has no flag",
            "it takes --mount, --network",
        ),
        (
            "FROM a\nUSER --x y\n",
            2,
            6,
            "--x",
            "USER has no flag",
            "it takes no flags",
        ),
        ("FROM a\nARG --x y\n", 2, 5, "--x", "ARG has no flag", ""),
        (
            "FROM a\nCOPY --link=maybe a b\n",
            2,
            6,
            "--link=maybe",
            "true or false, not \"maybe\"",
            "",
        ),
        (
            "FROM a\nCOPY --from a b\n",
            2,
            6,
            "--from",
            "--from needs a value",
            "",
        ),
        (
            "FROM a\nCOPY --from=a --from=b c d\n",
            2,
            15,
            "--from=b",
            "given twice",
            "",
        ),
        (
            "FROM a\nCOPY --from=$x c d\n",
            2,
            6,
            "$x",
            "--from of COPY takes no variables",
            "FROM $x AS",
        ),
        (
            "FROM a\nCOPY a\n",
            2,
            1,
            "COPY",
            "a source and a destination",
            "",
        ),
        (
            "FROM a\nADD [\"a\"]\n",
            2,
            1,
            "ADD",
            "a source and a destination",
            "",
        ),
        (
            "FROM a\nCOPY [1, \"b\"]\n",
            2,
            6,
            "[1, \"b\"]",
            "not a string",
            "",
        ),
        (
            "FROM a\nCMD [[\"a\"]]\n",
            2,
            5,
            "[[\"a\"]]",
            "not a string",
            "",
        ),
        ("FROM a b\n", 1, 1, "FROM", "an image, AS and a name", ""),
        (
            "FROM a AS 1x\n",
            1,
            11,
            "1x",
            "cannot name a build stage",
            "starts with a letter",
        ),
        ("FROM\n", 1, 1, "FROM", "needs an image", ""),
        (
            "RUN x\nFROM a\n",
            1,
            1,
            "RUN x",
            "RUN stands before the first FROM",
            "",
        ),
        ("ARG a\n", 1, 1, "", "no FROM", ""),
        ("", 1, 1, "", "no instructions", ""),
        ("# only\n\n", 2, 1, "", "no instructions", ""),
        ("FROM a\nENV a\n", 2, 1, "ENV", "a name and a value", ""),
        (
            "FROM a\nENV a=1 b\n",
            2,
            9,
            "b",
            "has no '='",
            "quote a value",
        ),
        ("FROM a\nENV =1\n", 2, 5, "=1", "empty", ""),
        ("FROM a\nARG =1\n", 2, 5, "=1", "empty", ""),
        (
            "FROM a\nLABEL\n",
            2,
            1,
            "LABEL",
            "at least one argument",
            "",
        ),
        (
            "FROM a\nSHELL bash -c\n",
            2,
            7,
            "bash -c",
            "JSON array",
            "/bin/bash",
        ),
        (
            "FROM a\nSHELL []\n",
            2,
            1,
            "SHELL",
            "at least one argument",
            "",
        ),
        (
            "FROM a\nVOLUME [\"\"]\n",
            2,
            1,
            "VOLUME",
            "no empty one",
            "",
        ),
        (
            "FROM a\nRUN cat <<EOF\nx\n",
            2,
            9,
            "<<EOF",
            "heredoc \"EOF\" is not closed",
            "a line with only EOF",
        ),
        (
            "FROM a\nCOPY << EOF /d\nx\nEOF\n",
            2,
            6,
            "<<EOF",
            "is not one of COPY's sources",
            "without a space",
        ),
        (
            "FROM a\nCOPY a <<EOF\nEOF\n",
            2,
            8,
            "<<EOF",
            "heredoc as its destination",
            "",
        ),
        (
            "FROM a\nONBUILD FROM b\n",
            2,
            9,
            "FROM",
            "cannot be an ONBUILD trigger",
            "",
        ),
        (
            "FROM a\nONBUILD ONBUILD RUN x\n",
            2,
            9,
            "ONBUILD",
            "cannot be an ONBUILD trigger",
            "",
        ),
        (
            "FROM a\nONBUILD RUN --nope x\n",
            2,
            13,
            "--nope",
            "RUN has no flag",
            "",
        ),
        (
            "FROM a\nHEALTHCHECK\n",
            2,
            1,
            "HEALTHCHECK",
            "CMD or NONE",
            "",
        ),
        (
            "FROM a\nHEALTHCHECK TCP 80\n",
            2,
            13,
            "TCP",
            "unknown type",
            "CMD or NONE",
        ),
        (
            "FROM a\nHEALTHCHECK --interval=5 CMD x\n",
            2,
            13,
            "--interval=5",
            "a duration",
            "",
        ),
        (
            "FROM a\nHEALTHCHECK --retries=-1 CMD x\n",
            2,
            13,
            "--retries=-1",
            "not negative",
            "",
        ),
        (
            "FROM a\nRUN --network=bridge x\n",
            2,
            5,
            "--network=bridge",
            "default, none or host",
            "",
        ),
        (
            "FROM a\nRUN --security=none x\n",
            2,
            5,
            "--security=none",
            "sandbox or insecure",
            "",
        ),
        (
            "FROM a\nRUN --mount=type=bnd,target=/x y\n",
            2,
            5,
            "--mount=type=bnd,target=/x",
            "mount type \"bnd\"",
            "did you mean bind?",
        ),
        (
            "FROM a\nRUN --mount=type=cache,traget=/x y\n",
            2,
            5,
            "--mount=type=cache,traget=/x",
            "\"traget\" is not known",
            "did you mean target?",
        ),
        (
            "FROM a\nRUN --mount=from=$x,target=/x y\n",
            2,
            5,
            "--mount=from=$x,target=/x",
            "takes no variables",
            "",
        ),
        (
            "FROM a\nRUN --mount=type=bind,size=1,target=/x y\n",
            2,
            5,
            "--mount=type=bind,size=1,target=/x",
            "means nothing for type bind",
            "",
        ),
        (
            "FROM a\nRUN --mount=type=secret y\n",
            2,
            5,
            "--mount=type=secret",
            "needs an id",
            "",
        ),
        (
            "# escape=x\nFROM a\n",
            1,
            1,
            "# escape=x",
            "escape character \"x\"",
            "",
        ),
        (
            "# escape=`\n# escape=\\\nFROM a\n",
            2,
            1,
            "# escape=\\",
            "escape is given twice",
            "",
        ),
    ];
    for (input, line, column, text, message, hint) in rows {
        let report = error(input).report();
        assert_eq!(
            (report.line, report.column),
            (*line, *column),
            "{input:?} {report:?}"
        );
        assert_eq!(report.text, *text, "{input:?} {report:?}");
        assert!(report.message.contains(message), "{input:?} {report:?}");
        let given = report.hint.unwrap_or_default();
        assert!(given.contains(hint), "{input:?} {given}");
    }
}

#[test]
fn an_error_reads_as_one_line() {
    let shown = error("FROM a\n  RUNN x\n").to_string();
    assert_eq!(shown, "unknown instruction \"RUNN\" (did you mean RUN?)");
}

#[test]
fn latin1_is_refused_outside_comments() {
    let in_comment = dockerfile::parse(b"# caf\xe9\nFROM a\nRUN x \\\n# \xe9\n y\n");
    assert_eq!(in_comment.unwrap().stages[0].instructions.len(), 1);
    let error = dockerfile::parse(b"FROM a\nRUN caf\xe9\n").unwrap_err();
    assert_eq!(error.to_string(), "the line is not UTF-8");
}

#[test]
fn sizes_are_bounded() {
    let bytes = vec![b'#'; 5 * 1024 * 1024];
    let error = dockerfile::parse(&bytes).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
    let error = dockerfile::parse("\n".repeat(100_001).as_bytes()).unwrap_err();
    assert!(error.to_string().contains("lines"), "{error}");
}

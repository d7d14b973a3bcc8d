//! Which stage a name or a number means.

use builder::dockerfile::stages::{Reference, ReferenceError};
use builder::dockerfile::{self, Dockerfile, instruction::Kind};

fn file() -> Dockerfile {
    let text = "FROM a AS Base\nFROM base AS two\nFROM x AS base\nFROM two\n";
    dockerfile::parse(text.as_bytes()).unwrap()
}

#[test]
fn bases() {
    let file = file();
    assert_eq!(file.base(1, "BASE"), Reference::Stage(0));
    assert_eq!(file.base(3, "base"), Reference::Stage(2));
    assert_eq!(file.base(0, "base"), Reference::External("base"));
    assert_eq!(file.base(3, "0"), Reference::External("0"));
}

#[test]
fn sources() {
    let file = file();
    assert_eq!(file.source(3, "two"), Ok(Reference::Stage(1)));
    assert_eq!(file.source(3, "2"), Ok(Reference::Stage(2)));
    assert_eq!(
        file.source(3, "alpine:3"),
        Ok(Reference::External("alpine:3"))
    );
    for (current, reference) in [(1, "1"), (1, "two"), (0, "two"), (1, "3")] {
        let error = file.source(current, reference).unwrap_err();
        assert!(
            matches!(error, ReferenceError::NotEarlier { .. }),
            "{error}"
        );
    }
    let error = file.source(1, "9").unwrap_err();
    assert_eq!(error.to_string(), "there is no stage \"9\"");
}

#[test]
fn targets() {
    let file = file();
    assert_eq!(file.target(None), Ok(3));
    assert_eq!(file.target(Some("Two")), Ok(1));
    assert_eq!(file.target(Some("base")), Ok(2));
    assert_eq!(file.target(Some("0")), Ok(0));
    assert!(file.target(Some("four")).is_err());
    assert!(file.target(Some("4")).is_err());
}

#[test]
fn triggers_come_back_from_a_configuration() {
    let text = "FROM a\nONBUILD RUN <<EOF\necho $x\nEOF\nONBUILD COPY --from=b /x /y\n";
    let file = dockerfile::parse(text.as_bytes()).unwrap();
    for instruction in &file.stages[0].instructions {
        let Kind::Onbuild(onbuild) = &instruction.kind else {
            panic!("{instruction:?}");
        };
        let again = dockerfile::trigger(&onbuild.expression).unwrap();
        assert_eq!(again.kind, onbuild.instruction.kind);
    }
    for refused in ["", "FROM a", "RUN a\nRUN b", "NOPE", "ONBUILD RUN x"] {
        assert!(dockerfile::trigger(refused).is_err(), "{refused:?}");
    }
}

//! Build checks: one folder for each case, a Dockerfile and perhaps an ignore file, and what is told.
//!
//! A first line `#! NAME=value …` of `given` are build arguments. `UPDATE_EXPECT=1 cargo test -p builder
//! --test language checks` writes the expected files anew; read the difference before committing it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use builder::dockerfile;
use builder::ignore::Ignore;
use builder::lint::options::Options;
use builder::lint::rule::Rule;
use builder::lint::{Known, check};
use builder::plan::scope::Given;

use crate::golden::{agree, cases};

fn told(case: &Path) -> (String, BTreeSet<Rule>) {
    let file = dockerfile::parse(&fs::read(case.join("Dockerfile")).unwrap()).unwrap();
    let ignore = fs::read(case.join("dockerignore")).ok();
    let ignore = ignore.map(|text| Ignore::parse(&text).unwrap());
    let mut given = Given::default();
    given
        .platforms
        .insert("TARGETPLATFORM".into(), "linux/amd64".into());
    given
        .platforms
        .insert("BUILDPLATFORM".into(), "linux/amd64".into());
    for pair in fs::read_to_string(case.join("given"))
        .unwrap_or_default()
        .lines()
    {
        let (name, value) = pair.split_once('=').unwrap();
        given.build_args.insert(name.into(), value.into());
    }
    let text = given.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    let text = text.or(file.directives.check.as_ref());
    let options = Options::parse(text.map_or("", String::as_str)).unwrap();
    let known = Known {
        given: &given,
        ignore: ignore.as_ref(),
        bases: &BTreeMap::new(),
    };
    let warnings = check(&file, &options, &known);
    let lines = warnings
        .iter()
        .map(|warning| warning.shown("Dockerfile") + "\n");
    (
        lines.collect(),
        warnings.iter().map(|warning| warning.rule).collect(),
    )
}

#[test]
fn checks() {
    let mut seen = BTreeSet::new();
    for case in cases("tests/checks", 40) {
        let (actual, rules) = told(&case);
        agree(&case, &actual);
        seen.extend(rules);
    }
    let never: Vec<Rule> = Rule::ALL
        .into_iter()
        .filter(|rule| !seen.contains(rule))
        .collect();
    assert_eq!(never, [], "rules that no case has");
}

//! Variables: used and not set, and secrets in them.

use std::collections::BTreeSet;

use crate::dockerfile::instruction::Kind;
use crate::dockerfile::suggest::closest;

use super::Findings;
use super::rule::Rule;
use super::survey::{MAX_KNOWN, Step, Survey, words};

/// A name is suspicious if one of its parts is.
const SECRET: &[&str] = &[
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
/// Unless another part says that it is no secret.
const PUBLIC: &[&str] = &["public", "file", "version"];

pub(super) fn check(survey: &Survey<'_>, found: &mut Findings) {
    survey.walk(&mut |step| {
        undefined(survey, step, found);
        secrets(step, found);
    });
}

fn undefined(survey: &Survey<'_>, step: &Step<'_, '_>, found: &mut Findings) {
    if !step.scope.is_complete {
        return;
    }
    let mut told = BTreeSet::new();
    for word in words(&step.instruction.kind) {
        if found.is_full() {
            return;
        }
        let Ok(expanded) = survey.lexer.expand(word, step.scope) else {
            continue;
        };
        for name in step.scope.unknown(&expanded) {
            // One word may have a million names, and each is compared with a thousand.
            if found.is_full() {
                return;
            }
            if !told.insert(name.to_owned()) {
                continue;
            }
            let known: Vec<&str> = step.scope.names().take(MAX_KNOWN).collect();
            let hint = match closest(name, &known) {
                Some(near) => format!(" (did you mean ${near}?)"),
                None => String::new(),
            };
            let message = format!("nothing sets the variable ${name}{hint}");
            found.about(Rule::UndefinedVar, step.instruction, word.raw(), message);
        }
    }
}

fn secrets(step: &Step<'_, '_>, found: &mut Findings) {
    let (keyword, names): (_, Vec<&str>) = match &step.instruction.kind {
        Kind::Env(pairs) => ("ENV", pairs.iter().map(|pair| pair.key.raw()).collect()),
        Kind::Arg(args) => ("ARG", args.iter().map(|arg| arg.name.raw()).collect()),
        _ => return,
    };
    for name in names.into_iter().filter(|name| is_secret(name)) {
        if found.is_full() {
            return;
        }
        let message = format!(
            "{keyword} {name} would keep a secret in the image; mount it with RUN --mount=type=secret"
        );
        found.about(Rule::SecretsUsedInArgOrEnv, step.instruction, name, message);
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let has = |list: &[&str]| name.split('_').any(|part| list.contains(&part));
    has(SECRET) && !has(PUBLIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        for (name, secret) in [
            ("API_KEY", true),
            ("github_token", true),
            ("AUTH", true),
            ("PASSWORD_FILE", false),
            ("PUBLIC_KEY", false),
            ("TOKEN_VERSION", false),
            ("MONKEY", false),
            ("KEYS", false),
            ("AUTHOR", false),
        ] {
            assert_eq!(is_secret(name), secret, "{name}");
        }
    }
}

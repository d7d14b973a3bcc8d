//! Build arguments with passwords in their values, which the history shows as BuildKit's does. The
//! check `SecretsUsedInArgOrEnv` goes by names alone.

use unpacker::progress::Event;

use crate::plan::Plan;
use crate::request::{BuildRequest, Env};

/// Tells of each such argument once, where it is seen first, without its value.
pub(super) fn warn(env: &Env<'_>, request: &BuildRequest, plan: &Plan) {
    let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
    for (name, value) in &request.build_args {
        if !has_password(value) {
            continue;
        }
        let mut steps = steps.clone();
        let shows = |text: &String| text.contains(value.as_str());
        if let Some(step) = steps.find(|step| step.created_by.as_ref().is_some_and(shows)) {
            let text = format!(
                "{}: the value of the argument {name} has a password, and stays in the image's history; \
                 give it as a secret (RUN --mount=type=secret)",
                step.place
            );
            env.progress.event(Event::Warning { text });
        }
    }
}

/// Whether a text has an address with `user:password@`.
fn has_password(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let end = rest.find(|c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace());
        let authority = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        let password = user.and_then(|user| user.split_once(':'));
        password.is_some_and(|(_, password)| !password.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses() {
        for text in [
            "https://user:hush@h/x",
            "https://:hush@h",
            "postgres://u:a@b@h:5432/db?x",
            "https://h/a git+ssh://u:p@h",
        ] {
            assert!(has_password(text), "{text}");
        }
        for text in [
            "",
            "https://h:8080/a@b",
            "https://user@h",
            "https://user:@h",
            "git@h:a/b",
            "https://h/x?u=a:b@c",
            "a:b@c",
        ] {
            assert!(!has_password(text), "{text}");
        }
    }
}

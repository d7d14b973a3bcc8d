//! Which credential is found, in which order, and what is never shown.

use super::*;

fn document(from: &str, text: &str) -> Document {
    Document {
        from: from.to_owned(),
        text: Secret::new(text),
    }
}

/// The first candidate in a short form: `user:password@from`, `helper:program:server`, …
fn first(host: &str, repository: &str, env: &[(&str, &str)], dotenv: &str, file: &str) -> String {
    let lookup = |name: &str| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let sources = Sources {
        env: &lookup,
        dotenv: &[document(".env", dotenv)],
        files: &[document("config.json", file)],
    };
    match find(host, repository, &sources).map(|s| s.candidates.into_iter().next()) {
        Ok(Some(candidate)) => short(&candidate),
        Ok(None) => "none".to_owned(),
        Err(error) => format!("error: {error}"),
    }
}

fn short(candidate: &Candidate) -> String {
    match candidate {
        Candidate::Ready { credential, from } => match credential {
            Credential::Basic { username, password } => {
                format!("{username}:{}@{from}", password.expose())
            }
            Credential::IdentityToken(token) => format!("identity:{}@{from}", token.expose()),
            Credential::Bearer(token) => format!("bearer:{}@{from}", token.expose()),
        },
        Candidate::Helper { name, server, .. } => format!("helper:{}:{server}", name.program()),
        Candidate::EcrLogin { region } => format!("ecr:{region}"),
        Candidate::JsonKey { path } => format!("key:{path}"),
    }
}

const ENV: &[(&str, &str)] = &[("DOCKER_USERNAME", "eve"), ("DOCKER_PASSWORD", "pw")];
// "me:secret:with:colons" and "org:inner".
const FILE: &str = r#"{
  "auths": {
    "https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0OndpdGg6Y29sb25z"},
    "quay.io": {"auth": "bWU6c2VjcmV0OndpdGg6Y29sb25z"},
    "quay.io/org": {"auth": "b3JnOmlubmVy"},
    "id.example": {"auth": "", "identitytoken": "refresh"},
    "reg.example": {"registrytoken": "direct"},
    "plain.example:5000": {"username": "u", "password": "p"},
    "empty.example": {},
    "broken.example": {"auth": "%%%"}
  },
  "credHelpers": {"helped.example": "secretservice", "evil.example": "../../bin/sh"},
  "HttpHeaders": {"X": "kept out of our business"}
}"#;

#[test]
fn places_are_asked_in_order() {
    let dotenv = "DOCKER_USERNAME=dot\nDOCKER_PASSWORD='p w'\n";
    for (host, env, dotenv, expected) in [
        ("docker.io", ENV, dotenv, "eve:pw@the environment"),
        ("docker.io", &[][..], dotenv, "dot:p w@.env"),
        ("docker.io", &[], "", "me:secret:with:colons@config.json"),
        (
            "docker.io",
            &[("DOCKER_USERNAME", "eve")],
            "",
            "me:secret:with:colons@config.json",
        ),
        ("registry-1.docker.io", ENV, "", "eve:pw@the environment"),
    ] {
        assert_eq!(first(host, "library/a", env, dotenv, FILE), expected);
    }
}

#[test]
fn a_password_of_the_environment_is_for_its_registry_only() {
    let mut env = ENV.to_vec();
    assert_eq!(first("localhost:5000", "a", &env, "", "{}"), "none");
    env.push(("DOCKER_REGISTRY", "https://localhost:5000/v2/"));
    let found = first("localhost:5000", "a", &env, "", "{}");
    assert_eq!(found, "eve:pw@the environment");
    assert_eq!(first("docker.io", "a", &env, "", "{}"), "none");
}

#[test]
fn entries_of_the_files() {
    for (host, repository, expected) in [
        ("quay.io", "org/app", "org:inner@config.json"),
        (
            "quay.io",
            "organic/app",
            "me:secret:with:colons@config.json",
        ),
        ("id.example", "a", "identity:refresh@config.json"),
        ("reg.example", "a", "bearer:direct@config.json"),
        ("plain.example:5000", "a", "u:p@config.json"),
        ("plain.example", "a", "none"),
        ("empty.example", "a", "none"),
        (
            "helped.example",
            "a",
            "helper:docker-credential-secretservice:helped.example",
        ),
        (
            "broken.example",
            "a",
            "error: the entry \"broken.example\" of config.json has an auth field that is not \
             base64 of user:password",
        ),
        (
            "evil.example",
            "a",
            "error: \"../../bin/sh\" in config.json is not the name of a credential helper",
        ),
    ] {
        assert_eq!(first(host, repository, &[], "", FILE), expected);
    }
}

#[test]
fn a_store_for_all_is_asked_with_dockers_address() {
    let file = r#"{"credsStore": "pass"}"#;
    for (host, server) in [
        ("docker.io", "https://index.docker.io/v1/"),
        ("ghcr.io", "ghcr.io"),
    ] {
        let expected = format!("helper:docker-credential-pass:{server}");
        assert_eq!(first(host, "a", &[], "", file), expected);
    }
}

#[test]
fn clouds_come_last_and_only_for_their_hosts() {
    let env = &[
        ("GITHUB_TOKEN", "ght"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/k.json"),
    ];
    let ecr = "123.dkr.ecr.eu-west-1.amazonaws.com";
    for (host, expected) in [
        ("ghcr.io", "x-access-token:ght@GITHUB_TOKEN"),
        ("gcr.io", "key:/k.json"),
        ("eu-docker.pkg.dev", "key:/k.json"),
        (ecr, "ecr:eu-west-1"),
        ("evil.dkr.ecr.x.amazonaws.com", "none"),
        ("ghcr.io.evil.example", "none"),
        ("notgcr.io", "none"),
    ] {
        assert_eq!(first(host, "a", env, "", ""), expected);
    }
}

#[test]
fn errors_and_debug_output_keep_secrets() {
    let broken = document("config.json", r#"{"auths": {"a": {"auth": "c2VjcmV0" "#);
    let nothing = |_: &str| None;
    let sources = Sources {
        env: &nothing,
        dotenv: &[],
        files: &[broken],
    };
    let shown = format!("{:?} {sources:?}", find("a", "b", &sources));
    assert!(shown.contains("Json"), "{shown}");
    assert!(!shown.contains("c2VjcmV0"), "{shown}");
    let shown = format!("{:?}", Credential::basic("me", "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
    let file = docker::AuthFile::parse("f", FILE);
    assert!(!format!("{file:?}").contains("refresh"));
}

#[test]
fn helpers_answers() {
    use helper::{parse_answer, says_not_found};
    let basic = parse_answer(br#"{"ServerURL":"s","Username":"u","Secret":"p"}"#);
    assert_eq!(basic, Ok(Some(Credential::basic("u", "p"))));
    let token = parse_answer(br#"{"Username":"<token>","Secret":"t"}"#);
    assert_eq!(token, Ok(Some(Credential::IdentityToken(Secret::new("t")))));
    assert_eq!(parse_answer(br#"{"Username":"","Secret":""}"#), Ok(None));
    assert!(parse_answer(b"nonsense").is_err());
    assert!(says_not_found(
        b"credentials not found in native keychain\n"
    ));
    assert!(!says_not_found(b"gpg: no key"));
}

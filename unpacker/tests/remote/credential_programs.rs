//! Credential helpers as programs, and files as docker leaves them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::credentials::{Credential, Secret};
use unpacker::remote::credentials::{Answer, Credentials, Machine};
use unpacker::remote::login::Keeper;

fn program(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn machine(home: &Path, config: &str) -> Machine {
    fs::create_dir_all(home.join(".docker")).unwrap();
    fs::write(home.join(".docker/config.json"), config).unwrap();
    let shown = home.display();
    let variables = HashMap::from([
        ("HOME", shown.to_string()),
        ("PATH", format!("{shown}/bin:/usr/bin:/bin")),
    ]);
    let env = Arc::new(move |name: &str| variables.get(name).cloned());
    Machine::with_env(env, vec![home.to_owned()])
}

async fn find(machine: &Machine, host: &str) -> Answer {
    machine.find(host, "a/b").await.unwrap()
}

#[tokio::test]
async fn a_helper_gets_the_server_on_its_input() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = r#"test "$*" = get || exit 3
read server
printf '{"ServerURL":"%s","Username":"for-%s","Secret":"s3cr3t"}' "$server" "$server""#;
    program(&bin, "docker-credential-good", script);
    program(&bin, "docker-credential-bad", "echo s3cr3t >&2; exit 9");
    let none = "echo credentials not found in native keychain; exit 1";
    program(&bin, "docker-credential-none", none);
    let config = r#"{
      "credHelpers": {"good.example": "good", "bad.example": "bad", "none.example": "none",
                      "absent.example": "absent"},
      "auths": {"bad.example": {"username": "u", "password": "p"}}
    }"#;
    let machine = machine(home.path(), config);
    let good = find(&machine, "good.example").await;
    let expected = Credential::basic("for-good.example", "s3cr3t");
    assert_eq!(good.credential, Some(expected));
    assert!(good.from.starts_with("docker-credential-good (named in "));
    // A broken helper is noted, and the next place is asked.
    let bad = find(&machine, "bad.example").await;
    assert_eq!(bad.credential, Some(Credential::basic("u", "p")));
    let noted = bad.looked.join(" ");
    assert!(noted.contains("docker-credential-bad (failed with exit status: 9)"));
    assert!(!format!("{good:?}{bad:?}").contains("s3cr3t"));
    let none = find(&machine, "none.example").await;
    assert_eq!(none.credential, None);
    let absent = find(&machine, "absent.example").await;
    assert_eq!(absent.credential, None);
    let noted = absent.looked.join(" ");
    assert!(
        noted.contains("docker-credential-absent (cannot be run"),
        "{noted}"
    );
}

#[tokio::test]
async fn files_of_the_project_come_before_dockers() {
    let home = tempfile::tempdir().unwrap();
    let config =
        r#"{"auths": {"https://index.docker.io/v1/": {"username": "u", "password": "p"}}}"#;
    let machine = machine(home.path(), config);
    let docker = find(&machine, "docker.io").await;
    assert_eq!(docker.credential, Some(Credential::basic("u", "p")));
    let dotenv = "DOCKER_USERNAME=dot\nDOCKER_PASSWORD=env\n";
    fs::write(home.path().join(".env"), dotenv).unwrap();
    let project = find(&machine, "docker.io").await;
    assert_eq!(project.credential, Some(Credential::basic("dot", "env")));
    assert!(project.from.ends_with("/.env"), "{}", project.from);
}

#[tokio::test]
async fn a_broken_file_is_an_error_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let machine = machine(home.path(), "{\"auths\": {\n  oops");
    let error = machine.find("docker.io", "a").await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(".docker/config.json is not JSON"), "{said}");
    assert!(said.contains("line 2"), "{said}");
}

#[tokio::test]
async fn a_helper_that_hangs_is_not_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    program(&bin, "docker-credential-slow", "exec sleep 600");
    let config =
        r#"{"credsStore": "slow", "auths": {"a.example": {"username": "u", "password": "p"}}}"#;
    let mut machine = machine(home.path(), config);
    machine.patience = Duration::from_millis(200);
    let found = tokio::time::timeout(Duration::from_secs(60), find(&machine, "a.example")).await;
    let found = found.expect("an answer long before the helper's");
    assert_eq!(found.credential, Some(Credential::basic("u", "p")));
    let noted = found.looked.join(" ");
    assert!(
        noted.contains("docker-credential-slow (no answer within"),
        "{noted}"
    );
}

#[tokio::test]
async fn a_helper_runs_in_its_callers_environment() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script =
        r#"printf '{"Username":"%s","Secret":"%s"}' "$KEYCHAIN" "${CARGO_MANIFEST_DIR-none}""#;
    program(&bin, "docker-credential-env", script);
    let mut machine = machine(home.path(), r#"{"credsStore": "env"}"#);
    machine.program_env = Some(vec![("KEYCHAIN".to_owned(), "mine".to_owned())]);
    let found = find(&machine, "a.example").await;
    assert_eq!(found.credential, Some(Credential::basic("mine", "none")));
}

#[tokio::test]
async fn an_identity_token_comes_from_a_helper() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = r#"echo '{"Username":"<token>","Secret":"refresh"}'"#;
    program(&bin, "docker-credential-token", script);
    let machine = machine(home.path(), r#"{"credsStore": "token"}"#);
    let found = find(&machine, "a.example").await;
    let expected = Credential::IdentityToken(Secret::new("refresh"));
    assert_eq!(found.credential, Some(expected));
}

/// A helper that keeps what it is told in a file beside it.
const KEEPER: &str = r#"folder=$(dirname "$0")
case $1 in
store) cat > "$folder/kept" ;;
get) test -e "$folder/kept" || { echo credentials not found in native keychain; exit 1; }
     cat "$folder/kept" ;;
erase) rm "$folder/kept" ;;
esac"#;

#[tokio::test]
async fn a_login_goes_to_the_helper_that_is_named() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    program(&bin, "docker-credential-keeper", KEEPER);
    let machine = machine(home.path(), r#"{"credsStore": "keeper", "psFormat": "x"}"#);
    let (host, password) = ("r.example:5000", Secret::new("p:w \" ä"));
    let kept = machine.log_in(host, "me", &password).await.unwrap();
    assert!(matches!(kept, Keeper::Helper { .. }), "{kept:?}");
    let text = fs::read_to_string(home.path().join(".docker/config.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["auths"][host], serde_json::json!({}));
    assert_eq!(file["psFormat"], "x");
    let expected = Credential::basic("me", password.expose());
    assert_eq!(find(&machine, host).await.credential, Some(expected));
    assert!(machine.log_out(host).await.unwrap().is_some());
    assert!(!bin.join("kept").exists());
    assert_eq!(find(&machine, host).await.credential, None);
    // A second time there is nothing, and the helper says no.
    assert!(machine.log_out(host).await.is_err());
}

#[tokio::test]
async fn a_login_stands_in_a_file_for_its_owner_only() {
    let home = tempfile::tempdir().unwrap();
    let machine = machine(home.path(), "");
    let config = home.path().join(".docker/config.json");
    fs::remove_dir_all(home.path().join(".docker")).unwrap();
    let password = Secret::new("pw");
    let kept = machine.log_in("docker.io", "me", &password).await.unwrap();
    assert_eq!(kept, Keeper::File(config.clone()));
    let mode = fs::metadata(&config).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let found = find(&machine, "docker.io").await;
    assert_eq!(found.credential, Some(Credential::basic("me", "pw")));
    assert!(machine.log_out("docker.io").await.unwrap().is_some());
    assert!(machine.log_out("docker.io").await.unwrap().is_none());
    assert_eq!(find(&machine, "docker.io").await.credential, None);
}

#[tokio::test]
async fn a_helper_that_is_missing_keeps_nothing() {
    let home = tempfile::tempdir().unwrap();
    let text = r#"{"credsStore": "nowhere"}"#;
    let machine = machine(home.path(), text);
    let refused = machine
        .log_in("a.example", "me", &Secret::new("hush"))
        .await;
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("docker-credential-nowhere") && !said.contains("hush"),
        "{said}"
    );
    let file = fs::read_to_string(home.path().join(".docker/config.json")).unwrap();
    assert_eq!(file, text);
}

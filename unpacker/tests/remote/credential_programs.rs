//! Credential helpers as programs, and files as docker leaves them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use config::credentials::Credential;
use unpacker::remote::credentials::{Answer, Credentials, Machine};

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

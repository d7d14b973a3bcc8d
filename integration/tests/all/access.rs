//! Users, tokens and rules with real clients: they log in, push and pull, and are kept out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::appliance::{Place, TestAppliance};
use integration::clients::Storage;
use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::process::{Ran, run};
use integration::{base_image, probe};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use super::pull::run_with_input;

/// An appliance where ann may do everything, bob may pull `team/**`, and nobody else anything. Every
/// password is the name and `-pw`.
fn guarded(settings: Value) -> TestAppliance {
    let place = Place::new();
    let line = |user: &str| {
        let hash = bcrypt::hash(format!("{user}-pw"), 5).unwrap();
        format!("{user}:{}\n", hash.replacen("$2b$", "$2y$", 1))
    };
    let users = place.folder().write("users", &(line("ann") + &line("bob")));
    let mut registry = json!({
        "htpasswd": users,
        "rules": [
            {"repositories": "**", "users": "ann", "actions": ["pull", "push", "delete"]},
            {"repositories": "team/**", "users": "bob", "actions": ["pull"]},
        ],
    });
    for (key, value) in settings.as_object().unwrap() {
        registry[key] = value.clone();
    }
    configure(&place, &registry);
    TestAppliance::start_at(place)
}

fn configure(place: &Place, registry: &Value) {
    let folder = place.home().join(".devpod");
    fs::create_dir_all(&folder).unwrap();
    let text = json!({ "registry": registry }).to_string();
    fs::write(folder.join("config.json"), text).unwrap();
}

fn skopeo(user: &str, from: &str, to: &str) -> Ran {
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--preserve-digests"]);
    for side in ["src", "dest"] {
        command.arg(format!("--{side}-tls-verify=false"));
    }
    let creds = format!("{user}:{user}-pw");
    let side = match to.starts_with("docker://") {
        true => "--dest-creds",
        false => "--src-creds",
    };
    if !user.is_empty() {
        command.args([side, &creds]);
    }
    run(command.args([from, to]))
}

fn both_ways(check: impl Fn(TestAppliance, &Path)) {
    let folder = Folder::new();
    let image = folder.join("image");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&image) {
        return;
    }
    for way in ["basic", "token"] {
        check(guarded(json!({ "auth": way })), &image);
    }
}

fn layout(path: &Path) -> String {
    format!("oci:{}:latest", path.display())
}

#[test]
fn skopeo_logs_in_or_is_kept_out() {
    both_ways(|appliance, image| {
        let folder = Folder::new();
        let remote = |name: &str| format!("docker://{}", appliance.reference(name));
        let to = |name: &str| layout(&folder.join(name));
        skopeo("ann", &layout(image), &remote("team/app:1")).ok();
        skopeo("ann", &layout(image), &remote("secret/app:1")).ok();
        skopeo("bob", &remote("team/app:1"), &to("got")).ok();
        for (user, from, to) in [
            ("bob", remote("secret/app:1"), to("no")),
            ("", remote("team/app:1"), to("no")),
            ("eve", remote("team/app:1"), to("no")),
            ("bob", layout(image), remote("team/app:2")),
            ("", layout(image), remote("team/app:2")),
        ] {
            let ran = skopeo(user, &from, &to);
            assert_ne!(ran.code, 0, "{user:?} may copy {from} to {to}");
        }
    });
}

#[test]
fn podman_and_buildah_log_in_push_and_pull() {
    both_ways(|appliance, image| {
        for program in ["podman", "buildah"] {
            if !probe::root() || !probe::programs(&[program]) {
                return;
            }
            let folder = Folder::new();
            let tool = Storage::new(program, folder.path());
            let auth = format!("--authfile={}", folder.join("auth.json").display());
            let insecure = "--tls-verify=false";
            let login = |user: &str, password: &str| {
                let arguments = ["login", &auth, insecure, "-u", user, "-p", password];
                tool.run(&[&arguments[..], &[appliance.registry()]].concat())
            };
            assert_ne!(login("ann", "wrong").code, 0, "{program}");
            login("ann", "ann-pw").ok();
            let name = appliance.reference("team/app:1");
            skopeo("ann", &layout(image), &format!("docker://{name}")).ok();
            tool.run(&["pull", &auth, insecure, &name]).ok();
            let copy = appliance.reference("copy/app:1");
            let to = format!("docker://{copy}");
            tool.run(&["push", &auth, insecure, &name, &to]).ok();
            let name = copy;
            let nobody = format!("--authfile={}", folder.write("none.json", "{}").display());
            let ran = tool.run(&["pull", &nobody, insecure, "--quiet", &name]);
            assert_ne!(ran.code, 0, "{program} pulls without a login");
        }
    });
}

#[test]
fn docker_logs_in_pushes_and_pulls() {
    let folder = Folder::new();
    let Some(layers) = base_image::busybox_layers() else {
        return;
    };
    let tar = folder.write("root.tar", &layers[0]);
    let Some(docker) = Dockerd::start() else {
        return;
    };
    for way in ["basic", "token"] {
        let appliance = guarded(json!({ "auth": way }));
        let name = appliance.reference("docker/app:1");
        docker
            .run(&["import", &tar.display().to_string(), &name])
            .ok();
        assert_ne!(
            docker.run(&["push", &name]).code,
            0,
            "pushed without a login"
        );
        let login =
            |password| docker.run(&["login", "-u", "ann", "-p", password, appliance.registry()]);
        assert_ne!(login("wrong").code, 0);
        login("ann-pw").ok();
        docker.run(&["push", &name]).ok();
        docker.run(&["rmi", &name]).ok();
        docker.run(&["pull", &name]).ok();
        docker.run(&["rmi", &name]).ok();
        docker.run(&["logout", appliance.registry()]).ok();
        assert_ne!(docker.run(&["pull", &name]).code, 0, "pulled after logout");
    }
}

/// Files with an authority's certificate, and with a server's certificate and key.
fn certificates(folder: &Folder) -> [PathBuf; 3] {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = CertifiedIssuer::self_signed(parameters, key).unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(names).unwrap();
    let server = server.signed_by(&key, &authority).unwrap();
    [
        folder.write("ca.pem", authority.pem()),
        folder.write("server.pem", server.pem()),
        folder.write("server.key", key.serialize_pem()),
    ]
}

#[test]
fn we_log_in_at_our_own_registry_over_tls() {
    let folder = Folder::new();
    let image = folder.join("image");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&image) {
        return;
    }
    let [authority, certificate, key] = certificates(&folder);
    for way in ["basic", "token"] {
        let server = guarded(json!({
            "auth": way, "tls_certificate": certificate, "tls_key": key,
        }));
        let host = server.registry().to_owned();
        let trusting = |registries: Value| {
            let place = Place::new();
            fs::create_dir_all(place.home().join(".devpod")).unwrap();
            let text = json!({ "remote": { "registries": registries } }).to_string();
            fs::write(place.home().join(".devpod/config.json"), text).unwrap();
            TestAppliance::start_at(place)
        };
        let client = trusting(json!([{ "host": host, "ca_file": authority }]));
        let name = format!("{host}/team/app:1");
        let path = image.display().to_string();
        client.run(&["load", "-i", &path, "--name", &name]).ok();
        let login = |appliance: &TestAppliance, user: &str, password: &str| {
            let arguments = ["login", "--username", user, "--password-stdin", &host];
            run_with_input(appliance.place(), &arguments, &format!("{password}\n"))
        };
        let kept = client.place().home().join(".docker/config.json");
        client
            .run(&["push", &name])
            .failed(6)
            .says(&format!("devpod login {host}"));
        login(&client, "ann", "wrong")
            .failed(6)
            .says("nothing was changed");
        assert!(!kept.exists());
        login(&client, "ann", "ann-pw").ok();
        assert!(kept.exists());
        client.run(&["push", &name]).ok();
        // Another user may fetch that, and push nothing.
        login(&client, "bob", "bob-pw").ok();
        client.run(&["pull", &name]).ok();
        client.run(&["push", &name.replace(":1", ":2")]).failed(3);
        client.run(&["tag", &name, &name.replace(":1", ":2")]).ok();
        client.run(&["push", &name.replace(":1", ":2")]).failed(6);
        client.run(&["logout", &host]).ok();
        client.run(&["pull", &name]).failed(6);
        // Whoever trusts another authority sends no password.
        let elsewhere = Folder::new();
        let [other, ..] = certificates(&elsewhere);
        let stranger = trusting(json!([{ "host": host, "ca_file": other }]));
        let ran = login(&stranger, "ann", "ann-pw");
        assert_ne!(ran.code, 0, "{ran}");
        ran.says("certificate");
        assert!(!stranger.place().home().join(".docker/config.json").exists());
    }
}

#[test]
fn docker_pulls_without_a_login_where_everybody_may() {
    let folder = Folder::new();
    let image = folder.join("image");
    let Some(docker) = Dockerd::start() else {
        return;
    };
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&image) {
        return;
    }
    let appliance = guarded(json!({ "anonymous": "pull" }));
    let remote = format!("docker://{}", appliance.reference("a:1"));
    skopeo("ann", &layout(&image), &remote).ok();
    let name = appliance.reference("a:1");
    docker.run(&["pull", &name]).ok();
    assert_ne!(
        docker.run(&["push", &name]).code,
        0,
        "pushed without a login"
    );
    docker
        .run(&["login", "-u", "ann", "-p", "ann-pw", appliance.registry()])
        .ok();
    docker.run(&["push", &name]).ok();
}

#[test]
fn devpod_logs_in_to_another_devpod() {
    both_ways(|appliance, image| {
        let remote = format!("docker://{}", appliance.reference("team/app:1"));
        skopeo("ann", &layout(image), &remote).ok();
        let here = TestAppliance::start();
        let name = appliance.reference("team/app:1");
        let refused = here.run(&["pull", &name]);
        assert_ne!(refused.code, 0, "pulled without credentials");
        credentials(here.place(), appliance.registry(), "bob");
        here.run(&["pull", &name]).ok();
        let pushed = appliance.reference("team/copy:1");
        here.run(&["tag", &name, &pushed]).ok();
        let refused = here.run(&["push", &pushed]);
        assert_ne!(refused.code, 0, "bob may push");
        // A daemon keeps a login for a while, so ann has one of her own.
        let there = TestAppliance::start();
        credentials(there.place(), appliance.registry(), "ann");
        there.run(&["pull", &name]).ok();
        there.run(&["tag", &name, &pushed]).ok();
        there.run(&["push", &pushed]).ok();
    });
}

/// docker's configuration file, as `docker login` writes it.
fn credentials(place: &Place, registry: &str, user: &str) {
    let folder = place.home().join(".docker");
    fs::create_dir_all(&folder).unwrap();
    let auth = json!({ "username": user, "password": format!("{user}-pw") });
    let text = json!({ "auths": { registry: auth } }).to_string();
    fs::write(folder.join("config.json"), text).unwrap();
}

#[test]
fn an_api_token_is_made_used_listed_and_revoked() {
    let folder = Folder::new();
    let image = folder.join("image");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&image) {
        return;
    }
    let audit = folder.join("audit.log");
    let appliance = guarded(json!({ "audit_log": audit }));
    let create = [
        "registry",
        "token",
        "create",
        "--name",
        "ci",
        "--repositories",
        "ci/**",
    ];
    let made = appliance
        .run(&[&create[..], &["--actions", "pull,push"]].concat())
        .ok();
    let secret = made.text().trim().to_owned();
    assert!(
        secret.starts_with("dpt_") && !secret.contains(char::is_whitespace),
        "{secret}"
    );
    assert_eq!(appliance.run(&create).code, 4, "the name is taken");
    let push = |name: &str| {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--dest-tls-verify=false"]);
        command.args(["--dest-creds", &format!("token:{secret}")]);
        let remote = format!("docker://{}", appliance.reference(name));
        run(command.args([&layout(&image), &remote]))
    };
    push("ci/app:1").ok();
    assert_ne!(push("team/app:1").code, 0, "the token is for ci/** only");
    let listed = appliance
        .run(&["registry", "token", "list", "--output", "json"])
        .ok();
    assert!(
        !listed.text().contains(&secret[30..]),
        "the secret is listed"
    );
    let rows: Value = serde_json::from_str(listed.text()).unwrap();
    assert_eq!(rows[0]["name"], "ci");
    assert_eq!(rows[0]["actions"], json!(["pull", "push"]));
    assert!(rows[0]["lastUsed"].is_string() && rows[0]["expires"].is_string());
    appliance.run(&["registry", "token", "revoke", "ci"]).ok();
    assert_ne!(push("ci/app:2").code, 0, "the token was revoked");
    assert_eq!(
        appliance.run(&["registry", "token", "revoke", "ci"]).code,
        3
    );
    let log = fs::read_to_string(&audit).unwrap();
    let events: Vec<String> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].to_string())
        .collect();
    for event in [
        "token_created",
        "push",
        "denied",
        "token_revoked",
        "login_failed",
    ] {
        assert!(
            events.contains(&format!("{event:?}")),
            "{event} is not in {events:?}"
        );
    }
    assert!(
        !log.contains(&secret[30..]),
        "the secret is in the audit log"
    );
}

#[test]
fn a_network_address_needs_a_decision() {
    let place = Place::new();
    let ran = place.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(ran.code, 2);
    let said = ran.stderr;
    for hint in ["registry.htpasswd", "registry.anonymous", "127.0.0.1:5000"] {
        assert!(said.contains(hint), "{said}");
    }
    let users = place.folder().write("users", "ann:{SHA}hush\n");
    configure(&place, &json!({ "htpasswd": users }));
    let ran = place.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(ran.code, 2);
    let said = ran.stderr;
    assert!(said.contains("users:1: the hash is not bcrypt"), "{said}");
    assert!(!said.contains("hush"), "{said}");
}

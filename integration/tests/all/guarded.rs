//! The registry's port is open to every user of the machine: what it must not take from them.

use std::io::{Read, Write};
use std::net::TcpStream;

use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::layout::digest;

/// One request with a body, by hand: the status and all that was answered.
fn send(appliance: &TestAppliance, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(appliance.registry()).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[test]
fn nobody_plants_what_root_runs_next() {
    let appliance = TestAppliance::start();
    let other = TestAppliance::start();
    let context = Folder::new();
    context.write("Dockerfile", "FROM scratch\nCOPY file /\n");
    context.write("file", "from the other registry");
    let path = context.path().display().to_string();
    other.run(&["build", "-t", "team/app:1", &path]).ok();
    let name = other.reference("team/app:1");
    appliance.run(&["pull", &name]).ok();
    let kept = format!("{}/team/app", other.registry().replace(':', "_"));
    for repository in [kept.as_str(), "docker.io/library/debian", "localhost/x"] {
        let blob = digest(b"planted");
        for (method, path) in [
            ("POST", format!("/v2/{repository}/blobs/uploads/")),
            (
                "POST",
                format!("/v2/{repository}/blobs/uploads/?digest={blob}"),
            ),
            ("PUT", format!("/v2/{repository}/manifests/1")),
            ("DELETE", format!("/v2/{repository}/manifests/1")),
        ] {
            let (status, answer) = send(&appliance, method, &path, "planted");
            assert_eq!(status, 403, "{method} {path}: {answer}");
            assert!(answer.contains("DENIED"), "{answer}");
            assert!(answer.contains("`devpod pull` only"), "{answer}");
        }
    }
    // Reading them goes on, and so does writing names of our own.
    let (status, _) = send(&appliance, "GET", &format!("/v2/{kept}/manifests/1"), "");
    assert_eq!(status, 200);
    let (status, _) = send(&appliance, "POST", "/v2/my_org/app/blobs/uploads/", "");
    assert_eq!(status, 202);
}

#[test]
fn names_of_ours_do_not_pass_for_others() {
    let appliance = TestAppliance::start();
    let context = Folder::new();
    context.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let path = context.path().display().to_string();
    let built = appliance.run(&["build", "-t", "my_org/app", &path]).ok();
    let full = format!(
        "localhost:{}/my_org/app:latest",
        appliance.registry().rsplit_once(':').unwrap().1
    );
    built.says(&format!("[Builder] Build complete: {full}"));
    appliance.run(&["inspect", &full]).ok();
    let planted = appliance.reference("docker.io/library/debian");
    for arguments in [
        &["tag", "my_org/app", &planted][..],
        &["tag", "my_org/app", "other_5000/app"],
        &["build", "-t", &planted, &path],
        &["image", "from-host", "-t", &planted],
    ] {
        appliance
            .run(arguments)
            .failed(2)
            .says("would pass for a copy");
    }
}

//! Single questions: asked once, bounded, and a blob read as it comes.

use std::time::Duration;

use config::name::Reference;
use unpacker::digest::sha256;
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Anonymous;
use unpacker::remote::error::RemoteError;

use super::server::{Answer, Server};

fn remote() -> Remote {
    unpacker::remote::install_crypto();
    let options = Options {
        retries: 0,
        stall: Duration::from_millis(300),
        ..Options::default()
    };
    Remote::new(options, std::sync::Arc::new(Anonymous)).unwrap()
}

fn reference(server: &Server) -> Reference {
    format!("{}/a:t", server.host).parse().unwrap()
}

#[tokio::test]
async fn a_blob_is_read_from_where_it_is_asked_for() {
    for ranges in [true, false] {
        let server = Server::start(move |request, _| match request.header("range") {
            Some("bytes=4-") if ranges => Answer::status(206)
                .header("Content-Range", "bytes 4-9/10")
                .body("456789"),
            _ => Answer::status(200).body("0123456789"),
        });
        let digest = sha256(b"0123456789");
        let blob = remote().open_blob(&reference(&server), &digest, 4).await;
        let mut blob = blob.unwrap();
        let start = if ranges { 4 } else { 0 };
        assert_eq!((blob.start, blob.size), (start, Some(10)));
        let mut got = Vec::new();
        while let Some(piece) = blob.next().await.unwrap() {
            got.extend_from_slice(&piece);
        }
        assert_eq!(got, b"0123456789"[usize::try_from(start).unwrap()..]);
        let size = remote().ask_size(&reference(&server), &digest).await;
        assert_eq!(size.unwrap(), Some(10));
    }
}

#[tokio::test]
async fn a_failure_is_told_and_not_tried_again() {
    let server = Server::start(|_, _| Answer::status(503).header("Retry-After", "7").body(""));
    let digest = sha256(b"x");
    let error = remote().open_blob(&reference(&server), &digest, 0).await;
    let error = error.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let error = remote().ask_digest(&reference(&server)).await.unwrap_err();
    assert!(matches!(error, RemoteError::Busy { status: 503, .. }));
    let error = remote()
        .ask_manifest(&reference(&server))
        .await
        .unwrap_err();
    assert!(matches!(error, RemoteError::Busy { status: 503, .. }));
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_tag_is_asked_for_by_its_head() {
    let digest = sha256(b"m");
    let text = digest.to_string();
    let server = Server::start(move |request, count| {
        assert_eq!(
            (&*request.method, request.path()),
            ("HEAD", "/v2/a/manifests/t")
        );
        match count {
            0 => Answer::status(200)
                .header("Docker-Content-Digest", &text)
                .body(""),
            _ => Answer::status(200)
                .header("Docker-Content-Digest", "sha256:no")
                .body(""),
        }
    });
    let found = remote().ask_digest(&reference(&server)).await.unwrap();
    assert_eq!(found, Some(digest));
    // What is no digest is as good as none.
    let found = remote().ask_digest(&reference(&server)).await.unwrap();
    assert_eq!(found, None);
}

#[tokio::test]
async fn silence_in_a_body_ends_it() {
    let server = Server::start(|_, _| Answer::status(200).cut(10, "012").hang());
    let digest = sha256(b"0123456789");
    let blob = remote().open_blob(&reference(&server), &digest, 0).await;
    let mut blob = blob.unwrap();
    let mut got = Vec::new();
    let error = loop {
        match blob.next().await {
            Ok(piece) => got.extend_from_slice(&piece.unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(got, b"012");
    assert!(matches!(error, RemoteError::Stalled { .. }), "{error:?}");
}

//! Uploads that break off, and uploads that are too large for one request.

use std::sync::{Arc, Mutex};

use config::name::Reference;
use unpacker::content::Content;
use unpacker::digest::sha256;
use unpacker::progress::Silent;
use unpacker::remote::download::BlobName;
use unpacker::remote::error::RemoteError;
use unpacker::remote::upload::Uploaded;

use crate::clock::TestClock;
use crate::faults::{payload, remote};
use crate::server::{Answer, Request, Server};
use crate::store::Store;

/// What a registry has of one upload.
type Received = Arc<Mutex<Vec<u8>>>;

struct Outcome {
    result: Result<Uploaded, RemoteError>,
    slept: Vec<u128>,
    received: Vec<u8>,
    server: Server,
}

/// A registry whose sessions work, with `meddle` in between: what it answers counts first.
async fn upload(
    meddle: impl Fn(&Request, usize, &Received) -> Option<Answer> + Send + 'static,
) -> Outcome {
    let received = Received::default();
    let kept = Arc::clone(&received);
    let server = Server::start(move |request, earlier| {
        if let Some(answer) = meddle(request, earlier, &kept) {
            return answer;
        }
        let mut kept = kept.lock().unwrap();
        let session = |kept: &[u8]| {
            let answer = Answer::status(202).header("Location", "/session?s=1");
            answer.header("Range", format!("0-{}", kept.len().saturating_sub(1)))
        };
        match &*request.method {
            "HEAD" => Answer::status(404),
            "POST" => session(&kept).body(""),
            "GET" => session(&kept).body(""),
            "PATCH" => {
                let range = request.header("content-range").unwrap();
                assert!(range.starts_with(&format!("{}-", kept.len())), "{range}");
                kept.extend(&request.body);
                session(&kept).body("")
            }
            _ => {
                kept.extend(&request.body);
                Answer::status(201).body("")
            }
        }
    });
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let content: Arc<dyn Content> = Store::new();
    let (digest, size) = content.put(&payload()).unwrap();
    let blob = BlobName { digest, size };
    let clock = TestClock::new();
    let result = remote(&clock)
        .upload(&reference, &blob, &content, None, &Silent)
        .await;
    let received = received.lock().unwrap().clone();
    Outcome {
        result,
        slept: clock.slept(),
        received,
        server,
    }
}

impl Outcome {
    #[track_caller]
    fn arrived(&self) {
        assert!(
            matches!(self.result, Ok(Uploaded::Sent)),
            "{:?}",
            self.result
        );
        assert!(self.received == payload(), "other bytes arrived");
    }

    fn bodies(&self, method: &str) -> Vec<usize> {
        let requests = self.server.requests();
        let of = requests.iter().filter(|r| r.method == method);
        of.map(|r| r.body.len()).collect()
    }
}

#[tokio::test]
async fn what_arrived_is_not_sent_again() {
    let outcome = upload(|request, earlier, received| {
        // The first PUT gets through with a part, and its answer does not.
        (request.method == "PUT" && earlier == 0).then(|| {
            received.lock().unwrap().extend(&request.body[..500_000]);
            Answer::status(502).body("")
        })
    })
    .await;
    outcome.arrived();
    assert_eq!(outcome.slept, [1000]);
    assert_eq!(outcome.bodies("PATCH"), [700_000]);
    assert_eq!(outcome.bodies("PUT"), [1_200_000, 0]);
    let last = outcome.server.requests().pop().unwrap();
    let digest = sha256(&payload()).to_string().replace(':', "%3A");
    assert_eq!(last.target, format!("/session?s=1&digest={digest}"));
}

#[tokio::test]
async fn a_registry_that_does_not_say_how_far_it_is_gets_all_again() {
    let outcome = upload(
        |request, earlier, received| match (&*request.method, earlier) {
            ("PUT", 0) => Some(Answer::status(502).body("")),
            ("GET", _) => Some(Answer::status(405).body("")),
            ("POST", _) => {
                received.lock().unwrap().clear();
                None
            }
            _ => None,
        },
    )
    .await;
    outcome.arrived();
    assert_eq!(outcome.bodies("PUT"), [1_200_000, 1_200_000]);
}

#[tokio::test]
async fn what_is_too_large_goes_in_pieces() {
    let outcome = upload(|request, _, _| {
        // Somebody on the way takes no more than 600 kB.
        (request.body.len() > 600_000).then(|| Answer::status(413).body(""))
    })
    .await;
    outcome.arrived();
    assert!(outcome.slept.is_empty(), "{:?}", outcome.slept);
    let pieces = outcome.bodies("PATCH");
    assert!(
        pieces.iter().filter(|bytes| **bytes <= 600_000).count() >= 2,
        "{pieces:?}"
    );
}

#[tokio::test]
async fn pieces_are_not_made_smaller_for_ever() {
    let outcome =
        upload(|request, _, _| (!request.body.is_empty()).then(|| Answer::status(413).body("")))
            .await;
    let error = outcome.result.unwrap_err();
    assert!(
        matches!(error, RemoteError::Refused { status: 413, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_that_counts_backwards_is_left() {
    let outcome = upload(|request, earlier, _| match (&*request.method, earlier) {
        ("PUT", 0) => Some(Answer::status(413).body("")),
        ("PATCH", _) => {
            let answer = Answer::status(202).header("Location", "/session");
            Some(answer.header("Range", "0-0").body(""))
        }
        _ => None,
    })
    .await;
    let error = outcome.result.unwrap_err();
    assert!(matches!(error, RemoteError::Protocol { .. }), "{error}");
}

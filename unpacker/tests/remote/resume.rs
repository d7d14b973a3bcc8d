//! Downloads that go on where an earlier process stopped.

use std::sync::Arc;

use config::name::Reference;
use unpacker::content::Content;
use unpacker::digest::sha256;
use unpacker::progress::Silent;
use unpacker::remote::error::RemoteError;

use crate::clock::TestClock;
use crate::faults::{name_of, payload, range_of, remote};
use crate::server::{Answer, Request, Server};
use crate::store::Store;

/// All of the payload, or the rest from where the request says.
fn serve(request: &Request) -> Answer {
    let whole = payload();
    match range_of(request) {
        None => Answer::status(200).body(whole),
        Some(start) if start >= whole.len() => {
            let range = format!("bytes */{}", whole.len());
            Answer::status(416).header("Content-Range", range).body("")
        }
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
            let answer = Answer::status(206).header("Content-Range", range);
            answer.body(&whole[start..])
        }
    }
}

struct Outcome {
    result: Result<(), RemoteError>,
    store: Arc<Store>,
    starts: Vec<Option<usize>>,
}

/// Downloads the payload into a store that has `left` of it already.
async fn go_on(
    left: &[u8],
    handler: impl Fn(&Request, usize) -> Answer + Send + 'static,
) -> Outcome {
    let server = Server::start(handler);
    let store = Store::new();
    let blob = name_of(&payload());
    store.leave(&blob.digest, left);
    let content: Arc<dyn Content> = store.clone();
    let reference: Reference = format!("{}/a/b:t", server.host).parse().unwrap();
    let result = remote(&TestClock::new())
        .download(&reference, &blob, &content, &Silent)
        .await;
    let starts = server.requests().iter().map(range_of).collect();
    Outcome {
        result,
        store,
        starts,
    }
}

impl Outcome {
    #[track_caller]
    fn arrived(&self, starts: &[Option<usize>]) {
        assert!(self.result.is_ok(), "{:?}", self.result);
        assert_eq!(self.starts, starts);
        assert!(self.store.bytes(&sha256(&payload())) == payload());
    }
}

#[tokio::test]
async fn only_the_rest_is_asked_for() {
    let whole = payload();
    let outcome = go_on(&whole[..700_000], |request, _| serve(request)).await;
    outcome.arrived(&[Some(700_000)]);
}

#[tokio::test]
async fn nothing_is_asked_for_where_nothing_is_missing() {
    let outcome = go_on(&payload(), |request, _| serve(request)).await;
    outcome.arrived(&[]);
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_of_it() {
    let whole = payload();
    let outcome = go_on(&whole[..700_000], |_, _| {
        Answer::status(200).body(payload())
    })
    .await;
    outcome.arrived(&[Some(700_000)]);
}

#[tokio::test]
async fn a_part_that_is_shorter_than_asked_for_is_followed_by_the_next() {
    let whole = payload();
    let outcome = go_on(&whole[..500_000], |request, _| {
        let whole = payload();
        let start = range_of(request).unwrap();
        let end = (start + 400_000).min(whole.len());
        let range = format!("bytes {start}-{}/{}", end - 1, whole.len());
        let answer = Answer::status(206).header("Content-Range", range);
        answer.body(&whole[start..end])
    })
    .await;
    outcome.arrived(&[Some(500_000), Some(900_000)]);
}

#[tokio::test]
async fn what_a_power_cut_made_of_it_is_thrown_away() {
    // As long as it should be, but zeros.
    let outcome = go_on(&[0; 700_000], |request, _| serve(request)).await;
    outcome.arrived(&[Some(700_000), None]);
    // As long as the whole.
    let outcome = go_on(&vec![0; payload().len()], |request, _| serve(request)).await;
    outcome.arrived(&[None]);
    // Longer than the whole.
    let outcome = go_on(&vec![0; 9_000_000], |request, _| serve(request)).await;
    outcome.arrived(&[None]);
}

#[tokio::test]
async fn a_range_that_the_server_has_not_is_not_insisted_on() {
    let whole = payload();
    let outcome = go_on(&whole[..700_000], |request, _| match range_of(request) {
        Some(_) => Answer::status(416).body(""),
        None => serve(request),
    })
    .await;
    outcome.arrived(&[Some(700_000), None]);
}

#[tokio::test]
async fn wrong_bytes_are_asked_for_twice_and_no_more() {
    let whole = payload();
    let outcome = go_on(&whole[..700_000], |request, _| {
        let mut whole = payload();
        whole[800_000] ^= 1;
        let start = range_of(request).unwrap_or(0);
        if start == 0 {
            return Answer::status(200).body(whole);
        }
        let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
        let answer = Answer::status(206).header("Content-Range", range);
        answer.body(&whole[start..])
    })
    .await;
    let error = outcome.result.unwrap_err();
    assert!(
        matches!(error, RemoteError::DigestMismatch { .. }),
        "{error}"
    );
    assert_eq!(outcome.starts, [Some(700_000), None]);
    outcome.store.becomes_empty();
}

#[tokio::test]
async fn what_came_before_a_failure_stays() {
    let outcome = go_on(&[], |_, _| {
        let whole = payload();
        Answer::status(200).cut(whole.len(), &whole[..600_000])
    })
    .await;
    // 200 with the same beginning each time: nothing moves forward.
    let error = outcome.result.unwrap_err();
    assert!(error.retriable(), "{error}");
    let digest = sha256(&payload());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while outcome.store.left(&digest) < 600_000 {
        assert!(std::time::Instant::now() < end, "it was not kept");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(!outcome.store.has(&digest));
}

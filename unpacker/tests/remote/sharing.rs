//! One download for all who want a blob, and readers that follow it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use config::name::Reference;
use unpacker::arrival::Arrivals;
use unpacker::content::{Blob, Content, ContentWriter};
use unpacker::digest::{Digest, sha256};
use unpacker::fetch::Wanted;
use unpacker::progress::{Cancel, Silent};
use unpacker::pull::{PullError, unless};
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Anonymous;

use crate::clock::TestClock;
use crate::faults::{name_of, payload, range_of, remote, remote_with};
use crate::server::{Answer, Server};
use crate::store::{ROOM, Store};

/// Something that a test lets go on.
#[derive(Clone, Default)]
struct Latch(Arc<(Mutex<bool>, Condvar)>);

impl Latch {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        let (open, _) = self
            .0
            .1
            .wait_timeout_while(open, Duration::from_secs(20), |open| !*open)
            .unwrap();
        assert!(*open, "nobody opened the latch");
    }
}

struct Fixture {
    server: Server,
    store: Arc<Store>,
    arrivals: Arrivals,
    reference: Reference,
}

fn fixture(server: Server) -> Fixture {
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    Fixture {
        arrivals: Arrivals::new(content),
        reference: format!("{}/a:t", server.host).parse().unwrap(),
        store,
        server,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_share_one_download() {
    let latch = Latch::default();
    let wait = latch.clone();
    let it = fixture(Server::start(move |_, _| {
        wait.wait();
        Answer::status(200).body(payload())
    }));
    let client = remote(&TestClock::new());
    let blob = name_of(&payload());
    let pulls: Vec<_> = (0..3)
        .map(|_| {
            let wanted = Wanted::new(&it.arrivals, vec![blob.clone()]);
            let (client, reference) = (client.clone(), it.reference.clone());
            tokio::spawn(async move { wanted.fetch(&client, &reference, &Silent).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    latch.open();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(it.server.requests().len(), 1);
    assert!(it.store.bytes(&blob.digest) == payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_takes_over_what_was_given_up() {
    // The first request gets a part and then silence.
    let it = fixture(Server::start(|request, _| {
        let whole = payload();
        match range_of(request) {
            None => Answer::status(200)
                .cut(whole.len(), &whole[..600_000])
                .hang(),
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                let answer = Answer::status(206).header("Content-Range", range);
                answer.body(&whole[start..])
            }
        }
    }));
    let client = remote_with(&TestClock::new(), Duration::from_secs(60));
    let blob = name_of(&payload());
    let cancel = Cancel::default();
    let start = |cancel: Cancel| {
        let wanted = Wanted::new(&it.arrivals, vec![blob.clone()]);
        let (client, reference) = (client.clone(), it.reference.clone());
        tokio::spawn(
            async move { unless(&cancel, wanted.fetch(&client, &reference, &Silent)).await },
        )
    };
    let first = start(cancel.clone());
    while it.store.left(&blob.digest) < 600_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = start(Cancel::default());
    tokio::time::sleep(Duration::from_millis(50)).await;
    cancel.cancel();
    let given_up = first.await.unwrap();
    assert!(
        matches!(given_up, Err(PullError::Cancelled(_))),
        "{given_up:?}"
    );
    second.await.unwrap().unwrap();
    let starts: Vec<_> = it.server.requests().iter().map(range_of).collect();
    assert_eq!(starts, [None, Some(600_000)]);
    assert!(it.store.bytes(&blob.digest) == payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_it_stood_in_line_is_not_fetched() {
    let latch = Latch::default();
    let wait = latch.clone();
    let (first, second) = (payload(), payload()[4..].to_vec());
    let body = first.clone();
    let it = fixture(Server::start(move |_, _| {
        wait.wait();
        Answer::status(200).body(body.clone())
    }));
    unpacker::remote::install_crypto();
    let options = Options {
        transfers: 1,
        ..Options::default()
    };
    let clock = Arc::new(TestClock::new());
    let client = Remote::with_clock(options, Arc::new(Anonymous), clock).unwrap();
    let start = |bytes: &[u8]| {
        let wanted = Wanted::new(&it.arrivals, vec![name_of(bytes)]);
        let (client, reference) = (client.clone(), it.reference.clone());
        tokio::spawn(async move { wanted.fetch(&client, &reference, &Silent).await })
    };
    let fetching = start(&first);
    while it.server.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let in_line = start(&second);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let content: &dyn Content = &*it.store;
    content.put(&second).unwrap();
    latch.open();
    fetching.await.unwrap().unwrap();
    in_line.await.unwrap().unwrap();
    assert_eq!(it.server.requests().len(), 1);
}

/// A store whose first writer does not get on with its first bytes.
struct Stuck {
    store: Arc<Store>,
    writers: AtomicUsize,
    /// Opened by that writer.
    reached: Latch,
    go_on: Latch,
}

struct StuckWriter {
    writer: Box<dyn ContentWriter>,
    latches: Option<(Latch, Latch)>,
}

impl Content for Stuck {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        self.store.open(digest)
    }

    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        self.store.writer(expected)
    }

    fn resume(&self, expected: &Digest) -> io::Result<(Box<dyn ContentWriter>, u64)> {
        let (writer, have) = self.store.resume(expected)?;
        let first = self.writers.fetch_add(1, Ordering::SeqCst) == 0;
        let latches = first.then(|| (self.reached.clone(), self.go_on.clone()));
        Ok((Box::new(StuckWriter { writer, latches }), have))
    }
}

impl Write for StuckWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some((reached, go_on)) = self.latches.take() {
            reached.open();
            go_on.wait();
        }
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl ContentWriter for StuckWriter {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        self.writer.commit()
    }

    fn reader(&self) -> io::Result<Option<File>> {
        self.writer.reader()
    }

    fn discard(self: Box<Self>) {
        self.writer.discard();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_begins_while_a_cancelled_writer_still_writes() {
    let server = Server::start(|request, _| {
        let whole = payload();
        let start = range_of(request).unwrap_or(0);
        match start {
            0 => Answer::status(200)
                .cut(whole.len(), &whole[..600_000])
                .hang(),
            _ => {
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                let answer = Answer::status(206).header("Content-Range", range);
                answer.body(&whole[start..])
            }
        }
    });
    let stuck = Arc::new(Stuck {
        store: Store::new(),
        writers: AtomicUsize::new(0),
        reached: Latch::default(),
        go_on: Latch::default(),
    });
    let content: Arc<dyn Content> = stuck.clone();
    let arrivals = Arrivals::new(content);
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let client = remote_with(&TestClock::new(), Duration::from_secs(60));
    let blob = name_of(&payload());
    let start = |cancel: Cancel| {
        let wanted = Wanted::new(&arrivals, vec![blob.clone()]);
        let (client, reference) = (client.clone(), reference.clone());
        tokio::spawn(
            async move { unless(&cancel, wanted.fetch(&client, &reference, &Silent)).await },
        )
    };
    let cancel = Cancel::default();
    let first = start(cancel.clone());
    let reached = stuck.reached.clone();
    tokio::task::spawn_blocking(move || reached.wait())
        .await
        .unwrap();
    cancel.cancel();
    assert!(first.await.unwrap().is_err());
    // Nobody announces the blob any more, but for its writer.
    let second = start(Cancel::default());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.requests().len(), 1);
    assert_eq!(stuck.writers.load(Ordering::SeqCst), 1);
    stuck.go_on.open();
    second.await.unwrap().unwrap();
    // It went on with what the first had taken before it was stopped.
    let starts: Vec<_> = server.requests().iter().map(range_of).collect();
    assert!(matches!(starts[..], [None, Some(1..)]), "{starts:?}");
    assert!(stuck.store.bytes(&blob.digest) == payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_follows_and_gets_the_end_last() {
    let latch = Latch::default();
    let wait = latch.clone();
    let it = fixture(Server::start(move |request, _| {
        let whole = payload();
        match range_of(request) {
            None => Answer::status(200).cut(whole.len(), &whole[..800_000]),
            Some(start) => {
                wait.wait();
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                let answer = Answer::status(206).header("Content-Range", range);
                answer.body(&whole[start..])
            }
        }
    }));
    let blob = name_of(&payload());
    let wanted = Wanted::new(&it.arrivals, vec![blob.clone()]);
    let waiting = it.arrivals.waiting(Cancel::default());
    let digest = blob.digest.clone();
    let reader = std::thread::spawn(move || {
        let mut stream = waiting.stream(&digest).unwrap().unwrap();
        assert!(stream.vouched);
        let mut head = vec![0; 800_000];
        stream.reader.read_exact(&mut head).unwrap();
        // All of that came before the rest was even sent.
        latch.open();
        let mut rest = Vec::new();
        stream.reader.read_to_end(&mut rest).unwrap();
        [head, rest].concat()
    });
    let client = remote(&TestClock::new());
    let fetched = wanted.fetch(&client, &it.reference, &Silent).await;
    fetched.unwrap();
    assert!(reader.join().unwrap() == payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_gets_to_the_end_of_wrong_bytes() {
    let it = fixture(Server::start(|_, _| {
        let mut whole = payload();
        whole[1_000_000] ^= 1;
        Answer::status(200).body(whole)
    }));
    let blob = name_of(&payload());
    let wanted = Wanted::new(&it.arrivals, vec![blob.clone()]);
    let waiting = it.arrivals.waiting(Cancel::default());
    let digest = blob.digest.clone();
    let reader = std::thread::spawn(move || {
        let stream = waiting.stream(&digest).unwrap();
        stream.map(|mut stream| io::copy(&mut stream.reader, &mut io::sink()))
    });
    let client = remote(&TestClock::new());
    let fetched = wanted.fetch(&client, &it.reference, &Silent).await;
    assert!(fetched.is_err());
    // Whoever came too late to follow was told that there is no such blob.
    let read = reader.join().unwrap();
    assert!(read.is_none_or(|read| read.is_err()));
    assert!(!it.store.has(&sha256(&payload())));
}

#[tokio::test]
async fn a_reader_ends_with_whoever_it_reads_for() {
    let it = fixture(Server::start(|_, _| Answer::status(404).body("")));
    let blob = name_of(&payload());
    let wanted = Wanted::new(&it.arrivals, vec![blob.clone()]);
    let cancel = Cancel::default();
    let waiting = it.arrivals.waiting(cancel.clone());
    let digest = blob.digest.clone();
    let reader = std::thread::spawn(move || waiting.stream(&digest).map(|stream| stream.is_some()));
    cancel.cancel();
    assert!(reader.join().unwrap().is_err());
    // Without anybody who fetches it, nobody waits.
    drop(wanted);
    let waiting = it.arrivals.waiting(Cancel::default());
    assert!(waiting.open(&blob.digest).unwrap().is_none());
}

#[tokio::test]
async fn a_disk_that_is_too_small_is_found_before_anything_is_fetched() {
    let it = fixture(Server::start(|_, _| Answer::status(404).body("")));
    let mut blob = name_of(&payload());
    blob.size = ROOM + 700_000;
    it.store.leave(&blob.digest, &[1; 600_000]);
    let wanted = Wanted::new(&it.arrivals, vec![blob]);
    let client = remote(&TestClock::new());
    let refused = wanted.fetch(&client, &it.reference, &Silent).await;
    match refused {
        Err(PullError::NoRoom { needed, free }) => {
            assert_eq!((needed, free), (ROOM + 100_000, ROOM));
        }
        other => panic!("{other:?}"),
    }
    assert!(it.server.requests().is_empty());
}

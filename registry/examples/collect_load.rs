//! What a request waits for while 100,000 files are looked through and half of them collected:
//! `cargo run --release -p registry --example collect_load -- <folder> [files]`.
//!
//! Seeds a folder without syncing it, serves it on a free port, and has clients push small blobs, ask
//! for blobs and pull manifests: first alone, as what to compare with, and then beside a collection.
//! Prints the median, the 99th percentile and the greatest of what each kind of request took.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use registry::digest::{Algorithm, Digest, digest_of};
use registry::http::{Front, serve};
use registry::service::{Policy, Registry};
use registry::store::index::manifests::NewManifest;
use registry::store::index::{ManifestRow, links, manifests};
use registry::store::{Grace, Options};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const REPOSITORIES: u64 = 100;
const LAYERS: u64 = 4;
const CLIENTS: u64 = 4;
const DAY: u64 = 86_400;
const HOUR: Duration = Duration::from_secs(3600);

/// How far the store's clock goes ahead.
static AHEAD: AtomicU64 = AtomicU64::new(0);

fn clock() -> SystemTime {
    SystemTime::now() + Duration::from_secs(AHEAD.load(Ordering::SeqCst))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("usage: collect_load <folder> [files]")?;
    let files = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let options = Options {
        clock,
        untagged_keep: Some(Duration::from_secs(7 * DAY)),
        ..Options::below(folder.as_ref())
    };
    let registry = Registry::open(options, Policy::default())?;
    let begun = Instant::now();
    seed(&registry, folder.as_ref(), files / (LAYERS + 1))?;
    say(&format!("{files} files seeded in {:?}", begun.elapsed()));

    let runtime = tokio::runtime::Runtime::new()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let front = Front::new(registry.clone());
    runtime.spawn(serve(listener, front, std::future::pending()));

    let alone = measure(address, || {
        std::thread::sleep(Duration::from_secs(10));
        Ok(())
    })?;
    print("without a collection", &alone);
    for (round, ahead) in [("manifests", 0), ("links and files", 2 * 3600)] {
        AHEAD.store(ahead, Ordering::SeqCst);
        let beside = measure(address, || {
            let begun = Instant::now();
            let grace = Grace {
                links: HOUR,
                files: HOUR,
            };
            let swept = registry.store().collect(grace, &|_| false)?;
            say(&format!("collected {swept:?} in {:?}", begun.elapsed()));
            Ok(())
        })?;
        print(&format!("while {round} are collected"), &beside);
    }
    Ok(())
}

fn say(text: &str) {
    // Nobody may listen.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Images of four small layers each; every second one lost its tag long ago.
fn seed(registry: &Registry, folder: &Path, images: u64) -> Result<(), Failure> {
    let pushed = clock().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() - 30 * DAY;
    let blobs = folder.join("content/blobs/sha256");
    let old = SystemTime::now() - Duration::from_secs(30 * DAY);
    let write = |content: &[u8]| -> Result<Digest, Failure> {
        let digest = digest_of(Algorithm::Sha256, content);
        let path = blobs.join(digest.digest());
        std::fs::write(&path, content)?;
        std::fs::File::options()
            .write(true)
            .open(path)?
            .set_modified(old)?;
        Ok(digest)
    };
    for first in (0..images).step_by(200) {
        let mut batch = Vec::new();
        for number in first..images.min(first + 200) {
            let layers = (0..LAYERS)
                .map(|layer| write(format!("{number} {layer} {}", "x".repeat(1000)).as_bytes()))
                .collect::<Result<Vec<_>, _>>()?;
            let digest = write(format!("manifest {number}").as_bytes())?;
            batch.push((number, layers, digest));
        }
        registry.store().index().write(move |rows| {
            for (number, layers, digest) in batch {
                let repository = format!("r{}", number % REPOSITORIES);
                for layer in &layers {
                    links::link(rows, &repository, layer, 1000, pushed)?;
                }
                let tag = format!("t{number}");
                let new = image(&repository, &tag, digest, layers, pushed);
                manifests::put(rows, &new)?;
                if number % 2 == 0 {
                    manifests::untag(rows, &repository, &tag, pushed)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn image(
    repository: &str,
    tag: &str,
    digest: Digest,
    references: Vec<Digest>,
    pushed: u64,
) -> NewManifest {
    NewManifest {
        repository: repository.to_owned(),
        digest,
        row: ManifestRow {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: 16,
            subject: None,
            artifact_type: None,
            references,
            pushed,
            by_digest: false,
        },
        tags: vec![tag.to_owned()],
        descriptor: None,
        required: Vec::new(),
        notes: registry::events::journal::Notes::default(),
    }
}

type Times = BTreeMap<&'static str, Vec<Duration>>;

/// What clients see while `work` runs.
fn measure(
    address: SocketAddr,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<Times, Failure> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::SeqCst);
    let ended = AtomicBool::new(false);
    let times = Mutex::new(Times::new());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (ended, times) = (&ended, &times);
            scope.spawn(move || {
                let seen = drive(address, run * CLIENTS + client, ended);
                match (seen, times.lock()) {
                    (Ok(seen), Ok(mut times)) => {
                        for (kind, mut all) in seen {
                            times.entry(kind).or_default().append(&mut all);
                        }
                    }
                    (Err(error), _) => say(&format!("a client failed: {error}")),
                    (_, Err(error)) => say(&format!("a client failed: {error}")),
                }
            });
        }
        let outcome = work();
        ended.store(true, Ordering::SeqCst);
        outcome
    })?;
    Ok(times.into_inner()?)
}

fn drive(address: SocketAddr, client: u64, ended: &AtomicBool) -> Result<Times, Failure> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut times = Times::new();
    let mut number = 0_u64;
    while !ended.load(Ordering::SeqCst) {
        number += 1;
        let content = format!("pushed by {client}: {number}");
        let digest = digest_of(Algorithm::Sha256, content.as_bytes());
        let odd = (number * 2 + 1) % 1000;
        for (kind, line, body) in [
            (
                "push blob",
                format!("POST /v2/load/blobs/uploads/?digest={digest}"),
                content.as_str(),
            ),
            ("head blob", format!("HEAD /v2/load/blobs/{digest}"), ""),
            (
                "get manifest",
                format!("GET /v2/r{}/manifests/t{odd}", odd % REPOSITORIES),
                "",
            ),
        ] {
            let begun = Instant::now();
            let status = request(&mut stream, &line, body)?;
            let took = begun.elapsed();
            if !matches!(status, 200 | 201) {
                return Err(format!("{line}: status {status}").into());
            }
            times.entry(kind).or_default().push(took);
        }
    }
    Ok(times)
}

fn request(stream: &mut BufReader<TcpStream>, line: &str, body: &str) -> Result<u16, Failure> {
    let length = body.len();
    let text = format!("{line} HTTP/1.1\r\nhost: load\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.get_mut().write_all(text.as_bytes())?;
    let mut status = String::new();
    stream.read_line(&mut status)?;
    let code = status.split(' ').nth(1).unwrap_or_default().parse()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    if !line.starts_with("HEAD") {
        stream.read_exact(&mut vec![0; length])?;
    }
    Ok(code)
}

fn print(title: &str, times: &Times) {
    say(title);
    for (kind, all) in times {
        let mut all = all.clone();
        all.sort();
        let at = |part: f64| {
            let place = ((all.len() as f64 - 1.0) * part) as usize;
            all.get(place).copied().unwrap_or_default()
        };
        let count = all.len();
        let (half, most, last) = (at(0.5), at(0.99), at(1.0));
        say(&format!(
            "  {kind:<14}{count:>7} requests   p50 {half:>10.1?}   p99 {most:>10.1?}   max {last:>10.1?}"
        ));
    }
}

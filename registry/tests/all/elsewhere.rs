//! Another registry for the mirror's tests: a second registry in this process, whose answers the
//! test holds up, breaks, spoils and counts.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use config::name::{RepositoryName, Tag, Target};
use http::{Request, response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use registry::digest::Digest;
use registry::http::{Front, Limits, router, serve_router};
use registry::mirror::names::Naming;
use registry::mirror::upstream::{
    Asked, Pieces, RemoteBlob, RemoteManifest, Trouble, Upstream, UpstreamError,
};
use registry::mirror::{Mirror, Options, Source};
use registry::service::{Policy, Registry};
use registry::store::step::Steps;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::door::{Door, options, tcp};

pub(crate) const TTL: u64 = 600;
const PIECE: u64 = 64 * 1024;

/// How the other registry behaves now.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) registry: Registry,
    asked: Mutex<BTreeMap<&'static str, usize>>,
    /// Everything is answered with this.
    pub(crate) trouble: Mutex<Option<Trouble>>,
    /// Bytes of a blob's body after which it waits.
    pub(crate) hold: watch::Sender<u64>,
    /// Who asks for a blob waits while this is true.
    pub(crate) silent: watch::Sender<bool>,
    /// Offsets at which the connection breaks, each once.
    pub(crate) breaks: Mutex<Vec<u64>>,
    /// Manifests and bodies of blobs are not what they should be.
    pub(crate) lies: AtomicBool,
    pub(crate) says_size: AtomicBool,
    pub(crate) has_ranges: AtomicBool,
    pub(crate) says_digest: AtomicBool,
}

impl Script {
    fn new(registry: Registry) -> Self {
        Self {
            registry,
            asked: Mutex::default(),
            trouble: Mutex::default(),
            hold: watch::Sender::new(u64::MAX),
            silent: watch::Sender::new(false),
            breaks: Mutex::default(),
            lies: AtomicBool::new(false),
            says_size: AtomicBool::new(true),
            has_ranges: AtomicBool::new(true),
            says_digest: AtomicBool::new(true),
        }
    }

    /// How often something was asked for.
    pub(crate) fn asked(&self, what: &str) -> usize {
        self.asked.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    pub(crate) fn fail(&self, trouble: impl Into<Option<Trouble>>) {
        *self.trouble.lock().unwrap() = trouble.into();
    }

    fn note(&self, what: &'static str) -> Result<(), UpstreamError> {
        *self.asked.lock().unwrap().entry(what).or_default() += 1;
        self.troubled()
    }

    fn troubled(&self) -> Result<(), UpstreamError> {
        match *self.trouble.lock().unwrap() {
            Some(trouble) => Err(UpstreamError::new(trouble, "the test says no")),
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Elsewhere(Arc<Script>);

fn not_found() -> UpstreamError {
    UpstreamError::new(Trouble::NotFound, "not found")
}

impl Upstream for Elsewhere {
    fn digest<'a>(
        &'a self,
        repository: &'a RepositoryName,
        tag: &'a Tag,
    ) -> Asked<'a, Option<Digest>> {
        Box::pin(async move {
            self.0.note("digest")?;
            let found = self.0.registry.resolve(repository, tag).unwrap();
            let found = found.ok_or_else(not_found)?;
            Ok(self.0.says_digest.load(Ordering::SeqCst).then_some(found))
        })
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a RepositoryName,
        target: &'a Target,
    ) -> Asked<'a, RemoteManifest> {
        Box::pin(async move {
            self.0.note("manifest")?;
            let found = self.0.registry.manifest(repository, target).unwrap();
            let found = found.ok_or_else(not_found)?;
            let mut bytes = found.bytes;
            if self.0.lies.load(Ordering::SeqCst) {
                bytes.push(b' ');
            }
            Ok(RemoteManifest {
                media_type: found.media_type,
                bytes,
                digest: found.digest,
            })
        })
    }

    fn blob_size<'a>(
        &'a self,
        repository: &'a RepositoryName,
        digest: &'a Digest,
    ) -> Asked<'a, Option<u64>> {
        Box::pin(async move {
            self.0.note("size")?;
            let found = self.0.registry.stat_blob(repository, digest).unwrap();
            let size = found.ok_or_else(not_found)?;
            Ok(self.0.says_size.load(Ordering::SeqCst).then_some(size))
        })
    }

    fn blob<'a>(
        &'a self,
        repository: &'a RepositoryName,
        digest: &'a Digest,
        from: u64,
    ) -> Asked<'a, RemoteBlob> {
        Box::pin(async move {
            self.0.note("blob")?;
            let mut silent = self.0.silent.subscribe();
            silent.wait_for(|silent| !silent).await.unwrap();
            self.0.troubled()?;
            let found = self.0.registry.open_blob(repository, digest).unwrap();
            let (file, size) = found.ok_or_else(not_found)?;
            let start = match self.0.has_ranges.load(Ordering::SeqCst) {
                true => from,
                false => 0,
            };
            Ok(RemoteBlob {
                start,
                size: self.0.says_size.load(Ordering::SeqCst).then_some(size),
                pieces: Box::new(Content {
                    script: Arc::clone(&self.0),
                    file,
                    size,
                    at: start,
                }),
            })
        })
    }
}

#[derive(Debug)]
struct Content {
    script: Arc<Script>,
    file: std::fs::File,
    size: u64,
    at: u64,
}

impl Pieces for Content {
    fn next(&mut self) -> Asked<'_, Option<Bytes>> {
        Box::pin(async move {
            if self.at == self.size {
                return Ok(None);
            }
            let mut held = self.script.hold.subscribe();
            let open = *held.wait_for(|open| *open > self.at).await.unwrap();
            let mut until = open.min(self.size).min(self.at + PIECE);
            {
                let mut breaks = self.script.breaks.lock().unwrap();
                if let Some(found) = breaks.iter().position(|offset| *offset == self.at) {
                    breaks.remove(found);
                    return Err(UpstreamError::new(Trouble::Failed, "the line broke"));
                }
                let next = breaks.iter().filter(|offset| **offset > self.at).min();
                until = until.min(next.copied().unwrap_or(u64::MAX));
            }
            let mut bytes = vec![0; usize::try_from(until - self.at).unwrap()];
            self.file.read_exact_at(&mut bytes, self.at).unwrap();
            if self.script.lies.load(Ordering::SeqCst) {
                bytes[0] ^= 1;
            }
            self.at = until;
            Ok(Some(bytes.into()))
        })
    }
}

/// A mirror of `docker.io`, and the registry that stands for it.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) there: Arc<Script>,
    /// Where images are put for the mirror to find.
    pub(crate) origin: Door,
    pub(crate) here: Registry,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) door: Door,
    pub(crate) now: Arc<AtomicU64>,
    pub(crate) data: tempfile::TempDir,
    _other: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with_steps(Steps::default()).await
    }

    /// With somebody who is told of each step of our own registry's writes.
    pub(crate) async fn with_steps(steps: Steps) -> Self {
        let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let origin = Registry::open(options(other.path()), Policy::default()).unwrap();
        let policy = Policy {
            guard: |name| {
                registry::mirror::names::is_kept(name).then_some("kept copies are read only")
            },
            ..Policy::default()
        };
        let options = registry::store::Options {
            steps,
            ..options(data.path())
        };
        let here = Registry::open(options, policy).unwrap();
        let there = Arc::new(Script::new(origin.clone()));
        let now = Arc::new(AtomicU64::new(1_000_000));
        let mirror = Arc::new(mirror(&here, vec![docker_io(&there)], &now));
        Self {
            origin: tcp(&origin).await,
            door: serve(&here, &mirror).await,
            there,
            here,
            mirror,
            now,
            data,
            _other: other,
        }
    }

    /// The same with a second registry, `b.example`, which fails by itself. Both have all of
    /// `origin`.
    pub(crate) async fn with_another() -> (Self, Arc<Script>) {
        let mut bench = Self::new().await;
        let other = Arc::new(Script::new(bench.there.registry.clone()));
        let naming = Naming {
            namespace: "b.example".parse().unwrap(),
            prefix: None,
            default: false,
        };
        let sources = vec![docker_io(&bench.there), source(&other, naming)];
        bench.mirror = Arc::new(mirror(&bench.here, sources, &bench.now));
        bench.door = serve(&bench.here, &bench.mirror).await;
        (bench, other)
    }

    pub(crate) fn later(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Names of unfinished files.
    pub(crate) fn unfinished(&self) -> usize {
        super::door::unfinished(self.data.path()).len()
    }

    pub(crate) fn has_file(&self, digest: &Digest) -> bool {
        self.here.store().blobs().get(digest).unwrap().is_some()
    }
}

fn docker_io(there: &Arc<Script>) -> Source {
    let naming = Naming {
        namespace: "docker.io".parse().unwrap(),
        prefix: Some("hub".parse().unwrap()),
        default: true,
    };
    source(there, naming)
}

fn source(there: &Arc<Script>, naming: Naming) -> Source {
    Source {
        naming,
        tags_ttl: Duration::from_secs(TTL),
        upstream: Box::new(Elsewhere(Arc::clone(there))),
    }
}

fn mirror(here: &Registry, sources: Vec<Source>, now: &Arc<AtomicU64>) -> Mirror {
    let clock = Arc::clone(now);
    let options = Options {
        clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        pause: Duration::from_millis(1),
        ..Options::default()
    };
    Mirror::new(here.clone(), sources, options)
}

async fn serve(here: &Registry, mirror: &Arc<Mirror>) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let front = Front {
        mirror: Arc::clone(mirror),
        ..Front::new(here.clone())
    };
    tokio::spawn(serve_router(
        listener,
        router(front),
        Limits::default(),
        std::future::pending(),
    ));
    Door::Tcp(address)
}

/// An answer whose body is read bit by bit.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) head: response::Parts,
    body: Incoming,
    pub(crate) got: Vec<u8>,
}

impl Slow {
    pub(crate) async fn get(door: &Door, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_get(door, path, headers).await.unwrap()
    }

    /// Whether a pull is refused or breaks: anything but a clean end.
    pub(crate) async fn breaks(door: &Door, path: &str, headers: &[(&str, &str)]) -> bool {
        match Self::try_get(door, path, headers).await {
            Ok(pull) => pull.head.status.is_server_error() || pull.rest().await.is_err(),
            Err(_) => true,
        }
    }

    async fn try_get(
        door: &Door,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, hyper::Error> {
        let Door::Tcp(address) = door else {
            panic!("not a socket")
        };
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Self {
            head,
            body,
            got: Vec::new(),
        })
    }

    /// Reads until `count` bytes are here.
    pub(crate) async fn until(&mut self, count: usize) {
        while self.got.len() < count {
            let frame = self.body.frame().await.unwrap().unwrap();
            self.got.extend_from_slice(frame.data_ref().unwrap());
        }
    }

    /// Reads to the end; an error is a connection that broke.
    pub(crate) async fn rest(mut self) -> Result<Vec<u8>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            self.got.extend_from_slice(frame?.data_ref().unwrap());
        }
        Ok(self.got)
    }
}

/// Content that is large enough to arrive in many pieces.
pub(crate) fn large(seed: u8) -> Vec<u8> {
    (0..2_000_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed)
        .collect()
}

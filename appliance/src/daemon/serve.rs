//! `devpod serve`: the daemon from its first instruction to its last.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::quantity::ByteSize;
use config::settings;
use registry::http::Front;
use registry::http::manage::Reach;
use registry::service::{Policy, Registry, Schedule, Scrubber};
use registry::store::quota::Quotas;
use registry::store::scrub::ScrubOptions;
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use unpacker::container::memory::{self, Layers};
use unpacker::container::{cgroup, idmap};

use crate::api;
use crate::api::types::DaemonStatus;
use crate::app::{self, App};
use crate::clock;
use crate::daemon::folder::DataFolder;
use crate::daemon::{access, descriptors, front, lock, log, socket, webhooks};
use crate::error::{Failure, Kind, Outcome};
use crate::images::{evict, locate, maintain, upstream};
use crate::options::Options;
use crate::ui;

/// Requests that are still being answered at shutdown get so long.
const DRAIN: Duration = Duration::from_secs(10);

/// A daemon that just started has better things to do than to verify blobs.
const SCRUB_AFTER: Duration = Duration::from_secs(60);

/// The exit code of a daemon in the background that was not needed: another has the data folder.
pub const LOST: u8 = 75;

/// Serves until SIGTERM, SIGINT or `devpod daemon stop`; answers the exit code.
pub fn run(options: Options, listen: Option<&str>, detach: bool) -> Outcome<u8> {
    if detach {
        // Fails only for a session leader, which is detached already.
        let _ = rustix::process::setsid();
    }
    let listen = match listen {
        Some(text) => crate::options::address(text)?,
        None => options.settings.registry.listen,
    };
    access::check_exposed(listen, &options.settings.registry)?;
    let folder = DataFolder::new(options.data.clone());
    folder.create().map_err(|error| {
        let message = format!("cannot make the data folder {}", folder.root().display());
        Failure::because(Kind::Internal, message, &error)
            .hint("Choose a folder that you may write with --data or DEVPOD_DATA.")
    })?;
    // Before any thread exists: a user namespace is entered by a whole process or not at all.
    idmap::enter(&folder.sandboxes())
        .map_err(|error| Failure::because(Kind::Denied, "cannot work without root here", &error))?;
    log::init(options.settings.log.format)?;
    descriptors::raise();
    let _lock = if detach {
        // Whoever started this one looks for the other; the log need not tell of it.
        match lock::try_acquire(&folder)? {
            Some(lock) => lock,
            None => return Ok(LOST),
        }
    } else {
        lock::acquire(&folder)?
    };
    // Before the first sandbox, which would otherwise keep the group from being divided later.
    match cgroup::make_room() {
        Ok(Some(leaf)) => tracing::info!(?leaf, "went into a leaf of the control group"),
        Ok(None) => {}
        // Sandboxes without limits need none of it, and the others say what does not hold.
        Err(error) => tracing::warn!(%error, "cannot make room in the control group"),
    }
    folder.sweep()?;
    cover_snapshots(&folder, options.settings.layers.memory)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(options, folder, listen));
    runtime.shutdown_timeout(DRAIN);
    tracing::info!("stopped");
    outcome.map(|()| 0)
}

/// Where no layers can be stacked in the data folder, they are kept in memory.
fn cover_snapshots(folder: &DataFolder, limit: Option<ByteSize>) -> Outcome<()> {
    let snapshots = folder.snapshots();
    std::fs::create_dir_all(&snapshots)?;
    let bytes = limit.map_or_else(memory::half, |limit| limit.0);
    match memory::cover(&snapshots, bytes) {
        Ok(Layers::OnDisk) => {}
        Ok(Layers::InMemory(why)) => tracing::warn!(
            %why,
            bytes,
            "layers cannot be stacked in the data folder; until this daemon ends they are in memory"
        ),
        Ok(Layers::Nowhere(why)) => tracing::warn!(%why, "layers cannot be stacked"),
        // A full disk, for one: whoever wants to make room on it needs a daemon.
        Err(error) => tracing::warn!(%error, "cannot try whether layers can be stacked"),
    }
    Ok(())
}

async fn serve(options: Options, folder: DataFolder, listen: SocketAddr) -> Outcome<()> {
    unpacker::remote::install_crypto();
    let tcp = TcpListener::bind(listen)
        .await
        .map_err(|error| refused(listen, &error))?;
    let address = tcp.local_addr()?;
    let registry = open_registry(&folder, &options.settings.registry)?;
    let mirror = Arc::new(upstream::mirror(&options, &registry)?);
    let collect_every = options.settings.registry.collect_every.limit();
    let scrubber = scrubber(&registry, &options)?;
    let status = DaemonStatus {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        registry: address.to_string(),
        socket: folder.socket(),
        data: folder.root().to_owned(),
        started_at: clock::now_rfc3339(),
        identity: app::identity()?,
    };
    let senders = webhooks::senders(&options, &registry, &status.registry)?;
    // After the senders: metrics name what they count.
    let mut front = front::front(
        registry.clone(),
        Arc::clone(&mirror),
        &options.settings.registry,
        folder.root(),
    )?;
    if !address.ip().is_loopback() {
        front.reach = Reach::Network;
    }
    let cache_max = options.settings.registry.cache_max.map(|max| max.0);
    let runtime = tokio::runtime::Handle::current();
    let built = App::build(
        options,
        registry.clone(),
        status.clone(),
        address.port(),
        runtime,
    )?;
    let app = Arc::new(built);
    let stop = app.shutdown.clone();
    // Before anybody is told that it serves: from then on a signal ends it tidily.
    let signals = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::spawn(until_signal(Arc::clone(&app), signals));
    tokio::spawn(access::on_hangup(Arc::clone(&front.access)));
    let images = Arc::clone(&app.images);
    tokio::spawn(maintain::run(
        Arc::clone(&images),
        Arc::clone(&front.metrics),
        collect_every,
        stop.clone(),
    ));
    let mirrored = tokio::spawn(evict::look_after(
        images,
        Arc::clone(&mirror),
        cache_max,
        stop.clone(),
    ));
    // Whoever can connect is answered, so this is the last thing to be made.
    let unix = socket::bind(&folder.socket())?;
    let control = tokio::spawn(control(unix, Arc::clone(&app), front.clone(), stop.clone()));
    let sending = senders.map(|senders| tokio::spawn(senders.run()));
    write_status(&folder, &status)?;
    tracing::info!(version = status.version, pid = status.pid, %address, "serving");
    ui::news(&format!(
        "devpod {} serves {address} (pid {}, data in {}).",
        status.version,
        status.pid,
        folder.root().display()
    ));
    let health = Arc::clone(&front.health);
    let stopped = async move {
        stop.cancelled().await;
        health.stop();
    };
    let served = registry::http::serve(tcp, front, stopped).await;
    app.stop();
    drop(scrubber);
    // The control API drains too, but not for ever: somebody may follow a log.
    let _ = tokio::time::timeout(DRAIN, control).await;
    if let Some(sending) = sending {
        sending.abort();
    }
    let _ = tokio::time::timeout(DRAIN, mirrored).await;
    close(&folder, &registry);
    served.map_err(|error| Failure::because(Kind::Internal, "the registry stopped", &error))
}

fn open_registry(folder: &DataFolder, settings: &settings::Registry) -> Outcome<Registry> {
    let options = registry::store::Options {
        untagged_keep: Some(Duration::from_secs(settings.untagged_keep.0)),
        quotas: Quotas {
            store: settings.max_bytes.map(|bytes| bytes.0),
            repositories: settings.quotas.clone(),
        },
        ..registry::store::Options::below(folder.root())
    };
    let policy = Policy {
        guard: locate::guard,
        sparse: settings.sparse.clone(),
        ..Policy::default()
    };
    // The index is for us alone. Nothing else runs yet that could make a file meanwhile.
    let before = umask(Mode::RWXG | Mode::RWXO);
    let opened = Registry::open(options, policy);
    umask(before);
    opened.map_err(|error| {
        let message = format!("cannot open the registry in {}", folder.root().display());
        Failure::because(Kind::Internal, message, &error)
    })
}

/// What verifies all blobs from time to time.
fn scrubber(registry: &Registry, options: &Options) -> Outcome<Scrubber> {
    let settings = &options.settings.registry;
    let schedule = Schedule {
        every: Duration::from_secs(settings.scrub_every.0),
        after: SCRUB_AFTER,
        options: ScrubOptions {
            rate: settings.scrub_rate.0,
            ..ScrubOptions::default()
        },
    };
    Ok(Scrubber::start(registry.clone(), schedule)?)
}

fn refused(listen: SocketAddr, error: &std::io::Error) -> Failure {
    let failure = |kind, why: &str| Failure::because(kind, why, error);
    match error.kind() {
        std::io::ErrorKind::AddrInUse => failure(
            Kind::Conflict,
            &format!("port {} is taken by another program", listen.port()),
        )
        .hint("Choose another: `devpod config set registry.listen 127.0.0.1:5001`.")
        .hint(format!(
            "Who has it: `ss -ltnp 'sport = :{}'`.",
            listen.port()
        )),
        _ => failure(Kind::Unavailable, &format!("cannot listen on {listen}")),
    }
}

async fn control(listener: UnixListener, app: Arc<App>, front: Front, stop: CancellationToken) {
    let router = api::router(app, front);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the control API stopped");
    }
}

async fn until_signal(app: Arc<App>, (mut terminate, mut interrupt): (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = app.shutdown.cancelled() => {}
    }
    app.stop();
}

/// Others read this file when the daemon is ready.
fn write_status(folder: &DataFolder, status: &DaemonStatus) -> Outcome<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder.root())?;
    let text = serde_json::to_string(status).map_err(std::io::Error::from)?;
    writeln!(file, "{text}")?;
    file.persist(folder.status()).map_err(|error| error.error)?;
    Ok(())
}

fn close(folder: &DataFolder, registry: &Registry) {
    if let Err(error) = registry.store().export() {
        tracing::warn!(%error, "index.json could not be written");
    }
    if let Err(error) = registry.flush_events() {
        tracing::warn!(?error, "the last events could not be written");
    }
    if let Err(error) = registry.record_pulls() {
        tracing::warn!(%error, "pulls could not be recorded");
    }
    remove(&folder.status());
    if folder.socket().exists() {
        // A signal may come before it was bound.
        remove(&folder.socket());
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(?path, ?error, "cannot remove");
    }
}

//! Stand-in names: empty files of the uploads folder whose directory entries are durable before
//! anybody uses them.
//!
//! Content that is written into such a file and synced survives a power cut whatever other names it
//! gets meanwhile, so a commit need not sync a folder: the journal says which stand-in is which
//! blob. One folder sync pays for a whole batch of names, in the background. An upload that finds
//! none goes on without; if it turns out large, its commit syncs the folder itself.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags, fsync, openat, unlinkat};

use crate::store::blobs::BLOB_MODE;
use crate::store::sessions::SessionId;

/// Names per folder sync.
const BATCH: usize = 32;
/// Fewer than this many make the next batch.
const LOW: usize = 16;
/// With fewer than this many the next batch is urgent; before, it waits until nobody takes any.
const URGENT: usize = 6;
/// Between two looks. Small blobs need no stand-in, so a flood of them must not cost a sync each.
const PAUSE: Duration = Duration::from_millis(200);

/// The stand-in name of what is uploaded as `id`.
pub(super) fn stand_in(id: &str) -> String {
    format!("p-{id}")
}

/// Whether a name of the uploads folder is a stand-in.
pub(super) fn is_stand_in(name: &str) -> bool {
    name.starts_with("p-")
}

/// The unused names, and the thread that makes them. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Pool {
    ready: Arc<Ready>,
    wanted: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Ready {
    uploads: OwnedFd,
    ids: Mutex<Vec<SessionId>>,
}

impl Pool {
    pub(super) fn start(uploads: OwnedFd) -> io::Result<Self> {
        let ids = Mutex::new(Vec::new());
        let ready = Arc::new(Ready { uploads, ids });
        let (wanted, wants) = sync_channel(1);
        let maker = Arc::clone(&ready);
        let thread = Builder::new()
            .name("registry-names".to_owned())
            .spawn(move || run(&maker, &wants))?;
        Ok(Self {
            ready,
            wanted: Some(wanted),
            thread: Some(thread),
        })
    }

    /// An identifier whose stand-in is an empty file of its own.
    pub(super) fn take(&self) -> Option<SessionId> {
        let mut ids = self.ready.ids();
        let id = ids.pop();
        if let (true, Some(wanted)) = (ids.len() < LOW, &self.wanted) {
            // Full: it is on its way. Gone: uploads go on without.
            let _ = wanted.try_send(());
        }
        id
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // After a panic there the next open sweeps what it made.
            let _ = thread.join();
        }
        for id in self.ready.ids().drain(..) {
            let name = stand_in(id.as_str());
            let _ = unlinkat(&self.ready.uploads, name, AtFlags::empty());
        }
    }
}

impl Ready {
    fn ids(&self) -> MutexGuard<'_, Vec<SessionId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refill(&self) -> io::Result<()> {
        let mut made = Vec::with_capacity(BATCH);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        for _ in 0..BATCH {
            let id = SessionId::random()?;
            openat(&self.uploads, stand_in(id.as_str()), flags, BLOB_MODE)?;
            made.push(id);
        }
        fsync(&self.uploads)?;
        self.ids().append(&mut made);
        Ok(())
    }
}

fn run(ready: &Ready, wants: &Receiver<()>) {
    loop {
        if let Err(error) = ready.refill() {
            tracing::debug!(?error, "no stand-in names; large uploads sync their folder");
        }
        // Ends with the pool, whose drop must not wait for a pause.
        if wants.recv().is_err() {
            return;
        }
        settle(ready);
    }
}

/// Keeps out of the way of a push.
fn settle(ready: &Ready) {
    let mut left = usize::MAX;
    loop {
        std::thread::sleep(PAUSE);
        let now = ready.ids().len();
        if now < URGENT || now == left {
            return;
        }
        left = now;
    }
}

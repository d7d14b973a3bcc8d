//! `~/.devpod/logs/NAME-YYYYMMDDhhmmss.log` (UTC): what an `up` or `start` reported.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use config::workspace::WorkspaceName;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use time::OffsetDateTime;
use time::macros::format_description;
use unpacker::progress::{Event, Progress};

use crate::progress::Reporter;

/// How many logs of one workspace are kept.
const KEPT: usize = 20;
const STAMP: usize = "YYYYMMDDhhmmss".len();

/// The folder.
#[derive(Debug)]
pub struct Logs {
    folder: OwnedFd,
}

impl Logs {
    pub(super) fn new(folder: OwnedFd) -> Self {
        Self { folder }
    }

    /// A new log. A second one in the same second gets the next free second's name.
    pub fn create(&self, name: &WorkspaceName, now: OffsetDateTime) -> io::Result<(String, File)> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        for later in 0..60 {
            let file = file_name(name, now + time::Duration::seconds(later));
            match openat(&self.folder, &file, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => return Ok((file, File::from(fd))),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    /// The logs of a workspace, newest first.
    pub fn list(&self, name: &WorkspaceName) -> io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.folder)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            if is_of(&file, name.as_str()) {
                files.push(file);
            }
        }
        files.sort_by(|a, b| b.cmp(a));
        Ok(files)
    }

    /// One of the names that [`Logs::list`] answers.
    pub fn open(&self, file: &str) -> io::Result<File> {
        if file.contains('/') {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(File::from(openat(
            &self.folder,
            file,
            flags,
            Mode::empty(),
        )?))
    }

    /// Ends a log: what failed stands last in it; one in which nothing was said is not kept.
    pub fn finish(&self, name: &str, log: &mut File, failure: Option<&str>) -> io::Result<()> {
        if log.metadata()?.len() == 0 {
            unlinkat(&self.folder, name, AtFlags::empty())?;
            return Ok(());
        }
        match failure {
            Some(text) => writeln!(log, "error: {text}"),
            None => Ok(()),
        }
    }

    /// Removes all but the newest.
    pub fn prune(&self, name: &WorkspaceName) -> io::Result<()> {
        self.keep(name, KEPT)
    }

    /// Removes all.
    pub fn clear(&self, name: &WorkspaceName) -> io::Result<()> {
        self.keep(name, 0)
    }

    fn keep(&self, name: &WorkspaceName, kept: usize) -> io::Result<()> {
        for file in self.list(name)?.iter().skip(kept) {
            unlinkat(&self.folder, file, AtFlags::empty())?;
        }
        Ok(())
    }
}

fn file_name(name: &WorkspaceName, now: OffsetDateTime) -> String {
    let stamp = now
        .to_offset(time::UtcOffset::UTC)
        .format(format_description!(
            "[year][month][day][hour][minute][second]"
        ));
    // Every part of the description exists in a date with a time.
    format!("{name}-{}.log", stamp.unwrap_or_default())
}

/// `app` has `app-20261121040000.log` but not `app-x-20261121040000.log`.
fn is_of(file: &str, name: &str) -> bool {
    let stamp = file
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(".log"));
    stamp.is_some_and(|stamp| stamp.len() == STAMP && stamp.bytes().all(|b| b.is_ascii_digit()))
}

/// Progress that is also written down. A log that cannot be written does not stop the work.
pub struct Tee {
    inner: Reporter,
    file: Mutex<File>,
}

impl std::fmt::Debug for Tee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tee").finish_non_exhaustive()
    }
}

impl Tee {
    pub fn new(inner: Reporter, file: File) -> Self {
        Self {
            inner,
            file: Mutex::new(file),
        }
    }
}

impl Progress for Tee {
    fn event(&self, event: Event) {
        let text = match &event {
            Event::Line { text } => Some(format!("{text}\n")),
            Event::Step(news) => builder::report::line(news).map(|text| format!("{text}\n")),
            Event::Warning { text } => Some(format!("warning: {text}\n")),
            Event::Output { text, .. } => Some(text.clone()),
            Event::Transfer { .. } | Event::Finished { .. } => None,
        };
        if let (Some(text), Ok(mut file)) = (text, self.file.lock()) {
            let _ = file.write_all(text.as_bytes());
        }
        self.inner.event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::store::Store;
    use std::io::Read;
    use std::sync::Arc;
    use time::macros::datetime;

    #[test]
    fn names_follow_the_clock_and_never_collide() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let (app, other): (WorkspaceName, WorkspaceName) =
            ("app".parse().unwrap(), "app-x".parse().unwrap());
        let now = datetime!(2026-11-21 04:05:06 +2);
        let (first, _) = store.logs().create(&app, now).unwrap();
        let (second, _) = store.logs().create(&app, now).unwrap();
        store.logs().create(&other, now).unwrap();
        assert_eq!(first, "app-20261121020506.log");
        assert_eq!(second, "app-20261121020507.log");
        assert_eq!(store.logs().list(&app).unwrap(), [second, first]);
        assert!(store.logs().open("../workspaces").is_err());
    }

    #[test]
    fn old_ones_go() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let app: WorkspaceName = "app".parse().unwrap();
        for second in 0..25 {
            let now = datetime!(2026-01-01 00:00:00 UTC) + time::Duration::seconds(second);
            store.logs().create(&app, now).unwrap();
        }
        store.logs().prune(&app).unwrap();
        let left = store.logs().list(&app).unwrap();
        assert_eq!(
            (left.len(), left[0].as_str()),
            (KEPT, "app-20260101000024.log")
        );
    }

    #[test]
    fn a_tee_writes_what_people_read() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let app: WorkspaceName = "app".parse().unwrap();
        let (name, file) = store
            .logs()
            .create(&app, OffsetDateTime::UNIX_EPOCH)
            .unwrap();
        let seen = Arc::new(Mutex::new(0));
        let count = Arc::clone(&seen);
        let tee = Tee::new(Arc::new(move |_| *count.lock().unwrap() += 1), file);
        tee.event(Event::Line {
            text: "[Builder] Cloning repository...".into(),
        });
        tee.event(Event::Output {
            stderr: true,
            text: "a\nb\n".into(),
            step: None,
        });
        tee.event(Event::Warning { text: "w".into() });
        let mut text = String::new();
        store
            .logs()
            .open(&name)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "[Builder] Cloning repository...\na\nb\nwarning: w\n");
        assert_eq!(*seen.lock().unwrap(), 3);
    }
}

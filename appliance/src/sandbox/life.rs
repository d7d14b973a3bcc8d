//! The life of a sandbox: started, stopped, started again, waited for.
//!
//! Whoever starts holds the sandbox's folder from the decision until the process runs; whoever stops
//! notes that first, ends what runs and then takes the hold. So of a stop and a start that the
//! restart policy asks for, one always sees the other, and nothing runs after a stop.

use std::collections::HashSet;
use std::os::unix::net::UnixStream;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use unpacker::container::supervise::{self, Held, State, SuperviseError};
use unpacker::progress::Cancel;

use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::local::Sandboxes;
use crate::sandbox::plan;
use crate::sandbox::record::{self, Record};
use crate::sandbox::refusal::{not_usable, start_failed};

/// How often a waiting call looks whether its caller is still there.
const LOOK: Duration = Duration::from_millis(500);
/// What is told of a sandbox whose end nobody saw: the host was restarted.
const LOST_CODE: i32 = 255;
/// How long a process has between its stop signal and SIGKILL when nobody says.
const GRACE: Duration = Duration::from_secs(10);

impl Sandboxes {
    /// Starts a sandbox that does not run; what it changed before is still there.
    pub fn start(&self, record: &Record) -> Outcome<()> {
        let folder = self.folder(record);
        let held = supervise::hold(&folder).map_err(|error| start_failed(record, &error))?;
        self.forget_stopped(record)?;
        record::set_restarts(&folder, 0)?;
        self.launch(record, held)
    }

    /// Starts it as its restart policy says; `None` where it says that nothing is to be started.
    /// `is_first` when this daemon has just begun.
    ///
    /// Decided while the folder is held. Whoever stops it notes that first and then waits for the
    /// hold: so either the note is seen here, or what is started here is seen there.
    pub fn start_again(&self, record: &Record, is_first: bool) -> Outcome<Option<()>> {
        let folder = self.folder(record);
        let held = match supervise::hold(&folder) {
            // Somebody else has started it meanwhile.
            Err(SuperviseError::Running { .. }) => return Ok(Some(())),
            held => held.map_err(|error| start_failed(record, &error))?,
        };
        let stopped = record::is_stopped(&folder);
        let is_first = is_first && !self.stopped().contains(&record.id);
        let times = record::restarts(&folder);
        let policy = record.keeping.restart;
        if !policy.restarts(self.state(record)?, stopped, times, is_first) {
            return Ok(None);
        }
        tracing::info!(id = record.id, %policy, times, "starting a sandbox again");
        // Counted first: a crash in between makes one start too few, and never too many.
        record::set_restarts(&folder, times.saturating_add(1))?;
        self.forget_stopped(record)?;
        self.launch(record, held).map(Some)
    }

    pub(super) fn stopped(&self) -> MutexGuard<'_, HashSet<String>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_stopped(&self, record: &Record) -> Outcome<()> {
        self.stopped().insert(record.id.clone());
        Ok(record::set_stopped(&self.folder(record), true)?)
    }

    fn forget_stopped(&self, record: &Record) -> Outcome<()> {
        self.stopped().remove(&record.id);
        Ok(record::set_stopped(&self.folder(record), false)?)
    }

    fn launch(&self, record: &Record, held: Held) -> Outcome<()> {
        supervise::start_held(&self.launcher, held, &self.wired(record))
            .map(|_| ())
            .map_err(|error| start_failed(record, &error))
    }

    /// Starts it with a stream to its first process that misses nothing.
    pub fn start_attached(&self, record: &Record) -> Outcome<UnixStream> {
        supervise::start_attached(&self.launcher, &self.folder(record), &self.wired(record))
            .map_err(|error| start_failed(record, &error))
    }

    /// Stops it; nothing of it runs when this returns, and nobody starts it again by himself.
    pub fn stop(&self, record: &Record, grace: Option<Duration>) -> Outcome<()> {
        let folder = self.folder(record);
        // Noted first, so that nobody starts it again in between.
        self.note_stopped(record)?;
        loop {
            self.end_politely(record, grace)?;
            match supervise::hold(&folder) {
                // A start that was under way and had not seen the note.
                Err(SuperviseError::Running { .. }) => {}
                // Noted once more: that start took the note for an older one's.
                Ok(_held) => return self.note_stopped(record),
                // A `--rm` one that has gone.
                Err(_) if !folder.exists() => return Ok(()),
                Err(error) => return Err(not_usable(record, &error)),
            }
        }
    }

    fn end_politely(&self, record: &Record, grace: Option<Duration>) -> Outcome<()> {
        let signal = plan::signal(record.stop_signal.as_deref());
        let own = record.keeping.stop_timeout.map(Duration::from_secs);
        let grace = grace.or(own).unwrap_or(GRACE);
        match supervise::stop(&self.folder(record), signal, grace) {
            // It does not run, or ended by itself a moment ago.
            Ok(_) | Err(SuperviseError::NotRunning) => Ok(()),
            // A `--rm` one that has gone.
            Err(_) if !self.folder(record).exists() => Ok(()),
            Err(error) => Err(not_usable(record, &error)),
        }
    }

    /// Sends a signal to the first process. One that ends it counts as stopping on purpose.
    pub fn signal(&self, record: &Record, text: &str) -> Outcome<()> {
        let signal = plan::known_signal(text)?;
        let ends = [
            libc::SIGKILL,
            libc::SIGTERM,
            plan::signal(record.stop_signal.as_deref()),
        ];
        if ends.contains(&signal) {
            self.note_stopped(record)?;
        }
        let folder = self.folder(record);
        let sent = match supervise::signal(&folder, signal) {
            // A start that is under way may not have seen the note.
            Err(SuperviseError::NotRunning)
                if matches!(
                    supervise::hold(&folder),
                    Err(SuperviseError::Running { .. })
                ) =>
            {
                supervise::signal(&folder, signal)
            }
            sent => sent,
        };
        sent.map_err(|error| not_usable(record, &error))
    }

    /// Waits for the end; the exit code. Of one that does not run, that of its last run.
    pub fn wait(&self, record: &Record, cancel: &Cancel) -> Outcome<i32> {
        while self.is_running(record)? {
            cancel
                .check()
                .map_err(|error| Failure::from_error(Kind::Cancelled, &error))?;
            supervise::wait_a_while(&self.folder(record), LOOK)?;
        }
        match self.state(record)? {
            State::Exited(exit) => Ok(exit.code()),
            State::Lost | State::Stopped => Ok(LOST_CODE),
            _ => Err(Failure::conflict(format!(
                "sandbox {:?} was never started",
                record.name
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;
    use unpacker::container::launch::Launcher;
    use unpacker::container::network::spec::{Bridging, Wiring};
    use unpacker::container::resources::Resources;
    use unpacker::container::spec::{
        self, Confinement, ContainerSpec, LogLimits, Mount, Network, Process, RootFs, User,
    };
    use unpacker::snapshot::store::Snapshots;

    use super::*;
    use crate::sandbox::local::Defaults;
    use crate::sandbox::options::{Keeping, RestartPolicy};
    use crate::sandbox::surroundings::Surroundings;
    use crate::sandbox::volumes::Volumes;
    use config::sandbox::RegistryAccess;

    /// Sandboxes of which none can be started: the helper is not there.
    fn sandboxes(data: &Path) -> Sandboxes {
        std::fs::create_dir_all(data.join("sandboxes")).unwrap();
        Sandboxes::open(
            data.join("sandboxes"),
            Arc::new(Snapshots::open(&data.join("snapshots")).unwrap()),
            Launcher {
                exe: data.join("none"),
            },
            Surroundings {
                registry: None,
                access: RegistryAccess::None,
                allow: Vec::new(),
                deny: Vec::new(),
                bridge: Bridging::default(),
            },
            Volumes::open(&data.join("volumes")).unwrap(),
            Defaults::default(),
        )
        .unwrap()
    }

    /// One that ran until the host went down.
    fn ended(sandboxes: &Sandboxes, restart: RestartPolicy) -> Record {
        let id = "0123456789ab".to_owned();
        let spec = ContainerSpec {
            rootfs: RootFs {
                lower: vec![],
                upper: "/none".into(),
                work: "/none".into(),
                volatile: false,
                becomes_layer: false,
            },
            hostname: id.clone(),
            mounts: Vec::new(),
            network: Network::Host,
            wiring: Wiring::default(),
            process: Process {
                args: vec!["true".to_owned()],
                env: Vec::new(),
                cwd: "/".to_owned(),
                user: User::default(),
                terminal: false,
                confinement: Confinement::default(),
            },
            init: false,
            resources: Resources::default(),
            surroundings: spec::Surroundings::default(),
            log: LogLimits::default(),
        };
        let record = Record {
            name: id.clone(),
            image: String::new(),
            image_digest: String::new(),
            stack: Vec::new(),
            spec,
            stop_signal: None,
            remove: false,
            volumes: Vec::new(),
            keeping: Keeping {
                restart,
                ..Keeping::default()
            },
            created_at: String::new(),
            id,
        };
        let folder = sandboxes.folder(&record);
        std::fs::create_dir(&folder).unwrap();
        record.save(&folder).unwrap();
        let nobody = json!({ "pid": 1, "start": 0 });
        let monitor = json!({
            "version": 1, "boot": "an earlier one", "monitor": nobody, "container": nobody,
            "started": "",
        });
        std::fs::write(folder.join("monitor.json"), monitor.to_string()).unwrap();
        assert_eq!(sandboxes.state(&record).unwrap(), State::Stopped);
        record
    }

    #[test]
    fn a_removed_one_takes_its_volumes_although_the_daemon_crashed() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = sandboxes(dir.path());
        let record = ended(&sandboxes, RestartPolicy::No);
        let give = |name| {
            let provided = sandboxes.volumes.provide(name, None, &Cancel::default());
            provided.unwrap().name
        };
        let (own, named) = (give(None), give(Some("named")));
        let shown = |name| Mount::Bind {
            source: sandboxes.volumes.data(name),
            target: "/x".into(),
            read_only: false,
        };
        let mut doomed = Record {
            remove: true,
            volumes: vec![own.clone()],
            ..record
        };
        doomed.spec.mounts = vec![shown(&own), shown(&named)];
        doomed.save(&sandboxes.folder(&doomed)).unwrap();
        let next = self::sandboxes(dir.path());
        assert!(!next.folder(&doomed).exists());
        let left: Vec<_> = next.volumes.list().unwrap();
        assert_eq!(
            left.iter().map(|volume| &volume.name).collect::<Vec<_>>(),
            [&named]
        );
    }

    #[test]
    fn volumes_of_a_start_that_was_killed_go() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = sandboxes(dir.path());
        let mut record = ended(&sandboxes, RestartPolicy::No);
        let give = |name| {
            let provided = sandboxes.volumes.provide(name, None, &Cancel::default());
            provided.unwrap().name
        };
        let (lost, kept, named) = (give(None), give(None), give(Some("named")));
        let left = give(None);
        // Its sandbox was removed, and it was to stay.
        sandboxes.volumes.claim(&left).unwrap();
        record.spec.mounts = vec![Mount::Bind {
            source: sandboxes.volumes.data(&kept),
            target: "/x".into(),
            read_only: false,
        }];
        record.save(&sandboxes.folder(&record)).unwrap();
        drop(sandboxes);
        for _ in 0..2 {
            let next = self::sandboxes(dir.path());
            let names: Vec<String> = (next.volumes.list().unwrap().into_iter())
                .map(|volume| volume.name)
                .collect();
            assert!(!names.contains(&lost));
            for name in [&kept, &named, &left] {
                assert!(names.contains(name), "{names:?}");
            }
        }
    }

    #[test]
    fn a_stop_wins_over_a_restart_that_was_just_decided() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = sandboxes(dir.path());
        let record = ended(&sandboxes, RestartPolicy::Always);
        // The keeper has seen that it ended and wants to start it: it tries.
        assert!(sandboxes.start_again(&record, false).is_err());
        // Somebody stops it between the keeper's look and its start.
        sandboxes.stop(&record, None).unwrap();
        for is_first in [false, true] {
            assert_eq!(sandboxes.start_again(&record, is_first).unwrap(), None);
        }
        assert!(record::is_stopped(&sandboxes.folder(&record)));
        // Whoever starts it on purpose takes that back, and the keeper goes on.
        assert!(sandboxes.start(&record).is_err());
        assert!(sandboxes.start_again(&record, false).is_err());
    }

    #[test]
    fn a_stop_waits_for_a_start_that_is_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = sandboxes(dir.path());
        let record = ended(&sandboxes, RestartPolicy::Always);
        let starting = supervise::hold(&sandboxes.folder(&record)).unwrap();
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| sandboxes.stop(&record, None));
            while !record::is_stopped(&sandboxes.folder(&record)) {
                std::thread::yield_now();
            }
            assert!(!stopping.is_finished());
            drop(starting);
            stopping.join().unwrap().unwrap();
        });
    }
}

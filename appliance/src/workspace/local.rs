//! The appliance's own images and sandboxes as a workspace's backend.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use builder::request::{BuildRequest, DockerfileSource};
use config::name::Reference;
use config::project::Limits;
use config::quantity::Seconds;
use unpacker::container::resources::Resources;
use unpacker::container::spec::{Mount, Process};
use unpacker::container::stream::{self, Frame};
use unpacker::layer::root::Root;
use unpacker::progress::{Cancel, Progress};

use super::backend::{Backend, ImageBuild, ImageFacts, Person, SandboxPlan, SandboxState};
use super::failure::{Class, Fault};
use crate::api::types::SandboxRequest;
use crate::error::{Failure, Kind};
use crate::images::service::Images;
use crate::progress::Reporter;
use crate::sandbox::local::{Runnable, Sandboxes};
use crate::sandbox::options::{Keeping, RunOptions};
use crate::sandbox::plan::check_name;
use crate::sandbox::record::{Record, WORKSPACE};
use crate::sandbox::removal::Removal;

/// A Dockerfile is text that people write.
const MAX_DOCKERFILE: u64 = 4 << 20;
/// How long a command that is cancelled may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);
/// What a workspace's first process does: it waits, and ends at once when it is told to.
const WAIT: [&str; 3] = [
    "/bin/sh",
    "-c",
    "trap 'exit 0' TERM INT; while :; do sleep 2147483647 & wait $!; done",
];

/// This host.
#[derive(Debug)]
pub struct Local {
    pub images: Arc<Images>,
    pub sandboxes: Arc<Sandboxes>,
    /// `<data>/volumes`
    pub volumes: PathBuf,
    pub compression: unpacker::layer::compress::Compression,
    pub timeout: Option<Duration>,
    /// Images whose layers are still packed, by their first tag; `None` for those that could not be kept.
    pub early: Mutex<BTreeMap<String, Option<Runnable>>>,
}

impl Local {
    fn find(&self, name: &str) -> Result<Option<Record>, Fault> {
        match self.sandboxes.find(name) {
            Ok(record) => Ok(Some(record)),
            Err(failure) if failure.kind == Kind::NotFound => Ok(None),
            Err(failure) => Err(fault(failure)),
        }
    }

    fn expect(&self, name: &str) -> Result<Record, Fault> {
        self.sandboxes.find(name).map_err(fault)
    }

    fn facts(
        &self,
        reference: &str,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<ImageFacts, Fault> {
        let image = self
            .images
            .runnable(reference, None, progress, cancel)
            .map_err(fault)?;
        Ok(facts(reference, &image))
    }

    fn early(&self) -> MutexGuard<'_, BTreeMap<String, Option<Runnable>>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volume(&self, name: &str) -> Result<PathBuf, Fault> {
        check_name(name).map_err(fault)?;
        Ok(self.volumes.join(name))
    }
}

impl Backend for Local {
    fn build(
        &self,
        build: &ImageBuild,
        progress: &Reporter,
        cancel: &Cancel,
        ready: &(dyn Fn(ImageFacts) + Sync),
    ) -> Result<ImageFacts, Fault> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| Fault::io(what, &error)
        };
        let root = Root::open(&build.root).map_err(io("cannot open the repository"))?;
        // Through descriptors: a link in a repository must not lead the build out of it.
        let context = root
            .sub(build.context.as_ref())
            .map_err(io("cannot open the context"))?;
        let text = root.read_small(build.dockerfile.as_ref(), MAX_DOCKERFILE);
        let text = text.map_err(io(&format!("cannot read {}", build.dockerfile)))?;
        let path = format!("/proc/self/fd/{}", context.as_fd().as_raw_fd());
        let mut request = BuildRequest::new(path.as_ref());
        request.dockerfile = DockerfileSource::Text {
            name: build.dockerfile.clone(),
            text,
        };
        request.build_args.clone_from(&build.args);
        request.target.clone_from(&build.target);
        request.no_cache = build.no_cache;
        request.compression = self.compression;
        request.parallel = self.images.build_parallel.unwrap_or(request.parallel);
        let Limits {
            cpu,
            memory,
            timeout,
        } = build.limits;
        let usual = &self.images.build_limits;
        request.resources.cpus = cpu.map(|cpu| cpu.0).or(usual.cpus);
        request.resources.memory = memory.map(|memory| memory.0).or(usual.memory);
        request.timeout = match timeout {
            Some(Seconds(seconds)) => (seconds > 0).then(|| Duration::from_secs(seconds)),
            None => self.timeout,
        };
        for tag in &build.tags {
            request
                .names
                .push(tag.parse::<Reference>().map_err(|e| fault(e.into()))?);
        }
        let first = build.tags.first().ok_or_else(|| {
            Fault::new(
                Class::Internal,
                "a workspace's image was built without a name",
            )
        })?;
        let mut packing = Packing {
            local: self,
            name: first,
            kept: false,
        };
        let early = |image: Runnable| {
            let facts = facts(first, &image);
            self.early().insert(first.clone(), Some(image));
            ready(facts);
        };
        (self.images)
            .run_build(&request, progress.as_ref(), cancel, &early)
            .map_err(build_fault)?;
        packing.kept = true;
        drop(packing);
        self.facts(first, progress.as_ref(), cancel)
    }

    fn pull(
        &self,
        reference: &str,
        progress: &Reporter,
        cancel: &Cancel,
    ) -> Result<ImageFacts, Fault> {
        self.facts(reference, progress.as_ref(), cancel)
    }

    fn remove_images(&self, reference: &str) -> Result<(), Fault> {
        self.images.forget_repository(reference).map_err(fault)
    }

    fn sandbox(&self, name: &str) -> Result<SandboxState, Fault> {
        let Some(record) = self.find(name)? else {
            return Ok(SandboxState::Missing);
        };
        match self.sandboxes.is_running(&record).map_err(fault)? {
            true => Ok(SandboxState::Running),
            false => Ok(SandboxState::Stopped),
        }
    }

    fn create_sandbox(&self, plan: &SandboxPlan, cancel: &Cancel) -> Result<String, Fault> {
        let silent = unpacker::progress::Silent;
        let early = self.early().get(&plan.image).cloned();
        let runnable = match early {
            Some(Some(image)) => image,
            // Under its name there may be an older one.
            Some(None) => {
                let text = format!("the image {} could not be kept", plan.image);
                return Err(Fault::new(Class::Internal, text));
            }
            None => (self.images.runnable(&plan.image, None, &silent, cancel)).map_err(fault)?,
        };
        let wait = plan
            .override_command
            .then(|| WAIT.map(str::to_owned).to_vec());
        let request = SandboxRequest {
            image: plan.image.clone(),
            name: Some(plan.name.clone()),
            hostname: Some(plan.hostname.clone()),
            entrypoint: wait.is_some().then(String::new),
            command: wait.unwrap_or_default(),
            env: plan.env.clone(),
            user: plan.user.clone(),
            options: RunOptions {
                resources: Resources {
                    cpus: plan.limits.cpu.map(|cpu| cpu.0),
                    memory: plan.limits.memory.map(|memory| memory.0),
                    ..Resources::default()
                },
                keeping: Keeping {
                    idle_timeout: plan.limits.timeout.map(|seconds| seconds.0),
                    labels: [(WORKSPACE.to_owned(), plan.name.clone())].into(),
                    ..Keeping::default()
                },
                ..RunOptions::default()
            },
            ..SandboxRequest::default()
        };
        let record = self
            .sandboxes
            .make(&runnable, &request, &plan.mounts, cancel)
            .map_err(fault)?;
        Ok(record.id)
    }

    fn rely_on(&self, name: &str, image_digest: Option<&str>) -> Result<(), Fault> {
        self.sandboxes.rely_on(name, image_digest).map_err(fault)
    }

    fn start_sandbox(&self, name: &str) -> Result<(), Fault> {
        let record = self.expect(name)?;
        if self.sandboxes.is_running(&record).map_err(fault)? {
            return Ok(());
        }
        missing_mounts(&record)?;
        self.sandboxes.start(&record).map_err(fault)
    }

    fn stop_sandbox(&self, name: &str, grace: Duration) -> Result<(), Fault> {
        match self.find(name)? {
            Some(record) => self.sandboxes.stop(&record, Some(grace)).map_err(fault),
            None => Ok(()),
        }
    }

    fn remove_sandbox(&self, name: &str) -> Result<(), Fault> {
        match self.find(name)? {
            // With what its image's `VOLUME`s held, as everything else that it changed.
            Some(record) => (self.sandboxes)
                .remove(&record, Removal::WHOLE)
                .map_err(fault),
            None => Ok(()),
        }
    }

    fn person(&self, sandbox: &str, user: &str) -> Result<Person, Fault> {
        let record = self.expect(sandbox)?;
        let resolved = self.sandboxes.resolve(&record, user).map_err(fault)?;
        Ok(Person {
            uid: resolved.user.uid,
            gid: resolved.user.gid,
            groups: resolved.user.groups,
            name: resolved.name,
            home: resolved.home,
            shell: resolved.shell,
        })
    }

    fn exec(
        &self,
        sandbox: &str,
        process: &Process,
        output: &mut dyn FnMut(bool, &[u8]),
        cancel: &Cancel,
    ) -> Result<i32, Fault> {
        let record = self.expect(sandbox)?;
        let mut stream = self
            .sandboxes
            .exec_process(&record, process)
            .map_err(fault)?;
        let broken = |error: std::io::Error| Fault::io("the command's stream broke", &error);
        close_stdin(&mut stream).map_err(broken)?;
        // So that a cancel is noticed while the command says nothing.
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .map_err(broken)?;
        let mut decoder = stream::Decoder::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            if cancel.is_cancelled() {
                end_command(&mut stream, &mut buffer);
                return Err(Fault::new(Class::Cancelled, "cancelled"));
            }
            let count = match std::io::Read::read(&mut stream, &mut buffer) {
                Ok(0) => return Err(Fault::new(Class::Internal, "the command was lost")),
                Ok(count) => count,
                Err(error) if is_pause(&error) => continue,
                Err(error) => return Err(broken(error)),
            };
            decoder.push(buffer.get(..count).unwrap_or_default());
            while let Some(frame) = decoder
                .next_frame()
                .map_err(|error| Fault::new(Class::Internal, error.to_string()))?
            {
                match frame {
                    Frame::Stdout(bytes) => output(false, &bytes),
                    Frame::Stderr(bytes) => output(true, &bytes),
                    Frame::Exit(exit) => return Ok(exit.code()),
                    Frame::Error(text) => return Err(Fault::new(Class::Internal, text)),
                    _ => {}
                }
            }
        }
    }

    fn create_volume(&self, name: &str) -> Result<PathBuf, Fault> {
        let path = self.volume(name)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(|error| Fault::io(format!("cannot make the volume {name}"), &error))?;
        Ok(path)
    }

    fn remove_volume(&self, name: &str) -> Result<(), Fault> {
        let path = self.volume(name)?;
        // A workspace may have made paths that are too deep to be named.
        let removed = match Root::open(&self.volumes) {
            Ok(volumes) => {
                let name = path.file_name().unwrap_or_default();
                volumes.remove_all(Path::new(name))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| Fault::io(format!("cannot remove the volume {name}"), &error))
    }
}

/// Forgets an early image when its build has ended, however it did.
struct Packing<'a> {
    local: &'a Local,
    name: &'a str,
    kept: bool,
}

impl Drop for Packing<'_> {
    fn drop(&mut self) {
        let mut early = self.local.early();
        match self.kept {
            true => drop(early.remove(self.name)),
            false => {
                early
                    .entry(self.name.to_owned())
                    .and_modify(|image| *image = None);
            }
        }
    }
}

fn facts(reference: &str, image: &Runnable) -> ImageFacts {
    ImageFacts {
        reference: reference.to_owned(),
        digest: image.digest.clone(),
        user: image.config.user.clone(),
        env: image.config.env.clone(),
    }
}

/// Tells a command that it is given nothing. One that has ended already needs not be told; what it said
/// and how it ended is still to be read.
fn close_stdin(stream: &mut UnixStream) -> std::io::Result<()> {
    match stream::write(stream, &Frame::CloseStdin) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Tells a command and all that it started to end, and gives it a moment for that. Closing the stream
/// afterwards hangs up on what is left, which a little later is killed.
fn end_command(stream: &mut UnixStream, buffer: &mut [u8]) {
    for signal in [libc::SIGHUP, libc::SIGTERM] {
        // One who has ended needs no signal.
        let _ = stream::write(stream, &Frame::Signal(signal));
    }
    let deadline = Instant::now() + FAREWELL;
    while Instant::now() < deadline {
        match std::io::Read::read(stream, buffer) {
            // The stream ends with the command.
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// A folder that was moved away since is the usual reason, and a mount error says it badly.
fn missing_mounts(record: &Record) -> Result<(), Fault> {
    for mount in &record.spec.mounts {
        let source = match mount {
            Mount::Bind { source, .. } => source.clone(),
            Mount::Beneath { root, place, .. } => root.join(place),
            Mount::Tmpfs { .. } => continue,
        };
        if !source.exists() {
            let message = format!("{} is gone", source.display());
            return Err(Fault::new(Class::NotFound, message)
                .suggest("Put it back, or run `devpod up --recreate`."));
        }
    }
    Ok(())
}

fn fault(failure: Failure) -> Fault {
    let class = match failure.kind {
        Kind::Internal => Class::Internal,
        Kind::Invalid => Class::Invalid,
        Kind::NotFound => Class::NotFound,
        Kind::Conflict => Class::Conflict,
        Kind::Unavailable => Class::Network,
        Kind::Denied => Class::Permission,
        Kind::Exhausted => Class::Resources,
        Kind::Cancelled => Class::Cancelled,
    };
    let mut fault = Fault::new(class, failure.message);
    fault.causes = failure.causes;
    fault.suggestion = (!failure.hints.is_empty()).then(|| failure.hints.join(" "));
    fault
}

/// A build that failed for no other reason failed over its Dockerfile.
fn build_fault(failure: Failure) -> Fault {
    let mut fault = fault(failure);
    if matches!(fault.class, Class::Internal | Class::Invalid) {
        fault.class = Class::Dockerfile;
    }
    fault
}

#[cfg(test)]
mod tests {
    use unpacker::container::exit::Exit;

    use super::*;

    #[test]
    fn a_command_that_has_ended_already_is_still_heard() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        stream::write(&mut theirs, &Frame::Exit(Exit::Code(7))).unwrap();
        drop(theirs);
        close_stdin(&mut ours).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut ours, &mut bytes).unwrap();
        let mut decoder = stream::Decoder::default();
        decoder.push(&bytes);
        let told = decoder.next_frame().unwrap();
        assert!(matches!(told, Some(Frame::Exit(Exit::Code(7)))), "{told:?}");
    }
}

//! Programs of the host, run for the person.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use unpacker::container::idmap;
use unpacker::container::launch::Launcher;
use unpacker::progress::Cancel;

pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// How long a cancelled program may go on.
const TICK: Duration = Duration::from_millis(100);
/// How long the output of an ended one is still read.
const DRAIN: Duration = Duration::from_secs(2);

/// A program of the host to be run.
#[derive(Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The program first; looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// Complete.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
}

impl std::fmt::Debug for Invocation {
    /// Without the environment, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invocation")
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// Runs programs of the host as the person, whatever the daemon calls itself: in the daemon's user
/// namespace id 0 would look for keys in /root.
pub trait Runner: Send + Sync {
    /// Runs to the end, standard input empty, both outputs into `output`; answers the exit code
    /// (128 + signal). Ends the whole process group when `cancel` is set. A missing program is
    /// `ErrorKind::NotFound`.
    fn run(
        &self,
        invocation: &Invocation,
        output: &mut dyn FnMut(&[u8]),
        cancel: &Cancel,
    ) -> io::Result<i32>;
}

/// Runs programs as the user who started us: out of the daemon's user namespace they see the ids
/// and the home that ssh and git expect.
#[derive(Debug, Clone)]
pub struct HostRunner {
    launcher: Launcher,
}

impl HostRunner {
    pub fn new(launcher: Launcher) -> Self {
        Self { launcher }
    }
}

impl Runner for HostRunner {
    fn run(
        &self,
        invocation: &Invocation,
        output: &mut dyn FnMut(&[u8]),
        cancel: &Cancel,
    ) -> io::Result<i32> {
        let (program, args) = invocation
            .args
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let (reader, writer) = io::pipe()?;
        let mut command = idmap::as_user(&self.launcher, find(program, &invocation.env)?)?;
        command
            .args(args)
            .env_clear()
            .envs(invocation.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&invocation.cwd)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let child = command.spawn()?;
        // The command holds the pipe's writing ends; with them the reader would never see the end.
        drop(command);
        relay(child, reader, output, cancel)
    }
}

/// The standard library looks a program up in our own PATH, not in the one that it is given.
fn find(program: &str, env: &[(String, String)]) -> io::Result<PathBuf> {
    let path = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, v)| v);
    if program.contains('/') {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    path.split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Path::new(folder).join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn relay(
    mut child: Child,
    reader: io::PipeReader,
    output: &mut dyn FnMut(&[u8]),
    cancel: &Cancel,
) -> io::Result<i32> {
    let chunks = read_apart(reader);
    let mut killed = false;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match chunks.recv_timeout(TICK) {
            Ok(bytes) => output(&bytes),
            Err(RecvTimeoutError::Disconnected) => break,
            // What a program leaves behind (ssh's ControlPersist, git's maintenance) may hold the
            // pipe for hours.
            Err(RecvTimeoutError::Timeout) if ended.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        match &ended {
            None => ended = child.try_wait()?.map(|status| (status, Instant::now())),
            Some((_, since)) if since.elapsed() > DRAIN => break,
            Some(_) => {}
        }
        if cancel.is_cancelled() && !killed {
            killed = true;
            kill_group(&child);
        }
    }
    let status = match ended {
        Some((status, _)) => status,
        None => child.wait()?,
    };
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

fn kill_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn read_apart(mut reader: io::PipeReader) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 8192];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..read].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str], cancel: &Cancel) -> io::Result<(i32, String)> {
        let invocation = Invocation {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![
                ("PATH".into(), DEFAULT_PATH.into()),
                ("X".into(), "y".into()),
            ],
            cwd: "/".into(),
        };
        let mut text = Vec::new();
        let mut output = |bytes: &[u8]| text.extend_from_slice(bytes);
        let code = HostRunner::new(Launcher::this()).run(&invocation, &mut output, cancel)?;
        Ok((code, String::from_utf8_lossy(&text).into_owned()))
    }

    #[test]
    fn answers_output_and_exit() {
        let script = "echo $X; echo two >&2; pwd; cat; exit 3";
        let (code, text) = run(&["sh", "-c", script], &Cancel::default()).unwrap();
        assert_eq!((code, text.as_str()), (3, "y\ntwo\n/\n"));
        let (code, _) = run(&["sh", "-c", "kill -TERM $$"], &Cancel::default()).unwrap();
        assert_eq!(code, 128 + 15);
    }

    #[test]
    fn a_missing_program_is_not_found() {
        for program in ["no-such-program", "../bin/sh"] {
            let error = run(&[program], &Cancel::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{program}");
        }
    }

    #[test]
    fn a_cancelled_one_ends_with_its_children() {
        let cancel = Cancel::default();
        cancel.cancel();
        let started = Instant::now();
        let (code, _) = run(&["sh", "-c", "sleep 60 & sleep 60"], &cancel).unwrap();
        assert_eq!(code, 128 + 9);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_it_leaves_behind_is_not_waited_for() {
        let started = Instant::now();
        let script = "sleep 20 & echo done; exit 4";
        let (code, text) = run(&["sh", "-c", script], &Cancel::default()).unwrap();
        assert_eq!((code, text.as_str()), (4, "done\n"));
        assert!(started.elapsed() < Duration::from_secs(15));
    }
}

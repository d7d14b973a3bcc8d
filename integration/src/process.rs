//! Running programs to their end, with a limit of time, and reading what they said.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use rustix::process::{Pid, Signal, kill_process};

/// A build with package downloads on two busy cores stays below this.
const LIMIT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(10);

/// What a program left.
#[derive(Debug, Clone)]
pub struct Ran {
    /// What was run, for messages.
    pub command: String,
    /// The exit code; 128 plus the signal when one ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Panics with everything that was said unless the program succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "{self}");
        self
    }

    /// Panics unless it failed with this code.
    #[track_caller]
    pub fn failed(self, code: i32) -> Self {
        assert!(self.code == code, "expected exit code {code}\n{self}");
        self
    }

    /// Standard output without white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error})\n{self}"),
        }
    }

    /// Panics unless one of the outputs contains the text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let found = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(found, "expected to read {text:?}\n{self}");
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ended with {}", self.command, self.code)?;
        writeln!(f, "--- stdout\n{}", self.stdout)?;
        writeln!(f, "--- stderr\n{}", self.stderr)
    }
}

/// Runs a program with no input.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_within(command, LIMIT)
}

/// Runs a program with no input and kills it after a time.
#[track_caller]
pub fn run_within(command: &mut Command, limit: Duration) -> Ran {
    let name = format!("{command:?}");
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match spawn(command) {
        Ok(child) => child,
        Err(error) => panic!("cannot start {name}: {error}"),
    };
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ended = wait(&mut child, limit);
    if ended.is_none() {
        // It is our child; when it has just ended there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }
    // Reads to the end of both pipes: a program that leaves a daemon behind must not give them to it.
    let ran = Ran {
        command: name,
        code: ended.unwrap_or(-1),
        stdout: finish(stdout),
        stderr: finish(stderr),
    };
    assert!(ended.is_some(), "killed after {limit:?}: {ran}");
    ran
}

/// Waits for a child of ours; `None` when it still runs after the time.
pub fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            return Some(code.unwrap_or(-1));
        }
        if begun.elapsed() > limit {
            return None;
        }
        thread::sleep(POLL);
    }
}

/// What each thread of a process waits for, as the kernel tells it: for the message of a test that waited
/// in vain. Stacks are only told to root.
pub fn threads(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let mut told = String::new();
    for task in tasks.into_iter().flatten().flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let state = read("stat");
        let state = state.rsplit(')').next().unwrap_or_default();
        let state = state.split_whitespace().next().unwrap_or_default();
        let (name, stack) = (read("comm"), read("stack"));
        let (name, waits) = (name.trim(), read("wchan"));
        told.push_str(&format!("{name} is {state} in {waits}\n{stack}"));
    }
    told
}

/// Sends a signal to a child of ours.
pub fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It may have ended on its own; waiting for it tells.
    let _ = kill_process(pid.expect("a process id"), signal);
}

/// Waits until something is true, or panics with what was waited for.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(POLL);
    }
}

type Collected = JoinHandle<Vec<u8>>;

fn collect(stream: Option<impl Read + Send + 'static>) -> Collected {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What could be read until an error is what there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn finish(collected: Collected) -> String {
    let bytes = collected.join().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Starts a program that may have been copied a moment ago: a test that starts its own at the same
/// time holds the copy open for writing until its child executes.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

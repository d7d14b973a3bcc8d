//! The last steps before an exec, for a container's first process and every later one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::process::Signal;

use super::confine;
use super::devices::APT_CONFIG;
use super::idmap::IdMap;
use super::launch::{Refusal, Refuse, Stage};
use super::seccomp::Changes;
use super::spec::{Process, User};
use super::sys;
use super::wire::Wire;

/// Where a program is looked for when its environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What becomes descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Stdio {
    input: OwnedFd,
    output: OwnedFd,
    error: OwnedFd,
    is_terminal: bool,
}

/// There is no way back from an exec.
pub(crate) enum Never {}

impl Stdio {
    pub(crate) fn pipes(input: OwnedFd, output: OwnedFd, error: OwnedFd) -> Self {
        Self {
            input,
            output,
            error,
            is_terminal: false,
        }
    }

    /// All three are one terminal.
    pub(crate) fn terminal(terminal: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            input: terminal.try_clone()?,
            output: terminal.try_clone()?,
            error: terminal,
            is_terminal: true,
        })
    }

    /// Nothing to read, and nobody who reads.
    pub(crate) fn null() -> io::Result<Self> {
        let null = || {
            let options = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null");
            options.map(OwnedFd::from)
        };
        Ok(Self::pipes(null()?, null()?, null()?))
    }

    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.input.as_fd(), self.output.as_fd(), self.error.as_fd()]
    }

    /// Puts them in their places.
    pub(crate) fn install(&self) -> io::Result<()> {
        rustix::stdio::dup2_stdin(&self.input)?;
        rustix::stdio::dup2_stdout(&self.output)?;
        rustix::stdio::dup2_stderr(&self.error)?;
        Ok(())
    }

    /// Lets the user open `/dev/stdout` again, as docker does. Only what was made for this
    /// process: never `/dev/null`.
    fn give_to(&self, user: &User) {
        for fd in [&self.input, &self.output, &self.error] {
            let ours = self.is_terminal
                || rustix::fs::fstat(fd)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
            if ours {
                let uid = rustix::fs::Uid::from_raw(user.uid);
                // Without other ids it is theirs already.
                let _ = rustix::fs::fchown(fd, Some(uid), None);
            }
        }
    }
}

/// Confines this process, takes on the user and executes. The working folder is entered already.
/// Changes of owners that only a note can keep are told to `recorder`.
pub(crate) fn become_program(
    process: &Process,
    ids: &IdMap,
    stdio: Stdio,
    recorder: Option<&Wire>,
) -> Result<Never, Refusal> {
    let refuse = |what: &'static str| move || what.to_owned();
    let env = environment(process, ids.is_single());
    let args = strings(&process.args)?;
    let env_strings = strings(&env)?;
    stdio.give_to(&process.user);
    stdio
        .install()
        .refuse(Stage::Confine, refuse("set up input and output"))?;
    // A process that leads a session already keeps it.
    let _ = rustix::process::setsid();
    if stdio.is_terminal {
        sys::take_terminal(rustix::stdio::stdin())
            .refuse(Stage::Confine, refuse("take over the terminal"))?;
    }
    drop(stdio);
    confine::rename_the_id(ids, &process.user)?;
    confine::limit(&process.confinement)?;
    let changes = match ids.is_single() {
        true => Changes::Pretended,
        false => Changes::Real,
    };
    confine::confine(&process.confinement, changes, recorder)?;
    confine::become_user(ids, &process.user)?;
    // A change of the user forgets it, so it comes after that.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .refuse(Stage::Confine, refuse("die with the parent"))?;
    sys::close_on_exec_from(3).refuse(Stage::Confine, refuse("close what is not for it"))?;
    sys::reset_signals().refuse(Stage::Confine, refuse("reset signals"))?;
    Err(execute(&process.args, &env, &args, &env_strings))
}

fn environment(process: &Process, single_id: bool) -> Vec<String> {
    let mut env = process.env.clone();
    if single_id && !env.iter().any(|line| line.starts_with("APT_CONFIG=")) {
        env.push(format!("APT_CONFIG={APT_CONFIG}"));
    }
    env
}

fn strings(texts: &[String]) -> Result<Vec<CString>, Refusal> {
    let string = |text: &String| {
        CString::new(text.as_str()).refuse(Stage::NotExecutable, || {
            format!("pass {text:?} to a program")
        })
    };
    texts.iter().map(string).collect()
}

/// Looks the program up as a shell does, and says what a shell would when there is none.
fn execute(words: &[String], env: &[String], args: &[CString], env_strings: &[CString]) -> Refusal {
    let Some(name) = words.first().filter(|name| !name.is_empty()) else {
        return Refusal::new(Stage::NotFound, "no program is given to run");
    };
    let mut denied = None;
    for path in candidates(name, env) {
        let Ok(program) = CString::new(path) else {
            continue;
        };
        let error = sys::execve(&program, args, env_strings);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            _ => {
                denied.get_or_insert(error);
            }
        }
    }
    match denied {
        Some(error) => Refusal::new(
            Stage::NotExecutable,
            format!("cannot execute {name:?}: {error}"),
        ),
        None if name.contains('/') => Refusal::new(
            Stage::NotFound,
            format!("cannot execute {name:?}: it, or the interpreter it asks for, is not there"),
        ),
        None => Refusal::new(Stage::NotFound, format!("{name:?} is not found in PATH")),
    }
}

fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().rev().find_map(|line| line.strip_prefix("PATH="));
    (path.unwrap_or(DEFAULT_PATH).split(':'))
        .map(|folder| match folder {
            "" => format!("./{name}"),
            folder => format!("{folder}/{name}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_in_their_own_path() {
        let env = ["PATH=/a".to_owned(), "PATH=/b::/c".to_owned()];
        assert_eq!(candidates("x", &env), ["/b/x", "./x", "/c/x"]);
        assert_eq!(candidates("./x", &env), ["./x"]);
        assert_eq!(candidates("x", &[]).len(), 6);
    }
}

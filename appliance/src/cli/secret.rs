//! Passwords as they are typed or piped in: never from an argument, which every user of the machine
//! could read, and never shown. Whoever gives up at the prompt gets the terminal back as it was.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Failure, Kind, Outcome};
use crate::ui;

/// Longer than any password, short enough for a mistaken file.
const MAX_INPUT: u64 = 64 * 1024;

/// Asks for a password on a terminal; elsewhere standard input is the password.
pub(super) async fn read(prompt: &str) -> Outcome<String> {
    let stdin = io::stdin();
    let text = if stdin.is_terminal() {
        read_unseen(prompt).await?
    } else {
        let mut text = String::new();
        stdin.lock().take(MAX_INPUT).read_to_string(&mut text)?;
        text
    };
    // The line's end is no part of it; anything else may be.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::invalid("no password was given")
            .hint("Type it when asked, or pass it on standard input."));
    }
    Ok(text.to_owned())
}

/// A signal that would end this process ends the question instead, so that what hides the answer is
/// undone. A read of a terminal cannot be cancelled, but it does not hold up the end either.
async fn read_unseen(prompt: &str) -> Outcome<String> {
    let mut ends = Ends::catch()?;
    let silence = Silence::enter();
    ui::raw_stderr(prompt.as_bytes());
    let line = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        let read = io::stdin().lock().take(MAX_INPUT).read_line(&mut text);
        read.map(|_| text)
    });
    let answer = tokio::select! {
        line = line => line.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(Failure::from),
        () = ends.any() => Err(Failure::new(Kind::Cancelled, "no password was given")),
    };
    drop(silence);
    ui::raw_stderr(b"\n");
    answer
}

/// The signals that end a process at a terminal.
struct Ends([Signal; 4]);

impl Ends {
    fn catch() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, quit, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Asks for one line that may be seen; `None` where there is no terminal to ask on.
pub(super) fn ask(prompt: &str) -> Outcome<Option<String>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    ui::raw_stderr(prompt.as_bytes());
    let mut text = String::new();
    stdin.lock().take(MAX_INPUT).read_line(&mut text)?;
    Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
}

/// While this lives the terminal shows nothing of what is typed.
struct Silence(Option<rustix::termios::Termios>);

impl Silence {
    fn enter() -> Self {
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(stdin.as_fd()) else {
            return Self(None);
        };
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        let set = tcsetattr(stdin.as_fd(), OptionalActions::Flush, &quiet);
        Self(set.ok().map(|()| before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that has gone needs no repair.
            let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Flush, before);
            let _ = io::stderr().flush();
        }
    }
}

//! Passwords as they are typed or piped in: never from an argument, which every user of the machine
//! could read, and never shown.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::{Failure, Outcome};
use crate::ui;

/// Longer than any password, short enough for a mistaken file.
const MAX_INPUT: u64 = 64 * 1024;

/// Asks for a password on a terminal; elsewhere standard input is the password.
pub(super) fn read(prompt: &str) -> Outcome<String> {
    let stdin = io::stdin();
    let mut text = String::new();
    if stdin.is_terminal() {
        ui::raw_stderr(prompt.as_bytes());
        let _silence = Silence::enter();
        stdin.lock().take(MAX_INPUT).read_line(&mut text)?;
        ui::raw_stderr(b"\n");
    } else {
        stdin.lock().take(MAX_INPUT).read_to_string(&mut text)?;
    }
    // The line's end is no part of it; anything else may be.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::invalid("no password was given")
            .hint("Type it when asked, or pass it on standard input."));
    }
    Ok(text.to_owned())
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

//! What a person at a terminal gets back after giving up at a question.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use integration::appliance::Place;
use integration::probe;
use integration::process::{self, eventually};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

const SOON: Duration = Duration::from_secs(60);

/// A terminal: the side of whoever types, and the side of the program.
pub(crate) fn terminal() -> (File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    (master.into(), slave)
}

fn shows_what_is_typed(terminal: &OwnedFd) -> bool {
    let modes = tcgetattr(terminal.as_fd()).unwrap();
    modes.local_modes.contains(LocalModes::ECHO)
}

#[test]
fn whoever_gives_up_at_a_password_gets_the_terminal_back() {
    if !probe::programs(&["setsid"]) {
        return;
    }
    let place = Place::new();
    for end in [None, Some(Signal::TERM), Some(Signal::HUP)] {
        let (mut person, slave) = terminal();
        // A session of its own, whose terminal this is: so that Ctrl-C is a signal.
        let devpod = place.program().to_owned();
        let mut command = place.command("setsid");
        command.arg("--ctty").arg(devpod);
        command.args(["login", "--username", "ann", "registry.invalid"]);
        let side = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side());
        let mut login = process::spawn(&mut command).unwrap();
        eventually("the question", SOON, || !shows_what_is_typed(&slave));
        match end {
            None => person.write_all(b"\x03").unwrap(),
            Some(signal) => process::signal(&login, signal),
        }
        let code = process::wait(&mut login, SOON);
        assert_eq!(code, Some(130), "{end:?}");
        assert!(shows_what_is_typed(&slave), "{end:?}");
    }
}

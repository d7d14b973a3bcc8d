//! Containers, with busybox as their whole system. The test binary is its own helper.

#[path = "container/fixture.rs"]
mod fixture;
#[path = "container/foreground.rs"]
mod foreground;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    unpacker::container::dispatch();
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    trials.extend(foreground::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

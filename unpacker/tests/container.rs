//! Containers, with busybox as their whole system. The test binary is its own helper, and runs
//! all of its trials again as ordinary users, inside the user namespace that a daemon makes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code, which clippy does not recognise without the standard harness"
)]

#[path = "container/debian.rs"]
mod debian;
#[path = "container/fixture.rs"]
mod fixture;
#[path = "container/foreground.rs"]
mod foreground;
#[path = "container/hostile.rs"]
mod hostile;
#[path = "container/ids.rs"]
mod ids;
#[path = "container/limits.rs"]
mod limits;
#[path = "container/network.rs"]
mod network;
#[path = "container/ordinary.rs"]
mod ordinary;
#[path = "container/overlay.rs"]
mod overlay;
#[path = "container/relay.rs"]
mod relay;
#[path = "container/sandbox.rs"]
mod sandbox;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    unpacker::container::dispatch();
    let mut words: Vec<_> = std::env::args().collect();
    let inside = words.get(1).is_some_and(|word| word == ordinary::INSIDE);
    if inside {
        let sandboxes = words[2].clone();
        if let Err(error) = unpacker::container::idmap::enter(sandboxes.as_ref()) {
            println!("{error}");
            return ExitCode::FAILURE;
        }
        words.drain(1..3);
        if words
            .get(1)
            .is_some_and(|step| sandbox::play(step, sandboxes.as_ref()))
        {
            return ExitCode::SUCCESS;
        }
    }
    if words.get(1).is_some_and(|word| word == network::NAMED) {
        network::play_named_host();
        return ExitCode::SUCCESS;
    }
    if words.get(1).is_some_and(|word| word == relay::FLOODED) {
        relay::play_flooded_host();
        return ExitCode::SUCCESS;
    }
    if words.get(1).is_some_and(|word| word == foreground::VICTIM) {
        foreground::play_victim(&words[2]);
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_iter(words);
    let mut trials = Vec::new();
    trials.extend(foreground::trials());
    trials.extend(sandbox::trials());
    trials.extend(limits::trials());
    trials.extend(ids::trials());
    trials.extend(debian::trials());
    trials.extend(overlay::trials());
    trials.extend(network::trials());
    trials.extend(relay::trials());
    trials.extend(hostile::trials());
    if !inside {
        trials.extend(ordinary::trials());
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

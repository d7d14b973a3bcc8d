//! Whole builds: Dockerfile and context in, image out, on a base of one busybox. The test binary is
//! its own helper for containers.

// A test says by a panic that it failed; clippy knows tests only by their attribute.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "build/buildah.rs"]
mod buildah;
#[path = "build/caching.rs"]
mod caching;
#[path = "build/contexts.rs"]
mod contexts;
#[path = "build/copying.rs"]
mod copying;
#[path = "build/failing.rs"]
mod failing;
#[path = "build/fetching.rs"]
mod fetching;
#[path = "build/fixture.rs"]
mod fixture;
#[path = "build/flags.rs"]
mod flags;
#[path = "build/graph.rs"]
mod graph;
#[path = "build/images.rs"]
mod images;
#[path = "build/mounting.rs"]
mod mounting;
#[path = "build/running.rs"]
mod running;
#[path = "build/single_id.rs"]
mod single_id;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    unpacker::container::dispatch();
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    trials.extend(images::trials());
    trials.extend(copying::trials());
    trials.extend(flags::trials());
    trials.extend(contexts::trials());
    trials.extend(fetching::trials());
    trials.extend(mounting::trials());
    trials.extend(running::trials());
    trials.extend(caching::trials());
    trials.extend(graph::trials());
    trials.extend(failing::trials());
    trials.extend(buildah::trials());
    trials.extend(single_id::trials());
    if let Some(reason) = fixture::missing() {
        for trial in &trials {
            eprintln!("skipped: {}: {reason}", trial.name());
        }
        trials.clear();
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

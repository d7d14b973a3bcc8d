//! devpod against the tools that people use now, in one run on one machine.
//!
//! `cargo bench -p integration` prints one line per figure: our median, the peer's, and the ratio. A
//! peer that is not installed is named with the reason and left out. Ratios are what counts: wall
//! times differ from machine to machine and from minute to minute. A word after `--` names the figures
//! to take: unpack, build, transfer, run, up.
//!
//! | figure | what runs | peer |
//! |---|---|---|
//! | unpack | a Debian base from local storage into an empty folder | umoci unpack |
//! | build, cold | six steps on that base, 4,000 files of context | buildah bud --layers |
//! | build, cached | the same again | buildah bud --layers |
//! | push, pull | ten blobs of 20 MB by skopeo --preserve-digests | docker-registry |
//! | run, exec | `sandbox run`, `sandbox exec` to the first instruction and to the end, root and rootless | runc, podman, docker |
//! | up, warm | `devpod up` of a workspace that runs | none |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod build;
mod figures;
mod run;
mod runtimes;
mod transfer;
mod unpack;
mod up;

fn main() {
    // Cargo passes `--bench`.
    let wanted: Vec<String> = (std::env::args().skip(1))
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if is_wanted("run") {
        run::measure();
    }
    type Measure = fn(&figures::Bench);
    let others: [(&str, Measure); 4] = [
        ("unpack", unpack::measure),
        ("build", build::measure),
        ("transfer", transfer::measure),
        ("up", up::measure),
    ];
    if others.iter().any(|(name, _)| is_wanted(name)) {
        let bench = figures::Bench::start();
        for (_, measure) in others.iter().filter(|(name, _)| is_wanted(name)) {
            measure(&bench);
        }
    }
}

//! devpod against the tools that people use now, in one run on one machine.
//!
//! `cargo bench -p integration` prints one line per figure: our median, the peer's, and the ratio. A
//! peer that is not installed is named with the reason and left out. Ratios are what counts: wall
//! times differ from machine to machine and from minute to minute. `DEVPOD_BENCH_ONLY=unpack` (or
//! `run`, `build`) leaves the others out.
//!
//! | figure | what runs | peer |
//! |---|---|---|
//! | unpack | 1 GB, 50,000 entries and six layers from local storage to the first process in it | umoci unpack, podman pull, ctr import, docker load |
//! | unpack, again | the same image once more, to the first process | none |
//! | unpack, one folder | the same image into an empty folder | umoci unpack |
//! | build | six steps over 20,000 files to an image in the registry, cold, cached, with one file changed; one more RUN; memory | BuildKit root and rootless, buildah |
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
mod fresh;
mod image;
mod run;
mod runtimes;
mod transfer;
mod unpack;
mod up;

fn main() {
    let only = std::env::var("DEVPOD_BENCH_ONLY").unwrap_or_default();
    if only.is_empty() || only == "unpack" {
        unpack::measure();
    }
    if only.is_empty() || only == "run" {
        run::measure();
    }
    if only.is_empty() || only == "build" {
        build::measure();
    }
    if !only.is_empty() {
        return;
    }
    let bench = figures::Bench::start();
    transfer::measure(&bench);
    up::measure(&bench);
}

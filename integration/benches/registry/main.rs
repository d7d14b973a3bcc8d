//! The registry against the registries that people use now: every figure of the speed targets, in one
//! run, on one machine, over loopback.
//!
//! ```text
//! cargo bench -p integration --bench registry -- [--quick] [--once] [FIGURE]
//! ```
//!
//! `FIGURE` is a part of a name below; `--quick` takes small sizes and one round, and is a smoke run;
//! `--once` takes one round of the real sizes.
//! Rounds go through all servers in turn, so that a busy minute hurts everybody, and medians are
//! told. Ratios are what counts: more than 1 says that devpod is better. Peers: Debian's
//! `docker-registry` where it is installed, and `registry` (distribution v3) and `zot` where the
//! folder `DEVPOD_BENCH_PEERS` has them; zot is told to sync what it acknowledges, as the others do.
//!
//! | figure | what runs |
//! |---|---|
//! | machine | SHA-256 of one core, and durable writes of the same bytes: the slower bounds a push |
//! | skopeo | push of 10 layers of 50 MB by `skopeo copy --preserve-digests` |
//! | push | the same by POST and PUT, and in PATCH chunks of 10 MB, 1 and 4 at once |
//! | fsyncs | calls of fsync and its kin for an image of two layers, counted by strace |
//! | pull | a blob of 500 MB 16 times, 1 and 8 clients that do not copy it; the server's CPU |
//! | requests | manifest by tag and digest, small blob, HEAD of a blob: 16 connections |
//! | small-pushes | 32 clients, each blob of 1 KB + configuration + manifest + tag |
//! | memory | the most resident memory while 16 clients push 1 GB each |
//! | many-tags | lists and manifests beside 1,000,000 tags in 10,000 repositories, and beside 300 |
//! | collection | what pushes wait for while 20,000 blobs are collected, on disk and in memory |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod collection;
mod fsyncs;
mod hammer;
mod machine;
mod many_tags;
mod memory;
mod noise;
mod pull;
mod push;
mod requests;
mod server;
mod skopeo;
mod small_pushes;
mod table;
mod wire;

use server::{Kind, Server};
use table::{Figure, Table};

/// How large the run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) quick: bool,
    /// One round, whatever a measurement asks for.
    once: bool,
}

impl Scale {
    /// The first number in a real run, the second in a smoke run.
    pub(crate) fn of<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// One block of figures, taken from one running server.
struct Measure {
    name: &'static str,
    rounds: usize,
    /// Whether peers are measured too.
    peers: bool,
    run: fn(&Server, Scale) -> Vec<Figure>,
}

const MEASURES: [Measure; 9] = [
    measure("skopeo", 3, true, skopeo::measure),
    measure("push", 3, true, push::measure),
    measure("fsyncs", 1, true, fsyncs::measure),
    measure("pull", 3, true, pull::measure),
    measure("requests", 3, true, requests::measure),
    measure("small-pushes", 3, true, small_pushes::measure),
    measure("memory", 1, true, memory::measure),
    measure("many-tags", 1, false, many_tags::measure),
    measure("collection", 1, false, collection::measure),
];

const fn measure(
    name: &'static str,
    rounds: usize,
    peers: bool,
    run: fn(&Server, Scale) -> Vec<Figure>,
) -> Measure {
    Measure {
        name,
        rounds,
        peers,
        run,
    }
}

fn main() {
    // Cargo itself adds --bench.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let told = |flag: &str| words.iter().any(|word| word == flag);
    let scale = Scale {
        quick: told("--quick"),
        once: told("--quick") || told("--once"),
    };
    let filter = words.iter().find(|word| !word.starts_with("--"));
    let wanted = |name: &str| filter.is_none_or(|part| name.contains(part.as_str()));
    if wanted("machine") {
        machine::measure(scale);
    }
    for measure in MEASURES.iter().filter(|measure| wanted(measure.name)) {
        run(measure, scale);
    }
}

fn run(measure: &Measure, scale: Scale) {
    let mut kinds = vec![Kind::Devpod];
    if measure.peers {
        kinds.extend(server::peers());
    }
    let mut table = Table::new(measure.name, &kinds);
    let rounds = if scale.once { 1 } else { measure.rounds };
    if measure.peers && !scale.quick {
        // Memory that a hypervisor has taken back costs whoever touches it first; that one does not
        // count.
        let server = Server::start(&Kind::Devpod);
        (measure.run)(&server, scale);
    }
    for _ in 0..rounds {
        for kind in &kinds {
            let server = Server::start(kind);
            table.add(kind, (measure.run)(&server, scale));
        }
    }
    table.print();
}

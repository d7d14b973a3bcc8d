//! What pushes wait for while a collection removes many blobs: with the data where temporary files
//! are, and, by a server of its own, in memory. A push that waits as long in memory waits for the
//! server, and not for the disk.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Scale;
use crate::hammer::Outcome;
use crate::noise::{digest, unique};
use crate::server::Server;
use crate::small_pushes::push;
use crate::table::Figure;
use crate::wire::Connection;

const CLIENTS: usize = 8;
const SEEDERS: usize = 32;

/// Linux has a file system in memory here, for programs that share memory.
const MEMORY: &str = "/dev/shm";

pub(crate) fn measure(server: &Server, scale: Scale) -> Vec<Figure> {
    let mut figures = collect(server, scale, "");
    if Path::new(MEMORY).is_dir() {
        let server = Server::devpod_below(Path::new(MEMORY));
        figures.extend(collect(&server, scale, "memory: "));
    }
    figures
}

fn collect(server: &Server, scale: Scale, place: &str) -> Vec<Figure> {
    let blobs = scale.of(20_000, 500);
    make_garbage(server, blobs);
    let quiet = under_load(server, 100, || {
        std::thread::sleep(Duration::from_secs(scale.of(5, 1)));
    });
    let mut took = Duration::ZERO;
    let collected = under_load(server, 200, || {
        let begun = Instant::now();
        let appliance = server.appliance().expect("devpod");
        appliance.run(&["image", "prune"]).ok();
        took = begun.elapsed();
    });
    let mut figures = vec![Figure::less(
        format!("{place}collecting {blobs} blobs"),
        "s",
        took.as_secs_f64(),
    )];
    for (name, outcome) in [("without", &quiet), ("while collecting", &collected)] {
        for percent in [50, 99, 100] {
            let what = if percent == 100 {
                "longest".to_owned()
            } else {
                format!("p{percent}")
            };
            let time = outcome.percentile(percent);
            figures.push(Figure::less(
                format!("{place}push {name}: {what}"),
                "ms",
                time,
            ));
        }
    }
    figures
}

/// Blobs that no repository shows any more; their files stay until a collection.
fn make_garbage(server: &Server, blobs: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SEEDERS {
            scope.spawn(|| {
                let mut connection = Connection::open(&server.address);
                while next.fetch_add(1, Ordering::Relaxed) < blobs {
                    let blob = [&[0; 1008][..], &unique()[..]].concat();
                    let digest = digest(&blob);
                    let post = format!("/v2/bench/garbage/blobs/uploads/?digest={digest}");
                    connection.send("POST", &post, &[], &[&blob]).expect(201);
                    let path = format!("/v2/bench/garbage/blobs/{digest}");
                    connection.send("DELETE", &path, &[], &[]).expect(202);
                }
            });
        }
    });
}

/// Times of small pushes by several clients while something happens.
fn under_load(server: &Server, client: usize, happens: impl FnOnce()) -> Outcome {
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let times = std::thread::scope(|scope| {
        let pushing: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let over = &over;
                scope.spawn(move || {
                    let mut connection = Connection::open(&server.address);
                    let mut times = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let one = Instant::now();
                        push(&mut connection, client + number, times.len());
                        times.push(one.elapsed());
                    }
                    times
                })
            })
            .collect();
        happens();
        over.store(true, Ordering::Relaxed);
        let times = pushing.into_iter().flat_map(|one| one.join().unwrap());
        times.collect::<Vec<_>>()
    });
    Outcome::new(times, begun.elapsed().as_secs_f64())
}

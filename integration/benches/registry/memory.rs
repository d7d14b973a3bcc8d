//! How much memory a server takes for sixteen large pushes at once.
//!
//! `DEVPOD_BENCH_PUSH_MB` is the size of each; the disk needs sixteen times as much for a moment.

use crate::Scale;
use crate::noise::{Noise, put_blob};
use crate::server::Server;
use crate::table::Figure;
use crate::wire::Connection;

const CLIENTS: usize = 16;

pub(crate) fn measure(server: &Server, scale: Scale) -> Vec<Figure> {
    let size = match std::env::var("DEVPOD_BENCH_PUSH_MB") {
        Ok(text) => text.parse().expect("DEVPOD_BENCH_PUSH_MB is a number"),
        Err(_) => scale.of(1000, 50),
    };
    let before = server.peak_memory();
    let noise = Noise::new(size);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let noise = &noise;
            scope.spawn(move || {
                let blob = noise.blob();
                let mut connection = Connection::open(&server.address);
                let repository = format!("bench/memory{client}");
                put_blob(
                    &mut connection,
                    &repository,
                    &blob.digest,
                    &noise.parts(&blob),
                );
            });
        }
    });
    vec![
        Figure::less("resident at first", "MiB", before),
        Figure::less(
            format!("peak, {CLIENTS} pushes of {size} MB"),
            "MiB",
            server.peak_memory(),
        ),
    ]
}

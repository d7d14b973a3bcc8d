//! One large blob that is in the page cache, to one client and to eight. The clients neither copy the
//! bytes nor, where there is one, sleep: both would bound the figure before the server does.

use std::time::Instant;

use crate::Scale;
use crate::noise::{Noise, put_blob};
use crate::server::Server;
use crate::table::Figure;
use crate::wire::{Connection, Wait};

/// In all, however many clients share them. The kernel tells processor time in hundredths of a second:
/// one pull is worth a few of them, which is no figure.
const PULLS: u64 = 16;

pub(crate) fn measure(server: &Server, scale: Scale) -> Vec<Figure> {
    let size = scale.of(500, 50);
    let noise = Noise::new(size);
    let blob = noise.blob();
    let mut connection = Connection::open(&server.address);
    let parts = noise.parts(&blob);
    put_blob(&mut connection, "bench/pull", &blob.digest, &parts);
    let path = format!("/v2/bench/pull/blobs/{}", blob.digest);
    // The first reading fills caches, and is not counted.
    assert_eq!(connection.discard(&path, Wait::Asleep), blob.size);
    let mut figures = Vec::new();
    for (clients, wait) in [(1, Wait::Awake), (8, Wait::Asleep)] {
        let cpu = server.cpu();
        let begun = Instant::now();
        pull(server, &path, clients, wait);
        #[allow(clippy::cast_precision_loss)]
        let megabytes = (blob.size * PULLS) as f64 / 1e6;
        let name = format!("{size} MB, {clients} at once");
        let rate = megabytes / begun.elapsed().as_secs_f64();
        let cpu = (server.cpu() - cpu) / megabytes * 1e3;
        figures.push(Figure::more(&name, "MB/s", rate));
        figures.push(Figure::less(format!("{name}: server CPU"), "s/GB", cpu));
    }
    figures
}

fn pull(server: &Server, path: &str, clients: u64, wait: Wait) {
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut connection = Connection::open(&server.address);
                for _ in 0..PULLS / clients {
                    connection.discard(path, wait);
                }
            });
        }
    });
}

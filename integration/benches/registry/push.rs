//! Ten layers by plain requests: each whole in one PUT, or in chunks; one and four at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Scale;
use crate::noise::{Blob, Noise, closing, put_blob, put_image};
use crate::server::Server;
use crate::table::Figure;
use crate::wire::Connection;

const LAYERS: usize = 10;
const CHUNK: usize = 10_000_000;

type Push = fn(&mut Connection, &Noise, &Blob);

pub(crate) fn measure(server: &Server, scale: Scale) -> Vec<Figure> {
    let noise = Noise::new(scale.of(50, 5));
    let mut figures = Vec::new();
    for (way, push) in [("PUT", by_put as Push), ("PATCH", by_chunks as Push)] {
        for clients in [1, 4] {
            let (rate, cpu) = image(server, &noise, clients, push);
            let name = format!("{LAYERS} layers by {way}, {clients} at once");
            figures.push(Figure::more(&name, "MB/s", rate));
            figures.push(Figure::less(format!("{name}: server CPU"), "s/GB", cpu));
        }
    }
    figures
}

/// MB/s of a whole image and the server's processor seconds per GB.
#[allow(clippy::cast_precision_loss)]
fn image(server: &Server, noise: &Noise, clients: usize, push: Push) -> (f64, f64) {
    let blobs: Vec<Blob> = (0..LAYERS).map(|_| noise.blob()).collect();
    let next = AtomicUsize::new(0);
    let cpu = server.cpu();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut connection = Connection::open(&server.address);
                while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    push(&mut connection, noise, blob);
                }
            });
        }
    });
    let layers: Vec<_> = blobs
        .iter()
        .map(|blob| (blob.digest.clone(), blob.size))
        .collect();
    let mut connection = Connection::open(&server.address);
    put_image(&mut connection, "bench/push", "latest", &layers);
    let megabytes = (blobs[0].size * LAYERS as u64) as f64 / 1e6;
    (
        megabytes / begun.elapsed().as_secs_f64(),
        (server.cpu() - cpu) / megabytes * 1e3,
    )
}

fn by_put(to: &mut Connection, noise: &Noise, blob: &Blob) {
    put_blob(to, "bench/push", &blob.digest, &noise.parts(blob));
}

fn by_chunks(to: &mut Connection, noise: &Noise, blob: &Blob) {
    let reply = to.send("POST", "/v2/bench/push/blobs/uploads/", &[], &[]);
    let mut location = reply.expect(202).location();
    let mut offset = 0;
    for part in noise.parts(blob) {
        for chunk in part.chunks(CHUNK) {
            let range = format!("{offset}-{}", offset + chunk.len() - 1);
            let headers = [
                ("content-range", range.as_str()),
                ("content-type", "application/octet-stream"),
            ];
            let reply = to.send("PATCH", &location, &headers, &[chunk]);
            location = reply.expect(202).location();
            offset += chunk.len();
        }
    }
    let closing = closing(&location, &blob.digest);
    to.send("PUT", &closing, &[], &[]).expect(201);
}

//! Tiny images by many clients at once: what costs is making each durable.

use std::time::{Duration, Instant};

use crate::Scale;
use crate::hammer::Outcome;
use crate::noise::{digest, put_blob, put_image, unique};
use crate::requests::told;
use crate::server::Server;
use crate::table::Figure;
use crate::wire::Connection;

const CLIENTS: usize = 32;

pub(crate) fn measure(server: &Server, scale: Scale) -> Vec<Figure> {
    let length = Duration::from_secs(scale.of(8, 2));
    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let address = server.address.clone();
            std::thread::spawn(move || {
                let mut connection = Connection::open(&address);
                let mut times = Vec::new();
                while begun.elapsed() < length {
                    let one = Instant::now();
                    push(&mut connection, client, times.len());
                    times.push(one.elapsed());
                }
                times
            })
        })
        .collect();
    let times = clients
        .into_iter()
        .flat_map(|client| client.join().unwrap());
    let times: Vec<Duration> = times.collect();
    let outcome = Outcome::new(times, begun.elapsed().as_secs_f64());
    told("pushes of 32 clients", &outcome)
}

/// One blob of 1 KB, a configuration and a manifest under a tag of its own.
pub(crate) fn push(connection: &mut Connection, client: usize, number: usize) {
    let repository = format!("bench/small{client}");
    let blob = [&[0; 1008][..], &unique()[..]].concat();
    let layer = digest(&blob);
    put_blob(connection, &repository, &layer, &[&blob]);
    let layers = [(layer, blob.len() as u64)];
    put_image(connection, &repository, &format!("t{number}"), &layers);
}

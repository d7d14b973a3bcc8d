//! Lists and manifests beside a million tags, and beside three hundred: there should be no difference.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Scale;
use crate::hammer::{hammer, request};
use crate::noise::digest;
use crate::server::{Kind, Server};
use crate::table::Figure;
use crate::wire::Connection;

const SEEDERS: usize = 32;
/// Enough that a page of one repository has another after it, as in the large registry.
const FEW: usize = 3;
const PAGE: usize = 100;
/// In one request; the registry takes no more.
const TAGS: usize = 50;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn measure(many: &Server, scale: Scale) -> Vec<Figure> {
    let repositories = scale.of(10_000, 500);
    let begun = Instant::now();
    seed(many, repositories);
    let seconds = begun.elapsed().as_secs_f64();
    let few = Server::start(&Kind::Devpod);
    seed(&few, FEW);
    let length = Duration::from_secs(scale.of(4, 1));
    let count = repositories * 2 * TAGS;
    let mut figures = vec![Figure::less(format!("seeding {count} tags"), "s", seconds)];
    for name in ["tag list", "catalog", "manifest by tag"] {
        // Turn and turn about: a busy second hurts both.
        let (mut fast, mut slow) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            fast.push(hammer(&few.address, &requests(name, FEW), length / 3).per_second());
            let all = requests(name, repositories);
            slow.push(hammer(&many.address, &all, length / 3).per_second());
        }
        fast.sort_by(f64::total_cmp);
        slow.sort_by(f64::total_cmp);
        figures.push(Figure::more(format!("{name}, 300 tags"), "1/s", fast[1]));
        figures.push(Figure::more(
            format!("{name}, {count} tags"),
            "1/s",
            slow[1],
        ));
        figures.push(Figure::more(
            format!("{name}: many against few"),
            "",
            slow[1] / fast[1],
        ));
    }
    figures.push(Figure::less("peak memory", "MiB", many.peak_memory()));
    figures
}

fn repository(number: usize) -> String {
    format!("team{:03}/app{number:05}", number % 100)
}

/// Each repository has 100 tags of one manifest, set by two requests.
fn seed(server: &Server, repositories: usize) {
    let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[]}}"#);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SEEDERS {
            scope.spawn(|| {
                let mut connection = Connection::open(&server.address);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= repositories {
                        return;
                    }
                    for from in [0, TAGS] {
                        put(&mut connection, &repository(number), &manifest, from);
                    }
                }
            });
        }
    });
}

fn put(connection: &mut Connection, repository: &str, manifest: &str, from: usize) {
    let tags: Vec<String> = (from..from + TAGS)
        .map(|n| format!("tag=v{n:03}"))
        .collect();
    let digest = digest(manifest.as_bytes());
    let path = format!("/v2/{repository}/manifests/{digest}?{}", tags.join("&"));
    let header = [("content-type", INDEX)];
    connection
        .send("PUT", &path, &header, &[manifest.as_bytes()])
        .expect(201);
}

/// Pages of equal size in both: `n` is smaller than the smallest list.
fn requests(name: &str, repositories: usize) -> Vec<Vec<u8>> {
    let step = (repositories / 97).max(1);
    let some = (0..repositories).step_by(step).map(repository);
    some.map(|repository| match name {
        "tag list" => request("GET", &format!("/v2/{repository}/tags/list?n={PAGE}")),
        // One name and a link to the next.
        "catalog" => request("GET", "/v2/_catalog?n=1&last=team000%2Fapp00000"),
        _ => request("GET", &format!("/v2/{repository}/manifests/v050")),
    })
    .collect()
}

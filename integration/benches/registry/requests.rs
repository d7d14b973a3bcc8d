//! Small requests: what every pull consists of before the first layer.

use std::time::Duration;

use crate::Scale;
use crate::hammer::{Outcome, hammer, request};
use crate::noise::{Noise, put_blob, put_image};
use crate::server::Server;
use crate::table::Figure;
use crate::wire::Connection;

pub(crate) fn measure(server: &Server, scale: Scale) -> Vec<Figure> {
    let noise = Noise::new(1);
    let blob = noise.blob();
    let mut connection = Connection::open(&server.address);
    let parts = noise.parts(&blob);
    put_blob(&mut connection, "bench/requests", &blob.digest, &parts);
    let layers = [(blob.digest.clone(), blob.size)];
    let (manifest, config) = put_image(&mut connection, "bench/requests", "v1", &layers);
    let length = Duration::from_secs(scale.of(4, 1));
    let mut figures = Vec::new();
    for (name, method, path) in [
        ("manifest by tag", "GET", "manifests/v1".to_owned()),
        ("manifest by digest", "GET", format!("manifests/{manifest}")),
        ("small blob", "GET", format!("blobs/{config}")),
        ("HEAD of a blob", "HEAD", format!("blobs/{}", blob.digest)),
    ] {
        let one = [request(method, &format!("/v2/bench/requests/{path}"))];
        let cpu = server.cpu();
        let outcome = hammer(&server.address, &one, length);
        figures.extend(told(name, &outcome));
        #[allow(clippy::cast_precision_loss)]
        let each = (server.cpu() - cpu) / outcome.count as f64 * 1e6;
        figures.push(Figure::less(format!("{name}: server CPU"), "us", each));
    }
    figures
}

/// Rate and times as figures.
pub(crate) fn told(name: &str, outcome: &Outcome) -> Vec<Figure> {
    vec![
        Figure::more(name, "1/s", outcome.per_second()),
        Figure::less(format!("{name}: p50"), "ms", outcome.percentile(50)),
        Figure::less(format!("{name}: p99"), "ms", outcome.percentile(99)),
    ]
}

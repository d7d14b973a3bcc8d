//! Ten layers by the client that people use, without compressing them again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use integration::folder::Folder;
use integration::process::run;
use integration::{clients, probe};

use crate::Scale;
use crate::noise::{Noise, digest};
use crate::server::Server;
use crate::table::Figure;

const LAYERS: usize = 10;

pub(crate) fn measure(server: &Server, scale: Scale) -> Vec<Figure> {
    if probe::find("skopeo").is_none() {
        println!("skopeo: it is not installed");
        return Vec::new();
    }
    let size = scale.of(50, 5);
    let folder = Folder::new();
    write_layout(&folder.join("image"), &Noise::new(size));
    let from = format!("oci:{}:latest", folder.join("image").display());
    let to = format!("docker://{}/bench/skopeo:latest", server.address);
    let cpu = server.cpu();
    let push = time(&mut clients::skopeo_copy_command(&from, &to));
    let cpu = server.cpu() - cpu;
    let out = format!("oci:{}:latest", folder.join("out").display());
    let pull = time(&mut clients::skopeo_copy_command(&to, &out));
    #[allow(clippy::cast_precision_loss)]
    let megabytes = (size * LAYERS) as f64;
    let name = format!("{LAYERS} x {size} MB");
    vec![
        Figure::more(format!("push of {name}"), "MB/s", megabytes / push),
        Figure::less(
            format!("push of {name}: server CPU"),
            "s/GB",
            cpu / megabytes * 1e3,
        ),
        Figure::more(format!("pull of {name}"), "MB/s", megabytes / pull),
    ]
}

fn time(command: &mut Command) -> f64 {
    let begun = Instant::now();
    run(command).ok();
    begun.elapsed().as_secs_f64()
}

/// An image layout whose layers are noise.
fn write_layout(folder: &Path, noise: &Noise) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let file = |digest: &str| blobs.join(digest.trim_start_matches("sha256:"));
    let put = |text: String| {
        fs::write(file(&digest(text.as_bytes())), &text).unwrap();
        (digest(text.as_bytes()), text.len())
    };
    let mut layers = Vec::new();
    for _ in 0..LAYERS {
        let blob = noise.blob();
        fs::write(file(&blob.digest), noise.parts(&blob).concat()).unwrap();
        layers.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob.digest, "size": blob.size,
        }));
    }
    let ids: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
    let (config, size) = put(serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": ids },
    })
    .to_string());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let (manifest, length) = put(serde_json::json!({
        "schemaVersion": 2, "mediaType": kind, "layers": layers,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size },
    })
    .to_string());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": kind, "digest": manifest, "size": length,
        "annotations": { "org.opencontainers.image.ref.name": "latest" },
    }] });
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

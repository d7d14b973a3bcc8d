//! What this machine can do by itself: no push is faster than the slower of the two.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use integration::folder::Folder;
use ring::digest::{Context, SHA256};

use crate::Scale;
use crate::noise::Noise;

/// What a server hashes at a time.
const PIECE: usize = 64 * 1024;

pub(crate) fn measure(scale: Scale) {
    let noise = Noise::new(scale.of(50, 5));
    let blob = noise.blob();
    let parts = noise.parts(&blob);
    let rates = |once: &dyn Fn() -> f64| {
        let mut rates: Vec<f64> = (0..3).map(|_| once()).collect();
        rates.sort_by(f64::total_cmp);
        rates[1]
    };
    #[allow(clippy::cast_precision_loss)]
    let megabytes = blob.size as f64 * 10.0 / 1e6;
    let hash = rates(&|| megabytes / hash(&parts));
    let disk = rates(&|| megabytes / write(&parts));
    println!("\nmachine");
    println!("  SHA-256, one core                        {hash:.0} MB/s");
    println!("  write and fdatasync of 10 files          {disk:.0} MB/s");
    println!(
        "  of {megabytes:.0} MB; {} processors, load {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        std::fs::read_to_string("/proc/loadavg").unwrap().trim()
    );
}

fn hash(parts: &[&[u8]]) -> f64 {
    let begun = Instant::now();
    for _ in 0..10 {
        let mut hash = Context::new(&SHA256);
        for piece in parts.iter().flat_map(|part| part.chunks(PIECE)) {
            hash.update(piece);
        }
        std::hint::black_box(hash.finish());
    }
    begun.elapsed().as_secs_f64()
}

fn write(parts: &[&[u8]]) -> f64 {
    let folder = Folder::new();
    let begun = Instant::now();
    for number in 0..10 {
        let mut file = File::create(folder.join(number.to_string())).unwrap();
        for part in parts {
            file.write_all(part).unwrap();
        }
        file.sync_data().unwrap();
    }
    begun.elapsed().as_secs_f64()
}

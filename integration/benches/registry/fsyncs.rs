//! How often a server syncs for one image of two layers, as strace counts it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::folder::Folder;
use integration::{probe, process};
use rustix::process::Signal;

use crate::Scale;
use crate::noise::{Noise, put_blob, put_image};
use crate::server::Server;
use crate::table::Figure;
use crate::wire::Connection;

const CALLS: &str = "fsync,fdatasync,sync_file_range,msync,syncfs,sync";

pub(crate) fn measure(server: &Server, _: Scale) -> Vec<Figure> {
    if probe::find("strace").is_none() {
        println!("fsyncs: strace is not installed");
        return Vec::new();
    }
    // The first push makes what later ones find: folders, tables.
    push(server, "warm");
    let folder = Folder::new();
    let out = folder.join("calls");
    let mut command = Command::new("strace");
    let trace = format!("trace={CALLS}");
    command.args(["-f", "-qq", "-e", &trace, "-o"]).arg(&out);
    command.args(["-p", &server.pid().to_string()]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut strace = command.spawn().expect("strace starts");
    process::eventually("strace is attached", Duration::from_secs(10), || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid()));
        let traced = |line: &str| line.starts_with("TracerPid:") && !line.ends_with("\t0");
        status.unwrap().lines().any(traced)
    });
    push(server, "counted");
    process::signal(&strace, Signal::INT);
    process::wait(&mut strace, Duration::from_secs(10)).expect("strace ends");
    let text = fs::read_to_string(out).unwrap();
    // A call that another thread interrupts has two lines; the second says "resumed".
    let calls = text
        .lines()
        .filter(|line| line.contains('(') && !line.contains("resumed"))
        .count();
    #[allow(clippy::cast_precision_loss)]
    let calls = calls as f64;
    vec![Figure::less("image of two layers", "calls", calls)]
}

fn push(server: &Server, tag: &str) {
    let noise = Noise::new(1);
    let mut connection = Connection::open(&server.address);
    let mut layers = Vec::new();
    for _ in 0..2 {
        let blob = noise.blob();
        let parts = noise.parts(&blob);
        put_blob(&mut connection, "bench/fsyncs", &blob.digest, &parts);
        layers.push((blob.digest.clone(), blob.size));
    }
    put_image(&mut connection, "bench/fsyncs", tag, &layers);
}

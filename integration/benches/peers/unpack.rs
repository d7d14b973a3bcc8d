//! A stored image into an empty folder.

use std::process::Command;

use crate::figures::{Bench, has, median, report, run, time};

pub(crate) fn measure(bench: &Bench) {
    let ours = median(3, |n| {
        let folder = bench.path(&format!("unpack-ours-{n}"));
        time(bench.devpod().args(["unpack", "debian:base"]).arg(folder))
    });
    let theirs = (has("umoci") && has("skopeo")).then(|| {
        let layout = format!("oci:{}:base", bench.path("layout").display());
        let from = format!("docker://{}", bench.reference("debian:base"));
        run(Command::new("skopeo").args(["copy", "--src-tls-verify=false", &from, &layout]));
        median(3, |n| {
            let image = format!("{}:base", bench.path("layout").display());
            let bundle = bench.path(&format!("unpack-umoci-{n}"));
            time(
                Command::new("umoci")
                    .args(["unpack", "--image", &image])
                    .arg(bundle),
            )
        })
    });
    report("unpack", ours, "umoci", theirs);
}

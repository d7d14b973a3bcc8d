//! Pulls an image into a folder of its own, unpacks it, and tells what it is.
//!
//! ```text
//! cargo run -p unpacker --example image_service -- localhost:5000/demo:1 ./store ./rootfs
//! ```
//!
//! No daemon, no root. A second run finds the layers where the first left them.

// An example talks to whoever runs it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use unpacker::progress::Event;
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Anonymous;
use unpacker::service::ImageService;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, store, rootfs] = &arguments[..] else {
        eprintln!("usage: image_service IMAGE STORE ROOTFS");
        return ExitCode::from(2);
    };
    match run(reference, Path::new(store), Path::new(rootfs)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let mut cause = error.source();
            while let Some(why) = cause {
                eprintln!("  because {why}");
                cause = why.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(reference: &str, store: &Path, rootfs: &Path) -> Result<(), Box<dyn Error>> {
    unpacker::remote::install_crypto();
    // Nobody's credentials; `remote::credentials::Machine` has those of docker and podman.
    let remote = Remote::new(Options::default(), Arc::new(Anonymous))?;
    let service = ImageService::open(store, remote)?.watched_by(Arc::new(tell));

    let image = service.pull_image(reference).await?;
    println!("{}", image.reference());
    println!("manifest {}", image.digest());
    for layer in image.layers() {
        println!("layer {layer}");
    }

    // Unpacking is work for a thread that may block.
    let (name, rootfs) = (reference.to_owned(), rootfs.to_owned());
    let unpacked = tokio::task::spawn_blocking(move || service.unpack(&name, &rootfs)).await??;
    println!("unpacked {}", unpacked.display());
    Ok(())
}

fn tell(event: Event) {
    match event {
        Event::Finished { id, phase, note } => {
            eprintln!("{phase:?} {id} {}", note.unwrap_or_default());
        }
        Event::Warning { text } => eprintln!("warning: {text}"),
        _ => {}
    }
}

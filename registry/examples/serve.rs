//! Serves a registry from a folder: `cargo run --example serve -- <folder> <address:port> [sparse]`.

use registry::http::{Front, serve};
use registry::service::{Policy, Registry};
use registry::store::Options;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, address, rest @ ..] = arguments.as_slice() else {
        return Err("usage: serve <folder> <address:port> [sparse]".into());
    };
    let mut policy = Policy::default();
    if rest.iter().any(|word| word == "sparse") {
        policy.sparse = vec!["**".parse()?];
    }
    let registry = Registry::open(Options::below(folder.as_ref()), policy)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    serve(listener, Front::new(registry), async {
        // Without signal handling there is nothing to wait for; the process is then killed, which
        // the store survives as well.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
    .await?;
    Ok(())
}

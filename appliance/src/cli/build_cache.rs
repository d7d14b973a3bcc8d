//! `devpod build-cache …`.

use clap::Subcommand;
use config::quantity::{ByteSize, Seconds};

use crate::api::build_cache::{CacheKind, CacheRow, PruneCache};
use crate::api::types::Pruned;
use crate::cli::Session;
use crate::error::Outcome;
use crate::ui::{self, Format, table};

#[derive(Debug, Subcommand)]
pub enum BuildCache {
    /// List what builds remember, the longest unused first
    #[command(visible_aliases = ["list", "du"])]
    Ls,
    /// Remove what was of no use for 30 days, or what the options say
    Prune {
        /// Everything
        #[arg(long, short)]
        all: bool,
        /// Only what was not used for so long, such as 72h or 7d
        #[arg(long, value_name = "DURATION")]
        older_than: Option<Seconds>,
        /// Remove the longest unused until this much is left, such as 10G
        #[arg(long, value_name = "SIZE")]
        keep_storage: Option<ByteSize>,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) async fn run(session: &Session, verb: BuildCache) -> Outcome<u8> {
    match verb {
        BuildCache::Ls => list(session).await,
        BuildCache::Prune {
            all,
            older_than,
            keep_storage,
            dry_run,
        } => {
            let request = PruneCache {
                all,
                older_than: older_than.map(|seconds| seconds.0),
                keep_storage: keep_storage.map(|size| size.0),
                dry_run,
            };
            prune(session, &request).await
        }
    }
}

async fn list(session: &Session) -> Outcome<u8> {
    let client = session.daemon().await?;
    let rows: Vec<CacheRow> = client.get("/v1/build-cache").await?;
    if session.format == Format::Json {
        ui::json(&rows);
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::print(
        &["ID", "KIND", "LAST USED", "SIZE", "IN USE", "MADE BY"],
        &cells,
    );
    let all: u64 = rows.iter().map(|row| row.bytes).sum();
    let free = rows.iter().filter(|row| !row.in_use);
    let free: u64 = free.map(|row| row.bytes).sum();
    ui::line(&format!(
        "{} in all, {} of it for builds only",
        table::size(all),
        table::size(free)
    ));
    Ok(0)
}

fn cells(row: &CacheRow) -> Vec<String> {
    let kind = match row.kind {
        CacheKind::Step => "step",
        CacheKind::Mount => "cache mount",
        CacheKind::Hashes => "context hashes",
        CacheKind::Download => "download",
        CacheKind::Repository => "git repository",
    };
    vec![
        row.id.clone(),
        kind.to_owned(),
        table::age(&row.last_used),
        table::size(row.bytes),
        if row.in_use { "yes" } else { "no" }.to_owned(),
        row.made_by.clone().unwrap_or_default(),
    ]
}

async fn prune(session: &Session, request: &PruneCache) -> Outcome<u8> {
    let client = session.daemon().await?;
    let pruned: Pruned = client.post("/v1/build-cache/prune", request).await?;
    if session.format == Format::Json {
        ui::json(&pruned);
        return Ok(0);
    }
    let word = match pruned.dry_run {
        true => "Would remove",
        false => "Removed",
    };
    ui::line(&format!(
        "{word} {} entries of the build cache and {} snapshots: {}",
        pruned.cache_entries,
        pruned.snapshots,
        table::size(pruned.bytes)
    ));
    Ok(0)
}

//! Verbs that make and move images: pull, push, tag, unpack, image from-host.

use std::path::{Path, PathBuf};

use config::name::Reference;

use crate::api::types::{
    FromHostRequest, ImageRow, Moved, PruneRequest, Pruned, PullRequest, PushRequest, TagRequest,
    UnpackRequest,
};
use crate::cli::args::{Image, Pull, Push, Tag, Unpack};
use crate::cli::{Session, archive, images};
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::ui::{self, Format, table};

pub(super) async fn pull(session: &Session, pull: Pull) -> Outcome<u8> {
    let request = PullRequest {
        reference: pull.reference,
        platform: pull.platform,
        all_platforms: pull.all_platforms,
        unpack: !pull.no_unpack,
    };
    let (client, path) = (session.daemon().await?, "/v1/images/pull");
    if !pull.quiet {
        let moved: Moved = client.watch(path, &request).await?;
        moved_line(session, "Pulled", &moved);
        return Ok(0);
    }
    let moved: Moved = client.long(path, &request, &mut |_| {}).await?;
    match session.format {
        Format::Json => ui::json(&moved),
        Format::Text => ui::line(&moved.digest),
    }
    Ok(0)
}

pub(super) async fn push(session: &Session, push: Push) -> Outcome<u8> {
    let client = session.daemon().await?;
    if push.all_tags {
        return push_all(session, &client, &push.reference).await;
    }
    let moved = push_one(&client, push.reference).await?;
    moved_line(session, "Pushed", &moved);
    Ok(0)
}

async fn push_one(client: &Client, reference: String) -> Outcome<Moved> {
    let request = PushRequest { reference };
    client.watch("/v1/images/push", &request).await
}

/// Sends one tag after the other, and ends with the first that fails.
async fn push_all(session: &Session, client: &Client, repository: &str) -> Outcome<u8> {
    let names = tags_of(client, repository).await?;
    let mut sent = Vec::new();
    for name in &names {
        match push_one(client, name.clone()).await {
            Ok(moved) => {
                if session.format == Format::Text {
                    moved_line(session, "Pushed", &moved);
                }
                sent.push(moved);
            }
            Err(failure) if names.len() > 1 => {
                let left = names[sent.len()..].join(", ");
                return Err(failure.hint(format!("Not sent: {left}.")));
            }
            Err(failure) => return Err(failure),
        }
    }
    if session.format == Format::Json {
        ui::json(&sent);
    }
    Ok(0)
}

/// The names of a repository's images that are here.
async fn tags_of(client: &Client, text: &str) -> Outcome<Vec<String>> {
    let last = text.rsplit('/').next().unwrap_or(text);
    if last.contains([':', '@']) {
        let message = format!("{text:?} says which tag, and --all-tags means all of them");
        return Err(Failure::invalid(message).hint("Write the name without a tag."));
    }
    let reference: Reference = text.parse()?;
    let repository = format!("{}/{}", reference.host(), reference.repository());
    let rows: Vec<ImageRow> = client.get("/v1/images").await?;
    let own = rows.iter().filter(|row| row.repository == repository);
    let names: Vec<String> = own.map(|row| format!("{repository}:{}", row.tag)).collect();
    if names.is_empty() {
        let message = format!("there is no tag of {repository} here");
        return Err(Failure::not_found(message).hint("See `devpod images`."));
    }
    Ok(names)
}

fn moved_line(session: &Session, word: &str, moved: &Moved) {
    match session.format {
        Format::Json => ui::json(moved),
        // A reference by digest says it already.
        Format::Text if moved.reference.contains('@') => {
            ui::line(&format!("{word} {}", moved.reference));
        }
        Format::Text => ui::line(&format!("{word} {}@{}", moved.reference, moved.digest)),
    }
}

pub(super) async fn tag(session: &Session, tag: Tag) -> Outcome<u8> {
    let request = TagRequest {
        source: tag.source,
        target: tag.target,
    };
    let moved: Moved = session
        .daemon()
        .await?
        .post("/v1/images/tag", &request)
        .await?;
    moved_line(session, "Tagged", &moved);
    Ok(0)
}

pub(super) async fn unpack(session: &Session, unpack: Unpack) -> Outcome<u8> {
    let destination = absolute(&unpack.destination)?;
    let request = UnpackRequest {
        reference: unpack.reference,
        destination,
        platform: unpack.platform,
    };
    let moved: Moved = session
        .daemon()
        .await?
        .watch("/v1/images/unpack", &request)
        .await?;
    moved_line(session, "Unpacked", &moved);
    Ok(0)
}

pub(super) async fn run(session: &Session, image: Image) -> Outcome<u8> {
    match image {
        Image::FromHost {
            tag,
            include,
            without_git,
        } => {
            let request = FromHostRequest {
                reference: tag,
                include,
                without_git,
            };
            from_host(session, &request).await
        }
        Image::Prune { all, dry_run } => prune(session, PruneRequest { all, dry_run }).await,
        Image::Ls(wanted) => images::list(session, wanted).await,
        Image::Rm(rmi) => images::remove(session, rmi).await,
        Image::Inspect(wanted) => images::inspect(session, wanted).await,
        Image::Save(save) => archive::save(session, save).await,
        Image::Load(load) => archive::load(session, load).await,
        Image::Tag(wanted) => tag(session, wanted).await,
        Image::History(history) => images::history(session, history).await,
        Image::Check(check) => images::check(session, check).await,
    }
}

async fn prune(session: &Session, request: PruneRequest) -> Outcome<u8> {
    let client = session.daemon().await?;
    let pruned: Pruned = client.post("/v1/images/prune", &request).await?;
    if session.format == Format::Json {
        ui::json(&pruned);
        return Ok(0);
    }
    let word = if pruned.dry_run {
        "Would remove"
    } else {
        "Removed"
    };
    ui::line(&format!(
        "{word} {} blobs, {} snapshots, {} build cache entries: {}",
        pruned.blobs,
        pruned.snapshots,
        pruned.cache_entries,
        table::size(pruned.bytes)
    ));
    Ok(0)
}

async fn from_host(session: &Session, request: &FromHostRequest) -> Outcome<u8> {
    let moved: Moved = session
        .daemon()
        .await?
        .watch("/v1/images/from-host", request)
        .await?;
    moved_line(session, "Made", &moved);
    Ok(0)
}

/// The daemon has another working folder than we do.
pub(super) fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(Failure::from)
}

//! `devpod registry …`: what the embedded registry holds, and its removal.

use std::io::{self, BufRead, IsTerminal};

use clap::{Args, Subcommand};
use config::name::{RepositoryName, Target};
use registry::http::manage::{
    CollectRequest, EventState, ImageList, OPENAPI, RemovedRepository, RepositoryList, TagList,
    UploadList,
};
use registry::service::{Collected, Image, ImageDetail, Platform, Usage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cli::Session;
use crate::cli::registry_care::{self, Scrub};
use crate::cli::registry_external::{self, External};
use crate::cli::registry_token::{self, Token};
use crate::client::Client;
use crate::error::{Failure, Kind, Outcome};
use crate::ui::{self, Format, table};

#[derive(Debug, Subcommand)]
pub enum Registry {
    #[command(flatten)]
    Here(Here),
    /// Accounts at other registries, kept encrypted
    #[command(subcommand)]
    External(External),
    /// Make, list and revoke API tokens
    #[command(subcommand)]
    Token(Token),
}

/// What the embedded registry holds.
#[derive(Debug, Subcommand)]
pub enum Here {
    /// List the repositories and what they hold
    #[command(visible_alias = "ls")]
    List,
    /// List the tags of a repository
    Tags {
        #[arg(value_name = "REPO")]
        repository: String,
    },
    /// List the tagged images, of one repository or of all
    Images {
        #[arg(value_name = "REPO")]
        repository: Option<String>,
    },
    /// Show a repository, or one of its images
    Show {
        #[arg(value_name = "REPO[:TAG|@DIGEST]")]
        name: String,
    },
    /// Delete a tag, an image with all its tags, or a whole repository
    Delete(Delete),
    /// Show what the registry takes of the disk, and what a collection would free
    Usage,
    /// Remove what no image needs and nobody has touched for an hour
    Collect {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Verify every blob; a damaged one is put aside and heals with the next push of it
    Scrub(Scrub),
    /// Let the tags go that the rules of registry.retention keep no longer
    Retention {
        /// Only say which would go
        #[arg(long)]
        dry_run: bool,
    },
    /// List the uploads that are open
    Uploads,
    /// Cancel an upload
    Cancel {
        #[arg(value_name = "SESSION")]
        session: String,
    },
    /// Show what waits to be told to webhooks
    Events,
    /// Print the description of the management API (OpenAPI 3.1)
    Openapi,
}

#[derive(Debug, Args)]
pub struct Delete {
    #[arg(value_name = "REPO[:TAG|@DIGEST]")]
    pub name: String,
    /// Do not ask before a whole repository goes
    #[arg(long, short)]
    pub force: bool,
}

pub(super) async fn run(session: &Session, verb: Registry) -> Outcome<u8> {
    match verb {
        Registry::Here(verb) => here(session, verb).await,
        Registry::External(verb) => registry_external::run(session, verb).await,
        Registry::Token(verb) => registry_token::run(session, verb).await,
    }
}

async fn here(session: &Session, verb: Here) -> Outcome<u8> {
    let client = session.daemon().await?;
    match verb {
        Here::List => list(session, &client).await,
        Here::Tags { repository } => tags(session, &client, &repository).await,
        Here::Images { repository } => images(session, &client, repository.as_deref()).await,
        Here::Show { name } => show(session, &client, &name).await,
        Here::Delete(verb) => delete(session, &client, verb).await,
        Here::Usage => usage(session, &client).await,
        Here::Collect { dry_run } => collect(session, &client, dry_run).await,
        Here::Scrub(verb) => registry_care::scrub(session, &client, verb).await,
        Here::Retention { dry_run } => registry_care::retention(session, &client, dry_run).await,
        Here::Uploads => uploads(session, &client).await,
        Here::Cancel { session: id } => cancel(session, &client, &id).await,
        Here::Events => events(session, &client).await,
        Here::Openapi => {
            ui::json(&client.get::<Value>(OPENAPI).await?);
            Ok(0)
        }
    }
}

/// What is asked for at a time.
const PAGE: usize = 500;

/// Every item of a list, part by part.
async fn all<L: DeserializeOwned, T>(
    client: &Client,
    path: &str,
    split: fn(L) -> (Vec<T>, Option<String>),
) -> Outcome<Vec<T>> {
    let mut items = Vec::new();
    let mut last = String::new();
    loop {
        let part = client.get(&format!("{path}?n={PAGE}{last}")).await?;
        let (some, next) = split(part);
        items.extend(some);
        match next {
            Some(next) => last = format!("&last={}", escaped(&next)),
            None => return Ok(items),
        }
    }
}

/// Names have no other character that means something in an address.
fn escaped(name: &str) -> String {
    name.replace('/', "%2F")
}

fn repository_path(repository: &RepositoryName) -> String {
    format!("/api/v1/repositories/{}", escaped(repository.as_str()))
}

fn image_path(repository: &RepositoryName, target: &Target) -> String {
    format!("{}/images/{target}", repository_path(repository))
}

/// `REPO`, `REPO:TAG` or `REPO@DIGEST`, as the registry itself calls them.
fn parse(text: &str) -> Outcome<(RepositoryName, Option<Target>)> {
    let hint = |error: config::name::NameError| {
        Failure::from(error)
            .hint("Write the name as `devpod registry list` shows it, without a host.")
    };
    let (name, target) = match (text.split_once('@'), text.rsplit_once(':')) {
        (Some((name, digest)), _) => (name, Some(digest)),
        (None, Some((name, tag))) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    let target = target.map(str::parse::<Target>).transpose().map_err(hint)?;
    Ok((name.parse().map_err(hint)?, target))
}

/// Prints a value as JSON, or what `text` makes of it.
pub(super) fn print<T: Serialize>(
    session: &Session,
    value: &T,
    text: impl FnOnce(&T),
) -> Outcome<u8> {
    match session.format {
        Format::Json => ui::json(value),
        Format::Text => text(value),
    }
    Ok(0)
}

async fn list(session: &Session, client: &Client) -> Outcome<u8> {
    let split = |part: RepositoryList| (part.repositories, part.next);
    let rows = all(client, "/api/v1/repositories", split).await?;
    print(session, &rows, |rows| {
        let cells = rows.iter().map(|row| {
            vec![
                row.name.clone(),
                row.tags.to_string(),
                row.manifests.to_string(),
                table::size(row.size),
                row.pushed.clone().unwrap_or_default(),
            ]
        });
        let header = ["REPOSITORY", "TAGS", "IMAGES", "SIZE", "PUSHED"];
        table::print(&header, &cells.collect::<Vec<_>>());
    })
}

async fn tags(session: &Session, client: &Client, repository: &str) -> Outcome<u8> {
    let (repository, _) = parse(repository)?;
    let path = format!("{}/tags", repository_path(&repository));
    let rows = all(client, &path, |part: TagList| (part.tags, part.next)).await?;
    print(session, &rows, |rows| {
        let cells = rows
            .iter()
            .map(|row| vec![row.tag.clone(), row.digest.clone()]);
        table::print(&["TAG", "DIGEST"], &cells.collect::<Vec<_>>());
    })
}

async fn images(session: &Session, client: &Client, repository: Option<&str>) -> Outcome<u8> {
    let path = match repository {
        Some(text) => format!("{}/images", repository_path(&parse(text)?.0)),
        None => "/api/v1/images".to_owned(),
    };
    let rows = all(client, &path, |part: ImageList| (part.images, part.next)).await?;
    print(session, &rows, |rows| {
        let cells: Vec<Vec<String>> = rows.iter().map(image_cells).collect();
        let header = [
            "REPOSITORY",
            "TAG",
            "DIGEST",
            "PLATFORM",
            "SIZE",
            "CREATED",
            "PUSHED",
        ];
        table::print(&header, &cells);
    })
}

fn image_cells(image: &Image) -> Vec<String> {
    vec![
        image.repository.clone(),
        image.tag.clone().unwrap_or_default(),
        short(&image.digest),
        platforms(&image.platforms),
        table::size(image.size),
        image.created.clone().unwrap_or_default(),
        image.pushed.clone(),
        image.pulled.clone().unwrap_or_default(),
    ]
}

fn platforms(platforms: &[Platform]) -> String {
    let texts: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    texts.join(",")
}

/// The first twelve hexadecimal digits of a digest.
fn short(digest: &str) -> String {
    let hash = digest.split_once(':').map_or(digest, |(_, hash)| hash);
    hash.chars().take(12).collect()
}

async fn show(session: &Session, client: &Client, name: &str) -> Outcome<u8> {
    let (repository, target) = parse(name)?;
    let Some(target) = target else {
        let row: registry::service::RepositoryRow =
            client.get(&repository_path(&repository)).await?;
        return print(session, &row, |row| {
            facts(&[
                ("repository", row.name.clone()),
                ("tags", row.tags.to_string()),
                ("images", row.manifests.to_string()),
                ("blobs", row.blobs.to_string()),
                ("size", table::size(row.size)),
                ("pushed", row.pushed.clone().unwrap_or_default()),
            ]);
        });
    };
    let detail: ImageDetail = client.get(&image_path(&repository, &target)).await?;
    print(session, &detail, show_image)
}

fn show_image(detail: &ImageDetail) {
    let image = &detail.image;
    facts(&[
        ("repository", image.repository.clone()),
        ("digest", image.digest.clone()),
        ("tags", detail.tags.join(" ")),
        ("media type", image.media_type.clone()),
        ("platforms", platforms(&image.platforms)),
        ("size", table::size(image.size)),
        ("unique", table::size(detail.unique_bytes)),
        ("shared", table::size(detail.shared_bytes)),
        ("created", image.created.clone().unwrap_or_default()),
        ("pushed", image.pushed.clone()),
        ("pulled", image.pulled.clone().unwrap_or_default()),
        ("refers to", detail.subject.clone().unwrap_or_default()),
    ]);
    let layers = detail.layers.iter().map(|layer| {
        let size = layer
            .size
            .map_or_else(|| "elsewhere".to_owned(), table::size);
        let shared = if layer.shared { "shared" } else { "" };
        vec![layer.digest.clone(), size, shared.to_owned()]
    });
    let manifests = detail.manifests.iter().map(|child| {
        let platform = child.platform.as_ref().map(Platform::to_string);
        let present = if child.present { "" } else { "absent" };
        vec![
            child.digest.clone(),
            platform.unwrap_or_default(),
            present.to_owned(),
        ]
    });
    let (layers, manifests): (Vec<_>, Vec<_>) = (layers.collect(), manifests.collect());
    if !layers.is_empty() {
        ui::line("");
        table::print(&["LAYER", "SIZE", ""], &layers);
    }
    if !manifests.is_empty() {
        ui::line("");
        table::print(&["MANIFEST", "PLATFORM", ""], &manifests);
    }
}

/// Lines of a name and a value; what has no value is left out.
fn facts(facts: &[(&str, String)]) {
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        ui::line(&format!("{name:<12} {}", ui::style::harmless(value)));
    }
}

async fn delete(session: &Session, client: &Client, verb: Delete) -> Outcome<u8> {
    let (repository, target) = parse(&verb.name)?;
    let Some(target) = target else {
        return delete_repository(session, client, &repository, verb.force).await;
    };
    client
        .delete_quietly(&image_path(&repository, &target))
        .await?;
    let deleted = json!({ "deleted": verb.name });
    print(session, &deleted, |_| {
        ui::line(&format!("Deleted {}", verb.name));
    })
}

async fn delete_repository(
    session: &Session,
    client: &Client,
    repository: &RepositoryName,
    force: bool,
) -> Outcome<u8> {
    let path = repository_path(repository);
    if !force {
        let row: registry::service::RepositoryRow = client.get(&path).await?;
        let what = format!("repository {repository} with {} images", row.manifests);
        if !confirmed(&what)? {
            return Err(Failure::new(Kind::Cancelled, "nothing was deleted"));
        }
    }
    let removed: RemovedRepository = client.delete(&path).await?;
    print(session, &removed, |removed| {
        let RemovedRepository {
            name,
            manifests,
            blobs,
        } = removed;
        ui::line(&format!(
            "Deleted {name}: {manifests} images, {blobs} blobs"
        ));
    })
}

/// Asks on a terminal. Without one nobody can answer, so the question is refused.
fn confirmed(what: &str) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(
            Failure::invalid(format!("deleting {what} wants to be confirmed"))
                .hint("Say so with --force."),
        );
    }
    ui::news(&format!("Delete {what}? [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn usage(session: &Session, client: &Client) -> Outcome<u8> {
    let usage: Usage = client.get("/api/v1/usage").await?;
    print(session, &usage, |usage| {
        let row = |name: &str, count: String, bytes: u64| {
            vec![name.to_owned(), count, table::size(bytes)]
        };
        let counted = |name, amount: &registry::service::Amount| {
            row(name, amount.count.to_string(), amount.bytes)
        };
        let rows = [
            counted("content", &usage.content),
            row("index", String::new(), usage.index_bytes),
            counted("uploads", &usage.uploads),
            counted("quarantine", &usage.quarantine),
            row(
                "reclaimable",
                usage.reclaimable.blobs.to_string(),
                usage.reclaimable.bytes,
            ),
            row("free on disk", String::new(), usage.free_bytes),
        ];
        table::print(&["WHAT", "COUNT", "SIZE"], &rows);
    })
}

async fn collect(session: &Session, client: &Client, dry_run: bool) -> Outcome<u8> {
    let request = CollectRequest { dry_run };
    let collected: Collected = client.post("/api/v1/collections", &request).await?;
    let word = if dry_run { "Would remove" } else { "Removed" };
    print(session, &collected, |collected| {
        ui::line(&format!(
            "{word} {} blobs ({}), {} manifests, {} links, {} abandoned uploads",
            collected.blobs,
            table::size(collected.bytes),
            collected.manifests,
            collected.links,
            collected.sessions
        ));
    })
}

async fn uploads(session: &Session, client: &Client) -> Outcome<u8> {
    let split = |part: UploadList| (part.uploads, part.next);
    let rows = all(client, "/api/v1/uploads", split).await?;
    print(session, &rows, |rows| {
        let cells = rows.iter().map(|row| {
            vec![
                row.session.clone(),
                row.repository.clone(),
                table::size(row.received),
                row.touched.clone(),
            ]
        });
        let header = ["SESSION", "REPOSITORY", "RECEIVED", "TOUCHED"];
        table::print(&header, &cells.collect::<Vec<_>>());
    })
}

async fn cancel(session: &Session, client: &Client, id: &str) -> Outcome<u8> {
    let id: registry::store::sessions::SessionId =
        id.parse()
            .map_err(|error: registry::store::sessions::BadSessionId| {
                Failure::invalid(error.to_string())
            })?;
    client
        .delete_quietly(&format!("/api/v1/uploads/{id}"))
        .await?;
    print(session, &json!({ "cancelled": id.as_str() }), |_| {
        ui::line(&format!("Cancelled {id}"));
    })
}

async fn events(session: &Session, client: &Client) -> Outcome<u8> {
    let state: EventState = client.get("/api/v1/events").await?;
    print(session, &state, |state| {
        let oldest = state
            .oldest
            .as_ref()
            .map(|at| format!(", the oldest of {at}"));
        let oldest = oldest.unwrap_or_default();
        ui::line(&format!(
            "{} events wait{oldest}; {} went untold",
            state.queued, state.dropped
        ));
        let cells = state.webhooks.iter().map(|hook| {
            vec![
                hook.name.clone(),
                hook.behind.to_string(),
                hook.delivered.to_string(),
                hook.failed.to_string(),
                hook.last_error.clone().unwrap_or_default(),
            ]
        });
        let header = ["WEBHOOK", "BEHIND", "DELIVERED", "FAILED", "LAST ERROR"];
        table::print(&header, &cells.collect::<Vec<_>>());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_where_the_tag_begins() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = format!("a/b@{digest}");
        for (text, repository, target) in [
            ("a/b", "a/b", None),
            ("a/b:v1", "a/b", Some("v1")),
            (by_digest.as_str(), "a/b", Some(digest.as_str())),
        ] {
            let (found, what) = parse(text).unwrap();
            assert_eq!(found.as_str(), repository);
            assert_eq!(what.map(|what| what.to_string()).as_deref(), target);
        }
        for bad in ["", "A", "a:", "a@sha256:1", "localhost:5000/a"] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}

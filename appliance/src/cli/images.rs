//! Verbs that look at images and take them away: images, rmi, inspect, image history, image check.

use std::collections::HashSet;

use serde_json::Value;

use crate::api::types::{
    CheckedImage, HistoryRequest, HistoryRow, ImageRow, PushRequest, RawImage, RemoveImage, Removed,
};
use crate::cli::Session;
use crate::cli::image_args::{Check, History, Images, Inspect, Rmi};
use crate::cli::image_filter::Filter;
use crate::client::Client;
use crate::error::{Failure, Kind, Outcome};
use crate::ui::{self, Format, table};

pub(super) async fn list(session: &Session, wanted: Images) -> Outcome<u8> {
    let filter = Filter::parse(&wanted)?;
    let client = session.daemon().await?;
    let (all, sizes) = (
        wanted.all || filter.needs_all(),
        session.format == Format::Json,
    );
    let path = format!("/v1/images?all={all}&sizes={sizes}");
    let rows: Vec<ImageRow> = client.get(&path).await?;
    let rows = filter.apply(rows)?;
    if wanted.quiet {
        let mut seen = HashSet::new();
        for row in rows.iter().filter(|row| seen.insert(row.id.clone())) {
            ui::line(&cut(&row.id, wanted.no_trunc));
        }
    } else if session.format == Format::Json {
        ui::json(&rows);
    } else {
        print(&rows, &wanted);
    }
    Ok(0)
}

fn print(rows: &[ImageRow], wanted: &Images) {
    let mut header = vec![
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "PLATFORM",
        "CREATED",
        "SIZE",
    ];
    if wanted.digests {
        header.insert(2, "DIGEST");
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                row.repository.clone(),
                row.tag.clone(),
                cut(&row.id, wanted.no_trunc),
                row.platforms.join(","),
                row.created.as_deref().map(table::age).unwrap_or_default(),
                table::size(row.size),
            ];
            if wanted.digests {
                cells.insert(2, row.digest.clone());
            }
            cells
        })
        .collect();
    table::print(&header, &cells);
}

/// The first twelve hexadecimal digits of a digest, or all of it.
fn cut(digest: &str, whole: bool) -> String {
    match whole {
        true => digest.to_owned(),
        false => {
            let hash = digest.split_once(':').map_or(digest, |(_, hash)| hash);
            hash.chars().take(12).collect()
        }
    }
}

/// Every image that has a name.
async fn names(client: &Client) -> Outcome<Vec<String>> {
    let rows: Vec<ImageRow> = client.get("/v1/images").await?;
    Ok(rows
        .iter()
        .map(|row| format!("{}:{}", row.repository, row.tag))
        .collect())
}

/// Goes on after a failure, and ends with the last one.
pub(super) async fn remove(session: &Session, rmi: Rmi) -> Outcome<u8> {
    let client = session.daemon().await?;
    let references = match rmi.all {
        true => names(&client).await?,
        false => rmi.references,
    };
    let mut failed: Option<Failure> = None;
    for reference in references {
        let request = RemoveImage {
            reference,
            force: rmi.force,
        };
        let removed: Outcome<Removed> = client.post("/v1/images/remove", &request).await;
        match removed {
            Ok(removed) => tell_removed(session, &removed),
            Err(failure) => {
                if let Some(earlier) = failed.replace(failure) {
                    ui::failure::report(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(0), Err)
}

fn tell_removed(session: &Session, removed: &Removed) {
    if session.format == Format::Json {
        ui::json(removed);
        return;
    }
    for name in &removed.untagged {
        ui::line(&format!("Untagged: {name}"));
    }
    for digest in &removed.deleted {
        ui::line(&format!("Deleted: {digest}"));
    }
}

pub(super) async fn inspect(session: &Session, inspect: Inspect) -> Outcome<u8> {
    let client = session.daemon().await?;
    if inspect.raw || inspect.config {
        for reference in inspect.references {
            let request = RawImage {
                reference,
                config: inspect.config,
            };
            let text: String = client.post("/v1/images/raw", &request).await?;
            ui::raw(text.as_bytes());
        }
        return Ok(0);
    }
    let mut values = Vec::new();
    for reference in inspect.references {
        let request = PushRequest { reference };
        let value: Value = client.post("/v1/images/inspect", &request).await?;
        values.push(value);
    }
    let value = match values.len() {
        1 => values.remove(0),
        _ => Value::Array(values),
    };
    match session.format {
        Format::Json => ui::json(&value),
        Format::Text => ui::line(&serde_json::to_string_pretty(&value).unwrap_or_default()),
    }
    Ok(0)
}

pub(super) async fn history(session: &Session, history: History) -> Outcome<u8> {
    let request = HistoryRequest {
        reference: history.reference,
        platform: history.platform,
    };
    let client = session.daemon().await?;
    let rows: Vec<HistoryRow> = client.post("/v1/images/history", &request).await?;
    if session.format == Format::Json {
        ui::json(&rows);
        return Ok(0);
    }
    let layer = |row: &HistoryRow| match &row.layer {
        Some(digest) => cut(digest, history.no_trunc),
        None => "<none>".to_owned(),
    };
    if history.quiet {
        rows.iter().for_each(|row| ui::line(&layer(row)));
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                layer(row),
                row.created.as_deref().map(table::age).unwrap_or_default(),
                created_by(&row.created_by, history.no_trunc),
                table::size(row.size),
                row.comment.clone(),
            ]
        })
        .collect();
    table::print(
        &["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
        &cells,
    );
    Ok(0)
}

fn created_by(text: &str, whole: bool) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match whole || line.chars().count() <= 45 {
        true => line,
        false => line.chars().take(44).chain(['…']).collect(),
    }
}

pub(super) async fn check(session: &Session, check: Check) -> Outcome<u8> {
    let client = session.daemon().await?;
    let references = match check.all {
        true => names(&client).await?,
        false => check.references,
    };
    let mut reports: Vec<CheckedImage> = Vec::new();
    for reference in references {
        let request = PushRequest { reference };
        reports.push(client.watch("/v1/images/check", &request).await?);
    }
    if session.format == Format::Json {
        ui::json(&reports);
    } else {
        reports.iter().for_each(tell_checked);
    }
    let bad = reports.iter().filter(|image| !image.report.is_sound());
    let bad: Vec<&str> = bad.map(|image| image.reference.as_str()).collect();
    match bad.is_empty() {
        true => Ok(0),
        false => Err(
            Failure::new(Kind::Internal, format!("damaged: {}", bad.join(", ")))
                .hint("Fetch, load or build it again: what is whole is not fetched a second time."),
        ),
    }
}

fn tell_checked(image: &CheckedImage) {
    let report = &image.report;
    for fault in &report.faults {
        ui::line(&format!(
            "{}: {}: {}",
            image.reference, fault.digest, fault.text
        ));
    }
    if report.is_sound() {
        ui::line(&format!(
            "{} is sound: {} manifests, {} blobs, {}",
            image.reference,
            report.manifests,
            report.blobs,
            table::size(report.bytes)
        ));
    }
}

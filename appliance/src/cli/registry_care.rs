//! `devpod registry scrub` and `retention`: looking after what is kept.

use clap::Args;
use config::quantity::ByteSize;
use registry::http::manage::{ExpiredTags, RetentionRequest, ScrubRequest, ScrubState};

use crate::cli::Session;
use crate::cli::registry::print;
use crate::client::Client;
use crate::error::Outcome;
use crate::ui::{self, table};

#[derive(Debug, Args)]
pub struct Scrub {
    /// Bytes per second, such as 50Mi; 0 for as fast as possible
    #[arg(long, default_value = "0")]
    pub rate: ByteSize,
    /// Begin anew where an earlier scrub was not finished
    #[arg(long)]
    pub anew: bool,
    /// Only tell how far the last one came and what it found
    #[arg(long, conflicts_with_all = ["rate", "anew"])]
    pub last: bool,
}

pub(super) async fn scrub(session: &Session, client: &Client, verb: Scrub) -> Outcome<u8> {
    let state: ScrubState = if verb.last {
        client.get("/api/v1/scrub").await?
    } else {
        let request = ScrubRequest {
            rate: verb.rate.0,
            anew: verb.anew,
        };
        client.post("/api/v1/scrub", &request).await?
    };
    print(session, &state, |state| ui::line(&told(state)))
}

fn told(state: &ScrubState) -> String {
    let Some(started) = &state.started else {
        return "No blob was verified yet".to_owned();
    };
    let end = match &state.finished {
        Some(finished) => format!("finished {finished}"),
        None => "not finished".to_owned(),
    };
    let mut text = format!(
        "Scrub of {started}, {end}: {} blobs ({}) are whole, {} damaged and put aside, {} missing, {} unreadable",
        state.checked,
        table::size(state.bytes),
        state.quarantined,
        state.missing,
        state.unreadable
    );
    if state.failing {
        text.push_str(
            "\nIt ended early: so many damaged blobs mean that the disk or its controller fails",
        );
    }
    if state.only_copies > 0 {
        text.push_str(&format!(
            "\nOf {} blobs only the damaged file is left: push them again",
            state.only_copies
        ));
    }
    text
}

pub(super) async fn retention(session: &Session, client: &Client, dry_run: bool) -> Outcome<u8> {
    let request = RetentionRequest { dry_run };
    let expired: ExpiredTags = client.post("/api/v1/retention", &request).await?;
    print(session, &expired, |expired| {
        let cells = expired.tags.iter().map(|tag| {
            vec![
                tag.repository.clone(),
                tag.tag.clone(),
                tag.rule.to_string(),
            ]
        });
        table::print(&["REPOSITORY", "TAG", "RULE"], &cells.collect::<Vec<_>>());
        let word = if dry_run { "would go" } else { "went" };
        ui::line(&format!("{} tags {word}", expired.tags.len()));
    })
}

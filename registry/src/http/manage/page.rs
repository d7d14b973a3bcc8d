//! A part of a list: at most `n` items after `last`, and where the list goes on.

use axum::response::Response;
use http::StatusCode;
use http::header::LINK;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::super::answer::Answer;
use super::super::error::ApiError;
use super::super::query::encode;
use crate::service::Listing;

/// What part of a list is wanted.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// At most so many items; there is an upper bound for each list.
    pub(super) n: Option<usize>,
    /// Only what comes after this: `next` of the part before.
    pub(super) last: Option<String>,
}

impl Paging {
    pub(super) fn listing(&self) -> Listing<'_> {
        Listing {
            // None of them at all would lead nowhere.
            limit: self.n.map(|n| n.max(1)),
            last: self.last.as_deref(),
        }
    }

    /// Answers a list; `next` also stands in the header Link (RFC 8288), as in the tag list.
    pub(super) fn answer(
        &self,
        path: &str,
        next: Option<&str>,
        list: &impl Serialize,
    ) -> Result<Response, ApiError> {
        let mut answer = Answer::new(StatusCode::OK);
        if let Some(next) = next {
            let n = self.n.map(|n| format!("n={n}&")).unwrap_or_default();
            let next = encode(next);
            answer = answer.header(LINK, format!("<{path}?{n}last={next}>; rel=\"next\""));
        }
        answer.json("application/json", list)
    }
}

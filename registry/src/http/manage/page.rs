//! A part of a list: at most `n` items after `last`, and where the list goes on.

use axum::extract::FromRequestParts;
use axum::response::Response;
use http::StatusCode;
use http::header::LINK;
use http::request::Parts;
use serde::Serialize;
use utoipa::IntoParams;

use super::super::answer::Answer;
use super::super::error::{ApiError, Code};
use super::super::query::{Query, encode};
use crate::service::Listing;

/// What part of a list is wanted.
#[derive(Debug, Clone, Default, IntoParams)]
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

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::parse(parts.uri.query());
        let n = query.get("n").map(|text| {
            text.parse().map_err(|_| {
                let message = format!("the parameter \"n\" is {text:?}, not a number");
                ApiError::bad_request(Code::Unsupported, message)
            })
        });
        Ok(Self {
            n: n.transpose()?,
            last: query.get("last").map(str::to_owned),
        })
    }
}

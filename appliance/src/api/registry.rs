//! The registry's management API over the control socket: the same handlers as on its port, for
//! the owner, with refusals as this API writes them.

use axum::Router;
use axum::body::Body;
use axum::middleware;
use axum::response::Response;
use http::StatusCode;
use registry::http::Front;
use registry::http::manage::{self, Refusal};

use crate::api::stream::failed;
use crate::error::{Failure, Kind};

/// A refusal is a sentence or two.
const MAX_REFUSAL: usize = 64 << 10;

pub(super) fn routes(front: Front) -> Router {
    manage::owned(front).layer(middleware::map_response(translate))
}

async fn translate(response: Response) -> Response {
    let status = response.status();
    if status.is_success() {
        return response;
    }
    failed(&failure(status, response.into_body()).await)
}

async fn failure(status: StatusCode, body: Body) -> Failure {
    let bytes = axum::body::to_bytes(body, MAX_REFUSAL)
        .await
        .unwrap_or_default();
    let refusal = serde_json::from_slice::<Refusal>(&bytes).ok();
    let reason = refusal.and_then(|refusal| refusal.errors.into_iter().next());
    let message = match reason {
        Some(reason) => reason.message,
        // What axum itself refuses is a line of text.
        None => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    Failure::new(kind(status), message)
}

fn kind(status: StatusCode) -> Kind {
    match status {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::CONFLICT => Kind::Conflict,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        StatusCode::SERVICE_UNAVAILABLE => Kind::Unavailable,
        StatusCode::INSUFFICIENT_STORAGE => Kind::Exhausted,
        status if status.is_client_error() => Kind::Invalid,
        _ => Kind::Internal,
    }
}

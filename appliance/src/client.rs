//! The command's side of the control API: HTTP/1.1 over the daemon's unix socket.

pub mod streams;

use std::error::Error;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use unpacker::progress::Event;

use crate::api::caller;
use crate::api::types::News;
use crate::daemon::folder::DataFolder;
use crate::daemon::{environment, socket, start};
use crate::error::{Failure, Kind, Outcome};
use crate::ui::progress::Screen;

/// The protocol name in `Upgrade:`; what follows are the container crate's frames.
pub const FRAMES: &str = "devpod-frames";
/// No short answer is larger.
const MAX_ANSWER: usize = 64 << 20;
/// No line of a long answer is larger.
const MAX_LINE: usize = 16 << 20;

/// Names the caller's user folder, so that a daemon of another one refuses.
pub const USER_FOLDER: &str = "x-devpod-user-folder";
/// Set on the answer of a daemon that ends and has not begun with the request.
pub const STOPPING: &str = "x-devpod-stopping";

/// A way to one daemon. Each call is a connection of its own; the first goes over the connection with
/// which the daemon was found.
#[derive(Debug, Clone)]
pub struct Client {
    folder: DataFolder,
    user_folder: Option<HeaderValue>,
    /// Where the command's credentials and proxies are.
    caller: Option<HeaderValue>,
    /// Whether a daemon has answered this command; until then it may be one that was just ending.
    answered: Arc<AtomicBool>,
    found: Arc<Mutex<Option<UnixStream>>>,
}

impl Client {
    /// `found` is a fresh connection to the folder's daemon.
    pub fn new(folder: DataFolder, found: UnixStream) -> Self {
        // One who only asks a running daemon does not start another.
        Self {
            folder,
            user_folder: None,
            caller: None,
            answered: Arc::new(AtomicBool::new(true)),
            found: Arc::new(Mutex::new(Some(found))),
        }
    }

    /// A command's client. When no answer comes to its first request, because the daemon that it
    /// found was ending, that request goes once more to a new daemon.
    #[must_use]
    pub fn of_user(mut self, user_folder: &Path) -> Self {
        // A path that no header can hold is not told, and so not checked.
        self.user_folder = HeaderValue::from_bytes(user_folder.as_os_str().as_bytes()).ok();
        self.caller = HeaderValue::from_str(&caller::encode(&environment::caller())).ok();
        self.answered = Arc::new(AtomicBool::new(false));
        self
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        self.short(Method::GET, path, Bytes::new()).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        self.short(Method::DELETE, path, Bytes::new()).await
    }

    /// Removes what has no answer but that it is gone.
    pub async fn delete_quietly(&self, path: &str) -> Outcome<()> {
        let response = self.send(Method::DELETE, path, Bytes::new(), false).await?;
        accept(response).await.map(drop)
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Outcome<T> {
        self.short(Method::POST, path, encode(body)?).await
    }

    /// A long verb: shows its events, answers its result.
    pub async fn long<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Outcome<T> {
        let response = self.send(Method::POST, path, encode(body)?, false).await?;
        self.follow(response, on_event).await
    }

    /// The lines of a long verb's answer.
    async fn follow<T: DeserializeOwned>(
        &self,
        response: http::Response<Incoming>,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Outcome<T> {
        let mut body = accept(response).await?.into_body();
        let mut lines = Lines::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| lost(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            for line in lines.push(&data)? {
                match serde_json::from_slice::<News<T>>(&line).map_err(|e| garbled(&e))? {
                    News::Event(event) => on_event(event),
                    News::Result(result) => return Ok(result),
                    News::Failure(failure) => return Err(failure),
                }
            }
        }
        Err(
            Failure::new(Kind::Unavailable, "the daemon went away before it answered")
                .hint("See what it said: `devpod daemon logs`."),
        )
    }

    /// As [`Client::long`], with the events on this process's terminal.
    pub async fn watch<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Outcome<T> {
        let mut screen = Screen::new();
        let outcome = self.long(path, body, &mut |event| screen.show(event)).await;
        screen.finish();
        outcome
    }

    /// A response body as it comes, for a workspace's log.
    pub async fn bytes(&self, path: &str, mut each: impl FnMut(&[u8])) -> Outcome<()> {
        let response = self.send(Method::GET, path, Bytes::new(), false).await?;
        let mut body = accept(response).await?.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|error| lost(&error))?.into_data() {
                each(&data);
            }
        }
        Ok(())
    }

    /// An answer of lines of JSON, each as it comes.
    pub async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T),
    ) -> Outcome<()> {
        let response = self.send(Method::GET, path, Bytes::new(), false).await?;
        let mut body = accept(response).await?.into_body();
        let mut lines = Lines::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| lost(&error))?.into_data() else {
                continue;
            };
            for line in lines.push(&data)? {
                each(serde_json::from_slice(&line).map_err(|e| garbled(&e))?);
            }
        }
        Ok(())
    }

    /// An interactive verb: the connection turned into a byte stream of frames.
    pub async fn upgrade<B: Serialize>(&self, path: &str, body: &B) -> Outcome<TokioIo<Upgraded>> {
        let response = self.send(Method::POST, path, encode(body)?, true).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            accept(response).await?;
            return Err(Failure::internal("the daemon did not open a stream"));
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| lost(&error))?;
        Ok(TokioIo::new(upgraded))
    }

    async fn short<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Outcome<T> {
        let response = accept(self.send(method, path, body, false).await?).await?;
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let bytes = body
            .collect()
            .await
            .map_err(|error| lost(error.as_ref()))?
            .to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| garbled(&error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> Outcome<http::Response<Incoming>> {
        let first = self
            .send_once(method.clone(), path, body.clone(), upgrade)
            .await;
        let begun = matches!(&first, Ok(response) if !response.headers().contains_key(STOPPING));
        if self.answered.swap(true, Ordering::Relaxed) || begun {
            return first;
        }
        start::ensure(&self.folder, &[]).await?;
        self.send_once(method, path, body, upgrade).await
    }

    async fn connect(&self) -> Outcome<UnixStream> {
        let found = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(stream) = found {
            return Ok(stream);
        }
        let path = self.folder.socket();
        socket::connect(&path).await.map_err(|error| {
            let message = format!("cannot reach the daemon at {}", path.display());
            Failure::because(Kind::Unavailable, message, &error)
        })
    }

    async fn send_once(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> Outcome<http::Response<Incoming>> {
        let mut headers = Vec::new();
        if !body.is_empty() {
            headers.push((header::CONTENT_TYPE, "application/json"));
        }
        if upgrade {
            headers.push((header::CONNECTION, "upgrade"));
            headers.push((header::UPGRADE, FRAMES));
        }
        self.request(method, path, Full::new(body), &headers).await
    }

    /// One request on a connection of its own.
    async fn request<B>(
        &self,
        method: Method,
        path: &str,
        body: B,
        headers: &[(header::HeaderName, &str)],
    ) -> Outcome<http::Response<Incoming>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(&error))?;
        // The connection's end is seen by whoever reads the response.
        tokio::spawn(async move { connection.with_upgrades().await });
        let posts = method == Method::POST;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "devpod");
        if let Some(folder) = &self.user_folder {
            request = request.header(USER_FOLDER, folder);
        }
        if let Some(caller) = self.caller.as_ref().filter(|_| posts) {
            request = request.header(caller::HEADER, caller);
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request
            .body(Box::pin(body))
            .map_err(|error| Failure::from_error(Kind::Internal, &error))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| lost(&error))
    }
}

/// Splits a byte stream into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Outcome<Vec<Vec<u8>>> {
        self.rest.extend_from_slice(data);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let tail = self.rest.split_off(end + 1);
            lines.push(std::mem::replace(&mut self.rest, tail));
        }
        if self.rest.len() > MAX_LINE {
            return Err(Failure::internal("the daemon sent a line without end"));
        }
        Ok(lines)
    }
}

fn encode<B: Serialize>(body: &B) -> Outcome<Bytes> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| Failure::from_error(Kind::Internal, &error))
}

/// Passes a good response on; a bad one becomes the failure that its body carries.
async fn accept(response: http::Response<Incoming>) -> Outcome<http::Response<Incoming>> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let bytes = body
        .collect()
        .await
        .map_err(|error| lost(error.as_ref()))?
        .to_bytes();
    Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        Failure::internal(format!("the daemon answered {status} {text}"))
    }))
}

fn lost(error: &(dyn Error + 'static)) -> Failure {
    Failure::because(
        Kind::Unavailable,
        "the connection to the daemon broke",
        error,
    )
}

fn garbled(error: &serde_json::Error) -> Failure {
    Failure::because(
        Kind::Internal,
        "the daemon's answer is not understood",
        error,
    )
    .hint("The daemon may be of another version: `devpod daemon stop`, then try again.")
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn lines_survive_any_split() {
        let mut lines = Lines::default();
        assert!(lines.push(b"{\"a\"").unwrap().is_empty());
        assert_eq!(
            lines.push(b":1}\n{}\n{").unwrap(),
            [b"{\"a\":1}\n".to_vec(), b"{}\n".to_vec()]
        );
    }
}

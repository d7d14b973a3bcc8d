//! Verbs that are given bytes or answer with bytes, both as they come.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame as BodyFrame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use unpacker::container::stream::{Decoder, Frame};
use unpacker::progress::Event;

use super::{Client, Lines, accept, encode, garbled, lost};
use crate::api::types::{DaemonStatus, News};
use crate::error::{Failure, Kind, Outcome};
use crate::pipe;
use crate::ui::progress::Screen;

/// Pieces on their way to the daemon.
const IN_FLIGHT: usize = 16;

/// What is sent, from a thread that reads it. Dropped before its end, it tells the daemon that
/// something is missing.
#[derive(Debug)]
pub struct Upload {
    pieces: mpsc::Sender<Result<Bytes, io::Error>>,
}

/// The other end of an [`Upload`].
#[derive(Debug)]
pub struct Outgoing {
    pieces: mpsc::Receiver<Result<Bytes, io::Error>>,
    /// Why there was no more to send.
    failure: Arc<Mutex<Option<io::Error>>>,
}

/// An upload and what the client sends of it.
pub fn upload() -> (Upload, Outgoing) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let outgoing = Outgoing {
        pieces: receiver,
        failure: Arc::default(),
    };
    (Upload { pieces: sender }, outgoing)
}

impl Upload {
    /// Ends with this error: what was sent is not the whole.
    pub fn fail(self, error: io::Error) {
        // The daemon may have answered meanwhile.
        let _ = self.pieces.blocking_send(Err(error));
    }
}

impl io::Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.pieces.blocking_send(piece).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Client {
    /// Sends bytes, shows the verb's events, answers its result. An answer that comes before all
    /// was sent ends it.
    pub async fn send_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        outgoing: Outgoing,
    ) -> Outcome<T> {
        // What is sent cannot be sent twice, so a daemon that is just ending is found out before.
        self.get::<DaemonStatus>("/v1/status").await?;
        let Outgoing {
            mut pieces,
            failure,
        } = outgoing;
        let noted = Arc::clone(&failure);
        let body = stream::poll_fn(move |context| {
            pieces.poll_recv(context).map(|piece| {
                piece.map(|piece| match piece {
                    Ok(bytes) => Ok(BodyFrame::data(bytes)),
                    Err(error) => {
                        let kind = error.kind();
                        *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        Err(io::Error::from(kind))
                    }
                })
            })
        });
        let mut screen = Screen::new();
        let outcome = async {
            let body = StreamBody::new(body);
            let response = self.request(Method::POST, path, body, &[]).await?;
            self.follow(response, &mut |event| screen.show(event)).await
        }
        .await;
        screen.finish();
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (outcome, failure) {
            (Err(_), Some(error)) => Err(Failure::because(
                Kind::Internal,
                "cannot read what was to be sent",
                &error,
            )),
            (outcome, _) => outcome,
        }
    }

    /// Gives the bytes of an answer to `sink`, shows the verb's events, answers its result. The
    /// sink's reader sees the end only when the daemon says that all was well.
    pub async fn receive_bytes<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        request: &B,
        sink: pipe::Sender,
    ) -> Outcome<T> {
        let mut screen = Screen::new();
        let outcome = self
            .receive(path, request, &sink, &mut |event| screen.show(event))
            .await;
        screen.finish();
        match &outcome {
            Ok(_) => sink.end().await,
            Err(_) => sink.fail(io::ErrorKind::ConnectionAborted.into()).await,
        }
        outcome
    }

    async fn receive<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        request: &B,
        sink: &pipe::Sender,
        on_event: &mut (dyn FnMut(Event) + Send),
    ) -> Outcome<T> {
        let response = self
            .send(Method::POST, path, encode(request)?, false)
            .await?;
        if response.status() != StatusCode::OK {
            accept(response).await?;
            return Err(Failure::internal("the daemon sent nothing"));
        }
        let mut body = response.into_body();
        let (mut decoder, mut lines) = (Decoder::default(), Lines::default());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| lost(&error))?.into_data() else {
                continue;
            };
            decoder.push(&data);
            let bad =
                |error| Failure::because(Kind::Internal, "the answer is not understood", &error);
            while let Some(frame) = decoder.next_frame().map_err(bad)? {
                match frame {
                    Frame::Stdout(bytes) => {
                        let taken = sink.send(bytes.into()).await;
                        taken.then_some(()).ok_or_else(nobody_takes)?;
                    }
                    Frame::Stderr(text) => {
                        for line in lines.push(&text)? {
                            match serde_json::from_slice(&line).map_err(|e| garbled(&e))? {
                                News::Event(event) => on_event(event),
                                News::Result(result) => return Ok(result),
                                News::Failure(failure) => return Err(failure),
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Err(
            Failure::new(Kind::Unavailable, "the daemon went away before it answered")
                .hint("See what it said: `devpod daemon logs`."),
        )
    }
}

fn nobody_takes() -> Failure {
    Failure::new(Kind::Cancelled, "nobody takes the answer")
}

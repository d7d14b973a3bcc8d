//! A request together with the answer that somebody foretells.

use bytes::Bytes;
use serde_json::Value;

use super::door::Door;

/// A request and the answer that the model gives.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    pub(crate) status: u16,
    pub(crate) expected: Vec<(&'static str, String)>,
    pub(crate) answer: Answer,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Empty,
    Bytes(Bytes),
    Json(Value),
    Code(&'static str),
}

impl Exchange {
    pub(crate) fn new(method: &'static str, path: String) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: Bytes::new(),
            status: 0,
            expected: Vec::new(),
            answer: Answer::Empty,
        }
    }

    pub(crate) fn sends(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn answers(mut self, status: u16, answer: Answer) -> Self {
        self.status = status;
        // A HEAD has the same answer without its body.
        self.answer = if self.method == "HEAD" {
            Answer::Empty
        } else {
            answer
        };
        self
    }

    pub(crate) fn refused(self, status: u16, code: &'static str) -> Self {
        self.answers(status, Answer::Code(code))
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.expected.push((name, value.into()));
        self
    }

    pub(crate) async fn run(&self, door: &Door) -> String {
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let sent = self.body.clone();
        let reply = door.send(self.method, &self.path, &headers, sent).await;
        assert_eq!(reply.status.as_u16(), self.status, "{self:?} {reply:?}");
        for (name, value) in &self.expected {
            let all: Vec<_> = reply.headers.get_all(*name).iter().collect();
            let found: Vec<_> = all.iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(found.join(","), *value, "{name} of {self:?}");
        }
        match &self.answer {
            Answer::Empty => assert!(reply.body.is_empty(), "{self:?} {reply:?}"),
            Answer::Bytes(bytes) => assert!(reply.body == bytes, "{self:?}"),
            Answer::Json(value) => assert_eq!(reply.json(), *value, "{self:?}"),
            Answer::Code(code) => assert_eq!(reply.code(), *code, "{self:?}"),
        }
        reply.header("location").to_owned()
    }
}

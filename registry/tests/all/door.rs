//! One way to send a request, two doors: the router itself, or a socket.

use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use registry::digest::{Algorithm, Digest, digest_of};
use registry::http::{Front, Limits, router, serve_router};
use registry::service::{Policy, Registry};
use registry::store::Options;
use tokio::net::{TcpListener, TcpStream};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Debug, Clone)]
pub(crate) enum Door {
    Router(Router),
    Tcp(SocketAddr),
}

pub(crate) fn options(data: &Path) -> Options {
    Options {
        export_quiet: std::time::Duration::from_millis(20),
        ..Options::below(data)
    }
}

pub(crate) fn open(data: &Path) -> Registry {
    Registry::open(options(data), Policy::default()).unwrap()
}

/// What is unfinished in the uploads folder. Stand-in names are not: they are made ahead, and stay
/// until a checkpoint.
pub(crate) fn unfinished(data: &Path) -> Vec<String> {
    let names = std::fs::read_dir(data.join("content/uploads")).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("p-"))
        .collect()
}

/// The registry behind each door. The listener lives as long as the test's runtime.
pub(crate) async fn doors(registry: &Registry) -> [Door; 2] {
    [
        Door::Router(router(Front::new(registry.clone()))),
        tcp(registry).await,
    ]
}

pub(crate) async fn tcp(registry: &Registry) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let never = std::future::pending();
    tokio::spawn(serve_router(
        listener,
        router(Front::new(registry.clone())),
        Limits::default(),
        never,
    ));
    Door::Tcp(address)
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The specification's error code.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Of an endpoint beside the distribution API.
    #[track_caller]
    pub(crate) fn without_version(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{:?} {text}", self.headers);
        self
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{:?} {text}", self.headers);
        assert_eq!(
            self.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        self
    }
}

impl Door {
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let body: Bytes = body.into();
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if matches!(method, "POST" | "PUT" | "PATCH") {
            request = request.header("content-length", body.len());
        }
        let request = request.body(Body::from(body)).unwrap();
        match self {
            Self::Router(router) => {
                let service = TowerToHyperService::new(router.clone());
                collect(service.call(request).await.unwrap().map(Body::new)).await
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await.unwrap();
                let io = TokioIo::new(stream);
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                collect(sender.send_request(request).await.unwrap().map(Body::new)).await
            }
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = sha256(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.send("POST", &path, &[], content.to_vec())
            .await
            .expect(201);
        digest
    }

    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        text: &str,
    ) -> Reply {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let media_type = value["mediaType"].as_str().unwrap_or(MANIFEST).to_owned();
        let headers = [("content-type", media_type.as_str())];
        self.send("PUT", &path, &headers, text.to_owned()).await
    }

    /// Opens an upload session and answers its location.
    pub(crate) async fn start(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        self.send("POST", &path, &[], "")
            .await
            .expect(202)
            .header("location")
            .to_owned()
    }
}

async fn collect(response: http::Response<Body>) -> Reply {
    let (parts, body) = response.into_parts();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

pub(crate) fn sha256(content: &[u8]) -> Digest {
    digest_of(Algorithm::Sha256, content)
}

/// An image manifest over blobs that must be pushed before it.
pub(crate) fn image(config: &Digest, layers: &[&Digest], extra: &str) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|digest| {
            format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":1}}"#)
        })
        .collect();
    format!(
        r#"{{ "schemaVersion":2,"mediaType":"{MANIFEST}",
  "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},
  "layers":[{}]{extra} }}"#,
        layers.join(",")
    )
}

/// Pushes a configuration, a layer and a manifest under a tag; answers the manifest's text.
pub(crate) async fn push_image(door: &Door, repository: &str, tag: &str, layer: &[u8]) -> String {
    let config = door.push_blob(repository, b"{}").await;
    let layer = door.push_blob(repository, layer).await;
    let text = image(&config, &[&layer], "");
    door.push_manifest(repository, tag, &text).await.expect(201);
    text
}

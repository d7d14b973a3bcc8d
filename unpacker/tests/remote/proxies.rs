//! Proxies, and who is reached without one.

use std::sync::Arc;

use config::name::Reference;
use unpacker::digest::sha256;
use unpacker::progress::Silent;
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Anonymous;
use unpacker::remote::error::RemoteError;
use unpacker::remote::transport::Proxies;

use crate::faults::MANIFEST;
use crate::server::{Answer, Server};

const BODY: &str = r#"{"schemaVersion":2,"layers":[]}"#;

fn proxy() -> Server {
    Server::start(|_, _| {
        let answer = Answer::status(200).header("Content-Type", MANIFEST);
        answer.body(BODY)
    })
}

/// Asks for a manifest of `host`, plainly, through `proxy`.
async fn ask(host: &str, proxy: &str, except: Option<&str>) -> Result<String, RemoteError> {
    unpacker::remote::install_crypto();
    let options = Options {
        plain_http: vec![host.to_owned()],
        proxies: Proxies {
            http: Some(proxy.to_owned()),
            https: None,
            except: except.map(str::to_owned),
        },
        retries: 0,
        ..Options::default()
    };
    let remote = Remote::new(options, Arc::new(Anonymous)).unwrap();
    let reference: Reference = format!("{host}/a:t").parse().unwrap();
    let found = remote.resolve(&reference, &Silent).await?;
    Ok(found.digest.to_string())
}

#[tokio::test]
async fn a_registry_is_reached_through_the_proxy() {
    let proxy = proxy();
    let address = format!("http://me:pw@{}", proxy.host);
    let found = ask("registry.invalid", &address, None).await.unwrap();
    assert_eq!(found, sha256(BODY.as_bytes()).to_string());
    let request = &proxy.requests()[0];
    assert_eq!(request.target, "http://registry.invalid/v2/a/manifests/t");
    assert_eq!(
        request.header("proxy-authorization"),
        Some("Basic bWU6cHc=")
    );
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn loopback_never_is() {
    let (proxy, registry) = (proxy(), proxy());
    let address = format!("http://{}", proxy.host);
    ask(&registry.host, &address, None).await.unwrap();
    assert!(proxy.log().is_empty());
    assert_eq!(registry.log(), ["GET /v2/a/manifests/t"]);
}

#[tokio::test]
async fn networks_can_be_left_out() {
    let (proxy, registry) = (proxy(), proxy());
    let address = format!("http://{}", proxy.host);
    // Not loopback by its name, and yet nobody else's.
    let port = registry.host.rsplit_once(':').unwrap().1;
    let host = format!("0.0.0.0:{port}");
    ask(&host, &address, Some("x.example,0.0.0.0/8"))
        .await
        .unwrap();
    assert_eq!(registry.log(), ["GET /v2/a/manifests/t"]);
    assert!(proxy.log().is_empty());
    ask(&host, &address, Some("10.0.0.0/8,.invalid"))
        .await
        .unwrap();
    assert_eq!(registry.log().len(), 1);
    assert_eq!(proxy.log().len(), 1);
}

#[tokio::test]
async fn a_proxy_that_is_down_is_not_gone_past_and_not_told_whole() {
    let down = proxy().host.clone();
    let address = format!("http://me:hush@{down}");
    let error = ask("registry.invalid", &address, None).await.unwrap_err();
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        said += &format!(": {error}");
        cause = error.source();
    }
    assert!(!said.contains("hush"), "{said}");
}

#[tokio::test]
async fn a_proxy_of_another_kind_is_refused_where_it_would_be_used() {
    let registry = proxy();
    let socks = "socks5://127.0.0.1:1080";
    ask(&registry.host, socks, None).await.unwrap();
    let refused = ask("registry.invalid", socks, None).await;
    assert!(
        matches!(refused, Err(RemoteError::Setup { .. })),
        "{refused:?}"
    );
}

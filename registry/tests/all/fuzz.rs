//! Hostile requests through the router: whatever they are made of, the answer is never a 5xx, never
//! a panic, and a refusal with a body has the specification's shape.

use std::sync::OnceLock;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use proptest::prelude::*;
use registry::http::{Front, router};

use super::door::{Door, open, push_image, sha256};

/// A registry with an image, for all cases.
struct Target {
    router: Router,
    runtime: tokio::runtime::Runtime,
    _data: tempfile::TempDir,
}

fn target() -> &'static Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let data = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let router = router(Front::new(open(data.path())));
        let door = Door::Router(router.clone());
        runtime.block_on(push_image(&door, "a/b", "v1", b"layer"));
        // The hostile requests may well delete that one.
        runtime.block_on(door.push_blob("kept/apart", b"layer"));
        Target {
            router,
            runtime,
            _data: data,
        }
    })
}

/// Sends it and checks what every answer must keep.
fn send(request: Request<Body>) -> Result<StatusCode, TestCaseError> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let target = target();
    let service = TowerToHyperService::new(target.router.clone());
    let (parts, body) = target.runtime.block_on(async {
        let (parts, body) = service.call(request).await.unwrap().into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    });
    let status = parts.status;
    prop_assert!(!status.is_server_error(), "{method} {uri}: {status}");
    if status.is_client_error() && !body.is_empty() {
        let shape: Result<serde_json::Value, _> = serde_json::from_slice(&body);
        let errors = shape.as_ref().ok().and_then(|all| all["errors"].as_array());
        let good = errors.is_some_and(|errors| {
            let whole = |error: &serde_json::Value| {
                error["code"].is_string() && error["message"].is_string()
            };
            !errors.is_empty() && errors.iter().all(whole)
        });
        prop_assert!(good, "{method} {uri}: {status} {body:?}");
        prop_assert_eq!(&parts.headers["content-type"], "application/json");
    }
    Ok(status)
}

fn method() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "GET", "GET", "HEAD", "PUT", "PUT", "POST", "POST", "PATCH", "DELETE", "TRACE", "BREW",
    ])
}

/// Words that mean something here, and some that nearly do.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => prop::sample::select(vec![
            "a",
            "b",
            "a/b",
            "A",
            "..",
            ".",
            "",
            "blobs",
            "manifests",
            "uploads",
            "tags",
            "list",
            "referrers",
            "_catalog",
            "v1",
            "%2e%2e",
            "%2F",
            "%00",
            "%ff",
            "%",
            "a%2fb",
            "sha256:",
            "sha512:00",
            "md5:00",
            "a--b",
            "a__b",
            "a___b",
            "-a",
            "a-",
            "01234567-89ab-4def-a123-456789abcdef",
            "~",
            "\u{e9}",
            "\u{1F980}",
        ])
        .prop_map(str::to_owned),
        3 => prop::sample::select(vec![
            sha256(b"layer").to_string(),
            sha256(b"nothing").to_string(),
            "v1".to_owned(),
        ]),
        1 => "sha256:[0-9a-fA-F]{63,65}",
        1 => "[a-z0-9._/-]{0,40}",
        1 => "[A-Za-z0-9_][A-Za-z0-9._-]{120,140}",
        1 => "[ -~]{0,20}",
    ]
}

fn path() -> impl Strategy<Value = String> {
    let tail = prop_oneof![
        Just("/tags/list".to_owned()),
        Just("/blobs/uploads/".to_owned()),
        word().prop_map(|word| format!("/blobs/uploads/{word}")),
        word().prop_map(|word| format!("/blobs/{word}")),
        word().prop_map(|word| format!("/manifests/{word}")),
        word().prop_map(|word| format!("/referrers/{word}")),
        word(),
    ];
    let name = prop_oneof![3 => Just("a/b".to_owned()), 2 => word()];
    (name, tail).prop_map(|(name, tail)| format!("/v2/{name}{tail}"))
}

fn query() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "digest",
        "n",
        "last",
        "mount",
        "from",
        "tag",
        "artifactType",
        "digest-algorithm",
        "ns",
        "",
        "%zz",
        "x",
    ]);
    let value = prop_oneof![
        word(),
        "[0-9]{0,25}",
        Just("-1".to_owned()),
        Just("sha512".to_owned()),
        "[&=+%;?/ -]{0,10}",
    ];
    prop::collection::vec((name, value), 0..4).prop_map(|pairs| {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        pairs.join("&")
    })
}

/// What a URI can carry of it; the rest never reaches a router.
fn uri(path: &str, query: &str) -> Option<Uri> {
    let plain = |text: &str| -> String {
        let mut out = String::new();
        for c in text.chars() {
            match c {
                '\u{21}'..='\u{7e}' if !"\"<>\\^`{|}#".contains(c) => out.push(c),
                _ => {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        out.push_str(&format!("%{byte:02x}"));
                    }
                }
            }
        }
        out
    };
    let path = plain(path).replace('?', "%3f");
    format!("{path}?{}", plain(query)).parse().ok()
}

fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "bytes=[0-9]{0,22}-[0-9]{0,22}(,[0-9]{0,3}-[0-9]{0,3})?".prop_map(String::into_bytes),
        "[0-9]{0,22}-[0-9]{0,22}".prop_map(String::into_bytes),
        prop::sample::select(vec![
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.index.v1+json; charset=utf-8",
            "text/plain",
            "*",
            "\"\"",
            "W/\"x\"",
            "100-continue",
            "chunked",
            "18446744073709551616",
            "-1",
            "0",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

fn header() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let name = prop::sample::select(vec![
        "range",
        "content-range",
        "content-length",
        "content-type",
        "if-none-match",
        "if-range",
        "accept",
        "authorization",
        "host",
        "expect",
        "transfer-encoding",
        "oci-namespace",
        "x-request-id",
        "x-forwarded-for",
        "origin",
    ]);
    (name, header_value())
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..200),
        manifest().prop_map(String::into_bytes),
    ]
}

/// JSON that is nearly a manifest.
fn manifest() -> impl Strategy<Value = String> {
    let value = || {
        prop_oneof![
            Just("2".to_owned()),
            Just("null".to_owned()),
            Just("[]".to_owned()),
            Just("{}".to_owned()),
            Just("[null]".to_owned()),
            Just("1e999".to_owned()),
            Just("-0".to_owned()),
            Just(r#""\ud800""#.to_owned()),
            word().prop_map(|word| serde_json::Value::from(word).to_string()),
            word().prop_map(|word| {
                let digest = serde_json::Value::from(word);
                format!(r#"[{{"mediaType":"m","digest":{digest},"size":1}}]"#)
            }),
            word().prop_map(|word| {
                let digest = serde_json::Value::from(word);
                format!(r#"{{"mediaType":"m","digest":{digest},"size":-1,"urls":["u"]}}"#)
            }),
        ]
    };
    let name = prop::sample::select(vec![
        "mediaType",
        "config",
        "layers",
        "manifests",
        "blobs",
        "subject",
        "artifactType",
        "annotations",
        "schemaVersion",
    ]);
    prop::collection::vec((name, value()), 0..5).prop_map(|fields| {
        let fields = fields
            .iter()
            .map(|(name, value)| format!(r#""{name}":{value}"#));
        let fields: Vec<_> = [r#""schemaVersion":2"#.to_owned()]
            .into_iter()
            .chain(fields)
            .collect();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn no_request_breaks_the_router(
        method in method(),
        path in path(),
        query in query(),
        headers in prop::collection::vec(header(), 0..4),
        body in body(),
    ) {
        let Some(uri) = uri(&path, &query) else {
            return Ok(());
        };
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request = request.header(name, value);
            }
        }
        send(request.body(Body::from(body)).unwrap())?;
    }

    #[test]
    fn ranges_of_a_blob_never_break(value in header_value()) {
        let path = format!("/v2/kept/apart/blobs/{}", sha256(b"layer"));
        let Ok(value) = HeaderValue::from_bytes(&value) else {
            return Ok(());
        };
        let request = Request::get(path).header("range", value).body(Body::empty());
        let status = send(request.unwrap())?.as_u16();
        prop_assert!(matches!(status, 200 | 206 | 416), "{status}");
    }

    #[test]
    fn nearly_manifests_are_stored_or_refused(text in manifest(), tag in "[a-z]{1,3}") {
        let request = Request::put(format!("/v2/a/b/manifests/{tag}"))
            .header("content-type", "application/vnd.oci.image.manifest.v1+json")
            .body(Body::from(text));
        let status = send(request.unwrap())?.as_u16();
        prop_assert!(matches!(status, 201 | 400 | 404), "{status}");
    }

    #[test]
    fn chunks_with_odd_ranges_never_break(value in header_value(), body in body()) {
        let path = "/v2/a/b/blobs/uploads/";
        let target = target();
        let door = Door::Router(target.router.clone());
        let location = target.runtime.block_on(door.start("a/b"));
        prop_assert!(location.starts_with(path));
        let Ok(value) = HeaderValue::from_bytes(&value) else {
            return Ok(());
        };
        let request = Request::patch(&location).header("content-range", value);
        let status = send(request.body(Body::from(body)).unwrap())?.as_u16();
        prop_assert!(matches!(status, 202 | 400 | 413 | 416), "{status}");
        let cancel = Request::delete(&location).body(Body::empty()).unwrap();
        prop_assert_eq!(send(cancel)?, StatusCode::NO_CONTENT);
    }
}

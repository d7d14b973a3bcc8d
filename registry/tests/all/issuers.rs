//! Tokens of another issuer: RSA, P-256 and Ed25519 keys as JWK set, public key and certificate.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use registry::access::Settings;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use serde_json::{Value, json};

use super::guard::{Guarded, rules};

const NOW: u64 = 1_800_000_000;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ed25519() -> Ed25519KeyPair {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
}

fn ed25519_jwk(key: &Ed25519KeyPair, kid: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(key.public_key())})
}

fn claims() -> Value {
    json!({
        "iss": "them", "sub": "ann", "aud": ["other", "ours"], "exp": NOW + 60, "nbf": NOW,
        "access": [{"type": "repository", "name": "a/b", "actions": ["pull", "push"]}],
    })
}

/// A token signed by `sign`.
fn token(header: Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    let signature = encode(sign(signed.as_bytes()));
    format!("Bearer {signed}.{signature}")
}

fn settings(data: &Path, keys: &str) -> Settings {
    let path = data.join("keys");
    std::fs::write(&path, keys).unwrap();
    Settings {
        token_keys: Some(path),
        token_issuer: Some("them".to_owned()),
        token_realm: Some("https://auth.test/token".to_owned()),
        token_service: Some("ours".to_owned()),
        ..Settings::default()
    }
}

fn guarded(keys: &str) -> Guarded {
    Guarded::with(|data| settings(data, keys))
}

async fn status(guarded: &Guarded, token: &str) -> u16 {
    let reply = guarded.send(token, "GET", "/v2/a/b/manifests/1", &[], "");
    reply.await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_it_says() {
    let key = ed25519();
    let jwks = json!({"keys": [ed25519_jwk(&ed25519(), "x"), ed25519_jwk(&key, "k")]});
    let guarded = guarded(&jwks.to_string());
    guarded.push("a/b", "1").await;
    guarded.push("b", "1").await;
    let sign = |text: &[u8]| key.sign(text).as_ref().to_vec();
    let header = json!({"alg": "EdDSA", "kid": "k"});
    let good = token(header.clone(), &claims(), sign);
    let reply = guarded
        .ask("", "GET", "/v2/a/b/manifests/1")
        .await
        .expect(401);
    assert_eq!(
        reply.header("www-authenticate"),
        "Bearer realm=\"https://auth.test/token\",service=\"ours\",scope=\"repository:a/b:pull\""
    );
    for (method, path, expected) in [
        ("GET", "/v2/", 200),
        ("GET", "/v2/a/b/manifests/1", 200),
        ("POST", "/v2/a/b/blobs/uploads/", 202),
        ("DELETE", "/v2/a/b/manifests/1", 401),
        ("GET", "/v2/b/manifests/1", 401),
    ] {
        guarded
            .send(&good, method, path, &[], "")
            .await
            .expect(expected);
    }
    guarded.ask("", "GET", "/token").await.without_version(404);
    // A nameless caller with somebody's word.
    let mut nameless = claims();
    nameless["sub"] = json!("");
    assert_eq!(
        status(&guarded, &token(header.clone(), &nameless, sign)).await,
        200
    );
    for (field, value) in [
        ("iss", json!("others")),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("exp", json!(NOW - 60)),
        ("exp", Value::Null),
        ("exp", json!("9999999999")),
        ("nbf", json!(NOW + 61)),
        ("iss", Value::Null),
        ("access", json!("all")),
    ] {
        let mut claims = claims();
        claims[field] = value.clone();
        let found = status(&guarded, &token(header.clone(), &claims, sign)).await;
        assert_eq!(found, 401, "{field} {value}");
    }
    for header in [
        json!({"alg": "EdDSA", "kid": "x"}),
        json!({"alg": "EdDSA", "kid": "absent"}),
        json!({"alg": "ES256", "kid": "k"}),
        json!({"alg": "none", "kid": "k"}),
        json!({"alg": "EdDSA", "kid": "k", "crit": ["x"]}),
    ] {
        let found = status(&guarded, &token(header.clone(), &claims(), sign)).await;
        assert_eq!(found, 401, "{header}");
    }
    // The clocks of two machines may differ by a minute.
    let mut late = claims();
    late["exp"] = json!(NOW - 59);
    assert_eq!(status(&guarded, &token(header, &late, sign)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_narrow_what_an_issuer_says() {
    let key = ed25519();
    let jwks = json!({"keys": [ed25519_jwk(&key, "k")]}).to_string();
    let guarded = Guarded::with(|data| Settings {
        rules: rules(&["a/** ann pull"]),
        ..settings(data, &jwks)
    });
    guarded.push("a/b", "1").await;
    let sign = |text: &[u8]| key.sign(text).as_ref().to_vec();
    let header = json!({"alg": "EdDSA", "kid": "k"});
    let ann = token(header.clone(), &claims(), sign);
    assert_eq!(status(&guarded, &ann).await, 200);
    let post = guarded.send(&ann, "POST", "/v2/a/b/blobs/uploads/", &[], "");
    post.await.expect(403);
    let mut eve = claims();
    eve["sub"] = json!("eve");
    assert_eq!(status(&guarded, &token(header, &eve, sign)).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_no_secret() {
    // The classic mix-up: a MAC made with the public key, which everybody has.
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
    let document = document.unwrap();
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
            .unwrap();
    let public = key.public_key().as_ref().to_vec();
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "kid": "k",
        "x": encode(&public[1..33]), "y": encode(&public[33..]),
    });
    let jwks = json!({"keys": [jwk]}).to_string();
    let guarded = guarded(&jwks);
    guarded.push("a/b", "1").await;
    let sign = |text: &[u8]| key.sign(&random, text).unwrap().as_ref().to_vec();
    let good = token(json!({"alg": "ES256", "kid": "k"}), &claims(), sign);
    assert_eq!(status(&guarded, &good).await, 200);
    for secret in [&public[..], jwks.as_bytes(), b"k", b""] {
        let mac = |text: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            hmac::sign(&key, text).as_ref().to_vec()
        };
        let forged = token(json!({"alg": "HS256", "kid": "k"}), &claims(), mac);
        assert_eq!(status(&guarded, &forged).await, 401);
    }
}

/// RSA keys and certificates are made by openssl; `None` where there is none.
fn openssl(arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("openssl").args(arguments).output();
    let Ok(output) = output else {
        println!("skipped: openssl is not installed");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    Some(output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_keys_of_pem_files_and_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().join("private.pem");
    let private = private.to_str().unwrap();
    let arguments = [
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
    ];
    if openssl(&[&arguments[..], &[private]].concat()).is_none() {
        return;
    }
    let der = openssl(&[
        "pkcs8", "-topk8", "-nocrypt", "-in", private, "-outform", "DER",
    ]);
    let key = RsaKeyPair::from_pkcs8(&der.unwrap()).unwrap();
    let sign = |text: &[u8]| {
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            text,
            &mut signature,
        )
        .unwrap();
        signature
    };
    let public = openssl(&["pkey", "-in", private, "-pubout"]).unwrap();
    let certificate = openssl(&[
        "req", "-x509", "-new", "-key", private, "-subj", "/CN=them", "-days", "1",
    ]);
    let certificate = certificate.unwrap();
    let components = ring::signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
    let padded = [&[0][..], &components.n].concat();
    let jwks = json!({"keys": [
        {"kty": "RSA", "kid": "k", "n": encode(padded), "e": encode(&components.e)},
    ]});
    let good = token(json!({"alg": "RS256", "kid": "k"}), &claims(), sign);
    let other = token(json!({"alg": "RS256", "kid": "k"}), &claims(), |text| {
        let mut signature = sign(text);
        signature[17] ^= 1;
        signature
    });
    for keys in [public.clone(), certificate, jwks.to_string().into_bytes()] {
        let guarded = guarded(&String::from_utf8(keys).unwrap());
        guarded.push("a/b", "1").await;
        assert_eq!(status(&guarded, &good).await, 200);
        assert_eq!(status(&guarded, &other).await, 401);
        // The public key's text as a MAC's secret.
        let mac = |text: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &public);
            hmac::sign(&key, text).as_ref().to_vec()
        };
        let forged = token(json!({"alg": "HS256", "kid": "k"}), &claims(), mac);
        assert_eq!(status(&guarded, &forged).await, 401);
    }
    // What must not lie around beside public keys is refused at start.
    let text = std::fs::read_to_string(private).unwrap();
    refused(&text, "neither CERTIFICATE nor PUBLIC KEY");
}

fn refused(keys: &str, expected: &str) {
    let data = tempfile::tempdir().unwrap();
    let clock = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(NOW));
    let settings = settings(data.path(), keys);
    let error = super::guard::open_access(&settings, data.path(), &clock).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn files_without_usable_keys_are_refused() {
    for (keys, expected) in [
        ("", "no RSA, P-256 or Ed25519 public key"),
        ("{\"keys\": []}", "no RSA, P-256 or Ed25519 public key"),
        ("{\n\"keys\": [}", "line 2: not a JWK set"),
        (
            "{\"keys\": [{\"kty\": \"oct\", \"k\": \"aHVzaA\"}]}",
            "symmetric",
        ),
        (
            "{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-384\"}]}",
            "no RSA",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n",
            "a key is not RSA",
        ),
    ] {
        refused(keys, expected);
    }
}

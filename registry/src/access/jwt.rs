//! JSON Web Tokens in their compact form (RFC 7515, section 7.1), taken apart and put together.
//!
//! Nothing here decides whether a token is good: the keepers of keys do ([`super::token`],
//! [`super::external`]), each for the algorithms of its own keys only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Longer ones are not read.
const MAX_TOKEN: usize = 16 * 1024;

/// What a token says of its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typ: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Names extensions that must be understood; none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crit: Option<serde_json::Value>,
}

/// A token whose signature nobody has looked at yet. Its payload stays bytes until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unverified<'a> {
    pub header: Header,
    /// The text that is signed.
    pub signed: &'a str,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

/// Takes a token apart; `None` for what is none, or needs extensions.
pub(super) fn parse(text: &str) -> Option<Unverified<'_>> {
    if text.len() > MAX_TOKEN {
        return None;
    }
    let (signed, signature) = text.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
    if header.crit.is_some() {
        return None;
    }
    Some(Unverified {
        header,
        signed,
        payload: decode(payload)?,
        signature: decode(signature)?,
    })
}

/// The part of a token that is to be signed.
pub(super) fn to_sign(header: &Header, payload: &impl Serialize) -> serde_json::Result<String> {
    let header = encode(&serde_json::to_vec(header)?);
    let payload = encode(&serde_json::to_vec(payload)?);
    Ok(format!("{header}.{payload}"))
}

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// What a token grants on one thing (Docker token specification, claim `access`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub actions: Vec<String>,
}

/// `aud`: one name or several (RFC 7519, section 4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    pub(super) fn names(&self, service: &str) -> bool {
        match self {
            Self::One(name) => name == service,
            Self::Many(names) => names.iter().any(|name| name == service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_apart_what_it_put_together() {
        let header = Header {
            alg: "HS256".to_owned(),
            typ: Some("JWT".to_owned()),
            kid: None,
            crit: None,
        };
        let signed = to_sign(&header, &serde_json::json!({"a": 1})).unwrap();
        let text = format!("{signed}.{}", encode(b"sig"));
        let token = parse(&text).unwrap();
        assert_eq!((token.header, token.signed), (header, signed.as_str()));
        assert_eq!(token.payload, br#"{"a":1}"#);
        assert_eq!(token.signature, b"sig");
    }

    #[test]
    fn refuses_the_rest() {
        let critical = encode(br#"{"alg":"HS256","crit":["exp"]}"#);
        let header = encode(br#"{"alg":"HS256"}"#);
        for text in [
            String::new(),
            "a.b".to_owned(),
            format!("{critical}.e30.e30"),
            format!("{header}.e30"),
            format!("{header}.e3=.e30"),
            format!("{header}.e30.e30.e30"),
            format!("{header}.{}.e30", "e".repeat(MAX_TOKEN)),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[A-Za-z0-9_.=+-]{0,80}") {
            let _ = parse(&text);
        }
    }
}

//! The header that tells whose command a request is from: see [`Caller`].

use axum::extract::FromRequestParts;
use axum::response::Response;
use http::request::Parts;

use crate::api::stream::failed;
use crate::error::Failure;
use crate::images::caller::Caller;

/// JSON in hexadecimal digits: no value of a variable breaks a header.
pub const HEADER: &str = "x-devpod-caller";

/// What the command brought; `None` where it brought nothing.
#[derive(Debug)]
pub struct OfCaller(pub Option<Caller>);

impl<S: Sync> FromRequestParts<S> for OfCaller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let Some(value) = parts.headers.get(HEADER) else {
            return Ok(Self(None));
        };
        decode(value.as_bytes())
            .map(|caller| Self(Some(caller)))
            .ok_or_else(|| failed(&Failure::invalid("the caller's environment is garbled")))
    }
}

/// The header's value.
pub fn encode(caller: &Caller) -> String {
    // Strings and paths always make JSON, but for a path that is not UTF-8.
    let json = serde_json::to_vec(caller).unwrap_or_default();
    registry::digest::hex(&json)
}

fn decode(value: &[u8]) -> Option<Caller> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = value.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    let json: Vec<u8> = pairs.collect::<Option<_>>()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_is_not_shown() {
        let caller = Caller {
            variables: [("DOCKER_PASSWORD".to_owned(), "hush ä\n".to_owned())].into(),
            folder: Some("/work".into()),
            changed: vec!["1.2".to_owned()],
            mirrors: Vec::new(),
        };
        let text = encode(&caller);
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(decode(text.as_bytes()), Some(caller.clone()));
        assert!(!format!("{caller:?}").contains("hush"));
        for bad in ["", "7", "zz", "7b"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}

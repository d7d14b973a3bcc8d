//! `Warning` headers: what a client should tell its user although the request succeeded. Pure.
//!
//! Source: distribution-spec, "Warnings": the code is 299, the agent is `-`, there is no date, and
//! all headers of an answer together stay below 4096 bytes.

use config::name::RepositoryName;
use http::header::{HOST, HeaderName};
use http::{HeaderMap, Uri};

use super::answer::{Answer, text};
use crate::service::Remark;

const WARNING: HeaderName = HeaderName::from_static("warning");
/// Of all texts of one answer together, their frames included.
const MOST: usize = 4096;
/// Many clients refuse a longer host, slash and name together ("Pulling manifests").
const LONG: usize = 255;

/// What is to be said about a manifest that was taken.
pub(super) fn of_manifest(
    remarks: &[Remark],
    repository: &RepositoryName,
    uri: &Uri,
    headers: &HeaderMap,
) -> Vec<String> {
    let mut texts: Vec<String> = remarks.iter().map(Remark::to_string).collect();
    // HTTP/2 names the host in the address, HTTP/1.1 in a header.
    let host = uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| text(headers, HOST)).unwrap_or_default();
    let length = host.len() + 1 + repository.as_str().len();
    if length > LONG {
        texts.push(format!(
            "many clients refuse this name: with the registry's it has {length} characters, more than {LONG}"
        ));
    }
    texts
}

/// Adds the warnings to an answer, as many as may be sent.
pub(super) fn warn(mut answer: Answer, texts: &[String]) -> Answer {
    let mut left = MOST;
    for text in texts {
        let value = format!("299 - \"{}\"", quoted(text));
        let Some(rest) = left.checked_sub(value.len()) else {
            break;
        };
        left = rest;
        answer = answer.header(WARNING, value);
    }
    answer
}

/// The inside of a quoted string (RFC 9110, section 5.6.4); what does not belong there is left out.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn sent(texts: &[String]) -> Vec<String> {
        let response = warn(Answer::new(StatusCode::CREATED), texts).empty();
        let values = response.headers().get_all(WARNING);
        values
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_warning_is_a_quoted_string() {
        let texts = ["say \"no\"\\\r\n".to_owned(), "two".to_owned()];
        assert_eq!(sent(&texts), [r#"299 - "say \"no\"\\""#, r#"299 - "two""#]);
    }

    #[test]
    fn warnings_stay_below_the_limit() {
        let texts = vec!["x".repeat(1000); 9];
        let values = sent(&texts);
        assert_eq!(values.len(), 4);
        assert!(values.iter().map(String::len).sum::<usize>() <= 4096);
    }

    #[test]
    fn a_name_that_clients_refuse_is_told() {
        let name: RepositoryName = "a".repeat(240).parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "registry.test:5000".parse().unwrap());
        let told =
            |headers: &HeaderMap| of_manifest(&[], &name, &"/v2/x".parse().unwrap(), headers);
        assert!(
            told(&headers)[0].contains("259 characters"),
            "{:?}",
            told(&headers)
        );
        assert!(told(&HeaderMap::new()).is_empty());
    }
}

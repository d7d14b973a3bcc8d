//! Web pages that speak to an open registry through the browser of somebody on its machine.
//!
//! A page says where it is from in `Origin`. One whose own name was made to point at this machine (DNS
//! rebinding) need not, but its requests carry that name as their host, and no name of the public DNS
//! leads here unless somebody has set it up. Registry clients send no `Origin`.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{StatusCode, Uri};

use super::Front;
use super::answer::text;
use super::error::{ApiError, Code};
use super::peer::{self, Secure};

/// Refuses what a web page sends, while everybody who reaches the port may push.
pub(super) fn refuse_pages(front: &Front, parts: &Parts) -> Result<(), ApiError> {
    if !front.access.takes_nameless_pushes() {
        return Ok(());
    }
    // HTTP/2 has the host in the authority.
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| text(&parts.headers, HOST));
    if let Some(origin) = parts.headers.get(ORIGIN)
        && !origin.to_str().is_ok_and(|origin| is_own(origin, host))
    {
        return denied("while everybody may push, web pages of other origins may do nothing here");
    }
    let here = peer::address(&parts.extensions).is_some_and(|a| a.to_canonical().is_loopback());
    // A page of another name has no certificate of ours.
    let plain = parts.extensions.get::<Secure>().is_none();
    match host {
        Some(host) if here && plain && !is_known(host, front.access.hosts()) => denied(
            "while everybody may push, this machine's programs call the registry localhost; \
             the setting registry.hosts allows further names",
        ),
        _ => Ok(()),
    }
}

fn denied(why: &str) -> Result<(), ApiError> {
    Err(ApiError::new(StatusCode::FORBIDDEN, Code::Denied, why).of_access())
}

/// Whether an origin is the host that is asked.
fn is_own(origin: &str, host: Option<&str>) -> bool {
    let origin = origin.parse::<Uri>().ok();
    let origin = origin.as_ref().and_then(Uri::authority);
    origin
        .zip(host)
        .is_some_and(|(origin, host)| origin.as_str().eq_ignore_ascii_case(host))
}

/// Whether no stranger can have made the name lead here: an address, a name without a dot or below
/// `localhost` or `internal` (which the public DNS does not have; containers call their host so), or
/// one that the settings name.
fn is_known(host: &str, named: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let ours =
        |named: &String| named.eq_ignore_ascii_case(&name) || named.eq_ignore_ascii_case(host);
    name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || name.ends_with(".localhost")
        || name.ends_with(".internal")
        || named.iter().any(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names_that_no_stranger_makes() {
        let named = [
            "registry.example".to_owned(),
            "other.example:5000".to_owned(),
        ];
        for (host, known) in [
            ("localhost:5000", true),
            ("LOCALHOST", true),
            ("a.localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("10.0.0.1", true),
            ("registry:5000", true),
            ("host.containers.internal:5000", true),
            ("registry.example:5000", true),
            ("Registry.Example.", true),
            ("other.example:5000", true),
            ("other.example:80", false),
            ("evil.example:5000", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:5000", false),
            ("evil.example.", false),
        ] {
            assert_eq!(is_known(host, &named), known, "{host}");
        }
    }

    #[test]
    fn an_origin_is_the_host_itself_or_another() {
        for (origin, own) in [
            ("http://localhost:5000", true),
            ("https://localhost:5000", true),
            ("http://localhost", false),
            ("http://evil.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_own(origin, Some("localhost:5000")), own, "{origin}");
        }
    }
}

//! An event as a receiver gets it, and its signature. Pure.
//!
//! Sources: CloudEvents 1.0, "JSON Event Format", structured mode; docker's registry,
//! "Notifications" (`application/vnd.docker.distribution.events.v2+json`). The signature is that of
//! GitHub's webhooks: HMAC-SHA256 of the body, in hexadecimal, after `sha256=`.

use config::registry::webhook::EventFormat;
use ring::hmac;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Event;

pub const SIGNATURE: &str = "x-devpod-signature-256";
pub const EVENT_ID: &str = "x-devpod-event-id";
const CLOUD: &str = "application/cloudevents+json; charset=utf-8";
const DOCKER: &str = "application/vnd.docker.distribution.events.v2+json";

/// A body and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

/// Writes an event in the form that a receiver wants. `source` names this registry.
pub fn wrap(event: &Event, format: EventFormat, source: &str) -> Envelope {
    let (content_type, value) = match format {
        EventFormat::CloudEvents => (CLOUD, cloud(event, source)),
        EventFormat::Docker => (DOCKER, docker(event, source)),
    };
    let body = value.to_string().into_bytes();
    Envelope { content_type, body }
}

/// The header's value for a body.
pub fn sign(secret: &[u8], body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, body);
    format!("sha256={}", crate::digest::hex(tag.as_ref()))
}

/// Milliseconds since 1970 as RFC 3339.
pub fn rfc3339(milliseconds: u64) -> String {
    let nanoseconds = i128::from(milliseconds) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds);
    let text = at.ok().and_then(|at| at.format(&Rfc3339).ok());
    text.unwrap_or_default()
}

fn cloud(event: &Event, source: &str) -> Value {
    let mut subject = event.repository.clone();
    match (event.tags.as_slice(), &event.digest) {
        ([tag], _) => subject = format!("{subject}:{tag}"),
        (_, Some(digest)) => subject = format!("{subject}@{digest}"),
        _ => {}
    }
    json!({
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": format!("dev.devpod.registry.{}", event.action),
        "subject": subject,
        "time": rfc3339(event.at),
        "datacontenttype": "application/json",
        "data": present(json!({
            "action": event.action,
            "repository": event.repository,
            "tags": event.tags,
            "digest": event.digest,
            "mediaType": event.media_type,
            "size": event.size,
            "fromRepository": event.from,
            "actor": event.actor,
            "requestId": event.request,
        })),
    })
}

/// One tag has a place there, so of several the first stands.
fn docker(event: &Event, source: &str) -> Value {
    let one = present(json!({
        "id": event.id,
        "timestamp": rfc3339(event.at),
        "action": event.action,
        "target": present(json!({
            "mediaType": event.media_type,
            "digest": event.digest,
            "size": event.size,
            "length": event.size,
            "repository": event.repository,
            "fromRepository": event.from,
            "tag": event.tags.first(),
        })),
        "request": event.request.as_ref().map(|id| json!({ "id": id })),
        "actor": { "name": event.actor },
        "source": { "addr": source },
    }));
    json!({ "events": [one] })
}

/// Without what is not there.
fn present(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: "00ff".to_owned(),
            at: 1_700_000_000_123,
            action: "push".to_owned(),
            repository: "team/app".to_owned(),
            tags: vec!["v1".to_owned()],
            digest: Some("sha256:ab".to_owned()),
            media_type: Some("m/t".to_owned()),
            size: Some(7),
            from: None,
            actor: "ci".to_owned(),
            request: Some("r-1".to_owned()),
        }
    }

    fn value(format: EventFormat) -> Value {
        serde_json::from_slice(&wrap(&event(), format, "//h:1").body).unwrap()
    }

    #[test]
    fn a_cloud_event_has_its_attributes() {
        let value = value(EventFormat::CloudEvents);
        assert_eq!(value["specversion"], "1.0");
        assert_eq!(value["type"], "dev.devpod.registry.push");
        assert_eq!(value["subject"], "team/app:v1");
        assert_eq!(value["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(value["data"]["digest"], "sha256:ab");
        assert!(value["data"].get("fromRepository").is_none());
    }

    #[test]
    fn dockers_envelope_has_its_fields() {
        let value = value(EventFormat::Docker);
        let one = &value["events"][0];
        assert_eq!(one["action"], "push");
        assert_eq!(one["target"]["tag"], "v1");
        assert_eq!(one["target"]["length"], 7);
        assert_eq!(one["actor"]["name"], "ci");
        assert_eq!(one["request"]["id"], "r-1");
    }

    #[test]
    fn a_signature_is_that_of_rfc_4231() {
        let signed = sign(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(
            signed,
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}

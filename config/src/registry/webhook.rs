//! `[[registry.webhooks]]`: who is told what happens in the registry.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{optional, required, tables};
use crate::jsonc::{Cursor, Located};
use crate::pattern::Pattern;
use crate::quantity::Seconds;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A manifest was stored, or a tag was set.
    Push,
    /// A manifest was read by a client.
    Pull,
    /// A tag, a manifest, a blob or a repository was removed.
    Delete,
    /// A blob of another repository was shown in this one.
    Mount,
}

impl EventKind {
    pub const ALL: [Self; 4] = [Self::Push, Self::Pull, Self::Delete, Self::Mount];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Delete => "delete",
            Self::Mount => "mount",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no event: push, pull, delete or mount"))
    }
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFormat {
    /// CloudEvents 1.0 in structured mode.
    #[default]
    CloudEvents,
    /// The envelope of docker's registry.
    Docker,
}

impl FromStr for EventFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cloudevents" => Ok(Self::CloudEvents),
            "docker" => Ok(Self::Docker),
            _ => Err(format!("{text:?} is no format: cloudevents or docker")),
        }
    }
}

/// Someone who is told.
#[derive(Clone, PartialEq)]
pub struct Webhook {
    /// What has been told is remembered under this name, so a new address goes on where the old
    /// one ended.
    pub name: String,
    pub url: String,
    pub events: BTreeSet<EventKind>,
    pub repositories: Pattern,
    pub format: EventFormat,
    /// Sent with every request; names and values as they stand.
    pub headers: Vec<(String, String)>,
    /// A file with the key that signs what is sent.
    pub secret_file: Option<PathBuf>,
    /// For the whole of one request.
    pub timeout: Duration,
}

/// The address and the headers may hold tokens.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

const KNOWN: [&str; 8] = [
    "name",
    "url",
    "events",
    "repositories",
    "format",
    "headers",
    "secret_file",
    "timeout",
];
/// More receivers than this would only copy each other.
const MAX_WEBHOOKS: usize = 32;
/// What every request says by itself.
const OWN_HEADERS: [&str; 4] = ["content-", "host", "transfer-", "x-devpod-"];
const TIMEOUT: Seconds = Seconds(10);
const LONGEST_TIMEOUT: u64 = 300;

/// Reads the list. Two of one name are refused.
pub(crate) fn read(cursor: &Cursor<'_>) -> Result<Vec<Webhook>, Located> {
    let items = tables(cursor, &KNOWN)?;
    if items.len() > MAX_WEBHOOKS {
        return Err(cursor.error(format!("more than {MAX_WEBHOOKS} webhooks")));
    }
    let mut webhooks: Vec<Webhook> = Vec::with_capacity(items.len());
    for item in &items {
        let webhook = one(item)?;
        if webhooks.iter().any(|other| other.name == webhook.name) {
            return Err(item.error(format!("two webhooks are called {:?}", webhook.name)));
        }
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

fn one(item: &Cursor<'_>) -> Result<Webhook, Located> {
    let everything = || {
        "**".parse::<Pattern>()
            .map_err(|error| item.error(error.to_string()))
    };
    let repositories = optional(item, "repositories")?;
    Ok(Webhook {
        name: required::<HookName>(item, "name")?.0,
        url: required::<Address>(item, "url")?.0,
        events: events(item)?,
        repositories: repositories.map_or_else(everything, Ok)?,
        format: optional(item, "format")?.unwrap_or_default(),
        headers: headers(item)?,
        secret_file: optional::<Absolute>(item, "secret_file")?.map(|path| path.0),
        timeout: timeout(item)?,
    })
}

/// All but pulls where nothing is said: there are many of those.
fn events(item: &Cursor<'_>) -> Result<BTreeSet<EventKind>, Located> {
    let Some(cursor) = item.get("events") else {
        return Ok([EventKind::Push, EventKind::Delete].into());
    };
    let kinds = cursor.list()?;
    if kinds.is_empty() {
        return Err(cursor.error("\"events\" names none"));
    }
    kinds.iter().map(Cursor::parse).collect()
}

fn headers(item: &Cursor<'_>) -> Result<Vec<(String, String)>, Located> {
    let Some(cursor) = item.get("headers") else {
        return Ok(Vec::new());
    };
    let pairs = cursor.scalars()?;
    for (name, value) in &pairs {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let own = name.to_ascii_lowercase();
        let taken = OWN_HEADERS.iter().any(|taken| own.starts_with(taken));
        let named = !name.is_empty() && name.bytes().all(letters) && !taken;
        // The value may be a secret, so it is not repeated.
        if !named || !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            return Err(cursor.error(format!("{name:?} is no header that can be given a value")));
        }
    }
    Ok(pairs)
}

fn timeout(item: &Cursor<'_>) -> Result<Duration, Located> {
    let Seconds(seconds) = optional(item, "timeout")?.unwrap_or(TIMEOUT);
    if !(1..=LONGEST_TIMEOUT).contains(&seconds) {
        return Err(item.error(format!(
            "\"timeout\" is not from 1 to {LONGEST_TIMEOUT} seconds"
        )));
    }
    Ok(Duration::from_secs(seconds))
}

/// A word that can stand in a table and a key.
struct HookName(String);

impl FromStr for HookName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if letters && (1..=64).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is no name: 1 to 64 letters, digits, dots, underscores, hyphens"
            ))
        }
    }
}

struct Address(String);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let plain = text.bytes().all(|b| b.is_ascii_graphic());
        match authority {
            Some(host) if !host.is_empty() && !host.contains('@') && plain => {
                Ok(Self(text.to_owned()))
            }
            // The address itself may hold a token.
            _ => Err("not an http or https address without credentials".to_owned()),
        }
    }
}

struct Absolute(PathBuf);

impl FromStr for Absolute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            Ok(Self(PathBuf::from(text)))
        } else {
            Err(format!("{text:?} is not an absolute path"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Flag, Settings, SourceFile, Sources};

    fn load(toml: &str) -> Result<Vec<Webhook>, String> {
        let sources = Sources {
            system: Some(SourceFile {
                path: "c.toml",
                text: toml,
            }),
            flags: &[Flag {
                name: "--data",
                key: "data",
                value: "/d",
            }],
            ..Sources::default()
        };
        let settings = Settings::load(&sources).map_err(|error| error.to_string())?;
        Ok(settings.registry.webhooks)
    }

    #[test]
    fn reads_a_webhook() {
        let text = "[[registry.webhooks]]\nname = \"ci\"\nurl = \"https://ci.example/hook?t=1\"\n\
            events = [\"push\", \"mount\"]\nrepositories = \"team/**\"\nformat = \"docker\"\n\
            headers = { Authorization = \"Bearer x\" }\nsecret_file = \"/s\"\ntimeout = \"3s\"\n\
            [[registry.webhooks]]\nname = \"all\"\nurl = \"http://127.0.0.1:1/\"\n";
        let hooks = load(text).unwrap();
        assert_eq!(hooks[0].events, [EventKind::Push, EventKind::Mount].into());
        assert!(hooks[0].repositories.matches("team/a") && !hooks[0].repositories.matches("a"));
        assert_eq!(hooks[0].format, EventFormat::Docker);
        assert_eq!(
            hooks[0].headers,
            [("Authorization".to_owned(), "Bearer x".to_owned())]
        );
        assert_eq!(hooks[0].timeout, Duration::from_secs(3));
        assert_eq!(hooks[1].events, [EventKind::Push, EventKind::Delete].into());
        assert!(hooks[1].repositories.matches("any/thing"));
    }

    #[test]
    fn says_what_is_wrong() {
        let hook = |rest: &str| {
            format!("[[registry.webhooks]]\nname = \"a\"\nurl = \"http://h/\"\n{rest}\n")
        };
        for (text, expected) in [
            (
                hook("events = [\"pushed\"]"),
                "c.toml:4:11: \"registry.webhooks.0.events.0\": \"pushed\" is no event",
            ),
            (hook("events = []"), "c.toml:4:10: \"events\" names none"),
            (
                hook("headers = { \"Content-Type\" = \"x\" }"),
                "\"Content-Type\" is no header that can be given a value",
            ),
            (
                hook("timeout = 0"),
                "\"timeout\" is not from 1 to 300 seconds",
            ),
            (hook("secret_file = \"s\""), "\"s\" is not an absolute path"),
            (
                hook("secretfile = \"s\""),
                "\"secretfile\" is not known here; did you mean \"secret_file\"?",
            ),
            (hook("").repeat(2), "two webhooks are called \"a\""),
            (
                hook("").replace("http://h/", "http://user:pass@h/"),
                "http or https address without credentials",
            ),
            (hook("").replace("\"a\"", "\"a b\""), "is no name"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}

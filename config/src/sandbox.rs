//! What the settings say of a sandbox's private network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::range::Range;

/// What a private network may be denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    Range(Range),
    /// `host`: every address that the host has when it is asked for, but for its loopback, which is
    /// out of reach anyway.
    Host,
}

/// Text that is no [`Destination`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address, nor a range such as 10.0.0.0/8, nor the word host")]
pub struct BadDestination(String);

impl FromStr for Destination {
    type Err = BadDestination;

    fn from_str(text: &str) -> Result<Self, BadDestination> {
        match text {
            "host" => Ok(Self::Host),
            _ => text
                .parse()
                .map(Self::Range)
                .map_err(|_| BadDestination(text.to_owned())),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Host => f.write_str("host"),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = BadDestination;

    fn try_from(text: String) -> Result<Self, BadDestination> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

/// What sandboxes on a private network may do in the embedded registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RegistryAccess {
    /// They do not reach it.
    None,
    /// Pull, whoever they say they are.
    #[default]
    Read,
    /// What programs of the host may.
    Write,
}

impl FromStr for RegistryAccess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            _ => Err(format!(
                "{text:?} is not what sandboxes may do in the registry: none, read or write"
            )),
        }
    }
}

impl fmt::Display for RegistryAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_written_as_they_are_read() {
        for text in ["host", "10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"] {
            let read: Destination = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
        for bad in ["", "Host", "hosts", "10.0.0.0/33"] {
            let error = bad.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains("the word host"), "{error}");
        }
    }

    #[test]
    fn access_is_written_as_it_is_read() {
        for text in ["none", "read", "write"] {
            let read: RegistryAccess = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
        let error = "push".parse::<RegistryAccess>().unwrap_err();
        assert!(error.contains("none, read or write"), "{error}");
    }
}

//! Which keys are honoured, which are refused, and which are named and passed over.
//!
//! One table decides. A key that changes what is in the container or how it is isolated is refused
//! or warned about by name; a key that only concerns an editor is silent.

use crate::jsonc::{Cursor, Located, Value};
use crate::suggest;

/// A key that has no effect, and whether that stops the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhonoured {
    pub key: String,
    pub line: usize,
    pub refused: bool,
    /// Why, or what to do instead; a fragment.
    pub reason: String,
}

impl std::fmt::Display for Unhonoured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\" (line {}) {}", self.key, self.line, self.reason)
    }
}

enum Treatment {
    Honoured,
    /// Concerns an editor, or has no effect by itself.
    Silent,
    Warned(&'static str),
    Refused(&'static str),
}

use Treatment::{Honoured, Refused, Silent, Warned};

const NOT_YET: &str = "is not supported yet and has no effect";

/// Every key of the schema.
const KEYS: &[(&str, Treatment)] = &[
    ("$schema", Silent),
    ("name", Honoured),
    ("image", Honoured),
    ("build", Honoured),
    ("dockerFile", Honoured),
    ("context", Honoured),
    ("workspaceFolder", Honoured),
    ("workspaceMount", Honoured),
    ("containerEnv", Honoured),
    ("remoteEnv", Honoured),
    ("containerUser", Honoured),
    ("remoteUser", Honoured),
    ("updateRemoteUserUID", Honoured),
    ("mounts", Honoured),
    ("init", Honoured),
    ("overrideCommand", Honoured),
    ("onCreateCommand", Honoured),
    ("updateContentCommand", Honoured),
    ("postCreateCommand", Honoured),
    ("postStartCommand", Honoured),
    ("postAttachCommand", Honoured),
    // Every command is awaited, which is more than any value asks for.
    ("waitFor", Honoured),
    // The sandbox shares the host's network: each port is already where it is asked to be.
    ("forwardPorts", Honoured),
    ("customizations", Silent),
    ("extensions", Silent),
    ("settings", Silent),
    ("devPort", Silent),
    ("portsAttributes", Silent),
    ("otherPortsAttributes", Silent),
    // Declares which secrets would be useful; gives none.
    ("secrets", Silent),
    // What an editor does when its window is closed.
    ("shutdownAction", Silent),
    (
        "features",
        Refused("is not supported yet: install what it brings in the Dockerfile"),
    ),
    ("overrideFeatureInstallOrder", Warned(NOT_YET)),
    (
        "dockerComposeFile",
        Refused("is not supported yet: use \"image\" or \"build\""),
    ),
    ("service", Warned(NOT_YET)),
    ("runServices", Warned(NOT_YET)),
    (
        "initializeCommand",
        Warned("is not run: a repository's command would run on this host"),
    ),
    ("runArgs", Warned(NOT_YET)),
    (
        "appPort",
        Warned("has no effect: the sandbox shares the network of the host"),
    ),
    (
        "privileged",
        Warned("is not supported: a sandbox never gets more rights than the person has"),
    ),
    ("capAdd", Warned(NOT_YET)),
    ("securityOpt", Warned(NOT_YET)),
    ("hostRequirements", Warned("is not checked yet")),
    ("userEnvProbe", Warned(NOT_YET)),
];

const BUILD_KEYS: &[(&str, Treatment)] = &[
    ("dockerfile", Honoured),
    ("context", Honoured),
    ("args", Honoured),
    ("target", Honoured),
    (
        "cacheFrom",
        Warned("is not supported yet; the build cache of this host is used"),
    ),
    ("options", Warned(NOT_YET)),
];

/// Every key of `root` that has no effect, in the order written.
pub(super) fn unsupported(root: &Cursor<'_>) -> Result<Vec<Unhonoured>, Located> {
    let mut found = Vec::new();
    collect(root, KEYS, "", &mut found)?;
    if let Some(build) = root.get("build") {
        collect(&build, BUILD_KEYS, "build.", &mut found)?;
    }
    Ok(found)
}

fn collect(
    object: &Cursor<'_>,
    table: &[(&str, Treatment)],
    prefix: &str,
    found: &mut Vec<Unhonoured>,
) -> Result<(), Located> {
    for member in object.members()? {
        let known = table.iter().find(|(key, _)| *key == member.key);
        let (refused, reason) = match known.map(|(_, treatment)| treatment) {
            Some(Honoured | Silent) => continue,
            _ if is_without_effect(&member.node.value) => continue,
            Some(Warned(reason)) => (false, (*reason).to_owned()),
            Some(Refused(reason)) => (true, (*reason).to_owned()),
            None => {
                let hint = suggest::hint(&member.key, table.iter().map(|(key, _)| *key));
                (
                    false,
                    format!("is no key of devcontainer.json and is ignored{hint}"),
                )
            }
        };
        found.push(Unhonoured {
            key: format!("{prefix}{}", member.key),
            line: object.line_of(member.at),
            refused,
            reason: reason + &options(&member.node.value),
        });
    }
    Ok(())
}

/// The options of a list of arguments, by name; their values may be nobody's business.
fn options(value: &Value) -> String {
    let Value::List(list) = value else {
        return String::new();
    };
    let names: Vec<_> = (list.iter())
        .filter_map(|node| match &node.value {
            Value::Text(text) if text.starts_with('-') => text.split('=').next(),
            _ => None,
        })
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(": {}", names.join(", ")),
    }
}

/// `"privileged": false`, `"features": {}`, `"runArgs": []`: said, but asking for nothing.
fn is_without_effect(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::List(list) => list.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Text(text) => text.is_empty() || text == "none",
        Value::Bool(true) | Value::Number(_) => false,
    }
}

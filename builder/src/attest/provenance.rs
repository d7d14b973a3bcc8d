//! How an image was built: SLSA provenance v1, as BuildKit fills it in.
//!
//! Never in it: secrets, values of build arguments whose names say that they are one, and what of an
//! address is as good as a password.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use unpacker::digest::Digest;
use unpacker::image::read::Platform;

use super::{Predicate, digest_set, image_url};
use crate::fetch::shown;
use crate::request::BuildRequest;
use crate::source::Source;

const KIND: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
/// Parts of names that say that a value is nobody's business: those of BuildKit's check
/// `SecretsUsedInArgOrEnv`, and longer words with them.
const TELLING: [&str; 9] = [
    "apikey",
    "auth",
    "credential",
    "key",
    "pass",
    "pwd",
    "secret",
    "token",
    "private",
];

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What was built from what.
    Min,
    /// And with which arguments, from which Dockerfile.
    Max,
}

/// An image that went into the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    pub name: String,
    pub digest: Digest,
    pub platform: Platform,
}

/// RFC 3339; none where the image is to be the same on another day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    pub started: String,
    pub finished: String,
}

/// What there is to say of a build of `source`.
pub fn provenance(
    request: &BuildRequest,
    source: &Source,
    mode: Mode,
    materials: &[Material],
    times: Option<&Times>,
) -> Predicate {
    let mut arguments = Map::new();
    if let Some(target) = &request.target {
        arguments.insert("target".to_owned(), json!(target));
    }
    if mode == Mode::Max {
        arguments.extend(told("build-arg", &request.build_args));
        arguments.extend(told("label", &request.labels));
    }
    let dependencies: Vec<Value> = materials.iter().map(dependency).collect();
    let mut internal = json!({ "builderPlatform": Platform::host().to_string() });
    if mode == Mode::Max {
        internal["dockerfile"] = json!(String::from_utf8_lossy(&source.text));
    }
    let mut metadata = json!({
        "buildkit_completeness": { "request": mode == Mode::Max, "resolvedDependencies": false },
        "buildkit_reproducible": false,
    });
    if let Some(times) = times {
        metadata["startedOn"] = json!(times.started);
        metadata["finishedOn"] = json!(times.finished);
    }
    let body = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": { "path": source.name },
                "request": {
                    "frontend": "dockerfile.v0",
                    "args": arguments,
                    "locals": [{ "name": "context" }, { "name": "dockerfile" }],
                },
            },
            "internalParameters": internal,
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": { "id": concat!("devpod/", env!("CARGO_PKG_VERSION")) },
            "metadata": metadata,
        },
    });
    Predicate { kind: KIND, body }
}

fn dependency(material: &Material) -> Value {
    json!({
        "uri": image_url(&material.name, &material.platform.to_string()),
        "digest": digest_set(&material.digest),
    })
}

fn told(kind: &str, given: &BTreeMap<String, String>) -> impl Iterator<Item = (String, Value)> {
    given.iter().map(move |(name, value)| {
        let value = match is_telling(name) {
            true => "(not told)".to_owned(),
            // What ADD is told to fetch.
            false if value.contains("://") => shown(value),
            false => value.clone(),
        };
        (format!("{kind}:{name}"), json!(value))
    })
}

fn is_telling(name: &str) -> bool {
    let name = name.to_lowercase();
    // A proxy's address may have a password in it.
    TELLING.iter().any(|part| name.contains(part)) || name.ends_with("_proxy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{DockerfileSource, Secret};
    use unpacker::digest::sha256;

    #[test]
    fn arguments_are_told_and_secrets_are_not() {
        let mut request = BuildRequest::new("/nowhere".as_ref());
        request.dockerfile = DockerfileSource::Text {
            name: "Dockerfile".to_owned(),
            text: b"FROM scratch\n".to_vec(),
        };
        for (name, value) in [
            ("VERSION", "1.2"),
            ("NPM_TOKEN", "hush1"),
            ("https_proxy", "http://u:hush2@h"),
            ("FROM_WHERE", "http://u:hush4@h/f?t=hush5"),
        ] {
            request.build_args.insert(name.into(), value.into());
        }
        let secret = Secret::Value(b"hush3".to_vec());
        request.secrets.insert("id".into(), secret);
        let material = Material {
            name: "docker.io/library/debian:12".to_owned(),
            digest: sha256(b"x"),
            platform: Platform::host(),
        };
        let source = Source::read(&request).unwrap();
        let materials = std::slice::from_ref(&material);
        let told = |mode| provenance(&request, &source, mode, materials, None).body;
        let (min, max) = (told(Mode::Min), told(Mode::Max));
        for body in [&min, &max] {
            let dependency = &body["buildDefinition"]["resolvedDependencies"][0];
            let uri = dependency["uri"].as_str().unwrap();
            assert!(uri.starts_with("pkg:docker/debian@12?platform="), "{uri}");
            assert_eq!(dependency["digest"]["sha256"].as_str().unwrap().len(), 64);
            assert!(!body.to_string().contains("hush"), "{body}");
        }
        let arguments = |body: &Value| {
            let parameters = &body["buildDefinition"]["externalParameters"];
            parameters["request"]["args"].clone()
        };
        assert_eq!(arguments(&min), json!({}));
        assert_eq!(arguments(&max)["build-arg:VERSION"], "1.2");
        assert_eq!(arguments(&max)["build-arg:FROM_WHERE"], "http://h/f");
        assert!(arguments(&max).get("build-arg:NPM_TOKEN").is_some());
        let internal = &max["buildDefinition"]["internalParameters"];
        assert_eq!(internal["dockerfile"], "FROM scratch\n");
    }
}

//! Random requests against the registry and against a plain model of the specification; statuses,
//! headers and bodies must agree. `DEVPOD_TEST_SEED` repeats a run.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use registry::digest::{Algorithm, Digest, digest_of};
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::Options;
use serde_json::{Value, json};

use super::dice::Dice;
use super::door::{Door, INDEX, MANIFEST, options};
use super::exchange::{Answer, Exchange};
use super::specified::{Manifest, Model};
use super::verifier::{Excuses, faults};

const REPOSITORIES: [&str; 3] = ["m/one", "m/two", "tags/list"];
const TAGS: [&str; 4] = ["B", "a", "c.1", "z_9"];
const TYPES: [&str; 2] = ["x/signature", "x/sbom+json"];
const STEPS: usize = 700;

/// Seconds that the registry's clock is ahead.
static TICKS: AtomicU64 = AtomicU64::new(0);

fn open(data: &Path) -> (Registry, Door) {
    let options = Options {
        clock: || SystemTime::now() + Duration::from_secs(TICKS.load(Ordering::SeqCst)),
        ..options(data)
    };
    let registry = Registry::open(options, Policy::default()).unwrap();
    let door = Door::Router(router(Front::new(registry.clone())));
    (registry, door)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_does_what_the_model_does() {
    let data = tempfile::tempdir().unwrap();
    let mut dice = Dice::told("model");
    let mut model = Model::default();
    let (mut registry, mut door) = open(data.path());
    for _ in 0..STEPS {
        let repository = *dice.pick(&REPOSITORIES).unwrap();
        match dice.below(40) {
            0 => {
                drop((registry, door));
                let excuses = Excuses {
                    sparse: true,
                    ..Excuses::default()
                };
                assert_eq!(faults(data.path(), excuses), [""; 0]);
                (registry, door) = open(data.path());
            }
            1 => {
                // The clock's seconds are coarse: everything so far must be older than "now".
                TICKS.fetch_add(2, Ordering::SeqCst);
                registry.sweep(Duration::ZERO, &|_| false).unwrap();
                model.collect();
                assert_eq!(registry.verify().unwrap(), []);
            }
            2..=9 => push(&door, &mut model, &mut dice, repository).await,
            10..=12 => mount(&door, &mut model, &mut dice, repository).await,
            13..=20 => put(&door, &mut model, &mut dice, repository).await,
            21..=23 => blob(&mut model, &mut dice, repository)
                .run(&door)
                .await
                .clear(),
            24..=26 => manifest(&mut model, &mut dice, repository)
                .run(&door)
                .await
                .clear(),
            27..=29 => delete(&mut model, &mut dice, repository)
                .run(&door)
                .await
                .clear(),
            30..=33 => list(&model, &mut dice, repository).run(&door).await.clear(),
            _ => referrers(&mut model, &mut dice, repository)
                .run(&door)
                .await
                .clear(),
        }
    }
    let held: usize = model
        .repositories
        .values()
        .map(|one| one.manifests.len())
        .sum();
    println!("{held} manifests at the end of {STEPS} steps");
}

/// One of few contents, and its digest in one of two algorithms.
fn content(dice: &mut Dice) -> (Bytes, Digest) {
    let number = dice.below(7);
    let algorithm = [Algorithm::Sha256, Algorithm::Sha512][usize::from(number == 3)];
    let bytes = vec![u8::try_from(number).unwrap(); number * number * 3000];
    let digest = digest_of(algorithm, &bytes);
    (bytes.into(), digest)
}

async fn push(door: &Door, model: &mut Model, dice: &mut Dice, repository: &'static str) {
    let (bytes, digest) = content(dice);
    let uploads = format!("/v2/{repository}/blobs/uploads/");
    let place = format!("/v2/{repository}/blobs/{digest}");
    if dice.below(8) == 0 {
        let wrong = bytes.iter().copied().chain([1]).collect::<Vec<_>>();
        let post = Exchange::new("POST", format!("{uploads}?digest={digest}")).sends(wrong);
        post.refused(400, "DIGEST_INVALID").run(door).await;
        return;
    }
    let finish = match dice.below(3) {
        0 => Exchange::new("POST", format!("{uploads}?digest={digest}")).sends(bytes.clone()),
        1 => {
            let start = Exchange::new("POST", uploads).answers(202, Answer::Empty);
            let location = start.header("range", "0-0").run(door).await;
            Exchange::new("PUT", format!("{location}?digest={digest}")).sends(bytes.clone())
        }
        _ => chunks(door, &uploads, &bytes, &digest, dice).await,
    };
    let named = finish.answers(201, Answer::Empty).header("location", place);
    let named = named.header("docker-content-digest", digest.to_string());
    named.run(door).await;
    model.of(repository).blobs.insert(digest.to_string(), bytes);
}

/// Two chunks, a chunk out of order between them, and the request that ends it.
async fn chunks(
    door: &Door,
    uploads: &str,
    bytes: &Bytes,
    digest: &Digest,
    dice: &mut Dice,
) -> Exchange {
    let start = Exchange::new("POST", uploads.to_owned()).answers(202, Answer::Empty);
    let location = start.run(door).await;
    let put = Exchange::new("PUT", format!("{location}?digest={digest}"));
    if bytes.len() < 2 {
        return put.sends(bytes.clone());
    }
    let middle = 1 + dice.below(bytes.len() - 1);
    let range = |from: usize, to: usize| format!("{from}-{}", to - 1);
    let patch = |from, to| {
        Exchange::new("PATCH", location.clone())
            .with("content-range", range(from, to))
            .sends(bytes.slice(from..to))
    };
    let first = patch(0, middle).answers(202, Answer::Empty);
    first.header("range", range(0, middle)).run(door).await;
    let again = patch(0, middle).refused(416, "BLOB_UPLOAD_INVALID");
    again.header("range", range(0, middle)).run(door).await;
    let status = Exchange::new("GET", location.clone()).answers(204, Answer::Empty);
    status.header("range", range(0, middle)).run(door).await;
    put.with("content-range", range(middle, bytes.len()))
        .sends(bytes.slice(middle..))
}

async fn mount(door: &Door, model: &mut Model, dice: &mut Dice, repository: &'static str) {
    let (_, digest) = content(dice);
    let from = match dice.below(3) {
        0 => None,
        _ => dice.pick(&REPOSITORIES).copied(),
    };
    let query = from.map_or(String::new(), |from| format!("&from={from}"));
    let path = format!("/v2/{repository}/blobs/uploads/?mount={digest}{query}");
    let sources = model.repositories.iter();
    let mut sources = sources.filter(|(name, _)| from.is_none_or(|from| from == **name));
    let found = sources.find_map(|(_, held)| held.blobs.get(digest.as_ref()).cloned());
    let post = Exchange::new("POST", path);
    let Some(bytes) = found else {
        let location = post.answers(202, Answer::Empty).run(door).await;
        let cancel = Exchange::new("DELETE", location).answers(204, Answer::Empty);
        cancel.run(door).await;
        return;
    };
    let post = post.answers(201, Answer::Empty);
    post.header("location", format!("/v2/{repository}/blobs/{digest}"))
        .run(door)
        .await;
    model.of(repository).blobs.insert(digest.to_string(), bytes);
}

fn blob(model: &mut Model, dice: &mut Dice, repository: &'static str) -> Exchange {
    let (_, digest) = content(dice);
    let method = ["GET", "HEAD"][dice.below(2)];
    let get = Exchange::new(method, format!("/v2/{repository}/blobs/{digest}"));
    let Some(bytes) = model.of(repository).blobs.get(digest.as_ref()) else {
        return get.refused(404, "BLOB_UNKNOWN");
    };
    let (length, size) = (bytes.len().to_string(), bytes.len());
    let get = get.header("docker-content-digest", digest.to_string());
    if method == "HEAD" || dice.below(2) == 0 {
        let whole = get.answers(200, Answer::Bytes(bytes.clone()));
        return if method == "HEAD" {
            whole.header("content-length", length)
        } else {
            whole
        };
    }
    let (first, last) = (dice.below(size + 10), dice.below(size + 10));
    let mut get = get.with("range", format!("bytes={first}-{last}"));
    if first >= size || last < first {
        get.expected.clear();
        let unsatisfied = get.refused(416, "SIZE_INVALID");
        return unsatisfied.header("content-range", format!("bytes */{size}"));
    }
    let last = last.min(size - 1);
    get.answers(206, Answer::Bytes(bytes.slice(first..=last)))
        .header("content-range", format!("bytes {first}-{last}/{size}"))
}

/// An image, an artifact or an index over few things, so that the same comes again.
fn compose(model: &mut Model, dice: &mut Dice, repository: &'static str) -> Manifest {
    let subject = (dice.below(3) == 0).then(|| match dice.below(2) {
        0 => digest_of(Algorithm::Sha256, b"comes later").to_string(),
        _ => some_manifest(model, dice, repository),
    });
    let kind = (dice.below(3) == 0).then(|| TYPES[dice.below(2)].to_owned());
    let descriptor = |digest: &str| json!({"mediaType": "x/part", "digest": digest, "size": 1});
    let mut needs = Vec::new();
    let mut document = json!({"schemaVersion": 2});
    let is_index = dice.below(4) == 0;
    let media_type = if is_index { INDEX } else { MANIFEST };
    document["mediaType"] = media_type.into();
    if is_index {
        needs.push(some_manifest(model, dice, repository));
        document["manifests"] = json!([descriptor(&needs[0])]);
    } else {
        needs.push(content(dice).1.to_string());
        needs.push(content(dice).1.to_string());
        document["config"] = descriptor(&needs[0]);
        document["layers"] = json!([descriptor(&needs[1])]);
    }
    if let Some(kind) = &kind {
        document["artifactType"] = kind.as_str().into();
        document["annotations"] = json!({"made": "by dice"});
    }
    if let Some(subject) = &subject {
        document["subject"] = descriptor(subject);
    }
    let config_type = (!is_index).then(|| "x/part".to_owned());
    Manifest {
        bytes: document.to_string().into(),
        media_type,
        needs,
        subject,
        kind: kind.or(config_type),
    }
}

fn some_manifest(model: &mut Model, dice: &mut Dice, repository: &'static str) -> String {
    let known: Vec<String> = model.of(repository).manifests.keys().cloned().collect();
    match dice.pick(&known) {
        Some(digest) if dice.below(6) > 0 => digest.clone(),
        _ => digest_of(Algorithm::Sha512, b"is nowhere").to_string(),
    }
}

async fn put(door: &Door, model: &mut Model, dice: &mut Dice, repository: &'static str) {
    let new = compose(model, dice, repository);
    let algorithm = [Algorithm::Sha256, Algorithm::Sha512][usize::from(dice.below(5) == 0)];
    let by_tag = dice.below(2) == 0;
    let algorithm = if by_tag { Algorithm::Sha256 } else { algorithm };
    let digest = digest_of(algorithm, &new.bytes).to_string();
    let mut tags = vec![TAGS[dice.below(4)]];
    let mut query = String::new();
    if !by_tag {
        tags = TAGS[..dice.below(3)].to_vec();
        let parameters: Vec<_> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        query = format!("?{}", parameters.join("&"));
    }
    let reference = if by_tag { tags[0] } else { digest.as_str() };
    let path = format!("/v2/{repository}/manifests/{reference}{query}");
    let put = Exchange::new("PUT", path)
        .with("content-type", new.media_type)
        .sends(new.bytes.clone());
    if dice.below(10) == 0 {
        let wrong = digest_of(algorithm, b"other");
        let path = format!("/v2/{repository}/manifests/{wrong}");
        Exchange { path, ..put }
            .refused(400, "DIGEST_INVALID")
            .run(door)
            .await;
        return;
    }
    let held = model.of(repository);
    if !new.needs.iter().all(|needed| held.has(needed)) {
        put.refused(404, "MANIFEST_BLOB_UNKNOWN").run(door).await;
        return;
    }
    let put = put.answers(201, Answer::Empty);
    put.header("docker-content-digest", digest.clone())
        .header("location", format!("/v2/{repository}/manifests/{digest}"))
        .header("oci-subject", new.subject.clone().unwrap_or_default())
        .header(
            "oci-tag",
            if by_tag {
                String::new()
            } else {
                tags.join(",")
            },
        )
        .run(door)
        .await;
    for tag in tags {
        held.tags.insert(tag.to_owned(), digest.clone());
    }
    held.manifests.insert(digest, new);
}

/// A tag, or a digest that is known or not.
fn reference(model: &mut Model, dice: &mut Dice, repository: &'static str) -> String {
    match dice.below(2) {
        0 => TAGS[dice.below(4)].to_owned(),
        _ => some_manifest(model, dice, repository),
    }
}

fn manifest(model: &mut Model, dice: &mut Dice, repository: &'static str) -> Exchange {
    let reference = reference(model, dice, repository);
    let method = ["GET", "HEAD"][dice.below(2)];
    let get = Exchange::new(method, format!("/v2/{repository}/manifests/{reference}"));
    match model.of(repository).manifest(&reference) {
        None => get.refused(404, "MANIFEST_UNKNOWN"),
        Some((digest, found)) => get
            .answers(200, Answer::Bytes(found.bytes))
            .header("docker-content-digest", digest)
            .header("content-type", found.media_type),
    }
}

fn delete(model: &mut Model, dice: &mut Dice, repository: &'static str) -> Exchange {
    if dice.below(2) == 0 {
        let (_, digest) = content(dice);
        let delete = Exchange::new("DELETE", format!("/v2/{repository}/blobs/{digest}"));
        return match model.of(repository).blobs.remove(digest.as_ref()) {
            Some(_) => delete.answers(202, Answer::Empty),
            None => delete.refused(404, "BLOB_UNKNOWN"),
        };
    }
    let reference = reference(model, dice, repository);
    let path = format!("/v2/{repository}/manifests/{reference}");
    let delete = Exchange::new("DELETE", path);
    let held = model.of(repository);
    let done = if held.tags.remove(&reference).is_some() {
        true
    } else {
        held.tags.retain(|_, digest| *digest != reference);
        held.manifests.remove(&reference).is_some()
    };
    match done {
        true => delete.answers(202, Answer::Empty),
        false => delete.refused(404, "MANIFEST_UNKNOWN"),
    }
}

/// A page of names, and where the next one is.
fn page(
    names: &[String],
    dice: &mut Dice,
    path: &str,
    body: impl Fn(Vec<&String>) -> Value,
) -> Exchange {
    let limit = (dice.below(2) == 0).then(|| dice.below(4));
    let last = dice.pick(names).filter(|_| dice.clone().below(2) == 0);
    let after = names
        .iter()
        .filter(|name| last.is_none_or(|last| *name > last));
    let rest: Vec<&String> = after.collect();
    let length = limit.unwrap_or(rest.len()).min(rest.len());
    let shown = rest[..length].to_vec();
    let link = match (shown.last(), limit) {
        (Some(last), Some(limit)) if length < rest.len() => {
            let last = last.replace('/', "%2F");
            format!("<{path}?n={limit}&last={last}>; rel=\"next\"")
        }
        _ => String::new(),
    };
    let mut query = Vec::new();
    query.extend(limit.map(|limit| format!("n={limit}")));
    query.extend(last.map(|last| format!("last={last}")));
    Exchange::new("GET", format!("{path}?{}", query.join("&")))
        .answers(200, Answer::Json(body(shown)))
        .header("link", link)
}

fn list(model: &Model, dice: &mut Dice, repository: &'static str) -> Exchange {
    let names = model.names();
    if dice.below(2) == 0 {
        return page(
            &names,
            dice,
            "/v2/_catalog",
            |shown| json!({ "repositories": shown }),
        );
    }
    let path = format!("/v2/{repository}/tags/list");
    if !names.iter().any(|name| name == repository) {
        return Exchange::new("GET", path).refused(404, "NAME_UNKNOWN");
    }
    let tags: Vec<String> = model.repositories[repository]
        .tags
        .keys()
        .cloned()
        .collect();
    page(
        &tags,
        dice,
        &path,
        |shown| json!({ "name": repository, "tags": shown }),
    )
}

fn referrers(model: &mut Model, dice: &mut Dice, repository: &'static str) -> Exchange {
    let subject = match dice.below(2) {
        0 => digest_of(Algorithm::Sha256, b"comes later").to_string(),
        _ => some_manifest(model, dice, repository),
    };
    let wanted = (dice.below(2) == 0).then(|| TYPES[dice.below(2)]);
    let manifests = model.of(repository).manifests.iter();
    let all = manifests.filter(|(_, one)| one.subject.as_ref() == Some(&subject));
    let filtered =
        all.filter(|(_, one)| wanted.is_none_or(|kind| one.kind.as_deref() == Some(kind)));
    let descriptors: Vec<Value> = filtered
        .map(|(digest, one)| {
            let mut descriptor = json!({
                "mediaType": one.media_type, "digest": digest, "size": one.bytes.len()
            });
            if let Some(kind) = &one.kind {
                descriptor["artifactType"] = kind.as_str().into();
                if kind != "x/part" {
                    descriptor["annotations"] = json!({"made": "by dice"});
                }
            }
            descriptor
        })
        .collect();
    // A plus stays a plus in our query strings, and must survive as part of a media type.
    let query = wanted.map_or(String::new(), |kind| format!("?artifactType={kind}"));
    let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors});
    Exchange::new(
        "GET",
        format!("/v2/{repository}/referrers/{subject}{query}"),
    )
    .answers(200, Answer::Json(body))
    .header("content-type", INDEX)
    .header("oci-filters-applied", wanted.map_or("", |_| "artifactType"))
}

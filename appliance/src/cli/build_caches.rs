//! `--cache-from` and `--cache-to`: docker's words for caches that other hosts share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use builder::dockerfile::csv;
use config::name::Reference;

use crate::api::build_inputs::{CacheFrom, CachePlace, CacheTo, LayoutImage};
use crate::cli::image::absolute;
use crate::error::{Failure, Outcome};

const FROM: &str = "Write an image's name, type=registry,ref=NAME or type=local,src=FOLDER.";
const TO: &str = "Write type=registry,ref=NAME[,mode=max], type=local,dest=FOLDER[,mode=max] or \
                  type=inline.";

pub(super) fn from(text: &str) -> Outcome<CacheFrom> {
    let bad = |why: &str| Failure::invalid(format!("--cache-from {text}: {why}")).hint(FROM);
    if !text.contains('=') {
        return Ok(CacheFrom::Registry(
            reference(text).map_err(|why| bad(&why))?,
        ));
    }
    let mut keys = keys(text).map_err(|why| bad(&why))?;
    let found = match keys.remove("type").as_deref() {
        Some("registry") => {
            let name = keys.remove("ref").ok_or_else(|| bad("ref is missing"))?;
            CacheFrom::Registry(reference(&name).map_err(|why| bad(&why))?)
        }
        Some("local") => {
            let folder = keys.remove("src").ok_or_else(|| bad("src is missing"))?;
            CacheFrom::Local(LayoutImage {
                folder: absolute(Path::new(&folder))?,
                tag: keys.remove("tag"),
                digest: keys.remove("digest"),
            })
        }
        kind => return Err(bad(&no_kind(kind))),
    };
    match keys.into_keys().next() {
        Some(key) => Err(bad(&format!("{key} is not known"))),
        None => Ok(found),
    }
}

pub(super) fn to(text: &str) -> Outcome<CacheTo> {
    let bad = |why: &str| Failure::invalid(format!("--cache-to {text}: {why}")).hint(TO);
    // docker's short form is a registry's name, as for what is read.
    let mut keys = match text.contains('=') {
        true => keys(text).map_err(|why| bad(&why))?,
        false => BTreeMap::from([
            ("type".to_owned(), "registry".to_owned()),
            ("ref".to_owned(), text.to_owned()),
        ]),
    };
    let place = match keys.remove("type").as_deref() {
        Some("registry") => {
            let name = keys.remove("ref").ok_or_else(|| bad("ref is missing"))?;
            CachePlace::Registry(reference(&name).map_err(|why| bad(&why))?)
        }
        Some("local") => {
            let folder = keys.remove("dest").ok_or_else(|| bad("dest is missing"))?;
            CachePlace::Local {
                folder: absolute(Path::new(&folder))?,
                tag: keys.remove("tag"),
            }
        }
        Some("inline") => CachePlace::Inline,
        kind => return Err(bad(&no_kind(kind))),
    };
    let max = match keys.remove("mode").as_deref() {
        None | Some("min") => false,
        Some("max") if place == CachePlace::Inline => {
            return Err(bad(
                "what is in the image is of the image's own layers: mode=min",
            ));
        }
        Some("max") => true,
        Some(other) => return Err(bad(&format!("mode is min or max, not {other:?}"))),
    };
    let ignore_error = flag(&mut keys, "ignore-error").map_err(|why| bad(&why))?;
    // What is so anyway.
    for key in ["oci-mediatypes", "image-manifest"] {
        if flag(&mut keys, key).map_err(|why| bad(&why))? == Some(false) {
            return Err(bad("a cache is always an OCI image manifest"));
        }
    }
    match keys.into_keys().next() {
        Some(key) if key.contains("compression") => Err(bad(
            "layers are compressed as the image's are: --compression",
        )),
        Some(key) => Err(bad(&format!("{key} is not known"))),
        None => Ok(CacheTo {
            place,
            max,
            ignore_error: ignore_error.unwrap_or(false),
        }),
    }
}

/// A folder and what in it is meant: `PATH`, `PATH:TAG` or `PATH@DIGEST`.
pub(super) fn layout(text: &str) -> Outcome<LayoutImage> {
    let whole = |folder: PathBuf, tag: Option<&str>, digest: Option<&str>| LayoutImage {
        folder,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    };
    let path = absolute(Path::new(text))?;
    if path.is_dir() {
        return Ok(whole(path, None, None));
    }
    if let Some((folder, digest)) = text.rsplit_once('@') {
        return Ok(whole(absolute(Path::new(folder))?, None, Some(digest)));
    }
    match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((folder, tag)) => Ok(whole(absolute(Path::new(folder))?, Some(tag), None)),
        None => Ok(whole(path, None, None)),
    }
}

fn no_kind(kind: Option<&str>) -> String {
    match kind {
        None => "it has no type".to_owned(),
        Some(kind @ ("gha" | "s3" | "azblob")) => {
            format!("caches of type {kind} are not supported")
        }
        Some(kind) => format!("there is no type {kind:?}"),
    }
}

fn reference(text: &str) -> Result<String, String> {
    let parsed: Result<Reference, _> = text.parse();
    parsed.map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn flag(keys: &mut BTreeMap<String, String>, key: &str) -> Result<Option<bool>, String> {
    match keys.remove(key).as_deref() {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(other) => Err(format!("{key} is true or false, not {other:?}")),
    }
}

fn keys(text: &str) -> Result<BTreeMap<String, String>, String> {
    let fields = csv::fields(text).ok_or("quotes stand where they cannot")?;
    let mut keys = BTreeMap::new();
    for field in fields {
        let pair = field.split_once('=');
        let (key, value) = pair.ok_or_else(|| format!("{field:?} is no KEY=VALUE"))?;
        let before = keys.insert(key.trim().to_lowercase(), value.to_owned());
        if before.is_some() {
            return Err(format!("{key} is said twice"));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_to_read() {
        let registry = |name: &str| CacheFrom::Registry(name.to_owned());
        assert_eq!(from("h:5000/a:b").unwrap(), registry("h:5000/a:b"));
        assert_eq!(from("type=registry,ref=a").unwrap(), registry("a"));
        let local = CacheFrom::Local(LayoutImage {
            folder: "/x".into(),
            tag: Some("t".to_owned()),
            digest: None,
        });
        assert_eq!(from("type=local,src=/x,tag=t").unwrap(), local);
        for bad in [
            "UPPER",
            "type=registry",
            "ref=a",
            "type=local,dest=/x",
            "type=gha",
            "type=registry,ref=a,x=y",
            "type=registry,ref=a,ref=b",
            "type=inline",
        ] {
            assert!(from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn caches_to_write() {
        let read = |text: &str| to(text).unwrap();
        let max = read("type=registry,ref=a,mode=max,ignore-error=true");
        assert_eq!(max.place, CachePlace::Registry("a".to_owned()));
        assert!(max.max && max.ignore_error);
        let local = read("type=local,dest=/x,oci-mediatypes=true");
        assert!(matches!(local.place, CachePlace::Local { .. }) && !local.max);
        assert_eq!(read("type=inline").place, CachePlace::Inline);
        assert_eq!(
            read("h:1/a").place,
            CachePlace::Registry("h:1/a".to_owned())
        );
        for bad in [
            "type=inline,mode=max",
            "type=local,src=/x",
            "type=registry,ref=a,mode=all",
            "type=registry,ref=a,compression=zstd",
            "type=registry,ref=a,image-manifest=false",
            "type=registry,ref=a,ignore-error=perhaps",
            "type=s3,bucket=x",
        ] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn layouts_are_folders_with_tags_and_digests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let read = |text: String| {
            let read = layout(&text).unwrap();
            assert_eq!(read.folder, dir.path(), "{text}");
            (read.tag, read.digest)
        };
        assert_eq!(read(format!("{path}")), (None, None));
        assert_eq!(read(format!("{path}:v1")), (Some("v1".to_owned()), None));
        let digest = Some("sha256:00".to_owned());
        assert_eq!(read(format!("{path}@sha256:00")), (None, digest));
    }
}

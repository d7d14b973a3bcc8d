//! `-o`: where a build's result goes beside the embedded registry. Docker's words for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use builder::dockerfile::csv;

use crate::api::types::{
    ArchiveFormat, BuildRequest, BuildResult, FilesRequest, SaveRequest, Saved, Wrote,
};
use crate::cli::archive::{self, Target};
use crate::cli::image_args::SaveFormat;
use crate::client::Client;
use crate::error::{Failure, Kind, Outcome};
use crate::ui;

/// Everything that was asked for by `-o`.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    exports: Vec<Export>,
    /// Of `type=image` and `type=registry`.
    image: bool,
    push: bool,
    names: Vec<String>,
    compression: Option<String>,
    level: Option<i32>,
    annotations: Vec<(String, String)>,
}

/// What this command writes itself.
#[derive(Debug)]
struct Export {
    what: What,
    target: Target,
    /// What a message calls it.
    place: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Files,
    Archive(ArchiveFormat),
}

pub(super) fn outputs(written: &[PathBuf]) -> Outcome<Outputs> {
    let mut outputs = Outputs::default();
    for text in written {
        let text = text
            .to_str()
            .ok_or_else(|| Failure::invalid(format!("-o {}: it is not UTF-8", text.display())))?;
        outputs.add(text).map_err(|failure| {
            Failure::invalid(format!("-o {text}: {}", failure.message)).with_hints_of(failure)
        })?;
    }
    let to_stdout = |export: &&Export| matches!(export.target, Target::Stdout);
    if outputs.exports.iter().filter(to_stdout).count() > 1 {
        return Err(Failure::invalid(
            "only one output can go to standard output",
        ));
    }
    Ok(outputs)
}

impl Outputs {
    fn add(&mut self, text: &str) -> Outcome<()> {
        // Docker's short forms: a folder, or a tar on standard output.
        if !text.contains('=') {
            let kind = if text == "-" { "tar" } else { "local" };
            return self.export(kind, Some(text.to_owned()), None);
        }
        let mut fields = keys(text)?;
        let kind = fields.remove("type");
        let kind = kind.ok_or_else(|| Failure::invalid("it has no type").hint(KINDS))?;
        let destination = fields.remove("dest");
        let tar = fields.remove("tar").map(|v| flag("tar", &v)).transpose()?;
        self.attributes(&kind, fields)?;
        match kind.as_str() {
            "image" | "registry" => {
                self.image = true;
                self.push |= kind == "registry";
                match destination {
                    None => Ok(()),
                    Some(_) => Err(Failure::invalid("an image has a name, and no dest")),
                }
            }
            // The cache is kept whatever becomes of the result.
            "cacheonly" => Ok(()),
            _ => self.export(&kind, destination, tar),
        }
    }

    fn export(&mut self, kind: &str, to: Option<String>, tar: Option<bool>) -> Outcome<()> {
        let to = to.filter(|to| to != "-").map(PathBuf::from);
        let place = match &to {
            Some(path) => path.display().to_string(),
            None => "standard output".to_owned(),
        };
        let (what, target) = match kind {
            "local" => {
                let folder =
                    to.ok_or_else(|| Failure::invalid("it needs a folder: dest=FOLDER"))?;
                (What::Files, Target::Files(folder))
            }
            "tar" => (What::Files, archive::target(to, SaveFormat::OciArchive)?),
            "oci" if tar == Some(false) => (
                What::Archive(ArchiveFormat::Oci),
                archive::target(to, SaveFormat::OciDir)?,
            ),
            "oci" => (
                What::Archive(ArchiveFormat::Oci),
                archive::target(to, SaveFormat::OciArchive)?,
            ),
            "docker" if tar != Some(false) => (
                What::Archive(ArchiveFormat::Docker),
                archive::target(to, SaveFormat::DockerArchive)?,
            ),
            "docker" => return Err(Failure::invalid("docker's archive is a tar")),
            other => {
                return Err(Failure::invalid(format!("there is no type {other:?}")).hint(KINDS));
            }
        };
        if let Target::File(path) = &target {
            check_folder(path)?;
        }
        self.exports.push(Export {
            what,
            target,
            place,
        });
        Ok(())
    }

    /// What is left of an output beside its kind and its place.
    fn attributes(&mut self, kind: &str, fields: BTreeMap<String, String>) -> Outcome<()> {
        for (key, value) in fields {
            let is_image = !matches!(kind, "local" | "tar" | "cacheonly");
            let annotation = key
                .strip_prefix("annotation.")
                .or(key.strip_prefix("annotation-manifest."));
            match (key.as_str(), annotation) {
                (_, Some(name)) if is_image => {
                    self.annotations.push((name.to_owned(), value));
                }
                ("name", _) if is_image => {
                    let names = value
                        .split(',')
                        .map(str::trim)
                        .filter(|name| !name.is_empty());
                    self.names.extend(names.map(str::to_owned));
                }
                ("push", _) if is_image => self.push |= flag("push", &value)?,
                ("compression", _) if is_image => self.compression = Some(value),
                ("compression-level", _) if is_image => {
                    let level = value.parse().map_err(|_| {
                        Failure::invalid(format!("compression-level {value:?} is no number"))
                    })?;
                    self.level = Some(level);
                }
                // What is so anyway.
                ("oci-mediatypes" | "rewrite-timestamp" | "store", _) if flag(&key, &value)? => {}
                ("force-compression" | "unpack", _) if !flag(&key, &value)? => {}
                ("platform-split", _) if kind == "local" => {}
                ("oci-mediatypes", _) => {
                    return Err(Failure::invalid("manifests are always OCI's"));
                }
                ("force-compression", _) => {
                    return Err(Failure::invalid(
                        "layers of the base image stay the blobs that they are",
                    ));
                }
                _ => return Err(Failure::invalid(format!("{key}={value} is not supported"))),
            }
        }
        Ok(())
    }

    /// Tells the daemon what it has to do with it.
    pub(super) fn apply(&self, request: &mut BuildRequest) {
        request.tags.extend(self.names.iter().cloned());
        request.push |= self.push;
        request.annotations.extend(self.annotations.iter().cloned());
        if self.compression.is_some() {
            request.compression.clone_from(&self.compression);
        }
        if self.level.is_some() {
            request.compression_level = self.level;
        }
        // Of what nobody asked for as an image, layers need not be compressed.
        let only_files = self.exports.iter().all(|export| export.what == What::Files);
        let wanted = self.image || !request.tags.is_empty() || request.compression.is_some();
        if only_files && !self.exports.is_empty() && !wanted {
            request.compression = Some("none".to_owned());
        }
    }

    /// Whether standard output has something else than the result.
    pub(super) fn take_stdout(&self) -> bool {
        let to_stdout = |export: &Export| matches!(export.target, Target::Stdout);
        self.exports.iter().any(to_stdout)
    }

    /// Writes the files, one after the other.
    pub(super) async fn write(
        &self,
        client: &Client,
        request: &BuildRequest,
        result: &BuildResult,
        quiet: bool,
    ) -> Outcome<()> {
        for export in &self.exports {
            match export.what {
                What::Files => {
                    let files = FilesRequest {
                        reference: result.kept.clone(),
                        platform: request.platform.clone(),
                        source_date_epoch: request.epoch(),
                    };
                    let _: Wrote =
                        archive::fetch(client, "/v1/images/files", &files, &export.target).await?;
                }
                What::Archive(format) => save(client, export, format, request, result).await?,
            }
            if !quiet {
                ui::news(&format!("[Builder] Wrote {}", export.place));
            }
        }
        Ok(())
    }
}

async fn save(
    client: &Client,
    export: &Export,
    format: ArchiveFormat,
    request: &BuildRequest,
    result: &BuildResult,
) -> Outcome<()> {
    let images = match result.names.is_empty() {
        true => vec![result.kept.clone()],
        false => result.names.clone(),
    };
    let wanted = SaveRequest {
        images,
        format,
        platform: request.platform.clone(),
        // The image's attestations with it, where the format has room for them.
        all_platforms: format == ArchiveFormat::Oci,
    };
    let saved: Saved = archive::fetch(client, "/v1/images/save", &wanted, &export.target).await?;
    let is_ours = |digest: &String| [&result.digest, &result.manifest_digest].contains(&digest);
    match saved.images.iter().all(|image| is_ours(&image.digest)) {
        true => Ok(()),
        false => Err(Failure::new(
            Kind::Conflict,
            format!("{} is not what was built", export.place),
        )
        .hint("Another build gave its image the same name meanwhile. Build again.")),
    }
}

const KINDS: &str = "The types are local, tar, oci, docker, image, registry and cacheonly.";

fn keys(text: &str) -> Outcome<BTreeMap<String, String>> {
    let fields = csv::fields(text);
    let fields = fields.ok_or_else(|| Failure::invalid("quotes stand where they cannot"))?;
    let mut keys = BTreeMap::new();
    for field in fields {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            Failure::invalid(format!("{field:?} is no KEY=VALUE"))
                .hint("A value with commas is quoted: -o 'type=image,\"name=a,b\"'.")
        })?;
        if keys
            .insert(key.trim().to_lowercase(), value.to_owned())
            .is_some()
        {
            return Err(Failure::invalid(format!("{key} is said twice")));
        }
    }
    Ok(keys)
}

fn flag(key: &str, value: &str) -> Outcome<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(Failure::invalid(format!(
            "{key} is true or false, not {other:?}"
        ))),
    }
}

/// The folder of a file that is written, which must be there before the build, not only after it.
pub(super) fn check_folder(path: &Path) -> Outcome<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => return Ok(()),
    };
    match folder.is_dir() {
        true => Ok(()),
        false => Err(Failure::invalid(format!(
            "cannot write {}: there is no folder {}",
            path.display(),
            folder.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Outcome<Outputs> {
        let written: Vec<PathBuf> = texts.iter().map(PathBuf::from).collect();
        outputs(&written)
    }

    #[test]
    fn outputs_are_docker_s() {
        for good in [
            "out",
            "type=local,dest=out",
            "type=tar,dest=out.tar",
            "type=oci,dest=out.tar,compression=zstd,compression-level=9",
            "type=oci,dest=out,tar=false",
            "type=docker,dest=out.tar,name=a:1",
            "type=image,name=a:1,push=true,oci-mediatypes=true",
            "type=image,annotation.a.b=c",
            "type=registry,\"name=h:1/a,h:1/b\"",
            "type=cacheonly",
        ] {
            let read = read(&[good]);
            assert!(read.is_ok(), "{good}: {read:?}");
        }
        for bad in [
            "type=local",
            "type=loc,dest=x",
            "dest=x",
            "type=local,dest=x,name=a",
            "type=image,dest=x",
            "type=image,oci-mediatypes=false",
            "type=oci,dest=x,force-compression=true",
            "type=oci,dest=x,compression-level=much",
            "type=oci,dest=x,dest=y",
            "type=oci,dest=x,push=perhaps",
            "type=docker,dest=x,tar=false",
            "type=image,name=a,b",
            "type=image,annotation-index.a=b",
        ] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_daemon_is_told() {
        let told = |texts: &[&str], tags: &[&str]| {
            let mut request = BuildRequest {
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                ..BuildRequest::default()
            };
            read(texts).unwrap().apply(&mut request);
            request
        };
        let request = told(&["type=image,\"name=h:1/a,h:1/b\",push=true"], &["c"]);
        assert_eq!(request.tags, ["c", "h:1/a", "h:1/b"]);
        assert!(request.push && request.compression.is_none());
        // A folder of files needs no compressed layers, an image does.
        assert_eq!(told(&["out"], &[]).compression.as_deref(), Some("none"));
        assert_eq!(told(&["out"], &["c"]).compression, None);
        assert_eq!(told(&["out", "type=image"], &[]).compression, None);
        assert_eq!(told(&["out", "type=oci,dest=x"], &[]).compression, None);
    }
}

//! An image in an OCI layout, read for comparison: its configuration as it is, its files as umoci
//! unpacks them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::process::run;
use integration::tree::{self, Tree};
use serde_json::{Value, json};

/// One image.
#[derive(Debug)]
pub(super) struct Built {
    layout: PathBuf,
    pub(super) config: Value,
    pub(super) manifest: Value,
}

impl Built {
    /// Reads what `-o type=oci,tar=false` wrote.
    #[track_caller]
    pub(super) fn read(layout: &Path) -> Self {
        let mut built = Self {
            layout: layout.to_owned(),
            config: Value::Null,
            manifest: Value::Null,
        };
        let index: Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let mut entry = index["manifests"][0].clone();
        built.manifest = built.json(&entry);
        if let Some(images) = built.manifest["manifests"].as_array() {
            entry = images[0].clone();
            built.manifest = built.json(&entry);
        }
        built.config = built.json(&built.manifest["config"]);
        // What umoci is asked for.
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        built
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.blob(descriptor)).unwrap()
    }

    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap();
        let name = digest.strip_prefix("sha256:").unwrap();
        fs::read(self.layout.join("blobs/sha256").join(name)).unwrap()
    }

    /// Digests of the uncompressed layers: images with the same ones have the same files.
    pub(super) fn diff_ids(&self) -> &Value {
        &self.config["rootfs"]["diff_ids"]
    }

    /// All files; times of these paths only, as nobody says what the others are.
    #[track_caller]
    pub(super) fn tree(&self, times: &[String]) -> Tree {
        let to = self.layout.with_extension("tree");
        let mut command = Command::new("umoci");
        command.args(["raw", "unpack", "--image"]);
        command
            .arg(format!("{}:latest", self.layout.display()))
            .arg(&to);
        run(&mut command).ok();
        let mut tree = tree::of(&to);
        for (path, line) in &mut tree {
            if !times.contains(path) {
                *line = without_time(line);
            }
        }
        fs::remove_dir_all(to).unwrap();
        tree
    }

    /// What the history says of each step, and whether it made a layer with anything in it.
    pub(super) fn history(&self) -> Vec<Step> {
        // An image without any has `null`.
        let mut layers = self.manifest["layers"].as_array().into_iter().flatten();
        let entries = self.config["history"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        entries
            .iter()
            .map(|entry| {
                let layer = match entry["empty_layer"].as_bool() {
                    Some(true) => None,
                    _ => layers.next(),
                };
                Step {
                    made_by: entry["created_by"].as_str().unwrap_or_default().to_owned(),
                    files: layer.map(|layer| self.files(layer)),
                }
            })
            .collect()
    }

    /// How many entries a layer has.
    fn files(&self, layer: &Value) -> usize {
        let blob = self.blob(layer);
        let mut tar = tar::Archive::new(flate2::read::MultiGzDecoder::new(&blob[..]));
        tar.entries().unwrap().count()
    }

    /// Everything in the configuration but files, times and the history: `config.Env`, `os`, …
    pub(super) fn settings(&self) -> BTreeMap<String, Value> {
        let mut settings = BTreeMap::new();
        for (name, value) in self.config.as_object().unwrap() {
            match name.as_str() {
                "created" | "rootfs" | "history" => {}
                "config" => {
                    let fields = value.as_object().unwrap().iter();
                    settings.extend(
                        fields.map(|(name, value)| (format!("config.{name}"), value.clone())),
                    );
                }
                _ => drop(settings.insert(name.clone(), value.clone())),
            }
        }
        settings
    }
}

/// An entry of a history.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) made_by: String,
    /// Entries of its layer, if it has one.
    pub(super) files: Option<usize>,
}

impl Step {
    /// Whether files changed. BuildKit gives a step that changes none a layer without entries.
    pub(super) fn changed_files(&self) -> bool {
        self.files.is_some_and(|files| files > 0)
    }
}

/// The time stands behind `@`, before what a hard link's other names are.
fn without_time(line: &str) -> String {
    match line.rsplit_once('@') {
        Some((before, behind)) => {
            let rest = behind.split_once(' ').map_or("", |(_, rest)| rest);
            format!("{before}{rest}")
        }
        None => line.to_owned(),
    }
}

//! From a source's files to what its workspace shall be.

use std::collections::BTreeMap;
use std::path::Path;

use config::devcontainer::discover::{Found, discover};
use config::devcontainer::substitute::devcontainer_id;
use config::devcontainer::{DevContainer, File, Variables};
use config::project::{self, Limits, Project};
use config::settings;
use ring::digest::{SHA256, digest};

use super::failure::{Class, Fault, Stage};
use super::session;
use super::tree::Tree;

/// A `devcontainer.json`, found and parsed.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Relative to the source's root; the Dockerfile's when there is only that.
    pub path: String,
    /// What paths inside it are relative to.
    pub base: String,
    /// SHA-256 of its text, hexadecimal.
    pub digest: String,
    /// The project's own, of builds and of sandboxes.
    pub build_limits: Limits,
    pub sandbox_limits: Limits,
    file: File,
}

/// What the variables of a configuration are read from.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The source on this host.
    pub folder: &'a Path,
    /// How it is called inside: a volume's folder has no telling name.
    pub basename: &'a str,
    /// The person's environment.
    pub env: &'a BTreeMap<String, String>,
}

/// The project's own `.devpod.json`, if it has one.
pub fn project(tree: &Tree) -> Result<Project, Fault> {
    let text = read(tree, project::FILE_NAME)?;
    match text {
        Some(text) => {
            Project::parse(&text).map_err(|at| invalid(format!("{}:{at}", project::FILE_NAME)))
        }
        None => Ok(Project::default()),
    }
}

/// Finds the configuration: the path asked for, the project's, then the specification's places, then
/// the fallback image.
pub fn find(
    tree: &Tree,
    wanted: Option<&str>,
    settings: &settings::Workspace,
) -> Result<Configuration, Fault> {
    let project = project(tree)?;
    let configuration = match wanted.or(project.devcontainer.path.as_deref()) {
        Some(path) => load(tree, path),
        None => search(tree, settings),
    };
    configuration.map(|configuration| Configuration {
        build_limits: project.builder,
        sandbox_limits: project.sandbox,
        ..configuration
    })
}

fn search(tree: &Tree, settings: &settings::Workspace) -> Result<Configuration, Fault> {
    let found = discover(&mut |folder| tree.list(folder)).map_err(|error| {
        Fault::io("cannot search for devcontainer.json", &error).at(Stage::Parse)
    })?;
    match found {
        Found::File(path) => load(tree, &path),
        Found::Dockerfile(path) => dockerfile(&path),
        Found::Several(paths) => {
            let example = format!("{{\"devcontainer\": {{\"path\": {:?}}}}}", paths[0]);
            Err(invalid(format!(
                "there are several configurations: {}",
                paths.join(", ")
            ))
            .suggest(format!("Choose one in {}: {example}", project::FILE_NAME)))
        }
        Found::Nothing => fallback(settings),
    }
}

fn load(tree: &Tree, path: &str) -> Result<Configuration, Fault> {
    let text = read(tree, path)?.ok_or_else(|| {
        Fault::new(Class::NotFound, format!("there is no {path}")).at(Stage::Parse)
    })?;
    parse(path, path, &text)
}

/// A Dockerfile without a `devcontainer.json`, as CodePod's own `devpod` builds it: with the
/// repository as its context.
fn dockerfile(path: &str) -> Result<Configuration, Fault> {
    let text = r#"{"build": {"dockerfile": "Dockerfile", "context": ".."}}"#;
    parse(path, path, text)
}

fn fallback(settings: &settings::Workspace) -> Result<Configuration, Fault> {
    let Some(image) = &settings.fallback_image else {
        return Err(Fault::new(
            Class::NotFound,
            "there is no .devcontainer/devcontainer.json, .devcontainer.json or .devcontainer/Dockerfile",
        )
        .at(Stage::Parse)
        .suggest(
            "Write one, such as {\"image\": \"debian\"}, or name an image for every folder without \
             one: devpod config set workspace.fallback_image IMAGE",
        ));
    };
    let text = serde_json::json!({ "image": image.to_string() }).to_string();
    parse("workspace.fallback_image", "", &text)
}

fn parse(path: &str, base: &str, text: &str) -> Result<Configuration, Fault> {
    let file = File::parse(text).map_err(|at| invalid(format!("{path}:{at}")))?;
    let hash = digest(&SHA256, text.as_bytes());
    Ok(Configuration {
        path: path.to_owned(),
        base: base.to_owned(),
        digest: hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        build_limits: Limits::default(),
        sandbox_limits: Limits::default(),
        file,
    })
}

fn read(tree: &Tree, path: &str) -> Result<Option<String>, Fault> {
    tree.read(path)
        .map_err(|error| Fault::io(format!("cannot read {path}"), &error).at(Stage::Parse))
}

fn invalid(message: String) -> Fault {
    Fault::new(Class::Invalid, message).at(Stage::Parse)
}

impl Configuration {
    /// With every variable that is known; `container_env` once the container runs.
    pub fn resolve(
        &self,
        around: &Surroundings<'_>,
        container_env: Option<&[String]>,
    ) -> Result<DevContainer, Fault> {
        let folder = around.folder.to_string_lossy();
        let id = self.id(&folder);
        let local = |name: &str| around.env.get(name).cloned();
        let inside = |name: &str| session::variable(container_env?, name).map(str::to_owned);
        let variables = Variables {
            local_env: &local,
            local_folder: &folder,
            local_basename: Some(around.basename),
            devcontainer_id: Some(&id),
            container_env: container_env.is_some().then_some(&inside),
        };
        let config = self
            .file
            .resolve(&variables)
            .map_err(|at| invalid(format!("{}:{at}", self.path)))?;
        match config.refusal() {
            Some(refused) => Err(invalid(format!("{}: {refused}", self.path))),
            None => Ok(config),
        }
    }

    /// From the labels by which the reference implementation finds a container again.
    fn id(&self, folder: &str) -> String {
        devcontainer_id(&BTreeMap::from([
            ("devcontainer.local_folder".to_owned(), folder.to_owned()),
            (
                "devcontainer.config_file".to_owned(),
                format!("{folder}/{}", self.path),
            ),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn settings(fallback: Option<&str>) -> settings::Workspace {
        settings::Workspace {
            fallback_image: fallback.map(|text| text.parse().unwrap()),
            clone_depth: 1,
            mounts: Vec::new(),
        }
    }

    fn found(files: &[(&str, &str)], fallback: Option<&str>) -> Result<Configuration, Fault> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        find(&Tree::open(root.path()).unwrap(), None, &settings(fallback))
    }

    #[test]
    fn finds_what_the_source_says() {
        let image = r#"{"image": "a"}"#;
        for (files, fallback, path) in [
            (
                vec![(".devcontainer/devcontainer.json", image)],
                None,
                ".devcontainer/devcontainer.json",
            ),
            (
                vec![
                    (".devcontainer/devcontainer.json", image),
                    ("other.json", image),
                    (
                        ".devpod.json",
                        r#"{"devcontainer": {"path": "other.json"}}"#,
                    ),
                ],
                None,
                "other.json",
            ),
            (
                vec![(".devcontainer/Dockerfile", "FROM a")],
                None,
                ".devcontainer/Dockerfile",
            ),
            (vec![], Some("alpine"), "workspace.fallback_image"),
        ] {
            assert_eq!(found(&files, fallback).unwrap().path, path);
        }
    }

    #[test]
    fn complaints_name_file_and_place() {
        for (files, expected) in [
            (vec![], "there is no .devcontainer/devcontainer.json"),
            (
                vec![(".devcontainer/devcontainer.json", "{\n  \"image\" \"a\"\n}")],
                ".devcontainer/devcontainer.json:2:11: ",
            ),
            (vec![(".devpod.json", "{\"nam\": 1}")], ".devpod.json:1:2: "),
            (
                vec![(".devpod.json", r#"{"devcontainer": {"path": "gone.json"}}"#)],
                "there is no gone.json",
            ),
            (
                vec![
                    (".devcontainer/a/devcontainer.json", "{}"),
                    (".devcontainer/b/devcontainer.json", "{}"),
                ],
                "there are several configurations: .devcontainer/a/devcontainer.json, ",
            ),
        ] {
            let fault = found(&files, None).unwrap_err();
            assert!(fault.to_string().starts_with(expected), "{fault}");
            assert_eq!(fault.stage, Some(Stage::Parse));
        }
    }

    #[test]
    fn refuses_by_name_what_is_not_supported() {
        let text = "{\"image\": \"a\",\n\"features\": {\"ghcr.io/x/y\": {}}}";
        let configuration = found(&[(".devcontainer.json", text)], None).unwrap();
        let around = Surroundings {
            folder: Path::new("/src/app"),
            basename: "app",
            env: &BTreeMap::new(),
        };
        let fault = configuration
            .resolve(&around, None)
            .unwrap_err()
            .to_string();
        assert!(
            fault.starts_with(".devcontainer.json: \"features\" (line 2) is not supported"),
            "{fault}"
        );
    }

    #[test]
    fn the_containers_environment_comes_last() {
        let text = r#"{"image": "a", "remoteEnv": {"P": "${containerEnv:PATH}:/x", "U": "${localEnv:USER}"}}"#;
        let configuration = found(&[(".devcontainer.json", text)], None).unwrap();
        let env = BTreeMap::from([("USER".to_owned(), "me".to_owned())]);
        let around = Surroundings {
            folder: Path::new("/v/repo"),
            basename: "app",
            env: &env,
        };
        let before = configuration.resolve(&around, None).unwrap();
        assert_eq!(before.workspace_folder, "/workspaces/app");
        assert_eq!(
            before.remote_env["P"].as_deref(),
            Some("${containerEnv:PATH}:/x")
        );
        let inside = ["PATH=/bin".to_owned()];
        let after = configuration.resolve(&around, Some(&inside)).unwrap();
        assert_eq!(after.remote_env["P"].as_deref(), Some("/bin:/x"));
        assert_eq!(after.remote_env["U"].as_deref(), Some("me"));
    }
}

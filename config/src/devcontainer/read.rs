//! From the tree of a file to [`DevContainer`].

use std::collections::BTreeMap;

use crate::jsonc::{Cursor, Document, Located, Value};

use super::command::Lifecycle;
use super::honour;
use super::mount::Mount;
use super::substitute::{self, Variables};
use super::{Build, DevContainer, Source};

/// Keys that have a field of their own; the others are kept as they are.
const READ: &[&str] = &[
    "$schema",
    "name",
    "image",
    "build",
    "dockerFile",
    "context",
    "dockerComposeFile",
    "service",
    "workspaceFolder",
    "workspaceMount",
    "containerEnv",
    "remoteEnv",
    "containerUser",
    "remoteUser",
    "updateRemoteUserUID",
    "mounts",
    "init",
    "overrideCommand",
    "onCreateCommand",
    "updateContentCommand",
    "postCreateCommand",
    "postStartCommand",
    "postAttachCommand",
    "forwardPorts",
];

pub(super) fn resolve(
    document: &Document,
    variables: &Variables<'_>,
) -> Result<DevContainer, Located> {
    let folder = workspace_folder(&document.cursor()?, variables)?;
    let mut expanded = document.clone();
    substitute::expand_document(&mut expanded, variables, &folder)?;
    read(&expanded.cursor()?, folder)
}

/// The folder comes first, because `${containerWorkspaceFolder}` may stand anywhere else.
fn workspace_folder(root: &Cursor<'_>, variables: &Variables<'_>) -> Result<String, Located> {
    let Some(cursor) = root.get("workspaceFolder") else {
        return Ok(format!("/workspaces/{}", variables.basename()));
    };
    let folder = substitute::expand(&cursor.text()?, variables, None)
        .map_err(|error| cursor.error(error.to_string()))?;
    if !folder.starts_with('/') || folder.split('/').any(|part| part == "..") {
        return Err(cursor.expected("an absolute path without \"..\""));
    }
    Ok(folder)
}

fn read(root: &Cursor<'_>, workspace_folder: String) -> Result<DevContainer, Located> {
    let text = |key| root.get(key).map(|c| c.text()).transpose();
    let boolean = |key| root.get(key).map(|c| c.boolean()).transpose();
    let source = source(root)?;
    let compose = matches!(source, Source::Compose { .. });
    Ok(DevContainer {
        name: text("name")?,
        workspace_folder,
        workspace_mount: workspace_mount(root)?,
        container_env: environment(root, "containerEnv")?,
        remote_env: remote_env(root)?,
        container_user: user(root, "containerUser")?,
        remote_user: user(root, "remoteUser")?,
        update_remote_user_uid: boolean("updateRemoteUserUID")?.unwrap_or(true),
        mounts: mounts(root)?,
        init: boolean("init")?.unwrap_or(false),
        override_command: boolean("overrideCommand")?.unwrap_or(!compose),
        lifecycle: Lifecycle::read(root)?,
        forward_ports: forward_ports(root)?,
        unsupported: honour::unsupported(root)?,
        kept: kept(root)?,
        source,
    })
}

/// The order of the reference implementation: compose, a Dockerfile in either place, an image.
fn source(root: &Cursor<'_>) -> Result<Source, Located> {
    if let Some(files) = root.get("dockerComposeFile") {
        return compose(root, &files);
    }
    if let Some(build) = root.get("build") {
        build.members()?;
        let dockerfile = build.get("dockerfile").or_else(|| root.get("dockerFile"));
        if let Some(dockerfile) = dockerfile {
            let context = build.get("context").or_else(|| root.get("context"));
            return read_build(&dockerfile, context, Some(&build)).map(Source::Build);
        }
    }
    if let Some(dockerfile) = root.get("dockerFile") {
        return read_build(&dockerfile, root.get("context"), None).map(Source::Build);
    }
    if let Some(image) = root.get("image") {
        let name = image.text()?;
        if name.trim().is_empty() {
            return Err(image.expected("the name of an image"));
        }
        return Ok(Source::Image(name));
    }
    Err(root.error("one of \"image\", \"build.dockerfile\" or \"dockerComposeFile\" is needed"))
}

fn compose(root: &Cursor<'_>, files: &Cursor<'_>) -> Result<Source, Located> {
    let files = match files.node.value {
        Value::List(_) => files.texts()?,
        _ => vec![files.text()?],
    };
    let service = root.get("service").map(|c| c.text()).transpose()?;
    Ok(Source::Compose { files, service })
}

fn read_build(
    dockerfile: &Cursor<'_>,
    context: Option<Cursor<'_>>,
    build: Option<&Cursor<'_>>,
) -> Result<Build, Located> {
    let context = context.map(|c| c.text()).transpose()?;
    let target = build.and_then(|b| b.get("target"));
    let args = match build.and_then(|b| b.get("args")) {
        Some(args) => args.scalars()?.into_iter().collect(),
        None => BTreeMap::new(),
    };
    Ok(Build {
        dockerfile: dockerfile.text()?,
        context: context.unwrap_or_else(|| ".".to_owned()),
        args,
        target: target.map(|c| c.text()).transpose()?,
    })
}

/// An empty `workspaceMount` means the usual one.
fn workspace_mount(root: &Cursor<'_>) -> Result<Option<Mount>, Located> {
    match root.get("workspaceMount") {
        Some(cursor) if cursor.node.value == Value::Text(String::new()) => Ok(None),
        Some(cursor) => Mount::read(&cursor).map(Some),
        None => Ok(None),
    }
}

fn environment(root: &Cursor<'_>, key: &str) -> Result<BTreeMap<String, String>, Located> {
    let Some(cursor) = root.get(key) else {
        return Ok(BTreeMap::new());
    };
    let pairs = cursor.scalars()?;
    for (name, _) in &pairs {
        check_variable(&cursor, name)?;
    }
    Ok(pairs.into_iter().collect())
}

fn remote_env(root: &Cursor<'_>) -> Result<BTreeMap<String, Option<String>>, Located> {
    let Some(cursor) = root.get("remoteEnv") else {
        return Ok(BTreeMap::new());
    };
    let mut variables = BTreeMap::new();
    for (member, value) in cursor.members()?.iter().zip(cursor.object()?) {
        check_variable(&cursor, &member.key)?;
        let value = match member.node.value {
            Value::Null => None,
            _ => Some(value.scalar()?),
        };
        variables.insert(member.key.clone(), value);
    }
    Ok(variables)
}

fn check_variable(cursor: &Cursor<'_>, name: &str) -> Result<(), Located> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let reason = format!("{name:?} cannot be the name of an environment variable");
        return Err(cursor.error(reason));
    }
    Ok(())
}

fn user(root: &Cursor<'_>, key: &str) -> Result<Option<String>, Located> {
    let Some(cursor) = root.get(key) else {
        return Ok(None);
    };
    let name = cursor.scalar()?;
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(cursor.expected("a user name or number"));
    }
    Ok((!name.is_empty()).then_some(name))
}

fn mounts(root: &Cursor<'_>) -> Result<Vec<Mount>, Located> {
    match root.get("mounts") {
        Some(cursor) => cursor.list()?.iter().map(Mount::read).collect(),
        None => Ok(Vec::new()),
    }
}

fn forward_ports(root: &Cursor<'_>) -> Result<Vec<String>, Located> {
    match root.get("forwardPorts") {
        Some(cursor) => cursor.list()?.iter().map(Cursor::scalar).collect(),
        None => Ok(Vec::new()),
    }
}

fn kept(root: &Cursor<'_>) -> Result<BTreeMap<String, serde_json::Value>, Located> {
    Ok(root
        .members()?
        .iter()
        .filter(|member| !READ.contains(&member.key.as_str()))
        .map(|member| (member.key.clone(), member.node.to_json()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devcontainer::{Command, File, MountKind};

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn resolve(text: &str) -> Result<DevContainer, Located> {
        File::parse(text)?.resolve(&Variables {
            local_env: &|name| (name == "USER").then(|| "me".to_owned()),
            local_folder: "/src/app",
            local_basename: None,
            devcontainer_id: Some("0id"),
            container_env: None,
        })
    }

    #[test]
    fn reads_the_shapes() {
        let build = |dockerfile: &str, context: &str| {
            Source::Build(Build {
                dockerfile: dockerfile.into(),
                context: context.into(),
                ..Build::default()
            })
        };
        for (text, expected) in [
            (r#"{"image": "a:1"}"#, Source::Image("a:1".into())),
            (r#"{"build": {"dockerfile": "D"}}"#, build("D", ".")),
            (
                r#"{"build": {"dockerfile": "D", "context": ".."}, "image": "x"}"#,
                build("D", ".."),
            ),
            (r#"{"dockerFile": "D", "context": "c"}"#, build("D", "c")),
            (
                r#"{"dockerComposeFile": "c.yml", "service": "s"}"#,
                Source::Compose {
                    files: vec!["c.yml".into()],
                    service: Some("s".into()),
                },
            ),
        ] {
            assert_eq!(resolve(text).unwrap().source, expected, "{text}");
        }
    }

    #[test]
    fn reads_a_whole_file() {
        let config = resolve(
            r#"{
              // what a person writes
              "name": "App ${localEnv:USER}",
              "build": {"dockerfile": "Dockerfile", "args": {"N": 20, "W": "${containerWorkspaceFolder}"}, "target": "dev",},
              "workspaceFolder": "/w/${localWorkspaceFolderBasename}",
              "workspaceMount": "source=${localWorkspaceFolder},target=/w/app,type=bind",
              "containerEnv": {"PORT": 3000, "OWNER": "${localEnv:USER}"},
              "remoteEnv": {"PATH": "${containerEnv:PATH}:/x", "GONE": null},
              "remoteUser": "dev", "containerUser": "root",
              "mounts": ["source=c-${devcontainerId},target=/c,type=volume",
                         {"type": "bind", "source": "/s", "target": "/t"}],
              "init": true, "updateRemoteUserUID": false, "overrideCommand": false,
              "onCreateCommand": "a", "postCreateCommand": {"x": ["b"]},
              "forwardPorts": [3000, "db:5432"],
              "customizations": {"vscode": {"extensions": ["x.y"]}},
            }"#,
        )
        .unwrap();
        assert_eq!(config.name.as_deref(), Some("App me"));
        assert_eq!(config.workspace_folder, "/w/app");
        let Source::Build(build) = &config.source else {
            panic!("{:?}", config.source)
        };
        assert_eq!(build.args["N"], "20");
        assert_eq!(build.args["W"], "/w/app");
        assert_eq!(build.target.as_deref(), Some("dev"));
        assert_eq!(config.container_env["PORT"], "3000");
        assert_eq!(config.container_env["OWNER"], "me");
        assert_eq!(
            config.remote_env["PATH"].as_deref(),
            Some("${containerEnv:PATH}:/x")
        );
        assert_eq!(config.remote_env["GONE"], None);
        assert_eq!(config.user(), Some("dev"));
        assert_eq!(
            config.mounts[0].kind,
            MountKind::Volume {
                name: Some("c-0id".into())
            }
        );
        assert_eq!(config.lifecycle.on_create, Some(Command::Shell("a".into())));
        assert_eq!(config.forward_ports, ["3000", "db:5432"]);
        assert!(config.init && !config.update_remote_user_uid && !config.override_command);
        assert_eq!(config.unsupported, []);
        assert_eq!(
            config.kept["customizations"]["vscode"]["extensions"][0],
            "x.y"
        );
    }

    #[test]
    fn names_what_is_not_honoured() {
        let config = resolve(
            "{\"image\": \"a\",\n\"features\": {\"ghcr.io/x/y:1\": {}},\n\"runArgs\": [\"--gpus\"],\n\
             \"remoteuser\": \"me\",\n\"privileged\": false, \"capAdd\": [],\n\
             \"build\": {\"cacheFrom\": \"x\"}}",
        )
        .unwrap();
        let said: Vec<_> = config
            .unsupported
            .iter()
            .map(|it| (it.key.as_str(), it.line, it.refused))
            .collect();
        assert_eq!(
            said,
            [
                ("features", 2, true),
                ("runArgs", 3, false),
                ("remoteuser", 4, false),
                ("build.cacheFrom", 6, false),
            ]
        );
        assert_eq!(config.refusal().unwrap().key, "features");
        let args = r#"{"image": "a", "runArgs": ["--memory=2g", "-e", "TOKEN=secret", "--init"]}"#;
        let said = resolve(args).unwrap().unsupported[0].to_string();
        assert!(
            said.ends_with("has no effect: --memory, -e, --init"),
            "{said}"
        );
        let text = config.unsupported[2].to_string();
        assert!(text.contains("did you mean \"remoteUser\"?"), "{text}");
        let compose = resolve(r#"{"dockerComposeFile": ["a", "b"], "service": "s"}"#).unwrap();
        assert_eq!(compose.refusal().unwrap().key, "dockerComposeFile");
    }

    #[test]
    fn complaints_name_the_place() {
        for (text, line, column, word) in [
            ("{}", 1, 1, "one of"),
            ("[]", 1, 1, "an object"),
            ("{\"image\": 3}", 1, 11, "\"image\" must be a string"),
            ("{\"image\": \"\"}", 1, 11, "name of an image"),
            (
                "{\"image\": \"a\",\n \"workspaceFolder\": \"w\"}",
                2,
                21,
                "absolute",
            ),
            (
                "{\"image\": \"a\", \"workspaceFolder\": \"/w/../..\"}",
                1,
                35,
                "absolute",
            ),
            (
                "{\"image\": \"a\", \"mounts\": [\"type=bind\"]}",
                1,
                27,
                "no target",
            ),
            (
                "{\"image\": \"a\", \"containerEnv\": {\"A=B\": \"\"}}",
                1,
                32,
                "A=B",
            ),
            (
                "{\"image\": \"${localEnv}\"}",
                1,
                11,
                "name of an environment",
            ),
            (
                "{\"image\": \"a\", \"remoteUser\": \"a b\"}",
                1,
                30,
                "user name",
            ),
            (
                "{\"image\": \"a\", \"postCreateCommand\": {\"x\": 3}}",
                1,
                43,
                "postCreateCommand.x",
            ),
            (
                "{\"build\": [], \"image\": \"a\"}",
                1,
                11,
                "\"build\" must be an object",
            ),
        ] {
            let error = resolve(text).unwrap_err();
            assert_eq!(
                (error.line, error.column),
                (line, column),
                "{text}: {error}"
            );
            assert!(error.reason.contains(word), "{text}: {}", error.reason);
        }
    }

    #[test]
    fn default_folder_is_of_the_basename() {
        let file = File::parse(r#"{"image": "a"}"#).unwrap();
        let config = file
            .resolve(&Variables {
                local_env: &nothing,
                local_folder: "/var/volumes/7f/",
                local_basename: Some("app"),
                devcontainer_id: None,
                container_env: None,
            })
            .unwrap();
        assert_eq!(config.workspace_folder, "/workspaces/app");
        assert!(config.update_remote_user_uid && config.override_command && !config.init);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(key in "[a-zA-Z]{1,8}|image|build|mounts|remoteEnv", value in "\\PC{0,20}") {
            let text = serde_json::json!({"image": "a", key: value}).to_string();
            let _ = resolve(&text);
        }
    }
}

//! What `up` has to do. Pure, but for looking where a bind mount leads.
//!
//! The steps follow from what exists, never from how far an earlier `up` said it was: so a second `up`
//! goes on wherever the first was killed.

use std::path::{Path, PathBuf};

use config::devcontainer::{self, DevContainer, MountKind};
use config::project::Limits;
use time::OffsetDateTime;
use time::macros::format_description;
use unpacker::container::spec::Mount;

use super::backend::{ImageBuild, SandboxPlan, SandboxState};
use super::binds::{Binds, Shown};
use super::failure::{Class, Fault, Stage};
use super::meta::{Meta, Source};

/// One step; each may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The volume of a repository.
    Volume,
    /// Throws an untouched clone away, to fetch what is new.
    Discard,
    Clone,
    /// Reads the configuration; builds or pulls the image.
    Image,
    /// The old sandbox goes.
    Remove,
    Create,
    Start,
    /// Decides as whom one works, and gives them what is theirs.
    Settle,
    Lifecycle,
}

/// What exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub cloned: bool,
    /// The last `up` failed over the source as it was cloned, and nobody has worked in it.
    pub stale: bool,
    pub sandbox: SandboxState,
    pub settled: bool,
    /// The image that the sandbox is of was kept.
    pub imaged: bool,
}

pub fn steps(source: &Source, recreate: bool, found: &Found) -> Vec<Step> {
    let mut steps = Vec::new();
    // Whoever is to work in it is told by the image; nobody has worked in it before that was settled.
    let lost = !found.imaged && !found.settled;
    let renew = recreate || lost || found.sandbox == SandboxState::Missing;
    if let Source::Repository { .. } = source {
        steps.push(Step::Volume);
        let stale = found.stale && found.sandbox == SandboxState::Missing;
        if found.cloned && stale {
            steps.push(Step::Discard);
        }
        if !found.cloned || stale {
            steps.push(Step::Clone);
        }
    }
    if renew {
        steps.push(Step::Image);
        if found.sandbox != SandboxState::Missing {
            steps.push(Step::Remove);
        }
        steps.push(Step::Create);
    }
    if renew || found.sandbox == SandboxState::Stopped {
        steps.push(Step::Start);
    }
    if renew || !found.settled {
        steps.push(Step::Settle);
    }
    steps.push(Step::Lifecycle);
    steps
}

/// How the image comes to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePlan {
    Pull(String),
    Build(ImageBuild),
}

/// `config_path` is relative to `root`; `port` is the embedded registry's.
pub fn image(
    config: &DevContainer,
    config_path: &str,
    limits: Limits,
    root: &Path,
    meta: &Meta,
    port: u16,
    now: OffsetDateTime,
) -> Result<ImagePlan, Fault> {
    match &config.source {
        devcontainer::Source::Image(name) => Ok(ImagePlan::Pull(name.clone())),
        devcontainer::Source::Build(build) => {
            let paths = build.paths(config_path).map_err(|error| {
                Fault::new(Class::Invalid, format!("{config_path}: {error}")).at(Stage::Parse)
            })?;
            Ok(ImagePlan::Build(ImageBuild {
                root: root.to_owned(),
                dockerfile: paths.dockerfile,
                context: paths.context,
                args: build.args.clone(),
                target: build.target.clone(),
                tags: tags(&meta.id, port, now),
                no_cache: false,
                limits,
            }))
        }
        devcontainer::Source::Compose { .. } => Err(Fault::new(
            Class::Invalid,
            format!("{config_path}: \"dockerComposeFile\" is not supported yet"),
        )
        .at(Stage::Parse)),
    }
}

/// `workspace/<id>:latest` and the same with the time, for history (requirement A3).
pub fn tags(id: &str, port: u16, now: OffsetDateTime) -> Vec<String> {
    let repository = format!("localhost:{port}/workspace/{id}");
    let stamp = now
        .to_offset(time::UtcOffset::UTC)
        .format(format_description!(
            "[year][month][day][hour][minute][second]"
        ));
    let mut tags = vec![format!("{repository}:latest")];
    tags.extend(stamp.map(|stamp| format!("{repository}:{stamp}")));
    tags
}

/// The sandbox of a workspace. `volume` makes a volume and answers its folder; it gets the name of
/// a named volume, or `None` for an anonymous one.
pub fn sandbox(
    meta: &Meta,
    config: &DevContainer,
    limits: Limits,
    image: &str,
    binds: &Binds,
    volume: &mut dyn FnMut(Option<&str>) -> Result<PathBuf, Fault>,
) -> Result<SandboxPlan, Fault> {
    let source = Mount::Bind {
        source: binds.folder.clone(),
        target: PathBuf::from(&config.workspace_folder),
        read_only: false,
    };
    let mut mounts = vec![match &config.workspace_mount {
        Some(own) => mount(own, binds, volume)?,
        None => source,
    }];
    for own in &config.mounts {
        mounts.push(mount(own, binds, volume)?);
    }
    Ok(SandboxPlan {
        name: meta.sandbox_name(),
        hostname: hostname(&meta.name),
        image: image.to_owned(),
        mounts,
        env: config
            .container_env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        user: config.container_user.clone(),
        init: config.init,
        override_command: config.override_command,
        limits,
    })
}

fn mount(
    mount: &devcontainer::Mount,
    binds: &Binds,
    volume: &mut dyn FnMut(Option<&str>) -> Result<PathBuf, Fault>,
) -> Result<Mount, Fault> {
    let target = PathBuf::from(&mount.target);
    let source = match &mount.kind {
        MountKind::Tmpfs => {
            return Ok(Mount::Tmpfs {
                target,
                size: None,
                mode: None,
                read_only: false,
            });
        }
        MountKind::Volume { name } => volume(name.as_deref())?,
        MountKind::Bind { source } => match binds.look(source, mount)? {
            Shown::Host(path) => path,
            Shown::Own { root, place } => {
                return Ok(Mount::Beneath {
                    root,
                    place,
                    target,
                    read_only: mount.read_only,
                });
            }
        },
    };
    Ok(Mount::Bind {
        source,
        target,
        read_only: mount.read_only,
    })
}

/// Host names have no '_'.
fn hostname(name: &str) -> String {
    name.replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::devcontainer::{File, Variables};
    use time::macros::datetime;

    fn repository() -> Source {
        Source::Repository {
            url: "https://h/a".into(),
            branch: None,
        }
    }

    fn folder() -> Source {
        Source::Folder {
            path: "/src".into(),
        }
    }

    #[test]
    fn the_steps_follow_from_what_exists() {
        use SandboxState::{Missing, Running, Stopped};
        use Step::{Clone, Create, Discard, Image, Lifecycle, Remove, Settle, Start, Volume};
        let found = |cloned, stale, sandbox, settled| Found {
            cloned,
            stale,
            sandbox,
            settled,
            imaged: true,
        };
        let lost = |found: Found| Found {
            imaged: false,
            ..found
        };
        for (source, recreate, found, expected) in [
            (
                repository(),
                false,
                found(false, false, Missing, false),
                vec![Volume, Clone, Image, Create, Start, Settle, Lifecycle],
            ),
            // Killed while building, while creating, between start and settling, in a command.
            (
                repository(),
                false,
                found(true, false, Missing, false),
                vec![Volume, Image, Create, Start, Settle, Lifecycle],
            ),
            (
                repository(),
                false,
                found(true, false, Stopped, false),
                vec![Volume, Start, Settle, Lifecycle],
            ),
            (
                repository(),
                false,
                found(true, false, Running, false),
                vec![Volume, Settle, Lifecycle],
            ),
            (
                repository(),
                false,
                found(true, false, Running, true),
                vec![Volume, Lifecycle],
            ),
            // Killed while the image was packed: beside a sandbox that nobody worked in, and beside one
            // that somebody may have.
            (
                folder(),
                false,
                lost(found(false, false, Running, false)),
                vec![Image, Remove, Create, Start, Settle, Lifecycle],
            ),
            (
                folder(),
                false,
                lost(found(false, false, Running, true)),
                vec![Lifecycle],
            ),
            // A build failed: what was pushed since is fetched.
            (
                repository(),
                false,
                found(true, true, Missing, false),
                vec![
                    Volume, Discard, Clone, Image, Create, Start, Settle, Lifecycle,
                ],
            ),
            (
                folder(),
                false,
                found(false, false, Missing, false),
                vec![Image, Create, Start, Settle, Lifecycle],
            ),
            (
                folder(),
                false,
                found(false, false, Stopped, true),
                vec![Start, Lifecycle],
            ),
            (
                folder(),
                true,
                found(false, false, Running, true),
                vec![Image, Remove, Create, Start, Settle, Lifecycle],
            ),
            // The clone of a workspace that somebody worked in is never thrown away.
            (
                repository(),
                true,
                found(true, true, Stopped, true),
                vec![Volume, Image, Remove, Create, Start, Settle, Lifecycle],
            ),
        ] {
            assert_eq!(steps(&source, recreate, &found), expected, "{found:?}");
        }
    }

    fn config(text: &str) -> DevContainer {
        let variables = Variables {
            local_env: &|_| None,
            local_folder: "/src/app",
            local_basename: None,
            devcontainer_id: None,
            container_env: None,
        };
        File::parse(text).unwrap().resolve(&variables).unwrap()
    }

    fn binds(folder: &Path) -> Binds {
        Binds {
            folder: folder.to_owned(),
            cloned: false,
            allowed: Vec::new(),
        }
    }

    fn meta() -> Meta {
        Meta::new("my_app", "0a1b2c3d".into(), String::new(), folder())
    }

    #[test]
    fn images_are_named_after_the_workspace() {
        let now = datetime!(2026-11-21 06:05:04 +2);
        let built = config(r#"{"build": {"dockerfile": "D", "context": "..", "args": {"A": 1}}}"#);
        let path = ".devcontainer/devcontainer.json";
        let plan = image(
            &built,
            path,
            Limits::default(),
            Path::new("/src/app"),
            &meta(),
            5000,
            now,
        )
        .unwrap();
        let ImagePlan::Build(build) = plan else {
            panic!("{plan:?}")
        };
        assert_eq!(
            build.tags,
            [
                "localhost:5000/workspace/0a1b2c3d:latest",
                "localhost:5000/workspace/0a1b2c3d:20261121040504"
            ]
        );
        assert_eq!(
            (build.dockerfile.as_str(), build.context.as_str()),
            (".devcontainer/D", ".")
        );
        let pulled = image(
            &config(r#"{"image": "a:1"}"#),
            path,
            Limits::default(),
            Path::new("/"),
            &meta(),
            1,
            now,
        );
        assert_eq!(pulled, Ok(ImagePlan::Pull("a:1".into())));
        let outside = config(r#"{"build": {"dockerfile": "D", "context": "../.."}}"#);
        let fault = image(
            &outside,
            path,
            Limits::default(),
            Path::new("/"),
            &meta(),
            1,
            now,
        )
        .unwrap_err();
        assert_eq!(
            (fault.class, fault.stage),
            (Class::Invalid, Some(Stage::Parse))
        );
    }

    #[test]
    fn a_sandbox_has_the_source_and_what_else_is_asked_for() {
        let config = config(
            r#"{"image": "a", "containerEnv": {"A": "1"}, "containerUser": "root", "init": true,
                "mounts": ["source=cache,target=/c", "type=volume,target=/anon",
                           "type=bind,source=/proc,target=/h,readonly", "type=tmpfs,target=/t"]}"#,
        );
        let mut asked = Vec::new();
        let mut volume = |name: Option<&str>| {
            asked.push(name.map(str::to_owned));
            Ok(PathBuf::from(format!(
                "/volumes/{}",
                name.unwrap_or("anonymous")
            )))
        };
        let binds = binds(Path::new("/src/app"));
        let plan = sandbox(
            &meta(),
            &config,
            Limits::default(),
            "img",
            &binds,
            &mut volume,
        )
        .unwrap();
        let bind = |source: &str, target: &str, read_only| Mount::Bind {
            source: source.into(),
            target: target.into(),
            read_only,
        };
        assert_eq!(
            plan.mounts,
            [
                bind("/src/app", "/workspaces/app", false),
                bind("/volumes/cache", "/c", false),
                bind("/volumes/anonymous", "/anon", false),
                bind("/proc", "/h", true),
                Mount::Tmpfs {
                    target: "/t".into(),
                    size: None,
                    mode: None,
                    read_only: false,
                },
            ]
        );
        assert_eq!(asked, [Some("cache".to_owned()), None]);
        assert_eq!(
            (plan.name.as_str(), plan.hostname.as_str()),
            ("my_app-0a1b2c3d", "my-app")
        );
        assert_eq!(
            (plan.env, plan.user.as_deref(), plan.init),
            (vec!["A=1".into()], Some("root"), true)
        );
    }

    #[test]
    fn a_mount_of_its_own_replaces_the_usual_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("sub")).unwrap();
        let shown = folder.join("sub");
        let config = config(&format!(
            r#"{{"image": "a", "workspaceFolder": "/w", "workspaceMount": "type=bind,source={},target=/w"}}"#,
            shown.display()
        ));
        let mut none = |_: Option<&str>| Err(Fault::new(Class::Internal, "no volume is expected"));
        let plan = sandbox(
            &meta(),
            &config,
            Limits::default(),
            "img",
            &binds(&folder),
            &mut none,
        )
        .unwrap();
        let expected = Mount::Beneath {
            root: folder,
            place: "sub".into(),
            target: "/w".into(),
            read_only: false,
        };
        assert_eq!(plan.mounts, [expected]);
    }
}

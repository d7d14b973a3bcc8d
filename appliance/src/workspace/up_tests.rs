//! The verbs over a backend that records what it is asked and really makes the folders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use config::settings;
use config::workspace::WorkspaceName;
use unpacker::container::spec::{Mount, Process};
use unpacker::progress::{Cancel, Event};

use super::backend::{
    Backend, ImageBuild, ImageFacts, Person, SandboxPlan, SandboxState, SystemClock,
};
use super::failure::{Class, Fault, Stage};
use super::meta::{Meta, Status};
use super::runner::HostRunner;
use super::store::Store;
use super::up::{Engine, Wanted, Wish};
use super::users::Ids;
use crate::progress::Reporter;
use unpacker::container::launch::Launcher;

#[path = "up_ended_tests.rs"]
mod ended;
#[path = "up_host_tests.rs"]
mod host;
#[path = "up_packing_tests.rs"]
mod packing;

/// A fault with this message ends the command on the spot, as SIGKILL would: nothing is concluded.
const KILL: &str = "killed";

/// What a test host has.
#[derive(Default)]
struct State {
    calls: Vec<String>,
    sandboxes: BTreeMap<String, (bool, SandboxPlan)>,
    volumes: BTreeSet<String>,
    build: Option<ImageBuild>,
    processes: Vec<Process>,
    /// The call (by its first word) that fails, once.
    fail: Option<(&'static str, Fault)>,
    /// Exit codes of commands by their text.
    exits: BTreeMap<String, i32>,
    /// What one build does when sandboxes can be made of its image already.
    packing: Option<Packing>,
    /// What survives a power cut, and the image that it is of.
    durable: BTreeMap<String, Option<String>>,
}

type Packing = Box<dyn Fn(&TestBackend) -> Result<(), Fault> + Send>;

struct TestBackend {
    folder: PathBuf,
    state: Mutex<State>,
}

impl TestBackend {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn call(&self, text: String) -> Result<(), Fault> {
        let mut state = self.state();
        let fails = state
            .fail
            .as_ref()
            .is_some_and(|(word, _)| text.starts_with(word));
        state.calls.push(text);
        match state.fail.take_if(|_| fails) {
            Some((_, fault)) if fault.message == KILL => {
                drop(state);
                panic!("{KILL}");
            }
            Some((_, fault)) => Err(fault),
            None => Ok(()),
        }
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }
}

fn facts(reference: &str) -> ImageFacts {
    ImageFacts {
        reference: reference.to_owned(),
        digest: Some("sha256:00".into()),
        user: "dev".into(),
        env: vec!["PATH=/bin".into(), "FROM_IMAGE=1".into()],
    }
}

impl Backend for TestBackend {
    fn build(
        &self,
        build: &ImageBuild,
        progress: &Reporter,
        _: &Cancel,
        ready: &(dyn Fn(ImageFacts) + Sync),
    ) -> Result<ImageFacts, Fault> {
        self.call(format!("build {} {}", build.dockerfile, build.context))?;
        self.state().build = Some(build.clone());
        progress.event(Event::Line {
            text: "[Builder] Step 1/1: FROM x".into(),
        });
        assert!(build.root.join(&build.dockerfile).is_file());
        let image = facts(&build.tags[0]);
        ready(ImageFacts {
            digest: None,
            ..image.clone()
        });
        let packing = self.state().packing.take();
        packing.map_or(Ok(()), |packing| packing(self))?;
        Ok(image)
    }

    fn pull(&self, reference: &str, _: &Reporter, _: &Cancel) -> Result<ImageFacts, Fault> {
        self.call(format!("pull {reference}"))?;
        Ok(facts(reference))
    }

    fn remove_images(&self, _: &str) -> Result<(), Fault> {
        self.call("untag".into())
    }

    fn sandbox(&self, name: &str) -> Result<SandboxState, Fault> {
        Ok(match self.state().sandboxes.get(name) {
            None => SandboxState::Missing,
            Some((false, _)) => SandboxState::Stopped,
            Some((true, _)) => SandboxState::Running,
        })
    }

    fn create_sandbox(&self, plan: &SandboxPlan, _: &Cancel) -> Result<String, Fault> {
        self.call("create".into())?;
        self.state()
            .sandboxes
            .insert(plan.name.clone(), (false, plan.clone()));
        Ok("sandbox-id".into())
    }

    fn rely_on(&self, name: &str, image_digest: Option<&str>) -> Result<(), Fault> {
        let image = image_digest.map(str::to_owned);
        self.state().durable.insert(name.to_owned(), image);
        Ok(())
    }

    fn start_sandbox(&self, name: &str) -> Result<(), Fault> {
        self.call("start".into())?;
        self.state().sandboxes.get_mut(name).unwrap().0 = true;
        Ok(())
    }

    fn stop_sandbox(&self, name: &str, _: Duration) -> Result<(), Fault> {
        self.call("stop".into())?;
        if let Some((running, _)) = self.state().sandboxes.get_mut(name) {
            *running = false;
        }
        Ok(())
    }

    fn remove_sandbox(&self, name: &str) -> Result<(), Fault> {
        self.call("remove".into())?;
        self.state().sandboxes.remove(name);
        Ok(())
    }

    fn person(&self, _: &str, user: &str) -> Result<Person, Fault> {
        self.call(format!("person {user}"))?;
        let uid = if user == "root" { 0 } else { 1000 };
        Ok(Person {
            uid,
            gid: uid,
            groups: Vec::new(),
            name: user.to_owned(),
            home: format!("/home/{user}"),
            shell: "/bin/sh".into(),
        })
    }

    fn exec(
        &self,
        _: &str,
        process: &Process,
        output: &mut dyn FnMut(bool, &[u8]),
        _: &Cancel,
    ) -> Result<i32, Fault> {
        let text = process.args.last().unwrap().clone();
        self.call(format!("exec {text}"))?;
        output(false, format!("ran {text}\n").as_bytes());
        self.state().processes.push(process.clone());
        Ok(self.state().exits.get(&text).copied().unwrap_or(0))
    }

    fn create_volume(&self, name: &str) -> Result<PathBuf, Fault> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&path).map_err(|error| Fault::io("volume", &error))?;
        self.state().volumes.insert(name.to_owned());
        Ok(path)
    }

    fn remove_volume(&self, name: &str) -> Result<(), Fault> {
        self.call("unvolume".into())?;
        self.state().volumes.remove(name);
        std::fs::remove_dir_all(self.folder.join(name)).map_err(|error| Fault::io("volume", &error))
    }
}

struct World {
    root: tempfile::TempDir,
    runner: HostRunner,
    backend: TestBackend,
    store: Store,
    settings: settings::Workspace,
    lines: Arc<Mutex<Vec<String>>>,
    cancel: Cancel,
}

const CONFIG: &str = r#"{
    "build": {"dockerfile": "Dockerfile"},
    "containerEnv": {"A": "1"},
    "remoteEnv": {"PATH": "${containerEnv:PATH}:/extra", "WHO": "${localEnv:WHO}"},
    "remoteUser": "root",
    "onCreateCommand": "create", "postCreateCommand": "post", "postStartCommand": "started",
    "runArgs": ["--gpus"]
}"#;

fn world() -> World {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("volumes");
    let store = Store::open(&root.path().join(".devpod")).unwrap();
    let world = World {
        runner: HostRunner::new(Launcher::this()),
        backend: TestBackend {
            folder,
            state: Mutex::default(),
        },
        store,
        settings: settings::Workspace {
            fallback_image: None,
            clone_depth: 1,
            mounts: Vec::new(),
        },
        lines: Arc::default(),
        cancel: Cancel::default(),
        root,
    };
    world.write("My App/.devcontainer/devcontainer.json", CONFIG);
    world.write("My App/.devcontainer/Dockerfile", "FROM x");
    world
}

impl World {
    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn engine(&self) -> Engine<'_> {
        let lines = Arc::clone(&self.lines);
        Engine {
            backend: &self.backend,
            runner: &self.runner,
            clock: &SystemClock,
            store: &self.store,
            settings: &self.settings,
            port: 5000,
            ids: Ids::ALL,
            progress: Arc::new(move |event| {
                if let Event::Line { text } | Event::Warning { text } = event {
                    lines.lock().unwrap().push(text);
                }
            }),
            cancel: self.cancel.clone(),
        }
    }

    fn wish(&self, source: Wanted) -> Wish {
        let mut env: BTreeMap<String, String> = std::env::vars().collect();
        env.insert("WHO".into(), "me".into());
        Wish {
            source,
            name: None,
            config_path: None,
            recreate: false,
            allowed: Vec::new(),
            env,
        }
    }

    fn folder(&self) -> Wanted {
        Wanted::Folder(self.root.path().join("My App"))
    }

    fn up(&self, source: Wanted) -> Result<Meta, Fault> {
        self.engine().up(&self.wish(source))
    }

    /// A bare repository made of the folder.
    fn repository(&self) -> Wanted {
        let work = self.root.path().join("My App");
        let git = |folder: &Path, args: &[&str]| {
            let status = std::process::Command::new("git")
                .args(["-c", "user.name=t", "-c", "user.email=t@t"])
                .args(args)
                .current_dir(folder)
                .output()
                .unwrap()
                .status;
            assert!(status.success(), "git {args:?}");
        };
        if !work.join(".git").exists() {
            git(&work, &["init", "-q"]);
        }
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-q", "--allow-empty", "-m", "x"]);
        let bare = self.root.path().join("tool.git");
        let _ = std::fs::remove_dir_all(&bare);
        git(
            self.root.path(),
            &["clone", "-q", "--bare", "My App", "tool.git"],
        );
        Wanted::Repository(format!("file://{}", bare.display()).parse().unwrap())
    }
}

fn name(text: &str) -> WorkspaceName {
    text.parse().unwrap()
}

#[test]
fn a_folder_comes_up_and_stays_up() {
    let world = world();
    let meta = world.up(world.folder()).unwrap();
    assert_eq!(
        (meta.name.as_str(), meta.status),
        ("my-app", Status::Running)
    );
    assert_eq!(
        world.backend.taken(),
        [
            "build .devcontainer/Dockerfile .devcontainer",
            "create",
            "start",
            "person root",
            "exec create",
            "exec post",
            "exec started",
        ]
    );
    let image = format!("localhost:5000/workspace/{}:latest", meta.id);
    assert_eq!(meta.image_ref.as_deref(), Some(image.as_str()));
    {
        let state = world.backend.state();
        let (_, plan) = &state.sandboxes[&meta.sandbox_name()];
        let expected = Mount::Bind {
            source: world.root.path().join("My App"),
            target: "/workspaces/My App".into(),
            read_only: false,
        };
        assert_eq!(
            (&plan.mounts[0], plan.env.as_slice()),
            (&expected, &["A=1".to_owned()][..])
        );
        let process = &state.processes[0];
        for entry in [
            "PATH=/bin:/extra",
            "WHO=me",
            "A=1",
            "FROM_IMAGE=1",
            "HOME=/home/root",
        ] {
            assert!(
                process.env.iter().any(|e| e == entry),
                "{entry} in {:?}",
                process.env
            );
        }
        assert_eq!(process.cwd, "/workspaces/My App");
    }
    let lines = world.lines.lock().unwrap().join("\n");
    assert!(
        lines.contains("\"runArgs\" (line 7) is not supported yet"),
        "{lines}"
    );
    // Again: nothing is left to do, for the folder and for the name.
    world.up(world.folder()).unwrap();
    let existing = Wish {
        name: Some(name("my-app")),
        ..world.wish(Wanted::Existing)
    };
    world.engine().up(&existing).unwrap();
    assert_eq!(world.backend.taken(), Vec::<String>::new());
}

#[test]
fn a_repository_is_cloned_into_its_volume() {
    let world = world();
    let source = world.repository();
    let meta = world.up(source.clone()).unwrap();
    assert_eq!(meta.name, "tool");
    assert_eq!(meta.workspace_folder.as_deref(), Some("/workspaces/tool"));
    let clone = world
        .backend
        .folder
        .join(meta.volume_id.as_ref().unwrap())
        .join("repo");
    assert!(clone.join(".devcontainer/Dockerfile").is_file());
    assert!(
        world
            .lines
            .lock()
            .unwrap()
            .contains(&"[Builder] Cloning repository...".to_owned())
    );
    // What was worked on survives --recreate.
    std::fs::write(clone.join("work"), "mine").unwrap();
    world.backend.taken();
    let wish = Wish {
        recreate: true,
        ..world.wish(source)
    };
    world.engine().up(&wish).unwrap();
    assert_eq!(std::fs::read_to_string(clone.join("work")).unwrap(), "mine");
    let calls = world.backend.taken();
    assert_eq!(calls[1..5], ["stop", "remove", "create", "start"]);
    world.engine().delete(&name("tool"), true).unwrap();
    assert!(!clone.exists() && world.backend.state().volumes.is_empty());
    assert_eq!(world.store.names().unwrap(), []);
}

#[test]
fn a_failed_command_is_told_and_tried_again() {
    let world = world();
    world.backend.state().exits.insert("post".into(), 3);
    let fault = world.up(world.folder()).unwrap_err();
    assert_eq!(fault.message, "postCreateCommand ended with exit code 3");
    assert_eq!(
        (fault.stage, fault.logs.as_slice()),
        (Some(Stage::Lifecycle), &["ran post".to_owned()][..])
    );
    let row = world.engine().status(&name("my-app")).unwrap();
    assert_eq!(row.status, Status::Running);
    assert!(row.failure.unwrap().recoverable);
    world.backend.taken();
    world.backend.state().exits.clear();
    world.up(world.folder()).unwrap();
    assert_eq!(world.backend.taken(), ["exec post", "exec started"]);
}

#[test]
fn nothing_half_made_stays_of_a_source_that_cannot_be_read() {
    let world = world();
    world.write(
        "My App/.devcontainer/devcontainer.json",
        "{\n  \"image\": \"a\"\n  \"x\": 1\n}",
    );
    for source in [world.folder(), world.repository()] {
        let fault = world.up(source).unwrap_err();
        let expected = ".devcontainer/devcontainer.json:2:15: expected comma";
        assert!(fault.message.starts_with(expected), "{fault}");
        assert_eq!(
            (fault.class, fault.stage),
            (Class::Invalid, Some(Stage::Parse))
        );
        assert_eq!(world.store.names().unwrap(), []);
        assert!(world.backend.state().volumes.is_empty());
    }
    let gone = world
        .up(Wanted::Folder("/nonexistent/x".into()))
        .unwrap_err();
    assert_eq!(gone.class, Class::NotFound);
}

#[test]
fn stops_starts_and_deletes() {
    let world = world();
    world.up(world.folder()).unwrap();
    let engine = world.engine();
    let app = name("my-app");
    world.backend.taken();
    assert_eq!(
        engine.delete(&app, false).unwrap_err().class,
        Class::Conflict
    );
    assert_eq!(engine.stop(&app).unwrap().status, Status::Stopped);
    assert_eq!(
        engine.enter(&app, None, true, &[]).unwrap_err().class,
        Class::Conflict
    );
    assert_eq!(engine.start(&app).unwrap().status, Status::Running);
    assert_eq!(world.backend.taken(), ["stop", "start", "exec started"]);
    let (sandbox, process) = engine.enter(&app, None, true, &["TERM=x".into()]).unwrap();
    assert!(world.backend.state().sandboxes.contains_key(&sandbox));
    assert_eq!(process.args, ["/bin/sh", "-l"]);
    assert!(process.terminal && process.env.contains(&"TERM=x".to_owned()));
    engine.stop(&app).unwrap();
    engine.delete(&app, false).unwrap();
    assert!(
        world.root.path().join("My App/.devcontainer").exists(),
        "the folder is the person's"
    );
    assert_eq!(engine.status(&app).unwrap_err().class, Class::NotFound);
    assert!(
        !world
            .root
            .path()
            .join(".devpod/workspaces/my-app.lock")
            .exists()
    );
}

#[test]
fn a_sandbox_that_somebody_removed_is_made_again() {
    let world = world();
    let meta = world.up(world.folder()).unwrap();
    world.backend.state().sandboxes.clear();
    world.backend.taken();
    let engine = world.engine();
    assert_eq!(
        engine.status(&name("my-app")).unwrap().status,
        Status::Failed
    );
    let fault = engine.start(&name("my-app")).unwrap_err();
    assert_eq!(
        fault.suggestion.as_deref(),
        Some("Make it with `devpod up my-app`.")
    );
    let again = world.up(world.folder()).unwrap();
    assert_eq!(again.id, meta.id);
    assert!(world.backend.taken().contains(&"exec create".to_owned()));
}

#[test]
fn names_are_kept_apart() {
    let world = world();
    world.up(world.folder()).unwrap();
    world.write("other/my-app/.devcontainer.json", r#"{"image": "a"}"#);
    let other = Wanted::Folder(world.root.path().join("other/my-app"));
    let fault = world.up(other.clone()).unwrap_err();
    assert_eq!(fault.class, Class::Conflict);
    assert_eq!(
        fault.suggestion.as_deref(),
        Some("Give this one another name: --name my-app-2")
    );
    let wish = Wish {
        name: Some(name("my-app-2")),
        ..world.wish(other)
    };
    world.engine().up(&wish).unwrap();
    let rows = world.engine().list().unwrap();
    assert_eq!(rows.len(), 2);
    let json = serde_json::to_string(rows[0].1.as_ref().unwrap()).unwrap();
    assert!(
        json.contains("\"status\":\"running\"") && !json.contains("WHO=me"),
        "{json}"
    );
}

#[test]
fn a_second_command_waits_or_is_told() {
    let world = world();
    let held = world.store.lock(&name("my-app")).unwrap();
    let fault = world.up(world.folder()).unwrap_err();
    assert_eq!(fault.class, Class::Conflict);
    drop(held);
    world.up(world.folder()).unwrap();
    let _held = world.store.lock(&name("my-app")).unwrap();
    assert!(world.engine().status(&name("my-app")).unwrap().busy);
}

#[test]
fn a_changed_configuration_is_told_of() {
    let world = world();
    world.up(world.folder()).unwrap();
    world.write(
        "My App/.devcontainer/devcontainer.json",
        r#"{"image": "b"}"#,
    );
    world.lines.lock().unwrap().clear();
    world.up(world.folder()).unwrap();
    let lines = world.lines.lock().unwrap().join("\n");
    assert!(
        lines.contains("`devpod up my-app --recreate` applies it"),
        "{lines}"
    );
}

#[test]
fn the_log_has_what_was_said() {
    let world = world();
    world.up(world.folder()).unwrap();
    let mut text = String::new();
    let (_, mut log) = world.engine().logs(&name("my-app")).unwrap().remove(0);
    std::io::Read::read_to_string(&mut log, &mut text).unwrap();
    for line in [
        "[Builder] Step 1/1: FROM x",
        "[Workspace] Running onCreateCommand...",
        "ran create",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

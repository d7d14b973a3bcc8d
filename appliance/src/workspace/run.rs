//! One `up`: walks the plan's steps, writing down what it is about to do before each.

use std::path::{Path, PathBuf};

use config::devcontainer::DevContainer;
use config::repository::RepoUrl;
use config::workspace::WorkspaceName;
use unpacker::progress::Event;

use super::backend::{ImageFacts, SandboxState};
use super::binds::Binds;
use super::configure::{self, Configuration, Surroundings};
use super::failure::{Class, Fault, Stage};
use super::lifecycle::{self, Place};
use super::meta::{Meta, Source, Status};
use super::plan::{self, Found, Step};
use super::session::{self, Session};
use super::tree::Tree;
use super::up::{Engine, Wanted, Wish};
use super::users::{self, Ground};
use super::verbs::{GRACE, erase};
use super::{git, own};

/// One `up` of one workspace, which is locked.
pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine<'a>,
    wish: &'a Wish,
    name: &'a WorkspaceName,
    pub(super) meta: Meta,
    pub(super) configured: Option<(Configuration, DevContainer)>,
    pub(super) image: Option<ImageFacts>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        engine: &'a Engine<'a>,
        wish: &'a Wish,
        name: &'a WorkspaceName,
        meta: Meta,
    ) -> Self {
        Self {
            engine,
            wish,
            name,
            meta,
            configured: None,
            image: None,
        }
    }

    pub(super) fn up(mut self, is_new: bool) -> Result<Meta, Fault> {
        let walked = self.walk();
        let result = walked.and(self.rely_on());
        self.conclude(result, is_new)
    }

    /// Whoever works in it finds it again after a power cut, also where not everything went well.
    fn rely_on(&self) -> Result<(), Fault> {
        if self.meta.dev_sandbox_id.is_none() {
            return Ok(());
        }
        let digest = self.meta.image_digest.as_deref();
        let (backend, name) = (self.engine.backend, self.meta.sandbox_name());
        (backend.rely_on(&name, digest)).map_err(|fault| fault.at(Stage::Sandbox))
    }

    fn walk(&mut self) -> Result<(), Fault> {
        let found = self.look()?;
        self.meta.failure = None;
        if found.sandbox == SandboxState::Missing {
            self.meta.forget_sandbox();
        }
        let steps = plan::steps(&self.meta.source, self.wish.recreate, &found);
        if !steps.contains(&Step::Image) {
            self.tell_of_changes();
            if !found.imaged {
                self.warn(format!(
                    "the image of this sandbox was not kept, because its build was interrupted; \
                     `devpod up {} --recreate` builds it again",
                    self.name
                ));
            }
        }
        self.take(&steps)
    }

    pub(super) fn take(&mut self, steps: &[Step]) -> Result<(), Fault> {
        let Some((step, rest)) = steps.split_first() else {
            return Ok(());
        };
        self.engine.cancel.check()?;
        match step {
            // What follows may begin before the image is whole.
            Step::Image => return self.image(rest),
            Step::Volume => self.volume().map_err(|f| f.at(Stage::Clone)),
            Step::Discard => git::discard(&self.volume_folder()?).map_err(|f| f.at(Stage::Clone)),
            Step::Clone => self.clone(),
            Step::Remove => self.remove().map_err(|f| f.at(Stage::Sandbox)),
            Step::Create => self.create().map_err(|f| f.at(Stage::Sandbox)),
            Step::Start => self.start().map_err(|f| f.at(Stage::Sandbox)),
            Step::Settle => self.settle().map_err(|f| f.at(Stage::Sandbox)),
            Step::Lifecycle => run_lifecycle(self.engine, self.name, &mut self.meta),
        }?;
        self.take(rest)
    }

    /// What exists, whatever the record says.
    fn look(&self) -> Result<Found, Fault> {
        let sandbox = self.engine.backend.sandbox(&self.meta.sandbox_name())?;
        let cloned = match (&self.meta.volume_id, &self.meta.source) {
            (Some(volume), Source::Repository { .. }) => {
                git::exists(&self.engine.backend.create_volume(volume)?)
            }
            _ => false,
        };
        Ok(Found {
            cloned,
            stale: self.meta.failure.is_some() && !self.meta.entered,
            sandbox,
            settled: self.meta.session.is_some(),
            imaged: self.meta.image_digest.is_some(),
        })
    }

    pub(super) fn reach(&mut self, status: Status) -> Result<(), Fault> {
        self.meta.status = status;
        self.save()
    }

    pub(super) fn save(&self) -> Result<(), Fault> {
        self.engine.store.save(self.name, &self.meta)
    }

    pub(super) fn say(&self, text: impl Into<String>) {
        self.engine
            .progress
            .event(Event::Line { text: text.into() });
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        self.engine
            .progress
            .event(Event::Warning { text: text.into() });
    }

    /// Recorded before it is made, so that a crash in between leaves nothing unknown.
    fn volume(&mut self) -> Result<(), Fault> {
        if self.meta.volume_id.is_none() {
            self.meta.volume_id = Some(self.meta.volume_name());
            self.reach(Status::Creating)?;
        }
        self.volume_folder().map(|_| ())
    }

    fn volume_folder(&self) -> Result<PathBuf, Fault> {
        let name = self
            .meta
            .volume_id
            .clone()
            .unwrap_or_else(|| self.meta.volume_name());
        self.engine.backend.create_volume(&name)
    }

    fn clone(&mut self) -> Result<(), Fault> {
        let url = self.url()?;
        self.reach(Status::Cloning)?;
        self.say("[Builder] Cloning repository...");
        let volume = self.volume_folder()?;
        let wanted = git::Clone {
            url: &url,
            volume: &volume,
            depth: self.engine.settings.clone_depth,
            env: &self.wish.env,
        };
        let tools = git::Tools {
            runner: self.engine.runner,
            clock: self.engine.clock,
            progress: &self.engine.progress,
            cancel: &self.engine.cancel,
        };
        let folder = git::clone(&wanted, &tools)?;
        self.meta.local_folder = Some(folder);
        self.meta.volume_owner = None;
        self.save()
    }

    /// As given now, with its password, or as recorded.
    fn url(&self) -> Result<RepoUrl, Fault> {
        if let Wanted::Repository(url) = &self.wish.source {
            return Ok(url.clone());
        }
        let Source::Repository { url, branch } = &self.meta.source else {
            return Err(Fault::new(Class::Internal, "a folder is not cloned"));
        };
        let bad = |error: config::repository::RepoUrlError| {
            Fault::new(Class::Invalid, error.to_string()).at(Stage::Clone)
        };
        let branch = branch.as_deref().map(str::parse).transpose().map_err(bad)?;
        url.parse::<RepoUrl>()
            .and_then(|url| url.with_branch(branch))
            .map_err(bad)
    }

    /// The source on this host.
    pub(super) fn folder(&self) -> Result<PathBuf, Fault> {
        match &self.meta.source {
            Source::Folder { path } => Ok(path.clone()),
            Source::Repository { .. } => Ok(self.volume_folder()?.join(git::REPOSITORY)),
        }
    }

    /// What decides about bind mounts of its configuration.
    pub(super) fn binds(&self) -> Result<Binds, Fault> {
        let settings = &self.engine.settings.mounts;
        Ok(Binds {
            folder: self.folder()?,
            cloned: matches!(self.meta.source, Source::Repository { .. }),
            allowed: self.wish.allowed.iter().chain(settings).cloned().collect(),
        })
    }

    /// How the source is called inside: by the repository's or the folder's own name.
    fn basename(&self) -> String {
        let text = match &self.meta.source {
            Source::Folder { path } => {
                let name = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                return name.unwrap_or_else(|| self.meta.name.clone());
            }
            Source::Repository { url, .. } => url,
        };
        WorkspaceName::derive(text).map_or_else(|| self.meta.name.clone(), |name| name.to_string())
    }

    pub(super) fn configuration(&self) -> Result<Configuration, Fault> {
        let tree = open(&self.folder()?).map_err(|fault| fault.at(Stage::Parse))?;
        configure::find(
            &tree,
            self.wish.config_path.as_deref(),
            self.engine.settings,
        )
    }

    pub(super) fn resolve(
        &self,
        configuration: &Configuration,
        container_env: Option<&[String]>,
    ) -> Result<DevContainer, Fault> {
        let around = Surroundings {
            folder: &self.folder()?,
            basename: &self.basename(),
            env: &self.wish.env,
        };
        configuration.resolve(&around, container_env)
    }

    /// An existing sandbox keeps what it was made from; a newer configuration is only told of.
    fn tell_of_changes(&self) {
        let Ok(configuration) = self.configuration() else {
            return;
        };
        let same = self
            .meta
            .config_digest
            .as_ref()
            .is_none_or(|old| *old == configuration.digest);
        if !same {
            self.warn(format!(
                "{} has changed since this sandbox was made; `devpod up {} --recreate` applies it",
                configuration.path, self.name
            ));
        }
    }

    fn remove(&mut self) -> Result<(), Fault> {
        self.say("[Workspace] Removing the old sandbox...");
        let name = self.meta.sandbox_name();
        self.engine.backend.stop_sandbox(&name, GRACE)?;
        self.engine.backend.remove_sandbox(&name)?;
        self.meta.forget_sandbox();
        self.save()
    }

    fn create(&mut self) -> Result<(), Fault> {
        let (configuration, config) = self.configured()?;
        let image = self.image_facts()?;
        let mut anonymous = Vec::new();
        let own_name = self.meta.volume_name();
        let backend = self.engine.backend;
        let mut volume = |name: Option<&str>| {
            let name = name.map_or_else(
                || {
                    anonymous.push(format!("{own_name}-{}", anonymous.len() + 1));
                    anonymous[anonymous.len() - 1].clone()
                },
                str::to_owned,
            );
            backend.create_volume(&name)
        };
        let binds = self.binds()?;
        let limits = configuration.sandbox_limits;
        let reference = &image.reference;
        let plan = plan::sandbox(&self.meta, config, limits, reference, &binds, &mut volume)
            .map_err(|fault| self.in_file(configuration, fault))?;
        let workspace_folder = config.workspace_folder.clone();
        let config_digest = configuration.digest.clone();
        self.meta.volumes = anonymous;
        self.meta.config_digest = Some(config_digest);
        self.meta.workspace_folder = Some(workspace_folder);
        self.reach(Status::Starting)?;
        self.say("[Workspace] Creating the sandbox...");
        self.meta.dev_sandbox_id = Some(backend.create_sandbox(&plan, &self.engine.cancel)?);
        self.save()
    }

    pub(super) fn in_file(&self, configuration: &Configuration, mut fault: Fault) -> Fault {
        if fault.stage == Some(Stage::Parse) {
            fault.message = format!("{}: {}", configuration.path, fault.message);
        }
        fault
    }

    fn configured(&self) -> Result<&(Configuration, DevContainer), Fault> {
        let missing = || Fault::new(Class::Internal, "the configuration was not read");
        self.configured.as_ref().ok_or_else(missing)
    }

    fn image_facts(&self) -> Result<&ImageFacts, Fault> {
        let missing = || Fault::new(Class::Internal, "the image was not made");
        self.image.as_ref().ok_or_else(missing)
    }

    fn start(&mut self) -> Result<(), Fault> {
        lifecycle::forget_start(&mut self.meta.completed);
        self.meta.entered = true;
        self.reach(Status::Starting)?;
        self.engine.backend.start_sandbox(&self.meta.sandbox_name())
    }

    /// After a crash between the start and here, configuration and image are looked up again.
    fn settle(&mut self) -> Result<(), Fault> {
        if self.configured.is_none() {
            let configuration = self.configuration()?;
            let config = self.resolve(&configuration, None)?;
            self.configured = Some((configuration, config));
        }
        if self.image.is_none() {
            let reference = self.meta.image_ref.clone().unwrap_or_default();
            let Engine {
                backend,
                progress,
                cancel,
                ..
            } = self.engine;
            self.image = Some(backend.pull(&reference, progress, cancel)?);
        }
        self.session()
    }

    fn session(&mut self) -> Result<(), Fault> {
        let (configuration, config) = self.configured()?;
        let image = self.image_facts()?;
        let container = session::container_environment(&image.env, &config.container_env);
        let config = self.resolve(configuration, Some(&container))?;
        let user = config.user().unwrap_or(&image.user).to_owned();
        let person = self
            .engine
            .backend
            .person(&self.meta.sandbox_name(), &user)?;
        let ground = self.ground()?;
        let decision = users::decide(
            &person,
            ground,
            self.engine.ids,
            config.update_remote_user_uid,
        );
        if let Some(note) = &decision.note {
            self.say(format!("[Workspace] {note}"));
        }
        let env = session::remote_environment(&container, &config.remote_env, &decision.identity);
        let session = Session::new(&decision.identity, env, config.workspace_folder.clone());
        if decision.own_volume {
            self.give_volume(session.uid, session.gid)?;
        }
        if decision.own_home {
            self.give_home(&session);
        }
        self.meta.remote_user = Some(session.user.clone());
        self.meta.lifecycle = config.lifecycle;
        self.meta.session = Some(session);
        self.save()
    }

    fn ground(&self) -> Result<Ground, Fault> {
        let Source::Folder { path } = &self.meta.source else {
            return Ok(Ground::Volume);
        };
        let (uid, gid) = open(path)?
            .owner()
            .map_err(|error| Fault::io(format!("cannot look at {}", path.display()), &error))?;
        Ok(Ground::Folder { uid, gid })
    }

    fn give_volume(&mut self, uid: u32, gid: u32) -> Result<(), Fault> {
        let owner = format!("{uid}:{gid}");
        if self.meta.volume_owner.as_ref() == Some(&owner) {
            return Ok(());
        }
        own::give(&self.folder()?, uid, gid)
            .map_err(|error| Fault::io(format!("cannot give the volume to id {uid}"), &error))?;
        self.meta.volume_owner = Some(owner);
        Ok(())
    }

    /// With the image's own tools, as root; an image without them keeps its owner.
    fn give_home(&self, session: &Session) {
        let root = Session {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            ..session.clone()
        };
        let owner = format!("{}:{}", session.uid, session.gid);
        let argv = ["chown", "-R", &owner, "--", &session.home]
            .map(str::to_owned)
            .to_vec();
        let process = root.process(argv, false, &[], Some("/".to_owned()));
        let Engine {
            backend, cancel, ..
        } = self.engine;
        let result = backend.exec(&self.meta.sandbox_name(), &process, &mut |_, _| {}, cancel);
        if !matches!(result, Ok(0)) {
            self.warn(format!(
                "{} could not be given to id {}",
                session.home, session.uid
            ));
        }
    }

    /// Writes down how it ended.
    fn conclude(mut self, result: Result<(), Fault>, is_new: bool) -> Result<Meta, Fault> {
        let Err(fault) = result else {
            self.reach(Status::Running)?;
            return Ok(self.meta);
        };
        let early = matches!(self.meta.status, Status::Creating | Status::Cloning)
            || fault.stage == Some(Stage::Parse);
        if is_new && early && !self.meta.entered {
            // Nothing half-made stays behind. The fault matters more than what this may meet.
            let _ = erase(self.engine, self.name, &self.meta);
            return Err(fault);
        }
        self.meta.status = match fault.stage {
            Some(Stage::Lifecycle) => Status::Running,
            _ => Status::Failed,
        };
        // A cancelled one goes on where it was; a failed one begins with what may have been corrected.
        self.meta.failure = (fault.class != Class::Cancelled).then(|| fault.record());
        self.save()?;
        Err(fault)
    }
}

/// Runs what is due, remembering each success.
pub(super) fn run_lifecycle(
    engine: &Engine<'_>,
    name: &WorkspaceName,
    meta: &mut Meta,
) -> Result<(), Fault> {
    let (Some(session), commands) = (meta.session.clone(), meta.lifecycle.clone()) else {
        return Ok(());
    };
    let sandbox = meta.sandbox_name();
    let place = Place {
        backend: engine.backend,
        sandbox: &sandbox,
        session: &session,
        progress: &engine.progress,
        cancel: &engine.cancel,
    };
    for (hook, command) in lifecycle::due(&commands, &meta.completed) {
        engine.cancel.check()?;
        lifecycle::run(&place, hook, command)?;
        if hook.is_remembered() {
            meta.completed.push(hook);
            engine.store.save(name, meta)?;
        }
    }
    Ok(())
}

/// A source's folder.
pub(super) fn open(path: &Path) -> Result<Tree, Fault> {
    Tree::open(path).map_err(|error| {
        let class = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Class::NotFound,
            _ => Class::Permission,
        };
        Fault {
            class,
            ..Fault::io(format!("cannot open the folder {}", path.display()), &error)
        }
    })
}

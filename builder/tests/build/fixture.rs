//! A room for one build: a context, a data folder, and an image layout that is both where base
//! images come from and where results go.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use builder::error::{BuildError, Foreign};
use builder::fetch::{Fetch, Fetched, Validators};
use builder::images::{BaseImage, Images};
use builder::request::{BuildRequest, Built, DockerfileSource, Env};
use builder::sink::{Publication, Sink};
use builder::solve::build;
use builder::source::Source;
use config::name::Reference;
use libtest_mimic::Trial;
use oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};
use tempfile::TempDir;
use unpacker::container::launch::Launcher;
use unpacker::content::Content;
use unpacker::image::config::ImageConfig;
use unpacker::image::layout::Layout;
use unpacker::image::read::{Platform, load};
use unpacker::image::unpack::{unpack, unpack_to};
use unpacker::layer::Ownership;
use unpacker::layer::apply::ApplyOptions;
use unpacker::layer::compress::Compression;
use unpacker::layer::diff::DiffOptions;
use unpacker::layer::pack::pack;
use unpacker::layer::root::Root;
use unpacker::progress::{Cancel, Event, Progress, Silent, StepState};
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Snapshots;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "cp", "echo", "env", "find", "grep", "id", "ln", "ls", "mkdir", "mv",
    "printf", "pwd", "rm", "sed", "sh", "sleep", "sort", "stat", "test", "touch", "true", "false",
    "wc",
];

/// A test that panics when it fails.
pub(crate) fn trial(name: &str, body: fn()) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

/// Why builds cannot be tested here.
pub(crate) fn missing() -> Option<&'static str> {
    if !Path::new(BUSYBOX).exists() {
        return Some("/bin/busybox (busybox-static) is not installed");
    }
    if !rustix::process::geteuid().is_root() {
        return Some("files of several owners need root or a range of ids");
    }
    None
}

/// Content and date by address.
type Served = BTreeMap<String, (Vec<u8>, Option<String>)>;

pub(crate) struct Room {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) layout: Layout,
    snapshots: Snapshots,
    pub(crate) cancel: Cancel,
    events: Mutex<Vec<Event>>,
    /// What the network has: content and date by address.
    pub(crate) served: Mutex<Served>,
    /// Addresses that were asked, and whether the body was sent.
    pub(crate) asked: Mutex<Vec<(String, bool)>>,
    /// Cancels the build when its output has this.
    pub(crate) cancel_at: Option<String>,
    /// Called with every event, on the thread that it comes from.
    pub(crate) on_event: Option<Watcher>,
    /// Stacks of which containers could be made before their image was published.
    pub(crate) ready: Mutex<Vec<Vec<SnapshotId>>>,
    /// Servers never answer.
    pub(crate) silent: bool,
}

type Watcher = Box<dyn Fn(&Event) + Send + Sync>;

impl Room {
    /// With an image `busybox`, and a context of these files.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        let room = Self {
            layout: Layout::create(&dir.path().join("content")).unwrap(),
            snapshots: Snapshots::open(&dir.path().join("snapshots")).unwrap(),
            dir: Arc::new(dir),
            cancel: Cancel::default(),
            events: Mutex::default(),
            served: Mutex::default(),
            asked: Mutex::default(),
            cancel_at: None,
            on_event: None,
            ready: Mutex::default(),
            silent: false,
        };
        for (name, text) in files {
            room.write(name, text);
        }
        room.make_busybox();
        room
    }

    /// The same folders as another build sees them.
    pub(crate) fn beside(&self) -> Self {
        let dir = Arc::clone(&self.dir);
        Self {
            layout: Layout::create(&dir.path().join("content")).unwrap(),
            snapshots: Snapshots::open(&dir.path().join("snapshots")).unwrap(),
            dir,
            cancel: Cancel::default(),
            events: Mutex::default(),
            served: Mutex::default(),
            asked: Mutex::default(),
            cancel_at: None,
            on_event: None,
            ready: Mutex::default(),
            silent: false,
        }
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.context().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn make_busybox(&self) {
        let root = self.dir.path().join("base");
        for folder in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        fs::write(
            root.join("etc/group"),
            "root:x:0:\napp:x:1001:\nweb:x:33:\n",
        )
        .unwrap();
        let config = json!({"Env": ["PATH=/bin", "BASE=yes"], "Cmd": ["sh"]});
        self.add_image("docker.io/library/busybox:latest", &root, config);
        fs::remove_dir_all(root).unwrap();
    }

    /// Makes an image of a folder.
    pub(crate) fn add_image(&self, name: &str, root: &Path, config: Value) {
        let options = DiffOptions {
            mtime: Some(1_000_000_000),
            ownership: Ownership::detect(),
        };
        let upper = Root::open(root).unwrap();
        let gzip = Compression::Gzip;
        let content: &dyn Content = &self.layout;
        let packed = pack(&upper, content, gzip, &options, &Silent, &self.cancel).unwrap();
        let config = json!({
            "created": "2020-01-01T00:00:00Z",
            "architecture": Platform::host().architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [packed.diff_id.to_string()]},
            "history": [{"created_by": "base"}],
            "x-kept": 1,
        });
        let (digest, size) = content.put(config.to_string().as_bytes()).unwrap();
        let config = Descriptor::new(MediaType::ImageConfig, size, digest);
        let media_type = MediaType::ImageManifest;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type.to_string(),
            "config": config,
            "layers": [packed.blob],
        });
        let (digest, size) = content.put(manifest.to_string().as_bytes()).unwrap();
        let descriptor = Descriptor::new(media_type, size, digest);
        self.layout.tag(name, &descriptor).unwrap();
    }

    /// A request for this Dockerfile.
    pub(crate) fn request(&self, dockerfile: &str) -> BuildRequest {
        BuildRequest {
            dockerfile: DockerfileSource::Text {
                name: "Dockerfile".to_owned(),
                text: dockerfile.as_bytes().to_vec(),
            },
            names: vec!["localhost:5000/result:latest".parse().unwrap()],
            ..BuildRequest::new(&self.context())
        }
    }

    pub(crate) fn build(&self, dockerfile: &str) -> Result<Built, BuildError> {
        self.run(&self.request(dockerfile))
    }

    pub(crate) fn run(&self, request: &BuildRequest) -> Result<Built, BuildError> {
        self.run_from(request, &Source::read(request)?)
    }

    pub(crate) fn run_from(
        &self,
        request: &BuildRequest,
        source: &Source,
    ) -> Result<Built, BuildError> {
        let launcher = Launcher::this();
        let env = Env {
            snapshots: &self.snapshots,
            content: &self.layout,
            images: self,
            fetch: self,
            sink: self,
            caches: &[],
            wiring: &Default::default(),
            launcher: &launcher,
            cache: &self.dir.path().join("cache"),
            progress: self,
            cancel: &self.cancel,
            ownership: Ownership::detect(),
            now: SystemTime::now(),
        };
        self.events.lock().unwrap().clear();
        build(&env, request, source)
    }

    /// A build that must work, and its tree.
    pub(crate) fn tree(&self, dockerfile: &str) -> Tree {
        let built = self
            .build(dockerfile)
            .unwrap_or_else(|e| panic!("{}", e.record().error));
        self.tree_of(&built)
    }

    pub(crate) fn tree_of(&self, built: &Built) -> Tree {
        let manifest = self.manifest(built);
        let content: &dyn Content = &self.layout;
        let image = load(content, &manifest).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = ApplyOptions::default();
        unpack_to(&image, content, dir.path(), &options, &Silent, &self.cancel).unwrap();
        Tree { dir }
    }

    pub(crate) fn manifest(&self, built: &Built) -> Vec<u8> {
        let content: &dyn Content = &self.layout;
        content.read(&built.digest, 1 << 20).unwrap().unwrap()
    }

    /// Lines of the last build, without the builder's mark.
    pub(crate) fn lines(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let line = |event: &Event| match event {
            Event::Line { text } => Some(text.clone()),
            Event::Step(news) => builder::report::line(news),
            _ => None,
        };
        let line = |event| line(event).map(|text| text.trim_start_matches("[Builder] ").to_owned());
        events.iter().filter_map(line).collect()
    }

    /// What commands of the last build wrote.
    pub(crate) fn output(&self) -> String {
        let events = self.events.lock().unwrap();
        let text = |event: &Event| match event {
            Event::Output { text, .. } => Some(text.clone()),
            _ => None,
        };
        events.iter().filter_map(text).collect()
    }

    /// Warnings of the last build.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let text = |event: &Event| match event {
            Event::Warning { text } => Some(text.clone()),
            _ => None,
        };
        events.iter().filter_map(text).collect()
    }

    /// Lets something happen when a step of this text begins.
    pub(crate) fn when_begun(
        &mut self,
        text: &'static str,
        does: impl Fn() + Send + Sync + 'static,
    ) {
        self.on_event = Some(Box::new(move |event| match event {
            Event::Step(news) if news.state == StepState::Began && news.text.starts_with(text) => {
                does();
            }
            _ => {}
        }));
    }

    /// How many snapshots are being made.
    pub(crate) fn staged(&self) -> usize {
        fs::read_dir(self.dir.path().join("snapshots/.staging"))
            .unwrap()
            .count()
    }
}

impl Progress for Room {
    fn event(&self, event: Event) {
        match (&event, &self.cancel_at) {
            (Event::Output { text, .. }, Some(mark)) if text.contains(mark) => {
                self.cancel.cancel();
            }
            _ => {}
        }
        if let Some(watcher) = &self.on_event {
            watcher(&event);
        }
        self.events.lock().unwrap().push(event);
    }
}

impl Images for Room {
    fn resolve(
        &self,
        reference: &Reference,
        _: &Platform,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<BaseImage, Foreign> {
        let found = self
            .layout
            .find(&reference.to_string())?
            .ok_or("no such image")?;
        let content: &dyn Content = &self.layout;
        let manifest = content
            .read(found.digest(), 1 << 20)?
            .ok_or("no manifest")?;
        let image = load(content, &manifest)?;
        let stack = unpack(&image, content, &self.snapshots, progress, cancel)?;
        Ok(BaseImage { image, stack })
    }
}

impl Fetch for Room {
    fn fetch(
        &self,
        address: &str,
        known: &Validators,
        _: u64,
        to: &mut dyn std::io::Write,
        _: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Fetched, Foreign> {
        if self.silent {
            return Err(until_given_up(cancel));
        }
        let served = self.served.lock().unwrap();
        let (body, date) = served.get(address).ok_or("no such file there")?;
        // The length is all that our server's tags say.
        let validators = Validators {
            etag: Some(body.len().to_string()),
            last_modified: date.clone(),
        };
        let unchanged = *known == validators;
        let mut asked = self.asked.lock().unwrap();
        asked.push((address.to_owned(), !unchanged));
        if unchanged {
            return Ok(Fetched::Unchanged);
        }
        to.write_all(body)?;
        Ok(Fetched::File(validators))
    }
}

/// What whoever waits for a silent server hears.
fn until_given_up(cancel: &Cancel) -> Foreign {
    let begun = Instant::now();
    loop {
        if let Err(cancelled) = cancel.check() {
            return cancelled.into();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody gave up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Sink for Room {
    fn place(&self) -> String {
        "the room".to_owned()
    }

    fn ready(&self, _: &ImageConfig, stack: &[SnapshotId]) {
        self.ready.lock().unwrap().push(stack.to_vec());
    }

    fn publish(&self, publication: &Publication<'_>) -> Result<(), Foreign> {
        let content: &dyn Content = &self.layout;
        let (digest, size) = content.put(publication.manifest)?;
        assert_eq!(&digest, publication.digest);
        assert!(!self.ready.lock().unwrap().is_empty(), "nobody was told");
        let descriptor = Descriptor::new(publication.media_type.into(), size, digest);
        for name in publication.names {
            self.layout.tag(&name.to_string(), &descriptor)?;
        }
        Ok(())
    }
}

/// An unpacked result.
pub(crate) struct Tree {
    dir: TempDir,
}

impl Tree {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// `mode uid:gid` of a path.
    pub(crate) fn access(&self, name: &str) -> String {
        let root = Root::open(self.dir.path()).unwrap();
        let path = Path::new(name);
        let found = root
            .metadata(path)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (owner, mode) = Ownership::detect().of(&root, path, &found).unwrap();
        format!("{mode:o} {}:{}", owner.uid, owner.gid)
    }

    /// Everything below a folder, sorted; folders end with a slash.
    pub(crate) fn list(&self, below: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![self.path(below)];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path
                    .strip_prefix(self.path(below))
                    .unwrap()
                    .display()
                    .to_string();
                match path.symlink_metadata().unwrap().is_dir() {
                    true => {
                        found.push(format!("{name}/"));
                        todo.push(path);
                    }
                    false => found.push(name),
                }
            }
        }
        found.sort();
        found
    }
}

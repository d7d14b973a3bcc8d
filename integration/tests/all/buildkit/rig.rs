//! BuildKit and two daemons of ours, root's and an ordinary user's, with the same images and files.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::buildkitd::Buildkitd;
use integration::folder::Folder;
use integration::process::{Ran, run};
use integration::{layout, probe};
use serde_json::{Value, json};

use super::built::Built;
use super::case::{self, Case};
use super::compare::difference;
use super::server;

/// Nothing that a case says the time of is later; what commands make is, and so the same for both of
/// our daemons.
const EPOCH: &str = "1750000000";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) struct Rig {
    buildkit: Buildkitd,
    root: TestAppliance,
    user: TestAppliance,
    server: String,
    folder: Folder,
    /// Where `ssh` leads; nobody has to answer.
    _agent: UnixListener,
}

/// What came of one build.
type Outcome = Result<Built, Ran>;

impl Rig {
    /// `None` after having told why there can be none here.
    #[track_caller]
    pub(super) fn start() -> Option<Self> {
        let programs = [
            "busybox",
            "bzip2",
            "newgidmap",
            "newuidmap",
            "setfattr",
            "skopeo",
            "tar",
            "umoci",
            "useradd",
            "usermod",
            "xz",
            "zstd",
        ];
        if !probe::root() || !probe::programs(&programs) {
            return None;
        }
        let buildkit = Buildkitd::start()?;
        let folder = Folder::new();
        let account = Account::with_range();
        let context = folder.join("context");
        fs::create_dir(&context).unwrap();
        std::os::unix::fs::chown(&context, Some(account.uid), Some(account.gid)).unwrap();
        script("context.sh", &context);
        run(Command::new("cp")
            .arg("-r")
            .arg(case::folder())
            .arg(folder.join("cases")))
        .ok();
        let rig = Self {
            buildkit,
            root: TestAppliance::start(),
            user: TestAppliance::start_at(Place::of(account)),
            server: format!("http://{}", server::start(&context)),
            _agent: agent(&folder.join("agent")),
            folder,
        };
        rig.load_images();
        Some(rig)
    }

    fn load_images(&self) {
        let layers = self.folder.join("base");
        fs::create_dir(&layers).unwrap();
        script("base.sh", &layers);
        let tars = ["lower.tar", "upper.tar"].map(|name| fs::read(layers.join(name)).unwrap());
        for (name, config) in images() {
            let layout = self.folder.join(name);
            let history = ["lower", "upper"].map(|text| json!({ "created_by": text }));
            layout::write_with(
                &layout,
                &tars,
                json!({ "config": config, "history": history }),
            );
            self.root.load(&layout, &format!("{name}:1"));
            self.user.load(&layout, &format!("{name}:1"));
        }
    }

    pub(super) fn context(&self) -> PathBuf {
        self.folder.join("context")
    }

    pub(super) fn root(&self) -> &TestAppliance {
        &self.root
    }

    pub(super) fn buildkit(&self) -> &Buildkitd {
        &self.buildkit
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// All cases of a topic; panics with everything that differs and is not known to.
    #[track_caller]
    pub(super) fn compare(&self, topic: &str) {
        let sum = layout::digest(server::FILE);
        let values = [("server", &self.server[..]), ("sum", &sum)];
        let cases = case::all(topic, &values);
        assert!(!cases.is_empty(), "no cases of {topic}");
        let wrong: Vec<String> = cases.iter().flat_map(|case| self.judge(case)).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn judge(&self, case: &Case) -> Vec<String> {
        for (_, text) in case.options.iter().filter(|(name, _)| name == "secret") {
            let (id, value) = text.split_once('=').unwrap();
            self.folder.write(&format!("secret-{id}"), value);
        }
        let (theirs, root, user) = thread::scope(|scope| {
            let theirs = scope.spawn(|| self.theirs(case));
            let root = scope.spawn(|| self.ours(&self.root, case));
            let user = self.ours(&self.user, case);
            (theirs.join().unwrap(), root.join().unwrap(), user)
        });
        let told = self.told(case, &theirs, &root, true);
        // With the same layers as root's there is no need to look at the files again.
        let same_files =
            matches!((&root, &user), (Ok(root), Ok(user)) if root.diff_ids() == user.diff_ids());
        let mut told_of_user = self.told(case, &theirs, &user, !same_files);
        if same_files {
            told_of_user = files_of(&told) + &told_of_user;
        }
        [("our root's", told), ("our user's", told_of_user)]
            .into_iter()
            .filter_map(|(who, told)| case.judge(who, &told))
            .collect()
    }

    /// What differs, in words that are the same in each run.
    fn told(&self, case: &Case, theirs: &Outcome, ours: &Outcome, trees: bool) -> String {
        match (theirs, ours) {
            (Err(_), Err(_)) if case.refused => String::new(),
            (Ok(_), Ok(_)) if case.refused => "everybody takes it\n".to_owned(),
            (Err(theirs), Err(ours)) => format!("nobody takes it: {theirs}\n{ours}\n"),
            (Err(ran), Ok(_)) => format!("only we take it; they say: {}\n", error(ran)),
            (Ok(_), Err(ran)) => format!("only they take it; we say: {}\n", error(ran)),
            (Ok(theirs), Ok(ours)) => difference(theirs, ours, &case.times, trees),
        }
        .replace(&self.server, "{server}")
    }

    fn theirs(&self, case: &Case) -> Outcome {
        let dockerfile = self.folder.join("cases").join(case.dockerfile());
        let mut command = self.buildkit.build(&self.context(), &dockerfile);
        for (name, _) in images() {
            let image = self.root.reference(&format!("{name}:1"));
            command.args(["--opt", &format!("context:{name}=docker-image://{image}")]);
        }
        for (name, value) in &case.options {
            command.args(self.their_words(name, value));
        }
        let to = self.folder.join("theirs");
        let output = format!("type=oci,tar=false,dest={}", to.display());
        outcome(run(command.args(["--output", &output])), &to)
    }

    fn their_words(&self, name: &str, value: &str) -> Vec<String> {
        let option = |text: String| vec!["--opt".to_owned(), text];
        match name {
            "arg" => option(format!("build-arg:{value}")),
            "label" => option(format!("label:{value}")),
            "target" | "platform" => option(format!("{name}={value}")),
            "allow" => vec!["--allow".to_owned(), value.to_owned()],
            "ssh" => vec!["--ssh".to_owned(), self.agent()],
            "secret" => vec!["--secret".to_owned(), self.secret(value)],
            "context" => {
                let (name, what) = self.named(&self.root, value);
                if what.starts_with("docker-image://") {
                    return option(format!("context:{name}={what}"));
                }
                let mut words = option(format!("context:{name}=local:{name}"));
                words.extend(["--local".to_owned(), format!("{name}={what}")]);
                words
            }
            other => panic!("what is {other}?"),
        }
    }

    fn ours(&self, appliance: &TestAppliance, case: &Case) -> Outcome {
        let place = appliance.place();
        let mut command = place.devpod(&["build", "--file"]);
        command.arg(self.folder.join("cases").join(case.dockerfile()));
        // ADD keeps the times of servers and archives, which are compared; elsewhere an epoch makes the
        // layers of two builds equal, so that one of them need not be unpacked.
        if !case.dockerfile().starts_with("add/") {
            command.env("SOURCE_DATE_EPOCH", EPOCH);
        }
        for (name, _) in images() {
            let image = appliance.reference(&format!("{name}:1"));
            command.args(["--build-context", &format!("{name}=docker-image://{image}")]);
        }
        for (name, value) in &case.options {
            command.args(self.our_words(appliance, name, value));
        }
        let to = place.home().join("ours");
        let output = format!("type=oci,tar=false,dest={}", to.display());
        outcome(
            run(command.args(["--output", &output]).arg(self.context())),
            &to,
        )
    }

    fn our_words(&self, appliance: &TestAppliance, name: &str, value: &str) -> Vec<String> {
        let flag = |name: &str, value: String| vec![format!("--{name}"), value];
        match name {
            "arg" => flag("build-arg", value.to_owned()),
            "label" | "target" | "platform" => flag(name, value.to_owned()),
            // A step may be on the host's network anyway.
            "allow" => Vec::new(),
            "ssh" => flag("ssh", self.agent()),
            "secret" => flag("secret", self.secret(value)),
            "context" => {
                let (name, what) = self.named(appliance, value);
                flag("build-context", format!("{name}={what}"))
            }
            other => panic!("what is {other}?"),
        }
    }

    fn agent(&self) -> String {
        format!("default={}", self.folder.join("agent").display())
    }

    fn secret(&self, text: &str) -> String {
        let (id, _) = text.split_once('=').unwrap();
        let path = self.folder.join(format!("secret-{id}"));
        format!("id={id},src={}", path.display())
    }

    /// A named context: an image, or a folder of the context.
    fn named(&self, appliance: &TestAppliance, text: &str) -> (String, String) {
        let (name, what) = text.split_once('=').unwrap();
        let image = images().iter().any(|(image, _)| *image == what);
        let what = match image {
            true => format!(
                "docker-image://{}",
                appliance.reference(&format!("{what}:1"))
            ),
            false => self.context().join(what).display().to_string(),
        };
        (name.to_owned(), what)
    }
}

/// Base images: the same files, with more and more that an image can say.
fn images() -> [(&'static str, Value); 3] {
    let configured = json!({
        "Cmd": ["from", "base"], "Entrypoint": ["/bin/env"], "Env": [PATH, "OF_BASE=yes"], "User": "app",
        "WorkingDir": "/home/app", "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/vol": {} },
        "Labels": { "of.base": "1" }, "StopSignal": "SIGINT", "Shell": ["/bin/busybox", "sh", "-c"],
        "Healthcheck": { "Test": ["CMD", "true"], "Interval": 5_000_000_000_u64, "Retries": 2 },
    });
    let triggers = ["COPY a.txt .", "RUN echo triggered > /t", "ENV T=1"];
    let triggering = json!({ "Env": [PATH], "WorkingDir": "/work", "OnBuild": triggers });
    [
        ("base", json!({ "Cmd": ["sh"], "Env": [PATH] })),
        ("configured", configured),
        ("triggering", triggering),
    ]
}

fn script(name: &str, folder: &Path) {
    let mut command = Command::new("sh");
    run(command.arg(case::folder().join(name)).arg(folder)).ok();
}

/// Anybody may connect.
fn agent(path: &Path) -> UnixListener {
    use std::os::unix::fs::PermissionsExt;
    let listener = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    listener
}

fn outcome(ran: Ran, layout: &Path) -> Outcome {
    if ran.code != 0 {
        return Err(ran);
    }
    let kept = layout.with_file_name(format!("{}-read", layout.file_name().unwrap().display()));
    // What the case before left.
    let _ = fs::remove_dir_all(&kept);
    fs::rename(layout, &kept).unwrap();
    Ok(Built::read(&kept))
}

/// The line that says why.
fn error(ran: &Ran) -> String {
    let line = ran
        .stderr
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: failed to solve: "));
    let ours = || {
        let because = ran
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("  because "));
        let mut because = because.filter(|line| !line.contains("Dockerfile:"));
        because.next_back().or(because.next())
    };
    // What a reference to a snapshot is called is another in each run.
    let line = line.or_else(ours).unwrap_or("?");
    match line.split_once(" of ref ") {
        Some((before, behind)) => {
            let rest = behind.split_once(": ").map_or("", |(_, rest)| rest);
            format!("{before}: {rest}")
        }
        None => line.to_owned(),
    }
}

/// The lines of what differs in files: their names begin with a slash.
fn files_of(told: &str) -> String {
    let end = told.lines().take_while(|line| line.starts_with(['/', ' ']));
    end.map(|line| format!("{line}\n")).collect()
}

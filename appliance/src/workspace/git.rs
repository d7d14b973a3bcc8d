//! Cloning a repository with the host's git.
//!
//! The clone is made beside its place and renamed, so that `repo` is whole or missing. What git is
//! given comes from `config::repository`, which lets no option and no program through; a password
//! reaches it by the environment only. It never asks: there is nobody to answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use config::repository::login;
use config::repository::{RepoUrl, Transport};
use unpacker::progress::{Cancel, Event};

use super::backend::Clock;
use super::failure::{self, Class, Fault, Stage};
use super::lifecycle::Tail;
use super::runner::{DEFAULT_PATH, Invocation, Runner};
use crate::progress::Reporter;

/// The clone's name inside its volume.
pub const REPOSITORY: &str = "repo";
const UNFINISHED: &str = ".cloning";

/// What of the person's environment git and ssh need.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_ASKPASS",
    "SSH_ASKPASS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// A clone to be made.
#[derive(Debug, Clone, Copy)]
pub struct Clone<'a> {
    pub url: &'a RepoUrl,
    pub volume: &'a Path,
    /// Zero for the whole history.
    pub depth: u32,
    /// The person's environment.
    pub env: &'a BTreeMap<String, String>,
}

/// The tools of a clone.
pub struct Tools<'a> {
    pub runner: &'a dyn Runner,
    pub clock: &'a dyn Clock,
    pub progress: &'a Reporter,
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}

/// Clones into `<volume>/repo`; a network that fails is tried again (requirement D11).
pub fn clone(wanted: &Clone<'_>, tools: &Tools<'_>) -> Result<PathBuf, Fault> {
    let place = wanted.volume.join(REPOSITORY);
    let mut attempt = 0;
    while let Err(fault) = attempt_clone(wanted, tools) {
        let delay = failure::delay(fault.class, attempt, tools.clock.random());
        let Some(delay) = delay else {
            return Err(fault.at(Stage::Clone));
        };
        tools.progress.event(Event::Warning {
            text: format!("{fault}; trying again in {:.1} s", delay.as_secs_f32()),
        });
        tools.clock.sleep(delay);
        attempt += 1;
    }
    Ok(place)
}

/// Throws a clone away.
pub fn discard(volume: &Path) -> Result<(), Fault> {
    remove(&volume.join(REPOSITORY))
}

/// Whether the clone is there; it is whole when it is.
pub fn exists(volume: &Path) -> bool {
    volume.join(REPOSITORY).is_dir()
}

fn attempt_clone(wanted: &Clone<'_>, tools: &Tools<'_>) -> Result<(), Fault> {
    tools.cancel.check()?;
    let unfinished = wanted.volume.join(UNFINISHED);
    remove(&unfinished)?;
    let mut tail = Tail::default();
    let mut output = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        tail.push(&text);
        tools.progress.event(Event::Output {
            stderr: true,
            text,
            step: None,
        });
    };
    let result = tools
        .runner
        .run(&invocation(wanted), &mut output, tools.cancel);
    let failed = match result {
        Ok(0) => return finish(wanted.volume, &unfinished),
        Ok(code) => explain(wanted.url, code, tail.lines()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => missing(),
        Err(error) => Fault::io("cannot run git", &error),
    };
    // What git left half-made goes; the fault that matters is git's.
    let _ = remove(&unfinished);
    tools.cancel.check()?;
    Err(failed)
}

/// A clone under its final name is whole, also after a power cut: git does not sync what it writes.
fn finish(volume: &Path, unfinished: &Path) -> Result<(), Fault> {
    let synced = File::open(volume).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
    synced
        .and_then(|()| std::fs::rename(unfinished, volume.join(REPOSITORY)))
        .and_then(|()| File::open(volume)?.sync_all())
        .map_err(|error| Fault::io("cannot put the clone in its place", &error))
}

fn remove(path: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io(
            format!("cannot remove {}", path.display()),
            &error,
        )),
        _ => Ok(()),
    }
}

/// The command line (requirement D1: shallow).
pub fn invocation(wanted: &Clone<'_>) -> Invocation {
    let mut args: Vec<String> = ["git", "-c", "protocol.ext.allow=never", "clone"]
        .map(str::to_owned)
        .to_vec();
    if wanted.depth > 0 {
        args.extend(["--depth".to_owned(), wanted.depth.to_string()]);
    }
    if wanted.url.transport() == Transport::Local {
        // Otherwise git takes a local path for a reason to ignore the depth and to link files.
        args.push("--no-local".to_owned());
    }
    if let Some(branch) = wanted.url.branch() {
        args.extend(["--branch".to_owned(), branch.as_str().to_owned()]);
    }
    args.extend(["--", wanted.url.address(), UNFINISHED].map(str::to_owned));
    Invocation {
        args,
        env: environment(wanted),
        cwd: wanted.volume.to_owned(),
    }
}

fn environment(wanted: &Clone<'_>) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = PASSED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), wanted.env.get(*name)?.clone())))
        .collect();
    let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
    if !wanted.env.contains_key("PATH") {
        set("PATH", DEFAULT_PATH);
    }
    // Its messages are read by `classify`.
    set("LC_ALL", "C");
    set("GIT_TERMINAL_PROMPT", "0");
    if !["GIT_SSH", "GIT_SSH_COMMAND"]
        .iter()
        .any(|name| wanted.env.contains_key(*name))
    {
        set("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
    }
    env.extend(login::variables(wanted.url.login_settings()));
    env
}

fn missing() -> Fault {
    Fault::new(Class::NotFound, "git is not installed on this host")
        .suggest("Install git, or clone the repository elsewhere and run `devpod up FOLDER`.")
}

fn explain(url: &RepoUrl, code: i32, lines: Vec<String>) -> Fault {
    let (class, suggestion) = classify(&lines.join("\n"), url.transport());
    let mut fault = Fault::new(
        class,
        format!("cannot clone {url} (git's exit code {code})"),
    );
    // Git's last complaint is the reason; the hints that it prints after it are not.
    let reason = lines.iter().rev().find_map(|line| {
        line.strip_prefix("fatal: ")
            .or(line.strip_prefix("error: "))
    });
    fault.causes.extend(reason.map(str::to_owned));
    fault.suggestion = suggestion.map(str::to_owned);
    fault.with_logs(lines)
}

/// What git's words mean, the specific before the general; tried in order.
const MEANINGS: &[(&[&str], Class, Option<&str>)] = &[
    (
        &["No space left on device", "Disk quota exceeded"],
        Class::Resources,
        Some("Free some space on the disk and run the same command again."),
    ),
    (
        &["Remote branch", "Could not find remote branch"],
        Class::NotFound,
        Some("Name a branch or tag that exists with --branch."),
    ),
    (
        &["Host key verification failed"],
        Class::Permission,
        Some("Connect once with ssh to that host, so that its key becomes known."),
    ),
    (
        &[
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "Permission denied (",
            "terminal prompts disabled",
            "returned error: 401",
            "returned error: 403",
            "Access denied",
            "HTTP Basic: Access denied",
        ],
        Class::Permission,
        Some(
            "Set up a credential helper for https (git config credential.helper), or load your \
             key for ssh (ssh-add), and check with `git ls-remote URL`.",
        ),
    ),
    (
        &["unable to update url base from redirection", "error: 30"],
        Class::Invalid,
        Some(
            "A password goes to the host of the address alone: write the address that the redirect leads to, as with `.git` at its end.",
        ),
    ),
    (
        &["dubious ownership"],
        Class::Permission,
        Some("Allow the folder with: git config --global --add safe.directory FOLDER"),
    ),
    (
        &["certificate verification failed", "SSL certificate problem"],
        Class::Permission,
        Some(
            "Name the authority that signed the server's certificate: GIT_SSL_CAINFO=/path/to/ca.pem.",
        ),
    ),
    (
        &[
            "Could not resolve host",
            "Temporary failure in name resolution",
            "Connection timed out",
            "Connection refused",
            "Connection reset",
            "Network is unreachable",
            "No route to host",
            "Failed to connect",
            "Could not connect",
            "early EOF",
            "RPC failed",
            "unexpected disconnect",
            "Operation timed out",
            "returned error: 5",
            "SSL_ERROR",
            "gnutls_handshake",
            "Operation too slow",
        ],
        Class::Network,
        Some("Check the network, the proxy and the address, and run the same command again."),
    ),
    (
        &[
            "Repository not found",
            "does not exist",
            "does not appear to be a git repository",
            "not found",
            "no such repository",
        ],
        Class::NotFound,
        Some(
            "Check the address; a private repository answers the same when credentials are missing.",
        ),
    ),
];

fn classify(output: &str, transport: Transport) -> (Class, Option<&'static str>) {
    let found = MEANINGS
        .iter()
        .find(|(words, ..)| words.iter().any(|word| output.contains(word)));
    match found {
        Some((_, class, suggestion)) => (*class, *suggestion),
        // ssh's own death without a word that we know.
        None if transport == Transport::Ssh && output.contains("Could not read from remote") => (
            Class::Permission,
            Some("Check with `ssh -T` that the host lets you in."),
        ),
        None => (Class::Internal, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::backend::SystemClock;
    use crate::workspace::runner::HostRunner;
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use unpacker::container::launch::Launcher;

    fn url(text: &str) -> RepoUrl {
        text.parse().unwrap()
    }

    fn environment_of(url: &RepoUrl) -> (Vec<String>, Vec<(String, String)>) {
        let env = BTreeMap::from([
            ("PATH".to_owned(), "/bin".to_owned()),
            ("LD_PRELOAD".to_owned(), "/x".to_owned()),
        ]);
        let wanted = Clone {
            url,
            volume: Path::new("/v"),
            depth: 1,
            env: &env,
        };
        let invocation = invocation(&wanted);
        (invocation.args, invocation.env)
    }

    #[test]
    fn the_command_line() {
        for (text, expected) in [
            (
                "https://h/a@main",
                "git -c protocol.ext.allow=never clone --depth 1 --branch main -- https://h/a .cloning",
            ),
            (
                "git@h:a",
                "git -c protocol.ext.allow=never clone --depth 1 -- git@h:a .cloning",
            ),
            (
                "/srv/a.git",
                "git -c protocol.ext.allow=never clone --depth 1 --no-local -- /srv/a.git .cloning",
            ),
        ] {
            let (args, env) = environment_of(&url(text));
            assert_eq!(args.join(" "), expected);
            let has = |name: &str, value: &str| env.contains(&(name.into(), value.into()));
            assert!(has("GIT_TERMINAL_PROMPT", "0") && has("PATH", "/bin"));
            assert!(!env.iter().any(|(name, _)| name == "LD_PRELOAD"));
        }
    }

    #[test]
    fn a_password_is_no_argument() {
        let (args, env) = environment_of(&url("https://me:hush@h/a"));
        assert!(!args.join(" ").contains("hush"));
        let has = |name: &str, value: &str| env.contains(&(name.into(), value.into()));
        assert!(has("GIT_CONFIG_KEY_0", "http.https://h/.extraheader"));
        assert!(has(
            "GIT_CONFIG_VALUE_0",
            "Authorization: basic bWU6aHVzaA=="
        ));
        assert!(has("GIT_CONFIG_COUNT", "2"));
    }

    #[test]
    fn what_gits_words_mean() {
        use Class::{Internal, Network, NotFound, Permission, Resources};
        for (output, class) in [
            (
                "fatal: unable to access 'https://h/': Could not resolve host: h",
                Network,
            ),
            (
                "fatal: unable to access 'https://h/': The requested URL returned error: 503",
                Network,
            ),
            (
                "fatal: unable to access 'https://h/': The requested URL returned error: 403",
                Permission,
            ),
            (
                "fatal: unable to access 'https://h/': server certificate verification failed. CAfile: none",
                Permission,
            ),
            (
                "fatal: unable to access 'https://h/': SSL certificate problem: self-signed certificate",
                Permission,
            ),
            (
                "fatal: could not read Username for 'https://h': terminal prompts disabled",
                Permission,
            ),
            (
                "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                Permission,
            ),
            (
                "Host key verification failed.\nfatal: Could not read from remote",
                Permission,
            ),
            (
                "fatal: Remote branch x not found in upstream origin",
                NotFound,
            ),
            ("fatal: repository 'https://h/x/' not found", NotFound),
            (
                "fatal: '/x' does not appear to be a git repository",
                NotFound,
            ),
            ("fatal: write error: No space left on device", Resources),
            ("fatal: something new", Internal),
        ] {
            assert_eq!(classify(output, Transport::Https).0, class, "{output}");
        }
    }

    struct World {
        folder: tempfile::TempDir,
        lines: Arc<Mutex<String>>,
        progress: Reporter,
    }

    fn git(folder: &Path, args: &[&str]) {
        let status = Command::new("git")
            .args([
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@t",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(args)
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "git {args:?}");
    }

    /// A bare repository with two commits on `main` and a branch `dev`.
    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        std::fs::create_dir(&work).unwrap();
        std::fs::create_dir(folder.path().join("volume")).unwrap();
        git(&work, &["init", "-q"]);
        for text in ["one", "two"] {
            std::fs::write(work.join("file"), text).unwrap();
            git(&work, &["add", "."]);
            git(&work, &["commit", "-qm", text]);
        }
        git(&work, &["branch", "dev", "HEAD~1"]);
        git(
            folder.path(),
            &["clone", "-q", "--bare", "work", "bare.git"],
        );
        let lines = Arc::new(Mutex::new(String::new()));
        let log = Arc::clone(&lines);
        let progress: Reporter = Arc::new(move |event| {
            if let Event::Output { text, .. } | Event::Warning { text } = event {
                log.lock().unwrap().push_str(&text);
            }
        });
        World {
            folder,
            lines,
            progress,
        }
    }

    fn attempt(
        world: &World,
        url: &RepoUrl,
        depth: u32,
        cancel: &Cancel,
    ) -> Result<PathBuf, Fault> {
        let env: BTreeMap<_, _> = std::env::vars().collect();
        let volume = world.folder.path().join("volume");
        let wanted = Clone {
            url,
            volume: &volume,
            depth,
            env: &env,
        };
        let tools = Tools {
            runner: &HostRunner::new(Launcher::this()),
            clock: &SystemClock,
            progress: &world.progress,
            cancel,
        };
        clone(&wanted, &tools)
    }

    fn commits(folder: &Path) -> usize {
        let out = Command::new("git")
            .args(["rev-list", "--count", "HEAD"])
            .current_dir(folder)
            .output()
            .unwrap();
        String::from_utf8(out.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    #[test]
    fn clones_shallowly_by_path_and_by_url() {
        let world = world();
        let bare = world.folder.path().join("bare.git");
        std::fs::create_dir(world.folder.path().join("volume/.cloning")).unwrap();
        let place = attempt(&world, &url(bare.to_str().unwrap()), 1, &Cancel::default()).unwrap();
        assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "two");
        assert_eq!(commits(&place), 1);
        assert!(
            exists(place.parent().unwrap())
                && !world.folder.path().join("volume/.cloning").exists()
        );
        discard(place.parent().unwrap()).unwrap();
        let dev = url(&format!("file://{}@dev", bare.display()));
        let place = attempt(&world, &dev, 0, &Cancel::default()).unwrap();
        assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "one");
    }

    #[test]
    fn failures_say_what_to_do_and_leave_nothing() {
        let world = world();
        let bare = world.folder.path().join("bare.git");
        for (text, class, word) in [
            (
                format!("file://{}@nowhere", bare.display()),
                Class::NotFound,
                "nowhere",
            ),
            (format!("{}/none", bare.display()), Class::NotFound, "none"),
        ] {
            let fault = attempt(&world, &url(&text), 1, &Cancel::default()).unwrap_err();
            assert_eq!(
                (fault.class, fault.stage),
                (class, Some(Stage::Clone)),
                "{fault}"
            );
            assert!(fault.to_string().contains(word), "{fault}");
            assert!(fault.suggestion.is_some() && !fault.logs.is_empty());
        }
        let left = std::fs::read_dir(world.folder.path().join("volume"))
            .unwrap()
            .count();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_network_that_fails_is_tried_four_times() {
        struct Quick(Mutex<Vec<u128>>);
        impl Clock for Quick {
            fn now(&self) -> time::OffsetDateTime {
                time::OffsetDateTime::UNIX_EPOCH
            }
            fn sleep(&self, time: Duration) {
                self.0.lock().unwrap().push(time.as_millis());
            }
            fn random(&self) -> u64 {
                0
            }
        }
        // Nobody listens on a port that was just given back.
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let world = world();
        let clock = Quick(Mutex::default());
        let env = BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap())]);
        let url = url(&format!("http://127.0.0.1:{port}/a.git"));
        let volume = world.folder.path().join("volume");
        let wanted = Clone {
            url: &url,
            volume: &volume,
            depth: 1,
            env: &env,
        };
        let tools = Tools {
            runner: &HostRunner::new(Launcher::this()),
            clock: &clock,
            progress: &world.progress,
            cancel: &Cancel::default(),
        };
        let fault = clone(&wanted, &tools).unwrap_err();
        assert_eq!(fault.class, Class::Network, "{fault}");
        assert_eq!(*clock.0.lock().unwrap(), [1000, 2000, 4000]);
        assert!(
            world
                .lines
                .lock()
                .unwrap()
                .contains("trying again in 1.0 s")
        );
    }

    #[test]
    fn a_missing_git_and_a_cancelled_clone() {
        let world = world();
        let bare = url(world.folder.path().join("bare.git").to_str().unwrap());
        let volume = world.folder.path().join("volume");
        let env = BTreeMap::from([("PATH".to_owned(), "/nonexistent".to_owned())]);
        let wanted = Clone {
            url: &bare,
            volume: &volume,
            depth: 1,
            env: &env,
        };
        let cancel = Cancel::default();
        let tools = Tools {
            runner: &HostRunner::new(Launcher::this()),
            clock: &SystemClock,
            progress: &world.progress,
            cancel: &cancel,
        };
        let fault = clone(&wanted, &tools).unwrap_err();
        assert!(fault.message.contains("git is not installed"), "{fault}");

        cancel.cancel();
        let fault = attempt(&world, &bare, 1, &cancel).unwrap_err();
        assert_eq!(fault.class, Class::Cancelled);
    }
}

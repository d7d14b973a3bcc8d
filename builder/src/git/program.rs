//! The host's git, run on a leash: with an environment of ours alone, no configuration but what is said
//! here, no hooks, no questions, in a process group that ends with the build. Secrets go through its
//! environment, never through its words.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::repository::login;
use rustix::process::{Pid, Signal, kill_process_group};
use unpacker::progress::{Cancel, Cancelled};

use super::Tools;
use super::address::Repository;
use crate::room;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What git says is kept to these bounds: of lists, and of complaints.
const MAX_OUTPUT: u64 = 64 << 20;
const MAX_COMPLAINT: u64 = 64 << 10;
const POLL: Duration = Duration::from_millis(10);
/// Less room than this on the disk ends a fetch: what else is there must go on.
const ROOM: u64 = 64 << 20;
const ROOM_POLL: Duration = Duration::from_millis(500);
/// What a shell says of a program that it does not find.
const NOT_FOUND: i32 = 127;

/// Settings of every run.
const SETTINGS: [(&str, &str); 11] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("protocol.ext.allow", "never"),
    ("gc.auto", "0"),
    // A pack appears whole; loose objects come one by one, and a commit may then be there without its files.
    ("fetch.unpackLimit", "1"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("credential.helper", ""),
    ("safe.directory", "*"),
    ("init.defaultBranch", "main"),
];

/// How git may reach what it fetches.
#[derive(Clone, Default)]
pub struct Access {
    /// Proxies and authorities.
    pub variables: Vec<(String, String)>,
    /// The socket of the caller's agent.
    pub agent: Option<PathBuf>,
    /// Where the keys of hosts are known.
    pub known_hosts: Vec<PathBuf>,
    /// Secrets of the build by their ids.
    pub secrets: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("agent", &self.agent)
            .field("secrets", &self.secrets.keys())
            .finish_non_exhaustive()
    }
}

/// Why git did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("git is not installed on this host")]
    NotInstalled,
    #[error("git {verb} ended with {code}: {complaint}")]
    Failed {
        verb: String,
        code: i32,
        complaint: String,
        /// All that it said, of which the complaint is what people read.
        said: String,
    },
    #[error("cannot run git")]
    Io(#[from] io::Error),
    #[error("git said more than {MAX_OUTPUT} bytes")]
    TooMuch,
    #[error("a secret for git is no line of text")]
    Secret,
    #[error("there is less than {ROOM} bytes of room on the disk")]
    NoRoom,
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Git for one repository.
#[derive(Clone)]
pub(super) struct Program<'a> {
    cancel: &'a Cancel,
    /// Where it runs, and whose disk must not become full.
    folder: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl<'a> Program<'a> {
    pub(super) fn new(tools: &Tools<'a>, repository: &Repository) -> Result<Self, ProgramError> {
        let folder = tools.cache.join("git");
        std::fs::create_dir_all(&folder)?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
        let fixed = [
            ("PATH", path.as_os_str()),
            ("HOME", folder.as_os_str()),
            // Its complaints are read by people who look for help.
            ("LC_ALL", "C".as_ref()),
            ("GIT_TERMINAL_PROMPT", "0".as_ref()),
            ("GIT_CONFIG_NOSYSTEM", "1".as_ref()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".as_ref()),
            ("GIT_ALLOW_PROTOCOL", "https:http:ssh:git".as_ref()),
            ("GIT_LFS_SKIP_SMUDGE", "1".as_ref()),
        ];
        let own = |(name, value): (&str, &OsStr)| (name.into(), value.to_owned());
        let mut env: Vec<(OsString, OsString)> = fixed.into_iter().map(own).collect();
        let variables = tools.access.variables.iter();
        env.extend(variables.map(|(name, value)| (name.into(), value.into())));
        env.push(("GIT_SSH_COMMAND".into(), ssh(tools.access)));
        if let Some(agent) = &tools.access.agent {
            env.push(("SSH_AUTH_SOCK".into(), agent.into()));
        }
        let mut settings: Vec<(String, String)> = SETTINGS
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec();
        settings.extend(
            authorization(tools.access, repository)?
                .into_iter()
                .flatten(),
        );
        let settings = login::variables(settings);
        env.extend(
            settings
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        Ok(Self {
            cancel: tools.cancel,
            folder,
            env,
        })
    }

    /// The same in another folder.
    pub(super) fn within(&self, folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            ..self.clone()
        }
    }

    /// The same with further variables.
    pub(super) fn with(&self, variables: &[(&str, &OsStr)]) -> Self {
        let mut own = self.clone();
        let added = variables.iter();
        own.env
            .extend(added.map(|(name, value)| (name.into(), value.into())));
        own
    }

    /// Runs it to its end and answers what it says.
    pub(super) fn run(&self, words: &[&str]) -> Result<String, ProgramError> {
        // Files are made as git makes them for everybody: the daemon's own mask is its own matter.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "umask 022; exec git \"$@\"", "git"])
            .args(words);
        command
            .env_clear()
            .current_dir(&self.folder)
            .process_group(0);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let said = drain(child.stdout.take(), MAX_OUTPUT);
        let complained = drain(child.stderr.take(), MAX_COMPLAINT);
        let ended = self.wait(&mut child);
        if ended.is_err() {
            end(&mut child);
        }
        // The pipes end with the last process of the group.
        let (said, complained) = (said.join(), complained.join());
        let code = ended?;
        let text = |read: thread::Result<(Vec<u8>, bool)>| read.unwrap_or_default();
        let ((said, whole), (complaint, _)) = (text(said), text(complained));
        match code {
            0 if !whole => Err(ProgramError::TooMuch),
            0 => Ok(String::from_utf8_lossy(&said).into_owned()),
            NOT_FOUND => Err(ProgramError::NotInstalled),
            code => {
                let said = String::from_utf8_lossy(&complaint).into_owned();
                Err(ProgramError::Failed {
                    verb: words.first().copied().unwrap_or_default().to_owned(),
                    code,
                    complaint: complaint_of(&said),
                    said,
                })
            }
        }
    }

    fn wait(&self, child: &mut Child) -> Result<i32, ProgramError> {
        let mut looked = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            self.cancel.check()?;
            if looked.elapsed() > ROOM_POLL {
                let stat = rustix::fs::statvfs(&self.folder).map_err(io::Error::from)?;
                if room::is_less_than(ROOM, &stat) {
                    return Err(ProgramError::NoRoom);
                }
                looked = Instant::now();
            }
            thread::sleep(POLL);
        }
    }
}

/// Ends it with everything that it started.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// Reads to the end, and keeps so much; false where there was more.
fn drain(
    from: Option<impl Read + Send + 'static>,
    limit: u64,
) -> thread::JoinHandle<(Vec<u8>, bool)> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let Some(mut from) = from else {
            return (kept, true);
        };
        // What cannot be read was not said.
        let _ = from.by_ref().take(limit).read_to_end(&mut kept);
        let rest = io::copy(&mut from, &mut io::sink());
        (kept, rest.is_ok_and(|rest| rest == 0))
    })
}

/// What ssh's failures end with, whatever the reason.
const OF_SSH: &str = "Could not read from remote repository";

/// What matters of what git wrote, without control characters: a server has a say in it.
fn complaint_of(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let is_fatal = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ");
    let at = lines.iter().rposition(is_fatal);
    let at = at.or(lines.len().checked_sub(1));
    let line = at.map_or("it said nothing", |at| lines[at]);
    // The reason stands before it: ssh's right there, of a transfer that broke off what git said first.
    let reason = at.and_then(|at| match line.contains(OF_SSH) {
        true => at.checked_sub(1),
        false => lines.iter().position(is_fatal).filter(|first| *first < at),
    });
    let reason = reason.map(|at| lines[at]);
    let whole = reason.map_or(line.to_owned(), |reason| format!("{line} ({reason})"));
    let shown = whole.chars().filter(|c| !c.is_control());
    shown.take(400).collect()
}

/// Ssh that asks nobody, reads no configuration, and uses no keys but the agent's.
fn ssh(access: &Access) -> OsString {
    let mut command = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes \
                       -o IdentityFile=/dev/null"
        .to_owned();
    let files = access.known_hosts.iter().filter_map(|path| path.to_str());
    let files: Vec<String> = files
        .map(|path| path.replace(['\'', '"', ' '], "?"))
        .collect();
    if !files.is_empty() {
        command.push_str(&format!(" -o 'UserKnownHostsFile={}'", files.join(" ")));
    }
    command.into()
}

/// What the address itself says; else `GIT_AUTH_HEADER` and `GIT_AUTH_TOKEN`, also for one host alone (`GIT_AUTH_TOKEN.HOST`), as BuildKit takes
/// them. Only the repository's own host gets them.
fn authorization(
    access: &Access,
    repository: &Repository,
) -> Result<Option<[(String, String); 2]>, ProgramError> {
    let Some((scheme, rest)) = repository.address.split_once("://") else {
        return Ok(None);
    };
    if !matches!(scheme, "http" | "https") {
        return Ok(None);
    }
    let host = rest.split('/').next().unwrap_or_default();
    let origin = format!("{scheme}://{host}");
    if let Some(login) = &repository.login {
        return Ok(Some(login::settings(&origin, &login.header())));
    }
    let names = [
        (format!("GIT_AUTH_HEADER.{host}"), false),
        (format!("GIT_AUTH_TOKEN.{host}"), true),
        ("GIT_AUTH_HEADER".to_owned(), false),
        ("GIT_AUTH_TOKEN".to_owned(), true),
    ];
    let found = names
        .iter()
        .find_map(|(id, token)| Some((access.secrets.get(id)?, *token)));
    let Some((secret, is_token)) = found else {
        return Ok(None);
    };
    let text = std::str::from_utf8(secret)
        .map_err(|_| ProgramError::Secret)?
        .trim();
    if text.is_empty() || text.contains(char::is_control) {
        return Err(ProgramError::Secret);
    }
    let value = match is_token {
        true => format!(
            "basic {}",
            STANDARD.encode(format!("x-access-token:{text}"))
        ),
        false => text.to_owned(),
    };
    Ok(Some(login::settings(&origin, &value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_headers_of_one_host() {
        let repository = Repository::parse("https://h:1/a.git").unwrap();
        let access = |id: &str, value: &str| Access {
            secrets: BTreeMap::from([(id.to_owned(), value.as_bytes().to_vec())]),
            ..Access::default()
        };
        let header = |access: &Access, repository: &Repository| {
            let settings = authorization(access, repository).unwrap()?;
            Some(settings[0].clone())
        };
        let token = header(&access("GIT_AUTH_TOKEN", "abc\n"), &repository).unwrap();
        assert_eq!(token.0, "http.https://h:1/.extraheader");
        assert_eq!(token.1, "Authorization: basic eC1hY2Nlc3MtdG9rZW46YWJj");
        let with_login = Repository::parse("https://me:a%40b@h:1/a.git").unwrap();
        assert_eq!(with_login.address, "https://h:1/a.git");
        let login = header(&access("GIT_AUTH_TOKEN", "abc"), &with_login);
        assert_eq!(login.unwrap().1, "Authorization: basic bWU6YUBi");
        let token_alone = Repository::parse("https://token@h:1/a.git").unwrap();
        let login = header(&Access::default(), &token_alone).unwrap();
        assert_eq!(login.1, "Authorization: basic dG9rZW46");
        let own = header(&access("GIT_AUTH_HEADER.h:1", "Bearer x"), &repository);
        assert_eq!(own.unwrap().1, "Authorization: Bearer x");
        assert!(header(&access("GIT_AUTH_TOKEN.other", "x"), &repository).is_none());
        assert!(authorization(&access("GIT_AUTH_HEADER", "a\nb"), &repository).is_err());
        assert!(!format!("{:?}", access("T", "hush")).contains("hush"));
    }

    #[test]
    fn complaints_are_one_line() {
        assert_eq!(
            complaint_of("remote: x\nfatal: no\x1b[1m\n\n"),
            "fatal: no[1m"
        );
        assert_eq!(complaint_of(""), "it said nothing");
        assert_eq!(
            complaint_of("error: RPC failed\nfatal: early EOF\nfatal: no pack\n"),
            "fatal: no pack (error: RPC failed)"
        );
        let ssh = "Host key verification failed.\r\nfatal: Could not read from remote repository.\n\n\
                   Please make sure you have the correct access rights\n";
        assert_eq!(
            complaint_of(ssh),
            "fatal: Could not read from remote repository. (Host key verification failed.)"
        );
    }
}

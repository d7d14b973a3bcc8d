//! Git repositories as sources: of ADD, of the build context and of named contexts.
//!
//! `address` reads what people write (pure), `program` runs the host's git on a leash, and here a
//! repository becomes a commit, the commit is fetched into a bare repository below `<cache>/git`, and
//! its files come into a folder. What is fetched is hostile: no hook, filter, helper or configuration
//! of it or of anybody is ever run, and the folder is only read beneath a descriptor.

pub mod address;
pub mod program;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use unpacker::digest::sha256;
use unpacker::progress::{Cancel, Cancelled, Event, Progress};

use crate::fetch::Fetch;
use crate::request::BuildRequest;
use address::Repository;
use program::{Access, Program, ProgramError};

/// Submodules of one checkout, and how deep they may be nested.
const MAX_SUBMODULES: usize = 128;
const MAX_NESTING: usize = 8;
/// Secrets that are meant for git, and what they may be.
const AUTH: &str = "GIT_AUTH_";
const MAX_SECRET: u64 = 16 << 10;
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Who is to blame that a repository's files are not here, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    NotInstalled,
    /// Nobody answers, or the answer broke off.
    Network,
    /// The server does not let us in: by ssh, or with the login that was given.
    Ssh,
    Login,
    NotFound,
    Disk,
    Other,
}

/// What git's words mean, the specific before the general: that a transfer broke off is also said where the
/// server refused it, and that ssh could not read where nobody answered.
const MEANINGS: &[(&[&str], Blame)] = &[
    (
        &["No space left on device", "Disk quota exceeded"],
        Blame::Disk,
    ),
    (
        &[
            "could not read Username",
            "could not read Password",
            "Authentication failed",
            "returned error: 401",
            "returned error: 403",
            "RPC failed; HTTP 401",
            "RPC failed; HTTP 403",
        ],
        Blame::Login,
    ),
    (
        &[
            "Could not resolve host",
            "Temporary failure in name resolution",
            "Failed to connect",
            "Could not connect",
            "Couldn't connect",
            "Connection refused",
            "Connection timed out",
            "Connection reset",
            "Connection closed by",
            "Network is unreachable",
            "No route to host",
            "Operation timed out",
            "Empty reply from server",
            "transfer closed with",
            "Recv failure",
            "Send failure",
            "early EOF",
            "unexpected disconnect",
            "RPC failed",
            "returned error: 429",
            "returned error: 5",
        ],
        Blame::Network,
    ),
    (
        &[
            "Permission denied",
            "Host key",
            "host key",
            "Could not read from remote",
        ],
        Blame::Ssh,
    ),
    (
        &["not found", "not appear to be a git repository"],
        Blame::NotFound,
    ),
    (
        // Of a transfer whose end says no more.
        &[
            "hung up",
            "invalid index-pack output",
            "expected flush after",
        ],
        Blame::Network,
    ),
];

/// What git said, as far as it is git that said it: the server's own words are behind `remote:`.
fn meaning(said: &str) -> Blame {
    let is_gits = |line: &&str| !line.trim_start().starts_with("remote:");
    let lines: Vec<&str> = said.lines().filter(is_gits).collect();
    let is_said = |word: &&str| lines.iter().any(|line| line.contains(*word));
    let found = MEANINGS
        .iter()
        .find(|(words, _)| words.iter().any(&is_said));
    found.map_or(Blame::Other, |(_, blame)| *blame)
}

/// Why a repository's files are not here.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("it has no branch, tag or commit {0:?}")]
    NoReference(String),
    #[error("its commit is {actual}, and not {expected}")]
    Checksum { expected: String, actual: String },
    #[error("there is no commit {0} in it")]
    NoCommit(String),
    #[error("it has more than {MAX_SUBMODULES} submodules, or deeper ones than {MAX_NESTING}")]
    Submodules,
    #[error("there is no folder {0:?} in it")]
    NoFolder(String),
    #[error("cannot {what}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl GitError {
    /// Somebody wanted it to end.
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled(_) | Self::Program(ProgramError::Cancelled(_))
        )
    }

    /// Who is to blame.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Program(ProgramError::NotInstalled) => Blame::NotInstalled,
            Self::Program(ProgramError::NoRoom) => Blame::Disk,
            Self::Program(ProgramError::Failed { said, .. }) => meaning(said),
            _ => Blame::Other,
        }
    }

    /// What helps.
    pub fn suggestion(&self) -> Option<&'static str> {
        Some(match self.blame() {
            Blame::NotInstalled => {
                "install git on this host, or put a clone into the build context"
            }
            Blame::Ssh => {
                "give the build an ssh agent with --ssh default, and connect to the host once with \
                 ssh, so that its key is known"
            }
            Blame::Login => {
                "give the build a token for that host, as in --secret id=GIT_AUTH_TOKEN,env=TOKEN"
            }
            Blame::Network => "check the address, the network and the proxy, and build again",
            Blame::Disk => "free some space on the disk of the data folder, and build again",
            Blame::NotFound => {
                "check the address; a private repository answers the same when a token is missing"
            }
            Blame::Other => return None,
        })
    }

    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// How a build may reach repositories: with the secrets and the agent that it was given.
pub fn access(request: &BuildRequest, fetch: &dyn Fetch) -> io::Result<Access> {
    let mut secrets = BTreeMap::new();
    for (id, secret) in &request.secrets {
        if id.starts_with(AUTH) {
            secrets.insert(id.clone(), secret.read(MAX_SECRET)?);
        }
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    Ok(Access {
        variables: fetch.variables(),
        agent: request.ssh.get("default").cloned(),
        known_hosts: home
            .map(|home| home.join(".ssh/known_hosts"))
            .into_iter()
            .collect(),
        secrets,
    })
}

/// What a fetch is given to work with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// `<data>/cache`.
    pub cache: &'a Path,
    pub access: &'a Access,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub repository: Repository,
    /// Forty or sixty-four hexadecimal digits.
    pub commit: String,
    /// The whole name of the branch or tag that it was found by.
    pub(crate) name: Option<String>,
}

/// Which commit is meant now. One that is written out is not looked for.
pub fn resolve(repository: &Repository, tools: &Tools<'_>) -> Result<Resolved, GitError> {
    let resolved = |commit: &str, name: Option<String>| Resolved {
        repository: repository.clone(),
        commit: commit.to_owned(),
        name,
    };
    if let Some(commit) = repository.commit() {
        check(repository, &[&commit])?;
        return Ok(resolved(&commit, None));
    }
    let wanted = repository.reference.as_deref().unwrap_or("HEAD");
    let program = Program::new(tools, repository)?;
    let peeled = format!("{wanted}^{{}}");
    let address = repository.address.as_str();
    let listed = program.run(&["ls-remote", "--", address, wanted, &peeled])?;
    let rows: Vec<(&str, &str)> = listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(commit, _)| address::is_commit(commit))
        .collect();
    let find = |name: &str| rows.iter().find(|(_, found)| *found == name);
    let whole = format!("refs/{}", wanted.trim_start_matches("refs/"));
    let branch = format!("refs/heads/{}", wanted.trim_start_matches("refs/heads/"));
    let tag = format!("refs/tags/{}", wanted.trim_start_matches("refs/tags/"));
    // Git prefers a branch where a tag has the same name.
    let names = [wanted.to_owned(), whole, branch, tag];
    let found = names
        .into_iter()
        .find_map(|name| Some((find(&name)?.0, name)));
    let (object, name) = found.ok_or_else(|| GitError::NoReference(wanted.to_owned()))?;
    // An annotated tag is an object of its own, which leads to the commit.
    let commit = find(&format!("{name}^{{}}")).map_or(object, |(commit, _)| commit);
    check(repository, &[commit, object])?;
    Ok(resolved(commit, (name != "HEAD").then_some(name)))
}

fn check(repository: &Repository, found: &[&str]) -> Result<(), GitError> {
    let Some(expected) = &repository.checksum else {
        return Ok(());
    };
    match found
        .iter()
        .any(|commit| commit.starts_with(expected.as_str()))
    {
        true => Ok(()),
        false => Err(GitError::Checksum {
            expected: expected.clone(),
            actual: found.first().copied().unwrap_or_default().to_owned(),
        }),
    }
}

impl Resolved {
    /// Whether `.git` stays: of a part of a repository there is none.
    pub fn keeps_git(&self) -> bool {
        self.repository.keep_git && self.repository.folder.is_empty()
    }

    /// Puts its files below `to`, which is empty, and answers the folder of what is meant.
    pub fn check_out(&self, to: &Path, tools: &Tools<'_>) -> Result<PathBuf, GitError> {
        let program = Program::new(tools, &self.repository)?;
        let bare = Bare::open(self, tools, &program)?;
        bare.fetch(self, tools, &program)?;
        let modules = format!("{}:.gitmodules", self.commit);
        let has_modules = bare.git(&program, &["cat-file", "-e", &modules]).is_ok();
        tools.cancel.check()?;
        match self.keeps_git() || (self.repository.submodules && has_modules) {
            true => self.clone_into(to, &bare, &program)?,
            false => self.files_into(to, &bare, &program)?,
        }
        let folder = to.join(&self.repository.folder);
        // Only a folder of the repository itself; links are not followed out of it or at all.
        let is_folder = self
            .repository
            .folder
            .split('/')
            .scan(to.to_owned(), |at, part| {
                at.push(part);
                Some(fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()))
            });
        match self.repository.folder.is_empty() || is_folder.into_iter().all(|is| is) {
            true => Ok(folder),
            false => Err(GitError::NoFolder(self.repository.folder.clone())),
        }
    }

    /// Only the files: nothing of git's comes near them.
    fn files_into(&self, to: &Path, bare: &Bare, program: &Program<'_>) -> Result<(), GitError> {
        let index = tempfile::tempdir_in(&bare.folder).map_err(GitError::io("make an index"))?;
        let index = index.path().join("index");
        let of_index = program.with(&[
            ("GIT_DIR", bare.folder.as_os_str()),
            ("GIT_WORK_TREE", to.as_os_str()),
            ("GIT_INDEX_FILE", index.as_os_str()),
        ]);
        let of_index = of_index.within(to);
        of_index.run(&["read-tree", &self.commit])?;
        of_index.run(&["checkout-index", "--all", "--force"])?;
        Ok(())
    }

    /// A repository of its own, for those who want `.git`, and because submodules need one.
    fn clone_into(&self, to: &Path, bare: &Bare, program: &Program<'_>) -> Result<(), GitError> {
        let here = program.within(to);
        here.run(&["init", "--quiet", "--template=", "--", "."])?;
        here.run(&["remote", "add", "--", "origin", &self.repository.address])?;
        let from = bare.folder.display().to_string();
        let local = here.with(&[("GIT_ALLOW_PROTOCOL", "file".as_ref())]);
        local.run(&[
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--update-shallow",
            "--",
            &from,
            &self.commit,
        ])?;
        let name = self.name.as_deref().unwrap_or_default();
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            here.run(&["checkout", "--quiet", "--force", "-B", branch, &self.commit])?;
        } else {
            if name.starts_with("refs/tags/") {
                here.run(&["update-ref", name, &self.commit])?;
            }
            here.run(&["checkout", "--quiet", "--force", "--detach", &self.commit])?;
        }
        if self.repository.submodules {
            let mut left = MAX_SUBMODULES;
            submodules(to, &here, &mut left, 0)?;
        }
        let removed = match self.keeps_git() {
            true => forget_fetch(&to.join(".git")),
            false => remove_git(to),
        };
        removed.map_err(GitError::io("tidy a checkout"))
    }
}

/// Fetches the submodules of a checkout, level by level.
fn submodules(
    folder: &Path,
    program: &Program<'_>,
    left: &mut usize,
    depth: usize,
) -> Result<(), GitError> {
    let here = program.within(folder);
    let listed = here.run(&["ls-files", "--stage", "-z"])?;
    let links = listed.split('\0').filter(|row| row.starts_with("160000 "));
    let paths: Vec<&str> = links
        .filter_map(|row| Some(row.split_once('\t')?.1))
        .collect();
    if paths.is_empty() || !folder.join(".gitmodules").is_file() {
        return Ok(());
    }
    let enough = left.checked_sub(paths.len());
    *left = enough
        .filter(|_| depth < MAX_NESTING)
        .ok_or(GitError::Submodules)?;
    let update = ["submodule", "--quiet", "update", "--init", "--depth=1"];
    if here.run(&update).is_err() {
        // Some servers give only what a branch or a tag names, and all that leads there.
        here.run(&update[..4])?;
    }
    for path in paths {
        let inner = folder.join(path);
        if inner.join(".git").symlink_metadata().is_ok() {
            submodules(&inner, program, left, depth + 1)?;
        }
    }
    Ok(())
}

/// What of `.git` tells only how and when it was fetched.
fn forget_fetch(git: &Path) -> io::Result<()> {
    for file in ["FETCH_HEAD", "ORIG_HEAD"] {
        absent_is_fine(fs::remove_file(git.join(file)))?;
    }
    absent_is_fine(fs::remove_dir_all(git.join("logs")))
}

/// Removes `.git` of a checkout and of its submodules. Links are not followed.
fn remove_git(top: &Path) -> io::Result<()> {
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if entry.file_name() == ".git" {
                match kind.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false => fs::remove_file(entry.path())?,
                }
            } else if kind.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What is kept of a repository's objects; nobody else is at it while this lives.
struct Bare {
    folder: PathBuf,
    _lock: File,
}

impl Bare {
    fn open(
        resolved: &Resolved,
        tools: &Tools<'_>,
        program: &Program<'_>,
    ) -> Result<Self, GitError> {
        let all = tools.cache.join("git");
        let address = &resolved.repository.address;
        let name = sha256(address.as_bytes()).digest().to_owned();
        let folder = all.join(&name);
        let made = fs::create_dir_all(&all);
        let lock = made.and_then(|()| File::create(all.join(format!("{name}.lock"))));
        let lock = lock.map_err(GitError::io("lock a repository"))?;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) => thread::sleep(LOCK_POLL),
                Err(error) => return Err(GitError::io("lock a repository")(error.into())),
            }
            tools.cancel.check()?;
        }
        let written = fs::write(all.join(format!("{name}.id")), address);
        written.map_err(GitError::io("name a repository"))?;
        let bare = Self {
            folder,
            _lock: lock,
        };
        bare.tidy().map_err(GitError::io("tidy a repository"))?;
        if !bare.folder.join("HEAD").exists() {
            let path = bare.folder.display().to_string();
            program.run(&["init", "--quiet", "--bare", "--template=", "--", &path])?;
        }
        Ok(bare)
    }

    /// Removes what a git that was killed left: its locks would stop every later one. Nobody else is at it.
    fn tidy(&self) -> io::Result<()> {
        let packs = self.folder.join("objects/pack");
        for (folder, left) in [(&self.folder, ".lock"), (&packs, "tmp_")] {
            let entries = match fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if (name.ends_with(left) || name.starts_with(left)) && entry.file_type()?.is_file()
                {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Runs git in it.
    fn git(&self, program: &Program<'_>, words: &[&str]) -> Result<String, GitError> {
        let here = program.with(&[("GIT_DIR", self.folder.as_os_str())]);
        Ok(here.run(words)?)
    }

    fn has(&self, program: &Program<'_>, commit: &str) -> bool {
        let commit = format!("{commit}^{{commit}}");
        self.git(program, &["cat-file", "-e", &commit]).is_ok()
    }

    /// Has a commit here: alone, or by its name, or out of everything.
    fn fetch(
        &self,
        resolved: &Resolved,
        tools: &Tools<'_>,
        program: &Program<'_>,
    ) -> Result<(), GitError> {
        let commit = resolved.commit.as_str();
        if self.has(program, commit) {
            return Ok(());
        }
        let address = resolved.repository.address.as_str();
        let text = format!("[Builder] Fetching {address} at {commit}");
        tools.progress.event(Event::Line { text });
        let shallow = ["fetch", "--quiet", "--no-tags", "--depth=1", "--", address];
        let mut failed = None;
        for wanted in [Some(commit), resolved.name.as_deref()]
            .into_iter()
            .flatten()
        {
            let fetched = self.git(program, &[&shallow[..], &[wanted]].concat());
            tools.cancel.check()?;
            if self.has(program, commit) {
                return Ok(());
            }
            failed = fetched.err();
        }
        // A server that gives single commits to nobody: what no name leads to has to be looked for.
        let everything = [
            "fetch",
            "--quiet",
            "--depth=2147483647",
            "--force",
            "--",
            address,
            "+refs/heads/*:refs/heads/*",
            "+refs/tags/*:refs/tags/*",
        ];
        let fetched = self.git(program, &everything);
        tools.cancel.check()?;
        match (self.has(program, commit), fetched) {
            (true, _) => Ok(()),
            (false, Err(error)) => Err(failed.unwrap_or(error)),
            (false, Ok(_)) => Err(GitError::NoCommit(commit.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gits_words_mean() {
        use Blame::{Disk, Login, Network, NotFound, Other, Ssh};
        for (said, blame) in [
            (
                "error: RPC failed; curl 18 transfer closed with outstanding read data remaining\n\
                 error: 4036 bytes of body are still expected\n\
                 fetch-pack: unexpected disconnect while reading sideband packet\n\
                 fatal: early EOF\nfatal: fetch-pack: invalid index-pack output",
                Network,
            ),
            // Only a number of bytes.
            (
                "error: 4031 bytes of body are still expected\nfatal: early EOF",
                Network,
            ),
            ("fatal: fetch-pack: invalid index-pack output", Network),
            (
                "error: RPC failed; HTTP 403 curl 22 The requested URL returned error: 403\n\
                 fatal: expected flush after ref listing",
                Login,
            ),
            (
                "error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502\n\
                 fatal: expected flush after ref listing",
                Network,
            ),
            (
                "fatal: unable to access 'http://h/': Empty reply from server",
                Network,
            ),
            ("fatal: Authentication failed for 'http://h/a.git/'", Login),
            ("fatal: repository 'http://h/a.git/' not found", NotFound),
            (
                "ssh: connect to host h port 22: Connection refused\r\n\
                 fatal: Could not read from remote repository.",
                Network,
            ),
            (
                "git@h: Permission denied (publickey).\r\n\
                 fatal: Could not read from remote repository.",
                Ssh,
            ),
            (
                "error: unable to write file: No space left on device\nfatal: early EOF\n\
                 fatal: fetch-pack: invalid index-pack output",
                Disk,
            ),
            // What a server says of itself decides nothing.
            (
                "remote: No space left on device, error: returned error: 403\nfatal: early EOF",
                Network,
            ),
            ("remote: not found\nfatal: something new", Other),
            ("", Other),
        ] {
            assert_eq!(meaning(said), blame, "{said}");
        }
    }
}

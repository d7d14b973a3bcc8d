//! Credentials from this machine: files, environment and helper programs.
//!
//! The order and the formats live in `config::credentials`; here are the effects. A secret never
//! becomes an argument of a program, part of an error or of `Debug` output. A helper that is
//! missing or fails does not end the search: its name is noted and the next place is asked.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use config::credentials::helper::{self, BadAnswer};
use config::credentials::{Candidate, Credential, CredentialsError, Document, Secret, Sources};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_HELPER_OUTPUT: u64 = 64 * 1024;
const MAX_FILE: u64 = 1024 * 1024;

/// What a search found, and where it looked.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub credential: Option<Credential>,
    /// Where the credential is from.
    pub from: String,
    /// Every place that was asked.
    pub looked: Vec<String>,
}

/// Knows the credentials for registries. Asked once per host and scope, and again when a token
/// has expired.
pub trait Credentials: Send + Sync {
    fn find<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Answer, LookupError>>;
}

/// A place for credentials that exists but cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than {MAX_FILE} bytes or not text")]
    NotText { path: PathBuf },
    #[error(transparent)]
    Parse(#[from] CredentialsError),
}

/// Nobody: only public images.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

/// One known credential for one host (`--creds`, tests).
#[derive(Debug, Clone)]
pub struct Fixed {
    pub host: String,
    pub credential: Credential,
}

/// One variable of an environment.
pub type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The places of `config::credentials` on this machine.
#[derive(Clone)]
pub struct Machine {
    /// Also names, by `PATH`, where helper programs are looked for.
    pub env: Env,
    /// Folders whose `.env.local` and `.env` are read, usually the project's.
    pub dotenv_folders: Vec<PathBuf>,
    /// docker's and containers' files, the first asked first. A missing one is an empty one.
    pub files: Vec<PathBuf>,
    /// All variables of helper programs; `None` for this process's, with `PATH` from `env`.
    pub program_env: Option<Vec<(String, String)>>,
    /// How long a helper program may take: it may ask the user to unlock a keychain, but not for
    /// ever.
    pub patience: Duration,
}

impl Machine {
    /// This process's environment and the files that it leads to.
    pub fn detect(dotenv_folders: Vec<PathBuf>) -> Self {
        Self::with_env(Arc::new(|name| std::env::var(name).ok()), dotenv_folders)
    }

    /// `REGISTRY_AUTH_FILE`, docker's configuration, containers' files, as `env` places them.
    pub fn with_env(env: Env, dotenv_folders: Vec<PathBuf>) -> Self {
        let folder = |name: &str| {
            let value = env(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let home = folder("HOME");
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let docker = folder("DOCKER_CONFIG").or_else(|| below_home(".docker"));
        let files = [
            folder("REGISTRY_AUTH_FILE"),
            docker.map(|folder| folder.join("config.json")),
            folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            below_home(".config/containers/auth.json"),
        ];
        let files = files.into_iter().flatten().collect();
        Self {
            env,
            dotenv_folders,
            files,
            program_env: None,
            patience: HELPER_TIMEOUT,
        }
    }

    async fn dotenv(&self) -> Result<Vec<Document>, LookupError> {
        let mut documents = Vec::new();
        for folder in &self.dotenv_folders {
            for name in [".env.local", ".env"] {
                documents.extend(read(&folder.join(name)).await?);
            }
        }
        Ok(documents)
    }

    async fn documents(&self) -> Result<Vec<Document>, LookupError> {
        let mut documents = Vec::new();
        for path in &self.files {
            documents.extend(read(path).await?);
        }
        Ok(documents)
    }

    async fn search(&self, host: &str, repository: &str) -> Result<Answer, LookupError> {
        let dotenv = self.dotenv().await?;
        let files = self.documents().await?;
        let search = {
            let sources = Sources {
                env: &*self.env,
                dotenv: &dotenv,
                files: &files,
            };
            config::credentials::find(host, repository, &sources)?
        };
        let mut answer = Answer {
            looked: search.looked,
            ..Answer::default()
        };
        for candidate in search.candidates {
            match self.ask(&candidate).await {
                Ok(Some((credential, from))) => {
                    answer.credential = Some(credential);
                    answer.from = from;
                    break;
                }
                Ok(None) => {}
                Err(failure) => answer.looked.push(failure.to_string()),
            }
        }
        Ok(answer)
    }
}

/// The text of a file, `None` where there is none.
pub(super) async fn read(path: &Path) -> Result<Option<Document>, LookupError> {
    let failed = |source| LookupError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_FILE + 1);
    file.read_to_end(&mut bytes).await.map_err(failed)?;
    let not_text = || LookupError::NotText {
        path: path.to_owned(),
    };
    if bytes.len() as u64 > MAX_FILE {
        return Err(not_text());
    }
    let text = String::from_utf8(bytes).map_err(|_| not_text())?;
    Ok(Some(Document {
        from: path.display().to_string(),
        text: Secret::new(text),
    }))
}

/// Why one candidate yielded nothing. Never an error of the whole search.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{program} (cannot be run: {reason})")]
    Run { program: String, reason: io::Error },
    #[error("{program} (failed with {status})")]
    Failed { program: String, status: String },
    #[error("{program} ({reason})")]
    Answer { program: String, reason: BadAnswer },
    #[error("{program} (no answer within {} seconds)", after.as_secs())]
    TimedOut { program: String, after: Duration },
    #[error("{path} (cannot be read)")]
    KeyFile { path: String },
}

impl Machine {
    async fn ask(&self, candidate: &Candidate) -> Result<Option<(Credential, String)>, Unusable> {
        match candidate {
            Candidate::Ready { credential, from } => Ok(Some((credential.clone(), from.clone()))),
            Candidate::Helper { name, server, from } => {
                let program = name.program();
                let found = self.ask_helper(&program, server).await?;
                Ok(found.map(|credential| (credential, format!("{program} (named in {from})"))))
            }
            Candidate::EcrLogin { region } => {
                let arguments = ["ecr", "get-login-password", "--region", region];
                let output = self.run("aws", &arguments, "").await?;
                if !output.success {
                    return Err(output.failed("aws"));
                }
                let password = String::from_utf8_lossy(&output.stdout);
                let credential = Credential::basic("AWS", password.trim());
                Ok(Some((credential, "the AWS CLI".to_owned())))
            }
            Candidate::JsonKey { path } => {
                let key = read(Path::new(path)).await.ok().flatten();
                let key = key.ok_or_else(|| Unusable::KeyFile { path: path.clone() })?;
                let credential = Credential::basic("_json_key", key.text.expose());
                Ok(Some((credential, key.from)))
            }
        }
    }

    async fn ask_helper(
        &self,
        program: &str,
        server: &str,
    ) -> Result<Option<Credential>, Unusable> {
        let output = self.run(program, &["get"], server).await?;
        if output.success {
            return helper::parse_answer(&output.stdout).map_err(|reason| Unusable::Answer {
                program: program.to_owned(),
                reason,
            });
        }
        if helper::says_not_found(&output.stdout) {
            return Ok(None);
        }
        Err(output.failed(program))
    }

    /// Runs a program of `PATH` with `input` on its standard input. Its standard error is not kept:
    /// helpers have been seen to print secrets there.
    pub(super) async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<Output, Unusable> {
        let failed = |reason| Unusable::Run {
            program: program.to_owned(),
            reason,
        };
        let mut command = Command::new(program);
        if let Some(variables) = &self.program_env {
            command.env_clear().envs(variables.iter().cloned());
        }
        let child = command
            .args(arguments)
            .env("PATH", (self.env)("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        match tokio::time::timeout(self.patience, converse(child, input)).await {
            Ok(output) => output.map_err(failed),
            Err(_) => Err(Unusable::TimedOut {
                program: program.to_owned(),
                after: self.patience,
            }),
        }
    }
}

pub(super) struct Output {
    pub(super) success: bool,
    status: String,
    stdout: Vec<u8>,
}

impl Output {
    pub(super) fn failed(self, program: &str) -> Unusable {
        Unusable::Failed {
            program: program.to_owned(),
            status: self.status,
        }
    }
}

async fn converse(mut child: Child, input: &str) -> io::Result<Output> {
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input may have closed it: its answer still counts.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let mut stdout = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        let mut pipe = pipe.take(MAX_HELPER_OUTPUT);
        pipe.read_to_end(&mut stdout).await?;
    }
    let status = child.wait().await?;
    Ok(Output {
        success: status.success(),
        status: status.to_string(),
        stdout,
    })
}

// Implementations of the trait.

impl Credentials for Anonymous {
    fn find<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Answer, LookupError>> {
        Box::pin(async {
            Ok(Answer {
                looked: vec!["no place (anonymous access was asked for)".to_owned()],
                ..Answer::default()
            })
        })
    }
}

impl Credentials for Fixed {
    fn find<'a>(&'a self, host: &'a str, _: &'a str) -> BoxFuture<'a, Result<Answer, LookupError>> {
        let from = "the given credentials".to_owned();
        let credential = (host == self.host).then(|| self.credential.clone());
        Box::pin(async {
            Ok(Answer {
                credential,
                looked: vec![from.clone()],
                from,
            })
        })
    }
}

impl Credentials for Machine {
    fn find<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Answer, LookupError>> {
        Box::pin(self.search(host, repository))
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("dotenv_folders", &self.dotenv_folders)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

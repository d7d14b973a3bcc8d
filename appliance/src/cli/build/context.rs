//! Where a build's files and its Dockerfile come from: a folder, or standard input.
//!
//! A tar on standard input is unpacked into a folder of this command, which goes with it; it gets no
//! farther than a layer does.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use std::thread::JoinHandle;

use builder::copy::archive;
use builder::git::address::{self, Repository};
use tempfile::TempDir;
use tokio::sync::oneshot;
use unpacker::layer::Ownership;
use unpacker::layer::root::Root;
use unpacker::progress::{Cancel, Silent};

use crate::cli::build_args::Build;
use crate::cli::image::absolute;
use crate::error::{Failure, Kind, Outcome};

/// As the builder's own bound.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// What the daemon is told.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) context: PathBuf,
    pub(super) dockerfile: Option<PathBuf>,
    /// In place of a file.
    pub(super) text: Option<String>,
    /// The address of a git repository that is the context.
    pub(super) repository: Option<String>,
    _folder: Option<Unpacked>,
}

/// The folder of a tar. It goes with this, whatever its own folders allow.
#[derive(Debug)]
struct Unpacked {
    folder: TempDir,
    cancel: Cancel,
    work: Option<JoinHandle<()>>,
}

impl Unpacked {
    fn new() -> io::Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir()?,
            cancel: Cancel::default(),
            work: None,
        })
    }

    /// Unpacks on a thread of its own, so that the command hears that it is to end.
    async fn fill(&mut self, tar: Box<dyn Read + Send>) -> Outcome<()> {
        let root = Root::open(self.folder.path())?;
        let cancel = self.cancel.clone();
        let (done, outcome) = oneshot::channel();
        let work = std::thread::Builder::new().name("context".into());
        self.work = Some(work.spawn(move || {
            let (name, ownership) = (Path::new("-"), ownership());
            let unpacked = archive::unpack(tar, name, &root, None, ownership, &Silent, &cancel);
            // Nobody may be there any more to be told.
            let _ = done.send(unpacked);
        })?);
        let outcome = outcome.await;
        let outcome = outcome.map_err(|_| Failure::internal("the context's thread died"))?;
        outcome.map_err(|error| unusable(&error))
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(work) = self.work.take() {
            // How it ended was told.
            let _ = work.join();
        }
        let path = self.folder.path();
        if let (Some(above), Some(name)) = (path.parent(), path.file_name()) {
            // The folder's own removal, which comes next, cannot do more.
            let _ = Root::open(above).and_then(|above| above.remove_all(Path::new(name)));
        }
    }
}

/// What is begun goes when this is dropped.
pub(super) async fn given(build: &Build) -> Outcome<Given> {
    let is_stdin = |path: &Path| path.as_os_str() == "-";
    let file = build.file.as_deref();
    if is_stdin(&build.context) {
        if file.is_some_and(is_stdin) {
            return Err(Failure::invalid(
                "standard input is the context or the Dockerfile, not both",
            ));
        }
        return from_stdin(file).await;
    }
    if let Some(text) = build.context.to_str().filter(|text| address::is_git(text)) {
        return of_repository(text, file);
    }
    let context = folder(&build.context)?.canonicalize()?;
    let (dockerfile, text) = match file {
        Some(file) if is_stdin(file) => (None, Some(text_of(&mut stdin("Dockerfile")?)?)),
        Some(file) => {
            let path = place(file, &context)?;
            match is_ours_alone(&path, &context) {
                true => (None, Some(read_here(file).await?)),
                false => (Some(path), None),
            }
        }
        None => (None, None),
    };
    Ok(Given {
        context,
        dockerfile,
        text,
        repository: None,
        _folder: None,
    })
}

/// Where a Dockerfile is, with the context's own path before it if it is one of the context's: by whatever
/// way a path comes to the context, what lies behind is written by whoever wrote the context, and its links
/// are the builder's to judge. `context` is canonical.
fn place(file: &Path, context: &Path) -> Outcome<PathBuf> {
    let path = absolute(file)?;
    let is_plain = |rest: &&Path| rest.components().all(|part| part != Component::ParentDir);
    let is_context = |folder: &&Path| folder.canonicalize().is_ok_and(|found| found == context);
    let above = path.ancestors().skip(1).filter(is_context);
    let mut inside = above.filter_map(|folder| path.strip_prefix(folder).ok().filter(is_plain));
    if let Some(inside) = inside.next() {
        return Ok(context.join(inside));
    }
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    match parent.zip(path.file_name()) {
        Some((parent, name)) => Ok(parent.join(name)),
        // That it is missing is told where it is read.
        None => Ok(path),
    }
}

/// Whether only this process can read a Dockerfile: a pipe, as of `-f <(make-dockerfile)`, and what its own
/// descriptors are. In the context there is no such thing, whoever put it there.
fn is_ours_alone(path: &Path, context: &Path) -> bool {
    let of_process = ["/dev", "/proc"].iter().any(|own| path.starts_with(own));
    let is_pipe = || {
        path.metadata()
            .is_ok_and(|found| found.file_type().is_fifo())
    };
    !path.starts_with(context) && (of_process || is_pipe())
}

/// On a thread of its own: a pipe may never say anything.
async fn read_here(file: &Path) -> Outcome<String> {
    let path = file.to_owned();
    let read = move || {
        let opened = File::open(&path);
        let mut opened = opened.map_err(|error| {
            let message = format!("cannot read {}", path.display());
            Failure::because(Kind::Invalid, message, &error)
        })?;
        text_of(&mut opened)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Failure::internal(error.to_string()))?
}

/// The daemon fetches it; a Dockerfile is one of the repository's.
fn of_repository(text: &str, file: Option<&Path>) -> Outcome<Given> {
    let repository = Repository::parse(text);
    let repository = repository.map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    let (mut dockerfile, mut given) = (file.map(Path::to_owned), None);
    if file.is_some_and(|file| file.as_os_str() == "-") {
        dockerfile = None;
        given = Some(text_of(&mut stdin("Dockerfile")?)?);
    }
    if dockerfile.as_ref().is_some_and(|file| file.is_absolute()) {
        let failure =
            Failure::invalid("the Dockerfile of a repository is a file of the repository");
        return Err(failure.hint("Name it as it is called there: --file path/in/it."));
    }
    Ok(Given {
        // What it is called; the folder is the daemon's.
        context: PathBuf::from(repository.address),
        dockerfile,
        text: given,
        repository: Some(text.to_owned()),
        _folder: None,
    })
}

/// A folder; docker also takes addresses of files.
fn folder(written: &Path) -> Outcome<PathBuf> {
    let text = written.to_string_lossy();
    if ["http://", "https://"]
        .iter()
        .any(|start| text.starts_with(start))
    {
        return Err(Failure::invalid(format!(
            "the context {text} is an address, and not of a repository"
        ))
        .hint("A git repository's ends with .git: URL.git[#REF[:FOLDER]].")
        .hint("Fetch a file first, and pipe it in: `devpod build - < FILE`."));
    }
    let context = absolute(written)?;
    match context.is_dir() {
        true => Ok(context),
        false => Err(Failure::invalid(format!(
            "the context {} is not a folder",
            context.display()
        ))),
    }
}

fn stdin(what: &str) -> Outcome<io::StdinLock<'static>> {
    match io::stdin().is_terminal() {
        false => Ok(io::stdin().lock()),
        true => Err(
            Failure::invalid(format!("there is no {what} on standard input"))
                .hint("Pipe one in: `devpod build - < FILE`."),
        ),
    }
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> Failure {
    let message = "cannot use the context on standard input";
    Failure::because(Kind::Invalid, message, error)
}

/// All of standard input, in a file without a name.
async fn spooled() -> Outcome<File> {
    let spool = || -> Outcome<File> {
        let mut spooled = tempfile::tempfile()?;
        io::copy(&mut stdin("context")?, &mut spooled)?;
        Ok(rewound(spooled)?)
    };
    let spooled = tokio::task::spawn_blocking(spool).await;
    spooled.map_err(|error| Failure::internal(error.to_string()))?
}

/// An archive is the context; anything else is the Dockerfile of an empty one.
async fn from_stdin(file: Option<&Path>) -> Outcome<Given> {
    let spooled = spooled().await?;
    let mut folder = Unpacked::new()?;
    let text = match archive::open(spooled.try_clone()?).map_err(|error| unusable(&error))? {
        Some(tar) => {
            folder.fill(tar).await?;
            None
        }
        None => Some(text_of(&mut rewound(spooled)?)?),
    };
    if let (Some(file), Some(_)) = (file, &text) {
        let message = "standard input is a Dockerfile, and there is no other in an empty context";
        return Err(Failure::invalid(message).hint(format!(
            "Leave --file {} out, or pipe a tar in.",
            file.display()
        )));
    }
    Ok(Given {
        context: folder.folder.path().to_owned(),
        dockerfile: file.map(Path::to_owned),
        text,
        repository: None,
        _folder: Some(folder),
    })
}

/// Of a context no owners count, so where they cannot be set nothing is noted in their place.
fn ownership() -> Ownership {
    match Ownership::detect() {
        Ownership::Mapped => Ownership::Mapped,
        Ownership::Recorded | Ownership::Mine => Ownership::Mine,
    }
}

fn rewound(mut file: File) -> io::Result<File> {
    file.seek(SeekFrom::Start(0)).map(|_| file)
}

fn text_of(from: &mut dyn Read) -> Outcome<String> {
    let mut bytes = Vec::new();
    from.take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_DOCKERFILE {
        return Err(Failure::invalid("the Dockerfile is too large")
            .hint("A tar is recognised by its first entry, compressed or not."));
    }
    String::from_utf8(bytes).map_err(|_| Failure::invalid("the Dockerfile is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_of_the_context_is_seen_by_every_way_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let context = top.join("data/u/repo");
        fs::create_dir_all(context.join("sub")).unwrap();
        fs::create_dir_all(top.join("outside")).unwrap();
        symlink("data", top.join("home")).unwrap();
        symlink(context.join("sub"), top.join("part")).unwrap();
        symlink(top.join("outside"), context.join("out")).unwrap();
        symlink(top.join("outside/key"), context.join("Dockerfile")).unwrap();
        for (file, expected) in [
            ("data/u/repo/Dockerfile", "data/u/repo/Dockerfile"),
            ("home/u/repo/Dockerfile", "data/u/repo/Dockerfile"),
            ("home/u/repo/sub/Dockerfile", "data/u/repo/sub/Dockerfile"),
            ("home/u/repo/sub/../Dockerfile", "data/u/repo/Dockerfile"),
            ("part/Dockerfile", "data/u/repo/sub/Dockerfile"),
            // A link of the context is not the caller's way out of it.
            ("home/u/repo/out/Dockerfile", "data/u/repo/out/Dockerfile"),
            // The caller's own files.
            ("outside/Dockerfile", "outside/Dockerfile"),
            ("data/u/repo/../Dockerfile", "data/u/Dockerfile"),
            ("home/u/Dockerfile", "data/u/Dockerfile"),
            ("none/Dockerfile", "none/Dockerfile"),
        ] {
            let found = place(&top.join(file), &context).unwrap();
            assert_eq!(found, top.join(expected), "{file}");
        }
    }
}

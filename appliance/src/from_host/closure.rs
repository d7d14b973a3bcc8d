//! The libraries that a program loads, found as the dynamic loader would find them.
//!
//! Source: ld.so(8): breadth first; DT_RPATH of the object and of whoever loaded it unless a
//! DT_RUNPATH is there, then DT_RUNPATH, then the configured directories, then the built-in ones; a
//! library of another architecture is passed over. musl (ldso(7) of musl): both paths of all
//! loaders, then its own path; libc, libpthread and so on are the interpreter itself. LD_LIBRARY_PATH
//! is not looked at, because it does not come along into an image. Nothing is executed.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::elf::{self, Elf, ElfError};
use super::host::{Host, Kind};
use super::search;

/// Objects in one program's closure. Office suites need some 300.
const OBJECT_LIMIT: usize = 2048;
/// Names that musl's loader takes for itself, after `lib` and before a dot.
const MUSL_RESERVED: [&[u8]; 7] = [b"c", b"pthread", b"rt", b"m", b"dl", b"util", b"xnet"];

/// Why a program's libraries cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    #[error(
        "{} needs the library {library}, which is in none of the loader's directories",
        program.display()
    )]
    MissingLibrary { program: PathBuf, library: String },
    #[error("{} needs the loader {}, which does not exist", program.display(), interpreter.display())]
    MissingLoader {
        program: PathBuf,
        interpreter: PathBuf,
    },
    #[error("{} {source}", path.display())]
    Elf { path: PathBuf, source: ElfError },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} loads more than {OBJECT_LIMIT} libraries", program.display())]
    TooMany { program: PathBuf },
}

/// A file that must come along, named as the loader names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// May be or lead through symbolic links.
    pub path: PathBuf,
    /// DT_NEEDED's text; `None` for the loader itself.
    pub name: Option<String>,
    /// Found only because of `/etc/ld.so.conf`: without its cache the loader would not find it.
    pub by_configuration: bool,
}

/// What the program loads, or that it loads nothing because it is another kind of file.
pub type Closure = Option<Vec<Library>>;

/// Finds closures on one host. Files are parsed once.
#[derive(Debug)]
pub struct Loader<'a> {
    host: &'a Host,
    configured: Vec<PathBuf>,
    parsed: HashMap<PathBuf, Option<Arc<Elf>>>,
}

/// A loaded object: the program or a library.
struct Object {
    path: PathBuf,
    elf: Arc<Elf>,
    loaded_by: Option<usize>,
}

/// How one program's loader behaves.
struct Rules {
    interpreter: Option<PathBuf>,
    /// musl's path; `None` for glibc.
    musl: Option<Vec<PathBuf>>,
    defaults: Vec<PathBuf>,
}

impl<'a> Loader<'a> {
    pub fn new(host: &'a Host) -> io::Result<Self> {
        Ok(Self {
            host,
            configured: search::configured(host)?,
            parsed: HashMap::new(),
        })
    }

    /// The closure of the program at `path`, which must be free of symbolic links: `$ORIGIN` is its
    /// folder. The loader comes first, then libraries in the order of loading. `None` when the file
    /// is not ELF.
    pub fn closure(&mut self, path: &Path) -> Result<Closure, ClosureError> {
        let Some(program) = self.parse(path)? else {
            return Ok(None);
        };
        let rules = self.rules(path, &program)?;
        let mut run = Run::new(path, program, &rules);
        let mut at = 0;
        while at < run.objects.len() {
            for name in run.objects[at].elf.needed.clone() {
                self.load(&mut run, at, &name, &rules)?;
            }
            at += 1;
            if run.objects.len() > OBJECT_LIMIT {
                let program = path.to_owned();
                return Err(ClosureError::TooMany { program });
            }
        }
        Ok(Some(run.found))
    }

    fn rules(&mut self, path: &Path, program: &Elf) -> Result<Rules, ClosureError> {
        let interpreter = program
            .interpreter
            .as_deref()
            .map(|text| PathBuf::from(OsStr::from_bytes(text)));
        let mut musl = None;
        if let Some(file) = &interpreter {
            if self.parse(file)?.is_none() {
                return Err(ClosureError::MissingLoader {
                    program: path.to_owned(),
                    interpreter: file.clone(),
                });
            }
            let name = file.file_name().unwrap_or_default().as_bytes();
            if name.starts_with(b"ld-musl-") {
                let path = search::musl(self.host, file).map_err(|source| ClosureError::Read {
                    path: file.clone(),
                    source,
                })?;
                musl = Some(path);
            }
        }
        Ok(Rules {
            interpreter,
            musl,
            defaults: search::defaults(program.architecture),
        })
    }

    /// Loads what object `by` needs under `name`, unless it is loaded already.
    fn load(
        &mut self,
        run: &mut Run,
        by: usize,
        name: &[u8],
        rules: &Rules,
    ) -> Result<(), ClosureError> {
        if run.is_loaded(name) || (rules.musl.is_some() && is_musl_itself(name)) {
            return Ok(());
        }
        let architecture = run.objects[by].elf.architecture;
        for (folder, by_configuration) in self.folders(run, by, name, rules) {
            let path = folder.join(OsStr::from_bytes(name));
            let Some(elf) = self.parse(&path)? else {
                continue;
            };
            if elf.architecture == architecture {
                run.add(by, name, path, elf, by_configuration);
                return Ok(());
            }
        }
        Err(ClosureError::MissingLibrary {
            program: run.objects[by].path.clone(),
            library: String::from_utf8_lossy(name).into_owned(),
        })
    }

    /// Where to look, in order; the flag says that the folder is known by configuration only.
    fn folders(&self, run: &Run, by: usize, name: &[u8], rules: &Rules) -> Vec<(PathBuf, bool)> {
        if name.contains(&b'/') {
            // A needed name with a slash is a path; joining an absolute one replaces the folder.
            return vec![(PathBuf::from("/"), false)];
        }
        let own = run.own_folders(by, rules.musl.is_some());
        let mut folders: Vec<_> = own.into_iter().map(|folder| (folder, false)).collect();
        match &rules.musl {
            Some(path) => folders.extend(path.iter().map(|folder| (folder.clone(), false))),
            None => {
                let known = |folder: &PathBuf| rules.defaults.contains(folder);
                let configured = self.configured.iter();
                folders.extend(configured.map(|folder| (folder.clone(), !known(folder))));
                folders.extend(rules.defaults.iter().map(|folder| (folder.clone(), false)));
            }
        }
        folders
    }

    /// The ELF file at a path, following links; `None` where there is none.
    fn parse(&mut self, path: &Path) -> Result<Option<Arc<Elf>>, ClosureError> {
        if let Some(known) = self.parsed.get(path) {
            return Ok(known.clone());
        }
        let read = |source| ClosureError::Read {
            path: path.to_owned(),
            source,
        };
        let parsed = match self.host.stat(path).map_err(read)? {
            Some(meta) if meta.kind == Kind::File => {
                let file = self.host.open_file(path).map_err(read)?;
                elf::parse(file).map_err(|source| ClosureError::Elf {
                    path: path.to_owned(),
                    source,
                })?
            }
            _ => None,
        };
        let parsed = parsed.map(Arc::new);
        self.parsed.insert(path.to_owned(), parsed.clone());
        Ok(parsed)
    }
}

/// One program being loaded.
struct Run {
    objects: Vec<Object>,
    /// Needed names, sonames and paths of what is loaded.
    names: HashSet<Vec<u8>>,
    found: Vec<Library>,
}

impl Run {
    fn new(path: &Path, elf: Arc<Elf>, rules: &Rules) -> Self {
        let mut names = HashSet::new();
        let mut found = Vec::new();
        if let Some(interpreter) = &rules.interpreter {
            // The loader is in memory already, whoever asks for it by its name.
            let name = interpreter.file_name().unwrap_or_default();
            names.insert(name.as_bytes().to_vec());
            found.push(Library {
                path: interpreter.clone(),
                name: None,
                by_configuration: false,
            });
        }
        let objects = vec![Object {
            path: path.to_owned(),
            elf,
            loaded_by: None,
        }];
        Self {
            objects,
            names,
            found,
        }
    }

    fn is_loaded(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }

    fn add(&mut self, by: usize, name: &[u8], path: PathBuf, elf: Arc<Elf>, configured: bool) {
        self.names.insert(name.to_vec());
        self.names.extend(elf.soname.clone());
        if !self.names.insert(path.as_os_str().as_bytes().to_vec()) {
            // The same file under another name.
            return;
        }
        self.found.push(Library {
            path: path.clone(),
            name: Some(String::from_utf8_lossy(name).into_owned()),
            by_configuration: configured,
        });
        self.objects.push(Object {
            path,
            elf,
            loaded_by: Some(by),
        });
    }

    /// Folders that the objects themselves name: RPATH up the chain of loaders, then RUNPATH.
    fn own_folders(&self, by: usize, musl: bool) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        let object = &self.objects[by];
        if musl || object.elf.runpath.is_empty() {
            let mut next = Some(by);
            while let Some(at) = next {
                let elf = &self.objects[at].elf;
                // An ancestor that has a RUNPATH has no say in glibc.
                if elf.runpath.is_empty() {
                    self.expand(at, &elf.rpath, &mut folders);
                } else if musl {
                    self.expand(at, &elf.runpath, &mut folders);
                }
                next = self.objects[at].loaded_by;
            }
        }
        if !musl {
            self.expand(by, &object.elf.runpath, &mut folders);
        }
        folders
    }

    /// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM`; entries that are not absolute then are dropped,
    /// because they would mean the current directory.
    fn expand(&self, at: usize, entries: &[Vec<u8>], folders: &mut Vec<PathBuf>) {
        let object = &self.objects[at];
        let origin = object.path.parent().unwrap_or(Path::new("/"));
        let architecture = object.elf.architecture;
        for entry in entries {
            let entry = replace(entry, b"ORIGIN", origin.as_os_str().as_bytes());
            let entry = replace(
                &entry,
                b"PLATFORM",
                search::platform(architecture).as_bytes(),
            );
            for lib in search::lib_names(architecture) {
                let folder = replace(&entry, b"LIB", lib.as_bytes());
                let path = PathBuf::from(OsStr::from_bytes(&folder));
                if path.is_absolute() && !folders.contains(&path) {
                    folders.push(path);
                }
            }
        }
    }
}

/// Replaces `$TOKEN` and `${TOKEN}`.
fn replace(text: &[u8], token: &[u8], value: &[u8]) -> Vec<u8> {
    let plain = [b"$", token].concat();
    let braced = [b"${", token, b"}"].concat();
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(byte) = rest.first() {
        if let Some(after) = rest.strip_prefix(braced.as_slice()) {
            out.extend_from_slice(value);
            rest = after;
        } else if let Some(after) = rest.strip_prefix(plain.as_slice()) {
            out.extend_from_slice(value);
            rest = after;
        } else {
            out.push(*byte);
            rest = &rest[1..];
        }
    }
    out
}

fn is_musl_itself(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"lib") else {
        return false;
    };
    let stem = rest.split(|byte| *byte == b'.').next().unwrap_or_default();
    stem.len() < rest.len() && MUSL_RESERVED.contains(&stem)
}

#[cfg(test)]
mod tests;
